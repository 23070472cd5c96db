//! A real file system that is really full: it is said clearly, reading and deleting go on, and writing
//! goes on by itself once there is space again, whoever made it.
//!
//! It takes root and a loop device; without them it says so and is left out.

use crate::cluster::{Running, alone, connect, corelith, directory, free_ports, signal};
use crate::waiting::{self, DEADLINE};
use corelith_client::{Client, Error};
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

const DEVICE_BYTES: u64 = 1 << 30;
/// What another program has on the device.
const OTHER_BYTES: usize = 512 << 20;
const VALUE_BYTES: usize = 64 << 10;
/// Every so many keys one has a short value, which stays in the log and the sstables.
const SHORT_EVERY: u64 = 8;
const AT_ONCE: usize = 16;
/// Deletions while nothing at all is free.
const DELETED_WHILE_FULL: usize = 200;

/// A file system of its own in a file, that ends with the test.
struct FileSystem {
    mounted: PathBuf,
    // Removed after the unmounting.
    _dir: TempDir,
}

impl FileSystem {
    /// Makes one; otherwise tells what is missing.
    fn make(bytes: u64) -> Result<Self, String> {
        let dir = directory();
        let (image, mounted) = (dir.path().join("image"), dir.path().join("mounted"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        fs::create_dir(&mounted).unwrap();
        let image = image.to_str().unwrap();
        // Without blocks kept back for root: the test is root.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image])?;
        run("mount", &["-o", "loop", image, mounted.to_str().unwrap()])?;
        Ok(Self { mounted, _dir: dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted.join(name)
    }

    fn unmount(&self) -> Result<(), String> {
        run("umount", &[self.mounted.to_str().unwrap()])
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // It is still in use, or unmounted already.
            let _ = run("umount", &["--lazy", self.mounted.to_str().unwrap()]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Writes zeros to a new file up to `bytes` or until the device is full.
fn fill(path: &Path, bytes: usize) {
    let mut file = File::create(path).unwrap();
    let mut step = vec![0_u8; 1 << 20];
    let mut written = 0;
    while written < bytes && !step.is_empty() {
        match file.write(&step) {
            Ok(count) => written += count,
            // The last bytes are had in smaller steps.
            Err(error) if error.kind() == ErrorKind::StorageFull => step.truncate(step.len() / 2),
            Err(error) => panic!("{error}"),
        }
    }
    let synced = file.sync_all();
    assert!(synced.is_ok() || bytes == usize::MAX, "{synced:?}");
}

/// A node that ends with the test; of a cluster of one.
struct Node {
    config: PathBuf,
    log: PathBuf,
    port: u16,
    running: Running,
}

impl Node {
    /// `dir` is for what does not belong on the full device.
    fn start(dir: &Path, data: &Path) -> Self {
        let port = free_ports(1)[0];
        let config = dir.join("node.toml");
        let text = format!(
            "[node]\nid = 1\ndata_dir = \"{}\"\n\n\
             [storage]\nsegment_bytes = 16777216\nmemtable_bytes = 1048576\n\
             value_segment_bytes = 16777216\nblock_cache_bytes = 33554432\n\n\
             [cluster]\nname = \"full-disk\"\nshards = 2\n\n\
             [[cluster.nodes]]\nid = 1\nhost = \"127.0.0.1\"\nport = {port}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let log = dir.join("node.log");
        let running = Self::spawn(&config, &log, port);
        Self {
            config,
            log,
            port,
            running,
        }
    }

    fn spawn(config: &Path, log: &Path, port: u16) -> Running {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = corelith();
        command.arg("node").arg("--config").arg(config);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut running = Running::start(&mut command);
        running.wait_until_listening(port);
        running
    }

    async fn client(&self) -> Client {
        connect(format!("127.0.0.1:{}", self.port)).await
    }

    fn stop(&mut self) {
        signal("TERM", self.running.id());
        let status = self.running.wait("the node to stop", DEADLINE);
        assert!(status.success(), "{status}");
    }

    fn restart(&mut self) {
        self.stop();
        self.running = Self::spawn(&self.config, &self.log, self.port);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- the end of the node's log:\n{tail}");
        }
    }
}

fn key(number: u64) -> String {
    format!("key/{number:08}")
}

fn value(number: u64) -> Vec<u8> {
    let whole = format!("<{number:08}>").repeat(VALUE_BYTES / 10);
    match number % SHORT_EVERY {
        0 => whole.as_bytes()[..100].to_vec(),
        _ => whole.into_bytes(),
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    next: u64,
    /// By number, whether it is there.
    keys: BTreeMap<u64, bool>,
}

impl Acknowledged {
    fn present(&self) -> Vec<u64> {
        let present = self.keys.iter().filter(|(_, is_there)| **is_there);
        present.map(|(number, _)| *number).collect()
    }
}

/// Puts one key more.
async fn put(client: &Client, acknowledged: &Mutex<Acknowledged>) -> Result<(), Error> {
    let number = {
        let mut acknowledged = acknowledged.lock().unwrap();
        acknowledged.next += 1;
        acknowledged.next
    };
    client.put(key(number), value(number)).await?;
    acknowledged.lock().unwrap().keys.insert(number, true);
    Ok(())
}

/// Puts until the device is full, which must be said as such; returns how many were acknowledged.
async fn put_until_full(client: &Client, acknowledged: &Mutex<Acknowledged>) -> usize {
    let before = acknowledged.lock().unwrap().keys.len();
    stream::iter(0..AT_ONCE)
        .for_each_concurrent(AT_ONCE, |_| async {
            // Each shard is full by itself.
            let mut refused = 0;
            while refused < 20 {
                match put(client, acknowledged).await {
                    Ok(()) => {}
                    Err(Error::DiskFull) => refused += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
        .await;
    acknowledged.lock().unwrap().keys.len() - before
}

/// Deletes the first keys of which `chosen` says so; each must be acknowledged.
async fn delete(
    client: &Client,
    acknowledged: &Mutex<Acknowledged>,
    count: usize,
    chosen: impl Fn(u64) -> bool,
) {
    let mut numbers = acknowledged.lock().unwrap().present();
    numbers.retain(|number| chosen(*number));
    numbers.truncate(count);
    stream::iter(numbers)
        .for_each_concurrent(AT_ONCE, |number| async move {
            client.delete(key(number)).await.unwrap();
            acknowledged.lock().unwrap().keys.insert(number, false);
        })
        .await;
}

/// Reads every `step`th key that was acknowledged, deleted ones included.
async fn check_reads(client: &Client, acknowledged: &Mutex<Acknowledged>, step: usize) {
    let keys = acknowledged.lock().unwrap().keys.clone();
    stream::iter(keys.into_iter().step_by(step))
        .for_each_concurrent(AT_ONCE, |(number, is_there)| async move {
            match client.get(key(number)).await {
                Ok(got) => assert!(is_there && got.value == value(number), "key {number}"),
                Err(Error::NotFound) => assert!(!is_there, "key {number} is gone"),
                Err(error) => panic!("key {number}: {error:?}"),
            }
        })
        .await;
}

/// Waits until puts are refused by every shard, with the device full to the brim.
async fn fill_to_the_brim(client: &Client, acknowledged: &Mutex<Acknowledged>, brim: &Path) {
    fill(brim, usize::MAX);
    waiting::until_async("puts to be refused", || async {
        for _ in 0..32 {
            match put(client, acknowledged).await {
                Err(Error::DiskFull) => {}
                other => return Err(other),
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until so many puts in a row are taken.
async fn wait_until_writing(client: &Client, acknowledged: &Mutex<Acknowledged>) {
    waiting::until_async("writing to go on", || async {
        for _ in 0..64 {
            put(client, acknowledged).await?;
        }
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::await_holding_lock,
    reason = "it keeps other tests of this process from running, none of which is a task of this one"
)]
async fn a_full_device_is_lived_with_until_there_is_space() {
    let device = match FileSystem::make(DEVICE_BYTES) {
        Ok(device) => device,
        Err(why) => return println!("left out, as it takes root and a loop device: {why}"),
    };
    let _alone = alone();
    let dir = directory();
    let data = device.path("data");
    let (other, brim) = (device.path("other"), device.path("brim"));
    fill(&other, OTHER_BYTES);
    let mut node = Node::start(dir.path(), &data);
    let client = node.client().await;
    let acknowledged = Mutex::new(Acknowledged::default());

    let taken = put_until_full(&client, &acknowledged).await;
    assert!(taken > 1000, "{taken} puts filled it");
    fill_to_the_brim(&client, &acknowledged, &brim).await;
    let seed = format!("127.0.0.1:{}", node.port);
    let mut command = corelith();
    command.args(["put", "key", "value", "--connect", &seed]);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("disk is full"), "{complaint}");
    check_reads(&client, &acknowledged, 20).await;
    delete(&client, &acknowledged, DELETED_WHILE_FULL, |_| true).await;
    check_reads(&client, &acknowledged, 20).await;
    assert!(node.running.is_running());

    // Another program makes space.
    fs::remove_file(&brim).unwrap();
    fs::remove_file(&other).unwrap();
    wait_until_writing(&client, &acknowledged).await;
    let more = put_until_full(&client, &acknowledged).await;
    assert!(more > 1000, "{more} puts filled it again");
    fill_to_the_brim(&client, &acknowledged, &brim).await;

    // A node starts on a full device as well.
    node.restart();
    check_reads(&client, &acknowledged, 20).await;

    // Deleting makes space: not all of any segment, so that collection has to rewrite them.
    delete(&client, &acknowledged, usize::MAX, |number| number % 10 < 6).await;
    wait_until_writing(&client, &acknowledged).await;
    check_reads(&client, &acknowledged, 1).await;

    node.stop();
    let checked = corelith().arg("check").arg(&data).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{checked:?}");
    assert!(said.contains("0 problems"), "{said}");
    device.unmount().unwrap();
}
