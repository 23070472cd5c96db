//! What the state of an upload means for whoever asked. Pure.

use crate::error::{Cause, Error, Result};
use corelith_wire::upload::{UploadRefusal, UploadState};

const WRONG: Error = Error::Protocol {
    what: "a state of an upload that does not answer the request",
};

/// After a beginning, or a question for its chunks: it must be open.
pub(crate) fn is_open(state: UploadState) -> Result<()> {
    match state {
        UploadState::Open => Ok(()),
        state => Err(ended(state)),
    }
}

/// After a chunk: is it durable?
pub(crate) fn of_chunk(state: UploadState) -> Result<()> {
    is_open(state)
}

/// After a commit: the version of the value.
pub(crate) fn of_commit(state: UploadState) -> Result<u64> {
    match state {
        UploadState::Committed { version } => Ok(version),
        UploadState::Conflicted { current } => Err(Error::Conflict { current }),
        UploadState::Open => Err(WRONG),
        // It may have been committed, replaced and forgotten since an attempt that nobody heard of.
        UploadState::Unknown => Err(Error::Indeterminate {
            cause: Cause::Forgotten,
        }),
        state => Err(ended(state)),
    }
}

/// After an abort: is nothing left of it?
pub(crate) fn of_abort(state: UploadState) -> Result<()> {
    match state {
        UploadState::Aborted
        | UploadState::Expired
        | UploadState::Conflicted { .. }
        | UploadState::Unknown => Ok(()),
        UploadState::Open => Err(WRONG),
        state => Err(ended(state)),
    }
}

/// After a wish to hold a value: whether its bytes are there.
pub(crate) fn is_readable(state: UploadState) -> bool {
    matches!(state, UploadState::Committed { .. })
}

fn ended(state: UploadState) -> Error {
    match state {
        UploadState::Open => WRONG,
        UploadState::Refused(UploadRefusal::ChunkDiffers) => Error::ContentDiffers,
        UploadState::Refused(why) => Error::UploadRefused { why },
        how => Error::UploadEnded { how },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_what_was_asked() {
        use UploadState as State;
        let too_many = UploadRefusal::TooMany { limit: 3 };
        // (state, name of the error after a chunk, a commit, an abort)
        let table = [
            (State::Open, "", "protocol", "protocol"),
            (
                State::Committed { version: 7 },
                "upload ended",
                "",
                "upload ended",
            ),
            (
                State::Conflicted { current: Some(9) },
                "upload ended",
                "conflict",
                "",
            ),
            (State::Aborted, "upload ended", "upload ended", ""),
            (State::Expired, "upload ended", "upload ended", ""),
            (State::Unknown, "upload ended", "indeterminate", ""),
            (
                State::Dropped,
                "upload ended",
                "upload ended",
                "upload ended",
            ),
            (
                State::Refused(UploadRefusal::ChunkDiffers),
                "content differs",
                "content differs",
                "content differs",
            ),
            (
                State::Refused(too_many),
                "upload refused",
                "upload refused",
                "upload refused",
            ),
        ];
        for (state, chunk, commit, abort) in table {
            let name = |result: Result<()>| result.err().map_or("", |error| error.name());
            assert_eq!(name(of_chunk(state)), chunk, "{state:?}");
            assert_eq!(name(of_commit(state).map(drop)), commit, "{state:?}");
            assert_eq!(name(of_abort(state)), abort, "{state:?}");
            let is_committed = matches!(state, State::Committed { .. });
            assert_eq!(is_readable(state), is_committed);
        }
        assert_eq!(of_commit(State::Committed { version: 7 }), Ok(7));
    }
}
