//! A producer that writes one name again and again: refused by default, appended with
//! `names=reuse`.

use crate::common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use common::{Mount, close, counted, errno, npy, put, python, row_numbers, rows_of, run};
use nix::errno::Errno;

fn reusing() -> (Mount, PathBuf) {
    let mount = Mount::builder().words("names=reuse").start();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

fn names(dataset: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dataset).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn by_default_a_name_is_appended_once() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("latest.npy"), &counted(0, 10)).unwrap();
    put(&dataset.join("latest.npy"), &counted(0, 10)).unwrap();
    mount.expect_warning("latest.npy: EEXIST");
    let again = put(&dataset.join("latest.npy"), &counted(10, 10));
    assert_eq!(errno(again), Errno::EEXIST);
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
}

#[test]
fn each_close_appends_and_the_name_shows_the_newest() {
    require!(fuse);
    let (mount, dataset) = reusing();
    let path = dataset.join("latest.npy");
    let mut first = None;
    for n in 0..50 {
        let chunk = counted(n * 10, 10);
        put(&path, &chunk).unwrap();
        assert!(fs::read(&path).unwrap() == chunk, "{n}");
        assert_eq!(fs::metadata(&path).unwrap().len(), chunk.len() as u64);
        first.get_or_insert_with(|| File::open(&path).unwrap());
    }
    // Whoever has it open keeps what was there.
    let mut bytes = Vec::new();
    first.unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == counted(0, 10));
    assert_eq!(rows_of(&dataset), (0..500).collect::<Vec<_>>());
    assert_eq!(names(&dataset), ["latest.npy", "data.npy"]);
    // The same bytes too, larger ones and smaller ones.
    put(&path, &counted(490, 10)).unwrap();
    put(&path, &counted(500, 20_000)).unwrap();
    assert!(fs::read(&path).unwrap() == counted(500, 20_000));
    put(&path, &counted(20_500, 3)).unwrap();
    assert!(fs::read(&path).unwrap() == counted(20_500, 3));
    let csv = fs::read_to_string(dataset.join(".npyfs/chunks.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains("\nlatest.npy,20510,3,"), "{csv}");
    let wanted: Vec<u64> = (0..500).chain(490..20_503).collect();
    assert!(rows_of(&dataset) == wanted);
    let mount = mount.remount();
    let dataset = mount.path("ds");
    assert!(rows_of(&dataset) == wanted);
    assert!(fs::read(dataset.join("latest.npy")).unwrap() == counted(20_503 - 3, 3));
    assert_eq!(names(&dataset), ["latest.npy", "data.npy"]);
    let mount = mount.crash_and_remount();
    put(&mount.path("ds/latest.npy"), &counted(7, 2)).unwrap();
    let mount = mount.crash_and_remount();
    assert!(fs::read(mount.path("ds/latest.npy")).unwrap() == counted(7, 2));
    assert_eq!(rows_of(&mount.path("ds")).len(), wanted.len() + 2);
    run(Command::new(common::npyfs())
        .arg("check")
        .arg(mount.store("ds")));
}

/// The handle that has written first has the chunk that both began with.
#[test]
fn two_handles_of_an_empty_name_append_one_after_the_other() {
    require!(fuse);
    let (_mount, dataset) = reusing();
    let path = dataset.join("latest.npy");
    let (mut first, mut second) = (File::create(&path).unwrap(), File::create(&path).unwrap());
    for (n, file) in [&mut second, &mut first].into_iter().enumerate() {
        file.write_all(&counted(n as u64 * 4, 4)).unwrap();
        close(file.try_clone().unwrap()).unwrap();
    }
    drop((first, second));
    assert_eq!(rows_of(&dataset), (0..8).collect::<Vec<_>>());
    assert!(fs::read(&path).unwrap() == counted(4, 4));
}

#[test]
fn every_tool_may_overwrite() {
    require!(fuse, python, rsync);
    let (mount, dataset) = reusing();
    for n in 0..6 {
        fs::write(mount.scratch(format!("{n}.npy")), counted(n * 10, 10)).unwrap();
    }
    let script = r#"set -e
cp 0.npy $DS/x.npy; cp 1.npy $DS/x.npy; cat 2.npy > $DS/x.npy; dd if=3.npy of=$DS/x.npy
rsync -I 4.npy $DS/x.npy; cp 5.npy $DS/x.tmp; mv $DS/x.tmp $DS/x.npy; cmp 5.npy $DS/x.npy"#;
    run(Command::new("bash")
        .args(["-c", script])
        .current_dir(mount.scratch(""))
        .env("DS", &dataset));
    python(
        "import sys, os, numpy as np
for n in range(6, 10):
    np.save(sys.argv[1] + '/x.npy', np.arange(n * 10, n * 10 + 10)[:, None].repeat(16, 1))
    assert np.load(sys.argv[1] + '/x.npy')[0, 0] == n * 10",
        &[&dataset],
    );
    assert_eq!(rows_of(&dataset), (0..100).collect::<Vec<_>>());
}

#[test]
fn until_the_new_chunk_is_whole_the_name_shows_the_old_one() {
    require!(fuse);
    let (mount, dataset) = reusing();
    let path = dataset.join("latest.npy");
    put(&path, &counted(0, 10)).unwrap();
    let next = counted(10, 10);
    let mut file = File::create(&path).unwrap();
    file.write_all(&next[..700]).unwrap();
    assert_eq!(row_numbers(&read_all(&path)), (0..10).collect::<Vec<_>>());
    mount.expect_warning("latest.npy: EINVAL");
    assert_eq!(errno(close(file)), Errno::EINVAL);
    assert_eq!(row_numbers(&read_all(&path)), (0..10).collect::<Vec<_>>());
    mount.expect_warning("write ds/latest.npy: EINVAL: dtype");
    let other = put(&path, &npy("<f4", "(2, 16)", &[0; 128]));
    assert_eq!(errno(other), Errno::EINVAL);
    assert_eq!(row_numbers(&read_all(&path)), (0..10).collect::<Vec<_>>());
    // Removed while it is written: that is the new one's end only.
    let mut file = File::create(&path).unwrap();
    file.write_all(&next[..700]).unwrap();
    fs::remove_file(&path).unwrap();
    mount.expect_warning("latest.npy: ECANCELED");
    assert_eq!(errno(close(file)), Errno::ECANCELED);
    assert_eq!(row_numbers(&read_all(&path)), (0..10).collect::<Vec<_>>());
    put(&path, &next).unwrap();
    assert_eq!(rows_of(&dataset), (0..20).collect::<Vec<_>>());
}

fn read_all(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn without_an_empty_file_to_begin_with_the_bytes_are_compared() {
    require!(fuse);
    let (mount, dataset) = reusing();
    let path = dataset.join("latest.npy");
    put(&path, &counted(0, 10)).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    mount.expect_warning("latest.npy: EEXIST");
    assert_eq!(errno(file.write_all(b"more")), Errno::EEXIST);
    drop(file);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(&counted(0, 10)).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_reused_name_that_is_opened_empty_and_closed_stays_the_last_chunk() {
    require!(fuse);
    let (mount, dataset) = reusing();
    let path = dataset.join("latest.npy");
    put(&path, &counted(0, 10)).unwrap();
    for _ in 0..20 {
        close(File::create(&path).unwrap()).unwrap();
    }
    let mount = mount.remount();
    let dataset = mount.path("ds");
    assert_eq!(names(&dataset), ["latest.npy", "data.npy"]);
    assert!(fs::read(dataset.join("latest.npy")).unwrap() == counted(0, 10));
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
}
