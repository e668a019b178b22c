//! Inodes: what the kernel knows by an inode number.
//!
//! A node lives as long as the kernel remembers it: each lookup that is answered counts one, and a
//! forget takes them back. A chunk's node is its place (parent and name), not its content: it keeps
//! its number from creation through commit. So is that of a directory or ordinary file, as long as
//! the store has the same one there; another in its place is another node, because the kernel checks
//! permissions by what it was told of a node, and may do so at any time. The live array is the opposite:
//! each version has a node of its own, which does not change while anybody has it open, and only
//! `stat` shows one number for all of them. Where the kernel caches no pages of arrays, a version that
//! no reader has open may become the next one: a lookup finds the node that the kernel has
//! under that name, and need not wait for the directory, which is locked while a chunk is created.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hash};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::control::{Control, Text};
use crate::array::View;
use crate::array::view::Version;
use crate::dataset;
use crate::dataset::{Attributes, Dataset};
use crate::disk::paths::DATA;
use crate::error::Result;
use crate::store::Seen;

/// The root's number, by the kernel's convention.
pub const ROOT: u64 = 1;

/// How many more files than it is to remember there are before the kernel is asked to forget as many.
const PRUNABLE: usize = 4 << 10;

/// What a node stands for.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A directory: a dataset, or the root.
    Dir,
    /// A chunk or an ordinary file: whatever has the name now.
    Entry,
    /// A version of the array, or a slice of one. The kernel remembers it for long, and its array
    /// does not stay open for that.
    Array(Arc<Version>),
    /// Something in the `.npyfs` of the parent.
    Control(Control),
    /// A text there, as it was at one moment.
    Text(Arc<Text>),
}

/// What is done with an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Its attributes are asked for.
    Look,
    /// They are set.
    Change,
    /// It is opened.
    Open,
}

/// What tells two nodes apart.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Name(u64, &'a OsStr),
    Control(u64, &'a Control),
    Text(u64, &'a Text),
    /// Directory, name, backing array, first row and row count.
    Version(u64, &'a OsStr, usize, u64, u64),
}

/// A directory of a million chunks has as many of these, so it is kept small.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) ino: u64,
    /// The dataset's directory that it belongs to; the root is its own.
    pub(crate) parent: u64,
    pub(crate) name: Arc<OsStr>,
    pub(crate) kind: Kind,
    /// Its name was removed or given to another node: it is not found by it any more.
    pub(crate) gone: bool,
}

impl Inode {
    fn key(&self) -> Key<'_> {
        match &self.kind {
            Kind::Dir | Kind::Entry => Key::Name(self.parent, &self.name),
            Kind::Array(view) => version(self.parent, &self.name, view),
            Kind::Control(control) => Key::Control(self.parent, control),
            Kind::Text(text) => Key::Text(self.parent, text),
        }
    }
}

fn version<'a>(dir: u64, name: &'a OsStr, version: &Version) -> Key<'a> {
    let (first_row, rows) = (version.first_row(), version.rows());
    Key::Version(dir, name, version.array(), first_row, rows)
}

#[derive(Debug)]
struct Slot {
    node: Inode,
    lookups: u64,
    /// How often it is open, as a version of an array.
    opens: u32,
    /// Who was told its attributes, as a version of an array.
    told: AttrHolders,
}

/// To whom the attributes of a version were told that the kernel may have, or be about to have. It
/// drops an answer that was overtaken by another, but nothing orders an answer and an open: only a
/// thread that asks alone has the answer before it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttrHolders {
    Nobody,
    /// This thread alone.
    One(u32),
    Several,
}

impl AttrHolders {
    /// `thread` is 0 for those whose number the kernel cannot say.
    fn and(self, thread: u32) -> Self {
        match self {
            _ if thread == 0 => AttrHolders::Several,
            AttrHolders::Nobody => AttrHolders::One(thread),
            AttrHolders::One(other) if other == thread => self,
            AttrHolders::One(_) | AttrHolders::Several => AttrHolders::Several,
        }
    }
}

impl Slot {
    fn new(node: Inode) -> Self {
        Self {
            node,
            lookups: 1,
            opens: 0,
            told: AttrHolders::Nobody,
        }
    }
}

#[derive(Debug)]
struct Table {
    slots: HashMap<u64, Slot, DefaultHashBuilder>,
    /// The nodes that are not gone, by their keys.
    numbers: HashTable<u64>,
    hasher: DefaultHashBuilder,
    /// Of directories that were used: saves opening them by their paths.
    datasets: HashMap<u64, Weak<Dataset>>,
    /// Of each directory, the newest version of its array.
    newest: HashMap<u64, u64>,
    /// Of each directory, what was set of its array, and when, if anything was.
    of_arrays: HashMap<u64, (Attributes, i64)>,
    /// What the kernel was told of directories and ordinary files, and what is stored of `.npyfs`.
    /// Beside the nodes: chunks, which are the most of them, have none of this.
    seen: HashMap<u64, Seen>,
    /// The views that were looked up last, with their directories and numbers: they are about to be
    /// opened. A view may be the last that has its array open, and is dropped without the lock.
    recent: VecDeque<(u64, u64, View)>,
    /// The kernel has no pages of arrays: a version may become another while it is not open.
    uncached: bool,
    /// The files, oldest first, that the kernel was not asked to forget yet.
    files: VecDeque<u64>,
    next: u64,
}

impl Table {
    fn number(&self, key: &Key<'_>) -> Option<u64> {
        let is_it = |ino: &u64| {
            self.slots
                .get(ino)
                .is_some_and(|slot| slot.node.key() == *key)
        };
        self.numbers.find(self.hasher.hash_one(key), is_it).copied()
    }

    fn index(&mut self, ino: u64) {
        let Self {
            slots,
            numbers,
            hasher,
            ..
        } = self;
        let hash = |ino: &u64| {
            slots
                .get(ino)
                .map_or(0, |slot| hasher.hash_one(slot.node.key()))
        };
        numbers.insert_unique(hash(&ino), ino, hash);
    }

    /// Takes a node out of the index, before its key changes or it goes.
    fn unindex(&mut self, ino: u64) {
        let Some(slot) = self.slots.get(&ino) else {
            return;
        };
        let hash = self.hasher.hash_one(slot.node.key());
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == ino) {
            entry.remove();
        }
    }

    fn tell(&mut self, ino: u64, thread: u32) {
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.told = slot.told.and(thread);
        }
    }

    /// Makes the newest version of a directory's array, if no reader has it open, `view`.
    fn advance(&mut self, dir: u64, view: &Arc<Version>) {
        let Some(&ino) = self.newest.get(&dir) else {
            return;
        };
        let may_become = |slot: &Slot| match &slot.node.kind {
            Kind::Array(old) => {
                slot.opens == 0
                    && !slot.node.gone
                    && old.array() == view.array()
                    && old.rows() < view.rows()
            }
            _ => false,
        };
        if !self.slots.get(&ino).is_some_and(may_become)
            || self.number(&version(dir, OsStr::new(DATA), view)).is_some()
        {
            return;
        }
        self.unindex(ino);
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.node.kind = Kind::Array(view.clone());
        }
        self.index(ino);
    }

    /// Takes out those of the recent views that have this directory and number.
    fn drop_recent(&mut self, is_it: impl Fn(u64, u64) -> bool) -> Vec<(u64, u64, View)> {
        if !self.recent.iter().any(|(dir, ino, _)| is_it(*dir, *ino)) {
            return Vec::new();
        }
        let (dropped, kept) = std::mem::take(&mut self.recent)
            .into_iter()
            .partition(|(dir, ino, _)| is_it(*dir, *ino));
        self.recent = kept;
        Vec::from(dropped)
    }

    fn remove(&mut self, key: &Key<'_>) -> Option<u64> {
        let ino = self.number(key)?;
        self.unindex(ino);
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.node.gone = true;
        }
        Some(ino)
    }

    /// Forgets the node of a key if it stands for something else than `seen`.
    fn part(&mut self, key: &Key<'_>, is_dir: bool, seen: Option<&Seen>) {
        let Some(ino) = self.number(key) else {
            return;
        };
        let was_dir = (self.slots.get(&ino)).map(|slot| matches!(slot.node.kind, Kind::Dir));
        let is_still = match (self.seen.get(&ino), seen) {
            (Some(old), Some(new)) => old.is_inode_of(new),
            // What was a chunk is a file now.
            (None, Some(_)) => false,
            // What was a file is a chunk now: it was committed, or opened for writing.
            (_, None) => true,
        };
        if was_dir.is_some_and(|was| was != is_dir) || !is_still {
            self.remove(key);
            self.datasets.remove(&ino);
        }
    }

    fn path(&self, dir: u64) -> Result<PathBuf> {
        let mut names = Vec::new();
        let mut ino = dir;
        while ino != ROOT {
            let slot = self
                .slots
                .get(&ino)
                .filter(|slot| !slot.node.gone && matches!(slot.node.kind, Kind::Dir))
                .ok_or_else(|| err!(ESTALE, "the directory of inode {dir} is gone"))?;
            names.push(&*slot.node.name);
            ino = slot.node.parent;
        }
        Ok(names.iter().rev().collect())
    }

    fn see(&mut self, ino: u64, seen: Option<Seen>) {
        match seen {
            Some(seen) => self.seen.insert(ino, seen),
            None => self.seen.remove(&ino),
        };
    }
}

/// All nodes that the kernel remembers.
#[derive(Debug)]
pub(crate) struct Inodes {
    table: Mutex<Table>,
    /// How many files that are not in use it is to remember.
    remembered: usize,
    /// How many views stay open for those who have looked them up.
    recent: usize,
}

impl Inodes {
    pub(crate) fn new(remembered: usize, recent: usize) -> Self {
        let root = Inode {
            ino: ROOT,
            parent: ROOT,
            name: OsStr::new("").into(),
            kind: Kind::Dir,
            gone: false,
        };
        let mut slots = HashMap::default();
        slots.insert(ROOT, Slot::new(root));
        let table = Table {
            slots,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            datasets: HashMap::new(),
            newest: HashMap::new(),
            of_arrays: HashMap::new(),
            seen: HashMap::new(),
            recent: VecDeque::new(),
            uncached: false,
            files: VecDeque::new(),
            next: ROOT + 1,
        };
        Self {
            table: Mutex::new(table),
            remembered,
            recent: recent.max(1),
        }
    }

    /// A node by its number.
    pub(crate) fn get(&self, ino: u64) -> Result<Inode> {
        crate::lock(&self.table)
            .slots
            .get(&ino)
            .map(|slot| slot.node.clone())
            .ok_or_else(|| err!(ESTALE, "inode {ino} is not known"))
    }

    /// A node, and what the kernel was told of it.
    pub(crate) fn get_seen(&self, ino: u64) -> Result<(Inode, Option<Seen>)> {
        let table = crate::lock(&self.table);
        let slot = table.slots.get(&ino);
        let slot = slot.ok_or_else(|| err!(ESTALE, "inode {ino} is not known"))?;
        Ok((slot.node.clone(), table.seen.get(&ino).copied()))
    }

    fn look_up(table: &mut Table, key: &Key<'_>, make: impl FnOnce(u64) -> Inode) -> u64 {
        if let Some(ino) = table.number(key)
            && let Some(slot) = table.slots.get_mut(&ino)
        {
            slot.lookups += 1;
            return ino;
        }
        let ino = table.next;
        table.next += 1;
        let node = make(ino);
        if matches!(node.kind, Kind::Entry) {
            table.files.push_back(ino);
        }
        table.slots.insert(ino, Slot::new(node));
        table.index(ino);
        ino
    }

    /// The number of a directory or entry, counted as one lookup. `seen` is what the kernel is told
    /// of a directory or ordinary file.
    pub(crate) fn named(&self, parent: u64, name: &OsStr, is_dir: bool, seen: Option<Seen>) -> u64 {
        let mut table = crate::lock(&self.table);
        let key = Key::Name(parent, name);
        table.part(&key, is_dir, seen.as_ref());
        let ino = Self::look_up(&mut table, &key, |ino| Inode {
            ino,
            parent,
            name: name.into(),
            kind: if is_dir { Kind::Dir } else { Kind::Entry },
            gone: false,
        });
        table.see(ino, seen);
        ino
    }

    /// What the kernel was told of a directory or ordinary file.
    pub(crate) fn seen(&self, ino: u64) -> Option<Seen> {
        crate::lock(&self.table).seen.get(&ino).copied()
    }

    /// The kernel is told this of a node. Another file than before is none that it may open by it.
    pub(crate) fn see(&self, ino: u64, now: Seen) {
        if let Some(seen) = crate::lock(&self.table).seen.get_mut(&ino)
            && seen.is_inode_of(&now)
        {
            *seen = now;
        }
    }

    /// The ordinary file with this number has become a chunk.
    pub(crate) fn became_chunk(&self, ino: u64) {
        crate::lock(&self.table).see(ino, None);
    }

    /// The chunk of this name, which had no bytes, has become a file.
    pub(crate) fn became_file(&self, parent: u64, name: &OsStr, seen: Seen) {
        let mut table = crate::lock(&self.table);
        if let Some(ino) = table.number(&Key::Name(parent, name)) {
            table.see(ino, Some(seen));
        }
    }

    /// The oldest of the files that the kernel remembers, where they are too many: it is to be asked
    /// to forget those of them that are not in use.
    pub(crate) fn prunable(&self) -> Option<Vec<u64>> {
        let mut table = crate::lock(&self.table);
        if table.files.len() < self.remembered + PRUNABLE {
            return None;
        }
        let oldest: Vec<u64> = table.files.drain(..PRUNABLE).collect();
        let slots = &table.slots;
        Some(
            oldest
                .into_iter()
                .filter(|ino| slots.contains_key(ino))
                .collect(),
        )
    }

    /// The number that a name has, if the kernel knows it.
    pub(crate) fn number(&self, parent: u64, name: &OsStr) -> Option<u64> {
        crate::lock(&self.table).number(&Key::Name(parent, name))
    }

    /// The number of something in `.npyfs`, and of what is stored there.
    pub(crate) fn control(&self, dir: u64, control: &Control, seen: Seen) -> u64 {
        let mut table = crate::lock(&self.table);
        let key = Key::Control(dir, control);
        table.part(&key, false, Some(&seen));
        let ino = Self::look_up(&mut table, &key, |ino| Inode {
            ino,
            parent: dir,
            name: OsStr::new("").into(),
            kind: Kind::Control(control.clone()),
            gone: false,
        });
        table.see(ino, Some(seen));
        ino
    }

    /// The number of a text in the `.npyfs` of `dir`.
    pub(crate) fn text(&self, dir: u64, text: Text, seen: Seen) -> u64 {
        let text = Arc::new(text);
        let mut table = crate::lock(&self.table);
        let ino = Self::look_up(&mut table, &Key::Text(dir, &text), |ino| Inode {
            ino,
            parent: dir,
            name: OsStr::new("").into(),
            kind: Kind::Text(text.clone()),
            gone: false,
        });
        table.see(ino, Some(seen));
        ino
    }

    /// Whether the kernel caches pages of arrays. Once it does, it may have some for good.
    pub(crate) fn set_uncached(&self, uncached: bool) {
        crate::lock(&self.table).uncached = uncached;
    }

    /// The number of a version of the array, or of a slice of one, which `thread` is told of.
    pub(crate) fn version(&self, dir: u64, name: &OsStr, view: View, thread: u32) -> u64 {
        let _oldest;
        let looked_up = view;
        let view = Arc::new(looked_up.version());
        let mut table = crate::lock(&self.table);
        if table.uncached && name == DATA {
            table.advance(dir, &view);
        }
        let ino = Self::look_up(&mut table, &version(dir, name, &view.clone()), |ino| {
            Inode {
                ino,
                parent: dir,
                name: name.into(),
                kind: Kind::Array(view),
                gone: false,
            }
        });
        if name == DATA {
            table.newest.insert(dir, ino);
        }
        let full = table.recent.len() >= self.recent;
        _oldest = full.then(|| table.recent.pop_front());
        table.recent.push_back((dir, ino, looked_up));
        table.tell(ino, thread);
        ino
    }

    /// The kernel is told that this was set of the array in a directory.
    pub(crate) fn see_set(&self, dir: u64, set: Option<(Attributes, i64)>) {
        let mut table = crate::lock(&self.table);
        match set {
            Some(set) if table.slots.contains_key(&dir) => table.of_arrays.insert(dir, set),
            _ => table.of_arrays.remove(&dir),
        };
    }

    /// What the kernel was told so.
    pub(crate) fn seen_set(&self, dir: u64) -> Option<(Attributes, i64)> {
        crate::lock(&self.table).of_arrays.get(&dir).copied()
    }

    /// `thread` is told the attributes of a node.
    pub(crate) fn tell(&self, ino: u64, thread: u32) {
        crate::lock(&self.table).tell(ino, thread);
    }

    /// Opens a version of the array or of a slice, which stays as it is until it is closed. `true`: the
    /// kernel may have the attributes of another version, or be about to.
    pub(crate) fn open_version(&self, ino: u64, thread: u32) -> Result<(View, bool)> {
        let mut table = crate::lock(&self.table);
        let uncached = table.uncached;
        if let Some(slot) = table.slots.get_mut(&ino)
            && let Kind::Array(version) = &slot.node.kind
        {
            // The kernel looks it up again, and opens what it finds then.
            let view = version
                .view()
                .ok_or_else(|| err!(ESTALE, "the array was closed since it was looked up"))?;
            slot.opens += 1;
            let doubtful = uncached && slot.told.and(thread) != AttrHolders::One(thread);
            slot.told = AttrHolders::Nobody.and(thread);
            return Ok((view, doubtful));
        }
        Err(err!(ESTALE, "inode {ino} is no version of an array"))
    }

    /// One open less.
    pub(crate) fn close_version(&self, ino: u64) {
        if let Some(slot) = crate::lock(&self.table).slots.get_mut(&ino) {
            slot.opens = slot.opens.saturating_sub(1);
        }
    }

    /// The kernel forgets `count` lookups.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let _dropped;
        let mut table = crate::lock(&self.table);
        let Some(slot) = table.slots.get_mut(&ino) else {
            return;
        };
        slot.lookups = slot.lookups.saturating_sub(count);
        if slot.lookups > 0 || ino == ROOT {
            return;
        }
        if !slot.node.gone {
            table.unindex(ino);
        }
        let slot = table.slots.remove(&ino);
        if let Some(slot) = &slot
            && table.newest.get(&slot.node.parent) == Some(&ino)
        {
            table.newest.remove(&slot.node.parent);
        }
        let is_array = slot.is_some_and(|slot| matches!(slot.node.kind, Kind::Array(_)));
        _dropped = is_array.then(|| table.drop_recent(|_, other| other == ino));
        table.datasets.remove(&ino);
        table.seen.remove(&ino);
        table.of_arrays.remove(&ino);
    }

    /// A name was removed: its node, if there is one, stands for nothing any more.
    pub(crate) fn removed(&self, parent: u64, name: &OsStr) {
        let _dropped;
        let mut table = crate::lock(&self.table);
        _dropped = (name == DATA).then(|| table.drop_recent(|dir, _| dir == parent));
        if let Some(ino) = table.remove(&Key::Name(parent, name)) {
            table.datasets.remove(&ino);
        }
    }

    /// A file was moved onto the name of a chunk that holds the same: a producer that has that chunk open
    /// keeps its node, beside the one that the kernel takes the name for now.
    pub(crate) fn joined(&self, parent: u64, name: &OsStr, newparent: u64, newname: &OsStr) {
        {
            let mut table = crate::lock(&self.table);
            if let Some(ino) = table.number(&Key::Name(newparent, newname)) {
                table.unindex(ino);
            }
        }
        self.renamed(parent, name, newparent, newname);
    }

    /// A name was moved, onto another perhaps.
    pub(crate) fn renamed(&self, parent: u64, name: &OsStr, newparent: u64, newname: &OsStr) {
        self.removed(newparent, newname);
        let mut table = crate::lock(&self.table);
        let Some(ino) = table.number(&Key::Name(parent, name)) else {
            return;
        };
        table.unindex(ino);
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.node.parent = newparent;
            slot.node.name = newname.into();
        }
        table.index(ino);
    }

    /// The dataset of a directory, if it is known and still open.
    pub(crate) fn dataset(&self, dir: u64) -> Option<Arc<Dataset>> {
        crate::lock(&self.table).datasets.get(&dir)?.upgrade()
    }

    pub(crate) fn set_dataset(&self, dir: u64, dataset: &Arc<Dataset>) {
        let mut table = crate::lock(&self.table);
        if table.slots.get(&dir).is_some_and(|slot| !slot.node.gone) {
            table.datasets.insert(dir, Arc::downgrade(dataset));
        }
    }

    /// The directory whose dataset is asked for that use of an inode, and the dataset if it is known and
    /// still open.
    pub(crate) fn dataset_of(&self, ino: u64, to: Use) -> Option<(u64, Option<Arc<Dataset>>)> {
        let table = crate::lock(&self.table);
        let node = &table.slots.get(&ino)?.node;
        let needed = match &node.kind {
            Kind::Entry => !node.gone && dataset::Kind::of(&node.name) == dataset::Kind::Chunk,
            // It is made when it is opened.
            Kind::Text(text) => to == Use::Open && text.is_list(),
            // A version is opened as it was looked up, and has the attributes of then.
            Kind::Array(_) => to == Use::Change,
            Kind::Control(_) | Kind::Dir => false,
        };
        let dir = node.parent;
        let dataset = || table.datasets.get(&dir).and_then(Weak::upgrade);
        (needed && dir != ROOT).then(|| (dir, dataset()))
    }

    /// The path of a directory, relative to the store.
    pub(crate) fn path(&self, dir: u64) -> Result<PathBuf> {
        crate::lock(&self.table).path(dir)
    }

    /// The path of a directory, and what the kernel was told of it; nothing of the root.
    pub(crate) fn place(&self, dir: u64) -> Result<(PathBuf, Option<Seen>)> {
        let table = crate::lock(&self.table);
        Ok((table.path(dir)?, table.seen.get(&dir).copied()))
    }

    /// How many nodes the kernel remembers, the root among them.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        crate::lock(&self.table).slots.len()
    }
}

#[cfg(test)]
mod tests;
