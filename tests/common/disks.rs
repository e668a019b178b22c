//! Filesystems of a test's own, in files, on loop devices.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::panicking;
use std::time::Duration;

use super::process::{alone_again, eventually, run, start};

const INSIDE: &str = "NPYFS_PRIVATE_NAMESPACE";

/// Runs the calling test once more, alone, in a mount namespace of its own, and answers `false`
/// where that was done: then the test is over. What is mounted inside is seen by nobody else and
/// goes with the last process.
#[track_caller]
pub fn inside_a_private_namespace(test: &str) -> bool {
    inside_namespaces_of(test, &["--mount", "--propagation", "private"])
}

/// The same in a network of its own too: what listens there is reached by nobody else, on any port.
#[track_caller]
pub fn inside_a_private_network(test: &str) -> bool {
    if !inside_namespaces_of(test, &["--mount", "--propagation", "private", "--net"]) {
        return false;
    }
    run(Command::new("busybox").args(["ip", "link", "set", "lo", "up"]));
    true
}

#[track_caller]
fn inside_namespaces_of(test: &str, own: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let_go_of_others();
        return true;
    }
    let mut inside = Command::new("unshare");
    inside
        .args(own)
        .args(alone_again(test))
        .arg("--include-ignored")
        .env(INSIDE, "1")
        .stdin(Stdio::null());
    let status = start(&mut inside).unwrap().wait().unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    false
}

/// A new namespace has all mounts of the old one, those of tests that run beside this one included:
/// their daemons would serve it for as long as it is there.
fn let_go_of_others() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = table.lines().filter(|line| line.contains(" - fuse.npyfs "));
    for line in ours {
        let at = line.split(' ').nth(4).unwrap();
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(at).stderr(Stdio::null());
        // It may be gone by now.
        start(&mut umount).unwrap().wait().unwrap();
    }
}

/// A filesystem in a file, mounted.
#[derive(Debug)]
pub struct LoopMount {
    pub image: PathBuf,
    pub at: PathBuf,
}

impl LoopMount {
    /// Makes a filesystem of `kind` and this size in a new file beside the mount point.
    pub fn make<A: AsRef<OsStr>>(at: &Path, kind: &str, bytes: u64, arguments: &[A]) -> Self {
        let image = at.with_extension("img");
        Self::make_in(&image, at, kind, bytes, arguments)
    }

    /// As [`LoopMount::make`], in the file `image`.
    pub fn make_in<A: AsRef<OsStr>>(
        image: &Path,
        at: &Path,
        kind: &str,
        bytes: u64,
        arguments: &[A],
    ) -> Self {
        File::create(image).unwrap().set_len(bytes).unwrap();
        run(Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .args(arguments)
            .arg(image));
        Self::open(image, at, "loop")
    }

    /// Mounts an image with these options, and lets the filesystem replay its log.
    pub fn open(image: &Path, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount")
            .args(["-o", options])
            .args([image, at]));
        Self {
            image: image.into(),
            at: at.into(),
        }
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let unmounted = eventually(Duration::from_secs(5), || {
            let mut umount = Command::new("umount");
            umount.arg(&self.at).stderr(Stdio::null());
            start(&mut umount).unwrap().wait().unwrap().success()
        });
        if !unmounted {
            run(Command::new("umount").arg("-l").arg(&self.at));
            assert!(panicking(), "{} was still in use", self.at.display());
        }
    }
}
