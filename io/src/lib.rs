//! Everything a core of Corelith asks of the machine: tasks, time, files, sockets, randomness and
//! channels to other cores.
//!
//! There are two worlds behind the same concrete types. In the *Uring* world a core is an
//! executor on a thread of its own: one of glommio's, or one on a ring of our own ([`Backend`]). In the *Sim* world (feature `sim`) any number of cores of any
//! number of nodes run on one thread, on virtual time, with a seeded scheduler, disk and network.
//! The code above this crate cannot tell them apart.
//!
//! A core that writes a block and reads it back:
//!
//! ```
//! use corelith_io::{BLOCK_SIZE, Buf, OpenOptions, sync_dir};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().to_owned();
//! let read = corelith_io::run(move || async move {
//!     let options = OpenOptions::new().write().create_new().dsync();
//!     let file = options.open(&path.join("file")).await?;
//!     sync_dir(&path).await?;
//!     let mut block = Buf::zeroed(BLOCK_SIZE);
//!     block[..5].copy_from_slice(b"hello");
//!     file.write_at(0, block).await?;
//!     let read = file.read_at(1, 4).await?;
//!     Ok::<_, corelith_io::Error>(read.to_vec())
//! });
//! assert_eq!(read?, b"ello");
//! # Ok(())
//! # }
//! ```
//!
//! Functions such as [`spawn`], [`now`] or [`File::open`] act on the core that polls the calling
//! task. Calling them outside of a core is a bug and panics.
//!
//! # Contract
//!
//! * **Completion.** An operation owns its buffer until it completes. Dropping a future leaves the
//!   outcome of the operation unknown (a dropped write may still reach the disk later).
//! * **Alignment.** Writes start at and span multiples of [`BLOCK_SIZE`]; reads may start anywhere.
//! * **Races.** A read that is in flight together with a write of the same place may see any mix of old
//!   and new sectors (512 bytes).
//! * **Durability.** A write to a file opened with [`OpenOptions::dsync`] is durable when it
//!   completes; any other write is durable after [`File::sync`]. A created, renamed or removed name
//!   lasts only after [`sync_dir`] of its directory. Writes in flight at once may complete, and
//!   become durable, in any order.
//! * **Time.** [`now`] never goes back, and goes on while the machine is suspended or the process is
//!   stopped: see [`time`].
//! * **A failed sync is final.** The data it covered may be gone although a later sync succeeds.
//!
//! # The process
//!
//! Starting a core changes three things for the whole process: a panic on a core's thread aborts it,
//! a core that makes no progress for ten times its watchdog's limit aborts it, and `SIGXFSZ` and
//! `SIGPIPE` are ignored, so that a write over a size limit or to a closed connection is an error.

pub mod buf;
pub mod collections;
pub mod core;
pub mod error;
pub mod file;
pub mod fs;
mod limits;
pub mod mesh;
pub mod net;
pub mod probe;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sync;
pub mod task;
pub mod time;
mod transfer;
mod uring;
mod world;

pub use buf::{BLOCK_SIZE, Buf};
pub use core::{Backend, CoreConfig, CoreHandle, blocking, run, run_on};
pub use error::{Error, ErrorKind, Result};
pub use file::{File, OpenOptions};
pub use fs::{
    DirEntry, DirLock, Space, create_dir_all, free_bytes, list_dir, lock_dir, lock_dir_as_it_is,
    remove_dir_all, remove_file, rename, space, sync_dir,
};
pub use limits::{BACKGROUND_SHARES_MAX, BACKGROUND_SHARES_MIN};
pub use mesh::{Receiver, Sender, channel};
pub use net::{DetachedStream, ReadHalf, TcpListener, TcpStream, WriteHalf};
pub use rng::{fill_random, random_u64};
pub use task::{
    BackgroundDemand, JoinHandle, spawn, spawn_background, spawn_urgent, yield_if_needed, yield_now,
};
pub use time::{Elapsed, Instant, Sleep, now, sleep, sleep_until, timeout, wall_clock};
