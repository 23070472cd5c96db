//! The connection on which this node's beats go to one other node, and the replies to them come back.

use super::BeatsShared;
use super::clock::{ClockWatch, Rate, Sample};
use crate::connection::{ConnectionError, FrameReader};
use crate::dial::{Dialed, jittered};
use crate::limits::{BEATS_CONNECT_DEADLINE, BEATS_IN_FLIGHT_MAX, BEATS_SILENCE_MIN};
use corelith_io::sync::notify::Notify;
use corelith_io::{Instant, WriteHalf};
use corelith_wire::handshake::Hello;
use corelith_wire::peer::{self, Beat, Introduction, kinds};
use corelith_wire::{Frame, NodeId, Outbox, Start, StoreId};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// First pause before connecting again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause while the peer has been away for a short time.
const PAUSE_MAX: Duration = Duration::from_millis(140);
/// After so many failures in a row the peer is down for longer.
const FAILURES_OF_LONG: u32 = 12;
/// Pause then; with the jitter at least half a second.
const PAUSE_LONG: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct BeatsOpener {
    shared: Rc<BeatsShared>,
    peer: NodeId,
    /// Number of the last beat.
    number: Cell<u64>,
    /// `replied_at` of the last reply of `last`; 0 if there is none.
    heard: Cell<u64>,
    /// The store and start that replied last.
    last: Cell<Option<(StoreId, Start)>>,
    /// Beats that are not answered, by number, and when they were sent.
    in_flight: RefCell<VecDeque<(u64, Instant)>>,
    /// The next beat is due now.
    hurry: Notify,
    clock: RefCell<ClockWatch>,
    is_rate_right: Cell<bool>,
}

/// The pause after that many failures in a row.
fn pause_after(failures: u32) -> Duration {
    match failures < FAILURES_OF_LONG {
        true => (PAUSE_MIN * 2_u32.pow(failures.min(8))).min(PAUSE_MAX),
        false => PAUSE_LONG,
    }
}

/// When the next beat after `now` is due. To all peers at the same time, so that a node wakes once for all of its
/// beats; each node has a `phase` of its own.
fn next_beat_at(now: Instant, every: Duration, phase: u64) -> Instant {
    let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
    let phase = phase % every;
    let past = (now.as_nanos() % every + (every - phase)) % every;
    now + Duration::from_nanos(every - past)
}

impl BeatsOpener {
    pub(super) fn new(shared: Rc<BeatsShared>, peer: NodeId) -> Self {
        Self {
            shared,
            peer,
            number: Cell::new(0),
            heard: Cell::new(0),
            last: Cell::new(None),
            in_flight: RefCell::default(),
            hurry: Notify::new(),
            clock: RefCell::default(),
            is_rate_right: Cell::new(true),
        }
    }

    /// Connects, beats, and connects again, for ever.
    pub(super) async fn keep_beating(self) {
        let mut failures = 0_u32;
        let came = self.shared.came(self.peer);
        loop {
            let error = match self.connect(failures).await {
                Ok(dialed) => {
                    let before = self.number.get();
                    let error = self.beat_on(dialed).await;
                    self.shared.liveness.connection_ended(self.peer);
                    // One that ends at once would otherwise be opened again at once, and again.
                    if self.answered() > before {
                        failures = 0;
                    }
                    error
                }
                Err(error) => error,
            };
            tracing::debug!(peer = %self.peer, %error, failures, "no beats to the peer");
            let pausing = pin!(corelith_io::sleep(jittered(pause_after(failures))));
            let coming = pin!(came.notified());
            select(pausing, coming).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Number of the last beat that was answered, or was sent before one that is under way.
    fn answered(&self) -> u64 {
        let first = self.in_flight.borrow().front().map(|(number, _)| *number);
        first.map_or(self.number.get(), |first| first - 1)
    }

    async fn connect(&self, failures: u32) -> Result<Dialed, ConnectionError> {
        let dialer = &self.shared.dialer;
        let address = dialer.whereabouts(self.peer, 0, failures).await?;
        let me = dialer.acquaintances.me();
        let hello = Hello::beats(me.cluster.short(), me.node);
        let connecting = dialer.connect(self.peer, address, hello);
        let dialed = match corelith_io::timeout(BEATS_CONNECT_DEADLINE, connecting).await {
            Ok(dialed) => dialed,
            Err(corelith_io::Elapsed) => Err(ConnectionError::Slow),
        };
        let verdict = dialer.acquaintances.said_by(self.peer);
        self.shared.liveness.judged_by(self.peer, verdict);
        dialed
    }

    async fn beat_on(&self, dialed: Dialed) -> ConnectionError {
        let Dialed {
            reader,
            write,
            theirs,
        } = dialed;
        let Introduction { store, start, .. } = theirs;
        self.shared.liveness.met(&theirs);
        if self.last.replace(Some((store, start))) != Some((store, start)) {
            // Another clock, of which nothing was heard.
            self.heard.set(0);
            self.clock.replace(ClockWatch::default());
            self.found_rate(true, 0);
        }
        self.in_flight.borrow_mut().clear();
        let reading = pin!(self.read_replies(reader, theirs));
        let writing = pin!(self.write_beats(write));
        match select(reading, writing).await {
            Either::Left((error, _)) | Either::Right((error, _)) => error,
        }
    }

    async fn write_beats(&self, mut write: WriteHalf) -> ConnectionError {
        let every = self.shared.liveness.options().beat;
        let phase = self.shared.dialer.acquaintances.me().start.nonce;
        let mut out = Outbox::default();
        loop {
            let now = corelith_io::now();
            if self.is_silent(now) {
                return ConnectionError::Silent;
            }
            let beat = self.next_beat(now);
            peer::encode_beat(&mut out, self.shared.head(), &beat);
            let writing = async {
                for slice in out.slices() {
                    write.write_all(slice).await?;
                }
                Ok::<_, corelith_io::Error>(())
            };
            match corelith_io::timeout(self.silence_max(), writing).await {
                Ok(Ok(())) => out.clear(),
                Ok(Err(error)) => return error.into(),
                Err(corelith_io::Elapsed) => return ConnectionError::Slow,
            }
            // What was missed is not made up for.
            let waiting = pin!(corelith_io::sleep_until(next_beat_at(now, every, phase)));
            let hurrying = pin!(self.hurry.notified());
            select(waiting, hurrying).await;
        }
    }

    /// How long a beat may be without a reply.
    fn silence_max(&self) -> Duration {
        let promise = self.shared.liveness.options().promise;
        (promise * 2).max(BEATS_SILENCE_MIN)
    }

    fn is_silent(&self, now: Instant) -> bool {
        let in_flight = self.in_flight.borrow();
        let oldest = in_flight.front();
        let is_late = oldest.is_some_and(|(_, sent)| now - *sent > self.silence_max());
        is_late || in_flight.len() >= BEATS_IN_FLIGHT_MAX
    }

    fn next_beat(&self, now: Instant) -> Beat {
        let liveness = &self.shared.liveness;
        let number = self.number.get() + 1;
        self.number.set(number);
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight.push_back((number, now));
        assert!(
            in_flight.len() <= BEATS_IN_FLIGHT_MAX,
            "{} beats are under way",
            in_flight.len()
        );
        let heard = self.heard.get();
        Beat {
            number,
            sent_at: now.as_nanos(),
            heard,
            vouched: liveness.vouched(now),
            health: liveness.health(),
            mark: liveness.mark(),
        }
    }

    async fn read_replies(&self, mut reader: FrameReader, theirs: Introduction) -> ConnectionError {
        loop {
            let frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            let now = corelith_io::now();
            for frame in frames {
                let taken = frame
                    .map_err(ConnectionError::from)
                    .and_then(|frame| self.take_reply(&frame, &theirs, now));
                if let Err(error) = taken {
                    return error;
                }
            }
        }
    }

    fn take_reply(
        &self,
        frame: &Frame,
        theirs: &Introduction,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let kind = frame.header.head.kind;
        if kind != kinds::BEAT_REPLY {
            return Err(ConnectionError::Unexpected(kind.0));
        }
        let reply = peer::parse_beat_reply(frame)?;
        // They come in the order of the beats.
        let first = self.in_flight.borrow_mut().pop_front();
        let Some((_, sent)) = first.filter(|(number, _)| *number == reply.number) else {
            return Err(ConnectionError::Unexpected(kind.0));
        };
        if !self.shared.is_last(theirs) {
            return Err(ConnectionError::Replaced);
        }
        self.shared
            .liveness
            .take_reply(self.peer, &reply, sent, now);
        let rate = self
            .clock
            .borrow_mut()
            .take(Sample::of(sent, now, reply.replied_at));
        if let Some(Rate { is_right, off_ppm }) = rate {
            self.found_rate(is_right, off_ppm);
        }
        let heard = self.heard.replace(reply.replied_at.max(self.heard.get()));
        if heard == 0 {
            // The first promise need not wait for the next beat.
            self.hurry.notify_one();
        }
        Ok(())
    }

    fn found_rate(&self, is_right: bool, off_ppm: i64) {
        let was_right = self.is_rate_right.replace(is_right);
        self.shared.liveness.set_rate_right(self.peer, is_right);
        let (peer, off) = (self.peer, (off_ppm as f64 / 10_000.0).abs());
        let rate = if off_ppm < 0 { "slower" } else { "faster" };
        match (was_right, is_right) {
            (true, false) => tracing::warn!(
                %peer,
                "the clock of {peer} runs {off:.2} % {rate} than this node's: what it promises does not count until \
                 its rate is within 0.5 % again"
            ),
            (false, true) => tracing::info!(%peer, "the clock of {peer} runs right again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_down_for_long_is_asked_at_most_twice_a_second() {
        let millis = |failures| pause_after(failures).as_millis();
        let pauses: Vec<u128> = [0, 1, 2, 3, 11, 12, u32::MAX].map(millis).to_vec();
        assert_eq!(pauses, [20, 40, 80, 140, 140, 1000, 1000]);
        assert!(pause_after(FAILURES_OF_LONG) / 2 >= Duration::from_millis(500));
    }

    #[test]
    fn beats_to_all_peers_are_due_at_the_same_time() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let every = Duration::from_millis(50);
        // (now, phase, the next one), in milliseconds
        let table = [
            (1_000, 0, 1_050),
            (1_001, 0, 1_050),
            (1_049, 0, 1_050),
            (1_000, 7, 1_007),
            (1_006, 7, 1_007),
            (1_007, 7, 1_057),
            (1_012, 7, 1_057),
            (1_012, 107, 1_057),
        ];
        for (now, phase, expected) in table {
            let next = next_beat_at(at(now), every, phase * 1_000_000);
            assert_eq!(next, at(expected), "{now} {phase}");
        }
        let odd = next_beat_at(at(3), every, u64::MAX);
        assert!(odd > at(3) && odd <= at(53));
    }
}
