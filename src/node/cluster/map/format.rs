//! The bytes of a map.
//!
//! ```text
//! 4   format version, 1
//! 4   epoch
//! 16  cluster
//! 4   version that all nodes speak
//! 8   id of the next node
//! 34  settings: 4 replicas, 4 reads (0 lease, 1 majority), 4 rebuild_after_s, 4 moves_max, 4 moves_per_node_max,
//!     8 copy_bytes_per_second, 1 rejoin (0 auto, 1 manual), 1 balance (0 no, 1 yes), 4 zeros
//! 4   number of nodes, then each, ascending:
//!     8 id, 16 store, 2 port, 2 cores, 1 state (0 active, 1 draining, 2 removed),
//!     1 length of the host, of the zone and of the region each, then the three
//! 4   number of shards, then each, and at last that of the map:
//!     1 number of replicas, 8 each; 4 epoch, 8 index of the membership, 2 next generation,
//!     1 change: 0 none, bit 0 it adds, bit 1 it removes, bits 2 and 3 what for (0 move, 1 rebuild, 2 drain,
//!     3 operator); 8 the replica added, 8 the one removed
//! 4   crc32c of the bytes before
//! ```
//! All numbers are little-endian. A replica is its node and its generation in the upper 16 bits.

use super::{Change, Map, MapNode, MapSettings, MapShard, NodeState, Rejoin, Why, Wrong};
use crate::node::limits;
use corelith_wire::{Epoch, FullClusterId, LogIndex, NodeId, ReplicaId, StoreId};
use std::collections::BTreeMap;

/// The format that is written.
const VERSION: u32 = 1;
const CRC_BYTES: usize = 4;
const NODE_BYTES_MIN: usize = 8 + 16 + 2 + 2 + 1 + 3;
const SHARD_BYTES_MIN: usize = 1 + 4 + 8 + 2 + 1;
const NODE_BYTES_MAX: usize = NODE_BYTES_MIN + limits::HOST_LEN_MAX + 2 * limits::ZONE_LEN_MAX;
const SHARD_BYTES_MAX: usize = SHARD_BYTES_MIN + 8 * limits::REPLICAS_MAX as usize + 16;
/// Bytes of the longest map.
pub const MAP_BYTES_MAX: usize = 128
    + limits::MAP_NODES_MAX * NODE_BYTES_MAX
    + (limits::SHARDS_MAX as usize + 1) * SHARD_BYTES_MAX;

// The map is one value, and travels in one frame.
const _: () = assert!(MAP_BYTES_MAX <= corelith_wire::limits::VALUE_BYTES_MAX);

/// Why bytes are no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A newer version of the software wrote them.
    #[error("the map has format {0}, which this version does not know")]
    Newer(u32),
    /// They are damaged, or were made up.
    #[error("the map is damaged: {0}")]
    Corrupt(&'static str),
}

impl From<Wrong> for MapError {
    fn from(wrong: Wrong) -> Self {
        Self::Corrupt(wrong.0)
    }
}

impl Map {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        assert_eq!(self.check(), Ok(()), "only a map is written");
        let mut out = Vec::with_capacity(128 + 64 * self.nodes.len() + 48 * self.shards.len());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.next_node.to_le_bytes());
        put_settings(&mut out, &self.settings);
        put_count(&mut out, self.nodes.len());
        for (id, node) in &self.nodes {
            put_node(&mut out, *id, node);
        }
        put_count(&mut out, self.shards.len());
        for shard in self.shards.iter().chain([&self.meta]) {
            put_shard(&mut out, shard);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        assert!(out.len() <= MAP_BYTES_MAX, "a map is within its bounds");
        out
    }

    /// Reads a map. Nothing is trusted: what it returns holds everything that holds of a map.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        let corrupt = MapError::Corrupt;
        let (content, crc) = bytes
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(corrupt("it is too short"))?;
        if bytes.len() > MAP_BYTES_MAX {
            return Err(corrupt("it is too long"));
        }
        if *crc != crc32c::crc32c(content).to_le_bytes() {
            return Err(corrupt("its checksum does not match"));
        }
        let mut fields = MapFields(content);
        let version = fields.u32()?;
        if version > VERSION {
            return Err(MapError::Newer(version));
        }
        if version != VERSION {
            return Err(corrupt("its format is none"));
        }
        let (epoch, cluster) = (Epoch(fields.u32()?), FullClusterId(fields.u128()?));
        let (version, next_node) = (fields.u32()?, fields.u64()?);
        let settings = fields.settings()?;
        let count = fields.count(NODE_BYTES_MIN)?;
        let mut nodes = BTreeMap::new();
        for _ in 0..count {
            let (id, node) = fields.node()?;
            if nodes.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(corrupt("nodes are out of order"));
            }
            nodes.insert(id, node);
        }
        let count = fields.count(SHARD_BYTES_MIN)?;
        let shards: Result<Vec<MapShard>, MapError> = (0..count).map(|_| fields.shard()).collect();
        let map = Self {
            epoch,
            cluster,
            version,
            settings,
            nodes,
            shards: shards?,
            meta: fields.shard()?,
            next_node,
        };
        if !fields.0.is_empty() {
            return Err(corrupt("something follows it"));
        }
        map.check()?;
        Ok(map)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count);
    let count = count.unwrap_or_else(|_| panic!("a map is within its bounds"));
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_settings(out: &mut Vec<u8>, settings: &MapSettings) {
    for field in [
        settings.replicas,
        settings.reads,
        settings.rebuild_after_s,
        settings.moves_max,
        settings.moves_per_node_max,
    ] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&settings.copy_bytes_per_second.to_le_bytes());
    out.push(match settings.rejoin {
        Rejoin::Auto => 0,
        Rejoin::Manual => 1,
    });
    out.push(settings.balance.into());
    out.extend_from_slice(&[0; 4]);
}

fn put_node(out: &mut Vec<u8>, id: NodeId, node: &MapNode) {
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&node.store.0.to_le_bytes());
    out.extend_from_slice(&node.port.to_le_bytes());
    out.extend_from_slice(&node.cores.to_le_bytes());
    out.push(match node.state {
        NodeState::Active => 0,
        NodeState::Draining => 1,
        NodeState::Removed => 2,
    });
    let texts = [&node.host, &node.zone, &node.region];
    for text in texts {
        let len = u8::try_from(text.len());
        out.push(len.unwrap_or_else(|_| panic!("names are within their bounds")));
    }
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

fn put_shard(out: &mut Vec<u8>, shard: &MapShard) {
    let count = u8::try_from(shard.replicas.len());
    out.push(count.unwrap_or_else(|_| panic!("replicas are within their bounds")));
    for replica in &shard.replicas {
        out.extend_from_slice(&replica.0.to_le_bytes());
    }
    out.extend_from_slice(&shard.epoch.0.to_le_bytes());
    out.extend_from_slice(&shard.membership.0.to_le_bytes());
    out.extend_from_slice(&shard.next_generation.to_le_bytes());
    let Some(change) = shard.change else {
        out.push(0);
        return;
    };
    let why: u8 = match change.why {
        Why::Move => 0,
        Why::Rebuild => 1,
        Why::Drain => 2,
        Why::Operator => 3,
    };
    let (adds, removes) = (change.add.is_some(), change.remove.is_some());
    out.push(u8::from(adds) | u8::from(removes) << 1 | why << 2);
    for replica in [change.add, change.remove].into_iter().flatten() {
        out.extend_from_slice(&replica.0.to_le_bytes());
    }
}

/// Reads fields one after the other.
struct MapFields<'a>(&'a [u8]);

impl<'a> MapFields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], MapError> {
        let short = MapError::Corrupt("it ends too early");
        let (field, rest) = self.0.split_at_checked(len).ok_or(short)?;
        self.0 = rest;
        Ok(field)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MapError> {
        let short = MapError::Corrupt("it ends too early");
        let (field, rest) = self.0.split_first_chunk().ok_or(short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, MapError> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, MapError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MapError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MapError> {
        self.take().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, MapError> {
        self.take().map(u128::from_le_bytes)
    }

    /// A number of things, of which the rest has room for as many.
    fn count(&mut self, bytes_each: usize) -> Result<usize, MapError> {
        let count = self.u32()? as usize;
        match count <= self.0.len() / bytes_each {
            true => Ok(count),
            false => Err(MapError::Corrupt("it counts more than it holds")),
        }
    }

    fn flag(&mut self) -> Result<bool, MapError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MapError::Corrupt("a flag is neither yes nor no")),
        }
    }

    fn text(&mut self, len: u8) -> Result<String, MapError> {
        let text = std::str::from_utf8(self.bytes(len.into())?);
        let text = text.map_err(|_| MapError::Corrupt("a name is no text"))?;
        Ok(text.to_owned())
    }

    fn settings(&mut self) -> Result<MapSettings, MapError> {
        let settings = MapSettings {
            replicas: self.u32()?,
            reads: self.u32()?,
            rebuild_after_s: self.u32()?,
            moves_max: self.u32()?,
            moves_per_node_max: self.u32()?,
            copy_bytes_per_second: self.u64()?,
            rejoin: match self.flag()? {
                false => Rejoin::Auto,
                true => Rejoin::Manual,
            },
            balance: self.flag()?,
        };
        match self.u32()? {
            0 => Ok(settings),
            _ => Err(MapError::Corrupt("settings that are not known")),
        }
    }

    fn node(&mut self) -> Result<(NodeId, MapNode), MapError> {
        let (id, store) = (NodeId(self.u64()?), StoreId(self.u128()?));
        let (port, cores) = (self.u16()?, self.u16()?);
        let state = match self.u8()? {
            0 => NodeState::Active,
            1 => NodeState::Draining,
            2 => NodeState::Removed,
            _ => return Err(MapError::Corrupt("a node's state is not known")),
        };
        let [host, zone, region] = self.take()?;
        let node = MapNode {
            store,
            host: self.text(host)?,
            port,
            cores,
            zone: self.text(zone)?,
            region: self.text(region)?,
            state,
        };
        Ok((id, node))
    }

    fn shard(&mut self) -> Result<MapShard, MapError> {
        let count = self.u8()?;
        let replicas: Result<Vec<ReplicaId>, MapError> =
            (0..count).map(|_| self.u64().map(ReplicaId)).collect();
        Ok(MapShard {
            replicas: replicas?,
            epoch: Epoch(self.u32()?),
            membership: LogIndex(self.u64()?),
            next_generation: self.u16()?,
            change: self.change()?,
        })
    }

    fn change(&mut self) -> Result<Option<Change>, MapError> {
        let tag = self.u8()?;
        if tag == 0 {
            return Ok(None);
        }
        let why = match tag >> 2 {
            0 => Why::Move,
            1 => Why::Rebuild,
            2 => Why::Drain,
            3 => Why::Operator,
            _ => return Err(MapError::Corrupt("a change is for nothing known")),
        };
        let mut replica = |is_there: bool| match is_there {
            true => self.u64().map(|replica| Some(ReplicaId(replica))),
            false => Ok(None),
        };
        let (add, remove) = (replica(tag & 1 != 0)?, replica(tag & 2 != 0)?);
        Ok(Some(Change { add, remove, why }))
    }
}
