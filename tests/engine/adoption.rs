//! Arrays and rows that other programs made: adopted as they stand, or refused with a reason and
//! left as they are.

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::{LoopMount, Mount, array_of, inside_a_private_namespace, python, run};

/// Rows of three i32 that count on from `first`.
fn body(first: i32, rows: i32) -> Vec<u8> {
    (first * 3..(first + rows) * 3)
        .flat_map(i32::to_le_bytes)
        .collect()
}

/// A header by hand, padded to a multiple of `align` bytes.
fn header(descr: &str, fortran: &str, shape: &str, align: usize) -> Vec<u8> {
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    while (10 + text.len() + 1) % align != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn chunk(first: i32, rows: i32) -> Vec<u8> {
    let mut bytes = header("<i4", "False", &format!("({rows}, 3)"), 64);
    bytes.extend(body(first, rows));
    bytes
}

#[track_caller]
fn assert_rows(path: &Path, rows: i32) {
    let (header, found) = array_of(path);
    assert_eq!(header.rows(), rows as u64, "{}", path.display());
    assert!(found == body(0, rows), "{}: wrong rows", path.display());
}

#[track_caller]
fn append(mount: &Mount, name: &str, first: i32, rows: i32) {
    common::put_bytes(&mount.path("run").join(name), &chunk(first, rows)).unwrap();
}

fn log(mount: &Mount) -> String {
    fs::read_to_string(mount.store("run/.npyfs/log")).unwrap_or_default()
}

/// Appends to an array that is in the store already, and looks at it from both sides.
#[track_caller]
fn goes_on(mount: Mount, rows: i32) {
    assert_rows(&mount.path("run/data.npy"), rows);
    append(&mount, "a.npy", rows, 5);
    assert_rows(&mount.path("run/data.npy"), rows + 5);
    assert_rows(&mount.store("run/data.npy"), rows + 5);
    let mount = mount.remount();
    append(&mount, "b.npy", rows + 5, 2);
    append(&mount, "a.npy", rows, 5);
    assert_rows(&mount.path("run/data.npy"), rows + 7);
    let mount = mount.crash_and_remount();
    assert_rows(&mount.path("run/data.npy"), rows + 7);
    append(&mount, "c.npy", rows + 7, 1);
    assert_rows(&mount.path("run/data.npy"), rows + 8);
    let mount = mount.remount();
    run(Command::new(common::npyfs())
        .arg("check")
        .arg(mount.store("")));
}

#[test]
fn an_array_of_numpy_goes_on() {
    require!(fuse, python);
    let mount = Mount::new();
    fs::create_dir(mount.store("run")).unwrap();
    python(
        "import numpy as np, sys; np.save(sys.argv[1], np.arange(300, dtype='<i4').reshape(100, 3))",
        &[mount.store("run/data.npy")],
    );
    goes_on(mount, 100);
}

#[test]
fn an_array_of_npy_append_array_goes_on() {
    require!(fuse, python);
    let mount = Mount::new();
    fs::create_dir(mount.store("run")).unwrap();
    python(
        "import numpy as np, sys
from npy_append_array import NpyAppendArray
with NpyAppendArray(sys.argv[1]) as array:
    for n in range(10):
        array.append(np.arange(30 * n, 30 * n + 30, dtype='<i4').reshape(10, 3))",
        &[mount.store("run/data.npy")],
    );
    goes_on(mount, 100);
}

fn without_room() -> Vec<u8> {
    let mut bytes = header("<i4", "False", "(2000, 3)", 16);
    bytes.extend(body(0, 2000));
    bytes
}

/// Puts an array with no room for the count into a store on a filesystem; true where it is the same
/// file afterwards.
fn gives_room(at: &Path) -> bool {
    let dataset = at.join("store/run");
    fs::create_dir_all(&dataset).unwrap();
    let data = dataset.join("data.npy");
    fs::write(&data, without_room()).unwrap();
    let inode = fs::metadata(&data).unwrap().ino();
    let mount = Mount::builder().store(&at.join("store")).start();
    assert_rows(&mount.path("run/data.npy"), 2000);
    // Looking at it changes nothing.
    assert_eq!(fs::read(&data).unwrap(), without_room());
    goes_on(mount, 2000);
    fs::metadata(&data).unwrap().ino() == inode
}

#[test]
fn a_header_without_room_gets_it_on_every_filesystem() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace("a_header_without_room_gets_it_on_every_filesystem") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    for kind in ["ext4", "xfs"] {
        let disk = LoopMount::make::<&str>(&scratch.path().join(kind), kind, 400 << 20, &[]);
        assert!(gives_room(&disk.at), "copied on {kind}");
    }
    let at = scratch.path().join("tmpfs");
    fs::create_dir(&at).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at));
    assert!(!gives_room(&at), "not copied on tmpfs");
    run(Command::new("umount").arg(&at));
}

/// A daemon that dies between the insertion and the header leaves zeros in front of the old one.
#[test]
fn an_interrupted_insertion_is_completed() {
    require!(fuse);
    for inserted in [0, 4096] {
        let mount = Mount::new();
        fs::create_dir_all(mount.store("run/.npyfs")).unwrap();
        let mut bytes = vec![0; inserted];
        bytes.extend(without_room());
        fs::write(mount.store("run/data.npy"), bytes).unwrap();
        goes_on(mount, 2000);
    }
}

#[test]
fn one_column_in_fortran_order_is_in_c_order_too() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.store("run")).unwrap();
    let mut bytes = header("<i4", "True", "(30,)", 64);
    bytes.extend(body(0, 10));
    fs::write(mount.store("run/data.npy"), bytes).unwrap();
    let mut more = header("<i4", "False", "(3,)", 64);
    more.extend(body(10, 1));
    common::put_bytes(&mount.path("run/a.npy"), &more).unwrap();
    let (header, found) = array_of(&mount.path("run/data.npy"));
    assert_eq!((header.rows(), header.fortran_order()), (33, false));
    assert_eq!(found, body(0, 11));
}

/// Neither served nor touched, and the log of the daemon says why.
#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    let mount = Mount::new();
    fs::create_dir(mount.store("run")).unwrap();
    fs::write(mount.store("run/data.npy"), bytes).unwrap();
    mount.expect_warning(reason);
    common::put_bytes(&mount.path("run/a.npy"), &chunk(0, 1)).unwrap_err();
    fs::read(mount.path("run/data.npy")).unwrap_err();
    assert_eq!(fs::read(mount.store("run/data.npy")).unwrap(), bytes);
    assert!(!mount.store("run/.npyfs/chunks.log").exists());
    let check = Command::new(common::npyfs())
        .arg("check")
        .arg(mount.store("run"))
        .output_alone()
        .unwrap();
    let (code, said) = common::refusal(&check);
    let said = said + &String::from_utf8_lossy(&check.stdout);
    assert!(code > 0 && said.contains(reason), "{said}");
}

#[test]
fn fortran_order_of_two_dimensions_is_refused() {
    require!(fuse);
    let mut bytes = header("<i4", "True", "(10, 3)", 64);
    bytes.extend(body(0, 10));
    refused(&bytes, "Fortran order");
}

#[test]
fn a_file_shorter_than_its_header_says_is_refused() {
    require!(fuse);
    let mut bytes = header("<i4", "False", "(10, 3)", 64);
    bytes.extend(body(0, 9));
    refused(&bytes, "holds fewer");
}

#[test]
fn a_file_that_is_not_an_array_is_refused() {
    require!(fuse);
    refused(b"hello, world", "not an array");
    refused(&[0; 6000], "not an array");
}

/// A dataset with rows 0..30 in three chunks, not mounted any more.
fn away() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let mount = Mount::builder().store(store.path()).start();
    fs::create_dir(mount.path("run")).unwrap();
    for n in 0..3 {
        append(&mount, &format!("{n}.npy"), n * 10, 10);
    }
    mount.finish();
    store
}

#[test]
fn rows_that_others_appended_meanwhile_are_adopted() {
    require!(fuse, python);
    let by_npy_append_array = "import numpy as np, sys
from npy_append_array import NpyAppendArray
with NpyAppendArray(sys.argv[1]) as array:
    array.append(np.arange(90, 120, dtype='<i4').reshape(10, 3))";
    let by_numpy = "import numpy as np, sys
old = np.load(sys.argv[1])
np.save(sys.argv[1], np.concatenate([old, np.arange(90, 120, dtype='<i4').reshape(10, 3)]))";
    let by_hand = "import numpy as np, sys
f = open(sys.argv[1], 'r+b')
head = f.read(128)
f.seek(0, 2)
f.write(np.arange(90, 120, dtype='<i4').tobytes())
f.seek(0)
f.write(head.replace(b'30, 3', b'40, 3'))";
    for script in [by_npy_append_array, by_numpy, by_hand] {
        for journal in [true, false] {
            let store = away();
            if !journal {
                fs::remove_dir_all(store.path().join("run/.npyfs")).unwrap();
            }
            python(script, &[store.path().join("run/data.npy")]);
            let mount = Mount::builder().store(store.path()).start();
            assert_rows(&mount.path("run/data.npy"), 40);
            append(&mount, "3.npy", 40, 10);
            assert_rows(&mount.path("run/data.npy"), 50);
            if journal {
                append(&mount, "1.npy", 10, 10);
                assert!(log(&mount).contains("adopted 10 rows"), "{}", log(&mount));
                assert_eq!(fs::read(mount.path("run/2.npy")).unwrap(), chunk(20, 10));
            }
            let mount = mount.crash_and_remount();
            append(&mount, "4.npy", 50, 1);
            assert_rows(&mount.store("run/data.npy"), 51);
        }
    }
}

/// Rows that the journal knows are gone: nothing is made up in their place.
#[test]
fn an_array_that_became_shorter_meanwhile_is_refused() {
    require!(fuse);
    let short = {
        let mut bytes = header("<i4", "False", "(20, 3)", 128);
        bytes.extend(body(0, 20));
        bytes
    };
    let store = away();
    let cut = fs::read(store.path().join("run/data.npy")).unwrap();
    let cut = cut[..cut.len() - 12].to_vec();
    for bytes in [short, cut] {
        let store = away();
        let data = store.path().join("run/data.npy");
        fs::write(&data, &bytes).unwrap();
        let mount = Mount::builder().store(store.path()).start();
        mount.expect_warning("holds fewer");
        common::put_bytes(&mount.path("run/3.npy"), &chunk(30, 1)).unwrap_err();
        assert!(fs::read(mount.path("run/data.npy")).is_err());
        assert!(fs::read(&data).unwrap() == bytes, "touched");
    }
}
