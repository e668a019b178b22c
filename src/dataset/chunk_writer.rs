//! A chunk that a program writes with no mount.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::chunk_handle::ChunkHandle;
use super::pending::NoOthers;
use crate::chunk::Start;
use crate::dataset::Dataset;
use crate::disk::Face;
use crate::error::Result;
use crate::journal::catalog::CatalogEntry;

/// A committed chunk: which rows of the array it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Its name.
    pub name: OsString,
    /// Its first row in the array.
    pub first_row: u64,
    /// How many rows it has.
    pub rows: u64,
}

impl ChunkInfo {
    fn new(name: OsString, entry: &CatalogEntry) -> Self {
        Self {
            name,
            first_row: entry.first_row,
            rows: entry.rows,
        }
    }
}

/// A chunk in the making: the bytes of a `.npy` file, front to back, in pieces of any size. A large one streams
/// to where its rows will lie. A header that does not fit is refused by the write that shows it.
///
/// Only [`ChunkWriter::commit`] makes rows of it. One that is dropped before is refused, and its bytes
/// are kept in `.npyfs/rejected/`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use std::io::Write;
///
/// use npyfs::{Dataset, Options, npy::Header};
///
/// let dataset = Dataset::open(dir.path(), Options::default())?;
/// let mut chunk = dataset.create("first.npy")?;
/// chunk.write_all(&Header::encode(&"<f4".parse()?, &[2, 3])?)?;
/// chunk.write_all(&[0; 2 * 3 * 4])?;
/// let chunk = chunk.commit()?;
/// assert_eq!((chunk.first_row, chunk.rows), (0, 2));
/// assert_eq!(dataset.chunks().collect::<Vec<_>>(), [chunk]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ChunkWriter {
    dataset: Arc<Dataset>,
    name: OsString,
    handle: ChunkHandle,
    written: u64,
}

impl Dataset {
    /// Begins a chunk. Under the name of a committed one, what is written is compared with that (P3).
    ///
    /// # Errors
    /// `EBUSY` where the name is being written, or another process writes to the dataset; `EINVAL`
    /// for a name that no chunk can have.
    pub fn create(self: &Arc<Self>, name: impl AsRef<OsStr>) -> Result<ChunkWriter> {
        let name = name.as_ref().to_owned();
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mtime: None,
        };
        Ok(ChunkWriter {
            handle: self.begin(&name, face, Start::Truncate)?,
            dataset: self.clone(),
            name,
            written: 0,
        })
    }

    /// Appends a chunk from memory: the bytes of a whole `.npy` file. The same bytes under the same
    /// name once more append nothing.
    ///
    /// # Errors
    /// As writing and committing a [`ChunkWriter`].
    pub fn append(self: &Arc<Self>, name: impl AsRef<OsStr>, bytes: &[u8]) -> Result<()> {
        let mut chunk = self.create(name)?;
        chunk.put(bytes)?;
        chunk.close()
    }

    /// The committed chunks in the order of their rows, also those that come while it is used.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkInfo> + '_ {
        let mut id = 0;
        std::iter::from_fn(move || {
            let published = self.published();
            let catalog = &published.catalog;
            while id < catalog.next_id() {
                id += 1;
                if let Some((name, entry)) = catalog.get(id - 1) {
                    return Some(ChunkInfo::new(name, entry));
                }
            }
            None
        })
    }
}

impl ChunkWriter {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.handle.write(bytes, self.written, || ())?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.handle.flush(&NoOthers)
    }

    /// Makes rows of it, and says which.
    ///
    /// # Errors
    /// `EINVAL` for fewer bytes than its header says, or another dtype or row shape than the dataset's;
    /// `EEXIST` where the name has other bytes; what the store answers. None of its rows is in the
    /// array then.
    pub fn commit(self) -> Result<ChunkInfo> {
        if self.written == 0 {
            let name = self.name.display();
            return Err(err!(EINVAL, "nothing was written of {name}"));
        }
        self.close()?;
        let found = self.dataset.chunk(&self.name)?;
        let gone = || err!(ESTALE, "{} was removed meanwhile", self.name.display());
        let found = found.ok_or_else(gone)?;
        Ok(ChunkInfo::new(self.name.clone(), &found.receipt))
    }
}

/// An error is an [`Error`](crate::Error) within, with its reason.
impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: no byte waits here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        self.handle.release();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::dataset::Options;
    use crate::error::Errno;
    use crate::npy::Header;

    #[test]
    fn only_a_commit_makes_rows_and_what_was_dropped_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = Dataset::open(dir.path(), Options::default()).unwrap();
        let mut bytes = Header::encode(&"<i2".parse().unwrap(), &[3]).unwrap();
        bytes.extend([1, 0, 2, 0, 3, 0]);
        for (n, whole) in [(0, true), (1, false), (2, true)] {
            let mut chunk = dataset.create(format!("{n}.npy")).unwrap();
            let end = bytes.len() - usize::from(!whole);
            for piece in bytes[..end].chunks(50) {
                chunk.write_all(piece).unwrap();
            }
            match whole {
                true => assert_eq!(chunk.commit().unwrap().rows, 3),
                false => drop(chunk),
            }
        }
        assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 6);
        let chunks: Vec<_> = dataset.chunks().collect();
        assert_eq!(
            (&*chunks[1].name, chunks[1].first_row),
            (OsStr::new("2.npy"), 3)
        );
        let kept = std::fs::read_dir(dir.path().join(".npyfs/rejected")).unwrap();
        assert_eq!(kept.count(), 1);
        let mut again = dataset.create("2.npy").unwrap();
        again.write_all(&bytes).unwrap();
        assert_eq!(again.commit().unwrap().first_row, 3);
        for name in ["2.npy", "none.npy"] {
            let none = dataset.create(name).unwrap();
            assert_eq!(none.commit().unwrap_err().errno(), Errno::EINVAL);
        }
    }
}
