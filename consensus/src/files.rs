//! How the files of a snapshot get from a leader to a follower.
//!
//! The leader offers them on the connection of its log, and waits until they are installed. The follower asks for
//! the list, then for what it lacks, over a connection of its own to the same core of the leader's node, so that no
//! piece is ever in front of log traffic or beats. What it has received outlives this: a later offer, of whomever,
//! goes on from there.
//!
//! Invariants:
//! * Of each shard one reception runs at a time; a newer offer ends the one before, unless that is installing: then it waits.
//! * A leader gives up an offer that nobody asks about for [`FILES_SILENCE_MAX`]; who receives asks at least every quarter
//!   of that, also while it waits for its turn or its rate, checks and installs.
//! * Of each reception one piece at a time waits for the rate of the core, so that all of them get the same.
//! * What came is written only with the checksum that the sender gave for it.
//! * Who sends while clients want something of the same core sends slowly ([`Groups::pace_sending`]).

use crate::admission::Refusal;
use crate::group::Group;
use crate::groups::Groups;
use crate::limits::{
    FILE_PIECES_IN_FLIGHT, FILES_DAMAGED_MAX, FILES_SIGN_EVERY, FILES_SILENCE_MAX,
};
use crate::link::PeerLink;
use crate::receptions::FileReception;
use crate::route::{Caller, Target};
use crate::snapshot::SnapshotData;
use corelith_io::sync::semaphore::Semaphore;
use corelith_shards::{Error, FileList, Incoming, MissingPiece, limits::MANIFEST_BYTES_MAX};
use corelith_wire::peer::{self, FileAsk, FileBytes, PeerVote, kinds};
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Pause before a link that takes no question is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Why a reception ended early.
enum Ended {
    /// Another one took its place, or the sender is gone: an offer will follow.
    Over,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Receives what `from` offers under the number `transfer`, and installs it. Returns the vote to answer with; `None` if
/// it did not come to that.
pub(crate) async fn receive(
    groups: &Groups,
    group: &Group,
    from: Caller,
    transfer: u64,
    vote: PeerVote,
) -> Result<Option<PeerVote>, Refusal> {
    let reception = groups.receptions().of(group.shard());
    let number = reception.newest.get() + 1;
    reception.newest.set(number);
    reception.replaced.notify_waiters();
    let puller = Puller {
        groups,
        group,
        transfer,
        link: BulkLink(groups.bulk_link(from.at.node, group.shard())),
        sender: Target::of(group.shard(), vote.node),
        asking: Semaphore::new(1),
        list_bytes: Cell::new(0),
        damaged: Cell::new(0),
    };
    // The one before may take long to install.
    let _turn = {
        let turn = pin!(reception.turn.acquire(1));
        match select(turn, pin!(puller.show_signs())).await {
            Either::Left((turn, _)) => turn,
            Either::Right((never, _)) => match never {},
        }
    };
    assert!(reception.newest.get() >= number, "offers are numbered");
    if reception.newest.get() != number {
        return Ok(None);
    }
    let received = {
        let replaced = pin!(reception.replaced.notified());
        let pulling = pin!(puller.pull(&reception));
        match select(pulling, replaced).await {
            Either::Left((pulled, _)) => pulled,
            Either::Right(_) => Err(Ended::Over),
        }
    };
    let answer = match received {
        Ok(incoming) => {
            let held = incoming.list().applied();
            let data = SnapshotData::Received(incoming);
            let installing = pin!(group.install(from, held, data, vote));
            match select(installing, pin!(puller.show_signs())).await {
                Either::Left((answer, _)) => answer,
                Either::Right((never, _)) => match never {},
            }
        }
        Err(Ended::Over) => Ok(None),
        Err(Ended::Failed(Error::OldSnapshot)) => Ok(group.answer_to_old_snapshot(vote).await),
        Err(Ended::Failed(error)) => {
            tracing::warn!(shard = %group.shard(), %error, "a snapshot cannot be received");
            Ok(None)
        }
    };
    reception.incoming.replace(None);
    answer
}

/// A connection for nothing but files, closed when dropped.
struct BulkLink(Rc<PeerLink>);

impl Drop for BulkLink {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Puller<'a> {
    groups: &'a Groups,
    group: &'a Group,
    transfer: u64,
    link: BulkLink,
    /// Who offers it.
    sender: Target,
    /// Held by the piece that is asked for next.
    asking: Semaphore,
    /// Length of the list, once it is here.
    list_bytes: Cell<u64>,
    /// How often something that came was damaged.
    damaged: Cell<u32>,
}

/// A piece that was asked for: whoever asked and is gone before it came leaves it to others.
struct AskedPiece<'a> {
    incoming: &'a Incoming,
    piece: MissingPiece,
}

impl Drop for AskedPiece<'_> {
    fn drop(&mut self) {
        // Nothing, if it is here.
        self.incoming.give_back(self.piece);
    }
}

/// Does what `start` begins of each that is `next`, several at once, until there are no more. One that fails and that `forgive`
/// lets pass leaves the others alone.
async fn several<T, F: Future<Output = Result<(), Ended>>>(
    mut next: impl FnMut() -> Option<T>,
    start: impl Fn(T) -> F,
    forgive: impl Fn(Ended) -> Result<(), Ended>,
) -> Result<(), Ended> {
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < FILE_PIECES_IN_FLIGHT
            && let Some(one) = next()
        {
            running.push(start(one));
        }
        match running.next().await {
            Some(done) => done.or_else(&forgive)?,
            None => return Ok(()),
        }
    }
}

impl Puller<'_> {
    /// Asks for a piece, over as many connections as it takes.
    async fn ask(&self, file: Option<u128>, offset: u64) -> Result<FileBytes, Ended> {
        let timeout = self.groups.link_config().timeout;
        let until = corelith_io::now() + FILES_SILENCE_MAX;
        let ask = FileAsk {
            transfer: self.transfer,
            file,
            offset,
        };
        while corelith_io::now() < until {
            if self.link.0.wait_up(timeout).await.is_err() {
                continue;
            }
            let asked =
                self.link
                    .0
                    .ask(self.sender, timeout * 4, kinds::FILE_BYTES, |out, head| {
                        peer::encode_file_ask(out, head, &ask)
                    });
            let Ok(answer) = asked else {
                corelith_io::sleep(ASK_AGAIN_AFTER).await;
                continue;
            };
            let Ok(frame) = answer.await else { continue };
            if frame.header.head.kind == kinds::REFUSED {
                return Err(Ended::Over);
            }
            if let Ok(piece) = peer::parse_file_bytes(&frame) {
                return Ok(piece);
            }
        }
        Err(Ended::Over)
    }

    async fn list(&self) -> Result<FileList, Ended> {
        let mut list = Vec::new();
        loop {
            let piece = self.ask(None, list.len() as u64).await?;
            list.extend_from_slice(&piece.bytes);
            if list.len() as u64 >= piece.whole {
                self.list_bytes.set(piece.whole);
                return Ok(FileList::decode(self.group.shard(), &list)?);
            }
            if piece.bytes.is_empty() || list.len() > MANIFEST_BYTES_MAX {
                return Err(Ended::Over);
            }
        }
    }

    /// Receives everything that is missing here.
    async fn pull(&self, reception: &FileReception) -> Result<Rc<Incoming>, Ended> {
        let list = self.list().await?;
        let incoming = Rc::new(self.group.engine().receive_files(list).await?);
        reception.incoming.replace(Some(Rc::clone(&incoming)));
        loop {
            let next = || incoming.next_missing();
            let start = |piece| self.piece(&incoming, piece);
            several(next, start, |ended| self.forgive(ended)).await?;
            match self.finish(&incoming).await {
                Ok(()) => return Ok(incoming),
                Err(ended) => self.forgive(ended)?,
            }
        }
    }

    /// What is missing again is asked for again, a few times: it may have been damaged on its way.
    fn forgive(&self, ended: Ended) -> Result<(), Ended> {
        let Ended::Failed(error @ (Error::Corrupt { .. } | Error::BadPiece { .. })) = ended else {
            return Err(ended);
        };
        let damaged = self.damaged.get() + 1;
        self.damaged.set(damaged);
        tracing::warn!(shard = %self.group.shard(), %error, "received files are damaged");
        match damaged > FILES_DAMAGED_MAX {
            true => Err(error.into()),
            false => Ok(()),
        }
    }

    async fn piece(&self, incoming: &Incoming, piece: MissingPiece) -> Result<(), Ended> {
        let _asked = AskedPiece { incoming, piece };
        self.wait_for_rate(piece.len as u64).await?;
        let came = self.ask(Some(piece.file.0), piece.offset).await?;
        incoming.write_piece(piece, &came.bytes, came.crc).await?;
        Ok(())
    }

    /// Waits until so many bytes may be asked for, as long as they are offered.
    async fn wait_for_rate(&self, bytes: u64) -> Result<(), Ended> {
        let _next = self.asking.acquire(1).await;
        let pacer = &self.groups.receptions().pacer;
        let paying = pin!(pacer.pay(bytes, || self.groups.copy_bytes_per_second()));
        let offered = pin!(async {
            loop {
                corelith_io::sleep(FILES_SIGN_EVERY).await;
                if let Err(ended) = self.show_sign().await {
                    return ended;
                }
            }
        });
        match select(paying, offered).await {
            Either::Left(((), _)) => Ok(()),
            Either::Right((ended, _)) => Err(ended),
        }
    }

    async fn finish(&self, incoming: &Incoming) -> Result<(), Ended> {
        match select(pin!(incoming.finish()), pin!(self.show_signs())).await {
            Either::Left((finished, _)) => {
                finished?;
                Ok(())
            }
            Either::Right((never, _)) => match never {},
        }
    }

    /// Shows the sender that somebody is there while nothing is asked for.
    async fn show_signs(&self) -> std::convert::Infallible {
        loop {
            corelith_io::sleep(FILES_SIGN_EVERY).await;
            let _ = self.show_sign().await;
        }
    }

    /// Fails if the sender offers it no more.
    async fn show_sign(&self) -> Result<(), Ended> {
        // At the end of the list, so that nothing comes but an answer.
        self.ask(None, self.list_bytes.get()).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;
    use std::cell::RefCell;

    #[test]
    fn a_piece_that_is_damaged_leaves_the_others_alone() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let left = RefCell::new(vec![3, 2, 1, 0]);
            let done = RefCell::new(Vec::new());
            let start = |number: u64| {
                let done = &done;
                async move {
                    corelith_io::sleep(Duration::from_secs(number)).await;
                    if number == 1 {
                        let what = "it is damaged";
                        return Err(Ended::Failed(Error::BadPiece { number, what }));
                    }
                    done.borrow_mut().push(number);
                    Ok(())
                }
            };
            let forgive = |ended| match ended {
                Ended::Failed(Error::BadPiece { .. }) => Ok(()),
                other => Err(other),
            };
            let ended = several(|| left.borrow_mut().pop(), start, forgive).await;
            assert!(ended.is_ok());
            assert_eq!(*done.borrow(), [0, 2, 3]);
        });
    }
}
