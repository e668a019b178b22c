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
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Items along the axis.
    pub len: usize,
    /// Items from one to the next in the source; grows from axis to axis.
    pub source: usize,
    /// Items from one to the next in the target; shrinks from axis to axis.
    pub target: usize,
}

/// Copies a box of items of `size` bytes from `source`, where the first axis runs fastest, to
/// `target`, where the last does. Both slices begin with the first item of the box.
///
/// # Panics
/// Where the strides lead out of a slice.
pub fn reverse(axes: &[Axis], size: usize, source: &[u8], target: &mut [u8]) {
    let plan = Plan::new(axes);
    match size {
        1 => plan.run::<1>(source, target),
        2 => plan.run::<2>(source, target),
        4 => plan.run::<4>(source, target),
        8 => plan.run::<8>(source, target),
        16 => plan.run::<16>(source, target),
        _ => plan.each(|tile| {
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

/// The axes in three groups: those that are fastest in the source (p), those that are fastest in
/// the target (q), and those between.
struct Plan {
    p: Group,
    q: Group,
    between: Vec<Axis>,
}

/// A few neighbouring axes as one: where each item of it lies.
struct Group {
    source: Vec<usize>,
    target: Vec<usize>,
    tiles: Vec<Side>,
}

/// One side of a tile: which items, and whether they lie directly one behind the other.
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

impl Plan {
    fn new(axes: &[Axis]) -> Self {
        let axes: Vec<Axis> = axes.iter().copied().filter(|axis| axis.len != 1).collect();
        let mut start = axes.len();
        let mut len = 1;
        while start > 0 && len < TILE {
            start -= 1;
            len *= axes[start].len;
        }
        let mut end = 0;
        let mut len = 1;
        while end < start && len < TILE {
            len *= axes[end].len;
            end += 1;
        }
        Self {
            p: Group::new(axes[..end].iter().rev()),
            q: Group::new(axes[start..].iter()),
            between: axes[end..start].to_vec(),
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

    fn run<const N: usize>(&self, source: &[u8], target: &mut [u8]) {
        let source = source.as_chunks::<N>().0;
        let target = target.as_chunks_mut::<N>().0;
        // A line of the target each.
        let mut lines = [[[0; N]; TILE]; TILE];
        self.each(|tile| {
            let (height, width) = (tile.p.source.len(), tile.q.source.len());
            for (j, &qs) in tile.q.source.iter().enumerate() {
                let column = &source[tile.source + qs..];
                let whole = column
                    .get(tile.p.source[0]..)
                    .and_then(|column| column.first_chunk::<TILE>());
                match whole {
                    Some(column) if tile.p.source_run && height == TILE => {
                        for (line, item) in lines.iter_mut().zip(column) {
                            line[j] = *item;
                        }
                    }
                    _ => {
                        for (line, &ps) in lines.iter_mut().zip(tile.p.source) {
                            line[j] = column[ps];
                        }
                    }
                }
            }
            for (line, &pt) in lines.iter().zip(tile.p.target) {
                let row = &mut target[tile.target + pt..];
                if tile.q.target_run {
                    row[tile.q.target[0]..][..width].copy_from_slice(&line[..width]);
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
            reverse(&axes, size, &source, &mut target);
            for i in 0..items {
                let at = |a: &Axis| i / a.target % a.len;
                let from: usize = axes.iter().map(|a| at(a) * a.source).sum();
                prop_assert_eq!(&target[i * size..][..size], &source[from * size..][..size]);
            }
        }
    }
}
