//! Where a core of the node asks, and is asked, who belongs to the cluster. What is known lies with the
//! first core ([`crate::node::data_dir::keeper`]); what takes another look at the network is done here.

use super::exchange;
use crate::node::cluster::addresses::Addresses;
use crate::node::cluster::standing::Exclusion;
use crate::node::data_dir::keeper::{
    Earlier, Formed, JoinQuestion, Judged, KeeperAsk, RefusedNode,
};
use crate::node::limits;
use corelith_consensus::{Admit, NodeStore, Resolve};
use corelith_io::Sender;
use corelith_wire::peer::{
    FormationAnswer, FormationAsk, FormationReply, FormationStep, Introduction, JoinPlace, Verdict,
};
use corelith_wire::{NodeId, Start};
use futures_util::FutureExt;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// See the module. Belongs to one core.
pub(crate) struct Desk {
    me: Cell<Introduction>,
    /// Hash of the cluster's name.
    name: Cell<u64>,
    asks: Sender<KeeperAsk>,
    addresses: Addresses,
}

impl Desk {
    /// Of a node that introduces itself as `me`, in a cluster of that name's hash.
    pub(crate) fn new(
        me: Introduction,
        name: u64,
        asks: Sender<KeeperAsk>,
        addresses: Addresses,
    ) -> Self {
        Self {
            me: Cell::new(me),
            name: Cell::new(name),
            asks,
            addresses,
        }
    }

    /// How the node introduces itself.
    pub(crate) fn me(&self) -> Introduction {
        self.me.get()
    }

    /// The node has learnt what the cluster is.
    pub(crate) fn introduce_as(&self, me: Introduction) {
        self.me.set(me);
    }

    /// The node has learnt what the cluster is called: the hash of its name.
    pub(crate) fn name_cluster(&self, name: u64) {
        self.name.set(name);
    }

    /// Where the other nodes are.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Judges who introduces itself. While that cannot be written down there is no verdict.
    pub(crate) async fn admit(&self, them: Introduction) -> Verdict {
        let mut earlier = Earlier::Unknown;
        loop {
            let judging = self.asked(|told| KeeperAsk::Judge {
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

    /// What consensus asks about other nodes: where they are, and who.
    pub(crate) fn as_consensus_asks(self: Rc<Self>) -> (Resolve, Admit) {
        let addresses = self.addresses();
        let resolve: Resolve =
            Rc::new(move |node, core| addresses.clone().of(node, core).boxed_local());
        let admit: Admit = Rc::new(move |them| {
            let desk = Rc::clone(&self);
            async move { desk.admit(them).await }.boxed_local()
        });
        (resolve, admit)
    }

    /// Answers a question about the formation.
    pub(crate) async fn answer(&self, ask: FormationAsk) -> Option<FormationReply> {
        if let FormationStep::Join(place) = &ask.step {
            let place = place.clone();
            let ask = Box::new(ask);
            let joining = |told| KeeperAsk::Join(JoinQuestion { ask, place, told });
            return Some(self.asked(joining).await);
        }
        let them = ask.from;
        let mut earlier = Earlier::Unknown;
        loop {
            let forming = self.asked(|told| KeeperAsk::Form {
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
        self.asked(|told| KeeperAsk::Exclude { excluded, told })
            .await;
    }

    /// Remembers that a store of another node lacks what it had acknowledged.
    pub(crate) async fn lost(&self, NodeStore { node, store }: NodeStore) {
        self.asked(|told| KeeperAsk::Lost { node, store, told })
            .await;
    }

    /// The nodes that are refused.
    pub(crate) async fn strangers(&self) -> Vec<RefusedNode> {
        let asked = self.asked(KeeperAsk::Strangers);
        let in_time = corelith_io::timeout(limits::STATUS_DEADLINE, asked).await;
        in_time.unwrap_or_default()
    }

    /// What the first core says. It says nothing any more when the node stops.
    async fn asked<T>(&self, question: impl FnOnce(Sender<T>) -> KeeperAsk) -> T {
        let (told, answer) = corelith_io::channel(1);
        if self.asks.send(question(told)).await.is_ok()
            && let Ok(answer) = answer.recv().await
        {
            return answer;
        }
        std::future::pending().await
    }

    /// What becomes of the start of `them` that was met `earlier`. Another start of the store may answer where
    /// the node is configured to be; or they themselves, and have had another start in its place.
    async fn is_running(&self, them: &Introduction, earlier: Start) -> Earlier {
        let limit = limits::FORMATION_NAME_DEADLINE;
        let there = self.ask(them.node, FormationStep::Name, limit).await;
        match there {
            Some(there) if there.by.store != them.store => Earlier::Gone,
            Some(there) if there.by.start != them.start => Earlier::Runs(there.by.start),
            Some(FormationReply {
                answer: FormationAnswer::Named(starts),
                ..
            }) if !starts.may_include(them.start, earlier) => Earlier::Runs(earlier),
            _ => Earlier::Gone,
        }
    }

    /// Asks whoever listens at that address to take this node in.
    pub(super) async fn ask_at(
        &self,
        address: SocketAddr,
        place: &JoinPlace,
    ) -> Option<FormationReply> {
        let ask = FormationAsk {
            name: self.name.get(),
            from: self.me.get(),
            step: FormationStep::Join(place.clone()),
        };
        let asked = exchange::ask(address, &ask);
        let reply = corelith_io::timeout(limits::JOIN_DEADLINE, asked).await;
        reply.ok().flatten()
    }

    /// Asks another node.
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        step: FormationStep,
        limit: Duration,
    ) -> Option<FormationReply> {
        let ask = FormationAsk {
            name: self.name.get(),
            from: self.me.get(),
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
