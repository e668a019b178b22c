//! Signals end the mount in order: the first politely, the second at once.
//!
//! They are blocked in the only thread before it makes others, which inherit that, and one thread
//! takes them with sigwait. So no handler ever runs, no system call of a session is interrupted,
//! and a signal during the start waits until there is a mount to take away.

use std::io;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::log::Log;
use super::mounting::Mounted;
use super::{CloseOnce, Stop};
use crate::exit::Exit;

/// The signals that end a daemon.
pub(crate) fn terminating() -> SigSet {
    [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]
    .into_iter()
    .collect()
}

/// Keeps the signals waiting, in this thread and those that it makes.
///
/// So is the signal of a write beyond the limit of a file's size, for good: the write answers
/// `EFBIG`, which is its producer's, and no reason to die.
pub(crate) fn block() -> nix::Result<()> {
    let mut signals = terminating();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block()
}

/// Starts the thread that takes them.
///
/// - The first unmounts lazily: no new use, openings that take long are given up, and the session ends when the last file is closed.
/// - The second does not wait for files: the store is closed and the process ends, and with it
///   the connection; who still has a file open gets `ENOTCONN`.
/// - The third does not wait for the store either: the next start recovers it.
///
/// Where there is a log to be opened anew, SIGHUP does that and nothing else.
pub(super) fn watch(
    mounted: Arc<Mounted>,
    (stop, closer): (Stop, CloseOnce),
    reopens: Option<Log>,
) -> io::Result<()> {
    thread::Builder::new()
        .name("npyfs-signals".into())
        .spawn(move || take_signals(&mounted, (&stop, &closer), reopens.as_ref()))
        .map(drop)
}

fn take_signals(mounted: &Mounted, (stop, closer): (&Stop, &CloseOnce), reopens: Option<&Log>) {
    let signals = terminating();
    let mut taken = 0;
    loop {
        let signal = match signals.wait() {
            Ok(signal) => signal,
            Err(errno) => {
                log::error!("cannot take signals any more: {errno}");
                return;
            }
        };
        if let (Signal::SIGHUP, Some(log)) = (signal, reopens) {
            log.reopen();
            log::info!("{signal}: the log goes on here");
            continue;
        }
        taken += 1;
        match taken {
            1 => {
                log::info!("{signal}: unmounting; open files may be finished");
                // A process that waits for an opening keeps the mount in use.
                stop();
                if let Err(error) = mounted.detach() {
                    log::error!("cannot unmount: {error}");
                }
            }
            2 => {
                log::warn!("{signal} again: ending without waiting for open files");
                let closer = closer.clone();
                if let Err(error) = thread::Builder::new().spawn(move || end_now(&closer)) {
                    log::error!("cannot close the store: {error}");
                    std::process::exit(Exit::Failed as i32);
                }
            }
            _ => std::process::exit(Exit::Failed as i32),
        }
    }
}

fn end_now(closer: &CloseOnce) {
    if let Err(error) = closer.close() {
        log::error!("cannot close the store: {error}");
    }
    std::process::exit(Exit::Failed as i32);
}
