//! Keeps a core from sleeping over tasks that are ready to run.
//!
//! glommio 0.9 runs task queues until the preemption timer has fired, and takes the core for idle if no queue
//! ran before that: a thread that loses its processor for a time slice at that moment sleeps until the next
//! event. The next event may be far away: other threads know that the core's tasks are awake, and do not wake
//! it again.
//!
//! The guard keeps several timers set, so that such a sleep is short, even if it happens several times in a
//! row. If all of them have fired, the watchdog wakes the core.

use crate::limits::{
    GUARD_BUSY_TURNS_PER_MS, GUARD_PAUSE_MAX, GUARD_PAUSE_MIN, GUARD_TIMERS_MILLIS,
};
use glommio::timer::Timer;
use glommio::{Task, TaskQueueHandle};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Watches until it is dropped. Belongs to the core that started it.
pub(crate) struct Guard {
    _task: Task<()>,
}

/// Starts the guard of this thread's executor.
pub(crate) fn start(queue: TaskQueueHandle) -> Guard {
    match glommio::spawn_local_into(stand(), queue) {
        Ok(task) => Guard { _task: task },
        Err(error) => panic!("the queues of a core live as long as the core: {error}"),
    }
}

async fn stand() {
    let mut pause = GUARD_PAUSE_MIN;
    loop {
        // Several: the core may sleep over the tasks that the first one wakes, the guard included.
        let mut timers =
            GUARD_TIMERS_MILLIS.map(|after| Timer::new(pause + Duration::from_millis(after)));
        poll_fn(|cx| {
            let mut outcome = Poll::Pending;
            for timer in &mut timers {
                if Pin::new(timer).poll(cx).is_ready() {
                    outcome = Poll::Ready(());
                }
            }
            outcome
        })
        .await;
        let turns = glommio::executor().executor_stats().tasks_executed();
        pause = next_pause(pause, turns);
    }
}

/// The pause after one in which tasks had that many turns.
fn next_pause(pause: Duration, turns: u64) -> Duration {
    let busy = GUARD_BUSY_TURNS_PER_MS.saturating_mul(pause.as_millis() as u64);
    match turns > busy {
        true => GUARD_PAUSE_MIN,
        false => (pause * 2).min(GUARD_PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_with_little_to_do_is_woken_seldom() {
        // (pause in ms, turns of tasks in it, next pause in ms)
        let table = [
            (10, 1, 20),
            (10, 20, 20),
            (10, 21, 10),
            (20, 40, 40),
            (40, 80, 40),
            (40, 81, 10),
            (40, u64::MAX, 10),
        ];
        for (pause, turns, expected) in table {
            let next = next_pause(Duration::from_millis(pause), turns);
            assert_eq!(next.as_millis(), expected, "{turns} turns in {pause} ms");
        }
    }
}
