//! What clients did and saw, and the check that one order explains all of it.
//!
//! Every answer names the log index at which it was true, which makes the check cheap: the order is
//! given, so it only has to be verified, in n log n time for a history of any size.
//!
//! * A log index holds one write, and a value is written once, however often its write was retried.
//! * Real time: an operation's index is not below that of any operation on the shard that ended
//!   before it began; a write's is above.
//! * A read at index i returns exactly the last write to its key at or below i. So does what a
//!   conditional write was decided by, applied or refused.
//! * What nobody is known to have done was done by a write whose outcome is unknown: each explains one
//!   version, or one disappearance, after everything that had ended when it began.

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
        let past = Past::new(events);
        check_real_time(events, &past)?;
        check_indexes(events)?;
        let mut by_key: BTreeMap<&[u8], Vec<&Event>> = BTreeMap::new();
        for event in events {
            by_key.entry(&event.key).or_default().push(event);
        }
        by_key
            .values()
            .try_for_each(|events| check_key(events, &past))
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

/// How far the shard had come by a time, as far as answers say.
struct Past<'a> {
    /// By end, with the event of the highest index so far.
    ended: Vec<(Duration, u64, &'a Event)>,
}

impl<'a> Past<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let known = events.iter().filter_map(|event| {
            let (at, _) = index(event)?;
            Some((event.ended, at, *event))
        });
        let mut ended: Vec<_> = known.collect();
        ended.sort_by_key(|(end, at, _)| (*end, *at));
        let mut highest: Option<(u64, &Event)> = None;
        for (_, at, event) in &mut ended {
            match highest {
                Some((high, by)) if high > *at => (*at, *event) = (high, by),
                _ => highest = Some((*at, event)),
            }
        }
        Self { ended }
    }

    /// The highest index that an operation had which ended before `began`.
    fn before(&self, began: Duration) -> Option<(u64, &'a Event)> {
        let count = self.ended.partition_point(|(end, ..)| *end < began);
        let (_, at, event) = self.ended.get(count.checked_sub(1)?)?;
        Some((*at, event))
    }

    fn floor(&self, began: Duration) -> u64 {
        self.before(began).map_or(0, |(at, _)| at)
    }
}

fn check_real_time(events: &[&Event], past: &Past<'_>) -> Result<(), String> {
    for event in events {
        let (Some((at, is_write)), Some((latest, before))) =
            (index(event), past.before(event.began))
        else {
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

fn check_indexes(events: &[&Event]) -> Result<(), String> {
    let mut used: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in events {
        if let What::Written { version, .. } = event.what
            && let Some(other) = used.insert(version, event)
        {
            return Err(format!("{event:?} has the same index as {other:?}"));
        }
    }
    Ok(())
}

/// The writes of one key that have applied, by version.
type Writes<'a> = BTreeMap<u64, (Value, &'a Event)>;

/// What was seen of a key: at this index it had this version, or none.
struct Seen<'a> {
    index: u64,
    version: Option<u64>,
    by: &'a Event,
}

fn check_key(events: &[&Event], past: &Past<'_>) -> Result<(), String> {
    let mut writes = Writes::new();
    let mut seen = Vec::new();
    for event in events {
        if let What::Written {
            value,
            condition,
            version,
        } = event.what
        {
            writes.insert(version, (value, event));
            seen.extend(decided_by(condition, version, event));
        }
    }
    let unknown_puts = pin_values(events, &mut writes, &mut seen, past)?;
    for event in events {
        match event.what {
            What::Read { found, index } => seen.push(Seen {
                index,
                version: found.map(|(version, _)| version),
                by: event,
            }),
            What::Refused {
                condition,
                current,
                index,
            } => {
                let holds = match condition {
                    Condition::Any => true,
                    Condition::Absent => current == 0,
                    Condition::Version(named) => current == named,
                };
                if holds {
                    return Err(format!("{event:?} was refused although its condition held"));
                }
                seen.push(Seen {
                    index,
                    version: (current != 0).then_some(current),
                    by: event,
                });
            }
            What::Written { .. } | What::Unknown { .. } => {}
        }
    }
    explain_versions(&seen, &mut writes, &unknown_puts, past)?;
    let mut gone = check_seen(&seen, &writes)?;
    explain_disappearances(&mut gone, &seen, events, past)
}

/// What the condition of a write that applied at `version` says.
fn decided_by<'a>(condition: Condition, version: u64, by: &'a Event) -> Option<Seen<'a>> {
    let index = version.checked_sub(1)?;
    let version = match condition {
        Condition::Any => return None,
        Condition::Absent => None,
        Condition::Version(named) => Some(named),
    };
    Some(Seen { index, version, by })
}

/// Finds the writes of the values that were read, and returns the unknown puts whose values were not.
fn pin_values<'a>(
    events: &[&'a Event],
    writes: &mut Writes<'a>,
    seen: &mut Vec<Seen<'a>>,
    past: &Past<'_>,
) -> Result<Vec<&'a Event>, String> {
    let mut versions: BTreeMap<u64, (u64, &Event)> = BTreeMap::new();
    for (version, (value, event)) in writes.iter() {
        if let Some(value) = value {
            versions.insert(*value, (*version, event));
        }
    }
    let mut unknown: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in events {
        if let What::Unknown {
            value: Some(value), ..
        } = event.what
        {
            unknown.insert(value, event);
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
            if *written != version {
                return Err(format!("{event:?} found another version of {write:?}"));
            }
            continue;
        }
        let Some(write) = unknown.remove(&value) else {
            return Err(format!("{event:?} found a value that nobody wrote"));
        };
        if write.began > event.ended || version <= past.floor(write.began) {
            return Err(format!("{event:?} found the value of {write:?}"));
        }
        if let Some(other) = writes.insert(version, (Some(value), write)) {
            return Err(format!(
                "{write:?}, found by {event:?}, has the index of {other:?}"
            ));
        }
        versions.insert(value, (version, write));
        if let What::Unknown { condition, .. } = write.what {
            seen.extend(decided_by(condition, version, write));
        }
    }
    Ok(unknown.into_values().collect())
}

/// Versions that were seen, but not their values: an unknown put each must have made them.
fn explain_versions<'a>(
    seen: &[Seen<'a>],
    writes: &mut Writes<'a>,
    unknown: &[&'a Event],
    past: &Past<'_>,
) -> Result<(), String> {
    let mut witnesses: BTreeMap<u64, &Event> = BTreeMap::new();
    for one in seen {
        let Some(version) = one.version.filter(|version| !writes.contains_key(version)) else {
            continue;
        };
        let first = witnesses.entry(version).or_insert(one.by);
        if one.by.ended < first.ended {
            *first = one.by;
        }
    }
    let wanted: Vec<(u64, &Event)> = witnesses.into_iter().collect();
    let fits = |(version, by): &(u64, &Event), put: &&Event| {
        put.began <= by.ended && past.floor(put.began) < *version
    };
    let matched = assign(&wanted, unknown, fits);
    for ((version, by), put) in wanted.iter().zip(matched) {
        let Some(put) = put else {
            return Err(format!("{by:?} met version {version}, which nobody wrote"));
        };
        writes.insert(*version, (Some(0), unknown[put]));
    }
    Ok(())
}

/// A version that was gone before another write replaced it.
struct Gone<'a> {
    version: u64,
    /// Still there at this index.
    after: u64,
    /// Gone at this one.
    upto: u64,
    by: &'a Event,
}

/// Compares what was seen with the writes; returns what is missing without a delete being known.
fn check_seen<'a>(seen: &[Seen<'a>], writes: &Writes<'a>) -> Result<Vec<Gone<'a>>, String> {
    let mut gone: BTreeMap<u64, Gone<'a>> = BTreeMap::new();
    for Seen { index, version, by } in seen {
        let last = writes.range(..=index).next_back();
        match (version, last) {
            (Some(version), _) if version > index => {
                return Err(format!("{by:?} saw beyond its index"));
            }
            (Some(version), Some((last, (value, write)))) => {
                if last != version {
                    return Err(format!("{by:?} missed the write at {last}, {write:?}"));
                }
                if value.is_none() {
                    return Err(format!("{by:?} met what was deleted by {write:?}"));
                }
            }
            (Some(_), None) | (None, None | Some((_, (None, _)))) => {}
            (None, Some((last, _))) => {
                let this = Gone {
                    version: *last,
                    after: *last,
                    upto: *index,
                    by,
                };
                let first = gone.entry(*last).or_insert(this);
                if *index < first.upto {
                    (first.upto, first.by) = (*index, by);
                }
            }
        }
    }
    Ok(gone.into_values().collect())
}

/// An unknown delete must have made each version disappear.
fn explain_disappearances(
    gone: &mut [Gone<'_>],
    seen: &[Seen<'_>],
    events: &[&Event],
    past: &Past<'_>,
) -> Result<(), String> {
    for one in gone.iter_mut() {
        let there = seen.iter().filter(|seen| seen.version == Some(one.version));
        one.after = there.fold(one.after, |after, seen| after.max(seen.index));
    }
    let is_delete = |event: &&&Event| matches!(event.what, What::Unknown { value: None, .. });
    let deletes: Vec<&Event> = events.iter().filter(is_delete).copied().collect();
    let fits = |gone: &Gone<'_>, delete: &&Event| {
        let What::Unknown { condition, .. } = delete.what else {
            return false;
        };
        let may_apply = match condition {
            Condition::Any => true,
            Condition::Absent => false,
            // Of an unknown put that nobody saw, perhaps.
            Condition::Version(named) => named >= gone.version,
        };
        let floor = past.floor(delete.began).max(gone.after);
        may_apply && floor < gone.upto && delete.began <= gone.by.ended
    };
    let matched = assign(gone, &deletes, fits);
    match gone
        .iter()
        .zip(matched)
        .find(|(_, delete)| delete.is_none())
    {
        Some((gone, _)) => Err(format!(
            "{:?} missed the write at {}, and no delete can have come between",
            gone.by, gone.version
        )),
        None => Ok(()),
    }
}

/// Gives as many of `wanted` as possible something of `offered` that fits, to each another one.
fn assign<W, O>(wanted: &[W], offered: &[O], fits: impl Fn(&W, &O) -> bool) -> Vec<Option<usize>> {
    fn place<W, O>(
        at: usize,
        wanted: &[W],
        offered: &[O],
        fits: &impl Fn(&W, &O) -> bool,
        taken: &mut [Option<usize>],
        tried: &mut [bool],
    ) -> bool {
        for (to, offer) in offered.iter().enumerate() {
            if tried[to] || !fits(&wanted[at], offer) {
                continue;
            }
            tried[to] = true;
            let free = match taken[to] {
                None => true,
                Some(holder) => place(holder, wanted, offered, fits, taken, tried),
            };
            if free {
                taken[to] = Some(at);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; offered.len()];
    for at in 0..wanted.len() {
        let mut tried = vec![false; offered.len()];
        place(at, wanted, offered, &fits, &mut taken, &mut tried);
    }
    let mut given = vec![None; wanted.len()];
    for (to, holder) in taken.iter().enumerate() {
        if let Some(at) = holder {
            given[*at] = Some(to);
        }
    }
    given
}

#[cfg(test)]
mod tests;
