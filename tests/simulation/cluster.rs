//! The nodes of a simulated world.

use crate::plan::Plan;
use corelith::node::cluster::placement::Placement;
use corelith::node::config::{
    ClientsConfig, ClusterConfig, IoConfig, Listen, LivenessConfig, NodeConfig, NodeEntry, Place,
    StorageConfig,
};
use corelith::node::data_dir::identity;
use corelith::node::run::beats;
use corelith::node::run::core::{self, CoreEvent, CoreEventKind, PreparedNode};
use corelith_consensus::{Group, Reads, Role, planted};
use corelith_io::sim::{Sim, SimNode};
use corelith_io::{Receiver, Sender};
use corelith_shards::{NodeId, ShardId};
use corelith_wire::map::ClusterMap;
use std::sync::Arc;
use std::time::Duration;

const PORT: u16 = 7411;

struct Member {
    node: SimNode,
    config: NodeConfig,
    /// While its process runs: dropping the senders stops it.
    running: Option<(Vec<Sender<()>>, Receiver<CoreEvent>)>,
    ready_cores: u16,
    ended_cores: u16,
    /// Its disk was given faults: it may end by itself.
    excused: bool,
    /// Some of these were errors: its shards may take nothing any more.
    broken: bool,
    /// A core has ended by itself.
    failed: bool,
    /// It may have been removed from the cluster, so that it ends by itself.
    leaves: bool,
}

/// A cluster of nodes.
pub(crate) struct Cluster {
    pub sim: Sim,
    /// Where the clients run.
    pub outside: SimNode,
    members: Vec<Member>,
    plan: Plan,
}

impl Cluster {
    /// Makes the machines and starts all nodes.
    pub(crate) fn start(plan: &Plan) -> Self {
        Group::forget_watched();
        planted::keep_entries(Some(plan.kept_entries));
        let sim = Sim::with_config(plan.seed, plan.sim.clone());
        let machines: Vec<SimNode> = plan.cores.iter().map(|_| sim.add_node()).collect();
        let outside = sim.add_node();
        for (node, ppm) in machines.iter().zip(&plan.clocks) {
            sim.set_clock_drift(*node, *ppm);
        }
        let entries: Vec<NodeEntry> = machines
            .iter()
            .zip(&plan.cores)
            .map(|(node, cores)| NodeEntry {
                id: u64::from(node.number()),
                host: node.ip().to_string(),
                port: PORT,
                cores: *cores,
            })
            .collect();
        let members = machines
            .iter()
            .zip(&plan.cores)
            .map(|(node, cores)| Member {
                node: *node,
                config: configure(*node, *cores, plan, &entries),
                running: None,
                ready_cores: 0,
                ended_cores: 0,
                excused: false,
                broken: false,
                failed: false,
                leaves: false,
            })
            .collect();
        let mut cluster = Self {
            sim,
            outside,
            members,
            plan: plan.clone(),
        };
        for at in 0..cluster.members.len() {
            cluster.restart(at);
        }
        cluster
    }

    /// Starts a machine that joins at the first nodes, and has its id from them; returns its place. It is given faults
    /// as the others are.
    pub(crate) fn join(&mut self, cores: u16) -> usize {
        let node = self.sim.add_node();
        let mut config = configure(node, cores, &self.plan, &[]);
        config.id = NodeId(0);
        config.cluster = ClusterConfig {
            nodes: Vec::new(),
            ..config.cluster
        };
        let machines = self.members.iter().map(|member| member.node);
        config.join = machines.map(|node| (node.ip().to_string(), PORT)).collect();
        self.members.push(Member {
            node,
            config,
            running: None,
            ready_cores: 0,
            ended_cores: 0,
            excused: false,
            broken: false,
            failed: false,
            leaves: false,
        });
        let at = self.members.len() - 1;
        self.restart(at);
        at
    }

    /// Learns which ids the cluster has given machines that joined.
    pub(crate) fn meet(&mut self) {
        for member in self
            .members
            .iter_mut()
            .filter(|of| of.config.id == NodeId(0))
        {
            let file = format!("/data/{}", identity::FILE_NAME);
            let bytes = self.sim.disk(member.node).read(&file);
            let known = bytes.and_then(|bytes| identity::decode(&file, &bytes).ok());
            member.config.id = known.map_or(NodeId(0), |known| known.node);
        }
    }

    /// The id of a node; 0 while it has none.
    pub(crate) fn id(&self, at: usize) -> NodeId {
        self.members[at].config.id
    }

    /// Says whether the node may have been removed from the cluster.
    pub(crate) fn leaves(&mut self, at: usize, leaves: bool) {
        self.members[at].leaves = leaves;
    }

    /// Takes everything away from the disk of a node that does not run.
    pub(crate) fn empty(&self, at: usize) {
        assert!(!self.is_running(at), "its process has files open");
        let blank = self.sim.add_node();
        let image = self.sim.disk(blank).image();
        self.sim.disk(self.node(at)).restore(&image);
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The machine of a node.
    pub(crate) fn node(&self, at: usize) -> SimNode {
        self.members[at].node
    }

    /// The machines of all nodes.
    pub(crate) fn nodes(&self) -> Vec<SimNode> {
        self.members.iter().map(|member| member.node).collect()
    }

    /// Whether the node's process was started and not taken down since.
    pub(crate) fn is_running(&self, at: usize) -> bool {
        self.members[at].running.is_some()
    }

    /// The map that clients go by: of whichever cluster the nodes form.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        Arc::new(Placement::new(&self.members[0].config).cluster_map())
    }

    /// The place of a node among the members.
    pub(crate) fn place_of(&self, node: NodeId) -> usize {
        self.found(node).unwrap()
    }

    fn found(&self, node: NodeId) -> Option<usize> {
        let mut members = self.members.iter();
        members.position(|member| member.config.id == node)
    }

    /// The replicas of all shards that are open.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut groups = Group::watched();
        groups.retain(|group| {
            let runs = self
                .found(group.node())
                .is_some_and(|at| self.is_running(at));
            group.shard() != ShardId::META && runs
        });
        groups
    }

    /// A replica that thinks that it leads the shard: the one of the highest term.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<Group> {
        let groups = self.groups().into_iter();
        groups
            .filter(|group| group.shard() == shard && group.status().role == Role::Leader)
            .max_by_key(|group| group.status().term)
    }

    /// A replica on one of these nodes that thinks that it leads the shard.
    pub(crate) fn leader_among(&self, nodes: &[NodeId], shard: ShardId) -> Option<Group> {
        self.leader(shard)
            .filter(|group| nodes.contains(&group.node()))
    }

    /// Starts a node's process.
    pub(crate) fn restart(&mut self, at: usize) {
        let member = &mut self.members[at];
        assert!(member.running.is_none(), "node {} runs already", at + 1);
        let (events, happened) = corelith_io::channel(2 * usize::from(member.config.cores));
        let config = member.config.clone();
        let listen = member.node.address(PORT);
        let PreparedNode {
            cores,
            beats,
            stops,
        } = core::prepare(config, listen, "", &events);
        for (core, setup) in (0..).zip(cores) {
            self.sim.start(member.node, core, move || core::run(setup));
        }
        {
            let core = member.config.cores.into();
            self.sim.start(member.node, core, || beats::run(beats));
        }
        member.running = Some((stops, happened));
        member.ready_cores = 0;
        member.ended_cores = 0;
        member.failed = false;
    }

    /// Cuts a node's power.
    pub(crate) fn crash(&mut self, at: usize) {
        self.sim.crash(self.members[at].node);
        self.members[at].running = None;
    }

    /// Kills a node's process.
    pub(crate) fn kill(&mut self, at: usize) {
        self.sim.kill(self.members[at].node);
        self.members[at].running = None;
    }

    /// Asks a node to stop and waits until it has, or until it loses its power at an I/O of its stop:
    /// from then on nothing comes from it.
    pub(crate) fn stop(&mut self, at: usize) {
        let cores = self.members[at].config.cores;
        if let Some((stops, _)) = &mut self.members[at].running {
            stops.clear();
        }
        let sim = self.sim.clone();
        let stopped = sim.run_until(
            || {
                let member = &mut self.members[at];
                collect(member);
                member.ended_cores == cores || !sim.is_up(member.node)
            },
            Duration::from_secs(60),
        );
        assert!(stopped, "node {} does not stop", at + 1);
        if sim.is_up(self.members[at].node) {
            // What is left of the process ends with it.
            self.kill(at);
        } else {
            self.crash(at);
        }
    }

    /// Says whether the node's disk has, or had, faults since its process began.
    pub(crate) fn excuse(&mut self, at: usize, excused: bool) {
        self.members[at].excused = excused;
        self.members[at].broken &= excused;
    }

    /// Says that operations of the node's disk fail.
    pub(crate) fn break_disk(&mut self, at: usize) {
        self.members[at].excused = true;
        self.members[at].broken = true;
    }

    /// Whether operations of the disk failed, or were to fail.
    pub(crate) fn is_broken(&self, at: usize) -> bool {
        self.members[at].broken
    }

    /// Whether the node's disk was given faults.
    pub(crate) fn is_excused(&self, at: usize) -> bool {
        self.members[at].excused
    }

    /// Waits until all cores of all running nodes serve.
    pub(crate) fn wait_ready(&mut self, limit: Duration) {
        let sim = self.sim.clone();
        let ready = sim.run_until(
            || {
                self.members.iter_mut().all(|member| {
                    collect(member);
                    let is_gone = member.running.is_none() || member.leaves;
                    is_gone || member.ready_cores == member.config.cores
                })
            },
            limit,
        );
        let ready_cores = self
            .members
            .iter()
            .map(|member| (member.config.id, member.ready_cores, member.config.cores));
        assert!(
            ready,
            "the cluster is not ready after {limit:?}; cores of each node that are: {:?}",
            ready_cores.collect::<Vec<_>>()
        );
    }

    /// Takes down nodes that have ended by themselves because of their disks, or lost their power at
    /// an I/O. Panics if one ended without a reason.
    pub(crate) fn check_events(&mut self) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            collect(member);
            if member.running.is_some() && !self.sim.is_up(member.node) {
                self.crash(at);
            } else if member.failed && member.running.is_some() {
                self.kill(at);
            }
        }
    }
}

fn collect(member: &mut Member) {
    let Some((stops, happened)) = &member.running else {
        return;
    };
    while let Some(event) = happened.try_recv() {
        match event.what {
            CoreEventKind::Ready => member.ready_cores += 1,
            CoreEventKind::Ended(Ok(())) if stops.is_empty() => member.ended_cores += 1,
            CoreEventKind::Ended(_) if member.excused || member.leaves => member.failed = true,
            CoreEventKind::Ended(outcome) => {
                panic!(
                    "core {} of node {} has ended: {outcome:?}",
                    event.core, event.node
                )
            }
        }
    }
}

/// Small sizes, so that flushes, checkpoints, new segments and purges happen within a short run.
fn configure(node: SimNode, cores: u16, plan: &Plan, entries: &[NodeEntry]) -> NodeConfig {
    NodeConfig {
        id: NodeId(u64::from(node.number())),
        data_dir: "/data".into(),
        listen: Listen {
            host: node.ip().to_string(),
            port: PORT,
        },
        cores,
        place: Place {
            host: node.ip().to_string(),
            port: PORT,
            ..Place::default()
        },
        join: Vec::new(),
        pin: Vec::new(),
        cluster: ClusterConfig {
            name: "simulated".to_owned(),
            shards: plan.shards,
            replicas: Some(plan.replicas),
            reads: Reads::Lease,
            existing: false,
            nodes: entries.to_vec(),
        },
        storage: StorageConfig {
            memtable_bytes: plan.memtable_bytes,
            segment_bytes: 512 << 10,
            log_cache_bytes: 128 << 10,
            block_cache_bytes: 256 << 10,
            catch_up_bytes: 256 << 10,
            value_segment_bytes: 512 << 10,
            reserve_bytes: Some(256 << 10),
            compaction: plan.policy,
            compression: plan.compression,
            ..StorageConfig::default()
        },
        clients: ClientsConfig::default(),
        io: IoConfig::default(),
        liveness: LivenessConfig {
            beat_ms: plan.beat_ms,
            promise_ms: plan.promise_ms,
        },
    }
}
