//! What the nodes of a cluster ask each other beside what their groups do. It lives on the first core: there are the
//! links between first cores, the meta shard, and what is known of the map.
//!
//! Invariants:
//! * A replica is opened only if the newest map that this node knows names it.
//! * What concerns the whole cluster is answered by the leader of the meta shard alone.

pub(crate) mod news;
mod report;

use crate::node::cluster::map::Map;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::config::NodeConfig;
use crate::node::data_dir::keeper::{IdentityKeeper, JoinQuestion};
use crate::node::limits;
use crate::node::local::LocalGroups;
use crate::node::mesh::{Mesh, Message};
use crate::node::shards::{CoreShards, ShardOrder};
use corelith_consensus::{AnswerNode, Groups};
use corelith_io::Sender;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::cluster::{ClusterAsk, ClusterOrder};
use corelith_wire::peer::{
    FormationAnswer, FormationReply, NodeAsk, NodeReply, Registration, ToldMembership, Verdict,
};
use corelith_wire::{ReplicaId, StoreId};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use news::MapNews;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

/// What is said of an order whose answer is lost.
const UNKNOWN_ORDER: &str = "it is not known whether the order was taken";

/// A question for the leader of the meta shard, which this node is as far as it knows.
pub(crate) struct MetaQuestion {
    /// The node that asks.
    pub(crate) from: NodeId,
    /// A report, a registration, or what an operator asks.
    pub(crate) ask: NodeAsk,
    /// Where the answer goes.
    pub(crate) told: Sender<NodeReply>,
}

/// See the module. Belongs to the first core.
pub(crate) struct Neighbours {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) me: NodeId,
    pub(crate) store: StoreId,
    pub(crate) groups: Groups,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) news: Rc<MapNews>,
    pub(crate) mesh: Rc<Mesh>,
    pub(crate) local: Rc<LocalGroups>,
    pub(crate) shards: Rc<CoreShards>,
    pub(crate) keeper: Rc<IdentityKeeper>,
    /// To the task of the meta shard's leader.
    pub(crate) meta: Sender<MetaQuestion>,
    /// The newest map as it is sent, and its epoch.
    pub(crate) encoded: RefCell<Option<(u32, Vec<u8>)>>,
}

/// Whether something is done that is not done a second time.
fn is_order(ask: &NodeAsk) -> bool {
    match ask {
        NodeAsk::Admin { ask } => ClusterAsk::parse(ask)
            .is_ok_and(|ask| ask.order != ClusterOrder::Status && !ask.dry_run),
        _ => false,
    }
}

impl Neighbours {
    /// What answers other nodes.
    pub(crate) fn as_answer(self: &Rc<Self>) -> AnswerNode {
        let neighbours = Rc::downgrade(self);
        Rc::new(move |from, _, ask| {
            let neighbours = neighbours.upgrade();
            async move {
                match neighbours {
                    Some(neighbours) => neighbours.answer(from, ask).await,
                    None => NodeReply::Busy,
                }
            }
            .boxed_local()
        })
    }

    /// Asks another node; `None` if it does not answer in time.
    pub(crate) async fn ask_node(&self, node: NodeId, ask: &NodeAsk) -> Option<NodeReply> {
        let limit = match ask {
            NodeAsk::Change { .. } | NodeAsk::Open { .. } => limits::CHANGE_DEADLINE,
            _ => limits::NODE_ASK_DEADLINE,
        };
        match node == self.me {
            // What it takes is large, and seldom needed.
            true => Some(Box::pin(self.answer(node, ask.clone())).await),
            false => Box::pin(self.groups.ask_node(node, ask, limit)).await,
        }
    }

    /// Answers a question of a node, or of this one.
    pub(crate) async fn answer(&self, from: NodeId, ask: NodeAsk) -> NodeReply {
        match ask {
            NodeAsk::MapSince { epoch } => self.map_since(epoch),
            NodeAsk::Open {
                shard,
                replica,
                told,
            } => {
                self.open(from, ShardId(shard), ReplicaId(replica), told)
                    .await
            }
            NodeAsk::Change { shard, step } => {
                let shard = ShardId(shard);
                self.order(ShardOrder::Change { shard, step }).await
            }
            NodeAsk::Report(_) | NodeAsk::Register(_) | NodeAsk::Admin { .. } => {
                self.answer_for_meta(from, ask).await
            }
        }
    }

    fn map_since(&self, epoch: u32) -> NodeReply {
        let now = self.map.now();
        let Some(map) = now.map().filter(|_| now.epoch > epoch) else {
            return NodeReply::NoNews;
        };
        let mut encoded = self.encoded.borrow_mut();
        let (of_epoch, bytes) = match encoded.take() {
            Some(same) if same.0 == now.epoch => encoded.insert(same),
            _ => encoded.insert((now.epoch, map.encode())),
        };
        assert!(*of_epoch > epoch, "the map that is sent is newer");
        NodeReply::Map {
            bytes: bytes.clone(),
        }
    }

    async fn open(
        &self,
        from: NodeId,
        shard: ShardId,
        replica: ReplicaId,
        told: Option<ToldMembership>,
    ) -> NodeReply {
        let is_named = || {
            let now = self.map.now();
            let place = now.map().and_then(|map| map.shard(shard).cloned());
            place.is_some_and(|place| {
                let coming = place.change.and_then(|change| change.add);
                place.replicas.contains(&replica) || coming == Some(replica)
            })
        };
        if replica.node() != self.me {
            return NodeReply::failed(format!("{replica} is not of node {}", self.me.0));
        }
        if !is_named() && from != self.me {
            self.news.ask(from).await;
        }
        if !is_named() {
            let epoch = self.map.now().epoch;
            let why = format!("the map of epoch {epoch} names no replica {replica} of {shard}");
            return NodeReply::failed(why);
        }
        self.order(ShardOrder::Open {
            shard,
            replica,
            told,
        })
        .await
    }

    /// Has the core do it that owns the shard.
    async fn order(&self, order: ShardOrder) -> NodeReply {
        let core = self.map.now().core_of(self.me, order.shard());
        if core == self.mesh.core() {
            return Box::pin(self.shards.obey(order)).await;
        }
        let (told, answer) = corelith_io::channel(1);
        self.mesh.push(core, Message::Order { order, told });
        let in_time = corelith_io::timeout(limits::CHANGE_DEADLINE, answer.recv()).await;
        match in_time {
            Ok(Ok(reply)) => reply,
            // The core is ending, or still at it.
            Ok(Err(_)) | Err(_) => NodeReply::Busy,
        }
    }

    /// Whether a node is this one, or was heard lately.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        let peers = self.groups.liveness().peers();
        let mut others = peers.iter().filter(|peer| peer.node == node);
        let silence = others.find_map(|peer| peer.heard);
        node == self.me || silence.is_some_and(|silence| silence < limits::NODE_HEARD_LATELY)
    }

    /// The leader of the meta shard, as far as this node's replica of it knows.
    pub(crate) fn meta_leader(&self) -> Option<NodeId> {
        let group = self.local.get(ShardId::META)?;
        group.status().leader
    }

    /// Whether this node leads the meta shard, as far as it knows.
    pub(crate) fn leads_meta(&self) -> bool {
        self.meta_leader() == Some(self.me)
    }

    /// Waits until this node knows another leader of the meta shard than the `known` one.
    async fn other_meta_leader(&self, known: Option<NodeId>) -> NodeId {
        loop {
            if let Some(leader) = self.meta_leader().filter(|leader| Some(*leader) != known) {
                return leader;
            }
            corelith_io::sleep(limits::META_LEADER_LOOK).await;
        }
    }

    async fn answer_for_meta(&self, from: NodeId, ask: NodeAsk) -> NodeReply {
        if !self.leads_meta() {
            let leader = self.meta_leader().map(|node| node.0);
            return NodeReply::NotLeader { leader };
        }
        let (told, answer) = corelith_io::channel(1);
        let is_order = matches!(ask, NodeAsk::Admin { .. });
        let question = MetaQuestion { from, ask, told };
        if self.meta.try_send(question).is_err() {
            return NodeReply::Busy;
        }
        let in_time = corelith_io::timeout(limits::NODE_ASK_DEADLINE, answer.recv()).await;
        match in_time {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) if is_order => NodeReply::failed(UNKNOWN_ORDER),
            Ok(Err(_)) | Err(_) => NodeReply::Busy,
        }
    }

    /// Asks the leader of the meta shard, wherever that is; `None` if none is found that answers: then no order was
    /// taken.
    pub(crate) async fn ask_meta(&self, ask: &NodeAsk) -> Option<NodeReply> {
        let map = self.map.now();
        let is_heard = |node: NodeId| self.is_heard(node);
        let known = self.meta_leader().into_iter();
        let known = known.chain(map.replicas_of(ShardId::META).iter().copied());
        // Whoever is silent may have led, and would take the time of those that answer.
        let (heard, silent): (Vec<NodeId>, Vec<NodeId>) = known.partition(|node| is_heard(*node));
        let mut next: VecDeque<NodeId> = heard.into_iter().chain(silent).collect();
        for _ in 0..limits::META_ASKS_MAX {
            let node = next.pop_front()?;
            let talks = self.groups.talks_with(node).is_some();
            let known = self.meta_leader();
            let asked = pin!(self.ask_node(node, ask));
            let reply = match is_order(ask) {
                true => asked.await,
                // Whoever led before may be gone: no need to wait for its silence.
                false => match select(asked, pin!(self.other_meta_leader(known))).await {
                    Either::Left((reply, _)) => reply,
                    Either::Right((leader, _)) => Some(NodeReply::NotLeader {
                        leader: Some(leader.0),
                    }),
                },
            };
            match reply {
                Some(NodeReply::NotLeader { leader }) => {
                    let leader = leader.map(NodeId).filter(|leader| *leader != node);
                    if let Some(leader) = leader.filter(|leader| is_heard(*leader)) {
                        next.push_front(leader);
                    } else {
                        next.extend(leader);
                    }
                }
                // It may have come there, and the answer is lost.
                None if talks && is_order(ask) => {
                    return Some(NodeReply::failed(UNKNOWN_ORDER));
                }
                // It begins to lead, and the others would only name it.
                Some(NodeReply::Busy) if self.meta_leader() == Some(node) => {
                    corelith_io::sleep(limits::META_LEADER_LOOK).await;
                    next.push_front(node);
                }
                Some(NodeReply::Busy) | None => {}
                Some(reply) => return Some(reply),
            }
        }
        None
    }

    /// Takes nodes in that ask for it, one after the other.
    pub(crate) async fn take_in(self: Rc<Self>, joins: corelith_io::Receiver<JoinQuestion>) {
        while let Ok(JoinQuestion { ask, place, told }) = joins.recv().await {
            let registration = Registration {
                node: ask.from.node.0,
                store: ask.from.store.0,
                host: place.host,
                port: place.port,
                cores: place.cores,
                zone: place.zone,
                region: place.region,
            };
            let by = self.keeper.me();
            let answer = match self.fits(&ask.from, ask.name) {
                Ok(()) => self.joined(registration).await,
                Err(why) => FormationAnswer::Declined(why),
            };
            // Whoever asked may have given up.
            let _ = told.try_send(FormationReply { by, answer });
        }
    }

    /// Whether whoever asks may be of this cluster.
    fn fits(&self, them: &corelith_wire::peer::Introduction, name: u64) -> Result<(), String> {
        let identity = self.keeper.identity();
        let me = self.keeper.me();
        if name != 0 && name != identity.name {
            return Err(format!(
                "node {} is of a cluster with another name: check `cluster.name` and the address",
                self.me.0
            ));
        }
        if them.cluster.0 != 0 && them.cluster != me.cluster {
            return Err(crate::node::cluster::standing::difference(
                them,
                self.me,
                &me,
                Verdict::OtherCluster,
            ));
        }
        if them.settings.version != me.settings.version {
            return Err(format!(
                "the entries of its log have version {} and those of the cluster {}: use the same version of corelith",
                them.settings.version, me.settings.version
            ));
        }
        Ok(())
    }

    async fn joined(&self, registration: Registration) -> FormationAnswer {
        if !registration.is_sound() {
            let why =
                "its address, number of cores, zone or region are none that a map has room for";
            return FormationAnswer::Declined(why.to_owned());
        }
        let store = StoreId(registration.store);
        match self.ask_meta(&NodeAsk::Register(registration)).await {
            Some(NodeReply::Map { bytes }) => {
                let Ok(map) = Map::decode(&bytes) else {
                    let why = "the leader of the meta shard gives a map that this node cannot read";
                    return FormationAnswer::Declined(why.to_owned());
                };
                let found = map.live_nodes().find(|(_, node)| node.store == store);
                let node = found.map(|(id, _)| id);
                self.news.take(map).await;
                let identity = self.keeper.identity();
                match (node, identity.formation.charter) {
                    (Some(node), Some(charter)) => FormationAnswer::Joined {
                        node,
                        name: identity.name,
                        charter,
                        map: bytes.into(),
                    },
                    _ => FormationAnswer::Declined("the map is without it".to_owned()),
                }
            }
            Some(NodeReply::Failed { why }) => FormationAnswer::Declined(why),
            _ => FormationAnswer::Declined(
                "no leader of the meta shard answers now: it takes a majority of its nodes"
                    .to_owned(),
            ),
        }
    }
}
