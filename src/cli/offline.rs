//! `inspect`, `check` and `gc plan`: read files and data directories without a cluster.

use super::encoding::counted;
use super::failure::Failure;
use super::on_core::on_core;
use super::table::TextTable;
use super::{output, paths};
use crate::node::data_dir::inspect;
use crate::node::data_dir::on_disk::{self, OfflineError};
use corelith_shards::check::{Problem, Summary};
use corelith_shards::gc_plan::ShardPlan;
use corelith_shards::vlog::Action;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Prints a file of a data directory, read the way a node reads it.
pub(super) fn inspect(file: &Path, as_json: bool) -> Result<(), Failure> {
    paths::file(file)?;
    let path = file.to_owned();
    let found = on_core(
        "inspect",
        move || async move { inspect::inspect(&path).await },
    )?;
    let text = found.map_err(|source| Failure::Inspect { source })?;
    output::text(&match as_json {
        true => fact_lines(file, &text)?,
        false => text,
    })
}

#[derive(Serialize)]
struct FileLine {
    kind: &'static str,
    file: String,
}

/// A line of a description. `nested`: it is part of the line above, as an entry is part of a block.
#[derive(Serialize)]
struct FactLine<'a> {
    kind: &'static str,
    name: &'a str,
    value: &'a str,
    nested: bool,
}

/// A description, given as lines of "name: value", as JSON.
fn fact_lines(file: &Path, description: &str) -> Result<String, Failure> {
    let mut text = output::json_line(&FileLine {
        kind: "file",
        file: file.display().to_string(),
    })?;
    for line in description.lines() {
        let trimmed = line.trim_start();
        let (name, value) = trimmed.split_once(": ").unwrap_or((trimmed, ""));
        text += &output::json_line(&FactLine {
            kind: "fact",
            name,
            value,
            nested: trimmed.len() < line.len(),
        })?;
    }
    Ok(text)
}

/// Checks everything under `dir`; problems are printed as they are found.
pub(super) fn check(dir: &Path, as_json: bool) -> Result<(), Failure> {
    paths::directory(dir)?;
    let dir = dir.to_owned();
    let problems = on_core(
        "check",
        move || async move { check_all(&dir, as_json).await },
    )??;
    match problems {
        0 => Ok(()),
        problems => Err(Failure::Damaged { problems }),
    }
}

async fn check_all(dir: &Path, as_json: bool) -> Result<u64, Failure> {
    let data = on_disk::open(dir, true).await?;
    let mut problems = 0;
    for problem in &data.problems {
        problems += 1;
        print_problem(dir, problem, as_json)?;
    }
    for shard in &data.shards {
        let mut printed = Ok(());
        let summary = on_disk::check(shard, |problem| {
            if printed.is_ok() {
                printed = print_problem(&shard.dir, &problem, as_json);
            }
        });
        let summary = summary.await?;
        printed?;
        problems += summary.problems;
        output::text(&match as_json {
            true => output::json_line(&SummaryLine::new(&shard.dir, &summary))?,
            false => describe(&shard.dir, &summary),
        })?;
    }
    Ok(problems)
}

fn print_problem(dir: &Path, problem: &Problem, as_json: bool) -> Result<(), Failure> {
    output::text(&match as_json {
        true => output::json_line(&ProblemLine {
            kind: "problem",
            dir: dir.display().to_string(),
            file: &problem.file,
            offset: problem.offset,
            what: &problem.what,
            keys: (!problem.last_key.is_empty()).then(|| problem.keys()),
        })?,
        false => format!("{problem}\n"),
    })
}

fn describe(dir: &Path, summary: &Summary) -> String {
    let dir = dir.display();
    if summary.is_unfinished {
        return format!("{dir}: empty, its creation was interrupted\n");
    }
    let Summary {
        files,
        bytes,
        tables,
        entries,
        pointers,
        large_values,
        value_segments,
        value_records,
        torn_records,
        log_segments,
        log_entries,
        problems,
        ..
    } = summary;
    let mut text = format!(
        "{dir}: {} in {} of {}; {} with {}, {}, {} with {}, {} with {}\n",
        counted(*problems, "problem", "problems"),
        counted(*files, "file", "files"),
        counted(*bytes, "byte", "bytes"),
        counted(*tables, "table", "tables"),
        counted(*entries, "entry", "entries"),
        counted(*pointers, "pointer to a value", "pointers to values"),
        counted(*value_segments, "value segment", "value segments"),
        counted(*value_records, "record", "records"),
        counted(*log_segments, "log segment", "log segments"),
        counted(*log_entries, "entry", "entries"),
    );
    if *large_values > 0 {
        let large = counted(*large_values, "large value", "large values");
        text += &format!("{dir}: {large}\n");
    }
    if *torn_records > 0 {
        let torn = counted(*torn_records, "damaged record", "damaged records");
        text += &format!("{dir}: {torn} without references\n");
    }
    if !summary.orphans.is_empty() {
        let orphans = summary.orphans.join(", ");
        text += &format!("{dir}: files without references: {orphans}\n");
    }
    text
}

#[derive(Serialize)]
struct ProblemLine<'a> {
    kind: &'static str,
    dir: String,
    file: &'a str,
    offset: u64,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<String>,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    kind: &'static str,
    dir: String,
    shard: Option<u32>,
    unfinished: bool,
    problems: u64,
    files: u64,
    bytes: u64,
    tables: u64,
    entries: u64,
    pointers: u64,
    large_values: u64,
    value_segments: u64,
    value_records: u64,
    torn_records: u64,
    log_segments: u64,
    log_entries: u64,
    orphans: &'a [String],
}

impl<'a> SummaryLine<'a> {
    fn new(dir: &Path, summary: &'a Summary) -> Self {
        Self {
            kind: "shard",
            dir: dir.display().to_string(),
            shard: summary.shard.map(|shard| shard.0),
            unfinished: summary.is_unfinished,
            problems: summary.problems,
            files: summary.files,
            bytes: summary.bytes,
            tables: summary.tables,
            entries: summary.entries,
            pointers: summary.pointers,
            large_values: summary.large_values,
            value_segments: summary.value_segments,
            value_records: summary.value_records,
            torn_records: summary.torn_records,
            log_segments: summary.log_segments,
            log_entries: summary.log_entries,
            orphans: &summary.orphans,
        }
    }
}

/// Prints what collection would do with each shard under `dir`.
pub(super) fn plan(dir: &Path, as_json: bool) -> Result<(), Failure> {
    paths::directory(dir)?;
    let dir = dir.to_owned();
    let plans = on_core("gc plan", move || async move { plan_all(&dir).await })??;
    output::text(&match as_json {
        true => plan_lines(&plans)?,
        false => plan_tables(&plans),
    })
}

async fn plan_all(dir: &Path) -> Result<Vec<(PathBuf, ShardPlan)>, OfflineError> {
    let data = on_disk::open(dir, false).await?;
    let mut plans = Vec::with_capacity(data.shards.len());
    for shard in data.shards {
        if let Some(plan) = on_disk::plan(&shard.dir).await? {
            plans.push((shard.dir, plan));
        }
    }
    Ok(plans)
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Wait => "wait",
        Action::Keep => "keep",
        Action::Rewrite => "rewrite",
        Action::Drop => "drop",
    }
}

fn plan_tables(plans: &[(PathBuf, ShardPlan)]) -> String {
    let mut table = TextTable::new(&["SHARD", "SEGMENT", "BYTES", "GARBAGE", "ACTION", "FREES"]);
    let (mut bytes, mut garbage, mut reclaimed) = (0, 0, 0);
    for (_, plan) in plans {
        for segment in &plan.report.segments {
            table.row([
                plan.shard.0.to_string(),
                segment.id.to_string(),
                segment.bytes.to_string(),
                segment.garbage.to_string(),
                action(segment.action).to_owned(),
                segment.reclaimed.to_string(),
            ]);
        }
        bytes += plan.report.bytes;
        garbage += plan.report.garbage;
        reclaimed += plan.report.reclaimed();
    }
    let cells = [bytes, garbage, reclaimed].map(|count| count.to_string());
    let [bytes, garbage, reclaimed] = cells;
    let (all, none) = ("all".to_owned(), String::new());
    table.row([all, none.clone(), bytes, garbage, none, reclaimed]);
    let mut text = table.text();
    let ratio = plans.first().map(|(_, plan)| plan.report.ratio * 100.0);
    if let Some(ratio) = ratio {
        text += &format!(
            "\nSizes are in bytes. Once more than {ratio:.0} % of a shard's value log is garbage, its segments are \
             rewritten, those with most garbage first.\n"
        );
    }
    text + "The plan follows from the manifests: it omits later writes, and assumes that each log is purged up to \
            the last checkpoint.\nA segment waits while a log still holds entries of it.\n"
}

#[derive(Serialize)]
struct SegmentLine {
    kind: &'static str,
    shard: u32,
    segment: u64,
    bytes: u64,
    garbage: u64,
    action: &'static str,
    reclaimed: u64,
}

#[derive(Serialize)]
struct PlanLine {
    kind: &'static str,
    dir: String,
    shard: u32,
    /// The plan assumes that the log is purged up to here.
    assumed_purged: Option<u64>,
    free_fraction: f64,
    garbage_ratio: f64,
    bytes: u64,
    garbage: u64,
    reclaimed: u64,
}

fn plan_lines(plans: &[(PathBuf, ShardPlan)]) -> Result<String, Failure> {
    let mut text = String::new();
    for (dir, plan) in plans {
        for segment in &plan.report.segments {
            text += &output::json_line(&SegmentLine {
                kind: "segment",
                shard: plan.shard.0,
                segment: segment.id.0,
                bytes: segment.bytes,
                garbage: segment.garbage,
                action: action(segment.action),
                reclaimed: segment.reclaimed,
            })?;
        }
        text += &output::json_line(&PlanLine {
            kind: "shard",
            dir: dir.display().to_string(),
            shard: plan.shard.0,
            assumed_purged: plan.checkpointed.map(|index| index.0),
            free_fraction: plan.free_fraction,
            garbage_ratio: plan.report.ratio,
            bytes: plan.report.bytes,
            garbage: plan.report.garbage,
            reclaimed: plan.report.reclaimed(),
        })?;
    }
    Ok(text)
}
