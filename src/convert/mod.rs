//! A chunk's rows in the dataset's byte order and C order, losslessly and in bounded memory.
//!
//! Only whole items move, and only the bytes of a number are reversed: no value changes (P9). The
//! result comes in parts, on as many threads as there is memory for, and each part is read before
//! it is written: where a body lies as [`Bands`] have it, or keeps its order, source and target may
//! be the same place. Where a body in Fortran order lies as it came, reads are made large: a band
//! is filled in boxes that fit the second-level cache.

pub(crate) mod bands;
pub(crate) mod budget;
pub(crate) mod transpose;

use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::convert::bands::{Band, Bands, even};
use crate::convert::transpose::{Axis, Transpose};
use crate::error::Result;
use crate::npy::byteswap::{boundary, repeat, swap};
use crate::npy::{ByteSwap, Dtype, Header};

/// The largest box of items that is transposed at once, in bytes.
const SLAB: usize = 1 << 20;

/// The most that one read or write takes where the order stays, in bytes.
const WINDOW: usize = 1 << 20;

/// How many windows make a part of the result where the order stays.
const WINDOWS: u64 = 16;

/// Items from this size on, in bytes, are read and written one by one.
const LARGE_ITEM: u64 = 64 << 10;

/// Bytes that are read for nothing rather than to begin another read: what a system call costs.
const GAP: u64 = 2 << 10;

/// Sizes of boxes to remember: whole ones, and those at the ends of two axes.
const REVERSALS: usize = 4;

/// What a run of items that are neighbours in the result should have at least, in bytes.
const RUN: u64 = 256;

/// A body has this many bands at least, so that several threads share it, unless the bands would
/// be smaller than `LEAST_BAND`.
const BANDS: u64 = 8;

/// Bytes below which it is not worth while to start another thread.
const LEAST_BAND: u64 = 1 << 20;

/// What it takes to turn the bytes of a chunk into rows of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct Conversion {
    /// Bytes of an item.
    item: u64,
    /// Bytes of the body.
    body: u64,
    /// Runs to reverse in each item.
    item_swaps: Vec<ByteSwap>,
    /// The same for the whole body.
    body_swaps: Vec<ByteSwap>,
    /// The dimensions longer than 1 of a body in Fortran order; empty where the order stays.
    dims: Vec<u64>,
}

/// Where the bytes of a body are.
pub(crate) struct Source<'a> {
    /// `read(offset, buffer)` fills the buffer.
    pub(crate) read: &'a Read<'a>,
    /// How the body lies there; `None` is as it came.
    pub(crate) bands: Option<&'a Bands>,
}

type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a;
type Write<'a> = dyn Fn(u64, &[u8]) -> Result<()> + Sync + 'a;

impl Conversion {
    /// What `chunk` needs to become rows of a dataset of `dataset`, whose values are the same
    /// ([`Dtype::same_values`]); `None` where its bytes are these rows already.
    pub(crate) fn needed(chunk: &Header, dataset: &Dtype) -> Option<Self> {
        let (item, body) = (chunk.dtype().itemsize(), chunk.body_bytes());
        let item_swaps = chunk.dtype().swaps(dataset);
        if body == 0 || (!chunk.fortran_order() && item_swaps.is_empty()) {
            return None;
        }
        let mut dims = Vec::new();
        if chunk.fortran_order() {
            dims.extend(chunk.shape().iter().filter(|&&dim| dim > 1));
        }
        Some(Self {
            item,
            body,
            body_swaps: repeat(item_swaps.clone(), item, body / item),
            item_swaps,
            dims,
        })
    }

    /// How the body should lie where it is to be converted in place with `memory` for each band;
    /// `None` where it cannot be, because its items are too large.
    pub(crate) fn in_place(&self, memory: usize) -> Option<Bands> {
        if self.dims.is_empty() {
            return Some(Bands::default());
        }
        (!self.is_item_by_item(memory)).then(|| self.bands(memory))
    }

    fn bands(&self, memory: usize) -> Bands {
        let share = (self.body / BANDS).max(LEAST_BAND);
        Bands::new(self.item, &self.dims, share.min(memory as u64))
    }

    fn is_item_by_item(&self, memory: usize) -> bool {
        self.item >= LARGE_ITEM || self.item.saturating_mul(8) > memory as u64
    }

    /// Hands the converted rows to `write(offset in the rows, bytes)`, in any order, and answers
    /// the checksum of all of them. Each of `threads` takes about `memory` bytes of buffers (and a
    /// little in any case).
    ///
    /// Where a body that lies as it came is larger than `memory` and its first dimension is short
    /// (a column is hardly longer than 2 KiB), bytes are read once for every band: to read only
    /// what is due would take too many reads.
    ///
    /// # Errors
    /// The first error of reading or `write`.
    pub(crate) fn run(
        &self,
        memory: usize,
        threads: usize,
        source: &Source<'_>,
        write: &Write<'_>,
    ) -> Result<u32> {
        let read = source.read;
        if self.dims.is_empty() {
            let part = WINDOW as u64 * WINDOWS;
            let end_of = |n: u64| boundary(&self.body_swaps, self.body.min(n * part));
            return in_parts(self.body.div_ceil(part), threads, || {
                let mut buffer = Vec::new();
                move |n| {
                    let range = end_of(n)..end_of(n + 1);
                    let mut sum = Sum::default();
                    pass(
                        &self.body_swaps,
                        range,
                        memory,
                        &mut buffer,
                        read,
                        &mut |at, rows| {
                            sum.add(rows);
                            write(at, rows)
                        },
                    )?;
                    Ok(sum)
                }
            });
        }
        if source.bands.is_none() && self.is_item_by_item(memory) {
            return in_parts(1, 1, || |_| self.item_by_item(memory, read, write));
        }
        let slab = (memory / 4).min(SLAB);
        let band = (memory - slab) as u64;
        let own = source
            .bands
            .is_none()
            .then(|| Bands::new(self.item, &self.dims, band));
        let Some(bands) = source.bands.or(own.as_ref()) else {
            return Ok(0);
        };
        in_parts(bands.count(), threads, || {
            let mut press = TileBuffer::new(self, bands, slab as u64);
            move |n| {
                let band = bands.band(n);
                let start = band.start;
                let rows = press.fill(band, source)?;
                write(start, rows)?;
                let mut sum = Sum::default();
                sum.add(rows);
                Ok(sum)
            }
        })
    }

    fn item_by_item(&self, memory: usize, read: &Read<'_>, write: &Write<'_>) -> Result<Sum> {
        let rank = self.dims.len();
        let strides = fortran_strides(&self.dims);
        let (mut sum, mut to, mut buffer) = (Sum::default(), 0, Vec::new());
        let mut at = vec![0; rank];
        loop {
            let from = offset(&at, &strides) * self.item;
            let mut put = |at: u64, rows: &[u8]| {
                sum.add(rows);
                write(to + at, rows)
            };
            let read = |at: u64, buffer: &mut [u8]| read(from + at, buffer);
            pass(
                &self.item_swaps,
                0..self.item,
                memory,
                &mut buffer,
                &read,
                &mut put,
            )?;
            to += self.item;
            if !advance(&mut at, &self.dims, &vec![1; rank], (0..rank).rev()) {
                return Ok(sum);
            }
        }
    }
}

/// A checksum, and of how many bytes.
#[derive(Clone, Copy, Default)]
struct Sum {
    crc: u32,
    len: u64,
}

impl Sum {
    fn add(&mut self, rows: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, rows);
        self.len += rows.len() as u64;
    }
}

/// Runs `worker`s, one a thread, until all of `parts` are done; the checksum is that of all of them in order.
fn in_parts<W: FnMut(u64) -> Result<Sum>>(
    parts: u64,
    threads: usize,
    worker: impl Fn() -> W + Sync,
) -> Result<u32> {
    let next = AtomicU64::new(0);
    let sums = Mutex::new(vec![Sum::default(); parts as usize]);
    let work = || -> Result<()> {
        let mut worker = worker();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= parts {
                return Ok(());
            }
            // What the others have begun they finish.
            let sum = worker(n).inspect_err(|_| next.store(parts, Ordering::Relaxed))?;
            crate::lock(&sums)[n as usize] = sum;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..parts.min(threads as u64))
            // With fewer threads than there might be it takes longer.
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut result = work();
        for other in others {
            let ended = other.join();
            result = result.and(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        result
    })?;
    let all = crate::lock(&sums);
    Ok(all.iter().fold(0, |crc, part| {
        crc32c::crc32c_combine(crc, part.crc, part.len as usize)
    }))
}

/// The bytes of `range` in their order, through windows of at most `memory`.
fn pass(
    swaps: &[ByteSwap],
    range: std::ops::Range<u64>,
    memory: usize,
    buffer: &mut Vec<u8>,
    read: &Read<'_>,
    put: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    // No element is cut, so the least window must hold the largest element.
    let window = (memory.clamp(64, WINDOW) as u64).min(range.end - range.start);
    buffer.resize(window as usize, 0);
    let mut at = range.start;
    while at < range.end {
        let end = boundary(swaps, range.end.min(at + window));
        let buffer = &mut buffer[..(end - at) as usize];
        read(at, buffer)?;
        swap(swaps, at, buffer);
        put(at, buffer)?;
        at = end;
    }
    Ok(())
}

/// Where a thread transposes one band after the other.
struct TileBuffer<'a> {
    conversion: &'a Conversion,
    /// The index of the band's first item in what lies together: the whole body, or the band.
    low: Vec<u64>,
    /// The dimensions of that.
    dims: Vec<u64>,
    /// Where that begins, in bytes.
    base: u64,
    /// The band's items along each axis.
    len: Vec<u64>,
    /// Items that `slab` may hold.
    slab_items: u64,
    slab: Vec<u8>,
    out: Vec<u8>,
    /// What the latest boxes were placed by: most are of the same size.
    reversals: Vec<Rc<Transpose>>,
}

impl<'a> TileBuffer<'a> {
    fn new(conversion: &'a Conversion, bands: &Bands, slab: u64) -> Self {
        let item = conversion.item;
        let slab_items = (slab / item).max(1);
        Self {
            conversion,
            low: Vec::new(),
            dims: Vec::new(),
            base: 0,
            len: Vec::new(),
            slab_items,
            slab: vec![0; (slab_items.min(conversion.body / item) * item) as usize],
            out: vec![0; (bands.items() * item) as usize],
            reversals: Vec::new(),
        }
    }

    /// Reads the band's items, box by box, and puts them in their order.
    fn fill(&mut self, band: Band, source: &Source<'_>) -> Result<&[u8]> {
        (self.base, self.low, self.dims) = match source.bands {
            Some(_) => (band.start, vec![0; band.len.len()], band.len.clone()),
            None => (0, band.low, self.conversion.dims.clone()),
        };
        self.len = band.len;
        let rank = self.len.len();
        let whole = self.whole_axes();
        let step = self.box_of(whole);
        let mut at = vec![0; rank];
        loop {
            let mut size = step.clone();
            for j in whole..rank {
                size[j] = step[j].min(self.len[j] - at[j]);
            }
            self.read_box(whole, &at, &size, source.read)?;
            self.place(whole, &at, &size);
            if !advance(&mut at, &self.len, &step, (whole..rank).rev()) {
                let items: u64 = self.len.iter().product();
                return Ok(&self.out[..(items * self.conversion.item) as usize]);
            }
        }
    }

    /// How many of the first axes to read whole though the band has only a part of some: where the
    /// rest is less than another read costs, and a box has room for it.
    fn whole_axes(&self) -> usize {
        let dims = &self.dims;
        let mut whole = 0;
        let mut stride: u64 = 1;
        for (j, (&dim, &len)) in dims.iter().zip(&self.len).enumerate() {
            let gap = (dim - len).saturating_mul(stride.saturating_mul(self.conversion.item));
            stride = stride.saturating_mul(dim);
            if gap > GAP || stride > self.slab_items / 4 {
                break;
            }
            if len < dim {
                whole = j + 1;
            }
        }
        whole
    }

    /// The size of the boxes: at first long enough on the last axes to be worth a cache line of the
    /// result, then as long as there is room on the first, which makes reads large.
    fn box_of(&self, whole: usize) -> Vec<u64> {
        let dims = &self.dims;
        let mut size = vec![1; dims.len()];
        size[..whole].copy_from_slice(&dims[..whole]);
        let mut room = self.slab_items / size.iter().product::<u64>();
        let want = (RUN / self.conversion.item).max(16).min(room.isqrt());
        let mut run = 1;
        for j in (whole..size.len()).rev() {
            size[j] = even(self.len[j], want.div_ceil(run).min(room));
            room /= size[j];
            run *= size[j];
            if size[j] < self.len[j] || run >= want {
                break;
            }
        }
        for (size, &len) in size.iter_mut().zip(&self.len).skip(whole) {
            let most = room.saturating_mul(*size);
            *size = even(len, most).max(*size);
            room = most / *size;
            if *size < len {
                break;
            }
        }
        size
    }

    /// Reads a box of `size` items at `at` in the band (the whole axes: at 0 in the array) into the
    /// slab, where it lies in Fortran order.
    fn read_box(&mut self, whole: usize, at: &[u64], size: &[u64], read: &Read<'_>) -> Result<()> {
        let (dims, item) = (&self.dims, self.conversion.item);
        let rank = dims.len();
        let strides = fortran_strides(dims);
        let start: u64 = (whole..rank)
            .map(|j| (self.low[j] + at[j]) * strides[j])
            .sum();
        // Items are neighbours along all axes that are read whole, and the next one.
        let partial = (0..rank).find(|&j| size[j] < dims[j]).unwrap_or(rank - 1);
        let run = (size[..=partial].iter().product::<u64>() * item) as usize;
        let mut index = vec![0; rank];
        let bytes = (size.iter().product::<u64>() * item) as usize;
        for part in self.slab[..bytes].chunks_exact_mut(run) {
            read(self.base + (start + offset(&index, &strides)) * item, part)?;
            advance(&mut index, size, &vec![1; rank], partial + 1..rank);
        }
        swap(&self.conversion.body_swaps, 0, &mut self.slab[..bytes]);
        Ok(())
    }

    /// Puts what the band has of the box in the slab into its place.
    fn place(&mut self, whole: usize, at: &[u64], size: &[u64]) {
        let source = fortran_strides(size);
        let target = c_strides(&self.len);
        let axes: Vec<Axis> = (0..size.len())
            .map(|j| Axis {
                len: if j < whole { self.len[j] } else { size[j] } as usize,
                source: source[j] as usize,
                target: target[j] as usize,
            })
            .collect();
        let item = self.conversion.item;
        let from = (offset(&self.low[..whole], &source) * item) as usize;
        let to = (offset(&at[whole..], &target[whole..]) * item) as usize;
        let known = self.reversals.iter().find(|known| known.axes() == axes);
        let reversal = known.cloned().unwrap_or_else(|| {
            let new = Rc::new(Transpose::new(axes));
            self.reversals.truncate(REVERSALS - 1);
            self.reversals.insert(0, new.clone());
            new
        });
        reversal.run(item as usize, &self.slab[from..], &mut self.out[to..]);
    }
}

/// Items from one to the next along each axis where the first runs fastest.
fn fortran_strides(dims: &[u64]) -> Vec<u64> {
    let mut stride = 1;
    let mut strides = Vec::with_capacity(dims.len());
    for dim in dims {
        strides.push(stride);
        stride *= dim;
    }
    strides
}

/// The same where the last runs fastest.
fn c_strides(dims: &[u64]) -> Vec<u64> {
    let reversed: Vec<u64> = dims.iter().rev().copied().collect();
    let mut strides = fortran_strides(&reversed);
    strides.reverse();
    strides
}

fn offset(index: &[u64], strides: &[u64]) -> u64 {
    index
        .iter()
        .zip(strides)
        .map(|(i, stride)| i * stride)
        .sum()
}

/// The next index in steps of `step` below `len`, along `axes` from the fastest; false after the
/// last, where it begins again at 0.
fn advance(at: &mut [u64], len: &[u64], step: &[u64], axes: impl Iterator<Item = usize>) -> bool {
    for j in axes {
        at[j] += step[j];
        if at[j] < len[j] {
            return true;
        }
        at[j] = 0;
    }
    false
}

#[cfg(test)]
mod tests;
