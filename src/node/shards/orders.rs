//! What is done to the shards of a core while it runs: by order of another node, or since the map says so.

use super::CoreShards;
use crate::node::cluster::map::Map;
use crate::node::data_dir::identity::{HeldState, ShardNote, may_make};
use crate::node::error::NodeError;
use bytes::Bytes;
use corelith_consensus::{ChangeError, Group, GroupMember, Role};
use corelith_io::Sender;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::{MemberStep, NodeReply, ToldMembership};
use corelith_wire::{LogIndex, ReplicaId, StoreId};
use std::rc::Rc;

/// What is to be done to a shard.
#[derive(Clone, Debug)]
pub(crate) enum ShardOrder {
    /// Have this replica of it.
    Open {
        shard: ShardId,
        replica: ReplicaId,
        told: Option<ToldMembership>,
    },
    /// Change its members.
    Change { shard: ShardId, step: MemberStep },
}

impl ShardOrder {
    /// The shard.
    pub(crate) fn shard(&self) -> ShardId {
        match self {
            Self::Open { shard, .. } | Self::Change { shard, .. } => *shard,
        }
    }
}

/// What becomes of a replica that the node is to have, beside one that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplicaOpening {
    /// It is there.
    IsThere,
    /// It is made.
    Make,
    /// It is listed, and made now.
    MakeListed,
    /// The earlier one is dropped first.
    Replace,
    /// It cannot come back, or is older than what is there.
    Refuse,
}

/// `listed`: generation and state of what is listed; `runs`: whether that is open, or down.
fn opening(listed: Option<(u16, HeldState)>, runs: bool, wanted: u16) -> ReplicaOpening {
    let Some((generation, state)) = listed else {
        return ReplicaOpening::Make;
    };
    match state {
        _ if generation > wanted => ReplicaOpening::Refuse,
        HeldState::ToBeMade | HeldState::Made if generation < wanted => ReplicaOpening::Replace,
        HeldState::ToBeMade | HeldState::Made if runs => ReplicaOpening::IsThere,
        HeldState::ToBeMade => ReplicaOpening::MakeListed,
        // It was opened, and is not: the start that follows opens it.
        HeldState::Made => ReplicaOpening::Refuse,
        HeldState::Gone if generation < wanted => ReplicaOpening::Make,
        HeldState::Dropped if generation < wanted => ReplicaOpening::Replace,
        HeldState::Gone | HeldState::Dropped => ReplicaOpening::Refuse,
    }
}

/// Holds a shard while something is done to it.
struct Busy<'a> {
    shards: &'a CoreShards,
    shard: ShardId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let was_held = self.shards.busy.borrow_mut().remove(&self.shard);
        assert!(was_held, "{} is let go once", self.shard);
    }
}

impl CoreShards {
    /// Obeys an order, and tells what became of it. Does not wait.
    pub(crate) fn take(self: &Rc<Self>, order: ShardOrder, told: Sender<NodeReply>) {
        let shards = Rc::clone(self);
        corelith_io::spawn(async move {
            let reply = shards.obey(order).await;
            // Whoever asked may have given up.
            let _ = told.try_send(reply);
        });
    }

    /// Obeys an order; returns what became of it.
    pub(crate) async fn obey(&self, order: ShardOrder) -> NodeReply {
        match order {
            ShardOrder::Open {
                shard,
                replica,
                told,
            } => match self.open(shard, replica, told).await {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::warn!(%shard, %replica, %error, "a replica cannot be opened");
                    NodeReply::failed(error.to_string())
                }
            },
            ShardOrder::Change { shard, step } => match self.local.get(shard) {
                Some(group) => change(&group, step).await,
                None => NodeReply::NotLeader { leader: None },
            },
        }
    }

    fn hold(&self, shard: ShardId) -> Option<Busy<'_>> {
        let is_free = self.busy.borrow_mut().insert(shard);
        // Made only then: it frees the shard when it is dropped.
        is_free.then(|| Busy {
            shards: self,
            shard,
        })
    }

    async fn open(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        told: Option<ToldMembership>,
    ) -> Result<NodeReply, NodeError> {
        let Some(_busy) = self.hold(shard) else {
            return Ok(NodeReply::Busy);
        };
        let told = told.map(|told| (told.at(), Bytes::from(told.body)));
        let generation = replica.generation();
        loop {
            let listed = self.held.borrow().get(&shard).copied();
            let listed = listed.map(|held| (held.generation, held.state));
            match opening(listed, self.local.has(shard), generation) {
                ReplicaOpening::IsThere => {
                    let Some(group) = self.local.get(shard) else {
                        return Ok(NodeReply::failed(format!("{shard} is down on this node")));
                    };
                    if let Some((at, body)) = &told {
                        group.told(*at, body);
                    }
                    return Ok(NodeReply::Done { at: 0 });
                }
                ReplicaOpening::Refuse => {
                    let why =
                        format!("{replica} of {shard} is none that this node can have any more");
                    return Ok(NodeReply::failed(why));
                }
                ReplicaOpening::Replace => {
                    // One that is none any more is dropped by what the map says; one that runs is not lost.
                    let running = self.local.get(shard);
                    if running.is_some_and(|group| group.status().role != Role::Stopped) {
                        let why = format!("{shard} has a replica here that runs");
                        return Ok(NodeReply::failed(why));
                    }
                    self.drop_replica(shard).await?;
                    continue;
                }
                ReplicaOpening::Make => {
                    let may = may_make(&self.held.borrow(), shard, generation);
                    assert!(may, "{replica} of {shard} is new");
                    self.note(ShardNote::ToBeMade { shard, generation }).await?;
                }
                ReplicaOpening::MakeListed => {}
            }
            assert_eq!(
                self.state(shard),
                Some(HeldState::ToBeMade),
                "{shard} is listed before its directory is made"
            );
            let (_, storage) = self.open_storage(shard, false).await?;
            if storage.is_ok() {
                self.note(ShardNote::Made(vec![shard])).await?;
            }
            let joined = self.join(shard, generation, storage, told).await?;
            let is_up = joined.is_ok();
            self.add(generation, joined);
            tracing::info!(%shard, %replica, is_up, "a replica is opened");
            return Ok(match is_up {
                true => NodeReply::Done { at: 0 },
                false => NodeReply::failed(format!("{shard} is down on this node")),
            });
        }
    }

    /// Drops the replica of a shard, for good.
    async fn drop_replica(&self, shard: ShardId) -> Result<(), NodeError> {
        self.local.remove(shard);
        self.around.groups.close(shard).await;
        if self.state(shard) != Some(HeldState::Dropped) {
            self.note(ShardNote::Dropped(shard)).await?;
        }
        self.remove(shard).await?;
        tracing::info!(%shard, "the replica is dropped");
        Ok(())
    }

    /// Does what the map says of the shards of this core: drops those whose replica here is none any more, and
    /// prefers the leaders that it names. A map from before a replica's generation was given says nothing of it.
    pub(crate) async fn follow(&self, map: &Map) {
        let me = self.around.me.node;
        let listed = self.held.borrow().clone();
        for (shard, held) in listed.iter().filter(|(_, held)| held.is_there()) {
            let Some(place) = map.shard(*shard) else {
                continue;
            };
            let group = self.local.get(*shard);
            if let (Some(group), Some(first)) = (&group, place.replicas.first()) {
                group.prefer(first.node());
            }
            let replica = ReplicaId::new(me, held.generation);
            let named = place.replicas.iter().chain(
                place
                    .change
                    .iter()
                    .flat_map(|change| change.add.iter().chain(&change.remove)),
            );
            let is_named = named.copied().any(|named| named == replica);
            let known = group.as_ref().and_then(last_membership);
            let is_given = held.generation < place.next_generation;
            if is_given && is_gone(is_named, place.membership, known) {
                let Some(_busy) = self.hold(*shard) else {
                    continue;
                };
                if let Err(error) = self.drop_replica(*shard).await {
                    tracing::warn!(%shard, %error, "a replica cannot be dropped, and is when the node starts again");
                }
            }
        }
    }
}

/// The index of the last membership that a replica knows.
fn last_membership(group: &Group) -> Option<LogIndex> {
    group.members().at.map(|at| at.index)
}

/// Whether a replica is none any more: the map shows a membership that is as late as any that the replica knows, and
/// does not name it.
fn is_gone(is_named: bool, shown: LogIndex, known: Option<LogIndex>) -> bool {
    !is_named && known.is_none_or(|known| shown >= known)
}

async fn change(group: &Group, step: MemberStep) -> NodeReply {
    let done = match step {
        MemberStep::AddLearner { replica, store } => {
            let member = GroupMember {
                replica: ReplicaId(replica),
                store: StoreId(store),
            };
            group.add_learner(member).await
        }
        MemberStep::SetVoters { replicas } => {
            let voters = replicas.into_iter().map(ReplicaId).collect();
            group.set_voters(voters).await
        }
        MemberStep::RemoveLearner { replica } => group.remove_learner(ReplicaId(replica)).await,
        MemberStep::Lead { to } => {
            let handed_over = group.hand_lead_to(NodeId(to)).await;
            handed_over.map(|()| LogIndex(0))
        }
    };
    match done {
        Ok(at) => NodeReply::Done { at: at.0 },
        Err(ChangeError::NotLeader { leader }) => NodeReply::NotLeader {
            leader: leader.map(|node| node.0),
        },
        Err(ChangeError::Busy) => NodeReply::Busy,
        Err(ChangeError::Lags { replica, entries }) => NodeReply::Lags {
            replica: replica.0,
            entries,
        },
        Err(ChangeError::Refused(why)) => NodeReply::failed(why),
        Err(ChangeError::Shutdown) => NodeReply::NotLeader { leader: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_replica_that_is_to_be_opened() {
        use HeldState::{Dropped, Gone, Made, ToBeMade};
        use ReplicaOpening::{IsThere, Make, MakeListed, Refuse, Replace};
        let table = [
            // (what is listed, whether it runs, the generation that is wanted, what becomes of it)
            (None, false, 3, Make),
            (Some((3, ToBeMade)), false, 3, MakeListed),
            (Some((3, Made)), true, 3, IsThere),
            (Some((3, Made)), false, 3, Refuse),
            (Some((2, Made)), true, 3, Replace),
            (Some((2, ToBeMade)), false, 3, Replace),
            (Some((4, Made)), true, 3, Refuse),
            (Some((2, Dropped)), false, 3, Replace),
            (Some((3, Dropped)), false, 3, Refuse),
            (Some((2, Gone)), false, 3, Make),
            (Some((3, Gone)), false, 3, Refuse),
            (Some((4, Gone)), false, 3, Refuse),
        ];
        for (listed, runs, wanted, expected) in table {
            let found = opening(listed, runs, wanted);
            assert_eq!(found, expected, "{listed:?} {runs} {wanted}");
        }
    }

    #[test]
    fn a_replica_goes_when_a_later_membership_is_without_it() {
        let table = [
            // (named by the map, membership of the map, the replica's last one, whether it goes)
            (true, 9, Some(5), false),
            (false, 9, Some(5), true),
            (false, 5, Some(5), true),
            (false, 4, Some(5), false),
            (false, 0, None, true),
        ];
        for (is_named, shown, known, expected) in table {
            let found = is_gone(is_named, LogIndex(shown), known.map(LogIndex));
            assert_eq!(found, expected, "{is_named} {shown} {known:?}");
        }
    }
}
