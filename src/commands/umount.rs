//! `npyfs umount`: the mount is gone and its daemon has ended, or the reason why not.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use npyfs::sys::Process;

use crate::daemon::attach;
use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo::{self, Entry, State};

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
            return attach::unmount(&path, true).or_exit(Exit::Failed, || {
                format!("cannot clear the dead mount {shown}")
            });
        }
        State::Silent => return Err(Failure::new(Exit::Busy, mount.silence())),
        State::Served(pid) => pid.and_then(daemon_of),
    };
    match unmount_idle(&path) {
        Ok(()) => {}
        Err(error) if error.errno() == Errno::EBUSY => {
            return Err(Failure::new(
                Exit::Busy,
                format!(
                    "{shown} is in use{}: close what is open on it first",
                    users(&path)
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
    let Some((pid, process)) = daemon else {
        return Ok(());
    };
    let ended = process
        .wait(PATIENCE)
        .or_exit(Exit::Failed, || format!("cannot wait for process {pid}"))?;
    if ended {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Busy,
        format!("{shown} is unmounted, but its daemon (process {pid}) still runs"),
    ))
}

/// Unmounts, unless it stays in use: what has just been closed may be held for a moment more.
fn unmount_idle(path: &Path) -> npyfs::Result<()> {
    for _ in 0..20 {
        match attach::unmount(path, false) {
            Err(error) if error.errno() == Errno::EBUSY => sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    attach::unmount(path, false)
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

/// ` by python3 (123), bash (99)`: who has something open below `path`, as far as we may see.
fn users(path: &Path) -> String {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let proc = process.path();
        let number = process.file_name();
        let numeric = number.to_str().is_some_and(|name| {
            name.parse::<u32>()
                .is_ok_and(|pid| pid != std::process::id())
        });
        if numeric && uses(&proc, path) {
            let name = fs::read_to_string(proc.join("comm")).unwrap_or_default();
            found.push(format!("{} ({})", name.trim(), number.display()));
        }
    }
    match found.len() {
        0 => String::new(),
        1..=4 => format!(" by {}", found.join(", ")),
        more => format!(" by {} and {} more", found[..4].join(", "), more - 4),
    }
}

/// Whether a process stands in, or has open, something below `path`.
fn uses(proc: &Path, path: &Path) -> bool {
    let below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    below(&proc.join("cwd"))
        || below(&proc.join("root"))
        || fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|descriptor| below(&descriptor.path()))
        || fs::read(proc.join("maps")).is_ok_and(|maps| {
            let needle = [path.as_os_str().as_encoded_bytes(), b"/"].concat();
            maps.windows(needle.len()).any(|window| window == needle)
        })
}
