//! The Uring world: every case on a core of its own, and what only concerns threads.

use crate::{OtherCore, Place, do_jobs};
use corelith_io::{Backend, CoreConfig, ErrorKind, channel, spawn};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use tempfile::TempDir;

fn place(dir: &TempDir) -> Place {
    Place {
        dir: dir.path().to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn config(name: &str, backend: Backend) -> CoreConfig {
    CoreConfig {
        backend,
        ..CoreConfig::new(name)
    }
}

/// Runs a case on a core of that backend.
fn run_case<F: Future<Output = ()> + 'static>(
    backend: Backend,
    case: impl FnOnce(Place) -> F + Send + 'static,
) {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    corelith_io::run_on(config("main", backend), move || case(place));
}

/// The same, with a second core of that backend.
fn run_case_of_two<F: Future<Output = ()> + 'static>(
    backend: Backend,
    case: impl FnOnce(Place, OtherCore) -> F + Send + 'static,
) {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let (give, jobs) = channel(16);
    let second = config("second", backend)
        .start(move || do_jobs(jobs))
        .unwrap();
    let main = config("main", backend);
    corelith_io::run_on(main, move || case(place, OtherCore(give)));
    second.join().unwrap();
}

mod glommio {
    use super::{run_case, run_case_of_two};
    use crate::{for_each_case, for_each_case_of_two_cores};
    use corelith_io::Backend;

    macro_rules! run {
        ($($module:ident::$case:ident,)*) => {
            $(#[test] fn $case() { run_case(Backend::Glommio, crate::$module::$case); })*
        };
    }
    macro_rules! run_on_two {
        ($($module:ident::$case:ident,)*) => {
            $(#[test] fn $case() { run_case_of_two(Backend::Glommio, crate::$module::$case); })*
        };
    }
    for_each_case!(run);
    for_each_case_of_two_cores!(run_on_two);
}

mod ring {
    use super::{run_case, run_case_of_two};
    use crate::{for_each_case, for_each_case_of_two_cores};
    use corelith_io::Backend;

    macro_rules! run {
        ($($module:ident::$case:ident,)*) => {
            $(#[test] fn $case() { run_case(Backend::Ring, crate::$module::$case); })*
        };
    }
    macro_rules! run_on_two {
        ($($module:ident::$case:ident,)*) => {
            $(#[test] fn $case() { run_case_of_two(Backend::Ring, crate::$module::$case); })*
        };
    }
    for_each_case!(run);
    for_each_case_of_two_cores!(run_on_two);
}

/// What the two are the same in, beside the cases.
const BACKENDS: [Backend; 2] = [Backend::Glommio, Backend::Ring];

#[test]
fn messages_between_cores_and_threads() {
    for backend in BACKENDS {
        const COUNT: u64 = 1000;
        let (to_second, second) = channel(16);
        let (to_thread, thread) = channel(16);
        let first = config("first", backend)
            .start(move || async move {
                for number in 0..COUNT {
                    to_second.send(number).await.unwrap();
                }
            })
            .unwrap();
        let second = config("second", backend)
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
}

#[test]
fn a_thread_sends_to_a_core() {
    for backend in BACKENDS {
        let (sender, receiver) = channel(1);
        let core = config("core", backend)
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
}

#[test]
fn a_core_that_ends_drops_its_tasks() {
    for backend in BACKENDS {
        struct Tell(std::sync::mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        corelith_io::run_on(config("main", backend), move || async move {
            let tell = Tell(sender);
            spawn(async move {
                let _tell = tell;
                std::future::pending::<()>().await;
            });
        });
        receiver.recv().unwrap();
    }
}

#[test]
fn a_core_may_be_pinned() {
    for backend in BACKENDS {
        let mut config = config("pinned", backend);
        config.cpu = Some(0);
        config.start(|| async {}).unwrap().join().unwrap();
    }
}

#[test]
fn a_cpu_that_does_not_exist_is_an_error() {
    for backend in BACKENDS {
        let mut config = config("nowhere", backend);
        config.cpu = Some(100_000);
        let error = config.start(|| async {}).err().unwrap();
        assert_ne!(error.kind(), ErrorKind::NotFound);
    }
}
