//! The same seed gives the same run, whatever ran on the thread before.

use crate::{BLOCK, block_of, ms};
use corelith_io::collections::HashMap;
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{
    OpenOptions, TcpListener, TcpStream, blocking, channel, create_dir_all, list_dir, random_u64,
    rename, sleep, spawn, spawn_background, sync_dir, timeout,
};
use std::path::Path;
use std::time::Duration;

const PORT: u16 = 7411;
const NODES: usize = 3;

async fn serve(me: SimNode) {
    let listener = TcpListener::bind(me.address(PORT)).unwrap();
    while let Ok(stream) = listener.accept().await {
        let (mut read, mut write) = stream.into_split();
        spawn(async move {
            let mut bytes = vec![0; 4096];
            while let Ok(count @ 1..) = read.read(&mut bytes).await {
                if write.write_all(&bytes[..count]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn call(peer: SimNode) {
    loop {
        let Ok(Ok(stream)) = timeout(ms(500), TcpStream::connect(peer.address(PORT))).await else {
            sleep(ms(50)).await;
            continue;
        };
        let (mut read, mut write) = stream.into_split();
        for number in 0..200u64 {
            let bytes = vec![number as u8; 1 + (random_u64() % 3000) as usize];
            if write.write_all(&bytes).await.is_err() {
                break;
            }
            let mut rest = bytes.len();
            let mut buffer = [0; 4096];
            while rest > 0 {
                match timeout(ms(300), read.read(&mut buffer)).await {
                    Ok(Ok(count @ 1..)) => rest -= count.min(rest),
                    _ => break,
                }
            }
        }
    }
}

/// Writes files and renames them, in an order that a hash map gives.
async fn keep_files(core: u32) {
    let dir = format!("/data/{core}");
    create_dir_all(Path::new(&dir)).await.unwrap();
    loop {
        let mut names = HashMap::default();
        for _ in 0..8 {
            names.insert(random_u64(), random_u64() % 4);
        }
        for (name, blocks) in &names {
            let path = format!("{dir}/{name:x}");
            let options = OpenOptions::new().write().create_new().dsync();
            let Ok(file) = options.open(Path::new(&path)).await else {
                continue;
            };
            for at in 0..*blocks {
                let _ = file.write_at(at * BLOCK, block_of(at as u8)).await;
            }
            let _ = file.sync().await;
            let _ = rename(Path::new(&path), Path::new(&format!("{path}.done"))).await;
        }
        let _ = sync_dir(Path::new(&dir)).await;
        let count = list_dir(Path::new(&dir)).await.unwrap().len();
        blocking(move || count).await;
    }
}

async fn run_node(me: SimNode, peers: Vec<SimNode>) {
    spawn(serve(me));
    for peer in peers {
        spawn(call(peer));
    }
    let (sender, receiver) = channel(4);
    spawn(async move {
        for number in 0u64.. {
            if sender.send(number).await.is_err() {
                break;
            }
            sleep(Duration::from_micros(700)).await;
        }
    });
    spawn_background(async move { while receiver.recv().await.is_ok() {} });
    keep_files(0).await;
}

fn run(seed: u64) -> (u64, Duration, u64) {
    let sim = Sim::with_config(seed, SimConfig::rough());
    let nodes: Vec<SimNode> = (0..NODES).map(|_| sim.add_node()).collect();
    let start = |node: SimNode| {
        let peers = nodes.iter().copied().filter(|peer| *peer != node).collect();
        sim.start(node, 0, move || run_node(node, peers));
        sim.start(node, 1, move || keep_files(1));
    };
    nodes.iter().copied().for_each(start);
    for _ in 0..6 {
        sim.run_for(ms(20 + sim.random_below(100)));
        let victim = nodes[sim.random_below(NODES as u64) as usize];
        let other = nodes[sim.random_below(NODES as u64) as usize];
        match sim.random_below(5) {
            0 => sim.crash(victim),
            1 => sim.kill(victim),
            2 => sim.crash_at_io(victim, 1 + sim.random_below(50)),
            3 => sim.net().cut_one_way(victim, other),
            _ => sim.pause(victim),
        }
        sim.run_for(ms(20 + sim.random_below(100)));
        sim.net().heal_all();
        sim.resume(victim);
        if !sim.is_up(victim) {
            start(victim);
        }
    }
    (sim.trace_hash(), sim.now(), sim.io_count(nodes[0]))
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let first = run(seed);
        assert_eq!(first, run(seed), "seed {seed}");
        assert!(first.2 > 100, "seed {seed} did little: {first:?}");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 20, "different seeds give different runs");
}
