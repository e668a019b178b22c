//! No request reads, makes, changes or removes anything outside the store, whatever an ordinary user
//! does to what the user owns in it; nor what is in it and closed to the user; and nothing in it makes
//! a request hang.

use crate::common;
use crate::common::Started as _;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Mount, Strace, User, counted, errno, put, rows_of};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tempfile::TempDir;

const SECRET: &str = "secret";
/// How long a script may take that has to wait for nothing.
const PROMPT: &str = "90";

/// A store that an ordinary user can reach, and what that user must not.
struct Scene {
    mount: Mount,
    strace: Option<Strace>,
    root: TempDir,
    store: PathBuf,
    /// Beside the store: a directory of root's that is closed to all others.
    outside: Victim,
    /// Such directories in the store, in a directory of the user's and in one below: there the user
    /// can move them.
    inside: [Victim; 2],
}

/// A directory that is to stay as it is, wherever it is moved.
struct Victim {
    held: File,
    before: BTreeMap<PathBuf, Entry>,
}

/// Type and mode, owner, group, time of modification, contents.
type Entry = (u32, u32, u32, (i64, i64), Vec<u8>);

impl Victim {
    fn make(at: &Path) -> Self {
        fs::create_dir_all(at.join("inner")).unwrap();
        fs::create_dir(at.join("empty")).unwrap();
        for name in ["key", "more", "log", "lock", "inner/key", "x.npy"] {
            fs::write(at.join(name), format!("{SECRET} {name}")).unwrap();
            fs::set_permissions(at.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        fs::set_permissions(at, PermissionsExt::from_mode(0o700)).unwrap();
        let held = File::open(at).unwrap();
        let before = entries(&held);
        Self { held, before }
    }

    #[track_caller]
    fn is_unchanged(&self, said: &str) {
        assert_eq!(entries(&self.held), self.before, "{said}");
    }
}

fn entries(directory: &File) -> BTreeMap<PathBuf, Entry> {
    fn walk(at: &Path, within: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
        let metadata = at.join(within).symlink_metadata().unwrap();
        let mut bytes = Vec::new();
        if metadata.is_dir() {
            for entry in fs::read_dir(at.join(within)).unwrap() {
                walk(at, &within.join(entry.unwrap().file_name()), found);
            }
        } else {
            bytes = fs::read(at.join(within)).unwrap();
        }
        let times = (metadata.mtime(), metadata.mtime_nsec());
        let entry = (
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            times,
            bytes,
        );
        found.insert(within.to_owned(), entry);
    }
    let mut found = BTreeMap::new();
    let at = PathBuf::from(format!("/proc/self/fd/{}/", directory.as_raw_fd()));
    walk(&at, Path::new("."), &mut found);
    found
}

/// A script that has said that it is ready.
struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn_alone().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, said }
    }

    /// Lets it go on, and answers what it says until its end.
    fn go_on(mut self) -> String {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

impl Scene {
    fn new(has_openat2: bool) -> Self {
        let root = tempfile::Builder::new().prefix("npyfs-").tempdir().unwrap();
        let open = |path: &Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        open(root.path(), 0o755);
        let store = root.path().canonicalize().unwrap().join("store");
        let mine = store.join("mine");
        let user = User::ordinary();
        fs::create_dir_all(&mine).unwrap();
        chown(&mine, Some(user.uid), Some(user.gid)).unwrap();
        open(&store, 0o1777);
        let outside = Victim::make(&root.path().join("victim"));
        let below = mine.join("below");
        fs::create_dir(&below).unwrap();
        chown(&below, Some(user.uid), Some(user.gid)).unwrap();
        let inside = [&mine, &below].map(|above| Victim::make(&above.join("roots")));
        // Only root can have made these.
        let hard = fs::hard_link(root.path().join("victim/key"), mine.join("hard"));
        hard.unwrap();
        let null = makedev(1, 3);
        mknod(&mine.join("device"), SFlag::S_IFCHR, Mode::S_IRWXU, null).unwrap();
        let mut mount = Mount::builder().store(&store).words("allow_other").start();
        mount.tolerate_warnings();
        let strace = (!has_openat2).then(|| {
            let inject = ["-e", "inject=openat2:error=ENOSYS"];
            let trace = mount.scratch("trace");
            Strace::attach(mount.pid(), "openat2", &inject, &trace)
        });
        Self {
            mount,
            strace,
            root,
            store,
            outside,
            inside,
        }
    }

    /// A function of tests/outside/operations.py as the user.
    fn command(&self, function: &str, arguments: &[&str]) -> Command {
        let script = include_str!("../outside/operations.py");
        let mut command = User::ordinary().command("timeout");
        command.args(["-s", "KILL", PROMPT, "python3", "-c", script]);
        command.arg(self.mount.path("")).arg(&self.store);
        command.arg(self.root.path().join("victim"));
        command.arg(function).args(arguments);
        command
    }

    /// What it says, after which all must be as it was.
    #[track_caller]
    fn attack(&self, function: &str, arguments: &[&str]) -> String {
        let output = self.command(function, arguments).output_alone().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{function} {arguments:?}:\n{said}");
        assert!(output.status.success(), "{said}{output:?}");
        self.nothing_was_done(&said);
        said
    }

    #[track_caller]
    fn nothing_was_done(&self, said: &str) {
        assert!(!said.contains(SECRET), "{said}");
        self.outside.is_unchanged(said);
        self.inside
            .iter()
            .for_each(|victim| victim.is_unchanged(said));
    }

    fn finish(self) {
        if let Some(strace) = self.strace {
            strace.detach();
            let trace = fs::read_to_string(self.mount.scratch("trace")).unwrap();
            let asked = trace.matches("openat2(").count();
            assert_eq!(asked, 1, "it is asked for once: {trace}");
        }
        self.mount.finish();
    }
}

/// Only these were done, of all that was tried.
#[track_caller]
fn only(said: &str, done: &[&str]) {
    let answered = said.lines().filter(|line| line.contains(" ok "));
    let others: Vec<&str> = answered
        .filter(|line| !done.iter().any(|it| line.starts_with(&format!("{it} ok"))))
        .collect();
    assert!(others.is_empty(), "{others:?} in {said}");
    assert!(said.lines().count() > 10, "{said}");
}

/// Each test with openat2(2) and without.
macro_rules! attacks {
    ($($name:ident, $without:ident: $test:expr;)+) => {
        $(
            #[test]
            fn $name() {
                require!(fuse, root, python3);
                $test(true);
            }

            #[test]
            fn $without() {
                require!(fuse, root, python3, strace);
                $test(false);
            }
        )+
    };
}

attacks! {
    a_working_directory_that_was_swapped_is_stale,
    a_working_directory_that_was_swapped_is_stale_without_openat2: working_directory;
    a_path_through_a_swapped_directory_leads_nowhere,
    a_path_through_a_swapped_directory_leads_nowhere_without_openat2: path;
    open_files_and_directories_outlive_a_swap_and_nothing_else_is_reached_by_them,
    open_files_and_directories_outlive_a_swap_without_openat2: handles;
    what_takes_the_place_of_a_file_is_not_taken_for_it,
    what_takes_the_place_of_a_file_is_not_taken_for_it_without_openat2: files;
    removing_a_dataset_removes_nothing_but_what_npyfs_has_made,
    removing_a_dataset_removes_nothing_but_what_npyfs_has_made_without_openat2: control;
    nothing_is_reached_in_a_race,
    nothing_is_reached_in_a_race_without_openat2: race;
    paths_may_be_longer_than_a_system_call_takes,
    paths_may_be_longer_than_a_system_call_takes_without_openat2: deep;
}

const SWAPS: [&str; 3] = ["link", "directory", "file"];

fn working_directory(has_openat2: bool) {
    for swap in SWAPS {
        for function in ["through_a_working_directory", "through_a_directory_above"] {
            let scene = Scene::new(has_openat2);
            let said = scene.attack(function, &[swap]);
            only(&said, &["statfs"]);
            let stale = said.lines().filter(|line| line.ends_with(" ESTALE"));
            assert!(stale.count() > 20, "{said}");
            scene.finish();
        }
    }
}

fn path(has_openat2: bool) {
    for swap in SWAPS {
        let scene = Scene::new(has_openat2);
        let said = scene.attack("through_a_path", &[swap]);
        // The link is not shown; a directory in the user's own may be looked at, and so may a file.
        only(&said, &["statfs"]);
        scene.finish();
    }
}

fn handles(has_openat2: bool) {
    for swap in SWAPS {
        let scene = Scene::new(has_openat2);
        let said = scene.attack("with_handles", &[swap]);
        only(&said, &["pread", "pwrite", "ftruncate", "fstat", "fsync"]);
        for goes_on in ["pread ok b'0000'", "pwrite ok", "fstat ok", "fsync ok"] {
            assert!(said.contains(goes_on), "{goes_on}: {said}");
        }
        assert!(said.contains("old b'mine"), "{said}");
        scene.finish();
    }
}

const KINDS: [&str; 7] = [
    "link",
    "link to a directory",
    "fifo",
    "socket",
    "device",
    "hard link",
    "directory",
];

fn files(has_openat2: bool) {
    for kind in KINDS {
        for function in ["file_swapped", "names_planted"] {
            let scene = Scene::new(has_openat2);
            let said = scene.attack(function, &[kind]);
            for denied in ["read", "append", "truncating open", "truncate"] {
                let done = said
                    .lines()
                    .any(|line| line.starts_with(&format!("{denied} ok")));
                assert!(!done, "{denied}: {said}");
            }
            assert!(
                said.contains("mkdir ok") && said.contains("create ok"),
                "{said}"
            );
            scene.finish();
        }
    }
}

fn control(has_openat2: bool) {
    for kind in ["link", "links", "links within", "directory"] {
        let scene = Scene::new(has_openat2);
        let said = scene.attack("control_planted", &[kind]);
        assert!(said.contains("rmdir "), "{said}");
        scene.finish();
    }
}

fn race(has_openat2: bool) {
    let (mut done, mut stale) = (0, 0);
    // How often they meet in a second is the machine's to say.
    for _ in 0..20 {
        let mut scene = Scene::new(has_openat2);
        scene.mount.allow_open("(deleted)");
        let racer = Running::start(&mut scene.command("race", &["4"]));
        let swapper = Running::start(&mut scene.command("swap", &["4"]));
        let said = racer.go_on();
        swapper.go_on();
        done += said.lines().filter(|line| line.contains(" ok ")).count();
        stale += said.lines().filter(|line| line.ends_with("ESTALE")).count();
        scene.nothing_was_done(&said);
        scene.finish();
        if done > 20 && stale > 20 {
            return;
        }
    }
    panic!("{done} and {stale}");
}

fn deep(has_openat2: bool) {
    let scene = Scene::new(has_openat2);
    let chunk = scene.store.join("mine/chunk");
    fs::write(&chunk, counted(0, 3)).unwrap();
    fs::set_permissions(&chunk, PermissionsExt::from_mode(0o644)).unwrap();
    let said = scene.attack("deep", &["40"]);
    for expected in [
        "list ok ['moved', 'renamed']",
        "read ok b'mi'",
        "rows 384",
        "list ok ['data.npy', 'x.npy']",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    scene.finish();
}

/// A file of root's in the user's directory, with this mode.
fn theirs(scene: &Scene, mode: u32, bytes: &[u8]) -> PathBuf {
    let path = scene.store.join("mine/theirs");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_file_that_a_user_may_not_read_does_not_become_rows_by_that_users_rename() {
    require!(fuse, root, python3);
    let scene = Scene::new(true);
    let path = theirs(&scene, 0o600, &counted(0, 3));
    let said = scene.attack("commit", &[]);
    assert!(said.contains("read EACCES\ncommit EACCES"), "{said}");
    assert!(path.exists());
    assert!(!scene.mount.path("mine/data.npy").exists());
    // By the group, which is not the one that the kernel tells of; then by all others.
    let user = User::ordinary();
    for (mode, group) in [(0o604, user.gid), (0o640, 0)] {
        theirs(&scene, mode, &counted(0, 3));
        chown(&path, None, Some(group)).unwrap();
        let said = scene.attack("commit", &[]);
        assert!(
            said.contains("read EACCES\ncommit EACCES"),
            "{mode:o}: {said}"
        );
    }
    theirs(&scene, 0o644, &counted(0, 3));
    let said = scene.attack("commit", &[]);
    assert!(said.contains("commit ok"), "{said}");
    assert_eq!(rows_of(&scene.mount.path("mine")).len(), 3);
    scene.finish();
}

#[test]
fn modes_that_are_changed_in_the_store_hold_at_once() {
    require!(fuse, root, python3);
    let scene = Scene::new(true);
    let close = |path: &Path, mode: u32| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let path = theirs(&scene, 0o666, b"0000");
    let running = Running::start(&mut scene.command("closed_meanwhile", &[]));
    close(&path, 0o600);
    let said = running.go_on();
    assert_eq!(said.matches("EACCES").count(), 4, "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"0000");
    // Opened instead: the kernel looks again, and lets the user in.
    let running = Running::start(&mut scene.command("closed_meanwhile", &[]));
    close(&path, 0o666);
    let said = running.go_on();
    assert_eq!(said.matches(" ok").count(), 4, "{said}");
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "").unwrap();
    close(&path, 0o777);
    let running = Running::start(&mut scene.command("directory_closed_meanwhile", &[]));
    close(&path, 0o700);
    let said = running.go_on();
    assert_eq!(said.matches("EACCES").count(), 5, "{said}");
    let names: Vec<_> = fs::read_dir(&path).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    scene.finish();
}

#[test]
fn a_lease_holds_up_only_who_opens_that_file_and_not_for_long() {
    require!(fuse, root, python3);
    let scene = Scene::new(true);
    let user = User::ordinary();
    let path = theirs(&scene, 0o666, b"0000");
    chown(&path, Some(user.uid), Some(user.gid)).unwrap();
    let seen = scene.mount.path("mine/theirs");
    let stored = path.to_str().unwrap();

    // Given up after a while.
    let lease = Running::start(&mut scene.command("lease", &[stored, "0.3"]));
    let begun = Instant::now();
    assert_eq!(fs::read(&seen).unwrap(), b"0000");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(2),
        "{took:?}"
    );
    lease.go_on();

    // Kept for longer than anybody waits: others do not wait at all.
    let lease = Running::start(&mut scene.command("lease", &[stored, "12"]));
    let opens = (0..60).map(|n| {
        let seen = seen.clone();
        std::thread::spawn(move || {
            let begun = Instant::now();
            let opened = match n {
                // The kernel has one at a time.
                0 => nix::unistd::truncate(&seen, 0).map_err(std::io::Error::from),
                1..30 => File::open(&seen).map(drop),
                _ => File::options().write(true).open(&seen).map(drop),
            };
            (errno(opened), begun.elapsed())
        })
    });
    let opens: Vec<_> = opens.collect();
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    for n in 0..50 {
        put(&scene.mount.path(format!("mine/{n}.npy")), &counted(n, 1)).unwrap();
        fs::write(scene.mount.path("mine/other"), "1").unwrap();
        let moved = scene.mount.path(format!("mine/other.npy.{n}"));
        fs::rename(scene.mount.path("mine/other"), moved).unwrap();
    }
    let others = begun.elapsed();
    assert!(others < Duration::from_secs(5), "{others:?}");
    assert_eq!(rows_of(&scene.mount.path("mine")).len(), 50);
    for open in opens {
        let (errno, took) = open.join().unwrap();
        assert_eq!(errno, Errno::EBUSY);
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 4);
    lease.go_on();
    scene.finish();
}
