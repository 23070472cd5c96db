//! A majority that is gone for good: the procedure of docs/operations.md, command by command.

use crate::cluster::{
    Running, SHARDS, alone, configuration, connect, corelith, directory, free_ports, signal,
};
use crate::waiting::{self, DEADLINE};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::MutexGuard;
use tempfile::TempDir;

const KEYS: usize = 40;

/// Nodes by number; one that joined later has the last port.
struct Nodes {
    running: BTreeMap<usize, Running>,
    first: usize,
    ports: Vec<u16>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Nodes {
    fn of(first: usize) -> Self {
        let nodes = Self {
            running: BTreeMap::new(),
            first,
            ports: free_ports(first + 1),
            dir: directory(),
            _alone: alone(),
        };
        for node in 1..=first {
            let data_dir = nodes.data_dir(node);
            let ports = &nodes.ports[..first];
            let text = configuration("recover-test", node, &data_dir, ports);
            fs::write(nodes.config(node), text).unwrap();
        }
        nodes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data_dir(&self, node: usize) -> PathBuf {
        self.path(&format!("node-{node}"))
    }

    fn config(&self, node: usize) -> PathBuf {
        self.path(&format!("node-{node}.toml"))
    }

    fn log(&self, node: usize) -> String {
        fs::read_to_string(self.path(&format!("node-{node}.log"))).unwrap_or_default()
    }

    fn start(&mut self, node: usize) {
        self.begin(node);
        let running = self.running.get_mut(&node).unwrap();
        running.wait_until_listening(self.ports[node - 1]);
    }

    /// Starts a node that may end by itself.
    fn begin(&mut self, node: usize) {
        let log = fs::File::create(self.path(&format!("node-{node}.log"))).unwrap();
        let mut command = corelith();
        command.arg("node").arg("--config").arg(self.config(node));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(node, Running::start(&mut command));
    }

    fn says(&self, node: usize, words: &str) {
        waiting::until(&format!("{words:?} of node {node}"), || {
            let log = self.log(node);
            match log.contains(words) {
                true => Ok(()),
                false => Err(log),
            }
        });
    }

    fn kill(&mut self, node: usize) {
        self.running.remove(&node).unwrap().kill();
    }

    fn stop(&mut self, node: usize) {
        let mut running = self.running.remove(&node).unwrap();
        signal("TERM", running.id());
        assert!(running.wait("a node to stop", DEADLINE).success());
    }

    /// Runs a command with these arguments as a client of that node.
    fn run(&self, node: usize, arguments: &[&str]) -> Output {
        let seed = format!("127.0.0.1:{}", self.ports[node - 1]);
        let mut command = corelith();
        command.args(arguments).args(["--connect", &seed]);
        command.output().unwrap()
    }

    fn run_ok(&self, node: usize, arguments: &[&str]) -> String {
        let output = self.run(node, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `corelith recover` for a node, with the reports that were written.
    fn recover(&self, node: usize, arguments: &[&str], reports: &[usize]) -> Output {
        let mut command = corelith();
        command
            .arg("recover")
            .arg("--config")
            .arg(self.config(node))
            .args(arguments);
        for of in reports {
            command.arg("--report").arg(self.report(*of));
        }
        command.output().unwrap()
    }

    fn recover_ok(&self, node: usize, arguments: &[&str], reports: &[usize]) -> String {
        let output = self.recover(node, arguments, reports);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        println!("{text}");
        text
    }

    fn report(&self, node: usize) -> PathBuf {
        self.path(&format!("left-{node}.json"))
    }

    /// Every shard has so many replicas, which have applied the same.
    fn wait_for_replicas(&self, at: usize, count: usize) {
        waiting::until(&format!("{count} equal replicas of each shard"), || {
            let status = self.run(at, &["status", "--json"]);
            let status = String::from_utf8(status.stdout).unwrap();
            let lines = status.lines();
            let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
            let replicas: Vec<Value> = lines.filter(|line| line["kind"] == "replica").collect();
            for shard in 0..SHARDS {
                let of = replicas.iter().filter(|line| line["shard"] == shard);
                let applied: Vec<Option<u64>> = of.map(|line| line["applied"].as_u64()).collect();
                let is_equal = applied.iter().all(|of| *of > Some(0) && *of == applied[0]);
                if applied.len() != count || !is_equal {
                    return Err(format!("shard {shard}: {applied:?}"));
                }
            }
            Ok(())
        });
    }

    async fn write(&self, at: usize, name: &str) {
        let client = connect(format!("127.0.0.1:{}", self.ports[at - 1])).await;
        for number in 0..KEYS {
            let key = format!("{name}-{number}");
            client.put(&key, key.clone()).await.unwrap();
        }
    }

    async fn all_are_there(&self, at: usize, names: &[&str]) {
        let client = connect(format!("127.0.0.1:{}", self.ports[at - 1])).await;
        for name in names {
            for number in 0..KEYS {
                let key = format!("{name}-{number}");
                let found = client.get(&key).await.unwrap();
                assert_eq!(found.value.as_ref(), key.as_bytes());
            }
        }
    }

    /// A node joins through another one.
    fn join(&mut self, through: usize) {
        let node = self.first + 1;
        let text = format!(
            "[node]\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:{}\"\njoin = [\"127.0.0.1:{}\"]\n\n\
             [storage]\nsegment_bytes = 16777216\nmemtable_bytes = 4194304\nvalue_segment_bytes = 16777216\n\n\
             [clients]\nmemory_bytes = 67108864\n",
            self.data_dir(node).display(),
            self.ports[node - 1],
            self.ports[through - 1],
        );
        fs::write(self.config(node), text).unwrap();
        self.start(node);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.running.clear();
        if std::thread::panicking() {
            for node in 1..=self.ports.len() {
                let log = self.log(node);
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(12)..].join("\n");
                eprintln!("--- the end of node {node}'s log:\n{end}");
            }
        }
    }
}

fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Nodes 2 and 3 are gone for good; these are left.
async fn nodes_2_and_3_are_gone(left: &[usize]) {
    let mut nodes = Nodes::of(left.len() + 2);
    for node in 1..=nodes.first {
        nodes.start(node);
    }
    for node in 1..=nodes.first {
        nodes.says(node, "ready");
    }
    nodes.write(1, "before").await;
    nodes.wait_for_replicas(1, 3);
    for node in [2, 3] {
        nodes.kill(node);
    }
    let order = ["cluster", "recover", "--unsafe", "--lost", "2,3"];
    if left.len() > 1 {
        // The map has a majority, and some shards have none: they come first.
        let early = nodes.run(1, &order);
        assert!(complaint(&early, 2).contains("corelith recover --config"));
    }
    let lost = ["--lost", "2,3"];
    let running = nodes.recover(1, &lost, &[]);
    assert!(complaint(&running, 5).contains("stop the node first"));
    for node in left {
        nodes.stop(*node);
    }

    // Reports, and what would be done.
    for node in left {
        let report = nodes.recover_ok(*node, &["--lost", "2,3", "--json"], &[]);
        fs::write(nodes.report(*node), report).unwrap();
    }
    let too_few = nodes.recover(1, &["--lost", "2", "--unsafe"], left);
    assert!(complaint(&too_few, 2).contains("node 3 may have replicas that vote"));
    if left.len() > 1 {
        let unheard = nodes.recover(1, &["--lost", "2,3", "--unsafe"], &[]);
        assert!(complaint(&unheard, 2).contains("no report of"));
    }
    let planned = nodes.recover_ok(1, &lost, left);
    assert!(planned.contains("nothing was changed. With --unsafe:"));
    assert!(
        planned.contains("shard 0: node 1 has the longest log"),
        "{planned}"
    );
    let lost_file = nodes.data_dir(1).join("recovered");
    assert!(!lost_file.exists());

    // It is done, once.
    let go = ["--lost", "2,3", "--unsafe"];
    for node in left {
        nodes.recover_ok(*node, &go, left);
    }
    let written = fs::read_to_string(&lost_file).unwrap();
    assert!(written.contains("may_be_lost"), "{written}");
    for node in left {
        let again = nodes.recover_ok(*node, &go, left);
        assert!(again.contains("no shard goes on from this node"), "{again}");
    }
    assert_eq!(fs::read_to_string(&lost_file).unwrap(), written);

    // Those that are left serve, whoever comes back.
    for node in left {
        nodes.start(*node);
    }
    for node in left {
        nodes.says(*node, "ready");
    }
    nodes.all_are_there(1, &["before"]).await;
    nodes.start(2);
    nodes.says(2, "it has no vote and takes part in nothing");
    nodes.kill(2);
    nodes.write(1, "between").await;
    let done = waiting::until("the leads to be known", || {
        let output = nodes.run(1, &order);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text).ok_or(output)
    });
    println!("{done}");
    assert!(done.contains("node 3 is removed"), "{done}");
    let again = nodes.run_ok(1, &order);
    assert!(again.contains("node 3 is removed already"), "{again}");
    nodes.begin(3);
    nodes.says(3, "it has no vote and takes part in nothing");
    nodes.kill(3);
    nodes.write(1, "after").await;

    // Replicas are made anew where there is room.
    let joined = nodes.first + 1;
    nodes.join(1);
    nodes.wait_for_replicas(joined, (left.len() + 1).min(3));
    nodes
        .all_are_there(joined, &["before", "between", "after"])
        .await;
    let status = nodes.run_ok(joined, &["cluster", "status"]);
    println!("{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_nodes_are_gone_for_good() {
    nodes_2_and_3_are_gone(&[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_nodes_are_gone_for_good() {
    nodes_2_and_3_are_gone(&[1, 4, 5]).await;
}
