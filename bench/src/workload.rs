//! The operations of a workload: which operation, on which key, with which value. Pure.

use bytes::Bytes;
use corelith_bench::random::{Random, scramble};
use corelith_client::ReadFrom;

/// Shortest key: eight characters hold enough digits for the largest key space.
pub(crate) const KEY_SIZE_MIN: usize = 8;
/// Most keys of a key space; their zeta sum for the Zipf distribution is computed at the start.
pub(crate) const KEYS_MAX: u64 = 10_000_000;
/// Fewest random bytes in the pool from which values are cut.
const POOL_BYTES_MIN: usize = 1 << 20;

/// Which operations a run issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WorkloadKind {
    /// Writes only.
    Put,
    /// Linearizable reads only.
    Get,
    /// Reads and writes, in the ratio of `--read-percent`.
    Mixed,
    /// Misbehaving clients of the started cluster: memory of the nodes, and latency of other clients.
    Abuse,
    /// Faults of the nodes of the started cluster: how long writes wait (see --fault).
    Failover,
    /// No operations: CPU time, wakes and memory of the nodes of the started cluster, for --duration.
    Idle,
    /// A node of the started cluster loses its data: how long it takes to be whole again (see --bytes).
    Rebuild,
    /// Large values: uploads, whole reads, reads of ranges, and small puts beside uploads (see --bytes).
    Large,
    /// Lone puts and gets of one shard of the started cluster, traced by the kernel: wakes, system calls, ring entries
    /// and completions of each thread (see --pictures). Needs root.
    Way,
}

/// Replicas that gets ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadSource {
    /// The leader.
    Leader,
    /// The nearest.
    Nearest,
    /// All in turn.
    Any,
}

impl From<ReadSource> for ReadFrom {
    fn from(source: ReadSource) -> Self {
        match source {
            ReadSource::Leader => Self::Leader,
            ReadSource::Nearest => Self::Nearest,
            ReadSource::Any => Self::Any,
        }
    }
}

/// How keys are chosen from the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Each key is equally likely.
    Uniform,
    /// Few keys get most operations: Zipf with exponent 0.99 as in YCSB, hot keys spread by a hash.
    Zipf,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum WorkloadOperation {
    /// Write `value` to `key`.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Read `key`.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// A source of operations, shared by all loops of a run.
#[derive(Debug)]
pub(crate) struct Workload {
    read_percent: u64,
    keys: u64,
    key_size: usize,
    zipf: Option<Zipf>,
    value_size: usize,
    pool: Bytes,
}

impl Workload {
    /// A workload over `keys` keys of `key_size` bytes each.
    pub(crate) fn new(
        keys: u64,
        key_size: usize,
        value_size: usize,
        distribution: Distribution,
    ) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf => Some(Zipf::new(keys, 0.99)),
        };
        let mut random = Random::new(0x5eed);
        let pool_len = POOL_BYTES_MIN.max(value_size.saturating_mul(2));
        let mut pool = Vec::with_capacity(pool_len + 8);
        while pool.len() < pool_len {
            pool.extend_from_slice(&random.next_u64().to_le_bytes());
        }
        Self {
            read_percent: 0,
            keys,
            key_size: key_size.max(KEY_SIZE_MIN),
            zipf,
            value_size,
            pool: Bytes::from(pool),
        }
    }

    /// The same keys and values with the operations of `kind`.
    pub(crate) fn of_kind(&self, kind: WorkloadKind, read_percent: u8) -> Self {
        Self {
            read_percent: match kind {
                WorkloadKind::Put
                | WorkloadKind::Failover
                | WorkloadKind::Idle
                | WorkloadKind::Rebuild
                | WorkloadKind::Large
                | WorkloadKind::Way => 0,
                WorkloadKind::Get => 100,
                WorkloadKind::Mixed | WorkloadKind::Abuse => u64::from(read_percent),
            },
            keys: self.keys,
            key_size: self.key_size,
            zipf: self.zipf.clone(),
            value_size: self.value_size,
            pool: self.pool.clone(),
        }
    }

    /// The same keys with values of `bytes`.
    pub(crate) fn with_values_of(&self, bytes: usize) -> Self {
        let pool = self.pool.len().max(bytes.saturating_mul(2));
        let pool = self.pool.iter().copied().cycle().take(pool).collect();
        Self {
            value_size: bytes,
            pool,
            ..self.of_kind(WorkloadKind::Put, 0)
        }
    }

    /// The next operation.
    pub(crate) fn next(&self, random: &mut Random) -> WorkloadOperation {
        let id = match &self.zipf {
            None => random.below(self.keys),
            Some(zipf) => scramble(zipf.rank(random.fraction())) % self.keys.max(1),
        };
        if self.read_percent > 0 && random.below(100) < self.read_percent {
            WorkloadOperation::Get { key: self.key(id) }
        } else {
            self.put(id, random)
        }
    }

    /// A write of key number `id` with a random value.
    pub(crate) fn put(&self, id: u64, random: &mut Random) -> WorkloadOperation {
        let room = self.pool.len().saturating_sub(self.value_size) as u64;
        let start = usize::try_from(random.below(room + 1)).unwrap_or(0);
        let end = (start + self.value_size).min(self.pool.len());
        assert_eq!(
            end - start,
            self.value_size,
            "the pool is longer than two values"
        );
        WorkloadOperation::Put {
            key: self.key(id),
            value: self.pool.slice(start..end),
        }
    }

    /// Key number `id`: `k` and the number in decimal, padded to the key size.
    fn key(&self, id: u64) -> Bytes {
        assert!(id < self.keys.max(1), "key {id} of {}", self.keys);
        let mut key = vec![b'0'; self.key_size];
        let mut rest = id;
        for digit in key.iter_mut().rev() {
            if rest == 0 {
                break;
            }
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        if let Some(first) = key.first_mut() {
            *first = b'k';
        }
        Bytes::from(key)
    }
}

/// Ranks after Zipf's law by the method of Gray et al., "Quickly generating billion-record synthetic
/// databases" (SIGMOD 1994), as YCSB uses it.
#[derive(Clone, Debug)]
struct Zipf {
    count: f64,
    theta: f64,
    zeta_count: f64,
    eta: f64,
}

impl Zipf {
    #[expect(clippy::cast_precision_loss, reason = "at most KEYS_MAX")]
    fn new(count: u64, theta: f64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let zeta_count = zeta(count);
        let n = count as f64;
        Self {
            count: n,
            theta,
            zeta_count,
            eta: (1.0 - (2.0 / n).powf(1.0 - theta)) / (1.0 - zeta(2) / zeta_count),
        }
    }

    /// The rank (0 is the most frequent) that belongs to a uniform `fraction` in [0, 1).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the count"
    )]
    fn rank(&self, fraction: f64) -> u64 {
        let scaled = fraction * self.zeta_count;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let base = self.eta.mul_add(fraction, 1.0 - self.eta);
        (self.count * base.powf(1.0 / (1.0 - self.theta))) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn workload(distribution: Distribution) -> Workload {
        Workload::new(1000, 24, 256, distribution)
    }

    #[test]
    fn keys_have_the_size_asked_for_and_differ() {
        let workload = workload(Distribution::Uniform);
        let keys: BTreeSet<Bytes> = (0..1000).map(|id| workload.key(id)).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.len() == 24));
        let largest = Workload::new(KEYS_MAX, KEY_SIZE_MIN, 1, Distribution::Uniform);
        assert_eq!(largest.key(KEYS_MAX - 1), Bytes::from_static(b"k9999999"));
    }

    #[test]
    fn a_mixed_load_keeps_its_ratio() {
        let mixed = workload(Distribution::Uniform).of_kind(WorkloadKind::Mixed, 80);
        let mut random = Random::new(1);
        let reads = (0..10_000)
            .filter(|_| matches!(mixed.next(&mut random), WorkloadOperation::Get { .. }))
            .count();
        assert!((7800..8200).contains(&reads), "{reads} of 10000");
    }

    #[test]
    fn values_have_the_size_asked_for() {
        for size in [0, 1, 256, 3 << 20] {
            let workload = Workload::new(10, 8, size, Distribution::Uniform);
            let mut random = Random::new(7);
            for id in 0..10 {
                match workload.put(id, &mut random) {
                    WorkloadOperation::Put { value, .. } => assert_eq!(value.len(), size),
                    WorkloadOperation::Get { .. } => panic!("a put was asked for"),
                }
            }
        }
    }

    #[test]
    fn zipf_prefers_few_keys_and_stays_in_range() {
        let zipf = Zipf::new(1000, 0.99);
        let mut random = Random::new(3);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            let rank = usize::try_from(zipf.rank(random.fraction())).unwrap();
            counts[rank] += 1;
        }
        // The most frequent of 1000 keys has 1 / zeta(1000, 0.99) = 13 % of the operations.
        assert!((11_000..15_000).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[1] && counts[1] > counts[10] && counts[10] > counts[500]);
    }
}
