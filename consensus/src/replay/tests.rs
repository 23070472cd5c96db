use crate::tests::cluster::{command, introduction, lone_groups};
use crate::{Group, GroupMember, Options, Origin, Outcome};
use bytes::Bytes;
use corelith_io::sim::{Sim, SimNode};
use corelith_shards::{NodeId, ReplicaId, Shard, ShardId, ShardOptions};
use corelith_wire::StoreId;
use corelith_wire::request::{Condition, Operation, WriteRequest};
use futures_util::future::join_all;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const ME: NodeId = NodeId(1);
const SHARD: ShardId = ShardId(0);
/// Writes that clients have in flight.
const IN_FLIGHT: u64 = 256;

/// A group of this node alone, once it leads.
async fn open() -> Group {
    let store = StoreId(7);
    let groups = lone_groups(introduction(ME, store), Options::default());
    let mut options = ShardOptions::new(7, SHARD);
    options.segment_bytes = 1 << 20;
    options.value_segment_bytes = 1 << 20;
    let shard = Shard::open(Path::new("/data/shard"), options)
        .await
        .unwrap();
    let replica = ReplicaId::first(ME);
    let members = vec![GroupMember { replica, store }];
    let origin = Origin::Founding(members);
    groups.open(shard, SHARD, origin, ME).await.unwrap()
}

fn key(number: u64) -> Bytes {
    format!("key {number:06}").into()
}

fn value(number: u64, len: usize) -> Bytes {
    let unit = format!("<{number:06}>");
    let mut value = unit.repeat(len / unit.len() + 1).into_bytes();
    value.truncate(len);
    value.into()
}

async fn session(group: &Group) -> u64 {
    loop {
        match group
            .open_session(Bytes::new())
            .await
            .map(|reply| reply.outcome)
        {
            Ok(Outcome::SessionOpened { session }) => return session,
            _ => corelith_io::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Writes `count` values of `len` bytes, many at a time, and is cut off; returns how long they took.
fn write(sim: &Sim, node: SimNode, count: u64, len: usize) -> Duration {
    let took = sim.block_on(node, async move {
        let group = open().await;
        let session = session(&group).await;
        let started = corelith_io::now();
        for first in (0..count).step_by(IN_FLIGHT as usize) {
            let writes = (first..count.min(first + IN_FLIGHT)).map(|number| {
                let key = key(number);
                let request = WriteRequest {
                    session,
                    number: number + 1,
                    answered_below: first + 1,
                    condition: Condition::Any,
                    operation: Operation::Put,
                    key: &key,
                };
                group.write(command(&request, &value(number, len)))
            });
            for reply in join_all(writes).await {
                assert!(matches!(reply.unwrap().outcome, Outcome::Applied { .. }));
            }
        }
        let took = started.elapsed();
        // The last of them is proven, and known to be committed.
        corelith_io::sleep(Duration::from_secs(2)).await;
        took
    });
    sim.kill(node);
    took
}

/// What was written is applied again at least twice as fast as it was written, in the time that devices
/// take; nothing is lost.
#[test]
fn replay_is_twice_as_fast_as_writing() {
    const COUNT: u64 = 20_000;
    let sim = Sim::new(1);
    let node = sim.add_node();
    let writing = write(&sim, node, COUNT, 256);
    let replaying = sim.block_on(node, async move {
        let started = corelith_io::now();
        let group = open().await;
        let took = started.elapsed();
        assert_eq!(group.status().checkpointed, None, "everything is replayed");
        let applied = group.status().applied.unwrap();
        assert!(applied.index.0 >= COUNT, "{applied}");
        for number in (0..COUNT).step_by(97) {
            let found = group.engine().get(&key(number)).await.unwrap().unwrap();
            assert_eq!(found.value, value(number, 256));
        }
        took
    });
    assert!(
        replaying * 2 <= writing,
        "{replaying:?}, written in {writing:?}"
    );
}

/// Entries are applied without their values, so a damaged one does not keep the group from opening: it is
/// found by whoever reads it, and everything else is there.
#[test]
fn a_damaged_value_in_the_log_does_not_keep_a_group_from_opening() {
    const COUNT: u64 = 40;
    const LEN: usize = 9000;
    let sim = Sim::new(2);
    let node = sim.add_node();
    write(&sim, node, COUNT, LEN);
    let damaged = 17;
    let needle = value(damaged, LEN);
    let disk = sim.disk(node);
    let place = disk.files().into_iter().find_map(|(path, _)| {
        let bytes = disk.read(&path)?;
        let at = bytes
            .windows(4096)
            .position(|part| part == &needle[..4096])?;
        path.ends_with(".vlog").then_some((path, at as u64))
    });
    let (path, at) = place.expect("the value is in the value log");
    disk.flip_bit(&path, at + 100);
    let told = Rc::new(RefCell::new(None));
    let error = Rc::clone(&told);
    sim.block_on(node, async move {
        let group = open().await;
        for number in (0..COUNT).filter(|number| *number != damaged) {
            let found = group.engine().get(&key(number)).await.unwrap().unwrap();
            assert_eq!(found.value, value(number, LEN));
        }
        *error.borrow_mut() = Some(group.engine().get(&key(damaged)).await.unwrap_err());
        session(&group).await;
    });
    assert!(told.borrow().as_ref().unwrap().is_corrupt());
}
