//! How a node comes into a cluster that is there: it asks nodes of it, at the addresses that it was given, until one
//! of them has had it taken in; then it has an id, and knows who the cluster is. Runs on the first core, before
//! [`super::joining`].
//!
//! Invariant: the store is durable before it asks, so that a node that asks again, whenever it has crashed, is
//! the one that was taken in.

use super::desk::Desk;
use crate::node::cluster::addresses::look_up;
use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::map::Map;
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::IdentityError;
use crate::node::data_dir::keeper::IdentityKeeper;
use crate::node::data_dir::map_file;
use crate::node::limits;
use corelith_wire::NodeId;
use corelith_wire::peer::{Charter, FormationAnswer, FormationReply, Introduction, JoinPlace};
use std::rc::Rc;

/// Where a node is that joins.
pub(crate) fn place(config: &NodeConfig) -> JoinPlace {
    JoinPlace {
        host: config.place.host.clone(),
        port: config.place.port,
        cores: config.cores,
        zone: config.place.zone.clone(),
        region: config.place.region.clone(),
    }
}

/// What a node is told that was taken in.
struct TakenIn {
    node: NodeId,
    name: u64,
    charter: Charter,
    map: Map,
    by: Introduction,
}

/// Returns the map once the cluster has taken the node in, and the identity says so.
///
/// # Errors
/// The data directory cannot be written to.
pub(crate) async fn enter(
    config: &NodeConfig,
    keeper: &Rc<IdentityKeeper>,
    desk: &Desk,
) -> Result<Map, IdentityError> {
    let place = place(config);
    let mut pause = limits::FORMATION_PAUSE_MIN;
    let mut told = String::new();
    loop {
        for (host, port) in &config.join {
            desk.introduce_as(keeper.me());
            let why = match ask(desk, host, *port, &place).await {
                Ok(taken) => {
                    note(config, keeper, &taken).await?;
                    return Ok(taken.map);
                }
                Err(why) => why,
            };
            let why = format!("node {host}:{port} has not taken this node in: {why}");
            if why != told {
                tracing::warn!("{why}; it is asked again");
                told = why;
            }
        }
        corelith_io::sleep(pause).await;
        pause = (pause * 2).min(limits::FORMATION_PAUSE_MAX);
    }
}

async fn ask(desk: &Desk, host: &str, port: u16, place: &JoinPlace) -> Result<TakenIn, String> {
    let name = host.to_owned();
    let address = corelith_io::blocking(move || look_up(&name, port)).await?;
    let reply = desk.ask_at(address, place).await;
    let Some(FormationReply { by, answer }) = reply else {
        return Err("it does not answer".to_owned());
    };
    let me = desk.me();
    match answer {
        FormationAnswer::Joined {
            node,
            name,
            charter,
            map,
        } => {
            let map = Map::decode(&map).map_err(|error| error.to_string())?;
            let is_named = map.node(node).is_some_and(|known| known.store == me.store);
            let is_same = me.node.0 == 0 || me.node == node;
            if !is_named || !is_same || map.cluster != charter.cluster {
                return Err("its answer makes no sense".to_owned());
            }
            Ok(TakenIn {
                node,
                name,
                charter,
                map,
                by,
            })
        }
        FormationAnswer::Declined(why) => Err(why),
        _ => Err("it answers something else".to_owned()),
    }
}

async fn note(
    config: &NodeConfig,
    keeper: &Rc<IdentityKeeper>,
    taken: &TakenIn,
) -> Result<(), IdentityError> {
    if let Err(error) = map_file::write(&config.data_dir, &taken.map).await {
        tracing::warn!(%error, "the cluster map cannot be written down");
    }
    let TakenIn {
        node,
        name,
        charter,
        by,
        ..
    } = taken;
    keeper
        .change(|identity| {
            identity.node = *node;
            identity.name = *name;
            identity.shards = by.settings.shards;
            identity.replicas = by.settings.replicas;
            identity.reads = by.settings.reads as u16;
            identity.nodes = charter.stores.iter().map(|(node, _)| *node).collect();
            identity.formation = Acceptor {
                charter: Some(charter.clone()),
                ..Acceptor::default()
            };
            identity.excluded = None;
            // What it gets it is told to open.
            identity.found([]);
        })
        .await?;
    tracing::info!(node = node.0, cluster = %charter.cluster, "the cluster has taken this node in");
    Ok(())
}
