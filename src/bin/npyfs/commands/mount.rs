//! `npyfs mount`: everything that can be refused is refused here, before a daemon exists.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::{AccessFlags, access};
use npyfs::fs::Fs;
use npyfs::fuse::Adapter;
use npyfs::store::Store;

use crate::daemon::log::Log;
use crate::daemon::mounting::DetachedMount;
use crate::daemon::{self, Plan, Served, signals};
use crate::exit::{Exit, Failure, OrExit};
use crate::mount_options::{MountArgs, Names, Tuning};
use crate::mountinfo;

const REMEMBERED: usize = 128 << 10;

pub(crate) fn run(args: MountArgs) -> Result<(), Failure> {
    let store = check_store(&args.store, args.flags.read_only)?;
    let (mountpoint, remains) = check_mountpoint(&args.mountpoint)?;
    check_apart(&store, &mountpoint)?;
    if args.fake {
        return Ok(());
    }
    if let Some(directory) = args.log_file.as_deref().and_then(Path::parent) {
        super::must_answer(directory)?;
    }
    let log = log_of(&args, &store)?;
    let plan = Plan {
        store,
        mountpoint,
        flags: args.flags,
        threads: args.tuning.threads.0,
        remains: Mutex::new(remains),
        reopens: (!args.foreground).then(|| log.clone()),
    };
    let make = || build(&plan, &args.tuning);
    let is_seen = matches!(log, Log::Terminal);
    // Before the fork and before any thread: a signal that comes while the mount is being made
    // waits, and then ends it.
    signals::block().or_exit(Exit::Failed, || "cannot block signals".into())?;
    if args.foreground {
        log.start(false);
        daemon::serve(&plan, make, || {
            warn_if_exposed(&plan, is_seen);
            Ok(())
        })
    } else {
        daemon::background::start(|ready| {
            log.start(true);
            daemon::serve(&plan, make, || {
                // While the terminal is still there.
                warn_if_exposed(&plan, is_seen);
                ready.report()
            })
        })
    }
}

fn log_of(args: &MountArgs, store: &Path) -> Result<Log, Failure> {
    match &args.log_file {
        Some(path) => Log::named(path).or_exit(Exit::Usage, || {
            format!("cannot write to the log file {}", path.display())
        }),
        None if args.foreground => Ok(Log::Terminal),
        None => Ok(Log::of_background(store, args.flags.read_only).unwrap_or_else(|error| {
            crate::output::warn(format_args!(
                "the daemon's log goes nowhere: there is no syslog, and the store takes no file: {error}"
            ));
            Log::Terminal
        })),
    }
}

/// The filesystem and how to close it. Runs in the daemon, where threads may start.
fn build(plan: &Plan, tuning: &Tuning) -> npyfs::Result<Served<Adapter>> {
    let options = npyfs::store::Options {
        read_only: plan.flags.read_only,
        reuse_names: tuning.names == Names::Reuse,
        memory: usize::try_from(tuning.memory_limit.0).unwrap_or(usize::MAX),
        rejected_limit: tuning.rejected_limit.0,
        ..Default::default()
    };
    let store = Store::open(&plan.store, options)?;
    let options = npyfs::fs::Options {
        cached: tuning.cached,
        allow_delete: tuning.allow_delete,
        read_only: plan.flags.read_only,
        sync_interval: tuning.sync_interval.0,
        remembered: tuning.remembered.unwrap_or(REMEMBERED),
    };
    let fs = Fs::new(store, options)?;
    let filesystem = Adapter::new(fs.clone());
    let connect = filesystem.on_mounted();
    let stopped = fs.clone();
    let parted = fs.clone();
    Ok(Served {
        filesystem,
        stop: Box::new(move || stopped.stop_openings()),
        attach: Box::new(connect),
        let_go: Box::new(move || parted.let_go()),
        close: Box::new(move || fs.close()),
    })
}

fn check_store(path: &Path, read_only: bool) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let refuse = |why: String| Err(Failure::new(Exit::Store, why));
    let store = match mountinfo::real(path) {
        Ok(store) => store,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("{shown} does not exist: make the store first"));
        }
        Err(error) => {
            let why = format!("cannot use {shown} as a store: {error}");
            return Err(Failure::new(unless_silent(&error, Exit::Store), why));
        }
    };
    if !store.is_dir() {
        return refuse(format!("{shown} is not a directory"));
    }
    if let Err(error) = fs::read_dir(&store) {
        return refuse(format!("cannot read the store {shown}: {error}"));
    }
    if let Err(error) = access(&store, AccessFlags::X_OK) {
        return refuse(format!("cannot search the store {shown}: {error}"));
    }
    if !read_only && let Err(error) = access(&store, AccessFlags::W_OK) {
        return refuse(format!(
            "cannot write to the store {shown} ({error}): mount it with -o ro"
        ));
    }
    if fs::symlink_metadata(store.join("data.npy")).is_ok() {
        return refuse(format!(
            "{shown} is a dataset, not a store of datasets: mount the directory above it"
        ));
    }
    Ok(store)
}

/// A mount on the way that does not answer is the same failure for every command.
fn unless_silent(error: &io::Error, exit: Exit) -> Exit {
    match error.kind() {
        io::ErrorKind::TimedOut => Exit::Busy,
        _ => exit,
    }
}

/// The canonical mount point, with dead mounts of ours taken away, and what is left of them.
fn check_mountpoint(path: &Path) -> Result<(PathBuf, Vec<DetachedMount>), Failure> {
    let shown = path.display();
    let refuse = |why: String| Err(Failure::new(Exit::MountPoint, why));
    let mountpoint = match mountinfo::canonical(path) {
        Ok(mountpoint) => mountpoint,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("{shown} does not exist: make the directory first"));
        }
        Err(error) => {
            let why = format!("cannot mount at {shown}: {error}");
            return Err(Failure::new(unless_silent(&error, Exit::MountPoint), why));
        }
    };
    let mut remains = Vec::new();
    loop {
        let here = mountinfo::at(&mountpoint)
            .or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
        match here {
            Some(entry) if mountinfo::is_dead(&mountpoint) => {
                if !entry.is_npyfs() {
                    return refuse(format!(
                        "{shown} has a dead mount of type {}: unmount it first",
                        entry.fstype
                    ));
                }
                let cleared = daemon::mounting::clear(&mountpoint);
                remains.extend(cleared.or_exit(Exit::MountPoint, || {
                    format!("cannot clear the dead mount at {shown}")
                })?);
            }
            Some(entry) if entry.is_npyfs() => {
                return refuse(format!(
                    "{shown} already is a mount of {}: end it with npyfs umount",
                    entry.store().display()
                ));
            }
            _ => break,
        }
    }
    if !mountpoint.is_dir() {
        return refuse(format!("{shown} is not a directory"));
    }
    Ok((mountpoint, remains))
}

/// Says so, in the log and to the user who mounts, where users whom the mount lets in can also go to the
/// store itself.
fn warn_if_exposed(plan: &Plan, is_seen: bool) {
    let others = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits != 0)
    };
    let store = &plan.store;
    let reachable = store.ancestors().skip(1).all(|above| others(above, 0o001));
    if !plan.flags.allow_other || !reachable || !others(store, 0o005) {
        return;
    }
    let warning = format!(
        "other users can reach the store {} without the mount: put it into a directory of mode 0700",
        store.display()
    );
    log::warn!("{warning}");
    if !is_seen {
        crate::output::warn(&warning);
    }
}

/// A store must not be seen through its own mount, nor hidden by it.
fn check_apart(store: &Path, mountpoint: &Path) -> Result<(), Failure> {
    let (shown, at) = (store.display(), mountpoint.display());
    let why = if store == mountpoint {
        format!("the store and the mount point are the same directory, {shown}")
    } else if store.starts_with(mountpoint) {
        format!("the store {shown} is inside the mount point {at}: the mount would hide it")
    } else if mountpoint.starts_with(store) {
        format!("the mount point {at} is inside the store {shown}: it would be a dataset of itself")
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::MountPoint, why))
}
