//! Nodes that are stopped while clients write: they end in order, and their logs complain of nothing.

use crate::cluster::{Cluster, NODES};
use crate::waiting;
use corelith_client::Client;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

const WRITERS: usize = 32;
/// Writes that show that all of them are under way.
const WRITES: u64 = 2_000;

/// Clients that write for ever, and do not mind errors.
struct Writers {
    done: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(client: &Client) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, done) = (client.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                for number in 0.. {
                    let key = format!("{writer}-{}", number % 100);
                    let written = client.put(key, vec![writer as u8; 500]).await;
                    done.fetch_add(u64::from(written.is_ok()), Ordering::Relaxed);
                }
            });
        }
        Self { done, tasks }
    }

    async fn go_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        waiting::until_async("writes to go on", || async {
            let more = self.done.load(Ordering::Relaxed) - before;
            (more >= WRITES).then_some(()).ok_or(more)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_no_error() {
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    let writers = Writers::start(&client);
    for node in 1..=NODES {
        writers.go_on().await;
        assert!(cluster.stop(node).success());
        writers.go_on().await;
        cluster.start_node(node);
    }
    writers.go_on().await;
    for ended in cluster.stop_all() {
        assert!(ended.success(), "{ended}");
    }
    drop(writers.tasks);
    for node in 1..=NODES {
        let log = fs::read_to_string(cluster.path(&format!("node-{node}.log"))).unwrap();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.is_empty(), "node {node}: {errors:#?}");
    }
}
