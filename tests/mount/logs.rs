//! Every refusal that a user meets has a line, with the reason, in a log that this user can read (P10).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{
    Mount, close, counted, errno, eventually, kill, npyfs, output_of, put, refusal, start,
};
use nix::errno::Errno;

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join(".npyfs/log")).unwrap()
}

/// How many lines of a directory's log have all of these words.
fn lines_with(directory: &Path, words: &[&str]) -> usize {
    let log = log(directory);
    let has = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has).count()
}

#[track_caller]
fn has_line(directory: &Path, words: &[&str]) {
    assert_eq!(
        lines_with(directory, words),
        1,
        "{words:?}: {}",
        log(directory)
    );
}

fn with_dataset() -> (Mount, std::path::PathBuf) {
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("a.npy"), &counted(0, 3)).unwrap();
    (mount, dataset)
}

#[test]
fn what_is_refused_in_the_root_is_in_the_log_of_the_root() {
    require!(fuse);
    let (mount, _) = with_dataset();
    let root = mount.path("");
    assert_eq!(log(&root), "");
    assert_eq!(
        errno(put(&root.join("c.npy"), &counted(0, 3))),
        Errno::EPERM
    );
    has_line(&root, &["c.npy refused: ", "make a directory"]);
    assert_eq!(errno(symlink("/", root.join("link"))), Errno::EPERM);
    has_line(&root, &["link refused: ", "no links"]);
    assert_eq!(errno(fs::create_dir(root.join("d.npy"))), Errno::EPERM);
    has_line(&root, &["d.npy refused: ", "not for a directory"]);
    // It is a control file as others are.
    let names = fs::read_dir(root.join(".npyfs")).unwrap();
    let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    assert_eq!(names, ["daemon", "log"]);
    let size = fs::metadata(root.join(".npyfs/log")).unwrap().len();
    assert_eq!(size, log(&root).len() as u64);
    let mount = mount.remount();
    assert_eq!(lines_with(&mount.path(""), &["refused"]), 3);
    assert!(!mount.path(".npyfs").join("status.json").exists());
}

#[test]
fn what_is_refused_in_a_dataset_is_in_its_log() {
    require!(fuse, root);
    let (_mount, dataset) = with_dataset();
    let write = |name: &str| OpenOptions::new().write(true).open(dataset.join(name));
    assert_eq!(errno(write("data.npy")), Errno::EPERM);
    has_line(&dataset, &["data.npy refused: ", "grows when chunks"]);
    assert_eq!(
        errno(fs::remove_file(dataset.join("data.npy"))),
        Errno::EPERM
    );
    assert_eq!(errno(write("data[1:].npy")), Errno::EPERM);
    has_line(&dataset, &["data[1:].npy refused: "]);
    assert_eq!(errno(write(".npyfs/log")), Errno::EPERM);
    has_line(&dataset, &[".npyfs/log refused: "]);
    assert_eq!(errno(symlink("a.npy", dataset.join("soft"))), Errno::EPERM);
    has_line(&dataset, &["soft refused: ", "no links"]);
    let linked = fs::hard_link(dataset.join("a.npy"), dataset.join("hard"));
    assert_eq!(errno(linked), Errno::EPERM);
    has_line(&dataset, &["hard refused: ", "no links"]);
    assert_eq!(errno(fs::create_dir(dataset.join("d.npy"))), Errno::EPERM);
    has_line(&dataset, &["d.npy refused: "]);
    let pipe = nix::unistd::mkfifo(&dataset.join("pipe"), nix::sys::stat::Mode::S_IRWXU);
    assert_eq!(pipe, Err(Errno::EPERM));
    has_line(&dataset, &["pipe refused: ", "no pipes"]);
    // Its name is taken away from a chunk in flight.
    let mut lost = File::create(dataset.join("lost.npy")).unwrap();
    lost.write_all(&counted(3, 3)[..200]).unwrap();
    fs::remove_file(dataset.join("lost.npy")).unwrap();
    assert_eq!(errno(lost.write_all(b"more")), Errno::ECANCELED);
    has_line(&dataset, &["lost.npy refused: ", "unlinked"]);
    assert_eq!(errno(close(lost)), Errno::ECANCELED);
    // Two handles at once.
    let mut first = File::create(dataset.join("two.npy")).unwrap();
    first.write_all(&counted(3, 3)[..200]).unwrap();
    assert_eq!(errno(write("two.npy")), Errno::EBUSY);
    has_line(&dataset, &["two.npy refused: ", "written"]);
    first.write_all(&counted(3, 3)[200..]).unwrap();
    close(first).unwrap();
    // Each once, although write and close both answer.
    assert_eq!(
        errno(put(&dataset.join("bad.npy"), b"nonsense")),
        Errno::EINVAL
    );
    has_line(&dataset, &["bad.npy refused: "]);
    assert_eq!(
        errno(put(&dataset.join("a.npy"), &counted(9, 3))),
        Errno::EEXIST
    );
    has_line(&dataset, &["a.npy refused: ", "other bytes"]);
}

#[test]
fn a_dataset_that_cannot_be_opened_says_so_in_its_log() {
    require!(fuse);
    let (mount, _) = with_dataset();
    let cut = mount.store("run/data.npy");
    let mount = mount.remount_after(|| {
        let file = OpenOptions::new().write(true).open(cut).unwrap();
        file.set_len(200).unwrap();
    });
    let dataset = mount.path("run");
    for name in ["b.npy", "c.npy"] {
        assert_eq!(errno(put(&dataset.join(name), &counted(3, 3))), Errno::EIO);
    }
    assert_eq!(
        errno(fs::read_dir(&dataset).and_then(|mut it| it.next().unwrap())),
        Errno::EIO
    );
    has_line(
        &dataset,
        &[" refused: ", "data.npy is damaged: 3 rows are known"],
    );
}

#[test]
fn what_another_daemon_keeps_to_itself_is_told_for_each_name() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let mut second = Mount::builder().store(&mount.store("")).start();
    second.tolerate_warnings();
    let other = second.path("run");
    for name in ["x.npy", "y.npy"] {
        assert_eq!(errno(put(&other.join(name), &counted(3, 3))), Errno::EBUSY);
        has_line(
            &dataset,
            &[&format!("{name} refused: "), "is being written by npyfs"],
        );
    }
}

#[test]
fn the_same_refusal_is_told_once_a_second_and_then_counted() {
    require!(fuse);
    let (_mount, dataset) = with_dataset();
    let bad = || errno(fs::remove_file(dataset.join("a.npy")));
    for _ in 0..50 {
        assert_eq!(bad(), Errno::EPERM);
    }
    let told = |count| lines_with(&dataset, &["a.npy refused: "]) == count;
    assert!(told(1) || told(2), "{}", log(&dataset));
    // Nobody has to try again for it.
    let counted = || lines_with(&dataset, &["a.npy refused: ", " times more)"]) >= 1;
    assert!(
        eventually(Duration::from_secs(10), counted),
        "{}",
        log(&dataset)
    );
    let counts: u64 = log(&dataset)
        .lines()
        .filter_map(|line| {
            line.rsplit_once('(')?
                .1
                .split_once(" times more)")?
                .0
                .parse::<u64>()
                .ok()
        })
        .sum();
    let lines = lines_with(&dataset, &["a.npy refused: "]) as u64;
    let plain = lines - lines_with(&dataset, &["times more"]) as u64;
    assert_eq!(plain + counts, 50, "{}", log(&dataset));
    let status = fs::read_to_string(dataset.join(".npyfs/status.json")).unwrap();
    assert!(status.contains("\"refusals\": 50"), "{status}");
}

#[test]
fn a_log_can_be_followed_before_it_has_a_line() {
    require!(fuse, tail);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    for (directory, name) in [(&dataset, "x.npy"), (&mount.path(""), "y.npy")] {
        let followed = mount.scratch("followed");
        let mut tail = start(
            Command::new("tail")
                .args(["-s", "0.1", "-f"])
                .arg(directory.join(".npyfs/log"))
                .stdout(File::create(&followed).unwrap())
                .stderr(Stdio::inherit()),
        )
        .unwrap();
        // It is about to wait.
        std::thread::sleep(Duration::from_millis(500));
        put(&directory.join(name), b"nonsense").unwrap_err();
        let line = format!("{name} refused: ");
        let seen = || fs::read_to_string(&followed).unwrap().contains(&line);
        let found = eventually(Duration::from_secs(10), seen);
        kill(tail.id().cast_signed(), "KILL");
        tail.wait().unwrap();
        assert!(found, "{directory:?}: {}", log(directory));
        let mut text = String::new();
        File::open(followed)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, log(directory));
    }
}

#[test]
fn control_bytes_of_a_name_are_spelled_out_in_every_log() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let name = "x\ny\x1b]0;title\x07.npy";
    put(&dataset.join(name), b"nonsense").unwrap_err();
    put(&mount.path(name), b"nonsense").unwrap_err();
    for directory in [&dataset, &mount.path("")] {
        has_line(directory, &[r"x\ny\u{1b}]0;title\u{7}.npy refused: "]);
    }
    for said in [log(&dataset), log(&mount.path("")), mount.log()] {
        let odd = |byte: char| byte.is_control() && byte != '\n';
        assert!(!said.contains(odd), "{said:?}");
    }
    assert!(mount.log().contains(r"x\ny\u{1b}"), "{}", mount.log());
}

#[test]
fn a_store_with_a_log_in_its_root_is_no_backup_of_another() {
    require!(fuse);
    let (mount, _) = with_dataset();
    put(&mount.path("c.npy"), b"nonsense").unwrap_err();
    assert!(mount.store(".npyfs/log").exists());
    let other = tempfile::tempdir().unwrap();
    let mut backup = Command::new(npyfs());
    let output = output_of(backup.arg("backup").args([other.path(), &mount.store("")])).unwrap();
    let (code, said) = refusal(&output);
    assert!(said.contains("is no backup"), "{code}: {said}");
    fs::remove_file(mount.store(".npyfs/log")).unwrap();
}

#[test]
fn a_read_only_mount_tells_no_log() {
    require!(fuse);
    let (mount, _) = with_dataset();
    let mut reader = Mount::builder().store(&mount.store("")).words("ro").start();
    reader.tolerate_warnings();
    assert_eq!(errno(put(&reader.path("c.npy"), b"x")), Errno::EROFS);
    assert!(!mount.store(".npyfs").exists());
    assert_eq!(log(&reader.path("")), "");
}

/// What is written, and words of the line that it leads to.
#[test]
fn a_reason_says_what_to_do_instead() {
    require!(fuse, python);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let script = r#"
import sys, numpy as np
at = sys.argv[1] + "/"
def refused(write):
    try:
        write()
    except OSError:
        return
    sys.exit("not refused")
np.save(at + "a.npy", np.zeros((2, 3)))
refused(lambda: np.arange(10.).tofile(at + "zeros.npy"))
refused(lambda: np.full(10, 0.1).tofile(at + "raw.npy"))
refused(lambda: np.save(at + "row.npy", np.zeros(3)))
refused(lambda: np.lib.format.open_memmap(at + "map.npy", "w+", "<f8", (5, 3)))
np.savez(at + "archive.npz", a=np.zeros((2, 3)))
np.savez(at + "archive.npz", a=np.zeros((2, 3)))
open(at + "notes.txt", "w").close()
open(at + "LOUD.NPY", "w").close()
part = np.lib.format.open_memmap(at + "map.npy.part", "w+", "<f8", (5, 3))
part[:] = 1
part.flush()
import os
os.rename(at + "map.npy.part", at + "map.npy")
print(np.load(at + "data.npy").shape)
"#;
    let said = crate::common::python(script, &[&dataset]);
    assert_eq!(said.trim(), "(7, 3)");
    has_line(
        &dataset,
        &[
            "zeros.npy refused: the header is blank",
            "raw numbers (tofile)",
        ],
    );
    has_line(
        &dataset,
        &["raw.npy refused: not a .npy file", "raw numbers (tofile)"],
    );
    has_line(
        &dataset,
        &[
            "row.npy refused: rows of shape ()",
            "save one row with shape (1, 3)",
        ],
    );
    has_line(
        &dataset,
        &[
            "map.npy refused: ends after 0 of 5 rows",
            "made as NAME.npy.part and renamed",
        ],
    );
    has_line(
        &dataset,
        &["archive.npz stays a plain file", "save each as a .npy"],
    );
    has_line(&dataset, &["LOUD.NPY stays a plain file", "in lower case"]);
    let said = log(&dataset);
    assert!(!said.contains("notes.txt") && !said.contains("part stays"));
}
