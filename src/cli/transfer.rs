//! What imports and exports share: progress, totals, and how they end.

use super::encoding::{argument, counted};
use super::failure::{Failure, code};
use super::output;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::Write;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// After this many failures in a row that are the cluster's or the disk's fault, not a single key's, the
/// transfer gives up.
const FAILURES_IN_A_ROW_MAX: u64 = 64;

/// How many long values travel at once, each with some MiB in memory.
pub(super) const LARGE_MAX: usize = 4;

/// How a transfer ended.
pub(super) enum End {
    /// Every key was tried.
    Complete,
    /// The user interrupted it.
    Interrupted,
    /// A failure ended it early.
    BrokenOff(Failure),
}

/// Counts the keys done, and reports those that fail.
pub(super) struct Tally {
    what: &'static str,
    bar: ProgressBar,
    done: u64,
    bytes: u64,
    skipped: u64,
    failed: u64,
    failed_in_a_row: u64,
    code: u8,
}

impl Tally {
    /// An empty tally. `what` is "imported" or "exported". Draws a progress bar if standard error is a
    /// terminal and it is `is_drawn`.
    pub(super) fn new(what: &'static str, total_bytes: u64, is_drawn: bool) -> Self {
        let target = match is_drawn {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            what,
            bar,
            done: 0,
            bytes: 0,
            skipped: 0,
            failed: 0,
            failed_in_a_row: 0,
            code: 0,
        }
    }

    /// One more is done.
    pub(super) fn done(&mut self, bytes: u64) {
        self.done += 1;
        self.bytes += bytes;
        self.failed_in_a_row = 0;
        self.bar
            .set_length(self.bar.length().unwrap_or(0).max(self.bytes));
        self.bar.inc(bytes);
    }

    /// One was left out on purpose.
    pub(super) fn skipped(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        self.tell(&format!("{name}: skipped: {why}"));
    }

    /// `count` more were left out on purpose.
    pub(super) fn skipped_all(&mut self, count: u64, what: &str) {
        self.skipped += count;
        self.tell(what);
    }

    /// One failed.
    pub(super) fn failed(&mut self, name: &str, failure: &Failure) {
        self.code = self.code.max(failure.exit_code());
        self.failed += 1;
        self.tell(&format!("{name}: {failure}"));
    }

    /// Whether the rest would fail as well: `failure` ends a long row of failures that are not the fault
    /// of single keys.
    pub(super) fn is_hopeless(&mut self, failure: &Failure, concerns_all: fn(u8) -> bool) -> bool {
        self.failed_in_a_row = match concerns_all(failure.exit_code()) {
            true => self.failed_in_a_row + 1,
            false => 0,
        };
        self.failed_in_a_row >= FAILURES_IN_A_ROW_MAX
    }

    fn tell(&self, line: &str) {
        self.bar.suspend(|| {
            // A failed write to standard error cannot be reported.
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Prints the totals and returns the command's result. `go_on` says how to continue an unfinished
    /// transfer.
    pub(super) fn finish(self, end: End, go_on: &str, as_json: bool) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        output::text(&match as_json {
            true => output::json_line(&TransferTotals::of(&self, &end))?,
            false => self.describe(),
        })?;
        let unfinished = !matches!(end, End::Complete);
        if unfinished {
            self.tell(go_on);
        }
        match end {
            End::BrokenOff(failure) => Err(failure),
            End::Interrupted => Err(Failure::Interrupted),
            End::Complete if self.failed > 0 => Err(Failure::Partly {
                failed: self.failed,
                total: self.done + self.failed,
                code: self.code,
            }),
            End::Complete => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{} {}, {}, in {}",
            self.what,
            counted(self.done, "key", "keys"),
            HumanBytes(self.bytes),
            HumanDuration(self.bar.elapsed()),
        );
        for (count, what) in [(self.failed, "failed"), (self.skipped, "skipped")] {
            if count > 0 {
                text += &format!("; {count} {what}");
            }
        }
        text + "\n"
    }
}

/// The totals as JSON.
#[derive(Serialize)]
struct TransferTotals {
    kind: &'static str,
    keys: u64,
    bytes: u64,
    failed: u64,
    skipped: u64,
    complete: bool,
    milliseconds: u64,
}

impl TransferTotals {
    fn of(tally: &Tally, end: &End) -> Self {
        Self {
            kind: tally.what,
            keys: tally.done,
            bytes: tally.bytes,
            failed: tally.failed,
            skipped: tally.skipped,
            complete: matches!(end, End::Complete) && tally.failed == 0,
            milliseconds: u64::try_from(tally.bar.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Whether the next key would fail too: the cluster does not answer or is full.
pub(super) fn concerns_cluster(exit_code: u8) -> bool {
    matches!(exit_code, code::UNREACHABLE | code::UNKNOWN | code::FULL)
}

/// As [`concerns_cluster`], or files on this machine fail.
pub(super) fn concerns_cluster_or_files(exit_code: u8) -> bool {
    concerns_cluster(exit_code) || exit_code == code::LOCAL
}

/// `--after KEY`, with the key escaped so that no shell changes it.
pub(super) fn after_argument(key: &[u8]) -> String {
    format!("--after {}", argument(key))
}

/// Listens for SIGINT (Ctrl-C) and SIGTERM.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|source| Failure::local("handle signals", "", source));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
