//! The storage engine of Corelith next to RocksDB and fjall.
//!
//! The harness (`harness.rs`) runs each measurement in a child of its own program (`measure.rs`), which opens
//! one engine, loads it, and reports figures as JSON. What the loads are is the same for all engines
//! (`plan.rs`, `data.rs`, `subject.rs`); blocking engines are driven by threads (`threads.rs`), ours by tasks on
//! its own cores (`cores.rs`). Beside a timeline the device is probed (`device.rs`), so that what it did is told
//! apart from what an engine did (`stall.rs`, `timeline.rs`). What ours does with many keys in little memory is no comparison, and has a
//! file of its own (`scale.rs`).

mod cases;
mod cores;
mod data;
mod device;
mod directory;
mod error;
mod fjalls;
mod harness;
mod measure;
mod metrics;
mod options;
mod ours;
mod pacer;
mod picture;
mod plan;
mod recorder;
mod rocks;
mod scale;
mod stall;
mod subject;
mod table;
mod threads;
mod timeline;

use crate::error::Result;
use crate::options::Options;
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match (arguments.next(), arguments.next()) {
        (Some(first), Some(plan)) if first == harness::CHILD_ARGUMENT => measure_one(&plan),
        (Some(first), Some(plan)) if first == scale::CHILD_ARGUMENT => scale::child(&plan),
        _ => harness::run(&Options::parse().in_effect()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelith-engine-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_one(plan: &str) -> Result<()> {
    let outcome = measure::run(&serde_json::from_str(plan)?)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
