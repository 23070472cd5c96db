//! Every bound of the SDK.

use std::time::Duration;

/// Bytes read from a connection at a time. Below the size from which allocators map memory anew.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Values shorter than this are copied out of the receive buffer, so that a kept value does not pin
/// the whole buffer and the buffer is used again.
pub(crate) const COPY_OUT_BYTES_MAX: usize = 16 * 1024;
/// Outgoing buffers larger than this are given back after a burst.
pub(crate) const OUTBOX_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// How often deadlines of requests in flight are looked at.
pub const TICK: Duration = Duration::from_millis(20);
/// Longest time to establish a connection, handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time to find the cluster, unless the builder or a shorter deadline says otherwise.
pub(crate) const FIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client looks for a cluster whose seeds all refuse, unless the builder says otherwise: a
/// port may be closed for the moment of a restart, but an application that was started without a
/// cluster is to be told at once.
pub(crate) const REFUSED_GRACE: Duration = Duration::from_millis(500);
/// A seed that has not answered for this long is not waited for alone: the next one is asked too.
pub(crate) const SEED_STAGGER: Duration = Duration::from_millis(100);
/// A connection with requests in flight that says nothing for this long is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Pause before a failed connection is tried again: first and longest.
pub(crate) const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// See [`RECONNECT_PAUSE_MIN`].
pub(crate) const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(640);

/// Time from the call to the answer, unless the builder says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// How long one attempt waits for its answer before another node is asked.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// What an attempt gets on top of that for every MiB of its value.
pub(crate) const ATTEMPT_TIMEOUT_PER_MIB: Duration = Duration::from_millis(200);
/// Pause before an attempt is repeated: first and longest.
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(4);
/// See [`RETRY_PAUSE_MIN`].
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Redirects followed without a pause.
pub(crate) const REDIRECTS_MAX: u32 = 2;
/// How long a node that gave no answer in time is asked only if no other can be.
pub(crate) const SILENT_SUSPICION: Duration = Duration::from_secs(1);
/// How long a node that refused the connection is asked only if no other can be.
pub(crate) const REFUSED_SUSPICION: Duration = Duration::from_millis(100);

/// Operations of one batch in flight at a time.
pub(crate) const BATCH_IN_FLIGHT_MAX: usize = 256;
/// Items asked for in one page of a scan.
pub(crate) const SCAN_PAGE_ITEMS: u32 = 1024;
/// Bytes asked for in the pages of all shards together.
pub(crate) const SCAN_BUFFER_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes asked for in one page of a scan: least and most.
pub(crate) const SCAN_PAGE_BYTES_MIN: u32 = 16 * 1024;
/// See [`SCAN_PAGE_BYTES_MIN`].
pub(crate) const SCAN_PAGE_BYTES_MAX: u32 = 256 * 1024;
/// How often a shard hears of a scan that wants no page of it. A page or a touch within two of these
/// pauses, well below the 30 s for which a node keeps what a scan sees.
pub(crate) const SCAN_TOUCH_PAUSE: Duration = Duration::from_secs(8);
/// How long one touch may take.
pub(crate) const SCAN_TOUCH_DEADLINE: Duration = Duration::from_secs(5);
/// How long a scan that its application does not poll holds what it sees.
pub(crate) const SCAN_IDLE_MAX: Duration = Duration::from_secs(600);
/// Pages of one scan on their way at a time.
pub(crate) const SCAN_FETCHES_MAX: usize = 16;

const _: () = {
    assert!(SCAN_PAGE_ITEMS as usize <= corelith_wire::limits::SCAN_ITEMS_MAX);
    assert!(SCAN_PAGE_BYTES_MAX as usize <= corelith_wire::limits::SCAN_PAGE_BYTES_MAX);
    assert!(FIND_TIMEOUT.as_millis() < DEADLINE.as_millis());
    assert!(REFUSED_GRACE.as_millis() + RETRY_PAUSE_MAX.as_millis() <= 1000);
    assert!(ATTEMPT_TIMEOUT.as_millis() < DEADLINE.as_millis());
    assert!(2 * SCAN_TOUCH_PAUSE.as_millis() + SCAN_TOUCH_DEADLINE.as_millis() < 30_000);
    assert!(TICK.as_millis() * 10 <= ATTEMPT_TIMEOUT.as_millis());
    assert!(ATTEMPT_TIMEOUT.as_millis() < SILENCE_MAX.as_millis());
};
