//! Tasks, channels, blocking work, randomness.

use crate::Place;
use corelith_io::mesh::TrySendError;
use corelith_io::{
    TcpListener, blocking, channel, fill_random, now, random_u64, sleep, spawn, spawn_background,
    spawn_urgent, timeout, yield_if_needed, yield_now,
};
use futures_util::future::{Either, select};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Notes that it was dropped.
struct Noting(Rc<Cell<bool>>);

impl Drop for Noting {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn noting() -> (Noting, Rc<Cell<bool>>) {
    let is_dropped = Rc::new(Cell::new(false));
    (Noting(Rc::clone(&is_dropped)), is_dropped)
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.unwrap();
}

pub(crate) async fn a_task_returns_its_output(_place: Place) {
    let task = spawn(async {
        yield_now().await;
        "done"
    });
    assert!(!task.is_finished());
    assert_eq!(task.await, Some("done"));
}

pub(crate) async fn a_dropped_handle_detaches(_place: Place) {
    let ran = Rc::new(Cell::new(false));
    let flag = Rc::clone(&ran);
    drop(spawn(async move {
        sleep(Duration::from_millis(2)).await;
        flag.set(true);
    }));
    until(|| ran.get()).await;
}

pub(crate) async fn an_aborted_task_returns_nothing(_place: Place) {
    let unpolled = spawn(async { 1 });
    unpolled.abort();
    assert_eq!(unpolled.await, None);
    let sleeping = spawn(sleep(Duration::from_secs(3600)));
    yield_now().await;
    sleeping.abort();
    assert_eq!(sleeping.await, None);
}

pub(crate) async fn abort_drops_the_future(_place: Place) {
    let (unpolled, is_first_dropped) = noting();
    let (waiting, is_second_dropped) = noting();
    let first = spawn(async move { drop(unpolled) });
    first.abort();
    let second = spawn(async move {
        let _waiting = waiting;
        std::future::pending::<()>().await;
    });
    yield_now().await;
    second.abort();
    assert_eq!(first.await, None);
    assert_eq!(second.await, None);
    assert!(is_first_dropped.get() && is_second_dropped.get());
}

pub(crate) async fn abort_after_the_end_changes_nothing(_place: Place) {
    let task = spawn(async { 1 });
    until(|| task.is_finished()).await;
    // Takes the place of the first task.
    let other = spawn(async {
        yield_now().await;
        2
    });
    task.abort();
    assert_eq!(task.await, Some(1));
    assert_eq!(other.await, Some(2));
}

pub(crate) async fn tasks_of_every_queue_run(_place: Place) {
    let nested = spawn_background(async { spawn(async { 1 }).await.unwrap() + 1 });
    let urgent = spawn_urgent(async move { nested.await.unwrap() + 1 });
    assert_eq!(urgent.await, Some(3));
}

pub(crate) async fn a_yield_lets_others_run(_place: Place) {
    let ran = Rc::new(Cell::new(false));
    let flag = Rc::clone(&ran);
    spawn(async move { flag.set(true) });
    for _ in 0..1000 {
        if ran.get() {
            return;
        }
        yield_now().await;
    }
    panic!("the other task did not run");
}

pub(crate) async fn a_loop_that_yields_if_needed_lets_timers_run(_place: Place) {
    let over = Rc::new(Cell::new(false));
    let flag = Rc::clone(&over);
    spawn(async move {
        sleep(Duration::from_millis(5)).await;
        flag.set(true);
    });
    let start = now();
    while !over.get() {
        assert!(start.elapsed() < Duration::from_secs(10));
        yield_if_needed().await;
    }
}

pub(crate) async fn blocking_work_returns(_place: Place) {
    assert_eq!(blocking(|| 6 * 7).await, 42);
    let many = (0..100).map(|number| blocking(move || number));
    let sum: i32 = futures_util::future::join_all(many).await.iter().sum();
    assert_eq!(sum, 4950);
}

pub(crate) async fn random_numbers_differ(_place: Place) {
    assert_ne!(random_u64(), random_u64());
    let mut bytes = [0; 33];
    fill_random(&mut bytes);
    assert!(bytes.iter().any(|byte| *byte != 0));
}

pub(crate) async fn a_channel_within_a_core(_place: Place) {
    let (sender, receiver) = channel(2);
    spawn(async move {
        for number in 0..100 {
            sender.send(number).await.unwrap();
        }
    });
    for number in 0..100 {
        assert_eq!(receiver.recv().await, Ok(number));
    }
    assert!(receiver.recv().await.is_err());
}

pub(crate) async fn a_full_channel_gives_the_message_back(_place: Place) {
    let (sender, receiver) = channel(1);
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    assert_eq!(receiver.try_recv(), Some(1));
    assert_eq!(receiver.try_recv(), None);
    drop(receiver);
    assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
    assert!(sender.send(4).await.is_err());
}

/// A task that is woken very often while it also waits for something slow.
pub(crate) async fn one_task_may_wait_for_very_many_things(place: Place) {
    let listener = TcpListener::bind(place.any_port()).unwrap();
    let mut accept = pin!(listener.accept());
    for number in 0..40_000 {
        let busy = pin!(async {
            yield_now().await;
            number
        });
        match select(accept.as_mut(), busy).await {
            Either::Left(_) => panic!("nobody has connected"),
            Either::Right((done, _)) => assert_eq!(done, number),
        }
    }
}
