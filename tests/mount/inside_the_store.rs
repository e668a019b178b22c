//! Whatever a user puts into a dataset's directory in the store, a daemon of root touches nothing
//! outside of it, waits for nothing, and goes on with the other datasets.

use crate::common;
use crate::common::Started as _;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{
    Mount, Strace, User, bare_python, counted, csv_names, errno, eventually,
    inside_a_private_namespace, kill, npyfs, parked, put, refusal, row_numbers, rows_of, run,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// How long anything may take that must not hang.
const PROMPT: Duration = Duration::from_secs(20);

/// All that can be told of the files below a directory, but for the times they were read.
type Picture = BTreeMap<PathBuf, Told>;

#[derive(Debug, PartialEq, Eq)]
struct Told {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    bytes: Vec<u8>,
    /// Number of names, and when anything of the inode changed: those of a file that is linked to
    /// from the store change when that name goes.
    names: Option<(u64, i64, i64)>,
}

fn picture(directory: &Path) -> Picture {
    let mut found = Picture::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let mut bytes = Vec::new();
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
        } else {
            bytes = fs::read(&path).unwrap();
        }
        let told = Told {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            modified: (stat.mtime(), stat.mtime_nsec()),
            bytes,
            names: Some((stat.nlink(), stat.ctime(), stat.ctime_nsec())),
        };
        found.insert(path, told);
    }
    found
}

fn without_names(mut picture: Picture) -> Picture {
    picture.values_mut().for_each(|told| told.names = None);
    picture
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A daemon of root whose mount all users may use and whose store they can reach, and a directory
/// beside the store that is root's alone.
struct Arena {
    mount: Mount,
    user: User,
    victim: PathBuf,
    /// The store, which others can reach.
    _place: tempfile::TempDir,
}

impl Arena {
    fn new() -> Self {
        Self::watched(|_| ()).0
    }

    /// `begin` comes before the first request.
    fn watched<T>(begin: impl FnOnce(&Mount) -> T) -> (Self, T) {
        let place = tempfile::tempdir().unwrap();
        set_mode(place.path(), 0o755);
        let builder = Mount::builder().words("allow_other");
        let mut mount = builder.store(place.path()).start();
        mount.tolerate_warnings();
        // Of a dataset whose `.npyfs` was moved away.
        for file in ["old/lock", "old/chunks.log"] {
            mount.allow_open(file);
        }
        let begun = begin(&mount);
        set_mode(&mount.path(""), 0o1777);
        let victim = mount.scratch("victim");
        for directory in ["", "incoming", "rejected"] {
            fs::create_dir(victim.join(directory)).unwrap();
        }
        // Under all names that a `.npyfs` has.
        for file in [
            "key",
            "lock",
            "log",
            "log.1",
            "data.npy.new",
            "data.npy.adopted",
            "data.npy.removed",
            "incoming/1-0",
            "rejected/20200101T000000.000000Z-000-x.npy",
        ] {
            fs::write(victim.join(file), format!("secret {file}")).unwrap();
        }
        fs::write(victim.join("data.npy"), counted(900, 3)).unwrap();
        for path in picture(&victim).keys() {
            set_mode(path, if path.is_dir() { 0o700 } else { 0o600 });
        }
        for (name, bytes) in [
            ("good.npy", counted(0, 4)),
            ("cut.npy", counted(0, 40)[..3000].to_vec()),
        ] {
            fs::write(mount.scratch(name), bytes).unwrap();
            set_mode(&mount.scratch(name), 0o644);
        }
        let arena = Self {
            mount,
            user: User::ordinary(),
            victim,
            _place: place,
        };
        arena.succeed("mkdir $M/mine");
        (arena, begun)
    }

    fn store(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mount.store("mine").join(path)
    }

    /// Runs a script as the user: `$M` and `$S` are the mount's and the store's root, `$V` what is
    /// not his, `$B` where the chunks are. Fails the test where it takes long.
    #[track_caller]
    fn run(&self, script: &str) -> Output {
        let (out, err) = (self.mount.scratch("out"), self.mount.scratch("err"));
        let mut child = self
            .user
            .command("sh")
            .args(["-c", script])
            .env("M", self.mount.path(""))
            .env("S", self.mount.store(""))
            .env("V", &self.victim)
            .env("B", self.mount.scratch(""))
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn_alone()
            .unwrap();
        if !eventually(PROMPT, || child.try_wait().unwrap().is_some()) {
            // What waits for the daemon cannot be killed before it.
            kill(self.mount.pid(), "KILL");
            panic!("hangs: {script}\n{}", self.mount.log());
        }
        Output {
            status: child.wait().unwrap(),
            stdout: fs::read(out).unwrap(),
            stderr: fs::read(err).unwrap(),
        }
    }

    #[track_caller]
    fn succeed(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(
            output.status.success(),
            "{script}: {output:?}\n{}",
            self.mount.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fail(&self, script: &str, reason: &str) {
        let output = self.run(script);
        assert!(!output.status.success(), "{script} succeeded");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(reason),
            "no '{reason}' in: {said}\n{}",
            self.mount.log()
        );
    }

    /// Everything that a user can do to a dataset, whatever comes of it.
    #[track_caller]
    fn use_in_every_way(&self, name: &str) {
        let script = format!(
            "cd $M/mine/{name} || exit 0
             ls -la . .npyfs .npyfs/rejected; stat data.npy; cat data.npy
             cp $B/good.npy new.npy
             cp $B/cut.npy cut.npy
             head -c 300 $B/good.npy > partial.npy; dd if=$B/good.npy of=seek.npy bs=64 seek=9
             : > empty.npy; echo x > note; mv note note.npy; chmod 600 new.npy; mv new.npy n.npy
             sync data.npy .
             cat .npyfs/log .npyfs/status.json .npyfs/chunks.csv; cat .npyfs/rejected/*
             rm -f .npyfs/rejected/*; rm -f n.npy empty.npy data.npy"
        );
        let output = self.run(&script);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("secret"), "{name}: {said}");
    }

    /// Plants something in a dataset of its own each, uses it, and expects nothing outside touched.
    #[track_caller]
    fn plant(&self, names: &[&str], what: &str, make: impl Fn(&Path)) {
        for (n, name) in names.iter().enumerate() {
            let dataset = format!("{what}-{n}");
            self.succeed(&format!("mkdir $S/mine/{dataset}"));
            let path = self.store(&dataset).join(name);
            let above = path.parent().unwrap();
            if !above.exists() {
                self.succeed(&format!("mkdir {}", above.display()));
            }
            make(&path);
            let linked = path.symlink_metadata().unwrap();
            let linked = linked.is_file() && linked.nlink() > 1;
            let look = || match linked {
                true => without_names(picture(&self.victim)),
                false => picture(&self.victim),
            };
            let before = look();
            self.use_in_every_way(&dataset);
            assert!(
                look() == before,
                "{what} as {name}: what is outside has changed\n{}",
                self.mount.log()
            );
        }
        self.others_work();
    }

    fn others_work(&self) {
        let name = format!("other-{}", fs::read_dir(self.store("")).unwrap().count());
        self.succeed(&format!(
            "mkdir $M/mine/{name} && cp $B/good.npy $M/mine/{name}/"
        ));
        let array = self.mount.path("mine").join(name).join("data.npy");
        assert_eq!(row_numbers(&fs::read(array).unwrap()), [0, 1, 2, 3]);
    }

    fn crash_and_remount(self) -> Self {
        Self {
            mount: self.mount.crash_and_remount(),
            ..self
        }
    }

    fn log(&self) -> String {
        self.mount.log()
    }
}

/// Every name that the engine uses in a dataset's directory.
const NAMES: [&str; 11] = [
    ".npyfs",
    ".npyfs/lock",
    ".npyfs/chunks.log",
    ".npyfs/log",
    ".npyfs/log.1",
    ".npyfs/incoming",
    ".npyfs/rejected",
    ".npyfs/data.npy.new",
    ".npyfs/data.npy.adopted",
    ".npyfs/data.npy.removed",
    "data.npy",
];

fn plant_links(arena: &Arena) {
    arena.plant(&NAMES, "link", |path| {
        let target = match path.file_name().unwrap().to_str().unwrap() {
            ".npyfs" => arena.victim.clone(),
            "chunks.log" => arena.victim.join("key"),
            name => arena.victim.join(name),
        };
        symlink(target, path).unwrap();
    });
    // What a link would have made.
    arena.plant(&NAMES, "new", |path| {
        symlink(arena.victim.join("none"), path).unwrap();
    });
    let log = arena.log();
    for name in [".npyfs", ".npyfs/lock", ".npyfs/incoming", "data.npy"] {
        let said = format!("{name} is a symbolic link, and none is followed here");
        assert!(log.contains(&said), "no '{said}' in\n{log}");
    }
}

#[test]
fn no_link_in_a_dataset_leads_out_of_the_store() {
    require!(fuse, root);
    plant_links(&Arena::new());
}

#[test]
fn no_link_leads_out_where_the_kernel_cannot_resolve_whole_paths() {
    require!(fuse, root, strace);
    for errno in ["ENOSYS", "EPERM"] {
        let (mut arena, strace) = Arena::watched(|mount| {
            let rule = format!("inject=openat2:error={errno}");
            let trace = mount.scratch("trace");
            Strace::attach(mount.pid(), "openat2", &["-e", &rule], &trace)
        });
        plant_links(&arena);
        swap_while_in_use(&arena);
        strace.detach();
        let calls = fs::read_to_string(arena.mount.scratch("trace")).unwrap();
        let asked = calls.matches("(INJECTED)").count();
        assert!((1..8).contains(&asked), "asked {asked} times: {calls}");
        arena.mount.end_unclean();
    }
}

#[test]
fn no_hard_link_in_a_dataset_is_written_or_shown() {
    require!(fuse, root);
    let arena = Arena::new();
    let files: Vec<&str> = NAMES
        .into_iter()
        .filter(|name| !matches!(*name, ".npyfs" | ".npyfs/incoming" | ".npyfs/rejected"))
        .collect();
    // As any user can where fs.protected_hardlinks is off.
    arena.plant(&files, "hard", |path| {
        let target = match path.file_name().unwrap().to_str().unwrap() {
            "chunks.log" => arena.victim.join("key"),
            name => arena.victim.join(name),
        };
        fs::hard_link(target, path).unwrap();
    });
    let dataset = format!("hard-{}", files.len() - 1);
    arena.fail(
        &format!("cat $M/mine/{dataset}/data.npy"),
        "Operation not permitted",
    );
    let said = "data.npy has 2 names and belongs to user 0: with more than one, it must belong to";
    assert!(
        arena.log().contains(said),
        "no '{said}' in\n{}",
        arena.log()
    );
    // In a directory in `.npyfs` they are only names.
    arena.succeed("mkdir -p $S/mine/in/.npyfs/incoming $S/mine/in/.npyfs/rejected");
    for name in ["incoming/1-0", "rejected/20200101T000000.000000Z-000-x.npy"] {
        let planted = arena.store("in/.npyfs").join(name);
        fs::hard_link(arena.victim.join(name), planted).unwrap();
    }
    let before = without_names(picture(&arena.victim));
    arena.use_in_every_way("in");
    assert!(without_names(picture(&arena.victim)) == before);
}

#[test]
fn no_pipe_socket_device_or_directory_makes_a_request_wait() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.plant(&NAMES, "pipe", |path| {
        mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap();
    });
    arena.plant(&NAMES, "socket", |path| {
        std::os::unix::net::UnixListener::bind(path).unwrap();
    });
    arena.plant(&NAMES, "directory", |path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("in it"), "").unwrap();
        let user = arena.user;
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    });
    arena.plant(&NAMES, "file", |path| {
        fs::write(path, "not what belongs here").unwrap();
        let user = arena.user;
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    });
    let full = Path::new("/dev/full");
    let can_make_devices = Command::new("cp")
        .args(["-a".as_ref(), full, &arena.mount.scratch("device")])
        .status_alone()
        .unwrap()
        .success();
    if can_make_devices {
        arena.plant(&NAMES, "device", |path| {
            let status = Command::new("cp")
                .args([Path::new("-a"), full, path])
                .status_alone();
            assert!(status.unwrap().success());
        });
    }
    let log = arena.log();
    for said in [
        "data.npy is a named pipe, not a regular file",
        ".npyfs/chunks.log is a named pipe, not a regular file",
        ".npyfs is not a directory",
        ".npyfs/lock is a directory, not a regular file",
        "data.npy is a directory, not a regular file",
    ] {
        assert!(log.contains(said), "no '{said}' in\n{log}");
    }
}

/// A dataset in use loses its `.npyfs` to a link, with a chunk in flight.
fn swap_while_in_use(arena: &Arena) {
    arena.succeed("mkdir $M/mine/used && cp $B/good.npy $M/mine/used/first.npy");
    let dataset = arena.mount.path("mine/used");
    let bytes = counted(4, 4);
    let chunk = |name: &str| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dataset.join(name))
            .unwrap();
        // Not front to back, so that it lies in a file.
        file.write_all_at(&bytes[200..], 200).unwrap();
        file
    };
    let staged = chunk("staged.npy");
    let refused = chunk("refused.npy");
    arena.succeed("cd $S/mine/used && mv .npyfs old && ln -s $V .npyfs");
    let before = picture(&arena.victim);
    // It goes on in the directory that it holds, until the next look at the names.
    let written = staged.write_all_at(&bytes[..200], 0);
    let committed = written.and(common::close(staged)).is_ok();
    common::close(refused).unwrap_err();
    arena.fail("sync $M/mine/used/data.npy", "");
    arena.fail("cp $B/good.npy $M/mine/used/last.npy", "symbolic links");
    arena.use_in_every_way("used");
    assert!(
        picture(&arena.victim) == before,
        "what is outside has changed"
    );
    let rows: Vec<u64> = (0..if committed { 8 } else { 4 }).collect();
    let array = fs::read(arena.store("used/data.npy")).unwrap();
    assert_eq!(row_numbers(&array), rows);
    arena.others_work();
}

#[test]
fn a_dataset_in_use_goes_on_in_the_directory_that_it_holds() {
    require!(fuse, root);
    let arena = Arena::new();
    swap_while_in_use(&arena);
    // Opened anew, it finds the link.
    let before = picture(&arena.victim);
    let arena = arena.crash_and_remount();
    arena.use_in_every_way("used");
    arena.fail("cp $B/good.npy $M/mine/used/more.npy", "symbolic links");
    assert!(
        picture(&arena.victim) == before,
        "what is outside has changed"
    );
}

#[test]
fn what_a_user_exchanges_in_his_own_npyfs_is_not_followed() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed("mkdir -p $S/mine/own/.npyfs && cp $B/good.npy $M/mine/own/first.npy");
    let uid = |path: &str| fs::metadata(arena.store(path)).unwrap().uid();
    assert_eq!(uid("own/.npyfs"), arena.user.uid);
    for name in ["incoming", "rejected", "log", "log.1", "chunks.log", "lock"] {
        let target = if name == "chunks.log" { "key" } else { name };
        arena.succeed(&format!(
            "cd $S/mine/own/.npyfs && rm -rf {name} && ln -s $V/{target} {name}"
        ));
        let before = picture(&arena.victim);
        arena.use_in_every_way("own");
        assert!(
            picture(&arena.victim) == before,
            "{name}: what is outside has changed"
        );
    }
    let before = picture(&arena.victim);
    let arena = arena.crash_and_remount();
    arena.use_in_every_way("own");
    assert!(
        picture(&arena.victim) == before,
        "what is outside has changed"
    );
    arena.others_work();
}

#[test]
fn another_filesystem_in_a_dataset_is_not_entered() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace("another_filesystem_in_a_dataset_is_not_entered") {
        return;
    }
    let arena = Arena::new();
    // As a user can where the system lets root into the filesystems that he mounts.
    for (n, name) in [".npyfs", ".npyfs/incoming", ".npyfs/lock", "data.npy"]
        .into_iter()
        .enumerate()
    {
        arena.succeed(&format!("mkdir -p $S/mine/m{n}/.npyfs"));
        let at = arena.store(format!("m{n}")).join(name);
        let is_file = name.ends_with("lock") || name.ends_with("npy");
        let mut mount = Command::new("mount");
        if is_file {
            fs::write(&at, counted(0, 4)).unwrap();
            mount.arg("--bind").args([&at, &at]);
        } else {
            fs::create_dir_all(&at).unwrap();
            mount.args(["-t", "tmpfs", "none"]).arg(&at);
        }
        run(&mut mount);
        arena.fail(
            &format!("cp $B/good.npy $M/mine/m{n}/x.npy"),
            "Operation not permitted",
        );
        let said = format!("{name} is on another filesystem than the dataset's directory");
        assert!(
            arena.log().contains(&said),
            "no '{said}' in\n{}",
            arena.log()
        );
        if !is_file {
            assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
        }
        run(Command::new("umount").arg(&at));
    }
    arena.others_work();
}

#[test]
fn a_npyfs_of_a_third_user_is_refused_with_the_reason() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed("mkdir -p $S/mine/d/.npyfs");
    chown(arena.store("d/.npyfs"), Some(12345), None).unwrap();
    arena.fail("cp $B/good.npy $M/mine/d/x.npy", "Operation not permitted");
    let said = format!(
        ".npyfs belongs to user 12345: it must belong to the owner of the dataset's directory, user {}, or to the daemon's, user 0",
        arena.user.uid
    );
    assert!(
        arena.log().contains(&said),
        "no '{said}' in\n{}",
        arena.log()
    );
    assert_eq!(fs::read_dir(arena.store("d/.npyfs")).unwrap().count(), 0);
    // So is a file in one.
    arena.succeed("mkdir -p $S/mine/e/.npyfs && : > $S/mine/e/.npyfs/lock");
    chown(arena.store("e/.npyfs/lock"), Some(12345), None).unwrap();
    arena.fail("cp $B/good.npy $M/mine/e/x.npy", "Operation not permitted");
    assert!(arena.log().contains(".npyfs/lock belongs to user 12345"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

#[test]
fn what_npyfs_keeps_is_closed_to_others_and_the_array_is_its_directorys() {
    require!(fuse, root);
    let arena = Arena::new();
    let user = (arena.user.uid, arena.user.gid);
    arena.succeed("mkdir $M/mine/d && cp $B/good.npy $M/mine/d/x.npy && cp $B/good.npy $M/mine/d/");
    assert_eq!(mode(&arena.store("d/.npyfs")), 0o700);
    assert_eq!(mode(&arena.store("d/.npyfs/lock")), 0o600);
    assert_eq!(mode(&arena.store("d/.npyfs/chunks.log")), 0o600);
    assert_eq!(owner(&arena.store("d/.npyfs")), (0, 0));
    assert_eq!(owner(&arena.store("d/data.npy")), user);
    assert_eq!(mode(&arena.store("d/data.npy")), 0o644);
    arena.fail("cat $S/mine/d/.npyfs/lock", "Permission denied");
    // The same for an array that was the tail of a stream before it was born.
    fs::write(arena.mount.scratch("large.npy"), counted(0, 20_000)).unwrap();
    arena.succeed("mkdir $M/mine/e && cp $B/large.npy $M/mine/e/");
    assert_eq!(owner(&arena.store("e/data.npy")), user);
    // What it says is read in the mount as before.
    let said = arena.succeed("cd $M/mine/d/.npyfs && cat log status.json chunks.csv");
    assert!(said.contains("x.npy"), "{said}");
}

#[test]
fn a_store_of_an_earlier_version_opens_and_is_closed_to_others_at_the_first_write() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed(
        "mkdir $M/mine/d && cp $B/good.npy $M/mine/d/x.npy && cp $B/cut.npy $M/mine/d/; true",
    );
    let arena = arena.crash_and_remount();
    for (name, as_before) in [
        ("d/.npyfs", 0o755),
        ("d/.npyfs/lock", 0o644),
        ("d/.npyfs/chunks.log", 0o644),
        ("d/.npyfs/log", 0o644),
    ] {
        set_mode(&arena.store(name), as_before);
    }
    chown(arena.store("d/data.npy"), Some(0), Some(0)).unwrap();
    // A backup by hard links.
    let backup = arena.mount.scratch("backup");
    let status = Command::new("cp")
        .arg("-al")
        .args([arena.store("d/.npyfs"), backup])
        .status_alone();
    assert!(status.unwrap().success());
    arena.succeed("cp $B/good.npy $M/mine/d/y.npy");
    assert_eq!(
        row_numbers(&fs::read(arena.mount.path("mine/d/data.npy")).unwrap()).len(),
        8
    );
    assert_eq!(mode(&arena.store("d/.npyfs")), 0o700);
    assert_eq!(mode(&arena.store("d/.npyfs/lock")), 0o600);
    assert_eq!(mode(&arena.store("d/.npyfs/chunks.log")), 0o600);
}

#[test]
fn an_array_with_a_second_name_grows_if_it_is_its_directorys() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed("mkdir $M/mine/d && cp $B/good.npy $M/mine/d/x.npy");
    let arena = arena.crash_and_remount();
    let second = arena.mount.scratch("second.npy");
    fs::hard_link(arena.store("d/data.npy"), &second).unwrap();
    arena.succeed("cp $B/good.npy $M/mine/d/y.npy");
    assert_eq!(row_numbers(&fs::read(&second).unwrap()).len(), 8);
    // Another's is shown as far as all may read it, and not written.
    let arena = arena.crash_and_remount();
    chown(&second, Some(0), Some(0)).unwrap();
    arena.succeed("cat $M/mine/d/data.npy > /dev/null");
    arena.fail("cp $B/good.npy $M/mine/d/z.npy", "Operation not permitted");
    assert_eq!(row_numbers(&fs::read(&second).unwrap()).len(), 8);
}

/// Owner and mode of the one file in `incoming/` that has bytes.
fn in_flight(arena: &Arena) -> Option<((u32, u32), u32)> {
    let found = fs::read_dir(arena.store("d/.npyfs/incoming")).unwrap();
    let mut found = found.map(|it| it.unwrap().path());
    let path = found.find(|path| fs::metadata(path).unwrap().len() > 0)?;
    Some((owner(&path), mode(&path)))
}

#[test]
fn chunks_that_arrive_and_refused_bytes_are_their_producers() {
    require!(fuse, root);
    let arena = Arena::new();
    let user = (arena.user.uid, arena.user.gid);
    arena.succeed("mkdir $M/mine/d && chmod 1777 $M/mine/d && cp $B/good.npy $M/mine/d/x.npy");
    // Not front to back: its bytes lie in the store while it is written.
    let script = "umask 077; exec dd of=$M/mine/d/staged.npy bs=64 seek=9 status=none";
    let mut producer = arena.user.command("sh");
    producer
        .args(["-c", script])
        .env("M", arena.mount.path(""))
        .stdin(Stdio::piped());
    let mut producer = parked(&mut producer);
    let mut input = producer.child().stdin.take().unwrap();
    input.write_all(&counted(0, 4)[..64]).unwrap();
    assert!(eventually(PROMPT, || in_flight(&arena).is_some()));
    assert_eq!(in_flight(&arena), Some((user, 0o600)));
    drop(input);
    producer.child().wait().unwrap();
    // From memory, from a file and from the tail.
    fs::write(
        arena.mount.scratch("large.npy"),
        &counted(0, 20_000)[..2_000_000],
    )
    .unwrap();
    arena.succeed(
        "cd $M/mine/d; umask 077
         for name in cut large; do cp $B/$name.npy . && exit 1; done; true",
    );
    let by_root = arena.mount.path("mine/d/by-root.npy");
    let file = File::create_new(by_root).unwrap();
    file.write_all_at(&counted(0, 4)[200..], 200).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o640))
        .unwrap();
    assert_eq!(in_flight(&arena), Some(((0, 0), 0o640)));
    assert_eq!(errno(common::close(file)), Errno::EINVAL);

    let stored = fs::read_dir(arena.store("d/.npyfs/rejected")).unwrap();
    let mut seen = 0;
    for path in stored.map(|it| it.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let shown = arena.mount.path("mine/d/.npyfs/rejected").join(name);
        let by_root = name.ends_with("by-root.npy");
        let expected = if by_root {
            ((0, 0), 0o640)
        } else {
            (user, 0o600)
        };
        assert_eq!((owner(&path), mode(&path)), expected, "{name}");
        assert_eq!((owner(&shown), mode(&shown)), expected, "{name}");
        let quoted = format!("$M/mine/d/.npyfs/rejected/{name}");
        if by_root {
            arena.fail(&format!("cat {quoted}"), "Permission denied");
        } else {
            arena.succeed(&format!("cmp {quoted} {quoted} && rm {quoted}"));
            assert!(!path.exists());
        }
        seen += 1;
    }
    assert_eq!(seen, 4, "staged, cut, large and by-root");
    // Where all may create, others may not remove: the directory is sticky.
    let other = User {
        uid: 12345,
        gid: 12345,
    };
    let rest = arena.mount.path("mine/d/.npyfs/rejected");
    let rest = fs::read_dir(rest).unwrap().next().unwrap().unwrap().path();
    let removed = other
        .command("rm")
        .arg("-f")
        .arg(&rest)
        .output_alone()
        .unwrap();
    assert!(refusal(&removed).1.contains("not permitted"), "{removed:?}");
    // He whose directory it is may.
    arena.succeed(&format!("rm -f {}", rest.display()));
    assert!(!rest.exists());
}

/// The set-user-ID and set-group-ID bits give the owner's rights to the bytes that he put there.
#[test]
fn a_file_that_another_user_changes_loses_its_set_id_bits_as_on_ext4() {
    require!(fuse, root);
    let arena = Arena::new();
    let plain = arena.mount.scratch("plain");
    fs::create_dir(&plain).unwrap();
    set_mode(&plain, 0o777);
    let python = |call: &str| format!("python3 -c 'import os, sys; p = sys.argv[1]; {call}' $F");
    let changes = [
        ": > $F".to_owned(),
        "echo x >> $F".to_owned(),
        "printf x | dd of=$F conv=notrunc status=none".to_owned(),
        python("os.truncate(p, 3)"),
        python("os.truncate(p, 0)"),
        python("os.ftruncate(os.open(p, os.O_WRONLY), 3)"),
        python("os.close(os.open(p, os.O_RDONLY | os.O_TRUNC))"),
        python("os.posix_fallocate(os.open(p, os.O_WRONLY), 0, 9000)"),
        python("f = os.open(p, os.O_RDWR); os.pwrite(f, b\"x\", 1)"),
        ": < $F".to_owned(),
    ];
    for change in &changes {
        for before in [0o6777, 0o4777, 0o2777] {
            let after = |directory: &Path| {
                let file = directory.join("tool");
                fs::write(&file, "bytes").unwrap();
                set_mode(&file, before);
                arena.succeed(&format!("F={}; {change}", file.display()));
                fs::symlink_metadata(&file).unwrap().mode() & 0o7777
            };
            let (here, there) = (after(&arena.mount.path("mine")), after(&plain));
            assert_eq!(
                format!("{here:o}"),
                format!("{there:o}"),
                "{before:o}, {change}"
            );
        }
    }
}

#[test]
fn who_may_not_look_into_npyfs_is_told_who_may() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed("mkdir $M/mine/d && cp $B/good.npy $M/mine/d/x.npy");
    let copy = arena.mount.scratch("npyfs");
    fs::copy(npyfs(), &copy).unwrap();
    set_mode(&copy, 0o755);
    let said = format!(
        ".npyfs belongs to user 0, with mode 700, and this process is user {}'s: run it as that user, or look through the mount",
        arena.user.uid
    );
    for command in ["check $S/mine/d", "append $S/mine/d $B/good.npy"] {
        let output = arena.run(&format!("$B/npyfs {command} 2>&1"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success() && text.contains(&said),
            "{command}: {text}"
        );
    }
}

#[test]
fn a_lock_that_no_daemon_took_is_told_from_one_that_a_daemon_holds() {
    require!(fuse, root);
    let arena = Arena::new();
    arena.succeed("mkdir -p $S/mine/d/.npyfs && : > $S/mine/d/.npyfs/lock");
    let lock = File::open(arena.store("d/.npyfs/lock")).unwrap();
    let whole = nix::libc::flock {
        l_type: nix::libc::F_RDLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    arena.fail("cp $B/good.npy $M/mine/d/x.npy", "busy");
    let said =
        "a process holds a lock for reading on .npyfs/lock, and a daemon takes one for writing";
    assert!(
        arena.log().contains(said),
        "no '{said}' in\n{}",
        arena.log()
    );
    drop(lock);
    arena.succeed("cp $B/good.npy $M/mine/d/x.npy");
    arena.others_work();
}

#[test]
fn a_lease_on_the_array_is_no_reason_to_wait_long() {
    require!(fuse, root, python);
    let arena = Arena::new();
    arena.succeed("mkdir $M/mine/d && cp $B/good.npy $M/mine/d/x.npy");
    let arena = arena.crash_and_remount();
    let holder = "import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
time.sleep(float(sys.argv[2]))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
time.sleep(600)";
    let holder_of = |seconds: &str| {
        let mut command = bare_python();
        command
            .args(["-c", holder])
            .arg(arena.store("d/data.npy"))
            .arg(seconds)
            .stdout(Stdio::piped());
        let mut holder = parked(&mut command);
        holder
            .child()
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 4])
            .unwrap();
        holder
    };
    let hostile = holder_of("600");
    let start = Instant::now();
    arena.fail("cp $B/good.npy $M/mine/d/y.npy", "busy");
    arena.others_work();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let said = "another process holds a lease on data.npy, which the kernel has asked back";
    assert!(
        arena.log().contains(said),
        "no '{said}' in\n{}",
        arena.log()
    );
    drop(hostile);
    arena.succeed("cp $B/good.npy $M/mine/d/y.npy");
}

#[test]
fn putting_npyfs_back_from_a_copy_is_noticed_while_nothing_is_written() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("d");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("a.npy"), &counted(0, 2)).unwrap();
    let mount = mount.remount();
    let dataset = mount.path("d");
    assert!(dataset.join("a.npy").exists());
    let stored = mount.store("d/.npyfs");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&stored, &mount.store("d/copy")])
        .status_alone();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(&stored).unwrap();
    let names = || {
        assert_eq!(rows_of(&dataset), [0, 1]);
        csv_names(&dataset)
    };
    assert!(names().is_empty(), "its name went with the journal");
    fs::rename(mount.store("d/copy"), &stored).unwrap();
    assert_eq!(names(), ["a.npy"]);
    put(&dataset.join("b.npy"), &counted(2, 2)).unwrap();
    assert_eq!(
        row_numbers(&fs::read(dataset.join("data.npy")).unwrap()),
        [0, 1, 2, 3]
    );
    assert!(stored.join("lock").exists());
}
