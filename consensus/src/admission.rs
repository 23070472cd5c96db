//! What a peer may say: everything that comes from another node is held against what a correct node
//! could send, before openraft sees it. openraft trusts its peers; a wrong field would end it or
//! stay for ever.
//!
//! The functions are pure: they take a message and what this replica knows, and give a [`Refusal`]
//! or what may be handed on. A refused message changes nothing here.
//!
//! How far a term may rise ([`TERM_STEP_MAX`]): a term rises by one with each real election, and pre-votes keep
//! nodes that nobody hears from holding any. With the shortest legal timers (30 ms) a node would have
//! to be away through six days of failed elections without a pause to meet a step of 2^24, with
//! the default ones through three months. So a node finds back, and a wrong term moves a group by
//! little: it takes 65,536 such messages, each adopted after the other, to reach [`TERM_MAX`], beyond
//! which no election could follow. A node that hears of neither while two such messages move the others
//! does not find back: each term of theirs is out of its reach.
//!
//! Invariants of what is admitted:
//! * A vote names a replica of the node at the other end of the connection.
//! * Terms and indexes are far from overflow, and no log id is newer than the vote it came with.
//! * Log ids of an append follow each other, in index and in (term, replica), and entries are of replicas.
//! * Memberships of one append follow each other by single steps, and none has another store for a replica.
//! * Nothing that is committed here is contradicted, and no leader contradicts what it has shown: openraft
//!   would cut entries that it has acknowledged.
//! * The commit index lies within what this leader has shown: what it says beyond is cut, since
//!   every append carries it anew.

mod answer;
mod line;
mod reach;

use crate::command::{Parsed, kind};
use crate::limits::{INDEX_MAX, TERM_MAX, TERM_STEP_MAX};
use crate::membership;
use crate::steps;
use crate::stores::Stores;
use crate::types::{Membership, Payload};
use crate::uploads::entry;
use bytes::Bytes;
use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, Term};
use corelith_wire::StoreId;
use corelith_wire::peer::{AppendHead, PeerEntry, PeerVote, Transfer, VoteAsk};
use corelith_wire::request::OpenSession;

pub(crate) use answer::{Sent, append_answer, read_point, snapshot_answer, vote_answer};
pub(crate) use line::{AppendPlace, HeldLog, LeaderLine, in_line, place};
pub(crate) use reach::Reach;

/// Why a message of a peer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// What it names is no replica.
    #[error("{0} is no replica")]
    NoReplica(ReplicaId),
    /// The slot of the replica is another store's, or (of a candidate) nobody's yet.
    #[error("the group does not know {1} as the store of {0}")]
    NotTheStore(ReplicaId, StoreId),
    /// It speaks in the name of another node.
    #[error("{peer} speaks in the name of {claimed}")]
    NotTheSender {
        /// Who is at the other end.
        peer: NodeId,
        /// The replica in whose name it speaks.
        claimed: ReplicaId,
    },
    /// An elected leader's vote where a candidate's belongs, or the other way round.
    #[error("the vote of {0} is of the wrong sort")]
    WrongVote(ReplicaId),
    /// The term is none, or too far above the own one.
    #[error("{term} is out of reach from {ours}")]
    Term {
        /// The term of the message.
        term: Term,
        /// This replica's.
        ours: Term,
    },
    /// No log gets that long.
    #[error("log index {0} is out of reach")]
    Index(LogIndex),
    /// Log ids are out of order, among themselves or against the vote.
    #[error("{0} is out of order")]
    Order(LogId),
    /// An entry of a kind that does not exist.
    #[error("entry {at} is of the unknown kind {kind}")]
    Kind {
        /// The entry.
        at: LogId,
        /// Its kind.
        kind: u8,
    },
    /// An entry whose body nobody could apply.
    #[error("entry {0} makes no sense")]
    Entry(LogId),
    /// A membership that the group cannot have.
    #[error("the membership at {0} is not the group's")]
    Membership(LogId),
    /// It contradicts what is committed, or what the leader itself has shown.
    #[error("{0} contradicts the log")]
    Contradicts(LogId),
    /// A snapshot that covers nothing, or says nothing about the members.
    #[error("the snapshot is incomplete")]
    Snapshot,
    /// An answer that does not fit what was asked.
    #[error("the answer does not fit the question")]
    Answer,
    /// The peer has lost entries that it acknowledged.
    #[error("the peer lost entries up to {0}, which it had acknowledged")]
    Lost(LogId),
}

/// Who is at the other end, and what this replica knows of its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) me: ReplicaId,
    /// The replica in whose name the peer speaks, which is of its node.
    pub(crate) peer: ReplicaId,
    pub(crate) term: Term,
    /// The stores of the group.
    pub(crate) stores: &'a Stores,
}

/// Who made an entry, or claims to lead: openraft's order.
pub(crate) type Leader = (Term, ReplicaId);

pub(crate) fn leader_of(id: LogId) -> Leader {
    (id.term, id.node)
}

pub(crate) fn leader_of_vote(vote: &PeerVote) -> Leader {
    (vote.term, vote.node)
}

impl Known<'_> {
    fn term(&self, term: Term) -> Result<(), Refusal> {
        let reach = self.term.0.saturating_add(TERM_STEP_MAX).min(TERM_MAX);
        match term.0 >= 1 && term.0 <= reach {
            true => Ok(()),
            false => Err(Refusal::Term {
                term,
                ours: self.term,
            }),
        }
    }

    /// A vote in the peer's own name: an elected leader's if `elected`, else a candidate's.
    fn claim(&self, vote: &PeerVote, elected: bool) -> Result<(), Refusal> {
        let (peer, claimed) = (self.peer, vote.node);
        if claimed != peer || claimed.node() == self.me.node() {
            let peer = peer.node();
            return Err(Refusal::NotTheSender { peer, claimed });
        }
        if vote.committed != elected {
            return Err(Refusal::WrongVote(claimed));
        }
        self.term(vote.term)
    }

    /// A vote that the peer has heard of.
    fn heard(&self, vote: &PeerVote) -> Result<(), Refusal> {
        self.named(vote.node)?;
        self.term(vote.term)
    }

    /// A replica that leads, stands or is to: of the group as it is known here, or of a node that this one has met. It may
    /// have come in with an entry that is not here.
    fn named(&self, id: ReplicaId) -> Result<(), Refusal> {
        match self.stores.could_be(id) {
            true => Ok(()),
            false => Err(Refusal::NoReplica(id)),
        }
    }

    /// A vote that the peer has heard of, as this node may follow it. Of a vote of this node that it
    /// never gave (the peer was told so by a wrong message, or this node's disk has lost it) only the
    /// term is taken, as if the peer itself had claimed it: this node then stands in a term above, and
    /// does not lead one in which nobody elected it.
    pub(crate) fn as_heard(&self, vote: PeerVote, ours: &PeerVote) -> PeerVote {
        let heard = match vote.node == self.me && leader_of_vote(&vote) > leader_of_vote(ours) {
            true => PeerVote {
                node: self.peer,
                committed: false,
                ..vote
            },
            false => vote,
        };
        assert!(
            heard.node != self.me || leader_of_vote(&heard) <= leader_of_vote(ours),
            "{heard:?} is a vote that this node never gave"
        );
        heard
    }
}

/// Whether that names a replica: which ones there were, and led, is not known for ever.
fn replica(id: ReplicaId) -> Result<(), Refusal> {
    match id.node() == NodeId(0) {
        true => Err(Refusal::NoReplica(id)),
        false => Ok(()),
    }
}

/// A log id that is no newer than `leader`.
fn within(id: Option<LogId>, leader: Leader) -> Result<(), Refusal> {
    let Some(id) = id else { return Ok(()) };
    if id.index.0 > INDEX_MAX {
        return Err(Refusal::Index(id.index));
    }
    match leader_of(id) <= leader {
        true => Ok(()),
        false => Err(Refusal::Order(id)),
    }
}

/// What an append or a heartbeat (one without entries) says by itself. Returns what the entries say,
/// parsed.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn append(
    known: &Known<'_>,
    head: &AppendHead,
    entries: &[PeerEntry],
) -> Result<Vec<Payload>, Refusal> {
    known.claim(&head.vote, true)?;
    let leader = leader_of_vote(&head.vote);
    within(head.before, leader)?;
    within(head.committed, leader)?;
    let mut before = head.before;
    let mut payloads = Vec::with_capacity(entries.len());
    let mut memberships = None;
    for entry in entries {
        let follows = match before {
            None => entry.id.index.0 == 0,
            Some(before) => {
                entry.id.index.0 == before.index.0 + 1 && leader_of(entry.id) >= leader_of(before)
            }
        };
        if !follows {
            return Err(Refusal::Order(entry.id));
        }
        within(Some(entry.id), leader)?;
        // The first membership is of term 0, in which nobody leads.
        if entry.id.term != Term(0) {
            replica(entry.id.node)?;
        }
        payloads.push(payload(known, entry, &mut memberships)?);
        before = Some(entry.id);
    }
    Ok(payloads)
}

/// What an entry says, if a leader proposes such a one; `before` is the membership before it, if that came
/// with it.
fn payload(
    known: &Known<'_>,
    sent: &PeerEntry,
    before: &mut Option<Membership>,
) -> Result<Payload, Refusal> {
    let (at, kind, body) = (sent.id, sent.kind, sent.body.clone());
    let sound = match kind {
        kind::WRITE => {
            let parsed = Parsed::of(&body).ok_or(Refusal::Entry(at))?;
            return Ok(Payload::write(body, parsed));
        }
        kind::MEMBERSHIP => {
            let membership = membership(known, at, &body)?;
            let follows = |before: &Membership| steps::follows(before, &membership);
            if !before.as_ref().is_none_or(follows) {
                return Err(Refusal::Membership(at));
            }
            *before = Some(membership);
            true
        }
        kind::UPLOAD_CHUNK => {
            let (_, content) = entry::whole_chunk(&body).ok_or(Refusal::Entry(at))?;
            return Ok(Payload::chunk(body, content));
        }
        kind::UPLOAD_BEGIN..=kind::UPLOAD_DROP => entry::parse(kind, &body).is_some(),
        kind::BLANK => body.is_empty(),
        kind::OPEN_SESSION => OpenSession::parse(&body).is_ok(),
        kind => return Err(Refusal::Kind { at, kind }),
    };
    match sound {
        true => Ok(Payload::plain(kind, body)),
        false => Err(Refusal::Entry(at)),
    }
}

/// How many steps lie between a membership and those that are known here cannot be told; that replicas keep their stores can.
fn membership(known: &Known<'_>, at: LogId, body: &Bytes) -> Result<Membership, Refusal> {
    let committed = known.stores.committed();
    let settled = committed.membership();
    let fits = |membership: &Membership| {
        let keeps_stores = match committed.log_id().map(|id| id.index) {
            None => steps::agree(settled, membership),
            Some(index) if index < at.index.0 => steps::keeps_stores(settled, membership),
            Some(index) if index == at.index.0 => membership == settled,
            Some(_) => steps::keeps_stores(membership, settled),
        };
        keeps_stores && membership::is_sound(membership)
    };
    let membership = membership::decode(body).filter(fits);
    membership.ok_or(Refusal::Membership(at))
}

/// A request for a vote, or a question whether it would be granted (`pre`).
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn vote(known: &Known<'_>, pre: bool, ask: &VoteAsk) -> Result<(), Refusal> {
    known.claim(&ask.vote, false)?;
    if pre && ask.handed_over_by.is_some() {
        return Err(Refusal::WrongVote(ask.vote.node));
    }
    // A candidate's term is above that of everything in its log.
    within(ask.last, leader_of_vote(&ask.vote))?;
    match ask.last {
        Some(last) if last.term >= ask.vote.term => Err(Refusal::Order(last)),
        _ => Ok(()),
    }
}

/// The hand-over of a lead.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn transfer(known: &Known<'_>, transfer: &Transfer) -> Result<(), Refusal> {
    known.claim(&transfer.from, true)?;
    known.named(transfer.to)?;
    if transfer.to == transfer.from.node {
        return Err(Refusal::WrongVote(transfer.to));
    }
    within(transfer.last, leader_of_vote(&transfer.from))
}

/// The leader's vote with which a snapshot comes.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn snapshot_vote(known: &Known<'_>, vote: &PeerVote) -> Result<(), Refusal> {
    known.claim(vote, true)
}

/// What a received snapshot covers: the last entry, and the membership with the entry that set it.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn snapshot(
    known: &Known<'_>,
    vote: &PeerVote,
    applied: Option<LogId>,
    members: Option<&(LogId, Bytes)>,
    committed: Option<LogId>,
) -> Result<(), Refusal> {
    let (Some(applied), Some((at, body))) = (applied, members) else {
        return Err(Refusal::Snapshot);
    };
    within(Some(applied), leader_of_vote(vote))?;
    if at.index > applied.index || leader_of(*at) > leader_of(applied) {
        return Err(Refusal::Order(*at));
    }
    membership(known, *at, body).map(drop)?;
    let Some(committed) = committed else {
        return Ok(());
    };
    let ordered = match applied.index.cmp(&committed.index) {
        std::cmp::Ordering::Less => leader_of(applied) <= leader_of(committed),
        std::cmp::Ordering::Equal => applied == committed,
        std::cmp::Ordering::Greater => leader_of(applied) >= leader_of(committed),
    };
    match ordered {
        true => Ok(()),
        false => Err(Refusal::Contradicts(applied)),
    }
}

#[cfg(test)]
mod tests;
