//! The shape of a development cluster, which is fixed when its data is created. It is stored in
//! `dev.json`, beside the data of the nodes.

use crate::node::config::ConfigError;
use crate::node::data_dir::identity;
use crate::node::error::NodeError;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;

const FILE_NAME: &str = "dev.json";
const NEW_FILE_NAME: &str = "dev.json.new";

/// The shape of a development cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevShape {
    /// Number of nodes.
    pub nodes: u16,
    /// Number of shards.
    pub shards: u32,
    /// Cores of each node.
    pub cores: u16,
    /// First port; the nodes take one port per core from there on.
    pub port: u16,
}

impl Default for DevShape {
    fn default() -> Self {
        Self {
            nodes: 3,
            shards: 6,
            cores: 1,
            port: 7411,
        }
    }
}

/// The parts of a shape that the user gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedShape {
    /// Number of nodes.
    pub nodes: Option<u16>,
    /// Number of shards.
    pub shards: Option<u32>,
    /// Cores of each node.
    pub cores: Option<u16>,
    /// First port.
    pub port: Option<u16>,
}

/// The shape to start in `data`. If the data exists, its shape is `stored` and only the port may change.
pub(super) fn settle(
    data: &Path,
    wanted: WantedShape,
    stored: Option<DevShape>,
) -> Result<DevShape, ConfigError> {
    let known = stored.unwrap_or_default();
    let shape = DevShape {
        nodes: wanted.nodes.unwrap_or(known.nodes),
        shards: wanted.shards.unwrap_or(known.shards),
        cores: wanted.cores.unwrap_or(known.cores),
        port: wanted.port.unwrap_or(known.port),
    };
    let fixed = [
        ("--nodes", u32::from(shape.nodes), u32::from(known.nodes)),
        ("--shards", shape.shards, known.shards),
        ("--cores", u32::from(shape.cores), u32::from(known.cores)),
    ];
    let other = fixed.iter().find(|(_, wanted, known)| wanted != known);
    match other {
        Some((option, wanted, known)) if stored.is_some() => Err(ConfigError::Value {
            file: "the command line".to_owned(),
            key: (*option).to_owned(),
            problem: format!(
                "{wanted} is not allowed: the data in {} was created with {known}, which cannot change; \
                 leave {option} out, or choose another directory with --data",
                data.display()
            ),
        }),
        _ => Ok(shape),
    }
}

/// The shape of the data in `data`; `None` if there is none yet. Data that is older than `dev.json` has
/// its shape in the identity of its first node.
pub(super) fn load(data: &Path) -> Result<Option<DevShape>, NodeError> {
    if let Some(problem) = no_directory(data) {
        return Err(NodeError::Config(refused(data, problem)));
    }
    let path = data.join(FILE_NAME);
    let system = |source| NodeError::System {
        what: "read the shape of the development cluster",
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text).map(Some).map_err(NodeError::Config),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let path = data.join("node-1").join(identity::FILE_NAME);
            match std::fs::read(&path) {
                Ok(block) => {
                    let found = identity::decode(&path.display().to_string(), &block)?;
                    Ok(Some(DevShape {
                        nodes: found.nodes.len().try_into().unwrap_or(u16::MAX),
                        shards: found.shards,
                        cores: found.cores,
                        port: DevShape::default().port,
                    }))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match foreign(data).map_err(system)? {
                        Some(found) => Err(NodeError::Config(is_foreign(data, &found))),
                        None => Ok(None),
                    }
                }
                Err(error) => Err(system(error)),
            }
        }
        Err(error) => Err(system(error)),
    }
}

/// The name of an entry in `data` that an interrupted first start cannot have left there.
fn foreign(data: &Path) -> std::io::Result<Option<String>> {
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != NEW_FILE_NAME && name != "lost+found" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn is_foreign(data: &Path, found: &str) -> ConfigError {
    let problem = format!(
        "it holds `{found}` but no `{FILE_NAME}`, so it is not a directory of `corelith dev`"
    );
    refused(data, &problem)
}

/// Why `data` neither is a directory nor can become one.
fn no_directory(data: &Path) -> Option<&'static str> {
    match std::fs::metadata(data) {
        Ok(found) if !found.is_dir() => Some("it is not a directory"),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Some("a part of its path is not a directory")
        }
        _ => None,
    }
}

fn refused(data: &Path, problem: &str) -> ConfigError {
    ConfigError::Value {
        file: "the command line".to_owned(),
        key: "--data".to_owned(),
        problem: format!(
            "{} is not allowed: {problem}; choose a new or empty directory",
            data.display()
        ),
    }
}

fn parse(path: &Path, text: &str) -> Result<DevShape, ConfigError> {
    let wrong = |key: &str, problem: String| ConfigError::Value {
        file: path.display().to_string(),
        key: key.to_owned(),
        problem,
    };
    let shape: DevShape = serde_json::from_str(text)
        .map_err(|error| wrong("the shape of the cluster", error.to_string()))?;
    let bounds = [
        ("nodes", u32::from(shape.nodes), 9),
        ("shards", shape.shards, 4096),
        ("cores", u32::from(shape.cores), 64),
        ("port", u32::from(shape.port), u32::from(u16::MAX)),
    ];
    for (key, value, max) in bounds {
        if !(1..=max).contains(&value) {
            return Err(wrong(key, format!("{value} is not allowed: 1 to {max}")));
        }
    }
    Ok(shape)
}

/// Stores the shape of the data in `data`.
pub(super) fn store(data: &Path, shape: DevShape) -> Result<(), NodeError> {
    let system = |source| NodeError::System {
        what: "write the shape of the development cluster",
        source,
    };
    let mut text = serde_json::to_string(&shape).map_err(|error| system(error.into()))?;
    text.push('\n');
    let new = data.join(NEW_FILE_NAME);
    std::fs::write(&new, text).map_err(system)?;
    std::fs::rename(&new, data.join(FILE_NAME)).map_err(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "/d";

    fn wanted(nodes: u16) -> WantedShape {
        WantedShape {
            nodes: Some(nodes),
            ..WantedShape::default()
        }
    }

    #[test]
    fn what_is_not_given_is_as_it_was() {
        let data = Path::new(DATA);
        let fresh = settle(data, WantedShape::default(), None).unwrap();
        assert_eq!(fresh, DevShape::default());
        let five = settle(data, wanted(5), None).unwrap();
        assert_eq!(five.nodes, 5);
        let again = settle(data, WantedShape::default(), Some(five)).unwrap();
        assert_eq!(again, five);
        let port = WantedShape {
            port: Some(9000),
            ..WantedShape::default()
        };
        let moved = settle(data, port, Some(five)).unwrap();
        assert_eq!(moved, DevShape { port: 9000, ..five });
    }

    #[test]
    fn what_is_fixed_is_refused() {
        let error = settle(Path::new(DATA), wanted(5), Some(DevShape::default())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the command line: --nodes: 5 is not allowed: the data in /d was created with 3, which \
             cannot change; leave --nodes out, or choose another directory with --data"
        );
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(&dir.path().join("absent")).unwrap(), None);
        std::fs::write(dir.path().join(NEW_FILE_NAME), "").unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("thesis.txt"), "").unwrap();
        let error = load(dir.path()).unwrap_err();
        assert!(error.is_misconfiguration(), "{error}");
        assert!(error.to_string().contains("`thesis.txt`"), "{error}");
    }

    #[test]
    fn a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (data, words) in [
            (file.clone(), "file is not allowed: it is not a directory"),
            (file.join("data"), "a part of its path is not a directory"),
        ] {
            let error = load(&data).unwrap_err();
            assert!(error.is_misconfiguration(), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_shape_that_was_edited_is_checked() {
        let parse = |text: &str| parse(Path::new("/d/dev.json"), text);
        let text = serde_json::to_string(&DevShape::default()).unwrap();
        assert_eq!(parse(&text).unwrap(), DevShape::default());
        for (from, to) in [("3", "0"), ("6", "5000"), ("nodes", "knots"), ("{", "")] {
            let error = parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("/d/dev.json: "), "{error}");
        }
    }
}
