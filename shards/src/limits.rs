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

/// The largest read or write of compaction and collection. The device serves requests in turn: a read
/// of the foreground waits for what is before it, about 0.1 ms for each of these.
pub const BACKGROUND_IO_BYTES: usize = 128 << 10;

/// Longest membership record.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 << 10;

// ---- log ----

/// Longest body of a log entry: a value, its key and what the command adds to them.
pub const LOG_ENTRY_BYTES_MAX: usize = VALUE_BYTES_MAX + (64 << 10);

/// Bodies of entries in memory are copied out of the buffers that they were received into, to pieces of
/// this size.
pub const LOG_CACHE_CHUNK_BYTES: usize = 128 << 10;

/// A body at least this long gets memory of its own, so that little is lost at the ends of pieces.
pub const LOG_OWN_BODY_BYTES_MIN: usize = 16 << 10;

/// A body at least this long is kept as it came: a copy would take the core for long. It is half of the
/// buffer that it is part of or more, as those are sized for the message that they receive.
pub const LOG_KEPT_BODY_BYTES_MIN: usize = 128 << 10;

/// The longest block of the log, which is its largest write. Larger ones gain nothing: the device is
/// kept busy by several in flight.
pub const LOG_BLOCK_BYTES_MAX: usize = 256 << 10;

/// Blocks in flight at once: being written, or waiting for one before them or for the values that they
/// refer to. The device gives 47 k durable 16 KiB writes a second at 16, twice
/// the rate at 4.
pub const LOG_WRITES_IN_FLIGHT_MAX: usize = 16;

/// Below this many writes in flight, whatever is staged is submitted at once; from here on only
/// full blocks are, and smaller appends gather.
pub const LOG_EAGER_WRITES: usize = 2;

/// [`crate::Log::wait_for_room`] waits while more than this is appended and not yet durable.
pub const LOG_STAGED_BYTES_MAX: usize = 32 << 20;

/// Values shorter than this are never separated: a pointer, a record's header and its padding would
/// weigh about as much.
pub const SEPARATED_VALUE_BYTES_MIN: usize = 256;

/// Values read at once to complete entries.
pub const VALUE_READS_IN_FLIGHT_MAX: usize = 8;

/// Shortest and longest segment. Offsets in a segment are kept as block counts in 32 bits.
pub const LOG_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// See [`LOG_SEGMENT_BYTES_MIN`].
pub const LOG_SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// On a full device, a log that cannot go on gets a segment of this fraction of the usual length: of 16
/// MiB it is room for 250 deletions one after the other.
pub const LOG_SHORT_SEGMENT_DIVISOR: u64 = 16;

/// Pre-written segments kept beyond the active one; more freed ones are removed.
pub const LOG_SPARE_SEGMENTS_MAX: usize = 4;

/// Writes in flight while a segment is pre-written.
pub const LOG_PREWRITES_IN_FLIGHT_MAX: usize = 4;
/// A segment that is not needed soon is pre-written in steps of this length, with a pause after each
/// (32 MB/s): at full speed it would hold up the appends of every log on the device.
pub const LOG_PREWRITE_STEP_BYTES: usize = 256 << 10;

/// Segments of the log of one shard. See [`FULL_FROM`].
pub const LOG_SEGMENTS_MAX: usize = 1 << 16;

// ---- value log ----

/// Shortest and longest segment of the value log.
pub const VLOG_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// See [`VLOG_SEGMENT_BYTES_MIN`].
pub const VLOG_SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Segment length unless configured: long enough that a segment is prepared every eighth of a
/// second at the most, short enough that collecting one is a small step, and as long as ext4 keeps
/// the extents of a file being filled in its inode. A longer one has a block for them, which each
/// durable write allocates and frees again, and the device is told to discard: one of 20 KiB alone
/// was measured to take 0.22 ms in a segment of 256 MiB, 0.15 ms in one of 128 MiB.
pub const VLOG_SEGMENT_BYTES_DEFAULT: u64 = 128 << 20;

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

/// How far beyond a record that is not intact the next one is looked for after a crash: as far as
/// writes can have been in flight, and beyond the longest record.
pub const VLOG_GAP_BYTES_MAX: u64 =
    (VLOG_WRITES_IN_FLIGHT_MAX * VLOG_WRITE_BYTES_MAX + VALUE_BYTES_MAX + (1 << 20)) as u64;

// ---- memtable ----

/// Memory is taken for keys and small values in pieces of this size.
pub const ARENA_CHUNK_BYTES: usize = 256 << 10;

/// A value at least this long gets memory of its own.
pub const OWN_VALUE_BYTES_MIN: usize = 128 << 10;

/// Memtables of a shard, the active one included; writers wait before there is another.
pub const MEMTABLES_MAX: usize = 3;

/// How long a flush that found the device full waits before it is tried again.
pub const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// A stop checks this many times in a row whether writes still wait for room on the device, with the reserve
/// given up, before it gives up ...
pub const STOP_LOOKS_MAX: u32 = 4;
/// ... at this interval, at which waiting writes try again.
pub const STOP_LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A memtable is frozen when this part of the live bytes of the value log has been written for it
/// (at least its own budget, at most what follows): garbage that hides behind it stays in proportion.
pub const SEPARATED_FRACTION: u64 = 16;
/// Most bytes of separated values per byte of a memtable's budget: bounds the log, which holds the
/// values back, and the replay.
pub const SEPARATED_PER_MEMTABLE_BYTE: u64 = 8;

/// A memtable is flushed this long after its first entry although it is not full: what it holds back of
/// the log is bounded by time too ...
pub const MEMTABLE_AGE_MAX: Duration = Duration::from_secs(600);
/// ... and after this long if at least [`PINNED_BYTES_MIN`] of values come back only then.
pub const MEMTABLE_AGE_PINNING: Duration = Duration::from_secs(30);
/// See [`MEMTABLE_AGE_PINNING`].
pub const PINNED_BYTES_MIN: u64 = 1 << 20;

/// A memtable that deletes this many chunks is flushed at [`DROPPED_AGE`]: each of them is long.
pub const DROPPED_CHUNKS_MIN: u64 = 16;
/// See [`DROPPED_CHUNKS_MIN`].
pub const DROPPED_AGE: Duration = Duration::from_secs(3);
/// For this long after such a flush, the log is purged of what keeps their space.
pub const DROPPED_OUTLOOK: Duration = Duration::from_secs(120);
/// How often what space waits for is looked at meanwhile.
pub const DROPPED_OUTLOOK_PERIOD: Duration = Duration::from_secs(2);
const _: () = assert!(MEMTABLE_AGE_PINNING.as_secs() < MEMTABLE_AGE_MAX.as_secs());

/// After this long with next to no writes, garbage is removed that is not worth the work under load.
pub const QUIET_AFTER: Duration = Duration::from_secs(30);

/// How often a shard looks for space that comes back without writes.
pub const OUTLOOK_PERIOD: Duration = Duration::from_secs(10);

/// How often a shard checks whether its device is full.
pub const SPACE_PERIOD: Duration = Duration::from_secs(1);
/// How often a shard is looked at of which nothing is asked and that has nothing to do.
pub const REST_PERIOD: Duration = Duration::from_secs(8);

// ---- compaction ----

/// Compactions of a shard at once: one long one, and one that keeps the runs few meanwhile.
pub const COMPACTIONS_MAX: usize = 2;

/// Levels of tables.
pub const LEVELS_MAX: usize = 7;

/// Longest pause that a single write is given because flushes or compaction lag.
pub const THROTTLE_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long compaction or collection waits after it met a damaged block.
pub const DAMAGE_PAUSE: Duration = Duration::from_secs(10);

// ---- value log ----

/// A value at least this long is separated by default; docs/benchmarks.md has what was measured.
pub const VALUE_THRESHOLD_BYTES: usize = 4 << 10;

/// Segments of the value log of one shard: 16 TiB of the default length. See [`FULL_FROM`].
pub const VALUE_SEGMENTS_MAX: usize = 1 << 17;

// ---- scrubbing ----

/// A cycle over everything that is at rest begins at most this often: a small shard is checked in no
/// time, and what is in use is checked by its reads.
pub const SCRUB_CYCLE_MIN: Duration = Duration::from_secs(3600);

/// How long after a start the first cycle begins at the latest: a start has enough to read.
pub const SCRUB_START_DELAY: Duration = Duration::from_secs(60);

/// Damaged blocks that a shard remembers.
pub const DAMAGES_MAX: usize = 256;

// ---- repair ----

/// Bytes of keys, and of values that are not separated, that the repair of one damaged range takes. A range is
/// at most a part of a table's index, about half a MiB, unless values are not separated at all.
pub const HEAL_BYTES_MAX: usize = 256 << 20;

/// How long the repair of a segment of the value log waits until nothing is written to it ...
pub const SEAL_WAIT: Duration = Duration::from_secs(2);
/// ... and how often it looks.
pub const SEAL_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bytes of keys and values after which an answer to another replica ends.
pub const FETCH_BYTES_MAX: usize = 1 << 20;

// ---- checks of a whole shard ----

/// Pointers looked at in one batch: some ten megabytes with their keys.
pub const CHECK_POINTERS_MAX: usize = 1 << 16;

/// Damaged records remembered until it is known whether anything refers to them; more are told at once.
pub const CHECK_DAMAGED_MAX: usize = 1 << 16;

// ---- sstable ----

/// Part of a data block that may be left empty, as a divisor: a block is ended at the first multiple
/// of 4 KiB of which the next entry would leave no more than this. So small entries get blocks of
/// 4 KiB, which hold the fewest keys beside the one that is wanted in the cache, and entries of some
/// hundred bytes get 8 KiB, where they leave 3 % empty instead of up to 8 %.
pub const TABLE_BLOCK_WASTE: usize = 20;

/// A data block with several entries takes at most this much. Reading 8 KiB at a random place takes
/// the device as long as 4 KiB; a cold read pays for one I/O, not for its length. Values from 1 to
/// 4 KiB leave 10 to 25 % of that empty, which is why those from about 4 KiB on are separated.
pub const TABLE_BLOCK_SPAN: usize = 8 << 10;

/// What a data block with several entries may hold when it is compressed; what it takes in the file
/// is fitted to 4 or 8 KiB all the same. More would crowd the cache, which holds it unpacked.
pub const TABLE_COMPRESSED_BLOCK_SPAN: usize = 16 << 10;

/// The longest data block: a single entry with the longest key and inline value.
pub const TABLE_BLOCK_BYTES_MAX: usize = 32 << 10;

/// An index leaf takes at most this much (or has one entry): it refers to about half a MiB of data,
/// and the root, which stays in memory, has 40 bytes for each of them: 1 MiB for 14 GB.
pub const TABLE_LEAF_SPAN: usize = 4 << 10;

/// Keys of one filter: as many as fill 20 KiB of the file with a Bloom filter. Finding a fuse filter of
/// that many holds a core for at most half a millisecond.
pub const FILTER_KEYS_MAX: usize = ((20 << 10) - 64) * 8 / FILTER_BITS_PER_KEY as usize;

/// A longer value gets a block of its own, so that its key can be read without it.
pub const INLINE_VALUE_BYTES_MAX: usize = 16 << 10;

/// Every this many entries of a block, a key is stored whole (a restart point).
pub const RESTART_INTERVAL: usize = 16;

/// The same in an index leaf, which every lookup goes through: keys there share little anyway.
pub const LEAF_RESTART_INTERVAL: usize = 4;

/// The longest payload of any block of a table.
pub const BLOCK_PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Entries of one table.
pub const TABLE_ENTRIES_MAX: u64 = 4 << 20;

/// A table is ended before the next key when its index root is this long: long keys that differ at
/// their ends only make one of a thousand bytes per block.
pub const TABLE_ROOT_BYTES: usize = 4 << 20;

/// Value segments that one table refers to; a table is ended before it would refer to more.
pub const TABLE_REFERENCES_MAX: usize = 1 << 16;

/// A table is ended at this length.
pub const TABLE_BYTES: u64 = 64 << 20;

/// A table that a memtable is flushed to may be longer: it is one run, and soon compacted.
pub const FLUSHED_TABLE_BYTES: u64 = 256 << 20;

/// Bits per key of the Bloom filters of level 0. A read of an absent key asks up to a dozen of them, so
/// that each must let very few pass: 20 bits give 0.03 % false positives, where 12 would give 0.5 %, a
/// disk read for every twentieth absent key. Level 0 holds a small part of all keys.
pub const FILTER_BITS_PER_KEY: u64 = 20;

/// Files that are removed shrink by this much at a time ...
pub const REMOVAL_STEP_BYTES: u64 = 1 << 20;
/// ... with at most this pause after each step (50 MB/s of long files) ...
pub const REMOVAL_PAUSE: Duration = Duration::from_millis(20);
/// ... or this one while the shard has no clients: others may share the device ...
pub const REMOVAL_PAUSE_QUIET: Duration = Duration::from_millis(1);
/// ... and shorter ones the more space is held back that way, up to this much ...
pub const REMOVAL_HELD_BYTES_MAX: u64 = 2 << 30;
const _: () = assert!(REMOVAL_STEP_BYTES <= REMOVAL_HELD_BYTES_MAX);
/// ... and to this part of what is free on the device.
pub const REMOVAL_HELD_FRACTION: u64 = 16;

/// Writes of one table or segment in flight at once.
pub const OUTPUT_WRITES_IN_FLIGHT_MAX: usize = 8;

/// Bytes that a scan reads ahead at once: it begins with the first and doubles up to the second.
pub const READ_AHEAD_BYTES_MIN: usize = 16 << 10;
/// See [`READ_AHEAD_BYTES_MIN`].
pub const READ_AHEAD_BYTES: usize = 256 << 10;

/// Index and filter blocks between data blocks are read along if they are no longer than this: one
/// long read costs less than two.
pub const READ_GAP_BYTES_MAX: usize = 64 << 10;

/// Bytes of a table that one step of a verification reads at most, apart from long values.
pub const VERIFY_STEP_BYTES: usize = 256 << 10;

// ---- manifest ----

/// Longest manifest that is read, and so the longest that is written. See [`FULL_FROM`].
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

/// Tables of one shard. See [`FULL_FROM`].
pub const TABLES_MAX: usize = 1 << 16;

/// Numerator and denominator of the part of the bounds on tables, value segments, log segments and the
/// manifest from which a shard refuses new values. What is left is for what was accepted before, and
/// for what makes room: deletions, compaction, collection.
pub const FULL_FROM: (u64, u64) = (3, 4);

/// How long a flush that would make the manifest too long waits for compaction and collection.
pub const FULL_RETRY: Duration = Duration::from_secs(10);

// ---- sessions ----

/// Client sessions of one shard; the one used least recently expires.
pub const SESSIONS_MAX: usize = 16_384;

/// How far a session's numbers may run ahead of its lowest unanswered one.
pub const SESSION_WINDOW: u64 = 4096;

/// Results kept over all sessions of a shard; sessions used least recently expire beyond it.
pub const SESSION_RESULTS_MAX: usize = 1 << 18;

/// Longest recorded result of a write.
pub const RESULT_BYTES_MAX: usize = 31;

// ---- memory out of use ----

/// Entries of memtables, and purged ones of the log, that are freed at once: some 20 us of work.
pub const FREED_AT_ONCE: usize = 64;
/// The pause before the next are freed.
pub const FREE_PAUSE: Duration = Duration::from_millis(1);
/// Memtables out of use that wait to be freed at that pace; more are freed at once.
pub const RETIRED_MEMTABLES_MAX: usize = 1;
/// How often memtables out of use are checked for readers.
pub const HELD_MEMTABLE_PAUSE: Duration = Duration::from_millis(20);

// ---- scans and snapshots ----

/// Entries a scan takes from a memtable at once.
pub const SCAN_BATCH_ENTRIES: usize = 64;

/// What a piece of a file has that is sent to another replica; the last one may be shorter.
pub const FILE_PIECE_BYTES: usize = IO_BYTES_MAX;

/// The longest file of a table that is received. One is ended far earlier, but for versions of one key, of which a
/// memtable has no more than this.
pub const TABLE_FILE_BYTES_MAX: u64 = 8 << 30;
/// The longest file of a value segment that is received: one of a later generation has an index of its slots.
pub const VALUE_SEGMENT_FILE_BYTES_MAX: u64 = VLOG_SEGMENT_BYTES_MAX + 16 * VLOG_SLOTS_MAX as u64;
/// All files of a list that is received: it takes memory for each of their pieces, and room in the record of them.
pub const LISTED_BYTES_MAX: u64 = 64 << 40;

/// After this much of received files, what is there is made durable and written down. So much more may be asked
/// for again after a power failure.
pub const INCOMING_RECORD_EVERY_BYTES: u64 = 8 << 20;

/// What a reception of files has left is kept for so long, for one that goes on with it.
pub const INCOMING_KEPT: Duration = Duration::from_secs(3600);

/// The longest record of files that are being received: of a million of them.
pub const INCOMING_RECORD_BYTES_MAX: usize = 32 << 20;

/// From this number on value segments are files that came from another replica, which have numbers of their
/// own: those that a shard begins stay below, and low numbers make short pointers.
pub const VALUE_SEGMENTS_RECEIVED: u64 = 1 << 32;

/// Longest piece of a snapshot.
pub const SNAPSHOT_PIECE_BYTES_MAX: usize = 1 << 20;

const _: () = {
    assert!(LOG_BLOCK_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
    assert!(LOG_BLOCK_BYTES_MAX <= IO_BYTES_MAX);
    assert!(LOG_EAGER_WRITES < LOG_WRITES_IN_FLIGHT_MAX);
    // Pieces are read and written at once, and begin where the device allows it.
    assert!(FILE_PIECE_BYTES <= IO_BYTES_MAX && FILE_PIECE_BYTES.is_multiple_of(BLOCK_SIZE));
    assert!(INCOMING_RECORD_EVERY_BYTES >= FILE_PIECE_BYTES as u64);
    assert!(FLUSHED_TABLE_BYTES <= TABLE_FILE_BYTES_MAX / 2);
    assert!(TABLE_FILE_BYTES_MAX.is_multiple_of(BLOCK_SIZE as u64));
    assert!(VALUE_SEGMENT_FILE_BYTES_MAX.is_multiple_of(BLOCK_SIZE as u64));
    assert!(LISTED_BYTES_MAX >= VALUE_SEGMENTS_MAX as u64 * VLOG_SEGMENT_BYTES_DEFAULT);
    assert!(LISTED_BYTES_MAX / FILE_PIECE_BYTES as u64 / 8 <= INCOMING_RECORD_BYTES_MAX as u64 / 2);
    assert!(INCOMING_RECORD_BYTES_MAX <= MANIFEST_BYTES_MAX);
    assert!(FETCH_BYTES_MAX < HEAL_BYTES_MAX);
    assert!(SEAL_LOOK_EVERY.as_millis() < SEAL_WAIT.as_millis());
    assert!(SEPARATED_VALUE_BYTES_MIN <= VALUE_BYTES_MAX);
    assert!(LOG_ENTRY_BYTES_MAX >= VALUE_BYTES_MAX + KEY_BYTES_MAX);
    assert!(LOG_ENTRY_BYTES_MAX >= MEMBERSHIP_BYTES_MAX);
    assert!(LOG_STAGED_BYTES_MAX >= 2 * LOG_ENTRY_BYTES_MAX);
    assert!(VLOG_WRITE_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
    assert!(VLOG_WRITE_BYTES_MAX <= IO_BYTES_MAX);
    assert!(BACKGROUND_IO_BYTES.is_multiple_of(BLOCK_SIZE) && BACKGROUND_IO_BYTES <= IO_BYTES_MAX);
    assert!(VLOG_EAGER_WRITES < VLOG_WRITES_IN_FLIGHT_MAX);
    assert!(VLOG_STAGED_BYTES_MAX >= 2 * VALUE_BYTES_MAX);
    assert!(VLOG_SEGMENT_BYTES_DEFAULT > 2 * VALUE_BYTES_MAX as u64);
    assert!(VLOG_NEAR_FRONT_BYTES + 2 * KEY_BYTES_MAX + (64 << 10) <= IO_BYTES_MAX);
    assert!(TABLE_BLOCK_SPAN.is_multiple_of(BLOCK_SIZE));
    assert!(TABLE_COMPRESSED_BLOCK_SPAN >= TABLE_BLOCK_SPAN);
    assert!(TABLE_COMPRESSED_BLOCK_SPAN <= TABLE_BLOCK_BYTES_MAX);
    assert!(INLINE_VALUE_BYTES_MAX + KEY_BYTES_MAX + 64 <= TABLE_BLOCK_BYTES_MAX);
    // The hash table of LZ4 for short blocks.
    assert!(TABLE_BLOCK_BYTES_MAX < 1 << 16);
    // The shortest entry has 5 bytes; the keys of one block fit one filter.
    assert!(TABLE_BLOCK_BYTES_MAX / 5 <= FILTER_KEYS_MAX);
    assert!(TABLE_BLOCK_BYTES_MAX + BLOCK_SIZE <= VERIFY_STEP_BYTES);
    assert!(VERIFY_STEP_BYTES <= IO_BYTES_MAX && READ_AHEAD_BYTES <= IO_BYTES_MAX);
    assert!(READ_AHEAD_BYTES_MIN <= READ_AHEAD_BYTES);
    assert!(KEY_BYTES_MAX < OWN_VALUE_BYTES_MIN && OWN_VALUE_BYTES_MIN <= ARENA_CHUNK_BYTES);
    assert!(LOG_OWN_BODY_BYTES_MIN <= LOG_CACHE_CHUNK_BYTES / 8);
    assert!(LOG_OWN_BODY_BYTES_MIN < LOG_KEPT_BODY_BYTES_MIN);
    assert!(VALUE_BYTES_MAX + BLOCK_SIZE <= BLOCK_PAYLOAD_BYTES_MAX);
    assert!(TABLE_REFERENCES_MAX * 24 + 2 * KEY_BYTES_MAX + 64 <= BLOCK_PAYLOAD_BYTES_MAX);
    assert!(SCRUB_START_DELAY.as_secs() <= SCRUB_CYCLE_MIN.as_secs());
    assert!(FULL_FROM.0 < FULL_FROM.1);
    assert!(TABLE_ROOT_BYTES * 3 + 4 * (KEY_BYTES_MAX + 64) <= BLOCK_PAYLOAD_BYTES_MAX);
    assert!(SESSIONS_MAX <= SESSION_RESULTS_MAX);
    assert!(SESSION_WINDOW as usize <= SESSION_RESULTS_MAX);
    // A session's record is one inline-or-own-block value like any other.
    assert!(SESSION_WINDOW as usize * (RESULT_BYTES_MAX + 1) + 64 <= VALUE_BYTES_MAX);
};
