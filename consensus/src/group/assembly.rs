//! The parts of a group, and the openraft that they make.

use super::{LinkTo, turning};
use crate::activity::GroupActivity;
use crate::ahead::ParsedAhead;
use crate::applied::Applied;
use crate::config;
use crate::error::OpenError;
use crate::fetch::Elsewhere;
use crate::lease::Lease;
use crate::log_store::{LogStore, Unsendable};
use crate::network::{GroupOfPeers, Network};
use crate::options::Options;
use crate::relief::{Decisions, Relief};
use crate::replay::replay;
use crate::snapshot::Transfers;
use crate::state_machine::StateMachine;
use crate::types::Raft;
use crate::uploads::{self, Uploads};
use corelith_shards::{Engine, Shard};
use std::cell::RefCell;
use std::rc::Rc;

/// What a group and the parts of its openraft both look at.
pub(super) struct Shared {
    pub(super) applied: Rc<Applied>,
    pub(super) transfers: Rc<Transfers>,
    pub(super) lease: Rc<Lease>,
    pub(super) turning: turning::Turning,
    pub(super) elsewhere: Rc<Elsewhere>,
    pub(super) decisions: Rc<Decisions>,
    pub(super) uploads: Rc<RefCell<Uploads>>,
    pub(super) activity: GroupActivity,
}

impl Shared {
    pub(super) fn new(
        engine: &Engine,
        lease: Lease,
        elsewhere: Elsewhere,
        activity: GroupActivity,
    ) -> Self {
        Self {
            applied: Rc::new(Applied::new(engine.applied().0)),
            transfers: Rc::default(),
            lease: Rc::new(lease),
            turning: turning::Turning::default(),
            elsewhere: Rc::new(elsewhere),
            decisions: Rc::default(),
            uploads: Rc::default(),
            activity,
        }
    }
}

/// Brings the state up to what the log is known to have committed, and makes the openraft that goes on from
/// there. It does not run yet.
pub(super) async fn build(
    shared: &Shared,
    peers: &Rc<GroupOfPeers>,
    link_to: &LinkTo,
    shard: &Shard,
    options: &Options,
) -> Result<Raft, OpenError> {
    let Shard { engine, log } = shard;
    let (me, shard_id) = (peers.me, peers.shard);
    let unsendable = Rc::<Unsendable>::default();
    let network = Network::new(
        Rc::clone(peers),
        shared.turning.authorised(),
        Rc::clone(link_to),
        options.peer_timeout,
        Rc::clone(&shared.lease),
        Rc::clone(&shared.transfers),
        Rc::clone(&unsendable),
    );
    let ahead = Rc::<ParsedAhead>::default();
    let applied = Rc::clone(&shared.applied);
    let relief = Relief::new(
        engine.clone(),
        shared.elsewhere.for_checks(),
        Rc::clone(&shared.decisions),
    );
    shared.uploads.replace(uploads::load(engine).await?);
    let (known, table) = (Rc::clone(&ahead), Rc::clone(&shared.uploads));
    let machine = StateMachine::new(engine.clone(), applied, known, relief, table);
    let activity = shared.activity.clone();
    let mut store = LogStore::new(log.clone(), engine.clone(), ahead, unsendable, activity);
    if !replay(&machine, engine, log).await? {
        store.defer();
    }
    machine.is_started();
    Raft::build(me.0, config::openraft(shard_id)?, network, store, machine)
        .await
        .map_err(|error| OpenError::State(error.to_string()))
}
