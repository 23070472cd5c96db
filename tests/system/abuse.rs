//! Clients that take more than their part, against real processes: memory as the kernel counts it, and what the
//! log says of them. `corelith-bench --workload abuse` has the figures.

use crate::cluster::{Cluster, NODES, SHARDS};
use crate::waiting;
use corelith_wire::handshake::{HELLO_BYTES, Hello, WELCOME_BYTES};
use corelith_wire::request::{self, GetRequest};
use corelith_wire::{ClusterId, Epoch, Head, Kind, Outbox, RequestId, ShardId, placement};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const KEY: &[u8] = b"long";
const VALUE_BYTES: usize = 8 << 20;
/// What the clients of a node may take, see `cluster::configuration`, and what else it may need meanwhile.
const GROWTH_MAX: u64 = (64 << 20) + (64 << 20);
/// What may stay.
const KEPT_MAX: u64 = 48 << 20;

/// Resident memory of each node.
fn resident(cluster: &Cluster) -> Vec<u64> {
    let of = |node| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(node)));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1024
    };
    (1..=NODES).map(of).collect()
}

/// Growth of the node that has grown most.
fn growth(cluster: &Cluster, before: &[u64]) -> u64 {
    let now = resident(cluster);
    let growth = now
        .iter()
        .zip(before)
        .map(|(now, before)| now.saturating_sub(*before));
    growth.max().unwrap()
}

async fn connect(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = Hello::client(ClusterId(0)).encode();
    stream.write_all(&hello).await.unwrap();
    let mut welcome = [0; WELCOME_BYTES];
    stream.read_exact(&mut welcome).await.unwrap();
    stream
}

/// `count` gets of the long value.
fn gets(count: u64) -> Vec<u8> {
    let mut out = Outbox::default();
    for request in 0..count {
        let head = Head {
            kind: Kind::GET,
            request_id: RequestId(request),
            shard: ShardId(placement::shard_of(KEY, SHARDS).0),
            epoch: Epoch(1),
        };
        request::encode_get(&mut out, head, &GetRequest { key: KEY });
    }
    out.slices().flatten().copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_do_not_fill_the_memory() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    client.put(KEY, vec![7; VALUE_BYTES]).await.unwrap();
    client.put("short", "value").await.unwrap();
    client.get(KEY).await.unwrap();
    let before = resident(&cluster);
    let mut abusers = Vec::new();
    for address in cluster.seeds().split(',') {
        // Followers name the leader 400 times, which is no harm either.
        for _ in 0..10 {
            let mut stream = connect(address).await;
            stream.write_all(&gets(400)).await.unwrap();
            abusers.push(stream);
        }
    }
    for _ in 0..300 {
        client.get("short").await.unwrap();
        let growth = growth(&cluster, &before);
        assert!(growth < GROWTH_MAX, "{} MiB more", growth >> 20);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(abusers);
    waiting::until("the memory to be given back", || {
        let growth = growth(&cluster, &before);
        (growth < KEPT_MAX).then_some(()).ok_or(growth >> 20)
    });
    client.get(KEY).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_connections_do_not_keep_others_out() {
    let cluster = Cluster::start();
    cluster.client().await.put("short", "value").await.unwrap();
    for address in cluster.seeds().split(',') {
        for _ in 0..2000 {
            let stream = TcpStream::connect(address).await.unwrap();
            #[expect(deprecated, reason = "a linger of zero does not block")]
            stream.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    // With a pause for each of them it would take minutes.
    let client = cluster.client().await;
    client.get("short").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_who_was_refused_in_plain_text() {
    let cluster = Cluster::start();
    let seeds = cluster.seeds();
    let address = seeds.split(',').next().unwrap();
    // No hello.
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(&[b'x'; HELLO_BYTES]).await.unwrap();
    // A hello, but then no request.
    let mut liar = connect(address).await;
    liar.write_all(&[b'x'; 64]).await.unwrap();
    for refused in [&stranger, &liar] {
        let from = refused.local_addr().unwrap().to_string();
        waiting::until("the log to name the address", || {
            let log = std::fs::read_to_string(cluster.path("node-1.log")).unwrap();
            assert!(!log.contains('\x1b'), "colours in a file: {log}");
            log.contains(&from).then_some(()).ok_or(log)
        });
    }
}
