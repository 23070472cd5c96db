//! What comes before a core opens its shards: the first core opens the data directory, and waits until the
//! node is one of the cluster; the others learn from it who they are.

use super::setup::{CoreSetup, Opening, Store, listen};
use crate::node::admission::desk::Desk;
use crate::node::admission::entering::{self, place};
use crate::node::admission::joining::{self, Joining};
use crate::node::cluster::addresses::Addresses;
use crate::node::cluster::formation::Spread;
use crate::node::cluster::map::Map;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::{Placement, founded_on};
use crate::node::cluster::standing::{Exclusion, exclusion, replaced};
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::{DataDir, Expected, ExpectedCluster, Identity};
use crate::node::data_dir::keeper::{IdentityKeeper, KeeperAsk};
use crate::node::data_dir::map_file;
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::shards::Founding;
use corelith_consensus::{Groups, Judge, Liveness, LivenessOptions};
use corelith_io::{Receiver, Sender, TcpListener};
use corelith_shards::NodeId;
use corelith_wire::peer::{Charter, Introduction, Settings, Verdict};
use corelith_wire::{Epoch, FullClusterId, Start, StoreId};
use futures_util::future::{Either, select};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A core of a node that is one of the cluster.
pub(super) struct EnteredCore {
    pub(super) store: Store,
    pub(super) listener: TcpListener,
}

/// What the first core holds of the data directory.
pub(super) struct HeldDirectory {
    opened: DataDir,
    keeper: Option<Rc<IdentityKeeper>>,
}

impl HeldDirectory {
    /// The keeper of the identity, once the node is one of the cluster.
    pub(super) fn keeper(&self) -> Option<Rc<IdentityKeeper>> {
        self.keeper.clone()
    }

    /// Lets go of the directory, once nothing is written to it any more: another process may open it at once.
    pub(super) async fn release(self) {
        if let Some(keeper) = self.keeper {
            keeper.close().await;
        }
        drop(self.opened);
    }
}

/// Returns once the core may open its shards; `None` if the node is told to stop before, or the first core
/// has failed and tells why. What keeps others from the data directory is put into `held`.
pub(super) async fn enter(
    setup: &CoreSetup,
    held: &mut Option<HeldDirectory>,
) -> Result<Option<EnteredCore>, NodeError> {
    match &setup.opening {
        Opening::First { tell, asked, .. } => {
            let promise = setup.config.liveness.promise();
            let dir = &setup.config.data_dir;
            let opened = DataDir::open(dir, &expected(&setup.config), promise).await?;
            let held = held.insert(HeldDirectory {
                opened,
                keeper: None,
            });
            let listener = listen(setup)?;
            let Some(store) = join(setup, held, &listener, asked).await? else {
                return Ok(None);
            };
            for other in tell {
                // A core that has failed needs to know nothing.
                let _ = other.try_send(store.clone());
            }
            Ok(Some(EnteredCore { store, listener }))
        }
        Opening::Other { store, .. } => {
            let Ok(store) = store.recv().await else {
                return Ok(None);
            };
            Ok(Some(EnteredCore {
                store,
                listener: listen(setup)?,
            }))
        }
    }
}

/// What the configuration says of the data directory.
fn expected(config: &NodeConfig) -> Expected {
    let cluster = &config.cluster;
    let mut nodes: Vec<NodeId> = cluster.nodes.iter().map(|node| NodeId(node.id)).collect();
    nodes.sort();
    Expected {
        node: (config.id.0 != 0).then_some(config.id),
        cores: config.cores,
        cluster: cluster.is_given().then(|| ExpectedCluster {
            name: cluster.name_hash(),
            shards: cluster.shards,
            replicas: cluster.replica_count(),
            reads: cluster.reads_tag() as u16,
            nodes,
        }),
    }
}

/// Has the node become one of the cluster. Meanwhile it answers others that ask about that.
async fn join(
    setup: &CoreSetup,
    held: &mut HeldDirectory,
    listener: &TcpListener,
    asked: &Receiver<KeeperAsk>,
) -> Result<Option<Store>, NodeError> {
    let opened = &held.opened;
    let me = introduction(setup, &opened.identity, opened.start);
    let is_existing = setup.config.cluster.existing;
    let keeper = IdentityKeeper::new(&setup.config.data_dir, opened, me, is_existing);
    held.keeper = Some(Rc::clone(&keeper));
    drop(corelith_io::spawn(Rc::clone(&keeper).keep(asked.clone())));
    let map = MapWatch::new(Arc::clone(&setup.placement));
    let name = opened.identity.name;
    let desk = Rc::new(desk(name, &map, setup.asks.clone(), keeper.me()));
    let entering = Entering {
        setup,
        opened,
        keeper,
        map,
        desk: Rc::clone(&desk),
    };
    let working = pin!(entering.enter());
    let receiving = pin!(joining::receive(listener, &desk));
    let working = pin!(select(working, receiving));
    let stopped = pin!(setup.stop.recv());
    match select(working, stopped).await {
        Either::Left((Either::Left((store, _)), _)) => store.map(Some),
        Either::Left((Either::Right((never, _)), _)) => match never {},
        // An error means that the node is told to stop, as a message does.
        Either::Right(_) => Ok(None),
    }
}

/// The way of a node into its cluster.
struct Entering<'a> {
    setup: &'a CoreSetup,
    opened: &'a DataDir,
    keeper: Rc<IdentityKeeper>,
    map: Rc<MapWatch>,
    desk: Rc<Desk>,
}

impl Entering<'_> {
    async fn enter(&self) -> Result<Store, NodeError> {
        let (config, keeper) = (&self.setup.config, &self.keeper);
        let known = map_file::read(&config.data_dir).await;
        let known = known.filter(|map| map.cluster == keeper.me().cluster);
        let known = match known {
            None if !config.join.is_empty() => {
                Some(entering::enter(config, keeper, &self.desk).await?)
            }
            known => known,
        };
        if let Some(map) = known {
            self.know(map);
        }
        let me = keeper.me();
        self.setup.is_node(me.node);
        self.desk.introduce_as(me);
        self.desk.name_cluster(keeper.identity().name);
        let liveness = new_liveness(config, me.node, self.opened);
        let promise = config.liveness.promise();
        let forgetting = Rc::clone(keeper).forget_longer_promises(Arc::clone(&liveness), promise);
        drop(corelith_io::spawn(forgetting));
        let marking = Rc::clone(keeper).keep_marks(Arc::clone(&liveness));
        drop(corelith_io::spawn(marking));
        let cycle = Duration::from_secs(config.storage.scrub_cycle_seconds);
        let every = cycle.min(limits::IDENTITY_CHECK);
        drop(corelith_io::spawn(Rc::clone(keeper).keep_whole(every)));
        let identity = keeper.identity();
        let spread = Spread {
            shards: identity.shards,
            replicas: identity.replicas,
        };
        let dir = config.data_dir.display().to_string();
        let both = (Rc::clone(keeper), Rc::clone(&self.desk));
        let is_existing = config.cluster.existing;
        let place = place(config);
        let joining = Joining::new(both, Rc::clone(&self.map), place, spread, dir, is_existing);
        let (me, charter) = joining.join().await?;
        self.found(&charter).await?;
        liveness.tell_map(Epoch(self.map.now().epoch));
        let identity = keeper.identity();
        Ok(Store {
            me,
            name: identity.name,
            held: Arc::new(keeper.held()),
            founding: Arc::new(Founding {
                charter,
                nodes: identity.nodes,
                replicas: identity.replicas,
            }),
            liveness,
            placement: self.map.now(),
        })
    }

    /// Goes by that map.
    fn know(&self, map: Map) {
        let map = Arc::new(map);
        self.keeper.know(Arc::clone(&map));
        let node = self.keeper.me().node;
        let placement = Placement::of_map(node, self.setup.config.cores, map);
        self.map.take(Arc::new(placement));
    }

    /// Lists what the node has of the founding, and goes by the first map if it knows none.
    async fn found(&self, charter: &Charter) -> Result<(), NodeError> {
        let identity = self.keeper.identity();
        let named = charter.store_of(identity.node);
        let is_founder = matches!(named, Some(StoreId::UNCLAIMED | StoreId::ANY))
            || named == Some(identity.store);
        if !identity.is_founded {
            let shards = match is_founder {
                true => founded_on(
                    identity.node,
                    &identity.nodes,
                    identity.shards,
                    identity.replicas,
                ),
                false => Vec::new(),
            };
            let found = |identity: &mut Identity| identity.found(shards);
            self.keeper.change(found).await?;
        }
        if self.map.now().map().is_none() {
            let first = Map::first(&self.setup.config.cluster, charter);
            let first = first.map_err(|wrong| NodeError::Raft {
                reason: wrong.to_string(),
            })?;
            self.know(first);
        }
        Ok(())
    }
}

/// The desk of a core, for a node that introduces itself as `me`, in a cluster of that name's hash.
pub(super) fn desk(
    name: u64,
    map: &Rc<MapWatch>,
    asks: Sender<KeeperAsk>,
    me: Introduction,
) -> Desk {
    Desk::new(me, name, asks, Addresses::new(Rc::clone(map)))
}

/// What the cores of the node will share. The embargo of this start begins here.
fn new_liveness(config: &NodeConfig, node: NodeId, opened: &DataDir) -> Arc<Liveness> {
    let options = LivenessOptions {
        beat: config.liveness.beat(),
        promise: config.liveness.promise(),
        promised_before: opened.promised_before,
    };
    Liveness::new(node, opened.start, config.cores, options)
}

fn introduction(setup: &CoreSetup, identity: &Identity, start: Start) -> Introduction {
    Introduction {
        cluster: FullClusterId(0),
        node: identity.node,
        store: identity.store,
        start,
        mark: identity.mark,
        port: setup.listen.port(),
        cores: setup.config.cores,
        settings: Settings::new(identity.shards, identity.replicas, identity.reads.into()),
    }
}

/// Returns when another node says that this store is not, or no more, its node's: what to tell, once it is
/// remembered. Has others excluded meanwhile that lack what they had acknowledged to this one.
pub(super) async fn until_excluded(
    setup: &CoreSetup,
    groups: &Groups,
    desk: &Desk,
    map: &MapWatch,
) -> NodeError {
    let me = desk.me();
    let mut since = None;
    loop {
        let now = map.now();
        let mapped = now.map().and_then(|map| map.node(me.node));
        let is_mapped = mapped.is_some_and(|node| node.store == me.store);
        let removed = now.was_removed(me.node).then_some(Verdict::Removed);
        let strangers = groups.strangers();
        let said = strangers.iter().filter(|s| s.judge == Judge::Them);
        let said = said.map(|stranger| (stranger.node, stranger.verdict));
        // A follower opens no connections but those of its beats.
        let said = said.chain(groups.liveness().refused_by());
        // Whoever knows another store lacks the map that names this one, or has a newer one.
        let is_of_store =
            |verdict: &Verdict| is_mapped && matches!(verdict, Verdict::OtherStore(_));
        let (others, said): (Vec<_>, Vec<_>) = said.partition(|(_, verdict)| is_of_store(verdict));
        let nodes: Vec<NodeId> = now.members().iter().map(|member| member.id).collect();
        let replaced = replaced(me.node, &nodes, others);
        // Those that lack it hear of it meanwhile.
        let from = replaced.map(|_| since.unwrap_or_else(corelith_io::now));
        since = from;
        let replaced = replaced.filter(|_| {
            from.is_some_and(|from| corelith_io::now() - from >= limits::REPLACED_BELIEVED)
        });
        let said = said.into_iter().map(|(_, verdict)| verdict).chain(removed);
        if let Some(excluded) = said.filter_map(Exclusion::of).chain(replaced).next() {
            desk.exclude(excluded).await;
            let dir = setup.config.data_dir.display().to_string();
            let why = exclusion(&dir, &desk.me(), excluded);
            return match excluded {
                Exclusion::Removed => NodeError::Removed { why },
                _ => NodeError::Excluded { why },
            };
        }
        for store in groups.lost() {
            desk.lost(store).await;
            groups.exclude(store);
        }
        corelith_io::sleep(limits::DEADLINE_SWEEP).await;
    }
}
