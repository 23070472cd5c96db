//! All groups of a core.

use crate::error::OpenError;
use crate::group::{Group, GroupSurroundings};
use crate::link::{LinkConfig, PeerLink};
use crate::options::Options;
use crate::refusals::Refusals;
use corelith_shards::{NodeId, Shard, ShardId};
use corelith_wire::{ClusterId, Epoch};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// Tells at which address the core of a node listens that owns the shard.
pub type Route = Rc<dyn Fn(NodeId, ShardId) -> SocketAddr>;

/// The groups of one core and its connections to the cores of other nodes. Clones share them.
#[derive(Clone)]
pub struct Groups {
    inner: Rc<GroupsInner>,
}

struct GroupsInner {
    me: NodeId,
    route: Route,
    options: Options,
    link_config: LinkConfig,
    groups: RefCell<BTreeMap<ShardId, Group>>,
    links: RefCell<BTreeMap<(NodeId, SocketAddr), Rc<PeerLink>>>,
    refusals: Rc<Refusals>,
}

impl Groups {
    /// Makes an empty set of groups. Connections to peers are made when a group needs them.
    ///
    /// # Errors
    /// `Options` if the options do not fit together.
    pub fn new(
        me: NodeId,
        cluster_id: u64,
        epoch: u32,
        route: Route,
        options: Options,
    ) -> Result<Self, OpenError> {
        options.validate()?;
        let link_config = LinkConfig {
            me,
            cluster: ClusterId(cluster_id),
            epoch: Epoch(epoch),
            timeout: options.peer_timeout,
            gather: options.heartbeat / 8,
            refusals: Rc::default(),
        };
        Ok(Self {
            inner: Rc::new(GroupsInner {
                me,
                route,
                options,
                refusals: Rc::clone(&link_config.refusals),
                link_config,
                groups: RefCell::default(),
                links: RefCell::default(),
            }),
        })
    }

    /// Starts this node's replica of a shard. `members` are the nodes that have one, the same list
    /// on all of them; `preferred` is the one that should lead, and forms the group when it is new.
    ///
    /// # Errors
    /// The shard's storage failed, or this node is not a member.
    pub async fn open(
        &self,
        shard: Shard,
        shard_id: ShardId,
        members: Vec<NodeId>,
        preferred: NodeId,
    ) -> Result<Group, OpenError> {
        let links = Rc::downgrade(&self.inner);
        let fallback = self.inner.link_config.clone();
        let route = Rc::clone(&self.inner.route);
        let surroundings = GroupSurroundings {
            me: self.inner.me,
            link_to: Rc::new(move |node| {
                let node = NodeId(node);
                let address = route(node, shard_id);
                match links.upgrade() {
                    Some(inner) => inner.link(node, address),
                    // The core is going away; what is asked of this link fails.
                    None => PeerLink::closed(node, address, fallback.clone()),
                }
            }),
            options: self.inner.options.clone(),
        };
        let group = Group::open(surroundings, shard, shard_id, members, preferred).await?;
        let replaced = self
            .inner
            .groups
            .borrow_mut()
            .insert(shard_id, group.clone());
        assert!(replaced.is_none(), "{shard_id} has two groups on this node");
        Ok(group)
    }

    /// The group of a shard, if it is open here.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        self.inner.groups.borrow().get(&shard).cloned()
    }

    /// All open groups, by shard.
    pub fn all(&self) -> Vec<Group> {
        self.inner.groups.borrow().values().cloned().collect()
    }

    /// Where refused messages of peers are noted.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Stops all groups and closes their shards (which flushes them).
    pub async fn shutdown(&self) {
        let groups = std::mem::take(&mut *self.inner.groups.borrow_mut());
        // All at once: on a full device each of them takes seconds.
        futures_util::future::join_all(groups.values().map(Group::close)).await;
        let links = std::mem::take(&mut *self.inner.links.borrow_mut());
        for link in links.values() {
            link.close();
        }
    }
}

impl GroupsInner {
    fn link(&self, node: NodeId, address: SocketAddr) -> Rc<PeerLink> {
        let mut links = self.links.borrow_mut();
        let link = links
            .entry((node, address))
            .or_insert_with(|| PeerLink::open(node, address, self.link_config.clone()));
        Rc::clone(link)
    }
}
