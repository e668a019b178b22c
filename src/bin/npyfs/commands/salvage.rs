//! `npyfs salvage`: what is kept of chunks that came to nothing, as files that numpy loads.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use npyfs::disk::{Directory, Open, OsFile, StoreDir, StoreFile};
use npyfs::npy::{Header, Prefix};
use npyfs::{Dataset, Options, dataset, err};

use super::place::Place;
use super::walk;
use crate::exit::{Exit, Failure, OrExit};
use crate::output;

const INCOMING: &str = ".npyfs/incoming";
const LOCK: &str = ".npyfs/lock";

/// The directories in `.npyfs`, and what lies in them.
const KEPT: [(&str, &str); 2] = [
    ("rejected", "refused"),
    ("rescued", "confirmed by fsync, or set aside"),
];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The dataset, in the store or in a mount
    dataset: PathBuf,
    /// List what is kept; so it is without an option
    #[arg(long)]
    list: bool,
    /// Copy all of it into this directory, which is made if it is missing
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Remove what is kept; with --to what was copied, and nothing where a copy failed
    #[arg(long)]
    remove: bool,
}

/// A file that is kept.
struct Kept {
    path: PathBuf,
    what: &'static str,
    len: u64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = Place::find(&args.dataset)?;
    let refuse = |why: &str| {
        let shown = place.shown();
        Err(Failure::new(Exit::Store, format!("{shown} {why}")))
    };
    if !place.path.is_dir() {
        return refuse("is no directory: name a dataset");
    }
    if !walk::is_dataset(&place.path) {
        return refuse("is no dataset: name one");
    }
    let folder = Directory::open(&place.path)
        .or_exit(Exit::Store, || format!("cannot open {}", place.shown()))?;
    take_in(&folder, &place)?;
    let kept = find(&folder, &place.path)?;
    if args.list || (args.to.is_none() && !args.remove) {
        for file in &kept {
            list(&folder, &place.path, file)?;
        }
    }
    if let Some(to) = &args.to {
        super::must_answer(to)?;
        fs::create_dir_all(to).or_exit(Exit::Failed, || format!("cannot make {}", to.display()))?;
    }
    let mut failed = 0;
    for file in &kept {
        if let Some(to) = &args.to {
            match copy(&folder, file, to) {
                Ok(copy) => output::line(copy.display())?,
                Err(failure) => {
                    output::line(format_args!(
                        "{}: NOT COPIED: {failure}",
                        file.path.display()
                    ))?;
                    failed += 1;
                    continue;
                }
            }
        }
        if args.remove {
            folder.remove(&file.path).or_exit(Exit::Failed, || {
                format!("cannot remove {}", file.path.display())
            })?;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{failed} of {} files could not be copied", kept.len()),
        )),
    }
}

/// Keeps what a daemon that died was receiving, as the next daemon would, but for its limit.
fn take_in(folder: &Directory, place: &Place) -> Result<(), Failure> {
    let Ok(left) = folder.list(Path::new(INCOMING)) else {
        return Ok(());
    };
    let is_at_work = folder.is_locked(Path::new(LOCK)).unwrap_or(true);
    if is_at_work || left.iter().all(|file| file.is_dir || file.len == 0) {
        return Ok(());
    }
    // What this process makes there, the daemon must be able to use.
    let owner = fs::symlink_metadata(place.path.join(dataset::CONTROL)).map(|it| it.uid());
    let opened = match owner {
        Ok(owner) if owner != nix::unistd::geteuid().as_raw() => {
            Err(err!(EPERM, "its .npyfs belongs to user {owner}"))
        }
        _ => Dataset::open(
            &place.path,
            Options {
                rejected_limit: u64::MAX,
                ..Options::default()
            },
        )
        .and_then(|dataset| dataset.close()),
    };
    if let Err(error) = opened {
        output::line(format_args!(
            "{}: what a daemon was receiving when it died is kept once a mount of the store has opened the dataset; not now: {error}",
            place.shown()
        ))?;
    }
    Ok(())
}

/// What is kept, oldest first in each directory. The owner of the dataset may exchange what is there
/// at any moment: nothing is reached but by the way that the daemon takes.
fn find(folder: &Directory, dataset: &Path) -> Result<Vec<Kept>, Failure> {
    let mut found = Vec::new();
    for (directory, what) in KEPT {
        let directory = Path::new(".npyfs").join(directory);
        let mut files = match folder.list(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files.or_exit(Exit::Failed, || {
                format!("cannot read {}", dataset.join(&directory).display())
            })?,
        };
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let files = files.into_iter().filter(|file| !file.is_dir);
        found.extend(files.map(|file| Kept {
            path: directory.join(file.name),
            what,
            len: file.len,
        }));
    }
    Ok(found)
}

fn list(folder: &Directory, dataset: &Path, file: &Kept) -> Result<(), Failure> {
    let shown = dataset.join(&file.path);
    let bytes = HumanBytes(file.len);
    let array = match header(folder, file) {
        Some(header) => {
            let shape: Vec<String> = header.shape().iter().map(u64::to_string).collect();
            format!("{} rows, shape ({}), ", header.rows(), shape.join(", "))
        }
        None => "no whole array, ".into(),
    };
    output::line(format_args!(
        "{}: {array}{bytes}, {}",
        shown.display(),
        file.what
    ))
}

/// The header of what numpy can load.
fn header(folder: &Directory, file: &Kept) -> Option<Header> {
    let blob = folder.open(&file.path, Open::Read).ok()?;
    let len = blob.len().ok()?;
    let mut bytes = vec![0; len.min(2 << 20) as usize];
    let got = blob.read_at(&mut bytes, 0).ok()?;
    match Header::parse(&bytes[..got]) {
        Ok(Prefix::Complete(header)) if header.file_bytes() <= len => Some(header),
        _ => None,
    }
}

/// Copies a file under its own name, which begins with the time; never over another.
fn copy(folder: &Directory, file: &Kept, to: &Path) -> Result<PathBuf, Failure> {
    let failed = || format!("cannot copy {}", file.path.display());
    let source = folder
        .open(&file.path, Open::Read)
        .or_exit(Exit::Failed, failed)?;
    let path = to.join(file.path.file_name().unwrap_or_default());
    let mut options = OpenOptions::new();
    let target = options.write(true).create_new(true).open(&path);
    if matches!(&target, Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
        && is_copy(&*source, &path).unwrap_or(false)
    {
        return Ok(path);
    }
    let target = target.or_exit(Exit::Failed, || format!("cannot make {}", path.display()))?;
    let done = source.len().and_then(|len| {
        let modified = npyfs::disk::modified(&*source)?;
        let target = OsFile::new(target.try_clone()?);
        npyfs::disk::copy(&*source, 0, &target, 0, len)?;
        if let Some(file) = target.file() {
            file.set_modified(npyfs::disk::clock::to_system(modified))?;
            file.sync_all()?;
        }
        Ok(())
    });
    if done.is_err() {
        fs::remove_file(&path).or_exit(Exit::Failed, failed)?;
    }
    done.or_exit(Exit::Failed, failed)?;
    Ok(path)
}

/// Whether an earlier run has copied it: then `--to` with `--remove` may come after a look.
fn is_copy(source: &dyn StoreFile, path: &Path) -> io::Result<bool> {
    let copy = OsFile::new(fs::File::open(path)?);
    let len = source.len()?;
    if copy.len()? != len {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut at = 0;
    while at < len {
        let (got, had) = (source.read_at(&mut one, at)?, copy.read_at(&mut other, at)?);
        if got == 0 || got != had || one[..got] != other[..had] {
            return Ok(false);
        }
        at += got as u64;
    }
    Ok(true)
}
