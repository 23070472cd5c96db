//! The Uring world: cores on glommio, or on a ring of our own (`ring/`). The only place that knows either.

mod clock;
pub(crate) mod core;
pub(crate) mod file;
pub(crate) mod fs;
mod guard;
pub(crate) mod memory;
pub(crate) mod net;
mod once;
mod pool;
pub(crate) mod ring;
pub(crate) mod sys;
pub(crate) mod task;
mod tasks;
pub(crate) mod time;
mod timers;
mod watchdog;

pub(crate) use self::clock::{now, wall_clock};
pub(crate) use self::core::Core;

/// The failure below one of glommio's.
fn io_error(error: glommio::GlommioError<()>) -> std::io::Error {
    match error {
        glommio::GlommioError::IoError(source)
        | glommio::GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}
