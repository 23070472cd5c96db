//! What a core needs to start, and what it tells.

use crate::node::cluster::placement::Placement;
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::HeldShard;
use crate::node::data_dir::keeper::KeeperAsk;
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::mesh::{MeshReceiver, MeshSender};
use crate::node::shards::Founding;
use corelith_consensus::{InboundBeats, Liveness};
use corelith_io::{ErrorKind, Receiver, Sender, TcpListener};
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::Introduction;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every core must know of the store before it opens a shard.
#[derive(Clone)]
pub(super) struct Store {
    /// Who the node is.
    pub(super) me: Introduction,
    /// Hash of the cluster's name.
    pub(super) name: u64,
    /// How the cluster was founded.
    pub(super) founding: Arc<Founding>,
    /// The shards that it had when the node started.
    pub(super) held: Arc<BTreeMap<ShardId, HeldShard>>,
    /// Who lives, and what was promised.
    pub(super) liveness: Arc<Liveness>,
    /// The newest map that is known.
    pub(super) placement: Arc<Placement>,
}

/// What the core of the beats needs to start.
pub struct BeatsSetup {
    /// What must be known of the store.
    pub(super) store: Receiver<Store>,
    /// Newer placements.
    pub(super) maps: Receiver<Arc<Placement>>,
    /// Connections that other nodes have opened; closed when the first core has ended.
    pub(super) inbound: Receiver<InboundBeats>,
    /// To the keeper of the identity.
    pub(super) asks: Sender<KeeperAsk>,
}

/// What the first core gives the others, once: what they must know of the store.
pub(super) enum Opening {
    First {
        tell: Vec<Sender<Store>>,
        /// Closed when all other cores have ended.
        others: Receiver<()>,
        /// What the keeper of the identity is asked.
        asked: Receiver<KeeperAsk>,
        /// To the core of the beats.
        hand_over: Sender<InboundBeats>,
        /// Newer placements, to the same.
        to_beats: Sender<Arc<Placement>>,
    },
    Other {
        store: Receiver<Store>,
        _alive: Sender<()>,
    },
}

/// What a core tells the thread that started the node.
#[derive(Debug)]
pub struct CoreEvent {
    /// The node.
    pub node: NodeId,
    /// The core.
    pub core: u16,
    /// What happened.
    pub what: CoreEventKind,
}

/// See [`CoreEvent`].
#[derive(Debug)]
pub enum CoreEventKind {
    /// It serves, and all its shards have leaders.
    Ready,
    /// It has ended: because it was told to (`Ok`), or why else.
    Ended(Result<(), NodeError>),
}

/// Everything a core needs to start.
pub struct CoreSetup {
    pub(super) config: Arc<NodeConfig>,
    /// Of a cluster that may not be formed yet.
    pub(super) placement: Arc<Placement>,
    pub(super) listen: SocketAddr,
    /// How to choose another port, for the error when it is in use.
    instead: &'static str,
    pub(super) core: u16,
    pub(super) opening: Opening,
    /// To the keeper of the identity.
    pub(super) asks: Sender<KeeperAsk>,
    pub(super) senders: Vec<MeshSender>,
    pub(super) inbox: MeshReceiver,
    pub(super) stop: Receiver<()>,
    /// The node, once it is known.
    node: Arc<AtomicU64>,
    events: Sender<CoreEvent>,
}

/// The cores of a node.
pub struct PreparedNode {
    /// Those that serve shards, in order.
    pub cores: Vec<CoreSetup>,
    /// That of the beats. It ends after the first of the others.
    pub beats: BeatsSetup,
    /// Dropping them stops the cores.
    pub stops: Vec<Sender<()>>,
}

/// Prepares all cores of a node. `listen` is the address of core 0; `events` must have room for two events of
/// each core that serves shards.
pub fn prepare(
    config: NodeConfig,
    listen: SocketAddr,
    instead: &'static str,
    events: &Sender<CoreEvent>,
) -> PreparedNode {
    let cores = config.cores;
    let placement = Arc::new(Placement::new(&config));
    let config = Arc::new(config);
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..cores)
        .map(|_| corelith_io::channel(limits::MESH_BATCHES_MAX))
        .unzip();
    let (mut tell, stores): (Vec<_>, Vec<_>) = (1..cores).map(|_| corelith_io::channel(1)).unzip();
    let (alive, others) = corelith_io::channel(1);
    let (asks, asked) = corelith_io::channel(usize::from(cores) + 1);
    let (hand_over, inbound) = corelith_io::channel(limits::BEATS_HANDED_OVER_MAX);
    let (to_beats, maps) = corelith_io::channel(limits::MAPS_WAITING_MAX);
    let (told, store) = corelith_io::channel(1);
    tell.push(told);
    let beats = BeatsSetup {
        store,
        maps,
        inbound,
        asks: asks.clone(),
    };
    let node = Arc::new(AtomicU64::new(config.id.0));
    let mut openings = vec![Opening::First {
        tell,
        others,
        asked,
        hand_over,
        to_beats,
    }];
    openings.extend(stores.into_iter().map(|store| Opening::Other {
        store,
        _alive: alive.clone(),
    }));
    let mut setups = Vec::with_capacity(usize::from(cores));
    let mut stops = Vec::with_capacity(usize::from(cores));
    for ((core, opening), inbox) in (0..cores).zip(openings).zip(inboxes) {
        let (stop, stopped) = corelith_io::channel(1);
        stops.push(stop);
        let mut listen = listen;
        listen.set_port(listen.port().saturating_add(core));
        setups.push(CoreSetup {
            config: Arc::clone(&config),
            placement: Arc::clone(&placement),
            listen,
            instead,
            core,
            opening,
            asks: asks.clone(),
            senders: senders.clone(),
            inbox,
            stop: stopped,
            node: Arc::clone(&node),
            events: events.clone(),
        });
    }
    assert_eq!(setups.len(), usize::from(cores), "a setup for each core");
    PreparedNode {
        cores: setups,
        beats,
        stops,
    }
}

impl CoreSetup {
    /// Where connections with beats go, on the core that takes them.
    pub(super) fn hand_over(&self) -> Option<Sender<InboundBeats>> {
        match &self.opening {
            Opening::First { hand_over, .. } => Some(hand_over.clone()),
            Opening::Other { .. } => None,
        }
    }

    /// The node has this id.
    pub(super) fn is_node(&self, node: NodeId) {
        self.node.store(node.0, Ordering::SeqCst);
    }

    pub(super) fn tell(&self, what: CoreEventKind) {
        let event = CoreEvent {
            node: NodeId(self.node.load(Ordering::SeqCst)),
            core: self.core,
            what,
        };
        // Nobody listens any more when the process ends.
        let _ = self.events.try_send(event);
    }
}

/// Listens where the core does.
pub(super) fn listen(setup: &CoreSetup) -> Result<TcpListener, NodeError> {
    TcpListener::bind(setup.listen).map_err(|source| match source.kind() {
        ErrorKind::AddressInUse => NodeError::PortInUse {
            host: setup.listen.ip().to_string(),
            port: setup.listen.port(),
            instead: setup.instead,
        },
        _ => NodeError::Listen {
            address: setup.listen.to_string(),
            source,
        },
    })
}
