//! The decisions of a client: where to send a request, when to retry, and how a write without an answer
//! ends. No I/O, no clock, no randomness of its own: a simulator drives the same code as
//! [`Client`](crate::Client).
//!
//! [`Session::proceed`] (at first, and after a pause) and [`Session::report`] (after an attempt) advance
//! an operation; both return its next [`Step`].
//!
//! Invariants:
//! - A write keeps its session and number over all attempts, so that it applies at most once. It
//!   gets another number only if its session is gone and no attempt can have been applied.
//! - `answered_below` passes a number only when its write has ended.
//! - A write that ends as `Unavailable`, `Throttled`, `DiskFull` or `ShardFull` had no effect and will have
//!   none. If the outcome of an attempt is unknown, the write ends with a server's answer about this very
//!   number, or as `Indeterminate`.
//! - At most one operation per shard opens a session.
//! - While a shard has no leader, one operation at a time asks for one often; the others wait for its answer, or ask
//!   at longer pauses. They all go on once it is known who leads.
//! - Requests of uploads have no numbers, since each may be repeated. Of these, only a commit can end as `Indeterminate`.
//! - A read of a chunk goes from replica to replica until one has it, and to the leader last.
//! - A read that a replica fails or refuses goes on to the leader, and stays with leaders until it ends.
//! - No read ends with a log index below one that the client had seen of the shard when the read began.

mod news;
mod reads;
mod scouts;

pub use crate::doubt::Question;
use crate::doubt::{self, Doubts};
use crate::error::{Cause, Error};
use crate::limits::{
    DAMAGED_PATIENCE, REDIRECTS_MAX, REFUSED_SUSPICION, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN,
    SILENT_SUSPICION,
};
use crate::numbers::Numbers;
pub use crate::operation::{Event, Operation, Request, Step};
use crate::replicas::Replicas;
pub use crate::replicas::{Probe, ReadFrom, Source};
pub use crate::route::Target;
use crate::route::{Learned, Routes};
pub use crate::upload_ask::UploadAsk;
use corelith_wire::map::ClusterMap;
use corelith_wire::response::{Answer, Failure};
use corelith_wire::{Epoch, NodeId, ShardId, limits};
use scouts::Scouts;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// The client's session at one shard.
#[derive(Debug)]
enum ShardSession {
    /// None yet, or the last one expired.
    Closed,
    /// An operation is opening one.
    Opening,
    /// Open.
    Open { id: u64, numbers: Numbers },
}

/// A client's knowledge of its cluster. The client's callers share it behind a lock, which is held for
/// one decision at a time.
#[derive(Debug)]
pub struct Session {
    routes: Routes,
    doubts: Doubts,
    replicas: Replicas,
    /// Per shard: the highest log index of any answer.
    seen: Vec<u64>,
    shards: Vec<ShardSession>,
    scouts: Scouts,
    /// From when on an operation that finds no leader asks for a newer map.
    refresh_at: Duration,
    /// Whether it is time for that.
    wants_map: bool,
    /// Whether a newer map was adopted that the transport does not know of.
    has_newer_map: bool,
    /// The server's window, the same for every session.
    window: u32,
    /// Identifies this client in the servers' session tables.
    client: u64,
    random: u64,
    stirred: Option<ShardId>,
}

impl Session {
    /// A new client's session. All its randomness comes from `seed`.
    pub fn new(map: Arc<ClusterMap>, window: u32, seed: u64) -> Self {
        let shards: Vec<_> = map.shards.iter().map(|_| ShardSession::Closed).collect();
        let scouts = Scouts::new(shards.len());
        let mut session = Self {
            routes: Routes::new(map),
            doubts: Doubts::default(),
            replicas: Replicas::new(shards.len(), seed),
            seen: vec![0; shards.len()],
            shards,
            scouts,
            refresh_at: Duration::ZERO,
            wants_map: false,
            has_newer_map: false,
            window: window.clamp(1, limits::SESSION_WINDOW),
            client: 0,
            random: seed,
            stirred: None,
        };
        session.client = session.next_random();
        session
    }

    /// The newest cluster map that it has.
    pub fn map(&self) -> &Arc<ClusterMap> {
        self.routes.map()
    }

    /// Host and port of `target`, `None` if it is not in the map.
    pub fn address(&self, target: Target) -> Option<(String, u16)> {
        self.routes.address(target)
    }

    /// The shard whose parked operations must ask again because of the last call, if any.
    pub fn take_stirred(&mut self) -> Option<ShardId> {
        self.stirred.take()
    }

    /// A new operation, which must end by `deadline`.
    pub fn operation(&self, request: Request, deadline: Duration) -> Operation {
        let shard = match &request {
            Request::Write { key, .. } | Request::Get { key } | Request::Head { key } => {
                self.map().shard_of(key)
            }
            Request::Scan { shard, .. } | Request::Upload { shard, .. } => *shard,
        };
        Operation {
            request,
            shard,
            deadline,
            ticket: None,
            opening: false,
            doubt: false,
            asked: None,
            source: Source::From(ReadFrom::Leader),
            at_replica: false,
            floor: self.seen.get(shard.0 as usize).copied().unwrap_or(0),
            turn: None,
            unable: Vec::new(),
            without: Vec::new(),
            damaged_since: None,
            redirects: 0,
            pauses: 0,
            leaderless_since: None,
            seeks_until: None,
            cause: Cause::NotTried,
            retry_after: None,
            epoch: Epoch(0),
            client: self.client,
            done: false,
        }
    }

    /// Notes that requests at `node` have no answer for long. Returns whether the driver must begin a search: ask
    /// [`Session::question`] again and again, until it says [`Question::End`].
    pub fn doubt(&mut self, node: NodeId, now: Duration) -> bool {
        self.doubts.begin(node, now)
    }

    /// The next step of the search about `node`, at which requests of the shards `waiting` are overdue.
    pub fn question(
        &mut self,
        node: NodeId,
        waiting: &BTreeSet<ShardId>,
        now: Duration,
    ) -> Question {
        let random = self.next_random();
        self.doubts.next(node, waiting, &self.routes, random, now)
    }

    /// Takes the answer to a question about `node`. Returns the shards that another node leads now: their requests
    /// at `node` end as [`Event::Moved`], and their operations that wait must ask again.
    pub fn learned(&mut self, node: NodeId, event: &Event) -> Vec<ShardId> {
        doubt::learn(&mut self.routes, node, event)
    }

    /// The next step of an operation that is new, or whose [`Step::Pause`], [`Step::Seek`] or [`Step::Park`] is
    /// over.
    pub fn proceed(&mut self, operation: &mut Operation, now: Duration) -> Step {
        self.end_search(operation);
        if now >= operation.deadline {
            return self.give_up(operation);
        }
        if operation.is_write()
            && !operation.opening
            && let Some(wait) = self.number(operation)
        {
            return wait;
        }
        if operation.epoch != Epoch(self.map().epoch) {
            // Whoever was asked by another map says nothing of whom to ask by this one.
            operation.turn = None;
        }
        let (shard, source) = (operation.shard, operation.source);
        let without = &operation.without;
        let replica = self
            .replicas
            .choose(&self.routes, shard, source, without, now);
        operation.at_replica = replica.is_some();
        if let Some(target) = replica {
            return self.send(operation, target, now);
        }
        let leader = self.routes.leader(operation.shard);
        let Some(target) = self.routes.target(operation.shard, operation.turn, now) else {
            return self.end(operation, Err(Error::Invalid { what: "shard" }));
        };
        if leader != Some(target.node) {
            operation.turn = Some(target.node);
        }
        self.send(operation, target, now)
    }

    fn send(&self, operation: &mut Operation, target: Target, now: Duration) -> Step {
        operation.asked = Some(target.node);
        operation.epoch = Epoch(self.map().epoch);
        let until = operation.deadline.min(now + operation.attempt_timeout());
        Step::Send { target, until }
    }

    /// Gives a write its number. If it must wait for one, returns the step; if the shard has no session,
    /// makes this operation open it.
    fn number(&mut self, operation: &mut Operation) -> Option<Step> {
        let shard = operation.shard;
        let Some(session) = self.shards.get_mut(shard.0 as usize) else {
            return Some(self.end(operation, Err(Error::Invalid { what: "shard" })));
        };
        if let Some(ticket) = &mut operation.ticket {
            if let ShardSession::Open { id, numbers } = session
                && *id == ticket.session
            {
                ticket.answered_below = numbers.answered_below();
            }
            return None;
        }
        match session {
            ShardSession::Closed => {
                *session = ShardSession::Opening;
                operation.opening = true;
                None
            }
            ShardSession::Opening => Some(Step::Park { shard }),
            ShardSession::Open { id, numbers } => {
                let Some(number) = numbers.give() else {
                    return Some(Step::Park { shard });
                };
                assert!(
                    number >= numbers.answered_below(),
                    "{number} was settled before"
                );
                operation.ticket = Some(crate::operation::WriteTicket {
                    session: *id,
                    number,
                    answered_below: numbers.answered_below(),
                });
                None
            }
        }
    }

    /// The next step after an attempt.
    pub fn report(&mut self, operation: &mut Operation, event: Event, now: Duration) -> Step {
        operation.retry_after = None;
        if operation.at_replica && self.goes_to_next_holder(operation, &event, now) {
            return self.proceed(operation, now);
        }
        if operation.at_replica && self.leaves_replicas(operation, &event, now) {
            return self.proceed(operation, now);
        }
        match event {
            Event::Answer(Answer::Failure { failure, .. }) => self.failed(operation, failure, now),
            Event::Answer(answer) => self.answered(operation, answer, now),
            Event::NotSent(cause) => {
                self.unreachable(operation, cause, now);
                self.go_on(operation, now)
            }
            Event::Lost(cause) => {
                operation.doubt |= operation.leaves_doubt();
                self.unreachable(operation, cause, now);
                self.go_on(operation, now)
            }
            Event::Moved => {
                operation.doubt |= operation.leaves_doubt();
                operation.cause = Cause::LeadershipLost;
                self.go_on(operation, now)
            }
        }
    }

    /// Goes to the next node at once, or after a pause if it has done so too often.
    fn go_on(&mut self, operation: &mut Operation, now: Duration) -> Step {
        operation.redirects += 1;
        if operation.redirects <= REDIRECTS_MAX {
            self.proceed(operation, now)
        } else {
            self.seek(operation, now)
        }
    }

    fn unreachable(&mut self, operation: &mut Operation, cause: Cause, now: Duration) {
        let suspected = suspicion(&cause);
        operation.cause = cause;
        if let (Some(node), Some(suspicion)) = (operation.asked, suspected) {
            self.routes.suspect(node, now + suspicion);
            // A pause may outlast a suspicion, but the next attempt must still go to another node, or
            // the client would ask a dead leader forever.
            self.routes.does_not_lead(operation.shard, node);
        }
    }

    /// Notes that `node` answered as the leader; operations that wait for one go on if it was not known.
    fn leader_answers(&mut self, shard: ShardId, node: NodeId, answer: &Answer) {
        let was_known = self.routes.leader(shard).is_some();
        let term = answer.meta().map_or(0, |meta| meta.term);
        let learned = self.routes.leads(shard, node, term);
        // A repeated write is answered with the term of its first attempt.
        if learned == Learned::Old && !was_known {
            self.routes.named(shard, node);
        }
        if learned != Learned::Known {
            self.stirred = Some(shard);
        }
    }

    fn answered(&mut self, operation: &mut Operation, answer: Answer, now: Duration) -> Step {
        if let Some(node) = operation.asked {
            self.routes.trust(node);
            // A chunk says nothing of who leads.
            match operation.at_replica || operation.reads_chunk() {
                true => self.replicas.answers(operation.shard, node),
                false => self.leader_answers(operation.shard, node, &answer),
            }
        }
        let fits = match (&answer, &operation.request) {
            (Answer::SessionOpened { session, .. }, _) if operation.opening => {
                let id = *session;
                let known = self.shards.get(operation.shard.0 as usize);
                assert!(
                    operation.done || matches!(known, Some(ShardSession::Opening)),
                    "one operation of a shard opens its session"
                );
                operation.opening = false;
                let numbers = Numbers::new(self.window);
                self.set_session(operation.shard, ShardSession::Open { id, numbers });
                return self.proceed(operation, now);
            }
            (_, _) if operation.opening => false,
            (Answer::Written { .. } | Answer::Conflict { .. }, Request::Write { .. }) => true,
            (Answer::Value { .. } | Answer::NotFound { .. }, Request::Get { .. }) => true,
            (Answer::Head { .. }, Request::Head { .. }) => true,
            (Answer::Large(_), Request::Get { .. } | Request::Head { .. }) => true,
            (answer, Request::Upload { ask, .. }) => ask.is_answered_by(answer),
            (Answer::ScanPage(_), Request::Scan { .. }) => true,
            (Answer::ScanHeads(_), Request::Scan { keys_only, .. }) => *keys_only,
            // Older releases always send the value.
            (Answer::Value { .. } | Answer::NotFound { .. }, Request::Head { .. }) => true,
            _ => false,
        };
        if fits && self.is_fresh(operation, &answer) {
            return self.end(operation, Ok(answer));
        }
        if fits {
            return self.broken(operation, "it shows less than it has shown before");
        }
        operation.cause = Cause::Answer(corelith_wire::DecodeError::Malformed {
            what: "kind of answer",
        });
        self.broken(operation, "an answer of the wrong kind")
    }

    fn failed(&mut self, operation: &mut Operation, failure: Failure, now: Duration) -> Step {
        let asked = operation.asked.unwrap_or_default();
        self.routes.trust(asked);
        match failure {
            Failure::NotLeader { leader } => self.redirected(operation, NodeId(leader), now),
            Failure::WrongNode => {
                operation.cause = Cause::WrongNode;
                self.routes.does_not_lead(operation.shard, asked);
                match self.pause(operation, now) {
                    Step::Pause { until } => Step::Refresh { until },
                    other => other,
                }
            }
            Failure::WrongEpoch { map } => {
                operation.cause = Cause::WrongNode;
                // Or it would have answered.
                self.routes.does_not_lead(operation.shard, asked);
                let newer = self.adopt(map);
                if newer {
                    self.proceed(operation, now)
                } else {
                    self.pause(operation, now)
                }
            }
            Failure::Throttled { retry_after_ms } => {
                operation.cause = Cause::Overload;
                let retry_after = Duration::from_millis(retry_after_ms.into()).max(RETRY_PAUSE_MIN);
                operation.retry_after = Some(retry_after);
                if now + retry_after >= operation.deadline {
                    return self.give_up(operation);
                }
                let spread = self.up_to(retry_after / 2);
                self.pause_until(operation, now + retry_after + spread, now)
            }
            // These answers are about the request itself, so no attempt of it was applied.
            Failure::TooLarge { limit } => {
                let (what, len) = operation.largest(limit);
                self.end(operation, Err(Error::TooLarge { what, len, limit }))
            }
            Failure::Malformed => self.end(
                operation,
                Err(Error::Protocol {
                    what: "it calls the request malformed",
                }),
            ),
            Failure::VersionGone if matches!(operation.request, Request::Scan { .. }) => {
                self.end(operation, Err(Error::ScanExpired))
            }
            Failure::DiskFull => self.cannot(operation, Error::DiskFull, now),
            Failure::ShardFull => self.cannot(operation, Error::ShardFull, now),
            Failure::Corrupt if operation.changes() => self.cannot(operation, Error::Corrupt, now),
            Failure::Corrupt => self.damaged(operation, now),
            Failure::Unavailable {
                reason,
                nothing_done,
            } => {
                operation.doubt |= operation.leaves_doubt() && !nothing_done;
                operation.cause = Cause::from(reason);
                // Without a majority another node may lead: each replica is asked in turn.
                self.routes.does_not_lead(operation.shard, asked);
                operation.turn = Some(asked);
                self.seek(operation, now)
            }
            Failure::SessionExpired => self.session_expired(operation, now),
            Failure::WindowFull => {
                operation.cause = Cause::Overload;
                self.pause(operation, now)
            }
            Failure::Stale | Failure::VersionGone => {
                operation.cause = Cause::SessionExpired;
                self.broken(operation, "it calls a live request outdated")
            }
        }
    }

    /// A node reports to a write that its disk or shard is full or its data damaged. It may not be the leader (any
    /// more), so each of the other replicas is asked once before the report is final.
    fn cannot(&mut self, operation: &mut Operation, error: Error, now: Duration) -> Step {
        let asked = operation.asked.unwrap_or_default();
        self.routes.does_not_lead(operation.shard, asked);
        operation.turn = Some(asked);
        let known = operation.unable.contains(&asked);
        if !known {
            operation.unable.push(asked);
        }
        let mut replicas = self.map().replicas(operation.shard);
        let is_last = replicas.all(|node| operation.unable.contains(&node));
        drop(replicas);
        if known || is_last {
            if operation.doubt {
                // This attempt had no effect, but an earlier one may have had one.
                return self.pause(operation, now);
            }
            return self.end(operation, Err(error));
        }
        operation.redirects += 1;
        if operation.redirects <= REDIRECTS_MAX {
            self.proceed(operation, now)
        } else {
            self.pause(operation, now)
        }
    }

    /// A node reports that the data of a read is damaged. A leader hands its lead to a replica with a good copy,
    /// which takes about a second, so the read is repeated until such a replica answers.
    fn damaged(&mut self, operation: &mut Operation, now: Duration) -> Step {
        let asked = operation.asked.unwrap_or_default();
        self.routes.does_not_lead(operation.shard, asked);
        operation.turn = Some(asked);
        let since = *operation.damaged_since.get_or_insert(now);
        let is_alone = self.map().replicas(operation.shard).count() <= 1;
        if is_alone || now.saturating_sub(since) >= DAMAGED_PATIENCE {
            return self.end(operation, Err(Error::Corrupt));
        }
        operation.redirects += 1;
        if operation.redirects <= REDIRECTS_MAX {
            self.proceed(operation, now)
        } else {
            self.pause(operation, now)
        }
    }

    fn session_expired(&mut self, operation: &mut Operation, now: Duration) -> Step {
        let Some(ticket) = operation.ticket else {
            return self.broken(operation, "it misses a session that was not used");
        };
        operation.cause = Cause::SessionExpired;
        let shard = operation.shard;
        if let Some(ShardSession::Open { id, .. }) = self.shards.get(shard.0 as usize)
            && *id == ticket.session
        {
            self.set_session(shard, ShardSession::Closed);
        }
        if operation.doubt {
            return self.give_up(operation);
        }
        operation.ticket = None;
        operation.redirects += 1;
        if operation.redirects <= REDIRECTS_MAX {
            self.proceed(operation, now)
        } else {
            self.pause(operation, now)
        }
    }

    /// Ends an operation whose server violated the protocol.
    fn broken(&mut self, operation: &mut Operation, what: &'static str) -> Step {
        if operation.leaves_doubt() {
            let cause = operation.cause.clone();
            self.end(operation, Err(Error::Indeterminate { cause }))
        } else {
            self.end(operation, Err(Error::Protocol { what }))
        }
    }

    /// Exponential backoff: each pause doubles, with jitter over its upper half.
    fn pause(&mut self, operation: &mut Operation, now: Duration) -> Step {
        let longest = RETRY_PAUSE_MIN * 2u32.saturating_pow(operation.pauses.min(16));
        let longest = longest.min(RETRY_PAUSE_MAX);
        assert!(longest >= RETRY_PAUSE_MIN, "a pause of {longest:?}");
        let jitter = self.up_to(longest / 2);
        self.pause_until(operation, now + longest / 2 + jitter, now)
    }

    fn pause_until(&mut self, operation: &mut Operation, until: Duration, now: Duration) -> Step {
        operation.pauses += 1;
        operation.redirects = 0;
        if now >= operation.deadline {
            return self.give_up(operation);
        }
        Step::Pause {
            until: until.min(operation.deadline),
        }
    }

    /// Ends an operation whose deadline passes: as `Indeterminate` if an attempt may have had an effect, and as
    /// `Corrupt` if a replica reported damage and no other one has answered.
    fn give_up(&mut self, operation: &mut Operation) -> Step {
        let cause = operation.cause.clone();
        let error = match operation.retry_after {
            _ if operation.doubt => Error::Indeterminate { cause },
            Some(retry_after) => Error::Throttled { retry_after },
            None if operation.damaged_since.is_some() => Error::Corrupt,
            None => Error::Unavailable { cause },
        };
        self.end(operation, Err(error))
    }

    fn end(&mut self, operation: &mut Operation, result: Result<Answer, Error>) -> Step {
        self.abandon(operation);
        assert!(operation.done, "it is not asked again");
        Step::Done(result)
    }

    /// Abandons an operation that its caller no longer waits for: it is not sent again. Does nothing if
    /// it has ended.
    pub fn abandon(&mut self, operation: &mut Operation) {
        if std::mem::replace(&mut operation.done, true) {
            return;
        }
        let shard = operation.shard;
        if self.end_search(operation) {
            // Another one is to ask.
            self.stirred = Some(shard);
        }
        if operation.opening {
            self.set_session(shard, ShardSession::Closed);
        }
        if let Some(ticket) = operation.ticket
            && let Some(ShardSession::Open { id, numbers }) = self.shards.get_mut(shard.0 as usize)
            && *id == ticket.session
            && numbers.settle(ticket.number)
        {
            self.stirred = Some(shard);
        }
    }

    fn set_session(&mut self, shard: ShardId, session: ShardSession) {
        if let Some(place) = self.shards.get_mut(shard.0 as usize) {
            *place = session;
            self.stirred = Some(shard);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next_random() % nanos.max(1))
    }
}

/// How long other nodes are preferred to a node after this cause: longer if it takes long to detect
/// again. A broken connection alone causes no suspicion; the attempt to reconnect will show.
fn suspicion(cause: &Cause) -> Option<Duration> {
    match cause {
        Cause::Timeout | Cause::Connect(ErrorKind::TimedOut) => Some(SILENT_SUSPICION),
        Cause::Connect(_) | Cause::Handshake(_) | Cause::Resolve { .. } => Some(REFUSED_SUSPICION),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
