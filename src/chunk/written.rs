//! Which bytes of a file a producer has written.
//!
//! A chunk whose length was set before its bytes came (`ftruncate`, `fallocate`, a seek) looks whole
//! to one that only counts. Bytes that were not written are zeros if the writer says that it is done, and
//! missing if it was killed.
//!
//! A length that was set *before* bytes came is no such word: who copies a file may set it first, and a
//! server closes the file of a client whose connection was cut as any other.

use std::collections::BTreeMap;

/// More separate pieces than this are not told apart: they count as if there were gaps.
const MOST: usize = 1 << 16;

/// The written ranges of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct WrittenRanges {
    /// End by start; neither touching nor overlapping.
    ranges: BTreeMap<u64, u64>,
    /// There were too many.
    given_up: bool,
    length: Length,
}

/// Where the file's length comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    /// From the bytes.
    #[default]
    Reached,
    /// It was set to more than the bytes reach, after all that came: the writer's last word.
    Set(u64),
    /// It was set before some bytes came: all of them are to come.
    Promised(u64),
}

impl WrittenRanges {
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
        if let Length::Set(len) = self.length
            && !self.has(start, end)
        {
            self.length = Length::Promised(len);
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

    /// Whether all of `start..end` was written before.
    fn has(&self, start: u64, end: u64) -> bool {
        let before = self.ranges.range(..=start).next_back();
        before.is_some_and(|(_, &high)| high >= end)
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

    /// The length was set to `len`.
    pub(crate) fn set_len(&mut self, len: u64) {
        self.cut(len);
        self.length = if self.is_whole(len) {
            Length::Reached
        } else {
            Length::Set(len)
        };
    }

    /// The length was set to what it was.
    pub(crate) fn affirm_len(&mut self) {
        if let Length::Promised(len) = self.length {
            self.length = Length::Set(len);
        }
    }

    /// How many bytes are missing, that is were never written though a length had promised them.
    pub(crate) fn missing(&self) -> u64 {
        match self.length {
            Length::Promised(len) if !self.given_up => {
                let ranges = self.ranges.range(..len);
                let written = ranges.map(|(&start, &end)| end.min(len) - start);
                len - written.sum::<u64>()
            }
            _ => 0,
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
            let mut coverage = WrittenRanges::default();
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
    fn bytes_are_missing_where_a_length_was_set_before_others_came() {
        let mut coverage = WrittenRanges::up_to(10);
        coverage.set_len(10);
        coverage.add(12, 13);
        assert_eq!(coverage.missing(), 0);
        coverage.set_len(20);
        assert_eq!(coverage.missing(), 0);
        // What was written is patched.
        coverage.add(2, 10);
        assert_eq!(coverage.missing(), 0);
        coverage.add(15, 18);
        assert_eq!(coverage.missing(), 6);
        coverage.add(10, 16);
        assert_eq!(coverage.missing(), 2);
        coverage.add(30, 31);
        assert_eq!(coverage.missing(), 2);
        coverage.affirm_len();
        assert_eq!(coverage.missing(), 0);
        coverage.add(18, 20);
        assert_eq!(coverage.missing(), 0);
    }

    #[test]
    fn too_many_pieces_count_as_gaps() {
        let mut coverage = WrittenRanges::default();
        for n in 0..=MOST as u64 {
            coverage.add(2 * n, 2 * n + 1);
        }
        coverage.add(0, 1 << 30);
        assert!(!coverage.is_whole(1));
        coverage.set_len(1 << 31);
        coverage.add(0, 1);
        assert_eq!(coverage.missing(), 0);
    }
}
