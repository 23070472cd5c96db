//! Segments of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{DIR, Manifest, OWNER, collect, put, reads_back, wait_sealed};
use crate::ids::{FileId, ValueSegmentId};
use crate::vlog::rewrite::record_ref;
use crate::vlog::walk::{RecordWalk, Step};
use crate::vlog::{Segment, ValuePointer, inspect};
use corelith_io::sim::{Sim, SimNode};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const SEGMENT_BYTES: u64 = 128 << 10;
const LENS: [usize; 5] = [100, 0, 70_000, 5000, 1];
/// Values of which the collection keeps every second one.
const GENERATIONS: [&str; 2] = ["000000000000.000.vlog", "000000000000.001.vlog"];

/// The version that is written now.
const VERSION: u32 = 3;

fn golden(version: u32) -> PathBuf {
    let version = format!("tests/golden/v{version}/vlog");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(version)
}

/// What names the records of the first generation at `path`.
async fn pointers_of(path: &Path) -> Vec<ValuePointer> {
    let segment = Rc::new(Segment::open_path(path).await.unwrap());
    let mut walk = RecordWalk::of_sealed(&segment).await.unwrap();
    let mut pointers = Vec::new();
    loop {
        match walk.next().await.unwrap() {
            Step::Record(_, head) => pointers.push(record_ref(&segment, &head).pointer),
            Step::Damage(..) => {}
            Step::End => return pointers,
        }
    }
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
    std::fs::create_dir_all(golden(VERSION)).unwrap();
    for name in GENERATIONS {
        let bytes = sim.disk(node).read(Path::new(DIR).join(name)).unwrap();
        std::fs::write(golden(VERSION).join(name), bytes).unwrap();
        let text = sim.block_on(node, describe(name));
        std::fs::write(golden(VERSION).join(format!("{name}.txt")), text).unwrap();
    }
}

#[test]
fn segments_are_written_as_ever() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    fill(&sim, node);
    for (name, differs) in GENERATIONS.iter().zip([0, 4096]) {
        let bytes = std::fs::read(golden(VERSION).join(name)).unwrap();
        let found = sim.disk(node).read(Path::new(DIR).join(name)).unwrap();
        // The file id of a later generation is drawn.
        assert_eq!(found[differs..], bytes[differs..], "{name}");
    }
}

#[test]
fn segments_of_all_versions_open() {
    for version in 1..=VERSION {
        let sim = Sim::new(2);
        let node = sim.add_node();
        let (manifests, _) = fill(&sim, node);
        let first = std::fs::read(golden(version).join(GENERATIONS[0])).unwrap();
        for (name, mut manifest) in GENERATIONS.iter().zip(manifests) {
            let bytes = std::fs::read(golden(version).join(name)).unwrap();
            let path = Path::new(DIR).join(name);
            let sim = Sim::new(3);
            let node = sim.add_node();
            sim.disk(node).write(DIR.to_owned() + "/first", &first);
            let pointers = sim.block_on(node, pointers_of(Path::new("/data/shard/first")));
            sim.disk(node).write(&path, &bytes);
            let text = sim.block_on(node, describe(name));
            let expected = golden(version).join(format!("{name}.txt"));
            assert_eq!(text, std::fs::read_to_string(expected).unwrap());
            let meta = &mut manifest.known[0];
            meta.file = match version {
                1 => FileId::of_segment(OWNER, meta.id, meta.generation),
                _ => FileId(u128::from_le_bytes(bytes[12..28].try_into().unwrap())),
            };
            sim.block_on(node, async move {
                let log = manifest.open(Path::new(DIR), SEGMENT_BYTES).await.unwrap();
                let generation = log.segments()[&ValueSegmentId(0)].generation();
                assert_eq!(pointers.len(), LENS.len());
                for (index, pointer) in (0..).zip(pointers) {
                    let pointer = ValuePointer {
                        segment: ValueSegmentId(0),
                        ..pointer
                    };
                    let is_there = generation == 0 || is_kept(index);
                    assert_eq!(reads_back(&log, index, pointer).await, is_there);
                }
                log.close().await.unwrap();
            });
        }
    }
}
