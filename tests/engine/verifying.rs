//! P7 for a copy that takes long to be verified: it is open soon, readers see whole chunks that were
//! verified, more and more of them, and who would write is told to try again later.

use crate::common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{
    Mount, Served, Strace, alone, csv_names, errno, eventually, kill, npyfs, place, put, run, serve,
};
use nix::errno::Errno;
use npyfs::dataset::{Change, Stop};
use npyfs::disk::{DirEntry, Directory, Lock, Open, StoreDir, StoreFile, Whereabouts};
use npyfs::store::{self, Door};
use npyfs::{Dataset, Options};

/// Of the header of `data.npy`.
const HEADER: u64 = 128;
/// Rows of 8 bytes that a chunk has.
const ROWS: u64 = 1000;
const CHUNKS: u64 = 8;
const SOON: Duration = Duration::from_secs(30);
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

/// A dataset's directory whose rows are read as far as the file `.gate` says, in chunks: reads of later
/// ones wait. With a file `.slow` each takes a while, and with a file `.fail` it fails. A sync of the array
/// waits as long as there is a file `.hold-sync`.
#[derive(Debug)]
struct Gated {
    directory: Directory,
    at: PathBuf,
    /// Bytes of rows that were read.
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct GatedBlob {
    blob: Arc<dyn StoreFile>,
    at: PathBuf,
    read: Arc<AtomicU64>,
}

impl StoreDir for Gated {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        let blob = self.directory.open(path, how)?;
        if path != "data.npy" {
            return Ok(blob);
        }
        Ok(Arc::new(GatedBlob {
            blob,
            at: self.at.clone(),
            read: self.read.clone(),
        }))
    }
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.directory.identity(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.directory.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.directory.make_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.directory.list(path)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.directory.sync(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.directory.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.directory.is_locked(path)
    }
}

impl GatedBlob {
    /// How many bytes of the file may be read now.
    fn open_up_to(&self) -> u64 {
        match fs::read_to_string(self.at.join(".gate")) {
            Ok(chunks) => HEADER + 8 * ROWS * chunks.parse().unwrap_or(0),
            Err(_) => u64::MAX,
        }
    }
}

impl StoreFile for GatedBlob {
    fn len(&self) -> io::Result<u64> {
        self.blob.len()
    }
    fn glance(&self) -> io::Result<(u64, u64)> {
        self.blob.glance()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= HEADER {
            while offset + buffer.len() as u64 > self.open_up_to() {
                thread::sleep(Duration::from_millis(2));
            }
            if self.at.join(".slow").exists() {
                thread::sleep(Duration::from_millis(100));
            }
            if self.at.join(".fail").exists() {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        }
        self.blob.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.blob.write_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.blob.set_len(len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.blob.reserve(offset, len)
    }
    fn insert_range(&self, len: u64) -> io::Result<bool> {
        self.blob.insert_range(len)
    }
    fn sync(&self) -> io::Result<()> {
        while self.at.join(".hold-sync").exists() {
            thread::sleep(Duration::from_millis(2));
        }
        self.blob.sync()
    }
    fn file(&self) -> Option<&File> {
        self.blob.file()
    }
    fn whereabouts(&self) -> io::Result<Whereabouts> {
        self.blob.whereabouts()
    }
}

fn name(chunk: u64) -> String {
    format!("c{chunk}.npy")
}

/// Rows that count on from chunk to chunk.
fn bytes(chunk: u64) -> Vec<u8> {
    let dtype = "<u8".parse().unwrap();
    let mut bytes = npyfs::npy::Header::encode(&dtype, &[ROWS]).unwrap();
    bytes.extend((chunk * ROWS..(chunk + 1) * ROWS).flat_map(u64::to_le_bytes));
    bytes
}

/// A copy of a dataset that was at work, of this many chunks.
fn copy_to(at: &Path, chunks: u64) {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(scratch.path(), Options::default()).unwrap();
    for chunk in 0..chunks {
        dataset.append(name(chunk), &bytes(chunk)).unwrap();
    }
    fs::create_dir_all(at.join(".npyfs")).unwrap();
    for file in ["data.npy", ".npyfs/chunks.log"] {
        fs::copy(scratch.path().join(file), at.join(file)).unwrap();
    }
}

/// The verification gets no further than that.
fn gate(at: &Path, chunks: u64) {
    // Never seen half written.
    fs::write(at.join(".new"), chunks.to_string()).unwrap();
    fs::rename(at.join(".new"), at.join(".gate")).unwrap();
}

fn open_gate(at: &Path) {
    fs::remove_file(at.join(".gate")).unwrap();
}

struct Copy {
    scratch: tempfile::TempDir,
    read: Arc<AtomicU64>,
}

impl Copy {
    fn new(chunks: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        copy_to(scratch.path(), chunks);
        Self {
            scratch,
            read: Arc::default(),
        }
    }

    fn at(&self) -> &Path {
        self.scratch.path()
    }

    fn folder(&self) -> Arc<dyn StoreDir> {
        Arc::new(Gated {
            directory: Directory::open(self.at()).unwrap(),
            at: self.at().to_owned(),
            read: self.read.clone(),
        })
    }

    fn open(&self, options: Options) -> npyfs::Result<Arc<Dataset>> {
        Dataset::open_in(self.folder(), self.at(), options)
    }

    /// With little patience.
    fn open_soon(&self) -> Arc<Dataset> {
        self.open(Options {
            patience: SHORT,
            ..Default::default()
        })
        .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at().join(".npyfs/log")).unwrap_or_default()
    }

    fn flip(&self, chunk: u64) {
        let path = self.at().join("data.npy");
        let mut data = fs::read(&path).unwrap();
        data[(HEADER + 8 * ROWS * chunk) as usize + 3] ^= 1;
        fs::write(path, data).unwrap();
    }
}

fn rows(dataset: &Dataset) -> u64 {
    dataset.snapshot().unwrap().map_or(0, |view| view.rows())
}

fn names(dataset: &Dataset) -> Vec<String> {
    let (mut names, mut id) = (Vec::new(), 0);
    while let Some((name, next)) = dataset.next_name(id) {
        names.push(name.into_string().unwrap());
        id = next;
    }
    names
}

/// Shows exactly so many chunks, in whatever way it is asked.
#[track_caller]
fn shows(dataset: &Dataset, chunks: u64) {
    assert_eq!(rows(dataset), chunks * ROWS);
    let expected: Vec<String> = (0..chunks).map(name).collect();
    assert_eq!(names(dataset), expected);
    let view = dataset.snapshot().unwrap().unwrap();
    let mut body = vec![0; (view.len() - HEADER) as usize];
    view.read_at(&mut body, HEADER).unwrap();
    let counted: Vec<u8> = (0..chunks * ROWS).flat_map(u64::to_le_bytes).collect();
    assert!(body == counted, "other rows");
    for chunk in 0..CHUNKS {
        let found = dataset.chunk(name(chunk).as_ref()).unwrap();
        assert_eq!(found.is_some(), chunk < chunks, "{chunk}");
    }
    let status = dataset.status().unwrap();
    assert_eq!((status.rows, status.chunks), (chunks * ROWS, chunks));
}

/// All that needs the writer is refused, in words that say why.
#[track_caller]
fn refuses_writes(dataset: &Arc<Dataset>) {
    let first = name(0);
    let first = OsStr::new(&first);
    let change = Change {
        mode: Some(0o600),
        ..Default::default()
    };
    let refusals = [
        dataset.acquire(),
        dataset.append("new.npy", &bytes(CHUNKS)),
        dataset.rename(first, "other.npy".as_ref()),
        dataset.set_attributes(first, &change),
        dataset.forget(first),
        dataset.remove_array(),
        dataset.is_empty().map(drop),
    ];
    for refused in refusals {
        let error = refused.unwrap_err();
        assert_eq!(error.errno(), Errno::EBUSY, "{error}");
        let said = error.to_string();
        assert!(
            said.contains("the copy is being verified: ") && said.contains("try again later"),
            "{said}"
        );
    }
}

#[track_caller]
fn becomes(what: &str, is: impl FnMut() -> bool) {
    assert!(eventually(SOON, is), "never {what}");
}

#[test]
fn a_copy_is_open_soon_and_grows_as_it_is_verified() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 0);
    let dataset = copy.open_soon();
    shows(&dataset, 0);
    refuses_writes(&dataset);
    let status = dataset.status().unwrap();
    assert!(dataset.is_verifying() && status.verifying.unwrap().failure.is_none());
    let mut views = Vec::new();
    for chunks in [1, 3, CHUNKS - 1] {
        gate(copy.at(), chunks);
        becomes("verified", || rows(&dataset) == chunks * ROWS);
        shows(&dataset, chunks);
        refuses_writes(&dataset);
        views.push((chunks, dataset.snapshot().unwrap().unwrap()));
    }
    open_gate(copy.at());
    becomes("owned", || dataset.is_owned());
    shows(&dataset, CHUNKS);
    let status = dataset.status().unwrap();
    assert!(status.verifying.is_none() && status.owner == "this daemon");
    // What was seen before stays as it was.
    for (chunks, view) in views {
        assert_eq!(view.rows(), chunks * ROWS);
        let mut header = vec![0; HEADER as usize];
        view.read_at(&mut header, 0).unwrap();
        let shape = format!(" {},)", chunks * ROWS);
        assert!(String::from_utf8_lossy(&header).contains(&shape));
    }
    dataset.append("new.npy", &bytes(CHUNKS)).unwrap();
    dataset.append(name(0), &bytes(0)).unwrap();
    assert_eq!(rows(&dataset), (CHUNKS + 1) * ROWS);
    dataset.close().unwrap();
    let log = copy.log();
    for phrase in ["its rows are being verified", "each of which was verified"] {
        assert!(log.contains(phrase), "{log}");
    }
}

#[test]
fn a_copy_that_is_verified_is_taken_over_without_being_read_once_more() {
    for patience in [None, SHORT, Some(SOON)] {
        for read_only in [false, true] {
            let copy = Copy::new(CHUNKS);
            gate(copy.at(), if patience == SHORT { 2 } else { CHUNKS });
            let options = Options {
                patience,
                read_only,
                ..Default::default()
            };
            let dataset = copy.open(options).unwrap();
            open_gate(copy.at());
            becomes("verified", || !dataset.is_verifying());
            assert_eq!(rows(&dataset), CHUNKS * ROWS);
            if !read_only {
                dataset.append("new.npy", &bytes(CHUNKS)).unwrap();
                assert!(copy.log().contains("each of which was verified"));
            }
            let read = copy.read.load(Ordering::SeqCst);
            assert_eq!(read, 8 * ROWS * CHUNKS, "{patience:?}");
        }
    }
}

#[test]
fn who_wants_a_small_copy_waits_until_it_is_verified() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 4);
    thread::scope(|threads| {
        threads.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            open_gate(copy.at());
        });
        let options = Options {
            patience: Some(SOON),
            ..Default::default()
        };
        let dataset = copy.open(options).unwrap();
        assert!(dataset.is_owned());
        shows(&dataset, CHUNKS);
    });
    assert!(!copy.log().contains("are being verified"));
}

#[test]
fn a_copy_that_cannot_be_written_to_is_shown_as_it_is_verified() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 2);
    let options = Options {
        patience: SHORT,
        read_only: true,
        ..Default::default()
    };
    let dataset = copy.open(options).unwrap();
    becomes("verified", || rows(&dataset) == 2 * ROWS);
    shows(&dataset, 2);
    open_gate(copy.at());
    becomes("verified", || !dataset.is_verifying());
    shows(&dataset, CHUNKS);
    drop(dataset);
    assert!(!copy.at().join(".npyfs/lock").exists() && copy.log().is_empty());
}

#[test]
fn damage_that_is_found_on_the_way_is_known_at_the_end() {
    let copy = Copy::new(CHUNKS);
    copy.flip(2);
    gate(copy.at(), CHUNKS - 1);
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == 2 * ROWS);
    assert_eq!(names(&dataset), [name(0), name(1)]);
    refuses_writes(&dataset);
    open_gate(copy.at());
    becomes("verified", || dataset.is_damaged());
    assert_eq!(rows(&dataset), CHUNKS * ROWS);
    assert_eq!(dataset.status().unwrap().damaged, [name(2)]);
    for _ in 0..2 {
        let error = dataset.append("new.npy", &bytes(CHUNKS)).unwrap_err();
        assert_eq!(error.errno(), Errno::EIO, "{error}");
    }
    assert_eq!(copy.read.load(Ordering::SeqCst), 8 * ROWS * CHUNKS);
    let accepted = dataset.accept_damage().unwrap();
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    dataset.append("new.npy", &bytes(CHUNKS)).unwrap();
    assert_eq!(copy.read.load(Ordering::SeqCst), 8 * ROWS * CHUNKS);
}

/// A copy is synced then, which may take long, too.
#[test]
fn a_copy_that_is_verified_is_shown_while_it_is_taken_over() {
    let copy = Copy::new(CHUNKS);
    // What the last append to the journal has left.
    let journal = copy.at().join(".npyfs/chunks.log");
    let torn = [fs::read(&journal).unwrap(), vec![60, 0, 0, 0, 1, 2, 3]].concat();
    fs::write(&journal, torn).unwrap();
    fs::write(copy.at().join(".hold-sync"), "").unwrap();
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == CHUNKS * ROWS);
    assert!(!dataset.is_owned());
    shows(&dataset, CHUNKS);
    refuses_writes(&dataset);
    fs::remove_file(copy.at().join(".hold-sync")).unwrap();
    becomes("owned", || dataset.is_owned());
    shows(&dataset, CHUNKS);
}

#[test]
fn wrong_rows_at_the_end_are_never_shown() {
    let copy = Copy::new(CHUNKS);
    copy.flip(CHUNKS - 1);
    gate(copy.at(), CHUNKS - 1);
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == (CHUNKS - 1) * ROWS);
    open_gate(copy.at());
    becomes("owned", || dataset.is_owned());
    shows(&dataset, CHUNKS - 1);
    dataset
        .append(name(CHUNKS - 1), &bytes(CHUNKS - 1))
        .unwrap();
    shows(&dataset, CHUNKS);
}

#[test]
fn a_verification_ends_when_the_dataset_is_dropped_closed_or_all_is_to_end() {
    // It would take minutes.
    let copy = Copy::new(1000);
    fs::write(copy.at().join(".slow"), "").unwrap();
    for how in ["dropped", "closed", "stopped"] {
        let folder = copy.folder();
        let is_used = Arc::downgrade(&folder);
        let stop = Stop::default();
        let options = Options {
            patience: SHORT,
            stop: stop.clone(),
            ..Default::default()
        };
        let dataset = Dataset::open_in(folder, copy.at(), options).unwrap();
        assert!(dataset.is_verifying());
        match how {
            "dropped" => {}
            "closed" => {
                dataset.close().unwrap();
                assert!(!dataset.is_verifying() && !dataset.is_owned());
                // It goes on, and begins anew when it is written to.
                rows(&dataset);
                let error = dataset.acquire().unwrap_err();
                assert_eq!(error.errno(), Errno::EBUSY, "{error}");
            }
            _ => {
                stop.set();
                let has_ended = || {
                    dataset
                        .status()
                        .unwrap()
                        .verifying
                        .unwrap()
                        .failure
                        .is_some()
                };
                becomes("ended", has_ended);
                let error = dataset.acquire().unwrap_err();
                assert_eq!(error.errno(), Errno::ECANCELED, "{error}");
            }
        }
        drop(dataset);
        becomes(how, || is_used.upgrade().is_none());
    }
    // Nothing is lost by it.
    fs::remove_file(copy.at().join(".slow")).unwrap();
    let dataset = copy.open(Options::default()).unwrap();
    assert_eq!(rows(&dataset), 1000 * ROWS);
}

#[test]
fn a_copy_that_changes_while_it_is_verified_is_verified_anew() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 3);
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == 3 * ROWS);
    // As one that is still being copied.
    let data = File::options().write(true).open(copy.at().join("data.npy"));
    let data = data.unwrap();
    let len = data.metadata().unwrap().len();
    data.set_len(len + 100).unwrap();
    data.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    gate(copy.at(), CHUNKS - 1);
    becomes("verified", || rows(&dataset) == (CHUNKS - 1) * ROWS);
    open_gate(copy.at());
    let mut most = 0;
    becomes("owned", || {
        let rows = rows(&dataset);
        assert!(rows >= most, "{rows} after {most}");
        most = rows;
        dataset.is_owned()
    });
    shows(&dataset, CHUNKS);
    assert!(copy.log().contains("verified anew"), "{}", copy.log());
}

#[test]
fn a_copy_that_is_replaced_while_it_is_verified_is_another() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 3);
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == 3 * ROWS);
    let other = tempfile::tempdir_in(copy.at()).unwrap();
    copy_to(other.path(), 2);
    for file in [".npyfs/chunks.log", "data.npy"] {
        fs::rename(other.path().join(file), copy.at().join(file)).unwrap();
    }
    becomes("the other", || {
        rows(&dataset) == 2 * ROWS && dataset.is_owned()
    });
    shows(&dataset, 2);
    open_gate(copy.at());
    dataset.append(name(2), &bytes(2)).unwrap();
    shows(&dataset, 3);
}

#[test]
fn who_verifies_follows_another_daemon_that_was_faster() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 3);
    let slow = copy.open_soon();
    becomes("verified", || rows(&slow) == 3 * ROWS);
    // Not through the gate.
    let fast = Dataset::open(copy.at(), Options::default()).unwrap();
    assert!(fast.is_owned());
    becomes("followed", || rows(&slow) == CHUNKS * ROWS);
    fast.append("new.npy", &bytes(CHUNKS)).unwrap();
    assert_eq!(rows(&slow), (CHUNKS + 1) * ROWS);
    let error = slow.append("other.npy", &bytes(0)).unwrap_err();
    assert!(error.to_string().contains("is being written by"), "{error}");
    drop(fast);
    open_gate(copy.at());
    slow.append("other.npy", &bytes(0)).unwrap();
    assert_eq!(rows(&slow), (CHUNKS + 2) * ROWS);
}

#[test]
fn what_was_verified_is_served_though_the_rest_cannot_be_read() {
    let copy = Copy::new(CHUNKS);
    gate(copy.at(), 3);
    let dataset = copy.open_soon();
    becomes("verified", || rows(&dataset) == 3 * ROWS);
    fs::write(copy.at().join(".fail"), "").unwrap();
    open_gate(copy.at());
    becomes("ended", || !dataset.is_verifying());
    fs::remove_file(copy.at().join(".fail")).unwrap();
    shows(&dataset, 3);
    let error = dataset.append("new.npy", &bytes(CHUNKS)).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO, "{error}");
    assert!(error.to_string().contains("could not be verified"));
    let status = dataset.status().unwrap().verifying.unwrap();
    assert!(status.failure.is_some() && copy.log().contains("could not be verified"));
    // Later it is tried again.
    let appended = || dataset.append("new.npy", &bytes(CHUNKS)).is_ok();
    becomes("writable", appended);
    assert_eq!(rows(&dataset), (CHUNKS + 1) * ROWS);
}

fn gated(dataset: &Path, directory: Directory) -> Arc<dyn StoreDir> {
    Arc::new(Gated {
        directory,
        at: place().unwrap().join("store").join(dataset),
        read: Arc::default(),
    })
}

/// What a mounted dataset shows, in whatever way it is asked, as a number of chunks.
fn shown(dataset: &Path) -> u64 {
    let array = fs::read(dataset.join("data.npy")).unwrap();
    let chunks = (array.len() as u64 - HEADER) / (8 * ROWS);
    let counted: Vec<u8> = (0..chunks * ROWS).flat_map(u64::to_le_bytes).collect();
    assert!(array[HEADER as usize..] == counted, "other rows");
    chunks
}

fn listed(dataset: &Path) -> Vec<String> {
    let entries = fs::read_dir(dataset).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_chunk = |name: &String| name.starts_with('c') && name.ends_with(".npy");
    names.filter(is_chunk).collect()
}

#[test]
fn a_mounted_copy_can_be_read_and_not_written_to_while_it_is_verified() {
    let test = "a_mounted_copy_can_be_read_and_not_written_to_while_it_is_verified";
    if let Some(place) = place() {
        return serve(
            &place,
            store::Options {
                door: Door(gated),
                ..store::Options::default()
            },
        );
    }
    require!(fuse);
    let mut served = Served::start(test);
    let store = served.store().join("run");
    copy_to(&store, CHUNKS);
    gate(&store, 3);
    fs::write(store.join("x.part"), bytes(CHUNKS)).unwrap();
    let (root, run_at) = (served.path(""), served.path("run"));
    let at = run_at.clone();
    served.answer(move || {
        assert!(eventually(SOON, || shown(&at) == 3));
        let three: Vec<String> = (0..3).map(name).collect();
        assert_eq!(listed(&at), three);
        assert_eq!(csv_names(&at), three);
        for chunk in 0..3 {
            assert!(fs::read(at.join(name(chunk))).unwrap() == bytes(chunk));
        }
        let missing = fs::metadata(at.join(name(3))).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let slice = fs::read(at.join("data[1000:9999].npy")).unwrap();
        assert_eq!(slice.len() as u64, HEADER + 8 * 2 * ROWS);

        let refused = [
            fs::write(at.join("new.npy"), bytes(CHUNKS)),
            fs::write(at.join(name(0)), bytes(0)),
            fs::rename(at.join("x.part"), at.join("new.npy")),
            fs::rename(at.join(name(0)), at.join("other.npy")),
            fs::set_permissions(at.join(name(0)), PermissionsExt::from_mode(0o600)),
            fs::remove_dir(&at),
        ];
        for (n, refused) in refused.into_iter().enumerate() {
            assert_eq!(errno(refused), Errno::EBUSY, "{n}");
        }
        let status = fs::read_to_string(at.join(".npyfs/status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["rows"], 3 * ROWS);
        assert_eq!(status["verifying"]["bytes"], 8 * 3 * ROWS);
        assert_eq!(status["verifying"]["of"], 8 * CHUNKS * ROWS);
        let table = run(Command::new(npyfs()).arg("status").arg(&at));
        let table = String::from_utf8(table.stdout).unwrap();
        let line = format!("{}: VERIFYING: 23.44 KiB of 62.50 KiB", at.display());
        assert!(table.contains(&line), "{table}");
        // Others are served.
        fs::create_dir(root.join("other")).unwrap();
        put(&root.join("other/a.npy"), &bytes(0)).unwrap();
    });
    let said = "the copy is being verified: 24000 of 64000 bytes; try again later";
    assert!(served.log().contains(said), "{}", served.log());
    gate(&store, CHUNKS - 2);
    let at = run_at.clone();
    served.answer(move || assert!(eventually(SOON, || shown(&at) == CHUNKS - 2)));
    // Never fewer, while it ends.
    fs::remove_file(store.join(".gate")).unwrap();
    served.answer(move || {
        let mut most = CHUNKS - 2;
        let grows = || {
            let now = shown(&run_at);
            assert!(now >= most, "{now} after {most}");
            most = now;
            fs::rename(run_at.join("x.part"), run_at.join(name(CHUNKS))).is_ok()
        };
        assert!(eventually(SOON, grows));
        assert_eq!(shown(&run_at), CHUNKS + 1);
        assert_eq!(csv_names(&run_at).len() as u64, CHUNKS + 1);
        put(&run_at.join(name(0)), &bytes(0)).unwrap();
        let table = run(Command::new(npyfs()).arg("status").arg(&run_at));
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(!table.contains("VERIFYING"), "{table}");
    });
}

/// A store with a copy of a small chunk and a large one, whose rows take minutes to be read by a daemon
/// that each read is held up for.
struct Slow {
    store: tempfile::TempDir,
    mount: Mount,
    _strace: Strace,
}

const LARGE: u64 = 8 << 20;

impl Slow {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let (made, at) = (tempfile::tempdir().unwrap(), store.path().join("run"));
        let dataset = Dataset::open(made.path(), Options::default()).unwrap();
        dataset.append(name(0), &bytes(0)).unwrap();
        let mut large = npyfs::npy::Header::encode(&"<u8".parse().unwrap(), &[LARGE]).unwrap();
        large.extend((0..LARGE).flat_map(u64::to_le_bytes));
        dataset.append(name(1), &large).unwrap();
        fs::create_dir_all(at.join(".npyfs")).unwrap();
        for file in ["data.npy", ".npyfs/chunks.log"] {
            fs::copy(made.path().join(file), at.join(file)).unwrap();
        }
        let mount = Mount::builder().store(store.path()).start();
        let slower = ["-e", "inject=pread64:delay_enter=600000"];
        let strace = Strace::attach(mount.pid(), "pread64", &slower, Path::new("/dev/null"));
        Self {
            store,
            mount,
            _strace: strace,
        }
    }

    fn len(&self) -> u64 {
        fs::metadata(self.mount.path("run/data.npy")).unwrap().len()
    }

    fn files(&self) -> [Vec<u8>; 2] {
        ["data.npy", ".npyfs/chunks.log"]
            .map(|file| fs::read(self.store.path().join("run").join(file)).unwrap())
    }

    /// With another daemon, which nothing holds up, all of it is there.
    fn ends_whole(self) {
        drop(self.mount);
        let mount = Mount::builder().store(self.store.path()).start();
        let at = mount.path("run");
        let len = || fs::metadata(at.join("data.npy")).unwrap().len();
        becomes("whole", || len() == HEADER + 8 * (ROWS + LARGE));
        becomes("writable", || put(&at.join("new.npy"), &bytes(0)).is_ok());
        assert_eq!(csv_names(&at), [name(0), name(1), "new.npy".into()]);
        let log = fs::read_to_string(self.store.path().join("run/.npyfs/log")).unwrap();
        assert!(!log.contains("dropped"), "{log}");
        drop(mount);
    }
}

#[test]
fn a_daemon_that_verifies_a_copy_ends_soon_when_it_is_told_to() {
    require!(fuse, strace);
    let _alone = alone();
    for how in ["SIGTERM", "SIGTERM at the first look", "umount"] {
        let mut slow = Slow::new();
        let before = slow.files();
        let first = slow.mount.path("run/data.npy");
        let looking = thread::spawn(move || fs::metadata(first).map(|it| it.len()));
        if how == "SIGTERM at the first look" {
            thread::sleep(Duration::from_millis(300));
        } else {
            becomes("verified", || slow.len() == HEADER + 8 * ROWS);
        }
        let start = Instant::now();
        if how == "umount" {
            run(Command::new(npyfs()).arg("umount").arg(slow.mount.path("")));
        } else {
            kill(slow.mount.pid(), "TERM");
        }
        let status = slow.mount.ended().unwrap();
        let took = start.elapsed();
        assert!(status.success(), "{how}: {status}");
        assert!(took < Duration::from_secs(15), "{how}: it took {took:?}");
        // Whatever it was told.
        looking.join().unwrap().ok();
        assert!(slow.files() == before, "{how}: changed");
        slow.mount.tolerate_warnings();
        slow.ends_whole();
    }
}
