//! What a node owns on disk: whose the directory is, and its shards.

pub mod identity;
pub mod inspect;
pub(crate) mod keeper;
pub mod left;
pub(crate) mod map_file;
pub mod on_disk;
pub(crate) mod opening;
