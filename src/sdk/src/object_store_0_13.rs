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

crate::objects::object_store_version! {
    results with {  }, parts with { }
}
