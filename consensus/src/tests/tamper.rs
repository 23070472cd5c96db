//! Peers that reach each other through somebody who changes what they say: one field of one frame at a
//! time, with the right checksum, to values at the edge of what is possible. The group must neither
//! panic nor stop for good, and no term may run away.
//!
//! `CORELITH_SIM_SEEDS=200 cargo test -p corelith-consensus tamper` runs more seeds; `CORELITH_SIM_SEED=17`
//! runs one.
//!
//! Left out are the values that a correct node could send: keys and values, the last entry of a candidate, and
//! an entry's leader that could have led between those of its neighbours. The checksums are there for those.

use super::cluster::{Cluster, PORT, put};
use crate::admission::Refusal;
use crate::command::kind;
use crate::limits::{TERM_MAX, TERM_STEP_MAX};
use crate::route::Caller;
use crate::{GroupError, NodeStore, Options, Role};
use bytes::{Buf, Bytes, BytesMut};
use corelith_io::sim::SimConfig;
use corelith_io::{ReadHalf, TcpListener, TcpStream, WriteHalf, random_u64};
use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, ShardId, Term};
use corelith_wire::handshake::{HELLO_BYTES, WELCOME_BYTES};
use corelith_wire::limits::HEADER_BYTES;
use corelith_wire::peer::{AppendHead, AppendResult, PeerEntry, PeerVote, kinds};
use corelith_wire::request::{Condition, WriteCommand};
use corelith_wire::{Kind, Start, StoreId};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Where `from` reaches `to`.
pub(super) fn port(from: usize, to: usize) -> u16 {
    PORT + 1 + (10 * from + to) as u16
}

/// A field of a frame: where after the header it begins, and how long it is.
type Field = (usize, usize);

const VOTE: [usize; 3] = [8, 8, 1];
const LOG_ID: [usize; 3] = [8, 8, 8];
/// An entry before its body; the last field is the body's length.
const ENTRY: [usize; 5] = [8, 8, 8, 1, 4];

/// The fields of a frame with that payload, those of its header (`at` below 0 is none) left out.
fn fields(kind: Kind, payload: &[u8]) -> Vec<Field> {
    let row = |start: usize, widths: &[usize]| -> Vec<Field> {
        let mut at = start;
        let field = |width: &usize| {
            at += width;
            (at - width, *width)
        };
        widths.iter().map(field).collect()
    };
    let rows = |bytes: usize, widths: &[usize]| -> Vec<Field> {
        let starts = (0..payload.len() / bytes).map(|at| at * bytes);
        starts.flat_map(|start| row(start, widths)).collect()
    };
    match kind {
        kinds::APPEND => {
            let head = [&VOTE[..], &LOG_ID, &LOG_ID, &[4]].concat();
            let mut fields = row(0, &head);
            let mut at = head.iter().sum::<usize>();
            while at < payload.len() {
                fields.extend(row(at, &ENTRY));
                let len = payload[at + 25..at + 29].try_into().unwrap();
                at += 29 + u32::from_le_bytes(len) as usize;
            }
            fields
        }
        kinds::HEARTBEATS => rows(85, &[&[8, 4][..], &VOTE, &LOG_ID, &LOG_ID].concat()),
        kinds::HEARTBEATS_REPLY => rows(57, &[&[8, 4, 1][..], &LOG_ID, &VOTE, &[1, 1]].concat()),
        kinds::APPEND_REPLY => row(0, &[&[1][..], &LOG_ID, &VOTE, &[1]].concat()),
        kinds::VOTE | kinds::PRE_VOTE => [row(0, &VOTE), row(41, &[1])].concat(),
        kinds::VOTE_REPLY => row(0, &[&VOTE[..], &LOG_ID, &[1]].concat()),
        kinds::TRANSFER => row(0, &[&VOTE[..], &[8], &LOG_ID].concat()),
        kinds::SNAPSHOT_OFFER => row(0, &[&[8][..], &VOTE].concat()),
        kinds::FILE_PIECE => row(0, &[8, 1, 8, 8, 8]),
        kinds::FILE_BYTES => row(0, &[8, 4]),
        kinds::SNAPSHOT_REPLY => row(0, &VOTE),
        kinds::READ_POINT_REPLY => row(0, &[&VOTE[..], &LOG_ID].concat()),
        _ => Vec::new(),
    }
}

/// Kind, request id and shard, in the header.
const HEADER_FIELDS: [Field; 3] = [(8, 2), (16, 8), (24, 4)];

/// Whether `field` is the leader of an entry of an append, and such a one could have led there.
fn could_be_sent(field: usize, append: &[u8]) -> bool {
    let number = |at: usize| u64::from_le_bytes(append[at..at + 8].try_into().unwrap());
    let leader = |at: usize| (number(at), number(at + 8));
    let head = [&VOTE[..], &LOG_ID, &LOG_ID, &[4]].concat();
    let (mut at, mut led, mut is_entry_leader) = (head.iter().sum::<usize>(), leader(17), false);
    if number(17 + 16) == u64::MAX {
        led = (0, 0);
    }
    let last = leader(0);
    while at + 29 <= append.len() {
        let next = leader(at);
        if next < led || next > last || ReplicaId(next.1).node() == NodeId(0) {
            return false;
        }
        is_entry_leader |= field == at || field == at + 8;
        led = next;
        let len = append[at + 25..at + 29].try_into().unwrap();
        at += 29 + u32::from_le_bytes(len) as usize;
    }
    is_entry_leader
}

fn below(bound: usize) -> usize {
    (random_u64() % bound as u64) as usize
}

fn pick<T: Copy>(of: &[T]) -> T {
    of[below(of.len())]
}

/// Something else than `old`, at the edge of what is possible.
fn extreme(old: u64) -> u64 {
    let step = TERM_STEP_MAX;
    pick(&[
        0,
        1,
        2,
        3,
        old.wrapping_sub(1),
        old.wrapping_add(1),
        old.wrapping_add(2),
        old.wrapping_add(1 << 20),
        old.wrapping_add(step),
        old.wrapping_add(step + 1),
        1 << 32,
        TERM_MAX,
        TERM_MAX + 1,
        1 << 55,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
        old ^ (1 << below(64)),
    ])
}

/// How much is changed, and of what.
#[derive(Default)]
pub(super) struct Tampering {
    /// One frame of this many is changed; none if 0.
    one_of: Cell<u64>,
    /// The node that does not hear what is committed.
    pub(super) keeps_from: Cell<Option<usize>>,
    changed: std::cell::RefCell<BTreeMap<u16, u64>>,
}

impl Tampering {
    /// Takes out of a frame to `to` what is committed, if that is to be kept from it.
    fn keep(&self, to: usize, frame: &mut [u8]) {
        if self.keeps_from.get() != Some(to) {
            return;
        }
        let (at, every) = match Kind(u16::from_le_bytes([frame[8], frame[9]])) {
            kinds::APPEND => (41, usize::MAX),
            kinds::HEARTBEATS => (53, 85),
            _ => return,
        };
        let none = [[0; 8], [0; 8], [0xff; 8]].concat();
        for record in frame[HEADER_BYTES..].chunks_mut(every) {
            record[at..at + none.len()].copy_from_slice(&none);
        }
        let crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Changes one field of `frame`, perhaps.
    fn touch(&self, frame: &mut [u8]) {
        let one_of = self.one_of.get();
        if one_of == 0 || !random_u64().is_multiple_of(one_of) {
            return;
        }
        let kind = u16::from_le_bytes([frame[8], frame[9]]);
        let payload = fields(Kind(kind), &frame[HEADER_BYTES..]);
        let (at, width) = match below(payload.len() + 1) {
            0 => pick(&HEADER_FIELDS),
            one => {
                let (at, width) = payload[one - 1];
                (HEADER_BYTES + at, width)
            }
        };
        let mut old = [0; 8];
        old[..width].copy_from_slice(&frame[at..at + width]);
        let new = extreme(u64::from_le_bytes(old)).to_le_bytes();
        frame[at..at + width].copy_from_slice(&new[..width]);
        let field = at.wrapping_sub(HEADER_BYTES);
        if Kind(kind) == kinds::APPEND && could_be_sent(field, &frame[HEADER_BYTES..]) {
            frame[at..at + width].copy_from_slice(&old[..width]);
            return;
        }
        let crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        *self.changed.borrow_mut().entry(kind).or_default() += 1;
    }
}

/// Carries what comes in on, `first` bytes as they are and then frame by frame.
async fn carry(
    mut read: ReadHalf,
    mut write: WriteHalf,
    first: usize,
    to: usize,
    tampering: Rc<Tampering>,
) -> Option<()> {
    let mut buffer = BytesMut::new();
    while buffer.len() < first {
        if read.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    }
    write.write_all(&buffer.split_to(first)).await.ok()?;
    loop {
        while buffer.len() >= HEADER_BYTES {
            let len = u32::from_le_bytes(buffer[..4].try_into().unwrap()) as usize;
            if buffer.len() < HEADER_BYTES + len {
                break;
            }
            let mut frame = buffer.split_to(HEADER_BYTES + len);
            tampering.keep(to, &mut frame);
            tampering.touch(&mut frame);
            write.write_all(frame.chunk()).await.ok()?;
        }
        if read.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Stands between all nodes.
pub(super) fn stand_between(cluster: &Cluster, tampering: &Rc<Tampering>) {
    for (from, to) in (0..9).map(|pair| (pair / 3, pair % 3)) {
        let here = cluster.outside.address(port(from, to));
        let there = cluster.nodes[to].address(PORT);
        let tampering = Rc::clone(tampering);
        cluster.sim.start(cluster.outside, 0, move || async move {
            let listener = TcpListener::bind(here).unwrap();
            while let Ok(asking) = listener.accept().await {
                let tampering = Rc::clone(&tampering);
                drop(corelith_io::spawn(async move {
                    let Ok(asked) = TcpStream::connect(there).await else {
                        return;
                    };
                    let (from_asking, to_asking) = asking.into_split();
                    let (from_asked, to_asked) = asked.into_split();
                    let there = carry(
                        from_asking,
                        to_asked,
                        HELLO_BYTES,
                        to,
                        Rc::clone(&tampering),
                    );
                    let back = carry(from_asked, to_asking, WELCOME_BYTES, from, tampering);
                    let (there, back) = (std::pin::pin!(there), std::pin::pin!(back));
                    futures_util::future::select(there, back).await;
                }));
            }
        });
    }
}

fn highest_term(cluster: &Cluster) -> u64 {
    let term = |at| {
        let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
        group.status().term.0
    };
    (0..3).map(term).max().unwrap()
}

/// Runs a group through somebody who changes one of `one_of` frames; returns how many frames of which kind
/// were changed.
fn run(seed: u64, one_of: u64) -> BTreeMap<u16, u64> {
    let options = Options {
        lead_back_after: Some(Duration::from_millis(500)),
        ..Options::default()
    };
    let mut cluster = Cluster::new(seed, SimConfig::default(), options, 1);
    cluster.tampered = true;
    let tampering = Rc::new(Tampering::default());
    stand_between(&cluster, &tampering);
    cluster.start_all();
    let leader = cluster.wait_leader();
    cluster.wait("all nodes have their groups", || {
        (0..3).all(|at| cluster.groups(at).is_some())
    });
    let session = cluster.open_session(leader);
    let mut number = 0;
    let mut write = |cluster: &Cluster, at: usize| {
        number += 1;
        let command = put(
            session,
            number,
            Condition::Any,
            &format!("k{}", number % 5),
            "v",
        );
        let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
        let answered = Rc::new(Cell::new(None::<Result<(), GroupError>>));
        let answer = Rc::clone(&answered);
        cluster.sim.enter(cluster.nodes[at], || {
            let parsed = WriteCommand::parse(&command).unwrap();
            group.submit(command, &parsed, move |result| {
                answer.set(Some(result.map(drop)))
            });
        });
        answered
    };
    tampering.one_of.set(one_of);
    for round in 0..120 {
        for at in 0..3 {
            write(&cluster, at);
            let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
            cluster
                .sim
                .enter(cluster.nodes[at], || group.on_replica_read_point(|_| ()));
        }
        let pause = cluster.sim.random_below(60);
        cluster.sim.run_for(Duration::from_millis(pause));
        // The others elect another one, which then hands the lead back.
        if round % 40 == 30
            && let Some(leader) = cluster.leader()
        {
            cluster.sim.pause(cluster.nodes[leader]);
            cluster.sim.run_for(Duration::from_secs(2));
            cluster.sim.resume(cluster.nodes[leader]);
        }
    }
    tampering.one_of.set(0);
    for at in 0..3 {
        let lost = cluster.groups(at).unwrap().lost();
        assert_eq!(lost, [], "changed frames exclude a store");
    }
    let changed: u64 = tampering.changed.borrow().values().sum();
    assert!(
        highest_term(&cluster) <= (changed + 100) * TERM_STEP_MAX,
        "the term ran away"
    );
    cluster.wait("all nodes follow one leader and take writes", || {
        cluster.leader().is_some_and(|at| {
            let answered = write(&cluster, at);
            cluster.sim.run_for(Duration::from_secs(1));
            matches!(answered.take(), Some(Ok(())))
        })
    });
    cluster.check_replicas_equal();
    tampering.changed.take()
}

#[test]
fn a_group_outlives_changed_frames() {
    let number = |variable| Some(std::env::var(variable).ok()?.parse::<u64>().unwrap());
    let one = number("CORELITH_SIM_SEED").map(|seed| seed..seed + 1);
    let mut changed = BTreeMap::<u16, u64>::new();
    for seed in one.unwrap_or(0..number("CORELITH_SIM_SEEDS").unwrap_or(12)) {
        println!("seed {seed}");
        for (kind, count) in run(seed, [5, 20, 100][seed as usize % 3]) {
            *changed.entry(kind).or_default() += count;
        }
    }
    println!("changed, by kind: {changed:x?}");
    if number("CORELITH_SIM_SEED").is_some() {
        return;
    }
    for kind in [
        kinds::APPEND,
        kinds::HEARTBEATS,
        kinds::VOTE,
        kinds::PRE_VOTE,
        kinds::TRANSFER,
        kinds::APPEND_REPLY,
        kinds::HEARTBEATS_REPLY,
        kinds::VOTE_REPLY,
        kinds::READ_POINT_REPLY,
    ] {
        assert!(changed.contains_key(&kind.0), "no {kind:?} was changed");
    }
}

/// A node with its store.
fn caller(at: usize) -> Caller {
    Caller {
        at: member(at),
        start: Start::default(),
    }
}

fn member(at: usize) -> NodeStore {
    NodeStore {
        node: NodeId(at as u64 + 1),
        store: StoreId(at as u128 + 1),
    }
}

/// Has the first two nodes' terms rise by a step, as one changed request for a vote does.
fn raise_terms(cluster: &Cluster) {
    let group = |at: usize| cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let before = group(0).status().term.max(group(1).status().term);
    let asked = group(0);
    let term = Term(before.0 + TERM_STEP_MAX);
    cluster.sim.block_on(cluster.nodes[0], async move {
        asked.vote_away(ReplicaId(2), term).await;
    });
    cluster.wait("a leader in a higher term", || {
        let leader = cluster.leader();
        leader.is_some_and(|at| group(at).status().term.0 > before.0 + TERM_STEP_MAX)
    });
}

/// The third node, which the first two have left two steps and more behind, with `down` of those gone.
fn finds_back(down: Option<usize>) {
    let mut cluster = Cluster::new(41, SimConfig::default(), Options::default(), 1);
    cluster.tampered = true;
    stand_between(&cluster, &Rc::default());
    cluster.start_all();
    cluster.wait_leader();
    cluster.crash(2);
    for _ in 0..3 {
        raise_terms(&cluster);
    }
    cluster.start(2);
    if let Some(down) = down {
        cluster.crash(down);
    }
    let began = cluster.sim.now();
    cluster.wait("the third node follows", || {
        let Some(leader) = cluster.leader() else {
            return false;
        };
        let status = |at: usize| Some(cluster.groups(at)?.group(ShardId(0))?.status());
        let (theirs, ours) = (status(leader), status(2));
        theirs.zip(ours).is_some_and(|(theirs, ours)| {
            (theirs.term, theirs.applied) == (ours.term, ours.applied)
        })
    });
    let took = cluster.sim.now() - began;
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_node_finds_back_to_a_leader_of_a_term_out_of_its_reach() {
    finds_back(None);
}

#[test]
fn two_nodes_of_terms_far_apart_elect_a_leader() {
    finds_back(Some(0));
    finds_back(Some(1));
}

#[test]
fn a_changed_entry_is_neither_committed_nor_kept_once_its_leader_contradicts_it() {
    let cluster = Cluster::started(42);
    let leader = cluster.wait_leader();
    let (at, claims) = ((leader + 1) % 3, ReplicaId(leader as u64 + 1));
    cluster.wait("the follower has an entry", || {
        let groups = cluster.groups(at);
        let group = groups.and_then(|groups| groups.group(ShardId(0)));
        group.is_some_and(|group| group.status().applied.is_some())
    });
    for node in &cluster.nodes {
        cluster.sim.net().isolate(*node);
    }
    let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let before = group.status().last_log.unwrap();
    let term = Term(before.term.0 + 1);
    let next = move |term| LogId {
        term,
        node: claims,
        index: LogIndex(before.index.0 + 1),
    };
    let head = move |committed| AppendHead {
        vote: PeerVote {
            term,
            node: claims,
            committed: true,
        },
        before: Some(before),
        committed,
        count: 0,
    };
    let blank = |id| {
        vec![PeerEntry {
            id,
            kind: kind::BLANK,
            body: Bytes::new(),
        }]
    };
    let follower = group.clone();
    cluster.sim.block_on(cluster.nodes[at], async move {
        let changed = blank(next(before.term));
        let taken = follower
            .take_append(caller(leader), head(None), changed)
            .await;
        assert!(matches!(taken, Ok(AppendResult::Taken { .. })), "{taken:?}");
        let own = || blank(next(term));
        let refused = follower
            .take_append(caller(leader), head(None), own())
            .await;
        assert_eq!(refused, Err(Refusal::Contradicts(next(term))));
        let committed = head(Some(LogId {
            index: LogIndex(before.index.0 + 9),
            ..next(term)
        }));
        let beat = follower.take_beat(caller(leader), committed).await;
        assert!(matches!(beat, Ok(AppendResult::Taken { .. })), "{beat:?}");
        let taken = follower
            .take_append(caller(leader), head(None), own())
            .await;
        assert!(matches!(taken, Ok(AppendResult::Taken { .. })), "{taken:?}");
    });
    cluster.sim.run_for(Duration::from_millis(50));
    let status = group.status();
    assert_eq!(status.last_log, Some(next(term)));
    assert!(status.committed <= Some(before), "{status:?}");
}

/// A replica took an entry that was changed on its way, was cut off, and has the most beside it.
#[test]
fn a_leader_whose_log_a_majority_contradicts_makes_way() {
    let mut cluster = Cluster::started(43);
    cluster.tampered = true;
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let at = (leader + 1) % 3;
    let group = |at: usize| cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    cluster.wait("the follower has all of it", || {
        let (theirs, ours) = (group(leader).status(), group(at).status());
        theirs.committed == ours.committed && theirs.last_log == ours.committed
    });
    cluster.sim.net().isolate(cluster.nodes[at]);
    let before = group(at).status().last_log.unwrap();
    let claims = ReplicaId(leader as u64 + 1);
    let id = |term, node, further| LogId {
        term: Term(before.term.0 + term),
        node,
        index: LogIndex(before.index.0 + further),
    };
    let changed = ReplicaId(claims.0 + 7);
    let entries = [id(0, changed, 1), id(1, claims, 2), id(1, claims, 3)];
    let entries = entries.map(|id| PeerEntry {
        id,
        kind: kind::BLANK,
        body: Bytes::new(),
    });
    let head = AppendHead {
        vote: PeerVote {
            term: Term(before.term.0 + 1),
            node: claims,
            committed: true,
        },
        before: Some(before),
        committed: None,
        count: 3,
    };
    let follower = group(at);
    cluster.sim.block_on(cluster.nodes[at], async move {
        let taken = follower
            .take_append(caller(leader), head, entries.to_vec())
            .await;
        assert!(matches!(taken, Ok(AppendResult::Taken { .. })), "{taken:?}");
    });
    let command = |number| put(session, number, Condition::Any, "k", "v");
    cluster.write(leader, command(1)).unwrap();
    let third = 3 - at - leader;
    cluster.wait("the third knows it to be committed", || {
        let (theirs, ours) = (group(leader).status(), group(third).status());
        theirs.committed == theirs.last_log && theirs.committed == ours.committed
    });
    cluster.sim.net().isolate(cluster.nodes[leader]);
    cluster
        .sim
        .net()
        .heal(cluster.nodes[at], cluster.nodes[third]);
    cluster.wait("it leads", || group(at).status().role == Role::Leader);
    cluster.sim.net().rejoin(cluster.nodes[leader]);
    let mut number = 1;
    cluster.wait("a leader that can commit", || {
        let Some(leader) = cluster.leader() else {
            return false;
        };
        number += 1;
        let command = command(number);
        let answered = Rc::new(Cell::new(false));
        let (group, answer) = (group(leader), Rc::clone(&answered));
        cluster.sim.enter(cluster.nodes[leader], || {
            let parsed = WriteCommand::parse(&command).unwrap();
            group.submit(command, &parsed, move |result| answer.set(result.is_ok()));
        });
        cluster.sim.run_for(Duration::from_secs(1));
        answered.get()
    });
    cluster.check_replicas_equal();
}
