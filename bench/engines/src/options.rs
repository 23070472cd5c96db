//! The command line.

use crate::plan::{Engine, Tuning};
use clap::{Parser, ValueEnum};
use corelith_bench::quantity::{positive, seconds, size};
use std::path::PathBuf;
use std::time::Duration;

/// Keys have 16 bytes, see [`crate::data`].
const KEYS_MAX: u64 = 1 << 39;

/// Measures the storage engine of Corelith next to RocksDB and fjall.
///
/// For each case the engines run in turn, several rounds of it, each in a process and a directory of its own;
/// medians are reported. Sizes take K, M and G.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// What to run, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Workload::ALL)]
    pub(crate) workload: Vec<Workload>,
    /// Whom to run; ratios are those of ours to the others
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Engine::Ours, Engine::Rocksdb, Engine::Fjall])]
    pub(crate) engines: Vec<Engine>,
    /// Rounds of each case
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Everything with tiny sizes, to see that it works: the figures mean nothing
    #[arg(long)]
    pub(crate) smoke: bool,

    /// Where directories for the data are made [default: next to this program]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where timelines go, timeline-ENGINE.svg and .json
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) timeline_dir: PathBuf,

    /// Cores of ours, with one shard each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) cores: u8,
    /// Block cache of each engine; gets read from four times as much data
    #[arg(long, default_value = "256M", value_parser = size)]
    pub(crate) cache: usize,
    /// Memtable of each engine
    #[arg(long, default_value = "64M", value_parser = size)]
    pub(crate) memtable: usize,
    /// Values from here on are kept apart from keys, if the workload has any
    #[arg(long, default_value = "4K", value_parser = size)]
    pub(crate) separate: usize,
    /// Seconds before measuring
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) warm_up: Duration,
    /// Seconds of each measurement that does not end by itself
    #[arg(long, default_value = "8", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// put: bytes of a value
    #[arg(long, value_delimiter = ',', default_value = "256,4K,64K,1M", value_parser = size)]
    pub(crate) put_value: Vec<usize>,
    /// put: puts in flight
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = outstanding)]
    pub(crate) put_outstanding: Vec<usize>,
    /// fill: keys, of 256-byte values
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) fill_keys: u64,
    /// Threads that write without syncing, of RocksDB and fjall; one task of ours does it
    #[arg(long, default_value = "1", value_parser = outstanding)]
    pub(crate) writers: usize,
    /// get, mixed: gets in flight
    #[arg(long, value_delimiter = ',', default_value = "64,1", value_parser = outstanding)]
    pub(crate) get_outstanding: Vec<usize>,
    /// mixed: puts a second beside the gets; at full speed too
    #[arg(long, default_value = "20000", value_parser = positive)]
    pub(crate) mixed_puts: f64,
    /// mixed, timeline: RocksDB and fjall sync each put, with 64 threads, as ours always does
    #[arg(long)]
    pub(crate) durable_peers: bool,
    /// overwrite: live data, of 64 KiB values
    #[arg(long, default_value = "2G", value_parser = size)]
    pub(crate) overwrite_live: usize,
    /// overwrite: how many times as much is written over it
    #[arg(long, default_value_t = 3.0)]
    pub(crate) overwrite_times: f64,
    /// timeline: seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub(crate) timeline_seconds: Duration,
    /// timeline: puts a second, and as many gets
    #[arg(long, default_value = "2000", value_parser = positive)]
    pub(crate) timeline_rate: f64,
    /// timeline: keys; three values in four have 256 bytes, one has 16 KiB
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) timeline_keys: u64,
    /// scale: keys, of 100-byte values; written, and then overwritten for `--duration`
    #[arg(long, default_value_t = 50_000_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) scale_keys: u64,
    /// scale: gets of absent keys
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) scale_gets: u64,
    /// scale: memory that the process must not exceed
    #[arg(long, default_value = "512M", value_parser = size)]
    pub(crate) scale_memory: usize,
    /// scale: block cache
    #[arg(long, default_value = "192M", value_parser = size)]
    pub(crate) scale_cache: usize,
    /// scale: memtable
    #[arg(long, default_value = "32M", value_parser = size)]
    pub(crate) scale_memtable: usize,
}

/// A group of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Durable puts
    Put,
    /// Puts without a sync each, until all is flushed and compacted
    Fill,
    /// Cold gets
    Get,
    /// Gets beside puts
    Mixed,
    /// Overwriting of medium values
    Overwrite,
    /// Latency over time
    Timeline,
    /// Ours alone: many keys in little memory, and a start after a crash; only if asked for
    Scale,
}

impl Workload {
    /// What is run unless something else is asked for.
    const ALL: [Self; 6] = [
        Self::Put,
        Self::Fill,
        Self::Get,
        Self::Mixed,
        Self::Overwrite,
        Self::Timeline,
    ];
}

impl Options {
    /// With `--smoke`, the sizes of it.
    pub(crate) fn in_effect(mut self) -> Self {
        if self.smoke {
            self.rounds = 1;
            self.cache = 2 << 20;
            self.memtable = 1 << 20;
            self.warm_up = Duration::from_millis(100);
            self.duration = Duration::from_millis(400);
            self.put_value = vec![256, 64 << 10];
            self.put_outstanding = vec![1, 16];
            self.fill_keys = 20_000;
            self.get_outstanding = vec![16, 1];
            self.mixed_puts = 2000.0;
            self.overwrite_live = 8 << 20;
            self.timeline_seconds = Duration::from_secs(2);
            self.timeline_rate = 500.0;
            self.timeline_keys = 2000;
            self.scale_keys = 30_000;
            self.scale_gets = 5000;
            self.scale_memtable = 1 << 20;
        }
        self
    }

    pub(crate) fn tuning(&self) -> Tuning {
        Tuning {
            cache_bytes: self.cache,
            memtable_bytes: self.memtable,
            separate_bytes: self.separate,
        }
    }
}

fn outstanding(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1024) => Ok(number),
        _ => Err("expected 1 to 1024".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lists_sizes_and_defaults_are_read() {
        let options = Options::parse_from([
            "bench",
            "--workload",
            "get,put",
            "--put-value",
            "1K,2M",
            "--engines",
            "ours,fjall",
        ]);
        assert_eq!(options.workload, [Workload::Get, Workload::Put]);
        assert_eq!(options.engines, [Engine::Ours, Engine::Fjall]);
        assert_eq!(options.put_value, [1024, 2 << 20]);
        assert_eq!(options.put_outstanding, [1, 16, 64]);
        assert_eq!(options.overwrite_live, 2 << 30);
        assert_eq!(options.clone().in_effect().cache, options.cache);
        let smoke = Options::parse_from(["bench", "--smoke"]).in_effect();
        assert!(smoke.workload.len() == 6 && smoke.cache < options.cache);
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            ["--put-outstanding", "0"],
            ["--put-outstanding", "2000"],
            ["--engines", "leveldb"],
            ["--rounds", "0"],
            ["--cache", "much"],
            ["--mixed-puts", "0"],
        ] {
            let [name, value] = arguments;
            assert!(
                Options::try_parse_from(["bench", name, value]).is_err(),
                "{name} {value}"
            );
        }
    }
}
