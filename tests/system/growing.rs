//! A cluster that grows, shrinks, has every node replaced, restarts with other cores, and takes in again a node that was
//! emptied, while clients of one seed list write and read: none of them is told of an error, nothing is lost, replicas
//! and leads are even, and the status has nothing to say in the end.
//!
//! `CORELITH_GROWING=10` has ten times as many clients and keys.

use crate::cluster::{Cluster, Running, connect, corelith, signal};
use crate::load::Load;
use crate::positions::wait_until_equal;
use crate::waiting;
use corelith_client::Client;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

const SHARDS: u32 = 12;
const REPLICAS: usize = 3;
/// Ports of one node: one for each core that it may have.
const PORTS_EACH: u16 = 8;
/// A change of a whole node takes at most so long.
const CHANGE_DEADLINE: Duration = Duration::from_secs(300);

/// Times of the beats, for eight nodes on a machine of two cores that others use too.
const BEAT_MS: u64 = 100;
const PROMISE_MS: u64 = 3_000;
/// What follows a change begins within this.
const CALM: Duration = Duration::from_secs(3);

/// A machine of the cluster.
struct Machine {
    name: String,
    /// The first of its ports.
    port: u16,
    cores: u16,
    running: Option<Running>,
}

/// A cluster whose nodes come and go.
struct Growing {
    cluster: Cluster,
    /// Those that have not been taken out, by the node's id.
    machines: BTreeMap<u64, Machine>,
    ports: Vec<u16>,
    count: usize,
}

/// Ranges of ports that are free, below those that the kernel gives to connections.
fn port_ranges(count: usize) -> Vec<u16> {
    let first = 20_000 + (std::process::id() % 500) as u16 * 16;
    let bases = (first..32_000).step_by(PORTS_EACH.into());
    let is_free = |base: &u16| {
        (*base..base + PORTS_EACH)
            .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    };
    let free: Vec<u16> = bases.filter(is_free).take(count).collect();
    assert_eq!(free.len(), count, "too few ports are free");
    free
}

/// Number of a JSON line's field.
fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_default()
}

impl Growing {
    /// Three nodes with leaders for all shards.
    fn start() -> Self {
        let mut growing = Self {
            cluster: Cluster::idle(),
            machines: BTreeMap::new(),
            ports: port_ranges(16),
            count: 0,
        };
        for id in 1..=3 {
            let machine = growing.machine(2);
            growing.machines.insert(id, machine);
        }
        for id in 1..=3 {
            growing.run(id);
        }
        for id in 1..=3 {
            growing
                .cluster
                .wait_for_line(&format!("node-{id}"), &["ready"]);
        }
        growing
    }

    fn machine(&mut self, cores: u16) -> Machine {
        self.count += 1;
        Machine {
            name: format!("node-{}", self.count),
            port: self.ports[self.count - 1],
            cores,
            running: None,
        }
    }

    /// The configuration of a machine: one of the first three, or one that joins at those that are there.
    fn configuration(&self, machine: &Machine, id: u64) -> String {
        let dir = self.cluster.path(&machine.name);
        let is_first = self.ports[..3].contains(&machine.port);
        let node = match machine.port {
            _ if is_first => format!("id = {id}"),
            port => {
                let given = match id {
                    0 => String::new(),
                    id => format!("id = {id}\n"),
                };
                let others = self.machines.values().filter(|other| other.port != port);
                let join: Vec<String> = others
                    .map(|of| format!("\"127.0.0.1:{}\"", of.port))
                    .collect();
                format!(
                    "{given}listen = \"127.0.0.1:{port}\"\njoin = [{}]",
                    join.join(", ")
                )
            }
        };
        let mut text = format!(
            "[node]\n{node}\ncores = {}\ndata_dir = \"{}\"\n\n\
             [storage]\nsegment_bytes = 16777216\nmemtable_bytes = 4194304\nvalue_segment_bytes = 16777216\n\n\
             [clients]\nmemory_bytes = 67108864\n\n\
             [liveness]\nbeat_ms = {BEAT_MS}\npromise_ms = {PROMISE_MS}\n",
            machine.cores,
            dir.display()
        );
        if is_first {
            text += &format!("\n[cluster]\nname = \"growing\"\nshards = {SHARDS}\n");
            for (id, port) in (1..).zip(&self.ports[..3]) {
                text += &format!(
                    "\n[[cluster.nodes]]\nid = {id}\nhost = \"127.0.0.1\"\nport = {port}\n"
                );
            }
        }
        text
    }

    fn run(&mut self, id: u64) {
        let machine = &self.machines[&id];
        let configuration = self.configuration(machine, id);
        let mut running = self.cluster.spawn_beside(&machine.name, &configuration);
        running.wait_until_listening(machine.port);
        self.machines.get_mut(&id).unwrap().running = Some(running);
    }

    /// Has a new machine join, and returns its id.
    fn join(&mut self, cores: u16) -> u64 {
        let mut machine = self.machine(cores);
        let configuration = self.configuration(&machine, 0);
        machine.running = Some(self.cluster.spawn_beside(&machine.name, &configuration));
        let address = format!("127.0.0.1:{}", machine.port);
        let id = waiting::until(&format!("{} to join", machine.name), || {
            let view = self.view();
            let members = view.iter().filter(|line| line["kind"] == "member");
            let mut found = members.filter(|line| line["address"] == address.as_str());
            found
                .next()
                .map(|line| number(line, "node"))
                .ok_or_else(|| view.clone())
        });
        println!("{} is node {id}", machine.name);
        self.machines.insert(id, machine);
        id
    }

    /// Waits for the end of a node that was removed.
    fn gone(&mut self, id: u64) {
        let mut machine = self.machines.remove(&id).unwrap();
        let mut running = machine.running.take().unwrap();
        let status = running.wait(
            &format!("node {id} to end, which is removed"),
            CHANGE_DEADLINE,
        );
        println!("node {id} has ended: {status}");
        self.cluster
            .wait_for_line(&machine.name, &["was removed from the cluster"]);
    }

    /// An order that must be carried out.
    fn order(&self, arguments: &[&str]) {
        let output = self.command(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{arguments:?}: {}", said.trim());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn command(&self, arguments: &[&str]) -> std::process::Output {
        let seeds: Vec<String> = self
            .machines
            .values()
            .map(|of| format!("127.0.0.1:{}", of.port))
            .collect();
        let mut command = corelith();
        command
            .args(arguments)
            .arg("--connect")
            .arg(seeds.join(","));
        command.output().unwrap()
    }

    /// What the cluster says of itself, line by line.
    fn view(&self) -> Vec<Value> {
        let output = self.command(&["cluster", "status", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until the nodes are these, nothing moves, nothing is amiss, and replicas and leads are even.
    fn settle(&self, what: &str) {
        let nodes: Vec<u64> = self.machines.keys().copied().collect();
        let mut since = Instant::now();
        waiting::until_within(
            CHANGE_DEADLINE,
            &format!("the cluster to settle: {what}"),
            || {
                let unrest = unsettled(&self.view(), &nodes);
                if unrest.is_some() {
                    since = Instant::now();
                }
                match since.elapsed() >= CALM {
                    true => Ok(()),
                    false => Err(unrest),
                }
            },
        );
        for line in self
            .view()
            .iter()
            .filter(|line| line["kind"] == "member" && line["state"] == "active")
        {
            println!(
                "  {what}: node {} has {} replicas and leads {}",
                line["node"], line["replicas"], line["leads"]
            );
        }
    }

    /// Restarts a node in order with another number of cores.
    fn restart(&mut self, id: u64, cores: u16) {
        let machine = self.machines.get_mut(&id).unwrap();
        machine.cores = cores;
        let mut running = machine.running.take().unwrap();
        signal("TERM", running.id());
        running.wait(&format!("node {id} to stop"), waiting::DEADLINE);
        self.run(id);
    }

    /// `kill -9`.
    fn kill(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).unwrap();
        machine.running.take().unwrap().kill();
    }

    /// `kill -9`, and everything that the node had is gone.
    fn empty(&mut self, id: u64) {
        self.kill(id);
        let machine = &self.machines[&id];
        let dir = self.cluster.path(&machine.name);
        fs::remove_dir_all(dir).unwrap();
    }

    fn store(&self, id: u64) -> String {
        let view = self.view();
        let mut members = view.iter().filter(|line| line["kind"] == "member");
        let found = members.find(|line| number(line, "node") == id);
        found
            .map(|line| line["store"].to_string())
            .unwrap_or_default()
    }

    /// Both forms of the status have nothing to say but that all is well.
    fn is_clean(&self) {
        let clean = || {
            let output = self.command(&["status"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let tables = text.trim_end().split("\n\n").count();
            let nodes = text.lines().filter(|line| line.ends_with(" up")).count();
            let replicas = text
                .lines()
                .filter(|line| line.contains(" leader ") || line.contains(" follower "));
            let all = replicas.count() == SHARDS as usize * REPLICAS;
            match output.status.success() && tables == 2 && nodes == self.machines.len() && all {
                true => Ok(text),
                false => Err((text, String::from_utf8_lossy(&output.stderr).into_owned())),
            }
        };
        println!("{}", waiting::until("the status to be clean", clean));
    }
}

/// Why the cluster is not at rest.
fn unsettled(view: &[Value], nodes: &[u64]) -> Option<String> {
    let of = |kind: &str| {
        let kind = kind.to_owned();
        view.iter()
            .filter(move |line| line["kind"] == kind.as_str())
    };
    let members: Vec<&Value> = of("member")
        .filter(|line| line["state"] != "removed")
        .collect();
    let ids: Vec<u64> = members.iter().map(|line| number(line, "node")).collect();
    if ids != nodes {
        return Some(format!("the nodes are {ids:?}, not {nodes:?}"));
    }
    if let Some(line) = of("move").chain(of("trouble")).next() {
        return Some(line.to_string());
    }
    for line in of("placement") {
        let replicas = line["replicas"].as_array().unwrap();
        let are_known = replicas
            .iter()
            .all(|node| nodes.contains(&node.as_u64().unwrap()));
        if replicas.len() != REPLICAS || !are_known || line["leader"].is_null() {
            return Some(line.to_string());
        }
    }
    for field in ["replicas", "leads"] {
        let counts: Vec<u64> = members.iter().map(|line| number(line, field)).collect();
        // The shard of the map is one more on some of the nodes, and is led by one of them.
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        let mean = counts.iter().sum::<u64>() / counts.len() as u64;
        if most - least > 1 + (mean / 10).max(1) {
            return Some(format!("{field} are uneven: {counts:?}"));
        }
    }
    None
}

/// The client knows the first three nodes, and whatever it is told.
async fn client_of(growing: &Growing) -> Client {
    let seeds = growing.ports[..3].iter();
    let seeds: Vec<String> = seeds.map(|port| format!("127.0.0.1:{port}")).collect();
    connect(seeds.join(",")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_changes_under_load() {
    let scale = std::env::var("CORELITH_GROWING").map_or(1, |text| text.parse().unwrap());
    let mut growing = Growing::start();
    let client = client_of(&growing).await;
    let load = Load::start(&client, scale);
    load.goes_on("three nodes").await;

    let old = growing.store(3);
    growing.empty(3);
    load.goes_on("one of three is gone").await;
    growing.run(3);
    waiting::until(
        "the emptied node to be known with its new store",
        || match growing.store(3) {
            store if store != old && !store.is_empty() => Ok(()),
            store => Err(store),
        },
    );
    growing.settle("an emptied node is whole");
    load.goes_on("an emptied node is whole").await;
    // It counts: another one may be away.
    growing.kill(1);
    load.goes_on("another one is away").await;
    growing.run(1);
    growing.settle("the other one is back");

    let (fourth, fifth) = (growing.join(1), growing.join(2));
    growing.settle("five nodes");
    load.goes_on("five nodes").await;
    for node in [fourth, fifth] {
        growing.order(&["cluster", "drain", &node.to_string(), "--wait"]);
        growing.order(&["cluster", "remove", &node.to_string()]);
        growing.gone(node);
        load.goes_on("a node was removed").await;
    }
    growing.settle("three nodes again");

    for old in 1..=3_u64 {
        let new = growing.join(2);
        growing.order(&[
            "cluster",
            "replace",
            &old.to_string(),
            &new.to_string(),
            "--wait",
        ]);
        growing.gone(old);
        load.goes_on("a node was replaced").await;
    }
    growing.settle("none of the first nodes is left");

    let nodes: Vec<u64> = growing.machines.keys().copied().collect();
    for (id, cores) in nodes.iter().zip([3, 1, 4]) {
        growing.restart(*id, cores);
        load.goes_on("a node has other cores").await;
    }
    growing.settle("other cores");

    load.end(&client).await;
    wait_until_equal(&client, REPLICAS, SHARDS).await;
    growing.is_clean();
    growing.settle("the end");
}
