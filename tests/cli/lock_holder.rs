//! Who is kept out of a dataset hears which process has it (P10), and one that is about to let go of it
//! is waited for.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Mount, Strace, User, close, counted, errno, eventually, kill, npyfs, output_of, put, rows_of,
    run,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Nothing that is sure to go on is waited for.
const AT_ONCE: Duration = Duration::from_millis(1500);

fn log(store: &Path) -> String {
    fs::read_to_string(store.join("run/.npyfs/log")).unwrap_or_default()
}

/// A dataset with a row, which its daemon has the lock of.
fn owned() -> (Mount, PathBuf) {
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    (mount, dataset)
}

/// One more daemon of the same store.
fn beside(mount: &Mount) -> Mount {
    let mut second = Mount::builder().store(&mount.store("")).start();
    second.tolerate_warnings();
    second
}

/// As a daemon locks it.
fn lock(store: &Path) -> File {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .open(store.join("run/.npyfs/lock"))
        .unwrap();
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    lock
}

/// A refusal that comes at once.
#[track_caller]
fn refused(done: impl FnOnce() -> io::Result<()>) {
    let start = Instant::now();
    assert_eq!(errno(done()), Errno::EBUSY);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn a_refusal_says_which_daemon_has_the_dataset_and_where_it_is_mounted() {
    require!(fuse);
    let (mount, _) = owned();
    let second = beside(&mount);
    refused(|| put(&second.path("run/b.npy"), &counted(1, 1)));
    let mountpoint = mount.path("").display().to_string();
    let holder = format!(
        "b.npy refused: the dataset is being written by npyfs (pid {}, mounted at {})",
        mount.pid(),
        mountpoint.trim_end_matches('/')
    );
    assert!(
        log(&mount.store("")).contains(&holder),
        "{}",
        log(&mount.store(""))
    );
    // The other calls that need the lock are refused for the same reason.
    refused(|| {
        fs::set_permissions(
            second.path("run/first.npy"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
    });
    refused(|| {
        fs::write(second.path("run/c.part"), counted(1, 1))?;
        fs::rename(second.path("run/c.part"), second.path("run/c.npy"))
    });
    let said = log(&mount.store(""));
    assert!(
        said.contains("c.npy refused: the dataset is being written by npyfs"),
        "{said}"
    );
}

#[test]
fn a_producer_that_tries_again_and_again_has_processes_looked_at_once_a_second() {
    require!(fuse, root, strace);
    let (mount, _) = owned();
    let second = beside(&mount);
    refused(|| put(&second.path("run/b.npy"), &counted(1, 1)));
    let trace = second.scratch("trace");
    let strace = Strace::attach(second.pid(), "openat", &[], &trace);
    const NAMES: usize = 3;
    let start = Instant::now();
    let mut tries = 0;
    while tries < 50 || start.elapsed() < Duration::from_secs(2) {
        let opened = File::create(second.path(format!("run/{}.npy", tries % NAMES)));
        assert_eq!(errno(opened), Errno::EBUSY);
        tries += 1;
    }
    let seconds = start.elapsed().as_secs() as usize + 1;
    strace.detach();
    let trace = fs::read_to_string(trace).unwrap();
    let looks = trace
        .lines()
        .filter(|line| line.contains("\"/proc\""))
        .count();
    assert!(looks <= seconds, "{looks} in {seconds} s, {tries} tries");
    let lines = log(&mount.store(""));
    let lines = lines
        .lines()
        .filter(|line| line.contains("is being written by"))
        .count();
    // Of each name one, and a count of those before it.
    assert!(
        lines <= 2 * NAMES * (seconds + 1),
        "{lines} in {seconds} s, {tries} tries"
    );
}

#[test]
fn a_process_that_is_no_daemon_is_called_by_its_name() {
    require!(fuse);
    let (mount, _) = owned();
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    let held = lock(&mount.store(""));
    refused(|| put(&mount.path("run/b.npy"), &counted(1, 1)));
    let own = fs::read_to_string("/proc/self/comm").unwrap();
    let holder = format!(
        "is being written by {} (pid {})",
        own.trim(),
        std::process::id()
    );
    assert!(
        log(&mount.store("")).contains(&holder),
        "{}",
        log(&mount.store(""))
    );
    drop(held);
    put(&mount.path("run/b.npy"), &counted(1, 1)).unwrap();
}

#[test]
fn append_says_it_too() {
    require!(fuse);
    let (mount, _) = owned();
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    let held = lock(&mount.store(""));
    let chunk = mount.scratch("b.npy");
    fs::write(&chunk, counted(1, 1)).unwrap();
    let append = || {
        let mut command = Command::new(npyfs());
        output_of(
            command
                .arg("append")
                .args([mount.store("run"), chunk.clone()]),
        )
        .unwrap()
    };
    let refused = append();
    assert_eq!(refused.status.code(), Some(8));
    let said = String::from_utf8(refused.stdout).unwrap();
    let pid = format!("(pid {})", std::process::id());
    assert!(
        said.contains("is being written by") && said.contains(&pid),
        "{said}"
    );
    assert!(log(&mount.store("")).contains("b.npy refused: the dataset is being written by"));
    drop(held);
    assert!(append().status.success());
}

/// A process of another user is not seen, and waited for a moment: it may be ending.
#[test]
fn a_process_that_cannot_be_seen_is_told_as_that_and_waited_for_once() {
    require!(fuse, root, fusermount3);
    let user = User::ordinary();
    let mut mount = Mount::builder().user(user).start();
    mount.tolerate_warnings();
    let store = mount.store("");
    run(user.command("mkdir").arg(mount.path("run")));
    fs::create_dir(store.join("run/.npyfs")).unwrap();
    fs::write(store.join("run/.npyfs/lock"), "").unwrap();
    for path in ["run/.npyfs", "run/.npyfs/lock"] {
        chown(store.join(path), Some(user.uid), Some(user.gid)).unwrap();
    }
    let chunk = mount.scratch("b.npy");
    fs::write(&chunk, counted(0, 1)).unwrap();
    let copy = || {
        let mut cp = user.command("cp");
        output_of(cp.arg(&chunk).arg(mount.path("run/b.npy"))).unwrap()
    };
    let held = lock(&store);
    let start = Instant::now();
    assert!(!copy().status.success());
    assert!(start.elapsed() >= Duration::from_secs(2));
    let said = log(&store);
    assert!(
        said.contains("is being written by another process that cannot be seen from here"),
        "{said}"
    );
    // It was in vain: the next is not kept waiting.
    let start = Instant::now();
    assert!(!copy().status.success());
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    drop(held);
    assert!(copy().status.success());
}

/// Its datasets are synced and closed after its mount is gone, which takes as long as the disk does.
#[test]
fn a_daemon_that_is_ending_is_waited_for() {
    require!(fuse, root, strace);
    for what in ["create", "rename", "append"] {
        let (mut mount, _) = owned();
        let trace = mount.scratch("trace");
        let slow = ["-e", "inject=fdatasync:delay_enter=600000"];
        let strace = Strace::attach(mount.pid(), "fdatasync", &slow, &trace);
        let second = beside(&mount);
        let dataset = second.path("run");
        assert_eq!(rows_of(&dataset), [0]);
        if what == "rename" {
            fs::write(dataset.join("b.part"), counted(1, 1)).unwrap();
        }
        kill(mount.pid(), "TERM");
        let gone = eventually(Duration::from_secs(10), || {
            !common::is_mounted(mount.path("x").parent().unwrap())
        });
        assert!(gone);
        match what {
            "create" => put(&dataset.join("b.npy"), &counted(1, 1)).unwrap(),
            "rename" => fs::rename(dataset.join("b.part"), dataset.join("b.npy")).unwrap(),
            _ => {
                let chunk = second.scratch("b.npy");
                fs::write(&chunk, counted(1, 1)).unwrap();
                run(Command::new(npyfs())
                    .arg("append")
                    .args([second.store("run"), chunk]));
            }
        }
        assert_eq!(rows_of(&dataset), [0, 1], "{what}");
        assert!(
            !log(&second.store("")).contains("refused"),
            "{}",
            log(&second.store(""))
        );
        drop(strace);
        mount.ended();
    }
}

/// It lets go of a dataset in which a chunk is in flight only when that is closed.
#[test]
fn a_daemon_without_a_mount_that_does_not_let_go_is_waited_for_no_longer() {
    require!(fuse, root);
    let _alone = common::alone();
    let (mut mount, dataset) = owned();
    let second = beside(&mount);
    let mut file = File::create(dataset.join("long.npy")).unwrap();
    let bytes = counted(1, 10);
    file.write_all(&bytes[..500]).unwrap();
    kill(mount.pid(), "TERM");
    let gone = eventually(Duration::from_secs(10), || {
        !common::is_mounted(mount.path("x").parent().unwrap())
    });
    assert!(gone);
    let other = second.path("run/other.npy");
    assert_eq!(errno(put(&other, &counted(11, 1))), Errno::EBUSY);
    let holder = format!("npyfs (pid {}, whose mount is not seen)", mount.pid());
    assert!(
        log(&mount.store("")).contains(&holder),
        "{}",
        log(&mount.store(""))
    );
    // Readers do not wait for a lock.
    assert_eq!(rows_of(&second.path("run")), [0]);
    file.write_all(&bytes[500..]).unwrap();
    close(file).unwrap();
    put(&other, &counted(11, 1)).unwrap();
    assert_eq!(rows_of(&second.path("run")), (0..12).collect::<Vec<_>>());
    mount.ended();
}
