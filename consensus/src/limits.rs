//! Every bound of this crate.

use std::time::Duration;

/// Proposals that a group accepts before the first of them is answered.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 16 * 1024;
/// Bytes of such proposals. A single larger one passes alone.
pub const PROPOSAL_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// Of a memtable, the part that may be on its way to the engine while it slows writers.
pub const SLOWED_MEMTABLE_PARTS: usize = 16;
/// Messages in a group's mailbox: all proposals, and room for everything else.
pub const MAILBOX_LEN_MAX: usize = 4 * PROPOSALS_IN_FLIGHT_MAX;
/// Batches of committed entries that wait to be applied. Applying waits while all memtables are full;
/// a full queue would stop the group's timers too, so it is long enough that the proposal budget
/// fills first on a leader, and [`APPLIES_WAITING_MAX`] on a follower.
pub const APPLY_QUEUE_LEN_MAX: usize = 64 * 1024;
/// Appends that a follower takes although what those before them have committed is not applied yet.
pub const APPLIES_WAITING_MAX: usize = APPLY_QUEUE_LEN_MAX / 2;
/// Entries that one append to a follower carries.
pub const APPEND_ENTRIES_MAX: usize = 4096;
/// Bytes of entries in one append to a follower, unless a single entry is larger.
pub const APPEND_BYTES: usize = 1 << 20;
/// Appends on their way to one follower of one shard.
pub const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of such appends; one append always goes.
pub const APPEND_BYTES_IN_FLIGHT_MAX: usize = 8 << 20;
/// Bytes of entries read from the log at once to be applied.
pub const APPLY_BYTES: u64 = 4 << 20;
/// Writes whose parsed form is kept until they are applied; others are parsed again.
pub const PARSED_AHEAD_MAX: usize = 4096;
/// Bytes of entries read from the log at once after a start, twice: one piece while another is applied.
pub const REPLAY_BYTES: u64 = 4 << 20;
/// Entries applied before other tasks of the core get a turn.
pub const APPLY_TURN_ENTRIES: usize = 64;
/// Readers that wait for one confirmation of leadership, and as many that wait for what others have shown.
pub const READERS_WAITING_MAX: usize = 64 * 1024;
/// A follower looks for a leader that names a read point for this part of the time that a request to a peer may take.
pub const FOLLOWER_ASK_PARTS: u32 = 4;
/// After a question for so many reads, the next ones gather for as long as it took.
pub const FOLLOWER_GATHER_FROM: usize = 16;
/// They gather for at most so long.
pub const FOLLOWER_GATHER_MAX: Duration = Duration::from_micros(300);
/// How long a follower waits before it asks again for a read point.
pub const FOLLOWER_PAUSE: Duration = Duration::from_millis(10);
/// How often a follower that waits for a read point to be applied takes the point itself for news of what is committed.
pub const FOLLOWER_FEED_EVERY: Duration = Duration::from_millis(20);
/// Requests to one peer that are not answered.
pub const PEER_REQUESTS_MAX: usize = 64 * 1024;
/// Bytes queued towards one peer before requests to it fail.
pub const PEER_QUEUE_BYTES_MAX: usize = 256 << 20;
/// What a peer connection reads at once.
pub const PEER_READ_BYTES: usize = 256 << 10;
/// What an idle peer connection reads at once.
pub const PEER_IDLE_READ_BYTES: usize = 16 << 10;
/// A longer buffer of a peer connection is freed once it was written.
pub const PEER_BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Answers that wait for a peer to take them; one that lets more pile up is disconnected.
pub const PEER_ANSWERS_BYTES_MAX: usize = 32 << 20;
/// Questions of a peer to the node that are not answered.
pub const NODE_ASKS_MAX: usize = 256;
/// The task of an append at a follower, which is allocated, and copied, for each of them.
pub const APPEND_TASK_BYTES_MAX: usize = 2 << 10;
/// Time that a peer has to complete a frame, or to take what one write gives it.
pub const PEER_TRANSFER_DEADLINE: Duration = Duration::from_secs(30);
/// How often that is looked at.
pub const PEER_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a leader waits before it tries again to read what is damaged, for a follower that needs it.
pub const DAMAGE_PAUSE: Duration = Duration::from_secs(2);
/// Pieces of files that a receiver asks for at once.
pub const FILE_PIECES_IN_FLIGHT: usize = 8;
/// After so long without a question an offer of files is withdrawn.
pub const FILES_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often a receiver that asks for nothing shows that it is there.
pub const FILES_SIGN_EVERY: Duration = Duration::from_secs(5);
/// How often a receiver that waits for its rate looks whether that has changed.
pub const COPY_RATE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Timers are late: a receiver makes up for so much of it.
pub const COPY_LATE_MAX: Duration = Duration::from_millis(20);
/// Bytes of files that a core sends in a second while a client asks for something of its shards: reading, checking and
/// writing them takes the processors and the disks that the answers need.
pub const COPY_BYTES_BESIDE_CLIENTS: u64 = 64 << 20;
/// What a core may send in a second: 0 is any number. An operator's `limit` is meant, whoever asks.
pub(crate) fn sending_rate(limit: u64, is_busy: bool) -> u64 {
    match (limit, is_busy) {
        (0, true) => COPY_BYTES_BESIDE_CLIENTS,
        _ => 0,
    }
}
/// So often a received file may turn out to be damaged before the sender's is taken for damaged.
pub const FILES_DAMAGED_MAX: u32 = 3;
/// How far above the own term a peer's may be; see `admission.rs`.
pub const TERM_STEP_MAX: u64 = 1 << 24;
/// How often a peer says the same of a term out of reach until the own term rises by a step.
pub const TERM_CLAIMS: u32 = 3;
/// Highest term that is taken from a peer.
pub const TERM_MAX: u64 = 1 << 40;
/// Highest log index that is taken from a peer: a thousand years of a million entries a second.
pub const INDEX_MAX: u64 = 1 << 55;
/// Stores of which it is said that they are no group's, in a run of a node.
pub const STRANGE_STORES_MAX: usize = 256;
/// Beats to one node that are not answered; with one more the connection is made anew.
pub const BEATS_IN_FLIGHT_MAX: usize = 256;
/// A connection for beats on which none is answered for twice the length of a promise, and for this long, is
/// made anew.
pub const BEATS_SILENCE_MIN: Duration = Duration::from_millis(500);
/// Time that it takes at most to connect for beats, with the introductions.
pub const BEATS_CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Conditional writes whose outcome a replica remembers for others, per group.
pub const DECISIONS_KEPT_MAX: usize = 16 * 1024;
/// Bytes of keys and values that a replica asks another one for at once.
pub const FETCH_BYTES: usize = 1 << 20;
/// Questions for what is damaged elsewhere that wait on one connection; they are answered one after the other.
pub const FETCHES_WAITING_MAX: usize = 256;
/// How long such an answer waits for the peer to take others ...
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(2);
/// ... and how often it looks.
pub const FETCH_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two repairs of a group.
pub const HEAL_PAUSE: Duration = Duration::from_millis(20);
/// How long a group waits before it tries again to heal what it could not; it doubles ...
pub const HEAL_RETRY: Duration = Duration::from_secs(1);
/// ... up to this.
pub const HEAL_RETRY_MAX: Duration = Duration::from_secs(30);
/// How long the repair of one range may keep compactions from beginning.
pub const HEAL_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take until as much is applied here as the other replica had: compactions rest meanwhile, without which
/// nothing is applied once there are too many runs.
pub const HEAL_WAIT_APPLIED: Duration = Duration::from_secs(5);
/// How long the start of a group waits for a conditional write whose key is damaged; it goes on waiting once the group runs.
pub const RELIEF_LIMIT_AT_START: Duration = Duration::from_secs(10);
/// How often it asks again.
pub const RELIEF_PAUSE: Duration = Duration::from_millis(100);
/// How often that is said.
pub const RELIEF_SAY_EVERY: Duration = Duration::from_secs(30);
/// Uploads of a shard that are neither committed nor given up.
pub const OPEN_UPLOADS_MAX: usize = 1024;
/// Values and uploads of a shard whose chunks are to be dropped, beyond which none begins: values that are read stay for a
/// while, and all do when another replica has come to lead.
pub const DEAD_UPLOADS_MAX: usize = 262_144;
/// Before that a leader has those who begin uploads come again a little later.
pub const DEAD_UPLOADS_SLOW: usize = DEAD_UPLOADS_MAX - 4 * OPEN_UPLOADS_MAX;
/// Keys of a shard whose value is an upload, beyond which none begins for another key: each is in memory on each replica, with
/// some 250 bytes and the key.
pub const LIVE_UPLOADS_MAX: usize = 4 << 20;
/// Chunks of all open uploads of a shard.
pub const STAGED_CHUNKS_MAX: usize = 262_144;
/// Uploads of a shard of which nothing is left and of which it is known how they ended: the last ones.
pub const ENDED_UPLOADS_KEPT_MAX: usize = 4096;
/// How long an upload may take unless its client says so ...
pub const UPLOAD_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// ... at least ...
pub const UPLOAD_TTL_MIN: Duration = Duration::from_secs(1);
/// ... and at most.
pub const UPLOAD_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Uploads that one entry lets expire.
pub const EXPIRE_UPLOADS_MAX: usize = 64;
/// Chunks that one entry drops.
pub const DROP_CHUNKS_MAX: usize = 512;
/// Bytes of chunks that are proposed and not decided, in one group.
pub const UPLOAD_LANE_BYTES: usize = 4 << 20;
/// The same while small writes are proposed too: one chunk at a time. Chunks are written and sent before what comes later, so a
/// small write waits behind as many. Beside four uploads the p50 and p99 of small writes were 11 and 21 ms with 4 MiB on their
/// way, 3.1 and 6.3 ms with 1 MiB, and 1.8 and 3.8 ms with one chunk (0.7 and 1.3 ms without uploads).
pub const UPLOAD_LANE_BYTES_BESIDE_WRITES: usize = corelith_wire::limits::CHUNK_BYTES_MAX;
/// How long the lane rests at most behind a chunk beside small writes. It rests as long as the chunk took, so that half of the
/// time the disk and the cores have no chunk of the group to do.
pub const UPLOAD_LANE_REST_MAX: Duration = Duration::from_millis(20);
/// For so long a small write counts as one of those.
pub const WRITES_COUNT_FOR: Duration = Duration::from_secs(1);
/// Chunks that wait to be proposed, in one group.
pub const UPLOAD_LANE_WAITING_MAX: usize = 4096;
/// How long a large value that was replaced stays readable after a reader has said that it reads it, or after another
/// replica leads, to which readers may have said so.
pub const HOLD_VALUE: Duration = Duration::from_secs(60);
/// Values that readers hold, in one group, of which each is known; of more than these it is known by a bit of a few.
pub const HELD_VALUES_MAX: usize = 64 * 1024;
/// Bits for those beyond, twice: 256 KiB of memory.
pub const HELD_BITS: usize = 1 << 20;
/// Uploads of which a leader drops chunks at a time. One after the other they would take a turn of the log each, and three
/// clients that overwrite values as fast as they can would outrun it.
pub const DROPS_IN_FLIGHT_MAX: usize = 64;
/// Chunks that such entries drop together: applying them holds up what else the core does.
pub const DROP_CHUNKS_IN_FLIGHT_MAX: usize = 2 * DROP_CHUNKS_MAX;
/// Of what is dead, how much a leader looks each time.
pub const DEAD_LOOKED_AT_MAX: usize = 8192;
/// Rows of uploads that are read at once, and bytes of them.
pub const UPLOAD_ROWS: usize = 4096;
/// See [`UPLOAD_ROWS`].
pub const UPLOAD_ROWS_BYTES: usize = 4 << 20;
/// Members of one group.
pub const MEMBERS_MAX: usize = 64;

/// Entries by which a replica may be behind that is made a voter.
pub const VOTER_LAG_MAX: u64 = 256;

/// Over so many connections in turn a peer must have said that it lacks what it had acknowledged, before its store is
/// excluded.
pub const LOST_CONNECTIONS: usize = 3;

const _: () = assert!(PROPOSALS_IN_FLIGHT_MAX < MAILBOX_LEN_MAX);
const _: () = assert!(PROPOSALS_IN_FLIGHT_MAX < APPLY_QUEUE_LEN_MAX);
const _: () = assert!(2 * UPLOAD_LANE_BYTES <= PROPOSAL_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(UPLOAD_LANE_BYTES_BESIDE_WRITES <= UPLOAD_LANE_BYTES);
const _: () = assert!(APPLIES_WAITING_MAX < APPLY_QUEUE_LEN_MAX);
const _: () = assert!(TERM_STEP_MAX < TERM_MAX && TERM_MAX < u64::MAX - TERM_STEP_MAX);
const _: () = assert!(APPEND_BYTES <= APPEND_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(APPENDS_IN_FLIGHT_MAX < PEER_REQUESTS_MAX);
const _: () = assert!(PEER_IDLE_READ_BYTES < PEER_READ_BYTES);
const _: () = assert!(APPEND_ENTRIES_MAX <= PROPOSALS_IN_FLIGHT_MAX);
const _: () = assert!(PEER_BUFFER_BYTES_KEPT < PEER_ANSWERS_BYTES_MAX);
const _: () = assert!(FETCH_BYTES <= corelith_shards::limits::FETCH_BYTES_MAX);
const _: () = assert!(4 * FILES_SIGN_EVERY.as_secs() <= FILES_SILENCE_MAX.as_secs());
const _: () = assert!(FETCH_BYTES < PEER_ANSWERS_BYTES_MAX);
const _: () = assert!(FETCH_LOOK_EVERY.as_millis() < FETCH_WAIT_MAX.as_millis());
const _: () = assert!(HEAL_RETRY.as_millis() < HEAL_RETRY_MAX.as_millis());
const _: () = assert!(HEAL_WAIT_APPLIED.as_millis() < HEAL_LIMIT.as_millis());
const _: () = assert!(RELIEF_PAUSE.as_millis() < RELIEF_LIMIT_AT_START.as_millis());
const _: () = assert!(RELIEF_PAUSE.as_millis() < RELIEF_SAY_EVERY.as_millis());
const _: () = assert!(FOLLOWER_GATHER_MAX.as_millis() < FOLLOWER_PAUSE.as_millis());
