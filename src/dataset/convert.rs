//! A chunk's rows in the dataset's byte order and C order, losslessly and in bounded memory.
//!
//! Only whole items move, and only the bytes of a number are reversed: no value changes (P9). The
//! result comes in sequence, because it is checksummed and appended as it comes. What is read out
//! of sequence is arranged so that reads are large: a Fortran-ordered body is taken in bands of
//! result, each as large as memory allows, and a band in boxes that fit the second-level cache.

use std::rc::Rc;

use crate::error::Result;
use crate::npy::reverse::{Axis, Reversal};
use crate::npy::swap::{boundary, repeat, swap};
use crate::npy::{Dtype, Header, Swap};

/// The largest box of items that is transposed at once, in bytes.
const SLAB: usize = 1 << 20;

/// The most that one read or write takes where the order stays, in bytes.
const WINDOW: usize = 1 << 20;

/// Items from this size on, in bytes, are read and written one by one.
const LARGE_ITEM: u64 = 64 << 10;

/// Bytes that are read for nothing rather than to begin another read: what a system call costs.
const GAP: u64 = 2 << 10;

/// Sizes of boxes to remember: whole ones, and those at the ends of two axes.
const REVERSALS: usize = 4;

/// What a run of items that are neighbours in the result should have at least, in bytes.
const RUN: u64 = 256;

/// What it takes to turn the bytes of a chunk into rows of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct Conversion {
    /// Bytes of an item.
    item: u64,
    /// Bytes of the body.
    body: u64,
    /// Runs to reverse in each item.
    item_swaps: Vec<Swap>,
    /// The same for the whole body.
    body_swaps: Vec<Swap>,
    /// The dimensions longer than 1 of a body in Fortran order; empty where the order stays.
    dims: Vec<u64>,
}

type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<()>;
type Write<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

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

    /// Reads the body through `read(offset in the body, buffer)`, which fills the buffer, and hands
    /// the converted rows to `write` from first to last, with at most about `memory` bytes of
    /// buffers (and a little in any case).
    ///
    /// Where the body is larger than `memory` and its first dimension is short (a column is hardly
    /// longer than 2 KiB), bytes are read once for every `memory` of result: the result comes in
    /// sequence, and to read only what is due would take too many reads.
    ///
    /// # Errors
    /// The first error of `read` or `write`.
    pub(crate) fn run(&self, memory: usize, read: Read<'_>, write: Write<'_>) -> Result<()> {
        if self.dims.is_empty() {
            return self.pass(0, self.body, &self.body_swaps, memory, read, write);
        }
        if self.item >= LARGE_ITEM || self.item.saturating_mul(8) > memory as u64 {
            return self.item_by_item(memory, read, write);
        }
        self.bands(memory, read, write)
    }

    /// `len` bytes from `start` on, in their order.
    fn pass(
        &self,
        start: u64,
        len: u64,
        swaps: &[Swap],
        memory: usize,
        read: Read<'_>,
        write: Write<'_>,
    ) -> Result<()> {
        // No element is cut, so the least window must hold the largest element.
        let window = memory.clamp(64, WINDOW) as u64;
        let mut buffer = vec![0; window.min(len) as usize];
        let mut at = 0;
        while at < len {
            let end = boundary(swaps, len.min(at + window));
            let buffer = &mut buffer[..(end - at) as usize];
            read(start + at, buffer)?;
            swap(swaps, at, buffer);
            write(buffer)?;
            at = end;
        }
        Ok(())
    }

    fn item_by_item(&self, memory: usize, read: Read<'_>, write: Write<'_>) -> Result<()> {
        let rank = self.dims.len();
        let mut at = vec![0; rank];
        loop {
            let from = offset(&at, &fortran_strides(&self.dims)) * self.item;
            self.pass(from, self.item, &self.item_swaps, memory, read, write)?;
            if !advance(&mut at, &self.dims, &vec![1; rank], (0..rank).rev()) {
                return Ok(());
            }
        }
    }

    /// Band by band: each is a range of the result, a box whose first axes are one item long, one
    /// axis partial, and the last axes whole.
    fn bands(&self, memory: usize, read: Read<'_>, write: Write<'_>) -> Result<()> {
        let rank = self.dims.len();
        let slab = (memory / 4).min(SLAB) as u64 / self.item;
        let limit = memory as u64 / self.item - slab;
        let mut step = vec![1; rank];
        let mut items = 1;
        for (step, &dim) in step.iter_mut().zip(&self.dims).rev() {
            *step = even(dim, limit / items);
            items *= *step;
            if *step < dim {
                break;
            }
        }
        let mut band = Band {
            conversion: self,
            low: vec![0; rank],
            len: step.clone(),
            slab_items: slab,
            slab: vec![0; (slab.min(self.body / self.item) * self.item) as usize],
            out: vec![0; (items * self.item) as usize],
            reversals: Vec::new(),
        };
        loop {
            for (j, len) in band.len.iter_mut().enumerate() {
                *len = step[j].min(self.dims[j] - band.low[j]);
            }
            let bytes = (band.len.iter().product::<u64>() * self.item) as usize;
            band.fill(read)?;
            write(&band.out[..bytes])?;
            if !advance(&mut band.low, &self.dims, &step, (0..rank).rev()) {
                return Ok(());
            }
        }
    }
}

/// A range of the result on its way, and what it is made of.
struct Band<'a> {
    conversion: &'a Conversion,
    /// The index of its first item.
    low: Vec<u64>,
    /// Its items along each axis.
    len: Vec<u64>,
    /// Items that `slab` may hold.
    slab_items: u64,
    slab: Vec<u8>,
    out: Vec<u8>,
    /// What the latest boxes were placed by: most are of the same size.
    reversals: Vec<Rc<Reversal>>,
}

impl Band<'_> {
    /// Reads the band's items, box by box, into `out`.
    fn fill(&mut self, read: Read<'_>) -> Result<()> {
        let rank = self.len.len();
        let whole = self.whole_axes();
        let step = self.box_of(whole);
        let mut at = vec![0; rank];
        loop {
            let mut size = step.clone();
            for j in whole..rank {
                size[j] = step[j].min(self.len[j] - at[j]);
            }
            self.read_box(whole, &at, &size, read)?;
            self.place(whole, &at, &size);
            if !advance(&mut at, &self.len, &step, (whole..rank).rev()) {
                return Ok(());
            }
        }
    }

    /// How many of the first axes to read whole though the band has only a part of some: where the
    /// rest is less than another read costs, and a box has room for it.
    fn whole_axes(&self) -> usize {
        let dims = &self.conversion.dims;
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
        let dims = &self.conversion.dims;
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
    fn read_box(&mut self, whole: usize, at: &[u64], size: &[u64], read: Read<'_>) -> Result<()> {
        let Conversion { dims, item, .. } = self.conversion;
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
            read((start + offset(&index, &strides)) * item, part)?;
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
            let new = Rc::new(Reversal::new(axes));
            self.reversals.truncate(REVERSALS - 1);
            self.reversals.insert(0, new.clone());
            new
        });
        reversal.run(item as usize, &self.slab[from..], &mut self.out[to..]);
    }
}

/// The length of the parts that `len` falls into if none may be longer than `most` (but 1): all of
/// about the same length.
fn even(len: u64, most: u64) -> u64 {
    let most = most.max(1);
    len.div_ceil(len.div_ceil(most).max(1)).max(1)
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

/// The next index in steps of `step` below `len`, along `axes` from the fastest; false behind the
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
mod tests {
    use super::*;
    use crate::npy::literal::Literal;
    use crate::npy::{Prefix, strategy};
    use proptest::prelude::*;

    fn dtype(descr: &str) -> Dtype {
        Dtype::from_literal(&Literal::parse(descr).unwrap().0).unwrap()
    }

    fn header(dtype: &Dtype, fortran: bool, shape: &[u64]) -> Header {
        let fortran = if fortran { "True" } else { "False" };
        let shape: String = shape.iter().map(|dim| format!("{dim},")).collect();
        let text = format!("{{'descr':{dtype},'fortran_order':{fortran},'shape':({shape})}}");
        let mut bytes = b"\x93NUMPY\x03\x00".to_vec();
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        match Header::parse(&bytes) {
            Ok(Prefix::Complete(header)) => header,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// What the conversion gives, how many reads it took, and the bytes that they read.
    fn convert(conversion: &Conversion, memory: usize, body: &[u8]) -> (Vec<u8>, u64, u64) {
        let mut out = Vec::new();
        let (mut reads, mut bytes) = (0, 0);
        let mut read = |at: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&body[at as usize..][..buffer.len()]);
            assert!(buffer.len() <= memory.max(64));
            reads += 1;
            bytes += buffer.len() as u64;
            Ok(())
        };
        let mut write = |bytes: &[u8]| {
            assert!(bytes.len() <= memory.max(64));
            out.extend_from_slice(bytes);
            Ok(())
        };
        conversion.run(memory, &mut read, &mut write).unwrap();
        (out, reads, bytes)
    }

    /// Item by item, as the definitions of Fortran order and byte order have it.
    fn reference(chunk: &Header, dataset: &Dtype, body: &[u8]) -> Vec<u8> {
        let item = chunk.dtype().itemsize() as usize;
        let mut out = Vec::new();
        let shape = chunk.shape();
        let swaps = chunk.dtype().swaps(dataset);
        for i in 0..body.len() / item.max(1) {
            let (mut rest, mut from, mut size) = (i as u64, 0, 1);
            let mut index = vec![0; shape.len()];
            for (index, dim) in index.iter_mut().zip(shape).rev() {
                *index = rest % dim;
                rest /= dim;
            }
            for (index, dim) in index.iter().zip(shape) {
                from += index * size;
                size *= dim;
            }
            let from = if chunk.fortran_order() {
                from as usize
            } else {
                i
            };
            let mut bytes = body[from * item..][..item].to_vec();
            naive_swap(&swaps, &mut bytes);
            out.extend_from_slice(&bytes);
        }
        out
    }

    fn naive_swap(swaps: &[Swap], bytes: &mut [u8]) {
        for swap in swaps {
            for i in 0..swap.count {
                let at = (swap.offset + i * swap.width) as usize;
                let element = &mut bytes[at..at + swap.width as usize];
                match swap.inner.is_empty() {
                    true => element.reverse(),
                    false => naive_swap(&swap.inner, element),
                }
            }
        }
    }

    fn body(len: u64) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn check(chunk: &Header, dataset: &Dtype, memory: usize) {
        let body = body(chunk.body_bytes());
        let expected = reference(chunk, dataset, &body);
        match Conversion::needed(chunk, dataset) {
            None => assert_eq!(expected, body),
            Some(conversion) => {
                let (rows, ..) = convert(&conversion, memory, &body);
                assert!(rows == expected, "{:?} in {memory}", chunk.shape());
            }
        }
    }

    #[test]
    fn bytes_that_are_rows_already_need_no_conversion() {
        let (little, big) = (dtype("'<f8'"), dtype("'>f8'"));
        let needed = |chunk: &Header| Conversion::needed(chunk, &little).is_some();
        assert!(!needed(&header(&little, false, &[2, 3])));
        assert!(!needed(&header(&little, true, &[7])));
        assert!(!needed(&header(&little, true, &[1, 7, 1])));
        assert!(!needed(&header(&big, true, &[0, 7])));
        assert!(!needed(&header(&big, true, &[3, 0])));
        assert!(needed(&header(&little, true, &[2, 3])));
        assert!(needed(&header(&big, false, &[1])));
    }

    #[test]
    fn items_larger_than_memory_pass_in_pieces() {
        let big = dtype("[('a', '|V1'), ('b', [('c', '>f8'), ('d', '|u1')], (20000,))]");
        let little = dtype("[('a', '|V1'), ('b', [('c', '<f8'), ('d', '|u1')], (20000,))]");
        for fortran in [false, true] {
            for memory in [0, 100, 4096, 1 << 20] {
                check(&header(&big, fortran, &[2, 3]), &little, memory);
            }
        }
    }

    #[test]
    fn an_error_ends_the_conversion() {
        let chunk = header(&dtype("'<f8'"), true, &[100, 100]);
        let conversion = Conversion::needed(&chunk, &dtype("'<f8'")).unwrap();
        let fail = || Err(crate::err!(EIO, "the disk is gone"));
        let read = conversion.run(1000, &mut |_, _| fail(), &mut |_| Ok(()));
        let write = conversion.run(1000, &mut |_, _| Ok(()), &mut |_| fail());
        assert!(read.is_err() && write.is_err());
    }

    #[test]
    fn reads_are_large_and_read_little_twice() {
        // Shape, bytes of memory, most reads, most bytes read in multiples of the body.
        for (shape, memory, most_reads, most) in [
            (&[2000, 1000][..], 1 << 20, 21_000, 1),
            (&[1000, 2000], 32 << 20, 16, 1),
            (&[50, 200, 200], 32 << 20, 600, 1),
            (&[4, 500_000], 1 << 20, 500, 4),
            (&[4, 500_000], 32 << 20, 16, 1),
            (&[2, 2, 2, 125_000, 2], 1 << 20, 2000, 8),
            (&[1_000_000, 2], 1 << 20, 300, 1),
        ] {
            let chunk = header(&dtype("'<f8'"), true, shape);
            let body = body(chunk.body_bytes());
            let conversion = Conversion::needed(&chunk, chunk.dtype()).unwrap();
            let (rows, reads, bytes) = convert(&conversion, memory, &body);
            assert!(rows == reference(&chunk, chunk.dtype(), &body), "{shape:?}");
            assert!(reads <= most_reads, "{shape:?}: {reads} reads");
            assert!(bytes <= most * chunk.body_bytes(), "{shape:?}: {bytes}");
        }
    }

    proptest! {
        #[test]
        fn any_chunk_becomes_the_rows_of_the_naive_reference(
            literal in strategy::descr(),
            fortran in any::<bool>(),
            flip in any::<bool>(),
            shape in prop::collection::vec(prop_oneof![1..6_u64, 1..40_u64], 1..5),
            memory in prop_oneof![0..300_usize, 300..5000_usize, Just(1_usize << 20)],
        ) {
            let chunk = Dtype::from_literal(&literal).unwrap();
            let flipped = if flip { strategy::flip(&literal) } else { literal };
            let dataset = Dtype::from_literal(&flipped).unwrap();
            let chunk = header(&chunk, fortran, &shape);
            prop_assume!(chunk.body_bytes() < 1 << 18);
            check(&chunk, &dataset, memory);
        }

        #[test]
        fn any_shape_of_numbers_is_transposed_in_any_memory(
            size in prop::sample::select(vec!["u1", "u2", "f4", "f8", "c16", "V3"]),
            shape in prop::collection::vec(prop_oneof![1..4_u64, 1..300_u64], 2..5),
            memory in prop_oneof![8..2000_usize, 2000..100_000_usize],
        ) {
            let little = dtype(&format!("'<{size}'"));
            let chunk = shape.iter().product::<u64>() * little.itemsize();
            prop_assume!(chunk < 1 << 18);
            check(&header(&dtype(&format!("'>{size}'")), true, &shape), &little, memory);
        }
    }
}
