//! How long clients wait once a shard has another leader.

use crate::client::Client;
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::seeds::seeds;
use bytes::Bytes;
use corelith_consensus::Role;
use corelith_wire::ShardId;
use corelith_wire::request::Condition;
use corelith_wire::response::Answer;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);
const WRITERS: usize = 16;
/// Between two writes of a writer: simulated writes cost time too.
const PAUSE: Duration = Duration::from_millis(5);
const SHARD: ShardId = ShardId(0);
/// Clients notice a new leader after an eighth of the time without one and this, at the latest.
const ADDED: Duration = Duration::from_millis(100);
/// Longest time without an answer when the node that leads stops in order.
const STOP_GAP: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Its process stands still.
    Pause,
    /// Its process is gone, and its connections are reset.
    Kill,
    /// Nothing from it and to it arrives.
    Cut,
    /// Nothing to it arrives.
    Deaf,
}

#[test]
fn clients_follow_a_lead_that_moves_away_from_any_kind_of_failure() {
    for seed in seeds(3) {
        for fault in [Fault::Pause, Fault::Kill, Fault::Cut, Fault::Deaf] {
            follow(seed, fault);
        }
    }
}

fn follow(seed: u64, fault: Fault) {
    let mut cluster = Cluster::start(&Plan::plain(seed, 1));
    cluster.wait_ready(WITHIN);
    let newest = Rc::new(Cell::new(0));
    for core in 0..2 {
        let newest = Rc::clone(&newest);
        let note = move |term: u64| newest.set(newest.get().max(term));
        start_writers(&cluster, core, (WRITERS / 2, PAUSE), note);
    }
    let sim = cluster.sim.clone();
    assert!(
        sim.run_until(|| newest.get() > 0, WITHIN),
        "seed {seed}: nothing is written"
    );
    sim.run_for(Duration::from_millis(500 + seed % 300));
    let leader = cluster.leader(SHARD).unwrap();
    let (hurt, term) = (leader.node(), leader.status().term.0);
    drop(leader);
    let (at, start) = (cluster.place_of(hurt), sim.now());
    let node = cluster.node(at);
    let others: Vec<_> = cluster
        .nodes()
        .into_iter()
        .chain([cluster.outside])
        .filter(|other| *other != node)
        .collect();
    match fault {
        Fault::Pause => sim.pause(node),
        Fault::Kill => cluster.kill(at),
        Fault::Cut => others.iter().for_each(|other| sim.net().cut(node, *other)),
        Fault::Deaf => others
            .iter()
            .for_each(|other| sim.net().cut_one_way(*other, node)),
    }
    let leads = |cluster: &Cluster| {
        cluster.groups().iter().any(|group| {
            let status = group.status();
            group.node() != hurt && status.role == Role::Leader && status.term.0 > term
        })
    };
    let elected = sim.run_until(|| leads(&cluster), WITHIN);
    assert!(elected, "seed {seed}, {fault:?}: nobody is elected");
    let missing = sim.now() - start;
    let answered = sim.run_until(|| newest.get() > term, WITHIN);
    assert!(answered, "seed {seed}, {fault:?}: nothing is written");
    let late = sim.now() - start - missing;
    let allowed = missing / 8 + ADDED;
    assert!(
        late <= allowed,
        "seed {seed}, {fault:?}: elected after {missing:?}, answered {late:?} later"
    );
}

/// The node that leads stops in order while one client has many writes in flight: it answers some of them when it has
/// refused others.
#[test]
fn writers_go_on_at_once_when_the_node_that_leads_stops() {
    for seed in seeds(8) {
        stop_leader(seed);
    }
}

fn stop_leader(seed: u64) {
    let mut cluster = Cluster::start(&Plan::plain(seed, 1));
    cluster.wait_ready(WITHIN);
    let sim = cluster.sim.clone();
    let (last, longest) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(Duration::ZERO)));
    let noted = (Rc::clone(&last), Rc::clone(&longest));
    start_writers(&cluster, 0, (WRITERS, Duration::ZERO), move |_| {
        let (last, longest) = &noted;
        let now = corelith_io::now();
        let gap = last.replace(Some(now)).map(|last| now - last);
        longest.set(longest.get().max(gap.unwrap_or_default()));
    });
    let is_begun = || last.get().is_some();
    assert!(
        sim.run_until(is_begun, WITHIN),
        "seed {seed}: nothing is written"
    );
    sim.run_for(Duration::from_millis(100 + seed * 37 % 100));
    longest.set(Duration::ZERO);
    let at = cluster.place_of(cluster.leader(SHARD).unwrap().node());
    cluster.stop(at);
    sim.run_for(Duration::from_millis(600));
    let gap = longest.get();
    assert!(gap > Duration::ZERO, "seed {seed}: nothing is written");
    assert!(gap <= STOP_GAP, "seed {seed}: no answer for {gap:?}");
}

/// Starts writers that share a client on a core of the outside; `note` gets the terms of answers.
fn start_writers(
    cluster: &Cluster,
    core: u32,
    (count, pause): (usize, Duration),
    note: impl Fn(u64) + 'static,
) {
    let (map, note) = (cluster.map(), Rc::new(note));
    let write = move || async move {
        let client = Client::new(map);
        for writer in 0..count {
            let key = Bytes::from(format!("{core}-{writer}"));
            let note = Rc::clone(&note);
            drop(corelith_io::spawn(write(client.clone(), key, pause, note)));
        }
        std::future::pending::<()>().await;
    };
    cluster.sim.start(cluster.outside, core, write);
}

/// Writes a key again and again; notes the terms of answers.
async fn write(client: Client, key: Bytes, pause: Duration, note: Rc<impl Fn(u64)>) {
    loop {
        let put = client.put(
            key.clone(),
            Bytes::from_static(b"value"),
            Condition::Any,
            WITHIN,
        );
        match put.await {
            Ok(Answer::Written { meta, .. }) => note(meta.term),
            other => panic!("{other:?}"),
        }
        corelith_io::sleep(pause).await;
    }
}
