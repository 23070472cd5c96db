//! Where a core of the node asks, and is asked, who belongs to the cluster. What is known lies with the
//! first core ([`crate::node::data_dir::keeper`]); what takes another look at the network is done here.

use super::exchange;
use crate::node::cluster::addresses::Addresses;
use crate::node::cluster::standing::Exclusion;
use crate::node::data_dir::keeper::{Asked, Earlier, Formed, Judged, Stranger};
use crate::node::limits;
use corelith_io::Sender;
use corelith_wire::peer::{FormationAsk, FormationReply, FormationStep, Introduction, Verdict};
use corelith_wire::{NodeId, Start};
use std::time::Duration;

/// See the module. Belongs to one core.
pub(crate) struct Desk {
    /// This start of the node; its cluster may be set later.
    pub(crate) me: Introduction,
    /// Hash of the cluster's name.
    pub(crate) name: u64,
    pub(crate) asks: Sender<Asked>,
    pub(crate) addresses: Addresses,
}

impl Desk {
    /// Judges who introduces itself. While that cannot be written down there is no verdict.
    pub(crate) async fn admit(&self, them: Introduction) -> Verdict {
        let mut earlier = Earlier::Unknown;
        loop {
            let judging = self.asked(|told| Asked::Judge {
                them,
                earlier,
                told,
            });
            match judging.await {
                Judged::Given(verdict) => return verdict,
                Judged::Doubt(start) => earlier = self.is_running(&them, start).await,
            }
        }
    }

    /// Answers a question about the formation.
    pub(crate) async fn answer(&self, ask: FormationAsk) -> Option<FormationReply> {
        let them = ask.from;
        let mut earlier = Earlier::Unknown;
        loop {
            let forming = self.asked(|told| Asked::Form {
                ask: Box::new(ask.clone()),
                earlier,
                told,
            });
            match forming.await {
                Formed::Reply(reply) => return Some(*reply),
                Formed::Doubt(start) => earlier = self.is_running(&them, start).await,
            }
        }
    }

    /// Remembers what other nodes say of the store.
    pub(crate) async fn exclude(&self, excluded: Exclusion) {
        self.asked(|told| Asked::Exclude { excluded, told }).await;
    }

    /// The nodes that are refused.
    pub(crate) async fn strangers(&self) -> Vec<Stranger> {
        let asked = self.asked(Asked::Strangers);
        let in_time = corelith_io::timeout(limits::STATUS_DEADLINE, asked).await;
        in_time.unwrap_or_default()
    }

    /// What the first core says. It says nothing any more when the node stops.
    async fn asked<T>(&self, question: impl FnOnce(Sender<T>) -> Asked) -> T {
        let (told, answer) = corelith_io::channel(1);
        if self.asks.send(question(told)).await.is_ok()
            && let Ok(answer) = answer.recv().await
        {
            return answer;
        }
        std::future::pending().await
    }

    /// Whether another start of the same store as that of `them` answers where its node is configured to be.
    async fn is_running(&self, them: &Introduction, earlier: Start) -> Earlier {
        let limit = limits::FORMATION_NAME_DEADLINE;
        let there = self.ask(them.node, FormationStep::Name, limit).await;
        match there.map(|reply| reply.by) {
            Some(there) if there.store == them.store && there.start != them.start => {
                tracing::debug!(node = %them.node, %earlier, there = %there.start, "two starts of a store run");
                Earlier::Runs(there.start)
            }
            _ => Earlier::Gone,
        }
    }

    /// Asks another node.
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        step: FormationStep,
        limit: Duration,
    ) -> Option<FormationReply> {
        let ask = FormationAsk {
            name: self.name,
            from: self.me,
            step,
        };
        let asked = async {
            let address = self.addresses.clone().of(node, 0).await?;
            exchange::ask(address, &ask).await
        };
        let reply = corelith_io::timeout(limit, asked).await.ok().flatten()?;
        (reply.by.node == node).then_some(reply)
    }
}
