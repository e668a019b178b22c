//! strace on a running daemon.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::process::{Parked, eventually, kill, parked};

/// strace, until it is detached or dropped.
pub struct Strace(Parked);

impl Strace {
    /// Traces `calls` of all threads of a process into a file, and returns once it has them all.
    /// `options` are strace's own.
    pub fn attach(pid: i32, calls: &str, options: &[&str], trace: &Path) -> Strace {
        let strace = parked(
            Command::new("strace")
                .args(["-f", "-q", "-y", "-s", "0", "-e"])
                .arg(format!("trace={calls}"))
                .args(options)
                .arg("-o")
                .arg(trace)
                .args(["-p", &pid.to_string()])
                .stderr(Stdio::null()),
        );
        let traced = eventually(Duration::from_secs(10), || is_traced(pid));
        assert!(traced, "no strace");
        // It tells of a thread a moment before it stops its calls.
        sleep(Duration::from_millis(50));
        Strace(strace)
    }

    pub fn detach(mut self) {
        kill(self.0.child().id().cast_signed(), "INT");
        self.0.child().wait().unwrap();
    }
}

/// Whether all of its threads are.
fn is_traced(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.unwrap().all(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status"));
        status.is_ok_and(|text| {
            text.lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    })
}
