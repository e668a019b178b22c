//! `npyfs why`: the reason of a refusal, asked for by the path that was refused.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use crate::common::{Mount, User, counted, npy, npyfs, output_of, put, refusal, run};

fn why(path: &Path) -> String {
    let output = run(Command::new(npyfs()).arg("why").arg(path));
    String::from_utf8(output.stdout).unwrap()
}

fn with_refusals() -> Mount {
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("a.npy"), &counted(0, 3)).unwrap();
    put(&dataset.join("nonsense.npy"), b"nonsense").unwrap_err();
    put(&dataset.join("f4.npy"), &npy("<f4", "(1, 16)", &[0; 64])).unwrap_err();
    put(&mount.path("root.npy"), &counted(0, 3)).unwrap_err();
    mount
}

#[test]
fn why_tells_the_last_refusal_of_a_name_or_of_a_dataset() {
    require!(fuse);
    let mut mount = with_refusals();
    let check = |at: &dyn Fn(&str) -> std::path::PathBuf| {
        let line = why(&at("run/nonsense.npy"));
        assert!(line.contains("nonsense.npy refused: not a .npy"), "{line}");
        let line = why(&at("run"));
        assert!(line.contains("f4.npy refused: dtype '<f4'"), "{line}");
        assert!(why(&at("root.npy")).contains("root.npy refused: the root"));
        assert!(why(&at("")).contains("root.npy refused: the root"));
        assert!(why(&at("run/a.npy")).contains("run/a.npy: no refusal is in the log"));
    };
    check(&|path| mount.path(path));
    check(&|path| mount.store(path));
    let (code, said) =
        refusal(&output_of(Command::new(npyfs()).arg("why").arg(mount.path("no/x.npy"))).unwrap());
    assert_eq!(code, 4, "{said}");
    // The store is there when the daemon is not.
    let path = mount.path("run/nonsense.npy");
    crate::common::kill(mount.pid(), "KILL");
    let dead = || fs::read_dir(mount.path("")).is_err();
    assert!(crate::common::eventually(
        std::time::Duration::from_secs(5),
        dead
    ));
    assert!(why(&path).contains("nonsense.npy refused: "));
    mount.crash();
}

#[test]
fn why_of_a_name_in_a_dataset_that_cannot_be_opened_is_that() {
    require!(fuse);
    let mount = with_refusals();
    let cut = mount.store("run/data.npy");
    let mount = mount.remount_after(|| {
        let file = OpenOptions::new().write(true).open(cut).unwrap();
        file.set_len(200).unwrap();
    });
    put(&mount.path("run/new.npy"), &counted(3, 3)).unwrap_err();
    for path in ["run/new.npy", "run"] {
        let line = why(&mount.path(path));
        assert!(
            line.contains(" refused: cannot open the dataset run: data.npy"),
            "{line}"
        );
    }
}

#[test]
fn a_user_who_may_not_look_into_the_store_asks_the_mount() {
    require!(fuse, root);
    let mut mount = Mount::builder().words("allow_other").start();
    mount.tolerate_warnings();
    fs::create_dir(mount.path("run")).unwrap();
    put(&mount.path("run/bad.npy"), b"nonsense").unwrap_err();
    let copy = mount.scratch("npyfs");
    run(Command::new("cp").arg(npyfs()).arg(&copy));
    let asked = run(User::ordinary()
        .command(&copy)
        .arg("why")
        .arg(mount.path("run/bad.npy")));
    let line = String::from_utf8(asked.stdout).unwrap();
    assert!(line.contains("bad.npy refused: "), "{line}");
}

#[test]
fn what_is_in_no_mount_and_no_dataset_is_a_mistake() {
    for path in ["/", "/etc/passwd", "nowhere", "Cargo.toml"] {
        let mut why = Command::new(npyfs());
        let (code, said) = refusal(&output_of(why.arg("why").arg(path)).unwrap());
        assert_eq!(code, 4, "{path}: {said}");
    }
}

#[test]
fn what_a_command_says_of_a_name_is_one_line_that_no_terminal_obeys() {
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join("a\nb\x1b[2J.npy");
    fs::write(&odd, b"nonsense").unwrap();
    let mut append = Command::new(npyfs());
    append
        .arg("append")
        .arg(directory.path().join("run"))
        .arg(&odd);
    let output = output_of(&mut append).unwrap();
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        told.contains(r"a\nb\u{1b}[2J.npy: refused: not a .npy"),
        "{told:?}"
    );
    assert_eq!(told.lines().count(), 1, "{told:?}");
    fs::remove_file(&odd).unwrap();
    let mut check = Command::new(npyfs());
    let (code, said) = refusal(&output_of(check.arg("check").arg(&odd)).unwrap());
    assert_eq!(code, 4);
    assert_eq!(said.lines().count(), 1, "{said:?}");
}
