//! Damage that is met in the log of a replica while it runs.

use super::cluster::{Cluster, put};
use super::scenarios::applied;
use crate::{Group, Role};
use corelith_io::sim::SimDisk;
use corelith_shards::ShardId;
use corelith_wire::request::Condition;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts the lines that a node would log with the filter that it has unless the user names another.
struct Lines(Arc<AtomicUsize>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let least = match metadata.target().starts_with("openraft") {
            true => Level::ERROR,
            false => Level::WARN,
        };
        metadata.is_event() && *metadata.level() <= least
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Runs `run` and returns how many lines it logged.
fn lines_of(run: impl FnOnce()) -> usize {
    let lines = Arc::<AtomicUsize>::default();
    tracing::subscriber::with_default(Lines(Arc::clone(&lines)), run);
    lines.load(Ordering::Relaxed)
}

fn group(cluster: &Cluster, at: usize) -> Group {
    cluster.groups(at).unwrap().group(ShardId(0)).unwrap()
}

/// Writes values that the log separates, the first of which its cache does not hold in the end.
fn write_long_values(cluster: &Cluster, leader: usize) {
    let session = cluster.open_session(leader);
    let value = "v".repeat(64 << 10);
    for number in 1..=40 {
        let command = put(
            session,
            number,
            Condition::Any,
            &format!("k{number:02}"),
            &value,
        );
        applied(cluster.write(leader, command).unwrap().outcome);
    }
}

/// Damages the first file of that kind, beyond its front.
fn damage(disk: &SimDisk, extension: &str, offset: u64) -> String {
    let files = disk.files().into_iter().map(|(path, _)| path);
    let mut files = files.filter(|path| path.contains("shard-0") && path.ends_with(extension));
    let path = files.next().unwrap();
    disk.flip_bit(&path, offset);
    path
}

fn damages(cluster: &Cluster, at: usize) -> Vec<String> {
    let damages = group(cluster, at).engine().damages().into_iter();
    damages.map(|damage| damage.file).collect()
}

/// A leader that has damaged what a follower needs: `extension` names the kind of file.
fn steps_aside(extension: &str, offset: u64) {
    let cluster = Cluster::started(21);
    assert_eq!(cluster.wait_leader(), 0, "the preferred leader");
    cluster.crash(2);
    write_long_values(&cluster, 0);
    damage(&cluster.sim.disk(cluster.nodes[0]), extension, offset);
    let lines = lines_of(|| {
        cluster.start(2);
        let is_even = || {
            cluster.groups(2).is_some()
                && group(&cluster, 2).status().applied == group(&cluster, 1).status().applied
                && group(&cluster, 0).status().applied == group(&cluster, 1).status().applied
        };
        cluster.wait("the follower has everything", is_even);
        // It is healed, and the preferred leader leads again.
        cluster.wait("the damage is gone", || damages(&cluster, 0).is_empty());
        cluster.sim.run_for(Duration::from_secs(30));
        cluster.wait("all have the same", is_even);
        assert_eq!(cluster.leader(), Some(0));
    });
    assert!(lines < 40, "{lines} lines in half a minute");
    for at in [0, 2] {
        let content = cluster.content(at, ShardId(0));
        assert_eq!(content, cluster.content(1, ShardId(0)), "{at}");
    }
}

#[test]
fn a_leader_that_has_damaged_a_value_of_its_log_steps_aside() {
    // In the first value of 64 KiB.
    steps_aside(".vlog", 20_000);
}

#[test]
fn a_leader_that_has_damaged_a_block_of_its_log_steps_aside() {
    // In the block of one of the first writes: each was written by itself.
    steps_aside(".log", 8 * 4096 + 60);
}

#[test]
fn a_leader_that_nobody_can_relieve_goes_on_with_its_damage() {
    let cluster = Cluster::started(22);
    assert_eq!(cluster.wait_leader(), 0, "the preferred leader");
    cluster.crash(2);
    write_long_values(&cluster, 0);
    let file = damage(&cluster.sim.disk(cluster.nodes[0]), ".vlog", 20_000);
    cluster.crash(1);
    let lines = lines_of(|| {
        cluster.start(2);
        cluster.wait("the damage is found", || {
            damages(&cluster, 0) == [file.clone()]
        });
        cluster.sim.run_for(Duration::from_secs(60));
        assert_ne!(group(&cluster, 0).status().role, Role::Stopped);
    });
    assert!(lines < 150, "{lines} lines in a minute");
    cluster.start(1);
    cluster.wait("the others catch up under another leader", || {
        cluster.leader() == Some(1)
            && group(&cluster, 2).status().applied == group(&cluster, 1).status().applied
    });
    assert_eq!(
        cluster.content(1, ShardId(0)),
        cluster.content(2, ShardId(0))
    );
}

#[test]
fn a_replica_that_has_stopped_says_so_once() {
    let cluster = Cluster::started(23);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let failed = (leader + 1) % 3;
    let disk = cluster.sim.disk(cluster.nodes[failed]);
    let lines = lines_of(|| {
        disk.fail(corelith_io::sim::IoKind::Write, "shard-0", 0);
        let command = put(session, 1, Condition::Any, "k", "v");
        applied(cluster.write(leader, command).unwrap().outcome);
        cluster.wait("the replica stops", || {
            group(&cluster, failed).status().role == Role::Stopped
        });
        for number in 2..200 {
            let command = put(session, number, Condition::Any, "k", "v");
            applied(cluster.write(leader, command).unwrap().outcome);
            cluster.sim.run_for(Duration::from_millis(300));
        }
    });
    assert!(lines < 40, "{lines} lines in a minute");
}
