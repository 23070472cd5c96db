//! The Sim world: every case on a simulated node, several times over with different seeds.

use crate::{OtherCore, Place, do_jobs, for_each_case, for_each_case_of_two_cores};
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{channel, create_dir_all};
use std::future::Future;
use std::path::PathBuf;

const SEEDS: u64 = 6;

fn run<F: Future<Output = ()> + 'static>(case: impl Fn(Place) -> F) {
    in_worlds(|sim, node, place| sim.block_on(node, case(place)));
}

fn run_on_two<F: Future<Output = ()> + 'static>(case: impl Fn(Place, OtherCore) -> F) {
    in_worlds(|sim, node, place| {
        let (give, jobs) = channel(16);
        sim.start(node, 1, move || do_jobs(jobs));
        sim.block_on(node, case(place, OtherCore(give)));
    });
}

fn in_worlds(run: impl Fn(&Sim, SimNode, Place)) {
    for seed in 0..SEEDS {
        let config = SimConfig {
            short_read_chance: 0.5,
            clock_drift_ppm_max: 5000,
            disk_tail_chance: 0.05,
            ..SimConfig::default()
        };
        let sim = Sim::with_config(seed, config);
        let node = sim.add_node();
        let dir = PathBuf::from("/data/case");
        let place = Place {
            dir: dir.clone(),
            ip: node.ip(),
        };
        sim.block_on(node, async move { create_dir_all(&dir).await.unwrap() });
        run(&sim, node, place);
    }
}

macro_rules! run_in_sim {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                run(crate::$module::$case);
            }
        )*
    };
}

for_each_case!(run_in_sim);

macro_rules! run_on_two_in_sim {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                run_on_two(crate::$module::$case);
            }
        )*
    };
}

for_each_case_of_two_cores!(run_on_two_in_sim);
