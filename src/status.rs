//! The state of a node: what its cores say of their shards, put together.

use crate::forward::{Mesh, Message, Reply};
use crate::handler::Handler;
use crate::limits;
use crate::placement::Placement;
use corelith_consensus::{Group, Role};
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_shards::LogId;
use corelith_wire::response::Answer;
use corelith_wire::status::{ShardRole, ShardStatus, StatusReply};
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
    next_ticket: Cell<u64>,
    asked: RefCell<BTreeMap<u64, Rc<Asked>>>,
}

/// A question to the other cores.
#[derive(Default)]
struct Asked {
    shards: RefCell<Vec<ShardStatus>>,
    answers: Cell<usize>,
    answered: Notify,
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
            next_ticket: Cell::new(0),
            asked: RefCell::default(),
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
            shards.extend(self.of_others().await);
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

    async fn of_others(&self) -> Vec<ShardStatus> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let asked = Rc::new(Asked::default());
        self.asked.borrow_mut().insert(ticket, Rc::clone(&asked));
        let mut wanted = 0;
        for core in self.mesh.others() {
            let question = Message::StatusWanted {
                core: self.core,
                ticket,
            };
            self.mesh.push(core, question);
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
    pub(crate) fn heard(&self, ticket: u64, shards: Vec<ShardStatus>) {
        // Too late an answer has nobody waiting for it.
        if let Some(asked) = self.asked.borrow().get(&ticket) {
            asked.shards.borrow_mut().extend(shards);
            asked.answers.set(asked.answers.get() + 1);
            asked.answered.notify_one();
        }
    }
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
