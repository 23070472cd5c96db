//! Damage that heals by itself, while the replicas run.

use super::cluster::{Cluster, delete, put};
use super::uploads::uploads;
use crate::{Group, GroupError, Options, Outcome, WriteReply};
use bytes::Bytes;
use corelith_io::sim::{SimConfig, SimDisk};
use corelith_shards::planted::{Bug, plant};
use corelith_shards::{BlockCache, Found, LogIndex, ScrubOptions, ShardId, ShardOptions};
use corelith_wire::UploadId;
use corelith_wire::request::{Condition, WriteCommand};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Keys that are written.
const KEYS: u64 = 80;

fn quick(options: &mut ShardOptions) {
    options.cache = BlockCache::new(0);
    options.value_segment_bytes = 1 << 20;
    options.scrub = ScrubOptions {
        bytes_per_second: 256 << 20,
        cycle_min: Duration::from_millis(500),
    };
}

/// A cluster, and what a client has written to it.
struct Load {
    cluster: Cluster,
    seed: u64,
    session: u64,
    number: u64,
    model: BTreeMap<String, (LogIndex, String)>,
}

impl Load {
    fn started(seed: u64) -> Self {
        let mut cluster = Cluster::new(seed, SimConfig::default(), Options::default(), 1);
        cluster.memtable_bytes = 32 << 10;
        cluster.tune = quick;
        cluster.start_all();
        let leader = cluster.wait_leader();
        let session = cluster.open_session(leader);
        Self {
            cluster,
            seed,
            session,
            number: 0,
            model: BTreeMap::new(),
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    /// Has the leader apply a command, whoever that is.
    fn apply(&self, command: &Bytes) -> Outcome {
        loop {
            let leader = self.cluster.wait_leader();
            match self.cluster.write(leader, command.clone()) {
                Ok(reply) => return reply.outcome,
                Err(GroupError::Shutdown | GroupError::Storage) => panic!("a replica has stopped"),
                Err(_) => self.cluster.sim.run_for(Duration::from_millis(20)),
            }
        }
    }

    /// Writes something, under a condition or not, and checks what comes of it.
    fn write(&mut self) {
        let key = format!("key/{:03}", self.draw(KEYS));
        self.number += 1;
        let (session, number) = (self.session, self.number);
        if self.draw(4) == 0 {
            self.apply(&delete(session, number, &key));
            self.model.remove(&key);
            return;
        }
        let len = [100, 900, 3000, 6000, 20_000][self.draw(5) as usize];
        let value = format!("{number:05}").repeat(len / 5);
        let current = self.model.get(&key).map(|(version, _)| *version);
        let (condition, holds) = match self.draw(4) {
            0 => (Condition::Any, true),
            1 => (Condition::Absent, current.is_none()),
            2 => (Condition::Version(1), false),
            _ => match current {
                Some(version) => (Condition::Version(version.0), true),
                None => (Condition::Absent, true),
            },
        };
        match self.apply(&put(session, number, condition, &key, &value)) {
            Outcome::Applied { version } => {
                assert!(holds, "{condition:?} where {current:?}");
                self.model.insert(key, (version, value));
            }
            Outcome::Conflict { current: found } => {
                assert!(!holds && found == current, "{found:?} {current:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    fn group(&self, at: usize) -> Group {
        let groups = self.cluster.groups(at).unwrap();
        groups.group(ShardId(0)).unwrap()
    }

    /// Reads a key at a replica, or elsewhere if it is damaged there.
    fn read(&self, at: usize, key: &str) -> Option<Found> {
        let group = self.group(at);
        let key = Bytes::from(key.to_owned());
        self.cluster
            .sim
            .block_on(self.cluster.nodes[at], async move {
                let point = loop {
                    match group.replica_read_barrier().await {
                        Ok(point) => break point,
                        Err(_) => corelith_io::sleep(Duration::from_millis(20)).await,
                    }
                };
                match group.engine().get(&key).await {
                    Ok(found) => return found,
                    Err(error) => assert!(error.is_corrupt(), "{error}"),
                }
                let stored = Bytes::from([&[0], &key[..]].concat());
                for _ in 0..500 {
                    let range = (stored.clone(), stored.clone(), Bytes::new());
                    let fetched = group.fetch_elsewhere(range, None, point.index, 0).await;
                    if let Some(fetched) = fetched {
                        return fetched.keys.into_iter().next().map(|key| Found {
                            version: key.at,
                            value: key.value.into_bytes().unwrap(),
                        });
                    }
                    corelith_io::sleep(Duration::from_millis(20)).await;
                }
                let damages = group.engine().damages();
                panic!("nobody has {}: {damages:?}", key.escape_ascii());
            })
    }

    fn check_read(&mut self) {
        let key = format!("key/{:03}", self.draw(KEYS));
        let at = self.draw(3) as usize;
        let found = self.read(at, &key);
        let found = found.map(|found| {
            let value = String::from_utf8(found.value.to_vec()).unwrap();
            (found.version, value)
        });
        assert_eq!(found, self.model.get(&key).cloned(), "{key} at {at}");
    }

    fn disk(&self, at: usize) -> SimDisk {
        self.cluster.sim.disk(self.cluster.nodes[at])
    }

    /// The files of a node's shard of that kind.
    fn files(&self, at: usize, kind: &str) -> Vec<String> {
        let files = self.disk(at).files().into_iter().map(|(path, _)| path);
        let files = files.filter(|path| path.contains("shard-0") && path.ends_with(kind));
        files.collect()
    }

    /// Flips a bit in a page of a file of that kind that holds something; `false` if there is none.
    fn damage(&mut self, at: usize, kind: &str) -> bool {
        let mut pages: Vec<(String, u64)> = Vec::new();
        for path in self.files(at, kind) {
            let bytes = self.disk(at).read(&path).unwrap();
            let all = (0..).zip(bytes.chunks(4096));
            let written = all.filter(|(_, page)| page[20..].iter().any(|byte| *byte != 0));
            pages.extend(written.map(|(page, _)| (path.clone(), page)));
        }
        if pages.is_empty() {
            return false;
        }
        let (path, page) = pages[self.draw(pages.len() as u64) as usize].clone();
        self.disk(at).flip_bit(&path, page * 4096 + 24);
        true
    }

    fn is_well(&self) -> bool {
        (0..3).all(|at| {
            let engine = self.group(at).engine().clone();
            self.inside(at, || engine.damages().is_empty())
        })
    }

    /// How many cycles the scrubbers of all replicas have begun at least.
    fn cycles(&self) -> u64 {
        let cycle = |at| {
            let engine = self.group(at).engine().clone();
            self.inside(at, || engine.report().scrub.cycle)
        };
        (0..3).map(cycle).min().unwrap()
    }

    /// Looks at something on a node.
    fn inside<T>(&self, at: usize, look: impl FnOnce() -> T) -> T {
        self.cluster.sim.enter(self.cluster.nodes[at], look)
    }

    /// Waits until everything was checked once more, and nothing is damaged.
    fn wait_well(&self) {
        let cycle = self.cycles() + 2;
        let limit = Duration::from_secs(120);
        let is_well = || self.cycles() >= cycle && self.is_well();
        if !self.cluster.sim.run_until(is_well, limit) {
            let damages: Vec<String> = (0..3).map(|at| self.damages(at)).collect();
            panic!("not well: {damages:#?}, {:#?}", self.cluster.stands());
        }
    }

    /// What is damaged at a node, in words.
    fn damages(&self, at: usize) -> String {
        let engine = self.group(at).engine().clone();
        self.inside(at, || {
            let damages = engine.damages().into_iter();
            let told = damages.map(|damage| format!("{damage}: {:?}; ", engine.remedy(&damage)));
            told.collect()
        })
    }

    fn check(&self) {
        self.wait_well();
        self.cluster.check_replicas_equal();
        let content = self.cluster.content(0, ShardId(0)).into_iter();
        let content = content.map(|(key, found)| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&key), (found.version, text(&found.value)))
        });
        assert_eq!(content.collect::<BTreeMap<_, _>>(), self.model);
    }

    fn checkpoint(&self) {
        for at in 0..3 {
            let engine = self.group(at).engine().clone();
            let node = self.cluster.nodes[at];
            let flushed = self
                .cluster
                .sim
                .block_on(node, async move { engine.checkpoint().await });
            flushed.unwrap();
        }
    }
}

#[test]
fn each_kind_of_file_heals_by_itself() {
    for (seed, kind) in (40..).zip([".sst", ".vlog", ".log", "MANIFEST"]) {
        let mut load = Load::started(seed);
        for _ in 0..120 {
            load.write();
        }
        load.checkpoint();
        for at in 0..3 {
            assert!(load.damage(at, kind), "{kind}");
            let cycle = load.cycles() + 2;
            load.cluster.wait("a cycle", || load.cycles() >= cycle);
            load.wait_well();
            for _ in 0..10 {
                load.check_read();
                load.write();
            }
        }
        load.check();
    }
}

#[test]
fn rows_of_uploads_and_chunks_heal_by_themselves() {
    for (seed, kind) in (80..).zip([".sst", ".vlog"]) {
        let mut load = Load::started(seed);
        for number in 0..30 {
            let id = UploadId(4 * number + 3);
            uploads(&load.cluster, id, &format!("large-{}", number % 20));
            load.write();
        }
        load.checkpoint();
        for at in 0..3 {
            for _ in 0..4 {
                load.damage(at, kind);
            }
            let cycle = load.cycles() + 2;
            load.cluster.wait("a cycle", || load.cycles() >= cycle);
            load.wait_well();
        }
        load.cluster.check_replicas_equal();
    }
}

/// One replica after the other is damaged, under load.
fn heals_under_load(seed: u64) {
    let mut load = Load::started(seed);
    for _ in 0..60 {
        load.write();
    }
    for round in 0..6 {
        let at = (round + seed as usize) % 3;
        for _ in 0..=load.draw(3) {
            let kind = [".sst", ".sst", ".vlog", ".log", "MANIFEST"][load.draw(5) as usize];
            load.damage(at, kind);
        }
        for _ in 0..20 {
            load.write();
            load.check_read();
        }
        load.wait_well();
    }
    load.check();
}

#[test]
fn replicas_heal_one_after_the_other_under_load() {
    let seeds = std::env::var("CORELITH_SIM_SEEDS").ok();
    let seeds: u64 = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    for seed in 100..100 + seeds {
        heals_under_load(seed);
    }
}

/// The first seed that shows a bug.
fn found(bug: Bug) -> Option<u64> {
    (100..110).find(|seed| {
        plant(Some(bug));
        let ended = std::panic::catch_unwind(|| heals_under_load(*seed));
        plant(None);
        ended.is_err()
    })
}

#[test]
fn a_healed_range_that_keeps_old_versions_is_found() {
    assert!(found(Bug::HealKeepsOldVersions).is_some());
}

#[test]
fn different_damage_on_all_replicas_heals_and_every_key_is_readable() {
    let mut load = Load::started(61);
    for _ in 0..200 {
        load.write();
    }
    load.checkpoint();
    load.wait_well();
    // The value of another key on each.
    let values: Vec<String> = load
        .model
        .values()
        .map(|(_, value)| value.clone())
        .collect();
    let mut damaged = 0;
    let places = [0, values.len() / 2, values.len() - 1];
    for (at, place) in places.into_iter().enumerate() {
        let part = &values[place].as_bytes()[..50];
        for path in [load.files(at, ".sst"), load.files(at, ".vlog")].concat() {
            let bytes = load.disk(at).read(&path).unwrap();
            let place = bytes.windows(50).position(|bytes| bytes == part);
            if let Some(place) = place {
                load.disk(at).flip_bit(&path, place as u64 + 20);
                damaged += 1;
            }
        }
    }
    assert!(damaged >= 3, "{damaged}");
    let keys: Vec<String> = load.model.keys().cloned().collect();
    for at in 0..3 {
        for key in &keys {
            let found = load.read(at, key).unwrap();
            assert_eq!(found.value, load.model[key].1.as_bytes(), "{key} at {at}");
        }
    }
    for _ in 0..20 {
        load.write();
        load.check_read();
    }
    load.check();
}

/// A group of one whose only copy is damaged: what cannot be decided is refused before it is in the log, and all else goes
/// on.
#[test]
fn a_condition_on_what_is_damaged_everywhere_is_refused() {
    let load = Load::started(71);
    let leader = load.cluster.wait_leader();
    let group = load.group(leader);
    let alone = BTreeSet::from([group.replica()]);
    let node = load.cluster.nodes[leader];
    let shrunk = load.cluster.sim.block_on(node, async move {
        for _ in 0..500 {
            if group.set_voters(alone.clone()).await.is_ok() {
                return true;
            }
            corelith_io::sleep(Duration::from_millis(20)).await;
        }
        false
    });
    assert!(shrunk);
    for at in (0..3).filter(|at| *at != leader) {
        load.cluster.dismiss(at);
    }
    let session = load.session;
    let value = "damaged ".repeat(20);
    for number in 1..=10 {
        let key = format!("key/{number:03}");
        let written = load.apply(&put(session, number, Condition::Any, &key, &value));
        assert!(matches!(written, Outcome::Applied { .. }), "{written:?}");
    }
    let engine = load.group(leader).engine().clone();
    let sim = &load.cluster.sim;
    let flushed = engine.clone();
    sim.block_on(node, async move { flushed.checkpoint().await })
        .unwrap();
    let mut damaged = 0;
    for path in load.files(leader, ".sst") {
        let bytes = load.disk(leader).read(&path).unwrap();
        let place = bytes
            .windows(value.len())
            .position(|bytes| bytes == value.as_bytes());
        if let Some(place) = place {
            load.disk(leader).flip_bit(&path, place as u64 + 20);
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    // A read meets it.
    let read = engine.clone();
    let met = sim.block_on(node, async move { read.get(b"key/003").await });
    assert!(met.is_err_and(|error| error.is_corrupt()));
    let write = |number, condition, key| {
        let written = load
            .cluster
            .write(leader, put(session, number, condition, key, "v"));
        written.map(|reply| reply.outcome)
    };
    let conditions = [Condition::Absent, Condition::Version(1)];
    for (number, condition) in (11..).zip(conditions) {
        let refused = write(number, condition, "key/003");
        assert_eq!(refused, Err(GroupError::Corrupt));
    }
    let other = write(13, Condition::Absent, "other");
    assert!(matches!(other, Ok(Outcome::Applied { .. })), "{other:?}");
    // A value that asks for nothing puts the key right, in memory and once it is written out.
    let healed = write(14, Condition::Any, "key/003");
    let Ok(Outcome::Applied { version }) = healed else {
        panic!("{healed:?}");
    };
    let again = write(15, Condition::Version(version.0), "key/003");
    let Ok(Outcome::Applied { version }) = again else {
        panic!("{again:?}");
    };
    sim.block_on(node, async move { engine.checkpoint().await })
        .unwrap();
    let last = write(16, Condition::Version(version.0), "key/003");
    assert!(matches!(last, Ok(Outcome::Applied { .. })), "{last:?}");
    assert_eq!(
        write(17, Condition::Absent, "key/004"),
        Err(GroupError::Corrupt)
    );
}

/// Three replicas that have a conditional write in the log whose key is damaged on all of them. What is read of its table
/// is read from the disk.
struct Undecidable {
    load: Load,
    /// Where each of them is damaged.
    places: Vec<Vec<(String, u64)>>,
    answer: Rc<RefCell<Option<Result<WriteReply, GroupError>>>>,
}

const KEY: &str = "key/003";

impl Undecidable {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(seed, SimConfig::default(), Options::default(), 1);
        cluster.tune = |options| options.cache = BlockCache::new(0);
        cluster.start_all();
        let leader = cluster.wait_leader();
        let session = cluster.open_session(leader);
        let load = Load {
            cluster,
            seed,
            session,
            number: 0,
            model: BTreeMap::new(),
        };
        let value = "damaged ".repeat(20);
        for number in 1..=10 {
            let key = format!("key/{number:03}");
            load.apply(&put(session, number, Condition::Any, &key, &value));
        }
        load.cluster.check_replicas_equal();
        load.checkpoint();
        let places: Vec<_> = (0..3).map(|at| load.damage_value(at, &value)).collect();
        let answer = Rc::<RefCell<_>>::default();
        let (group, told) = (load.group(leader), Rc::clone(&answer));
        let write = put(session, 11, Condition::Absent, KEY, "v");
        let command = WriteCommand::parse(&write).unwrap();
        load.inside(leader, || {
            group.submit(write.clone(), &command, move |reply| {
                told.replace(Some(reply));
            });
        });
        Self {
            load,
            places,
            answer,
        }
    }

    /// Whether all replicas that run wait for it.
    fn all_wait(&self) -> bool {
        let waits = |at| {
            let group = self.load.group(at);
            group.waits_to_apply().is_some_and(|wait| wait.key == KEY)
        };
        (0..3).all(waits)
    }

    /// Puts the file of a node right, which starts anew.
    fn restore(&self, at: usize) {
        self.load.cluster.kill(at);
        for (path, place) in &self.places[at] {
            self.load.disk(at).flip_bit(path, *place);
        }
        self.load.cluster.start(at);
    }

    fn check_goes_on(&self) {
        let has_applied = |at: usize| {
            let groups = self.load.cluster.groups(at);
            let group = groups.and_then(|groups| groups.group(ShardId(0)));
            group.is_some_and(|group| {
                let status = group.status();
                group.waits_to_apply().is_none() && status.applied == status.last_log
            })
        };
        let load = &self.load;
        load.cluster
            .wait("all apply again", || (0..3).all(has_applied));
        let leader = load.cluster.wait_leader();
        let again = put(load.session, 11, Condition::Absent, KEY, "v");
        let again = load.cluster.write(leader, again).unwrap().outcome;
        assert!(
            matches!(again, Outcome::Conflict { current: Some(_) }),
            "{again:?}"
        );
        let next = load.apply(&put(load.session, 12, Condition::Any, "other", "v"));
        assert!(matches!(next, Outcome::Applied { .. }), "{next:?}");
    }
}

impl Load {
    /// Damages that value in the tables of a node.
    fn damage_value(&self, at: usize, value: &str) -> Vec<(String, u64)> {
        let mut places = Vec::new();
        for path in self.files(at, ".sst") {
            let bytes = self.disk(at).read(&path).unwrap();
            let mut parts = bytes.windows(value.len());
            if let Some(place) = parts.position(|part| part == value.as_bytes()) {
                let place = place as u64 + 20;
                self.disk(at).flip_bit(&path, place);
                places.push((path, place));
            }
        }
        assert!(!places.is_empty());
        places
    }
}

#[test]
fn an_entry_that_no_replica_can_decide_waits_until_one_can() {
    let stuck = Undecidable::new(81);
    let load = &stuck.load;
    load.cluster.wait("all wait", || stuck.all_wait());
    load.cluster.sim.run_for(Duration::from_secs(1200));
    assert!(stuck.all_wait(), "{:?}", load.cluster.stands());
    assert_eq!(*stuck.answer.borrow(), None);
    stuck.restore(1);
    stuck.check_goes_on();
}

#[test]
fn an_entry_that_no_replica_can_decide_waits_over_a_start_of_all() {
    let stuck = Undecidable::new(82);
    let load = &stuck.load;
    load.cluster.wait("all wait", || stuck.all_wait());
    for at in 0..3 {
        // Each of them remembers what was committed.
        let groups = load.cluster.groups(at).unwrap();
        let closing = async move { groups.close(ShardId(0)).await };
        load.cluster.sim.block_on(load.cluster.nodes[at], closing);
        load.cluster.kill(at);
    }
    load.cluster.start_all();
    let are_up = || (0..3).all(|at| load.cluster.groups(at).is_some());
    load.cluster.wait("all are up", || {
        are_up() && (0..3).all(|at| load.cluster.groups(at).unwrap().group(ShardId(0)).is_some())
    });
    load.cluster.wait("all wait again", || stuck.all_wait());
    stuck.restore(1);
    stuck.check_goes_on();
}

#[test]
fn a_replica_that_waits_for_what_is_damaged_can_be_stopped() {
    let stuck = Undecidable::new(83);
    let load = &stuck.load;
    load.cluster.wait("all wait", || stuck.all_wait());
    let groups = load.cluster.groups(0).unwrap();
    let closing = async move {
        let closing = groups.close(ShardId(0));
        corelith_io::timeout(Duration::from_secs(30), closing).await
    };
    let closed = load.cluster.sim.block_on(load.cluster.nodes[0], closing);
    assert!(closed.is_ok(), "it is not stopped");
}
