//! A panic costs its own dataset the writes until it is opened anew, and nobody else anything.
//!
//! The real mount, with a folder between the engine and the disk that panics when it is told to. A
//! process of its own serves it, so that the test can outlive whatever becomes of that.

use crate::common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{
    Chunk, Mount, Served, Style, array_of, chunks_in, close, eventually, npy, place, put_chunk,
    serve,
};
use npyfs::disk::{DirEntry, Directory, Lock, Open, StoreDir, StoreFile, Whereabouts};
use npyfs::store::{self, Door};

#[derive(Debug)]
struct Told {
    place: PathBuf,
    dataset: PathBuf,
}

impl Told {
    /// Panics if there is a file for this dataset and call.
    fn heed(&self, call: &str) {
        let name = format!("{}-{call}", self.dataset.display());
        assert!(!self.place.join(&name).exists(), "told to panic: {name}");
    }
}

#[derive(Debug)]
struct Panicking(Directory, Arc<Told>);

#[derive(Debug)]
struct PanickingBlob(Arc<dyn StoreFile>, Arc<Told>, String);

impl StoreDir for Panicking {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        self.1.heed("open");
        let name = path.file_name().unwrap_or_default();
        let blob = self.0.open(path, how)?;
        let name = name.to_string_lossy().into_owned();
        Ok(Arc::new(PanickingBlob(blob, self.1.clone(), name)))
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
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(path)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.sync(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.lock(path)
    }
}

impl StoreFile for PanickingBlob {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.heed(&format!("read-{}", self.2));
        self.0.read_at(buffer, offset)
    }
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        self.0.next_data(offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.1.heed(&format!("write-{}", self.2));
        self.0.write_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.reserve(offset, len)
    }
    fn insert_range(&self, len: u64) -> io::Result<bool> {
        self.0.insert_range(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.heed(&format!("sync-{}", self.2));
        self.0.sync()
    }
    fn file(&self) -> Option<&File> {
        self.0.file()
    }
    fn whereabouts(&self) -> io::Result<Whereabouts> {
        self.0.whereabouts()
    }
}

fn panicking(dataset: &Path, directory: Directory) -> Arc<dyn StoreDir> {
    let told = Told {
        // Where the files are that tell a folder to panic.
        place: place().unwrap(),
        dataset: dataset.into(),
    };
    Arc::new(Panicking(directory, Arc::new(told)))
}

fn small(n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(0, number));
    all.filter(|it| it.style() == Style::Small)
        .take(n)
        .collect()
}

#[track_caller]
fn is_eio<T>(result: io::Result<T>) {
    let errno = result.err().and_then(|error| error.raw_os_error());
    assert_eq!(errno, Some(libc::EIO));
}

/// Has dataset `hit` panic at what is told while `strike` runs. `stopped`: it then takes no writes.
#[track_caller]
fn costs_only_its_dataset(test: &str, told: &str, stopped: bool, strike: fn(&mut Served, Chunk)) {
    if let Some(place) = place() {
        let options = store::Options {
            door: Door(panicking),
            ..Default::default()
        };
        return serve(&place, options);
    }
    let chunks = small(12);
    let mut served = Served::start(test);
    for dataset in ["hit", "other"] {
        fs::create_dir(served.path(dataset)).unwrap();
        served.put(dataset, chunks[0]).unwrap();
    }
    served.tell(told);
    strike(&mut served, chunks[1]);
    served.untell(told);
    assert!(served.log().contains("told to panic"), "{}", served.log());

    let mut hit = vec![chunks[0]];
    // More often than there are threads that could have died of it.
    for chunk in &chunks[2..8] {
        if stopped {
            is_eio(served.put("hit", *chunk));
            is_eio(served.sync("hit"));
        } else {
            // After a sync that failed it tries again in a moment.
            let limit = Duration::from_secs(10);
            let taken = eventually(limit, || served.put("hit", *chunk).is_ok());
            assert!(taken, "{}", served.log());
            served.sync("hit").unwrap();
            hit.push(*chunk);
        }
        let read = served.path("hit/data.npy");
        let found = served.answer(move || chunks_in(&read));
        assert_eq!(found, hit);
        served.put("other", *chunk).unwrap();
        served.sync("other").unwrap();
    }
    // The sync from time to time has survived it too: it notes in the journal how far it came.
    let journal = served.store().join("other/.npyfs/chunks.log");
    // It may have come between the chunk and the look: then it notes the next one.
    let len = || fs::metadata(&journal).unwrap().len();
    let noted = chunks[8..].iter().any(|chunk| {
        served.put("other", *chunk).unwrap();
        let before = len();
        eventually(Duration::from_secs(2), || len() > before)
    });
    assert!(noted, "no sync any more: {}", served.log());

    let mountpoint = served.path("");
    common::run(Command::new("umount").arg(&mountpoint));
    let ended = eventually(Duration::from_secs(20), || {
        served.daemon.child().try_wait().unwrap().is_some()
    });
    assert!(ended, "the daemon did not end: {}", served.log());
    let status = served.daemon.child().wait().unwrap();
    assert!(status.success(), "{status}: {}", served.log());

    // Opened anew, both are whole and go on.
    let mount = Mount::builder().store(&served.store()).start();
    assert_eq!(chunks_in(&mount.path("hit/data.npy")), hit);
    for chunk in &chunks {
        put_chunk(&mount.path("hit"), *chunk).unwrap();
        put_chunk(&mount.path("other"), *chunk).unwrap();
    }
    let sorted = |path: &str| {
        let mut found = chunks_in(&mount.path(path));
        found.sort();
        found
    };
    assert_eq!(sorted("hit/data.npy"), chunks);
    assert_eq!(sorted("other/data.npy"), chunks);
}

#[test]
fn a_panic_in_a_commit_costs_only_its_dataset() {
    require!(fuse, root);
    costs_only_its_dataset(
        "a_panic_in_a_commit_costs_only_its_dataset",
        "hit-write-chunks.log",
        true,
        |served, chunk| is_eio(served.put("hit", chunk)),
    );
}

#[test]
fn a_panic_in_a_sync_costs_only_its_dataset() {
    require!(fuse, root);
    costs_only_its_dataset(
        "a_panic_in_a_sync_costs_only_its_dataset",
        "hit-sync-chunks.log",
        false,
        |served, _| {
            for _ in 0..3 {
                is_eio(served.sync("hit"));
            }
        },
    );
}

#[test]
fn a_panic_while_a_chunk_is_in_flight_costs_only_that() {
    require!(fuse, root);
    costs_only_its_dataset(
        "a_panic_while_a_chunk_is_in_flight_costs_only_that",
        "hit-open",
        false,
        |served, _| {
            let mut all = (0..).map(|number| Chunk::new(1, number));
            let staged = all.find(|it| it.style() == Style::Staged).unwrap();
            is_eio(served.put("hit", staged));
        },
    );
}

/// What its producer had written before is kept.
#[test]
fn a_panic_while_a_chunk_is_written_leaves_what_had_come_of_it() {
    require!(fuse, root);
    costs_only_its_dataset(
        "a_panic_while_a_chunk_is_written_leaves_what_had_come_of_it",
        "panicked",
        false,
        |served, _| {
            let bytes = npy("<i8", "(300, 4)", &[7; 9600]);
            let names = ["written.npy", "fsynced.npy"];
            for name in names {
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).create_new(true);
                let file = options.open(served.path("hit").join(name)).unwrap();
                file.write_all_at(&bytes[200..3328], 200).unwrap();
                file.write_all_at(&bytes[..200], 0).unwrap();
                // It comes after what was answered before it was stored.
                file.read_exact_at(&mut [0], 0).unwrap();
                if name == "fsynced.npy" {
                    nix::unistd::fsync(&file).unwrap();
                }
                let in_flight = fs::read_dir(served.store().join("hit/.npyfs/incoming"));
                let staged = in_flight.unwrap().next().unwrap().unwrap().file_name();
                // It was opened before it was confirmed.
                let opened = staged.to_str().unwrap().replace('+', "-");
                let told = format!("hit-write-{opened}");
                served.tell(&told);
                let (written, file) = served.answer(move || (file.write_all_at(&[1], 3328), file));
                // The write may be answered before it is stored.
                let panicked = format!("write panicked: told to panic: {told}");
                assert!(eventually(Duration::from_secs(10), || served
                    .log()
                    .contains(&panicked)));
                // Before the end of the chunk, which writes to the file what numpy needs to load it.
                served.untell(&told);
                is_eio(written.and(close(file)));
            }
            for (directory, name) in [("rejected", names[0]), ("rescued", names[1])] {
                let directory = served.store().join("hit/.npyfs").join(directory);
                let mut kept = Vec::new();
                let there = eventually(Duration::from_secs(10), || {
                    let entries = fs::read_dir(&directory).into_iter().flatten();
                    kept = entries.map(|entry| entry.unwrap().path()).collect();
                    !kept.is_empty()
                });
                assert!(there, "{name}: {}", served.log());
                assert!(kept[0].to_str().unwrap().ends_with(name), "{kept:?}");
                let (header, body) = array_of(&kept[0]);
                assert_eq!(header.rows(), 100);
                assert!(body == [7; 3200]);
            }
        },
    );
}
