//! Opening and closing datasets, many of them: one that takes long keeps no other waiting, one in
//! use is not closed, and no chunk is refused for want of descriptors.

use crate::common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{
    Chunk, Mount, NoNewProcess, Served, chunks_in, close, counted, errno, eventually,
    no_new_process, npyfs, output_of, place, put, put_chunk, row_numbers, rows_of, run, serve,
};
use nix::errno::Errno;
use npyfs::dataset::{Face, NoOthers, Start};
use npyfs::disk::{DirEntry, Directory, Lock, Open, StoreDir, StoreFile};
use npyfs::store::{Door, Options, Store};

/// A dataset's directory in which a file `.hold-CALL` holds up that call, and `.fail-CALL` fails it.
#[derive(Debug)]
struct Held(Directory);

impl Held {
    fn heed(&self, call: &str) -> io::Result<()> {
        let told = |what: &str| {
            let path = format!(".{what}-{call}");
            self.0.identity(Path::new(&path)).is_ok()
        };
        if told("hold") {
            let note = format!(".held-{call}");
            let note = self.0.open(Path::new(&note), Open::Append)?;
            note.write_at(b"x", note.len()?)?;
            while told("hold") {
                thread::sleep(Duration::from_millis(2));
            }
        }
        if told("fail") {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl StoreDir for Held {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        if path == "data.npy" {
            self.heed("open")?;
        }
        self.0.open(path, how)
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
        self.heed("sync")?;
        self.0.sync(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.0.is_locked(path)
    }
    fn hand_over(&self, array: &dyn StoreFile) -> io::Result<()> {
        self.0.hand_over(array)
    }
}

fn held(_dataset: &Path, directory: Directory) -> Arc<dyn StoreDir> {
    Arc::new(Held(directory))
}

fn options(idle_datasets: usize) -> Options {
    Options {
        idle_datasets,
        door: Door(held),
        ..Options::default()
    }
}

fn tell(dataset: &Path, what: &str) {
    fs::write(dataset.join(what), "").unwrap();
}

fn untell(dataset: &Path, what: &str) {
    fs::remove_file(dataset.join(what)).unwrap();
}

/// How many calls were held up.
fn times_held(dataset: &Path, call: &str) -> u64 {
    fs::metadata(dataset.join(format!(".held-{call}"))).map_or(0, |note| note.len())
}

#[track_caller]
fn wait_until_held(dataset: &Path, call: &str) {
    let is_held = || times_held(dataset, call) > 0;
    assert!(eventually(Duration::from_secs(20), is_held));
}

const FACE: Face = Face {
    len: 0,
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: None,
};

/// The directory of a store that this process opens itself. A process that another test starts would
/// have the locks of its datasets, as long as it takes to execute.
struct Root {
    directory: tempfile::TempDir,
    _alone: NoNewProcess,
}

impl Root {
    fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn store_of(datasets: &[&str], idle: usize) -> (Root, Arc<Store>) {
    let root = Root {
        directory: tempfile::tempdir().unwrap(),
        _alone: no_new_process(),
    };
    for name in datasets {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let store = Store::open(root.path(), options(idle)).unwrap();
    (root, store)
}

#[test]
fn a_dataset_that_takes_long_to_open_keeps_only_those_waiting_who_want_it() {
    let (root, store) = store_of(&["slow", "other"], 128);
    let slow = root.path().join("slow");
    tell(&slow, ".hold-open");
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| store.dataset(Path::new("slow"))))
            .collect();
        wait_until_held(&slow, "open");
        let (send, receive) = mpsc::channel();
        let other = store.clone();
        thread::spawn(move || {
            let dataset = other.dataset(Path::new("other"));
            send.send(dataset.and_then(|it| it.append("a.npy", &counted(0, 2))))
        });
        let answer = receive.recv_timeout(Duration::from_secs(20));
        assert_eq!(times_held(&slow, "open"), 1, "opened more than once");
        untell(&slow, ".hold-open");
        answer.expect("the other dataset did not open").unwrap();
        let opened: Vec<_> = waiting
            .into_iter()
            .map(|it| it.join().unwrap().unwrap())
            .collect();
        assert!(opened.iter().all(|it| Arc::ptr_eq(it, &opened[0])));
    });
}

#[test]
fn an_opening_that_failed_is_tried_again_by_whoever_comes_next() {
    let (root, store) = store_of(&["bad"], 128);
    let bad = root.path().join("bad");
    tell(&bad, ".hold-open");
    tell(&bad, ".fail-open");
    thread::scope(|scope| {
        let first = scope.spawn(|| store.dataset(Path::new("bad")));
        wait_until_held(&bad, "open");
        let second = scope.spawn(|| store.dataset(Path::new("bad")));
        untell(&bad, ".hold-open");
        for opened in [first, second] {
            let error = opened.join().unwrap().unwrap_err();
            assert_eq!(error.errno(), Errno::EIO);
        }
    });
    untell(&bad, ".fail-open");
    let dataset = store.dataset(Path::new("bad")).unwrap();
    dataset.append("a.npy", &counted(0, 2)).unwrap();
}

#[test]
fn a_dataset_taken_into_use_while_another_closes_stays_open() {
    let (root, store) = store_of(&["first", "second", "third"], 2);
    for name in ["first", "second"] {
        let dataset = store.dataset(Path::new(name)).unwrap();
        dataset.append("a.npy", &counted(0, 2)).unwrap();
    }
    // Both are idle, and one too many with the third.
    let first = root.path().join("first");
    tell(&first, ".hold-sync");
    thread::scope(|scope| {
        let third = scope.spawn(|| store.dataset(Path::new("third")).unwrap());
        wait_until_held(&first, "sync");
        let second = store.dataset(Path::new("second")).unwrap();
        let chunk = second.begin(OsStr::new("b.npy"), FACE, Start::New).unwrap();
        untell(&first, ".hold-sync");
        third.join().unwrap();
        chunk.write(&counted(2, 2), 0, || ()).unwrap();
        chunk.flush(&NoOthers).unwrap();
        chunk.release();
    });
}

#[test]
fn whoever_comes_for_a_dataset_that_is_closing_opens_it_anew() {
    let (root, store) = store_of(&["first", "second"], 1);
    let append = |name: &str, chunk: &str, row: u64| {
        let dataset = store.dataset(Path::new(name))?;
        dataset.append(chunk, &counted(row, 1))
    };
    append("first", "a.npy", 0).unwrap();
    let first = root.path().join("first");
    tell(&first, ".hold-sync");
    thread::scope(|scope| {
        scope.spawn(|| append("second", "a.npy", 0).unwrap());
        wait_until_held(&first, "sync");
        let again: Vec<_> = ["b.npy", "c.npy"]
            .map(|chunk| scope.spawn(move || append("first", chunk, 1)))
            .into();
        thread::sleep(Duration::from_millis(20));
        untell(&first, ".hold-sync");
        for appended in again {
            appended.join().unwrap().unwrap();
        }
    });
    assert_eq!(
        row_numbers(&fs::read(first.join("data.npy")).unwrap()),
        [0, 1, 1]
    );
}

#[test]
fn no_close_of_many_finds_its_dataset_closed() {
    const DATASETS: usize = 24;
    const CLOSES: usize = 2400;
    let names: Vec<String> = (0..DATASETS).map(|n| format!("run{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (root, store) = store_of(&names, 4);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= CLOSES {
                        return;
                    }
                    // Neighbours in time are in different datasets.
                    let dataset = store.dataset(Path::new(names[n * 7 % DATASETS])).unwrap();
                    let name = format!("{n}.npy");
                    let chunk = dataset.begin(name.as_ref(), FACE, Start::New).unwrap();
                    chunk.write(&counted(n as u64, 1), 0, || ()).unwrap();
                    thread::sleep(Duration::from_millis(1));
                    chunk.flush(&NoOthers).unwrap();
                    chunk.release();
                }
            });
        }
    });
    store.close().unwrap();
    let mut rows = Vec::new();
    for name in names {
        rows.extend(row_numbers(
            &fs::read(root.path().join(name).join("data.npy")).unwrap(),
        ));
    }
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..CLOSES as u64));
}

/// Datasets of one chunk each, closed.
fn fill(store: &Path, names: &[String]) {
    for name in names {
        let path = store.join(name);
        fs::create_dir_all(&path).unwrap();
        let dataset = npyfs::Dataset::open(&path, npyfs::Options::default()).unwrap();
        dataset.append("a.npy", &counted(0, 2)).unwrap();
        dataset.close().unwrap();
    }
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name}{n}")).collect()
}

/// Every kind of request that is not about a dataset which hangs.
#[track_caller]
fn is_served(served: &mut Served, round: usize) {
    let (root, other) = (served.path(""), served.path("other"));
    served.answer(move || {
        let name = format!("{round}.npy");
        put(&other.join(&name), &counted(2, 1)).unwrap();
        assert_eq!(fs::read(other.join(&name)).unwrap(), counted(2, 1));
        assert_eq!(rows_of(&other).len(), 3 + round);
        let names: Vec<_> = fs::read_dir(&other).unwrap().collect();
        assert_eq!(names.len(), 3 + round);
        put(&other.join("x.part"), &counted(0, 2)).unwrap();
        fs::rename(other.join("x.part"), other.join("a.npy")).unwrap();
        fs::set_permissions(other.join("a.npy"), PermissionsExt::from_mode(0o600)).unwrap();
        File::open(&other).unwrap().sync_all().unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::remove_dir(root.join("new")).unwrap();
    });
}

#[test]
fn forty_datasets_that_hang_as_they_open_keep_no_other_from_being_served() {
    if let Some(place) = place() {
        return serve(&place, options(128));
    }
    let mut served =
        Served::start("forty_datasets_that_hang_as_they_open_keep_no_other_from_being_served");
    let hung = numbered("hung", 40);
    fill(&served.store(), &hung);
    fill(&served.store(), &["other".into()]);
    hung.iter()
        .for_each(|name| tell(&served.store().join(name), ".hold-open"));
    let ask = |name: &String| {
        let dataset = served.path(name);
        let asked: [fn(&Path) -> io::Result<()>; 3] = [
            |dataset| fs::metadata(dataset.join("data.npy")).map(drop),
            |dataset| put(&dataset.join("b.npy"), &counted(2, 1)),
            |dataset| fs::read_dir(dataset)?.try_for_each(|entry| entry.map(drop)),
        ];
        asked.map(|ask| {
            let dataset = dataset.clone();
            thread::spawn(move || ask(&dataset))
        })
    };
    let asking: Vec<_> = hung.iter().flat_map(ask).collect();
    for name in &hung {
        wait_until_held(&served.store().join(name), "open");
    }
    is_served(&mut served, 0);
    hung.iter()
        .for_each(|name| untell(&served.store().join(name), ".hold-open"));
    served.answer(|| {
        for asked in asking {
            asked.join().unwrap().unwrap();
        }
    });
    for name in &hung {
        assert_eq!(rows_of(&served.path(name)), [0, 1, 2]);
    }
}

/// What the kernel has of a dataset, without its name.
struct Known {
    path: PathBuf,
    dir: File,
    chunk: File,
    array: File,
}

impl Known {
    fn new(path: PathBuf) -> Self {
        let by_path = |path: &Path| {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_PATH);
            options.open(path).unwrap()
        };
        Self {
            dir: File::open(&path).unwrap(),
            chunk: by_path(&path.join("a.npy")),
            array: File::open(path.join("data.npy")).unwrap(),
            path,
        }
    }

    /// A path that leads to a file without a lookup.
    fn again(file: &File) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }
}

/// A name, and a request that has to open the dataset.
type Request = (&'static str, fn(&Known));

const REQUESTS: [Request; 14] = [
    ("list", |known| {
        let listed = fs::read_dir(Known::again(&known.dir)).unwrap();
        assert!(
            listed
                .map(Result::unwrap)
                .any(|it| it.file_name() == "a.npy")
        );
    }),
    ("stat", |known| {
        // What the kernel was told is good for a second.
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(
            known.chunk.metadata().unwrap().len(),
            counted(0, 2).len() as u64
        );
    }),
    ("open", |known| {
        assert_eq!(fs::read(Known::again(&known.chunk)).unwrap(), counted(0, 2));
    }),
    ("status", |known| {
        for name in ["status.json", "chunks.csv"] {
            let text = fs::read(known.path.join(".npyfs").join(name)).unwrap();
            assert!(!text.is_empty());
        }
    }),
    ("write", |known| {
        let mut file = OpenOptions::new();
        let mut file = file.write(true).open(Known::again(&known.chunk)).unwrap();
        file.write_all(&counted(0, 2)).unwrap();
        close(file).unwrap();
    }),
    ("chmod", |known| {
        let mode = PermissionsExt::from_mode(0o640);
        fs::set_permissions(Known::again(&known.chunk), mode).unwrap();
    }),
    ("truncate", |known| {
        let len = counted(0, 2).len() as i64;
        nix::unistd::truncate(&Known::again(&known.chunk), len).unwrap();
    }),
    ("fsyncdir", |known| known.dir.sync_all().unwrap()),
    ("fsync", |known| known.array.sync_all().unwrap()),
    ("lookup", |known| assert_eq!(rows_of(&known.path), [0, 1])),
    ("create", |known| {
        put(&known.path.join("b.npy"), &counted(2, 1)).unwrap();
    }),
    ("rename", |known| {
        let rename = |from: &str, to: &str| {
            fs::rename(known.path.join(from), known.path.join(to)).unwrap();
        };
        rename("a.npy", "c.npy");
    }),
    ("unlink", |known| {
        let removed = fs::remove_file(known.path.join("a.npy"));
        assert_eq!(errno(removed), Errno::EPERM);
    }),
    ("rmdir", |known| {
        assert_eq!(errno(fs::remove_dir(&known.path)), Errno::ENOTEMPTY);
    }),
];

#[test]
fn status_shows_a_dataset_that_hangs_as_a_row_and_those_after_it_too() {
    if let Some(place) = place() {
        return serve(&place, options(128));
    }
    let mut served =
        Served::start("status_shows_a_dataset_that_hangs_as_a_row_and_those_after_it_too");
    let names = ["a", "b", "b-2", "c"].map(String::from);
    fill(&served.store(), &names);
    tell(&served.store().join("b"), ".hold-open");
    let root = served.path("");
    let output = served.answer(move || {
        let mut status = Command::new(npyfs());
        output_of(status.args(["status", "--json"]).arg(root)).unwrap()
    });
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = found.as_array().unwrap().iter();
    let states: Vec<_> = rows.map(|row| (&row["path"], &row["state"])).collect();
    let expected = names.map(|name| {
        let state = if name == "b" { "silent" } else { "ok" };
        (served.path(name).to_str().unwrap().into(), state.into())
    });
    assert_eq!(
        states,
        expected.each_ref().map(|(path, state)| (path, state))
    );
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    untell(&served.store().join("b"), ".hold-open");
}

#[test]
fn no_request_opens_a_dataset_where_it_keeps_others_waiting() {
    if let Some(place) = place() {
        return serve(&place, options(1));
    }
    let mut served = Served::start("no_request_opens_a_dataset_where_it_keeps_others_waiting");
    fill(&served.store(), &["other".into()]);
    let mut fillers = 0;
    for (round, (request, ask)) in REQUESTS.into_iter().enumerate() {
        // One for each thread that serves.
        // Each in a directory of its own, which the kernel locks for rmdir.
        let names = [0, 1].map(|n| format!("{request}{n}/set"));
        fill(&served.store(), &names);
        let known: Vec<_> = names
            .iter()
            .map(|name| Arc::new(Known::new(served.path(name))))
            .collect();
        let paths: Vec<_> = names.iter().map(|name| served.store().join(name)).collect();
        // It is closed as idle once others are opened.
        let closed = eventually(Duration::from_secs(20), || {
            fillers += 1;
            let path = served.path(format!("filler{fillers}"));
            fs::create_dir(&path).unwrap();
            assert!(!path.join("data.npy").exists());
            !has_open(served.daemon.child().id(), &paths)
        });
        assert!(closed, "{request}: not closed");
        paths.iter().for_each(|path| tell(path, ".hold-open"));
        let asking: Vec<_> = known
            .into_iter()
            .map(|known| thread::spawn(move || ask(&known)))
            .collect();
        for path in &paths {
            wait_until_held(path, "open");
        }
        eprintln!("{request}");
        is_served(&mut served, round);
        paths.iter().for_each(|path| untell(path, ".hold-open"));
        served.answer(|| {
            for asked in asking {
                asked.join().unwrap();
            }
        });
    }
}

/// Whether a process has the directories open.
fn has_open(pid: u32, directories: &[PathBuf]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .any(|path| directories.contains(&path))
}

#[test]
fn closes_in_more_datasets_than_stay_open_all_succeed() {
    if let Some(place) = place() {
        return serve(&place, options(4));
    }
    const CLOSES: usize = 1200;
    let mut served = Served::start("closes_in_more_datasets_than_stay_open_all_succeed");
    let names = numbered("run", 24);
    let paths: Vec<_> = names.iter().map(|name| served.path(name)).collect();
    paths.iter().for_each(|path| fs::create_dir(path).unwrap());
    let all = paths.clone();
    served.answer(move || {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= CLOSES {
                            return;
                        }
                        let path = all[n * 7 % all.len()].join(format!("{n}.npy"));
                        put(&path, &counted(n as u64, 1)).unwrap();
                    }
                });
            }
        });
    });
    let mut rows: Vec<u64> = paths.iter().flat_map(|path| rows_of(path)).collect();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..CLOSES as u64));
}

#[test]
fn a_fifo_where_the_array_belongs_hangs_nobody_and_is_refused() {
    require!(fuse, mkfifo);
    let mount = Mount::new();
    for name in ["run", "odd"] {
        fs::create_dir(mount.path(name)).unwrap();
    }
    put(&mount.path("run/a.npy"), &counted(0, 2)).unwrap();
    run(Command::new("mkfifo").arg(mount.store("odd/data.npy")));
    mount.expect_warning("cannot open the dataset odd");
    let looking: Vec<_> = (0..4)
        .map(|n| {
            let odd = mount.path("odd");
            thread::spawn(move || match n {
                0 => fs::metadata(odd.join("data.npy")).map(drop),
                1 => put(&odd.join("b.npy"), &counted(0, 1)),
                _ => fs::read_dir(odd).and_then(|mut all| all.try_for_each(|it| it.map(drop))),
            })
        })
        .collect();
    let (send, receive) = mpsc::channel();
    let run = mount.path("run");
    thread::spawn(move || {
        put(&run.join("b.npy"), &counted(2, 1)).unwrap();
        send.send(rows_of(&run))
    });
    let rows = receive.recv_timeout(Duration::from_secs(20));
    let ended = || looking.iter().all(|it| it.is_finished());
    if rows.is_err() || !eventually(Duration::from_secs(20), ended) {
        // Frees those who wait, for the end of the test.
        common::kill(mount.pid(), "KILL");
        panic!("no answer: {rows:?}");
    }
    assert_eq!(rows.unwrap(), [0, 1, 2]);
    for looked in looking {
        looked.join().unwrap().unwrap_err();
    }
}

#[test]
fn two_hundred_datasets_are_written_and_read_with_64_descriptors() {
    require!(fuse);
    const DATASETS: u64 = 200;
    let mount = Mount::builder().descriptors(64).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
    assert!(limits.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.starts_with(&["Max", "open", "files", "64", "64"])
    }));
    let root = mount.path("");
    let dataset = |n: u64| root.join(format!("run{n}"));
    for n in 0..DATASETS {
        fs::create_dir(dataset(n)).unwrap();
    }
    // Some descriptors are in use all the time.
    let others: Vec<File> = (0..8)
        .map(|n| File::create_new(mount.path(format!("other{n}"))).unwrap())
        .collect();
    for round in 0..3 {
        thread::scope(|scope| {
            for part in 0..4 {
                let dataset = &dataset;
                scope.spawn(move || {
                    for n in (part..DATASETS).step_by(4) {
                        put_chunk(&dataset(n), Chunk::new(round, n)).unwrap();
                    }
                });
            }
        });
    }
    drop(others);
    for n in 0..DATASETS {
        let expected: Vec<_> = (0..3).map(|round| Chunk::new(round, n)).collect();
        assert_eq!(chunks_in(&dataset(n).join("data.npy")), expected);
        let mut chunk = Vec::new();
        let mut file = File::open(dataset(n).join(expected[0].name())).unwrap();
        file.read_to_end(&mut chunk).unwrap();
        assert_eq!(chunk, expected[0].bytes());
    }
}

#[test]
fn eight_producers_in_as_many_datasets_wait_for_descriptors_that_others_have() {
    require!(fuse);
    const PRODUCERS: u64 = 8;
    const DATASETS: u64 = 200;
    let mount = Mount::builder().descriptors(64).start();
    let root = mount.path("");
    let dataset = |n: u64| root.join(format!("run{n}"));
    for n in 0..DATASETS {
        fs::create_dir(dataset(n)).unwrap();
    }
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let dataset = &dataset;
            scope.spawn(move || {
                for step in 0..DATASETS {
                    let n = (step + producer * 25) % DATASETS;
                    put_chunk(&dataset(n), Chunk::new(producer, n)).unwrap();
                }
            });
        }
    });
    for n in 0..DATASETS {
        let mut found = chunks_in(&dataset(n).join("data.npy"));
        found.sort();
        let expected: Vec<_> = (0..PRODUCERS).map(|it| Chunk::new(it, n)).collect();
        assert_eq!(found, expected);
    }
}
