//! The start of a mount: it is there when the command returns, or the command says why not.

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    Mount, Place, User, eventually, is_alive, is_mounted, kill, npyfs, output_of, refusal, run,
    start, try_mount,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

#[test]
fn mount_returns_when_mounted_and_umount_when_the_daemon_has_ended() {
    require!(fuse);
    let place = Place::new();
    run(&mut place.mount());
    assert!(is_mounted(&place.mountpoint()));
    let pid = place.pid();
    assert!(is_alive(pid));
    run(&mut place.umount());
    assert!(!is_mounted(&place.mountpoint()));
    assert!(!is_alive(pid));
}

#[test]
fn a_background_daemon_holds_no_descriptor_of_the_caller() {
    require!(fuse);
    let place = Place::new();
    // `output` waits until both pipes are closed by everyone who has them.
    let output = place.mount().output_alone().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let pid = place.pid();
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    run(&mut place.umount());
}

#[test]
fn with_f_it_stays_in_front() {
    require!(fuse);
    let mut mount = Mount::new();
    assert!(is_mounted(&mount.path("")));
    kill(mount.pid(), "INT");
    assert!(mount.ended().unwrap().success());
}

#[test]
fn a_dead_mount_is_cleared_by_mount_and_by_umount() {
    require!(fuse);
    let place = Place::new();
    run(&mut place.mount());
    kill(place.pid(), "KILL");
    let dead = || fs::read_dir(place.mountpoint()).is_err();
    assert!(eventually(Duration::from_secs(5), dead));
    // Other mounts of this machine may be in any state.
    let status = output_of(Command::new(npyfs()).arg("status")).unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("dead"));
    run(&mut place.mount());
    fs::read_dir(place.mountpoint()).unwrap();
    kill(place.pid(), "KILL");
    assert!(eventually(Duration::from_secs(5), dead));
    run(&mut place.umount());
    assert!(!is_mounted(&place.mountpoint()));
}

#[test]
fn a_live_mount_is_refused() {
    require!(fuse);
    let mount = Mount::new();
    let place = Place::new();
    let (code, said) = refusal(&try_mount(&place.store(), &mount.path("")));
    assert_eq!(code, 3);
    assert!(said.contains("already is a mount of"), "{said}");
}

#[test]
fn overlaps_are_refused_one_sentence_a_case() {
    let place = Place::new();
    let (store, inner) = (place.store(), place.store().join("inner"));
    fs::create_dir(&inner).unwrap();
    let link = place.root.join("link");
    symlink(&store, &link).unwrap();
    for (store, mountpoint, sentence) in [
        (&store, &store, "the same directory"),
        (&store, &link, "the same directory"),
        (&store, &inner, "is inside the store"),
        (&inner, &store, "is inside the mount point"),
        (&inner, &link, "is inside the mount point"),
    ] {
        let (code, said) = refusal(&try_mount(store, mountpoint));
        assert_eq!(code, 3, "{said}");
        assert!(
            said.contains(sentence) && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn stores_and_mount_points_that_cannot_be_are_refused() {
    let place = Place::new();
    let file = place.root.join("file");
    fs::write(&file, "").unwrap();
    let dataset = place.root.join("run7");
    fs::create_dir(&dataset).unwrap();
    fs::write(dataset.join("data.npy"), "").unwrap();
    let (store, mountpoint) = (place.store(), place.mountpoint());
    let absent = place.root.join("absent");
    for (store, mountpoint, code, sentence) in [
        (&absent, &mountpoint, 4, "does not exist"),
        (&file, &mountpoint, 4, "is not a directory"),
        (
            &dataset,
            &mountpoint,
            4,
            "is a dataset, not a store of datasets",
        ),
        (&store, &absent, 3, "does not exist"),
        (&store, &file, 3, "is not a directory"),
    ] {
        let (got, said) = refusal(&try_mount(store, mountpoint));
        assert_eq!(got, code, "{said}");
        assert!(
            said.contains(sentence) && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn an_unknown_mount_option_is_refused_by_name() {
    let place = Place::new();
    let output = place
        .mount()
        .args(["-o", "ro,noatim"])
        .output_alone()
        .unwrap();
    let (code, said) = refusal(&output);
    assert_eq!(code, 2);
    assert!(said.contains("unknown mount option 'noatim'"), "{said}");
}

#[test]
fn options_reach_the_kernel() {
    require!(fuse, root);
    let mount = Mount::builder().words("ro,noexec,dev,allow_other").start();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = mount.path("").canonicalize().unwrap();
    let at = at.to_str().unwrap();
    let line = table.lines().find(|line| line.contains(at)).unwrap();
    assert!(line.contains(" ro,nosuid,noexec,noatime "), "{line}");
    assert!(line.contains("default_permissions,allow_other"), "{line}");
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    require!(fuse, root, fusermount3);
    let user = User::ordinary();
    let mut mount = Mount::builder().user(user).background().start();
    let binary = mount.scratch("npyfs");
    run(user.command(&binary).arg("umount").arg(mount.path("")));
    mount.ended();

    let mut mount = Mount::builder().user(user).start();
    kill(mount.pid(), "TERM");
    assert!(mount.ended().unwrap().success());

    let mut mount = Mount::builder().user(user).start();
    kill(mount.pid(), "KILL");
    assert!(eventually(Duration::from_secs(5), || !is_alive(
        mount.pid()
    )));
    let binary = mount.scratch("npyfs");
    run(user.command(&binary).arg("umount").arg(mount.path("")));
    mount.ended();
}

#[test]
fn a_failure_of_the_daemon_is_told_by_the_command() {
    require!(fuse, root, fusermount3);
    let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if allowed
        .lines()
        .any(|line| line.trim() == "user_allow_other")
    {
        common::skip("needs a machine without user_allow_other in fuse.conf");
        return;
    }
    let user = User::ordinary();
    let mount = Mount::builder().user(user).start();
    let (store, mountpoint) = (mount.scratch("store"), mount.scratch("other"));
    fs::create_dir(&mountpoint).unwrap();
    std::os::unix::fs::chown(&mountpoint, Some(user.uid), Some(user.gid)).unwrap();
    let mut command = user.command(mount.scratch("npyfs"));
    command
        .arg("mount")
        .args([store, mountpoint])
        .args(["-o", "allow_other"]);
    let (code, said) = refusal(&command.output_alone().unwrap());
    assert_eq!(code, 5);
    assert!(
        said.contains("user_allow_other") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn a_store_that_other_users_can_reach_is_warned_of_in_the_log_and_at_the_terminal() {
    require!(fuse, root);
    let mode = |path: &Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode).unwrap();
    };
    let place = Place::new();
    let log = place.root.join("log");
    let warned = |options: &[&str]| {
        fs::write(&log, "").unwrap();
        let output = place.mount().args(options).output_alone().unwrap();
        assert!(output.status.success(), "{output:?}");
        run(&mut place.umount());
        let said = String::from_utf8_lossy(&output.stderr).contains("can reach the store");
        let logged = fs::read_to_string(&log).unwrap();
        (said, logged.contains("can reach the store"))
    };
    let log_file = format!("log_file={}", log.display());
    let log_too = format!("allow_other,{log_file}");
    mode(&place.root, 0o755);
    mode(&place.store(), 0o755);
    assert_eq!(warned(&["-o", "allow_other"]), (true, false));
    assert_eq!(warned(&["-o", &log_too]), (true, true));
    assert_eq!(
        warned(&["-o", &log_file]),
        (false, false),
        "nobody is let in"
    );
    mode(&place.store(), 0o751);
    assert_eq!(warned(&["-o", &log_too]), (true, true));
    mode(&place.store(), 0o750);
    assert_eq!(warned(&["-o", &log_too]), (false, false));
    mode(&place.store(), 0o777);
    mode(&place.root, 0o700);
    assert_eq!(warned(&["-o", &log_too]), (false, false));
}

#[test]
fn odd_names_of_stores_survive() {
    require!(fuse, root, fusermount3);
    for user in [None, Some(User::ordinary())] {
        let directory = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).unwrap();
        let store = directory.path().join(r"a, b\c");
        fs::create_dir(&store).unwrap();
        let builder = Mount::builder().store(&store);
        let mount = match user {
            Some(user) => builder.user(user).words("allow_delete").start(),
            None => builder.start(),
        };
        // Other mounts of this machine may be in any state.
        let status = output_of(Command::new(npyfs()).arg("status")).unwrap();
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        let line = format!("{} on {}", store.display(), mount.path("").display());
        assert!(said.contains(line.trim_end_matches('/')), "{line}: {said}");
    }
}

#[test]
fn mount_calls_us_by_the_name_mount_npyfs() {
    require!(fuse, root);
    let place = Place::new();
    let helper = place.root.join("mount.npyfs");
    symlink(npyfs(), &helper).unwrap();
    let mut command = Command::new(&helper);
    command
        .arg(place.store())
        .arg(place.mountpoint())
        .args(["-n", "-f"]);
    run(&mut command);
    assert!(!is_mounted(&place.mountpoint()), "-f is mount(8)'s --fake");
    let mut command = Command::new(&helper);
    command.arg(place.store()).arg(place.mountpoint());
    run(command.args(["-v", "-o", "rw,nofail,x-systemd.automount,allow_other"]));
    assert!(is_mounted(&place.mountpoint()));
    run(&mut place.umount());
}

#[test]
fn mount_t_fuse_npyfs_works() {
    require!(fuse, root);
    let helper = Path::new("/sbin/mount.fuse3");
    if !helper.exists() {
        common::skip("needs the program mount.fuse3");
        return;
    }
    let place = Place::new();
    let directory = npyfs().parent().unwrap().display().to_string();
    let path = format!("{directory}:{}", std::env::var("PATH").unwrap());
    // mount(8) would call it so, but with a PATH of its own, in which a test build is not.
    let mut command = Command::new(helper);
    command
        .env("PATH", path)
        .arg(place.store())
        .arg(place.mountpoint());
    run(command.args(["-t", "fuse.npyfs", "-o", "rw,allow_delete"]));
    assert!(is_mounted(&place.mountpoint()));
    run(&mut place.umount());
}

#[test]
fn the_service_manager_is_told() {
    require!(fuse);
    let place = Place::new();
    let file = place.root.join("notify");
    let name = format!("npyfs-test-{}", std::process::id());
    let hidden = SocketAddr::from_abstract_name(&name).unwrap();
    for (socket, name) in [
        (
            UnixDatagram::bind(&file).unwrap(),
            file.display().to_string(),
        ),
        (
            UnixDatagram::bind_addr(&hidden).unwrap(),
            format!("@{name}"),
        ),
    ] {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let receive = || {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let mount = Mount::builder().env("NOTIFY_SOCKET", &name).start();
        assert_eq!(receive(), format!("READY=1\nMAINPID={}\n", mount.pid()));
        mount.finish();
        assert_eq!(receive(), "STOPPING=1\n");
    }
}

#[test]
fn status_json_is_an_array() {
    require!(fuse);
    let mount = Mount::new();
    let output = run(Command::new(npyfs())
        .args(["status", "--json"])
        .arg(mount.path("")));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
}

#[test]
fn help_lists_the_exit_codes() {
    for arguments in [&["--help"][..], &["-h"]] {
        let output = run(Command::new(npyfs()).args(arguments));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("1  check, backup or status found damage"),
            "{said}"
        );
        assert!(said.contains("2  wrong arguments"), "{said}");
    }
}

/// A terminal sends the signal of Ctrl-C to the command and to the daemon that it starts, and the
/// command passes it on.
#[test]
fn a_start_that_ctrl_c_interrupts_at_any_moment_leaves_no_mount_and_no_process() {
    require!(fuse);
    let place = Place::new();
    let (mut mounted, mut interrupted) = (0, 0);
    for delay in 0..60 {
        let mut command = place.mount();
        let mut child = start(command.process_group(0).stderr(Stdio::null())).unwrap();
        std::thread::sleep(Duration::from_micros(300 * delay));
        // To a group that may be gone.
        let group = child.id().cast_signed();
        let told = killpg(Pid::from_raw(group), Signal::SIGINT);
        assert!(matches!(told, Ok(()) | Err(Errno::ESRCH)), "{told:?}");
        let status = child.wait().unwrap();
        if status.success() {
            mounted += 1;
            run(&mut place.umount());
        } else {
            interrupted += 1;
        }
        let over = eventually(Duration::from_secs(10), || {
            !is_mounted(&place.mountpoint()) && place.processes().is_empty()
        });
        assert!(over, "after {delay}: {status}");
    }
    println!("{mounted} were mounted, {interrupted} interrupted");
    assert!(interrupted > 0);
}
