//! What holds a mount, told from `/proc` without touching the mount: processes that have something of
//! it open or stand in it, what is mounted in it, and other mounts of the same filesystem.
//!
//! A process may keep its tables to itself while it waits for that mount, so another process looks,
//! and what it has not found in time is not told.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use npyfs::proc::{Process, field};

use crate::asking::ask;
use crate::mountinfo::{self, Entry};

/// How many are told by name.
const TOLD: usize = 4;

/// `NAME (NUMBER, open file)` for each process that keeps this mount from being unmounted, and what is
/// mounted in it, as far as this process may see and as is found within `patience`.
pub(crate) fn users(mount: &Entry, patience: Duration) -> io::Result<Vec<String>> {
    found(patience, |pipe| {
        for inner in mountinfo::read()?.iter().filter(|it| it.is_on(mount)) {
            let at = inner.mountpoint.display();
            writeln!(pipe, "the mount of type {} at {at}", inner.fstype)?;
        }
        let processes = others()?;
        let mut told = HashSet::new();
        for &process in &processes {
            let uses = uses(process, mount.id());
            if !uses.is_empty() {
                told.insert(process);
                writeln!(pipe, "{}", shown(process, &uses.join(", ")))?;
            }
        }
        // Last, since the table of a process that changes it waits for that.
        for &process in &processes {
            if !told.contains(&process) && maps(process, &mount.device) {
                writeln!(pipe, "{}", shown(process, "mapping"))?;
            }
        }
        Ok(())
    })
}

/// What begins the lines of mounts that other namespaces have.
const ELSEWHERE: char = '+';

/// The mounts that a filesystem still has.
#[derive(Debug, Default)]
pub(crate) struct OtherMounts {
    /// Those that this process sees.
    pub(crate) here: Vec<String>,
    /// Those in the mount namespaces of other processes.
    pub(crate) elsewhere: Vec<String>,
}

/// The other mounts of a filesystem, as is found within `patience`.
pub(crate) fn other_mounts(device: &str, patience: Duration) -> io::Result<OtherMounts> {
    let mut others = OtherMounts::default();
    for line in other_mounts_told(device, patience)? {
        match line.strip_prefix(ELSEWHERE) {
            Some(elsewhere) => others.elsewhere.push(elsewhere.to_owned()),
            None => others.here.push(line),
        }
    }
    Ok(others)
}

fn other_mounts_told(device: &str, patience: Duration) -> io::Result<Vec<String>> {
    found(patience, |pipe| {
        let ours = mountinfo::read()?;
        let mut known = HashSet::new();
        for mount in ours.iter().filter(|mount| mount.device == device) {
            known.insert(mount.id());
            writeln!(pipe, "the mount at {}", mount.mountpoint.display())?;
        }
        let mut namespaces: HashSet<PathBuf> =
            fs::read_link("/proc/self/ns/mnt").into_iter().collect();
        for process in others()? {
            if fs::read_link(process.path("ns/mnt")).is_ok_and(|it| !namespaces.insert(it)) {
                continue;
            }
            // It has ended.
            let Ok(table) = mountinfo::read_from(&process.path("mountinfo")) else {
                continue;
            };
            for mount in table.iter().filter(|mount| mount.device == device) {
                if known.insert(mount.id()) {
                    writeln!(
                        pipe,
                        "{ELSEWHERE}the mount at {} in the mount namespace of {}",
                        mount.mountpoint.display(),
                        shown(process, "")
                    )?;
                }
            }
        }
        Ok(())
    })
}

/// `a, b and 3 more`.
pub(crate) fn list(found: &[String]) -> String {
    match found.len() {
        0..=TOLD => found.join(", "),
        more => format!("{} and {} more", found[..TOLD].join(", "), more - TOLD),
    }
}

/// The lines that a child process writes until then.
fn found(
    patience: Duration,
    look: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    let mut asked = ask(look)?;
    let mut lines = Vec::new();
    loop {
        match asked.line(deadline) {
            Ok(Some(line)) => lines.push(String::from_utf8_lossy(&line).into_owned()),
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            Ok(None) | Err(_) => return Ok(lines),
        }
    }
}

/// All but the one that looks and the one that it looks for.
fn others() -> io::Result<Vec<Process>> {
    let own = [
        std::process::id(),
        nix::unistd::getppid().as_raw().cast_unsigned(),
    ];
    let mut all = Process::all()?;
    all.retain(|process| !own.contains(&process.0));
    Ok(all)
}

fn shown(process: Process, what: &str) -> String {
    let comma = if what.is_empty() { "" } else { ", " };
    format!("{} ({}{comma}{what})", process.name(), process.0)
}

/// How a process uses the mount of this number, but for mappings.
fn uses(process: Process, mount: u64) -> Vec<&'static str> {
    let mut uses = Vec::new();
    let has_it = process.find_descriptor(|info| (mount_in(info) == Some(mount)).then_some(()));
    if has_it.is_ok_and(|it| it.is_some()) {
        uses.push("open file");
    }
    for (link, what) in [("cwd", "working directory"), ("root", "root directory")] {
        if mount_of(&process.path(link)) == Some(mount) {
            uses.push(what);
        }
    }
    uses
}

/// Whether a process has mapped a file of the filesystem with this device number.
fn maps(process: Process, device: &str) -> bool {
    let Some((major, minor)) = device.split_once(':') else {
        return false;
    };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return false;
    };
    let device = format!("{major:02x}:{minor:02x}");
    let maps = fs::read(process.path("maps")).unwrap_or_default();
    // `ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH`
    maps.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        fields.nth(3) == Some(device.as_bytes())
    })
}

/// The number of the mount that a link of `/proc` leads to. What it leads to is not asked.
fn mount_of(link: &Path) -> Option<u64> {
    let there = open(link, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    mount_in(&fs::read(format!("/proc/self/fdinfo/{}", there.as_raw_fd())).ok()?)
}

fn mount_in(fdinfo: &[u8]) -> Option<u64> {
    field(fdinfo, "mnt_id")?.parse().ok()
}
