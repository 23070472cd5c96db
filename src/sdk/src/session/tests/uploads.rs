//! Requests of uploads, and reads of chunks.

use super::*;
use corelith_wire::upload::{CommitUpload, ReadChunk, UploadReply, UploadState};
use corelith_wire::{ChunkId, UploadId};

const UPLOAD: UploadId = UploadId(7);

fn chunk_id() -> ChunkId {
    ChunkId {
        upload: UPLOAD,
        part: 0,
        chunk: 0,
    }
}

fn asking(session: &Session, ask: UploadAsk) -> Operation {
    let shard = ShardId(0);
    session.operation(Request::Upload { shard, ask }, DEADLINE)
}

fn reading(session: &Session, from: ReadFrom) -> Operation {
    let read = ReadChunk {
        chunk: chunk_id(),
        start: 0,
        end: 9,
    };
    asking(session, UploadAsk::Read(read)).read_from(Source::From(from))
}

fn sending() -> UploadAsk {
    UploadAsk::Chunk {
        chunk: chunk_id(),
        crc32c: 1,
        bytes: Bytes::from_static(b"chunk"),
    }
}

fn committing() -> UploadAsk {
    UploadAsk::Commit(CommitUpload {
        upload: UPLOAD,
        condition: Condition::Any,
        crc32c: 0,
        digest: Default::default(),
        parts: Vec::new(),
    })
}

fn missing() -> Event {
    let meta = ReplyMeta::default();
    Event::Answer(Answer::NotFound { meta })
}

fn reply(state: UploadState) -> Event {
    Event::Answer(Answer::Upload(UploadReply {
        meta: META,
        state,
        ..UploadReply::default()
    }))
}

#[test]
fn a_chunk_is_looked_for_at_each_replica_and_at_the_leader_last() {
    for seed in 0..6 {
        let mut session = Session::new(Arc::new(map(1, 1)), 4, seed);
        let mut known = get(&session);
        session.proceed(&mut known, START);
        let value = Answer::NotFound { meta: META };
        session.report(&mut known, Event::Answer(value), START);
        let mut read = reading(&session, ReadFrom::Any);
        let mut step = session.proceed(&mut read, START);
        let mut asked = vec![node_of(&step)];
        for event in [
            missing(),
            Event::Lost(Cause::Timeout),
            failure(Failure::Corrupt),
        ] {
            step = session.report(&mut read, event, START);
            match step {
                Step::Send { .. } => asked.push(node_of(&step)),
                _ => break,
            }
        }
        assert_eq!(asked.last(), Some(&1), "{asked:?}");
        let others: BTreeSet<u64> = asked.iter().copied().collect();
        assert_eq!(others.len(), 3, "{asked:?}");
    }
}

#[test]
fn the_word_of_the_leader_is_the_last_about_a_chunk() {
    let mut session = session();
    let mut read = reading(&session, ReadFrom::Leader);
    session.proceed(&mut read, START);
    let step = session.report(&mut read, missing(), START);
    assert!(
        matches!(step, Step::Done(Ok(Answer::NotFound { .. }))),
        "{step:?}"
    );
    let mut read = reading(&session, ReadFrom::Any);
    let mut step = session.proceed(&mut read, START);
    for _ in 0..4 {
        if let Step::Send { .. } = step {
            step = session.report(&mut read, missing(), START);
        }
    }
    assert!(
        matches!(step, Step::Done(Ok(Answer::NotFound { .. }))),
        "{step:?}"
    );
}

#[test]
fn a_chunk_says_nothing_of_who_leads() {
    let mut session = session();
    let any = [ReadFrom::Any; 6];
    for from in any.into_iter().chain([ReadFrom::Leader]) {
        let mut read = reading(&session, from);
        session.proceed(&mut read, START);
        let value = Answer::Value {
            meta: ReplyMeta::default(),
            version: 0,
            value: Bytes::from_static(b"chunk"),
        };
        let step = session.report(&mut read, Event::Answer(value), START);
        assert!(matches!(step, Step::Done(Ok(_))), "{step:?}");
    }
    assert_eq!(session.take_stirred(), None);
    assert_eq!(session.routes.leader(ShardId(0)), None);
    // What is asked of an upload does.
    let hold = UploadAsk::Hold(UPLOAD);
    let mut hold = asking(&session, hold).read_from(Source::From(ReadFrom::Any));
    assert_eq!(node_of(&session.proceed(&mut hold, START)), 1);
    let held = reply(UploadState::Committed { version: 3 });
    session.report(&mut hold, held, START);
    assert_eq!(session.routes.leader(ShardId(0)), Some(NodeId(1)));
}

#[test]
fn only_a_commit_leaves_doubt() {
    let (chunk, commit) = (sending(), committing());
    for (ask, is_doubtful) in [
        (chunk, false),
        (commit, true),
        (UploadAsk::Abort(UPLOAD), false),
        (UploadAsk::Hold(UPLOAD), false),
    ] {
        let mut session = session();
        let mut operation = asking(&session, ask);
        session.proceed(&mut operation, START);
        assert!(operation.ticket.is_none());
        let step = session.report(&mut operation, Event::Lost(Cause::Timeout), START);
        assert!(matches!(step, Step::Send { .. }), "it is sent again");
        let step = session.report(&mut operation, Event::Lost(Cause::Timeout), DEADLINE);
        let Step::Done(Err(error)) = step else {
            panic!("{step:?}");
        };
        let found = matches!(error, Error::Indeterminate { .. });
        assert_eq!(found, is_doubtful, "{error}");
    }
}

#[test]
fn answers_must_be_of_the_kind_that_was_asked_for() {
    for (ask, event) in [
        (sending(), missing()),
        (UploadAsk::Abort(UPLOAD), written()),
    ] {
        let mut session = session();
        let mut operation = asking(&session, ask);
        session.proceed(&mut operation, START);
        let step = session.report(&mut operation, event, START);
        assert!(matches!(step, Step::Done(Err(Error::Protocol { .. }))));
    }
}
