//! Every bound of the storage layer.

use corelith_io::BLOCK_SIZE;
use std::time::Duration;

/// Longest user key. Keys live in memtables, in every index and in every prefix-compressed block;
/// one 4 KiB page is twice what etcd's and FoundationDB's users are advised to stay under, and keeps
/// a block of the smallest useful number of keys well under one I/O.
pub const KEY_BYTES_MAX: usize = 4096;

/// Longest value: one chunk.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// The largest single read or write.
pub const IO_BYTES_MAX: usize = 1 << 20;

/// Longest membership record.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 << 10;

// ---- log ----

/// Longest body of a log entry: a value, its key and what the command adds to them.
pub const LOG_ENTRY_BYTES_MAX: usize = VALUE_BYTES_MAX + (64 << 10);

/// The longest block of the log, which is its largest write. Larger ones gain nothing: the device is
/// kept busy by several in flight.
pub const LOG_BLOCK_BYTES_MAX: usize = 256 << 10;

/// Block writes in flight at once. The device gives 47 k durable 16 KiB writes a second at 16, twice
/// the rate at 4.
pub const LOG_WRITES_IN_FLIGHT_MAX: usize = 16;

/// Below this many writes in flight, whatever is staged is submitted at once; from here on only
/// full blocks are, and smaller appends gather.
pub const LOG_EAGER_WRITES: usize = 2;

/// [`crate::Log::wait_for_room`] waits while more than this is appended and not yet durable.
pub const LOG_STAGED_BYTES_MAX: usize = 32 << 20;

/// Shortest and longest segment. Offsets in a segment are kept as block counts in 32 bits.
pub const LOG_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// See [`LOG_SEGMENT_BYTES_MIN`].
pub const LOG_SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// Pre-written segments kept beyond the active one; more freed ones are removed.
pub const LOG_SPARE_SEGMENTS_MAX: usize = 2;

/// Writes in flight while a segment is pre-written.
pub const LOG_PREWRITES_IN_FLIGHT_MAX: usize = 4;
/// A segment that is not needed soon is pre-written in steps of this length, with a pause after each
/// (32 MB/s): at full speed it would hold up the appends of every log on the device.
pub const LOG_PREWRITE_STEP_BYTES: usize = 256 << 10;

/// Files of the log of one shard.
pub const LOG_FILES_MAX: usize = 1 << 16;

// ---- value log ----

/// Shortest and longest segment of the value log.
pub const VLOG_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// See [`VLOG_SEGMENT_BYTES_MIN`].
pub const VLOG_SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Segment length unless configured: long enough that a segment is prepared every quarter of a
/// second at the most, short enough that collecting one is a small step.
pub const VLOG_SEGMENT_BYTES_DEFAULT: u64 = 256 << 20;

/// Records of one segment; bounds the memory that collecting it takes for the slot index (16 MiB).
pub const VLOG_SLOTS_MAX: u32 = 1 << 20;

/// The longest write of the value log.
pub const VLOG_WRITE_BYTES_MAX: usize = IO_BYTES_MAX;

/// Writes of the value log in flight at once; see `vlog/pipeline.rs` for what was measured.
pub const VLOG_WRITES_IN_FLIGHT_MAX: usize = 8;

/// Below this many writes in flight, whatever is staged is submitted at once; from here on only
/// full buffers are, and smaller values gather.
pub const VLOG_EAGER_WRITES: usize = 2;

/// [`crate::vlog::ValueLog::wait_for_room`] waits while more than this is staged and not yet durable.
pub const VLOG_STAGED_BYTES_MAX: usize = 32 << 20;

/// Pieces of one value read at once.
pub const VLOG_READS_IN_FLIGHT_MAX: usize = 4;

/// A range that ends this close to the front of its value is read together with the record's head.
pub const VLOG_NEAR_FRONT_BYTES: usize = 128 << 10;

/// Slot-index pages of collected segments kept in memory, of 4 KiB each.
pub const VLOG_INDEX_PAGES_CACHED_MAX: usize = 512;

/// Writes of a collected segment in flight at once.
pub const VLOG_REWRITES_IN_FLIGHT_MAX: usize = 2;

/// How far beyond a record that is not intact the next one is looked for after a crash: as far as
/// writes can have been in flight, and beyond the longest record.
pub const VLOG_GAP_BYTES_MAX: u64 =
    (VLOG_WRITES_IN_FLIGHT_MAX * VLOG_WRITE_BYTES_MAX + VALUE_BYTES_MAX + (1 << 20)) as u64;

// ---- memtable ----

/// Memory is taken for keys and small values in pieces of this size.
pub const ARENA_CHUNK_BYTES: usize = 256 << 10;

/// A value at least this long is kept as it came instead of being copied. It is half of the buffer
/// that connections receive into, so at most as much memory again hangs on it.
pub const KEEP_VALUE_BYTES_MIN: usize = 128 << 10;

/// What a kept value is charged at least: the receive buffer it may be a slice of.
pub const KEPT_VALUE_CHARGE_MIN: usize = 256 << 10;

/// Frozen memtables that wait for their flush before writers are made to wait.
pub const FROZEN_MEMTABLES_MAX: usize = 2;

/// How long a flush that found the device full waits before it is tried again.
pub const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

// ---- sstable ----

/// A data or index block is ended before it would exceed this length.
pub const TABLE_BLOCK_BYTES: usize = 8 << 10;

/// A longer value gets a block of its own, so that its key can be read without it.
pub const INLINE_VALUE_BYTES_MAX: usize = 16 << 10;

/// Every this many entries of a block, a key is stored whole (a restart point).
pub const RESTART_INTERVAL: usize = 16;

/// The longest payload of any block of a table.
pub const BLOCK_PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Entries of one table; bounds its filter and the memory to build it.
pub const TABLE_ENTRIES_MAX: u64 = 4 << 20;

/// A table that receives a snapshot is ended at this length.
pub const TABLE_BYTES: u64 = 64 << 20;

/// Bits of filter per key; 12 gives about 0.5 % false positives.
pub const FILTER_BITS_PER_KEY: u64 = 12;

/// Writes of a table in flight at once.
pub const TABLE_WRITES_IN_FLIGHT_MAX: usize = 4;

/// Bytes that a scan reads ahead at once.
pub const READ_AHEAD_BYTES: usize = 256 << 10;

// ---- manifest ----

/// Longest manifest.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

/// Tables of one shard.
pub const TABLES_MAX: usize = 1 << 16;

// ---- sessions ----

/// Client sessions of one shard; the one used least recently expires.
pub const SESSIONS_MAX: usize = 16_384;

/// How far a session's numbers may run ahead of its lowest unanswered one.
pub const SESSION_WINDOW: u64 = 4096;

/// Results kept over all sessions of a shard; sessions used least recently expire beyond it.
pub const SESSION_RESULTS_MAX: usize = 1 << 18;

/// Longest recorded result of a write.
pub const RESULT_BYTES_MAX: usize = 31;

// ---- scans and snapshots ----

/// Entries a scan takes from a memtable at once.
pub const SCAN_BATCH_ENTRIES: usize = 64;

/// Longest piece of a snapshot.
pub const SNAPSHOT_PIECE_BYTES_MAX: usize = 1 << 20;

const _: () = {
    assert!(LOG_BLOCK_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
    assert!(LOG_BLOCK_BYTES_MAX <= IO_BYTES_MAX);
    assert!(LOG_EAGER_WRITES < LOG_WRITES_IN_FLIGHT_MAX);
    assert!(LOG_ENTRY_BYTES_MAX >= VALUE_BYTES_MAX + KEY_BYTES_MAX);
    assert!(LOG_ENTRY_BYTES_MAX >= MEMBERSHIP_BYTES_MAX);
    assert!(LOG_STAGED_BYTES_MAX >= 2 * LOG_ENTRY_BYTES_MAX);
    assert!(VLOG_WRITE_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
    assert!(VLOG_WRITE_BYTES_MAX <= IO_BYTES_MAX);
    assert!(VLOG_EAGER_WRITES < VLOG_WRITES_IN_FLIGHT_MAX);
    assert!(VLOG_STAGED_BYTES_MAX >= 2 * VALUE_BYTES_MAX);
    assert!(VLOG_SEGMENT_BYTES_DEFAULT > 2 * VALUE_BYTES_MAX as u64);
    assert!(VLOG_NEAR_FRONT_BYTES + 2 * KEY_BYTES_MAX + (64 << 10) <= IO_BYTES_MAX);
    assert!(KEY_BYTES_MAX < TABLE_BLOCK_BYTES);
    assert!(KEEP_VALUE_BYTES_MIN * 2 <= KEPT_VALUE_CHARGE_MIN);
    assert!(KEY_BYTES_MAX + KEEP_VALUE_BYTES_MIN <= ARENA_CHUNK_BYTES);
    assert!(INLINE_VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX + TABLE_BLOCK_BYTES <= IO_BYTES_MAX);
    assert!(VALUE_BYTES_MAX + BLOCK_SIZE <= BLOCK_PAYLOAD_BYTES_MAX);
    assert!(TABLE_ENTRIES_MAX * FILTER_BITS_PER_KEY / 8 <= BLOCK_PAYLOAD_BYTES_MAX as u64);
    assert!(SESSIONS_MAX <= SESSION_RESULTS_MAX);
    assert!(SESSION_WINDOW as usize <= SESSION_RESULTS_MAX);
    // A session's record is one inline-or-own-block value like any other.
    assert!(SESSION_WINDOW as usize * (RESULT_BYTES_MAX + 1) + 64 <= VALUE_BYTES_MAX);
};
