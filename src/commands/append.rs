//! `npyfs append`: the same engine with no mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use npyfs::Dataset;
use npyfs::dataset::disk::DiskFile;
use npyfs::dataset::{Attributes, clock};
use npyfs::error::Context;

use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The dataset's directory in the store, not in a mount; made where it is missing
    dataset: PathBuf,
    /// Files to append, each under its own name
    #[arg(required = true)]
    chunks: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shown = args.dataset.display();
    fs::create_dir_all(&args.dataset).or_exit(Exit::Store, || format!("cannot make {shown}"))?;
    let path = mountinfo::canonical(&args.dataset).or_exit(Exit::Store, || shown.to_string())?;
    let mount = mountinfo::containing(&path)
        .or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
    if mount.is_some_and(|mount| mount.is_npyfs()) {
        return Err(Failure::new(
            Exit::Store,
            format!("{shown} is in a mount: copy the chunks into it instead"),
        ));
    }
    let dataset = Dataset::open(&path, npyfs::DatasetOptions::default())
        .or_exit(Exit::Store, || format!("cannot open {shown}"))?;
    let appended = args
        .chunks
        .iter()
        .try_for_each(|chunk| append(&dataset, chunk))
        .or_exit(Exit::Failed, || "not all chunks were appended".into());
    let closed = dataset
        .close()
        .or_exit(Exit::Failed, || format!("cannot close {shown}"));
    appended.and(closed)
}

fn append(dataset: &Dataset, path: &Path) -> npyfs::Result<()> {
    let shown = path.display();
    let file = File::open(path).context(|| format!("cannot open {shown}"))?;
    let stat = file
        .metadata()
        .context(|| format!("cannot look at {shown}"))?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let attributes = Attributes {
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: stat.modified().map_or(0, clock::from_system),
    };
    let blob = DiskFile::new(file);
    match dataset.chunk(name)? {
        Some(_) => dataset.compare_blob(name, &blob),
        None => dataset.append_blob(name, &blob, attributes),
    }
    .map_err(|error| {
        dataset.report(name, &error);
        error.context(shown.to_string())
    })
}
