//! A dataset whose array never came to be, or did not reach the disk.

use std::sync::Arc;

use super::place::Since;
use super::story::{Reading, Story, read_story};
use super::{Look, Note, Plan, Survey, dropped_note};
use crate::chunk::validate::read_header;
use crate::disk::Blob;
use crate::error::{Context, Result};

/// Whether a power cut has taken the whole array: its name, or its header before the journal had
/// that.
pub(super) fn never_arrived(data: Option<&Arc<dyn Blob>>, story: &Story) -> Result<bool> {
    let Some(data) = data else {
        return Ok(!story.unsure.is_empty());
    };
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    match read_header(&**data, len) {
        Err(error) if error.errno() == crate::error::Errno::EINVAL => {
            Ok(story.array_header.is_none())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// The dataset begins anew, after the records that came before its first chunk.
pub(super) fn survey_of_nothing(
    journal: &Arc<dyn Blob>,
    story: Story,
    since: Since,
    remains: bool,
    look: &Look<'_>,
) -> Result<Survey> {
    let dropped = story
        .unsure
        .iter()
        .map(|commit| dropped_note(&story, commit, since));
    let mut notes: Vec<Note> = dropped.collect();
    if remains {
        let line = "data.npy had not reached the disk: set aside in .npyfs/rescued";
        notes.push(Note::Lost(line.into()));
    }
    let story = match story.unsure.first() {
        Some(first) => read_story(
            journal,
            Reading {
                until: first.at,
                ..look.reading()
            },
        )?,
        None => story,
    };
    Ok(Survey {
        kept: Some(story.kept(since, &look.boot)),
        closed: false,
        copied: since == Since::Copied,
        compared: 0..0,
        damage: None,
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
        raised: story.raised,
        clean: false,
        plan: Plan {
            cut: true,
            set_array_aside: remains,
            ..Plan::default()
        },
        notes,
    })
}

pub(super) fn without_data(story: Story, has_journal: bool) -> Result<Survey> {
    let rows = story.catalog.rows();
    if rows > 0 || story.catalog.has_commits() {
        return Err(err!(
            EIO,
            "data.npy is gone, and the journal knows {rows} rows of it: put it back, or remove .npyfs to begin anew"
        ));
    }
    let clean = story.closed || !has_journal;
    Ok(Survey {
        kept: None,
        closed: story.closed,
        copied: false,
        compared: 0..0,
        damage: None,
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
        raised: story.raised,
        clean,
        plan: Plan {
            cut: story.damaged,
            ..Plan::default()
        },
        notes: Vec::new(),
    })
}
