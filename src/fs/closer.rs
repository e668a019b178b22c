//! Who closes a descriptor: told from the ids of threads, which is all that the kernel gives.

use std::fs;
use std::path::Path;

use crate::dataset::Closer;

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

/// Whether the thread is at its end: then the kernel closes for it. It has given up its memory by
/// then, and `status` has no line of it.
///
/// `stat` would tell in so many words, but reading it waits for an `execve` of that process to end,
/// which in turn closes descriptors and waits for the answer to this very close.
fn is_ending(thread: u32) -> bool {
    fs::read_to_string(format!("/proc/{thread}/status"))
        .is_ok_and(|status| !status.lines().any(|line| line.starts_with("VmSize:")))
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
