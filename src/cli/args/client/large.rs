//! The arguments about large values: how they are sent, which bytes of them are read, and the commands on uploads.

use super::{ConnectionOptions, OfCluster};
use crate::cli::range::ByteRange;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Chunks in flight without `--concurrency`.
const CONCURRENCY: &str = "4";

/// How a long value travels.
#[derive(Clone, Debug, Args)]
pub struct TransferOptions {
    /// Chunks of a long value, of at most 512 KiB, that travel at once, 1 to 64.
    #[arg(long, value_name = "COUNT", default_value = CONCURRENCY, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Draw no progress bar. None is drawn either if standard error is no terminal.
    #[arg(long)]
    pub no_progress: bool,
}

/// What is told of a value that is written. A value of which something is told is stored as an upload, whatever its
/// length.
#[derive(Clone, Debug, Args)]
pub struct DescribeOptions {
    /// The content type, as in text/plain: the same as --attribute content-type=TYPE.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// An attribute of the value, which `get --meta` prints. Give it once for each; 8 KiB in all.
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    pub attribute: Vec<(String, String)>,
    /// Compute the SHA-256 of the value, which `get --meta` prints.
    #[arg(long)]
    pub sha256: bool,
}

impl DescribeOptions {
    /// Whether something is told.
    pub(in crate::cli) fn is_given(&self) -> bool {
        self.content_type.is_some() || !self.attribute.is_empty() || self.sha256
    }

    /// All attributes, in the order in which they are stored.
    pub(in crate::cli) fn attributes(&self) -> Vec<(String, String)> {
        let content_type = self.content_type.clone().into_iter();
        let content_type = content_type.map(|value| ("content-type".to_owned(), value));
        content_type.chain(self.attribute.iter().cloned()).collect()
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give an attribute as NAME=VALUE".to_owned()),
    }
}

/// Which bytes of a value are read.
pub(super) fn range(text: &str) -> Result<ByteRange, String> {
    text.parse().map_err(str::to_owned)
}

/// The commands on uploads.
#[derive(Debug, Subcommand)]
pub enum UploadCommand {
    /// List the uploads that are neither finished nor given up, the oldest first.
    #[command(after_help = "\
Example:
  corelith upload list --json")]
    List(OfCluster<UploadListArguments>),
    /// Finish the upload of a file that was interrupted.
    #[command(after_help = "\
What the cluster has already is not sent again. An interrupted `put` prints this command. FILE.corelith-upload,
beside the file, holds the upload's token; --file is for a token that was printed. Attributes, condition and
digest stay as `put` set them; `put` itself refuses to go on with others. Exit code 1: the condition does not hold, nothing was written.

Example:
  corelith upload resume film.mp4")]
    Resume(OfCluster<UploadResumeArguments>),
    /// Give up an upload: the cluster frees what it holds.
    #[command(after_help = "\
Prints nothing. Exit code 1: there is no such open upload; exit code 2: it is finished already. The token's file of an
upload that is given up is removed: that beside --file, or the one in the current directory.

Examples:
  corelith upload abort film 4b1e0c5a9d3f47e2a6b8c7d9e0f1a2b3
  corelith upload abort --file film.mp4")]
    Abort(OfCluster<UploadAbortArguments>),
}

impl UploadCommand {
    pub(super) fn connection_mut(&mut self) -> &mut ConnectionOptions {
        match self {
            Self::List(of) => &mut of.connection,
            Self::Resume(of) => &mut of.connection,
            Self::Abort(of) => &mut of.connection,
        }
    }
}

/// Arguments of `upload list`.
#[derive(Debug, Args)]
pub struct UploadListArguments {
    /// Print JSON, one object per line: each upload.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `upload resume`.
#[derive(Debug, Args)]
pub struct UploadResumeArguments {
    /// The file that was being put, or the file beside it that holds the token; with --file, a token.
    #[arg(value_name = "FILE|TOKEN")]
    pub what: OsString,
    /// The file that was being put, if a token is given.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How it travels.
    #[command(flatten)]
    pub transfer: TransferOptions,
    /// Print the result as one line of JSON: key, version, shard, length, sent, skipped.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `upload abort`.
#[derive(Debug, Args)]
pub struct UploadAbortArguments {
    /// The key that the upload is for.
    #[arg(required_unless_present = "file", requires = "id")]
    pub key: Option<OsString>,
    /// The upload's id, as `upload list` prints it.
    #[arg(required_unless_present = "file")]
    pub id: Option<String>,
    /// The file that was being put, or the file beside it that holds the token: names the upload if KEY and ID do not.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// KEY is in the escaped form that `scan` prints: \xNN for a byte, \\ for a backslash, \t, \r, \n, \', \".
    #[arg(long)]
    pub escaped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_a_name_and_a_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(attribute("a=b"), pair("a", "b"));
        assert_eq!(attribute("a=b=c"), pair("a", "b=c"));
        assert_eq!(attribute("a="), pair("a", ""));
        assert!(attribute("a").is_err());
        assert!(attribute("=b").is_err());
    }
}
