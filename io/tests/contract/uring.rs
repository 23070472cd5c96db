//! The Uring world: every case on a core of its own, and what only concerns threads.

use crate::{OtherCore, Place, do_jobs, for_each_case, for_each_case_of_two_cores};
use corelith_io::{CoreConfig, ErrorKind, channel, spawn};
use std::net::{IpAddr, Ipv4Addr};
use tempfile::TempDir;

fn place(dir: &TempDir) -> Place {
    Place {
        dir: dir.path().to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

macro_rules! run_on_uring {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let place = place(&dir);
                corelith_io::run(move || crate::$module::$case(place));
            }
        )*
    };
}

for_each_case!(run_on_uring);

macro_rules! run_on_two_of_uring {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let place = place(&dir);
                let (give, jobs) = channel(16);
                let second = CoreConfig::new("second").start(move || do_jobs(jobs)).unwrap();
                corelith_io::run(move || crate::$module::$case(place, OtherCore(give)));
                second.join().unwrap();
            }
        )*
    };
}

for_each_case_of_two_cores!(run_on_two_of_uring);

#[test]
fn messages_between_cores_and_threads() {
    const COUNT: u64 = 1000;
    let (to_second, second) = channel(16);
    let (to_thread, thread) = channel(16);
    let first = CoreConfig::new("first")
        .start(move || async move {
            for number in 0..COUNT {
                to_second.send(number).await.unwrap();
            }
        })
        .unwrap();
    let second = CoreConfig::new("second")
        .start(move || async move {
            while let Ok(number) = second.recv().await {
                to_thread.send(number * 2).await.unwrap();
            }
        })
        .unwrap();
    for number in 0..COUNT {
        assert_eq!(thread.recv_blocking(), Ok(number * 2));
    }
    first.join().unwrap();
    second.join().unwrap();
    assert!(thread.recv_blocking().is_err(), "the second core has ended");
}

#[test]
fn a_thread_sends_to_a_core() {
    let (sender, receiver) = channel(1);
    let core = CoreConfig::new("core")
        .start(move || async move {
            let mut sum = 0;
            while let Ok(number) = receiver.recv().await {
                sum += number;
            }
            assert_eq!(sum, 5050);
        })
        .unwrap();
    for number in 1..=100 {
        sender.send_blocking(number).unwrap();
    }
    drop(sender);
    core.join().unwrap();
}

#[test]
fn a_core_that_ends_drops_its_tasks() {
    struct Tell(std::sync::mpsc::Sender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    corelith_io::run(move || async move {
        let tell = Tell(sender);
        spawn(async move {
            let _tell = tell;
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap();
}

#[test]
fn a_core_may_be_pinned() {
    let mut config = CoreConfig::new("pinned");
    config.cpu = Some(0);
    config.start(|| async {}).unwrap().join().unwrap();
}

#[test]
fn a_cpu_that_does_not_exist_is_an_error() {
    let mut config = CoreConfig::new("nowhere");
    config.cpu = Some(100_000);
    let error = config.start(|| async {}).err().unwrap();
    assert_ne!(error.kind(), ErrorKind::NotFound);
}
