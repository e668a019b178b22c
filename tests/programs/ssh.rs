//! OpenSSH: sftp, and sshfs.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{
    Server, eventually, inside_a_private_network, output_of, parked, python, rows_of, run,
};
use crate::servers::{BIG, Desk, fails, works};

/// sshd, for the user who runs the test.
pub(crate) struct Ssh<'a> {
    desk: &'a Desk,
    place: PathBuf,
    _server: Server,
}

impl<'a> Ssh<'a> {
    pub(crate) fn start(desk: &'a Desk) -> Self {
        let place = desk.mount.scratch("ssh");
        fs::create_dir(&place).unwrap();
        for key in ["host", "user"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.join(key));
            run(&mut make);
        }
        fs::create_dir_all("/run/sshd").unwrap();
        let at = place.display();
        let server = format!(
            "ListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {at}/user.pub\nPermitRootLogin prohibit-password\n\
             StrictModes no\nSubsystem sftp internal-sftp\n"
        );
        let client = format!(
            "Host there\nHostName 127.0.0.1\nIdentityFile {at}/user\nIdentitiesOnly yes\n\
             BatchMode yes\nLogLevel ERROR\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\n"
        );
        fs::write(place.join("sshd_config"), server).unwrap();
        fs::write(place.join("config"), client).unwrap();
        let found = run(Command::new("sh").args(["-c", "command -v sshd || echo /usr/sbin/sshd"]));
        // It starts itself anew for each client, by its whole path.
        let mut sshd = Command::new(String::from_utf8(found.stdout).unwrap().trim());
        sshd.args(["-D", "-e", "-f"]).arg(place.join("sshd_config"));
        let server = Server::start(&mut sshd, 22, &place.join("said"));
        Self {
            desk,
            place,
            _server: server,
        }
    }

    fn sftp(&self, options: &[&str], batch: &str) -> Command {
        let file = self.place.join("batch");
        fs::write(
            &file,
            format!("cd {}\n{batch}\n", self.desk.dataset().display()),
        )
        .unwrap();
        let mut sftp = Command::new("sftp");
        sftp.args(options).arg("-F").arg(self.place.join("config"));
        sftp.arg("-b")
            .arg(file)
            .arg("there")
            .current_dir(self.desk.pc());
        sftp
    }

    pub(crate) fn batch(&self, batch: &str) -> Output {
        output_of(&mut self.sftp(&[], batch)).unwrap()
    }
}

#[test]
fn sftp_puts_renames_and_tells_of_refusals() {
    require!(fuse, root, unshare, busybox, sshd, sftp);
    if !inside_a_private_network("sftp_puts_renames_and_tells_of_refusals") {
        return;
    }
    let desk = Desk::new("allow_other");
    let ssh = Ssh::start(&desk);
    works(&ssh.batch("put 0.npy\nput big.npy\nput 0.npy\nput big.npy"));
    fails(&ssh.batch("put 1.npy 0.npy"), "Failure");
    desk.is_told("0.npy refused: committed with other bytes");
    fails(&ssh.batch("put bad.npy"), "Bad message");
    desk.is_told("bad.npy refused: dtype '<f4'");
    // As OpenSSH renames, and as all other clients do.
    works(&ssh.batch("put 1.npy 1.npy.filepart\nrename 1.npy.filepart 1.npy"));
    works(&ssh.batch("put 2.npy 2.npy.filepart\nrename -l 2.npy.filepart 2.npy"));
    for rename in ["rename", "rename -l"] {
        fails(
            &ssh.batch(&format!("put bad.npy bad.part\n{rename} bad.part bad.npy")),
            "ailure",
        );
    }
    works(&ssh.batch("rm bad.part"));
    fails(&ssh.batch("rm 0.npy"), "Permission denied");
    let mut rows = vec![(0, 100), (1000, BIG), (100, 100), (200, 100)];
    desk.holds(&rows);
    // The client is killed under way.
    let mut slow = ssh.sftp(&["-l", "8000"], "put big.npy cut.npy");
    let cut = parked(&mut slow);
    desk.has_begun("cut.npy");
    drop(cut);
    desk.is_told("cut.npy refused: ");
    assert!(!desk.dataset().join("cut.npy").exists());
    works(&ssh.batch("put 0.npy cut.npy"));
    rows.push((0, 100));
    desk.holds(&rows);
}

#[test]
fn sshfs_tells_by_fsync_and_its_close_does_not_wait() {
    require!(fuse, root, unshare, busybox, sshd, sshfs, python);
    if !inside_a_private_network("sshfs_tells_by_fsync_and_its_close_does_not_wait") {
        return;
    }
    let desk = Desk::new("allow_other");
    let ssh = Ssh::start(&desk);
    let there = desk.mount.scratch("there");
    fs::create_dir(&there).unwrap();
    let mut sshfs = Command::new("sshfs");
    sshfs.arg("-f").arg("-F").arg(ssh.place.join("config"));
    sshfs
        .arg(format!("there:{}", desk.dataset().display()))
        .arg(&there);
    let mut sshfs = parked(&mut sshfs);
    let mounted = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(" - fuse.sshfs ")
    };
    assert!(eventually(Duration::from_secs(20), mounted));
    const PUT: &str = r#"
import os, sys
there, pc = sys.argv[1:]
def put(source, name, *ways, part=1.0):
    with open(f"{pc}/{source}", "rb") as file:
        data = file.read()
    data = data[: int(len(data) * part)]
    fd = os.open(f"{there}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    said = []
    def call(what, *arguments):
        try:
            what(*arguments)
        except OSError:
            said.append(what.__name__)
    if "backwards" in ways:
        call(os.ftruncate, fd, len(data))
        for at in reversed(range(0, len(data), 1 << 20)):
            call(os.pwrite, fd, data[at : at + (1 << 20)], at)
    else:
        call(os.write, fd, data)
    if "fsync" in ways:
        call(os.fsync, fd)
    call(os.close, fd)
    print(name, *said)
put("0.npy", "0.npy", "fsync")
put("0.npy", "0.npy", "fsync")
put("big.npy", "big.npy", "fsync", "backwards")
put("1.npy", "0.npy", "fsync")
put("bad.npy", "bad.npy", "fsync")
put("bad.npy", "unsynced.npy")
put("1.npy", "half.npy", part=0.5)
os.rename(f"{there}/0.npy", f"{there}/zero.npy")
put("1.npy", "unsynced-1.npy")
"#;
    let said = python(PUT, &[there.as_path(), &desk.pc()]);
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[..3], ["0.npy", "0.npy", "big.npy"], "{said:?}");
    assert!(
        said[3].contains("fsync") && said[4].contains("fsync"),
        "{said:?}"
    );
    // The writes were refused. What is missing at the end, only the close could tell.
    assert_eq!(
        said[5..],
        ["unsynced.npy close", "half.npy", "unsynced-1.npy"]
    );
    desk.is_told("half.npy refused: ends after");
    desk.is_told("0.npy refused: committed with other bytes");
    let all = eventually(Duration::from_secs(10), || {
        rows_of(&desk.dataset()).len() as u64 == 100 + BIG + 100
    });
    assert!(all);
    desk.holds(&[(0, 100), (1000, BIG), (100, 100)]);
    run(Command::new("umount").arg(&there));
    sshfs.child().wait().unwrap();
}
