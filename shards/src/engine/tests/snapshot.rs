//! Snapshots: what is sent, what is refused, what an installation leaves.

use super::{log_id, on_core, open, put, range};
use crate::engine::{Engine, SnapshotWriter};
use crate::error::Error;
use crate::ids::LogIndex;
use bytes::Bytes;
use std::path::Path;

pub(super) async fn pieces(engine: &Engine) -> Vec<Bytes> {
    let mut snapshot = engine.snapshot();
    let mut pieces = Vec::new();
    while let Some(piece) = snapshot.next_piece().await.unwrap() {
        assert!(piece.len() <= crate::limits::SNAPSHOT_PIECE_BYTES_MAX);
        pieces.push(piece);
    }
    assert!(snapshot.next_piece().await.unwrap().is_none());
    pieces
}

/// An engine with a few keys, a long value, a deletion and a session.
pub(super) async fn source(dir: &Path) -> Engine {
    let engine = open(dir, 1 << 20).await.unwrap();
    put(&engine, 1, b"gone", b"x");
    put(&engine, 2, b"a", b"one");
    engine.checkpoint().await.unwrap();
    put(&engine, 3, b"long", &vec![9; 3 << 20]);
    engine.sessions().open(LogIndex(4));
    engine.set_applied(log_id(4), Some(Bytes::from_static(b"members")));
    engine.sessions().admit(LogIndex(5), 4, 1, 1);
    engine.sessions().record(4, 1, b"result");
    engine.delete(LogIndex(5), b"gone");
    engine.set_applied(log_id(5), None);
    engine
}

/// Ends the reception of the state of [`source`] and compares.
async fn install_and_close(source: Engine, target: Engine, mut received: SnapshotWriter) {
    received.finish().await.unwrap();
    target.install(received).await.unwrap();
    check_copy(&target).await;
    source.close().await.unwrap();
    target.close().await.unwrap();
}

async fn check_copy(engine: &Engine) {
    let members = Some((log_id(4), Bytes::from_static(b"members")));
    assert_eq!(engine.applied(), (Some(log_id(5)), members));
    assert_eq!(engine.checkpointed(), Some(log_id(5)));
    let page = engine
        .scan(&range(b"", b""), None, 9, 1 << 30)
        .await
        .unwrap();
    let found: Vec<(&[u8], u64, usize)> = page
        .items
        .iter()
        .map(|item| (item.key.as_ref(), item.version.0, item.value.held_len()))
        .collect();
    assert_eq!(found, [(&b"a"[..], 2, 3), (b"long", 3, 3 << 20)]);
    let admission = engine.sessions().admit(LogIndex(6), 4, 1, 1);
    assert!(matches!(admission, crate::Admission::Repeated(result) if result[..] == *b"result"));
}

pub(super) async fn receive(engine: &Engine, pieces: &[Bytes]) -> SnapshotWriter {
    let mut received = engine.receive_snapshot().await.unwrap();
    for piece in pieces {
        received.piece(piece.clone()).await.unwrap();
    }
    received.finish().await.unwrap();
    received
}

#[test]
fn an_installed_snapshot_replaces_everything_and_lasts() {
    on_core(|dir| async move {
        let source = source(&dir).await;
        let pieces = pieces(&source).await;
        let target_dir = dir.with_extension("target");
        let target = open(&target_dir, 1 << 20).await.unwrap();
        put(&target, 1, b"other", b"old");
        target.checkpoint().await.unwrap();
        put(&target, 2, b"another", b"newer");
        target.sessions().open(LogIndex(3));
        target.set_applied(log_id(3), None);

        let received = receive(&target, &pieces).await;
        target.install(received).await.unwrap();
        check_copy(&target).await;
        // An older or equal one is refused, and leaves nothing.
        let received = receive(&target, &pieces).await;
        assert!(matches!(
            target.install(received).await,
            Err(Error::OldSnapshot)
        ));
        put(&target, 6, b"b", b"six");
        target.close().await.unwrap();
        drop(target);
        let names = corelith_io::list_dir(&target_dir).await.unwrap();
        let tables = names.iter().filter(|entry| entry.name.ends_with(".sst"));
        assert_eq!(
            tables.count(),
            3,
            "one of user keys, then those of both spaces"
        );

        let target = open(&target_dir, 1 << 20).await.unwrap();
        assert_eq!(target.applied().0, Some(log_id(6)));
        let other = target.get(b"other").await.unwrap();
        assert_eq!(other, None);
        assert!(target.get(b"b").await.unwrap().is_some());
        source.close().await.unwrap();
    });
}

#[test]
fn a_copy_equals_its_source_and_the_source_may_change_meanwhile() {
    on_core(|dir| async move {
        let source = source(&dir).await;
        let target = open(&dir.with_extension("target"), 1 << 20).await.unwrap();
        let mut snapshot = source.snapshot();
        let mut received = target.receive_snapshot().await.unwrap();
        let mut index = 6;
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            received.piece(piece).await.unwrap();
            put(&source, index, b"a", b"changed");
            source.delete(LogIndex(index + 1), b"long");
            source.set_applied(log_id(index + 1), None);
            index += 2;
            source.checkpoint().await.unwrap();
        }
        let early = target.receive_snapshot().await.unwrap();
        assert!(matches!(
            target.install(early).await,
            Err(Error::BadPiece { .. })
        ));
        install_and_close(source, target, received).await;
    });
}

#[test]
fn damaged_and_misplaced_pieces_are_refused() {
    on_core(|dir| async move {
        let source = source(&dir).await;
        let pieces = pieces(&source).await;
        assert!(pieces.len() > 4);
        let target = open(&dir.with_extension("target"), 1 << 20).await.unwrap();
        let mut received = target.receive_snapshot().await.unwrap();
        for (number, piece) in pieces.iter().enumerate() {
            let places = (0..piece.len()).step_by(piece.len().div_ceil(50));
            for place in places {
                let mut damaged = piece.to_vec();
                damaged[place] ^= 0x10;
                let result = received.piece(damaged.into()).await;
                assert!(
                    matches!(result, Err(Error::BadPiece { .. })),
                    "{number} {place}"
                );
            }
            for (other, piece) in pieces.iter().enumerate() {
                if other != number {
                    let result = received.piece(piece.clone()).await;
                    assert!(matches!(result, Err(Error::BadPiece { .. })));
                }
            }
            assert!(matches!(
                received.finish().await,
                Err(Error::BadPiece { .. })
            ));
            // The right one is still taken.
            received.piece(piece.clone()).await.unwrap();
        }
        install_and_close(source, target, received).await;
    });
}

#[test]
fn a_snapshot_of_the_checkpoint_holds_that_and_no_more() {
    on_core(|dir| async move {
        let source = source(&dir).await;
        source.checkpoint().await.unwrap();
        put(&source, 6, b"a", b"later");
        let mut snapshot = source.checkpoint_snapshot();
        assert_eq!(snapshot.applied().0, Some(log_id(5)));
        put(&source, 7, b"long", b"later");
        source.checkpoint().await.unwrap();
        let target = open(&dir.with_extension("target"), 1 << 20).await.unwrap();
        let mut received = target.receive_snapshot().await.unwrap();
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            received.piece(piece).await.unwrap();
        }
        install_and_close(source, target, received).await;
    });
}
