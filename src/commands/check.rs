//! `npyfs check`: verifies what is stored, and says which chunks to send again.

use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use npyfs::dataset::Report;

use super::walk;
use crate::exit::{Exit, Failure, OrExit};
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A store or a dataset in it; not its mount
    path: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shown = args.path.display();
    let found = walk::datasets(&args.path)?;
    if found.is_empty() {
        return Err(Failure::new(
            Exit::Store,
            format!("{shown} holds no dataset"),
        ));
    }
    let mut damaged = 0;
    for directory in &found {
        let shown = directory.display();
        let damage = check(directory)?;
        for line in &damage {
            output::line(format_args!("{shown}: DAMAGED: {line}"))?;
        }
        damaged += usize::from(!damage.is_empty());
    }
    if damaged > 0 {
        return Err(Failure::new(
            Exit::Damage,
            format!("{damaged} of {} datasets are damaged", found.len()),
        ));
    }
    Ok(())
}

/// What is damaged in one dataset; a line about it is printed where nothing is.
fn check(directory: &std::path::Path) -> Result<Vec<String>, Failure> {
    let shown = directory.display();
    let dataset = match npyfs::dataset::open_to_check(directory) {
        Ok(dataset) => dataset,
        Err(error) => {
            let mut damage = vec![error.to_string()];
            match npyfs::dataset::lost_chunks(directory) {
                Ok(chunks) => damage.extend(chunks),
                Err(error) => damage.push(format!("its chunks cannot be listed: {error}")),
            }
            return Ok(damage);
        }
    };
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(
        "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    ) {
        bar.set_style(style);
    }
    bar.set_prefix(shown.to_string());
    let report = dataset.check(&mut |done, total| {
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.or_exit(Exit::Failed, || format!("cannot check {shown}"))?;
    for line in &report.pending {
        output::line(format_args!("{shown}: {line} (when it is opened next)"))?;
    }
    if report.damage.is_empty() {
        let status = dataset
            .status()
            .or_exit(Exit::Failed, || format!("cannot check {shown}"))?;
        output::line(format_args!(
            "{shown}: good: {} rows, {}, {}",
            status.rows,
            HumanBytes(status.bytes),
            chunks(&report)
        ))?;
    }
    Ok(report.damage)
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
