//! Directories: making, removing, moving and listing them.
//!
//! A position in a listing is a cookie that stays good however much is committed meanwhile: the
//! committed chunks have their ids, everything else has its place in a list that was made when the
//! directory was opened or rewound. A chunk that was in flight then is not listed again when it is
//! committed while the listing goes on.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use super::array::reserved;
use super::attr::file_attr;
use super::control::Control;
use super::handle::{Handle, Listing, Names};
use super::inodes::{Kind, ROOT};
use super::{Attr, Caller, Fs, Opened, numbers};
use crate::dataset;
use crate::disk::paths::DATA;
use crate::disk::{Change, clock};
use crate::error::{Errno, Result};
use crate::store::{self, Listed, Maker, Place, Seen};

impl Fs {
    pub(super) fn change_directory(&self, ino: u64, mut change: Change) -> Result<()> {
        let place = self.same_place(ino)?;
        let dataset = self.inodes.dataset(ino);
        let names_changed = dataset.as_ref().map(|dataset| dataset.names_changed());
        if dataset.is_some() && change.mtime.is_none() {
            // With any other change the store's directory gets the time that it is shown with: after it, the
            // store's own time tells of the last chunk no more that it came later.
            let shown = self.directory_attr(Some(ino), &place)?.mtime;
            change.mtime =
                (shown != store::mtime_system(place.stat())).then(|| clock::from_system(shown));
        }
        let directory = place.into_entry();
        if ino != ROOT {
            self.check_owner(ino, directory.stat())?;
        }
        directory.set_attributes(&change)?;
        if let Some((dataset, at)) = dataset.zip(names_changed)
            && change.mtime.is_some()
        {
            dataset.directory_time_was_set(at);
        }
        Ok(())
    }

    pub(super) fn dir_name(&self, name: &OsStr) -> Result<()> {
        match dataset::Kind::of(name) {
            dataset::Kind::Ordinary => Ok(()),
            dataset::Kind::Chunk => Err(err!(
                EPERM,
                "{} is a name for a chunk, not for a directory",
                name.display()
            )),
            _ => Err(reserved(name)),
        }
    }

    /// Removes a directory that has neither rows nor files.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `EPERM` for npyfs's own, and those of the store.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.directory(parent)?.ino;
        self.writable()?;
        if dataset::Kind::of(name) == dataset::Kind::Control {
            return Err(reserved(name));
        }
        let place = self.place(dir)?;
        let stat = self.found(&place, name)?;
        if !store::is_dir(&stat) {
            let path = place.path().join(name);
            return Err(err!(ENOTDIR, "{} is not a directory", path.display()));
        }
        let ino = self.check_name(dir, name, &stat)?;
        self.store
            .remove_dir(&place, name, &self.same_place(ino)?)?;
        self.inodes.removed(dir, name);
        Ok(())
    }

    /// Renames a directory or an ordinary file in the store.
    pub(super) fn move_entry(
        &self,
        (from, from_dir, name): (&Place<'_>, u64, &OsStr),
        to_dir: u64,
        newname: &OsStr,
        no_replace: bool,
    ) -> Result<()> {
        let other = match from_dir == to_dir {
            true => None,
            false => Some(self.place(to_dir)?),
        };
        let to = other.as_ref().unwrap_or(from);
        let replaced = to.find(newname)?.filter(|_| !no_replace);
        if let Some(stat) = &replaced {
            self.check_name(to_dir, newname, stat)?;
        }
        let renamed = self
            .store
            .rename((from, name), (to, newname), replaced.is_some());
        match renamed {
            Err(error) if error.errno() == Errno::EEXIST && !no_replace => Err(to.taken(newname)?),
            renamed => renamed,
        }
    }

    /// A directory as its chunks have changed it, where they are known. It has the number `ino`, if any.
    pub(super) fn directory_attr(&self, ino: Option<u64>, place: &Place<'_>) -> Result<Attr> {
        let dataset = ino.and_then(|ino| self.inodes.dataset(ino));
        // The kernel asks after each chunk that is created: as little as possible is looked at.
        let has_control = dataset.as_ref().is_some_and(|dataset| dataset.is_owned());
        let mut attr = file_attr(place.stat());
        attr.nlink = place.links(has_control)?;
        if let Some(dataset) = dataset {
            let times = (
                clock::from_system(attr.mtime),
                clock::from_system(attr.ctime),
            );
            let (mtime, ctime) = dataset.directory_times(times);
            attr.mtime = clock::to_system(mtime);
            attr.ctime = clock::to_system(ctime);
        }
        Ok(attr)
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`.
    pub fn opendir(&self, ino: u64) -> Result<Opened> {
        match self.inodes.get(ino)?.kind {
            Kind::Dir => drop(self.place(ino)?),
            Kind::Control(Control::Dir | Control::Kept(_)) => {}
            _ => return Err(err!(ENOTDIR, "inode {ino} is not a directory")),
        }
        Ok(Opened {
            fh: self.handles.insert(Handle::Dir(Listing::default())),
            mode: super::Mode::Cached,
        })
    }

    /// Lists from position `offset` on, until `each` answers that it is full.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`, and those of the store.
    pub fn readdir(
        &self,
        ino: u64,
        fh: u64,
        offset: u64,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let Handle::Dir(listing) = &*handle else {
            return Err(err!(ENOTDIR, "handle {fh} is not a directory"));
        };
        let mut names = crate::lock(&listing.state);
        if offset == 0 {
            *names = self.names(ino)?;
        }
        if offset < CHUNKS {
            for (place, listed) in names.others.iter().enumerate().skip(offset as usize) {
                let entry = Entry {
                    name: &listed.name,
                    is_dir: listed.is_dir,
                    number: listed.inode,
                    next: place as u64 + 1,
                };
                if each(entry) {
                    return Ok(());
                }
            }
        }
        let mut id = offset.saturating_sub(CHUNKS).min(u64::from(u32::MAX)) as u32;
        if offset >= END {
            return Ok(());
        }
        let mut chunks = None;
        if id < names.end_id {
            chunks = Some(self.dataset(ino)?);
        }
        while let Some(dataset) = &chunks
            && let Some((name, number, next)) = dataset.next_numbered(id)?
        {
            if next > names.end_id {
                break;
            }
            let entry = Entry {
                name: &name,
                is_dir: false,
                number: numbers::chunk(number),
                next: CHUNKS + u64::from(next),
            };
            if each(entry) {
                return Ok(());
            }
            id = next;
        }
        if let Some(number) = names.array {
            // Full or not, nothing comes after it.
            each(Entry {
                name: OsStr::new(DATA),
                is_dir: false,
                number,
                next: END,
            });
        }
        Ok(())
    }

    pub(super) fn names(&self, ino: u64) -> Result<Names> {
        let node = self.inodes.get(ino)?;
        match &node.kind {
            Kind::Control(control) => self.control_names(node.parent, control),
            _ => self.directory_names(ino, node.parent),
        }
    }

    /// Of a dataset's directory, or of the root, in the directory `above`.
    pub(super) fn directory_names(&self, ino: u64, above: u64) -> Result<Names> {
        let place = self.same_place(ino)?;
        let above = self.same_place(above)?.stat().st_ino;
        let mut names = Names {
            others: vec![
                listed(".", true, place.stat().st_ino),
                listed("..", true, above),
            ],
            ..Names::default()
        };
        let mut found = place.list()?;
        found.sort();
        if ino == ROOT {
            names.others.extend(found);
            return Ok(names);
        }
        let dataset = self.dataset(ino)?;
        // In flight before the catalog's end: a chunk that is committed in between is in the first list
        // only.
        let in_flight = dataset.in_flight_names();
        if dataset.snapshot()?.is_some() {
            names.array = Some(numbers::of_array(&Seen::of(place.stat()), OsStr::new(DATA)));
        }
        names.end_id = dataset.end_id();
        let stored: HashSet<OsString> = found.iter().map(|entry| entry.name.clone()).collect();
        for name in in_flight {
            if !stored.contains(&name) && dataset.chunk(&name)?.is_none() {
                let inode = numbers::of_chunk(&dataset, &name)?;
                let is_dir = false;
                names.others.push(Listed {
                    name,
                    is_dir,
                    inode,
                });
            }
        }
        for mut entry in found {
            let is_chunk = dataset::Kind::of(&entry.name) == dataset::Kind::Chunk;
            // A chunk that was appended from a file beside it is listed once.
            if is_chunk && dataset.chunk(&entry.name)?.is_some() {
                continue;
            }
            if is_chunk && !entry.is_dir {
                entry.inode = numbers::of_chunk(&dataset, &entry.name)?;
            }
            names.others.push(entry);
        }
        Ok(names)
    }

    /// Makes a directory: a dataset.
    ///
    /// # Errors
    /// `EPERM` for a chunk's name or npyfs's own, and those of the store.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: &Caller) -> Result<Attr> {
        let dir = self.directory(parent)?.ino;
        self.writable()?;
        self.dir_name(name)?;
        let maker = Maker {
            mode,
            uid: caller.uid,
            gid: caller.gid,
        };
        let stat = self.place(dir)?.make_dir(name, &maker)?;
        let node = self.name_node(dir, name, true, Some(Seen::of(&stat)));
        Ok(file_attr(&stat).at(node))
    }
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its number, as `stat` shows it.
    pub number: u64,
    /// The position after it.
    pub next: u64,
}

/// Positions below this are in the list of others; those from it on are ids of chunks.
const CHUNKS: u64 = 1 << 32;

/// The end of the listing, after the array: `rm -r` removes in this order, and the array takes the
/// names with it.
const END: u64 = 1 << 62;

pub(super) fn listed(name: &str, is_dir: bool, inode: u64) -> Listed {
    Listed {
        name: name.into(),
        is_dir,
        inode,
    }
}
