//! The load beside faults: writers that put random keys as fast as they are answered.

use super::gaps::Gaps;
use super::{FailoverError, WHOLE_WITHIN, failed};
use crate::workload::{Workload, WorkloadKind, WorkloadOperation};
use corelith_bench::random::Random;
use corelith_client::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Puts in flight.
const WRITERS: usize = 16;
/// Deadline of a put: longer than any fault.
const PUT_DEADLINE: Duration = Duration::from_secs(60);
/// Pause of a writer after an error.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

/// The writers. Dropping them stops them.
pub(crate) struct FailoverWriters {
    gaps: Arc<Mutex<Gaps>>,
    stop: Arc<AtomicBool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FailoverWriters {
    pub(crate) fn start(
        seeds: &[String],
        workload: &Workload,
        shards: u32,
        seed: u64,
    ) -> Result<Self, FailoverError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed("start a thread"))?;
        let connecting = Client::builder()
            .seeds(seeds.iter().cloned())
            .deadline(PUT_DEADLINE)
            .connect_deadline(WHOLE_WITHIN);
        let client = runtime
            .block_on(connecting.connect())
            .map_err(FailoverError::Connect)?;
        let gaps = Arc::new(Mutex::new(Gaps::new(shards, Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let workload = Arc::new(workload.of_kind(WorkloadKind::Put, 0));
        for index in 0..WRITERS {
            let random = Random::new(seed.wrapping_add(index as u64));
            let (gaps, stop) = (Arc::clone(&gaps), Arc::clone(&stop));
            let (client, workload) = (client.clone(), Arc::clone(&workload));
            runtime.spawn(write(client, workload, random, gaps, stop));
        }
        Ok(Self {
            gaps,
            stop,
            runtime: Some(runtime),
        })
    }

    pub(crate) fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FailoverWriters {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// One writer.
async fn write(
    client: Client,
    workload: Arc<Workload>,
    mut random: Random,
    gaps: Arc<Mutex<Gaps>>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let WorkloadOperation::Put { key, value } = workload.next(&mut random) else {
            return;
        };
        let from = Instant::now();
        let result = client.put(key, value).await;
        let now = Instant::now();
        let noted = |note: &dyn Fn(&mut Gaps)| {
            note(&mut gaps.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match result {
            Ok(written) => noted(&|gaps| gaps.answered(written.shard, from, now)),
            Err(error) => {
                noted(&|gaps| gaps.failed(from, now));
                eprintln!("a put failed: {error}");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}
