//! Clients that take more than their part: the node's memory stays within its budget, others are served
//! meanwhile, and everything is given back.

use super::{CORES, Client, Cluster, PORT, config, key_of};
use crate::node::limits;
use crate::node::request::budget::{Budget, MADE};
use corelith_io::{Instant, TcpStream};
use corelith_wire::handshake::Hello;
use corelith_wire::request::{self, Condition, GetRequest, Operation, ScanRequest, WriteRequest};
use corelith_wire::response::{Answer, Failure};
use corelith_wire::{NodeId, Outbox};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// What the cluster's configuration gives the clients of a core, their connections aside.
const BUDGET: usize = (64 << 20) / 4 * 3;
const VALUE_BYTES: usize = 1 << 20;

/// Bytes that all cores hold for clients; more than one core's budget is asserted not to be held by any.
pub(super) fn used() -> usize {
    MADE.with_borrow(|made| {
        let used = made.iter().map(Budget::used);
        used.inspect(|used| assert!(*used <= BUDGET, "{used} bytes"))
            .sum()
    })
}

pub(super) async fn until(what: &str, within: Duration, done: impl Fn() -> bool) {
    let start = corelith_io::now();
    while !done() {
        assert!(
            start.elapsed() < within,
            "{what}: {} bytes are held",
            used()
        );
        corelith_io::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes a long value and a short one to shard 0.
async fn fill(address: SocketAddr) -> u64 {
    let (mut client, _) = Client::connect(address).await;
    let session = client.open_session(0).await;
    let written = client
        .put(0, (session, 1), &key_of(0, 0), &vec![7; VALUE_BYTES])
        .await;
    assert!(matches!(written, Answer::Written { .. }), "{written:?}");
    client.put(0, (session, 2), &key_of(0, 1), b"short").await;
    session
}

/// Another client's work while others abuse: it takes no longer than a second.
pub(super) async fn served(address: SocketAddr) {
    let (mut client, _) = Client::connect(address).await;
    for _ in 0..10 {
        let start: Instant = corelith_io::now();
        let answer = client.get(0, &key_of(0, 1)).await;
        assert!(matches!(answer, Answer::Value { .. }), "{answer:?}");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        used();
    }
}

/// Waits until answers of more than `waiting` bytes wait for those who do not read, and until all of it is given back;
/// others are served meanwhile, and after it.
pub(super) async fn is_given_back(address: SocketAddr, waiting: usize) {
    let within = Duration::from_secs(5);
    until("answers are waiting", within, || used() > waiting).await;
    served(address).await;
    let give_back = limits::TRANSFER_DEADLINE * 3;
    until("all is given back", give_back, || used() == 0).await;
    served(address).await;
}

/// Asks for the long value `count` times and reads nothing.
async fn ask_and_leave(address: SocketAddr, count: usize) -> Client {
    ask_for(address, &key_of(0, 0), count).await
}

async fn ask_for(address: SocketAddr, key: &[u8], count: usize) -> Client {
    let (mut client, _) = Client::connect(address).await;
    let mut out = Outbox::default();
    for _ in 0..count {
        let head = client.head(0);
        request::encode_get(&mut out, head, &GetRequest { key });
    }
    client.send(&out).await;
    client
}

#[test]
fn answers_that_nobody_reads_stay_within_the_budget() {
    for core in [0, 1] {
        // Core 0 has shard 0, core 1 forwards.
        let cluster = Cluster::start(20, 1);
        let node = cluster.nodes[0];
        cluster.sim.block_on(cluster.client, async move {
            fill(node.address(PORT)).await;
            let address = node.address(PORT + core);
            let mut abusers = Vec::new();
            for _ in 0..10 {
                abusers.push(ask_and_leave(address, 400).await);
                used();
            }
            is_given_back(address, BUDGET / 5).await;
            drop(abusers);
        });
    }
}

/// Asks `count` times for all that shard 0 has, and for what the node and its storage are like, and reads nothing.
async fn scan_and_leave(address: SocketAddr, count: usize) -> Client {
    let (mut client, _) = Client::connect(address).await;
    let mut out = Outbox::default();
    let scan = ScanRequest {
        start: b"",
        end: b"",
        limit_items: 1000,
        max_bytes: 4 << 20,
        at_version: 0,
    };
    for _ in 0..count {
        let head = client.head(0);
        request::encode_scan(&mut out, head, &scan);
        let head = client.head(0);
        request::encode_status(&mut out, head);
        let head = client.head(0);
        request::encode_storage(&mut out, head);
    }
    client.send(&out).await;
    client
}

#[test]
fn scans_and_reports_that_nobody_reads_stay_within_the_budget() {
    for core in [0, 1] {
        let cluster = Cluster::start(25, 1);
        let node = cluster.nodes[0];
        cluster.sim.block_on(cluster.client, async move {
            fill(node.address(PORT)).await;
            let address = node.address(PORT + core);
            let mut abusers = Vec::new();
            for _ in 0..10 {
                abusers.push(scan_and_leave(address, 100).await);
                used();
            }
            is_given_back(address, BUDGET / 5).await;
            drop(abusers);
        });
    }
}

#[test]
fn a_client_that_reads_gets_all_its_answers_in_turn() {
    for core in [0, 1] {
        let cluster = Cluster::start(21, 1);
        let node = cluster.nodes[0];
        cluster.sim.block_on(cluster.client, async move {
            fill(node.address(PORT)).await;
            let mut client = ask_and_leave(node.address(PORT + core), 100).await;
            for count in 0..100 {
                let (_, answer) = client.receive().await.expect("an answer");
                assert!(
                    matches!(&answer, Answer::Value { value, .. } if value.len() == VALUE_BYTES),
                    "{count}"
                );
                used();
            }
            until("all is given back", Duration::from_secs(5), || used() == 0).await;
        });
    }
}

/// The bytes of a put of a value of `len` bytes.
fn long_put(client: &mut Client, session: u64, len: usize) -> Vec<u8> {
    let request = WriteRequest {
        session,
        number: 100,
        answered_below: 1,
        condition: Condition::Any,
        operation: Operation::Put,
        key: &key_of(0, 2),
    };
    let mut out = Outbox::default();
    let head = client.head(0);
    request::encode_write(&mut out, head, &request, &vec![1; len].into());
    out.slices().flatten().copied().collect()
}

/// Sends the beginning of a put of `len` bytes, half of it.
async fn half_a_put(address: SocketAddr, session: u64, len: usize) -> Client {
    let (mut client, _) = Client::connect(address).await;
    let bytes = long_put(&mut client, session, len);
    let half = bytes[..bytes.len() / 2].to_vec();
    // The node may not read all of it.
    let mut write = client.write;
    let (_, idle) = TcpStream::connect(address).await.unwrap().into_split();
    client.write = idle;
    corelith_io::spawn(async move {
        let _ = write.write_all(&half).await;
        std::future::pending::<()>().await;
    });
    client
}

#[test]
fn half_sent_uploads_stay_within_the_budget_and_let_others_through() {
    for (len, count) in [(40_000, 200), (1 << 20, 100), (8 << 20, 30)] {
        let cluster = Cluster::start(22, 1);
        let address = cluster.nodes[0].address(PORT);
        cluster.sim.block_on(cluster.client, async move {
            let session = fill(address).await;
            let mut abusers = Vec::new();
            for _ in 0..count {
                abusers.push(half_a_put(address, session, len).await);
                used();
            }
            served(address).await;
            // Others' uploads come to their turn, since those that stand still go for them.
            let (mut client, _) = Client::connect(address).await;
            let key = key_of(0, 3);
            let put = client.put(0, (session, 3), &key, &[9; 100_000]);
            let written = corelith_io::timeout(limits::TRANSFER_DEADLINE * 20, put).await;
            assert!(matches!(written, Ok(Answer::Written { .. })), "{len}");
            used();
            until("all is given back", limits::TRANSFER_DEADLINE * 8, || {
                used() == 0
            })
            .await;
            drop(abusers);
        });
    }
}

/// How slow senders send: a steady trickle, or a burst at once and then so much at a time.
#[derive(Clone, Copy, Debug)]
struct Trickle {
    burst: usize,
    piece: usize,
    every: Duration,
}

/// Sends puts of 8 MiB slowly, for ever: connects anew whenever the node closes.
async fn send_slowly(address: SocketAddr, put: Rc<[u8]>, trickle: Trickle) {
    loop {
        let (mut client, _) = Client::connect(address).await;
        let (burst, rest) = put.split_at(trickle.burst);
        if client.write.write_all(burst).await.is_err() {
            continue;
        }
        for piece in rest.chunks(trickle.piece) {
            corelith_io::sleep(trickle.every).await;
            if client.write.write_all(piece).await.is_err() {
                break;
            }
        }
    }
}

#[test]
fn slow_senders_do_not_delay_others() {
    const PUT_MAX: Duration = Duration::from_secs(8);
    let steady = Trickle {
        burst: 9000,
        piece: 9000,
        every: Duration::from_millis(100),
    };
    let in_bursts = Trickle {
        burst: 60_000,
        piece: 63_000,
        every: Duration::from_millis(700),
    };
    let stalling = Trickle {
        burst: 1 << 20,
        piece: 9000,
        every: Duration::from_millis(100),
    };
    for (trickle, count) in [(steady, 15), (steady, 100), (in_bursts, 50), (stalling, 8)] {
        let cluster = Cluster::start(25, 1);
        let address = cluster.nodes[0].address(PORT);
        cluster.sim.block_on(cluster.client, async move {
            let session = fill(address).await;
            let (mut client, _) = Client::connect(address).await;
            let slow_put: Rc<[u8]> = long_put(&mut client, session, 8 << 20).into();
            for _ in 0..count {
                corelith_io::spawn(send_slowly(address, Rc::clone(&slow_put), trickle));
            }
            let held = count.min(40) * crate::node::limits::UPLOAD_START_BYTES;
            let is_held = || used() >= held;
            until("slow senders hold memory", Duration::from_secs(5), is_held).await;
            let key = key_of(0, 3);
            for (number, len) in (3..).zip([100_000, 1 << 20, 8 << 20]) {
                let start = corelith_io::now();
                let value = vec![9; len];
                let put = client.put(0, (session, number), &key, &value);
                let written = corelith_io::timeout(PUT_MAX, put).await;
                assert!(
                    matches!(written, Ok(Answer::Written { .. })),
                    "{len} bytes beside {count} of {trickle:?}: {written:?} after {:?}",
                    start.elapsed()
                );
                used();
            }
        });
    }
}

#[test]
fn a_slow_upload_that_others_wait_for_is_refused_by_name() {
    let cluster = Cluster::start(27, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let session = fill(address).await;
        let (mut slow, _) = Client::connect(address).await;
        let put = long_put(&mut slow, session, 8 << 20);
        slow.write.write_all(&put[..1 << 20]).await.unwrap();
        until("it has memory", Duration::from_secs(5), || used() > 8 << 20).await;
        let (mut client, _) = Client::connect(address).await;
        let value = vec![9; 8 << 20];
        let written = client.put(0, (session, 3), &key_of(0, 3), &value).await;
        assert!(matches!(written, Answer::Written { .. }), "{written:?}");
        let (id, answer) = slow.receive().await.expect("an answer");
        assert_eq!(id.0, slow.next_id);
        let is_throttled = matches!(
            &answer,
            Answer::Failure {
                failure: Failure::Throttled { .. },
                ..
            }
        );
        assert!(is_throttled, "{answer:?}");
        assert_eq!(slow.receive().await, None);
    });
}

#[test]
fn a_get_that_waited_for_room_says_when_it_found_nothing() {
    let cluster = Cluster::start(28, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let session = fill(address).await;
        let (mut client, _) = Client::connect(address).await;
        // Short enough to be in memory: it is looked up again once there is room.
        let key = key_of(0, 4);
        client.put(0, (session, 3), &key, &[7; 1000]).await;
        let mut abusers = Vec::new();
        for _ in 0..10 {
            abusers.push(ask_for(address, &key, 2000).await);
        }
        let is_full = || MADE.with_borrow(|made| made.iter().any(Budget::waits_for_readers));
        until("answers are waiting", Duration::from_secs(5), is_full).await;
        let mut reader = ask_for(address, &key, 1).await;
        corelith_io::sleep(Duration::from_millis(100)).await;
        let deleted = client.delete(0, (session, 4), &key).await;
        let Answer::Written { version, .. } = deleted else {
            panic!("{deleted:?}");
        };
        drop(abusers);
        let (_, answer) = reader.receive().await.expect("an answer");
        let Answer::NotFound { meta } = answer else {
            panic!("the value was read before it was deleted");
        };
        assert!(meta.index >= version, "{meta:?}, deleted by {version}");
    });
}

#[test]
fn a_slow_sender_gets_through_when_nobody_waits() {
    let cluster = Cluster::start(26, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let session = fill(address).await;
        let (mut client, _) = Client::connect(address).await;
        for piece in long_put(&mut client, session, 2 << 20).chunks(9000) {
            client.write.write_all(piece).await.unwrap();
            corelith_io::sleep(Duration::from_millis(100)).await;
        }
        let (_, answer) = client.receive().await.expect("an answer");
        assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
    });
}

#[test]
fn an_idle_connection_holds_nothing() {
    let cluster = Cluster::start(23, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        fill(address).await;
        let mut idle = Vec::new();
        for _ in 0..100 {
            let (mut client, _) = Client::connect(address).await;
            client.get(0, &key_of(0, 1)).await;
            idle.push(client);
        }
        until("all is given back", Duration::from_secs(1), || used() == 0).await;
        for client in &mut idle {
            let answer = client.get(0, &key_of(0, 1)).await;
            assert!(matches!(answer, Answer::Value { .. }), "{answer:?}");
        }
    });
}

#[test]
fn connections_that_are_idle_for_too_long_are_closed() {
    let mut cluster = Cluster::idle(26, 1);
    let (sender, events) = corelith_io::channel(1000);
    cluster.events = events;
    let node = cluster.nodes[0];
    let mut config = config(1, 1);
    config.clients.idle_seconds = 60;
    cluster.start_node(node, config, &sender);
    cluster.wait_ready(usize::from(CORES));
    let address = node.address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        fill(address).await;
        let (mut idle, _) = Client::connect(address).await;
        let (mut busy, _) = Client::connect(address).await;
        for _ in 0..10 {
            corelith_io::sleep(Duration::from_secs(10)).await;
            let answer = busy.get(0, &key_of(0, 1)).await;
            assert!(matches!(answer, Answer::Value { .. }), "{answer:?}");
        }
        assert_eq!(idle.receive().await, None, "it is open still");
    });
}

#[test]
fn strangers_do_not_keep_peers_and_clients_out() {
    let cluster = Cluster::start(24, 3);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let mut strangers = Vec::new();
        for _ in 0..limits::STRANGERS_PER_CORE_MAX + 50 {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let (_client, welcome) = Client::connect(address).await;
        assert_eq!(welcome.status, corelith_wire::handshake::Status::Welcome);
        // A peer that never says a word loses its place to a newer connection of its own.
        let mut peers = Vec::new();
        for _ in 0..2 * limits::CONNECTIONS_PER_PEER_CORE_MAX + 1 {
            let hello = Hello::peer(welcome.cluster, NodeId(2));
            peers.push(Client::introduce(address, hello).await.0);
        }
        assert_eq!(peers[0].receive().await, None);
    });
}
