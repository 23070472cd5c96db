//! What goes wrong in a simulated cluster: one thing after the other, several at a time.

use crate::cluster::Cluster;
use corelith_consensus::{Group, Role};
use corelith_io::sim::{IoKind, SimConfig, SimNode};
use corelith_shards::{NodeId, ShardId};
use std::time::Duration;

/// Does harm, and knows what of it lasts.
pub(crate) struct Nemesis {
    shards: u32,
    /// Longest election timeout: how long a promise to a leader lasts.
    promise: Duration,
    drift: i32,
    paused: Vec<usize>,
    /// Nodes that lose power at some I/O to come.
    armed: Vec<usize>,
    pub strikes: usize,
}

impl Nemesis {
    pub(crate) fn new(shards: u32, promise: Duration, drift: i32) -> Self {
        Self {
            shards,
            promise,
            drift,
            paused: Vec::new(),
            armed: Vec::new(),
            strikes: 0,
        }
    }

    /// Does one random thing to the cluster.
    pub(crate) fn strike(&mut self, cluster: &mut Cluster) {
        cluster.check_events();
        let sim = cluster.sim.clone();
        let at = sim.random_below(cluster.len() as u64) as usize;
        if !cluster.is_running(at) {
            self.armed.retain(|armed| *armed != at);
            cluster.restart(at);
            return;
        }
        if let Some(paused) = self.paused.iter().position(|paused| *paused == at) {
            self.paused.swap_remove(paused);
            sim.resume(cluster.node(at));
            return;
        }
        self.strikes += 1;
        let what = sim.random_below(20);
        tracing::info!(now = ?sim.now(), node = at + 1, what, "strike");
        match what {
            0..4 => self.strike_process(cluster, at),
            4..9 => strike_network(cluster, at),
            9..13 => strike_disk(cluster, at),
            13 => {
                let ppm = sim.random_below(2 * self.drift as u64 + 1) as i32 - self.drift;
                sim.set_clock_drift(cluster.node(at), ppm);
            }
            14..17 => self.strike_lead(cluster),
            17 => {
                sim.net().heal_all();
                self.strikes -= 1;
            }
            18 => {
                mend_disk(cluster, at);
                self.strikes -= 1;
            }
            _ => self.restart_fenced(cluster),
        }
        cluster.check_events();
    }

    fn strike_process(&mut self, cluster: &mut Cluster, at: usize) {
        let sim = cluster.sim.clone();
        let node = cluster.node(at);
        let what = sim.random_below(12);
        tracing::info!(node = at + 1, what, "process");
        match what {
            0..3 => cluster.crash(at),
            3 => cluster.kill(at),
            4 => self.crash_leader(cluster),
            5 => (0..cluster.len()).for_each(|at| {
                if cluster.is_running(at) {
                    cluster.crash(at);
                }
            }),
            6..9 => {
                self.armed.push(at);
                sim.crash_at_io(node, 1 + sim.random_below(200));
            }
            9 if !cluster.is_excused(at) => cluster.stop(at),
            _ => {
                self.paused.push(at);
                sim.pause(node);
            }
        }
    }

    fn crash_leader(&self, cluster: &mut Cluster) {
        if let Some(leader) = self.some_leader(cluster) {
            let at = cluster.place_of(leader.node());
            cluster.crash(at);
        }
    }

    fn some_leader(&self, cluster: &Cluster) -> Option<Group> {
        let shard = ShardId(cluster.sim.random_below(self.shards.into()) as u32);
        cluster.leader(shard)
    }

    /// Things that concern the leader of one shard.
    fn strike_lead(&mut self, cluster: &mut Cluster) {
        let Some(leader) = self.some_leader(cluster) else {
            return;
        };
        let sim = cluster.sim.clone();
        let me = leader.node();
        let members = leader.members().stores.into_keys();
        let nodes = members.map(corelith_wire::ReplicaId::node);
        let others: Vec<NodeId> = nodes.filter(|node| *node != me).collect();
        let Some(to) = others.get(sim.random_below(others.len() as u64) as usize) else {
            return;
        };
        let own = cluster.node(cluster.place_of(me));
        let what = sim.random_below(6);
        tracing::info!(%me, %to, shard = %leader.shard(), what, "lead");
        match what {
            0 => hand_over(cluster, &leader, *to),
            1 | 2 => {
                // The others agree fast, and the old leader hears of it late.
                for node in cluster.nodes().into_iter().filter(|node| *node != own) {
                    let delay = 50 + sim.random_below(900);
                    sim.net().clog(node, own, Duration::from_millis(delay));
                }
                hand_over(cluster, &leader, *to);
            }
            3 | 4 => {
                // One follower wants to lead for long when the leader loses the other ones.
                let rival = cluster.node(cluster.place_of(*to));
                sim.net().cut(own, rival);
                sim.run_for(self.promise * 2 + self.promise * sim.random_below(8) as u32 / 8);
                for node in cluster.nodes().into_iter().filter(|node| *node != own) {
                    sim.net().cut(own, node);
                }
                sim.run_for(self.promise);
            }
            _ => {
                // A request on its way meets the leader that it was sent to after it was another.
                let delay = Duration::from_millis(2_500 + sim.random_below(2_500));
                sim.net().clog(cluster.outside, own, delay);
                sim.run_for(Duration::from_millis(sim.random_below(400)));
                hand_over(cluster, &leader, *to);
                let shard = leader.shard();
                drop(leader);
                sim.run_for(delay / 2);
                if let Some(next) = cluster.leader_among(&others, shard) {
                    hand_over(cluster, &next, me);
                }
                sim.run_for(delay / 2);
            }
        }
    }

    /// Starts a node anew that has shards which take nothing any more.
    fn restart_fenced(&mut self, cluster: &mut Cluster) {
        let Some(at) = fenced(cluster).into_iter().next() else {
            return;
        };
        mend_disk(cluster, at);
        cluster.crash(at);
        cluster.excuse(at, false);
        self.armed.retain(|armed| *armed != at);
        cluster.restart(at);
    }

    /// Ends everything that goes wrong.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster) {
        let sim = cluster.sim.clone();
        cluster.check_events();
        tracing::info!(now = ?sim.now(), paused = ?self.paused, armed = ?self.armed, "heal");
        sim.net().heal_all();
        for at in self.paused.drain(..) {
            sim.resume(cluster.node(at));
        }
        let fenced = fenced(cluster);
        for at in 0..cluster.len() {
            mend_disk(cluster, at);
            let is_harmed =
                fenced.contains(&at) || self.armed.contains(&at) || cluster.is_broken(at);
            let anew = is_harmed || sim.random_below(3) == 0;
            if cluster.is_running(at) && anew {
                cluster.crash(at);
            }
            if !cluster.is_running(at) {
                cluster.excuse(at, false);
                cluster.restart(at);
            }
        }
        self.armed.clear();
    }
}

fn hand_over(cluster: &Cluster, leader: &Group, to: NodeId) {
    let node = cluster.node(cluster.place_of(leader.node()));
    if cluster.sim.is_up(node) {
        cluster.sim.enter(node, || leader.start_hand_over(to));
    }
}

/// The nodes that run and have shards which take nothing any more.
fn fenced(cluster: &Cluster) -> Vec<usize> {
    let groups = cluster.groups().into_iter();
    let stopped = groups.filter(|group| group.status().role == Role::Stopped);
    let mut nodes: Vec<usize> = stopped
        .map(|group| cluster.place_of(group.node()))
        .collect();
    nodes.retain(|at| cluster.is_running(*at));
    nodes.dedup();
    nodes
}

fn strike_network(cluster: &mut Cluster, at: usize) {
    let sim = cluster.sim.clone();
    let net = sim.net();
    let node = cluster.node(at);
    let others: Vec<SimNode> = cluster.nodes().into_iter().filter(|n| *n != node).collect();
    let other = others[sim.random_below(others.len() as u64) as usize];
    let what = sim.random_below(12);
    tracing::info!(node = at + 1, what, "network");
    match what {
        0 => net.isolate(node),
        // Clients still reach it.
        1 | 2 => net.partition(&[node], &others),
        3 => net.deafen(node),
        4 => net.mute(node),
        5 => net.cut(node, other),
        6 => net.cut_one_way(node, other),
        7 => net.cut(node, cluster.outside),
        8 => {
            let side = |_: &&SimNode| sim.random_below(2) == 0;
            let one: Vec<SimNode> = cluster.nodes().iter().filter(side).copied().collect();
            let rest = cluster.nodes().into_iter().filter(|n| !one.contains(n));
            net.partition(&one, &rest.collect::<Vec<_>>());
        }
        9 => net.reset_all(),
        10 => net.set_packet_loss(0.05),
        _ => {
            let delay = Duration::from_millis(5 + sim.random_below(600));
            net.clog(node, other, delay);
        }
    }
}

fn strike_disk(cluster: &mut Cluster, at: usize) {
    let sim = cluster.sim.clone();
    let disk = sim.disk(cluster.node(at));
    let what = sim.random_below(13);
    tracing::info!(node = at + 1, what, "disk");
    let any_of = |kinds: &[IoKind]| kinds[sim.random_below(kinds.len() as u64) as usize];
    match what {
        0..4 => disk.stall(Duration::from_millis(100 + sim.random_below(9_900))),
        4 => disk.set_slowness(1 + sim.random_below(50) as u32),
        5..7 => {
            cluster.excuse(at, true);
            disk.set_capacity(disk.used_bytes() + sim.random_below(1 << 20));
        }
        7..9 => {
            // Full at one step only, which may come when there is room again.
            cluster.excuse(at, true);
            let kind = any_of(&FULL_AT);
            disk.fail_for_space(kind, "shard", sim.random_below(pass_of(kind)));
        }
        9 => {
            // What comes back is another block, or that of another file.
            cluster.break_disk(at);
            match sim.random_below(2) {
                0 => disk.misdirect(IoKind::Read, "shard", sim.random_below(100)),
                _ => disk.misdirect_across(IoKind::Read, "shard", sim.random_below(100)),
            }
        }
        _ => {
            cluster.break_disk(at);
            let kind = any_of(&FAILING);
            disk.fail(kind, "shard", sim.random_below(pass_of(kind)));
        }
    }
}

/// What may find the device full.
const FULL_AT: [IoKind; 5] = [
    IoKind::Write,
    IoKind::SetLen,
    IoKind::Sync,
    IoKind::SyncDir,
    IoKind::Rename,
];
/// What may fail for good; a directory that cannot be synced may lose names.
const FAILING: [IoKind; 7] = [
    IoKind::Write,
    IoKind::SetLen,
    IoKind::Sync,
    IoKind::SyncDir,
    IoKind::Rename,
    IoKind::Read,
    IoKind::Name,
];

/// At most so many operations pass before one fails: there are few of some kinds.
fn pass_of(kind: IoKind) -> u64 {
    match kind {
        IoKind::SetLen | IoKind::SyncDir | IoKind::Rename => 8,
        _ => 100,
    }
}

fn mend_disk(cluster: &Cluster, at: usize) {
    let disk = cluster.sim.disk(cluster.node(at));
    disk.heal();
    disk.set_capacity(SimConfig::default().disk_capacity_bytes);
}
