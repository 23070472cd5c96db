//! Which rooms of a crate import which, and in what circles. A room is a module together with all below it;
//! what a module and its own parts use of each other is their affair.

use crate::source::{Crate, Names};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Rooms beside each other, each of which imports the next one by some way.
pub(crate) struct Circle {
    pub parent: Names,
    pub rooms: BTreeSet<String>,
    edges: Vec<String>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in `{}`: {:?}", self.parent.join("::"), self.rooms)?;
        self.edges
            .iter()
            .try_for_each(|edge| write!(f, "\n    {edge}"))
    }
}

/// From one room to another, with the imports that make the way.
type Edges = BTreeMap<(String, String), BTreeSet<String>>;

pub(crate) fn circles(of: &Crate) -> Vec<Circle> {
    let mut by_parent: BTreeMap<Names, Edges> = BTreeMap::new();
    for (from, module) in &of.modules {
        for path in &module.paths {
            let Some(to) = resolve(of, from, path, 0) else {
                continue;
            };
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                let edges = by_parent.entry(from[..common].to_vec()).or_default();
                let ways = edges.entry((a.clone(), b.clone())).or_default();
                ways.insert(format!("{} -> {}", from.join("::"), to.join("::")));
            }
        }
    }
    by_parent
        .into_iter()
        .flat_map(|(parent, edges)| circles_of(&parent, &edges))
        .collect()
}

fn circles_of(parent: &Names, edges: &Edges) -> Vec<Circle> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(at) = next.pop() {
            for (a, b) in edges.keys() {
                if *a == at && seen.insert(b.clone()) {
                    next.push(b.clone());
                }
            }
        }
        seen
    };
    let rooms: BTreeSet<String> = edges.keys().map(|(from, _)| from.clone()).collect();
    let reached: BTreeMap<String, BTreeSet<String>> = rooms
        .iter()
        .map(|room| (room.clone(), reach(room)))
        .collect();
    let mut found: Vec<Circle> = Vec::new();
    for (room, reaches) in &reached {
        if !reaches.contains(room) || found.iter().any(|circle| circle.rooms.contains(room)) {
            continue;
        }
        let of_circle =
            |other: &&String| reached.get(*other).is_some_and(|back| back.contains(room));
        let rooms: BTreeSet<String> = reaches.iter().filter(of_circle).cloned().collect();
        let inside = edges
            .iter()
            .filter(|((a, b), _)| rooms.contains(a) && rooms.contains(b));
        found.push(Circle {
            parent: parent.clone(),
            edges: inside.flat_map(|(_, ways)| ways.iter().cloned()).collect(),
            rooms,
        });
    }
    found
}

/// The module of `of` that `path`, named in the module `at`, leads to; through re-exports to where a thing is
/// defined. `None` for paths out of the crate.
fn resolve(of: &Crate, at: &Names, path: &Names, depth: usize) -> Option<Names> {
    let mut full: Names = at.clone();
    let mut names = path.iter().peekable();
    match names.peek().map(|name| name.as_str())? {
        "crate" => {
            full.clear();
            names.next();
        }
        "self" | "super" => {
            while let Some(name) = names.next_if(|name| *name == "super" || *name == "self") {
                if name == "super" {
                    full.pop();
                }
            }
        }
        first => {
            let mut child = at.clone();
            child.push(first.to_owned());
            if !of.modules.contains_key(&child) {
                return None;
            }
        }
    }
    for name in names {
        let mut child = full.clone();
        child.push(name.clone());
        if of.modules.contains_key(&child) {
            full = child;
            continue;
        }
        let exports = &of.modules.get(&full)?.exports;
        let export = exports.iter().find(|(exported, _)| exported == name);
        return match export {
            Some((_, path)) if depth < 8 => resolve(of, &full, path, depth + 1).or(Some(full)),
            _ => Some(full),
        };
    }
    Some(full)
}
