//! Which stores count in a group.
//!
//! A membership says of each member which store it is: its *slot*. A replica's votes and acknowledgements
//! count only if they come from the store in its slot. Another store of the same node (its directory was
//! wiped, restored or mixed up) is a stranger: whoever asks it does not count its answers, and nobody
//! answers it. A slot is *unclaimed* when its node had not been met when the group was formed; the leader
//! *binds* it to the store that it meets there. Slots of memberships from before there were stores are of
//! *any* store of the node, and are bound likewise.
//!
//! Who looks at what:
//! * A candidate and a leader count nobody but stores in their slots, by the membership that they go by: the
//!   last one in their log.
//! * A replica stands only if its own slot is its store's. So votes and appends come from nobody else, and
//!   a replica also answers a member whose slot is unclaimed by what it knows itself: that member knows more.
//!   It must, or nobody might be left to lead once such a member has the longest log. Of a candidate it then
//!   demands a longer log than its own, which it has if there is such a binding.
//! * A replica whose own slot is another store's answers nobody.
//!
//! Why that is safe: a majority is one of all slots, bound or not, so any two majorities share a slot.
//! A slot is never bound twice in one log ([`extends`]), and there is one log up to what is committed. What
//! is left are two bindings of one slot in two logs, of which none is committed. They cannot both be
//! counted. A leader binds after an entry of its own term is committed, and one slot at a time. The majority
//! that has this entry consists of stores that both logs agree on, and votes for no log of an older term.
//! So once a binding is proposed, no log with another one that is older can elect or commit any more. (It is
//! the argument for changes of one member at a time in Raft: a binding adds one voter to a group whose
//! majority is already that of the larger group. `tests/model.rs` tries it at random.)
//!
//! Invariants:
//! * Slots go from unclaimed or any to a store, and nowhere else.
//! * An answer counts for the store that was connected when it was asked for.

use crate::planted::{Bug, is_planted};
use crate::route::GroupMember;
use crate::types::{Membership, StoredMembership, Types};
use corelith_shards::NodeId;
use corelith_wire::StoreId;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a group makes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts.
    Member,
    /// Nobody has the slot yet.
    Unclaimed,
    /// Another store has the slot, or the node has none.
    Stranger,
}

/// What a store is to a group in which its node has that slot.
pub(crate) fn standing(slot: Option<StoreId>, store: StoreId) -> Standing {
    match slot {
        _ if is_planted(Bug::TrustAnyStore) => Standing::Member,
        Some(StoreId::ANY) => Standing::Member,
        Some(StoreId::UNCLAIMED) => Standing::Unclaimed,
        Some(slot) if slot == store => Standing::Member,
        _ => Standing::Stranger,
    }
}

/// Whether a slot has a store for good.
pub(crate) fn is_bound(slot: StoreId) -> bool {
    slot != StoreId::ANY && slot != StoreId::UNCLAIMED
}

/// Whether `newer` may follow `older` in a log: it has the same members, and what is bound stays.
pub(crate) fn extends(older: &Membership, newer: &Membership) -> bool {
    older.get_joint_config() == newer.get_joint_config()
        && older.nodes().count() == newer.nodes().count()
        && older.nodes().all(|(node, was)| {
            let now = newer.get_node(node);
            now.is_some_and(|now| now == was || (!is_bound(*was) && is_bound(*now)))
        })
}

/// Whether no slot is bound to different stores in the two.
pub(crate) fn agree(one: &Membership, other: &Membership) -> bool {
    one.nodes().all(|(node, store)| {
        let other = other.get_node(node);
        other.is_none_or(|other| store == other || !is_bound(*store) || !is_bound(*other))
    })
}

/// Which slot a leader binds next: its own first, then that of a member that is connected.
pub(crate) fn next_binding(
    membership: &Membership,
    me: GroupMember,
    connected: impl Fn(NodeId) -> Option<StoreId>,
) -> Option<GroupMember> {
    let open = |node: NodeId| {
        let slot = membership.get_node(&node.0).copied();
        slot.is_some_and(|slot| !is_bound(slot))
    };
    if open(me.node) {
        return Some(me);
    }
    let others = membership.nodes().map(|(node, _)| NodeId(*node));
    let mut open = others.filter(|node| open(*node));
    open.find_map(|node| {
        let store = connected(node).filter(|store| is_bound(*store))?;
        Some(GroupMember { node, store })
    })
}

/// The membership with which a group begins.
pub(crate) fn founding(members: &[GroupMember]) -> Membership {
    let nodes: BTreeMap<u64, StoreId> = members
        .iter()
        .map(|member| (member.node.0, member.store))
        .collect();
    let voters = nodes.keys().copied().collect();
    // Every voter has a node.
    Membership::new(vec![voters], nodes).unwrap_or_default()
}

/// The stores of one group, as this replica knows them.
pub(crate) struct Stores {
    me: GroupMember,
    /// The membership with which the group begins.
    founding: Arc<StoredMembership>,
    server: OnceCell<WatchReceiverOf<Types, RaftServerMetrics<Types>>>,
}

impl Stores {
    /// Of a group that is, or was, formed with `members`; this replica is `me`.
    pub(crate) fn new(me: GroupMember, members: &[GroupMember]) -> Self {
        Self {
            me,
            founding: Arc::new(StoredMembership::new(None, founding(members))),
            server: OnceCell::new(),
        }
    }

    /// Goes by what openraft says from now on.
    pub(crate) fn follow(&self, server: WatchReceiverOf<Types, RaftServerMetrics<Types>>) {
        let first = self.server.set(server).is_ok();
        debug_assert!(first, "there is one openraft");
    }

    /// This replica.
    pub(crate) fn me(&self) -> GroupMember {
        self.me
    }

    /// Looks at the membership that this replica goes by: the last one in its log, or the one with which
    /// the group begins.
    pub(crate) fn effective<T>(&self, look: impl FnOnce(&Membership) -> T) -> T {
        if let Some(server) = self.server.get() {
            let server = server.borrow_watched();
            if server.membership_config.log_id().is_some() {
                return look(server.membership_config.membership());
            }
        }
        look(self.founding.membership())
    }

    /// The last membership that this replica knows to be committed, and the one with which the group
    /// begins if there is none.
    pub(crate) fn committed(&self) -> Arc<StoredMembership> {
        let server = self.server.get().map(WatchReceiver::borrow_watched);
        let committed = server.map(|server| Arc::clone(&server.committed_membership_config));
        let committed = committed.filter(|committed| committed.log_id().is_some());
        committed.unwrap_or_else(|| Arc::clone(&self.founding))
    }

    /// Of a replica that knows `committed` to be committed.
    #[cfg(test)]
    pub(crate) fn knowing(me: GroupMember, committed: StoredMembership) -> Self {
        Self {
            me,
            founding: Arc::new(committed),
            server: OnceCell::new(),
        }
    }

    /// Whether the membership that this replica goes by is committed.
    pub(crate) fn is_settled(&self) -> bool {
        let server = self.server.get().map(WatchReceiver::borrow_watched);
        server.is_some_and(|server| {
            server.membership_config.log_id() == server.committed_membership_config.log_id()
        })
    }

    /// All members with their slots.
    pub(crate) fn slots(&self) -> Vec<GroupMember> {
        let member = |(node, store): (&u64, &StoreId)| GroupMember {
            node: NodeId(*node),
            store: *store,
        };
        self.effective(|membership| membership.nodes().map(member).collect())
    }

    /// The slot of a node.
    pub(crate) fn slot(&self, node: NodeId) -> Option<StoreId> {
        self.effective(|membership| membership.get_node(&node.0).copied())
    }

    /// What the group makes of a store.
    pub(crate) fn standing(&self, of: GroupMember) -> Standing {
        standing(self.slot(of.node), of.store)
    }

    /// Whether what that store says counts.
    pub(crate) fn counts(&self, of: GroupMember) -> bool {
        self.standing(of) == Standing::Member
    }

    /// Whether this replica may stand for election.
    pub(crate) fn may_stand(&self) -> bool {
        self.counts(self.me)
    }

    /// Whether there is a slot to bind.
    pub(crate) fn has_open(&self) -> bool {
        self.effective(|membership| membership.nodes().any(|(_, store)| !is_bound(*store)))
    }

    /// How many members have a vote.
    pub(crate) fn voters(&self) -> usize {
        self.effective(|membership| membership.voter_ids().count())
    }

    /// Waits, for at most `limit`, until `holds`, which depends on the membership.
    pub(crate) async fn wait(&self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        if holds(self) {
            return true;
        }
        let Some(server) = self.server.get() else {
            return false;
        };
        let mut server = server.clone();
        let waiting = async {
            loop {
                server.borrow_and_update();
                if holds(self) {
                    return true;
                }
                if server.changed().await.is_err() {
                    return false;
                }
            }
        };
        corelith_io::timeout(limit, waiting).await == Ok(true)
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.effective(|membership| write!(f, "{} in {membership:?}", self.me.store))
    }
}

#[cfg(test)]
mod tests;
