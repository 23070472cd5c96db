//! From the terms of the crate `object_store` to those of the SDK, and back. Compiled once for each version of that crate.

use super::api::path::Path;
use super::api::{Attribute, Attributes, Error, GetRange, ObjectMeta, PutMode, Result, TagSet};
use crate::head::EntryHead;
use crate::objects::{METADATA, etag_of, modified_us, version_of};
use chrono::DateTime;
use corelith_wire::request::Condition;
use std::ops::Range;

/// The name of the store in errors.
const STORE: &str = "Corelith";

/// The keys of a listing's prefix begin with this.
pub(super) fn directory(prefix: Option<&Path>) -> String {
    match prefix.map(Path::as_ref) {
        None | Some("") => String::new(),
        Some(prefix) => format!("{prefix}/"),
    }
}

/// The object of a key; `None` if the key is no path.
pub(super) fn meta_of(head: &EntryHead) -> Option<ObjectMeta> {
    let key = str::from_utf8(&head.key).ok()?;
    let location = Path::parse(key).ok()?;
    let is_same = location.as_ref() == key && !key.is_empty();
    is_same.then(|| meta_at(&location, head))
}

pub(super) fn meta_at(location: &Path, head: &EntryHead) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: DateTime::from_timestamp_micros(modified_us(head)).unwrap_or_default(),
        size: head.value_len,
        e_tag: Some(etag_of(head.version)),
        version: None,
    }
}

/// The range of a value of `len` bytes that is read.
pub(super) fn within(range: Option<&GetRange>, len: u64) -> Result<Range<u64>> {
    match range.map(|range| range.as_range(len)) {
        None => Ok(0..len),
        Some(Ok(range)) => Ok(range),
        Some(Err(error)) => Err(generic(Box::new(error))),
    }
}

pub(super) fn condition_of(location: &Path, mode: &PutMode) -> Result<Condition> {
    match mode {
        PutMode::Overwrite => Ok(Condition::Any),
        PutMode::Create => Ok(Condition::Absent),
        PutMode::Update(seen) => {
            let etag = seen.e_tag.as_deref();
            let etag = etag.ok_or_else(|| generic("an update needs the ETag".into()))?;
            // No value has another ETag.
            let version = version_of(etag).ok_or_else(|| Error::Precondition {
                path: location.to_string(),
                source: format!("the ETag {etag} is not of this store").into(),
            })?;
            Ok(Condition::Version(version))
        }
    }
}

pub(super) fn without_tags(tags: &TagSet) -> Result<()> {
    match tags.encoded().is_empty() {
        true => Ok(()),
        false => Err(Error::NotSupported {
            source: "objects have no tags".into(),
        }),
    }
}

/// The attributes of an upload, in an order that does not depend on chance.
pub(super) fn pairs_of(attributes: &Attributes) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::with_capacity(attributes.len());
    for (attribute, value) in attributes {
        let name = match attribute {
            Attribute::Metadata(name) => format!("{METADATA}{name}"),
            known => match NAMES.iter().find(|(own, _)| own == known) {
                Some((_, name)) => (*name).to_owned(),
                None => {
                    return Err(Error::NotSupported {
                        source: format!("the attribute {known:?} is not known").into(),
                    });
                }
            },
        };
        pairs.push((name, value.to_string()));
    }
    pairs.sort_unstable();
    Ok(pairs)
}

pub(super) fn attributes_of(head: &EntryHead) -> Attributes {
    let pairs = head.description().map(|found| &found.attributes[..]);
    let pairs = pairs.unwrap_or_default().iter();
    let known = |name: &str| {
        let found = NAMES.iter().find(|(_, own)| *own == name);
        found.map(|(attribute, _)| attribute.clone())
    };
    let attributes = pairs.map(|(name, value)| {
        let attribute = known(name).unwrap_or_else(|| {
            let own = name.strip_prefix(METADATA).unwrap_or(name);
            Attribute::Metadata(own.to_owned().into())
        });
        (attribute, value.clone())
    });
    attributes.collect()
}

/// The attributes that have a meaning, and their names.
const NAMES: [(Attribute, &str); 6] = [
    (Attribute::ContentDisposition, "content-disposition"),
    (Attribute::ContentEncoding, "content-encoding"),
    (Attribute::ContentLanguage, "content-language"),
    (Attribute::ContentType, "content-type"),
    (Attribute::CacheControl, "cache-control"),
    (Attribute::StorageClass, "storage-class"),
];

pub(super) fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let store = STORE;
    Error::Generic { store, source }
}

/// The error of an operation on `location`.
pub(super) fn error_of(location: &Path, error: crate::Error) -> Error {
    let path = location.to_string();
    let source = Box::new(error);
    match *source {
        crate::Error::NotFound => Error::NotFound { path, source },
        crate::Error::Conflict { .. } => Error::Precondition { path, source },
        _ => generic(source),
    }
}

/// The error of a write with a condition.
pub(super) fn conflict_of(location: &Path, condition: Condition, error: crate::Error) -> Error {
    match (&error, condition) {
        (crate::Error::Conflict { .. }, Condition::Absent) => Error::AlreadyExists {
            path: location.to_string(),
            source: Box::new(error),
        },
        _ => error_of(location, error),
    }
}
