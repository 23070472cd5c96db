//! Three nodes of which one leads, and what is looked for at every step of a run.

use crate::planted::planted;
use crate::tests::cluster::{Cluster, put};
use crate::{Group, LivenessOptions, NodeStore, Options, Outcome, Role};
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_shards::{LogIndex, NodeId, ReplicaId, ShardId, Term};
use corelith_wire::StoreId;
use corelith_wire::peer::{PeerVote, VoteAnswer, VoteAsk};
use corelith_wire::request::{Condition, WriteCommand};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// As long as a node promises that its replicas do not vote for others.
pub(super) const PROMISE: Duration = Duration::from_millis(300);
/// Two clocks, one too fast and one too slow by this, differ by what is allowed for.
pub(super) const DRIFT_PPM: i32 = 5_000;
/// How long the group may take to work again after all faults have ended.
const RECOVERY: Duration = Duration::from_secs(20);

pub(super) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A write that was answered: its key, and its place in the log.
type Answered = (String, LogIndex);

/// See the module. What is found wrong first is kept.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    /// Who leads at the beginning.
    pub(super) old: usize,
    session: u64,
    writes: Cell<u64>,
    answered: Rc<RefCell<Vec<Answered>>>,
    wrong: Rc<RefCell<Option<String>>>,
    /// Whether clocks and nodes do as they should.
    pub(super) is_sound: Cell<bool>,
}

impl Stage {
    /// With the default settings. All nodes hold the same.
    pub(super) fn set(seed: u64) -> Self {
        Self::with(seed, Options::default(), PROMISE)
    }

    /// With promises of that length.
    pub(super) fn with(seed: u64, options: Options, promise: Duration) -> Self {
        let slowest = [250, 250, 1_000][seed as usize % 3];
        let config = SimConfig {
            clock_drift_ppm_max: DRIFT_PPM.unsigned_abs(),
            network_latency: Duration::from_micros(30)..Duration::from_micros(slowest),
            ..SimConfig::default()
        };
        let mut cluster = Cluster::new(seed, config, options, 1);
        cluster.liveness = LivenessOptions {
            promise,
            ..cluster.liveness
        };
        cluster.start_all();
        let mut stage = Self {
            cluster,
            old: 0,
            session: 0,
            writes: Cell::new(0),
            answered: Rc::default(),
            wrong: Rc::default(),
            is_sound: Cell::new(true),
        };
        let limit = Duration::from_secs(15);
        assert!(stage.until(limit, || stage.leading().is_some()), "no lead");
        stage.old = stage.leading().unwrap();
        stage.session = stage.cluster.open_session(stage.old);
        stage.write(stage.old);
        stage.until(limit, || stage.is_settled());
        stage
    }

    pub(super) fn sim(&self) -> &Sim {
        &self.cluster.sim
    }

    pub(super) fn node(&self, at: usize) -> SimNode {
        self.cluster.nodes[at]
    }

    pub(super) fn id(&self, at: usize) -> NodeId {
        NodeId(at as u64 + 1)
    }

    pub(super) fn group(&self, at: usize) -> Option<Group> {
        self.cluster.groups(at)?.group(ShardId(0))
    }

    /// The vote of a node.
    pub(super) fn vote(&self, at: usize) -> PeerVote {
        let status = self.group(at).unwrap().status();
        PeerVote {
            term: status.term,
            node: status.voted_for,
            committed: status.vote_committed,
        }
    }

    /// Asks a node for its vote, in the name of another one that has all that it has.
    pub(super) fn ask_vote(
        &self,
        at: usize,
        candidate: usize,
        handed_over_by: Option<(Term, ReplicaId)>,
    ) -> VoteAnswer {
        let group = self.group(at).unwrap();
        let node = self.id(candidate);
        let vote = PeerVote {
            term: Term(self.term(at) + 1),
            node: ReplicaId::first(node),
            committed: false,
        };
        let ask = VoteAsk {
            vote,
            last: group.status().last_log,
            handed_over_by,
        };
        let store = StoreId(candidate as u128 + 1);
        let peer = NodeStore { node, store };
        let asked = async move { group.take_vote(peer, false, ask).await };
        let answer = self.sim().block_on(self.node(at), asked);
        answer.unwrap().unwrap()
    }

    /// Who leads, well or not.
    pub(super) fn is_leader(&self, at: usize) -> bool {
        self.group(at)
            .is_some_and(|group| group.status().role == Role::Leader)
    }

    pub(super) fn holds_lease(&self, at: usize) -> bool {
        let holds = |group: Group| self.sim().enter(self.node(at), || group.lease_seen().0);
        self.group(at).is_some_and(holds)
    }

    pub(super) fn term(&self, at: usize) -> u64 {
        self.group(at).map_or(0, |group| group.status().term.0)
    }

    /// Who leads a group that works, as far as that node knows.
    fn leading(&self) -> Option<usize> {
        let is_led = |group: &Group, at| self.sim().enter(self.node(at), || group.is_led());
        (0..3).find(|at| {
            let group = self.group(*at).filter(|_| self.is_leader(*at));
            group.is_some_and(|group| is_led(&group, *at))
        })
    }

    /// Whether all have applied all.
    fn is_settled(&self) -> bool {
        let applied = |at: usize| {
            let status = self.group(at)?.status();
            status.applied.filter(|at| Some(*at) == status.last_log)
        };
        let first = applied(0);
        first.is_some() && applied(1) == first && applied(2) == first
    }

    /// The followers, in an order that the seed draws.
    pub(super) fn followers(&self) -> [usize; 2] {
        let first = 1 + self.random(2) as usize;
        [(self.old + first) % 3, (self.old + 3 - first) % 3]
    }

    pub(super) fn random(&self, bound: u64) -> u64 {
        self.sim().random_below(bound)
    }

    /// Between these, to the microsecond.
    pub(super) fn moment(&self, least_ms: u64, most_ms: u64) -> Duration {
        millis(least_ms) + Duration::from_micros(self.random((most_ms - least_ms) * 1_000))
    }

    /// Lets a node take no new connections for groups from another one, and ends those that there are. Beats
    /// come back at once.
    pub(super) fn shut_groups(&self, from: usize, to: usize) {
        let ends = (self.id(from), self.id(to));
        self.cluster.shut.borrow_mut().insert(ends);
        self.sim().net().reset(self.node(from), self.node(to));
    }

    /// Submits a write of a key of its own.
    pub(super) fn write(&self, at: usize) {
        let Some(group) = self.group(at) else { return };
        let number = self.writes.get() + 1;
        self.writes.set(number);
        let key = format!("k{number}");
        let command = put(self.session, number, Condition::Any, &key, "x");
        let parsed = WriteCommand::parse(&command).unwrap();
        let answered = Rc::clone(&self.answered);
        self.sim().enter(self.node(at), || {
            group.submit(command, &parsed, move |reply| {
                if let Ok(Outcome::Applied { version }) = reply.map(|reply| reply.outcome) {
                    answered.borrow_mut().push((key, version));
                }
            });
        });
    }

    /// The last write that was answered.
    pub(super) fn last_answered(&self) -> LogIndex {
        let answered = self.answered.borrow();
        let indexes = answered.iter().map(|(_, index)| *index);
        indexes.max().unwrap_or(LogIndex(0))
    }

    /// Asks for a read point.
    pub(super) fn read(&self, at: usize) {
        let Some(group) = self.group(at) else { return };
        let (least, wrong) = (self.last_answered(), Rc::clone(&self.wrong));
        self.sim().enter(self.node(at), || {
            group.on_read_point(move |point| {
                if point.as_ref().is_ok_and(|point| point.index < least) {
                    let what = format!("a stale read: {point:?} after {least}");
                    wrong.borrow_mut().get_or_insert(what);
                }
            });
        });
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.wrong.borrow().is_some()
    }

    fn found(&self, what: String) {
        self.wrong.borrow_mut().get_or_insert(what);
    }

    /// Looks into all nodes: rule 4, at most one of them holds the lease, and none answers with less than what
    /// was answered before; rules 1 to 3 and 5, whoever counts is bound.
    fn look(&self) {
        let least = self.last_answered();
        let mut holders = Vec::new();
        for at in 0..3 {
            let Some(group) = self.group(at) else {
                continue;
            };
            let seen = || (group.lease_seen(), group.try_read_point());
            let ((holds, counted), point) = self.sim().enter(self.node(at), seen);
            if point.is_some_and(|point| point.index < least) {
                self.found(format!("a stale read: {point:?} at {at} after {least}"));
            }
            if holds {
                holders.push(at);
            }
            for replica in counted {
                self.look_at_promise(at, replica.node().0 as usize - 1);
            }
        }
        if holders.len() > 1 {
            self.found(format!("two leases at once, at {holders:?}"));
        }
    }

    /// A bug is to be found by what comes of it; without one nobody counts who is not bound.
    fn look_at_promise(&self, leader: usize, follower: usize) {
        let Some(group) = self.group(follower) else {
            return;
        };
        let leader = self.id(leader);
        let bound = || group.is_bound_to(leader);
        let is_bound = self.sim().enter(self.node(follower), bound);
        if !is_bound && self.is_sound.get() && planted().is_none() {
            self.found(format!("{leader} counts {follower}, which is not bound"));
        }
    }

    /// Goes on for `duration`, or until something is wrong.
    pub(super) fn run(&self, duration: Duration) {
        self.until(duration, || false);
    }

    /// Goes on until `condition` holds or something is wrong, for at most `limit`; whether it holds.
    pub(super) fn until(&self, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let mut holds = false;
        self.sim().run_until(
            || {
                self.look();
                holds = condition();
                holds || self.is_wrong()
            },
            limit,
        );
        holds
    }

    /// Until another node leads than at the beginning.
    pub(super) fn next(&self, limit: Duration) -> Option<usize> {
        let leading = || (0..3).find(|at| *at != self.old && self.is_leader(*at));
        self.until(limit, || leading().is_some());
        leading()
    }

    /// For so long, whoever else leads is written to, and the old leader is read from.
    pub(super) fn contest(&self, duration: Duration) {
        let until = self.sim().now() + duration;
        while self.sim().now() < until && !self.is_wrong() {
            for at in (0..3).filter(|at| *at != self.old) {
                if self.is_leader(at) {
                    self.write(at);
                }
            }
            self.read(self.old);
            self.run(self.moment(2, 15));
        }
    }

    /// Ends all faults: the group must work again, and hold all that was answered. Returns what was wrong.
    pub(super) fn end(self) -> Option<String> {
        if !self.is_wrong() {
            self.recover();
        }
        self.wrong.borrow().clone()
    }

    fn recover(&self) {
        let sim = self.sim();
        self.cluster.shut.borrow_mut().clear();
        sim.net().heal_all();
        for at in 0..3 {
            sim.disk(self.node(at)).heal();
            sim.resume(self.node(at));
            if !self.cluster.is_up(at) {
                self.cluster.start(at);
            }
        }
        let before = self.last_answered();
        let until = sim.now() + RECOVERY;
        while self.last_answered() == before && sim.now() < until && !self.is_wrong() {
            if let Some(at) = self.leading() {
                self.write(at);
            }
            self.until(millis(200), || self.last_answered() > before);
        }
        if self.is_wrong() {
            return;
        }
        if self.last_answered() == before || !self.until(RECOVERY, || self.is_settled()) {
            return self.found("the group is stuck".to_owned());
        }
        for at in 0..3 {
            let held = self.cluster.content(at, ShardId(0));
            let held = held
                .iter()
                .map(|(key, found)| (key.as_ref(), found.version));
            let held: std::collections::BTreeMap<&[u8], LogIndex> = held.collect();
            for (key, version) in self.answered.borrow().iter() {
                if held.get(key.as_bytes()) != Some(version) {
                    self.found(format!(
                        "an answered write is lost: {key} of {version} at {at}"
                    ));
                }
            }
        }
    }
}
