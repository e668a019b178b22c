//! Who closes a descriptor: told from the ids of threads, which is all that the kernel gives.

use std::fs;
use std::path::Path;

use crate::dataset::Closer;

/// The kernel's flag of a task that is ending.
const PF_EXITING: u64 = 4;

/// What the thread `closer` is to the thread `opener`. Unknown ones are taken for the opener's
/// process: what they leave unfinished is then reported and not lost.
pub(super) fn closer(opener: u32, closer: u32) -> Closer {
    if !same_process(opener, closer) {
        Closer::Other
    } else if is_ending(closer) {
        Closer::Ending
    } else {
        Closer::Opener
    }
}

fn same_process(opener: u32, closer: u32) -> bool {
    if opener == closer || opener == 0 || closer == 0 {
        return true;
    }
    let exists = |path: String| Path::new(&path).exists();
    match thread_group(closer) {
        // A thread that is gone belongs to nobody any more.
        Some(group) => {
            exists(format!("/proc/{group}/task/{opener}")) || !exists(format!("/proc/{opener}"))
        }
        None => true,
    }
}

fn thread_group(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// Whether the thread is at its end: then the kernel closes for it.
fn is_ending(thread: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{thread}/stat")) else {
        return false;
    };
    // Behind the command in parentheses: state, parent, group, session, terminal, its group, flags.
    let flags = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(6))
        .and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn threads_of_one_process_are_one_closer_even_when_they_are_gone() {
        let me = nix::unistd::gettid().as_raw() as u32;
        let (send, receive) = mpsc::channel();
        let (stay, wait) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            wait.recv().unwrap();
        });
        let other = receive.recv().unwrap();
        assert_eq!(closer(other, me), Closer::Opener);
        assert_eq!(closer(1, me), Closer::Other);
        stay.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(closer(other, me), Closer::Opener);
        assert_eq!(closer(0, me), Closer::Opener);
    }
}
