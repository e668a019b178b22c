//! The mount itself: made, taken away, and never mistaken for another one at the same path.
//!
//! A mount is ours while the kernel keeps our connection: as long as it does, no other filesystem
//! can have our device number, so the number in the table of mounts tells. Once the connection is
//! gone the number may be anyone's, and only a dead mount (`ENOTCONN`) is taken away.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};
use npyfs::fuse::LARGEST_READ;
use npyfs::proc::Mount;
use npyfs::{Error, err};

use super::Plan;
use crate::exit::{Exit, Failure};
use crate::mountinfo::{self, Entry};

const HELPER: &str = "fusermount3";

/// A mount of ours.
#[derive(Debug)]
pub(crate) struct Mounted {
    mountpoint: std::path::PathBuf,
    /// `None` where the mount was gone again before it could be looked up.
    entry: Option<Entry>,
    /// Watches the connection; requests are read elsewhere.
    connection: OwnedFd,
}

impl Mounted {
    /// Mounts, as root by the system call, else by `fusermount3`. The descriptor speaks FUSE and
    /// has not been spoken to.
    pub(crate) fn new(plan: &Plan) -> Result<(OwnedFd, Self), Failure> {
        let fail = |error: Error| {
            let at = plan.mountpoint.display();
            Failure::new(Exit::Mount, format!("cannot mount at {at}: {error}"))
        };
        let device = match mount_by_call(plan) {
            Err(error) if error.errno() == Errno::EPERM => mount_by_helper(plan),
            other => other,
        }
        .map_err(fail)?;
        let watched = device
            .try_clone()
            .map_err(|error| err!(EMFILE, "cannot watch the connection: {error}"));
        let entry = mountinfo::at(&plan.mountpoint)
            .map_err(|error| err!(EIO, "cannot read the table of mounts: {error}"));
        match (watched, entry) {
            (Ok(connection), Ok(entry)) => {
                let mounted = Self {
                    mountpoint: plan.mountpoint.clone(),
                    entry: entry.filter(Entry::is_npyfs),
                    connection,
                };
                Ok((device, mounted))
            }
            (Err(error), _) | (_, Err(error)) => {
                if let Err(left) = unmount(&plan.mountpoint, true) {
                    log::error!("a mount is left behind: {left}");
                }
                Err(fail(error))
            }
        }
    }

    /// Its device number as `major:minor`, if it is known.
    pub(crate) fn device(&self) -> Option<String> {
        self.entry.as_ref().map(|entry| entry.device.clone())
    }

    /// Whether it is in this table, wherever it was moved to.
    pub(super) fn is_in(&self, table: &[Entry]) -> bool {
        let ours = self.entry.as_ref();
        ours.is_some_and(|ours| table.iter().any(|entry| entry.is_same(ours)))
    }

    /// Takes the mount out of sight; what is open on it goes on until it is closed. False where
    /// there was nothing of ours to take.
    ///
    /// # Errors
    /// `EBUSY` where another filesystem is mounted over ours, else as umount2(2).
    pub(crate) fn detach(&self) -> npyfs::Result<bool> {
        let table =
            mountinfo::read().map_err(|error| err!(EIO, "cannot read the mounts: {error}"))?;
        if !self.is_connected() || self.entry.is_none() {
            return Ok(false);
        }
        let here = |entry: &Entry| entry.mountpoint == self.mountpoint && self.has_device_of(entry);
        if !table.iter().any(here) {
            return Ok(false);
        }
        let top = mountinfo::at(&self.mountpoint)
            .map_err(|error| err!(EIO, "cannot read the mounts: {error}"))?;
        match top {
            Some(entry) if here(&entry) => unmount(&self.mountpoint, true).map(|()| true),
            Some(entry) => Err(err!(
                EBUSY,
                "a filesystem of type {} is mounted over it",
                entry.fstype
            )),
            None => Ok(false),
        }
    }

    /// After the session: takes away what an aborted connection or a failed start left.
    pub(crate) fn clean_up(&self) {
        let swept = if self.is_connected() {
            self.detach()
        } else {
            self.remove_dead()
        };
        match swept {
            Ok(false) => {}
            Ok(true) => log::warn!("unmounted {}, which was left", self.mountpoint.display()),
            Err(error) => log::error!("cannot unmount {}: {error}", self.mountpoint.display()),
        }
    }

    fn remove_dead(&self) -> npyfs::Result<bool> {
        let entry = mountinfo::at(&self.mountpoint)
            .map_err(|error| err!(EIO, "cannot read the mounts: {error}"))?;
        let ours = entry.is_some_and(|it| it.is_npyfs() && self.has_device_of(&it));
        if ours && mountinfo::is_dead(&self.mountpoint) {
            return unmount(&self.mountpoint, true).map(|()| true);
        }
        Ok(false)
    }

    fn has_device_of(&self, entry: &Entry) -> bool {
        let ours = self.entry.as_ref();
        ours.is_some_and(|ours| ours.device == entry.device)
    }

    fn is_connected(&self) -> bool {
        let mut polled = [PollFd::new(self.connection.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(_) => !polled[0]
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLERR)),
            Err(_) => false,
        }
    }
}

/// `EPERM` where the helper should be asked.
fn mount_by_call(plan: &Plan) -> npyfs::Result<OwnedFd> {
    if !geteuid().is_root() {
        return Err(err!(EPERM, "only root may call mount(2)"));
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = device.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => err!(
            ENODEV,
            "this kernel has no FUSE: /dev/fuse is missing (modprobe fuse?)"
        ),
        code => Error::new(
            Errno::from_raw(code.unwrap_or(libc::EIO)),
            format!("cannot open /dev/fuse: {error}"),
        ),
    })?;
    let mode = std::fs::metadata(&plan.mountpoint)
        .map_err(|error| err!(EIO, "cannot look at the mount point: {error}"))?
        .mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions,max_read={LARGEST_READ}",
        device.as_raw_fd(),
        geteuid(),
        getegid(),
    );
    if plan.flags.allow_other {
        data.push_str(",allow_other");
    }
    for label in &plan.flags.labels {
        data.push(',');
        data.push_str(label);
    }
    let mut flags = MsFlags::MS_NOATIME;
    flags.set(MsFlags::MS_RDONLY, plan.flags.read_only);
    flags.set(MsFlags::MS_NOEXEC, plan.flags.no_exec);
    flags.set(MsFlags::MS_NOSUID, !plan.flags.suid);
    flags.set(MsFlags::MS_NODEV, !plan.flags.dev);
    mount(
        Some(plan.store.as_path()),
        &plan.mountpoint,
        Some(Mount::FSTYPE),
        flags,
        Some(data.as_str()),
    )
    .map_err(|errno| {
        let mut why = format!("mount(2) failed: {}", errno.desc());
        if errno == Errno::EINVAL && !plan.flags.labels.is_empty() {
            let labels = plan.flags.labels.join(",");
            why.push_str(&format!(": no security module here takes {labels}"));
        }
        Error::new(errno, why)
    })?;
    Ok(device.into())
}

/// `fusermount3` mounts and sends the descriptor over the socket that is its standard input.
fn mount_by_helper(plan: &Plan) -> npyfs::Result<OwnedFd> {
    let mut options = OsString::from("default_permissions,noatime,subtype=npyfs");
    options.push(format!(",max_read={LARGEST_READ}"));
    for (set, word) in [
        (plan.flags.read_only, ",ro"),
        (plan.flags.no_exec, ",noexec"),
        (plan.flags.suid, ",suid"),
        (plan.flags.dev, ",dev"),
        (plan.flags.allow_other, ",allow_other"),
    ] {
        if set {
            options.push(word);
        }
    }
    for label in &plan.flags.labels {
        options.push(",");
        options.push(label);
    }
    options.push(",fsname=");
    options.push(mountinfo::escape_commas(plan.store.as_os_str()));
    let io = |error: io::Error| err!(EIO, "cannot talk to {HELPER}: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    let helper = Command::new(HELPER)
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(&plan.mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing_helper(&error))?;
    // The command is gone and with it our copy of its end: the wait ends when the helper does.
    let received = npyfs::sys::receive_descriptor(&ours);
    drop(ours);
    let output = helper.wait_with_output().map_err(io)?;
    match received {
        Ok(Some(device)) => Ok(device),
        _ => Err(err!(EPERM, "{}", said(&output.stderr))),
    }
}

/// Unmounts the topmost filesystem at `path`, as root by the system call, else by `fusermount3`.
/// Where `lazily`, at once, also where it is in use.
///
/// # Errors
/// `EBUSY` where it is in use; else as umount2(2), or what `fusermount3` said.
pub(crate) fn unmount(path: &Path, lazily: bool) -> npyfs::Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazily);
    match umount2(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => unmount_by_helper(path, lazily),
        Err(errno) => Err(Error::new(errno, errno.desc())),
    }
}

/// What a dead mount leaves to the kernel: dropping it may take a second for each million files.
#[derive(Debug)]
pub(crate) struct DetachedMount {
    _root: OwnedFd,
}

/// Takes a dead mount out of sight. Its inodes go with what this answers, so that no process waits for
/// that before there is a new mount; `None` where they are gone already.
///
/// # Errors
/// As those of [`unmount`].
pub(crate) fn clear(path: &Path) -> npyfs::Result<Option<DetachedMount>> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty());
    unmount(path, true)?;
    Ok(root.ok().map(|_root| DetachedMount { _root }))
}

fn unmount_by_helper(path: &Path, lazily: bool) -> npyfs::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    // Its messages are matched below.
    let output = command.arg("--").arg(path).env("LC_ALL", "C").output();
    let output = output.map_err(|error| missing_helper(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output.stderr);
    if said.contains("resource busy") {
        return Err(err!(EBUSY, "{said}"));
    }
    Err(err!(EPERM, "{said}"))
}

fn missing_helper(error: &io::Error) -> Error {
    err!(
        EPERM,
        "only root may mount and unmount without {HELPER}, which cannot be run: {error}"
    )
}

/// The helper's words on one line.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.is_empty() {
        return format!("{HELPER} failed without a word");
    }
    text.lines().collect::<Vec<_>>().join("; ")
}
