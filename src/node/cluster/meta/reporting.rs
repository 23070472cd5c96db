//! What each node tells the keeper of the cluster map, again and again: where it is, and how its replicas are.

use super::MetaLeader;
use crate::node::cluster::map::Map;
use crate::node::cluster::reports::{CopyReport, HoldReport, LeadReport, NodeReport};
use crate::node::limits;
use corelith_wire::peer::{self, NodeAsk, NodeReply, Registration};
use corelith_wire::{LogIndex, NodeId, ReplicaId, ShardId, StoreId, Term};
use futures_util::future::LocalBoxFuture;
use std::rc::Rc;

/// See the module. Belongs to the first core of a node.
pub(crate) struct Reporter {
    pub(crate) me: NodeId,
    /// How this node wants to be in the map.
    pub(crate) registration: Registration,
    pub(crate) leader: Rc<MetaLeader>,
    /// The map that this node knows.
    pub(crate) map: Box<dyn Fn() -> Option<Rc<Map>>>,
    /// Takes a map that came.
    pub(crate) learn: Box<dyn Fn(&[u8])>,
    /// What there is to report.
    pub(crate) gather: Box<dyn Fn() -> LocalBoxFuture<'static, peer::NodeReport>>,
}

impl Reporter {
    /// Reports for ever.
    pub(crate) async fn run(self) {
        loop {
            if !self.is_as_registered() {
                self.register().await;
            }
            let report = (self.gather)().await;
            self.leader.ask(&NodeAsk::Report(report)).await;
            corelith_io::sleep(limits::REPORT_EVERY).await;
        }
    }

    fn is_as_registered(&self) -> bool {
        let map = (self.map)();
        let known = map.as_ref().and_then(|map| map.node(self.me));
        known.is_some_and(|known| {
            let place = known.place();
            let Registration {
                store,
                host,
                port,
                cores,
                zone,
                region,
                ..
            } = &self.registration;
            known.store == StoreId(*store)
                && (&place.host, place.port, place.cores) == (host, *port, *cores)
                && (&place.zone, &place.region) == (zone, region)
        })
    }

    async fn register(&self) {
        let ask = NodeAsk::Register(self.registration.clone());
        match self.leader.ask(&ask).await {
            Some(NodeReply::Map { bytes }) => (self.learn)(&bytes),
            Some(NodeReply::Failed { why }) => {
                tracing::warn!(why, "the cluster map does not show this node as it is");
            }
            _ => {}
        }
    }
}

/// A report as it came from a node with that store. When it came, who takes it knows.
pub(crate) fn as_reported(store: StoreId, report: &peer::NodeReport) -> NodeReport {
    let leads = report.leads.iter();
    let holds = report.holds.iter().map(|hold| {
        let held = HoldReport {
            generation: hold.generation,
            bytes: hold.bytes,
            is_down: hold.is_down,
        };
        (ShardId(hold.shard), held)
    });
    NodeReport {
        heard_ms: 0,
        store,
        free_bytes: report.free_bytes,
        used_bytes: report.used_bytes,
        leads: leads.map(|lead| (ShardId(lead.shard), as_led(lead))).collect(),
        holds: holds.collect(),
    }
}

fn as_led(lead: &peer::LeadReport) -> LeadReport {
    let ids = |ids: &Vec<u64>| ids.iter().copied().map(ReplicaId).collect();
    let matching = lead.matching.iter();
    let copying = lead.matching.iter().filter(|matched| matched.copy_bytes > 0);
    LeadReport {
        term: Term(lead.term),
        voters: lead.voters.iter().map(ids).collect(),
        learners: ids(&lead.learners).into_iter().collect(),
        at: LogIndex(lead.at),
        is_committed: lead.is_committed,
        last: LogIndex(lead.last),
        matching: matching
            .map(|matched| (ReplicaId(matched.replica), LogIndex(matched.index)))
            .collect(),
        copying: copying
            .map(|matched| {
                let copy = CopyReport {
                    bytes_done: matched.copied_bytes,
                    bytes_all: matched.copy_bytes,
                };
                (ReplicaId(matched.replica), copy)
            })
            .collect(),
    }
}
