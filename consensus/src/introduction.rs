//! How the two ends of a peer's connection get to know each other, after hello and welcome.
//!
//! The asking side says in full who it is (`INTRODUCE`), the other answers what it makes of that and who it
//! is itself (`RECEPTION`). Each side has its node judge the other ([`Admit`]). Nothing about any shard is
//! said or heard before both were found to be [`Verdict::Known`].

use crate::connection::{ConnectionError, FrameReader};
use crate::route::NodeStore;
use corelith_io::{Instant, WriteHalf};
use corelith_shards::NodeId;
use corelith_wire::peer::{self, Introduction, Reception, Verdict, kinds};
use corelith_wire::{Epoch, Frame, Head, Kind, Outbox, RequestId, ShardId, Start, StoreId};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Judges who introduces itself. What follows from [`Verdict::Known`] is durable before it is given.
pub type Admit = Rc<dyn Fn(Introduction) -> LocalBoxFuture<'static, Verdict>>;

/// Whose judgement a [`Stranger`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// This node's, of the other.
    Us,
    /// The other node's, of this one.
    Them,
}

/// A node that takes no part in what this one does, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The node that it is, or says it is.
    pub node: NodeId,
    /// Who found so.
    pub judge: Judge,
    /// What was found.
    pub verdict: Verdict,
    /// The same in words.
    pub why: String,
}

/// What this core knows of the nodes that it has met. Connections of both directions share it.
pub(crate) struct Acquaintances {
    me: Introduction,
    admit: Admit,
    /// Whether somebody else says aloud who is a stranger.
    is_quiet: bool,
    strangers: RefCell<BTreeMap<(NodeId, Judge), Stranger>>,
    /// Where nodes came from that were admitted: the address of their first core.
    places: RefCell<BTreeMap<NodeId, SocketAddr>>,
    /// The start of each node that was admitted last, and when it was heard last.
    starts: RefCell<BTreeMap<NodeId, (StoreId, Start, Instant)>>,
    /// The stores that lack what they had acknowledged, until this is written down.
    lost: RefCell<BTreeSet<NodeStore>>,
}

impl Acquaintances {
    pub(crate) fn new(me: Introduction, admit: Admit) -> Self {
        Self {
            me,
            admit,
            is_quiet: false,
            strangers: RefCell::default(),
            places: RefCell::default(),
            starts: RefCell::default(),
            lost: RefCell::default(),
        }
    }

    /// Of a core whose node has others that say the same.
    pub(crate) fn quiet(me: Introduction, admit: Admit) -> Self {
        Self {
            is_quiet: true,
            ..Self::new(me, admit)
        }
    }

    pub(crate) fn me(&self) -> &Introduction {
        &self.me
    }

    /// Who is refused, or refuses.
    pub(crate) fn strangers(&self) -> Vec<Stranger> {
        self.strangers.borrow().values().cloned().collect()
    }

    /// What `node` has made of this one last.
    pub(crate) fn said_by(&self, node: NodeId) -> Verdict {
        let strangers = self.strangers.borrow();
        let said = strangers.get(&(node, Judge::Them));
        said.map_or(Verdict::Known, |stranger| stranger.verdict)
    }

    /// Where a core of `node` listens, if it is where the node came from.
    pub(crate) fn place_of(&self, node: NodeId, core: u16) -> Option<SocketAddr> {
        let mut place = self.places.borrow().get(&node).copied()?;
        place.set_port(place.port().checked_add(core)?);
        Some(place)
    }

    /// The store and start of `node` that were admitted last, if they were heard within `limit`.
    pub(crate) fn heard_within(&self, node: NodeId, limit: Duration) -> Option<(StoreId, Start)> {
        let (store, start, heard) = self.starts.borrow().get(&node).copied()?;
        (corelith_io::now() - heard <= limit).then_some((store, start))
    }

    /// Whether `theirs` is still the start of its node that was admitted last.
    pub(crate) fn is_last(&self, theirs: &Introduction) -> bool {
        let starts = self.starts.borrow();
        let last = starts.get(&theirs.node);
        last.is_some_and(|(store, start, _)| (*store, *start) == (theirs.store, theirs.start))
    }

    /// Notes that `theirs` was heard; `false` if another start of its node was admitted since.
    pub(crate) fn hear(&self, theirs: &Introduction) -> bool {
        let is_last = self.is_last(theirs);
        if is_last && let Some((.., heard)) = self.starts.borrow_mut().get_mut(&theirs.node) {
            *heard = corelith_io::now();
        }
        is_last
    }

    /// A store was found to lack what it had acknowledged.
    pub(crate) fn found_lost(&self, store: NodeStore) {
        self.lost.borrow_mut().insert(store);
    }

    /// The stores of which that was found.
    pub(crate) fn lost(&self) -> Vec<NodeStore> {
        self.lost.borrow().iter().copied().collect()
    }

    /// It is written down that the store is excluded: connections with it end, and none is made.
    pub(crate) fn exclude(&self, store: NodeStore) {
        self.lost.borrow_mut().remove(&store);
        let mut starts = self.starts.borrow_mut();
        if starts
            .get(&store.node)
            .is_some_and(|(known, ..)| *known == store.store)
        {
            starts.remove(&store.node);
        }
    }

    /// Takes note of who was admitted elsewhere.
    pub(crate) fn met(&self, theirs: &Introduction) {
        if theirs.node != self.me.node {
            self.admitted(Verdict::Known, theirs);
        }
    }

    /// What this node makes of `theirs`, which came from the node `peer`.
    async fn judge(&self, peer: NodeId, theirs: &Introduction) -> Verdict {
        let verdict = match theirs.node == peer && peer != self.me.node {
            true => (self.admit)(*theirs).await,
            false => Verdict::NoSuchNode,
        };
        let verdict = self.admitted(verdict, theirs);
        self.note(peer, Judge::Us, verdict, theirs);
        verdict
    }

    /// Remembers whom its node has judged, unless a later start was judged meanwhile.
    fn admitted(&self, verdict: Verdict, theirs: &Introduction) -> Verdict {
        if verdict != Verdict::Known {
            return verdict;
        }
        let mut starts = self.starts.borrow_mut();
        if let Some((store, start, _)) = starts.get(&theirs.node)
            && *store == theirs.store
            && start.incarnation > theirs.start.incarnation
        {
            return Verdict::RolledBack(*start);
        }
        let news = (theirs.store, theirs.start, corelith_io::now());
        starts.insert(theirs.node, news);
        verdict
    }

    /// Remembers who is a stranger, and says so when that is new.
    fn note(&self, node: NodeId, judge: Judge, verdict: Verdict, theirs: &Introduction) {
        let mut strangers = self.strangers.borrow_mut();
        if verdict == Verdict::Known {
            strangers.remove(&(node, judge));
            return;
        }
        let why = sentence(judge, verdict, &self.me, node, theirs);
        let is_new = strangers
            .get(&(node, judge))
            .is_none_or(|known| known.why != why);
        if is_new && !self.is_quiet {
            tracing::warn!(peer = %node, "{why}");
        }
        let stranger = Stranger {
            node,
            judge,
            verdict,
            why,
        };
        strangers.insert((node, judge), stranger);
    }

    /// Introduces this node over a connection that it has opened to `peer`; returns who is there.
    pub(crate) async fn introduce(
        &self,
        peer: NodeId,
        epoch: Epoch,
        reader: &mut FrameReader,
        write: &mut WriteHalf,
    ) -> Result<Introduction, ConnectionError> {
        send(write, |out| {
            peer::encode_introduction(out, head(epoch), &self.me);
        })
        .await?;
        let frame = only_frame(reader, kinds::RECEPTION).await?;
        let Reception { verdict, by } = peer::parse_reception(&frame)?;
        self.note(peer, Judge::Them, verdict, &by);
        if verdict != Verdict::Known {
            return Err(ConnectionError::RefusesUs);
        }
        match self.judge(peer, &by).await {
            Verdict::Known => Ok(by),
            _ => Err(ConnectionError::Stranger),
        }
    }

    /// Lets `peer` introduce itself over a connection that it has opened from `address`; returns who it is.
    pub(crate) async fn receive(
        &self,
        peer: NodeId,
        address: Option<SocketAddr>,
        epoch: Epoch,
        reader: &mut FrameReader,
        write: &mut WriteHalf,
    ) -> Result<Introduction, ConnectionError> {
        let frame = only_frame(reader, kinds::INTRODUCE).await?;
        let theirs = peer::parse_introduction(&frame)?;
        let verdict = self.judge(peer, &theirs).await;
        let reception = Reception {
            verdict,
            by: self.me,
        };
        send(write, |out| {
            peer::encode_reception(out, head(epoch), &reception);
        })
        .await?;
        if verdict != Verdict::Known {
            return Err(ConnectionError::Stranger);
        }
        if let Some(mut place) = address {
            place.set_port(theirs.port);
            self.places.borrow_mut().insert(peer, place);
        }
        Ok(theirs)
    }
}

fn head(epoch: Epoch) -> Head {
    Head {
        kind: Kind(0),
        request_id: RequestId(0),
        shard: ShardId(0),
        epoch,
    }
}

async fn send(
    write: &mut WriteHalf,
    append: impl FnOnce(&mut Outbox),
) -> Result<(), ConnectionError> {
    let mut out = Outbox::default();
    append(&mut out);
    for slice in out.slices() {
        write.write_all(slice).await?;
    }
    Ok(())
}

/// The one frame that is there; nothing may follow it unasked.
async fn only_frame(reader: &mut FrameReader, kind: Kind) -> Result<Frame, ConnectionError> {
    let mut frames = reader.next().await?;
    let frame = frames.next().ok_or(ConnectionError::Closed)??;
    if frame.header.head.kind != kind {
        return Err(ConnectionError::Unexpected(frame.header.head.kind.0));
    }
    match frames.next() {
        Some(next) => Err(ConnectionError::Unexpected(next?.header.head.kind.0)),
        None => Ok(frame),
    }
}

/// A verdict in words, for whoever runs `me`; `node` is the other.
fn sentence(
    judge: Judge,
    verdict: Verdict,
    me: &Introduction,
    node: NodeId,
    theirs: &Introduction,
) -> String {
    let (whose, of) = match judge {
        Judge::Us => ("this node", node),
        Judge::Them => ("the other node", me.node),
    };
    let of_store = match judge {
        Judge::Us => theirs.store,
        Judge::Them => me.store,
    };
    match verdict {
        Verdict::Known => format!("{node} is known"),
        Verdict::OtherCluster => format!(
            "{node} is of another cluster: {}, and this node of {}",
            theirs.cluster, me.cluster
        ),
        Verdict::NoSuchNode => format!("{whose} knows no other node {of}"),
        Verdict::OtherSettings => match me.settings.difference(&theirs.settings) {
            Some(difference) => format!("{node} has other settings: {difference}"),
            None => format!("{whose} finds that the settings of {of} differ"),
        },
        Verdict::OtherStore(known) => {
            format!("{whose} knows {of} with the store {known}, and not with {of_store}")
        }
        Verdict::RolledBack(met) => format!(
            "the store {of_store} of {of} is a copy or an old state: {whose} has met start {met} of it"
        ),
        Verdict::Behind(met) => format!(
            "the store {of_store} of {of} is an old state: {whose} has met mark {met} of it"
        ),
        Verdict::LostEntries => format!(
            "the store {of_store} of {of} is an old state: it lacks entries that it had acknowledged to {whose}"
        ),
        Verdict::Removed => format!("{whose} knows that {of} was removed from the cluster"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster::introduction;
    use corelith_io::sim::Sim;
    use futures_util::FutureExt;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn theirs(store: u128, incarnation: u64, nonce: u64) -> Introduction {
        Introduction {
            start: Start { incarnation, nonce },
            ..introduction(PEER, StoreId(store))
        }
    }

    fn in_sim(work: impl FnOnce(Acquaintances) + 'static) {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let admit = Rc::new(|_| async { Verdict::Known }.boxed_local());
            work(Acquaintances::new(introduction(ME, StoreId(1)), admit));
        });
    }

    #[test]
    fn only_the_last_start_of_a_node_is_heard() {
        in_sim(|known| {
            let (first, second, third) = (theirs(7, 3, 1), theirs(7, 4, 2), theirs(7, 5, 3));
            assert!(!known.hear(&first), "never met");
            assert_eq!(known.admitted(Verdict::Known, &second), Verdict::Known);
            assert!(known.hear(&second));
            assert!(!known.hear(&first));
            let refused = Verdict::RolledBack(second.start);
            assert_eq!(known.admitted(Verdict::Known, &first), refused);
            known.met(&third);
            assert!(known.hear(&third) && !known.hear(&second));
            let other = theirs(8, 1, 1);
            let refused = Verdict::OtherStore(StoreId(7));
            assert_eq!(known.admitted(refused, &other), refused);
            assert!(known.hear(&third), "who is refused ends nothing");
            let limit = Duration::from_secs(1);
            let expected = Some((StoreId(7), third.start));
            assert_eq!(known.heard_within(PEER, limit), expected);
        });
    }

    #[test]
    fn strangers_are_told_in_one_sentence_until_they_are_known() {
        in_sim(|known| {
            let peer = theirs(7, 1, 1);
            let mut other_settings = peer;
            other_settings.settings.reads = 1;
            // (whose judgement, what, of whom, in words)
            let table = [
                (
                    Judge::Us,
                    Verdict::OtherStore(StoreId(9)),
                    peer,
                    "this node knows n2 with the store 00000000000000000000000000000009, \
                     and not with 00000000000000000000000000000007",
                ),
                (
                    Judge::Them,
                    Verdict::OtherStore(StoreId(9)),
                    peer,
                    "the other node knows n1 with the store 00000000000000000000000000000009, \
                     and not with 00000000000000000000000000000001",
                ),
                (
                    Judge::Us,
                    Verdict::OtherSettings,
                    other_settings,
                    "n2 has other settings: cluster.reads (0 is lease, 1 quorum) is 0 here and 1 there",
                ),
                (
                    Judge::Them,
                    Verdict::NoSuchNode,
                    peer,
                    "the other node knows no other node n1",
                ),
                (
                    Judge::Us,
                    Verdict::RolledBack(Start {
                        incarnation: 4,
                        nonce: 0,
                    }),
                    peer,
                    "the store 00000000000000000000000000000007 of n2 is a copy or an old state: \
                     this node has met start 4 of it",
                ),
            ];
            for (judge, verdict, of, expected) in table {
                known.note(PEER, judge, verdict, &of);
                let strangers = known.strangers();
                let [stranger] = strangers.as_slice() else {
                    panic!("{strangers:?}");
                };
                assert_eq!((stranger.node, stranger.judge), (PEER, judge));
                assert_eq!(
                    (stranger.verdict, stranger.why.as_str()),
                    (verdict, expected)
                );
                known.note(PEER, judge, Verdict::Known, &of);
                assert_eq!(known.strangers(), []);
            }
        });
    }
}
