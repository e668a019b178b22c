//! A dataset is given up: what this daemon writes to is not what the store has.
//!
//! The lock is freed and what is there now is opened anew. What was acknowledged and is in no file of
//! the store any more is written to `.npyfs/rescued`: rows from the descriptor that is still open, and
//! the names that no journal knows. The log tells of it, and so does the answer to what is asked next.

use std::fmt::Write as _;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::super::csv::{CSV_HEAD, csv_line};
use super::super::follow::Follow;
use super::super::published::Published;
use super::super::writer::Writer;
use super::{Loss, Told};
use crate::array::Array;
use crate::dataset::Dataset;
use crate::disk::{StoreFile, copy};
use crate::error::{Error, Result};
use crate::journal::Record;
use crate::journal::catalog::Catalog;
use crate::npy::Header;
use crate::wait;

/// How much of a list is written at once, in bytes.
const PIECE: usize = 1 << 20;

/// What the dataset was before it was given up.
struct Before {
    array: Option<Array>,
    catalog: Catalog,
    /// The first row that was committed since this daemon took the dataset.
    first_row: u64,
}

impl Dataset {
    /// Lets go of files that are not the store's any more, and takes in what is there now.
    pub(super) fn give_up(
        &self,
        guard: MutexGuard<'_, Option<Writer>>,
        loss: Loss,
        told: Told,
    ) -> Error {
        // Nothing that finds the loss can be begun anew as if it had not, and it is a rare case.
        wait::allowed(|| self.give_up_now(guard, loss, told))
    }

    fn give_up_now(
        &self,
        mut guard: MutexGuard<'_, Option<Writer>>,
        loss: Loss,
        told: Told,
    ) -> Error {
        let _busy = self.busy.enter();
        let Some(mut writer) = guard.take() else {
            return err!(ESTALE, "{loss}");
        };
        if loss == Loss::Data && !writer.array_recorded {
            // Nothing was committed: what has come is another program's from its first row on.
            if let Err(error) = writer.journal.append(&[Record::Closed { rows: 0 }]) {
                log::warn!("{}: cannot close the journal: {error}", self.label());
            }
        }
        let first_row = writer.first_row;
        let new_array = writer
            .new_array
            .as_ref()
            .map(|new_array| new_array.layout.clone());
        // The lock too: who takes the dataset next, here or elsewhere, finds it free.
        drop(writer);
        let before = {
            let mut follow = crate::lock(&self.follow);
            *follow = Follow::default();
            let Published { array, catalog } = std::mem::take(&mut *self.published_mut());
            self.owned.store(false, Ordering::Release);
            Before {
                array,
                catalog,
                first_row,
            }
        };
        let told_as = |text: String| match loss {
            Loss::Cut(_) | Loss::Header => err!(EIO, "{text}"),
            _ => err!(ESTALE, "{text}"),
        };
        let error = told_as(loss.to_string());
        let array = before.array.as_ref();
        for layout in array
            .map(|array| &array.layout)
            .into_iter()
            .chain(&new_array)
        {
            layout.lose(&error);
        }
        self.epoch.end(&error);
        let written_into = matches!(loss, Loss::Cut(_) | Loss::Header | Loss::Journal(_));
        self.distrust.fetch_or(written_into, Ordering::AcqRel);
        self.given_up.store(true, Ordering::Release);
        self.losses.fetch_add(1, Ordering::Relaxed);
        drop(guard);
        let opened = self.begin_following();
        if told == Told::Later {
            // Before it can be seen in the log.
            crate::lock(&self.owed).get_or_insert_with(|| error.clone());
        }
        if let Err(error) = &opened {
            log::error!("{}: cannot be opened anew: {error}", self.label());
        }
        let mut lines = vec![match (&before.array, loss) {
            (None, _) => "no rows had been committed".into(),
            // What would be written to its `.npyfs` would be outside of the store.
            (Some(array), Loss::Directory) => {
                let end = array.rows;
                format!(
                    "rows {first_row} to {end}, which this daemon had acknowledged, went with it"
                )
            }
            (Some(array), Loss::Data) => self.rescue(array, &before),
            (Some(array), Loss::Cut(len)) => missing(array, len),
            (Some(array), _) => format!("data.npy had {} rows", array.rows),
        }];
        if self.is_verifying() {
            lines.push("what is there is being verified: the log will tell what is missing".into());
        } else if opened.is_ok() {
            // Where it cannot be opened, the journal may have them still.
            lines.extend(self.rescue_names(&before.catalog));
        }
        let line = lines.join("; ");
        log::error!("{}: {loss}: {line}", self.label());
        if loss != Loss::Directory {
            self.note(&format!("{loss}: {line}"));
        }
        let error = told_as(format!(
            "{loss} while this chunk or sync was under way. Send it again. Of what was there before: {line}"
        ));
        if told == Told::Later
            && let Some(owed) = &mut *crate::lock(&self.owed)
        {
            *owed = error.clone();
        }
        error
    }

    /// Writes the rows that are in no file of the store any more to one that stays, and says where.
    fn rescue(&self, array: &Array, before: &Before) -> String {
        let first_row = match self.rows_in_common(array, &before.catalog) {
            Some(rows) => rows,
            // This descriptor is the last way to any of them.
            None if array.layout.data.glance().is_ok_and(|it| it.0 == 0) => 0,
            None => before.first_row,
        };
        let rows = array.rows.saturating_sub(first_row);
        if rows == 0 {
            return match array.rows {
                0 => "no rows had been committed".into(),
                rows => format!("its {rows} rows are in what has its place, or still have a name"),
            };
        }
        let range = format!("rows {first_row} to {}", array.rows);
        match self.write_rows(array, first_row) {
            Ok(kept) => format!("{range}, which had been acknowledged, are kept as {kept}"),
            Err(error) => format!("{range}, which had been acknowledged, are LOST: {error}"),
        }
    }

    /// How many rows what is there now has of those that were, by the checksums of their chunks. `None`
    /// where nothing is there, or something else.
    fn rows_in_common(&self, array: &Array, catalog: &Catalog) -> Option<u64> {
        let published = self.published();
        let now = published.array.as_ref().filter(|_| !self.is_verifying())?;
        let (then, now_layout) = (&array.layout, &now.layout);
        if then.dtype() != now_layout.dtype() || then.row_shape() != now_layout.row_shape() {
            return None;
        }
        let rows = published.catalog.rows_in_common(catalog);
        (rows > 0).then(|| rows.min(array.rows).min(now.rows))
    }

    fn write_rows(&self, array: &Array, first_row: u64) -> Result<String> {
        let layout = &array.layout;
        let (Some(start), Some(end)) = (layout.offset(first_row), layout.offset(array.rows)) else {
            return Err(err!(EFBIG, "the array has more bytes than a file can"));
        };
        let mut shape = vec![array.rows - first_row];
        shape.extend_from_slice(layout.row_shape());
        let header = Header::encode(layout.dtype(), &shape)?;
        self.rescued
            .keep_rows("acknowledged-rows.npy".as_ref(), |blob: &dyn StoreFile| {
                blob.write_at(&header, 0)?;
                copy(&*layout.data, start, blob, header.len() as u64, end - start)
            })
    }

    /// Writes the names that are not known any more, with their rows, to a file that stays, and says
    /// where. A chunk that is sent again under one of them is appended again.
    fn rescue_names(&self, before: &Catalog) -> Option<String> {
        let published = self.published();
        let now = &published.catalog;
        let is_lost = |index: &u32| match before.get(*index) {
            Some((name, receipt)) => !now
                .find(&name)
                .is_some_and(|(_, known)| known.rows == receipt.rows && known.crc == receipt.crc),
            None => false,
        };
        let lost: Vec<u32> = (0..before.next_id()).filter(is_lost).collect();
        drop(published);
        let name = |index: &u32| before.get(*index).map(|(name, _)| name);
        let (first, last) = (lost.first().and_then(name)?, lost.last().and_then(name)?);
        let which = match lost.len() {
            1 => format!("the name {} is", first.display()),
            many => format!(
                "{many} names, {} to {}, are",
                first.display(),
                last.display()
            ),
        };
        let kept = self
            .rescued
            .keep_rows("lost-names.csv".as_ref(), |blob: &dyn StoreFile| {
                let (mut at, mut lines) = (0, String::from(CSV_HEAD));
                for (name, receipt) in lost.iter().filter_map(|index| before.get(*index)) {
                    lines.push_str(&csv_line(&name, receipt));
                    if lines.len() >= PIECE {
                        blob.write_at(lines.as_bytes(), at)?;
                        at += lines.len() as u64;
                        lines.clear();
                    }
                }
                blob.write_at(lines.as_bytes(), at)
            });
        let mut line = format!("{which} not known any more: ");
        let told = match kept {
            Ok(kept) => write!(line, "the list is kept as {kept}"),
            Err(error) => write!(line, "{error}"),
        };
        told.is_ok().then_some(line)
    }
}

/// Which rows went with the end of a file of `len` bytes.
fn missing(array: &Array, len: u64) -> String {
    let layout = &array.layout;
    let room = len.saturating_sub(layout.header_len());
    let left = room.checked_div(layout.row_bytes()).unwrap_or(array.rows);
    format!("rows {left} to {} are missing: send them again", array.rows)
}
