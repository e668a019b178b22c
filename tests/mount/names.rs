//! Which names are chunks, and what may happen to names.

use crate::common;

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Mount, close, counted, errno, put, rows_of};
use nix::errno::Errno;

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

#[test]
fn temporary_names_are_ordinary_files_until_they_are_renamed() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let mut rows = 0;
    for name in [
        ".c.npy.Ab12Cd",
        "c.npy.part",
        "c.npy.crdownload",
        "Unconfirmed 123.crdownload",
        "c.npy.partial",
        "c.npy.download",
        ".c.npy.swp",
        "4913",
        "c.npy~",
        ".#c.npy",
        "#c.npy#",
        "c.tmp.npy",
        "c.part.npy",
        ".goutputstream-AB12CD",
        ".~tmp~",
        "tmpabc123",
        ".npy",
    ] {
        let path = dataset.join(name);
        put(&path, &counted(rows, 10)).unwrap();
        assert_eq!(rows_of(&dataset).len() as u64, rows, "{name}");
        // Written in any way, as any file.
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"x").unwrap();
        file.set_len(counted(0, 10).len() as u64).unwrap();
        close(file).unwrap();
        let chunk = dataset.join(format!("{rows}.npy"));
        fs::rename(&path, &chunk).unwrap();
        rows += 10;
        assert_eq!(rows_of(&dataset), (0..rows).collect::<Vec<_>>(), "{name}");
        assert!(!path.exists() && !mount.store("ds").join(name).exists());
        // And one that stays.
        fs::write(&path, "kept").unwrap();
        assert_eq!(fs::read(mount.store("ds").join(name)).unwrap(), b"kept");
    }
}

#[test]
fn any_name_that_a_file_can_have() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let long = format!("{}.npy", "l".repeat(251));
    let wide = format!("{}.npy", "名".repeat(83));
    let names: Vec<&[u8]> = vec![
        "größe 名前 🎉.npy".as_bytes(),
        b"with spaces  and\ttabs.npy",
        b"-rf.npy",
        b"a\nb.npy",
        b"\"quoted', comma.npy",
        b"back\\slash*?[x].npy",
        b"\xff\xfe not utf-8.npy",
        b"data.npy.npy",
        b"data[1].npy",
        b"DATA.npy",
        long.as_bytes(),
        wide.as_bytes(),
    ];
    for (n, name) in names.iter().enumerate() {
        let path = dataset.join(std::ffi::OsStr::from_bytes(name));
        put(&path, &counted(n as u64 * 10, 10)).unwrap();
        assert!(fs::read(&path).unwrap() == counted(n as u64 * 10, 10));
    }
    let mount = mount.remount();
    let dataset = mount.path("ds");
    let listed: Vec<Vec<u8>> = fs::read_dir(&dataset)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(listed.len(), names.len() + 1);
    for (n, name) in names.iter().enumerate() {
        assert!(listed.iter().any(|it| it == name));
        let path = dataset.join(std::ffi::OsStr::from_bytes(name));
        assert!(fs::read(&path).unwrap() == counted(n as u64 * 10, 10));
        let to = dataset.join(format!("{n}.npy"));
        fs::rename(&path, &to).unwrap();
        fs::rename(&to, &path).unwrap();
    }
    assert_eq!(rows_of(&dataset), (0..120).collect::<Vec<_>>());
    // The log, the table and the rejected file of a name as long as can be.
    let path = dataset.join(format!("{}.npy", "r".repeat(251)));
    mount.expect_warning("rrrr.npy: EINVAL");
    let short = &counted(0, 10)[..300];
    assert_eq!(errno(put(&path, short)), Errno::EINVAL);
    let kept: Vec<_> = fs::read_dir(dataset.join(".npyfs/rejected"))
        .unwrap()
        .collect();
    assert_eq!(kept.len(), 1);
    let csv = fs::read_to_string(dataset.join(".npyfs/chunks.csv"));
    assert!(csv.is_ok_and(|csv| csv.contains("\"\"quoted', comma.npy\"")));
}

#[test]
fn a_rename_commits_into_the_same_or_another_dataset() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let other = mount.path("deep/er");
    fs::create_dir_all(&other).unwrap();
    put(&other.join("up.tmp"), &counted(0, 10)).unwrap();
    fs::rename(other.join("up.tmp"), dataset.join("0.npy")).unwrap();
    put(&dataset.join("up.tmp"), &counted(10, 10)).unwrap();
    fs::rename(dataset.join("up.tmp"), dataset.join("1.npy")).unwrap();
    put(&dataset.join("up.tmp"), &counted(20, 20_000)).unwrap();
    fs::rename(dataset.join("up.tmp"), dataset.join("big.npy")).unwrap();
    assert_eq!(rows_of(&dataset).len(), 20_020);
    assert!(rows_of(&other).is_empty());
    // The same again, and something else.
    put(&dataset.join("up.tmp"), &counted(0, 10)).unwrap();
    fs::rename(dataset.join("up.tmp"), dataset.join("0.npy")).unwrap();
    put(&dataset.join("up.tmp"), &counted(5, 10)).unwrap();
    mount.expect_warning("rename ds/0.npy: EEXIST");
    let again = fs::rename(dataset.join("up.tmp"), dataset.join("0.npy"));
    assert_eq!(errno(again), Errno::EEXIST);
    // Onto one that is being written.
    let open = fs::File::create(dataset.join("open.npy")).unwrap();
    (&open).write_all(&counted(0, 10)[..300]).unwrap();
    mount.expect_warning("rename ds/open.npy: EBUSY");
    let busy = fs::rename(dataset.join("up.tmp"), dataset.join("open.npy"));
    assert_eq!(errno(busy), Errno::EBUSY);
    (&open).write_all(&counted(0, 10)[300..]).unwrap();
    close(open).unwrap();
    // Away from its dataset, or to a name that is no chunk's.
    for to in [
        other.join("0.npy"),
        dataset.join("0.npy.bak"),
        dataset.join("data.npy"),
    ] {
        assert_eq!(errno(fs::rename(dataset.join("0.npy"), to)), Errno::EPERM);
    }
    mount.expect_warning("EPERM: 0.npy is committed: it can be renamed to another chunk's name");
    // A dataset is renamed with all that it holds.
    fs::rename(&dataset, mount.path("deep/ds")).unwrap();
    assert_eq!(rows_of(&mount.path("deep/ds")).len(), 20_030);
}

#[test]
fn mode_owner_and_times_are_kept_whenever_they_are_set() {
    require!(fuse, root);
    let (mount, dataset) = with_dataset();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let set = |path: &Path| {
        fs::set_permissions(path, PermissionsExt::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(path, Some(1234), Some(2345)).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o751)).unwrap();
        let file = fs::File::open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    // After close; before close; before the rename; of an empty file.
    put(&dataset.join("after.npy"), &counted(0, 10)).unwrap();
    set(&dataset.join("after.npy"));
    let mut file = fs::File::create(dataset.join("before.npy")).unwrap();
    file.write_all(&counted(10, 10)).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o751))
        .unwrap();
    std::os::unix::fs::fchown(&file, Some(1234), Some(2345)).unwrap();
    file.set_modified(time).unwrap();
    close(file).unwrap();
    put(&dataset.join("x.tmp"), &counted(20, 10)).unwrap();
    set(&dataset.join("x.tmp"));
    fs::rename(dataset.join("x.tmp"), dataset.join("renamed.npy")).unwrap();
    let check = |dataset: &Path| {
        for name in ["after.npy", "before.npy", "renamed.npy"] {
            let stat = fs::metadata(dataset.join(name)).unwrap();
            assert_eq!(stat.mode() & 0o7777, 0o751, "{name}");
            assert_eq!((stat.uid(), stat.gid()), (1234, 2345), "{name}");
            assert_eq!(stat.modified().unwrap(), time, "{name}");
        }
    };
    check(&dataset);
    fs::rename(dataset.join("after.npy"), dataset.join("x.npy")).unwrap();
    fs::rename(dataset.join("x.npy"), dataset.join("after.npy")).unwrap();
    let mount = mount.remount();
    check(&mount.path("ds"));
    let mount = mount.crash_and_remount();
    check(&mount.path("ds"));
}
