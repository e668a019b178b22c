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
pub struct GrowableHeader {
    bytes: Vec<u8>,
    /// Where in `bytes` the count stands.
    field: Range<usize>,
    header: Header,
}

impl GrowableHeader {
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
        // numpy refuses NUL after the dictionary, and `(6)` as a shape.
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
    /// [`count_writes`](Self::count_writes) left it.
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
    /// The file must hold `old` as [`Self::bytes`] writes it. After a crash it may not (zeros where
    /// there should be blanks): see [`Self::count_writes_from`].
    pub fn count_writes(&self, old: u64, new: u64) -> CountWrites {
        self.between(self.words(old), self.words(new))
    }

    /// The same from what is in the file, `bytes`, even if a crash left it between two steps; no
    /// write where it is as [`Self::bytes`] would have it.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn count_writes_from(&self, bytes: &[u8], new: u64) -> Result<CountWrites, HeaderError> {
        self.rows(bytes)?;
        let mut words = [ZEROS; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            let at = self.field.end - (i + 1) * WORD;
            word.copy_from_slice(&bytes[at..at + WORD]);
        }
        Ok(self.between(words, self.words(new)))
    }

    /// Words from the lowest to the highest. A word is only given digits below a higher word that
    /// is final, and while the higher ones change it is zero: all zeros is a valid integer after
    /// blanks as after digits, and makes the count no larger.
    fn between(&self, old: [[u8; WORD]; WORDS], new: [[u8; WORD]; WORDS]) -> CountWrites {
        let mut steps = CountWrites {
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

/// The writes of [`GrowableHeader::count_writes`], at most 5 and mostly 1.
#[derive(Clone, Debug)]
pub struct CountWrites {
    list: [(u64, [u8; WORD]); 2 * WORDS - 1],
    next: usize,
    len: usize,
}

impl CountWrites {
    fn push(&mut self, at: u64, word: [u8; WORD]) {
        self.list[self.len] = (at, word);
        self.len += 1;
    }
}

impl Iterator for CountWrites {
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

impl ExactSizeIterator for CountWrites {}

#[cfg(test)]
mod tests;
