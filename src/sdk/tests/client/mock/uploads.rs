//! Large values in the mock: kept in memory, shared by all nodes.

use super::Shard;
use bytes::Bytes;
use corelith_wire::request::Condition;
use corelith_wire::response::{Answer, ReplyMeta};
use corelith_wire::upload::{
    AbortUpload, BeginUpload, ChunkCommand, CommitUpload, HoldValue, LargeReply, ListUploads,
    ReadChunk, StagedChunk, UploadRefusal, UploadReply, UploadState, UploadStatus, UploadSummary,
    UploadsPage,
};
use corelith_wire::{Frame, Kind, UploadId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct MockUpload {
    shard: u32,
    key: Bytes,
    attributes: Vec<u8>,
    chunks: BTreeMap<(u32, u32), Bytes>,
    state: UploadState,
}

#[derive(Debug)]
pub(crate) struct Uploads {
    uploads: BTreeMap<UploadId, MockUpload>,
    /// Key: the version of its large value, and what it is.
    live: BTreeMap<Bytes, LargeReply>,
    pub(crate) chunk_bytes: u32,
    /// Most chunks and uploads in a page.
    pub(crate) page: usize,
    /// Nodes that have no chunks.
    pub(crate) lagging: BTreeSet<u64>,
    /// Chunks that arrived, also again.
    pub(crate) chunks_sent: Vec<(u32, u32, usize)>,
    pub(crate) holds: usize,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            uploads: BTreeMap::new(),
            live: BTreeMap::new(),
            chunk_bytes: 1024,
            page: 3,
            lagging: BTreeSet::new(),
            chunks_sent: Vec::new(),
            holds: 0,
        }
    }
}

impl Uploads {
    /// What the key's large value is, if it has one.
    pub(super) fn live(&self, key: &[u8], place: &Shard) -> Option<LargeReply> {
        let (version, _) = place.data.get(key)?;
        let live = self.live.get(key)?;
        let meta = ReplyMeta {
            term: 1,
            index: place.index,
        };
        (live.version == *version).then(|| LargeReply {
            meta,
            ..live.clone()
        })
    }

    /// Drops the bytes of all values and uploads.
    pub(crate) fn drop_all(&mut self) {
        for upload in self.uploads.values_mut() {
            upload.chunks.clear();
            upload.state = match upload.state {
                UploadState::Committed { .. } => UploadState::Dropped,
                _ => UploadState::Expired,
            };
        }
    }

    pub(crate) fn states(&self) -> Vec<UploadState> {
        self.uploads.values().map(|upload| upload.state).collect()
    }

    /// Flips a bit in the first chunk of every upload.
    pub(crate) fn damage(&mut self) {
        for upload in self.uploads.values_mut() {
            if let Some(mut chunk) = upload.chunks.first_entry() {
                let mut bytes = chunk.get().to_vec();
                bytes[0] ^= 1;
                *chunk.get_mut() = bytes.into();
            }
        }
    }

    pub(super) fn read_chunk(&self, node: u64, body: &[u8]) -> Answer {
        let read = ReadChunk::parse(body).unwrap();
        let meta = ReplyMeta::default();
        let upload = self.uploads.get(&read.chunk.upload);
        let chunk =
            upload.and_then(|upload| upload.chunks.get(&(read.chunk.part, read.chunk.chunk)));
        match chunk {
            Some(bytes) if !self.lagging.contains(&node) => Answer::Value {
                meta,
                version: 0,
                value: bytes.slice(read.start as usize..bytes.len().min(read.end as usize)),
            },
            _ => Answer::NotFound { meta },
        }
    }

    pub(super) fn serve(
        &mut self,
        kind: Kind,
        shard: u32,
        frame: &Frame,
        place: &mut Shard,
    ) -> Option<Answer> {
        let body = frame.body();
        let upload = match kind {
            Kind::UPLOAD_BEGIN => self.begin(shard, &BeginUpload::parse(body).unwrap()),
            Kind::UPLOAD_CHUNK => {
                place.index += 1;
                self.chunk(&ChunkCommand::parse(frame.payload()).unwrap())
            }
            Kind::UPLOAD_STATUS => {
                return Some(self.status(&UploadStatus::parse(body).unwrap()));
            }
            Kind::UPLOAD_COMMIT => self.commit(&CommitUpload::parse(body).unwrap(), place),
            Kind::UPLOAD_ABORT => {
                let id = AbortUpload::parse(body).unwrap().upload;
                self.end(id, UploadState::Aborted)
            }
            Kind::UPLOAD_LIST => return Some(self.list(shard, &ListUploads::parse(body).unwrap())),
            Kind::HOLD_VALUE => {
                self.holds += 1;
                self.state(HoldValue::parse(body).unwrap().upload)
            }
            _ => return None,
        };
        Some(self.reply(upload))
    }

    fn reply(&self, state: UploadState) -> Answer {
        Answer::Upload(UploadReply {
            meta: ReplyMeta { term: 1, index: 1 },
            state,
            chunk_bytes: self.chunk_bytes,
            ..UploadReply::default()
        })
    }

    fn state(&self, id: UploadId) -> UploadState {
        let upload = self.uploads.get(&id);
        upload.map_or(UploadState::Unknown, |upload| upload.state)
    }

    fn begin(&mut self, shard: u32, begin: &BeginUpload<'_>) -> UploadState {
        let upload = self.uploads.entry(begin.upload);
        let upload = upload.or_insert_with(|| MockUpload {
            shard,
            key: Bytes::copy_from_slice(begin.key),
            attributes: begin.attributes.to_vec(),
            chunks: BTreeMap::new(),
            state: UploadState::Open,
        });
        match upload.key == begin.key {
            true => upload.state,
            false => UploadState::Refused(UploadRefusal::OtherKey),
        }
    }

    fn chunk(&mut self, command: &ChunkCommand) -> UploadState {
        assert!(command.is_sound());
        let place = (command.chunk.part, command.chunk.chunk);
        self.chunks_sent
            .push((place.0, place.1, command.value.len()));
        let Some(upload) = self.uploads.get_mut(&command.chunk.upload) else {
            return UploadState::Unknown;
        };
        if upload.state == UploadState::Open {
            let own = upload.chunks.entry(place).or_insert(command.value.clone());
            if *own != command.value {
                return UploadState::Refused(UploadRefusal::ChunkDiffers);
            }
        }
        upload.state
    }

    fn status(&self, status: &UploadStatus) -> Answer {
        let mut reply = UploadReply {
            state: self.state(status.upload),
            chunk_bytes: self.chunk_bytes,
            ..UploadReply::default()
        };
        if let Some(upload) = self.uploads.get(&status.upload) {
            let after = |place: &(u32, u32)| status.after.is_none_or(|after| *place > after);
            let mut chunks = upload.chunks.iter().filter(|(place, _)| after(place));
            let count = self.page.min(status.chunks_max as usize);
            let staged = chunks
                .by_ref()
                .take(count)
                .map(|(place, bytes)| StagedChunk {
                    part: place.0,
                    chunk: place.1,
                    len: bytes.len() as u32,
                    crc32c: crc32c::crc32c(bytes),
                });
            reply.chunks = staged.collect();
            reply.more = chunks.next().is_some();
        }
        Answer::Upload(reply)
    }

    fn commit(&mut self, commit: &CommitUpload, place: &mut Shard) -> UploadState {
        let Some(upload) = self.uploads.get_mut(&commit.upload) else {
            return UploadState::Unknown;
        };
        if upload.state != UploadState::Open {
            return upload.state;
        }
        let mut value = Vec::new();
        for part in &commit.parts {
            let chunks = upload.chunks.range((part.part, 0)..=(part.part, u32::MAX));
            let before = value.len();
            chunks.for_each(|(_, bytes)| value.extend_from_slice(bytes));
            if (value.len() - before) as u64 != part.len {
                let (part, chunk) = (part.part, 0);
                return UploadState::Refused(UploadRefusal::Incomplete { part, chunk });
            }
        }
        if crc32c::crc32c(&value) != commit.crc32c {
            return UploadState::Refused(UploadRefusal::ChecksumDiffers);
        }
        let current = place.data.get(&upload.key).map(|(version, _)| *version);
        let holds = match commit.condition {
            Condition::Any => true,
            Condition::Absent => current.is_none(),
            Condition::Version(version) => current == Some(version),
        };
        if !holds {
            upload.chunks.clear();
            upload.state = UploadState::Conflicted { current };
            return upload.state;
        }
        place.index += 1;
        let version = place.index;
        upload.state = UploadState::Committed { version };
        let large = LargeReply {
            meta: ReplyMeta {
                term: 1,
                index: version,
            },
            version,
            upload: commit.upload,
            len: value.len() as u64,
            chunk_bytes: self.chunk_bytes,
            crc32c: commit.crc32c,
            digest: commit.digest,
            committed_us: 1_000_000 + version,
            attributes: upload.attributes.clone(),
            parts: commit.parts.clone(),
        };
        self.live.insert(upload.key.clone(), large);
        place
            .data
            .insert(upload.key.clone(), (version, value.into()));
        UploadState::Committed { version }
    }

    fn end(&mut self, id: UploadId, state: UploadState) -> UploadState {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return UploadState::Unknown;
        };
        if upload.state == UploadState::Open {
            upload.state = state;
            upload.chunks.clear();
        }
        upload.state
    }

    fn list(&self, shard: u32, ask: &ListUploads) -> Answer {
        let open = self.uploads.iter().filter(|(id, upload)| {
            let is_open = upload.state == UploadState::Open;
            is_open && upload.shard == shard && **id > ask.after
        });
        let mut open = open.map(|(id, upload)| UploadSummary {
            upload: *id,
            key: upload.key.to_vec(),
            begun_us: 5_000_000,
            expires_us: 6_000_000,
            chunks: upload.chunks.len() as u32,
            bytes: upload.chunks.values().map(|bytes| bytes.len() as u64).sum(),
            state: upload.state,
        });
        let uploads = open.by_ref().take(self.page).collect();
        let more = open.next().is_some();
        Answer::Uploads(UploadsPage {
            meta: ReplyMeta::default(),
            uploads,
            more,
        })
    }
}
