//! Every bound of the SDK.

use std::time::Duration;

/// Bytes read from a connection at a time. Small enough that allocators do not map it separately.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Values shorter than this are copied out of the receive buffer, so that a value that the application
/// keeps does not pin the whole buffer.
pub(crate) const COPY_OUT_BYTES_MAX: usize = 16 * 1024;
/// Outgoing buffers larger than this are freed after a burst.
pub(crate) const OUTBOX_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// How often the deadlines of requests in flight are checked.
pub const TICK: Duration = Duration::from_millis(20);
/// Longest time to establish a connection, including the handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request waits for a connection before another node is asked. Connecting goes on.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Longest time to find the cluster, unless the builder or a shorter deadline says otherwise.
pub(crate) const FIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client looks for a cluster whose seeds all refuse, unless the builder says otherwise. A
/// port may be closed for a moment during a restart, but an application without a cluster should fail
/// soon.
pub(crate) const REFUSED_GRACE: Duration = Duration::from_millis(500);
/// If a seed has not answered after this time, the next one is asked too.
pub(crate) const SEED_STAGGER: Duration = Duration::from_millis(100);
/// A connection with requests in flight that is silent for this long is closed; later if long ones may still travel.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Shortest pause before a failed connection is tried again; each further pause doubles.
pub(crate) const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause before a failed connection is tried again.
pub(crate) const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(640);

/// Default time from call to answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// Longest wait for one node's answer to an order: it passes the order on, and waits for it to be written.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_secs(5);
/// If a node has not answered a question about the cluster after this time, the next one is asked too.
pub(crate) const QUESTION_STAGGER: Duration = Duration::from_millis(250);
/// How long one attempt waits for its answer before another node is asked.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Additional time of an attempt for every MiB of its value.
pub(crate) const ATTEMPT_TIMEOUT_PER_MIB: Duration = Duration::from_millis(200);
/// Shortest pause before an attempt is repeated; each further pause doubles.
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(4);
/// Pause before a leader is asked for again: this part of the time that it has been missing, within these bounds.
pub(crate) const SEEK_SHARE: u32 = 8;
/// See [`SEEK_SHARE`].
pub(crate) const SEEK_PAUSE_MIN: Duration = Duration::from_millis(10);
/// See [`SEEK_SHARE`].
pub(crate) const SEEK_PAUSE_MAX: Duration = Duration::from_millis(250);
/// If requests wait for this long on a connection on which nothing arrives, other replicas are asked who leads.
pub(crate) const SILENCE_DOUBT: Duration = Duration::from_millis(120);
/// The same for a request that waits this long although other answers arrive.
pub(crate) const WAIT_DOUBT: Duration = Duration::from_millis(400);
/// How long such a question waits for its answer.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest pause before an attempt is repeated.
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Redirects followed without a pause.
pub(crate) const REDIRECTS_MAX: u32 = 2;
/// An operation that finds no leader for so long asks for a newer map, and again after as long.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Nodes and seeds that are asked for a newer map until one has it: those that have the same may be behind.
pub(crate) const REFRESH_ANSWERS_MAX: usize = 3;
/// How long other nodes are preferred to a node that gave no answer in time.
pub(crate) const SILENT_SUSPICION: Duration = Duration::from_secs(1);
/// How long other nodes are preferred to a node that refused the connection.
pub(crate) const REFUSED_SUSPICION: Duration = Duration::from_millis(100);
/// How long a read is repeated that leaders answer with `Corrupt`. A leader with damaged data hands its lead to
/// another replica, which takes about a second.
pub(crate) const DAMAGED_PATIENCE: Duration = Duration::from_secs(5);

/// How long one attempt of a read waits for a replica that need not lead. A follower that finds no leader refuses in half
/// of that.
pub(crate) const REPLICA_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a replica is left out that did not answer a read.
pub(crate) const PASSED_OVER_FOR: Duration = Duration::from_secs(2);
/// How often the distance of a node is measured, while somebody reads from the nearest.
pub(crate) const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long a probe waits for its answer.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// By how much another replica must be nearer than the leader, at least: what its question to the leader costs.
pub(crate) const NEARER_BY_MIN: Duration = Duration::from_micros(200);

/// Operations of one batch in flight at a time.
pub(crate) const BATCH_IN_FLIGHT_MAX: usize = 256;
/// Items requested per page of a scan.
pub(crate) const SCAN_PAGE_ITEMS: u32 = 1024;
/// Bytes requested in the pages of all shards together.
pub(crate) const SCAN_BUFFER_BYTES: u32 = 16 * 1024 * 1024;
/// Fewest bytes requested per page of a scan.
pub(crate) const SCAN_PAGE_BYTES_MIN: u32 = 16 * 1024;
/// Most bytes requested per page of a scan.
pub(crate) const SCAN_PAGE_BYTES_MAX: u32 = 256 * 1024;
/// Pause between touches of a shard from which a scan requests no page. A shard gets a page request or a
/// touch within two pauses, well below the 30 s for which a node keeps a scan's state.
pub(crate) const SCAN_TOUCH_PAUSE: Duration = Duration::from_secs(8);
/// How long one touch may take.
pub(crate) const SCAN_TOUCH_DEADLINE: Duration = Duration::from_secs(5);
/// How long a scan that is not polled keeps its state on the shards.
pub(crate) const SCAN_IDLE_MAX: Duration = Duration::from_secs(600);
/// Page requests of one scan in flight at a time.
pub(crate) const SCAN_FETCHES_MAX: usize = 16;

/// Chunks of an upload in flight, unless its builder says otherwise.
pub(crate) const UPLOAD_IN_FLIGHT: usize = 4;
/// Most chunks of an upload in flight.
pub(crate) const UPLOAD_IN_FLIGHT_MAX: usize = 64;
/// Bytes that are read at a time from the source of an upload.
pub(crate) const COPIED_BYTES: usize = 64 * 1024;
/// How often flushes cut a chunk of an upload short: each ends a part.
pub(crate) const UPLOAD_CUTS_MAX: u32 = 4000;
/// How long an attempt to send a chunk waits for its answer, beside the time for its bytes and those before it.
pub(crate) const CHUNK_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes per second of the slowest uplink that gets long requests to their node in time: as much as a node asks for.
pub(crate) const UPLINK_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Requests that are shorter travel in no time worth counting.
pub(crate) const LONG_REQUEST_BYTES: usize = 16 * 1024;
/// Longest time that is allowed for the bytes before a request and its own to travel.
pub(crate) const TRAVEL_MAX: Duration = Duration::from_secs(120);
/// Shards asked for their uploads at a time.
pub(crate) const UPLOAD_LISTS_MAX: usize = 16;
/// Chunks of a download that are read ahead, unless its builder says otherwise.
pub(crate) const DOWNLOAD_AHEAD: usize = 4;
/// Most chunks of a download that are read ahead.
pub(crate) const DOWNLOAD_AHEAD_MAX: usize = 64;
/// How often a read of a whole large value begins again, because the value was overwritten and is gone.
pub(crate) const LARGE_READS_MAX: usize = 4;
/// How often a chunk is asked for again that no replica has, although the leader says that the value is there.
pub(crate) const MISSING_CHUNK_TURNS: u32 = 6;
/// Pause before the first of these; each further one doubles.
pub(crate) const MISSING_CHUNK_PAUSE: Duration = Duration::from_millis(50);
/// How often a download renews its hold on the value: a third of how long it lasts.
pub(crate) const HOLD_RENEW_PAUSE: Duration = Duration::from_secs(20);
/// Pause before a hold is asked for again that could not be had.
pub(crate) const HOLD_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long one renewal may take.
pub(crate) const HOLD_DEADLINE: Duration = Duration::from_secs(5);
/// How long a download that is not polled holds its value.
pub(crate) const DOWNLOAD_IDLE_MAX: Duration = Duration::from_secs(600);

/// Deletions of one `delete_stream` of an object store in flight.
#[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
pub(crate) const OBJECT_DELETES_MAX: usize = 32;
/// Objects in a page of an object store's listing, unless its options say otherwise.
#[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
pub(crate) const LISTED_DEFAULT: usize = 1000;
/// Keys of one group that a listing with a delimiter reads before it jumps behind the group, which costs a page of each
/// shard.
#[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
pub(crate) const SKIPPED_BEFORE_JUMP: usize = 1000;

const _: () = {
    assert!(UPLOAD_IN_FLIGHT <= UPLOAD_IN_FLIGHT_MAX && DOWNLOAD_AHEAD <= DOWNLOAD_AHEAD_MAX);
    assert!((UPLOAD_CUTS_MAX as usize) < corelith_wire::limits::UPLOAD_PARTS_MAX);
    assert!(
        UPLOAD_CUTS_MAX as usize + (corelith_wire::limits::LARGE_VALUE_BYTES_MAX >> 19) as usize
            <= corelith_wire::limits::UPLOAD_CHUNKS_MAX
    );
    assert!(CHUNK_ATTEMPT_TIMEOUT.as_millis() < SILENCE_MAX.as_millis());
    assert!(HOLD_DEADLINE.as_millis() < HOLD_RENEW_PAUSE.as_millis());
    assert!(SCAN_PAGE_ITEMS as usize <= corelith_wire::limits::SCAN_ITEMS_MAX);
    assert!(SCAN_PAGE_BYTES_MAX as usize <= corelith_wire::limits::SCAN_PAGE_BYTES_MAX);
    assert!(FIND_TIMEOUT.as_millis() < DEADLINE.as_millis());
    assert!(REFUSED_GRACE.as_millis() + RETRY_PAUSE_MAX.as_millis() <= 1000);
    assert!(ATTEMPT_TIMEOUT.as_millis() < DEADLINE.as_millis());
    assert!(DAMAGED_PATIENCE.as_millis() < DEADLINE.as_millis());
    assert!(2 * SCAN_TOUCH_PAUSE.as_millis() + SCAN_TOUCH_DEADLINE.as_millis() < 30_000);
    assert!(REPLICA_ATTEMPT_TIMEOUT.as_millis() < ATTEMPT_TIMEOUT.as_millis());
    assert!(PROBE_TIMEOUT.as_millis() < PROBE_EVERY.as_millis());
    assert!(TICK.as_millis() * 10 <= ATTEMPT_TIMEOUT.as_millis());
    assert!(ATTEMPT_TIMEOUT.as_millis() < SILENCE_MAX.as_millis());
    assert!(CONNECT_PATIENCE.as_millis() < CONNECT_TIMEOUT.as_millis());
    assert!(TICK.as_millis() < SILENCE_DOUBT.as_millis());
    assert!(SILENCE_DOUBT.as_millis() < WAIT_DOUBT.as_millis());
    assert!(WAIT_DOUBT.as_millis() < ATTEMPT_TIMEOUT.as_millis());
    assert!(SEEK_PAUSE_MIN.as_millis() < SEEK_PAUSE_MAX.as_millis());
    assert!(RETRY_PAUSE_MIN.as_millis() < RETRY_PAUSE_MAX.as_millis());
    assert!(RECONNECT_PAUSE_MIN.as_millis() < RECONNECT_PAUSE_MAX.as_millis());
    assert!(REFUSED_SUSPICION.as_millis() < SILENT_SUSPICION.as_millis());
    assert!(ORDER_TIMEOUT.as_millis() < DEADLINE.as_millis());
    assert!(QUESTION_STAGGER.as_millis() < ORDER_TIMEOUT.as_millis());
    assert!(REFRESH_EVERY.as_millis() < DEADLINE.as_millis());
    assert!(QUESTION_TIMEOUT.as_millis() < WAIT_DOUBT.as_millis());
    assert!(SEEK_PAUSE_MAX.as_millis() <= RETRY_PAUSE_MAX.as_millis());
};
