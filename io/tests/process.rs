//! What ends a process, what must not, and what keeps a core from starting. Each case runs in a
//! child: the test itself, called with the name of an ignored test that acts.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unsafe_code,
    reason = "tests; limits and filters of the child process"
)]

use corelith_io::probe::{ProbeError, probe};
use corelith_io::{
    BLOCK_SIZE, Backend, Buf, CoreConfig, ErrorKind, OpenOptions, blocking, run, spawn,
};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::Duration;

fn child(test: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap()
}

fn aborts_with(test: &str, message: &str) {
    let output = child(test);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains(message), "{said}");
}

fn succeeds(test: &str) {
    let output = child(test);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
fn a_panic_in_a_task_ends_the_process() {
    aborts_with("acts::panic_in_a_task", "the task's own words");
}

#[test]
fn a_panic_in_blocking_work_ends_the_process() {
    aborts_with("acts::panic_in_blocking_work", "the work's own words");
}

#[test]
fn a_core_that_stands_still_ends_the_process() {
    aborts_with("acts::stand_still", "core stuck: no progress");
}

#[test]
fn an_idle_core_is_left_alone() {
    succeeds("acts::stay_idle");
}

#[test]
fn blocked_io_uring_is_an_error_that_says_so() {
    succeeds("acts::start_without_io_uring");
}

#[test]
fn too_little_locked_memory_is_an_error_that_says_so() {
    succeeds("acts::start_without_locked_memory");
}

#[test]
fn a_file_at_its_size_limit_is_an_error() {
    succeeds("acts::write_over_the_size_limit");
}

/// In a time namespace, the clocks that count and do not count suspended time lie far apart.
#[test]
fn the_clock_counts_the_time_in_suspension() {
    let offset = [
        "--user",
        "--map-root-user",
        "--time",
        "--boottime",
        "1000000",
    ];
    let may = Command::new("unshare").args(offset).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("time namespaces are not to be had here");
        return;
    }
    let act = ["acts::read_the_clock", "--exact", "--ignored"];
    let output = Command::new("unshare")
        .args(offset)
        .arg(std::env::current_exe().unwrap())
        .args(act)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

mod acts {
    use super::*;

    #[test]
    #[ignore = "runs in a child"]
    fn read_the_clock() {
        run(|| async {
            assert!(corelith_io::now().as_nanos() > 1_000_000_000_000_000);
            let sleep = corelith_io::sleep(Duration::from_millis(300));
            let slept = corelith_io::timeout(Duration::from_secs(60), sleep).await;
            slept.unwrap();
        });
    }

    #[test]
    #[ignore = "runs in a child"]
    fn panic_in_a_task() {
        run(|| async {
            spawn(async { panic!("the task's own words") }).await;
        });
    }

    #[test]
    #[ignore = "runs in a child"]
    fn panic_in_blocking_work() {
        run(|| async {
            blocking(|| panic!("the work's own words")).await;
        });
    }

    fn watched(name: &str) -> CoreConfig {
        let mut config = CoreConfig::new(name);
        config.watchdog = Duration::from_millis(50);
        config
    }

    #[test]
    #[ignore = "runs in a child"]
    fn stand_still() {
        let core = watched("stuck").start(|| async { std::thread::sleep(Duration::from_secs(60)) });
        core.unwrap().join().unwrap();
    }

    #[test]
    #[ignore = "runs in a child"]
    fn stay_idle() {
        let core = watched("idle").start(|| corelith_io::sleep(Duration::from_secs(1)));
        core.unwrap().join().unwrap();
    }

    /// Makes `io_uring_setup` fail with EPERM from now on, as the default profile of Docker does.
    fn block_io_uring() {
        let instruction = |code: u32, jt, jf, k| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let mut filter = [
            // The number of the call is the first word.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                0,
                1,
                libc::SYS_io_uring_setup as u32,
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, eperm),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the program is valid and outlives the calls, which change only this process.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            let mode = libc::SECCOMP_MODE_FILTER;
            assert_eq!(
                libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
                0
            );
        }
    }

    #[test]
    #[ignore = "runs in a child"]
    fn start_without_io_uring() {
        block_io_uring();
        let dir = tempfile::tempdir().unwrap();
        let error = probe(dir.path(), 1, 512 << 10).unwrap_err();
        assert!(matches!(error, ProbeError::IoUringBlocked), "{error}");
        assert!(error.to_string().contains("kernel.io_uring_disabled"));
        let error = CoreConfig::new("core").start(|| async {}).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.to_string().contains("seccomp"), "{error}");
    }

    fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        };
        // SAFETY: `limit` is valid for the call, which lowers a limit of this process only.
        assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
    }

    #[test]
    #[ignore = "runs in a child"]
    fn start_without_locked_memory() {
        limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        let dir = tempfile::tempdir().unwrap();
        let error = probe(dir.path(), 3, 512 << 10).unwrap_err();
        let text = error.to_string();
        for part in ["65536", "1572864", "ulimit -l 1536", "LimitMEMLOCK=1572864"] {
            assert!(text.contains(part), "{text}");
        }
        let mut config = CoreConfig::new("core");
        config.backend = Backend::Glommio;
        let error = config.start(|| async {}).err().unwrap();
        assert!(error.to_string().contains("start core"), "{error}");
    }

    #[test]
    #[ignore = "runs in a child"]
    fn write_over_the_size_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        limit(libc::RLIMIT_FSIZE, 6 * BLOCK_SIZE as u64);
        run(move || async move {
            let options = OpenOptions::new().write().create_new();
            let file = options.open(&path).await.unwrap();
            let error = file
                .write_at(0, Buf::zeroed(8 * BLOCK_SIZE))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            file.write_at(0, Buf::zeroed(6 * BLOCK_SIZE)).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 6 * BLOCK_SIZE as u64);
        });
    }
}

#[test]
fn a_directory_on_disk_passes() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    probe(&dir.path().join("new/data"), 1, 512 << 10).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = probe(&file.join("data"), 1, 512 << 10).unwrap_err();
    assert!(matches!(error, ProbeError::Directory { .. }), "{error}");
}

#[test]
fn a_file_system_in_memory_is_refused() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let error = probe(dir.path(), 1, 512 << 10).unwrap_err();
    assert!(matches!(error, ProbeError::InMemory { .. }), "{error}");
}
