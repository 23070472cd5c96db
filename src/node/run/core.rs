//! The main task of one core: opens its shards, listens, serves until it is told to stop.
//!
//! Invariants:
//! * The first core opens and locks the data directory before any core opens a shard, and lets go
//!   of it after every other core has ended.
//! * A core that fails tells why before anything else of the node can notice.

use super::entry::{self, EnteredCore, HeldDirectory, enter};
pub use super::setup::{BeatsSetup, CoreEvent, CoreEventKind, CoreSetup, PreparedNode, prepare};
use super::setup::{Opening, Store};
use crate::node::admin::status::NodeStatus;
use crate::node::admission::desk::Desk;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::Placement;
use crate::node::data_dir::keeper::IdentityKeeper;
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::local::LocalGroups;
use crate::node::mesh::{Mesh, MeshReceiver};
use crate::node::meta;
use crate::node::neighbours::Neighbours;
use crate::node::neighbours::news::MapNews;
use crate::node::request::budget::Budget;
use crate::node::request::forward::Forwards;
use crate::node::request::handler::Handler;
use crate::node::request::router::{ClientsMap, Router};
use crate::node::request::server::Server;
use crate::node::shards::{CoreShards, ShardSurroundings};
use corelith_consensus::{Group, Groups, Options, Reads, Role, Route};
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{JoinHandle, Receiver, Sender};
use corelith_wire::placement::core_of;
use futures_util::future::{Either, select};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

/// Runs a core until it is told to stop or fails; both are told as an event.
pub async fn run(setup: CoreSetup) {
    let mut held = None;
    let result = serve(&setup, &mut held).await;
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
    if let Some(held) = held {
        held.release().await;
    }
}

/// Serves until the core is to stop. What keeps others from the data directory is put into `held`.
async fn serve(setup: &CoreSetup, held: &mut Option<HeldDirectory>) -> Result<(), NodeError> {
    let Some(EnteredCore { store, listener }) = enter(setup, held).await? else {
        return Ok(());
    };
    let map = MapWatch::new(Arc::clone(&store.placement));
    let desk = Rc::new(entry::desk(store.name, &map, setup.asks.clone(), store.me));
    let groups = new_groups(setup, &store, &map, &desk)?;
    let local = Rc::new(LocalGroups::default());
    let around = ShardSurroundings {
        config: Arc::clone(&setup.config),
        core: setup.core,
        cores: setup.config.cores,
        me: store.me,
        founding: Arc::clone(&store.founding),
        map: Rc::clone(&map),
        groups: groups.clone(),
        asks: setup.asks.clone(),
    };
    let shards = CoreShards::new(around, &store.held, Rc::clone(&local));
    let is_open = {
        let opening = pin!(shards.open_all());
        let stopping = pin!(setup.stop.recv());
        match select(opening, stopping).await {
            Either::Left((opened, _)) => opened.map(|()| true)?,
            Either::Right(_) => false,
        }
    };
    if !is_open {
        // Shards that are being opened are left as in a crash, the others are closed.
        groups.shutdown().await;
        return Ok(());
    }
    let opened = local.all();
    let (router, server) = new_server(setup, &map, &groups, &desk, &shards, local);
    let mut tasks = vec![
        corelith_io::spawn(Rc::clone(&server).accept(listener)),
        corelith_io::spawn(follow_map(Rc::clone(&shards), map.clone(), groups.clone())),
    ];
    drop(corelith_io::spawn(take_messages(
        Rc::clone(&router),
        setup.inbox.clone(),
    )));
    drop(corelith_io::spawn(sweep(
        Rc::clone(&server),
        Rc::clone(&router),
    )));
    let keeper = held.as_ref().and_then(HeldDirectory::keeper);
    if let (Opening::First { to_beats, .. }, Some(keeper)) = (&setup.opening, keeper) {
        let to_beats = to_beats.clone();
        tasks.extend(meet_neighbours(
            setup, &store, &router, &groups, keeper, to_beats,
        ));
    }
    let outcome = {
        let stopped = pin!(until_stopped(setup, &groups, opened));
        let excluded = pin!(entry::until_excluded(setup, &groups, &desk, &map));
        match select(stopped, excluded).await {
            Either::Left(_) => Ok(()),
            Either::Right((error, _)) => Err(error),
        }
    };
    tasks.iter().for_each(JoinHandle::abort);
    groups.answer_no_nodes();
    groups.shutdown().await;
    server.drain().await;
    outcome
}

/// Has the first core answer other nodes, learn of newer maps, say how the node is, and lead what concerns the whole
/// cluster while it leads the meta shard.
fn meet_neighbours(
    setup: &CoreSetup,
    store: &Store,
    router: &Rc<Router>,
    groups: &Groups,
    keeper: Rc<IdentityKeeper>,
    to_beats: Sender<Arc<Placement>>,
) -> [JoinHandle<()>; 4] {
    let (me, map, mesh) = (store.me, Rc::clone(&router.map), Rc::clone(&router.mesh));
    let news = Rc::new(MapNews {
        dir: setup.config.data_dir.clone(),
        cluster: me.cluster,
        me: me.node,
        cores: setup.config.cores,
        map: Rc::clone(&map),
        keeper: Rc::clone(&keeper),
        mesh: Rc::clone(&mesh),
        groups: groups.clone(),
        liveness: Arc::clone(&store.liveness),
        to_beats,
        writing: Semaphore::new(1),
    });
    let (ask_meta, asked) = corelith_io::channel(limits::META_QUESTIONS_MAX);
    let (join, joins) = corelith_io::channel(limits::JOINS_WAITING_MAX);
    keeper.pass_joins_to(join);
    let neighbours = Rc::new(Neighbours {
        config: Arc::clone(&setup.config),
        me: me.node,
        store: me.store,
        groups: groups.clone(),
        map,
        news: Rc::clone(&news),
        mesh,
        local: Rc::clone(&router.groups),
        shards: Rc::clone(&router.shards),
        keeper,
        meta: ask_meta,
        encoded: RefCell::default(),
    });
    groups.answer_nodes(neighbours.as_answer());
    router.neighbours.replace(Rc::downgrade(&neighbours));
    [
        corelith_io::spawn(news.follow()),
        corelith_io::spawn(Rc::clone(&neighbours).keep_reporting()),
        corelith_io::spawn(Rc::clone(&neighbours).take_in(joins)),
        corelith_io::spawn(meta::run(neighbours, asked)),
    ]
}

/// Does what newer maps say of the shards and peers of the core; never returns.
async fn follow_map(shards: Rc<CoreShards>, map: Rc<MapWatch>, groups: Groups) {
    let mut now = map.now();
    loop {
        // The first map may be older than what the shards are at.
        if let Some(known) = now.map().filter(|known| known.epoch.0 > 1) {
            // Of the node, whose cores receive at the same time.
            let cores = u64::from(now.cores().max(1));
            groups.limit_copies(known.settings.copy_bytes_per_second.div_ceil(cores));
            shards.follow(known).await;
            groups.forget_others(|node| now.member(node).is_some());
        }
        let newer = pin!(map.after(now.epoch));
        let again = pin!(corelith_io::sleep(limits::MAP_FOLLOWED_EVERY));
        now = match select(newer, again).await {
            Either::Left((newer, _)) => newer,
            // What could not be done then may be done now.
            Either::Right(_) => map.now(),
        };
    }
}

/// Says when the core is ready, and returns when it is to stop.
async fn until_stopped(setup: &CoreSetup, groups: &Groups, opened: Vec<Group>) {
    let has_leaders = wait_for_leaders(groups, &opened, &setup.stop).await;
    // A replica that is dropped while the node runs must not stay for that.
    drop(opened);
    if has_leaders {
        setup.tell(CoreEventKind::Ready);
        // An error means that the node is told to stop, as a message does.
        let _ = setup.stop.recv().await;
    }
}

/// What answers the clients of a core, which has these shards.
fn new_server(
    setup: &CoreSetup,
    map: &Rc<MapWatch>,
    groups: &Groups,
    desk: &Rc<Desk>,
    shards: &Rc<CoreShards>,
    local: Rc<LocalGroups>,
) -> (Rc<Router>, Rc<Server>) {
    let clients = &setup.config.clients;
    let budget = Budget::new(length(clients.memory_bytes));
    let mesh = Mesh::new(setup.core, setup.config.cores);
    mesh.start(setup.senders.clone());
    let router = Rc::new(Router {
        core: setup.core,
        map: Rc::clone(map),
        for_clients: ClientsMap::default(),
        handler: Handler::new(map.now().shards, Rc::clone(&local)),
        forwards: Rc::new(Forwards::new(Rc::clone(&mesh))),
        status: NodeStatus::new(
            Rc::clone(map),
            Rc::clone(&local),
            Rc::clone(&mesh),
            Rc::clone(desk),
            groups.liveness(),
        ),
        mesh,
        groups: local,
        shards: Rc::clone(shards),
        neighbours: RefCell::default(),
    });
    let server = Server::new(
        Rc::clone(&router),
        groups.clone(),
        Rc::clone(desk),
        setup.hand_over(),
        budget,
        clients.idle(),
    );
    (router, server)
}

fn new_groups(
    setup: &CoreSetup,
    store: &Store,
    map: &Rc<MapWatch>,
    desk: &Rc<Desk>,
) -> Result<Groups, NodeError> {
    let (resolve, admit) = Rc::clone(desk).as_consensus_asks();
    let (map, liveness) = (Rc::clone(map), Arc::clone(&store.liveness));
    let epoch = map.now().epoch;
    let reads = match store.me.settings.reads {
        0 => Reads::Lease,
        _ => Reads::Quorum,
    };
    let route = Route {
        // A node knows best how many cores it has, and says so before anything is promised to it.
        core_of: Rc::new(move |node, shard| match liveness.cores_of(node) {
            Some(cores) => core_of(shard, cores),
            None => map.now().core_of(node, shard),
        }),
        resolve,
    };
    let options = Options {
        reads,
        catch_up_bytes: setup.config.storage.catch_up_bytes,
        ..Options::default()
    };
    let shared = (setup.core, Arc::clone(&store.liveness));
    Groups::new(desk.me(), epoch, route, admit, shared, options).map_err(|error| NodeError::Raft {
        reason: error.to_string(),
    })
}

/// A configured length in memory, whose bounds were checked.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Waits until every shard that runs has a leader; `false` if the node is told to stop first.
async fn wait_for_leaders(groups: &Groups, opened: &[Group], stop: &Receiver<()>) -> bool {
    // The map may have had it dropped meanwhile.
    let is_gone = |group: &Group| {
        let open = groups.group(group.shard());
        open.is_none_or(|open| open.replica() != group.replica())
    };
    loop {
        // One that was taken in later may wait until it is told by whom.
        let has_leader = |group: &Group| {
            group.is_led()
                || group.status().role == Role::Stopped
                || group.replica().generation() > 0
                || is_gone(group)
        };
        if opened.iter().all(has_leader) {
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
