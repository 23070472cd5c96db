//! Large values: whatever is killed on the way, an upload goes on where it was, one of two that race wins, and an emptied
//! node has all of them again.
//!
//! `CORELITH_LARGE_BYTES` is the length of one value (24 MiB), `CORELITH_LARGE_ROUNDS` the number of rounds (3), and
//! `CORELITH_LARGE_VALUES` how many values the emptied node had (5).

use crate::cluster::{Cluster, NODES, Running, SHARDS, connect};
use crate::positions::{Positions, wait_until_equal_within};
use crate::waiting::{self, DEADLINE};
use corelith_client::{Client, Download, Error, Multipart, Upload, UploadRefusal};
use corelith_wire::placement;
use futures_util::StreamExt as _;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the process of an [`Uploader`] is to do: seeds, key and file.
const ASKED: &str = "CORELITH_LARGE_UPLOAD";
/// Bytes that are made or written at a time.
const PIECE: u64 = 1 << 20;
/// Kills in the course of one upload.
const KILLS: usize = 2;
/// Rounds of a race after which the space of what lost has to come back. Values that were read are kept for a minute,
/// so that the device has room for that many rounds.
const ROUNDS_OF_SPACE: u64 = 4;
/// What a node keeps beside the values: each shard, and the meta group, has a reserve of 28 MiB, and up to two
/// segments of its log and two of its value log, of 16 MiB each, that were made at their full length.
const BESIDE_BYTES: u64 = ((SHARDS as u64 + 1) * (28 + 2 * 16 + 2 * 16)) << 20;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn value_bytes() -> u64 {
    setting("CORELITH_LARGE_BYTES", 24 << 20)
}

fn rounds() -> u64 {
    setting("CORELITH_LARGE_ROUNDS", 3)
}

/// Values that the emptied node had.
fn values() -> u64 {
    setting("CORELITH_LARGE_VALUES", 5)
}

/// Time for those values to be written and read on a slow machine.
fn patience() -> Duration {
    DEADLINE + Duration::from_secs(value_bytes() * values() / (4 << 20))
}

/// Numbers that differ from run to run; the first is printed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = RandomState::new().hash_one(std::process::id());
        println!("the dice begin with {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The bytes of a value: each place of each value has others.
#[derive(Clone, Copy, Debug)]
struct Content {
    seed: u64,
    len: u64,
}

impl Content {
    fn bytes(self, from: u64, until: u64) -> Vec<u8> {
        let words = from / 8..until.div_ceil(8);
        let word = |at: u64| mix(self.seed.wrapping_add(at)).to_le_bytes();
        let mut bytes: Vec<u8> = words.flat_map(word).collect();
        bytes.drain(..(from % 8) as usize);
        bytes.truncate((until - from) as usize);
        bytes
    }

    fn pieces(self) -> impl Iterator<Item = Vec<u8>> {
        let starts = (0..self.len).step_by(PIECE as usize);
        starts.map(move |at| self.bytes(at, self.len.min(at + PIECE)))
    }

    fn save(self, path: &Path) {
        let mut file = fs::File::create(path).unwrap();
        self.pieces()
            .for_each(|piece| file.write_all(&piece).unwrap());
    }

    async fn write(self, upload: &mut Upload) -> corelith_client::Result<()> {
        for piece in self.pieces() {
            upload.write(piece).await?;
        }
        Ok(())
    }

    /// Reads all of a stream and compares it.
    async fn compare(self, mut download: Download) {
        assert_eq!(download.len(), self.len);
        let mut at = 0;
        while let Some(piece) = download.next().await {
            let piece = piece.unwrap_or_else(|error| panic!("at {at}: {error}"));
            let until = at + piece.len() as u64;
            assert!(piece == self.bytes(at, until), "other bytes behind {at}");
            at = until;
        }
        assert_eq!(at, self.len);
    }

    async fn is_value_of(self, client: &Client, key: &str) {
        let download = client.get(key).stream().await.unwrap();
        self.compare(download.expect("it has a value")).await;
    }
}

/// A client in a process of its own, which uploads a file and says how far it is.
struct Uploader {
    running: Running,
    told: PathBuf,
}

/// What an uploader says.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    durable: u64,
    sent: u64,
    skipped: u64,
    is_done: bool,
}

impl Uploader {
    fn start(cluster: &Cluster, name: &str, key: &str, file: &Path) -> Self {
        let told = cluster.path(&format!("{name}.log"));
        let output = fs::File::create(&told).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "large::an_upload_outlives_its_client_and_its_leaders",
            "--nocapture",
        ]);
        let asked = format!("{} {key} {}", cluster.seeds(), file.display());
        command.env(ASKED, asked);
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Self {
            running: Running::start(&mut command),
            told,
        }
    }

    fn told(&self) -> Told {
        let text = fs::read_to_string(&self.told).unwrap();
        let mut told = Told::default();
        // The last line may not be whole yet.
        for line in text.split_inclusive('\n').filter(|of| of.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse().unwrap();
            match words.first() {
                Some(&"progress") => {
                    (told.durable, told.sent, told.skipped) = (number(1), number(2), number(3));
                }
                Some(&"uploaded") => told.is_done = true,
                _ => {}
            }
        }
        told
    }

    /// Waits until so much is durable, or all is done.
    fn wait(&mut self, goal: u64) -> Told {
        waiting::until_within(patience(), &format!("{goal} bytes to be durable"), || {
            let has_ended = !self.running.is_running();
            let told = self.told();
            if told.is_done || told.durable >= goal {
                return Ok(told);
            }
            assert!(!has_ended, "{told:?}, {:?}", fs::read_to_string(&self.told));
            Err(told)
        })
    }
}

/// What [`Uploader`] runs: uploads the file that `asked` names.
async fn upload_a_file(asked: &str) {
    let asked: Vec<&str> = asked.split(' ').collect();
    let client = connect(asked[0].to_owned()).await;
    let upload = client.upload_file(asked[1], asked[2]);
    let upload = upload.options(|upload| {
        upload.on_progress(|progress| {
            println!(
                "\nprogress {} {} {}",
                progress.bytes_durable, progress.bytes_sent, progress.bytes_skipped
            );
        })
    });
    let uploaded = upload.await.unwrap();
    println!("\nuploaded {}", uploaded.version);
}

/// Kills the leader of a key's shard, and starts it again.
async fn strike_leader(cluster: &mut Cluster, client: &Client, key: &str) {
    let shard = placement::shard_of(key.as_bytes(), SHARDS).0;
    let leader = waiting::until_async("the shard to have a leader", || async {
        let positions = Positions::of(client).await;
        positions.leader_of(shard).ok_or(positions)
    })
    .await;
    cluster.kill(leader);
    cluster.start_node(leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_its_client_and_its_leaders() {
    // The client is a process of its own, which the test kills.
    if let Ok(asked) = std::env::var(ASKED) {
        return upload_a_file(&asked).await;
    }
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    let mut dice = Dice::new();
    let (len, mut again, mut resumed) = (value_bytes(), 0, 0);
    for round in 0..rounds() {
        let key = format!("large/{}", round % 4);
        let file = cluster.path(&format!("upload-{round}"));
        let content = Content {
            seed: dice.next(),
            len,
        };
        content.save(&file);
        let start = |cluster: &Cluster, nth: usize| {
            Uploader::start(cluster, &format!("client-{round}-{nth}"), &key, &file)
        };
        let mut uploader = start(&cluster, 0);
        // What was known to be durable when this uploader began.
        let mut safe = 0;
        for nth in 1..=KILLS {
            let goal = safe + dice.next() % (len - safe).max(1);
            if uploader.wait(goal).is_done {
                break;
            }
            let what = dice.next() % 3;
            println!("round {round}: {nth}. kill of kind {what} at {goal} of {len}");
            if what != 1 {
                uploader.running.kill();
                let told = uploader.told();
                if told.is_done || told.durable == len {
                    // It was killed between its commit and its end: another one would find nothing to do, or begin anew.
                    break;
                }
                safe = told.durable;
                again += told.sent + told.skipped - told.durable;
            }
            if what != 0 {
                strike_leader(&mut cluster, &client, &key).await;
            }
            if what != 1 {
                uploader = start(&cluster, nth);
                resumed += 1;
            }
        }
        if !uploader.running.is_running() && !uploader.told().is_done {
            uploader = start(&cluster, KILLS + 1);
        }
        let told = uploader.wait(u64::MAX);
        let file_name = file.display();
        assert!(
            told.sent + told.skipped == len || told.sent == 0,
            "{told:?} of {file_name}"
        );
        assert!(
            told.skipped >= safe || told.sent == 0,
            "{safe} bytes were durable, and it went on so: {told:?}"
        );
        content.is_value_of(&client, &key).await;
        fs::remove_file(&file).unwrap();
    }
    // Of each upload only what was on its way when its client died.
    println!(
        "{resumed} uploads were resumed; {again} bytes that were sent were not known to be durable"
    );
    wait_until_equal_within(patience(), &client, NODES, SHARDS).await;
}

/// Bytes that the files of a directory take.
fn used(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Files go while one looks.
        match entry.metadata() {
            Ok(of) if of.is_dir() => bytes += used(&entry.path()),
            Ok(of) => bytes += of.blocks() * 512,
            Err(_) => {}
        }
    }
    bytes
}

/// Waits until no node has bytes of uploads or replaced values, and the files of each have at most so many.
async fn wait_for_space(cluster: &Cluster, client: &Client, limit: u64) {
    waiting::until_async_within(patience(), "space to come back", || async {
        let status = client.status().await.map_err(|error| error.to_string())?;
        let replies = status.nodes.iter().map(|node| node.reply.as_ref());
        let shards = replies.flatten().flat_map(|reply| &reply.shards);
        let kept: u64 = shards
            .map(|shard| shard.uploads.staged_bytes + shard.uploads.dead_bytes)
            .sum();
        let files: Vec<u64> = (1..=NODES)
            .map(|node| used(&cluster.data_dir(node)))
            .collect();
        match kept == 0 && files.iter().all(|used| *used <= limit) {
            true => {
                println!("{files:?} bytes in files, at most {limit} are right");
                Ok(())
            }
            false => Err(format!("{kept} bytes kept, {files:?} in files of {limit}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_racing_uploads_wins_and_the_space_of_the_other_comes_back() {
    let cluster = Cluster::start();
    let clients = [cluster.client().await, cluster.client().await];
    let client = &clients[0];
    let mut dice = Dice::new();
    let len = value_bytes();
    let mut version = client.put("raced", "first").await.unwrap().version;
    let before = (1..=NODES).map(|node| used(&cluster.data_dir(node))).max();
    // One value is there, and what collection may leave of dead ones for a while.
    let limit = before.unwrap() + 2 * len + (64 << 20);
    let mut wins = [0_u64; 2];
    for round in 0..rounds() {
        let contents = [dice.next(), dice.next()].map(|seed| Content { seed, len });
        let race = |at: usize| {
            let (client, content) = (clients[at].clone(), contents[at]);
            tokio::spawn(async move {
                let upload = client.upload("raced").if_version(version);
                let mut upload = upload.start().await?;
                content.write(&mut upload).await?;
                upload.commit().await
            })
        };
        let (one, other) = tokio::join!(race(0), race(1));
        let (winner, uploaded, lost) = match (one.unwrap(), other.unwrap()) {
            (Ok(won), Err(lost)) => (0, won, lost),
            (Err(lost), Ok(won)) => (1, won, lost),
            both => panic!("round {round}: {both:?}"),
        };
        let current = Some(uploaded.version);
        assert_eq!(lost, Error::Conflict { current }, "round {round}");
        assert!(uploaded.version > version);
        version = uploaded.version;
        wins[winner] += 1;
        println!("round {round}: upload {winner} wins");
        contents[winner].is_value_of(client, "raced").await;
        if round % ROUNDS_OF_SPACE == ROUNDS_OF_SPACE - 1 {
            wait_for_space(&cluster, client, limit).await;
        }
    }
    println!("of {} rounds they won {wins:?}", rounds());
    assert!(client.uploads().await.unwrap().is_empty());
    wait_for_space(&cluster, client, limit).await;
}

/// Two processes that hold one token commit it at once, each with the parts in another order.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_commit_one_upload_the_one_whose_value_it_is_not_is_told() {
    let cluster = Cluster::start();
    let (one, other) = (cluster.client().await, cluster.client().await);
    let part = |of: u8| vec![of; 700 << 10];
    for round in 0..8 {
        let key = format!("key-{round}");
        let first = one.upload(&key).multipart().await.unwrap();
        for of in [1, 2] {
            first.put_part(of.into(), part(of)).await.unwrap();
        }
        let second = Multipart::resume(&other, &first.token()).await.unwrap();
        let orders: [&[u32]; 2] = [&[1, 2], &[2, 1]];
        let results = tokio::join!(first.commit(orders[0]), second.commit(orders[1]));
        let won = usize::from(results.0.is_err());
        let results = [results.0, results.1];
        let uploaded = results[won].clone().unwrap();
        let version = uploaded.version;
        let why = UploadRefusal::CommittedOtherwise { version };
        let lost = Err(Error::UploadRefused { why });
        assert_eq!(results[1 - won], lost, "round {round}");
        let value = one.get(&key).await.unwrap();
        let order = orders[won].iter();
        let expected: Vec<u8> = order.flat_map(|of| part(*of as u8)).collect();
        assert_eq!(value.version, version);
        assert!(value.value == expected, "round {round}");
        // Asked again, both are told the same.
        let again = [
            first.commit(orders[0]).await,
            second.commit(orders[1]).await,
        ];
        assert_eq!(again[won].as_ref().map(|of| of.version), Ok(version));
        assert_eq!(again[1 - won], lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_node_has_all_again_while_a_value_is_streamed() {
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    let mut dice = Dice::new();
    let len = value_bytes();
    let contents: Vec<Content> = (0..values())
        .map(|_| Content {
            seed: dice.next(),
            len,
        })
        .collect();
    let key_of = |number: usize| format!("held/{number}");
    for (number, content) in contents.iter().enumerate() {
        let mut upload = client.upload(key_of(number)).start().await.unwrap();
        content.write(&mut upload).await.unwrap();
        upload.commit().await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let streamed = Arc::new(AtomicU64::new(0));
    let reading = {
        let (stop, streamed) = (Arc::clone(&stop), Arc::clone(&streamed));
        let (client, content) = (client.clone(), contents[0]);
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                content.is_value_of(&client, "held/0").await;
                streamed.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    cluster.kill(3);
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.start_node(3);
    let data_dir = cluster.data_dir(3);
    waiting::until_async_within(patience(), "the emptied node to have all bytes", || async {
        let used = used(&data_dir.join("shards"));
        match used >= values() * len {
            true => Ok(()),
            false => Err(used),
        }
    })
    .await;
    wait_until_equal_within(patience(), &client, NODES, SHARDS).await;
    let before = streamed.load(Ordering::Relaxed);
    waiting::until_async_within(patience(), "the reader to read on", || async {
        match streamed.load(Ordering::Relaxed) {
            now if now > before => Ok(()),
            now => Err(now),
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    println!("the value was streamed {streamed:?} times");
    // It counts: another one may be away.
    cluster.kill(1);
    for (number, content) in contents.iter().enumerate() {
        content.is_value_of(&client, &key_of(number)).await;
    }
    cluster.stop_all();
    let dir = cluster.data_dir(3);
    let checked = crate::cluster::corelith().arg("check").arg(dir).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(used(&cluster.data_dir(3)) <= values() * len + BESIDE_BYTES);
}
