//! This node and those of a group's other members, as they are needed: members come and go.

use crate::liveness::{Liveness, Pair};
use corelith_wire::{NodeId, ReplicaId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module. Belongs to one group.
#[derive(Debug)]
pub(crate) struct Pairs {
    me: NodeId,
    liveness: Arc<Liveness>,
    /// Those that were asked for.
    known: RefCell<BTreeMap<NodeId, Arc<Pair>>>,
}

impl Pairs {
    /// Of a group on a node.
    pub(crate) fn new(liveness: Arc<Liveness>) -> Self {
        Self {
            me: liveness.node(),
            liveness,
            known: RefCell::default(),
        }
    }

    /// This node and another one; `None` for itself.
    pub(crate) fn with(&self, node: NodeId) -> Option<Arc<Pair>> {
        if node == self.me {
            return None;
        }
        let mut known = self.known.borrow_mut();
        let pair = known
            .entry(node)
            .or_insert_with(|| self.liveness.pair(node));
        Some(Arc::clone(pair))
    }

    /// This node and that of a replica; `None` if it is of this node itself, as one that was dropped before is.
    pub(crate) fn of(&self, replica: ReplicaId) -> Option<Arc<Pair>> {
        self.with(replica.node())
    }
}
