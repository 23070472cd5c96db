//! Checks a history of operations for linearizability, in n log n.
//!
//! Every answer says at which log index it holds: a write's version, a read's applied index. So
//! nothing has to be searched for: the order of the operations is given, and is checked against
//! real time and against what they returned.

use bytes::Bytes;
use corelith_io::Instant;
use std::collections::BTreeMap;

/// What an operation did, as its client knows it.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// A write that was applied.
    Wrote {
        key: u32,
        value: Bytes,
        /// The version it gave the key.
        version: u64,
        /// The version that its condition asked for (0: absent).
        expected: Option<u64>,
    },
    /// A conditional write that was not applied.
    Refused {
        key: u32,
        expected: u64,
        /// The version that was there (0: absent).
        current: u64,
        /// The log index at which it was decided, at the latest.
        by: u64,
    },
    /// A read.
    Read {
        key: u32,
        /// Value and version, if there was one.
        found: Option<(Bytes, u64)>,
        /// Everything up to this index was applied.
        point: u64,
    },
}

/// An operation that was answered.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    pub(super) done: Done,
}

/// What clients did. Writes whose fate is unknown are known by their value only.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    /// Values of writes that may or may not have been applied: (key, value).
    pub(super) unknown: Vec<(u32, Bytes)>,
}

impl Done {
    /// Where in the log's order the operation lies; `None` if only bounds are known.
    fn position(&self) -> Option<u64> {
        match self {
            Self::Wrote { version, .. } => Some(*version),
            Self::Read { point, found, .. } => Some(
                found
                    .as_ref()
                    .map_or(*point, |(_, version)| *point.max(version)),
            ),
            Self::Refused { .. } => None,
        }
    }
}

impl History {
    /// Checks everything.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let versions = self.versions()?;
        for operation in &self.operations {
            self.check_against(&versions, operation)?;
        }
        self.check_real_time(&versions)
    }

    /// For each key its versions with their values, as writes or reads tell them.
    fn versions(&self) -> Result<BTreeMap<u32, BTreeMap<u64, Bytes>>, String> {
        let mut by_key: BTreeMap<u32, BTreeMap<u64, Bytes>> = BTreeMap::new();
        let mut by_version: BTreeMap<u64, (u32, Bytes)> = BTreeMap::new();
        for operation in &self.operations {
            let (key, value, version) = match &operation.done {
                Done::Wrote {
                    key,
                    value,
                    version,
                    ..
                } => (*key, value, *version),
                Done::Read {
                    key,
                    found: Some((value, version)),
                    ..
                } => (*key, value, *version),
                _ => continue,
            };
            let known = by_version
                .entry(version)
                .or_insert_with(|| (key, value.clone()));
            if *known != (key, value.clone()) {
                return Err(format!(
                    "version {version} is both {known:?} and {:?}",
                    (key, value)
                ));
            }
            by_key
                .entry(key)
                .or_default()
                .insert(version, value.clone());
        }
        self.check_values_are_written(&by_key)?;
        Ok(by_key)
    }

    /// Every value that was read was written, once.
    fn check_values_are_written(
        &self,
        versions: &BTreeMap<u32, BTreeMap<u64, Bytes>>,
    ) -> Result<(), String> {
        let mut may_exist: std::collections::BTreeSet<(u32, Bytes)> =
            self.unknown.iter().cloned().collect();
        for operation in &self.operations {
            if let Done::Wrote { key, value, .. } = &operation.done {
                may_exist.insert((*key, value.clone()));
            }
        }
        for (key, versions) in versions {
            for (version, value) in versions {
                if !may_exist.remove(&(*key, value.clone())) {
                    return Err(format!(
                        "key {key} has {value:?} at {version}, which nobody wrote, or a second time"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_against(
        &self,
        versions: &BTreeMap<u32, BTreeMap<u64, Bytes>>,
        operation: &Operation,
    ) -> Result<(), String> {
        let of = |key: &u32| versions.get(key);
        let between = |key: &u32, after: u64, upto: u64| {
            of(key).and_then(|versions| {
                let mut range = versions.range(after.saturating_add(1)..upto.saturating_add(1));
                range.next_back().map(|(version, _)| *version)
            })
        };
        let wrong = |what: String| Err(format!("{what}: {operation:?}"));
        match &operation.done {
            Done::Wrote {
                key,
                version,
                expected: Some(expected),
                ..
            } => match between(key, *expected, version - 1) {
                Some(other) => wrong(format!("applied although version {other} was there")),
                None => Ok(()),
            },
            Done::Wrote { .. } => Ok(()),
            Done::Refused {
                expected, current, ..
            } if expected == current => wrong("refused although its condition held".into()),
            Done::Refused { by, current, .. } if current > by => {
                wrong("refused because of a later version".into())
            }
            Done::Refused { .. } => Ok(()),
            Done::Read { key, found, point } => {
                let seen = found.as_ref().map_or(0, |(_, version)| *version);
                match between(key, seen, *point) {
                    Some(newer) => wrong(format!("version {newer} was missed")),
                    None => Ok(()),
                }
            }
        }
    }

    /// An operation that began after another ended does not lie before it.
    fn check_real_time(
        &self,
        versions: &BTreeMap<u32, BTreeMap<u64, Bytes>>,
    ) -> Result<(), String> {
        let mut by_begin: Vec<&Operation> = self.operations.iter().collect();
        by_begin.sort_by_key(|operation| operation.begun);
        let mut by_end = by_begin.clone();
        by_end.sort_by_key(|operation| operation.ended);
        let mut ended = by_end.into_iter().peekable();
        let mut floor = 0;
        for operation in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended < operation.begun) {
                floor = floor.max(before.done.position().unwrap_or(0));
            }
            let holds = match &operation.done {
                Done::Wrote { version, .. } => *version > floor,
                Done::Read { .. } => operation.done.position() >= Some(floor),
                // `current` must have been there at some point between `floor` and `by`.
                Done::Refused {
                    key, current, by, ..
                } => {
                    let next = versions.get(key).and_then(|versions| {
                        let mut later = versions.range(current.saturating_add(1)..);
                        later.next().map(|(version, _)| *version)
                    });
                    *by > floor && next.is_none_or(|next| next > floor)
                }
            };
            if !holds {
                return Err(format!(
                    "an operation at {floor} had ended before this began: {operation:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;
    use std::time::Duration;

    fn at(millis: u64) -> Instant {
        // An instant can only be had from a core; its start does not matter here.
        thread_local! {
            static START: Instant = {
                let sim = Sim::new(0);
                let node = sim.add_node();
                sim.enter(node, corelith_io::now)
            };
        }
        START.with(|start| *start + Duration::from_millis(millis))
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn wrote(
        time: (u64, u64),
        text: &'static str,
        version: u64,
        expected: Option<u64>,
    ) -> Operation {
        let done = Done::Wrote {
            key: 0,
            value: value(text),
            version,
            expected,
        };
        Operation {
            begun: at(time.0),
            ended: at(time.1),
            done,
        }
    }

    fn read(time: (u64, u64), found: Option<(&'static str, u64)>, point: u64) -> Operation {
        let done = Done::Read {
            key: 0,
            found: found.map(|(text, version)| (value(text), version)),
            point,
        };
        Operation {
            begun: at(time.0),
            ended: at(time.1),
            done,
        }
    }

    fn check(operations: &[Operation]) -> Result<(), String> {
        History {
            operations: operations.to_vec(),
            unknown: vec![(0, value("maybe"))],
        }
        .check()
    }

    #[test]
    fn a_good_history_passes() {
        let good = [
            wrote((0, 10), "a", 5, None),
            read((11, 12), Some(("a", 5)), 5),
            wrote((13, 20), "b", 7, Some(5)),
            read((13, 20), Some(("a", 5)), 6),
            read((15, 22), Some(("b", 7)), 7),
            read((23, 24), Some(("maybe", 9)), 9),
        ];
        assert_eq!(check(&good), Ok(()));
    }

    #[test]
    fn bad_histories_are_found() {
        let a = || wrote((0, 10), "a", 5, None);
        let cases: [(&str, Vec<Operation>); 8] = [
            ("stale read", vec![a(), read((11, 12), None, 4)]),
            ("missed write", vec![a(), read((11, 12), None, 6)]),
            (
                "two values of a version",
                vec![a(), wrote((0, 10), "b", 5, None)],
            ),
            (
                "written out of nowhere",
                vec![read((0, 1), Some(("x", 3)), 3)],
            ),
            (
                "applied twice",
                vec![a(), read((11, 12), Some(("a", 9)), 9)],
            ),
            (
                "version from before the write began",
                vec![a(), wrote((11, 12), "b", 4, None)],
            ),
            (
                "a condition that did not hold",
                vec![
                    a(),
                    wrote((0, 20), "b", 7, None),
                    wrote((0, 20), "c", 8, Some(5)),
                ],
            ),
            (
                "reads going back",
                vec![
                    wrote((0, 30), "a", 5, None),
                    read((1, 2), Some(("a", 5)), 5),
                    read((3, 4), None, 4),
                ],
            ),
        ];
        for (what, operations) in cases {
            assert!(check(&operations).is_err(), "{what} was not found");
        }
    }
}
