//! The records of the journal, and how each is spelled in bytes.

use crate::disk::{MountId, Place};

/// The newest kind of record in each version of the journal.
const NEWEST: [u8; 2] = [10, 17];
/// The newest version that this npyfs reads, and the one that it writes.
pub(crate) const VERSION: u8 = NEWEST.len() as u8;

/// Length and checksum before each payload, in bytes.
pub(crate) const FRAME: usize = 8;

/// Mode, owner and time of last change of a chunk, as the producer set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, `0o7777` at the most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change, in nanoseconds since 1970.
    pub mtime: i64,
}

/// One record. Names are bytes: any file name but `/` and NUL.
///
/// Where version 2 has another layout than version 1, what it adds is an `Option`: a record without
/// it is spelled in the layout of version 1, so that it reads as the same again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record<'a> {
    /// The header of `data.npy`, with a count of 0, when the array was born or adopted.
    Array { header: &'a [u8] },
    /// A header that chunks came with; the first is number 0.
    Header { bytes: &'a [u8] },
    /// A committed chunk.
    Chunk(ChunkRecord<'a>),
    /// A chunk has another name, since `at`.
    Rename {
        from: &'a [u8],
        to: &'a [u8],
        at: Option<i64>,
    },
    /// A chunk has other attributes, since `at`.
    Attributes {
        name: &'a [u8],
        set: Attributes,
        at: Option<i64>,
    },
    /// Rows that another program appended.
    Foreign { first_row: u64, rows: u64 },
    /// All rows before this one, and the journal up to here, have reached the disk.
    Durable { rows: u64 },
    /// A daemon has taken the dataset.
    Opened(Opened),
    /// The daemon has let it go with everything on the disk.
    Closed { rows: u64 },
    /// A name was forgotten, at that time; its rows stay.
    Forgotten { name: &'a [u8], at: Option<i64> },
    /// `data.npy` itself has these attributes, since `at`.
    ArrayAttributes { set: Attributes, at: i64 },
    /// Rows of a stream.
    Run(RunRecord),
    /// The daemon of this host has let the dataset go to the next, with everything on the disk.
    HandOver { host: [u8; 16], rows: u64, at: i64 },
}

/// Who has taken a dataset, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The boot of its machine.
    pub(crate) boot: [u8; 16],
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    /// `None` in a record of version 1.
    pub(crate) whence: Option<Whence>,
}

/// Where a dataset was when it was taken. With the boot it tells the daemon's own pages in memory
/// from those that were read from a disk since, and the dataset from a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whence {
    /// The host on a shared store; zeros elsewhere.
    pub(crate) host: [u8; 16],
    /// The mount of the store's filesystem.
    pub(crate) mount: MountId,
    /// Nowhere as long as there is no array.
    pub(crate) data: Place,
    pub(crate) journal: Place,
}

/// What is known of a committed chunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChunkRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) first_row: u64,
    pub(crate) rows: u64,
    /// The number of the header that it came with.
    pub(crate) header: u32,
    /// CRC-32C of its rows as they are stored.
    pub(crate) crc: u32,
    /// Its rows are not stored as they were written (other byte order, Fortran order).
    pub(crate) converted: bool,
    pub(crate) attributes: Attributes,
    /// When it was committed, in nanoseconds since 1970.
    pub(crate) committed: i64,
}

/// All that a stream has committed with no other rows between. The next commit of the same stream
/// has a record with the same first row, which takes the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunRecord {
    /// Tells the streams of a dataset apart.
    pub(crate) stream: u64,
    pub(crate) first_row: u64,
    pub(crate) rows: u64,
    /// CRC-32C of all these rows as they are stored.
    pub(crate) crc: u32,
    /// More whole rows of the stream may be in `data.npy` after these; no record tells of them yet.
    pub(crate) ahead: bool,
    /// Who writes it.
    pub(crate) uid: u32,
    /// The last commit, in nanoseconds since 1970.
    pub(crate) committed: i64,
}

impl RunRecord {
    /// The row after its last.
    pub(crate) fn end(&self) -> u64 {
        self.first_row.saturating_add(self.rows)
    }

    /// Whether `next` is this run with more rows.
    pub(crate) fn goes_on_as(&self, next: &RunRecord) -> bool {
        (self.stream, self.first_row) == (next.stream, next.first_row)
    }
}

impl Record<'_> {
    /// The row after the ones that it tells of, if it tells of any.
    pub(crate) fn end(&self) -> Option<u64> {
        match self {
            Record::Chunk(chunk) => Some(chunk.first_row.saturating_add(chunk.rows)),
            Record::Foreign { first_row, rows } => Some(first_row.saturating_add(*rows)),
            Record::Run(run) => Some(run.end()),
            _ => None,
        }
    }

    /// Only version 2 has it.
    pub(crate) fn is_new(&self) -> bool {
        self.kind() > NEWEST[0]
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Array { .. } => 1,
            Record::Header { .. } => 2,
            Record::Chunk(_) => 3,
            Record::Rename { at: None, .. } => 4,
            Record::Attributes { at: None, .. } => 5,
            Record::Foreign { .. } => 6,
            Record::Durable { .. } => 7,
            Record::Opened(Opened { whence: None, .. }) => 8,
            Record::Closed { .. } => 9,
            Record::Forgotten { at: None, .. } => 10,
            Record::Opened(_) => 11,
            Record::Rename { .. } => 12,
            Record::Attributes { .. } => 13,
            Record::Forgotten { .. } => 14,
            Record::ArrayAttributes { .. } => 15,
            Record::Run(_) => 16,
            Record::HandOver { .. } => 17,
        }
    }

    /// Appends the framed record to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME]);
        out.push(self.kind());
        self.encode_fields(out);
        let len = ((out.len() - start - FRAME) as u32).to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&len), &out[start + FRAME..]);
        out[start..start + 4].copy_from_slice(&len);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        match self {
            Record::Array { header } => out.extend_from_slice(header),
            Record::Header { bytes } => out.extend_from_slice(bytes),
            Record::Chunk(chunk) => {
                out.extend_from_slice(&chunk.first_row.to_le_bytes());
                out.extend_from_slice(&chunk.rows.to_le_bytes());
                out.extend_from_slice(&chunk.header.to_le_bytes());
                out.extend_from_slice(&chunk.crc.to_le_bytes());
                out.push(u8::from(chunk.converted));
                encode_attributes(&chunk.attributes, out);
                out.extend_from_slice(&chunk.committed.to_le_bytes());
                out.extend_from_slice(chunk.name);
            }
            Record::Rename { from, to, at } => {
                encode_time(*at, out);
                out.extend_from_slice(&(from.len() as u16).to_le_bytes());
                out.extend_from_slice(from);
                out.extend_from_slice(to);
            }
            Record::Attributes { name, set, at } => {
                encode_time(*at, out);
                encode_attributes(set, out);
                out.extend_from_slice(name);
            }
            Record::Foreign { first_row, rows } => {
                out.extend_from_slice(&first_row.to_le_bytes());
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Record::Durable { rows } | Record::Closed { rows } => {
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Record::Opened(opened) => {
                out.extend_from_slice(&opened.boot);
                out.extend_from_slice(&opened.at.to_le_bytes());
                if let Some(whence) = &opened.whence {
                    encode_whence(whence, out);
                }
            }
            Record::Forgotten { name, at } => {
                encode_time(*at, out);
                out.extend_from_slice(name);
            }
            Record::ArrayAttributes { set, at } => {
                encode_time(Some(*at), out);
                encode_attributes(set, out);
            }
            Record::Run(run) => {
                out.extend_from_slice(&run.stream.to_le_bytes());
                out.extend_from_slice(&run.first_row.to_le_bytes());
                out.extend_from_slice(&run.rows.to_le_bytes());
                out.extend_from_slice(&run.crc.to_le_bytes());
                out.push(u8::from(run.ahead));
                out.extend_from_slice(&run.uid.to_le_bytes());
                out.extend_from_slice(&run.committed.to_le_bytes());
            }
            Record::HandOver { host, rows, at } => {
                out.extend_from_slice(host);
                out.extend_from_slice(&rows.to_le_bytes());
                encode_time(Some(*at), out);
            }
        }
    }
}

fn encode_time(at: Option<i64>, out: &mut Vec<u8>) {
    if let Some(at) = at {
        out.extend_from_slice(&at.to_le_bytes());
    }
}

fn encode_attributes(attributes: &Attributes, out: &mut Vec<u8>) {
    out.extend_from_slice(&attributes.mode.to_le_bytes());
    out.extend_from_slice(&attributes.uid.to_le_bytes());
    out.extend_from_slice(&attributes.gid.to_le_bytes());
    out.extend_from_slice(&attributes.mtime.to_le_bytes());
}

fn encode_whence(whence: &Whence, out: &mut Vec<u8>) {
    out.extend_from_slice(&whence.host);
    let (what, id) = match whence.mount {
        MountId::Unknown => (0, 0),
        MountId::Unique(id) => (1, id),
        MountId::Device(id) => (2, id),
    };
    out.push(what);
    out.extend_from_slice(&id.to_le_bytes());
    for place in [whence.data, whence.journal] {
        out.extend_from_slice(&place.inode.to_le_bytes());
        out.extend_from_slice(&place.born.to_le_bytes());
    }
}

/// Takes fixed-size fields off the front of a payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            [_] => None,
        }
    }

    fn attributes(&mut self) -> Option<Attributes> {
        Some(Attributes {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            mtime: self.i64()?,
        })
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place {
            inode: self.u64()?,
            born: self.i64()?,
        })
    }

    fn whence(&mut self) -> Option<Whence> {
        Some(Whence {
            host: self.array()?,
            mount: match (self.array()?, self.u64()?) {
                ([0], 0) => MountId::Unknown,
                ([1], id) => MountId::Unique(id),
                ([2], id) => MountId::Device(id),
                _ => return None,
            },
            data: self.place()?,
            journal: self.place()?,
        })
    }

    fn name(self) -> Option<&'a [u8]> {
        (!self.0.is_empty() && self.0.len() <= 255).then_some(self.0)
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Whether a journal of this version has records of this kind.
pub(crate) fn is_known(kind: u8, version: u8) -> bool {
    let newest = NEWEST[usize::from(version.clamp(1, VERSION)) - 1];
    (1..=newest).contains(&kind)
}

/// For messages: the kinds that this npyfs knows in a journal of this version.
pub(crate) fn known_kinds(version: u8) -> String {
    let newest = NEWEST[usize::from(version.clamp(1, VERSION)) - 1];
    format!("kinds 1 to {newest} of version {version}")
}

/// The record that a payload spells; `None` where it has not the fields of its kind.
pub(crate) fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let mut fields = Fields(payload);
    let kind = fields.array::<1>()?[0];
    // The layouts of version 2 that begin with a time, which those of version 1 have not.
    let at = match kind {
        12..=15 => Some(fields.i64()?),
        _ => None,
    };
    match kind {
        1 => Some(Record::Array { header: fields.0 }),
        2 => Some(Record::Header { bytes: fields.0 }),
        3 => Some(Record::Chunk(ChunkRecord {
            first_row: fields.u64()?,
            rows: fields.u64()?,
            header: fields.u32()?,
            crc: fields.u32()?,
            converted: fields.flag()?,
            attributes: fields.attributes()?,
            committed: fields.i64()?,
            name: fields.name()?,
        })),
        4 | 12 => {
            let len = fields.array().map(u16::from_le_bytes)?;
            let from = Fields(fields.bytes(usize::from(len))?).name()?;
            let to = fields.name()?;
            Some(Record::Rename { from, to, at })
        }
        5 | 13 => {
            let set = fields.attributes()?;
            let name = fields.name()?;
            Some(Record::Attributes { name, set, at })
        }
        6 => {
            let (first_row, rows) = (fields.u64()?, fields.u64()?);
            fields.end(Record::Foreign { first_row, rows })
        }
        7 => {
            let rows = fields.u64()?;
            fields.end(Record::Durable { rows })
        }
        8 | 11 => {
            let opened = Opened {
                boot: fields.array()?,
                at: fields.i64()?,
                whence: match kind {
                    8 => None,
                    _ => Some(fields.whence()?),
                },
            };
            fields.end(Record::Opened(opened))
        }
        9 => {
            let rows = fields.u64()?;
            fields.end(Record::Closed { rows })
        }
        10 | 14 => {
            let name = fields.name()?;
            Some(Record::Forgotten { name, at })
        }
        15 => {
            let (set, at) = (fields.attributes()?, at?);
            fields.end(Record::ArrayAttributes { set, at })
        }
        16 => {
            let run = RunRecord {
                stream: fields.u64()?,
                first_row: fields.u64()?,
                rows: fields.u64()?,
                crc: fields.u32()?,
                ahead: fields.flag()?,
                uid: fields.u32()?,
                committed: fields.i64()?,
            };
            fields.end(Record::Run(run))
        }
        17 => {
            let (host, rows, at) = (fields.array()?, fields.u64()?, fields.i64()?);
            fields.end(Record::HandOver { host, rows, at })
        }
        _ => None,
    }
}
