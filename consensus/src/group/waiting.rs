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
/// How often it is said again.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// How long a group has had no leader.
#[derive(Default)]
pub(super) struct Silence {
    since: Cell<Option<Instant>>,
    /// When that was said last.
    said: Cell<Option<Instant>>,
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
            if silence.since.take().is_some() && silence.said.take().is_some() {
                tracing::warn!("shard {}: has a leader again", self.shard_id.0);
            }
            return;
        }
        // A promise may have begun and ended unseen.
        self.wake.notify_one();
        let since = silence.since.get().unwrap_or(now);
        silence.since.set(Some(since));
        let is_due = match silence.said.get() {
            None => now - since >= SILENT_FOR,
            Some(said) => now - said >= SAY_EVERY,
        };
        if is_due && let Some(why) = self.waits_for() {
            tracing::warn!("{why}");
            silence.said.set(Some(now));
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

/// What is said of a group without a leader.
fn no_leader(
    shard: ShardId,
    peers: impl Iterator<Item = (NodeId, PeerSeen)>,
    is_stopped: bool,
) -> String {
    let mut text = format!("shard {}: no leader", shard.0);
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
    }
}
