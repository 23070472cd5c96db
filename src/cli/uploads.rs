//! `upload list` and `upload abort`.

use super::args::{UploadAbortArguments, UploadCommand};
use super::connect::Reached;
use super::encoding::printable;
use super::entry::KeyFields;
use super::failure::Failure;
use super::keys::{check_key, key};
use super::resume::content_of;
use super::table::TextTable;
use super::{output, resume, time};
use corelith_client::{Client, OpenUpload, UploadId};
use serde::Serialize;
use std::path::PathBuf;

/// Runs a command on uploads.
pub(super) async fn run(reached: &Reached, command: UploadCommand) -> Result<(), Failure> {
    match command {
        UploadCommand::List(list) => self::list(&reached.client, list.command.json).await,
        UploadCommand::Resume(resume) => resume::run(reached, resume.command).await,
        UploadCommand::Abort(abort) => self::abort(&reached.client, abort.command).await,
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let uploads = client.uploads().await?;
    let mut text = String::new();
    if as_json {
        for upload in &uploads {
            text += &output::json_line(&UploadLine::of(upload))?;
        }
    } else {
        let mut table = TextTable::new(&["ID", "SHARD", "BEGUN", "EXPIRES", "BYTES", "KEY"]);
        for upload in &uploads {
            table.row([
                upload.upload.to_string(),
                upload.shard.to_string(),
                time::text(upload.begun_at),
                time::text(upload.expires_at),
                upload.bytes.to_string(),
                printable(&upload.key),
            ]);
        }
        text = table.text_of_rows();
    }
    output::text(&text)
}

#[derive(Serialize)]
struct UploadLine<'a> {
    kind: &'static str,
    upload: String,
    #[serde(flatten)]
    key: KeyFields<'a>,
    shard: u32,
    begun_at: String,
    expires_at: String,
    chunks: u32,
    bytes: u64,
}

impl<'a> UploadLine<'a> {
    fn of(upload: &'a OpenUpload) -> Self {
        Self {
            kind: "upload",
            upload: upload.upload.to_string(),
            key: KeyFields::of(&upload.key),
            shard: upload.shard,
            begun_at: time::text(upload.begun_at),
            expires_at: time::text(upload.expires_at),
            chunks: upload.chunks,
            bytes: upload.bytes,
        }
    }
}

async fn abort(client: &Client, abort: UploadAbortArguments) -> Result<(), Failure> {
    let file = abort
        .file
        .as_deref()
        .map(|file| content_of(file.as_os_str()));
    let (key, id) = match (abort.key, abort.id, &file) {
        (Some(key), Some(id), _) => (self::key(key, abort.escaped)?, upload_id(&id)?),
        (_, _, Some(file)) => {
            let token = resume::token_beside(client, file).await?;
            (token.key().to_vec(), token.upload())
        }
        _ => return Err(Failure::Argument("give KEY and ID, or --file")),
    };
    check_key(client, &key)?;
    let open = client.uploads().await?;
    let found = open.iter().find(|upload| upload.upload == id);
    if let Some(other) = found.filter(|found| found.key != key) {
        let key = printable(&other.key);
        return Err(Failure::Refused(format!(
            "the upload {id} is for the key {key}"
        )));
    }
    // Asked in any case: one that is finished is told apart from one that is not known.
    let aborted = client.abort_upload(&key, id).await;
    aborted.map_err(|error| Failure::on_key(&key, error))?;
    forget(client, id, file).await?;
    match found {
        Some(_) => Ok(()),
        None => Err(Failure::NoUpload {
            key: printable(&key),
            upload: id.to_string(),
        }),
    }
}

/// Removes the file with the token of an upload that is given up: nothing can be done with it any more.
async fn forget(client: &Client, id: UploadId, file: Option<PathBuf>) -> Result<(), Failure> {
    if let Some(file) = file {
        client.upload_file("", file).forget(id).await?;
        return Ok(());
    }
    // Nobody says where the file lies. What cannot be read there is no concern of this command.
    for entry in std::fs::read_dir(".").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let content = content_of(&name);
        if content.as_os_str() != name
            && client.upload_file("", content).forget(id).await == Ok(true)
        {
            return Ok(());
        }
    }
    Ok(())
}

fn upload_id(id: &str) -> Result<UploadId, Failure> {
    let wrong = |_| Failure::Argument("ID is not an id that `upload list` prints");
    id.parse().map_err(wrong)
}

/// Refuses an id that is none.
pub(super) fn check(command: &UploadCommand) -> Result<(), Failure> {
    match command {
        UploadCommand::List(_) => Ok(()),
        UploadCommand::Resume(resume) => resume::check_paths(&resume.command),
        UploadCommand::Abort(abort) => {
            let id = abort.command.id.as_deref();
            id.map_or(Ok(()), |id| upload_id(id).map(drop))
        }
    }
}
