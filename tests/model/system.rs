//! What is compared with the reference: the engine alone, or a mount.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use npyfs::dataset::{
    Attributes, Budget, Change, ChunkHandle, Committed, Descriptors, Face, Found, Start, View,
};
use npyfs::disk::OsFile;
use npyfs::{Dataset, Options};

use crate::common;
use crate::reference::{Answer, Holder, Left};

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

    /// Opens a chunk, with the one descriptor that it has then. No two slots are opened in the same
    /// way: descriptors of different slots can be told apart.
    fn open(&mut self, slot: usize, name: &str, truncate: bool) -> Result<Self::Handle, Errno>;
    /// Opens what a handle has open, and what has this name, once more: through that handle's
    /// descriptor where this can be.
    fn through(
        &mut self,
        slot: usize,
        handle: &Self::Handle,
        name: &str,
        truncate: bool,
    ) -> Result<Self::Handle, Errno>;
    fn write(&mut self, handle: &Self::Handle, data: &[u8], offset: u64) -> Answer;
    fn set_len(&mut self, handle: &Self::Handle, len: u64) -> Answer;
    fn reserve(&mut self, handle: &Self::Handle, end: u64) -> Answer;
    /// `None` where the handle cannot read.
    fn read(&mut self, handle: &Self::Handle) -> Option<Result<Vec<u8>, Errno>>;
    /// One more descriptor of a handle, last in their order. Where a program is started for that,
    /// it closes what it does not inherit: see [`System::spawn`].
    fn dup(
        &mut self,
        handles: &mut [Option<Self::Handle>],
        slot: usize,
        holder: Holder,
    ) -> Vec<(usize, Option<Answer>)>;
    /// The n-th descriptor, which is under way in a socket, comes to our process.
    fn receive(&mut self, handle: &mut Self::Handle, n: usize);
    /// Closes the n-th descriptor: the answer, where it can be had.
    fn close(&mut self, handle: &mut Self::Handle, n: usize, left: Left) -> Option<Answer>;
    /// Starts a program and waits for its end. It closes copies of the descriptors that our process
    /// has: whose, in what order, and the answers where they can be had.
    fn spawn(&mut self, handles: &[Option<Self::Handle>]) -> Vec<(usize, Option<Answer>)>;
    fn fsync(&mut self, handle: &Self::Handle) -> Answer;
    /// No descriptor is left.
    fn ended(&mut self, handle: Self::Handle);
    fn unlink(&mut self, name: &str) -> Answer;
    fn rename(&mut self, from: &str, to: &str) -> Answer;
    fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer;
    fn truncate(&mut self, name: &str, len: u64) -> Answer;
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
    options: Options,
    dataset: Arc<Dataset>,
}

impl Engine {
    /// With so much memory for bodies in flight: with none at all, every chunk streams.
    pub fn new(memory: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            memory: Budget::new(memory),
            ..Options::default()
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

/// An open chunk, and where its descriptors are.
#[derive(Debug)]
pub struct Writer {
    writer: ChunkHandle,
    held: Vec<Holder>,
}

impl Descriptors for Left {
    fn others_can_write(&self) -> bool {
        self.others
    }

    fn is_meant(&self) -> bool {
        self.meant
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
    type Handle = Writer;
    type Snapshot = View;

    fn open(&mut self, _slot: usize, name: &str, truncate: bool) -> Result<Writer, Errno> {
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
        };
        let start = if truncate {
            Start::Truncate
        } else {
            Start::Keep
        };
        let writer = answer(self.dataset.begin(OsStr::new(name), face, start))?;
        // As the filesystem does it: an empty file makes way for its chunk.
        if writer.is_new() {
            fs::remove_file(self.path(name)).unwrap_or_default();
        }
        Ok(Writer {
            writer,
            held: vec![Holder::Own],
        })
    }

    fn through(
        &mut self,
        slot: usize,
        _handle: &Writer,
        name: &str,
        truncate: bool,
    ) -> Result<Writer, Errno> {
        self.open(slot, name, truncate)
    }

    fn write(&mut self, handle: &Writer, data: &[u8], offset: u64) -> Answer {
        answer(handle.writer.write(data, offset, || ()))
    }

    fn set_len(&mut self, handle: &Writer, len: u64) -> Answer {
        answer(handle.writer.set_len(len))
    }

    fn reserve(&mut self, handle: &Writer, end: u64) -> Answer {
        answer(handle.writer.reserve(end))
    }

    fn read(&mut self, handle: &Writer) -> Option<Result<Vec<u8>, Errno>> {
        Some(read_whole(|buffer, at| handle.writer.read(buffer, at)))
    }

    fn dup(
        &mut self,
        handles: &mut [Option<Writer>],
        slot: usize,
        holder: Holder,
    ) -> Vec<(usize, Option<Answer>)> {
        let handle = handles[slot].as_mut().expect("it is open");
        handle.held.push(holder);
        if holder == Holder::Child {
            self.spawn(handles)
        } else {
            Vec::new()
        }
    }

    fn receive(&mut self, handle: &mut Writer, n: usize) {
        handle.held[n] = Holder::Own;
    }

    fn close(&mut self, handle: &mut Writer, n: usize, left: Left) -> Option<Answer> {
        let holder = handle.held.remove(n);
        (holder != Holder::Socket).then(|| answer(handle.writer.flush(&left)))
    }

    fn spawn(&mut self, handles: &[Option<Writer>]) -> Vec<(usize, Option<Answer>)> {
        let (others, meant) = (true, true);
        let mut closed = Vec::new();
        for (slot, handle) in handles.iter().enumerate() {
            if let Some(handle) = handle
                && handle.held.contains(&Holder::Own)
            {
                let flushed = handle.writer.flush(&Left { others, meant });
                closed.push((slot, Some(answer(flushed))));
            }
        }
        closed
    }

    fn fsync(&mut self, handle: &Writer) -> Answer {
        answer(handle.writer.commit_if_complete())?;
        self.sync()
    }

    fn ended(&mut self, handle: Writer) {
        handle.writer.release();
    }

    fn unlink(&mut self, name: &str) -> Answer {
        match self.dataset.find(OsStr::new(name)).unwrap() {
            Some(Found::InFlight(incoming)) => answer(self.dataset.abort(&incoming)),
            Some(Found::Committed(_)) => Err(Errno::EPERM),
            None => fs::remove_file(self.path(name)).map_err(|_| Errno::ENOENT),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Answer {
        let find = |name: &str| self.dataset.find(OsStr::new(name)).unwrap();
        let found = find(from);
        if found.is_none() && !self.path(from).exists() {
            return Err(Errno::ENOENT);
        }
        if from == to {
            return Ok(());
        }
        if let Some(Found::Committed(_)) = found {
            if self.path(to).exists() {
                return Err(Errno::EEXIST);
            }
            return answer(self.dataset.rename(OsStr::new(from), OsStr::new(to)));
        }
        // One of no bytes, as the filesystem does it.
        let waiting = |found: Option<Found>| match found {
            Some(Found::Committed(_)) => Err(Errno::EEXIST),
            Some(Found::InFlight(incoming)) => {
                let waits = incoming.face().len == 0 && incoming.may_be_replaced();
                waits.then_some(Some(incoming)).ok_or(Errno::EBUSY)
            }
            None => Ok(None),
        };
        let flights = [waiting(found)?, waiting(find(to))?];
        for incoming in flights.iter().flatten() {
            assert_eq!(answer(self.dataset.place_as_empty_file(incoming)), Ok(true));
        }
        fs::rename(self.path(from), self.path(to)).unwrap();
        Ok(())
    }

    fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer {
        let path = self.path("ordinary");
        fs::write(&path, bytes).unwrap();
        let blob = OsFile::new(fs::File::open(&path).unwrap());
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
            Some(Found::InFlight(incoming)) if incoming.may_be_replaced() => {
                append().map(|()| self.dataset.supersede(&incoming))
            }
            Some(Found::InFlight(_)) => Err(Errno::EBUSY),
            Some(Found::Committed(_)) => answer(self.dataset.compare_blob(name, &blob)),
            None => append(),
        };
        fs::remove_file(&path).unwrap();
        renamed
    }

    fn truncate(&mut self, name: &str, len: u64) -> Answer {
        match self.dataset.find(OsStr::new(name)).unwrap() {
            Some(Found::InFlight(incoming)) if len == 0 && incoming.face().len == 0 => Ok(()),
            Some(Found::InFlight(_)) => Err(Errno::EBUSY),
            Some(Found::Committed(_)) => {
                answer(self.dataset.truncate_committed(OsStr::new(name), len))
            }
            None if !self.path(name).exists() => Err(Errno::ENOENT),
            None if len > 0 => Err(Errno::EPERM),
            None => Ok(()),
        }
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
