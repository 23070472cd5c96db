//! Tests of the whole value log.

mod crash;
mod damage;
mod golden;
mod io;

use super::{
    LoggedValue, RecordRef, Rewritten, Segment, SegmentMeta, ValueLog, ValueLogOptions,
    ValuePointer, ValueState,
};
use crate::error::Result;
use crate::ids::{FileSeries, LogIndex, Owner, ShardId, Ticket, ValueSegmentId};
use std::path::Path;

const OWNER: Owner = Owner {
    store_id: 0x5eed,
    shard: ShardId(3),
};
const DIR: &str = "/data/shard";

fn options(segment_bytes: u64) -> ValueLogOptions {
    ValueLogOptions {
        segment_bytes,
        series: FileSeries(7),
    }
}

/// What the manifest of a shard would say.
#[derive(Clone, Debug, Default)]
struct Manifest {
    known: Vec<SegmentMeta>,
    next: ValueSegmentId,
}

impl Manifest {
    /// What it would say after an edit now.
    fn of(log: &ValueLog) -> Self {
        let sealed = |segment: &std::rc::Rc<Segment>| segment.is_sealed().then(|| segment.meta());
        Self {
            known: log.segments().values().filter_map(sealed).collect(),
            next: log.first_unsealed(),
        }
    }

    async fn open(&self, dir: &Path, segment_bytes: u64) -> Result<ValueLog> {
        corelith_io::create_dir_all(dir).await?;
        let options = options(segment_bytes);
        let opened = ValueLog::open(dir, OWNER, options, self.known.clone(), self.next).await?;
        Ok(opened.0)
    }
}

/// Opens a value log that does not exist yet, with segments of 64 KiB.
async fn open_new() -> ValueLog {
    let opened = Manifest::default().open(Path::new(DIR), 64 << 10).await;
    opened.unwrap()
}

/// Bytes made from a number, that do not repeat within a page.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A key of a user.
fn user(key: &[u8]) -> crate::SpacedKey<'_> {
    crate::Space::User.key(key)
}

fn key(index: u64) -> Vec<u8> {
    format!("key/{index}").into_bytes()
}

/// Stages value `index` of that length.
fn stage(log: &ValueLog, index: u64, len: usize) -> (ValuePointer, Ticket) {
    log.stage(LogIndex(index), user(&key(index)), &value(index, len))
        .unwrap()
}

/// Stages values of these lengths, numbered from `first`, and waits until they are durable.
async fn put(log: &ValueLog, first: u64, lens: &[usize]) -> Vec<ValuePointer> {
    let mut pointers = Vec::new();
    for (index, len) in (first..).zip(lens) {
        pointers.push(stage(log, index, *len).0);
    }
    log.wait_durable(log.staged()).await.unwrap();
    pointers
}

/// Whether the record of value `index` is there and intact, all of it.
async fn is_whole(log: &ValueLog, index: u64, pointer: ValuePointer) -> bool {
    let value = LoggedValue {
        place: pointer,
        key_len: key(index).len() as u32,
    };
    let state = log.state_of(&log.segments(), value).await.unwrap();
    matches!(state, ValueState::Whole)
}

/// Whether value `index` reads back as it was staged.
async fn reads_back(log: &ValueLog, index: u64, pointer: ValuePointer) -> bool {
    let segments = log.segments();
    let read = log.read(&segments, pointer, Some(user(&key(index)))).await;
    read.is_ok_and(|read| read == value(index, pointer.len as usize))
}

/// Checks that the values numbered from `first` read back.
async fn assert_read_back(log: &ValueLog, first: u64, pointers: &[ValuePointer]) {
    for (index, pointer) in (first..).zip(pointers) {
        assert!(reads_back(log, index, *pointer).await, "value {index}");
    }
}

/// Waits until nothing but the segment that is written to is unsealed.
async fn wait_sealed(log: &ValueLog) {
    loop {
        let segments = log.segments();
        let unsealed = segments.values().filter(|segment| !segment.is_sealed());
        if unsealed.count() <= 1 {
            return;
        }
        corelith_io::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Collects a segment, keeping the values that `keep` says by their log index.
async fn collect(log: &ValueLog, id: u64, keep: impl Fn(u64) -> bool) -> Result<Rewritten> {
    let segment = std::rc::Rc::clone(&log.segments()[&ValueSegmentId(id)]);
    let is_live = async |record: &RecordRef<'_>| Ok(keep(record.at.0));
    log.rewrite(&segment, is_live).await
}
