//! What is logged.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// What is logged unless the user says otherwise.
const DEFAULT: &str = "warn";
/// Added unless the user names openraft, which reports every vote that is refused, and as an error every message that a
/// stop leaves without an answer: the caller has that as an error too.
const QUIET: &str = "openraft=error,openraft::raft::raft_inner=off";

/// What to log, from what the user asks for.
///
/// # Errors
/// It is no filter.
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
