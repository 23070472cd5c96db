//! Who keeps the cluster map: the node that leads the meta shard. It takes what the others report, writes the map anew
//! when something is to change, and has the steps taken that lead from what is to what the map says
//! ([`super::cluster::reconcile`]).
//!
//! Invariants:
//! * A map is made known, and acted on, after it is committed; each follows from the one before.
//! * A lead begins with reading the map, and ends with the first write whose fate is not known.
//! * Of each shard one step is under way at most, and it is asked for again only after the time of a look: what came of
//!   it shows in a report.

mod kept;
mod reported;
#[cfg(test)]
pub(crate) mod testing;

use super::cluster::map::{EditError, Map, MapEdit};
use super::cluster::orders;
use super::cluster::overview::{awaited, overview};
use super::cluster::reconcile::{self, AskStep, PlanLimits, Step};
use super::cluster::registration;
use super::cluster::reports::{NodeReport, Reports};
use super::limits;
use super::neighbours::{MetaQuestion, Neighbours};
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{Instant, Receiver};
use corelith_wire::cluster::{ClusterAnswer, ClusterAsk, ClusterOrder, encode_cluster_answer};
use corelith_wire::limits::HEADER_BYTES;
use corelith_wire::peer::{MemberStep, NodeAsk, NodeReply, Registration};
use corelith_wire::{Epoch, Head, Kind, NodeId, Outbox, RequestId, ShardId, StoreId};
use kept::{KeptError, KeptMap};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// See the module. Belongs to the first core.
pub(crate) struct Meta {
    neighbours: Rc<Neighbours>,
    /// Edits are made one after the other.
    turn: Semaphore,
    lead: RefCell<Option<Lead>>,
    /// Number of the last lead.
    leads: Cell<u64>,
    /// The map has changed, or a report has come that a change waits for.
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
    /// Why the last step of a shard was not taken, as it was said.
    failures: BTreeMap<ShardId, String>,
    /// Stores that come as a node which is known with another one, and wait for an operator.
    waiting: BTreeMap<NodeId, StoreId>,
}

/// Why the map was not written.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error("this node does not lead the meta shard")]
    NotLeader,
    #[error("{0}")]
    Kept(#[from] KeptError),
    #[error("{0}")]
    Edit(#[from] EditError),
    #[error("{0}")]
    Refused(String),
}

impl NotWritten {
    /// Whether it only says that the lead has moved, or moves.
    fn is_for_another_lead(&self) -> bool {
        match self {
            Self::NotLeader => true,
            Self::Kept(error) => error.is_for_another_lead(),
            Self::Edit(_) | Self::Refused(_) => false,
        }
    }
}

fn millis_since(began: Instant) -> u64 {
    let passed = corelith_io::now().saturating_duration_since(began);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps the map while this node leads the meta shard, and answers what is asked of who does; until the node stops.
pub(crate) async fn run(neighbours: Rc<Neighbours>, asked: Receiver<MetaQuestion>) {
    let meta = Rc::new(Meta {
        neighbours,
        turn: Semaphore::new(1),
        lead: RefCell::default(),
        leads: Cell::new(0),
        wake: Notify::new(),
    });
    #[cfg(test)]
    testing::meet(&meta);
    let keeping = corelith_io::spawn(Rc::clone(&meta).keep());
    while let Ok(MetaQuestion { from, ask, told }) = asked.recv().await {
        let meta = Rc::clone(&meta);
        drop(corelith_io::spawn(async move {
            // Whoever asked may have given up.
            let _ = told.try_send(meta.answer(from, ask).await);
        }));
    }
    keeping.abort();
}

impl Meta {
    /// Keeps the map whenever this node leads its shard, for ever.
    async fn keep(self: Rc<Self>) {
        loop {
            if self.neighbours.leads_meta() {
                match self.begin().await {
                    Ok(()) => self.reconcile().await,
                    Err(error) => tracing::debug!(%error, "the cluster map is not kept here yet"),
                }
                self.lead.replace(None);
            }
            corelith_io::sleep(limits::META_LOOK_EVERY).await;
        }
    }

    async fn begin(&self) -> Result<(), KeptError> {
        let group = self.neighbours.local.get(ShardId::META);
        let group = group.ok_or(KeptError::Overtaken)?;
        let (mut kept, found) = KeptMap::read(group).await?;
        let map = match found {
            Some(map) => map,
            None => {
                let known = self.neighbours.map.now();
                let first = known.map().ok_or(KeptError::Overtaken)?;
                kept.write(first).await?;
                tracing::info!(epoch = first.epoch.0, "the cluster map begins");
                Map::clone(first)
            }
        };
        self.publish(&map).await;
        let number = self.leads.get() + 1;
        self.leads.set(number);
        let earlier = self.lead.replace(Some(Lead {
            number,
            kept: Some(kept),
            map: Rc::new(map),
            reports: Reports::new(0),
            began: corelith_io::now(),
            busy: BTreeSet::new(),
            failures: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }));
        assert!(earlier.is_none(), "one lead ends before the next begins");
        Ok(())
    }

    /// Takes steps until this lead ends.
    async fn reconcile(self: &Rc<Self>) {
        while self.neighbours.leads_meta() && self.lead.borrow().is_some() {
            let pause = match self.look().await {
                true => limits::META_LOOK_EVERY,
                false => limits::META_LOOK_AT_REST_EVERY,
            };
            let woken = self.wake.notified();
            let _ = corelith_io::timeout(pause, woken).await;
        }
    }

    /// Takes the next steps; whether there are any, or some are under way.
    async fn look(self: &Rc<Self>) -> bool {
        let (steps, is_changing) = {
            let mut lead = self.lead.borrow_mut();
            let Some(lead) = lead.as_mut() else {
                return false;
            };
            let now = millis_since(lead.began);
            lead.reports.tick(&lead.map, now);
            let steps = reconcile::next(&lead.map, &lead.reports, &PlanLimits::default());
            let mut shards = lead.map.all_shards();
            let is_changing = shards.any(|(_, shard)| shard.change.is_some());
            (steps, is_changing || !lead.busy.is_empty())
        };
        let is_busy = is_changing || !steps.is_empty();
        let mut edits = Vec::new();
        for step in steps {
            match step {
                Step::Edit(edit) => edits.push(edit),
                Step::Ask { at, shard, step } => self.begin_step(shard, at, &step),
            }
        }
        if edits.is_empty() {
            return is_busy;
        }
        for edit in &edits {
            tracing::info!(?edit, "the cluster map changes");
        }
        match self.edit(|_| Ok(edits)).await {
            Ok(_) => {}
            // Whoever leads next reads the map and plans anew.
            Err(error) if error.is_for_another_lead() => {
                tracing::debug!(%error, "the cluster map was not changed here");
            }
            Err(error) => tracing::warn!(%error, "the cluster map was not changed"),
        }
        true
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
        let ask = ask_of(shard, step);
        let meta = Rc::clone(self);
        let step = step.clone();
        #[cfg(test)]
        testing::note_step();
        drop(corelith_io::spawn(async move {
            let reply = meta.neighbours.ask_node(node, &ask).await;
            let mut lead = meta.lead.borrow_mut();
            let Some(lead) = lead.as_mut().filter(|lead| lead.number == number) else {
                return;
            };
            let was_busy = lead.busy.remove(&shard);
            assert!(was_busy, "a step of {shard} ends once");
            match reply {
                Some(NodeReply::Done { .. }) => drop(lead.failures.remove(&shard)),
                Some(NodeReply::Failed { why }) if lead.failures.get(&shard) != Some(&why) => {
                    tracing::warn!(%shard, %node, ?step, why, "a step of the shard was not taken");
                    lead.failures.insert(shard, why);
                }
                other => tracing::debug!(%shard, %node, ?step, ?other, "a step was not taken"),
            }
            // What came of it shows in a report.
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
        {
            let mut lead = self.lead.borrow_mut();
            let current = lead.as_mut().filter(|lead| lead.number == number);
            let current = current.ok_or(NotWritten::NotLeader)?;
            if let Err(error) = written {
                // Whether it was written shows when it is read again.
                *lead = None;
                return Err(error.into());
            }
            assert!(
                next.epoch > current.map.epoch,
                "the epoch rises with every write"
            );
            assert!(current.kept.is_none(), "one write at a time");
            current.kept = Some(kept);
            current.map = Rc::clone(&next);
        }
        self.publish(&next).await;
        self.wake.notify_one();
        Ok(next)
    }

    /// Has the map known.
    async fn publish(&self, map: &Map) {
        self.neighbours.news.take(map.clone()).await;
    }

    /// Answers what only the keeper of the map can; `from` is who asks.
    async fn answer(&self, from: NodeId, ask: NodeAsk) -> NodeReply {
        if self.lead.borrow().is_none() {
            // It begins to lead, or leads no more.
            return NodeReply::Busy;
        }
        match ask {
            NodeAsk::Report(report) => self.take_report(from, &report),
            NodeAsk::Register(registration) => self.register(&registration).await,
            NodeAsk::Admin { ask } => self.order(&ask).await,
            _ => NodeReply::failed("this is not for the keeper of the cluster map"),
        }
    }

    fn take_report(&self, from: NodeId, report: &corelith_wire::peer::NodeReport) -> NodeReply {
        let mut lead = self.lead.borrow_mut();
        let Some(lead) = lead.as_mut() else {
            return NodeReply::Busy;
        };
        lead.reports.now = millis_since(lead.began);
        let report = reported::report(report);
        if concerns_a_change(&lead.map, &report) {
            self.wake.notify_one();
        }
        lead.reports.take(from, report);
        NodeReply::Done {
            at: lead.map.epoch.0.into(),
        }
    }

    /// Has a node in the map as it says that it is.
    async fn register(&self, registration: &Registration) -> NodeReply {
        let edited = self.edit(|lead| may_register(lead, registration)).await;
        if let Err(NotWritten::Refused(_)) = &edited
            && let Some(lead) = self.lead.borrow_mut().as_mut()
            && lead.map.node(NodeId(registration.node)).is_some()
            && lead.waiting.len() < limits::META_WAITING_MAX
        {
            let store = StoreId(registration.store);
            lead.waiting.insert(NodeId(registration.node), store);
            assert!(lead.waiting.len() <= limits::META_WAITING_MAX);
        }
        match edited {
            Ok(map) => {
                if let Some(lead) = self.lead.borrow_mut().as_mut() {
                    lead.waiting.remove(&NodeId(registration.node));
                }
                NodeReply::Map {
                    bytes: map.encode(),
                }
            }
            Err(error) => failed(&error),
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
            Err(NotWritten::NotLeader) => return NodeReply::Busy,
            // It may have been written.
            Err(NotWritten::Kept(error)) => return NodeReply::failed(error.to_string()),
            Err(error) => ClusterAnswer::Refused {
                why: error.to_string(),
            },
        };
        NodeReply::Admin {
            answer: body_of(&answer),
        }
    }

    /// Waits until all nodes that are heard have reported to this leader, which a new one is told nothing of before, but not
    /// for long.
    async fn until_reported(&self) {
        loop {
            {
                let lead = self.lead.borrow();
                let Some(lead) = lead.as_ref() else { return };
                let awaited = awaited(&lead.map, &lead.reports, &PlanLimits::default());
                let is_awaited = awaited.iter().any(|node| self.neighbours.is_heard(*node));
                if !is_awaited || lead.began.elapsed() >= limits::REPORTS_AWAITED {
                    return;
                }
            }
            corelith_io::sleep(limits::REPORTS_LOOK_EVERY).await;
        }
    }

    async fn decide(&self, ask: &ClusterAsk) -> Result<ClusterAnswer, NotWritten> {
        if ask.order == ClusterOrder::Status {
            self.until_reported().await;
            let mut lead = self.lead.borrow_mut();
            let lead = lead.as_mut().ok_or(NotWritten::NotLeader)?;
            lead.reports.now = millis_since(lead.began);
            let me = self.neighbours.me;
            let mut view = overview(&lead.map, &lead.reports, &PlanLimits::default(), me);
            for node in &mut view.nodes {
                let waiting = lead.waiting.get(&NodeId(node.node));
                node.waiting = waiting.map_or(0, |store| store.0);
            }
            return Ok(ClusterAnswer::Status { view });
        }
        let mut told = None;
        self.edit(|lead| {
            if let ClusterOrder::Recover { lost } = &ask.order {
                let up_ms = PlanLimits::default().up_ms;
                if let Err(refusal) = orders::may_recover(&lead.map, lost, &lead.reports, up_ms) {
                    let why = refusal.to_string();
                    told = Some(ClusterAnswer::Refused { why });
                    return Ok(Vec::new());
                }
            }
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

/// An answer to an operator, as clients read it.
fn body_of(answer: &ClusterAnswer) -> Vec<u8> {
    let head = Head {
        kind: Kind::CLUSTER_ANSWER,
        request_id: RequestId(0),
        shard: ShardId(0),
        epoch: Epoch(0),
    };
    let mut out = Outbox::default();
    encode_cluster_answer(&mut out, head, answer);
    out.buffer().split_off(HEADER_BYTES).to_vec()
}

/// Whether a report may be what a change of members waits for.
fn concerns_a_change(map: &Map, report: &NodeReport) -> bool {
    let mut shards = report.leads.keys().chain(report.holds.keys());
    shards.any(|shard| map.shard(*shard).is_some_and(|of| of.change.is_some()))
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

fn failed(error: &NotWritten) -> NodeReply {
    match error {
        NotWritten::NotLeader | NotWritten::Kept(_) => NodeReply::Busy,
        NotWritten::Edit(_) | NotWritten::Refused(_) => NodeReply::failed(error.to_string()),
    }
}

/// The edits that have the map show a node as it registers, unless another machine runs as that node.
fn may_register(lead: &Lead, registration: &Registration) -> Result<Vec<MapEdit>, NotWritten> {
    let edits = registration::edits(&lead.map, registration).map_err(NotWritten::Refused)?;
    let takes_over = edits.iter().find_map(|edit| match edit {
        MapEdit::Store { node, .. } => Some(*node),
        _ => None,
    });
    let known = takes_over.and_then(|node| Some((node, lead.map.node(node)?)));
    let Some((node, known)) = known.filter(|(_, known)| known.store != StoreId::UNCLAIMED) else {
        return Ok(edits);
    };
    if (&known.host, known.port) != (&registration.host, registration.port) {
        return Err(NotWritten::Refused(format!(
            "node {0} is known at {1}:{2} with another data directory: if this machine takes its place for good, \
             `corelith cluster rejoin {0}` says so; if it is another node, leave `node.id` out",
            node.0, known.host, known.port
        )));
    }
    let reports = &lead.reports;
    let heard = reports
        .nodes
        .get(&node)
        .filter(|report| report.store == known.store);
    let silence =
        millis_since(lead.began).saturating_sub(heard.map_or(0, |report| report.heard_ms));
    if silence < limits::REJOIN_SILENCE_MS {
        return Err(NotWritten::Refused(format!(
            "node {} is known with another data directory, which was heard {silence} ms ago: if that one is gone for \
             good, wait; if two machines have this id, give one of them another",
            node.0
        )));
    }
    Ok(edits)
}
