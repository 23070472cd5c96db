//! What a seed means: the cluster, its clocks and timers, and what its clients do.

use corelith_io::sim::SimConfig;
use corelith_shards::{Compression, Policy};
use std::time::Duration;

/// The rates of two clocks may differ by 0.5 %: beyond that nodes do not count on each other.
pub(crate) const DRIFT_PPM_MAX: i32 = 2_400;

/// A generator of its own, so that what is drawn before a world exists does not depend on it.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e6c_63d0_876a_9a62)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    pub sim: SimConfig,
    /// Cores of each node.
    pub cores: Vec<u16>,
    pub shards: u32,
    pub replicas: u32,
    pub beat_ms: u64,
    pub promise_ms: u64,
    /// How much too fast the clock of each node runs.
    pub clocks: Vec<i32>,
    pub policy: Policy,
    pub compression: Compression,
    pub memtable_bytes: u64,
    /// Entries that a log keeps for followers that lag.
    pub kept_entries: u64,
    pub clients: u32,
    /// Operations that each of them has in flight.
    pub lanes: u32,
    pub keys: u64,
    /// Longest pause of a lane between two operations.
    pub pause_ms: u64,
    /// One value of this many is long.
    pub long_every: u64,
    /// How many of a hundred operations are uploads of large values.
    pub uploads: u64,
    /// How often the nemesis strikes.
    pub strikes: u64,
}

impl Plan {
    /// What `seed` means.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = dice.pick(&[3, 3, 3, 3, 4, 5, 5, 6, 7]);
        let replicas = dice.pick(&[3, 3, 3, 3, 3, 3, 5, 5, 4, 2]).min(nodes as u32);
        let shards = dice.between(1, 4).min(12 / u64::from(replicas)) as u32;
        let beat_ms = dice.pick(&[20, 50, 50, 75]);
        let drift = dice.pick(&[200, 1_000, DRIFT_PPM_MAX, DRIFT_PPM_MAX]);
        let clock = |dice: &mut Dice| match dice.below(3) {
            0 => -drift,
            1 => drift,
            _ => dice.below(2 * drift as u64 + 1) as i32 - drift,
        };
        let rough = SimConfig::rough();
        let sim = match dice.below(3) {
            0 => SimConfig::default(),
            1 => rough,
            _ => SimConfig {
                packet_loss: 0.02,
                disk_tail_chance: 0.1,
                ..rough
            },
        };
        Self {
            seed,
            sim,
            cores: (0..nodes).map(|_| dice.pick(&[1, 1, 2, 3])).collect(),
            shards,
            replicas,
            beat_ms,
            promise_ms: (beat_ms * dice.between(5, 8)).max(300),
            clocks: (0..nodes).map(|_| clock(&mut dice)).collect(),
            policy: dice.pick(&[Policy::Leveled, Policy::Tiered]),
            compression: dice.pick(&[Compression::None, Compression::Lz4]),
            memtable_bytes: dice.pick(&[8, 16, 64]) << 10,
            kept_entries: dice.pick(&[20, 60, 200]),
            clients: dice.between(2, 5) as u32,
            lanes: dice.between(1, 4) as u32,
            keys: dice.pick(&[3, 8, 24]),
            pause_ms: dice.pick(&[10, 40, 80]),
            long_every: dice.pick(&[10, 40, 1_000_000]),
            strikes: dice.between(8, 16),
            uploads: dice.pick(&[0, 5, 15]),
        }
    }

    /// How long a promise to a leader lasts, and so a lease at most.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.promise_ms)
    }

    /// Three nodes whose clocks are at the bound of their rates, and clients that give each shard something to do all
    /// the time.
    pub(crate) fn steady(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let clock = |_| dice.pick(&[-DRIFT_PPM_MAX, 0, DRIFT_PPM_MAX]);
        Self {
            clocks: (0..3).map(clock).collect(),
            clients: 3,
            lanes: 2,
            keys: 24,
            pause_ms: 40,
            long_every: 1_000,
            ..Self::plain(seed, 3)
        }
    }

    /// An ordinary cluster without faults of its own.
    pub(crate) fn plain(seed: u64, shards: u32) -> Self {
        Self {
            sim: SimConfig::default(),
            cores: vec![1; 3],
            shards,
            replicas: 3,
            beat_ms: 75,
            promise_ms: 600,
            clocks: vec![0; 3],
            policy: Policy::Leveled,
            compression: Compression::None,
            memtable_bytes: 64 << 10,
            kept_entries: 1 << 20,
            uploads: 0,
            ..Self::of(seed)
        }
    }
}
