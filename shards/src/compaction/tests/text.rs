//! Shapes and tasks as text, so that decisions read as tables.
//!
//! A case is a line that says what is asked, the shape, a line of dashes, and the answer; blank lines
//! are between cases, and lines that begin with `#` say what a case is about:
//!
//! ```text
//! # what the answer shows
//! pick leveled filling
//! L0: 9 0-900 45MiB
//! L6: 1 0-400 64MiB, 2 401-900 64MiB deletions=10
//! ----
//! merge L0[9] L6[1 2] -> L6.1 bottom
//! ```
//!
//! A line of the shape is a run, newest first: its tables with id, first and last key and length, which has
//! 4,096 entries for each MiB unless `entries` says otherwise. A run has the id of its first table.
//! `20..28` are runs of one table each, alike but for their ids.
//!
//! What is asked: `pick` or `debt`, the policy, and options. `filling`: all keys are known to be new;
//! `overwriting`: all of a set of 10,000 keys; neither: nothing is known.

use crate::compaction::{
    CompactionTask, LevelShape, PickerOptions, Policy, RunShape, Shape, TableShape, debt, pick,
    searches_due,
};
use crate::ids::{LogIndex, TableId};
use bytes::Bytes;
use std::fmt::Write;

const ENTRIES_PER_MIB: u64 = 4096;

/// A length with its unit.
fn length(text: &str) -> u64 {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
    for (unit, shift) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<u64>().expect("a number") << shift;
        }
    }
    panic!("a length has a unit: {text}");
}

fn key(text: &str) -> Bytes {
    let key: u32 = text.parse().expect("keys are numbers");
    Bytes::copy_from_slice(&key.to_be_bytes())
}

/// A table whose id is to come.
fn table(words: &[&str]) -> TableShape {
    let [span, bytes, rest @ ..] = words else {
        panic!("a table has a span and a length: {words:?}");
    };
    let (first, last) = span.split_once('-').expect("a span");
    let file_bytes = length(bytes);
    let mut table = TableShape {
        id: TableId(0),
        file_bytes,
        entries: (file_bytes * ENTRIES_PER_MIB) >> 20,
        deletions: 0,
        value_bytes: 0,
        first: key(first),
        last: key(last),
        highest: LogIndex(0),
        busy: false,
    };
    for word in rest {
        match word.split_once('=') {
            None if *word == "busy" => table.busy = true,
            Some(("entries", number)) => table.entries = number.parse().expect("a number"),
            Some(("deletions", number)) => table.deletions = number.parse().expect("a number"),
            Some(("values", bytes)) => table.value_bytes = length(bytes),
            _ => panic!("a table has no {word}"),
        }
    }
    table
}

fn with_id(table: TableShape, id: u64) -> TableShape {
    TableShape {
        id: TableId(id),
        // Newer tables have newer writes.
        highest: LogIndex(id),
        ..table
    }
}

/// The shape that a text tells.
pub(in crate::compaction) fn parse(text: &str) -> Shape {
    let mut levels = vec![LevelShape::default(); 7];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (level, run) = line.split_once(": ").expect("a level and a run");
        let level: usize = level[1..].parse().expect("the number of a level");
        let runs = &mut levels[level].runs;
        let mut tables = Vec::new();
        for words in run.split(", ") {
            let words: Vec<&str> = words.split_whitespace().collect();
            let (id, table) = (words[0], table(&words[1..]));
            match id.split_once("..") {
                Some((from, to)) => {
                    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
                    runs.extend((from..=to).map(|id| RunShape {
                        id,
                        tables: vec![with_id(table.clone(), id)],
                    }));
                }
                None => tables.push(with_id(table, id.parse().expect("an id"))),
            }
        }
        if let Some(first) = tables.first() {
            runs.push(RunShape {
                id: first.id.0,
                tables,
            });
        }
    }
    Shape {
        levels,
        claims: Vec::new(),
    }
}

/// What is to be done, as text.
fn render(task: &CompactionTask) -> String {
    let mut text = if task.moves { "move" } else { "merge" }.to_owned();
    for input in &task.inputs {
        let ids: Vec<String> = input.tables.iter().map(|id| id.0.to_string()).collect();
        write!(text, " L{}[{}]", input.level, ids.join(" ")).unwrap();
    }
    write!(text, " -> L{}", task.output.level).unwrap();
    if let Some(run) = task.output.run {
        write!(text, ".{run}").unwrap();
    }
    if task.bottom {
        text += " bottom";
    }
    for cut in &task.cuts {
        let cut = u32::from_be_bytes(cut[..].try_into().unwrap());
        write!(text, " cut={cut}").unwrap();
    }
    text
}

/// What is asked of a shape.
struct Question {
    what: String,
    policy: Policy,
    options: PickerOptions,
    /// How many tasks are started one after the other.
    tasks: usize,
}

fn question(line: &str) -> Question {
    let mut words = line.split_whitespace();
    let what = words.next().expect("a question").to_owned();
    let policy = words.next().and_then(|policy| policy.parse().ok());
    let mut options = PickerOptions::default();
    let mut tasks = 1;
    for word in words {
        match word.split_once('=') {
            None if word == "filling" => options.mix.merged(&[1000, 1000], 0),
            None if word == "overwriting" => options.mix.merged(&[1000, 10_000], 1000),
            None if word == "eager" => options.is_eager = true,
            Some(("searches", number)) => options.searches = number.parse().expect("a number"),
            Some(("pin", number)) => options.oldest_pin = LogIndex(number.parse().unwrap()),
            Some(("base", bytes)) => options.base_bytes = length(bytes),
            Some(("whole", bytes)) => options.whole_bytes_max = length(bytes),
            Some(("tasks", number)) => tasks = number.parse().expect("a number"),
            _ => panic!("there is no option {word}"),
        }
    }
    Question {
        what,
        policy: policy.expect("a policy"),
        options,
        tasks,
    }
}

fn answer(question: &Question, mut shape: Shape) -> String {
    let Question {
        what,
        policy,
        options,
        tasks,
    } = question;
    match what.as_str() {
        "pick" => {
            let mut lines = Vec::new();
            for _ in 0..*tasks {
                let Some(task) = pick(&shape, *policy, options) else {
                    lines.push("nothing".to_owned());
                    break;
                };
                lines.push(render(&task));
                shape.start(&task);
            }
            lines.join("\n")
        }
        "debt" => {
            let debt = debt(&shape, *policy, options);
            let mib = debt.bytes >> 20;
            format!("{mib}MiB runs={} score={:.2}", debt.runs, debt.score)
        }
        "searches" => match searches_due(&shape, *policy, options) {
            Some(due) => due.to_string(),
            None => "never".to_owned(),
        },
        other => panic!("nothing answers {other}"),
    }
}

/// Checks every case of `text`.
pub(super) fn check(text: &str) {
    let mut cases = 0;
    let mut wrong = String::new();
    for case in text.split("\n\n").filter(|case| !case.trim().is_empty()) {
        let is_said = |line: &&str| line.starts_with('#');
        let about: Vec<&str> = case.lines().filter(is_said).collect();
        let lines: Vec<&str> = case.lines().filter(|line| !is_said(line)).collect();
        let Some((asked, rest)) = lines.split_first() else {
            continue;
        };
        let at = rest.iter().position(|line| *line == "----");
        let at = at.unwrap_or_else(|| panic!("a case without an answer: {case}"));
        let is = answer(&question(asked), parse(&rest[..at].join("\n")));
        let expected = rest[at + 1..].join("\n");
        if is != expected.trim() {
            writeln!(
                wrong,
                "{}\n{asked}\n{is}\ninstead of\n{expected}\n",
                about.join("\n")
            )
            .unwrap();
        }
        cases += 1;
    }
    assert!(cases > 0, "there are cases");
    assert!(wrong.is_empty(), "{wrong}");
}
