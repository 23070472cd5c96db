//! The turns of a core.

use super::super::clock::CoreClock;
use super::Driver;
use super::pool::BlockingPool;
use super::remote::Remote;
use super::schedule::{Schedule, place};
use crate::core::CoreConfig;
use crate::task::Queue;
use async_task::Task;
use futures_util::task::AtomicWaker;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// The executor of one core.
#[derive(Clone)]
pub(crate) struct Ring(Rc<RingInner>);

struct RingInner {
    driver: Rc<Driver>,
    schedule: Rc<Schedule>,
    remote: Arc<Remote>,
    event: Rc<OwnedFd>,
    pool: BlockingPool,
    preempt: Duration,
    spin: Duration,
    /// When the task that runs began to.
    began: Cell<Instant>,
}

/// Wakes the main future of a core.
struct MainWaker(Arc<Remote>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake_main();
    }
}

impl Ring {
    /// Makes the executor of this thread.
    pub(crate) fn new(config: &CoreConfig, urgent: usize, foreground: usize) -> io::Result<Self> {
        let (remote, event) = Remote::new()?;
        Ok(Self(Rc::new(RingInner {
            driver: Rc::new(Driver::new()?),
            schedule: Rc::new(Schedule::new(urgent, foreground)),
            remote,
            event,
            pool: BlockingPool::default(),
            preempt: config.preempt,
            spin: config.cpu.map_or(Duration::ZERO, |_| config.spin),
            began: Cell::new(Instant::now()),
        })))
    }

    pub(crate) fn driver(&self) -> &Rc<Driver> {
        &self.0.driver
    }

    pub(crate) fn set_background(&self, shares: usize) {
        self.0.schedule.set_background(shares);
    }

    /// Starts a task, which runs until its handle is dropped.
    pub(crate) fn spawn(
        &self,
        queue: Queue,
        future: impl Future<Output = ()> + 'static,
    ) -> Task<()> {
        let (remote, at) = (Arc::clone(&self.0.remote), place(queue));
        let (runnable, task) =
            async_task::spawn_local(future, move |runnable| remote.schedule(at, runnable));
        runnable.schedule();
        task
    }

    /// Runs `main` and all tasks until `main` has returned. `clock` has the timers.
    pub(crate) fn run<T>(&self, clock: &CoreClock, main: impl Future<Output = T>) -> T {
        let inner = &*self.0;
        Remote::enter(Some((
            Arc::clone(&inner.remote),
            Rc::clone(&inner.schedule),
        )));
        let waker = Waker::from(Arc::new(MainWaker(Arc::clone(&inner.remote))));
        let mut context = Context::from_waker(&waker);
        let mut main = pin!(main);
        let mut woken = Vec::new();
        let output = loop {
            if inner.driver.is_event_over() {
                inner.driver.watch_event(&inner.event);
            }
            clock.fire(&mut woken);
            inner.remote.collect(&inner.schedule);
            if inner.remote.take_main() {
                inner.began.set(Instant::now());
                if let Poll::Ready(output) = main.as_mut().poll(&mut context) {
                    break output;
                }
            }
            inner.slice();
            inner.turn(clock);
        };
        // Memory that operations use must not be given back before they are complete.
        inner.remote.signal();
        inner.driver.finish();
        inner.pool.finish();
        inner.remote.close();
        Remote::enter(None);
        output
    }

    /// Lets other tasks run if this one has used up its time, or what others wait for is there.
    pub(crate) async fn yield_if_needed(&self) {
        if self.0.is_time_over() {
            yield_now().await;
        }
    }

    /// Runs `work`, which does not panic, on a thread of the pool.
    pub(crate) async fn blocking(&self, work: impl FnOnce() + Send + 'static) {
        let done = Arc::new((AtomicBool::new(false), AtomicWaker::new()));
        let there = Arc::clone(&done);
        self.0.pool.give(Box::new(move || {
            work();
            there.0.store(true, Ordering::Release);
            there.1.wake();
        }));
        poll_fn(|cx| {
            done.1.register(cx.waker());
            match done.0.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

/// Lets other tasks run.
pub(crate) async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl RingInner {
    /// Runs tasks until none is ready or a time slice is over, a part of one if the kernel has something to tell.
    fn slice(&self) {
        let mut now = Instant::now();
        let (early_end, end) = (now + self.preempt / NEWS_PART, now + self.preempt);
        while let Some((queue, task)) = self.schedule.pop() {
            self.began.set(now);
            task.run();
            let then = std::mem::replace(&mut now, Instant::now());
            let took = u64::try_from((now - then).as_nanos()).unwrap_or(u64::MAX);
            self.schedule.charge(queue, took);
            if self.driver.is_pressing() {
                self.driver.hand_over();
            }
            if now >= end || (now >= early_end && self.driver.has_news()) {
                return;
            }
        }
    }

    /// Hands over what tasks asked for, and sleeps if there is nothing to do, until the next timer.
    fn turn(&self, clock: &CoreClock) {
        if !self.schedule.is_empty() {
            return self.driver.turn(Duration::ZERO);
        }
        let next_timer = clock.wait().unwrap_or(SLEEP_MAX);
        if next_timer.is_zero() || !self.remote.fall_asleep() {
            return self.driver.turn(Duration::ZERO);
        }
        if self.has_news_soon() {
            self.remote.is_awake();
            return self.driver.turn(Duration::ZERO);
        }
        self.driver.turn(next_timer);
        self.remote.is_awake();
    }

    /// Looks out for something to do for a while, if the core is pinned and asked to.
    fn has_news_soon(&self) -> bool {
        if self.spin.is_zero() {
            return false;
        }
        self.driver.hand_over();
        let end = Instant::now() + self.spin;
        while Instant::now() < end {
            if self.driver.has_news() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn is_time_over(&self) -> bool {
        let ran = Instant::now() - self.began.get();
        ran >= self.preempt || (ran >= self.preempt / NEWS_PART && self.driver.has_news())
    }
}

/// After this part of a time slice it ends if the kernel has something to tell. Ending it at once would have the
/// kernel entered for each message of a busy core.
const NEWS_PART: u32 = 4;
/// A core without timers looks at the world again after this.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
