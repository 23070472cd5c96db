//! The Sim world: any number of nodes on one thread, repeatable from a seed.
//!
//! ```
//! use corelith_io::sim::Sim;
//! use corelith_io::{TcpListener, TcpStream, spawn};
//!
//! let sim = Sim::new(42);
//! let (server, client) = (sim.add_node(), sim.add_node());
//! sim.start(server, 0, move || async move {
//!     let listener = TcpListener::bind(server.address(7411)).unwrap();
//!     loop {
//!         let (_read, mut write) = listener.accept().await.unwrap().into_split();
//!         spawn(async move { write.write_all(b"hello").await });
//!     }
//! });
//! let greeting = sim.block_on(client, async move {
//!     let (mut read, _write) = TcpStream::connect(server.address(7411)).await.unwrap().into_split();
//!     let mut bytes = [0; 5];
//!     let mut len = 0;
//!     while len < 5 {
//!         len += read.read(&mut bytes[len..]).await.unwrap();
//!     }
//!     bytes
//! });
//! assert_eq!(&greeting, b"hello");
//! ```
//!
//! # How it works
//! Tasks run one poll at a time, chosen at random among those that are ready; a poll takes a little
//! virtual time. When no task is ready, time jumps to the next event (a timer, the completion of an
//! I/O, the arrival of a segment). All choices and delays come from the seed, and each is mixed into
//! [`Sim::trace_hash`]: two runs with the same seed and the same program have the same hash, or
//! something that is not simulated has slipped in. With the environment variable `CORELITH_TRACE`
//! set, each of them is also printed.
//!
//! # What a test may do to it
//! Machines: [`Sim::crash`], [`Sim::kill`], [`Sim::pause`], [`Sim::suspend`], [`Sim::set_clock_drift`].
//! Networks: [`SimNet`]. Disks: [`SimDisk`].
//!
//! A panic in a task passes through `block_on`, `run_for` or `run_until`, after the seed was printed.
#![expect(
    clippy::indexing_slicing,
    reason = "a simulator is a test tool: an index out of bounds is its own bug and ends the test"
)]

mod config;
mod disk;
mod events;
mod executor;
mod fault;
pub(crate) mod file;
pub(crate) mod net;
pub(crate) mod task;
pub(crate) mod time;
mod world;

pub use config::SimConfig;
pub use disk::DiskImage;
pub use disk::control::SimDisk;
pub use disk::faults::IoKind;
pub use net::control::SimNet;
pub(crate) use world::Core;

use disk::Disk;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use world::{Activity, Node, TraceStep, World, nanos};

/// A simulated world. Clones are the same world.
#[derive(Clone)]
pub struct Sim {
    world: Rc<World>,
    _owner: Rc<WorldOwner>,
}

/// Ends the world with the last [`Sim`]: tasks refer to their world and would keep it for ever.
struct WorldOwner(Rc<World>);

/// Names a machine of a simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimNode(u32);

impl SimNode {
    /// Its number, from 1.
    pub fn number(self) -> u32 {
        self.0 + 1
    }

    /// Its address: 10.0.0.N.
    pub fn ip(self) -> IpAddr {
        let [_, b, c, d] = (self.0 + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, b, c, d))
    }

    /// A port at its address.
    pub fn address(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

impl Sim {
    /// Makes a world with the default configuration.
    pub fn new(seed: u64) -> Self {
        Self::with_config(seed, SimConfig::default())
    }

    /// Makes a world.
    pub fn with_config(seed: u64, config: SimConfig) -> Self {
        let world = Rc::new(World::new(seed, config));
        let owner = Rc::new(WorldOwner(Rc::clone(&world)));
        Self {
            world,
            _owner: owner,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// Adds a machine, switched on, with an empty disk and no process.
    pub fn add_node(&self) -> SimNode {
        let world = &self.world;
        let id = world::number(world.nodes.borrow().len());
        let drift = u64::from(world.config.clock_drift_ppm_max);
        let ppm = i64::try_from(world.rng.below(2 * drift + 1)).unwrap_or(0)
            - i64::try_from(drift).unwrap_or(0);
        let clock = world.fresh_clock(i32::try_from(ppm).unwrap_or(0));
        world.nodes.borrow_mut().push(Rc::new(Node {
            id,
            incarnation: Cell::new(0),
            host_up: Cell::new(true),
            activity: Cell::new(Activity::Running),
            clock: Cell::new(clock),
            disk: RefCell::new(Disk::new(&world.config)),
            crash_at_io: Cell::new(None),
            parked: RefCell::default(),
        }));
        SimNode(id)
    }

    fn core(&self, node: SimNode, index: u32) -> Core {
        let world = Rc::clone(&self.world);
        let node = world.node(node.0);
        world.boot(&node);
        let incarnation = node.incarnation.get();
        Core {
            world,
            node,
            index,
            incarnation,
        }
    }

    /// Runs `main` on a core of a node, which is switched on if it is off. The task ends when it
    /// returns, or with the node's process.
    pub fn start<F, Fut>(&self, node: SimNode, core_index: u32, main: F)
    where
        F: FnOnce() -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let core = self.core(node, core_index);
        self.world
            .note(TraceStep::Start, node.0, [1, u64::from(core_index), 0]);
        task::spawn(&core, false, async move { main().await });
    }

    /// Runs `future` as a task on core 0 of a node, which is switched on if it is off, and drives the
    /// world until it returns.
    ///
    /// # Panics
    /// When nothing can happen any more, when the time limit of the configuration has passed, or when
    /// the node's process ended before the task.
    pub fn block_on<T: 'static>(
        &self,
        node: SimNode,
        future: impl Future<Output = T> + 'static,
    ) -> T {
        let world = &self.world;
        let core = self.core(node, 0);
        let task = task::spawn(&core, false, future);
        let until = world.now().saturating_add(nanos(world.config.time_limit));
        let _seed = PrintSeed(world);
        while !task.is_finished() {
            let stepped = world.step(until);
            assert!(
                stepped || task.is_finished(),
                "{}",
                match world.now() >= until || world.executor.has_events() {
                    true => "the virtual time limit has passed",
                    false => "nothing can happen any more",
                }
            );
        }
        match task.take_output() {
            Some(output) => output,
            None => panic!("node {} went down during a block_on there", node.number()),
        }
    }

    /// Calls `work` as if core 0 of a node did, which is switched on if it is off. Nothing else
    /// happens meanwhile.
    pub fn enter<R>(&self, node: SimNode, work: impl FnOnce() -> R) -> R {
        let core = self.core(node, 0);
        let _entered = executor::Entered::new(&core);
        work()
    }

    /// Drives the world for `duration`.
    pub fn run_for(&self, duration: Duration) {
        let world = &self.world;
        let until = world.now().saturating_add(nanos(duration));
        let _seed = PrintSeed(world);
        while world.step(until) {}
        world.now.set(world.now().max(until));
    }

    /// Drives the world until `condition` holds, for at most `limit`; returns whether it holds.
    pub fn run_until(&self, mut condition: impl FnMut() -> bool, limit: Duration) -> bool {
        let world = &self.world;
        let until = world.now().saturating_add(nanos(limit));
        let _seed = PrintSeed(world);
        while !condition() {
            if !world.step(until) {
                world.now.set(world.now().max(until));
                return condition();
            }
        }
        true
    }

    /// True time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.world.now())
    }

    /// A hash over everything that has happened.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace.hash()
    }

    /// 64 bits of the world's randomness, for a test's own choices.
    pub fn random_u64(&self) -> u64 {
        self.world.rng.next()
    }

    /// A number below `bound` (at least 1) of the world's randomness.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.world.rng.below(bound.max(1))
    }

    /// Cuts the node's power: its process is gone, its disk keeps what was synced and a random part
    /// of the rest (512-byte sectors, names), and its peers are not told. It stays off until
    /// [`Sim::start`] or [`Sim::block_on`].
    pub fn crash(&self, node: SimNode) {
        self.world.crash(&self.world.node(node.0));
    }

    /// Kills the node's process: writes that completed stay, those in flight happen or not, and its
    /// connections are closed.
    pub fn kill(&self, node: SimNode) {
        self.world.kill(&self.world.node(node.0));
    }

    /// Whether the machine is switched on.
    pub fn is_up(&self, node: SimNode) -> bool {
        self.world.node(node.0).host_up.get()
    }

    /// Cuts the node's power at the `n`-th I/O from now (the first is 1): before it, while it is in
    /// flight, or after it took effect and before it is reported, as the seed decides.
    pub fn crash_at_io(&self, node: SimNode, n: u64) {
        let node = self.world.node(node.0);
        let at = node.disk.borrow().submitted() + n.max(1);
        node.crash_at_io.set(Some(at));
    }

    /// How many I/Os the node has submitted since it was added.
    pub fn io_count(&self, node: SimNode) -> u64 {
        self.world.node(node.0).disk.borrow().submitted()
    }

    /// Stops the node's process (SIGSTOP): its tasks do not run while its kernel goes on.
    pub fn pause(&self, node: SimNode) {
        self.world.pause(&self.world.node(node.0));
    }

    /// Puts the machine to sleep: nothing happens there, nothing reaches it, and its clock goes on. What it had
    /// sent before still arrives.
    ///
    /// # Panics
    /// If it is switched off.
    pub fn suspend(&self, node: SimNode) {
        self.world.suspend(&self.world.node(node.0));
    }

    /// Lets the clocks of machines that are put to sleep from now on stand still meanwhile, as `CLOCK_MONOTONIC`
    /// does.
    pub fn set_clocks_stop_in_suspension(&self, stop: bool) {
        self.world.clocks_stop.set(stop);
    }

    /// Lets a stopped process go on (SIGCONT), or wakes up a machine that is asleep.
    pub fn resume(&self, node: SimNode) {
        self.world.resume(&self.world.node(node.0));
    }

    /// Lets the node's clock run `ppm` millionths too fast (or, negative, too slow) from now on. What it shows now
    /// stays, so that it never goes back; timers that wait follow it.
    pub fn set_clock_drift(&self, node: SimNode, ppm: i32) {
        let node = self.world.node(node.0);
        node.clock
            .set(node.clock.get().with_rate(self.world.now(), ppm));
        self.world.executor.wake_timers_of(node.id);
    }

    /// The disk of a node.
    pub fn disk(&self, node: SimNode) -> SimDisk {
        SimDisk {
            world: Rc::clone(&self.world),
            node: self.world.node(node.0),
        }
    }

    /// The network.
    pub fn net(&self) -> SimNet {
        SimNet {
            world: Rc::clone(&self.world),
        }
    }
}

impl Drop for WorldOwner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Dropping tasks now could panic again and hide the first panic.
            return;
        }
        for node in self.0.nodes.borrow().iter() {
            node.incarnation.set(node.incarnation.get() + 1);
        }
        self.0.drop_tasks(|_| true);
        self.0.clear_events();
    }
}

/// Prints the seed when a panic passes.
struct PrintSeed<'a>(&'a World);

impl Drop for PrintSeed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let now = Duration::from_nanos(self.0.now());
            eprintln!("the simulation with seed {} failed at {now:?}", self.0.seed);
        }
    }
}
