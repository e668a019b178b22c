//! What is compared with the reference: the engine alone, or a mount.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use npyfs::dataset::disk::DiskFile;
use npyfs::dataset::{Attributes, Budget, Change, Committed, Face, Found, View, Writing};
use npyfs::{Dataset, DatasetOptions};

use crate::common;
use crate::reference::Answer;

/// A committed chunk as a reader sees it.
#[derive(Debug)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime: i64,
}

/// A line of `chunks.csv`.
pub type Line = (String, u64, u64);

/// The calls that a producer or a reader makes on one dataset.
pub trait System {
    type Handle;
    type Snapshot;

    fn open(&mut self, name: &str, truncate: bool) -> Result<Self::Handle, Errno>;
    fn write(&mut self, handle: &Self::Handle, data: &[u8], offset: u64) -> Answer;
    fn set_len(&mut self, handle: &Self::Handle, len: u64) -> Answer;
    fn read(&mut self, handle: &Self::Handle) -> Result<Vec<u8>, Errno>;
    /// A duplicate of the descriptor is closed by the process that opened it.
    fn flush(&mut self, handle: &Self::Handle) -> Answer;
    /// Another process closes a duplicate of this descriptor, or, if the system cannot do that
    /// for one alone, of all of them: which, in what order, and the answers where they can be had.
    fn flush_elsewhere(
        &mut self,
        handles: &[Option<Self::Handle>],
        which: usize,
    ) -> Vec<(usize, Option<Answer>)>;
    fn fsync(&mut self, handle: &Self::Handle) -> Answer;
    /// The last descriptor is closed. Where that is a close like any other, its answer.
    fn release(&mut self, handle: Self::Handle) -> Option<Answer>;
    fn unlink(&mut self, name: &str) -> Answer;
    fn rename(&mut self, from: &str, to: &str) -> Answer;
    fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer;
    fn set_attributes(&mut self, name: &str, mode: u32, mtime: i64) -> Answer;
    fn sync(&mut self) -> Answer;
    /// Closes everything and opens it again; no handle is open.
    fn reopen(&mut self);

    fn names(&mut self) -> BTreeSet<String>;
    fn chunk(&mut self, name: &str) -> Option<Seen>;
    fn lines(&mut self) -> Vec<Line>;
    fn snapshot(&mut self) -> Option<Self::Snapshot>;
    fn contents(&mut self, snapshot: &Self::Snapshot) -> Vec<u8>;
    /// `data.npy` in the store.
    fn stored(&mut self) -> Option<Vec<u8>>;
}

/// The engine on a directory of its own.
#[derive(Debug)]
pub struct Engine {
    directory: tempfile::TempDir,
    options: DatasetOptions,
    dataset: Arc<Dataset>,
}

impl Engine {
    /// With so much memory for bodies in flight: with none at all, every chunk streams.
    pub fn new(memory: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = DatasetOptions {
            memory: Budget::new(memory),
            ..DatasetOptions::default()
        };
        let dataset = Dataset::open(directory.path(), options.clone()).unwrap();
        Engine {
            directory,
            options,
            dataset,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn committed(&self, name: &str) -> Option<Committed> {
        self.dataset.chunk(OsStr::new(name)).unwrap()
    }
}

fn is_unlocked(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else {
        return true;
    };
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type == nix::libc::F_UNLCK as i16
}

fn answer<T>(result: npyfs::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| error.errno())
}

pub fn read_whole(
    mut read: impl FnMut(&mut [u8], u64) -> npyfs::Result<usize>,
) -> Result<Vec<u8>, Errno> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 100_000]);
    loop {
        match answer(read(&mut piece, bytes.len() as u64))? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

impl System for Engine {
    type Handle = Writing;
    type Snapshot = View;

    fn open(&mut self, name: &str, truncate: bool) -> Result<Writing, Errno> {
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
        };
        let writing = answer(self.dataset.begin(OsStr::new(name), face, truncate))?;
        // As the filesystem does it: an empty file makes way for its chunk.
        if matches!(writing, Writing::New(_)) {
            fs::remove_file(self.path(name)).unwrap_or_default();
        }
        Ok(writing)
    }

    fn write(&mut self, handle: &Writing, data: &[u8], offset: u64) -> Answer {
        match handle {
            Writing::New(incoming) => answer(incoming.write(data, offset, || ())),
            Writing::Again(rewrite) => answer(rewrite.write(data, offset)),
        }
    }

    fn set_len(&mut self, handle: &Writing, len: u64) -> Answer {
        match handle {
            Writing::New(incoming) => answer(incoming.set_len(len)),
            Writing::Again(rewrite) => answer(rewrite.set_len(len)),
        }
    }

    fn read(&mut self, handle: &Writing) -> Result<Vec<u8>, Errno> {
        match handle {
            Writing::New(incoming) => read_whole(|buffer, at| incoming.read(buffer, at)),
            Writing::Again(rewrite) => read_whole(|buffer, at| rewrite.read(buffer, at)),
        }
    }

    fn flush(&mut self, handle: &Writing) -> Answer {
        match handle {
            Writing::New(incoming) => answer(incoming.flush(|| true)),
            Writing::Again(rewrite) => answer(rewrite.flush(|| true)),
        }
    }

    fn flush_elsewhere(
        &mut self,
        handles: &[Option<Writing>],
        which: usize,
    ) -> Vec<(usize, Option<Answer>)> {
        let flushed = match &handles[which] {
            Some(Writing::New(incoming)) => incoming.flush(|| false),
            Some(Writing::Again(rewrite)) => rewrite.flush(|| false),
            None => return Vec::new(),
        };
        vec![(which, Some(answer(flushed)))]
    }

    fn fsync(&mut self, handle: &Writing) -> Answer {
        if let Writing::New(incoming) = handle {
            answer(incoming.commit_if_whole())?;
        }
        self.sync()
    }

    fn release(&mut self, handle: Writing) -> Option<Answer> {
        if let Writing::New(incoming) = handle {
            incoming.release();
        }
        None
    }

    fn unlink(&mut self, name: &str) -> Answer {
        match self.dataset.find(OsStr::new(name)).unwrap() {
            Some(Found::InFlight(incoming)) => answer(self.dataset.abort(&incoming)),
            Some(Found::Committed(_)) => Err(Errno::EPERM),
            None => fs::remove_file(self.path(name)).map_err(|_| Errno::ENOENT),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Answer {
        let found = self.dataset.find(OsStr::new(from)).unwrap();
        match found {
            None if from == to && self.path(from).exists() => Ok(()),
            None => Err(Errno::ENOENT),
            Some(_) if from == to => Ok(()),
            Some(Found::InFlight(_)) => Err(Errno::EBUSY),
            Some(Found::Committed(_)) if self.path(to).exists() => Err(Errno::EEXIST),
            Some(Found::Committed(_)) => {
                answer(self.dataset.rename(OsStr::new(from), OsStr::new(to)))
            }
        }
    }

    fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer {
        let path = self.path("ordinary");
        fs::write(&path, bytes).unwrap();
        let blob = DiskFile::new(fs::File::open(&path).unwrap());
        let name = OsStr::new(to);
        let attributes = Attributes {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 5,
        };
        let append = || {
            answer(self.dataset.append_blob(name, &blob, attributes)).map_err(|errno| {
                if errno == Errno::EINVAL {
                    Errno::EBADMSG
                } else {
                    errno
                }
            })
        };
        let renamed = match self.dataset.find(name).unwrap() {
            Some(Found::InFlight(incoming)) if incoming.is_paused() => {
                append().map(|()| self.dataset.supersede(&incoming))
            }
            Some(Found::InFlight(_)) => Err(Errno::EBUSY),
            Some(Found::Committed(_)) => answer(self.dataset.compare_blob(name, &blob)),
            None => append(),
        };
        fs::remove_file(&path).unwrap();
        renamed
    }

    fn set_attributes(&mut self, name: &str, mode: u32, mtime: i64) -> Answer {
        let change = Change {
            mode: Some(mode),
            mtime: Some(mtime),
            ..Change::default()
        };
        match self.dataset.find(OsStr::new(name)).unwrap() {
            Some(Found::InFlight(incoming)) => answer(incoming.set_attributes(&change)),
            Some(Found::Committed(_)) => {
                answer(self.dataset.set_attributes(OsStr::new(name), &change))
            }
            None => Err(Errno::ENOENT),
        }
    }

    fn sync(&mut self) -> Answer {
        answer(self.dataset.sync())
    }

    fn reopen(&mut self) {
        let left = fs::read_dir(self.path(".npyfs/incoming")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "files are left in incoming");
        self.dataset.close().unwrap();
        // A program that another test starts keeps our descriptors, and with them the lock, until it
        // executes.
        assert!(common::eventually(Duration::from_secs(10), || {
            is_unlocked(&self.path(".npyfs/lock"))
        }));
        self.dataset = Dataset::open(self.directory.path(), self.options.clone()).unwrap();
    }

    fn names(&mut self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut add = |name: std::ffi::OsString| {
            let name = name.into_string().unwrap();
            assert!(names.insert(name.clone()), "{name} is there twice");
        };
        let mut id = 0;
        while let Some((name, next)) = self.dataset.next_name(id) {
            add(name);
            id = next;
        }
        self.dataset
            .in_flight_names()
            .into_iter()
            .for_each(&mut add);
        for file in fs::read_dir(self.directory.path()).unwrap() {
            let name = file.unwrap().file_name();
            if name != "data.npy" && name != ".npyfs" {
                add(name);
            }
        }
        names
    }

    fn chunk(&mut self, name: &str) -> Option<Seen> {
        let chunk = self.committed(name)?;
        let bytes = read_whole(|buffer, at| chunk.view.read_at(buffer, at)).unwrap();
        assert_eq!(chunk.view.len(), bytes.len() as u64);
        Some(Seen {
            bytes,
            mode: chunk.receipt.attributes.mode,
            mtime: chunk.receipt.attributes.mtime,
        })
    }

    fn lines(&mut self) -> Vec<Line> {
        let (mut id, mut lines) = (0, Vec::new());
        while let Some((line, next)) = self.dataset.csv_line(id) {
            lines.push(parse_line(&line));
            id = next;
        }
        lines
    }

    fn snapshot(&mut self) -> Option<View> {
        self.dataset.snapshot().unwrap()
    }

    fn contents(&mut self, snapshot: &View) -> Vec<u8> {
        let bytes = read_whole(|buffer, at| snapshot.read_at(buffer, at)).unwrap();
        assert_eq!(snapshot.len(), bytes.len() as u64);
        bytes
    }

    fn stored(&mut self) -> Option<Vec<u8>> {
        fs::read(self.path("data.npy")).ok()
    }
}

pub fn parse_line(line: &str) -> Line {
    let mut fields = line.split(',');
    let mut field = || fields.next().unwrap().to_owned();
    (field(), field().parse().unwrap(), field().parse().unwrap())
}
