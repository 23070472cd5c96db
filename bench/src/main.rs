//! The benchmark of a Corelith cluster: throughput, latency and resources under load.

mod abuse;
mod cluster;
mod driver;
mod failover;
mod idle;
mod large;
mod options;
mod pacer;
mod probe;
mod rebuild;
mod recorder;
mod report;
mod way;
mod workload;

use crate::cluster::{Cluster, ClusterOptions, NODES, Place};
use crate::driver::{RunStep, RunTarget};
use crate::options::BenchOptions;
use crate::report::{Load, Report, RunFigures, StartedCluster};
use crate::workload::{KEYS_MAX, Workload, WorkloadKind};
use clap::Parser as _;
use corelith_bench::usage::Machine;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Writes in flight while the keys are loaded.
const LOAD_IN_FLIGHT: u64 = 256;

/// Parent of a started cluster's directory. Not /tmp, which is often in memory: nodes refuse that.
const DATA_ROOT: &str = "/var/tmp";
/// Keys written to a started cluster before anything is measured, so that every shard has a leader.
const FIRST_KEYS: u64 = 1000;
/// Keys of the load beside a node that is rebuilt, and bytes of its values.
const BESIDE_KEYS: u64 = 10_000;
const BESIDE_VALUE_BYTES: usize = 1 << 10;

/// Why the benchmark could not run.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    #[error(transparent)]
    Driver(#[from] driver::DriverError),
    #[error("cannot write {}: {source}", path.display())]
    Json {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Failover(#[from] failover::FailoverError),
    #[error(transparent)]
    Idle(#[from] idle::IdleError),
    #[error(transparent)]
    Rebuild(#[from] rebuild::RebuildError),
    #[error(transparent)]
    Large(#[from] large::LargeError),
    #[error(transparent)]
    Way(#[from] way::WayError),
    #[error("the workload `large` runs alone: leave out other workloads")]
    LargeNotAlone,
    #[error("the workloads `failover`, `idle` and `rebuild` need three nodes: leave out --nodes")]
    NotThreeNodes,
    #[error(
        "the workloads `failover`, `idle`, `rebuild` and `way` run alone, in their own cluster: leave out --connect and other workloads"
    )]
    NotAlone,
    #[error("the workload `abuse` needs its own cluster: leave out --connect")]
    AbuseOfOthers,
    #[error("cannot find this program's directory: {0}")]
    NoHome(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let options = BenchOptions::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("corelith-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Refuses other clusters than of three nodes for what is measured on such only.
fn check_nodes(options: &BenchOptions) -> Result<(), BenchError> {
    let needs_three = [
        WorkloadKind::Failover,
        WorkloadKind::Idle,
        WorkloadKind::Rebuild,
    ];
    let needs_three = options
        .workload
        .iter()
        .any(|kind| needs_three.contains(kind));
    if needs_three && usize::from(options.nodes) != NODES {
        return Err(BenchError::NotThreeNodes);
    }
    Ok(())
}

/// What runs a workload that runs alone.
type RunAlone = fn(&BenchOptions) -> Result<bool, BenchError>;

/// Workloads that run alone.
const ALONE: [(WorkloadKind, RunAlone); 5] = [
    (WorkloadKind::Failover, fail_over),
    (WorkloadKind::Idle, stay_idle),
    (WorkloadKind::Rebuild, rebuild),
    (WorkloadKind::Large, move_large),
    (WorkloadKind::Way, follow_way),
];

/// Runs everything. Returns true if no operation failed and no abuse did harm.
fn run(options: &BenchOptions) -> Result<bool, BenchError> {
    check_nodes(options)?;
    let alone = ALONE
        .iter()
        .find(|(kind, _)| options.workload.contains(kind));
    if let Some((_, run)) = alone {
        return run(options);
    }
    let started = match options.connect.as_slice() {
        [] => Some(Cluster::start(cluster_options(options)?)?),
        _ => None,
    };
    let target = target(options, started.as_ref());
    let machine = Machine::here(started.as_ref().map(Cluster::dir));
    println!("{machine}");
    let load = load_of(options, started.is_some());
    println!(
        "{} keys of {} bytes, values of {} bytes, {}\n",
        load.keys,
        load.key_size,
        load.value_size,
        match options.rate {
            Some(rate) => format!("open loop at {rate} operations a second"),
            None => "closed loop".to_owned(),
        }
    );
    let workload = workload_of(options);
    let reads = options
        .workload
        .iter()
        .any(|kind| *kind != WorkloadKind::Put);
    if reads && !options.no_load {
        driver::load(&target, &workload, options.keys, LOAD_IN_FLIGHT)?;
    } else if started.is_some() {
        driver::load(
            &target,
            &workload,
            FIRST_KEYS.min(options.keys),
            LOAD_IN_FLIGHT,
        )?;
    }
    if started.is_some() {
        corelith_bench::usage::wait_until_settled(&target.server_pids);
    }
    print!("{}", report::header());
    let mut runs = Vec::new();
    let mut abuses = Vec::new();
    for kind in &options.workload {
        if *kind == WorkloadKind::Abuse {
            let cluster = started.as_ref().ok_or(BenchError::AbuseOfOthers)?;
            print!("{}", abuse::header());
            let step = step(options, 1);
            let tell = |row: &abuse::Row| print!("{}", row.text());
            let rows = abuse::run(cluster, &target, &step, &workload, options.cores, tell)?;
            abuses.extend(rows);
            continue;
        }
        let workload = Arc::new(workload.of_kind(*kind, options.read_percent));
        for in_flight in &options.in_flight {
            let step = step(options, *in_flight);
            let outcome = driver::run(&target, &step, &workload)?;
            let run = RunFigures::new(*kind, *in_flight, !target.server_pids.is_empty(), outcome);
            print!("{}", run.rows());
            runs.push(run);
        }
    }
    let clean = !runs.iter().any(RunFigures::has_errors) && abuses.iter().all(abuse::Row::is_good);
    if let Some(path) = &options.json {
        let report = Report {
            runs,
            abuses,
            ..Report::new(machine, load)
        };
        write_json(path, &report)?;
    }
    Ok(clean)
}

fn workload_of(options: &BenchOptions) -> Workload {
    Workload::new(
        options.keys,
        usize::try_from(options.key_size).unwrap_or(usize::MAX),
        options.value_bytes(),
        options.distribution,
    )
}

/// Runs the workload `failover`. Returns true if every fault cost at most what is allowed.
fn fail_over(options: &BenchOptions) -> Result<bool, BenchError> {
    if options.workload.len() != 1 || !options.connect.is_empty() {
        return Err(BenchError::NotAlone);
    }
    failover::prepare(&options.fault)?;
    let cluster = cluster_options(options)?;
    let machine = Machine::here(cluster.dir.parent());
    println!("{machine}\n");
    let rounds = failover::FaultRounds {
        faults: options.fault.clone(),
        rounds: options.rounds,
        hold: options.hold,
        steady: options.seconds,
        seed: options.seed,
    };
    let failovers = failover::run(cluster, &workload_of(options), &rounds)?;
    let good = failovers.iter().all(failover::FaultSummary::is_good);
    if let Some(path) = &options.json {
        let report = Report {
            failovers,
            ..Report::new(machine, load_of(options, true))
        };
        write_json(path, &report)?;
    }
    Ok(good)
}

/// Runs the workload `idle`. Returns true if no node takes more than it may.
fn stay_idle(options: &BenchOptions) -> Result<bool, BenchError> {
    if options.workload.len() != 1 || !options.connect.is_empty() {
        return Err(BenchError::NotAlone);
    }
    let cluster = ClusterOptions {
        is_frugal: true,
        ..cluster_options(options)?
    };
    let machine = Machine::here(cluster.dir.parent());
    println!("{machine}\n");
    let idle = idle::run(&cluster, options.duration);
    if !options.keep {
        // Each cluster has removed its own directory in it.
        let _ = std::fs::remove_dir(&cluster.dir);
    }
    let idle = idle?;
    let good = idle.iter().all(idle::IdleFigures::is_good);
    if let Some(path) = &options.json {
        let report = Report {
            idle,
            ..Report::new(machine, load_of(options, true))
        };
        write_json(path, &report)?;
    }
    Ok(good)
}

/// Runs the workload `rebuild`. Returns true if the node was whole in time, unnoticed and without repetition.
fn rebuild(options: &BenchOptions) -> Result<bool, BenchError> {
    if options.workload.len() != 1 || !options.connect.is_empty() {
        return Err(BenchError::NotAlone);
    }
    failover::enter_if_allowed()?;
    let cluster = cluster_options(options)?;
    let machine = Machine::here(cluster.dir.parent());
    println!("{machine}\n");
    let load = rebuild_load(options);
    let of = |cluster: &Cluster| target(options, Some(cluster));
    let figures = rebuild::run(cluster, of, &step(options, 1), &load)?;
    print!("\n{}", figures.text());
    let good = figures.is_good();
    if let Some(path) = &options.json {
        let report = Report {
            rebuild: Some(figures),
            ..Report::new(
                machine,
                Load {
                    keys: load.keys,
                    ..load_of(options, true)
                },
            )
        };
        write_json(path, &report)?;
    }
    Ok(good)
}

/// Runs the workload `large`. Returns true if nothing cost more than it may.
fn move_large(options: &BenchOptions) -> Result<bool, BenchError> {
    if options.workload.len() != 1 {
        return Err(BenchError::LargeNotAlone);
    }
    let started = match options.connect.as_slice() {
        [] => Some(Cluster::start(cluster_options(options)?)?),
        _ => None,
    };
    let target = target(options, started.as_ref());
    let machine = Machine::here(started.as_ref().map(Cluster::dir));
    println!("{machine}");
    let load = large::LargeLoad {
        bytes: options.bytes() as u64,
        streams: usize::try_from(options.streams).unwrap_or(1),
        seed: options.seed,
    };
    let beside = Arc::new(workload_of(options).of_kind(WorkloadKind::Put, 0));
    let dir = started.as_ref().map(Cluster::dir);
    let figures = large::run(&target, dir, &load, &step(options, 1), &beside)?;
    print!("\n{}", figures.text());
    let good = figures.is_good();
    if let Some(path) = &options.json {
        let report = Report {
            large: Some(figures),
            ..Report::new(machine, load_of(options, started.is_some()))
        };
        write_json(path, &report)?;
    }
    Ok(good)
}

/// Runs the workload `way`.
fn follow_way(options: &BenchOptions) -> Result<bool, BenchError> {
    if options.workload.len() != 1 || !options.connect.is_empty() {
        return Err(BenchError::NotAlone);
    }
    let cluster = ClusterOptions {
        shards: 1,
        ..cluster_options(options)?
    };
    let machine = Machine::here(cluster.dir.parent());
    println!("{machine}\n");
    let pictures = options.pictures.as_deref();
    let ways = way::run(cluster, &workload_of(options), pictures, options.seed)?;
    if let Some(path) = &options.json {
        let report = Report {
            ways,
            ..Report::new(machine, load_of(options, true))
        };
        write_json(path, &report)?;
    }
    Ok(true)
}

fn rebuild_load(options: &BenchOptions) -> rebuild::RebuildLoad {
    let value_bytes = options.value_bytes().max(1) as u64;
    let keys = (options.bytes() as u64)
        .div_ceil(value_bytes)
        .clamp(1, KEYS_MAX);
    let key_size = usize::try_from(options.key_size).unwrap_or(usize::MAX);
    let of = |keys, key_size, bytes| Workload::new(keys, key_size, bytes, options.distribution);
    rebuild::RebuildLoad {
        bytes: keys * value_bytes,
        data: of(keys, key_size, options.value_bytes()),
        keys,
        // Keys of another length are other keys.
        beside: of(BESIDE_KEYS, key_size + 1, BESIDE_VALUE_BYTES),
        beside_keys: BESIDE_KEYS,
    }
}

fn step(options: &BenchOptions, in_flight: u64) -> RunStep {
    RunStep {
        in_flight: usize::try_from(in_flight).unwrap_or(usize::MAX),
        rate: options.rate,
        warm_up: options.warm_up,
        duration: options.duration,
        seed: options.seed,
    }
}

fn target(options: &BenchOptions, started: Option<&Cluster>) -> RunTarget {
    RunTarget {
        seeds: started.map_or_else(
            || options.connect.clone(),
            |cluster| cluster.seeds().to_vec(),
        ),
        server_pids: started.map_or_else(|| options.server_pids.clone(), Cluster::pids),
        lanes: usize::try_from(options.threads).unwrap_or(1),
        clients_per_lane: usize::try_from(options.clients).unwrap_or(1),
        deadline: options.deadline,
        read_from: options.read_from,
    }
}

fn load_of(options: &BenchOptions, started: bool) -> Load {
    Load {
        keys: options.keys,
        key_size: options.key_size,
        value_size: options.value_bytes(),
        distribution: options.distribution,
        read_percent: options.read_percent,
        read_from: options.read_from,
        rate: options.rate,
        threads: options.threads,
        clients: options.clients,
        cluster: started.then_some(StartedCluster {
            shards: options.shards,
            cores: options.cores,
        }),
    }
}

fn cluster_options(options: &BenchOptions) -> Result<ClusterOptions, BenchError> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(BenchError::NoHome)?
            .with_file_name("corelith"),
    };
    let dir = options.dir.clone().unwrap_or_else(|| {
        Path::new(DATA_ROOT).join(format!("corelith-bench-{}", std::process::id()))
    });
    Ok(ClusterOptions {
        program,
        dir,
        keep: options.keep,
        shards: options.shards,
        cores: options.cores,
        nodes: usize::from(options.nodes),
        replicas: options.replicas,
        is_frugal: false,
        io_backend: options.io_backend.clone(),
        place: Place::Loopback,
    })
}

fn write_json(path: &PathBuf, report: &Report) -> Result<(), BenchError> {
    let failed = |source| BenchError::Json {
        path: path.clone(),
        source,
    };
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(error.into()))?;
    std::fs::write(path, text + "\n").map_err(failed)
}
