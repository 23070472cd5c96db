//! Tests of the argument parser and of the pure parts of the commands.

use super::args::{Arguments, Command, EXIT_CODES};
use super::encoding::printable;
use super::failure::{Failure, code};
use clap::CommandFactory;
use corelith_client::{Cause, Error, UploadRefusal, UploadState};
use std::path::Path;
use std::time::Duration;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

/// Every command without subcommands, with its full name.
fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
    for part in command
        .get_subcommands()
        .filter(|part| part.get_name() != "help")
    {
        let words = format!("{words} {}", part.get_name());
        match part.has_subcommands() {
            true => leaves(part, &words, found),
            false => found.push((words, part.clone())),
        }
    }
}

#[test]
fn usage_lines_name_arguments_in_the_order_in_which_they_are_read() {
    let mut root = Arguments::command();
    root.build();
    let mut found = Vec::new();
    leaves(&root, "corelith", &mut found);
    for (words, mut command) in found {
        let usage = command.render_usage().to_string();
        let (_, usage) = usage.split_once("Usage: ").unwrap();
        let mut rest = usage
            .strip_prefix(&words)
            .unwrap_or_else(|| panic!("{usage}: begins with {words}"));
        for positional in command.get_positionals() {
            let name = &positional.get_value_names().unwrap()[0];
            let after = ["<", "["].iter().find_map(|bracket| {
                let (_, after) = rest.split_once(&format!("{bracket}{name}"))?;
                after.starts_with(['>', ']', '|']).then_some(after)
            });
            rest = after.unwrap_or_else(|| panic!("{usage}: {name} is missing or out of order"));
        }
    }
}

#[test]
fn arguments_that_must_be_refused() {
    let refused: &[&[&str]] = &[
        &["put", "k"],
        &["put", "k", "v", "--file", "f"],
        &["put", "k", "v", "--if-absent", "--if-version", "3"],
        &["put", "k", "v", "--attribute", "=v"],
        &["put", "k", "v", "--concurrency", "65"],
        &["get", "k", "--range", "5"],
        &["get", "k", "--range", "1..2", "--meta"],
        &["get", "k", "--range", "1..2", "--json"],
        &["upload"],
        &["upload", "abort", "k"],
        &["upload", "resume"],
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
        &["node", "--config", "f", "--connect", "a:1"],
        &["--connect", "a:1", "node", "--config", "f"],
        &["--timeout", "1", "dev"],
        &["check", "d", "--timeout", "1"],
        &["scan", "p", "--start", "a"],
        &["scan", "--limit", "0"],
        &["get", "k", "--meta", "--output", "f"],
        &["import", "d", "--after", "%zz"],
        &["cluster"],
        &["cluster", "drain"],
        &["cluster", "drain", "0"],
        &["cluster", "drain", "2", "--wait", "--dry-run"],
        &["cluster", "replace", "2"],
        &["cluster", "set", "replicas"],
        &["cluster", "recover", "--lost", "2"],
        &["cluster", "recover", "--unsafe"],
        &["shard", "move", "1", "--to", "2"],
        &["shard", "lead", "1"],
    ];
    for arguments in refused {
        let read = Arguments::read(arguments.iter().copied());
        assert!(read.is_err(), "{arguments:?}");
    }
}

#[test]
fn the_cluster_is_named_before_or_after_the_command() {
    for arguments in [
        ["put", "k", "v", "--connect", "a:1, b:2", "--timeout", "0.3"],
        ["--connect", "a:1, b:2", "--timeout", "0.3", "put", "k", "v"],
    ] {
        let Command::Client(mut command) = Arguments::read(arguments).unwrap().command else {
            panic!("{arguments:?}");
        };
        let connection = command.connection();
        assert_eq!(connection.seeds, ["a:1", "b:2"]);
        assert_eq!(connection.timeout, Duration::from_millis(300));
    }
    let both = ["--connect", "a:1", "get", "k", "--connect", "b:2"];
    let Command::Client(mut command) = Arguments::read(both).unwrap().command else {
        panic!("{both:?}");
    };
    assert_eq!(command.connection().seeds, ["b:2"]);
}

#[test]
fn options_appear_where_they_mean_something() {
    let mut root = Arguments::hidden_before(Arguments::command());
    root.build();
    assert!(!root.render_help().to_string().contains("--connect <"));
    let mut found = Vec::new();
    leaves(&root, "corelith", &mut found);
    let clients = [
        "put", "get", "delete", "scan", "cas", "status", "import", "export", "upload", "cluster",
        "shard",
    ];
    for (words, mut command) in found {
        let help = command.render_help().to_string();
        let family = words.split(' ').nth(1).unwrap();
        let is_client = clients.contains(&family);
        for option in ["--connect", "--timeout"] {
            assert_eq!(help.contains(option), is_client, "{words} {option}");
        }
        assert!(help.contains("--log"), "{words}");
    }
}

#[test]
fn every_exit_code_has_its_failures() {
    let failure = |error: Error| Failure::on_key(b"k", error);
    let cause = || Cause::Timeout;
    let local = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let table: &[(Failure, u8)] = &[
        (failure(Error::NotFound), code::ABSENT),
        (failure(Error::Conflict { current: None }), code::ABSENT),
        (failure(Error::Conflict { current: Some(7) }), code::ABSENT),
        (failure(Error::Invalid { what: "seeds" }), code::WRONG_INPUT),
        (Failure::Argument("wrong"), code::WRONG_INPUT),
        (
            Failure::unusable("/d".as_ref(), "is not empty"),
            code::WRONG_INPUT,
        ),
        (
            failure(Error::Unavailable { cause: cause() }),
            code::UNREACHABLE,
        ),
        (failure(Error::ScanExpired), code::UNREACHABLE),
        (
            failure(Error::Indeterminate { cause: cause() }),
            code::UNKNOWN,
        ),
        (Failure::file("write", "/f".as_ref(), local), code::LOCAL),
        (failure(Error::Corrupt), code::DAMAGED),
        (Failure::Damaged { problems: 1 }, code::DAMAGED),
        (failure(Error::DiskFull), code::FULL),
        (failure(Error::ShardFull), code::FULL),
        (
            failure(Error::UploadEnded {
                how: UploadState::Expired,
            }),
            code::WRONG_INPUT,
        ),
        (failure(Error::ContentDiffers), code::WRONG_INPUT),
        (
            failure(Error::UploadRefused {
                why: UploadRefusal::TooMany { limit: 3 },
            }),
            code::FULL,
        ),
        (
            failure(Error::File {
                what: "write",
                path: Path::new("/f").into(),
                kind: std::io::ErrorKind::PermissionDenied,
            }),
            code::LOCAL,
        ),
        (Failure::Interrupted, code::INTERRUPTED),
    ];
    for (failure, code) in table {
        assert_eq!(failure.exit_code(), *code, "{failure}");
    }
    let operations = include_str!("../../docs/operations.md");
    for code in 0..=7 {
        assert!(EXIT_CODES.contains(&format!("\n  {code:<3}  ")), "{code}");
        assert!(operations.contains(&format!("\n| {code} |")), "{code}");
        let is_tested = table.iter().any(|(_, known)| *known == code);
        assert!(is_tested || code == 0, "{code}");
    }
    assert!(EXIT_CODES.contains("\n  130  ") && operations.contains("\n| 130 |"));
}

#[test]
fn who_names_a_cluster_is_not_told_how_to_start_one() {
    for (named, is_told) in [(&["--connect", "a:1"][..], false), (&[], true)] {
        let arguments = [&["get", "k"], named].concat();
        let Command::Client(mut command) = Arguments::read(arguments).unwrap().command else {
            panic!("{named:?}");
        };
        let error = Error::NoSeed { tried: Vec::new() };
        let failure = Failure::connecting(error, &command.connection());
        assert_eq!(failure.exit_code(), code::UNREACHABLE);
        let text = failure.to_string();
        assert_eq!(text.contains("corelith dev"), is_told, "{text}");
    }
}

#[test]
fn one_of_a_thing_is_named_in_the_singular() {
    let texts = [1, 2].map(|problems| Failure::Damaged { problems }.to_string());
    assert_eq!(
        texts,
        ["1 problem found, see above", "2 problems found, see above"]
    );
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
fn words_of_a_printed_command_are_what_they_were() {
    use super::encoding::{key_words, shell_word};
    for (given, expected) in [
        ("a/b.c", "a/b.c"),
        ("two words", "'two words'"),
        ("it's", r"'it'\''s'"),
        ("$x", "'$x'"),
        ("", "''"),
    ] {
        assert_eq!(shell_word(given.as_ref()), expected);
    }
    assert_eq!(key_words(b"k"), "k");
    assert_eq!(key_words(b"a\\b"), r"--escaped 'a\\b'");
    assert_eq!(key_words(b"\xff"), r"--escaped '\xff'");
}

#[test]
fn who_reads_the_documents_learns_at_once_that_nobody_is_authenticated() {
    for text in [
        include_str!("../../README.md"),
        include_str!("../../docs/operations.md"),
        include_str!("../../tuning/README.md"),
    ] {
        let start: String = text.lines().take(20).collect();
        assert!(start.contains("no authentication"), "{start}");
    }
}

#[test]
fn a_shard_that_serves_nobody_is_named() {
    use super::unserved::{ShardLack, unserved};
    use corelith_client::ShardRole::{Candidate, Down, Follower, Leader, Learner};
    use corelith_client::{ClusterMap, MapShard, ShardRole, ShardStatus};
    let map = ClusterMap {
        shards: vec![MapShard {
            replicas: vec![1, 2, 3],
        }],
        ..ClusterMap::default()
    };
    // (replicas of a shard of three on nodes that answer, as role and term; what the shard lacks)
    type Replicas = &'static [(ShardRole, u64)];
    let table: &[(Replicas, Option<ShardLack>)] = &[
        (&[(Leader, 2), (Follower, 2), (Follower, 2)], None),
        (&[(Leader, 2), (Follower, 2)], None),
        (&[(Leader, 2), (Follower, 2), (Down, 0)], None),
        (&[(Leader, 2), (Leader, 3), (Follower, 3)], None),
        (
            &[(Leader, 2), (Follower, 3), (Candidate, 3)],
            Some(ShardLack::Leader),
        ),
        (
            &[(Follower, 2), (Follower, 2), (Follower, 2)],
            Some(ShardLack::Leader),
        ),
        (&[(Leader, 2)], Some(ShardLack::Majority)),
        (
            &[(Leader, 2), (Down, 2), (Down, 2)],
            Some(ShardLack::Majority),
        ),
        (&[(Follower, 2), (Learner, 2)], Some(ShardLack::Majority)),
        (&[(Leader, 2), (Follower, 2), (Learner, 1)], None),
        (&[], Some(ShardLack::Majority)),
    ];
    for (replicas, expected) in table {
        let told: Vec<ShardStatus> = replicas
            .iter()
            .map(|(role, term)| ShardStatus {
                role: *role,
                term: *term,
                ..ShardStatus::default()
            })
            .collect();
        let found = unserved(&map, told.iter());
        let expected: Vec<_> = expected.iter().map(|lack| (0, *lack)).collect();
        assert_eq!(found, expected, "{replicas:?}");
    }
}
