//! A node's report of its state.

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use crate::ids::ShardId;
use crate::version;
use rkyv::with::Skip;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of a node and of all its shard replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StatusReply {
    /// The node.
    pub node: u64,
    /// Its cluster.
    pub cluster: u64,
    /// Generation of its cluster map.
    pub epoch: u32,
    /// Version of its software.
    pub version: String,
    /// Time since it started, in milliseconds.
    pub uptime_ms: u64,
    /// Number of its cores.
    pub cores: u16,
    /// Its shard replicas.
    pub shards: Vec<ShardStatus>,
    /// Nodes that it refuses. They travel behind the rest, where older clients do not look.
    #[rkyv(with = Skip)]
    pub strangers: Vec<NodeStranger>,
    /// The other nodes as it sees them; since version 3, and also behind the rest.
    #[rkyv(with = Skip)]
    pub peers: Vec<NodePeer>,
    /// Its replica of the meta shard, if it has one; since version 5, and also behind the rest.
    #[rkyv(with = Skip)]
    pub meta: Option<ShardStatus>,
}

/// Another node, as one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePeer {
    /// The other node.
    pub node: u64,
    /// Time since a beat of it came, or a reply, in milliseconds.
    pub heard_ms: Option<u64>,
    /// Whether its promise counts: that its replicas vote for nobody against the leaders on this node.
    pub counts: bool,
    /// Whether the promise that it was given runs.
    pub promised: bool,
    /// Whether its clock runs at the rate of this node's.
    pub is_clock_right: bool,
    /// What speaks against its leading, in one word each.
    pub health: Vec<String>,
}

/// What a line about a peer begins with, where one about a stranger has a number.
const PEER_LINE: &str = "peer ";

/// What the line about the meta shard begins with.
const META_LINE: &str = "meta ";

impl ShardRole {
    const ALL: [Self; 5] = [
        Self::Leader,
        Self::Follower,
        Self::Candidate,
        Self::Learner,
        Self::Down,
    ];
}

impl ShardStatus {
    fn meta_line(&self) -> String {
        let Self {
            core,
            role,
            leader,
            term,
            last,
            committed,
            applied,
            checkpointed,
            purged,
            ..
        } = self;
        let role = *role as u8;
        format!(
            "{META_LINE}{core} {role} {leader} {term} {last} {committed} {applied} {checkpointed} {purged}\n"
        )
    }

    fn parse_meta(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').map(|field| field.parse::<u64>().ok());
        let mut field = || fields.next().flatten();
        Some(Self {
            shard: ShardId::META.0,
            core: u16::try_from(field()?).ok()?,
            role: {
                let role = field()?;
                let mut all = ShardRole::ALL.into_iter();
                all.find(|known| *known as u64 == role)?
            },
            leader: field()?,
            term: field()?,
            last: field()?,
            committed: field()?,
            applied: field()?,
            checkpointed: field()?,
            purged: field()?,
            uploads: UploadsStatus::default(),
        })
    }
}

impl NodePeer {
    fn line(&self) -> String {
        let heard = self.heard_ms.map_or("-".to_owned(), |ms| ms.to_string());
        let flags = [self.counts, self.promised, self.is_clock_right].map(u8::from);
        let [counts, promised, is_clock_right] = flags;
        let health = self.health.join(",");
        format!(
            "{PEER_LINE}{} {heard} {counts} {promised} {is_clock_right} {health}\n",
            self.node
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let node = fields.next()?.parse().ok()?;
        let heard_ms = match fields.next()? {
            "-" => None,
            ms => Some(ms.parse().ok()?),
        };
        let mut flag = || match fields.next()? {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        let (counts, promised, is_clock_right) = (flag()?, flag()?, flag()?);
        // Whatever a newer one says behind it is not known.
        let health = fields.next()?.split(',').filter(|word| !word.is_empty());
        Some(Self {
            node,
            heard_ms,
            counts,
            promised,
            is_clock_right,
            health: health.map(str::to_owned).collect(),
        })
    }
}

/// A node that another one refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStranger {
    /// The node that it says it is.
    pub node: u64,
    /// Why, in one sentence.
    pub why: String,
}

/// The role of a replica in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ShardRole {
    /// Leads.
    Leader = 0,
    /// Follows a leader.
    #[default]
    Follower = 1,
    /// Stands for election.
    Candidate = 2,
    /// Receives the log but has no vote.
    Learner = 3,
    /// Fenced off by a storage failure, or not running.
    Down = 4,
}

/// The state of one replica. Log positions are 0 where there is none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u32,
    /// The core that owns the replica.
    pub core: u16,
    /// Its role.
    pub role: ShardRole,
    /// The leader as far as it knows, 0 if it knows none.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last: u64,
    /// The commit index it knows.
    pub committed: u64,
    /// The last index it applied.
    pub applied: u64,
    /// The last index that a checkpoint covers.
    pub checkpointed: u64,
    /// The last index that was purged from its log.
    pub purged: u64,
    /// Its uploads; since version 6, and behind the rest.
    #[rkyv(with = Skip)]
    pub uploads: UploadsStatus,
}

/// The uploads and large values of one replica, as far as they are not values of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadsStatus {
    /// Uploads that are neither committed nor given up.
    pub open: u64,
    /// Bytes of their chunks.
    pub staged_bytes: u64,
    /// Bytes of values that were replaced, and of uploads that were given up, which are not dropped yet.
    pub dead_bytes: u64,
}

/// What a line about the uploads of a shard begins with.
const UPLOADS_LINE: &str = "uploads ";

impl UploadsStatus {
    /// A line if there is anything to say.
    fn line(self, shard: u32) -> Option<String> {
        let Self {
            open,
            staged_bytes,
            dead_bytes,
        } = self;
        let line = || format!("{UPLOADS_LINE}{shard} {open} {staged_bytes} {dead_bytes}\n");
        (self != Self::default()).then(line)
    }

    /// The shard and its uploads. Whatever a newer side says behind them is not known.
    fn parse(line: &str) -> Option<(u32, Self)> {
        let mut fields = line.split(' ').map(|field| field.parse::<u64>().ok());
        let mut field = || fields.next().flatten();
        let shard = u32::try_from(field()?).ok()?;
        let uploads = Self {
            open: field()?,
            staged_bytes: field()?,
            dead_bytes: field()?,
        };
        Some((shard, uploads))
    }
}

impl StatusReply {
    pub(crate) fn parse(body: &[u8], behind: &[u8]) -> Result<Self, DecodeError> {
        let mut reply: Self =
            deserialize(access::<ArchivedStatusReply>(body, "status")?, "status")?;
        let malformed = DecodeError::Malformed { what: "status" };
        let mut uploads = BTreeMap::new();
        for line in behind
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line = std::str::from_utf8(line).map_err(|_| malformed)?;
            if let Some(peer) = line.strip_prefix(PEER_LINE) {
                reply.peers.push(NodePeer::parse(peer).ok_or(malformed)?);
                continue;
            }
            if let Some(meta) = line.strip_prefix(META_LINE) {
                reply.meta = Some(ShardStatus::parse_meta(meta).ok_or(malformed)?);
                continue;
            }
            if let Some(line) = line.strip_prefix(UPLOADS_LINE) {
                uploads.extend([UploadsStatus::parse(line).ok_or(malformed)?]);
                continue;
            }
            let (node, why) = line.split_once(' ').ok_or(malformed)?;
            reply.strangers.push(NodeStranger {
                node: node.parse().map_err(|_| malformed)?,
                why: why.to_owned(),
            });
        }
        for shard in &mut reply.shards {
            shard.uploads = uploads.remove(&shard.shard).unwrap_or_default();
        }
        Ok(reply)
    }

    /// What goes behind the rest for a side of that version: a line for each stranger, its node and the reason,
    /// one for each peer, one for the meta shard, and one for each shard that has uploads.
    pub(crate) fn behind(&self, version: u16) -> String {
        let lines = self.strangers.iter().map(|stranger| {
            let why = stranger.why.replace('\n', " ");
            format!("{} {why}\n", stranger.node)
        });
        // An older side would take them for strangers.
        let peers: &[NodePeer] = if version < 3 { &[] } else { &self.peers };
        let meta = self.meta.filter(|_| version >= 5);
        let shards: &[ShardStatus] = match version < version::LARGE_VALUES {
            true => &[],
            false => &self.shards,
        };
        let uploads = shards
            .iter()
            .filter_map(|shard| shard.uploads.line(shard.shard));
        lines
            .chain(peers.iter().map(NodePeer::line))
            .chain(meta.iter().map(ShardStatus::meta_line))
            .chain(uploads)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_uploads_is_read_or_malformed() {
        let uploads = UploadsStatus {
            open: 2,
            staged_bytes: u64::MAX,
            dead_bytes: 0,
        };
        let line = format!("uploads 5 2 {} 0\n", u64::MAX);
        assert_eq!(uploads.line(5), Some(line));
        assert_eq!(UploadsStatus::default().line(5), None);
        let table = [
            ("5 2 3 4", Some((5, 3))),
            ("5 2 3 4 and what is not known", Some((5, 3))),
            ("", None),
            ("5 2 3", None),
            ("5 2 x 4", None),
            ("4294967296 2 3 4", None),
        ];
        for (line, expected) in table {
            let found = UploadsStatus::parse(line);
            let found = found.map(|(shard, uploads)| (shard, uploads.staged_bytes));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn a_line_about_a_peer_is_read_or_malformed() {
        let peer = NodePeer {
            node: 2,
            heard_ms: Some(5),
            counts: true,
            promised: true,
            is_clock_right: false,
            health: vec!["slow".to_owned()],
        };
        assert_eq!(peer.line(), "peer 2 5 1 1 0 slow\n");
        let table = [
            ("2 5 1 1 0 slow", true),
            ("2 - 1 1 0 ", true),
            ("2 5 1 1 0 slow,new and what is not known", true),
            ("", false),
            ("2", false),
            ("x - 1 1 1 ", false),
            ("2 5 1 1 2 ", false),
            ("2 x 1 1 1 ", false),
            ("2 - 1 1 1", false),
        ];
        for (line, is_right) in table {
            assert_eq!(NodePeer::parse(line).is_some(), is_right, "{line}");
        }
        assert_eq!(NodePeer::parse("2 5 1 1 0 slow"), Some(peer));
    }
}
