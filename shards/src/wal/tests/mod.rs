//! Tests of the whole log.

mod crash;
mod damage;
mod golden;
mod model;

use super::{Entry, LogOptions, Vote};
use crate::ids::{LogId, LogIndex, NodeId, ShardId, Term};
use bytes::Bytes;

fn options() -> LogOptions {
    LogOptions {
        store_id: 77,
        shard: ShardId(3),
        segment_bytes: 64 << 10,
        cache_bytes: 4096,
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        node: NodeId(term % 3 + 1),
        index: LogIndex(index),
    }
}

/// An entry whose body is made from its id.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    let seed = term.wrapping_mul(31).wrapping_add(index).to_le_bytes();
    let body: Vec<u8> = seed.iter().copied().cycle().take(len).collect();
    Entry {
        id: id(term, index),
        kind: (index % 4) as u8,
        body: Bytes::from(body),
    }
}

fn vote(term: u64) -> Vote {
    Vote {
        term: Term(term),
        node: NodeId(term % 3 + 1),
        committed: term.is_multiple_of(2),
    }
}
