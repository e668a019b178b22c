//! Which process holds a dataset's lock, told from `/proc`.
//!
//! A lock of an open file description belongs to no process, and the kernel names none for it; but
//! `fdinfo` shows it with each descriptor of that description. What cannot be seen is told as that: the
//! descriptors of another user's process, and processes of other pid namespaces and hosts.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::proc;
use crate::proc::{Mount, Process};

/// Processes are looked at for no longer than that: there may be very many.
const PATIENCE: Duration = Duration::from_millis(500);

/// A file that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locked {
    pub(crate) inode: u64,
    /// The number of the mount that it was opened in.
    pub(crate) mount: Option<u64>,
}

/// What holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A daemon, and its mount.
    Daemon(u32, Box<Mount>),
    /// A daemon of which no mount is seen: it ends, or serves what is still open.
    Parted(u32),
    /// Another process, by its name.
    Process(u32, String),
    /// This one.
    Itself,
    /// None that is seen from here.
    Unseen,
}

impl Holder {
    /// Looks for what holds the lock on a file.
    pub(crate) fn find(locked: Locked) -> Self {
        match look(locked) {
            Ok(Some(holder)) => holder,
            Ok(None) => Holder::Unseen,
            Err(error) => {
                log::debug!("/proc does not say what holds a lock: {error}");
                Holder::Unseen
            }
        }
    }

    /// Whether it may be about to let go.
    pub(crate) fn may_be_ending(&self) -> bool {
        match self {
            Holder::Parted(_) | Holder::Unseen => true,
            // Its mount may be gone since it was found.
            Holder::Daemon(process, mount) => Process(*process)
                .mounts()
                .is_ok_and(|now| !now.contains(mount)),
            Holder::Process(..) | Holder::Itself => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Daemon(process, mount) => {
                let at = mount.mountpoint.display();
                write!(f, "npyfs (pid {process}, mounted at {at})")
            }
            Holder::Parted(process) => {
                write!(f, "npyfs (pid {process}, whose mount is not seen)")
            }
            Holder::Process(process, name) => write!(f, "{name} (pid {process})"),
            Holder::Itself => write!(f, "this process, which has opened it twice"),
            Holder::Unseen => write!(f, "another process that cannot be seen from here"),
        }
    }
}

fn look(locked: Locked) -> io::Result<Option<Holder>> {
    let own = Process(std::process::id());
    let device = own.mounts()?.into_iter().find_map(|mount| {
        let is_it = Some(mount.id) == locked.mount;
        is_it.then_some(mount.device)
    });
    let holds = |process: &Process| {
        let found = process.find_descriptor(|info| {
            let mut locks = proc::fields(info, "lock");
            let is_it = |lock: &str| is_lock_on(lock, locked.inode, device.as_deref());
            locks.any(is_it).then_some(())
        });
        // Those of another user may not be seen, and one that has ended has none.
        found.is_ok_and(|found| found.is_some())
    };
    if holds(&own) {
        return Ok(Some(Holder::Itself));
    }
    let mut all = Process::all()?;
    // It is mostly one of ours.
    all.sort_by_cached_key(|process| !is_ours(&process.name()));
    let until = Instant::now() + PATIENCE;
    let mut in_time = all.iter().take_while(|_| Instant::now() < until);
    let found = in_time.find(|process| holds(process));
    Ok(found.map(|found| describe(*found, &all)))
}

/// Whether it is a daemon's lock on this file, of a filesystem with this number if that is known:
/// `1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF`.
fn is_lock_on(lock: &str, inode: u64, device: Option<&str>) -> bool {
    let mut words = lock.split_ascii_whitespace().skip(1);
    let what = (words.next(), words.next(), words.next());
    if what != (Some("OFDLCK"), Some("ADVISORY"), Some("WRITE")) {
        return false;
    }
    let mut place = words.nth(1).unwrap_or_default().split(':');
    let mut hex = || u32::from_str_radix(place.next()?, 16).ok();
    let Some((major, minor)) = hex().zip(hex()) else {
        return false;
    };
    let is_inode = place.next().and_then(|it| it.parse().ok()) == Some(inode);
    is_inode && device.is_none_or(|device| device == format!("{major}:{minor}"))
}

/// `all`: where other daemons are found.
fn describe(process: Process, all: &[Process]) -> Holder {
    let name = process.name();
    let command = command_of(process);
    if let Some(mount) = mount_of(process, all) {
        return Holder::Daemon(process.0, Box::new(mount));
    }
    match command.filter(|_| is_ours(&name)) {
        Some(command) if command == "mount" => Holder::Parted(process.0),
        Some(command) => Holder::Process(process.0, format!("{name} {command}")),
        None => Holder::Process(process.0, name),
    }
}

fn is_ours(name: &str) -> bool {
    matches!(name, "npyfs" | "mount.npyfs")
}

/// The mount that a daemon serves. A later one that has it too is the one that does: numbers of
/// filesystems that are gone are given again, and so are mount points.
fn mount_of(process: Process, all: &[Process]) -> Option<Mount> {
    let mut mounts = process.mounts().ok()?;
    mounts.retain(Mount::is_ours);
    let served = served_by(process);
    mounts.retain(|mount| served.is(mount));
    // Of two, either could be it.
    let mount = mounts.pop().filter(|_| mounts.is_empty())?;
    let started = process.started();
    let mut daemons = all.iter().filter(|it| is_ours(&it.name()));
    let is_later = |it: &&Process| it.started() > started && served_by(**it).is(&mount);
    daemons.find(is_later).is_none().then_some(mount)
}

/// What tells which mount a daemon serves.
enum Served {
    /// The number of the filesystem whose connection it has open.
    Device(String),
    /// Where the kernel does not tell: the words that it was started with.
    Words(Vec<Vec<u8>>),
}

impl Served {
    fn is(&self, mount: &Mount) -> bool {
        match self {
            Served::Device(device) => mount.device == *device,
            Served::Words(words) => words.iter().any(|word| {
                let word = Path::new(OsStr::from_bytes(word));
                let word = word.strip_prefix(".").unwrap_or(word);
                !word.as_os_str().is_empty() && mount.mountpoint.ends_with(word)
            }),
        }
    }
}

fn served_by(process: Process) -> Served {
    let number = |info: &[u8]| proc::field(info, "fuse_connection").map(str::to_owned);
    match process.find_descriptor(number) {
        Ok(Some(number)) => Served::Device(format!("0:{number}")),
        Ok(None) if is_ours(&process.name()) => Served::Words(words_of(process)),
        Ok(None) | Err(_) => Served::Words(Vec::new()),
    }
}

/// What a process was started with, without its own name.
fn words_of(process: Process) -> Vec<Vec<u8>> {
    let words = fs::read(process.path("cmdline")).unwrap_or_default();
    let words = words.split(|byte| *byte == 0).skip(1);
    words.map(<[u8]>::to_vec).collect()
}

/// The command that one of ours carries out.
fn command_of(process: Process) -> Option<String> {
    let words = words_of(process);
    let word = words.iter().find(|word| !word.starts_with(b"-"))?;
    let is_command = !word.is_empty() && word.iter().all(u8::is_ascii_lowercase);
    match is_command {
        true => String::from_utf8(word.clone()).ok(),
        // `mount.npyfs STORE MOUNTPOINT`
        false => Some("mount".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_its_number_or_by_the_words_that_its_daemon_was_started_with() {
        let line = b"61 29 0:53 / /mnt/a rw - fuse.npyfs /store rw";
        let mount = Mount::parse(line).unwrap();
        assert!(Served::Device("0:53".into()).is(&mount));
        assert!(!Served::Device("0:54".into()).is(&mount));
        for (word, is_it) in [
            ("/mnt/a", true),
            ("./a", true),
            ("mnt/a/", true),
            ("/a", false),
            ("b", false),
            ("", false),
            (".", false),
        ] {
            let words = vec![b"/store".to_vec(), word.as_bytes().to_vec()];
            assert_eq!(Served::Words(words).is(&mount), is_it, "{word}");
        }
    }

    #[test]
    fn a_daemons_lock_is_told_from_others() {
        let lock = "1: OFDLCK ADVISORY  WRITE -1 fe:0a:1234 0 EOF";
        assert!(is_lock_on(lock, 1234, Some("254:10")));
        assert!(is_lock_on(lock, 1234, None));
        assert!(!is_lock_on(lock, 1235, None));
        assert!(!is_lock_on(lock, 1234, Some("254:11")));
        for other in [
            "1: POSIX  ADVISORY  WRITE 77 fe:0a:1234 0 EOF",
            "1: OFDLCK ADVISORY  READ -1 fe:0a:1234 0 EOF",
            "1: OFDLCK",
            "",
        ] {
            assert!(!is_lock_on(other, 1234, None), "{other}");
        }
    }
}
