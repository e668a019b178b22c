//! Nodes: what the kernel knows by an inode number.
//!
//! A node lives as long as the kernel remembers it: each lookup that is answered counts one, and a
//! forget takes them back. A directory entry's node is its place (parent and name), not its
//! content: a chunk keeps its number from creation through commit. The live array is the opposite:
//! each version has a node of its own, which never changes, and only `stat` shows one number for
//! all of them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use crate::dataset::{Dataset, View};
use crate::error::Result;

/// The root's number, by the kernel's convention.
pub const ROOT: u64 = 1;

/// What is in `.npyfs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Control {
    /// The directory itself.
    Dir,
    /// `log`
    Log,
    /// `status.json`
    Status,
    /// `chunks.csv`
    Chunks,
    /// `daemon`, at the root only: the daemon's process id.
    Daemon,
    /// `rejected`
    Rejected,
    /// A file in `rejected`.
    RejectedFile(OsString),
}

/// What a node stands for.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A directory: a dataset, or the root.
    Dir,
    /// A chunk or an ordinary file: whatever has the name now.
    Entry,
    /// A version of the array, or a slice of one.
    Array(View),
    /// Something in the `.npyfs` of the parent.
    Control(Control),
}

/// What tells two nodes apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Name(u64, OsString),
    Control(u64, Control),
    /// Directory, name, backing array, first row and row count.
    Version(u64, OsString, usize, u64, u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) ino: u64,
    /// The dataset's directory that it belongs to; the root is its own.
    pub(crate) parent: u64,
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
    /// Its name was removed or given to another node.
    pub(crate) gone: bool,
}

#[derive(Debug)]
struct Slot {
    node: Node,
    /// Of a directory that was used: saves opening it by its path.
    dataset: Weak<Dataset>,
    key: Option<Key>,
    lookups: u64,
}

#[derive(Debug)]
struct Table {
    slots: HashMap<u64, Slot>,
    numbers: HashMap<Key, u64>,
    next: u64,
}

/// All nodes that the kernel remembers.
#[derive(Debug)]
pub(crate) struct Nodes(Mutex<Table>);

/// The number that `stat` shows for all versions of an array or slice: cp compares what it found by
/// name with what it opened, and a commit in between must not look like another file. Above all
/// that nodes ever get.
pub(crate) fn shown_number(dir: u64, name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (dir, name).hash(&mut hasher);
    (1 << 62) | (hasher.finish() >> 2)
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let root = Node {
            ino: ROOT,
            parent: ROOT,
            name: OsString::new(),
            kind: Kind::Dir,
            gone: false,
        };
        let slot = Slot {
            node: root,
            dataset: Weak::new(),
            key: None,
            lookups: 1,
        };
        Self(Mutex::new(Table {
            slots: HashMap::from([(ROOT, slot)]),
            numbers: HashMap::new(),
            next: ROOT + 1,
        }))
    }

    /// A node by its number.
    pub(crate) fn get(&self, ino: u64) -> Result<Node> {
        crate::lock(&self.0)
            .slots
            .get(&ino)
            .map(|slot| slot.node.clone())
            .ok_or_else(|| err!(ESTALE, "inode {ino} is not known"))
    }

    fn look_up(&self, key: Key, node: impl FnOnce(u64) -> Node) -> u64 {
        let mut table = crate::lock(&self.0);
        if let Some(&ino) = table.numbers.get(&key)
            && let Some(slot) = table.slots.get_mut(&ino)
        {
            slot.lookups += 1;
            return ino;
        }
        let ino = table.next;
        table.next += 1;
        table.numbers.insert(key.clone(), ino);
        table.slots.insert(
            ino,
            Slot {
                node: node(ino),
                dataset: Weak::new(),
                key: Some(key),
                lookups: 1,
            },
        );
        ino
    }

    /// The number of a directory or entry, counted as one lookup.
    pub(crate) fn named(&self, parent: u64, name: &OsStr, is_dir: bool) -> u64 {
        let kind = if is_dir { Kind::Dir } else { Kind::Entry };
        self.forget_kind(parent, name, is_dir);
        self.look_up(Key::Name(parent, name.to_owned()), |ino| Node {
            ino,
            parent,
            name: name.to_owned(),
            kind,
            gone: false,
        })
    }

    /// A name that was a file and is a directory now (or the reverse), by another daemon's hand,
    /// gets a new number.
    fn forget_kind(&self, parent: u64, name: &OsStr, is_dir: bool) {
        let mut table = crate::lock(&self.0);
        let key = Key::Name(parent, name.to_owned());
        if let Some(&ino) = table.numbers.get(&key)
            && let Some(slot) = table.slots.get_mut(&ino)
            && matches!(slot.node.kind, Kind::Dir) != is_dir
        {
            slot.node.gone = true;
            slot.key = None;
            table.numbers.remove(&key);
        }
    }

    /// The number that a name has, if the kernel knows it.
    pub(crate) fn number(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let key = Key::Name(parent, name.to_owned());
        crate::lock(&self.0).numbers.get(&key).copied()
    }

    /// The number of something in `.npyfs`.
    pub(crate) fn control(&self, dir: u64, control: Control) -> u64 {
        self.look_up(Key::Control(dir, control.clone()), |ino| Node {
            ino,
            parent: dir,
            name: OsString::new(),
            kind: Kind::Control(control),
            gone: false,
        })
    }

    /// The number of a version of the array, or of a slice of one.
    pub(crate) fn version(&self, dir: u64, name: &OsStr, view: View) -> u64 {
        let (_, backing) = view.backing();
        let name = name.to_owned();
        let key = Key::Version(dir, name.clone(), backing, view.first_row(), view.rows());
        self.look_up(key, |ino| Node {
            ino,
            parent: dir,
            name,
            kind: Kind::Array(view),
            gone: false,
        })
    }

    /// The kernel forgets `count` lookups.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let mut table = crate::lock(&self.0);
        let Some(slot) = table.slots.get_mut(&ino) else {
            return;
        };
        slot.lookups = slot.lookups.saturating_sub(count);
        if slot.lookups == 0 && ino != ROOT {
            let key = slot.key.take();
            table.slots.remove(&ino);
            if let Some(key) = key {
                table.numbers.remove(&key);
            }
        }
    }

    /// A name was removed: its node, if there is one, stands for nothing any more.
    pub(crate) fn removed(&self, parent: u64, name: &OsStr) {
        let mut table = crate::lock(&self.0);
        if let Some(ino) = table.numbers.remove(&Key::Name(parent, name.to_owned()))
            && let Some(slot) = table.slots.get_mut(&ino)
        {
            slot.node.gone = true;
            slot.key = None;
        }
    }

    /// A name was moved, onto another perhaps.
    pub(crate) fn renamed(&self, parent: u64, name: &OsStr, newparent: u64, newname: &OsStr) {
        self.removed(newparent, newname);
        let mut table = crate::lock(&self.0);
        let key = Key::Name(newparent, newname.to_owned());
        if let Some(ino) = table.numbers.remove(&Key::Name(parent, name.to_owned())) {
            table.numbers.insert(key.clone(), ino);
            if let Some(slot) = table.slots.get_mut(&ino) {
                slot.node.parent = newparent;
                slot.node.name = newname.to_owned();
                slot.key = Some(key);
            }
        }
    }

    /// The dataset of a directory, if it is known and still open.
    pub(crate) fn dataset(&self, dir: u64) -> Option<Arc<Dataset>> {
        crate::lock(&self.0)
            .slots
            .get(&dir)
            .filter(|slot| !slot.node.gone)
            .and_then(|slot| slot.dataset.upgrade())
    }

    pub(crate) fn set_dataset(&self, dir: u64, dataset: &Arc<Dataset>) {
        if let Some(slot) = crate::lock(&self.0).slots.get_mut(&dir) {
            slot.dataset = Arc::downgrade(dataset);
        }
    }

    /// The path of a directory, relative to the store.
    pub(crate) fn path(&self, dir: u64) -> Result<PathBuf> {
        let table = crate::lock(&self.0);
        let mut names = Vec::new();
        let mut ino = dir;
        while ino != ROOT {
            let slot = table
                .slots
                .get(&ino)
                .filter(|slot| !slot.node.gone && matches!(slot.node.kind, Kind::Dir))
                .ok_or_else(|| err!(ESTALE, "the directory of inode {dir} is gone"))?;
            names.push(slot.node.name.as_os_str());
            ino = slot.node.parent;
        }
        Ok(names.iter().rev().collect())
    }

    /// How many nodes the kernel remembers, the root among them.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        crate::lock(&self.0).slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_as_long_as_the_kernel_remembers_it() {
        let nodes = Nodes::new();
        let name = OsStr::new("x.npy");
        let ino = nodes.named(ROOT, name, false);
        assert_eq!(nodes.named(ROOT, name, false), ino);
        nodes.forget(ino, 1);
        assert!(nodes.get(ino).is_ok());
        nodes.forget(ino, 1);
        assert!(nodes.get(ino).is_err());
        assert_ne!(nodes.named(ROOT, name, false), ino);
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn a_renamed_directory_takes_what_is_in_it_along() {
        let nodes = Nodes::new();
        let outer = nodes.named(ROOT, OsStr::new("a"), true);
        let inner = nodes.named(outer, OsStr::new("b"), true);
        nodes.renamed(ROOT, OsStr::new("a"), ROOT, OsStr::new("c"));
        assert_eq!(nodes.path(inner).unwrap(), PathBuf::from("c/b"));
    }

    #[test]
    fn a_name_that_was_replaced_is_gone_and_its_successor_is_another_node() {
        let nodes = Nodes::new();
        let old = nodes.named(ROOT, OsStr::new("x.npy"), false);
        let new = nodes.named(ROOT, OsStr::new(".x.tmp"), false);
        nodes.renamed(ROOT, OsStr::new(".x.tmp"), ROOT, OsStr::new("x.npy"));
        assert!(nodes.get(old).unwrap().gone);
        assert_eq!(nodes.named(ROOT, OsStr::new("x.npy"), false), new);
    }
}
