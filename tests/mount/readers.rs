//! What readers and ordinary programs find in a mount: slices,
//! views, versions, `.npyfs`, listings, directories, ordinary files, permissions.

use crate::common;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Mount, User, close, counted, errno, npy, output_of, parse, put, python, row_numbers, rows_of,
    run,
};
use nix::errno::Errno;

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// A mount in each mode: mappings of `data.npy` straight to the store, where that can be, and
/// cached.
fn both_modes(test: impl Fn(&Mount, &Path)) {
    for mount in [Mount::new(), Mount::builder().words("cached").start()] {
        let dataset = mount.path("run7");
        fs::create_dir(&dataset).unwrap();
        test(&mount, &dataset);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn slices_follow_pythons_rules() {
    require!(fuse);
    both_modes(|_, dataset| {
        assert_eq!(errno(fs::read(dataset.join("data[:].npy"))), Errno::ENOENT);
        put(&dataset.join("1.npy"), &counted(0, 7)).unwrap();
        put(&dataset.join("2.npy"), &counted(7, 3)).unwrap();
        for (slice, expected) in [
            ("2:5", 2..5),
            (":", 0..10),
            ("0:10", 0..10),
            (":4", 0..4),
            ("6:", 6..10),
            ("-3:", 7..10),
            (":-3", 0..7),
            ("-4:-2", 6..8),
            ("5:2", 0..0),
            ("10:", 0..0),
            ("-99:99", 0..10),
            ("0:0", 0..0),
        ] {
            let path = dataset.join(format!("data[{slice}].npy"));
            let bytes = fs::read(&path).unwrap();
            assert_eq!(
                row_numbers(&bytes),
                expected.collect::<Vec<u64>>(),
                "{slice}"
            );
            assert_eq!(
                fs::metadata(&path).unwrap().len(),
                bytes.len() as u64,
                "{slice}"
            );
        }
        // Resolved at open.
        let file = File::open(dataset.join("data[-2:].npy")).unwrap();
        put(&dataset.join("3.npy"), &counted(10, 5)).unwrap();
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).unwrap();
        assert_eq!(row_numbers(&bytes), [8, 9]);
        let now = fs::read(dataset.join("data[-2:].npy")).unwrap();
        assert_eq!(row_numbers(&now), [13, 14]);
        assert_eq!(names(dataset), ["1.npy", "2.npy", "3.npy", "data.npy"]);
    });
}

#[test]
fn slices_and_views_can_be_mapped() {
    require!(fuse, python);
    both_modes(|_, dataset| {
        put(&dataset.join("1.npy"), &counted(0, 9_000)).unwrap();
        put(&dataset.join("2.npy"), &counted(9_000, 20_000)).unwrap();
        let script = r#"
import sys, numpy as np
dataset = sys.argv[1]
for name, a, b in [('data', 0, 29000), ('data[0:500]', 0, 500), ('data[:]', 0, 29000),
                   ('data[100:9100]', 100, 9100), ('1', 0, 9000), ('2', 9000, 29000)]:
    mapped = np.load(f'{dataset}/{name}.npy', mmap_mode='r')
    assert (mapped == np.arange(a, b)[:, None]).all() and mapped.shape == (b - a, 16), name
    assert (np.load(f'{dataset}/{name}.npy') == mapped).all(), name
"#;
        python(script, &[dataset]);
    });
}

#[test]
fn a_chunks_view_is_byte_identical_to_what_was_written() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    // With a header that numpy would not write: other spaces, order and padding.
    let mut odd = b"\x93NUMPY\x02\x00\x6e\x00\x00\x00".to_vec();
    odd.extend_from_slice(b"{\"shape\":(2L,16),\"fortran_order\":False,\"descr\":\"<i8\"}");
    odd.resize(12 + 0x6e - 1, b' ');
    odd.push(b'\n');
    odd.extend_from_slice(&counted(100, 2)[128..]);
    let chunks = [
        ("small", counted(0, 100)),
        ("odd", odd),
        ("none", counted(0, 0)),
        ("large", counted(102, 20_000)),
    ];
    for (name, bytes) in &chunks {
        put(&dataset.join(format!("{name}.npy")), bytes).unwrap();
    }
    let check = |dataset: &Path| {
        for (name, bytes) in &chunks {
            let path = dataset.join(format!("{name}.npy"));
            assert!(fs::read(&path).unwrap() == *bytes, "{name}");
            let stat = fs::metadata(&path).unwrap();
            assert_eq!(
                (stat.len(), stat.blocks()),
                (bytes.len() as u64, (bytes.len() as u64).div_ceil(512)),
                "{name}"
            );
        }
        assert_eq!(rows_of(dataset), (0..20_102).collect::<Vec<_>>());
    };
    check(&dataset);
    let mount = mount.remount();
    check(&mount.path("run7"));
}

#[test]
fn large_reads_from_anywhere_have_the_right_bytes() {
    require!(fuse);
    both_modes(|mount, dataset| {
        let chunk = counted(0, 200_000);
        put(&dataset.join("first.npy"), &counted(0, 3)).unwrap();
        put(&dataset.join("large.npy"), &chunk).unwrap();
        let check = |path: &Path, whole: &[u8]| {
            let file = File::open(path).unwrap();
            let mut buffer = vec![0; (2 << 20) + 1];
            let len = whole.len();
            for at in [
                0,
                1,
                127,
                128,
                129,
                4095,
                4096,
                1_000_001,
                len - 300_000,
                len - 1,
                len,
                len + 9,
            ] {
                for size in [100_000, 128 << 10, 1 << 20, 2 << 20] {
                    let got = file.read_at(&mut buffer[1..1 + size], at as u64).unwrap();
                    let wanted = &whole[at.min(len)..(at + size).min(len)];
                    assert!(&buffer[1..1 + got] == wanted, "{size} bytes at {at}");
                }
            }
        };
        check(&dataset.join("large.npy"), &chunk);
        let stored = mount.store(dataset.strip_prefix(mount.path("")).unwrap());
        let mut array = fs::read(stored.join("data.npy")).unwrap();
        let shown = fs::read(dataset.join("data.npy")).unwrap();
        assert!(array[128..] == shown[128..]);
        array[..128].copy_from_slice(&shown[..128]);
        check(&dataset.join("data.npy"), &array);
    });
}

#[test]
fn a_chunk_that_is_renamed_keeps_its_rows() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("a.npy"), &counted(0, 3)).unwrap();
    put(&dataset.join("b.npy"), &counted(3, 3)).unwrap();
    fs::rename(dataset.join("a.npy"), dataset.join("z.npy")).unwrap();
    assert_eq!(names(&dataset), ["b.npy", "data.npy", "z.npy"]);
    assert_eq!(fs::read(dataset.join("z.npy")).unwrap(), counted(0, 3));
    // The old name is free, the new one is not.
    put(&dataset.join("a.npy"), &counted(6, 1)).unwrap();
    mount.expect_warning("z.npy: EEXIST");
    assert_eq!(
        errno(put(&dataset.join("z.npy"), &counted(7, 1))),
        Errno::EEXIST
    );
    let mount = mount.remount();
    let dataset = mount.path("run7");
    assert_eq!(names(&dataset), ["a.npy", "b.npy", "data.npy", "z.npy"]);
    assert_eq!(rows_of(&dataset), (0..7).collect::<Vec<_>>());
}

#[test]
fn versions_are_told_apart_by_size_and_never_change() {
    require!(fuse);
    both_modes(|_, dataset| {
        let data = dataset.join("data.npy");
        let mut held = Vec::new();
        for n in 0..50 {
            put(&dataset.join(format!("{n}.npy")), &counted(n * 40, 40)).unwrap();
            held.push(File::open(&data).unwrap());
            if n % 10 == 0 {
                held.push(File::open(&data).unwrap());
            }
        }
        // One file to cp and tar, which compare what they found with what they opened.
        let by_name = fs::metadata(&data).unwrap();
        for file in &held {
            let stat = file.metadata().unwrap();
            assert_eq!((stat.dev(), stat.ino()), (by_name.dev(), by_name.ino()));
            let mut bytes = vec![0; by_name.len() as usize];
            let len = file.read_at(&mut bytes, 0).unwrap();
            assert_eq!(len as u64, stat.len());
            assert_eq!(row_numbers(&bytes[..len]).len() % 40, 0);
            assert_eq!(stat.mode() & 0o222, 0, "read-only");
        }
        let sizes: HashSet<u64> = held.iter().map(|it| it.metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 50);
        let others = [
            dataset.to_owned(),
            dataset.join("0.npy"),
            dataset.join("data[:].npy"),
        ];
        for other in others {
            assert_ne!(fs::metadata(&other).unwrap().ino(), by_name.ino());
        }
    });
}

#[test]
fn chunks_csv_names_every_chunk_with_its_rows() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let header = "name,first_row,rows,committed_at,uid,mtime,crc32c";
    assert_eq!(text(&dataset.join(".npyfs/chunks.csv")).trim(), header);
    let odd = ["plain", "a,b", "say \"hi\"", "ü", "none"];
    for (name, rows) in odd.into_iter().zip([5, 3, 2, 1, 0]) {
        put(&dataset.join(format!("{name}.npy")), &counted(0, rows)).unwrap();
    }
    let check = |dataset: &Path| {
        let csv = text(&dataset.join(".npyfs/chunks.csv"));
        let uid = nix::unistd::geteuid();
        let expected = [
            "plain.npy,0,5,",
            "\"a,b.npy\",5,3,",
            "\"say \"\"hi\"\".npy\",8,2,",
            "ü.npy,10,1,",
            "none.npy,11,0,",
        ];
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some(header));
        for (line, start) in lines.by_ref().zip(expected) {
            assert!(line.starts_with(start), "{line}");
            // What recovery compares: CRC-32C of the rows as they lie in the array.
            let (rest, crc) = line.rsplit_once(',').unwrap();
            assert!(
                u32::from_str_radix(crc, 16).is_ok() && crc.len() == 8,
                "{line}"
            );
            assert!(
                rest.ends_with('Z') && rest.contains(&format!("Z,{uid},")),
                "{line}"
            );
        }
        assert_eq!(lines.next(), None);
        csv
    };
    let csv = check(&dataset);
    let mount = mount.remount();
    assert_eq!(check(&mount.path("run7")), csv);
}

#[test]
fn chunks_csv_of_many_chunks_reads_the_same_in_pieces_of_any_size() {
    require!(fuse);
    let (_mount, dataset) = with_dataset();
    for n in 0..2000 {
        put(&dataset.join(format!("chunk-{n:04}.npy")), &counted(n, 1)).unwrap();
    }
    let path = dataset.join(".npyfs/chunks.csv");
    let whole = text(&path);
    assert_eq!(whole.lines().count(), 2001);
    let mut file = File::open(&path).unwrap();
    let mut pieces = Vec::new();
    let mut piece = vec![0; 777];
    while let n @ 1.. = file.read(&mut piece).unwrap() {
        pieces.extend_from_slice(&piece[..n]);
    }
    assert!(pieces == whole.as_bytes());
    let n = file.read_at(&mut piece, 1000).unwrap();
    assert_eq!(piece[..n], whole.as_bytes()[1000..1000 + n]);
}

#[test]
fn status_json_says_what_there_is() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let status = |dataset: &Path| -> serde_json::Value {
        serde_json::from_str(&text(&dataset.join(".npyfs/status.json"))).unwrap()
    };
    let empty = status(&dataset);
    assert_eq!(empty["dtype"], serde_json::Value::Null);
    assert_eq!(empty["rows"], 0);
    assert_eq!(empty["last_commit"], serde_json::Value::Null);
    put(&dataset.join("1.npy"), &counted(0, 100)).unwrap();
    put(&dataset.join("2.npy"), &counted(100, 11)).unwrap();
    mount.expect_warning("bad.npy: EINVAL");
    put(&dataset.join("bad.npy"), b"nonsense").unwrap_err();
    let mut file = File::create(dataset.join("late.npy")).unwrap();
    file.write_all(&counted(111, 10)[..300]).unwrap();
    let now = status(&dataset);
    assert_eq!(now["dtype"], "<i8");
    assert_eq!(now["row_shape"], serde_json::json!([16]));
    assert_eq!(now["rows"], 111);
    assert_eq!(now["bytes"], 111 * 128);
    assert_eq!(now["chunks"], 2);
    assert_eq!(now["refusals"], 1);
    assert_eq!(now["in_flight"], serde_json::json!(["late.npy"]));
    let refusal = now["last_refusal"].as_str().unwrap();
    assert!(refusal.starts_with("bad.npy refused: "), "{refusal}");
    assert!(now["last_commit"].as_str().unwrap().ends_with('Z'));
    file.write_all(&counted(111, 10)[300..]).unwrap();
    close(file).unwrap();
    let mount = mount.remount();
    let later = status(&mount.path("run7"));
    assert_eq!((&later["rows"], &later["chunks"]), (&121.into(), &3.into()));
}

#[test]
fn a_listing_names_each_of_3000_chunks_once() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let mut expected = vec!["data.npy".to_owned(), "notes.txt".into(), "sub".into()];
    for n in 0..3000 {
        let name = format!("chunk-{n:04}.npy");
        put(&dataset.join(&name), &counted(n, 1)).unwrap();
        expected.push(name);
    }
    fs::write(dataset.join("notes.txt"), "hello").unwrap();
    fs::create_dir(dataset.join("sub")).unwrap();
    expected.sort();
    assert_eq!(names(&dataset), expected);
    let ls = run(Command::new("ls").arg("-l").arg(&dataset)).stdout;
    assert_eq!(
        String::from_utf8(ls).unwrap().lines().count(),
        expected.len() + 1
    );
    // While chunks arrive, none that was there is missed, and none is twice.
    let listing = fs::read_dir(&dataset).unwrap();
    let mut seen = Vec::new();
    for (n, entry) in listing.enumerate() {
        if n % 500 == 0 {
            let name = format!("late-{n}.npy");
            put(&dataset.join(name), &counted(0, 1)).unwrap();
        }
        seen.push(entry.unwrap().file_name().into_string().unwrap());
    }
    seen.retain(|name| !name.starts_with("late-"));
    seen.sort();
    assert_eq!(seen, expected);
    let mount = mount.remount();
    assert!(names(&mount.path("run7")).len() > expected.len());
}

#[test]
fn the_control_directory_is_reachable_and_not_listed() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("c.npy"), &counted(0, 1)).unwrap();
    assert_eq!(names(&dataset), ["c.npy", "data.npy"]);
    assert_eq!(names(&mount.path("")), ["run7"]);
    assert_eq!(
        names(&dataset.join(".npyfs")),
        ["chunks.csv", "log", "rejected", "rescued", "status.json"]
    );
    assert_eq!(names(&mount.path(".npyfs")), ["daemon", "log"]);
    assert_eq!(text(&dataset.join(".npyfs/log")), "");
    assert!(!dataset.join(".npyfs/chunks.log").exists());
    // So a copy of the directory is a copy of the data.
    let copy = mount.scratch("copy");
    run(Command::new("cp").arg("-r").args([&dataset, &copy]));
    assert_eq!(names(&copy), ["c.npy", "data.npy"]);
}

#[test]
fn datasets_nest() {
    require!(fuse);
    let mount = Mount::new();
    let deep = mount.path("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    put(&mount.path("a/x.npy"), &counted(0, 3)).unwrap();
    put(&mount.path("a/b/x.npy"), &npy("<f4", "(2,)", &[0; 8])).unwrap();
    put(&deep.join("x.npy"), &counted(0, 5)).unwrap();
    let check = |mount: &Mount| {
        assert_eq!(names(&mount.path("a")), ["b", "data.npy", "x.npy"]);
        assert_eq!(rows_of(&mount.path("a")).len(), 3);
        let middle = parse(&fs::read(mount.path("a/b/data.npy")).unwrap());
        assert_eq!((middle.descr.as_str(), middle.shape), ("<f4", vec![2]));
        assert_eq!(rows_of(&mount.path("a/b/c")).len(), 5);
    };
    check(&mount);
    check(&mount.remount());
}

#[test]
fn directories_are_made_renamed_and_removed_while_empty() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    mount.expect_warning("ENOTEMPTY");
    put(&dataset.join("c.npy"), &counted(0, 3)).unwrap();
    fs::create_dir(dataset.join("sub")).unwrap();
    put(&dataset.join("sub/c.npy"), &counted(0, 2)).unwrap();
    let held = File::open(dataset.join("data.npy")).unwrap();
    // With everything in it, open files too.
    let mut writing = File::create(dataset.join("w.npy")).unwrap();
    writing.write_all(&counted(3, 2)[..200]).unwrap();
    fs::rename(&dataset, mount.path("run8")).unwrap();
    let dataset = mount.path("run8");
    writing.write_all(&counted(3, 2)[200..]).unwrap();
    close(writing).unwrap();
    assert_eq!(rows_of(&dataset), [0, 1, 2, 3, 4]);
    assert_eq!(rows_of(&dataset.join("sub")), [0, 1]);
    assert_eq!(held.metadata().unwrap().len(), 128 + 3 * 128);
    drop(held);
    assert!(!mount.path("run7").exists());
    fs::rename(dataset.join("sub"), mount.path("up")).unwrap();
    put(&mount.path("up/d.npy"), &counted(2, 1)).unwrap();
    // Not with rows or files in it; without them, yes.
    assert_eq!(errno(fs::remove_dir(&dataset)), Errno::ENOTEMPTY);
    fs::create_dir(mount.path("empty")).unwrap();
    fs::write(mount.path("empty/notes.txt"), "x").unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path("empty"))), Errno::ENOTEMPTY);
    fs::remove_file(mount.path("empty/notes.txt")).unwrap();
    mount.expect_warning("bad.npy: EINVAL");
    put(&mount.path("empty/bad.npy"), b"nonsense").unwrap_err();
    fs::remove_dir(mount.path("empty")).unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path("empty"))), Errno::ENOENT);
    assert_eq!(names(&mount.store("")), ["run8", "up"]);
    // A name that was used before is a new dataset.
    fs::create_dir(mount.path("run7")).unwrap();
    put(&mount.path("run7/c.npy"), &npy("<f4", "(1,)", &[0; 4])).unwrap();
    let mount = mount.remount();
    assert_eq!(rows_of(&mount.path("run8")).len(), 5);
    assert_eq!(rows_of(&mount.path("up")).len(), 3);
}

#[test]
fn ordinary_files_behave_as_everywhere() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    for directory in [dataset.clone(), mount.path("")] {
        let path = directory.join("notes.txt");
        fs::write(&path, "one\n").unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"two\n").unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        other.write_all(b"three\n").unwrap();
        file.write_all(b"four\n").unwrap();
        assert_eq!(text(&path), "one\ntwo\nthree\nfour\n");
        file.set_len(4).unwrap();
        assert_eq!(text(&path), "one\n");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        file.write_all_at(b"ONE", 0).unwrap();
        file.write_all_at(b"far", 10_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_003);
        // Renamed, also over another and into another directory.
        fs::write(directory.join("old.txt"), "old").unwrap();
        fs::rename(&path, directory.join("old.txt")).unwrap();
        assert_eq!(fs::read(directory.join("old.txt")).unwrap().len(), 10_003);
        fs::create_dir(directory.join("d")).unwrap();
        fs::rename(directory.join("old.txt"), directory.join("d/new.txt")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_003);
        // Unlinked while it is open.
        fs::remove_file(directory.join("d/new.txt")).unwrap();
        file.write_all_at(b"still", 0).unwrap();
        let mut back = [0; 5];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"still");
        assert_eq!(file.metadata().unwrap().len(), 10_003);
        drop(file);
        fs::remove_dir(directory.join("d")).unwrap();
        let exclusive = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(directory.join("x"));
        drop(exclusive.unwrap());
        let again = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(directory.join("x"));
        assert_eq!(errno(again), Errno::EEXIST);
        fs::remove_file(directory.join("x")).unwrap();
    }
    fs::write(dataset.join("kept.txt"), "kept").unwrap();
    fs::set_permissions(dataset.join("kept.txt"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(text(&mount.store("run7/kept.txt")), "kept");
    let mount = mount.remount();
    assert_eq!(text(&mount.path("run7/kept.txt")), "kept");
    let mode = fs::metadata(mount.store("run7/kept.txt")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_ordinary_file_can_be_mapped_for_writing_and_then_committed() {
    require!(fuse, python);
    let (_mount, dataset) = with_dataset();
    let script = r#"
import os, sys, numpy as np
part, chunk = sys.argv[1:]
array = np.lib.format.open_memmap(part, 'w+', '<i8', (3000, 16))
array[:] = np.arange(3000)[:, None]
array.flush()
del array
os.rename(part, chunk)
"#;
    python(script, &[&dataset.join("x.part"), &dataset.join("x.npy")]);
    assert_eq!(rows_of(&dataset), (0..3000).collect::<Vec<_>>());
    assert_eq!(names(&dataset), ["data.npy", "x.npy"]);
}

#[test]
fn a_chunk_cannot_be_mapped_for_writing() {
    require!(fuse, python);
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    let script = r#"
import errno, sys, numpy as np
try:
    np.lib.format.open_memmap(sys.argv[1], 'w+', '<i8', (30, 16))
except OSError as error:
    print(errno.errorcode[error.errno])
"#;
    // Its first close has a header and no rows, and is refused.
    assert_eq!(python(script, &[&dataset.join("x.npy")]), "EINVAL\n");
    assert_eq!(names(&dataset), [""; 0]);
}

/// The exit code of a shell command that an ordinary user runs, with `$1` the path.
fn as_user(script: &str, path: &Path) -> bool {
    let mut sh = User::ordinary().command("sh");
    let output = output_of(sh.args(["-c", script, "sh"]).arg(path)).unwrap();
    output.status.success()
}

#[test]
fn permissions_are_checked_as_everywhere() {
    require!(fuse, root);
    let mount = Mount::builder().words("allow_other").start();
    let user = User::ordinary();
    let theirs = mount.path("theirs");
    let ours = mount.path("ours");
    fs::create_dir(&ours).unwrap();
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(user.uid), Some(user.gid)).unwrap();
    put(&ours.join("c.npy"), &counted(0, 3)).unwrap();
    let source = mount.scratch("source.npy");
    fs::write(&source, counted(3, 2)).unwrap();
    fs::set_permissions(&source, PermissionsExt::from_mode(0o644)).unwrap();
    let copy = format!(r#"cp {} "$1/x.npy""#, source.display());
    // In another's directory: reading only.
    assert!(as_user(
        r#"cat "$1/data.npy" "$1/c.npy" "$1/data[0:1].npy" > /dev/null"#,
        &ours
    ));
    assert!(as_user(r#"cat "$1/.npyfs/status.json" > /dev/null"#, &ours));
    assert!(!as_user(&copy, &ours));
    assert!(!as_user(r#"echo > "$1/notes.txt""#, &ours));
    assert!(!as_user(r#"mkdir "$1/d""#, &ours));
    assert!(!as_user(r#"chmod 777 "$1/c.npy""#, &ours));
    assert!(!as_user(
        r#"rm -f "$1/c.npy" || mv "$1/c.npy" "$1/d.npy""#,
        &ours
    ));
    assert_eq!(rows_of(&ours).len(), 3);
    // In their own: everything, and it is theirs.
    assert!(as_user(&copy, &theirs));
    assert!(as_user(
        r#"echo > "$1/notes.txt" && mkdir "$1/d" && chmod 600 "$1/x.npy""#,
        &theirs
    ));
    for name in ["x.npy", "notes.txt", "d", "data.npy"] {
        let stat = fs::metadata(theirs.join(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (user.uid, user.gid), "{name}");
    }
    assert_eq!(rows_of(&theirs), [3, 4]);
    // A dataset that only its owner may read is that in all its files.
    fs::set_permissions(&ours, PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["data.npy", "c.npy", ".npyfs/log"] {
        assert!(!as_user(r#"cat "$1""#, &ours.join(name)), "{name}");
    }
    fs::set_permissions(&ours, PermissionsExt::from_mode(0o711)).unwrap();
    assert!(!as_user(r#"cat "$1""#, &ours.join("data.npy")));
    // A chunk has the mode that it was given.
    fs::set_permissions(&ours, PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(ours.join("c.npy"), PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!as_user(r#"cat "$1""#, &ours.join("c.npy")));
    assert!(as_user(r#"cat "$1" > /dev/null"#, &ours.join("data.npy")));
}

#[test]
fn an_ordinary_user_mounts_and_reads_cached() {
    require!(fuse, root, fusermount3, python);
    let user = User::ordinary();
    let mount = Mount::builder().user(user).start();
    let source = mount.scratch("source.npy");
    fs::write(&source, counted(0, 3000)).unwrap();
    fs::set_permissions(&source, PermissionsExt::from_mode(0o644)).unwrap();
    let script = format!(
        r#"set -e; mkdir "$1/d"; cp {0} "$1/d/a.npy"; cat "$1/d/data.npy" | cmp -s -i 128 - {0}"#,
        source.display()
    );
    assert!(as_user(&script, &mount.path("")));
    let stored = fs::read(mount.store("d/data.npy")).unwrap();
    assert_eq!(row_numbers(&stored).len(), 3000);
}
