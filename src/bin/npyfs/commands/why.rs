//! `npyfs why`: the last refusal of a name, or of a dataset, as its log has it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use npyfs::dataset::CONTROL;
use npyfs::printable;

use super::place::Place;
use crate::asking::{PATIENCE, ask};
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo;
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A chunk that was refused, or another name in a dataset; or a dataset, a mount or a store
    path: PathBuf,
}

/// How much is read of the end of a log at a time.
const PIECE: u64 = 64 << 10;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::find(&args.path)?;
    let shown = printable::name(args.path.as_os_str());
    // A user of the mount may not look into the store; and the store is there when the daemon is not.
    let seen = match &place.mount {
        Some(mount) => match mountinfo::canonical(&mount.mountpoint) {
            Ok(_) if !mountinfo::is_dead(&mount.mountpoint) => mount.shows(&place.path),
            _ => None,
        },
        None => None,
    };
    let path = seen.as_ref().unwrap_or(&place.path);
    let has_log = |directory: &Path| directory.join(CONTROL).symlink_metadata().is_ok();
    if place.mount.is_none() && !has_log(path) && !path.parent().is_some_and(has_log) {
        return Err(Failure::new(
            Exit::Store,
            format!("{shown} is in no mount of npyfs, and neither a dataset nor in one"),
        ));
    }
    let found = look(path).or_exit(Exit::Store, || {
        format!("cannot read the log of {}", place.shown())
    })?;
    output::line(match found {
        Some(line) => line,
        None => format!("{shown}: no refusal is in the log"),
    })
}

/// The line for a path, which is read by a process that may be left waiting.
fn look(path: &Path) -> io::Result<Option<String>> {
    let path = path.to_owned();
    let mut asked = ask(|pipe| {
        let line = line_of(&path);
        io::Write::write_all(
            pipe,
            &match line {
                Ok(Some(line)) => [b"+", line.as_bytes()].concat(),
                Ok(None) => Vec::new(),
                Err(error) => format!("-{}", error.raw_os_error().unwrap_or(libc::EIO)).into(),
            },
        )
    })?;
    asked.wait(Instant::now() + PATIENCE)?;
    let answer = String::from_utf8_lossy(asked.come()).into_owned();
    match answer.split_at_checked(1) {
        Some(("+", line)) => Ok(Some(line.to_owned())),
        Some((_, errno)) => Err(io::Error::from_raw_os_error(
            errno.parse().unwrap_or(libc::EIO),
        )),
        None => Ok(None),
    }
}

fn line_of(path: &Path) -> io::Result<Option<String>> {
    match path.symlink_metadata() {
        Ok(stat) if stat.is_dir() => return last_of_dataset(&path.join(CONTROL)),
        _ => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::NotFound.into());
    };
    // A path that leads nowhere is a mistake, not a name that was never refused.
    parent.metadata()?;
    let control = parent.join(CONTROL);
    let begin = printable::name(name);
    let of_name = |line: &str| {
        let said = line.split_once(' ').map_or("", |(_, said)| said);
        let said = said.strip_prefix(begin.as_str());
        said.is_some_and(|said| said.starts_with([' ', ':']))
    };
    match last_line(&control, &of_name)? {
        Some(line) => Ok(Some(line)),
        // It may be the dataset that nothing can be done with.
        None => last_line(&control, &|line| {
            line.split_once(' ')
                .is_some_and(|(_, said)| said.starts_with("refused: "))
        }),
    }
}

/// The last refusal, of whatever name; given a dataset's `.npyfs`.
pub(super) fn last_of_dataset(control: &Path) -> io::Result<Option<String>> {
    last_line(control, &|line| line.contains(" refused: "))
}

/// The last line of a log that is looked for, also of the log before it was begun anew.
fn last_line(control: &Path, is_it: &dyn Fn(&str) -> bool) -> io::Result<Option<String>> {
    for log in ["log", "log.1"] {
        let mut file = match File::open(control.join(log)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A mount does not say the end of what is still to come.
        let mut end = file.seek(SeekFrom::End(0))?;
        let mut rest: Vec<u8> = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(PIECE);
            file.seek(SeekFrom::Start(start))?;
            let mut piece = Vec::new();
            (&mut file).take(end - start).read_to_end(&mut piece)?;
            piece.append(&mut rest);
            // The first line may begin before this piece.
            let whole = match start {
                0 => 0,
                _ => piece
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .map_or(piece.len(), |at| at + 1),
            };
            let text = String::from_utf8_lossy(&piece[whole..]);
            if let Some(line) = text.lines().rev().find(|line| is_it(line)) {
                return Ok(Some(line.to_owned()));
            }
            piece.truncate(whole);
            rest = piece;
            end = start;
        }
    }
    Ok(None)
}
