//! What the log needs of the value log.

use crate::error::Result;
use crate::ids::{LogIndex, Ticket};
use crate::key::SpacedKey;
use crate::vlog::{LoggedValue, ValueLog, ValuePointer, ValueState};
use bytes::Bytes;

#[cfg(test)]
use super::tests::values::FakeValues;

/// Where the values of separated entries are kept. Belongs to the core of its log.
#[derive(Clone)]
pub(crate) enum Values {
    /// In the shard's value log.
    On(ValueLog),
    /// In a value log that breaks in the ways a test wants.
    #[cfg(test)]
    Fake(FakeValues),
}

impl Values {
    /// Writes the value of the entry `at`. It is durable when everything up to the ticket is.
    ///
    /// # Errors
    /// `Fenced` or `Closed`; `TooLarge` when the value log does not take values of that length.
    pub(super) fn stage(
        &self,
        at: LogIndex,
        key: SpacedKey<'_>,
        value: Bytes,
    ) -> Result<(ValuePointer, Ticket)> {
        match self {
            Self::On(values) => values.stage(at, key, &value),
            #[cfg(test)]
            Self::Fake(values) => Ok(values.stage(at, key.key, value)),
        }
    }

    /// Reads a value back and checks it.
    pub(super) async fn read(&self, place: ValuePointer, key: SpacedKey<'_>) -> Result<Bytes> {
        match self {
            Self::On(values) => values.read(&values.segments(), place, Some(key)).await,
            #[cfg(test)]
            Self::Fake(values) => values.read(place, key.key).await,
        }
    }

    /// What is in the place of an entry's value. A whole one is durable from now on.
    pub(super) async fn state_of(&self, value: LoggedValue) -> Result<ValueState> {
        match self {
            Self::On(values) => values.state_of(&values.segments(), value).await,
            #[cfg(test)]
            Self::Fake(values) => values.state_of(value.place).await,
        }
    }

    /// Has `listener` called with every progress of the contiguous durable prefix, and with the
    /// error after which there is none. Set once, before the first value is staged.
    pub(super) fn on_durable(&self, listener: impl Fn(Result<Ticket>) + 'static) {
        match self {
            Self::On(values) => values.on_durable(listener),
            #[cfg(test)]
            Self::Fake(values) => values.on_durable(listener),
        }
    }

    /// Ends the waits for room.
    pub(super) fn begin_stop(&self) {
        match self {
            Self::On(values) => values.begin_stop(),
            #[cfg(test)]
            Self::Fake(_) => {}
        }
    }

    /// Waits while too much is staged that is not durable yet.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub(super) async fn wait_for_room(&self) -> Result<()> {
        match self {
            Self::On(values) => values.wait_for_room().await,
            #[cfg(test)]
            Self::Fake(_) => Ok(()),
        }
    }

    /// Whether there is no room on the device for more values.
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::On(values) => values.is_disk_full(),
            #[cfg(test)]
            Self::Fake(_) => false,
        }
    }

    /// Whether what is staged waits for room on the device.
    pub(super) fn is_stuck(&self) -> bool {
        match self {
            Self::On(values) => values.is_stuck(),
            #[cfg(test)]
            Self::Fake(_) => false,
        }
    }

    /// Waits for what is staged and ends the background work.
    ///
    /// # Errors
    /// `Fenced`.
    pub(super) async fn close(&self) -> Result<()> {
        match self {
            Self::On(values) => values.close().await,
            #[cfg(test)]
            Self::Fake(_) => Ok(()),
        }
    }
}
