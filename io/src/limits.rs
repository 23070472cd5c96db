//! The bounds of what a core holds and waits for.

use crate::buf::BLOCK_SIZE;
use std::time::Duration;

/// Longer buffers are freed instead of recycled.
pub(crate) const RECYCLED_LEN_MAX: usize = 1 << 20;
/// Idle bytes kept for recycling per core: as much as a value log may have staged, so that memory of one burst
/// is there for the next.
pub(crate) const RECYCLED_BYTES_MAX: usize = 40 << 20;
const _: () = assert!(RECYCLED_LEN_MAX <= RECYCLED_BYTES_MAX);
const _: () = assert!(RECYCLED_LEN_MAX.is_multiple_of(BLOCK_SIZE));

/// What a read into a full buffer reserves.
pub(crate) const READ_LEN_MIN: usize = 16 << 10;
/// Connections that the kernel completes before they are accepted.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;

/// A connection that was silent for this long is probed ...
pub(crate) const KEEPALIVE_IDLE_SECONDS: i32 = 30;
/// ... again after this long ...
pub(crate) const KEEPALIVE_INTERVAL_SECONDS: i32 = 10;
/// ... and given up after this many probes without an answer.
pub(crate) const KEEPALIVE_PROBES: i32 = 3;
/// A connection whose bytes are not acknowledged for this long is given up.
pub(crate) const UNACKNOWLEDGED_MILLIS_MAX: i32 = 60_000;
// The kernel ends idle connections by the latter as well.
const _: () = assert!(
    1000 * (KEEPALIVE_IDLE_SECONDS + KEEPALIVE_INTERVAL_SECONDS * KEEPALIVE_PROBES)
        <= UNACKNOWLEDGED_MILLIS_MAX
);

/// Entries of each of an executor's three rings; more operations than that wait in a queue.
pub(crate) const RING_DEPTH: usize = 256;
/// Completions that the ring of the backend `ring` holds; the kernel keeps more.
pub(crate) const RING_COMPLETIONS: u32 = 4096;
/// Threads of a core for work that blocks.
pub(crate) const BLOCKING_THREADS: usize = 2;
/// How often an executor tries to get its locked memory, and how long it waits in between.
pub(crate) const START_ATTEMPTS: u32 = 40;
pub(crate) const START_PAUSE: Duration = Duration::from_millis(50);
const _: () = assert!(START_ATTEMPTS > 0);
/// Rounds in which the tasks of an ended core may end.
pub(crate) const SHUTDOWN_ROUNDS_MAX: usize = 1000;
/// The pause after each of these rounds, in which the tasks get their turn.
pub(crate) const SHUTDOWN_PAUSE: Duration = Duration::from_micros(500);

/// How long a core waits for its first timer before it looks at the clock again: how late timers may be after the
/// machine was suspended. Costs a wake-up in that time on a core that has nothing else to wait for.
pub(crate) const TIMER_WAIT_MAX: Duration = Duration::from_millis(100);

/// The first timer of a core's guard while the core is busy: with one after 2 ms a single put took a tenth
/// longer ...
pub(crate) const GUARD_PAUSE_MIN: Duration = Duration::from_millis(10);
/// ... and while it has little to do.
pub(crate) const GUARD_PAUSE_MAX: Duration = Duration::from_millis(40);
const _: () = assert!(GUARD_PAUSE_MIN.as_nanos() <= GUARD_PAUSE_MAX.as_nanos());
/// A core is busy if its tasks have more turns than this. Beats and the timers of a node that does nothing else have
/// about one: with a guard every 10 ms they would take half as much CPU again.
pub(crate) const GUARD_BUSY_TURNS_PER_MS: u64 = 2;
/// When the timers of a guard fire, in milliseconds after the first. With the later ones at 40 and 160 ms a
/// core once slept for 160 ms, so the sleep that they end happens several times in a row.
pub(crate) const GUARD_TIMERS_MILLIS: [u64; 8] = [0, 1, 2, 3, 5, 10, 30, 150];

/// The watchdog asks a core this many times per limit.
pub(crate) const WATCHDOG_ROUNDS_PER_LIMIT: u32 = 5;
/// The process ends when a core has made no progress for this many limits.
pub(crate) const WATCHDOG_ABORT_AFTER_LIMITS: u32 = 10;
/// The watchdog asks no more often than this.
pub(crate) const WATCHDOG_ROUND_MIN: Duration = Duration::from_millis(10);
const _: () = assert!(WATCHDOG_ROUNDS_PER_LIMIT > 0 && WATCHDOG_ABORT_AFTER_LIMITS > 1);

/// Shares of a core's time that background work gets at least and at most, when the foreground,
/// which has 1000, is busy.
pub const BACKGROUND_SHARES_MIN: usize = 100;
/// See [`BACKGROUND_SHARES_MIN`].
pub const BACKGROUND_SHARES_MAX: usize = 1000;
const _: () = assert!(BACKGROUND_SHARES_MIN <= BACKGROUND_SHARES_MAX);
