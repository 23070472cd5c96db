//! Asking another replica for what is damaged here, and answering such questions.
//!
//! A replica answers from what it has applied, which is committed. So an answer is as good as this replica's own state at the
//! same index. It comes only from a store that counts in the group.
//!
//! Invariant: an answer that is handed on fits its question: it is as of an index that was asked for, and its records lie in the
//! range, in order, none newer than that.

use crate::limits::INDEX_MAX;
use crate::link::PeerLink;
use crate::relief::{AskOthers, Checked, Outcome};
use crate::route::{GroupMember, Target};
use crate::stores::Stores;
use bytes::Bytes;
use corelith_shards::{
    Fetched, FetchedEnd, FetchedKey, ItemValue, LargeRef, LogIndex, NodeId, ReplicaId, ShardId,
    Space,
};
use corelith_wire::peer::{
    self, FetchAnswer, FetchAsk, FetchEnd, FetchedKind, FetchedRecord, kinds,
};
use futures_util::FutureExt;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Gives the link to the core of a node that owns the shard.
type LinkTo = Rc<dyn Fn(NodeId) -> Rc<PeerLink>>;

/// A range of stored keys, and what is wanted of it.
#[derive(Clone, Debug)]
pub(crate) struct WantedRange {
    pub(crate) first: Bytes,
    pub(crate) last: Bytes,
    /// The key after which to go on; empty: from the first on.
    pub(crate) after: Bytes,
    /// Index that the answer must have reached.
    pub(crate) least: LogIndex,
    /// Index as of which it is to be; `None`: as of what is applied there.
    pub(crate) at: Option<LogIndex>,
    /// Bytes of keys and values after which it ends.
    pub(crate) bytes: usize,
}

/// Asks the other replicas of a group. Belongs to one core.
pub(crate) struct Elsewhere {
    shard: ShardId,
    stores: Rc<Stores>,
    link_to: LinkTo,
    /// How long one question may take.
    limit: Duration,
    /// Who is asked first the next time.
    turn: Cell<usize>,
}

impl Elsewhere {
    pub(crate) fn new(
        shard: ShardId,
        stores: &Rc<Stores>,
        link_to: &LinkTo,
        limit: Duration,
    ) -> Self {
        Self {
            shard,
            stores: Rc::clone(stores),
            link_to: Rc::clone(link_to),
            limit,
            turn: Cell::new(0),
        }
    }

    /// The other replicas, in turn.
    fn others(&self) -> Vec<ReplicaId> {
        let mut others = self.stores.others();
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let first = turn.checked_rem(others.len()).unwrap_or(0);
        others.rotate_left(first);
        others
    }

    /// What the first replica has of a range that has any of it; those are asked first of which `is_well` says so.
    pub(crate) async fn fetch(
        &self,
        wanted: &WantedRange,
        is_well: impl Fn(NodeId) -> bool,
    ) -> Option<Fetched> {
        let mut others = self.others();
        others.sort_by_key(|replica| !is_well(replica.node()));
        let ask = FetchAsk::Range {
            least: wanted.least,
            at: wanted.at,
            bytes: u32::try_from(wanted.bytes).unwrap_or(u32::MAX),
            first: wanted.first.clone(),
            last: wanted.last.clone(),
            after: wanted.after.clone(),
        };
        for replica in others {
            let Some(answer) = self.ask(replica, &ask).await else {
                continue;
            };
            let fetched = taken(wanted, answer);
            if fetched.is_none() {
                let shard = self.shard;
                tracing::warn!(%shard, peer = %replica, "what a replica answers about a range does not fit the question");
            }
            let has_some =
                |fetched: &Fetched| fetched.end == FetchedEnd::Complete || !fetched.keys.is_empty();
            if let Some(fetched) = fetched.filter(has_some) {
                return Some(fetched);
            }
        }
        None
    }

    /// What a conditional write asks whose check meets damage here.
    pub(crate) fn for_checks(self: &Rc<Self>) -> AskOthers {
        let elsewhere = Rc::clone(self);
        Rc::new(move |key, index| {
            let elsewhere = Rc::clone(&elsewhere);
            async move { elsewhere.before(&key, index).await }.boxed_local()
        })
    }

    /// Which version `key` had before the entry at `index`, or what a replica has made of that entry.
    async fn before(&self, key: &[u8], index: LogIndex) -> Option<Checked> {
        if let Some(outcome) = self.outcome(index).await {
            return Some(Checked::Decided(outcome));
        }
        assert!(index.0 > 0, "a conditional write follows a membership");
        let before = LogIndex(index.0 - 1);
        let mut stored = Vec::with_capacity(key.len() + 1);
        stored.push(Space::User as u8);
        stored.extend_from_slice(key);
        let stored = Bytes::from(stored);
        let wanted = WantedRange {
            first: stored.clone(),
            last: stored,
            after: Bytes::new(),
            least: before,
            at: Some(before),
            bytes: 0,
        };
        let fetched = self.fetch(&wanted, |_| true).await?;
        let found = fetched.keys.first();
        (found.is_some() || fetched.end == FetchedEnd::Complete)
            .then(|| Checked::Current(found.map(|found| found.at)))
    }

    /// What became of the condition of the entry at `index`, if a replica remembers.
    pub(crate) async fn outcome(&self, index: LogIndex) -> Option<Outcome> {
        for replica in self.others() {
            let answer = self.ask(replica, &FetchAsk::Outcome { index }).await;
            if let Some(FetchAnswer::Decided(outcome)) = answer {
                let current = outcome.err().flatten();
                if current.is_none_or(|version| version < index) {
                    return Some(outcome);
                }
            }
        }
        None
    }

    /// Asks one replica; `None` if it does not answer, or does not count.
    async fn ask(&self, replica: ReplicaId, ask: &FetchAsk) -> Option<FetchAnswer> {
        assert!(replica != self.stores.me().replica, "{replica} asks others");
        let link = (self.link_to)(replica.node());
        let store = link.store()?;
        if !self.stores.counts(GroupMember { replica, store }) {
            return None;
        }
        let target = Target::of(self.shard, replica);
        let asked = link.ask(target, self.limit, kinds::FETCH_REPLY, |out, head| {
            peer::encode_fetch(out, head, ask);
        });
        let asked = asked.ok()?;
        let frame = corelith_io::timeout(self.limit, asked).await.ok()?.ok()?;
        if frame.header.head.kind != kinds::FETCH_REPLY {
            return None;
        }
        peer::parse_fetch_reply(&frame).ok()
    }
}

/// An answer about a range, if it fits the question.
fn taken(wanted: &WantedRange, answer: FetchAnswer) -> Option<Fetched> {
    let FetchAnswer::Records {
        as_of,
        end,
        records,
    } = answer
    else {
        return None;
    };
    let is_as_asked = match wanted.at {
        Some(at) => as_of == at,
        None => as_of >= wanted.least && as_of.0 <= INDEX_MAX,
    };
    let begin = wanted.first.clone().max(wanted.after.clone());
    let keys = records.iter().map(|record| &record.key);
    let is_in_order = keys.clone().is_sorted_by(|before, key| before < key);
    let is_in_range = |key: &Bytes| begin <= *key && *key <= wanted.last && *key != wanted.after;
    let fits = is_as_asked
        && is_in_order
        && keys.clone().all(is_in_range)
        && records.iter().all(|record| record.version <= as_of);
    let keys: Option<Vec<FetchedKey>> = records.into_iter().map(fetched_key).collect();
    let keys = keys.filter(|_| fits);
    keys.map(|keys| Fetched {
        as_of,
        keys,
        end: match end {
            FetchEnd::Complete => FetchedEnd::Complete,
            FetchEnd::More => FetchedEnd::More,
            FetchEnd::Damaged => FetchedEnd::Damaged,
        },
    })
}

/// A record that was fetched, if it makes sense: keys of users alone have large values.
fn fetched_key(record: FetchedRecord) -> Option<FetchedKey> {
    let value = match record.kind {
        FetchedKind::Bytes => ItemValue::Bytes(record.value),
        FetchedKind::Large if record.key.first() == Some(&(Space::User as u8)) => {
            ItemValue::Large(LargeRef::decode(&record.value)?)
        }
        FetchedKind::Large => return None,
    };
    Some(FetchedKey {
        stored_key: record.key,
        at: record.version,
        value,
    })
}

/// What was fetched, as it is sent.
pub(crate) fn sent(fetched: Fetched) -> FetchAnswer {
    let records = fetched.keys.into_iter().map(|key| {
        let (kind, value) = match key.value {
            ItemValue::Bytes(value) => (FetchedKind::Bytes, value),
            ItemValue::Large(large) => {
                let stored = Bytes::copy_from_slice(&large.encode());
                (FetchedKind::Large, stored)
            }
        };
        FetchedRecord {
            key: key.stored_key,
            version: key.at,
            kind,
            value,
        }
    });
    FetchAnswer::Records {
        as_of: fetched.as_of,
        end: match fetched.end {
            FetchedEnd::Complete => FetchEnd::Complete,
            FetchedEnd::More => FetchEnd::More,
            FetchedEnd::Damaged => FetchEnd::Damaged,
        },
        records: records.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &'static str, version: u64) -> FetchedRecord {
        FetchedRecord {
            key: key.into(),
            version: LogIndex(version),
            kind: FetchedKind::Bytes,
            value: Bytes::new(),
        }
    }

    #[test]
    fn a_large_value_is_fetched_as_what_it_is() {
        let large = LargeRef {
            upload: corelith_wire::UploadId(7),
            len: 1 << 31,
            committed_us: 9,
        };
        let value = Bytes::copy_from_slice(&large.encode());
        let of = |key: &'static [u8], value: Bytes| FetchedRecord {
            key: key.into(),
            version: LogIndex(3),
            kind: FetchedKind::Large,
            value,
        };
        let key = fetched_key(of(b"\0key", value.clone())).unwrap();
        assert_eq!(key.value, ItemValue::Large(large));
        let back = sent(Fetched {
            as_of: LogIndex(3),
            keys: vec![key],
            end: FetchedEnd::More,
        });
        let FetchAnswer::Records { records, .. } = back else {
            panic!("{back:?}");
        };
        assert_eq!(records, [of(b"\0key", value.clone())]);
        assert_eq!(fetched_key(of(b"\x05key", value.clone())), None);
        assert_eq!(fetched_key(of(b"\0key", value.slice(1..))), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_not_taken() {
        let wanted = |at: Option<u64>| WantedRange {
            first: "b".into(),
            last: "f".into(),
            after: "c".into(),
            least: LogIndex(10),
            at: at.map(LogIndex),
            bytes: 100,
        };
        let good = [record("d", 3), record("f", 10)];
        let table = [
            (None, 10, good.to_vec(), true),
            (None, 11, good.to_vec(), true),
            (None, 11, Vec::new(), true),
            (None, 9, Vec::new(), false),
            (None, u64::MAX, Vec::new(), false),
            (Some(9), 9, Vec::new(), true),
            (Some(9), 10, Vec::new(), false),
            (None, 10, vec![record("c", 3)], false),
            (None, 10, vec![record("b", 3)], false),
            (None, 10, vec![record("g", 3)], false),
            (None, 10, vec![record("e", 11)], false),
            (None, 10, vec![record("e", 3), record("d", 3)], false),
            (None, 10, vec![record("e", 3), record("e", 2)], false),
        ];
        for (at, as_of, records, fits) in table {
            let answer = FetchAnswer::Records {
                as_of: LogIndex(as_of),
                end: FetchEnd::More,
                records: records.clone(),
            };
            let taken = taken(&wanted(at), answer);
            assert_eq!(taken.is_some(), fits, "{at:?} {as_of} {records:?}");
        }
        assert!(taken(&wanted(None), FetchAnswer::Decided(Ok(()))).is_none());
    }
}
