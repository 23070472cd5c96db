//! Where a request goes: to this core's handler, to another core, or straight back.

use super::answers::{Reply, failed};
use super::budget::Claim;
use super::connection::Connection;
use super::forward::Forwards;
use super::handler::Handler;
use crate::node::admin::status::NodeStatus;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::{Home, Placement};
use crate::node::local::LocalGroups;
use crate::node::mesh::{Mesh, Message};
use crate::node::neighbours::Neighbours;
use crate::node::shards::CoreShards;
use corelith_io::sync::semaphore::Permit;
use corelith_wire::cluster::ClusterAnswer;
use corelith_wire::map::ClusterMap;
use corelith_wire::peer::{NodeAsk, NodeReply};
use corelith_wire::response::{self, Answer, Failure, Reason};
use corelith_wire::{Epoch, Frame, Head, Kind, Outbox, RequestId, ShardId};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestRoute {
    /// This core owns the shard.
    Here,
    /// Another core of this node does.
    Core(u16),
    /// Tell the state of the whole node.
    Status,
    /// Tell the state of the whole node's storage.
    Storage,
    /// Tell the cluster map.
    Describe,
    /// Pass on what an operator asks.
    Order,
    /// The client's map is old: send the newer one.
    OldMap,
    /// This node's map is old: it must not answer for the shard.
    NewMap,
    /// The shard is on other nodes only.
    WrongNode,
    /// There is no such shard.
    NoShard,
}

/// `is_here`: the core has the shard, whatever the map says.
fn route(placement: &Placement, core: u16, is_here: bool, head: &Head) -> RequestRoute {
    match head.kind {
        Kind::STATUS => return RequestRoute::Status,
        Kind::STORAGE => return RequestRoute::Storage,
        Kind::DESCRIBE => return RequestRoute::Describe,
        // The first core knows the other nodes.
        Kind::CLUSTER if core == 0 => return RequestRoute::Order,
        Kind::CLUSTER => return RequestRoute::Core(0),
        _ => {}
    }
    // No client has business with the meta shard.
    if head.shard == ShardId::META {
        return RequestRoute::NoShard;
    }
    let home = placement.home(core, head.shard);
    match home {
        _ if is_here => RequestRoute::Here,
        Home::Nowhere => RequestRoute::NoShard,
        Home::OtherCore(other) => RequestRoute::Core(other),
        _ if head.epoch.0 < placement.epoch => RequestRoute::OldMap,
        _ if head.epoch.0 > placement.epoch => RequestRoute::NewMap,
        // One that is to be here, and is not yet or no more.
        Home::Here | Home::OtherNode(_) => RequestRoute::WrongNode,
    }
}

/// Sends every request of a core's clients on its way. Belongs to one core.
pub(crate) struct Router {
    pub(crate) core: u16,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) for_clients: ClientsMap,
    pub(crate) handler: Rc<Handler>,
    pub(crate) mesh: Rc<Mesh>,
    pub(crate) forwards: Rc<Forwards>,
    pub(crate) groups: Rc<LocalGroups>,
    pub(crate) shards: Rc<CoreShards>,
    pub(crate) status: Rc<NodeStatus>,
    /// Who asks other nodes; on the first core alone.
    pub(crate) neighbours: RefCell<Weak<Neighbours>>,
}

impl Router {
    /// Sends `frame` on its way, which holds `permit` of the budget; its answer goes to `connection`.
    pub(super) fn dispatch(&self, connection: &Rc<Connection>, frame: Frame, permit: Permit) {
        connection.admit();
        let head = frame.header.head;
        let claim = Claim::new(permit);
        let connection = Rc::clone(connection);
        let placement = self.map.now();
        let is_here = self.groups.has(head.shard);
        let there = route(&placement, self.core, is_here, &head);
        if let RequestRoute::Core(core) = there {
            return self.forwards.forward(core, frame, connection, claim);
        }
        let reply = Reply::local(connection, head, claim);
        match there {
            RequestRoute::Here => self.handler.handle(frame, reply),
            RequestRoute::Status => self.tell_status(reply),
            RequestRoute::Storage => self.tell_storage(reply),
            RequestRoute::Describe => self.send_map(reply, Answer::Map),
            RequestRoute::Order => self.pass_order(&frame, reply),
            RequestRoute::OldMap => self.send_map(reply, |map| failed(Failure::WrongEpoch { map })),
            RequestRoute::NewMap => reply.send(&failed(Failure::Unavailable {
                reason: Reason::Starting,
                nothing_done: true,
            })),
            RequestRoute::WrongNode => reply.send(&failed(Failure::WrongNode)),
            RequestRoute::NoShard | RequestRoute::Core(_) => {
                reply.send(&failed(Failure::Malformed))
            }
        }
    }

    fn send_map(&self, reply: Reply, answer: fn(ClusterMap) -> Answer) {
        let (map, bytes) = self.for_clients.of(&self.map.now());
        reply.send_with(bytes, move || answer(ClusterMap::clone(&map)));
    }

    fn tell_status(&self, mut reply: Reply) {
        let status = Rc::clone(&self.status);
        corelith_io::spawn(async move {
            if reply.reserve(status.status_bytes_max()).await {
                reply.send(&status.status().await);
            }
        });
    }

    fn tell_storage(&self, mut reply: Reply) {
        let status = Rc::clone(&self.status);
        corelith_io::spawn(async move {
            if reply.reserve(status.storage_bytes_max()).await {
                reply.send(&status.storage().await);
            }
        });
    }

    /// Passes on what an operator asks, to the node that keeps the map.
    fn pass_order(&self, frame: &Frame, mut reply: Reply) {
        let unavailable = |nothing_done| {
            failed(Failure::Unavailable {
                reason: Reason::NoQuorum,
                nothing_done,
            })
        };
        let Some(neighbours) = self.neighbours.borrow().upgrade() else {
            return reply.send(&unavailable(true));
        };
        let ask = NodeAsk::Admin {
            ask: frame.body().to_vec(),
        };
        corelith_io::spawn(async move {
            let answer = match neighbours.ask_meta(&ask).await {
                Some(NodeReply::Admin { answer }) => {
                    if !reply.reserve(answer.len()).await {
                        return;
                    }
                    match ClusterAnswer::parse(&answer) {
                        Ok(answer) => Answer::Cluster(answer),
                        Err(_) => failed(Failure::Malformed),
                    }
                }
                // One that was asked may do it yet.
                Some(NodeReply::Failed { .. }) => unavailable(false),
                Some(_) => failed(Failure::Malformed),
                None => unavailable(true),
            };
            reply.send(&answer);
        });
    }

    /// Takes what another core says. Does not wait.
    pub(crate) fn hear(&self, message: Message) {
        match message {
            Message::Request { origin, frame } => {
                let reply = Reply::remote(Rc::clone(&self.mesh), origin);
                match frame.header.head.kind {
                    Kind::CLUSTER => self.pass_order(&frame, reply),
                    _ => self.handle_forwarded(frame, reply),
                }
            }
            Message::Reserve {
                request,
                len,
                granted,
            } => self.forwards.reserve(request, len, granted),
            Message::Answer { request, answer } => self.forwards.answered(request, &answer),
            Message::Question(question) => question(self.core, &self.groups),
            Message::Map(placement) => drop(self.map.take(placement)),
            Message::Order { order, told } => self.shards.take(order, told),
        }
    }

    /// A request for a shard that another core of the node has found to be here.
    fn handle_forwarded(&self, frame: Frame, reply: Reply) {
        let (shard, epoch) = (frame.header.head.shard, frame.header.head.epoch);
        let is_old = epoch.0 < self.map.now().epoch;
        match self.groups.has(shard) {
            false if is_old => self.send_map(reply, |map| failed(Failure::WrongEpoch { map })),
            _ => self.handler.handle(frame, reply),
        }
    }
}

/// The map as clients get it, made once for each epoch.
#[derive(Default)]
pub(crate) struct ClientsMap(RefCell<Option<(Rc<ClusterMap>, usize)>>);

impl ClientsMap {
    /// The map of that placement, and its bytes in an answer.
    fn of(&self, placement: &Placement) -> (Rc<ClusterMap>, usize) {
        let mut made = self.0.borrow_mut();
        match &*made {
            Some((map, bytes)) if map.epoch == placement.epoch => (Rc::clone(map), *bytes),
            _ => {
                let map = Rc::new(placement.cluster_map());
                let bytes = map_bytes(&map);
                *made = Some((Rc::clone(&map), bytes));
                (map, bytes)
            }
        }
    }
}

/// Bytes of the cluster's map in an answer.
fn map_bytes(map: &ClusterMap) -> usize {
    let mut out = Outbox::default();
    let head = Head {
        kind: Kind::MAP,
        request_id: RequestId(0),
        shard: ShardId(0),
        epoch: Epoch(0),
    };
    response::encode(&mut out, head, &Answer::Map(map.clone()));
    out.len()
}

#[cfg(test)]
mod tests {
    use super::{RequestRoute, route};
    use crate::node::cluster::placement::Placement;
    use crate::node::config::NodeConfig;
    use corelith_wire::{Epoch, Head, Kind, RequestId, ShardId};

    #[test]
    fn routes() {
        // Shard s is on the nodes (s + 0..2) mod 3; this is node 1 with two cores.
        let nodes =
            "[{id=1,host=\"h\",port=1,cores=2},{id=2,host=\"i\",port=1},{id=3,host=\"j\",port=1}]";
        let text = format!(
            "node = {{ id = 1, data_dir = \"/d\" }}\n\
             cluster = {{ name = \"c\", shards = 6, replicas = 2, nodes = {nodes} }}"
        );
        let config = NodeConfig::parse("t", &text).unwrap();
        let placement = Placement::new(&config);
        let table = [
            // (core, kind, shard, epoch, route)
            (0, Kind::GET, 0, 1, RequestRoute::Here),
            (1, Kind::GET, 0, 1, RequestRoute::Core(0)),
            (0, Kind::WRITE, 3, 1, RequestRoute::Core(1)),
            (1, Kind::WRITE, 3, 1, RequestRoute::Here),
            (0, Kind::WRITE, 1, 1, RequestRoute::WrongNode),
            (0, Kind::SCAN, 6, 1, RequestRoute::NoShard),
            (0, Kind::SCAN, u32::MAX, 1, RequestRoute::NoShard),
            // Whatever the epoch is, a shard that is here is answered for.
            (0, Kind::GET, 0, 0, RequestRoute::Here),
            (0, Kind::GET, 0, 2, RequestRoute::Here),
            (1, Kind::GET, 0, 0, RequestRoute::Core(0)),
            (0, Kind::GET, 1, 0, RequestRoute::OldMap),
            (0, Kind::GET, 1, 2, RequestRoute::NewMap),
            (0, Kind::STATUS, 99, 0, RequestRoute::Status),
            (1, Kind::STORAGE, 99, 0, RequestRoute::Storage),
            (0, Kind::DESCRIBE, 99, 7, RequestRoute::Describe),
            (0, Kind::CLUSTER, 0, 0, RequestRoute::Order),
            (1, Kind::CLUSTER, 0, 0, RequestRoute::Core(0)),
        ];
        for (core, kind, shard, epoch, expected) in table {
            let head = Head {
                kind,
                request_id: RequestId(1),
                shard: ShardId(shard),
                epoch: Epoch(epoch),
            };
            let is_here = expected == RequestRoute::Here;
            let found = route(&placement, core, is_here, &head);
            assert_eq!(found, expected, "{core} {head:?}");
        }
        // What the map knows nothing of yet, or any more.
        let head = |shard, epoch| Head {
            kind: Kind::GET,
            request_id: RequestId(1),
            shard: ShardId(shard),
            epoch: Epoch(epoch),
        };
        assert_eq!(route(&placement, 0, true, &head(1, 0)), RequestRoute::Here);
        assert_eq!(
            route(&placement, 0, false, &head(0, 0)),
            RequestRoute::OldMap
        );
        assert_eq!(
            route(&placement, 0, false, &head(0, 1)),
            RequestRoute::WrongNode
        );
        let meta = head(u32::MAX, 1);
        assert_eq!(route(&placement, 0, true, &meta), RequestRoute::NoShard);
    }
}
