//! Reads of single keys: of the value, of its version and length, or of what a large value is.
//!
//! A large value is not sent: whoever asks for it is told what it is, and reads its chunks. What it is lies in a row of its
//! own, which may be gone by the time it is read, if the value was overwritten meanwhile. Then the key is looked up again.

use super::answers::{Reply, failed, throttled};
use super::elsewhere::{self, FoundElsewhere};
use super::handler::{Handler, decode_failure, may_follow, read_failure, storage_failure};
use super::slow_read::{KeyValue, SlowRead, applied};
use crate::node::limits;
use bytes::Bytes;
use corelith_consensus::{Group, GroupError, ReadPoint};
use corelith_shards::{
    Found, FoundHead, FoundLarge, LogIndex, Lookup, Result as StorageResult, Sought, Space,
};
use corelith_wire::request::GetRequest;
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use corelith_wire::{Flags, Frame, limits as wire_limits};
use std::rc::Rc;

/// Answers a get from what is applied at a point or later.
type Read = fn(&Rc<Handler>, &Group, ReadPoint, &[u8], Reply);

/// How a client that asks for `flags` is answered.
fn read_of(flags: Flags) -> Read {
    let is_described = flags.contains(Flags::DESCRIBED);
    match flags.contains(Flags::WITHOUT_VALUES) {
        false => Handler::read,
        true if is_described => Handler::read_description,
        true => Handler::read_head,
    }
}

impl Handler {
    pub(super) fn get(self: &Rc<Self>, group: &Group, frame: &Frame, reply: Reply) {
        let key = match GetRequest::parse(frame.body()) {
            Ok(request) if self.belongs(request.key, group.shard()) => request.key,
            Ok(_) => return reply.send(&failed(Failure::Malformed)),
            Err(error) => return reply.send(&failed(decode_failure(error))),
        };
        let read = read_of(frame.header.flags);
        if let Some(point) = group.try_read_point() {
            return read(self, group, point, key, reply);
        }
        // What waits in the group must not hold the group, or a core that ends early would leave both.
        let (handler, shard) = (Rc::downgrade(self), group.shard());
        let key = Bytes::copy_from_slice(key);
        let answer = move |point: Result<ReadPoint, GroupError>| {
            let point = match point {
                Ok(point) => point,
                Err(error) => return reply.send(&failed(read_failure(&error))),
            };
            let Some(handler) = handler.upgrade() else {
                return;
            };
            match handler.groups.get(shard) {
                Some(group) => read(&handler, &group, point, &key, reply),
                None => reply.send(&failed(Failure::WrongNode)),
            }
        };
        match may_follow(frame) {
            true => group.on_replica_read_point(answer),
            false => group.on_read_point(answer),
        }
    }

    /// A get of version and length.
    fn read_head(self: &Rc<Self>, group: &Group, point: ReadPoint, key: &[u8], reply: Reply) {
        self.head(group, point, key, false, reply);
    }

    /// The same, but of what a large value is.
    fn read_description(
        self: &Rc<Self>,
        group: &Group,
        point: ReadPoint,
        key: &[u8],
        reply: Reply,
    ) {
        self.head(group, point, key, true, reply);
    }

    fn head(
        self: &Rc<Self>,
        group: &Group,
        point: ReadPoint,
        key: &[u8],
        is_described: bool,
        reply: Reply,
    ) {
        let seen = applied(group.engine());
        let lookup = group.engine().look_up(key);
        if let (Lookup::Large(found), true) = (&lookup, is_described) {
            let described = self.describer(group, point, key, Self::read_description);
            return described.start(*found, reply);
        }
        let search = match lookup.into_head() {
            Ok(found) => return reply.send(&head_answer(point, found, seen)),
            Err(search) => search,
        };
        let Some(turn) = self.disk.right() else {
            return reply.send(&throttled());
        };
        let described = self.describer(group, point, key, Self::read_description);
        corelith_io::spawn_urgent(async move {
            let Describer { group, key, .. } = &described;
            let held = turn.take().await;
            let error = match group.engine().search(key, search).await {
                Ok(Sought::Large(found)) if is_described => {
                    drop(held);
                    return described.run(found, reply).await;
                }
                Ok(sought) => return reply.send(&head_answer(point, sought.into_head(), seen)),
                Err(error) => error,
            };
            drop(held);
            let found = match elsewhere::may_help(&error) {
                true => elsewhere::head(group, key, seen).await,
                false => None,
            };
            let answer = match found {
                Some(FoundElsewhere {
                    found: KeyValue::Large(found),
                    ..
                }) if is_described => return described.run(found, reply).await,
                Some(FoundElsewhere { found, seen }) => head_answer(point, found.head(), seen),
                None => failed(storage_failure(&error)),
            };
            reply.send(&answer);
        });
    }

    /// A get of the value.
    fn read(self: &Rc<Self>, group: &Group, point: ReadPoint, key: &[u8], mut reply: Reply) {
        let seen = applied(group.engine());
        let lookup = group.engine().look_up(key);
        match &lookup {
            Lookup::Found(found) => {
                let len = found.as_ref().map_or(0, |found| found.value.len());
                if reply.try_reserve(len) {
                    let Lookup::Found(found) = lookup else { return };
                    return reply.send(&get_answer(point, found, seen));
                }
            }
            Lookup::Large(found) => {
                let described = self.describer(group, point, key, Self::read);
                return described.start(*found, reply);
            }
            Lookup::Stored(_) | Lookup::Unknown(_) => {}
        }
        let Some(turn) = self.disk.right() else {
            return reply.send(&throttled());
        };
        if let Lookup::Stored(stored) = &lookup {
            // If there is no room the connection is known to wait for it from here on.
            reply.try_reserve(stored.value_len());
        }
        let described = self.describer(group, point, key, Self::read);
        let read = SlowRead {
            engine: group.engine().clone(),
            key: described.key.clone(),
            turn,
            seen,
        };
        corelith_io::spawn_urgent(async move {
            let (found, seen) = match read.run(lookup, &mut reply).await {
                Some(Ok(read)) => read,
                Some(Err(error)) => {
                    let Describer { group, key, .. } = &described;
                    let found = match elsewhere::may_help(&error) {
                        true => elsewhere::get(group, key, seen, &mut reply).await,
                        false => None,
                    };
                    match found {
                        Some(FoundElsewhere { found, seen }) => (found, seen),
                        None => return reply.send(&failed(storage_failure(&error))),
                    }
                }
                None => return,
            };
            let found = match found {
                KeyValue::Large(found) => return described.run(found, reply).await,
                KeyValue::Bytes(found) => Some(found),
                KeyValue::Nothing => None,
            };
            reply.send(&get_answer(point, found, seen));
        });
    }

    fn describer(
        self: &Rc<Self>,
        group: &Group,
        point: ReadPoint,
        key: &[u8],
        again: Read,
    ) -> Describer {
        Describer {
            handler: Rc::clone(self),
            group: group.clone(),
            point,
            key: Bytes::copy_from_slice(key),
            again,
        }
    }
}

/// Tells what the large value of a key is.
struct Describer {
    handler: Rc<Handler>,
    group: Group,
    point: ReadPoint,
    key: Bytes,
    /// What is done if the value is not large any more.
    again: Read,
}

impl Describer {
    fn start(self, found: FoundLarge, reply: Reply) {
        corelith_io::spawn_urgent(self.run(found, reply));
    }

    async fn run(self, mut found: FoundLarge, mut reply: Reply) {
        // How long it is shows when it is there.
        if !reply.reserve(wire_limits::LARGE_REPLY_BYTES_MAX).await {
            return;
        }
        for _ in 0..limits::DESCRIPTIONS_TRIED_MAX {
            let now = match self.once(&found).await {
                Ok(Described::Reply(answer)) => return reply.send(&answer),
                Ok(Described::Large(now)) => now,
                Ok(Described::Other) => {
                    let Self {
                        handler,
                        group,
                        point,
                        key,
                        again,
                    } = self;
                    return again(&handler, &group, point, &key, reply);
                }
                Err(error) => return reply.send(&failed(storage_failure(&error))),
            };
            if now.version <= found.version {
                let (shard, version) = (self.group.shard(), found.version);
                tracing::error!(%shard, %version, "a large value has no description");
                return reply.send(&failed(Failure::Corrupt));
            }
            found = now;
        }
        // It is overwritten faster than it can be looked at.
        reply.send(&throttled());
    }

    /// The description of `found`, or what the key has instead if that has gone.
    async fn once(&self, found: &FoundLarge) -> StorageResult<Described> {
        let mut turn = Some(self.handler.disk.take().await);
        let meta = ReplyMeta {
            term: self.point.term.0,
            // The value may be newer than the read point.
            index: self.point.index.max(found.version).0,
        };
        let described = match self.group.describe_large(found, meta).await {
            Err(error) if elsewhere::may_help(&error) => {
                // Who asks another replica has no turn at the disk.
                turn = None;
                let key = found.large.upload.key();
                let row = elsewhere::row(&self.group, Space::Upload, &key).await;
                let row = row.ok_or(error)?;
                row.and_then(|row| self.group.describe_by(found, meta, &row))
            }
            described => described?,
        };
        if let Some(large) = described {
            return Ok(Described::Reply(Answer::Large(large)));
        }
        let _turn = match turn {
            Some(turn) => turn,
            None => self.handler.disk.take().await,
        };
        let engine = self.group.engine();
        Ok(match engine.look_up(&self.key) {
            Lookup::Large(now) => Described::Large(now),
            Lookup::Unknown(search) => match engine.search(&self.key, search).await? {
                Sought::Large(now) => Described::Large(now),
                Sought::Found(_) | Sought::Stored(_) => Described::Other,
            },
            Lookup::Found(_) | Lookup::Stored(_) => Described::Other,
        })
    }
}

/// What became of a description.
enum Described {
    Reply(Answer),
    /// The key has this large value now.
    Large(FoundLarge),
    /// The key has none any more.
    Other,
}

impl KeyValue {
    fn head(&self) -> Option<FoundHead> {
        let (version, len) = match self {
            Self::Nothing => return None,
            Self::Bytes(found) => (found.version, found.value.len() as u64),
            Self::Large(found) => (found.version, found.large.len),
        };
        Some(FoundHead { version, len })
    }
}

/// The index of the state in which a key was not there: what was applied when the search began, since what came after
/// the read point may have deleted it.
fn absent_at(point: ReadPoint, seen: LogIndex) -> ReplyMeta {
    assert!(
        seen >= point.index,
        "a read at {:?} saw no more than {seen:?}",
        point.index
    );
    ReplyMeta {
        term: point.term.0,
        index: seen.0,
    }
}

fn get_answer(point: ReadPoint, found: Option<Found>, seen: LogIndex) -> Answer {
    let meta = ReplyMeta {
        term: point.term.0,
        index: point.index.0,
    };
    match found {
        Some(Found { version, value }) => Answer::Value {
            // The value may be newer than the read point.
            meta: ReplyMeta {
                index: meta.index.max(version.0),
                ..meta
            },
            version: version.0,
            value,
        },
        None => Answer::NotFound {
            meta: absent_at(point, seen),
        },
    }
}

fn head_answer(point: ReadPoint, found: Option<FoundHead>, seen: LogIndex) -> Answer {
    let (term, index) = (point.term.0, point.index.0);
    match found {
        Some(FoundHead { version, len }) => Answer::Head {
            // The value may be newer than the read point.
            meta: ReplyMeta {
                term,
                index: index.max(version.0),
            },
            version: version.0,
            value_len: len,
        },
        None => Answer::NotFound {
            meta: absent_at(point, seen),
        },
    }
}
