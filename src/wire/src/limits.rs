//! Every limit of the protocol, and how the limits relate.

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Largest value that travels in one frame, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest value, in bytes: one that does not fit in a frame travels as chunks.
pub const LARGE_VALUE_BYTES_MAX: u64 = 1 << 31;
/// Longest chunk of a large value, in bytes.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Most parts of a large value.
pub const UPLOAD_PARTS_MAX: usize = 10_000;
/// Most chunks of an upload.
pub const UPLOAD_CHUNKS_MAX: usize = 16_384;
/// Most bytes of the attributes of a large value, as they are encoded.
pub const ATTRIBUTES_BYTES_MAX: usize = 8 * 1024;
/// Most chunks that the answer about an upload lists.
pub const UPLOAD_CHUNKS_LISTED_MAX: usize = 4096;
/// Most uploads in a page of them.
pub const UPLOADS_LISTED_MAX: usize = 256;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Most bytes of a request after its header, without key and value.
pub const REQUEST_OVERHEAD_BYTES_MAX: usize = 256;
/// Most bytes after the header of a request that carries no value.
pub const PLAIN_REQUEST_BYTES_MAX: usize = 2 * KEY_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX;
/// Most bytes after the header of a write.
pub const WRITE_BYTES_MAX: usize = KEY_BYTES_MAX + VALUE_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX;
/// Bytes of the body of a chunk's frame: its row, its length, its checksum.
pub const CHUNK_BODY_BYTES: usize = 32;
/// Most bytes after the header of a frame with a chunk: also the longest entry that one makes in a log.
pub const UPLOAD_CHUNK_BYTES_MAX: usize = 4 + CHUNK_BODY_BYTES + CHUNK_BYTES_MAX;
/// Most bytes after the header of the beginning of an upload.
pub const UPLOAD_BEGIN_BYTES_MAX: usize =
    KEY_BYTES_MAX + ATTRIBUTES_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX;
/// Bytes of a part in a list of parts.
pub const PART_BYTES: usize = 12;
/// Most bytes after the header of the commit of an upload.
pub const COMMIT_BYTES_MAX: usize = UPLOAD_PARTS_MAX * PART_BYTES + REQUEST_OVERHEAD_BYTES_MAX;
/// Bytes of a chunk in a list of chunks.
pub const STAGED_CHUNK_BYTES: usize = 16;
/// Most bytes after the header of the answer about an upload.
pub const UPLOAD_REPLY_BYTES_MAX: usize =
    UPLOAD_CHUNKS_LISTED_MAX * STAGED_CHUNK_BYTES + REQUEST_OVERHEAD_BYTES_MAX;
/// Most bytes after the header of a page of uploads.
pub const UPLOADS_BYTES_MAX: usize =
    UPLOADS_LISTED_MAX * (KEY_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX);
/// Most bytes after the header of the description of a large value.
pub const LARGE_REPLY_BYTES_MAX: usize =
    ATTRIBUTES_BYTES_MAX + UPLOAD_PARTS_MAX * PART_BYTES + REQUEST_OVERHEAD_BYTES_MAX;
/// Most bytes after the header of an answer that carries one value.
pub const VALUE_REPLY_BYTES_MAX: usize = VALUE_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX;
/// Most bytes after the header of a small answer (a failure without a map included).
pub const SMALL_REPLY_BYTES_MAX: usize = 1024;
/// Most bytes after the header of an answer that lists nodes and shards: 65,536 shards of 7 replicas fit.
pub const MAP_REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Damaged places that a node lists; it reports the others as a count.
pub const DAMAGES_LISTED_MAX: usize = 1024;
/// Longest text in the report of a damaged place, in bytes: file, what and keys each.
pub const DAMAGE_TEXT_BYTES_MAX: usize = 512;
/// Most keys in one page of a scan.
pub const SCAN_ITEMS_MAX: usize = 4096;
/// Most bytes of keys and values that a client may request per page. A page holds at least one item, so
/// it can exceed this by one item.
pub const SCAN_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a scan's item table per item.
pub const SCAN_ITEM_BYTES: usize = 16;
/// Bytes of a large value in a page of a scan: its length.
pub const LARGE_ITEM_BYTES: usize = 8;
/// Bytes of a large value in a page of heads that says when it was committed: its length and that time.
pub const LARGE_HEAD_BYTES: usize = 16;
/// Most bytes after the header of a page of a scan.
pub const SCAN_REPLY_BYTES_MAX: usize = SCAN_PAGE_BYTES_MAX
    + KEY_BYTES_MAX
    + VALUE_BYTES_MAX
    + SCAN_ITEMS_MAX * (SCAN_ITEM_BYTES + LARGE_HEAD_BYTES)
    + REQUEST_OVERHEAD_BYTES_MAX;
/// Most bytes after the header of a frame between nodes: one write of the largest size or many small
/// ones, with their log ids.
pub const PEER_BYTES_MAX: usize = WRITE_BYTES_MAX + 4 * 1024 * 1024;

/// Longest name or value of a setting of the cluster, in bytes.
pub const SETTING_BYTES_MAX: usize = 256;
/// Most nodes that an operator declares lost at once.
pub const LOST_NODES_MAX: usize = 512;

/// Values of at least this many bytes are not copied into an [`Outbox`](crate::Outbox)'s buffer.
pub const DETACH_BYTES_MIN: usize = 32 * 1024;

/// Most requests of a client in flight on one connection; a server may allow fewer.
pub const CONNECTION_IN_FLIGHT_MAX: u32 = 4096;
/// Most writes of a session in flight, counted from its lowest unanswered one.
pub const SESSION_WINDOW: u32 = 4096;

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 1024;
/// Most shards of a cluster.
pub const SHARDS_MAX: u32 = 65_536;
/// Most replicas of a shard.
pub const REPLICAS_MAX: usize = 7;
/// Longest host name of a node, in bytes.
pub const HOST_BYTES_MAX: usize = 255;
/// Longest name of a zone or region, in bytes.
pub const PLACE_BYTES_MAX: usize = 64;
/// Longest sentence in which a node says why it does not do what another one asks, in bytes.
pub const WHY_BYTES_MAX: usize = 1024;
/// Longest cluster map of nodes, in bytes.
pub const CLUSTER_MAP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest body of a membership that a replica is told, in bytes.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
/// Most replicas in the report of a node: one of each shard, and of the meta shard.
pub const REPORTED_SHARDS_MAX: usize = SHARDS_MAX as usize + 1;

const _: () = {
    assert!(DETACH_BYTES_MIN <= VALUE_BYTES_MAX);
    assert!(SCAN_REPLY_BYTES_MAX < u32::MAX as usize);
    assert!(PEER_BYTES_MAX > WRITE_BYTES_MAX);
    assert!(UPLOAD_CHUNK_BYTES_MAX <= WRITE_BYTES_MAX && CHUNK_BYTES_MAX <= VALUE_BYTES_MAX);
    // A length of this many bytes and its sums over all parts fit.
    assert!(LARGE_VALUE_BYTES_MAX < u32::MAX as u64);
    assert!(LARGE_VALUE_BYTES_MAX <= (UPLOAD_CHUNKS_MAX * CHUNK_BYTES_MAX) as u64);
    assert!(CLUSTER_MAP_BYTES_MAX + MEMBERSHIP_BYTES_MAX < PEER_BYTES_MAX);
    // A shard in the map takes 8 bytes and 8 per replica.
    assert!(SHARDS_MAX as usize * (8 + 8 * REPLICAS_MAX) < MAP_REPLY_BYTES_MAX);
    assert!(DAMAGES_LISTED_MAX * 4 * DAMAGE_TEXT_BYTES_MAX < MAP_REPLY_BYTES_MAX / 2);
    assert!(2 * SETTING_BYTES_MAX + 8 * LOST_NODES_MAX < PLAIN_REQUEST_BYTES_MAX);
    assert!(NODES_MAX * (32 + HOST_BYTES_MAX) < MAP_REPLY_BYTES_MAX / 2);
};
