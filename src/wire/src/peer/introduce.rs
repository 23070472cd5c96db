//! How a peer's connection goes on after hello and welcome: the asking side says in full who it is, and
//! which settings it has that must be the same everywhere; the other answers whether it takes that, and
//! the same of itself. Until then nothing about any shard is said.

use super::{Fields, kinds, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::{FullClusterId, Mark, NodeId, Start, StoreId};
use crate::limits;
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};
use std::fmt;

/// What every node of a cluster must have alike, since placement or the meaning of entries depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Raised when entries of the log come to mean something else.
    pub version: u32,
    /// Number of shards.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// Longest key, in bytes.
    pub key_bytes_max: u32,
    /// Longest value, in bytes.
    pub value_bytes_max: u32,
    /// Writes of a session in flight, at most.
    pub session_window: u32,
    /// What a read is answered under: 0 the leader's lease, 1 an answer of a majority. A number, so that a side
    /// that knows of others can say which.
    pub reads: u32,
}

impl Settings {
    /// The version of this code.
    pub const VERSION: u32 = 1;

    /// The settings of this code, beside what is configured.
    pub fn new(shards: u32, replicas: u32, reads: u32) -> Self {
        Self {
            version: Self::VERSION,
            shards,
            replicas,
            key_bytes_max: limits::KEY_BYTES_MAX as u32,
            value_bytes_max: limits::VALUE_BYTES_MAX as u32,
            session_window: limits::SESSION_WINDOW,
            reads,
        }
    }

    /// The first setting in which `theirs` differ.
    pub fn difference(&self, theirs: &Self) -> Option<Difference> {
        let table = [
            ("the version of log entries", self.version, theirs.version),
            ("the number of shards", self.shards, theirs.shards),
            ("the number of replicas", self.replicas, theirs.replicas),
            ("the longest key", self.key_bytes_max, theirs.key_bytes_max),
            (
                "the longest value",
                self.value_bytes_max,
                theirs.value_bytes_max,
            ),
            (
                "the window of a session",
                self.session_window,
                theirs.session_window,
            ),
            (
                "cluster.reads (0 is lease, 1 quorum)",
                self.reads,
                theirs.reads,
            ),
        ];
        let numbers = table.into_iter().find(|(_, ours, theirs)| ours != theirs);
        numbers.map(|(what, ours, theirs)| Difference {
            what,
            ours: ours.into(),
            theirs: theirs.into(),
        })
    }
}

/// A setting that two nodes have differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub what: &'static str,
    /// As this side has it.
    pub ours: u64,
    /// As the other has it.
    pub theirs: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, ours, theirs } = self;
        write!(f, "{what} is {ours} here and {theirs} there")
    }
}

/// Who one side of a peer's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its cluster; 0 before that is formed.
    pub cluster: FullClusterId,
    /// Its node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// Which start of the store this is.
    pub start: Start,
    /// The mark that this start has found in the store.
    pub mark: Mark,
    /// Port of its first core: where it listens, should its address not be the configured one.
    pub port: u16,
    /// Number of its cores, in this start.
    pub cores: u16,
    /// Its settings.
    pub settings: Settings,
}

/// What the answering side makes of an [`Introduction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Frames may follow.
    Known,
    /// It is of another cluster, or of none.
    OtherCluster,
    /// The cluster has no such node, or it is the answering one.
    NoSuchNode,
    /// A setting differs: which, the asking side sees by comparing.
    OtherSettings,
    /// The node is known with this other store.
    OtherStore(StoreId),
    /// A later start of that store was met, or another one with the same incarnation: the directory was
    /// rolled back, or a copy of it runs.
    RolledBack(Start),
    /// This higher mark of that store was met: the directory was restored from an image that was taken while the
    /// node ran.
    Behind(Mark),
    /// The store lacks entries that it had acknowledged to the answering node.
    LostEntries,
    /// The node was removed from the cluster.
    Removed,
}

/// The answer to an [`Introduction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reception {
    /// Whether frames may follow.
    pub verdict: Verdict,
    /// Who answers.
    pub by: Introduction,
}

/// Appends an `INTRODUCE`.
pub fn encode_introduction(out: &mut Outbox, head: Head, introduction: &Introduction) {
    let mut body = BytesMut::with_capacity(128);
    put(&mut body, introduction);
    sealed(out, head, kinds::INTRODUCE, &body);
}

/// Parses an `INTRODUCE`.
///
/// # Errors
/// It is malformed.
pub fn parse_introduction(frame: &Frame) -> Result<Introduction, DecodeError> {
    let mut fields = Fields::of(frame.body(), "introduction");
    let introduction = take(&mut fields)?;
    fields.end()?;
    Ok(introduction)
}

/// Appends a `RECEPTION`.
pub fn encode_reception(out: &mut Outbox, head: Head, reception: &Reception) {
    let mut body = BytesMut::with_capacity(128);
    put_verdict(&mut body, reception.verdict);
    put(&mut body, &reception.by);
    sealed(out, head, kinds::RECEPTION, &body);
}

/// Parses a `RECEPTION`.
///
/// # Errors
/// It is malformed.
pub fn parse_reception(frame: &Frame) -> Result<Reception, DecodeError> {
    let mut fields = Fields::of(frame.body(), "reception");
    let verdict = take_verdict(&mut fields)?;
    let by = take(&mut fields)?;
    fields.end()?;
    Ok(Reception { verdict, by })
}

/// 1 tag, 16 store, 16 start; a mark takes the place of the start's incarnation.
pub(super) fn put_verdict(out: &mut BytesMut, verdict: Verdict) {
    let (tag, store, start) = match verdict {
        Verdict::Known => (0, StoreId(0), Start::default()),
        Verdict::OtherCluster => (1, StoreId(0), Start::default()),
        Verdict::NoSuchNode => (2, StoreId(0), Start::default()),
        Verdict::OtherSettings => (3, StoreId(0), Start::default()),
        Verdict::OtherStore(store) => (4, store, Start::default()),
        Verdict::RolledBack(start) => (5, StoreId(0), start),
        Verdict::Behind(mark) => {
            let start = Start {
                incarnation: mark.0,
                nonce: 0,
            };
            (6, StoreId(0), start)
        }
        Verdict::LostEntries => (7, StoreId(0), Start::default()),
        Verdict::Removed => (8, StoreId(0), Start::default()),
    };
    out.put_u8(tag);
    out.put_u128_le(store.0);
    put_start(out, start);
}

pub(super) fn take_verdict(fields: &mut Fields<'_>) -> Result<Verdict, DecodeError> {
    let tag = fields.u8()?;
    let store = StoreId(fields.u128()?);
    let start = take_start(fields)?;
    match tag {
        0 => Ok(Verdict::Known),
        1 => Ok(Verdict::OtherCluster),
        2 => Ok(Verdict::NoSuchNode),
        3 => Ok(Verdict::OtherSettings),
        4 => Ok(Verdict::OtherStore(store)),
        5 => Ok(Verdict::RolledBack(start)),
        6 => Ok(Verdict::Behind(Mark(start.incarnation))),
        7 => Ok(Verdict::LostEntries),
        8 => Ok(Verdict::Removed),
        _ => Err(fields.malformed()),
    }
}

fn put_start(out: &mut BytesMut, start: Start) {
    out.put_u64_le(start.incarnation);
    out.put_u64_le(start.nonce);
}

fn take_start(fields: &mut Fields<'_>) -> Result<Start, DecodeError> {
    Ok(Start {
        incarnation: fields.u64()?,
        nonce: fields.u64()?,
    })
}

pub(super) fn put(out: &mut BytesMut, introduction: &Introduction) {
    let Introduction {
        cluster,
        node,
        store,
        start,
        mark,
        port,
        cores,
        settings,
    } = introduction;
    out.put_u128_le(cluster.0);
    out.put_u64_le(node.0);
    out.put_u128_le(store.0);
    put_start(out, *start);
    out.put_u64_le(mark.0);
    out.put_u16_le(*port);
    out.put_u16_le(*cores);
    out.put_u32_le(settings.version);
    out.put_u32_le(settings.shards);
    out.put_u32_le(settings.replicas);
    out.put_u32_le(settings.key_bytes_max);
    out.put_u32_le(settings.value_bytes_max);
    out.put_u32_le(settings.session_window);
    out.put_u32_le(settings.reads);
}

pub(super) fn take(fields: &mut Fields<'_>) -> Result<Introduction, DecodeError> {
    Ok(Introduction {
        cluster: FullClusterId(fields.u128()?),
        node: NodeId(fields.u64()?),
        store: StoreId(fields.u128()?),
        start: take_start(fields)?,
        mark: Mark(fields.u64()?),
        port: fields.u16()?,
        cores: fields.u16()?,
        settings: Settings {
            version: fields.u32()?,
            shards: fields.u32()?,
            replicas: fields.u32()?,
            key_bytes_max: fields.u32()?,
            value_bytes_max: fields.u32()?,
            session_window: fields.u32()?,
            reads: fields.u32()?,
        },
    })
}
