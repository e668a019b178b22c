//! Writes that the kernel does only in part, at every step, and then no more: nothing is half
//! appended, and work goes on when they are done again.
//!
//! The limit of a file's size (`ulimit -f`), set in the running daemon, cuts a write off at a byte.

use crate::common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Chunk, Mount, Style, chunks_in, csv_names, npyfs, put_bytes, put_chunk, run};

/// No file of the daemon may grow beyond this from now on.
fn limit(mount: &Mount, bytes: Option<u64>) {
    let bytes = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    run(Command::new("prlimit")
        .args(["--pid", &mount.pid().to_string()])
        .arg(format!("--fsize={bytes}:unlimited")));
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn of_style(style: Style, n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(0, number));
    all.filter(|it| it.style() == style).take(n).collect()
}

#[track_caller]
fn shows(dataset: &Path, chunks: &[Chunk]) {
    assert_eq!(chunks_in(&dataset.join("data.npy")), chunks);
    let names: Vec<String> = chunks.iter().map(|it| it.name()).collect();
    assert_eq!(csv_names(dataset), names);
}

#[test]
fn rows_written_in_part_are_not_appended() {
    require!(fuse, prlimit);
    for style in [Style::Small, Style::Streamed, Style::Staged] {
        let store = tempfile::tempdir().unwrap();
        let mut mount = Mount::builder().store(store.path()).start();
        mount.tolerate_warnings();
        let dataset = mount.path("run");
        fs::create_dir(&dataset).unwrap();
        // Larger than all other files, which are not to meet the limit.
        let first = Chunk::new(1, 0);
        let mut there: Vec<Chunk> = of_style(Style::Streamed, 3)[1..2].to_vec();
        put_chunk(&dataset, there[0]).unwrap();
        put_chunk(&dataset, first).unwrap();
        there.push(first);
        let chunk = of_style(style, 1)[0];
        let body = chunk.rows() * 32;
        let parts = [1, 31, 32, body / 3, body / 2, body - 1];
        for (n, part) in (0..).zip(parts) {
            // What a refused chunk has left behind the rows is cut off later.
            let end = 128 + there.iter().map(|it| it.rows() * 32).sum::<u64>();
            limit(&mount, Some(end + part));
            let error = put_chunk(&dataset, chunk).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{part} of {body}");
            shows(&dataset, &there);
            limit(&mount, None);
            let next = Chunk::new(2, n);
            put_chunk(&dataset, next).unwrap();
            there.push(next);
            shows(&dataset, &there);
        }
        put_chunk(&dataset, chunk).unwrap();
        there.push(chunk);
        mount.crash();
        let mount = Mount::builder().store(store.path()).start();
        shows(&mount.path("run"), &there);
        mount.finish();
        run(Command::new(npyfs()).arg("check").arg(store.path()));
    }
}

/// Rows of one byte: the journal is larger than the array.
#[test]
fn a_record_written_in_part_is_taken_back() {
    require!(fuse, prlimit);
    let chunk = |n: u64| {
        let mut bytes = npyfs::npy::Header::encode(&"|u1".parse().unwrap(), &[1]).unwrap();
        bytes.push(n as u8);
        bytes
    };
    let store = tempfile::tempdir().unwrap();
    let mut mount = Mount::builder().store(store.path()).start();
    mount.tolerate_warnings();
    fs::create_dir(mount.path("run")).unwrap();
    let put = |mount: &Mount, n: u64| put_bytes(&mount.path(format!("run/{n}.npy")), &chunk(n));
    let mut expected = Vec::new();
    for n in 0..20 {
        put(&mount, n).unwrap();
        expected.push(n as u8);
    }
    let rows = |mount: &Mount| common::array_of(&mount.path("run/data.npy")).1;
    let journal = mount.store("run/.npyfs/chunks.log");
    let before = len(&journal);
    put(&mount, 20).unwrap();
    expected.push(20);
    let record = len(&journal) - before;
    for (part, n) in (0..record).zip(21..) {
        // The log of refusals may not be larger than it.
        fs::write(mount.store("run/.npyfs/log"), "").unwrap();
        limit(&mount, Some(len(&journal) + part));
        let error = put(&mount, n).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EFBIG),
            "{part} of {record}"
        );
        assert_eq!(rows(&mount), expected);
        limit(&mount, None);
        put(&mount, n).unwrap();
        expected.push(n as u8);
        assert_eq!(rows(&mount), expected);
    }
    mount.crash();
    let mount = Mount::builder().store(store.path()).start();
    assert_eq!(rows(&mount), expected);
    mount.finish();
    run(Command::new(npyfs()).arg("check").arg(store.path()));
}
