//! Tests of the log without a value log; with one, it is tested in `log/tests`.

pub(crate) mod damage;
mod golden;
mod race;

use super::{Entry, Vote, WalOptions};
use crate::error::Result;
use crate::ids::{LogId, LogIndex, ReplicaId, ShardId, Term};
use crate::vlog::{LoggedValue, ValueState};
use bytes::Bytes;

fn options() -> WalOptions {
    WalOptions {
        store_id: 77,
        shard: ShardId(3),
        segment_bytes: 64 << 10,
        cache_bytes: 4096,
    }
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        node: ReplicaId(term % 3 + 1),
        index: LogIndex(index),
    }
}

/// An entry whose body is made from its id.
pub(crate) fn entry(term: u64, index: u64, len: usize) -> Entry {
    let seed = term.wrapping_mul(31).wrapping_add(index).to_le_bytes();
    let body: Vec<u8> = seed.iter().copied().cycle().take(len).collect();
    Entry::new(id(term, index), (index % 4) as u8, Bytes::from(body))
}

/// For a log that holds no separated entries.
async fn no_values(value: LoggedValue) -> Result<ValueState> {
    panic!("asked for {value:?}");
}

/// For a log whose values are all there.
async fn all_values(_: LoggedValue) -> Result<ValueState> {
    Ok(ValueState::Whole)
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote {
        term: Term(term),
        node: ReplicaId(term % 3 + 1),
        committed: term.is_multiple_of(2),
    }
}
