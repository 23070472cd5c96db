//! Many keys in little memory: a shard of ours is filled by one process, which is killed while it writes; a
//! second one opens what is left, and gets keys that are not there.

use crate::cores::Cores;
use crate::data::{Choice, Values, live_bytes};
use crate::directory::{allocated_bytes, drop_page_cache};
use crate::error::{BenchError, Result};
use crate::options::Options;
use crate::plan::{Data, Engine, Job, Plan, Span, Tuning};
use crate::recorder::{Op, Window};
use crate::subject::{Role, Step, Subject};
use corelith_bench::usage::Usage;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The hidden argument that makes a child of this program.
pub(crate) const CHILD_ARGUMENT: &str = "scale-one";

const VALUE_BYTES: usize = 100;
/// Gets in flight.
const GETS_AT_ONCE: usize = 64;
const SIGKILL: i32 = 9;
/// A step that ends by its count never gets here.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// What a child does.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    what: What,
    plan: Plan,
    gets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    /// Fills the shard, reports, and goes on writing until it kills itself.
    Fill,
    /// Opens what was left and reads.
    Read,
}

/// What the first process reports: at the end of the filling, and again just before it is killed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Filled {
    put_seconds: f64,
    settle_seconds: f64,
    write_amplification: f64,
    cpu_us_per_put: f64,
    directory_bytes: u64,
    settled_resident_bytes: u64,
    peak_resident_bytes: u64,
}

/// What the second process reports.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Read {
    /// From the start of the process.
    open_seconds: f64,
    first_get_seconds: f64,
    replayed_entries: u64,
    gets: u64,
    gets_seconds: f64,
    /// Blocks that the gets read from the device.
    blocks_read: u64,
    false_positives: u64,
    /// As the kernel counts it, whoever of the process read.
    bytes_read: u64,
    cache_bytes: u64,
    resident_bytes: u64,
    peak_resident_bytes: u64,
}

/// Everything about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scale {
    keys: u64,
    value_bytes: usize,
    tuning: Tuning,
    memory_budget_bytes: u64,
    filled: Filled,
    read: Read,
}

impl Scale {
    /// Whether both processes kept to the budget.
    pub(crate) fn check(&self) -> Result<()> {
        let (peak, budget) = (self.peak(), self.memory_budget_bytes);
        match peak <= budget {
            true => Ok(()),
            false => Err(BenchError::Memory { peak, budget }),
        }
    }

    fn peak(&self) -> u64 {
        let peaks = [
            self.filled.peak_resident_bytes,
            self.read.peak_resident_bytes,
        ];
        peaks.into_iter().max().unwrap_or(0)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filled, read, .. } = self;
        let mib = |bytes: u64| bytes >> 20;
        writeln!(
            f,
            "scale: {} keys, values of {} B, cache {} MiB, memtable {} MiB",
            self.keys,
            self.value_bytes,
            self.tuning.cache_bytes >> 20,
            self.tuning.memtable_bytes >> 20,
        )?;
        let keys = self.keys as f64;
        writeln!(
            f,
            "    fill   {:.0} puts/s, {:.0} with the {:.1} s to settle; {:.2} us CPU each; write \
             amplification {:.2}; {} MiB on disk",
            keys / filled.put_seconds,
            keys / (filled.put_seconds + filled.settle_seconds),
            filled.settle_seconds,
            filled.cpu_us_per_put,
            filled.write_amplification,
            mib(filled.directory_bytes),
        )?;
        writeln!(
            f,
            "    memory {} MiB at most of {} MiB while filling and overwriting, {} MiB when settled; \
             {} MiB at most while opening and reading, {} MiB at the end, {} MiB of it in the cache",
            mib(filled.peak_resident_bytes),
            mib(self.memory_budget_bytes),
            mib(filled.settled_resident_bytes),
            mib(read.peak_resident_bytes),
            mib(read.resident_bytes),
            mib(read.cache_bytes),
        )?;
        writeln!(
            f,
            "    open   after a kill: {:.0} ms until it is open, {} entries replayed; {:.0} ms until \
             the first answer",
            read.open_seconds * 1e3,
            read.replayed_entries,
            read.first_get_seconds * 1e3,
        )?;
        let gets = read.gets.max(1) as f64;
        writeln!(
            f,
            "    absent {:.0} gets/s; {:.3} blocks read per 100 gets, {:.3} false positives; {:.1} B \
             read per get",
            gets / read.gets_seconds,
            read.blocks_read as f64 * 100.0 / gets,
            read.false_positives as f64 * 100.0 / gets,
            read.bytes_read as f64 / gets,
        )
    }
}

/// Runs both processes in the new directory `dir`, prints the figures and removes it.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Result<Scale> {
    let tuning = Tuning {
        cache_bytes: options.scale_cache,
        memtable_bytes: options.scale_memtable,
        separate_bytes: options.separate,
    };
    let data = Data::uniform(options.scale_keys, VALUE_BYTES);
    let plan = Plan {
        engine: Engine::Ours,
        dir: dir.to_path_buf(),
        cores: 1,
        tuning,
        seed: options.seed,
        job: Job::Mixed {
            data,
            outstanding: GETS_AT_ONCE,
            puts_per_second: None,
            durable: false,
            span: Span {
                warm_up: options.warm_up,
                measure: options.duration,
            },
        },
    };
    let start = |what| {
        let gets = options.scale_gets;
        let plan = plan.clone();
        start(program, &Part { what, plan, gets })
    };
    eprintln!("scale: writing {} keys", data.keys);
    let (status, said) = start(What::Fill)?;
    if status.signal() != Some(SIGKILL) {
        return Err(BenchError::NotKilled(status));
    }
    let filled = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    eprintln!("scale: opening what is left");
    if !drop_page_cache() {
        eprintln!("the page cache stays as it is: only root may empty it");
    }
    let (status, said) = start(What::Read)?;
    if !status.success() {
        let engine = Engine::Ours.name();
        return Err(BenchError::Child { engine, status });
    }
    let scale = Scale {
        keys: data.keys,
        value_bytes: data.value_bytes,
        tuning,
        memory_budget_bytes: options.scale_memory as u64,
        filled,
        read: serde_json::from_str(&said)?,
    };
    print!("{scale}");
    std::fs::remove_dir_all(dir).map_err(BenchError::file(dir))?;
    Ok(scale)
}

/// Runs a child to its end; returns how it ended, and what it said.
fn start(program: &Path, part: &Part) -> Result<(ExitStatus, String)> {
    let output = Command::new(program)
        .arg(CHILD_ARGUMENT)
        .arg(serde_json::to_string(part)?)
        .stderr(Stdio::inherit())
        .output()
        .map_err(BenchError::file(program))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status, said))
}

/// Does what a child does.
pub(crate) fn child(part: &str) -> Result<()> {
    let start = Instant::now();
    let part: Part = serde_json::from_str(part)?;
    std::fs::create_dir_all(&part.plan.dir).map_err(BenchError::file(&part.plan.dir))?;
    let child = Child {
        cores: Cores::open(&part.plan)?,
        data: part.plan.job.data(),
        values: Values::new(part.plan.seed, VALUE_BYTES),
        part,
    };
    match child.part.what {
        What::Fill => child.fill(),
        What::Read => child.read(start),
    }
}

struct Child {
    part: Part,
    cores: Cores,
    data: Data,
    values: Values,
}

impl Child {
    /// Runs operations until there were so many, or for so long.
    fn step(&self, op: Op, choice: Choice, count: Option<u64>, time: Duration) -> Result<()> {
        let start = Instant::now();
        let role = Role {
            op,
            choice,
            lanes: GETS_AT_ONCE,
            rate: None,
            count,
            durable: false,
        };
        let recorder = self.cores.run(&Step {
            roles: vec![role],
            data: self.data,
            values: self.values.clone(),
            window: Window {
                start,
                end: start + time,
            },
            keep_samples: false,
            // The keys of a measurement are not those of the warm-up.
            seed: self.part.plan.seed ^ count.unwrap_or(0),
        })?;
        match recorder.wrong {
            0 => Ok(()),
            count => Err(BenchError::Wrong { count }),
        }
    }

    fn fill(&self) -> Result<()> {
        let (before, start) = (Usage::of_self(), Instant::now());
        let keys = self.data.keys;
        self.step(Op::Put, Choice::Fresh, Some(keys), FOR_EVER)?;
        let put_seconds = start.elapsed().as_secs_f64();
        self.cores.settle()?;
        let used = Usage::of_self().since(&before);
        let mut filled = Filled {
            put_seconds,
            settle_seconds: start.elapsed().as_secs_f64() - put_seconds,
            write_amplification: used.written_bytes as f64 / live_bytes(&self.data, keys) as f64,
            cpu_us_per_put: used.cpu_seconds * 1e6 / keys as f64,
            directory_bytes: allocated_bytes(&self.part.plan.dir),
            settled_resident_bytes: used.resident_bytes,
            peak_resident_bytes: 0,
        };
        let Job::Mixed { span, .. } = self.part.plan.job else {
            return Err(BenchError::Ended);
        };
        // What it writes when it is killed is replaced at random places.
        std::thread::scope(|scope| {
            scope.spawn(|| self.step(Op::Put, Choice::Uniform, None, FOR_EVER));
            std::thread::sleep(span.measure);
            filled.peak_resident_bytes = Usage::of_self().peak_resident_bytes;
            report(&filled)?;
            let killed = Command::new("kill")
                .args(["-9", &std::process::id().to_string()])
                .status();
            killed.map_err(BenchError::file("kill"))?;
            std::thread::sleep(FOR_EVER);
            Ok(())
        })
    }

    fn read(&self, start: Instant) -> Result<()> {
        let open_seconds = start.elapsed().as_secs_f64();
        self.step(Op::Get, Choice::Uniform, Some(1), FOR_EVER)?;
        let first_get_seconds = start.elapsed().as_secs_f64();
        // What the replay left to flush and to compact reads as well.
        self.cores.settle()?;
        let gets = self.part.gets;
        self.step(Op::Get, Choice::Absent, Some(gets), FOR_EVER)?;
        let (before, earlier) = (self.cores.statistics()?, Usage::of_self());
        let began = Instant::now();
        // One more, so that the keys are others.
        self.step(Op::Get, Choice::Absent, Some(gets + 1), FOR_EVER)?;
        let gets_seconds = began.elapsed().as_secs_f64();
        let (after, used) = (self.cores.statistics()?, Usage::of_self());
        report(&Read {
            open_seconds,
            first_get_seconds,
            replayed_entries: after.replayed,
            gets: gets + 1,
            gets_seconds,
            blocks_read: after.cache_misses - before.cache_misses,
            false_positives: after.false_positives - before.false_positives,
            bytes_read: used.since(&earlier).read_bytes,
            cache_bytes: after.cache_bytes,
            resident_bytes: used.resident_bytes,
            peak_resident_bytes: used.peak_resident_bytes,
        })
        // The process ends as it is: a close would be measured by nobody.
    }
}

fn report(what: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)
        .and_then(|()| out.flush())
        .map_err(BenchError::file("the standard output"))
}
