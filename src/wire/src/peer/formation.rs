//! What nodes say to each other about who the cluster is: one question, one answer, on a connection of
//! the role `Formation`.
//!
//! Before the cluster is formed the first nodes agree on its [`Charter`]; later a node that starts asks
//! the others whether it is still one of them.
//!
//! ```text
//! question:  8 hash of the cluster's name, introduction, 1 step (0 who, 1 prepare, 2 accept, 3 name,
//!            4 stranger, 5 join),
//!            ballot (1, 2), charter (2), place (5)
//! answer:    introduction, 1 tag, then
//!            0 not formed   ballot promised, 1 whether accepted, ballot and charter accepted
//!            1 formed       charter, verdict
//!            2 refused      verdict
//!            3 named        16 times 8 nonce
//!            4 joined       8 node, 8 hash of the cluster's name, charter, 4 length, cluster map
//!            5 declined     2 length, a sentence
//! ballot:    8 round, 16 store
//! charter:   16 cluster, 2 count, then 8 node, 16 store each
//! place:     2 length, host; 2 port; 2 cores; 2 length, zone; 2 length, region
//! ```

use super::introduce::{
    Introduction, Verdict, put as put_introduction, put_verdict, take as take_introduction,
    take_verdict,
};
use super::{Fields, kinds, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::{FullClusterId, NodeId, Start, StoreId};
use crate::limits::{
    CLUSTER_MAP_BYTES_MAX, HOST_BYTES_MAX, NODES_MAX, PLACE_BYTES_MAX, WHY_BYTES_MAX,
};
use crate::outbox::Outbox;
use crate::width::u32_len;
use bytes::{BufMut, Bytes, BytesMut};

/// Names a proposal; a later one is greater. Stores do not share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// From 1.
    pub round: u64,
    /// The store of the node that proposes.
    pub store: StoreId,
}

/// What the first nodes decide, once: the cluster, and the store of each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charter {
    /// The cluster.
    pub cluster: FullClusterId,
    /// The first nodes, ascending. A store of 0 is claimed by the node when it first comes.
    pub stores: Vec<(NodeId, StoreId)>,
}

impl Charter {
    /// The store of a first node; `None` if it is none.
    pub fn store_of(&self, node: NodeId) -> Option<StoreId> {
        let found = self.stores.iter().find(|(first, _)| *first == node);
        found.map(|(_, store)| *store)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormationStep {
    /// Who are you, and who am I to you?
    Who,
    /// Will you take part in this proposal, and in no earlier one?
    Prepare(Ballot),
    /// Do you accept this?
    Accept(Ballot, Charter),
    /// Who are you? Whoever asks is not judged by that.
    Name,
    /// I have been refused, and know it: nothing but that may be remembered of me.
    Stranger,
    /// May I take part from now on? Who has no node id yet introduces itself as node 0, and one that has its id
    /// asks with a store that the cluster does not know.
    Join(JoinPlace),
}

/// Where a node is that joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinPlace {
    /// Host name or address, as others reach it.
    pub host: String,
    /// Port of its first core.
    pub port: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its zone.
    pub zone: String,
    /// Its region.
    pub region: String,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationAsk {
    /// Hash of the cluster's configured name.
    pub name: u64,
    /// Who asks.
    pub from: Introduction,
    /// What.
    pub step: FormationStep,
}

/// What the answering node makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormationAnswer {
    /// It knows of no cluster yet.
    Unformed {
        /// It takes part in no proposal before this one.
        promised: Ballot,
        /// What it has accepted last, and in which proposal.
        accepted: Option<(Ballot, Charter)>,
    },
    /// The cluster is formed.
    Formed {
        /// What it is.
        charter: Charter,
        /// Who the asking node is to it.
        verdict: Verdict,
    },
    /// The two do not belong together.
    Refused(Verdict),
    /// It is the one that introduces itself.
    Named(LastStarts),
    /// The cluster has taken the asking node in.
    Joined {
        /// As that node.
        node: NodeId,
        /// Hash of the cluster's name.
        name: u64,
        /// What the cluster is.
        charter: Charter,
        /// The cluster map, as it is stored.
        map: Bytes,
    },
    /// It has not, and why, in a sentence that says what to do.
    Declined(String),
}

/// The nonces of the last starts of a store: that of incarnation `i` is at `i` modulo their number. A directory
/// that was rolled back, or a copy, has others from there on, however often it was started since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastStarts(pub [u64; 16]);

impl LastStarts {
    /// Adds a start.
    pub fn add(&mut self, start: Start) {
        let count = self.0.len() as u64;
        if let Some(nonce) = self.0.get_mut((start.incarnation % count) as usize) {
            *nonce = start.nonce;
        }
    }

    /// Whether a store of these starts, the last of which is `last`, may have had that earlier one.
    pub fn may_include(&self, last: Start, earlier: Start) -> bool {
        let count = self.0.len() as u64;
        let nonce = self.0.get((earlier.incarnation % count) as usize);
        match last.incarnation.checked_sub(earlier.incarnation) {
            None => false,
            Some(since) => since >= count || nonce == Some(&earlier.nonce),
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationReply {
    /// Who answers.
    pub by: Introduction,
    /// What.
    pub answer: FormationAnswer,
}

/// Appends a `FORM`.
pub fn encode_formation(out: &mut Outbox, head: Head, ask: &FormationAsk) {
    let mut body = BytesMut::new();
    body.put_u64_le(ask.name);
    put_introduction(&mut body, &ask.from);
    match &ask.step {
        FormationStep::Who => body.put_u8(0),
        FormationStep::Prepare(ballot) => {
            body.put_u8(1);
            put_ballot(&mut body, ballot);
        }
        FormationStep::Accept(ballot, charter) => {
            body.put_u8(2);
            put_ballot(&mut body, ballot);
            put_charter(&mut body, charter);
        }
        FormationStep::Name => body.put_u8(3),
        FormationStep::Stranger => body.put_u8(4),
        FormationStep::Join(place) => {
            body.put_u8(5);
            put_place(&mut body, place);
        }
    }
    sealed(out, head, kinds::FORM, &body);
}

/// Parses a `FORM`.
///
/// # Errors
/// It is malformed.
pub fn parse_formation(frame: &Frame) -> Result<FormationAsk, DecodeError> {
    let mut fields = Fields::of(frame.body(), "formation");
    let name = fields.u64()?;
    let from = take_introduction(&mut fields)?;
    let step = match fields.u8()? {
        0 => FormationStep::Who,
        1 => FormationStep::Prepare(take_ballot(&mut fields)?),
        2 => FormationStep::Accept(take_ballot(&mut fields)?, take_charter(&mut fields)?),
        3 => FormationStep::Name,
        4 => FormationStep::Stranger,
        5 => FormationStep::Join(take_place(&mut fields)?),
        _ => return Err(fields.malformed()),
    };
    fields.end()?;
    Ok(FormationAsk { name, from, step })
}

/// Appends a `FORM_REPLY`.
pub fn encode_formation_reply(out: &mut Outbox, head: Head, reply: &FormationReply) {
    let mut body = BytesMut::new();
    put_introduction(&mut body, &reply.by);
    match &reply.answer {
        FormationAnswer::Unformed { promised, accepted } => {
            body.put_u8(0);
            put_ballot(&mut body, promised);
            body.put_u8(u8::from(accepted.is_some()));
            if let Some((ballot, charter)) = accepted {
                put_ballot(&mut body, ballot);
                put_charter(&mut body, charter);
            }
        }
        FormationAnswer::Formed { charter, verdict } => {
            body.put_u8(1);
            put_charter(&mut body, charter);
            put_verdict(&mut body, *verdict);
        }
        FormationAnswer::Refused(verdict) => {
            body.put_u8(2);
            put_verdict(&mut body, *verdict);
        }
        FormationAnswer::Named(starts) => {
            body.put_u8(3);
            starts.0.iter().for_each(|nonce| body.put_u64_le(*nonce));
        }
        FormationAnswer::Joined {
            node,
            name,
            charter,
            map,
        } => {
            assert!(map.len() <= CLUSTER_MAP_BYTES_MAX, "maps are bounded");
            body.put_u8(4);
            body.put_u64_le(node.0);
            body.put_u64_le(*name);
            put_charter(&mut body, charter);
            body.put_u32_le(u32_len(map.len()));
            body.extend_from_slice(map);
        }
        FormationAnswer::Declined(why) => {
            body.put_u8(5);
            put_text(&mut body, why, WHY_BYTES_MAX);
        }
    }
    sealed(out, head, kinds::FORM_REPLY, &body);
}

/// Parses a `FORM_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_formation_reply(frame: &Frame) -> Result<FormationReply, DecodeError> {
    let mut fields = Fields::of(frame.body(), "formation reply");
    let by = take_introduction(&mut fields)?;
    let answer = match fields.u8()? {
        0 => FormationAnswer::Unformed {
            promised: take_ballot(&mut fields)?,
            accepted: match fields.flag()? {
                true => Some((take_ballot(&mut fields)?, take_charter(&mut fields)?)),
                false => None,
            },
        },
        1 => FormationAnswer::Formed {
            charter: take_charter(&mut fields)?,
            verdict: take_verdict(&mut fields)?,
        },
        2 => FormationAnswer::Refused(take_verdict(&mut fields)?),
        3 => {
            let mut starts = LastStarts::default();
            for nonce in &mut starts.0 {
                *nonce = fields.u64()?;
            }
            FormationAnswer::Named(starts)
        }
        4 => FormationAnswer::Joined {
            node: NodeId(fields.u64()?),
            name: fields.u64()?,
            charter: take_charter(&mut fields)?,
            map: {
                let len = fields.u32()? as usize;
                if len > CLUSTER_MAP_BYTES_MAX {
                    return Err(fields.malformed());
                }
                Bytes::copy_from_slice(fields.bytes(len)?)
            },
        },
        5 => FormationAnswer::Declined(take_text(&mut fields, WHY_BYTES_MAX)?),
        _ => return Err(fields.malformed()),
    };
    fields.end()?;
    Ok(FormationReply { by, answer })
}

/// Text of at most `max` bytes; a longer one is cut.
fn put_text(out: &mut BytesMut, text: &str, max: usize) {
    let text = text
        .get(..text.floor_char_boundary(max))
        .unwrap_or_default();
    let len = text.len() as u16;
    assert_eq!(usize::from(len), text.len(), "texts are short");
    out.put_u16_le(len);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(fields: &mut Fields<'_>, max: usize) -> Result<String, DecodeError> {
    let len = usize::from(fields.u16()?);
    if len > max {
        return Err(fields.malformed());
    }
    let bytes = fields.bytes(len)?;
    let text = std::str::from_utf8(bytes).map_err(|_| fields.malformed())?;
    Ok(text.to_owned())
}

fn put_place(out: &mut BytesMut, place: &JoinPlace) {
    put_text(out, &place.host, HOST_BYTES_MAX);
    out.put_u16_le(place.port);
    out.put_u16_le(place.cores);
    put_text(out, &place.zone, PLACE_BYTES_MAX);
    put_text(out, &place.region, PLACE_BYTES_MAX);
}

fn take_place(fields: &mut Fields<'_>) -> Result<JoinPlace, DecodeError> {
    Ok(JoinPlace {
        host: take_text(fields, HOST_BYTES_MAX)?,
        port: fields.u16()?,
        cores: fields.u16()?,
        zone: take_text(fields, PLACE_BYTES_MAX)?,
        region: take_text(fields, PLACE_BYTES_MAX)?,
    })
}

fn put_ballot(out: &mut BytesMut, ballot: &Ballot) {
    out.put_u64_le(ballot.round);
    out.put_u128_le(ballot.store.0);
}

fn take_ballot(fields: &mut Fields<'_>) -> Result<Ballot, DecodeError> {
    Ok(Ballot {
        round: fields.u64()?,
        store: StoreId(fields.u128()?),
    })
}

fn put_charter(out: &mut BytesMut, charter: &Charter) {
    assert!(charter.stores.len() <= NODES_MAX, "the nodes are bounded");
    out.put_u128_le(charter.cluster.0);
    out.put_u16_le(charter.stores.len() as u16);
    for (node, store) in &charter.stores {
        out.put_u64_le(node.0);
        out.put_u128_le(store.0);
    }
}

fn take_charter(fields: &mut Fields<'_>) -> Result<Charter, DecodeError> {
    let cluster = FullClusterId(fields.u128()?);
    let count = usize::from(fields.u16()?);
    if count > NODES_MAX {
        return Err(fields.malformed());
    }
    let stores = (0..count).map(|_| Ok((NodeId(fields.u64()?), StoreId(fields.u128()?))));
    let stores = stores.collect::<Result<Vec<_>, DecodeError>>()?;
    if !stores.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(fields.malformed());
    }
    Ok(Charter { cluster, stores })
}
