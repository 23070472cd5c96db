//! Drives an engine whose calls block: a thread for each operation in flight.

use crate::data::{KEY_BYTES, Part, Picker, Values, key, value_bytes};
use crate::error::{BenchError, Result};
use crate::pacer;
use crate::plan::Data;
use crate::recorder::{Op, Recorder};
use crate::subject::{DUE_MAX, Role, Statistics, Step, Subject};
use corelith_bench::arrivals::Arrivals;
use corelith_bench::random::{Random, scramble};
use corelith_io::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Recorders that the lanes share. One for each lane would weigh more than some engines do, and one for all
/// would be fought over.
const RECORDERS: usize = 8;

/// An engine whose calls block.
pub(crate) trait Store: Sync {
    /// Writes a value; with `durable` it is on the device on return.
    fn put(&self, key: &[u8], value: &[u8], durable: bool) -> Result<()>;
    /// Length of a key's value, which was read.
    fn get(&self, key: &[u8]) -> Result<Option<usize>>;
    /// As [`Subject::settle`].
    fn settle(&self) -> Result<()>;
    /// As [`Subject::statistics`].
    fn statistics(&self) -> Statistics;
}

/// See the module.
pub(crate) struct Threads<S> {
    pub(crate) store: S,
}

/// What a thread needs.
struct Lane<'a, S> {
    store: &'a S,
    step: &'a Step,
    role: &'a Role,
    picker: Picker,
    values: Values,
    recorder: &'a Mutex<Recorder>,
}

impl<S: Store> Subject for Threads<S> {
    fn run(&self, step: &Step) -> Result<Recorder> {
        let recorders: Vec<_> = (0..RECORDERS)
            .map(|_| Mutex::new(step.recorder()))
            .collect();
        let mut shared = recorders.iter().cycle();
        std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for (nth, role) in step.roles.iter().enumerate() {
                let due = role.rate.map(|rate| {
                    let (sender, receiver) = corelith_io::channel(DUE_MAX);
                    let seed = scramble(step.seed ^ nth as u64);
                    let arrivals = Arrivals::new(rate, Instant::now(), Random::new(seed));
                    scope.spawn(move || pacer::run(arrivals, step.window.end, &sender));
                    receiver
                });
                for picker in step.pickers(nth, role, role.lanes, Part::WHOLE) {
                    let due = due.clone();
                    let Some(recorder) = shared.next() else { break };
                    let lane = Lane {
                        store: &self.store,
                        step,
                        role,
                        picker,
                        values: step.values.clone(),
                        recorder,
                    };
                    lanes.push(scope.spawn(move || match due {
                        Some(due) => lane.run_paced(&due),
                        None => lane.run(),
                    }));
                }
            }
            lanes
                .into_iter()
                .try_for_each(|lane| lane.join().unwrap_or(Err(BenchError::Ended)))
        })?;
        let mut sum = step.recorder();
        for recorder in recorders {
            sum.merge(
                recorder
                    .into_inner()
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
        Ok(sum)
    }

    fn settle(&self) -> Result<()> {
        self.store.settle()
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(self.store.statistics())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl<S: Store> Lane<'_, S> {
    fn run(mut self) -> Result<()> {
        while self.step.goes_on(self.role) {
            match self.picker.pick() {
                Some(number) => self.operate(number, Instant::now())?,
                None => break,
            }
        }
        Ok(())
    }

    fn run_paced(mut self, due: &Receiver<Instant>) -> Result<()> {
        while let Ok(at) = due.recv_blocking() {
            if !self.step.goes_on(self.role) {
                self.recorder().not_started += 1;
                continue;
            }
            match self.picker.pick() {
                Some(number) => self.operate(number, at)?,
                None => break,
            }
        }
        Ok(())
    }

    fn operate(&mut self, number: u64, due: Instant) -> Result<()> {
        let data: &Data = &self.step.data;
        let key = key(number);
        let expected = value_bytes(data, number);
        match self.role.op {
            Op::Put => {
                let value = self.values.cut(&mut self.picker.random, expected);
                self.store.put(&key, value, self.role.durable)?;
                self.recorder().record(Op::Put, due, KEY_BYTES + expected);
            }
            Op::Get => {
                let found = self.store.get(&key)?;
                let must = self.role.must_find(expected);
                let mut recorder = self.recorder();
                recorder.record(Op::Get, due, KEY_BYTES + found.unwrap_or(0));
                recorder.wrong += u64::from(found != must);
            }
        }
        Ok(())
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
