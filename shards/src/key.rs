//! Internal keys: (space, user key, sequence number descending).

/// Separates user keys from the shard's own records, so that one flush covers all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Keys of users.
    User = 0,
    /// Client sessions, keyed by session id (big-endian).
    Session = 1,
    /// The shard's own settings (last membership and the like).
    System = 2,
}
