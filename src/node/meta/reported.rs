//! Reports as they come over the wire, for the plan.

use crate::node::cluster::reports::{CopyReport, HoldReport, LeadReport, NodeReport};
use corelith_wire::{LogIndex, ReplicaId, ShardId, StoreId, Term, peer};

/// A report as it came. When it did, who takes it knows.
pub(super) fn report(report: &peer::NodeReport) -> NodeReport {
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
        store: StoreId(report.store),
        free_bytes: report.free_bytes,
        used_bytes: report.used_bytes,
        leads: leads.map(|led| (ShardId(led.shard), lead(led))).collect(),
        holds: holds.collect(),
    }
}

fn lead(led: &peer::LeadReport) -> LeadReport {
    let ids = |ids: &Vec<u64>| ids.iter().copied().map(ReplicaId).collect();
    let matching = led.matching.iter();
    let copying = led.matching.iter().filter(|matched| matched.copy_bytes > 0);
    LeadReport {
        term: Term(led.term),
        voters: led.voters.iter().map(ids).collect(),
        learners: ids(&led.learners).into_iter().collect(),
        at: LogIndex(led.at),
        is_committed: led.is_committed,
        last: LogIndex(led.last),
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
