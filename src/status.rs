//! The state of a node: what its cores say of their shards, put together.

use crate::forward::{Mesh, Message, Reply};
use crate::handler::Handler;
use crate::limits;
use crate::placement::Placement;
use corelith_consensus::{Group, Role};
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_shards::LogId;
use corelith_wire::limits::{DAMAGE_TEXT_BYTES_MAX, DAMAGES_LISTED_MAX};
use corelith_wire::response::Answer;
use corelith_wire::status::{ShardRole, ShardStatus, StatusReply};
use corelith_wire::storage::{DamagedPlace, LevelStorage, ScrubState, ShardStorage, StorageReply};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Tells the state of the node to clients of one core. Belongs to that core.
pub(crate) struct NodeStatus {
    core: u16,
    started: Instant,
    placement: Arc<Placement>,
    handler: Rc<Handler>,
    mesh: Rc<Mesh>,
    shards: Asking<ShardStatus>,
    storage: Asking<ShardStorage>,
}

/// Questions of one kind to the other cores; each answers for its shards.
struct Asking<T> {
    next_ticket: Cell<u64>,
    asked: RefCell<BTreeMap<u64, Rc<Asked<T>>>>,
}

/// A question to the other cores.
struct Asked<T> {
    shards: RefCell<Vec<T>>,
    answers: Cell<usize>,
    answered: Notify,
}

impl<T> Asking<T> {
    fn new() -> Self {
        Self {
            next_ticket: Cell::new(0),
            asked: RefCell::default(),
        }
    }

    /// Asks all other cores, and returns what those say that answer in time.
    async fn ask(&self, mesh: &Mesh, question: impl Fn(u64) -> Message) -> Vec<T> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let asked = Rc::new(Asked {
            shards: RefCell::default(),
            answers: Cell::new(0),
            answered: Notify::new(),
        });
        self.asked.borrow_mut().insert(ticket, Rc::clone(&asked));
        let mut wanted = 0;
        for core in mesh.others() {
            mesh.push(core, question(ticket));
            wanted += 1;
        }
        let all = async {
            while asked.answers.get() < wanted {
                asked.answered.notified().await;
            }
        };
        if corelith_io::timeout(limits::STATUS_DEADLINE, all)
            .await
            .is_err()
        {
            tracing::warn!("a core does not tell the state of its shards in time");
        }
        self.asked.borrow_mut().remove(&ticket);
        asked.shards.take()
    }

    /// Takes what another core says.
    fn heard(&self, ticket: u64, shards: Vec<T>) {
        // Too late an answer has nobody waiting for it.
        if let Some(asked) = self.asked.borrow().get(&ticket) {
            asked.shards.borrow_mut().extend(shards);
            asked.answers.set(asked.answers.get() + 1);
            asked.answered.notify_one();
        }
    }
}

impl NodeStatus {
    pub(crate) fn new(
        core: u16,
        placement: Arc<Placement>,
        handler: Rc<Handler>,
        mesh: Rc<Mesh>,
    ) -> Rc<Self> {
        Rc::new(Self {
            core,
            started: corelith_io::now(),
            placement,
            handler,
            mesh,
            shards: Asking::new(),
            storage: Asking::new(),
        })
    }

    /// The state of this core's shards.
    pub(crate) fn of_core(&self) -> Vec<ShardStatus> {
        self.handler
            .groups()
            .map(|group| shard_status(self.core, group))
            .collect()
    }

    /// Answers with the state of the whole node. Shards of a core that does not answer in time are
    /// left out.
    pub(crate) fn tell(self: Rc<Self>, reply: Reply) {
        corelith_io::spawn(async move {
            let mut shards = self.of_core();
            let core = self.core;
            let question = |ticket| Message::StatusWanted { core, ticket };
            shards.extend(self.shards.ask(&self.mesh, question).await);
            shards.sort_by_key(|status| status.shard);
            let me = self.placement.member(self.placement.me);
            reply.send(&Answer::Status(StatusReply {
                node: self.placement.me.0,
                cluster: self.placement.cluster_id,
                epoch: self.placement.epoch,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                cores: me.map_or(0, |member| member.cores),
                shards,
            }));
        });
    }

    /// The state of the storage of this core's shards.
    pub(crate) fn storage_of_core(&self) -> Vec<ShardStorage> {
        let groups = self.handler.groups();
        groups
            .map(|group| shard_storage(self.core, group))
            .collect()
    }

    /// Answers with the state of the storage of the whole node, as [`NodeStatus::tell`] does.
    pub(crate) fn tell_storage(self: Rc<Self>, reply: Reply) {
        corelith_io::spawn(async move {
            let mut shards = self.storage_of_core();
            let core = self.core;
            let question = |ticket| Message::StorageWanted { core, ticket };
            shards.extend(self.storage.ask(&self.mesh, question).await);
            shards.sort_by_key(|storage| storage.shard);
            let mut listed = DAMAGES_LISTED_MAX;
            for shard in &mut shards {
                shard.damages.truncate(listed);
                listed -= shard.damages.len();
            }
            reply.send(&Answer::Storage(StorageReply {
                node: self.placement.me.0,
                shards,
            }));
        });
    }

    /// Takes what another core says of its shards.
    pub(crate) fn heard(&self, ticket: u64, shards: Vec<ShardStatus>) {
        self.shards.heard(ticket, shards);
    }

    /// Takes what another core says of its shards' storage.
    pub(crate) fn heard_storage(&self, ticket: u64, shards: Vec<ShardStorage>) {
        self.storage.heard(ticket, shards);
    }
}

fn shard_storage(core: u16, group: &Group) -> ShardStorage {
    let report = group.engine().report();
    let statistics = report.statistics;
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
    ShardStorage {
        shard: group.shard().0,
        core,
        policy: report.policy.to_string(),
        levels: levels.collect(),
        value_segments: report.garbage.segments.len() as u64,
        value_bytes: report.garbage.bytes,
        garbage_bytes: report.garbage.garbage,
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
        damaged: report.damages.len() as u64,
        damages: damages.collect(),
    }
}

/// Long keys and paths, cut to what an answer has room for.
fn shortened(mut text: String) -> String {
    if text.len() > DAMAGE_TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(DAMAGE_TEXT_BYTES_MAX - 3);
        text.truncate(end);
        text += "...";
    }
    text
}

fn shard_status(core: u16, group: &Group) -> ShardStatus {
    let status = group.status();
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
    }
}
