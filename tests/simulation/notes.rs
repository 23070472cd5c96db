//! What the clients of a run saw, as its history has it.

use crate::client::{Client, Outcome, some_replica};
use crate::large;
use bytes::{BufMut, Bytes, BytesMut};
use corelith_client::Error;
use corelith_client::session::{ReadFrom, Request, Source};
use corelith_history::{LogPoint, Observation, ValueId, What, WriteCondition};
use corelith_io::sim::Sim;
use corelith_shards::ShardId;
use corelith_wire::map::ClusterMap;
use corelith_wire::request::{self, Operation as WriteKind};
use corelith_wire::response::{Answer, ReplyMeta, ScanPage, ScanValue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What an operation asks for, as far as the history is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Read,
    Write(ValueId, WriteCondition),
}

/// An operation that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub client: u64,
    pub key: Bytes,
    pub began: Duration,
    pub asked: Asked,
}

/// The history of one run.
pub(crate) struct Notes {
    sim: Sim,
    seed: u64,
    map: Arc<ClusterMap>,
    pub history: RefCell<Vec<Observation>>,
    /// How operations that were refused were refused.
    pub refusals: RefCell<BTreeMap<&'static str, usize>>,
    /// Large values that were committed, and those of which all bytes were read.
    pub uploaded: Cell<usize>,
    pub read_whole: Cell<usize>,
    next_value: Cell<u64>,
}

impl Notes {
    pub(crate) fn new(sim: &Sim, seed: u64, map: Arc<ClusterMap>) -> Self {
        Self {
            sim: sim.clone(),
            seed,
            map,
            history: RefCell::default(),
            refusals: RefCell::default(),
            uploaded: Cell::new(0),
            read_whole: Cell::new(0),
            next_value: Cell::new(1),
        }
    }

    /// A value that no other write has.
    pub(crate) fn take_value(&self) -> u64 {
        self.next_value.replace(self.next_value.get() + 1)
    }

    /// An operation that begins now.
    pub(crate) fn ask(&self, client: u64, key: &Bytes, asked: Asked) -> Question {
        Question {
            client,
            key: key.clone(),
            began: self.sim.now(),
            asked,
        }
    }

    /// Carries an operation to its end and notes what came of it. `encode` makes the bytes of its value.
    pub(crate) async fn carry(
        &self,
        client: &Client,
        question: &Question,
        encode: impl FnOnce(u64) -> Bytes,
        within: Duration,
    ) -> Outcome {
        let key = question.key.clone();
        let request = match question.asked {
            Asked::Read => Request::Get { key },
            Asked::Write(value, condition) => Request::Write {
                key,
                value: value.map(encode).unwrap_or_default(),
                condition: on_wire(condition),
                kind: match value {
                    Some(_) => WriteKind::Put,
                    None => WriteKind::Delete,
                },
            },
        };
        let source = match question.asked {
            Asked::Read => Source::From(some_replica()),
            Asked::Write(..) => Source::From(ReadFrom::Leader),
        };
        let (outcome, node) = client.carry(request, within, source).await;
        self.note(question, node, &outcome);
        outcome
    }

    fn push(&self, question: &Question, node: u64, ended: Option<Duration>, what: What) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        self.history.borrow_mut().push(Observation {
            client: question.client,
            shard: self.map.shard_of(&question.key).0,
            key: String::from_utf8(question.key.to_vec()).unwrap(),
            began: nanos(question.began),
            ended: ended.map(nanos),
            node,
            what,
        });
    }

    /// Notes a write whose outcome nobody waits for.
    pub(crate) fn note_unknown(&self, question: &Question) {
        let Asked::Write(value, condition) = question.asked else {
            return;
        };
        self.push(question, 0, None, What::Unknown { value, condition });
    }

    pub(crate) fn refused(&self, how: &'static str) {
        *self.refusals.borrow_mut().entry(how).or_insert(0) += 1;
    }

    pub(crate) fn note(&self, question: &Question, node: u64, outcome: &Outcome) {
        let what = match (outcome, question.asked) {
            (Ok(Answer::Written { meta, version }), Asked::Write(value, condition)) => {
                assert_eq!(meta.index, *version, "a version is the index of its write");
                What::Written {
                    value,
                    condition,
                    at: point(*meta),
                }
            }
            (Ok(Answer::Conflict { meta, current }), Asked::Write(_, condition)) => What::Refused {
                condition,
                current: *current,
                at: Some(point(*meta)),
            },
            (
                Ok(Answer::Value {
                    meta,
                    version,
                    value,
                }),
                Asked::Read,
            ) => What::Read {
                found: Some((*version, decode(value))),
                at: point(*meta),
            },
            (Ok(Answer::Large(large)), Asked::Read) => What::Read {
                found: Some((large.version, large::value_of(large.upload))),
                at: point(large.meta),
            },
            (Ok(Answer::NotFound { meta }), Asked::Read) => What::Read {
                found: None,
                at: point(*meta),
            },
            (Err(Error::Indeterminate { .. }), Asked::Write(..)) => {
                return self.note_unknown(question);
            }
            // Certainly without an effect: its value must never be seen.
            (Err(Error::Unavailable { .. }), _) => return self.refused("unavailable"),
            (Err(Error::Throttled { .. }), _) => return self.refused("throttled"),
            (Err(Error::DiskFull), Asked::Write(Some(_), _)) => return self.refused("disk full"),
            (outcome, _) => panic!("seed {}: {outcome:?}", self.seed),
        };
        self.push(question, node, Some(self.sim.now()), what);
    }

    /// Notes that an upload was committed.
    pub(crate) fn note_committed(&self, question: &Question, version: u64) {
        let Asked::Write(value, condition) = question.asked else {
            panic!("a read is not committed");
        };
        // Its answer may be that to another attempt, so that it says nothing of terms.
        let at = LogPoint::at(version);
        let written = What::Written {
            value,
            condition,
            at,
        };
        self.push(question, 0, Some(self.sim.now()), written);
        self.uploaded.set(self.uploaded.get() + 1);
    }

    /// Notes that the commit of an upload found another version.
    pub(crate) fn note_conflicted(&self, question: &Question, current: u64) {
        let Asked::Write(_, condition) = question.asked else {
            panic!("a read has no condition");
        };
        let refused = What::Refused {
            condition,
            current,
            at: None,
        };
        self.push(question, 0, Some(self.sim.now()), refused);
    }

    /// A page of a scan is a read of each of `keys` that it covers.
    pub(crate) fn note_page(
        &self,
        scan: &Question,
        node: u64,
        shard: ShardId,
        page: &ScanPage,
        keys: impl Iterator<Item = Bytes>,
    ) {
        let last = page.items.last().map(|item| item.key.clone());
        let rises = page.items.is_sorted_by(|a, b| a.key < b.key);
        assert!(rises, "a page out of order");
        let items: BTreeMap<&[u8], (u64, u64)> = page
            .items
            .iter()
            .map(|item| {
                let value = match &item.value {
                    ScanValue::Bytes(bytes) => decode(bytes),
                    ScanValue::Large { len } => large::value_of_len(*len),
                };
                (item.key.as_ref(), (item.version, value))
            })
            .collect();
        let mut met = 0;
        for key in keys {
            let is_covered = key >= scan.key && (!page.more || Some(&key) <= last.as_ref());
            if !is_covered || self.map.shard_of(&key).0 != shard.0 {
                continue;
            }
            let found = items.get(key.as_ref()).copied();
            met += usize::from(found.is_some());
            let what = What::Read {
                found,
                // A later page tells the term of its own time, not that of the moment that it shows.
                at: LogPoint::at(page.at_version),
            };
            // It shows one moment of the whole scan, which an operation of the same client may have passed since.
            let read = Question {
                key,
                ..scan.clone()
            };
            self.push(&read, node, Some(self.sim.now()), what);
        }
        assert_eq!(met, items.len(), "a scan found keys that nobody wrote");
    }
}

fn point(meta: ReplyMeta) -> LogPoint {
    LogPoint {
        term: meta.term,
        index: meta.index,
    }
}

pub(crate) fn on_wire(condition: WriteCondition) -> request::Condition {
    match condition {
        WriteCondition::Any => request::Condition::Any,
        WriteCondition::Absent => request::Condition::Absent,
        WriteCondition::Version(version) => request::Condition::Version(version),
    }
}

/// A value that names itself, with `len` bytes behind its name.
pub(crate) fn encode(value: u64, len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + len);
    bytes.put_u64_le(value);
    bytes.put_bytes(value as u8, len);
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> u64 {
    let (value, rest) = bytes.split_first_chunk().expect("a value names itself");
    let value = u64::from_le_bytes(*value);
    assert!(
        rest.iter().all(|byte| *byte == value as u8),
        "a damaged value was served"
    );
    value
}
