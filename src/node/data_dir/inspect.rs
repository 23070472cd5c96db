//! Describing any file that a node has written.

use crate::node::cluster::standing::Exclusion;
use crate::node::data_dir::identity::{self, Identity, IdentityError};
use corelith_io::File;
use corelith_wire::{ShardId, StoreId};
use std::fmt::Write;
use std::path::Path;

/// Why a file cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is a file of a shard.
    #[error(transparent)]
    Shard(#[from] corelith_shards::Error),
    /// It is a node's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Neither its start nor its name is that of a file that can be described.
    #[error(
        "{file} is not a file of Corelith that can be inspected: these are the files of shards and \
         `node`, the identity of a data directory"
    )]
    Foreign {
        /// The file.
        file: String,
    },
}

/// Reads, checks and describes the file at `path`: a node's identity, or a log segment, value log
/// segment, sstable or manifest of a shard. Must run on a core.
///
/// # Errors
/// What is damaged, and where; a file of a newer format or not of ours.
pub async fn inspect(path: &Path) -> Result<String, InspectError> {
    let file = File::open(path)
        .await
        .map_err(corelith_shards::Error::from)?;
    let start = file
        .read_at(0, identity::FILE_BYTES_MAX)
        .await
        .map_err(corelith_shards::Error::from)?;
    let is_named_node = path
        .file_name()
        .is_some_and(|name| name == identity::FILE_NAME);
    if start.starts_with(identity::MAGIC) || is_named_node {
        return Ok(describe(&identity::decode(
            &path.display().to_string(),
            &start,
        )?));
    }
    let described = corelith_shards::inspect::inspect(path).await?;
    described.ok_or_else(|| InspectError::Foreign {
        file: path.display().to_string(),
    })
}

fn describe(identity: &Identity) -> String {
    let mut text = String::new();
    let nodes: Vec<String> = identity.nodes.iter().map(ToString::to_string).collect();
    let held = identity.held.iter().filter(|(_, held)| held.is_there());
    let held: Vec<String> = held
        .map(|(shard, held)| match (*shard, held.generation) {
            (ShardId::META, 0) => "meta".to_owned(),
            (ShardId::META, generation) => format!("meta.{generation}"),
            (shard, 0) => shard.to_string(),
            (shard, generation) => format!("{shard}.{generation}"),
        })
        .collect();
    let charter = identity.formation.charter.as_ref();
    let cluster = charter.map(|charter| charter.cluster.to_string());
    let mut lines = vec![
        ("kind", "identity of a data directory".to_owned()),
        ("node", identity.node.to_string()),
        (
            "cluster id",
            cluster.unwrap_or_else(|| "none, it is not formed yet".to_owned()),
        ),
        (
            "hash of the cluster's name",
            format!("{:016x}", identity.name),
        ),
        ("store id", identity.store.to_string()),
        ("starts", identity.incarnation.to_string()),
        ("mark", identity.mark.to_string()),
        ("longest promise", format!("{} ms", identity.promise_ms_max)),
        ("cores", identity.cores.to_string()),
        ("shards", identity.shards.to_string()),
        ("replicas", identity.replicas.to_string()),
        ("first nodes", nodes.join(" ")),
        ("holds shards", held.join(" ")),
    ];
    for (node, store) in charter.iter().flat_map(|charter| &charter.stores) {
        let store = match *store {
            StoreId::UNCLAIMED => "whichever comes first".to_owned(),
            StoreId::ANY => "any, as older versions had it".to_owned(),
            store => store.to_string(),
        };
        lines.push(("store of the cluster", format!("{node} {store}")));
    }
    for (node, met) in &identity.met {
        let lost = if met.has_lost { ", lost entries" } else { "" };
        let (store, start, mark) = (met.store, met.start, met.mark);
        lines.push((
            "met",
            format!("{node} {store} start {start} mark {mark}{lost}"),
        ));
    }
    if let Some(excluded) = identity.excluded {
        let why = match excluded {
            Exclusion::OtherStore(store) => format!("the cluster knows the store {store}"),
            Exclusion::RolledBack(start) => format!("the cluster knows start {start}"),
            Exclusion::Behind(mark) => format!("the cluster knows mark {mark}"),
            Exclusion::LostEntries => "it lacks entries that it had acknowledged".to_owned(),
            Exclusion::Removed => "its node was removed from the cluster".to_owned(),
        };
        lines.push(("takes part in nothing", why));
    }
    for (what, content) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{what}: {content}");
    }
    text
}
