//! Between openraft's types and those of the wire.

use crate::membership;
use crate::types::{AppendRequest, Entry, LeaderId, LogId, Payload, Vote};
use corelith_wire::peer::{AppendHead, Heartbeat, PeerEntry, PeerLogId, PeerVote};
use openraft::entry::RaftEntry;

pub(crate) fn peer_vote(vote: &Vote) -> PeerVote {
    PeerVote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: PeerVote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    }
}

pub(crate) fn peer_log_id(id: LogId) -> PeerLogId {
    PeerLogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id(id: PeerLogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.node,
        },
        index: id.index,
    }
}

/// An append request as it is sent.
pub(crate) fn append(request: AppendRequest) -> (AppendHead, impl Iterator<Item = PeerEntry>) {
    let head = AppendHead {
        vote: peer_vote(&request.vote),
        before: request.prev_log_id.map(peer_log_id),
        committed: request.leader_commit.map(peer_log_id),
        count: u32::try_from(request.entries.len()).unwrap_or(u32::MAX),
    };
    let entries = request.entries.into_iter().map(|entry| PeerEntry {
        id: peer_log_id(entry.log_id()),
        kind: entry.payload.kind,
        body: entry.payload.body,
    });
    (head, entries)
}

/// A received append request; `None` if an entry is out of place or a membership malformed.
pub(crate) fn append_request(head: &AppendHead, entries: Vec<PeerEntry>) -> Option<AppendRequest> {
    let first = head.before.map_or(0, |before| before.index + 1);
    let mut taken = Vec::with_capacity(entries.len());
    for (expected, PeerEntry { id, kind, body }) in (first..).zip(entries) {
        let malformed =
            kind == crate::command::kind::MEMBERSHIP && membership::decode(&body).is_none();
        if id.index != expected || malformed {
            return None;
        }
        taken.push(Entry::new(log_id(id), Payload::new(kind, body)));
    }
    Some(AppendRequest {
        vote: vote(head.vote),
        prev_log_id: head.before.map(log_id),
        entries: taken,
        leader_commit: head.committed.map(log_id),
    })
}

/// A received heartbeat, as openraft takes it.
pub(crate) fn heartbeat_request(beat: &Heartbeat) -> AppendRequest {
    AppendRequest {
        vote: vote(beat.vote),
        prev_log_id: beat.before.map(log_id),
        entries: Vec::new(),
        leader_commit: beat.committed.map(log_id),
    }
}
