//! Damage that was met: remembered, logged once, and handed to the hook, which can have it repaired.
//!
//! Invariant: the list names files only that hold data of the shard: of the current version, and segments
//! of the log. A file that a compaction, a collection, an installed snapshot or a purge has taken out of
//! use takes its damage with it.

use super::Engine;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{TableId, ValueSegmentId};
use crate::key::Space;
use crate::limits::DAMAGES_MAX;
use crate::sstable::Table;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

/// A damaged part of a file. Nothing is served from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// The first key that is concerned, as tables store it: the tag of its [`Space`], then the key.
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
    let one = |stored: &[u8]| match Space::of_stored(stored) {
        Some((Space::User, key)) => format!("\"{}\"", key.escape_ascii()),
        Some((Space::Session, key)) => format!("session {}", key.escape_ascii()),
        Some((Space::System, key)) => format!("setting {}", key.escape_ascii()),
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
}

impl Damages {
    pub(super) fn new(hook: Option<DamageHook>) -> Self {
        Self {
            list: RefCell::default(),
            hook,
        }
    }

    fn has(&self, file: &str, offset: u64) -> bool {
        let list = self.list.borrow();
        let mut same_file = list.iter().filter(|damage| damage.file == file);
        same_file.any(|damage| damage.offset == offset)
    }

    /// Adds what is not known yet; `false` if it is.
    fn add(&self, damage: &Damage) -> bool {
        let mut list = self.list.borrow_mut();
        // A scrub names the front of a record, a read the page of it that it needed.
        let is_one_record = !damage.first_key.is_empty() && damage.first_key == damage.last_key;
        let is_same = |known: &Damage| {
            let same_keys =
                (&known.first_key, &known.last_key) == (&damage.first_key, &damage.last_key);
            known.file == damage.file
                && (known.offset == damage.offset || (is_one_record && same_keys))
        };
        if list.iter().any(is_same) {
            return false;
        }
        if list.len() >= DAMAGES_MAX {
            list.pop_front();
        }
        list.push_back(damage.clone());
        assert!(list.len() <= DAMAGES_MAX, "the list of damage is bounded");
        true
    }
}

/// A file that holds data of the shard.
enum DamagedFile {
    Table(Rc<Table>),
    Segment(ValueSegmentId),
    /// A segment of the log. It holds entries of any keys.
    Log,
}

impl Engine {
    /// The damage met since the shard was opened, in files that are still in use; at most
    /// [`DAMAGES_MAX`], the last ones.
    pub fn damages(&self) -> Vec<Damage> {
        let mut list = self.inner.damages.list.borrow_mut();
        list.retain(|damage| self.place_of(&damage.file).is_some());
        list.iter().cloned().collect()
    }

    /// Notes damage that a reader of the shard's log has met, in the log or in a value that an entry
    /// refers to; other errors are none.
    pub async fn note_log_damage(&self, error: &Error) {
        self.note_damage(error, None).await;
    }

    /// Hands `result` on, and notes the damage if it is that. `key` is the user key that was read.
    pub(super) async fn noted<T>(&self, result: Result<T>, key: Option<&[u8]>) -> Result<T> {
        if let Err(error) = &result {
            self.note_damage(error, key).await;
        }
        result
    }

    /// Notes damage that something has met; other errors are none. `key` is the user key of the
    /// record, if it is known.
    pub(super) async fn note_damage(&self, error: &Error, key: Option<&[u8]>) {
        let Error::Corrupt { file, offset, what } = error else {
            return;
        };
        if self.inner.damages.has(file, *offset) {
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
                    let stored = Bytes::from(Space::User.stored_key(key));
                    (stored.clone(), stored)
                }
                None => self.keys_referring_to(id),
            },
            DamagedFile::Log => (Bytes::new(), Bytes::new()),
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
            _ => None,
        }
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
