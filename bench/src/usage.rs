//! CPU time, disk traffic and memory of processes, and a description of this machine.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux machine we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Servers that write less than this in that time have settled.
const SETTLED_BYTES: u64 = 1 << 20;
const SETTLED_FOR: Duration = Duration::from_secs(1);
/// After this time, servers are measured even if they have not settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// The resources that one or more processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time in seconds, of all threads, including ended ones.
    pub cpu_seconds: f64,
    /// Bytes sent to the block layer.
    pub written_bytes: u64,
    /// Bytes fetched from the block layer.
    pub read_bytes: u64,
    /// Resident memory now, in bytes.
    pub resident_bytes: u64,
    /// Peak resident memory since the process started, in bytes.
    pub peak_resident_bytes: u64,
}

impl Usage {
    /// The usage of this process.
    pub fn of_self() -> Self {
        Self::of("self")
    }

    /// The usage of all of `pids` together; a process that has ended counts as zero.
    pub fn of_all(pids: &[u32]) -> Self {
        pids.iter().fold(Self::default(), |sum, pid| {
            let one = Self::of(&pid.to_string());
            Self {
                cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
                written_bytes: sum.written_bytes + one.written_bytes,
                read_bytes: sum.read_bytes + one.read_bytes,
                resident_bytes: sum.resident_bytes + one.resident_bytes,
                peak_resident_bytes: sum.peak_resident_bytes + one.peak_resident_bytes,
            }
        })
    }

    fn of(process: &str) -> Self {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default()
        };
        let (status, io) = (read("status"), read("io"));
        Self {
            cpu_seconds: cpu_seconds(&read("stat")),
            written_bytes: labelled_number(&io, "write_bytes:"),
            read_bytes: labelled_number(&io, "read_bytes:"),
            resident_bytes: labelled_number(&status, "VmRSS:") * 1024,
            peak_resident_bytes: labelled_number(&status, "VmHWM:") * 1024,
        }
    }

    /// The usage between `earlier` and `self`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            resident_bytes: self.resident_bytes,
            peak_resident_bytes: self.peak_resident_bytes,
        }
    }
}

/// Has the peak of a process's resident memory begin anew: it is what is resident now. Returns false if this user may
/// not ask for that.
pub fn forget_peak(process: &str) -> bool {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").is_ok()
}

/// How often the threads of a process have gone to sleep so far, and so have been woken.
pub fn switches(pid: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let status = threads.flatten().map(|thread| {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(thread.path().join("status"));
        labelled_number(&text.unwrap_or_default(), "voluntary_ctxt_switches:")
    });
    status.sum()
}

/// Waits until the servers write almost nothing. Nodes that have just started write log segments in advance,
/// which would distort the first measurement.
pub fn wait_until_settled(pids: &[u32]) {
    let end = Instant::now() + SETTLED_WITHIN;
    let mut before = Usage::of_all(pids).written_bytes;
    while Instant::now() < end {
        std::thread::sleep(SETTLED_FOR);
        let now = Usage::of_all(pids).written_bytes;
        if now.saturating_sub(before) < SETTLED_BYTES {
            return;
        }
        before = now;
    }
}

/// utime + stime of a line of `/proc/PID/stat`: fields 14 and 15, counted after the closing bracket of
/// the name, which may itself hold blanks and brackets.
fn cpu_seconds(stat: &str) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

/// The number after `label` in a `/proc` file of labelled lines; 0 if the label is missing.
fn labelled_number(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The machine a run was made on.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// Processors this process may use.
    pub cores: usize,
    /// Model name of the first processor.
    pub processor: String,
    /// Kernel release.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// File system type and mount point of the data, if the cluster runs here.
    pub file_system: Option<String>,
}

impl Machine {
    /// This machine; `data` is the cluster's directory, if it runs here.
    pub fn here(data: Option<&Path>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: read("/proc/cpuinfo")
                .lines()
                .find_map(|line| line.strip_prefix("model name"))
                .map_or_else(String::new, |rest| {
                    rest.trim_start_matches([' ', '\t', ':']).to_owned()
                }),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: labelled_number(&read("/proc/meminfo"), "MemTotal:") / 1024,
            file_system: data.and_then(|path| file_system(&read("/proc/self/mounts"), path)),
        }
    }
}

/// Type and mount point of the file system that holds `path`: the longest mount point that is a prefix.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (_device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point).then_some((point, kind))
        })
        .max_by_key(|(point, _)| point.len())
        .map(|(point, kind)| format!("{kind} at {point}"))
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), {} MiB, Linux {}",
            self.cores, self.processor, self.memory_mib, self.kernel
        )?;
        match &self.file_system {
            Some(file_system) => write!(f, ", {file_system}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let line = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100 0 0";
        assert!((cpu_seconds(line) - 3.0).abs() < 1e-9);
        assert!(cpu_seconds("").abs() < 1e-9);
    }

    #[test]
    fn a_peak_that_is_forgotten_is_not_that_of_before() {
        let pages = vec![1_u8; 64 << 20];
        let before = Usage::of_self().peak_resident_bytes;
        drop(std::hint::black_box(pages));
        if forget_peak("self") {
            let after = Usage::of_self().peak_resident_bytes;
            assert!(after + (32 << 20) < before, "{after} after {before}");
        }
    }

    #[test]
    fn the_longest_mount_point_holds_the_path() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/data xfs rw 0 0\n";
        let find = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(find("/home/x").as_deref(), Some("ext4 at /"));
        assert_eq!(find("/tmp/x").as_deref(), Some("tmpfs at /tmp"));
        assert_eq!(find("/tmp/data/x").as_deref(), Some("xfs at /tmp/data"));
        assert_eq!(find("/tmp/database").as_deref(), Some("tmpfs at /tmp"));
    }
}
