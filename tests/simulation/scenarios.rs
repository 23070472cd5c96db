//! The scenarios.

use crate::chaos;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::seeds::{on_all_processors, seeds};
use crate::trial::Report;
use bytes::Bytes;
use corelith_client::session::{ReadFrom, Request, Source};
use corelith_wire::request::Condition;
use corelith_wire::response::Answer;
use std::sync::Mutex;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(10);
const SHARDS: u32 = 3;
/// A stop flushes the shards that are open.
const STOP_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn chaos_leaves_every_history_explainable_and_replicas_equal() {
    let seeds = seeds(12);
    let runs = seeds.end - seeds.start;
    let total = Mutex::new(Report::default());
    on_all_processors(seeds, |seed| {
        let report = chaos::run(&Plan::of(seed));
        let mut total = total.lock().unwrap();
        total.add(&report);
    });
    let total = total.into_inner().unwrap();
    println!("{}; {:?}", total.summary(runs), total.refusals);
    let runs = usize::try_from(runs).unwrap();
    assert!(
        total.done > 60 * runs && total.strikes > 4 * runs,
        "too little happened in {runs} runs: {total:?}"
    );
    assert!(
        total.uploaded > runs && total.read_whole > runs,
        "too few large values in {runs} runs: {total:?}"
    );
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in seeds(6).take(6) {
        let plan = Plan::of(seed);
        let (first, second) = (chaos::run(&plan), chaos::run(&plan));
        assert_eq!(first, second, "seed {seed} does not repeat");
    }
}

/// What is not open yet when a node is told to stop is not waited for.
#[test]
fn a_node_stops_while_it_opens_many_shards() {
    for seed in seeds(2) {
        let mut cluster = Cluster::start(&Plan::plain(seed, 24));
        cluster.wait_ready(WITHIN);
        let (sim, disk) = (cluster.sim.clone(), cluster.sim.disk(cluster.node(0)));
        cluster.kill(0);
        for after in [300, 900, 1_500, 2_100] {
            disk.set_slowness(200);
            cluster.restart(0);
            sim.run_for(Duration::from_millis(after + seed * 50));
            disk.heal();
            disk.set_slowness(100);
            let told = sim.now();
            cluster.stop(0);
            let took = sim.now() - told;
            println!("seed {seed}: told to stop after {after} ms, has after {took:?}");
            assert!(took <= STOP_LIMIT, "seed {seed}: stops after {took:?}");
        }
        disk.heal();
        cluster.restart(0);
        cluster.wait_ready(WITHIN);
    }
}

#[test]
fn data_survives_a_power_cut_of_the_whole_cluster() {
    for seed in seeds(3) {
        let mut cluster = Cluster::start(&Plan::plain(seed, SHARDS));
        cluster.wait_ready(WITHIN);
        let map = cluster.map();
        let versions = cluster.sim.block_on(cluster.outside, async move {
            let client = Client::new(map);
            let mut versions = Vec::new();
            for n in 0..200u32 {
                let (key, value) = (
                    Bytes::from(format!("k{n}")),
                    Bytes::from(vec![n as u8; 900]),
                );
                match client.put(key, value, Condition::Any, WITHIN).await {
                    Ok(Answer::Written { version, .. }) => versions.push(version),
                    other => panic!("seed {seed}: put {n}: {other:?}"),
                }
            }
            versions
        });
        for at in 0..cluster.len() {
            cluster.crash(at);
        }
        for at in 0..cluster.len() {
            cluster.restart(at);
        }
        cluster.wait_ready(WITHIN);
        let map = cluster.map();
        cluster.sim.block_on(cluster.outside, async move {
            let client = Client::new(map);
            for (n, expected) in versions.into_iter().enumerate() {
                match client.get(Bytes::from(format!("k{n}")), WITHIN).await {
                    Ok(Answer::Value { version, value, .. }) => {
                        assert_eq!(version, expected, "seed {seed}: key {n}");
                        assert_eq!(value, vec![n as u8; 900], "seed {seed}: key {n}");
                    }
                    other => panic!("seed {seed}: get {n}: {other:?}"),
                }
            }
        });
    }
}

#[test]
fn a_node_stops_in_order_and_comes_back() {
    let mut cluster = Cluster::start(&Plan::plain(7, SHARDS));
    cluster.wait_ready(WITHIN);
    for at in 0..cluster.len() {
        cluster.stop(at);
        let map = cluster.map();
        cluster.sim.block_on(cluster.outside, async move {
            let client = Client::new(map);
            for n in 0..20 {
                let key = Bytes::from(format!("k{n}"));
                let put = client
                    .put(key, Bytes::from_static(b"v"), Condition::Any, WITHIN)
                    .await;
                assert!(matches!(put, Ok(Answer::Written { .. })), "{put:?}");
            }
        });
        cluster.restart(at);
        cluster.wait_ready(WITHIN);
    }
}

#[test]
fn a_node_that_loses_its_power_while_it_stops_is_down() {
    for seed in seeds(3) {
        let mut cluster = Cluster::start(&Plan::plain(seed, SHARDS));
        cluster.wait_ready(WITHIN);
        // Closing its shards flushes them, which is many more I/Os than these.
        let node = cluster.node(0);
        cluster.sim.crash_at_io(node, 1 + seed % 8);
        cluster.stop(0);
        assert!(!cluster.sim.is_up(node), "seed {seed}: it stopped in order");
        assert!(!cluster.is_running(0), "seed {seed}");
        cluster.restart(0);
        cluster.wait_ready(WITHIN);
    }
}

#[test]
fn a_minority_neither_reads_nor_writes() {
    let mut cluster = Cluster::start(&Plan::plain(11, SHARDS));
    cluster.wait_ready(WITHIN);
    cluster.crash(1);
    cluster.crash(2);
    // Longer than any lease.
    cluster.sim.run_for(Duration::from_secs(3));
    let map = cluster.map();
    cluster.sim.block_on(cluster.outside, async move {
        let client = Client::new(map);
        for n in 0..6 {
            let key = Bytes::from(format!("k{n}"));
            let get = client.get(key.clone(), Duration::from_secs(1)).await;
            assert!(get.is_err(), "{get:?}");
            let value = Bytes::from_static(b"v");
            let put = client
                .put(key, value, Condition::Any, Duration::from_secs(1))
                .await;
            assert!(put.is_err(), "{put:?}");
        }
    });
}

/// Reads from any replica are answered, with what was written before, while one of three nodes is cut off from the
/// others but not from clients, is paused, or is down.
#[test]
fn reads_from_any_replica_go_on_while_one_node_is_in_trouble() {
    for seed in seeds(2) {
        for trouble in 0..3 {
            let mut cluster = Cluster::start(&Plan::plain(seed, SHARDS));
            cluster.wait_ready(WITHIN);
            let map = cluster.map();
            let client = cluster.sim.block_on(cluster.outside, async move {
                let client = Client::new(map);
                check_reads(&client, seed, 0).await;
                client
            });
            let at = seed as usize % cluster.len();
            let node = cluster.node(at);
            let nodes = cluster.nodes();
            let others: Vec<_> = nodes.into_iter().filter(|other| *other != node).collect();
            match trouble {
                0 => cluster.sim.net().partition(&[node], &others),
                1 => cluster.sim.pause(node),
                _ => cluster.crash(at),
            }
            let reader = client.clone();
            cluster.sim.block_on(cluster.outside, async move {
                check_reads(&reader, seed, 1).await;
            });
            match trouble {
                0 => cluster.sim.net().heal_all(),
                1 => cluster.sim.resume(node),
                _ => cluster.restart(at),
            }
            cluster.sim.block_on(cluster.outside, async move {
                check_reads(&client, seed, 2).await;
            });
        }
    }
}

/// Writes keys and reads each from any replica a few times.
async fn check_reads(client: &Client, seed: u64, round: u8) {
    for n in 0..12u8 {
        let key = Bytes::from(format!("k{n}"));
        let value = Bytes::from(vec![n, round]);
        let put = client.put(key.clone(), value.clone(), Condition::Any, WITHIN);
        let Ok(Answer::Written { version, .. }) = put.await else {
            panic!("seed {seed}, round {round}: put {n}");
        };
        for _ in 0..4 {
            let source = Source::From(ReadFrom::Any);
            let request = Request::Get { key: key.clone() };
            let (outcome, _) = client.run_from(request, WITHIN, source).await;
            let read = match outcome {
                Ok(Answer::Value { version, value, .. }) => (version, value),
                other => panic!("seed {seed}, round {round}: get {n}: {other:?}"),
            };
            assert_eq!(read, (version, value.clone()), "seed {seed}, round {round}");
        }
    }
}
