//! The operator of a simulated cluster: orders, and the state that the cluster tells.

use crate::client::{Clock, ask_for_map};
use crate::cluster::Cluster;
use crate::link::Connection;
use corelith_client::session::Event;
use corelith_client::{ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView};
use corelith_io::sim::SimNode;
use corelith_wire::cluster::encode_cluster_ask;
use corelith_wire::map::ClusterMap;
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, Epoch, Head, Kind, RequestId, ShardId};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Time for an answer of one node.
const PATIENCE: Duration = Duration::from_secs(3);
const PORT: u16 = 7411;

/// Asks the nodes in turn until one of them answers.
fn asked(cluster: &Cluster, order: ClusterOrder) -> Option<ClusterAnswer> {
    let id = ClusterId(cluster.map().cluster);
    let up = |node: &SimNode| cluster.sim.is_up(*node);
    let nodes: Vec<SimNode> = cluster.nodes().into_iter().filter(up).collect();
    let asking = async move {
        let ask = ClusterAsk {
            order,
            dry_run: false,
        };
        for node in nodes {
            if let Some(answer) = answer_of(node.address(PORT), id, &ask).await {
                return Some(answer);
            }
        }
        None
    };
    cluster.sim.block_on(cluster.outside, asking)
}

async fn answer_of(address: SocketAddr, id: ClusterId, ask: &ClusterAsk) -> Option<ClusterAnswer> {
    let clock = Clock::start();
    let connection = Rc::new(Connection::new(address, id, clock, Box::new(|| ())));
    let encode = |out: &mut _, request_id: RequestId| {
        let head = Head {
            kind: Kind::CLUSTER,
            request_id,
            shard: ShardId(0),
            epoch: Epoch(0),
        };
        encode_cluster_ask(out, head, ask);
    };
    match connection.call(encode, None, clock.now() + PATIENCE).await {
        Event::Answer(Answer::Cluster(answer)) => Some(answer),
        _ => None,
    }
}

/// The newest map that a node tells clients; `None` if nobody tells one.
pub(crate) fn newest_map(cluster: &Cluster) -> Option<ClusterMap> {
    let id = ClusterId(cluster.map().cluster);
    let up = |node: &SimNode| cluster.sim.is_up(*node);
    let nodes: Vec<SimNode> = cluster.nodes().into_iter().filter(up).collect();
    let asking = async move {
        let mut newest = None;
        for node in nodes {
            let clock = Clock::start();
            let connection = Connection::new(node.address(PORT), id, clock, Box::new(|| ()));
            let connection = Rc::new(connection);
            let told = connection.call(ask_for_map, None, clock.now() + PATIENCE);
            if let Event::Answer(Answer::Map(map)) = told.await {
                newest = newest
                    .filter(|newest: &ClusterMap| newest.epoch >= map.epoch)
                    .or(Some(map));
            }
        }
        newest
    };
    cluster.sim.block_on(cluster.outside, asking)
}

/// Gives an order. What becomes of it is not known if nobody answers.
pub(crate) fn order(cluster: &Cluster, order: ClusterOrder) -> Option<ClusterAnswer> {
    let answer = asked(cluster, order.clone());
    tracing::info!(?order, ?answer, "order");
    answer
}

/// What the cluster says of itself, if a node answers.
pub(crate) fn view(cluster: &Cluster) -> Option<ClusterView> {
    match asked(cluster, ClusterOrder::Status)? {
        ClusterAnswer::Status { view } => Some(view),
        _ => None,
    }
}
