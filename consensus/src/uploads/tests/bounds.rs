//! How many uploads there may be, and how much one entry does.

use super::*;

#[test]
fn all_is_bounded() {
    let mut table = Uploads::default();
    let mut changes = Vec::new();
    for number in 1..=OPEN_UPLOADS_MAX as u128 {
        let state = table.begin(&begin(number, "key"), 0, &mut changes);
        assert_eq!(state, UploadState::Open);
    }
    let limit = OPEN_UPLOADS_MAX as u32;
    let state = table.begin(&begin(1 << 100, "key"), 0, &mut changes);
    let too_many = |limit| UploadState::Refused(UploadRefusal::TooMany { limit });
    assert_eq!(state, too_many(limit));
    for chunk in 0..UPLOAD_CHUNKS_MAX as u32 {
        let chunk = chunk_of(1, chunk, 0);
        assert_eq!(table.settled(chunk, content(1, 0)), None);
        table.stage(chunk, content(1, 0), &mut changes);
    }
    let more = table.settled(chunk_of(1, 1 << 20, 0), content(1, 0));
    assert_eq!(more, Some(too_many(UPLOAD_CHUNKS_MAX as u32)));
    for number in 2.. {
        if table.counts().staged_chunks == STAGED_CHUNKS_MAX {
            break;
        }
        for chunk in 0..UPLOAD_CHUNKS_MAX as u32 {
            table.stage(chunk_of(number, chunk, 0), content(1, 0), &mut changes);
        }
        changes.clear();
    }
    let more = table.settled(chunk_of(1000, 0, 0), content(1, 0));
    assert_eq!(more, Some(too_many(STAGED_CHUNKS_MAX as u32)));
    let refused: [(ChunkContent, u32, UploadRefusal); 3] = [
        (content(0, 0), 0, UploadRefusal::Malformed),
        (content(CHUNK_BYTES + 1, 0), 0, UploadRefusal::Malformed),
        (
            content(1, 0),
            4096,
            UploadRefusal::TooLarge { limit: 1 << 31 },
        ),
    ];
    for (content, chunk, refusal) in refused {
        let settled = table.settled(chunk_of(1000, 7, chunk), content);
        assert_eq!(settled, Some(UploadState::Refused(refusal)));
    }
    // Those that ended are forgotten, the oldest first.
    let mut table = Uploads::default();
    for number in 1..=ENDED_UPLOADS_KEPT_MAX as u128 + 1 {
        let upload = upload(number);
        table.begin(&begin(number, "key"), 0, &mut changes);
        table.abort(upload, 0, &mut changes);
        let dropped = DropChunks::of(upload, std::iter::empty(), true);
        table.drop_chunks(LogIndex(number as u64), &dropped, 0, &mut changes);
    }
    assert_eq!(table.state(upload(1)), UploadState::Unknown);
    assert_eq!(table.state(upload(2)), UploadState::Aborted);
    assert_eq!(table.known.len(), ENDED_UPLOADS_KEPT_MAX);
}

#[test]
fn an_entry_drops_a_bounded_number_of_chunks() {
    let mut shard = Shard::default();
    shard.begin(&begin(1, "key"), 0);
    shard.abort(1, 0);
    let run = ChunkRun {
        part: 0,
        first: 0,
        count: DROP_CHUNKS_MAX as u32 + 1,
    };
    let dropped = DropChunks {
        upload: upload(1),
        runs: vec![run],
        is_last: true,
    };
    let state = shard
        .table
        .drop_chunks(LogIndex(9), &dropped, 0, &mut Vec::new());
    assert_eq!(state, UploadState::Refused(UploadRefusal::Malformed));
    let body = entry::dropping(0, &dropped);
    assert_eq!(entry::parse(crate::command::kind::UPLOAD_DROP, &body), None);
}

#[test]
fn none_begins_while_too_many_are_to_be_dropped() {
    let mut table = Uploads::default();
    let mut changes = Vec::new();
    for number in 1..=DEAD_UPLOADS_MAX as u128 {
        let begun = table.begin(&begin(number, "key"), 0, &mut changes);
        assert_eq!(begun, UploadState::Open, "{number}");
        table.abort(upload(number), 0, &mut changes);
        changes.clear();
    }
    let limit = DEAD_UPLOADS_MAX as u32;
    let next = begin(u128::MAX, "key");
    let refusal = refused(UploadRefusal::TooMany { limit });
    assert_eq!(table.begin(&next, 0, &mut changes), refusal);
    let dropped = DropChunks::of(upload(1), [].into_iter(), true);
    table.drop_chunks(LogIndex(9), &dropped, 0, &mut changes);
    assert_eq!(table.begin(&next, 0, &mut changes), UploadState::Open);
}

#[test]
fn large_values_are_so_many_at_most() {
    let (mut table, mut changes) = (Uploads::default(), Vec::new());
    table.live.insert(Bytes::from_static(b"here"), upload(1));
    table.counts.live = LIVE_UPLOADS_MAX;
    let limit = LIVE_UPLOADS_MAX as u32;
    let one_more = table.begin(&begin(2, "new"), 0, &mut changes);
    let too_many = UploadRefusal::TooMany { limit };
    assert_eq!(one_more, UploadState::Refused(too_many));
    // What takes the place of another one makes no more of them.
    let in_place = table.begin(&begin(2, "here"), 0, &mut changes);
    assert_eq!(in_place, UploadState::Open);
}

#[test]
fn what_is_dead_is_looked_at_in_turn() {
    let mut table = Uploads::default();
    for number in [2, 3, 5, 8] {
        table.insert_dead(upload(number), Final::Aborted, 0, None);
    }
    let after = |number, most| {
        let dead = table.dead_after(upload(number), most);
        dead.into_iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(after(0, 3), [2, 3, 5]);
    assert_eq!(after(5, 3), [8, 2, 3]);
    assert_eq!(after(6, 9), [8, 2, 3, 5]);
    assert_eq!(after(9, 9), [2, 3, 5, 8]);
}
