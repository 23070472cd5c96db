//! Keys and values as JSON has them: text, or base64 where they are no UTF-8.

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

/// A key with what is known of its value.
#[derive(Serialize)]
pub(super) struct EntryLine<'a> {
    pub(super) kind: &'static str,
    #[serde(flatten)]
    pub(super) key: KeyFields<'a>,
    pub(super) version: u64,
    pub(super) length: u64,
    /// A scan does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<u32>,
    /// If it was asked for.
    #[serde(flatten)]
    pub(super) value: Option<ValueFields<'a>>,
}
