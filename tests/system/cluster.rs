//! Three `corelith node` processes that end with the test.

use crate::waiting::{self, DEADLINE};
use corelith_client::Client;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const NODES: usize = 3;
pub(crate) const SHARDS: u32 = 4;

/// Clusters of one test process run one after the other: each takes all of a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nothing else of this process keeps the machine busy while it is held.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test.
pub(crate) fn corelith() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelith"));
    command.stdin(Stdio::null()).env_remove("CORELITH_SEEDS");
    command
}

/// A directory on a disk; `/tmp` is in memory on many machines.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

/// The configuration of node number `node` (from 1); `name` is the cluster's.
pub(crate) fn configuration(name: &str, node: usize, data_dir: &Path, ports: &[u16]) -> String {
    let nodes: String = ports
        .iter()
        .enumerate()
        .map(|(index, port)| {
            let id = index + 1;
            format!("\n[[cluster.nodes]]\nid = {id}\nhost = \"127.0.0.1\"\nport = {port}\n")
        })
        .collect();
    format!(
        "[node]\nid = {node}\ndata_dir = \"{}\"\n\n\
         [storage]\nsegment_bytes = 16777216\nmemtable_bytes = 4194304\nvalue_segment_bytes = 16777216\n\n\
         [clients]\nmemory_bytes = 67108864\n\n\
         [cluster]\nname = \"{name}\"\nshards = {SHARDS}\n{nodes}",
        data_dir.display()
    )
}

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Waits until a node listens.
    pub(crate) fn wait_until_listening(&mut self, port: u16) {
        waiting::until(&format!("port {port} to be open"), || {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("the node on port {port} ended while starting: {status}");
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        });
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, what: &str, deadline: Duration) -> ExitStatus {
        waiting::until_within(deadline, what, || {
            self.0.try_wait().unwrap().ok_or("still runs")
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running cluster. In a panic the last lines of each log are printed.
pub(crate) struct Cluster {
    nodes: Vec<Option<Running>>,
    ports: Vec<u16>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts all nodes of a new cluster and waits until all shards have leaders.
    pub(crate) fn start() -> Self {
        let mut cluster = Self::idle();
        cluster.start_all();
        for node in 1..=NODES {
            cluster.wait_for_line(&format!("node-{node}"), &["ready"]);
        }
        cluster
    }

    /// A cluster of nodes that do not run.
    pub(crate) fn idle() -> Self {
        Self {
            nodes: (0..NODES).map(|_| None).collect(),
            ports: free_ports(NODES),
            dir: directory(),
            _alone: alone(),
        }
    }

    /// Starts all nodes and waits until they listen.
    pub(crate) fn start_all(&mut self) {
        for node in 1..=NODES {
            self.spawn(node);
        }
        for node in 1..=NODES {
            self.wait_until_listening(node);
        }
    }

    /// Starts node number `node` (from 1) and waits until it listens.
    pub(crate) fn start_node(&mut self, node: usize) {
        self.spawn(node);
        self.wait_until_listening(node);
    }

    fn spawn(&mut self, node: usize) {
        self.spawn_with(node, |configuration| configuration);
    }

    /// Starts a node whose configuration is changed first.
    pub(crate) fn spawn_with(&mut self, node: usize, edit: impl FnOnce(String) -> String) {
        assert!(self.nodes[node - 1].is_none(), "node {node} runs already");
        let configuration = edit(self.configuration(node));
        let running = self.spawn_beside(&format!("node-{node}"), &configuration);
        self.nodes[node - 1] = Some(running);
    }

    /// The configuration of a node.
    pub(crate) fn configuration(&self, node: usize) -> String {
        configuration("system-test", node, &self.data_dir(node), &self.ports)
    }

    /// Starts a process with this configuration; its log has that name.
    pub(crate) fn spawn_beside(&self, name: &str, configuration: &str) -> Running {
        let config = self.path(&format!("{name}.toml"));
        fs::write(&config, configuration).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let mut command = corelith();
        command.arg("node").arg("--config").arg(config);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running::start(&mut command)
    }

    /// Where a node's data is.
    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        self.path(&format!("node-{node}"))
    }

    /// The first port of a node.
    pub(crate) fn port(&self, node: usize) -> u16 {
        self.ports[node - 1]
    }

    /// Waits until a log has a line with all of these words, and returns it.
    pub(crate) fn wait_for_line(&self, log: &str, words: &[&str]) -> String {
        let file = self.path(&format!("{log}.log"));
        waiting::until(&format!("{words:?} in the log of {log}"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines();
            let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).ok_or_else(|| tail(&text, 15))
        })
    }

    fn wait_until_listening(&mut self, node: usize) {
        let port = self.ports[node - 1];
        self.nodes[node - 1]
            .as_mut()
            .unwrap()
            .wait_until_listening(port);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node - 1].take().expect("the node runs").kill();
    }

    /// The process id of a node that runs.
    pub(crate) fn id(&self, node: usize) -> u32 {
        self.nodes[node - 1].as_ref().unwrap().id()
    }

    /// SIGTERM to a node; returns how it ended.
    pub(crate) fn stop(&mut self, node: usize) -> ExitStatus {
        let mut running = self.nodes[node - 1].take().expect("the node runs");
        signal("TERM", running.id());
        running.wait("a node to stop", DEADLINE)
    }

    /// SIGTERM to all nodes; returns how each ended.
    pub(crate) fn stop_all(&mut self) -> Vec<ExitStatus> {
        let mut nodes: Vec<Running> = self.nodes.iter_mut().filter_map(Option::take).collect();
        for node in &nodes {
            signal("TERM", node.id());
        }
        nodes
            .iter_mut()
            .map(|node| node.wait("a node to stop", DEADLINE))
            .collect()
    }

    /// Process of node number `node`, which runs.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.nodes[node - 1].as_ref().expect("the node runs").id()
    }

    /// Addresses as the command line takes them.
    pub(crate) fn seeds(&self) -> String {
        let seeds: Vec<_> = self
            .ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        seeds.join(",")
    }

    /// An SDK client.
    pub(crate) async fn client(&self) -> Client {
        connect(self.seeds()).await
    }

    /// A command of the command line that is not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = corelith();
        command.args(arguments).arg("--connect").arg(self.seeds());
        command
    }

    /// Runs a command of the command line to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns what it printed.
    pub(crate) fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where things of the test may lie.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Connects an SDK client whose operations have as long as the tests wait for anything.
pub(crate) async fn connect(seeds: String) -> Client {
    Client::builder()
        .seeds(seeds.split(','))
        .deadline(DEADLINE)
        .connect()
        .await
        .unwrap()
}

/// The last lines of a text.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Sends a signal by its name.
pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name} {pid}: {status}");
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if std::thread::panicking() {
            let files = fs::read_dir(self.dir.path())
                .into_iter()
                .flatten()
                .flatten();
            let files = files.map(|file| file.path());
            for file in files.filter(|file| file.extension().is_some_and(|of| of == "log")) {
                let log = fs::read_to_string(&file).unwrap_or_default();
                eprintln!("--- the end of {}:\n{}", file.display(), tail(&log, 30));
            }
        }
    }
}
