//! What the library below logs.

/// How its targets begin.
pub const LIBRARY: &str = "openraft";

/// Directives for a log filter, added unless the user names the library. It logs every refused vote, and logs an error
/// for everything that a stop leaves unanswered: these modules tell only of that, or of what their caller is told too.
/// When storage fails its core and its workers still say so, and so does the replica.
pub const QUIET: &str = "openraft=error,openraft::raft=off,openraft::core::heartbeat=off,openraft::core::sm::handle=off,\
     openraft::storage::callback=off";
