//! The command line: arguments, and what each command does.
//!
//! `node`, `dev`, `inspect`, `check`, `recover` and `gc` run on this machine; all other commands are clients of a cluster and
//! use only the SDK.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "commands run on ordinary threads, outside of the cores"
)]

mod args;
mod client;
mod cluster;
mod connect;
pub mod dev;
mod encoding;
mod entry;
mod export;
mod failure;
mod get;
mod import;
mod importer;
mod keys;
pub mod logging;
mod manifest;
mod offline;
mod on_core;
mod output;
mod paths;
mod pieces;
mod progress;
mod put;
mod range;
mod recover;
mod resume;
mod scan;
mod sending;
mod shard;
mod sink;
mod status;
mod storage;
mod stored;
mod table;
mod time;
mod transfer;
mod unserved;
mod uploads;
mod watermark;

#[cfg(test)]
mod tests;

pub use args::{Arguments, Command};
pub use failure::Failure;

use args::GcCommand;
use std::io::Write;

/// Runs the command and returns the process's exit code.
pub fn run(arguments: Arguments) -> u8 {
    let outcome = match arguments.command {
        Command::Node(node) => {
            crate::node::run::run(&node.config, &node.join).map_err(Failure::node)
        }
        Command::Dev(dev) => dev::run(&dev.data, dev.wanted()).map_err(Failure::node),
        Command::Inspect(inspect) => offline::inspect(&inspect.file, inspect.json),
        Command::Check(check) => offline::check(&check.dir, check.json),
        Command::Recover(recover) => recover::run(&recover),
        Command::Gc(GcCommand::Plan(plan)) => offline::plan(&plan.dir, plan.json),
        Command::Client(command) => connect::on_runtime(client::run(command)),
    };
    match outcome {
        Ok(()) => 0,
        Err(Failure::OutputClosed) => 0,
        Err(failure) => {
            // A failed write to standard error cannot be reported.
            let _ = writeln!(std::io::stderr(), "corelith: {failure}");
            failure.exit_code()
        }
    }
}
