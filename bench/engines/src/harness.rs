//! Runs the cases: each round of each engine as a child of this program.

use crate::cases::{self, Case, Directory};
use crate::directory::{copy, drop_page_cache};
use crate::error::{BenchError, Result};
use crate::metrics::{Metrics, Outcome, medians};
use crate::options::{Options, Workload};
use crate::picture;
use crate::plan::{Data, Engine, Job, Plan};
use crate::scale::{self, Scale};
use crate::table;
use crate::timeline::Timeline;
use corelith_bench::usage::Machine;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The hidden argument that makes a child of this program.
pub(crate) const CHILD_ARGUMENT: &str = "measure-one";

/// Everything about a call of the harness.
#[derive(Serialize)]
struct Report<'a> {
    machine: &'a Machine,
    version: &'static str,
    cores: u8,
    cache_bytes: usize,
    memtable_bytes: usize,
    rounds: u32,
    smoke: bool,
    cases: &'a [CaseReport],
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<Scale>,
}

/// The figures of a case.
#[derive(Serialize)]
struct CaseReport {
    workload: Workload,
    title: String,
    job: Job,
    engines: Vec<EngineReport>,
}

#[derive(Serialize)]
struct EngineReport {
    engine: Engine,
    medians: Metrics,
    rounds: Vec<Metrics>,
}

/// The directory of this call; it goes when the call ends.
struct Root {
    path: PathBuf,
}

impl Drop for Root {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

struct Harness<'a> {
    options: &'a Options,
    program: PathBuf,
    root: Root,
    /// Data that was loaded for an engine, and where.
    loaded: Vec<(Engine, Data, PathBuf)>,
    /// Number of the last directory.
    directories: u32,
}

/// Runs everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let program = std::env::current_exe().map_err(BenchError::file("this program"))?;
    let base = match &options.dir {
        Some(dir) => dir.clone(),
        None => program.parent().unwrap_or(Path::new(".")).to_path_buf(),
    };
    let path = base.join(format!("engine-bench-{}", std::process::id()));
    std::fs::create_dir_all(&path).map_err(BenchError::file(&path))?;
    let machine = Machine::here(path.canonicalize().ok().as_deref());
    println!("{machine}");
    let mut harness = Harness {
        options,
        program,
        root: Root { path },
        loaded: Vec::new(),
        directories: 0,
    };
    let mut reports = Vec::new();
    let mut scale = None;
    for workload in &options.workload {
        if *workload == Workload::Scale {
            let dir = harness.new_dir();
            scale = Some(scale::run(options, &harness.program, &dir)?);
        }
        for case in cases::of(*workload, options) {
            reports.push(harness.case(*workload, case)?);
        }
    }
    let within_budget = scale.as_ref().map_or(Ok(()), Scale::check);
    let Some(path) = &options.json else {
        return within_budget;
    };
    let report = Report {
        machine: &machine,
        version: env!("CARGO_PKG_VERSION"),
        cores: options.cores,
        cache_bytes: options.cache,
        memtable_bytes: options.memtable,
        rounds: options.rounds,
        smoke: options.smoke,
        cases: &reports,
        scale,
    };
    let text = serde_json::to_string_pretty(&report)?;
    std::fs::write(path, text + "\n").map_err(BenchError::file(path))?;
    within_budget
}

impl Harness<'_> {
    fn case(&mut self, workload: Workload, case: Case) -> Result<CaseReport> {
        let engines = &self.options.engines;
        let mut outcomes: Vec<Vec<Outcome>> = engines.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.options.rounds {
            for (engine, outcomes) in engines.iter().zip(&mut outcomes) {
                eprintln!("{}, round {round}: {}", case.title, engine.name());
                outcomes.push(self.measure(*engine, &case)?);
            }
        }
        let engines: Vec<EngineReport> = engines
            .iter()
            .zip(&outcomes)
            .map(|(engine, outcomes)| EngineReport {
                engine: *engine,
                medians: medians(outcomes.iter().map(|outcome| &outcome.metrics)),
                rounds: outcomes.iter().map(|o| o.metrics.clone()).collect(),
            })
            .collect();
        let rows: Vec<_> = engines
            .iter()
            .map(|report| (report.engine, report.medians.clone()))
            .collect();
        print!("{}", table::rows(workload, &case.title, &rows));
        let timelines: Vec<(Engine, &Timeline)> = engines
            .iter()
            .zip(&outcomes)
            .filter_map(|(report, outcomes)| {
                // Pictures cannot be averaged: the last round is as good as any.
                Some((report.engine, outcomes.last()?.timeline.as_ref()?))
            })
            .collect();
        self.write_timelines(&case.title, &timelines)?;
        Ok(CaseReport {
            workload,
            title: case.title,
            job: case.job,
            engines,
        })
    }

    fn measure(&mut self, engine: Engine, case: &Case) -> Result<Outcome> {
        let (dir, keep) = match case.directory {
            Directory::Empty => (self.new_dir(), false),
            Directory::Loaded(data) => (self.load(engine, data)?, true),
            Directory::Copied(data) => {
                let loaded = self.load(engine, data)?;
                let dir = self.new_dir();
                copy(&loaded, &dir)?;
                (dir, false)
            }
        };
        let outcome = self.child(engine, &dir, &case.job);
        if !keep {
            remove(&dir);
        }
        outcome
    }

    /// The directory in which the engine has this data.
    fn load(&mut self, engine: Engine, data: Data) -> Result<PathBuf> {
        let loaded = self.loaded.iter();
        let found = loaded
            .filter(|(whose, what, _)| (*whose, *what) == (engine, data))
            .map(|(_, _, dir)| dir.clone())
            .next();
        if let Some(dir) = found {
            return Ok(dir);
        }
        eprintln!("loading {} keys: {}", data.keys, engine.name());
        let dir = self.new_dir();
        let writers = self.options.writers;
        self.child(engine, &dir, &Job::Fill { data, writers })?;
        self.loaded.push((engine, data, dir.clone()));
        Ok(dir)
    }

    fn new_dir(&mut self) -> PathBuf {
        self.directories += 1;
        self.root.path.join(self.directories.to_string())
    }

    /// Has a child of this program do a job, with nothing in the page cache at its start.
    fn child(&self, engine: Engine, dir: &Path, job: &Job) -> Result<Outcome> {
        if !drop_page_cache() {
            eprintln!("the page cache stays as it is: only root may empty it");
        }
        let plan = Plan {
            engine,
            dir: dir.to_path_buf(),
            cores: usize::from(self.options.cores),
            tuning: self.options.tuning(),
            seed: self.options.seed,
            job: job.clone(),
        };
        let output = Command::new(&self.program)
            .arg(CHILD_ARGUMENT)
            .arg(serde_json::to_string(&plan)?)
            .stderr(Stdio::inherit())
            .output()
            .map_err(BenchError::file(&self.program))?;
        if !output.status.success() {
            return Err(BenchError::Child {
                engine: engine.name(),
                status: output.status,
            });
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn write_timelines(&self, title: &str, timelines: &[(Engine, &Timeline)]) -> Result<()> {
        let all: Vec<_> = timelines.iter().map(|(_, timeline)| *timeline).collect();
        let range = picture::range(&all);
        for (engine, timeline) in timelines {
            let title = format!("{}, {title}", engine.display_name());
            let dir = &self.options.timeline_dir;
            std::fs::create_dir_all(dir).map_err(BenchError::file(dir))?;
            let file = dir.join(format!("timeline-{}.svg", engine.name()));
            std::fs::write(&file, picture::svg(&title, timeline, range))
                .map_err(BenchError::file(&file))?;
            println!("    {}", file.display());
            let file = file.with_extension("json");
            let text = serde_json::to_string(timeline)?;
            std::fs::write(&file, text + "\n").map_err(BenchError::file(&file))?;
        }
        Ok(())
    }
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("{} stays: {error}", dir.display());
    }
}
