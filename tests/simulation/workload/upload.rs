//! Uploads: chunks side by side and in any order, some of them again, and a commit, an abort, or neither.

use super::{Lane, key_of};
use crate::large::{Uploading, parts_of};
use crate::notes::{Asked, Question, on_wire};
use corelith_client::{Error, UploadState};
use corelith_history::WriteCondition;
use corelith_io::random_u64;
use corelith_wire::upload::UploadRefusal;

/// How often a commit is asked for whose outcome is not known.
const COMMITS_MAX: u32 = 3;

impl Lane {
    pub(super) async fn upload(&self, number: u64) {
        let notes = &self.workload.notes;
        let key = key_of(number);
        let condition = self.condition(number);
        let upload = Uploading::new(&self.client, &key, notes.take_value());
        for _ in 0..=random_u64() % 2 {
            match upload.begin(Self::deadline()).await {
                Ok(state) => assert_eq!(state, UploadState::Open, "a new upload"),
                Err(error) => return self.refused(&error),
            }
        }
        if !self.send(&upload).await {
            return;
        }
        if random_u64().is_multiple_of(10) {
            return self.give_up(&upload).await;
        }
        let asked = Asked::Write(Some(upload.value), condition);
        let commit = notes.ask(self.name, &key, asked);
        self.commit(&upload, &commit, condition).await;
    }

    /// Sends all parts; false: not all of them are durable, and the upload is left to itself or given up.
    async fn send(&self, upload: &Uploading) -> bool {
        let mut parts: Vec<u32> = (0..parts_of(upload.value).len() as u32).collect();
        for at in (1..parts.len()).rev() {
            parts.swap(at, (random_u64() % (at as u64 + 1)) as usize);
        }
        if random_u64().is_multiple_of(4) {
            // One comes twice, perhaps beside itself.
            parts.push(parts[0]);
        }
        for turn in 0.. {
            let sent = upload.send_all(&parts, Self::deadline()).await;
            let mut failed = Vec::new();
            for (part, outcome) in parts.iter().zip(sent) {
                match outcome {
                    Ok(state) => assert_eq!(state, UploadState::Open, "part {part}"),
                    Err(error) => {
                        self.refused(&error);
                        failed.push(*part);
                    }
                }
            }
            if failed.is_empty() {
                return true;
            }
            if turn == 2 {
                break;
            }
            parts = failed;
        }
        if random_u64().is_multiple_of(2) {
            self.give_up(upload).await;
        }
        false
    }

    /// Aborts an upload that was never committed: nobody must ever see its value.
    async fn give_up(&self, upload: &Uploading) {
        match upload.abort(Self::deadline()).await {
            Ok(state) => assert_eq!(state, UploadState::Aborted, "{}", upload.value),
            Err(error) => return self.refused(&error),
        }
        if random_u64().is_multiple_of(2) {
            let late = upload.commit(on_wire(WriteCondition::Any), Self::deadline());
            match late.await {
                Ok(state) => assert_eq!(state, UploadState::Aborted, "{}", upload.value),
                Err(Error::Indeterminate { .. }) => {}
                Err(error) => self.refused(&error),
            }
        }
    }

    /// Commits, more than once if need be, and notes what came of it.
    async fn commit(&self, upload: &Uploading, commit: &Question, condition: WriteCondition) {
        let notes = &self.workload.notes;
        let mut is_in_doubt = false;
        for _ in 0..COMMITS_MAX {
            let outcome = match is_in_doubt && random_u64().is_multiple_of(3) {
                // Whichever comes first holds.
                true => upload.abort(Self::deadline()).await,
                false => upload.commit(on_wire(condition), Self::deadline()).await,
            };
            match outcome {
                Ok(UploadState::Committed { version }) => {
                    return notes.note_committed(commit, version);
                }
                Ok(UploadState::Conflicted { current }) => {
                    return notes.note_conflicted(commit, current.unwrap_or(0));
                }
                // It had the value, and has another one now.
                Ok(UploadState::Dropped) if is_in_doubt => return notes.note_unknown(commit),
                Ok(UploadState::Aborted) if is_in_doubt => return notes.refused("aborted"),
                Ok(UploadState::Refused(UploadRefusal::TooMany { .. })) => {
                    return notes.refused("too many uploads");
                }
                Ok(other) => panic!("the commit of {} is {other:?}", upload.value),
                Err(Error::Indeterminate { .. }) => is_in_doubt = true,
                Err(error) => self.refused(&error),
            }
        }
        if is_in_doubt {
            notes.note_unknown(commit);
        }
    }

    fn refused(&self, error: &Error) {
        let how = match error {
            Error::Unavailable { .. } => "unavailable",
            Error::Throttled { .. } => "throttled",
            Error::DiskFull => "disk full",
            other => panic!("of an upload: {other:?}"),
        };
        self.workload.notes.refused(how);
    }
}
