//! A core ends with its tasks, whatever they are doing.

use corelith_io::{now, sleep, spawn_background, yield_if_needed};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Uses its core when it is dropped, as guards that measure something do.
struct Clocked;

impl Drop for Clocked {
    fn drop(&mut self) {
        now();
    }
}

#[test]
fn background_tasks_at_work_end_before_their_core() {
    for _ in 0..5 {
        corelith_io::core::run(|| async {
            let worked = Rc::new(Cell::new(0_u32));
            for _ in 0..3 {
                let worked = Rc::clone(&worked);
                spawn_background(async move {
                    let _clocked = Clocked;
                    loop {
                        // Some work between two turns.
                        let start = now();
                        while start.elapsed() < Duration::from_micros(100) {}
                        worked.set(worked.get() + 1);
                        yield_if_needed().await;
                    }
                });
            }
            // Alone for 200 ms, the background has had far more than its share.
            while worked.get() < 2000 {
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
}

#[test]
fn work_on_the_blocking_pool_is_over_before_its_core_ends() {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    static WORKED: AtomicU32 = AtomicU32::new(0);
    const TASKS: u32 = 8;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(panic);
    }));
    for _ in 0..5 {
        corelith_io::core::run(|| async {
            for _ in 0..TASKS {
                spawn_background(corelith_io::blocking(|| {
                    BEGUN.fetch_add(1, Ordering::SeqCst);
                    // Long enough for the core to end meanwhile.
                    for step in 0..2_000_000_u32 {
                        std::hint::black_box(step);
                    }
                    WORKED.fetch_add(1, Ordering::SeqCst);
                }));
            }
            let before = BEGUN.load(Ordering::SeqCst);
            while BEGUN.load(Ordering::SeqCst) == before {
                yield_if_needed().await;
                sleep(Duration::ZERO).await;
            }
        });
        let worked = WORKED.load(Ordering::SeqCst);
        assert_eq!(BEGUN.load(Ordering::SeqCst), worked, "after its core");
        // A thread of the pool that cannot tell its core of the work panics.
        assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    }
}
