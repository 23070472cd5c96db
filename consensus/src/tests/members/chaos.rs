//! Members that come, go, are replaced, moved and wiped at random while clients work, on three to seven nodes, during cuts,
//! crashes and pauses; with every other seed logs are purged, so that who is new gets a snapshot. The history must be linearizable, no two replicas may hold the lease at once, whoever holds it must
//! have a majority that is bound to it, and in the end all members must hold the same.
//!
//! `CORELITH_SIM_SEEDS=2000 cargo test --release -p corelith-consensus members` runs more seeds;
//! `CORELITH_SIM_SEED=17` runs one.

use super::world::{Changed, World, place};
use crate::GroupMembers;
use crate::Options;
use crate::planted::planted;
use crate::tests::client::Client;
use crate::tests::cluster::Cluster;
use crate::tests::history::History;
use corelith_io::sim::SimConfig;
use corelith_shards::{NodeId, ReplicaId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const CLIENTS: u32 = 3;
const KEYS: u32 = 3;
const CHANGES: u32 = 7;
/// Fewer voters are not aimed at.
const VOTERS_MIN: usize = 2;
const VOTERS_MAX: usize = 5;
/// How long one change is tried while there are faults.
const TRY_FOR: Duration = Duration::from_secs(8);
/// How long one may take when there are none.
const END_WITHIN: Duration = Duration::from_secs(90);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seeds of one of the two tests below.
fn seeds(half: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("CORELITH_SIM_SEED") {
        return if half == 0 { seed..seed + 1 } else { 0..0 };
    }
    let each = number("CORELITH_SIM_SEEDS").unwrap_or(16).div_ceil(2);
    half * each..(half + 1) * each
}

struct Chaos {
    world: World,
    next_generation: u16,
    next_store: u128,
    /// A voter whose store was wiped, or that was dropped, until it is a member no more.
    lost: Option<ReplicaId>,
    has_faults: bool,
    has_snapshots: bool,
    wrong: Option<String>,
    /// Changes that were made.
    made: u32,
}

impl Chaos {
    fn of(cluster: Cluster) -> Self {
        Self {
            world: World::of(cluster),
            next_generation: 1,
            next_store: 100,
            lost: None,
            has_faults: true,
            has_snapshots: false,
            wrong: None,
            made: 0,
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.world.cluster
    }

    fn random(&self, bound: usize) -> usize {
        self.cluster().sim.random_below(bound as u64) as usize
    }

    /// Does something bad, or ends something bad.
    fn fault(&self) {
        let cluster = self.cluster();
        let (sim, count) = (&cluster.sim, cluster.nodes.len());
        let at = self.random(count);
        let other = (at + 1 + self.random(count - 1)) % count;
        let (node, peer) = (cluster.nodes[at], cluster.nodes[other]);
        match sim.random_below(14) {
            0 if cluster.is_up(at) => cluster.crash(at),
            1 if cluster.is_up(at) => cluster.kill(at),
            2 => {
                if let Some(leader) = cluster.leader() {
                    cluster.crash(leader);
                }
            }
            3 => sim.net().isolate(node),
            4 => {
                if let Some(leader) = cluster.leader() {
                    sim.net().isolate(cluster.nodes[leader]);
                }
            }
            5 => sim.net().cut_one_way(node, peer),
            6 => sim.net().deafen(node),
            7 if cluster.is_up(at) => {
                sim.pause(node);
                sim.run_for(Duration::from_millis(200 + sim.random_below(1500)));
                sim.resume(node);
            }
            8 => sim.net().reset(node, peer),
            9 => sim.net().set_packet_loss(0.1),
            _ => sim.net().heal_all(),
        }
        if sim.random_below(2) == 0 {
            self.start_those_down();
        }
    }

    fn start_those_down(&self) {
        for at in 0..self.cluster().nodes.len() {
            if !self.cluster().is_up(at) {
                self.cluster().start(at);
            }
        }
    }

    /// Lets time go on, with a fault now and then.
    fn pass(&mut self, most_ms: u64) {
        let slices = 1 + self.cluster().sim.random_below(most_ms) / 10;
        for _ in 0..slices {
            self.cluster().sim.run_for(Duration::from_millis(10));
            self.look();
        }
        if self.has_faults && self.random(6) == 0 {
            self.fault();
        }
        if self.has_snapshots && self.random(4) == 0 {
            self.checkpoint();
        }
    }

    /// Has a replica checkpoint its state, behind which its log is purged: who lacks that gets a snapshot.
    fn checkpoint(&self) {
        let at = self.random(self.cluster().nodes.len());
        let Some(group) = self.world.try_group(at) else {
            return;
        };
        let engine = group.engine().clone();
        self.cluster().sim.enter(self.cluster().nodes[at], || {
            // It may close meanwhile.
            drop(corelith_io::spawn(async move {
                drop(engine.checkpoint().await)
            }));
        });
    }

    /// Looks whether the leases are as they must be.
    fn look(&mut self) {
        let cluster = &self.world.cluster;
        let mut holders = Vec::new();
        for at in 0..cluster.nodes.len() {
            let Some(group) = self.world.try_group(at) else {
                continue;
            };
            let seen = || (group.lease_seen().0, group.members());
            let (holds, members) = cluster.sim.enter(cluster.nodes[at], seen);
            if !holds {
                continue;
            }
            holders.push(group.replica());
            if planted().is_none() && !self.is_backed(group.replica(), &members) {
                let me = group.replica();
                self.wrong = Some(format!(
                    "{me} holds a lease without a majority: {members:?}"
                ));
                return;
            }
        }
        if holders.len() > 1 {
            self.wrong = Some(format!("two leases at once: {holders:?}"));
        }
    }

    /// Whether a majority of each configuration cannot turn from that leader now.
    fn is_backed(&self, leader: ReplicaId, members: &GroupMembers) -> bool {
        let cluster = self.cluster();
        let is_bound = |voter: &ReplicaId| {
            let group = self.world.try_group(place(*voter));
            // One that is not there votes for nobody.
            let group = group.filter(|group| *voter != leader && group.replica() == *voter);
            group.is_none_or(|group| {
                let node = cluster.nodes[place(*voter)];
                cluster.sim.enter(node, || group.is_bound_to(leader.node()))
            })
        };
        let has_one = |voters: &BTreeSet<ReplicaId>| {
            voters.iter().filter(|voter| is_bound(voter)).count() > voters.len() / 2
        };
        members.voters.iter().all(has_one)
    }

    /// The members as whoever leads knows them, if nothing is under way.
    fn settled(&self) -> Option<GroupMembers> {
        let group = self.world.try_group(self.cluster().leader()?)?;
        let members = group.members();
        let is_settled = members.is_committed && members.voters.len() == 1;
        (is_settled && !group.is_changing()).then_some(members)
    }

    fn ask<Fut: Future<Output = Changed> + 'static>(
        &mut self,
        change: impl FnOnce(crate::Group) -> Fut,
    ) -> bool {
        let Some(answer) = self.world.start(change) else {
            return false;
        };
        for _ in 0..40 {
            if answer.borrow().is_some() || self.wrong.is_some() {
                break;
            }
            self.pass(60);
        }
        matches!(answer.take(), Some(Ok(_)))
    }

    /// Makes `add` a voter, and `remove` no member, as far as time allows.
    fn replace(
        &mut self,
        remove: Option<ReplicaId>,
        add: Option<ReplicaId>,
        limit: Duration,
    ) -> bool {
        let until = self.cluster().sim.now() + limit;
        while self.cluster().sim.now() < until && self.wrong.is_none() {
            self.pass(150);
            let Some(members) = self.settled() else {
                continue;
            };
            let mut wanted = members.voters[0].clone();
            wanted.extend(add);
            if let Some(remove) = remove {
                wanted.remove(&remove);
            }
            if wanted == members.voters[0] {
                return true;
            }
            match add {
                Some(add) if !members.stores.contains_key(&add) => {
                    let member = self.world.member(add);
                    self.ask(move |group| async move { group.add_learner(member).await });
                }
                _ => {
                    self.ask(move |group| async move { group.set_voters(wanted).await });
                }
            }
        }
        false
    }

    /// Opens another replica at a node, in place of one that may be there.
    fn open(&mut self, at: usize) -> Option<ReplicaId> {
        // While it starts it opens what it had.
        for _ in 0..100 {
            if self.cluster().groups(at).is_some() || self.wrong.is_some() {
                break;
            }
            if !self.cluster().is_up(at) {
                self.cluster().start(at);
            }
            self.pass(40);
        }
        self.cluster().groups(at)?;
        let replica = ReplicaId::new(NodeId(at as u64 + 1), self.next_generation);
        self.next_generation += 1;
        self.cluster().admit(at, replica, None);
        Some(replica)
    }

    /// Does something about the members.
    fn change(&mut self) {
        if self.lost.is_some() {
            return self.make_good(TRY_FOR);
        }
        let Some(members) = self.settled() else {
            return self.pass(500);
        };
        let voters: Vec<ReplicaId> = members.voters[0].iter().copied().collect();
        let one = voters[self.random(voters.len())];
        let is_free = |at: &usize| {
            let held = self.cluster().held(*at);
            held.is_none_or(|held| !members.stores.contains_key(&held))
                && !voters.iter().any(|voter| place(*voter) == *at)
        };
        let free: Vec<usize> = (0..self.cluster().nodes.len()).filter(is_free).collect();
        let free = (!free.is_empty()).then(|| free[self.random(free.len())]);
        match self.random(6) {
            0 if voters.len() > VOTERS_MIN => self.leave(one, None),
            1 | 2 if voters.len() < VOTERS_MAX && free.is_some() => {
                let add = free.and_then(|at| self.open(at));
                if add.is_some() && self.replace(None, add, TRY_FOR) {
                    self.made += 1;
                }
            }
            3 if free.is_some() => {
                let add = free.and_then(|at| self.open(at));
                self.leave(one, add);
            }
            4 if voters.len() > VOTERS_MIN => {
                // A new disk.
                if self.cluster().is_up(place(one)) {
                    self.cluster().crash(place(one));
                }
                self.next_store += 1;
                let store = self.next_store;
                self.lost = Some(one);
                self.cluster().start_wiped(place(one), store);
                self.make_good(TRY_FOR);
            }
            5 if voters.len() > VOTERS_MIN => {
                self.lost = Some(one);
                self.make_good(TRY_FOR);
            }
            _ => self.pass(500),
        }
    }

    /// Has a voter leave, and maybe another one come in its place.
    fn leave(&mut self, one: ReplicaId, add: Option<ReplicaId>) {
        let is_gone = self.replace(Some(one), add, TRY_FOR);
        if is_gone {
            self.made += 1;
        }
        if is_gone && self.random(2) == 0 && self.cluster().held(place(one)) == Some(one) {
            self.cluster().dismiss(place(one));
        }
    }

    /// Takes another replica in for the one that is lost, on the same node.
    fn make_good(&mut self, limit: Duration) {
        let Some(lost) = self.lost else { return };
        let held = self.cluster().held(place(lost));
        let add = match held.filter(|held| *held != lost) {
            Some(held) => Some(held),
            None => self.open(place(lost)),
        };
        if add.is_some() && self.replace(Some(lost), add, limit) {
            self.lost = None;
            self.made += 1;
        }
    }

    /// Ends all faults and brings the group into order.
    fn end(&mut self) -> Result<(), String> {
        self.has_faults = false;
        self.cluster().sim.net().heal_all();
        self.start_those_down();
        let until = self.cluster().sim.now() + END_WITHIN;
        loop {
            if let Some(wrong) = self.wrong.take() {
                return Err(wrong);
            }
            if self.cluster().sim.now() > until {
                return Err(format!("no order: {:#?}", self.cluster().stands()));
            }
            self.make_good(END_WITHIN);
            let learner = self
                .settled()
                .map(|members| members.learners.first().copied());
            match learner {
                Some(None) if self.lost.is_none() => return Ok(()),
                Some(Some(learner)) => {
                    self.ask(move |group| async move { group.remove_learner(learner).await });
                }
                _ => self.pass(200),
            }
        }
    }
}

/// How a run went.
struct Run {
    hash: u64,
    made: u32,
    verdict: Result<(), String>,
}

fn run(seed: u64) -> Run {
    let count = 3 + (seed % 5) as usize;
    let has_snapshots = seed % 2 == 1;
    let options = Options {
        catch_up_entries: if has_snapshots { 10 } else { 1 << 20 },
        ..Options::default()
    };
    let mut cluster = Cluster::of(seed, SimConfig::rough(), options, 1, count);
    cluster.members_change = true;
    cluster.start_all();
    cluster.wait_leader();
    let history = Rc::new(RefCell::new(History::default()));
    let stop = Rc::new(Cell::new(false));
    let working = Rc::new(Cell::new(CLIENTS));
    for name in 0..CLIENTS {
        let doors = Rc::clone(&cluster.doors);
        let client = Client::new(name, doors, Rc::clone(&history), Rc::clone(&stop), KEYS);
        let working = Rc::clone(&working);
        cluster.sim.start(cluster.outside, 0, move || async move {
            client.run().await;
            working.set(working.get() - 1);
        });
    }
    let mut chaos = Chaos::of(cluster);
    chaos.has_snapshots = has_snapshots;
    for _ in 0..CHANGES {
        if chaos.wrong.is_none() {
            chaos.change();
        }
    }
    let mut verdict = chaos.end();
    if verdict.is_ok() {
        let before = history.borrow().operations.len();
        chaos.cluster().wait("operations succeed again", || {
            history.borrow().operations.len() > before + 10
        });
        stop.set(true);
        chaos
            .cluster()
            .wait("the clients stop", || working.get() == 0);
        chaos.world.check_equal();
        verdict = history.borrow().check(&format!("members-{seed}"));
    }
    Run {
        hash: chaos.cluster().sim.trace_hash(),
        made: chaos.made,
        verdict,
    }
}

fn check(seeds: std::ops::Range<u64>) {
    let (mut made, mut runs) = (0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let first = run(seed);
        assert_eq!(first.verdict, Ok(()), "seed {seed}");
        (made, runs) = (made + first.made, runs + 1);
        if seed < 4 {
            assert_eq!(first.hash, run(seed).hash, "seed {seed} does not repeat");
        }
    }
    println!("{made} changes in {runs} runs");
    assert!(made >= runs, "{made} changes in {runs} runs");
}

#[test]
fn members_change_at_random_1() {
    check(seeds(0));
}

#[test]
fn members_change_at_random_2() {
    check(seeds(1));
}
