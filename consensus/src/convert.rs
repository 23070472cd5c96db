//! Between openraft's types and those of the wire.

use crate::types::{self, AppendRequest, LeaderId, LogEntry, Payload, Vote};
use corelith_shards::{ReplicaId, Term};
use corelith_wire::peer::{AppendHead, PeerEntry, PeerVote};
use corelith_wire::width::u32_len;
use openraft::entry::RaftEntry;

pub(crate) fn peer_vote(vote: &Vote) -> PeerVote {
    PeerVote {
        term: Term(vote.leader_id.term),
        node: ReplicaId(vote.leader_id.node_id),
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: PeerVote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term.0,
            node_id: vote.node.0,
        },
        committed: vote.committed,
    }
}

/// An append request as it is sent.
pub(crate) fn append(request: AppendRequest) -> (AppendHead, impl Iterator<Item = PeerEntry>) {
    let head = AppendHead {
        vote: peer_vote(&request.vote),
        before: request.prev_log_id.map(types::shard_log_id),
        committed: request.leader_commit.map(types::shard_log_id),
        count: u32_len(request.entries.len()),
    };
    let entries = request.entries.into_iter().map(|entry| PeerEntry {
        id: types::shard_log_id(entry.log_id()),
        kind: entry.payload.kind,
        body: entry.payload.body,
    });
    (head, entries)
}

/// An append or a heartbeat that was admitted, as openraft takes it; `payloads` are what its entries say.
pub(crate) fn append_request(
    head: &AppendHead,
    entries: &[PeerEntry],
    payloads: Vec<Payload>,
) -> AppendRequest {
    assert_eq!(entries.len(), payloads.len(), "each entry says something");
    let entries = entries
        .iter()
        .zip(payloads)
        .map(|(entry, payload)| LogEntry::new(types::log_id(entry.id), payload))
        .collect();
    AppendRequest {
        vote: vote(head.vote),
        prev_log_id: head.before.map(types::log_id),
        entries,
        leader_commit: head.committed.map(types::log_id),
    }
}
