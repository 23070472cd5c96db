//! docs/exam.md has a row for each scenario, and names tests that exist.

use std::path::Path;

const SCENARIOS: usize = 54;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Whether `name` is a test in the text of a file.
fn has_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else {
        return false;
    };
    let before: Vec<&str> = text[..at].lines().rev().take(8).collect();
    let is_test = |line: &&str| line.contains("test]") || line.contains("test(");
    before.iter().any(is_test)
}

#[test]
fn the_exam_names_tests_that_exist() {
    let exam = read("docs/exam.md").unwrap();
    let mut missing = Vec::new();
    let mut found = 0;
    for (_, quoted) in exam.split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
        let (file, test) = match quoted.split_once("::") {
            Some((file, test)) => (file, Some(test)),
            None => (quoted, None),
        };
        if !file.ends_with(".rs") || file.contains(char::is_whitespace) {
            continue;
        }
        found += 1;
        let exists = read(file).is_some_and(|text| test.is_none_or(|test| has_test(&text, test)));
        if !exists {
            missing.push(quoted);
        }
    }
    assert!(found > SCENARIOS, "only {found} are named");
    assert!(missing.is_empty(), "docs/exam.md names {missing:?}");
}

#[test]
fn the_exam_has_a_row_for_each_scenario() {
    let exam = read("docs/exam.md").unwrap();
    let rows = exam.lines().filter_map(|line| {
        let number = line.strip_prefix("| ")?.split(' ').next()?;
        let number = number.parse::<usize>().ok()?;
        let cells = line.split('|').count();
        assert_eq!(cells, 8, "{line}");
        Some(number)
    });
    let expected: Vec<usize> = (1..=SCENARIOS).collect();
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}
