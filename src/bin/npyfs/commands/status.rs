//! `npyfs status`: what each dataset's `.npyfs/status.json` says, as a table or as JSON.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value};

use super::walk;
use crate::asking::{PATIENCE, ask, tell};
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo::{self, Entry, State};
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A mount point, a store, a dataset or a directory of datasets [default: all mounts]
    path: Option<PathBuf>,
    /// Print an array of objects, one a dataset
    #[arg(long)]
    json: bool,
}

/// A dataset's status.json, with its `path` added.
type Status = Map<String, Value>;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut text = String::new();
    // What was found is printed, whatever could not be.
    let mut outcome = Ok(());
    match &args.path {
        Some(path) => {
            let path = super::canonical(path, Exit::Store)?;
            let mount = mountinfo::containing(&path)
                .or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
            match mount.filter(Entry::is_npyfs) {
                Some(mount) => outcome = collect(&mount, &path, &mut found),
                None => unmounted(&path, &mut found)?,
            }
        }
        None => outcome = all_mounts(&mut text, &mut found),
    }
    if args.json {
        let found = found.into_iter().map(Value::Object).collect();
        text = format!("{:#}\n", Value::Array(found));
    } else if !found.is_empty() {
        text.push_str(&table(&found));
        text.extend(found.iter().filter_map(verifying));
        text.extend(found.iter().filter_map(damage));
    }
    output::print(text)?;
    outcome
}

/// The datasets of every mount, and a line about each mount itself. The failure is of those that do
/// not answer.
fn all_mounts(text: &mut String, found: &mut Vec<Status>) -> Result<(), Failure> {
    let mounts =
        mountinfo::states().or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
    if mounts.is_empty() {
        text.push_str("no npyfs mounts\n");
    }
    let mut silent = Vec::new();
    for (mount, state) in mounts {
        let at = mount.mountpoint.display();
        let line = match state {
            State::Dead => "dead: npyfs umount clears it".into(),
            State::Silent => {
                silent.push(mount.silence());
                "does not answer".into()
            }
            State::Served(pid) => match collect(&mount, &mount.mountpoint, found) {
                Ok(()) => match pid {
                    Some(pid) => format!("served by process {pid}"),
                    None => "served".into(),
                },
                Err(failure) if failure.exit == Exit::Busy => {
                    silent.push(failure.message);
                    "does not answer".into()
                }
                // Another user's mount, which not even root may look into without allow_other.
                Err(failure) => failure.message,
            },
        };
        let store = mount.store().display();
        text.push_str(&format!("{store} on {at}: {line}\n"));
    }
    if silent.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Busy, silent.join("; ")))
}

/// The datasets at and below a directory of a mount, in order of name, as far as the mount answers.
fn collect(mount: &Entry, directory: &Path, found: &mut Vec<Status>) -> Result<(), Failure> {
    let failed = || format!("cannot ask {}", mount.mountpoint.display());
    let mut asked = ask(|pipe| {
        let told = visit(directory, &mut |status| {
            let line = serde_json::to_vec(&status).map_err(io::Error::from)?;
            tell(pipe, &line)
        });
        match told {
            Ok(()) => tell(pipe, b"."),
            Err(failure) => {
                let line = format!("{} {}", failure.exit as u8, failure.message);
                tell(pipe, line.replace('\n', "?").as_bytes())
            }
        }
    })
    .or_exit(Exit::Failed, failed)?;
    loop {
        let line = match asked.line(Instant::now() + PATIENCE) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // A dataset that is being recovered takes its time.
                let state = mountinfo::state(&mount.mountpoint).or_exit(Exit::Failed, failed)?;
                if state == State::Silent {
                    return Err(Failure::new(Exit::Busy, mount.silence()));
                }
                continue;
            }
            line => line.or_exit(Exit::Failed, failed)?,
        };
        let ended = || Failure::new(Exit::Failed, failed());
        let line = line.ok_or_else(ended)?;
        if line == b"." {
            return Ok(());
        }
        if line.starts_with(b"{") {
            found.push(serde_json::from_slice(&line).or_exit(Exit::Failed, failed)?);
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let (exit, message) = text.split_once(' ').ok_or_else(ended)?;
        let exit = exit.parse().map_or(Exit::Failed, Exit::from_number);
        return Err(Failure::new(exit, message));
    }
}

/// The datasets at and below a directory of a mount, in order of name.
fn visit(directory: &Path, each: &mut impl FnMut(Status) -> io::Result<()>) -> Result<(), Failure> {
    let shown = directory.display();
    let failed = || format!("cannot read {shown}");
    match fs::read(directory.join(".npyfs/status.json")) {
        Ok(text) => {
            let mut status: Status = serde_json::from_slice(&text)
                .or_exit(Exit::Failed, || format!("{shown}/.npyfs/status.json"))?;
            status.insert("path".into(), shown.to_string().into());
            each(status).or_exit(Exit::Failed, failed)?;
        }
        // The root of a mount is no dataset; nor is a file that was named.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => {}
        Err(error) => return Err(error).or_exit(Exit::Failed, failed),
    }
    let mut below = Vec::new();
    for entry in fs::read_dir(directory).or_exit(Exit::Failed, failed)? {
        let entry = entry.or_exit(Exit::Failed, failed)?;
        if entry.file_type().or_exit(Exit::Failed, failed)?.is_dir() {
            below.push(entry.path());
        }
    }
    below.sort();
    below.iter().try_for_each(|below| visit(below, each))
}

/// The datasets at and below a directory that is not in a mount. Nothing is written to them: one
/// that needs recovery is shown as recovery would leave it.
fn unmounted(path: &Path, found: &mut Vec<Status>) -> Result<(), Failure> {
    let before = found.len();
    collect_stored(path, found)?;
    if found.len() == before {
        let shown = path.display();
        return Err(Failure::new(
            Exit::Store,
            format!("{shown} is not in an npyfs mount, and holds no dataset"),
        ));
    }
    Ok(())
}

fn collect_stored(directory: &Path, found: &mut Vec<Status>) -> Result<(), Failure> {
    for directory in walk::datasets(directory)? {
        let options = npyfs::Options {
            read_only: true,
            ..Default::default()
        };
        let shown = directory.display();
        let status = npyfs::Dataset::open(&directory, options)
            .and_then(|dataset| dataset.status())
            .or_exit(Exit::Failed, || format!("cannot open {shown}"))?;
        if let Value::Object(mut object) = status.to_json() {
            object.insert("path".into(), shown.to_string().into());
            found.push(object);
        }
    }
    Ok(())
}

const HEADINGS: [&str; 8] = [
    "DATASET",
    "DTYPE",
    "ROW SHAPE",
    "ROWS",
    "SIZE",
    "CHUNKS",
    "REFUSALS",
    "LAST COMMIT",
];

/// Columns as wide as they need to be, numbers to the right.
fn table(found: &[Status]) -> String {
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(found.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = match column {
                3..=6 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A line for a copy that nothing is written to before its rows are verified.
fn verifying(status: &Status) -> Option<String> {
    let path = status.get("path")?.as_str()?;
    let verifying = status.get("verifying")?.as_object()?;
    let bytes = |key: &str| verifying.get(key).and_then(Value::as_u64).map(human);
    let (done, of) = (bytes("bytes")?, bytes("of")?);
    Some(match verifying.get("failure").and_then(Value::as_str) {
        None => format!(
            "{path}: VERIFYING: {done} of {of} of this copy: it can be read that far, and written to when that is done\n"
        ),
        Some(failure) => {
            format!("{path}: NOT VERIFIED: {done} of {of} of this copy, and no more: {failure}\n")
        }
    })
}

/// A line for a dataset that nothing is written to because of its damage.
fn damage(status: &Status) -> Option<String> {
    let damaged = status.get("damaged")?.as_array()?;
    let names: Vec<&str> = damaged.iter().filter_map(Value::as_str).collect();
    let path = status.get("path")?.as_str()?;
    (!names.is_empty()).then(|| {
        format!(
            "{path}: DAMAGED: {}: npyfs check --accept lets writes go on\n",
            names.join(", ")
        )
    })
}

fn row(status: &Status) -> [String; 8] {
    let cell = |key: &str| match status.get(key) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let shape = match status.get("row_shape") {
        Some(Value::Array(lengths)) if lengths.is_empty() => "scalar".into(),
        Some(Value::Array(lengths)) => {
            let lengths: Vec<String> = lengths.iter().map(Value::to_string).collect();
            lengths.join("x")
        }
        _ => cell("row_shape"),
    };
    let size = match status.get("bytes").and_then(Value::as_u64) {
        Some(bytes) => human(bytes),
        None => cell("bytes"),
    };
    [
        cell("path"),
        cell("dtype"),
        shape,
        cell("rows"),
        size,
        cell("chunks"),
        cell("refusals"),
        cell("last_commit"),
    ]
}

/// Three digits or so, in powers of 1024.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        return format!("{bytes} B");
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_missing() {
        let first = r#"{"path": "/m/run7", "dtype": "<f8", "row_shape": [3, 4], "rows": 12345,
            "bytes": 1185120, "chunks": 7, "refusals": 1, "last_commit": "2026-01-02T03:04:05Z"}"#;
        let second = r#"{"path": "/m/a", "dtype": null, "row_shape": [], "rows": 0, "bytes": 0}"#;
        let found: Vec<Status> = [first, second]
            .map(|text| serde_json::from_str(text).unwrap())
            .into();
        let expected = "\
DATASET  DTYPE  ROW SHAPE   ROWS     SIZE  CHUNKS  REFUSALS  LAST COMMIT
/m/run7  <f8    3x4        12345  1.1 MiB       7         1  2026-01-02T03:04:05Z
/m/a     -      scalar         0      0 B       -         -  -
";
        assert_eq!(table(&found), expected);
    }

    #[test]
    fn sizes_are_readable() {
        let sizes = [0, 1023, 1024, 1 << 20, 3 << 39, u64::MAX].map(human);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.5 TiB", "16.0 EiB"]
        );
    }
}
