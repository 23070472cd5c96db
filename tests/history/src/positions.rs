//! What answers say of the log apart from keys: terms and indexes of a shard never run backwards.
//!
//! * The term of a write is not below any term that was told at or below its index.
//! * A log index holds one write.
//! * A client never sees an index below one that it has seen.

use crate::shards::by_shard;
use crate::{Observation, What};
use std::collections::BTreeMap;

/// Checks terms and each client's indexes.
///
/// # Errors
/// What runs backwards.
pub fn check(history: &[Observation]) -> Result<(), String> {
    by_shard(history).values().try_for_each(|shard| {
        check_terms(shard)?;
        check_indexes(shard)?;
        let mut clients: BTreeMap<u64, Vec<&Observation>> = BTreeMap::new();
        for observation in shard {
            clients
                .entry(observation.client)
                .or_default()
                .push(observation);
        }
        clients.values().try_for_each(|seen| check_client(seen))
    })
}

fn check_terms(shard: &[&Observation]) -> Result<(), String> {
    let mut told: Vec<_> = shard
        .iter()
        .filter_map(|observation| Some((observation.point()?.0, observation)))
        .filter(|(at, _)| at.term > 0)
        .collect();
    // At one index the writes come last: their terms are those of the entries.
    let is_write = |observation: &Observation| matches!(observation.what, What::Written { .. });
    told.sort_by_key(|(at, observation)| (at.index, is_write(observation)));
    let mut highest: Option<(u64, &Observation)> = None;
    for (at, observation) in told {
        match highest {
            Some((term, by)) if term > at.term => {
                if is_write(observation) {
                    return Err(format!("{observation:?} has a term below that of {by:?}"));
                }
            }
            _ => highest = Some((at.term, observation)),
        }
    }
    Ok(())
}

fn check_indexes(events: &[&Observation]) -> Result<(), String> {
    let mut used: BTreeMap<u64, &Observation> = BTreeMap::new();
    for event in events {
        if let What::Written { at, .. } = event.what
            && let Some(other) = used.insert(at.index, event)
        {
            return Err(format!("{event:?} has the same index as {other:?}"));
        }
    }
    Ok(())
}

fn check_client(seen: &[&Observation]) -> Result<(), String> {
    let indexed = seen
        .iter()
        .filter_map(|observation| Some((observation.point()?.0.index, *observation)));
    let mut by_begin: Vec<_> = indexed.collect();
    by_begin.sort_by_key(|(_, observation)| observation.began);
    let mut by_end = by_begin.clone();
    by_end.sort_by_key(|(_, observation)| observation.end());
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<(u64, &Observation)> = None;
    for (index, observation) in by_begin {
        while let Some((seen, by)) = ended.next_if(|(_, other)| other.end() < observation.began) {
            if highest.is_none_or(|(high, _)| seen > high) {
                highest = Some((seen, by));
            }
        }
        assert!(
            highest.is_none_or(|(_, by)| by.end() < observation.began),
            "what has not ended counts"
        );
        if let Some((high, by)) = highest.filter(|(high, _)| *high > index) {
            return Err(format!(
                "client {} had seen index {high} in {by:?} before {observation:?} began",
                observation.client
            ));
        }
    }
    Ok(())
}
