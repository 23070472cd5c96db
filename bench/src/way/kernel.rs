//! A trace of the kernel (`Documentation/trace/ftrace.rst`), in an instance of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// Memory of the trace, for each processor.
const BUFFER_KIB: u32 = 64 << 10;
/// What is traced. System calls come with their names.
const EVENTS: [&str; 6] = [
    "sched/sched_switch",
    "sched/sched_waking",
    "io_uring/io_uring_submit_req",
    "io_uring/io_uring_complete",
    "io_uring/io_uring_queue_async_work",
    "syscalls",
];

/// A running trace; dropping it ends it and gives its memory back.
pub(super) struct Tracing {
    dir: PathBuf,
}

impl Tracing {
    /// Traces all threads of the machine: the kernel's own choice by thread loses switches.
    pub(super) fn start() -> io::Result<Self> {
        let dir = Path::new(INSTANCES).join(format!("corelith-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        let tracing = Self { dir };
        tracing.set("tracing_on", "0")?;
        tracing.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        tracing.set("trace_clock", "mono")?;
        for event in EVENTS {
            tracing.set(&format!("events/{event}/enable"), "1")?;
        }
        tracing.set("tracing_on", "1")?;
        Ok(tracing)
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.dir.join(name), value)
    }

    /// Writes into the trace.
    pub(super) fn marker(&self) -> io::Result<Marker> {
        let path = self.dir.join("trace_marker");
        Ok(Marker(OpenOptions::new().write(true).open(path)?))
    }

    /// Ends the trace and returns it as text.
    pub(super) fn read(self) -> io::Result<String> {
        self.set("tracing_on", "0")?;
        std::fs::read_to_string(self.dir.join("trace"))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // What is left is an instance that traces nothing: the next one has another name.
        let _ = self.set("tracing_on", "0");
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Marks what happens in this process.
pub(super) struct Marker(File);

impl Marker {
    /// An operation begins.
    pub(super) const BEGIN: &str = "begin";
    /// It is answered.
    pub(super) const END: &str = "end";

    pub(super) fn mark(&mut self, mark: &str) -> io::Result<()> {
        self.0.write_all(mark.as_bytes())
    }
}
