//! A chunk may be written in any order: what counts is what is there at its close.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Mount, ROW, close, counted, errno, eventually, output_of, python, python_command, rows_of, run,
    with_dict,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};

/// Bodies below and above the 1 MiB that may collect in memory.
const SIZES: [u64; 2] = [50, 20_000];

/// Runs `write` for a small and for a large chunk, as the first of a dataset and as a later one,
/// with an open file of its own, and closes that.
fn in_every_size(write: impl Fn(&File, &[u8])) {
    let mount = Mount::new();
    for rows in SIZES {
        let dataset = mount.path(format!("of{rows}"));
        fs::create_dir(&dataset).unwrap();
        for (n, name) in ["first.npy", "second.npy"].into_iter().enumerate() {
            let path = dataset.join(name);
            let bytes = counted(n as u64 * rows, rows);
            let file = create(&path);
            write(&file, &bytes);
            close(file).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{name} of {rows}");
        }
        let wanted: Vec<u64> = (0..2 * rows).collect();
        assert!(rows_of(&dataset) == wanted, "{rows}");
        nothing_in_flight(&mount, &format!("of{rows}"));
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap()
}

#[track_caller]
fn nothing_in_flight(mount: &Mount, dataset: &str) {
    let incoming = mount.store(dataset).join(".npyfs/incoming");
    assert!(eventually(std::time::Duration::from_secs(5), || {
        fs::read_dir(&incoming).map_or(true, |mut files| files.next().is_none())
    }));
}

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

#[test]
fn the_body_first_and_the_header_last() {
    require!(fuse);
    in_every_size(|file, bytes| {
        file.write_all_at(&bytes[128..], 128).unwrap();
        file.write_all_at(&bytes[..128], 0).unwrap();
    });
}

#[test]
fn a_blank_header_filled_in_at_the_end() {
    require!(fuse);
    for blank in [0, b' ', b'\n'] {
        in_every_size(|file, bytes| {
            file.write_all_at(&[blank; 128], 0).unwrap();
            for (n, piece) in bytes[128..].chunks(300_000).enumerate() {
                let at = 128 + n as u64 * 300_000;
                file.write_all_at(piece, at).unwrap();
            }
            file.write_all_at(&bytes[..128], 0).unwrap();
        });
    }
}

#[test]
fn a_provisional_shape_patched_at_the_end() {
    require!(fuse);
    // Writers that do not know the row count put 0, or what they expect.
    for provisional in ["0", "10", "1000000"] {
        in_every_size(|mut file, bytes| {
            let dict = format!(
                "{{'descr': '<i8', 'fortran_order': False, 'shape': ({provisional}, 16), }}"
            );
            let header = with_dict(&dict);
            assert_eq!(header.len(), 128);
            let rows = (bytes.len() - 128) / ROW;
            if provisional == "10" && rows > 10 {
                // More rows than the header counts are refused as they come: this writer has to
                // patch its header before it goes on. Any close before that would commit what is there,
                // also that of a process which another test starts.
                let _alone = common::no_new_process();
                file.write_all(&header).unwrap();
                file.write_all(&bytes[128..128 + 10 * ROW]).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&bytes[..128]).unwrap();
                file.seek(SeekFrom::End(0)).unwrap();
                file.write_all(&bytes[128 + 10 * ROW..]).unwrap();
                return;
            }
            file.write_all(&header).unwrap();
            for piece in bytes[128..].chunks(100_000) {
                file.write_all(piece).unwrap();
            }
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&bytes[..128]).unwrap();
        });
    }
}

#[test]
fn only_the_digits_of_the_shape_are_patched() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        let text = String::from_utf8(bytes[10..128].to_vec()).unwrap();
        let at = 10 + text.find('(').unwrap() + 1;
        let digits = text[at - 10..].find(',').unwrap();
        let mut provisional = bytes[..128].to_vec();
        provisional[at..at + digits].copy_from_slice(&b"00000"[..digits]);
        // A Python literal has no leading zeros: it is a header when it is patched.
        provisional[at..at + digits - 1].fill(b' ');
        file.write_all(&provisional).unwrap();
        file.write_all(&bytes[128..]).unwrap();
        file.write_all_at(&bytes[at..at + digits], at as u64)
            .unwrap();
    });
}

#[test]
fn backwards() {
    require!(fuse);
    in_every_size(|file, bytes| {
        let piece = (bytes.len() / 37).max(1);
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        for (n, data) in pieces.iter().enumerate().rev() {
            file.write_all_at(data, (n * piece) as u64).unwrap();
        }
    });
}

#[test]
fn the_header_and_then_the_rows_backwards() {
    require!(fuse);
    in_every_size(|file, bytes| {
        file.write_all_at(&bytes[..128], 0).unwrap();
        for row in (0..(bytes.len() - 128) / ROW).rev() {
            let at = 128 + row * ROW;
            file.write_all_at(&bytes[at..at + ROW], at as u64).unwrap();
        }
    });
}

#[test]
fn one_byte_at_a_time() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let bytes = counted(0, 50);
    let mut file = create(&dataset.join("0.npy"));
    for byte in &bytes {
        file.write_all(std::slice::from_ref(byte)).unwrap();
    }
    close(file).unwrap();
    let bytes = counted(50, 50);
    let file = create(&dataset.join("1.npy"));
    for (at, byte) in bytes.iter().enumerate().rev() {
        file.write_all_at(std::slice::from_ref(byte), at as u64)
            .unwrap();
    }
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..100).collect::<Vec<_>>());
    drop(mount);
}

#[test]
fn every_byte_is_written_twice() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        let mut wrong = bytes[..bytes.len() - 1].to_vec();
        wrong[128..].fill(0xff);
        file.write_all(&wrong).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(bytes).unwrap();
    });
}

#[test]
fn read_back_through_the_same_handle() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        let half = bytes.len() / 2;
        file.write_all(&bytes[..60]).unwrap();
        assert_eq!(read(file, 0, 100), &bytes[..60]);
        file.write_all(&bytes[60..half]).unwrap();
        for (at, len) in [(0, 10), (100, 200), (half - 50, 500), (half, 10)] {
            let end = (at + len).min(half);
            assert_eq!(read(file, at, len), &bytes[at..end], "{at}");
        }
        assert_eq!(file.metadata().unwrap().len(), half as u64);
        // The same bytes once more: not in sequence, so a file from now on.
        file.write_all_at(&bytes[200..300], 200).unwrap();
        assert!(read(file, 0, half) == bytes[..half]);
        file.write_all(&bytes[half..]).unwrap();
        assert!(read(file, 0, bytes.len() + 1) == bytes);
    });
}

fn read(file: &File, at: usize, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let mut done = 0;
    while done < len {
        match file
            .read_at(&mut buffer[done..], (at + done) as u64)
            .unwrap()
        {
            0 => break,
            n => done += n,
        }
    }
    buffer.truncate(done);
    buffer
}

#[test]
fn ftruncate_first() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all(bytes).unwrap();
    });
}

#[test]
fn ftruncate_to_more_and_cut_at_the_end() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        file.set_len(2 * bytes.len() as u64).unwrap();
        file.write_all(bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    });
}

#[test]
fn ftruncate_to_nothing_and_again() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        file.write_all(&bytes[..bytes.len() / 2]).unwrap();
        file.set_len(0).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(bytes).unwrap();
    });
}

#[test]
fn space_is_reserved_first() {
    require!(fuse);
    in_every_size(|mut file, bytes| {
        fallocate(file, FallocateFlags::empty(), 0, bytes.len() as i64).unwrap();
        file.write_all(bytes).unwrap();
    });
    in_every_size(|mut file, bytes| {
        posix_fallocate(file, 0, bytes.len() as i64).unwrap();
        file.write_all(bytes).unwrap();
    });
    in_every_size(|mut file, bytes| {
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, keep, 0, 2 * bytes.len() as i64).unwrap();
        file.write_all(bytes).unwrap();
    });
    in_every_size(|mut file, bytes| {
        file.write_all(&bytes[..128]).unwrap();
        fallocate(file, FallocateFlags::empty(), 0, bytes.len() as i64).unwrap();
        file.write_all(&bytes[128..]).unwrap();
    });
}

#[test]
fn a_reservation_is_not_data() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let bytes = counted(0, 50);
    let mut file = create(&dataset.join("0.npy"));
    posix_fallocate(&file, 0, bytes.len() as i64 + 1).unwrap();
    file.write_all(&bytes).unwrap();
    mount.expect_warning("0.npy: EINVAL");
    assert_eq!(errno(close(file)), Errno::EINVAL);
    let file = create(&dataset.join("1.npy"));
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    mount.expect_warning("1.npy: EOPNOTSUPP");
    assert_eq!(fallocate(&file, punch, 0, 100), Err(Errno::EOPNOTSUPP));
    (&file).write_all(&bytes).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..50).collect::<Vec<_>>());
}

#[test]
fn holes_are_zeros() {
    require!(fuse);
    let mount = Mount::new();
    for rows in SIZES {
        let dataset = mount.path(format!("of{rows}"));
        fs::create_dir(&dataset).unwrap();
        let bytes = counted(0, rows);
        for name in ["0.npy", "1.npy"] {
            let file = create(&dataset.join(name));
            file.write_all_at(&bytes[..128], 0).unwrap();
            // Row 0 is zeros anyhow; the last is a hole too, made by the length alone.
            let last = bytes.len() - ROW;
            file.write_all_at(&bytes[128 + 2 * ROW..last], 128 + 2 * ROW as u64)
                .unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            close(file).unwrap();
        }
        let mut once: Vec<u64> = (0..rows).collect();
        once[1] = 0;
        *once.last_mut().unwrap() = 0;
        let found = rows_of(&dataset);
        assert!(found == [once.clone(), once].concat());
    }
}

/// Who copies a file may set its length first, and a server closes the file of a client that it has lost
/// as any other.
#[test]
fn bytes_that_a_length_promised_before_they_came_are_no_zeros() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let bytes = counted(0, 50);
    let len = bytes.len() as u64;
    type Way<'a> = (&'a str, &'a dyn Fn(&File));
    let cut: [Way<'_>; 4] = [
        ("set", &|file| {
            file.set_len(len).unwrap();
            file.write_all_at(&bytes[..3072], 0).unwrap();
        }),
        ("reserved", &|file| {
            posix_fallocate(file, 0, len as i64).unwrap();
            file.write_all_at(&bytes[..3072], 0).unwrap();
        }),
        ("after-the-header", &|file| {
            file.write_all_at(&bytes[..128], 0).unwrap();
            file.set_len(len).unwrap();
            file.write_all_at(&bytes[128..3072], 128).unwrap();
        }),
        ("gap", &|file| {
            file.set_len(len).unwrap();
            file.write_all_at(&bytes[4096..], 4096).unwrap();
            file.write_all_at(&bytes[..3072], 0).unwrap();
        }),
    ];
    for (way, write) in cut {
        let name = format!("{way}.npy");
        let file = create(&dataset.join(&name));
        write(&file);
        mount.expect_warning(&format!("{name}: EINVAL"));
        assert_eq!(errno(close(file)), Errno::EINVAL, "{way}");
        assert!(!dataset.join(&name).exists(), "{way}");
        assert!(!dataset.join("data.npy").exists(), "{way}");
    }
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    let says = "gap.npy refused: its length was set to 6528 bytes before they came, and 1024 of them were never written";
    assert!(log.contains(says), "{log}");
    // Who sets it after all that came says that it is done.
    let last_word: [Way<'_>; 2] = [
        ("again", &|file| {
            file.set_len(len).unwrap();
            file.write_all_at(&bytes[..3072], 0).unwrap();
            file.set_len(len).unwrap();
        }),
        ("patched", &|file| {
            file.write_all_at(&[0; 128], 0).unwrap();
            file.set_len(len).unwrap();
            file.write_all_at(&bytes[..128], 0).unwrap();
        }),
    ];
    for (way, write) in last_word {
        let file = create(&dataset.join(format!("{way}.npy")));
        write(&file);
        close(file).unwrap_or_else(|error| panic!("{way}: {error}"));
    }
    assert_eq!(rows_of(&dataset).len(), 100);
}

#[test]
fn what_is_wrong_at_close_is_refused_there() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let bytes = counted(0, 50);
    let refused = |name: &str, write: &dyn Fn(&mut File)| {
        let mut file = create(&dataset.join(name));
        write(&mut file);
        mount.expect_warning(&format!("{name}: EINVAL"));
        assert_eq!(errno(close(file)), Errno::EINVAL, "{name}");
        assert!(!dataset.join(name).exists(), "{name}");
        assert!(!dataset.join("data.npy").exists(), "{name}");
    };
    refused("no-header.npy", &|file| {
        file.write_all_at(&bytes[128..], 128).unwrap();
    });
    refused("blank-header.npy", &|file| {
        file.write_all(&[b' '; 128]).unwrap();
        file.write_all(&bytes[128..]).unwrap();
    });
    refused("provisional-header.npy", &|file| {
        file.write_all(&with_dict(
            "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 16), }",
        ))
        .unwrap();
        file.write_all(&bytes[128..]).unwrap();
    });
    refused("too-long.npy", &|file| {
        file.write_all_at(&bytes[128..], 128).unwrap();
        file.write_all_at(&bytes[..128], 0).unwrap();
        file.write_all_at(&[0], bytes.len() as u64).unwrap();
    });
    refused("too-short.npy", &|file| {
        file.write_all_at(&bytes[128..bytes.len() - 1], 128)
            .unwrap();
        file.write_all_at(&bytes[..128], 0).unwrap();
    });
    refused("cut.npy", &|file| {
        file.write_all(&bytes[..bytes.len() - 1]).unwrap();
        file.set_len(200).unwrap();
    });
    // A retry under the same name, as it should be.
    let mut file = create(&dataset.join("cut.npy"));
    file.write_all(&bytes).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), (0..50).collect::<Vec<_>>());
    let mut log = String::new();
    File::open(dataset.join(".npyfs/log"))
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(
        log.contains(
            "too-short.npy refused: ends after 49 of 50 rows: 1 of 6528 bytes are missing, 1 rows"
        ),
        "{log}"
    );
}

#[test]
fn two_chunks_in_any_order_at_once() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let (rows, other) = (counted(0, 20_000), counted(20_000, 20_000));
    let a = create(&dataset.join("a.npy"));
    let b = create(&dataset.join("b.npy"));
    a.write_all_at(&rows[..2_000_000], 0).unwrap();
    b.write_all_at(&other[..1_500_000], 0).unwrap();
    a.write_all_at(&rows[2_000_000..], 2_000_000).unwrap();
    // Both were in the tail; now both go on out of sequence.
    b.write_all_at(&other[2_000_000..], 2_000_000).unwrap();
    a.write_all_at(&rows[100..200], 100).unwrap();
    b.write_all_at(&other[1_500_000..2_000_000], 1_500_000)
        .unwrap();
    close(a).unwrap();
    close(b).unwrap();
    assert!(rows_of(&dataset) == (0..40_000).collect::<Vec<_>>());
    drop(mount);
}

#[test]
fn a_program_started_meanwhile_does_not_end_the_chunk() {
    require!(fuse);
    // It closes its copy of the descriptor at its exec; by the length, the chunk is whole then.
    in_every_size(|mut file, bytes| {
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all(&bytes[..bytes.len() / 2]).unwrap();
        run(&mut Command::new("true"));
        file.write_all(&bytes[bytes.len() / 2..]).unwrap();
    });
    // The same with a count that is filled in at the end.
    in_every_size(|mut file, bytes| {
        file.write_all(&with_dict(
            "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 16), }",
        ))
        .unwrap();
        run(&mut Command::new("true"));
        file.write_all(&bytes[128..]).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&bytes[..128]).unwrap();
    });
}

#[test]
fn a_writer_killed_before_it_has_written_all_leaves_no_zeros() {
    require!(fuse, python);
    let (mount, dataset) = with_dataset();
    let script = r"
import os, sys, signal
bytes = open(sys.argv[1], 'rb').read()
fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
how = sys.argv[3]
if how == 'reserved':
    os.posix_fallocate(fd, 0, len(bytes))
    os.write(fd, bytes[:3000])
elif how == 'sparse':
    os.write(fd, bytes[:128])
    os.ftruncate(fd, len(bytes))
elif how == 'backwards':
    os.write(fd, bytes[:128])
    os.pwrite(fd, bytes[-100:], len(bytes) - 100)
elif how == 'provisional':
    os.write(fd, bytes[:128].replace(b'(50,', b'(0, '))
os.kill(os.getpid(), signal.SIGKILL)
";
    let chunk = mount.scratch("chunk.npy");
    fs::write(&chunk, counted(0, 50)).unwrap();
    for how in ["reserved", "sparse", "backwards", "provisional"] {
        let path = dataset.join(format!("{how}.npy"));
        let arguments = [chunk.as_path(), &path, Path::new(how)];
        let output = output_of(&mut python_command(script, &arguments)).unwrap();
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        mount.expect_warning(&format!("{how}.npy: ECANCELED"));
        assert!(
            !path.exists() && !dataset.join("data.npy").exists(),
            "{how}"
        );
        let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
        assert!(
            log.contains(&format!("{how}.npy refused: its writer ended")),
            "{log}"
        );
        // A retry under the same name.
        fs::copy(&chunk, &path).unwrap();
        assert_eq!(rows_of(&dataset), (0..50).collect::<Vec<_>>());
        fs::create_dir(mount.path(how)).unwrap();
        fs::rename(&dataset, mount.path(how).join("done")).unwrap();
        fs::create_dir(&dataset).unwrap();
    }
}

#[test]
fn a_thread_that_is_gone_still_counts_as_its_process() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let bytes = counted(0, 50);
    let path = dataset.join("0.npy");
    let open = path.clone();
    let mut file = std::thread::spawn(move || create(&open)).join().unwrap();
    file.write_all(&bytes[..1000]).unwrap();
    mount.expect_warning("0.npy: EINVAL");
    assert_eq!(errno(close(file)), Errno::EINVAL);
    assert!(!path.exists());
}

#[test]
fn a_sparse_chunk_that_another_process_closes_last_is_committed() {
    require!(fuse, python);
    let (mount, dataset) = with_dataset();
    let script = r"
import os, sys, time
bytes = open(sys.argv[1], 'rb').read()
fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
if os.fork() == 0:
    time.sleep(0.2)
    os.write(fd, bytes[:128])
    os.ftruncate(fd, len(bytes))
    os.close(fd)
    os._exit(0)
os.close(fd)
os.wait()
";
    let chunk = mount.scratch("chunk.npy");
    fs::write(&chunk, counted(0, 50)).unwrap();
    python(script, &[chunk, dataset.join("0.npy")]);
    assert!(eventually(std::time::Duration::from_secs(5), || {
        rows_of(&dataset) == [0; 50]
    }));
}
