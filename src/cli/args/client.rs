//! The arguments of the clients of a cluster.

mod cluster;
mod large;

pub(in crate::cli) use cluster::{AddArguments, ClusterCommand, OrderOptions, ShardCommand};
pub(in crate::cli) use large::{
    DescribeOptions, TransferOptions, UploadAbortArguments, UploadCommand, UploadResumeArguments,
};

use crate::cli::encoding::unescape;
use crate::cli::range::ByteRange;
use clap::{Args, Subcommand};
use corelith_client::SEEDS_VARIABLE;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where `corelith dev` listens by default: clients connect to it if no address is given.
const DEV_SEED: &str = "127.0.0.1:7411";

/// Time limit of one operation without `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The addresses and the time limit, as given.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ConnectionOptions {
    /// Addresses of one or more nodes of the cluster; one that answers is enough [env:
    /// CORELITH_SEEDS] [default: 127.0.0.1:7411]
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    connect: Option<Vec<String>>,
    /// Time limit of one operation in seconds, including connecting and retries; above 0, at most
    /// 3600, fractions allowed [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Cluster")]
    timeout: Option<Duration>,
}

impl ConnectionOptions {
    pub(super) const NAMES: [&str; 2] = ["connect", "timeout"];

    /// Takes options that are not given here from `other`.
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

    /// Fills in the environment and the defaults. `listed` is the value of `CORELITH_SEEDS`.
    fn resolve(self, listed: Option<String>) -> Connection {
        let split = |list: String| list.split(',').map(str::to_owned).collect::<Vec<_>>();
        let listed = listed.filter(|list| !list.trim().is_empty()).map(split);
        let is_given = self.connect.is_some();
        let (seeds, origin) = match (self.connect, listed) {
            (Some(given), _) => (given, "--connect"),
            (None, Some(listed)) => (listed, SEEDS_VARIABLE),
            (None, None) => (vec![DEV_SEED.to_owned()], "the default address"),
        };
        let seeds = seeds.iter().map(|seed| seed.trim().to_owned());
        Connection {
            seeds: seeds.filter(|seed| !seed.is_empty()).collect(),
            origin,
            is_given,
            timeout: self.timeout.unwrap_or(TIMEOUT),
        }
    }
}

/// The addresses of the cluster and the time limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Connection {
    /// Addresses of nodes.
    pub seeds: Vec<String>,
    /// Where they come from, for messages.
    pub origin: &'static str,
    /// Whether --connect names them.
    pub is_given: bool,
    /// Time limit of one operation.
    pub timeout: Duration,
}

/// A command with the options of all clients.
#[derive(Debug, Args)]
pub struct OfCluster<T: Args> {
    /// The command's own arguments.
    #[command(flatten)]
    pub command: T,
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// The commands that are clients of a cluster.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Set a key's value, overwriting any it has.
    #[command(
        override_usage = "corelith put [OPTIONS] <KEY> <VALUE|-|--file <FILE>>",
        after_help = "\
Prints the key's new version and its shard. A value has up to 2 GiB and becomes visible as a whole. With --if-version
or --if-absent, exit code 1 means that the condition does not hold: nothing was written.

A put of a long file that Ctrl-C, SIGTERM or a failure ends is finished by `corelith upload resume FILE`, or by
the same command again: what the cluster has already is not sent again. FILE.corelith-upload is there meanwhile. A put
from a pipe that is interrupted is given up.

Examples:
  corelith put greeting hello
  corelith put photo --file photo.jpg --content-type image/jpeg --sha256
  tar c src | corelith put backup -"
    )]
    Put(OfCluster<PutArguments>),
    /// Print a key's value.
    #[command(after_help = "\
The value is printed byte for byte; on a terminal a line end follows. --output writes to a file of another name
beside it first, which gets its name when it is complete and checked. Exit code 1: the key does not exist.

Examples:
  corelith get greeting
  corelith get photo --output photo.jpg
  corelith get film --range 1048576..2097152 | file -
  corelith get greeting --meta")]
    Get(OfCluster<GetArguments>),
    /// Delete a key. Deleting a key that does not exist is not an error.
    #[command(after_help = "\
Prints the version of the deletion and the key's shard. With --if-version, exit code 1 means that the
key does not have that version: nothing was deleted.

Examples:
  corelith delete greeting
  corelith delete greeting --if-version 3")]
    Delete(OfCluster<DeleteArguments>),
    /// Print keys and values in key order.
    #[command(
        override_usage = "corelith scan [OPTIONS] [PREFIX]\n       \
                          corelith scan [OPTIONS] [--start <KEY>] [--end <KEY>]\n       \
                          corelith scan [OPTIONS] --token <TOKEN>",
        after_help = "\
Prints one line per key: key, tab, value. A key or value that is not printable text, such as binary
data, is escaped: \\xNN for a byte, \\\\ for a backslash. --escaped reads such a key; --keys-only avoids
printing values.

Examples:
  corelith scan users/ --limit 100
  corelith scan --start a --end b --keys-only"
    )]
    Scan(OfCluster<ScanArguments>),
    /// Set a key's value only if its version is as expected (compare and set).
    #[command(
        override_usage = "corelith cas [OPTIONS] <KEY> <VALUE|-|--file <FILE>> <--version <VERSION>|--absent>",
        after_help = "\
Prints the key's new version and its shard. Exit code 1: the condition does not hold, nothing was
written.

Examples:
  corelith cas greeting hi --version 3
  corelith cas greeting hi --absent"
    )]
    Cas(OfCluster<CasArguments>),
    /// Show nodes, shards, leaders, terms and log positions.
    #[command(after_help = "\
Exit code 3: the cluster cannot be reached, or (without --storage) a shard has no majority or no leader.

Examples:
  corelith status
  corelith status --storage --json")]
    Status(OfCluster<StatusArguments>),
    /// Write the files under a directory to the cluster as keys.
    #[command(after_help = "\
An export gets its original keys back. Any other directory's files get their paths relative to it as
keys. Keys that exist are overwritten; other keys stay. A file that fails is reported, and the others
go on; the exit code is the largest of all failures.

Examples:
  corelith import backup
  corelith import photos --prefix photos/")]
    Import(OfCluster<ImportArguments>),
    /// Write every key to a file under a directory.
    #[command(after_help = "\
A manifest beside the files lets `import` restore all keys and values exactly. An export is no
snapshot: each value is read at its own moment. A key that fails is reported, and the others go on;
the exit code is the largest of all failures. The same command continues an interrupted export.

Examples:
  corelith export backup
  corelith export users --prefix users/")]
    Export(OfCluster<ExportArguments>),
    /// List, finish and give up uploads of long values.
    #[command(subcommand)]
    Upload(UploadCommand),
    /// Show and change what the cluster consists of.
    #[command(
        subcommand,
        after_help = "\
A cluster begins with the nodes that the configuration lists in cluster.nodes: they form it when they
first start, and there is nothing to initialise. More nodes join it, see `corelith cluster add`.

Orders are written down in the cluster, which then carries them out by itself, also when the command
has ended. --wait waits until that is done, --dry-run only says what would be done."
    )]
    Cluster(ClusterCommand),
    /// Move a shard's replicas and its lead.
    #[command(subcommand)]
    Shard(ShardCommand),
}

impl ClientCommand {
    /// The connection options given with the command.
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
            Self::Upload(command) => command.connection_mut(),
            Self::Cluster(command) => command.connection_mut(),
            Self::Shard(command) => command.connection_mut(),
        }
    }

    /// The connection: as given, else from the environment, else that of `corelith dev`.
    pub(in crate::cli) fn connection(&mut self) -> Connection {
        let given = std::mem::take(self.connection_mut());
        given.resolve(std::env::var(SEEDS_VARIABLE).ok())
    }
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArguments {
    /// The key, up to 4 KiB.
    pub key: OsString,
    /// KEY is in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: ValueArgument,
    /// Write only if the key has this version.
    #[arg(long, value_name = "VERSION", value_parser = version, conflicts_with = "if_absent")]
    pub if_version: Option<u64>,
    /// Write only if the key does not exist.
    #[arg(long)]
    pub if_absent: bool,
    /// What is told of it.
    #[command(flatten)]
    pub describe: DescribeOptions,
    /// How it travels.
    #[command(flatten)]
    pub transfer: TransferOptions,
    /// Print the result as one line of JSON: key, version, shard; of an upload also length, sha256 if it was wanted, and
    /// the bytes sent and skipped.
    #[arg(long)]
    pub json: bool,
}

/// Where a value comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ValueArgument {
    /// The value, or - to read it from standard input; up to 2 GiB.
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Read the value from a file, up to 2 GiB.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// The key.
    pub key: OsString,
    /// KEY is in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Write the value to this file instead of standard output; an existing file is overwritten.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only these bytes: A..B (B is exclusive), A.., ..B, or -N for the last N. They are clipped to the value's length.
    #[arg(long, value_name = "RANGE", value_parser = large::range, allow_hyphen_values = true, conflicts_with_all = ["meta", "json"])]
    pub range: Option<ByteRange>,
    /// How it travels.
    #[command(flatten)]
    pub transfer: TransferOptions,
    /// Print a line with the version (the log index of the write) before the value.
    #[arg(long, conflicts_with_all = ["output", "json"])]
    pub with_version: bool,
    /// Print what is known of the value instead of the value, which is not read: version, length in bytes, shard, and for
    /// an uploaded one time of commit, checksum, digest and attributes.
    #[arg(long, conflicts_with_all = ["output", "with_version"])]
    pub meta: bool,
    /// Print one line of JSON: key, version, length in bytes, shard and, without --meta, the value, of at most 8 MiB; with
    /// --meta, of an uploaded value also what is known of it.
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// The key.
    pub key: OsString,
    /// KEY is in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Delete only if the key has this version. Exit code 1: it has another one.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub if_version: Option<u64>,
    /// Print the result as one line of JSON: key, version, shard.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArguments {
    /// Print the keys that start with this [default: all keys]
    pub prefix: Option<OsString>,
    /// PREFIX and the keys of --start and --end are in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Print keys from this one on, inclusive.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub start: Option<OsString>,
    /// Print keys before this one, exclusive.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub end: Option<OsString>,
    /// Print at most this many keys. If there may be more, the scan prints a token to continue with:
    /// on standard error, or with --json in the last line.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Continue an earlier scan, up to its end, with the token that it printed.
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["prefix", "start", "end"])]
    pub token: Option<String>,
    /// Print only the keys; values are not read.
    #[arg(long)]
    pub keys_only: bool,
    /// Print JSON, one object per line: each key, then a last line with the count and the token.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `cas`.
#[derive(Debug, Args)]
pub struct CasArguments {
    /// The key.
    pub key: OsString,
    /// KEY is in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: ValueArgument,
    /// The condition.
    #[command(flatten)]
    pub expected: ExpectedVersion,
    /// What is told of it.
    #[command(flatten)]
    pub describe: DescribeOptions,
    /// How it travels.
    #[command(flatten)]
    pub transfer: TransferOptions,
    /// Print the result as one line of JSON: key, version, shard.
    #[arg(long)]
    pub json: bool,
}

/// The condition of a conditional write.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ExpectedVersion {
    /// Write only if the key has this version.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub version: Option<u64>,
    /// Write only if the key does not exist.
    #[arg(long)]
    pub absent: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Show the storage of every shard instead: levels, value log, compaction debt, scrubbing,
    /// damage. All sizes are in bytes.
    #[arg(long)]
    pub storage: bool,
    /// Print JSON, one object per line: the rows of the tables.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The directory to import.
    pub dir: PathBuf,
    /// Put this in front of every key.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: OsString,
    /// Import only keys after this one: a stored key, --prefix included, in the form that an interrupted import
    /// printed.
    #[arg(long, value_name = "KEY", value_parser = escaped_key)]
    pub after: Option<Key>,
    /// Accept an export that is not complete, and import the keys that it holds.
    #[arg(long)]
    pub incomplete: bool,
    /// Number of files imported at once, 1 to 1024.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// Draw no progress bar. None is drawn either if standard error is no terminal.
    #[arg(long)]
    pub no_progress: bool,
    /// Print the totals as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The directory to write: a new or an empty one, or one with an unfinished export, which is
    /// continued.
    pub dir: PathBuf,
    /// Export only keys that start with this; file names omit it.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: OsString,
    /// Number of keys exported at once, 1 to 1024.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// Draw no progress bar. None is drawn either if standard error is no terminal.
    #[arg(long)]
    pub no_progress: bool,
    /// Print the totals as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// A key, given in escaped form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

fn escaped_key(text: &str) -> Result<Key, String> {
    unescape(text).map(Key).ok_or_else(|| {
        "give the key as the import printed it: % is followed by two hexadecimal digits".to_owned()
    })
}

fn version(text: &str) -> Result<u64, String> {
    let wrong = |_| "a version is a whole number, see `corelith get KEY --meta`".to_owned();
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
