//! Which seeds to run, and on how many threads.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seeds to run: `few` of them unless the environment asks for others.
pub(crate) fn seeds(few: u64) -> Range<u64> {
    if let Some(one) = number("CORELITH_SIM_SEED") {
        return one..one + 1;
    }
    let first = number("CORELITH_SIM_FIRST").unwrap_or(1);
    first..first + number("CORELITH_SIM_SEEDS").unwrap_or(few)
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the panics of this thread's runs from being printed: they are expected.
pub(crate) fn be_quiet(quiet: bool) {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(quiet);
}

/// What a panic says.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs `run` for every seed, each thread taking the next one, and fails with all that failed.
pub(crate) fn on_all_processors(seeds: Range<u64>, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                let failure = format!("seed {seed}: {}", words(&*panic));
                println!("{failure}");
                failures.lock().unwrap().push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} seeds failed; CORELITH_SIM_SEED=N runs one again:\n{}",
        failures.len(),
        seeds.end - seeds.start,
        failures.join("\n")
    );
}
