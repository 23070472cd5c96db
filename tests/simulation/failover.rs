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
        let (map, newest) = (cluster.map(), Rc::clone(&newest));
        let write = move || async move {
            let client = Client::new(map);
            for writer in 0..WRITERS / 2 {
                let key = Bytes::from(format!("{core}-{writer}"));
                drop(corelith_io::spawn(write(
                    client.clone(),
                    key,
                    Rc::clone(&newest),
                )));
            }
            std::future::pending::<()>().await;
        };
        cluster.sim.start(cluster.outside, core, write);
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

/// Writes a key again and again; notes the newest term of an answer.
async fn write(client: Client, key: Bytes, newest: Rc<Cell<u64>>) {
    loop {
        let put = client.put(
            key.clone(),
            Bytes::from_static(b"value"),
            Condition::Any,
            WITHIN,
        );
        match put.await {
            Ok(Answer::Written { meta, .. }) => newest.set(newest.get().max(meta.term)),
            other => panic!("{other:?}"),
        }
        corelith_io::sleep(PAUSE).await;
    }
}
