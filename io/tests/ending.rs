//! A core ends with its tasks, whatever they are doing.

use corelith_io::{now, sleep, spawn_background, yield_if_needed};
use std::cell::Cell;
use std::rc::Rc;
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
