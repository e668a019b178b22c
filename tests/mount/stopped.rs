//! Commands beside a mount whose daemon was stopped: they give up on it, say so, and go on.

use crate::common;
use crate::common::Started as _;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Mount, counted, eventually, kill, npyfs, put, refusal, rows_of};

/// A daemon that is stopped until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(mount: &Mount) -> Self {
        kill(mount.pid(), "STOP");
        let status = format!("/proc/{}/status", mount.pid());
        let is_stopped = || fs::read_to_string(&status).unwrap().contains("State:\tT");
        assert!(eventually(Duration::from_secs(20), is_stopped));
        Self(mount.pid())
    }

    /// What commands are to say of it.
    fn words(&self) -> String {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", self.0)).unwrap();
        let told = infos.flatten().any(|info| {
            let info = fs::read_to_string(info.path()).unwrap_or_default();
            info.contains("fuse_connection:")
        });
        // Older kernels do not tell whose connection it is.
        match told {
            true => format!("is stopped: kill -CONT {} lets it go on", self.0),
            false => "does not answer".into(),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, "CONT");
    }
}

/// What a command prints, which must end by itself.
#[track_caller]
fn ended<A: AsRef<OsStr>>(arguments: &[A]) -> Output {
    let mut child = Command::new(npyfs())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn_alone()
        .unwrap();
    let has_ended = eventually(Duration::from_secs(30), || {
        child.try_wait().unwrap().is_some()
    });
    if !has_ended {
        child.kill().unwrap();
        panic!("it hangs");
    }
    child.wait_with_output().unwrap()
}

fn mount_with_a_dataset() -> Mount {
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    put(&mount.path("run/a.npy"), &counted(0, 2)).unwrap();
    mount
}

#[test]
fn status_shows_the_other_mounts_and_says_which_does_not_answer() {
    require!(fuse);
    let (hung, served) = (mount_with_a_dataset(), mount_with_a_dataset());
    let stopped = Stopped::new(&hung);
    let output = ended(&["status"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    // Without the slash at its end.
    let at: PathBuf = hung.path("").components().collect();
    let line = format!("on {}: does not answer\n", at.display());
    assert!(printed.contains(&line), "{output:?}");
    let other = served.path("run");
    assert!(printed.contains(other.to_str().unwrap()), "{output:?}");
    let (code, said) = refusal(&output);
    assert_eq!(code, 7);
    assert!(said.contains(&stopped.words()), "{said}");

    let output = ended(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(7));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = found.as_array().unwrap().iter();
    assert!(found.any(|it| it["path"].as_str() == other.to_str()));
}

/// Whatever the kernel remembers of it: the first question may be answered without the daemon.
#[test]
fn a_mount_that_does_not_answer_is_a_row_of_its_own_status() {
    require!(fuse);
    let mount = mount_with_a_dataset();
    let stopped = Stopped::new(&mount);
    for path in [mount.path(""), mount.path("run"), mount.path("")] {
        let output = ended(&[OsStr::new("status"), OsStr::new("--json"), path.as_os_str()]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found[0]["state"], "silent", "{output:?}");
    }
    drop(stopped);
}

#[test]
fn every_command_gives_up_on_a_mount_that_does_not_answer() {
    require!(fuse);
    let (mount, other) = (mount_with_a_dataset(), mount_with_a_dataset());
    let stopped = Stopped::new(&mount);
    let (root, run, new) = (mount.path(""), mount.path("run"), mount.path("new"));
    let (place, link) = (mount.scratch("place"), mount.scratch("link"));
    fs::create_dir(&place).unwrap();
    symlink(&root, &link).unwrap();
    let chunk = mount.scratch("c.npy");
    fs::write(&chunk, counted(2, 1)).unwrap();
    let (new_place, other_store) = (mount.scratch("new_place"), other.store("run"));
    fs::create_dir(&new_place).unwrap();
    let word = Path::new;
    let (log, kept) = (root.join("log"), root.join("kept/here"));
    let commands: [(i32, Vec<&Path>); 9] = [
        (
            7,
            vec![word("mount"), &place, &new_place, word("--log-file"), &log],
        ),
        (7, vec![word("salvage"), &other_store, word("--to"), &kept]),
        (7, vec![word("status"), &root]),
        (7, vec![word("status"), &run]),
        (7, vec![word("status"), &link]),
        (7, vec![word("umount"), &root]),
        (7, vec![word("umount"), &link]),
        (7, vec![word("mount"), &place, &root]),
        (7, vec![word("mount"), &run, &place]),
    ];
    for (code, arguments) in commands {
        let (got, said) = refusal(&ended(&arguments));
        assert!(said.contains(&stopped.words()), "{arguments:?}: {said}");
        assert_eq!(got, code, "{arguments:?}: {said}");
    }
    let neighbour = other.path("run");
    let neighbours: [Vec<&Path>; 2] = [
        vec![word("status"), &neighbour],
        vec![word("append"), &place, &chunk],
    ];
    // What needs the store alone asks no daemon.
    let store_alone: [Vec<&Path>; 3] = [
        vec![word("check"), &root],
        vec![word("check"), &run],
        vec![word("append"), &new, &chunk],
    ];
    for arguments in neighbours.iter().chain(&store_alone) {
        let output = ended(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    // One file cannot be read, one dataset is being written by the stopped daemon.
    let refused: [[&Path; 3]; 2] = [
        [word("append"), &place, &run],
        [word("append"), &run, &chunk],
    ];
    for arguments in refused {
        let (code, said) = refusal(&ended(&arguments));
        assert!(said.contains("1 of 1 files were refused"), "{said}");
        assert_eq!(code, 8);
    }
    drop(stopped);
    assert_eq!(rows_of(&run), [0, 1]);
    assert_eq!(rows_of(&new), [2]);
}
