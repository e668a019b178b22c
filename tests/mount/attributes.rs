//! What `stat` and listings say is what programs need that go by it: copies, backups, `find`.

use crate::common;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::{Mount, User, close, counted, output_of, put, python, rows_of, run};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};

fn with_chunks(mount: Mount, count: u64) -> (Mount, PathBuf) {
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    for n in 0..count {
        put(&dataset.join(format!("{n}.npy")), &counted(n * 10, 10)).unwrap();
    }
    (mount, dataset)
}

#[track_caller]
fn stat(path: impl AsRef<Path>) -> Metadata {
    fs::metadata(path).unwrap()
}

fn ctime(stat: &Metadata) -> (i64, i64) {
    (stat.ctime(), stat.ctime_nsec())
}

fn mtime(stat: &Metadata) -> (i64, i64) {
    (stat.mtime(), stat.mtime_nsec())
}

/// As long as the kernel may show what it was told before.
fn wait_for_the_kernel() {
    sleep(Duration::from_millis(1100));
}

fn bash(mount: &Mount, script: &str) {
    run(Command::new("bash")
        .args(["-euc", script])
        .current_dir(mount.scratch(""))
        .env("D", mount.path("ds")));
}

#[test]
fn tar_s_keeps_the_bytes_of_a_chunk() {
    require!(fuse, tar);
    let (mount, dataset) = with_chunks(Mount::new(), 2);
    // In flight too: larger than what collects in memory, and smaller.
    let mut small = File::create(dataset.join("small.npy")).unwrap();
    small.write_all(&counted(20, 10)[..700]).unwrap();
    let mut large = File::create(dataset.join("large.npy")).unwrap();
    large.write_all(&counted(0, 40_000)[..4 << 20]).unwrap();
    for name in ["0.npy", "1.npy", "small.npy", "large.npy", "data.npy"] {
        let stat = stat(dataset.join(name));
        assert_eq!(stat.blocks(), stat.size().div_ceil(512), "{name}");
    }
    drop((small, large));
    mount.expect_warning("small.npy: EINVAL");
    mount.expect_warning("large.npy: EINVAL");
    bash(
        &mount,
        "tar -cSf a.tar -C $D 0.npy 1.npy; tar -xOf a.tar | cmp - <(cat $D/0.npy $D/1.npy)",
    );
}

#[test]
fn find_finds_a_chunk_by_its_number() {
    require!(fuse, find);
    let (mount, dataset) = with_chunks(Mount::new(), 3);
    fs::write(dataset.join("notes.txt"), "x").unwrap();
    fs::create_dir(dataset.join("inner")).unwrap();
    fs::write(mount.path("top.txt"), "x").unwrap();
    let _in_flight = File::create(dataset.join("flight.npy")).unwrap();
    let mut all = Vec::new();
    let inner = fs::read_dir(dataset.join(".npyfs")).unwrap();
    let top = fs::read_dir(mount.path("")).unwrap();
    for entry in fs::read_dir(&dataset).unwrap().chain(inner).chain(top) {
        let entry = entry.unwrap();
        let number = stat(entry.path()).ino();
        assert_eq!(entry.ino(), number, "{}", entry.path().display());
        all.push(number);
    }
    assert!(all.len() >= 7 + 5 + 2, "{all:?}");
    all.sort_unstable();
    all.dedup_by(|a, b| a == b);
    assert!(all.len() >= 7 + 5 + 2, "{all:?}");
    bash(
        &mount,
        r#"for name in 0.npy data.npy notes.txt inner; do
            test "$(find $D -inum $(stat -c %i $D/$name))" = $D/$name
        done
        python3 - $D <<'END'
import os, sys
at = {entry.name: entry.inode() for entry in os.scandir(sys.argv[1])}
assert os.stat(sys.argv[1]).st_ino == os.stat(sys.argv[1] + '/inner/..').st_ino
assert all(os.stat(f'{sys.argv[1]}/{name}').st_ino == ino for name, ino in at.items())
END"#,
    );
}

#[test]
fn a_file_keeps_its_number_over_its_life_and_a_remount() {
    require!(fuse);
    let (mount, dataset) = with_chunks(Mount::new(), 2);
    let numbers = |dataset: &Path| -> Vec<u64> {
        let names = ["0.npy", "moved.npy", "late.npy", "1.npy", "data.npy", "x"];
        let number = |name: &&str| stat(dataset.join(name)).ino();
        let mut numbers: Vec<u64> = names.iter().map(number).collect();
        numbers.push(stat(dataset).ino());
        numbers
    };
    let mut file = File::create(dataset.join("late.npy")).unwrap();
    let created = file.metadata().unwrap().ino();
    file.write_all(&counted(20, 10)).unwrap();
    assert_eq!(file.metadata().unwrap().ino(), created);
    close(file).unwrap();
    assert_eq!(stat(dataset.join("late.npy")).ino(), created);
    fs::write(dataset.join("x"), "x").unwrap();
    assert_eq!(
        stat(dataset.join("x")).ino(),
        stat(mount.store("ds/x")).ino()
    );
    assert_eq!(stat(&dataset).ino(), stat(mount.store("ds")).ino());
    // A renamed chunk keeps its number, and another under its first name has one of its own.
    let first = stat(dataset.join("1.npy")).ino();
    fs::rename(dataset.join("1.npy"), dataset.join("moved.npy")).unwrap();
    put(&dataset.join("1.npy"), &counted(30, 10)).unwrap();
    let before = numbers(&dataset);
    assert_eq!((before[0] >> 61, before[1]), (1, first));
    assert_eq!(before[4] >> 62, 1, "data.npy comes after all others");
    let mut different = before.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), before.len(), "{before:?}");
    let mount = mount.remount();
    assert_eq!(numbers(&mount.path("ds")), before);
    let mount = mount.crash_and_remount();
    assert_eq!(numbers(&mount.path("ds")), before);
    // Another way to the last name.
    fs::rename(mount.path("ds/moved.npy"), mount.path("ds/again.npy")).unwrap();
    let mount = mount.remount();
    assert_eq!(stat(mount.path("ds/again.npy")).ino(), first);
}

#[test]
fn an_empty_file_keeps_its_number_when_its_bytes_come() {
    require!(fuse);
    let (_mount, dataset) = with_chunks(Mount::new(), 1);
    let path = dataset.join("touched.npy");
    close(File::create(&path).unwrap()).unwrap();
    let touched = stat(&path).ino();
    fs::write(dataset.join("part"), counted(10, 10)).unwrap();
    put(&path, &counted(10, 10)).unwrap();
    assert_eq!(stat(&path).ino(), touched);
    // A rename that commits makes a chunk of the file: it has a chunk's number at once.
    fs::rename(dataset.join("part"), dataset.join("renamed.npy")).unwrap();
    let number = stat(dataset.join("renamed.npy")).ino();
    assert_eq!(number >> 61, 1);
}

/// After a rename the kernel had the file's number for a second, and did not find the chunk's
/// descriptors by it: the first of two closes was taken for the last.
#[test]
fn the_descriptors_of_a_chunk_that_was_just_renamed_are_found() {
    require!(fuse);
    let (mount, _) = with_chunks(Mount::new(), 1);
    bash(
        &mount,
        "cp $D/0.npy old; head -c 700 old > head; tail -c +701 old > tail
        for name in 0.npy new.npy; do
            cp old $D/x.part; mv $D/x.part $D/$name
            { cat head; cat tail; } > $D/$name; cmp old $D/$name
        done",
    );
}

#[test]
fn a_set_group_id_directory_gives_its_group_and_its_bit() {
    require!(fuse, root);
    let group = 4242;
    let mount = Mount::builder().words("allow_other").start();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    let user = User::ordinary();
    chown(&dataset, Some(user.uid), Some(group)).unwrap();
    fs::set_permissions(&dataset, PermissionsExt::from_mode(0o2775)).unwrap();
    fs::write(mount.scratch("0.npy"), counted(0, 10)).unwrap();
    let script = "cp $0/0.npy $1; mkdir $1/sub $1/sub/deep; echo x > $1/notes; cp $0/0.npy $1/part
        mv $1/part $1/1.npy; cp $0/0.npy $1/sub/deep; cp $0/0.npy $1/inst.npy";
    run(user
        .command("bash")
        .args(["-euc", script])
        .args([mount.scratch(""), dataset.clone()]));
    for name in ["0.npy", "notes", "1.npy", "sub/deep/0.npy", "inst.npy"] {
        assert_eq!(stat(dataset.join(name)).gid(), group, "{name}");
    }
    for name in ["sub", "sub/deep"] {
        let stat = stat(dataset.join(name));
        assert_eq!(
            (stat.gid(), stat.mode() & 0o2000),
            (group, 0o2000),
            "{name}"
        );
    }
    // Nowhere else.
    let plain = mount.path("plain");
    fs::create_dir(&plain).unwrap();
    put(&plain.join("0.npy"), &counted(0, 1)).unwrap();
    assert_eq!(stat(plain.join("0.npy")).gid(), stat(&plain).gid());
    assert_eq!(stat(&plain).mode() & 0o2000, 0);
}

#[test]
fn links_of_a_directory_are_its_directories() {
    require!(fuse);
    let (mount, dataset) = with_chunks(Mount::new(), 1);
    let shown = |path: &Path| {
        let dirs = fs::read_dir(path).unwrap();
        let dirs = dirs.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        (stat(path).nlink(), 2 + dirs.count() as u64)
    };
    if stat(mount.store("ds")).nlink() == 1 {
        assert_eq!(stat(&dataset).nlink(), 1);
        return;
    }
    for path in [mount.path(""), dataset.clone(), dataset.join(".npyfs")] {
        let (links, dirs) = shown(&path);
        assert_eq!(links, dirs, "{}", path.display());
    }
    fs::create_dir(dataset.join("inner")).unwrap();
    wait_for_the_kernel();
    assert_eq!(shown(&dataset), (3, 3));
    assert_eq!(shown(&dataset.join("inner")), (2, 2));
}

#[test]
fn an_open_array_whose_directory_was_removed_is_read_on() {
    require!(fuse);
    let mount = Mount::builder().words("allow_delete=all").start();
    let (mount, dataset) = with_chunks(mount, 2);
    let array = fs::read(dataset.join("data.npy")).unwrap();
    let names = ["data.npy", "data[1:].npy"];
    let before = names.map(|name| stat(dataset.join(name)));
    let files = names.map(|name| File::open(dataset.join(name)).unwrap());
    fs::remove_dir_all(&dataset).unwrap();
    wait_for_the_kernel();
    for (file, before) in files.iter().zip(before) {
        let now = file.metadata().unwrap();
        assert_eq!((now.ino(), now.len()), (before.ino(), before.len()));
        assert_eq!((now.uid(), now.mode()), (before.uid(), before.mode()));
        assert_eq!(now.nlink(), 0);
    }
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut &files[0], &mut read).unwrap();
    assert!(read == array);
    drop(files);
    mount.finish();
}

#[test]
fn an_open_file_that_was_removed_has_no_links() {
    require!(fuse);
    let mount = Mount::builder().words("allow_delete").start();
    let (mount, dataset) = with_chunks(mount, 2);
    fs::write(dataset.join("notes.txt"), "notes").unwrap();
    let mut flight = File::create(dataset.join("flight.npy")).unwrap();
    flight.write_all(b"\x93NUMPY").unwrap();
    let open = |name: &str| File::open(dataset.join(name)).unwrap();
    mount.expect_warning("flight.npy: ECANCELED");
    let files = [open("0.npy"), open("notes.txt"), flight];
    for name in ["0.npy", "notes.txt", "flight.npy"] {
        fs::remove_file(dataset.join(name)).unwrap();
    }
    wait_for_the_kernel();
    for file in &files {
        assert_eq!(file.metadata().unwrap().nlink(), 0, "{file:?}");
    }
    assert_eq!(
        files[0].metadata().unwrap().len(),
        counted(0, 10).len() as u64
    );
    assert_eq!(stat(dataset.join("1.npy")).nlink(), 1);
}

#[test]
fn a_regular_file_can_be_made_by_mknod() {
    require!(fuse);
    let (mount, dataset) = with_chunks(Mount::new(), 1);
    mount.expect_warning("fifo: EPERM");
    let mode = Mode::from_bits_truncate(0o640);
    for name in ["x.npy", "notes.txt"] {
        let path = dataset.join(name);
        mknod(&path, SFlag::S_IFREG, mode, 0).unwrap();
        assert_eq!(stat(&path).mode(), 0o100_640, "{name}");
        assert_eq!(mknod(&path, SFlag::S_IFREG, mode, 0), Err(Errno::EEXIST));
    }
    let fifo = mknod(&dataset.join("fifo"), SFlag::S_IFIFO, mode, 0);
    assert_eq!(fifo, Err(Errno::EPERM));
    let mut file = OpenOptions::new()
        .write(true)
        .open(dataset.join("x.npy"))
        .unwrap();
    file.write_all(&counted(10, 10)).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..20).collect::<Vec<_>>());
}

#[test]
fn tar_xattrs_unpacks_chunks() {
    require!(fuse, tar, python);
    let (mount, dataset) = with_chunks(Mount::new(), 1);
    fs::write(mount.scratch("1.npy"), counted(10, 10)).unwrap();
    let script = r"
import sys, tarfile
with tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT) as tar:
    info = tar.gettarinfo(sys.argv[2], '1.npy')
    info.pax_headers['SCHILY.xattr.user.note'] = 'seen'
    tar.addfile(info, open(sys.argv[2], 'rb'))
";
    python(script, &[mount.scratch("a.tar"), mount.scratch("1.npy")]);
    // Without the attribute, which it says.
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "-xf"])
        .arg(mount.scratch("a.tar"))
        .arg("-C")
        .arg(&dataset);
    let said = output_of(&mut tar).unwrap();
    assert!(rows_of(&dataset) == (0..20).collect::<Vec<_>>(), "{said:?}");
    assert!(fs::read(dataset.join("1.npy")).unwrap() == counted(10, 10));
}

#[test]
fn the_time_of_change_moves_with_every_change_of_a_chunk() {
    require!(fuse);
    let (mount, dataset) = with_chunks(Mount::new(), 1);
    let path = dataset.join("0.npy");
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut last = ctime(&stat(&path));
    assert_eq!(last, ctime(&stat(&path)));
    let file = File::open(&path).unwrap();
    let mut moved = |what: &str, path: &Path| {
        let now = ctime(&stat(path));
        assert!(now > last, "{what}: {now:?} after {last:?}");
        last = now;
    };
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    moved("chmod", &path);
    file.set_modified(old).unwrap();
    moved("utimens", &path);
    assert_eq!(stat(&path).modified().unwrap(), old);
    let renamed = dataset.join("renamed.npy");
    fs::rename(&path, &renamed).unwrap();
    moved("rename", &renamed);
    let before = ctime(&stat(&renamed));
    drop(file);
    let mount = mount.remount();
    assert_eq!(ctime(&stat(mount.path("ds/renamed.npy"))), before);
    // An ordinary file has the store's.
    fs::write(mount.path("ds/notes"), "x").unwrap();
    let in_store = stat(mount.store("ds/notes"));
    assert_eq!(ctime(&stat(mount.path("ds/notes"))), ctime(&in_store));
    assert_eq!(mtime(&stat(mount.path("ds/notes"))), mtime(&in_store));
}

#[test]
fn a_path_may_be_longer_than_the_kernels_paths() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("ds")).unwrap();
    fs::write(mount.scratch("0.npy"), counted(0, 10)).unwrap();
    let script = r#"cd $D; name=$(printf 'd%.0s' {1..200})
        for n in {1..30}; do mkdir $name; cd $name; done
        cp $OLD/0.npy .; cmp $OLD/0.npy 0.npy; mv 0.npy 1.npy; stat . 1.npy .npyfs/chunks.csv
        test "$(ls | wc -l)" = 2; echo x > notes; rm notes"#;
    let script = script.replace("$OLD", &mount.scratch("").to_string_lossy());
    bash(&mount, &script);
}

#[test]
fn chmod_chown_and_touch_of_all_that_a_dataset_holds_work_and_last() {
    require!(fuse, root);
    let mount = Mount::builder().words("allow_other").start();
    let (mount, dataset) = with_chunks(mount, 2);
    // touch tries to open it first.
    mount.expect_warning("open ds/data.npy: EPERM");
    let user = User::ordinary();
    let script = format!(
        "chmod -R u=rwX,go= $D; chown -R {}:{} $D; touch -d '2001-02-03 04:05:06.5' $D/*; chmod 750 $D",
        user.uid, user.gid
    );
    bash(&mount, &script);
    let check = |dataset: &Path| {
        for name in ["0.npy", "data.npy", "data[0:5].npy"] {
            let stat = stat(dataset.join(name));
            assert_eq!((stat.uid(), stat.gid()), (user.uid, user.gid), "{name}");
            assert_eq!(stat.mode() & 0o7777, 0o600, "{name}");
            assert_eq!(mtime(&stat), (981_173_106, 500_000_000), "{name}");
        }
    };
    check(&dataset);
    let changed = ctime(&stat(dataset.join("data.npy")));
    let mount = mount.remount();
    check(&mount.path("ds"));
    assert_eq!(ctime(&stat(mount.path("ds/data.npy"))), changed);
    let mount = mount.crash_and_remount();
    let dataset = mount.path("ds");
    check(&dataset);
    // It grows all the same, and shows when; its owner may do as he likes with its mode.
    put(&dataset.join("2.npy"), &counted(20, 10)).unwrap();
    assert!(mtime(&stat(dataset.join("data.npy"))) > changed);
    let data = dataset.join("data.npy");
    run(user.command("chmod").arg("640").arg(&data));
    let by_others = User {
        uid: user.uid + 1,
        gid: user.gid + 1,
    };
    assert!(
        !output_of(by_others.command("chmod").arg("666").arg(&data))
            .unwrap()
            .status
            .success()
    );
    let seen = stat(&data);
    assert_eq!((seen.mode() & 0o7777, seen.uid()), (0o640, user.uid));
    // Its mode guards the rows, whoever may read the directory.
    fs::set_permissions(&dataset, PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["data.npy", "data[0:5].npy"] {
        let read = output_of(by_others.command("cat").arg(dataset.join(name))).unwrap();
        assert!(!read.status.success(), "{name}");
    }
    assert_eq!(rows_of(&dataset), (0..30).collect::<Vec<_>>());
}

#[test]
fn a_directory_changes_when_a_chunk_comes_goes_or_is_renamed() {
    require!(fuse);
    let mount = Mount::builder().words("allow_delete").start();
    let (mount, dataset) = with_chunks(mount, 1);
    let mut last = stat(&dataset);
    let mut moved = |what: &str, dataset: &Path| {
        let now = stat(dataset);
        assert!(mtime(&now) > mtime(&last), "{what}");
        assert!(ctime(&now) > ctime(&last), "{what}");
        last = now;
    };
    put(&dataset.join("1.npy"), &counted(10, 10)).unwrap();
    moved("a chunk comes", &dataset);
    fs::rename(dataset.join("1.npy"), dataset.join("2.npy")).unwrap();
    moved("it is renamed", &dataset);
    fs::remove_file(dataset.join("2.npy")).unwrap();
    moved("it goes", &dataset);
    fs::write(dataset.join("part"), counted(20, 10)).unwrap();
    moved("a file comes", &dataset);
    fs::rename(dataset.join("part"), dataset.join("3.npy")).unwrap();
    moved("it becomes a chunk", &dataset);
    let before = mtime(&stat(&dataset));
    // A change of its mode is none of its entries.
    fs::set_permissions(&dataset, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(mtime(&stat(&dataset)), before);
    // After a remount, before the dataset is opened and after.
    let mount = mount.remount();
    let dataset = mount.path("ds");
    assert_eq!(mtime(&stat(&dataset)), before);
    assert_eq!(fs::read_dir(&dataset).unwrap().count(), 3);
    wait_for_the_kernel();
    assert_eq!(mtime(&stat(&dataset)), before);
    // After a crash, once it is opened.
    put(&dataset.join("4.npy"), &counted(30, 10)).unwrap();
    let before = mtime(&stat(&dataset));
    let mount = mount.crash_and_remount();
    let dataset = mount.path("ds");
    assert_eq!(fs::read_dir(&dataset).unwrap().count(), 4);
    wait_for_the_kernel();
    assert_eq!(mtime(&stat(&dataset)), before);
}

/// rsync sets it last of all, right after the last chunk came.
#[test]
fn the_time_that_is_set_of_a_directory_stays_until_the_next_chunk_comes() {
    require!(fuse, rsync);
    let (mount, dataset) = with_chunks(Mount::new(), 0);
    fs::create_dir(mount.scratch("in")).unwrap();
    for n in 0..5 {
        fs::write(mount.scratch(format!("in/{n}.npy")), counted(n * 10, 10)).unwrap();
    }
    let old = (981_173_106, 0);
    bash(
        &mount,
        "touch -d '2001-02-03 04:05:06' in; rsync -a in/ $D/",
    );
    assert_eq!(mtime(&stat(&dataset)), old);
    let listed = |mount: &Mount| {
        let dataset = mount.path("ds");
        assert_eq!(fs::read_dir(&dataset).unwrap().count(), 6);
        wait_for_the_kernel();
        mtime(&stat(&dataset))
    };
    assert_eq!(listed(&mount), old);
    let mount = mount.remount();
    assert_eq!(mtime(&stat(mount.path("ds"))), old);
    assert_eq!(listed(&mount), old);
    let mount = mount.crash_and_remount();
    assert_eq!(listed(&mount), old);
    put(&mount.path("ds/5.npy"), &counted(50, 10)).unwrap();
    assert!(mtime(&stat(mount.path("ds"))) > old);
}

#[test]
fn data_npy_that_was_removed_has_no_links() {
    require!(fuse);
    let mount = Mount::builder().words("allow_delete=all").start();
    let (_mount, dataset) = with_chunks(mount, 1);
    let open = File::open(dataset.join("data.npy")).unwrap();
    fs::remove_file(dataset.join("0.npy")).unwrap();
    fs::remove_file(dataset.join("data.npy")).unwrap();
    wait_for_the_kernel();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
}

/// Programs that copy by size, by sendfile or from a mapping got nothing.
#[test]
fn texts_of_npyfs_have_their_true_sizes() {
    require!(fuse, python);
    let mount = Mount::builder().words("allow_delete,names=reuse").start();
    let (mount, dataset) = with_chunks(mount, 3);
    let script = r"
import mmap, os, shutil, sys
ds = sys.argv[1]
def read(path):
    with open(path, 'rb') as file:
        return file.read()
for path in [ds + '/.npyfs/' + name for name in ('chunks.csv', 'status.json', 'log')] + [
        ds + '/../.npyfs/daemon', ds + '/../.npyfs/losses']:
    stat, text = os.stat(path), read(path)
    assert stat.st_size == len(text), (path, stat.st_size, text)
    assert stat.st_blocks == -(-len(text) // 512) or path.endswith('log'), stat
    shutil.copy(path, 'copy')
    assert read('copy') == text, path
    with open(path, 'rb') as file, open('copy', 'wb') as copy:
        assert os.fstat(file.fileno()).st_size == len(text)
        os.sendfile(copy.fileno(), file.fileno(), 0, 1 << 20)
        if text and not path.endswith('log'):  # it may grow
            for access in (mmap.ACCESS_READ, mmap.ACCESS_COPY):
                assert mmap.mmap(file.fileno(), 0, access=access)[:] == text, path
    assert read('copy') == text, path
";
    let run_script = || {
        let mut command = common::python_command(script, &[&dataset]);
        run(command.current_dir(mount.scratch("")));
    };
    run_script();
    // Longer, then shorter, with readers who have the old ones open.
    let old = File::open(dataset.join(".npyfs/chunks.csv")).unwrap();
    let len = old.metadata().unwrap().len();
    for n in 3..200 {
        put(&dataset.join(format!("{n}.npy")), &counted(n * 10, 10)).unwrap();
    }
    run_script();
    for n in 0..150 {
        fs::remove_file(dataset.join(format!("{n}.npy"))).unwrap();
    }
    put(&dataset.join("150.npy"), &counted(7, 3)).unwrap();
    fs::rename(dataset.join("151.npy"), dataset.join("r,\"1\".npy")).unwrap();
    chown(dataset.join("152.npy"), Some(123_456), None).ok();
    run_script();
    assert_eq!(old.metadata().unwrap().len(), len);
    drop(old);
    bash(
        &mount,
        "touch $D/flight.npy; cp -a $D/.npyfs npyfs; cmp npyfs/chunks.csv $D/.npyfs/chunks.csv",
    );
}

/// What is copied by size while names come and go is the list of one moment.
#[test]
fn a_list_that_is_copied_while_names_change_is_whole() {
    require!(fuse, python);
    let mount = Mount::builder().words("allow_delete,names=reuse").start();
    let (_mount, dataset) = with_chunks(mount, 0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let script = r"
import csv, os, shutil, sys
for n in range(400):
    shutil.copy(sys.argv[1] + '/.npyfs/chunks.csv', 'copy')
    shutil.copy(sys.argv[1] + '/.npyfs/status.json', 'status')
    with open('copy') as file:
        text = file.read()
    assert text.startswith('name,first_row,') and text.endswith('\n') and '\0' not in text, text
    assert all(len(row) == 7 and row[3].endswith('Z') for row in csv.reader(text.splitlines()[1:]))
    with open('status') as file:
        assert file.read().endswith('}\n')
";
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                put(&dataset.join("latest.npy"), &counted(n, 1)).unwrap();
                put(&dataset.join(format!("{n}.npy")), &counted(n, 1)).unwrap();
                if n >= 20 {
                    fs::remove_file(dataset.join(format!("{}.npy", n - 20))).unwrap();
                }
                n += 1;
            }
        });
        let scratch = tempfile::tempdir().unwrap();
        let mut command = common::python_command(script, &[&dataset]);
        let done = output_of(command.current_dir(scratch.path())).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(done.status.success(), "{done:?}");
    });
}

#[test]
fn names_that_are_no_text_are_told_apart_in_chunks_csv() {
    require!(fuse);
    let (mount, _) = with_chunks(Mount::new(), 1);
    bash(
        &mount,
        r"for name in $'\xe4.npy' $'\xf6.npy' 'xf6.npy' '\xf6.npy' 'ä.npy'; do
            cp $D/0.npy $D/$name
        done
        cut -d, -f1 $D/.npyfs/chunks.csv | tail -n +3 > names
        printf '%s\n' '\xe4.npy' '\xf6.npy' 'xf6.npy' '\\xf6.npy' 'ä.npy' | cmp - names",
    );
}
