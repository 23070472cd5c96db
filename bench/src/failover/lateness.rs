//! How late the machine is: a thread that wants to run every few milliseconds, and notes how much later it does.
//! A round in which it is very late says more about the machine than about the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(5);

/// The thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lateness {
    latest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lateness {
    pub(crate) fn watch() -> Self {
        let latest_us = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (latest, stopped) = (Arc::clone(&latest_us), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let from = Instant::now();
                std::thread::sleep(EVERY);
                let late = from.elapsed().saturating_sub(EVERY).as_micros();
                latest.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self {
            latest_us,
            stop,
            thread: Some(thread),
        }
    }

    /// How late it was at most since this was asked last, in milliseconds.
    pub(crate) fn take_ms(&self) -> f64 {
        let micros = self.latest_us.swap(0, Ordering::Relaxed);
        Duration::from_micros(micros).as_secs_f64() * 1e3
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot have failed.
            let _ = thread.join();
        }
    }
}
