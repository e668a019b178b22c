//! The commit: a whole chunk becomes rows of the array, or nothing changes.
//!
//! Under the dataset's writer its rows are put after the last committed row: copied there now, or
//! streamed there before. A failure up to there leaves nothing that counts. Then they are made to
//! count, and get their name, by a change of what is [published](super::published).

use crate::chunk::ChunkId;
use crate::disk::paths::NEW_DATA;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::published::ArrayChange;
use super::writer::Writer;
use crate::array::stream::{NewArray, Stream};
use crate::array::view::{HeaderKind, Layout};
use crate::array::{Array, check_compatible};
use crate::convert::bands::Bands;
use crate::convert::{Conversion, Source};
use crate::dataset::Dataset;
use crate::disk::clock;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreFile, read_exact_at, read_pieces};
use crate::error::{Context, Result};
use crate::journal::{Attributes, ChunkRecord, Record};
use crate::npy::{GrowableHeader, Header};

/// Memory for the conversion of a body that lies as it came, in bytes: with less, more is read
/// more than once.
const CONVERSION_MEMORY: usize = 64 << 20;

/// A chunk that is about to be committed.
#[derive(Debug)]
pub(crate) struct ChunkCommit<'a> {
    pub(crate) name: &'a OsStr,
    /// The header's bytes as they came.
    pub(crate) head: &'a [u8],
    pub(crate) header: &'a Header,
    pub(crate) attributes: Attributes,
}

/// Where a candidate's rows are.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    Memory(&'a [u8]),
    /// After the candidate's header.
    File(&'a dyn StoreFile),
    /// In the tail, but for what was spilled, and with this checksum if they are not converted.
    Stream(&'a Arc<Stream>, u32),
}

impl Dataset {
    /// Appends the rows of a chunk and gives them its name.
    pub(crate) fn commit(&self, chunk: &ChunkCommit<'_>, rows: Rows<'_>) -> Result<ChunkId> {
        let stream = match &rows {
            Rows::Stream(stream, _) => Some(*stream),
            Rows::Memory(_) | Rows::File(_) => None,
        };
        self.pay()?;
        // Given up since the chunk began, if its files were replaced.
        if self.given_up.load(Ordering::Acquire) {
            self.acquire()?;
        }
        if let Some(stream) = stream {
            stream.layout().is_there()?;
            self.wait_for_predecessors(stream)?;
        }
        let slow = !matches!(rows, Rows::Memory(_));
        let _busy = slow.then(|| self.busy.enter());
        let mut guard = self.mine()?;
        let writer = self.usable(&mut guard)?;
        if let Some(stream) = stream {
            stream.layout().is_there()?;
        }
        self.written.store(true, Ordering::Relaxed);
        let result = self.commit_locked(writer, chunk, rows);
        match (&result, stream) {
            (Ok(_), Some(stream)) => {
                // What was copied to its place from further on is still there.
                self.cut_tail_after(writer, stream);
                self.tail_changed.notify_all();
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                self.discard_new(writer);
                if writer.failed.is_some() {
                    log::error!("{}: {error}", self.label());
                }
            }
        }
        result
    }

    fn commit_locked(
        &self,
        writer: &mut Writer,
        chunk: &ChunkCommit<'_>,
        rows: Rows<'_>,
    ) -> Result<ChunkId> {
        if !self.options.reuse_names && self.published().catalog.find(chunk.name).is_some() {
            let name = chunk.name.display();
            return Err(err!(
                EEXIST,
                "{name} was committed by another producer meanwhile"
            ));
        }
        let array = self.array();
        let (layout, first_row, new_array) = match array {
            Some(array) => {
                check_compatible(chunk.header, &array.layout)?;
                (array.layout, array.rows, None)
            }
            None => {
                let new_array = self.new_array(writer, chunk.header)?;
                (new_array.layout.clone(), 0, Some(new_array))
            }
        };
        let count = first_row
            .checked_add(chunk.header.rows())
            .filter(|&count| layout.offset(count).is_some())
            .ok_or_else(|| err!(EFBIG, "the array would have more bytes than a file can"))?;
        let streamed = matches!(rows, Rows::Stream(..));
        let crc = self.place(writer, &layout, chunk, rows, first_row, count)?;
        if let Some(end) = layout.offset(count) {
            if streamed {
                is_whole(&layout, end)?;
            }
            layout.reaches(end);
        }

        let now = clock::now();
        let is_new = new_array.is_some();
        let array = Array {
            layout: layout.clone(),
            rows: count,
            modified: now,
        };
        let (change, first) = match &new_array {
            Some(new_array) => {
                let data = &*new_array.layout.data;
                let first = self.opened_now(&writer.journal, Some(data))?;
                self.write_new(new_array, count)
                    .inspect_err(|_| writer.new_array = None)?;
                (ArrayChange::New(array), Some(first))
            }
            None => (ArrayChange::Grown(array), None),
        };
        let header = (!writer.array_recorded).then(|| layout.header_bytes(0));
        let array_record = header.as_deref().map(|header| Record::Array { header });
        let chunk_records = self.chunk_records(chunk, first_row, crc, &layout, now);
        let records: Vec<_> = array_record
            .into_iter()
            .chain(first)
            .chain(chunk_records)
            .collect();
        let id = self.published().catalog.next_id();
        self.change(writer, &records, change)?;
        writer.array_recorded = true;
        writer.new_array = None;
        if is_new {
            self.entries_changed();
            writer.names.data_changed(&*self.folder)?;
        }
        Ok(self.chunk_id(id))
    }

    /// Puts the rows after row `first_row`, and answers their checksum.
    fn place(
        &self,
        writer: &mut Writer,
        layout: &Arc<Layout>,
        chunk: &ChunkCommit<'_>,
        rows: Rows<'_>,
        first_row: u64,
        count: u64,
    ) -> Result<u32> {
        let (Some(start), Some(end)) = (layout.offset(first_row), layout.offset(count)) else {
            return Err(err!(
                EFBIG,
                "the array would have more bytes than a file can"
            ));
        };
        let conversion = Conversion::needed(chunk.header, layout.dtype());
        let conversion = conversion.as_ref();
        if let Rows::Stream(stream, _) = rows {
            writer.tail.remove(stream);
        }
        writer.tail.make_way(&self.folder, layout, end);
        let body = match rows {
            Rows::Memory(body) => Body::Memory(body),
            Rows::File(blob) => Body::File(blob, chunk.header.len(), None),
            Rows::Stream(stream, crc) => {
                stream.settle(layout, start)?;
                // The array may have been another one when it began.
                if conversion.is_none() && !stream.is_converted() {
                    return Ok(crc);
                }
                Body::File(&*layout.data, start, Some(stream.bands()))
            }
        };
        match conversion {
            Some(conversion) => self.convert(conversion, body, &*layout.data, start),
            None => copy_rows(body, end - start, &*layout.data, start),
        }
    }

    /// Writes the converted rows to `data`, from `start` on, which may be where they come from.
    /// Answers their checksum.
    fn convert(
        &self,
        conversion: &Conversion,
        body: Body<'_>,
        data: &dyn StoreFile,
        start: u64,
    ) -> Result<u32> {
        let write = |at: u64, rows: &[u8]| {
            data.write_at(rows, start + at)
                .context(|| "cannot append the rows to data.npy".into())
        };
        let budget = &self.options.memory;
        match body {
            Body::Memory(bytes) => {
                let read = |offset: u64, buffer: &mut [u8]| {
                    let at = offset as usize;
                    let source = bytes
                        .get(at..at + buffer.len())
                        .ok_or_else(|| err!(EIO, "the chunk's body ends early"))?;
                    buffer.copy_from_slice(source);
                    Ok(())
                };
                let source = Source {
                    read: &read,
                    bands: None,
                };
                conversion.run(CONVERSION_MEMORY, 1, &source, &write)
            }
            Body::File(blob, from, bands) => {
                let read = |offset: u64, buffer: &mut [u8]| {
                    read_exact_at(blob, buffer, from + offset)
                        .context(|| "cannot read the chunk back".into())
                };
                let source = Source { read: &read, bands };
                if bands.is_some() {
                    let (threads, _permits) = budget.threads();
                    conversion.run(budget.share(), threads, &source, &write)
                } else {
                    conversion.run(CONVERSION_MEMORY, 1, &source, &write)
                }
            }
        }
    }

    /// What the journal is to say of the chunk.
    fn chunk_records<'a>(
        &self,
        chunk: &ChunkCommit<'a>,
        first_row: u64,
        crc: u32,
        layout: &Layout,
        now: i64,
    ) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let name = chunk.name.as_bytes();
        let published = self.published();
        let catalog = &published.catalog;
        // In the same append as the chunk that has the name from now on.
        let forgotten = catalog.find(chunk.name).map(|_| {
            let at = Some(now);
            Record::Forgotten { name, at }
        });
        let known = catalog.known_header(chunk.head);
        let header = known.unwrap_or_else(|| catalog.next_header());
        let new_header = known
            .is_none()
            .then_some(Record::Header { bytes: chunk.head });
        let committed = Record::Chunk(ChunkRecord {
            name,
            first_row,
            rows: chunk.header.rows(),
            header,
            crc,
            converted: Conversion::needed(chunk.header, layout.dtype()).is_some(),
            attributes: chunk.attributes,
            committed: now,
        });
        forgotten.into_iter().chain(new_header).chain([committed])
    }

    /// The array to be, in the form that this header asks for. The first commit sets the array's
    /// byte order too, so a chunk of another one has an array of its own to stream into.
    pub(crate) fn new_array(&self, writer: &mut Writer, header: &Header) -> Result<Arc<NewArray>> {
        if writer.expects(header)
            && let Some(new_array) = &writer.new_array
        {
            return Ok(new_array.clone());
        }
        let published = GrowableHeader::new(header.dtype(), header.row_shape())?;
        let file = TempFile::create(&self.folder, Holds::Other, None)
            .context(|| "cannot create data.npy".into())?;
        let form = HeaderKind::Growable(published);
        let layout = Arc::new(Layout::new(form, file.shared_blob()));
        let new_array = Arc::new(NewArray {
            layout,
            file: Mutex::new(Some(file)),
        });
        // Streams in an array of another form go on there: their chunks are refused at their commits,
        // by the check against the array that came first.
        writer.tail.clear();
        writer.new_array = Some(new_array.clone());
        Ok(new_array)
    }

    /// Puts the whole array, its count included, at a name that recovery knows.
    fn write_new(&self, new_array: &NewArray, count: u64) -> Result<()> {
        let header = new_array.layout.header_bytes(count);
        new_array
            .layout
            .data
            .write_at(&header, 0)
            .context(|| "cannot write the header of data.npy".into())?;
        let mut file = new_array
            .file
            .lock()
            .map_err(|_| err!(EIO, "a failure inside npyfs ended the array's birth"))?;
        if let Some(file) = file.take() {
            self.folder
                .hand_over(file.blob())
                .context(|| "cannot give data.npy its owner and mode".into())?;
            file.persist(Path::new(NEW_DATA))
                .context(|| "cannot create data.npy".into())?;
        }
        Ok(())
    }
}

/// Rows that were streamed are still in the file, unless another program has cut it since.
fn is_whole(layout: &Layout, end: u64) -> Result<()> {
    let len = layout
        .data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    if len < end {
        return Err(err!(
            EIO,
            "data.npy was cut in the store while the chunk was written: it has {len} bytes, and should have {end}"
        ));
    }
    Ok(())
}

enum Body<'a> {
    Memory(&'a [u8]),
    /// From this offset on, in bands or as it came.
    File(&'a dyn StoreFile, u64, Option<&'a Bands>),
}

/// Copies rows that are stored as they came, and sums them up. They may lie in their place already.
fn copy_rows(body: Body<'_>, len: u64, data: &dyn StoreFile, start: u64) -> Result<u32> {
    let (mut crc, mut at) = (0, start);
    let mut put = |rows: &[u8]| {
        data.write_at(rows, at)?;
        at += rows.len() as u64;
        crc = crc32c::crc32c_append(crc, rows);
        Ok(())
    };
    match body {
        Body::Memory(rows) => put(rows).context(|| "cannot append the rows to data.npy".into())?,
        Body::File(blob, from, _) => read_pieces(blob, from, len, put)
            .context(|| "cannot copy the rows to their place".into())?,
    }
    if at == start + len {
        Ok(crc)
    } else {
        let wrote = at - start;
        Err(err!(EIO, "wrote {wrote} of {len} bytes of rows"))
    }
}
