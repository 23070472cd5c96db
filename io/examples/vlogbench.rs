#![allow(warnings, clippy::all)]
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    FallocDsync,
    GrowDsync,
    FallocGroup,
    PrewrittenDsync,
}

async fn make(path: &Path, mode: Mode, len: u64) -> Rc<File> {
    let _ = std::fs::remove_file(path);
    let f = OpenOptions::new()
        .write()
        .create_new()
        .open(path)
        .await
        .unwrap();
    match mode {
        Mode::GrowDsync => {}
        Mode::PrewrittenDsync => {
            for i in 0..len / (1 << 20) {
                f.write_at(i << 20, Buf::zeroed(1 << 20)).await.unwrap();
            }
        }
        _ => f.allocate(len).await.unwrap(),
    }
    f.sync().await.unwrap();
    drop(f);
    let o = OpenOptions::new().write();
    let o = if mode == Mode::FallocGroup {
        o
    } else {
        o.dsync()
    };
    Rc::new(o.open(path).await.unwrap())
}

async fn one(dir: &Path, mode: Mode, size: usize, depth: usize, total: u64) -> (f64, f64) {
    let path = dir.join("bench.vlog");
    let f = make(&path, mode, total).await;
    let n = total / size as u64;
    let start = Instant::now();
    let mut lat = vec![];
    if mode != Mode::FallocGroup {
        let mut w = FuturesUnordered::new();
        let mut next = 0;
        while next < n || !w.is_empty() {
            if next < n && w.len() < depth {
                let mut b = Buf::alloc(size);
                b.fill(next as u8 | 1);
                let f = f.clone();
                let off = next * size as u64;
                next += 1;
                w.push(async move {
                    let t = Instant::now();
                    f.write_at(off, b).await.unwrap();
                    t.elapsed()
                });
            } else {
                lat.push(w.next().await.unwrap());
            }
        }
    } else {
        // writes in flight; one fdatasync at a time covers completed writes. depth = staged, not durable.
        let mut w = FuturesUnordered::new();
        let mut sync: FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = usize>>>> =
            FuturesUnordered::new();
        let mut next = 0;
        let mut done: Vec<Instant> = vec![];
        let mut syncing: Vec<Instant> = vec![];
        let mut durable = 0u64;
        let mut outstanding = 0;
        while durable < n {
            while next < n && outstanding < depth {
                let mut b = Buf::alloc(size);
                b.fill(next as u8 | 1);
                let f = f.clone();
                let off = next * size as u64;
                next += 1;
                outstanding += 1;
                w.push(async move {
                    let t = Instant::now();
                    f.write_at(off, b).await.unwrap();
                    t
                });
            }
            if syncing.is_empty() && !done.is_empty() {
                syncing = std::mem::take(&mut done);
                let f = f.clone();
                sync.push(Box::pin(async move {
                    f.sync().await.unwrap();
                    1
                }));
            }
            futures_util::future::poll_fn(|cx| {
                use std::task::Poll;
                let mut r = false;
                while let Poll::Ready(Some(t)) = w.poll_next_unpin(cx) {
                    done.push(t);
                    r = true;
                }
                while let Poll::Ready(Some(_)) = sync.poll_next_unpin(cx) {
                    durable += syncing.len() as u64;
                    outstanding -= syncing.len();
                    for t in syncing.drain(..) {
                        lat.push(t.elapsed());
                    }
                    r = true;
                }
                if r { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
    let secs = start.elapsed().as_secs_f64();
    lat.sort();
    drop(f);
    let _ = std::fs::remove_file(&path);
    (
        total as f64 / secs / (1u64 << 30) as f64,
        lat[lat.len() * 99 / 100].as_secs_f64() * 1e3,
    )
}

fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let total: u64 = std::env::args()
        .nth(2)
        .map_or(1 << 30, |s| s.parse::<u64>().unwrap() << 20);
    corelith_io::core::run(move || async move {
        let dir = Path::new(&dir);
        for round in 0..3 {
            for size in [64 << 10, 1 << 20] {
                for depth in [2usize, 4, 8, 16] {
                    let mut line = format!("round {round} {:5} KiB depth {depth:2}:", size >> 10);
                    for mode in [
                        Mode::FallocDsync,
                        Mode::GrowDsync,
                        Mode::FallocGroup,
                        Mode::PrewrittenDsync,
                    ] {
                        let t = if size < 1 << 20 { total / 4 } else { total };
                        let (g, p99) = one(dir, mode, size, depth, t).await;
                        line += &format!("  {mode:?} {g:.3} GiB/s p99 {p99:.1} ms");
                    }
                    println!("{line}");
                }
            }
        }
    });
}
