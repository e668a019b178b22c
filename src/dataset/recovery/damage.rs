//! A copy that was damaged after it was made.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;

use super::replay::Replay;
use crate::journal::catalog::{Catalog, CatalogEntry};
use crate::printable::spell;

/// Commits whose rows are not what was committed, though later ones are whole. Nothing is changed of
/// such a dataset, and nothing is written to it, until its owner accepts them as they are.
#[derive(Debug)]
pub(crate) struct Damage {
    /// First row, rows, and what they were committed as; in the order of the rows.
    bad: Vec<(u64, u64, String)>,
}

/// How many of them a sentence names.
const NAMED: usize = 3;

impl Damage {
    pub(super) fn of(replay: &Replay, bad: &[usize]) -> Option<Self> {
        let bad: Vec<_> = bad
            .iter()
            .map(|&index| &replay.unverified[index])
            .map(|commit| {
                let name = replay.name(commit).into_owned();
                (commit.first_row, commit.rows, name)
            })
            .collect();
        (!bad.is_empty()).then_some(Self { bad })
    }

    /// Whether these are rows of a damaged commit.
    pub(crate) fn is_of(&self, receipt: &CatalogEntry) -> bool {
        let rows = (receipt.first_row, receipt.rows);
        self.bad
            .binary_search_by_key(&receipt.first_row, |bad| bad.0)
            .is_ok_and(|at| (self.bad[at].0, self.bad[at].1) == rows)
    }

    /// Whether some of these rows are of a damaged commit.
    pub(crate) fn has(&self, rows: &Range<u64>) -> bool {
        let mut bad = self.bad.iter();
        bad.any(|(first, count, _)| *first < rows.end && rows.start < first + count)
    }

    /// A sentence for each.
    pub(crate) fn lines<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = String> + 'a {
        self.bad.iter().map(move |(first, rows, committed)| {
            let end = first + rows;
            let now = catalog.name_of_rows(*first, *rows);
            let name = now.map_or_else(
                || committed.clone(),
                |name: OsString| spell(&name).into_owned(),
            );
            format!("{name}: rows {first} to {end} are not what was committed")
        })
    }

    /// For status: what they were committed as.
    pub(crate) fn names(&self) -> Vec<String> {
        self.bad.iter().map(|(_, _, name)| name.clone()).collect()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = self
            .bad
            .iter()
            .take(NAMED)
            .map(|bad| bad.2.as_str())
            .collect();
        write!(f, "the rows of {}", named.join(", "))?;
        if self.bad.len() > NAMED {
            write!(f, " and {} others", self.bad.len() - NAMED)?;
        }
        f.write_str(" are not what was committed")
    }
}
