//! Tests of the log together with a value log that a test can delay and break.

pub(crate) mod crash;
mod damage;
mod facade;
mod model;
pub(crate) mod values;

use super::{Log, LogOptions, Values};
use crate::error::Result;
use crate::ids::ShardId;
use crate::wal::tests::{entry, id, vote};
use crate::wal::{Entry, LogRecovered, ValuePart};
use std::path::Path;
use values::FakeValues;

/// Values from here on are separated.
const SEPARATED_FROM: usize = 300;
/// The bytes before the value in the entries of these tests; 4 to 12 are the key.
const HEAD: usize = 20;

fn options() -> LogOptions {
    LogOptions {
        store_id: 77,
        shard: ShardId(3),
        segment_bytes: 64 << 10,
        cache_bytes: 4096,
        separated_value_bytes: Some(SEPARATED_FROM),
    }
}

/// Opens a log and a value log in a directory below its own.
async fn open(dir: &Path) -> Result<(Log, FakeValues, LogRecovered)> {
    let values = FakeValues::open(&dir.join("values")).await?;
    let (log, found) = Log::open(dir, options(), None, Values::Fake(values.clone())).await?;
    Ok((log, values, found))
}

/// The entry, saying that it has a value.
fn with_value(mut entry: Entry) -> Entry {
    let value_len = entry.body.len().saturating_sub(HEAD) as u32;
    entry.value = (value_len > 0).then_some(ValuePart {
        space: crate::Space::User,
        start: HEAD as u32,
        len: value_len,
        key_start: 4,
        key_len: 8,
    });
    entry
}

/// The entry as it was before [`with_value`] and its way through a log, which must be whole.
fn without_place(mut entry: Entry) -> Entry {
    assert!(entry.is_whole(), "{} has no value", entry.id);
    let is_long = entry.body.len() >= HEAD + SEPARATED_FROM;
    assert_eq!(entry.place.is_some(), is_long, "{}", entry.id);
    entry.value = None;
    entry.place = None;
    entry
}

/// Checks the heads of all entries against the whole ones.
async fn check_heads(log: &Log, whole: &[Entry]) {
    let mut heads = Vec::new();
    while heads.len() < whole.len() {
        let from = whole[heads.len()].id.index;
        let to = crate::ids::LogIndex(u64::MAX);
        heads.extend(log.read_heads(from, to, 1000).await.unwrap());
    }
    for (head, whole) in heads.iter().zip(whole) {
        let len = match whole.body.len() {
            len if len >= HEAD + SEPARATED_FROM => HEAD,
            len => len,
        };
        assert_eq!((head.id, head.kind), (whole.id, whole.kind));
        assert_eq!(head.body, whole.body[..len]);
        assert_eq!(head.whole_len(), whole.body.len() as u64);
    }
}
