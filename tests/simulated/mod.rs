//! A disk in memory that fails when it is told to, and that knows what a power cut leaves.
//!
//! Every call on it is counted. At the n-th it can fail, once or from then on, after a part of a
//! write was done or before. What was not synced may be lost: of a file, every sector of 512 bytes
//! is, after a power cut, as it was at some moment since the last sync, and so is the length; the
//! changes of directories survive in their order (as on a filesystem with a journal), at least up
//! to the last one that a sync of a directory has covered.
//!
//! A sync of a file that fails loses what it was to write, as on Linux: the pages pass for written
//! from then on, and a later sync writes only what was changed after that.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::chunks::Dice;
use npyfs::disk::{DirEntry, Lock, MountId, Open, Place, StoreDir, StoreFile, Whereabouts};

const SECTOR: usize = 512;

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The number of the call that fails; the first is 0.
    pub at: usize,
    pub errno: i32,
    /// All calls from there on fail too: the process or the machine is about to die.
    pub for_good: bool,
    /// If it is a write, its first half is done.
    pub half: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    synced: Vec<u8>,
    /// Since the last sync.
    changes: Vec<Change>,
    live: Vec<u8>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let end = offset + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*offset..end].copy_from_slice(data);
        }
        Change::Len(len) => bytes.resize(*len, 0),
    }
}

impl FileState {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            apply(&mut self.synced, &change);
        }
    }

    /// A sync that fails: nothing is written, and nothing will be.
    fn fail_to_sync(&mut self) {
        self.changes.clear();
    }

    /// What is there after a power cut.
    fn survive(&self, dice: &mut Dice) -> Vec<u8> {
        let n = self.changes.len();
        let mut versions = vec![self.synced.clone()];
        for change in &self.changes {
            let mut next = versions[versions.len() - 1].clone();
            apply(&mut next, change);
            versions.push(next);
        }
        let style = dice.up_to(3);
        let common = dice.up_to(n);
        let moment = |dice: &mut Dice| match style {
            0 => 0,
            1 => n,
            2 => common,
            _ => dice.up_to(n),
        };
        let mut bytes = vec![0; versions[moment(dice)].len()];
        for start in (0..bytes.len()).step_by(SECTOR) {
            let version = &versions[moment(dice)];
            let end = bytes.len().min(start + SECTOR).min(version.len());
            if start < end {
                bytes[start..end].copy_from_slice(&version[start..end]);
            }
        }
        bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(usize),
}

/// A change of the names.
#[derive(Clone, Debug)]
enum Naming {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Naming {
    fn touches(&self, directory: &Path) -> bool {
        match self {
            Naming::Add(path, _) | Naming::Remove(path) => path.parent() == Some(directory),
            Naming::Rename(from, to) => {
                from.parent() == Some(directory) || to.parent() == Some(directory)
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Naming::Add(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Naming::Remove(path) => {
                names.remove(path);
            }
            Naming::Rename(from, to) => {
                let entry = names.remove(from).expect("it was there");
                names.insert(to.clone(), entry);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    files: Vec<FileState>,
    names: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<Naming>,
    locked: Vec<PathBuf>,
    /// How often the machine was started anew.
    mount: u64,
    calls: usize,
    fault: Option<Fault>,
    /// How often the fault has struck.
    struck: usize,
}

/// The disk, and the dataset's directory on it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// `.` and `..` are the dataset's directory and the ones above; only the first is simulated.
fn normal(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the simulation does not panic")
    }

    /// From now on calls are counted from 0, and this goes wrong.
    pub fn break_at(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.calls, state.struck, state.fault) = (0, 0, fault);
    }

    pub fn calls(&self) -> usize {
        self.state().calls
    }

    pub fn struck(&self) -> bool {
        self.state().struck > 0
    }

    /// Runs `look` with nothing going wrong and nothing counted.
    pub fn undisturbed<T>(&self, look: impl FnOnce() -> T) -> T {
        let (calls, struck, fault) = {
            let mut state = self.state();
            (state.calls, state.struck, state.fault.take())
        };
        let found = look();
        let mut state = self.state();
        (state.calls, state.struck, state.fault) = (calls, struck, fault);
        found
    }

    /// Runs `look` while every call of the disk waits.
    pub fn standing_still<T>(&self, look: impl FnOnce() -> T) -> T {
        let _all_wait = self.state();
        look()
    }

    /// What the next process finds after this one was killed.
    pub fn killed(&self) -> Disk {
        let mut state = self.state().clone();
        state.locked.clear();
        (state.fault, state.calls, state.struck) = (None, 0, 0);
        Disk(Arc::new(Mutex::new(state)))
    }

    /// What the next boot finds after a power cut.
    pub fn power_cut(&self, seed: u64) -> Disk {
        let mut dice = Dice::new(seed);
        let pending = self.state().pending.len();
        let kept = match dice.up_to(2) {
            0 => 0,
            1 => pending,
            _ => dice.up_to(pending),
        };
        self.cut(kept, |file| file.survive(&mut dice))
    }

    /// The same, where all has reached the disk but what was written to the first sector of each file
    /// since its last sync.
    pub fn power_cut_before_first_sectors(&self) -> Disk {
        let pending = self.state().pending.len();
        self.cut(pending, |file| {
            let mut bytes = file.live.clone();
            let old = file.synced.len().min(SECTOR);
            let end = bytes.len().min(SECTOR);
            bytes[..end].fill(0);
            bytes[..end.min(old)].copy_from_slice(&file.synced[..end.min(old)]);
            bytes
        })
    }

    fn cut(&self, kept: usize, mut survive: impl FnMut(&FileState) -> Vec<u8>) -> Disk {
        let state = self.state();
        let mut names = state.durable.clone();
        for naming in &state.pending[..kept] {
            naming.apply(&mut names);
        }
        let files = state
            .files
            .iter()
            .map(|file| {
                let bytes = survive(file);
                FileState {
                    synced: bytes.clone(),
                    changes: Vec::new(),
                    live: bytes,
                }
            })
            .collect();
        Disk(Arc::new(Mutex::new(State {
            files,
            durable: names.clone(),
            names,
            mount: state.mount + 1,
            ..State::default()
        })))
    }

    /// The bytes of a file as they are now.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        match state.names.get(Path::new(path)) {
            Some(&Entry::File(id)) => Some(state.files[id].live.clone()),
            _ => None,
        }
    }

    /// Makes a file with these bytes, or gives it these bytes.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.undisturbed(|| {
            let blob = self
                .open(Path::new(path), Open::Create)
                .expect("undisturbed");
            blob.set_len(0).expect("undisturbed");
            blob.write_at(bytes, 0).expect("undisturbed");
        });
    }

    /// Every file and directory there is.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }
}

impl State {
    /// Counts a call. `Err`: it fails; `Ok(true)` never happens unless it is half done.
    fn call(&mut self) -> Result<(), Fault> {
        let n = self.calls;
        self.calls += 1;
        match self.fault {
            Some(fault) if n == fault.at || fault.for_good && n > fault.at => {
                self.struck += 1;
                Err(Fault {
                    // Only the first one does anything.
                    half: fault.half && n == fault.at,
                    ..fault
                })
            }
            _ => Ok(()),
        }
    }

    fn rename_names(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending.push(naming);
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("") || self.names.get(path) == Some(&Entry::Directory)
    }

    fn parent_is_there(&self, path: &Path) -> io::Result<()> {
        if self.is_dir(path.parent().expect("a path in the dataset")) {
            Ok(())
        } else {
            Err(os(libc::ENOENT))
        }
    }
}

fn struck(fault: Fault) -> io::Error {
    os(fault.errno)
}

impl StoreDir for Disk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        let path = normal(path);
        let mut state = self.state();
        state.call().map_err(struck)?;
        let id = match state.names.get(&path) {
            Some(Entry::Directory) => return Err(os(libc::EISDIR)),
            Some(_) if how == Open::CreateNew => return Err(os(libc::EEXIST)),
            Some(&Entry::File(id)) => id,
            None if matches!(how, Open::Read | Open::Write) => return Err(os(libc::ENOENT)),
            None => {
                state.parent_is_there(&path)?;
                state.files.push(FileState::default());
                let id = state.files.len() - 1;
                state.rename_names(Naming::Add(path, Entry::File(id)));
                id
            }
        };
        Ok(Arc::new(OpenFile {
            disk: self.clone(),
            id,
            writable: how != Open::Read,
            append: how == Open::Append,
        }))
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        match self.state().names.get(&normal(path)) {
            Some(&Entry::File(id)) => Ok((1, id as u64)),
            Some(Entry::Directory) => Ok((1, u64::MAX)),
            None => Err(os(libc::ENOENT)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut state = self.state();
        state.call().map_err(struck)?;
        if !state.names.contains_key(&from) {
            return Err(os(libc::ENOENT));
        }
        state.parent_is_there(&to)?;
        state.rename_names(Naming::Rename(from, to));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.state();
        state.call().map_err(struck)?;
        match state.names.get(&path) {
            None => Err(os(libc::ENOENT)),
            Some(Entry::Directory) => Err(os(libc::EISDIR)),
            Some(Entry::File(_)) => {
                state.rename_names(Naming::Remove(path));
                Ok(())
            }
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.state();
        state.call().map_err(struck)?;
        if !state.is_dir(&path) {
            state.parent_is_there(&path)?;
            state.rename_names(Naming::Add(path, Entry::Directory));
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = normal(path);
        let mut state = self.state();
        state.call().map_err(struck)?;
        if !state.is_dir(&path) {
            return Err(os(libc::ENOENT));
        }
        let inside = state
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(&path));
        let listed = inside.map(|(name, entry)| DirEntry {
            name: name.file_name().expect("a name").to_owned(),
            len: match entry {
                Entry::File(id) => state.files[*id].live.len() as u64,
                Entry::Directory => 0,
            },
            is_dir: *entry == Entry::Directory,
        });
        Ok(listed.collect())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.state();
        state.call().map_err(struck)?;
        let last = state
            .pending
            .iter()
            .rposition(|naming| naming.touches(&path));
        let state = &mut *state;
        for naming in state.pending.drain(..last.map_or(0, |last| last + 1)) {
            naming.apply(&mut state.durable);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.open(path, Open::Create)?;
        let path = normal(path);
        let mut state = self.state();
        if state.locked.contains(&path) {
            return Ok(None);
        }
        state.locked.push(path.clone());
        Ok(Some(Box::new(Held {
            disk: self.clone(),
            path,
        })))
    }
}

#[derive(Debug)]
struct Held {
    disk: Disk,
    path: PathBuf,
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.state().locked.retain(|path| *path != self.path);
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: Disk,
    id: usize,
    writable: bool,
    append: bool,
}

impl OpenFile {
    /// A sync. One that fails loses what it was to write; one that a kill or a power cut comes before
    /// does nothing.
    fn synced(&self, done: impl FnOnce(&mut FileState)) -> io::Result<()> {
        let mut state = self.disk.state();
        let called = state.call();
        let file = &mut state.files[self.id];
        match called {
            Ok(()) => done(file),
            Err(fault) if fault.for_good => {}
            Err(_) => file.fail_to_sync(),
        }
        called.map_err(struck)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        assert!(self.writable, "a change of a file that is open for reading");
        let called = state.call();
        let file = &mut state.files[self.id];
        match (called, change) {
            (Ok(()), change) => {
                file.change(change);
                Ok(())
            }
            (Err(fault), Change::Write(offset, data)) => {
                if fault.half && data.len() > 1 {
                    file.change(Change::Write(offset, data[..data.len() / 2].to_vec()));
                }
                Err(struck(fault))
            }
            (Err(fault), _) => Err(struck(fault)),
        }
    }
}

impl StoreFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.call().map_err(struck)?;
        Ok(state.files[self.id].live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call().map_err(struck)?;
        let live = &state.files[self.id].live;
        let rest = &live[live.len().min(offset as usize)..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let offset = if self.append {
            self.disk.state().files[self.id].live.len()
        } else {
            offset as usize
        };
        self.change(Change::Write(offset, data.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.disk.state().call().map_err(struck)
    }

    fn insert_range(&self, len: u64) -> io::Result<bool> {
        let mut state = self.disk.state();
        state.call().map_err(struck)?;
        let file = &mut state.files[self.id];
        let mut all = vec![0; len as usize];
        all.extend_from_slice(&file.live);
        // As on ext4: at once, and with the journal's next commit.
        file.change(Change::Write(0, all));
        file.sync();
        Ok(true)
    }

    fn start_writeback(&self) -> io::Result<()> {
        self.synced(|_| ())
    }

    fn sync(&self) -> io::Result<()> {
        self.synced(FileState::sync)
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn whereabouts(&self) -> io::Result<Whereabouts> {
        let mut state = self.disk.state();
        state.call().map_err(struck)?;
        Ok(Whereabouts {
            place: Place {
                inode: self.id as u64 + 1,
                born: self.id as i64 + 1,
            },
            mount: MountId::Unique(state.mount),
        })
    }
}
