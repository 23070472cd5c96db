//! A probe of the machine: small direct reads of a file of its own, one after the other, beside the engine.
//! How late they end is what the device and the processors take, whatever the engine does: a virtual machine
//! may stand still as a whole.

use crate::error::{BenchError, Result};
use crate::recorder::Window;
use corelith_bench::random::Random;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A read begins this long after the one before was due, or when that ends if it is later. At 200 reads a
/// second the probe takes 1 % of a core.
const PERIOD: Duration = Duration::from_millis(5);
const BLOCK_BYTES: usize = 4096;
/// Blocks of the file: 16 MiB.
const BLOCKS: u64 = 4096;

/// Direct I/O takes aligned memory only.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// A read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When it was to begin, from the start of the window.
    pub(crate) at: Duration,
    /// How long after that it ended.
    pub(crate) took: Duration,
}

/// See the module. Belongs to one thread.
pub(crate) struct DeviceProbe {
    file: File,
    path: PathBuf,
    block: Box<Block>,
    random: Random,
}

impl DeviceProbe {
    /// Writes and syncs the file, beside `dir` and not inside. It has a name only while it is opened, so that
    /// it is gone with the probe, however the process ends.
    pub(crate) fn beside(dir: &Path, seed: u64) -> Result<Self> {
        let path = dir.with_extension("probe");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .map_err(BenchError::file(&path))?;
        std::fs::remove_file(&path).map_err(BenchError::file(&path))?;
        let mut probe = Self {
            file,
            path,
            block: Box::new(Block([0; BLOCK_BYTES])),
            random: Random::new(seed),
        };
        probe
            .fill()
            .map_err(BenchError::file(probe.path.as_path()))?;
        Ok(probe)
    }

    /// Random bytes: nothing below may keep them as a hole.
    fn fill(&mut self) -> std::io::Result<()> {
        for nth in 0..BLOCKS {
            for word in self.block.0.chunks_exact_mut(8) {
                word.copy_from_slice(&self.random.next_u64().to_le_bytes());
            }
            self.file
                .write_all_at(&self.block.0, nth * BLOCK_BYTES as u64)?;
        }
        self.file.sync_all()
    }

    /// Reads random blocks from the start of the window until its end, or until `done`.
    pub(crate) fn run(mut self, window: Window, done: &AtomicBool) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        let mut due = window.start;
        loop {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            if began >= window.end || done.load(Ordering::Acquire) {
                return Ok(readings);
            }
            let offset = self.random.below(BLOCKS) * BLOCK_BYTES as u64;
            self.file
                .read_exact_at(&mut self.block.0, offset)
                .map_err(BenchError::file(self.path.as_path()))?;
            let ended = Instant::now();
            readings.push(Reading {
                at: due.saturating_duration_since(window.start),
                took: ended.saturating_duration_since(due),
            });
            due = (due + PERIOD).max(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside the test program: a directory in memory may refuse direct I/O.
    fn directory() -> tempfile::TempDir {
        let program = std::env::current_exe().unwrap();
        tempfile::tempdir_in(program.parent().unwrap()).unwrap()
    }

    #[test]
    fn reads_begin_in_the_window_and_leave_nothing_behind() {
        let dir = directory();
        let probe = DeviceProbe::beside(&dir.path().join("1"), 7).unwrap();
        let start = Instant::now();
        let measured = Duration::from_millis(200);
        let window = Window {
            start,
            end: start + measured,
        };
        let readings = probe.run(window, &AtomicBool::new(false)).unwrap();
        assert!(!readings.is_empty());
        assert!(readings.iter().all(|reading| reading.at < measured));
        let apart = |pair: &[Reading]| pair[1].at >= pair[0].at + pair[0].took;
        assert!(readings.windows(2).all(apart), "{readings:?}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_probe_that_is_not_needed_ends() {
        let dir = directory();
        let probe = DeviceProbe::beside(&dir.path().join("1"), 7).unwrap();
        let start = Instant::now();
        let window = Window {
            start,
            end: start + Duration::from_secs(1 << 30),
        };
        assert_eq!(probe.run(window, &AtomicBool::new(true)).unwrap(), []);
    }
}
