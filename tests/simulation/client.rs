//! A client of a simulated cluster: the SDK's decisions over simulated sockets, one operation at a
//! time.

use bytes::{Bytes, BytesMut};
use corelith_client::Cause;
use corelith_client::session::{Event, Operation, Request, Session, Step, Target};
use corelith_io::{Instant, ReadHalf, TcpStream, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{Hello, WELCOME_BYTES, Welcome};
use corelith_wire::map::ClusterMap;
use corelith_wire::request::{Condition, Operation as WriteKind};
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, FrameParser, Outbox, RequestId};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

struct Link {
    read: ReadHalf,
    write: WriteHalf,
    buffer: BytesMut,
}

/// A client. Lives on one core of one simulated machine.
pub(crate) struct Client {
    session: Session,
    cluster: ClusterId,
    links: BTreeMap<(u64, u16), Link>,
    start: Instant,
    next_request: u64,
}

/// What a client got for an operation.
pub(crate) type Outcome = Result<Answer, corelith_client::Error>;

impl Client {
    /// A client that goes by `map`.
    pub(crate) fn new(map: Arc<ClusterMap>) -> Self {
        Self {
            cluster: ClusterId(map.cluster),
            session: Session::new(map, 4096, corelith_io::random_u64()),
            links: BTreeMap::new(),
            start: corelith_io::now(),
            next_request: 1,
        }
    }

    pub(crate) async fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        condition: Condition,
        within: Duration,
    ) -> Outcome {
        self.run(
            Request::Write {
                key,
                value,
                condition,
                kind: WriteKind::Put,
            },
            within,
        )
        .await
    }

    pub(crate) async fn delete(
        &mut self,
        key: Bytes,
        condition: Condition,
        within: Duration,
    ) -> Outcome {
        let value = Bytes::new();
        self.run(
            Request::Write {
                key,
                value,
                condition,
                kind: WriteKind::Delete,
            },
            within,
        )
        .await
    }

    pub(crate) async fn get(&mut self, key: Bytes, within: Duration) -> Outcome {
        self.run(Request::Get { key }, within).await
    }

    /// Carries an operation to its end.
    pub(crate) async fn run(&mut self, request: Request, within: Duration) -> Outcome {
        let mut operation = self.session.operation(request, self.now() + within);
        let now = self.now();
        let mut step = self.session.proceed(&mut operation, now);
        loop {
            let pause = match step {
                Step::Done(outcome) => return outcome,
                Step::Send { target, until } => {
                    let event = self.attempt(target, &operation, until).await;
                    let now = self.now();
                    step = self.session.report(&mut operation, event, now);
                    continue;
                }
                Step::Pause { until } => until.saturating_sub(self.now()),
                // The map never changes and nobody else uses the session: look again a little later.
                Step::Park { .. } | Step::Refresh { .. } => Duration::from_millis(5),
            };
            corelith_io::sleep(pause).await;
            let now = self.now();
            step = self.session.proceed(&mut operation, now);
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn attempt(&mut self, target: Target, operation: &Operation, until: Duration) -> Event {
        let name = (target.node.0, target.core);
        let mut link = match self.links.remove(&name) {
            Some(link) => link,
            None => match corelith_io::timeout(CONNECT_TIMEOUT, self.connect(target)).await {
                Ok(Ok(link)) => link,
                Ok(Err(cause)) => return Event::NotSent(cause),
                Err(_) => return Event::NotSent(Cause::Timeout),
            },
        };
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let left = until.saturating_sub(self.now());
        match corelith_io::timeout(left, link.ask(operation, id)).await {
            Ok(Ok(answer)) => {
                self.links.insert(name, link);
                Event::Answer(answer)
            }
            Ok(Err(cause)) => Event::Lost(cause),
            Err(_) => Event::Lost(Cause::Timeout),
        }
    }

    async fn connect(&self, target: Target) -> Result<Link, Cause> {
        let Some((host, port)) = self.session.address(target) else {
            return Err(Cause::Connect(ErrorKind::AddrNotAvailable));
        };
        let address = format!("{host}:{port}").parse().unwrap();
        let failed = |_| Cause::Connect(ErrorKind::ConnectionRefused);
        let (mut read, mut write) = TcpStream::connect(address)
            .await
            .map_err(failed)?
            .into_split();
        let hello = Hello::client(self.cluster);
        write.write_all(&hello.encode()).await.map_err(failed)?;
        let mut welcome = [0; WELCOME_BYTES];
        let mut len = 0;
        while len < WELCOME_BYTES {
            match read.read(&mut welcome[len..]).await.map_err(failed)? {
                0 => return Err(Cause::Broken(ErrorKind::UnexpectedEof)),
                more => len += more,
            }
        }
        let welcome = Welcome::parse(&welcome).map_err(Cause::Handshake)?;
        welcome.accepted(&hello).map_err(Cause::Handshake)?;
        Ok(Link {
            read,
            write,
            buffer: BytesMut::new(),
        })
    }
}

impl Link {
    async fn ask(&mut self, operation: &Operation, id: RequestId) -> Result<Answer, Cause> {
        let broken = |_| Cause::Broken(ErrorKind::ConnectionReset);
        let mut out = Outbox::default();
        operation.encode(&mut out, id);
        for slice in out.slices() {
            self.write.write_all(slice).await.map_err(broken)?;
        }
        let parser = FrameParser::new(Accepts::Answers);
        loop {
            if let Some(frame) = parser.take(&mut self.buffer).next() {
                let frame = frame.map_err(Cause::Frame)?;
                assert_eq!(
                    frame.header.head.request_id, id,
                    "an answer nobody waits for"
                );
                return Answer::parse(&frame).map_err(Cause::Answer);
            }
            let missing = parser.missing(&self.buffer).map_err(Cause::Frame)?;
            self.buffer.reserve(missing.max(4096));
            if self.read.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(Cause::Broken(ErrorKind::UnexpectedEof));
            }
        }
    }
}
