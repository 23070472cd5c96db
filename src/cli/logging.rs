//! The log filter.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// The filter if the user gives none.
const DEFAULT: &str = "warn";
/// Added unless the user names openraft. openraft logs every refused vote, and logs an error for every message that a
/// stop leaves unanswered, although the caller gets that error too.
const QUIET: &str = "openraft=error,openraft::raft::raft_inner=off";

/// The filter for what the user asks for.
///
/// # Errors
/// `asked` is not a valid filter.
pub fn filter(asked: Option<&str>) -> Result<EnvFilter, ParseError> {
    let asked = asked.unwrap_or(DEFAULT);
    let filter = EnvFilter::try_new(asked)?;
    if asked.contains("openraft") || filter.max_level_hint() == Some(LevelFilter::OFF) {
        return Ok(filter);
    }
    EnvFilter::try_new(format!("{asked},{QUIET}"))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn openraft_is_quiet_unless_it_is_named() {
        let table = [
            (None, "openraft::raft::raft_inner=off,openraft=error,warn"),
            (
                Some("info"),
                "openraft::raft::raft_inner=off,openraft=error,info",
            ),
            (
                Some("debug"),
                "openraft::raft::raft_inner=off,openraft=error,debug",
            ),
            (
                Some("corelith_consensus=debug,info"),
                "corelith_consensus=debug,openraft::raft::raft_inner=off,openraft=error,info",
            ),
            (Some("openraft=debug"), "openraft=debug"),
            (
                Some("warn,openraft::engine=info"),
                "openraft::engine=info,warn",
            ),
            (Some("off"), "off"),
        ];
        for (asked, expected) in table {
            let mut built: Vec<String> = filter(asked)
                .unwrap()
                .to_string()
                .split(',')
                .map(str::to_owned)
                .collect();
            built.sort();
            let mut expected: Vec<&str> = expected.split(',').collect();
            expected.sort_unstable();
            assert_eq!(built, expected, "{asked:?}");
        }
        assert!(filter(Some("corelith=loud")).is_err());
    }
}
