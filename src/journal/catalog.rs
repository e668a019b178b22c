//! The chunks of a dataset by name and by row: the journal's meaning, in memory.
//!
//! A million chunks must fit: a [`CatalogEntry`] is 72 bytes, names lie end to end in one buffer, and
//! the index holds 4 bytes an entry. The order of the receipts is the commit order, and an id (the
//! place in that order) is never given twice, so it serves as a directory cookie.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::journal::{Attributes, ChunkRecord, Record, RunRecord};

/// A committed chunk, as the journal has it. Rows are counted from the array's first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CatalogEntry {
    /// Its first row in the array.
    pub first_row: u64,
    /// How many rows it has.
    pub rows: u64,
    /// When it was committed, in nanoseconds since 1970.
    pub committed: i64,
    /// Mode, owner and time of last change.
    pub attributes: Attributes,
    /// Whether its rows are stored in another byte order or element order than they came in.
    pub converted: bool,
    /// CRC-32C of its rows as stored.
    pub crc: u32,
    pub(crate) header: u32,
    name_len: u8,
    name_at: u64,
}

impl CatalogEntry {
    /// The row after its last.
    pub fn end(&self) -> u64 {
        self.first_row + self.rows
    }
}

/// Where a name begins in a catalog's buffer, and how long it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptName(u64, u8);

/// Why a record cannot follow the ones before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidRecord(pub(crate) &'static str);

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    receipts: Vec<CatalogEntry>,
    names: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    headers: Vec<Arc<[u8]>>,
    header_numbers: HashMap<Arc<[u8]>, u32>,
    /// What streams have committed, in the order of their rows.
    runs: Vec<RunRecord>,
    /// What was set of `data.npy` itself, and when.
    of_array: Option<(Attributes, i64)>,
    /// Of the chunks that were renamed, what they were called first.
    origins: HashMap<u32, Origin>,
    /// How many chunks were called so first and have another name since.
    moved: HashMap<Box<[u8]>, u32>,
    /// When a chunk's name or attributes were changed last.
    changed: HashMap<u32, i64>,
    /// When a chunk came, went or was renamed last.
    listed: i64,
    edition: Edition,
    /// Rows that have a receipt, are of a run, or are known to be another program's.
    rows: u64,
}

/// Another with each change of what a catalog had before, and in each catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edition(u64);

impl Default for Edition {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The first name of a chunk that was renamed, and how many had been renamed before that were called
/// so first.
#[derive(Clone, Copy, Debug)]
struct Origin {
    name: KeptName,
    before: u32,
}

/// The least that a chunk takes in the journal, in bytes.
const SHORTEST_RECORD: u64 = 64;
/// How many chunks there may be room for before any is seen. A file may be longer than what it
/// holds: with more chunks than this the rest is made room for as they come.
const MOST_EXPECTED: u64 = 4 << 20;

impl Catalog {
    /// Makes room for as many chunks as a journal of `bytes` may have: an index that grows step by
    /// step computes each name's hash anew at each step.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let chunks = (bytes / SHORTEST_RECORD).min(MOST_EXPECTED) as usize;
        self.receipts.reserve(chunks);
        if self.index.is_empty() {
            self.index = HashTable::with_capacity(chunks);
        }
    }

    /// Takes in what a record says. Records that say nothing of chunks are passed over.
    pub(crate) fn apply(&mut self, record: &Record<'_>) -> Result<(), InvalidRecord> {
        match record {
            Record::Header { bytes } => {
                self.header_number(bytes);
                Ok(())
            }
            Record::Chunk(chunk) => self.insert(chunk),
            Record::Rename { from, to, at } => self.rename(from, to, *at),
            Record::Attributes { name, set, at } => {
                let id = self
                    .id(name)
                    .ok_or(InvalidRecord("attributes of no chunk"))?;
                self.receipts[id as usize].attributes = *set;
                self.edition = Edition::default();
                self.changed.extend(at.map(|at| (id, at)));
                Ok(())
            }
            Record::Foreign { first_row, rows } => self.grow(*first_row, *rows),
            Record::Forgotten { name, at } => self.forget(name, *at),
            Record::Run(run) => self.go_on(run),
            Record::ArrayAttributes { set, at } => {
                self.of_array = Some((*set, *at));
                Ok(())
            }
            Record::Array { .. }
            | Record::Durable { .. }
            | Record::Opened(_)
            | Record::Closed { .. }
            | Record::HandOver { .. } => Ok(()),
        }
    }

    /// A run that is new, or the last one with more rows.
    fn go_on(&mut self, run: &RunRecord) -> Result<(), InvalidRecord> {
        if let Some(last) = self.extended_by(run).copied() {
            let more = run.rows.checked_sub(last.rows);
            let more = more.ok_or(InvalidRecord("a run that became shorter"))?;
            self.grow(last.end(), more)?;
            self.runs.pop();
        } else {
            self.grow(run.first_row, run.rows)?;
            // Announced, and then nothing came of it.
            self.runs.pop_if(|last| last.rows == 0);
        }
        self.runs.push(*run);
        Ok(())
    }

    /// The run that this is, as it was before, if that is what the array ends with.
    pub(crate) fn extended_by(&self, run: &RunRecord) -> Option<&RunRecord> {
        self.runs
            .last()
            .filter(|last| last.goes_on_as(run) && last.end() == self.rows)
    }

    fn grow(&mut self, first_row: u64, rows: u64) -> Result<(), InvalidRecord> {
        if first_row != self.rows {
            return Err(InvalidRecord("rows that do not follow the last"));
        }
        self.rows = first_row
            .checked_add(rows)
            .ok_or(InvalidRecord("more rows than can be counted"))?;
        Ok(())
    }

    fn insert(&mut self, chunk: &ChunkRecord<'_>) -> Result<(), InvalidRecord> {
        if chunk.header as usize >= self.headers.len() {
            return Err(InvalidRecord("a chunk with an unknown header"));
        }
        if self.id(chunk.name).is_some() {
            return Err(InvalidRecord("a name committed twice"));
        }
        let id = u32::try_from(self.receipts.len())
            .map_err(|_| InvalidRecord("more chunks than can be numbered"))?;
        self.grow(chunk.first_row, chunk.rows)?;
        let (name_at, name_len) = self.push_name(chunk.name);
        self.receipts.push(CatalogEntry {
            first_row: chunk.first_row,
            rows: chunk.rows,
            committed: chunk.committed,
            attributes: chunk.attributes,
            converted: chunk.converted,
            crc: chunk.crc,
            header: chunk.header,
            name_len,
            name_at,
        });
        self.index_insert(id);
        self.listed = self.listed.max(chunk.committed);
        Ok(())
    }

    fn push_name(&mut self, name: &[u8]) -> (u64, u8) {
        let at = self.names.len() as u64;
        self.names.extend_from_slice(name);
        (at, name.len() as u8)
    }

    fn rename(&mut self, from: &[u8], to: &[u8], at: Option<i64>) -> Result<(), InvalidRecord> {
        if self.id(to).is_some() {
            return Err(InvalidRecord("a rename onto a chunk"));
        }
        let id = self
            .take(from)
            .ok_or(InvalidRecord("a rename of no chunk"))?;
        let (name_at, name_len) = self.push_name(to);
        let receipt = &mut self.receipts[id as usize];
        let name = KeptName(receipt.name_at, receipt.name_len);
        (receipt.name_at, receipt.name_len) = (name_at, name_len);
        self.origins.entry(id).or_insert_with(|| {
            let moved = self.moved.entry(from.into()).or_default();
            let before = *moved;
            *moved += 1;
            Origin { name, before }
        });
        self.edition = Edition::default();
        self.changed.extend(at.map(|at| (id, at)));
        self.listed = self.listed.max(at.unwrap_or(i64::MIN));
        self.index_insert(id);
        Ok(())
    }

    fn forget(&mut self, name: &[u8], at: Option<i64>) -> Result<(), InvalidRecord> {
        let id = self.take(name).ok_or(InvalidRecord("no chunk to forget"))?;
        self.receipts[id as usize].name_len = 0;
        self.edition = Edition::default();
        self.origins.remove(&id);
        self.changed.remove(&id);
        self.listed = self.listed.max(at.unwrap_or(i64::MIN));
        Ok(())
    }

    /// What a chunk of this name was or will be called first, and how many have been renamed before it that
    /// were called so first: the two tell it from every other chunk that has a name, whatever is
    /// renamed later.
    pub(crate) fn origin<'a>(&'a self, name: &'a [u8]) -> (&'a [u8], u32) {
        // Where nothing was ever renamed nothing is looked for.
        let id = (!self.origins.is_empty()).then(|| self.id(name)).flatten();
        id.and_then(|id| self.origin_of(id))
            .unwrap_or_else(|| self.unmoved(name))
    }

    fn origin_of(&self, id: u32) -> Option<(&[u8], u32)> {
        let origin = self.origins.get(&id)?;
        Some((self.kept_name(origin.name).as_bytes(), origin.before))
    }

    fn unmoved<'a>(&self, name: &'a [u8]) -> (&'a [u8], u32) {
        let moved = match self.moved.is_empty() {
            true => None,
            false => self.moved.get(name),
        };
        (name, moved.copied().unwrap_or(0))
    }

    /// As [`Catalog::origin`], of the chunk with this id.
    pub(crate) fn origin_by_id(&self, id: u32) -> (&[u8], u32) {
        self.origin_of(id)
            .unwrap_or_else(|| self.unmoved(self.name_bytes(id)))
    }

    /// When a chunk was committed, renamed, or had its attributes set last.
    pub(crate) fn changed(&self, id: u32) -> i64 {
        let committed = self.receipts[id as usize].committed;
        let changed = self.changed.get(&id).copied();
        changed.map_or(committed, |changed| changed.max(committed))
    }

    /// As long as it is the same, chunks were added at the most.
    pub(crate) fn edition(&self) -> u64 {
        self.edition.0
    }

    /// When a chunk came, went or was renamed last; 0 before the first.
    pub(crate) fn listed(&self) -> i64 {
        self.listed
    }

    fn index_insert(&mut self, id: u32) {
        let hash = self.hasher.hash_one(self.name_bytes(id));
        let Self {
            index,
            hasher,
            receipts,
            names,
            ..
        } = self;
        index.insert_unique(hash, id, |&id| {
            hasher.hash_one(name_of(names, &receipts[id as usize]))
        });
    }

    fn id(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.index
            .find(hash, |&id| self.name_bytes(id) == name)
            .copied()
    }

    fn take(&mut self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let Self {
            index,
            receipts,
            names,
            ..
        } = self;
        index
            .find_entry(hash, |&id| name_of(names, &receipts[id as usize]) == name)
            .ok()
            .map(|entry| entry.remove().0)
    }

    fn name_bytes(&self, id: u32) -> &[u8] {
        name_of(&self.names, &self.receipts[id as usize])
    }

    /// The number of a header among those that chunks came with, given to it now if it has none.
    /// The second value says so.
    pub(crate) fn header_number(&mut self, bytes: &[u8]) -> (u32, bool) {
        if let Some(&number) = self.header_numbers.get(bytes) {
            return (number, false);
        }
        let number = self.headers.len() as u32;
        let shared: Arc<[u8]> = bytes.into();
        self.headers.push(shared.clone());
        self.header_numbers.insert(shared, number);
        (number, true)
    }

    /// The number of a header, if it has one.
    pub(crate) fn known_header(&self, bytes: &[u8]) -> Option<u32> {
        self.header_numbers.get(bytes).copied()
    }

    pub(crate) fn next_header(&self) -> u32 {
        self.headers.len() as u32
    }

    pub(crate) fn header(&self, number: u32) -> Arc<[u8]> {
        self.headers[number as usize].clone()
    }

    pub(crate) fn find(&self, name: &OsStr) -> Option<(u32, &CatalogEntry)> {
        let id = self.id(name.as_bytes())?;
        Some((id, &self.receipts[id as usize]))
    }

    /// Where the name of the last chunk is kept, which is for as long as this catalog, whatever
    /// becomes of the chunk.
    pub(crate) fn last_name(&self) -> KeptName {
        let at = |receipt: &CatalogEntry| KeptName(receipt.name_at, receipt.name_len);
        self.receipts.last().map_or(KeptName(0, 0), at)
    }

    /// A name that was kept.
    pub(crate) fn kept_name(&self, name: KeptName) -> &OsStr {
        let at = name.0 as usize;
        OsStr::from_bytes(&self.names[at..at + usize::from(name.1)])
    }

    /// A chunk by its id; `None` where it was forgotten.
    pub(crate) fn get(&self, id: u32) -> Option<(OsString, &CatalogEntry)> {
        let (name, receipt) = self.entry(id)?;
        Some((name.to_owned(), receipt))
    }

    /// As [`Catalog::get`], with the name where it is.
    pub(crate) fn entry(&self, id: u32) -> Option<(&OsStr, &CatalogEntry)> {
        let receipt = self.receipts.get(id as usize)?;
        let name = name_of(&self.names, receipt);
        (!name.is_empty()).then(|| (OsStr::from_bytes(name), receipt))
    }

    /// The name that the chunk of just these rows has now.
    pub(crate) fn name_of_rows(&self, first_row: u64, rows: u64) -> Option<OsString> {
        let from = self
            .receipts
            .partition_point(|receipt| receipt.first_row < first_row);
        let same = self.receipts[from..]
            .iter()
            .take_while(|receipt| receipt.first_row == first_row);
        let mut of_these = same.filter(|receipt| receipt.rows == rows);
        let name = name_of(&self.names, of_these.next()?);
        (!name.is_empty()).then(|| OsStr::from_bytes(name).to_owned())
    }

    /// The end of the last chunk before which both have the same chunks, by rows and checksums.
    pub(crate) fn rows_in_common(&self, other: &Self) -> u64 {
        let with_rows = |receipt: &&CatalogEntry| receipt.rows > 0;
        let mine = self.receipts.iter().filter(with_rows);
        let others = other.receipts.iter().filter(with_rows);
        let same = |(a, b): &(&CatalogEntry, &CatalogEntry)| {
            (a.first_row, a.rows, a.crc) == (b.first_row, b.rows, b.crc)
        };
        let common = mine.zip(others).take_while(same);
        common.last().map_or(0, |(receipt, _)| receipt.end())
    }

    /// Every id given so far is below this.
    pub(crate) fn next_id(&self) -> u32 {
        self.receipts.len() as u32
    }

    /// Whether anything was ever committed.
    pub(crate) fn has_commits(&self) -> bool {
        !self.receipts.is_empty() || !self.runs.is_empty()
    }

    /// How many chunks have a name.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many rows the records account for.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// When the last rows came, other programs' excepted, in nanoseconds since 1970.
    pub(crate) fn last_commit(&self) -> Option<i64> {
        let run = self.runs.last().filter(|run| run.rows > 0);
        let chunk = self.receipts.last();
        match (chunk, run) {
            (Some(chunk), Some(run)) if run.first_row >= chunk.end() => Some(run.committed),
            (Some(chunk), _) => Some(chunk.committed),
            (None, run) => run.map(|run| run.committed),
        }
    }

    /// What streams have committed, in the order of their rows.
    pub(crate) fn runs(&self) -> &[RunRecord] {
        &self.runs
    }

    /// What was set of `data.npy` itself, and when.
    pub(crate) fn of_array(&self) -> Option<(Attributes, i64)> {
        self.of_array
    }
}

fn name_of<'a>(names: &'a [u8], receipt: &CatalogEntry) -> &'a [u8] {
    let at = receipt.name_at as usize;
    &names[at..at + usize::from(receipt.name_len)]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const OWNER: Attributes = Attributes {
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: 3,
    };

    fn chunk(name: &str, first_row: u64, rows: u64) -> Record<'_> {
        Record::Chunk(ChunkRecord {
            name: name.as_bytes(),
            first_row,
            rows,
            header: 0,
            crc: 0,
            converted: false,
            attributes: OWNER,
            committed: 9,
        })
    }

    fn forgotten(name: &[u8]) -> Record<'_> {
        Record::Forgotten { name, at: Some(10) }
    }

    fn run(stream: u64, first_row: u64, rows: u64) -> RunRecord {
        RunRecord {
            stream,
            first_row,
            rows,
            crc: 0,
            ahead: false,
            uid: 1,
            committed: 10 + rows as i64,
        }
    }

    fn with_header() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.apply(&Record::Header { bytes: b"h" }).unwrap();
        catalog
    }

    #[test]
    fn a_journal_of_any_length_is_expected() {
        let mut catalog = with_header();
        catalog.expect(u64::MAX);
        catalog.apply(&chunk("a.npy", 0, 2)).unwrap();
        assert!(catalog.find(OsStr::new("a.npy")).is_some());
    }

    #[test]
    fn a_receipt_stays_small() {
        assert!(
            size_of::<CatalogEntry>() <= 80,
            "{}",
            size_of::<CatalogEntry>()
        );
    }

    #[test]
    fn chunks_are_found_by_name_and_by_id_in_commit_order() {
        let mut catalog = with_header();
        for n in 0..1000 {
            catalog
                .apply(&chunk(&format!("{n}.npy"), n * 2, 2))
                .unwrap();
        }
        assert_eq!(catalog.rows(), 2000);
        let (id, receipt) = catalog.find(OsStr::new("617.npy")).unwrap();
        assert_eq!((id, receipt.first_row, receipt.end()), (617, 1234, 1236));
        assert_eq!(catalog.get(3).unwrap().0, "3.npy");
    }

    #[test]
    fn a_rename_frees_the_old_name_and_keeps_the_rows() {
        let mut catalog = with_header();
        catalog.apply(&chunk("a.npy", 0, 2)).unwrap();
        let rename = Record::Rename {
            from: b"a.npy",
            to: b"b.npy",
            at: Some(10),
        };
        catalog.apply(&rename).unwrap();
        assert!(catalog.find(OsStr::new("a.npy")).is_none());
        assert_eq!(catalog.find(OsStr::new("b.npy")).unwrap().1.rows, 2);
        catalog.apply(&chunk("a.npy", 2, 1)).unwrap();
        assert_eq!(catalog.len(), 2);
    }

    #[test]
    fn a_forgotten_name_keeps_its_rows_and_its_id() {
        let mut catalog = with_header();
        catalog.apply(&chunk("a.npy", 0, 2)).unwrap();
        catalog.apply(&forgotten(b"a.npy")).unwrap();
        assert_eq!((catalog.rows(), catalog.len()), (2, 0));
        assert!(catalog.get(0).is_none());
        catalog.apply(&chunk("a.npy", 2, 1)).unwrap();
        assert_eq!(catalog.find(OsStr::new("a.npy")).unwrap().0, 1);
    }

    #[test]
    fn records_that_cannot_follow_are_refused() {
        let mut catalog = with_header();
        catalog.apply(&chunk("a.npy", 0, 2)).unwrap();
        assert!(catalog.apply(&chunk("a.npy", 2, 1)).is_err());
        assert!(catalog.apply(&chunk("b.npy", 3, 1)).is_err());
        assert!(catalog.apply(&forgotten(b"c")).is_err());
        let foreign = Record::Foreign {
            first_row: 2,
            rows: u64::MAX,
        };
        assert!(catalog.apply(&foreign).is_err());
        assert_eq!((catalog.rows(), catalog.len()), (2, 1));
    }

    #[test]
    fn commits_of_one_stream_are_one_run_until_other_rows_come() {
        let mut catalog = with_header();
        catalog.apply(&chunk("a.npy", 0, 2)).unwrap();
        for rows in [0, 1, 1, 5] {
            catalog.apply(&Record::Run(run(1, 2, rows))).unwrap();
            assert_eq!(catalog.rows(), 2 + rows);
        }
        assert_eq!(catalog.runs(), [run(1, 2, 5)]);
        catalog.apply(&Record::Run(run(2, 7, 1))).unwrap();
        catalog.apply(&Record::Run(run(1, 8, 3))).unwrap();
        catalog.apply(&chunk("b.npy", 11, 1)).unwrap();
        catalog.apply(&Record::Run(run(1, 12, 1))).unwrap();
        let runs = [run(1, 2, 5), run(2, 7, 1), run(1, 8, 3), run(1, 12, 1)];
        assert_eq!(catalog.runs(), runs);
        assert_eq!((catalog.rows(), catalog.len()), (13, 2));
    }

    #[test]
    fn a_run_that_nothing_came_of_leaves_no_trace() {
        let mut catalog = with_header();
        catalog.apply(&Record::Run(run(1, 0, 0))).unwrap();
        catalog.apply(&Record::Run(run(2, 0, 0))).unwrap();
        catalog.apply(&Record::Run(run(1, 0, 4))).unwrap();
        assert_eq!(catalog.runs(), [run(1, 0, 4)]);
    }

    #[test]
    fn a_run_that_does_not_follow_is_refused() {
        let mut catalog = with_header();
        catalog.apply(&Record::Run(run(1, 0, 4))).unwrap();
        for wrong in [
            run(1, 0, 3),
            run(2, 0, 5),
            run(1, 3, 2),
            run(1, 5, 1),
            run(1, 4, u64::MAX),
        ] {
            assert!(catalog.apply(&Record::Run(wrong)).is_err(), "{wrong:?}");
        }
        catalog.apply(&chunk("a.npy", 4, 2)).unwrap();
        assert!(catalog.apply(&Record::Run(run(1, 0, 5))).is_err());
        assert_eq!((catalog.rows(), catalog.runs()), (6, &[run(1, 0, 4)][..]));
    }

    #[test]
    fn the_last_commit_is_the_one_of_the_last_rows() {
        let mut catalog = with_header();
        assert_eq!(catalog.last_commit(), None);
        catalog.apply(&Record::Run(run(1, 0, 0))).unwrap();
        assert_eq!(catalog.last_commit(), None);
        catalog.apply(&Record::Run(run(1, 0, 4))).unwrap();
        assert_eq!(catalog.last_commit(), Some(14));
        catalog.apply(&chunk("a.npy", 4, 2)).unwrap();
        assert_eq!(catalog.last_commit(), Some(9));
        catalog.apply(&Record::Run(run(1, 6, 1))).unwrap();
        assert_eq!(catalog.last_commit(), Some(11));
    }
}
