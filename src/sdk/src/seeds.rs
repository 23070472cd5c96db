//! How a client finds its cluster.

use crate::error::{Cause, Error, Result, SeedFailure};
use crate::limits::{CONNECT_TIMEOUT, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, SEED_STAGGER};
use crate::link::{Clock, Link};
use crate::operation::Event;
use crate::resolve::Resolver;
use corelith_wire::handshake::Welcome;
use corelith_wire::map::ClusterMap;
use corelith_wire::request::encode_describe;
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, Epoch, HandshakeError, Head, Kind, ShardId};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::io::ErrorKind;
use std::time::Duration;

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
pub(crate) fn split(seed: &str) -> Result<(String, u16)> {
    let invalid = |problem| Error::InvalidSeed {
        seed: seed.trim().to_owned(),
        problem,
    };
    let no_address = || invalid("write host:port");
    let (host, port) = seed.trim().rsplit_once(':').ok_or_else(no_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(no_address());
    }
    match port.parse() {
        Ok(port) if port != 0 => Ok((host.to_owned(), port)),
        _ => Err(invalid("the port must be 1 to 65535")),
    }
}

/// How long to look for a cluster, counted from the clock's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The time limit.
    pub(crate) at_most: Duration,
    /// The time limit if every seed refuses.
    pub(crate) refused: Duration,
}

impl Patience {
    /// Whether to give up, given the cause at each seed.
    fn is_over<'a>(self, met: impl IntoIterator<Item = &'a Cause>, now: Duration) -> bool {
        now >= self.at_most || (now >= self.refused && met.into_iter().all(refuses))
    }
}

/// Whether a cause means that the seed refuses or does not exist: a retry helps only after a restart or
/// a correction.
fn refuses(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(kind) => *kind != ErrorKind::TimedOut,
        Cause::Handshake(error) => *error != HandshakeError::Busy,
        Cause::Resolve { .. } => true,
        _ => false,
    }
}

/// Asks the seeds for the cluster map until one answers or the patience ends.
pub(crate) async fn find(
    seeds: &[(String, u16)],
    patience: Patience,
    clock: Clock,
    resolver: &Resolver,
) -> std::result::Result<(ClusterMap, Welcome), Vec<Cause>> {
    let mut met = vec![Cause::NotTried; seeds.len()];
    let mut pause = RETRY_PAUSE_MIN;
    loop {
        let round = ask_each(seeds, &mut met, clock, resolver);
        let until = clock.instant(patience.at_most);
        if let Ok(Some(found)) = tokio::time::timeout_at(until, round).await {
            return Ok(found);
        }
        if patience.is_over(&met, clock.now()) {
            return Err(met);
        }
        let next = (clock.now() + pause).min(patience.at_most);
        tokio::time::sleep_until(clock.instant(next)).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Asks the seeds in order, and the next one when one fails or is slow. `None` if all have failed.
async fn ask_each(
    seeds: &[(String, u16)],
    met: &mut [Cause],
    clock: Clock,
    resolver: &Resolver,
) -> Option<(ClusterMap, Welcome)> {
    let mut left = seeds.iter().zip(met.iter_mut()).map(|((host, port), met)| {
        if *met == Cause::NotTried {
            // The cause if the question does not end in time.
            *met = Cause::Timeout;
        }
        async move {
            let described = describe(host, *port, ClusterId(0), clock, resolver).await;
            described.map_err(|cause| *met = cause).ok()
        }
    });
    let mut asked = FuturesUnordered::new();
    asked.extend(left.next());
    while !asked.is_empty() {
        match tokio::time::timeout(SEED_STAGGER, asked.next()).await {
            Ok(Some(Some(found))) => return Some(found),
            Ok(_) | Err(_) => asked.extend(left.next()),
        }
    }
    None
}

/// The error that lists the cause at each seed.
pub(crate) fn none_found(seeds: &[String], met: Vec<Cause>) -> Error {
    let tried = seeds.iter().zip(met).map(|(seed, cause)| SeedFailure {
        seed: seed.trim().to_owned(),
        cause,
    });
    Error::NoSeed {
        tried: tried.collect(),
    }
}

/// Asks the node at `host:port` for the cluster map.
pub(crate) async fn describe(
    host: &str,
    port: u16,
    cluster: ClusterId,
    clock: Clock,
    resolver: &Resolver,
) -> std::result::Result<(ClusterMap, Welcome), Cause> {
    let asking = async {
        let (link, stream) = Link::connect(host, port, cluster, clock, resolver).await?;
        let head = |request_id| Head {
            kind: Kind::DESCRIBE,
            request_id,
            shard: ShardId(0),
            epoch: Epoch(0),
        };
        let until = clock.now() + CONNECT_TIMEOUT;
        let asked = link.call(|out, id| encode_describe(out, head(id)), None, until, until);
        let event = tokio::select! {
            biased;
            event = asked => event,
            cause = link.run(stream, || {}) => Event::Lost(cause),
        };
        match event {
            Event::Answer(Answer::Map(map)) => Ok((map, *link.welcome())),
            Event::Answer(Answer::Failure { .. }) => Err(Cause::Starting),
            Event::Answer(_) => Err(Cause::Answer(corelith_wire::DecodeError::Malformed {
                what: "kind of answer",
            })),
            Event::NotSent(cause) | Event::Lost(cause) => Err(cause),
            Event::Moved => Err(Cause::LeadershipLost),
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, asking)
        .await
        .unwrap_or(Err(Cause::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_host_and_port() {
        for (seed, expected) in [
            ("localhost:7411", Some(("localhost", 7411))),
            (" 10.0.0.1:80 ", Some(("10.0.0.1", 80))),
            ("[::1]:7411", Some(("::1", 7411))),
            ("localhost", None),
            (":7411", None),
            ("localhost:0", None),
            ("localhost:x", None),
        ] {
            let found = split(seed).ok();
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(found, expected, "{seed}");
        }
    }

    #[test]
    fn a_wrong_seed_is_named_with_what_is_wrong() {
        for (seed, expected) in [
            ("localhost", "invalid seed \"localhost\": write host:port"),
            (" a:x", "invalid seed \"a:x\": write host:port"),
            ("a:0", "invalid seed \"a:0\": the port must be 1 to 65535"),
            (
                "a:70000",
                "invalid seed \"a:70000\": the port must be 1 to 65535",
            ),
        ] {
            assert_eq!(split(seed).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn patience_is_short_only_with_those_who_refuse() {
        let ms = Duration::from_millis;
        let patience = Patience {
            at_most: ms(5000),
            refused: ms(500),
        };
        let refused = || Cause::Connect(ErrorKind::ConnectionRefused);
        let unresolved = || Cause::Resolve {
            host: "h".into(),
            reason: "r".into(),
        };
        let table = [
            // (met, ms passed, whether it is over)
            (vec![refused(), unresolved()], 499, false),
            (vec![refused(), unresolved()], 500, true),
            (
                vec![Cause::Handshake(HandshakeError::NotCorelith)],
                500,
                true,
            ),
            (vec![Cause::Handshake(HandshakeError::Busy)], 500, false),
            (vec![refused(), Cause::Starting], 4999, false),
            (vec![refused(), Cause::Timeout], 4999, false),
            (vec![Cause::Connect(ErrorKind::TimedOut)], 4999, false),
            (vec![Cause::Starting], 5000, true),
        ];
        for (met, passed, expected) in table {
            assert_eq!(
                patience.is_over(&met, ms(passed)),
                expected,
                "{met:?} {passed}"
            );
        }
    }
}
