//! As [`object_store`](crate::object_store), which has the description, for version 0.13 of the crate. DataFusion and Delta
//! need it.

use object_store_0_13 as api;

#[path = "objects/convert.rs"]
#[cfg_attr(
    all(feature = "object-store", feature = "object-store-0-13"),
    expect(
        clippy::duplicate_mod,
        reason = "one source for all versions of the crate"
    )
)]
mod convert;
#[path = "objects/store.rs"]
#[cfg_attr(
    all(feature = "object-store", feature = "object-store-0-13"),
    expect(
        clippy::duplicate_mod,
        reason = "one source for all versions of the crate"
    )
)]
mod store;

pub use store::CorelithStore;

use api::multipart::{MultipartStore, PartId};
use api::path::Path;
use api::{
    Attributes, GetResult, GetResultPayload, ListResult, MultipartId, ObjectMeta,
    PutMultipartOptions, PutPayload, PutResult, Result,
};
use std::ops::Range;

fn put_result(e_tag: String) -> PutResult {
    PutResult {
        e_tag: Some(e_tag),
        version: None,
    }
}

fn get_result(
    payload: GetResultPayload,
    meta: ObjectMeta,
    range: Range<u64>,
    attributes: Attributes,
) -> GetResult {
    GetResult {
        payload,
        meta,
        range,
        attributes,
    }
}

fn list_result(common_prefixes: Vec<Path>, objects: Vec<ObjectMeta>) -> ListResult {
    ListResult {
        common_prefixes,
        objects,
    }
}

#[async_trait::async_trait]
impl MultipartStore for CorelithStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let options = PutMultipartOptions::default();
        self.begin_parts(path, options).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        self.put_part_of(path, id, part_idx, data).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.complete_parts(path, id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.abort_parts(path, id).await
    }
}
