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
/// Time a frame has to arrive completely once it has begun: a connection that sends a byte a second
/// is closed.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(30);
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
pub const RECEIVE_BUFFER_BYTES: usize = 64 << 10;
/// Values longer than this are sent from where they are, without a copy into the answer buffer.
pub const COPIED_VALUE_LEN_MAX: usize = 32 << 10;

/// Batches that wait in the channel from one core to another.
pub const MESH_BATCHES_MAX: usize = 256;
/// Forwarded requests that wait for room in that channel; beyond, they are answered `Throttled`.
pub const MESH_WAITING_MAX: usize = 16_384;

/// Items of one page of a scan.
pub const SCAN_PAGE_ITEMS_MAX: usize = 4096;
/// Bytes of keys and values of one page of a scan (one item may exceed it).
pub const SCAN_PAGE_BYTES_MAX: usize = 1 << 20;

/// Time that a stop has for closing everything in order, before the process ends anyway.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a starting core looks whether its shards have leaders.
pub const READY_POLL: Duration = Duration::from_millis(10);

const _: () = assert!(MEMTABLE_BYTES_MIN < MEMTABLE_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
const _: () = assert!(HEARTBEAT_MS_MAX * 5 <= ELECTION_MS_MAX);
const _: () = assert!(ANSWERS_PER_CONNECTION_BYTES_MAX < REQUESTS_PER_CORE_BYTES_MAX);
const _: () = assert!(COPIED_VALUE_LEN_MAX < ANSWERS_PER_CONNECTION_BYTES_MAX);
