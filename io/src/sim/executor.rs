//! The scheduler: which task runs next, and what happens when.
//!
//! Invariants:
//! * A task is polled with its own core as the current one, and dropped so too.
//! * No borrow of the executor is held while a future is polled or dropped or an event is called.
//! * An id stands in the ready lists or a parked list at most once (`TaskWaker::queued`).
//! * No task of a process that has ended is polled.
//! * True time never goes back.

use super::events::{EventKey, EventQueue, SimEvent};
use super::file;
use super::world::{Core, TraceStep, World, number};
use crate::world;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Names a task: a slot and how often the slot was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    slot: u32,
    generation: u32,
}

#[derive(Default)]
pub(super) struct Executor {
    wakes: Arc<WakeQueue>,
    ready: RefCell<Vec<TaskId>>,
    /// Tasks of background queues; they run when the others leave room.
    ready_background: RefCell<Vec<TaskId>>,
    slots: RefCell<TaskSlots>,
    events: RefCell<EventQueue>,
    polling: Cell<bool>,
    /// A process has ended whose tasks have not been dropped yet.
    doomed: Cell<bool>,
}

#[derive(Default)]
struct TaskSlots {
    slots: Vec<TaskSlot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct TaskSlot {
    generation: u32,
    aborted: bool,
    /// Absent while it is polled.
    task: Option<SpawnedTask>,
}

struct SpawnedTask {
    future: Pin<Box<dyn Future<Output = ()>>>,
    core: Core,
    background: bool,
    shared: Arc<TaskWaker>,
    waker: Waker,
}

/// Wakers must be `Send`, hence the mutex; only one thread ever uses it.
#[derive(Default)]
struct WakeQueue {
    ids: Mutex<Vec<TaskId>>,
}

impl WakeQueue {
    fn lock(&self) -> MutexGuard<'_, Vec<TaskId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    queue: Arc<WakeQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.queue.lock().push(self.id);
        }
    }
}

impl TaskSlots {
    fn current(&mut self, id: TaskId) -> Option<&mut TaskSlot> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        (slot.generation == id.generation).then_some(slot)
    }

    fn all_alive(&self) -> bool {
        let mut tasks = self.slots.iter().filter_map(|slot| slot.task.as_ref());
        tasks.all(|task| task.core.is_alive())
    }

    fn release(&mut self, id: TaskId) {
        if let Some(slot) = self.current(id) {
            assert!(slot.task.is_none(), "a slot is freed after its task");
            slot.generation += 1;
            slot.aborted = false;
            self.free.push(id.slot);
        }
    }
}

impl Executor {
    /// Adds a task; `make` is given its id.
    pub(super) fn spawn<F>(&self, core: Core, background: bool, make: impl FnOnce(TaskId) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.slots.push(TaskSlot::default());
                number(slots.slots.len() - 1)
            }
        };
        let slot = &mut slots.slots[index as usize];
        assert!(slot.task.is_none(), "a slot holds one task");
        let id = TaskId {
            slot: index,
            generation: slot.generation,
        };
        let shared = Arc::new(TaskWaker {
            id,
            queued: AtomicBool::new(true),
            queue: Arc::clone(&self.wakes),
        });
        slot.task = Some(SpawnedTask {
            future: Box::pin(make(id)),
            core,
            background,
            waker: Waker::from(Arc::clone(&shared)),
            shared,
        });
        self.wakes.lock().push(id);
    }

    /// Has a task dropped when its turn comes.
    pub(super) fn abort(&self, id: TaskId) {
        if let Some(slot) = self.slots.borrow_mut().current(id) {
            slot.aborted = true;
            if let Some(task) = &slot.task {
                task.waker.wake_by_ref();
            }
        }
    }

    /// Makes tasks ready again that had been parked.
    pub(super) fn unpark(&self, ids: Vec<TaskId>) {
        self.wakes.lock().extend(ids);
    }

    pub(super) fn schedule(&self, at: u64, event: SimEvent) -> EventKey {
        self.events.borrow_mut().schedule(at, event)
    }

    /// Renews the waker of an event; false if it has happened.
    pub(super) fn renew(&self, key: EventKey, waker: &Waker) -> bool {
        let old = match self.events.borrow_mut().get_mut(key) {
            Some(SimEvent::Wake(old) | SimEvent::Timer(_, old)) if old.will_wake(waker) => None,
            Some(SimEvent::Wake(old) | SimEvent::Timer(_, old)) => {
                Some(std::mem::replace(old, waker.clone()))
            }
            _ => return false,
        };
        drop(old);
        true
    }

    /// Wakes all that wait for a time of a node's clock.
    pub(super) fn wake_timers_of(&self, node: u32) {
        for event in self.events.borrow().in_order() {
            if let SimEvent::Timer(of, waker) = event
                && *of == node
            {
                waker.wake_by_ref();
            }
        }
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.borrow().is_empty()
    }

    pub(super) fn cancel(&self, key: EventKey) {
        let event = self.events.borrow_mut().cancel(key);
        drop(event);
    }

    /// Sorts the tasks that were woken into the ready lists.
    fn collect_woken(&self) {
        let mut wakes = self.wakes.lock();
        if wakes.is_empty() {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        for id in wakes.drain(..) {
            let Some(TaskSlot {
                task: Some(task), ..
            }) = slots.current(id)
            else {
                continue;
            };
            if task.background {
                self.ready_background.borrow_mut().push(id);
            } else {
                self.ready.borrow_mut().push(id);
            }
        }
    }

    fn pick(&self, world: &World) -> Option<TaskId> {
        self.collect_woken();
        let mut ready = self.ready.borrow_mut();
        let mut background = self.ready_background.borrow_mut();
        let list = match (ready.is_empty(), background.is_empty()) {
            (true, true) => return None,
            (false, true) => &mut *ready,
            (true, false) => &mut *background,
            (false, false) if world.rng.below(16) == 0 => &mut *background,
            (false, false) => &mut *ready,
        };
        let at = world.rng.below(list.len() as u64);
        Some(list.swap_remove(usize::try_from(at).unwrap_or(0)))
    }

    fn pop_event(&self, until: u64) -> Option<(u64, SimEvent)> {
        self.events.borrow_mut().pop(until)
    }
}

impl World {
    /// Does the next thing that happens at or before `until`; false if there is none.
    pub(super) fn step(self: &Rc<Self>, until: u64) -> bool {
        assert!(
            !self.executor.polling.get(),
            "a simulation was driven from inside itself"
        );
        if let Some((_, event)) = self.executor.pop_event(self.now.get().min(until)) {
            self.happen(event);
            return true;
        }
        if self.now.get() > until {
            return false;
        }
        if let Some(id) = self.executor.pick(self) {
            self.poll(id);
            return true;
        }
        let Some((at, event)) = self.executor.pop_event(until) else {
            return false;
        };
        assert!(at >= self.now.get(), "time goes back");
        self.now.set(at);
        self.happen(event);
        true
    }

    fn happen(self: &Rc<Self>, event: SimEvent) {
        match event {
            SimEvent::Wake(waker) | SimEvent::Timer(_, waker) => waker.wake(),
            SimEvent::Arrival { connection, side } => self.deliver(connection, side),
            SimEvent::DiskDone { node, number, kind } => file::done(self, &node, number, kind),
            SimEvent::Call(call) => call(self),
        }
        self.reap();
    }

    fn poll(self: &Rc<Self>, id: TaskId) {
        let (mut task, aborted) = {
            let mut slots = self.executor.slots.borrow_mut();
            let Some(slot) = slots.current(id) else {
                return;
            };
            let Some(task) = slot.task.take() else { return };
            assert!(task.core.is_alive(), "a task outlived its process");
            assert!(
                task.shared.queued.load(Ordering::Relaxed),
                "a task runs once for each time it is queued"
            );
            if !task.core.node.is_running() {
                task.core.node.parked.borrow_mut().push(id);
                slot.task = Some(task);
                return;
            }
            (task, slot.aborted)
        };
        let node = task.core.node.id;
        let numbers = u64::from(id.slot) << 32 | u64::from(id.generation);
        self.note(
            TraceStep::Poll,
            node,
            [numbers, u64::from(task.core.index), 0],
        );
        task.shared.queued.store(false, Ordering::Relaxed);
        let entered = Entered::new(&task.core);
        let mut done = aborted;
        if !aborted {
            self.executor.polling.set(true);
            let polling = Unset(&self.executor.polling);
            done = matches!(
                task.future
                    .as_mut()
                    .poll(&mut Context::from_waker(&task.waker)),
                Poll::Ready(())
            );
            drop(polling);
        }
        self.now
            .set(self.now.get() + self.draw(&self.config.poll_cost));
        {
            let mut slots = self.executor.slots.borrow_mut();
            let aborted = slots.current(id).is_some_and(|slot| slot.aborted);
            if !done && !aborted && task.core.is_alive() {
                if let Some(slot) = slots.current(id) {
                    slot.task = Some(task);
                }
                drop(slots);
            } else {
                slots.release(id);
                drop(slots);
                drop(task);
            }
        }
        drop(entered);
        self.reap();
    }

    /// Tells the executor that a process has ended. Its tasks are dropped at once, or, when called
    /// from within a task, as soon as that task has been polled.
    pub(super) fn doom(self: &Rc<Self>) {
        self.executor.doomed.set(true);
        if !self.executor.polling.get() {
            self.reap();
        }
    }

    fn reap(self: &Rc<Self>) {
        if self.executor.doomed.replace(false) {
            self.drop_tasks(|core| !core.is_alive());
            debug_assert!(
                self.executor.slots.borrow().all_alive(),
                "a task outlived its process"
            );
        }
    }

    pub(super) fn drop_tasks(&self, chosen: impl Fn(&Core) -> bool) {
        let mut dead = Vec::new();
        {
            let mut slots = self.executor.slots.borrow_mut();
            for index in 0..slots.slots.len() {
                let slot = &mut slots.slots[index];
                if let Some(task) = slot.task.take_if(|task| chosen(&task.core)) {
                    let id = task.shared.id;
                    dead.push(task);
                    slots.release(id);
                }
            }
        }
        for task in dead {
            let entered = Entered::new(&task.core);
            drop(task);
            drop(entered);
        }
    }

    pub(super) fn clear_events(&self) {
        let events = std::mem::take(&mut *self.executor.events.borrow_mut());
        drop(events);
    }
}

/// Makes a core the current one until it is dropped, also when a poll panics.
pub(super) struct Entered(Option<world::World>);

impl Entered {
    pub(super) fn new(core: &Core) -> Self {
        Self(world::set(Some(world::World::Sim(core.clone()))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        world::set(self.0.take());
    }
}

/// Clears a flag, also when a poll panics.
struct Unset<'a>(&'a Cell<bool>);

impl Drop for Unset<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
