//! Orders of operators.

use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::limits::{ORDER_TIMEOUT, RETRY_PAUSE_MAX};
use crate::operation::Event;
use crate::route::Target;
use corelith_wire::cluster::encode_cluster_ask;
use corelith_wire::map::MapNode;
use corelith_wire::response::{Answer, Failure, Reason};
use corelith_wire::{DecodeError, Epoch, Head, Kind, NodeId, Outbox, ShardId};

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
    /// one is asked if a node does not answer. Cancel safe; an order that was sent may still be taken.
    ///
    /// # Errors
    /// `Unavailable` if no node answers within the client's deadline, or no node decides now: nothing was done.
    /// `Indeterminate` if a node was given an order and its answer is lost.
    pub async fn cluster(&self, ask: &ClusterAsk) -> Result<ClusterAnswer> {
        let is_question = ask.dry_run || ask.order == ClusterOrder::Status;
        let end = self.clock().now() + self.deadline();
        loop {
            let map = self.cluster_map();
            let mut last = Cause::NotTried;
            for node in &map.nodes {
                match self.ask_cluster(node, map.epoch, ask).await {
                    OrderFate::Answer(answer) => return Ok(*answer),
                    OrderFate::Unknown(cause) if !is_question => {
                        return Err(Error::Indeterminate { cause });
                    }
                    OrderFate::NotTaken(cause) | OrderFate::Unknown(cause) => last = cause,
                }
                if self.clock().now() >= end {
                    break;
                }
            }
            if self.clock().now() + RETRY_PAUSE_MAX >= end {
                return Err(Error::Unavailable { cause: last });
            }
            tokio::time::sleep(RETRY_PAUSE_MAX).await;
            // None of those nodes may be of the cluster any more.
            self.renew_map().await;
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
