//! When a connection is opened, used, closed and reopened. No I/O: a simulator drives the same code.

use crate::error::Cause;
use crate::limits::{RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};
use std::time::Duration;

/// The phase of a connection; `L` is the link that carries requests while it is up.
#[derive(Debug)]
pub enum Phase<L> {
    /// Not used yet.
    Idle,
    /// Being established.
    Connecting {
        /// The pause before the next attempt if this one fails.
        pause: Duration,
    },
    /// Open; the link may have broken since.
    Up(L),
    /// Failed.
    Down {
        /// Why.
        cause: Cause,
        /// When it may be tried again.
        until: Duration,
        /// The pause after the next attempt if it fails too.
        pause: Duration,
    },
    /// The client is gone.
    Closed,
}

/// The next step of a caller that wants to send.
#[derive(Debug)]
pub enum Ready<L> {
    /// Send on this link.
    Up(L),
    /// Report that nothing was sent.
    Failed(Cause),
    /// Establish the connection, and report the result to [`Phase::connected`].
    Connect,
    /// Wait until the attempt to connect has ended, then ask again.
    Wait,
}

impl<L: Clone> Phase<L> {
    /// The link if it is up, otherwise the caller's next step.
    pub fn ready(&mut self, now: Duration, is_broken: impl Fn(&L) -> bool) -> Ready<L> {
        let pause = match self {
            Self::Up(link) if !is_broken(link) => return Ready::Up(link.clone()),
            Self::Up(_) | Self::Idle => RECONNECT_PAUSE_MIN,
            Self::Down { cause, until, .. } if now < *until => return Ready::Failed(cause.clone()),
            Self::Down { pause, .. } => *pause,
            Self::Connecting { .. } => return Ready::Wait,
            Self::Closed => return Ready::Failed(Cause::Closed),
        };
        *self = Self::Connecting { pause };
        Ready::Connect
    }

    /// Takes the result of an attempt to connect. Returns whether it is still wanted.
    pub fn connected(&mut self, link: Result<L, Cause>, now: Duration) -> bool {
        let Self::Connecting { pause } = *self else {
            return false;
        };
        *self = match link {
            Ok(link) => Self::Up(link),
            Err(cause) => Self::Down {
                cause,
                until: now + pause,
                pause: (pause * 2).min(RECONNECT_PAUSE_MAX),
            },
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Phase, Ready};
    use crate::error::Cause;
    use std::time::Duration;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_failed_connection_is_tried_again_after_longer_and_longer_pauses() {
        let mut phase: Phase<u8> = Phase::Idle;
        let whole = |_: &u8| false;
        for (now, pause) in [(0, 10), (10, 20), (30, 40), (70, 80)] {
            assert!(matches!(phase.ready(at(now), whole), Ready::Connect));
            assert!(matches!(phase.ready(at(now), whole), Ready::Wait));
            assert!(phase.connected(Err(Cause::Timeout), at(now)));
            let early = phase.ready(at(now + pause - 1), whole);
            assert!(matches!(early, Ready::Failed(Cause::Timeout)), "{now}");
        }
        assert!(matches!(phase.ready(at(150), whole), Ready::Connect));
        assert!(phase.connected(Ok(7), at(151)));
        assert!(matches!(phase.ready(at(152), whole), Ready::Up(7)));
        assert!(matches!(phase.ready(at(153), |_| true), Ready::Connect));
        phase = Phase::Closed;
        assert!(!phase.connected(Ok(7), at(154)));
        assert!(matches!(
            phase.ready(at(155), whole),
            Ready::Failed(Cause::Closed)
        ));
    }
}
