//! The `corelith` program: a node, a cluster for development, and the command-line client.

use corelith::cli::{Arguments, logging, run};
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::from_process();
    let filter = match logging::filter(arguments.log.as_deref()) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("corelith: --log is not a valid filter: {error}");
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
