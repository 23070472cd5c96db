//! The kinds of faults.

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    /// Its process is killed, and started again later.
    Kill,
    /// Its process is stopped (SIGSTOP), and continued later.
    Stop,
    /// No packet from it or to it arrives.
    Cut,
    /// As `cut`, but clients reach it: only the other nodes do not.
    Partition,
    /// No packet to it arrives, but its own do.
    Deaf,
    /// Its disk answers nothing.
    Stall,
    /// Each node in turn is stopped in order (SIGTERM) and started again.
    Restart,
    /// Nothing is done, for --seconds: no lead may change.
    Steady,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Partition => "partition",
            Self::Deaf => "deaf",
            Self::Stall => "stall",
            Self::Restart => "restart",
            Self::Steady => "steady",
        }
    }

    pub(crate) fn needs_network(self) -> bool {
        matches!(self, Self::Cut | Self::Partition | Self::Deaf)
    }
}
