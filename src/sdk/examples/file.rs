//! A file of any length: uploaded in a way that survives a crash of this program, and downloaded again.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example file              # a file that it makes
//! cargo run -p corelith-client --example file -- film.mp4  # kill it, and run it again
//! ```

use corelith_client::Client;
use std::error::Error;
use std::path::PathBuf;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(seeds()).await?;
    let key = "example/file";
    let path = match std::env::args_os().nth(1) {
        Some(path) => path.into(),
        None => made_up_file().await?,
    };

    // The token of the upload lies in a file beside the content until it has ended: if this program is killed, the
    // next run sends what is missing.
    let uploaded = client
        .upload_file(key, &path)
        .options(|upload| {
            upload
                .content_type("application/octet-stream")
                .on_progress(|progress| {
                    let (durable, length) = (progress.bytes_durable, progress.length);
                    if Some(durable) == length {
                        println!("all {durable} bytes are durable");
                    }
                })
        })
        .await?;
    println!("uploaded: version {}", uploaded.version);

    // What was told of it, without its bytes.
    let head = client.head(key).await?;
    if let Some(description) = head.description() {
        let content_type = description.content_type().unwrap_or("unknown");
        println!("it has {} bytes of {content_type}", head.value_len);
    }

    // Piece by piece, from all replicas. Other clients may overwrite it meanwhile: this one reads on.
    let mut download = client.get(key).stream().await?.ok_or("it is gone")?;
    let copy_path = path.with_extension("copy");
    let mut copy = File::create(&copy_path).await?;
    let copied = tokio::io::copy(&mut download, &mut copy).await?;
    copy.flush().await?;
    println!("downloaded {copied} bytes to {}", copy_path.display());

    // The last bytes again: only these are read.
    let from = copied.saturating_sub(16);
    download.seek(SeekFrom::Start(from)).await?;
    let mut tail = Vec::new();
    download.read_to_end(&mut tail).await?;
    let range = client.get(key).range(from..).await?;
    println!(
        "the last {} bytes agree: {}",
        tail.len(),
        range.value == tail
    );

    // A stream that comes from somewhere: nothing of it can be read before the commit.
    let mut upload = client.upload("example/stream").start().await?;
    for line in 0..1000 {
        upload
            .write_all(format!("line {line}\n").as_bytes())
            .await?;
    }
    let uploaded = upload.commit().await?;
    println!("a stream of {} bytes was uploaded", uploaded.len);

    client.delete("example/stream").await?;
    client.delete(key).await?;
    tokio::fs::remove_file(copy_path).await?;
    Ok(())
}

/// A file of 20 MiB in the directory for temporary files.
async fn made_up_file() -> Result<PathBuf, std::io::Error> {
    let path = std::env::temp_dir().join(format!("corelith-example-{}", std::process::id()));
    let mut file = File::create(&path).await?;
    for number in 0..20u8 {
        file.write_all(&vec![number; 1 << 20]).await?;
    }
    file.flush().await?;
    Ok(path)
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
