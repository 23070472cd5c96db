//! A model of the argument in `stores.rs`: five slots, of which the last one is unclaimed and wanted by two
//! stores. Elections, appends and bindings happen at random, each with whom it reaches. What is committed
//! must stay.

use super::super::{Standing, standing};
use crate::planted::{Bug, plant};
use corelith_wire::StoreId;

const SLOTS: usize = 5;
const MAJORITY: usize = SLOTS / 2 + 1;
/// The slot of each replica: the last two want the same one.
const SLOT_OF: [usize; 6] = [0, 1, 2, 3, 4, 4];
const STEPS: usize = 40;

/// An entry of the log: its term, and the replica that it binds to the last slot.
type ModelEntry = (u64, Option<usize>);

#[derive(Clone, Debug, Default)]
struct ModelReplica {
    term: u64,
    leads: bool,
    log: Vec<ModelEntry>,
    committed: usize,
    /// How much of its log each replica has acknowledged to it.
    matched: [usize; 6],
}

/// A store for each replica.
fn store(replica: usize) -> StoreId {
    StoreId(replica as u128 + 10)
}

impl ModelReplica {
    fn slot(&self, slot: usize) -> StoreId {
        if slot < SLOTS - 1 {
            return store(slot);
        }
        let bound = self.log.iter().rev().find_map(|(_, binds)| *binds);
        bound.map_or(StoreId::UNCLAIMED, store)
    }

    fn standing(&self, replica: usize) -> Standing {
        standing(Some(self.slot(SLOT_OF[replica])), store(replica))
    }

    fn counts(&self, replica: usize) -> bool {
        self.standing(replica) == Standing::Member
    }

    fn last(&self) -> (u64, usize) {
        let term = self.log.last().map_or(0, |(term, _)| *term);
        (term, self.log.len())
    }

    /// Whether this replica, which is `me`, answers `peer`.
    fn answers(&self, me: usize, peer: usize) -> bool {
        self.standing(peer) != Standing::Stranger && self.standing(me) != Standing::Stranger
    }
}

struct BindingModel {
    random: u64,
    replicas: [ModelReplica; 6],
    committed: Vec<ModelEntry>,
    /// Whether a leader binds only after an entry of its own term is committed.
    is_careful: bool,
}

impl BindingModel {
    fn below(&mut self, bound: u64) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.random >> 33) % bound) as usize
    }

    /// `me` stands, and reaches those of `reached`.
    fn elect(&mut self, me: usize, reached: usize) {
        let mut candidate = self.replicas[me].clone();
        if !candidate.counts(me) {
            return;
        }
        let is_reached = |voter: &usize| *voter != me && reached & (1 << voter) != 0;
        let terms = (0..6).filter(is_reached).map(|one| self.replicas[one].term);
        // It would get there by standing again.
        candidate.term = terms.fold(candidate.term, u64::max) + 1;
        candidate.leads = false;
        let mut votes = 1;
        for voter in (0..6).filter(is_reached) {
            let replica = &mut self.replicas[voter];
            let knows = match replica.standing(me) {
                Standing::Unclaimed => candidate.last() > replica.last(),
                _ => candidate.last() >= replica.last(),
            };
            if replica.term < candidate.term && knows && replica.answers(voter, me) {
                replica.term = candidate.term;
                replica.leads = false;
                votes += usize::from(candidate.counts(voter));
            }
        }
        if votes >= MAJORITY {
            candidate.leads = true;
            candidate.log.push((candidate.term, None));
            candidate.matched = [0; 6];
        }
        self.replicas[me] = candidate;
    }

    /// `me` sends its log to `to`, and commits what a majority has.
    fn append(&mut self, me: usize, to: usize) -> Result<(), String> {
        let mut leader = self.replicas[me].clone();
        let follower = &mut self.replicas[to];
        let heard = leader.leads && follower.term <= leader.term && follower.answers(to, me);
        if !heard || me == to || !leader.counts(to) {
            return Ok(());
        }
        follower.term = leader.term;
        follower.leads = false;
        follower.log.clone_from(&leader.log);
        leader.matched[to] = leader.log.len();
        leader.matched[me] = leader.log.len();
        let has = |len: usize| {
            let counted = (0..6).filter(|one| leader.counts(*one) && leader.matched[*one] >= len);
            leader.log[len - 1].0 == leader.term && counted.count() >= MAJORITY
        };
        let committed = (1..=leader.log.len()).rev().find(|len| has(*len));
        if let Some(len) = committed {
            leader.committed = leader.committed.max(len);
            let log = &leader.log[..len];
            let common = log.len().min(self.committed.len());
            if log[..common] != self.committed[..common] {
                return Err(format!("{:?} replaces {:?}", log, self.committed));
            }
            if log.len() > common {
                self.committed = log.to_vec();
            }
        }
        self.replicas[me] = leader;
        Ok(())
    }

    /// `me` binds the last slot to one of the two stores.
    fn bind(&mut self, me: usize, claims: usize) {
        let leader = &mut self.replicas[me];
        let is_open = leader.slot(SLOTS - 1) == StoreId::UNCLAIMED;
        let of_own = leader.log[..leader.committed].last();
        let has_own = of_own.is_some_and(|(term, _)| *term == leader.term);
        if leader.leads && is_open && (has_own || !self.is_careful) {
            leader.log.push((leader.term, Some(claims)));
        }
    }

    fn run(seed: u64, is_careful: bool) -> Result<(), String> {
        let mut model = Self {
            random: seed,
            replicas: Default::default(),
            committed: Vec::new(),
            is_careful,
        };
        for _ in 0..STEPS {
            // Mostly the same two lead, each with a store of its own to bind.
            let me = match model.below(8) {
                7 => model.below(6),
                one => one % 2,
            };
            let reached = model.below(64);
            match model.below(3) {
                0 => model.elect(me, reached),
                1 => model.bind(me, 4 + me % 2),
                _ => {
                    for to in (0..6).filter(|to| reached & (1 << to) != 0) {
                        model.append(me, to)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[test]
fn what_is_committed_stays_whoever_is_bound() {
    let seeds = std::env::var("CORELITH_SIM_SEEDS").map(|seeds| seeds.parse().unwrap());
    for seed in 0..seeds.unwrap_or(20_000) {
        assert_eq!(BindingModel::run(seed, true), Ok(()), "seed {seed}");
    }
}

#[test]
fn what_the_argument_needs_is_needed() {
    let found =
        |is_careful: bool| (0..20_000).find(|seed| BindingModel::run(*seed, is_careful).is_err());
    let early = found(false);
    plant(Some(Bug::TrustAnyStore));
    let any = found(true);
    plant(None);
    println!("a binding before an entry of the own term: {early:?}, any store: {any:?}");
    assert!(early.is_some() && any.is_some());
}
