//! Large values and their uploads.

use super::Cluster;
use crate::tests::client::parts_of;
use crate::{Group, GroupError};
use bytes::Bytes;
use corelith_io::channel;
use corelith_shards::{Found, FoundLarge, ItemValue, Lookup, Row, ShardId, Sought, Space};
use corelith_wire::response::ReplyMeta;
use corelith_wire::upload::{UploadReply, UploadStatus};
use corelith_wire::{ChunkId, UploadId};

/// What a client asks about an upload: bodies of frames.
#[derive(Clone)]
pub(crate) enum UploadAsk {
    Begin(Bytes),
    Chunk(Bytes),
    Commit(Bytes),
    Abort(Bytes),
    Status(UploadStatus),
    Hold(UploadId),
}

pub(crate) type UploadAnswer = Result<UploadReply, GroupError>;

/// Asks a group.
pub(super) async fn ask_upload(group: Group, ask: UploadAsk) -> UploadAnswer {
    match ask {
        UploadAsk::Begin(body) => group.begin_upload(body).await,
        UploadAsk::Commit(body) => group.commit_upload(body).await,
        UploadAsk::Abort(body) => group.abort_upload(body).await,
        UploadAsk::Status(ask) => group.upload_status(ask).await,
        UploadAsk::Hold(upload) => group.hold_value(upload),
        UploadAsk::Chunk(payload) => {
            let (tell, told) = channel(1);
            group.submit_chunk(payload, move |answer| drop(tell.try_send(answer)));
            told.recv().await.unwrap_or(Err(GroupError::Shutdown))
        }
    }
}

/// What a key has; of a large value its upload's number stands for the bytes.
pub(super) async fn found(group: &Group, key: &[u8]) -> Option<Found> {
    loop {
        match group.engine().get(key).await {
            Ok(found) => return found,
            Err(corelith_shards::Error::IsLarge { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let large = match group.engine().look_up(key) {
            Lookup::Large(found) => found,
            Lookup::Unknown(search) => match group.engine().search(key, search).await.unwrap() {
                Sought::Large(found) => found,
                _ => continue,
            },
            _ => continue,
        };
        return Some(Found {
            version: large.version,
            value: Bytes::from(large.large.upload.0.to_string()),
        });
    }
}

impl Cluster {
    pub(crate) fn upload(&self, at: usize, ask: UploadAsk) -> UploadAnswer {
        let group = self.groups(at).unwrap().group(ShardId(0)).unwrap();
        self.sim.block_on(self.nodes[at], ask_upload(group, ask))
    }

    /// All rows of uploads and their chunks of a node's shard, each with its space.
    pub(crate) fn upload_rows(&self, at: usize, shard: ShardId) -> Vec<(Space, Row)> {
        let group = self.groups(at).unwrap().group(shard).unwrap();
        self.sim.block_on(self.nodes[at], async move {
            let mut all = Vec::new();
            for space in [Space::Upload, Space::Staged, Space::Chunk] {
                let page = group.engine().rows(space, &[], &[], usize::MAX, usize::MAX);
                let page = page.await.unwrap();
                all.extend(page.rows.into_iter().map(|row| (space, row)));
            }
            all
        })
    }

    /// The table of uploads of a replica is what its rows say, and large values are what clients put (see `parts_of`).
    pub(super) fn check_uploads(&self, at: usize, shard: ShardId) {
        let group = self.groups(at).unwrap().group(shard).unwrap();
        self.sim.block_on(self.nodes[at], async move {
            loop {
                let applied = group.engine().applied();
                let loaded = crate::uploads::load(group.engine()).await.unwrap();
                if group.engine().applied() == applied {
                    assert_eq!(loaded, group.uploads(), "the uploads of replica {at}");
                    break;
                }
                // A leader drops what is dead meanwhile.
            }
            let range = corelith_shards::ScanRange::default();
            let page = group.engine().scan(&range, None, usize::MAX, usize::MAX);
            for item in page.await.unwrap().items {
                let ItemValue::Large(large) = item.value else {
                    continue;
                };
                let (version, upload) = (item.version, large.upload);
                let found = FoundLarge { version, large };
                let described = group.describe_large(&found, ReplyMeta::default()).await;
                let described = described.unwrap().unwrap();
                let parts = parts_of(upload);
                assert_eq!(described.parts.len(), parts.len(), "{upload}");
                for (part, bytes) in (0..).zip(parts) {
                    let id = ChunkId {
                        upload,
                        part,
                        chunk: 0,
                    };
                    let read = group.read_chunk(id, 0..u32::MAX).await.unwrap();
                    assert!(read == Some(bytes), "{id} at replica {at}");
                }
            }
        });
    }
}
