//! A cluster with clients, and the end that every run has: what goes wrong ends, the cluster serves again, and
//! everything that was seen is checked.
//!
//! A run has three parts, and a failure names the one that it was in, with the seed. *Safety*: things go
//! wrong. *Heal*: all of them end. *Liveness*: every shard answers a write within 10 s from then, the clients come to
//! their ends, the replicas are equal. The history of all three is checked last.

use crate::client::Client;
use crate::cluster::Cluster;
use crate::notes::Asked;
use crate::operator::newest_map;
use crate::plan::Plan;
use crate::replicas;
use crate::seeds::words;
use crate::workload::Workload;
use bytes::Bytes;
use corelith_history::mutate::{MUTATIONS, mutate};
use corelith_history::search::{SearchVerdict, check_keys};
use corelith_history::{Observation, What, WriteCondition, lines, positions, witness};
use corelith_wire::ShardId;
use corelith_wire::response::Answer;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The first success comes at most this long after all faults are gone.
pub(crate) const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// What a run did, so that a test can see that it did something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub trace_hash: u64,
    pub done: usize,
    pub unknown: usize,
    pub strikes: usize,
    /// Large values that were committed, and those of which all bytes were read.
    pub uploaded: usize,
    pub read_whole: usize,
    /// Replicas that a snapshot was sent to, or that purged their log.
    pub purged: usize,
    pub refusals: BTreeMap<&'static str, usize>,
    /// Keys for which the search has found an order as well, and for which it gave up.
    pub searched: usize,
    pub undecided: usize,
    /// Broken copies of the history that both checks refused.
    pub mutations: usize,
    /// Longest time from the end of the faults to a shard's first success, in milliseconds.
    pub live_after_millis: u128,
    /// Milliseconds of simulated time.
    pub millis: u128,
}

impl Report {
    /// Adds up; the hashes are left out.
    pub(crate) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.unknown += other.unknown;
        self.strikes += other.strikes;
        self.uploaded += other.uploaded;
        self.read_whole += other.read_whole;
        self.purged += other.purged;
        self.searched += other.searched;
        self.undecided += other.undecided;
        self.mutations += other.mutations;
        self.live_after_millis = self.live_after_millis.max(other.live_after_millis);
        self.millis += other.millis;
        for (how, count) in &other.refusals {
            *self.refusals.entry(how).or_insert(0) += count;
        }
    }

    /// What was checked in `runs` runs, in one line.
    pub(crate) fn summary(&self, runs: u64) -> String {
        format!(
            "{runs} runs: {:.2} simulated hours, {} operations checked ({} of unknown outcome), {} large values \
             ({} read as a whole), {} faults; \
             the search agreed on {} keys and gave up on {}, both checks refused {} broken histories; \
             live at most {} ms after the faults",
            self.millis as f64 / 3_600_000.0,
            self.done,
            self.unknown,
            self.uploaded,
            self.read_whole,
            self.strikes,
            self.searched,
            self.undecided,
            self.mutations,
            self.live_after_millis,
        )
    }
}

/// A cluster and clients that work on it.
pub(crate) struct Trial {
    pub plan: Plan,
    pub cluster: Cluster,
    pub workload: Rc<Workload>,
}

impl Trial {
    /// Starts the cluster that `plan` describes, and its clients once it serves.
    pub(crate) fn start(plan: &Plan) -> Self {
        part(plan.seed, "start", || {
            let mut cluster = Cluster::start(plan);
            cluster.wait_ready(Duration::from_secs(30));
            // One that names the cluster, or no later one is taken.
            let map = newest_map(&cluster).map_or_else(|| cluster.map(), Arc::new);
            let workload = Workload::new(&cluster.sim, plan, map);
            for core in 0..plan.clients {
                let workload = Rc::clone(&workload);
                let run = move || workload.run_client();
                cluster.sim.start(cluster.outside, core, run);
            }
            Self {
                plan: plan.clone(),
                cluster,
                workload,
            }
        })
    }

    /// Lets things go wrong.
    pub(crate) fn safety<T>(&mut self, work: impl FnOnce(&mut Cluster) -> T) -> T {
        part(self.plan.seed, "safety", || work(&mut self.cluster))
    }

    /// Ends all faults with `heal`, sees the cluster live, and checks everything.
    pub(crate) fn end(self, heal: impl FnOnce(&mut Cluster)) -> Report {
        self.end_settled(heal, |_| ())
    }

    /// As [`Trial::end`], with something that is waited for once the cluster lives.
    pub(crate) fn end_settled(
        mut self,
        heal: impl FnOnce(&mut Cluster),
        settle: impl FnOnce(&mut Cluster),
    ) -> Report {
        let seed = self.plan.seed;
        part(seed, "heal", || {
            heal(&mut self.cluster);
            self.cluster.sim.net().heal_all();
        });
        let live_after = part(seed, "liveness", || {
            self.learn_map();
            let live_after = self.wait_live();
            settle(&mut self.cluster);
            self.learn_map();
            self.come_to_rest();
            live_after
        });
        let mut report = self.check();
        report.live_after_millis = live_after.as_millis();
        report
    }

    /// New clients start with a map of now, from nodes that are there.
    fn learn_map(&self) {
        if let Some(map) = newest_map(&self.cluster) {
            self.workload.newest.replace(Arc::new(map));
        }
    }

    /// Waits until every shard has answered a write that was asked after the faults; returns how long that took.
    fn wait_live(&mut self) -> Duration {
        let sim = self.cluster.sim.clone();
        let healed = sim.now();
        let shards = self.workload.map.shards.len();
        let live = Rc::new(Cell::new(0));
        for shard in (0..).map(ShardId).take(shards) {
            let (workload, live) = (Rc::clone(&self.workload), Rc::clone(&live));
            let key = self.key_in(shard);
            let probe = move || async move {
                let client = Client::new(Arc::clone(&workload.newest.borrow()));
                let asked = Asked::Write(None, WriteCondition::Any);
                let delete = workload.notes.ask(workload.take_client(), &key, asked);
                let carried = workload
                    .notes
                    .carry(&client, &delete, |_| Bytes::new(), LIVE_WITHIN);
                let outcome = carried.await;
                let is_live = matches!(outcome, Ok(Answer::Written { .. }));
                assert!(is_live, "{shard} is not live: {outcome:?}");
                live.set(live.get() + 1);
            };
            let core = self.plan.clients + shard.0;
            sim.start(self.cluster.outside, core, probe);
        }
        let are_live = sim.run_until(|| live.get() == shards, LIVE_WITHIN);
        let count = live.get();
        assert!(
            are_live,
            "{count} of {shards} shards are live {LIVE_WITHIN:?} after the faults: {:?}",
            replicas::describe_all(&self.cluster)
        );
        sim.now() - healed
    }

    /// A key of that shard that nobody writes.
    fn key_in(&self, shard: ShardId) -> Bytes {
        let mut keys = (0..).map(|number| Bytes::from(format!("probe-{number}")));
        keys.find(|key| self.workload.map.shard_of(key) == shard)
            .unwrap()
    }

    /// Lets the clients and the replicas come to an end.
    fn come_to_rest(&mut self) {
        let sim = self.cluster.sim.clone();
        self.cluster.wait_ready(Duration::from_secs(60));
        let groups = || self.cluster.groups().into_iter();
        let has_room = || groups().all(|group| !group.is_disk_full());
        let is_back = sim.run_until(has_room, Duration::from_secs(60));
        assert!(is_back, "space does not come back");
        self.workload.stop.set(true);
        let ended = Rc::clone(&self.workload);
        let are_done = sim.run_until(|| ended.running.get() == 0, Duration::from_secs(60));
        assert!(are_done, "the clients do not come to an end");
        let reading = Rc::clone(&self.workload).read_everything();
        sim.block_on(self.cluster.outside, reading);
        self.cluster.check_events();
        // A write whose caller has gone may still be on its way.
        sim.run_for(Duration::from_secs(3));
        replicas::check_equal(&self.cluster, self.plan.shards, self.plan.replicas);
    }

    fn check(&self) -> Report {
        let seed = self.plan.seed;
        let notes = &self.workload.notes;
        let history = notes.history.borrow();
        let checked = part(seed, "history", || {
            corelith_history::check(&history).unwrap_or_else(|refusal| {
                let path = save(seed, &history, true);
                panic!("{refusal} (cargo run -p corelith-history -- {path})")
            })
        });
        save(seed, &history, false);
        let mutations = part(seed, "mutation", || refuse_mutations(seed, &history));
        let is_unknown = |one: &&Observation| matches!(one.what, What::Unknown { .. });
        let groups = self.cluster.groups();
        let purged = groups
            .iter()
            .filter(|group| group.status().purged.is_some());
        Report {
            trace_hash: self.cluster.sim.trace_hash(),
            done: history.len(),
            unknown: history.iter().filter(is_unknown).count(),
            purged: purged.count(),
            uploaded: notes.uploaded.get(),
            read_whole: notes.read_whole.get(),
            refusals: notes.refusals.borrow().clone(),
            searched: checked.searched,
            undecided: checked.undecided,
            mutations,
            millis: self.cluster.sim.now().as_millis(),
            ..Report::default()
        }
    }
}

/// Writes the history to a file where that is asked for, or `always`.
fn save(seed: u64, history: &[Observation], always: bool) -> String {
    let otherwise = always.then(|| Path::new(env!("CARGO_TARGET_TMPDIR")));
    let (origin, name) = (
        format!("simulation, seed {seed}"),
        format!("simulation-{seed}"),
    );
    match lines::save(&origin, &name, history, otherwise) {
        Ok(path) => path.map_or_else(String::new, |path| path.display().to_string()),
        Err(error) => format!("the history was not saved: {error}"),
    }
}

/// Breaks the history in one way after the other: both checks must refuse each. The seed chooses where.
fn refuse_mutations(seed: u64, history: &[Observation]) -> usize {
    let mutated = |mutation| Some((mutation, mutate(history, mutation, seed)?));
    let mut refused = 0;
    for (mutation, broken) in MUTATIONS.into_iter().filter_map(mutated) {
        let seen = witness::check(&broken).and_then(|()| positions::check(&broken));
        assert!(seen.is_err(), "the witness check misses {mutation:?}");
        // On a few keys: where nothing fits, the search tries everything.
        let mut verdicts = check_keys(&broken, 300, 10_000);
        let decided = |verdict: &SearchVerdict| *verdict != SearchVerdict::Explained;
        assert!(
            verdicts.any(|verdict| decided(&verdict)),
            "the search misses {mutation:?}"
        );
        refused += 1;
    }
    refused
}

/// Does a part of a run; a panic in it names the seed and the part.
fn part<T>(seed: u64, name: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| panic!("seed {seed}, {name}: {}", words(&*panic)))
}
