//! The life of simulated machines and processes: power loss, kill, stop and start.

use super::file;
use super::time::NodeClock;
use super::world::{Activity, Node, TraceStep, World};
use std::rc::Rc;

/// A machine's monotonic clock starts somewhere below this (an hour).
const CLOCK_START_MAX: u64 = 3_600_000_000_000;

impl World {
    /// Draws the clock of a machine that is switched on now.
    pub(super) fn fresh_clock(&self, ppm: i32) -> NodeClock {
        NodeClock::new(1 + self.rng.below(CLOCK_START_MAX), self.now(), ppm)
    }

    /// Power fails.
    pub(super) fn crash(self: &Rc<Self>, node: &Rc<Node>) {
        self.note(
            TraceStep::Crash,
            node.id,
            [node.disk.borrow().submitted(), 0, 0],
        );
        self.end_process(node);
        node.host_up.set(false);
        node.disk.borrow_mut().power_loss(&self.rng);
        self.forget_sockets(node.id);
        self.doom();
        assert!(
            node.disk.borrow().is_idle(),
            "a machine without power uses its disk"
        );
    }

    /// The process is killed; the machine goes on. One that is asleep wakes up for it.
    pub(super) fn kill(self: &Rc<Self>, node: &Rc<Node>) {
        if node.activity.get() == Activity::Suspended {
            self.resume(node);
        }
        self.note(
            TraceStep::Kill,
            node.id,
            [node.disk.borrow().submitted(), 0, 0],
        );
        self.end_process(node);
        node.disk.borrow_mut().end_process(&self.rng);
        self.close_sockets(node.id);
        self.doom();
        assert!(
            node.disk.borrow().is_idle(),
            "a process that has ended uses its disk"
        );
    }

    fn end_process(&self, node: &Node) {
        node.incarnation.set(node.incarnation.get() + 1);
        node.crash_at_io.set(None);
        node.activity.set(Activity::Running);
        // Parked tasks are dead now, whatever list they stand in.
        node.parked.borrow_mut().clear();
    }

    /// Switches a machine on if it is off.
    pub(super) fn boot(self: &Rc<Self>, node: &Rc<Node>) {
        if node.host_up.replace(true) {
            return;
        }
        assert!(
            node.parked.borrow().is_empty() && node.disk.borrow().is_idle(),
            "a machine is switched on with something of its past"
        );
        self.note(TraceStep::Start, node.id, [0; 3]);
        node.clock.set(self.fresh_clock(node.clock.get().ppm()));
        // Its kernel now answers, with a reset, what was sent to sockets it does not know.
        self.retransmit(|_, to| to == node.id);
    }

    /// A machine that is asleep takes no signals.
    pub(super) fn pause(&self, node: &Node) {
        self.note(TraceStep::Pause, node.id, [0; 3]);
        if node.is_running() {
            node.activity.set(Activity::Stopped);
        }
    }

    pub(super) fn suspend(&self, node: &Node) {
        let stops = self.clocks_stop.get() && node.is_awake();
        self.note(TraceStep::Pause, node.id, [1, u64::from(stops), 0]);
        assert!(node.host_up.get(), "a machine that is off cannot sleep");
        node.activity.set(Activity::Suspended);
        if stops {
            node.clock.set(node.clock.get().with_stop(self.now(), true));
        }
    }

    pub(super) fn resume(self: &Rc<Self>, node: &Rc<Node>) {
        self.note(TraceStep::Resume, node.id, [0; 3]);
        if node.activity.replace(Activity::Running) == Activity::Suspended {
            let clock = node.clock.get();
            if clock.is_stopped() {
                node.clock.set(clock.with_stop(self.now(), false));
            }
            file::release(self, node);
            self.retransmit(|_, to| to == node.id);
        }
        let parked = std::mem::take(&mut *node.parked.borrow_mut());
        self.executor.unpark(parked);
    }
}
