//! Orders of operators.

use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::limits::{ORDER_TIMEOUT, QUESTION_STAGGER, RETRY_PAUSE_MAX};
use crate::operation::Event;
use crate::route::Target;
use corelith_wire::cluster::encode_cluster_ask;
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::response::{Answer, Failure, Reason};
use corelith_wire::{DecodeError, Epoch, Head, Kind, NodeId, Outbox, ShardId};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;

pub use corelith_wire::cluster::{
    ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView, ViewChange, ViewNode, ViewSetting,
    ViewShard,
};

/// What became of a question to one node.
enum OrderFate {
    Answer(Box<ClusterAnswer>),
    /// It did not take the order.
    NotTaken(Cause),
    /// It may have taken the order.
    Unknown(Cause),
}

impl Client {
    /// Asks the cluster for its state, or gives it an order. Any node passes it on to the one that decides; the next
    /// one is asked if a node does not answer, and soon if it is only a question. Cancel safe; an order that was sent may
    /// still be taken.
    ///
    /// # Errors
    /// `Unavailable` if no node answers within the client's deadline, or no node decides now: nothing was done.
    /// `Indeterminate` if a node was given an order and its answer is lost.
    pub async fn cluster(&self, ask: &ClusterAsk) -> Result<ClusterAnswer> {
        let is_question = ask.dry_run || ask.order == ClusterOrder::Status;
        let end = self.clock().now() + self.deadline();
        loop {
            let map = self.cluster_map();
            let fate = match is_question {
                true => self.ask_any(&map, ask).await,
                false => self.order_in_turn(&map, ask, end).await,
            };
            let last = match fate {
                OrderFate::Answer(answer) => return Ok(*answer),
                OrderFate::Unknown(cause) if !is_question => {
                    return Err(Error::Indeterminate { cause });
                }
                OrderFate::NotTaken(cause) | OrderFate::Unknown(cause) => cause,
            };
            if self.clock().now() + RETRY_PAUSE_MAX >= end {
                return Err(Error::Unavailable { cause: last });
            }
            tokio::time::sleep(RETRY_PAUSE_MAX).await;
            // None of those nodes may be of the cluster any more.
            self.renew_map().await;
        }
    }

    /// Gives an order to the nodes in turn, until one may have taken it.
    async fn order_in_turn(&self, map: &ClusterMap, ask: &ClusterAsk, end: Duration) -> OrderFate {
        let mut last = Cause::NotTried;
        for node in &map.nodes {
            match self.ask_cluster(node, map.epoch, ask).await {
                OrderFate::NotTaken(cause) => last = cause,
                fate => return fate,
            }
            if self.clock().now() >= end {
                break;
            }
        }
        OrderFate::NotTaken(last)
    }

    /// Asks the nodes a question: one more whenever an answer is late or is none, so that a silent node costs little time.
    async fn ask_any(&self, map: &ClusterMap, ask: &ClusterAsk) -> OrderFate {
        let mut rest = map.nodes.iter();
        let mut asked = FuturesUnordered::new();
        let mut last = OrderFate::NotTaken(Cause::NotTried);
        loop {
            if let Some(node) = rest.next() {
                asked.push(self.ask_cluster(node, map.epoch, ask));
            } else if asked.is_empty() {
                return last;
            }
            let patience = match rest.len() {
                0 => ORDER_TIMEOUT,
                _ => QUESTION_STAGGER,
            };
            match tokio::time::timeout(patience, asked.next()).await {
                Ok(Some(fate @ OrderFate::Answer(_))) => return fate,
                Ok(Some(fate)) => last = fate,
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn ask_cluster(&self, node: &MapNode, epoch: u32, ask: &ClusterAsk) -> OrderFate {
        let target = Target {
            node: NodeId(node.id),
            core: 0,
        };
        let address = || Some((node.host.clone(), node.base_port));
        let until = self.clock().now() + ORDER_TIMEOUT.min(self.deadline());
        let Some(connection) = self.transport().connection(target, address) else {
            return OrderFate::NotTaken(Cause::WrongNode);
        };
        let encode = |out: &mut Outbox, request_id| {
            let head = Head {
                kind: Kind::CLUSTER,
                request_id,
                shard: ShardId(0),
                epoch: Epoch(epoch),
            };
            encode_cluster_ask(out, head, ask);
        };
        match connection.call(encode, None, until).await {
            Event::Answer(Answer::Cluster(answer)) => OrderFate::Answer(Box::new(answer)),
            Event::Answer(Answer::Failure { failure, .. }) => of_failure(&failure),
            event => of_event(event),
        }
    }
}

fn of_failure(failure: &Failure) -> OrderFate {
    match failure {
        Failure::Unavailable {
            reason,
            nothing_done,
        } => {
            let cause = match reason {
                Reason::NoQuorum => Cause::NoQuorum,
                Reason::Starting => Cause::Starting,
                Reason::Stopping => Cause::Stopping,
                Reason::LeadershipLost => Cause::LeadershipLost,
                Reason::StorageFailed => Cause::StorageFailed,
            };
            match nothing_done {
                true => OrderFate::NotTaken(cause),
                false => OrderFate::Unknown(cause),
            }
        }
        Failure::NotLeader { .. } => OrderFate::NotTaken(Cause::NoLeader),
        Failure::Throttled { .. } => OrderFate::NotTaken(Cause::Overload),
        // A node that knows no orders.
        _ => OrderFate::NotTaken(malformed()),
    }
}

fn of_event(event: Event) -> OrderFate {
    match event {
        Event::NotSent(cause) => OrderFate::NotTaken(cause),
        Event::Lost(cause) => OrderFate::Unknown(cause),
        Event::Moved => OrderFate::Unknown(Cause::LeadershipLost),
        Event::Answer(_) => OrderFate::Unknown(malformed()),
    }
}

fn malformed() -> Cause {
    Cause::Answer(DecodeError::Malformed {
        what: "kind of answer",
    })
}
