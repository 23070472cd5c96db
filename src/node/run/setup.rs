//! What a core needs to start, and what it tells.

use super::shards::Store;
use crate::node::cluster::placement::Placement;
use crate::node::config::NodeConfig;
use crate::node::data_dir::keeper::KeeperAsk;
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::mesh::{MeshReceiver, MeshSender};
use corelith_consensus::InboundBeats;
use corelith_io::{ErrorKind, Receiver, Sender, TcpListener};
use corelith_shards::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the core of the beats needs to start.
pub struct BeatsSetup {
    pub(super) config: Arc<NodeConfig>,
    pub(super) placement: Arc<Placement>,
    /// What must be known of the store.
    pub(super) store: Receiver<Store>,
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
        /// To the core of the beats, if there is one.
        hand_over: Option<Sender<InboundBeats>>,
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
    events: Sender<CoreEvent>,
}

/// The cores of a node.
pub struct PreparedNode {
    /// Those that serve shards, in order.
    pub cores: Vec<CoreSetup>,
    /// That of the beats, unless the node is alone. It ends after the first of the others.
    pub beats: Option<BeatsSetup>,
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
    let (beats, hand_over) = match placement.members().len() {
        1 => (None, None),
        _ => {
            let (hand_over, inbound) = corelith_io::channel(limits::BEATS_HANDED_OVER_MAX);
            let (told, store) = corelith_io::channel(1);
            tell.push(told);
            let beats = BeatsSetup {
                config: Arc::clone(&config),
                placement: Arc::clone(&placement),
                store,
                inbound,
                asks: asks.clone(),
            };
            (Some(beats), Some(hand_over))
        }
    };
    let mut openings = vec![Opening::First {
        tell,
        others,
        asked,
        hand_over,
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
            Opening::First { hand_over, .. } => hand_over.clone(),
            Opening::Other { .. } => None,
        }
    }

    pub(super) fn tell(&self, what: CoreEventKind) {
        let event = CoreEvent {
            node: self.config.id,
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
