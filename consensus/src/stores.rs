//! Who the members of a group are, and which stores count as them.
//!
//! A membership says of each member which store it is: its *slot*. A replica's votes and acknowledgements
//! count only if they come from the store in its slot. Another store of the same node (its directory was
//! wiped, restored or mixed up) is a stranger: whoever asks it does not count its answers, and nobody
//! answers it. A slot is *unclaimed* when its node had not been met when the group was formed; the leader
//! *binds* it to the store that it meets there. Slots of memberships from before there were stores are of
//! *any* store of the node, and are bound likewise. Who is taken in later has a store from the start.
//!
//! A replica goes by the last membership in its log, committed or not, as Raft demands; while its log has none, by the one
//! with which the group begins, or what it was told when it was taken in.
//!
//! Who looks at what:
//! * A candidate and a leader count nobody but voters with the stores in their slots, by the membership that they go by. While
//!   that is joint, what they count must be a majority of each of the two configurations. Learners count nowhere, and
//!   a leader counts itself only where it is a voter.
//! * A replica stands only as a voter whose slot is its store's, of the membership that it goes by or of the last one that it
//!   knows to be committed: the one before may be needed until the new one is committed. So votes and appends come from
//!   nobody else, and a replica also answers a peer whose slot is unclaimed by what it knows itself, or that is in no
//!   membership that it has: that peer knows more. It must, or nobody might be left to lead once such a peer has the
//!   longest log, and a replica that is taken in would hear nobody. Of a candidate it then demands a longer log than its own,
//!   which it has if there is such an entry. So a replica that was removed wins no vote of those who know it.
//! * A replica whose own slot is another store's answers nobody.
//! * A replica that is in neither membership of its log votes for nobody. It need not be a voter there: that it is one may be
//!   in an entry that is not here, and without its vote nobody may have a majority.
//!
//! Why bindings are safe: a majority is one of all slots, bound or not, so any two majorities share a slot.
//! A slot is never bound twice in one log ([`crate::steps`]), and there is one log up to what is committed. What
//! is left are two bindings of one slot in two logs, of which none is committed. They cannot both be
//! counted. A leader binds after an entry of its own term is committed, and one slot at a time. The majority
//! that has this entry consists of stores that both logs agree on, and votes for no log of an older term.
//! So once a binding is proposed, no log with another one that is older can elect or commit any more. (It is
//! the argument for changes of one member at a time in Raft: a binding adds one voter to a group whose
//! majority is already that of the larger group. `tests/model.rs` tries it at random.) Members change by joint consensus.
//!
//! Why a replica may forget: it may not. One that has lost what it wrote (its store was wiped, its log damaged) comes back as
//! another replica, which nobody has counted before. Its number is never used again.
//!
//! Invariants:
//! * Slots go from unclaimed or any to a store, and nowhere else: a replica is of one store for ever.
//! * An answer counts for the store that was connected when it was asked for.

use crate::membership;
use crate::planted::{Bug, is_planted};
use crate::route::{GroupMember, NodeStore, Origin};
use crate::types::{self, Membership, StoredMembership, Types};
use bytes::Bytes;
use corelith_shards::{LogId, NodeId, ReplicaId};
use corelith_wire::StoreId;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a group makes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts, if it is a voter.
    Member,
    /// Nobody has the slot yet.
    Unclaimed,
    /// The replica has no slot: it was removed, or that it was taken in is not known here.
    Absent,
    /// Another store has the slot.
    Stranger,
}

/// What a store is to a group in which its replica has that slot.
pub(crate) fn standing(slot: Option<StoreId>, store: StoreId) -> Standing {
    match slot {
        _ if is_planted(Bug::TrustAnyStore) => Standing::Member,
        Some(StoreId::ANY) => Standing::Member,
        Some(StoreId::UNCLAIMED) => Standing::Unclaimed,
        Some(slot) if slot == store => Standing::Member,
        Some(_) => Standing::Stranger,
        None => Standing::Absent,
    }
}

/// Whether a slot has a store for good.
pub(crate) fn is_bound(slot: StoreId) -> bool {
    slot != StoreId::ANY && slot != StoreId::UNCLAIMED
}

/// Which slot a leader binds next: its own first, then that of a member that is connected.
pub(crate) fn next_binding(
    membership: &Membership,
    me: GroupMember,
    connected: impl Fn(NodeId) -> Option<StoreId>,
) -> Option<GroupMember> {
    let open = |replica: ReplicaId| {
        let slot = membership.get_node(&replica.0).copied();
        slot.is_some_and(|slot| !is_bound(slot))
    };
    if open(me.replica) {
        return Some(me);
    }
    let others = membership.nodes().map(|(replica, _)| ReplicaId(*replica));
    let mut open = others.filter(|replica| open(*replica));
    open.find_map(|replica| {
        let store = connected(replica.node()).filter(|store| is_bound(*store))?;
        Some(GroupMember { replica, store })
    })
}

/// The membership with which a group begins.
pub(crate) fn founding(members: &[GroupMember]) -> Membership {
    let nodes: BTreeMap<u64, StoreId> = members
        .iter()
        .map(|member| (member.replica.0, member.store))
        .collect();
    let voters = nodes.keys().copied().collect();
    // Every voter has a node.
    Membership::new(vec![voters], nodes).unwrap_or_default()
}

/// The members of a group as one replica knows them: by the last membership in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMembers {
    /// The entry that names them; `None` while there is none.
    pub at: Option<LogId>,
    /// Whether it is known to be committed.
    pub is_committed: bool,
    /// The voters; two sets while they change.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Those that receive the log and have no vote.
    pub learners: BTreeSet<ReplicaId>,
    /// The store of each member.
    pub stores: BTreeMap<ReplicaId, StoreId>,
    /// The same in bytes, for [`Group::told`](crate::Group::told) at a replica that is taken in.
    pub body: Bytes,
}

impl GroupMembers {
    fn of(stored: &StoredMembership, is_committed: bool) -> Self {
        let membership = stored.membership();
        let replicas = |ids: &BTreeSet<u64>| ids.iter().copied().map(ReplicaId).collect();
        let slot = |(replica, store): (&u64, &StoreId)| (ReplicaId(*replica), *store);
        let mut voters = membership.voter_ids();
        assert!(
            voters.all(|voter| membership.get_node(&voter).is_some()),
            "each voter has a slot: {membership:?}"
        );
        Self {
            at: (*stored.log_id()).map(types::shard_log_id),
            is_committed,
            voters: membership.get_joint_config().iter().map(replicas).collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
            stores: membership.nodes().map(slot).collect(),
            body: membership::encode(membership),
        }
    }
}

/// The members and stores of one group, as this replica knows them.
pub(crate) struct Stores {
    me: GroupMember,
    /// The membership with which the group begins, or that this replica was told when it was taken in.
    base: RefCell<Arc<StoredMembership>>,
    /// Whether the group begins with this replica.
    is_founder: bool,
    /// Whether this node has met another one.
    has_met: Box<dyn Fn(NodeId) -> bool>,
    server: OnceCell<WatchReceiverOf<Types, RaftServerMetrics<Types>>>,
}

impl Stores {
    /// Of the replica `me`, which came to be in its group like that.
    pub(crate) fn new(
        me: GroupMember,
        origin: &Origin,
        has_met: impl Fn(NodeId) -> bool + 'static,
    ) -> Self {
        let stores = Self {
            me,
            base: RefCell::default(),
            is_founder: matches!(origin, Origin::Founding(_)),
            has_met: Box::new(has_met),
            server: OnceCell::new(),
        };
        match origin {
            Origin::Founding(members) => {
                let founding = StoredMembership::new(None, founding(members));
                stores.base.replace(Arc::new(founding));
            }
            Origin::Admitted { told, .. } => {
                if let Some((at, body)) = told {
                    stores.told(*at, body);
                }
            }
        }
        stores
    }

    /// Takes note of a membership that names this replica; whether it is one, and newer than what was told before.
    pub(crate) fn told(&self, at: LogId, body: &[u8]) -> bool {
        let at = types::log_id(at);
        let is_newer = *self.base.borrow().log_id() < Some(at);
        let told = membership::decode(body).filter(|told| {
            let is_me = told.get_node(&self.me.replica.0) == Some(&self.me.store);
            is_me && is_newer && !self.is_founder
        });
        if let Some(told) = told {
            assert!(!self.is_founder, "who forms a group is told nothing");
            let told = StoredMembership::new(Some(at), told);
            self.base.replace(Arc::new(told));
            return true;
        }
        false
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
        look(self.base.borrow().membership())
    }

    /// The same for whoever asks from outside.
    pub(crate) fn members(&self) -> GroupMembers {
        if let Some(server) = self.server.get() {
            let server = server.borrow_watched();
            let effective = &server.membership_config;
            if effective.log_id().is_some() {
                let committed = server.committed_membership_config.log_id();
                return GroupMembers::of(effective, effective.log_id() == committed);
            }
        }
        GroupMembers::of(&self.base.borrow(), false)
    }

    /// The last membership that this replica knows to be committed, and the one with which the group
    /// begins if there is none.
    pub(crate) fn committed(&self) -> Arc<StoredMembership> {
        let server = self.server.get().map(WatchReceiver::borrow_watched);
        let committed = server.map(|server| Arc::clone(&server.committed_membership_config));
        let committed = committed.filter(|committed| committed.log_id().is_some());
        committed.unwrap_or_else(|| Arc::clone(&self.base.borrow()))
    }

    /// Of a replica that knows `committed` to be committed.
    #[cfg(test)]
    pub(crate) fn knowing(me: GroupMember, committed: StoredMembership) -> Self {
        Self {
            me,
            base: RefCell::new(Arc::new(committed)),
            is_founder: true,
            has_met: Box::new(|node| node.0 == 4),
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

    /// Whether the voters change: there are two configurations.
    pub(crate) fn is_joint(&self) -> bool {
        self.effective(|membership| membership.get_joint_config().len() > 1)
    }

    /// The slot of a replica.
    pub(crate) fn slot(&self, replica: ReplicaId) -> Option<StoreId> {
        self.effective(|membership| membership.get_node(&replica.0).copied())
    }

    /// What the group makes of a store.
    pub(crate) fn standing(&self, of: GroupMember) -> Standing {
        standing(self.slot(of.replica), of.store)
    }

    /// Whether what that store says counts, if it is a voter.
    pub(crate) fn counts(&self, of: GroupMember) -> bool {
        self.standing(of) == Standing::Member
    }

    /// What the group makes of a store, whichever of its node's replicas it is.
    pub(crate) fn standing_of(&self, of: NodeStore) -> Standing {
        let replicas = self.effective(|membership| {
            let slots = membership.nodes();
            let of_node = slots.filter(|(replica, _)| ReplicaId(**replica).node() == of.node);
            let standings = of_node.map(|(_, slot)| standing(Some(*slot), of.store));
            standings.collect::<Vec<_>>()
        });
        let all = [Standing::Member, Standing::Unclaimed, Standing::Stranger];
        let best = all.into_iter().find(|one| replicas.contains(one));
        best.unwrap_or(Standing::Absent)
    }

    /// Whether there may be such a replica.
    pub(crate) fn could_be(&self, replica: ReplicaId) -> bool {
        self.slot(replica).is_some()
            || replica.node() == self.me.replica.node()
            || (self.has_met)(replica.node())
    }

    /// Whether `holds` of the membership that this replica goes by, or of the last one that is known to be committed, both in
    /// its log; of one with which the group begins if there is none yet.
    fn in_log(&self, holds: impl Fn(&Membership) -> bool) -> bool {
        let Some(server) = self.server.get() else {
            return false;
        };
        let server = server.borrow_watched();
        if server.membership_config.log_id().is_none() {
            drop(server);
            return self.is_founder && holds(self.base.borrow().membership());
        }
        holds(server.membership_config.membership())
            || holds(server.committed_membership_config.membership())
    }

    /// Whether this replica may stand for election.
    pub(crate) fn may_stand(&self) -> bool {
        let me = self.me;
        self.in_log(|membership| {
            let slot = membership.get_node(&me.replica.0).copied();
            let mut voters = membership.voter_ids();
            standing(slot, me.store) == Standing::Member
                && voters.any(|voter| voter == me.replica.0)
        })
    }

    /// Whether this replica may vote.
    pub(crate) fn may_vote(&self) -> bool {
        if is_planted(Bug::VoteBeforeMembership) {
            return true;
        }
        let me = self.me;
        self.in_log(|membership| {
            let slot = membership.get_node(&me.replica.0).copied();
            slot.is_some() && standing(slot, me.store) != Standing::Stranger
        })
    }

    /// Whether there is a slot to bind.
    pub(crate) fn has_open(&self) -> bool {
        self.effective(|membership| membership.nodes().any(|(_, store)| !is_bound(*store)))
    }

    /// Whether those that count are a majority: of each configuration, if there are two.
    pub(crate) fn is_majority(&self, counts: impl Fn(ReplicaId) -> bool) -> bool {
        self.effective(|membership| membership::is_majority(membership, counts))
    }

    /// Whether this replica is the only voter.
    pub(crate) fn is_alone(&self) -> bool {
        let me = self.me.replica.0;
        self.effective(|membership| {
            let mut voters = membership.voter_ids();
            voters.next() == Some(me) && voters.next().is_none()
        })
    }

    /// Whether this replica is a voter of the membership that it goes by.
    pub(crate) fn is_voter(&self) -> bool {
        let me = self.me.replica.0;
        self.effective(|membership| membership.voter_ids().any(|voter| voter == me))
    }

    /// The voters, of both configurations if there are two.
    pub(crate) fn voters(&self) -> Vec<ReplicaId> {
        self.effective(|membership| membership.voter_ids().map(ReplicaId).collect())
    }

    /// The voters that stay: those of the last configuration.
    pub(crate) fn staying(&self) -> Vec<ReplicaId> {
        self.effective(|membership| {
            let last = membership.get_joint_config().last();
            let voters = last.into_iter().flatten();
            voters.copied().map(ReplicaId).collect()
        })
    }

    /// The other voters.
    pub(crate) fn other_voters(&self) -> Vec<ReplicaId> {
        let mut voters = self.voters();
        voters.retain(|voter| *voter != self.me.replica);
        voters
    }

    /// All other members, learners included.
    pub(crate) fn others(&self) -> Vec<ReplicaId> {
        let members = self.effective(|membership| {
            let ids = membership.nodes().map(|(id, _)| ReplicaId(*id));
            ids.collect::<Vec<_>>()
        });
        let mut others = members;
        others.retain(|replica| *replica != self.me.replica);
        others
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
