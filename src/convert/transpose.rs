//! The axes of a box of items reversed in memory: Fortran order to C order.
//!
//! A transposition is bound by the cache, not by the processor. So items pass in small square
//! tiles through a buffer that stays in the first-level cache: each cache line of the source and
//! of the target is touched once, however unfortunate (a power of two, say) the strides are. Short
//! axes are joined until they fill a tile.

use std::ops::Range;

/// Items on a side of a tile.
const TILE: usize = 32;

/// One axis of the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Items along the axis.
    pub len: usize,
    /// Items from one to the next in the source; grows from axis to axis.
    pub source: usize,
    /// Items from one to the next in the target; shrinks from axis to axis.
    pub target: usize,
}

/// How to reverse the axes of boxes of one size: worth keeping for the next box.
///
/// The axes form three groups: those that are fastest in the source (p), those that are fastest in
/// the target (q), and those between.
#[derive(Debug)]
pub(crate) struct Transpose {
    axes: Vec<Axis>,
    p: Group,
    q: Group,
    between: Vec<Axis>,
}

/// A few neighbouring axes as one: where each item of it lies.
#[derive(Debug)]
struct Group {
    source: Vec<usize>,
    target: Vec<usize>,
    tiles: Vec<Side>,
}

/// One side of a tile: which items, and whether they lie directly one after the other.
#[derive(Debug)]
struct Side {
    items: Range<usize>,
    source_run: bool,
    target_run: bool,
}

/// What of a group belongs to a tile.
struct Line<'a> {
    source: &'a [usize],
    target: &'a [usize],
    source_run: bool,
    target_run: bool,
}

struct Tile<'a> {
    p: Line<'a>,
    q: Line<'a>,
    source: usize,
    target: usize,
}

impl Transpose {
    /// Reverses `axes`, the first of which runs fastest in the source and the last in the target.
    pub(crate) fn new(axes: Vec<Axis>) -> Self {
        let long: Vec<Axis> = axes.iter().copied().filter(|axis| axis.len != 1).collect();
        let (mut end, mut start) = (usize::from(long.len() > 1), long.len().saturating_sub(1));
        let len = |axes: &[Axis]| axes.iter().map(|axis| axis.len).product::<usize>();
        while end < start && len(&long[..end]) < TILE {
            end += 1;
        }
        while end < start && len(&long[start..]) < TILE {
            start -= 1;
        }
        Self {
            p: Group::new(long[..end].iter().rev()),
            q: Group::new(long[start..].iter()),
            between: long[end..start].to_vec(),
            axes,
        }
    }

    /// The axes that this was made for.
    pub(crate) fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// Copies a box of items of `size` bytes; both slices begin with its first item.
    ///
    /// # Panics
    /// Where the strides lead out of a slice.
    pub(crate) fn run(&self, size: usize, source: &[u8], target: &mut [u8]) {
        match size {
            1 => self.sized::<1>(source, target),
            2 => self.sized::<2>(source, target),
            4 => self.sized::<4>(source, target),
            8 => self.sized::<8>(source, target),
            16 => self.sized::<16>(source, target),
            _ => self.each(|tile| {
                for (&ps, &pt) in tile.p.source.iter().zip(tile.p.target) {
                    for (&qs, &qt) in tile.q.source.iter().zip(tile.q.target) {
                        let from = (tile.source + ps + qs) * size;
                        let to = (tile.target + pt + qt) * size;
                        target[to..to + size].copy_from_slice(&source[from..from + size]);
                    }
                }
            }),
        }
    }

    /// Calls `work` with every tile; the target advances as steadily as it can.
    fn each(&self, mut work: impl FnMut(Tile<'_>)) {
        if self.between.iter().any(|axis| axis.len == 0) {
            return;
        }
        for p in &self.p.tiles {
            let mut at = vec![0; self.between.len()];
            let (mut source, mut target) = (0, 0);
            'between: loop {
                for q in &self.q.tiles {
                    work(Tile {
                        p: self.p.line(p),
                        q: self.q.line(q),
                        source,
                        target,
                    });
                }
                for (at, axis) in at.iter_mut().zip(&self.between).rev() {
                    *at += 1;
                    source += axis.source;
                    target += axis.target;
                    if *at < axis.len {
                        continue 'between;
                    }
                    source -= *at * axis.source;
                    target -= *at * axis.target;
                    *at = 0;
                }
                break;
            }
        }
    }

    fn sized<const N: usize>(&self, source: &[u8], target: &mut [u8]) {
        let source = source.as_chunks::<N>().0;
        let target = target.as_chunks_mut::<N>().0;
        // A line of the target each.
        let mut lines = [[[0; N]; TILE]; TILE];
        self.each(|tile| {
            let (height, width) = (tile.p.source.len(), tile.q.source.len());
            let whole = tile.p.source_run && height == TILE;
            for (j, &qs) in (0..TILE).zip(tile.q.source) {
                let column = &source[tile.source + qs..];
                if whole && let Some(run) = column[tile.p.source[0]..].first_chunk::<TILE>() {
                    for i in 0..TILE {
                        lines[i][j] = run[i];
                    }
                } else {
                    for (line, &ps) in lines.iter_mut().zip(tile.p.source) {
                        line[j] = column[ps];
                    }
                }
            }
            for (line, &pt) in lines.iter().zip(tile.p.target) {
                let row = &mut target[tile.target + pt..];
                if tile.q.target_run {
                    let row = &mut row[tile.q.target[0]..];
                    match row.first_chunk_mut::<TILE>() {
                        Some(row) if width == TILE => *row = *line,
                        _ => row[..width].copy_from_slice(&line[..width]),
                    }
                } else {
                    for (item, &qt) in line.iter().zip(tile.q.target) {
                        row[qt] = *item;
                    }
                }
            }
        });
    }
}

impl Group {
    /// `axes` from the slowest to the fastest.
    fn new<'a>(axes: impl Iterator<Item = &'a Axis>) -> Self {
        let (mut source, mut target) = (vec![0], vec![0]);
        for axis in axes {
            let spread = |from: &[usize], stride: usize| -> Vec<usize> {
                from.iter()
                    .flat_map(|at| (0..axis.len).map(move |i| at + i * stride))
                    .collect()
            };
            source = spread(&source, axis.source);
            target = spread(&target, axis.target);
        }
        let is_run = |items: &[usize]| items.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let side = |start: usize| {
            let items = start..source.len().min(start + TILE);
            Side {
                source_run: is_run(&source[items.clone()]),
                target_run: is_run(&target[items.clone()]),
                items,
            }
        };
        let tiles = (0..source.len()).step_by(TILE).map(side).collect();
        Self {
            source,
            target,
            tiles,
        }
    }

    fn line(&self, side: &Side) -> Line<'_> {
        Line {
            source: &self.source[side.items.clone()],
            target: &self.target[side.items.clone()],
            source_run: side.source_run,
            target_run: side.target_run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_last_axis_runs_fastest_afterwards(
            dims in prop::collection::vec(0..40_usize, 0..5)
                .prop_filter("small", |dims| dims.iter().product::<usize>() < 20_000),
            size in prop::sample::select(vec![1_usize, 2, 3, 4, 8, 12, 16]),
        ) {
            let items: usize = dims.iter().product();
            let source: Vec<u8> = (0..items * size).map(|i| (i * 7 + i / 256) as u8).collect();
            let stride = |dims: &[usize]| dims.iter().product();
            let axes: Vec<Axis> = (0..dims.len())
                .map(|j| Axis {
                    len: dims[j],
                    source: stride(&dims[..j]),
                    target: stride(&dims[j + 1..]),
                })
                .collect();
            let mut target = vec![0; source.len()];
            Transpose::new(axes.clone()).run(size, &source, &mut target);
            for i in 0..items {
                let at = |a: &Axis| i / a.target % a.len;
                let from: usize = axes.iter().map(|a| at(a) * a.source).sum();
                prop_assert_eq!(&target[i * size..][..size], &source[from * size..][..size]);
            }
        }
    }
}
