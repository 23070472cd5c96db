//! What all parts of a simulated world share: its time, its randomness, its trace and its nodes.

use super::config::SimConfig;
use super::disk::Disk;
use super::executor::{Executor, TaskId};
use super::net::state::Net;
use super::time::NodeClock;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// The state of one simulation. Everything that happens in it follows from the seed: no address, no
/// real time and no order of a std hash map ever decides anything.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) config: SimConfig,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(super) now: Cell<u64>,
    pub(super) executor: Executor,
    pub(super) nodes: RefCell<Vec<Rc<Node>>>,
    /// Whether the clock of a suspended machine stands still.
    pub(super) clocks_stop: Cell<bool>,
    pub(super) net: RefCell<Net>,
}

/// A machine with one process on it.
pub(crate) struct Node {
    pub(crate) id: u32,
    /// Rises whenever the process ends; what belongs to an older one is dead.
    pub(crate) incarnation: Cell<u32>,
    /// False between a power loss and the next start.
    pub(crate) host_up: Cell<bool>,
    pub(super) activity: Cell<Activity>,
    pub(crate) clock: Cell<NodeClock>,
    pub(crate) disk: RefCell<Disk>,
    /// The number of the I/O at which power fails.
    pub(crate) crash_at_io: Cell<Option<u64>>,
    /// Tasks that became ready while the node stood still.
    pub(super) parked: RefCell<Vec<TaskId>>,
}

/// What goes on at a machine that is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Running,
    /// The process stands still; the kernel goes on.
    Stopped,
    /// All of the machine stands still.
    Suspended,
}

/// A core of a process: what tasks see as the current core.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) world: Rc<World>,
    pub(crate) node: Rc<Node>,
    pub(crate) index: u32,
    pub(crate) incarnation: u32,
}

impl Core {
    /// Whether the process of this core still runs. A dead one's operations never complete.
    pub(crate) fn is_alive(&self) -> bool {
        self.incarnation == self.node.incarnation.get()
    }
}

impl World {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            seed,
            config,
            rng: Rng::new(seed),
            trace: Trace::new(),
            now: Cell::new(0),
            executor: Executor::default(),
            nodes: RefCell::default(),
            clocks_stop: Cell::new(false),
            net: RefCell::default(),
        }
    }

    /// True time in nanoseconds since the start of the simulation.
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(super) fn node(&self, id: u32) -> Rc<Node> {
        match self.nodes.borrow().get(id as usize) {
            Some(node) => Rc::clone(node),
            None => panic!("no simulated node {id}"),
        }
    }

    pub(super) fn node_at(&self, ip: IpAddr) -> Option<Rc<Node>> {
        let nodes = self.nodes.borrow();
        nodes.iter().find(|node| node.ip() == ip).map(Rc::clone)
    }

    /// Draws a duration, in nanoseconds.
    pub(super) fn draw(&self, range: &Range<Duration>) -> u64 {
        let (low, high) = (nanos(range.start), nanos(range.end));
        assert!(low <= high, "a range of durations ends before it starts");
        low + self.rng.below(high.saturating_sub(low).max(1))
    }

    /// Records that something happened, for the trace hash and the readable trace.
    pub(super) fn note(&self, step: TraceStep, node: u32, values: [u64; 3]) {
        self.trace.note(self.now.get(), step, node, values);
    }
}

impl Node {
    /// Whether its process runs, if it has one.
    pub(super) fn is_running(&self) -> bool {
        self.activity.get() == Activity::Running
    }

    /// Whether its kernel runs.
    pub(super) fn is_awake(&self) -> bool {
        self.host_up.get() && self.activity.get() != Activity::Suspended
    }

    pub(super) fn ip(&self) -> IpAddr {
        let [_, b, c, d] = (self.id + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, b, c, d))
    }

    pub(super) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

/// Nanoseconds of a duration; a simulation ends long before they overflow.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The number of the next of its kind.
pub(super) fn number(count: usize) -> u32 {
    match u32::try_from(count) {
        Ok(number) => number,
        Err(_) => panic!("{count} of a kind are more than there are numbers"),
    }
}

/// SplitMix64.
pub(crate) struct Rng {
    state: Cell<u64>,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: Cell::new(seed ^ 0x5851_f42d_4c95_7f2d),
        }
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least one.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// True with that probability.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept exactly")]
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

/// The kinds of things that happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceStep {
    Poll,
    Start,
    Crash,
    Kill,
    Pause,
    Resume,
    Read,
    Write,
    Sync,
    Name,
    DiskDone,
    DiskFault,
    Connect,
    Send,
    Deliver,
    NetFault,
}

/// A hash over all that happened, and on request (environment variable `CORELITH_TRACE`) a line on
/// standard error for each of it.
pub(crate) struct Trace {
    hash: Cell<u64>,
    printed: bool,
}

impl Trace {
    fn new() -> Self {
        Self {
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            printed: std::env::var_os("CORELITH_TRACE").is_some(),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    fn note(&self, now: u64, step: TraceStep, node: u32, values: [u64; 3]) {
        let [a, b, c] = values;
        let mut hash = self.hash.get();
        for word in [now, (step as u64) << 32 | u64::from(node), a, b, c] {
            hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.hash.set(hash);
        if self.printed {
            let (s, us) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
            eprintln!(
                "{s}.{us:06} node {} {step:?} {a:#x} {b:#x} {c:#x}",
                node + 1
            );
        }
    }
}

/// A cheap fingerprint of data for the trace: its length and its first bytes, which in all our
/// formats hold a checksum of the rest.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().take(8).fold(bytes.len() as u64, |hash, word| {
        (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}
