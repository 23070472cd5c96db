//! The Uring world: glommio executors.

pub(crate) mod core;
pub(crate) mod file;
pub(crate) mod fs;
pub(crate) mod net;
pub(crate) mod task;
pub(crate) mod time;

pub(crate) use self::core::Core;
