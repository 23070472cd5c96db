//! The arguments of the clients of a cluster.

use crate::cli::encoding::unescape;
use clap::{Args, Subcommand};
use corelith_client::SEEDS_VARIABLE;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where `corelith dev` listens, and therefore where clients look if they are told nothing else.
const DEV_SEED: &str = "127.0.0.1:7411";

/// Longest time for one operation, unless `--timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the cluster is and how long it may take, as given.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ConnectionOptions {
    /// Addresses of nodes of the cluster, any of them will do [env: CORELITH_SEEDS] [default:
    /// 127.0.0.1:7411]
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    connect: Option<Vec<String>>,
    /// Longest time for one operation, connecting and retries included: up to 3600, fractions such as
    /// 0.5 too [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Cluster")]
    timeout: Option<Duration>,
}

impl ConnectionOptions {
    pub(super) const NAMES: [&str; 2] = ["connect", "timeout"];

    /// Takes from `other` what is not given here.
    pub(super) fn fall_back(&mut self, other: Self) {
        self.connect = self.connect.take().or(other.connect);
        self.timeout = self.timeout.or(other.timeout);
    }

    /// The first option that is given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let [connect, timeout] = Self::NAMES;
        match (&self.connect, self.timeout) {
            (Some(_), _) => Some(connect),
            (None, Some(_)) => Some(timeout),
            (None, None) => None,
        }
    }

    /// With the environment and the defaults where nothing is given. `listed` is what the environment
    /// says of seeds.
    fn resolve(self, listed: Option<String>) -> Connection {
        let split = |list: String| list.split(',').map(str::to_owned).collect::<Vec<_>>();
        let listed = listed.filter(|list| !list.trim().is_empty()).map(split);
        let (seeds, origin) = match (self.connect, listed) {
            (Some(given), _) => (given, "--connect"),
            (None, Some(listed)) => (listed, SEEDS_VARIABLE),
            (None, None) => (vec![DEV_SEED.to_owned()], "the default address"),
        };
        let seeds = seeds.iter().map(|seed| seed.trim().to_owned());
        Connection {
            seeds: seeds.filter(|seed| !seed.is_empty()).collect(),
            origin,
            timeout: self.timeout.unwrap_or(TIMEOUT),
        }
    }
}

/// Where the cluster is and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Connection {
    /// Addresses.
    pub seeds: Vec<String>,
    /// What gave them, for messages.
    pub origin: &'static str,
    /// Longest time for one operation.
    pub timeout: Duration,
}

/// A command with the options of all clients.
#[derive(Debug, Args)]
pub struct OfCluster<T: Args> {
    /// What the command itself takes.
    #[command(flatten)]
    pub command: T,
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// What a client can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Give a key a value; one that it has is overwritten.
    #[command(
        override_usage = "corelith put [OPTIONS] <KEY> <VALUE|-|--file <FILE>>",
        after_help = "Examples:\n  corelith put greeting hello\n  corelith put photo --file photo.jpg"
    )]
    Put(OfCluster<Put>),
    /// Print a key's value.
    Get(OfCluster<Get>),
    /// Take a key's value away. That the key has none is no error.
    Delete(OfCluster<Delete>),
    /// Print keys and values in order of keys, a line for each: key, tab, value. What cannot be
    /// printed is \xNN, a backslash \\; such a key is given to other commands with --escaped.
    #[command(
        override_usage = "corelith scan [OPTIONS] [PREFIX]\n       \
                          corelith scan [OPTIONS] [--start <KEY>] [--end <KEY>]\n       \
                          corelith scan [OPTIONS] --token <TOKEN>",
        after_help = "Examples:\n  corelith scan users/ --limit 100\n  \
                      corelith scan --start a --end b --keys-only"
    )]
    Scan(OfCluster<Scan>),
    /// Give a key a value if its version is the expected one (compare and set).
    #[command(
        override_usage = "corelith cas [OPTIONS] <KEY> <VALUE|-|--file <FILE>> <--version <VERSION>|--absent>",
        after_help = "Examples:\n  corelith cas greeting hi --version 3\n  corelith cas greeting hi --absent"
    )]
    Cas(OfCluster<Cas>),
    /// Show nodes, shards, leaders, terms and log positions.
    Status(OfCluster<Status>),
    /// Put the files under a directory: an export with its keys, any other directory with the
    /// relative paths of its files as keys.
    #[command(
        after_help = "Examples:\n  corelith import backup\n  corelith import photos --prefix photos/"
    )]
    Import(OfCluster<Import>),
    /// Write every key as a file under a directory, with a manifest from which `import` restores
    /// all keys and values exactly.
    #[command(
        after_help = "Examples:\n  corelith export backup\n  corelith export users --prefix users/"
    )]
    Export(OfCluster<Export>),
}

impl ClientCommand {
    /// Where the cluster is, as given with the command.
    pub(super) fn connection_mut(&mut self) -> &mut ConnectionOptions {
        match self {
            Self::Put(of) => &mut of.connection,
            Self::Get(of) => &mut of.connection,
            Self::Delete(of) => &mut of.connection,
            Self::Scan(of) => &mut of.connection,
            Self::Cas(of) => &mut of.connection,
            Self::Status(of) => &mut of.connection,
            Self::Import(of) => &mut of.connection,
            Self::Export(of) => &mut of.connection,
        }
    }

    /// Where the cluster is: as given, from the environment, or that of `corelith dev`.
    pub(in crate::cli) fn connection(&mut self) -> Connection {
        let given = std::mem::take(self.connection_mut());
        given.resolve(std::env::var(SEEDS_VARIABLE).ok())
    }
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct Put {
    /// The key.
    pub key: OsString,
    /// KEY is escaped as `scan` prints what is no text: \xNN, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: Value,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where a value comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Value {
    /// The value, or - to read it from standard input.
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Take the value from a file.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The key.
    pub key: OsString,
    /// KEY is escaped as `scan` prints what is no text: \xNN, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Write the value to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the version (the log index of the write) before the value.
    #[arg(long, conflicts_with_all = ["output", "json"])]
    pub with_version: bool,
    /// Print version, length in bytes and shard of the value instead of the value.
    #[arg(long, conflicts_with_all = ["output", "with_version"])]
    pub meta: bool,
    /// As JSON: key, version, length and, without --meta, the value.
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The key.
    pub key: OsString,
    /// KEY is escaped as `scan` prints what is no text: \xNN, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Only if this is the version of the key's value.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub if_version: Option<u64>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct Scan {
    /// Keys that begin with this; all keys if it is left out.
    pub prefix: Option<OsString>,
    /// PREFIX and the keys of --start and --end are escaped as `scan` prints what is no text: \xNN, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// First key.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub start: Option<OsString>,
    /// First key beyond the last one.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub end: Option<OsString>,
    /// Most keys to print. If there may be more, the token to go on with is told: on standard error, in
    /// JSON in the last line.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on where an earlier scan stopped, up to its end: the token that it told.
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["prefix", "start", "end"])]
    pub token: Option<String>,
    /// Print the keys alone.
    #[arg(long)]
    pub keys_only: bool,
    /// As JSON, one object a line: every key, then the end.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `cas`.
#[derive(Debug, Args)]
pub struct Cas {
    /// The key.
    pub key: OsString,
    /// KEY is escaped as `scan` prints what is no text: \xNN, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: Value,
    /// What must hold.
    #[command(flatten)]
    pub expected: Expected,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The condition of a conditional write.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Expected {
    /// The key's value must have this version.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub version: Option<u64>,
    /// The key must have no value.
    #[arg(long)]
    pub absent: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Show the storage of every shard instead: levels, value log (VALUES in bytes, as all sizes),
    /// compaction debt, scrubbing, damage.
    #[arg(long)]
    pub storage: bool,
    /// As JSON, one object a line: what the rows of the tables show.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The directory.
    pub dir: PathBuf,
    /// Put this before every key.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: OsString,
    /// Only keys after this one, as an import that was interrupted tells it.
    #[arg(long, value_name = "KEY", value_parser = escaped_key)]
    pub after: Option<Key>,
    /// Import an export that was broken off, as far as it came.
    #[arg(long)]
    pub incomplete: bool,
    /// Files under way at once.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// The totals as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The directory: a new one, an empty one, or one with an export that was broken off, which goes
    /// on then.
    pub dir: PathBuf,
    /// Only keys that begin with this; it is left out of the names of the files.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: OsString,
    /// Keys under way at once.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// The totals as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A key, given in escaped form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

fn escaped_key(text: &str) -> Result<Key, String> {
    unescape(text).map(Key).ok_or_else(|| {
        "a key as an import printed it: % is followed by two hexadecimal digits".to_owned()
    })
}

fn version(text: &str) -> Result<u64, String> {
    let wrong = |_| "a version is a whole number, as `corelith get KEY --meta` tells it".to_owned();
    text.parse().map_err(wrong)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number of seconds above 0 and up to 3600, such as 10 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if seconds > 0.0 && seconds <= 3600.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_goes_before_the_environment_and_that_before_the_default() {
        let given = |seeds: Option<&str>| ConnectionOptions {
            connect: seeds.map(|seeds| seeds.split(',').map(str::to_owned).collect()),
            timeout: None,
        };
        let listed = || Some("c:3, d:4".to_owned());
        assert_eq!(
            given(Some("a:1, b:2")).resolve(listed()).seeds,
            ["a:1", "b:2"]
        );
        assert_eq!(given(Some("a:1, ,")).resolve(None).seeds, ["a:1"]);
        assert_eq!(given(Some("a:1")).resolve(None).origin, "--connect");
        assert_eq!(given(None).resolve(listed()).origin, SEEDS_VARIABLE);
        assert_eq!(given(None).resolve(listed()).seeds, ["c:3", "d:4"]);
        assert_eq!(given(None).resolve(Some(" ".to_owned())).seeds, [DEV_SEED]);
        assert_eq!(given(None).resolve(None).seeds, [DEV_SEED]);
    }
}
