//! The main task of one core: opens its shards, listens, serves until it is told to stop.
//!
//! Invariants:
//! * The first core opens and locks the data directory before any core opens a shard, and lets go
//!   of it after every other core has ended.
//! * A core that fails tells why before anything else of the node can notice.

use super::entry::{self, EnteredCore, HeldDirectory, enter};
use super::setup::Opening;
pub use super::setup::{BeatsSetup, CoreEvent, CoreEventKind, CoreSetup, PreparedNode, prepare};
use super::shards::{Opened, Opener};
use crate::node::admin::status::NodeStatus;
use crate::node::admission::desk::Desk;
use crate::node::cluster::placement::Placement;
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::local::{DownShard, LocalGroups};
use crate::node::mesh::{Mesh, MeshReceiver};
use crate::node::request::budget::Budget;
use crate::node::request::forward::Forwards;
use crate::node::request::handler::Handler;
use crate::node::request::router::{Router, map_bytes};
use crate::node::request::server::Server;
use corelith_consensus::{Group, Groups, Liveness, Options, Role, Route};
use corelith_io::Receiver;
use futures_util::future::{Either, select};
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
    let desk = Rc::new(entry::desk(
        &setup.config,
        &setup.placement,
        setup.asks.clone(),
        store.me,
    ));
    let placement = Arc::new(setup.placement.formed(store.me.cluster.short()));
    let groups = new_groups(setup, &placement, &desk, &store.liveness)?;
    let opener = Opener {
        config: &setup.config,
        placement: &placement,
        core: setup.core,
        groups: &groups,
        store,
        asks: setup.asks.clone(),
    };
    let opening = {
        let opening = pin!(opener.open());
        let stopping = pin!(setup.stop.recv());
        match select(opening, stopping).await {
            Either::Left((opened, _)) => Some(opened?),
            Either::Right(_) => None,
        }
    };
    let Some(Opened {
        groups: opened,
        down,
    }) = opening
    else {
        // Shards that are being opened are left as in a crash, the others are closed.
        groups.shutdown().await;
        return Ok(());
    };
    let (router, server) = new_server(setup, placement, &groups, &desk, opened.clone(), down);
    let tasks = [
        corelith_io::spawn(Rc::clone(&server).accept(listener)),
        corelith_io::spawn(take_messages(Rc::clone(&router), setup.inbox.clone())),
        corelith_io::spawn(sweep(Rc::clone(&server), router)),
    ];
    let outcome = {
        let stopped = pin!(until_stopped(setup, &opened));
        let excluded = pin!(entry::until_excluded(setup, &groups, &desk));
        match select(stopped, excluded).await {
            Either::Left(_) => Ok(()),
            Either::Right((error, _)) => Err(error),
        }
    };
    let [accepting, ..] = tasks;
    accepting.abort();
    groups.shutdown().await;
    server.drain().await;
    outcome
}

/// Says when the core is ready, and returns when it is to stop.
async fn until_stopped(setup: &CoreSetup, groups: &[Group]) {
    if wait_for_leaders(groups, &setup.stop).await {
        setup.tell(CoreEventKind::Ready);
        // An error means that the node is told to stop, as a message does.
        let _ = setup.stop.recv().await;
    }
}

/// What answers the clients of a core, which has these shards.
fn new_server(
    setup: &CoreSetup,
    placement: Arc<Placement>,
    groups: &Groups,
    desk: &Rc<Desk>,
    opened: Vec<Group>,
    down: Vec<DownShard>,
) -> (Rc<Router>, Rc<Server>) {
    let clients = &setup.config.clients;
    let budget = Budget::new(length(clients.memory_bytes));
    let mesh = Mesh::new(setup.core, setup.config.cores);
    mesh.start(setup.senders.clone());
    let local = Rc::new(LocalGroups::new(placement.shards, opened, down));
    let map = placement.cluster_map();
    let router = Rc::new(Router {
        core: setup.core,
        placement: Arc::clone(&placement),
        map_bytes: map_bytes(&map),
        map: Rc::new(map),
        handler: Handler::new(placement.shards, Rc::clone(&local)),
        forwards: Rc::new(Forwards::new(Rc::clone(&mesh))),
        status: NodeStatus::new(
            placement,
            Rc::clone(&local),
            Rc::clone(&mesh),
            Rc::clone(desk),
            groups.liveness(),
        ),
        mesh,
        groups: local,
    });
    let desk = Rc::clone(desk);
    let server = Server::new(
        Rc::clone(&router),
        groups.clone(),
        desk,
        setup.hand_over(),
        budget,
        clients.idle(),
    );
    (router, server)
}

fn new_groups(
    setup: &CoreSetup,
    placement: &Arc<Placement>,
    desk: &Rc<Desk>,
    liveness: &Arc<Liveness>,
) -> Result<Groups, NodeError> {
    let of_cores = Arc::clone(placement);
    let (resolve, admit) = Rc::clone(desk).as_consensus_asks();
    let route = Route {
        core_of: Rc::new(move |node, shard| of_cores.core_of(node, shard)),
        resolve,
    };
    let options = Options {
        reads: setup.config.cluster.reads,
        catch_up_bytes: setup.config.storage.catch_up_bytes,
        ..Options::default()
    };
    let shared = (setup.core, Arc::clone(liveness));
    Groups::new(desk.me(), placement.epoch, route, admit, shared, options).map_err(|error| {
        NodeError::Raft {
            reason: error.to_string(),
        }
    })
}

/// A configured length in memory, whose bounds were checked.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Waits until every shard that runs has a leader; `false` if the node is told to stop first.
async fn wait_for_leaders(groups: &[Group], stop: &Receiver<()>) -> bool {
    loop {
        let has_leader = |group: &Group| group.is_led() || group.status().role == Role::Stopped;
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
