//! Options of a mount, and the codes that it ends with.

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use common::{Place, is_mounted, npyfs, output_of, refusal, run, try_mount};

fn with_options(place: &Place, words: &str) -> Output {
    output_of(place.mount().args(["-o", words])).unwrap()
}

/// As mount(8) calls.
fn helper(place: &Place) -> Command {
    let helper = place.root.join("mount.npyfs");
    if !helper.exists() {
        symlink(npyfs(), &helper).unwrap();
    }
    Command::new(helper)
}

#[test]
fn a_word_that_is_unknown_is_told_with_the_one_that_was_meant_and_all_that_there_are() {
    let place = Place::new();
    for (words, meant) in [
        (
            "ro,alow_delete",
            "'alow_delete': did you mean allow_delete[=all]?",
        ),
        ("memory-limits=1G", "did you mean memory_limit=SIZE?"),
        (
            "memory_limit=64XB",
            "must be a number of bytes, or one with a unit",
        ),
        ("uid=1000", "set them with chown and chmod"),
        ("gid=1000", "set them with chown and chmod"),
        ("umask=022", "set them with chown and chmod"),
        (
            "nonsense",
            "npyfs's: allow_delete[=all], allow_other, cached, log_file=FILE",
        ),
    ] {
        let (code, said) = refusal(&with_options(&place, words));
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(meant), "{words}: {said}");
    }
    assert!(!is_mounted(&place.mountpoint()));
}

#[test]
fn sizes_have_the_units_that_people_write() {
    require!(fuse);
    let place = Place::new();
    for words in [
        "memory_limit=64MiB",
        "memory_limit=64MB,rejected_limit=1.5G",
    ] {
        let output = with_options(&place, words);
        assert!(output.status.success(), "{words}: {output:?}");
        run(&mut place.umount());
    }
}

#[test]
fn help_says_what_an_option_is_without_a_word() {
    let help = run(Command::new(npyfs()).args(["mount", "--help"]));
    let help = String::from_utf8(help.stdout).unwrap();
    for default in [
        "[default: once]",
        "[default: 2]",
        "[default: 5]",
        "[default: 64M]",
        "[default: 256M]",
    ] {
        assert!(help.contains(default), "{default}: {help}");
    }
}

#[test]
fn a_label_of_a_security_module_goes_to_the_kernel() {
    require!(fuse, root, strace);
    let place = Place::new();
    let label = r#"context="system_u:object_r:tmp_t:s0:c1,c2""#;
    let trace = place.root.join("trace");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-s", "4096", "-e", "trace=mount", "-o"])
        .arg(&trace);
    command
        .arg(npyfs())
        .arg("mount")
        .args([place.store(), place.mountpoint()]);
    let output = output_of(command.args(["-o", label])).unwrap();
    let asked = fs::read_to_string(&trace).unwrap();
    let word = label.replace('"', "\\\"");
    assert!(asked.contains(&format!(",{word}")), "{asked}");
    if output.status.success() {
        run(&mut place.umount());
    } else {
        // Without such a module.
        let (code, said) = refusal(&output);
        assert_eq!(code, 5, "{said}");
        assert!(
            said.contains("no security module here takes context="),
            "{said}"
        );
    }
}

#[test]
fn as_the_helper_of_mount_it_ends_with_the_codes_of_mount() {
    require!(fuse, root);
    let place = Place::new();
    let code = |store: &Path, mountpoint: &Path, words: &str| {
        let output = helper(&place)
            .args([store, mountpoint])
            .args(["-o", words])
            .output_alone();
        output.unwrap().status.code().unwrap()
    };
    let (store, mountpoint) = (place.store(), place.mountpoint());
    assert_eq!(code(&store, &mountpoint, "nonsense"), 1);
    assert_eq!(code(&place.root.join("none"), &mountpoint, "rw"), 32);
    assert_eq!(code(&store, &place.root.join("none"), "rw"), 32);
    assert_eq!(code(&store, &mountpoint, "rw"), 0);
    assert_eq!(code(&store, &mountpoint, "rw"), 32, "it is mounted already");
    run(&mut place.umount());
    // By its own name it has its own codes.
    assert_eq!(
        refusal(&try_mount(&place.root.join("none"), &mountpoint)).0,
        4
    );
    let help = run(helper(&place).arg("--help"));
    assert!(String::from_utf8_lossy(&help.stdout).contains("32  the mount failed"));
}

#[test]
fn the_same_mistake_has_the_same_code_in_every_command() {
    let place = Place::new();
    let file = place.root.join("file");
    fs::write(&file, "").unwrap();
    let (none, file, empty) = (place.root.join("none"), file, place.store());
    let other = place.root.join("other");
    let run = |arguments: &[&Path]| {
        let output = output_of(Command::new(npyfs()).args(arguments)).unwrap();
        refusal(&output).0
    };
    let word = Path::new;
    for bad in [&none, &file] {
        for command in ["check", "status", "salvage"] {
            assert_eq!(run(&[word(command), bad]), 4, "{command} {bad:?}");
        }
        assert_eq!(run(&[word("backup"), bad, &other]), 4, "{bad:?}");
        assert_eq!(
            run(&[word("mount"), bad, &place.mountpoint()]),
            4,
            "{bad:?}"
        );
        assert_eq!(run(&[word("umount"), bad]), 6, "{bad:?}");
        assert_eq!(run(&[word("why"), &bad.join("x.npy")]), 4, "{bad:?}");
    }
    for command in ["check", "status", "salvage"] {
        assert_eq!(run(&[word(command), &empty]), 4, "{command}");
    }
    for command in [
        "mount", "umount", "check", "append", "salvage", "backup", "why",
    ] {
        assert_eq!(run(&[word(command)]), 2, "{command}");
    }
}
