//! A cluster of nodes, three unless said otherwise, on this machine, which runs for the duration of the benchmark.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nodes of a cluster unless it is said how many.
pub(crate) const NODES: usize = 3;
/// First port of every node that has a network of its own.
const OWN_PORT: u16 = 7411;
/// Time for all nodes to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Time for a node to stop after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Storage of nodes that take little disk space.
const FRUGAL: &str = "\n[storage]\nsegment_bytes = 16777216\nreserve_bytes = 0\n";
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
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// Replicas of each shard; as many as the node takes by itself if that is not said.
    pub(crate) replicas: Option<u8>,
    /// Number of shards.
    pub(crate) shards: u32,
    /// Cores of each node.
    pub(crate) cores: u16,
    /// Whether the nodes take as little disk space as they can.
    pub(crate) is_frugal: bool,
    /// What runs their cores, if that is said.
    pub(crate) io_backend: Option<String>,
    /// Where the nodes run.
    pub(crate) place: Place,
}

/// Where the nodes of a cluster run.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// All on the loopback interface, until told to stop.
    Loopback,
    /// As `Loopback`, and killed when the thread that started them ends.
    Guarded,
    /// As `Guarded`, and each in a network namespace of its own.
    Namespaces(Vec<Namespace>),
}

/// The network namespace of one node.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    /// Its file.
    pub(crate) path: PathBuf,
    /// The node's address in it.
    pub(crate) address: String,
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
    /// A node ended by itself.
    #[error("node {node} has ended: {output}")]
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
    ports: Vec<u16>,
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
        let ports = match options.place {
            Place::Loopback | Place::Guarded => {
                free_ports(options.nodes, usize::from(options.cores))?
            }
            Place::Namespaces(_) => vec![OWN_PORT; options.nodes],
        };
        let mut cluster = Self {
            children: Vec::with_capacity(options.nodes),
            seeds: (0..)
                .zip(&ports)
                .map(|(index, port)| format!("{}:{port}", options.place.host(index)))
                .collect(),
            ports,
            options,
        };
        for node in 1..=cluster.options.nodes {
            cluster.configure(node)?;
            let child = cluster.spawn(node)?;
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

    /// Data directory of node `index`, counted from 0.
    pub(crate) fn data_dir(&self, index: usize) -> PathBuf {
        data_dir(&self.options, index + 1)
    }

    /// Processes of the nodes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.options.dir.join(format!("node-{node}.log"))
    }

    fn config_path(&self, node: usize) -> PathBuf {
        self.options.dir.join(format!("node-{node}.toml"))
    }

    fn configure(&self, node: usize) -> Result<(), ClusterError> {
        let path = self.config_path(node);
        std::fs::write(&path, configuration(&self.options, node, &self.ports))
            .map_err(|source| io(format!("write {}", path.display()), source))
    }

    fn spawn(&self, node: usize) -> Result<Child, ClusterError> {
        let log_path = self.log_path(node);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(|source| io(format!("create {}", log_path.display()), source))?;
        let error_log = log
            .try_clone()
            .map_err(|source| io(format!("open {}", log_path.display()), source))?;
        let mut words = self.options.place.launcher(node - 1);
        words.push(self.options.program.clone().into());
        let mut words = words.into_iter();
        let first = words.next().unwrap_or_default();
        Command::new(&first)
            .args(words)
            .arg("node")
            .arg("--config")
            .arg(self.config_path(node))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .spawn()
            .map_err(|source| io(format!("start {}", first.display()), source))
    }

    fn child(&mut self, index: usize) -> Result<&mut Child, ClusterError> {
        let missing = || io("find a node".to_owned(), ErrorKind::NotFound.into());
        self.children.get_mut(index).ok_or_else(missing)
    }

    /// Sends a signal to node `index`, counted from 0.
    ///
    /// # Errors
    /// The signal could not be sent.
    pub(crate) fn signal(&mut self, index: usize, signal: &str) -> Result<(), ClusterError> {
        let pid = self.child(index)?.id().to_string();
        let failed = |source| io(format!("send {signal} to node {}", index + 1), source);
        // The standard library can only send SIGKILL.
        let sent = Command::new("kill")
            .arg("-s")
            .arg(signal)
            .arg(&pid)
            .status();
        match sent.map_err(failed)?.success() {
            true => Ok(()),
            false => Err(failed(ErrorKind::Other.into())),
        }
    }

    /// Kills node `index`, counted from 0.
    ///
    /// # Errors
    /// It could not be killed.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), ClusterError> {
        let child = self.child(index)?;
        let killed = child.kill().and_then(|()| child.wait());
        killed
            .map(drop)
            .map_err(|source| io(format!("kill node {}", index + 1), source))
    }

    /// Waits until node `index`, counted from 0, has ended after a signal.
    ///
    /// # Errors
    /// It has not ended in time.
    pub(crate) fn wait_until_ended(&mut self, index: usize) -> Result<(), ClusterError> {
        let deadline = Instant::now() + STOP_WITHIN;
        while matches!(self.child(index)?.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let late = ErrorKind::TimedOut.into();
                return Err(io(format!("stop node {}", index + 1), late));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Starts node `index`, counted from 0, again after it has ended.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), ClusterError> {
        let child = self.spawn(index + 1)?;
        *self.child(index)? = child;
        Ok(())
    }

    /// The error of a node that has ended by itself.
    ///
    /// # Errors
    /// See there.
    pub(crate) fn check(&mut self) -> Result<(), ClusterError> {
        for index in 0..self.children.len() {
            if !matches!(self.child(index)?.try_wait(), Ok(None)) {
                let output = last_line(&self.log_path(index + 1));
                return Err(ClusterError::Ended {
                    node: index + 1,
                    output,
                });
            }
        }
        Ok(())
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

impl Place {
    /// Address of node `index`, counted from 0.
    fn host(&self, index: usize) -> &str {
        match self {
            Self::Loopback | Self::Guarded => "127.0.0.1",
            Self::Namespaces(of) => of.get(index).map_or("", |space| &space.address),
        }
    }

    /// The words before the program that starts node `index`.
    fn launcher(&self, index: usize) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Self::Namespaces(of) = self
            && let Some(space) = of.get(index)
        {
            let mut net = OsString::from("--net=");
            net.push(&space.path);
            words.extend(["nsenter".into(), net]);
        }
        if !matches!(self, Self::Loopback) {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(OsString::from));
        }
        words
    }
}

fn io(what: String, source: std::io::Error) -> ClusterError {
    ClusterError::Io { what, source }
}

/// Data directory of node number `node`.
fn data_dir(options: &ClusterOptions, node: usize) -> PathBuf {
    options.dir.join(format!("node-{node}"))
}

/// The configuration file of node number `node`.
fn configuration(options: &ClusterOptions, node: usize, ports: &[u16]) -> String {
    let mut text = format!(
        "[node]\nid = {node}\ndata_dir = \"{}\"\n\n[cluster]\nname = \"bench\"\nshards = {}\n",
        data_dir(options, node).display(),
        options.shards,
    );
    if let Some(replicas) = options.replicas {
        text.push_str(&format!("replicas = {replicas}\n"));
    }
    if options.is_frugal {
        text.push_str(FRUGAL);
    }
    if let Some(backend) = &options.io_backend {
        text.push_str(&format!("\n[io]\nbackend = \"{backend}\"\n"));
    }
    for (index, port) in ports.iter().enumerate() {
        text.push_str(&format!(
            "\n[[cluster.nodes]]\nid = {}\nhost = \"{}\"\nport = {port}\ncores = {}\n",
            index + 1,
            options.place.host(index),
            options.cores,
        ));
    }
    text
}

/// For each of `nodes` nodes, the first of `cores` consecutive free ports. Another process may take one before the
/// node does; the node then reports it and the run ends.
fn free_ports(nodes: usize, cores: usize) -> Result<Vec<u16>, ClusterError> {
    let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let mut held = Vec::new();
    let mut bases = Vec::with_capacity(nodes);
    while bases.len() < nodes {
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
