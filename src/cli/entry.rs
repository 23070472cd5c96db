//! Keys and values in JSON: text, or base64 if they are not UTF-8.

use super::encoding::text_or_base64;
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
}
