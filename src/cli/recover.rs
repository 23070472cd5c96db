//! `recover`: has the shards of a stopped node go on after a majority of their replicas is gone for good.

mod report;

use super::args::RecoverLeftArguments;
use super::encoding::counted;
use super::failure::Failure;
use super::on_core::on_core;
use super::output;
use super::table::TextTable;
use crate::node::NodeError;
use crate::node::config::NodeConfig;
use crate::node::data_dir::left::{LeftNode, LeftReport, courses};
use corelith_consensus::recover::{Course, GoingOn, LeftReplica, Unheard};
use corelith_shards::{LogId, NodeId, ReplicaId, ShardId};
use report::{LostLine, number_of, parse, report_lines};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// In the data directory: what may have been lost, one object per line.
const LOST_FILE: &str = "recovered";
/// Longest report that is read, in bytes.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// What came of it.
struct RecoverOutcome {
    own: LeftReport,
    courses: Result<BTreeMap<ShardId, Course>, Unheard>,
    /// The shards that go on from here, if that was wanted: with the entry after which they do.
    taken: Vec<(ShardId, GoingOn, LogId)>,
}

/// Says what a stopped node has, and has its shards go on if that is wanted.
pub(super) fn run(arguments: &RecoverLeftArguments) -> Result<(), Failure> {
    let config = NodeConfig::load(&arguments.config, &[]);
    let config = config.map_err(|error| Failure::node(NodeError::from(error)))?;
    let dir = config.data_dir.clone();
    let lost: BTreeSet<NodeId> = arguments.lost.iter().copied().map(NodeId).collect();
    let reports = arguments.report.iter().map(|path| read_report(path));
    let others: Vec<(PathBuf, LeftReport)> = reports.collect::<Result<_, _>>()?;
    let (named, is_unsafe) = (lost.clone(), arguments.r#unsafe);
    let found = on_core("recover", move || async move {
        recover(config, named, others, is_unsafe).await
    })??;
    if arguments.json {
        return output::text(&json(&found, is_unsafe)?);
    }
    output::text(&table(&found.own, &lost))?;
    let said = match is_unsafe {
        true => done(&found, &dir),
        false => planned(&found),
    };
    output::text(&said)
}

fn read_report(path: &Path) -> Result<(PathBuf, LeftReport), Failure> {
    super::paths::file(path)?;
    let read = |error| Failure::file("read", path, error);
    if std::fs::metadata(path).map_err(read)?.len() > REPORT_BYTES_MAX {
        return Err(Failure::unusable(path, "it is too long for a report"));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let report = parse(&text).map_err(|why| Failure::unusable(path, why))?;
    Ok((path.to_owned(), report))
}

async fn recover(
    config: NodeConfig,
    lost: BTreeSet<NodeId>,
    others: Vec<(PathBuf, LeftReport)>,
    is_unsafe: bool,
) -> Result<RecoverOutcome, Failure> {
    let dir = config.data_dir.clone();
    let mut node = LeftNode::open(config).await?;
    let own = node.look().await?;
    let mut all = vec![own.clone()];
    for (path, report) in others {
        may_count(&own, &all, &lost, &report).map_err(|why| Failure::unusable(&path, why))?;
        // What this node has said before may be old.
        if report.node != own.node {
            all.push(report);
        }
    }
    if lost.contains(&own.node) {
        return Err(Failure::Argument(
            "this node is one of those that are named as lost",
        ));
    }
    let courses = courses(&all, &lost);
    let mut taken = Vec::new();
    if is_unsafe {
        let courses = courses
            .as_ref()
            .map_err(|Unheard(nodes)| missing_reports(nodes))?;
        let mine: Vec<(ShardId, GoingOn)> = courses
            .iter()
            .filter_map(|(id, course)| match course {
                Course::GoOn(going) if going.by.node() == own.node => Some((*id, going.clone())),
                _ => None,
            })
            .collect();
        write_down(&dir.join(LOST_FILE), &lost, &mine)?;
        for (id, going) in mine {
            let at = node.go_on(id, &going).await?;
            taken.push((id, going, at));
        }
        node.refuse(&lost).await?;
    }
    Ok(RecoverOutcome {
        own,
        courses,
        taken,
    })
}

/// Whether a report counts beside these.
fn may_count(
    own: &LeftReport,
    before: &[LeftReport],
    lost: &BTreeSet<NodeId>,
    report: &LeftReport,
) -> Result<(), String> {
    let node = report.node.0;
    if report.cluster != own.cluster {
        return Err(format!("it is of another cluster, {}", report.cluster));
    }
    if lost.contains(&report.node) {
        return Err(format!(
            "it is of node {node}, which is named as lost: a node whose data is there is not lost"
        ));
    }
    let others = before.iter().filter(|other| other.node != own.node);
    match others.into_iter().any(|other| other.node == report.node) {
        true => Err(format!(
            "node {node} has another report: give the last one alone"
        )),
        false => Ok(()),
    }
}

fn missing_reports(nodes: &BTreeSet<NodeId>) -> Failure {
    Failure::Refused(format!(
        "{} may have replicas that vote, and no report of {} is given: have each write one with `corelith recover \
         --json`, and give it with --report; or name with --lost what is gone for good",
        named(nodes.iter().map(|node| node.0)),
        match nodes.len() {
            1 => "it",
            _ => "them",
        }
    ))
}

fn named(nodes: impl Iterator<Item = u64>) -> String {
    let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
    match nodes.as_slice() {
        [one] => format!("node {one}"),
        _ => format!("nodes {}", nodes.join(", ")),
    }
}

/// Writes down what may be lost, durably.
fn write_down(
    path: &Path,
    lost: &BTreeSet<NodeId>,
    mine: &[(ShardId, GoingOn)],
) -> Result<(), Failure> {
    if mine.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for (shard, going) in mine {
        text += &output::json_line(&LostLine::new(*shard, going, lost))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
    });
    written.map_err(|error| Failure::file("write", path, error))
}

fn shard_name(shard: ShardId) -> String {
    match shard {
        ShardId::META => "meta".to_owned(),
        ShardId(number) => number.to_string(),
    }
}

fn last_entry(last: Option<LogId>) -> String {
    last.map_or("none".to_owned(), |last| {
        format!("index {} of term {}", last.index.0, last.term.0)
    })
}

fn ids<'a>(replicas: impl IntoIterator<Item = &'a ReplicaId>) -> String {
    let nodes = replicas.into_iter().map(|replica| replica.node().0);
    let nodes: BTreeSet<u64> = nodes.collect();
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    match nodes.is_empty() {
        true => "-".to_owned(),
        false => nodes.join(","),
    }
}

/// Whether those that are not lost are a majority, as this replica has the members.
fn is_majority_left(found: &LeftReplica, lost: &BTreeSet<NodeId>) -> bool {
    found.voters.iter().all(|config| {
        let left = config.iter().filter(|voter| !lost.contains(&voter.node()));
        left.count() > config.len() / 2
    })
}

fn table(own: &LeftReport, lost: &BTreeSet<NodeId>) -> String {
    let mut table = TextTable::new(&["SHARD", "TERM", "LAST", "LEFT", "LOST", "MAJORITY"]);
    let mut unreadable = String::new();
    for (shard, (_, found)) in &own.shards {
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                let name = shard_name(*shard);
                unreadable += &format!("shard {name} cannot be read, and counts as lost: {why}\n");
                continue;
            }
        };
        let voters = found.voters.iter().flatten();
        let (gone, left): (Vec<&ReplicaId>, Vec<&ReplicaId>) =
            voters.partition(|voter| lost.contains(&voter.node()));
        let majority = match is_majority_left(found, lost) {
            true => "left",
            false => "gone",
        };
        table.row([
            shard_name(*shard),
            found.last.map_or(0, |last| last.term.0).to_string(),
            found.last.map_or(0, |last| last.index.0).to_string(),
            ids(left),
            ids(gone),
            majority.to_owned(),
        ]);
    }
    table.text() + &unreadable
}

fn describe(shard: ShardId, going: &GoingOn) -> String {
    format!(
        "shard {}: node {} has the longest log, up to {}; voters from then on: {}; without: {}",
        shard_name(shard),
        going.by.node().0,
        last_entry(going.last),
        ids(&going.left),
        ids(&going.gone),
    )
}

/// What would be done.
fn planned(found: &RecoverOutcome) -> String {
    let courses = match &found.courses {
        Ok(courses) => courses,
        Err(Unheard(nodes)) => {
            return format!(
                "\nnothing was changed. The reports of {} are needed to go on\n",
                named(nodes.iter().map(|node| node.0))
            );
        }
    };
    let mut text = String::from("\nnothing was changed. With --unsafe:\n");
    for (shard, course) in courses {
        match course {
            Course::GoOn(going) => text += &format!("{}\n", describe(*shard, going)),
            Course::Nobody => {
                text += &format!(
                    "shard {}: no replica with a vote is left, so it stays down\n",
                    shard_name(*shard)
                );
            }
            Course::Elects(_) => {}
        }
    }
    let alive = courses.values();
    let alive = alive.filter(|course| matches!(course, Course::Elects(_)));
    text + &format!(
        "{} can elect a leader: nothing is done there\n",
        counted(alive.count() as u64, "shard", "shards")
    )
}

/// What was done.
fn done(found: &RecoverOutcome, dir: &Path) -> String {
    let mut text = String::from("\n");
    for (shard, going, at) in &found.taken {
        text += &format!(
            "{}; the log has their membership as index {}\n",
            describe(*shard, going),
            at.index.0
        );
    }
    match found.taken.len() {
        0 => text += "no shard goes on from this node: nothing was changed in its shards\n",
        _ => {
            text += &format!(
                "writes after these entries that only the lost nodes had are lost: {} keeps this list\n",
                dir.join(LOST_FILE).display()
            );
        }
    }
    text + "nodes that are lost are refused by this node from now on\n"
}

#[derive(Serialize)]
struct WentOnLine {
    kind: &'static str,
    shard: Option<u32>,
    index: u64,
    term: u64,
    after: Option<u64>,
}

/// The report; or what was done.
fn json(found: &RecoverOutcome, is_unsafe: bool) -> Result<String, Failure> {
    if !is_unsafe {
        return report_lines(&found.own);
    }
    let mut text = String::new();
    for (shard, going, at) in &found.taken {
        text += &output::json_line(&WentOnLine {
            kind: "went_on",
            shard: number_of(*shard),
            index: at.index.0,
            term: at.term.0,
            after: going.last.map(|last| last.index.0),
        })?;
    }
    Ok(text)
}
