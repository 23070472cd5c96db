use super::*;
use crate::limits::REMOVAL_PAUSE;
use corelith_io::sim::{IoKind, Sim, SimNode};
use corelith_io::{Buf, sync_dir};

const STEP: u64 = 64 << 10;
const DIR: &str = "/d";
/// Far more than any of this takes.
const LIMIT: Duration = Duration::from_secs(60);

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

async fn write(name: String, len: u64) {
    corelith_io::create_dir_all(Path::new(DIR)).await.unwrap();
    let options = OpenOptions::new().write().create_new();
    let file = options.open(&path(&name)).await.unwrap();
    let mut buf = Buf::alloc(len as usize);
    buf.fill(7);
    file.write_at(0, buf).await.unwrap();
    file.sync().await.unwrap();
    sync_dir(Path::new(DIR)).await.unwrap();
}

/// Removals on a simulated node.
struct World {
    sim: Sim,
    node: SimNode,
    removals: Removals,
}

impl World {
    fn new() -> Self {
        let sim = Sim::new(1);
        let node = sim.add_node();
        let removals = Removals::new(STEP);
        Self {
            sim,
            node,
            removals,
        }
    }

    fn write(&self, name: &str, len: u64) {
        self.sim.block_on(self.node, write(name.to_owned(), len));
    }

    fn remove(&self, name: &str, bytes: u64) {
        let (removals, path) = (self.removals.clone(), path(name));
        self.sim.block_on(self.node, async move {
            removals.remove(&path, bytes).await.unwrap();
            // Until then its space may still be the file's.
            sync_dir(Path::new(DIR)).await.unwrap();
        });
    }

    fn used(&self) -> u64 {
        self.sim.disk(self.node).used_bytes()
    }

    /// Waits until all space, at least `least` bytes, has come back, none of it more than a step at once.
    fn finish_in_steps(&self, least: u64) {
        let mut before = self.used();
        assert!(before >= least, "the space is not back at once");
        let mut is_over = || {
            let used = self.used();
            assert!(before - used <= STEP, "{} bytes at once", before - used);
            let held = self.removals.inner.held.get();
            assert!(held.abs_diff(used) <= STEP, "{held}");
            before = used;
            self.removals.is_idle()
        };
        assert!(self.sim.run_until(&mut is_over, LIMIT), "it never ends");
        self.finish();
    }

    /// Waits until all space is back.
    fn finish(&self) {
        let is_idle = || self.removals.is_idle();
        assert!(self.sim.run_until(is_idle, LIMIT), "it never ends");
        assert_eq!(self.removals.inner.held.get(), 0);
        assert_eq!(self.used(), 0);
    }
}

#[test]
fn a_long_file_goes_in_steps_with_pauses_after_its_name() {
    let world = World::new();
    world.write("long", 10 * STEP);
    let since = world.sim.now();
    world.remove("long", 10 * STEP);
    assert!(world.sim.disk(world.node).read(path("long")).is_none());
    assert!(!world.removals.is_idle());
    world.finish_in_steps(9 * STEP);
    assert!(world.sim.now() - since >= REMOVAL_PAUSE.mul_f64(8.9));
}

#[test]
fn a_short_file_goes_as_a_whole_and_one_that_is_not_there_is_no_error() {
    let world = World::new();
    world.write("short", STEP / 16);
    world.remove("short", STEP / 16);
    assert!(world.removals.is_idle());
    assert_eq!(world.used(), 0);
    world.remove("missing", u64::MAX);
    assert!(world.removals.is_idle());
}

#[test]
fn while_nobody_is_disturbed_a_file_goes_fast() {
    let mut times = Vec::new();
    for is_quiet in [true, false] {
        let mut world = World::new();
        world.removals = Removals::with_rate(STEP, move |removals| {
            let pressure = Pressure {
                is_busy: !is_quiet,
                removals,
                ..Pressure::default()
            };
            judge(&pressure, &PaceLimits::default()).removal
        });
        world.write("long", 10 * STEP);
        let since = world.sim.now();
        world.remove("long", 10 * STEP);
        world.finish();
        times.push(world.sim.now() - since);
    }
    assert!(times[0] < times[1] / 2, "{times:?}");
}

#[test]
fn many_files_go_one_after_the_other() {
    let world = World::new();
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    names.iter().for_each(|name| world.write(name, STEP / 2));
    let since = world.sim.now();
    names.iter().for_each(|name| world.remove(name, STEP / 2));
    world.finish_in_steps(4 * STEP);
    assert!(world.sim.now() - since >= REMOVAL_PAUSE.mul_f64(8.9));
}

#[test]
fn where_nothing_may_be_held_all_space_comes_back_at_once() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.write(name, 10 * STEP);
    }
    world.remove("a", u64::MAX);
    world.remove("b", u64::MAX);
    assert!(world.removals.inner.held.get() > 18 * STEP);
    world.removals.set_held_max(0);
    world.remove("c", u64::MAX);
    let since = world.sim.now();
    world.finish();
    assert!(world.sim.now() - since <= 2 * REMOVAL_PAUSE);
    // What comes later takes its time again.
    world.removals.set_held_max(REMOVAL_HELD_BYTES_MAX);
    world.write("d", 10 * STEP);
    world.remove("d", u64::MAX);
    assert!(!world.removals.is_idle());
}

#[test]
fn no_more_is_held_than_may_be_whenever_that_changes() {
    let world = World::new();
    world.removals.set_held_max(25 * STEP);
    for round in 0..60 {
        let name = format!("{round}");
        world.write(&name, 10 * STEP);
        world.remove(&name, u64::MAX);
        assert!(world.removals.inner.held.get() <= 25 * STEP);
        match round % 9 {
            // In the middle of a step, and up again before it ends.
            4 => {
                world.removals.set_held_max(0);
                world.removals.set_held_max(25 * STEP);
            }
            7 => world.removals.set_held_max(5 * STEP),
            8 => world.removals.set_held_max(25 * STEP),
            _ => {}
        }
    }
    world.finish();
}

#[test]
fn a_file_that_cannot_be_shortened_goes_all_the_same() {
    for kind in [IoKind::Sync, IoKind::SetLen] {
        let world = World::new();
        world.write("long", 10 * STEP);
        world.sim.disk(world.node).fail(kind, "long", 1);
        world.remove("long", u64::MAX);
        world.finish();
    }
}

#[test]
fn dropped_in_between_it_gives_everything_back() {
    let world = World::new();
    world.write("long", 10 * STEP);
    world.remove("long", u64::MAX);
    assert!(world.used() > 8 * STEP);
    let World {
        sim,
        node,
        removals,
    } = world;
    drop(removals);
    let is_back = || sim.disk(node).used_bytes() == 0;
    assert!(sim.run_until(is_back, 2 * REMOVAL_PAUSE));
}

#[test]
fn after_a_power_cut_at_any_moment_no_file_without_a_name_holds_space() {
    for cut in 1.. {
        let sim = Sim::new(cut);
        let node = sim.add_node();
        sim.block_on(node, write("long".to_owned(), 10 * STEP));
        sim.crash_at_io(node, sim.io_count(node) + cut);
        let removals = Removals::new(STEP);
        let is_removed = Rc::new(Cell::new(false));
        let (removing, removed) = (removals.clone(), Rc::clone(&is_removed));
        sim.start(node, 0, move || async move {
            removing.remove(&path("long"), u64::MAX).await.unwrap();
            sync_dir(Path::new(DIR)).await.unwrap();
            removed.set(true);
        });
        let is_over = || !sim.is_up(node) || is_removed.get() && removals.is_idle();
        assert!(sim.run_until(is_over, LIMIT), "cut at {cut}");
        if sim.is_up(node) {
            assert!(cut > 10, "it was cut nowhere");
            return;
        }
        let left: u64 = sim.disk(node).files().iter().map(|(_, len)| len).sum();
        assert_eq!(sim.disk(node).used_bytes(), left, "cut at {cut}");
    }
}
