//! The Sim world: every case on a simulated node, several times over with different seeds.

use crate::{Place, for_each_case};
use corelith_io::create_dir_all;
use corelith_io::sim::{Sim, SimConfig};
use std::future::Future;
use std::path::PathBuf;

const SEEDS: u64 = 6;

fn run<F: Future<Output = ()> + 'static>(case: impl Fn(Place) -> F) {
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
        sim.block_on(node, case(place));
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
