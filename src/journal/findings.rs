//! What a check finds wrong with the rows of chunks, told under the names that they have in the end.
//!
//! The journal's records are gone through once, in their order: what is found for a chunk goes along
//! with its name while later records rename or forget it. Memory is taken by what is found only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use crate::journal::Record;

#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: Vec<Finding>,
    /// Which of them is of the chunk that has this name now.
    named: HashMap<Vec<u8>, usize>,
}

#[derive(Debug)]
enum Finding {
    Rows {
        /// The last name that their chunk had.
        name: Vec<u8>,
        forgotten: bool,
        rows: Range<u64>,
        what: String,
    },
    Other(String),
}

impl Findings {
    /// Of the rows of a chunk, under the name that its record gives it.
    pub(crate) fn add(&mut self, name: &[u8], rows: Range<u64>, what: String) {
        self.named.insert(name.to_vec(), self.found.len());
        self.found.push(Finding::Rows {
            name: name.to_vec(),
            forgotten: false,
            rows,
            what,
        });
    }

    /// What no chunk is known of.
    pub(crate) fn add_line(&mut self, line: String) {
        self.found.push(Finding::Other(line));
    }

    /// Takes in what the next record does to names.
    pub(crate) fn follow(&mut self, record: &Record<'_>) {
        match record {
            Record::Rename { from, to, .. } => {
                if let Some(index) = self.named.remove(*from) {
                    if let Finding::Rows { name, .. } = &mut self.found[index] {
                        *name = to.to_vec();
                    }
                    self.named.insert(to.to_vec(), index);
                }
            }
            Record::Forgotten { name, .. } => {
                if let Some(index) = self.named.remove(*name)
                    && let Finding::Rows { forgotten, .. } = &mut self.found[index]
                {
                    *forgotten = true;
                }
            }
            _ => {}
        }
    }

    /// A sentence for each. `is_name` tells whether a chunk has that name in the end.
    pub(crate) fn into_lines(self, is_name: impl Fn(&OsStr) -> bool) -> Vec<String> {
        let line = |finding| match finding {
            Finding::Other(line) => line,
            Finding::Rows {
                name,
                forgotten,
                rows: Range { start, end },
                what,
            } => {
                let name = OsStr::from_bytes(&name);
                let shown = name.display();
                if !forgotten {
                    format!("{shown}: rows {start} to {end} {what}")
                } else if is_name(name) {
                    format!(
                        "rows {start} to {end} (of an earlier chunk of a name that was written again: {shown}) {what}"
                    )
                } else {
                    format!("rows {start} to {end} (of a name that was forgotten: {shown}) {what}")
                }
            }
        };
        self.found.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_under_the_last_name_of_their_chunk() {
        let mut findings = Findings::default();
        findings.add(b"a.npy", 0..2, "differ".into());
        findings.follow(&Record::Forgotten {
            name: b"a.npy",
            at: None,
        });
        findings.add(b"a.npy", 2..3, "differ".into());
        findings.follow(&Record::Rename {
            from: b"a.npy",
            to: b"b.npy",
            at: None,
        });
        findings.add(b"c.npy", 3..9, "differ".into());
        findings.follow(&Record::Forgotten {
            name: b"c.npy",
            at: None,
        });
        findings.follow(&Record::Forgotten {
            name: b"x.npy",
            at: None,
        });
        findings.add_line("the header is wrong".into());
        let lines = findings.into_lines(|name| name == "c.npy");
        assert_eq!(
            lines,
            [
                "rows 0 to 2 (of a name that was forgotten: a.npy) differ",
                "b.npy: rows 2 to 3 differ",
                "rows 3 to 9 (of an earlier chunk of a name that was written again: c.npy) differ",
                "the header is wrong",
            ]
        );
    }
}
