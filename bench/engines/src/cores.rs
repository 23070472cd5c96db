//! Drives our engine: a shard on each core, and on the same core the tasks that load it.
//!
//! Keys are split over the cores as a client's hash would split them; the load of a core touches its own
//! shard only.

use crate::data::{KEY_BYTES, Part, Picker, key, value_bytes};
use crate::error::{BenchError, Result};
use crate::ours::{Opened, Ours};
use crate::pacer;
use crate::plan::Plan;
use crate::recorder::{Op, Recorder};
use crate::subject::{DUE_MAX, Role, Statistics, Step, Subject};
use corelith_bench::arrivals::Arrivals;
use corelith_bench::random::{Random, scramble};
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{CoreConfig, CoreHandle, JoinHandle, Receiver, Sender};
use corelith_io::{spawn, spawn_urgent, yield_if_needed, yield_now};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// Puts that nobody awaits one by one are bounded by their bytes, in units of this size.
const WINDOW_UNIT_BYTES: usize = 4096;
/// Units in flight: 8 MiB of large values, or this many small ones.
const WINDOW_UNITS: usize = 2048;
/// Puts of a turn: some 50 µs of work.
const TURN_PUTS: u64 = 32;
/// Gets of an open loop in flight at once.
const PACED_GETS_MAX: usize = 4096;

/// Open shards on their cores.
pub(crate) struct Cores {
    cores: Vec<Core>,
}

struct Core {
    commands: Sender<Command>,
    handle: CoreHandle,
}

type Answer<T> = Sender<Result<T>>;

enum Command {
    Run(Box<CoreStep>, Answer<Recorder>),
    Settle(Answer<()>),
    Statistics(Answer<Statistics>),
    Close(Answer<()>),
}

/// What a core does of a step.
struct CoreStep {
    step: Step,
    part: Part,
    /// For each role its lanes here, and where its operations become due.
    shares: Vec<(usize, Option<Receiver<Instant>>)>,
}

impl Cores {
    /// Opens the shards of a plan.
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let cores = (0..plan.cores.max(1))
            .map(|number| Core::start(plan, u32::try_from(number).unwrap_or(u32::MAX)))
            .collect::<Result<_>>()?;
        Ok(Self { cores })
    }

    /// Sends each core a command and waits for all answers.
    fn ask<T>(&self, command: impl Fn(usize, Answer<T>) -> Command) -> Result<Vec<T>> {
        let answers: Vec<Receiver<Result<T>>> = self
            .cores
            .iter()
            .enumerate()
            .map(|(number, core)| {
                let (sender, receiver) = corelith_io::channel(1);
                core.commands
                    .send_blocking(command(number, sender))
                    .map_err(|_| BenchError::Ended)?;
                Ok(receiver)
            })
            .collect::<Result<_>>()?;
        answers
            .into_iter()
            .map(|answer| answer.recv_blocking().unwrap_or(Err(BenchError::Ended)))
            .collect()
    }
}

impl Core {
    fn start(plan: &Plan, number: u32) -> Result<Self> {
        let dir = plan.dir.join(format!("shard-{number}"));
        let mut tuning = plan.tuning;
        tuning.cache_bytes /= plan.cores.max(1);
        let (commands, receiver) = corelith_io::channel(4);
        let (opened, is_open) = corelith_io::channel(1);
        let handle = CoreConfig::new(format!("core-{number}")).start(move || async move {
            match Opened::open(&dir, number, tuning).await {
                Ok(shard) => {
                    let _ = opened.send(Ok(())).await;
                    obey(shard, receiver).await;
                }
                Err(error) => {
                    let _ = opened.send(Err(error)).await;
                }
            }
        })?;
        is_open.recv_blocking().unwrap_or(Err(BenchError::Ended))?;
        Ok(Self { commands, handle })
    }
}

impl Subject for Cores {
    fn run(&self, step: &Step) -> Result<Recorder> {
        let parts = self.cores.len();
        std::thread::scope(|scope| {
            let recorders = self.ask(|number, answer| {
                let part = Part {
                    parts: parts as u64,
                    rest: number as u64,
                };
                let shares = step.roles.iter().enumerate().map(|(nth, role)| {
                    let due = role.rate.map(|rate| {
                        let (sender, receiver) = corelith_io::channel(DUE_MAX);
                        let seed = scramble(step.seed ^ nth as u64 ^ (number as u64) << 32);
                        let rate = rate / parts as f64;
                        let arrivals = Arrivals::new(rate, Instant::now(), Random::new(seed));
                        let end = step.window.end;
                        scope.spawn(move || pacer::run(arrivals, end, &sender));
                        receiver
                    });
                    (share(role.lanes, parts, number), due)
                });
                let here = CoreStep {
                    step: step.clone(),
                    part,
                    shares: shares.collect(),
                };
                Command::Run(Box::new(here), answer)
            })?;
            let mut sum = step.recorder();
            for recorder in recorders {
                sum.merge(recorder);
            }
            Ok(sum)
        })
    }

    fn settle(&self) -> Result<()> {
        self.ask(|_, answer| Command::Settle(answer)).map(drop)
    }

    fn statistics(&self) -> Result<Statistics> {
        let all = self.ask(|_, answer| Command::Statistics(answer))?;
        Ok(all.into_iter().fold(Statistics::default(), Statistics::and))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.ask(|_, answer| Command::Close(answer))?;
        for core in self.cores {
            core.handle.join()?;
        }
        Ok(())
    }
}

/// The share of `whole` of one of `parts`.
fn share(whole: usize, parts: usize, number: usize) -> usize {
    (whole + parts - 1 - number) / parts
}

/// The main task of a core.
async fn obey(shard: Opened, commands: Receiver<Command>) {
    while let Ok(command) = commands.recv().await {
        // Who asked is gone only if the process ends.
        match command {
            Command::Run(step, answer) => {
                let ours = shard.ours.clone();
                spawn(async move {
                    let _ = answer.send(run(ours, *step).await).await;
                });
            }
            Command::Settle(answer) => {
                let ours = shard.ours.clone();
                spawn(async move {
                    let _ = answer.send(ours.settle().await).await;
                });
            }
            Command::Statistics(answer) => {
                let _ = answer.send(Ok(shard.ours.statistics())).await;
            }
            Command::Close(answer) => {
                let _ = answer.send(shard.close().await).await;
                return;
            }
        }
    }
}

/// What a task needs.
struct Lane {
    ours: Ours,
    step: Rc<Step>,
    role: Role,
    picker: Picker,
    recorder: Rc<RefCell<Recorder>>,
    window: Rc<Semaphore>,
}

async fn run(ours: Ours, here: CoreStep) -> Result<Recorder> {
    let recorder = Rc::new(RefCell::new(here.step.recorder()));
    let step = Rc::new(here.step);
    let mut tasks: Vec<JoinHandle<Result<()>>> = Vec::new();
    for (nth, (role, (lanes, due))) in step.roles.iter().zip(here.shares).enumerate() {
        // Without waiting for each, one task keeps any number in flight.
        let single = due.is_some() || (role.op == Op::Put && !role.durable);
        let lanes = if single { 1 } else { lanes };
        for picker in step.pickers(nth, role, lanes, here.part) {
            let lane = Lane {
                ours: ours.clone(),
                step: Rc::clone(&step),
                role: *role,
                picker,
                recorder: Rc::clone(&recorder),
                window: Rc::new(Semaphore::new(match role.op {
                    Op::Put => WINDOW_UNITS,
                    Op::Get => PACED_GETS_MAX,
                })),
            };
            tasks.push(match due.clone() {
                Some(due) => spawn(lane.run_paced(due)),
                None if single => spawn(lane.run_staged()),
                None if role.op == Op::Get => spawn_urgent(lane.run()),
                None => spawn(lane.run()),
            });
        }
    }
    for task in tasks {
        task.await.unwrap_or(Err(BenchError::Ended))?;
    }
    drop(step);
    let recorder = recorder.borrow().clone();
    Ok(recorder)
}

impl Lane {
    /// One operation after the other.
    async fn run(mut self) -> Result<()> {
        while self.step.goes_on(&self.role) {
            let Some(number) = self.picker.pick() else {
                break;
            };
            let due = Instant::now();
            match self.role.op {
                Op::Get => {
                    get(
                        &self.ours,
                        &self.step,
                        &self.role,
                        &self.recorder,
                        number,
                        due,
                    )
                    .await?
                }
                Op::Put => self.put(number, due).await?,
            }
            yield_if_needed().await;
        }
        Ok(())
    }

    async fn put(&mut self, number: u64, due: Instant) -> Result<()> {
        let len = value_bytes(&self.step.data, number);
        let value = self.step.values.cut(&mut self.picker.random, len);
        self.ours.put(&key(number), value).await?;
        self.recorder
            .borrow_mut()
            .record(Op::Put, due, KEY_BYTES + len);
        Ok(())
    }

    /// Puts, with as many in flight as the window has room for.
    async fn run_staged(mut self) -> Result<()> {
        let mut staged = 0_u64;
        while self.step.goes_on(&self.role) {
            let Some(number) = self.picker.pick() else {
                break;
            };
            self.stage(number, Instant::now()).await;
            staged += 1;
            // It stands for many clients, whose puts would not come in one turn.
            if staged.is_multiple_of(TURN_PUTS) {
                yield_now().await;
            }
        }
        self.wait_for_window(WINDOW_UNITS).await
    }

    /// What is due, each operation without waiting for the one before.
    async fn run_paced(mut self, due: Receiver<Instant>) -> Result<()> {
        while let Ok(at) = due.recv().await {
            if !self.step.goes_on(&self.role) {
                self.recorder.borrow_mut().not_started += 1;
                continue;
            }
            let Some(number) = self.picker.pick() else {
                break;
            };
            match self.role.op {
                Op::Put => self.stage(number, at).await,
                Op::Get => {
                    let permit = self.window.acquire(1).await;
                    let (ours, step, role) = (self.ours.clone(), Rc::clone(&self.step), self.role);
                    let recorder = Rc::clone(&self.recorder);
                    spawn_urgent(async move {
                        let got = get(&ours, &step, &role, &recorder, number, at).await;
                        drop(permit);
                        if got.is_err() {
                            recorder.borrow_mut().wrong += 1;
                        }
                    });
                }
            }
            yield_if_needed().await;
        }
        let units = match self.role.op {
            Op::Put => WINDOW_UNITS,
            Op::Get => PACED_GETS_MAX,
        };
        self.wait_for_window(units).await
    }

    /// Puts what is due as soon as the window has room. In an open loop it takes until the put is durable
    /// and applied; in a closed one, what counts is how long the writer was held up.
    async fn stage(&mut self, number: u64, due: Instant) {
        let len = value_bytes(&self.step.data, number);
        let units = len.div_ceil(WINDOW_UNIT_BYTES).clamp(1, WINDOW_UNITS);
        let permit = self.window.acquire(units).await;
        let value = self.step.values.cut(&mut self.picker.random, len);
        let recorder = Rc::clone(&self.recorder);
        let is_paced = self.role.rate.is_some();
        self.ours.put_nowait(&key(number), value, move |result| {
            drop(permit);
            let mut recorder = recorder.borrow_mut();
            match result {
                Ok(()) if is_paced => recorder.record(Op::Put, due, KEY_BYTES + len),
                Ok(()) => recorder.record_end(Op::Put, KEY_BYTES + len),
                Err(_) => recorder.wrong += 1,
            }
        });
        if !is_paced {
            self.recorder.borrow_mut().record_latency(Op::Put, due);
        }
    }

    async fn wait_for_window(&self, units: usize) -> Result<()> {
        drop(self.window.acquire(units).await);
        Ok(())
    }
}

async fn get(
    ours: &Ours,
    step: &Step,
    role: &Role,
    recorder: &RefCell<Recorder>,
    number: u64,
    due: Instant,
) -> Result<()> {
    let found = ours.get(&key(number)).await?.map(|value| value.len());
    let must = role.must_find(value_bytes(&step.data, number));
    let mut recorder = recorder.borrow_mut();
    recorder.record(Op::Get, due, KEY_BYTES + found.unwrap_or(0));
    recorder.wrong += u64::from(found != must);
    Ok(())
}
