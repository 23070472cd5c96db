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

/// Nodes in the cluster map, those that were removed included.
pub const MAP_NODES_MAX: usize = 4096;
/// Nodes in the map that were not removed: clients take no more.
pub const MAP_LIVE_NODES_MAX: usize = corelith_wire::limits::NODES_MAX;
/// Longest host name, in bytes.
pub const HOST_LEN_MAX: usize = corelith_wire::limits::HOST_BYTES_MAX;
/// Longest name of a zone or a region, in bytes.
pub const ZONE_LEN_MAX: usize = 64;
/// Replicas of the shard that holds the map; an even number of nodes has one less.
pub const META_REPLICAS_MAX: usize = 5;
/// Bounds of `rebuild_after_s`: a node that restarts must not cost a copy of everything on it.
pub const REBUILD_AFTER_S_MIN: u32 = 10;
/// See [`REBUILD_AFTER_S_MIN`].
pub const REBUILD_AFTER_S_MAX: u32 = 30 * 86_400;
/// Its value at first.
pub const REBUILD_AFTER_S_DEFAULT: u32 = 900;
/// Most `moves_max`.
pub const MOVES_MAX: u32 = 1024;
/// Its value at first.
pub const MOVES_DEFAULT: u32 = 8;
/// Most `moves_per_node_max`.
pub const MOVES_PER_NODE_MAX: u32 = 64;
/// Its value at first.
pub const MOVES_PER_NODE_DEFAULT: u32 = 2;
/// Least `copy_bytes_per_second`, unless it is 0.
pub const COPY_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// Most `copy_bytes_per_second`.
pub const COPY_BYTES_PER_SECOND_MAX: u64 = 1 << 40;

const _: () = {
    assert!(MAP_LIVE_NODES_MAX <= MAP_NODES_MAX && NODES_MAX <= MAP_LIVE_NODES_MAX);
    assert!(SHARDS_MAX <= corelith_wire::limits::SHARDS_MAX);
    assert!(REPLICAS_MAX as usize <= corelith_wire::limits::REPLICAS_MAX);
    assert!(META_REPLICAS_MAX <= REPLICAS_MAX as usize && META_REPLICAS_MAX % 2 == 1);
    assert!(MAP_NODES_MAX <= NODES_MET_MAX);
    assert!(REBUILD_AFTER_S_MIN <= REBUILD_AFTER_S_DEFAULT);
    assert!(REBUILD_AFTER_S_DEFAULT <= REBUILD_AFTER_S_MAX);
    assert!(MOVES_DEFAULT <= MOVES_MAX);
    assert!(MOVES_PER_NODE_DEFAULT <= MOVES_PER_NODE_MAX && MOVES_PER_NODE_MAX <= MOVES_MAX);
    assert!(COPY_BYTES_PER_SECOND_MIN < COPY_BYTES_PER_SECOND_MAX);
    assert!(REPLICAS_DEFAULT <= REPLICAS_MAX);
    // Their lengths are single bytes in the map.
    assert!(HOST_LEN_MAX <= u8::MAX as usize);
    assert!(ZONE_LEN_MAX < HOST_LEN_MAX);
};

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
/// Largest `storage.scrub_cycle_seconds`: a month.
pub const SCRUB_CYCLE_SECONDS_MAX: u64 = 30 * 24 * 3600;
/// How fast a shard is scrubbed unless configured: a terabyte in six days, a hundred gigabytes in 14
/// hours. The 24 shards of the sample's nodes take 48 MiB/s of a device together, some 5 %.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 2 << 20;
/// Smallest `liveness.beat_ms`.
pub const BEAT_MS_MIN: u64 = 10;
/// Longest such time: a node with the shortest promise must hear any other one three times within it.
pub const BEAT_MS_MAX: u64 = 100;
/// Bounds of `liveness.promise_ms`.
pub const PROMISE_MS_MIN: u64 = 300;
/// See [`PROMISE_MS_MIN`]. Also what a store may have promised that says nothing of it: whoever was led by its
/// node's older version, with elections after 5 s and less, is not outvoted by it after a start.
pub const PROMISE_MS_MAX: u64 = 10_000;
/// Connections with beats on their way to the core of the beats.
pub const BEATS_HANDED_OVER_MAX: usize = 4 * NODES_MAX;

/// Locked memory of the rings of one core, also of that of the beats: the least that glommio takes. The kernel default allows 8 MiB for all of a user's
/// processes.
pub const LOCKED_MEMORY_PER_CORE_BYTES: usize = 512 << 10;

/// How long a page from another replica waits until as much is applied here ...
pub(crate) const ELSEWHERE_APPLIED_WAIT: Duration = Duration::from_secs(2);
/// ... and how often it looks.
pub(crate) const ELSEWHERE_APPLIED_LOOK: Duration = Duration::from_millis(5);

const _: () = assert!(PROMISE_MS_MAX as u128 == corelith_wire::peer::PROMISE_MAX.as_millis());

/// Open files of a node apart from its clients' connections, roughly.
pub const OPEN_FILES_MIN: u64 = 16_384;
/// Clients of one core; a smaller budget allows fewer.
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;
/// Memory of a client's connection: its tasks, and the part of a frame that needs no permit.
pub const CONNECTION_BYTES: usize = 8 << 10;
/// The task of a connection, before what it spawns around it, which about doubles it.
pub const CONNECTION_TASK_BYTES_MAX: usize = 1 << 10;
/// Connections of one core that have not introduced themselves; the oldest goes for one more.
pub const STRANGERS_PER_CORE_MAX: usize = 1024;
/// Connections of each core of a peer. There is one, and one that is not known to be dead yet; the oldest goes for
/// one more.
pub const CONNECTIONS_PER_PEER_CORE_MAX: usize = 4;
/// A client that was idle for less is never closed for want of places.
pub const IDLE_MIN: Duration = Duration::from_secs(60);
/// How long a client may be idle, unless configured.
pub const IDLE_SECONDS_DEFAULT: u64 = 3600;
/// Largest `clients.idle_seconds`.
pub const IDLE_SECONDS_MAX: u64 = 30 * 86_400;
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
pub const DEADLINE_SWEEP: Duration = Duration::from_millis(250);
/// Requests of one connection that are not answered yet; beyond, its socket is not read.
pub const IN_FLIGHT_PER_CONNECTION_MAX: u32 = 4096;
/// Answers of one connection that wait for its socket, in bytes; beyond, it is not read.
pub const ANSWERS_PER_CONNECTION_BYTES_MAX: usize = 1 << 20;
/// Bounds of `clients.memory_bytes`: its share of long answers holds one of the longest.
pub const CLIENT_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// See [`CLIENT_MEMORY_BYTES_MIN`].
pub const CLIENT_MEMORY_BYTES_MAX: u64 = 64 << 30;
/// Memory for the clients of one core, unless configured.
pub const CLIENT_MEMORY_BYTES_DEFAULT: u64 = 512 << 20;
/// Memory of a request apart from its frame: its task or callbacks, and a short answer.
pub const REQUEST_BYTES: usize = 1 << 10;
/// Longest answer that a request has memory for without asking.
pub const ANSWER_BYTES_COVERED: usize = 512;
/// Bytes of an answer apart from its values.
pub const ANSWER_HEAD_BYTES: usize = 192;
/// Answers up to this length have a share of their own, so that longer ones do not keep them waiting.
pub const ANSWER_BYTES_SMALL: usize = 64 << 10;
/// Answers that one connection may have on their way, in bytes: two of the longest, one that is read while the
/// other is written.
pub const CREDIT_PER_CONNECTION_BYTES: usize = 17 << 20;
/// Room that a forwarded get is given before its value's length is known.
pub const FORWARDED_ANSWER_BYTES: usize = 8 << 10;
/// With this much less in use than before, freed memory is given back to the system ...
pub const TRIM_BYTES: usize = 24 << 20;
/// ... when it stays so for as many looks (5 s): giving back and getting anew costs both time.
pub const TRIM_AFTER_LOOKS: u32 = 20;
/// What a client is told to wait after `Throttled`.
pub const THROTTLED_RETRY_AFTER: Duration = Duration::from_millis(20);
/// What one read brings at most, but for the rest of a long frame.
pub const READ_BYTES: usize = 64 << 10;
/// A part of a shorter frame is kept without a permit.
pub const FRAME_BYTES_FREE: usize = 1 << 10;
/// Longer frames are uploads, with a share of their own.
pub const FRAME_BYTES_SMALL: usize = 64 << 10;
/// Bytes given to a socket at once; how fast they are taken is looked at in between.
pub const WRITE_PIECE_BYTES: usize = 256 << 10;
/// A connection that is slower than [`TRANSFER_BYTES_PER_SECOND_MIN`] at this many looks in a row (3 s) is closed if
/// others wait for what it holds ...
pub const SLOW_LOOKS_MAX: u32 = 12;
/// ... and one that stands still sooner, within a second.
pub const STILL_LOOKS: u32 = 3;
/// What a connection has to move between two looks.
pub const TRANSFER_BYTES_PER_LOOK_MIN: u64 =
    TRANSFER_BYTES_PER_SECOND_MIN * DEADLINE_SWEEP.as_millis() as u64 / 1000;
/// What the longest of them takes.
pub const UPLOAD_BYTES_MAX: usize =
    corelith_wire::limits::HEADER_BYTES + corelith_wire::limits::WRITE_BYTES_MAX + REQUEST_BYTES;
/// The first bytes of a longer frame have a share of their own. They show how fast its sender is.
pub const UPLOAD_START_BYTES: usize = 128 << 10;
/// A sender that takes longer for them is slow.
pub const UPLOAD_START_WITHIN: Duration = Duration::from_millis(250);
/// An upload that others wait for is refused when it is slower than this at [`UPLOAD_SLOW_LOOKS_MAX`] looks in a row: it
/// holds memory for the longest value for at most 16 s.
pub const UPLOAD_BYTES_PER_SECOND_MIN: u64 = UPLOAD_START_BYTES as u64 * 4;
/// Looks in a row at which an upload may be slow, 0.5 s.
pub const UPLOAD_SLOW_LOOKS_MAX: u32 = 2;
/// What an upload that others wait for has to move between two looks.
pub const UPLOAD_BYTES_PER_LOOK_MIN: u64 =
    UPLOAD_BYTES_PER_SECOND_MIN * DEADLINE_SWEEP.as_millis() as u64 / 1000;
/// How long a client is told to wait after its upload was too slow.
pub const SLOW_UPLOAD_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Answer buffer that a connection starts with when an answer is ready.
pub const ANSWER_BUFFER_BYTES: usize = 16 << 10;
/// A longer one is freed instead of kept for the next connection.
pub const ANSWER_BUFFER_BYTES_KEPT: usize = 256 << 10;
/// Idle answer buffers of a core.
pub const ANSWER_BUFFERS_KEPT: usize = 32;
/// Connections of a core whose refusal is logged, in each of ...
pub const REJECTIONS_LOGGED_MAX: u32 = 10;
/// ... these spans.
pub const REJECTIONS_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Connections looked at for deadlines before other tasks may run.
pub const CONNECTIONS_PER_TURN: usize = 128;
/// Frames dispatched before other tasks may run.
pub const FRAMES_PER_TURN: usize = 32;
/// Reads from disk under way for clients of one core. Each may bring some blocks of an index into memory, beside
/// the value that the budget knows of.
pub const DISK_READS_PER_CORE_MAX: usize = 32;
/// Reads that wait for their turn at the disk.
pub const DISK_READS_WAITING_MAX: usize = 16_384;
/// How often the key of a large value that was overwritten before it was described is looked up again.
pub const DESCRIPTIONS_TRIED_MAX: usize = 8;
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

/// Most bytes of what a node says of itself, its shards and their damage aside.
pub const STATUS_BYTES: usize = 1 << 10;
/// Most bytes of what it says of one shard, its uploads included.
pub const STATUS_SHARD_BYTES: usize = 192;
/// Most bytes of what it says of one node that it refuses.
pub const STATUS_STRANGER_BYTES: usize = 512;
/// Longest line of it about another node that is none.
pub const STATUS_PEER_BYTES: usize = 128;
/// Most bytes of what it says of the storage of one shard, damage aside.
pub const STORAGE_SHARD_BYTES: usize = 1 << 10;
/// How long a core waits for what the others say of their shards.
pub const STATUS_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of descriptors or memory ...
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// ... or after this many failures in a row for which the cause is not known.
pub const ACCEPT_FAILURES_MAX: u32 = 100;
/// How long open connections may take to write their last answers when the node stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// Time that a stop has for closing everything in order, before the process ends anyway.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// A signal this long after the one that began the stop ends the process at once.
pub const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(500);
/// Exit code of a process that could not stop in order.
pub const EXIT_CODE_GAVE_UP: i32 = 5;
/// How long a start waits for a port that is taken: the kernel closes the sockets of a process that was
/// killed with operations in its rings some time after its end.
pub const PORT_GRACE: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
pub const PORT_POLL: Duration = Duration::from_millis(20);
/// Pause after the identity of the data directory could not be written.
pub const IDENTITY_RETRY: Duration = Duration::from_secs(1);
/// How often the identity on disk is compared with the one in memory.
pub const IDENTITY_CHECK: Duration = Duration::from_secs(60);
/// How often a store's mark rises: an image that was taken of a running node is told from a restart if the node ran on
/// for so long.
pub const MARK_EVERY: Duration = Duration::from_secs(10);
/// How often the marks that others have told are written down, at most.
pub const MARK_LOOK: Duration = Duration::from_secs(1);
/// Nodes that a store remembers to have met: all that the map may have.
pub const NODES_MET_MAX: usize = 4096;
/// Time for a question to another node itself.
pub const NODE_ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Time for one that changes the members of a shard: a snapshot may be on its way.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// Nodes that are asked in turn for the leader of the meta shard.
pub const META_ASKS_MAX: usize = 8;
/// Questions for the leader of the meta shard that wait at it.
pub const META_QUESTIONS_MAX: usize = 1024;
/// Nodes that wait to be taken in by one node.
pub const JOINS_WAITING_MAX: usize = 16;
/// How often a node looks whether another one knows a newer map.
pub const MAP_LOOK: Duration = Duration::from_millis(100);
/// How often a core looks again for what the map says of its shards.
pub const MAP_FOLLOWED_EVERY: Duration = Duration::from_secs(1);
/// How often a node says how it is.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How soon it says so again if that did not come to whoever leads the meta shard.
pub const REPORT_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A node that was heard within this time is asked before others.
pub const NODE_HEARD_LATELY: Duration = Duration::from_secs(1);
/// How often a node that waits for an answer looks whether another node leads the meta shard.
pub const META_LEADER_LOOK: Duration = Duration::from_millis(100);
/// How often a node says so whose replicas are as they were.
pub const REPORT_AT_REST_EVERY: Duration = Duration::from_secs(3);
/// How long the state of the cluster waits, after a node has begun to lead the meta shard, for the reports that nodes make
/// then.
pub const REPORTS_AWAITED: Duration = Duration::from_millis(1500);
/// How often it is looked whether they are there.
pub const REPORTS_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Placements on their way to the core of the beats.
pub const MAPS_WAITING_MAX: usize = 16;
/// How long a node that joins waits for an answer.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node that is refused is shown after it has come last.
pub const STRANGER_SHOWN: Duration = Duration::from_secs(60);
/// Time for one question to another node about the cluster, the connection included.
pub const FORMATION_ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Time for finding out whether an earlier start of a store still runs.
pub const FORMATION_NAME_DEADLINE: Duration = Duration::from_millis(400);
/// How long a majority of the first nodes waits for the others before it forms the cluster without them.
pub const FORMATION_GRACE: Duration = Duration::from_secs(3);
/// Pause between two looks at the other nodes, half of it to one and a half at random: at first ...
pub const FORMATION_PAUSE_MIN: Duration = Duration::from_millis(50);
/// ... and, after it has doubled a few times, at last.
pub const FORMATION_PAUSE_MAX: Duration = Duration::from_secs(1);
/// For how long the others must say that another store has taken a node's place, while it runs by a map that names its
/// own.
pub const REPLACED_BELIEVED: Duration = Duration::from_secs(10);
/// A node that waits says so again after this time.
pub const FORMATION_TOLD_EVERY: Duration = Duration::from_secs(300);
/// Most bytes of a question about the formation, or of its answer.
pub const FORMATION_FRAME_BYTES_MAX: usize = 16 << 10;
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
const _: () = assert!(CLIENT_MEMORY_BYTES_MIN <= CLIENT_MEMORY_BYTES_DEFAULT);
/// The smallest shares hold the longest frame and the longest answer, and many starts.
const _: () = assert!(CLIENT_MEMORY_BYTES_MIN as usize / 32 * 5 > UPLOAD_BYTES_MAX);
const _: () = assert!(CLIENT_MEMORY_BYTES_MIN as usize / 32 * 3 >= 32 * UPLOAD_START_BYTES);
const _: () = assert!(UPLOAD_START_BYTES > FRAME_BYTES_SMALL + READ_BYTES - 1);
const _: () = assert!(UPLOAD_BYTES_PER_SECOND_MIN > TRANSFER_BYTES_PER_SECOND_MIN);
const _: () = assert!(
    CLIENT_MEMORY_BYTES_MIN as usize / 4
        >= corelith_wire::limits::HEADER_BYTES
            + corelith_wire::limits::SCAN_REPLY_BYTES_MAX
            + REQUEST_BYTES
);
const _: () = assert!(ANSWER_BYTES_COVERED >= ANSWER_HEAD_BYTES);
const _: () = assert!(REQUEST_BYTES >= ANSWER_BYTES_COVERED);
const _: () = assert!(FRAME_BYTES_SMALL <= READ_BYTES);
const _: () = assert!(FRAME_BYTES_FREE < CONNECTION_BYTES);
const _: () = assert!(SHARDS_MAX <= corelith_wire::limits::SHARDS_MAX);
const _: () = assert!(NODES_MAX <= corelith_wire::limits::NODES_MAX);
const _: () = assert!(REPLICAS_MAX as usize <= corelith_wire::limits::REPLICAS_MAX);
const _: () =
    assert!(IN_FLIGHT_PER_CONNECTION_MAX >= corelith_wire::limits::CONNECTION_IN_FLIGHT_MAX);
const _: () = assert!(MARK_LOOK.as_millis() < MARK_EVERY.as_millis());
const _: () = assert!(FORMATION_NAME_DEADLINE.as_millis() < FORMATION_ASK_DEADLINE.as_millis());
const _: () = assert!(NODES_MAX * 24 + 1024 <= FORMATION_FRAME_BYTES_MAX);
const _: () = assert!(NODE_ASK_DEADLINE.as_millis() < JOIN_DEADLINE.as_millis());
const _: () = assert!(SCAN_VIEW_ORPHANED.as_millis() < SCAN_VIEW_KEPT.as_millis());

/// How often the keeper of the cluster map looks whether something is to be done.
pub const META_LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it looks while nothing changes.
pub const META_LOOK_AT_REST_EVERY: Duration = Duration::from_secs(2);
/// A node is given no other store while its own was heard so lately, in milliseconds.
pub const REJOIN_SILENCE_MS: u64 = 10_000;
/// Stores that wait for an operator to take them in.
pub const META_WAITING_MAX: usize = 256;

const _: () = assert!(META_LOOK_EVERY.as_millis() <= REPORT_EVERY.as_millis());
const _: () = assert!(REPORT_EVERY.as_millis() < REPORTS_AWAITED.as_millis());
const _: () = assert!(REPORTS_AWAITED.as_millis() < NODE_ASK_DEADLINE.as_millis());
/// A node is heard several times before it counts as silent.
const _: () = assert!(3 * REPORT_AT_REST_EVERY.as_millis() < REJOIN_SILENCE_MS as u128);
const _: () = assert!(REJOIN_SILENCE_MS <= REBUILD_AFTER_S_MIN as u64 * 1000);
const _: () = assert!(NODE_ASK_DEADLINE.as_millis() < CHANGE_DEADLINE.as_millis());
const _: () = assert!(MAP_LOOK.as_millis() < MAP_FOLLOWED_EVERY.as_millis());
const _: () = assert!(ELSEWHERE_APPLIED_LOOK.as_millis() < ELSEWHERE_APPLIED_WAIT.as_millis());
const _: () = assert!(FORMATION_PAUSE_MIN.as_millis() < FORMATION_PAUSE_MAX.as_millis());
const _: () = assert!(SECOND_SIGNAL_AFTER.as_millis() < STOP_DEADLINE.as_millis());
