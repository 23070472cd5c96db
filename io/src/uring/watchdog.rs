//! A thread that notices a core which makes no progress.
//!
//! An idle core sleeps and a stuck one loops or blocks; to tell them apart the watchdog asks each
//! core for a sign of life a few times per limit. It counts its own rounds instead of looking at
//! the clock, so that a process that was stopped as a whole finds nothing wrong when it goes on.

use crate::limits::{WATCHDOG_ABORT_AFTER_LIMITS, WATCHDOG_ROUND_MIN, WATCHDOG_ROUNDS_PER_LIMIT};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// The core's side: answers as long as its executor runs.
pub(crate) struct Pulse {
    shared: Arc<PulseShared>,
}

struct PulseShared {
    name: String,
    is_asked: AtomicBool,
    /// Wakes the task that answers.
    answerer: Mutex<Option<Waker>>,
}

impl PulseShared {
    fn answerer(&self) -> MutexGuard<'_, Option<Waker>> {
        self.answerer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a sign of life. Wakes the executor if it sleeps, also over a question asked before.
    fn ask(&self) {
        if let Some(answerer) = self.answerer().as_ref() {
            answerer.wake_by_ref();
        }
    }
}

impl Pulse {
    pub(crate) async fn beat(self) {
        poll_fn(|cx| {
            *self.shared.answerer() = Some(cx.waker().clone());
            self.shared.is_asked.store(false, Ordering::Release);
            Poll::<()>::Pending
        })
        .await;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // On the thread it belongs to.
        *self.shared.answerer() = None;
    }
}

struct Watched {
    shared: Weak<PulseShared>,
    round: Duration,
    until_round: Duration,
    rounds_unanswered: u32,
}

/// Starts to watch a core. It is forgotten when its pulse is dropped.
pub(crate) fn watch(name: &str, limit: Duration) -> Pulse {
    static WATCHDOG: OnceLock<mpsc::Sender<Watched>> = OnceLock::new();
    let shared = Arc::new(PulseShared {
        name: name.to_owned(),
        is_asked: AtomicBool::new(false),
        answerer: Mutex::default(),
    });
    let round = (limit / WATCHDOG_ROUNDS_PER_LIMIT).max(WATCHDOG_ROUND_MIN);
    let watched = Watched {
        shared: Arc::downgrade(&shared),
        round,
        until_round: round,
        rounds_unanswered: 0,
    };
    let watchdog = WATCHDOG.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || run(&receiver));
        if let Err(error) = spawned {
            tracing::error!(%error, "no watchdog: its thread does not start");
        }
        sender
    });
    // A watchdog that could not start has been reported; the core runs without one.
    let _ = watchdog.send(watched);
    Pulse { shared }
}

fn run(arrivals: &mpsc::Receiver<Watched>) {
    let mut cores: Vec<Watched> = Vec::new();
    loop {
        let wait = cores.iter().map(|core| core.until_round).min();
        let arrival = match wait {
            Some(wait) => arrivals.recv_timeout(wait),
            None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match arrival {
            Ok(core) => cores.push(core),
            Err(RecvTimeoutError::Timeout) => {
                let waited = wait.unwrap_or_default();
                cores.retain_mut(|core| core.look(waited));
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Watched {
    /// Looks after the core when its round is over. Returns whether it still exists.
    fn look(&mut self, waited: Duration) -> bool {
        let Some(shared) = self.shared.upgrade() else {
            return false;
        };
        self.until_round = self.until_round.saturating_sub(waited);
        if !self.until_round.is_zero() {
            return true;
        }
        self.until_round = self.round;
        let was_asked = shared.is_asked.swap(true, Ordering::AcqRel);
        shared.ask();
        if !was_asked {
            if self.rounds_unanswered >= WATCHDOG_ROUNDS_PER_LIMIT {
                tracing::warn!(core = shared.name, "the core makes progress again");
            }
            self.rounds_unanswered = 0;
            return true;
        }
        self.rounds_unanswered += 1;
        let stuck_for = self.round * self.rounds_unanswered;
        if self.rounds_unanswered >= WATCHDOG_ROUNDS_PER_LIMIT * WATCHDOG_ABORT_AFTER_LIMITS {
            eprintln!(
                "core {}: no progress for {stuck_for:?}, the process ends",
                shared.name
            );
            std::process::abort();
        }
        if self
            .rounds_unanswered
            .is_multiple_of(WATCHDOG_ROUNDS_PER_LIMIT)
        {
            tracing::error!(core = shared.name, ?stuck_for, "the core makes no progress");
        }
        true
    }
}
