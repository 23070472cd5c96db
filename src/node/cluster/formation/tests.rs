//! The first nodes over a network that loses, repeats and delays, with crashes and wiped directories.

use super::{Acceptor, Proposer, Spread, majority};
use corelith_wire::peer::{Ballot, Charter, FormationStep};
use corelith_wire::{FullClusterId, NodeId, StoreId};
use std::collections::BTreeSet;

/// All nodes have all shards.
const EVERYWHERE: Spread = Spread {
    shards: 8,
    replicas: 5,
};

/// Lives of a cluster that a test goes through.
const SEEDS: u64 = 4000;

/// A generator of its own, so that a seed names a run for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

struct Node {
    id: NodeId,
    store: StoreId,
    disk: Acceptor,
    /// Raised by each crash: answers to an earlier life reach nobody.
    life: u64,
    proposing: Option<Proposer>,
}

impl Node {
    fn is_stranger(&self) -> bool {
        let charter = self.disk.charter.as_ref();
        let named = charter.map(|charter| charter.store_of(self.id).unwrap());
        named.is_some_and(|named| named != self.store && named != StoreId::UNCLAIMED)
    }
}

#[derive(Clone)]
enum Message {
    Ask {
        from: usize,
        life: u64,
        to: usize,
        step: FormationStep,
    },
    Answer {
        to: usize,
        life: u64,
        from: usize,
        store: StoreId,
        step: FormationStep,
        disk: Acceptor,
    },
}

struct World {
    dice: Dice,
    nodes: Vec<Node>,
    network: Vec<Message>,
    stores: u128,
    clusters: u128,
    decided: BTreeSet<u128>,
    /// Stores that had accepted something are wiped too.
    forgets: bool,
    has_forgotten: bool,
}

impl World {
    fn new(seed: u64, count: usize, forgets: bool) -> Self {
        let nodes = (1..=count).map(|id| Node {
            id: NodeId(id as u64),
            store: StoreId(id as u128),
            disk: Acceptor::default(),
            life: 0,
            proposing: None,
        });
        Self {
            dice: Dice(seed),
            nodes: nodes.collect(),
            network: Vec::new(),
            stores: count as u128,
            clusters: 0,
            decided: BTreeSet::new(),
            forgets,
            has_forgotten: false,
        }
    }

    fn send(&mut self, from: usize, to: usize, step: FormationStep) {
        let life = self.nodes[from].life;
        self.network.push(Message::Ask {
            from,
            life,
            to,
            step,
        });
    }

    fn send_others(&mut self, from: usize, step: &FormationStep) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.send(from, to, step.clone());
        }
    }

    fn propose(&mut self, at: usize) {
        let first = self.nodes.iter().map(|node| node.id).collect();
        let node = &mut self.nodes[at];
        if node.disk.charter.is_some() {
            return;
        }
        let mut proposer = Proposer::new(first, EVERYWHERE, node.store, node.disk.promised.round);
        let ballot = proposer.ballot();
        let step = FormationStep::Prepare(ballot);
        node.disk = node.disk.after(&step, node.id, node.store);
        proposer.promise(
            node.id,
            node.store,
            node.disk.promised,
            node.disk.accepted.clone(),
        );
        node.proposing = Some(proposer);
        self.send_others(at, &step);
    }

    /// Settles what is proposed with the promises so far, which the driver may do at any time.
    fn settle(&mut self, at: usize) {
        self.clusters += 1;
        let fresh = FullClusterId(self.clusters);
        let Some(proposer) = &mut self.nodes[at].proposing else {
            return;
        };
        let ballot = proposer.ballot();
        let Some(charter) = proposer.settle(fresh).cloned() else {
            return;
        };
        let step = FormationStep::Accept(ballot, charter.clone());
        self.send_others(at, &step);
        self.decide(at);
    }

    fn decide(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(proposer) = &node.proposing else {
            return;
        };
        let Some(charter) = proposer.decision(node.id, node.store) else {
            return;
        };
        if let Some(disk) = node.disk.decided(proposer.ballot(), charter) {
            assert!(
                charter.stores.iter().filter(|(_, s)| s.0 != 0).count()
                    >= majority(charter.stores.len())
            );
            self.decided.insert(charter.cluster.0);
            node.disk = disk;
        }
        node.proposing = None;
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask {
                from,
                life,
                to,
                step,
            } => {
                let node = &mut self.nodes[to];
                node.disk = node.disk.after(&step, node.id, node.store);
                let (store, disk) = (node.store, node.disk.clone());
                self.network.push(Message::Answer {
                    to: from,
                    life,
                    from: to,
                    store,
                    step,
                    disk,
                });
            }
            Message::Answer {
                to,
                life,
                from,
                store,
                step,
                disk,
            } => {
                let peer = self.nodes[from].id;
                let node = &mut self.nodes[to];
                if node.life != life {
                    return;
                }
                if let Some(charter) = &disk.charter {
                    node.disk = node.disk.told(charter);
                    node.proposing = None;
                    return;
                }
                let Some(proposer) = &mut node.proposing else {
                    return;
                };
                match step {
                    FormationStep::Who
                    | FormationStep::Name
                    | FormationStep::Stranger
                    | FormationStep::Join(_) => {}
                    FormationStep::Prepare(_) => {
                        proposer.promise(peer, store, disk.promised, disk.accepted);
                    }
                    FormationStep::Accept(..) => {
                        proposer.accept(peer, store, disk.accepted.map(|(ballot, _)| ballot));
                    }
                }
                self.decide(to);
            }
        }
    }

    fn crash(&mut self, at: usize) {
        self.nodes[at].life += 1;
        self.nodes[at].proposing = None;
    }

    fn wipe(&mut self, at: usize) {
        let has_accepted =
            self.nodes[at].disk.accepted.is_some() || self.nodes[at].disk.charter.is_some();
        if has_accepted && !self.forgets {
            return;
        }
        self.has_forgotten |= has_accepted;
        self.crash(at);
        self.stores += 1;
        self.nodes[at].store = StoreId(self.stores);
        self.nodes[at].disk = Acceptor::default();
    }

    fn step(&mut self) {
        let at = self.dice.below(self.nodes.len());
        match self.dice.below(40) {
            0..=2 => self.propose(at),
            3..=5 => self.settle(at),
            6 => self.crash(at),
            7 => self.wipe(at),
            8 => self.send_others(at, &FormationStep::Who),
            _ if self.network.is_empty() => {}
            choice => {
                let which = self.dice.below(self.network.len());
                match choice {
                    9..=10 => drop(self.network.swap_remove(which)),
                    11..=12 => self.deliver(self.network[which].clone()),
                    _ => {
                        let message = self.network.swap_remove(which);
                        self.deliver(message);
                    }
                }
            }
        }
    }

    fn deliver_all(&mut self) {
        while !self.network.is_empty() {
            let message = self.network.remove(0);
            self.deliver(message);
        }
    }

    /// All nodes are there and nothing is lost any more: one after the other proposes.
    fn come_to_an_end(&mut self) {
        for _ in 0..3 {
            for at in 0..self.nodes.len() {
                // A round after all others, as a node does that was refused.
                let rounds = self.nodes.iter().map(|node| node.disk.promised.round);
                let seen = rounds.max().unwrap();
                let store = self.nodes[at].store;
                if self.nodes[at].disk.charter.is_none() {
                    self.nodes[at].disk.promised = Ballot { round: seen, store };
                }
                self.propose(at);
                self.deliver_all();
                self.settle(at);
                self.deliver_all();
                self.send_others(at, &FormationStep::Who);
                self.deliver_all();
            }
        }
    }

    fn clusters(&self) -> BTreeSet<u128> {
        let charters = self
            .nodes
            .iter()
            .filter_map(|node| node.disk.charter.as_ref());
        charters.map(|charter| charter.cluster.0).collect()
    }
}

#[test]
fn one_charter_is_decided_and_everybody_learns_it() {
    for seed in 0..SEEDS {
        for count in 1..=5 {
            let mut world = World::new(seed, count, false);
            for _ in 0..200 {
                world.step();
            }
            assert!(world.decided.len() <= 1, "seed {seed}, {count} nodes");
            world.come_to_an_end();
            assert_eq!(world.decided.len(), 1, "seed {seed}, {count} nodes");
            assert_eq!(
                world.clusters(),
                world.decided,
                "seed {seed}, {count} nodes"
            );
            let learnt = world
                .nodes
                .iter()
                .filter(|node| node.disk.charter.is_some());
            assert_eq!(learnt.count(), count, "seed {seed}");
        }
    }
}

/// Also with directories wiped that had accepted or decided something, every life comes to an end: a cluster
/// is there, and whoever lost its directory since is a stranger to it.
#[test]
fn wiped_directories_never_keep_the_others_from_an_end() {
    let mut forgotten = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3, true);
        for _ in 0..200 {
            world.step();
        }
        world.come_to_an_end();
        forgotten += usize::from(world.has_forgotten);
        assert!(
            world.nodes.iter().all(|node| node.disk.charter.is_some()),
            "seed {seed}"
        );
        assert!(
            world.has_forgotten || world.decided.len() == 1,
            "seed {seed}"
        );
        for node in world.nodes.iter().filter(|node| node.is_stranger()) {
            assert!(world.has_forgotten || node.store.0 > 3, "seed {seed}");
        }
    }
    assert!(forgotten > 0, "the test wipes nothing");
}

fn charter(cluster: u128, stores: &[u128]) -> Charter {
    let stores = (1..).map(NodeId).zip(stores.iter().copied().map(StoreId));
    Charter {
        cluster: FullClusterId(cluster),
        stores: stores.collect(),
    }
}

fn ballot(round: u64, store: u128) -> Ballot {
    let store = StoreId(store);
    Ballot { round, store }
}

#[test]
fn what_is_proposed() {
    let accepted =
        |round, cluster, stores: &[u128]| Some((ballot(round, 1), charter(cluster, stores)));
    // Promises of three nodes (store, what it has accepted), and the charter.
    type Said = Option<(u128, Option<(Ballot, Charter)>)>;
    let table: [(&str, [Said; 3], Option<Charter>); 7] = [
        ("too few", [Some((1, None)), None, None], None),
        (
            "a majority is enough",
            [Some((1, None)), None, Some((3, None))],
            Some(charter(9, &[1, 0, 3])),
        ),
        (
            "what was accepted binds",
            [Some((1, accepted(4, 7, &[1, 2, 0]))), Some((2, None)), None],
            Some(charter(7, &[1, 2, 0])),
        ),
        (
            "the later one binds",
            [
                Some((1, accepted(4, 7, &[1, 2, 0]))),
                Some((2, accepted(5, 8, &[1, 2, 3]))),
                None,
            ],
            Some(charter(8, &[1, 2, 3])),
        ),
        (
            "a charter of stores that are not there is waited with",
            [Some((1, accepted(4, 7, &[1, 2, 0]))), None, Some((3, None))],
            None,
        ),
        (
            "unless all are there",
            [
                Some((1, accepted(4, 7, &[1, 2, 0]))),
                Some((22, None)),
                Some((3, None)),
            ],
            Some(charter(9, &[1, 22, 3])),
        ),
        (
            "all are there with its stores",
            [
                Some((1, accepted(4, 7, &[1, 2, 0]))),
                Some((2, None)),
                Some((3, None)),
            ],
            Some(charter(7, &[1, 2, 0])),
        ),
    ];
    for (what, promises, expected) in table {
        let mut proposer = Proposer::new([1, 2, 3].map(NodeId).into(), EVERYWHERE, StoreId(1), 8);
        let own = proposer.ballot();
        assert_eq!(own, ballot(9, 1));
        for (node, said) in (1..).zip(promises) {
            if let Some((store, accepted)) = said {
                proposer.promise(NodeId(node), StoreId(store), own, accepted);
            }
        }
        assert_eq!(
            proposer.settle(FullClusterId(9)),
            expected.as_ref(),
            "{what}"
        );
    }
}

#[test]
fn promises_of_others_and_of_no_first_node_do_not_count() {
    let mut proposer = Proposer::new([1, 2, 3].map(NodeId).into(), EVERYWHERE, StoreId(1), 0);
    let own = proposer.ballot();
    proposer.promise(NodeId(1), StoreId(1), own, None);
    proposer.promise(NodeId(2), StoreId(2), ballot(2, 2), None);
    proposer.promise(NodeId(4), StoreId(4), own, None);
    assert_eq!(proposer.settle(FullClusterId(9)), None);
}

#[test]
fn a_store_that_the_charter_does_not_name_accepts_nothing_and_does_not_count() {
    let disk = Acceptor::default();
    let step = FormationStep::Accept(ballot(1, 1), charter(7, &[1, 2, 0]));
    assert_eq!(disk.after(&step, NodeId(2), StoreId(22)), disk);
    assert_eq!(disk.after(&step, NodeId(3), StoreId(3)), disk);
    assert!(disk.after(&step, NodeId(2), StoreId(2)).accepted.is_some());

    let mut proposer = Proposer::new([1, 2, 3].map(NodeId).into(), EVERYWHERE, StoreId(1), 0);
    let own = proposer.ballot();
    proposer.promise(NodeId(1), StoreId(1), own, None);
    proposer.promise(NodeId(2), StoreId(2), own, None);
    proposer.settle(FullClusterId(7));
    proposer.accept(NodeId(2), StoreId(22), Some(own));
    proposer.accept(NodeId(3), StoreId(0), Some(own));
    assert_eq!(proposer.decision(NodeId(1), StoreId(1)), None);
    proposer.accept(NodeId(2), StoreId(2), Some(own));
    assert!(proposer.decision(NodeId(1), StoreId(1)).is_some());
}

#[test]
fn whoever_has_promised_a_later_proposal_decides_no_earlier_one() {
    let own = ballot(1, 1);
    let chosen = charter(7, &[1, 2, 0]);
    let disk = Acceptor::default();
    let disk = disk.after(&FormationStep::Prepare(own), NodeId(1), StoreId(1));
    assert!(disk.decided(own, &chosen).is_some());
    let later = disk.after(&FormationStep::Prepare(ballot(2, 2)), NodeId(1), StoreId(1));
    assert_eq!(later.decided(own, &chosen), None);
}

/// Five nodes with three replicas of each shard: shard `s` is on the nodes `s + 1` to `s + 3`.
#[test]
fn each_shard_has_a_majority_of_its_replicas_from_the_first() {
    let table: [(&[u64], u32, u32, bool); 8] = [
        // (who is there, shards, replicas, whether that is enough)
        (&[1, 2, 3], 8, 5, true),
        (&[1, 2], 8, 5, false),
        (&[1, 2, 3, 4], 8, 3, true),
        (&[1, 3, 4, 5], 8, 3, true),
        (&[1, 2, 3], 8, 3, false),
        (&[1, 2, 3], 1, 3, true),
        (&[1, 2, 3], 2, 3, true),
        (&[1, 2, 3, 4], 8, 1, false),
    ];
    let first = [1, 2, 3, 4, 5].map(NodeId);
    for (there, shards, replicas, expected) in table {
        let spread = Spread { shards, replicas };
        let is_served = spread.is_served(&first, |node| there.contains(&node.0));
        assert_eq!(is_served, expected, "{there:?} {spread:?}");
        let mut proposer = Proposer::new(first.into(), spread, StoreId(1), 0);
        let own = proposer.ballot();
        for node in there {
            proposer.promise(NodeId(*node), StoreId(u128::from(*node)), own, None);
        }
        assert_eq!(
            proposer.settle(FullClusterId(9)).is_some(),
            expected,
            "{there:?}"
        );
    }
}
