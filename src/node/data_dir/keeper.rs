//! Keeps the identity of a data directory while a node runs on it, and answers what depends on it.
//!
//! Invariants:
//! * One change is written at a time, each on top of the one before.
//! * Nothing is answered before what follows from it is durable. While it cannot be written, nothing is
//!   answered.

#[cfg(test)]
mod tests;

use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::judge::{Judgement, KnownNode, judge, known};
use crate::node::cluster::map::Map;
use crate::node::cluster::standing::{Exclusion, refusal};
use crate::node::data_dir::identity::{
    self, DataDir, HeldShard, Identity, IdentityError, ShardNote,
};
use crate::node::limits;
use corelith_consensus::{Liveness, ToldMark as Told};
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{Instant, Receiver, Sender};
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::{
    Charter, FormationAnswer, FormationAsk, FormationReply, FormationStep, Introduction, JoinPlace,
    Settings, Verdict,
};
use corelith_wire::{FullClusterId, Start, StoreId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the cores of a node ask of it.
pub(crate) enum KeeperAsk {
    /// Note this of shards.
    Note {
        note: ShardNote,
        told: Sender<Result<(), IdentityError>>,
    },
    /// Who is that?
    Judge {
        them: Introduction,
        earlier: Earlier,
        told: Sender<Judged>,
    },
    /// Answer this question of another node.
    Form {
        ask: Box<FormationAsk>,
        earlier: Earlier,
        told: Sender<Formed>,
    },
    /// Remember what other nodes say of the store.
    Exclude {
        excluded: Exclusion,
        told: Sender<()>,
    },
    /// Remember that this store of that node lacks what it had acknowledged.
    Lost {
        node: NodeId,
        store: StoreId,
        told: Sender<()>,
    },
    /// Take this node in.
    Join(JoinQuestion),
    /// Which nodes are refused, and why?
    Strangers(Sender<Vec<RefusedNode>>),
}

/// Somebody asks whether it may take part.
pub(crate) struct JoinQuestion {
    pub(crate) ask: Box<FormationAsk>,
    pub(crate) place: JoinPlace,
    pub(crate) told: Sender<FormationReply>,
}

/// What is known of an earlier start of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// Nobody has looked.
    Unknown,
    /// It does not answer, and was one of this store's as far as that can be told.
    Gone,
    /// That one runs, or was never one of this directory's.
    Runs(Start),
}

/// What a judge says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judged {
    /// This.
    Given(Verdict),
    /// It depends on whether that earlier start runs.
    Doubt(Start),
}

/// The answer to a question about the formation.
pub(crate) enum Formed {
    /// This.
    Reply(Box<FormationReply>),
    /// See [`Judged::Doubt`].
    Doubt(Start),
}

/// A node that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedNode {
    pub(crate) node: NodeId,
    pub(crate) why: String,
}

/// See the module. Belongs to the first core.
pub(crate) struct IdentityKeeper {
    dir: PathBuf,
    start: Introduction,
    /// The cluster was formed before.
    is_existing: bool,
    identity: RefCell<Identity>,
    /// The newest cluster map.
    map: RefCell<Option<Arc<Map>>>,
    /// Who takes nodes in, once this node is one of the cluster.
    joins: RefCell<Option<Sender<JoinQuestion>>>,
    writing: Semaphore,
    /// The nodes that are refused: why, and when they have come last.
    strangers: RefCell<BTreeMap<NodeId, (String, Instant)>>,
}

impl IdentityKeeper {
    /// Keeps an open directory, for a node that introduces itself as `me`, in a cluster that forms or `is_existing`.
    /// It writes to the directory: it must be closed before the lock is gone.
    pub(crate) fn new(
        dir: &Path,
        opened: &DataDir,
        me: Introduction,
        is_existing: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            dir: dir.to_owned(),
            start: me,
            is_existing,
            identity: RefCell::new(opened.identity.clone()),
            map: RefCell::default(),
            joins: RefCell::default(),
            writing: Semaphore::new(1),
            strangers: RefCell::default(),
        })
    }

    /// How the node introduces itself now.
    pub(crate) fn me(&self) -> Introduction {
        let identity = self.identity.borrow();
        let charter = identity.formation.charter.as_ref();
        let settings = Settings::new(identity.shards, identity.replicas, identity.reads.into());
        Introduction {
            cluster: charter.map(|charter| charter.cluster).unwrap_or_default(),
            node: identity.node,
            settings,
            ..self.start
        }
    }

    /// The newest map is this one.
    pub(crate) fn know(&self, map: Arc<Map>) {
        *self.map.borrow_mut() = Some(map);
    }

    /// The newest map.
    pub(crate) fn map(&self) -> Option<Arc<Map>> {
        self.map.borrow().clone()
    }

    /// Who takes nodes in from now on.
    pub(crate) fn pass_joins_to(&self, joins: Sender<JoinQuestion>) {
        *self.joins.borrow_mut() = Some(joins);
    }

    /// What is known of a node; `None` before the cluster is.
    pub(crate) fn known(&self, node: NodeId) -> Option<KnownNode> {
        let charter = self.formation().charter?;
        Some(known(&charter, self.map().as_deref(), node))
    }

    /// Whether nothing was ever kept on the store but its identity.
    pub(crate) fn is_blank(&self) -> bool {
        self.identity.borrow().held.is_empty()
    }

    /// What the identity is now.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// What is known of the formation.
    pub(crate) fn formation(&self) -> Acceptor {
        self.identity.borrow().formation.clone()
    }

    /// What others have said against the store.
    pub(crate) fn excluded(&self) -> Option<Exclusion> {
        self.identity.borrow().excluded
    }

    /// The shards that the store has, or had.
    pub(crate) fn held(&self) -> BTreeMap<ShardId, HeldShard> {
        self.identity.borrow().held.clone()
    }

    /// Changes the identity, durably.
    ///
    /// # Errors
    /// The file could not be written, and nothing has changed.
    pub(crate) async fn change(
        &self,
        change: impl FnOnce(&mut Identity),
    ) -> Result<(), IdentityError> {
        let _alone = self.writing.acquire(1).await;
        let mut next = self.identity.borrow().clone();
        change(&mut next);
        let is_same = *self.identity.borrow() == next;
        if !is_same {
            identity::write(&self.dir, &next).await?;
            *self.identity.borrow_mut() = next;
        }
        Ok(())
    }

    /// Waits for the change that is being written; none follows.
    pub(crate) async fn close(&self) {
        std::mem::forget(self.writing.acquire(1).await);
    }

    /// As [`IdentityKeeper::change`], as soon as it can be written.
    async fn change_at_last(&self, change: impl Fn(&mut Identity)) {
        while let Err(error) = self.change(&change).await {
            tracing::warn!(%error, "cannot write the identity of the data directory, trying again");
            corelith_io::sleep(limits::IDENTITY_RETRY).await;
        }
    }

    /// Once no promise that an earlier start may have given binds this one any more, writes down that none is
    /// longer than `promise`.
    pub(crate) async fn forget_longer_promises(
        self: Rc<Self>,
        liveness: Arc<Liveness>,
        promise: Duration,
    ) {
        while let Some(until) = liveness.embargo_until() {
            corelith_io::sleep_until(until).await;
        }
        let longest = identity::in_ms(promise);
        assert!(
            self.identity.borrow().promise_ms_max >= longest,
            "what this start promises was written down before"
        );
        self.change_at_last(|identity| identity.promise_ms_max = longest)
            .await;
    }

    /// Raises the mark of the store from time to time while another node is heard, and tells it; writes down the marks
    /// that others tell. A copy that nobody hears, and an old state, so raise none.
    pub(crate) async fn keep_marks(self: Rc<Self>, liveness: Arc<Liveness>) {
        liveness.tell_mark(self.identity.borrow().mark);
        let mut raised = corelith_io::now();
        loop {
            corelith_io::sleep(limits::MARK_LOOK).await;
            let told = liveness.marks();
            let is_heard = told.iter().any(|told| told.silent < limits::MARK_EVERY);
            let is_due = is_heard && raised.elapsed() >= limits::MARK_EVERY;
            if is_due {
                raised = corelith_io::now();
            }
            // Once for all of it, so that no store makes another one's disk busy.
            self.change_at_last(|identity| {
                if is_due {
                    identity.mark = identity.mark.next();
                }
                for Told {
                    node, store, mark, ..
                } in &told
                {
                    let met = identity.met.get_mut(node);
                    if let Some(met) = met.filter(|met| met.store == *store) {
                        met.mark = met.mark.max(*mark);
                    }
                }
            })
            .await;
            liveness.tell_mark(self.identity.borrow().mark);
        }
    }

    /// Writes the identity anew whenever it is not on disk as it is in memory.
    pub(crate) async fn keep_whole(self: Rc<Self>, every: Duration) {
        loop {
            corelith_io::sleep(every).await;
            let _alone = self.writing.acquire(1).await;
            let kept = self.identity.borrow().clone();
            let why = match identity::read(&self.dir).await {
                Ok(Some(found)) if found == kept => continue,
                Ok(Some(_)) => "it is another one".to_owned(),
                Ok(None) => "it is gone".to_owned(),
                Err(error) => error.to_string(),
            };
            let dir = self.dir.display();
            match identity::write(&self.dir, &kept).await {
                Ok(()) => {
                    tracing::warn!(%dir, why, "the identity of the data directory was damaged, and is written anew");
                }
                Err(error) => {
                    tracing::warn!(%dir, why, %error, "the identity of the data directory is damaged, and cannot be written");
                }
            }
        }
    }

    /// Answers what the cores of the node ask, until all of them have ended.
    pub(crate) async fn keep(self: Rc<Self>, asked: Receiver<KeeperAsk>) {
        while let Ok(asked) = asked.recv().await {
            // Whoever asked may have given up, or failed.
            match asked {
                KeeperAsk::Note { note, told } => {
                    let noted = self.change(|identity| identity.note(&note)).await;
                    let _ = told.try_send(noted);
                }
                KeeperAsk::Strangers(told) => {
                    let mut strangers = self.strangers.borrow_mut();
                    // Who does not come any more is nobody's concern.
                    strangers.retain(|_, (_, last)| last.elapsed() < limits::STRANGER_SHOWN);
                    let all = strangers.iter().map(|(node, (why, _))| RefusedNode {
                        node: *node,
                        why: why.clone(),
                    });
                    let _ = told.try_send(all.collect());
                }
                KeeperAsk::Exclude { excluded, told } => {
                    let keeper = Rc::clone(&self);
                    corelith_io::spawn(async move {
                        keeper.exclude(excluded).await;
                        let _ = told.try_send(());
                    });
                }
                KeeperAsk::Lost { node, store, told } => {
                    let keeper = Rc::clone(&self);
                    corelith_io::spawn(async move {
                        let has_lost = |identity: &mut Identity| {
                            let met = identity.met.get_mut(&node);
                            if let Some(met) = met.filter(|met| met.store == store) {
                                met.has_lost = true;
                            }
                        };
                        keeper.change_at_last(has_lost).await;
                        let _ = told.try_send(());
                    });
                }
                KeeperAsk::Judge {
                    them,
                    earlier,
                    told,
                } => {
                    let keeper = Rc::clone(&self);
                    corelith_io::spawn(async move {
                        let _ = told.try_send(keeper.judge(&them, earlier).await);
                    });
                }
                KeeperAsk::Join(question) => self.pass_join(question),
                KeeperAsk::Form { ask, earlier, told } => {
                    let keeper = Rc::clone(&self);
                    corelith_io::spawn(async move {
                        let _ = told.try_send(keeper.form(*ask, earlier).await);
                    });
                }
            }
        }
    }

    fn pass_join(&self, question: JoinQuestion) {
        let told = question.told.clone();
        let joins = self.joins.borrow().clone();
        let is_passed = joins.is_some_and(|joins| joins.try_send(question).is_ok());
        if !is_passed {
            let why = "this node takes no others in now: it is starting, or too many ask at once"
                .to_owned();
            let declined = FormationReply {
                by: self.me(),
                answer: FormationAnswer::Declined(why),
            };
            // Whoever asked may have given up.
            let _ = told.try_send(declined);
        }
    }

    /// Remembers what others have said against the store.
    pub(crate) async fn exclude(&self, exclusion: Exclusion) {
        self.change_at_last(|identity| {
            identity.excluded.get_or_insert(exclusion);
        })
        .await;
    }

    async fn judge(&self, them: &Introduction, earlier: Earlier) -> Judged {
        let Some(charter) = self.formation().charter else {
            return Judged::Given(Verdict::OtherCluster);
        };
        let me = self.me();
        loop {
            let met = self.identity.borrow().met.get(&them.node).copied();
            // Whom a stranger has met says nothing.
            let met = met.filter(|_| !self.is_stranger(&charter));
            let is_alone = earlier == Earlier::Gone;
            let verdict = match judge(&me, (&charter, self.map().as_deref()), met, is_alone, them) {
                Judgement::Known => Verdict::Known,
                Judgement::Refuse(verdict) => verdict,
                Judgement::Doubt(start) => match earlier {
                    Earlier::Runs(start) => Verdict::RolledBack(start),
                    Earlier::Unknown | Earlier::Gone => return Judged::Doubt(start),
                },
                Judgement::Meet(_) if self.is_stranger(&charter) => Verdict::Known,
                Judgement::Meet(now) => {
                    self.change_at_last(|identity| {
                        // Unless another start was met while this one waited for its turn.
                        if identity.met.get(&them.node).copied() == met {
                            if identity.met.len() >= limits::NODES_MET_MAX {
                                identity.met.retain(|node, _| self.is_node(*node));
                            }
                            identity.met.insert(them.node, now);
                        }
                    })
                    .await;
                    continue;
                }
            };
            self.note(&me, them, verdict);
            return Judged::Given(verdict);
        }
    }

    /// What to answer a node that was refused and knows it. Whatever start it is at must not be remembered: its
    /// store may be that of another one, which belongs here.
    fn see(&self, me: &Introduction, charter: &Charter, them: &Introduction) -> Verdict {
        let met = self.identity.borrow().met.get(&them.node).copied();
        let verdict = match judge(me, (charter, self.map().as_deref()), met, false, them) {
            Judgement::Refuse(verdict) => verdict,
            Judgement::Doubt(start) => Verdict::RolledBack(start),
            Judgement::Known | Judgement::Meet(_) => Verdict::RolledBack(them.start),
        };
        self.note(me, them, verdict);
        verdict
    }

    fn is_stranger(&self, charter: &Charter) -> bool {
        let identity = self.identity.borrow();
        let map = self.map();
        let is_named = match known(charter, map.as_deref(), identity.node) {
            KnownNode::Store(StoreId::UNCLAIMED | StoreId::ANY) => true,
            KnownNode::Store(store) => store == identity.store,
            KnownNode::None | KnownNode::Removed => false,
        };
        identity.excluded.is_some() || !is_named
    }

    /// Remembers whom the node refuses, and says so when that is new.
    fn note(&self, me: &Introduction, them: &Introduction, verdict: Verdict) {
        let mut strangers = self.strangers.borrow_mut();
        if verdict == Verdict::Known {
            strangers.remove(&them.node);
            return;
        }
        // Whoever says it is a node that there is not has no place among them.
        let is_node = self.is_node(them.node);
        let why = refusal(me, them, verdict);
        if is_node {
            let now = corelith_io::now();
            let before = strangers.insert(them.node, (why.clone(), now));
            if before.is_none_or(|(said, _)| said != why) {
                tracing::warn!("{why}");
            }
        }
    }

    /// Whether the cluster has that node, or had it.
    fn is_node(&self, node: NodeId) -> bool {
        let map = self.map();
        let is_mapped = map.is_some_and(|map| map.nodes.contains_key(&node));
        is_mapped || self.identity.borrow().nodes.contains(&node)
    }

    async fn form(&self, ask: FormationAsk, earlier: Earlier) -> Formed {
        if ask.step == FormationStep::Name {
            let starts = self.identity.borrow().starts;
            return self.reply(FormationAnswer::Named(starts));
        }
        let (nodes, name) = {
            let identity = self.identity.borrow();
            (identity.nodes.clone(), identity.name)
        };
        let me = self.me();
        let refused = if ask.name != name {
            Some(Verdict::OtherCluster)
        } else if ask.from.node == me.node || !self.is_node(ask.from.node) {
            Some(Verdict::NoSuchNode)
        } else {
            let differs = me.settings != ask.from.settings;
            differs.then_some(Verdict::OtherSettings)
        };
        if let Some(verdict) = refused {
            self.note(&me, &ask.from, verdict);
            return self.reply(FormationAnswer::Refused(verdict));
        }
        let is_sound = match &ask.step {
            FormationStep::Accept(_, charter) => is_of(charter, &nodes),
            _ => true,
        };
        // A node of another cluster is told so. One whose cluster was formed before promises and accepts nothing.
        if is_sound
            && !self.is_existing
            && self.formation().charter.is_none()
            && ask.from.cluster.0 == 0
        {
            self.change_at_last(|identity| {
                let next = identity
                    .formation
                    .after(&ask.step, identity.node, identity.store);
                identity.formation = next;
            })
            .await;
        }
        let Acceptor {
            promised,
            accepted,
            charter,
        } = self.formation();
        let Some(charter) = charter else {
            return self.reply(FormationAnswer::Unformed { promised, accepted });
        };
        if ask.step == FormationStep::Stranger {
            let verdict = self.see(&me, &charter, &ask.from);
            return self.reply(FormationAnswer::Formed { charter, verdict });
        }
        // A node that knows of no cluster asks whether it belongs to this one.
        let cluster = match ask.from.cluster {
            FullClusterId(0) => charter.cluster,
            cluster => cluster,
        };
        let them = Introduction {
            cluster,
            ..ask.from
        };
        match self.judge(&them, earlier).await {
            Judged::Given(verdict) => self.reply(FormationAnswer::Formed { charter, verdict }),
            Judged::Doubt(start) => Formed::Doubt(start),
        }
    }

    fn reply(&self, answer: FormationAnswer) -> Formed {
        let by = self.me();
        Formed::Reply(Box::new(FormationReply { by, answer }))
    }
}

/// Whether a charter is one of a cluster of these nodes.
pub(crate) fn is_of(charter: &Charter, nodes: &[NodeId]) -> bool {
    let named = charter.stores.iter().map(|(node, _)| node);
    named.eq(nodes) && charter.cluster.0 != 0
}
