//! Byte-order conversion as a list of runs to reverse.
//!
//! A [`ByteSwap`] list describes an item of any size in space that does not depend on sub-array
//! dimensions, and it can be applied to any window of a stream of items, so that converting takes
//! no more memory than the window. Runs do not overlap and are sorted by offset.

/// Bytes to reverse, relative to the start of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSwap {
    /// Where the first of the elements begins, in bytes.
    pub offset: u64,
    /// Bytes of an element: 2, 4, 8, 16 (or 12, an 80-bit float of 32-bit machines).
    pub width: u64,
    /// Elements, one directly after the other.
    pub count: u64,
    /// Empty where the bytes of each element are to be reversed. Otherwise an element is a
    /// structure (of a sub-array of structures), and these are the runs inside each of them.
    pub inner: Vec<ByteSwap>,
}

impl ByteSwap {
    /// A run of `count` plain elements of `width` bytes.
    pub(super) fn run(offset: u64, width: u64, count: u64) -> Self {
        Self {
            offset,
            width,
            count,
            inner: Vec::new(),
        }
    }

    fn end(&self) -> u64 {
        self.offset
            .saturating_add(self.width.saturating_mul(self.count))
    }
}

/// The runs of `count` items in a row, each of `size` bytes and with the runs `swaps`.
pub fn repeat(swaps: Vec<ByteSwap>, size: u64, count: u64) -> Vec<ByteSwap> {
    if count == 0 || size == 0 || swaps.is_empty() {
        return Vec::new();
    }
    if let [only] = swaps.as_slice()
        && only.inner.is_empty()
        && only.offset == 0
        && only.end() == size
    {
        let count = only.count.saturating_mul(count);
        return vec![ByteSwap::run(0, only.width, count)];
    }
    vec![ByteSwap {
        offset: 0,
        width: size,
        count,
        inner: swaps,
    }]
}

/// Adds the runs of a field at `offset`, joined to the last run where they continue it.
pub(super) fn push(swaps: &mut Vec<ByteSwap>, offset: u64, field: Vec<ByteSwap>) {
    for mut swap in field {
        swap.offset += offset;
        match swaps.last_mut() {
            Some(last)
                if last.end() == swap.offset
                    && last.width == swap.width
                    && last.inner.is_empty()
                    && swap.inner.is_empty() =>
            {
                last.count += swap.count;
            }
            _ => swaps.push(swap),
        }
    }
}

/// The last place at or before `at` that lies inside no element: where a window may end.
pub fn boundary(swaps: &[ByteSwap], at: u64) -> u64 {
    let i = swaps.partition_point(|swap| swap.end() <= at);
    match swaps.get(i) {
        Some(swap) if swap.offset < at => {
            let start = at - (at - swap.offset) % swap.width;
            if swap.inner.is_empty() {
                start
            } else {
                start + boundary(&swap.inner, at - start)
            }
        }
        _ => at,
    }
}

/// Reverses the elements in `window`, which begins `start` bytes into what `swaps` describes.
///
/// Both ends should be a [`boundary`]; an element that an end cuts is left as it is.
pub fn swap(swaps: &[ByteSwap], start: u64, window: &mut [u8]) {
    let end = start.saturating_add(window.len() as u64);
    let first = swaps.partition_point(|swap| swap.end() <= start);
    for swap in &swaps[first..] {
        if swap.offset >= end {
            break;
        }
        let low = start.max(swap.offset) - swap.offset;
        let high = end.min(swap.end()) - swap.offset;
        let at = |inside: u64| (swap.offset + inside - start) as usize;
        if swap.inner.is_empty() {
            let low = low.next_multiple_of(swap.width);
            let high = high - high % swap.width;
            if low < high {
                reverse(swap.width, &mut window[at(low)..at(high)]);
            }
        } else {
            let mut low = low;
            while low < high {
                let inside = low % swap.width;
                let next = high.min(low - inside + swap.width);
                self::swap(&swap.inner, inside, &mut window[at(low)..at(next)]);
                low = next;
            }
        }
    }
}

fn reverse(width: u64, bytes: &mut [u8]) {
    fn each<const N: usize>(bytes: &mut [u8]) {
        for element in bytes.as_chunks_mut::<N>().0 {
            element.reverse();
        }
    }
    match width {
        2 => each::<2>(bytes),
        4 => each::<4>(bytes),
        8 => each::<8>(bytes),
        16 => each::<16>(bytes),
        _ => bytes
            .chunks_exact_mut(width as usize)
            .for_each(<[u8]>::reverse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[('a', '>i2'), ('b', '|V1'), ('c', [('x', '>i4'), ('y', '|u1')], (3,))]`: 18 bytes.
    fn sample() -> Vec<ByteSwap> {
        let mut swaps = vec![ByteSwap::run(0, 2, 1)];
        push(&mut swaps, 3, repeat(vec![ByteSwap::run(0, 4, 1)], 5, 3));
        swaps
    }

    #[test]
    fn each_element_is_reversed_in_place() {
        let mut item: Vec<u8> = (0..18).collect();
        swap(&sample(), 0, &mut item);
        assert_eq!(
            item,
            [1, 0, 2, 6, 5, 4, 3, 7, 11, 10, 9, 8, 12, 16, 15, 14, 13, 17]
        );
    }

    #[test]
    fn windows_between_boundaries_add_up_to_the_whole() {
        let swaps = repeat(sample(), 18, 7);
        let body: Vec<u8> = (0..126).collect();
        let mut whole = body.clone();
        swap(&swaps, 0, &mut whole);
        for step in 4..40 {
            let mut parts = body.clone();
            let mut at = 0;
            while at < 126 {
                let end = boundary(&swaps, (at + step).min(126));
                assert!(at < end && end <= at + step);
                swap(&swaps, at, &mut parts[at as usize..end as usize]);
                at = end;
            }
            assert_eq!(parts, whole, "windows of {step}");
        }
    }

    #[test]
    fn plain_elements_in_a_row_are_one_run() {
        assert_eq!(
            repeat(vec![ByteSwap::run(0, 8, 2)], 16, 5),
            [ByteSwap::run(0, 8, 10)]
        );
        let mut swaps = vec![ByteSwap::run(0, 4, 1)];
        push(&mut swaps, 4, vec![ByteSwap::run(0, 4, 2)]);
        assert_eq!(swaps, [ByteSwap::run(0, 4, 3)]);
        assert_eq!(repeat(swaps, 12, 0), []);
    }
}
