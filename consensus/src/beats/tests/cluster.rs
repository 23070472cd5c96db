//! Simulated nodes with a core that accepts connections and has a pulse, and a core for beats.

use crate::beats::{Beats, InboundBeats};
use crate::liveness::{Liveness, LivenessOptions};
use bytes::BytesMut;
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{Sender, TcpListener, TcpStream, channel};
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role, Welcome};
use corelith_wire::peer::{Introduction, PromiseEpoch, Settings, Verdict};
use corelith_wire::{ClusterId, Epoch, FullClusterId, Mark, NodeId, Start, StoreId};
use futures_util::FutureExt;
use std::cell::RefCell;
use std::collections::BTreeMap;
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
    /// How often (who, from whom) has turned.
    turns: RefCell<BTreeMap<(usize, usize), u64>>,
    /// What (a leader on a node, a replica on another) said last: epoch, and start and turns of the replica then.
    acks: RefCell<BTreeMap<(usize, usize), Ack>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ack {
    epoch: PromiseEpoch,
    start: u64,
    turns: u64,
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
            turns: RefCell::default(),
            acks: RefCell::default(),
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
            mark: Mark::default(),
            port: PORT,
            cores: 1,
            settings: Settings::new(1, 3, 0),
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
                changes: corelith_io::channel(1).1,
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
            // As the door of a group does it, which also knows of the embargo.
            let is_free = liveness.embargo_until().is_none();
            let store = StoreId(from as u128 + 1);
            is_free && pair.turn(store, 0, corelith_io::now()).is_ok()
        });
        if turned == Some(true) {
            *self.turns.borrow_mut().entry((by, from)).or_default() += 1;
        }
        turned == Some(true)
    }

    /// A replica on `by` acknowledges a leader on `to`.
    pub(super) fn acknowledge(&self, by: usize, to: usize) {
        let epoch = self.at(by, |liveness| liveness.pair(id(to)).epoch());
        if let Some(epoch) = epoch.filter(|_| self.is_up(to)) {
            let ack = self.now_at(by, to, epoch);
            self.acks.borrow_mut().insert((to, by), ack);
        }
    }

    fn now_at(&self, by: usize, to: usize, epoch: PromiseEpoch) -> Ack {
        let turns = self.turns.borrow().get(&(by, to)).copied();
        Ack {
            epoch,
            start: self.starts.borrow()[by],
            turns: turns.unwrap_or_default(),
        }
    }

    pub(super) fn all_count(&self) -> bool {
        let all = 0..self.nodes.len();
        all.clone()
            .all(|by| all.clone().all(|of| by == of || self.counts(by, of)))
    }

    /// What is wrong: whoever is counted has not promised that, or has turned since it acknowledged. One that
    /// has started anew since is bound by its embargo.
    pub(super) fn wrong(&self) -> Option<String> {
        let all = 0..self.nodes.len();
        let pairs = all.flat_map(|by| self.others(by).map(move |of| (by, of)));
        pairs.into_iter().find_map(|(by, of)| {
            let Some(ack) = self.acks.borrow().get(&(by, of)).copied() else {
                return self.is_promised(by, of);
            };
            let is_bound = ack == self.now_at(of, by, ack.epoch) || self.is_embargoed(of);
            match self.counts_in(by, of, ack.epoch) && self.is_up(of) && !is_bound {
                true => Some(format!("{by} counts on {of} as of {ack:?}")),
                false => self.is_promised(by, of),
            }
        })
    }

    fn is_embargoed(&self, at: usize) -> bool {
        let embargo = self.at(at, Liveness::embargo_until);
        embargo.flatten().is_some()
    }

    /// What is wrong with the promise of `of` that `by` counts on.
    fn is_promised(&self, by: usize, of: usize) -> Option<String> {
        let epoch = self.epoch_counted(by, of)?;
        if !self.counts_in(by, of, epoch) || !self.is_up(of) {
            return None;
        }
        let now = self.at(of, |liveness| liveness.pair(id(by)).epoch());
        let is_same = now == Some(epoch) && self.promises(of, by);
        let is_bound = is_same || self.is_embargoed(of);
        (!is_bound).then(|| format!("{by} counts on {of} in {epoch}, which is in {now:?}"))
    }

    /// Asserts that nothing is wrong.
    pub(super) fn check(&self) {
        assert_eq!(self.wrong(), None);
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
