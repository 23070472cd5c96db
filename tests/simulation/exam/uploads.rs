//! Uploads that are cut at every message and at every I/O, by whatever can cut them: they go on where they were, and the value
//! is there as a whole or not at all.

use super::{Lead, others, restart_all, some_lead};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::large::{Uploading, parts_of, read_bytes, upload_of};
use crate::plan::Plan;
use crate::replicas;
use crate::seeds::{on_all_processors, seeds};
use bytes::Bytes;
use corelith_client::UploadState;
use corelith_client::session::Request;
use corelith_io::random_u64;
use corelith_io::sim::SimNode;
use corelith_shards::{ShardId, Space};
use corelith_wire::request::Condition;
use corelith_wire::response::Answer;
use corelith_wire::upload::UploadRefusal;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(10);
/// What a fault lasts, longer than a lead.
const FAULT: Duration = Duration::from_secs(2);
/// Parts of an upload that is cut, at least.
const PARTS_MIN: usize = 4;
/// So many uploads end before their cut, and no later cut is tried.
const MISSES: u32 = 3;
/// An I/O that is never reached.
const NEVER: u64 = 1 << 40;

/// What cuts an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The leader is cut off from all.
    Isolate,
    /// All connections are broken off.
    Reset,
    /// The leader's process dies, and the kernel says so.
    Kill,
    /// Power fails at the leader.
    Crash,
    /// The power of all nodes fails.
    CrashAll,
    /// The client dies; another one goes on.
    Client,
}

/// What is seen of one upload.
#[derive(Default)]
struct Seen {
    done: Cell<bool>,
    /// The commit was answered.
    version: Cell<u64>,
    /// Parts that were acknowledged.
    durable: RefCell<BTreeSet<u32>>,
}

/// Carries an upload to its end, as a client does that has its token: what is durable is not sent again.
/// `at_once` parts go side by side.
async fn carry(upload: Uploading, at_once: usize, seen: Rc<Seen>) {
    let all = 0..parts_of(upload.value).len() as u32;
    loop {
        let (state, durable) = match upload.status(WITHIN).await {
            Ok(found) => found,
            Err(_) => continue,
        };
        match state {
            UploadState::Unknown => {
                assert!(seen.durable.borrow().is_empty(), "it is forgotten");
                drop(upload.begin(WITHIN).await);
                continue;
            }
            UploadState::Open => {}
            UploadState::Committed { version } => {
                seen.version.set(version);
                return seen.done.set(true);
            }
            other => panic!("{} is {other:?}", upload.value),
        }
        let missing: Vec<u32> = all.clone().filter(|part| !durable.contains(part)).collect();
        for part in &missing {
            let is_known = seen.durable.borrow().contains(part);
            assert!(!is_known, "part {part} was acknowledged and is lost");
        }
        let mut sent = Vec::new();
        for parts in missing.chunks(at_once) {
            sent.extend(upload.send_all(parts, WITHIN).await);
        }
        for (part, outcome) in missing.iter().zip(&sent) {
            match outcome {
                Ok(UploadState::Open) => drop(seen.durable.borrow_mut().insert(*part)),
                Ok(other) => panic!("part {part} is {other:?}"),
                Err(_) => {}
            }
        }
        if sent.iter().all(Result::is_ok) {
            // What came of it the next status says, if this is not answered.
            if let Ok(state) = upload.commit(Condition::Any, WITHIN).await {
                let is_committed = matches!(state, UploadState::Committed { .. });
                assert!(is_committed, "the commit is {state:?}");
            }
        }
    }
}

/// Reads the key all the time: it has the value before, or the next one, and never goes back.
async fn watch(client: Client, key: Bytes, values: [u64; 2], stop: Rc<Cell<bool>>) {
    let mut at = 0;
    while !stop.get() {
        let request = Request::Get { key: key.clone() };
        if let Ok(answer) = client.run(request, Duration::from_millis(500)).await {
            let value = match &answer {
                Answer::Large(large) => {
                    let _ = read_bytes(&client, &key, large, Duration::from_secs(1)).await;
                    values
                        .iter()
                        .position(|value| upload_of(*value) == large.upload)
                }
                Answer::NotFound { .. } if values[0] == 0 => Some(0),
                _ => None,
            };
            let value = value.unwrap_or_else(|| panic!("{key:?} has {answer:?}"));
            assert!(value >= at, "{key:?} had the next value before");
            at = value;
        }
        corelith_io::sleep(Duration::from_millis(3)).await;
    }
}

/// The next value behind this one that has parts enough.
fn behind(value: u64) -> u64 {
    let mut values = value + 1..;
    values
        .find(|value| parts_of(*value).len() >= PARTS_MIN)
        .unwrap()
}

/// One cluster, which takes one upload after the other to one key.
struct Stage {
    cluster: Cluster,
    seed: u64,
    key: Bytes,
    /// The value that the key has; 0: none.
    value: u64,
    /// That it is to get.
    next: u64,
    /// Parts that go side by side.
    at_once: usize,
    /// Uploads so far.
    count: u64,
    /// Tasks run on cores of their own.
    cores: u32,
}

impl Stage {
    fn new(seed: u64, at_once: usize) -> Self {
        let plan = Plan {
            memtable_bytes: 16 << 10,
            ..Plan::plain(seed, 1)
        };
        let mut cluster = Cluster::start(&plan);
        cluster.wait_ready(WITHIN);
        Self {
            cluster,
            seed,
            key: Bytes::from_static(b"key"),
            value: 0,
            next: behind(0),
            at_once,
            count: 0,
            cores: 0,
        }
    }

    fn start<F: Future<Output = ()> + 'static>(
        &mut self,
        machine: SimNode,
        work: impl FnOnce() -> F + 'static,
    ) {
        self.cores += 1;
        self.cluster.sim.start(machine, self.cores, work);
    }

    /// Begins to upload the next value from a machine. It may have been begun already.
    fn upload(&mut self, machine: SimNode, seen: &Rc<Seen>) {
        let (map, key, value) = (self.cluster.map(), self.key.clone(), self.next);
        let (seen, at_once) = (Rc::clone(seen), self.at_once);
        self.start(machine, move || async move {
            let client = Client::new(map);
            let upload = Uploading::new(&client, &key, value);
            carry(upload, at_once, seen).await;
        });
    }

    /// Waits until all replicas are equally far, so that all take part.
    fn settle(&self) {
        let are_equal = || {
            let groups = self.cluster.groups();
            let applied: Vec<_> = groups.iter().map(|group| group.status().applied).collect();
            applied.len() == self.cluster.len() && applied.iter().all(|of| *of == applied[0])
        };
        let sim = &self.cluster.sim;
        assert!(sim.run_until(are_equal, LONG), "seed {}", self.seed);
    }

    /// Uploads the next value while `fault` happens to it, and checks it; says whether `fault` came before the end.
    fn take(&mut self, fault: impl FnOnce(&mut Self, SimNode, &Rc<Seen>) -> bool) -> bool {
        let sim = self.cluster.sim.clone();
        self.settle();
        let seen = Rc::new(Seen::default());
        let stop = Rc::new(Cell::new(false));
        let machine = sim.add_node();
        let (map, key) = (self.cluster.map(), self.key.clone());
        let (values, stopped) = ([self.value, self.next], Rc::clone(&stop));
        let watcher = self.cluster.outside;
        self.start(watcher, move || {
            watch(Client::new(map), key, values, stopped)
        });
        self.upload(machine, &seen);
        let came = fault(self, machine, &seen);
        sim.run_until(|| seen.done.get(), FAULT);
        sim.net().heal_all();
        restart_all(&mut self.cluster);
        self.cluster.wait_ready(LONG);
        let is_done = sim.run_until(|| seen.done.get(), LONG);
        assert!(is_done, "seed {}: the upload does not end", self.seed);
        (self.value, self.next) = (self.next, behind(self.next));
        self.count += 1;
        let (map, key) = (self.cluster.map(), self.key.clone());
        let (value, version) = (self.value, seen.version.get());
        stop.set(true);
        sim.block_on(self.cluster.outside, async move {
            let client = Client::new(map);
            let found = client.get(key.clone(), LONG).await;
            let Ok(Answer::Large(large)) = found else {
                panic!("{found:?}");
            };
            assert_eq!((large.upload, large.version), (upload_of(value), version));
            assert!(read_bytes(&client, &key, &large, LONG).await);
        });
        came
    }

    fn end(self) {
        self.cluster.sim.run_for(Duration::from_secs(1));
        replicas::check_equal(&self.cluster, 1, 3);
        println!("seed {}: {} uploads", self.seed, self.count);
    }
}

/// Does harm to an upload that is under way.
fn strike(stage: &mut Stage, cut: Cut, machine: SimNode, seen: &Rc<Seen>) {
    let sim = stage.cluster.sim.clone();
    let Lead { at, node, .. } = some_lead(&stage.cluster, 1);
    match cut {
        Cut::Isolate => sim.net().isolate(node),
        Cut::Reset => sim.net().reset_all(),
        Cut::Kill => stage.cluster.kill(at),
        Cut::Crash => stage.cluster.crash(at),
        Cut::CrashAll => (0..stage.cluster.len()).for_each(|at| stage.cluster.crash(at)),
        Cut::Client => {
            sim.crash(machine);
            let other = sim.add_node();
            stage.upload(other, seen);
        }
    }
}

/// Cuts one upload after the other, each one message later than the one before, until one ends first.
fn cut_at_messages(seed: u64, cut: Cut) {
    let mut stage = Stage::new(seed, 100);
    let sim = stage.cluster.sim.clone();
    let (mut count, mut misses) = (0, 0);
    while misses < MISSES {
        count += 1;
        let came = stage.take(|stage, machine, seen| {
            let until = sim.net().sent() + count;
            sim.run_until(|| seen.done.get() || sim.net().sent() >= until, LONG);
            let came = !seen.done.get();
            if came {
                strike(stage, cut, machine, seen);
            }
            came
        });
        misses += u32::from(!came);
    }
    println!("{cut:?}: cut at each of {count} messages");
    assert!(count > 20, "too few messages");
    stage.end();
}

#[test]
fn an_upload_cut_at_every_message_goes_on() {
    let cuts = [
        Cut::Isolate,
        Cut::Reset,
        Cut::Kill,
        Cut::Crash,
        Cut::CrashAll,
        Cut::Client,
    ];
    let seeds = seeds(1);
    let runs = seeds.start * 6..seeds.end * 6;
    on_all_processors(runs, |run| {
        cut_at_messages(run / 6, cuts[(run % 6) as usize]);
    });
}

/// Cuts the power of a node at one I/O after the other of uploads.
fn cut_at_ios(seed: u64, of_leader: bool) {
    let mut stage = Stage::new(seed, 1);
    let sim = stage.cluster.sim.clone();
    let (mut count, mut misses) = (0, 0);
    while misses < MISSES {
        count += 1;
        let came = stage.take(|stage, _, seen| {
            let lead = some_lead(&stage.cluster, 1);
            let node = match of_leader {
                true => lead.node,
                false => others(&stage.cluster, lead.node)[(seed % 2) as usize],
            };
            sim.crash_at_io(node, count);
            sim.run_until(|| seen.done.get() || !sim.is_up(node), LONG);
            let came = !sim.is_up(node);
            if !came {
                sim.crash_at_io(node, NEVER);
            }
            came
        });
        misses += u32::from(!came);
    }
    println!("cut at each of {count} I/Os");
    assert!(count > 10, "too few I/Os");
    stage.end();
}

#[test]
fn an_upload_cut_at_every_io_goes_on() {
    let seeds = seeds(1);
    let runs = seeds.start * 2..seeds.end * 2;
    on_all_processors(runs, |run| cut_at_ios(run / 2, run % 2 == 0));
}

/// Rows of uploads that each replica has for chunks.
fn chunk_rows(cluster: &Cluster) -> Vec<usize> {
    let groups = cluster.groups().into_iter();
    groups
        .map(|group| {
            let node = cluster.node(cluster.place_of(group.node()));
            cluster.sim.block_on(node, async move {
                let mut rows = 0;
                for space in [Space::Staged, Space::Chunk] {
                    let page = group.engine().row_keys(space, &[], &[], usize::MAX);
                    rows += page.await.unwrap().0.len();
                }
                rows
            })
        })
        .collect()
}

/// What is abandoned, given up, or loses, leaves nothing, whoever leads.
#[test]
fn uploads_that_come_to_nothing_leave_nothing() {
    on_all_processors(seeds(2), |seed| {
        let mut cluster = Cluster::start(&Plan::plain(seed, 1));
        cluster.wait_ready(WITHIN);
        let sim = cluster.sim.clone();
        let key = Bytes::from_static(b"key");
        let (map, of_key) = (cluster.map(), key.clone());
        sim.block_on(cluster.outside, async move {
            let client = Client::new(map);
            for value in 1..=6 {
                let upload = Uploading::new(&client, &of_key, value);
                let ttl_ms = if value <= 2 { 3_000 } else { 3_600_000 };
                let begun = upload.begin_for(ttl_ms, WITHIN).await;
                assert_eq!(begun.unwrap(), UploadState::Open);
                let parts: Vec<u32> = (0..parts_of(value).len() as u32).collect();
                for sent in upload.send_all(&parts, WITHIN).await {
                    assert_eq!(sent.unwrap(), UploadState::Open);
                }
            }
            let aborted = Uploading::new(&client, &of_key, 3).abort(WITHIN).await;
            assert_eq!(aborted.unwrap(), UploadState::Aborted);
        });
        let lead = some_lead(&cluster, 1);
        cluster.crash(lead.at);
        cluster.restart(lead.at);
        sim.run_for(Duration::from_secs(8));
        let map = cluster.map();
        // Three commit at once, through clients of their own; one of them twice.
        let states = sim.block_on(cluster.outside, async move {
            let commits = [4, 5, 6, 6].map(|value| {
                let client = Client::new(map.clone());
                let upload = Uploading::new(&client, &key, value);
                async move { upload.commit(Condition::Absent, LONG).await.unwrap() }
            });
            let states = futures_util::future::join_all(commits).await;
            let client = Client::new(map);
            for value in [1, 2] {
                let late = Uploading::new(&client, &key, value);
                let late = late.commit(Condition::Any, LONG).await.unwrap();
                assert_eq!(late, UploadState::Expired);
            }
            let found = client.get(key.clone(), LONG).await;
            let Ok(Answer::Large(large)) = found else {
                panic!("{found:?}");
            };
            assert!(read_bytes(&client, &key, &large, LONG).await);
            (states, large)
        });
        let (states, large) = states;
        let won = UploadState::Committed {
            version: large.version,
        };
        let lost = UploadState::Conflicted {
            current: Some(large.version),
        };
        assert_eq!(states[2], states[3], "one upload is committed once");
        let winners = states[..3].iter().filter(|state| **state == won).count();
        assert_eq!(winners, 1, "{states:?}");
        assert!(states.iter().all(|state| *state == won || *state == lost));
        let left = large.parts.len();
        let is_gone = || chunk_rows(&cluster).iter().all(|rows| *rows == left);
        for _ in 0..10 {
            if !is_gone() {
                sim.run_for(Duration::from_secs(1));
            }
        }
        assert!(is_gone(), "{:?} of {left}", chunk_rows(&cluster));
        replicas::check_equal(&cluster, 1, 3);
        let leader = cluster.leader(ShardId(0)).unwrap();
        assert_eq!(leader.upload_counts().open, 0);
    });
}

/// Does something a little later.
async fn after<T>(micros: u64, work: impl Future<Output = T>) -> T {
    corelith_io::sleep(Duration::from_micros(micros)).await;
    work.await
}

/// A commit, a chunk that comes again, another one in its place and an abort, all at once: the value is there as a whole, or
/// nothing of it is left.
#[test]
fn a_commit_beside_chunks_and_an_abort_is_all_or_nothing() {
    const UPLOADS: u64 = 60;
    on_all_processors(seeds(2), |seed| {
        let mut cluster = Cluster::start(&Plan::plain(seed, 1));
        cluster.wait_ready(WITHIN);
        let (sim, map) = (cluster.sim.clone(), cluster.map());
        let (committed, rows) = sim.block_on(cluster.outside, async move {
            let client = Client::new(map);
            let (mut committed, mut rows) = (0, 0);
            for value in 1..=UPLOADS {
                let key = Bytes::from(format!("key-{value}"));
                let upload = Uploading::new(&client, &key, value);
                upload.begin(WITHIN).await.unwrap();
                let parts: Vec<u32> = (0..parts_of(value).len() as u32).collect();
                for sent in upload.send_all(&parts, WITHIN).await {
                    assert_eq!(sent.unwrap(), UploadState::Open);
                }
                let (other, pause) = (Bytes::from_static(b"other"), || random_u64() % 2_000);
                let aborts = after(pause(), async {
                    match value % 2 {
                        0 => upload.abort(WITHIN).await.unwrap(),
                        _ => UploadState::Open,
                    }
                });
                let (ended, again, differs, aborted) = futures_util::join!(
                    after(pause(), upload.commit(Condition::Any, WITHIN)),
                    after(pause(), upload.send(0, WITHIN)),
                    after(pause(), upload.send_bytes(0, other, WITHIN)),
                    aborts,
                );
                let ended = ended.unwrap();
                let refused = UploadState::Refused(UploadRefusal::ChunkDiffers);
                let (again, differs) = (again.unwrap(), differs.unwrap());
                assert!(again == ended || again == UploadState::Open, "{again:?}");
                assert!(differs == ended || differs == refused, "{differs:?}");
                assert!(value % 2 > 0 || aborted == ended, "{aborted:?}");
                match client.get(key.clone(), WITHIN).await {
                    Ok(Answer::Large(large)) => {
                        let version = large.version;
                        assert_eq!(ended, UploadState::Committed { version });
                        assert!(read_bytes(&client, &key, &large, WITHIN).await);
                        committed += 1;
                        rows += parts.len();
                    }
                    Ok(Answer::NotFound { .. }) => assert_eq!(ended, UploadState::Aborted),
                    other => panic!("{other:?}"),
                }
            }
            (committed, rows)
        });
        assert!(
            committed > UPLOADS / 2 && committed < UPLOADS,
            "{committed}"
        );
        sim.run_for(Duration::from_secs(5));
        assert_eq!(chunk_rows(&cluster), vec![rows; 3]);
        replicas::check_equal(&cluster, 1, 3);
    });
}
