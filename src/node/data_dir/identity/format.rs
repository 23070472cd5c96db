//! The bytes of a `node` file.
//!
//! ```text
//! 0    8    magic "CLNODE\0\0"
//! 8    4    format version, 6
//! 12   4    length of the file, a multiple of 4096
//! 16   4    shards
//! 20   4    replicas
//! 24   2    what reads rely on, as nodes tell each other
//! 26   2    cores of the node in its last start
//! 28   2    number of first nodes N
//! 30   2    1 if the shards of the founding are listed
//! 32   8    node id; 0: the cluster has given none yet
//! 40   8    hash of the cluster's name
//! 48   16   store id; files of shards carry its lower half
//! 64   8    incarnation: the starts of this store so far
//! 72   24   the proposal promised in the formation: 8 round, 16 store
//! 96   24   the proposal accepted last, if there is a charter and it is not decided
//! 120  1    charter: 0 none, 1 accepted, 2 decided
//! 121  16   its cluster id
//! 137  1    what peers have said of this store: 0 nothing, 1 another store is its node's, 2 it was
//!           rolled back, 3 its mark is behind, 4 it has lost entries, 5 its node was removed
//! 138  16   that other store (1)
//! 154  16   the start that they had met (2): 8 incarnation, 8 nonce; or the mark (3)
//! 170  128  the nonces of the last 16 starts: that of start i is the (i % 16)th
//! 298  4    how long the longest promise may have been that the store gave, in milliseconds
//! 302  8    mark of this store
//! 310  8N   ids of the first nodes, ascending
//! ..   16N  the charter's store of each; zeros without one
//! ..   4    number of nodes that were met, then of each: 8 node, 16 store, 8 incarnation, 8 nonce, 8 mark,
//!           1 whether it has lost entries
//! ..   4    number of shards that the store has, or had, then of each: 4 shard, 2 generation of its replica,
//!           1 state: 0 to be made, 1 made, 2 being dropped, 3 gone
//! ..        zeros
//! -4   4    crc32c of the bytes before
//! ```
//! All numbers are little-endian. Version 5 has two blocks:
//!
//! ```text
//! 12   4    shards
//! 16   4    replicas
//! 20   2    cores of this node
//! 22   2    number of nodes N
//! 24   270  as from 32 on, without 5 as what peers have said
//! 294  8    mark of this store
//! 302  8N   ids of all nodes, ascending
//! ..   16N  the charter's store of each; zeros without one
//! ..   41N  the store of each node that was met, and what was met of it: 16 store, 8 incarnation, 8 nonce, 8 mark,
//!           1 whether it has lost entries; zeros if none was
//! ..   B    the shards that the store holds, a bit each: shard s is bit s % 8 of byte s / 8; B is
//!           shards / 8, rounded up
//! ```
//! Version 4 is the same without marks and lost entries, and version 3 without the
//! promise too; what is not known of that counts as the longest that there can be. Version 2 is one block and has no formation:
//!
//! ```text
//! 0    32   as version 5
//! 32   8    cluster id, the hash of its name
//! 40   8    store id
//! 48   8N   ids of all nodes, ascending
//! ..   B    the shards that the store holds
//! 4092 4    crc32c of the bytes before
//! ```
//! Its cluster counts as decided, with any store of each node. Version 1 does not say which shards there
//! are either: those that are found at the first start are listed.

use super::{HeldShard, HeldState, Identity, IdentityError};
use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::judge::Met;
use crate::node::cluster::standing::Exclusion;
use crate::node::limits;
use corelith_io::BLOCK_SIZE;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::{Ballot, Charter};
use corelith_wire::width::u32_len;
use corelith_wire::{FullClusterId, Mark, Start, StoreId};
use std::collections::BTreeMap;

pub(crate) const MAGIC: &[u8; 8] = b"CLNODE\0\0";
pub(super) const VERSION: u32 = 6;
/// Bytes of the longest file.
pub(crate) const FILE_BYTES_MAX: usize = 64 * BLOCK_SIZE;
/// Bytes of a file of versions 3 to 5, and of the shortest one.
pub(super) const FILE_BYTES_MIN: usize = 2 * BLOCK_SIZE;
const NODES_AT: usize = 310;
const MET_BYTES: usize = 8 + 16 + 16 + 8 + 1;
const HELD_BYTES: usize = 4 + 2 + 1;
const CRC_BYTES: usize = 4;

const _: () = assert!(
    NODES_AT
        + limits::NODES_MAX * (8 + 16)
        + 4
        + MET_BYTES * limits::NODES_MET_MAX
        + 4
        + HELD_BYTES * (limits::SHARDS_MAX as usize + 1)
        <= FILE_BYTES_MAX - CRC_BYTES
);

/// The bytes of a `node` file.
pub(crate) fn encode(identity: &Identity) -> Vec<u8> {
    assert!(
        identity.nodes.len() <= limits::NODES_MAX
            && identity.shards <= limits::SHARDS_MAX
            && identity.met.len() <= limits::NODES_MET_MAX,
        "the configuration and the map bound nodes and shards"
    );
    let mut bytes = Vec::with_capacity(FILE_BYTES_MIN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&identity.shards.to_le_bytes());
    bytes.extend_from_slice(&identity.replicas.to_le_bytes());
    bytes.extend_from_slice(&identity.reads.to_le_bytes());
    bytes.extend_from_slice(&identity.cores.to_le_bytes());
    bytes.extend_from_slice(&(identity.nodes.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&u16::from(identity.is_founded).to_le_bytes());
    bytes.extend_from_slice(&identity.node.0.to_le_bytes());
    bytes.extend_from_slice(&identity.name.to_le_bytes());
    bytes.extend_from_slice(&identity.store.0.to_le_bytes());
    bytes.extend_from_slice(&identity.incarnation.to_le_bytes());
    put_formation(&mut bytes, identity);
    let (tag, store, start) = match identity.excluded {
        None => (0_u8, StoreId(0), Start::default()),
        Some(Exclusion::OtherStore(store)) => (1, store, Start::default()),
        Some(Exclusion::RolledBack(start)) => (2, StoreId(0), start),
        Some(Exclusion::Behind(mark)) => {
            let start = Start {
                incarnation: mark.0,
                nonce: 0,
            };
            (3, StoreId(0), start)
        }
        Some(Exclusion::LostEntries) => (4, StoreId(0), Start::default()),
        Some(Exclusion::Removed) => (5, StoreId(0), Start::default()),
    };
    bytes.push(tag);
    bytes.extend_from_slice(&store.0.to_le_bytes());
    put_start(&mut bytes, start);
    for nonce in identity.starts.0 {
        bytes.extend_from_slice(&nonce.to_le_bytes());
    }
    bytes.extend_from_slice(&identity.promise_ms_max.to_le_bytes());
    bytes.extend_from_slice(&identity.mark.0.to_le_bytes());
    assert_eq!(bytes.len(), NODES_AT, "each field has its place");
    put_nodes(&mut bytes, identity);
    put_held(&mut bytes, identity);
    let needed = bytes.len() + CRC_BYTES;
    let len = needed.next_multiple_of(BLOCK_SIZE).max(FILE_BYTES_MIN);
    assert!(len <= FILE_BYTES_MAX, "everything has its place");
    if let Some(field) = bytes.get_mut(12..16) {
        field.copy_from_slice(&u32_len(len).to_le_bytes());
    }
    bytes.resize(len - CRC_BYTES, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn put_start(bytes: &mut Vec<u8>, start: Start) {
    bytes.extend_from_slice(&start.incarnation.to_le_bytes());
    bytes.extend_from_slice(&start.nonce.to_le_bytes());
}

fn put_formation(bytes: &mut Vec<u8>, identity: &Identity) {
    let Acceptor {
        promised,
        accepted,
        charter,
    } = &identity.formation;
    let ballot = accepted.as_ref().map(|(ballot, _)| *ballot);
    for ballot in [*promised, ballot.unwrap_or_default()] {
        bytes.extend_from_slice(&ballot.round.to_le_bytes());
        bytes.extend_from_slice(&ballot.store.0.to_le_bytes());
    }
    bytes.push(match (accepted, charter) {
        (None, None) => 0,
        (Some(_), None) => 1,
        (_, Some(_)) => 2,
    });
    let cluster = kept_charter(identity).map(|charter| charter.cluster);
    bytes.extend_from_slice(&cluster.unwrap_or_default().0.to_le_bytes());
}

/// What is decided, or else accepted.
fn kept_charter(identity: &Identity) -> Option<&Charter> {
    let accepted = identity.formation.accepted.as_ref();
    let decided = identity.formation.charter.as_ref();
    decided.or(accepted.map(|(_, charter)| charter))
}

fn put_nodes(bytes: &mut Vec<u8>, identity: &Identity) {
    for node in &identity.nodes {
        bytes.extend_from_slice(&node.0.to_le_bytes());
    }
    let charter = kept_charter(identity);
    for node in &identity.nodes {
        let store = charter.map_or(StoreId(0), |charter| match charter.store_of(*node) {
            Some(store) => store,
            None => panic!("a charter of other nodes was accepted"),
        });
        bytes.extend_from_slice(&store.0.to_le_bytes());
    }
    bytes.extend_from_slice(&u32_len(identity.met.len()).to_le_bytes());
    for (node, met) in &identity.met {
        bytes.extend_from_slice(&node.0.to_le_bytes());
        bytes.extend_from_slice(&met.store.0.to_le_bytes());
        put_start(bytes, met.start);
        bytes.extend_from_slice(&met.mark.0.to_le_bytes());
        bytes.push(met.has_lost.into());
    }
}

fn put_held(bytes: &mut Vec<u8>, identity: &Identity) {
    bytes.extend_from_slice(&u32_len(identity.held.len()).to_le_bytes());
    for (shard, held) in &identity.held {
        let is_one = shard.0 < identity.shards || *shard == ShardId::META;
        assert!(is_one, "{shard} is none of the cluster");
        bytes.extend_from_slice(&shard.0.to_le_bytes());
        bytes.extend_from_slice(&held.generation.to_le_bytes());
        bytes.push(match held.state {
            HeldState::ToBeMade => 0,
            HeldState::Made => 1,
            HeldState::Dropped => 2,
            HeldState::Gone => 3,
        });
    }
}

/// Reads what a `node` file holds; `file` is named in errors.
///
/// # Errors
/// `Corrupt` or `Newer`.
pub fn decode(file: &str, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let corrupt = |what| IdentityError::Corrupt {
        file: file.to_owned(),
        what,
    };
    let mut fields = IdentityFields(bytes);
    let magic = fields.take::<8>();
    let version = fields.u32();
    if bytes.len() >= BLOCK_SIZE && magic != *MAGIC {
        return Err(corrupt("it does not start with the magic of a node file"));
    }
    if magic == *MAGIC && version > VERSION {
        return Err(IdentityError::Newer {
            file: file.to_owned(),
            version,
        });
    }
    let len = match version {
        0..=2 => BLOCK_SIZE,
        3..=5 => FILE_BYTES_MIN,
        _ => fields.u32() as usize,
    };
    if len > FILE_BYTES_MAX || !len.is_multiple_of(BLOCK_SIZE) {
        return Err(corrupt("its length is none that is written"));
    }
    let Some((content, crc)) = bytes
        .get(..len)
        .and_then(<[u8]>::split_last_chunk::<CRC_BYTES>)
    else {
        return Err(corrupt("it is shorter than it was written"));
    };
    if *crc != crc32c::crc32c(content).to_le_bytes() {
        return Err(corrupt("its checksum does not match"));
    }
    let mut fields = IdentityFields(content.get(12..).unwrap_or_default());
    take_content(&mut fields, version).map_err(corrupt)
}

fn take_content(fields: &mut IdentityFields<'_>, version: u32) -> Result<Identity, &'static str> {
    if version > 5 {
        let _length = fields.u32();
    }
    let mut identity = Identity {
        shards: fields.u32(),
        replicas: fields.u32(),
        ..Identity::default()
    };
    match version {
        0..=5 => identity.cores = fields.u16(),
        _ => (identity.reads, identity.cores) = (fields.u16(), fields.u16()),
    }
    let count = usize::from(fields.u16());
    if version > 5 {
        identity.is_founded = fields.u16() != 0;
    }
    if count > limits::NODES_MAX {
        return Err("it lists too many nodes");
    }
    if identity.shards > limits::SHARDS_MAX {
        return Err("it has too many shards");
    }
    (identity.node, identity.name) = (NodeId(fields.u64()), fields.u64());
    identity.promise_ms_max = limits::PROMISE_MS_MAX as u32;
    let take_nodes = |fields: &mut IdentityFields<'_>| -> Vec<NodeId> {
        (0..count).map(|_| NodeId(fields.u64())).collect()
    };
    if version < 3 {
        identity.store = StoreId(fields.u64().into());
        identity.nodes = take_nodes(fields);
        let any = identity.nodes.iter().map(|node| (*node, StoreId::ANY));
        identity.formation.charter = Some(Charter {
            cluster: FullClusterId(identity.name.into()),
            stores: any.collect(),
        });
    } else {
        identity.store = StoreId(fields.u128());
        identity.incarnation = fields.u64();
        let formation = take_formation(fields)?;
        identity.excluded = take_exclusion(fields)?;
        for nonce in &mut identity.starts.0 {
            *nonce = fields.u64();
        }
        if version > 3 {
            identity.promise_ms_max = fields.u32();
        }
        if version > 4 {
            identity.mark = Mark(fields.u64());
        }
        identity.nodes = take_nodes(fields);
        let stores = identity
            .nodes
            .iter()
            .map(|node| (*node, StoreId(fields.u128())));
        identity.formation = formation.with(stores.collect());
    }
    match version {
        0..=2 => {}
        3..=5 => {
            let met = identity.nodes.iter();
            let met = met.map(|node| (*node, take_met(fields, version > 4)));
            identity.met = met.filter(|(_, met)| *met != Met::default()).collect();
        }
        _ => {
            let count = fields.u32() as usize;
            if count > limits::NODES_MET_MAX {
                return Err("it has met too many nodes");
            }
            let met = (0..count).map(|_| (NodeId(fields.u64()), take_met(fields, true)));
            identity.met = met.collect();
        }
    }
    match version {
        0..=5 => identity.held = take_bits(fields, identity.shards),
        _ => identity.held = take_held(fields, identity.shards)?,
    }
    Ok(identity)
}

fn take_met(fields: &mut IdentityFields<'_>, has_mark: bool) -> Met {
    let mut met = Met {
        store: StoreId(fields.u128()),
        start: fields.start(),
        ..Met::default()
    };
    if has_mark {
        met.mark = Mark(fields.u64());
        met.has_lost = fields.take() != [0];
    }
    met
}

/// The shards of older versions: replicas of the founding, all of them made. Zeros in version 1.
fn take_bits(fields: &mut IdentityFields<'_>, shards: u32) -> BTreeMap<ShardId, HeldShard> {
    let bits: Vec<u8> = (0..shards.div_ceil(8))
        .map(|_| u8::from_le_bytes(fields.take()))
        .collect();
    let is_held = |shard: &u32| {
        let byte = bits.get(*shard as usize / 8);
        byte.is_some_and(|byte| byte >> (shard % 8) & 1 == 1)
    };
    let held = (0..shards).filter(is_held).map(ShardId);
    held.map(|shard| (shard, HeldShard::first(HeldState::Made)))
        .collect()
}

fn take_held(
    fields: &mut IdentityFields<'_>,
    shards: u32,
) -> Result<BTreeMap<ShardId, HeldShard>, &'static str> {
    let count = fields.u32() as usize;
    if count > shards as usize + 1 {
        return Err("it lists too many shards");
    }
    let mut held = BTreeMap::new();
    for _ in 0..count {
        let shard = ShardId(fields.u32());
        if shard.0 >= shards && shard != ShardId::META {
            return Err("it lists a shard that there is not");
        }
        let generation = fields.u16();
        let state = match u8::from_le_bytes(fields.take()) {
            0 => HeldState::ToBeMade,
            1 => HeldState::Made,
            2 => HeldState::Dropped,
            3 => HeldState::Gone,
            _ => return Err("a shard is in no known state"),
        };
        held.insert(shard, HeldShard { generation, state });
    }
    Ok(held)
}

/// The state of the formation before its stores are read.
struct Formation {
    promised: Ballot,
    accepted: Ballot,
    tag: u8,
    cluster: FullClusterId,
}

impl Formation {
    fn with(self, stores: Vec<(NodeId, StoreId)>) -> Acceptor {
        let charter = Charter {
            cluster: self.cluster,
            stores,
        };
        let mut acceptor = Acceptor {
            promised: self.promised,
            ..Acceptor::default()
        };
        match self.tag {
            1 => acceptor.accepted = Some((self.accepted, charter)),
            2 => acceptor.charter = Some(charter),
            _ => {}
        }
        acceptor
    }
}

fn take_formation(fields: &mut IdentityFields<'_>) -> Result<Formation, &'static str> {
    let formation = Formation {
        promised: fields.ballot(),
        accepted: fields.ballot(),
        tag: u8::from_le_bytes(fields.take()),
        cluster: FullClusterId(fields.u128()),
    };
    match formation.tag {
        0..=2 => Ok(formation),
        _ => Err("its formation is in no known state"),
    }
}

fn take_exclusion(fields: &mut IdentityFields<'_>) -> Result<Option<Exclusion>, &'static str> {
    let tag = u8::from_le_bytes(fields.take());
    let store = StoreId(fields.u128());
    let start = fields.start();
    match tag {
        0 => Ok(None),
        1 => Ok(Some(Exclusion::OtherStore(store))),
        2 => Ok(Some(Exclusion::RolledBack(start))),
        3 => Ok(Some(Exclusion::Behind(Mark(start.incarnation)))),
        4 => Ok(Some(Exclusion::LostEntries)),
        5 => Ok(Some(Exclusion::Removed)),
        _ => Err("what peers said of it is not known"),
    }
}

/// Reads fields one after the other; zeros beyond the end.
struct IdentityFields<'a>(&'a [u8]);

impl IdentityFields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    fn ballot(&mut self) -> Ballot {
        Ballot {
            round: self.u64(),
            store: StoreId(self.u128()),
        }
    }

    fn start(&mut self) -> Start {
        Start {
            incarnation: self.u64(),
            nonce: self.u64(),
        }
    }
}
