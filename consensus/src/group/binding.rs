//! Forming a new group, and binding its slots to stores: see `stores.rs`.
//!
//! Any replica that has nothing may form the group: the first entry says the same on all of them, and a
//! majority that has nothing shows that nothing was ever committed. One of those that form it is elected, and
//! its log replaces the first entries of the others.
//!
//! Invariants:
//! * A replica forms the group or stands only if its own slot is its store's.
//! * A leader binds one slot at a time: after an entry of its own term and the binding before are committed.

use super::GroupInner;
use crate::route::GroupMember;
use crate::stores::{self, Standing};
use corelith_shards::{NodeId, ReplicaId};
use corelith_wire::StoreId;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::Precondition;
use std::time::Duration;

/// How often a leader looks whether it can bind a slot, while there is one to bind.
const BIND_EVERY: Duration = Duration::from_millis(500);
/// How many lengths of a promise each replica leaves to the one before it to form the group.
const FORM_AFTER: u32 = 3;

/// The place of `me` among the replicas that may form the group, the preferred one first; `None` if it may
/// not.
fn place_to_form(founding: &[GroupMember], preferred: NodeId, me: GroupMember) -> Option<u32> {
    let own = founding
        .iter()
        .find(|member| member.replica == me.replica)?;
    if stores::standing(Some(own.store), me.store) != Standing::Member {
        return None;
    }
    let may = |member: &&GroupMember| member.store != StoreId::UNCLAIMED;
    let mut order: Vec<ReplicaId> = founding.iter().filter(may).map(|one| one.replica).collect();
    order.sort_by_key(|replica| replica.node() != preferred);
    let place = order.iter().position(|replica| *replica == me.replica)?;
    u32::try_from(place).ok()
}

impl GroupInner {
    /// Forms a new group, unless another replica has.
    pub(super) async fn form(&self) {
        let Some(founding) = &self.founding else {
            return;
        };
        let place = place_to_form(founding, self.preferred.get(), self.stores.me());
        let Some(place) = place else { return };
        corelith_io::sleep(self.liveness.options().promise * FORM_AFTER * place).await;
        let is_formed = {
            let server = self.server.borrow_watched();
            server.current_leader.is_some() || server.membership_config.log_id().is_some()
        };
        if is_formed {
            return;
        }
        let founding = founding.iter();
        let members = founding.map(|member| (member.replica.0, member.store));
        let members: std::collections::BTreeMap<u64, StoreId> = members.collect();
        if let Err(error) = self.raft.initialize(members).await {
            tracing::debug!(shard = %self.shard_id, %error, "the group was formed before");
        }
    }

    /// Binds slots while this replica leads.
    pub(super) async fn bind_stores(&self) {
        let mut server = self.server.clone();
        loop {
            server.borrow_and_update();
            if self.leading().is_some() && self.stores.has_open() {
                self.bind_next().await;
                corelith_io::sleep(BIND_EVERY).await;
            } else if server.changed().await.is_err() {
                return;
            }
        }
    }

    async fn bind_next(&self) {
        let Some(leading) = self.leading() else {
            return;
        };
        let applied = self.applied.last();
        let has_own =
            applied.is_some_and(|id| (id.term.0, id.node.0) == (leading.term, leading.node_id));
        if self.is_changing.get() || !has_own || !self.stores.is_settled() || self.stores.is_joint()
        {
            return;
        }
        let connected = |node: NodeId| (self.link_to)(node).store();
        let me = self.stores.me();
        let next = self
            .stores
            .effective(|membership| stores::next_binding(membership, me, connected));
        let Some(GroupMember { replica, store }) = next else {
            return;
        };
        let slot = self.stores.slot(replica);
        assert!(
            slot.is_some_and(|slot| !stores::is_bound(slot)) && stores::is_bound(store),
            "{slot:?} of {replica} becomes {store}"
        );
        let change = ChangeMembers::SetNodes([(replica.0, store)].into());
        let only = [Precondition::CommittedLeaderId {
            committed_leader_id: leading,
        }];
        match self.raft.change_membership_if(change, true, only).await {
            Ok(_) => tracing::info!(shard = %self.shard_id, %replica, %store, "the store is bound"),
            // The next leader binds it.
            Err(error) => tracing::debug!(shard = %self.shard_id, %replica, %error, "not bound"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replicas_whose_slot_is_theirs_form_the_group() {
        let member = |node: u64, store: u128| GroupMember {
            replica: ReplicaId(node),
            store: StoreId(store),
        };
        let any = u128::MAX;
        // (stores of nodes 1 to 3, preferred node, this one, its place)
        let table = [
            ([11, 12, 13], 1, member(1, 11), Some(0)),
            ([11, 12, 13], 1, member(3, 13), Some(2)),
            ([11, 12, 13], 2, member(1, 11), Some(1)),
            ([11, 12, 13], 2, member(2, 12), Some(0)),
            ([11, 12, 13], 2, member(2, 99), None),
            ([0, 12, 13], 1, member(1, 11), None),
            ([0, 12, 13], 1, member(2, 12), Some(0)),
            ([0, 12, 13], 1, member(3, 13), Some(1)),
            ([any, any, any], 3, member(2, 12), Some(2)),
            ([11, 12, 13], 1, member(4, 14), None),
        ];
        for (stores, preferred, me, expected) in table {
            let founding: Vec<GroupMember> = (1..)
                .zip(stores)
                .map(|(node, store)| member(node, store))
                .collect();
            let place = place_to_form(&founding, NodeId(preferred), me);
            assert_eq!(place, expected, "{stores:?} {preferred} {me:?}");
        }
    }
}
