//! What a node does before it opens its shards: it finds out who the cluster is, or forms it with the other
//! first nodes, and whether it is one of it. Until then it takes part in nothing. Runs on the first core.

use super::{desk::Desk, exchange};
use crate::node::cluster::formation::{Proposer, Spread, majority};
use crate::node::cluster::judge::KnownNode;
use crate::node::cluster::map::Map;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::Placement;
use crate::node::cluster::standing::{
    Exclusion, Standing, claim, difference, exclusion, standing, waits_for_existing,
};
use crate::node::data_dir::identity::{Identity, IdentityError};
use crate::node::data_dir::keeper::{IdentityKeeper, is_of};
use crate::node::data_dir::map_file;
use crate::node::error::NodeError;
use crate::node::limits;
use bytes::BytesMut;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{Instant, TcpListener, TcpStream};
use corelith_wire::handshake::{Role, Status, Welcome};
use corelith_wire::peer::{
    Charter, FormationAnswer, FormationReply, FormationStep, Introduction, JoinPlace, Verdict,
};
use corelith_wire::{Epoch, FullClusterId, NodeId, StoreId};
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

type Replies = BTreeMap<NodeId, FormationReply>;

/// See the module.
pub(crate) struct Joining {
    keeper: Rc<IdentityKeeper>,
    desk: Rc<Desk>,
    /// Where the others are, and who: the first nodes, or all that the map known last has.
    map: Rc<MapWatch>,
    /// The first nodes, ascending.
    first: Vec<NodeId>,
    /// Where this node is.
    place: JoinPlace,
    spread: Spread,
    dir: String,
    /// The cluster was formed before: this node takes part in forming none.
    is_existing: bool,
    told: RefCell<Option<(String, Instant)>>,
    /// Since when a majority is there.
    since: Cell<Option<Instant>>,
    /// Looks in which another node was to propose.
    looks: Cell<usize>,
}

impl Joining {
    pub(crate) fn new(
        (keeper, desk): (Rc<IdentityKeeper>, Rc<Desk>),
        map: Rc<MapWatch>,
        place: JoinPlace,
        spread: Spread,
        dir: String,
        is_existing: bool,
    ) -> Self {
        let first = keeper.identity().nodes;
        Self {
            keeper,
            desk,
            map,
            first,
            place,
            spread,
            dir,
            is_existing,
            told: RefCell::default(),
            since: Cell::default(),
            looks: Cell::default(),
        }
    }

    /// Returns once the node is one of a cluster: as whom, and what the cluster is.
    ///
    /// # Errors
    /// `Removed` if the node is none of the cluster any more, which it never is again with this directory; `Identity` if the
    /// directory cannot be written to.
    pub(crate) async fn join(&self) -> Result<(Introduction, Charter), NodeError> {
        let mut pause = limits::FORMATION_PAUSE_MIN;
        loop {
            self.desk.introduce_as(self.keeper.me());
            let step = match self.keeper.excluded() {
                Some(_) => FormationStep::Stranger,
                None => FormationStep::Who,
            };
            let replies = self.ask_others(&step, |_| true).await;
            self.learn(&replies).await?;
            if self.keeper.formation().charter.is_none() {
                if self.is_existing {
                    let me = self.desk.me().node;
                    let mut all = self.differences(&replies);
                    all.push(waits_for_existing(&self.dir, me, &self.first));
                    self.say(all.join("; "), false);
                } else {
                    self.form(&replies).await?;
                }
            }
            let me = self.keeper.me();
            if let Some(charter) = self.keeper.formation().charter {
                let known = self.keeper.known(me.node).unwrap_or(KnownNode::None);
                let map = self.keeper.map();
                let names_me =
                    |map: &Arc<Map>| map.node(me.node).is_some_and(|n| n.store == me.store);
                let mapped = map.filter(names_me).map(|map| {
                    let nodes = map.live_nodes().map(|(node, _)| node);
                    nodes.collect::<Vec<_>>()
                });
                let known = (&charter, known, mapped.as_deref());
                match self.keeper.excluded() {
                    Some(Exclusion::Removed) => {
                        let why = exclusion(&self.dir, &me, Exclusion::Removed);
                        return Err(NodeError::Removed { why });
                    }
                    Some(excluded) => {
                        self.say(exclusion(&self.dir, &me, excluded), true);
                        if matches!(excluded, Exclusion::OtherStore(_)) && self.rejoin().await? {
                            continue;
                        }
                    }
                    None => match standing(&me, known, &replies) {
                        Standing::Member => return Ok((me, charter)),
                        Standing::Waits(why) => self.say(why, false),
                        Standing::Excluded(excluded) => {
                            self.keeper.exclude(excluded).await;
                            continue;
                        }
                    },
                }
            }
            corelith_io::sleep(jittered(pause)).await;
            pause = (pause * 2).min(limits::FORMATION_PAUSE_MAX);
        }
    }

    /// Asks all others that `is_asked`, at once; who does not answer in time is left out.
    async fn ask_others(&self, step: &FormationStep, is_asked: impl Fn(NodeId) -> bool) -> Replies {
        let me = self.desk.me().node;
        let mapped = self.map.now();
        let mapped = mapped.members().iter().map(|member| member.id);
        let others: BTreeSet<NodeId> = self.first.iter().copied().chain(mapped).collect();
        let asked = others
            .into_iter()
            .filter(|node| *node != me && is_asked(*node));
        let asked = asked.map(|node| async move {
            let limit = limits::FORMATION_ASK_DEADLINE;
            let reply = self.desk.ask(node, step.clone(), limit).await;
            reply.map(|reply| (node, reply))
        });
        let replies = join_all(asked).await.into_iter().flatten();
        replies.filter(|(_, reply)| self.is_sound(reply)).collect()
    }

    fn is_sound(&self, reply: &FormationReply) -> bool {
        match &reply.answer {
            FormationAnswer::Unformed { accepted, .. } => {
                let charter = accepted.as_ref().map(|(_, charter)| charter);
                charter.is_none_or(|charter| is_of(charter, &self.first))
            }
            // Of another cluster, whose nodes may be others.
            _ => true,
        }
    }

    /// Takes over what the cluster is from those who know, unless they say that this node has no place
    /// there.
    async fn learn(&self, replies: &Replies) -> Result<(), IdentityError> {
        for reply in replies.values() {
            if let FormationAnswer::Formed { charter, verdict } = &reply.answer
                && !matches!(
                    verdict,
                    Verdict::OtherCluster | Verdict::NoSuchNode | Verdict::OtherSettings
                )
                && is_of(charter, &self.first)
            {
                let me = self.desk.me().node;
                self.keeper
                    .change(|identity| {
                        if identity.formation.charter.is_none() {
                            identity.excluded = identity.excluded.or(claim(me, charter));
                        }
                        identity.formation = identity.formation.told(charter);
                    })
                    .await?;
            }
        }
        Ok(())
    }

    /// Asks the others to take this node in again, with its store, which is blank; whether they have.
    async fn rejoin(&self) -> Result<bool, IdentityError> {
        if !self.keeper.is_blank() {
            return Ok(false);
        }
        let step = FormationStep::Join(self.place.clone());
        let replies = self.ask_others(&step, |_| true).await;
        let me = self.desk.me();
        for reply in replies.into_values() {
            match reply.answer {
                FormationAnswer::Joined { node, map, .. }
                    if node == me.node && self.adopt(&map).await? =>
                {
                    tracing::info!(store = %me.store, "the cluster has taken this node in again");
                    return Ok(true);
                }
                FormationAnswer::Declined(why) => {
                    tracing::debug!(why, "the node is not taken in again");
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Goes by a map that names this node's store.
    async fn adopt(&self, bytes: &[u8]) -> Result<bool, IdentityError> {
        let me = self.keeper.me();
        let Ok(map) = Map::decode(bytes) else {
            return Ok(false);
        };
        let is_named = map.node(me.node).is_some_and(|node| node.store == me.store);
        if !is_named || map.cluster != me.cluster {
            return Ok(false);
        }
        // Durable before the directory is known to the cluster, so that the next start does not ask again.
        if let Err(error) = map_file::write(Path::new(&self.dir), &map).await {
            tracing::warn!(%error, "the cluster map cannot be written down");
        }
        // Its replicas are other ones than those of the founding.
        self.keeper
            .change(|identity| {
                identity.excluded = None;
                identity.found([]);
            })
            .await?;
        let map = Arc::new(map);
        let placement = Placement::of_map(me.node, self.place.cores, Arc::clone(&map));
        self.keeper.know(map);
        self.map.take(Arc::new(placement));
        Ok(true)
    }

    /// Proposes a charter if enough of the first nodes are there and it is this one's turn.
    async fn form(&self, replies: &Replies) -> Result<(), IdentityError> {
        let own = self.keeper.formation();
        let mut present = vec![self.desk.me().node];
        let mut seen = own.promised.round;
        let mut is_bound = own.accepted.is_some();
        for (node, reply) in replies {
            if let FormationAnswer::Unformed { promised, accepted } = &reply.answer {
                is_bound |= accepted.is_some();
                present.push(*node);
                seen = seen.max(promised.round);
            }
        }
        present.sort();
        let is_served = self
            .spread
            .is_served(&self.first, |node| present.contains(&node));
        if present.len() < majority(self.first.len()) || !(is_served || is_bound) {
            self.since.set(None);
            self.say(self.waits_for(&present, replies), false);
            return Ok(());
        }
        let now = corelith_io::now();
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        if present.len() < self.first.len() && now - since < limits::FORMATION_GRACE {
            return Ok(());
        }
        // One after the other, so that they seldom get in each other's way.
        let before = present.iter().position(|node| *node == self.desk.me().node);
        let looks = self.looks.get();
        if looks < 3 * before.unwrap_or_default() {
            self.looks.set(looks + 1);
            return Ok(());
        }
        self.looks.set(0);
        self.propose(seen).await
    }

    async fn propose(&self, seen: u64) -> Result<(), IdentityError> {
        let Introduction { node, store, .. } = self.desk.me();
        let mut proposer = Proposer::new(self.first.clone(), self.spread, store, seen);
        let ballot = proposer.ballot();
        let prepare = FormationStep::Prepare(ballot);
        let promise = |identity: &mut Identity| {
            identity.formation = identity.formation.after(&prepare, node, store);
        };
        self.keeper.change(promise).await?;
        let own = self.keeper.formation();
        proposer.promise(node, store, own.promised, own.accepted);
        let replies = self.ask_others(&prepare, |_| true).await;
        self.learn(&replies).await?;
        for (from, reply) in replies {
            if let FormationAnswer::Unformed { promised, accepted } = reply.answer {
                proposer.promise(from, reply.by.store, promised, accepted);
            }
        }
        let Some(charter) = proposer.settle(new_cluster()).cloned() else {
            return Ok(());
        };
        let accept = FormationStep::Accept(ballot, charter.clone());
        let is_named = |node| charter.store_of(node) != Some(StoreId::UNCLAIMED);
        for (from, reply) in self.ask_others(&accept, is_named).await {
            if let FormationAnswer::Unformed { accepted, .. } = reply.answer {
                proposer.accept(from, reply.by.store, accepted.map(|(ballot, _)| ballot));
            }
        }
        if let Some(charter) = proposer.decision(node, store) {
            self.keeper
                .change(|identity| {
                    if let Some(decided) = identity.formation.decided(ballot, charter) {
                        identity.formation = decided;
                    }
                })
                .await?;
            tracing::info!(cluster = %charter.cluster, "the cluster is formed");
        }
        Ok(())
    }

    /// For whom the formation waits.
    fn waits_for(&self, present: &[NodeId], replies: &Replies) -> String {
        let differences = self.differences(replies);
        // Those are of a cluster that is formed.
        let is_formed = replies.values().any(|reply| reply.by.cluster.0 != 0);
        if is_formed && !differences.is_empty() {
            return differences.join("; ");
        }
        let absent = self.first.iter().filter(|node| !present.contains(node));
        let absent: Vec<String> = absent.map(|node| node.0.to_string()).collect();
        let nodes = if absent.len() == 1 { "node" } else { "nodes" };
        let needed = majority(self.first.len());
        let needed = match present.len() < needed {
            true => format!("{needed} are needed"),
            false => "some shards have no majority of their replicas".to_owned(),
        };
        let mut text = format!(
            "the cluster is not formed yet: {} of {} nodes are there and {needed}; waiting for {nodes} {}",
            present.len(),
            self.first.len(),
            absent.join(", ")
        );
        for difference in differences {
            text += "; ";
            text += &difference;
        }
        text
    }

    /// Why the nodes that refuse this one do so.
    fn differences(&self, replies: &Replies) -> Vec<String> {
        let me = self.keeper.me();
        let differences = replies
            .iter()
            .filter_map(|(node, reply)| match &reply.answer {
                FormationAnswer::Refused(verdict) | FormationAnswer::Formed { verdict, .. } => {
                    Some(difference(&me, *node, &reply.by, *verdict))
                }
                FormationAnswer::Unformed { .. }
                | FormationAnswer::Named(_)
                | FormationAnswer::Joined { .. }
                | FormationAnswer::Declined(_) => None,
            });
        differences.collect()
    }

    /// Says what the node waits for, or that it is none of the cluster: when that is new, and again rarely.
    fn say(&self, text: String, is_final: bool) {
        let mut told = self.told.borrow_mut();
        let is_known = told
            .as_ref()
            .is_some_and(|(said, at)| *said == text && at.elapsed() < limits::FORMATION_TOLD_EVERY);
        if !is_known {
            match is_final {
                true => tracing::error!("{text}"),
                false => tracing::warn!("{text}"),
            }
            *told = Some((text, corelith_io::now()));
        }
    }
}

fn new_cluster() -> FullClusterId {
    let high = u128::from(corelith_io::random_u64());
    let low = u128::from(corelith_io::random_u64().max(1));
    FullClusterId(high << 64 | low)
}

fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(corelith_io::random_u64() >> 48).unwrap_or(0);
    pause / 2 + pause * random / 65_536
}

/// Answers other nodes that ask about the cluster, while this one serves nothing yet; clients are told to
/// come back.
pub(crate) async fn receive(listener: &TcpListener, desk: &Rc<Desk>) -> Infallible {
    let places = Semaphore::new(limits::STRANGERS_PER_CORE_MAX);
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let Some(place) = places.try_acquire(1) else {
                    continue;
                };
                let desk = Rc::clone(desk);
                corelith_io::spawn(async move {
                    let answering = answer(stream, &desk);
                    // Whoever is too slow asks again.
                    let _ = corelith_io::timeout(limits::HANDSHAKE_DEADLINE, answering).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                corelith_io::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, desk: &Desk) -> Option<()> {
    let (mut read, mut write) = stream.into_split();
    let mut buffer = BytesMut::with_capacity(limits::HANDSHAKE_BUFFER_BYTES);
    let hello = exchange::hello(&mut read, &mut buffer).await?;
    let me = desk.me();
    let mut welcome = Welcome::answer(&hello, me.cluster.short(), Epoch(1), me.node, 0);
    if hello.role != Role::Formation {
        // Neither is what this node is of another cluster, nor can it serve.
        welcome.status = Status::Busy;
    }
    write.write_all(&welcome.encode()).await.ok()?;
    if welcome.status != Status::Welcome {
        return None;
    }
    exchange::serve(&mut read, &mut write, &mut buffer, |ask| desk.answer(ask)).await
}
