//! What was accepted and then refused is kept, the newest of it, up to a limit.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Mount, counted, errno, npy, put};
use nix::errno::Errno;

fn dataset(mount: &Mount) -> PathBuf {
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("0.npy"), &counted(0, 10)).unwrap();
    dataset
}

/// Names, newest first, less the time in front.
fn kept(dataset: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dataset.join(".npyfs/rejected"))
        .map(|entries| {
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names.reverse();
    let name = |name: String| name.splitn(3, '-').nth(2).unwrap().to_owned();
    names.into_iter().map(name).collect()
}

#[track_caller]
fn refuse(mount: &Mount, name: &str, bytes: &[u8]) {
    mount.expect_warning(&format!("ds/{name}: EINVAL"));
    let done = put(&mount.path("ds").join(name), bytes);
    assert_eq!(errno(done), Errno::EINVAL, "{name}");
}

#[test]
fn the_bytes_of_a_truncated_chunk_are_kept() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = dataset(&mount);
    // From memory, from the tail, and from a staged file.
    let small = counted(0, 50);
    refuse(&mount, "small.npy", &small[..3000]);
    let big = counted(0, 20_000);
    refuse(&mount, "big.npy", &big[..2_000_000]);
    let staged = [&[0; 128], &small[128..]].concat();
    refuse(&mount, "staged.npy", &staged);
    // A header alone, and one that does not fit, are not worth keeping.
    refuse(&mount, "header.npy", &small[..128]);
    refuse(&mount, "other.npy", &npy("<f4", "(4, 16)", &[0; 256]));
    assert_eq!(kept(&dataset), ["staged.npy", "big.npy", "small.npy"]);
    let find = |name: &str| {
        let entries = fs::read_dir(dataset.join(".npyfs/rejected")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let path = paths.find(|path| path.to_str().unwrap().ends_with(name));
        fs::read(path.unwrap()).unwrap()
    };
    // Under headers of the rows that came.
    assert!(find("-small.npy")[128..] == small[128..3000]);
    assert!(find("-big.npy")[128..] == big[128..2_000_000]);
    assert_eq!(&find("-small.npy")[..128], &counted(0, 22)[..128]);
    assert!(find("-staged.npy") == staged);
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    for said in [
        "small.npy refused: ends after 22 of 50 rows: 3528 of 6528 bytes are missing, 28 rows (what was received is kept as .npyfs/rejected/",
        "big.npy refused: ends after 15624 of 20000 rows: 560128 of 2560128 bytes are missing, 4376 rows (what was received is kept as ",
        "header.npy refused: ends after 0 of 50 rows: 6400 of 6528 bytes are missing, 50 rows; a file that is to be mapped (open_memmap) is made as NAME.npy.part",
        "other.npy refused: dtype '<f4', this dataset holds '<i8'\n",
    ] {
        assert!(log.contains(said), "no '{said}' in\n{log}");
    }
    // They can be taken from there, and removed.
    let path = fs::read_dir(dataset.join(".npyfs/rejected")).unwrap();
    for entry in path.collect::<Vec<_>>() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(kept(&dataset).is_empty());
}

#[test]
fn the_newest_are_kept_up_to_the_limit() {
    require!(fuse);
    let mount = Mount::builder().words("rejected_limit=10K").start();
    let dataset = dataset(&mount);
    let chunk = counted(0, 50);
    for n in 0..5 {
        refuse(&mount, &format!("{n}.npy.npy"), &chunk[..3000 + n]);
    }
    assert_eq!(kept(&dataset), ["4.npy.npy", "3.npy.npy", "2.npy.npy"]);
    // More than the limit: not kept at all, and nothing else is thrown away for it.
    refuse(&mount, "large.npy", &counted(0, 200)[..20_000]);
    refuse(&mount, "larger.npy", &counted(0, 20_000)[..2_000_000]);
    assert_eq!(kept(&dataset).len(), 3);
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("large.npy refused"))
        .unwrap();
    assert!(line.ends_with("rows"), "{line}");
    refuse(&mount, "whole.npy", &counted(0, 80)[..10_000]);
    assert_eq!(kept(&dataset), ["whole.npy"]);
}

#[test]
fn a_limit_of_nothing_keeps_nothing() {
    require!(fuse);
    let mount = Mount::builder().arg("--rejected-limit=0").start();
    let dataset = dataset(&mount);
    refuse(&mount, "a.npy", &counted(0, 50)[..3000]);
    assert!(kept(&dataset).is_empty());
    assert!(!mount.store("ds/.npyfs/rejected").exists());
}
