//! Questions to filesystems that may never answer, such as a mount whose daemon was stopped.
//!
//! A child process asks them, and may wait for ever in the kernel, where not even SIGKILL always
//! reaches it. This process waits no longer than it wants.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

/// How long a filesystem has time to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The answer to a question.
#[derive(Debug)]
pub(crate) struct Asked {
    child: Pid,
    pipe: File,
    /// What has come, and was not taken yet.
    come: Vec<u8>,
    ended: bool,
}

/// Runs `ask` in a child process, which writes its answer. This process must have one thread.
pub(crate) fn ask(question: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Asked> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    match npyfs::sys::fork().map_err(io::Error::other)? {
        ForkResult::Parent { child } => Ok(Asked {
            child,
            pipe: reader.into(),
            come: Vec::new(),
            ended: false,
        }),
        ForkResult::Child => {
            drop(reader);
            // A child that waits for ever must not have the reader of our output wait for its end, too.
            let let_go = OpenOptions::new().read(true).write(true).open("/dev/null");
            let answered = let_go.and_then(|null| {
                dup2_stdin(&null)?;
                dup2_stdout(&null)?;
                dup2_stderr(&null)?;
                question(&mut writer.into())
            });
            // Only the parent returns to main.
            std::process::exit(i32::from(answered.is_err()));
        }
    }
}

impl Asked {
    /// The next line, without its end; `None` after the last. `TimedOut` where it has not come at
    /// `deadline`.
    pub(crate) fn line(&mut self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.come.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.come.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if !self.read_on(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for all of it. After `TimedOut` it can be waited for again.
    pub(crate) fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        while self.read_on(deadline)? {}
        Ok(())
    }

    /// What has come, but for the lines that were taken.
    pub(crate) fn come(&self) -> &[u8] {
        &self.come
    }

    /// Whether more has come; false at the end.
    fn read_on(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: it is not to be polled for 0 ms again and again.
        let left = left + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
        let mut piece = [0; 4096];
        let got = self.pipe.read(&mut piece)?;
        self.come.extend_from_slice(&piece[..got]);
        self.ended = got == 0;
        Ok(got > 0)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // One that waits for ever is left to init when this process ends.
        let waited = if self.ended {
            waitpid(self.child, None)
        } else {
            kill(self.child, Signal::SIGKILL)
                .and_then(|()| waitpid(self.child, Some(WaitPidFlag::WNOHANG)))
        };
        if let Err(error) = waited {
            log::debug!("cannot wait for process {}: {error}", self.child);
        }
    }
}

/// Writes a line of an answer.
pub(crate) fn tell(pipe: &mut File, line: &[u8]) -> io::Result<()> {
    pipe.write_all(line)?;
    pipe.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn a_question_that_is_not_answered_is_waited_for_as_long_as_the_asker_wants() {
        // Tests have threads, which a process that forks must not: this is the child's part.
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut asked = Asked {
            child: Pid::from_raw(child.id().cast_signed()),
            pipe: reader.into(),
            come: Vec::new(),
            ended: false,
        };
        let mut writer = File::from(writer);
        tell(&mut writer, b"first").unwrap();
        writer.write_all(b"half").unwrap();
        assert_eq!(asked.line(soon()).unwrap().unwrap(), b"first");
        let missed = asked.line(soon()).unwrap_err();
        assert_eq!(missed.kind(), io::ErrorKind::TimedOut);
        sleep(Duration::from_millis(1));
        tell(&mut writer, b" and half").unwrap();
        assert_eq!(asked.line(soon()).unwrap().unwrap(), b"half and half");
        drop(asked);
        // Killed by that, and waited for there if it had ended by then.
        if let Err(error) = child.wait() {
            assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
        }
    }
}
