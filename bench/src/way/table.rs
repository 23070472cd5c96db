//! What each thread does for an operation, on average.

use super::parse::{TraceEvent, Traced};
use super::{OperationSpan, typical};
use crate::workload::WorkloadKind;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A thread that makes calls and woke less often than this has switches that the trace lacks.
const WAKES_SHOWN_MIN: f64 = 0.05;

/// One thread that takes part.
#[derive(Clone, Debug)]
pub(super) struct ThreadLane {
    pub(super) thread: u32,
    /// Whose it is, and its name.
    pub(super) name: String,
}

/// The threads of the nodes and the client.
#[derive(Debug)]
pub(super) struct ThreadLanes(Vec<ThreadLane>);

impl ThreadLanes {
    /// Those of the nodes with these processes, and of this process; node number `leader`, counted from 0, leads.
    pub(super) fn new(nodes: &[u32], leader: usize) -> Self {
        let client = ThreadLane {
            thread: std::process::id(),
            name: "client".to_owned(),
        };
        let mut lanes = vec![client];
        let mut order: Vec<_> = nodes.iter().enumerate().collect();
        order.sort_by_key(|(node, _)| *node != leader);
        for (node, process) in order {
            let role = match node == leader {
                true => "leader",
                false => "follower",
            };
            let mut threads = threads_of(*process);
            threads.sort_unstable();
            lanes.extend(threads.into_iter().map(|thread| {
                let path = format!("/proc/{process}/task/{thread}/comm");
                let name = std::fs::read_to_string(path).unwrap_or_default();
                let name = format!("{role} {}: {}", node + 1, name.trim());
                ThreadLane { thread, name }
            }));
        }
        Self(lanes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ThreadLane> {
        self.0.iter()
    }
}

fn threads_of(process: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let names = threads
        .flatten()
        .map(|thread| thread.file_name().into_string());
    names
        .flatten()
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// What one thread does for one operation, on average.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct ThreadFigures {
    /// Whose it is, and its name.
    name: String,
    /// Microseconds on a processor, kernel included.
    running_us: f64,
    /// How often it began to run.
    wakes: f64,
    /// System calls, by name.
    calls: BTreeMap<String, f64>,
    /// Entries that the kernel took from its rings, by what they ask for.
    entries: BTreeMap<String, f64>,
    /// Of these, how many a worker of the kernel did.
    by_worker: f64,
    /// Completions.
    completions: f64,
}

/// What one kind of operation takes.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct WayFigures {
    operation: WorkloadKind,
    /// Operations that were traced.
    operations: usize,
    /// Microseconds that the median one took, traced as it was.
    median_us: f64,
    threads: Vec<ThreadFigures>,
}

impl WayFigures {
    /// Of the operations in `spans`, which lie in `events`.
    pub(super) fn new(
        operation: WorkloadKind,
        events: &[TraceEvent],
        spans: &[OperationSpan],
        lanes: &ThreadLanes,
    ) -> Self {
        let from = spans.first().map_or(0.0, |span| span.begin);
        let to = spans.last().map_or(0.0, |span| span.end);
        let count = spans.len().max(1) as f64;
        let threads = lanes.iter().map(|lane| {
            let mut of_thread = ThreadFigures {
                name: lane.name.clone(),
                ..ThreadFigures::default()
            };
            for (begin, end) in runs(events, lane.thread) {
                let (begin, end) = (begin.max(from), end.min(to));
                of_thread.running_us += (end - begin).max(0.0) / count;
            }
            let within = events
                .iter()
                .filter(|event| event.at >= from && event.at <= to);
            for event in within {
                of_thread.add(event, lane.thread, 1.0 / count);
            }
            of_thread
        });
        let threads = threads.filter(ThreadFigures::takes_part);
        Self {
            operation,
            operations: spans.len(),
            median_us: typical(spans).took(),
            threads: threads.collect(),
        }
    }

    /// The operation's name.
    pub(super) fn name(&self) -> &'static str {
        match self.operation {
            WorkloadKind::Get => "get",
            _ => "put",
        }
    }

    pub(super) fn median_us(&self) -> f64 {
        self.median_us
    }

    /// A table of the threads.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "one {} of {}, median {:.0} us while traced; for each operation:\n{:<28}{:>8}{:>7}{:>8}{:>9}{:>8}{:>9}  system calls; entries\n",
            self.name(),
            self.operations,
            self.median_us,
            "thread",
            "us",
            "wakes",
            "calls",
            "entries",
            "worker",
            "complete",
        );
        for of in &self.threads {
            let sum = |counts: &BTreeMap<String, f64>| counts.values().sum::<f64>();
            let _ = writeln!(
                text,
                "{:<28}{:>8}{:>7}{:>8.2}{:>9.2}{:>8.2}{:>9.2}  {}; {}",
                of.name,
                of.shown(of.running_us),
                of.shown(of.wakes),
                sum(&of.calls),
                sum(&of.entries),
                of.by_worker,
                of.completions,
                listed(&of.calls),
                listed(&of.entries),
            );
        }
        text.push('\n');
        text
    }
}

impl ThreadFigures {
    /// Whether it does something for most operations, or at least runs.
    fn takes_part(&self) -> bool {
        self.has_calls() || self.wakes > 0.0
    }

    fn has_calls(&self) -> bool {
        self.calls.values().sum::<f64>() >= 0.5
    }

    /// A figure that comes from switches: the kernel's trace lacks those of a processor now and then.
    fn shown(&self, figure: f64) -> String {
        match self.has_calls() && self.wakes < WAKES_SHOWN_MIN {
            true => "-".to_owned(),
            false => format!("{figure:.2}"),
        }
    }

    fn add(&mut self, event: &TraceEvent, thread: u32, part: f64) {
        let add_to = |counts: &mut BTreeMap<String, f64>, name: &str| {
            *counts.entry(name.to_owned()).or_default() += part;
        };
        match &event.what {
            Traced::Switch { to, .. } if *to == thread => self.wakes += part,
            _ if event.thread != thread => {}
            Traced::Call(name) => add_to(&mut self.calls, name),
            Traced::Submit(opcode) => add_to(&mut self.entries, opcode),
            Traced::Worker => self.by_worker += part,
            Traced::Complete => self.completions += part,
            Traced::Switch { .. } | Traced::Wake(_) | Traced::Return | Traced::Mark(_) => {}
        }
    }
}

/// Those that come at least every twentieth time, the most frequent first.
fn listed(counts: &BTreeMap<String, f64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count >= 0.05).collect();
    counts.sort_by(|one, other| other.1.total_cmp(one.1));
    let counts = counts
        .iter()
        .map(|(name, count)| format!("{name} {count:.2}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// When a thread ran: from one switch to the next. One that ran when the trace began counts from its first switch on.
pub(super) fn runs(events: &[TraceEvent], thread: u32) -> Vec<(f64, f64)> {
    let mut since = None;
    let mut runs = Vec::new();
    for event in events {
        match event.what {
            Traced::Switch { to, .. } if to == thread => since = Some(event.at),
            Traced::Switch { from, .. } if from == thread => {
                if let Some(since) = since.take() {
                    runs.push((since, event.at));
                }
            }
            _ => {}
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_is_counted_for_each_operation() {
        let event = |at, thread, what| TraceEvent {
            at,
            thread,
            cpu: 0,
            what,
        };
        let events = [
            event(0.0, 9, Traced::Switch { from: 9, to: 7 }),
            event(1.0, 7, Traced::Call("io_uring_enter".to_owned())),
            event(2.0, 7, Traced::Submit("WRITE".to_owned())),
            event(3.0, 8, Traced::Submit("WRITE".to_owned())),
            event(6.0, 7, Traced::Switch { from: 7, to: 9 }),
            event(7.0, 7, Traced::Complete),
        ];
        let lanes = ThreadLanes(vec![ThreadLane {
            thread: 7,
            name: "core".to_owned(),
        }]);
        let span = |begin, end| OperationSpan { begin, end };
        let spans = [span(0.0, 4.0), span(5.0, 8.0)];
        let figures = WayFigures::new(WorkloadKind::Put, &events, &spans, &lanes);
        let of = &figures.threads[0];
        assert!((of.running_us - 3.0).abs() < 1e-9, "{of:?}");
        assert!((of.wakes - 0.5).abs() < 1e-9, "{of:?}");
        assert_eq!(listed(&of.entries), "WRITE 0.50");
        assert_eq!(listed(&of.calls), "io_uring_enter 0.50");
        assert!((of.completions - 0.5).abs() < 1e-9, "{of:?}");
    }
}
