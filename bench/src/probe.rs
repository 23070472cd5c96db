//! What this machine allows: one sequential writer, one sequential reader, and one copy over the loopback interface.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

/// Bytes of a write.
const BLOCK_BYTES: usize = 1 << 20;
/// Alignment that every device takes.
const ALIGNMENT: usize = 4096;
/// `O_DIRECT` of this architecture.
const DIRECT: i32 = if cfg!(target_arch = "aarch64") {
    0x1_0000
} else {
    0x4000
};

/// What a disk gives one who has it alone, in bytes per second.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct DiskRates {
    pub(crate) write: f64,
    pub(crate) read: f64,
}

/// The rates of `bytes` written to a new file in `dir`, durable at the end, and read from it, both past the page cache.
///
/// # Errors
/// The file could not be written or read.
pub(crate) fn disk(dir: &Path, bytes: u64) -> io::Result<DiskRates> {
    let path = dir.join("probe");
    let rates = write_and_read(&path, bytes);
    // Also after a failure: the nodes need the room.
    let _ = std::fs::remove_file(&path);
    rates
}

fn write_and_read(path: &Path, bytes: u64) -> io::Result<DiskRates> {
    let mut memory: Vec<u8> = (0..=u8::MAX)
        .cycle()
        .take(BLOCK_BYTES + ALIGNMENT)
        .collect();
    let from = memory.as_ptr().align_offset(ALIGNMENT);
    let block = memory.get_mut(from..from + BLOCK_BYTES).unwrap_or_default();
    assert_eq!(block.len(), BLOCK_BYTES, "there is room for the alignment");
    let blocks = blocks(bytes);
    let rate =
        |begun: Instant| (blocks * BLOCK_BYTES as u64) as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut file = direct(File::options().write(true).create_new(true), path)?;
    for _ in 0..blocks {
        file.write_all(block)?;
    }
    file.sync_all()?;
    let write = rate(begun);
    let begun = Instant::now();
    let mut file = direct(File::options().read(true), path)?;
    for _ in 0..blocks {
        file.read_exact(block)?;
    }
    let read = rate(begun);
    Ok(DiskRates { write, read })
}

fn direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(DIRECT).open(path)
}

/// Bytes per second of `bytes` sent over one connection on the loopback interface.
///
/// # Errors
/// The connection failed.
pub(crate) fn loopback(bytes: u64) -> io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let blocks = blocks(bytes);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let block = vec![1; BLOCK_BYTES];
            (0..blocks).try_for_each(|_| sender.write_all(&block))
        });
        let (mut piece, mut came) = (vec![0; BLOCK_BYTES], 0);
        loop {
            match receiver.read(&mut piece)? {
                0 => break,
                len => came += len as u64,
            }
        }
        let sent = sending.join().map_err(|_| io::ErrorKind::Other)?;
        sent.map(|()| came as f64 / begun.elapsed().as_secs_f64())
    })
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_sent_in_whole_blocks() {
        for (bytes, expected) in [(0, 1), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2)] {
            assert_eq!(blocks(bytes), expected, "{bytes}");
        }
        assert!(loopback(3 << 20).unwrap() > 0.0);
    }
}
