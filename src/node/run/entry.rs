//! What comes before a core opens its shards: the first core opens the data directory, and waits until the
//! node is one of the cluster; the others learn from it who they are.

use super::setup::{CoreSetup, Opening, listen};
use super::shards::Store;
use crate::node::admission::desk::Desk;
use crate::node::admission::joining::{self, Joining};
use crate::node::cluster::addresses::Addresses;
use crate::node::cluster::formation::Spread;
use crate::node::cluster::placement::Placement;
use crate::node::cluster::standing::{Exclusion, exclusion};
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::{DataDir, Identity};
use crate::node::data_dir::keeper::{IdentityKeeper, KeeperAsk};
use crate::node::error::NodeError;
use crate::node::limits;
use corelith_consensus::{Groups, Judge, Liveness, LivenessOptions};
use corelith_io::{Receiver, Sender, TcpListener};
use corelith_wire::peer::{Introduction, Settings};
use corelith_wire::{FullClusterId, Start};
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
            let name = setup.config.cluster.name_hash();
            let cores = setup.config.cores;
            let promise = setup.config.liveness.promise();
            let dir = &setup.config.data_dir;
            let opened = DataDir::open(dir, &setup.placement, name, cores, promise).await?;
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
    let liveness = new_liveness(&setup.config, opened);
    let promise = setup.config.liveness.promise();
    let forgetting = Rc::clone(&keeper).forget_longer_promises(Arc::clone(&liveness), promise);
    drop(corelith_io::spawn(forgetting));
    let marking = Rc::clone(&keeper).keep_marks(Arc::clone(&liveness));
    drop(corelith_io::spawn(marking));
    let cycle = Duration::from_secs(setup.config.storage.scrub_cycle_seconds);
    let every = cycle.min(limits::IDENTITY_CHECK);
    drop(corelith_io::spawn(Rc::clone(&keeper).keep_whole(every)));
    let desk = Rc::new(desk(
        &setup.config,
        &setup.placement,
        setup.asks.clone(),
        me,
    ));
    let first = setup.placement.members().iter().map(|m| m.id).collect();
    let dir = setup.config.data_dir.display().to_string();
    let spread = Spread {
        shards: setup.placement.shards,
        replicas: setup.placement.replicas,
    };
    let (keeping, asking) = (Rc::clone(&keeper), Rc::clone(&desk));
    let joining = Joining::new(keeping, asking, first, spread, dir, is_existing);
    let joined = {
        let joining = pin!(joining.join());
        let receiving = pin!(joining::receive(listener, &desk));
        let working = pin!(select(joining, receiving));
        let stopped = pin!(setup.stop.recv());
        match select(working, stopped).await {
            Either::Left((Either::Left((joined, _)), _)) => joined,
            Either::Left((Either::Right((never, _)), _)) => match never {},
            // An error means that the node is told to stop, as a message does.
            Either::Right(_) => return Ok(None),
        }
    };
    let (me, charter) = joined?;
    Ok(Some(Store {
        me,
        charter: Arc::new(charter),
        held: Arc::new(keeper.held()),
        liveness,
    }))
}

/// The desk of a core, for a node that introduces itself as `me`.
pub(super) fn desk(
    config: &NodeConfig,
    placement: &Arc<Placement>,
    asks: Sender<KeeperAsk>,
    me: Introduction,
) -> Desk {
    let addresses = Addresses::new(Arc::clone(placement));
    Desk::new(me, config.cluster.name_hash(), asks, addresses)
}

/// What the cores of the node will share. The embargo of this start begins here.
fn new_liveness(config: &NodeConfig, opened: &DataDir) -> Arc<Liveness> {
    let options = LivenessOptions {
        beat: config.liveness.beat(),
        promise: config.liveness.promise(),
        promised_before: opened.promised_before,
    };
    Liveness::new(opened.identity.node, opened.start, config.cores, options)
}

fn introduction(setup: &CoreSetup, identity: &Identity, start: Start) -> Introduction {
    Introduction {
        cluster: FullClusterId(0),
        node: identity.node,
        store: identity.store,
        start,
        mark: identity.mark,
        port: setup.listen.port(),
        settings: settings(&setup.config, &setup.placement),
    }
}

/// What must be the same on all nodes.
fn settings(config: &NodeConfig, placement: &Placement) -> Settings {
    let nodes = config.cluster.nodes_hash();
    let reads = config.cluster.reads_tag();
    Settings::new(placement.shards, placement.replicas, nodes, reads)
}

/// Returns when another node says that this store is not, or no more, its node's: what to tell, once it is
/// remembered. Has others excluded meanwhile that lack what they had acknowledged to this one.
pub(super) async fn until_excluded(setup: &CoreSetup, groups: &Groups, desk: &Desk) -> NodeError {
    loop {
        let strangers = groups.strangers();
        let said = strangers.iter().filter(|s| s.judge == Judge::Them);
        let said = said.map(|stranger| stranger.verdict);
        // A follower opens no connections but those of its beats.
        let said = said.chain(groups.liveness().refused_by());
        if let Some(excluded) = said.into_iter().find_map(Exclusion::of) {
            desk.exclude(excluded).await;
            let dir = setup.config.data_dir.display().to_string();
            return NodeError::Excluded {
                why: exclusion(&dir, &desk.me(), excluded),
            };
        }
        for store in groups.lost() {
            desk.lost(store).await;
            groups.exclude(store);
        }
        corelith_io::sleep(limits::DEADLINE_SWEEP).await;
    }
}
