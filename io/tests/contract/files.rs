//! Files: reads, writes, lengths, many in flight.

use crate::Place;
use corelith_io::{
    BLOCK_SIZE, Buf, ErrorKind, File, OpenOptions, free_bytes, remove_file, sync_dir,
};
use futures_util::future::{join_all, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE as u64;

fn block_of(byte: u8) -> Buf {
    let mut buf = Buf::alloc(BLOCK_SIZE);
    buf.fill(byte);
    buf
}

/// Bytes that tell where they are.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at * 31) as u8).collect()
}

fn path(place: &Place) -> PathBuf {
    place.dir.join("file")
}

async fn create(place: &Place) -> File {
    let options = OpenOptions::new().write().create_new();
    options.open(&path(place)).await.unwrap()
}

async fn create_with(place: &Place, bytes: &[u8]) -> File {
    let file = create(place).await;
    let mut buf = Buf::zeroed(bytes.len().next_multiple_of(BLOCK_SIZE));
    buf[..bytes.len()].copy_from_slice(bytes);
    file.write_at(0, buf).await.unwrap();
    file.set_len(bytes.len() as u64).await.unwrap();
    file
}

pub(crate) async fn what_is_written_is_read(place: Place) {
    let file = create(&place).await;
    assert_eq!(file.len().await.unwrap(), 0);
    file.write_at(BLOCK, block_of(7)).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(file.len().await.unwrap(), 2 * BLOCK);
    assert_eq!(
        *file.read_at(BLOCK, BLOCK_SIZE).await.unwrap(),
        [7; BLOCK_SIZE]
    );
    assert_eq!(*file.read_at(0, BLOCK_SIZE).await.unwrap(), [0; BLOCK_SIZE]);
}

pub(crate) async fn reads_start_and_end_anywhere(place: Place) {
    let bytes = pattern(5 * BLOCK_SIZE);
    let file = create_with(&place, &bytes).await;
    for (start, len) in [
        (0, 1),
        (1, 1),
        (4095, 2),
        (4096, 4096),
        (4095, 4098),
        (100, 3 * BLOCK_SIZE),
        (3 * BLOCK_SIZE - 1, BLOCK_SIZE),
        (5 * BLOCK_SIZE - 1, 1),
    ] {
        let read = file.read_at(start as u64, len).await.unwrap();
        assert_eq!(*read, bytes[start..start + len], "{len} bytes at {start}");
    }
    assert!(file.read_at(17, 0).await.unwrap().is_empty());
}

pub(crate) async fn reads_stop_at_the_end_of_the_file(place: Place) {
    let bytes = pattern(2 * BLOCK_SIZE + 100);
    let file = create_with(&place, &bytes).await;
    for start in [0, 50, BLOCK_SIZE, 2 * BLOCK_SIZE + 99] {
        let read = file.read_at(start as u64, 10 * BLOCK_SIZE).await.unwrap();
        assert_eq!(*read, bytes[start..], "from {start}");
    }
    for start in [bytes.len(), bytes.len() + 1, 3 * BLOCK_SIZE, 1 << 30] {
        assert!(
            file.read_at(start as u64, 10).await.unwrap().is_empty(),
            "from {start}"
        );
    }
}

pub(crate) async fn writes_must_be_aligned(place: Place) {
    let file = create(&place).await;
    let error = file.write_at(512, block_of(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut short = block_of(1);
    short.truncate(100);
    let error = file.write_at(0, short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    file.write_at(0, Buf::alloc(0)).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 0);
}

pub(crate) async fn blocks_may_be_overwritten(place: Place) {
    let file = create_with(&place, &pattern(3 * BLOCK_SIZE)).await;
    let mut longer = Buf::zeroed(2 * BLOCK_SIZE);
    longer.fill(9);
    longer.truncate(BLOCK_SIZE);
    file.write_at(BLOCK, longer).await.unwrap();
    let read = file.read_at(0, 3 * BLOCK_SIZE).await.unwrap();
    let bytes = pattern(3 * BLOCK_SIZE);
    assert_eq!(read[..BLOCK_SIZE], bytes[..BLOCK_SIZE]);
    assert_eq!(read[BLOCK_SIZE..2 * BLOCK_SIZE], [9; BLOCK_SIZE]);
    assert_eq!(read[2 * BLOCK_SIZE..], bytes[2 * BLOCK_SIZE..]);
}

pub(crate) async fn a_file_opened_for_reading_refuses_writes(place: Place) {
    create_with(&place, &pattern(BLOCK_SIZE)).await;
    let file = File::open(&path(&place)).await.unwrap();
    file.write_at(0, block_of(1)).await.unwrap_err();
    assert_eq!(
        *file.read_at(0, BLOCK_SIZE).await.unwrap(),
        pattern(BLOCK_SIZE)
    );
}

pub(crate) async fn many_durable_writes_in_flight(place: Place) {
    let options = OpenOptions::new().write().create_new().dsync();
    let file = options.open(&path(&place)).await.unwrap();
    file.set_len(64 * BLOCK).await.unwrap();
    let writes = (0..64).map(|at| file.write_at(at * BLOCK, block_of(at as u8)));
    for written in join_all(writes).await {
        written.unwrap();
    }
    let read = file.read_at(0, 64 * BLOCK_SIZE).await.unwrap();
    for (at, block) in read.chunks(BLOCK_SIZE).enumerate() {
        assert_eq!(*block, [at as u8; BLOCK_SIZE]);
    }
}

pub(crate) async fn many_reads_and_writes_in_flight_from_one_task(place: Place) {
    let file = Rc::new(create_with(&place, &pattern(32 * BLOCK_SIZE)).await);
    let mut writes = FuturesUnordered::new();
    let mut reads = FuturesUnordered::new();
    for at in 0..32 {
        let file = &file;
        writes.push(async move { file.write_at((32 + at) * BLOCK, block_of(at as u8)).await });
        reads.push(async move { (at, file.read_at(at * BLOCK, BLOCK_SIZE).await) });
    }
    let bytes = pattern(32 * BLOCK_SIZE);
    while let Some((at, read)) = reads.next().await {
        let start = at as usize * BLOCK_SIZE;
        assert_eq!(*read.unwrap(), bytes[start..start + BLOCK_SIZE]);
    }
    while let Some(written) = writes.next().await {
        written.unwrap();
    }
    assert_eq!(file.len().await.unwrap(), 64 * BLOCK);
}

pub(crate) async fn a_new_length_is_seen(place: Place) {
    let file = create_with(&place, &pattern(2 * BLOCK_SIZE)).await;
    file.set_len(100).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 100);
    assert_eq!(*file.read_at(0, BLOCK_SIZE).await.unwrap(), pattern(100));
    file.set_len(BLOCK).await.unwrap();
    let read = file.read_at(0, 2 * BLOCK_SIZE).await.unwrap();
    assert_eq!(read.len(), BLOCK_SIZE);
    assert_eq!(read[..100], pattern(100));
    assert!(
        read[100..].iter().all(|byte| *byte == 0),
        "the gap is zeros"
    );
}

pub(crate) async fn allocated_space_is_zeros(place: Place) {
    let file = create_with(&place, &pattern(BLOCK_SIZE + 100)).await;
    file.allocate(0).await.unwrap();
    assert_eq!(file.len().await.unwrap(), BLOCK + 100);
    file.allocate(5 * BLOCK).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 5 * BLOCK);
    let read = file.read_at(0, 9 * BLOCK_SIZE).await.unwrap();
    assert_eq!(read.len(), 5 * BLOCK_SIZE);
    assert_eq!(read[..BLOCK_SIZE + 100], pattern(BLOCK_SIZE + 100));
    assert!(read[BLOCK_SIZE + 100..].iter().all(|byte| *byte == 0));
    file.allocate(2 * BLOCK).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 5 * BLOCK, "it never shortens");
    file.write_at(3 * BLOCK, block_of(8)).await.unwrap();
    file.sync().await.unwrap();
    let read = file.read_at(2 * BLOCK, 2 * BLOCK_SIZE).await.unwrap();
    assert_eq!(read[..BLOCK_SIZE], [0; BLOCK_SIZE]);
    assert_eq!(read[BLOCK_SIZE..], [8; BLOCK_SIZE]);
}

pub(crate) async fn allocated_space_is_taken(place: Place) {
    const LEN: u64 = 64 << 20;
    let before = free_bytes(&place.dir).await.unwrap();
    let file = create(&place).await;
    let error = file.allocate(before + (1 << 40)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    drop(file);
    remove_file(&path(&place)).await.unwrap();
    sync_dir(&place.dir).await.unwrap();

    let file = create(&place).await;
    file.allocate(LEN).await.unwrap();
    let read_only = File::open(&path(&place)).await.unwrap();
    read_only.allocate(2 * LEN).await.unwrap_err();
    assert_eq!(file.len().await.unwrap(), LEN);
}

pub(crate) async fn a_second_handle_sees_the_same_bytes(place: Place) {
    let writer = create(&place).await;
    writer.write_at(0, block_of(3)).await.unwrap();
    let reader = File::open(&path(&place)).await.unwrap();
    drop(writer);
    assert_eq!(*reader.read_at(10, 20).await.unwrap(), [3; 20]);
}

pub(crate) async fn an_abandoned_write_leaves_the_rest_alone(place: Place) {
    let file = create_with(&place, &pattern(2 * BLOCK_SIZE)).await;
    {
        let write = pin!(file.write_at(0, block_of(1)));
        let ready = pin!(std::future::ready(()));
        select(write, ready).await;
    }
    file.write_at(BLOCK, block_of(2)).await.unwrap();
    let read = file.read_at(0, 2 * BLOCK_SIZE).await.unwrap();
    assert_eq!(read[BLOCK_SIZE..], [2; BLOCK_SIZE]);
    // It may be on its way still: of each sector there is the old or the new one.
    let old = pattern(BLOCK_SIZE);
    for (sector, old) in read[..BLOCK_SIZE].chunks(512).zip(old.chunks(512)) {
        assert!(sector == old || *sector == [1; 512]);
    }
}

pub(crate) async fn a_buffer_is_as_long_as_asked(_place: Place) {
    for len in [0, 1, 4095, 4096, 4097, 3 << 20] {
        let mut buf = Buf::alloc(len);
        assert_eq!(buf.len(), len);
        assert_eq!(buf.iter().count(), len);
        buf.fill(1);
        buf.truncate(len / 2);
        assert_eq!(buf.len(), len / 2);
        buf.truncate(len);
        assert_eq!(buf.len(), len / 2, "a buffer does not grow");
    }
    assert!(Buf::zeroed(10_000).iter().all(|byte| *byte == 0));
}

pub(crate) async fn buffers_are_recycled(place: Place) {
    let file = create(&place).await;
    let first = block_of(1);
    let memory = first.as_ptr();
    file.write_at(0, first).await.unwrap();
    let second = Buf::alloc(BLOCK_SIZE);
    assert_eq!(second.as_ptr(), memory);
    drop(second);
    for _ in 0..100 {
        drop([0; 100].map(|_| Buf::alloc(100 << 10)));
    }
    assert!(Buf::idle_bytes() <= 16 << 20, "the pool is bounded");
}
