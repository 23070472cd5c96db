//! The directories of a simulated disk: what lookups see, and what would be left after a power loss.
//!
//! Creations, renames and removals change the volatile entries at once and wait in `pending` until
//! their directory is synced. A power loss keeps some of the pending changes, each whole: a rename
//! never leaves both names gone.
//!
//! Invariants: pending changes are in order of their numbers; after a power loss lookups see what is durable.

use super::super::world::Rng;
use super::inode::Loss;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

/// Names a file or directory for as long as the disk exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u64);

pub(super) const ROOT: Id = Id(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameTarget {
    Dir(Id),
    File(Id),
}

type Entries = BTreeMap<String, NameTarget>;

#[derive(Clone, Default)]
struct Dir {
    volatile: Entries,
    durable: Entries,
}

#[derive(Clone)]
struct NameChange {
    number: u64,
    effects: Vec<(Id, String, Option<NameTarget>)>,
}

#[derive(Clone)]
pub(super) struct Names {
    dirs: BTreeMap<Id, Dir>,
    pending: Vec<NameChange>,
    changes: u64,
    next: u64,
    /// Whether a failed sync has lost a change.
    has_lost: bool,
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

fn set(entries: &mut Entries, name: &str, target: Option<NameTarget>) {
    match target {
        Some(target) => {
            entries.insert(name.to_owned(), target);
        }
        None => {
            entries.remove(name);
        }
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            pending: Vec::new(),
            changes: 0,
            next: 1,
            has_lost: false,
        }
    }

    pub(super) fn next_id(&mut self) -> Id {
        self.next += 1;
        Id(self.next - 1)
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<NameTarget> {
        let mut found = NameTarget::Dir(ROOT);
        for name in components(path)? {
            let NameTarget::Dir(dir) = found else {
                return Err(io::Error::from(io::ErrorKind::NotADirectory));
            };
            let entries = &self.dirs.get(&dir).ok_or_else(not_found)?.volatile;
            found = *entries.get(name).ok_or_else(not_found)?;
        }
        Ok(found)
    }

    pub(super) fn lookup_dir(&self, path: &Path) -> io::Result<Id> {
        match self.lookup(path)? {
            NameTarget::Dir(dir) => Ok(dir),
            NameTarget::File(_) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    pub(super) fn lookup_file(&self, path: &Path) -> io::Result<Id> {
        match self.lookup(path)? {
            NameTarget::File(file) => Ok(file),
            NameTarget::Dir(_) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        }
    }

    /// The directory that holds `path`, and the last part of `path`.
    fn place(&self, path: &Path) -> io::Result<(Id, String)> {
        let names = components(path)?;
        let name = names
            .last()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let dir = self.lookup_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, (*name).to_owned()))
    }

    fn change(&mut self, effects: Vec<(Id, String, Option<NameTarget>)>) {
        for (dir, name, target) in &effects {
            if let Some(dir) = self.dirs.get_mut(dir) {
                set(&mut dir.volatile, name, *target);
            }
        }
        self.changes += 1;
        let last = self.pending.last();
        assert!(
            last.is_none_or(|last| last.number < self.changes),
            "changes are numbered in order"
        );
        self.pending.push(NameChange {
            number: self.changes,
            effects,
        });
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Id> {
        let (dir, name) = self.place(path)?;
        if self.lookup(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let id = self.next_id();
        self.change(vec![(dir, name, Some(NameTarget::File(id)))]);
        Ok(id)
    }

    /// Creates the directories of `path` that are missing and makes them durable.
    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in components(path)? {
            let found = self
                .dirs
                .get(&at)
                .and_then(|dir| dir.volatile.get(name))
                .copied();
            let dir = match found {
                Some(NameTarget::Dir(dir)) => dir,
                Some(NameTarget::File(_)) => {
                    return Err(io::Error::from(io::ErrorKind::NotADirectory));
                }
                None => {
                    let dir = self.next_id();
                    self.dirs.insert(dir, Dir::default());
                    self.change(vec![(at, name.to_owned(), Some(NameTarget::Dir(dir)))]);
                    self.sync(at, self.changes);
                    dir
                }
            };
            at = dir;
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let target = NameTarget::File(self.lookup_file(from)?);
        if let Ok(NameTarget::Dir(_)) = self.lookup(to) {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        if (from_dir, &from_name) == (to_dir, &to_name) {
            return Ok(());
        }
        self.change(vec![
            (from_dir, from_name, None),
            (to_dir, to_name, Some(target)),
        ]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.lookup_file(path)?;
        let (dir, name) = self.place(path)?;
        self.change(vec![(dir, name, None)]);
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.lookup_dir(path)?;
        let entries = self.list(dir);
        for (name, target) in entries {
            match target {
                NameTarget::Dir(_) => self.remove_dir_all(&path.join(name))?,
                NameTarget::File(_) => self.remove_file(&path.join(name))?,
            }
        }
        let (parent, name) = self.place(path)?;
        self.change(vec![(parent, name, None)]);
        Ok(())
    }

    pub(super) fn list(&self, dir: Id) -> Vec<(String, NameTarget)> {
        let entries = self.dirs.get(&dir).map(|dir| &dir.volatile);
        entries
            .into_iter()
            .flatten()
            .map(|(name, target)| (name.clone(), *target))
            .collect()
    }

    /// The newest change so far; a sync covers the changes up to it.
    pub(super) fn latest_change(&self) -> u64 {
        self.changes
    }

    /// Makes the changes of a directory durable, up to and with change `latest`.
    pub(super) fn sync(&mut self, dir: Id, latest: u64) {
        let covered = |change: &mut NameChange| {
            change.number <= latest && change.effects.iter().any(|effect| effect.0 == dir)
        };
        let synced: Vec<NameChange> = self.pending.extract_if(.., covered).collect();
        assert!(synced.is_sorted_by_key(|change| change.number));
        for change in synced {
            self.make_durable(&change);
        }
    }

    /// Some of the changes that a sync would have covered are forgotten: a later sync does not make
    /// them durable either, though lookups see them until a power loss.
    pub(super) fn fail_sync(&mut self, dir: Id, latest: u64, rng: &Rng) {
        self.has_lost = true;
        self.pending.retain(|change| {
            let is_covered =
                change.number <= latest && change.effects.iter().any(|effect| effect.0 == dir);
            !is_covered || rng.below(2) == 0
        });
    }

    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.make_durable(&change);
        }
    }

    fn make_durable(&mut self, change: &NameChange) {
        for (dir, name, target) in &change.effects {
            // A file has one name: a new one takes the place of that which a lost change left.
            if let Some(target) = target.filter(|_| self.has_lost) {
                for dir in self.dirs.values_mut() {
                    dir.durable.retain(|_, other| *other != target);
                }
            }
            if let Some(dir) = self.dirs.get_mut(dir) {
                set(&mut dir.durable, name, *target);
            }
        }
    }

    pub(super) fn power_loss(&mut self, loss: Loss, rng: &Rng) {
        let pending = std::mem::take(&mut self.pending);
        // A journal keeps the oldest changes; a file system without one, any.
        let journal_end = rng.below(2 * pending.len() as u64 + 1);
        let journalled = rng.below(2) == 0;
        for (at, change) in pending.iter().enumerate() {
            let kept = match loss {
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Mixed if journalled => (at as u64) < journal_end,
                Loss::Mixed => rng.below(2) == 0,
            };
            if kept {
                self.make_durable(change);
            }
        }
        for dir in self.dirs.values_mut() {
            dir.volatile = dir.durable.clone();
        }
        let (dirs, _) = self.reachable();
        self.dirs.retain(|id, _| dirs.contains(id));
    }

    /// All directories and files that a name leads to, now or after a power loss.
    pub(super) fn reachable(&self) -> (BTreeSet<Id>, BTreeSet<Id>) {
        let (mut dirs, mut files) = (BTreeSet::from([ROOT]), BTreeSet::new());
        let mut todo = vec![ROOT];
        let pending = self.pending.iter().flat_map(|change| &change.effects);
        let mut add = |target: NameTarget, todo: &mut Vec<Id>| match target {
            NameTarget::Dir(dir) if dirs.insert(dir) => todo.push(dir),
            NameTarget::Dir(_) => {}
            NameTarget::File(file) => {
                files.insert(file);
            }
        };
        for target in pending.filter_map(|effect| effect.2) {
            add(target, &mut todo);
        }
        while let Some(dir) = todo.pop() {
            let Some(dir) = self.dirs.get(&dir) else {
                continue;
            };
            for target in dir.volatile.values().chain(dir.durable.values()) {
                add(*target, &mut todo);
            }
        }
        (dirs, files)
    }

    /// All files with their paths, in order of paths.
    pub(super) fn files(&self) -> BTreeMap<String, Id> {
        let mut files = BTreeMap::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, target) in self.list(dir) {
                let path = format!("{path}/{name}");
                match target {
                    NameTarget::Dir(dir) => todo.push((path, dir)),
                    NameTarget::File(file) => {
                        files.insert(path, file);
                    }
                }
            }
        }
        files
    }
}

fn components(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                names.push(
                    name.to_str()
                        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?,
                );
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
        }
    }
    Ok(names)
}
