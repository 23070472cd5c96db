//! What a group waits for while it has no leader, in words.

use super::{Group, GroupInner};
use crate::admission::leader_of_vote;
use crate::link::PeerSeen;
use crate::route::GroupMember;
use crate::stores::Standing;
use corelith_io::Instant;
use corelith_shards::{NodeId, ReplicaId, ShardId};
use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

/// How long there may be none before it is said: an election takes less.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How long until it is said again, at first; each time it takes twice as long ...
const SAY_EVERY: Duration = Duration::from_secs(15);
/// ... up to this.
const SAY_EVERY_MAX: Duration = Duration::from_secs(240);
/// Groups of a core that say so in that time.
const SAID_MAX: u32 = 4;

/// How long a group has had no leader.
#[derive(Default)]
pub(super) struct Silence {
    since: Cell<Option<Instant>>,
    /// When it was last time to say that, and how long until it is again.
    said: Cell<Option<(Instant, Duration)>>,
    /// Whether it was said.
    is_told: Cell<bool>,
}

impl Silence {
    /// Whether it is time to say that there is no leader.
    fn is_due(&self, now: Instant) -> bool {
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        let (is_due, pause) = match self.said.get() {
            None => (now - since >= SILENT_FOR, SAY_EVERY),
            Some((said, pause)) => (now - said >= pause, (pause * 2).min(SAY_EVERY_MAX)),
        };
        if is_due {
            self.said.set(Some((now, pause)));
        }
        is_due
    }

    /// There is a leader; returns whether it was said that there is none.
    fn end(&self) -> bool {
        self.since.set(None);
        self.said.set(None);
        self.is_told.replace(false)
    }
}

/// What the groups of one core say of having no leader: a few lines, however many they are.
#[derive(Default)]
pub(crate) struct Silences {
    since: Cell<Option<Instant>>,
    said: Cell<u32>,
    untold: Cell<u64>,
}

impl Silences {
    /// Whether one more group may say it, and how many could not since the last one that did.
    fn may_say(&self, now: Instant) -> Option<u64> {
        if self
            .since
            .get()
            .is_none_or(|since| now - since >= SAY_EVERY)
        {
            self.since.set(Some(now));
            self.said.set(0);
        }
        if self.said.get() >= SAID_MAX {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.said.set(self.said.get() + 1);
        Some(self.untold.take())
    }
}

impl Group {
    /// Why there is no leader, as far as this node knows; `None` if there is one.
    pub fn waits_for(&self) -> Option<String> {
        self.inner.waits_for()
    }
}

impl GroupInner {
    /// Says in the log what the group waits for, while it has no leader.
    pub(super) fn say_what_it_waits_for(&self, now: Instant) {
        let silence = &self.silence;
        if self.is_led() {
            if silence.end() {
                tracing::warn!("{}: has a leader again", named(self.shard_id));
            }
            return;
        }
        // A promise may have begun and ended unseen.
        self.wake.notify_one();
        if silence.is_due(now)
            && let Some(untold) = self.silences.may_say(now)
            && let Some(why) = self.waits_for()
        {
            match untold {
                0 => tracing::warn!("{why}"),
                untold => tracing::warn!("{why}; {untold} more shards of this core had none"),
            }
            silence.is_told.set(true);
        }
    }

    fn waits_for(&self) -> Option<String> {
        if self.is_led() {
            return None;
        }
        let peers = self.stores.other_voters().into_iter().map(ReplicaId::node);
        let peers = peers.filter(|peer| *peer != self.me.node());
        let peers = peers.map(|peer| (peer, self.seen(peer)));
        let mut why = no_leader(self.shard_id, peers, self.is_stopped());
        for voter in self.stores.voters() {
            let says = match self.standing_of(voter) {
                Some(Standing::Unclaimed) => "does not count before a leader has bound its store",
                Some(Standing::Stranger) => "has a store that does not count",
                Some(Standing::Member | Standing::Absent) | None => continue,
            };
            // Writing to a string does not fail.
            let _ = write!(why, ", node {} {says}", voter.node().0);
        }
        Some(why)
    }
}

impl GroupInner {
    /// Whether the leader's node is heard, and has acknowledged that it leads, or this node leads with a majority.
    /// openraft names the last leader until there is another one.
    pub(super) fn is_led(&self) -> bool {
        let vote = self.vote_seen();
        let leader = leader_of_vote(&vote);
        match self.leading() {
            Some(leading) => self.is_reached() && self.has_applied_own(leading),
            None => {
                let is_led = vote.committed && self.turning.follows(leader);
                is_led && !self.turning.is_released(leader) && self.has_answered(vote.node)
            }
        }
    }

    /// What the group makes of the store of a replica's node, if that is known.
    fn standing_of(&self, replica: ReplicaId) -> Option<Standing> {
        let store = match replica.node() == self.me.node() {
            true => Some(self.stores.me().store),
            false => (self.link_to)(replica.node()).store(),
        };
        store.map(|store| self.stores.standing(GroupMember { replica, store }))
    }

    fn is_recent(&self, at: Option<Instant>) -> bool {
        let recent = SILENT_FOR.max(2 * self.liveness.options().promise);
        at.is_some_and(|at| corelith_io::now() - at < recent)
    }

    /// When a peer was there, by what came from it and by the connection to it.
    fn seen(&self, peer: NodeId) -> PeerSeen {
        let heard = self.door.heard(peer);
        match (self.link_to)(peer).seen() {
            _ if self.is_recent(heard) => PeerSeen::Connected,
            PeerSeen::Never => heard.map_or(PeerSeen::Never, |at| {
                PeerSeen::Before(corelith_io::now() - at)
            }),
            PeerSeen::Before(ago) => {
                let heard = heard.map_or(ago, |at| corelith_io::now() - at);
                PeerSeen::Before(ago.min(heard))
            }
            PeerSeen::Connected => PeerSeen::Connected,
        }
    }
}

fn named(shard: ShardId) -> String {
    match shard {
        ShardId::META => "the meta shard".to_owned(),
        ShardId(shard) => format!("shard {shard}"),
    }
}

/// What is said of a group without a leader.
fn no_leader(
    shard: ShardId,
    peers: impl Iterator<Item = (NodeId, PeerSeen)>,
    is_stopped: bool,
) -> String {
    let mut text = format!("{}: no leader", named(shard));
    if is_stopped {
        text.push_str(", its storage has failed on this node");
        return text;
    }
    let mut all_connected = true;
    for (peer, seen) in peers {
        // Writing to a string does not fail.
        let _ = match seen {
            PeerSeen::Connected => continue,
            PeerSeen::Never => write!(text, ", node {} has not been seen", peer.0),
            PeerSeen::Before(ago) => {
                let secs = ago.as_secs();
                write!(text, ", node {} was last seen {secs} s ago", peer.0)
            }
        };
        all_connected = false;
    }
    if all_connected {
        text.push_str(" yet, its nodes are connected");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;

    /// Seconds of the first `limit` at which `says` does.
    fn seconds(limit: u64, says: impl Fn(Instant) -> bool) -> Vec<u64> {
        let sim = Sim::new(1);
        let node = sim.add_node();
        let began = sim.block_on(node, async { corelith_io::now() });
        let at = |second: &u64| began + Duration::from_secs(*second);
        (0..limit).filter(|second| says(at(second))).collect()
    }

    #[test]
    fn it_is_said_again_at_longer_and_longer_pauses() {
        let silence = Silence::default();
        let said = seconds(1000, |now| silence.is_due(now));
        assert_eq!(said, [3, 18, 48, 108, 228, 468, 708, 948]);
        assert!(!silence.end(), "nobody was told");
        silence.is_told.set(true);
        assert!(silence.end() && !silence.end());
        assert_eq!(seconds(20, |now| silence.is_due(now)), [3, 18], "anew");
    }

    #[test]
    fn many_groups_say_it_in_a_few_lines_and_a_number() {
        let silences = Silences::default();
        let said = seconds(2, |now| {
            let told = (0..1000).filter(|_| silences.may_say(now).is_some());
            told.count() == SAID_MAX as usize
        });
        assert_eq!(said, [0], "and no more a second later");
        // One more a second, until it is said again.
        let untold = 2000 - u64::from(SAID_MAX) + SAY_EVERY.as_secs();
        let later = seconds(SAY_EVERY.as_secs() + 1, |now| {
            silences.may_say(now) == Some(untold)
        });
        assert_eq!(later, [SAY_EVERY.as_secs()]);
    }

    #[test]
    fn it_says_whom_it_waits_for() {
        let check = |peers: &[(u64, PeerSeen)], is_stopped, expected: &str| {
            let peers = peers.iter().map(|(node, seen)| (NodeId(*node), *seen));
            assert_eq!(no_leader(ShardId(2), peers, is_stopped), expected);
        };
        let gone = PeerSeen::Before(Duration::from_millis(12_700));
        check(
            &[(1, PeerSeen::Connected), (3, PeerSeen::Never)],
            false,
            "shard 2: no leader, node 3 has not been seen",
        );
        check(
            &[(1, gone), (3, PeerSeen::Never)],
            false,
            "shard 2: no leader, node 1 was last seen 12 s ago, node 3 has not been seen",
        );
        check(
            &[(1, PeerSeen::Connected), (3, PeerSeen::Connected)],
            false,
            "shard 2: no leader yet, its nodes are connected",
        );
        check(
            &[(1, PeerSeen::Never)],
            true,
            "shard 2: no leader, its storage has failed on this node",
        );
        let meta = no_leader(ShardId::META, std::iter::empty(), true);
        assert!(meta.starts_with("the meta shard: no leader"), "{meta}");
    }
}
