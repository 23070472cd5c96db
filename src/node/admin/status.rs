//! The state of a node: what its cores say of their shards, put together.

use crate::node::admission::desk::Desk;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::limits;
use crate::node::local::{DownShard, LocalGroups};
use crate::node::mesh::Mesh;
use corelith_consensus::{ApplyWait, Group, Liveness, PeerState, Role};
use corelith_io::Instant;
use corelith_shards::{LogId, ShardId};
use corelith_wire::limits::{DAMAGE_TEXT_BYTES_MAX, DAMAGES_LISTED_MAX};
use corelith_wire::peer::Health;
use corelith_wire::response::Answer;
use corelith_wire::status::{
    NodePeer, NodeStranger, ShardRole, ShardStatus, StatusReply, UploadsStatus,
};
use corelith_wire::storage::{DamagedPlace, LevelStorage, ScrubState, ShardStorage, StorageReply};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Tells the state of the node to clients of one core. Belongs to that core.
pub(crate) struct NodeStatus {
    started: Instant,
    map: Rc<MapWatch>,
    groups: Rc<LocalGroups>,
    mesh: Rc<Mesh>,
    desk: Rc<Desk>,
    liveness: Arc<Liveness>,
}

impl NodeStatus {
    pub(crate) fn new(
        map: Rc<MapWatch>,
        groups: Rc<LocalGroups>,
        mesh: Rc<Mesh>,
        desk: Rc<Desk>,
        liveness: Arc<Liveness>,
    ) -> Rc<Self> {
        Rc::new(Self {
            started: corelith_io::now(),
            map,
            groups,
            mesh,
            desk,
            liveness,
        })
    }

    /// The state of the whole node's shards. Those of a core that does not answer in time are left out.
    pub(crate) async fn status(&self) -> Answer {
        let mut shards = self.ask_shards(shard_status, down_status).await;
        shards.sort_by_key(|status| status.shard);
        let is_sorted = shards.is_sorted_by(|a, b| a.shard < b.shard);
        assert!(is_sorted, "a shard is on one core of a node");
        let meta = match shards.last() {
            Some(last) if last.shard == ShardId::META.0 => shards.pop(),
            _ => None,
        };
        let strangers = self.desk.strangers().await;
        let strangers = strangers.into_iter().map(|stranger| NodeStranger {
            node: stranger.node.0,
            why: stranger.why,
        });
        let map = self.map.now();
        let peers = self.liveness.peers();
        // Those that were removed are remembered, since what was promised to them still is.
        let peers = peers.iter().filter(|peer| map.member(peer.node).is_some());
        Answer::Status(StatusReply {
            node: map.me.0,
            cluster: map.cluster.0,
            epoch: map.epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cores: map.cores(),
            shards,
            strangers: strangers.collect(),
            peers: peers.map(node_peer).collect(),
            meta,
        })
    }

    /// The state of the whole node's storage, as [`NodeStatus::status`].
    pub(crate) async fn storage(&self) -> Answer {
        let mut shards = self.ask_shards(shard_storage, down_storage).await;
        shards.sort_by_key(|storage| storage.shard);
        assert!(
            shards.len() <= self.shards_max(),
            "room was taken for all shards"
        );
        // Of the meta shard only damage is of interest.
        shards.retain(|shard| shard.shard != ShardId::META.0 || shard.damaged > 0);
        let mut listed = DAMAGES_LISTED_MAX;
        for shard in &mut shards {
            shard.damages.truncate(listed);
            listed -= shard.damages.len();
        }
        Answer::Storage(StorageReply {
            node: self.map.now().me.0,
            shards,
        })
    }

    /// Longest answer to a question for the status.
    pub(crate) fn status_bytes_max(&self) -> usize {
        limits::STATUS_BYTES
            + self.shards_max() * limits::STATUS_SHARD_BYTES
            + self.map.now().members().len()
                * (limits::STATUS_STRANGER_BYTES + limits::STATUS_PEER_BYTES)
    }

    /// Longest answer to a question for the storage.
    pub(crate) fn storage_bytes_max(&self) -> usize {
        limits::STATUS_BYTES
            + self.shards_max() * limits::STORAGE_SHARD_BYTES
            + DAMAGES_LISTED_MAX * 4 * DAMAGE_TEXT_BYTES_MAX
    }

    /// All shards, and the meta shard.
    fn shards_max(&self) -> usize {
        self.map.now().shards as usize + 1
    }

    /// What `tell` says of each shard of the node, or `tell_down` if it is down.
    async fn ask_shards<T: Send + 'static>(
        &self,
        tell: fn(u16, &Group) -> T,
        tell_down: fn(&DownShard) -> T,
    ) -> Vec<T> {
        let of_core = move |core: u16, groups: &LocalGroups| -> Vec<T> {
            let (running, down) = (groups.all(), groups.down());
            let running = running.iter().map(|group| tell(core, group));
            running.chain(down.iter().map(tell_down)).collect()
        };
        let answers = self.mesh.ask_all(&self.groups, of_core).await;
        answers.into_iter().flatten().collect()
    }
}

fn node_peer(peer: &PeerState) -> NodePeer {
    let Health {
        is_disk_full,
        is_damaged,
        is_draining,
        is_slow,
    } = peer.health.node;
    let is_damaged = is_damaged || peer.health.has_more || !peer.health.damaged.is_empty();
    let words = [
        ("full", is_disk_full),
        ("damaged", is_damaged),
        ("draining", is_draining),
        ("slow", is_slow),
    ];
    let health = words.into_iter().filter(|(_, is_so)| *is_so);
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    NodePeer {
        node: peer.node.0,
        heard_ms: peer.heard.map(milliseconds),
        counts: peer.counts,
        promised: peer.promised,
        is_clock_right: peer.is_clock_right,
        health: health.map(|(word, _)| word.to_owned()).collect(),
    }
}

fn shard_storage(core: u16, group: &Group) -> ShardStorage {
    let report = group.engine().report();
    let statistics = report.statistics;
    let waits_for = report.returning.waits_for().map(|wait| wait.to_string());
    let levels = report.levels.iter().map(|level| LevelStorage {
        level: u32::try_from(level.level).unwrap_or(u32::MAX),
        runs: level.runs as u64,
        tables: level.tables as u64,
        bytes: level.bytes,
        entries: level.entries,
        deletions: level.deletions,
    });
    let damages = report.damages.iter().map(|damage| DamagedPlace {
        file: shortened(damage.file.clone()),
        offset: damage.offset,
        what: damage.what.to_owned(),
        keys: shortened(damage.keys()),
    });
    // First, since what a replica cannot go on without matters most.
    let waits = group.waits_to_apply().map(waiting_place);
    let damages: Vec<DamagedPlace> = waits.into_iter().chain(damages).collect();
    ShardStorage {
        shard: group.shard().0,
        core,
        policy: report.policy.to_string(),
        levels: levels.collect(),
        value_segments: report.garbage.segments.len() as u64,
        value_bytes: report.garbage.bytes,
        garbage_bytes: report.garbage.garbage,
        hidden_garbage_bytes: statistics.hidden_garbage_bytes,
        returning_bytes: report.returning.bytes(),
        returning_waits_for: waits_for.unwrap_or_default(),
        debt_bytes: statistics.debt_bytes,
        memtable_bytes: statistics.memtable_bytes,
        is_disk_full: report.is_disk_full,
        scrub: ScrubState {
            cycle: report.scrub.cycle,
            bytes_done: report.scrub.bytes_done,
            bytes_total: report.scrub.bytes_total,
            damaged: report.scrub.damaged,
            is_running: report.scrub.running,
        },
        damaged: damages.len() as u64,
        damages,
    }
}

/// What keeps a replica from applying what is committed.
fn waiting_place(wait: ApplyWait) -> DamagedPlace {
    DamagedPlace {
        file: shortened(wait.file),
        offset: wait.offset,
        what: shortened(format!(
            "no replica can read the key on which entry {} has a condition: nothing after it is applied until one can",
            wait.index.0
        )),
        keys: shortened(wait.key.escape_ascii().to_string()),
    }
}

/// What is known of a shard that cannot be opened: why.
fn down_storage(down: &DownShard) -> ShardStorage {
    ShardStorage {
        shard: down.shard.0,
        core: down.core,
        damaged: 1,
        damages: vec![DamagedPlace {
            file: shortened(down.file.clone()),
            offset: down.offset,
            what: shortened(down.what.clone()),
            keys: String::new(),
        }],
        ..ShardStorage::default()
    }
}

fn down_status(down: &DownShard) -> ShardStatus {
    ShardStatus {
        shard: down.shard.0,
        core: down.core,
        role: ShardRole::Down,
        ..ShardStatus::default()
    }
}

/// Long keys and paths, cut to what an answer has room for.
fn shortened(mut text: String) -> String {
    if text.len() > DAMAGE_TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(DAMAGE_TEXT_BYTES_MAX - 3);
        text.truncate(end);
        text += "...";
    }
    assert!(
        text.len() <= DAMAGE_TEXT_BYTES_MAX,
        "room was taken for that much"
    );
    text
}

fn shard_status(core: u16, group: &Group) -> ShardStatus {
    let status = group.status();
    let uploads = group.upload_counts();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index.0);
    ShardStatus {
        shard: status.shard.0,
        core,
        role: match status.role {
            Role::Leader => ShardRole::Leader,
            Role::Follower => ShardRole::Follower,
            Role::Candidate => ShardRole::Candidate,
            Role::Learner => ShardRole::Learner,
            Role::Stopped => ShardRole::Down,
        },
        leader: status.leader.map_or(0, |node| node.0),
        term: status.term.0,
        last: index(status.last_log),
        committed: index(status.committed),
        applied: index(status.applied),
        checkpointed: index(status.checkpointed),
        purged: index(status.purged),
        uploads: UploadsStatus {
            open: uploads.open as u64,
            staged_bytes: uploads.staged_bytes,
            dead_bytes: uploads.dead_bytes,
        },
    }
}
