use super::IdentityKeeper;
use crate::node::data_dir::identity::{self, DataDir, Expected, ExpectedCluster};
use corelith_consensus::{Liveness, LivenessOptions};
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_wire::peer::{Introduction, Settings};
use corelith_wire::{FullClusterId, NodeId};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data";

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn expected() -> Expected {
    Expected {
        node: Some(NodeId(1)),
        cores: 1,
        cluster: Some(ExpectedCluster {
            name: 7,
            shards: 1,
            replicas: 1,
            reads: 0,
            nodes: vec![NodeId(1)],
        }),
    }
}

/// What a start on the directory did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Start {
    /// When it knew for how long it is bound, and how long that is.
    bound: Option<(Duration, Duration)>,
    /// When its embargo had passed, and that was written down.
    free: Option<Duration>,
}

/// Starts on the directory with promises of that length, as the first core does.
fn start(sim: &Sim, node: SimNode, promise: Duration) -> Rc<RefCell<Start>> {
    let start = Rc::new(RefCell::new(Start::default()));
    let (seen, world) = (Rc::clone(&start), sim.clone());
    sim.start(node, 0, move || async move {
        let opened = DataDir::open(Path::new(DIR), &expected(), promise).await;
        let Ok(opened) = opened else { return };
        let promised_before = opened.promised_before;
        seen.borrow_mut().bound = Some((world.now(), promised_before));
        let options = LivenessOptions {
            promise,
            promised_before,
            ..LivenessOptions::default()
        };
        let liveness = Liveness::new(NodeId(1), opened.start, 1, options);
        let me = Introduction {
            cluster: FullClusterId(1),
            node: NodeId(1),
            store: opened.identity.store,
            start: opened.start,
            mark: opened.identity.mark,
            port: 1,
            cores: 1,
            settings: Settings::new(1, 1, 0),
        };
        let keeper = IdentityKeeper::new(Path::new(DIR), &opened, me, false);
        keeper.forget_longer_promises(liveness, promise).await;
        seen.borrow_mut().free = Some(world.now());
        std::future::pending::<()>().await;
    });
    start
}

fn in_file(sim: &Sim, node: SimNode) -> u32 {
    sim.block_on(node, async {
        let identity = identity::read(Path::new(DIR)).await.unwrap();
        identity.unwrap().promise_ms_max
    })
}

#[test]
fn a_start_is_bound_by_the_longest_promise_and_forgets_it_when_that_has_run_out() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    // (promises of the start, how long it runs, what binds it, what is written down then), in milliseconds
    let table = [
        (300, 50, 0, 300),
        (600, 50, 300, 600),
        (100, 500, 600, 600),
        (200, 700, 600, 200),
        (100, 100, 200, 200),
        (100, 300, 200, 100),
        (100, 300, 100, 100),
    ];
    for (promise, runs, before, after) in table {
        let start = start(&sim, node, millis(promise));
        sim.run_until(|| start.borrow().bound.is_some(), millis(1_000));
        sim.run_for(millis(runs));
        let bound = start.borrow().bound.unwrap().1;
        assert_eq!(bound, millis(before), "{promise} {runs}");
        sim.kill(node);
        assert_eq!(in_file(&sim, node), after, "{promise} {runs}");
        sim.kill(node);
    }
}

/// Whenever the power goes, the next start is bound for as long as any promise that was given may run.
#[test]
fn a_crash_at_any_write_forgets_no_promise() {
    let mut crashes = 0;
    for (crashed, at) in (0..6).flat_map(|crashed| (1..25).map(move |at| (crashed, at))) {
        let config = SimConfig {
            clock_drift_ppm_max: 0,
            ..SimConfig::default()
        };
        let sim = Sim::with_config(at, config);
        let node = sim.add_node();
        // Until when promises of earlier starts may run.
        let mut given: Vec<Duration> = Vec::new();
        let promises = [300, 800, 200, 100, 100, 300].map(millis);
        for (number, promise) in promises.into_iter().enumerate() {
            let start = start(&sim, node, promise);
            if number == crashed {
                sim.crash_at_io(node, at);
            }
            let is_done = || start.borrow().free.is_some() || !sim.is_up(node);
            assert!(
                sim.run_until(is_done, Duration::from_secs(5)),
                "it is stuck"
            );
            crashes += u32::from(!sim.is_up(node));
            if let Some((when, bound)) = start.borrow().bound {
                let longest = given.iter().max().copied().unwrap_or_default();
                assert!(
                    when + bound >= longest,
                    "crash at {at} of {crashed}: bound for {bound:?}"
                );
                // The last promise may be given in the last moment.
                given.push(sim.now() + promise);
            }
            if sim.is_up(node) {
                sim.crash(node);
            }
        }
    }
    assert!(crashes > 60, "only {crashes} crashes");
}

/// The identity is whole in memory, so that damage of its file is no harm while the node runs.
#[test]
fn a_damaged_identity_is_written_anew_while_the_node_runs() {
    let sim = Sim::with_config(3, SimConfig::default());
    let node = sim.add_node();
    sim.start(node, 0, move || async move {
        let opened = DataDir::open(Path::new(DIR), &expected(), millis(300)).await;
        let opened = opened.unwrap();
        let me = Introduction {
            cluster: FullClusterId(1),
            node: NodeId(1),
            store: opened.identity.store,
            start: opened.start,
            mark: opened.identity.mark,
            port: 1,
            cores: 1,
            settings: Settings::new(1, 1, 0),
        };
        let keeper = IdentityKeeper::new(Path::new(DIR), &opened, me, false);
        keeper.keep_whole(millis(100)).await;
    });
    sim.run_for(millis(50));
    let file = format!("{DIR}/{}", identity::FILE_NAME);
    let disk = sim.disk(node);
    let whole = disk.read(&file).unwrap();
    for at in [0, 40, 200] {
        disk.flip_bit(&file, at);
        assert_ne!(disk.read(&file).unwrap(), whole);
        sim.run_for(millis(200));
        assert_eq!(disk.read(&file).unwrap(), whole, "byte {at}");
    }
    disk.remove(&file);
    sim.run_for(millis(200));
    assert_eq!(disk.read(&file).unwrap(), whole);
}
