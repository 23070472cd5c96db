//! The way to whoever keeps the cluster map: the node that leads its shard.

use super::{AskNode, Meta};
use crate::node::limits;
use corelith_wire::peer::{NodeAsk, NodeReply};
use corelith_wire::{NodeId, StoreId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// See the module. Belongs to the first core of a node.
pub(crate) struct MetaLeader {
    me: NodeId,
    store: StoreId,
    /// The nodes that hold the shard of the map, as this node knows.
    holders: Box<dyn Fn() -> Vec<NodeId>>,
    ask: AskNode,
    /// What this node answers, if it holds the shard.
    here: RefCell<Option<Rc<Meta>>>,
    /// Who answered last.
    known: Cell<Option<NodeId>>,
}

impl MetaLeader {
    pub(crate) fn new(
        me: NodeId,
        store: StoreId,
        holders: impl Fn() -> Vec<NodeId> + 'static,
        ask: AskNode,
    ) -> Rc<Self> {
        Rc::new(Self {
            me,
            store,
            holders: Box::new(holders),
            ask,
            here: RefCell::default(),
            known: Cell::default(),
        })
    }

    /// This node holds the shard of the map, or does so no more.
    pub(crate) fn is_here(&self, meta: Option<Rc<Meta>>) {
        self.here.replace(meta);
    }

    /// Whom this node takes for the leader.
    pub(crate) fn known(&self) -> Option<NodeId> {
        self.known.get()
    }

    /// What this node answers to such a question, as who holds the shard.
    pub(crate) async fn answer(&self, from: NodeId, store: StoreId, ask: NodeAsk) -> NodeReply {
        let here = self.here.borrow().clone();
        match here {
            Some(meta) => meta.answer(from, store, ask).await,
            None => NodeReply::NotLeader {
                leader: self.known.get().map(|leader| leader.0),
            },
        }
    }

    /// Asks the leader; `None` if nobody says that it is the one.
    pub(crate) async fn ask(&self, ask: &NodeAsk) -> Option<NodeReply> {
        let mut tried = Vec::new();
        let mut next = self.known.take();
        while tried.len() < limits::META_ASKED_MAX {
            let untried = |node: &NodeId| !tried.contains(node);
            let holders = (self.holders)();
            let Some(node) = next.filter(untried).or(holders.into_iter().find(untried)) else {
                break;
            };
            tried.push(node);
            next = match self.ask_one(node, ask.clone()).await {
                Some(NodeReply::NotLeader { leader }) => leader.map(NodeId),
                Some(reply) => {
                    self.known.set(Some(node));
                    return Some(reply);
                }
                None => None,
            };
        }
        None
    }

    async fn ask_one(&self, node: NodeId, ask: NodeAsk) -> Option<NodeReply> {
        match node == self.me {
            true => Some(self.answer(self.me, self.store, ask).await),
            false => (self.ask)(node, ask).await,
        }
    }
}
