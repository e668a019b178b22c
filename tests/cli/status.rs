//! `npyfs status`: a row for each dataset and mount, whatever state it is in.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{Mount, Place, counted, eventually, kill, npyfs, output_of, put, refusal, run};

fn status(arguments: &[&str], path: &Path) -> Output {
    let mut command = Command::new(npyfs());
    output_of(command.arg("status").args(arguments).arg(path)).unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The states of what `--json` shows, by the last part of each path.
fn states(output: &Output) -> Vec<(String, String)> {
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let row = |row: &serde_json::Value| {
        let path = text(&row["path"]);
        let name = path.rsplit('/').next().unwrap().to_owned();
        (name, text(&row["state"]))
    };
    found.as_array().unwrap().iter().map(row).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(name, state): &(&str, &str)| (name.to_owned(), state.to_owned());
    expected.iter().map(owned).collect()
}

/// A mount with three datasets, of which the second was cut in the store while nothing had it open.
fn with_one_cut() -> Mount {
    let mount = Mount::new();
    for name in ["a", "b", "c"] {
        fs::create_dir(mount.path(name)).unwrap();
        put(&mount.path(name).join("1.npy"), &counted(0, 100)).unwrap();
    }
    let cut = mount.store("b/data.npy");
    mount.remount_after(|| {
        let file = OpenOptions::new().write(true).open(cut).unwrap();
        file.set_len(1000).unwrap();
    })
}

#[test]
fn one_damaged_dataset_is_a_row_and_ends_no_output() {
    require!(fuse);
    let mut mount = with_one_cut();
    mount.tolerate_warnings();
    let rows = [("a", "ok"), ("b", "unreadable"), ("c", "ok")];
    // In the mount, and in the store while it is mounted.
    for path in [mount.path(""), mount.store("")] {
        let output = status(&["--json"], &path);
        assert_eq!(states(&output), pairs(&rows), "{path:?}");
        let (code, said) = refusal(&output);
        assert_eq!(code, 8, "{said}");
        assert!(said.contains("b is unreadable"), "{said}");

        let table = printed(&status(&[], &path));
        for (name, state) in rows {
            let is_row = |line: &str| {
                let mut cells = line.split_whitespace();
                cells
                    .next()
                    .is_some_and(|cell| cell.ends_with(&format!("/{name}")))
                    && cells
                        .next()
                        .is_some_and(|cell| cell.eq_ignore_ascii_case(state))
            };
            assert!(table.lines().any(is_row), "{name}: {table}");
        }
        assert!(table.contains("UNREADABLE: "), "{table}");
        assert!(table.contains("rows"), "no reason: {table}");
    }
    // One that is well is so whatever its neighbours are.
    run(Command::new(npyfs()).arg("status").arg(mount.path("c")));
    assert_eq!(refusal(&status(&[], &mount.path("b"))).0, 8);
}

#[test]
fn a_dead_mount_is_a_row_beside_the_others() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("alive")).unwrap();
    let place = Place::new();
    run(&mut place.mount());
    kill(place.pid(), "KILL");
    let dead = || fs::read_dir(place.mountpoint()).is_err();
    assert!(eventually(Duration::from_secs(5), dead));
    // Other mounts of this machine may be in any state.
    let output = output_of(Command::new(npyfs()).args(["status", "--json"])).unwrap();
    assert!(!output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |path: &Path| {
        let rows = found.as_array().unwrap();
        let of = rows
            .iter()
            .find(|row| row["path"].as_str() == path.to_str());
        of.unwrap_or_else(|| panic!("no row for {path:?}: {found:#}"))["state"].clone()
    };
    assert_eq!(row(&place.mountpoint()), "dead");
    assert_eq!(row(&mount.path("alive")), "ok");
    assert_eq!(
        states(&status(&["--json"], &place.mountpoint()))[0].1,
        "dead"
    );
    run(&mut place.umount());
}

#[test]
fn a_file_is_the_same_mistake_in_a_mount_and_in_a_store() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    put(&mount.path("run/1.npy"), &counted(0, 3)).unwrap();
    for path in [mount.path("run/1.npy"), mount.store("run/data.npy")] {
        let (code, said) = refusal(&status(&[], &path));
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("is a file: name"), "{said}");
    }
}
