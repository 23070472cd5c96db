//! Large values in a simulated cluster: uploads outlive leaders, exactly one of racing commits wins, what is dead goes when
//! nobody reads it. Each situation is also run with the bug that it finds.

use super::client::parts_of;
use super::cluster::{Cluster, UploadAsk, abort, begin, chunk, commit, put};
use super::scenarios::applied;
use crate::limits::{ENDED_UPLOADS_KEPT_MAX, HELD_VALUES_MAX, UPLOAD_LANE_BYTES};
use crate::planted::{Bug, plant};
use crate::uploads::UploadCounts;
use crate::{Group, GroupError, Options};
use bytes::Bytes;
use corelith_io::sim::SimConfig;
use corelith_shards::{FoundLarge, LargeRef, LogIndex, ShardId, Space};
use corelith_wire::limits::CHUNK_BYTES_MAX;
use corelith_wire::request::Condition;
use corelith_wire::response::ReplyMeta;
use corelith_wire::upload::{UploadRefusal, UploadState, UploadStatus};
use corelith_wire::{ChunkId, UploadId};
use futures_util::future::join_all;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(super) const SHARD: ShardId = ShardId(0);
/// It has three parts, a short one and two that the log separates.
pub(super) const LONG: UploadId = UploadId(7);
/// Another one, of three parts.
const OTHER: UploadId = UploadId(11);

/// What a situation shows, in words if it is wrong.
type Verdict = Result<(), String>;

fn wants<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Verdict {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} and not {wanted:?}")),
    }
}

fn id(upload: UploadId, part: u32) -> ChunkId {
    ChunkId {
        upload,
        part,
        chunk: 0,
    }
}

/// Does what is asked at the leader, whoever that comes to be.
pub(super) fn ask(cluster: &Cluster, ask: UploadAsk) -> UploadState {
    for _ in 0..100 {
        let leader = cluster.wait_leader();
        match cluster.upload(leader, ask.clone()) {
            Ok(reply) => return reply.state,
            Err(_) => cluster.sim.run_for(Duration::from_millis(100)),
        }
    }
    panic!("nobody answers");
}

pub(super) fn begins(cluster: &Cluster, upload: UploadId, key: &str) {
    let state = ask(cluster, UploadAsk::Begin(begin(upload, key, 0)));
    assert_eq!(state, UploadState::Open);
}

pub(super) fn takes(cluster: &Cluster, upload: UploadId, part: u32, bytes: &Bytes) -> UploadState {
    ask(cluster, UploadAsk::Chunk(chunk(id(upload, part), bytes)))
}

fn commits(cluster: &Cluster, upload: UploadId, condition: Condition) -> UploadState {
    let parts = parts_of(upload);
    ask(
        cluster,
        UploadAsk::Commit(commit(upload, condition, &parts)),
    )
}

/// A whole upload; its version.
pub(super) fn uploads(cluster: &Cluster, upload: UploadId, key: &str) -> u64 {
    begins(cluster, upload, key);
    for (part, bytes) in (0..).zip(parts_of(upload)) {
        assert_eq!(takes(cluster, upload, part, &bytes), UploadState::Open);
    }
    match commits(cluster, upload, Condition::Any) {
        UploadState::Committed { version } => version,
        other => panic!("{upload} is {other:?}"),
    }
}

fn overwrite(cluster: &Cluster, key: &str) {
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let command = put(session, 1, Condition::Any, key, "small");
    applied(cluster.write(leader, command).unwrap().outcome);
}

fn counts(cluster: &Cluster, at: usize) -> UploadCounts {
    let group = cluster.groups(at).unwrap().group(SHARD).unwrap();
    group.upload_counts()
}

/// Whether a replica has all of a value.
fn has_all(cluster: &Cluster, at: usize, upload: UploadId) -> bool {
    let group = cluster.groups(at).unwrap().group(SHARD).unwrap();
    cluster.sim.block_on(cluster.nodes[at], async move {
        for (part, bytes) in (0..).zip(parts_of(upload)) {
            let read = group.read_chunk(id(upload, part), 0..u32::MAX).await;
            if read.unwrap() != Some(bytes) {
                return false;
            }
        }
        true
    })
}

/// Rows of chunks that a replica has.
fn chunk_rows(cluster: &Cluster, at: usize) -> usize {
    let rows = cluster.upload_rows(at, SHARD).into_iter();
    rows.filter(|(space, _)| *space != Space::Upload).count()
}

#[test]
fn an_upload_goes_on_with_another_leader() {
    for seed in 0..4 {
        let cluster = Cluster::started(seed);
        let parts = parts_of(LONG);
        assert_eq!(parts.len(), 3);
        begins(&cluster, LONG, "key");
        for (part, bytes) in (0..).zip(&parts) {
            assert_eq!(takes(&cluster, LONG, part, bytes), UploadState::Open);
            let leader = cluster.wait_leader();
            cluster.crash(leader);
            // What was acknowledged is there, and needs no entry.
            assert_eq!(takes(&cluster, LONG, part, bytes), UploadState::Open);
            let leader = cluster.wait_leader();
            let ask = UploadStatus {
                upload: LONG,
                after: None,
                chunks_max: 100,
            };
            let status = cluster.upload(leader, UploadAsk::Status(ask)).unwrap();
            assert_eq!(status.chunks.len(), part as usize + 1);
            for at in 0..3 {
                if !cluster.is_up(at) {
                    cluster.start(at);
                }
            }
        }
        let committed = commits(&cluster, LONG, Condition::Absent);
        assert!(matches!(committed, UploadState::Committed { .. }));
        let leader = cluster.wait_leader();
        cluster.crash(leader);
        assert_eq!(commits(&cluster, LONG, Condition::Absent), committed);
        cluster.start(leader);
        cluster.check_replicas_equal();
        for at in 0..3 {
            assert!(has_all(&cluster, at, LONG), "replica {at}, seed {seed}");
        }
    }
}

/// Commits and chunks that are not as they should be change nothing.
fn what_is_wrong_is_refused(seed: u64) -> Verdict {
    let cluster = Cluster::started(seed);
    let parts = parts_of(LONG);
    begins(&cluster, LONG, "key");
    takes(&cluster, LONG, 0, &parts[0]);
    let early = commits(&cluster, LONG, Condition::Any);
    let incomplete = UploadRefusal::Incomplete { part: 1, chunk: 0 };
    wants("a commit", early, UploadState::Refused(incomplete))?;
    let differs = UploadState::Refused(UploadRefusal::ChunkDiffers);
    let other = takes(&cluster, LONG, 0, &Bytes::from_static(b"other"));
    wants("other content", other, differs)?;
    // The checksum is not that of the bytes.
    let mut broken = chunk(id(LONG, 1), &parts[1]).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let broken = ask(&cluster, UploadAsk::Chunk(broken.into()));
    let refused = UploadState::Refused(UploadRefusal::ChecksumDiffers);
    wants("a broken chunk", broken, refused)?;
    let leader = cluster.wait_leader();
    let malformed = cluster.upload(leader, UploadAsk::Chunk(Bytes::from_static(b"?")));
    wants(
        "no chunk",
        malformed.map(|reply| reply.state),
        Err(GroupError::Malformed),
    )?;
    for (part, bytes) in (1..).zip(parts.get(1..).unwrap()) {
        takes(&cluster, LONG, part, bytes);
    }
    let committed = commits(&cluster, LONG, Condition::Any);
    let is_committed = matches!(committed, UploadState::Committed { .. });
    wants("all of it is committed", is_committed, true)?;
    cluster.check_replicas_equal();
    Ok(())
}

#[test]
fn what_is_wrong_changes_nothing() {
    what_is_wrong_is_refused(1).unwrap();
}

/// Two uploads are committed at once under the condition that the key has no value.
fn one_of_two_wins(seed: u64) -> Verdict {
    let cluster = Cluster::started(seed);
    let both = [LONG, OTHER];
    for upload in both {
        begins(&cluster, upload, "key");
        for (part, bytes) in (0..).zip(parts_of(upload)) {
            takes(&cluster, upload, part, &bytes);
        }
    }
    let leader = cluster.wait_leader();
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    let answered = Rc::new(RefCell::new(0));
    for upload in both {
        let (group, answered) = (group.clone(), Rc::clone(&answered));
        let body = commit(upload, Condition::Absent, &parts_of(upload));
        cluster.sim.enter(cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                drop(group.commit_upload(body).await);
                *answered.borrow_mut() += 1;
            }));
        });
    }
    match seed % 3 {
        0 => cluster.wait("both are decided", || *answered.borrow() == 2),
        _ => cluster
            .sim
            .run_for(Duration::from_micros(200 * (seed % 20))),
    }
    drop(group);
    cluster.crash(leader);
    let states = both.map(|upload| commits(&cluster, upload, Condition::Absent));
    let versions = states.iter().filter_map(|state| match state {
        UploadState::Committed { version } => Some(*version),
        _ => None,
    });
    let versions: Vec<u64> = versions.collect();
    wants("winners", versions.len(), 1)?;
    let current = versions.first().copied();
    let lost = UploadState::Conflicted { current };
    wants("one lost", states.contains(&lost), true)?;
    cluster.start(leader);
    // The loser's space comes back.
    let chunks = parts_of(LONG).len();
    cluster.sim.run_for(Duration::from_secs(5));
    cluster.check_replicas_equal();
    for at in 0..3 {
        wants("rows of chunks", chunk_rows(&cluster, at), chunks)?;
    }
    Ok(())
}

#[test]
fn exactly_one_of_racing_commits_wins() {
    for seed in 0..12 {
        one_of_two_wins(seed).unwrap();
    }
}

#[test]
fn what_is_not_committed_in_time_goes() {
    for seed in 0..3 {
        let cluster = Cluster::started(seed);
        let short = UploadAsk::Begin(begin(LONG, "key", 2000));
        assert_eq!(ask(&cluster, short), UploadState::Open);
        begins(&cluster, OTHER, "key");
        for upload in [LONG, OTHER] {
            for (part, bytes) in (0..).zip(parts_of(upload)) {
                takes(&cluster, upload, part, &bytes);
            }
        }
        let leader = cluster.wait_leader();
        if seed > 0 {
            cluster.crash(leader);
        }
        cluster.wait_leader();
        cluster.sim.run_for(Duration::from_secs(5));
        let expired = commits(&cluster, LONG, Condition::Any);
        assert_eq!(expired, UploadState::Expired);
        let abandoned = ask(&cluster, UploadAsk::Abort(abort(OTHER)));
        assert_eq!(abandoned, UploadState::Aborted);
        if seed > 0 {
            cluster.start(leader);
        }
        cluster.sim.run_for(Duration::from_secs(5));
        cluster.check_replicas_equal();
        for at in 0..3 {
            assert_eq!(chunk_rows(&cluster, at), 0, "replica {at}, seed {seed}");
            assert_eq!(counts(&cluster, at), UploadCounts::default());
        }
        let aborted = commits(&cluster, OTHER, Condition::Any);
        assert_eq!(aborted, UploadState::Aborted);
    }
}

/// A replaced value can be read for as long as somebody says so, and by whoever a leader before was told to read it.
fn held_values_stay(seed: u64) -> Verdict {
    let cluster = Cluster::started(seed);
    uploads(&cluster, LONG, "key");
    let hold = UploadAsk::Hold(LONG);
    let held = ask(&cluster, hold.clone());
    overwrite(&cluster, "key");
    for _ in 0..4 {
        cluster.sim.run_for(Duration::from_secs(40));
        for at in 0..3 {
            wants("it is there", has_all(&cluster, at, LONG), true)?;
        }
        wants("it is held", ask(&cluster, hold.clone()), held)?;
    }
    // Whoever leads now has heard of no reader.
    let leader = cluster.wait_leader();
    cluster.crash(leader);
    let other = cluster.wait_leader();
    cluster.sim.run_for(Duration::from_secs(30));
    wants("it is there", has_all(&cluster, other, LONG), true)?;
    cluster.start(leader);
    cluster.sim.run_for(Duration::from_secs(100));
    wants("it is dropped", ask(&cluster, hold), UploadState::Dropped)?;
    cluster.check_replicas_equal();
    for at in 0..3 {
        wants("rows of chunks", chunk_rows(&cluster, at), 0)?;
        wants(
            "nothing is left",
            counts(&cluster, at),
            UploadCounts::default(),
        )?;
    }
    Ok(())
}

#[test]
fn a_replaced_value_stays_while_it_is_read() {
    held_values_stay(1).unwrap();
}

/// A value that nobody reads is dropped soon by a leader of long standing.
fn replaced_values_go(seed: u64) -> Verdict {
    let cluster = Cluster::started(seed);
    cluster.wait_leader();
    cluster.sim.run_for(Duration::from_secs(70));
    uploads(&cluster, LONG, "key");
    overwrite(&cluster, "key");
    uploads(&cluster, OTHER, "other");
    cluster.sim.run_for(Duration::from_secs(3));
    cluster.check_replicas_equal();
    for at in 0..3 {
        wants("dead", counts(&cluster, at).dead, 0)?;
        wants("live", counts(&cluster, at).live, 1)?;
        let chunks = parts_of(OTHER).len();
        wants("rows of chunks", chunk_rows(&cluster, at), chunks)?;
    }
    Ok(())
}

#[test]
fn a_replaced_value_that_nobody_reads_goes_soon() {
    replaced_values_go(2).unwrap();
}

#[test]
fn nobody_is_told_to_hold_what_is_being_dropped() {
    let mut seen = 0;
    for seed in 0..8 {
        let cluster = Cluster::started(seed);
        let leader = cluster.wait_leader();
        cluster.sim.run_for(Duration::from_secs(70));
        uploads(&cluster, LONG, "key");
        overwrite(&cluster, "key");
        if counts(&cluster, leader).dead == 0 {
            // Dropped already.
            continue;
        }
        let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
        let told = cluster.sim.block_on(cluster.nodes[leader], async move {
            let is_at_rest = |group: &Group| {
                let status = group.status();
                status.last_log == status.applied
            };
            // Nobody else writes: an entry that is not applied yet drops.
            while is_at_rest(&group) {
                if group.upload_counts().dead == 0 {
                    return None;
                }
                corelith_io::sleep(Duration::from_micros(20)).await;
            }
            Some(group.hold_value(LONG).unwrap().state)
        });
        // `None`: it was dropped between two looks.
        let Some(told) = told else { continue };
        seen += 1;
        cluster.sim.run_for(Duration::from_secs(3));
        let is_held = matches!(told, UploadState::Committed { .. });
        assert!(
            !is_held || has_all(&cluster, leader, LONG),
            "seed {seed}: it is held, and gone"
        );
        assert_eq!(counts(&cluster, leader).dead, 0, "seed {seed}");
    }
    assert!(seen > 0, "it was always too late");
}

#[test]
fn what_ends_is_dropped_beside_each_other() {
    let cluster = Cluster::started(4);
    let leader = cluster.wait_leader();
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    // Four times as many as may be open, and how long it takes to end one of them alone.
    let turns = 4000;
    let (ended, turn) = cluster.sim.block_on(cluster.nodes[leader], {
        let group = group.clone();
        async move {
            let mut turn = Duration::ZERO;
            for round in 0..4 {
                let ids = || (1..=turns / 4).map(|id| UploadId(u128::from(round * turns + id)));
                let begins = ids().map(|upload| group.begin_upload(begin(upload, "key", 0)));
                for begun in join_all(begins).await {
                    assert_eq!(begun.unwrap().state, UploadState::Open);
                }
                let start = corelith_io::now();
                let alone = UploadId(u128::from(round * turns + 1));
                group.abort_upload(abort(alone)).await.unwrap();
                turn = turn.max(start.elapsed());
                let aborts = ids().map(|upload| group.abort_upload(abort(upload)));
                for aborted in join_all(aborts).await {
                    assert_eq!(aborted.unwrap().state, UploadState::Aborted);
                }
            }
            (corelith_io::now(), turn)
        }
    });
    cluster.wait("all are dropped", || group.upload_counts().dead == 0);
    let took = cluster
        .sim
        .block_on(cluster.nodes[leader], async move { ended.elapsed() });
    // One after the other each would take a turn.
    let most = turn * turns / 8 + Duration::from_secs(1);
    assert!(took < most, "{took:?} for {turns}, one takes {turn:?}");
}

#[test]
fn many_readers_keep_what_they_read_and_nothing_else() {
    let cluster = Cluster::started(2);
    let leader = cluster.wait_leader();
    cluster.sim.run_for(Duration::from_secs(70));
    uploads(&cluster, LONG, "key");
    uploads(&cluster, OTHER, "other");
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    cluster.sim.block_on(cluster.nodes[leader], async move {
        let read = ((1_u128 << 64)..)
            .map(UploadId)
            .take(HELD_VALUES_MAX + 5000);
        for upload in read.chain([OTHER]) {
            let large = LargeRef {
                upload,
                len: 0,
                committed_us: 0,
            };
            let found = FoundLarge {
                version: LogIndex(0),
                large,
            };
            let described = group.describe_large(&found, ReplyMeta::default()).await;
            assert_eq!(described.unwrap(), None);
        }
    });
    overwrite(&cluster, "key");
    overwrite(&cluster, "other");
    cluster.sim.run_for(Duration::from_secs(3));
    assert!(has_all(&cluster, leader, OTHER));
    assert_eq!(counts(&cluster, leader).dead, 1, "the one that is read");
    cluster.sim.run_for(Duration::from_secs(150));
    assert_eq!(counts(&cluster, leader).dead, 0);
}

#[test]
fn what_is_no_value_is_not_given_out() {
    let cluster = Cluster::started(1);
    let leader = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    let parts = parts_of(LONG);
    // As bytes that another client has sent under that id, and gave up.
    begins(&cluster, LONG, "key");
    takes(&cluster, LONG, 0, &Bytes::from_static(b"former"));
    cluster.sim.run_for(Duration::from_secs(1));
    cluster.sim.net().isolate(cluster.nodes[behind]);
    assert_eq!(
        ask(&cluster, UploadAsk::Abort(abort(LONG))),
        UploadState::Aborted
    );
    cluster.sim.run_for(Duration::from_secs(1));
    // It is forgotten, so that the id is free again.
    for number in 0..ENDED_UPLOADS_KEPT_MAX as u128 {
        let upload = UploadId(1_000_000 + number);
        begins(&cluster, upload, "key");
        ask(&cluster, UploadAsk::Abort(abort(upload)));
    }
    cluster.sim.run_for(Duration::from_secs(5));
    uploads(&cluster, LONG, "key");
    let group = cluster.groups(behind).unwrap().group(SHARD).unwrap();
    let read = cluster.sim.block_on(cluster.nodes[behind], async move {
        group.read_chunk(id(LONG, 0), 0..u32::MAX).await.unwrap()
    });
    assert_eq!(
        read, None,
        "a replica that lags shows what was there before"
    );
    assert_ne!(parts[0], "former");
    cluster.sim.net().heal_all();
    for _ in 0..60 {
        if has_all(&cluster, behind, LONG) {
            return;
        }
        cluster.sim.run_for(Duration::from_secs(1));
    }
    panic!("the replica that lagged never has it");
}

/// A follower that gets a snapshot goes on with the uploads as they are.
fn a_snapshot_brings_uploads(seed: u64) -> Verdict {
    let options = Options {
        catch_up_bytes: 1 << 20,
        catch_up_entries: 100,
        lead_back_after: None,
        ..Options::default()
    };
    let mut cluster = Cluster::new(seed, SimConfig::default(), options, 1);
    cluster.memtable_bytes = 64 << 10;
    cluster.start_all();
    let leader = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    let parts = parts_of(LONG);
    begins(&cluster, LONG, "long");
    takes(&cluster, LONG, 0, &parts[0]);
    cluster.sim.run_for(Duration::from_secs(1));
    // It goes on with what it knew, if nothing tells it better.
    cluster.sim.net().isolate(cluster.nodes[behind]);
    cluster.sim.run_for(Duration::from_secs(2));
    takes(&cluster, LONG, 1, &parts[1]);
    for number in 100..300 {
        uploads(&cluster, UploadId(4 * number + 1), &format!("key-{number}"));
    }
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    cluster.wait("the leader purges its log", || {
        group.status().purged.is_some()
    });
    drop(group);
    cluster.sim.net().heal_all();
    let group = cluster.groups(behind).unwrap().group(SHARD).unwrap();
    cluster.wait("it is made anew", || group.status().purged.is_some());
    let table = group.uploads();
    let loaded = cluster.sim.block_on(cluster.nodes[behind], async move {
        crate::uploads::load(group.engine()).await.unwrap()
    });
    wants("the table is what the rows say", table == loaded, true)?;
    takes(&cluster, LONG, 2, &parts[2]);
    let committed = commits(&cluster, LONG, Condition::Any);
    let is_committed = matches!(committed, UploadState::Committed { .. });
    wants("it is committed", is_committed, true)?;
    cluster.check_replicas_equal();
    Ok(())
}

#[test]
fn a_follower_that_gets_a_snapshot_has_the_uploads() {
    a_snapshot_brings_uploads(1).unwrap();
}

#[test]
fn small_writes_pass_chunks_and_chunks_wait_in_order() {
    let cluster = Cluster::started(5);
    let leader = cluster.wait_leader();
    begins(&cluster, LONG, "key");
    let session = cluster.open_session(leader);
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    let done = Rc::new(RefCell::new(Vec::new()));
    let large = Bytes::from(vec![1; CHUNK_BYTES_MAX]);
    let (noting, command) = (
        Rc::clone(&done),
        put(session, 1, Condition::Any, "small", "x"),
    );
    cluster.sim.enter(cluster.nodes[leader], move || {
        for number in 0..32 {
            let done = Rc::clone(&noting);
            let payload = chunk(id(LONG, number), &large);
            group.submit_chunk(payload, move |answer| {
                assert_eq!(answer.unwrap().state, UploadState::Open);
                done.borrow_mut().push(Some(number));
            });
        }
        drop(corelith_io::spawn(async move {
            applied(group.write(command).await.unwrap().outcome);
            noting.borrow_mut().push(None);
        }));
    });
    cluster.wait("all are answered", || done.borrow().len() == 33);
    let done = done.borrow();
    let small = done.iter().position(Option::is_none).unwrap();
    // As many as the lane takes were on their way before it.
    let most = UPLOAD_LANE_BYTES / CHUNK_BYTES_MAX;
    assert!(small <= most, "the write was answered after {small} chunks");
    let chunks: Vec<u32> = done.iter().flatten().copied().collect();
    assert!(chunks.is_sorted(), "{chunks:?}");
}

#[test]
fn chunks_that_wait_fail_with_the_lead() {
    let cluster = Cluster::started(6);
    let leader = cluster.wait_leader();
    begins(&cluster, LONG, "key");
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    cluster.sim.net().isolate(cluster.nodes[leader]);
    let answers = Rc::new(RefCell::new(Vec::new()));
    let noting = Rc::clone(&answers);
    cluster.sim.enter(cluster.nodes[leader], move || {
        for number in 0..14 {
            let answers = Rc::clone(&noting);
            let payload = chunk(id(LONG, number), &Bytes::from(vec![1; CHUNK_BYTES_MAX]));
            group.submit_chunk(payload, move |answer| {
                answers.borrow_mut().push(answer.map(|reply| reply.state));
            });
        }
    });
    // Those that are proposed may still come to be.
    cluster.wait("those that wait fail", || answers.borrow().len() >= 6);
    assert!(answers.borrow().iter().all(Result::is_err));
    cluster.sim.net().heal_all();
    cluster.wait("all are answered", || answers.borrow().len() == 14);
    cluster.check_replicas_equal();
}

/// Whether a situation finds a bug within a few seeds, and shows nothing without it.
fn is_found(bug: Bug, situation: impl Fn(u64) -> Verdict) -> bool {
    (0..6).any(|seed| {
        plant(Some(bug));
        let run = std::panic::AssertUnwindSafe(|| situation(seed));
        let found = std::panic::catch_unwind(run);
        plant(None);
        let is_found = !matches!(found, Ok(Ok(())));
        assert!(!is_found || situation(seed).is_ok(), "seed {seed} fails");
        is_found
    })
}

#[test]
fn planted_bugs_of_uploads_are_found() {
    assert!(is_found(Bug::CommitIncomplete, what_is_wrong_is_refused));
    assert!(is_found(Bug::TakeOtherContent, what_is_wrong_is_refused));
    assert!(is_found(Bug::CommitWithoutCondition, one_of_two_wins));
    assert!(is_found(Bug::DropHeldValue, held_values_stay));
    assert!(is_found(Bug::ForgetReplaced, replaced_values_go));
    assert!(is_found(
        Bug::KeepUploadsAtInstall,
        a_snapshot_brings_uploads
    ));
}
