//! No handle, header or panic takes the daemon's memory, or more than its own dataset.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Mount;
use common::{close, csv_names};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use npyfs::dataset::disk::{Blob, Directory, Folder, Listed, Lock, Open};
use npyfs::npy::Header;
use npyfs::{Dataset, DatasetOptions};

const HANDLES: usize = 1000;

/// In KiB.
fn memory_of(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn staged(mount: &Mount) -> usize {
    fs::read_dir(mount.store("run/.npyfs/incoming")).map_or(0, Iterator::count)
}

#[test]
fn a_thousand_chunks_in_flight_take_no_more_memory_than_the_limit() {
    require!(fuse);
    allow_many_files();
    let mount = Mount::builder()
        .words("memory-limit=8M,rejected-limit=0")
        .start();
    fs::create_dir(mount.path("run")).unwrap();
    let dtype = "<u8".parse().unwrap();
    let rows = 6000;
    let head = Header::encode(&dtype, &[rows, 4]).unwrap();
    let piece = vec![7; rows as usize * 32 / 4];
    let open: Vec<File> = (0..HANDLES)
        .map(|n| File::create_new(mount.path(format!("run/{n}.npy"))).unwrap())
        .collect();
    let before = memory_of(mount.pid());
    for file in &open {
        file.write_all_at(&head, 0).unwrap();
    }
    for step in 0..4 {
        for file in &open {
            let at = head.len() + step * piece.len();
            file.write_all_at(&piece, at as u64).unwrap();
        }
        let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
        assert!(grown < 64, "{grown} MiB after step {step}");
        if step == 0 {
            let kept = HANDLES - staged(&mount);
            // 8 MiB are 43 bodies; one more chunk has the tail.
            assert!(kept <= 45, "{kept} bodies are in memory");
        }
    }
    for file in open {
        close(file).unwrap();
    }
    assert_eq!(csv_names(&mount.path("run")).len(), HANDLES);
    assert_eq!(staged(&mount), 0);
}

#[test]
fn a_thousand_endless_headers_take_no_memory() {
    require!(fuse);
    allow_many_files();
    let mut mount = Mount::builder().words("rejected-limit=0").start();
    mount.tolerate_warnings(); // each is refused at its end
    fs::create_dir(mount.path("run")).unwrap();
    let mut head = b"\x93NUMPY\x02\x00".to_vec();
    head.extend_from_slice(&(900_u32 << 10).to_le_bytes());
    head.extend_from_slice(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }");
    head.resize(400 << 10, b' ');
    let before = memory_of(mount.pid());
    let open: Vec<File> = (0..HANDLES)
        .map(|n| File::create_new(mount.path(format!("run/{n}.npy"))).unwrap())
        .collect();
    for file in &open {
        file.write_all_at(&head, 0).unwrap();
    }
    let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
    assert!(grown < 64, "{grown} MiB");
    for file in open {
        assert_eq!(close(file).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}

/// A folder whose journal panics when it is told to.
#[derive(Debug)]
struct Panicking(Directory, Arc<AtomicBool>);

#[derive(Debug)]
struct PanickingBlob(Arc<dyn Blob>, Arc<AtomicBool>);

impl Folder for Panicking {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Blob>> {
        let blob = self.0.open(path, how)?;
        Ok(if path.ends_with("chunks.log") {
            Arc::new(PanickingBlob(blob, self.1.clone()))
        } else {
            blob
        })
    }
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.0.identity(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.0.make_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.0.list(path)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.sync(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.lock(path)
    }
}

impl Blob for PanickingBlob {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.1.load(Ordering::Relaxed), "told to panic");
        self.0.write_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.reserve(offset, len)
    }
    fn insert_front(&self, len: u64) -> io::Result<bool> {
        self.0.insert_front(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn file(&self) -> Option<&File> {
        self.0.file()
    }
}

/// With no mount: the handlers' own catch is in front of this one.
#[test]
fn a_panic_stops_the_writes_of_its_dataset_and_no_reads() {
    let scratch = tempfile::tempdir().unwrap();
    let told = Arc::new(AtomicBool::new(false));
    let folder = Panicking(Directory::open(scratch.path()).unwrap(), told.clone());
    let options = DatasetOptions::default();
    let dataset = Dataset::open_in(Arc::new(folder), "run", options).unwrap();
    let dtype = "<u8".parse().unwrap();
    let mut chunk = Header::encode(&dtype, &[2]).unwrap();
    chunk.extend([1; 16]);
    dataset.append("a.npy", &chunk).unwrap();
    told.store(true, Ordering::Relaxed);
    let panicked =
        std::thread::scope(|threads| threads.spawn(|| dataset.append("b.npy", &chunk)).join());
    assert!(panicked.is_err());
    told.store(false, Ordering::Relaxed);
    let error = dataset.append("c.npy", &chunk).unwrap_err();
    assert_eq!(error.errno(), nix::errno::Errno::EIO, "{error}");
    // Reads go on.
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 2);
    assert!(dataset.chunk(OsStr::new("a.npy")).unwrap().is_some());
    assert!(dataset.sync().is_err());
    dataset.close().unwrap_err();
    // Opened again it is whole, and goes on.
    let dataset = Dataset::open(scratch.path(), DatasetOptions::default()).unwrap();
    dataset.append("b.npy", &chunk).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 4);
}
