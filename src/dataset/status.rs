//! What npyfs says of a dataset: `status.json`.

use super::published::Published;
use crate::dataset::Dataset;
use crate::disk::clock;
use crate::error::Result;
use crate::printable::spell;

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
            .map(|name| spell(&name).into_owned())
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
}
