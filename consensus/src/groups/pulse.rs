//! The pulse of a core: every few milliseconds it says that its loop runs and its disk answers, and looks at all
//! groups of the core, so that a group which has nothing to do needs no timer. While all nodes are there it passes over
//! groups at rest, and looks at none once all of them are, but for a round every two seconds: a node may have a thousand.
//!
//! Invariant: what ends a group's rest is noted as [`GroupActivity`](crate::activity::GroupActivity), or the node has news of it.

use super::GroupsInner;
use crate::group::{Group, STALLED_PART};
use crate::link::{PeerLink, PeerSeen};
use corelith_io::Instant;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::{DAMAGED_NAMED_MAX, Health, NodeHealth};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// So many pulses come between two beats, if no promise runs out before.
const PULSES_PER_BEAT: u32 = 2;
/// Least time between two pulses.
const PULSE_MIN: Duration = Duration::from_millis(1);
/// How often it is looked at what changes slowly.
const ROUND: Duration = Duration::from_millis(500);
/// How often while all groups are at rest.
const ROUND_AT_REST: Duration = Duration::from_secs(2);

/// What a core remembers from one pulse to the next.
#[derive(Default)]
pub(super) struct CorePulse {
    /// Until when the promises ran, for the leaders on each core of each other node.
    promised: RefCell<BTreeMap<(NodeId, u16), Instant>>,
    generation: Cell<u64>,
    /// Blocks that have become durable, of all logs.
    durable: Cell<u64>,
    /// Whether the disk answered when it was looked at last.
    is_answering: Cell<bool>,
    round_at: Cell<Option<Instant>>,
    looked_at: Cell<Option<Instant>>,
    /// What the groups had done when all of them were seen to be at rest, if they were when they were looked at last.
    rested: Cell<Option<u64>>,
    /// Whether a group had uploads then, whose time may run out.
    has_uploads: Cell<bool>,
    /// How often they were looked at.
    #[cfg(test)]
    glances: Cell<u64>,
    /// The links that were up, and how often they had come up.
    ups: RefCell<BTreeMap<(NodeId, u16), u64>>,
}

#[cfg(test)]
impl CorePulse {
    /// How often the groups were looked at.
    pub(super) fn glances(&self) -> u64 {
        self.glances.get()
    }
}

/// Beats the pulse of a core until it is gone.
pub(super) async fn run(groups: Weak<GroupsInner>, every: Duration) {
    let usual = every / PULSES_PER_BEAT;
    let mut pause = usual;
    loop {
        corelith_io::sleep(pause).await;
        let Some(groups) = groups.upgrade() else {
            return;
        };
        groups.pulse(every);
        let next = groups.next_promise_end();
        let left = next.map(|until| until - corelith_io::now());
        pause = left.map_or(usual, |left| left.clamp(PULSE_MIN, usual));
        assert!(pause <= usual, "a pulse after {pause:?}");
    }
}

impl GroupsInner {
    fn pulse(&self, every: Duration) {
        let now = corelith_io::now();
        let pulse = &self.pulse;
        let done = self.activity.count();
        let has_rest = pulse.rested.get() == Some(done)
            && !self.receptions.is_any()
            && self.are_all_there(now);
        let round = match has_rest && !pulse.has_uploads.get() {
            true => ROUND_AT_REST,
            false => ROUND,
        };
        let is_round = pulse.round_at.get().is_none_or(|at| now - at >= round);
        let is_due = pulse.looked_at.get().is_none_or(|at| now - at >= every);
        let generation = self.liveness.generation();
        let has_news = pulse.generation.replace(generation) != generation;
        let ended = self.promises_ended(now);
        let connected = self.new_connections();
        let is_silent = ended.is_empty() && connected.is_empty();
        if is_silent && !is_round && !has_news && (has_rest || !is_due) {
            // The disk was seen to answer, or not, a moment ago, or nothing was asked of it since.
            return self
                .liveness
                .pulse(self.core, pulse.is_answering.get(), None);
        }
        let groups: Vec<Group> = self.groups.borrow().values().cloned().collect();
        let Glance {
            durable,
            oldest,
            is_cut_off,
            at_rest,
            has_uploads,
        } = Glance::at(&groups, now);
        pulse.has_uploads.set(has_uploads);
        #[cfg(test)]
        pulse.glances.set(pulse.glances.get() + 1);
        let is_at_rest = !is_cut_off && oldest.is_none() && at_rest.iter().all(|rests| *rests);
        pulse.rested.set(is_at_rest.then_some(done));
        let stalled = self.stalled_for(durable, oldest, now);
        let promise = self.liveness.options().promise;
        let is_answering = stalled < promise * 2 / 3 && !is_cut_off;
        pulse.is_answering.set(is_answering);
        // Who copies replicas has its disk and cores taken up by that: leads go back to it when it is done.
        let is_slow = stalled >= promise / STALLED_PART || self.receptions.is_any();
        self.liveness.set_slow(self.core, is_slow);
        let health = is_round.then(|| health(&groups));
        self.liveness.pulse(self.core, is_answering, health);
        for node in ended {
            groups.iter().for_each(|group| group.promise_ran_out(node));
        }
        for node in connected {
            groups.iter().for_each(|group| group.connected(node));
        }
        if has_news || is_due || is_round {
            let is_calm = !has_news && !is_round && self.are_all_there(now);
            for (group, is_at_rest) in groups.iter().zip(at_rest) {
                if !(is_calm && is_at_rest) {
                    group.look(now, has_news, is_round);
                }
            }
            pulse.looked_at.set(Some(now));
        }
        if is_round {
            pulse.round_at.set(Some(now));
        }
    }

    /// How long the disk has left a write without an answer; zero if it has answered any since it was looked at last.
    fn stalled_for(&self, durable: u64, oldest: Option<Instant>, now: Instant) -> Duration {
        let has_answered = self.pulse.durable.replace(durable) != durable;
        let oldest = oldest.filter(|_| !has_answered);
        oldest.map_or(Duration::ZERO, |oldest| now - oldest)
    }

    /// When the first of the promises runs out that were seen to run.
    fn next_promise_end(&self) -> Option<Instant> {
        self.pulse.promised.borrow().values().copied().min()
    }

    /// The nodes whose leaders a promise was given that has run out.
    fn promises_ended(&self, now: Instant) -> Vec<NodeId> {
        let mut promised = self.pulse.promised.borrow_mut();
        let mut ended = Vec::new();
        for (node, pair) in self.liveness.pairs() {
            for (core, until) in pair.promises() {
                if now < until {
                    promised.insert((node, core), until);
                } else if promised.remove(&(node, core)).is_some() {
                    ended.push(node);
                }
            }
        }
        ended
    }

    /// Whether all other nodes answer, and all connections stand.
    fn are_all_there(&self, now: Instant) -> bool {
        let promise = self.liveness.options().promise;
        let pairs = self.liveness.pairs();
        let mut heard = pairs.iter().map(|(_, pair)| pair.heard());
        let links = self.links.borrow();
        heard.all(|heard| heard.is_some_and(|heard| now - heard < promise))
            && links
                .values()
                .all(|link| link.seen() == PeerSeen::Connected)
    }

    /// The nodes to which a connection is new.
    fn new_connections(&self) -> Vec<NodeId> {
        let mut known = self.pulse.ups.borrow_mut();
        let links = self.links.borrow();
        let news = links.iter().filter(|(at, link): &(_, &Rc<PeerLink>)| {
            let ups = link.ups();
            ups > 0 && known.insert(**at, ups) != Some(ups)
        });
        news.map(|((node, _), _)| *node).collect()
    }
}

/// What all groups of a core show at once. One way past them: they are seldom in the processor's cache.
#[derive(Default)]
struct Glance {
    /// Blocks that have become durable, of all logs.
    durable: u64,
    /// When the oldest write was submitted that is not durable.
    oldest: Option<Instant>,
    /// Whether a group is cut off.
    is_cut_off: bool,
    /// For each group whether it is at rest.
    at_rest: Vec<bool>,
    /// Whether a group has uploads that are open, or are to be cleared away.
    has_uploads: bool,
}

impl Glance {
    fn at(groups: &[Group], now: Instant) -> Self {
        let mut all = Self {
            at_rest: Vec::with_capacity(groups.len()),
            ..Self::default()
        };
        for group in groups {
            let log = group.log_pulse();
            all.durable += log.durable;
            all.oldest = match (all.oldest, log.oldest) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            all.is_cut_off |= group.is_cut_off(now);
            all.has_uploads |= group.has_uploads();
            all.at_rest.push(log.oldest.is_none() && group.is_at_rest());
        }
        all
    }
}

/// How this core is.
fn health(groups: &[Group]) -> NodeHealth {
    let mut all = NodeHealth::default();
    let mut damaged: Vec<ShardId> = Vec::new();
    for group in groups {
        let Health {
            is_disk_full,
            is_damaged,
            ..
        } = group.health();
        all.node.is_disk_full |= is_disk_full;
        if is_damaged {
            damaged.push(group.shard());
        }
        let latency = group.log_pulse().latency.as_micros();
        all.write_us = all.write_us.max(u32::try_from(latency).unwrap_or(u32::MAX));
    }
    all.has_more = damaged.len() > DAMAGED_NAMED_MAX;
    damaged.truncate(DAMAGED_NAMED_MAX);
    all.damaged = damaged;
    all
}
