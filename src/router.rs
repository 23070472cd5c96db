//! Where a request goes: to this core's handler, to another core, or straight back.

use crate::connection::Connection;
use crate::forward::{Mesh, Reply};
use crate::handler::Handler;
use crate::limits;
use crate::placement::{Home, Placement};
use crate::status::NodeStatus;
use corelith_shards::ShardId;
use corelith_wire::map::ClusterMap;
use corelith_wire::response::{Answer, Failure, Reason, ReplyMeta};
use corelith_wire::{Frame, Head, Kind};
use std::rc::Rc;
use std::sync::Arc;

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
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
    /// The client's map is old: send the newer one.
    OldMap,
    /// This node's map is old: it must not answer for the shard.
    NewMap,
    /// The shard is on other nodes only.
    WrongNode,
    /// There is no such shard.
    NoShard,
}

fn route(placement: &Placement, core: u16, head: &Head) -> Route {
    match head.kind {
        Kind::STATUS => return Route::Status,
        Kind::STORAGE => return Route::Storage,
        Kind::DESCRIBE => return Route::Describe,
        _ => {}
    }
    if head.epoch.0 < placement.epoch {
        return Route::OldMap;
    }
    if head.epoch.0 > placement.epoch {
        return Route::NewMap;
    }
    match placement.home(core, ShardId(head.shard.0)) {
        Home::Here => Route::Here,
        Home::OtherCore(other) => Route::Core(other),
        Home::OtherNode(_) => Route::WrongNode,
        Home::Nowhere => Route::NoShard,
    }
}

/// Sends every request of a core's clients on its way. Belongs to one core.
pub(crate) struct Router {
    pub(crate) core: u16,
    pub(crate) placement: Arc<Placement>,
    pub(crate) map: Rc<ClusterMap>,
    pub(crate) handler: Rc<Handler>,
    pub(crate) mesh: Rc<Mesh>,
    pub(crate) status: Rc<NodeStatus>,
}

impl Router {
    /// Sends `frame` on its way; its answer goes to `connection`.
    pub(crate) fn dispatch(&self, connection: &Rc<Connection>, frame: Frame) {
        let head = frame.header.head;
        let len = frame.header.frame_bytes();
        if !connection.admit(len) {
            return connection.refuse(head, &throttled());
        }
        let reply = Reply::local(Rc::clone(connection), head, len);
        match route(&self.placement, self.core, &head) {
            Route::Here => self.handler.handle(frame, reply),
            Route::Core(core) => self.mesh.forward(core, frame, reply),
            Route::Status => Rc::clone(&self.status).tell(reply),
            Route::Storage => Rc::clone(&self.status).tell_storage(reply),
            Route::Describe => reply.send(&Answer::Map(ClusterMap::clone(&self.map))),
            Route::OldMap => reply.send(&failed(Failure::WrongEpoch {
                map: ClusterMap::clone(&self.map),
            })),
            Route::NewMap => reply.send(&failed(Failure::Unavailable {
                reason: Reason::Starting,
                nothing_done: true,
            })),
            Route::WrongNode => reply.send(&failed(Failure::WrongNode)),
            Route::NoShard => reply.send(&failed(Failure::Malformed)),
        }
    }
}

/// A failure that no shard has decided.
pub(crate) fn failed(failure: Failure) -> Answer {
    let meta = ReplyMeta::default();
    Answer::Failure { meta, failure }
}

/// The answer when a budget or queue is full; nothing was done.
pub(crate) fn throttled() -> Answer {
    let wait = limits::THROTTLED_RETRY_AFTER.as_millis();
    failed(Failure::Throttled {
        retry_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::{Route, route};
    use crate::config::NodeConfig;
    use crate::placement::Placement;
    use corelith_wire::{Epoch, Head, Kind, RequestId, ShardId};
    use std::convert::Infallible;
    use std::net::SocketAddr;

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
        let resolve = |_: &str, port| Ok::<_, Infallible>(SocketAddr::from(([10, 0, 0, 1], port)));
        let placement = Placement::new(&config, resolve).unwrap();
        let table = [
            // (core, kind, shard, epoch, route)
            (0, Kind::GET, 0, 1, Route::Here),
            (1, Kind::GET, 0, 1, Route::Core(0)),
            (0, Kind::WRITE, 3, 1, Route::Core(1)),
            (1, Kind::WRITE, 3, 1, Route::Here),
            (0, Kind::WRITE, 1, 1, Route::WrongNode),
            (0, Kind::SCAN, 6, 1, Route::NoShard),
            (0, Kind::SCAN, u32::MAX, 1, Route::NoShard),
            (0, Kind::GET, 0, 0, Route::OldMap),
            (0, Kind::GET, 0, 2, Route::NewMap),
            (0, Kind::STATUS, 99, 0, Route::Status),
            (1, Kind::STORAGE, 99, 0, Route::Storage),
            (0, Kind::DESCRIBE, 99, 7, Route::Describe),
        ];
        for (core, kind, shard, epoch, expected) in table {
            let head = Head {
                kind,
                request_id: RequestId(1),
                shard: ShardId(shard),
                epoch: Epoch(epoch),
            };
            assert_eq!(route(&placement, core, &head), expected, "{core} {head:?}");
        }
    }
}
