//! Tests of names and of manifests that are torn, foreign or wrong.

use super::*;
use crate::cli::encoding::unescape;
use std::collections::BTreeSet;
use tempfile::TempDir;

#[test]
fn names_are_keys_where_they_can_be() {
    let long = "k".repeat(300);
    let deep = "d/".repeat(1500) + "d";
    // (key, names but for the last one)
    let table: &[(&[u8], &[&str])] = &[
        (b"plain", &["plain"]),
        (b"a/b", &["a/b", "a%2Fb"]),
        (
            "grün/blank key".as_bytes(),
            &["grün/blank key", "grün%2Fblank key"],
        ),
        (b"100%", &["100%25"]),
        (b"a.txt", &["a.txt", "a%2Etxt"]),
        (b"..", &["%2E%2E"]),
        (b"../up", &["%2E%2E/up", "%2E%2E%2Fup"]),
        (b"/a", &["%2Fa"]),
        (b"a/", &["a%2F"]),
        (b"a//b", &["a%2F%2Fb"]),
        (b"\xff\n", &["%FF%0A"]),
        (b".corelith-export", &["%2Ecorelith-export"]),
        (b"", &[]),
        (long.as_bytes(), &[]),
        (deep.as_bytes(), &[]),
    ];
    for (key, expected) in table {
        let names = file_names(key, 7);
        let (last, others) = names.split_last().unwrap();
        assert_eq!(others, *expected, "{key:?}");
        assert_eq!(last, "%key-7");
        assert!(names.iter().all(|name| stays_below(name)), "{names:?}");
    }
}

#[test]
fn no_two_keys_share_a_name() {
    let parts: [&[u8]; 10] = [
        b"", b".", b"..", b"/", b"%", b"%2F", b"2E", b"a", b"\xc3", b"\xbc",
    ];
    let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
    for a in parts {
        for b in parts {
            for c in parts {
                keys.insert([a, b, c].concat());
            }
        }
    }
    for (number, key) in (0..).zip(&keys) {
        let names = file_names(key, number);
        let (last, others) = names.split_last().unwrap();
        for name in others {
            assert_eq!(unescape(name).as_ref(), Some(key), "{name}");
        }
        assert_eq!(unescape(last), None, "{last} is no key's name");
    }
}

fn subject() -> Subject {
    Subject {
        cluster: 7,
        prefix: b"p/\xff".to_vec(),
    }
}

fn record(key: &[u8]) -> ExportRecord {
    ExportRecord {
        key: key.to_vec(),
        file: "f".to_owned(),
        version: 3,
        length: 5,
        crc32c: 0xe306_9283,
        sha256: false,
        attributes: Vec::new(),
    }
}

/// A directory with a manifest of these lines.
fn with_lines(lines: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), lines).unwrap();
    dir
}

fn text(dir: &Path) -> String {
    std::fs::read_to_string(dir.join(FILE_NAME)).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new");
    let mut writer = Writer::open(&out, &subject()).unwrap();
    writer.exported(record(b"p/\xffa")).unwrap();
    writer
        .failed(b"p/\xffb".to_vec(), &Failure::Argument("why"))
        .unwrap();
    writer.exported(record(b"p/\xffc")).unwrap();
    drop(writer);
    let (summary, is_same) = ManifestSummary::read_of(&out, Some(&subject()))
        .unwrap()
        .unwrap();
    assert!(is_same && !summary.is_ended);
    assert_eq!((summary.keys, summary.bytes, summary.lines), (2, 10, 3));
    assert_eq!(summary.failed, BTreeSet::from([b"p/\xffb".to_vec()]));
    assert_eq!(summary.last.as_deref(), Some(&b"p/\xffc"[..]));

    // A later run exports what failed.
    let mut writer = Writer::open(&out, &subject()).unwrap();
    writer.exported(record(b"p/\xffb")).unwrap();
    writer.end().unwrap();
    let found: Result<Vec<ExportRecord>, Failure> = records(&out).unwrap().collect();
    let keys: Vec<Vec<u8>> = found
        .unwrap()
        .into_iter()
        .map(|record| record.key)
        .collect();
    assert_eq!(keys, [b"p/\xffa", b"p/\xffc", b"p/\xffb"]);
    let (summary, _) = ManifestSummary::read(&out).unwrap().unwrap();
    assert!(summary.is_ended && summary.failed.is_empty());
    assert_eq!(summary.last.as_deref(), Some(&b"p/\xffc"[..]));
    let error = Writer::open(&out, &subject()).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("already holds a complete export"),
        "{error}"
    );
}

#[test]
fn a_torn_line_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &subject()).unwrap();
    writer.exported(record(b"a")).unwrap();
    let whole = text(dir.path());
    writer.exported(record(b"b")).unwrap();
    let both = text(dir.path());
    drop(writer);
    for len in 0..both.len() {
        std::fs::write(dir.path().join(FILE_NAME), &both[..len]).unwrap();
        let mut writer = Writer::open(dir.path(), &subject()).unwrap();
        let keys = writer.summary.keys;
        let expected = u64::from(len >= whole.len());
        assert_eq!(keys, expected, "{len}");
        if keys == 0 {
            writer.exported(record(b"a")).unwrap();
        }
        writer.exported(record(b"b")).unwrap();
        assert_eq!(text(dir.path()), both, "{len}");
    }
}

#[test]
fn wrong_manifests_are_named_by_their_line() {
    let head = r#"{"kind":"export","format":1,"cluster":"07","prefix":""}"#;
    // (line after the first one, what is said)
    let table = [
        ("nonsense", "line 2: not a line of a manifest"),
        (r#"{"kind":"other"}"#, "line 2: not a line of a manifest"),
        (
            r#"{"kind":"key","key":"a","file":"../a","version":1,"length":0,"crc32c":"00000000"}"#,
            "line 2: not a line of a manifest",
        ),
        (
            r#"{"kind":"key","key":"a","file":"/etc/passwd","version":1,"length":0,"crc32c":"0"}"#,
            "line 2: not a line of a manifest",
        ),
        (
            r#"{"kind":"key","key_base64":"?","file":"a","version":1,"length":0,"crc32c":"0"}"#,
            "line 2: not a line of a manifest",
        ),
        (head, "line 2: not a line of a manifest"),
    ];
    for (line, said) in table {
        let dir = with_lines(&format!("{head}\n{line}\n"));
        let error = ManifestSummary::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains(said), "{line}: {error}");
        assert_eq!(error.exit_code(), 2);
    }
    let newer = with_lines(
        &head
            .replace("\"format\":1", "\"format\":3")
            .replace('}', "}\n"),
    );
    let error = ManifestSummary::read(newer.path()).unwrap_err().to_string();
    assert!(error.contains("format 3"), "{error}");
    let long = with_lines(&"x".repeat(300 << 10));
    let error = ManifestSummary::read(long.path()).unwrap_err().to_string();
    assert!(error.contains("line 1: the line is too long"), "{error}");
}

#[test]
fn only_directories_of_the_same_export_are_written_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "").unwrap();
    let error = Writer::open(dir.path(), &subject())
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(error.exit_code(), 2);

    let other = Subject {
        cluster: 8,
        ..subject()
    };
    let dir = tempfile::tempdir().unwrap();
    drop(Writer::open(dir.path(), &other).unwrap());
    let error = Writer::open(dir.path(), &subject())
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("another cluster or prefix"),
        "{error}"
    );
}

#[test]
fn what_was_told_of_a_value_is_kept_and_format_1_is_read_and_continued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    std::fs::write(
        &path,
        concat!(
            r#"{"kind":"export","format":1,"cluster":"0000000000000007","prefix_base64":"cC//"}"#,
            "\n",
            r#"{"kind":"key","key":"a","file":"f","version":3,"length":5,"crc32c":"e3069283"}"#,
            "\n",
        ),
    )
    .unwrap();
    let mut writer = Writer::open(dir.path(), &subject()).unwrap();
    assert_eq!(writer.summary.keys, 1);
    let described = ExportRecord {
        length: 1 << 31,
        sha256: true,
        attributes: vec![("content-type".to_owned(), "text/plain".to_owned())],
        ..record(b"b")
    };
    writer.exported(described.clone()).unwrap();
    writer.end().unwrap();
    let found: Vec<_> = records(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(found, [record(b"a"), described]);
}
