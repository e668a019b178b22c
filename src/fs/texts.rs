//! What npyfs says of a dataset or of itself, as texts in `.npyfs`.
//!
//! A text is what it was when it was looked up, and an inode of its own: its size is true, so that programs
//! which copy by size, by `sendfile` or from a mapping get all of it.

use std::ffi::OsStr;

use super::attr::{TTL, control_attr};
use super::control::{Body, Control, GeneratedFile, Text};
use super::handle::Handle;
use super::inodes::{Inode, Kind};
use super::{Attr, Fs, Mode, Need, Opened, Route};
use crate::error::Result;
use crate::store::Seen;

/// Lists of chunks up to this length, in bytes, are made when they are looked up. Of a longer one only what it
/// takes to make the same is kept, which names that are removed or written again may end.
const SMALL: u64 = 256 << 10;

/// Lists of chunks that are longer, in bytes, are made as they are read.
const LONGEST: u64 = 16 << 20;

impl Fs {
    /// What something in the `.npyfs` of `dir` says now, where it is a text that is made.
    pub(super) fn text(&self, dir: u64, control: &Control) -> Result<Option<Text>> {
        let whole = |text: String| Body::Whole(text.into_bytes().into());
        let body = match control {
            Control::Daemon => whole(format!("{}\n", std::process::id())),
            Control::Losses => whole(format!("{}\n", self.store.losses_by_now())),
            Control::Status => {
                let status = self.dataset(dir)?.status()?;
                whole(format!("{:#}\n", status.to_json()))
            }
            Control::Chunks => {
                let dataset = self.dataset(dir)?;
                let edition = dataset.csv_edition()?;
                if edition.len > SMALL {
                    Body::Csv(edition)
                } else {
                    Body::Whole(dataset.csv_text(&edition).0.into())
                }
            }
            Control::Dir | Control::Log | Control::Kept(_) | Control::KeptFile(..) => {
                return Ok(None);
            }
        };
        let control = control.clone();
        Ok(Some(Text { control, body }))
    }

    pub(super) fn text_entry(&self, dir: u64, text: Text) -> Result<Attr> {
        let attr = self.text_attr(dir, &text)?;
        let seen = Seen::of(self.same_place(dir)?.stat());
        Ok(attr.at(self.inodes.text(dir, text, seen)))
    }

    pub(super) fn text_attr(&self, dir: u64, text: &Text) -> Result<Attr> {
        let place = self.same_place(dir)?;
        let shown = self.directory_attr(Some(dir), &place)?;
        let mut attr = control_attr(place.stat(), (dir, place.stat()), &text.control);
        (attr.mtime, attr.ctime) = (shown.mtime, shown.ctime);
        attr.size = text.len();
        attr.blocks = text.len().div_ceil(512);
        attr.attr_ttl = TTL;
        Ok(attr)
    }

    pub(super) fn open_text(&self, node: &Inode, text: &Text) -> Result<Opened> {
        let (file, mode) = match &text.body {
            Body::Whole(text) => (GeneratedFile::Whole(text.clone()), Mode::Kept),
            Body::Csv(edition) => {
                let dataset = self.dataset(node.parent)?;
                if edition.len > LONGEST {
                    (GeneratedFile::csv(dataset, *edition), Mode::Kept)
                } else {
                    let (text, is_that) = dataset.csv_text(edition);
                    if !is_that {
                        // The kernel looks it up again, and opens that.
                        return Err(err!(
                            ESTALE,
                            "names of chunks were changed since chunks.csv was looked up"
                        ));
                    }
                    (GeneratedFile::Whole(text.into()), Mode::Kept)
                }
            }
        };
        let fh = self.handles.insert(Handle::GeneratedFile(file));
        Ok(Opened { fh, mode })
    }

    /// The route of a lookup in a directory where nothing has a chunk's name: some texts are made of a
    /// dataset, which may not be open.
    pub(super) fn ordinary_route(&self, parent: u64, name: &OsStr) -> Route {
        let is_made = name == "status.json" || name == "chunks.csv";
        if is_made
            && let Ok(node) = self.inodes.get(parent)
            && let Kind::Control(Control::Dir) = node.kind
        {
            return self.route(node.parent, Need::Open, true);
        }
        Route::Here(None)
    }
}
