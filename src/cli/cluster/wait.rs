//! Waits until an order is carried out.

use super::goal::Goal;
use super::state;
use crate::cli::failure::Failure;
use crate::cli::output;
use corelith_client::{Client, ClusterView, Error};
use indicatif::HumanDuration;
use serde::Serialize;
use std::io::Write;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The goal must hold for so many looks: what follows an order begins a moment later.
const LOOKS_THERE: u32 = 3;

#[derive(Serialize)]
struct ProgressLine<'a> {
    kind: &'static str,
    text: &'a str,
    done: bool,
    /// Null while it is not known.
    left_ms: Option<u64>,
}

/// Waits. A cluster that does not answer for a while is waited for as well.
pub(super) async fn until(
    client: &Client,
    goal: &Goal,
    first: &ClusterView,
    as_json: bool,
) -> Result<(), Failure> {
    if *goal == Goal::None {
        return Ok(());
    }
    let begun = Instant::now();
    let (mut said, mut looks) = (String::new(), 0);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = match state(client).await {
            Ok(now) => now,
            Err(Failure::Cluster(Error::Unavailable { cause })) => {
                tell(
                    &format!("the cluster does not answer now: {cause}"),
                    None,
                    false,
                    false,
                )?;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let way = goal.way(first, &now);
        let has_ended = way.is_there || way.is_given_up;
        looks = if has_ended { looks + 1 } else { 0 };
        if looks >= LOOKS_THERE && way.is_given_up {
            return Err(Failure::Refused(way.text));
        }
        let is_done = looks >= LOOKS_THERE;
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if way.text != said || is_done {
            tell(&way.text, way.left_ms(elapsed_ms), is_done, as_json)?;
            said = way.text;
        }
        if is_done {
            return Ok(());
        }
    }
}

/// Says how far it is: on standard output what is the answer, on standard error what is not yet.
fn tell(text: &str, left_ms: Option<u64>, done: bool, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let line = ProgressLine {
            kind: "progress",
            text,
            done,
            left_ms,
        };
        return output::text(&output::json_line(&line)?);
    }
    if done {
        return output::text(&format!("{text}\n"));
    }
    let left = left_ms.map(|ms| HumanDuration(Duration::from_millis(ms)));
    let left = left.map_or(String::new(), |left| format!(", about {left} left"));
    // A failed write to standard error cannot be reported.
    let _ = writeln!(std::io::stderr(), "{text}{left}");
    Ok(())
}
