//! The `corelith` program: a node, a cluster for development, and the command-line client.

use corelith::cli::{Arguments, run};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What is logged unless the user says otherwise: openraft reports every vote that is refused.
const LOG_DEFAULT: &str = "warn,openraft=error";

fn main() -> ExitCode {
    let arguments = Arguments::from_process();
    let filter = match arguments.log.as_deref().map(EnvFilter::try_new).transpose() {
        Ok(filter) => filter.unwrap_or_else(|| EnvFilter::new(LOG_DEFAULT)),
        Err(error) => {
            eprintln!("corelith: --log is no filter: {error}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    ExitCode::from(run(arguments))
}
