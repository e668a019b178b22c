//! Bands: the parts of the result in which a body in Fortran order is transposed.
//!
//! A band is a range of the result that fits in memory, and a box of the array: one index of the
//! first axes, a part of the next, all of the others. A body that streams is stored in bands: every
//! band at the place of its result, its items in the order in which they come (Fortran order within
//! the box). What one band is made of then lies together, just where its result goes, so that a
//! body is transposed in place, band by band, and takes no space beside itself.

use std::borrow::Cow;
use std::io;

/// How a body is cut into bands. With no axes it is not: everything is stored as it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bands {
    /// Bytes of an item.
    item: u64,
    /// The array's dimensions.
    dims: Vec<u64>,
    /// A band's: 1 on the first axes, a part of one, the whole of the last.
    step: Vec<u64>,
}

/// A part of the result, as a box of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Band {
    /// Where in the result it begins, in bytes.
    pub(crate) start: u64,
    /// The index of its first item.
    pub(crate) low: Vec<u64>,
    /// Its items along each axis.
    pub(crate) len: Vec<u64>,
}

type Put<'a> = &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>;
type Get<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

impl Bands {
    /// Bands of at most `memory` bytes (but one item at least), all of about the same size.
    pub(crate) fn new(item: u64, dims: &[u64], memory: u64) -> Self {
        let limit = memory / item.max(1);
        let mut step = vec![1; dims.len()];
        let mut items = 1;
        for (step, &dim) in step.iter_mut().zip(dims).rev() {
            *step = even(dim, limit / items);
            items *= *step;
            if *step < dim {
                break;
            }
        }
        Self {
            item,
            dims: dims.to_vec(),
            step,
        }
    }

    /// How many bands there are.
    pub(crate) fn count(&self) -> u64 {
        let along = |(dim, step): (&u64, &u64)| dim.div_ceil(*step);
        self.dims.iter().zip(&self.step).map(along).product()
    }

    /// The items of the largest band.
    pub(crate) fn items(&self) -> u64 {
        self.step.iter().product()
    }

    /// The `n`-th band of the result.
    pub(crate) fn band(&self, mut n: u64) -> Band {
        let rank = self.dims.len();
        let (mut low, mut len) = (vec![0; rank], vec![0; rank]);
        let (mut start, mut stride) = (0, self.item);
        for j in (0..rank).rev() {
            let along = self.dims[j].div_ceil(self.step[j]);
            low[j] = n % along * self.step[j];
            len[j] = self.step[j].min(self.dims[j] - low[j]);
            n /= along;
            start += low[j] * stride;
            stride *= self.dims[j];
        }
        Band { start, low, len }
    }

    /// Hands `data`, the bytes of the body from `offset` on, to `put(where, bytes)`: as few pieces
    /// as it takes to store each byte in its band.
    ///
    /// # Errors
    /// The first of `put`.
    pub(crate) fn scatter(&self, offset: u64, data: &[u8], put: Put<'_>) -> io::Result<()> {
        self.scatter_from(0, 0, offset, data, put)
    }

    /// The same for what one index of the axes before `axis` leaves, which is stored from `start`.
    fn scatter_from(
        &self,
        axis: usize,
        start: u64,
        offset: u64,
        data: &[u8],
        put: Put<'_>,
    ) -> io::Result<()> {
        let Some(cuts) = self.cuts(axis) else {
            return put(start + offset, data);
        };
        for (at, cut) in cuts {
            let (from, to) = cut.range(offset, data.len());
            if from < to {
                let piece = cut.pick(offset, data, from, to);
                self.scatter_from(axis + 1, start + at, from, &piece, put)?;
            }
        }
        Ok(())
    }

    /// The reverse: fills `buffer` with the bytes of the body from `offset` on, through `get(where,
    /// piece)`.
    ///
    /// # Errors
    /// The first of `get`.
    pub(crate) fn gather(&self, offset: u64, buffer: &mut [u8], get: Get<'_>) -> io::Result<()> {
        self.gather_from(0, 0, offset, buffer, get)
    }

    fn gather_from(
        &self,
        axis: usize,
        start: u64,
        offset: u64,
        buffer: &mut [u8],
        get: Get<'_>,
    ) -> io::Result<()> {
        let Some(cuts) = self.cuts(axis) else {
            return get(start + offset, buffer);
        };
        for (at, cut) in cuts {
            let (from, to) = cut.range(offset, buffer.len());
            if from < to {
                let mut piece = vec![0; (to - from) as usize];
                self.gather_from(axis + 1, start + at, from, &mut piece, get)?;
                cut.lay(offset, buffer, from, &piece);
            }
        }
        Ok(())
    }

    /// What the bands take of each run along `axis`, and where the result of that begins; `None`
    /// where all of the rest is in one band.
    fn cuts(&self, axis: usize) -> Option<impl Iterator<Item = (u64, Cut)>> {
        let (&dim, &step) = self.dims.get(axis).zip(self.step.get(axis))?;
        if step == dim {
            return None;
        }
        let item = self.item;
        let rest: u64 = self.dims[axis + 1..].iter().product();
        Some((0..dim).step_by(step as usize).map(move |low| {
            let cut = Cut {
                column: dim * item,
                low: low * item,
                len: step.min(dim - low) * item,
            };
            (low * rest * item, cut)
        }))
    }
}

/// The same part of every run of `column` bytes: `len` bytes from `low` on. All of them, one
/// after the other, are what is counted here as `from` and `to`.
#[derive(Clone, Copy)]
struct Cut {
    column: u64,
    low: u64,
    len: u64,
}

impl Cut {
    /// Which of the cut's bytes are among the `len` at `offset`.
    fn range(&self, offset: u64, len: usize) -> (u64, u64) {
        let before = |at: u64| {
            let inside = (at % self.column).saturating_sub(self.low).min(self.len);
            at / self.column * self.len + inside
        };
        (before(offset), before(offset + len as u64))
    }

    /// Where byte `n` of the cut is.
    fn place(&self, n: u64) -> u64 {
        n / self.len * self.column + self.low + n % self.len
    }

    /// How many bytes from byte `n` on lie together.
    fn run(&self, n: u64) -> u64 {
        self.len - n % self.len
    }

    /// The bytes from `from` to `to` of the cut, where `data` is what lies at `offset`.
    fn pick<'a>(&self, offset: u64, data: &'a [u8], from: u64, to: u64) -> Cow<'a, [u8]> {
        let begin = (self.place(from) - offset) as usize;
        let (run, all) = (self.run(from) as usize, (to - from) as usize);
        if all <= run {
            return Cow::Borrowed(&data[begin..begin + all]);
        }
        let mut piece = vec![0; all];
        // The first may be the rest of a run, and then all others begin where one does.
        let (first, rest) = piece.split_at_mut(run);
        first.copy_from_slice(&data[begin..begin + run]);
        let begin = (self.place(from + run as u64) - offset) as usize;
        let (column, len) = (self.column as usize, self.len as usize);
        match len {
            4 => pick_runs::<4>(&data[begin..], column, rest),
            8 => pick_runs::<8>(&data[begin..], column, rest),
            16 => pick_runs::<16>(&data[begin..], column, rest),
            _ => {
                for (run, column) in rest.chunks_mut(len).zip(data[begin..].chunks(column)) {
                    run.copy_from_slice(&column[..run.len()]);
                }
            }
        }
        Cow::Owned(piece)
    }

    /// The reverse of `pick`.
    fn lay(&self, offset: u64, data: &mut [u8], from: u64, piece: &[u8]) {
        let mut done = 0;
        while done < piece.len() {
            let n = from + done as u64;
            let run = (self.run(n) as usize).min(piece.len() - done);
            let at = (self.place(n) - offset) as usize;
            data[at..at + run].copy_from_slice(&piece[done..done + run]);
            done += run;
        }
    }
}

/// Runs of a length that the compiler knows are copied many times faster.
fn pick_runs<const N: usize>(from: &[u8], column: usize, to: &mut [u8]) {
    let (whole, rest) = to.as_chunks_mut::<N>();
    let mut columns = from.chunks(column);
    for (run, column) in whole.iter_mut().zip(&mut columns) {
        if let Some(first) = column.first_chunk() {
            *run = *first;
        }
    }
    if let Some(column) = columns.next() {
        let n = rest.len();
        rest.copy_from_slice(&column[..n]);
    }
}

/// The length of the parts that `len` falls into if none may be longer than `most` (but 1): all of
/// about the same length.
pub(crate) fn even(len: u64, most: u64) -> u64 {
    let most = most.max(1);
    len.div_ceil(len.div_ceil(most).max(1)).max(1)
}
