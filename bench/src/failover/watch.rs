//! Asks every node for its state all the time: who leads, in which term, how far each replica is.

use bytes::BytesMut;
use corelith_client::{ShardRole, StatusReply};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{Hello, WELCOME_BYTES, Welcome};
use corelith_wire::request::encode_status;
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, FrameParser, Head, Kind, Outbox, RequestId, ShardId};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause between two questions to a node.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A report older than this says nothing about now.
const FRESH: Duration = Duration::from_millis(500);
/// A follower that is at most this many entries behind has caught up.
const LAG_MAX: u64 = 2_000;

/// What the nodes said.
#[derive(Debug, Default)]
struct WatchedCluster {
    /// The last report of each node, and when it came.
    reports: Vec<Option<(Instant, StatusReply)>>,
    /// When a leader of this shard and term was first seen, and which node.
    leads: BTreeMap<(u32, u64), (Instant, usize)>,
}

/// The watch over a cluster, until it is dropped.
#[derive(Debug)]
pub(crate) struct LeadWatch {
    seen: Arc<Mutex<WatchedCluster>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    shards: u32,
}

/// A leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// Its node, counted from 0.
    pub(crate) node: usize,
    /// Its term.
    pub(crate) term: u64,
}

impl LeadWatch {
    /// Starts to watch the nodes at `addresses`.
    pub(crate) fn start(addresses: &[String], shards: u32) -> Self {
        let seen = Arc::new(Mutex::new(WatchedCluster {
            reports: addresses.iter().map(|_| None).collect(),
            leads: BTreeMap::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = addresses
            .iter()
            .cloned()
            .enumerate()
            .map(|(node, address)| {
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // A node that does not answer is asked again.
                        let _ = ask_on(&address, node, &seen, &stop);
                        std::thread::sleep(ASK_EVERY);
                    }
                })
            });
        Self {
            threads: threads.collect(),
            seen,
            stop,
            shards,
        }
    }

    fn seen(&self) -> MutexGuard<'_, WatchedCluster> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader of each shard, if all shards have one.
    pub(crate) fn leads(&self) -> Option<Vec<Lead>> {
        self.seen().leads_now(self.shards)
    }

    /// Whether all nodes answer, agree on their leaders and have caught up.
    pub(crate) fn is_healthy(&self) -> bool {
        self.seen().is_healthy(self.shards)
    }

    /// When a leader of `shard` in a term after `term` was first seen.
    pub(crate) fn elected_after(&self, shard: u32, term: u64) -> Option<(Instant, Lead)> {
        let seen = self.seen();
        let mut later = seen.leads.range((shard, term + 1)..(shard + 1, 0));
        let ((_, term), (at, node)) = later.next()?;
        let (term, node) = (*term, *node);
        Some((*at, Lead { node, term }))
    }

    /// Terms of all shards.
    pub(crate) fn terms(&self) -> Option<Vec<u64>> {
        let leads = self.leads()?;
        Some(leads.iter().map(|lead| lead.term).collect())
    }
}

impl Drop for LeadWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has told nothing worth more than its reports.
            let _ = thread.join();
        }
    }
}

impl WatchedCluster {
    fn take(&mut self, node: usize, report: StatusReply) {
        let now = Instant::now();
        for shard in &report.shards {
            if shard.role == ShardRole::Leader {
                let key = (shard.shard, shard.term);
                self.leads.entry(key).or_insert((now, node));
            }
        }
        if let Some(place) = self.reports.get_mut(node) {
            *place = Some((now, report));
        }
    }

    fn fresh(&self) -> impl Iterator<Item = (usize, &StatusReply)> {
        let each = self.reports.iter().enumerate();
        each.filter_map(|(node, report)| match report {
            Some((at, report)) if at.elapsed() < FRESH => Some((node, report)),
            _ => None,
        })
    }

    fn leads_now(&self, shards: u32) -> Option<Vec<Lead>> {
        let mut leads = vec![None; shards as usize];
        for (node, report) in self.fresh() {
            for shard in &report.shards {
                let term = shard.term;
                if shard.role == ShardRole::Leader
                    && let Some(place) = leads.get_mut(shard.shard as usize)
                    && place.is_none_or(|lead: Lead| lead.term < term)
                {
                    *place = Some(Lead { node, term });
                }
            }
        }
        leads.into_iter().collect()
    }

    fn is_healthy(&self, shards: u32) -> bool {
        let Some(leads) = self.leads_now(shards) else {
            return false;
        };
        if self.fresh().count() < self.reports.len() {
            return false;
        }
        let mut last = vec![0; shards as usize];
        for (_, report) in self.fresh() {
            for shard in &report.shards {
                if let Some(last) = last.get_mut(shard.shard as usize) {
                    *last = shard.last.max(*last);
                }
            }
        }
        self.fresh().all(|(_, report)| {
            report.shards.iter().all(|shard| {
                let at = shard.shard as usize;
                let follows = leads.get(at).is_some_and(|lead| lead.term == shard.term);
                follows
                    && shard.leader != 0
                    && last
                        .get(at)
                        .is_some_and(|last| shard.applied + LAG_MAX >= *last)
            })
        })
    }
}

/// Asks a node until it no longer answers.
fn ask_on(
    address: &str,
    node: usize,
    seen: &Mutex<WatchedCluster>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let address: SocketAddr = address.parse().map_err(|_| malformed())?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_nodelay(true)?;
    stream.write_all(&Hello::client(ClusterId(0)).encode())?;
    let mut welcome = [0; WELCOME_BYTES];
    stream.read_exact(&mut welcome)?;
    let welcome = Welcome::parse(&welcome).map_err(|_| malformed())?;
    let parser = FrameParser::new(Accepts::Answers);
    let (mut buffer, mut number) = (BytesMut::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let mut out = Outbox::default();
        let head = Head {
            kind: Kind::STATUS,
            request_id: RequestId(number),
            shard: ShardId(0),
            epoch: welcome.epoch,
        };
        encode_status(&mut out, head);
        for slice in out.slices() {
            stream.write_all(slice)?;
        }
        let answer = loop {
            if let Some(frame) = parser.take(&mut buffer).next() {
                break Answer::parse(&frame.map_err(|_| malformed())?);
            }
            let mut piece = [0; 4096];
            let len = stream.read(&mut piece)?;
            let arrived = piece.get(..len).filter(|arrived| !arrived.is_empty());
            buffer.extend_from_slice(arrived.ok_or(io::ErrorKind::UnexpectedEof)?);
        };
        if let Ok(Answer::Status(report)) = answer {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.take(node, report);
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}
