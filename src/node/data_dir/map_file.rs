//! The cluster map that a node has known last: the file `map` in its data directory. It is there so that a node finds
//! the others, and knows what it holds, before it has heard of anybody. One that is missing or damaged is no damage:
//! the map is asked for again.
//!
//! ```text
//! 0    8    magic "CLMAP\0\0\0"
//! 8    4    format version, 1
//! 12   4    length of the map
//! 16   n    the map, which has a checksum of its own
//! ..        zeros, up to a multiple of 4096
//! ```

use crate::node::cluster::map::Map;
use crate::node::cluster::map::format::MAP_BYTES_MAX;
use corelith_io::{BLOCK_SIZE, Buf, Error, ErrorKind, File, OpenOptions};
use corelith_wire::width::u32_len;
use std::path::Path;

/// Name of the file in the data directory.
pub(crate) const FILE_NAME: &str = "map";
const NEW_FILE_NAME: &str = "map.new";
const MAGIC: &[u8; 8] = b"CLMAP\0\0\0";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;

const _: () = assert!(MAP_BYTES_MAX <= corelith_wire::limits::CLUSTER_MAP_BYTES_MAX);

fn encode(map: &Map) -> Vec<u8> {
    let content = map.encode();
    let mut bytes = Vec::with_capacity((HEAD_BYTES + content.len()).next_multiple_of(BLOCK_SIZE));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32_len(content.len()).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Map, String> {
    let head = bytes.first_chunk::<HEAD_BYTES>();
    let head = head.filter(|head| head.starts_with(MAGIC));
    let Some([.., v0, v1, v2, v3, l0, l1, l2, l3]) = head else {
        return Err("it does not start with the magic of a map".to_owned());
    };
    let version = u32::from_le_bytes([*v0, *v1, *v2, *v3]);
    if version != VERSION {
        return Err(format!("it has format version {version}"));
    }
    let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    let content = bytes.get(HEAD_BYTES..).and_then(|rest| rest.get(..len));
    let content = content.ok_or_else(|| "it is shorter than it was written".to_owned())?;
    Map::decode(content).map_err(|error| error.to_string())
}

/// The map in the data directory `dir`, if there is a whole one.
pub(crate) async fn read(dir: &Path) -> Option<Map> {
    let path = dir.join(FILE_NAME);
    let bytes = async {
        let file = File::open(&path).await?;
        let max = (HEAD_BYTES + MAP_BYTES_MAX).next_multiple_of(BLOCK_SIZE);
        file.read_at(0, max).await
    };
    let why = match bytes.await {
        Ok(bytes) => match decode(&bytes) {
            Ok(map) => return Some(map),
            Err(why) => why,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        file = %path.display(), why,
        "the cluster map that was known last cannot be read, and is asked for again"
    );
    None
}

/// Writes the map under another name, then renames: the file is complete or not there.
///
/// # Errors
/// The device or file system failed.
pub(crate) async fn write(dir: &Path, map: &Map) -> Result<(), Error> {
    let bytes = encode(map);
    let new = dir.join(NEW_FILE_NAME);
    match corelith_io::remove_file(&new).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write().create_new().open(&new).await?;
    let mut blocks = Buf::alloc(bytes.len());
    blocks.copy_from_slice(&bytes);
    file.write_at(0, blocks).await?;
    file.sync().await?;
    corelith_io::rename(&new, &dir.join(FILE_NAME)).await?;
    corelith_io::sync_dir(dir).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::NodeConfig;
    use corelith_io::sim::Sim;
    use corelith_wire::FullClusterId;
    use corelith_wire::peer::Charter;

    const DIR: &str = "/data";

    fn map() -> Map {
        let text = "node = { id = 1, data_dir = \"/data\" }\n\
            cluster = { name = \"c\", shards = 3, nodes = [{ id = 1, host = \"h\", port = 1 }] }";
        let config = NodeConfig::parse("t", text).unwrap();
        let charter = Charter {
            cluster: FullClusterId(7),
            stores: vec![],
        };
        Map::first(&config.cluster, &charter).unwrap()
    }

    #[test]
    fn a_damaged_file_is_no_map() {
        let good = encode(&map());
        assert_eq!(decode(&good), Ok(map()));
        let len = HEAD_BYTES + map().encode().len();
        for at in 0..len {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    /// Whenever the power goes: the file is the earlier or the later map.
    #[test]
    fn a_crash_leaves_one_of_two_maps() {
        let mut seen = [0, 0];
        for at in 1..24 {
            let sim = Sim::new(at);
            let node = sim.add_node();
            let dir = Path::new(DIR);
            sim.block_on(node, async move {
                corelith_io::create_dir_all(dir).await.unwrap();
                write(dir, &map()).await.unwrap();
            });
            let mut later = map();
            later.epoch.0 = 2;
            let next = later.clone();
            sim.start(node, 0, move || async move {
                let _ = write(dir, &next).await;
            });
            sim.crash_at_io(node, at);
            sim.run_for(std::time::Duration::from_secs(1));
            sim.crash(node);
            let found = sim.block_on(node, async move { read(dir).await });
            match found {
                Some(found) if found == map() => seen[0] += 1,
                Some(found) if found == later => seen[1] += 1,
                other => panic!("crash at {at}: {other:?}"),
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}
