//! Reads and writes of one place in flight at once.
//!
//! A sector is read, and is written, as a whole, at a moment of its own between the submission and the
//! completion of the operation. So a read that races a write may see any mix of old and new sectors.
//! The moments are not drawn ahead: whether a sector's moment has come is drawn when it matters.
//!
//! Invariants:
//! * A read that is submitted after a write completed sees all of it; one that completes before a write
//!   is submitted sees nothing of it.
//! * What a read has seen of a write, later reads see too.

use super::inode::{PAGE, SECTOR};
use super::names::Id;
use super::{Disk, IoVerdict, Op};
use crate::sim::world::Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// The sectors of a read whose moment came before their last change, by number, as they were then.
#[derive(Default)]
pub(super) struct Sampled(BTreeMap<u64, [u8; SECTOR]>);

impl Sampled {
    /// Puts them in their places in `to`, what the read would return if all its moments were now.
    pub(super) fn restore(&self, offset: u64, to: &mut [u8]) {
        let end = offset + to.len() as u64;
        for (sector, bytes) in &self.0 {
            let start = sector * SECTOR as u64;
            let part = start.max(offset)..(start + SECTOR as u64).min(end);
            let from = index(part.start - start)..index(part.end - start);
            to[index(part.start - offset)..index(part.end - offset)].copy_from_slice(&bytes[from]);
        }
    }
}

/// Which of the sectors of an operation have had their moment.
enum Moments {
    None,
    All,
    Some,
}

impl Moments {
    fn draw(rng: &Rng) -> Self {
        match rng.below(4) {
            0 => Self::None,
            1 => Self::All,
            _ => Self::Some,
        }
    }

    fn has_come(&self, rng: &Rng) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some => rng.below(2) == 0,
        }
    }
}

impl Disk {
    /// Lets reads in flight take sectors of a part of a file that is about to change.
    pub(super) fn sample_before(&mut self, file: Id, offset: u64, len: usize, rng: &Rng) {
        let Some(inode) = self.inodes.get(&file) else {
            return;
        };
        let changing = offset..(offset + len as u64).min(inode.len());
        for in_flight in self.in_flight.values_mut() {
            let Op::Read {
                handle,
                offset,
                len,
            } = &in_flight.op
            else {
                continue;
            };
            let sectors = shared_sectors(&changing, &(*offset..*offset + *len as u64));
            if handle.file != file || sectors.is_empty() {
                continue;
            }
            let moments = Moments::draw(rng);
            for sector in sectors {
                let sampled = &mut in_flight.sampled.0;
                if !sampled.contains_key(&sector) && moments.has_come(rng) {
                    let mut bytes = [0; SECTOR];
                    inode.read(sector * SECTOR as u64, &mut bytes);
                    sampled.insert(sector, bytes);
                }
            }
        }
    }

    /// Lets writes in flight reach sectors that a read is about to see. They stay volatile until the
    /// write completes, and none takes new space.
    pub(super) fn reach_early(&mut self, file: Id, offset: u64, len: usize, rng: &Rng) {
        let read = offset..offset + len as u64;
        let races = |op: &Op| match op {
            Op::Write {
                handle,
                offset,
                data,
                ..
            } if handle.file == file => {
                !shared_sectors(&read, &(*offset..*offset + data.len() as u64)).is_empty()
            }
            _ => false,
        };
        let racing = self
            .in_flight
            .iter()
            .filter(|(_, in_flight)| in_flight.verdict == IoVerdict::Ok && races(&in_flight.op));
        let racing: Vec<u64> = racing.map(|(number, _)| *number).collect();
        for number in racing {
            let Some(in_flight) = self.in_flight.remove(&number) else {
                continue;
            };
            if let Op::Write { offset, data, .. } = &in_flight.op {
                self.reach_some(file, *offset, data, &read, rng);
            }
            self.in_flight.insert(number, in_flight);
        }
    }

    fn reach_some(&mut self, file: Id, offset: u64, data: &[u8], read: &Range<u64>, rng: &Rng) {
        let moments = Moments::draw(rng);
        let sectors = shared_sectors(read, &(offset..offset + data.len() as u64));
        let reached: Vec<u64> = sectors.filter(|_| moments.has_come(rng)).collect();
        for sector in reached {
            let start = sector * SECTOR as u64;
            let page_start = start - start % PAGE as u64;
            let is_there = self.inodes.get(&file).is_some_and(|inode| {
                inode.growth(page_start, PAGE) == 0 && page_start + PAGE as u64 <= inode.len()
            });
            if !is_there {
                continue;
            }
            self.sample_before(file, start, SECTOR, rng);
            let zeros = Rc::clone(&self.zeros);
            let Some(inode) = self.inodes.get_mut(&file) else {
                continue;
            };
            let mut page = [0; PAGE];
            inode.read(page_start, &mut page);
            let from = index(start - offset);
            let to = index(start - page_start);
            page[to..to + SECTOR].copy_from_slice(&data[from..from + SECTOR]);
            inode.write(page_start, &page, false, &zeros);
        }
    }
}

/// The sectors that two parts of a file share, by number.
fn shared_sectors(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let (start, end) = (a.start.max(b.start), a.end.min(b.end));
    match start < end {
        true => start / SECTOR as u64..end.div_ceil(SECTOR as u64),
        false => 0..0,
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
