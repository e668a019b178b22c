//! Listing directories.
//!
//! A position in a listing is a cookie that stays good however much is committed meanwhile: the
//! committed chunks have their ids, everything else has its place in a list that was made when the
//! directory was opened or rewound. A chunk that was in flight then is not listed again when it is
//! committed while the listing goes on.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use super::handle::{Handle, Listing, Names};
use super::inodes::{Control, Kind, ROOT};
use super::lookup::enter;
use super::{Fs, Opened, control, numbers};
use crate::dataset;
use crate::disk::paths::DATA;
use crate::error::Result;
use crate::store::Listed;

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

impl Fs {
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

    fn names(&self, ino: u64) -> Result<Names> {
        let node = self.inodes.get(ino)?;
        match &node.kind {
            Kind::Control(control) => self.control_names(node.parent, control),
            _ => self.directory_names(ino, node.parent),
        }
    }

    /// Of something in the `.npyfs` of `dir`.
    fn control_names(&self, dir: u64, control: &Control) -> Result<Names> {
        let place = self.same_place(dir)?;
        let number = |control: &Control| numbers::of_control(place.stat(), control);
        let mut others = Vec::new();
        if let Control::Kept(kept) = control {
            others.extend([listed(".", true, number(control))]);
            others.extend([listed("..", true, number(&Control::Dir))]);
            let mut files = match enter(&place, kept.way())? {
                Some(directory) => directory.list()?,
                None => Vec::new(),
            };
            // Newest first.
            files.sort_by(|a, b| b.cmp(a));
            others.extend(files);
        } else {
            others.extend([listed(".", true, number(control))]);
            others.extend([listed("..", true, place.stat().st_ino)]);
            let at_root = dir == ROOT;
            for &(name, is_dir) in control::names(at_root) {
                if let Some(control) = control::named(OsStr::new(name), at_root) {
                    others.push(listed(name, is_dir, number(&control)));
                }
            }
        }
        Ok(Names {
            others,
            ..Names::default()
        })
    }

    /// Of a dataset's directory, or of the root, in the directory `above`.
    fn directory_names(&self, ino: u64, above: u64) -> Result<Names> {
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
            names.array = Some(numbers::of_array(place.stat(), OsStr::new(DATA)));
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
}

fn listed(name: &str, is_dir: bool, inode: u64) -> Listed {
    Listed {
        name: name.into(),
        is_dir,
        inode,
    }
}
