//! `npyfs status`: what each dataset's `.npyfs/status.json` says, as a table or as JSON.
//!
//! Whatever cannot be read, or does not answer, is a row with its state, and what comes after it is
//! shown all the same.

mod table;

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::walk;
use super::why;
use crate::asking::{PATIENCE, ask, tell};
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo::{self, Entry};
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A mount point, a store, a dataset or a directory of datasets [default: all mounts]
    path: Option<PathBuf>,
    /// Print an array of objects, one a dataset, and one for each mount that shows none
    #[arg(long)]
    json: bool,
}

/// A dataset's status.json, with its `path`; or of what has none, `path`, `state` and `error`.
#[derive(Debug)]
struct Row(Map<String, Value>);

/// How a dataset or a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// A copy whose rows are being verified.
    Verifying,
    /// A copy whose rows could not be verified.
    Unverified,
    /// Some rows are not what was committed: it can be read, and not be written.
    Damaged,
    /// It cannot be opened.
    Unreadable,
    /// It does not answer.
    Silent,
    /// A mount without a daemon.
    Dead,
}

const STATES: [(State, &str); 7] = [
    (State::Ok, "ok"),
    (State::Verifying, "verifying"),
    (State::Unverified, "not verified"),
    (State::Damaged, "damaged"),
    (State::Unreadable, "unreadable"),
    (State::Silent, "silent"),
    (State::Dead, "dead"),
];

/// What is to be done with a mount without a daemon.
const CLEARS: &str = "npyfs umount clears it";

impl State {
    fn word(self) -> &'static str {
        let known = STATES.iter().find(|(state, _)| *state == self);
        known.map_or("", |(_, word)| word)
    }

    /// As the table shows it: what needs a look stands out.
    fn shown(self) -> String {
        match self {
            State::Ok => self.word().into(),
            _ => self.word().to_uppercase(),
        }
    }

    /// What it makes the command end with.
    fn exit(self) -> Exit {
        match self {
            State::Ok | State::Verifying => Exit::Ok,
            State::Damaged => Exit::Damage,
            State::Unverified | State::Unreadable | State::Dead => Exit::Failed,
            State::Silent => Exit::Busy,
        }
    }
}

impl Row {
    fn new(path: &Path, state: State, error: &str) -> Self {
        let mut object = Map::new();
        object.insert("path".into(), path.display().to_string().into());
        object.insert("state".into(), state.word().into());
        object.insert("error".into(), error.into());
        Row(object)
    }

    fn of_mount(mount: &Entry, state: State, error: &str) -> Self {
        let Row(mut object) = Self::new(&mount.mountpoint, state, error);
        let store = mount.store().display().to_string();
        object.insert("store".into(), store.into());
        Row(object)
    }

    fn of_dataset(path: &Path, mut status: Map<String, Value>) -> Self {
        status.insert("path".into(), path.display().to_string().into());
        Row(status)
    }

    fn path(&self) -> &str {
        self.0.get("path").and_then(Value::as_str).unwrap_or("")
    }

    /// A daemon from before there were states says nothing of it.
    fn state(&self) -> State {
        let word = self.0.get("state").and_then(Value::as_str);
        let known = STATES.iter().find(|(_, known)| Some(*known) == word);
        known.map_or(State::Ok, |(state, _)| *state)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut text = String::new();
    match &args.path {
        Some(path) => {
            let table = || "cannot read the table of mounts".into();
            match super::canonical(path, Exit::Store) {
                Ok(path) => {
                    let mount = mountinfo::containing(&path).or_exit(Exit::Failed, table)?;
                    match mount.filter(Entry::is_npyfs) {
                        Some(mount) => collect(&mount, &path, &mut found)?,
                        None => unmounted(&path, &mut found)?,
                    }
                }
                // The way to it ends in a mount that does not answer: that is a row too.
                Err(failure) => {
                    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                    let mount = mountinfo::containing(&path).or_exit(Exit::Failed, table)?;
                    match mount.filter(|mount| failure.exit == Exit::Busy && mount.is_npyfs()) {
                        Some(mount) => {
                            found.push(Row::of_mount(&mount, State::Silent, &mount.silence()));
                        }
                        None => return Err(failure),
                    }
                }
            }
        }
        None => all_mounts(&mut text, &mut found)?,
    }
    let ended = outcome(&found);
    if args.json {
        let found = found.into_iter().map(|Row(row)| Value::Object(row));
        text = format!("{:#}\n", Value::Array(found.collect()));
    } else if !found.is_empty() {
        text.push_str(&table::text(&found));
    }
    // What was found is printed, whatever could not be.
    output::print(text)?;
    ended
}

/// What does not answer comes before damage, and that before all else.
fn outcome(found: &[Row]) -> Result<(), Failure> {
    let with = |exit: Exit| found.iter().filter(move |row| row.state().exit() == exit);
    let silent: Vec<&str> = with(Exit::Busy)
        .filter_map(|row| row.0.get("error")?.as_str())
        .collect();
    if !silent.is_empty() {
        return Err(Failure::new(Exit::Busy, silent.join("; ")));
    }
    for exit in [Exit::Damage, Exit::Failed] {
        let rows: Vec<String> = with(exit)
            .map(|row| format!("{} is {}", row.path(), row.state().word()))
            .collect();
        if !rows.is_empty() {
            return Err(Failure::new(exit, rows.join("; ")));
        }
    }
    Ok(())
}

/// The datasets of every mount, and a line about each mount itself.
fn all_mounts(text: &mut String, found: &mut Vec<Row>) -> Result<(), Failure> {
    let mounts =
        mountinfo::states().or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
    if mounts.is_empty() {
        text.push_str("no npyfs mounts\n");
    }
    for (mount, state) in mounts {
        let at = mount.mountpoint.display();
        let line = match state {
            mountinfo::State::Dead => {
                found.push(Row::of_mount(&mount, State::Dead, CLEARS));
                format!("dead: {CLEARS}")
            }
            mountinfo::State::Silent => {
                found.push(Row::of_mount(&mount, State::Silent, &mount.silence()));
                "does not answer".into()
            }
            mountinfo::State::Served(pid) => {
                let before = found.len();
                collect(&mount, &mount.mountpoint, found)?;
                let itself = found[before..]
                    .iter()
                    .find(|row| row.0.contains_key("store"));
                match (itself.map(Row::state), pid) {
                    (Some(State::Silent), _) => "does not answer".into(),
                    (Some(_), _) => "not readable".into(),
                    (None, Some(pid)) => format!("served by process {pid}"),
                    (None, None) => "served".into(),
                }
            }
        };
        let store = mount.store().display();
        text.push_str(&format!("{store} on {at}: {line}\n"));
    }
    Ok(())
}

/// The datasets at and below a directory of a mount, in order of path, and what cannot be asked.
fn collect(mount: &Entry, top: &Path, found: &mut Vec<Row>) -> Result<(), Failure> {
    let failed = || format!("cannot ask {}", mount.mountpoint.display());
    let mut given_up: Option<PathBuf> = None;
    loop {
        let mut asked = ask(|pipe| {
            let mut visit = Visit {
                top,
                mount,
                after: given_up.as_deref(),
                tell: &mut |line| tell(pipe, line.to_string().as_bytes()),
            };
            visit.directory(top)?;
            tell(pipe, b"null")
        })
        .or_exit(Exit::Failed, failed)?;
        let mut at = top.to_owned();
        let silent = loop {
            let line = match asked.line(Instant::now() + PATIENCE) {
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    break mountinfo::state(&mount.mountpoint).or_exit(Exit::Failed, failed)?;
                }
                line => line.or_exit(Exit::Failed, failed)?,
            };
            let ended = || Failure::new(Exit::Failed, failed());
            let line = line.ok_or_else(ended)?;
            match serde_json::from_slice(&line).or_exit(Exit::Failed, failed)? {
                Value::Object(row) => found.push(Row(row)),
                Value::String(why) => return Err(Failure::new(Exit::Store, why)),
                Value::Array(bytes) => at = path_of(&bytes),
                _ => return Ok(()),
            }
        };
        match silent {
            mountinfo::State::Silent => {
                found.push(Row::of_mount(mount, State::Silent, &mount.silence()));
                return Ok(());
            }
            mountinfo::State::Dead => {
                found.push(Row::of_mount(mount, State::Dead, CLEARS));
                return Ok(());
            }
            mountinfo::State::Served(_) => {
                let shown = at.display();
                let error = format!(
                    "{shown} does not answer, and its mount does: it is being recovered, or its disk does not answer"
                );
                found.push(Row::new(&at, State::Silent, &error));
                given_up = Some(at);
            }
        }
    }
}

/// Asks in a process of its own, and tells a JSON value a line: the bytes of the path that is asked
/// next, an object for what was found there, or a text that says why nothing can be asked.
struct Visit<'a> {
    top: &'a Path,
    mount: &'a Entry,
    /// One before this got so far, in order of path, and no further.
    after: Option<&'a Path>,
    tell: &'a mut dyn FnMut(Value) -> io::Result<()>,
}

impl Visit<'_> {
    fn directory(&mut self, directory: &Path) -> io::Result<()> {
        let mut is_told = false;
        if let Some(after) = self.after {
            is_told = after.starts_with(directory) && after != directory;
            if !is_told && directory <= after || directory.starts_with(after) {
                return Ok(());
            }
        }
        if !is_told {
            (self.tell)(json!(directory.as_os_str().as_bytes()))?;
            is_told = self.dataset(directory)?;
        }
        let below = match directories(directory) {
            Ok(below) => below,
            Err(error) if error.kind() == ErrorKind::NotADirectory && directory == self.top => {
                let why = format!(
                    "{} is a file: name the dataset or the mount",
                    directory.display()
                );
                return (self.tell)(Value::String(why));
            }
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if is_told => {
                log::debug!("{} is not listed: {error}", directory.display());
                return Ok(());
            }
            Err(error) => return self.unreadable(directory, &error).map(drop),
        };
        below.iter().try_for_each(|below| self.directory(below))
    }

    /// Tells what a directory says of itself; false where it is no dataset.
    fn dataset(&mut self, directory: &Path) -> io::Result<bool> {
        let text = match fs::read(directory.join(".npyfs/status.json")) {
            Ok(text) => text,
            // The root of a mount is no dataset; nor is a file that was named.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(false);
            }
            Err(error) => return self.unreadable(directory, &error),
        };
        match serde_json::from_slice(&text) {
            Ok(status) => {
                let Row(row) = Row::of_dataset(directory, status);
                (self.tell)(Value::Object(row)).map(|()| true)
            }
            Err(error) => self.unreadable(directory, &error.into()),
        }
    }

    fn unreadable(&mut self, directory: &Path, error: &io::Error) -> io::Result<bool> {
        let Row(row) = if mountinfo::is_dead(&self.mount.mountpoint) {
            Row::of_mount(self.mount, State::Dead, CLEARS)
        } else if directory == self.mount.mountpoint {
            // Another user's, say, which not even root may look into without allow_other.
            Row::of_mount(self.mount, State::Unreadable, &error.to_string())
        } else {
            // Its log knows more than the error's number says.
            let known = why::last_of_dataset(&directory.join(".npyfs")).unwrap_or_default();
            let why = known.map_or_else(|| error.to_string(), |line| format!("{error}: {line}"));
            Row::new(directory, State::Unreadable, &why)
        };
        (self.tell)(Value::Object(row)).map(|()| true)
    }
}

fn path_of(bytes: &[Value]) -> PathBuf {
    let bytes = bytes.iter().filter_map(Value::as_u64);
    let bytes: Vec<u8> = bytes.map(|byte| byte as u8).collect();
    OsString::from_vec(bytes).into()
}

/// The directories in a directory of a mount, in order.
fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    below.sort();
    Ok(below)
}

/// The datasets at and below a directory that is not in a mount. Nothing is written to them: one
/// that needs recovery is shown as recovery would leave it.
fn unmounted(path: &Path, found: &mut Vec<Row>) -> Result<(), Failure> {
    let shown = path.display();
    if path.is_file() {
        let why = format!("{shown} is a file: name a directory");
        return Err(Failure::new(Exit::Store, why));
    }
    let table =
        mountinfo::read().or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
    let stored = walk::search(path, &table);
    for directory in stored.datasets {
        let options = npyfs::Options {
            read_only: true,
            ..Default::default()
        };
        let status = npyfs::Dataset::open(&directory, options).and_then(|dataset| dataset.status());
        found.push(match status.map(|status| status.to_json()) {
            Ok(Value::Object(status)) => Row::of_dataset(&directory, status),
            Ok(_) => continue,
            Err(error) => Row::new(&directory, State::Unreadable, &error.to_string()),
        });
    }
    for (directory, error) in stored.unreadable {
        found.push(Row::new(&directory, State::Unreadable, &error.to_string()));
    }
    if found.is_empty() {
        return Err(Failure::new(
            Exit::Store,
            format!("{shown} is not in an npyfs mount, and holds no dataset"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_a_word_that_is_read_back() {
        for (state, word) in STATES {
            let row = Row::new(Path::new("/m"), state, "");
            assert_eq!((row.state(), state.word()), (state, word));
        }
    }
}
