//! Newer maps: where they come from, and who is told.
//!
//! Invariant: the map that a node goes by never gets older while it runs, and is of its cluster.

use crate::node::cluster::map::Map;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::Placement;
use crate::node::data_dir::keeper::IdentityKeeper;
use crate::node::data_dir::map_file;
use crate::node::limits;
use crate::node::mesh::{Mesh, Message};
use corelith_consensus::{Groups, Liveness};
use corelith_io::Sender;
use corelith_io::sync::semaphore::Semaphore;
use corelith_wire::peer::{NodeAsk, NodeReply};
use corelith_wire::{Epoch, FullClusterId, NodeId};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Has newer maps known on the whole node. Belongs to the first core.
pub(crate) struct MapNews {
    pub(crate) dir: PathBuf,
    pub(crate) cluster: FullClusterId,
    pub(crate) me: NodeId,
    pub(crate) cores: u16,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) keeper: Rc<IdentityKeeper>,
    pub(crate) mesh: Rc<Mesh>,
    pub(crate) groups: Groups,
    pub(crate) liveness: Arc<Liveness>,
    /// To the core of the beats.
    pub(crate) to_beats: Sender<Arc<Placement>>,
    pub(crate) writing: Semaphore,
}

impl MapNews {
    /// Goes by this map from now on, if it is newer than what is known; whether it is.
    pub(crate) async fn take(&self, map: Map) -> bool {
        let _alone = self.writing.acquire(1).await;
        let now = self.map.now();
        if map.cluster != self.cluster || map.epoch.0 <= now.epoch {
            return false;
        }
        // It is asked for again if it is not kept.
        if let Err(error) = map_file::write(&self.dir, &map).await {
            tracing::warn!(%error, "the cluster map cannot be written down");
        }
        let epoch = map.epoch;
        let map = Arc::new(map);
        let placement = Arc::new(Placement::of_map(self.me, self.cores, Arc::clone(&map)));
        self.keeper.know(map);
        let is_newer = self.map.take(Arc::clone(&placement));
        assert!(is_newer, "the map of {epoch} is newer");
        self.mesh
            .tell_others(|| Message::Map(Arc::clone(&placement)));
        // An error means that the node stops.
        let _ = self.to_beats.send(placement).await;
        self.liveness.tell_map(epoch);
        tracing::debug!(%epoch, "the cluster map is newer");
        true
    }

    /// Asks a node for a map that is newer than what is known, and goes by it.
    pub(crate) async fn ask(&self, node: NodeId) -> bool {
        let epoch = self.map.now().epoch;
        let ask = NodeAsk::MapSince { epoch };
        let limit = limits::NODE_ASK_DEADLINE;
        let Some(NodeReply::Map { bytes }) = self.groups.ask_node(node, &ask, limit).await else {
            return false;
        };
        match Map::decode(&bytes) {
            Ok(map) => self.take(map).await,
            Err(error) => {
                tracing::warn!(peer = %node, %error, "the node gives a map that cannot be read");
                false
            }
        }
    }

    /// Asks whoever tells of a newer map in its beats; never returns.
    pub(crate) async fn follow(self: Rc<Self>) {
        loop {
            corelith_io::sleep(limits::MAP_LOOK).await;
            let Epoch(known) = Epoch(self.map.now().epoch);
            if let Some((node, Epoch(told))) = self.liveness.newest_map()
                && told > known
            {
                self.ask(node).await;
            }
        }
    }
}
