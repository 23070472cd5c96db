//! The knobs of a simulated world.

use std::ops::Range;
use std::time::Duration;

/// Latencies, sizes and chances of a simulated world. The default has the latencies of a good data
/// centre and no faults of its own; [`SimConfig::rough`] adds some everywhere.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// How much virtual time one `block_on` or `run_until` may take.
    pub time_limit: Duration,
    /// What one poll of a task costs.
    pub poll_cost: Range<Duration>,
    /// How much later than its deadline a timer fires.
    pub timer_lateness: Range<Duration>,
    /// How long work on the blocking pool takes.
    pub blocking_delay: Range<Duration>,
    /// Each node's clock runs at a rate that is at most this far from the true one.
    pub clock_drift_ppm_max: u32,
    /// One way between two nodes.
    pub network_latency: Range<Duration>,
    /// One way between two sockets of a node.
    pub loopback_latency: Range<Duration>,
    /// What a socket holds that the other side has not read and acknowledged.
    pub socket_buffer_bytes: usize,
    /// Chance that a segment is lost; it arrives after one or more retransmission times.
    pub packet_loss: f64,
    /// The retransmission time.
    pub retransmit_after: Duration,
    /// Chance, per segment, that its connection is reset.
    pub reset_chance: f64,
    /// Chance that a read returns fewer bytes than there are.
    pub short_read_chance: f64,
    /// Disk: a read.
    pub read_latency: Range<Duration>,
    /// Disk: a write (`O_DSYNC` or not).
    pub write_latency: Range<Duration>,
    /// Disk: a sync of a file or directory.
    pub sync_latency: Range<Duration>,
    /// Disk: open, rename, remove and the like.
    pub name_latency: Range<Duration>,
    /// Chance that a read or write of a disk is cut short; files go on with it.
    pub disk_short_chance: f64,
    /// Chance that a disk operation takes ten times as long.
    pub disk_tail_chance: f64,
    /// Transfer rate of the disk, on top of the latencies.
    pub disk_bytes_per_second: u64,
    /// Size of each node's disk.
    pub disk_capacity_bytes: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            time_limit: Duration::from_secs(600),
            poll_cost: Duration::from_nanos(100)..Duration::from_nanos(600),
            timer_lateness: us(0)..us(80),
            blocking_delay: us(20)..us(300),
            clock_drift_ppm_max: 200,
            network_latency: us(30)..us(250),
            loopback_latency: us(5)..us(25),
            socket_buffer_bytes: 512 << 10,
            packet_loss: 0.0,
            retransmit_after: Duration::from_millis(200),
            reset_chance: 0.0,
            short_read_chance: 0.1,
            read_latency: us(40)..us(140),
            write_latency: us(30)..us(150),
            sync_latency: us(40)..us(300),
            name_latency: us(20)..us(200),
            disk_short_chance: 0.01,
            disk_tail_chance: 0.01,
            disk_bytes_per_second: 2_000_000_000,
            disk_capacity_bytes: 64 << 30,
        }
    }
}

impl SimConfig {
    /// As the default, with lost segments, connection resets, short reads, slow disk operations and
    /// clocks that drift more.
    pub fn rough() -> Self {
        Self {
            clock_drift_ppm_max: 2_500,
            packet_loss: 0.003,
            reset_chance: 0.000_05,
            short_read_chance: 0.4,
            disk_short_chance: 0.05,
            disk_tail_chance: 0.05,
            ..Self::default()
        }
    }
}
