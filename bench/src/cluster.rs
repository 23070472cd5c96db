//! A cluster of three nodes on this machine, which runs for the duration of the benchmark.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nodes of the cluster.
const NODES: usize = 3;
/// Time for all nodes to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Time for a node to stop after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Interval at which a node is checked.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct ClusterOptions {
    /// The `corelith` program.
    pub(crate) program: PathBuf,
    /// Directory for configuration, data and logs.
    pub(crate) dir: PathBuf,
    /// Whether to keep the directory.
    pub(crate) keep: bool,
    /// Number of shards.
    pub(crate) shards: u32,
    /// Cores of each node.
    pub(crate) cores: u16,
}

/// Why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The program does not exist.
    #[error("{} is missing: build it with `cargo build --release`, or name it with --program", .0.display())]
    NoProgram(PathBuf),
    /// A file, port or process could not be created.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A node ended while it was starting.
    #[error("node {node} ended while starting: {output}")]
    Ended {
        /// Its number.
        node: usize,
        /// The last line of its log.
        output: String,
    },
    /// The cluster was not ready in time.
    #[error("the cluster did not listen within {} s; see the logs in {}", READY_WITHIN.as_secs(), .0.display())]
    NotReady(PathBuf),
}

/// Running nodes; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Cluster {
    children: Vec<Child>,
    seeds: Vec<String>,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts the nodes and waits until all of their ports answer.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub(crate) fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        if !options.program.is_file() {
            return Err(ClusterError::NoProgram(options.program));
        }
        std::fs::create_dir_all(&options.dir)
            .map_err(|source| io(format!("create {}", options.dir.display()), source))?;
        let ports = free_ports(usize::from(options.cores))?;
        let mut cluster = Self {
            children: Vec::with_capacity(NODES),
            seeds: ports
                .iter()
                .map(|port| format!("127.0.0.1:{port}"))
                .collect(),
            options,
        };
        for node in 1..=NODES {
            let child = cluster.spawn(node, &ports)?;
            cluster.children.push(child);
        }
        cluster.wait_until_listening()?;
        Ok(cluster)
    }

    /// Addresses of the nodes.
    pub(crate) fn seeds(&self) -> &[String] {
        &self.seeds
    }

    /// Directory of the cluster.
    pub(crate) fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Processes of the nodes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.options.dir.join(format!("node-{node}.log"))
    }

    fn spawn(&self, node: usize, ports: &[u16]) -> Result<Child, ClusterError> {
        let config = self.options.dir.join(format!("node-{node}.toml"));
        std::fs::write(&config, configuration(&self.options, node, ports))
            .map_err(|source| io(format!("write {}", config.display()), source))?;
        let log_path = self.log_path(node);
        let log = std::fs::File::create(&log_path)
            .map_err(|source| io(format!("create {}", log_path.display()), source))?;
        let error_log = log
            .try_clone()
            .map_err(|source| io(format!("open {}", log_path.display()), source))?;
        Command::new(&self.options.program)
            .arg("node")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .spawn()
            .map_err(|source| io(format!("start {}", self.options.program.display()), source))
    }

    fn wait_until_listening(&mut self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + READY_WITHIN;
        let dir = self.options.dir.clone();
        for (index, seed) in self.seeds.iter().enumerate() {
            while std::net::TcpStream::connect(seed).is_err() {
                let ended = self
                    .children
                    .get_mut(index)
                    .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
                if ended {
                    let node = index + 1;
                    let output = last_line(&self.log_path(node));
                    return Err(ClusterError::Ended { node, output });
                }
                if Instant::now() > deadline {
                    return Err(ClusterError::NotReady(dir));
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        for child in &self.children {
            // The standard library can only send SIGKILL; `kill` sends SIGTERM, which stops the node cleanly.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        if !self.options.keep {
            let _ = std::fs::remove_dir_all(&self.options.dir);
        }
    }
}

fn io(what: String, source: std::io::Error) -> ClusterError {
    ClusterError::Io { what, source }
}

/// The configuration file of node number `node`.
fn configuration(options: &ClusterOptions, node: usize, ports: &[u16]) -> String {
    let mut text = format!(
        "[node]\nid = {node}\ndata_dir = \"{}\"\n\n[cluster]\nname = \"bench\"\nshards = {}\n",
        options.dir.join(format!("node-{node}")).display(),
        options.shards,
    );
    for (index, port) in ports.iter().enumerate() {
        text.push_str(&format!(
            "\n[[cluster.nodes]]\nid = {}\nhost = \"127.0.0.1\"\nport = {port}\ncores = {}\n",
            index + 1,
            options.cores,
        ));
    }
    text
}

/// For each node, the first of `cores` consecutive free ports. Another process may take one before the
/// node does; the node then reports it and the run ends.
fn free_ports(cores: usize) -> Result<Vec<u16>, ClusterError> {
    let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let mut held = Vec::new();
    let mut bases = Vec::with_capacity(NODES);
    while bases.len() < NODES {
        let first = listen(0).map_err(|source| io("find a free port".to_owned(), source))?;
        let base = first
            .local_addr()
            .map_err(|source| io("find a free port".to_owned(), source))?
            .port();
        let others: Vec<_> = (1..cores)
            .filter_map(|core| listen(base.checked_add(u16::try_from(core).ok()?)?).ok())
            .collect();
        if others.len() + 1 == cores {
            bases.push(base);
        }
        // Held until all ports are found, so that none is found twice.
        held.push(first);
        held.extend(others);
    }
    Ok(bases)
}

fn last_line(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    text.lines().last().unwrap_or("its log is empty").to_owned()
}
