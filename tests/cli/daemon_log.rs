//! Where the daemon says what it does: in the background to syslog, or to a file of the store, or to one
//! that was named, which SIGHUP opens anew.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::common::{
    Mount, Place, eventually, inside_a_private_namespace, is_mounted, kill, put, run,
};

/// Devices of the test's own, so that nothing listens at `/dev/log`: a filesystem over `/dev`, in which
/// they are made anew. Nothing of the machine's is within reach of who clears up after the test.
fn own_devices() {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).unwrap();
    let parent = std::os::unix::process::parent_id().to_string();
    assert_ne!(namespace("self"), namespace(&parent), "not its own");
    let script = "
        mount -t tmpfs none /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/zero c 1 5
        mknod -m 666 /dev/full c 1 7
        mknod -m 666 /dev/urandom c 1 9
        mknod -m 666 /dev/fuse c 10 229
    ";
    run(Command::new("sh").args(["-ec", script]));
}

#[test]
fn in_the_background_it_goes_to_syslog_also_when_that_was_started_anew() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace(
        "in_the_background_it_goes_to_syslog_also_when_that_was_started_anew",
    ) {
        return;
    }
    let place = Place::new();
    own_devices();
    let listen = || {
        let socket = UnixDatagram::bind("/dev/log").unwrap();
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        socket
    };
    // The next message that has these words.
    let heard = |socket: &UnixDatagram, words: &str| {
        let mut buffer = [0; 8192];
        loop {
            let got = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
            if text.contains(words) {
                return text;
            }
        }
    };
    let socket = listen();
    run(&mut place.mount());
    let pid = place.pid();
    let mounted = heard(&socket, "mounted ");
    assert!(mounted.contains(&format!("npyfs[{pid}]: ")), "{mounted}");
    // Of the facility daemon, 3, information, 6.
    assert!(mounted.starts_with("<30>"), "{mounted}");
    put(&place.mountpoint().join("c.npy"), b"nonsense").unwrap_err();
    let refused = heard(&socket, "c.npy: EPERM");
    assert!(refused.starts_with("<28>"), "{refused}");
    drop(socket);
    fs::remove_file("/dev/log").unwrap();
    let socket = listen();
    // It has no file to open anew, and does not end.
    kill(pid, "HUP");
    put(&place.mountpoint().join("d.npy"), b"nonsense").unwrap_err();
    heard(&socket, "d.npy: EPERM");
    run(&mut place.umount());
    heard(&socket, "unmounted ");
    assert!(!place.store().join(".npyfs/daemon.log").exists());
}

#[test]
fn with_no_syslog_it_goes_to_a_file_of_the_store_unless_that_is_mounted_read_only() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace(
        "with_no_syslog_it_goes_to_a_file_of_the_store_unless_that_is_mounted_read_only",
    ) {
        return;
    }
    let place = Place::new();
    own_devices();
    run(place.mount().args(["-o", "ro"]));
    run(&mut place.umount());
    assert!(!place.store().join(".npyfs").exists());

    run(&mut place.mount());
    put(&place.mountpoint().join("c.npy"), b"nonsense").unwrap_err();
    let log = place.store().join(".npyfs/daemon.log");
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("] mounted ") && said.contains("c.npy: EPERM"),
        "{said}"
    );
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    run(&mut place.umount());
    assert!(fs::read_to_string(&log).unwrap().contains("unmounted"));
    // In front it is the terminal's.
    let before = fs::read(&log).unwrap();
    let mount = Mount::builder().store(&place.store()).start();
    mount.finish();
    assert_eq!(fs::read(&log).unwrap(), before);
}

#[test]
fn a_log_that_was_rotated_goes_on_in_a_new_file_after_sighup() {
    require!(fuse);
    let mut mount = Mount::builder().background().start();
    mount.tolerate_warnings();
    let log = mount.scratch("daemon.log");
    let old = mount.scratch("daemon.log.1");
    fs::rename(&log, &old).unwrap();
    put(&mount.path("a.npy"), b"nonsense").unwrap_err();
    assert!(!log.exists());
    kill(mount.pid(), "HUP");
    assert!(eventually(Duration::from_secs(5), || log.exists()));
    put(&mount.path("b.npy"), b"nonsense").unwrap_err();
    assert!(mount.log().contains("b.npy: EPERM"), "{}", mount.log());
    let old = fs::read_to_string(old).unwrap();
    assert!(
        old.contains("a.npy: EPERM") && !old.contains("b.npy"),
        "{old}"
    );
    assert!(is_mounted(mount.path("x").parent().unwrap()));
    mount.finish();
}
