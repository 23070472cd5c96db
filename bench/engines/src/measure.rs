//! What a child does: opens an engine, runs a job on it, reports.

use crate::cores::Cores;
use crate::data::{Choice, Values, live_bytes};
use crate::device::{DeviceProbe, Reading};
use crate::directory::allocated_bytes;
use crate::error::{BenchError, Result};
use crate::fjalls::Fjall;
use crate::metrics::{Metric as M, Metrics, Outcome, add_latencies, add_timeline};
use crate::plan::{Data, Engine, Job, Plan, Span};
use crate::recorder::{Op, Recorder, Window};
use crate::rocks::Rocks;
use crate::subject::{Role, Step, Subject};
use crate::threads::Threads;
use crate::timeline::{Poll, Timeline};
use corelith_bench::usage::Usage;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the engine is asked what it does in the background, and its directory is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Every so many polls the directory is walked.
const WALK_EVERY: usize = 10;
/// A job that ends by its count never gets here.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
/// Threads of the other engines that serve an open loop; tasks of ours need no number.
const PACED_LANES: usize = 64;

/// Runs a plan.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    std::fs::create_dir_all(&plan.dir).map_err(BenchError::file(&plan.dir))?;
    let subject: Box<dyn Subject> = match plan.engine {
        Engine::Ours => Box::new(Cores::open(plan)?),
        Engine::Rocksdb => Box::new(Threads {
            store: Rocks::open(plan)?,
        }),
        Engine::Fjall => Box::new(Threads {
            store: Fjall::open(plan)?,
        }),
    };
    let bench = Bench {
        subject: subject.as_ref(),
        plan,
        data: plan.job.data(),
        values: Values::new(plan.seed, plan.job.data().value_bytes_max()),
    };
    let mut outcome = bench.run()?;
    let peak = Usage::of_self().peak_resident_bytes;
    outcome.metrics.insert(M::PeakResidentMib, mib(peak));
    subject.close()?;
    Ok(outcome)
}

/// A job on an open engine.
struct Bench<'a> {
    subject: &'a dyn Subject,
    plan: &'a Plan,
    data: Data,
    values: Values,
}

/// What was seen while a step ran.
struct Watched {
    /// What the process used, from the start of the window to its end or the end of the work.
    used: Usage,
    seconds: f64,
    polls: Vec<Poll>,
    directory_bytes_max: u64,
}

/// What a step gave.
struct Measured {
    recorder: Recorder,
    watched: Watched,
}

impl Bench<'_> {
    fn run(&self) -> Result<Outcome> {
        match self.plan.job {
            Job::Fill { data, writers } => {
                self.counted(put_role(Choice::Fresh, writers, Some(data.keys)))
            }
            Job::Overwrite {
                data,
                overwrites,
                writers,
            } => {
                self.load(data.keys, writers)?;
                self.counted(put_role(Choice::Uniform, writers, Some(overwrites)))
            }
            Job::Put {
                outstanding, span, ..
            } => {
                let role = Role {
                    durable: true,
                    ..put_role(Choice::Fresh, outstanding, None)
                };
                let measured = self.timed(vec![role], span)?;
                let mut metrics = self.figures(&measured);
                self.add_space(&mut metrics, measured.recorder.puts.bytes_ever);
                Ok(metrics.into())
            }
            Job::Get {
                outstanding,
                absent,
                span,
                ..
            } => {
                let choice = match absent {
                    true => Choice::Absent,
                    false => Choice::Uniform,
                };
                let measured = self.timed(vec![get_role(choice, outstanding)], span)?;
                Ok(self.figures(&measured).into())
            }
            Job::Mixed {
                outstanding,
                puts_per_second,
                durable,
                span,
                ..
            } => {
                let waits = puts_per_second.is_some() || durable;
                let puts = Role {
                    rate: puts_per_second,
                    durable,
                    ..put_role(Choice::Uniform, if waits { PACED_LANES } else { 1 }, None)
                };
                let roles = vec![get_role(Choice::Uniform, outstanding), puts];
                Ok(self.figures(&self.timed(roles, span)?).into())
            }
            Job::Timeline {
                data,
                puts_per_second,
                gets_per_second,
                durable,
                writers,
                span,
            } => {
                self.load(data.keys, writers)?;
                let puts = Role {
                    rate: Some(puts_per_second),
                    durable,
                    ..put_role(Choice::Uniform, PACED_LANES, None)
                };
                let gets = Role {
                    rate: Some(gets_per_second),
                    ..get_role(Choice::Uniform, PACED_LANES)
                };
                self.timeline(vec![gets, puts], span)
            }
        }
    }

    /// Writes all keys, and waits until the engine has settled.
    fn load(&self, keys: u64, writers: usize) -> Result<()> {
        let now = Instant::now();
        let role = put_role(Choice::Fresh, writers, Some(keys));
        self.subject
            .run(&self.step(vec![role], now, now + FOR_EVER, false))?;
        self.subject.settle()
    }

    fn step(&self, roles: Vec<Role>, start: Instant, end: Instant, keep_samples: bool) -> Step {
        Step {
            roles,
            data: self.data,
            values: self.values.clone(),
            window: Window { start, end },
            keep_samples,
            seed: self.plan.seed,
        }
    }

    /// Runs a role that ends by its count, then settles; both are measured.
    fn counted(&self, role: Role) -> Result<Outcome> {
        let start = Instant::now();
        let step = self.step(vec![role], start, start + FOR_EVER, false);
        let mut put_seconds = 0.0;
        let measured = self.watched(&step, || {
            let recorder = self.subject.run(&step)?;
            put_seconds = start.elapsed().as_secs_f64();
            self.subject.settle()?;
            Ok(recorder)
        })?;
        let mut metrics = self.figures(&measured);
        let puts = measured.recorder.puts.count as f64;
        metrics.insert(M::PutPhaseOpsPerSecond, puts / put_seconds);
        metrics.insert(M::SettleSeconds, measured.watched.seconds - put_seconds);
        let live = live_bytes(&self.data, self.data.keys);
        self.add_space(&mut metrics, live);
        let most = measured.watched.directory_bytes_max as f64;
        metrics.insert(M::SpaceAmplificationMax, most / live as f64);
        Ok(metrics.into())
    }

    /// Runs roles for a time.
    fn timed(&self, roles: Vec<Role>, span: Span) -> Result<Measured> {
        let start = Instant::now() + span.warm_up;
        let step = self.step(roles, start, start + span.measure, false);
        self.watched(&step, || self.subject.run(&step))
    }

    fn timeline(&self, roles: Vec<Role>, span: Span) -> Result<Outcome> {
        let probe = DeviceProbe::beside(&self.plan.dir, self.plan.seed)?;
        let start = Instant::now() + span.warm_up;
        let step = self.step(roles, start, start + span.measure, true);
        let (mut measured, readings) = self.probed(&step, probe)?;
        let mut metrics = self.figures(&measured);
        self.add_space(&mut metrics, live_bytes(&self.data, self.data.keys));
        let samples = measured.recorder.samples.take().unwrap_or_default();
        let polls = &measured.watched.polls;
        let timeline = Timeline::new(&samples, polls, &readings, span.measure);
        add_timeline(&mut metrics, &timeline);
        Ok(Outcome {
            metrics,
            timeline: Some(timeline),
        })
    }

    /// Runs a step while another thread probes the device.
    fn probed(&self, step: &Step, probe: DeviceProbe) -> Result<(Measured, Vec<Reading>)> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let probing = scope.spawn(|| probe.run(step.window, &done));
            let measured = self.watched(step, || self.subject.run(step));
            done.store(true, Ordering::Release);
            let readings = probing.join().map_err(|_| BenchError::Ended)?;
            Ok((measured?, readings?))
        })
    }

    /// Does `work` while another thread looks at the process, the engine and its directory.
    fn watched(&self, step: &Step, work: impl FnOnce() -> Result<Recorder>) -> Result<Measured> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(step.window, &done));
            let result = work();
            done.store(true, Ordering::Release);
            watch.thread().unpark();
            let watched = watch.join().map_err(|_| BenchError::Ended)??;
            let recorder = result?;
            match recorder.wrong {
                0 => Ok(Measured { recorder, watched }),
                count => Err(BenchError::Wrong { count }),
            }
        })
    }

    fn watch(&self, window: Window, done: &AtomicBool) -> Result<Watched> {
        let is_done = || done.load(Ordering::Acquire);
        while Instant::now() < window.start && !is_done() {
            std::thread::park_timeout(window.start.saturating_duration_since(Instant::now()));
        }
        let earlier = Usage::of_self();
        let start = Instant::now();
        let mut polls = Vec::new();
        let mut directory_bytes_max = 0;
        while !is_done() && Instant::now() < window.end {
            if polls.len().is_multiple_of(WALK_EVERY) {
                let bytes = allocated_bytes(&self.plan.dir);
                directory_bytes_max = bytes.max(directory_bytes_max);
            }
            polls.push((start.elapsed(), self.subject.statistics()?));
            let left = window.end.saturating_duration_since(Instant::now());
            std::thread::park_timeout(left.min(POLL));
        }
        let used = Usage::of_self().since(&earlier);
        let seconds = start.elapsed().as_secs_f64();
        polls.push((start.elapsed(), self.subject.statistics()?));
        Ok(Watched {
            used,
            seconds,
            polls,
            directory_bytes_max: allocated_bytes(&self.plan.dir).max(directory_bytes_max),
        })
    }

    /// The figures that every step has.
    fn figures(&self, measured: &Measured) -> Metrics {
        let Measured { recorder, watched } = measured;
        let (puts, gets) = (&recorder.puts, &recorder.gets);
        let ops = (puts.count + gets.count) as f64;
        let seconds = watched.seconds;
        let mut metrics = Metrics::from([
            (M::Seconds, seconds),
            (M::OpsPerSecond, ops / seconds),
            (M::PutsPerSecond, puts.count as f64 / seconds),
            (M::GetsPerSecond, gets.count as f64 / seconds),
            (M::MibPerSecond, mib(puts.bytes + gets.bytes) / seconds),
            (M::CpuUsPerOp, watched.used.cpu_seconds * 1e6 / ops.max(1.0)),
            (M::WrittenMib, mib(watched.used.written_bytes)),
            (M::NotStarted, recorder.not_started as f64),
        ]);
        if puts.bytes > 0 {
            let written = watched.used.written_bytes as f64;
            metrics.insert(M::WriteAmplification, written / puts.bytes as f64);
        }
        add_latencies(&mut metrics, &puts.latencies, &gets.latencies);
        if let (Some((_, before)), Some((_, after))) = (watched.polls.first(), watched.polls.last())
        {
            metrics.insert(M::Flushes, (after.flushes - before.flushes) as f64);
            metrics.insert(
                M::Compactions,
                (after.compactions - before.compactions) as f64,
            );
            metrics.insert(
                M::Collections,
                (after.collections - before.collections) as f64,
            );
            if let (Some(before), Some(after)) = (before.written_bytes, after.written_bytes) {
                metrics.insert(M::EngineWrittenMib, mib(after - before));
            }
        }
        metrics
    }

    fn add_space(&self, metrics: &mut Metrics, live_bytes: u64) {
        let directory = allocated_bytes(&self.plan.dir);
        metrics.insert(M::DirectoryMib, mib(directory));
        metrics.insert(M::LiveMib, mib(live_bytes));
        metrics.insert(
            M::SpaceAmplification,
            directory as f64 / live_bytes.max(1) as f64,
        );
    }
}

fn put_role(choice: Choice, lanes: usize, count: Option<u64>) -> Role {
    Role {
        op: Op::Put,
        choice,
        lanes,
        rate: None,
        count,
        durable: false,
    }
}

fn get_role(choice: Choice, lanes: usize) -> Role {
    Role {
        op: Op::Get,
        choice,
        lanes,
        rate: None,
        count: None,
        durable: false,
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
