use super::{ConfigError, LivenessConfig, NodeConfig};
use corelith_consensus::Reads;
use corelith_shards::{Compression, NodeId, Policy};

const GOOD: &str = r#"
[node]
id = 2
data_dir = "/var/lib/corelith"
listen = "0.0.0.0:7411"
pin = [0, 1]

[cluster]
name = "test"
shards = 8
nodes = [
    { id = 1, host = "10.0.0.1", port = 7411, cores = 2 },
    { id = 2, host = "10.0.0.2", port = 7411, cores = 2 },
    { id = 3, host = "10.0.0.3", port = 7411 },
]

[storage]
memtable_bytes = 33554432

[liveness]
beat_ms = 100
promise_ms = 500
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse("c.toml", text)
}

#[test]
fn a_good_file_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.id, NodeId(2));
    assert_eq!(config.cores, 2);
    assert_eq!(config.listen.host, "0.0.0.0");
    assert_eq!(config.pin, [0, 1]);
    assert_eq!(config.cluster.replica_count(), 3);
    assert_eq!(config.cluster.nodes[2].cores, 1);
    assert_eq!(config.storage.segment_bytes, 64 << 20);
    assert_eq!(config.liveness.promise().as_millis(), 500);
    assert_eq!(config.cluster.reads, Reads::Lease);
}

#[test]
fn storage_is_configured_by_name_and_the_reserve_follows_the_memtable() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.storage.reserve(), 3 * (32 << 20) + (64 << 20));
    let keys = "33554432\ncompaction = \"tiered\"\ncompression = \"lz4\"\nreserve_bytes = 0\n\
                value_threshold_bytes = 0\nscrub_bytes_per_second = 0\n\
                scrub_cycle_seconds = 60";
    let storage = parse(&GOOD.replace("33554432", keys)).unwrap().storage;
    assert_eq!(storage.compaction, Policy::Tiered);
    assert_eq!(storage.compression, Compression::Lz4);
    assert_eq!(storage.reserve(), 0);
    assert_eq!(storage.value_threshold_bytes, 0);
    assert_eq!(storage.scrub_bytes_per_second, 0);
    assert_eq!(storage.scrub_cycle_seconds, 60);
}

#[test]
fn listen_defaults_to_the_entry() {
    let config = parse(&GOOD.replace("listen = \"0.0.0.0:7411\"\n", "")).unwrap();
    assert_eq!(
        (config.listen.host.as_str(), config.listen.port),
        ("10.0.0.2", 7411)
    );
}

#[test]
fn the_hash_follows_the_name() {
    let one = parse(GOOD).unwrap().cluster.name_hash();
    let other = parse(&GOOD.replace("\"test\"", "\"prod\""))
        .unwrap()
        .cluster
        .name_hash();
    assert_ne!(one, other);
    assert_ne!(one, 0);
}

#[test]
fn every_problem_names_the_key_and_what_is_allowed() {
    // (replace, by, the error)
    let table: &[(&str, &str, &str)] = &[
        (
            "id = 2\n",
            "id = 9\n",
            "c.toml: node.id: 9 is not in cluster.nodes, which lists 1, 2, 3",
        ),
        (
            "/var/lib/corelith",
            "data",
            "c.toml: node.data_dir: \"data\" is not allowed: an absolute path, so that the node finds its data from any working directory",
        ),
        (
            "0.0.0.0:7411",
            "7411",
            "c.toml: node.listen: \"7411\" is not allowed: \"HOST:PORT\", as in \"10.0.0.1:7411\"",
        ),
        (
            "0.0.0.0:7411",
            "0.0.0.0:65535",
            "c.toml: node.listen: 65535 is not allowed: 1 to 65534, since each of the 2 cores listens on the next port",
        ),
        (
            "pin = [0, 1]",
            "pin = [0]",
            "c.toml: node.pin: 1 CPUs are given for 2 cores: one CPU for each core, or none",
        ),
        (
            "pin = [0, 1]",
            "pin = [1, 1]",
            "c.toml: node.pin: CPU 1 is given twice: each core needs one of its own",
        ),
        (
            "\"test\"",
            "\"a b\"",
            "c.toml: cluster.name: \"a b\" is not allowed: 1 to 64 letters, digits, `-`, `_` or `.`",
        ),
        (
            "shards = 8",
            "shards = 0",
            "c.toml: cluster.shards: 0 is not allowed: 1 to 4096",
        ),
        (
            "shards = 8",
            "shards = 8\nreplicas = 4",
            "c.toml: cluster.replicas: 4 is not allowed: 1 to 3",
        ),
        (
            "id = 3,",
            "id = 1,",
            "c.toml: cluster.nodes, id 1: id: listed twice; each node has an id of its own",
        ),
        (
            "id = 3,",
            "id = 0,",
            "c.toml: cluster.nodes: id: 0 is not allowed: ids count from 1",
        ),
        (
            "10.0.0.3\", port = 7411",
            "10.0.0.1\", port = 7412",
            "c.toml: cluster.nodes, id 3: port: 7412 to 7412 overlap the ports 7411 to 7412 of node 1 on the same host: each core of each node needs a port of its own",
        ),
        (
            "\"10.0.0.3\"",
            "\"10.0.0.3/24\"",
            "c.toml: cluster.nodes, id 3: host: \"10.0.0.3/24\" is not allowed: a host name or an IP address, without a port",
        ),
        (
            "33554432",
            "1",
            "c.toml: storage.memtable_bytes: 1 is not allowed: 1048576 to 4294967296",
        ),
        (
            "33554432",
            "33554432\nsegment_bytes = 20000000",
            "c.toml: storage.segment_bytes: 20000000 is not allowed: a multiple of 1048576",
        ),
        (
            "33554432",
            "33554432\nvalue_segment_bytes = 17000000",
            "c.toml: storage.value_segment_bytes: 17000000 is not allowed: a multiple of 1048576",
        ),
        (
            "33554432",
            "33554432\nvalue_segment_bytes = 1048576",
            "c.toml: storage.value_segment_bytes: 1048576 is not allowed: 16777216 to 4294967296",
        ),
        (
            "33554432",
            "33554432\nvalue_threshold_bytes = 100",
            "c.toml: storage.value_threshold_bytes: 100 is not allowed: 256 to 8388608, or 0 for none",
        ),
        (
            "33554432",
            "33554432\nreserve_bytes = 99999999999999",
            "c.toml: storage.reserve_bytes: 99999999999999 is not allowed: 0 to 68719476736",
        ),
        (
            "33554432",
            "33554432\nscrub_bytes_per_second = 1",
            "c.toml: storage.scrub_bytes_per_second: 1 is not allowed: 65536 to 1073741824, or 0 for none",
        ),
        (
            "promise_ms = 500",
            "promise_ms = 299",
            "c.toml: liveness.promise_ms: 299 is not allowed: 300 to 10000, at least three times liveness.beat_ms, which is 100",
        ),
        (
            "promise_ms = 500",
            "promise_ms = 10001",
            "c.toml: liveness.promise_ms: 10001 is not allowed: 300 to 10000, at least three times liveness.beat_ms, which is 100",
        ),
        (
            "beat_ms = 100\npromise_ms = 500",
            "beat_ms = 10\npromise_ms = 99",
            "c.toml: liveness.promise_ms: 99 is not allowed: 300 to 10000, at least three times liveness.beat_ms, which is 10",
        ),
        (
            "beat_ms = 100\npromise_ms = 500",
            "beat_ms = 101",
            "c.toml: liveness.beat_ms: 101 is not allowed: 10 to 100",
        ),
        (
            "beat_ms = 100",
            "beat_ms = 9",
            "c.toml: liveness.beat_ms: 9 is not allowed: 10 to 100",
        ),
        (
            "beat_ms = 100",
            "beat_ms = 3334",
            "c.toml: liveness.beat_ms: 3334 is not allowed: 10 to 100",
        ),
        (
            "[liveness]\nbeat_ms = 100\npromise_ms = 500",
            "[raft]\nheartbeat_ms = 150\nelection_ms = 750",
            "c.toml: raft.election_ms: there is no such key any more: remove the table [raft]; in its place there is liveness.promise_ms, which is 300 if it is not given",
        ),
        (
            "[liveness]",
            "[raft]\nheartbeat_ms = 150\n[liveness]",
            "c.toml: raft.heartbeat_ms: there is no such key any more: remove the table [raft]; in its place there is liveness.beat_ms, which is 50 if it is not given",
        ),
        (
            "[liveness]",
            "[raft]\n[liveness]",
            "c.toml: raft: there is no such key any more: remove the table [raft]; in its place there is liveness.beat_ms and liveness.promise_ms",
        ),
    ];
    for (replace, by, expected) in table {
        assert!(GOOD.contains(replace), "{replace}");
        let error = parse(&GOOD.replacen(replace, by, 1)).unwrap_err();
        assert_eq!(error.to_string(), *expected);
    }
}

#[test]
fn beats_and_reads_are_as_they_should_unless_given() {
    let without = GOOD.replace("[liveness]\nbeat_ms = 100\npromise_ms = 500\n", "");
    let config = parse(&without).unwrap();
    assert_eq!(config.liveness, LivenessConfig::default());
    assert_eq!(
        (config.liveness.beat_ms, config.liveness.promise_ms),
        (50, 300)
    );
    assert_eq!(config.cluster.reads_tag(), 0);
    assert!(!config.cluster.existing);
    let existing = GOOD.replace("shards = 8", "shards = 8\nexisting = true");
    assert!(parse(&existing).unwrap().cluster.existing);
    let quorum = GOOD.replace("shards = 8", "shards = 8\nreads = \"quorum\"");
    let config = parse(&quorum).unwrap();
    assert_eq!(config.cluster.reads, Reads::Quorum);
    assert_eq!(config.cluster.reads_tag(), 1);
    let wrong = GOOD.replace("shards = 8", "shards = 8\nreads = \"leases\"");
    assert_eq!(
        parse(&wrong).unwrap_err().to_string(),
        "c.toml, line 11, key `reads`: unknown variant `leases`, expected `lease` or `quorum`"
    );
}

#[test]
fn a_cpu_that_does_not_exist_is_a_wrong_configuration() {
    let online = "0-3\n";
    assert_eq!(super::check::cpus(&[3, 0], online), Ok(()));
    let (key, problem) = super::check::cpus(&[0, 99], online).unwrap_err();
    assert_eq!(key, "node.pin");
    assert_eq!(problem, "CPU 99 does not exist: this machine has 0-3");
    // A kernel that does not tell refuses nothing here.
    assert_eq!(super::check::cpus(&[99], ""), Ok(()));
}

#[test]
fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
    let has = |online: &str, cpu| super::check::lists_cpu(online, cpu);
    for (online, cpu, expected) in [
        ("0\n", 0, Some(true)),
        ("0-3\n", 3, Some(true)),
        ("0-3", 4, Some(false)),
        ("0-1,4,6-7", 4, Some(true)),
        ("0-1,4,6-7", 5, Some(false)),
        ("", 0, None),
        ("?", 0, None),
    ] {
        assert_eq!(has(online, cpu), expected, "{online} {cpu}");
    }
}

#[test]
fn syntax_problems_name_line_and_key() {
    let table: &[(&str, &str, &str)] = &[
        (
            "id = 2\n",
            "id = \"two\"\n",
            "c.toml, line 3, key `id`: invalid type: string \"two\", expected a whole number",
        ),
        (
            "id = 2\n",
            "id = 2\ncolour = 1\n",
            "c.toml, line 4, key `colour`: unknown field `colour`, expected one of `id`, `data_dir`, `listen`, `advertise`, `cores`, `zone`, `region`, `join`, `pin`",
        ),
        ("id = 2\n", "", "c.toml: node.id: is missing"),
        (
            "[liveness]",
            "[draft]",
            "c.toml, line 20: unknown field `draft`, expected one of `node`, `cluster`, `storage`, `liveness`, `clients`",
        ),
        ("id = 2\n", "id =\n", "c.toml, line 3, key `id`: "),
        (
            "33554432",
            "33554432\ncompaction = \"fast\"",
            "c.toml, line 19, key `compaction`: unknown variant `fast`, expected `leveled` or `tiered`",
        ),
        (
            "33554432",
            "33554432\ncompression = \"zstd\"",
            "c.toml, line 19, key `compression`: unknown variant `zstd`, expected `none` or `lz4`",
        ),
    ];
    for (replace, by, expected) in table {
        let error = parse(&GOOD.replacen(replace, by, 1))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let error = NodeConfig::load("/nowhere/c.toml".as_ref(), &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration file /nowhere/c.toml: "),
        "{error}"
    );
}

#[test]
fn the_sample_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/corelith.toml");
    let config = NodeConfig::load(path.as_ref(), &[]).unwrap();
    assert_eq!(config.cluster.nodes.len(), 3);
    let hosts = config.cluster.nodes.iter().map(|node| &node.host);
    for host in hosts.chain([&config.listen.host]) {
        let address: std::net::Ipv4Addr = host.parse().unwrap();
        assert!(address.is_private(), "{host}: nobody is authenticated");
    }
    assert_eq!(
        config.storage,
        crate::node::config::StorageConfig::default()
    );
    assert_eq!(config.liveness, LivenessConfig::default());
}

/// A node that joins says where it is and whom it asks; what the cluster is, the cluster tells it.
#[test]
fn a_node_may_join() {
    let join = "join = [\"10.0.0.1:7411\", \"[::1]:7411\"]";
    let text = |node: &str| format!("[node]\ndata_dir = \"/d\"\n{node}\n");
    let good = text(&format!(
        "{join}\nlisten = \"10.0.0.4:7411\"\ncores = 3\nzone = \"a\""
    ));
    let config = parse(&good).unwrap();
    assert_eq!((config.id.0, config.cores), (0, 3));
    assert!(!config.cluster.is_given());
    let expected = [("10.0.0.1".to_owned(), 7411), ("::1".to_owned(), 7411)];
    assert_eq!(config.join, expected);
    let place = (config.place.host.as_str(), config.place.port);
    assert_eq!(
        (place, config.place.zone.as_str()),
        (("10.0.0.4", 7411), "a")
    );
    let advertised = good.replace(
        "listen = \"10.0.0.4:7411\"",
        "listen = \"0.0.0.0:7411\"\nadvertise = \"db4:8000\"",
    );
    let config = parse(&advertised).unwrap();
    assert_eq!(
        (config.place.host.as_str(), config.place.port),
        ("db4", 8000)
    );
    assert_eq!(config.listen.host, "0.0.0.0");
    let table = [
        (text(join), "node.listen: is missing"),
        (text("listen = \"h:1\""), "cluster: is missing"),
        (
            good.replace("10.0.0.4", "0.0.0.0"),
            "node.advertise: is missing",
        ),
        (
            good.replace("10.0.0.1:7411", "10.0.0.1"),
            "node.join: \"10.0.0.1\" is not allowed",
        ),
        (
            good.replace("\"a\"", "\"a b\""),
            "node.zone: \"a b\" is not allowed",
        ),
        (
            good.replace("cores = 3", "cores = 0"),
            "node.cores: 0 is not allowed",
        ),
        (
            format!("{good}[cluster]\nname = \"c\"\nshards = 1\nnodes = []"),
            "node.join: is not allowed beside [cluster]",
        ),
        (
            good.replace("[node]", "[node]\nid = 281474976710656"),
            "node.id: 281474976710656 is not allowed",
        ),
    ];
    for (text, expected) in table {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // The cores of a first node may be others than the list of first nodes says.
    let config = parse(
        &GOOD
            .replace("[node]", "[node]\ncores = 3")
            .replace("pin =", "# pin ="),
    )
    .unwrap();
    assert_eq!(config.cores, 3);
}
