//! Starting in the background: the command returns when the mount is there, or says why not.
//!
//! The process forks before it has any thread; the child mounts and writes one message to a pipe:
//! a zero byte for "mounted", or an exit code and a sentence, which the parent takes for its own.
//! A signal to the waiting parent goes on to the child, so that an interrupted start leaves
//! neither a mount nor a process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use super::signals;
use crate::exit::{Exit, Failure, OrExit};

const READY: u8 = 0;

/// The child's way to say that it is mounted.
pub(crate) struct Ready {
    pipe: File,
}

/// Runs `daemon` in a child and returns when that has reported. Signals are blocked already.
pub(crate) fn start(daemon: impl FnOnce(Ready) -> Result<(), Failure>) -> Result<(), Failure> {
    let failed = |what: &'static str| move || format!("cannot start in the background: {what}");
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).or_exit(Exit::Failed, failed("no pipe"))?;
    match npyfs::sys::fork().or_exit(Exit::Failed, failed("no process"))? {
        ForkResult::Parent { child } => {
            drop(writer);
            wait_for(child, File::from(reader))
        }
        ForkResult::Child => {
            drop(reader);
            let writer = File::from(writer);
            let ended = writer
                .try_clone()
                .or_exit(Exit::Failed, failed("no descriptor"))
                .and_then(|pipe| {
                    chdir("/").or_exit(Exit::Failed, failed("no root"))?;
                    daemon(Ready { pipe })
                });
            // Only the parent returns to main.
            std::process::exit(match ended {
                Ok(()) => Exit::Ok as i32,
                Err(failure) => {
                    report(writer, &failure);
                    failure.exit as i32
                }
            });
        }
    }
}

/// The failure to the parent; when that has gone, which it has once the mount is there, to the log.
fn report(mut pipe: File, failure: &Failure) {
    let mut message = vec![failure.exit as u8];
    message.extend_from_slice(failure.message.as_bytes());
    if let Err(error) = pipe.write_all(&message) {
        log::debug!("the parent is gone: {error}");
        log::error!("{failure}");
    }
}

impl Ready {
    /// Lets go of the terminal and of its processes, and tells the parent.
    ///
    /// Not before it is mounted: an automounter lets its own process group see the directory on which
    /// it has us mount, and has all others wait until that is done. So a signal that the terminal
    /// sends to the group comes to this process too, beside the one that the parent passes on.
    pub(crate) fn report(mut self) -> Result<(), Failure> {
        setsid().or_exit(Exit::Failed, || "cannot begin a session".into())?;
        let null = || "cannot let go of the terminal".to_string();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .or_exit(Exit::Failed, null)?;
        dup2_stdin(&device).or_exit(Exit::Failed, null)?;
        dup2_stdout(&device).or_exit(Exit::Failed, null)?;
        dup2_stderr(&device).or_exit(Exit::Failed, null)?;
        if let Err(error) = self.pipe.write_all(&[READY]) {
            // The parent was killed; the mount was asked for and is there.
            log::warn!("no command waited for the mount: {error}");
        }
        Ok(())
    }
}

fn wait_for(child: Pid, mut pipe: File) -> Result<(), Failure> {
    let told = |what: &'static str| move || format!("cannot wait for the daemon: {what}");
    let signals = SignalFd::with_flags(&signals::terminating(), SfdFlags::SFD_CLOEXEC)
        .or_exit(Exit::Failed, told("no signals"))?;
    let mut interrupted = false;
    while !is_readable(&pipe, &signals, &mut interrupted)
        .or_exit(Exit::Failed, told("poll failed"))?
    {
        // The child takes it when it has mounted, and unmounts again.
        match kill(child, Signal::SIGTERM) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).or_exit(Exit::Failed, told("kill failed")),
        }
    }
    let mut first = [READY];
    let got = pipe
        .read(&mut first)
        .or_exit(Exit::Failed, told("read failed"))?;
    if interrupted {
        waitpid(child, None).or_exit(Exit::Failed, told("waitpid failed"))?;
        return Err(Failure::new(Exit::Interrupted, "interrupted"));
    }
    if got == 1 && first[0] == READY {
        return Ok(());
    }
    let mut message = String::new();
    pipe.read_to_string(&mut message)
        .or_exit(Exit::Failed, told("read failed"))?;
    let status = waitpid(child, None).or_exit(Exit::Failed, told("waitpid failed"))?;
    if got == 0 {
        let why = format!("the daemon ended before it was ready: {status:?}");
        return Err(Failure::new(Exit::Mount, why));
    }
    Err(Failure::new(Exit::from_number(first[0]), message))
}

/// Waits for the pipe (true) or for a signal to pass on (false). A signal wins, so that a start
/// that was interrupted never returns as mounted.
fn is_readable(pipe: &File, signals: &SignalFd, interrupted: &mut bool) -> io::Result<bool> {
    loop {
        let mut polled = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        if polled[1].any() == Some(true) {
            signals.read_signal()?;
            *interrupted = true;
            return Ok(false);
        }
        return Ok(true);
    }
}
