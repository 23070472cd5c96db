//! Numbers with units, as the command lines of the harnesses take them.

use std::time::Duration;

/// A number of seconds, with or without an `s` after it.
///
/// # Errors
/// What was expected instead.
pub fn seconds(text: &str) -> Result<Duration, String> {
    text.trim_end_matches('s')
        .parse()
        .ok()
        .and_then(|value: f64| Duration::try_from_secs_f64(value).ok())
        .ok_or_else(|| "expected a number of seconds".to_owned())
}

/// A rate of at least one per second.
///
/// # Errors
/// What was expected instead.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 1.0 => Ok(value),
        _ => Err("expected at least one operation a second".to_owned()),
    }
}

/// A number of bytes, with K, M or G for KiB, MiB and GiB.
///
/// # Errors
/// What was expected instead.
pub fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.trim_end_matches(['K', 'k']), 1 << 10),
        Some(b'M' | b'm') => (text.trim_end_matches(['M', 'm']), 1 << 20),
        Some(b'G' | b'g') => (text.trim_end_matches(['G', 'g']), 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "expected a number of bytes such as 256, 4K or 1M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("256", 256),
            ("4K", 4096),
            ("8M", 8 << 20),
            ("2G", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1T", "99999999999999999999M"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
