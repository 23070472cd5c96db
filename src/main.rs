//! The `corelith` program: a node, a cluster for development, and the command-line client.

use clap::Parser;
use corelith::cli::{Arguments, logging, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match logging::filter(arguments.log.as_deref()) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("corelith: --log is no filter: {error}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    ExitCode::from(run(arguments))
}
