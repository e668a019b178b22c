//! Files that are no chunks: each gets an errno at the first call that can carry it and a reason in
//! the dataset's log, and leaves the dataset as it was (P2, P9, P10).
#![allow(missing_docs, unreachable_pub)]

use crate::chunks;
use crate::common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use chunks::{chunk, framed, header, noise};
use common::Mount;
use nix::errno::Errno;
use npyfs::dataset::{Face, NoOthers, Start};
use npyfs::npy::{Header, Prefix};
use npyfs::{Dataset, Options};

fn text(descr: &str, shape: &str) -> Vec<u8> {
    framed(&format!(
        "{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    ))
}

/// A header of format 2.0 whose length field says `len`.
fn version_2(len: u32) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(b"{'descr': '<i8', ");
    bytes
}

/// Files that can be no chunk of any dataset, and a word of the reason.
fn never_chunks() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let rank = |n: usize| {
        let ones = vec!["1"; n].join(", ");
        text("'<i8'", &format!("({ones},)"))
    };
    vec![
        ("text", b"1,2,3\n4,5,6\n".to_vec(), "not a .npy"),
        ("png", b"\x89PNG\r\n\x1a\n and more".to_vec(), "not a .npy"),
        ("one-byte", b"\x93".to_vec(), "within its header"),
        ("magic-only", b"\x93NUMPY".to_vec(), "within its header"),
        (
            "version-4",
            b"\x93NUMPY\x04\x00\x76\x00".to_vec(),
            "version 4.0",
        ),
        (
            "version-1.1",
            b"\x93NUMPY\x01\x01\x76\x00".to_vec(),
            "version 1.1",
        ),
        ("blank", vec![0; 300], "blank"),
        ("no-dict", framed("[1, 2, 3]"), "not a dictionary"),
        (
            "no-shape",
            framed("{'descr': '<i8', 'fortran_order': False}"),
            "'shape'",
        ),
        (
            "extra-key",
            framed("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 8), 'x': 1}"),
            "'x'",
        ),
        ("object", text("'|O'", "(2, 8)"), "Python objects"),
        (
            "object-field",
            text("[('a', '<i8'), ('b', '|O')]", "(2, 8)"),
            "Python objects",
        ),
        ("no-type", text("'<q9'", "(2, 8)"), "<q9"),
        ("0-d", text("'<i8'", "()"), "0-d"),
        ("rank-33", rank(33), "33 dimensions"),
        ("negative", text("'<i8'", "(-1, 8)"), "negative"),
        ("not-integer", text("'<i8'", "(1.5, 8)"), "not an integer"),
        (
            "rows-overflow",
            text("'<i8'", "(9223372036854775807, 8)"),
            "2^63",
        ),
        (
            "rows-over-u64",
            text("'<i8'", "(18446744073709551616, 8)"),
            "",
        ),
        (
            "huge-integer",
            text("'<i8'", &format!("({}, 8)", "9".repeat(60))),
            "",
        ),
        (
            "row-overflow",
            text("'<i8'", "(1, 4294967296, 4294967296)"),
            "2^63",
        ),
        (
            "zero-times-overflow",
            text("'<i8'", "(0, 4294967296, 4294967296)"),
            "",
        ),
        ("item-overflow", text("'<U4294967295'", "(1,)"), ""),
        ("header-over-1-mib", version_2((1 << 20) + 1), "too long"),
        ("header-of-4-gib", version_2(u32::MAX), "too long"),
        (
            "too-deep",
            framed(&format!(
                "{{'descr': {}{}}}",
                "[".repeat(900),
                "]".repeat(900)
            )),
            "brackets",
        ),
    ]
}

/// Chunks of another dataset, and a word of the reason.
fn misfits() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let body = |mut head: Vec<u8>, len| {
        head.extend(noise(9, len));
        head
    };
    let whole = chunk(3, 5);
    let mut long = whole.clone();
    long.push(1);
    vec![
        (
            "other-dtype",
            body(header("'<f8'", false, &[2, 8]), 128),
            "this dataset holds",
        ),
        (
            "other-width",
            body(header("'<i4'", false, &[2, 8]), 64),
            "this dataset holds",
        ),
        (
            "other-shape",
            body(header("'<i8'", false, &[2, 4]), 64),
            "rows of shape",
        ),
        (
            "other-rank",
            body(header("'<i8'", false, &[2, 8, 1]), 128),
            "rows of shape",
        ),
        (
            "flat",
            body(header("'<i8'", false, &[16]), 128),
            "rows of shape",
        ),
        (
            "zero-rows-misfit",
            header("'<f8'", false, &[0, 8]),
            "this dataset holds",
        ),
        (
            "rank-32",
            body(text("'<i8'", &format!("({})", vec!["1"; 32].join(", "))), 8),
            "rows of shape",
        ),
        ("header-only", whole[..128].to_vec(), "are missing"),
        ("byte-short", whole[..whole.len() - 1].to_vec(), "1 of"),
        ("byte-long", long, "its header says"),
        (
            "two-chunks",
            [whole.clone(), whole].concat(),
            "its header says",
        ),
    ]
}

struct Engine {
    directory: tempfile::TempDir,
    dataset: Arc<Dataset>,
}

impl Engine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dataset = Dataset::open(directory.path(), Options::default()).unwrap();
        Engine { directory, dataset }
    }

    fn with_rows() -> Self {
        let engine = Self::new();
        engine.dataset.append("first.npy", &chunk(5, 1)).unwrap();
        engine
    }

    fn data(&self) -> Option<Vec<u8>> {
        fs::read(self.directory.path().join("data.npy")).ok()
    }

    fn rows(&self) -> Option<u64> {
        self.dataset.snapshot().unwrap().map(|array| array.rows())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join(".npyfs/log")).unwrap_or_default()
    }

    /// Writes all of it in pieces, and closes.
    fn write(&self, name: &str, bytes: &[u8], piece: usize) -> Result<(), Errno> {
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
        };
        let name = OsStr::new(name);
        let incoming = self.dataset.begin(name, face, Start::New).unwrap();
        let name = name.display();
        assert!(incoming.is_new(), "{name} is committed");
        let mut first = None;
        for (n, data) in bytes.chunks(piece).enumerate() {
            if let Err(error) = incoming.write(data, (n * piece) as u64, || ()) {
                first = Some(error.errno());
                break;
            }
        }
        let closed = incoming.flush(&NoOthers).map_err(|error| error.errno());
        incoming.release();
        match first {
            Some(errno) => {
                assert_eq!(closed, Err(errno), "{name}: write and close disagree");
                Err(errno)
            }
            None => closed,
        }
    }

    /// Refused as a whole, with a reason, and nothing has changed.
    fn refuses(&self, name: &str, bytes: &[u8], reason: &str) {
        let (data, rows) = (self.data(), self.rows());
        for (n, piece) in [bytes.len().max(1), 7, 128].into_iter().enumerate() {
            if bytes.len() / piece > 10_000 {
                continue;
            }
            // The same refusal of a name within a second is only counted.
            let name = format!("{name}-{n}");
            let before = self.log().len();
            let answer = self.write(&format!("{name}.npy"), bytes, piece);
            assert_eq!(answer, Err(Errno::EINVAL), "{name} in pieces of {piece}");
            let log = self.log().split_off(before);
            assert_eq!(log.lines().count(), 1, "{name}: {log}");
            assert!(
                log.contains(&format!("{name}.npy refused: ")),
                "{name}: {log}"
            );
            assert!(log.contains(reason), "{name}: '{reason}' is not in {log}");
        }
        assert_eq!(self.rows(), rows, "{name}");
        assert!(self.data() == data, "{name} has changed data.npy");
        assert!(self.dataset.chunk(OsStr::new(name)).unwrap().is_none());
        assert!(self.dataset.in_flight_names().is_empty(), "{name} stayed");
    }
}

#[test]
fn what_is_no_chunk_is_refused_with_a_reason_and_changes_nothing() {
    let engine = Engine::with_rows();
    for (name, bytes, reason) in never_chunks().into_iter().chain(misfits()) {
        engine.refuses(name, &bytes, reason);
    }
    assert_eq!(engine.rows(), Some(5));
}

#[test]
fn what_is_no_chunk_makes_no_array() {
    let engine = Engine::new();
    for (name, bytes, reason) in never_chunks() {
        engine.refuses(name, &bytes, reason);
    }
    assert_eq!((engine.rows(), engine.data()), (None, None));
}

#[test]
fn a_header_cut_anywhere_is_refused() {
    let engine = Engine::with_rows();
    let whole = chunk(2, 3);
    for len in 1..128 {
        engine.refuses(&format!("cut-{len}"), &whole[..len], "within its header");
    }
}

#[test]
fn an_empty_file_is_no_chunk_and_no_error() {
    let engine = Engine::with_rows();
    let data = engine.data();
    assert_eq!(engine.write("empty.npy", b"", 1), Ok(()));
    assert_eq!((engine.rows(), engine.data()), (Some(5), data));
}

#[test]
fn every_byte_of_a_header_has_a_meaning_or_is_refused() {
    let good = header("'<i8'", false, &[3, 8]);
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = value;
            // Whatever it says, it says it without a panic, and a header that is accepted is all of
            // the bytes that it claims.
            if let Ok(Prefix::Complete(header)) = Header::parse(&bytes) {
                assert!(header.len() as usize <= bytes.len(), "byte {at} = {value}");
                assert!(header.file_bytes() >= header.len());
            }
        }
    }
}

#[test]
fn a_chunk_with_a_wrong_byte_in_its_header_is_appended_whole_or_not_at_all() {
    let engine = Engine::with_rows();
    let good = chunk(3, 2);
    let (mut rows, mut accepted) = (5, 0);
    for at in 0..128 {
        for flip in [1, 0x20, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            let name = format!("{at}-{flip}.npy");
            let data = engine.data().unwrap();
            match engine.write(&name, &bytes, bytes.len()) {
                // A blank for a blank, say, or `True` for the order of one row.
                Ok(()) => {
                    accepted += 1;
                    rows += 3;
                    let chunk = engine.dataset.chunk(OsStr::new(&name)).unwrap().unwrap();
                    let mut view = vec![0; bytes.len()];
                    chunk.view.read_at(&mut view, 0).unwrap();
                    assert!(view == bytes, "{name} was stored otherwise");
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::EINVAL, "{name}");
                    assert!(
                        engine.data().unwrap() == data,
                        "{name} has changed data.npy"
                    );
                }
            }
            assert_eq!(engine.rows(), Some(rows), "{name}");
        }
    }
    assert!(accepted < 200, "{accepted} of 512 were taken");
}

#[test]
fn a_mount_refuses_it_too() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("d");
    fs::create_dir(&dataset).unwrap();
    fs::write(dataset.join("first.npy"), chunk(5, 1)).unwrap();
    let data = fs::read(mount.store("d/data.npy")).unwrap();
    let mut refused = 0;
    for (name, bytes, reason) in never_chunks().into_iter().chain(misfits()) {
        mount_refuses(&dataset, name, &bytes, reason);
        refused += 1;
        assert!(
            fs::read(mount.store("d/data.npy")).unwrap() == data,
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(&dataset).unwrap().count(), 2);
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    assert_eq!(log.lines().count(), 2 * refused, "{log}");
    mount.expect_warning(": EINVAL: ");
    mount.expect_warning(": EBADMSG: ");
}

fn mount_refuses(dataset: &Path, name: &str, bytes: &[u8], reason: &str) {
    let path = dataset.join(format!("{name}.npy"));
    let mut file = fs::File::create(&path).unwrap();
    let written = file.write_all(bytes).map_err(|error| error.raw_os_error());
    let closed = nix::unistd::close(file);
    if let Err(errno) = written {
        assert_eq!(errno, Some(libc::EINVAL), "write of {name}");
    }
    assert_eq!(closed, Err(Errno::EINVAL), "close of {name}");
    assert!(!path.exists(), "{name} stayed");

    // An ordinary file that is renamed to a chunk's name, as rsync does it.
    let temporary = dataset.join(format!(".{name}.npy.Ab12Cd"));
    let path = dataset.join(format!("renamed-{name}.npy"));
    fs::write(&temporary, bytes).unwrap();
    let renamed = fs::rename(&temporary, &path).unwrap_err();
    assert_eq!(
        renamed.raw_os_error(),
        Some(libc::EBADMSG),
        "rename of {name}"
    );
    fs::remove_file(&temporary).unwrap();

    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains(&format!("{name}.npy refused: ")));
    for line in lines {
        assert!(line.contains(reason), "{name}: '{reason}' is not in {line}");
    }
}
