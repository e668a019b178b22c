//! The daemon of rsync.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{Server, counted, eventually, inside_a_private_network, output_of, parked};
use crate::servers::{BIG, Desk, block_of_the_page, fails, text, works};
use crate::ssh::Ssh;

/// rsync's daemon, with the module that docs/instruments.md shows.
struct Rsync<'a> {
    desk: &'a Desk,
    _server: Server,
}

impl<'a> Rsync<'a> {
    fn start(desk: &'a Desk) -> Self {
        let module = block_of_the_page("uid = instrument\n")
            .replace("/mnt/arrays", desk.mount.path("").to_str().unwrap())
            .replace("uid = instrument", &format!("uid = {}", desk.user.uid))
            .replace("gid = lab", &format!("gid = {}", desk.user.gid));
        let conf = desk.mount.scratch("rsyncd.conf");
        fs::write(&conf, module).unwrap();
        let mut daemon = Command::new("rsync");
        daemon
            .args(["--daemon", "--no-detach", "--config"])
            .arg(&conf);
        let server = Server::start(&mut daemon, 873, &desk.mount.scratch("rsyncd.said"));
        Self {
            desk,
            _server: server,
        }
    }

    fn command(&self, options: &[&str], file: &str, to: &str) -> Command {
        let mut rsync = Command::new("rsync");
        rsync.args(options).arg(file);
        rsync.arg(format!("rsync://127.0.0.1/arrays/ds/{to}"));
        rsync.current_dir(self.desk.pc());
        rsync
    }

    fn put(&self, options: &[&str], file: &str, to: &str) -> Output {
        output_of(&mut self.command(options, file, to)).unwrap()
    }
}

#[test]
fn the_daemon_of_rsync_puts_and_tells_of_refusals() {
    require!(fuse, root, unshare, busybox, rsync);
    if !inside_a_private_network("the_daemon_of_rsync_puts_and_tells_of_refusals") {
        return;
    }
    let desk = Desk::new("allow_other");
    let rsync = Rsync::start(&desk);
    works(&rsync.put(&["-a"], "0.npy", ""));
    works(&rsync.put(&["-a"], "big.npy", ""));
    // Again, whatever their times, in all the ways that there are to write.
    for options in [
        &["-a"][..],
        &["-aI"],
        &["-aI", "--inplace"],
        &["-aSI", "--inplace"],
    ] {
        works(&rsync.put(options, "0.npy", ""));
        works(&rsync.put(options, "big.npy", ""));
    }
    works(&rsync.put(&["-a", "--inplace", "--preallocate"], "1.npy", ""));
    works(&rsync.put(&["-aS"], "2.npy", ""));
    let mut rows = vec![(0, 100), (1000, BIG), (100, 100), (200, 100)];
    desk.holds(&rows);
    for (options, code, other, bad) in [
        (&["-aI"][..], 23, "File exists (17)", "Bad message (74)"),
        // It stops at the first.
        (
            &["-aI", "--inplace"],
            11,
            "File exists (17)",
            "Invalid argument (22)",
        ),
    ] {
        for (file, says) in [("1.npy", other), ("bad.npy", bad)] {
            let output = rsync.put(options, file, if file == "1.npy" { "0.npy" } else { "" });
            fails(&output, says);
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        }
    }
    desk.is_told("0.npy refused: committed with other bytes");
    desk.is_told("bad.npy refused: dtype '<f4'");
    // The client is killed under way.
    for options in [&["--inplace"][..], &["--inplace", "--preallocate"]] {
        let mut slow = rsync.command(options, "big.npy", "cut.npy");
        let cut = parked(slow.arg("--bwlimit=2000"));
        desk.has_begun("cut.npy");
        drop(cut);
        let gone = || !desk.dataset().join("cut.npy").exists();
        assert!(eventually(Duration::from_secs(10), gone), "{options:?}");
    }
    desk.is_told("cut.npy refused: ");
    desk.holds(&rows);
    works(&rsync.put(&["-a"], "0.npy", "cut.npy"));
    rows.push((0, 100));
    desk.holds(&rows);
}

#[test]
fn sftp_and_rsync_rewrite_a_name_that_may_be_reused() {
    require!(fuse, root, unshare, busybox, rsync, sshd, sftp);
    if !inside_a_private_network("sftp_and_rsync_rewrite_a_name_that_may_be_reused") {
        return;
    }
    let desk = Desk::new("allow_other,names=reuse");
    let (ssh, rsync) = (Ssh::start(&desk), Rsync::start(&desk));
    works(&ssh.batch("put 0.npy latest.npy\nput 1.npy latest.npy\nput 1.npy latest.npy"));
    works(&ssh.batch("put 2.npy latest.part\nrename latest.part latest.npy"));
    works(&rsync.put(&["-aI"], "0.npy", "latest.npy"));
    works(&rsync.put(&["-aI"], "0.npy", "latest.npy"));
    desk.holds(&[
        (0, 100),
        (100, 100),
        (100, 100),
        (200, 100),
        (0, 100),
        (0, 100),
    ]);
    assert!(fs::read(desk.dataset().join("latest.npy")).unwrap() == counted(0, 100));
}
