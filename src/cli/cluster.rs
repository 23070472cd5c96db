//! `cluster`: shows what the cluster consists of, and gives it orders.

mod goal;
mod view;
mod wait;

use super::args::{AddArguments, ClusterCommand, OrderOptions};
use super::failure::Failure;
use super::output;
use crate::node::config::is_place_name;
use corelith_client::{Client, ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView, Error};
pub(super) use goal::Goal;
use serde::Serialize;
use std::collections::BTreeSet;

/// Runs a command about the cluster.
pub(super) async fn run(client: &Client, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status(of) => {
            let found = state(client).await?;
            let text = match of.command.json {
                true => view::json_lines(&found)?,
                false => view::tables(&found),
            };
            output::text(&text)
        }
        ClusterCommand::Add(of) => add(client, &of.command).await,
        ClusterCommand::Drain(of) => {
            let (node, options) = (of.command.node, of.command.options);
            match of.command.undo {
                true => give(client, ClusterOrder::Undrain { node }, options, Goal::Still).await,
                false => {
                    let order = ClusterOrder::Drain { node };
                    give(client, order, options, Goal::Emptied(node)).await
                }
            }
        }
        ClusterCommand::Remove(of) => {
            let (node, options) = (of.command.node, of.command.options);
            give(client, ClusterOrder::Remove { node }, options, Goal::None).await
        }
        ClusterCommand::Replace(of) => {
            let (old, new, options) = (of.command.old, of.command.new, of.command.options);
            let order = ClusterOrder::Replace { old, new };
            give(client, order, options, Goal::Emptied(old)).await?;
            match options.wait {
                true => {
                    give(
                        client,
                        ClusterOrder::Remove { node: old },
                        options,
                        Goal::None,
                    )
                    .await
                }
                false => say("next", &[rest_of_replace(old)], options.json),
            }
        }
        ClusterCommand::Set(of) => {
            let set = of.command;
            let goal = match (set.key.as_str(), set.value.parse()) {
                ("replicas", Ok(replicas)) => Goal::Replicas(replicas),
                _ => Goal::Still,
            };
            let (key, value) = (set.key, set.value);
            give(client, ClusterOrder::Set { key, value }, set.options, goal).await
        }
        ClusterCommand::Rejoin(of) => {
            let (node, options) = (of.command.node, of.command.options);
            let found = state(client).await?;
            let waiting = found.nodes.iter().find(|of| of.node == node);
            let store = waiting.map_or(0, |of| of.waiting);
            give(
                client,
                ClusterOrder::Rejoin { node, store },
                options,
                Goal::Still,
            )
            .await
        }
        ClusterCommand::Recover(of) => {
            let recover = of.command;
            let options = OrderOptions {
                wait: false,
                dry_run: recover.dry_run,
                json: recover.json,
            };
            let lost = recover.lost;
            give(client, ClusterOrder::Recover { lost }, options, Goal::None).await
        }
    }
}

/// What is left to do of a replacement that nobody waits for.
fn rest_of_replace(old: u64) -> String {
    format!(
        "node {old} is not removed: once it is empty (corelith cluster drain {old} --wait), \
         `corelith cluster remove {old}` does that; with --wait, replace does both"
    )
}

/// Gives an order, says what becomes of it, and waits for its end if that is wanted.
pub(super) async fn give(
    client: &Client,
    order: ClusterOrder,
    options: OrderOptions,
    goal: Goal,
) -> Result<(), Failure> {
    let ask = ClusterAsk {
        order,
        dry_run: options.dry_run,
    };
    let first = match options.wait {
        true => Some(state(client).await?),
        false => None,
    };
    let (kind, lines) = match asked(client, &ask).await? {
        ClusterAnswer::Planned { lines } => ("planned", lines),
        ClusterAnswer::Done { lines } => ("ordered", lines),
        ClusterAnswer::Refused { why } => return Err(Failure::Refused(why)),
        ClusterAnswer::Status { .. } => return Err(no_such_answer()),
    };
    say(kind, &lines, options.json)?;
    match first {
        Some(first) => wait::until(client, &goal, &first, options.json).await,
        None => Ok(()),
    }
}

fn no_such_answer() -> Failure {
    Failure::Cluster(Error::Protocol {
        what: "an answer to another question",
    })
}

async fn asked(client: &Client, ask: &ClusterAsk) -> Result<ClusterAnswer, Failure> {
    match client.cluster(ask).await {
        Err(Error::Indeterminate { cause }) => Err(Failure::OrderLost(cause)),
        answer => Ok(answer?),
    }
}

/// What the cluster is.
async fn state(client: &Client) -> Result<ClusterView, Failure> {
    let ask = ClusterAsk {
        order: ClusterOrder::Status,
        dry_run: false,
    };
    match asked(client, &ask).await? {
        ClusterAnswer::Status { view } => Ok(view),
        ClusterAnswer::Refused { why } => Err(Failure::Refused(why)),
        _ => Err(no_such_answer()),
    }
}

#[derive(Serialize)]
struct SaidLine<'a> {
    kind: &'static str,
    text: &'a str,
}

fn say(kind: &'static str, lines: &[String], as_json: bool) -> Result<(), Failure> {
    for text in lines {
        match as_json {
            true => output::text(&output::json_line(&SaidLine { kind, text })?)?,
            false => output::text(&format!("{text}\n"))?,
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct JoinLine<'a> {
    kind: &'static str,
    join: &'a [String],
    zone: &'a str,
    region: &'a str,
}

/// Says how to start a node that joins.
async fn add(client: &Client, add: &AddArguments) -> Result<(), Failure> {
    for name in [&add.zone, &add.region] {
        if !is_place_name(name) {
            return Err(Failure::Argument(
                "a zone or region has up to 64 letters, digits, `-`, `_` and `.`",
            ));
        }
    }
    let map = client.cluster_map();
    let nodes = map.nodes.iter().take(3);
    let join: Vec<String> = nodes
        .map(|node| match node.host.contains(':') {
            true => format!("[{}]:{}", node.host, node.base_port),
            false => format!("{}:{}", node.host, node.base_port),
        })
        .collect();
    let known: BTreeSet<u64> = map.nodes.iter().map(|node| node.id).collect();
    let text = match add.options.json {
        true => output::json_line(&JoinLine {
            kind: "join",
            join: &join,
            zone: &add.zone,
            region: &add.region,
        })?,
        false => how_to_join(&join, add),
    };
    output::text(&text)?;
    if !add.options.wait {
        return Ok(());
    }
    let first = state(client).await?;
    wait::until(client, &Goal::Joined(known), &first, add.options.json).await
}

fn how_to_join(join: &[String], add: &AddArguments) -> String {
    let quoted: Vec<String> = join.iter().map(|seed| format!("\"{seed}\"")).collect();
    let mut lines = vec![
        "On the new machine, write a configuration such as this one:".to_owned(),
        String::new(),
        "  [node]".to_owned(),
        "  data_dir = \"/var/lib/corelith\"".to_owned(),
        "  listen = \"ADDRESS:7411\"".to_owned(),
        format!("  join = [{}]", quoted.join(", ")),
    ];
    let names = [("zone", &add.zone), ("region", &add.region)];
    for (key, value) in names.iter().filter(|(_, value)| !value.is_empty()) {
        lines.push(format!("  {key} = \"{value}\""));
    }
    let rest = [
        "",
        "and start the node with it:",
        "",
        "  corelith node --config /etc/corelith/corelith.toml",
        "",
        "The cluster gives the node its id, and then replicas and leads.",
    ];
    lines.extend(rest.map(str::to_owned));
    lines.join("\n") + "\n"
}
