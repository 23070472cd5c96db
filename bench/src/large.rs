//! Large values: how fast they are uploaded and read, what that costs nodes and client, and how long small puts wait
//! beside uploads.

mod figures;
mod meter;
mod transfer;

pub(crate) use self::figures::LargeFigures;
use self::figures::{BesideFigures, LargePhase, SmallPuts};
use self::meter::{Measured, UsageMeter};
use self::transfer::LargeTransfers;
use crate::driver::{self, DriverError, RunOutcome, RunStep, RunTarget};
use crate::probe;
use crate::workload::Workload;
use corelith_bench::usage::wait_until_settled;
use corelith_client::ReadFrom;
use std::path::Path;
use std::sync::Arc;

/// Small keys written first, so that every shard has a leader, and writes in flight meanwhile.
const FIRST_KEYS: u64 = 1000;
const FIRST_IN_FLIGHT: u64 = 64;
/// Uploads beside small puts.
const BESIDE_UPLOADS: usize = 4;
/// Small puts in flight at most, and how many are due in a second unless the command line says.
const SMALL_IN_FLIGHT: usize = 64;
const SMALL_RATE: f64 = 500.0;
/// Lengths of the ranges that are read.
const RANGES: [(&str, u64); 2] = [("ranges 64K", 64 << 10), ("ranges 1M", 1 << 20)];
/// A disk is probed with so many bytes at most.
const PROBE_BYTES_MAX: u64 = 2 << 30;

/// The values.
#[derive(Clone, Debug)]
pub(crate) struct LargeLoad {
    /// Bytes of each.
    pub(crate) bytes: u64,
    /// How many are uploaded, and read, at once.
    pub(crate) streams: usize,
    /// Seed of their content and of the ranges.
    pub(crate) seed: u64,
}

/// Why large values could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LargeError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("cannot {what}: {source}")]
    Operation {
        what: &'static str,
        source: corelith_client::Error,
    },
    #[error("a value came back with {0} bytes")]
    Length(u64),
    #[error("a task of the benchmark panicked")]
    Panicked,
}

fn failed(what: &'static str) -> impl FnOnce(corelith_client::Error) -> LargeError {
    move |source| LargeError::Operation { what, source }
}

/// Measures a cluster, whose directory is `dir` if it is this program's. `small` are the puts beside uploads.
///
/// # Errors
/// See [`LargeError`]: no operation on a large value may fail.
pub(crate) fn run(
    target: &RunTarget,
    dir: Option<&Path>,
    load: &LargeLoad,
    step: &RunStep,
    small: &Arc<Workload>,
) -> Result<LargeFigures, LargeError> {
    let disk = dir.map(|dir| probe::disk(dir, load.bytes.min(PROBE_BYTES_MAX)));
    let disk = disk.transpose().map_err(|source| LargeError::Io {
        what: "write and read a file",
        source,
    })?;
    driver::load(target, small, FIRST_KEYS, FIRST_IN_FLIGHT)?;
    wait_until_settled(&target.server_pids);
    let transfers = LargeTransfers::new(target, load)?;
    let meter = UsageMeter::new(&target.server_pids);
    let mut phases = whole_values(&transfers, &meter, load)?;
    for (name, bytes) in RANGES {
        let begun = meter.begin();
        let read = transfers.ranges(load.streams, bytes, step.duration)?;
        let mut phase = LargePhase::new(name, read.bytes, meter.end(begun));
        phase.latency = Some(read.latencies.percentiles());
        print!("{}", phase.row());
        phases.push(phase);
    }
    let beside = beside_uploads(target, &transfers, &meter, load, step, small)?;
    let leads = match dir {
        Some(_) => transfers.leads()?,
        None => Vec::new(),
    };
    if dir.is_none() {
        transfers.delete(load.streams + BESIDE_UPLOADS)?;
    }
    Ok(LargeFigures {
        bytes: load.bytes,
        streams: load.streams,
        disk,
        leads,
        phases,
        beside,
    })
}

/// Uploads the values and reads them whole.
fn whole_values(
    transfers: &LargeTransfers,
    meter: &UsageMeter,
    load: &LargeLoad,
) -> Result<Vec<LargePhase>, LargeError> {
    let all = load.bytes * load.streams as u64;
    let mut phases = Vec::new();
    print!("{}", figures::header());
    let mut done = |name, measured: Measured| {
        let phase = LargePhase::new(name, all, measured);
        print!("{}", phase.row());
        phases.push(phase);
    };
    let begun = meter.begin();
    transfers.upload(0..load.streams)?;
    done("upload", meter.end_settled(begun));
    for (name, from) in [
        ("read, leader", ReadFrom::Leader),
        ("read, all", ReadFrom::Any),
    ] {
        let begun = meter.begin();
        transfers.read(0..load.streams, from)?;
        done(name, meter.end(begun));
    }
    Ok(phases)
}

/// Small puts alone, and beside uploads.
fn beside_uploads(
    target: &RunTarget,
    transfers: &LargeTransfers,
    meter: &UsageMeter,
    load: &LargeLoad,
    step: &RunStep,
    small: &Arc<Workload>,
) -> Result<BesideFigures, LargeError> {
    let rate = step.rate.unwrap_or(SMALL_RATE);
    let step = RunStep {
        in_flight: SMALL_IN_FLIGHT,
        rate: Some(rate),
        ..step.clone()
    };
    let alone = driver::run(target, &step, small)?;
    let terms = transfers.terms()?;
    let first = load.streams;
    let uploads = || {
        let begun = meter.begin();
        let done = transfers.upload(first..first + BESIDE_UPLOADS);
        done.map(|()| begun)
    };
    let (during, begun) = driver::run_while(target, &step, small, || (), |()| uploads())?;
    let bytes = load.bytes * BESIDE_UPLOADS as u64;
    let phase = LargePhase::new("and puts", bytes, meter.end_after(begun?, during.window));
    print!("{}", phase.row());
    let small_puts = |outcome: RunOutcome| SmallPuts {
        latency: outcome.recorder.puts.percentiles(),
        operations: outcome.recorder.puts.count(),
        not_started: outcome.recorder.not_started,
        errors: outcome.recorder.errors,
    };
    Ok(BesideFigures {
        rate,
        uploads: phase,
        alone: small_puts(alone),
        during: small_puts(during),
        leads_stayed: terms == transfers.terms()?,
    })
}
