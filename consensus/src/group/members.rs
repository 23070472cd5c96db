//! Changing the members of a group, which its leader does.
//!
//! A replica comes in as a learner, catches up, and is made a voter; who is a voter no more is no member any more. Voters
//! change by joint consensus: an entry with both configurations, then one with the second alone. A leader that is lost in
//! between leaves the group joint; the next one finishes it by itself.
//!
//! Invariants:
//! * A change is proposed only after an entry of the leader's own term and the membership before are committed, one at a
//!   time, and only on top of the membership that it was made for.
//! * Nobody becomes a voter who lags, does not answer, or has no entry that names it: the group would wait for it.
//! * A leader that is to leave hands its lead over first, to one that stays, if there is one that votes already.

use super::{Group, GroupInner, note};
use crate::error::ChangeError;
use crate::limits::{MEMBERS_MAX, VOTER_LAG_MAX};
use crate::proposal::node_of;
use crate::route::GroupMember;
use crate::stores::is_bound;
use crate::types::{self, LeaderId, Types};
use bytes::Bytes;
use corelith_io::sync::oneshot;
use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, LogIdOptionExt};
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;

/// How far the replicas of a group are, as its leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    /// The leader's last entry.
    pub last: Option<LogIndex>,
    /// The other members.
    pub others: Vec<ReplicaProgress>,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The replica.
    pub replica: ReplicaId,
    /// The last entry that it is known to have; `None` if it has not answered this leader yet, or has none.
    pub matching: Option<LogIndex>,
    /// Whether the beats of its node come.
    pub is_alive: bool,
}

type Change = ChangeMembers<u64, corelith_wire::StoreId>;

impl Group {
    /// Tells a replica that was taken in of a membership that names it. It goes by that until its log has one.
    pub fn told(&self, at: LogId, body: &Bytes) {
        if self.inner.stores.told(at, body) {
            self.inner.wake.notify_one();
        }
    }

    /// Makes another node the one that should lead.
    pub fn prefer(&self, node: NodeId) {
        self.inner.preferred.set(node);
    }

    /// How far the replicas are; `None` if this one does not lead.
    pub fn progress(&self) -> Option<GroupProgress> {
        let inner = &self.inner;
        inner.leading()?;
        let data = inner.data.borrow_watched();
        let progress = |replica| ReplicaProgress {
            replica,
            matching: inner.matching(&data, replica).index().map(LogIndex),
            is_alive: inner.has_answered(replica),
        };
        Some(GroupProgress {
            last: data.last_log.index().map(LogIndex),
            others: inner.stores.others().into_iter().map(progress).collect(),
        })
    }

    /// Takes a replica in as a learner; returns the entry that says so, once it is committed. One that is a member already is
    /// left as it is.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, member: GroupMember) -> Result<LogIndex, ChangeError> {
        self.change(move |inner| async move { inner.add_learner(member).await })
            .await
    }

    /// Makes exactly these replicas the voters, and those that were voters before and are none any more no members;
    /// returns the entry that says so, once it is committed. Who is no voter yet is a learner, and does not lag. A change of
    /// voters that is under way is finished first.
    ///
    /// # Errors
    /// See [`ChangeError`]; `NotLeader` also if this replica is not among them and has handed its lead over, so that the next
    /// leader is to be asked.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<LogIndex, ChangeError> {
        if voters.is_empty() || voters.len() > MEMBERS_MAX {
            return Err(ChangeError::Refused("no group has that many voters"));
        }
        self.change(move |inner| async move { inner.set_voters(voters).await })
            .await
    }

    /// Lets a learner go; returns the entry without it, once it is committed. One that is no member is none already.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove_learner(&self, replica: ReplicaId) -> Result<LogIndex, ChangeError> {
        self.change(move |inner| async move { inner.remove_learner(replica).await })
            .await
    }

    /// Hands the lead over to the replica of a node, and waits until it leads.
    ///
    /// # Errors
    /// See [`ChangeError`]; `Busy` if the lead was not taken in time: another replica will lead.
    pub async fn hand_lead_to(&self, node: NodeId) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let leading = inner.leading().ok_or_else(|| inner.no_change())?;
        if node == inner.me.node() {
            return Ok(());
        }
        let to = inner.voter_on(node);
        let to = to.ok_or(ChangeError::Refused("the node has no voter of the shard"))?;
        if !inner.could_lead(to) {
            let entries = inner.lag_of(to);
            return Err(ChangeError::Lags {
                replica: to,
                entries,
            });
        }
        inner.hand_over_and_wait(leading, to).await;
        match inner.current_leader() == Some(to) && !inner.is_leader(leading) {
            true => Ok(()),
            false => Err(ChangeError::Busy),
        }
    }

    /// Makes a change, to its end whether the caller waits for it or not.
    async fn change<Fut>(
        &self,
        work: impl FnOnce(Rc<GroupInner>) -> Fut + 'static,
    ) -> Result<LogIndex, ChangeError>
    where
        Fut: Future<Output = Result<LogIndex, ChangeError>> + 'static,
    {
        if *self.inner.closing.borrow() {
            return Err(ChangeError::Shutdown);
        }
        if self.inner.is_changing.replace(true) {
            return Err(ChangeError::Busy);
        }
        let (sender, receiver) = oneshot::channel();
        self.tend(move |inner| async move {
            let changed = work(Rc::clone(&inner)).await;
            let was_changing = inner.is_changing.replace(false);
            assert!(was_changing, "one change is made at a time");
            note(sender, changed);
        });
        receiver.await.unwrap_or(Err(ChangeError::Shutdown))
    }

    /// Whether its members are being changed.
    #[cfg(test)]
    pub(crate) fn is_changing(&self) -> bool {
        self.inner.is_changing.get()
    }

    /// Tells the others that this replica, which is about to close, leads no more, if it still does.
    pub(crate) fn resign_before_close(&self) {
        if let Some(leader) = self.inner.leading() {
            self.inner.resign(leader, "its shard closes here");
        }
    }
}

impl GroupInner {
    /// Looks, while this replica leads as `leader`, whether a change was left half done, or it is no voter any more.
    pub(super) fn look_at_members(self: &Rc<Self>, leader: LeaderId) {
        let is_ready = self.has_applied_own(leader) && self.stores.is_settled();
        if !is_ready || self.is_changing.get() {
            return;
        }
        let group = Group {
            inner: Rc::clone(self),
        };
        if self.stores.is_joint() {
            drop(corelith_io::spawn(async move {
                let finishing = group.change(|inner| async move { inner.finish_joint().await });
                if let Err(error) = finishing.await {
                    let shard = group.shard();
                    tracing::debug!(%shard, %error, "the change of voters is not finished");
                }
            }));
        } else if !self.stores.is_voter() {
            match self.successor() {
                Some(to) => drop(corelith_io::spawn(async move {
                    group.inner.hand_over(leader, to).await;
                })),
                None => self.resign(leader, "it is no voter any more"),
            }
        }
    }

    async fn add_learner(self: &Rc<Self>, member: GroupMember) -> Result<LogIndex, ChangeError> {
        let GroupMember { replica, store } = member;
        if replica.node() == NodeId(0) || !is_bound(store) {
            return Err(ChangeError::Refused("it is no replica of a store"));
        }
        let leading = self.settled_lead().await?;
        match self.stores.slot(replica) {
            Some(slot) if slot == store => return Ok(self.last_change()),
            Some(_) => return Err(ChangeError::Refused("the replica has another store")),
            None => {}
        }
        if self.stores.others().len() + 1 >= MEMBERS_MAX {
            return Err(ChangeError::Refused("the group has too many members"));
        }
        let change = ChangeMembers::AddNodes([(replica.0, store)].into());
        self.propose_change(leading, change, true).await
    }

    async fn remove_learner(self: &Rc<Self>, replica: ReplicaId) -> Result<LogIndex, ChangeError> {
        let leading = self.settled_lead().await?;
        if self.stores.voters().contains(&replica) {
            return Err(ChangeError::Refused("the replica is a voter"));
        }
        if self.stores.slot(replica).is_none() {
            return Ok(self.last_change());
        }
        let change = ChangeMembers::RemoveNodes([replica.0].into());
        self.propose_change(leading, change, true).await
    }

    async fn set_voters(
        self: &Rc<Self>,
        voters: BTreeSet<ReplicaId>,
    ) -> Result<LogIndex, ChangeError> {
        let leading = self.settled_lead().await?;
        let before: BTreeSet<ReplicaId> = self.stores.voters().into_iter().collect();
        if before == voters {
            return Ok(self.last_change());
        }
        for replica in voters.difference(&before) {
            self.check_new_voter(*replica)?;
        }
        if !voters.contains(&self.me)
            && let Some(to) = self.successor_among(|replica| voters.contains(&replica))
        {
            self.hand_over_and_wait(leading, to).await;
            return Err(self.no_change());
        }
        let voters = voters.into_iter().map(|replica| replica.0).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.propose_change(leading, change, false).await
    }

    /// Whether a learner may become a voter.
    fn check_new_voter(&self, replica: ReplicaId) -> Result<(), ChangeError> {
        let Some(slot) = self.stores.slot(replica) else {
            return Err(ChangeError::Refused("a new voter is a learner first"));
        };
        let is_there = (self.link_to)(replica.node()).store() == Some(slot);
        let entries = self.lag_of(replica);
        // Until its log says that it is a member it votes for nobody. A log may be short.
        let knows = self.knows_members(replica);
        match is_there && knows && self.has_answered(replica) && entries <= VOTER_LAG_MAX {
            true => Ok(()),
            false => Err(ChangeError::Lags { replica, entries }),
        }
    }

    /// Whether a replica has the entry that changed the members last.
    fn knows_members(&self, replica: ReplicaId) -> bool {
        let last = self.stores.members().at.map(|at| at.index.0);
        let data = self.data.borrow_watched();
        self.matching(&data, replica).index() >= last
    }

    /// How many entries a replica lacks, as far as this leader knows.
    fn lag_of(&self, replica: ReplicaId) -> u64 {
        let data = self.data.borrow_watched();
        let last = data.last_log.next_index();
        let matching = self.matching(&data, replica).next_index();
        last.saturating_sub(matching)
    }

    /// This replica's lead, once its members may be changed.
    async fn settled_lead(self: &Rc<Self>) -> Result<LeaderId, ChangeError> {
        let leading = self.ready_to_change()?;
        if !self.stores.is_joint() {
            return Ok(leading);
        }
        self.finish_joint().await?;
        self.ready_to_change()
    }

    fn ready_to_change(&self) -> Result<LeaderId, ChangeError> {
        let leading = self.leading().ok_or_else(|| self.no_change())?;
        match self.has_applied_own(leading) && self.stores.is_settled() {
            true => Ok(leading),
            false => Err(ChangeError::Busy),
        }
    }

    /// Goes on to the second configuration of a joint membership that is committed.
    async fn finish_joint(self: &Rc<Self>) -> Result<LogIndex, ChangeError> {
        let leading = self.ready_to_change()?;
        let stays = self.stores.staying().contains(&self.me);
        if !stays && let Some(to) = self.successor() {
            self.hand_over_and_wait(leading, to).await;
            return Err(self.no_change());
        }
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.propose_change(leading, change, false).await
    }

    async fn propose_change(
        &self,
        leading: LeaderId,
        change: Change,
        retain: bool,
    ) -> Result<LogIndex, ChangeError> {
        assert!(self.is_changing.get(), "a change is made by Group::change");
        let last = self.stores.members().at.map(types::log_id);
        let only = [
            Precondition::CommittedLeaderId {
                committed_leader_id: leading,
            },
            Precondition::LastMembershipLogId {
                last_membership_log_id: last,
            },
        ];
        let what = format!("{change:?}");
        match self.raft.change_membership_if(change, retain, only).await {
            Ok(response) => {
                assert!(
                    last.is_none_or(|last| last.index < response.log_id.index),
                    "{} follows {last:?}",
                    response.log_id
                );
                tracing::info!(shard = %self.shard_id, what, at = %response.log_id, "the members are changed");
                Ok(LogIndex(response.log_id.index))
            }
            Err(error) => {
                tracing::info!(shard = %self.shard_id, what, %error, "the members are not changed");
                Err(self.why_unchanged(&error))
            }
        }
    }

    fn why_unchanged(&self, error: &RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
        let leader = match error {
            RaftError::Fatal(_) => return ChangeError::Shutdown,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
                return ChangeError::Busy;
            }
            RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => {
                return match self.leading() {
                    Some(_) => ChangeError::Busy,
                    None => self.no_change(),
                };
            }
            RaftError::APIError(
                ClientWriteError::ForwardToLeader(forward)
                | ClientWriteError::LogEntryDiscarded(forward),
            ) => forward.leader_id,
        };
        let leader = leader.filter(|leader| *leader != self.me.0);
        ChangeError::NotLeader {
            leader: leader.map(node_of),
        }
    }

    /// Why this replica changes nothing: it does not lead.
    fn no_change(&self) -> ChangeError {
        if self.is_stopped() || *self.closing.borrow() {
            return ChangeError::Shutdown;
        }
        let leader = self.current_leader().filter(|leader| *leader != self.me);
        ChangeError::NotLeader {
            leader: leader.map(ReplicaId::node),
        }
    }

    /// The entry that changed the members last.
    fn last_change(&self) -> LogIndex {
        self.stores
            .members()
            .at
            .map(|at| at.index)
            .unwrap_or_default()
    }

    /// Hands the lead over, and waits until it is gone, for at most as long as the promises to this node run.
    pub(super) async fn hand_over_and_wait(self: &Rc<Self>, leading: LeaderId, to: ReplicaId) {
        assert!(to != self.me, "a lead is handed to another replica");
        let mut server = self.server.clone();
        self.hand_over(leading, to).await;
        let gone = async {
            let is_decided = || {
                self.current_leader()
                    .is_some_and(|one| one.0 != leading.node_id)
            };
            while (self.is_leader(leading) || !is_decided()) && server.changed().await.is_ok() {
                server.borrow_and_update();
            }
        };
        let limit = self.liveness.options().promise;
        if corelith_io::timeout(limit, gone).await.is_err() {
            tracing::info!(shard = %self.shard_id, %to, "the lead was not taken in time");
        }
    }
}
