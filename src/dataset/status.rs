//! What npyfs says of a dataset: `status.json` and `chunks.csv`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::published::Published;
use crate::dataset::Dataset;
use crate::disk::clock;
use crate::error::Result;
use crate::journal::catalog::CatalogEntry;

/// A dataset in figures.
#[derive(Clone, Debug)]
pub struct Status {
    /// Element type in numpy's spelling; `None` until the first chunk.
    pub dtype: Option<String>,
    /// Shape of one row.
    pub row_shape: Vec<u64>,
    /// Rows committed.
    pub rows: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// Names committed.
    pub chunks: u64,
    /// Refusals since the daemon opened the dataset.
    pub refusals: u64,
    /// When the last chunk was committed, in nanoseconds since 1970.
    pub last_commit: Option<i64>,
    /// The last refusal's line in the log.
    pub last_refusal: Option<String>,
    /// Names of the chunks in flight.
    pub in_flight: Vec<String>,
    /// Who may write: `this daemon` or, as far as this one knows, `nobody`, or `another daemon`.
    pub owner: &'static str,
    /// Names of the chunks whose rows are not what was committed, where nothing is written to the
    /// dataset because of them.
    pub damaged: Vec<String>,
    /// It is a copy that is being verified: only what was verified so far is told of.
    pub verifying: Option<Verifying>,
}

/// How far the verification of a copy is.
#[derive(Clone, Debug)]
pub struct Verifying {
    /// Bytes of rows that were verified.
    pub bytes: u64,
    /// Bytes of rows in all.
    pub of: u64,
    /// Why it goes no further.
    pub failure: Option<String>,
}

impl Status {
    /// How it is, in a word or two.
    fn state(&self) -> &'static str {
        match &self.verifying {
            Some(Verifying { failure: None, .. }) => "verifying",
            Some(_) => "not verified",
            None if self.damaged.is_empty() => "ok",
            None => "damaged",
        }
    }

    /// The JSON object of `status.json`.
    #[doc(hidden)]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "state": self.state(),
            "dtype": self.dtype,
            "row_shape": self.row_shape,
            "rows": self.rows,
            "bytes": self.bytes,
            "chunks": self.chunks,
            "refusals": self.refusals,
            "last_commit": self.last_commit.map(clock::iso),
            "last_refusal": self.last_refusal,
            "in_flight": self.in_flight,
            "owner": self.owner,
            "damaged": self.damaged,
            "verifying": self.verifying.as_ref().map(|it| serde_json::json!({
                "bytes": it.bytes,
                "of": it.of,
                "failure": it.failure,
            })),
        })
    }
}

/// The first line of `chunks.csv`.
pub const CSV_HEAD: &str = "name,first_row,rows,committed_at,uid\n";

impl Dataset {
    /// The dataset in figures.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    pub fn status(&self) -> Result<Status> {
        self.refresh()?;
        let events = self.events.state();
        let mut in_flight: Vec<String> = self
            .in_flight_names()
            .into_iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        in_flight.sort();
        let owner = self.owner();
        let verifying = self.verifying().map(|it| {
            let (bytes, of, error) = it.progress();
            Verifying {
                bytes,
                of,
                failure: error.map(|error| error.to_string()),
            }
        });
        let published = self.published();
        let Published { array, catalog } = &*published;
        Ok(Status {
            dtype: array
                .as_ref()
                .map(|array| array.layout.dtype().descr().trim_matches('\'').to_owned()),
            row_shape: array
                .as_ref()
                .map_or_else(Vec::new, |array| array.layout.row_shape().to_vec()),
            rows: array.as_ref().map_or(0, |array| array.rows),
            bytes: array.as_ref().map_or(0, |array| {
                array.rows.saturating_mul(array.layout.row_bytes())
            }),
            chunks: catalog.len() as u64,
            refusals: events.refusals,
            last_commit: catalog.last_commit(),
            last_refusal: events.last_refusal,
            in_flight,
            owner,
            verifying,
            damaged: self.damage().map_or_else(Vec::new, |damage| damage.names()),
        })
    }

    /// The line of `chunks.csv` for the chunk of this id, and the next id; `None` at the end.
    #[doc(hidden)]
    pub fn csv_line(&self, id: u32) -> Option<(String, u32)> {
        let published = self.published();
        let catalog = &published.catalog;
        let mut id = id;
        while id < catalog.next_id() {
            if let Some((name, receipt)) = catalog.get(id) {
                return Some((csv_line(&name, receipt), id + 1));
            }
            id += 1;
        }
        None
    }
}

/// The line of `chunks.csv` for this chunk.
pub(super) fn csv_line(name: &OsStr, receipt: &CatalogEntry) -> String {
    format!(
        "{},{},{},{},{}\n",
        csv_field(name),
        receipt.first_row,
        receipt.rows,
        clock::iso(receipt.committed),
        receipt.attributes.uid
    )
}

fn csv_field(name: &OsStr) -> String {
    let text = String::from_utf8_lossy(name.as_bytes());
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_commas_and_quotes_stays_one_field() {
        assert_eq!(csv_field("plain.npy".as_ref()), "plain.npy");
        assert_eq!(csv_field("a,\"b\".npy".as_ref()), "\"a,\"\"b\"\".npy\"");
    }
}
