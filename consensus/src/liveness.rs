//! Who lives, and what nodes have promised each other: the state that a node's cores share with its beats.
//!
//! Nodes judge nodes; groups follow. A leader counts a follower while the follower's node has promised its
//! node that no replica there votes against it; see `lease.rs`, `group/door.rs` and the rules in
//! `docs/architecture.md`. Beats ([`beats`]) renew the promises.
//!
//! Invariants:
//! * A promise is given only for cores of the other node that were vouched for in its beat, and only if the
//!   other node hears this one.
//! * A store that has started does not vote, nor stand, for as long as the longest promise that it may have
//!   given before.

mod counted;
mod hearing;
mod promise;

pub(crate) use counted::CountedPromise;

use crate::planted::{Bug, is_planted};
use crate::route::NodeStore;
use corelith_io::Instant;
use corelith_wire::peer::{
    Beat, BeatReply, CoreSet, Health, Introduction, NodeHealth, PromiseEpoch, Verdict,
};
use corelith_wire::{Epoch, Mark, NodeId, ShardId, Start, StoreId};
use promise::{GivenPromise, UsedUp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a node's beats are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessOptions {
    /// Time between two beats to a node.
    pub beat: Duration,
    /// How long this node's promises are.
    pub promise: Duration,
    /// How long the longest promise may have been that the store gave before this start; zero for a store
    /// that never gave one.
    pub promised_before: Duration,
}

impl Default for LivenessOptions {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(50),
            promise: Duration::from_millis(300),
            promised_before: Duration::ZERO,
        }
    }
}

/// See the module. Shared by all cores of one node.
#[derive(Debug)]
pub struct Liveness {
    node: NodeId,
    start: Start,
    options: LivenessOptions,
    embargo_until: Option<Instant>,
    cores: Box<[CoreState]>,
    pairs: Mutex<BTreeMap<NodeId, Arc<Pair>>>,
    /// Rises when something changes that groups look at beside the time.
    generation: AtomicU64,
    is_draining: AtomicBool,
    /// Beats that were taken.
    beats: AtomicU64,
    /// The mark of this node's store, which is durable.
    mark: AtomicU64,
    /// Epoch of the newest cluster map that the node knows.
    map: AtomicU32,
    /// What other nodes have said against this one when it came with its beats.
    refused_by: Mutex<BTreeMap<NodeId, Verdict>>,
}

/// What a core says of itself.
#[derive(Debug, Default)]
struct CoreState {
    /// When its loop ran last with a disk that had answered; 0 if never.
    pulsed_at: AtomicU64,
    /// Its disk leaves a write without an answer for long.
    is_slow: AtomicBool,
    health: Mutex<NodeHealth>,
}

/// This node and another one.
#[derive(Debug)]
pub(crate) struct Pair {
    /// What they promised this node.
    counted: CountedPromise,
    /// What this node promised them.
    promise: Mutex<GivenPromise>,
    /// The epoch of `promise`, to be read without the lock.
    epoch: AtomicU64,
    /// The store and start that were met last, and how it is.
    they: Mutex<They>,
}

#[derive(Clone, Debug, Default)]
struct They {
    who: Option<(StoreId, Start)>,
    heard: Option<Instant>,
    health: NodeHealth,
    /// How many cores the start that was met last has; 0 if none was.
    cores: u16,
    /// The highest mark that a store of theirs has told, and which store.
    mark: Option<(StoreId, Mark)>,
    /// Whether they hear what is replied to them.
    hearing: hearing::Hearing,
}

/// The mark of another node's store, as it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldMark {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// The mark.
    pub mark: Mark,
    /// Time since the node was heard.
    pub silent: Duration,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// The other node.
    pub node: NodeId,
    /// Time since a beat of it came, or a reply to one.
    pub heard: Option<Duration>,
    /// Whether its promise counts for leaders on any core of this node.
    pub counts: bool,
    /// Whether this node's promise to leaders on any core of it runs.
    pub promised: bool,
    /// Whether its clock runs at the rate of this node's.
    pub is_clock_right: bool,
    /// How it is, as it said last.
    pub health: NodeHealth,
}

/// Why a replica may not turn from its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromiseKeeps {
    /// A promise runs until then.
    Until(Instant),
    /// No epoch is left.
    ForGood,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pair {
    fn new(start: Start, cores: u16) -> Self {
        let first = PromiseEpoch::first(start);
        Self {
            counted: CountedPromise::new(cores),
            promise: Mutex::new(GivenPromise::new(first)),
            epoch: AtomicU64::new(first.0),
            they: Mutex::default(),
        }
    }

    /// What they have promised.
    pub(crate) fn counted(&self) -> &CountedPromise {
        &self.counted
    }

    /// The epoch of this node's promise, for the answer to what is handed to openraft after this.
    pub(crate) fn epoch(&self) -> PromiseEpoch {
        PromiseEpoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Until when this node's promise to the leaders on `core` of that store of theirs runs, or ran.
    pub(crate) fn promised_until(&self, store: StoreId, core: u16) -> Option<Instant> {
        lock(&self.promise).until(store, core)
    }

    /// Until when this node's promise to the leaders on each of their cores runs, or ran.
    pub(crate) fn promises(&self) -> Vec<(u16, Instant)> {
        lock(&self.promise).all().collect()
    }

    /// Has a replica turn from a leader on `core` of that store of theirs if no promise keeps it.
    ///
    /// # Errors
    /// See [`PromiseKeeps`].
    pub(crate) fn turn(&self, store: StoreId, core: u16, now: Instant) -> Result<(), PromiseKeeps> {
        let mut promise = lock(&self.promise);
        let turned = match promise.turn(store, core, now) {
            Err(until) if !is_planted(Bug::VoteWhilePromised) => {
                return Err(PromiseKeeps::Until(until));
            }
            Err(_) => promise.raise(),
            Ok(turned) => turned,
        };
        turned.map_err(|UsedUp| PromiseKeeps::ForGood)?;
        let until = promise.until(store, core);
        assert!(
            until.is_none_or(|until| until <= now) || is_planted(Bug::VoteWhilePromised),
            "a replica turns at {now:?} from a leader that is promised until {until:?}"
        );
        self.epoch.store(promise.epoch().0, Ordering::SeqCst);
        Ok(())
    }

    /// Has a replica turn from a leader of theirs that is known to lead no more.
    ///
    /// # Errors
    /// No epoch is left.
    pub(crate) fn forget(&self) -> Result<(), PromiseKeeps> {
        let mut promise = lock(&self.promise);
        promise.raise().map_err(|UsedUp| PromiseKeeps::ForGood)?;
        self.epoch.store(promise.epoch().0, Ordering::SeqCst);
        Ok(())
    }

    /// The store and start of theirs that was met last.
    pub(crate) fn who(&self) -> Option<(StoreId, Start)> {
        lock(&self.they).who
    }

    /// When a reply to a beat, or a beat, came last.
    pub(crate) fn heard(&self) -> Option<Instant> {
        lock(&self.they).heard
    }

    /// How long their logs take to make a write durable, in microseconds.
    pub(crate) fn write_us(&self) -> u32 {
        lock(&self.they).health.write_us
    }

    /// How their replica of `shard` is, as they said last.
    pub(crate) fn health(&self, shard: ShardId) -> Health {
        lock(&self.they).health.of(shard)
    }
}

/// How long a store that may have given promises of that length neither votes nor stands after a start.
fn embargo(promised: Duration) -> Duration {
    match is_planted(Bug::ShortEmbargo) {
        true => promised / 2,
        false => promised,
    }
}

impl Liveness {
    /// Of a node that starts now, with that many cores. Called on one of its cores.
    pub fn new(node: NodeId, start: Start, cores: u16, options: LivenessOptions) -> Arc<Self> {
        let before = options.promised_before;
        let is_bound = before > Duration::ZERO && !is_planted(Bug::VoteAfterRestart);
        Arc::new(Self {
            node,
            start,
            options,
            embargo_until: is_bound.then(|| corelith_io::now() + embargo(before)),
            cores: (0..cores).map(|_| CoreState::default()).collect(),
            pairs: Mutex::default(),
            generation: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            mark: AtomicU64::new(0),
            map: AtomicU32::new(0),
            refused_by: Mutex::default(),
        })
    }

    /// How its beats are.
    pub fn options(&self) -> LivenessOptions {
        self.options
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Until when no replica of the node votes or stands, if that is still so.
    pub fn embargo_until(&self) -> Option<Instant> {
        self.embargo_until
            .filter(|until| corelith_io::now() < *until)
    }

    /// This node and another one.
    pub(crate) fn pair(&self, peer: NodeId) -> Arc<Pair> {
        assert!(peer != self.node, "{peer} promises itself nothing");
        let mut pairs = lock(&self.pairs);
        let cores = self.cores.len();
        let new = || {
            Arc::new(Pair::new(
                self.start,
                u16::try_from(cores).unwrap_or(u16::MAX),
            ))
        };
        Arc::clone(pairs.entry(peer).or_insert_with(new))
    }

    /// Whether this node has met another one since it started.
    pub(crate) fn has_met(&self, peer: NodeId) -> bool {
        let pair = lock(&self.pairs).get(&peer).cloned();
        pair.is_some_and(|pair| pair.who().is_some())
    }

    /// All pairs.
    pub(crate) fn pairs(&self) -> Vec<(NodeId, Arc<Pair>)> {
        let pairs = lock(&self.pairs);
        pairs
            .iter()
            .map(|(node, pair)| (*node, Arc::clone(pair)))
            .collect()
    }

    /// The other nodes that this one knows of.
    pub fn peers(&self) -> Vec<PeerState> {
        let now = corelith_io::now();
        let peers = self.pairs().into_iter().map(|(node, pair)| {
            let They { heard, health, .. } = lock(&pair.they).clone();
            PeerState {
                node,
                heard: heard.map(|heard| now - heard),
                counts: pair.counted.is_running(now),
                promised: pair.promises().iter().any(|(_, until)| now < *until),
                is_clock_right: pair.counted.is_rate_right(),
                health,
            }
        });
        peers.collect()
    }

    /// Has the beats tell that the store has this mark, which is durable.
    pub fn tell_mark(&self, mark: Mark) {
        let before = self.mark.fetch_max(mark.0, Ordering::SeqCst);
        assert!(before <= mark.0, "a mark never falls");
    }

    /// The mark to be told.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.mark.load(Ordering::SeqCst))
    }

    /// The marks that other nodes have told.
    pub fn marks(&self) -> Vec<ToldMark> {
        let now = corelith_io::now();
        let told = self.pairs().into_iter().filter_map(|(node, pair)| {
            let they = lock(&pair.they);
            let ((store, mark), heard) = (they.mark?, they.heard?);
            Some(ToldMark {
                node,
                store,
                mark,
                silent: now.saturating_duration_since(heard),
            })
        });
        told.collect()
    }

    /// Has the beats tell that the node knows the cluster map of this epoch.
    pub fn tell_map(&self, epoch: Epoch) {
        self.map.fetch_max(epoch.0, Ordering::SeqCst);
    }

    /// The node that has told of the newest cluster map, and its epoch; `None` if no other node knows one.
    pub fn newest_map(&self) -> Option<(NodeId, Epoch)> {
        let told = self.pairs().into_iter();
        let told = told.map(|(node, pair)| (lock(&pair.they).health.map, node));
        let (epoch, node) = told.filter(|(epoch, _)| epoch.0 > 0).max()?;
        Some((node, epoch))
    }

    /// How many cores the start of another node has that was met last: a promise is given to it only after that is
    /// known.
    pub fn cores_of(&self, node: NodeId) -> Option<u16> {
        let pairs = lock(&self.pairs);
        let cores = lock(&pairs.get(&node)?.they).cores;
        (cores > 0).then_some(cores)
    }

    /// Rises when a peer has another epoch, start or health.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// A core says that its loop runs and its disk answers, and how it is.
    pub(crate) fn pulse(&self, core: u16, is_disk_answering: bool, health: Option<NodeHealth>) {
        let Some(state) = self.cores.get(usize::from(core)) else {
            return;
        };
        if is_disk_answering {
            let now = corelith_io::now().as_nanos();
            state.pulsed_at.store(now.max(1), Ordering::SeqCst);
        }
        if let Some(health) = health {
            *lock(&state.health) = health;
        }
    }

    /// A core says whether its disk leaves a write without an answer for long.
    pub(crate) fn set_slow(&self, core: u16, is_slow: bool) {
        if let Some(state) = self.cores.get(usize::from(core)) {
            state.is_slow.store(is_slow, Ordering::SeqCst);
        }
    }

    /// The node's leads are to leave it.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// The cores to vouch for at `now`: those that had a pulse in the time between two beats.
    pub(crate) fn vouched(&self, now: Instant) -> CoreSet {
        let alive = (0..).zip(&self.cores).filter(|(_, state)| {
            let pulsed_at = state.pulsed_at.load(Ordering::SeqCst);
            let since = now.saturating_duration_since(Instant::from_nanos(pulsed_at));
            pulsed_at != 0 && since <= self.options.beat
        });
        alive.map(|(core, _)| core).collect()
    }

    /// How the node is.
    pub(crate) fn health(&self) -> NodeHealth {
        let mut all = NodeHealth::default();
        for core in &self.cores {
            let health = lock(&core.health);
            all.node.is_disk_full |= health.node.is_disk_full;
            all.node.is_slow |= core.is_slow.load(Ordering::SeqCst);
            all.damaged.extend(&health.damaged);
            all.has_more |= health.has_more;
            all.write_us = all.write_us.max(health.write_us);
        }
        all.node.is_draining = self.is_draining.load(Ordering::SeqCst);
        all.map = Epoch(self.map.load(Ordering::SeqCst));
        all
    }

    /// The other end of a new connection introduced itself, and is known.
    pub(crate) fn met(&self, theirs: &Introduction) {
        let (peer, store, start) = (theirs.node, theirs.store, theirs.start);
        let pair = self.pair(peer);
        let mut they = lock(&pair.they);
        if they.who != Some((store, start)) {
            they.who = Some((store, start));
            they.cores = theirs.cores;
            they.heard = None;
            they.health = NodeHealth::default();
            they.hearing = hearing::Hearing::default();
            pair.counted.forget();
            drop(they);
            self.changed();
        }
    }

    /// That store of another node is excluded: nothing that was heard of it counts, and connections with it end.
    pub(crate) fn exclude(&self, NodeStore { node, store }: NodeStore) {
        let pair = self.pair(node);
        let mut they = lock(&pair.they);
        if they.who.is_some_and(|(known, _)| known == store) {
            *they = They::default();
            pair.counted.forget();
            drop(they);
            self.changed();
        }
    }

    /// What `peer` makes of this node, which has come with its beats.
    pub(crate) fn judged_by(&self, peer: NodeId, verdict: Verdict) {
        let mut refused = lock(&self.refused_by);
        match verdict {
            Verdict::Known => drop(refused.remove(&peer)),
            verdict => drop(refused.insert(peer, verdict)),
        }
    }

    /// What other nodes have said against this one.
    pub fn refused_by(&self) -> Vec<(NodeId, Verdict)> {
        let refused = lock(&self.refused_by);
        refused.iter().map(|(node, said)| (*node, *said)).collect()
    }

    /// A connection to `peer` has ended.
    pub(crate) fn connection_ended(&self, peer: NodeId) {
        lock(&self.pair(peer).promise).connection_ended();
    }

    /// How many beats of other nodes were taken.
    pub fn beats_taken(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Takes a beat of `peer` that came at `now`; the reply gives the promise, if there is one to give.
    pub(crate) fn take_beat(
        &self,
        peer: NodeId,
        store: StoreId,
        beat: &Beat,
        now: Instant,
    ) -> BeatReply {
        let pair = self.pair(peer);
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.hear(&pair, &beat.health, now);
        let length = self.options.promise;
        // One that does not hear this node could not count on what it promises.
        let hears = {
            let mut they = lock(&pair.they);
            let before = they.mark.filter(|(known, _)| *known == store);
            let highest = before.map_or(beat.mark, |(_, mark)| mark.max(beat.mark));
            they.mark = Some((store, highest));
            they.hearing.beat(beat.heard, now, length)
        };
        let to = match hears {
            true => beat.vouched,
            false => CoreSet::default(),
        };
        let (to, epoch) = lock(&pair.promise).give(store, &to, now, length);
        BeatReply {
            number: beat.number,
            replied_at: now.as_nanos().max(1),
            promise: if hears { length } else { Duration::ZERO },
            epoch,
            to,
            health: self.health(),
        }
    }

    /// Takes the reply of `peer` to a beat that was sent at `sent` and came at `now`.
    pub(crate) fn take_reply(&self, peer: NodeId, reply: &BeatReply, sent: Instant, now: Instant) {
        let pair = self.pair(peer);
        self.hear(&pair, &reply.health, now);
        lock(&pair.they).hearing.replied_within(now - sent);
        let BeatReply {
            promise, epoch, to, ..
        } = reply;
        if pair.counted.promised(sent, now, *promise, *epoch, to) {
            self.changed();
        }
    }

    /// The clock of `peer` runs as fast as this node's, or does not.
    pub(crate) fn set_rate_right(&self, peer: NodeId, is_right: bool) {
        self.pair(peer).counted.set_rate_right(is_right);
    }

    fn hear(&self, pair: &Pair, health: &NodeHealth, now: Instant) {
        let mut they = lock(&pair.they);
        they.heard = they.heard.max(Some(now));
        let is_other = they.health.node != health.node
            || they.health.damaged != health.damaged
            || they.health.has_more != health.has_more;
        they.health.clone_from(health);
        drop(they);
        if is_other {
            self.changed();
        }
    }
}
