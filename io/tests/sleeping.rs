//! A core does not sleep while it has something to do.

use corelith_io::{Backend, CoreConfig, channel};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Far more than an answer takes, far less than until the watchdog asks for a sign of life.
const PATIENCE: Duration = Duration::from_secs(10);

const QUESTIONS: u32 = 10_000;

/// Sets a flag when it is dropped, by a panic as well.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_core_that_loses_its_processor_at_any_moment_goes_on_on_glommio() {
    answers_always(Backend::Glommio);
}

#[test]
fn a_core_that_loses_its_processor_at_any_moment_goes_on_on_a_ring() {
    answers_always(Backend::Ring);
}

#[expect(clippy::unwrap_used, reason = "tests")]
fn answers_always(backend: Backend) {
    let (questions, asked) = channel(1);
    let (answers, answered) = mpsc::channel();
    let mut config = CoreConfig::new("robbed");
    config.backend = backend;
    // Shorter than usual, so that one is more often over before a task has had its turn.
    config.preempt = Duration::from_micros(50);
    config.watchdog = Duration::from_secs(3600);
    let core = config
        .start(move || async move {
            while let Ok(question) = asked.recv().await {
                answers.send(question).unwrap();
            }
        })
        .unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&is_over);
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for question in 0..QUESTIONS {
            questions.send_blocking(question).unwrap();
            let answer = answered.recv_timeout(PATIENCE);
            assert_eq!(answer, Ok(question), "the core sleeps over it");
        }
    });
    drop(questions);
    core.join().unwrap();
}
