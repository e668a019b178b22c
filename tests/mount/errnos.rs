//! The table of errnos: each situation at each call that it names.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{
    Mount, alone, close, counted, errno, eventually, force_unmount, npy, put, put_in_pieces,
    row_numbers, rows_of, run, with_dict,
};
use nix::errno::Errno;

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Files that are no chunk of a dataset of `<i8` rows of shape `(16,)`, each wrong in its header.
fn wrong_headers() -> Vec<(&'static str, Vec<u8>)> {
    let dict = |dict: &str| [with_dict(dict), vec![0; 128]].concat();
    let mut version = counted(0, 1);
    version[6] = 9;
    vec![
        ("text", b"1,2,3,4,5,6,7,8\n".repeat(20)),
        ("zip", [b"PK\x03\x04".as_slice(), &[1; 300]].concat()),
        ("version", version),
        ("no dictionary", dict("[1, 2, 3]")),
        ("no shape", dict("{'descr': '<i8', 'fortran_order': False}")),
        (
            "unknown dtype",
            dict("{'descr': '<q9', 'fortran_order': False, 'shape': (1, 16), }"),
        ),
        (
            "negative",
            dict("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 16), }"),
        ),
        (
            "huge",
            dict("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999999999, 16), }"),
        ),
        ("dtype", npy("<f4", "(1, 16)", &[0; 64])),
        ("signedness", npy("<u8", "(1, 16)", &[0; 128])),
        ("row shape", npy("<i8", "(1, 15)", &[0; 120])),
        ("dimensions", npy("<i8", "(1, 16, 1)", &[0; 128])),
        ("1-d", npy("<i8", "(16,)", &[0; 128])),
        ("0-d", npy("<i8", "()", &[0; 8])),
        ("object", npy("|O", "(1, 16)", &[0; 128])),
    ]
}

#[test]
fn einval_for_a_wrong_header_at_the_write_that_completes_it_and_at_every_close() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 3)).unwrap();
    for (name, bytes) in wrong_headers() {
        let path = dataset.join(format!("{name}.npy"));
        mount.expect_warning(&format!("write run7/{name}.npy: EINVAL"));
        mount.expect_warning(&format!("setattr run7/{name}.npy: EINVAL"));
        mount.expect_warning(&format!("flush run7/{name}.npy: EINVAL"));
        for piece in [bytes.len(), 7] {
            let mut file = File::create(&path).unwrap();
            let second = file.try_clone().unwrap();
            let written = bytes
                .chunks(piece)
                .try_for_each(|piece| file.write_all(piece));
            assert_eq!(errno(written), Errno::EINVAL, "{name} by {piece}");
            // What follows is refused too, whatever it is.
            assert_eq!(errno(file.write(b"more")), Errno::EINVAL, "{name}");
            assert_eq!(errno(file.set_len(3)), Errno::EINVAL, "{name}");
            assert_eq!(errno(close(second)), Errno::EINVAL, "{name}");
            assert_eq!(errno(close(file)), Errno::EINVAL, "{name}");
            assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT, "{name}");
        }
    }
    assert_eq!(rows_of(&dataset), [0, 1, 2]);
}

#[test]
fn einval_for_a_header_that_no_dataset_takes_also_as_the_first_chunk() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    for (name, bytes) in wrong_headers() {
        if [
            "dtype",
            "signedness",
            "row shape",
            "dimensions",
            "1-d",
            "huge",
        ]
        .contains(&name)
        {
            continue;
        }
        assert_eq!(
            errno(put(&dataset.join("x.npy"), &bytes)),
            Errno::EINVAL,
            "{name}"
        );
    }
    assert!(!dataset.join("data.npy").exists());
}

#[test]
fn einval_for_more_bytes_at_that_write() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("write run7/x.npy: EINVAL");
    mount.expect_warning("flush run7/x.npy: EINVAL");
    for rows in [3, 20_000] {
        let chunk = counted(0, rows);
        let mut file = File::create(dataset.join("x.npy")).unwrap();
        file.write_all(&chunk).unwrap();
        assert_eq!(errno(file.write(b"!")), Errno::EINVAL);
        assert_eq!(errno(close(file)), Errno::EINVAL);
        // With the last rows in one call.
        let mut file = File::create(dataset.join("x.npy")).unwrap();
        file.write_all(&chunk[..chunk.len() - 1]).unwrap();
        assert_eq!(errno(file.write(b"!!")), Errno::EINVAL);
        assert_eq!(errno(close(file)), Errno::EINVAL);
    }
    assert!(!dataset.join("data.npy").exists());
}

#[test]
fn einval_for_fewer_bytes_at_close() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("flush run7/x.npy: EINVAL");
    let (small, large) = (counted(0, 3), counted(0, 20_000));
    for bytes in [
        &small[..1],
        &small[..127],
        &small[..128],
        &small[..200],
        &large[..2_000_000],
    ] {
        let mut file = File::create(dataset.join("x.npy")).unwrap();
        file.write_all(bytes).unwrap();
        assert_eq!(errno(close(file)), Errno::EINVAL, "{} bytes", bytes.len());
    }
    // A committed name, and only the front of its bytes.
    put(&dataset.join("c.npy"), &small).unwrap();
    mount.expect_warning("flush run7/c.npy: EINVAL");
    assert_eq!(
        errno(put(&dataset.join("c.npy"), &small[..200])),
        Errno::EINVAL
    );
    assert_eq!(rows_of(&dataset), [0, 1, 2]);
}

#[test]
fn ebadmsg_for_the_same_by_rename() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 3)).unwrap();
    let mut cases = wrong_headers();
    let small = counted(3, 3);
    cases.push(("empty", Vec::new()));
    cases.push(("short", small[..200].to_vec()));
    cases.push(("half header", small[..50].to_vec()));
    cases.push(("long", [small.as_slice(), b"!"].concat()));
    for (name, bytes) in cases {
        mount.expect_warning(&format!("rename run7/{name}.npy: EBADMSG"));
        let part = dataset.join(".x.npy.Ab12Cd");
        fs::write(&part, &bytes).unwrap();
        let path = dataset.join(format!("{name}.npy"));
        assert_eq!(errno(fs::rename(&part, &path)), Errno::EBADMSG, "{name}");
        assert_eq!(fs::read(&part).unwrap(), bytes, "{name}: the source stays");
        assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT, "{name}");
    }
    assert_eq!(rows_of(&dataset), [0, 1, 2]);
}

#[test]
fn eexist_for_other_bytes_at_the_write_that_differs_at_close_and_by_rename() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("write run7/c.npy: EEXIST");
    mount.expect_warning("flush run7/c.npy: EEXIST");
    mount.expect_warning("rename run7/c.npy: EEXIST");
    let path = dataset.join("c.npy");
    let chunk = counted(0, 100);
    put(&path, &chunk).unwrap();
    let mut other = chunk.clone();
    other[5000] ^= 1;
    // The write that differs, not one before it.
    let mut file = File::create(&path).unwrap();
    file.write_all(&other[..5000]).unwrap();
    assert_eq!(errno(file.write(&other[5000..6000])), Errno::EEXIST);
    assert_eq!(errno(file.write(&chunk[6000..])), Errno::EEXIST);
    assert_eq!(errno(close(file)), Errno::EEXIST);
    // Without O_TRUNC.
    let file = writable(&path).unwrap();
    assert_eq!(
        errno(file.write_at(&other[4990..5010], 4990)),
        Errno::EEXIST
    );
    assert_eq!(errno(close(file)), Errno::EEXIST);
    // Appended to.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(errno(file.write(b"!")), Errno::EEXIST);
    assert_eq!(errno(close(file)), Errno::EEXIST);
    // Out of order, so judged at close.
    let file = File::create(&path).unwrap();
    file.write_all_at(&other[128..], 128).unwrap();
    file.write_all_at(&other[..128], 0).unwrap();
    assert_eq!(errno(close(file)), Errno::EEXIST);
    // Through the handle that committed it.
    let new = dataset.join("d.npy");
    mount.expect_warning("write run7/d.npy: EEXIST");
    mount.expect_warning("flush run7/d.npy: EEXIST");
    let mut file = File::create(&new).unwrap();
    file.write_all(&counted(100, 2)).unwrap();
    close(file.try_clone().unwrap()).unwrap();
    assert_eq!(errno(file.write(b"!")), Errno::EEXIST);
    assert_eq!(errno(close(file.try_clone().unwrap())), Errno::EEXIST);
    assert_eq!(errno(close(file)), Errno::EEXIST);
    let part = dataset.join("c.part");
    fs::write(&part, &other).unwrap();
    assert_eq!(errno(fs::rename(&part, &path)), Errno::EEXIST);
    // A chunk's receipt does not replace another's.
    mount.expect_warning("rename run7/d.npy: EEXIST");
    assert_eq!(errno(fs::rename(&path, &new)), Errno::EEXIST);
    assert_eq!(fs::read(&path).unwrap(), chunk);
    assert_eq!(rows_of(&dataset).len(), 102);
}

#[test]
fn eperm_for_writing_what_is_npyfss_own() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("EPERM");
    // Before there is an array nobody may make one.
    for name in ["data.npy", "data[0:1].npy", "data[:].npy"] {
        assert_eq!(
            errno(File::create(dataset.join(name))),
            Errno::EPERM,
            "{name}"
        );
        assert_eq!(
            errno(fs::create_dir(dataset.join(name))),
            Errno::EPERM,
            "{name}"
        );
    }
    put(&dataset.join("c.npy"), &counted(0, 100)).unwrap();
    fs::write(dataset.join("x.part"), counted(100, 1)).unwrap();
    for name in ["data.npy", "data[0:1].npy", "data[:].npy", "data[-5:].npy"] {
        let path = dataset.join(name);
        let len = fs::metadata(&path).unwrap().len();
        assert_eq!(errno(writable(&path)), Errno::EPERM, "{name}");
        assert_eq!(errno(File::create(&path)), Errno::EPERM, "{name}");
        let update = OpenOptions::new().read(true).write(true).open(&path);
        assert_eq!(errno(update), Errno::EPERM, "{name}");
        let append = OpenOptions::new().append(true).open(&path);
        assert_eq!(errno(append), Errno::EPERM, "{name}");
        for to in [0, len, len + 1] {
            let truncated = nix::unistd::truncate(&path, to as i64).map_err(io::Error::from);
            assert_eq!(errno(truncated), Errno::EPERM, "{name}");
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        if name != "data.npy" {
            let set = fs::set_permissions(&path, mode);
            assert_eq!(errno(set), Errno::EPERM, "{name}");
        }
        assert_eq!(errno(fs::remove_file(&path)), Errno::EPERM, "{name}");
        assert_eq!(
            errno(fs::rename(&path, dataset.join("y.npy"))),
            Errno::EPERM,
            "{name}"
        );
        assert_eq!(
            errno(fs::rename(dataset.join("x.part"), &path)),
            Errno::EPERM,
            "{name}"
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
    }
    for name in [".npyfs/log", ".npyfs/status.json", ".npyfs/chunks.csv"] {
        assert_eq!(errno(writable(&dataset.join(name))), Errno::EPERM, "{name}");
        assert_eq!(
            errno(fs::remove_file(dataset.join(name))),
            Errno::EPERM,
            "{name}"
        );
    }
    let inside = dataset.join(".npyfs/x");
    assert_eq!(errno(File::create(&inside)), Errno::EPERM);
    assert_eq!(errno(fs::create_dir(&inside)), Errno::EPERM);
    let moved = fs::rename(dataset.join(".npyfs"), dataset.join("other"));
    assert_eq!(errno(moved), Errno::EPERM);
    assert_eq!(errno(fs::remove_dir(dataset.join(".npyfs"))), Errno::EPERM);
}

#[test]
fn eperm_for_removing_cutting_or_moving_away_a_committed_chunk() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("c.npy: EPERM");
    mount.expect_warning("EPERM");
    let path = dataset.join("c.npy");
    let chunk = counted(0, 100);
    put(&path, &chunk).unwrap();
    assert_eq!(errno(fs::remove_file(&path)), Errno::EPERM);
    let len = chunk.len() as i64;
    let truncate = |to| nix::unistd::truncate(&path, to).map_err(io::Error::from);
    for to in [128, len - 1, len + 1] {
        assert_eq!(errno(truncate(to)), Errno::EPERM, "to {to}");
        let file = writable(&path).unwrap();
        assert_eq!(errno(file.set_len(to as u64)), Errno::EPERM, "to {to}");
        assert_eq!(errno(close(file)), Errno::EPERM, "to {to}");
    }
    // To nothing is how a producer begins that writes the same again.
    for to in [0, len] {
        truncate(to).unwrap();
        let file = writable(&path).unwrap();
        file.set_len(to as u64).unwrap();
        close(file).unwrap();
    }
    fs::create_dir(mount.path("other")).unwrap();
    for to in ["other/c.npy", "run7/c.part", "c.npy"] {
        assert_eq!(
            errno(fs::rename(&path, mount.path(to))),
            Errno::EPERM,
            "{to}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), chunk);
    assert_eq!(rows_of(&dataset).len(), 100);
}

#[test]
fn eperm_for_a_chunk_in_the_root_and_for_what_npyfs_does_not_know() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("c.npy: EPERM");
    assert_eq!(errno(File::create(mount.path("c.npy"))), Errno::EPERM);
    fs::write(dataset.join("c.part"), counted(0, 1)).unwrap();
    let moved = fs::rename(dataset.join("c.part"), mount.path("c.npy"));
    assert_eq!(errno(moved), Errno::EPERM);
    mount.expect_warning("d.npy: EPERM");
    assert_eq!(errno(fs::create_dir(dataset.join("d.npy"))), Errno::EPERM);
    mount.expect_warning("link: EPERM");
    mount.expect_warning("fifo: EPERM");
    assert_eq!(errno(symlink("/", dataset.join("link"))), Errno::EPERM);
    let linked = fs::hard_link(dataset.join("c.part"), dataset.join("link"));
    assert_eq!(errno(linked), Errno::EPERM);
    let fifo = nix::unistd::mkfifo(&dataset.join("fifo"), nix::sys::stat::Mode::S_IRWXU);
    assert_eq!(fifo, Err(Errno::EPERM));
}

#[test]
fn ebusy_for_a_name_that_is_in_flight() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EBUSY");
    mount.expect_warning("y.npy: EBUSY");
    let path = dataset.join("x.npy");
    let chunk = counted(0, 10);
    fs::write(dataset.join("x.part"), &chunk).unwrap();
    let mut file = File::create(&path).unwrap();
    file.write_all(&chunk[..200]).unwrap();
    assert_eq!(errno(File::create(&path)), Errno::EBUSY);
    assert_eq!(errno(writable(&path)), Errno::EBUSY);
    assert_eq!(errno(File::open(&path)), Errno::EBUSY);
    let truncated = nix::unistd::truncate(&path, 0);
    assert_eq!(truncated, Err(Errno::EBUSY));
    assert_eq!(
        errno(fs::rename(dataset.join("x.part"), &path)),
        Errno::EBUSY
    );
    assert_eq!(
        errno(fs::rename(&path, dataset.join("y.npy"))),
        Errno::EBUSY
    );
    let exclusive = OpenOptions::new().write(true).create_new(true).open(&path);
    assert_eq!(
        errno(exclusive),
        Errno::EEXIST,
        "as O_EXCL has it everywhere"
    );
    file.write_all(&chunk[200..]).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset).len(), 10);
}

#[test]
fn ebusy_for_a_dataset_that_another_daemon_owns() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("c.npy"), &counted(0, 10)).unwrap();
    let other = Mount::builder().store(&mount.store("")).start();
    other.expect_warning("x.npy: EBUSY");
    other.expect_warning("c.npy: EBUSY");
    let theirs = other.path("run7");
    assert_eq!(errno(File::create(theirs.join("x.npy"))), Errno::EBUSY);
    assert_eq!(errno(writable(&theirs.join("c.npy"))), Errno::EBUSY);
    fs::write(theirs.join("x.part"), counted(10, 1)).unwrap();
    let moved = fs::rename(theirs.join("x.part"), theirs.join("x.npy"));
    assert_eq!(errno(moved), Errno::EBUSY);
    // It serves what the owner commits.
    assert_eq!(rows_of(&theirs).len(), 10);
    put(&dataset.join("d.npy"), &counted(10, 5)).unwrap();
    assert_eq!(rows_of(&theirs).len(), 15);
    assert_eq!(fs::read(theirs.join("d.npy")).unwrap(), counted(10, 5));
    // Other datasets are free.
    fs::create_dir(other.path("mine")).unwrap();
    put(&other.path("mine/c.npy"), &counted(0, 1)).unwrap();
    mount.expect_warning("x.npy: EBUSY");
    let path = mount.path("mine/x.npy");
    assert_eq!(errno(File::create(path)), Errno::EBUSY);
    other.finish();
    mount.finish();
}

#[test]
fn erofs_on_a_read_only_mount() {
    require!(fuse);
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let mount = Mount::builder().store(store.path()).start();
    fs::create_dir(mount.path("run7")).unwrap();
    put(&mount.path("run7/c.npy"), &counted(0, 10)).unwrap();
    mount.finish();
    let mount = Mount::builder().store(store.path()).words("ro").start();
    let dataset = mount.path("run7");
    assert_eq!(errno(File::create(dataset.join("x.npy"))), Errno::EROFS);
    assert_eq!(errno(writable(&dataset.join("c.npy"))), Errno::EROFS);
    assert_eq!(errno(fs::remove_file(dataset.join("c.npy"))), Errno::EROFS);
    assert_eq!(errno(fs::create_dir(mount.path("d"))), Errno::EROFS);
    assert_eq!(rows_of(&dataset).len(), 10);
}

/// A small filesystem of its own, which goes with the value.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size}"));
        run(mount.arg("tmpfs").arg(dir.path()));
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        force_unmount(self.0.path());
    }
}

#[test]
fn enospc_when_the_store_is_full_and_nothing_is_half_appended() {
    require!(fuse, root);
    let _alone = alone();
    let tmpfs = Tmpfs::new("4m");
    let store = tmpfs.0.path().join("store");
    fs::create_dir(&store).unwrap();
    let mount = Mount::builder().store(&store).start();
    mount.expect_warning("ENOSPC");
    mount.expect_warning("No space left on device");
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("first.npy"), &counted(0, 100)).unwrap();
    let data = mount.store("run7/data.npy");
    let before = fs::read(&data).unwrap();
    // Streamed, staged, and in memory.
    let large = counted(100, 50_000);
    assert_eq!(errno(put(&dataset.join("x.npy"), &large)), Errno::ENOSPC);
    assert_eq!(fs::read(&data).unwrap(), before);
    let file = File::create(dataset.join("x.npy")).unwrap();
    let written = file.write_all_at(&large[128..], 128);
    let closed = close(file);
    assert_eq!(errno(written.and(closed)), Errno::ENOSPC);
    assert_eq!(fs::read(&data).unwrap(), before);
    let filler = mount.store("run7/filler");
    let mut file = File::create(&filler).unwrap();
    while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);
    let small = counted(100, 1000);
    assert_eq!(
        errno(put_in_pieces(&dataset.join("x.npy"), &small, 1000)),
        Errno::ENOSPC
    );
    assert_eq!(rows_of(&dataset).len(), 100);
    assert_eq!(
        row_numbers(&fs::read(&data).unwrap()[..before.len()]).len(),
        100
    );
    // The same again once there is room.
    fs::remove_file(filler).unwrap();
    put(&dataset.join("x.npy"), &small).unwrap();
    let all: Vec<u64> = (0..1100).collect();
    assert_eq!(rows_of(&dataset), all);
    let mount = mount.remount();
    assert_eq!(rows_of(&mount.path("run7")), all);
    mount.finish();
}

#[test]
fn estale_or_enoent_and_never_a_panic_for_what_is_gone() {
    require!(fuse);
    let _alone = alone();
    let (mut mount, dataset) = with_dataset();
    mount.allow_open("elsewhere");
    put(&dataset.join("c.npy"), &counted(0, 10)).unwrap();
    let open_dir = File::open(&dataset).unwrap();
    let open_array = File::open(dataset.join("data.npy")).unwrap();
    // After the daemon's back.
    fs::rename(mount.store("run7"), mount.store("elsewhere")).unwrap();
    let gone = |what: &str, result: io::Result<()>| {
        let errno = result.map_err(|error| error.raw_os_error());
        let expected = [libc::ENOENT, libc::ESTALE].map(|errno| Err(Some(errno)));
        assert!(expected.contains(&errno), "{what}: {errno:?}");
    };
    gone("stat", fs::metadata(dataset.join("d.npy")).map(drop));
    gone("create", File::create(dataset.join("x.txt")).map(drop));
    gone("fsync", open_dir.sync_all());
    // What was open goes on.
    let mut bytes = vec![0; 128 + 1280];
    open_array.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(row_numbers(&bytes).len(), 10);
    // Another directory in its place is another dataset, as soon as the kernel asks for the name.
    fs::create_dir(mount.store("run7")).unwrap();
    let another = eventually(Duration::from_secs(5), || {
        !dataset.join("c.npy").exists() && !dataset.join("data.npy").exists()
    });
    assert!(another);
    put(&dataset.join("e.npy"), &counted(20, 3)).unwrap();
    assert_eq!(
        row_numbers(&fs::read(mount.store("run7/data.npy")).unwrap()),
        [20, 21, 22]
    );
    assert_eq!(rows_of(&mount.path("elsewhere")).len(), 10);
}
