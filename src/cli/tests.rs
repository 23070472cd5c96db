//! Tests of the argument parser and of the pure parts of the commands.

use super::args::{Arguments, Command};
use super::export::relative_path;
use super::output::printable;
use clap::{CommandFactory, Parser};

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn arguments_that_must_be_refused() {
    let refused: &[&[&str]] = &[
        &["put", "k"],
        &["put", "k", "v", "--file", "f"],
        &["cas", "k", "v"],
        &["cas", "k", "v", "--absent", "--version", "3"],
        &["get"],
        &["node"],
        &["check"],
        &["gc"],
        &["gc", "plan"],
        &["dev", "--nodes", "0"],
        &["get", "k", "--timeout", "0"],
        &["get", "k", "--timeout", "soon"],
    ];
    for arguments in refused {
        let all = std::iter::once(&"corelith").chain(arguments.iter());
        assert!(Arguments::try_parse_from(all).is_err(), "{arguments:?}");
    }
}

#[test]
fn seeds_are_split_and_trimmed() {
    let arguments =
        Arguments::try_parse_from(["corelith", "get", "k", "--connect", "a:1, b:2"]).unwrap();
    assert_eq!(arguments.connection.seeds(), ["a:1", "b:2"]);
    assert!(matches!(arguments.command, Command::Client(_)));
}

#[test]
fn keys_print_unambiguously() {
    let cases: &[(&[u8], &str)] = &[
        (b"plain/key", "plain/key"),
        ("grün".as_bytes(), "grün"),
        (b"tab\there", "tab\\there"),
        (b"back\\slash", "back\\\\slash"),
        (b"\xff\x00", "\\xff\\x00"),
    ];
    for (key, expected) in cases {
        assert_eq!(printable(key), *expected);
    }
}

#[test]
fn only_keys_that_stay_below_the_directory_become_files() {
    for key in ["a", "a/b", "a b/.hidden", "..a/b.."] {
        assert!(relative_path(key.as_bytes()).is_some(), "{key}");
    }
    for key in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\0b"] {
        assert!(relative_path(key.as_bytes()).is_none(), "{key}");
    }
}
