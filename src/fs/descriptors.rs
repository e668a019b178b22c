//! Which descriptors of a chunk are left when one of them is closed, told from `/proc`.
//!
//! The kernel says which thread closes, and nothing of the other descriptors: duplicates, copies
//! that a fork left, descriptors that were passed on. They are looked for by inode number in
//! `fdinfo`. Nothing else of a process is looked at that might wait ([`crate::proc`]).
//!
//! Tables are read one after the other. A descriptor that is given another number meanwhile, or to
//! another process, can be missed in both: each look that finds nothing is followed by a second one,
//! and by more as long as closes of the same handle come meanwhile.
//!
//! What cannot be seen counts as open: the closing thread is in another pid namespace, `/proc` shows
//! another one or hides processes, a descriptor is under way in a socket. A process of another user
//! whose descriptors an unprivileged daemon may not see counts where it can have inherited one: it
//! opened the chunk, descends from a process that opened or closes it, or stands between the two.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dataset::Descriptors;
use crate::proc::{self, Process, find_in_table, is_gone, unescape};
use crate::wait;

/// Flags of an open that `fcntl` does not change: a duplicate has them as the original has.
const LASTING: i32 = libc::O_ACCMODE | libc::O_NOFOLLOW | libc::O_SYNC;

/// Ancestors further up than this are not followed.
const DEEPEST: usize = 64;

/// A chunk whose descriptors are still moved after so many looks counts as open.
const LOOKS: usize = 16;

/// A close of one descriptor of a handle.
#[derive(Debug)]
pub(super) struct Closing<'a> {
    /// `major:minor` of the mount, if it is known.
    pub(super) device: Option<&'a str>,
    /// The chunk's inode number.
    pub(super) ino: u64,
    /// The name that the kernel has for it.
    pub(super) name: &'a OsStr,
    /// The flags that the handle was opened with.
    pub(super) flags: i32,
    /// The thread that opened the handle; 0 where it is in another pid namespace.
    pub(super) opener: u32,
    /// The thread that closes, likewise.
    pub(super) closer: u32,
    /// How many closes of the handle have come.
    pub(super) closes: &'a AtomicU64,
}

impl Descriptors for Closing<'_> {
    fn others_can_write(&self) -> bool {
        wait::waits_here();
        if self.closer == 0 || !proc::is_ours() {
            return true;
        }
        self.look_until_still().unwrap_or_else(|error| {
            log::debug!(
                "/proc does not say who has {}: {error}",
                self.name.display()
            );
            true
        })
    }

    /// The memory of a thread is given up before its descriptors are closed for it.
    fn is_meant(&self) -> bool {
        self.closer != 0
            && proc::is_ours()
            && fs::read_to_string(format!("/proc/{}/status", self.closer))
                .is_ok_and(|status| status.lines().any(|line| line.starts_with("VmSize:")))
    }
}

impl Closing<'_> {
    /// Who moves a descriptor closes the old one and waits for our answer, before it can move another
    /// one: after two looks without a close none was missed.
    fn look_until_still(&self) -> io::Result<bool> {
        for _ in 0..LOOKS / 2 {
            let closes = self.closes.load(Ordering::Acquire);
            if self.look()? || self.look()? {
                return Ok(true);
            }
            if self.closes.load(Ordering::Acquire) == closes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look(&self) -> io::Result<bool> {
        let own = std::process::id();
        let closer = Status::of(self.closer)?;
        if self.in_process(closer.group)? {
            return Ok(true);
        }
        let opener = Status::of(self.opener).map_or(self.opener, |status| status.group);
        let above = ancestors(closer.parent);
        let mut looked = HashSet::from([closer.group, own]);
        // Mostly the process that started the closing one has it, or the one that opened it.
        for &near in above.iter().chain([&opener]) {
            if looked.insert(near) && self.in_other(near, opener, closer.group, &above)? {
                return Ok(true);
            }
            if near == opener {
                break;
            }
        }
        for Process(process) in Process::all()? {
            if looked.insert(process) && self.in_other(process, opener, closer.group, &above)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn in_other(&self, process: u32, opener: u32, closer: u32, above: &[u32]) -> io::Result<bool> {
        match self.in_process(process) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let between = above.contains(&opener)
                    && above
                        .iter()
                        .take_while(|&&it| it != opener)
                        .any(|&it| it == process);
                let descends = || {
                    ancestors(process)
                        .iter()
                        .any(|&it| it == opener || it == closer)
                };
                Ok(process == opener || between || descends())
            }
            other => other,
        }
    }

    /// Whether a process has a descriptor of the chunk that can write it. One that is gone has none.
    fn in_process(&self, process: u32) -> io::Result<bool> {
        match self.in_table(&format!("/proc/{process}/fdinfo")) {
            Err(error) if is_gone(&error) => return Ok(false),
            Ok(true) => return Ok(true),
            other => other?,
        };
        let task = format!("/proc/{process}/task");
        // Two links, and one for each thread: most have one, and then the listing is saved.
        if fs::metadata(&task).is_ok_and(|it| it.nlink() == 3) {
            return Ok(false);
        }
        let threads = match fs::read_dir(task) {
            Err(error) if is_gone(&error) => return Ok(false),
            other => other?,
        };
        // A thread may have a table of its own; most share one.
        for thread in threads {
            let Ok(thread) = thread else { continue };
            let Some(thread) = thread.file_name().to_str().and_then(|it| it.parse().ok()) else {
                continue;
            };
            if thread == process || crate::sys::share_descriptors(process, thread) == Some(true) {
                continue;
            }
            match self.in_table(&format!("/proc/{process}/task/{thread}/fdinfo")) {
                Err(error) if is_gone(&error) => {}
                Ok(false) => {}
                other => return other,
            }
        }
        Ok(false)
    }

    /// Whether a table of descriptors has one of the chunk.
    fn in_table(&self, table: &str) -> io::Result<bool> {
        let is_one = |info: &[u8]| self.is_one(info, table).then_some(());
        Ok(find_in_table(Path::new(table), is_one)?.is_some())
    }

    fn is_one(&self, text: &[u8], table: &str) -> bool {
        let Some(info) = Info::parse(text) else {
            return false;
        };
        if info.under_way > 0 || info.registered.iter().any(|path| self.is_path(path)) {
            return true;
        }
        info.flags & LASTING == self.flags & LASTING
            && info.ino.is_none_or(|ino| ino == self.ino)
            && self.is_device(table, info.mount)
    }

    fn is_path(&self, path: &Path) -> bool {
        path.file_name() == Some(self.name)
    }

    /// Whether a mount, as a process numbers it, is of our filesystem. Inode numbers of others may be
    /// the same as ours.
    fn is_device(&self, table: &str, mount: u64) -> bool {
        let Some(device) = self.device else {
            return true;
        };
        let mounts = Path::new(table).with_file_name("mountinfo");
        let Ok(mounts) = fs::read(mounts) else {
            return true;
        };
        let mut known = mounts.split(|&byte| byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let id: u64 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            let device = fields.nth(1)?;
            (id == mount).then_some(device)
        });
        // A mount of another namespace is in no table that can be seen from here.
        known.next().is_none_or(|found| found == device.as_bytes())
    }
}

/// A thread's process and that one's parent.
struct Status {
    group: u32,
    parent: u32,
}

impl Status {
    fn of(thread: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|value| value.trim().parse().ok())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
        };
        Ok(Self {
            group: number("Tgid:")?,
            parent: number("PPid:")?,
        })
    }
}

/// A process and those above it, as far as they can be seen.
fn ancestors(process: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = process;
    while next != 0 && found.len() < DEEPEST {
        found.push(next);
        next = Status::of(next).map_or(0, |status| status.parent);
    }
    found
}

/// What `fdinfo` says of a descriptor.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    flags: i32,
    mount: u64,
    /// Since Linux 5.14.
    ino: Option<u64>,
    /// Of a socket: how many descriptors are under way in it.
    under_way: u64,
    /// Of an io_uring: the files that it holds by itself.
    registered: Vec<std::path::PathBuf>,
}

impl Info {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut info = Self::default();
        let mut registered = 0_u64;
        for line in text.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                continue;
            };
            let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
            match key {
                b"flags" => {
                    let digits = std::str::from_utf8(value).ok()?;
                    info.flags = i32::from_str_radix(digits, 8).ok()?;
                }
                b"mnt_id" => info.mount = number()?,
                b"ino" => info.ino = number(),
                b"scm_fds" => info.under_way = number()?,
                b"UserFiles" => registered = number()?,
                b"UserBufs" => registered = 0,
                _ if registered > 0 && key.trim_ascii().iter().all(u8::is_ascii_digit) => {
                    info.registered.push(unescape(value).into());
                }
                _ => {}
            }
        }
        Some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::OpenOptionsExt;

    static CLOSES: AtomicU64 = AtomicU64::new(0);

    fn closing<'a>(file: &File, name: &'a OsStr, flags: i32) -> Closing<'a> {
        Closing {
            device: None,
            ino: file.metadata().unwrap().ino(),
            name,
            flags,
            opener: std::process::id(),
            closer: nix::unistd::gettid().as_raw().cast_unsigned(),
            closes: &CLOSES,
        }
    }

    #[test]
    fn a_descriptor_is_found_by_its_inode_in_the_process_that_closes() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("x.npy");
        let path = dir.path().join(name);
        let file = File::create(&path).unwrap();
        let one = closing(&file, name, libc::O_WRONLY);
        let mine = |it: &Closing<'_>| it.in_process(std::process::id()).unwrap();
        assert!(mine(&one));
        // Those that read cannot write, and those of another kind of open are of another handle.
        assert!(!mine(&Closing {
            flags: libc::O_RDWR,
            ..one
        }));
        let one = closing(&file, name, libc::O_WRONLY);
        let other = File::options()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .unwrap();
        drop(file);
        assert!(!mine(&one));
        assert!(mine(&closing(
            &other,
            name,
            libc::O_WRONLY | libc::O_NOFOLLOW
        )));
    }

    #[test]
    fn a_descriptor_is_found_in_another_process_and_is_gone_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("x.npy");
        let file = File::create(dir.path().join(name)).unwrap();
        let one = closing(&file, name, libc::O_WRONLY);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdout(file)
            .spawn()
            .unwrap();
        assert!(one.others_can_write());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!one.in_process(std::process::id()).unwrap());
        assert!(one.is_meant());
    }

    #[test]
    fn what_cannot_be_seen_counts_as_open() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("x.npy");
        let file = File::create(dir.path().join(name)).unwrap();
        let one = closing(&file, name, libc::O_RDWR);
        let unseen = Closing { closer: 0, ..one };
        assert!(unseen.others_can_write() && !unseen.is_meant());
    }

    #[test]
    fn fdinfo_tells_of_sockets_and_rings_too() {
        let plain = b"pos:\t0\nflags:\t0100001\nmnt_id:\t27\nino:\t77\n";
        let info = Info::parse(plain).unwrap();
        assert_eq!(
            (info.flags & libc::O_ACCMODE, info.mount, info.ino),
            (1, 27, Some(77))
        );
        let socket = b"pos:\t0\nflags:\t02\nmnt_id:\t10\nino:\t5\nscm_fds: 2\n";
        assert_eq!(Info::parse(socket).unwrap().under_way, 2);
        let ring = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nSqMask:\t0x7\nUserFiles:\t2\n    0: /m/a\\040b.npy\n    1: /m/c.npy\nUserBufs:\t1\n    0: 4096\nPollList:\n";
        let paths = Info::parse(ring).unwrap().registered;
        assert_eq!(paths, [Path::new("/m/a b.npy"), Path::new("/m/c.npy")]);
    }
}
