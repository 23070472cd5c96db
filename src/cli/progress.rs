//! The progress of one value, for people: a bar on standard error if that is a terminal, and nothing otherwise.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;

/// A progress bar with rate and remaining time. Clones are the same bar; it goes when it is [ended](Self::end).
#[derive(Clone, Debug)]
pub(super) struct TransferBar(ProgressBar);

impl TransferBar {
    /// A bar of that many bytes, if they are known. Not drawn if it is not `wanted`.
    pub(super) fn new(wanted: bool, length: Option<u64>) -> Self {
        let target = match wanted {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let template = match length {
            Some(_) => "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            None => "{spinner} {bytes} {bytes_per_sec} {elapsed}",
        };
        let bar = ProgressBar::with_draw_target(length, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many bytes are done.
    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line to standard error. A failed write there cannot be reported.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
