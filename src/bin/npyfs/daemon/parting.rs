//! Notices that the mount has left the table of mounts while something of it is still open, whichever program
//! took it away: then the datasets are let go of, so that the next daemon can write.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LetGo;
use super::mounting::Mounted;
use crate::mountinfo;

/// How often datasets that were owned again meanwhile are let go of.
const AGAIN: Duration = Duration::from_secs(1);

/// A table that changes all the time is read for no more than one part in this of the time.
const SHARE: u32 = 20;

/// Starts the thread that waits for it. That thread ends with the process.
pub(super) fn watch(mounted: Arc<Mounted>, let_go: LetGo) -> io::Result<()> {
    let table = File::open("/proc/self/mountinfo")?;
    thread::Builder::new()
        .name("npyfs-parting".into())
        .spawn(move || {
            if let Err(error) = wait_until_gone(&table, &mounted) {
                log::error!("cannot watch the table of mounts any more: {error}");
                return;
            }
            loop {
                let_go();
                thread::sleep(AGAIN);
            }
        })
        .map(drop)
}

/// The kernel reports each change of the table of this mount namespace.
fn wait_until_gone(table: &File, mounted: &Mounted) -> io::Result<()> {
    loop {
        let start = Instant::now();
        if !mounted.is_in(&mountinfo::read_again(table)?) {
            return Ok(());
        }
        thread::sleep(start.elapsed() * (SHARE - 1));
        let mut polled = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
