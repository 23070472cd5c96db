//! The rules of the configuration, as pure functions: each returns the key and what is wrong.

use super::{
    ClientsConfig, ClusterConfig, ConfigError, Listen, LivenessConfig, NodeEntry, Place, RawNode,
    StorageConfig,
};
use crate::node::limits;
use corelith_shards::limits::{SEPARATED_VALUE_BYTES_MIN, VALUE_BYTES_MAX};
use corelith_wire::ReplicaId;
use std::path::Path;

/// With fewer one delayed packet would start an election.
const BEATS_PER_PROMISE_MIN: u64 = 3;

/// (key, what is wrong and what is allowed)
type Problem = (String, String);

fn problem<T>(key: impl Into<String>, what: impl Into<String>) -> Result<T, Problem> {
    Err((key.into(), what.into()))
}

/// Turns the parser's error into one sentence with the line and, where it can be told, the key.
pub(super) fn syntax_error(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or(text);
    let line_number = before.matches('\n').count() + 1;
    let line = text.lines().nth(line_number - 1).unwrap_or("").trim();
    let key = match line.split_once('=') {
        Some((key, _)) if !line.starts_with('#') => format!(", key `{}`", key.trim()),
        _ => String::new(),
    };
    ConfigError::Syntax {
        file: file.to_owned(),
        line: line_number,
        reason: in_plain_words(&error.message().trim().replace('\n', ", "), &key),
        key,
    }
}

/// Says of a number what it must be, where the parser names a type of Rust.
fn in_plain_words(reason: &str, key: &str) -> String {
    let of = match key.contains("bytes") {
        true => "a whole number of bytes",
        false => "a whole number",
    };
    let types = [
        ("u16", " up to 65535"),
        ("u32", " up to 4294967295"),
        ("u64", ""),
        ("usize", ""),
    ];
    let plain = types.iter().find_map(|(name, limit)| {
        let before = reason.strip_suffix(name)?.strip_suffix("expected ")?;
        Some(format!("{before}expected {of}{limit}"))
    });
    plain.unwrap_or_else(|| reason.to_owned())
}

/// Whether a zone or a region may have that name; the empty one is none.
pub(crate) fn is_place_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.len() <= limits::ZONE_LEN_MAX && name.chars().all(allowed)
}

pub(super) fn cluster(cluster: &ClusterConfig) -> Result<(), Problem> {
    let name = &cluster.name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > limits::CLUSTER_NAME_LEN_MAX || !name.chars().all(allowed) {
        return problem(
            "cluster.name",
            format!(
                "{name:?} is not allowed: 1 to {} letters, digits, `-`, `_` or `.`",
                limits::CLUSTER_NAME_LEN_MAX
            ),
        );
    }
    within(
        "cluster.shards",
        cluster.shards.into(),
        1,
        limits::SHARDS_MAX.into(),
    )?;
    if cluster.nodes.is_empty() || cluster.nodes.len() > limits::NODES_MAX {
        return problem(
            "cluster.nodes",
            format!(
                "{} nodes are listed; 1 to {} are allowed",
                cluster.nodes.len(),
                limits::NODES_MAX
            ),
        );
    }
    if let Some(replicas) = cluster.replicas {
        let nodes = cluster.nodes.len() as u64;
        within(
            "cluster.replicas",
            replicas.into(),
            1,
            nodes.min(limits::REPLICAS_MAX.into()),
        )?;
    }
    for (place, node) in cluster.nodes.iter().enumerate() {
        self::node(node, cluster.nodes.get(..place).unwrap_or_default())?;
    }
    Ok(())
}

/// Checks a node's entry by itself and against the entries before it.
fn node(node: &NodeEntry, earlier: &[NodeEntry]) -> Result<(), Problem> {
    let key = |field: &str| format!("cluster.nodes, id {}: {field}", node.id);
    if node.id == 0 {
        return problem("cluster.nodes: id", "0 is not allowed: ids count from 1");
    }
    if node.id >= ReplicaId::NODES_END {
        return problem(
            key("id"),
            format!("is not allowed: 1 to {}", ReplicaId::NODES_END - 1),
        );
    }
    if earlier.iter().any(|other| other.id == node.id) {
        return problem(
            key("id"),
            "listed twice; each node has an id of its own".to_owned(),
        );
    }
    host(&key("host"), &node.host)?;
    within(
        &key("cores"),
        node.cores.into(),
        1,
        limits::CORES_MAX.into(),
    )?;
    ports(&key("port"), node.port, node.cores)?;
    let overlaps = |other: &&NodeEntry| {
        other.host == node.host
            && u32::from(node.port) < u32::from(other.port) + u32::from(other.cores)
            && u32::from(other.port) < u32::from(node.port) + u32::from(node.cores)
    };
    if let Some(other) = earlier.iter().find(overlaps) {
        return problem(
            key("port"),
            format!(
                "{} to {} overlap the ports {} to {} of node {} on the same host: each core of \
                 each node needs a port of its own",
                node.port,
                last_port(node.port, node.cores),
                other.port,
                last_port(other.port, other.cores),
                other.id
            ),
        );
    }
    Ok(())
}

fn host(key: &str, host: &str) -> Result<(), Problem> {
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c == '/') {
        return problem(
            key,
            format!("{host:?} is not allowed: a host name or an IP address, without a port"),
        );
    }
    Ok(())
}

fn last_port(port: u16, cores: u16) -> u32 {
    u32::from(port) + u32::from(cores) - 1
}

fn ports(key: &str, port: u16, cores: u16) -> Result<(), Problem> {
    if port == 0 || last_port(port, cores) > u32::from(u16::MAX) {
        return problem(
            key,
            format!(
                "{port} is not allowed: 1 to {}, since each of the {cores} cores listens on the \
                 next port",
                u32::from(u16::MAX) + 1 - u32::from(cores)
            ),
        );
    }
    Ok(())
}

fn within(key: &str, value: u64, min: u64, max: u64) -> Result<(), Problem> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    problem(key, format!("{value} is not allowed: {min} to {max}"))
}

/// Checks the number of cores of this node.
pub(super) fn cores(cores: u16) -> Result<(), Problem> {
    within("node.cores", cores.into(), 1, limits::CORES_MAX.into())
}

/// Checks the id of a node that joins; 0: it is given one.
pub(super) fn id(id: u64) -> Result<(), Problem> {
    within("node.id", id, 0, ReplicaId::NODES_END - 1)
}

pub(super) fn some_id(id: Option<u64>) -> Result<u64, Problem> {
    match id {
        Some(id) => Ok(id),
        None => problem(
            "node.id",
            "is missing: the id of this node in cluster.nodes (a node with `node.join` is given one)",
        ),
    }
}

pub(super) fn some_listen(listen: Option<&str>) -> Result<&str, Problem> {
    match listen {
        Some(listen) => Ok(listen),
        None => problem(
            "node.listen",
            "is missing: a node that joins a cluster says where it listens, as in \"10.0.0.4:7411\"",
        ),
    }
}

/// The addresses of the nodes that are asked.
pub(super) fn join(join: &[String], has_cluster: bool) -> Result<Vec<(String, u16)>, Problem> {
    let key = "node.join";
    if join.is_empty() {
        return problem(
            "cluster",
            "is missing: give the first nodes in cluster.nodes, or node.join for a cluster that is there",
        );
    }
    if has_cluster {
        return problem(
            key,
            "is not allowed beside [cluster]: remove that table, the node learns all of it from the cluster",
        );
    }
    let addresses = join.iter().map(|text| match host_and_port(text) {
        Some((host, port)) if port > 0 => {
            self::host(key, &host)?;
            Ok((host, port))
        }
        _ => problem(
            key,
            format!("{text:?} is not allowed: \"HOST:PORT\", as in \"10.0.0.1:7411\""),
        ),
    });
    addresses.collect()
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

/// Where others find the node.
pub(super) fn place(node: &RawNode, entry: &NodeEntry, cores: u16) -> Result<Place, Problem> {
    let (mut host, mut port) = (entry.host.clone(), entry.port);
    if let Some(text) = &node.advertise {
        let key = "node.advertise";
        let Some(found) = host_and_port(text) else {
            return problem(
                key,
                format!("{text:?} is not allowed: \"HOST:PORT\", as in \"10.0.0.1:7411\""),
            );
        };
        (host, port) = found;
        self::host(key, &host)?;
        ports(key, port, cores)?;
    }
    if host.len() > limits::HOST_LEN_MAX {
        return problem("node.advertise", "the host name is too long");
    }
    let is_any = host.parse::<std::net::IpAddr>();
    if is_any.is_ok_and(|address| address.is_unspecified()) {
        return problem(
            "node.advertise",
            format!("is missing: others cannot reach this node at {host}"),
        );
    }
    for (key, text) in [("node.zone", &node.zone), ("node.region", &node.region)] {
        if !is_place_name(text) {
            return problem(
                key,
                format!(
                    "{text:?} is not allowed: up to {} letters, digits, `-`, `_` or `.`",
                    limits::ZONE_LEN_MAX
                ),
            );
        }
    }
    Ok(Place {
        host,
        port,
        zone: node.zone.clone(),
        region: node.region.clone(),
    })
}

pub(super) fn own_entry(id: u64, cluster: &ClusterConfig) -> Result<&NodeEntry, Problem> {
    if let Some(entry) = cluster.nodes.iter().find(|node| node.id == id) {
        return Ok(entry);
    }
    let ids: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| node.id.to_string())
        .collect();
    problem(
        "node.id",
        format!(
            "{id} is not in cluster.nodes, which lists {}",
            ids.join(", ")
        ),
    )
}

pub(super) fn listen(text: &str, cores: u16) -> Result<Listen, Problem> {
    let key = "node.listen";
    let Some((host, port)) = host_and_port(text) else {
        return problem(
            key,
            format!("{text:?} is not allowed: \"HOST:PORT\", as in \"10.0.0.1:7411\""),
        );
    };
    self::host(key, &host)?;
    ports(key, port, cores)?;
    Ok(Listen { host, port })
}

pub(super) fn pin(pin: &[usize], cores: u16) -> Result<(), Problem> {
    if !pin.is_empty() && pin.len() != usize::from(cores) {
        return problem(
            "node.pin",
            format!(
                "{} CPUs are given for {cores} cores: one CPU for each core, or none",
                pin.len()
            ),
        );
    }
    let twice = pin
        .iter()
        .enumerate()
        .find(|(place, cpu)| pin.get(..*place).unwrap_or_default().contains(cpu));
    match twice {
        Some((_, cpu)) => problem(
            "node.pin",
            format!("CPU {cpu} is given twice: each core needs one of its own"),
        ),
        None => Ok(()),
    }
}

/// Checks that the CPUs exist; `online` lists those that do, as the kernel writes it: `0-3,8`.
pub(super) fn cpus(pin: &[usize], online: &str) -> Result<(), Problem> {
    match pin
        .iter()
        .find(|cpu| lists_cpu(online, **cpu) == Some(false))
    {
        Some(cpu) => problem(
            "node.pin",
            format!(
                "CPU {cpu} does not exist: this machine has {}",
                online.trim()
            ),
        ),
        None => Ok(()),
    }
}

/// Whether a list of the kernel has the CPU; `None` if the list cannot be read.
pub(super) fn lists_cpu(list: &str, cpu: usize) -> Option<bool> {
    let mut found = false;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.parse::<usize>().ok()?..=last.parse().ok()?;
        found |= range.contains(&cpu);
    }
    Some(found)
}

pub(super) fn data_dir(dir: &Path) -> Result<(), Problem> {
    if dir.is_absolute() {
        return Ok(());
    }
    problem(
        "node.data_dir",
        format!(
            "{:?} is not allowed: an absolute path, so that the node finds its data from any \
             working directory",
            dir.display().to_string()
        ),
    )
}

pub(super) fn storage(storage: &StorageConfig) -> Result<(), Problem> {
    within(
        "storage.memtable_bytes",
        storage.memtable_bytes,
        limits::MEMTABLE_BYTES_MIN,
        limits::MEMTABLE_BYTES_MAX,
    )?;
    within(
        "storage.segment_bytes",
        storage.segment_bytes,
        limits::SEGMENT_BYTES_MIN,
        limits::SEGMENT_BYTES_MAX,
    )?;
    mebibytes("storage.segment_bytes", storage.segment_bytes)?;
    within(
        "storage.log_cache_bytes",
        storage.log_cache_bytes,
        limits::LOG_CACHE_BYTES_MIN,
        limits::LOG_CACHE_BYTES_MAX,
    )?;
    within(
        "storage.block_cache_bytes",
        storage.block_cache_bytes,
        limits::BLOCK_CACHE_BYTES_MIN,
        limits::BLOCK_CACHE_BYTES_MAX,
    )?;
    within(
        "storage.catch_up_bytes",
        storage.catch_up_bytes,
        limits::CATCH_UP_BYTES_MIN,
        limits::CATCH_UP_BYTES_MAX,
    )?;
    values(storage)?;
    within(
        "storage.reserve_bytes",
        storage.reserve(),
        0,
        limits::RESERVE_BYTES_MAX,
    )?;
    zero_or_within(
        "storage.scrub_bytes_per_second",
        storage.scrub_bytes_per_second,
        limits::SCRUB_BYTES_PER_SECOND_MIN,
        limits::SCRUB_BYTES_PER_SECOND_MAX,
    )?;
    within(
        "storage.scrub_cycle_seconds",
        storage.scrub_cycle_seconds,
        1,
        limits::SCRUB_CYCLE_SECONDS_MAX,
    )
}

fn values(storage: &StorageConfig) -> Result<(), Problem> {
    zero_or_within(
        "storage.value_threshold_bytes",
        storage.value_threshold_bytes,
        SEPARATED_VALUE_BYTES_MIN as u64,
        VALUE_BYTES_MAX as u64,
    )?;
    within(
        "storage.value_segment_bytes",
        storage.value_segment_bytes,
        limits::VALUE_SEGMENT_BYTES_MIN,
        limits::VALUE_SEGMENT_BYTES_MAX,
    )?;
    mebibytes("storage.value_segment_bytes", storage.value_segment_bytes)
}

fn mebibytes(key: &str, bytes: u64) -> Result<(), Problem> {
    if bytes.is_multiple_of(1 << 20) {
        return Ok(());
    }
    problem(
        key,
        format!("{bytes} is not allowed: a multiple of 1048576"),
    )
}

fn zero_or_within(key: &str, value: u64, min: u64, max: u64) -> Result<(), Problem> {
    if value == 0 || (min..=max).contains(&value) {
        return Ok(());
    }
    problem(
        key,
        format!("{value} is not allowed: {min} to {max}, or 0 for none"),
    )
}

/// Says what has taken the place of the timing that older versions had.
pub(super) fn raft(text: &str) -> Result<(), Problem> {
    // Text that is no TOML is refused later, with its place.
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let Some(toml::Value::Table(raft)) = table.get("raft") else {
        return Ok(());
    };
    let (key, instead) = if raft.contains_key("election_ms") {
        ("raft.election_ms", "liveness.promise_ms, which is 300")
    } else if raft.contains_key("heartbeat_ms") {
        ("raft.heartbeat_ms", "liveness.beat_ms, which is 50")
    } else {
        ("raft", "liveness.beat_ms and liveness.promise_ms")
    };
    problem(
        key,
        format!(
            "there is no such key any more: remove the table [raft]; in its place there is {instead}{}",
            if key == "raft" {
                ""
            } else {
                " if it is not given"
            }
        ),
    )
}

/// Checks the beats.
pub(super) fn liveness(liveness: &LivenessConfig) -> Result<(), Problem> {
    let LivenessConfig {
        beat_ms,
        promise_ms,
    } = *liveness;
    within(
        "liveness.beat_ms",
        beat_ms,
        limits::BEAT_MS_MIN,
        limits::BEAT_MS_MAX,
    )?;
    let shortest = limits::PROMISE_MS_MIN.max(beat_ms * BEATS_PER_PROMISE_MIN);
    if (shortest..=limits::PROMISE_MS_MAX).contains(&promise_ms) {
        return Ok(());
    }
    problem(
        "liveness.promise_ms",
        format!(
            "{promise_ms} is not allowed: {shortest} to {}, at least three times liveness.beat_ms, which is \
             {beat_ms}",
            limits::PROMISE_MS_MAX
        ),
    )
}

pub(super) fn clients(clients: &ClientsConfig) -> Result<(), Problem> {
    within(
        "clients.memory_bytes",
        clients.memory_bytes,
        limits::CLIENT_MEMORY_BYTES_MIN,
        limits::CLIENT_MEMORY_BYTES_MAX,
    )?;
    if clients.idle_seconds == 0 {
        return Ok(());
    }
    within(
        "clients.idle_seconds",
        clients.idle_seconds,
        limits::IDLE_MIN.as_secs(),
        limits::IDLE_SECONDS_MAX,
    )
}
