//! Threads of a core for work that blocks. They start with the first such work.

use crate::limits::BLOCKING_THREADS;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

type BlockingWork = Box<dyn FnOnce() + Send>;

/// Belongs to one core.
#[derive(Default)]
pub(super) struct BlockingPool(RefCell<Option<BlockingThreads>>);

struct BlockingThreads {
    work: mpsc::Sender<BlockingWork>,
    threads: Vec<JoinHandle<()>>,
}

impl BlockingPool {
    /// Has a thread do `work`, which does not panic.
    pub(super) fn give(&self, work: BlockingWork) {
        let mut pool = self.0.borrow_mut();
        let running = pool.get_or_insert_with(BlockingThreads::start);
        assert!(
            !running.threads.is_empty(),
            "no thread for blocking work starts"
        );
        // The receiver lives as long as a thread does.
        let _ = running.work.send(work);
    }

    /// Waits until all work is done.
    pub(super) fn finish(&self) {
        if let Some(running) = self.0.borrow_mut().take() {
            drop(running.work);
            for thread in running.threads {
                // Work does not panic.
                let _ = thread.join();
            }
        }
    }
}

impl BlockingThreads {
    fn start() -> Self {
        let (work, given) = mpsc::channel::<BlockingWork>();
        let given = Arc::new(Mutex::new(given));
        let threads = (0..BLOCKING_THREADS).filter_map(|_| {
            let given = Arc::clone(&given);
            let spawned = std::thread::Builder::new()
                .name("blocking".to_owned())
                .spawn(move || {
                    loop {
                        let next = given.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        match next {
                            Ok(work) => work(),
                            Err(mpsc::RecvError) => return,
                        }
                    }
                });
            spawned.ok()
        });
        let threads = threads.collect();
        Self { work, threads }
    }
}
