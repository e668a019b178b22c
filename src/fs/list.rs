//! Listing directories.
//!
//! A position in a listing is a cookie that stays good however much is committed meanwhile: the
//! committed chunks have their ids, everything else has its place in a list that was made when the
//! directory was opened or rewound. A chunk that was in flight then is not listed again when it is
//! committed while the listing goes on.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use super::control;
use super::handle::{Handle, Listing, Names};
use super::inodes::{Control, Kind, ROOT};
use super::lookup::enter;
use super::{Fs, Opened};
use crate::dataset;
use crate::disk::paths::DATA;
use crate::error::Result;

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// Whether it is a directory.
    pub is_dir: bool,
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
            for (place, (name, is_dir)) in names.others.iter().enumerate().skip(offset as usize) {
                let next = place as u64 + 1;
                let is_dir = *is_dir;
                if each(Entry { name, is_dir, next }) {
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
        while let Some((name, next)) = chunks.as_ref().and_then(|dataset| dataset.next_name(id)) {
            if next > names.end_id {
                break;
            }
            let entry = Entry {
                name: &name,
                is_dir: false,
                next: CHUNKS + u64::from(next),
            };
            if each(entry) {
                return Ok(());
            }
            id = next;
        }
        if names.array {
            // Full or not, nothing comes after it.
            each(Entry {
                name: OsStr::new(DATA),
                is_dir: false,
                next: END,
            });
        }
        Ok(())
    }

    fn names(&self, ino: u64) -> Result<Names> {
        let node = self.inodes.get(ino)?;
        let mut others: Vec<(OsString, bool)> = vec![(".".into(), true), ("..".into(), true)];
        let (mut end_id, mut array) = (0, false);
        match &node.kind {
            Kind::Control(Control::Dir) => {
                let names = control::names(node.parent == ROOT);
                others.extend(names.iter().map(|&(name, is_dir)| (name.into(), is_dir)));
            }
            Kind::Control(Control::Kept(kept)) => {
                let place = self.same_place(node.parent)?;
                if let Some(directory) = enter(&place, kept.way())? {
                    let mut files = directory.list()?;
                    // Newest first.
                    files.sort_by(|a, b| b.cmp(a));
                    others.extend(files);
                }
            }
            _ => {
                let mut found = self.same_place(ino)?.list()?;
                found.sort();
                if ino != ROOT {
                    let dataset = self.dataset(ino)?;
                    // In flight before the catalog's end: a chunk that is committed in between is
                    // in the first list only.
                    let in_flight = dataset.in_flight_names();
                    array = dataset.snapshot()?.is_some();
                    end_id = dataset.end_id();
                    let stored: HashSet<OsString> =
                        found.iter().map(|(name, _)| name.clone()).collect();
                    for name in in_flight {
                        if !stored.contains(&name) && dataset.chunk(&name)?.is_none() {
                            others.push((name, false));
                        }
                    }
                    // A chunk that was appended from a file beside it is listed once.
                    let mut kept = Vec::with_capacity(found.len());
                    for (name, is_dir) in found {
                        if dataset::Kind::of(&name) != dataset::Kind::Chunk
                            || dataset.chunk(&name)?.is_none()
                        {
                            kept.push((name, is_dir));
                        }
                    }
                    found = kept;
                }
                others.extend(found);
            }
        }
        Ok(Names {
            others,
            end_id,
            array,
        })
    }
}
