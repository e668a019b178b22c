//! What the items of an array are: meaning, not spelling.
//!
//! A [`Dtype`] is parsed from any spelling that numpy takes for a type that it stores without
//! pickling (`numpy.dtype` and `numpy.lib.format.descr_to_dtype`), and is printed in the one
//! spelling that numpy itself writes. Two spellings of one type are equal values: byte order is
//! kept only where it matters, padding fields only as the offsets that they make.

use std::ffi::{c_long, c_ulong};
use std::fmt;
use std::str::FromStr;

use super::HeaderError;
use super::byteswap::{self, ByteSwap};
use super::literal::{Literal, quote, tuple};

/// The largest item, in bytes: numpy's own limit.
const MAX_ITEM: u64 = i32::MAX as u64;

const NATIVE_BIG: bool = cfg!(target_endian = "big");

/// The type of an array's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dtype(Type);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Scalar(Scalar),
    Record {
        fields: Vec<Field>,
        size: u64,
    },
    Array {
        element: Box<Dtype>,
        shape: Vec<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Scalar {
    kind: Kind,
    /// Bytes.
    size: u64,
    /// Big-endian; always false where the order of bytes means nothing.
    big: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Uint,
    Float,
    Complex,
    Bytes,
    Text,
    Void,
    Datetime(Option<Unit>),
    Timedelta(Option<Unit>),
}

/// `multiple` times the unit `name`, as in `[25us]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    multiple: u32,
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    title: Option<String>,
    name: String,
    /// Bytes from the start of the item.
    offset: u64,
    dtype: Dtype,
}

/// From numpy's spelling: `<f4`, or a Python literal such as `[('a', '<f4')]`.
impl FromStr for Dtype {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        if text.starts_with(['[', '(', '\'', '"']) {
            let (literal, _) = Literal::parse(text)?;
            Self::from_literal(&literal)
        } else {
            Self::from_literal(&Literal::Str(text.to_owned()))
        }
    }
}

impl Dtype {
    /// Reads the value of the key `descr`.
    ///
    /// # Errors
    /// What makes it no dtype that npyfs stores: Python objects, sub-arrays at the top, unknown
    /// names, fields that are malformed or occur twice, items of more than 2^31 - 1 bytes.
    pub fn from_literal(descr: &Literal) -> Result<Self, HeaderError> {
        let dtype = Self::parse(descr)?;
        match dtype.0 {
            Type::Array { .. } => Err(HeaderError::TopSubArray(descr.clipped())),
            _ => Ok(dtype),
        }
    }

    /// Bytes of an item.
    pub fn itemsize(&self) -> u64 {
        match &self.0 {
            Type::Scalar(scalar) => scalar.size,
            Type::Record { size, .. } => *size,
            // Checked when the sub-array was made.
            Type::Array { element, shape } => shape
                .iter()
                .fold(element.itemsize(), |size, &n| size.saturating_mul(n)),
        }
    }

    /// numpy's own spelling as a Python literal: `'<f8'`, `[('a', '<f4'), ('', '|V4')]`.
    pub fn descr(&self) -> String {
        self.to_string()
    }

    /// Whether the values of one can be those of the other: the same kinds, sizes, units, fields,
    /// offsets, titles and sub-array shapes in order. The order of bytes may differ.
    pub fn same_values(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Type::Scalar(a), Type::Scalar(b)) => a.kind == b.kind && a.size == b.size,
            (
                Type::Record { fields, size },
                Type::Record {
                    fields: others,
                    size: other_size,
                },
            ) => {
                size == other_size
                    && fields.len() == others.len()
                    && fields.iter().zip(others).all(|(a, b)| {
                        a.name == b.name
                            && a.title == b.title
                            && a.offset == b.offset
                            && a.dtype.same_values(&b.dtype)
                    })
            }
            (
                Type::Array { element, shape },
                Type::Array {
                    element: other_element,
                    shape: other_shape,
                },
            ) => shape == other_shape && element.same_values(other_element),
            _ => false,
        }
    }

    /// The runs of bytes to reverse in every item to turn this byte order into `other`'s; empty
    /// where they are equal. Only meaningful where [`Self::same_values`] holds.
    pub fn swaps(&self, other: &Self) -> Vec<ByteSwap> {
        match (&self.0, &other.0) {
            (Type::Scalar(a), Type::Scalar(b)) if a.big != b.big => a.elements(),
            (Type::Record { fields, .. }, Type::Record { fields: others, .. }) => {
                let mut swaps = Vec::new();
                for (field, other) in fields.iter().zip(others) {
                    byteswap::push(&mut swaps, field.offset, field.dtype.swaps(&other.dtype));
                }
                swaps
            }
            (Type::Array { element, shape }, Type::Array { element: other, .. }) => {
                let count = shape.iter().fold(1, |n: u64, &dim| n.saturating_mul(dim));
                byteswap::repeat(element.swaps(other), element.itemsize(), count)
            }
            _ => Vec::new(),
        }
    }

    fn parse(descr: &Literal) -> Result<Self, HeaderError> {
        match descr.bare() {
            Literal::Str(text) => Ok(Self(Type::Scalar(Scalar::parse(text)?))),
            Literal::List(fields) => Self::record(fields),
            Literal::Tuple(pair) => match pair.as_slice() {
                [element, shape] => Self::parse(element)?.array(shape),
                _ => Err(HeaderError::Descr(descr.clipped())),
            },
            other => Err(HeaderError::Descr(other.clipped())),
        }
    }

    /// A sub-array of items of this type; the item itself for the shape `()`.
    fn array(self, shape: &Literal) -> Result<Self, HeaderError> {
        let refuse = || HeaderError::SubShape(shape.clipped());
        let dim = |dim: &Literal| match dim.bare() {
            Literal::Int(n) => u64::try_from(*n).map_err(|_| refuse()),
            _ => Err(refuse()),
        };
        let shape = match shape.bare() {
            Literal::Tuple(dims) => dims.iter().map(dim).collect::<Result<Vec<_>, _>>()?,
            only => vec![dim(only)?],
        };
        if shape.is_empty() {
            return Ok(self);
        }
        if shape.len() > super::MAX_RANK {
            return Err(refuse());
        }
        let mut size = self.itemsize();
        for &n in &shape {
            size = size.checked_mul(n).ok_or(HeaderError::ItemTooLarge)?;
        }
        within_limit(size)?;
        Ok(Self(Type::Array {
            element: Box::new(self),
            shape,
        }))
    }

    /// The fields one after another, as `descr_to_dtype` lays them out.
    fn record(list: &[Literal]) -> Result<Self, HeaderError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut offset = 0;
        for field in list {
            let Literal::Tuple(parts) = field.bare() else {
                return Err(HeaderError::Field(field.clipped()));
            };
            let (name, dtype) = match parts.as_slice() {
                [name, descr] => (name, Self::parse(descr)?),
                [name, descr, shape] => (name, Self::parse(descr)?.array(shape)?),
                _ => return Err(HeaderError::Field(field.clipped())),
            };
            let (title, name) = match name.bare() {
                Literal::Str(name) => (None, name),
                Literal::Tuple(both) => match both.as_slice() {
                    [Literal::Str(title), Literal::Str(name)] => (Some(title), name),
                    _ => return Err(HeaderError::FieldName(name.clipped())),
                },
                other => return Err(HeaderError::FieldName(other.clipped())),
            };
            let size = dtype.itemsize();
            if title.is_some() || !name.is_empty() || !dtype.is_void() {
                for key in title.into_iter().chain([name]) {
                    if !seen.insert(key) {
                        let key = Literal::Str(key.clone());
                        return Err(HeaderError::DuplicateField(key.clipped()));
                    }
                }
                fields.push(Field {
                    title: title.cloned(),
                    name: name.clone(),
                    offset,
                    dtype,
                });
            }
            offset += size;
            within_limit(offset)?;
        }
        Ok(Self(Type::Record {
            fields,
            size: offset,
        }))
    }

    /// What numpy holds in a void scalar without fields; nameless, it is padding.
    fn is_void(&self) -> bool {
        match &self.0 {
            Type::Scalar(scalar) => scalar.kind == Kind::Void,
            Type::Array { .. } => true,
            Type::Record { .. } => false,
        }
    }
}

fn within_limit(size: u64) -> Result<u64, HeaderError> {
    if size > MAX_ITEM {
        return Err(HeaderError::ItemTooLarge);
    }
    Ok(size)
}

/// See [`Dtype::descr`].
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Type::Scalar(scalar) => write!(f, "{scalar}"),
            Type::Array { element, shape } => write!(f, "({element}, {})", tuple(shape)),
            Type::Record { fields, size } => {
                f.write_str("[")?;
                let mut at = 0;
                let mut comma = "";
                for field in fields {
                    if field.offset > at {
                        write!(f, "{comma}('', '|V{}')", field.offset - at)?;
                        comma = ", ";
                    }
                    write!(f, "{comma}{field}")?;
                    comma = ", ";
                    at = field.offset + field.dtype.itemsize();
                }
                if *size > at {
                    write!(f, "{comma}('', '|V{}')", size - at)?;
                }
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = quote(&self.name);
        match &self.title {
            Some(title) => write!(f, "(({}, {name}), ", quote(title))?,
            None => write!(f, "({name}, ")?,
        }
        match &self.dtype.0 {
            Type::Array { element, shape } => write!(f, "{element}, {})", tuple(shape)),
            _ => write!(f, "{})", self.dtype),
        }
    }
}

impl Scalar {
    fn parse(text: &str) -> Result<Self, HeaderError> {
        let shown = || Literal::Str(text.to_owned()).clipped();
        let unknown = || HeaderError::UnknownType(shown());
        let (big, name) = match text.split_at_checked(1) {
            Some(("<", name)) => (false, name),
            Some((">", name)) => (true, name),
            Some(("=" | "|", name)) => (NATIVE_BIG, name),
            _ => (NATIVE_BIG, text),
        };
        if matches!(name, "O" | "O4" | "O8") || matches!(text, "object" | "object_") {
            return Err(HeaderError::Object(shown()));
        }
        // Names take no byte order; one letter does.
        let named = if name.len() == 1 || name.len() == text.len() {
            named(name)
        } else {
            None
        };
        let (kind, size) = match named {
            Some(found) => found,
            None => {
                let (code, rest) = ["datetime64", "timedelta64"]
                    .iter()
                    .find_map(|word| Some((*word, text.strip_prefix(word)?)))
                    .or_else(|| name.split_at_checked(1))
                    .ok_or_else(unknown)?;
                match code {
                    "M" | "datetime64" | "m" | "timedelta64" => {
                        let rest = match code.len() {
                            1 => rest.strip_prefix('8').ok_or_else(unknown)?,
                            _ => rest,
                        };
                        let unit = Unit::parse(rest).ok_or_else(|| HeaderError::Unit(shown()))?;
                        let kind = match code {
                            "M" | "datetime64" => Kind::Datetime(unit),
                            _ => Kind::Timedelta(unit),
                        };
                        (kind, 8)
                    }
                    _ => sized(code, rest, text)?.ok_or_else(unknown)?,
                }
            }
        };
        let ordered = match kind {
            Kind::Bool | Kind::Bytes | Kind::Void => false,
            _ => size > 1,
        };
        Ok(Self {
            kind,
            size: within_limit(size)?,
            big: big && ordered,
        })
    }

    /// What is reversed in an item of this type.
    fn elements(&self) -> Vec<ByteSwap> {
        let (width, count) = match self.kind {
            Kind::Bool | Kind::Bytes | Kind::Void => return Vec::new(),
            Kind::Text => (4, self.size / 4),
            Kind::Complex => (self.size / 2, 2),
            _ => (self.size, 1),
        };
        if count == 0 || width < 2 {
            return Vec::new();
        }
        vec![ByteSwap::run(0, width, count)]
    }
}

/// The types that numpy knows by a name or a letter that implies the size.
fn named(name: &str) -> Option<(Kind, u64)> {
    const LONG: u64 = size_of::<c_long>() as u64;
    const ULONG: u64 = size_of::<c_ulong>() as u64;
    const POINTER: u64 = size_of::<usize>() as u64;
    Some(match name {
        "bool" | "bool_" | "bool8" | "?" => (Kind::Bool, 1),
        "int8" | "byte" | "b" => (Kind::Int, 1),
        "int16" | "short" | "h" => (Kind::Int, 2),
        "int32" | "intc" | "i" => (Kind::Int, 4),
        "int64" | "longlong" | "q" => (Kind::Int, 8),
        "long" | "l" => (Kind::Int, LONG),
        "int" | "int_" | "intp" | "p" | "n" => (Kind::Int, POINTER),
        "uint8" | "ubyte" | "B" => (Kind::Uint, 1),
        "uint16" | "ushort" | "H" => (Kind::Uint, 2),
        "uint32" | "uintc" | "I" => (Kind::Uint, 4),
        "uint64" | "ulonglong" | "Q" => (Kind::Uint, 8),
        "ulong" | "L" => (Kind::Uint, ULONG),
        "uint" | "uintp" | "P" | "N" => (Kind::Uint, POINTER),
        "float16" | "half" | "e" => (Kind::Float, 2),
        "float32" | "single" | "f" => (Kind::Float, 4),
        "float64" | "double" | "float" | "float_" | "d" => (Kind::Float, 8),
        "float96" => (Kind::Float, 12),
        "float128" | "longdouble" | "g" => (Kind::Float, 16),
        "complex64" | "csingle" | "F" => (Kind::Complex, 8),
        "complex128" | "cdouble" | "complex" | "complex_" | "D" => (Kind::Complex, 16),
        "complex192" => (Kind::Complex, 24),
        "complex256" | "clongdouble" | "G" => (Kind::Complex, 32),
        _ => return None,
    })
}

/// A letter and a number: bytes, or characters for `U`. `None` where there is no such type.
fn sized(code: &str, rest: &str, text: &str) -> Result<Option<(Kind, u64)>, HeaderError> {
    let flexible = match code {
        "S" | "a" => Some((Kind::Bytes, 1)),
        "U" => Some((Kind::Text, 4)),
        "V" => Some((Kind::Void, 1)),
        _ => None,
    };
    let word = matches!(
        text,
        "str" | "str_" | "unicode" | "bytes" | "bytes_" | "void"
    );
    if word || (flexible.is_some() && rest.is_empty()) {
        return Err(HeaderError::NoWidth(
            Literal::Str(text.to_owned()).clipped(),
        ));
    }
    if rest.is_empty() || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let number = rest.trim_start_matches('0');
    let number: u64 = match number.len() {
        0 => 0,
        1..=10 => number.parse().unwrap_or(u64::MAX),
        _ => u64::MAX,
    };
    if let Some((kind, width)) = flexible {
        return Ok(Some((kind, within_limit(number.saturating_mul(width))?)));
    }
    Ok(match (code, number) {
        ("b", 1) => Some((Kind::Bool, 1)),
        ("i", 1 | 2 | 4 | 8) => Some((Kind::Int, number)),
        ("u", 1 | 2 | 4 | 8) => Some((Kind::Uint, number)),
        ("f", 2 | 4 | 8 | 12 | 16) => Some((Kind::Float, number)),
        ("c", 8 | 16 | 24 | 32) => Some((Kind::Complex, number)),
        _ => None,
    })
}

impl Unit {
    /// `[ns]`, `[25us]`, or nothing for generic time; `None` where it is no unit.
    fn parse(text: &str) -> Option<Option<Self>> {
        const NAMES: [&str; 13] = [
            "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as",
        ];
        if text.is_empty() || text == "[generic]" {
            return Some(None);
        }
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        let name = inside.trim_start_matches(|c: char| c.is_ascii_digit());
        let multiple = inside.strip_suffix(name)?;
        let multiple = match multiple {
            "" => 1,
            digits => digits.parse::<u32>().ok()?,
        };
        let name = if name == "μs" { "us" } else { name };
        let name = NAMES.into_iter().find(|known| *known == name)?;
        if multiple == 0 || i32::try_from(multiple).is_err() {
            return None;
        }
        Some(Some(Self { multiple, name }))
    }
}

/// As numpy's `dtype.str`, in quotes.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.big { '>' } else { '<' };
        let size = self.size;
        match self.kind {
            Kind::Bool => f.write_str("'|b1'"),
            Kind::Int if size == 1 => f.write_str("'|i1'"),
            Kind::Uint if size == 1 => f.write_str("'|u1'"),
            Kind::Int => write!(f, "'{order}i{size}'"),
            Kind::Uint => write!(f, "'{order}u{size}'"),
            Kind::Float => write!(f, "'{order}f{size}'"),
            Kind::Complex => write!(f, "'{order}c{size}'"),
            Kind::Bytes => write!(f, "'|S{size}'"),
            Kind::Text => write!(f, "'{order}U{}'", size / 4),
            Kind::Void => write!(f, "'|V{size}'"),
            Kind::Datetime(unit) | Kind::Timedelta(unit) => {
                let letter = match self.kind {
                    Kind::Datetime(_) => 'M',
                    _ => 'm',
                };
                match unit {
                    None => write!(f, "'{order}{letter}8'"),
                    Some(Unit { multiple: 1, name }) => write!(f, "'{order}{letter}8[{name}]'"),
                    Some(Unit { multiple, name }) => {
                        write!(f, "'{order}{letter}8[{multiple}{name}]'")
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
