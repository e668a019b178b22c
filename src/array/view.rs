//! A view: a header, and a range of rows in the backing array that it shows.
//!
//! `data.npy`, a slice of it and a committed chunk are all views. A view never changes: rows are
//! written once, after all that any view covers.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock, Weak};

use crate::array::Array;
use crate::disk::{StoreFile, read_exact_at};
use crate::error::{Context, Error, Result};
use crate::npy::{Dtype, GrowableHeader, Header};

/// How the header of a backing array is laid out.
#[derive(Debug)]
pub(crate) enum HeaderKind {
    /// With the count field of the store format: rows can be appended.
    Growable(GrowableHeader),
    /// As another program wrote it, with no such field: it is served as it stands, and gets a
    /// field before the first row is appended.
    Fixed { header: Header, bytes: Vec<u8> },
}

/// What all versions of one array have in common: its header's form and its backing file.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) form: HeaderKind,
    pub(crate) data: Arc<dyn StoreFile>,
    /// Read by a stream that writes after the rows without the writer, for as long as that takes: the end
    /// of the file does not move then. Written by the one that gives back what is reserved after it.
    pub(crate) end_of_file: RwLock<()>,
    /// How long the file has been since this process began to write to it, less what it has cut off:
    /// if it is shorter, another program has cut it. Read and compared under `end_of_file`.
    reached: AtomicU64,
    /// Why no name of the store leads to the file any more.
    lost: OnceLock<Error>,
}

impl Layout {
    pub(crate) fn new(form: HeaderKind, data: Arc<dyn StoreFile>) -> Self {
        Self {
            form,
            data,
            end_of_file: RwLock::new(()),
            reached: AtomicU64::new(0),
            lost: OnceLock::new(),
        }
    }

    /// The file is not the store's any more.
    pub(crate) fn lose(&self, error: &Error) {
        self.lost.get_or_init(|| error.clone());
    }

    /// # Errors
    /// Why the file is not the store's any more.
    pub(crate) fn is_there(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// The file is known to reach up to `end`.
    pub(crate) fn reaches(&self, end: u64) {
        self.reached.fetch_max(end, Ordering::AcqRel);
    }

    /// Writes after the committed rows. A file that another program has cut would get a hole, which
    /// would pass for rows: that is refused.
    pub(crate) fn write_tail(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.is_there()?;
        let _end = crate::read(&self.end_of_file);
        // In this order: what others write meanwhile makes the file longer first.
        let reached = self.reached.load(Ordering::Acquire);
        let len = self.data.len()?;
        if len < reached {
            let cut = err!(
                EIO,
                "data.npy was cut in the store: it has {len} bytes, and had {reached}"
            );
            return Err(cut.into());
        }
        self.data.write_at(bytes, at)?;
        self.reaches(at + bytes.len() as u64);
        Ok(())
    }

    /// Cuts off what comes after `end`, or gives back what is reserved there.
    pub(crate) fn cut(&self, end: u64) -> io::Result<()> {
        let _end = crate::write(&self.end_of_file);
        self.reached.fetch_min(end, Ordering::AcqRel);
        self.data.set_len(end)
    }

    pub(crate) fn dtype(&self) -> &Dtype {
        match &self.form {
            HeaderKind::Growable(header) => header.dtype(),
            HeaderKind::Fixed { header, .. } => header.dtype(),
        }
    }

    pub(crate) fn row_shape(&self) -> &[u64] {
        match &self.form {
            HeaderKind::Growable(header) => header.row_shape(),
            HeaderKind::Fixed { header, .. } => header.row_shape(),
        }
    }

    /// Bytes of one row; 0 for an empty row shape or item.
    pub(crate) fn row_bytes(&self) -> u64 {
        match &self.form {
            HeaderKind::Growable(header) => header.row_bytes(),
            HeaderKind::Fixed { header, .. } => header.row_bytes(),
        }
    }

    /// The offset of row 0 in the backing file.
    pub(crate) fn header_len(&self) -> u64 {
        match &self.form {
            HeaderKind::Growable(header) => header.len(),
            HeaderKind::Fixed { header, .. } => header.len(),
        }
    }

    /// The header of the array when it has `rows` rows.
    pub(crate) fn header_bytes(&self, rows: u64) -> Vec<u8> {
        match &self.form {
            HeaderKind::Growable(header) => header.bytes(rows),
            HeaderKind::Fixed { bytes, .. } => bytes.clone(),
        }
    }

    /// The offset in the backing file of row `row`, if it can be counted.
    pub(crate) fn offset(&self, row: u64) -> Option<u64> {
        row.checked_mul(self.row_bytes())?
            .checked_add(self.header_len())
            .filter(|&offset| i64::try_from(offset).is_ok())
    }
}

/// An immutable `.npy` file that is made of a header and of rows in a backing array.
#[derive(Clone, Debug)]
pub struct View {
    header: Arc<[u8]>,
    layout: Arc<Layout>,
    first_row: u64,
    rows: u64,
    /// Time of last change, in nanoseconds since 1970.
    modified: i64,
    /// Its rows are not what was committed: why.
    damaged: bool,
}

impl View {
    pub(crate) fn new(
        header: Arc<[u8]>,
        layout: Arc<Layout>,
        first_row: u64,
        rows: u64,
        modified: i64,
    ) -> Self {
        Self {
            header,
            layout,
            first_row,
            rows,
            modified,
            damaged: false,
        }
    }

    /// All rows of an array as it is now.
    pub(crate) fn of_array(array: Array) -> Self {
        let header = array.layout.header_bytes(array.rows).into();
        Self::new(header, array.layout, 0, array.rows, array.modified)
    }

    /// The same, whose rows are not to be read where they are `damaged`.
    pub(crate) fn damaged(self, damaged: bool) -> Self {
        Self { damaged, ..self }
    }

    /// Some of its rows, under the same header.
    pub(crate) fn part(&self, first_row: u64, rows: u64) -> View {
        Self {
            first_row: self.first_row + first_row,
            rows,
            ..self.clone()
        }
    }

    /// The row of the array with which this view begins.
    pub fn first_row(&self) -> u64 {
        self.first_row
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Its shape: how many rows, then that of a row.
    pub fn shape(&self) -> Vec<u64> {
        let mut shape = vec![self.rows];
        shape.extend_from_slice(self.layout.row_shape());
        shape
    }

    /// The bytes of these of its rows, counted from its own first: in C order, of its dtype.
    ///
    /// # Errors
    /// `EINVAL` for rows that it does not have, `EIO` where they are damaged, and what the backing file
    /// answers.
    pub fn read_rows(&self, rows: Range<u64>) -> Result<Vec<u8>> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(err!(
                EINVAL,
                "rows {} to {} are asked for, there are {}",
                rows.start,
                rows.end,
                self.rows
            ));
        }
        let row = self.layout.row_bytes();
        let len = usize::try_from((rows.end - rows.start) * row)
            .map_err(|_| err!(EINVAL, "that is more than memory can have"))?;
        let mut bytes = vec![0; len];
        self.read_body(&mut bytes, rows.start * row)
            .context(|| "cannot read the backing array".into())?;
        Ok(bytes)
    }

    /// Time of last change, in nanoseconds since 1970.
    pub fn modified(&self) -> i64 {
        self.modified
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.header.len() as u64 + self.body_len()
    }

    /// Never: there is a header at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn body_len(&self) -> u64 {
        self.rows * self.layout.row_bytes()
    }

    /// The element type of its rows.
    pub fn dtype(&self) -> &Dtype {
        self.layout.dtype()
    }

    /// Where its rows are: the backing file, and the offset of the first.
    pub(crate) fn body(&self) -> (&Arc<dyn StoreFile>, u64) {
        (&self.layout.data, self.body_start())
    }

    fn body_start(&self) -> u64 {
        self.layout.header_len() + self.first_row * self.layout.row_bytes()
    }

    /// Whether byte `n` of this view is byte `n` of the backing file, for every `n` after the
    /// header: then a mapping may go straight to that file.
    #[doc(hidden)]
    pub fn is_backing_prefix(&self) -> bool {
        !self.damaged && self.first_row == 0 && self.header.len() as u64 == self.layout.header_len()
    }

    /// The backing file, and a number that is the same for all views of it.
    #[doc(hidden)]
    pub fn backing(&self) -> (&Arc<dyn StoreFile>, usize) {
        (&self.layout.data, Arc::as_ptr(&self.layout) as usize)
    }

    /// Where the `len` bytes at `offset`, or what there is of them before the end, lie in the backing
    /// file as they are: the offset there and how many. `None` where some of them are of the header, or
    /// are not to be read.
    #[doc(hidden)]
    pub fn stored(&self, offset: u64, len: usize) -> Option<(u64, usize)> {
        if self.damaged {
            return None;
        }
        let skip = offset.checked_sub(self.header.len() as u64)?;
        let len = self.len().saturating_sub(offset).min(len as u64) as usize;
        Some((self.body_start() + skip, len))
    }

    /// What is known of it when its array is not open any more.
    pub(crate) fn version(&self) -> Version {
        Version {
            header: self.header.clone(),
            layout: Arc::downgrade(&self.layout),
            first_row: self.first_row,
            rows: self.rows,
            len: self.len(),
            modified: self.modified,
        }
    }

    /// Reads at `offset`; fewer bytes than asked for only at the end of the view.
    ///
    /// # Errors
    /// `EIO` and whatever else the backing file answers.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let len = self.len().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..len];
        let header = &self.header[(offset as usize).min(self.header.len())..];
        let from_header = header.len().min(len);
        buffer[..from_header].copy_from_slice(&header[..from_header]);
        if from_header < len {
            let skip = (offset + from_header as u64) - self.header.len() as u64;
            self.read_body(&mut buffer[from_header..], skip)
                .context(|| "cannot read the backing array".into())?;
        }
        Ok(len)
    }

    /// Reads bytes of the rows, from `offset` bytes after the header.
    pub(crate) fn read_body(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.damaged {
            return Err(err!(
                EIO,
                "its rows are DAMAGED: they are not what was committed; `npyfs check --accept DATASET` takes them as they are"
            )
            .into());
        }
        read_exact_at(&*self.layout.data, buffer, self.body_start() + offset)
    }
}

/// A view that does not keep its array open.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    header: Arc<[u8]>,
    layout: Weak<Layout>,
    first_row: u64,
    rows: u64,
    len: u64,
    modified: i64,
}

impl Version {
    /// The view; `None` where nothing keeps its array open any more.
    pub(crate) fn view(&self) -> Option<View> {
        let layout = self.layout.upgrade()?;
        let header = self.header.clone();
        Some(View::new(
            header,
            layout,
            self.first_row,
            self.rows,
            self.modified,
        ))
    }

    /// As the number of [`View::backing`]. No other array has it, also when this one is closed.
    pub(crate) fn array(&self) -> usize {
        self.layout.as_ptr() as usize
    }

    pub(crate) fn first_row(&self) -> u64 {
        self.first_row
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn modified(&self) -> i64 {
        self.modified
    }

    /// Whether no name of the store leads to its array any more.
    pub(crate) fn is_unlinked(&self) -> bool {
        let layout = self.layout.upgrade();
        layout.is_some_and(|layout| matches!(layout.data.glance(), Ok((0, _))))
    }
}
