//! Automounters mount npyfs when a path is used, and take it away when it is not: they see the
//! directory while their own process group mounts there, and all others wait.

use crate::common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    Chunk, chunks_in, eventually, inside_a_private_namespace, is_mounted, npyfs, parked, put_chunk,
    run,
};

/// In a mount namespace of the test's own, where mount(8) finds `mount.npyfs`.
fn with_helper(place: &std::path::Path) {
    let added = place.join("added");
    fs::create_dir(&added).unwrap();
    symlink(npyfs(), added.join("mount.npyfs")).unwrap();
    let layers = format!("lowerdir={}:/usr/sbin", added.display());
    run(Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &layers])
        .arg("/usr/sbin"));
}

#[test]
fn a_real_automounter_mounts_at_the_first_use_and_lets_go_when_there_is_none() {
    require!(fuse, root, automount, unshare);
    if !std::path::Path::new("/dev/autofs").exists() {
        common::skip("needs a kernel with autofs");
        return;
    }
    if !inside_a_private_namespace(
        "a_real_automounter_mounts_at_the_first_use_and_lets_go_when_there_is_none",
    ) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    with_helper(place.path());
    fs::create_dir_all(path("store/run")).unwrap();
    fs::create_dir(path("auto")).unwrap();
    let map = format!("arrays -fstype=npyfs :{}\n", path("store").display());
    fs::write(path("map"), map).unwrap();
    let master = format!(
        "{} {} --timeout=1\n",
        path("auto").display(),
        path("map").display()
    );
    fs::write(path("master"), master).unwrap();
    let mut automount = Command::new("automount");
    automount
        .args(["-f", "-v", "--pid-file"])
        .args([path("pid"), path("master")])
        .stdin(Stdio::null())
        .stdout(File::create(path("log")).unwrap())
        .stderr(File::create(path("errors")).unwrap())
        // In its own group the test would see the empty directory.
        .process_group(0);
    let mut automount = parked(&mut automount);
    let mountpoint = path("auto/arrays");
    let log = || fs::read_to_string(path("errors")).unwrap();
    // Nothing is there before the automounter is.
    let used = eventually(Duration::from_secs(20), || {
        put_chunk(&mountpoint.join("run"), Chunk::new(0, 0)).is_ok()
    });
    assert!(used, "{}", log());
    assert!(is_mounted(&mountpoint));
    let ended = eventually(Duration::from_secs(20), || !is_mounted(&mountpoint));
    assert!(ended, "it does not expire: {}", log());
    // And once more, after it was taken away.
    assert_eq!(
        chunks_in(&mountpoint.join("run/data.npy")),
        [Chunk::new(0, 0)]
    );
    common::kill(automount.child().id().cast_signed(), "TERM");
    automount.child().wait().unwrap();
    assert!(!is_mounted(&mountpoint), "{}", log());
}

#[test]
fn mount_a_mounts_what_fstab_says() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace("mount_a_mounts_what_fstab_says") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    with_helper(place.path());
    fs::create_dir_all(path("store/run")).unwrap();
    fs::create_dir(path("mnt")).unwrap();
    let line = format!(
        "{} {} npyfs allow_other,nofail,x-systemd.automount,noatime 0 0\n",
        path("store").display(),
        path("mnt").display()
    );
    fs::write(path("fstab"), line).unwrap();
    run(Command::new("mount").arg("-a").arg("-T").arg(path("fstab")));
    assert!(is_mounted(&path("mnt")));
    put_chunk(&path("mnt/run"), Chunk::new(0, 0)).unwrap();
    // What is mounted is left as it is.
    run(Command::new("mount").arg("-a").arg("-T").arg(path("fstab")));
    run(Command::new("umount").arg(path("mnt")));
    let gone = eventually(Duration::from_secs(10), || !is_mounted(&path("mnt")));
    assert!(gone);
}
