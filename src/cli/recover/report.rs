//! Reports of nodes that are left, and what may be lost, as lines of JSON. The first line of a report counts the others: one
//! that was cut short is refused.

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::node::data_dir::left::LeftReport;
use corelith_consensus::recover::{GoingOn, LeftReplica};
use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, ShardId, Term};
use corelith_wire::FullClusterId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The form of reports.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum ReportLine {
    Left {
        format: u32,
        cluster: String,
        node: u64,
        replicas: usize,
    },
    Replica {
        /// None: the shard of the map.
        shard: Option<u32>,
        replica: u64,
        last: Option<LastEntry>,
        vote: u64,
        voters: Vec<BTreeSet<u64>>,
        named: bool,
    },
    Unreadable {
        shard: Option<u32>,
        replica: u64,
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct LastEntry {
    term: u64,
    leader: u64,
    index: u64,
}

impl LastEntry {
    fn of(id: LogId) -> Self {
        Self {
            term: id.term.0,
            leader: id.node.0,
            index: id.index.0,
        }
    }

    fn id(&self) -> LogId {
        LogId {
            term: Term(self.term),
            node: ReplicaId(self.leader),
            index: LogIndex(self.index),
        }
    }
}

/// What may be lost of a shard.
#[derive(Serialize)]
pub(super) struct LostLine {
    kind: &'static str,
    /// None: the shard of the map.
    shard: Option<u32>,
    lost_nodes: Vec<u64>,
    /// Entries after it that only lost nodes had are lost.
    last: Option<LastEntry>,
    by: u64,
    left: Vec<u64>,
    gone: Vec<u64>,
}

impl LostLine {
    pub(super) fn new(shard: ShardId, going: &GoingOn, lost: &BTreeSet<NodeId>) -> Self {
        Self {
            kind: "may_be_lost",
            shard: number_of(shard),
            lost_nodes: lost.iter().map(|node| node.0).collect(),
            last: going.last.map(LastEntry::of),
            by: going.by.0,
            left: going.left.iter().map(|replica| replica.0).collect(),
            gone: going.gone.iter().map(|replica| replica.0).collect(),
        }
    }
}

/// A shard as lines have it.
pub(super) fn number_of(shard: ShardId) -> Option<u32> {
    (shard != ShardId::META).then_some(shard.0)
}

fn shard_of(number: Option<u32>) -> ShardId {
    number.map_or(ShardId::META, ShardId)
}

/// A report as lines.
pub(super) fn report_lines(report: &LeftReport) -> Result<String, Failure> {
    let mut text = output::json_line(&ReportLine::Left {
        format: FORMAT,
        cluster: report.cluster.to_string(),
        node: report.node.0,
        replicas: report.shards.len(),
    })?;
    for (shard, (replica, found)) in &report.shards {
        let shard = number_of(*shard);
        let line = match found {
            Ok(found) => ReportLine::Replica {
                shard,
                replica: replica.0,
                last: found.last.map(LastEntry::of),
                vote: found.vote.0,
                voters: found
                    .voters
                    .iter()
                    .map(|config| config.iter().map(|voter| voter.0).collect())
                    .collect(),
                named: found.is_named,
            },
            Err(why) => ReportLine::Unreadable {
                shard,
                replica: replica.0,
                why: why.clone(),
            },
        };
        text += &output::json_line(&line)?;
    }
    Ok(text)
}

/// Reads a report.
///
/// # Errors
/// Says why it is none.
pub(super) fn parse(text: &str) -> Result<LeftReport, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let none = |why: String| format!("it is no report of `corelith recover --json`: {why}");
    let parsed = |line: &str| {
        serde_json::from_str::<ReportLine>(line).map_err(|error| none(error.to_string()))
    };
    let first = lines.next().ok_or_else(|| none("it is empty".to_owned()))?;
    let ReportLine::Left {
        format,
        cluster,
        node,
        replicas,
    } = parsed(first)?
    else {
        return Err(none("its first line is missing".to_owned()));
    };
    if format != FORMAT {
        return Err(format!(
            "it has format {format}, and this program reads {FORMAT}: write it anew with this program"
        ));
    }
    let cluster = u128::from_str_radix(&cluster, 16);
    let cluster = cluster.map_err(|_| none("the cluster's id is none".to_owned()))?;
    let mut shards = BTreeMap::new();
    for line in lines {
        let (shard, replica, found) = match parsed(line)? {
            ReportLine::Replica {
                shard,
                replica,
                last,
                vote,
                voters,
                named,
            } => {
                let voters = voters.into_iter();
                let voters = voters.map(|config| config.into_iter().map(ReplicaId).collect());
                let left = LeftReplica {
                    replica: ReplicaId(replica),
                    last: last.map(|last| last.id()),
                    vote: Term(vote),
                    voters: voters.collect(),
                    is_named: named,
                };
                (shard, replica, Ok(left))
            }
            ReportLine::Unreadable {
                shard,
                replica,
                why,
            } => (shard, replica, Err(why)),
            ReportLine::Left { .. } => {
                return Err("it holds two reports: give each in a file of its own".to_owned());
            }
        };
        if ReplicaId(replica).node() != NodeId(node) {
            return Err(none("a replica is on another node".to_owned()));
        }
        shards.insert(shard_of(shard), (ReplicaId(replica), found));
    }
    if shards.len() != replicas {
        return Err(format!(
            "it has {} of {replicas} replicas: it was cut short; write it anew",
            shards.len()
        ));
    }
    Ok(LeftReport {
        cluster: FullClusterId(cluster),
        node: NodeId(node),
        shards,
    })
}

#[cfg(test)]
mod tests {
    use super::{LeftReport, parse, report_lines};
    use corelith_consensus::recover::LeftReplica;
    use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, ShardId, Term};
    use corelith_wire::FullClusterId;

    fn report() -> LeftReport {
        let replica = ReplicaId::new(NodeId(4), 3);
        let voters = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        let found = LeftReplica {
            replica,
            last: Some(LogId {
                term: Term(3),
                node: ReplicaId(1),
                index: LogIndex(9),
            }),
            vote: Term(u64::MAX),
            voters: vec![voters(&[1, 2, replica.0]), voters(&[1, replica.0])],
            is_named: true,
        };
        let empty = LeftReplica {
            last: None,
            ..found.clone()
        };
        LeftReport {
            cluster: FullClusterId(u128::MAX / 3),
            node: NodeId(4),
            shards: [
                (ShardId::META, (replica, Ok(found))),
                (ShardId(0), (replica, Ok(empty))),
                (ShardId(7), (replica, Err("it is \"damaged\"".to_owned()))),
            ]
            .into(),
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let text = report_lines(&report()).unwrap();
        assert_eq!(parse(&text), Ok(report()));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let text = report_lines(&report()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let table = [
            (String::new(), "it is empty"),
            ("hello".to_owned(), "expected value"),
            (lines[1..].join("\n"), "its first line is missing"),
            (lines[..3].join("\n"), "it has 2 of 3 replicas"),
            (text.repeat(2), "two reports"),
            (text.replace("\"format\":1", "\"format\":2"), "format 2"),
            (text.replace("\"node\":4", "\"node\":5"), "another node"),
            (
                text.replace("\"cluster\":\"5", "\"cluster\":\"x"),
                "id is none",
            ),
        ];
        for (text, why) in table {
            let found = parse(&text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
