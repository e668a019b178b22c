//! scripts/demo.sh is what people run first: it must end well, and leave nothing after however it
//! ends.

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{eventually, is_mounted, kill, npyfs, run};

fn demo(scratch: &Path) -> Command {
    // A shell cannot catch what was ignored when it began, as SIGINT is in a job in the background.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo.sh"));
    command.env("NPYFS", npyfs()).env("TMPDIR", scratch);
    command
}

#[test]
fn the_demo_ends_with_what_was_written() {
    require!(fuse, python, gcc, awk);
    let scratch = tempfile::tempdir().unwrap();
    let said = String::from_utf8(run(&mut demo(scratch.path())).stdout).unwrap();
    assert!(
        said.contains("refused: dtype '<f4', this dataset holds '<i8'"),
        "{said}"
    );
    assert!(said.contains("(3200, 4) int64 from 100 chunks"), "{said}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_demo_that_is_interrupted_leaves_no_mount_and_no_daemon() {
    require!(fuse, python, gcc, awk);
    for signal in ["INT", "TERM"] {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = demo(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn_alone()
            .unwrap();
        let entry = || fs::read_dir(scratch.path()).unwrap().next();
        let mut mountpoint = None;
        let started = eventually(Duration::from_secs(20), || {
            mountpoint = entry().map(|entry| entry.unwrap().path().join("mnt"));
            mountpoint
                .as_ref()
                .is_some_and(|at| at.join("machine/data.npy").exists())
        });
        assert!(started, "the demo did not get going");
        let mountpoint = mountpoint.unwrap();
        let daemon = fs::read_to_string(mountpoint.join(".npyfs/daemon")).unwrap();
        kill(child.id().cast_signed(), signal);
        assert!(!child.wait().unwrap().success());
        assert!(!is_mounted(&mountpoint));
        assert!(!common::is_alive(daemon.trim().parse().unwrap()));
        assert!(entry().is_none(), "files were left behind");
    }
}
