//! The subcommands. A further one is a file here and a line in each of the two lists below.

mod append;
mod backup;
mod check;
mod holders;
mod mount;
mod place;
mod progress;
mod salvage;
mod status;
mod umount;
mod walk;
mod why;

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::exit::{Exit, Failure, OrExit};
use crate::mount_options::MountArgs;
use crate::mountinfo;

/// What the program was asked to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show a store's datasets at a mount point
    Mount(MountArgs),
    /// End a mount and wait for its daemon
    Umount(umount::Args),
    /// Show the datasets of all mounts, of a mount, of a directory
    Status(status::Args),
    /// Verify every checksum of a store; exit code 1 on damage
    Check(check::Args),
    /// Append files to a dataset with no mount
    Append(append::Args),
    /// Bring a second copy of a store up to date, while it is mounted and written
    Backup(backup::Args),
    /// Hand out what is kept of chunks that came to nothing, and of rows that were set aside
    Salvage(salvage::Args),
    /// Say why a chunk was refused, or what a dataset refused last
    Why(why::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Mount(args) => mount::run(args),
            Command::Umount(args) => umount::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Append(args) => append::run(&args),
            Command::Backup(args) => backup::run(&args),
            Command::Salvage(args) => salvage::run(&args),
            Command::Why(args) => why::run(&args),
        }
    }
}

/// Fails where a path leads into a mount of ours that does not answer, whether it is there or not.
fn must_answer(path: &Path) -> Result<(), Failure> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match canonical(path, Exit::Failed) {
        Err(failure) if failure.exit == Exit::Busy => Err(failure),
        _ => Ok(()),
    }
}

/// The canonical path; `otherwise` where it leads to nothing.
fn canonical(path: &Path, otherwise: Exit) -> Result<PathBuf, Failure> {
    let found = mountinfo::canonical(path);
    let exit = match &found {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Exit::Busy,
        _ => otherwise,
    };
    found.or_exit(exit, || path.display().to_string())
}
