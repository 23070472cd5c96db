//! What clients did and saw, and the check that one order explains all of it.
//!
//! Every answer names the log index at which it was true, which makes the check cheap: the order is
//! given, so it only has to be verified, in n log n time for a history of any size.
//!
//! * A log index holds one write, and a value is written once, however often its write was retried.
//! * Real time: an operation's index is not below that of any operation on the shard that ended
//!   before it began; a write's is above.
//! * A read at index i returns exactly the last write to its key at or below i.
//! * A conditional write applied only over the version that it named, and was refused only over
//!   another.

use corelith_shards::ShardId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a write puts under its key: a number that no other write has, or nothing.
pub(crate) type Value = Option<u64>;

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Any,
    Absent,
    Version(u64),
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A write that applied with this version.
    Written {
        value: Value,
        condition: Condition,
        version: u64,
    },
    /// A write that was refused because its key stood at `current` (0: absent) at `index`.
    Refused {
        condition: Condition,
        current: u64,
        index: u64,
    },
    /// A write that may have applied.
    Unknown { value: Value, condition: Condition },
    /// A read at `index` that found this version of the value, or nothing.
    Read {
        found: Option<(u64, u64)>,
        index: u64,
    },
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub shard: ShardId,
    pub key: Vec<u8>,
    pub began: Duration,
    /// For an unknown outcome: never.
    pub ended: Duration,
    pub what: What,
}

/// Checks a history.
///
/// # Errors
/// What cannot be explained.
pub(crate) fn check(events: &[Event]) -> Result<(), String> {
    let mut by_shard: BTreeMap<ShardId, Vec<&Event>> = BTreeMap::new();
    for event in events {
        by_shard.entry(event.shard).or_default().push(event);
    }
    by_shard.values().try_for_each(|events| {
        check_real_time(events)?;
        check_contents(events)
    })
}

/// The log index of an answer, and whether it is that of a write.
fn index(event: &Event) -> Option<(u64, bool)> {
    match &event.what {
        What::Written { version, .. } => Some((*version, true)),
        What::Refused { index, .. } | What::Read { index, .. } => Some((*index, false)),
        What::Unknown { .. } => None,
    }
}

fn check_real_time(events: &[&Event]) -> Result<(), String> {
    let mut begins: Vec<_> = events
        .iter()
        .filter(|event| index(event).is_some())
        .collect();
    let mut ends = begins.clone();
    begins.sort_by_key(|event| event.began);
    ends.sort_by_key(|event| event.ended);
    let mut ended = ends.into_iter().peekable();
    let mut latest: Option<(u64, &Event)> = None;
    for event in begins {
        while let Some(before) = ended.next_if(|before| before.ended < event.began) {
            if let Some((at, _)) = index(before)
                && latest.is_none_or(|(latest, _)| at > latest)
            {
                latest = Some((at, before));
            }
        }
        let (Some((at, is_write)), Some((latest, before))) = (index(event), latest) else {
            continue;
        };
        if at < latest || (is_write && at == latest) {
            return Err(format!(
                "{event:?} is at or before {before:?}, which had ended"
            ));
        }
    }
    Ok(())
}

/// The writes of one key that are known to have applied, by version.
type Writes<'a> = BTreeMap<u64, (Value, Condition, &'a Event)>;

fn check_contents(events: &[&Event]) -> Result<(), String> {
    let mut keys: BTreeMap<&[u8], Writes<'_>> = BTreeMap::new();
    let mut used: BTreeMap<u64, &Event> = BTreeMap::new();
    let mut versions: BTreeMap<u64, (u64, &Event)> = BTreeMap::new();
    // The writes whose outcome the client did not learn, by value: a read may show that one applied.
    let mut unknown: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Written {
                value,
                condition,
                version,
            } => {
                if let Some(other) = used.insert(*version, event) {
                    return Err(format!("{event:?} has the same index as {other:?}"));
                }
                if let Some(value) = value {
                    versions.insert(*value, (*version, event));
                }
                let writes = keys.entry(&event.key).or_default();
                writes.insert(*version, (*value, *condition, event));
            }
            What::Unknown {
                value: Some(value), ..
            } => {
                unknown.insert(*value, event);
            }
            _ => {}
        }
    }
    for event in events {
        let What::Read {
            found: Some((version, value)),
            ..
        } = event.what
        else {
            continue;
        };
        if let Some((written, write)) = versions.get(&value) {
            if *written != version || write.key != event.key {
                return Err(format!("{event:?} found another version of {write:?}"));
            }
            continue;
        }
        let Some(write) = unknown.get(&value) else {
            return Err(format!("{event:?} found a value that nobody wrote"));
        };
        if write.key != event.key || write.began > event.ended {
            return Err(format!("{event:?} found the value of {write:?}"));
        }
        if let Some(other) = used.insert(version, write) {
            return Err(format!(
                "{write:?}, found by {event:?}, has the index of {other:?}"
            ));
        }
        let What::Unknown { condition, .. } = write.what else {
            continue;
        };
        versions.insert(value, (version, write));
        let writes = keys.entry(&event.key).or_default();
        writes.insert(version, (Some(value), condition, write));
    }
    let none = Writes::new();
    for event in events {
        let writes = keys.get(event.key.as_slice()).unwrap_or(&none);
        check_against(event, writes, has_unknown_deletes(events, &event.key))?;
    }
    check_conditions(&keys, events)
}

/// Whether a delete of the key has an unknown outcome: then a missing value proves nothing.
fn has_unknown_deletes(events: &[&Event], key: &[u8]) -> bool {
    events
        .iter()
        .any(|event| event.key == key && matches!(event.what, What::Unknown { value: None, .. }))
}

/// Checks what one read or refusal saw against the writes that are known to have applied.
fn check_against(event: &Event, writes: &Writes<'_>, deletes: bool) -> Result<(), String> {
    let (seen, at) = match &event.what {
        What::Read { found, index } => (found.map(|(version, _)| version), *index),
        What::Refused { current, index, .. } => ((*current != 0).then_some(*current), *index),
        _ => return Ok(()),
    };
    let last = writes
        .range(..=at)
        .next_back()
        .map(|(version, write)| (*version, write.0));
    match (seen, last) {
        // An unknown write may stand above the last known one.
        (Some(seen), Some((last, _))) if last > seen => {
            Err(format!("{event:?} missed the write at {last}"))
        }
        (None, Some((last, Some(_)))) if !deletes => {
            Err(format!("{event:?} missed the write at {last}"))
        }
        (Some(seen), _) if seen > at => Err(format!("{event:?} saw beyond its index")),
        _ => Ok(()),
    }
}

/// Checks the conditions of the writes that applied, and of those refused.
fn check_conditions(keys: &BTreeMap<&[u8], Writes<'_>>, events: &[&Event]) -> Result<(), String> {
    for (key, writes) in keys {
        let deletes = has_unknown_deletes(events, key);
        let mut before: Option<(u64, Value)> = None;
        for (version, (value, condition, event)) in writes {
            let fits = match (condition, before) {
                (Condition::Any, _) => true,
                (Condition::Absent, None | Some((_, None))) => true,
                (Condition::Absent, Some((_, Some(_)))) => deletes,
                // The version named may be that of an unknown write which nobody read.
                (Condition::Version(named), Some((known, _))) => *named >= known,
                (Condition::Version(_), None) => true,
            };
            if !fits {
                return Err(format!("{event:?} applied over {before:?}"));
            }
            before = Some((*version, *value));
        }
    }
    for event in events {
        let What::Refused {
            condition, current, ..
        } = event.what
        else {
            continue;
        };
        let fits = match condition {
            Condition::Any => false,
            Condition::Absent => current != 0,
            Condition::Version(named) => current != named,
        };
        if !fits {
            return Err(format!("{event:?} was refused although its condition held"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Condition, Event, What, check};
    use corelith_shards::ShardId;
    use std::time::Duration;

    fn event(began: u64, ended: u64, what: What) -> Event {
        let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
        Event {
            shard: ShardId(0),
            key: b"k".to_vec(),
            began,
            ended,
            what,
        }
    }

    fn written(value: u64, version: u64) -> What {
        What::Written {
            value: Some(value),
            condition: Condition::Any,
            version,
        }
    }

    fn read(found: Option<(u64, u64)>, index: u64) -> What {
        What::Read { found, index }
    }

    #[test]
    fn good_histories_pass() {
        let unknown = What::Unknown {
            value: Some(9),
            condition: Condition::Any,
        };
        let cases = [
            vec![
                event(0, 1, written(1, 5)),
                event(2, 3, read(Some((5, 1)), 7)),
            ],
            vec![event(0, 9, written(1, 5)), event(2, 3, read(None, 4))],
            vec![
                event(0, 99, unknown.clone()),
                event(2, 3, read(Some((6, 9)), 6)),
            ],
            vec![event(0, 99, unknown), event(2, 3, read(None, 6))],
        ];
        for case in cases {
            assert_eq!(check(&case), Ok(()), "{case:?}");
        }
    }

    #[test]
    fn bad_histories_are_found() {
        let over = |version, named| What::Written {
            value: Some(version),
            condition: Condition::Version(named),
            version,
        };
        let refused = What::Refused {
            condition: Condition::Version(5),
            current: 5,
            index: 6,
        };
        let cases = [
            // A stale read, by index and by content.
            vec![event(0, 1, written(1, 5)), event(2, 3, read(None, 4))],
            vec![event(0, 1, written(1, 5)), event(2, 3, read(None, 6))],
            // A lost update.
            vec![
                event(0, 1, written(1, 5)),
                event(2, 3, over(6, 5)),
                event(2, 4, over(7, 5)),
            ],
            // Applied twice.
            vec![
                event(0, 1, written(1, 5)),
                event(2, 3, read(Some((6, 1)), 7)),
            ],
            // Out of nowhere.
            vec![event(2, 3, read(Some((6, 1)), 7))],
            // Two writes at one index.
            vec![event(0, 5, written(1, 5)), event(0, 5, written(2, 5))],
            // Refused although the condition held.
            vec![event(0, 1, written(1, 5)), event(2, 3, refused)],
        ];
        for case in cases {
            assert!(check(&case).is_err(), "{case:?}");
        }
    }
}
