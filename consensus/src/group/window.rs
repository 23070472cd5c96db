//! A window through which a simulation looks at the groups of its nodes and moves their leads.

use super::{Group, GroupInner};
use corelith_shards::{NodeId, ReplicaId};
use corelith_wire::peer::PeerVote;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

thread_local! {
    static OPENED: RefCell<Vec<Weak<GroupInner>>> = const { RefCell::new(Vec::new()) };
}

impl Group {
    /// The groups of all simulated nodes of this thread that are open.
    pub fn watched() -> Vec<Self> {
        OPENED.with_borrow_mut(|opened| {
            opened.retain(|inner| inner.strong_count() > 0);
            let open = opened.iter().filter_map(Weak::upgrade);
            open.map(|inner| Self { inner }).collect()
        })
    }

    /// Forgets the groups opened so far: those of a simulation that was left in the middle stay.
    pub fn forget_watched() {
        OPENED.with_borrow_mut(Vec::clear);
    }

    /// Takes the place of the replica that the node had of this shard before, which may not be dropped
    /// yet.
    pub(super) fn watch(&self) {
        let is_same = |other: &Rc<GroupInner>| {
            (other.me.node(), other.shard_id) == (self.inner.me.node(), self.inner.shard_id)
        };
        OPENED.with_borrow_mut(|opened| {
            opened.retain(|inner| inner.upgrade().is_none_or(|other| !is_same(&other)));
            opened.push(Rc::downgrade(&self.inner));
        });
    }

    /// The node of this replica.
    pub fn node(&self) -> NodeId {
        self.inner.me.node()
    }

    /// Whether this replica would answer a read now because of its lease, and which followers it counts as a
    /// leader. Called on the replica's core, as the next one.
    pub fn lease_seen(&self) -> (bool, Vec<ReplicaId>) {
        let inner = &self.inner;
        let Some(leader) = inner.leading() else {
            return (false, Vec::new());
        };
        let now = corelith_io::now();
        let counted = inner.lease.counted(leader, now);
        (inner.lease.holds(leader, now), counted)
    }

    /// Whether this replica must not turn from the leaders of `node` now: a promise to it runs, or the embargo
    /// after the start does.
    pub fn is_bound_to(&self, node: NodeId) -> bool {
        let inner = &self.inner;
        let now = corelith_io::now();
        let core = (inner.core_of)(node);
        let promises = inner.pairs.with(node).map(|pair| pair.promises());
        let mut promises = promises.into_iter().flatten();
        let until = promises.find_map(|(of, until)| (of == core).then_some(until));
        until.is_some_and(|until| now < until) || inner.liveness.embargo_until().is_some()
    }

    /// Whether this node relies on no lease any more as the leader with that vote.
    pub fn has_given_up(&self, vote: &PeerVote) -> bool {
        let leader = crate::convert::vote(*vote).leader_id;
        self.inner.lease.is_given_up(leader)
    }

    /// Hands the lead over to another member, if this replica has it. Called on the replica's core.
    pub fn start_hand_over(&self, to: NodeId) {
        let Some(leading) = self.inner.leading() else {
            return;
        };
        let Some(to) = self.inner.voter_on(to) else {
            return;
        };
        self.tend(move |inner| async move { inner.hand_over(leading, to).await });
    }
}
