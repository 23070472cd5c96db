//! Keys and values as text: with backslashes for people, with percent signs in file names and arguments,
//! in base64 in JSON if they are not UTF-8.

use std::ffi::OsStr;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `bytes` as text: unchanged if they are printable UTF-8 without a backslash, otherwise with `\xNN` for
/// each byte that is not printable ASCII, and backslashes doubled. The form is unambiguous.
pub(super) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() || c == '\\') => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The inverse of [`printable`]; `None` if the text holds an escape that [`printable`] does not write.
pub(super) fn from_printable(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'x' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            same @ (b'\\' | b'\'' | b'"') => *same,
            _ => return None,
        });
    }
    Some(bytes)
}

/// `bytes` as text, with %XX for each character that `keep` rejects, for percent signs and for bytes that
/// are not UTF-8.
pub(super) fn escape(bytes: &[u8], keep: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character != '%' && keep(character) {
                text.push(character);
            } else {
                let mut buffer = [0; 4];
                let encoded = character.encode_utf8(&mut buffer);
                encoded
                    .bytes()
                    .for_each(|byte| push_escaped(&mut text, byte));
            }
        }
        let invalid = chunk.invalid().iter();
        invalid.for_each(|byte| push_escaped(&mut text, *byte));
    }
    text
}

/// `1 entry`, `2 entries`.
pub(super) fn counted(count: impl Into<u64>, one: &str, many: &str) -> String {
    match count.into() {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// A key as an argument that no shell changes.
pub(super) fn argument(key: &[u8]) -> String {
    escape(key, |c| {
        c.is_ascii_alphanumeric() || "-_./:,@+=".contains(c)
    })
}

/// An argument as one word of a shell, for a command that is printed.
pub(super) fn shell_word(argument: &OsStr) -> String {
    let text = argument.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@+=%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A key as words of a shell, for a command that is printed.
pub(super) fn key_words(key: &[u8]) -> String {
    let text = printable(key);
    let word = shell_word(text.as_ref());
    match text.as_bytes() == key {
        true => word,
        false => format!("--escaped {word}"),
    }
}

fn push_escaped(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.extend(char::from_digit(digit.into(), 16).map(|c| c.to_ascii_uppercase()));
    }
}

/// The inverse of [`escape`]; `None` if a percent sign is not followed by two hexadecimal digits.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        rest = after;
        let mut byte = 0;
        for digit in digits {
            byte = byte << 4 | u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
        bytes.push(byte);
    }
    Some(bytes)
}

/// `bytes` in base64, with padding (RFC 4648).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let joined = group
            .iter()
            .fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let joined = joined << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = (joined >> (18 - 6 * place)) & 63;
            let character = BASE64
                .get(digit as usize)
                .map_or('=', |byte| char::from(*byte));
            text.push(if place <= group.len() { character } else { '=' });
        }
    }
    text
}

/// The inverse of [`base64`]; `None` if the text is not base64.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut joined = 0_u32;
        for digit in group {
            let value = BASE64.iter().position(|known| known == digit)?;
            joined = joined << 6 | u32::try_from(value).ok()?;
        }
        let joined = joined << (6 * (4 - group.len()));
        let [_, found @ ..] = joined.to_be_bytes();
        bytes.extend_from_slice(found.get(..(group.len() * 3) / 4)?);
    }
    Some(bytes)
}

/// `bytes` for JSON: as text if they are UTF-8, otherwise as base64.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<Vec<u8>> {
        let mut cases: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        cases.extend((0..=255).map(|byte| vec![b'a', byte, 0xc3]));
        cases.extend([
            vec![],
            b"a/b".to_vec(),
            "grün 100%".into(),
            (0..=255).collect(),
        ]);
        cases
    }

    #[test]
    fn escaped_bytes_come_back() {
        for bytes in cases() {
            assert_eq!(unescape(&escape(&bytes, |_| true)), Some(bytes.clone()));
            let text = printable(&bytes);
            assert_eq!(from_printable(text.as_bytes()), Some(bytes.clone()));
            let text = argument(&bytes);
            assert_eq!(unescape(&text), Some(bytes));
            assert!(
                !text.contains(|c: char| c.is_whitespace() || "\"'$&\\".contains(c)),
                "{text}"
            );
        }
        for text in [r"\", r"\x", r"\x4", r"\xg0", r"\q", r"a\"] {
            assert_eq!(from_printable(text.as_bytes()), None, "{text}");
        }
        for text in ["%", "%4", "%4g", "a%", "%+1"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }

    #[test]
    fn base64_is_the_standard_one() {
        // RFC 4648, section 10.
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        for bytes in cases() {
            assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }
        for text in ["Z", "Zg=", "Zg", "====", "Z===", "Zm9!"] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }
}
