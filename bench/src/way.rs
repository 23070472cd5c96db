//! The way of a lone operation: every wake, system call, ring entry and completion of each thread that takes part in
//! one put and one get, as the kernel traces them.
//!
//! Operations follow one another, so what a node still does for one, such as telling followers that it is committed, is
//! counted in the next one. What nodes do by themselves meanwhile, such as beats, is counted as well.

mod kernel;
mod parse;
mod picture;
mod table;

use self::kernel::{Marker, Tracing};
use self::parse::{TraceEvent, Traced};
pub(crate) use self::table::WayFigures;
use self::table::{ThreadLane, ThreadLanes};
use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::idle::{self, IdleError};
use crate::workload::{Workload, WorkloadKind, WorkloadOperation};
use corelith_bench::random::Random;
use corelith_bench::usage::wait_until_settled;
use corelith_client::Client;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Operations before those that are traced.
const WARM_UP: u64 = 300;
/// Operations that are traced.
const TRACED: u32 = 300;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "cannot {what}: {source}; the workload `way` needs root and a kernel with tracefs at /sys/kernel/tracing"
    )]
    Tracing {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("cannot write {}: {source}", path.display())]
    Picture {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("an operation failed: {0}")]
    Operation(#[source] corelith_client::Error),
    #[error(transparent)]
    NotReady(#[from] IdleError),
    #[error("the shard has lost its leader")]
    NoLeader,
    #[error("the trace holds {0} of {TRACED} operations: the machine is too busy for its buffer")]
    Lost(usize),
}

/// Traces puts and then gets of a cluster that it starts; `pictures` is where `put.svg` and `get.svg` go.
///
/// # Errors
/// See [`WayError`].
pub(crate) fn run(
    options: ClusterOptions,
    workload: &Workload,
    pictures: Option<&Path>,
    seed: u64,
) -> Result<Vec<WayFigures>, WayError> {
    let mut cluster = Cluster::start(options)?;
    let leader = leader_of(&mut cluster)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start a runtime"))?;
    let client = runtime
        .block_on(Client::connect(cluster.seeds()))
        .map_err(WayError::Operation)?;
    wait_until_settled(&cluster.pids());
    let lanes = ThreadLanes::new(&cluster.pids(), leader);
    let mut figures = Vec::new();
    for kind in [WorkloadKind::Put, WorkloadKind::Get] {
        let workload = workload.of_kind(kind, 0);
        let mut random = Random::new(seed);
        let one = |random: &mut Random| {
            let operation = workload.next(random);
            runtime
                .block_on(execute(&client, operation))
                .map_err(WayError::Operation)
        };
        for _ in 0..WARM_UP {
            one(&mut random)?;
        }
        let tracing = Tracing::start().map_err(failed("trace"))?;
        let mut marker = tracing.marker().map_err(failed("mark the trace"))?;
        for _ in 0..TRACED {
            marker
                .mark(Marker::BEGIN)
                .map_err(failed("mark the trace"))?;
            one(&mut random)?;
            marker.mark(Marker::END).map_err(failed("mark the trace"))?;
        }
        drop(marker);
        let text = tracing.read().map_err(failed("read the trace"))?;
        let events = parse::events(&text);
        let spans = spans(&events);
        if spans.len() != TRACED as usize {
            return Err(WayError::Lost(spans.len()));
        }
        let of_kind = WayFigures::new(kind, &events, &spans, &lanes);
        print!("{}", of_kind.text());
        if let Some(dir) = pictures {
            let path = dir.join(format!("{}.svg", of_kind.name()));
            let picture = picture::svg(&of_kind, &events, typical(&spans), &lanes);
            std::fs::write(&path, picture).map_err(|source| WayError::Picture { path, source })?;
        }
        figures.push(of_kind);
    }
    Ok(figures)
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> WayError {
    move |source| WayError::Tracing { what, source }
}

/// The node that leads the one shard, counted from 0.
fn leader_of(cluster: &mut Cluster) -> Result<usize, WayError> {
    let watch = idle::wait_until_ready(cluster, 1, Instant::now())?;
    let leads = watch.leads().unwrap_or_default();
    leads
        .first()
        .map(|lead| lead.node)
        .ok_or(WayError::NoLeader)
}

async fn execute(
    client: &Client,
    operation: WorkloadOperation,
) -> Result<(), corelith_client::Error> {
    match operation {
        WorkloadOperation::Put { key, value } => client.put(key, value).await.map(drop),
        WorkloadOperation::Get { key } => client.get(key).await.map(drop),
    }
}

/// Begin and end of one operation, in microseconds of the trace.
#[derive(Clone, Copy, Debug, PartialEq)]
struct OperationSpan {
    begin: f64,
    end: f64,
}

impl OperationSpan {
    fn took(&self) -> f64 {
        self.end - self.begin
    }
}

fn spans(events: &[TraceEvent]) -> Vec<OperationSpan> {
    let mut begin = None;
    let mut spans = Vec::new();
    for event in events {
        match &event.what {
            Traced::Mark(mark) if mark == Marker::BEGIN => begin = Some(event.at),
            Traced::Mark(mark) if mark == Marker::END => {
                if let Some(begin) = begin.take() {
                    let end = event.at;
                    spans.push(OperationSpan { begin, end });
                }
            }
            _ => {}
        }
    }
    spans
}

/// The operation that took as long as half of them at most.
fn typical(spans: &[OperationSpan]) -> OperationSpan {
    let mut sorted = spans.to_vec();
    sorted.sort_by(|one, other| one.took().total_cmp(&other.took()));
    sorted
        .get(sorted.len() / 2)
        .copied()
        .unwrap_or(OperationSpan {
            begin: 0.0,
            end: 0.0,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_typical_operation_is_the_median_one() {
        let span = |begin, end| OperationSpan { begin, end };
        let spans = [span(0.0, 9.0), span(10.0, 12.0), span(20.0, 25.0)];
        assert_eq!(typical(&spans), span(20.0, 25.0));
    }

    #[test]
    fn operations_lie_between_their_marks() {
        let mark = |at, mark: &str| TraceEvent {
            at,
            thread: 7,
            cpu: 0,
            what: Traced::Mark(mark.to_owned()),
        };
        let events = [
            mark(1.0, Marker::END),
            mark(2.0, Marker::BEGIN),
            mark(5.0, Marker::END),
        ];
        let expected = OperationSpan {
            begin: 2.0,
            end: 5.0,
        };
        assert_eq!(spans(&events), [expected]);
    }
}
