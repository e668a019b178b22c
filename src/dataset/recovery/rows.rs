//! Which commits have their rows in the file.

use std::ops::Range;

use super::replay::Unverified;
use crate::array::view::Layout;
use crate::disk::checksum;
use crate::error::{Context, Result};
use crate::stop::Stop;

/// Reads rows and compares them with their checksums.
pub(super) struct Rows<'a> {
    pub(super) layout: &'a Layout,
    pub(super) file_len: u64,
    pub(super) stop: &'a Stop,
}

/// How far the verification of a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of rows that were read, or need not be.
    pub(crate) done: u64,
    /// Bytes of rows in all.
    pub(crate) total: u64,
    /// All rows before this one are verified.
    pub(crate) rows: u64,
}

/// What is to be kept of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The first commit that is cut off, with all after it.
    pub(super) cut: Option<usize>,
    /// Commits before that one whose rows are not what was committed.
    pub(super) damaged: Vec<usize>,
}

impl Rows<'_> {
    /// The first commit whose rows are not all in the file, or, among the first `doubtful`, whose
    /// checksum is wrong.
    pub(super) fn first_bad(
        &self,
        commits: &[Unverified],
        doubtful: usize,
    ) -> Result<Option<usize>> {
        for (index, commit) in commits.iter().enumerate() {
            let good = match self.bytes(commit) {
                None => false,
                Some(bytes) if index < doubtful => self.is_good(commit, bytes, &mut |_| ())?,
                Some(_) => true,
            };
            if !good {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Which commits of a copy are kept, where its header counts `counted` rows.
    ///
    /// A copy that was made while a daemon wrote has of each byte what was there at some moment, the
    /// header's among the first. So it may lack any rows that its header does not count, and the
    /// commits before these are all of it. What its header counts was there: where a commit among
    /// those is bad, and a later one is good, the copy was damaged since.
    ///
    /// `watch` is told of each step. What it is told to be verified is kept, whatever comes later.
    pub(super) fn judge_copy(
        &self,
        commits: &[Unverified],
        counted: u64,
        watch: &dyn Fn(Step),
    ) -> Result<Verdict> {
        let mut step = Step {
            total: self.total(commits),
            ..Step::default()
        };
        let (mut bad, mut last_good) = (Vec::new(), None);
        let mut end = commits.len();
        for (index, commit) in commits.iter().enumerate() {
            let is_counted = commit.end() <= counted;
            let good = match self.bytes(commit) {
                None => false,
                // No checksum tells of them.
                Some(_) if commit.crc.is_none() => is_counted,
                Some(bytes) => self.is_good(commit, bytes, &mut |n| {
                    step.done += n;
                    watch(step);
                })?,
            };
            if good {
                // Of no rows, or of rows without a checksum, all is good.
                if commit.rows > 0 && commit.crc.is_some() {
                    last_good = Some(index);
                }
                if bad.is_empty() {
                    step.rows = commit.end();
                    watch(step);
                }
            } else if is_counted {
                bad.push(index);
            } else {
                end = index;
                break;
            }
        }
        bad.retain(|&index| {
            let is_damage = last_good.is_some_and(|good| index < good);
            if !is_damage {
                end = end.min(index);
            }
            is_damage
        });
        Ok(Verdict {
            cut: (end < commits.len()).then_some(end),
            damaged: bad,
        })
    }

    /// Where its rows are; `None` where the file ends before.
    fn bytes(&self, commit: &Unverified) -> Option<Range<u64>> {
        let start = self.layout.offset(commit.first_row)?;
        let end = self.layout.offset(commit.end())?;
        (end <= self.file_len || commit.rows == 0).then_some(start..end)
    }

    fn is_good(
        &self,
        commit: &Unverified,
        bytes: Range<u64>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let Some(expected) = commit.crc else {
            return Ok(true);
        };
        let data = &*self.layout.data;
        let len = bytes.end - bytes.start;
        let crc = checksum::extend(
            commit.crc_before,
            data,
            bytes.start,
            len,
            self.stop,
            progress,
        )
        .context(|| "cannot read the rows of data.npy".into())?;
        Ok(crc == expected)
    }

    fn total(&self, commits: &[Unverified]) -> u64 {
        let bytes = commits
            .iter()
            .filter_map(|commit| self.bytes(commit))
            .map(|bytes| bytes.end - bytes.start);
        bytes.fold(0, u64::saturating_add)
    }
}
