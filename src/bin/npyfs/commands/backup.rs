//! `npyfs backup`: a second copy of a store that is brought up to date while it is written.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::HumanBytes;
use npyfs::dataset::Copied;
use npyfs::error::Errno;
use npyfs::store::{self, Store, Witness};
use npyfs::{Error, Result};

use super::place::Place;
use super::progress::Bar;
use super::walk;
use crate::exit::{Exit, Failure, OrExit};
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The store, or where it is mounted; daemons may write to it meanwhile
    store: PathBuf,
    /// The copy: an earlier backup of this store, or a directory that is empty or not there yet
    destination: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::find(&args.store)?;
    let destination = Place::find(&args.destination)?;
    let refuse = |why: String| Err(Failure::new(Exit::Store, why));
    let shown = place.shown();
    if !place.path.is_dir() {
        return refuse(format!("{shown} is no directory: name a store"));
    }
    if walk::is_dataset(&place.path) {
        return refuse(format!(
            "{shown} is a dataset: name the store, the directory above it"
        ));
    }
    if destination.mount.is_some() {
        return refuse(format!(
            "{} is in an npyfs mount: a copy lies beside a store, in a directory of its own",
            destination.shown()
        ));
    }
    if destination.path.starts_with(&place.path) || place.path.starts_with(&destination.path) {
        return refuse(format!(
            "{} and the store {} are one inside the other",
            destination.shown(),
            place.path.display()
        ));
    }
    // Closed to others, as the directory above the store may be.
    match DirBuilder::new().mode(0o700).create(&destination.path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).or_exit(Exit::Store, || {
                format!("cannot make {}", destination.shown())
            });
        }
        _ => {}
    }
    let from = open(&place.path, true)?;
    let to = open(&destination.path, false)?;
    let mut told = Told::default();
    store::back_up(&from, &to, &mut told).map_err(|error| {
        let exit = match error.errno() {
            Errno::EEXIST => Exit::Store,
            Errno::EBUSY => Exit::Busy,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })?;
    told.end(&destination.path)
}

fn open(path: &Path, read_only: bool) -> Result<Arc<Store>, Failure> {
    let options = store::Options {
        read_only,
        ..store::Options::default()
    };
    Store::open(path, options).map_err(|error| Failure::new(Exit::Store, error.to_string()))
}

/// What the backup has told.
#[derive(Default)]
struct Told {
    bar: Option<(PathBuf, Bar)>,
    datasets: u64,
    new_rows: u64,
    bytes: u64,
    files: u64,
    damaged: u64,
    failed: u64,
    /// Why a line could not be printed.
    unprinted: Option<Failure>,
}

impl Told {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        if self.unprinted.is_none() {
            self.unprinted = output::line(text).err();
        }
    }

    fn end(mut self, destination: &Path) -> Result<(), Failure> {
        let (datasets, files) = (self.datasets, self.files);
        let (rows, bytes) = (self.new_rows, HumanBytes(self.bytes));
        let shown = destination.display();
        self.line(format_args!(
            "{shown}: {datasets} datasets, {rows} new rows, {bytes}; {files} new or changed files"
        ));
        let mut failures = Vec::new();
        if self.damaged > 0 {
            failures.push(format!(
                "{} of {datasets} datasets are damaged",
                self.damaged
            ));
        }
        if self.failed > 0 {
            failures.push(format!(
                "{} datasets or files could not be copied",
                self.failed
            ));
        }
        let failure = failures.join(", and ");
        match (self.damaged, self.failed) {
            (0, 0) => self.unprinted.map_or(Ok(()), Err),
            (0, _) => Err(Failure::new(Exit::Failed, failure)),
            _ => Err(Failure::new(Exit::Damage, failure)),
        }
    }
}

impl Witness for Told {
    fn progress(&mut self, path: &Path, done: u64, of: u64) {
        let bar = match &self.bar {
            Some((shown, bar)) if shown == path => bar,
            _ => &self.bar.insert((path.to_owned(), Bar::new(path))).1,
        };
        bar.show(done, of);
    }

    fn dataset(&mut self, path: &Path, copied: npyfs::Result<Copied>) {
        self.bar = None;
        let shown = path.display();
        self.datasets += 1;
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) if error.errno() == Errno::EIO => {
                self.damaged += 1;
                return self.line(format_args!("{shown}: DAMAGED: {error}"));
            }
            Err(error) => {
                self.failed += 1;
                return self.line(format_args!("{shown}: NOT COPIED: {error}"));
            }
        };
        for line in &copied.notes {
            self.line(format_args!("{shown}: {line}"));
        }
        for line in &copied.damage {
            self.line(format_args!("{shown}: DAMAGED: {line}"));
        }
        self.damaged += u64::from(!copied.damage.is_empty());
        self.new_rows += copied.new_rows;
        self.bytes += copied.bytes;
        if copied.new_rows > 0 {
            self.line(format_args!(
                "{shown}: {} rows, {} of them new",
                copied.rows, copied.new_rows
            ));
        }
    }

    fn file(&mut self, _path: &Path) {
        self.files += 1;
    }

    fn failed(&mut self, path: &Path, error: &Error) {
        self.failed += 1;
        self.line(format_args!("{}: NOT COPIED: {error}", path.display()));
    }
}
