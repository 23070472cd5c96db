//! All groups of a core.

mod pulse;

use crate::activity::GroupActivity;
use crate::error::OpenError;
use crate::group::{Group, GroupSurroundings, Silences};
use crate::introduction::{Acquaintances, Admit, Stranger};
use crate::limits;
use crate::link::{LinkConfig, PeerLink};
use crate::liveness::Liveness;
use crate::options::Options;
use crate::receptions::{CopyPacer, FileReceptions};
use crate::refusals::Refusals;
use crate::route::{AnswerNode, GroupMember, NodeStore, Origin, Route};
use corelith_shards::{IncomingProgress, NodeId, ReplicaId, Shard, ShardId};
use corelith_wire::peer::Introduction;
use corelith_wire::{Epoch, Start, StoreId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// The groups of one core and its connections to the cores of other nodes. Clones share them.
#[derive(Clone)]
pub struct Groups {
    inner: Rc<GroupsInner>,
}

struct GroupsInner {
    me: Introduction,
    core: u16,
    liveness: Arc<Liveness>,
    pulse: pulse::CorePulse,
    route: Route,
    options: Options,
    link_config: LinkConfig,
    groups: RefCell<BTreeMap<ShardId, Group>>,
    links: RefCell<BTreeMap<(NodeId, u16), Rc<PeerLink>>>,
    neighbours: RefCell<Option<AnswerNode>>,
    receptions: FileReceptions,
    /// Of the files that are sent.
    sending: CopyPacer,
    copy_bytes_per_second: Cell<u64>,
    refusals: Rc<Refusals>,
    silences: Rc<Silences>,
    activity: GroupActivity,
}

impl Groups {
    /// Makes an empty set of groups for a core. Connections to peers are made when a group needs them; `me` is
    /// what this node says of itself on them, and `admit` judges what the others say of themselves. `liveness`
    /// is that of the node, whose beats somebody else runs.
    ///
    /// # Errors
    /// `Options` if the options do not fit together.
    pub fn new(
        me: Introduction,
        epoch: u32,
        route: Route,
        admit: Admit,
        (core, liveness): (u16, Arc<Liveness>),
        options: Options,
    ) -> Result<Self, OpenError> {
        options.validate()?;
        let link_config = LinkConfig {
            acquaintances: Rc::new(Acquaintances::new(me, admit)),
            resolve: Rc::clone(&route.resolve),
            epoch: Epoch(epoch),
            timeout: options.peer_timeout,
            gather: liveness.options().beat / 8,
            refusals: Rc::default(),
        };
        let every = liveness.options().beat;
        let groups = Self {
            inner: Rc::new(GroupsInner {
                me,
                core,
                liveness,
                pulse: pulse::CorePulse::default(),
                route,
                options,
                refusals: Rc::clone(&link_config.refusals),
                link_config,
                groups: RefCell::default(),
                links: RefCell::default(),
                neighbours: RefCell::default(),
                receptions: FileReceptions::default(),
                sending: CopyPacer::default(),
                copy_bytes_per_second: Cell::new(0),
                silences: Rc::default(),
                activity: GroupActivity::default(),
            }),
        };
        let inner = Rc::downgrade(&groups.inner);
        drop(corelith_io::spawn(pulse::run(inner, every)));
        Ok(groups)
    }

    /// Starts this node's replica of a shard, which came to be in its group as `origin` says; `preferred` is the node that
    /// should lead.
    ///
    /// # Errors
    /// The shard's storage failed, or this node is not a member.
    pub async fn open(
        &self,
        shard: Shard,
        shard_id: ShardId,
        origin: Origin,
        preferred: NodeId,
    ) -> Result<Group, OpenError> {
        let links = Rc::downgrade(&self.inner);
        let fallback = self.inner.link_config.clone();
        let core_of = Rc::clone(&self.inner.route.core_of);
        let me = self.inner.me.node;
        let surroundings = GroupSurroundings {
            me: GroupMember {
                replica: replica_of(me, &origin).ok_or(OpenError::NotAMember)?,
                store: self.inner.me.store,
            },
            link_to: Rc::new(move |node| {
                let core = core_of(node, shard_id);
                match links.upgrade() {
                    Some(inner) if node != me => inner.link(node, core),
                    // An earlier replica of this node, or the core is going away: what is asked of this link fails.
                    _ => PeerLink::closed(node, core, fallback.clone()),
                }
            }),
            options: self.inner.options.clone(),
            liveness: Arc::clone(&self.inner.liveness),
            core: self.inner.core,
            core_of: {
                let core_of = Rc::clone(&self.inner.route.core_of);
                Rc::new(move |node| core_of(node, shard_id))
            },
            silences: Rc::clone(&self.inner.silences),
            activity: self.inner.activity.clone(),
        };
        let group = Group::open(surroundings, shard, shard_id, origin, preferred).await?;
        let replaced = self
            .inner
            .groups
            .borrow_mut()
            .insert(shard_id, group.clone());
        assert!(replaced.is_none(), "{shard_id} has two groups on this node");
        self.inner.activity.note();
        Ok(group)
    }

    /// Stops the replica of a shard and closes the shard, after it has given its lead away as far as another one can take
    /// it. Peers are refused from then on.
    pub async fn close(&self, id: ShardId) {
        let Some(group) = self.group(id) else { return };
        group.give_lead_away().await;
        group.resign_before_close();
        // Peers are told from now on that nothing leads here, and the group knows that it closes before anything else runs.
        self.inner.groups.borrow_mut().remove(&id);
        group.close().await;
    }

    /// The group of a shard, if it is open here.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        self.inner.groups.borrow().get(&shard).cloned()
    }

    /// All open groups, by shard.
    pub fn all(&self) -> Vec<Group> {
        self.inner.groups.borrow().values().cloned().collect()
    }

    /// How often the pulse has looked at the groups.
    #[cfg(test)]
    pub(crate) fn glances(&self) -> u64 {
        self.inner.pulse.glances()
    }

    /// What the cores of the node share.
    pub fn liveness(&self) -> Arc<Liveness> {
        Arc::clone(&self.inner.liveness)
    }

    /// The nodes that are refused, or refuse this one.
    pub fn strangers(&self) -> Vec<Stranger> {
        self.inner.link_config.acquaintances.strangers()
    }

    /// The stores of other nodes that lack what they had acknowledged to leaders on this core, as far as that is not
    /// written down yet: [`Groups::exclude`] follows.
    pub fn lost(&self) -> Vec<NodeStore> {
        self.inner.link_config.acquaintances.lost()
    }

    /// It is written down that the store is excluded, and is refused from now on: connections with it end.
    pub fn exclude(&self, store: NodeStore) {
        self.inner.link_config.acquaintances.exclude(store);
        self.inner.liveness.exclude(store);
    }

    /// The store and start of a node with which this core has talked within the time that a request may
    /// take.
    pub fn talks_with(&self, node: NodeId) -> Option<(StoreId, Start)> {
        let LinkConfig {
            acquaintances,
            timeout,
            ..
        } = &self.inner.link_config;
        acquaintances.heard_within(node, *timeout)
    }

    /// Takes note of a node that another core has let introduce itself and found to be known: connections
    /// with earlier starts of it end.
    pub fn met(&self, theirs: &Introduction) {
        self.inner.link_config.acquaintances.met(theirs);
    }

    /// Ends the connections to nodes that are none of the cluster any more.
    pub fn forget_others(&self, is_node: impl Fn(NodeId) -> bool) {
        let mut links = self.inner.links.borrow_mut();
        links.retain(|(node, _), link| {
            let is_node = is_node(*node);
            if !is_node {
                link.close();
            }
            is_node
        });
    }

    /// The link to a core of another node.
    pub(crate) fn link_to(&self, node: NodeId, core: u16) -> Rc<PeerLink> {
        self.inner.link(node, core)
    }

    /// What answers other nodes.
    pub(crate) fn neighbours(&self) -> &RefCell<Option<AnswerNode>> {
        &self.inner.neighbours
    }

    /// How this core's connections behave.
    pub(crate) fn link_config(&self) -> &LinkConfig {
        &self.inner.link_config
    }

    /// What is being received.
    pub(crate) fn receptions(&self) -> &FileReceptions {
        &self.inner.receptions
    }

    /// How far this node's replica of a shard is with a snapshot that it receives, if it does.
    pub fn receiving(&self, shard: ShardId) -> Option<IncomingProgress> {
        self.inner.receptions.progress(shard)
    }

    /// Waits until `bytes` of files may be sent from here.
    pub(crate) async fn pace_sending(&self, bytes: u64) {
        let rate = || {
            let groups = self.inner.groups.borrow();
            let mut engines = groups.values().map(Group::engine);
            let is_busy = engines.any(|engine| engine.serves_clients());
            limits::sending_rate(self.copy_bytes_per_second(), is_busy)
        };
        self.inner.sending.pay(bytes, rate).await;
    }

    /// At most so many bytes of files may come in a second. 0: any number, and less while clients ask for something
    /// where they are sent from.
    pub fn limit_copies(&self, bytes_per_second: u64) {
        self.inner.copy_bytes_per_second.set(bytes_per_second);
    }

    /// See [`Groups::limit_copies`].
    pub(crate) fn copy_bytes_per_second(&self) -> u64 {
        self.inner.copy_bytes_per_second.get()
    }

    /// A connection of its own to the core of a node that has the shard.
    pub(crate) fn bulk_link(&self, node: NodeId, shard: ShardId) -> Rc<PeerLink> {
        let core = (self.inner.route.core_of)(node, shard);
        PeerLink::open(node, core, self.inner.link_config.clone())
    }

    /// Where refused messages of peers are noted.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Gives the leads of this core away, as far as other nodes can take them, then stops all groups and
    /// closes their shards (which flushes them).
    pub async fn shutdown(&self) {
        self.inner.liveness.drain();
        // They go on answering peers meanwhile, who elect another leader.
        let leading = self.all();
        futures_util::future::join_all(leading.iter().map(Group::give_lead_away)).await;
        let groups = std::mem::take(&mut *self.inner.groups.borrow_mut());
        // All at once: on a full device each of them takes seconds.
        futures_util::future::join_all(groups.values().map(Group::close)).await;
        let links = std::mem::take(&mut *self.inner.links.borrow_mut());
        for link in links.values() {
            link.close();
        }
    }
}

/// The replica that a node opens, if it has part in the group.
fn replica_of(node: NodeId, origin: &Origin) -> Option<ReplicaId> {
    let replica = match origin {
        Origin::Founding(members) => {
            let mut replicas = members.iter().map(|member| member.replica);
            replicas.find(|replica| replica.node() == node)?
        }
        Origin::Admitted { replica, .. } => *replica,
    };
    (replica.node() == node).then_some(replica)
}

impl GroupsInner {
    fn link(&self, node: NodeId, core: u16) -> Rc<PeerLink> {
        let mut links = self.links.borrow_mut();
        let link = links
            .entry((node, core))
            .or_insert_with(|| PeerLink::open(node, core, self.link_config.clone()));
        Rc::clone(link)
    }
}
