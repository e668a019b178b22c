//! The array and the chunks that it is made of, in the order of their commit.

use nix::errno::Errno;

use crate::content::{HEAD, HeaderKind, Reading, read};

/// A committed chunk.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub name: String,
    pub original: Vec<u8>,
    pub view: Vec<u8>,
    pub first_row: u64,
    pub rows: u64,
    pub mode: Option<u32>,
    pub mtime: Option<i64>,
}

impl Chunk {
    /// The header that it came with.
    pub fn header(&self) -> &[u8] {
        let bytes = &self.original;
        let number = |range: std::ops::Range<usize>| {
            let digits = bytes[range].iter().rev();
            digits.fold(0, |number, &byte| number << 8 | usize::from(byte))
        };
        let len = match bytes[6] {
            1 => 10 + number(8..10),
            _ => 12 + number(8..12),
        };
        &bytes[..len]
    }

    pub fn converted(&self) -> bool {
        self.original != self.view
    }

    pub fn differs_at(&self, data: &[u8], offset: usize) -> bool {
        self.view.get(offset..offset + data.len()) != Some(data)
    }

    pub fn is_same(&self, bytes: &[u8]) -> bool {
        bytes == self.view || bytes == self.original
    }
}

#[derive(Debug, Default)]
pub struct Array {
    /// Set by the first commit.
    pub form: Option<HeaderKind>,
    pub body: Vec<u8>,
    pub rows: u64,
    pub chunks: Vec<Chunk>,
}

impl Array {
    pub fn committed(&self, name: &str) -> Option<usize> {
        self.chunks.iter().position(|chunk| chunk.name == name)
    }

    /// Whether a chunk of this form may come.
    pub fn admits(&self, form: HeaderKind) -> bool {
        self.form.is_none_or(|dataset| form.fits(dataset))
    }

    /// Commits a whole file.
    pub fn append(
        &mut self,
        name: &str,
        original: Vec<u8>,
        mode: Option<u32>,
        mtime: Option<i64>,
    ) -> Result<usize, Errno> {
        if self.committed(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let Reading::Header { form, rows, .. } = read(&original) else {
            return Err(Errno::EINVAL);
        };
        if !self.admits(form) {
            return Err(Errno::EINVAL);
        }
        let dataset = *self.form.get_or_insert(form.of_dataset());
        let view = form.view(dataset, &original);
        self.body.extend_from_slice(&view[HEAD..]);
        self.chunks.push(Chunk {
            name: name.to_owned(),
            original,
            view,
            first_row: self.rows,
            rows,
            mode,
            mtime,
        });
        self.rows += rows;
        Ok(self.chunks.len() - 1)
    }
}
