use super::*;
use corelith_io::sim::{IoKind, Sim, SimNode};
use corelith_io::{Buf, now, sync_dir};
use std::future::Future;

const STEP: u64 = 16 << 10;
const DIR: &str = "/d";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

async fn write(name: &str, len: u64) {
    corelith_io::create_dir_all(Path::new(DIR)).await.unwrap();
    let options = OpenOptions::new().write().create_new();
    let file = options.open(&path(name)).await.unwrap();
    let mut buf = Buf::alloc(len as usize);
    buf.fill(7);
    file.write_at(0, buf).await.unwrap();
    file.sync().await.unwrap();
    sync_dir(Path::new(DIR)).await.unwrap();
}

async fn remove(removals: &Removals, name: &str, bytes: u64) {
    removals.remove(&path(name), bytes).await.unwrap();
    // Until then its space may still be the file's.
    sync_dir(Path::new(DIR)).await.unwrap();
}

fn simulate<Fut: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Sim>, SimNode) -> Fut) {
    let sim = Rc::new(Sim::new(1));
    let node = sim.add_node();
    let running = test(Rc::clone(&sim), node);
    sim.block_on(node, running);
}

#[test]
fn a_long_file_goes_in_steps_with_pauses_after_its_name() {
    simulate(|sim, node| async move {
        write("long", 10 * STEP).await;
        let disk = sim.disk(node);
        let empty = disk.used_bytes() - 10 * STEP;
        let removals = Removals::new(STEP);
        let since = now();
        remove(&removals, "long", 10 * STEP).await;
        assert!(disk.read(path("long")).is_none());
        assert!(!removals.is_idle());
        let mut before = disk.used_bytes();
        assert!(before >= empty + 9 * STEP, "its space is not back at once");
        while !removals.is_idle() {
            corelith_io::sleep(Duration::from_millis(1)).await;
            let used = disk.used_bytes();
            assert!(before - used <= STEP, "{} bytes at once", before - used);
            let held = removals.inner.held.get();
            assert!(held.abs_diff(used - empty) <= STEP, "{held}");
            before = used;
        }
        assert_eq!(disk.used_bytes(), empty);
        assert!(since.elapsed() >= REMOVAL_PAUSE.mul_f64(8.9));
    });
}

#[test]
fn a_short_file_goes_as_a_whole_and_one_that_is_not_there_is_no_error() {
    simulate(|sim, node| async move {
        write("short", STEP).await;
        let removals = Removals::new(STEP);
        remove(&removals, "short", STEP).await;
        assert!(removals.is_idle());
        assert_eq!(sim.disk(node).used_bytes(), 0);
        remove(&removals, "missing", u64::MAX).await;
        assert!(removals.is_idle());
    });
}

#[test]
fn where_nothing_may_be_held_all_space_comes_back_at_once() {
    simulate(|sim, node| async move {
        for name in ["a", "b", "c"] {
            write(name, 10 * STEP).await;
        }
        let removals = Removals::new(STEP);
        remove(&removals, "a", u64::MAX).await;
        remove(&removals, "b", u64::MAX).await;
        assert!(removals.inner.held.get() > 18 * STEP);
        removals.set_held_max(0);
        remove(&removals, "c", u64::MAX).await;
        let since = now();
        while !removals.is_idle() {
            corelith_io::sleep(Duration::from_millis(1)).await;
        }
        assert!(since.elapsed() <= 2 * REMOVAL_PAUSE);
        assert_eq!(sim.disk(node).used_bytes(), 0);
        assert_eq!(removals.inner.held.get(), 0);
        // What comes later takes its time again.
        removals.set_held_max(REMOVAL_HELD_BYTES_MAX);
        write("d", 10 * STEP).await;
        remove(&removals, "d", u64::MAX).await;
        assert!(!removals.is_idle());
    });
}

#[test]
fn no_more_is_held_than_may_be_whenever_that_changes() {
    simulate(|sim, node| async move {
        let removals = Removals::new(STEP);
        removals.set_held_max(25 * STEP);
        for round in 0..60 {
            let name = format!("{round}");
            write(&name, 10 * STEP).await;
            remove(&removals, &name, u64::MAX).await;
            assert!(removals.inner.held.get() <= 25 * STEP);
            match round % 9 {
                // In the middle of a step, and up again before it ends.
                4 => {
                    removals.set_held_max(0);
                    removals.set_held_max(25 * STEP);
                }
                7 => removals.set_held_max(5 * STEP),
                8 => removals.set_held_max(25 * STEP),
                _ => {}
            }
        }
        while !removals.is_idle() {
            corelith_io::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(removals.inner.held.get(), 0);
        assert_eq!(sim.disk(node).used_bytes(), 0);
    });
}

#[test]
fn a_file_that_cannot_be_shortened_goes_all_the_same() {
    for kind in [IoKind::Sync, IoKind::Write] {
        simulate(|sim, node| async move {
            write("long", 10 * STEP).await;
            let removals = Removals::new(STEP);
            sim.disk(node).fail(kind, "long", 1);
            remove(&removals, "long", u64::MAX).await;
            while !removals.is_idle() {
                corelith_io::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(sim.disk(node).used_bytes(), 0, "{kind:?}");
        });
    }
}

#[test]
fn dropped_in_between_it_gives_everything_back() {
    simulate(|sim, node| async move {
        write("long", 10 * STEP).await;
        let removals = Removals::new(STEP);
        remove(&removals, "long", u64::MAX).await;
        drop(removals);
        corelith_io::sleep(2 * REMOVAL_PAUSE).await;
        assert_eq!(sim.disk(node).used_bytes(), 0);
    });
}

#[test]
fn after_a_power_cut_at_any_moment_no_file_without_a_name_holds_space() {
    for cut in 1.. {
        let sim = Sim::new(cut);
        let node = sim.add_node();
        sim.block_on(node, write("long", 10 * STEP));
        sim.crash_at_io(node, sim.io_count(node) + cut);
        sim.start(node, 0, || async {
            let removals = Removals::new(STEP);
            remove(&removals, "long", u64::MAX).await;
            while !removals.is_idle() {
                corelith_io::sleep(Duration::from_millis(1)).await;
            }
        });
        sim.run_for(Duration::from_secs(1));
        if sim.is_up(node) {
            assert!(cut > 10, "it was cut nowhere");
            return;
        }
        let left: u64 = sim.disk(node).files().iter().map(|(_, len)| len).sum();
        assert_eq!(sim.disk(node).used_bytes(), left, "cut at {cut}");
    }
}
