//! Simulated nodes with a core that accepts connections and has a pulse, and a core for beats.

use crate::beats::{Beats, InboundBeats};
use crate::liveness::{Liveness, LivenessOptions};
use bytes::BytesMut;
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{Sender, TcpListener, TcpStream, channel};
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role, Welcome};
use corelith_wire::peer::{Introduction, PromiseEpoch, Settings, Verdict};
use corelith_wire::{ClusterId, Epoch, FullClusterId, NodeId, Start, StoreId};
use futures_util::FutureExt;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: u64 = 5;
const PORT: u16 = 7000;
/// How often a core has a pulse.
const PULSE: Duration = Duration::from_millis(10);

pub(super) struct Nodes {
    pub(super) sim: Sim,
    pub(super) nodes: Vec<SimNode>,
    pub(super) options: RefCell<LivenessOptions>,
    /// Whether the first core of each node has a pulse.
    pub(super) has_pulse: Rc<RefCell<Vec<bool>>>,
    /// Of the nodes that run.
    running: Rc<RefCell<Vec<Option<Arc<Liveness>>>>>,
    /// Starts of each node so far.
    starts: RefCell<Vec<u64>>,
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl Nodes {
    pub(super) fn new(seed: u64, count: usize, config: SimConfig) -> Self {
        let sim = Sim::with_config(seed, config);
        Self {
            nodes: (0..count).map(|_| sim.add_node()).collect(),
            sim,
            options: RefCell::default(),
            has_pulse: Rc::new(RefCell::new(vec![true; count])),
            running: Rc::new(RefCell::new(vec![None; count])),
            starts: RefCell::new(vec![0; count]),
        }
    }

    /// All of them started, with good clocks and network.
    pub(super) fn started(seed: u64, count: usize) -> Self {
        let nodes = Self::new(seed, count, SimConfig::default());
        (0..count).for_each(|at| nodes.start(at));
        nodes
    }

    pub(super) fn is_up(&self, at: usize) -> bool {
        self.running.borrow()[at].is_some()
    }

    /// Starts a node if it is down.
    pub(super) fn start(&self, at: usize) {
        if self.is_up(at) {
            return;
        }
        self.sim.resume(self.nodes[at]);
        self.starts.borrow_mut()[at] += 1;
        let incarnation = self.starts.borrow()[at];
        let nonce = self.sim.random_u64();
        let me = Introduction {
            cluster: FullClusterId(CLUSTER.into()),
            node: id(at),
            store: StoreId(at as u128 + 1),
            start: Start { incarnation, nonce },
            port: PORT,
            settings: Settings::new(1, 3, 0, 0),
        };
        let mut options = *self.options.borrow();
        if incarnation > 1 {
            options.promised_before = options.promise;
        }
        let liveness = self.sim.enter(self.nodes[at], || {
            Liveness::new(id(at), me.start, 1, options)
        });
        self.running.borrow_mut()[at] = Some(Arc::clone(&liveness));
        let (hand_over, inbound) = channel(1_000);
        let addresses: Vec<SocketAddr> = self.nodes.iter().map(|n| n.address(PORT)).collect();
        let beats = {
            let liveness = Arc::clone(&liveness);
            let peers = (0..self.nodes.len()).map(id).collect();
            let addresses = addresses.clone();
            move || Beats {
                liveness,
                me,
                epoch: 1,
                peers,
                resolve: Rc::new(move |node, _| {
                    let address = addresses[node.0 as usize - 1];
                    async move { Some(address) }.boxed_local()
                }),
                admit: Rc::new(|_| async { Verdict::Known }.boxed_local()),
                inbound,
            }
        };
        self.sim
            .start(self.nodes[at], 1, || async move { beats().run().await });
        let has_pulse = Rc::clone(&self.has_pulse);
        let address = addresses[at];
        self.sim.start(self.nodes[at], 0, move || async move {
            drop(corelith_io::spawn(async move {
                loop {
                    let is_alive = has_pulse.borrow()[at];
                    liveness.pulse(0, is_alive, None);
                    corelith_io::sleep(PULSE).await;
                }
            }));
            let listener = TcpListener::bind(address).unwrap();
            loop {
                let Ok(stream) = listener.accept().await else {
                    continue;
                };
                drop(corelith_io::spawn(welcome(
                    id(at),
                    stream,
                    hand_over.clone(),
                )));
            }
        });
    }

    pub(super) fn crash(&self, at: usize) {
        if self.running.borrow_mut()[at].take().is_some() {
            self.sim.crash(self.nodes[at]);
        }
    }

    pub(super) fn kill(&self, at: usize) {
        if self.running.borrow_mut()[at].take().is_some() {
            self.sim.kill(self.nodes[at]);
        }
    }

    pub(super) fn cut_one_way(&self, from: usize, to: usize) {
        self.sim.net().cut_one_way(self.nodes[from], self.nodes[to]);
    }

    /// Does `work` as if on a node that runs.
    fn at<T>(&self, at: usize, work: impl FnOnce(&Liveness) -> T) -> Option<T> {
        let liveness = self.running.borrow()[at].clone()?;
        Some(self.sim.enter(self.nodes[at], || work(&liveness)))
    }

    /// The epoch of the last promise of `of` that `by` knows.
    pub(super) fn epoch_counted(&self, by: usize, of: usize) -> Option<PromiseEpoch> {
        self.at(by, |liveness| liveness.pair(id(of)).counted().epoch())?
    }

    pub(super) fn counts_in(&self, by: usize, of: usize, epoch: PromiseEpoch) -> bool {
        let counts = self.at(by, |liveness| {
            let pair = liveness.pair(id(of));
            pair.counted().holds(0, epoch, corelith_io::now())
        });
        counts == Some(true)
    }

    /// Whether `by` counts on a promise of `of`.
    pub(super) fn counts(&self, by: usize, of: usize) -> bool {
        let epoch = self.epoch_counted(by, of);
        epoch.is_some_and(|epoch| self.counts_in(by, of, epoch))
    }

    /// Whether a promise of `by` to `to` runs.
    pub(super) fn promises(&self, by: usize, to: usize) -> bool {
        let promises = self.at(by, |liveness| {
            let until = liveness
                .pair(id(to))
                .promised_until(StoreId(to as u128 + 1), 0);
            until.is_some_and(|until| corelith_io::now() < until)
        });
        promises == Some(true)
    }

    /// Has `by` turn from `from`; whether it may.
    pub(super) fn turn(&self, by: usize, from: usize) -> bool {
        let turned = self.at(by, |liveness| {
            let pair = liveness.pair(id(from));
            pair.turn(StoreId(from as u128 + 1), 0, corelith_io::now())
                .is_ok()
        });
        turned == Some(true)
    }

    pub(super) fn all_count(&self) -> bool {
        let all = 0..self.nodes.len();
        all.clone()
            .all(|by| all.clone().all(|of| by == of || self.counts(by, of)))
    }

    /// Asserts that whoever is counted has promised that, and has not turned; one that has started anew since
    /// is bound by its embargo.
    pub(super) fn check(&self) {
        for (by, of) in (0..self.nodes.len()).flat_map(|by| self.others(by).map(move |of| (by, of)))
        {
            let Some(epoch) = self.epoch_counted(by, of) else {
                continue;
            };
            if !self.counts_in(by, of, epoch) {
                continue;
            }
            let is_bound = self.at(of, |liveness| {
                let is_same = liveness.pair(id(by)).epoch() == epoch;
                (is_same && self.promises(of, by)) || liveness.embargo_until().is_some()
            });
            assert_ne!(is_bound, Some(false), "{by} counts on {of} in {epoch}");
        }
    }

    /// Beats that all nodes together have taken.
    pub(super) fn beats_taken(&self) -> u64 {
        let taken = (0..self.nodes.len()).filter_map(|at| self.at(at, Liveness::beats_taken));
        taken.sum()
    }

    fn others(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.nodes.len()).filter(move |other| *other != at)
    }

    /// Runs for `duration`, with `check` before each step.
    pub(super) fn run(&self, duration: Duration, mut check: impl FnMut()) {
        self.sim.run_until(
            || {
                check();
                false
            },
            duration,
        );
    }

    pub(super) fn wait(&self, what: &str, condition: impl FnMut() -> bool) {
        self.wait_for(what, Duration::from_secs(10), condition);
    }

    pub(super) fn wait_for(&self, what: &str, limit: Duration, condition: impl FnMut() -> bool) {
        assert!(
            self.sim.run_until(condition, limit),
            "not in {limit:?}: {what}"
        );
    }
}

async fn welcome(me: NodeId, stream: TcpStream, hand_over: Sender<InboundBeats>) -> Option<()> {
    let address = stream.peer_addr().ok();
    let (mut read, mut write) = stream.into_split();
    let mut received = BytesMut::new();
    while received.len() < HELLO_BYTES {
        if read.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
    let hello = Hello::parse(received.first_chunk()?).ok()?;
    assert_eq!(hello.role, Role::Beats);
    let welcome = Welcome::answer(&hello, ClusterId(CLUSTER), Epoch(1), me, 0);
    write.write_all(&welcome.encode()).await.ok()?;
    let connection = InboundBeats {
        peer: hello.node,
        address,
        stream: read.unsplit(write).detach().ok()?,
        leftover: received.split_off(HELLO_BYTES),
    };
    hand_over.try_send(connection).ok()
}
