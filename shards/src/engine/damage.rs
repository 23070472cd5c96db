//! Damage that was met: remembered, logged once, and handed to the hook, which can have it repaired.
//!
//! Invariant: the list names files only that hold data of the shard: of the current version, and segments
//! of the log. A file that a compaction, a collection, an installed snapshot or a purge has taken out of
//! use takes its damage with it.

use super::Engine;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{SegmentId, TableId, ValueSegmentId};
use crate::key::SpacedKey;
use crate::limits::DAMAGES_MAX;
use crate::sstable::Table;
use bytes::Bytes;
use corelith_io::sync::notify::Notify;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

/// What the names of segments of the value log end with.
const VALUES_SUFFIX: &str = ".vlog";

/// A damaged part of a file. Nothing is served from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// The first key that is concerned, as tables store it: the tag of its [`Space`](crate::Space), then the key.
    /// Both keys are empty if it is not known which are.
    pub first_key: Bytes,
    /// The last one.
    pub last_key: Bytes,
}

impl Damage {
    /// The keys for people.
    pub fn keys(&self) -> String {
        describe_keys(&self.first_key, &self.last_key)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, offset, what, ..
        } = self;
        write!(
            f,
            "{file} is damaged at offset {offset} ({what}): {}",
            self.keys()
        )
    }
}

/// Stored keys as people read them.
pub(crate) fn describe_keys(first: &[u8], last: &[u8]) -> String {
    let one = |stored: &[u8]| match SpacedKey::of_stored(stored) {
        Some(key) => key.to_string(),
        None => "the end".to_owned(),
    };
    match (first, last) {
        (first, last) if first.is_empty() && last.is_empty() => "keys unknown".to_owned(),
        (first, last) if first == last => format!("key {}", one(first)),
        (first, last) => format!("keys {} to {}", one(first), one(last)),
    }
}

/// Whom to tell of damage, once of each.
#[derive(Clone)]
pub struct DamageHook(Rc<dyn Fn(&Damage)>);

impl DamageHook {
    /// `told` must not wait; it may call the engine.
    pub fn new(told: impl Fn(&Damage) + 'static) -> Self {
        Self(Rc::new(told))
    }
}

impl fmt::Debug for DamageHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DamageHook")
    }
}

/// See the module. Belongs to the core of its engine.
pub(super) struct Damages {
    /// Oldest first, at most [`DAMAGES_MAX`].
    list: RefCell<VecDeque<Damage>>,
    hook: Option<DamageHook>,
    /// Told of each that is added, and when some is healed.
    changed: Notify,
}

impl Damages {
    pub(super) fn new(hook: Option<DamageHook>) -> Self {
        Self {
            list: RefCell::default(),
            hook,
            changed: Notify::new(),
        }
    }

    /// Takes out what is healed; returns how much that is.
    fn take(&self, is_healed: impl Fn(&Damage) -> bool) -> usize {
        let mut list = self.list.borrow_mut();
        let before = list.len();
        list.retain(|damage| !is_healed(damage));
        before - list.len()
    }

    /// Whether it is known, and with it the key of the record if that is known now.
    fn has(&self, file: &str, offset: u64, key: Option<SpacedKey<'_>>) -> bool {
        let list = self.list.borrow();
        let mut same_place = list
            .iter()
            .filter(|damage| damage.file == file && damage.offset == offset);
        same_place.any(|damage| {
            let is_of_key = SpacedKey::of_stored(&damage.first_key) == key
                && damage.first_key == damage.last_key;
            key.is_none() || is_of_key || !file.ends_with(VALUES_SUFFIX)
        })
    }

    /// Adds what is not known yet; `false` if it is.
    fn add(&self, damage: &Damage) -> bool {
        let mut list = self.list.borrow_mut();
        // A scrub names the front of a record, a read the page of it that it needed.
        let is_one_record = !damage.first_key.is_empty() && damage.first_key == damage.last_key;
        let is_same = |known: &Damage| {
            let same_keys =
                (&known.first_key, &known.last_key) == (&damage.first_key, &damage.last_key);
            // That something is damaged there was known before whose value it is.
            let is_narrower = is_one_record && !same_keys && damage.file.ends_with(VALUES_SUFFIX);
            known.file == damage.file
                && ((known.offset == damage.offset && !is_narrower) || (is_one_record && same_keys))
        };
        if list.iter().any(is_same) {
            return false;
        }
        if list.len() >= DAMAGES_MAX {
            list.pop_front();
        }
        list.push_back(damage.clone());
        assert!(list.len() <= DAMAGES_MAX, "the list of damage is bounded");
        drop(list);
        self.changed.notify_waiters();
        true
    }
}

/// A file that holds data of the shard.
enum DamagedFile {
    Table(Rc<Table>),
    Segment(ValueSegmentId),
    /// A segment of the log. It holds entries of any keys.
    Log,
    /// The manifest, which is whole in memory.
    Manifest,
}

/// What can be done about damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Put the range in anew, from another replica.
    Range,
    /// Write the table anew: what is damaged holds no entries.
    Table(TableId),
    /// Move what is left of the segment of the value log elsewhere.
    Segment(ValueSegmentId),
    /// Have the log forget the segment.
    Log(SegmentId),
}

/// The segment of the log in that file.
fn log_segment(file: &str) -> Option<SegmentId> {
    let name = Path::new(file).file_name()?.to_str()?;
    match FileName::parse(name)? {
        FileName::Segment(id) => Some(id),
        _ => None,
    }
}

impl Engine {
    /// The damage met since the shard was opened, in files that are still in use; at most
    /// [`DAMAGES_MAX`], the last ones.
    pub fn damages(&self) -> Vec<Damage> {
        let mut list = self.inner.damages.list.borrow_mut();
        list.retain(|damage| self.place_of(&damage.file).is_some());
        list.iter().cloned().collect()
    }

    /// Whether any damage is known, maybe in files that are out of use.
    pub fn has_damage(&self) -> bool {
        !self.inner.damages.list.borrow().is_empty()
    }

    /// Notes damage that a reader of the shard's log has met, in the log or in a value that an entry
    /// refers to; other errors are none.
    pub async fn note_log_damage(&self, error: &Error) {
        self.note_damage(error, None).await;
    }

    /// Hands `result` on, and notes the damage if it is that. `key` is the key that was read.
    pub(super) async fn noted<T>(
        &self,
        result: Result<T>,
        key: Option<SpacedKey<'_>>,
    ) -> Result<T> {
        if let Err(error) = &result {
            self.note_damage(error, key).await;
        }
        result
    }

    /// Notes damage that something has met; other errors are none. `key` is the key of the
    /// record, if it is known.
    pub(super) async fn note_damage(&self, error: &Error, key: Option<SpacedKey<'_>>) {
        let Error::Corrupt { file, offset, what } = error else {
            return;
        };
        if self.inner.damages.has(file, *offset, key) {
            return;
        }
        // What is in a file out of use no longer matters.
        let Some(place) = self.place_of(file) else {
            return;
        };
        let (first_key, last_key) = match place {
            DamagedFile::Table(table) => table.key_range_at(*offset).await,
            DamagedFile::Segment(id) => match key {
                Some(key) => {
                    let stored = Bytes::from(key.stored());
                    (stored.clone(), stored)
                }
                None => self.keys_referring_to(id),
            },
            DamagedFile::Log | DamagedFile::Manifest => (Bytes::new(), Bytes::new()),
        };
        let damage = Damage {
            file: file.clone(),
            offset: *offset,
            what,
            first_key,
            last_key,
        };
        if !self.inner.damages.add(&damage) {
            return;
        }
        let keys = damage.keys();
        tracing::error!(shard = %self.inner.owner, file, offset, what, keys, "damage");
        if let Some(DamageHook(told)) = &self.inner.damages.hook {
            told(&damage);
        }
    }

    /// What `file` holds of the shard; `None` if it is out of use.
    fn place_of(&self, file: &str) -> Option<DamagedFile> {
        let name = Path::new(file).file_name()?.to_str()?;
        match FileName::parse(name)? {
            FileName::Table(id) => self.table(id).map(DamagedFile::Table),
            FileName::ValueSegment(id, generation) => {
                let segments = self.inner.values.segments();
                let is_current = segments.get(&id)?.generation() == generation;
                is_current.then_some(DamagedFile::Segment(id))
            }
            FileName::Segment(id) => (self.inner.log.has_segment)(id).then_some(DamagedFile::Log),
            FileName::Manifest => Some(DamagedFile::Manifest),
            _ => None,
        }
    }

    /// What can be done about damage; `None` if nothing needs to be.
    pub fn remedy(&self, damage: &Damage) -> Option<Remedy> {
        Some(match self.place_of(&damage.file)? {
            DamagedFile::Table(table) => {
                let meta = table.meta();
                let is_all =
                    (&meta.first_key, &meta.last_key) == (&damage.first_key, &damage.last_key);
                match is_all && !table.is_data(damage.offset) {
                    true => Remedy::Table(meta.id),
                    false => Remedy::Range,
                }
            }
            DamagedFile::Segment(_)
                if damage.first_key == damage.last_key && !damage.first_key.is_empty() =>
            {
                Remedy::Range
            }
            DamagedFile::Segment(id) => Remedy::Segment(id),
            DamagedFile::Log => Remedy::Log(log_segment(&damage.file)?),
            DamagedFile::Manifest => return None,
        })
    }

    /// Completes when damage is noted, or gone, after the call.
    pub fn damage_changed(&self) -> impl Future<Output = ()> + '_ {
        self.inner.damages.changed.notified()
    }

    /// Whether the log is to be purged as soon as it can be: a segment of it is damaged, or a whole one of the value log, to
    /// which its entries may refer.
    pub fn is_log_damaged(&self) -> bool {
        let list = self.inner.damages.list.borrow();
        let mut remedies = list.iter().filter_map(|damage| self.remedy(damage));
        remedies.any(|remedy| matches!(remedy, Remedy::Log(_) | Remedy::Segment(_)))
    }

    /// Takes out of the list what is healed.
    pub(super) fn damage_healed(&self, is_healed: impl Fn(&Damage) -> bool) {
        self.inner.damages.take(is_healed);
        self.inner.damages.changed.notify_waiters();
    }

    /// Whether it is damage of the manifest.
    pub(super) fn is_of_manifest(damage: &Damage) -> bool {
        let name = Path::new(&damage.file).file_name();
        name.and_then(|name| name.to_str())
            .and_then(FileName::parse)
            == Some(FileName::Manifest)
    }

    /// Whether damage of the table is known.
    pub(super) fn is_damaged(&self, table: &Table) -> bool {
        let name = table.name();
        let list = self.inner.damages.list.borrow();
        list.iter().any(|damage| damage.file == name)
    }

    /// A table of the current version.
    pub(super) fn table(&self, id: TableId) -> Option<Rc<Table>> {
        let state = self.inner.state.borrow();
        let mut tables = state.version.tables();
        tables.find(|table| table.meta().id == id).cloned()
    }

    /// The first and last stored key of the tables that refer to a value segment; both empty if none
    /// does.
    fn keys_referring_to(&self, id: ValueSegmentId) -> (Bytes, Bytes) {
        let state = self.inner.state.borrow();
        let refers = |table: &&Rc<Table>| table.refers_to(id);
        let metas = || {
            state
                .version
                .tables()
                .filter(refers)
                .map(|table| table.meta())
        };
        let first = metas().map(|meta| &meta.first_key).min();
        let last = metas().map(|meta| &meta.last_key).max();
        (
            first.cloned().unwrap_or_default(),
            last.cloned().unwrap_or_default(),
        )
    }
}
