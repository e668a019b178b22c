//! A mount that is gone while something of it is still open lets go of its datasets, so that the next
//! daemon of the store can write.

use crate::common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Parked, Place, User, close, counted, eventually, is_alive, is_mounted, kill, npyfs, output_of,
    parked, refusal, row_numbers, run,
};

/// How long the next daemon's producers may be refused after the mount is gone.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A store and its mount point, of root or of an ordinary user, whose mounts are ended and made again.
struct Stage {
    place: Place,
    user: Option<User>,
    binary: PathBuf,
}

impl Stage {
    fn new(user: Option<User>) -> Self {
        let place = Place::new();
        fs::create_dir(place.root.join("log")).unwrap();
        let binary = match user {
            None => npyfs(),
            Some(user) => {
                let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(&place.root, everyone).unwrap();
                for owned in [place.store(), place.mountpoint(), place.root.join("log")] {
                    chown(owned, Some(user.uid), Some(user.gid)).unwrap();
                }
                let copy = place.root.join("npyfs");
                run(Command::new("cp").arg(npyfs()).arg(&copy));
                copy
            }
        };
        Self {
            place,
            user,
            binary,
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.user {
            None => Command::new(program),
            Some(user) => user.command(program),
        }
    }

    /// Mounts, and answers the daemon's number.
    fn mount(&self) -> i32 {
        let mut command = self.command(&self.binary);
        command.arg("mount").arg("--log-file").arg(self.log());
        run(command.arg(self.place.store()).arg(self.place.mountpoint()));
        let said = run(self.command("cat").arg(self.path(".npyfs/daemon"))).stdout;
        String::from_utf8(said).unwrap().trim().parse().unwrap()
    }

    fn log(&self) -> PathBuf {
        self.place.root.join("log/daemon.log")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.mountpoint().join(path)
    }

    fn python(&self, script: &str, arguments: &[&Path]) -> Command {
        let mut command = self.command("python3");
        command.arg("-c").arg(script).args(arguments);
        command
    }

    fn put(&self, name: &str, first: u64, rows: u64) -> Result<(), String> {
        let chunk = self.place.root.join("chunk");
        fs::write(&chunk, counted(first, rows)).unwrap();
        let copied = output_of(
            self.command("cp")
                .arg(chunk)
                .arg(self.path("run").join(name)),
        )
        .unwrap();
        if copied.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&copied.stderr).into_owned())
    }

    fn rows(&self) -> Vec<u64> {
        row_numbers(&run(self.command("cat").arg(self.path("run/data.npy"))).stdout)
    }

    fn umount(&self) {
        let output = output_of(&mut self.umount_command()).unwrap();
        // A namespace that another test has just begun has this mount for a moment.
        let elsewhere =
            String::from_utf8_lossy(&output.stderr).contains("in the mount namespace of");
        assert!(output.status.success() || elsewhere, "{output:?}");
    }

    fn umount_command(&self) -> Command {
        let mut command = self.command(&self.binary);
        command.arg("umount").arg(self.place.mountpoint());
        command
    }

    /// What `npyfs umount` says where it has to say within 2 seconds why that is not the end.
    fn refused_umount(&self) -> String {
        let start = Instant::now();
        let (code, said) = refusal(&output_of(&mut self.umount_command()).unwrap());
        assert!(start.elapsed() < Duration::from_secs(2), "{said}");
        assert_eq!(code, 7, "{said}");
        eprintln!("{:?}: {said}", start.elapsed());
        said
    }
}

/// A way to end a mount that is in use.
#[derive(Clone, Copy, Debug)]
enum End {
    Signal,
    Umount,
}

impl Stage {
    fn end(&self, end: End, daemon: i32) {
        match (end, self.user) {
            (End::Signal, _) => kill(daemon, "TERM"),
            (End::Umount, None) => {
                run(Command::new("umount").arg("-l").arg(self.path("")));
            }
            (End::Umount, Some(user)) => {
                let mut helper = user.command("fusermount3");
                run(helper.args(["-u", "-z"]).arg(self.path("")));
            }
        }
        assert!(eventually(AT_ONCE, || !is_mounted(
            &self.place.mountpoint()
        )));
    }
}

/// What a reader may have of a mount: it says `ready`, waits for a line, and says what it then reads.
const READERS: [(&str, &str); 3] = [
    (
        "an open file",
        "import sys\nfile = open(sys.argv[1] + '/run/data.npy', 'rb')\nprint('ready', flush=True)\n\
         sys.stdin.readline()\nsys.stdout.buffer.write(file.read())",
    ),
    (
        "a mapping",
        "import os, sys, mmap\nfile = open(sys.argv[1] + '/run/data.npy', 'rb')\n\
         data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\nfile.close()\nos.closerange(3, 100)\n\
         head = data[:128]\nprint('ready', flush=True)\n\
         sys.stdin.readline()\nsys.stdout.buffer.write(head + data[128:])",
    ),
    (
        "a working directory",
        "import os, sys\nos.chdir(sys.argv[1] + '/run')\nprint('ready', flush=True)\n\
         sys.stdin.readline()\nsys.stdout.buffer.write(open('data.npy', 'rb').read())",
    ),
];

struct Reader {
    process: Parked,
    pid: u32,
}

impl Reader {
    fn start(stage: &Stage, script: &str) -> Self {
        let mut command = stage.python(script, &[&stage.place.mountpoint()]);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        Self::ready(parked(&mut command))
    }

    fn ready(mut process: Parked) -> Self {
        let mut ready = [0; 6];
        let stdout = process.child().stdout.as_mut().unwrap();
        stdout.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        let pid = process.child().id();
        Self { process, pid }
    }

    /// Has it read, and end.
    fn rows(mut self) -> Vec<u64> {
        let child = self.process.child();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut read = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut read).unwrap();
        row_numbers(&read)
    }
}

fn a_reader_does_not_keep_the_next_daemon_from_writing(user: Option<User>, end: End) {
    for (what, script) in READERS {
        let stage = Stage::new(user);
        let old = stage.mount();
        run(stage.command("mkdir").arg(stage.path("run")));
        stage.put("a.npy", 0, 10).unwrap();
        let reader = Reader::start(&stage, script);
        stage.end(end, old);
        let new = stage.mount();
        let start = Instant::now();
        let mut said = Ok(());
        let written = eventually(AT_ONCE, || {
            said = stage.put("b.npy", 10, 10);
            said.is_ok()
        });
        assert!(written, "{what}, {end:?}: {said:?}");
        eprintln!("{what}, {end:?}: written after {:?}", start.elapsed());
        assert!(is_alive(old), "{what}: nothing held the old mount");
        let rows: Vec<u64> = (0..20).collect();
        assert_eq!(stage.rows(), rows);
        let seen = reader.rows();
        assert!(
            seen == rows[..10] || what == "a working directory" && seen == rows,
            "{what}, {end:?}: {seen:?}"
        );
        assert!(
            eventually(Duration::from_secs(5), || !is_alive(old)),
            "{what}, {end:?}"
        );
        assert_ne!(old, new);
        assert_eq!(stage.rows(), rows);
        stage.umount();
    }
}

#[test]
fn a_reader_after_a_signal_does_not_keep_the_next_daemon_from_writing() {
    require!(fuse);
    a_reader_does_not_keep_the_next_daemon_from_writing(None, End::Signal);
}

#[test]
fn a_reader_after_a_lazy_umount_does_not_keep_the_next_daemon_from_writing() {
    require!(fuse, root);
    a_reader_does_not_keep_the_next_daemon_from_writing(None, End::Umount);
}

#[test]
fn nor_does_one_of_an_ordinary_user_after_a_signal() {
    require!(fuse, root, fusermount3);
    a_reader_does_not_keep_the_next_daemon_from_writing(Some(User::ordinary()), End::Signal);
}

#[test]
fn nor_does_one_of_an_ordinary_user_after_a_lazy_umount() {
    require!(fuse, root, fusermount3);
    a_reader_does_not_keep_the_next_daemon_from_writing(Some(User::ordinary()), End::Umount);
}

/// Its bytes come in pieces; what came before the mount went away and what comes after it is one chunk.
fn a_chunk_in_flight_is_committed_by_the_old_daemon(rows: u64, from_behind: bool) {
    // A descriptor on a mount that is in no table may be of any, and that of another test has the same
    // inode number.
    let _alone = common::alone();
    let stage = Stage::new(None);
    let old = stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let bytes = counted(10, rows);
    let half = bytes.len() / 2;
    let (first, second) = match from_behind {
        false => (0..half, half..bytes.len()),
        true => (half..bytes.len(), 0..half),
    };
    let file = File::create(stage.path("run/b.npy")).unwrap();
    file.write_all_at(&bytes[first.clone()], first.start as u64)
        .unwrap();
    stage.end(End::Umount, old);
    stage.mount();
    let said = stage.put("c.npy", 0, 10).unwrap_err();
    assert!(said.contains("busy"), "{said}");
    file.write_all_at(&bytes[second.clone()], second.start as u64)
        .unwrap();
    close(file).unwrap();
    // At once: the close has returned.
    stage.put("c.npy", 10 + rows, 10).unwrap();
    let all: Vec<u64> = (0..20 + rows).collect();
    assert_eq!(stage.rows(), all);
    assert!(eventually(Duration::from_secs(5), || !is_alive(old)));
    stage.put("d.npy", 20 + rows, 10).unwrap();
    // A retry appends nothing.
    stage.put("d.npy", 20 + rows, 10).unwrap();
    let all: Vec<u64> = (0..30 + rows).collect();
    assert_eq!(stage.rows(), all);
    stage.umount();
    stage.mount();
    assert_eq!(stage.rows(), all);
    stage.umount();
}

#[test]
fn a_small_chunk_in_flight_is_committed_by_the_old_daemon() {
    require!(fuse, root);
    a_chunk_in_flight_is_committed_by_the_old_daemon(20, false);
}

#[test]
fn a_streamed_chunk_in_flight_is_committed_by_the_old_daemon() {
    require!(fuse, root);
    a_chunk_in_flight_is_committed_by_the_old_daemon(20_000, false);
}

#[test]
fn a_staged_chunk_in_flight_is_committed_by_the_old_daemon() {
    require!(fuse, root);
    a_chunk_in_flight_is_committed_by_the_old_daemon(20_000, true);
}

#[test]
fn a_chunk_in_flight_that_loses_its_name_is_no_longer_in_the_way_of_the_next_daemon_when_it_is_closed()
 {
    require!(fuse, root);
    let stage = Stage::new(None);
    let old = stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let bytes = counted(10, 20_000);
    let file = File::create(stage.path("run/b.npy")).unwrap();
    file.write_all_at(&bytes[..1 << 20], 0).unwrap();
    fs::remove_file(stage.path("run/b.npy")).unwrap();
    stage.end(End::Umount, old);
    stage.mount();
    let mut refused = 0;
    for at in (1..bytes.len() >> 20).map(|piece| piece << 20) {
        if file
            .write_all_at(&bytes[at..at + (1 << 20)], at as u64)
            .is_err()
        {
            refused += 1;
        }
    }
    assert!(refused > 0, "a chunk without a name is written");
    drop(file);
    let mut said = Ok(());
    let written = eventually(AT_ONCE, || {
        said = stage.put("c.npy", 10, 10);
        said.is_ok()
    });
    assert!(written, "{said:?}");
    assert_eq!(stage.rows(), (0..20).collect::<Vec<u64>>());
    assert!(eventually(Duration::from_secs(5), || !is_alive(old)));
    assert_eq!(stage.rows(), (0..20).collect::<Vec<u64>>());
    stage.umount();
}

/// Another mount of the same filesystem, which is taken away at the end.
struct Bound(PathBuf);

impl Bound {
    fn new(stage: &Stage) -> Self {
        let at = stage.place.root.join("bound");
        fs::create_dir(&at).unwrap();
        run(Command::new("mount")
            .args(["--bind", "--make-private"])
            .args([&stage.place.mountpoint(), &at]));
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn a_bind_mount_that_is_left_is_written_through_whenever_the_next_daemon_does_not_own_the_dataset()
{
    require!(fuse, root);
    let stage = Stage::new(None);
    let old = stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let bound = Bound::new(&stage);
    let write =
        |name: &str, first| common::put(&bound.0.join("run").join(name), &counted(first, 10));
    stage.end(End::Umount, old);
    // Written by the old daemon, which is the only one.
    let start = Instant::now();
    for n in 1..6 {
        write(&format!("b{n}.npy"), n * 10).unwrap();
    }
    eprintln!("{:?} a chunk through what is left", start.elapsed() / 5);
    let new = stage.mount();
    stage.put("c.npy", 60, 10).unwrap();
    let refused = common::errno(write("d.npy", 70));
    assert_eq!(refused, nix::errno::Errno::EBUSY);
    assert_eq!(
        common::rows_of(&bound.0.join("run")),
        (0..70).collect::<Vec<u64>>()
    );
    // Another dataset is free, and so is this one when the next daemon has ended.
    fs::create_dir(bound.0.join("other")).unwrap();
    common::put(&bound.0.join("other/a.npy"), &counted(0, 10)).unwrap();
    common::put(&stage.path("other/b.npy"), &counted(10, 10)).unwrap();
    assert_ne!(old, new);
    stage.umount();
    write("d.npy", 70).unwrap();
    assert_eq!(
        common::rows_of(&bound.0.join("run")),
        (0..80).collect::<Vec<u64>>()
    );
    fs::rename(bound.0.join("run/d.npy"), bound.0.join("run/e.npy")).unwrap();
    stage.mount();
    let mut said = Ok(());
    let written = eventually(AT_ONCE, || {
        said = stage.put("f.npy", 80, 10);
        said.is_ok()
    });
    assert!(written, "after a rename: {said:?}");
    drop(bound);
    assert!(eventually(Duration::from_secs(5), || !is_alive(old)));
    assert_eq!(stage.rows(), (0..90).collect::<Vec<u64>>());
    assert!(stage.path("run/e.npy").exists());
    stage.umount();
}

#[test]
fn a_mount_namespace_that_keeps_the_mount_does_not_keep_the_next_daemon_from_writing() {
    require!(fuse, root);
    let stage = Stage::new(None);
    let old = stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("echo ready; read line; cat \"$0\"/run/data.npy");
    command.arg(stage.place.mountpoint());
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let reader = Reader::ready(parked(&mut command));
    stage.end(End::Umount, old);
    stage.mount();
    let mut said = Ok(());
    let written = eventually(AT_ONCE, || {
        said = stage.put("b.npy", 10, 10);
        said.is_ok()
    });
    assert!(written, "{said:?}");
    assert!(is_alive(old));
    assert_eq!(reader.rows(), (0..20).collect::<Vec<u64>>());
    assert!(eventually(Duration::from_secs(5), || !is_alive(old)));
    stage.umount();
}

#[test]
fn a_mount_that_is_moved_or_covered_owns_its_datasets_as_before() {
    require!(fuse, root);
    if !common::inside_a_private_namespace(
        "a_mount_that_is_moved_or_covered_owns_its_datasets_as_before",
    ) {
        return;
    }
    let stage = Stage::new(None);
    stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let journal = stage.place.store().join("run/.npyfs/chunks.log");
    let before = fs::metadata(&journal).unwrap().len();
    let elsewhere = stage.place.root.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "cover"])
        .arg(stage.path("")));
    std::thread::sleep(Duration::from_millis(300));
    run(Command::new("umount").arg(stage.path("")));
    run(Command::new("mount")
        .arg("--move")
        .args([&stage.place.mountpoint(), &elsewhere]));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        fs::metadata(&journal).unwrap().len(),
        before,
        "it was closed"
    );
    run(Command::new("mount")
        .arg("--move")
        .args([&elsewhere, &stage.place.mountpoint()]));
    stage.umount();
}

fn umount_says_what_holds_the_mount(user: Option<User>) {
    let stage = Stage::new(user);
    let daemon = stage.mount();
    run(stage.command("mkdir").arg(stage.path("run")));
    stage.put("a.npy", 0, 10).unwrap();
    let readers = READERS.map(|(what, script)| {
        let what = what.split_once(' ').unwrap().1;
        (what, Reader::start(&stage, script))
    });
    let said = stage.refused_umount();
    for (what, reader) in &readers {
        let shown = format!("({}, {what})", reader.pid);
        assert!(said.contains(&shown), "{said} has no {shown}");
    }
    assert!(is_mounted(&stage.place.mountpoint()) && is_alive(daemon));
    stage.put("b.npy", 10, 10).unwrap();
    for (_, reader) in readers {
        reader.rows();
    }
    stage.umount();
}

#[test]
fn umount_says_which_processes_hold_the_mount() {
    require!(fuse);
    umount_says_what_holds_the_mount(None);
}

#[test]
fn umount_says_which_processes_of_an_ordinary_user_hold_the_mount() {
    require!(fuse, root, fusermount3);
    umount_says_what_holds_the_mount(Some(User::ordinary()));
}

#[test]
fn umount_says_what_is_mounted_in_the_mount() {
    require!(fuse, root);
    let stage = Stage::new(None);
    stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "inside"])
        .arg(stage.path("run")));
    let said = stage.refused_umount();
    run(Command::new("umount").arg(stage.path("run")));
    let inner = format!("the mount of type tmpfs at {}", stage.path("run").display());
    assert!(said.contains(&inner), "{said}");
    stage.umount();
}

/// A service or a container that is begun just then has it for a moment.
#[test]
fn umount_waits_for_a_mount_namespace_that_lets_go_of_the_mount() {
    require!(fuse, root);
    let stage = Stage::new(None);
    let daemon = stage.mount();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    // A second after the mount is gone from here.
    command.arg(
        "echo ready; while grep -qF \"$0 \" /proc/$PPID/mountinfo; do sleep 0.05; done; \
         sleep 1; umount \"$0\"; read line",
    );
    command.arg(stage.place.mountpoint());
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let holder = Reader::ready(parked(&mut command));
    let output = output_of(&mut stage.umount_command()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A namespace of a test that runs beside this one may have it for longer.
    let others =
        said.contains("in the mount namespace of") && !said.contains(&format!("({})", holder.pid));
    assert!(output.status.success() || others, "{said}");
    assert!(others || !is_alive(daemon), "{said}");
}

/// For no longer than 2 seconds.
#[test]
fn umount_says_which_mount_namespace_keeps_the_mount() {
    require!(fuse, root);
    let stage = Stage::new(None);
    stage.mount();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("echo ready; read line");
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let holder = Reader::ready(parked(&mut command));
    let start = Instant::now();
    let (code, said) = refusal(&output_of(&mut stage.umount_command()).unwrap());
    assert_eq!(code, 7, "{said}");
    assert!(start.elapsed() >= Duration::from_secs(2), "{said}");
    let elsewhere = format!("in the mount namespace of sh ({})", holder.pid);
    assert!(said.contains(&elsewhere), "{said}");
    drop(holder);
}

#[test]
fn umount_says_which_other_mounts_its_daemon_still_serves() {
    require!(fuse, root);
    let stage = Stage::new(None);
    let old = stage.mount();
    fs::create_dir(stage.path("run")).unwrap();
    stage.put("a.npy", 0, 10).unwrap();
    let bound = Bound::new(&stage);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("umount \"$1\" && echo ready && read line && cat \"$0\"/run/data.npy");
    command.args([&stage.place.mountpoint(), &bound.0]);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let reader = Reader::ready(parked(&mut command));
    let said = stage.refused_umount();
    assert!(!is_mounted(&stage.place.mountpoint()));
    let elsewhere = format!("in the mount namespace of sh ({})", reader.pid);
    assert!(said.contains(&elsewhere), "{said}");
    let here = format!("the mount at {}", bound.0.display());
    assert!(
        said.contains(&here) && said.contains(&format!("process {old}")),
        "{said}"
    );
    drop(bound);
    stage.mount();
    stage.put("b.npy", 10, 10).unwrap();
    assert_eq!(reader.rows(), (0..20).collect::<Vec<u64>>());
    assert!(eventually(Duration::from_secs(5), || !is_alive(old)));
    stage.umount();
}
