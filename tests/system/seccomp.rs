//! A process whose system calls fail: those of io_uring, as in a container with Docker's default profile, or those
//! that make files durable.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Offset of the system call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// First and last number of io_uring_setup, io_uring_enter and io_uring_register, on all architectures.
const IO_URING: (u32, u32) = (425, 427);

/// Makes io_uring's system calls fail with EPERM in the command's process, unlike the sysctl that does the same for
/// the whole machine.
pub(crate) fn forbid_io_uring(command: &mut Command) {
    fail(command, IO_URING, libc::EPERM);
}

/// Makes fsync and fdatasync fail with EIO in the command's process.
pub(crate) fn fail_to_sync(command: &mut Command) {
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let calls = (number(libc::SYS_fsync), number(libc::SYS_fdatasync));
    assert_eq!(
        calls.0 + 1,
        calls.1,
        "they follow each other on all architectures"
    );
    fail(command, calls, libc::EIO);
}

/// Makes the system calls from `calls.0` to `calls.1` fail in the command's process. Needs no privilege and ends with
/// the process.
fn fail(command: &mut Command, calls: (u32, u32), errno: i32) {
    let statement = |code: u32, jump_true: u8, jump_false: u8, value: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: jump_true,
        jf: jump_false,
        k: value,
    };
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 2, calls.0),
        statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, calls.1),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len()).unwrap_or(0),
            filter: program.as_mut_ptr(),
        };
        #[expect(unsafe_code, reason = "the standard library has no prctl")]
        // SAFETY: prctl reads `filter` and the program it points to, both of which live until it returns.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const filter,
                ) == 0
        };
        if installed {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    #[expect(
        unsafe_code,
        reason = "the filter must be installed between fork and exec"
    )]
    // SAFETY: `install` calls prctl only, which is safe after fork; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(install);
    }
}
