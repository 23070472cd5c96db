use super::Runtime;
use corelith_io::sim::{Sim, SimNode};
use openraft_rt::testing::Suite;
use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Which world `block_on` runs in. The suite makes its runtimes itself, so a thread-local says.
pub(super) enum World {
    Uring,
    Sim(Box<Sim>, SimNode),
}

thread_local! {
    static SEED: RefCell<Option<u64>> = const { RefCell::new(None) };
}

pub(super) fn world() -> World {
    SEED.with_borrow(|seed| match seed {
        None => World::Uring,
        Some(seed) => {
            let sim = Sim::new(*seed);
            let node = sim.add_node();
            World::Sim(Box::new(sim), node)
        }
    })
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uring => "Uring",
            Self::Sim(..) => "Sim",
        })
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl World {
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let (sim, node) = match self {
            Self::Uring => return corelith_io::core::run_here(future),
            Self::Sim(sim, node) => (sim, *node),
        };
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            let limit = Duration::from_secs(60);
            assert!(
                sim.run_until(|| woken.0.load(Ordering::Relaxed), limit),
                "nothing happens any more"
            );
            woken.0.store(false, Ordering::Relaxed);
            let polled = sim.enter(node, || future.as_mut().poll(&mut context));
            if let std::task::Poll::Ready(output) = polled {
                return output;
            }
        }
    }
}

#[test]
fn passes_openrafts_suite_in_the_uring_world() {
    Suite::<Runtime>::test_all();
}

#[test]
fn passes_openrafts_suite_in_the_sim_world() {
    for seed in 0..20 {
        println!("seed {seed}");
        SEED.set(Some(seed));
        Suite::<Runtime>::test_all();
    }
}
