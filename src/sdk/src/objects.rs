//! What the stores of all versions of the crate `object_store` have in common.

use crate::head::EntryHead;
use crate::scan::successor;
use crate::upload::token::UploadedPart;

/// What differs between the versions of the crate `object_store` and can be written as one: results, which have `extensions`
/// from 0.14 on, and the trait for parts, which has a function more. `api` is the version.
macro_rules! object_store_version {
    (results with { $($extensions:ident)? }, parts with { $($more:tt)* }) => {
        fn put_result(e_tag: String) -> api::PutResult {
            api::PutResult {
                e_tag: Some(e_tag),
                version: None,
                $($extensions: Default::default(),)?
            }
        }

        fn get_result(
            payload: api::GetResultPayload,
            meta: api::ObjectMeta,
            range: std::ops::Range<u64>,
            attributes: api::Attributes,
        ) -> api::GetResult {
            api::GetResult {
                payload,
                meta,
                range,
                attributes,
                $($extensions: Default::default(),)?
            }
        }

        fn list_result(
            common_prefixes: Vec<api::path::Path>,
            objects: Vec<api::ObjectMeta>,
        ) -> api::ListResult {
            api::ListResult {
                common_prefixes,
                objects,
                $($extensions: Default::default(),)?
            }
        }

        #[async_trait::async_trait]
        impl api::multipart::MultipartStore for CorelithStore {
            async fn create_multipart(
                &self,
                path: &api::path::Path,
            ) -> api::Result<api::MultipartId> {
                let options = api::PutMultipartOptions::default();
                self.begin_parts(path, options).await
            }

            async fn put_part(
                &self,
                path: &api::path::Path,
                id: &api::MultipartId,
                part_idx: usize,
                data: api::PutPayload,
            ) -> api::Result<api::multipart::PartId> {
                self.put_part_of(path, id, part_idx, data).await
            }

            async fn complete_multipart(
                &self,
                path: &api::path::Path,
                id: &api::MultipartId,
                parts: Vec<api::multipart::PartId>,
            ) -> api::Result<api::PutResult> {
                self.complete_parts(path, id, parts).await
            }

            async fn abort_multipart(
                &self,
                path: &api::path::Path,
                id: &api::MultipartId,
            ) -> api::Result<()> {
                self.abort_parts(path, id).await
            }

            $($more)*
        }
    };
}

pub(crate) use object_store_version;

/// BegunUpload of the names of attributes that the application of a store made up.
pub(crate) const METADATA: &str = "meta-";

/// The ETag of a version.
pub(crate) fn etag_of(version: u64) -> String {
    format!("\"{version}\"")
}

/// The version of an ETag; `None` if it is none of ours.
pub(crate) fn version_of(etag: &str) -> Option<u64> {
    let digits = etag.strip_prefix('"')?.strip_suffix('"')?;
    let version = digits.parse().ok()?;
    // Versions have one form, without a sign or leading zeros.
    (etag_of(version) == etag).then_some(version)
}

/// When a value was last modified, in µs since 1970: when it was committed. Of a value that was put in one frame, and so has
/// no such time, it is the version, which rises with every overwrite as well.
pub(crate) fn modified_us(head: &EntryHead) -> i64 {
    let micros = head.committed_us.unwrap_or(head.version);
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// A part as the id of `MultipartStore` says it.
pub(crate) fn id_of(part: &UploadedPart) -> String {
    format!("{}-{}-{:08x}", part.part, part.len, part.crc32c)
}

/// The part of an id; `None` if it is none of ours.
pub(crate) fn part_of(id: &str) -> Option<UploadedPart> {
    let mut fields = id.split('-');
    let part = UploadedPart {
        part: fields.next()?.parse().ok()?,
        len: fields.next()?.parse().ok()?,
        crc32c: u32::from_str_radix(fields.next()?, 16).ok()?,
    };
    (id_of(&part) == id).then_some(part)
}

/// The beginning of a key that it has in common with others of a listing: up to the first `delimiter` behind the listing's
/// prefix, inclusive.
pub(crate) fn group_of<'k>(key: &'k str, prefix: &str, delimiter: &str) -> Option<&'k str> {
    let rest = key.strip_prefix(prefix)?;
    let at = rest.find(delimiter).filter(|_| !delimiter.is_empty())?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// Behind what a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// A key.
    Key(String),
    /// All keys that begin with this.
    Group(String),
}

impl After {
    /// As the token of a page.
    pub(crate) fn token(&self) -> String {
        match self {
            Self::Key(key) => format!("k{key}"),
            Self::Group(group) => format!("g{group}"),
        }
    }

    /// That of a token; `None` if it is none of ours.
    pub(crate) fn of_token(token: &str) -> Option<Self> {
        match token.split_at_checked(1)? {
            ("k", key) => Some(Self::Key(key.to_owned())),
            ("g", group) => Some(Self::Group(group.to_owned())),
            _ => None,
        }
    }

    /// Where a scan begins that finds all behind it, in keys of at most `key_bytes_max` bytes. It may find the key itself.
    /// `None` if nothing is behind it.
    pub(crate) fn start(&self, key_bytes_max: usize) -> Option<Vec<u8>> {
        let mut start = match self {
            Self::Key(key) => key.as_bytes().to_vec(),
            Self::Group(group) => {
                Some(successor(group.as_bytes()).to_vec()).filter(|s| !s.is_empty())?
            }
        };
        start.truncate(key_bytes_max);
        Some(start)
    }

    /// Whether `key` is behind it, of keys from its start on.
    pub(crate) fn is_before(&self, key: &str) -> bool {
        match self {
            Self::Key(last) => last.as_str() < key,
            Self::Group(group) => group.as_str() < key && !key.starts_with(group.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_versions_in_one_form() {
        assert_eq!(etag_of(17), "\"17\"");
        for version in [0, 17, u64::MAX] {
            assert_eq!(version_of(&etag_of(version)), Some(version));
        }
        for other in [
            "", "17", "\"17", "\"\"", "\"017\"", "\"+17\"", "W/\"17\"", "*", "\"",
        ] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }

    #[test]
    fn ids_of_parts_are_read_back() {
        let part = UploadedPart {
            part: 3,
            len: 1 << 31,
            crc32c: 0x0a,
        };
        assert_eq!(id_of(&part), "3-2147483648-0000000a");
        assert_eq!(part_of(&id_of(&part)), Some(part));
        for other in [
            "",
            "3",
            "3-4",
            "3-4-5",
            "3-4-0000000a-",
            "+3-4-0000000a",
            "3-4-0000000A",
        ] {
            assert_eq!(part_of(other), None, "{other}");
        }
    }

    #[test]
    fn times_of_values_without_one_rise_with_the_version() {
        let head =
            |version, committed_us| EntryHead::new("k".into(), version, 1).committed(committed_us);
        assert_eq!(modified_us(&head(7, None)), 7);
        assert_eq!(
            modified_us(&head(7, Some(1_800_000_000_000_000))),
            1_800_000_000_000_000
        );
        assert_eq!(modified_us(&head(u64::MAX, None)), i64::MAX);
    }

    #[test]
    fn keys_are_grouped_up_to_the_first_delimiter_behind_the_prefix() {
        for (key, prefix, delimiter, expected) in [
            ("a/b", "", "/", Some("a/")),
            ("a/b", "a/", "/", None),
            ("a/b/c", "a/", "/", Some("a/b/")),
            ("foo/baz/x", "fo", "/", Some("foo/")),
            ("a--b", "a", "--", Some("a--")),
            ("a", "", "/", None),
            ("a/b", "x", "/", None),
            ("a/b", "", "", None),
            ("ä/ö", "", "/", Some("ä/")),
        ] {
            assert_eq!(
                group_of(key, prefix, delimiter),
                expected,
                "{key} in {prefix}"
            );
        }
    }

    #[test]
    fn listings_go_on_behind_what_they_returned() {
        let (key, group) = (After::Key("a/b".into()), After::Group("a/".into()));
        for after in [&key, &group] {
            assert_eq!(After::of_token(&after.token()).as_ref(), Some(after));
        }
        assert_eq!((After::of_token(""), After::of_token("x/")), (None, None));
        assert_eq!(key.start(9).unwrap(), b"a/b");
        assert_eq!(key.start(2).unwrap(), b"a/");
        assert_eq!(group.start(9).unwrap(), b"a0");
        assert_eq!(After::Group(String::new()).start(9), None);
        for (after, name, expected) in [
            (&key, "a/b", false),
            (&key, "a/a", false),
            (&key, "a/b/", true),
            (&group, "a/b", false),
            (&group, "a0", true),
            (&group, "a", false),
        ] {
            assert_eq!(after.is_before(name), expected, "{after:?} {name}");
        }
    }
}
