//! The structure of the source: what docs/architecture.md says of crates and modules holds.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that reads files on an ordinary thread; a failure is its message"
)]

mod exam;
mod figures;
mod graph;
mod source;

use graph::circles;
use source::{Crate, ROOT_PACKAGE, crates, manifest_dependencies};

/// The crates of ours that each crate may depend on, and may depend on in its tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("corelith-wire", &[]),
    ("corelith-client", &["corelith-wire"]),
    ("corelith-io", &[]),
    ("corelith-shards", &["corelith-io", "corelith-wire"]),
    (
        "corelith-consensus",
        &["corelith-io", "corelith-shards", "corelith-wire"],
    ),
    (
        ROOT_PACKAGE,
        &[
            "corelith-client",
            "corelith-consensus",
            "corelith-io",
            "corelith-shards",
            "corelith-wire",
        ],
    ),
    // What abuses a node cannot be said through an SDK that behaves.
    ("corelith-bench", &["corelith-client", "corelith-wire"]),
    // For tests: nothing that ships depends on it.
    ("corelith-history", &[]),
];

/// Rooms that may import each other, by crate and the module that they are in: the types of io and the two
/// worlds behind them.
const CIRCLES_ALLOWED: &[(&str, &str, &[&str])] = &[
    (
        "corelith-io",
        "",
        &[
            "buf", "core", "file", "fs", "limits", "probe", "sim", "task", "time", "transfer",
            "uring", "world",
        ],
    ),
    // The simulated world is one machine room: its parts act on each other through it.
    (
        "corelith-io",
        "sim",
        &["disk", "events", "executor", "file", "net", "time", "world"],
    ),
    // openraft's type configuration names its parts, and they name it.
    (
        "corelith-consensus",
        "",
        &[
            "log_store",
            "membership",
            "proposal",
            "snapshot",
            "state_machine",
            "types",
        ],
    ),
];

/// Lines of a file, tests aside. Beyond, it holds two ideas.
const FILE_LINES_MAX: usize = 650;
/// Lines of a function, tests aside.
const FUNCTION_LINES_MAX: usize = 90;
/// Assertions in a hundred functions, tests aside. Raise it with what the tree has; it never goes down.
const ASSERTIONS_PER_HUNDRED_FUNCTIONS_MIN: usize = 15;
/// Names that types in several modules of the tree share. Lower it with what the tree has; it never goes up.
const SHARED_TYPE_NAMES_MAX: usize = 60;

#[test]
fn crates_depend_on_what_the_table_allows() {
    let found: Vec<String> = crates().iter().map(|of| of.name.clone()).collect();
    for (name, allowed) in ALLOWED {
        let dependencies = manifest_dependencies(name);
        let ours = dependencies
            .iter()
            .filter(|name| name.starts_with("corelith"));
        let stray: Vec<&String> = ours
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(stray.is_empty(), "{name} must not depend on {stray:?}");
        assert!(
            found.iter().any(|of| of == name),
            "{name} is not in the workspace"
        );
    }
    assert_eq!(
        found.len(),
        ALLOWED.len(),
        "a crate is missing in the table: {found:?}"
    );
}

#[test]
fn outside_crates_are_named_where_they_belong() {
    for of in crates() {
        for module in of.modules.values() {
            let file = module.file.display().to_string();
            let names = |name: &str| {
                module
                    .paths
                    .iter()
                    .any(|path| path.first().is_some_and(|first| first == name))
            };
            assert!(
                !names("glommio") || file.starts_with("io/src/uring"),
                "{file} names glommio"
            );
            assert!(
                !names("openraft") || of.name == "corelith-consensus",
                "{file} names openraft"
            );
            assert!(
                !names("corelith_client") || !file.starts_with("src/node/"),
                "{file}: a node does not use the SDK"
            );
            if of.name == "corelith-shards" {
                let stray = module.paths.iter().find(|path| {
                    path.first().is_some_and(|first| first == "corelith_wire")
                        && !matches!(path.get(1).map(String::as_str), Some("ids" | "id"))
                });
                assert!(
                    stray.is_none(),
                    "{file} takes more than ids from wire: {stray:?}"
                );
            }
        }
    }
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let mut found = Vec::new();
    for of in crates() {
        for circle in circles(&of) {
            let parent = circle.parent.join("::");
            let is_allowed = CIRCLES_ALLOWED.iter().any(|(name, at, rooms)| {
                *name == of.name
                    && *at == parent
                    && circle
                        .rooms
                        .iter()
                        .all(|room| rooms.contains(&room.as_str()))
            });
            if is_allowed {
                continue;
            }
            found.push(format!("{} {}", of.name, circle));
        }
    }
    assert!(
        found.is_empty(),
        "circles of modules:\n{}",
        found.join("\n")
    );
}

/// What happens may not depend on what time of day it is: only what is logged says it. Who tells people the time asks
/// `corelith_io::wall_clock`.
#[test]
fn nothing_reads_a_wall_clock() {
    for of in crates() {
        // A benchmark says when it was run.
        let modules = of.modules.values().filter(|_| of.name != "corelith-bench");
        let is_source = |module: &&source::Module| module.file.ends_with("io/src/uring/clock.rs");
        for module in modules.filter(|module| !is_source(module)) {
            // What talks to people may hand a time on that it was told; it reads no clock either.
            let hands_on = of.name == "corelith-client" || module.file.starts_with("./src/cli/");
            let is_wall = |path: &source::Names| {
                let reads = path.windows(2).any(|two| two == ["SystemTime", "now"]);
                let names = path
                    .iter()
                    .any(|name| ["SystemTime", "UNIX_EPOCH"].contains(&name.as_str()));
                reads || names && !hands_on || path.iter().any(|name| name == "CLOCK_REALTIME")
            };
            let named = module.paths.iter().find(|path| is_wall(path));
            assert!(named.is_none(), "{} names {named:?}", module.file.display());
        }
    }
}

#[test]
fn every_file_is_a_module() {
    let stray: Vec<String> = crates().iter().flat_map(Crate::files_outside).collect();
    assert!(stray.is_empty(), "no module includes {stray:?}");
}

#[test]
fn files_and_functions_are_of_a_size_to_read() {
    let figures = figures::measure(&crates());
    println!("{figures}");
    for (lines, what) in figures.longest_files.iter() {
        assert!(*lines <= FILE_LINES_MAX, "{what} has {lines} lines");
    }
    for (lines, what) in figures.longest_functions.iter() {
        assert!(*lines <= FUNCTION_LINES_MAX, "{what} has {lines} lines");
    }
}

#[test]
fn invariants_are_asserted_and_names_mean_one_thing() {
    let figures = figures::measure(&crates());
    let (assertions, functions) = (figures.assertions, figures.functions);
    assert!(
        100 * assertions >= ASSERTIONS_PER_HUNDRED_FUNCTIONS_MIN * functions,
        "{assertions} assertions in {functions} functions"
    );
    let names = figures.duplicate_names.len();
    assert!(names <= SHARED_TYPE_NAMES_MAX, "{names} names: {figures}");
}
