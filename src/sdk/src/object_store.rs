//! A cluster as an object store of the crate `object_store`, version 0.14: all that works on that trait works on Corelith.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use corelith_client::Client;
//! use corelith_client::object_store::CorelithStore;
//! use object_store_0_14::{ObjectStoreExt as _, path::Path};
//!
//! let store = CorelithStore::new(Client::connect(["127.0.0.1:7411"]).await?);
//! let path = Path::from("reports/today.txt");
//! store.put(&path, "all is well".into()).await?;
//! let found = store.get(&path).await?;
//! println!("{} bytes with ETag {:?}", found.meta.size, found.meta.e_tag);
//! # Ok(())
//! # }
//! ```
//!
//! **Paths and keys**: the key of an object is its path, byte for byte. Keys that are no path (not UTF-8, empty segments,
//! segments `.` and `..`, a `/` at either end) are left out of listings and cannot be named. `PrefixStore` of that
//! crate confines an application to the keys below a path.
//!
//! **Versions**: the ETag is the version in quotes, so that `PutMode::Update` and `if_match` decide as `if_version` does, and
//! `PutMode::Create` as `if_absent`. Both are decided as the value becomes visible, whatever its size. A multipart upload takes
//! a [`PutMode`](api::PutMode) in the extensions of its options. Old versions cannot be read; an object that is
//! overwritten or deleted stays readable to those who read it.
//!
//! **Times**: objects are uploads, whatever their length, and `last_modified` is the time of the commit by the clock of the
//! shard's leader, strictly rising within a shard, and so for each object. A value that was put otherwise, in one frame, has
//! no such time: its own is the beginning of 1970 plus its version in microseconds, which rises with every overwrite by
//! such a value.
//!
//! **Attributes** come back as they were given, 8 KiB in all. Those of `Metadata` have names that begin with `meta-` in the
//! rest of the SDK. Tags are refused.
//!
//! **Multipart**: parts have any length and come in any order; 10,000 at most. What was put as a part cannot be put again with
//! other content. A `MultipartId` is an upload token; both it and the ids of parts can be kept, and used in other
//! processes. An upload that is dropped before it is complete is aborted; one of `MultipartStore` expires after
//! 24 hours.
//!
//! **Listings** are in the order of keys. They are not of one moment. Copies are streamed through this process, a few MiB at
//! a time; a rename is a copy and a deletion.
//!
//! **Memory**: a `BufWriter` of that crate keeps 10 MiB and sends eight parts of as much at a time, unless
//! `with_max_concurrency` says otherwise; a `WriteMultipart` is bounded only by `wait_for_capacity`.

use object_store_0_14 as api;

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

crate::objects::object_store_version! {
    results with { extensions }, parts with {
            async fn create_multipart_opts(
                &self,
                path: &api::path::Path,
                opts: api::PutMultipartOptions,
            ) -> api::Result<api::MultipartId> {
                self.begin_parts(path, opts).await
            }
        }
}
