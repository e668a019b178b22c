//! A dataset whose array never came to be, or did not reach the disk.

use std::sync::Arc;

use super::place::Since;
use super::replay::{Reading, Replay, read_replay};
use super::{Finding, Look, Plan, Survey, dropped_note};
use crate::chunk::validate::read_header;
use crate::disk::StoreFile;
use crate::error::{Context, Result};

/// Whether a power cut has taken the whole array: its name, or its header before the journal had
/// that.
pub(super) fn never_arrived(data: Option<&Arc<dyn StoreFile>>, replay: &Replay) -> Result<bool> {
    let Some(data) = data else {
        return Ok(!replay.unverified.is_empty());
    };
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    match read_header(&**data, len) {
        Err(error) if error.errno() == crate::error::Errno::EINVAL => {
            Ok(replay.array_header.is_none())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// The dataset begins anew, after the records that came before its first chunk.
pub(super) fn survey_of_nothing(
    journal: &Arc<dyn StoreFile>,
    replay: Replay,
    since: Since,
    remains: bool,
    look: &Look<'_>,
) -> Result<Survey> {
    let dropped = replay
        .unverified
        .iter()
        .map(|commit| dropped_note(&replay, commit, since));
    let mut notes: Vec<Finding> = dropped.collect();
    if remains {
        notes.push(Finding::SetAside(
            "data.npy had not reached the disk".into(),
        ));
    }
    let replay = match replay.unverified.first() {
        Some(first) => read_replay(
            journal,
            Reading {
                until: first.at,
                ..look.reading()
            },
        )?,
        None => replay,
    };
    Ok(Survey {
        kept: Some(replay.kept(since, &look.boot)),
        copied: since == Since::Copied,
        notes,
        plan: Plan {
            cut: true,
            set_array_aside: remains,
            ..Plan::default()
        },
        ..of_no_array(replay)
    })
}

pub(super) fn without_data(replay: Replay, has_journal: bool) -> Result<Survey> {
    let rows = replay.catalog.rows();
    if rows > 0 || replay.catalog.has_commits() {
        return Err(err!(
            EIO,
            "data.npy is gone, and the journal knows {rows} rows of it: put it back, or remove .npyfs to begin anew"
        ));
    }
    Ok(Survey {
        clean: replay.closed || !has_journal,
        closed: replay.closed,
        plan: Plan {
            cut: replay.damaged,
            ..Plan::default()
        },
        ..of_no_array(replay)
    })
}

/// What the journal tells, with no array and nothing to be done.
fn of_no_array(replay: Replay) -> Survey {
    Survey {
        catalog: replay.catalog,
        array: None,
        durable: 0,
        array_recorded: false,
        journal_len: replay.end,
        raised: replay.raised,
        doubtful_from: None,
        closed: false,
        copied: false,
        compared: 0..0,
        damage: None,
        clean: false,
        plan: Plan::default(),
        kept: None,
        notes: Vec::new(),
    }
}
