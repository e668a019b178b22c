//! What producers write in these tests: chunks that fit, and some that do not.

use proptest::prelude::*;

use crate::chunks;

/// Every header is this long.
pub const HEAD: usize = 128;

/// A row is 64 bytes in every form, so that only the header tells them apart.
pub const ROW: usize = 64;

/// Dtype, order and row shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    Little,
    Big,
    LittleFortran,
    BigFortran,
    OtherType,
    OtherShape,
}

impl HeaderKind {
    const ALL: [HeaderKind; 6] = [
        HeaderKind::Little,
        HeaderKind::Big,
        HeaderKind::LittleFortran,
        HeaderKind::BigFortran,
        HeaderKind::OtherType,
        HeaderKind::OtherShape,
    ];

    pub fn descr(self) -> &'static str {
        match self {
            HeaderKind::Little | HeaderKind::LittleFortran => "'<i8'",
            HeaderKind::Big | HeaderKind::BigFortran => "'>i8'",
            HeaderKind::OtherType => "'<f4'",
            HeaderKind::OtherShape => "'<i8'",
        }
    }

    pub fn row_shape(self) -> &'static [u64] {
        match self {
            HeaderKind::Little
            | HeaderKind::Big
            | HeaderKind::LittleFortran
            | HeaderKind::BigFortran => &[8],
            HeaderKind::OtherType => &[16],
            HeaderKind::OtherShape => &[4, 2],
        }
    }

    pub fn is_fortran(self) -> bool {
        matches!(self, HeaderKind::LittleFortran | HeaderKind::BigFortran)
    }

    fn is_big(self) -> bool {
        matches!(self, HeaderKind::Big | HeaderKind::BigFortran)
    }

    fn header(self, rows: u64) -> Vec<u8> {
        let mut shape = vec![rows];
        shape.extend_from_slice(self.row_shape());
        let head = chunks::header(self.descr(), self.is_fortran(), &shape);
        assert_eq!(head.len(), HEAD);
        head
    }

    /// The form that a dataset has whose first chunk has this one: always C order.
    pub fn of_dataset(self) -> HeaderKind {
        match self {
            HeaderKind::LittleFortran => HeaderKind::Little,
            HeaderKind::BigFortran => HeaderKind::Big,
            other => other,
        }
    }

    /// Whether a chunk of this form belongs into a dataset of that one.
    pub fn fits(self, dataset: HeaderKind) -> bool {
        let kind = |form| match form {
            HeaderKind::Little
            | HeaderKind::Big
            | HeaderKind::LittleFortran
            | HeaderKind::BigFortran => 0,
            HeaderKind::OtherType => 1,
            HeaderKind::OtherShape => 2,
        };
        kind(self) == kind(dataset)
    }

    /// The chunk as its view shows it in a dataset of that form. One of no rows has no bytes to
    /// convert, and stays as it was written.
    pub fn view(self, dataset: HeaderKind, bytes: &[u8]) -> Vec<u8> {
        if self == dataset || bytes.len() == HEAD {
            return bytes.to_vec();
        }
        let body = &bytes[HEAD..];
        let rows = body.len() / ROW;
        let mut view = dataset.header(rows as u64);
        for row in 0..rows {
            for column in 0..8 {
                let at = if self.is_fortran() {
                    column * rows + row
                } else {
                    row * 8 + column
                };
                let mut item: [u8; 8] = body[at * 8..at * 8 + 8].try_into().unwrap();
                if self.is_big() != dataset.is_big() {
                    item.reverse();
                }
                view.extend_from_slice(&item);
            }
        }
        view
    }
}

/// How the bytes that were received so far read from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It may still become a chunk.
    Incomplete,
    /// It never will.
    Invalid,
    /// The header is there.
    Header {
        form: HeaderKind,
        rows: u64,
        len: usize,
    },
}

/// Reads a header; knows only the ones that [`Spec`] makes.
pub fn read(received: &[u8]) -> Reading {
    const FRONT: &[u8] = b"\x93NUMPY\x01\x00\x76\x00{'descr': ";
    let front = received.len().min(FRONT.len());
    if received[..front] != FRONT[..front] {
        return Reading::Invalid;
    }
    if received.len() < HEAD {
        return Reading::Incomplete;
    }
    let text = String::from_utf8_lossy(&received[..HEAD]);
    let count = text.split_once("'shape': (").and_then(|(_, shape)| {
        let digits = shape.find(|c: char| !c.is_ascii_digit())?;
        shape[..digits].parse().ok()
    });
    let Some(rows) = count else {
        return Reading::Invalid;
    };
    let known = HeaderKind::ALL
        .into_iter()
        .find(|form| padded(&form.header(rows)) == padded(&received[..HEAD]));
    known.map_or(Reading::Invalid, |form| Reading::Header {
        form,
        rows,
        len: HEAD + rows as usize * ROW,
    })
}

/// The header of a file as it would be with another count of rows.
pub fn with_count(file: &[u8], rows: u64) -> Vec<u8> {
    match read(file) {
        Reading::Header { form, .. } => form.header(rows),
        _ => file[..file.len().min(HEAD)].to_vec(),
    }
}

/// A hole in the padding of a header is padding too.
fn padded(head: &[u8]) -> Vec<u8> {
    let text = head.iter().position(|&byte| byte == b'}').unwrap_or(0);
    let mut head = head.to_vec();
    for byte in &mut head[text..] {
        if matches!(*byte, 0 | b'\n') {
            *byte = b' ';
        }
    }
    head
}

/// How a file's length differs from what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    NotNpy,
    Short,
    Long,
}

/// A file to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    pub form: HeaderKind,
    pub rows: u64,
    pub seed: u64,
    pub flaw: Flaw,
}

impl Spec {
    /// A chunk with nothing wrong.
    #[allow(dead_code)]
    pub fn good(rows: u64, seed: u64) -> Self {
        Spec {
            form: HeaderKind::Little,
            rows,
            seed,
            flaw: Flaw::None,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.form.header(self.rows);
        bytes.extend(chunks::noise(self.seed, self.rows as usize * ROW));
        match self.flaw {
            Flaw::None => {}
            Flaw::NotNpy => bytes[0] = b'x',
            Flaw::Short => bytes.truncate(bytes.len() - 1 - bytes.len() / 5),
            Flaw::Long => bytes.push(7),
        }
        bytes
    }

    /// Mostly chunks that fit, mostly small; `large` is how many rows a large one has.
    pub fn any(large: u64) -> BoxedStrategy<Spec> {
        let form = prop_oneof![
            12 => Just(HeaderKind::Little),
            4 => Just(HeaderKind::Big),
            3 => Just(HeaderKind::LittleFortran),
            2 => Just(HeaderKind::BigFortran),
            1 => Just(HeaderKind::OtherType),
            1 => Just(HeaderKind::OtherShape),
        ];
        let rows = prop_oneof![
            2 => Just(0),
            12 => 1..6u64,
            4 => Just(300),
            1 => Just(large),
        ];
        let flaw = prop_oneof![
            16 => Just(Flaw::None),
            1 => Just(Flaw::NotNpy),
            1 => Just(Flaw::Short),
            1 => Just(Flaw::Long),
        ];
        (form, rows, 0..3u64, flaw)
            .prop_map(|(form, rows, seed, flaw)| Spec {
                form,
                // One row has the same bytes in either order.
                rows: if form.is_fortran() { rows.max(2) } else { rows },
                seed,
                flaw,
            })
            .boxed()
    }
}
