use super::{LinesError, read, write};
use crate::{LogPoint, Observation, What, WriteCondition};

fn observation(ended: Option<u64>, what: What) -> Observation {
    Observation {
        client: 1,
        shard: 2,
        key: "k".to_owned(),
        began: 10,
        ended,
        node: 3,
        what,
    }
}

#[test]
fn a_history_comes_back_as_it_was_written() {
    let at = LogPoint { term: 4, index: 12 };
    let condition = WriteCondition::Version(7);
    let history = [
        observation(
            Some(25),
            What::Written {
                value: None,
                condition,
                at,
            },
        ),
        observation(
            Some(26),
            What::Read {
                found: Some((12, u64::MAX)),
                at: LogPoint::at(13),
            },
        ),
        observation(
            Some(27),
            What::Refused {
                condition: WriteCondition::Absent,
                current: 12,
                at: None,
            },
        ),
        observation(
            None,
            What::Unknown {
                value: Some(9),
                condition: WriteCondition::Any,
            },
        ),
    ];
    let mut file = Vec::new();
    write("a test", &history, &mut file).unwrap();
    let (origin, found) = read(file.as_slice()).unwrap();
    assert_eq!(
        (origin.as_str(), found.as_slice()),
        ("a test", &history[..])
    );
}

/// The lines that the documentation shows.
#[test]
fn the_schema_does_not_change() {
    let lines = include_str!("../lines.rs").lines();
    let shown: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("//! {\"client"))
        .collect();
    let file = shown.iter().map(|line| format!("{{\"client{line}\n"));
    let header = "{\"schema\":\"corelith-history\",\"version\":1,\"origin\":\"docs\"}\n".to_owned();
    let text: String = [header].into_iter().chain(file).collect();
    let (_, history) = read(text.as_bytes()).unwrap();
    assert_eq!(history.len(), 4);
    let mut again = Vec::new();
    write("docs", &history, &mut again).unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), text);
}

#[test]
fn what_is_no_history_is_refused() {
    let header = "{\"schema\":\"corelith-history\",\"version\":1,\"origin\":\"\"}\n";
    let newer = header.replace(":1", ":2");
    let bad_line = format!("{header}{{\"client\":1}}\n");
    assert!(matches!(read(&b""[..]), Err(LinesError::FirstLine)));
    assert!(matches!(read(newer.as_bytes()), Err(LinesError::FirstLine)));
    let found = read(bad_line.as_bytes());
    assert!(
        matches!(found, Err(LinesError::Line { line: 2, .. })),
        "{found:?}"
    );
}
