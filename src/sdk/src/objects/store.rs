//! A store of the crate `object_store`. This file is compiled once for each version of that crate: `super` says which one,
//! and makes what differs between them.

use super::api::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use super::api::multipart::PartId;
use super::api::path::Path;
use super::api::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartId, MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result, UploadPart, coalesce_ranges,
};
use super::convert::{
    attributes_of, condition_of, conflict_of, directory, error_of, generic, meta_at, meta_of,
    pairs_of, within, without_tags,
};
use super::{get_result, list_result, put_result};
use crate::client::Client;
use crate::download::{Download, DownloadOptions, WantedBytes};
use crate::head::EntryHead;
use crate::limits::{
    DOWNLOAD_AHEAD, LARGE_READS_MAX, LISTED_DEFAULT, OBJECT_DELETES_MAX, SKIPPED_BEFORE_JUMP,
};
use crate::objects::{After, etag_of, group_of, id_of, part_of};
use crate::scan::Scan;
use crate::upload::Upload;
use crate::upload::builder::UploadBuilder;
use crate::upload::multipart::Multipart;
use crate::upload::token::UploadToken;
use bytes::Bytes;
use corelith_wire::request::Condition;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::fmt;
use std::future::ready;
use std::ops::Range;

/// A cluster as an [`ObjectStore`]. Cheap to clone. See the [module](super) for how objects and keys correspond.
#[derive(Clone, Debug)]
pub struct CorelithStore {
    client: Client,
}

impl fmt::Display for CorelithStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Corelith({})", self.client.cluster_id())
    }
}

impl CorelithStore {
    /// All keys of the cluster of `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An upload to `location`.
    fn upload(
        &self,
        location: &Path,
        condition: Condition,
        attributes: &Attributes,
    ) -> Result<UploadBuilder> {
        let pairs = pairs_of(attributes)?;
        let upload = self.client.upload(location.as_ref());
        Ok(upload.condition(condition).attributes(pairs))
    }

    /// What is stored at `location`.
    async fn head_of(&self, location: &Path) -> Result<EntryHead> {
        let head = self.client.head(location.as_ref()).await;
        head.map_err(|error| error_of(location, error))
    }

    /// A value to read, of which these bytes are wanted.
    async fn open(&self, location: &Path, range: Option<&GetRange>) -> Result<Download> {
        let get = self.client.get(location.as_ref());
        let get = match range {
            None => get,
            Some(GetRange::Bounded(range)) => get.range(range.clone()),
            Some(GetRange::Offset(from)) => get.range(*from..),
            Some(GetRange::Suffix(bytes)) => get.last(*bytes),
        };
        let download = get.stream().await;
        let download = download.map_err(|error| error_of(location, error))?;
        download.ok_or_else(|| error_of(location, crate::Error::NotFound))
    }

    /// Copies a value to `to`; returns the version that was copied. At most the chunks in flight are in memory.
    async fn copy_value(&self, from: &Path, to: &Path, condition: Condition) -> Result<u64> {
        let mut download = self.open(from, None).await?;
        let of_to = |error| conflict_of(to, condition, error);
        if condition == Condition::Absent && self.exists(to).await? {
            // The commit would say so as well, after all bytes were sent.
            return Err(of_to(crate::Error::Conflict { current: None }));
        }
        let head = download.head().clone();
        let description = head.description();
        let pairs = description.map_or_else(Vec::new, |found| found.attributes.clone());
        let upload = self.client.upload(to.as_ref()).length(head.value_len);
        let upload = upload.condition(condition).attributes(pairs);
        let mut upload = upload.start().await.map_err(of_to)?;
        upload.aborts_when_dropped();
        let next = async |download: &mut Download| download.try_next().await;
        while let Some(bytes) = next(&mut download)
            .await
            .map_err(|error| error_of(from, error))?
        {
            upload.write(bytes).await.map_err(of_to)?;
        }
        upload.commit().await.map_err(of_to)?;
        Ok(head.version)
    }

    async fn exists(&self, location: &Path) -> Result<bool> {
        match self.head_of(location).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ranges of one version of a value; `None` if it was overwritten meanwhile and its bytes are gone.
    async fn ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        let download = self.open(location, None).await?;
        let head = download.head().clone();
        for range in ranges {
            within(Some(&GetRange::Bounded(range.clone())), head.value_len)?;
        }
        let whole = match head.description() {
            // It came as a whole, and the download of it holds nothing.
            None => Some(
                download
                    .collect()
                    .await
                    .map_err(|error| error_of(location, error))?,
            ),
            Some(_) => None,
        };
        let fetch = |range: Range<u64>| {
            let (client, head, whole) = (&self.client, head.clone(), whole.clone());
            async move {
                let wanted = WantedBytes::Range(range.start, range.end);
                let range = wanted.within(head.value_len);
                if let Some(whole) = whole {
                    // What came as a whole has a few MiB.
                    return Ok(whole.slice(range.start as usize..range.end as usize));
                }
                let options = DownloadOptions {
                    wanted,
                    ahead: DOWNLOAD_AHEAD,
                    from: None,
                    deadline: None,
                };
                Download::of_chunks(client, head, &options)?.collect().await
            }
        };
        let fetched = coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await;
        match fetched {
            Ok(bytes) => Ok(Some(bytes)),
            Err(crate::Error::ValueGone) => Ok(None),
            Err(error) => Err(error_of(location, error)),
        }
    }

    /// The objects whose keys begin with `prefix`.
    fn objects(&self, scan: Scan<EntryHead>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = scan.map_err(|error| error_of(&Path::default(), error));
        found
            .try_filter_map(|head| ready(Ok(meta_of(&head))))
            .boxed()
    }

    /// A scan of what begins with `prefix` and may be behind `after`; `None` if nothing is.
    fn scan(&self, prefix: &str, after: Option<&After>) -> Option<Scan<EntryHead>> {
        let key_bytes_max = self.client.limits().key_bytes_max;
        let scan = self.client.scan(prefix).keys_only();
        match after {
            None => Some(scan),
            Some(after) => Some(scan.starting_at(after.start(key_bytes_max)?)),
        }
    }

    /// At most `count` objects and groups of objects behind `after`, and where to go on if there are more.
    async fn page(
        &self,
        prefix: &str,
        mut after: Option<After>,
        delimiter: Option<&str>,
        count: usize,
    ) -> Result<(ListResult, Option<After>)> {
        let (mut objects, mut groups) = (Vec::new(), Vec::new());
        let mut skipped = 0;
        let Some(mut scan) = self.scan(prefix, after.as_ref()) else {
            return Ok((list_result(groups, objects), None));
        };
        let failed = |error| error_of(&Path::default(), error);
        while let Some(head) = scan.try_next().await.map_err(failed)? {
            let Some(meta) = meta_of(&head) else { continue };
            let key = meta.location.as_ref();
            if after.as_ref().is_some_and(|after| !after.is_before(key)) {
                skipped += 1;
                if skipped == SKIPPED_BEFORE_JUMP {
                    // The group is large: what is left of it is not read.
                    match self.scan(prefix, after.as_ref()) {
                        Some(behind) => scan = behind,
                        None => break,
                    }
                }
                continue;
            }
            if objects.len() + groups.len() == count {
                return Ok((list_result(groups, objects), after));
            }
            skipped = 0;
            match delimiter.and_then(|delimiter| group_of(key, prefix, delimiter)) {
                Some(group) => {
                    groups.extend(Path::parse(group));
                    after = Some(After::Group(group.to_owned()));
                }
                None => {
                    after = Some(After::Key(key.to_owned()));
                    objects.push(meta);
                }
            }
        }
        Ok((list_result(groups, objects), None))
    }

    pub(super) async fn begin_parts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<MultipartId> {
        let upload = self.multipart(location, &options).await?;
        Ok(upload.token().to_string())
    }

    async fn multipart(&self, location: &Path, options: &PutMultipartOptions) -> Result<Multipart> {
        without_tags(&options.tags)?;
        let mode = options.extensions.get::<PutMode>();
        let condition = mode.map_or(Ok(Condition::Any), |mode| condition_of(location, mode))?;
        let upload = self.upload(location, condition, &options.attributes)?;
        let upload = upload.multipart().await;
        upload.map_err(|error| error_of(location, error))
    }

    /// The upload of an id, without asking the cluster.
    fn attach(&self, location: &Path, id: &MultipartId) -> Result<(Multipart, Condition)> {
        let token: UploadToken = id.parse().map_err(|error| error_of(location, error))?;
        let is_here = token.check(self.client.cluster_id(), location.as_ref().as_bytes());
        let upload = is_here.and_then(|()| Multipart::attach(&self.client, &token));
        let upload = upload.map_err(|error| error_of(location, error))?;
        Ok((upload, token.condition))
    }

    pub(super) async fn put_part_of(
        &self,
        location: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let (upload, _) = self.attach(location, id)?;
        let part = u32::try_from(part).map_err(|_| generic("a part above 2^32".into()))?;
        let uploaded = upload.put_part(part, Bytes::from(data)).await;
        let uploaded = uploaded.map_err(|error| error_of(location, error))?;
        let content_id = id_of(&uploaded);
        Ok(PartId { content_id })
    }

    pub(super) async fn complete_parts(
        &self,
        location: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let (upload, condition) = self.attach(location, id)?;
        let parts: Option<Vec<_>> = parts.iter().map(|part| part_of(&part.content_id)).collect();
        let parts = parts.ok_or_else(|| generic("the id of a part is none".into()))?;
        match upload.commit_uploaded(&parts).await {
            Ok(uploaded) => Ok(put_result(etag_of(uploaded.version))),
            Err(error) => Err(conflict_of(location, condition, error)),
        }
    }

    pub(super) async fn abort_parts(&self, location: &Path, id: &MultipartId) -> Result<()> {
        let (upload, _) = self.attach(location, id)?;
        let aborted = upload.abort().await;
        aborted.map_err(|error| error_of(location, error))
    }
}

#[async_trait::async_trait]
impl ObjectStore for CorelithStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        without_tags(&opts.tags)?;
        let condition = condition_of(location, &opts.mode)?;
        let upload = self.upload(location, condition, &opts.attributes)?;
        let upload = upload.length(payload.content_length() as u64);
        match put(upload, payload).await {
            Ok(version) => Ok(put_result(etag_of(version))),
            Err(error) => Err(conflict_of(location, condition, error)),
        }
    }

    /// A [`PutMode`] in the extensions of the options is the condition of the commit.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let parts = self.multipart(location, &opts).await?;
        Ok(Box::new(CorelithUpload {
            location: location.clone(),
            condition: parts.token().condition,
            parts,
            next: 0,
            is_committed: false,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(Error::NotSupported {
                source: "old versions of a value cannot be read".into(),
            });
        }
        if options.head {
            let head = self.head_of(location).await?;
            let meta = meta_at(location, &head);
            options.check_preconditions(&meta)?;
            let range = within(options.range.as_ref(), meta.size)?;
            let payload = GetResultPayload::Stream(stream::empty().boxed());
            return Ok(get_result(payload, meta, range, attributes_of(&head)));
        }
        let download = self.open(location, options.range.as_ref()).await?;
        let meta = meta_at(location, download.head());
        options.check_preconditions(&meta)?;
        let range = within(options.range.as_ref(), meta.size)?;
        assert_eq!(range, download.range(), "both are clipped alike");
        let attributes = attributes_of(download.head());
        let location = location.clone();
        let bytes = download.map_err(move |error| error_of(&location, error));
        let payload = GetResultPayload::Stream(bytes.boxed());
        Ok(get_result(payload, meta, range, attributes))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for _ in 0..LARGE_READS_MAX {
            if let Some(bytes) = self.ranges(location, ranges).await? {
                return Ok(bytes);
            }
        }
        Err(error_of(location, crate::Error::ValueGone))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let client = self.client.clone();
        let delete = move |location: Result<Path>| {
            let client = client.clone();
            async move {
                let location = location?;
                let deleted = client.delete(location.as_ref()).await;
                deleted.map_err(|error| error_of(&location, error))?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(OBJECT_DELETES_MAX).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.scan(&directory(prefix), None) {
            Some(scan) => self.objects(scan),
            None => stream::empty().boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let after = After::Key(offset.as_ref().to_owned());
        let Some(scan) = self.scan(&directory(prefix), Some(&after)) else {
            return stream::empty().boxed();
        };
        let is_behind = move |meta: &ObjectMeta| ready(after.is_before(meta.location.as_ref()));
        self.objects(scan).try_filter(is_behind).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = directory(prefix);
        let (found, _) = self.page(&prefix, None, Some("/"), usize::MAX).await?;
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let condition = match options.mode {
            CopyMode::Overwrite => Condition::Any,
            CopyMode::Create => Condition::Absent,
        };
        self.copy_value(from, to, condition).await.map(drop)
    }

    /// A copy and a deletion. What was put at `from` meanwhile stays, and the rename fails with `Precondition`.
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let condition = match options.target_mode {
            RenameTargetMode::Overwrite => Condition::Any,
            RenameTargetMode::Create => Condition::Absent,
        };
        if from == to {
            let head = self.head_of(from).await?;
            let current = Some(head.version);
            return match condition {
                Condition::Any => Ok(()),
                _ => Err(conflict_of(
                    to,
                    condition,
                    crate::Error::Conflict { current },
                )),
            };
        }
        let version = self.copy_value(from, to, condition).await?;
        let deleted = self.client.delete(from.as_ref()).if_version(version).await;
        match deleted {
            // Somebody else has deleted it.
            Ok(_) | Err(crate::Error::Conflict { current: None }) => Ok(()),
            Err(error) => Err(error_of(from, error)),
        }
    }
}

#[async_trait::async_trait]
impl PaginatedListStore for CorelithStore {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        opts: PaginatedListOptions,
    ) -> Result<PaginatedListResult> {
        let after = match (&opts.page_token, opts.offset) {
            (Some(token), _) => {
                let after = After::of_token(token);
                Some(after.ok_or_else(|| generic("the page token is none".into()))?)
            }
            (None, offset) => offset.map(After::Key),
        };
        let count = opts.max_keys.unwrap_or(LISTED_DEFAULT);
        if count == 0 {
            return Err(generic("a page of no keys".into()));
        }
        let (prefix, delimiter) = (prefix.unwrap_or_default(), opts.delimiter.as_deref());
        let (result, after) = self.page(prefix, after, delimiter, count).await?;
        Ok(PaginatedListResult {
            result,
            page_token: after.map(|after| after.token()),
        })
    }
}

/// An upload whose parts are numbered as they are given. Dropped before it is complete, it is aborted.
#[derive(Debug)]
struct CorelithUpload {
    location: Path,
    condition: Condition,
    parts: Multipart,
    next: u32,
    is_committed: bool,
}

#[async_trait::async_trait]
impl MultipartUpload for CorelithUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, parts, location) = (self.next, self.parts.clone(), self.location.clone());
        self.next = self.next.saturating_add(1);
        Box::pin(async move {
            let uploaded = parts.put_part(part, Bytes::from(data)).await;
            uploaded
                .map(drop)
                .map_err(|error| error_of(&location, error))
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts: Vec<u32> = (0..self.next).collect();
        match self.parts.commit(&parts).await {
            Ok(uploaded) => {
                self.is_committed = true;
                Ok(put_result(etag_of(uploaded.version)))
            }
            Err(error) => Err(conflict_of(&self.location, self.condition, error)),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        let aborted = self.parts.abort().await;
        aborted.map_err(|error| error_of(&self.location, error))
    }
}

impl Drop for CorelithUpload {
    fn drop(&mut self) {
        if !self.is_committed {
            self.parts.abort_later();
        }
    }
}

async fn put(upload: UploadBuilder, payload: PutPayload) -> crate::Result<u64> {
    let mut upload: Upload = upload.start().await?;
    upload.aborts_when_dropped();
    for bytes in &payload {
        upload.write(bytes).await?;
    }
    Ok(upload.commit().await?.version)
}
