//! The observations of one shard, and how far its log had come at any time.

use crate::{Observation, What};
use std::collections::{BTreeMap, BTreeSet};

/// The observations of each shard.
pub(crate) fn by_shard(history: &[Observation]) -> BTreeMap<u32, Vec<&Observation>> {
    let mut shards: BTreeMap<u32, Vec<&Observation>> = BTreeMap::new();
    for observation in history {
        shards
            .entry(observation.shard)
            .or_default()
            .push(observation);
    }
    shards
}

/// The observations of each key of a shard that say something.
pub(crate) fn by_key<'a>(shard: &[&'a Observation]) -> BTreeMap<&'a str, Vec<&'a Observation>> {
    let mut keys: BTreeMap<&str, Vec<&Observation>> = BTreeMap::new();
    for observation in shard.iter().filter(|one| !one.is_empty()) {
        keys.entry(&observation.key).or_default().push(observation);
    }
    keys
}

/// How far the shard had come by a time, as far as answers say, and which indexes are taken.
pub(crate) struct Past<'a> {
    /// By end, with the observation of the highest index so far.
    ended: Vec<(u64, u64, &'a Observation)>,
    /// Indexes of writes, and versions that were seen.
    taken: BTreeSet<u64>,
}

impl<'a> Past<'a> {
    pub(crate) fn new(shard: &[&'a Observation]) -> Self {
        let known = shard.iter().filter_map(|observation| {
            let (at, _) = observation.index()?;
            Some((observation.end(), at, *observation))
        });
        let mut ended: Vec<_> = known.collect();
        ended.sort_by_key(|(end, at, _)| (*end, *at));
        let mut highest: Option<(u64, &Observation)> = None;
        for (_, at, observation) in &mut ended {
            match highest {
                Some((high, by)) if high > *at => (*at, *observation) = (high, by),
                _ => highest = Some((*at, observation)),
            }
        }
        assert!(
            ended.is_sorted_by_key(|(_, at, _)| *at),
            "the highest index falls"
        );
        let mut taken = BTreeSet::new();
        for observation in shard {
            match &observation.what {
                What::Written { at, .. } => taken.insert(at.index),
                What::Read {
                    found: Some((version, _)),
                    ..
                } => taken.insert(*version),
                What::Refused { current, .. } => taken.insert(*current),
                _ => false,
            };
        }
        Self { ended, taken }
    }

    /// The highest index that an operation had which ended before `began`.
    pub(crate) fn before(&self, began: u64) -> Option<(u64, &'a Observation)> {
        let count = self.ended.partition_point(|(end, ..)| *end < began);
        let (_, at, observation) = self.ended.get(count.checked_sub(1)?)?;
        Some((*at, observation))
    }

    /// That index, 0 if there is none.
    pub(crate) fn floor(&self, began: u64) -> u64 {
        self.before(began).map_or(0, |(at, _)| at)
    }

    /// The lowest index above `last` that no write which was seen has.
    pub(crate) fn free_above(&self, last: u64) -> u64 {
        let mut index = last + 1;
        while self.taken.contains(&index) {
            index += 1;
        }
        assert!(!self.taken.contains(&index), "index {index} is taken");
        index
    }
}
