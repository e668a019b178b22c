//! A session thread looks out for the next request for a moment before it sleeps.
//!
//! What a program asks comes in bursts: a chunk is seven requests, each some microseconds after the
//! answer to the one before. To wake a thread that sleeps in read(2) costs more than most of the
//! answers, so the thread asks whether a request is there, again and again, while one may be expected.
//!
//! It must not cost others their time. It yields to whatever can run, and where it gets the processor
//! back late, there is work for that processor, and the threads sleep at once for a while, as they
//! would without this. They poll in a stream of requests only: chunks that come one by one, some
//! milliseconds apart, and an idle mount use no more time than before.
//!
//! Measured on 2 cores of a virtual machine (`scripts/bench.sh`, with and without): small chunks and
//! `cp -r` of files of 64 KiB 1.2 to 1.3 times as fast, opening the array 1.3 times; with every core
//! busy with something else, no faster and no slower. With one of the two busy, a reader that opens
//! the array again and again loses: the other core, which it and a thread that sleeps share, is
//! sooner there for it.
//!
//! There are no locks here, and nothing depends on what the counters say but how long a thread is
//! awake.

use std::num::NonZero;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::raw::Device;

/// How long a thread polls: several times what a program takes between two requests of a chunk.
const WINDOW: Duration = Duration::from_micros(100);
/// One thread takes the next request, another what comes while the first is at it.
const POLLING: u32 = 2;
/// A yield that took this long ran a process that had more to do than to send a request.
const LATE: Duration = Duration::from_micros(300);
/// How long the threads do not poll after that: twice as long each time that it happens again.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(2)];
/// This many requests that came soon are a stream of them: more than a chunk on its own is.
const STREAM: i32 = 8;
/// A stream that paused this long is over.
const ENDED: Duration = Duration::from_millis(10);
/// At most this many count for later.
const MOST: i32 = 4 * STREAM;

/// What the session threads of a mount know of the pace of its requests.
#[derive(Debug)]
pub(super) struct BusyPoll {
    started: Instant,
    /// When a thread was last done with a request, in nanoseconds after `started`.
    done: AtomicU64,
    /// Requests that came soon, less a stream for each that did not.
    streak: AtomicI32,
    /// When the processor may be tried again, and how long it was left alone, in nanoseconds.
    again: AtomicU64,
    pause: AtomicU64,
    polling: AtomicU32,
    window: Duration,
    late: Duration,
    possible: bool,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            done: AtomicU64::new(0),
            streak: AtomicI32::new(0),
            again: AtomicU64::new(0),
            pause: AtomicU64::new(0),
            polling: AtomicU32::new(0),
            window: WINDOW,
            late: LATE,
            // On one processor the program that is to send the next request waits for this thread.
            possible: thread::available_parallelism().map_or(1, NonZero::get) > 1,
        }
    }
}

impl BusyPoll {
    /// A request was taken; when the turn is dropped, the thread is done with it and polls.
    pub(super) fn guard<'a>(&'a self, device: &'a Device) -> Guard<'a> {
        if self.possible {
            let pause = self.now().saturating_sub(self.done.load(Ordering::Relaxed));
            self.taken(Duration::from_nanos(pause));
        }
        Guard { poll: self, device }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Counts a request that came `pause` after the last was done.
    fn taken(&self, pause: Duration) {
        let streak = self.streak.load(Ordering::Relaxed);
        let streak = if pause < WINDOW {
            (streak + 1).min(MOST)
        } else if pause < ENDED {
            (streak - STREAM).max(0)
        } else {
            0
        };
        self.streak.store(streak, Ordering::Relaxed);
    }

    fn pays(&self) -> bool {
        self.streak.load(Ordering::Relaxed) > STREAM
            && self.now() >= self.again.load(Ordering::Relaxed)
    }

    /// Leaves the processor to others for a while.
    fn back_off(&self) {
        let [least, most] = PAUSES.map(|limit| limit.as_nanos() as u64);
        let (now, last) = (self.now(), self.pause.load(Ordering::Relaxed));
        let quiet = now.saturating_sub(self.again.load(Ordering::Relaxed));
        let pause = if quiet < last * 2 { last * 2 } else { least };
        let pause = pause.clamp(least, most);
        self.pause.store(pause, Ordering::Relaxed);
        self.again.store(now + pause, Ordering::Relaxed);
    }

    /// Polls until `ready`, where it pays and as long as it does.
    fn poll_while_it_pays(&self, ready: impl Fn() -> bool) {
        if !self.pays() {
            return;
        }
        if self.polling.fetch_add(1, Ordering::Relaxed) < POLLING {
            self.look_out(ready);
        }
        self.polling.fetch_sub(1, Ordering::Relaxed);
    }

    fn look_out(&self, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        let mut before = begun;
        while !ready() {
            thread::yield_now();
            let now = Instant::now();
            if now - before > self.late {
                self.back_off();
                return;
            }
            if now - begun > self.window {
                return;
            }
            before = now;
        }
    }
}

/// The time that a session thread spends on a request.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    poll: &'a BusyPoll,
    device: &'a Device,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Some(device) = self.device.file().filter(|_| self.poll.possible) else {
            return;
        };
        self.poll.done.store(self.poll.now(), Ordering::Relaxed);
        self.poll.poll_while_it_pays(|| {
            let mut asked = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
            // Whatever is wrong with the device, the read that follows is told.
            poll(&mut asked, PollTimeout::ZERO) != Ok(0)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SOON: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_millis(1);

    fn in_a_stream() -> BusyPoll {
        let poll = BusyPoll::default();
        (0..MOST).for_each(|_| poll.taken(SOON));
        poll
    }

    fn times_asked(poll: &BusyPoll, ready: impl Fn(u32) -> bool) -> u32 {
        let asked = Cell::new(0);
        poll.poll_while_it_pays(|| {
            asked.set(asked.get() + 1);
            ready(asked.get())
        });
        asked.get()
    }

    #[test]
    fn a_thread_polls_until_a_request_is_there() {
        let poll = BusyPoll {
            window: Duration::from_secs(100),
            late: Duration::from_secs(100),
            ..in_a_stream()
        };
        assert_eq!(times_asked(&poll, |asked| asked == 3), 3);
    }

    #[test]
    fn a_thread_polls_no_longer_than_its_window() {
        let poll = BusyPoll {
            late: Duration::from_secs(100),
            ..in_a_stream()
        };
        let begun = Instant::now();
        assert!(times_asked(&poll, |_| false) > 0);
        assert!(begun.elapsed() >= WINDOW);
        assert_eq!(times_asked(&poll, |_| true), 1, "and again the next time");
    }

    #[test]
    fn chunks_that_come_one_by_one_find_the_threads_asleep() {
        let poll = BusyPoll::default();
        for _ in 0..100 {
            (0..STREAM - 1).for_each(|_| poll.taken(SOON));
            assert_eq!(times_asked(&poll, |_| true), 0);
            poll.taken(LONG);
        }
    }

    #[test]
    fn a_stream_is_one_for_some_pauses_and_ends_with_many() {
        let poll = in_a_stream();
        poll.taken(LONG);
        assert_eq!(times_asked(&poll, |_| true), 1);
        (0..4).for_each(|_| poll.taken(LONG));
        assert_eq!(times_asked(&poll, |_| true), 0);
    }

    #[test]
    fn a_request_after_a_long_pause_is_in_no_stream() {
        let poll = in_a_stream();
        poll.taken(ENDED);
        assert_eq!(times_asked(&poll, |_| true), 0);
    }

    #[test]
    fn a_processor_that_others_want_is_left_to_them_for_longer_each_time() {
        let poll = in_a_stream();
        let late = || {
            thread::sleep(2 * LATE);
            false
        };
        poll.poll_while_it_pays(late);
        let first = poll.pause.load(Ordering::Relaxed);
        assert_eq!(u128::from(first), PAUSES[0].as_nanos());
        // The clock goes on while a loaded machine lets the test wait.
        poll.again.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(times_asked(&poll, |_| true), 0, "while it pauses");
        poll.back_off();
        assert_eq!(poll.pause.load(Ordering::Relaxed), 2 * first);
    }

    #[test]
    fn only_two_threads_poll() {
        let poll = in_a_stream();
        let deep = times_asked(&poll, |_| {
            let second = times_asked(&poll, |_| {
                assert_eq!(times_asked(&poll, |_| true), 0, "a third");
                true
            });
            assert_eq!(second, 1);
            true
        });
        assert_eq!(deep, 1);
        assert_eq!(times_asked(&poll, |_| true), 1, "once the others are done");
    }
}
