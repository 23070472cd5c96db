//! The nodes that run in the simulated world of a test's thread, and edits of the map at its keeper.

use super::Meta;
use crate::node::cluster::map::MapEdit;
use crate::node::neighbours::Neighbours;
use corelith_shards::NodeId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

thread_local! {
    static MET: RefCell<BTreeMap<NodeId, Weak<Meta>>> = RefCell::default();
    static STEPS: Cell<u32> = const { Cell::new(0) };
}

pub(super) fn note_step() {
    STEPS.set(STEPS.get() + 1);
}

/// Steps that were asked for since this was asked last.
pub(crate) fn steps() -> u32 {
    STEPS.replace(0)
}

pub(super) fn meet(meta: &Rc<Meta>) {
    MET.with(|met| {
        let node = meta.neighbours.me;
        met.borrow_mut().insert(node, Rc::downgrade(meta));
    });
}

fn all() -> Vec<Rc<Meta>> {
    MET.with(|met| met.borrow().values().filter_map(Weak::upgrade).collect())
}

/// The first core of a node that runs.
pub(crate) fn running(node: NodeId) -> Option<Rc<Neighbours>> {
    let found = all().into_iter().find(|meta| meta.neighbours.me == node);
    found.map(|meta| Rc::clone(&meta.neighbours))
}

fn keeper() -> Option<Rc<Meta>> {
    let leads = |meta: &Rc<Meta>| meta.neighbours.leads_meta() && meta.lead.borrow().is_some();
    all().into_iter().find(leads)
}

/// The first core of the node that keeps the map.
pub(crate) fn leader() -> Option<Rc<Neighbours>> {
    keeper().map(|meta| Rc::clone(&meta.neighbours))
}

/// Edits the map at its keeper.
pub(crate) async fn edit(_: &Neighbours, edits: &[MapEdit]) {
    let meta = keeper().unwrap();
    meta.edit(|_| Ok(edits.to_vec())).await.unwrap();
}
