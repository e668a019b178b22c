//! Processes and mounts, looked at from outside through /proc.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};

/// The binary under test.
pub fn npyfs() -> PathBuf {
    env!("CARGO_BIN_EXE_npyfs").into()
}

/// The calling program, to run one of its tests alone, which is named as in the source of the caller.
#[track_caller]
pub fn alone_again(test: &str) -> [OsString; 4] {
    let caller = Path::new(Location::caller().file());
    let module = caller.file_stem().unwrap().to_str().unwrap();
    [
        std::env::current_exe().unwrap().into(),
        "--exact".into(),
        format!("{module}::{test}").into(),
        "--nocapture".into(),
    ]
}

/// Polls until the condition holds; false where it does not within `limit`.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
    true
}

/// Whether an npyfs mount, live or dead, is at exactly this path (which has no odd characters).
pub fn is_mounted(mountpoint: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| {
        line.split(' ').nth(4).map(Path::new) == Some(mountpoint) && line.contains(" - fuse.npyfs ")
    })
}

/// Whether the process runs; a zombie that nobody has waited for does not.
pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Sends a signal, by its name without SIG.
pub fn kill(pid: i32, signal: &str) {
    let signal = format!("SIG{signal}").parse::<Signal>().unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

/// Takes a mount away, whatever state it is in.
pub fn force_unmount(mountpoint: &Path) {
    let by_root = output_of(Command::new("umount").arg("-l").arg(mountpoint)).unwrap();
    if !by_root.status.success() {
        run(Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(mountpoint));
    }
}

/// Keeps the other tests of this program from running while it is held. A test that watches the
/// closes of a chunk needs that: a process that another test starts has our descriptors until it
/// executes, and closes them then.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

static DESCRIPTORS: RwLock<()> = RwLock::new(());
/// How many processes wait to be started: closes that come later wait for those.
static TO_START: AtomicUsize = AtomicUsize::new(0);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Keeps this program from starting processes while it is held, as each close does: until it
/// executes, a new process has duplicates of all our descriptors, and of a chunk that is not complete
/// and plain the last close decides.
pub fn no_new_process() -> NoNewProcess {
    // Those that are to be started wait for what this thread holds already.
    if HELD.get() == 0 {
        eventually(LONGEST_WAIT, || TO_START.load(Ordering::SeqCst) == 0);
    }
    let held = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
    HELD.set(HELD.get() + 1);
    NoNewProcess { _held: held }
}

thread_local! {
    /// How often this thread holds that no process is started.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// No process is started until it is dropped, by the thread that has it.
pub struct NoNewProcess {
    _held: RwLockReadGuard<'static, ()>,
}

impl Drop for NoNewProcess {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

/// Starts a process while no thread closes a chunk, and waits until it has closed what it got of our
/// descriptors; for some seconds each, as a close may wait for what the process is to do.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let mut held = None;
    TO_START.fetch_add(1, Ordering::SeqCst);
    eventually(LONGEST_WAIT, || {
        held = match DESCRIPTORS.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        held.is_some()
    });
    TO_START.fetch_sub(1, Ordering::SeqCst);
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // The last of our descriptors that the new process closes, when it executes: by then the kernel
    // has let us go on already.
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let last = fcntl(
        &writer,
        FcntlArg::F_DUPFD_CLOEXEC((most.min(1 << 16) - 16) as i32),
    )?;
    drop(writer);
    let child = command.spawn();
    nix::unistd::close(last)?;
    let mut closed = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut closed, PollTimeout::try_from(LONGEST_WAIT).unwrap())?;
    child
}

/// Runs a command and collects what it prints.
pub fn output_of(command: &mut Command) -> io::Result<Output> {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    start(piped)?.wait_with_output()
}

/// What std does, but while no thread closes a chunk ([`start`]).
pub trait Started {
    fn spawn_alone(&mut self) -> io::Result<Child>;
    fn status_alone(&mut self) -> io::Result<ExitStatus>;
    fn output_alone(&mut self) -> io::Result<Output>;
}

impl Started for Command {
    fn spawn_alone(&mut self) -> io::Result<Child> {
        start(self)
    }

    fn status_alone(&mut self) -> io::Result<ExitStatus> {
        start(self)?.wait()
    }

    fn output_alone(&mut self) -> io::Result<Output> {
        output_of(self)
    }
}

/// Runs a command that must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = output_of(command.stdin(Stdio::null())).unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A child that is killed and waited for when the test is over.
pub struct Parked(Child);

/// Starts a command that is to run beside the test.
pub fn parked(command: &mut Command) -> Parked {
    Parked(start(command).unwrap())
}

impl Parked {
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        for ended in [self.0.kill(), self.0.wait().map(drop)] {
            if let Err(error) = ended {
                eprintln!("cannot end {}: {error}", self.0.id());
            }
        }
    }
}
