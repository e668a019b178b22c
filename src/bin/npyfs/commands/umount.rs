//! `npyfs umount`: the mount is gone and its daemon has ended, or the reason why not.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use npyfs::sys::Process;

use super::holders;
use crate::daemon::mounting;
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo::{self, Entry, State};

/// How long it takes at most to say what holds the mount, and before that, to wait for the daemon.
const HASTE: Duration = Duration::from_millis(900);

/// How long the mount may be in another mount namespace: one that a service or a container is begun
/// with has all mounts there are, until what begins it has let go of them.
const PASSING: Duration = Duration::from_secs(2);

/// How often it is looked for there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A daemon syncs and closes its datasets when its mount is gone; a full disk cache takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The mount point
    mountpoint: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shown = args.mountpoint.display();
    let path = super::canonical(&args.mountpoint, Exit::NotMounted)?;
    let mount = check_ours(&path)?;
    let state = mountinfo::state(&path);
    let daemon = match state.or_exit(Exit::Failed, || format!("cannot ask {shown}"))? {
        State::Dead => {
            return mounting::unmount(&path, true).or_exit(Exit::Failed, || {
                format!("cannot clear the dead mount {shown}")
            });
        }
        State::Silent => return Err(Failure::new(Exit::Busy, mount.silence())),
        State::Served(pid) => pid.and_then(daemon_of),
    };
    // Asked while the daemon still answers. A daemon that was there before this question was, or one
    // that another user may not ask, says nothing.
    let losses = losses_of(&path);
    match unmount_idle(&path) {
        Ok(()) => {}
        Err(error) if error.errno() == Errno::EBUSY => {
            return Err(Failure::new(
                Exit::Busy,
                format!(
                    "{shown} is in use{}: close what is open on it first",
                    users(&mount)
                ),
            ));
        }
        Err(error) => {
            return Err(Failure::new(
                Exit::Failed,
                format!("cannot unmount {shown}: {error}"),
            ));
        }
    }
    let unclean = || match losses {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!(
                "{shown} is unmounted; but files of {losses} datasets were replaced in the store while they were written: their logs say what became of the rows"
            ),
        )),
    };
    let Some((pid, process)) = daemon else {
        return unclean();
    };
    let cannot_wait = || format!("cannot wait for process {pid}");
    if process.wait(HASTE).or_exit(Exit::Failed, cannot_wait)? {
        return unclean();
    }
    let since = Instant::now();
    let others = loop {
        let others = holders::other_mounts(&mount.device, HASTE)
            .or_exit(Exit::Failed, || "cannot look for other mounts".into())?;
        if others.elsewhere.is_empty() || !others.here.is_empty() || since.elapsed() >= PASSING {
            break [others.here, others.elsewhere].concat();
        }
        if process
            .wait(LOOK_EVERY)
            .or_exit(Exit::Failed, cannot_wait)?
        {
            return unclean();
        }
    };
    let patience = if others.is_empty() {
        PATIENCE
    } else {
        Duration::ZERO
    };
    if process.wait(patience).or_exit(Exit::Failed, cannot_wait)? {
        return unclean();
    }
    let still = match others.len() {
        0 => "still runs".into(),
        _ => format!("serves {}", holders::list(&others)),
    };
    Err(Failure::new(
        Exit::Busy,
        format!("{shown} is unmounted, but its daemon (process {pid}) {still}"),
    ))
}

/// ` by python3 (123, open file), bash (99, working directory)`, as far as we may see.
fn users(mount: &Entry) -> String {
    match holders::users(mount, HASTE) {
        Ok(users) if users.is_empty() => String::new(),
        Ok(users) => format!(" by {}", holders::list(&users)),
        Err(error) => format!(" (by what cannot be seen: {error})"),
    }
}

/// How often files were replaced in the store of a mount, as its daemon says.
fn losses_of(path: &Path) -> u64 {
    let text = fs::read_to_string(path.join(".npyfs/losses"));
    let number = text.ok().and_then(|text| text.trim().parse().ok());
    number.unwrap_or(0)
}

/// Unmounts, unless it stays in use: what has just been closed may be held for a moment more.
fn unmount_idle(path: &Path) -> npyfs::Result<()> {
    for _ in 0..20 {
        match mounting::unmount(path, false) {
            Err(error) if error.errno() == Errno::EBUSY => sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    mounting::unmount(path, false)
}

fn check_ours(path: &Path) -> Result<Entry, Failure> {
    let table = "cannot read the table of mounts";
    let refuse = |why: String| Err(Failure::new(Exit::NotMounted, why));
    let shown = path.display();
    if let Some(entry) = mountinfo::at(path).or_exit(Exit::Failed, || table.into())? {
        if entry.is_npyfs() {
            return Ok(entry);
        }
        return refuse(format!(
            "{shown} is a mount of type {}, not of npyfs",
            entry.fstype
        ));
    }
    match mountinfo::containing(path).or_exit(Exit::Failed, || table.into())? {
        Some(entry) if entry.is_npyfs() => refuse(format!(
            "{shown} is inside the mount {}: unmount that",
            entry.mountpoint.display()
        )),
        _ => refuse(format!("{shown} is not a mount point")),
    }
}

/// The daemon, by the number that the mount itself tells. `None` where this process may not see it
/// (another PID namespace).
fn daemon_of(pid: i32) -> Option<(i32, Process)> {
    Some((pid, Process::open(pid).ok()?))
}
