//! Serving the requests of one peer's core.
//!
//! Requests about one shard reach its group in the order they came, without waiting for each other
//! or for other shards; answers go out as they are ready, all that are ready in one write.

use crate::admission::Refusal;
use crate::connection::{ConnectionError, FrameReader, Outgoing};
use crate::files;
use crate::group::Group;
use crate::groups::Groups;
use crate::introduction::Acquaintances;
use crate::limits::{
    APPEND_TASK_BYTES_MAX, FETCH_LOOK_EVERY, FETCH_WAIT_MAX, FETCHES_WAITING_MAX, NODE_ASKS_MAX,
    PEER_ANSWERS_BYTES_MAX, PEER_LOOK_EVERY, PEER_TRANSFER_DEADLINE,
};
use crate::link::LinkConfig;
use crate::planted::{Bug, is_planted};
use crate::route::{Caller, NodeStore, Target};
use bytes::BytesMut;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{Instant, ReadHalf, WriteHalf};
use corelith_shards::limits::FILE_PIECE_BYTES;
use corelith_wire::peer::{
    self, AppendHead, AppendResult, FileAsk, HeartbeatReply, Introduction, NodeReply, PeerVote,
    PromiseEpoch, kinds,
};
use corelith_wire::{Epoch, Frame, Head, Kind, NodeId, Outbox, RequestId, ShardId};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

/// One connection of a peer.
struct PeerServer {
    groups: Groups,
    /// Where the peer is.
    address: Option<SocketAddr>,
    /// What it said of itself.
    theirs: Introduction,
    acquaintances: Rc<Acquaintances>,
    outgoing: Outgoing,
    beat_replies: RefCell<Vec<HeartbeatReply>>,
    /// Questions to the node that are not answered.
    asked: Cell<usize>,
    /// Questions for what is damaged at the peer are answered one after the other.
    fetching: Semaphore,
    /// How many wait.
    fetches: Cell<usize>,
}

impl Groups {
    /// Serves a connection from `address` on which `peer` has said hello and was welcomed: lets it
    /// introduce itself, and goes on if it is known; returns when the connection ends. `leftover` is what was read beyond the handshake.
    pub async fn serve_peer(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        leftover: BytesMut,
        peer: NodeId,
        address: Option<SocketAddr>,
    ) {
        let ended = serve(self.clone(), read, write, leftover, peer, address).await;
        let address = address.map(tracing::field::display);
        tracing::debug!(%peer, address, %ended, "peer connection ended");
    }
}

/// Serves a connection until it ends.
async fn serve(
    groups: Groups,
    read: ReadHalf,
    write: WriteHalf,
    leftover: BytesMut,
    peer: NodeId,
    address: Option<SocketAddr>,
) -> ConnectionError {
    let acquaintances = Rc::clone(&groups.link_config().acquaintances);
    let LinkConfig { epoch, timeout, .. } = *groups.link_config();
    let (mut reader, mut write) = (FrameReader::new(read, leftover), write);
    let receiving = acquaintances.receive(peer, address, epoch, &mut reader, &mut write);
    let theirs = match corelith_io::timeout(timeout, receiving).await {
        Ok(Ok(theirs)) => theirs,
        Ok(Err(error)) => return error,
        Err(corelith_io::Elapsed) => return ConnectionError::Slow,
    };
    let server = Rc::new(PeerServer {
        groups,
        theirs,
        acquaintances,
        address,
        outgoing: Outgoing::default(),
        beat_replies: RefCell::default(),
        asked: Cell::new(0),
        fetching: Semaphore::new(1),
        fetches: Cell::new(0),
    });
    let watching = pin!(server.watch(reader.part_since()));
    let reading = pin!(server.read(reader));
    let writing = pin!(
        server
            .outgoing
            .write_to(write, |out| server.append_beat_replies(out))
    );
    let io = pin!(select(reading, writing));
    match select(io, watching).await {
        Either::Left((Either::Left((error, _)) | Either::Right((error, _)), _))
        | Either::Right((error, _)) => error,
    }
}

impl PeerServer {
    async fn read(self: &Rc<Self>, mut reader: FrameReader) -> ConnectionError {
        loop {
            let frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            if !self.acquaintances.hear(&self.theirs) {
                return ConnectionError::Replaced;
            }
            for frame in frames {
                if let Err(error) = frame
                    .map_err(ConnectionError::from)
                    .and_then(|frame| self.handle(&frame))
                {
                    return error;
                }
            }
            corelith_io::yield_if_needed().await;
        }
    }

    /// Waits until the peer is too slow with what has begun, or has started anew.
    async fn watch(&self, part_since: Rc<Cell<Option<Instant>>>) -> ConnectionError {
        loop {
            corelith_io::sleep(PEER_LOOK_EVERY).await;
            if !self.acquaintances.is_last(&self.theirs) {
                return ConnectionError::Replaced;
            }
            let now = corelith_io::now();
            let is_slow = |since: Option<Instant>| {
                since.is_some_and(|since| now - since > PEER_TRANSFER_DEADLINE)
            };
            if is_slow(part_since.get())
                || is_slow(self.outgoing.writing_since())
                || self.outgoing.len() > PEER_ANSWERS_BYTES_MAX
            {
                return ConnectionError::Slow;
            }
        }
    }

    fn handle(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        match head.kind {
            kinds::APPEND => self.append(frame)?,
            kinds::HEARTBEATS => {
                for beat in peer::parse_heartbeats(frame)? {
                    self.beat(head, beat);
                }
            }
            kinds::VOTE | kinds::PRE_VOTE => self.vote(frame)?,
            kinds::TRANSFER => self.transfer(frame)?,
            kinds::LEAD => self.lead(frame)?,
            kinds::READ_POINT => self.read_point(head),
            kinds::FETCH => self.fetch(head, peer::parse_fetch(frame)?),
            kinds::NODE => self.node(frame)?,
            kinds::SNAPSHOT_OFFER => {
                let (transfer, vote) = peer::parse_snapshot_offer(frame)?;
                self.take_offer(head, transfer, vote);
            }
            kinds::FILE_PIECE => self.give_file(head, peer::parse_file_ask(frame)?),
            other => return Err(ConnectionError::Unexpected(other.0)),
        }
        Ok(())
    }

    fn node(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let ask = peer::parse_node(frame)?;
        let answer = self.groups.neighbours().borrow().clone();
        let Some(answer) = answer else {
            self.plain(head, kinds::REFUSED);
            return Ok(());
        };
        if self.asked.get() >= NODE_ASKS_MAX {
            let busy = NodeReply::Busy;
            self.outgoing
                .send(|out| peer::encode_node_reply(out, head, &busy));
            return Ok(());
        }
        self.asked.set(self.asked.get() + 1);
        assert!(self.asked.get() <= NODE_ASKS_MAX, "answers are bounded");
        let server = Rc::clone(self);
        drop(corelith_io::spawn(async move {
            let reply = answer(server.theirs.node, server.theirs.store, ask).await;
            server
                .outgoing
                .send(|out| peer::encode_node_reply(out, head, &reply));
            server.asked.set(server.asked.get() - 1);
        }));
        Ok(())
    }

    /// The node at the other end, and its store.
    fn peer(&self) -> NodeStore {
        NodeStore {
            node: self.theirs.node,
            store: self.theirs.store,
        }
    }

    /// The same, with the start of the store.
    fn caller(&self) -> Caller {
        Caller {
            at: self.peer(),
            start: self.theirs.start,
        }
    }

    /// The epoch of this node's promise to the peer's, before openraft gets anything.
    fn epoch(&self, group: Option<&Group>) -> PromiseEpoch {
        let epoch = group.map(|group| group.epoch_towards(self.theirs.node));
        epoch.unwrap_or_default()
    }

    /// The replica that a message is for, if it is the one that is here.
    fn group(&self, head: Head) -> Option<Group> {
        let group = self.groups.group(head.shard)?;
        let is_it = Target::named(&head) == Some(Target::of(head.shard, group.replica()));
        (is_it || is_planted(Bug::AnswerForEarlierReplicas)).then_some(group)
    }

    fn plain(&self, head: Head, kind: Kind) {
        self.outgoing
            .send(|out| peer::encode_plain(out, head, kind));
    }

    /// Says why a message about `shard` was refused.
    fn refused(&self, shard: ShardId, refusal: &Refusal) {
        let refusals = self.groups.refusals();
        refusals.note(shard, self.theirs.node, self.address, refusal);
    }

    /// Starts `work` now, which keeps the order of requests, and finishes it in a task of its own
    /// if it has to wait.
    fn start(work: impl Future<Output = ()> + 'static) {
        let mut work = Box::pin(work);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if work.as_mut().poll(&mut context).is_pending() {
            drop(corelith_io::spawn(work));
        }
    }

    fn append(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let (append, entries) = peer::parse_append(frame)?;
        let server = Rc::clone(self);
        let taking = async move {
            let group = server.group(head);
            let epoch = server.epoch(group.as_ref());
            let result = match group {
                Some(group) => group.take_append(server.caller(), append, entries).await,
                None => Ok(AppendResult::Unable),
            };
            let result = server.result(head.shard, result);
            server
                .outgoing
                .send(|out| peer::encode_append_reply(out, head, &result, epoch));
        };
        assert!(
            size_of_val(&taking) <= APPEND_TASK_BYTES_MAX,
            "the task of an append takes {} bytes",
            size_of_val(&taking)
        );
        Self::start(taking);
        Ok(())
    }

    fn beat(self: &Rc<Self>, head: Head, beat: peer::Heartbeat) {
        let append = AppendHead {
            vote: beat.vote,
            before: beat.before,
            committed: beat.committed,
            count: 0,
        };
        let server = Rc::clone(self);
        Self::start(async move {
            let shard = beat.shard;
            let group = server.group(Head { shard, ..head });
            let epoch = server.epoch(group.as_ref());
            let result = match &group {
                Some(group) => group.take_beat(server.caller(), append).await,
                None => Ok(AppendResult::Unable),
            };
            let result = server.result(beat.shard, result);
            server.beat_replies.borrow_mut().push(HeartbeatReply {
                beat: beat.beat,
                shard: beat.shard,
                result,
                epoch,
            });
            server.outgoing.send(|out| server.append_beat_replies(out));
        });
    }

    /// What an append or heartbeat is answered with.
    fn result(&self, shard: ShardId, result: Result<AppendResult, Refusal>) -> AppendResult {
        result.unwrap_or_else(|refusal| {
            self.refused(shard, &refusal);
            match refusal {
                Refusal::Contradicts(at) => AppendResult::Contradiction { at },
                _ => AppendResult::Unable,
            }
        })
    }

    fn append_beat_replies(&self, out: &mut Outbox) {
        let mut replies = self.beat_replies.borrow_mut();
        if !replies.is_empty() {
            let head = Head {
                kind: kinds::HEARTBEATS_REPLY,
                request_id: RequestId(0),
                shard: ShardId(0),
                epoch: Epoch(0),
            };
            peer::encode_heartbeats_reply(out, head, &replies);
            replies.clear();
        }
    }

    fn vote(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let ask = peer::parse_vote(frame)?;
        let Some(group) = self.group(head) else {
            self.plain(head, kinds::REFUSED);
            return Ok(());
        };
        let server = Rc::clone(self);
        Self::start(async move {
            let pre = head.kind == kinds::PRE_VOTE;
            match group.take_vote(server.peer(), pre, ask).await {
                Ok(Some(answer)) => server
                    .outgoing
                    .send(|out| peer::encode_vote_reply(out, head, &answer)),
                Ok(None) => server.plain(head, kinds::REFUSED),
                Err(refusal) => server.refuse(head, &refusal),
            }
        });
        Ok(())
    }

    fn read_point(self: &Rc<Self>, head: Head) {
        let server = Rc::clone(self);
        Self::start(async move {
            let given = match server.group(head) {
                Some(group) => group.give_read_point(server.peer()).await,
                None => Ok(None),
            };
            match given {
                Ok(Some(given)) => server
                    .outgoing
                    .send(|out| peer::encode_read_point_reply(out, head, &given)),
                Ok(None) => server.plain(head, kinds::REFUSED),
                Err(refusal) => server.refuse(head, &refusal),
            }
        });
    }

    /// Answers what is asked for because it is damaged at the peer. What waits for the socket is bounded: the answers
    /// are long.
    fn fetch(self: &Rc<Self>, head: Head, ask: peer::FetchAsk) {
        let group = self.group(head);
        let (Some(group), true) = (group, self.fetches.get() < FETCHES_WAITING_MAX) else {
            return self.plain(head, kinds::REFUSED);
        };
        self.fetches.set(self.fetches.get() + 1);
        let server = Rc::clone(self);
        Self::start(async move {
            let turn = server.fetching.acquire(1).await;
            let begun = corelith_io::now();
            let is_slow = || server.outgoing.len() > PEER_ANSWERS_BYTES_MAX / 4;
            while is_slow() && begun.elapsed() < FETCH_WAIT_MAX {
                corelith_io::sleep(FETCH_LOOK_EVERY).await;
            }
            let answer = match is_slow() {
                true => Ok(None),
                false => group.give_fetched(server.peer(), ask).await,
            };
            match answer {
                Ok(Some(answer)) => server
                    .outgoing
                    .send(|out| peer::encode_fetch_reply(out, head, answer)),
                Ok(None) => server.plain(head, kinds::REFUSED),
                Err(refusal) => server.refuse(head, &refusal),
            }
            drop(turn);
            server.fetches.set(server.fetches.get() - 1);
        });
    }

    /// Refuses what is asked, and says why.
    fn refuse(&self, head: Head, refusal: &Refusal) {
        self.refused(head.shard, refusal);
        self.plain(head, kinds::REFUSED);
    }

    fn transfer(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let transfer = peer::parse_transfer(frame)?;
        let Some(group) = self.group(head) else {
            self.plain(head, kinds::REFUSED);
            return Ok(());
        };
        let server = Rc::clone(self);
        Self::start(async move {
            match group.take_transfer(server.peer(), transfer).await {
                Ok(true) => server.plain(head, kinds::DONE),
                Ok(false) => server.plain(head, kinds::REFUSED),
                Err(refusal) => server.refuse(head, &refusal),
            }
        });
        Ok(())
    }

    fn lead(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let vote = peer::parse_lead(frame)?;
        let group = self.group(head);
        let server = Rc::clone(self);
        Self::start(async move {
            // A replica that is not open leads nothing, and another one of the shard is open only after it was closed.
            let leads = match group {
                Some(group) => group.take_lead_question(server.peer(), vote).await,
                None => Ok(false),
            };
            match leads {
                Ok(leads) => server
                    .outgoing
                    .send(|out| peer::encode_lead_reply(out, head, leads)),
                Err(refusal) => server.refuse(head, &refusal),
            }
        });
        Ok(())
    }

    fn take_offer(self: &Rc<Self>, head: Head, transfer: u64, vote: PeerVote) {
        let Some(group) = self.group(head) else {
            self.plain(head, kinds::REFUSED);
            return;
        };
        if let Err(refusal) = group.admit_snapshot(self.peer(), &vote) {
            self.refuse(head, &refusal);
            return;
        }
        let server = Rc::clone(self);
        drop(corelith_io::spawn(async move {
            let caller = server.caller();
            match files::receive(&server.groups, &group, caller, transfer, vote).await {
                Ok(Some(vote)) => server
                    .outgoing
                    .send(|out| peer::encode_snapshot_reply(out, head, &vote)),
                Ok(None) => server.plain(head, kinds::REFUSED),
                Err(refusal) => server.refuse(head, &refusal),
            }
        }));
    }

    fn give_file(self: &Rc<Self>, head: Head, ask: FileAsk) {
        let group = self.group(head);
        let offer = group.and_then(|group| group.offered(ask.transfer, self.theirs.node));
        let Some(offer) = offer else {
            self.plain(head, kinds::REFUSED);
            return;
        };
        let server = Rc::clone(self);
        Self::start(async move {
            if ask.file.is_some() {
                server.groups.pace_sending(FILE_PIECE_BYTES as u64).await;
            }
            match offer.read(ask.file, ask.offset).await {
                Ok(Some(piece)) => server
                    .outgoing
                    .send(|out| peer::encode_file_bytes(out, head, piece)),
                Ok(None) => server.plain(head, kinds::REFUSED),
                Err(error) => {
                    tracing::warn!(shard = %head.shard, %error, "a file cannot be sent");
                    server.plain(head, kinds::REFUSED);
                }
            }
        });
    }
}
