//! What a test watches while a scenario goes on, and measures of its history.

use crate::cluster::Cluster;
use corelith_consensus::Role;
use corelith_history::{Observation, What};
use corelith_shards::{NodeId, ShardId, Term};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Who leads in which term.
#[derive(Default)]
pub(super) struct Terms(BTreeMap<(ShardId, Term), NodeId>);

impl Terms {
    /// Lets time pass and sees that no term has two leaders.
    pub(super) fn watch(&mut self, cluster: &Cluster, duration: Duration) {
        let until = cluster.sim.now() + duration;
        while cluster.sim.now() < until {
            cluster.sim.run_for(LOOK_EVERY);
            for group in cluster.groups() {
                let status = group.status();
                if status.role != Role::Leader {
                    continue;
                }
                let key = (group.shard(), status.term);
                let first = *self.0.entry(key).or_insert(group.node());
                assert_eq!(
                    first,
                    group.node(),
                    "two nodes lead {} in {:?}",
                    group.shard(),
                    status.term
                );
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// The longest time between `from` and `until` in which no write to the shard was answered.
pub(super) fn longest_gap(
    history: &[Observation],
    shard: ShardId,
    from: Duration,
    until: Duration,
) -> Duration {
    let (from, until) = (nanos(from), nanos(until));
    let is_write = |one: &&Observation| matches!(one.what, What::Written { .. });
    let of_shard = history.iter().filter(|one| one.shard == shard.0);
    let mut answered: Vec<u64> = of_shard
        .filter(is_write)
        .filter_map(|one| one.ended)
        .collect();
    answered.retain(|at| (from..until).contains(at));
    answered.push(until);
    answered.sort_unstable();
    let mut last = from;
    let mut longest = 0;
    for at in answered {
        longest = longest.max(at - last);
        last = at;
    }
    Duration::from_nanos(longest)
}

/// The 99th percentile of how long operations on these shards took that began between `from` and `until`.
pub(super) fn p99(
    history: &[Observation],
    shards: &[ShardId],
    from: Duration,
    until: Duration,
) -> Duration {
    let (from, until) = (nanos(from), nanos(until));
    let is_meant = |one: &&Observation| {
        shards.contains(&ShardId(one.shard)) && (from..until).contains(&one.began)
    };
    let mut took: Vec<u64> = history
        .iter()
        .filter(is_meant)
        .filter_map(|one| Some(one.ended? - one.began))
        .collect();
    took.sort_unstable();
    assert!(took.len() > 100, "{} operations are too few", took.len());
    Duration::from_nanos(took[took.len() * 99 / 100])
}

/// The write that was asked between `from` and `until` and waited longest for its answer, and how long that was.
pub(super) fn longest_write(
    history: &[Observation],
    from: Duration,
    until: Duration,
) -> (Duration, Option<Observation>) {
    let asked = nanos(from)..nanos(until);
    let is_write =
        |one: &&Observation| asked.contains(&one.began) && !matches!(one.what, What::Read { .. });
    let writes = history.iter().filter(is_write);
    let answered = writes.filter_map(|one| Some((one.ended? - one.began, one)));
    let longest = answered.max_by_key(|(took, _)| *took);
    longest.map_or((Duration::ZERO, None), |(took, one)| {
        (Duration::from_nanos(took), Some(one.clone()))
    })
}
