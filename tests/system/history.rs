//! Whether what clients saw of single keys is linearizable.
//!
//! Every answer carries the version it wrote or saw, and a key's versions are totally ordered. So a history
//! is linearizable exactly if no operation saw a version older than one that had been seen or written
//! before it began, and every version has the one value that its writer gave it: decided by one sweep over
//! the operations in order of time, for any number of them.

use std::collections::BTreeMap;
use std::time::Instant;

/// What an operation did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Wrote `value`, which became `version`.
    Wrote { value: String, version: u64 },
    /// Tried to write `value`; whether it did is not known.
    MaybeWrote { value: String },
    /// Saw `value` at `version`.
    Read { value: String, version: u64 },
    /// Saw that there was nothing.
    ReadNothing,
    /// Was refused because the key was at `version`, 0 for nothing.
    Refused { version: u64 },
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) event: Event,
}

impl Observation {
    fn version(&self) -> Option<u64> {
        match self.event {
            Event::Wrote { version, .. }
            | Event::Read { version, .. }
            | Event::Refused { version } => Some(version),
            Event::ReadNothing => Some(0),
            Event::MaybeWrote { .. } => None,
        }
    }
}

/// Checks the history of one key that nobody deletes and in which every written value is different.
///
/// # Errors
/// What contradicts linearizability.
pub(crate) fn check(observations: &[Observation]) -> Result<(), String> {
    values_belong_to_versions(observations)?;
    time_respects_versions(observations)
}

fn values_belong_to_versions(observations: &[Observation]) -> Result<(), String> {
    let mut writers: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut values: BTreeMap<u64, &str> = BTreeMap::new();
    let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
    let mut written: BTreeMap<u64, &str> = BTreeMap::new();
    for observation in observations {
        match &observation.event {
            Event::Wrote { value, version } => {
                writers.insert(value, observation.start);
                if let Some(other) = written.insert(*version, value) {
                    return Err(format!(
                        "{other} and {value} were both written as {version}"
                    ));
                }
            }
            Event::MaybeWrote { value } => {
                writers.insert(value, observation.start);
            }
            _ => {}
        }
    }
    for observation in observations {
        let (Event::Wrote { value, version } | Event::Read { value, version }) = &observation.event
        else {
            continue;
        };
        match writers.get(value.as_str()) {
            None => return Err(format!("{value} was read and nobody wrote it")),
            Some(start) if *start > observation.end => {
                return Err(format!("{value} was read before it was written"));
            }
            Some(_) => {}
        }
        if values
            .insert(*version, value)
            .is_some_and(|other| other != value)
        {
            return Err(format!("version {version} has two values, one is {value}"));
        }
        if versions
            .insert(value, *version)
            .is_some_and(|other| other != *version)
        {
            return Err(format!(
                "{value} was applied twice, once as version {version}"
            ));
        }
    }
    Ok(())
}

fn time_respects_versions(observations: &[Observation]) -> Result<(), String> {
    let known: Vec<_> = observations
        .iter()
        .filter_map(|observation| Some((observation, observation.version()?)))
        .collect();
    let mut starts = known.clone();
    starts.sort_by_key(|(observation, _)| observation.start);
    let mut ends = known;
    ends.sort_by_key(|(observation, _)| observation.end);
    let mut ended = ends.into_iter().peekable();
    let mut newest = 0;
    for (observation, version) in starts {
        while let Some((_, seen)) = ended.next_if(|(other, _)| other.end < observation.start) {
            newest = newest.max(seen);
        }
        let is_write = matches!(observation.event, Event::Wrote { .. });
        if version < newest || (is_write && version == newest) {
            return Err(format!(
                "{:?} although version {newest} was known before it began",
                observation.event
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A history of (start, end, event) in milliseconds.
    fn history(events: &[(u64, u64, Event)]) -> Vec<Observation> {
        let origin = Instant::now();
        let at = |millis| origin + Duration::from_millis(millis);
        events
            .iter()
            .map(|(start, end, event)| Observation {
                start: at(*start),
                end: at(*end),
                event: event.clone(),
            })
            .collect()
    }

    fn wrote(value: &str, version: u64) -> Event {
        Event::Wrote {
            value: value.to_owned(),
            version,
        }
    }

    fn read(value: &str, version: u64) -> Event {
        Event::Read {
            value: value.to_owned(),
            version,
        }
    }

    fn maybe(value: &str) -> Event {
        Event::MaybeWrote {
            value: value.to_owned(),
        }
    }

    #[test]
    fn sound_histories_pass() {
        for (what, events) in [
            (
                "one after the other",
                vec![(0, 1, wrote("a", 5)), (2, 3, read("a", 5))],
            ),
            (
                "either side of an overlap",
                vec![
                    (0, 1, wrote("a", 5)),
                    (2, 9, wrote("b", 7)),
                    (3, 4, read("a", 5)),
                    (5, 6, read("b", 7)),
                ],
            ),
            (
                "an unknown outcome that happened",
                vec![(0, 1, maybe("a")), (5, 6, read("a", 3))],
            ),
            (
                "an unknown outcome that did not",
                vec![(0, 1, maybe("a")), (5, 6, Event::ReadNothing)],
            ),
            (
                "a refusal saw the present",
                vec![(0, 1, wrote("a", 5)), (2, 3, Event::Refused { version: 5 })],
            ),
        ] {
            assert_eq!(check(&history(&events)), Ok(()), "{what}");
        }
    }

    #[test]
    fn every_kind_of_violation_is_found() {
        for (what, events) in [
            (
                "stale read",
                vec![
                    (0, 1, wrote("a", 5)),
                    (2, 3, wrote("b", 7)),
                    (4, 5, read("a", 5)),
                ],
            ),
            (
                "lost write",
                vec![(0, 1, wrote("a", 5)), (2, 3, Event::ReadNothing)],
            ),
            (
                "reads go back",
                vec![
                    (0, 9, wrote("b", 7)),
                    (0, 1, wrote("a", 5)),
                    (2, 3, read("b", 7)),
                    (4, 5, read("a", 5)),
                ],
            ),
            (
                "write ordered before an older one",
                vec![(0, 1, wrote("a", 5)), (2, 3, wrote("b", 4))],
            ),
            ("value from nowhere", vec![(0, 1, read("x", 5))]),
            (
                "read before its write",
                vec![(0, 1, read("a", 5)), (2, 3, wrote("a", 5))],
            ),
            (
                "two values of a version",
                vec![(0, 1, wrote("a", 5)), (0, 1, wrote("b", 5))],
            ),
            (
                "applied twice",
                vec![
                    (0, 1, maybe("a")),
                    (2, 3, read("a", 4)),
                    (4, 5, read("a", 6)),
                ],
            ),
            (
                "refused because of the past",
                vec![
                    (0, 1, wrote("a", 5)),
                    (2, 3, wrote("b", 7)),
                    (4, 5, Event::Refused { version: 5 }),
                ],
            ),
        ] {
            assert!(check(&history(&events)).is_err(), "{what}");
        }
    }
}
