//! `npyfs append`: the same engine with no mount.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use npyfs::dataset::{Attributes, CONTROL, Kind, judge_file};
use npyfs::disk::OsFile;
use npyfs::disk::clock;
use npyfs::error::{Context, Errno};
use npyfs::{Dataset, err};

use super::place::Place;
use super::walk;
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo;
use crate::output;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The dataset's directory in the store, or where that is mounted; made where it is missing
    dataset: PathBuf,
    /// Files to append, each under its own name; a line for each says what became of it
    #[arg(required = true)]
    chunks: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::find(&args.dataset)?;
    let missing = check_dataset(&place)?;
    let mut results = Results::default();
    if missing {
        // Nothing is made for files of which none can be a chunk.
        let refused: Vec<_> = args
            .chunks
            .iter()
            .map_while(|path| look(path).err())
            .collect();
        if refused.len() == args.chunks.len() {
            for (path, error) in args.chunks.iter().zip(refused) {
                results.add(path, Err(error));
            }
            return results.end();
        }
    }
    let shown = place.shown();
    if missing {
        fs::create_dir_all(&place.path).or_exit(Exit::Store, || format!("cannot make {shown}"))?;
    }
    let dataset = Dataset::open(&place.path, npyfs::Options::default())
        .or_exit(Exit::Store, || format!("cannot open {shown}"))?;
    // A daemon that is ending may have it a moment longer.
    dataset.await_lock();
    for path in &args.chunks {
        let done = look(path).and_then(|chunk| append(&dataset, &chunk));
        results.add(path, done.map_err(|error| name_mount(error, &place)));
    }
    let closed = dataset
        .close()
        .or_exit(Exit::Failed, || format!("cannot close {shown}"));
    results.end().and(closed)
}

/// Refuses what cannot be the directory of a dataset; whether it is yet to be made.
fn check_dataset(place: &Place) -> Result<bool, Failure> {
    let path = &place.path;
    let refuse = |why: String| {
        Err(Failure::new(
            Exit::Store,
            format!("{} {why}", place.shown()),
        ))
    };
    if path.iter().any(|part| part == CONTROL) {
        return refuse(format!("is in {CONTROL}, which is npyfs's own"));
    }
    if let Some(mount) = place.mounts().find(|mount| mount.store() == path) {
        return refuse(format!(
            "is the store of the mount {}: name a dataset in it",
            mount.mountpoint.display()
        ));
    }
    match path.metadata() {
        Ok(stat) if !stat.is_dir() => return refuse("is a file, not a dataset".into()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let odd = |part: &&OsStr| Kind::of(part) != Kind::Ordinary;
            let made = path.ancestors().take_while(|above| !above.exists());
            return match made.filter_map(Path::file_name).find(odd) {
                Some(part) => refuse(format!(
                    "cannot be made: {} is a name of a file in a dataset",
                    part.display()
                )),
                None => Ok(true),
            };
        }
        Err(error) => return refuse(format!("cannot be used: {error}")),
    }
    // In a mounted store there may be datasets in a directory that has no rows itself yet.
    if !walk::is_dataset(path) && place.mounts().next().is_none() {
        if let Some(below) = walk::first_below(path, &place.table) {
            return refuse(format!(
                "is a store, which holds datasets: name one, as {}",
                below.display()
            ));
        }
        // With rows in it a store cannot be mounted any more.
        if let Some(below) = walk::first_directory(path) {
            return refuse(format!(
                "holds directories, so it may be a store whose datasets are empty yet: name a dataset, as {}",
                below.display()
            ));
        }
    }
    Ok(false)
}

/// Fails where a chunk is in a mount of ours that does not answer.
fn check_answers(chunk: &Path) -> npyfs::Result<()> {
    let mount = std::path::absolute(chunk)
        .and_then(|chunk| mountinfo::containing(&chunk))
        .context(|| "cannot read the table of mounts".into())?;
    match mount {
        Some(mount) if mount.is_npyfs() => super::canonical(chunk, Exit::Failed)
            .map(drop)
            .map_err(|failure| err!(EIO, "{failure}")),
        _ => Ok(()),
    }
}

/// A file that could be a chunk.
struct Chunk<'a> {
    name: &'a OsStr,
    blob: OsFile,
    attributes: Attributes,
}

fn look(path: &Path) -> npyfs::Result<Chunk<'_>> {
    check_answers(path)?;
    let name = path
        .file_name()
        .ok_or_else(|| err!(EINVAL, "the path has no name"))?;
    // A FIFO is opened at once and refused, not waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .context(|| "cannot open it".into())?;
    let stat = file.metadata().context(|| "cannot look at it".into())?;
    if !stat.is_file() {
        return Err(err!(EINVAL, "not a regular file"));
    }
    let chunk = Chunk {
        name,
        blob: OsFile::new(file),
        attributes: Attributes {
            mode: stat.mode() & 0o7777,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: stat.modified().map_or(0, clock::from_system),
        },
    };
    judge_file(name, &chunk.blob)?;
    Ok(chunk)
}

/// What became of it.
fn append(dataset: &Arc<Dataset>, chunk: &Chunk<'_>) -> npyfs::Result<String> {
    let Chunk { name, blob, .. } = chunk;
    let (done, verb) = match dataset.chunk(name)? {
        Some(_) => (dataset.compare_blob(name, blob), "was there already, as"),
        None => (
            dataset.append_blob(name, blob, chunk.attributes),
            "appended as",
        ),
    };
    done.inspect_err(|error| {
        dataset.report(name, error);
    })?;
    let receipt = dataset
        .chunk(name)?
        .ok_or_else(|| err!(ESTALE, "its name was removed meanwhile"))?
        .receipt;
    let (first, end) = (receipt.first_row, receipt.end());
    Ok(format!("{verb} rows {first} to {end}"))
}

/// Where the daemon of a mount writes the dataset, there is another way in.
fn name_mount(error: npyfs::Error, place: &Place) -> npyfs::Error {
    if error.errno() != Errno::EBUSY {
        return error;
    }
    let inside: Vec<String> = place
        .mounts()
        .filter_map(|mount| mount.shows(&place.path))
        .map(|path| path.display().to_string())
        .collect();
    if inside.is_empty() {
        return error;
    }
    err!(
        EBUSY,
        "{error}: copy it into {} instead",
        inside.join(" or ")
    )
}

/// What became of the files, told one by one. A reader who does not care is no reason to stop.
#[derive(Default)]
struct Results {
    files: usize,
    refused: usize,
    printed: Option<Failure>,
}

impl Results {
    fn add(&mut self, path: &Path, done: npyfs::Result<String>) {
        self.files += 1;
        let shown = path.display();
        let line = match done {
            Ok(done) => format!("{shown}: {done}"),
            Err(error) => {
                self.refused += 1;
                format!("{shown}: refused: {error}")
            }
        };
        if self.printed.is_none() {
            self.printed = output::line(line).err();
        }
    }

    fn end(self) -> Result<(), Failure> {
        if self.refused > 0 {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} of {} files were refused", self.refused, self.files),
            ));
        }
        self.printed.map_or(Ok(()), Err)
    }
}
