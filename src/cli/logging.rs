//! The log filter.

use corelith_consensus::logging::{LIBRARY, QUIET};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// The filter if the user gives none.
const DEFAULT: &str = "warn";
/// The filter for what the user asks for.
///
/// # Errors
/// `asked` is not a valid filter.
pub fn filter(asked: Option<&str>) -> Result<EnvFilter, ParseError> {
    let asked = asked.unwrap_or(DEFAULT);
    let filter = EnvFilter::try_new(asked)?;
    if asked.contains(LIBRARY) || filter.max_level_hint() == Some(LevelFilter::OFF) {
        return Ok(filter);
    }
    EnvFilter::try_new(format!("{asked},{QUIET}"))
}

#[cfg(test)]
mod tests {
    use super::filter;
    use corelith_consensus::logging::QUIET;

    #[test]
    fn openraft_is_quiet_unless_it_is_named() {
        let table = [
            (None, "QUIET,warn"),
            (Some("info"), "QUIET,info"),
            (Some("debug"), "QUIET,debug"),
            (
                Some("corelith_consensus=debug,info"),
                "QUIET,corelith_consensus=debug,info",
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
            let expected = expected.replace("QUIET", QUIET);
            let mut expected: Vec<&str> = expected.split(',').collect();
            expected.sort_unstable();
            assert_eq!(built, expected, "{asked:?}");
        }
        assert!(filter(Some("corelith=loud")).is_err());
    }
}
