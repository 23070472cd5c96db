//! The connections of a simulated client: the SDK's decisions about them, and simulated sockets where
//! the SDK has tokio's.

use crate::client::Clock;
use bytes::BytesMut;
use corelith_client::Cause;
use corelith_client::connection::{
    CONNECT_PATIENCE, CONNECT_TIMEOUT, Call, Phase, Ready, SILENCE_MAX, Slots, TICK,
};
use corelith_client::session::Event;
use corelith_io::sync::notify::Notify;
use corelith_io::{ReadHalf, TcpStream, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{Hello, WELCOME_BYTES, Welcome};
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, FrameParser, Outbox, RequestId, ShardId};
use futures_util::future::{Either, select};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The connection to one core.
pub(crate) struct Connection {
    address: SocketAddr,
    cluster: ClusterId,
    clock: Clock,
    phase: RefCell<Phase<Rc<Link>>>,
    /// Notified when connecting has ended.
    changed: Notify,
    /// Called again and again while requests have no answer for long.
    doubt: Box<dyn Fn()>,
}

impl Connection {
    pub(crate) fn new(
        address: SocketAddr,
        cluster: ClusterId,
        clock: Clock,
        doubt: Box<dyn Fn()>,
    ) -> Self {
        Self {
            doubt,
            address,
            cluster,
            clock,
            phase: RefCell::new(Phase::Idle),
            changed: Notify::new(),
        }
    }

    /// Shards with requests that have no answer for long.
    pub(crate) fn in_doubt(&self) -> BTreeSet<ShardId> {
        match &*self.phase.borrow() {
            Phase::Up(link) => link.in_doubt(),
            _ => BTreeSet::new(),
        }
    }

    /// Ends the requests to these shards, since another node leads them.
    pub(crate) fn moved(&self, shards: &[ShardId]) {
        let mut wake = Vec::new();
        if let Phase::Up(link) = &*self.phase.borrow() {
            link.state.borrow_mut().slots.moved(shards, &mut wake);
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// Sends a request and waits for its answer, at most until then.
    pub(crate) async fn call(
        self: Rc<Self>,
        encode: impl FnOnce(&mut Outbox, RequestId),
        shard: Option<ShardId>,
        until: Duration,
    ) -> Event {
        let patience = until.min(self.clock.now() + CONNECT_PATIENCE);
        loop {
            let changed = self.changed.notified();
            let is_broken = |link: &Rc<Link>| link.state.borrow().closed.is_some();
            let ready = self.phase.borrow_mut().ready(self.clock.now(), is_broken);
            match ready {
                Ready::Up(link) => return link.call(encode, shard, until).await,
                Ready::Failed(cause) => return Event::NotSent(cause),
                Ready::Connect => drop(corelith_io::spawn(Rc::clone(&self).establish())),
                Ready::Wait => {}
            }
            if self.clock.within(patience, changed).await.is_none() {
                return Event::NotSent(Cause::Timeout);
            }
        }
    }

    /// Connects, then serves the connection until it ends.
    async fn establish(self: Rc<Self>) {
        let connecting = connect(self.address, self.cluster);
        let connected = match corelith_io::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Cause::Connect(ErrorKind::TimedOut)),
        };
        let (link, stream) = match connected {
            Ok(stream) => (Ok(Rc::new(Link::new(self.clock))), Some(stream)),
            Err(cause) => (Err(cause), None),
        };
        let is_wanted = self
            .phase
            .borrow_mut()
            .connected(link.clone(), self.clock.now());
        self.changed.notify_waiters();
        if let (true, Ok(link), Some((read, write))) = (is_wanted, link, stream) {
            link.run(read, write, &self.doubt).await;
        }
    }
}

async fn connect(address: SocketAddr, cluster: ClusterId) -> Result<(ReadHalf, WriteHalf), Cause> {
    let failed = |_| Cause::Connect(ErrorKind::ConnectionRefused);
    let (mut read, mut write) = TcpStream::connect(address)
        .await
        .map_err(failed)?
        .into_split();
    let hello = Hello::client(cluster);
    write.write_all(&hello.encode()).await.map_err(failed)?;
    let mut welcome = [0; WELCOME_BYTES];
    let mut len = 0;
    while len < WELCOME_BYTES {
        match read.read(&mut welcome[len..]).await.map_err(failed)? {
            0 => return Err(Cause::Connect(ErrorKind::UnexpectedEof)),
            more => len += more,
        }
    }
    let welcome = Welcome::parse(&welcome).map_err(Cause::Handshake)?;
    welcome.accepted(&hello).map_err(Cause::Handshake)?;
    Ok((read, write))
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    slots: Slots,
    /// When bytes last arrived, or the first request after a quiet time was sent.
    heard: Duration,
    closed: Option<Cause>,
}

/// An established connection.
struct Link {
    state: RefCell<State>,
    wake: Notify,
    clock: Clock,
}

impl Link {
    fn new(clock: Clock) -> Self {
        Self {
            state: RefCell::default(),
            wake: Notify::new(),
            clock,
        }
    }

    async fn call(
        self: Rc<Self>,
        encode: impl FnOnce(&mut Outbox, RequestId),
        shard: Option<ShardId>,
        until: Duration,
    ) -> Event {
        let id = {
            let state = &mut *self.state.borrow_mut();
            if let Some(cause) = state.closed.clone() {
                return Event::NotSent(cause);
            }
            let from = self.clock.now();
            if state.slots.in_use() == 0 {
                state.heard = from;
            }
            let id = state.slots.take(Call { shard, from, until });
            encode(&mut state.outbox, id);
            id
        };
        self.wake.notify_waiters();
        let mut waiting = Waiting {
            link: &self,
            id: Some(id),
        };
        let event = poll_fn(
            |cx| match self.state.borrow_mut().slots.poll(id, cx.waker()) {
                Some(event) => Poll::Ready(event),
                None => Poll::Pending,
            },
        )
        .await;
        waiting.id = None;
        event
    }

    fn in_doubt(&self) -> BTreeSet<ShardId> {
        let state = self.state.borrow();
        state.slots.in_doubt(state.heard, self.clock.now())
    }

    async fn run(&self, read: ReadHalf, write: WriteHalf, doubt: &dyn Fn()) {
        let reading = pin!(self.read(read));
        let writing = pin!(self.write(write));
        let watching = pin!(self.watch(doubt));
        let cause = match select(select(reading, writing), watching).await {
            Either::Left((Either::Left((cause, _)) | Either::Right((cause, _)), _))
            | Either::Right((cause, _)) => cause,
        };
        self.close(cause);
    }

    fn close(&self, cause: Cause) {
        let mut wake = Vec::new();
        {
            let state = &mut *self.state.borrow_mut();
            state.closed.get_or_insert(cause.clone());
            state.slots.fail_all(&Event::Lost(cause), &mut wake);
        }
        wake.into_iter().for_each(Waker::wake);
    }

    async fn read(&self, mut read: ReadHalf) -> Cause {
        let parser = FrameParser::new(Accepts::Answers);
        let mut buffer = BytesMut::new();
        loop {
            match parser.missing(&buffer) {
                Ok(missing) => buffer.reserve(missing.max(4096)),
                Err(error) => return Cause::Frame(error),
            }
            match read.read_buf(&mut buffer).await {
                Ok(0) => return Cause::Broken(ErrorKind::UnexpectedEof),
                Ok(_) => {}
                Err(_) => return Cause::Broken(ErrorKind::ConnectionReset),
            }
            self.state.borrow_mut().heard = self.clock.now();
            for frame in parser.take(&mut buffer) {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => return Cause::Frame(error),
                };
                let answer = match Answer::parse(&frame) {
                    Ok(answer) => Event::Answer(answer),
                    Err(error) => return Cause::Answer(error),
                };
                let id = frame.header.head.request_id;
                let (_, waker) = self.state.borrow_mut().slots.answer(id, answer);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    async fn write(&self, mut write: WriteHalf) -> Cause {
        loop {
            let wake = self.wake.notified();
            let out = std::mem::take(&mut self.state.borrow_mut().outbox);
            if out.is_empty() {
                wake.await;
                continue;
            }
            for slice in out.slices() {
                if write.write_all(slice).await.is_err() {
                    return Cause::Broken(ErrorKind::ConnectionReset);
                }
            }
        }
    }

    /// Watches the deadlines of what is in flight, and for silence.
    async fn watch(&self, doubt: &dyn Fn()) -> Cause {
        let mut wake = Vec::new();
        loop {
            let used = self.wake.notified();
            if self.state.borrow().slots.in_use() == 0 {
                used.await;
                continue;
            }
            corelith_io::sleep(TICK).await;
            let now = self.clock.now();
            {
                let state = &mut *self.state.borrow_mut();
                if state.slots.in_use() > 0 && now >= state.heard + SILENCE_MAX {
                    return Cause::Timeout;
                }
                let late = Event::Lost(Cause::Timeout);
                state.slots.expire(now, &late, &mut wake);
            }
            wake.drain(..).for_each(Waker::wake);
            if !self.in_doubt().is_empty() {
                doubt();
            }
        }
    }
}

/// A caller that waits for its answer, or has gone.
struct Waiting<'a> {
    link: &'a Link,
    id: Option<RequestId>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.link.state.borrow_mut().slots.forget(id);
        }
    }
}
