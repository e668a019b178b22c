//! A committed name that is cut to nothing and written again, as Samba, rsync and Windows programs write
//! what is there already.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;

use crate::common::{Mount, close, counted, errno, put, rows_of, run, with_dict};

fn with_chunk(mount: Mount) -> (Mount, PathBuf) {
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("latest.npy"), &counted(0, 10)).unwrap();
    (mount, dataset)
}

/// Opens what is there, cuts it to nothing, and writes in pieces.
fn put_again(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.set_len(0)?;
    let mut pieces = bytes.chunks(100);
    let written = pieces.try_for_each(|piece| file.write_all(piece));
    written.and(close(file))
}

#[test]
fn the_same_bytes_after_ftruncate_are_the_same_chunk() {
    require!(fuse);
    let (mount, dataset) = with_chunk(Mount::new());
    let path = dataset.join("latest.npy");
    for _ in 0..2 {
        put_again(&path, &counted(0, 10)).unwrap();
        assert!(fs::read(&path).unwrap() == counted(0, 10));
    }
    // Cut to nothing and no more, by a handle, by name, and by the open.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    close(file).unwrap();
    nix::unistd::truncate(&path, 0).unwrap();
    close(File::create(&path).unwrap()).unwrap();
    assert!(fs::read(&path).unwrap() == counted(0, 10));
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
    // The length that is to come may be set before.
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    file.set_len(counted(0, 10).len() as u64).unwrap();
    file.write_all(&counted(0, 10)).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
    mount.expect_warning("latest.npy: EEXIST");
    let other = put_again(&path, &counted(7, 10));
    assert_eq!(errno(other), Errno::EEXIST);
    assert!(fs::read(&path).unwrap() == counted(0, 10));
    mount.expect_warning("latest.npy: EPERM");
    let cut = nix::unistd::truncate(&path, 5);
    assert_eq!(cut, Err(Errno::EPERM));
    assert_eq!(rows_of(&dataset), (0..10).collect::<Vec<_>>());
}

#[test]
fn where_names_are_reused_ftruncate_begins_a_new_chunk() {
    require!(fuse);
    let (_mount, dataset) = with_chunk(Mount::builder().words("names=reuse").start());
    let path = dataset.join("latest.npy");
    for n in 1..4 {
        put_again(&path, &counted(n * 10, 10)).unwrap();
        assert!(fs::read(&path).unwrap() == counted(n * 10, 10));
    }
    nix::unistd::truncate(&path, 0).unwrap();
    assert!(fs::read(&path).unwrap() == counted(30, 10));
    assert_eq!(rows_of(&dataset), (0..40).collect::<Vec<_>>());
}

#[test]
fn rsync_in_place_sends_a_chunk_twice() {
    require!(fuse, rsync);
    let (mount, dataset) = with_chunk(Mount::new());
    fs::create_dir(mount.scratch("in")).unwrap();
    for (name, rows) in [("latest.npy", 10), ("big.npy", 10_000)] {
        fs::write(mount.scratch("in").join(name), counted(0, rows)).unwrap();
    }
    // What it cannot punch holes into it writes as zeros.
    mount.expect_warning("EOPNOTSUPP: only plain reservation");
    for options in [
        "-aSI --inplace",
        "-aI --inplace",
        "-aI",
        "-aI --append-verify",
        "-aSI --inplace",
    ] {
        let script = format!("rsync {options} in/ $D/; cmp in/big.npy $D/big.npy");
        run(Command::new("bash")
            .args(["-euc", &script])
            .current_dir(mount.scratch(""))
            .env("D", &dataset));
    }
    assert_eq!(rows_of(&dataset).len(), 10_010);
}

/// The view of a chunk that was converted has other bytes than it came with: both are the same chunk.
#[test]
fn a_converted_chunk_is_written_again_in_place_as_it_came_and_as_it_is_shown() {
    require!(fuse);
    let (mount, dataset) = with_chunk(Mount::new());
    mount.expect_warning("EEXIST");
    let native = counted(10, 300);
    let mut came = with_dict("{'descr': '>i8', 'fortran_order': False, 'shape': (300, 16), }");
    for value in native[128..].chunks(8) {
        came.extend(value.iter().rev());
    }
    let path = dataset.join("swapped.npy");
    put(&path, &came).unwrap();
    let again = |bytes: &[u8], piece: usize| -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&path)?;
        let mut pieces = bytes.chunks(piece);
        let written = pieces.try_for_each(|piece| file.write_all(piece));
        written.and(close(file))
    };
    for piece in [128, 1000, 1 << 20] {
        again(&came, piece).unwrap();
        again(&native, piece).unwrap();
        let mut other = came.clone();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(errno(again(&other, piece)), Errno::EEXIST);
        assert_eq!(errno(again(&came[..came.len() - 1], piece)), Errno::EEXIST);
    }
    assert!(fs::read(&path).unwrap() == native);
    assert_eq!(rows_of(&dataset).len(), 310);
}
