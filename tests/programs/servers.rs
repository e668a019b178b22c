//! What the tests of servers that feed a mount have in common: what the server is told reaches its client,
//! and a client that goes away leaves nothing in the array.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::common::{Mount, User, counted, eventually, npy, rows_of};

/// Rows of `big.npy`, 6 MB of them.
pub(crate) const BIG: u64 = 50_000;

/// A mount with a dataset `ds` that an ordinary user writes through a server, and the files of that
/// user's PC:
///
/// | file | holds |
/// | --- | --- |
/// | `0.npy`, `1.npy`, `2.npy` | 100 rows each: 0 to 99, 100 to 199, 200 to 299 |
/// | `big.npy` | rows 1000 to 50999 |
/// | `bad.npy` | another dtype |
pub(crate) struct Desk {
    pub(crate) mount: Mount,
    pub(crate) user: User,
}

impl Desk {
    pub(crate) fn new(words: &str) -> Self {
        let mut mount = Mount::builder().words(words).start();
        // Each refusal is one; the tests look at the log of the dataset.
        mount.tolerate_warnings();
        let user = User::ordinary();
        fs::create_dir(mount.path("ds")).unwrap();
        chown(mount.path("ds"), Some(user.uid), Some(user.gid)).unwrap();
        let desk = Self { mount, user };
        fs::create_dir(desk.pc()).unwrap();
        for n in 0..3 {
            fs::write(desk.file(&format!("{n}.npy")), counted(n * 100, 100)).unwrap();
        }
        fs::write(desk.file("big.npy"), counted(1000, BIG)).unwrap();
        fs::write(desk.file("bad.npy"), npy("<f4", "(4, 16)", &[0; 256])).unwrap();
        desk
    }

    pub(crate) fn pc(&self) -> PathBuf {
        self.mount.scratch("pc")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.pc().join(name)
    }

    pub(crate) fn dataset(&self) -> PathBuf {
        self.mount.path("ds")
    }

    /// The array is made of these chunks, each by its first row and their number.
    #[track_caller]
    pub(crate) fn holds(&self, chunks: &[(u64, u64)]) {
        let rows = chunks
            .iter()
            .flat_map(|&(first, rows)| first..first + rows)
            .collect::<Vec<_>>();
        let found = rows_of(&self.dataset());
        assert_eq!(found.len(), rows.len());
        assert!(found == rows, "other rows");
    }

    /// Waits for a line of the dataset's log.
    #[track_caller]
    pub(crate) fn is_told(&self, line: &str) {
        let log = || fs::read_to_string(self.dataset().join(".npyfs/log")).unwrap();
        let told = eventually(Duration::from_secs(10), || log().contains(line));
        assert!(told, "no '{line}' in {}", log());
    }

    /// Waits until some of a chunk has come.
    #[track_caller]
    pub(crate) fn has_begun(&self, name: &str) {
        let path = self.dataset().join(name);
        let begun = eventually(Duration::from_secs(10), || {
            fs::metadata(&path).is_ok_and(|found| found.len() > 0)
        });
        assert!(begun, "{name} never came");
    }
}

#[track_caller]
pub(crate) fn fails(output: &Output, says: &str) {
    let said = text(output);
    assert!(!output.status.success(), "did not fail: {said}");
    assert!(said.contains(says), "no '{says}' in {said}");
}

#[track_caller]
pub(crate) fn works(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

pub(crate) fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{out}{err}")
}

/// The block of docs/instruments.md that has this line.
pub(crate) fn block_of_the_page(line: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/instruments.md");
    let page = fs::read_to_string(page).unwrap();
    let mut blocks = page.split("```\n");
    let block = blocks.find(|block| block.starts_with('[') && block.contains(line));
    block.unwrap().to_owned()
}
