//! One established connection: requests of many callers in one write, many answers per read.
//!
//! Callers encode directly into the connection's outgoing buffer under its lock, and wait in a slot. One
//! task reads and writes. It yields before it takes the buffer, so that requests made together are sent
//! together.

use crate::error::Cause;
use crate::limits::{COPY_OUT_BYTES_MAX, OUTBOX_KEPT_BYTES_MAX, READ_BYTES, SILENCE_MAX, TICK};
use crate::operation::Event;
use crate::resolve::Resolver;
use crate::slots::{Call, Room, Slots};
use bytes::{Bytes, BytesMut};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{HELLO_BYTES, Hello, WELCOME_BYTES, Welcome};
use corelith_wire::response::{Answer, ScanValue};
use corelith_wire::{ClusterId, FrameParser, Outbox, RequestId, ShardId, limits as wire_limits};
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The clock of a client: time since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn instant(self, at: Duration) -> Instant {
        self.0 + at
    }
}

#[derive(Debug, Default)]
struct LinkState {
    outbox: Outbox,
    slots: Slots,
    /// Waker of the connection's task while it is idle.
    driver: Option<Waker>,
    /// When bytes last arrived, or when the first request after an idle time was sent.
    heard: Duration,
    /// Why the connection is closed, if it is.
    closed: Option<Cause>,
}

/// An established connection, see the module. Shared by its callers and its task.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<LinkState>,
    /// Room for requests in flight.
    room: Semaphore,
    clock: Clock,
    welcome: Welcome,
}

/// The two directions of an established connection, for [`Link::run`].
pub(crate) type Stream = (OwnedReadHalf, OwnedWriteHalf);

impl Link {
    /// Connects and shakes hands. `cluster` is 0 to accept any cluster.
    pub(crate) async fn connect(
        host: &str,
        port: u16,
        cluster: ClusterId,
        clock: Clock,
        resolver: &Resolver,
    ) -> Result<(Arc<Self>, Stream), Cause> {
        let failed = |error: std::io::Error| Cause::Connect(error.kind());
        let addresses = resolver.resolve(host).await?;
        let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
        let addresses: Vec<SocketAddr> = addresses.collect();
        let mut stream = TcpStream::connect(&addresses[..]).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let hello = Hello::client(cluster);
        let sent: [u8; HELLO_BYTES] = hello.encode();
        stream.write_all(&sent).await.map_err(failed)?;
        let mut received = [0; WELCOME_BYTES];
        stream.read_exact(&mut received).await.map_err(failed)?;
        let welcome = Welcome::parse(&received).map_err(Cause::Handshake)?;
        welcome.accepted(&hello).map_err(Cause::Handshake)?;
        let in_flight = welcome
            .in_flight_max
            .clamp(1, wire_limits::CONNECTION_IN_FLIGHT_MAX);
        let link = Self {
            state: Mutex::default(),
            room: Semaphore::new(in_flight as usize),
            clock,
            welcome,
        };
        Ok((Arc::new(link), stream.into_split()))
    }

    /// The server's part of the handshake.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection is closed; `None` while it is open.
    pub(crate) fn closed(&self) -> Option<Cause> {
        self.state().closed.clone()
    }

    /// Sends a request and waits for its answer, at most until `until`, or while its bytes and those before it may travel, but
    /// for that not beyond `end`. `shard` is the one that it is about. If too many requests are in flight, it waits before
    /// it sends.
    pub(crate) async fn call(
        &self,
        encode: impl FnOnce(&mut Outbox, RequestId),
        shard: Option<ShardId>,
        until: Duration,
        end: Duration,
    ) -> Event {
        let permit = match self.room.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let until = self.clock.instant(until);
                let acquiring = tokio::time::timeout_at(until, self.room.acquire());
                match Box::pin(acquiring).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Event::NotSent(self.closed().unwrap_or(Cause::Closed)),
                    Err(_) => return Event::NotSent(Cause::Overload),
                }
            }
        };
        let (id, driver) = {
            let mut state = self.state();
            if let Some(cause) = state.closed.clone() {
                return Event::NotSent(cause);
            }
            permit.forget();
            let from = self.clock.now();
            if state.slots.in_use() == 0 {
                state.heard = from;
            }
            let id = state.slots.take(Call { shard, from, until });
            let before = state.outbox.len();
            encode(&mut state.outbox, id);
            let bytes = state.outbox.len() - before;
            state.slots.carries(id, bytes, end);
            (id, state.driver.take())
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Answered {
            link: self,
            id,
            taken: false,
        }
        .await
    }

    /// Reads and writes until the connection ends; returns the reason. Calls `doubt` again and again while requests
    /// have no answer for long.
    pub(crate) async fn run(&self, (read, write): Stream, doubt: impl Fn()) -> Cause {
        let cause = tokio::select! {
            cause = self.read(read) => cause,
            cause = self.write(write) => cause,
            cause = self.watch(doubt) => cause,
        };
        self.close(cause.clone());
        cause
    }

    /// Shards with requests that have no answer for long.
    pub(crate) fn in_doubt(&self) -> BTreeSet<ShardId> {
        let now = self.clock.now();
        let state = self.state();
        state.slots.in_doubt(state.heard, now)
    }

    /// Ends the requests to these shards, since another node leads them.
    pub(crate) fn moved(&self, shards: &[ShardId]) {
        let mut wake = Vec::new();
        self.state().slots.moved(shards, &mut wake);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Ends the connection and notifies every caller.
    pub(crate) fn close(&self, cause: Cause) {
        self.room.close();
        let mut wake = Vec::new();
        {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| cause.clone());
            state.slots.fail_all(&Event::Lost(cause), &mut wake);
            state.outbox.clear();
            wake.extend(state.driver.take());
        }
        wake.into_iter().for_each(Waker::wake);
    }

    async fn read(&self, mut read: OwnedReadHalf) -> Cause {
        let parser = FrameParser::new(Accepts::Answers);
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let mut answers = Vec::new();
        let mut wake = Vec::new();
        loop {
            match parser.missing(&buffer) {
                Ok(missing) => buffer.reserve(missing.max(READ_BYTES / 2)),
                Err(error) => return Cause::Frame(error),
            }
            match read.read_buf(&mut buffer).await {
                Ok(0) => return Cause::Broken(ErrorKind::UnexpectedEof),
                Ok(_) => {}
                Err(error) => return Cause::Broken(error.kind()),
            }
            let mut broken = None;
            for frame in parser.take(&mut buffer) {
                let answer = match frame {
                    Ok(frame) => Answer::parse(&frame)
                        .map(|answer| (frame.header.head.request_id, copied_out(answer)))
                        .map_err(Cause::Answer),
                    Err(error) => Err(Cause::Frame(error)),
                };
                match answer {
                    Ok(answer) => answers.push(answer),
                    Err(cause) => {
                        broken = Some(cause);
                        break;
                    }
                }
            }
            self.deliver(&mut answers, &mut wake);
            wake.drain(..).for_each(Waker::wake);
            if let Some(cause) = broken {
                return cause;
            }
        }
    }

    fn deliver(&self, answers: &mut Vec<(RequestId, Answer)>, wake: &mut Vec<Waker>) {
        let now = self.clock.now();
        let mut freed = 0;
        {
            let mut state = self.state();
            state.heard = now;
            for (id, answer) in answers.drain(..) {
                let (room, waker) = state.slots.answer(id, Event::Answer(answer));
                freed += usize::from(room == Room::Freed);
                wake.extend(waker);
            }
        }
        if freed > 0 {
            self.room.add_permits(freed);
        }
    }

    async fn write(&self, mut write: OwnedWriteHalf) -> Cause {
        let mut outgoing = Outbox::default();
        loop {
            if let Err(cause) = self.until(|state| !state.outbox.is_empty()).await {
                return cause;
            }
            // Let all callers that are ready to send do so first.
            tokio::task::yield_now().await;
            std::mem::swap(&mut self.state().outbox, &mut outgoing);
            if let Err(error) = write_all(&mut write, &outgoing).await {
                return Cause::Broken(error.kind());
            }
            if outgoing.buffer().capacity() > OUTBOX_KEPT_BYTES_MAX {
                outgoing = Outbox::default();
            } else {
                outgoing.clear();
            }
        }
    }

    /// Watches the deadlines of requests in flight, and ends the connection if it is silent too long.
    async fn watch(&self, doubt: impl Fn()) -> Cause {
        let mut wake = Vec::new();
        loop {
            if let Err(cause) = self.until(|state| state.slots.in_use() > 0).await {
                return cause;
            }
            tokio::time::sleep(TICK).await;
            let now = self.clock.now();
            let in_doubt = {
                let mut state = self.state();
                if state.slots.in_use() > 0
                    && now >= state.heard + SILENCE_MAX + state.slots.travel()
                {
                    return Cause::Timeout;
                }
                state
                    .slots
                    .expire(now, &Event::Lost(Cause::Timeout), &mut wake);
                !state.slots.in_doubt(state.heard, now).is_empty()
            };
            if in_doubt {
                doubt();
            }
            wake.drain(..).for_each(Waker::wake);
        }
    }

    /// Waits in the connection's task until `ready`, or until the connection is closed.
    async fn until(&self, ready: impl Fn(&LinkState) -> bool) -> Result<(), Cause> {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if let Some(cause) = state.closed.clone() {
                return Poll::Ready(Err(cause));
            }
            if ready(&state) {
                return Poll::Ready(Ok(()));
            }
            match &mut state.driver {
                Some(known) => known.clone_from(context.waker()),
                place => *place = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

/// A caller that waits for its answer.
struct Answered<'a> {
    link: &'a Link,
    id: RequestId,
    taken: bool,
}

impl Future for Answered<'_> {
    type Output = Event;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        let event = self.link.state().slots.poll(self.id, context.waker());
        match event {
            Some(event) => {
                self.taken = true;
                Poll::Ready(event)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.link.state().slots.forget(self.id);
        }
    }
}

/// Copies small values, so that they do not pin the receive buffer.
fn copied_out(mut answer: Answer) -> Answer {
    let small = |bytes: &mut Bytes| {
        if bytes.len() < COPY_OUT_BYTES_MAX {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    };
    match &mut answer {
        Answer::Value { value, .. } => small(value),
        Answer::ScanHeads(page) => page.items.iter_mut().for_each(|item| small(&mut item.key)),
        Answer::ScanPage(page) => {
            let sent = |value: &ScanValue| match value {
                ScanValue::Bytes(bytes) => bytes.len(),
                ScanValue::Large { .. } => 0,
            };
            let page_bytes: usize = page.items.iter().map(|item| sent(&item.value)).sum();
            if page_bytes < COPY_OUT_BYTES_MAX {
                for item in &mut page.items {
                    small(&mut item.key);
                    if let ScanValue::Bytes(bytes) = &mut item.value {
                        small(bytes);
                    }
                }
            }
        }
        _ => {}
    }
    answer
}

/// Writes everything in as few calls as possible.
async fn write_all(write: &mut OwnedWriteHalf, outgoing: &Outbox) -> std::io::Result<()> {
    const SLICES_MAX: usize = 64;
    let mut written = 0;
    while written < outgoing.len() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut skip = written;
        let mut count = 0;
        let left = outgoing.slices().filter_map(|slice| {
            let rest = slice.get(skip..);
            skip = skip.saturating_sub(slice.len());
            rest.filter(|rest| !rest.is_empty())
        });
        for (place, slice) in slices.iter_mut().zip(left) {
            *place = IoSlice::new(slice);
            count += 1;
        }
        let sent = match slices.get(..count) {
            Some([only]) => write.write(only).await?,
            Some(many) => write.write_vectored(many).await?,
            None => 0,
        };
        if sent == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        written += sent;
    }
    Ok(())
}
