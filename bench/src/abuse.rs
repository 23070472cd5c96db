//! Misbehaving clients, each kind beside a light measured load. Checks that the node's memory stays within its
//! budget, that other clients are served as before, and that the node frees the memory afterwards.

use crate::cluster::Cluster;
use crate::driver::{self, DriverError, RunStep, RunTarget};
use crate::workload::{Workload, WorkloadKind};
use bytes::Bytes;
use corelith_bench::usage::Usage;
use corelith_client::Client;
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{Hello, WELCOME_BYTES};
use corelith_wire::limits::HEADER_BYTES;
use corelith_wire::request::{self, Condition, GetRequest, Operation, WriteRequest};
use corelith_wire::{
    ClusterId, Epoch, Head, Header, Kind as FrameKind, Outbox, RequestId, ShardId,
};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A node's default memory for the clients of a core.
const BUDGET_PER_CORE: u64 = 512 << 20;
/// Allowed growth of a node's memory for the measured load itself: memtables and caches.
const ALLOWANCE: u64 = 64 << 20;
/// The p99 of other clients may grow by this factor.
const P99_FACTOR: f64 = 3.0;
/// A p99 below this counts as noise.
const P99_FLOOR_US: f64 = 2_000.0;
/// Time for the node to free the memory.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(30);
/// Interval at which memory is sampled.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time for all abusers to connect.
const ALL_THERE_WITHIN: Duration = Duration::from_secs(30);
/// Pause before an abuser reconnects: four abusers make 200 connections per second.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Operations of the measured load in flight.
const LOAD_IN_FLIGHT: usize = 4;
/// Value size of the measured load beside abuses that could delay long puts.
const LONG_PUT_BYTES: usize = 128 << 10;
/// Bytes that a slow sender sends at a time.
const SLOW_PIECE_BYTES: usize = 9_000;
/// Interval of a slow sender: slightly faster than the slowest sender that a node tolerates.
const SLOW_PIECE_EVERY: Duration = Duration::from_millis(100);
/// Length of the value that the abusers read and write.
const VALUE_BYTES: usize = 8 << 20;
const KEY: &[u8] = b"a long value that many ask for";

/// The kinds of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Abuse {
    UnreadGets,
    HalfSentUploads,
    SlowUploads,
    IdleConnections,
    AbortedConnections,
    SlowReader,
}

impl Abuse {
    const ALL: [Self; 6] = [
        Self::UnreadGets,
        Self::HalfSentUploads,
        Self::SlowUploads,
        Self::IdleConnections,
        Self::AbortedConnections,
        Self::SlowReader,
    ];

    /// Number of abusers, each with one connection at a time.
    fn abusers(self) -> u64 {
        match self {
            Self::UnreadGets => 10,
            Self::HalfSentUploads => 1_000,
            Self::SlowUploads => 15,
            Self::IdleConnections => 10_000,
            Self::AbortedConnections => 4,
            Self::SlowReader => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::UnreadGets => "4,000 unread gets of 8 MiB",
            Self::HalfSentUploads => "1,000 half-sent uploads of 8 MiB",
            Self::SlowUploads => "15 uploads at 90 kB/s, beside puts",
            Self::IdleConnections => "10,000 idle used connections",
            Self::AbortedConnections => "200 aborted connections a second",
            Self::SlowReader => "one byte of 3,000 answers a second",
        }
    }
}

/// The figures of one abuse.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Row {
    abuse: Abuse,
    /// Connections that the abusers made.
    connections: u64,
    before_bytes: u64,
    peak_bytes: u64,
    after_bytes: u64,
    budget_bytes: u64,
    p99_alone_us: f64,
    /// Of gets; beside slow uploads, of puts of 128 KiB.
    p99_beside_us: f64,
    operations: u64,
    errors: u64,
}

impl Row {
    fn is_within_budget(&self) -> bool {
        self.peak_bytes <= self.before_bytes + self.budget_bytes + ALLOWANCE
    }

    fn serves_others(&self) -> bool {
        let alone = self.p99_alone_us.max(P99_FLOOR_US);
        self.operations > 0 && self.errors == 0 && self.p99_beside_us <= P99_FACTOR * alone
    }

    fn is_given_back(&self) -> bool {
        self.after_bytes <= self.before_bytes + ALLOWANCE
    }

    /// Whether the node passed all checks.
    pub(crate) fn is_good(&self) -> bool {
        self.is_within_budget() && self.serves_others() && self.is_given_back()
    }

    pub(crate) fn text(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let mut verdict = Vec::new();
        for (is_good, what) in [
            (self.is_within_budget(), "over budget"),
            (self.serves_others(), "others suffer"),
            (self.is_given_back(), "not given back"),
        ] {
            if !is_good {
                verdict.push(what);
            }
        }
        let verdict = match verdict.as_slice() {
            [] => "good".to_owned(),
            wrong => wrong.join(", "),
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<36}{:>8}{:>8}{:>8}{:>8}{:>10.3}{:>10.3}{:>8}  {verdict}",
            self.abuse.name(),
            mib(self.before_bytes),
            mib(self.peak_bytes),
            mib(self.after_bytes),
            mib(self.budget_bytes),
            self.p99_alone_us / 1e3,
            self.p99_beside_us / 1e3,
            self.errors,
        );
        text
    }
}

/// The head of the table.
pub(crate) fn header() -> String {
    format!(
        "{:<36}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}{:>8}  {}\n{:<36}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}\n",
        "abuse",
        "before",
        "peak",
        "after",
        "budget",
        "p99",
        "p99",
        "errors",
        "verdict",
        "",
        "MiB",
        "MiB",
        "MiB",
        "MiB",
        "alone ms",
        "beside ms",
    )
}

/// Runs every abuse against the started cluster; calls `tell` with each row.
///
/// # Errors
/// The load cannot run, or the long value cannot be written.
pub(crate) fn run(
    cluster: &Cluster,
    target: &RunTarget,
    step: &RunStep,
    workload: &Workload,
    cores: u16,
    mut tell: impl FnMut(&Row),
) -> Result<Vec<Row>, DriverError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(DriverError::Start)?;
    let place = runtime.block_on(prepare(cluster.seeds(), target))?;
    let workload = Arc::new(workload.of_kind(WorkloadKind::Mixed, 80));
    let step = RunStep {
        in_flight: LOAD_IN_FLIGHT,
        ..step.clone()
    };
    let long_puts = Arc::new(workload.with_values_of(LONG_PUT_BYTES));
    let gets_alone = driver::run(target, &step, &workload)?.recorder.gets;
    let puts_alone = driver::run(target, &step, &long_puts)?.recorder.puts;
    let mut rows = Vec::new();
    for abuse in Abuse::ALL {
        let (workload, alone) = match abuse {
            Abuse::SlowUploads => (&long_puts, &puts_alone),
            _ => (&workload, &gets_alone),
        };
        let before_bytes = largest(&cluster.pids());
        let peak = Peak::watch(cluster.pids());
        let (stop, stopped) = watch::channel(false);
        let count = Arc::new(AtomicU64::new(0));
        runtime.spawn(abuse_it(abuse, place.clone(), stopped, Arc::clone(&count)));
        // Wait until all abusers are connected, then measure other clients beside them.
        let deadline = Instant::now() + ALL_THERE_WITHIN;
        while count.load(Ordering::Relaxed) < abuse.abusers() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        let beside = driver::run(target, &step, workload)?;
        // The receivers may be gone: their tasks end with the runtime.
        let _ = stop.send(true);
        let peak_bytes = peak.end();
        std::thread::sleep(GIVEN_BACK_AFTER);
        let recorder = beside.recorder;
        let (others, operations) = match abuse {
            Abuse::SlowUploads => (&recorder.puts, recorder.puts_in_window),
            _ => (&recorder.gets, recorder.gets_in_window),
        };
        let row = Row {
            abuse,
            connections: count.load(Ordering::Relaxed),
            before_bytes,
            peak_bytes,
            after_bytes: largest(&cluster.pids()),
            budget_bytes: u64::from(cores) * BUDGET_PER_CORE,
            p99_alone_us: alone.percentiles().p99_us,
            p99_beside_us: others.percentiles().p99_us,
            operations,
            errors: recorder.errors.values().sum(),
        };
        tell(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// Memory of the largest node.
fn largest(pids: &[u32]) -> u64 {
    let resident = pids.iter().map(|pid| Usage::of_all(&[*pid]).resident_bytes);
    resident.max().unwrap_or(0)
}

/// Samples the memory of the nodes until it is told to end.
struct Peak {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    fn watch(pids: Vec<u32>) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(largest(&pids));
                std::thread::sleep(LOOK_EVERY);
            }
            peak
        });
        Self { end, thread }
    }

    fn end(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(u64::MAX)
    }
}

/// The location of the long value.
#[derive(Clone, Debug)]
struct ValuePlace {
    address: String,
    shard: ShardId,
    epoch: Epoch,
}

/// Writes the long value and finds the leader of its shard.
async fn prepare(seeds: &[String], target: &RunTarget) -> Result<ValuePlace, DriverError> {
    let client = Client::builder()
        .seeds(seeds.iter().cloned())
        .deadline(target.deadline)
        .connect()
        .await
        .map_err(DriverError::Connect)?;
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    client
        .put(Bytes::from_static(KEY), value)
        .await
        .map_err(DriverError::Load)?;
    let deadline = Instant::now() + target.deadline;
    loop {
        for seed in seeds {
            if let Ok(Some(place)) = leads(seed).await {
                return Ok(place);
            }
        }
        if Instant::now() > deadline {
            return Err(DriverError::Panicked);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The location of the long value if the node at `address` leads its shard.
async fn leads(address: &str) -> std::io::Result<Option<ValuePlace>> {
    let (mut stream, epoch) = connect(address).await?;
    for shard in 0..SHARDS_TRIED {
        let place = ValuePlace {
            address: address.to_owned(),
            shard: ShardId(shard),
            epoch,
        };
        stream.write_all(&get(&place, 1)).await?;
        if read_answer(&mut stream).await? == FrameKind::VALUE {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Reads one answer and returns what it is.
async fn read_answer(stream: &mut TcpStream) -> std::io::Result<FrameKind> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let Ok(Some(header)) = Header::parse(&header, Accepts::Answers) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let mut rest = vec![0; header.len as usize];
    stream.read_exact(&mut rest).await?;
    Ok(header.head.kind)
}

/// Number of shards in which the value is searched.
const SHARDS_TRIED: u32 = 64;

/// Connects as a client. Returns the stream and the epoch of the server's cluster map.
async fn connect(address: &str) -> std::io::Result<(TcpStream, Epoch)> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(&Hello::client(ClusterId(0)).encode())
        .await?;
    let mut welcome = [0; WELCOME_BYTES];
    stream.read_exact(&mut welcome).await?;
    let welcome = corelith_wire::handshake::Welcome::parse(&welcome)
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
    Ok((stream, welcome.epoch))
}

fn head(place: &ValuePlace, request: u64) -> Head {
    Head {
        kind: FrameKind::GET,
        request_id: RequestId(request),
        shard: place.shard,
        epoch: place.epoch,
    }
}

fn bytes_of(out: &Outbox) -> Vec<u8> {
    out.slices().flatten().copied().collect()
}

/// `count` gets of the long value.
fn get(place: &ValuePlace, count: u64) -> Vec<u8> {
    let mut out = Outbox::default();
    for request in 0..count {
        request::encode_get(&mut out, head(place, request), &GetRequest { key: KEY });
    }
    bytes_of(&out)
}

/// A put of a long value without its last `missing` bytes.
fn part_of_a_put(place: &ValuePlace, missing: usize) -> Bytes {
    let request = WriteRequest {
        session: 1,
        number: 1,
        answered_below: 1,
        condition: Condition::Any,
        operation: Operation::Put,
        key: KEY,
    };
    let mut out = Outbox::default();
    let value = Bytes::from(vec![0; VALUE_BYTES]);
    request::encode_write(&mut out, head(place, 1), &request, &value);
    let mut whole = bytes_of(&out);
    whole.truncate(whole.len().saturating_sub(missing));
    Bytes::from(whole)
}

/// Runs the abusers until told to stop. An abuser that the node disconnects reconnects.
async fn abuse_it(
    abuse: Abuse,
    place: ValuePlace,
    stopped: watch::Receiver<bool>,
    connections: Arc<AtomicU64>,
) {
    let upload = match abuse {
        Abuse::HalfSentUploads => part_of_a_put(&place, VALUE_BYTES / 2),
        Abuse::SlowUploads => part_of_a_put(&place, 0),
        _ => Bytes::new(),
    };
    for _ in 0..abuse.abusers() {
        let (place, upload) = (place.clone(), upload.clone());
        let connections = Arc::clone(&connections);
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let again = async {
                loop {
                    // An error is expected: the node should end the connection.
                    let _ = once(abuse, &place, &upload, &connections).await;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            };
            tokio::select! {
                () = again => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        if abuse == Abuse::IdleConnections {
            tokio::task::yield_now().await;
        }
    }
}

/// One connection of one abuser, until the node ends it.
async fn once(
    abuse: Abuse,
    place: &ValuePlace,
    upload: &Bytes,
    connections: &AtomicU64,
) -> std::io::Result<()> {
    if abuse == Abuse::AbortedConnections {
        let stream = TcpStream::connect(&place.address).await?;
        connections.fetch_add(1, Ordering::Relaxed);
        #[expect(deprecated, reason = "a linger of zero does not block")]
        stream.set_linger(Some(Duration::ZERO))?;
        drop(stream);
        return Ok(());
    }
    let (mut stream, _) = connect(&place.address).await?;
    connections.fetch_add(1, Ordering::Relaxed);
    match abuse {
        Abuse::UnreadGets => stream.write_all(&get(place, 400)).await?,
        Abuse::HalfSentUploads => stream.write_all(upload).await?,
        Abuse::SlowUploads => {
            for piece in upload.chunks(SLOW_PIECE_BYTES) {
                stream.write_all(piece).await?;
                tokio::time::sleep(SLOW_PIECE_EVERY).await;
            }
        }
        Abuse::IdleConnections => {
            let missing = GetRequest { key: b"" };
            let mut out = Outbox::default();
            request::encode_get(&mut out, head(place, 1), &missing);
            stream.write_all(&bytes_of(&out)).await?;
            read_answer(&mut stream).await?;
        }
        Abuse::SlowReader => {
            stream.write_all(&get(place, 3_000)).await?;
            loop {
                stream.read_u8().await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Abuse::AbortedConnections => {}
    }
    match abuse {
        Abuse::UnreadGets => ended(&stream).await,
        // The node sends nothing more and then closes the connection.
        _ => stream.read_u8().await.map(drop),
    }
}

/// Waits until the connection is closed by the node, without reading from it.
async fn ended(stream: &TcpStream) -> std::io::Result<()> {
    loop {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut byte = [0];
        if let Ok(0) = tokio::time::timeout(Duration::from_millis(1), stream.peek(&mut byte))
            .await
            .unwrap_or(Ok(1))
        {
            return Ok(());
        }
    }
}
