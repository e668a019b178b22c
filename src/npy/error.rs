//! Every way in which a header can be wrong, one variant and one sentence each.
//!
//! The sentence is all that a producer gets to see, so it names the offending text (clipped, with
//! control characters escaped, so that it stays one line of a log) and says what was expected.

use std::fmt;

use super::MAX_HEADER;
use crate::error::{Errno, Error};

/// Why bytes are not a `.npy` header that npyfs takes, or why a header cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The first bytes are not `\x93NUMPY`.
    NotNpy,
    /// Zeros or spaces where the header should be: its writer meant to come back and did not.
    Blank,
    /// A format version other than 1.0, 2.0 and 3.0.
    Version {
        /// Byte 6 of the file.
        major: u8,
        /// Byte 7 of the file.
        minor: u8,
    },
    /// The header would be longer than [`MAX_HEADER`]; its length in bytes.
    TooLong(u64),
    /// The bytes end inside the header; how many of the file are needed at least. Only where a
    /// whole header is due: to [`Header::parse`](super::Header::parse) this is no error.
    Cut(usize),
    /// Version 3.0, and the text is not UTF-8.
    NotUtf8,
    /// The text is not a Python literal.
    Syntax {
        /// Characters before the fault.
        at: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// An integer such as `007`, which Python refuses.
    LeadingZeros(String),
    /// An integer beyond 128 bits.
    HugeInteger,
    /// More brackets inside each other than any dtype needs.
    TooDeep,
    /// A string escape that is no character: `\ud800`, `\N{...}`, `\U00110000`.
    Escape(String),
    /// Something follows the dictionary.
    Trailing(String),
    /// A literal, but not a dictionary.
    NotADict(String),
    /// A dictionary key that is not a string.
    KeyNotString(String),
    /// A key other than `descr`, `fortran_order` and `shape`.
    ExtraKey(String),
    /// The same key twice.
    DuplicateKey(&'static str),
    /// One of the three keys is not there.
    MissingKey(&'static str),
    /// `fortran_order` is not `True` or `False`.
    FortranOrder(String),
    /// `shape` is not a tuple.
    Shape(String),
    /// The shape is `()`: a scalar has no rows.
    NoRows,
    /// More than 32 dimensions; how many.
    Rank(usize),
    /// A negative dimension.
    NegativeDim(String),
    /// A dimension that is `True` or `False`.
    BooleanDim(String),
    /// A dimension that is a float, a string or something else that is no integer.
    DimNotInteger(String),
    /// The file would be larger than 2^63 - 1 bytes.
    TooLarge,
    /// `descr` (or a part of it) is not a string, a list of fields or a sub-array.
    Descr(String),
    /// A type string that is no dtype.
    UnknownType(String),
    /// A string or void type without a width.
    NoWidth(String),
    /// A datetime unit that is none.
    Unit(String),
    /// Python objects, which are stored as pickles.
    Object(String),
    /// A sub-array as the dtype of the whole array.
    TopSubArray(String),
    /// A field that is not `(name, type)` or `(name, type, shape)`.
    Field(String),
    /// A field name that is not a string or `(title, name)`.
    FieldName(String),
    /// A field name or title that occurs twice.
    DuplicateField(String),
    /// A sub-array shape that is not a tuple of counts.
    SubShape(String),
    /// An item larger than 2^31 - 1 bytes, which is numpy's own limit.
    ItemTooLarge,
    /// A published header whose bytes outside the count differ from the expected ones.
    OtherHeader,
    /// The count field of a published header holds no count.
    BadCount(String),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNpy => f.write_str("not a .npy file: it does not begin with \\x93NUMPY; raw numbers (tofile) have no header: np.save writes one"),
            Self::Blank => f.write_str("the header is blank: its writer never filled it in, or these are raw numbers (tofile), which have none: np.save writes one"),
            Self::Version { major, minor } => write!(
                f,
                "format version {major}.{minor} is unknown; 1.0, 2.0 and 3.0 are supported"
            ),
            Self::TooLong(len) => write!(
                f,
                "a header of {len} bytes is too long; the limit is {MAX_HEADER} bytes"
            ),
            Self::Cut(need) => write!(f, "the header ends before its {need} bytes"),
            Self::NotUtf8 => f.write_str("the header is of version 3.0 and not UTF-8"),
            Self::Syntax { at, expected } => write!(
                f,
                "the header is not a Python literal: expected {expected} at character {at}"
            ),
            Self::LeadingZeros(text) => write!(
                f,
                "the header is not a Python literal: {text} has leading zeros"
            ),
            Self::HugeInteger => f.write_str("an integer in the header has more than 128 bits"),
            Self::TooDeep => f.write_str("the header has too many brackets inside each other"),
            Self::Escape(text) => write!(f, "the escape {text} in the header is no character"),
            Self::Trailing(text) => {
                write!(f, "the header goes on after its dictionary: {text}")
            }
            Self::NotADict(text) => write!(f, "the header is not a dictionary but {text}"),
            Self::KeyNotString(text) => {
                write!(f, "the header has a key that is not a string: {text}")
            }
            Self::ExtraKey(text) => write!(
                f,
                "the header has a key {text}; only 'descr', 'fortran_order' and 'shape' belong there"
            ),
            Self::DuplicateKey(key) => write!(f, "the header has the key '{key}' twice"),
            Self::MissingKey(key) => write!(f, "the header has no key '{key}'"),
            Self::FortranOrder(text) => {
                write!(f, "'fortran_order' is {text}, not True or False")
            }
            Self::Shape(text) => write!(f, "'shape' is {text}, not a tuple"),
            Self::NoRows => f.write_str("the shape is (): a 0-d array has no rows to append"),
            Self::Rank(rank) => write!(f, "the array has {rank} dimensions; the limit is 32"),
            Self::NegativeDim(text) => write!(f, "the shape has a negative dimension {text}"),
            Self::BooleanDim(text) => write!(f, "the shape has a boolean dimension {text}"),
            Self::DimNotInteger(text) => {
                write!(f, "the shape has a dimension {text} that is not an integer")
            }
            Self::TooLarge => f.write_str("the shape makes a file of more than 2^63 - 1 bytes"),
            Self::Descr(text) => write!(f, "the dtype {text} is neither a string nor a list"),
            Self::UnknownType(text) => write!(f, "the dtype {text} is unknown"),
            Self::NoWidth(text) => write!(f, "the dtype {text} says no width"),
            Self::Unit(text) => write!(f, "the dtype {text} has an unknown unit of time"),
            Self::Object(text) => write!(
                f,
                "the dtype {text} holds Python objects, which npyfs does not store"
            ),
            Self::TopSubArray(text) => write!(
                f,
                "the dtype {text} is a sub-array; its dimensions belong into the shape"
            ),
            Self::Field(text) => write!(
                f,
                "the dtype has a field {text}, not (name, type) or (name, type, shape)"
            ),
            Self::FieldName(text) => write!(
                f,
                "the dtype has a field named {text}, not by a string or (title, name)"
            ),
            Self::DuplicateField(text) => {
                write!(f, "the dtype has the field name or title {text} twice")
            }
            Self::SubShape(text) => write!(
                f,
                "the dtype has a sub-array of shape {text}, not a tuple of counts"
            ),
            Self::ItemTooLarge => f.write_str("the dtype has items of more than 2^31 - 1 bytes"),
            Self::OtherHeader => f.write_str("the header is not the published one"),
            Self::BadCount(text) => {
                write!(
                    f,
                    "the count in the published header is {text}, not a number of rows"
                )
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// `EINVAL`, with the sentence.
impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        Error::new(Errno::EINVAL, error.to_string())
    }
}
