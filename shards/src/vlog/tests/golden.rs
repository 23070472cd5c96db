//! Segments of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{DIR, Manifest, collect, put, reads_back, wait_sealed};
use crate::ids::ValueSegmentId;
use crate::vlog::{ValuePointer, inspect};
use corelith_io::sim::{Sim, SimNode};
use std::path::{Path, PathBuf};

const SEGMENT_BYTES: u64 = 128 << 10;
const LENS: [usize; 5] = [100, 0, 70_000, 5000, 1];
/// Values of which the collection keeps every second one.
const GENERATIONS: [&str; 2] = ["000000000000.000.vlog", "000000000000.001.vlog"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/vlog")
}

fn is_kept(index: u64) -> bool {
    index.is_multiple_of(2)
}

/// Writes both generations of a segment; returns the manifests that name them, and the pointers.
fn fill(sim: &Sim, node: SimNode) -> (Vec<Manifest>, Vec<ValuePointer>) {
    sim.block_on(node, async {
        let log = Manifest::default()
            .open(Path::new(DIR), SEGMENT_BYTES)
            .await
            .unwrap();
        let pointers = put(&log, 0, &LENS).await;
        put(&log, 10, &[100_000]).await;
        wait_sealed(&log).await;
        let only_first = |mut manifest: Manifest| {
            manifest.known.truncate(1);
            manifest
        };
        let mut manifests = vec![only_first(Manifest::of(&log))];
        let held = log.segments();
        log.install_rewritten(collect(&log, 0, is_kept).await.unwrap());
        manifests.push(only_first(Manifest::of(&log)));
        drop(held);
        log.close().await.unwrap();
        (manifests, pointers)
    })
}

async fn describe(name: &str) -> String {
    let path = Path::new(DIR).join(name);
    inspect(&path, 100, &[]).await.unwrap().into_string()
}

/// `cargo test -p corelith-shards write_golden_files -- --ignored`, for a new format version.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_files() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    fill(&sim, node);
    std::fs::create_dir_all(golden()).unwrap();
    for name in GENERATIONS {
        let bytes = sim.disk(node).read(Path::new(DIR).join(name)).unwrap();
        std::fs::write(golden().join(name), bytes).unwrap();
        let text = sim.block_on(node, describe(name));
        std::fs::write(golden().join(format!("{name}.txt")), text).unwrap();
    }
}

#[test]
fn segments_of_version_1_open_and_are_written_alike() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    let (manifests, pointers) = fill(&sim, node);
    for (name, manifest) in GENERATIONS.iter().zip(manifests) {
        let bytes = std::fs::read(golden().join(name)).unwrap();
        let path = Path::new(DIR).join(name);
        assert_eq!(sim.disk(node).read(&path), Some(bytes.clone()), "{name}");
        let sim = Sim::new(3);
        let node = sim.add_node();
        sim.disk(node).write(&path, &bytes);
        let pointers = pointers.clone();
        let text = sim.block_on(node, describe(name));
        let expected = std::fs::read_to_string(golden().join(format!("{name}.txt"))).unwrap();
        assert_eq!(text, expected);
        sim.block_on(node, async move {
            let log = manifest.open(Path::new(DIR), SEGMENT_BYTES).await.unwrap();
            let generation = log.segments()[&ValueSegmentId(0)].generation();
            for (index, pointer) in (0..).zip(&pointers) {
                let is_there = generation == 0 || is_kept(index);
                assert_eq!(reads_back(&log, index, *pointer).await, is_there);
            }
            log.close().await.unwrap();
        });
    }
}
