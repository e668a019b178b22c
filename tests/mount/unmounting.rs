//! The end of a mount: in every way in which it can be ended, and with nothing left behind.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Mount, Place, eventually, is_alive, is_mounted, kill, parked, refusal, run, umount};

#[test]
fn every_terminating_signal_ends_it_cleanly() {
    require!(fuse);
    for signal in ["INT", "TERM", "HUP", "QUIT"] {
        for background in [false, true] {
            // In the background it has the log opened anew.
            if background && signal == "HUP" {
                continue;
            }
            let builder = Mount::builder();
            let builder = if background {
                builder.background()
            } else {
                builder
            };
            let mut mount = builder.start();
            kill(mount.pid(), signal);
            assert!(
                mount.ended().is_none_or(|status| status.success()),
                "{signal}"
            );
            assert!(mount.log().contains("unmounted"), "{}", mount.log());
        }
    }
}

#[test]
fn an_open_file_outlives_the_first_signal() {
    require!(fuse);
    let mut mount = Mount::new();
    let mut file = File::open(mount.path(".npyfs/daemon")).unwrap();
    kill(mount.pid(), "TERM");
    let mountpoint = mount.path("");
    assert!(eventually(Duration::from_secs(5), || !is_mounted(
        &mountpoint
    )));
    sleep(Duration::from_millis(100));
    assert!(is_alive(mount.pid()));
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{}\n", mount.pid()));
    drop(file);
    assert!(mount.ended().unwrap().success());
}

#[test]
fn the_second_signal_does_not_wait_for_open_files() {
    require!(fuse);
    let mut mount = Mount::new();
    let file = File::open(mount.path(".npyfs/daemon")).unwrap();
    kill(mount.pid(), "TERM");
    let mountpoint = mount.path("");
    assert!(eventually(Duration::from_secs(5), || !is_mounted(
        &mountpoint
    )));
    kill(mount.pid(), "TERM");
    assert_eq!(mount.ended().unwrap().code(), Some(8));
    mount.expect_warning("ending without waiting for open files");
    drop(file);
}

#[test]
fn an_unmount_by_others_is_a_clean_end() {
    require!(fuse, root);
    for arguments in [&["-l"][..], &[]] {
        let mut mount = Mount::new();
        run(Command::new("umount").args(arguments).arg(mount.path("")));
        assert!(mount.ended().unwrap().success());
    }
}

#[test]
fn a_mount_that_took_the_place_is_left_alone() {
    require!(fuse, root);
    let place = Place::new();
    run(&mut place.mount());
    let first = place.pid();
    let file = File::open(place.mountpoint().join(".npyfs/daemon")).unwrap();
    run(Command::new("umount").arg("-l").arg(place.mountpoint()));
    run(&mut place.mount());
    let second = place.pid();
    assert_ne!(first, second);
    kill(first, "TERM");
    sleep(Duration::from_millis(200));
    assert!(is_mounted(&place.mountpoint()), "by its signal");
    drop(file);
    assert!(eventually(Duration::from_secs(5), || !is_alive(first)));
    assert!(is_mounted(&place.mountpoint()), "by its end");
    assert_eq!(place.pid(), second);
    run(&mut place.umount());
}

#[test]
fn a_quick_successor_is_left_alone() {
    require!(fuse, root);
    let place = Place::new();
    for _ in 0..20 {
        run(&mut place.mount());
        // Not waiting for the first daemon's end, as `npyfs umount` would: they overlap.
        // Another program of the machine may look at all mounts, `npyfs status` say.
        assert!(eventually(Duration::from_secs(5), || {
            let mut umount = Command::new("umount");
            let umount = umount.arg("-i").arg(place.mountpoint());
            common::output_of(umount).unwrap().status.success()
        }));
        run(&mut place.mount());
        sleep(Duration::from_millis(5));
        assert!(is_mounted(&place.mountpoint()));
        run(&mut place.umount());
    }
}

#[test]
fn a_mount_over_ours_stops_the_signal_but_not_the_data() {
    require!(fuse, root);
    let mut mount = Mount::new();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "npyfs-test"])
        .arg(mount.path("")));
    kill(mount.pid(), "TERM");
    let said = eventually(Duration::from_secs(5), || {
        mount.log().contains("mounted over it")
    });
    run(Command::new("umount").arg("-i").arg(mount.path("")));
    assert!(said, "{}", mount.log());
    mount.expect_warning("a filesystem of type tmpfs is mounted over it");
    run(&mut umount(&mount.path("")));
    assert!(mount.ended().unwrap().success());
}

#[test]
fn umount_says_who_uses_the_mount() {
    require!(fuse);
    let mount = Mount::new();
    let mut sleeper = parked(Command::new("sleep").arg("60").current_dir(mount.path("")));
    let (code, said) = refusal(&umount(&mount.path("")).output_alone().unwrap());
    assert_eq!(code, 7);
    let name = format!("sleep ({}, working directory)", sleeper.child().id());
    assert!(
        said.contains("is in use by") && said.contains(&name),
        "{said}"
    );
    drop(sleeper);
}

#[test]
fn umount_refuses_what_is_no_mount_of_ours() {
    require!(fuse);
    let mount = Mount::new();
    for (path, sentence) in [
        (mount.path(".npyfs"), "is inside the mount"),
        (mount.store(""), "is not a mount point"),
        ("/proc".into(), "is a mount of type proc, not of npyfs"),
        ("/no/such/path".into(), "No such file or directory"),
    ] {
        let (code, said) = refusal(&umount(&path).output_alone().unwrap());
        assert_eq!(code, 6);
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_nothing() {
    require!(fuse);
    for background in [false, true] {
        let (mut mounted, mut interrupted) = (0, 0);
        for delay in (0..60).step_by(2) {
            let place = Place::new();
            let mut command = place.mount();
            if !background {
                command.arg("-f");
            }
            let mut child = command.stderr(Stdio::null()).spawn_alone().unwrap();
            sleep(Duration::from_millis(delay));
            // Not SIGINT, which a job in the background is started without.
            kill(child.id().cast_signed(), "TERM");
            let status = child.wait().unwrap();
            if background && status.success() {
                // It had returned before the signal: a mount was promised.
                run(&mut place.umount());
                mounted += 1;
            } else {
                interrupted += 1;
            }
            let gone = || !is_mounted(&place.mountpoint()) && place.processes().is_empty();
            assert!(
                eventually(Duration::from_secs(5), gone),
                "after {delay} ms ({status}): {:?}",
                place.processes()
            );
        }
        eprintln!("background {background}: {interrupted} interrupted, {mounted} mounted");
    }
}

#[test]
fn a_hundred_cycles_leave_nothing() {
    require!(fuse);
    let place = Place::new();
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = own();
    let start = Instant::now();
    for _ in 0..100 {
        run(&mut place.mount());
        let pid = place.pid();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        assert!(threads < 32, "{threads} threads");
        run(&mut place.umount());
        assert!(!is_mounted(&place.mountpoint()) && !is_alive(pid));
    }
    assert_eq!(place.processes(), Vec::<i32>::new());
    assert!(own() <= before + 16, "descriptors of this process grew");
    eprintln!("{:?} a cycle", start.elapsed() / 100);
}

#[test]
#[should_panic(expected = "no warning with 'never said'")]
fn the_harness_misses_a_warning_that_does_not_come() {
    if common::missing("fuse").is_some() {
        panic!("no warning with 'never said'");
    }
    Mount::new().expect_warning("never said");
}

#[test]
#[should_panic(expected = "npyfs umount failed")]
fn the_harness_notices_a_daemon_that_died() {
    if common::missing("fuse").is_some() {
        panic!("npyfs umount failed");
    }
    let mount = Mount::new();
    kill(mount.pid(), "KILL");
    let dead = || fs::read_dir(mount.path("")).is_err();
    assert!(eventually(Duration::from_secs(5), dead));
    run(&mut umount(&mount.path("")));
}
