//! Every bound of the node, in one place.

use std::time::Duration;

/// Nodes of a cluster.
pub const NODES_MAX: usize = 64;
/// Cores of a node.
pub const CORES_MAX: u16 = 256;
/// Shards of a cluster.
pub const SHARDS_MAX: u32 = 4096;
/// Replicas of a shard, if the configuration does not say.
pub const REPLICAS_DEFAULT: u32 = 3;
/// Replicas of a shard: each more costs a copy of everything and gains little.
pub const REPLICAS_MAX: u32 = 7;
/// Bytes of a cluster's name.
pub const CLUSTER_NAME_LEN_MAX: usize = 64;

/// Bounds of `storage.memtable_bytes`.
pub const MEMTABLE_BYTES_MIN: u64 = 1 << 20;
/// See [`MEMTABLE_BYTES_MIN`].
pub const MEMTABLE_BYTES_MAX: u64 = 4 << 30;
/// Bounds of `storage.segment_bytes`: a segment holds at least one of the largest entries.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// See [`SEGMENT_BYTES_MIN`].
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Bounds of `storage.log_cache_bytes`.
pub const LOG_CACHE_BYTES_MIN: u64 = 1 << 20;
/// See [`LOG_CACHE_BYTES_MIN`].
pub const LOG_CACHE_BYTES_MAX: u64 = 1 << 30;
/// Bounds of `storage.block_cache_bytes`.
pub const BLOCK_CACHE_BYTES_MIN: u64 = 1 << 20;
/// See [`BLOCK_CACHE_BYTES_MIN`].
pub const BLOCK_CACHE_BYTES_MAX: u64 = 64 << 30;
/// Bounds of `storage.catch_up_bytes`.
pub const CATCH_UP_BYTES_MIN: u64 = 1 << 20;
/// See [`CATCH_UP_BYTES_MIN`].
pub const CATCH_UP_BYTES_MAX: u64 = 64 << 30;
/// Bounds of `storage.value_segment_bytes`: a segment holds at least one of the largest values.
pub const VALUE_SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// See [`VALUE_SEGMENT_BYTES_MIN`].
pub const VALUE_SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Largest `storage.reserve_bytes`.
pub const RESERVE_BYTES_MAX: u64 = 64 << 30;
/// Bounds of `storage.scrub_bytes_per_second`, unless it is 0.
pub const SCRUB_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// See [`SCRUB_BYTES_PER_SECOND_MIN`].
pub const SCRUB_BYTES_PER_SECOND_MAX: u64 = 1 << 30;
/// How fast a shard is scrubbed unless configured: a terabyte in six days, a hundred gigabytes in 14
/// hours. The 24 shards of the sample's nodes take 48 MiB/s of a device together, some 5 %.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 2 << 20;
/// Bounds of `raft.heartbeat_ms`.
pub const HEARTBEAT_MS_MIN: u64 = 10;
/// See [`HEARTBEAT_MS_MIN`].
pub const HEARTBEAT_MS_MAX: u64 = 10_000;
/// Largest `raft.election_ms`.
pub const ELECTION_MS_MAX: u64 = 60_000;

/// Locked memory of the rings of one core; the kernel default allows 8 MiB for all of a user's
/// processes.
pub const LOCKED_MEMORY_PER_CORE_BYTES: usize = 512 << 10;

/// Open connections of one core, clients and peers.
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;
/// Time a new connection has for its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Receive buffer of a connection that has not introduced itself yet.
pub const HANDSHAKE_BUFFER_BYTES: usize = 4 << 10;
/// Time a frame has to arrive completely once it has begun, and a batch of answers to be taken:
/// a connection that sends or takes a byte a second is closed. Large ones get more, see
/// [`TRANSFER_BYTES_PER_SECOND_MIN`].
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(30);
/// Slowest connection that can move a large value in time.
pub const TRANSFER_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// How often a core looks for connections that are past a deadline.
pub const DEADLINE_SWEEP: Duration = Duration::from_secs(1);
/// Requests of one connection that are not answered yet; beyond, its socket is not read.
pub const IN_FLIGHT_PER_CONNECTION_MAX: u32 = 4096;
/// Answers of one connection that wait for its socket, in bytes; beyond, it is not read.
pub const ANSWERS_PER_CONNECTION_BYTES_MAX: usize = 1 << 20;
/// Requests and answers in memory of one core, in bytes; beyond, requests are answered `Throttled`.
pub const REQUESTS_PER_CORE_BYTES_MAX: usize = 256 << 20;
/// What a client is told to wait after `Throttled`.
pub const THROTTLED_RETRY_AFTER: Duration = Duration::from_millis(20);
/// Receive buffer of a connection, grown only for one frame that is larger.
pub const RECEIVE_BUFFER_BYTES: usize = 128 << 10;
/// With less space than this left, the next read gets a new buffer.
pub const RECEIVE_SPACE_BYTES_MIN: usize = 16 << 10;
/// Answer buffer that a connection starts with.
pub const ANSWER_BUFFER_BYTES: usize = 16 << 10;
/// Frames dispatched before other tasks may run.
pub const FRAMES_PER_TURN: usize = 32;
/// Reads from disk under way for clients of one core. Each may bring one value of the largest size
/// into memory that the budget does not know of yet.
pub const DISK_READS_PER_CORE_MAX: usize = 32;
/// Reads that wait for their turn at the disk.
pub const DISK_READS_WAITING_MAX: usize = 16_384;
/// Scans of several pages whose view a core keeps; beyond, a view of the client that has most of them
/// goes.
pub const SCAN_VIEWS_PER_CORE_MAX: usize = 1024;
/// How long the view of a scan is kept for its next page.
/// Clients use the views of open scans more often, also if nothing more is wanted for a while.
pub const SCAN_VIEW_KEPT: Duration = Duration::from_secs(30);
/// How long the view of a scan is kept for a client whose connection has closed.
pub const SCAN_VIEW_ORPHANED: Duration = Duration::from_secs(10);

/// Batches that wait in the channel from one core to another.
pub const MESH_BATCHES_MAX: usize = 256;
/// Forwarded requests that wait for room in that channel; beyond, they are answered `Throttled`.
pub const MESH_WAITING_MAX: usize = 16_384;

/// How long a core waits for what the others say of their shards.
pub const STATUS_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left), so that it is not tried in a spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open connections may take to write their last answers when the node stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// Time that a stop has for closing everything in order, before the process ends anyway.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// A signal this long after the one that began the stop ends the process at once.
pub const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(500);
/// Exit code of a process that could not stop in order.
pub const EXIT_CODE_GAVE_UP: i32 = 5;
/// Shards of a core that are opened at once.
pub const SHARDS_OPENED_AT_ONCE: usize = 8;
/// How often a starting core looks whether its shards have leaders.
pub const READY_POLL: Duration = Duration::from_millis(10);

const _: () = assert!(MEMTABLE_BYTES_MIN < MEMTABLE_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
const _: () =
    assert!(VALUE_SEGMENT_BYTES_MIN >= 2 * corelith_shards::limits::VALUE_BYTES_MAX as u64);
const _: () = assert!(VALUE_SEGMENT_BYTES_MAX <= corelith_shards::limits::VLOG_SEGMENT_BYTES_MAX);
const _: () = assert!(2 * MEMTABLE_BYTES_MAX + SEGMENT_BYTES_MAX <= RESERVE_BYTES_MAX);
const _: () = assert!(HEARTBEAT_MS_MAX * 5 <= ELECTION_MS_MAX);
const _: () = assert!(ANSWERS_PER_CONNECTION_BYTES_MAX < REQUESTS_PER_CORE_BYTES_MAX);
const _: () = assert!(RECEIVE_SPACE_BYTES_MIN < RECEIVE_BUFFER_BYTES);
const _: () = assert!(SHARDS_MAX <= corelith_wire::limits::SHARDS_MAX);
const _: () = assert!(NODES_MAX <= corelith_wire::limits::NODES_MAX);
const _: () = assert!(REPLICAS_MAX as usize <= corelith_wire::limits::REPLICAS_MAX);
const _: () =
    assert!(IN_FLIGHT_PER_CONNECTION_MAX >= corelith_wire::limits::CONNECTION_IN_FLIGHT_MAX);
const _: () = assert!(SCAN_VIEW_ORPHANED.as_millis() < SCAN_VIEW_KEPT.as_millis());
