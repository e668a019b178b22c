//! Mounts the real binary for a test, and fails the test when the daemon leaves anything after.
//!
//! Every test that holds a [`Mount`] also checks, at its end, that the daemon keeps no descriptor
//! of the store that it should have closed, that it unmounts, that it ends with exit code 0, and
//! that its log has no warning, error or panic that the test did not expect. When the test itself
//! panics the same is cleaned up by force, and the log is printed.
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]

mod disks;
pub mod load;
mod need;
mod npy;
mod place;
mod process;
mod served;
mod server;
mod strace;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::panicking;
use std::time::Duration;

use tempfile::TempDir;

pub use disks::{LoopMount, inside_a_private_namespace, inside_a_private_network};
pub use load::{
    Chunk, Style, array_of, chunks_in, close as close_chunk, csv_names, put as put_chunk,
    put_bytes, sync_path, wait_until_stored, write as write_chunk,
};
pub use need::{User, bare_python, missing, python, python_command, script, script_command, skip};
pub use npy::{
    Parsed, ROW, WIDTH, close, counted, errno, npy, parse, put, put_in_pieces, row_numbers,
    rows_of, with_dict,
};
pub use place::{Place, try_mount, umount};
pub use process::{
    NoNewProcess, Parked, Started, alone, eventually, force_unmount, is_alive, is_mounted, kill,
    no_new_process, npyfs, output_of, parked, run, start,
};
pub use served::{Served, place, serve};
pub use server::Server;
pub use strace::Strace;

/// `require!(fuse)`, `require!(root)`, `require!(fusermount3)`, `require!(python)`,
/// `require!(PROGRAM)`: ends the test as skipped, with the reason, where that is missing.
#[macro_export]
macro_rules! require {
    ($($need:ident),+) => {
        $(if let Some(reason) = $crate::common::missing(stringify!($need)) {
            $crate::common::skip(&reason);
            return;
        })+
    };
}

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    store: Option<PathBuf>,
    background: bool,
    user: Option<User>,
    descriptors: Option<u32>,
}

impl Builder {
    /// One more argument of `npyfs mount`.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// Words of `-o`.
    pub fn words(self, words: &str) -> Self {
        self.arg("-o").arg(words)
    }

    /// A variable of the daemon's environment (`RUST_LOG` is `info` otherwise).
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// This directory as the store, which then outlives the mount.
    pub fn store(mut self, store: &Path) -> Self {
        self.store = Some(store.into());
        self
    }

    /// Without `-f`.
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// As this user, who owns the mount point and the store.
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// The daemon may have this many descriptors.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Mounts. Fails the test where that does not work within 20 seconds.
    pub fn start(self) -> Mount {
        let scratch = tempfile::Builder::new().prefix("npyfs-").tempdir().unwrap();
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let mountpoint = root.join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let store = self.store.clone().unwrap_or_else(|| {
            // Where other users are let in, the store is kept out of their reach, as they are told.
            let allows_others = |word: &OsString| word.to_string_lossy().contains("allow_other");
            let above = match self.arguments.iter().any(allows_others) {
                true => private_directory(&root, self.user),
                false => root.clone(),
            };
            let store = above.join("store");
            fs::create_dir(&store).unwrap();
            store
        });
        let binary = match self.user {
            None => npyfs(),
            Some(user) => {
                chown(&mountpoint, Some(user.uid), Some(user.gid)).unwrap();
                chown(&store, Some(user.uid), Some(user.gid)).unwrap();
                // The build may lie where an ordinary user cannot go.
                let copy = root.join("npyfs");
                // By another process: ours may be forking for another test, and a child would have
                // the copy open for writing, which cannot be executed.
                run(Command::new("cp").arg(npyfs()).arg(&copy));
                copy
            }
        };
        let mut mount = Mount {
            store: store.canonicalize().unwrap(),
            log: root.join("daemon.log"),
            builder: self,
            scratch,
            binary,
            mountpoint,
            pid: 0,
            child: None,
            expected: RefCell::default(),
            allowed: Vec::new(),
            tolerant: false,
            running: false,
            checked: false,
        };
        mount.launch();
        mount
    }
}

/// A mount, its store and its daemon.
#[derive(Debug)]
pub struct Mount {
    builder: Builder,
    scratch: TempDir,
    binary: PathBuf,
    store: PathBuf,
    mountpoint: PathBuf,
    log: PathBuf,
    pid: i32,
    /// In the foreground.
    child: Option<Child>,
    expected: RefCell<Vec<String>>,
    allowed: Vec<&'static str>,
    /// Warnings and errors are fine; panics are not.
    tolerant: bool,
    running: bool,
    checked: bool,
}

impl Mount {
    /// A new, empty store, mounted with no options.
    pub fn new() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A path in the mount.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(relative)
    }

    /// A path in the store.
    pub fn store(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.store.join(relative)
    }

    /// A path beside both, for a test's own files.
    pub fn scratch(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(relative)
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Each of these must be in a line of the log that is a warning or an error; such lines that
    /// have none of them fail the test.
    pub fn expect_warning(&self, text: &str) {
        self.expected.borrow_mut().push(text.into());
    }

    /// Any warning or error may be in the log, for tests that make everything fail.
    pub fn tolerate_warnings(&mut self) {
        self.tolerant = true;
    }

    /// Descriptors of the store whose path ends so may be open at the end.
    pub fn allow_open(&mut self, ending: &'static str) {
        self.allowed.push(ending);
    }

    /// Unmounts, and mounts the same store in the same way. The log goes on.
    pub fn remount(self) -> Self {
        self.remount_after(|| ())
    }

    /// As [`Mount::remount`], with a change of the store in between. The daemon may have crashed before.
    pub fn remount_after(mut self, change: impl FnOnce()) -> Self {
        self.check_and_end();
        change();
        self.launch();
        self
    }

    /// Kills the daemon without warning, and mounts the same store in the same way.
    pub fn crash_and_remount(mut self) -> Self {
        self.crash();
        self.launch();
        self
    }

    /// Kills the daemon without warning and takes the dead mount away. The store can be looked at
    /// until the value is dropped.
    pub fn crash(&mut self) {
        kill(self.pid, "KILL");
        assert!(self.wait_for_end(), "the daemon outlived SIGKILL");
        force_unmount(&self.mountpoint);
        self.running = false;
    }

    /// Waits until the daemon has ended by itself, and tells how (in the foreground). Nothing but
    /// the log is checked afterwards.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        assert!(self.wait_for_end(), "the daemon still runs\n{}", self.log());
        self.running = false;
        let status = self.child.as_mut().map(|child| child.wait().unwrap());
        assert!(!is_mounted(&self.mountpoint), "the mount was left behind");
        status
    }

    /// Unmounts where files were replaced in the store, which `npyfs umount` says and the exit codes
    /// of both; nothing else is left.
    pub fn end_unclean(&mut self) -> Output {
        self.checked = true;
        self.running = false;
        let output = output_of(&mut umount(&self.mountpoint)).unwrap();
        assert_eq!(output.status.code(), Some(8), "{output:?}");
        assert!(!is_mounted(&self.mountpoint), "{output:?}");
        assert!(self.wait_for_end(), "the daemon runs: {}", self.log());
        if let Some(mut child) = self.child.take() {
            assert_eq!(child.wait().unwrap().code(), Some(8), "{}", self.log());
        }
        assert!(!self.log().contains("panicked"), "{}", self.log());
        output
    }

    /// Unmounts and checks, as dropping does.
    pub fn finish(mut self) {
        self.check_and_end();
    }

    fn launch(&mut self) {
        let log = self.open_log();
        let mut command = match self.builder.user {
            Some(user) => user.command(&self.binary),
            None => Command::new(&self.binary),
        };
        if let Some(most) = self.builder.descriptors {
            assert!(self.builder.user.is_none(), "not both");
            let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
            command = Command::new("sh");
            command.arg("-c").arg(limited).arg(&self.binary);
        }
        command
            .arg("mount")
            .args([&self.store, &self.mountpoint])
            .args(&self.builder.arguments)
            .env("RUST_LOG", "info")
            .envs(self.builder.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if self.builder.background {
            let errors = self.scratch("start.log");
            command.arg("--log-file").arg(&self.log);
            command.stderr(File::create(&errors).unwrap());
            let status = start(&mut command).unwrap().wait().unwrap();
            let said = fs::read_to_string(errors).unwrap();
            assert!(status.success(), "npyfs mount failed ({status}): {said}");
            self.running = true;
            // Only the user who mounted may look inside.
            let mut cat = match self.builder.user {
                Some(user) => user.command("cat"),
                None => Command::new("cat"),
            };
            let pid = run(cat.arg(self.path(".npyfs/daemon"))).stdout;
            let pid = String::from_utf8(pid).unwrap();
            self.pid = pid.trim().parse().unwrap();
        } else {
            let mut child = start(command.arg("-f").stderr(log)).unwrap();
            self.pid = child.id().cast_signed();
            let mut ended = None;
            let mounted = eventually(Duration::from_secs(60), || {
                ended = child.try_wait().unwrap();
                ended.is_some() || is_mounted(&self.mountpoint)
            });
            assert!(
                mounted && ended.is_none(),
                "no mount ({ended:?}): {}",
                self.log()
            );
            self.child = Some(child);
        }
        self.running = true;
        self.checked = false;
    }

    fn open_log(&self) -> File {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        if let Some(user) = self.builder.user {
            chown(&self.log, Some(user.uid), Some(user.gid)).unwrap();
        }
        log
    }

    fn wait_for_end(&mut self) -> bool {
        eventually(Duration::from_secs(20), || match &mut self.child {
            Some(child) => child.try_wait().unwrap().is_some(),
            None => !is_alive(self.pid),
        })
    }

    fn check_and_end(&mut self) {
        self.checked = true;
        let mut problems = Vec::new();
        if self.running {
            self.running = false;
            self.check_descriptors(&mut problems);
            self.unmount(&mut problems);
        }
        self.check_log(&mut problems);
        if panicking() {
            // The test has failed already; a second panic would end the whole run.
            eprintln!("{problems:?}\nthe daemon's log:\n{}", self.log());
        } else if !problems.is_empty() {
            panic!("{}\nthe daemon's log:\n{}", problems.join("\n"), self.log());
        }
    }

    /// What the daemon may keep open of an idle store: directories, and of each dataset the
    /// array, the journal, the lock and the log, twice at most. RELEASE comes late, so wait.
    fn check_descriptors(&self, problems: &mut Vec<String>) {
        let mut leaked = Vec::new();
        eventually(Duration::from_secs(3), || {
            leaked = self.leaked_descriptors();
            leaked.is_empty()
        });
        for (path, count) in leaked {
            problems.push(format!(
                "{count} descriptors of {} left open",
                path.display()
            ));
        }
    }

    fn leaked_descriptors(&self) -> Vec<(PathBuf, usize)> {
        let mut open = HashMap::<PathBuf, usize>::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten()
        {
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            if target.starts_with(&self.store) {
                *open.entry(target).or_default() += 1;
            }
        }
        let kept = ["data.npy", ".npyfs/chunks.log", ".npyfs/lock", ".npyfs/log"];
        open.into_iter()
            .filter(|(path, count)| {
                let fine = path.is_dir() || kept.iter().any(|kept| path.ends_with(kept));
                let told = self
                    .allowed
                    .iter()
                    .any(|end| path.to_string_lossy().ends_with(end));
                !(told || (fine && *count <= 2))
            })
            .collect()
    }

    fn unmount(&mut self, problems: &mut Vec<String>) {
        let output = output_of(&mut umount(&self.mountpoint)).unwrap();
        // A namespace that another test has just begun has this mount for a moment.
        let elsewhere =
            String::from_utf8_lossy(&output.stderr).contains("in the mount namespace of");
        if !output.status.success() && !elsewhere {
            problems.push(format!("npyfs umount failed: {output:?}"));
        }
        if is_mounted(&self.mountpoint) {
            problems.push("the mount was left behind".into());
            force_unmount(&self.mountpoint);
        }
        if !self.wait_for_end() {
            problems.push(format!("the daemon (process {}) was left behind", self.pid));
            kill(self.pid, "KILL");
        }
        if let Some(mut child) = self.child.take() {
            let status = child.wait().unwrap();
            if !status.success() {
                problems.push(format!("the daemon ended with {status}"));
            }
        }
    }

    fn check_log(&self, problems: &mut Vec<String>) {
        let log = self.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| {
                let words = [" WARN ", " ERROR ", "panicked"];
                let words = if self.tolerant { &words[2..] } else { &words };
                words.iter().any(|it| line.contains(it))
            })
            .collect();
        let expected = self.expected.borrow();
        for line in &bad {
            if !expected.iter().any(|text| line.contains(text)) {
                problems.push(format!("not expected in the log: {line}"));
            }
        }
        for text in expected.iter() {
            if !bad.iter().any(|line| line.contains(text.as_str())) {
                problems.push(format!("no warning with '{text}' in the log"));
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.checked {
            self.check_and_end();
        }
    }
}

fn private_directory(above: &Path, owner: Option<User>) -> PathBuf {
    let private = above.join("private");
    fs::create_dir(&private).unwrap();
    if let Some(user) = owner {
        chown(&private, Some(user.uid), Some(user.gid)).unwrap();
    }
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    private
}

/// The files of a directory in a dataset's `.npyfs`, in the order of their names.
pub fn kept(dataset: &Path, directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dataset.join(".npyfs").join(directory));
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// The words of a command that must fail: its exit code and what it wrote to stderr.
pub fn refusal(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "not refused: {output:?}");
    (output.status.code().unwrap_or(-1), said)
}
