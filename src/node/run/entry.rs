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
use corelith_wire::peer::{Introduction, Settings, Verdict};
use corelith_wire::{FullClusterId, Start};
use futures_util::future::{Either, select};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

/// A core of a node that is one of the cluster.
pub(super) struct EnteredCore {
    pub(super) store: Store,
    pub(super) listener: TcpListener,
    /// Of the first core.
    pub(super) data_dir: Option<DataDir>,
}

/// Returns once the core may open its shards; `None` if the node is told to stop before, or the first core
/// has failed and tells why.
pub(super) async fn enter(setup: &CoreSetup) -> Result<Option<EnteredCore>, NodeError> {
    match &setup.opening {
        Opening::First { tell, asked, .. } => {
            let name = setup.config.cluster.name_hash();
            let cores = setup.config.cores;
            let promise = setup.config.liveness.promise();
            let dir = &setup.config.data_dir;
            let opened = DataDir::open(dir, &setup.placement, name, cores, promise).await?;
            let listener = listen(setup)?;
            let Some(store) = join(setup, &opened, &listener, asked).await? else {
                return Ok(None);
            };
            for other in tell {
                // A core that has failed needs to know nothing.
                let _ = other.try_send(store.clone());
            }
            Ok(Some(EnteredCore {
                store,
                listener,
                data_dir: Some(opened),
            }))
        }
        Opening::Other { store, .. } => {
            let Ok(store) = store.recv().await else {
                return Ok(None);
            };
            Ok(Some(EnteredCore {
                store,
                listener: listen(setup)?,
                data_dir: None,
            }))
        }
    }
}

/// Has the node become one of the cluster. Meanwhile it answers others that ask about that.
async fn join(
    setup: &CoreSetup,
    opened: &DataDir,
    listener: &TcpListener,
    asked: &Receiver<KeeperAsk>,
) -> Result<Option<Store>, NodeError> {
    let me = introduction(setup, &opened.identity, opened.start);
    let keeper = IdentityKeeper::new(&setup.config.data_dir, opened, me);
    drop(corelith_io::spawn(Rc::clone(&keeper).keep(asked.clone())));
    let liveness = new_liveness(&setup.config, opened);
    let promise = setup.config.liveness.promise();
    let forgetting = Rc::clone(&keeper).forget_longer_promises(Arc::clone(&liveness), promise);
    drop(corelith_io::spawn(forgetting));
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
    let joining = Joining::new(Rc::clone(&keeper), Rc::clone(&desk), first, spread, dir);
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
/// remembered.
pub(super) async fn until_excluded(setup: &CoreSetup, groups: &Groups, desk: &Desk) -> NodeError {
    loop {
        let strangers = groups.strangers();
        let said = strangers.iter().filter(|s| s.judge == Judge::Them);
        let excluded = said.filter_map(|stranger| match stranger.verdict {
            Verdict::OtherStore(store) => Some(Exclusion::OtherStore(store)),
            Verdict::RolledBack(start) => Some(Exclusion::RolledBack(start)),
            _ => None,
        });
        if let Some(excluded) = excluded.into_iter().next() {
            desk.exclude(excluded).await;
            let dir = setup.config.data_dir.display().to_string();
            return NodeError::Excluded {
                why: exclusion(&dir, &desk.me(), excluded),
            };
        }
        corelith_io::sleep(limits::DEADLINE_SWEEP).await;
    }
}
