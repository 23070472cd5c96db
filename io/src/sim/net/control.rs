//! What a test does to the simulated network.

use super::state::LinkFaults;
use crate::sim::SimNode;
use crate::sim::events::SimEvent;
use crate::sim::world::{TraceStep, World, nanos};
use std::rc::Rc;
use std::time::Duration;

/// The network between the simulated nodes. Traffic within a node is never disturbed.
pub struct SimNet {
    pub(in super::super) world: Rc<World>,
}

impl SimNet {
    fn change(&self, from: SimNode, to: SimNode, change: impl FnOnce(&mut LinkFaults)) {
        change_link(&self.world, from, to, change);
    }

    /// Cuts the way from one node to another; the way back stays.
    pub fn cut_one_way(&self, from: SimNode, to: SimNode) {
        self.change(from, to, |link| link.cut = true);
    }

    /// Cuts both ways between two nodes.
    pub fn cut(&self, a: SimNode, b: SimNode) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts all ways between two groups of nodes.
    pub fn partition(&self, one: &[SimNode], other: &[SimNode]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
            }
        }
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: SimNode) {
        for other in self.others(node) {
            self.cut(node, other);
        }
    }

    /// Lets a node send but hear nothing.
    pub fn deafen(&self, node: SimNode) {
        for other in self.others(node) {
            self.cut_one_way(other, node);
        }
    }

    /// Lets a node hear but send nothing.
    pub fn mute(&self, node: SimNode) {
        for other in self.others(node) {
            self.cut_one_way(node, other);
        }
    }

    fn others(&self, node: SimNode) -> Vec<SimNode> {
        let nodes = self.world.nodes.borrow();
        nodes
            .iter()
            .map(|other| SimNode(other.id))
            .filter(|other| *other != node)
            .collect()
    }

    /// Repairs both ways between two nodes.
    pub fn heal(&self, a: SimNode, b: SimNode) {
        heal_both_ways(&self.world, a, b);
    }

    /// Repairs all ways to and from a node.
    pub fn rejoin(&self, node: SimNode) {
        for other in self.others(node) {
            self.heal(node, other);
        }
    }

    /// Repairs all ways, and ends clogs and loss that were asked for.
    pub fn heal_all(&self) {
        self.world.note(TraceStep::NetFault, 0, [0; 3]);
        {
            let mut net = self.world.net.borrow_mut();
            net.links.clear();
            net.packet_loss = None;
        }
        self.world.retransmit(|_, _| true);
    }

    /// Delays traffic from one node to another by `delay` more.
    pub fn clog(&self, from: SimNode, to: SimNode, delay: Duration) {
        self.change(from, to, |link| link.clog = nanos(delay));
    }

    /// Sets the chance that a segment is lost (and arrives after a retransmission).
    pub fn set_packet_loss(&self, chance: f64) {
        self.world.note(TraceStep::NetFault, 0, [1, 0, 0]);
        self.world.net.borrow_mut().packet_loss = Some(chance);
    }

    /// How many segments were sent so far: one for each write to a connection.
    pub fn sent(&self) -> u64 {
        self.world.net.borrow().sent
    }

    /// Resets all connections between two nodes.
    pub fn reset(&self, a: SimNode, b: SimNode) {
        self.world
            .note(TraceStep::NetFault, a.0, [2, u64::from(b.0), 0]);
        let (a, b) = (a.0, b.0);
        self.world
            .reset_connections(|x, y| (x, y) == (a, b) || (x, y) == (b, a));
    }

    /// Resets all connections between different nodes.
    pub fn reset_all(&self) {
        self.world.note(TraceStep::NetFault, 0, [3, 0, 0]);
        self.world.reset_connections(|x, y| x != y);
    }

    /// Cuts and repairs both ways between two nodes in turns of `period`, `turns` times each.
    pub fn flap(&self, a: SimNode, b: SimNode, period: Duration, turns: u32) {
        flap(&self.world, a, b, nanos(period), turns);
    }
}

fn change_link(world: &World, from: SimNode, to: SimNode, change: impl FnOnce(&mut LinkFaults)) {
    let mut net = world.net.borrow_mut();
    let link = net.links.entry((from.0, to.0)).or_default();
    change(link);
    let values = [4 + u64::from(link.cut), u64::from(to.0), link.clog];
    drop(net);
    world.note(TraceStep::NetFault, from.0, values);
}

fn heal_both_ways(world: &Rc<World>, a: SimNode, b: SimNode) {
    change_link(world, a, b, |link| *link = LinkFaults::default());
    change_link(world, b, a, |link| *link = LinkFaults::default());
    world.retransmit(|x, y| (x, y) == (a.0, b.0) || (x, y) == (b.0, a.0));
}

fn flap(world: &Rc<World>, a: SimNode, b: SimNode, period: u64, turns: u32) {
    if turns == 0 {
        return;
    }
    change_link(world, a, b, |link| link.cut = true);
    change_link(world, b, a, |link| link.cut = true);
    let again = move |world: &Rc<World>| flap(world, a, b, period, turns - 1);
    let heal = move |world: &Rc<World>| {
        heal_both_ways(world, a, b);
        let at = world.now().saturating_add(period);
        world.executor.schedule(at, SimEvent::Call(Box::new(again)));
    };
    let at = world.now().saturating_add(period);
    world.executor.schedule(at, SimEvent::Call(Box::new(heal)));
}
