//! Which cases a workload has.

use crate::options::{Options, Workload};
use crate::plan::{Data, Job, Span};

/// Bytes of a value where the workload does not vary them.
const SMALL_BYTES: usize = 256;
/// Values that are overwritten.
const MEDIUM_BYTES: usize = 64 << 10;
/// Large values of a timeline, one in this many.
const TIMELINE_LARGE_BYTES: usize = 16 << 10;
const TIMELINE_LARGE_EVERY: u64 = 4;
/// Gets read from this many times the cache.
const DATA_OF_CACHE: u64 = 4;

/// What every engine is measured with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) job: Job,
    /// Where its directory comes from.
    pub(crate) directory: Directory,
}

/// See [`Case`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    /// It is new.
    Empty,
    /// All cases read the same data, which they do not change.
    Loaded(Data),
    /// As before, but each run changes a copy of its own.
    Copied(Data),
}

/// The cases of a workload.
pub(crate) fn of(workload: Workload, options: &Options) -> Vec<Case> {
    match workload {
        Workload::Put => puts(options),
        Workload::Fill => vec![Case {
            title: format!(
                "fill: {} values of {}, settled at the end",
                options.fill_keys,
                bytes(SMALL_BYTES)
            ),
            job: Job::Fill {
                data: Data::uniform(options.fill_keys, SMALL_BYTES),
                writers: options.writers,
            },
            directory: Directory::Empty,
        }],
        Workload::Get => gets(options),
        Workload::Mixed => mixed(options),
        Workload::Overwrite => vec![overwrite(options)],
        Workload::Timeline => vec![timeline(options)],
        // It is no comparison.
        Workload::Scale => Vec::new(),
    }
}

fn span(options: &Options) -> Span {
    Span {
        warm_up: options.warm_up,
        measure: options.duration,
    }
}

fn puts(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for value_bytes in &options.put_value {
        for outstanding in &options.put_outstanding {
            cases.push(Case {
                title: format!(
                    "put: durable, {}, {outstanding} in flight",
                    bytes(*value_bytes)
                ),
                job: Job::Put {
                    value_bytes: *value_bytes,
                    outstanding: *outstanding,
                    span: span(options),
                },
                directory: Directory::Empty,
            });
        }
    }
    cases
}

/// What gets read from.
fn cold_data(options: &Options) -> Data {
    let keys = DATA_OF_CACHE * options.cache as u64 / SMALL_BYTES as u64;
    Data::uniform(keys.max(1), SMALL_BYTES)
}

fn gets(options: &Options) -> Vec<Case> {
    let data = cold_data(options);
    let mut cases = Vec::new();
    for absent in [false, true] {
        for outstanding in &options.get_outstanding {
            cases.push(Case {
                title: format!(
                    "get: {} keys, {outstanding} in flight",
                    if absent { "absent" } else { "cold" }
                ),
                job: Job::Get {
                    data,
                    outstanding: *outstanding,
                    absent,
                    span: span(options),
                },
                directory: Directory::Loaded(data),
            });
        }
    }
    cases
}

fn mixed(options: &Options) -> Vec<Case> {
    let data = cold_data(options);
    let mut cases = Vec::new();
    for puts_per_second in [Some(options.mixed_puts), None] {
        for outstanding in &options.get_outstanding {
            let beside = match puts_per_second {
                Some(rate) => format!("{rate} puts/s"),
                None => "puts at full speed".to_owned(),
            };
            cases.push(Case {
                title: format!("mixed: {outstanding} gets in flight beside {beside}"),
                job: Job::Mixed {
                    data,
                    outstanding: *outstanding,
                    puts_per_second,
                    durable: options.durable_peers,
                    span: span(options),
                },
                directory: Directory::Copied(data),
            });
        }
    }
    cases
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "numbers of keys; a negative factor gives none"
)]
fn overwrite(options: &Options) -> Case {
    let keys = (options.overwrite_live / MEDIUM_BYTES).max(1) as u64;
    Case {
        title: format!(
            "overwrite: {} live in values of {}, {} times as much written over it",
            bytes(options.overwrite_live),
            bytes(MEDIUM_BYTES),
            options.overwrite_times
        ),
        job: Job::Overwrite {
            data: Data::uniform(keys, MEDIUM_BYTES),
            overwrites: (keys as f64 * options.overwrite_times) as u64,
            writers: options.writers,
        },
        directory: Directory::Empty,
    }
}

fn timeline(options: &Options) -> Case {
    let rate = options.timeline_rate;
    let puts = match options.durable_peers {
        true => "durable puts",
        false => "puts",
    };
    Case {
        title: format!(
            "timeline: {rate} {puts}/s and {rate} gets/s, one value in {TIMELINE_LARGE_EVERY} of {}, others of {}",
            bytes(TIMELINE_LARGE_BYTES),
            bytes(SMALL_BYTES)
        ),
        job: Job::Timeline {
            data: Data {
                keys: options.timeline_keys,
                value_bytes: SMALL_BYTES,
                large_bytes: TIMELINE_LARGE_BYTES,
                large_every: TIMELINE_LARGE_EVERY,
            },
            puts_per_second: rate,
            gets_per_second: rate,
            durable: options.durable_peers,
            writers: options.writers,
            span: Span {
                warm_up: options.warm_up,
                measure: options.timeline_seconds,
            },
        },
        directory: Directory::Empty,
    }
}

/// A length for people.
pub(crate) fn bytes(bytes: usize) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn each_workload_has_its_cases() {
        let options = Options::parse_from(["bench"]);
        let counts = [
            (Workload::Put, 12),
            (Workload::Fill, 1),
            (Workload::Get, 4),
            (Workload::Mixed, 4),
            (Workload::Overwrite, 1),
            (Workload::Timeline, 1),
        ];
        for (workload, count) in counts {
            assert_eq!(of(workload, &options).len(), count, "{workload:?}");
        }
        let data = cold_data(&options);
        let stored = data.keys * data.value_bytes as u64;
        assert_eq!(stored, 4 * options.cache as u64);
    }

    #[test]
    fn peers_are_durable_if_asked_for() {
        for (arguments, expected) in [
            (vec!["bench"], false),
            (vec!["bench", "--durable-peers"], true),
        ] {
            let options = Options::parse_from(arguments);
            for workload in [Workload::Mixed, Workload::Timeline] {
                for case in of(workload, &options) {
                    let (Job::Mixed { durable, .. } | Job::Timeline { durable, .. }) = case.job
                    else {
                        panic!("{workload:?} has no other jobs");
                    };
                    assert_eq!(durable, expected, "{}", case.title);
                }
            }
        }
    }

    #[test]
    fn lengths_are_readable() {
        for (length, text) in [
            (256, "256 B"),
            (4096, "4 KiB"),
            (3 << 20, "3 MiB"),
            (1500, "1500 B"),
        ] {
            assert_eq!(bytes(length), text);
        }
    }
}
