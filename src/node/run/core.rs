//! The main task of one core: opens its shards, listens, serves until it is told to stop.
//!
//! Invariants:
//! * The first core opens and locks the data directory before any core opens a shard, and lets go
//!   of it after every other core has ended.
//! * A core that fails tells why before anything else of the node can notice.

use super::shards::{Opened, Opener, Store};
use crate::node::admin::status::NodeStatus;
use crate::node::cluster::placement::Placement;
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::{DataDir, Listing};
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::local::LocalGroups;
use crate::node::mesh::{Mesh, MeshReceiver, MeshSender};
use crate::node::request::budget::Budget;
use crate::node::request::forward::Forwards;
use crate::node::request::handler::Handler;
use crate::node::request::router::{Router, map_bytes};
use crate::node::request::server::Server;
use corelith_consensus::{Group, Groups, Options, Role, Route};
use corelith_io::{ErrorKind, Receiver, Sender, TcpListener};
use corelith_shards::NodeId;
use corelith_wire::peer::{Introduction, Settings, Verdict};
use corelith_wire::{FullClusterId, Start, StoreId};
use futures_util::FutureExt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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

/// What the first core gives the others, once: what they must know of the store.
enum Opening {
    First {
        tell: Vec<Sender<Store>>,
        /// Closed when all other cores have ended.
        others: Receiver<()>,
        /// What the list of shards is asked for.
        listings: Receiver<Listing>,
    },
    Other {
        store: Receiver<Store>,
        _alive: Sender<()>,
    },
}

/// Everything a core needs to start.
pub struct CoreSetup {
    config: Arc<NodeConfig>,
    placement: Arc<Placement>,
    listen: SocketAddr,
    /// How to choose another port, for the error when it is in use.
    instead: &'static str,
    core: u16,
    opening: Opening,
    list: Sender<Listing>,
    senders: Vec<MeshSender>,
    inbox: MeshReceiver,
    stop: Receiver<()>,
    events: Sender<CoreEvent>,
}

/// Prepares all cores of a node, in order. Dropping the returned senders stops the cores. `listen` is
/// the address of core 0; `events` must have room for two events of each core.
pub fn prepare(
    config: NodeConfig,
    placement: Placement,
    listen: SocketAddr,
    instead: &'static str,
    events: &Sender<CoreEvent>,
) -> (Vec<CoreSetup>, Vec<Sender<()>>) {
    let cores = config.cores;
    let config = Arc::new(config);
    let placement = Arc::new(placement);
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..cores)
        .map(|_| corelith_io::channel(limits::MESH_BATCHES_MAX))
        .unzip();
    let (tell, stores): (Vec<_>, Vec<_>) = (1..cores).map(|_| corelith_io::channel(1)).unzip();
    let (alive, others) = corelith_io::channel(1);
    let (list, listings) = corelith_io::channel(usize::from(cores));
    let mut openings = vec![Opening::First {
        tell,
        others,
        listings,
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
            list: list.clone(),
            senders: senders.clone(),
            inbox,
            stop: stopped,
            events: events.clone(),
        });
    }
    assert_eq!(setups.len(), usize::from(cores), "a setup for each core");
    (setups, stops)
}

/// Runs a core until it is told to stop or fails; both are told as an event.
pub async fn run(setup: CoreSetup) {
    let result = serve(&setup).await;
    setup.tell(CoreEventKind::Ended(result));
    if let CoreSetup {
        opening: Opening::First { tell, others, .. },
        ..
    } = setup
    {
        drop(tell);
        // An error means that all others have ended.
        while others.recv().await.is_ok() {}
    }
}

impl CoreSetup {
    fn tell(&self, what: CoreEventKind) {
        let event = CoreEvent {
            node: self.config.id,
            core: self.core,
            what,
        };
        // Nobody listens any more when the process ends.
        let _ = self.events.try_send(event);
    }
}

async fn serve(setup: &CoreSetup) -> Result<(), NodeError> {
    let Some((store, data_dir)) = open_data_dir(setup).await? else {
        return Ok(());
    };
    let listener = listen(setup)?;
    let groups = new_groups(setup, &store)?;
    let opener = Opener {
        config: &setup.config,
        placement: &setup.placement,
        core: setup.core,
        groups: &groups,
        store,
        list: setup.list.clone(),
    };
    let Opened {
        groups: opened,
        down,
    } = opener.open().await?;

    let clients = &setup.config.clients;
    let budget = Budget::new(length(clients.memory_bytes));
    let mesh = Mesh::new(setup.core, setup.config.cores);
    mesh.start(setup.senders.clone());
    let local = Rc::new(LocalGroups::new(
        setup.placement.shards,
        opened.clone(),
        down,
    ));
    let map = setup.placement.cluster_map();
    let router = Rc::new(Router {
        core: setup.core,
        placement: Arc::clone(&setup.placement),
        map_bytes: map_bytes(&map),
        map: Rc::new(map),
        handler: Handler::new(setup.placement.shards, Rc::clone(&local)),
        forwards: Rc::new(Forwards::new(Rc::clone(&mesh))),
        status: NodeStatus::new(
            Arc::clone(&setup.placement),
            Rc::clone(&local),
            Rc::clone(&mesh),
        ),
        mesh,
        groups: local,
    });
    let server = Server::new(Rc::clone(&router), groups.clone(), budget, clients.idle());
    let tasks = [
        corelith_io::spawn(Rc::clone(&server).accept(listener)),
        corelith_io::spawn(take_messages(Rc::clone(&router), setup.inbox.clone())),
        corelith_io::spawn(sweep(Rc::clone(&server), router)),
    ];
    if wait_for_leaders(&opened, &setup.stop).await {
        setup.tell(CoreEventKind::Ready);
        // An error means that the node is told to stop, as a message does.
        let _ = setup.stop.recv().await;
    }
    let [accepting, ..] = tasks;
    accepting.abort();
    groups.shutdown().await;
    server.drain().await;
    drop(data_dir);
    Ok(())
}

/// The first core opens the directory, keeps it open and its list of shards; the others learn of the
/// store. `None`: the first core has failed, and tells why.
async fn open_data_dir(setup: &CoreSetup) -> Result<Option<(Store, Option<DataDir>)>, NodeError> {
    match &setup.opening {
        Opening::First { tell, listings, .. } => {
            let dir = &setup.config.data_dir;
            let opened = DataDir::open(dir, &setup.placement, setup.config.cores).await?;
            let held = opened.held_shards(dir);
            drop(corelith_io::spawn(held.keep(listings.clone())));
            let store = Store {
                id: opened.identity.store_id,
                held: Arc::new(opened.identity.held.clone()),
            };
            for other in tell {
                // A core that has failed needs to know nothing.
                let _ = other.try_send(store.clone());
            }
            Ok(Some((store, Some(opened))))
        }
        Opening::Other { store, .. } => Ok(store.recv().await.ok().map(|store| (store, None))),
    }
}

fn listen(setup: &CoreSetup) -> Result<TcpListener, NodeError> {
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

fn new_groups(setup: &CoreSetup, store: &Store) -> Result<Groups, NodeError> {
    let (of_cores, of_addresses) = (Arc::clone(&setup.placement), Arc::clone(&setup.placement));
    let route = Route {
        core_of: Rc::new(move |node, shard| of_cores.core_of(node, shard)),
        resolve: Rc::new(move |node, core| {
            let member = of_addresses.member(node);
            let address = member.map(|member| member.core_address(core));
            async move { address }.boxed_local()
        }),
    };
    let raft = &setup.config.raft;
    let options = Options {
        heartbeat: raft.heartbeat(),
        election_timeout_min: raft.election(),
        election_timeout_max: raft.election() * 2,
        catch_up_bytes: setup.config.storage.catch_up_bytes,
        ..Options::default()
    };
    let placement = &setup.placement;
    let settings = Settings::new(
        placement.shards,
        placement.replicas,
        0,
        milliseconds(options.heartbeat),
        milliseconds(options.election_timeout_min),
    );
    let me = Introduction {
        cluster: FullClusterId(placement.cluster_id.into()),
        node: placement.me,
        store: StoreId(store.id.into()),
        start: Start {
            incarnation: 1,
            nonce: corelith_io::random_u64(),
        },
        port: placement
            .member(placement.me)
            .map_or(0, |me| me.address.port()),
        settings,
    };
    let admit = Rc::new(|_| async { Verdict::Known }.boxed_local());
    Groups::new(me, placement.epoch, route, admit, options).map_err(|error| NodeError::Raft {
        reason: error.to_string(),
    })
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// A configured length in memory, whose bounds were checked.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Waits until every shard that runs has a leader; `false` if the node is told to stop first.
async fn wait_for_leaders(groups: &[Group], stop: &Receiver<()>) -> bool {
    loop {
        let has_leader =
            |group: &Group| group.leader().is_some() || group.status().role == Role::Stopped;
        if groups.iter().all(has_leader) {
            return true;
        }
        if corelith_io::timeout(limits::READY_POLL, stop.recv())
            .await
            .is_ok()
        {
            return false;
        }
    }
}

/// Handles what the other cores say, without ever waiting for anything but the next message.
async fn take_messages(router: Rc<Router>, inbox: MeshReceiver) {
    while let Ok(batch) = inbox.recv().await {
        for (count, message) in batch.into_iter().enumerate() {
            router.hear(message);
            if count % limits::FRAMES_PER_TURN == limits::FRAMES_PER_TURN - 1 {
                corelith_io::yield_if_needed().await;
            }
        }
    }
}

/// Enforces deadlines.
async fn sweep(server: Rc<Server>, router: Rc<Router>) {
    loop {
        corelith_io::sleep(limits::DEADLINE_SWEEP).await;
        server.sweep(corelith_io::now()).await;
        router.handler.sweep();
    }
}
