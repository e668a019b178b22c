//! What npyfs says of a dataset's chunks: `chunks.csv`.

use std::ffi::OsStr;

use crate::dataset::Dataset;
use crate::disk::clock;
use crate::error::Result;
use crate::journal::catalog::{Catalog, CatalogEntry};
use crate::printable::spell;

/// The first line of `chunks.csv`.
pub const CSV_HEAD: &str = "name,first_row,rows,committed_at,uid,mtime,crc32c\n";

/// How many lines are made while producers wait to commit.
const AT_ONCE: usize = 1000;

/// `chunks.csv` as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CsvEdition {
    /// Of the catalog: as long as it is the same, lines were added at the most.
    edition: u64,
    /// Every chunk in it has a smaller id.
    end: u32,
    /// How many bytes it has.
    pub(crate) len: u64,
}

impl Dataset {
    /// The line of `chunks.csv` for the chunk of this id, and the next id; `None` at the end.
    #[doc(hidden)]
    pub fn csv_line(&self, id: u32) -> Option<(String, u32)> {
        let published = self.published();
        let catalog = &published.catalog;
        next_line(catalog, id, catalog.next_id())
    }

    /// As [`Dataset::csv_line`], in an edition.
    ///
    /// # Errors
    /// `ESTALE` where it is not what the dataset has any more.
    pub(crate) fn csv_line_of(
        &self,
        edition: &CsvEdition,
        id: u32,
    ) -> Result<Option<(String, u32)>> {
        let published = self.published();
        let catalog = &published.catalog;
        if catalog.edition() != edition.edition {
            return Err(err!(
                ESTALE,
                "names of chunks were changed while the list of them was read: read it again"
            ));
        }
        Ok(next_line(catalog, id, edition.end))
    }

    /// `chunks.csv` as it is now, without its text.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    pub(crate) fn csv_edition(&self) -> Result<CsvEdition> {
        self.refresh()?;
        // What was counted before holds where only lines were added since.
        let mut counted = crate::lock(&self.csv);
        loop {
            let published = self.published();
            let catalog = &published.catalog;
            let known = counted.filter(|known| known.edition == catalog.edition());
            let mut now = known.unwrap_or(CsvEdition {
                edition: catalog.edition(),
                end: 0,
                len: CSV_HEAD.len() as u64,
            });
            let end = catalog
                .next_id()
                .min(now.end.saturating_add(10 * AT_ONCE as u32));
            for id in now.end..end {
                now.len += catalog.entry(id).map_or(0, |(name, it)| line_len(name, it));
            }
            now.end = end;
            *counted = Some(now);
            if end == catalog.next_id() {
                return Ok(now);
            }
        }
    }

    /// The text of an edition, and that it is; or what there is now instead.
    pub(crate) fn csv_text(&self, edition: &CsvEdition) -> (Vec<u8>, bool) {
        let mut text = Vec::with_capacity(edition.len as usize);
        text.extend_from_slice(CSV_HEAD.as_bytes());
        let mut id = 0;
        loop {
            let published = self.published();
            let catalog = &published.catalog;
            if catalog.edition() != edition.edition {
                text.truncate(CSV_HEAD.len());
                let mut id = 0;
                while let Some((line, next)) = next_line(catalog, id, catalog.next_id()) {
                    text.extend_from_slice(line.as_bytes());
                    id = next;
                }
                return (text, false);
            }
            for _ in 0..AT_ONCE {
                let Some((line, next)) = next_line(catalog, id, edition.end) else {
                    return (text, true);
                };
                text.extend_from_slice(line.as_bytes());
                id = next;
            }
        }
    }
}

fn next_line(catalog: &Catalog, id: u32, end: u32) -> Option<(String, u32)> {
    let mut ids = id..end.min(catalog.next_id());
    ids.find_map(|id| {
        let (name, receipt) = catalog.entry(id)?;
        Some((csv_line(name, receipt), id + 1))
    })
}

/// The line of `chunks.csv` for this chunk.
pub(super) fn csv_line(name: &OsStr, receipt: &CatalogEntry) -> String {
    format!(
        "{},{},{},{},{},{},{:08x}\n",
        csv_field(name),
        receipt.first_row,
        receipt.rows,
        clock::iso(receipt.committed),
        receipt.attributes.uid,
        clock::iso(receipt.attributes.mtime),
        receipt.crc
    )
}

/// How long that line is: of a million chunks there is no time to make each.
fn line_len(name: &OsStr, receipt: &CatalogEntry) -> u64 {
    const TIME: u64 = "2026-11-23T19:10:49.123Z".len() as u64;
    let digits = |number: u64| u64::from(number.checked_ilog10().unwrap_or(0)) + 1;
    let name = match name.to_str() {
        Some(text) if !text.contains(['"', ',', '\n', '\r', '\\']) => text.len(),
        _ => csv_field(name).len(),
    };
    let (first, rows) = (digits(receipt.first_row), digits(receipt.rows));
    let uid = digits(u64::from(receipt.attributes.uid));
    name as u64 + first + rows + uid + 2 * TIME + ",,,,,,00000000\n".len() as u64
}

fn csv_field(name: &OsStr) -> String {
    let text = spell(name);
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::journal::{Attributes, ChunkRecord, Record};

    #[test]
    fn a_name_with_commas_and_quotes_stays_one_field() {
        assert_eq!(csv_field("plain.npy".as_ref()), "plain.npy");
        assert_eq!(csv_field("a,\"b\".npy".as_ref()), "\"a,\"\"b\"\".npy\"");
    }

    #[test]
    fn the_length_of_a_line_is_known_without_it() {
        let mut catalog = Catalog::default();
        catalog.apply(&Record::Header { bytes: b"h" }).unwrap();
        let names: [&[u8]; 6] = [
            b"a.npy",
            b"a,b.npy",
            b"a\"\\.npy",
            "\u{e9}\n.npy".as_bytes(),
            b"\xff\xfe.npy",
            b"last.npy",
        ];
        let mut first_row = 0;
        for (n, name) in (0u32..).zip(names) {
            let rows = 10u64.pow(n) - u64::from(n % 2);
            let chunk = ChunkRecord {
                name,
                first_row,
                rows,
                header: 0,
                crc: n * 0x1234_5678,
                converted: false,
                attributes: Attributes {
                    uid: n * 999,
                    mtime: i64::from(n) * (i64::MAX / 7),
                    ..Attributes::default()
                },
                committed: i64::from(n) * (i64::MAX / 6),
            };
            catalog.apply(&Record::Chunk(chunk)).unwrap();
            first_row += rows;
            let (name, receipt) = catalog.find(OsStr::from_bytes(name)).map_or_else(
                || panic!("not there"),
                |(_, receipt)| (OsStr::from_bytes(name), receipt),
            );
            let line = csv_line(name, receipt);
            assert_eq!(line_len(name, receipt), line.len() as u64, "{line}");
        }
    }
}
