//! The `corelith` program: a node, a cluster for development, and the command-line client.

use clap::Parser;
use corelith::cli::{Arguments, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match arguments.log.as_deref().map(EnvFilter::try_new).transpose() {
        Ok(filter) => filter.unwrap_or_else(|| EnvFilter::new("warn")),
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
