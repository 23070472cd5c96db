//! The check that goes by log indexes.
//!
//! Every answer names the log index at which it was true, so the order of all operations is given and only has to
//! be verified.
//!
//! * A log index holds one write of a key, and a value is written once, however often its write was retried.
//! * Real time: an operation's index is not below that of any operation on the shard that ended before it
//!   began; a write's is above.
//! * A read at index i returns exactly the last write to its key at or below i. So does what a conditional
//!   write was decided by, applied or refused.
//! * What nobody is known to have done was done by a write whose outcome is unknown: each explains one version,
//!   or one disappearance, after everything that had ended when it began.

use crate::shards::{Past, by_key, by_shard};
use crate::{Observation, ValueId, What, WriteCondition};
use std::collections::BTreeMap;

/// Checks a history.
///
/// # Errors
/// What cannot be explained.
pub fn check(history: &[Observation]) -> Result<(), String> {
    by_shard(history).values().try_for_each(|shard| {
        let past = Past::new(shard);
        check_real_time(shard, &past)?;
        by_key(shard)
            .values()
            .try_for_each(|key| check_key(key, &past))
    })
}

fn check_real_time(events: &[&Observation], past: &Past<'_>) -> Result<(), String> {
    for event in events {
        let (Some((at, is_write)), Some((latest, before))) =
            (event.point(), past.before(event.began))
        else {
            continue;
        };
        if at.index < latest || (is_write && at.index == latest) {
            return Err(format!(
                "{event:?} is at or before {before:?}, which had ended"
            ));
        }
    }
    Ok(())
}

/// The writes of one key that have applied, by version.
type Writes<'a> = BTreeMap<u64, (ValueId, &'a Observation)>;

/// What was seen of a key: at this index it had this version, or none.
struct Sighting<'a> {
    index: u64,
    version: Option<u64>,
    by: &'a Observation,
}

fn check_key(events: &[&Observation], past: &Past<'_>) -> Result<(), String> {
    let mut writes = Writes::new();
    let mut seen = Vec::new();
    for event in events {
        if let What::Written {
            value,
            condition,
            at,
        } = event.what
        {
            if let Some((_, other)) = writes.insert(at.index, (value, event)) {
                return Err(format!("{event:?} has the same index as {other:?}"));
            }
            seen.extend(decided_by(condition, at.index, event));
        }
    }
    let is_delete = |event: &&Observation| matches!(event.what, What::Unknown { value: None, .. });
    let has_deletes = events.iter().any(is_delete);
    let unknown_puts = pin_values(events, &mut writes, &mut seen, past)?;
    for event in events {
        match event.what {
            What::Read { found, at } => seen.push(Sighting {
                index: at.index,
                version: found.map(|(version, _)| version),
                by: event,
            }),
            What::Refused {
                condition,
                current,
                at,
            } => {
                if condition.holds(current) {
                    return Err(format!("{event:?} was refused although its condition held"));
                }
                // Without a point: as early as it can have been.
                let earliest = || current.max(past.floor(event.began));
                seen.push(Sighting {
                    index: at.map_or_else(earliest, |at| at.index),
                    version: (current != 0).then_some(current),
                    by: event,
                });
            }
            What::Written { .. } | What::Unknown { .. } => {}
        }
    }
    explain_versions(&seen, &mut writes, &unknown_puts, has_deletes, past)?;
    let mut gone = check_seen(&seen, &writes)?;
    explain_disappearances(&mut gone, &seen, events, past)
}

/// What the condition of a write that applied at `version` says.
fn decided_by<'a>(
    condition: WriteCondition,
    version: u64,
    by: &'a Observation,
) -> Option<Sighting<'a>> {
    let index = version.checked_sub(1)?;
    let version = match condition {
        WriteCondition::Any => return None,
        WriteCondition::Absent => None,
        WriteCondition::Version(named) => Some(named),
    };
    Some(Sighting { index, version, by })
}

/// Finds the writes of the values that were read, and returns the unknown puts whose values were not.
fn pin_values<'a>(
    events: &[&'a Observation],
    writes: &mut Writes<'a>,
    seen: &mut Vec<Sighting<'a>>,
    past: &Past<'_>,
) -> Result<Vec<&'a Observation>, String> {
    let mut versions: BTreeMap<u64, (u64, &Observation)> = BTreeMap::new();
    for (version, (value, event)) in writes.iter() {
        if let Some(value) = value {
            versions.insert(*value, (*version, event));
        }
    }
    let mut unknown: BTreeMap<u64, &Observation> = BTreeMap::new();
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
        if write.began > event.end() || version <= past.floor(write.began) {
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
    seen: &[Sighting<'a>],
    writes: &mut Writes<'a>,
    unknown: &[&'a Observation],
    has_deletes: bool,
    past: &Past<'_>,
) -> Result<(), String> {
    let mut witnesses: BTreeMap<u64, &Observation> = BTreeMap::new();
    for one in seen {
        let Some(version) = one.version.filter(|version| !writes.contains_key(version)) else {
            continue;
        };
        let first = witnesses.entry(version).or_insert(one.by);
        if one.by.end() < first.end() {
            *first = one.by;
        }
    }
    let wanted: Vec<(u64, &Observation)> = witnesses.into_iter().collect();
    let fits = |(version, by): &(u64, &Observation), put: &&Observation| {
        let What::Unknown { condition, .. } = put.what else {
            return false;
        };
        may_hold(condition, *version, writes, has_deletes)
            && put.began <= by.end()
            && past.floor(put.began) < *version
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

/// Whether the condition of a write that applied at `version` can have held, for all that is known of the other
/// writes. An unknown delete may have come before it.
fn may_hold(
    condition: WriteCondition,
    version: u64,
    writes: &Writes<'_>,
    has_deletes: bool,
) -> bool {
    let last = writes.range(..version).next_back();
    let (index, is_put) = last.map_or((0, false), |(index, (value, _))| (*index, value.is_some()));
    match condition {
        WriteCondition::Any => true,
        WriteCondition::Absent => has_deletes || !is_put,
        WriteCondition::Version(named) => {
            named > 0 && named < version && (named > index || named == index && is_put)
        }
    }
}

/// A version that was gone before another write replaced it.
struct Gone<'a> {
    version: u64,
    /// Still there at this index.
    after: u64,
    /// Gone at this one.
    upto: u64,
    by: &'a Observation,
}

/// Compares what was seen with the writes; returns what is missing without a delete being known.
fn check_seen<'a>(seen: &[Sighting<'a>], writes: &Writes<'a>) -> Result<Vec<Gone<'a>>, String> {
    let mut gone: BTreeMap<u64, Gone<'a>> = BTreeMap::new();
    for Sighting { index, version, by } in seen {
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
    seen: &[Sighting<'_>],
    events: &[&Observation],
    past: &Past<'_>,
) -> Result<(), String> {
    for one in gone.iter_mut() {
        let there = seen.iter().filter(|seen| seen.version == Some(one.version));
        one.after = there.fold(one.after, |after, seen| after.max(seen.index));
    }
    let is_delete = |event: &&&Observation| matches!(event.what, What::Unknown { value: None, .. });
    let deletes: Vec<&Observation> = events.iter().filter(is_delete).copied().collect();
    let fits = |gone: &Gone<'_>, delete: &&Observation| {
        let What::Unknown { condition, .. } = delete.what else {
            return false;
        };
        let may_apply = match condition {
            WriteCondition::Any => true,
            WriteCondition::Absent => false,
            // Of an unknown put that nobody saw, perhaps.
            WriteCondition::Version(named) => named >= gone.version,
        };
        let floor = past.floor(delete.began).max(gone.after);
        may_apply && past.free_above(floor) <= gone.upto && delete.began <= gone.by.end()
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
            assert!(given[*at].is_none(), "one write explains two things");
            given[*at] = Some(to);
        }
    }
    given
}
