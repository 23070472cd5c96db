//! `upload resume`: finishes an upload that was interrupted.

use super::args::UploadResumeArguments;
use super::connect::Reached;
use super::encoding::shell_word;
use super::failure::Failure;
use super::paths;
use super::pieces::Pieces;
use super::sending::{Watch, send, upload_file};
use super::stored::Stored;
use super::transfer::Interrupts;
use bytes::Bytes;
use corelith_client::{Client, Error, Upload, UploadState, UploadToken};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The end of the name of a token's file, beside the file that is uploaded.
const TOKEN_SUFFIX: &str = ".corelith-upload";

/// Finishes an upload.
pub(super) async fn run(reached: &Reached, resume: UploadResumeArguments) -> Result<(), Failure> {
    match &resume.file {
        Some(path) => {
            let token = read_token(&resume.what)?;
            let stored = with_token(reached, &resume, &token, path).await;
            let stored = stored.map_err(|failure| named(failure, token.key()))?;
            stored.print(token.key(), resume.json)
        }
        None => beside(reached, &resume).await,
    }
}

/// Refuses arguments that name no file.
pub(super) fn check_paths(resume: &UploadResumeArguments) -> Result<(), Failure> {
    match &resume.file {
        Some(path) => {
            read_token(&resume.what)?;
            paths::file(path)
        }
        None => paths::file(&content_of(&resume.what)),
    }
}

fn read_token(text: &OsStr) -> Result<UploadToken, Failure> {
    const WRONG: Failure =
        Failure::Argument("with --file, give the token that `put` printed when it was interrupted");
    let token = text.to_str().and_then(|text| text.parse().ok());
    token.ok_or(WRONG)
}

/// The file that is uploaded, of its name or of that of the token's file.
pub(super) fn content_of(what: &OsStr) -> PathBuf {
    let content = what.as_bytes().strip_suffix(TOKEN_SUFFIX.as_bytes());
    let content = content.filter(|name| !name.is_empty() && !name.ends_with(b"/"));
    PathBuf::from(content.map_or(what, OsStr::from_bytes))
}

/// The token that lies beside a file.
pub(super) async fn token_beside(client: &Client, path: &Path) -> Result<UploadToken, Failure> {
    let left = client.upload_file("", path).token().await?;
    left.ok_or_else(|| {
        let mut name = OsString::from(path);
        name.push(TOKEN_SUFFIX);
        let problem = format!(
            "no upload of it was interrupted: {} is not there",
            Path::new(&name).display()
        );
        Failure::unusable(path, problem)
    })
}

/// Of a token that lies beside the file.
async fn beside(reached: &Reached, resume: &UploadResumeArguments) -> Result<(), Failure> {
    let path = content_of(&resume.what);
    let token = token_beside(&reached.client, &path).await?;
    let key = token.key();
    let len = std::fs::metadata(&path).map(|found| found.len());
    let watch = Watch::new(&resume.transfer, len.ok());
    let upload = reached.client.upload_file(key, &path).resume_only();
    let concurrency = usize::from(resume.transfer.concurrency);
    let upload = upload.options(|upload| watch.of(upload.concurrency(concurrency)));
    let stored = upload_file(reached, upload, &path, &watch).await;
    let stored = stored.map_err(|failure| named(failure, key))?;
    stored.print(key, resume.json)
}

/// Of a token that was printed.
async fn with_token(
    reached: &Reached,
    resume: &UploadResumeArguments,
    token: &UploadToken,
    path: &Path,
) -> Result<Stored, Failure> {
    let owned = path.to_owned();
    let failed = move |error| Failure::file("read", &owned, error);
    let file = File::open(path).map_err(&failed)?;
    let len = file.metadata().map_err(&failed)?.len();
    let watch = Watch::new(&resume.transfer, Some(len));
    // Nothing but its bytes says that it is the same file.
    let builder = reached.client.upload(token.key()).length(len).from_start();
    let builder = watch.of(builder.concurrency(resume.transfer.concurrency.into()));
    let mut upload = match builder.resume(token).await {
        Ok(upload) => upload,
        Err(Error::UploadEnded {
            how: UploadState::Committed { version },
        }) => {
            let head = reached.client.get(token.key()).head().await?;
            return Ok(Stored {
                version,
                shard: head.shard,
                upload: None,
            });
        }
        Err(error) => return Err(error.into()),
    };
    upload.stays_silently();
    assert_eq!(upload.resume_at(), 0, "all bytes are compared");
    let pieces = Pieces::of(file, failed);
    let outcome = sent(&mut upload, pieces).await;
    watch.end();
    if let Err(failure) = &outcome {
        let file = shell_word(path.as_os_str());
        let command = format!("upload resume {token} --file {file}");
        watch.tell_how_to_go_on(failure, &reached.command(&command));
    }
    Ok(Stored::of(&outcome?, watch.last()))
}

async fn sent(upload: &mut Upload, pieces: Pieces) -> Result<corelith_client::Uploaded, Failure> {
    let mut interrupts = Interrupts::new()?;
    tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::Interrupted),
        sent = send(upload, Bytes::new(), Some(pieces)) => sent,
    }
}

fn named(failure: Failure, key: &[u8]) -> Failure {
    match failure {
        Failure::Cluster(error) => Failure::on_key(key, error),
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_itself_or_by_its_token() {
        for (given, expected) in [
            ("film", "film"),
            ("film.corelith-upload", "film"),
            ("a/b.corelith-upload", "a/b"),
            (".corelith-upload", ".corelith-upload"),
            ("a/.corelith-upload", "a/.corelith-upload"),
        ] {
            assert_eq!(content_of(given.as_ref()), Path::new(expected), "{given}");
        }
        assert_eq!(read_token("abc".as_ref()).unwrap_err().exit_code(), 2);
    }
}
