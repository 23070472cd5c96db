//! Keys and values in JSON: text, or base64 if they are not UTF-8.

use super::encoding::{printable, text_or_base64};
use super::time;
use corelith_client::{Description, Digest, DigestKind};
use serde::Serialize;

/// The fields of a key.
#[derive(Serialize)]
pub(super) struct KeyFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

impl<'a> KeyFields<'a> {
    pub(super) fn of(key: &'a [u8]) -> Self {
        let (key, key_base64) = text_or_base64(key);
        Self { key, key_base64 }
    }
}

/// The fields of a value.
#[derive(Serialize)]
pub(super) struct ValueFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> ValueFields<'a> {
    pub(super) fn of(value: &'a [u8]) -> Self {
        let (value, value_base64) = text_or_base64(value);
        Self {
            value,
            value_base64,
        }
    }
}

/// A line about a key and its value.
#[derive(Serialize)]
pub(super) struct EntryLine<'a> {
    pub(super) kind: &'static str,
    #[serde(flatten)]
    pub(super) key: KeyFields<'a>,
    pub(super) version: u64,
    pub(super) length: u64,
    /// `None` in a scan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<u32>,
    /// `None` if it was not asked for.
    #[serde(flatten)]
    pub(super) value: Option<ValueFields<'a>>,
    /// Whether it is an uploaded value.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) large: bool,
    #[serde(flatten)]
    pub(super) description: Option<DescriptionFields<'a>>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(what: &bool) -> bool {
    !what
}

/// The fields of what is known of an uploaded value.
#[derive(Serialize)]
pub(super) struct DescriptionFields<'a> {
    committed_at: String,
    crc32c: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    upload: String,
    attributes: Vec<AttributeField<'a>>,
}

#[derive(Serialize)]
struct AttributeField<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> DescriptionFields<'a> {
    pub(super) fn of(description: &'a Description) -> Self {
        let digest = |kind| digest_of(&description.digest, kind);
        let attributes = description.attributes.iter();
        Self {
            committed_at: time::text(description.committed_at()),
            crc32c: format!("{:08x}", description.crc32c),
            sha256: digest(DigestKind::Sha256),
            blake3: digest(DigestKind::Blake3),
            upload: description.upload.to_string(),
            attributes: attributes
                .map(|(name, value)| AttributeField { name, value })
                .collect(),
        }
    }

    /// As lines of text.
    pub(super) fn lines(&self) -> String {
        let Self {
            committed_at,
            crc32c,
            upload,
            ..
        } = self;
        let mut text = format!("committed {committed_at}\ncrc32c {crc32c}\n");
        for (name, digest) in [("sha256", &self.sha256), ("blake3", &self.blake3)] {
            if let Some(digest) = digest {
                text += &format!("{name} {digest}\n");
            }
        }
        text += &format!("upload {upload}\n");
        for AttributeField { name, value } in &self.attributes {
            let (name, value) = (printable(name.as_bytes()), printable(value.as_bytes()));
            text += &format!("attribute {name}={value}\n");
        }
        text
    }
}

/// A digest as text, if it is of this kind.
pub(super) fn digest_of(digest: &Digest, kind: DigestKind) -> Option<String> {
    let is_there = digest.kind == kind;
    is_there.then(|| {
        digest
            .bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}
