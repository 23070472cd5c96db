//! How a client finds its cluster.

use crate::error::{Cause, Error, Result};
use crate::limits::CONNECT_TIMEOUT;
use crate::link::{Clock, Link};
use crate::operation::Event;
use corelith_wire::handshake::Welcome;
use corelith_wire::map::ClusterMap;
use corelith_wire::request::encode_describe;
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, Epoch, Head, Kind, ShardId};

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
pub(crate) fn split(seed: &str) -> Result<(String, u16)> {
    let invalid = Error::Invalid {
        what: "seed: write host:port",
    };
    let (host, port) = seed.trim().rsplit_once(':').ok_or(invalid.clone())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(invalid),
    }
}

/// Asks the node at `host:port` for the cluster map.
pub(crate) async fn describe(
    host: &str,
    port: u16,
    cluster: ClusterId,
    clock: Clock,
) -> std::result::Result<(ClusterMap, Welcome), Cause> {
    let asking = async {
        let (link, stream) = Link::connect(host, port, cluster, clock).await?;
        let head = |request_id| Head {
            kind: Kind::DESCRIBE,
            request_id,
            shard: ShardId(0),
            epoch: Epoch(0),
        };
        let until = clock.now() + CONNECT_TIMEOUT;
        let asked = link.call(|out, id| encode_describe(out, head(id)), until);
        let event = tokio::select! {
            biased;
            event = asked => event,
            cause = link.run(stream) => Event::Lost(cause),
        };
        match event {
            Event::Answer(Answer::Map(map)) => Ok((map, *link.welcome())),
            Event::Answer(Answer::Failure { .. }) => Err(Cause::Starting),
            Event::Answer(_) => Err(Cause::Answer(corelith_wire::DecodeError::Malformed {
                what: "kind of answer",
            })),
            Event::NotSent(cause) | Event::Lost(cause) => Err(cause),
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
}
