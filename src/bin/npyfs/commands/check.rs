//! `npyfs check`: verifies what is stored, and says which chunks to send again.

use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use npyfs::dataset::Report;
use npyfs::error::Errno;
use npyfs::{Error, dataset};

use super::place::Place;
use super::progress::Bar;
use super::walk;
use crate::exit::{Exit, Failure, OrExit};
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A store, a dataset in it, or where they are mounted: then the store is checked
    path: PathBuf,
    /// Let writes go on to the dataset PATH, a copy that was damaged, with its rows as they are
    #[arg(long)]
    accept: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::find(&args.path)?;
    let refuse = |why: &str| {
        Err(Failure::new(
            Exit::Store,
            format!("{} {why}", place.shown()),
        ))
    };
    match place.path.metadata() {
        Ok(stat) if !stat.is_dir() => {
            return refuse("is a file: name the dataset, the store or the mount");
        }
        Ok(_) => {}
        Err(error) => return refuse(&format!("cannot be checked: {error}")),
    }
    let found = walk::search(&place.path, &place.table);
    if found.datasets.is_empty() && found.unreadable.is_empty() {
        return refuse("holds no dataset");
    }
    if args.accept {
        return match &found.datasets[..] {
            [directory] => accept(directory),
            many => refuse(&format!(
                "holds {} datasets: name the one whose damage is to be accepted",
                many.len()
            )),
        };
    }
    let (mut damaged, mut unchecked) = (0, found.unreadable.len());
    for (path, error) in &found.unreadable {
        output::line(format_args!("{}: NOT CHECKED: {error}", path.display()))?;
    }
    let datasets = found.datasets.len();
    for directory in &found.datasets {
        match check(directory)? {
            State::Good => {}
            State::Damaged => damaged += 1,
            State::Unchecked => unchecked += 1,
        }
    }
    let mut failure = String::new();
    if damaged > 0 {
        failure = format!("{damaged} of {datasets} datasets are damaged");
    }
    if unchecked > 0 {
        let and = if damaged > 0 { ", and " } else { "" };
        failure.push_str(&format!(
            "{and}{unchecked} directories could not be checked"
        ));
    }
    match (damaged, unchecked) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(Exit::Failed, failure)),
        _ => Err(Failure::new(Exit::Damage, failure)),
    }
}

enum State {
    Good,
    Damaged,
    Unchecked,
}

/// Checks one dataset, and prints what is to be said of it.
fn check(directory: &Path) -> Result<State, Failure> {
    let shown = directory.display();
    let found = {
        let bar = Bar::new(directory);
        dataset::check(directory, &mut |done, total| bar.show(done, total))
    };
    let report = match found {
        Ok(report) => report,
        // Removed since it was found.
        Err(_) if !walk::is_dataset(directory) => return Ok(State::Good),
        Err(error) => return report_unopened(directory, &error),
    };
    for line in &report.pending {
        output::line(format_args!("{shown}: {line} (when it is opened next)"))?;
    }
    for line in &report.damage {
        output::line(format_args!("{shown}: DAMAGED: {line}"))?;
    }
    if !report.damage.is_empty() {
        return Ok(State::Damaged);
    }
    output::line(format_args!(
        "{shown}: good: {} rows, {}, {}",
        report.rows,
        HumanBytes(report.bytes),
        chunks(&report)
    ))?;
    Ok(State::Good)
}

/// Lets writes go on to a dataset that is damaged, and prints what was accepted.
fn accept(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    let failed = || format!("{shown}: nothing was accepted");
    let dataset = dataset::open_to_check(directory).or_exit(Exit::Damage, failed)?;
    if !dataset.is_damaged() {
        output::line(format_args!(
            "{shown}: nothing is to be accepted: no damage keeps writes from it"
        ))?;
        return Ok(());
    }
    drop(dataset);
    for line in dataset::accept_damage(directory).or_exit(Exit::Failed, failed)? {
        output::line(format_args!("{shown}: ACCEPTED: {line}"))?;
    }
    Ok(())
}

/// What was verified, and what could not be.
fn chunks(report: &Report) -> String {
    let mut text = format!("{} chunks", report.chunks);
    if report.nameless > 0 {
        let nameless = report.nameless;
        text.push_str(&format!(
            ", {nameless} of them of names that were forgotten or written again"
        ));
    }
    if report.unverified_rows > 0 {
        let rows = report.unverified_rows;
        text.push_str(&format!("; {rows} rows of other programs have no checksum"));
    }
    text
}

fn report_unopened(directory: &Path, error: &Error) -> Result<State, Failure> {
    let shown = directory.display();
    if !matches!(error.errno(), Errno::EIO | Errno::EINVAL) {
        // What is there was not seen: permission, descriptors, memory.
        output::line(format_args!("{shown}: NOT CHECKED: {error}"))?;
        return Ok(State::Unchecked);
    }
    output::line(format_args!("{shown}: DAMAGED: {error}"))?;
    match dataset::lost_chunks(directory) {
        Ok(chunks) => {
            for line in chunks {
                output::line(format_args!("{shown}: DAMAGED: {line}"))?;
            }
        }
        Err(error) => output::line(format_args!(
            "{shown}: DAMAGED: its chunks cannot be listed: {error}"
        ))?,
    }
    Ok(State::Damaged)
}
