//! What a group waits for while it has no leader, in words.

use super::{Group, GroupInner};
use crate::link::PeerSeen;
use crate::route::GroupMember;
use crate::stores::Standing;
use corelith_io::{Instant, sleep};
use corelith_shards::{NodeId, ShardId};
use openraft::async_runtime::WatchReceiver;
use std::fmt::Write as _;
use std::time::Duration;

/// How often it is looked whether there is a leader.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long there may be none before it is said: an election takes less.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How often it is said again.
const SAY_EVERY: Duration = Duration::from_secs(15);

impl Group {
    /// Why there is no leader, as far as this node knows; `None` if there is one.
    pub fn waits_for(&self) -> Option<String> {
        self.inner.waits_for()
    }
}

impl GroupInner {
    /// Says in the log what the group waits for, while it has no leader.
    pub(super) async fn say_what_it_waits_for(&self) {
        let mut without: Option<Instant> = None;
        let mut say_at = SILENT_FOR;
        loop {
            sleep(LOOK_EVERY).await;
            let now = corelith_io::now();
            let Some(why) = self.waits_for() else {
                if without.take().is_some() && say_at > SILENT_FOR {
                    tracing::warn!("shard {}: has a leader again", self.shard_id.0);
                }
                say_at = SILENT_FOR;
                continue;
            };
            let without = now - *without.get_or_insert(now);
            if without >= say_at {
                tracing::warn!("{why}");
                say_at = without + SAY_EVERY;
            }
        }
    }

    fn waits_for(&self) -> Option<String> {
        if self.is_led() {
            return None;
        }
        let peers = self.members.iter().filter(|member| **member != self.me);
        let peers = peers.map(|peer| (*peer, self.seen(*peer)));
        let mut why = no_leader(self.shard_id, peers, self.is_stopped());
        for node in &self.members {
            let says = match self.standing_of(*node) {
                Some(Standing::Unclaimed) => "does not count before a leader has bound its store",
                Some(Standing::Stranger) => "has a store that does not count",
                Some(Standing::Member) | None => continue,
            };
            // Writing to a string does not fail.
            let _ = write!(why, ", node {} {says}", node.0);
        }
        Some(why)
    }
}

impl GroupInner {
    /// Whether the leader is heard, or this node leads with a majority. openraft names the last leader
    /// until there is another one.
    pub(super) fn is_led(&self) -> bool {
        match self.current_leader() {
            Some(leader) if leader == self.me => {
                let acked = self.data.borrow_watched().last_quorum_acked;
                self.stores.voters() == 1 || self.is_recent(acked.map(|acked| acked.into_inner().0))
            }
            Some(leader) => self.is_recent(self.door.heard(leader)),
            None => false,
        }
    }

    /// What the group makes of the store of `node`, if that is known.
    fn standing_of(&self, node: NodeId) -> Option<Standing> {
        let store = match node == self.me {
            true => Some(self.stores.me().store),
            false => (self.link_to)(node.0).store(),
        };
        store.map(|store| self.stores.standing(GroupMember { node, store }))
    }

    fn is_recent(&self, at: Option<Instant>) -> bool {
        let recent = SILENT_FOR.max(2 * self.options.election_timeout_max);
        at.is_some_and(|at| corelith_io::now() - at < recent)
    }

    /// When a peer was there, by what came from it and by the connection to it.
    fn seen(&self, peer: NodeId) -> PeerSeen {
        let heard = self.door.heard(peer);
        match (self.link_to)(peer.0).seen() {
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
