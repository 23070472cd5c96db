//! Where replicas and leads go: zones first, then load. Pure.
//!
//! Invariants:
//! * A replica goes to a node that is up, active, has none of the shard, and has room for it.
//! * Of those, the ones win whose zone has the fewest replicas of the shard, and then the least loaded.
//! * A move for balance brings its two nodes closer together, so that no move is taken back.

use corelith_wire::NodeId;
use std::collections::VecDeque;

/// A shard weighs at least this much, so that shards without data are spread by their number.
pub const WEIGHT_BYTES_MIN: u64 = 16 << 20;
/// Nodes within so many hundredths of the mean are alike.
const ALIKE_PERCENT: u64 = 5;
/// The most and the least loaded nodes that are looked at for a move.
const EXTREMES: usize = 16;

/// A node, as far as placement goes. Nodes are known by their place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The node.
    pub node: NodeId,
    /// The number of its zone.
    pub zone: usize,
    /// Whether it may be given replicas: it is up and active.
    pub is_usable: bool,
    /// Changes that it takes part in.
    pub busy: u32,
    /// What its replicas weigh.
    pub load: u64,
    /// Bytes of its device.
    pub capacity: u64,
    /// Bytes of its device that are free.
    pub free: u64,
    /// Shards that prefer it as their leader.
    pub prefers: u32,
}

/// The nodes.
#[derive(Clone, Debug, Default)]
pub struct Spots {
    /// Ascending by node.
    pub spots: Vec<Spot>,
    /// Changes at once that a node takes part in.
    pub busy_max: u32,
    /// Usable nodes of each zone.
    zones: Vec<usize>,
}

/// A move that brings two nodes closer together: the place of the shard in what was asked, and the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The shard.
    pub shard: usize,
    /// The node that has it.
    pub from: usize,
    /// The node that gets it.
    pub to: usize,
}

impl Spots {
    /// Nodes, ascending.
    pub fn new(spots: Vec<Spot>, busy_max: u32) -> Self {
        debug_assert!(
            spots.is_sorted_by(|a, b| a.node < b.node),
            "nodes are found by search"
        );
        let count = spots.iter().map(|spot| spot.zone + 1).max().unwrap_or(0);
        let mut zones = vec![0; count];
        for spot in spots.iter().filter(|spot| spot.is_usable) {
            if let Some(zone) = zones.get_mut(spot.zone) {
                *zone += 1;
            }
        }
        Self {
            spots,
            busy_max,
            zones,
        }
    }

    /// A node's place in the list.
    pub fn at(&self, node: NodeId) -> Option<usize> {
        self.spots
            .binary_search_by_key(&node, |spot| spot.node)
            .ok()
    }

    fn spot(&self, at: usize) -> Option<&Spot> {
        self.spots.get(at)
    }

    /// Changes what is known of a node.
    pub fn with(&mut self, at: usize, change: impl FnOnce(&mut Spot)) {
        if let Some(spot) = self.spots.get_mut(at) {
            change(spot);
        }
    }

    /// Whether a node may take part in another change.
    pub fn is_idle(&self, at: usize) -> bool {
        self.spot(at).is_some_and(|spot| spot.busy < self.busy_max)
    }

    fn of_zone(&self, zone: usize, placed: &[usize]) -> usize {
        let in_zone = |at: &&usize| self.spot(**at).is_some_and(|spot| spot.zone == zone);
        placed.iter().filter(in_zone).count()
    }

    /// The node for another replica of a shard that has its others at `placed`, other than `not`.
    pub fn target(&self, placed: &[usize], not: Option<usize>, bytes: u64) -> Option<usize> {
        let weight = weight(bytes);
        let can = |(at, spot): &(usize, &Spot)| {
            spot.is_usable
                && spot.busy < self.busy_max
                && !placed.contains(at)
                && Some(*at) != not
                && has_room(spot, bytes)
        };
        let all = self.spots.iter().enumerate().filter(can);
        let best = all.min_by_key(|(_, spot)| {
            let zone = self.of_zone(spot.zone, placed);
            (zone, fill(spot, spot.load + weight), spot.node)
        });
        best.map(|(at, _)| at)
    }

    /// The one of `placed` that goes if there is one too many: one that is not usable, or else of the fullest zone,
    /// or else the most loaded.
    pub fn surplus(&self, placed: &[usize]) -> Option<usize> {
        let worst = placed.iter().filter_map(|at| {
            let spot = self.spot(*at)?;
            let zone = self.of_zone(spot.zone, placed);
            Some((!spot.is_usable, zone, fill(spot, spot.load), *at))
        });
        worst.max().map(|(.., at)| at)
    }

    /// One of `placed` whose zone has two more of the shard than another with a usable node would have.
    pub fn crowded(&self, placed: &[usize]) -> Option<usize> {
        let zone_of = |at: &usize| self.spot(*at).map(|spot| spot.zone);
        let fullest = placed.iter().filter_map(|at| {
            let spot = self.spot(*at)?;
            let count = self.of_zone(spot.zone, placed);
            Some((count, fill(spot, spot.load), *at))
        });
        let (count, _, worst) = fullest.max()?;
        if count < 2 {
            return None;
        }
        let is_better = |(zone, usable): (usize, &usize)| {
            let here = placed.iter().filter(|at| zone_of(at) == Some(zone));
            let here = here.count();
            here + 1 < count && here < *usable
        };
        let mut zones = self.zones.iter().enumerate();
        zones.any(is_better).then_some(worst)
    }

    /// A move that evens loads out. `of_node` tells the shards of a node that may be moved, as number, bytes and
    /// where all replicas of each are.
    pub fn shift<'a>(
        &self,
        of_node: impl Fn(usize) -> Vec<(usize, u64, &'a [usize])>,
    ) -> Option<Shift> {
        let usable = self.spots.iter().filter(|spot| spot.is_usable);
        let (load, capacity) = usable.fold((0_u128, 0_u128), |(load, capacity), spot| {
            (
                load + u128::from(spot.load),
                capacity + u128::from(spot.capacity),
            )
        });
        let mean =
            u64::try_from(load * u128::from(FILL_UNIT) / capacity.max(1)).unwrap_or(u64::MAX);
        let band = mean / 100 * ALIKE_PERCENT;
        let mut order: Vec<(u64, usize)> = (self.spots.iter().enumerate())
            .filter(|(_, spot)| spot.is_usable && spot.busy < self.busy_max)
            .map(|(at, spot)| (fill(spot, spot.load), at))
            .collect();
        order.sort_unstable();
        let above = order.iter().rev().take(EXTREMES);
        for (from_fill, from) in above {
            let shards = of_node(*from);
            for (to_fill, to) in self.lowest(&order, *from) {
                let is_far = *from_fill > mean + band || *to_fill + band < mean;
                if !is_far || to_fill >= from_fill {
                    continue;
                }
                let found = shards
                    .iter()
                    .find(|(_, bytes, placed)| self.is_gain(*from, to, *bytes, placed));
                if let Some((shard, ..)) = found {
                    let (shard, from) = (*shard, *from);
                    assert!(from != to, "a move has two nodes");
                    return Some(Shift { shard, from, to });
                }
            }
        }
        None
    }

    /// The least loaded nodes, of all and of the zone of `from`.
    fn lowest<'a>(
        &'a self,
        order: &'a [(u64, usize)],
        from: usize,
    ) -> impl Iterator<Item = (&'a u64, usize)> {
        let zone = self.spot(from).map(|spot| spot.zone);
        let mine = order
            .iter()
            .filter(move |(_, at)| self.spot(*at).map(|spot| spot.zone) == zone);
        let all = order.iter().take(EXTREMES).chain(mine.take(EXTREMES));
        all.map(|(fill, at)| (fill, *at))
    }

    fn is_gain(&self, from: usize, to: usize, bytes: u64, placed: &[usize]) -> bool {
        let (Some(source), Some(target)) = (self.spot(from), self.spot(to)) else {
            return false;
        };
        if placed.contains(&to) || !has_room(target, bytes) {
            return false;
        }
        let (here, there) = (
            self.of_zone(source.zone, placed),
            self.of_zone(target.zone, placed),
        );
        if source.zone != target.zone && there + 1 > here {
            return false;
        }
        let weight = weight(bytes);
        let after = fill(target, target.load + weight);
        let quarter = fill(source, weight / 4);
        after + quarter < fill(source, source.load)
    }

    /// Leads to hand on so that nodes have alike many: a chain of shards by number, each with the node that is to
    /// lead it. `shards` has the replicas of each, the preferred leader first; empty ones stay as they are.
    pub fn lead_chain(&self, shards: &[&[usize]]) -> Vec<(usize, usize)> {
        let usable = self.spots.iter().filter(|spot| spot.is_usable);
        let (count, sum) = usable.fold((0_u32, 0_u32), |(count, sum), spot| {
            (count + 1, sum + spot.prefers)
        });
        if count == 0 {
            return Vec::new();
        }
        if !self.is_uneven(sum, count) {
            return Vec::new();
        }
        let (low, high) = (sum / count, sum.div_ceil(count));
        let mut of_leader: Vec<Vec<usize>> = vec![Vec::new(); self.spots.len()];
        for (shard, placed) in shards.iter().enumerate() {
            let leads = placed.first().and_then(|first| of_leader.get_mut(*first));
            if let Some(leads) = leads {
                leads.push(shard);
            }
        }
        assert!(low <= high && high <= low + 1, "the mean is between them");
        let chain = self.chain(shards, &of_leader, high + 1, high.saturating_sub(1));
        match chain.is_empty() {
            true => self.chain(shards, &of_leader, low + 1, low.saturating_sub(1)),
            false => chain,
        }
    }

    /// Whether the number of leads of some node is not the mean, rounded up or down.
    fn is_uneven(&self, sum: u32, count: u32) -> bool {
        let alike = sum / count..=sum.div_ceil(count);
        let mut usable = self.spots.iter().filter(|spot| spot.is_usable);
        usable.any(|spot| !alike.contains(&spot.prefers))
    }

    /// The shortest chain from a node that prefers at least `from` to one that prefers at most `to`.
    fn chain(
        &self,
        shards: &[&[usize]],
        of_leader: &[Vec<usize>],
        from: u32,
        to: u32,
    ) -> Vec<(usize, usize)> {
        if from < to + 2 {
            // It would only trade places.
            return Vec::new();
        }
        let mut came: Vec<Option<(usize, usize)>> = vec![None; self.spots.len()];
        let mut is_seen = vec![false; self.spots.len()];
        let mut queue = VecDeque::new();
        for (at, spot) in self.spots.iter().enumerate() {
            if spot.is_usable && spot.prefers >= from {
                queue.push_back(at);
                mark(&mut is_seen, at);
            }
        }
        while let Some(at) = queue.pop_front() {
            for shard in of_leader.get(at).into_iter().flatten() {
                let placed = shards.get(*shard).copied().unwrap_or_default();
                for next in placed.iter().skip(1) {
                    let Some(spot) = self.spot(*next).filter(|spot| spot.is_usable) else {
                        continue;
                    };
                    if mark(&mut is_seen, *next) {
                        continue;
                    }
                    if let Some(came) = came.get_mut(*next) {
                        *came = Some((*shard, at));
                    }
                    if spot.prefers <= to {
                        return way_back(&came, *next);
                    }
                    queue.push_back(*next);
                }
            }
        }
        Vec::new()
    }
}

/// Marks a node; says whether it was marked.
fn mark(is_seen: &mut [bool], at: usize) -> bool {
    is_seen
        .get_mut(at)
        .is_none_or(|seen| std::mem::replace(seen, true))
}

fn way_back(came: &[Option<(usize, usize)>], end: usize) -> Vec<(usize, usize)> {
    let mut chain = Vec::new();
    let mut at = end;
    while let Some((shard, before)) = came.get(at).copied().flatten() {
        chain.push((shard, at));
        at = before;
    }
    chain.reverse();
    assert!(chain.len() < came.len(), "a chain passes each node once");
    chain
}

/// What a shard of that length weighs.
pub fn weight(bytes: u64) -> u64 {
    bytes.max(WEIGHT_BYTES_MIN)
}

/// Fills are parts of this.
const FILL_UNIT: u64 = 1 << 32;

/// How full a node is with such a load.
fn fill(spot: &Spot, load: u64) -> u64 {
    let fill = u128::from(load) * u128::from(FILL_UNIT) / u128::from(spot.capacity.max(1));
    u64::try_from(fill).unwrap_or(u64::MAX)
}

/// Whether a copy of that length leaves a twentieth of the device free.
fn has_room(spot: &Spot, bytes: u64) -> bool {
    spot.free >= bytes.saturating_add(spot.capacity / 20)
}
