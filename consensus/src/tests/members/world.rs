//! A cluster whose group changes, and who changes it: as the leader of the cluster's map would, by what groups offer alone.

use crate::tests::cluster::Cluster;
use crate::{ChangeError, Group, GroupMember, GroupProgress};
use corelith_shards::{LogIndex, ReplicaId, ShardId};
use corelith_wire::StoreId;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Time in which a change is made that nothing hinders.
const LONG: Duration = Duration::from_secs(30);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct World {
    pub(super) cluster: Cluster,
}

/// What a leader answered.
pub(super) type Changed = Result<LogIndex, ChangeError>;

pub(super) fn place(replica: ReplicaId) -> usize {
    replica.node().0 as usize - 1
}

impl World {
    pub(super) fn of(cluster: Cluster) -> Self {
        Self { cluster }
    }

    pub(super) fn try_group(&self, at: usize) -> Option<Group> {
        self.cluster.groups(at)?.group(ShardId(0))
    }

    pub(super) fn group(&self, at: usize) -> Group {
        self.try_group(at).unwrap()
    }

    /// What a leader knows of the others.
    pub(super) fn progress(&self, at: usize) -> Option<GroupProgress> {
        let group = self.try_group(at)?;
        let node = self.cluster.nodes[at];
        self.cluster.sim.enter(node, || group.progress())
    }

    /// A replica with the store that its node has now.
    pub(super) fn member(&self, replica: ReplicaId) -> GroupMember {
        let store = StoreId(self.cluster.stores.borrow()[place(replica)]);
        GroupMember { replica, store }
    }

    /// Has whoever leads start a change; where its answer will be. `None` if nobody leads.
    pub(super) fn start<Fut: Future<Output = Changed> + 'static>(
        &self,
        change: impl FnOnce(Group) -> Fut,
    ) -> Option<Rc<RefCell<Option<Changed>>>> {
        let leader = self.cluster.leader()?;
        let work = change(self.try_group(leader)?);
        let answer = Rc::new(RefCell::new(None));
        let answered = Rc::clone(&answer);
        self.cluster.sim.enter(self.cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                let changed = work.await;
                answered.replace(Some(changed));
            }));
        });
        Some(answer)
    }

    /// The same, and waits for the answer.
    pub(super) fn change<Fut: Future<Output = Changed> + 'static>(
        &self,
        change: impl FnOnce(Group) -> Fut,
    ) -> Changed {
        self.cluster.wait_leader();
        let Some(answer) = self.start(change) else {
            return Err(ChangeError::NotLeader { leader: None });
        };
        let is_answered = || answer.borrow().is_some();
        self.cluster.sim.run_until(is_answered, PATIENCE);
        answer.take().unwrap_or(Err(ChangeError::Busy))
    }

    /// Makes a change, again and again until it is made.
    fn until_changed<Fut: Future<Output = Changed> + 'static>(
        &self,
        what: &str,
        change: impl Fn(Group) -> Fut,
    ) {
        let until = self.cluster.sim.now() + LONG;
        let mut last = None;
        while self.cluster.sim.now() < until {
            match self.change(&change) {
                Ok(_) => return,
                other => last = Some(other),
            }
            self.cluster.sim.run_for(Duration::from_millis(50));
        }
        panic!("{what}: {last:?}, {:#?}", self.cluster.stands());
    }

    pub(super) fn add_learner(&self, replica: ReplicaId) {
        let member = self.member(replica);
        self.until_changed("a learner", move |group| async move {
            group.add_learner(member).await
        });
    }

    /// Opens a replica at its node, makes it a learner, and waits until it has caught up.
    pub(super) fn take_in(&mut self, replica: ReplicaId) {
        self.cluster.admit(place(replica), replica, None);
        self.add_learner(replica);
        self.caught_up(replica);
    }

    pub(super) fn caught_up(&self, replica: ReplicaId) {
        self.cluster.wait("the learner catches up", || {
            let leader = self.cluster.leader();
            let progress = leader.and_then(|at| self.progress(at));
            progress.is_some_and(|progress| {
                let of = progress.others.iter().find(|one| one.replica == replica);
                of.is_some_and(|one| one.matching.is_some() && one.matching == progress.last)
            })
        });
    }

    pub(super) fn try_vote(&self, voters: BTreeSet<ReplicaId>) -> Changed {
        self.change(move |group| async move { group.set_voters(voters).await })
    }

    /// Makes these the voters.
    pub(super) fn vote(&mut self, voters: &[ReplicaId]) {
        let voters: BTreeSet<ReplicaId> = voters.iter().copied().collect();
        self.until_changed("voters", move |group| {
            let voters = voters.clone();
            async move { group.set_voters(voters).await }
        });
    }

    /// Waits until the group is settled and all its members have applied the same, and compares what they hold.
    pub(super) fn check_equal(&self) {
        let shard = ShardId(0);
        let settled = || {
            let leader = self.cluster.leader()?;
            let members = self.try_group(leader)?.members();
            let last = self.try_group(leader)?.status().last_log?;
            let is_settled = members.is_committed && members.voters.len() == 1;
            let are_equal = members.stores.keys().all(|replica| {
                let group = self.try_group(place(*replica));
                group.is_some_and(|group| {
                    let status = group.status();
                    group.replica() == *replica
                        && status.last_log == Some(last)
                        && status.applied == Some(last)
                })
            });
            (is_settled && are_equal).then_some(members)
        };
        self.cluster
            .wait("all members apply the same", || settled().is_some());
        let members = settled().unwrap();
        let mut contents = members
            .stores
            .keys()
            .map(|replica| (replica, self.cluster.content(place(*replica), shard)));
        let (_, first) = contents.next().unwrap();
        for (replica, content) in contents {
            assert_eq!(first, content, "{replica} differs");
        }
    }
}
