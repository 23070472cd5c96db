//! One Raft group, as the node sees it.
//!
//! Invariants:
//! * Writes are answered after they are applied here, and applied means that [`Applied`] says so.
//!   So a leader that holds its lease and has applied an entry of its own term has applied every
//!   write that anybody was answered: those of earlier leaders lie before that entry.
//! * A node's promises outlive its restart: for as long as the longest of them none of its replicas votes or
//!   stands ([`crate::liveness`]).

mod assembly;
mod binding;
mod door;
mod election;
mod entrance;
mod follower_read;
mod heal;
mod holds;
mod keeper;
mod lane;
mod large;
mod lead;
mod members;
mod read;
mod status;
mod turning;
mod upkeep;
mod waiting;
#[cfg(any(test, feature = "planted"))]
mod window;

use crate::activity::GroupActivity;
use crate::announced::Announced;
use crate::applied::Applied;
use crate::command::{Parsed, WriteReply, kind};
use crate::contradictions::Contradictions;
use crate::error::{GroupError, OpenError};
use crate::fetch::Elsewhere;
use crate::lease::Lease;
use crate::limits;
use crate::link::PeerLink;
use crate::liveness::Liveness;
use crate::network::GroupOfPeers;
use crate::options::Options;
use crate::pairs::Pairs;
use crate::planted::{Bug, is_planted};
use crate::proposal::{self, ProposalBudget, Responder};
use crate::relief::Decisions;
use crate::route::{GroupMember, Origin, Target};
use crate::snapshot::{Offer, Transfers};
use crate::stores::{GroupMembers, Stores};
use crate::types::{Payload, Raft, Types};
use crate::uploads::Uploads;
use bytes::Bytes;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::{oneshot, watch};
use corelith_shards::{Engine, Log, LogIndex, LogPulse, NodeId, ReplicaId, Shard, ShardId};
use corelith_wire::peer::{Health, PromiseEpoch};
use corelith_wire::request::WriteCommand;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use assembly::{Shared, build};
pub(crate) use lead::STALLED_PART;
pub use members::{GroupProgress, ReplicaProgress};
pub use read::ReadPoint;
pub use status::{GroupStatus, Role};
pub(crate) use waiting::Silences;

/// The group of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Rc<GroupInner>,
}

struct GroupInner {
    me: ReplicaId,
    shard_id: ShardId,
    /// The members with which the group is formed, if this replica is one of those that form it.
    founding: Option<Vec<GroupMember>>,
    stores: Rc<Stores>,
    preferred: Cell<NodeId>,
    link_to: LinkTo,
    raft: Raft,
    engine: Engine,
    log: Log,
    /// Taken when the group closes.
    shard: RefCell<Option<Shard>>,
    applied: Rc<Applied>,
    peers: Rc<GroupOfPeers>,
    transfers: Rc<Transfers>,
    lease: Rc<Lease>,
    liveness: Arc<Liveness>,
    /// This node and that of each other member.
    pairs: Rc<Pairs>,
    /// Whether its members are being changed.
    is_changing: Cell<bool>,
    /// The core of a member's node that has the shard.
    core_of: Rc<dyn Fn(NodeId) -> u16>,
    turning: turning::Turning,
    elsewhere: Rc<Elsewhere>,
    decisions: Rc<Decisions>,
    /// The uploads as of what is applied.
    uploads: Rc<RefCell<Uploads>>,
    lane: Rc<lane::ChunkLane>,
    keeper: keeper::UploadKeeper,
    lead: lead::Lead,
    silence: waiting::Silence,
    /// Of all groups of the core.
    silences: Rc<Silences>,
    /// Of all groups of the core.
    activity: GroupActivity,
    /// Something has changed that may have this replica stand.
    wake: Notify,
    /// There is a reason to purge the log beside a checkpoint.
    purge_wanted: Notify,
    data: WatchReceiverOf<Types, RaftDataMetrics<Types>>,
    server: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    budget: ProposalBudget,
    readers: read::Readers,
    follower_reads: follower_read::FollowerReads,
    door: door::Door,
    entrance: entrance::Entrance,
    options: Options,
    closing: watch::Sender<bool>,
    stopped: Cell<bool>,
    #[cfg(test)]
    pretended: Cell<Option<Health>>,
}

/// Gives the link to the core of a node that owns the shard.
type LinkTo = Rc<dyn Fn(NodeId) -> Rc<PeerLink>>;

/// What a group needs from its core.
pub(crate) struct GroupSurroundings {
    pub(crate) me: GroupMember,
    pub(crate) link_to: LinkTo,
    pub(crate) options: Options,
    pub(crate) liveness: Arc<Liveness>,
    /// The core of this node on which the group is.
    pub(crate) core: u16,
    /// The core of another node that has the shard.
    pub(crate) core_of: Rc<dyn Fn(NodeId) -> u16>,
    pub(crate) silences: Rc<Silences>,
    pub(crate) activity: GroupActivity,
}

impl Group {
    /// Starts a replica. It votes and answers peers right away (see the embargo), and forms the group if
    /// that is new (see `group/binding.rs`).
    pub(crate) async fn open(
        surroundings: GroupSurroundings,
        shard: Shard,
        shard_id: ShardId,
        origin: Origin,
        preferred: NodeId,
    ) -> Result<Self, OpenError> {
        let GroupSurroundings {
            me,
            link_to,
            options,
            liveness,
            core,
            core_of,
            silences,
            activity,
        } = surroundings;
        let stores = stores_of(me, &origin, &liveness);
        let me = me.replica;
        let (engine, log) = (shard.engine.clone(), shard.log.clone());
        delay_by_address(&link_to).await;
        let brand_new = log.vote().is_none() && log.range().last.is_none();
        let pairs = Rc::new(Pairs::new(Arc::clone(&liveness)));
        let lease = Lease::new(
            core,
            Rc::clone(&pairs),
            Rc::clone(&stores),
            activity.clone(),
        );
        let elsewhere = Elsewhere::new(shard_id, &stores, &link_to, options.peer_timeout);
        let shared = Shared::new(&engine, lease, elsewhere, activity);
        let peers = Rc::new(GroupOfPeers {
            me,
            shard: shard_id,
            stores: Rc::clone(&stores),
            announced: Announced::default(),
            contradictions: Contradictions::default(),
        });
        let raft = build(&shared, &peers, &link_to, &shard, &options).await?;
        run(&raft, &stores).await;
        let inner = Rc::new(GroupInner {
            me,
            shard_id,
            founding: founding(origin)?,
            stores,
            preferred: Cell::new(preferred),
            link_to: Rc::clone(&link_to),
            data: raft.data_metrics(),
            server: raft.server_metrics(),
            raft,
            engine,
            log,
            shard: RefCell::new(Some(shard)),
            applied: shared.applied,
            peers,
            transfers: shared.transfers,
            lease: shared.lease,
            liveness,
            pairs,
            is_changing: Cell::new(false),
            core_of,
            turning: shared.turning,
            elsewhere: shared.elsewhere,
            decisions: shared.decisions,
            uploads: shared.uploads,
            lane: Rc::default(),
            keeper: keeper::UploadKeeper::default(),
            lead: lead::Lead::default(),
            silence: waiting::Silence::default(),
            silences,
            activity: shared.activity,
            wake: Notify::new(),
            purge_wanted: Notify::new(),
            budget: ProposalBudget::of(&options),
            readers: read::Readers::default(),
            follower_reads: follower_read::FollowerReads::default(),
            door: door::Door::default(),
            entrance: entrance::Entrance::default(),
            options,
            closing: watch::channel(false).0,
            stopped: Cell::new(false),
            #[cfg(test)]
            pretended: Cell::new(None),
        });
        let group = Self { inner };
        group.begin(brand_new);
        Ok(group)
    }

    fn begin(&self, brand_new: bool) {
        self.start_upkeep(brand_new);
        #[cfg(any(test, feature = "planted"))]
        self.watch();
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.inner.shard_id
    }

    /// The shard's state, to read from after a read point.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// What is offered to a node under that number.
    pub(crate) fn offered(&self, number: u64, to: NodeId) -> Option<Rc<Offer>> {
        self.inner.transfers.offered(number, to)
    }

    /// A count of what all groups of this core did: writes to their logs, and ends of leads and of replicas. While it stays
    /// the same, only what compaction does changes them.
    pub fn activity_of_core(&self) -> u64 {
        self.inner.activity.count()
    }

    /// Snapshots on their way to followers: to whom, bytes of files sent, bytes of all of them (of which the
    /// follower may have some).
    pub fn sending(&self) -> Vec<(NodeId, u64, u64)> {
        self.inner.transfers.sending()
    }

    /// Whether this node's device has no room for more values of this shard: puts should be refused
    /// until it has; deletes are what makes room.
    pub fn is_disk_full(&self) -> bool {
        self.inner.is_disk_full()
    }

    /// What speaks against this replica's leading.
    pub(crate) fn health(&self) -> Health {
        self.inner.health()
    }

    /// How the device that holds its log answers.
    pub(crate) fn log_pulse(&self) -> LogPulse {
        self.inner.log.pulse()
    }

    /// The epoch of this node's promise to `node`, for the answer to what openraft is given after this.
    pub(crate) fn epoch_towards(&self, node: NodeId) -> PromiseEpoch {
        let pair = self.inner.pairs.with(node);
        pair.map(|pair| pair.epoch()).unwrap_or_default()
    }

    /// The stores of the group.
    #[cfg(test)]
    pub(crate) fn stores(&self) -> &Stores {
        &self.inner.stores
    }

    /// Says that it is so, whatever is true.
    #[cfg(test)]
    pub(crate) fn pretend(&self, health: Option<Health>) {
        self.inner.pretended.set(health);
    }

    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        self.inner.me
    }

    /// The members, as this replica knows them: by the last membership in its log, committed or not.
    pub fn members(&self) -> GroupMembers {
        self.inner.stores.members()
    }

    /// Proposes a write (`payload` is that of the client's write frame, and `command` what it was
    /// parsed into) and calls `reply` once it is applied, or is known not to be, or its fate is lost
    /// with the leadership. `reply` is called exactly once, maybe before this returns; it must not
    /// wait, and should only note the answer.
    ///
    /// Submissions of one turn of the executor are proposed together.
    pub fn submit(
        &self,
        payload: Bytes,
        command: &WriteCommand,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        self.inner.lane.note_write();
        match Parsed::from_command(&payload, command) {
            Some(parsed) if self.inner.may_be_undecidable(&payload, &parsed) => {
                drop(corelith_io::spawn(
                    self.clone().propose_if_decidable(payload, parsed, reply),
                ));
            }
            Some(parsed) => self.propose(Payload::write(payload, parsed), parsed.is_put, reply),
            None => reply(Err(GroupError::Malformed)),
        }
    }

    /// As [`Group::submit`], for an entry that opens a session; `body` is the payload of the
    /// client's frame. The outcome is `SessionOpened`.
    pub fn submit_open_session(
        &self,
        body: Bytes,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        self.propose(Payload::plain(kind::OPEN_SESSION, body), false, reply);
    }

    /// [`Group::submit`] as a future.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn write(&self, payload: Bytes) -> Result<WriteReply, GroupError> {
        let command = WriteCommand::parse(&payload).map_err(|_| GroupError::Malformed)?;
        let (sender, receiver) = oneshot::channel();
        self.submit(payload, &command, |reply| note(sender, reply));
        receiver.await.unwrap_or(Err(GroupError::Shutdown))
    }

    /// [`Group::submit_open_session`] as a future.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn open_session(&self, body: Bytes) -> Result<WriteReply, GroupError> {
        let (sender, receiver) = oneshot::channel();
        self.submit_open_session(body, |reply| note(sender, reply));
        receiver.await.unwrap_or(Err(GroupError::Shutdown))
    }

    /// Proposes an entry, one that needs room for a value if it `grows`.
    pub(super) fn propose(
        &self,
        payload: Payload,
        grows: bool,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        let share = match self.admit(&payload.body, grows) {
            Ok(share) => share,
            Err(error) => return reply(Err(error)),
        };
        self.propose_with(share, payload, reply);
    }

    /// Proposes an entry that has its share of the budget.
    fn propose_with(
        &self,
        share: proposal::Share,
        payload: Payload,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        let inner = Rc::downgrade(&self.inner);
        let responder = Responder::new(move |decided| {
            drop(share);
            reply(match decided {
                Some(result) => proposal::answer(result),
                // Dropped undecided: openraft has stopped.
                None => Err(inner
                    .upgrade()
                    .map_or(GroupError::Shutdown, |inner| inner.why_stopped())),
            });
        });
        self.enter(payload, responder);
    }

    /// Whether a proposal is worth making, and its share of the budget. Only a leader looks at its
    /// own room: from others a client goes on to the leader.
    fn admit(&self, body: &Bytes, grows: bool) -> Result<proposal::Share, GroupError> {
        if self.inner.closing.borrow().to_owned() {
            return Err(GroupError::Shutdown);
        }
        if body.len() > corelith_wire::limits::WRITE_BYTES_MAX {
            return Err(GroupError::Malformed);
        }
        if self.inner.leading().is_none() {
            self.inner.doubt_now_and_then();
            return Err(self.inner.not_leading());
        }
        if grows && self.is_disk_full() {
            return Err(GroupError::DiskFull);
        }
        if grows && self.inner.engine.check_capacity().is_err() {
            return Err(GroupError::ShardFull);
        }
        self.inner
            .budget
            .take(body.len())
            .ok_or(GroupError::Throttled)
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.current_leader().map(ReplicaId::node)
    }

    /// Whether a leader is there: it was heard of lately, or is this replica, with a majority. A replica also
    /// knows the leader of before it started, which may be gone.
    pub fn is_led(&self) -> bool {
        self.inner.is_led()
    }

    /// Stops the replica and closes its shard.
    pub(crate) async fn close(&self) {
        if self.inner.closing.send_replace(true) {
            return;
        }
        // What waits for room on a full device would keep openraft from stopping.
        if let Some(shard) = &*self.inner.shard.borrow() {
            shard.begin_stop();
        }
        // An error says that it had stopped already.
        let _ = self.inner.raft.shutdown().await;
        self.inner.readers.fail(&GroupError::Shutdown);
        self.inner.follower_reads.fail(&GroupError::Shutdown);
        self.inner.lane.fail(&GroupError::Shutdown);
        self.inner.entrance.empty();
        let shard = self.inner.shard.borrow_mut().take();
        if let Some(shard) = shard
            && let Err(error) = shard.close().await
        {
            tracing::warn!(shard = %self.inner.shard_id, %error, "closing the shard");
        }
    }
}

/// The members with which the group is formed, if that is how this replica comes to be in it.
fn founding(origin: Origin) -> Result<Option<Vec<GroupMember>>, OpenError> {
    match origin {
        Origin::Founding(members) if members.len() <= limits::MEMBERS_MAX => Ok(Some(members)),
        Origin::Founding(_) => Err(OpenError::NotAMember),
        Origin::Admitted { .. } => Ok(None),
    }
}

/// The stores that count in a group, as this replica knows them when it starts.
fn stores_of(me: GroupMember, origin: &Origin, liveness: &Arc<Liveness>) -> Rc<Stores> {
    let met = Arc::clone(liveness);
    Rc::new(Stores::new(me, origin, move |node| met.has_met(node)))
}

/// Has where something lies in memory decide about time, if that is planted.
async fn delay_by_address(link_to: &LinkTo) {
    if !is_planted(Bug::DelayByAddress) {
        return;
    }
    let address = std::ptr::from_ref(&**link_to).cast::<()>().addr();
    corelith_io::sleep(std::time::Duration::from_micros(address as u64 % 10_000)).await;
}

/// Starts openraft. It stands when it is told to.
async fn run(raft: &Raft, stores: &Stores) {
    raft.run();
    // Once it has answered its metrics say what was recovered. An error means that the storage has failed,
    // which upkeep tells.
    let _ = raft.is_initialized().await;
    stores.follow(raft.server_metrics());
}

/// Hands an answer to its caller, who may have given up.
fn note<T>(caller: oneshot::Sender<T>, answer: T) {
    let _ = caller.send(answer);
}

impl GroupInner {
    fn current_leader(&self) -> Option<ReplicaId> {
        let server = self.server.borrow_watched();
        server.current_leader.map(ReplicaId)
    }

    /// A replica of this shard, as frames name it.
    fn target(&self, replica: ReplicaId) -> Target {
        Target::of(self.shard_id, replica)
    }

    fn is_disk_full(&self) -> bool {
        self.engine.is_disk_full() || self.log.is_disk_full()
    }

    fn health(&self) -> Health {
        #[cfg(test)]
        if let Some(health) = self.pretended.get() {
            return health;
        }
        Health {
            is_disk_full: self.is_disk_full(),
            is_damaged: !self.engine.damages().is_empty(),
            ..Health::default()
        }
    }

    /// Whether the replica may neither vote nor stand yet.
    fn is_embargoed(&self) -> bool {
        !self.depends_on_nobody() && self.liveness.embargo_until().is_some()
    }

    /// Whether no promise of this node could matter: it is the only voter, and its own vote is the last that it knows of.
    /// Where there were others, one of them may rely on it still.
    fn depends_on_nobody(&self) -> bool {
        let last = self.vote_seen().node;
        self.stores.is_alone() && (last == self.me || last == ReplicaId::default())
    }

    /// Why this node does not answer as a leader.
    fn not_leading(&self) -> GroupError {
        if self.is_stopped() {
            return self.why_stopped();
        }
        GroupError::NotLeader {
            leader: self
                .server
                .borrow_watched()
                .current_leader
                .filter(|leader| *leader != self.me.0)
                .map(proposal::node_of),
        }
    }

    /// Whether openraft has stopped.
    fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    fn why_stopped(&self) -> GroupError {
        if *self.closing.borrow() {
            GroupError::Shutdown
        } else {
            GroupError::Storage
        }
    }

    /// How far this replica has applied, as an index.
    fn applied_index(&self) -> Option<LogIndex> {
        self.applied.last().map(|id| id.index)
    }
}
