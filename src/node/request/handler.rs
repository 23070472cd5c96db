//! Requests about shards of this core: wire to domain, and back.
//!
//! A put goes to its group with a callback, a get whose key is in memory is answered at once: no
//! task is started for either. Only reads that must wait for a disk or for a confirmation of the
//! leadership wait in a task or callback of their own. Gets are in `gets`, uploads and chunks in `uploads`.

#[cfg(test)]
mod tests;

use super::answers::{Reply, failed};
use super::elsewhere::{self, PageRange};
use super::scan_views::ScanViews;
use super::slow_read::{DiskTurns, applied};
use super::uploads;
use crate::node::limits;
use crate::node::local::LocalGroups;
use bytes::Bytes;
use corelith_consensus::{Group, GroupError, Outcome, ReadPoint, WriteReply};
use corelith_shards::{ItemValue, LogIndex, Pin, ScanRange, ShardId};
use corelith_wire::limits as wire_limits;
use corelith_wire::request::{OpenSession, ScanRequest, WriteCommand};
use corelith_wire::response::{
    Answer, Failure, Reason, ReplyMeta, ScanHead, ScanItem, ScanPage, ScanValue,
};
use corelith_wire::{DecodeError, Flags, Frame, Kind, placement};
use std::net::SocketAddr;
use std::rc::Rc;

/// Handles the requests about one core's shards. Belongs to one core.
pub(crate) struct Handler {
    shard_count: u32,
    pub(super) groups: Rc<LocalGroups>,
    pub(super) disk: Rc<DiskTurns>,
    scan_views: ScanViews,
}

impl Handler {
    pub(crate) fn new(shard_count: u32, groups: Rc<LocalGroups>) -> Rc<Self> {
        Rc::new(Self {
            shard_count,
            groups,
            disk: DiskTurns::new(),
            scan_views: ScanViews::default(),
        })
    }

    /// Notes that a connection of this core has closed.
    pub(crate) fn closed(&self, client: SocketAddr) {
        self.scan_views.closed(client, corelith_io::now());
    }

    /// Lets go of what was kept for scans that did not go on.
    pub(crate) fn sweep(&self) {
        self.scan_views.sweep(corelith_io::now());
    }

    /// Handles a request and sends its answer, now or later.
    pub(crate) fn handle(self: &Rc<Self>, frame: Frame, reply: Reply) {
        let shard = frame.header.head.shard;
        let Some(group) = self.groups.get(shard) else {
            return reply.send(&failed(self.why_without(shard)));
        };
        let group = &group;
        let refused = match frame.header.head.kind {
            Kind::WRITE => return self.write(group, frame.into_payload(), reply),
            Kind::GET => return self.get(group, &frame, reply),
            Kind::SCAN => return self.scan(group, &frame, reply),
            Kind::READ_CHUNK => return self.read_chunk(group, &frame, reply),
            kind if uploads::is_upload(kind) => return self.upload(group, frame, reply),
            Kind::OPEN_SESSION => match OpenSession::parse(frame.body()) {
                Ok(_) => return open_session(group, frame.into_payload(), reply),
                Err(error) => decode_failure(error),
            },
            _ => Failure::Malformed,
        };
        reply.send(&failed(refused));
    }

    fn write(&self, group: &Group, payload: Bytes, reply: Reply) {
        let refused = match WriteCommand::parse(&payload) {
            Ok(command) if self.belongs(&command.key, group.shard()) => {
                let answer = move |result| reply.send(&write_answer(result));
                return group.submit(payload, &command, answer);
            }
            Ok(_) => Failure::Malformed,
            Err(error) => decode_failure(error),
        };
        reply.send(&failed(refused));
    }

    /// Why there is no group of a shard.
    fn why_without(&self, shard: ShardId) -> Failure {
        match self.groups.is_down(shard) {
            // Another replica answers, or will lead.
            true => Failure::Unavailable {
                reason: Reason::StorageFailed,
                nothing_done: true,
            },
            // It has gone to another node since.
            false => Failure::WrongNode,
        }
    }

    /// Whether `key` is a key, and one of `shard`.
    pub(super) fn belongs(&self, key: &[u8], shard: ShardId) -> bool {
        !key.is_empty() && placement::shard_of(key, self.shard_count).0 == shard.0
    }

    fn scan(self: &Rc<Self>, group: &Group, frame: &Frame, mut reply: Reply) {
        let request = match ScanRequest::parse(frame.body()) {
            Ok(request) => request,
            Err(error) => return reply.send(&failed(decode_failure(error))),
        };
        let scan = Scan {
            range: ScanRange {
                start: Bytes::copy_from_slice(request.start),
                end: Bytes::copy_from_slice(request.end),
            },
            at: (request.at_version != 0).then_some(LogIndex(request.at_version)),
            items_max: request.limit_items.max(1) as usize,
            bytes_max: request.max_bytes as usize,
            heads: frame.header.flags.contains(Flags::WITHOUT_VALUES),
            described: frame.header.flags.contains(Flags::DESCRIBED),
            may_follow: may_follow(frame),
        };
        let handler = Rc::clone(self);
        let group = group.clone();
        let client = reply.client();
        corelith_io::spawn(async move {
            // Room for what was asked for, and then for a longer first item.
            let mut first_max = scan.bytes_max;
            loop {
                let bytes = scan.bytes_max.max(first_max);
                if !reply.reserve(bytes + scan.table_bytes()).await {
                    return;
                }
                match handler.page(&group, &scan, first_max, client).await {
                    Ok(Paged::Page(answer)) => return reply.send(&answer),
                    Ok(Paged::TooLong(bytes)) => first_max = bytes,
                    Err(failure) => return reply.send(&failed(failure)),
                }
            }
        });
    }

    async fn page(
        &self,
        group: &Group,
        scan: &Scan,
        first_max: usize,
        client: SocketAddr,
    ) -> Result<Paged, Failure> {
        let point = match scan.may_follow {
            true => group.replica_read_barrier().await,
            false => group.read_barrier().await,
        };
        let point = point.map_err(|error| read_failure(&error))?;
        let engine = group.engine();
        // What is applied now is at least the read point, and stays as it is seen from here on.
        let view = match scan.at {
            None => engine.pin(),
            Some(at) => engine.pin_at(at).ok_or(Failure::VersionGone)?,
        };
        let at = view.at();
        assert!(
            scan.at.is_some() || at >= point.index,
            "a view as of {at:?} for a read at {:?}",
            point.index
        );
        let head = PageHead { point, at };
        if scan.is_touch() {
            self.keep(client, group, view);
            let nothing = corelith_shards::ScanPage {
                items: Vec::new(),
                more: false,
                too_long: None,
            };
            let answer = Answer::ScanHeads(head.with(nothing, scan.head_of()));
            return Ok(Paged::Page(Box::new(answer)));
        }
        let permit = self.disk.take().await;
        let (range, items_max, bytes_max) = (&scan.range, scan.items_max, scan.bytes_max);
        let (more, answer) = if scan.heads {
            let page = engine.scan_heads(range, Some(at), items_max, bytes_max);
            match page.await {
                Ok(page) => (
                    page.more,
                    Answer::ScanHeads(head.with(page, scan.head_of())),
                ),
                Err(error) => {
                    drop((permit, view));
                    let page = self.page_elsewhere(group, scan, (point, first_max), client, error);
                    return page.await;
                }
            }
        } else {
            let page = engine.scan_within(range, Some(at), items_max, bytes_max, first_max);
            let page = match page.await {
                Ok(page) => page,
                Err(error) => {
                    drop((permit, view));
                    let page = self.page_elsewhere(group, scan, (point, first_max), client, error);
                    return page.await;
                }
            };
            if let Some(bytes) = page.too_long {
                return Ok(Paged::TooLong(bytes));
            }
            (page.more, Answer::ScanPage(head.with(page, scan_item)))
        };
        if more {
            self.keep(client, group, view);
        }
        Ok(Paged::Page(Box::new(answer)))
    }

    /// A page that could not be read here for `error`, from another replica. The first page of a scan is of the moment at
    /// which that one answers, which this one waits to see as well; later ones are as of the moment of the first.
    async fn page_elsewhere(
        &self,
        group: &Group,
        scan: &Scan,
        (point, first_max): (ReadPoint, usize),
        client: SocketAddr,
        error: corelith_shards::Error,
    ) -> Result<Paged, Failure> {
        if !elsewhere::may_help(&error) {
            return Err(storage_failure(&error));
        }
        let engine = group.engine();
        let wanted = PageRange {
            range: &scan.range,
            items_max: scan.items_max,
            bytes_max: scan.bytes_max,
            first_max: if scan.heads { usize::MAX } else { first_max },
        };
        let least = point.index.max(applied(engine));
        let page = elsewhere::page(group, &wanted, scan.at, least).await;
        let Some((page, at)) = page else {
            let failure = storage_failure(&error);
            // Another moment of it may be had.
            return Err(scan.at.map_or(failure, |_| Failure::VersionGone));
        };
        let begun = corelith_io::now();
        while applied(engine) < at && begun.elapsed() < limits::ELSEWHERE_APPLIED_WAIT {
            corelith_io::sleep(limits::ELSEWHERE_APPLIED_LOOK).await;
        }
        if applied(engine) < at {
            return Err(storage_failure(&error));
        }
        if let Some(bytes) = page.too_long {
            return Ok(Paged::TooLong(bytes));
        }
        if page.more
            && let Some(view) = engine.pin_at(at)
        {
            self.keep(client, group, view);
        }
        let head = PageHead { point, at };
        let answer = match scan.heads {
            false => Answer::ScanPage(head.with(page, scan_item)),
            true => Answer::ScanHeads(head.with(page, |item| ScanHead {
                key: item.key,
                version: item.version.0,
                value_len: item.value.value_len(),
                committed_us: match &item.value {
                    ItemValue::Large(large) => scan.described.then_some(large.committed_us),
                    ItemValue::Bytes(_) => None,
                },
            })),
        };
        Ok(Paged::Page(Box::new(answer)))
    }

    /// Keeps the view of a scan for its next page.
    fn keep(&self, client: SocketAddr, group: &Group, view: Pin) {
        let (shard, at) = (group.shard(), view.at());
        self.scan_views
            .keep(client, shard, at, view, corelith_io::now());
    }
}

/// Whether the client lets a follower answer a read.
pub(super) fn may_follow(frame: &Frame) -> bool {
    frame.header.flags.contains(Flags::FOLLOWER_MAY_ANSWER)
}

/// Where in the shard's history a page was read.
struct PageHead {
    point: ReadPoint,
    at: LogIndex,
}

impl PageHead {
    /// `page` as it is sent.
    fn with<T, U>(
        self,
        page: corelith_shards::ScanPage<T>,
        item: impl FnMut(T) -> U,
    ) -> ScanPage<U> {
        ScanPage {
            meta: ReplyMeta {
                term: self.point.term.0,
                index: self.at.0,
            },
            at_version: self.at.0,
            more: page.more,
            items: page.items.into_iter().map(item).collect(),
        }
    }
}

fn scan_item(item: corelith_shards::Item) -> ScanItem {
    ScanItem {
        key: item.key,
        version: item.version.0,
        value: match item.value {
            ItemValue::Bytes(value) => ScanValue::Bytes(value),
            ItemValue::Large(large) => ScanValue::Large { len: large.len },
        },
    }
}

/// What reading a page gave.
enum Paged {
    Page(Box<Answer>),
    /// Its first item has this many bytes: it was not read.
    TooLong(usize),
}

impl Scan {
    /// Whether it asks for nothing: the client wants to keep the view of an earlier page.
    fn is_touch(&self) -> bool {
        let ScanRange { start, end } = &self.range;
        self.at.is_some() && !start.is_empty() && start == end
    }

    /// Makes heads as they are sent.
    fn head_of(&self) -> impl Fn(corelith_shards::ItemHead) -> ScanHead + use<> {
        let described = self.described;
        move |item| ScanHead {
            key: item.key,
            version: item.found.version.0,
            value_len: item.found.len,
            committed_us: item
                .large
                .filter(|_| described)
                .map(|large| large.committed_us),
        }
    }
}

struct Scan {
    range: ScanRange,
    at: Option<LogIndex>,
    items_max: usize,
    bytes_max: usize,
    /// Without values.
    heads: bool,
    /// Without values, but with when large ones were committed.
    described: bool,
    /// Whether this replica may answer as a follower.
    may_follow: bool,
}

impl Scan {
    /// Most bytes of the item table and of what is told of large values.
    fn table_bytes(&self) -> usize {
        let told = match self.heads && self.described {
            true => wire_limits::LARGE_HEAD_BYTES,
            false => 0,
        };
        self.items_max * (wire_limits::SCAN_ITEM_BYTES + told)
    }
}

fn open_session(group: &Group, payload: Bytes, reply: Reply) {
    group.submit_open_session(payload, move |result| reply.send(&write_answer(result)));
}

fn write_answer(result: Result<WriteReply, GroupError>) -> Answer {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return failed(write_failure(&error)),
    };
    let meta = ReplyMeta {
        term: reply.at.term.0,
        index: reply.at.index.0,
    };
    let failure = match reply.outcome {
        Outcome::Applied { version } => {
            return Answer::Written {
                meta,
                version: version.0,
            };
        }
        Outcome::Conflict { current } => {
            return Answer::Conflict {
                meta,
                current: current.map_or(0, |version| version.0),
            };
        }
        Outcome::SessionOpened { session } => return Answer::SessionOpened { meta, session },
        Outcome::SessionExpired => Failure::SessionExpired,
        Outcome::Stale => Failure::Stale,
        Outcome::WindowFull => Failure::WindowFull,
        Outcome::Malformed | Outcome::Upload(_) | Outcome::Internal => Failure::Malformed,
    };
    Answer::Failure { meta, failure }
}

pub(super) fn decode_failure(error: DecodeError) -> Failure {
    match error {
        DecodeError::TooLarge { limit, .. } => Failure::TooLarge {
            limit: limit as u64,
        },
        DecodeError::Malformed { .. } => Failure::Malformed,
    }
}

/// The failure of a read: it changes nothing in any case.
pub(super) fn read_failure(error: &GroupError) -> Failure {
    match write_failure(error) {
        Failure::Unavailable { reason, .. } => Failure::Unavailable {
            reason,
            nothing_done: true,
        },
        other => other,
    }
}

pub(super) fn write_failure(error: &GroupError) -> Failure {
    let unavailable = |reason, nothing_done| Failure::Unavailable {
        reason,
        nothing_done,
    };
    match error {
        GroupError::NotLeader { leader } => Failure::NotLeader {
            leader: leader.map_or(0, |node| node.0),
        },
        GroupError::LeadershipLost { .. } => unavailable(Reason::LeadershipLost, false),
        GroupError::Unavailable => unavailable(Reason::NoQuorum, true),
        GroupError::Throttled => Failure::Throttled {
            retry_after_ms: u32::try_from(limits::THROTTLED_RETRY_AFTER.as_millis())
                .unwrap_or(u32::MAX),
        },
        GroupError::DiskFull => Failure::DiskFull,
        GroupError::ShardFull => Failure::ShardFull,
        GroupError::Corrupt => Failure::Corrupt,
        GroupError::Malformed => Failure::Malformed,
        // It may have failed while the write was on its way.
        GroupError::Storage => unavailable(Reason::StorageFailed, false),
        GroupError::Shutdown => unavailable(Reason::Stopping, false),
    }
}

/// The failure of a read from storage.
pub(super) fn storage_failure(error: &corelith_shards::Error) -> Failure {
    if matches!(error, corelith_shards::Error::SequenceGone { .. }) {
        return Failure::VersionGone;
    }
    tracing::error!(%error, "a read from storage failed");
    if error.is_corrupt() {
        return Failure::Corrupt;
    }
    Failure::Unavailable {
        reason: Reason::StorageFailed,
        nothing_done: true,
    }
}
