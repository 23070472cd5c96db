//! Random operations against a vector.

use super::{check_heads, entry, id, open, vote, with_value, without_place};
use crate::ids::{LogId, LogIndex};
use crate::log::Log;
use crate::wal::{Entry, LogRange, Vote};
use futures_util::FutureExt;
use proptest::prelude::*;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::rc::Rc;

#[derive(Clone, Debug)]
enum Op {
    /// Entries of these lengths.
    Append(Vec<usize>),
    /// Cuts off this share of what is held, and begins a new term.
    Truncate(u8),
    Vote,
    /// Purges this share of what is held, or beyond it.
    Purge(u8),
    Commit,
    Flush,
    Reopen,
    /// From this share of what is held, this many bytes.
    Read(u8, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![
        8 => 0_usize..400,
        3 => 3000_usize..6000,
        1 => 60_000_usize..200_000,
    ];
    prop_oneof![
        8 => proptest::collection::vec(len, 1..12).prop_map(Op::Append),
        2 => any::<u8>().prop_map(Op::Truncate),
        1 => Just(Op::Vote),
        2 => any::<u8>().prop_map(Op::Purge),
        1 => Just(Op::Commit),
        2 => Just(Op::Flush),
        1 => Just(Op::Reopen),
        3 => (any::<u8>(), 0_u64..20_000).prop_map(|(from, bytes)| Op::Read(from, bytes)),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index.0 + 1)
    }

    fn share(&self, share: u8) -> usize {
        self.entries.len() * usize::from(share) / 256
    }

    fn id_before(&self, at: usize) -> Option<LogId> {
        match at.checked_sub(1) {
            Some(before) => Some(self.entries[before].id),
            None => self.purged,
        }
    }
}

async fn check(log: &Log, model: &Model) {
    let range = LogRange {
        purged: model.purged,
        last: model.last(),
    };
    assert_eq!(log.range(), range);
    assert_eq!(log.vote(), model.vote);
    assert_eq!(log.committed(), model.committed);
    let all = log
        .read(LogIndex(0), LogIndex(u64::MAX), u64::MAX)
        .await
        .unwrap();
    assert_eq!(all.len(), model.entries.len());
    for (read, wrote) in all.into_iter().zip(&model.entries) {
        assert_eq!(log.id_at(read.id.index), Some(read.id));
        assert_eq!(without_place(read), *wrote);
    }
    check_heads(log, &model.entries).await;
    assert_eq!(log.id_at(LogIndex(model.next())), None);
}

async fn run(dir: &Path, ops: Vec<Op>) {
    let (mut log, _, found) = open(dir).await.unwrap();
    assert!(found.created);
    let mut model = Model::default();
    let acknowledged = Rc::new(Cell::new(0));
    let mut appended = 0;
    for op in ops {
        match op {
            Op::Append(lens) => {
                let next = model.next();
                let term = model.term;
                let entries: Vec<_> = (next..)
                    .zip(lens)
                    .map(|(index, len)| entry(term, index, len))
                    .collect();
                model.entries.extend(entries.iter().cloned());
                appended += 1;
                let (acknowledged, nth) = (Rc::clone(&acknowledged), appended);
                let entries = entries.into_iter().map(with_value).collect();
                log.append(entries, move |result| {
                    result.unwrap();
                    assert_eq!(acknowledged.replace(nth), nth - 1);
                });
            }
            Op::Truncate(share) => {
                // What is committed is never cut off.
                let committed = model.committed.map(|id| id.index);
                let kept = |entry: &Entry| Some(entry.id.index) <= committed;
                let keep = model
                    .share(share)
                    .max(model.entries.iter().filter(|entry| kept(entry)).count());
                let last = model.id_before(keep);
                model.entries.truncate(keep);
                model.term += 1;
                log.truncate_after(last).await.unwrap();
            }
            Op::Vote => {
                model.term += 1;
                model.vote = Some(vote(model.term));
                log.save_vote(vote(model.term)).await.unwrap();
                assert_eq!(acknowledged.get(), appended);
            }
            Op::Purge(255) => {
                let upto = id(model.term, model.next() + 10);
                model.entries.clear();
                model.purged = Some(upto);
                log.purge(upto).await.unwrap();
            }
            Op::Purge(share) => {
                let keep = model.share(share);
                if let Some(upto) = model.id_before(keep) {
                    model.entries.drain(..keep);
                    model.purged = Some(upto);
                    log.purge(upto).await.unwrap();
                }
            }
            Op::Commit => {
                if let Some(last) = model.last()
                    && model.committed.is_none_or(|known| known.index < last.index)
                {
                    model.committed = Some(last);
                    log.note_committed(last);
                }
            }
            Op::Flush => {
                log.flush().await.unwrap();
                assert_eq!(acknowledged.get(), appended);
            }
            Op::Reopen => {
                log.close().await.unwrap();
                assert_eq!(acknowledged.get(), appended);
                drop(log);
                log = open(dir).await.unwrap().0;
                // What is known after a restart is bound to what is held.
                if let Some(known) = model.committed {
                    model.committed = match (model.purged, model.last()) {
                        (Some(purged), _) if known.index <= purged.index => Some(purged),
                        (_, Some(last)) if known.index >= last.index => Some(last),
                        _ => log.id_at(known.index),
                    };
                }
            }
            Op::Read(share, max_bytes) => {
                let at = model.share(share);
                let from = model.next() - (model.entries.len() - at) as u64;
                let read = log
                    .read(LogIndex(from), LogIndex(u64::MAX), max_bytes)
                    .await
                    .unwrap();
                let read: Vec<_> = read.into_iter().map(without_place).collect();
                let expected = &model.entries[at..];
                assert_eq!(read.as_slice(), &expected[..read.len()]);
                let bytes: u64 = read.iter().map(|entry| entry.body.len() as u64).sum();
                assert!(bytes > max_bytes || read.len() == expected.len());
                if let Some((_, before)) = read.split_last() {
                    let bytes: u64 = before.iter().map(|entry| entry.body.len() as u64).sum();
                    assert!(bytes <= max_bytes);
                }
            }
        }
        check(&log, &model).await;
    }
    log.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_log_behaves_like_a_vector(ops in proptest::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        // A panic of a task ends the process; caught, it can be shrunk.
        let outcome = corelith_io::core::run(move || async move {
            AssertUnwindSafe(run(&path, ops)).catch_unwind().await.map_err(|panic| {
                panic.downcast_ref::<String>().cloned().unwrap_or_default()
            })
        });
        prop_assert_eq!(outcome, Ok(()));
    }
}
