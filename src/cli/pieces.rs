//! A file or a pipe, read piece by piece by a thread, a little ahead of whoever takes the pieces.
//!
//! Memory: at most three pieces of 1 MiB: one that is read, one that waits, one that was taken.

use super::failure::Failure;
use bytes::Bytes;
use std::io::Read;
use tokio::sync::mpsc;

/// Length of a piece, in bytes: that of a chunk, so that whole ones are sent without a copy.
const PIECE_BYTES: u64 = 1 << 20;

/// The pieces of a file or a pipe, each of 1 MiB but for the last.
pub(super) struct Pieces(mpsc::Receiver<Result<Bytes, Failure>>);

impl Pieces {
    /// Reads to the end, or until this is dropped; a read that waits for a pipe by then goes on for as long as it
    /// takes. Must be called on the runtime.
    pub(super) fn of(
        mut from: impl Read + Send + 'static,
        failed: impl Fn(std::io::Error) -> Failure + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
                let read = from.by_ref().take(PIECE_BYTES).read_to_end(&mut piece);
                let (piece, is_last) = match read {
                    Ok(0) => return,
                    Ok(count) => (Ok(Bytes::from(piece)), (count as u64) < PIECE_BYTES),
                    Err(error) => (Err(failed(error)), true),
                };
                if sender.blocking_send(piece).is_err() || is_last {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The next piece; `None` at the end and after a failure.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_whole_but_for_the_last() {
        let failed = |error| Failure::local("read", "", error);
        let piece = PIECE_BYTES as usize;
        for len in [0, 1, piece - 1, piece, piece + 1, 5 * piece] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut pieces = Pieces::of(std::io::Cursor::new(content.clone()), failed);
            let (mut found, mut lengths) = (Vec::new(), Vec::new());
            while let Some(piece) = pieces.next().await {
                let piece = piece.unwrap();
                lengths.push(piece.len());
                found.extend_from_slice(&piece);
            }
            assert!(found == content, "{len} bytes");
            let whole = lengths.split_last().map_or(&[][..], |(_, whole)| whole);
            assert!(whole.iter().all(|len| *len == piece), "{lengths:?}");
        }
    }
}
