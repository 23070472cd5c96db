//! A client that retries: it drives one session with one operation at a time.

use super::cluster::{Ask, Doors, GetReply, UploadAsk, begin, chunk, command, commit};
use super::history::History;
use crate::{GroupError, Outcome, WriteReply};
use bytes::Bytes;
use corelith_history::{LogPoint, Observation, What, WriteCondition as Asked};
use corelith_io::{Instant, Sender, channel, now, random_u64, sleep, timeout};
use corelith_shards::ShardId;
use corelith_wire::request::{self, Condition, WriteRequest};
use corelith_wire::upload::{UploadReply, UploadState};
use corelith_wire::{ChunkId, UploadId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long a client waits for one node's answer.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) struct Client {
    pub(super) name: u32,
    pub(super) doors: Doors,
    pub(super) history: Rc<RefCell<History>>,
    pub(super) stop: Rc<Cell<bool>>,
    pub(super) keys: u32,
    target: usize,
    session: Option<u64>,
    number: u64,
    values: u64,
    /// The versions it has seen.
    seen: BTreeMap<u32, u64>,
}

impl Client {
    pub(super) fn new(
        name: u32,
        doors: Doors,
        history: Rc<RefCell<History>>,
        stop: Rc<Cell<bool>>,
        keys: u32,
    ) -> Self {
        let count = doors.borrow().len();
        Self {
            name,
            doors,
            history,
            stop,
            keys,
            target: name as usize % count,
            session: None,
            number: 1,
            values: 0,
            seen: BTreeMap::new(),
        }
    }

    /// Works until told to stop.
    pub(super) async fn run(mut self) {
        while !self.stop.get() {
            let key = (random_u64() % u64::from(self.keys)) as u32;
            match random_u64() % 12 {
                0..4 => self.write(key, None).await,
                10.. => self.upload(key).await,
                4..7 => {
                    let expected = self.seen.get(&key).copied().unwrap_or(0);
                    self.write(key, Some(expected)).await;
                }
                _ => self.read(key).await,
            }
            sleep(Duration::from_micros(random_u64() % 20_000)).await;
        }
    }

    /// Asks nodes in turn until one answers or it is told to stop.
    async fn ask<T>(&mut self, make: impl Fn(Sender<Result<T, GroupError>>) -> Ask) -> Option<T> {
        let mut tried = 0;
        while !self.stop.get() {
            let door = self.doors.borrow()[self.target].clone();
            let (reply, answer) = channel(1);
            let asked = match door {
                Some(door) => door.try_send(make(reply)).is_ok(),
                None => false,
            };
            let answer = match asked {
                true => timeout(PATIENCE, answer.recv()).await.ok(),
                false => None,
            };
            tried += 1;
            match answer {
                Some(Ok(Ok(answer))) => return Some(answer),
                Some(Ok(Err(
                    GroupError::NotLeader {
                        leader: Some(leader),
                    }
                    | GroupError::LeadershipLost {
                        leader: Some(leader),
                    },
                ))) if tried % 8 != 0 => self.target = leader.0 as usize - 1,
                _ if tried % 8 != 0 => self.target = (self.target + 1) % self.doors.borrow().len(),
                // Replicas that were left behind name each other.
                _ => self.target = (random_u64() % self.doors.borrow().len() as u64) as usize,
            }
            sleep(Duration::from_millis(20 + random_u64() % 50)).await;
        }
        None
    }

    async fn session(&mut self) -> Option<u64> {
        if let Some(session) = self.session {
            return Some(session);
        }
        let opened: WriteReply = self.ask(|reply| Ask::Open(ShardId(0), reply)).await?;
        let Outcome::SessionOpened { session } = opened.outcome else {
            panic!("{opened:?}");
        };
        self.session = Some(session);
        self.number = 1;
        Some(session)
    }

    async fn write(&mut self, key: u32, expected: Option<u64>) {
        let Some(session) = self.session().await else {
            return;
        };
        self.values += 1;
        let number = u64::from(self.name) << 32 | self.values;
        let value = Bytes::from(number.to_string());
        let asked = match expected {
            None => Asked::Any,
            Some(0) => Asked::Absent,
            Some(version) => Asked::Version(version),
        };
        let name = format!("key-{key}");
        let request = WriteRequest {
            session,
            number: self.number,
            answered_below: self.number,
            condition: match asked {
                Asked::Any => Condition::Any,
                Asked::Absent => Condition::Absent,
                Asked::Version(version) => Condition::Version(version),
            },
            operation: request::Operation::Put,
            key: name.as_bytes(),
        };
        let command = command(&request, &value);
        let begun = now();
        let answer = self
            .ask(|reply| Ask::Write(ShardId(0), command.clone(), reply))
            .await;
        self.number += 1;
        let value = Some(number);
        let Some(reply) = answer else {
            let what = What::Unknown {
                value,
                condition: asked,
            };
            return self.note(key, begun, None, what);
        };
        let at = point(reply.at.term.0, reply.at.index.0);
        let what = match reply.outcome {
            Outcome::Applied { version } => {
                assert_eq!(
                    version, reply.at.index,
                    "a version is the index of its write"
                );
                self.seen.insert(key, version.0);
                What::Written {
                    value,
                    condition: asked,
                    at,
                }
            }
            Outcome::Conflict { current } => {
                let current = current.map_or(0, |version| version.0);
                self.seen.insert(key, current);
                What::Refused {
                    condition: asked,
                    current,
                    at: Some(at),
                }
            }
            other => panic!("client {}: {other:?}", self.name),
        };
        self.note(key, begun, Some(now()), what);
    }

    /// Puts a large value: its upload's number stands for it. What was acknowledged is not lost.
    async fn upload(&mut self, key: u32) {
        self.values += 1;
        let number = u64::from(self.name) << 32 | self.values;
        let upload = UploadId(number.into());
        let expected = match random_u64() % 2 {
            0 => None,
            _ => Some(self.seen.get(&key).copied().unwrap_or(0)),
        };
        let (asked, condition) = match expected {
            None => (Asked::Any, Condition::Any),
            Some(0) => (Asked::Absent, Condition::Absent),
            Some(version) => (Asked::Version(version), Condition::Version(version)),
        };
        let ttl_ms = 3_600_000;
        let begun = begin(upload, &format!("key-{key}"), ttl_ms);
        let Some(reply) = self.ask_upload(UploadAsk::Begin(begun)).await else {
            return;
        };
        assert_eq!(reply.state, UploadState::Open, "{upload} begins");
        let parts = parts_of(upload);
        for (part, bytes) in (0..).zip(&parts) {
            let id = ChunkId {
                upload,
                part,
                chunk: 0,
            };
            let Some(reply) = self.ask_upload(UploadAsk::Chunk(chunk(id, bytes))).await else {
                return;
            };
            assert_eq!(reply.state, UploadState::Open, "{id} is taken");
        }
        let began = now();
        let committed = commit(upload, condition, &parts);
        let reply = self.ask_upload(UploadAsk::Commit(committed)).await;
        let value = Some(number);
        let Some(reply) = reply else {
            let condition = asked;
            return self.note(key, began, None, What::Unknown { value, condition });
        };
        let what = match reply.state {
            UploadState::Committed { version } => {
                self.seen.insert(key, version);
                // One that was answered before says so in a later entry.
                let is_first = reply.meta.index == version;
                let term = if is_first { reply.meta.term } else { 0 };
                What::Written {
                    value,
                    condition: asked,
                    at: point(term, version),
                }
            }
            UploadState::Conflicted { current } => {
                let current = current.unwrap_or(0);
                self.seen.insert(key, current);
                What::Refused {
                    condition: asked,
                    current,
                    at: None,
                }
            }
            other => panic!("client {}: {upload} is {other:?}", self.name),
        };
        self.note(key, began, Some(now()), what);
    }

    async fn ask_upload(&mut self, ask: UploadAsk) -> Option<UploadReply> {
        self.ask(|reply| Ask::Upload(ShardId(0), ask.clone(), reply))
            .await
    }

    async fn read(&mut self, key: u32) {
        let name = Bytes::from(format!("key-{key}"));
        // Half of the reads go to any node, and to others if that one does not answer.
        let here = random_u64().is_multiple_of(2);
        if here {
            self.target = (random_u64() % self.doors.borrow().len() as u64) as usize;
        }
        let begun = now();
        let answer = self
            .ask(|reply: Sender<GetReply>| match here {
                true => Ask::GetHere(ShardId(0), name.clone(), reply),
                false => Ask::Get(ShardId(0), name.clone(), reply),
            })
            .await;
        let Some((read, found)) = answer else { return };
        let found = found.map(|found| {
            let text = std::str::from_utf8(&found.value).unwrap();
            (found.version.0, text.parse().unwrap())
        });
        let version = found.map_or(0, |(version, _)| version);
        self.seen.insert(key, version);
        // More may have been applied between the read point and the look into the engine.
        let at = point(read.term.0, read.index.0.max(version));
        self.note(key, begun, Some(now()), What::Read { found, at });
    }

    fn note(&self, key: u32, began: Instant, ended: Option<Instant>, what: What) {
        self.history.borrow_mut().operations.push(Observation {
            client: self.name.into(),
            shard: 0,
            key: format!("key-{key}"),
            began: began.as_nanos(),
            ended: ended.map(Instant::as_nanos),
            node: self.target as u64 + 1,
            what,
        });
    }
}

/// The parts of an upload's value, as its id says; some are long enough for a log to separate them.
pub(super) fn parts_of(upload: UploadId) -> Vec<Bytes> {
    let number = upload.0 as u64;
    let part = |part: u64| {
        let mixed = (number.wrapping_mul(31) + part).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let len = match mixed % 4 {
            0 => 1 + mixed % 200,
            1 | 2 => 256 + mixed % 2000,
            _ => 30_000 + mixed % 20_000,
        };
        Bytes::from(vec![mixed as u8; len as usize])
    };
    (0..number % 4).map(part).collect()
}

fn point(term: u64, index: u64) -> LogPoint {
    LogPoint { term, index }
}
