//! A development cluster: several nodes in this process, on the loopback interface. Only the machines
//! are missing: each node has its own cores, ports, log and data directory.

mod shape;

use super::encoding::counted;
use crate::node::config::{ClientsConfig, IoConfig, LivenessConfig, StorageConfig};
use crate::node::config::{ClusterConfig, ConfigError, Listen, NodeConfig, NodeEntry, Place};
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::run::{executors, refuse_taken_ports, say, supervise};
use corelith_consensus::Reads;
use corelith_shards::NodeId;
pub use shape::{DevShape, WantedShape};
use std::path::Path;

const HOST: &str = "127.0.0.1";

/// Runs the cluster whose data is in `data` until a signal (SIGINT, SIGTERM) stops it. Options that
/// `wanted` leaves open are as at the last start.
///
/// # Errors
/// One sentence that says why the cluster cannot run.
pub fn run(data: &Path, wanted: WantedShape) -> Result<(), NodeError> {
    let data = std::path::absolute(data).map_err(|source| NodeError::System {
        what: "find the current directory",
        source,
    })?;
    let stored = shape::load(&data)?;
    let shape = shape::settle(&data, wanted, stored)?;
    let nodes = configure(&data, shape)?;
    let instead = "choose another first port with --port";
    // Before the probe, which creates the directory.
    refuse_taken_ports(&nodes, instead)?;
    let executors = nodes.iter().map(executors).sum();
    corelith_io::probe::probe(&data, executors, limits::LOCKED_MEMORY_PER_CORE_BYTES)?;
    if stored.is_none() {
        shape::store(&data, shape)?;
    }
    let text = greeting(&data, shape, &nodes, &program());
    supervise(nodes, instead, move |_| {
        // A new port is stored only once it serves: a start beside a running cluster changes nothing.
        if stored != Some(shape)
            && let Err(error) = shape::store(&data, shape)
        {
            tracing::warn!(%error, "cannot store the port: the next start will use another one");
        }
        say(&text);
    })
}

fn configure(data: &Path, shape: DevShape) -> Result<Vec<NodeConfig>, ConfigError> {
    let port_of = |node: u16| u32::from(shape.port) + u32::from(node) * u32::from(shape.cores);
    if port_of(shape.nodes) > u32::from(u16::MAX) + 1 {
        return Err(ConfigError::Value {
            file: "the command line".to_owned(),
            key: "--port".to_owned(),
            problem: format!(
                "{} is not allowed: {} with {} each need one port per core from there on",
                shape.port,
                counted(shape.nodes, "node", "nodes"),
                counted(shape.cores, "core", "cores")
            ),
        });
    }
    let entries: Vec<NodeEntry> = (0..shape.nodes)
        .map(|node| NodeEntry {
            id: u64::from(node) + 1,
            host: HOST.to_owned(),
            // Checked above for all of them.
            port: u16::try_from(port_of(node)).unwrap_or(u16::MAX),
            cores: shape.cores,
        })
        .collect();
    let cluster = ClusterConfig {
        name: "dev".to_owned(),
        shards: shape.shards,
        replicas: None,
        reads: Reads::Lease,
        existing: false,
        nodes: entries.clone(),
    };
    let configs = entries.into_iter().map(|entry| NodeConfig {
        id: NodeId(entry.id),
        data_dir: data.join(format!("node-{}", entry.id)),
        listen: Listen {
            host: entry.host.clone(),
            port: entry.port,
        },
        cores: entry.cores,
        place: Place {
            host: entry.host.clone(),
            port: entry.port,
            ..Place::default()
        },
        join: Vec::new(),
        pin: Vec::new(),
        cluster: cluster.clone(),
        // Small sizes: three replicas share one machine and one disk.
        storage: StorageConfig {
            memtable_bytes: 16 << 20,
            segment_bytes: 16 << 20,
            log_cache_bytes: 4 << 20,
            block_cache_bytes: 32 << 20,
            catch_up_bytes: 32 << 20,
            value_segment_bytes: 32 << 20,
            reserve_bytes: Some(16 << 20),
            ..StorageConfig::default()
        },
        clients: ClientsConfig::default(),
        io: IoConfig::default(),
        // All nodes share the machine's cores with whatever else runs there.
        liveness: LivenessConfig {
            beat_ms: 75,
            promise_ms: 600,
        },
    });
    Ok(configs.collect())
}

/// What the user types to run this program: the path that started it, or its name.
fn program() -> String {
    match std::env::args().next() {
        Some(path) if path.contains('/') => path,
        _ => "corelith".to_owned(),
    }
}

fn greeting(data: &Path, shape: DevShape, nodes: &[NodeConfig], program: &str) -> String {
    let mut text = format!(
        "ready: {}, {}, data in {}\n",
        counted(shape.nodes, "node", "nodes"),
        counted(shape.shards, "shard", "shards"),
        data.display()
    );
    for node in nodes {
        let first = node.listen.port;
        let last = first + (node.cores - 1);
        let ports = if first == last {
            format!("{HOST}:{first}")
        } else {
            format!("{HOST}:{first} to {last}, one port for each core")
        };
        text += &format!("  node {}  {ports}\n", node.id.0);
    }
    let connect = if shape.port == DevShape::default().port {
        String::new()
    } else {
        format!(" --connect {HOST}:{}", shape.port)
    };
    text += "Try from another terminal:\n";
    for command in ["put greeting hello", "get greeting", "status"] {
        text += &format!("  {program} {command}{connect}\n");
    }
    text += "Ctrl-C stops it; the data stays.";
    text
}

#[cfg(test)]
mod tests {
    use super::{DevShape, configure, greeting};
    use std::path::Path;

    fn shape(nodes: u16, cores: u16, port: u16) -> DevShape {
        DevShape {
            nodes,
            shards: 6,
            cores,
            port,
        }
    }

    #[test]
    fn nodes_have_ports_and_directories_of_their_own() {
        let nodes = configure(Path::new("/d"), shape(3, 2, 7411)).unwrap();
        let ports: Vec<u16> = nodes.iter().map(|node| node.listen.port).collect();
        assert_eq!(ports, [7411, 7413, 7415]);
        assert_eq!(nodes[2].data_dir.to_str(), Some("/d/node-3"));
        assert_eq!(nodes[0].cluster, nodes[1].cluster);
    }

    #[test]
    fn ports_end_at_the_last_one() {
        assert!(configure(Path::new("/d"), shape(3, 1, 65533)).is_ok());
        let error = configure(Path::new("/d"), shape(3, 1, 65534)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the command line: --port: 65534 is not allowed: 3 nodes with 1 core each need one port \
             per core from there on"
        );
    }

    #[test]
    fn the_greeting_shows_commands_that_reach_it() {
        let text = |port| {
            let (data, shape) = (Path::new("/d"), shape(3, 1, port));
            greeting(data, shape, &configure(data, shape).unwrap(), "corelith")
        };
        assert!(text(7411).contains("\n  corelith put greeting hello\n"));
        assert!(text(9000).contains("\n  corelith get greeting --connect 127.0.0.1:9000\n"));
        assert!(text(9000).contains("node 3  127.0.0.1:9002"));
    }
}
