//! Which bytes of a value `get --range` reads: `A..B`, `A..`, `..B`, or `-N` for the last N.

use corelith_client::Get;
use std::str::FromStr;

/// Which bytes of a value are read. They are clipped to its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first to the second, exclusive; without the second, to the end.
    Between(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

impl ByteRange {
    pub(super) fn of(self, get: Get) -> Get {
        match self {
            Self::Between(start, Some(end)) => get.range(start..end),
            Self::Between(start, None) => get.range(start..),
            Self::Last(count) => get.last(count),
        }
    }
}

impl FromStr for ByteRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "give the bytes as A..B (B is exclusive), A.., ..B, or -N for the last N";
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = is_number.then(|| text.parse::<u64>().ok()).flatten();
            number.ok_or(FORM)
        };
        if let Some(count) = text.strip_prefix('-') {
            return number(count).map(Self::Last);
        }
        match text.split_once("..").ok_or(FORM)? {
            ("", "") => Err(FORM),
            ("", end) => Ok(Self::Between(0, Some(number(end)?))),
            (start, "") => Ok(Self::Between(number(start)?, None)),
            (start, end) => match (number(start)?, number(end)?) {
                (start, end) if start > end => Err("the range must not end before it begins"),
                (start, end) => Ok(Self::Between(start, Some(end))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        use ByteRange::{Between, Last};
        let table = [
            ("1..3", Between(1, Some(3))),
            ("3..3", Between(3, Some(3))),
            ("5..", Between(5, None)),
            ("..5", Between(0, Some(5))),
            ("-5", Last(5)),
            ("0..4294967296", Between(0, Some(1 << 32))),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "..",
            "5",
            "-",
            "--5",
            "3..1",
            "+1..2",
            "a..b",
            "1..b",
            "1..2..3",
            "1...3",
            "-1..3",
            "0..99999999999999999999",
        ] {
            assert!(text.parse::<ByteRange>().is_err(), "{text}");
        }
    }
}
