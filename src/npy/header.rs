//! The header of a `.npy` file: from any writer's bytes to their meaning, and back to numpy's own.
//!
//! A [`Header`] that exists is sound: its rank is 1 to 32, and the length of its file fits an
//! `i64`, so that arithmetic on offsets needs no further checks. A prefix of a valid header is
//! never an error, and a wrong header is one as early as its bytes allow. The format is that of
//! `numpy/lib/format.py`.

use std::borrow::Cow;

use super::HeaderError;
use super::dtype::Dtype;
use super::literal::{Literal, clip, is_blank, tuple};

/// A header longer than this, in bytes with its magic, is refused.
pub const MAX_HEADER: usize = 1 << 20;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// numpy aligns data to this many bytes.
const ALIGN: usize = 64;

/// numpy leaves blanks after the dictionary, so that the first dimension may grow to this many
/// digits in place.
const GROWTH_DIGITS: usize = 21;

/// What the first bytes of a file say.
#[derive(Clone, Debug, PartialEq)]
pub enum Prefix {
    /// The header goes on after these bytes.
    Incomplete {
        /// Bytes from the start of the file that must be there before parsing can go further.
        need: usize,
    },
    /// The whole header is there.
    Complete(Header),
}

/// The meaning of a header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    dtype: Dtype,
    fortran_order: bool,
    shape: Vec<u64>,
    len: u64,
    row_bytes: u64,
    body_bytes: u64,
}

impl Header {
    /// Reads the header in `prefix`, the bytes from the start of the file; a body is ignored.
    ///
    /// # Errors
    /// What makes these bytes, or any bytes that begin with them, no header that npyfs takes.
    pub fn parse(prefix: &[u8]) -> Result<Prefix, HeaderError> {
        Ok(match frame(prefix)? {
            Frame::Incomplete { need } => Prefix::Incomplete { need },
            Frame::Complete { text, len, .. } => Prefix::Complete(Self::from_text(&text, len)?.0),
        })
    }

    /// The meaning of a header's text, and where in the text the value of `shape` begins.
    fn from_text(text: &str, len: usize) -> Result<(Self, usize), HeaderError> {
        let (literal, end) = Literal::parse(text)?;
        let rest = text.get(end..).unwrap_or("");
        if !rest.bytes().all(|b| is_blank(b) || b == 0) {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            return Err(HeaderError::Trailing(clip(rest)));
        }
        let Literal::Dict(entries) = literal.bare() else {
            return Err(HeaderError::NotADict(literal.clipped()));
        };
        const KEYS: [&str; 3] = ["descr", "fortran_order", "shape"];
        let mut values = [None; 3];
        for entry in entries {
            let Literal::Str(key) = entry.key.bare() else {
                return Err(HeaderError::KeyNotString(entry.key.clipped()));
            };
            let Some(i) = KEYS.iter().position(|known| known == key) else {
                return Err(HeaderError::ExtraKey(entry.key.clipped()));
            };
            if values[i].replace(entry).is_some() {
                return Err(HeaderError::DuplicateKey(KEYS[i]));
            }
        }
        let value = |i: usize| values[i].ok_or(HeaderError::MissingKey(KEYS[i]));
        let (descr, fortran, shape) = (value(0)?, value(1)?, value(2)?);
        let dtype = Dtype::from_literal(&descr.value)?;
        let fortran = match fortran.value.bare() {
            Literal::Bool(fortran) => *fortran,
            other => return Err(HeaderError::FortranOrder(other.clipped())),
        };
        let dims = dims(&shape.value)?;
        Ok((Self::new(dtype, fortran, dims, len)?, shape.at))
    }

    fn new(dtype: Dtype, fortran: bool, shape: Vec<u64>, len: usize) -> Result<Self, HeaderError> {
        let Some((&rows, row_shape)) = shape.split_first() else {
            return Err(HeaderError::NoRows);
        };
        if shape.len() > super::MAX_RANK {
            return Err(HeaderError::Rank(shape.len()));
        }
        let product = |dims: &[u64]| {
            if dims.contains(&0) {
                return Some(0);
            }
            dims.iter().try_fold(1, |n: u64, &dim| n.checked_mul(dim))
        };
        let row_bytes = product(row_shape).and_then(|n| n.checked_mul(dtype.itemsize()));
        let row_bytes = row_bytes.ok_or(HeaderError::TooLarge)?;
        let body_bytes = row_bytes.checked_mul(rows).ok_or(HeaderError::TooLarge)?;
        let file_bytes = body_bytes.checked_add(len as u64);
        // The row itself counts where there are no rows yet.
        if file_bytes.is_none_or(|n| i64::try_from(n).is_err())
            || i64::try_from(row_bytes).is_err()
            || i64::try_from(rows).is_err()
        {
            return Err(HeaderError::TooLarge);
        }
        let wide = shape.iter().filter(|&&dim| dim > 1).count();
        Ok(Self {
            fortran_order: fortran && wide > 1 && body_bytes > 0,
            dtype,
            shape,
            len: len as u64,
            row_bytes,
            body_bytes,
        })
    }

    /// The type of the items.
    pub fn dtype(&self) -> &Dtype {
        &self.dtype
    }

    /// Whether the first index runs fastest, and that makes a difference: in one dimension, where
    /// all but one dimension is 1, and without any bytes the flag means nothing.
    pub fn fortran_order(&self) -> bool {
        self.fortran_order
    }

    /// The lengths of the dimensions, at least one.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The length of the first dimension.
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(0)
    }

    /// The lengths of the dimensions after the first.
    pub fn row_shape(&self) -> &[u64] {
        self.shape.get(1..).unwrap_or(&[])
    }

    /// Bytes of a row; may be 0.
    pub fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Bytes of the header, which is where the data begins in the file.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the data.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Bytes of the file: header and data; at most `i64::MAX`.
    pub fn file_bytes(&self) -> u64 {
        self.len + self.body_bytes
    }

    /// The header that `numpy.save` writes for a C-ordered array, byte for byte.
    ///
    /// # Errors
    /// A shape of 0 or more than 32 dimensions, a file of more than 2^63 - 1 bytes, or a header of
    /// more than [`MAX_HEADER`] bytes.
    pub fn encode(dtype: &Dtype, shape: &[u64]) -> Result<Vec<u8>, HeaderError> {
        let rows = shape.first().map_or(0, |rows| rows.to_string().len());
        let text = format!(
            "{}{}, }}{:growth$}",
            text_before_shape(dtype),
            tuple(shape),
            "",
            growth = GROWTH_DIGITS.saturating_sub(rows),
        );
        for version in Version::ALL {
            let Some(text) = version.encode(&text) else {
                continue;
            };
            // Where nothing is missing to the boundary numpy adds a whole line of blanks.
            let unpadded = version.prefix_len() + text.len() + 1;
            let len = (unpadded / ALIGN + 1) * ALIGN;
            if let Some(bytes) = version.frame(&text, len)? {
                Self::new(dtype.clone(), false, shape.to_vec(), len)?;
                return Ok(bytes);
            }
        }
        Err(HeaderError::TooLong(text.len() as u64))
    }

    /// For the count field: what [`Self::parse`] gives for a whole header, and the place in the
    /// file of the value of `shape`.
    pub(super) fn parse_whole(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        match frame(bytes)? {
            Frame::Incomplete { need } => Err(HeaderError::Cut(need)),
            Frame::Complete {
                text,
                len,
                start,
                latin1,
            } => {
                let (header, at) = Self::from_text(&text, len)?;
                let at = match latin1 {
                    true => text.get(..at).map_or(at, |before| before.chars().count()),
                    false => at,
                };
                Ok((header, start + at))
            }
        }
    }
}

/// `{'descr': '<f8', 'fortran_order': False, 'shape': `
pub(super) fn text_before_shape(dtype: &Dtype) -> String {
    format!("{{'descr': {dtype}, 'fortran_order': False, 'shape': ")
}

fn dims(shape: &Literal) -> Result<Vec<u64>, HeaderError> {
    let dim = |dim: &Literal| match dim.bare() {
        Literal::Int(n) if *n < 0 => Err(HeaderError::NegativeDim(dim.bare().clipped())),
        Literal::Int(n) => u64::try_from(*n).map_err(|_| HeaderError::TooLarge),
        Literal::Bool(_) => Err(HeaderError::BooleanDim(dim.bare().clipped())),
        other => Err(HeaderError::DimNotInteger(other.clipped())),
    };
    match shape {
        Literal::Tuple(dims) if dims.len() > super::MAX_RANK => Err(HeaderError::Rank(dims.len())),
        Literal::Tuple(dims) => dims.iter().map(dim).collect(),
        Literal::Paren(only) => match only.bare() {
            Literal::Tuple(_) => dims(only),
            Literal::List(_) | Literal::Dict(_) => Err(HeaderError::Shape(only.clipped())),
            _ => Ok(vec![dim(only)?]),
        },
        other => Err(HeaderError::Shape(other.clipped())),
    }
}

enum Frame<'a> {
    Incomplete {
        need: usize,
    },
    Complete {
        text: Cow<'a, str>,
        /// Where the text begins in the file.
        start: usize,
        /// Where it ends and the data begins.
        len: usize,
        /// A character of the text is a byte of the file.
        latin1: bool,
    },
}

/// What surrounds the text of a header.
fn frame(prefix: &[u8]) -> Result<Frame<'_>, HeaderError> {
    let is_empty = |b: &u8| is_blank(*b) || *b == 0;
    let magic = prefix.get(..MAGIC.len()).unwrap_or(prefix);
    if !MAGIC.starts_with(magic) {
        return Err(match magic.iter().all(is_empty) {
            true => HeaderError::Blank,
            false => HeaderError::NotNpy,
        });
    }
    let version = match (prefix.get(6), prefix.get(7)) {
        (None, _) => return Ok(Frame::Incomplete { need: 10 }),
        (Some(&major), minor) => {
            let minor = minor.copied();
            Version::ALL
                .into_iter()
                .find(|version| *version as u8 == major && minor.unwrap_or(0) == 0)
                .ok_or(HeaderError::Version {
                    major,
                    minor: minor.unwrap_or(0),
                })?
        }
    };
    let start = version.prefix_len();
    let Some(field) = prefix.get(8..start) else {
        return Ok(Frame::Incomplete { need: start });
    };
    let text_len = field.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let len = start as u64 + text_len;
    if len > MAX_HEADER as u64 {
        return Err(HeaderError::TooLong(len));
    }
    let len = len as usize;
    let Some(bytes) = prefix.get(start..len) else {
        return Ok(Frame::Incomplete { need: len });
    };
    if bytes.iter().all(is_empty) {
        return Err(HeaderError::Blank);
    }
    let latin1 = version != Version::V3;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if !latin1 || text.is_ascii() => Cow::Borrowed(text),
        Err(_) if !latin1 => return Err(HeaderError::NotUtf8),
        _ => Cow::Owned(bytes.iter().map(|&b| char::from(b)).collect()),
    };
    Ok(Frame::Complete {
        text,
        start,
        len,
        latin1,
    })
}

/// A version of the format; they differ in the length's width and the text's encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// 2 bytes of length, latin-1.
    V1 = 1,
    /// 4 bytes of length, latin-1.
    V2 = 2,
    /// 4 bytes of length, UTF-8.
    V3 = 3,
}

impl Version {
    /// In the order in which a writer tries them.
    pub(super) const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    /// Bytes before the text.
    pub(super) fn prefix_len(self) -> usize {
        match self {
            Self::V1 => 10,
            Self::V2 | Self::V3 => 12,
        }
    }

    /// The text in this version's encoding, if it has all the characters.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::V3 => Some(text.as_bytes().to_vec()),
            _ => text.chars().map(|c| u8::try_from(c).ok()).collect(),
        }
    }

    /// A header of `len` bytes around `text`, which leaves room for the newline; `None` where this
    /// version cannot tell that length.
    pub(super) fn frame(self, text: &[u8], len: usize) -> Result<Option<Vec<u8>>, HeaderError> {
        if len > MAX_HEADER {
            return Err(HeaderError::TooLong(len as u64));
        }
        let text_len = len - self.prefix_len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[self as u8, 0]);
        match (self, u16::try_from(text_len)) {
            (Self::V1, Err(_)) => return Ok(None),
            (Self::V1, Ok(text_len)) => bytes.extend_from_slice(&text_len.to_le_bytes()),
            _ => bytes.extend_from_slice(&(text_len as u32).to_le_bytes()),
        }
        bytes.extend_from_slice(text);
        bytes.resize(len - 1, b' ');
        bytes.push(b'\n');
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests;
