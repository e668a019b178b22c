//! Which bytes of a file a producer has written.
//!
//! A chunk whose length was set before its bytes came (`ftruncate`, `fallocate`, a seek) looks whole
//! to one that only counts. Bytes that were not written are zeros if the writer says that it is done, and
//! missing if it was killed.

use std::collections::BTreeMap;

/// More separate pieces than this are not told apart: they count as if there were gaps.
const MOST: usize = 1 << 16;

/// The written ranges of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    /// End by start; neither touching nor overlapping.
    ranges: BTreeMap<u64, u64>,
    /// There were too many.
    given_up: bool,
}

impl Coverage {
    /// Bytes from the front up to `len`.
    pub(crate) fn up_to(len: u64) -> Self {
        let mut coverage = Self::default();
        coverage.add(0, len);
        coverage
    }

    /// `start..end` was written.
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        if start >= end || self.given_up {
            return;
        }
        let (mut start, mut end) = (start, end);
        // The ranges that touch the new one begin at its end or before, the last ones first.
        while let Some((&low, &high)) = self.ranges.range(..=end).next_back() {
            if high < start {
                break;
            }
            self.ranges.remove(&low);
            start = start.min(low);
            end = end.max(high);
        }
        self.ranges.insert(start, end);
        if self.ranges.len() > MOST {
            self.given_up = true;
            self.ranges.clear();
        }
    }

    /// Whether some of `start..end` was written before.
    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        start < end
            && (self.given_up
                || self
                    .ranges
                    .range(..end)
                    .next_back()
                    .is_some_and(|(_, &high)| high > start))
    }

    /// The file was cut to `len` bytes.
    pub(crate) fn cut(&mut self, len: u64) {
        self.ranges.split_off(&len);
        if let Some(mut last) = self.ranges.last_entry() {
            let end = (*last.get()).min(len);
            last.insert(end);
        }
    }

    /// Whether every byte of the first `len` was written.
    pub(crate) fn is_whole(&self, len: u64) -> bool {
        len == 0
            || self
                .ranges
                .first_key_value()
                .is_some_and(|(&start, &end)| start == 0 && end >= len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_flag_for_each_byte(
            steps in prop::collection::vec((0..40u64, 0..20u64, prop::bool::weighted(0.2)), 0..40),
        ) {
            let mut coverage = Coverage::default();
            let mut flags = [false; 64];
            for (start, len, cut) in steps {
                if cut {
                    coverage.cut(start);
                    flags[start as usize..].fill(false);
                } else {
                    let range = start as usize..(start + len) as usize;
                    prop_assert_eq!(
                        coverage.overlaps(start, start + len),
                        flags[range.clone()].contains(&true)
                    );
                    coverage.add(start, start + len);
                    flags[range].fill(true);
                }
                for len in 0..64 {
                    let whole = flags[..len as usize].iter().all(|&flag| flag);
                    prop_assert_eq!(coverage.is_whole(len), whole);
                }
            }
        }
    }

    #[test]
    fn too_many_pieces_count_as_gaps() {
        let mut coverage = Coverage::default();
        for n in 0..=MOST as u64 {
            coverage.add(2 * n, 2 * n + 1);
        }
        coverage.add(0, 1 << 30);
        assert!(!coverage.is_whole(1));
    }
}
