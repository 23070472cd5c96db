//! Who keeps the cluster map: the node that leads the shard of the map. It takes what the others report, writes the map
//! anew when something is to change, and has the steps done that lead from what is to what the map says
//! ([`super::reconcile`]). The others ask it through [`MetaLeader`].
//!
//! Invariants:
//! * A map is published, and acted on, after it is committed; each follows from the one before.
//! * A lead begins with reading the map, and ends with the first write whose fate is not known.
//! * Of each shard one step is under way at most.

mod kept;
mod leader;
mod reporting;
mod view;
#[cfg(test)]
mod tests;

pub(crate) use leader::MetaLeader;
pub(crate) use reporting::{Reporter, as_reported};

use super::map::{EditError, Map, MapEdit, NodePlace, NodeState, Rejoin};
use super::orders;
use super::reconcile::{self, AskStep, PlanLimits, Step};
use super::reports::Reports;
use crate::node::limits;
use corelith_consensus::Group;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_wire::cluster::{ClusterAnswer, ClusterAsk, ClusterOrder};
use corelith_wire::peer::{MemberStep, NodeAsk, NodeReply, Registration};
use corelith_wire::{NodeId, ShardId, StoreId};
use futures_util::future::LocalBoxFuture;
use kept::{KeptError, KeptMap};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Asks a node, this one included, and waits for the answer for a bounded time.
pub(crate) type AskNode = Rc<dyn Fn(NodeId, NodeAsk) -> LocalBoxFuture<'static, Option<NodeReply>>>;

/// See the module. Belongs to the first core.
pub(crate) struct Meta {
    me: NodeId,
    group: Group,
    /// What is written if there is no map yet.
    first: Map,
    /// Takes each map that is committed.
    publish: Box<dyn Fn(&Map)>,
    ask: AskNode,
    /// Edits are made one after the other.
    turn: Semaphore,
    lead: RefCell<Option<Lead>>,
    /// Number of the last lead.
    leads: Cell<u64>,
    /// Something has changed that may call for a step.
    wake: Notify,
}

/// What is known while this node leads.
struct Lead {
    number: u64,
    /// Taken while a write is under way.
    kept: Option<KeptMap>,
    map: Rc<Map>,
    reports: Reports,
    began: Instant,
    /// Shards of which a step is under way.
    busy: BTreeSet<ShardId>,
    /// Stores that come as a node which is known with another one, and wait for an operator.
    waiting: BTreeMap<NodeId, StoreId>,
}

/// Why the map was not written.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error("this node does not lead the shard of the cluster map")]
    NotLeader,
    #[error("{0}")]
    Kept(#[from] KeptError),
    #[error("{0}")]
    Edit(#[from] EditError),
    #[error("{0}")]
    Refused(String),
}

fn millis_since(began: Instant) -> u64 {
    let passed = corelith_io::now().saturating_duration_since(began);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

impl Meta {
    /// Of a node that holds the shard of the map.
    pub(crate) fn new(
        me: NodeId,
        group: Group,
        first: Map,
        publish: impl Fn(&Map) + 'static,
        ask: AskNode,
    ) -> Rc<Self> {
        Rc::new(Self {
            me,
            group,
            first,
            publish: Box::new(publish),
            ask,
            turn: Semaphore::new(1),
            lead: RefCell::default(),
            leads: Cell::new(0),
            wake: Notify::new(),
        })
    }

    /// Keeps the map whenever this node leads its shard, for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            if self.leads_shard() {
                match self.begin().await {
                    Ok(()) => self.reconcile().await,
                    Err(error) => tracing::debug!(%error, "the cluster map is not kept here yet"),
                }
                self.lead.replace(None);
            }
            corelith_io::sleep(limits::META_LOOK_EVERY).await;
        }
    }

    fn leads_shard(&self) -> bool {
        self.group.leader() == Some(self.me)
    }

    async fn begin(&self) -> Result<(), KeptError> {
        let (mut kept, found) = KeptMap::read(self.group.clone()).await?;
        let map = match found {
            Some(map) => map,
            None => {
                kept.write(&self.first).await?;
                tracing::info!(epoch = self.first.epoch.0, "the cluster map begins");
                self.first.clone()
            }
        };
        (self.publish)(&map);
        let number = self.leads.get() + 1;
        self.leads.set(number);
        let earlier = self.lead.replace(Some(Lead {
            number,
            kept: Some(kept),
            map: Rc::new(map),
            reports: Reports::new(0),
            began: corelith_io::now(),
            busy: BTreeSet::new(),
            waiting: BTreeMap::new(),
        }));
        assert!(earlier.is_none(), "one lead ends before the next begins");
        Ok(())
    }

    /// Takes steps until this lead ends.
    async fn reconcile(self: &Rc<Self>) {
        while self.leads_shard() && self.lead.borrow().is_some() {
            self.look().await;
            let woken = self.wake.notified();
            let _ = corelith_io::timeout(limits::META_LOOK_EVERY, woken).await;
        }
    }

    /// Takes the next steps.
    async fn look(self: &Rc<Self>) {
        let steps = {
            let mut lead = self.lead.borrow_mut();
            let Some(lead) = lead.as_mut() else { return };
            let now = millis_since(lead.began);
            lead.reports.tick(&lead.map, now);
            reconcile::next(&lead.map, &lead.reports, &PlanLimits::default())
        };
        let mut edits = Vec::new();
        for step in steps {
            match step {
                Step::Edit(edit) => edits.push(edit),
                Step::Ask { at, shard, step } => self.begin_step(shard, at, &step),
            }
        }
        if edits.is_empty() {
            return;
        }
        for edit in &edits {
            tracing::info!(?edit, "the cluster map changes");
        }
        if let Err(error) = self.edit(|_| Ok(edits)).await {
            tracing::warn!(%error, "the cluster map was not changed");
        }
    }

    /// Has a node take a step of a shard, unless one is under way.
    fn begin_step(self: &Rc<Self>, shard: ShardId, node: NodeId, step: &AskStep) {
        let number = {
            let mut lead = self.lead.borrow_mut();
            let Some(lead) = lead.as_mut() else { return };
            if !lead.busy.insert(shard) {
                return;
            }
            lead.number
        };
        let asking = (self.ask)(node, ask_of(shard, step));
        let meta = Rc::clone(self);
        let step = step.clone();
        drop(corelith_io::spawn(async move {
            match asking.await {
                Some(NodeReply::Done { .. }) => {}
                Some(NodeReply::Failed { why }) => {
                    tracing::warn!(%shard, %node, ?step, why, "a step of the shard was not taken");
                }
                other => tracing::debug!(%shard, %node, ?step, ?other, "a step was not taken"),
            }
            if let Some(lead) = meta.lead.borrow_mut().as_mut().filter(|l| l.number == number) {
                lead.busy.remove(&shard);
            }
            meta.wake.notify_one();
        }));
    }

    /// Writes the map with these edits, if there are any; the map that then holds.
    async fn edit(
        &self,
        decide: impl FnOnce(&Lead) -> Result<Vec<MapEdit>, NotWritten>,
    ) -> Result<Rc<Map>, NotWritten> {
        let _turn = self.turn.acquire(1).await;
        let (next, number, mut kept) = {
            let mut lead = self.lead.borrow_mut();
            let lead = lead.as_mut().ok_or(NotWritten::NotLeader)?;
            let edits = decide(lead)?;
            if edits.is_empty() {
                return Ok(Rc::clone(&lead.map));
            }
            let next = Rc::new(lead.map.apply_all(&edits)?);
            let kept = lead.kept.take().ok_or(NotWritten::NotLeader)?;
            (next, lead.number, kept)
        };
        let written = kept.write(&next).await;
        let mut lead = self.lead.borrow_mut();
        let current = lead.as_mut().filter(|lead| lead.number == number);
        let current = current.ok_or(NotWritten::NotLeader)?;
        if let Err(error) = written {
            // Whether it was written shows when it is read again.
            *lead = None;
            return Err(error.into());
        }
        assert!(next.epoch > current.map.epoch, "the epoch rises with every write");
        current.kept = Some(kept);
        current.map = Rc::clone(&next);
        drop(lead);
        (self.publish)(&next);
        self.wake.notify_one();
        Ok(next)
    }

    /// Answers what only the keeper of the map can; `from` is who asks, with that store.
    pub(crate) async fn answer(&self, from: NodeId, store: StoreId, ask: NodeAsk) -> NodeReply {
        if self.lead.borrow().is_none() {
            return self.not_leader();
        }
        match ask {
            NodeAsk::Report(report) => self.take_report(from, store, &report),
            NodeAsk::Register(registration) => self.register(&registration).await,
            NodeAsk::Admin { ask } => self.order(&ask).await,
            _ => NodeReply::failed("this is not for the keeper of the cluster map"),
        }
    }

    fn not_leader(&self) -> NodeReply {
        let leader = self.group.leader().filter(|leader| *leader != self.me);
        NodeReply::NotLeader {
            leader: leader.map(|leader| leader.0),
        }
    }

    fn take_report(
        &self,
        from: NodeId,
        store: StoreId,
        report: &corelith_wire::peer::NodeReport,
    ) -> NodeReply {
        let mut lead = self.lead.borrow_mut();
        let Some(lead) = lead.as_mut() else {
            drop(lead);
            return self.not_leader();
        };
        let is_its = lead.map.node(from).is_some_and(|node| node.store == store);
        if is_its {
            lead.reports.tick(&lead.map, millis_since(lead.began));
            lead.reports.take(from, as_reported(store, report));
        }
        NodeReply::Done { at: lead.map.epoch.0.into() }
    }

    /// Has a node in the map as it says that it is.
    async fn register(&self, registration: &Registration) -> NodeReply {
        let edited = self.edit(|lead| registered(&lead.map, &lead.reports, registration)).await;
        if let Err(NotWritten::Refused(_)) = &edited
            && let Some(lead) = self.lead.borrow_mut().as_mut()
            && lead.map.node(NodeId(registration.node)).is_some()
            && lead.waiting.len() < limits::META_WAITING_MAX
        {
            let store = StoreId(registration.store);
            lead.waiting.insert(NodeId(registration.node), store);
        }
        match edited {
            Ok(map) => {
                if let Some(lead) = self.lead.borrow_mut().as_mut() {
                    lead.waiting.remove(&NodeId(registration.node));
                }
                NodeReply::Map { bytes: map.encode() }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &NotWritten) -> NodeReply {
        match error {
            NotWritten::NotLeader | NotWritten::Kept(_) => self.not_leader(),
            NotWritten::Edit(_) | NotWritten::Refused(_) => NodeReply::failed(error.to_string()),
        }
    }

    /// Does what an operator says.
    async fn order(&self, ask: &[u8]) -> NodeReply {
        let ask = match ClusterAsk::parse(ask) {
            Ok(ask) => ask,
            Err(error) => return NodeReply::failed(error.to_string()),
        };
        let answer = match self.decide(&ask).await {
            Ok(answer) => answer,
            Err(NotWritten::NotLeader | NotWritten::Kept(_)) => return self.not_leader(),
            Err(error) => ClusterAnswer::Refused { why: error.to_string() },
        };
        NodeReply::Admin { answer: answer.to_bytes() }
    }

    async fn decide(&self, ask: &ClusterAsk) -> Result<ClusterAnswer, NotWritten> {
        if ask.order == ClusterOrder::Status {
            let lead = self.lead.borrow();
            let lead = lead.as_ref().ok_or(NotWritten::NotLeader)?;
            let view = view::of(&lead.map, &lead.reports, self.me, &lead.waiting);
            return Ok(ClusterAnswer::Status { view });
        }
        let mut told = None;
        self.edit(|lead| {
            let Some((edits, answer)) = orders::answer(&lead.map, ask) else {
                return Ok(Vec::new());
            };
            told = Some(answer);
            Ok(edits)
        })
        .await?;
        told.ok_or(NotWritten::NotLeader)
    }
}

fn ask_of(shard: ShardId, step: &AskStep) -> NodeAsk {
    let shard = shard.0;
    let change = |step| NodeAsk::Change { shard, step };
    match step {
        AskStep::Open { replica } => NodeAsk::Open {
            shard,
            replica: replica.0,
            told: None,
        },
        AskStep::AddLearner { replica, store } => change(MemberStep::AddLearner {
            replica: replica.0,
            store: store.0,
        }),
        AskStep::SetVoters { voters } => change(MemberStep::SetVoters {
            replicas: voters.iter().map(|voter| voter.0).collect(),
        }),
        AskStep::RemoveLearner { replica } => {
            change(MemberStep::RemoveLearner { replica: replica.0 })
        }
        AskStep::Lead { to } => change(MemberStep::Lead { to: to.0 }),
    }
}

/// What has the map show a node as it registers.
fn registered(
    map: &Map,
    reports: &Reports,
    registration: &Registration,
) -> Result<Vec<MapEdit>, NotWritten> {
    let refused = |why: String| Err(NotWritten::Refused(why));
    let (node, store) = (NodeId(registration.node), StoreId(registration.store));
    let place = NodePlace {
        host: registration.host.clone(),
        port: registration.port,
        cores: registration.cores,
        zone: registration.zone.clone(),
        region: registration.region.clone(),
    };
    let owner = map.live_nodes().find(|(_, known)| known.store == store);
    if let Some((owner, known)) = owner {
        if node.0 != 0 && node != owner {
            return refused(format!("this store is that of node {}", owner.0));
        }
        let is_same = known.place() == place;
        let edit = MapEdit::Place { node: owner, place };
        return Ok(if is_same { Vec::new() } else { vec![edit] });
    }
    if let Some((other, _)) = map.live_nodes().find(|(id, known)| {
        *id != node && (&known.host, known.port) == (&place.host, place.port)
    }) {
        return refused(format!(
            "{}:{} is where node {} is in the map of the cluster; \
             remove that node first (`corelith cluster remove {}`), or listen elsewhere",
            place.host, place.port, other.0, other.0
        ));
    }
    if node.0 == 0 {
        return Ok(vec![MapEdit::Join { store, place }]);
    }
    let Some(known) = map.node(node) else {
        let why = match map.nodes.get(&node).map(|known| known.state) {
            Some(NodeState::Removed) => format!("node {} was removed from the cluster", node.0),
            _ => format!("the cluster has no node {}", node.0),
        };
        return refused(format!("{why}; leave `node.id` out to join it as a new node"));
    };
    let replaces = [MapEdit::Store { node, store }, MapEdit::Place { node, place }];
    if known.store == StoreId::UNCLAIMED || known.store == StoreId::ANY {
        return Ok(replaces.into());
    }
    if reports.silence_ms(node) < limits::REJOIN_SILENCE_MS {
        return refused(format!(
            "node {} is known with another store, which was heard {} s ago: if its data is gone for good, wait, \
             and if two machines have this id, give one of them another",
            node.0,
            reports.silence_ms(node) / 1000
        ));
    }
    match map.settings.rejoin {
        Rejoin::Auto => Ok(replaces.into()),
        Rejoin::Manual => refused(format!(
            "node {} is known with another store; `corelith cluster rejoin {}` takes this one in its place",
            node.0, node.0
        )),
    }
}
