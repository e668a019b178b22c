//! The system calls that need unsafe code, each behind a function that is safe to call.
//!
//! Everything else in the crate is denied `unsafe`; what nix and std offer safely is used from
//! there and does not pass through here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Once;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::ForkResult;

use crate::error::{Context, Result};

/// Forks this process, which must have one thread only.
///
/// # Errors
/// `EAGAIN` and `ENOMEM` of fork(2); `EBUSY` where a second thread exists, because the child
/// would inherit locks that no thread there can release.
pub fn fork() -> Result<ForkResult> {
    let threads = fs::read_dir("/proc/self/task")
        .context(|| "cannot count this process's threads".into())?
        .count();
    if threads != 1 {
        return Err(err!(EBUSY, "cannot fork a process of {threads} threads"));
    }
    // SAFETY: the only thread is this one, so no lock of the allocator or of another library is
    // held by a thread that the child will not have.
    unsafe { nix::unistd::fork() }.context(|| "cannot fork".into())
}

/// Sends a line to syslog, by syslog(3): it connects anew when what listens was started anew, which
/// libraries beside the C library's do not.
pub fn syslog(level: log::Level, text: &str) {
    static OPENED: Once = Once::new();
    let priority = match level {
        log::Level::Error => libc::LOG_ERR,
        log::Level::Warn => libc::LOG_WARNING,
        log::Level::Info => libc::LOG_INFO,
        log::Level::Debug | log::Level::Trace => libc::LOG_DEBUG,
    };
    // It ends where a C string does.
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // SAFETY: the name and the format are C strings that live for ever, and the format takes one C
    // string, which lives until the call returns. Both may be called by any thread.
    unsafe {
        OPENED.call_once(|| libc::openlog(c"npyfs".as_ptr(), libc::LOG_PID, libc::LOG_DAEMON));
        libc::syslog(priority, c"%s".as_ptr(), text.as_ptr());
    }
}

/// Returns what is allocated for a conversion to the system when it is freed: glibc would learn
/// from its size to keep as much for each thread. Other allocators need no telling.
pub fn return_large_allocations() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, 4 << 20),
        (libc::M_TRIM_THRESHOLD, 8 << 20),
    ] {
        // SAFETY: mallopt takes two integers and may be called at any time.
        if unsafe { libc::mallopt(parameter, bytes) } == 0 {
            log::debug!("mallopt refused parameter {parameter}");
        }
    }
}

/// Makes the kernel begin to write what is dirty of a file, and waits for none of it. A filesystem
/// that allocates late allocates then.
///
/// # Errors
/// As sync_file_range(2).
pub fn begin_writing(file: &fs::File) -> io::Result<()> {
    // SAFETY: sync_file_range takes a descriptor, which `file` keeps open, and integers.
    let done =
        unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The number of the mount that a file was opened in, which no other mount of this boot ever has;
/// `None` where the kernel does not say (before Linux 6.8, or where system calls are filtered).
///
/// # Errors
/// As statx(2).
pub fn unique_mount_id(file: &fs::File) -> io::Result<Option<u64>> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH stands for the descriptor, and
    // the kernel writes no more than a statx to where there is room for one.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID_UNIQUE,
            found.as_mut_ptr(),
        )
    };
    if done != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: all its fields are integers, for which zeros are values too.
    let found = unsafe { found.assume_init() };
    let says = found.stx_mask & libc::STATX_MNT_ID_UNIQUE != 0;
    Ok(says.then_some(found.stx_mnt_id))
}

/// Waits for a message that carries a descriptor; `None` where the sender closed without one.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just installed this descriptor for this message, which has
            // room for one, so nothing else owns it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Ok(None)
}

/// Whether two threads have one table of descriptors; `None` where the kernel does not say.
pub fn share_descriptors(one: u32, other: u32) -> Option<bool> {
    /// `KCMP_FILES` of linux/kcmp.h.
    const FILES: libc::c_long = 2;
    // SAFETY: kcmp takes integers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, FILES, 0, 0) } {
        0 => Some(true),
        1.. => Some(false),
        _ => None,
    }
}

/// A process held by descriptor, so that its number cannot come to mean another.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` where there is none, else as pidfd_open(2).
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match RawFd::try_from(descriptor) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(descriptor) if descriptor >= 0 => {
                Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until the process has ended; false where it has not within `limit`.
    ///
    /// # Errors
    /// As poll(2).
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut polled, timeout)? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert_eq!(fork().unwrap_err().errno(), nix::errno::Errno::EBUSY);
        drop(stop);
        assert!(other.join().unwrap().is_err());
    }

    #[test]
    fn threads_share_their_descriptors_and_processes_do_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let own = std::process::id();
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw().cast_unsigned());
        let ended = thread.join().unwrap();
        // Where kcmp is not allowed nothing is said of anything.
        if share_descriptors(own, own).is_some() {
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            assert_eq!(share_descriptors(own, tid), Some(true));
            assert_eq!(share_descriptors(own, child.id()), Some(false));
            assert_eq!(share_descriptors(own, ended), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn waiting_for_a_process_ends_when_it_does() {
        let mut child = Command::new("sleep").arg("0.2").spawn().unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        assert!(process.wait(Duration::from_secs(20)).unwrap());
        child.wait().unwrap();
    }
}
