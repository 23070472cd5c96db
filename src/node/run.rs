//! Running a node, or several, in this process: from the configuration to the last core's end.

pub mod beats;
pub mod core;
mod entry;
mod setup;
mod systemd;

use crate::node::cluster::addresses::look_up;
use crate::node::config::NodeConfig;
use crate::node::error::NodeError;
use crate::node::limits;
use core::{CoreEvent, CoreEventKind, PreparedNode};
use corelith_io::{Backend, CoreConfig, CoreHandle, Receiver, Sender};
use corelith_shards::NodeId;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the node configured in the file at `config`, which joins the nodes at the addresses `join` if there are any, until a signal (SIGTERM, SIGINT) stops it.
///
/// # Errors
/// One sentence about what keeps it from running.
pub fn run(config: &Path, join: &[String]) -> Result<(), NodeError> {
    let config = NodeConfig::load(config, join)?;
    let instead = "change `port` of this node in cluster.nodes (and `node.listen`)";
    // Before the probe, which creates the data directory.
    refuse_taken_ports(std::slice::from_ref(&config), instead)?;
    corelith_io::probe::probe(
        &config.data_dir,
        executors(&config),
        limits::LOCKED_MEMORY_PER_CORE_BYTES,
    )?;
    let (cluster, listen) = (config.cluster.name.clone(), config.listen.clone());
    supervise(vec![config], instead, |node| {
        let of_cluster = match cluster.as_str() {
            "" => String::new(),
            name => format!(" of cluster {name}"),
        };
        say(&format!(
            "ready: node {}{of_cluster} serves {}:{}",
            node.0, listen.host, listen.port
        ));
        systemd::notify("READY=1");
    })
}

/// The executors that a node runs: one for each of its cores, and one for its beats.
pub(crate) fn executors(config: &NodeConfig) -> usize {
    usize::from(config.cores) + 1
}

/// Refuses ports that are taken, before anything is created. Whoever takes one after that is met when
/// the core listens.
#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "looked at before the first core starts"
)]
pub(crate) fn refuse_taken_ports(
    nodes: &[NodeConfig],
    instead: &'static str,
) -> Result<(), NodeError> {
    let until = std::time::Instant::now() + limits::PORT_GRACE;
    for node in nodes {
        let first = resolve(&node.listen.host, node.listen.port)?;
        for core in 0..node.cores {
            let port = node.listen.port.saturating_add(core);
            while is_taken(SocketAddr::new(first.ip(), port))? {
                if std::time::Instant::now() >= until {
                    return Err(NodeError::PortInUse {
                        host: first.ip().to_string(),
                        port,
                        instead,
                    });
                }
                std::thread::sleep(limits::PORT_POLL);
            }
        }
    }
    Ok(())
}

/// Whether somebody listens there.
///
/// # Errors
/// `Listen`: nobody can, as of an address that the machine does not have.
#[expect(
    clippy::disallowed_types,
    reason = "looked at before the first core starts"
)]
fn is_taken(address: SocketAddr) -> Result<bool, NodeError> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(true),
        Err(source) => Err(NodeError::Address {
            address: address.to_string(),
            source,
        }),
    }
}

/// Prints a line for the user. That nobody reads it must not stop a node.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs nodes until a signal stops them or one of them fails; calls `ready`, with the last node to be so, once all
/// their shards have leaders.
pub(crate) fn supervise(
    nodes: Vec<NodeConfig>,
    instead: &'static str,
    ready: impl FnOnce(NodeId),
) -> Result<(), NodeError> {
    let system = |what| move |source| NodeError::System { what, source };
    raise_open_files_limit(&nodes);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the signal handling"))?
        .block_on(async move {
            let mut signals = Signals::new().map_err(system("handle signals"))?;
            let cores: usize = nodes.iter().map(|node| usize::from(node.cores)).sum();
            let (events, happened) = corelith_io::channel(2 * cores);
            let mut running = Running::default();
            let mut outcome = Ok(());
            for node in nodes {
                outcome = running.start(node, instead, &events);
                if outcome.is_err() {
                    break;
                }
            }
            drop(events);
            if outcome.is_ok() {
                outcome = wait(&mut signals, &happened, cores, ready).await;
            }
            systemd::notify("STOPPING=1");
            let stopped = running.stop(&mut signals).await;
            outcome.and(stopped)
        })
}

/// Raises the limit of open files, and says if clients could use it up.
fn raise_open_files_limit(nodes: &[NodeConfig]) {
    let cores: u64 = nodes.iter().map(|node| u64::from(node.cores)).sum();
    let wanted = cores * limits::CONNECTIONS_PER_CORE_MAX as u64 + limits::OPEN_FILES_MIN;
    match corelith_io::probe::raise_open_files_limit() {
        Ok(limit) if limit < wanted => tracing::info!(
            limit,
            wanted,
            "the limit of open files is lower than all clients and files may need: see LimitNOFILE"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Waits for a signal (`Ok`) or the end of a core.
async fn wait(
    signals: &mut Signals,
    happened: &Receiver<CoreEvent>,
    cores: usize,
    ready: impl FnOnce(NodeId),
) -> Result<(), NodeError> {
    let mut ready = Some(ready);
    let mut unready = cores;
    loop {
        let event = tokio::select! {
            () = signals.next() => return Ok(()),
            event = happened.recv() => event,
        };
        let Ok(event) = event else {
            return Ok(());
        };
        match event.what {
            CoreEventKind::Ready => unready = unready.saturating_sub(1),
            CoreEventKind::Ended(ended) => return how_it_ends(ended, event.node, event.core),
        }
        if unready == 0
            && let Some(ready) = ready.take()
        {
            ready(event.node);
        }
    }
}

/// How the process ends since a core has, which nobody asked to. A node that was removed is not to be started again.
fn how_it_ends(ended: Result<(), NodeError>, node: NodeId, core: u16) -> Result<(), NodeError> {
    match ended {
        Err(NodeError::Removed { why }) => {
            say(&why);
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => Err(NodeError::Ended { node: node.0, core }),
    }
}

/// The signals that stop the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal that is meant as another one: a supervisor may send the first one twice,
    /// to the process and to its group.
    async fn again(&mut self) {
        let first = tokio::time::Instant::now();
        loop {
            self.next().await;
            if first.elapsed() >= limits::SECOND_SIGNAL_AFTER {
                return;
            }
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The cores that run in this process.
#[derive(Default)]
struct Running {
    stops: Vec<Sender<()>>,
    cores: Vec<(u64, u16, CoreHandle)>,
    beats: Vec<(u64, CoreHandle)>,
}

impl Running {
    fn start(
        &mut self,
        config: NodeConfig,
        instead: &'static str,
        events: &Sender<CoreEvent>,
    ) -> Result<(), NodeError> {
        let listen = resolve(&config.listen.host, config.listen.port)?;
        let node = config.id.0;
        let pin = config.pin.clone();
        let backend = config.io.backend.unwrap_or_else(Backend::best);
        let PreparedNode {
            cores,
            beats,
            stops,
        } = core::prepare(config, listen, instead, events);
        self.stops.extend(stops);
        for (core, setup) in (0..).zip(cores) {
            let executor = CoreConfig {
                backend,
                cpu: pin.get(usize::from(core)).copied(),
                locked_memory_bytes: limits::LOCKED_MEMORY_PER_CORE_BYTES,
                ..CoreConfig::new(format!("n{node}-core{core}"))
            };
            let handle = executor
                .start(move || core::run(setup))
                .map_err(|source| NodeError::Core { node, core, source })?;
            self.cores.push((node, core, handle));
        }
        let executor = CoreConfig {
            backend,
            locked_memory_bytes: limits::LOCKED_MEMORY_PER_CORE_BYTES,
            ..CoreConfig::new(format!("n{node}-beats"))
        };
        let failed = |source| NodeError::Beats { node, source };
        let handle = executor.start(move || beats::run(beats)).map_err(failed)?;
        self.beats.push((node, handle));
        Ok(())
    }

    /// Tells all cores to stop and waits for their end; a second signal ends the wait.
    async fn stop(self, signals: &mut Signals) -> Result<(), NodeError> {
        drop(self.stops);
        let (cores, beats) = (self.cores, self.beats);
        let ended = tokio::task::spawn_blocking(move || {
            for (node, core, handle) in cores {
                handle
                    .join()
                    .map_err(|source| NodeError::Core { node, core, source })?;
            }
            for (node, handle) in beats {
                handle
                    .join()
                    .map_err(|source| NodeError::Beats { node, source })?;
            }
            Ok(())
        });
        tokio::select! {
            // The task neither panics nor is cancelled.
            ended = ended => ended.unwrap_or(Ok(())),
            () = tokio::time::sleep(limits::STOP_DEADLINE) => give_up(&NodeError::SlowStop {
                seconds: limits::STOP_DEADLINE.as_secs(),
            }),
            () = signals.again() => give_up(&NodeError::Interrupted),
        }
    }
}

/// Ends the process although cores still run: nothing could make them end.
fn give_up(why: &NodeError) -> ! {
    let _ = writeln!(std::io::stderr(), "corelith: {why}");
    std::process::exit(limits::EXIT_CODE_GAVE_UP)
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, NodeError> {
    look_up(host, port).map_err(|reason| NodeError::Resolve {
        host: host.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_removed_ends_well() {
        let why = || "so it is".to_owned();
        let ends = |ended| how_it_ends(ended, NodeId(1), 0).is_ok();
        assert!(ends(Err(NodeError::Removed { why: why() })));
        assert!(!ends(Err(NodeError::Excluded { why: why() })));
        assert!(!ends(Ok(())), "nobody asked it to");
    }
}
