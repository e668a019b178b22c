//! The header of `data.npy`, whose row count changes in place while anybody reads it.
//!
//! The count stands right-aligned with blanks in a field of at least 20 characters that ends at a
//! file offset divisible by 8: `'shape': (                12345, 16), }`. So each 8 digits lie in
//! one aligned 8-byte word, and only aligned 8-byte writes, which do not tear, change the count.
//! What stays true between any two of them: the header is a valid Python literal (an integer with
//! leading zeros is one only if all its digits are zero), and its count never exceeds the larger
//! of the old and the new one.

use std::ops::Range;

use super::HeaderError;
use super::dtype::Dtype;
use super::header::{Header, MAX_HEADER, Version, text_before_shape};
use super::literal::clip;

/// The least characters of the count field: every `u64`.
const FIELD: usize = 20;

/// The least length of a header, where the dtype lets it fit.
const MIN_LEN: usize = 128;

/// What the length of a new header is a multiple of.
const ALIGN: usize = 64;

/// Bytes that one write changes.
const WORD: usize = 8;

/// Words that a count of 20 digits takes.
const WORDS: usize = 3;

const ZEROS: [u8; WORD] = [b'0'; WORD];

/// The header of `data.npy`: everything but the count, which each call brings along.
#[derive(Clone, Debug)]
pub struct Published {
    bytes: Vec<u8>,
    /// Where in `bytes` the count stands.
    field: Range<usize>,
    header: Header,
}

impl Published {
    /// A header for rows of `row_shape`: 128 bytes long where that suffices, else the next
    /// multiple of 64. Its own count is 0.
    ///
    /// # Errors
    /// What [`Header::encode`] refuses.
    pub fn new(dtype: &Dtype, row_shape: &[u64]) -> Result<Self, HeaderError> {
        Self::build(dtype, row_shape, None)?.ok_or(HeaderError::TooLong(MAX_HEADER as u64))
    }

    /// The same header `len` bytes long, which need be no multiple of anything; `None` where it
    /// does not fit in that, or `len` exceeds [`MAX_HEADER`].
    ///
    /// # Errors
    /// What [`Header::encode`] refuses.
    pub fn with_len(
        dtype: &Dtype,
        row_shape: &[u64],
        len: u64,
    ) -> Result<Option<Self>, HeaderError> {
        match usize::try_from(len) {
            Ok(len) if len <= MAX_HEADER => Self::build(dtype, row_shape, Some(len)),
            _ => Ok(None),
        }
    }

    fn build(
        dtype: &Dtype,
        row_shape: &[u64],
        want: Option<usize>,
    ) -> Result<Option<Self>, HeaderError> {
        let dims: Vec<String> = row_shape.iter().map(u64::to_string).collect();
        let before = format!("{}(", text_before_shape(dtype));
        let after = match dims.len() {
            0 => ",), }".to_owned(),
            _ => format!(", {}), }}", dims.join(", ")),
        };
        for version in Version::ALL {
            let Some(mut text) = version.encode(&before) else {
                continue;
            };
            let prefix = version.prefix_len();
            let start = prefix + text.len();
            let end = (start + FIELD).next_multiple_of(WORD);
            text.resize(end - 1 - prefix, b' ');
            text.push(b'0');
            text.extend_from_slice(after.as_bytes());
            let least = prefix + text.len() + 1;
            let len = want.unwrap_or_else(|| least.next_multiple_of(ALIGN).max(MIN_LEN));
            if len < least {
                return Ok(None);
            }
            if let Some(bytes) = version.frame(&text, len)? {
                let (header, _) = Header::parse_whole(&bytes)?;
                return Ok(Some(Self {
                    bytes,
                    field: start..end,
                    header,
                }));
            }
        }
        Ok(None)
    }

    /// The header of an array that another tool (or an earlier npyfs) made, if it has a count
    /// field as it stands and numpy takes it; `bytes` is the whole header.
    ///
    /// # Errors
    /// What [`Header::parse`] refuses.
    pub fn adopt(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let (header, shape) = Header::parse_whole(bytes)?;
        let bytes = &bytes[..(header.len() as usize).min(bytes.len())];
        // numpy refuses NUL behind the dictionary, and `(6)` as a shape.
        if header.fortran_order() || bytes.get(shape) != Some(&b'(') || bytes[shape..].contains(&0)
        {
            return Ok(None);
        }
        let start = shape + 1;
        let rest = bytes.get(start..).unwrap_or(&[]);
        let run = rest
            .iter()
            .take_while(|b| **b == b' ' || b.is_ascii_digit())
            .count();
        let digits = rest[..run].iter().rev().skip_while(|b| **b == b' ').count();
        let end = start + digits;
        let tail = rest[run..].first();
        let high = end.saturating_sub(WORDS * WORD).max(start);
        if digits < FIELD
            || !end.is_multiple_of(WORD)
            || tail != Some(&b',')
            || bytes[start..high].iter().any(|b| *b != b' ')
        {
            return Ok(None);
        }
        Ok(Some(Self {
            bytes: bytes.to_vec(),
            field: start..end,
            header,
        }))
    }

    /// The header's meaning. Its count is 0, or what it was when the header was adopted.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The type of the items.
    pub fn dtype(&self) -> &Dtype {
        self.header.dtype()
    }

    /// The lengths of the dimensions after the first.
    pub fn row_shape(&self) -> &[u64] {
        self.header.row_shape()
    }

    /// Bytes of a row; may be 0.
    pub fn row_bytes(&self) -> u64 {
        self.header.row_bytes()
    }

    /// Bytes of the header, whatever its count.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The whole header with the count `rows`.
    pub fn bytes(&self, rows: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let start = self.field.end - WORDS * WORD;
        for (i, word) in self.words(rows).into_iter().rev().enumerate() {
            let at = start + i * WORD;
            bytes[at..at + WORD].copy_from_slice(&word);
        }
        bytes
    }

    /// The count in `bytes`, this header read back, also as a crash between two
    /// [`steps`](Self::steps) left it.
    ///
    /// # Errors
    /// [`HeaderError::OtherHeader`] where anything but the count differs, and
    /// [`HeaderError::BadCount`] where the field holds none.
    pub fn rows(&self, bytes: &[u8]) -> Result<u64, HeaderError> {
        let Range { start, end } = self.field;
        if bytes.len() != self.bytes.len()
            || bytes[..start] != self.bytes[..start]
            || bytes[end..] != self.bytes[end..]
        {
            return Err(HeaderError::OtherHeader);
        }
        let field = &bytes[start..end];
        let blanks = field.iter().take_while(|b| **b == b' ').count();
        let digits = &field[blanks..];
        let refuse = || HeaderError::BadCount(clip(&format!("'{}'", field.escape_ascii())));
        let zeros = digits.iter().take_while(|b| **b == b'0').count();
        if zeros > 0 && zeros < digits.len() {
            return Err(refuse());
        }
        let text = std::str::from_utf8(digits).ok();
        let decimal = digits.iter().all(u8::is_ascii_digit);
        let count = text.filter(|_| decimal).and_then(|text| text.parse().ok());
        count.ok_or_else(refuse)
    }

    /// The writes of `(file offset, 8 bytes)`, in order, that take the header from the count `old`
    /// to `new`. Between any two of them a reader sees `old`, `new` or a smaller count than the
    /// larger of them, in a valid header.
    ///
    /// The file must hold `old` as [`Self::bytes`] writes it. Behind a crash it may not (zeros where
    /// there should be blanks): see [`Self::steps_from`].
    pub fn steps(&self, old: u64, new: u64) -> Steps {
        self.between(self.words(old), self.words(new))
    }

    /// The same from what is in the file, `bytes`, even if a crash left it between two steps; no
    /// write where it is as [`Self::bytes`] would have it.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn steps_from(&self, bytes: &[u8], new: u64) -> Result<Steps, HeaderError> {
        self.rows(bytes)?;
        let mut words = [ZEROS; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            let at = self.field.end - (i + 1) * WORD;
            word.copy_from_slice(&bytes[at..at + WORD]);
        }
        Ok(self.between(words, self.words(new)))
    }

    /// Words from the lowest to the highest. A word is only given digits below a higher word that
    /// is final, and while the higher ones change it is zero: all zeros is a valid integer behind
    /// blanks as behind digits, and makes the count no larger.
    fn between(&self, old: [[u8; WORD]; WORDS], new: [[u8; WORD]; WORDS]) -> Steps {
        let mut steps = Steps {
            list: [(0, ZEROS); 2 * WORDS - 1],
            next: 0,
            len: 0,
        };
        let at = |i: usize| (self.field.end - (i + 1) * WORD) as u64;
        let Some(top) = (0..WORDS).rfind(|&i| old[i] != new[i]) else {
            return steps;
        };
        for (i, word) in old.iter().enumerate().take(top) {
            if *word != ZEROS {
                steps.push(at(i), ZEROS);
            }
        }
        steps.push(at(top), new[top]);
        for i in (0..top).rev() {
            if new[i] != ZEROS {
                steps.push(at(i), new[i]);
            }
        }
        steps
    }

    /// The words that end the field with the count `rows`, from the lowest to the highest. The
    /// highest may begin before the field, with what stands there.
    fn words(&self, rows: u64) -> [[u8; WORD]; WORDS] {
        let mut words = [[b' '; WORD]; WORDS];
        let mut left = rows;
        for i in 0..WORDS * WORD {
            if i > 0 && left == 0 {
                break;
            }
            words[i / WORD][WORD - 1 - i % WORD] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        // At least 4 characters of the highest word are field, which is 20 digits in all.
        let before = (WORDS * WORD).saturating_sub(self.field.len());
        let start = self.field.end - WORDS * WORD;
        words[WORDS - 1][..before].copy_from_slice(&self.bytes[start..start + before]);
        words
    }
}

/// The writes of [`Published::steps`], at most 5 and mostly 1.
#[derive(Clone, Debug)]
pub struct Steps {
    list: [(u64, [u8; WORD]); 2 * WORDS - 1],
    next: usize,
    len: usize,
}

impl Steps {
    fn push(&mut self, at: u64, word: [u8; WORD]) {
        self.list[self.len] = (at, word);
        self.len += 1;
    }
}

impl Iterator for Steps {
    type Item = (u64, [u8; WORD]);

    fn next(&mut self) -> Option<Self::Item> {
        let step = *self.list[..self.len].get(self.next)?;
        self.next += 1;
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.len - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Steps {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::literal::Literal;
    use crate::npy::{Prefix, strategy};
    use proptest::prelude::*;

    fn dtype(descr: &str) -> Dtype {
        Dtype::from_literal(&Literal::parse(descr).unwrap().0).unwrap()
    }

    fn f8(row_shape: &[u64]) -> Published {
        Published::new(&dtype("'<f8'"), row_shape).unwrap()
    }

    fn parse(bytes: &[u8]) -> Header {
        match Header::parse(bytes) {
            Ok(Prefix::Complete(header)) => header,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn a_new_header_is_128_bytes_with_its_count_aligned() {
        let published = f8(&[16]);
        let bytes = published.bytes(12345);
        let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (                      12345, 16), }";
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(
            bytes[10..].starts_with(text.as_bytes()),
            "{}",
            bytes.escape_ascii()
        );
        assert_eq!((bytes.len(), bytes.last()), (128, Some(&b'\n')));
        assert_eq!(published.field.end % 8, 0);
        assert_eq!(parse(&bytes).shape(), [12345, 16]);
        assert_eq!(published.rows(&bytes), Ok(12345));
        assert_eq!(published.row_bytes(), 128);
        assert_eq!(parse(&f8(&[]).bytes(7)).shape(), [7]);
    }

    #[test]
    fn a_long_dtype_takes_the_next_multiple_of_64_and_the_version_it_needs() {
        let fields: Vec<String> = (0..5000).map(|i| format!("('field {i}', '<f8')")).collect();
        let long = dtype(&format!("[{}]", fields.join(", ")));
        for (dtype, version) in [
            (dtype("[('a', '<f8'), ('bc', '<f8'), ('é', '<f8')]"), 1),
            (long, 2),
            (dtype("[('日本', '<f8')]"), 3),
        ] {
            let published = Published::new(&dtype, &[3]).unwrap();
            let bytes = published.bytes(5);
            assert_eq!(bytes[6], version);
            assert!(bytes.len() % 64 == 0 && bytes.len() >= 128);
            assert_eq!(parse(&bytes).shape(), [5, 3]);
            assert_eq!(parse(&bytes).dtype(), &dtype);
            let adopted = Published::adopt(&bytes).unwrap().unwrap();
            assert_eq!(adopted.field, published.field);
            assert_eq!(adopted.header().rows(), 5);
        }
    }

    #[test]
    fn a_header_of_a_given_length_has_exactly_that_or_is_none() {
        let with_len = |len| Published::with_len(&dtype("'<f8'"), &[2], len).unwrap();
        for len in [0, 9, 10, 64, 95] {
            assert!(with_len(len).is_none(), "{len}");
        }
        for len in [128, 129, 4096, 4224, 65545, 65546, 1 << 20] {
            let published = with_len(len).unwrap_or_else(|| panic!("{len}"));
            let bytes = published.bytes(9);
            assert_eq!((published.len(), bytes.len() as u64), (len, len));
            assert_eq!(parse(&bytes).len(), len);
            assert_eq!(parse(&bytes).shape(), [9, 2]);
            assert_eq!(published.field.end % 8, 0);
        }
        assert!(with_len((1 << 20) + 1).is_none());
        assert!(with_len(u64::MAX).is_none());
    }

    /// A version 1.0 header around `before`, `field` and `after`, with the field's end `past`
    /// bytes behind a multiple of 8.
    fn foreign(before: &str, field: &str, past: usize, after: &str) -> Vec<u8> {
        let mut text = before.to_owned();
        while (10 + text.chars().count() + field.len()) % 8 != past {
            text.insert(1, ' ');
        }
        let text = format!("{text}{field}{after}\n");
        Version::V1
            .frame(
                &Version::V1.encode(&text).unwrap(),
                10 + text.chars().count(),
            )
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_foreign_header_is_adopted_only_with_an_aligned_field_that_numpy_reads() {
        let before = "{'shape': (";
        let after = ", 3), 'descr': [('é', '<f4')], 'fortran_order': False}";
        let adopt = |bytes: &[u8]| Published::adopt(bytes).unwrap();
        for field in [
            format!("{:>20}", 7),
            format!("{:>31}", 123456789),
            format!("{:>20}", "0000"),
        ] {
            let bytes = foreign(before, &field, 0, after);
            let adopted = adopt(&bytes).unwrap_or_else(|| panic!("{field}"));
            let rows = field.trim().parse().unwrap();
            assert_eq!(adopted.rows(&bytes), Ok(rows));
            assert_eq!(adopted.header().rows(), rows);
            assert_eq!(parse(&adopted.bytes(u64::MAX / 99)).rows(), u64::MAX / 99);
            assert_eq!(adopted.len(), bytes.len() as u64);
        }
        let seven = format!("{:>20}", 7);
        assert!(adopt(&foreign(before, &format!("{:>19}", 7), 0, after)).is_none());
        for past in 1..8 {
            assert!(adopt(&foreign(before, &seven, past, after)).is_none());
        }
        assert!(adopt(&foreign(before, &format!("{:<20}", 7), 0, after)).is_none());
        assert!(adopt(&foreign(before, &format!("{:0>40}", 0), 0, after)).is_none());
        // 2-D Fortran order has no rows to append to; in 1-D the flag means nothing.
        let fortran = after.replace("False", "True");
        assert!(adopt(&foreign(before, &seven, 0, &fortran)).is_none());
        assert!(adopt(&foreign(before, &seven, 0, &fortran.replace(", 3", ","))).is_some());
        // numpy refuses these.
        assert!(adopt(&foreign(before, &seven, 0, &after.replace(", 3", ""))).is_none());
        assert!(adopt(&foreign(before, &seven, 0, &format!("{after}\0"))).is_none());
        assert!(adopt(&Header::encode(&dtype("'<f8'"), &[7, 3]).unwrap()).is_none());
        assert!(Published::adopt(b"\x93NUMPY").is_err());
        assert!(Published::adopt(b"").is_err());
    }

    #[test]
    fn rows_refuses_another_header_and_what_is_no_count() {
        let published = f8(&[16]);
        let good = published.bytes(42);
        let end = published.field.end;
        for i in (0..good.len()).filter(|i| !published.field.contains(i)) {
            let mut bytes = good.clone();
            bytes[i] ^= 1;
            assert_eq!(published.rows(&bytes), Err(HeaderError::OtherHeader));
        }
        assert_eq!(published.rows(&good[1..]), Err(HeaderError::OtherHeader));
        assert_eq!(published.rows(b""), Err(HeaderError::OtherHeader));
        for field in [
            "        ",
            "00000042",
            "4     42",
            "      4 ",
            "     -42",
            "      \0\n",
        ] {
            let mut bytes = good.clone();
            bytes[end - 8..end].copy_from_slice(field.as_bytes());
            let error = published.rows(&bytes).unwrap_err();
            assert!(matches!(error, HeaderError::BadCount(_)), "{field}");
        }
        let mut bytes = good;
        bytes[published.field.clone()].fill(b'9');
        assert!(published.rows(&bytes).is_err(), "more than a u64");
    }

    /// Takes the steps one by one, and from each state, as if a crash had left it, all the others.
    fn check(published: &Published, old: u64, new: u64) {
        let mut bytes = published.bytes(old);
        let mut steps = published.steps(old, new);
        let highest = old.max(new);
        loop {
            let header = parse(&bytes);
            assert_eq!(header.row_shape(), published.row_shape());
            assert_eq!(published.rows(&bytes), Ok(header.rows()));
            assert!(
                header.rows() <= highest,
                "{old} to {new}: {}",
                header.rows()
            );
            let adopted = Published::adopt(&bytes).unwrap();
            assert!(adopted.is_some(), "{}", bytes.escape_ascii());
            for target in [new, old, 0, 5, 100_000_005] {
                let mut bytes = bytes.clone();
                let limit = header.rows().max(target);
                for (at, word) in published.steps_from(&bytes, target).unwrap() {
                    write(&mut bytes, at, word);
                    assert!(parse(&bytes).rows() <= limit);
                }
                assert_eq!(bytes, published.bytes(target));
            }
            let Some((at, word)) = steps.next() else {
                break;
            };
            write(&mut bytes, at, word);
        }
        assert_eq!(bytes, published.bytes(new));
    }

    fn write(bytes: &mut [u8], at: u64, word: [u8; 8]) {
        assert_eq!(at % 8, 0);
        bytes[at as usize..][..8].copy_from_slice(&word);
    }

    #[test]
    fn every_step_between_boundary_counts_leaves_a_valid_header() {
        let mut counts = vec![0, 1, 5, u64::MAX >> 1, 123_456_789_012_345_678];
        for power in 0..19 {
            let power = 10_u64.pow(power);
            counts.extend([power - 1, power, power + 5, power + 7, 3 * (power / 2)]);
        }
        let published = Published::new(&dtype("'|S0'"), &[]).unwrap();
        for &old in &counts {
            for &new in &counts {
                check(&published, old, new);
            }
        }
    }

    #[test]
    fn most_steps_are_one_write() {
        let published = f8(&[16]);
        let steps = |old, new| published.steps(old, new).len();
        assert_eq!(steps(7, 7), 0);
        assert_eq!(steps(9, 10), 1);
        assert_eq!(steps(123_456_789, 123_456_790), 1);
        assert_eq!(steps(99_999_999, 100_000_000), 2);
        assert_eq!(steps(99_999_999, 100_000_005), 3);
        assert_eq!(steps(9_999_999_999_999_999, 10_000_000_000_000_007), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn every_step_between_random_counts_leaves_a_valid_header(
            literal in strategy::descr(),
            row_shape in prop::collection::vec(0..3_u64, 0..3),
            counts in prop::collection::vec((0..u64::MAX >> 12, 0..45_u32), 2),
        ) {
            let dtype = Dtype::from_literal(&literal).unwrap();
            let published = Published::new(&dtype, &row_shape).unwrap();
            // Not more rows than the file has bytes for.
            let most = i64::MAX as u64 / published.row_bytes().max(1) / 2;
            let count = |i: usize| (counts[i].0 >> counts[i].1).min(most).max(1);
            if most > 100_000_005 {
                check(&published, count(0), count(1));
            }
        }

        #[test]
        fn no_header_panics_when_adopted(
            at in 0..128_usize, with in any::<u8>(), cut in 0..=128_usize,
        ) {
            let published = f8(&[4]);
            let mut bytes = published.bytes(77);
            bytes[at] = with;
            let _ = Published::adopt(&bytes[..cut]);
            let _ = Published::adopt(&bytes);
            let _ = published.rows(&bytes);
            let _ = published.steps_from(&bytes, 99);
        }
    }
}
