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
        let processes = processes()?;
        let mut told = HashSet::new();
        for process in &processes {
            let uses = process.uses(mount.id());
            if !uses.is_empty() {
                told.insert(process.number);
                process.tell(pipe, &uses.join(", "))?;
            }
        }
        // Last, since the table of a process that changes it waits for that.
        for process in &processes {
            if !told.contains(&process.number) && process.maps(&mount.device) {
                process.tell(pipe, "mapping")?;
            }
        }
        Ok(())
    })
}

/// The other mounts of a filesystem, here and in the mount namespaces of other processes, as is found
/// within `patience`.
pub(crate) fn other_mounts(device: &str, patience: Duration) -> io::Result<Vec<String>> {
    found(patience, |pipe| {
        let ours = mountinfo::read()?;
        let mut known = HashSet::new();
        for mount in ours.iter().filter(|mount| mount.device == device) {
            known.insert(mount.id());
            writeln!(pipe, "the mount at {}", mount.mountpoint.display())?;
        }
        let mut namespaces: HashSet<PathBuf> =
            fs::read_link("/proc/self/ns/mnt").into_iter().collect();
        for process in processes()? {
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
                        "the mount at {} in the mount namespace of {}",
                        mount.mountpoint.display(),
                        process.shown("")
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

struct Process {
    number: u32,
}

/// All but the one that looks and the one that it looks for.
fn processes() -> io::Result<Vec<Process>> {
    let own = [
        std::process::id(),
        nix::unistd::getppid().as_raw().cast_unsigned(),
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let number = entry?.file_name().to_str().and_then(|it| it.parse().ok());
        if let Some(number) = number.filter(|it| !own.contains(it)) {
            found.push(Process { number });
        }
    }
    Ok(found)
}

impl Process {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.number.to_string()).join(name)
    }

    fn shown(&self, what: &str) -> String {
        let name = fs::read_to_string(self.path("comm")).unwrap_or_default();
        // A name may have any byte but NUL.
        let name = name.trim_end_matches('\n').escape_default();
        let comma = if what.is_empty() { "" } else { ", " };
        format!("{name} ({}{comma}{what})", self.number)
    }

    fn tell(&self, pipe: &mut fs::File, what: &str) -> io::Result<()> {
        writeln!(pipe, "{}", self.shown(what))
    }

    /// How it uses the mount of this number, but for mappings.
    fn uses(&self, mount: u64) -> Vec<&'static str> {
        let mut uses = Vec::new();
        let infos = fs::read_dir(self.path("fdinfo"));
        let has_it = |info: fs::DirEntry| {
            fs::read(info.path()).is_ok_and(|info| mount_in(&info) == Some(mount))
        };
        if infos.into_iter().flatten().flatten().any(has_it) {
            uses.push("open file");
        }
        for (link, what) in [("cwd", "working directory"), ("root", "root directory")] {
            if mount_of(&self.path(link)) == Some(mount) {
                uses.push(what);
            }
        }
        uses
    }

    /// Whether it has mapped a file of the filesystem with this device number.
    fn maps(&self, device: &str) -> bool {
        let Some((major, minor)) = device.split_once(':') else {
            return false;
        };
        let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
            return false;
        };
        let device = format!("{major:02x}:{minor:02x}");
        let maps = fs::read(self.path("maps")).unwrap_or_default();
        // `ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH`
        maps.split(|byte| *byte == b'\n').any(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            fields.nth(3) == Some(device.as_bytes())
        })
    }
}

/// The number of the mount that a link of `/proc` leads to. What it leads to is not asked.
fn mount_of(link: &Path) -> Option<u64> {
    let there = open(link, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    mount_in(&fs::read(format!("/proc/self/fdinfo/{}", there.as_raw_fd())).ok()?)
}

fn mount_in(fdinfo: &[u8]) -> Option<u64> {
    let mut lines = fdinfo.split(|byte| *byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    std::str::from_utf8(number).ok()?.trim().parse().ok()
}
