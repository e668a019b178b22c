//! Every tool that can write a file can feed a dataset, and hears of a chunk that does not fit.

use crate::common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use common::{Mount, counted, eventually, npy, output_of, parked, python_command, rows_of, run};

/// A mount with a dataset `$DS`, and chunks in `$C` on another filesystem:
///
/// | file | holds |
/// | --- | --- |
/// | `0.npy` ... `5.npy` | 100 rows each: 0 to 99, 100 to 199, ... |
/// | `big.npy` | rows 1000 to 40999, 5 MB: more than collects in memory |
/// | `bad.npy` | another dtype |
/// | `short.npy` | the first half of a chunk of 100 rows |
/// | `shortbig.npy` | the first half of `big.npy` |
/// | `other/0.npy` | other rows under the name of `0.npy` |
struct Desk {
    mount: Mount,
}

const BIG: u64 = 40_000;

impl Desk {
    fn new() -> Self {
        Self::with(Mount::new())
    }

    fn with(mount: Mount) -> Self {
        fs::create_dir(mount.path("ds")).unwrap();
        let chunks = mount.scratch("chunks");
        fs::create_dir_all(chunks.join("other")).unwrap();
        let keep = |name: &str, bytes: &[u8]| fs::write(chunks.join(name), bytes).unwrap();
        for n in 0..6 {
            keep(&format!("{n}.npy"), &counted(n * 100, 100));
        }
        let big = counted(1000, BIG);
        keep("big.npy", &big);
        keep("shortbig.npy", &big[..big.len() / 2]);
        let short = counted(0, 100);
        keep("short.npy", &short[..short.len() / 2]);
        keep("bad.npy", &npy("<f4", "(4, 16)", &[0; 256]));
        keep("other/0.npy", &counted(7000, 100));
        Self { mount }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .current_dir(self.mount.scratch(""))
            .env("M", self.mount.path(""))
            .env("DS", self.mount.path("ds"))
            .env("C", self.mount.scratch("chunks"))
            .env("T", self.mount.scratch(""));
        command
    }

    /// What a script prints that must succeed.
    #[track_caller]
    fn ok(&self, script: &str) -> String {
        let output = run(&mut self.command(&format!("set -euo pipefail; {script}")));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A script that must end with this exit code, and say that the argument was invalid (or
    /// whatever `reason` is).
    #[track_caller]
    fn refused(&self, code: i32, reason: &str, script: &str) {
        let output: Output = output_of(self.command(script).env("LC_ALL", "C")).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{script}: {said}");
        assert!(said.contains(reason), "{script}: {said}");
    }

    /// The array holds these rows, in this order.
    #[track_caller]
    fn holds(&self, ranges: &[(u64, u64)]) {
        let wanted: Vec<u64> = ranges
            .iter()
            .flat_map(|&(first, rows)| first..first + rows)
            .collect();
        let found = rows_of(&self.mount.path("ds"));
        assert_eq!(found.len(), wanted.len());
        assert!(found == wanted, "other rows");
    }

    /// The same in any order of chunks.
    #[track_caller]
    fn holds_sorted(&self, dataset: &str, ranges: &[(u64, u64)]) {
        let mut found = rows_of(&self.mount.path(dataset));
        found.sort_unstable();
        let wanted: Vec<u64> = ranges
            .iter()
            .flat_map(|&(first, rows)| first..first + rows)
            .collect();
        assert!(found == wanted, "{} rows", found.len());
    }

    fn names(&self, dataset: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.mount.path(dataset))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn log(&self) -> String {
        fs::read_to_string(self.mount.path("ds/.npyfs/log")).unwrap()
    }

    /// Waits for a line of the dataset's log.
    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        let seen = eventually(Duration::from_secs(5), || self.log().contains(text));
        assert!(seen, "no '{text}' in {}", self.log());
    }

    /// Nothing is left in flight.
    #[track_caller]
    fn nothing_in_flight(&self) {
        let incoming = self.mount.store("ds/.npyfs/incoming");
        let empty = eventually(Duration::from_secs(5), || {
            fs::read_dir(&incoming).map_or(true, |mut files| files.next().is_none())
        });
        assert!(empty, "files left in .npyfs/incoming");
    }

    fn expect(&self, texts: &[&str]) {
        for text in texts {
            self.mount.expect_warning(text);
        }
    }
}

/// A chunk by its name in `$C`.
fn c(n: u64) -> (u64, u64) {
    (n * 100, 100)
}

const ALL: (u64, u64) = (0, 600);

#[test]
fn cp() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("cp $C/0.npy $DS; cp $C/big.npy $DS/b.npy; cmp $C/big.npy $DS/b.npy");
    desk.ok("chmod 640 $C/1.npy; touch -d '2001-02-03 04:05:06.789' $C/1.npy");
    desk.ok("cp -p $C/1.npy $DS; cp -a $C/2.npy $DS; cp --reflink=auto $C/3.npy $DS");
    desk.ok("cp --sparse=always $C/4.npy $DS; cp --preserve=all $C/5.npy $DS");
    let rows = [c(0), (1000, BIG), c(1), c(2), c(3), c(4), c(5)];
    desk.holds(&rows);
    let stat = fs::metadata(desk.mount.path("ds/1.npy")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o640);
    assert_eq!(stat.mtime_nsec(), 789_000_000);
    // Again, and with other bytes.
    desk.ok("cp $C/0.npy $DS; cp -f $C/big.npy $DS/b.npy; cp -u $C/1.npy $DS");
    desk.expect(&["bad.npy: EINVAL", "short.npy: EINVAL", "0.npy: EEXIST"]);
    desk.expect(&["shortbig.npy: EINVAL"]);
    desk.refused(1, "Invalid argument", "cp $C/bad.npy $DS");
    desk.refused(1, "Invalid argument", "cp $C/short.npy $DS");
    desk.refused(1, "Invalid argument", "cp $C/shortbig.npy $DS");
    desk.refused(1, "File exists", "cp $C/other/0.npy $DS");
    desk.holds(&rows);
    assert!(!desk.names("ds").contains(&"bad.npy".to_owned()));
}

#[test]
fn cp_of_a_directory_of_chunks() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("mkdir run7; cp $C/[0-5].npy run7; cp $C/0.npy run7/notes.txt");
    desk.ok("cp -r run7 $M; cp -a run7/. $DS; cp -r run7 $M");
    desk.holds_sorted("run7", &[ALL]);
    desk.holds_sorted("ds", &[ALL]);
    desk.ok("cmp run7/notes.txt $DS/notes.txt");
    desk.ok("for n in 0 5; do test $(stat -c %a-%.9Y run7/$n.npy) = $(stat -c %a-%.9Y $DS/$n.npy); done");
    // Out of the mount again, with the array: what was converted or not, everything is readable.
    desk.ok("cp -r $DS back; diff -r -x data.npy run7 back; cmp back/data.npy $DS/data.npy");
}

#[test]
fn cp_inside_the_mount() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("mkdir $M/b; cp $C/0.npy $C/big.npy $DS; cp $DS/*.npy $M/b 2>err || true");
    desk.expect(&["data.npy: EPERM"]);
    assert!(desk.ok("cat err").contains("data.npy"));
    desk.holds_sorted("b", &[c(0), (1000, BIG)]);
}

#[test]
fn mv_from_another_filesystem() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("chmod 604 $C/0.npy; touch -d '2001-02-03 04:05:06.789' $C/0.npy");
    desk.ok("mv $C/0.npy $C/big.npy $DS; test ! -e $C/0.npy; test ! -e $C/big.npy");
    desk.ok("test $(stat -c %a-%.3Y $DS/0.npy) = 604-$(date -d '2001-02-03 04:05:06' +%s).789");
    desk.expect(&["bad.npy: EINVAL"]);
    desk.refused(1, "Invalid argument", "mv $C/bad.npy $DS");
    desk.ok("test -e $C/bad.npy");
    desk.holds(&[c(0), (1000, BIG)]);
}

#[test]
fn mv_inside_the_mount() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("mkdir $M/b; cp $C/0.npy $DS/0.npy.part; mv $DS/0.npy.part $DS/0.npy");
    desk.ok("cp $C/1.npy $M/b/up.tmp; mv $M/b/up.tmp $DS/1.npy; test ! -e $M/b/up.tmp");
    desk.ok("mv $DS/1.npy $DS/one.npy; test ! -e $DS/1.npy; cmp $C/1.npy $DS/one.npy");
    desk.holds(&[c(0), c(1)]);
    desk.ok("cp $C/bad.npy $DS/x.part");
    desk.expect(&["bad.npy: EBADMSG", "one.npy: EEXIST", "two.npy: EPERM"]);
    desk.refused(1, "Bad message", "mv $DS/x.part $DS/bad.npy");
    desk.refused(1, "File exists", "mv $DS/x.part $DS/one.npy");
    desk.refused(1, "Operation not permitted", "mv $DS/one.npy $M/b/two.npy");
    desk.ok("test -e $DS/x.part; rm $DS/x.part");
    desk.holds(&[c(0), c(1)]);
}

#[test]
fn rsync() {
    require!(fuse, rsync);
    let sent = |desk: &Desk, words: &str| {
        let said = desk.ok(&format!("rsync --stats {words}"));
        let line = "Number of regular files transferred: ";
        let rest = said.split_once(line).unwrap().1;
        rest.split_once('\n').unwrap().0.parse::<u32>().unwrap()
    };
    // In place, rsync hears of the refusal from its write, and gives up.
    let ways = [
        ("-a", 23),
        ("-a --inplace", 11),
        ("-a --partial", 23),
        ("-a --append", 11),
        ("-ac", 23),
        ("-aS", 23),
        ("-aW --fsync", 23),
    ];
    for (words, code) in ways {
        let desk = Desk::new();
        desk.ok("mkdir in; cp $C/[0-5].npy in");
        let words = format!("{words} in/ $DS");
        assert_eq!(sent(&desk, &words), 6, "{words}");
        desk.holds_sorted("ds", &[ALL]);
        assert_eq!(sent(&desk, &words), 0, "{words}");
        // Sent again all the same, they append nothing.
        desk.ok("touch in/*");
        sent(&desk, &words);
        desk.holds_sorted("ds", &[ALL]);
        desk.ok("cp $C/bad.npy in");
        desk.expect(&["bad.npy: E"]);
        desk.refused(code, "bad.npy", &format!("rsync {words}"));
        desk.holds_sorted("ds", &[ALL]);
        assert!(!desk.names("ds").iter().any(|name| name.contains("bad.npy")));
    }
}

#[test]
fn rsync_of_large_chunks() {
    require!(fuse, rsync);
    let desk = Desk::new();
    desk.ok("rsync -a --inplace $C/big.npy $DS; rsync -a $C/0.npy $DS");
    desk.ok("rsync -aI --inplace $C/big.npy $DS; rsync -aI --no-whole-file $C/big.npy $DS");
    desk.holds(&[(1000, BIG), c(0)]);
}

#[test]
fn an_rsync_that_is_interrupted_leaves_no_rows_and_is_run_again() {
    require!(fuse, rsync);
    // Told to keep what has come, rsync gives it the chunk's name, which is refused.
    let ways = [
        ("-a", ""),
        ("-a --partial", "big.npy: EBADMSG"),
        ("-a --partial-dir=.rsync-partial", "big.npy: EBADMSG"),
        ("-a --inplace", "big.npy: E"),
        ("-a --append", "big.npy: E"),
    ];
    for (words, warning) in ways {
        let desk = Desk::new();
        let slow = format!("exec rsync {words} --bwlimit=1000 $C/big.npy $DS 2>/dev/null");
        let mut rsync = parked(&mut desk.command(&slow));
        let begun = eventually(Duration::from_secs(20), || {
            let named = |name: &String| name.contains("big.npy");
            let there = desk.names("ds").into_iter().find(named);
            there.is_some_and(|name| {
                let stat = fs::metadata(desk.mount.path("ds").join(name));
                stat.is_ok_and(|stat| stat.len() > 500)
            })
        });
        assert!(begun, "{words}: {:?}", desk.names("ds"));
        common::kill(rsync.child().id().cast_signed(), "TERM");
        assert!(!rsync.child().wait().unwrap().success());
        let gone = eventually(Duration::from_secs(20), || {
            desk.names("ds").iter().all(|name| !name.contains("big"))
        });
        assert!(gone, "{words}: {:?}", desk.names("ds"));
        desk.holds(&[]);
        if !warning.is_empty() {
            desk.expect(&[warning]);
        }
        desk.ok(&format!("rsync {words} $C/big.npy $DS"));
        desk.holds(&[(1000, BIG)]);
        desk.nothing_in_flight();
    }
}

#[test]
fn install() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("install -m 640 $C/0.npy $DS; install -p -m 600 $C/1.npy $DS/one.npy");
    desk.ok("install -D $C/2.npy $DS/2.npy; test $(stat -c %a $DS/0.npy) = 640");
    desk.ok("test $(stat -c %a $DS/one.npy) = 600");
    desk.expect(&["bad.npy: EINVAL"]);
    desk.refused(1, "Invalid argument", "install $C/bad.npy $DS");
    desk.holds(&[c(0), c(1), c(2)]);
}

#[test]
fn dd() {
    require!(fuse);
    let desk = Desk::new();
    fs::write(desk.mount.scratch("tiny.npy"), counted(50_000, 3)).unwrap();
    desk.ok("dd bs=1 if=tiny.npy of=$DS/a.npy; dd bs=7 if=$C/0.npy of=$DS/b.npy");
    desk.ok("dd bs=64k conv=fsync if=$C/1.npy of=$DS/c.npy");
    desk.ok("dd bs=1M conv=notrunc if=$C/big.npy of=$DS/d.npy");
    desk.ok("dd bs=512 conv=fdatasync,notrunc if=$C/2.npy of=$DS/e.npy");
    desk.ok(
        "dd bs=4k conv=excl if=$C/3.npy of=$DS/f.npy; dd bs=4k oflag=sync if=$C/4.npy of=$DS/g.npy",
    );
    let rows = [(50_000, 3), c(0), c(1), (1000, BIG), c(2), c(3), c(4)];
    desk.holds(&rows);
    desk.ok("dd bs=4k conv=notrunc if=$C/0.npy of=$DS/b.npy; dd if=$C/0.npy of=$DS/b.npy");
    desk.expect(&["bad.npy: EINVAL", "short.npy: EINVAL", "b.npy: EEXIST"]);
    desk.refused(1, "Invalid argument", "dd if=$C/bad.npy of=$DS/bad.npy");
    desk.refused(1, "Invalid argument", "dd if=$C/short.npy of=$DS/short.npy");
    desk.refused(1, "File exists", "dd if=$C/1.npy of=$DS/b.npy");
    // In two runs: the first ends with half a chunk, and says so.
    desk.expect(&["h.npy: EINVAL"]);
    desk.refused(
        1,
        "Invalid argument",
        "dd bs=128 count=10 if=$C/5.npy of=$DS/h.npy",
    );
    desk.holds(&rows);
}

#[test]
fn cat_and_tee() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok(
        "cat $C/0.npy > $DS/0.npy; cat $C/1.npy >> $DS/1.npy; tee $DS/2.npy <$C/2.npy >/dev/null",
    );
    desk.ok("tee -a $DS/3.npy $DS/4.npy <$C/3.npy | cat >$DS/5.npy");
    desk.ok("cat $C/big.npy >> $DS/big.npy; cat < $C/0.npy > $DS/0.npy");
    let mut rows = rows_of(&desk.mount.path("ds"));
    rows.sort_unstable();
    assert_eq!(rows.len() as u64, 600 + BIG);
    desk.expect(&[
        "bad.npy: EINVAL",
        "short.npy: EINVAL",
        "0.npy: EEXIST",
        "s2.npy: EINVAL",
    ]);
    desk.refused(1, "Invalid argument", "cat $C/bad.npy > $DS/bad.npy");
    desk.refused(1, "Invalid argument", "cat $C/short.npy > $DS/short.npy");
    desk.refused(
        1,
        "Invalid argument",
        "tee $DS/s2.npy < $C/short.npy >/dev/null",
    );
    desk.refused(1, "File exists", "cat $C/1.npy > $DS/0.npy");
    // More after a committed chunk.
    desk.refused(1, "File exists", "cat $C/1.npy >> $DS/0.npy");
    assert_eq!(rows_of(&desk.mount.path("ds")).len() as u64, 600 + BIG);
}

#[test]
fn several_programs_behind_each_other_write_one_chunk() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok("(head -c 5000; cat) <$C/0.npy >$DS/0.npy");
    desk.ok("{ head -c 100 $C/1.npy; tail -c +101 $C/1.npy; } > $DS/1.npy");
    desk.ok("exec 3>$DS/2.npy; head -c 1000 $C/2.npy >&3; tail -c +1001 $C/2.npy >&3; exec 3>&-");
    desk.ok("exec 3>>$DS/3.npy; dd bs=100 if=$C/3.npy count=1 >&3; tail -c +101 $C/3.npy >&3; exec 3>&-");
    desk.ok("(head -c 3000000 $C/big.npy; tail -c +3000001 $C/big.npy) > $DS/big.npy");
    let rows = [c(0), c(1), c(2), c(3), (1000, BIG)];
    desk.holds(&rows);
    // Closed incomplete by the last: by the program that bash has put in its own place, or by bash.
    desk.expect(&["4.npy: EINVAL", "5.npy: EINVAL"]);
    desk.refused(
        1,
        "Invalid argument",
        "(head -c 2000; head -c 2000) <$C/4.npy >$DS/4.npy",
    );
    desk.ok("(head -c 2000; head -c 2000; true) <$C/5.npy >$DS/5.npy");
    desk.wait_for_log("4.npy refused: ends after 30 of 100 rows");
    desk.wait_for_log("5.npy refused: ends after 30 of 100 rows");
    desk.holds(&rows);
    desk.ok("cat $C/4.npy > $DS/4.npy");
    desk.nothing_in_flight();
}

#[test]
fn archives() {
    require!(fuse, tar, unzip, zip, cpio);
    for (make, unpack, code) in [
        ("tar cf ../a", "tar xf $T/a", 2),
        ("tar czf ../a", "tar xzf $T/a", 2),
        ("zip -q ../a.zip", "unzip -q -o $T/a.zip", 50),
    ] {
        let desk = Desk::new();
        desk.ok(&format!("cd chunks; {make} [0-5].npy"));
        desk.ok(&format!("cd $DS; {unpack}"));
        desk.holds_sorted("ds", &[ALL]);
        desk.ok(&format!("rm -f $T/a*; cd chunks; {make} bad.npy"));
        desk.expect(&["bad.npy: EINVAL"]);
        desk.refused(code, "", &format!("cd $DS; {unpack}"));
        desk.holds_sorted("ds", &[ALL]);
    }
    let desk = Desk::new();
    desk.ok("cd chunks; ls [0-5].npy | cpio -o -H newc > ../a 2>/dev/null");
    desk.ok("cd $DS; cpio -i -m --quiet < $T/a");
    desk.holds_sorted("ds", &[ALL]);
    desk.expect(&["bad.npy: EINVAL"]);
    desk.refused(
        2,
        "Invalid argument",
        "cd chunks; ls bad.npy | cpio -pm $DS",
    );
}

#[test]
fn tar_once_more() {
    require!(fuse, tar);
    let desk = Desk::new();
    desk.ok("cd chunks; tar cf ../a [0-5].npy; cd $DS; tar xf $T/a");
    desk.ok("cd $DS; tar xf $T/a --overwrite; tar xf $T/a --skip-old-files");
    // By default tar removes what it finds, which is refused.
    for n in 0..6 {
        desk.expect(&[&format!("{n}.npy: EPERM")]);
    }
    desk.refused(2, "File exists", "cd $DS; tar xf $T/a");
    desk.holds_sorted("ds", &[ALL]);
}

/// An sshd on loopback for whoever runs the test.
const SSHD: &str = r#"
mkdir -p ssh; chmod 700 ssh
ssh-keygen -q -t ed25519 -N '' -f ssh/host
ssh-keygen -q -t ed25519 -N '' -f ssh/user
cp ssh/user.pub ssh/authorized
mkdir -p /run/sshd 2>/dev/null || true
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >ssh/config <<END
Host there
HostName 127.0.0.1
Port $port
IdentityFile $T/ssh/user
IdentitiesOnly yes
BatchMode yes
LogLevel ERROR
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
END
cat >ssh/sshd_config <<END
ListenAddress 127.0.0.1
Port $port
HostKey $T/ssh/host
PidFile none
AuthorizedKeysFile $T/ssh/authorized
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
END
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f "$T/ssh/sshd_config"
"#;

#[test]
fn scp_and_sftp() {
    require!(fuse, scp, sftp, sshd);
    let desk = Desk::new();
    let server = fs::File::create(desk.mount.scratch("sshd.log")).unwrap();
    let _sshd = parked(desk.command(&format!("set -e; {SSHD}")).stderr(server));
    let up = eventually(Duration::from_secs(20), || {
        let log = fs::read_to_string(desk.mount.scratch("sshd.log")).unwrap();
        log.contains("Server listening")
    });
    assert!(
        up,
        "{}",
        fs::read_to_string(desk.mount.scratch("sshd.log")).unwrap()
    );
    desk.ok("scp -q -F ssh/config $C/0.npy there:$DS/");
    desk.ok("scp -q -O -F ssh/config $C/1.npy there:$DS/");
    desk.ok("scp -q -p -F ssh/config $C/big.npy there:$DS/");
    desk.ok("printf 'put %s %s\\nput -p %s %s\\n' $C/2.npy $DS/2.npy $C/3.npy $DS/3.npy | sftp -q -b - -F ssh/config there");
    // Again.
    desk.ok("scp -q -F ssh/config $C/0.npy there:$DS/");
    let rows = [c(0), c(1), (1000, BIG), c(2), c(3)];
    desk.holds(&rows);
    desk.ok("scp -q -F ssh/config there:$DS/data.npy copy.npy; cmp copy.npy $DS/data.npy");
    desk.expect(&["bad.npy: EINVAL", "short.npy: EINVAL", "bad2.npy: EINVAL"]);
    desk.refused(1, "", "scp -q -F ssh/config $C/bad.npy there:$DS/");
    desk.refused(1, "", "scp -q -O -F ssh/config $C/short.npy there:$DS/");
    desk.refused(
        1,
        "",
        "printf 'put %s %s\\n' $C/bad.npy $DS/bad2.npy | sftp -b - -F ssh/config there",
    );
    desk.holds(&rows);
    desk.ok("rsync -a -e 'ssh -F ssh/config' $C/4.npy there:$DS/");
    desk.ok("tar c -C chunks 5.npy | ssh -F ssh/config there tar x -C $DS");
    desk.ok("ssh -F ssh/config there \"cat > $DS/last.npy\" < $C/other/0.npy");
    desk.holds(&[c(0), c(1), (1000, BIG), c(2), c(3), c(4), c(5), (7000, 100)]);
}

#[test]
fn curl() {
    require!(fuse, curl, python3);
    let desk = Desk::new();
    let _server = parked(&mut desk.command(
        "exec python3 -u -c 'import http.server, functools, os
h = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.environ[\"C\"])
s = http.server.ThreadingHTTPServer((\"127.0.0.1\", 0), h)
open(\"port.new\", \"w\").write(str(s.server_port)); os.rename(\"port.new\", \"port\")
s.serve_forever()' 2>http.log",
    ));
    assert!(eventually(Duration::from_secs(20), || {
        desk.mount.scratch("port").exists()
    }));
    desk.ok("u=http://127.0.0.1:$(cat port); curl -sSf -o $DS/0.npy $u/0.npy; curl -sSf $u/1.npy > $DS/1.npy");
    desk.ok("cd $DS; curl -sSf -O http://127.0.0.1:$(cat $T/port)/big.npy -R -C -");
    desk.ok("curl -sSf -o $DS/0.npy http://127.0.0.1:$(cat port)/0.npy");
    desk.holds(&[c(0), c(1), (1000, BIG)]);
    desk.expect(&["bad.npy: EINVAL"]);
    desk.refused(
        23,
        "",
        "curl -sSf -o $DS/bad.npy http://127.0.0.1:$(cat port)/bad.npy",
    );
    // A page instead of a chunk.
    desk.expect(&["no.npy: EINVAL"]);
    desk.refused(
        23,
        "",
        "curl -sS -o $DS/no.npy http://127.0.0.1:$(cat port)/no.npy",
    );
    desk.wait_for_log("no.npy refused");
    desk.holds(&[c(0), c(1), (1000, BIG)]);
}

#[test]
fn touch_first_and_write_later() {
    require!(fuse);
    let desk = Desk::new();
    desk.ok(
        "touch $DS/0.npy $DS/1.npy $DS/2.npy; test ! -e $DS/data.npy; ls $DS | wc -l | grep -qx 3",
    );
    desk.ok("cp $C/0.npy $DS; cat $C/1.npy >> $DS/1.npy; rsync -a --ignore-times $C/2.npy $DS");
    desk.ok("truncate -s 0 $DS/3.npy; dd conv=notrunc if=$C/3.npy of=$DS/3.npy");
    desk.ok(": > $DS/4.npy; rm $DS/4.npy; test ! -e $DS/4.npy");
    desk.holds(&[c(0), c(1), c(2), c(3)]);
    assert_eq!(
        desk.names("ds"),
        ["0.npy", "1.npy", "2.npy", "3.npy", "data.npy"]
    );
}

/// Runs Python with `$DS`, `$C` and `np` as `ds`, `c` and `np`.
#[track_caller]
fn python(desk: &Desk, script: &str) {
    let head = "import errno, io, os, pathlib, shutil, subprocess, sys, tempfile, threading
import numpy as np
ds, c = map(pathlib.Path, sys.argv[1:3])
def fails(what, wanted):
    try:
        what()
    except OSError as error:
        assert error.errno == wanted, error
    else:
        raise AssertionError('did not fail')
";
    let arguments: [PathBuf; 2] = [desk.mount.path("ds"), desk.mount.scratch("chunks")];
    run(&mut python_command(&format!("{head}{script}"), &arguments));
}

#[test]
fn python_files_descriptors_and_processes() {
    require!(fuse, python);
    let desk = Desk::new();
    python(
        &desk,
        r#"
data = [(c / f'{n}.npy').read_bytes() for n in range(6)]
with open(ds / '0.npy', 'wb') as f:
    f.write(data[0])
# Two descriptors: the first that closes commits nothing, for not all is there.
fd = os.open(ds / '1.npy', os.O_WRONLY | os.O_CREAT | os.O_EXCL)
pid = os.fork()
if pid == 0:
    os.write(fd, data[1][:1000])
    os.close(fd)
    os._exit(0)
os.waitpid(pid, 0)
copy = os.dup(fd)
os.write(copy, data[1][1000:])
os.close(copy)
os.close(fd)
with open(ds / '2.npy', 'wb') as f:
    subprocess.run(['cat', c / '2.npy'], stdout=f, check=True)
fd = os.open(ds / '3.npy', os.O_RDWR | os.O_CREAT)
assert os.writev(fd, [data[3][:10], data[3][10:500], data[3][500:]]) == len(data[3])
assert os.pread(fd, 50, 100) == data[3][100:150]
os.fsync(fd)
os.close(fd)
(ds / '4.npy').write_bytes(data[4])
with open(ds / '5.npy', 'wb', buffering=0) as f:
    with open(c / '5.npy', 'rb') as g:
        os.sendfile(f.fileno(), g.fileno(), 0, len(data[5]))
"#,
    );
    desk.holds(&[ALL]);
    desk.expect(&["half.npy: EINVAL", "bad.npy: EINVAL"]);
    python(
        &desk,
        r#"
data = (c / '0.npy').read_bytes()
f = open(ds / 'half.npy', 'wb', buffering=0)
f.write(data[:-1])
fails(f.close, errno.EINVAL)
fails(lambda: (ds / 'bad.npy').write_bytes((c / 'bad.npy').read_bytes()), errno.EINVAL)
assert not (ds / 'half.npy').exists() and not (ds / 'bad.npy').exists()
"#,
    );
    desk.holds(&[ALL]);
}

#[test]
fn python_shutil_pathlib_and_tempfile() {
    require!(fuse, python);
    let desk = Desk::new();
    python(
        &desk,
        r#"
shutil.copy(c / '0.npy', ds)
shutil.copy2(c / '1.npy', ds)
assert (ds / '1.npy').stat().st_mtime_ns == (c / '1.npy').stat().st_mtime_ns
shutil.copyfile(c / '2.npy', ds / '2.npy')
shutil.move(c / '3.npy', ds)
assert not (c / '3.npy').exists()
with tempfile.NamedTemporaryFile(dir=ds, suffix='.tmp', delete=False) as f:
    f.write((c / '4.npy').read_bytes())
os.replace(f.name, ds / '4.npy')
pathlib.Path(c / '5.npy').rename(c / 'five')
(ds / '.5.npy').write_bytes((c / 'five').read_bytes())
(ds / '.5.npy').rename(ds / '5.npy')
shutil.copytree(ds, ds.parent / 'twin', ignore=shutil.ignore_patterns('data.npy'))
assert np.load(ds.parent / 'twin/data.npy').shape == (600, 16)
"#,
    );
    desk.holds(&[ALL]);
    desk.expect(&["ds/bad.npy: EINVAL", "bad2.npy: EBADMSG"]);
    python(
        &desk,
        r#"
fails(lambda: shutil.copy(c / 'bad.npy', ds), errno.EINVAL)
(ds / 'x.tmp').write_bytes((c / 'bad.npy').read_bytes())
fails(lambda: os.replace(ds / 'x.tmp', ds / 'bad2.npy'), errno.EBADMSG)
(ds / 'x.tmp').unlink()
"#,
    );
    desk.holds(&[ALL]);
}

#[test]
fn numpy_writes_in_all_its_ways() {
    require!(fuse, python);
    let desk = Desk::new();
    python(
        &desk,
        r#"
def rows(n):
    return np.arange(n * 100, n * 100 + 100)[:, None].repeat(16, 1)
np.save(ds / '0.npy', rows(0))
np.save(str(ds / '1'), rows(1))
with open(ds / '2.npy', 'wb') as f:
    np.lib.format.write_array(f, rows(2), version=(2, 0))
with open(ds / '3.npy', 'wb') as f:
    np.lib.format.write_array_header_1_0(f, np.lib.format.header_data_from_array_1_0(rows(3)))
    rows(3).tofile(f)
buffer = io.BytesIO()
np.save(buffer, rows(4))
(ds / '4.npy').write_bytes(buffer.getbuffer())
np.save(ds / '5.npy', np.asfortranarray(rows(5)).astype('>i8'))
big = np.arange(1000, 41000)[:, None].repeat(16, 1)
np.save(ds / 'big.npy', big)
np.save(ds / 'big.npy', big)
assert (np.load(ds / '5.npy') == rows(5)).all()
# A mapping cannot be written: it says so instead of losing what comes after the close.
try:
    np.lib.format.open_memmap(ds / 'map.npy', 'w+', shape=(5, 16), dtype='<i8')
except OSError as error:
    assert error.errno in (errno.ENODEV, errno.EINVAL), error
else:
    raise AssertionError('mapped')
"#,
    );
    desk.expect(&["map.npy: EINVAL"]);
    desk.holds(&[ALL, (1000, BIG)]);
}

#[test]
fn threads_write_disjoint_parts_of_one_chunk_through_one_descriptor() {
    require!(fuse, python);
    let desk = Desk::new();
    python(
        &desk,
        r#"
for name in ('0', 'big'):
    data = (c / f'{name}.npy').read_bytes()
    fd = os.open(ds / f'{name}.npy', os.O_WRONLY | os.O_CREAT)
    def part(k, n=8):
        step = 4096 if name == '0' else 100_000
        for at in range(k * step, len(data), n * step):
            os.pwrite(fd, data[at:at + step], at)
    threads = [threading.Thread(target=part, args=(k,)) for k in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    os.close(fd)
"#,
    );
    desk.holds(&[c(0), (1000, BIG)]);
}

#[test]
fn a_producer_killed_at_any_moment_leaves_nothing_but_a_line_of_the_log() {
    require!(fuse, python3);
    let desk = Desk::new();
    desk.ok("cp $C/0.npy $DS");
    // Within the header; after it; in memory; streaming; staged; and a rewrite.
    for (n, script) in [
        "f.write(data[:60])",
        "f.write(data[:128])",
        "f.write(data[:5000])",
        "f.write(big[:3000000])",
        "f.seek(4000); f.write(data[4000:])",
        "f.seek(2000000); f.write(big[2000000:])",
    ]
    .iter()
    .enumerate()
    {
        let script = format!(
            "exec python3 -c 'import os, time
c = os.environ[\"C\"]
data, big = open(c + \"/1.npy\", \"rb\").read(), open(c + \"/big.npy\", \"rb\").read()
f = open(os.environ[\"DS\"] + \"/k{n}.npy\", \"wb\", buffering=0)
{script}
os.rename(c + \"/1.npy\", c + \"/said\")
time.sleep(100)'"
        );
        let mut producer = parked(&mut desk.command(&script));
        assert!(eventually(Duration::from_secs(20), || {
            desk.mount.scratch("chunks/said").exists()
        }));
        producer.child().kill().unwrap();
        producer.child().wait().unwrap();
        desk.wait_for_log(&format!("k{n}.npy refused: "));
        desk.ok("mv $C/said $C/1.npy");
        assert!(eventually(Duration::from_secs(5), || {
            desk.names("ds") == ["0.npy", "data.npy"]
        }));
        desk.nothing_in_flight();
        desk.expect(&[&format!("k{n}.npy: EINVAL")]);
    }
    desk.holds(&[c(0)]);
    // The tail was given back, and a retry under the same name succeeds.
    desk.ok("cp $C/1.npy $DS/k0.npy; cp $C/big.npy $DS/k3.npy");
    desk.holds(&[c(0), c(1), (1000, BIG)]);
}

#[test]
fn a_tool_killed_at_any_of_its_calls_has_committed_all_or_nothing() {
    require!(fuse, strace);
    let desk = Desk::new();
    desk.ok("cp $C/0.npy $DS");
    let rows = || rows_of(&desk.mount.path("ds")).len() as u64;
    // strace counts each call by itself, and kills at its entry.
    let tools = [
        (
            "cp -p $C/1.npy $DS/$N.npy",
            100,
            "write fchmod utimensat close",
        ),
        ("cp $C/big.npy $DS/$N.npy", BIG, "read write close"),
        (
            "dd bs=5000 conv=fsync if=$C/1.npy of=$DS/$N.npy",
            100,
            "write fsync close",
        ),
        ("mv $DS/x.part $DS/$N.npy", 100, "renameat2 close"),
    ];
    let mut wanted = 100;
    for (tool, more, calls) in tools {
        let (mut killed, mut begun, mut committed) = (0, 0, 0);
        for call in calls.split(' ') {
            for nth in 1..500 {
                let name = format!("{wanted}-{call}-{nth}");
                desk.ok("cp $C/1.npy $DS/x.part");
                let script = format!(
                    "exec strace -o trace -e trace=?{call} -e inject=?{call}:signal=KILL:when={nth} {tool}"
                );
                let output = output_of(desk.command(&script).env("N", &name)).unwrap();
                let path = desk.mount.path("ds").join(format!("{name}.npy"));
                let at = format!("{tool} at {call} {nth}");
                if rows() == wanted + more {
                    wanted += more;
                    committed += 1;
                    let chunk = common::row_numbers(&fs::read(&path).unwrap());
                    assert_eq!(chunk.len() as u64, more, "{at}");
                } else {
                    assert_eq!(rows(), wanted, "{at}");
                    // Nothing, or an empty file: it was killed before its first byte.
                    let gone = eventually(Duration::from_secs(5), || {
                        fs::metadata(&path).map_or(true, |stat| stat.len() == 0)
                    });
                    assert!(gone, "{at}");
                    begun += u32::from(desk.log().contains(&format!("{name}.npy refused: ")));
                }
                if output.status.success() {
                    break;
                }
                killed += 1;
            }
        }
        println!("{tool}: {killed} kills, {begun} with a part, {committed} committed");
        assert!(killed > 3 && committed > 0, "{tool}: {killed}, {committed}");
        assert!(begun > 0 || more == 100, "{tool}: never in the middle");
    }
    desk.nothing_in_flight();
    desk.expect(&["npy: EINVAL: ends after "]);
}

#[test]
fn a_dataset_looks_like_any_directory() {
    require!(fuse, tar);
    let desk = Desk::new();
    desk.ok("cp $C/[0-5].npy $C/big.npy $DS; cp $C/0.npy $DS/notes.txt");
    let listed = desk.ok("ls $DS");
    assert_eq!(
        listed.split_whitespace().collect::<Vec<_>>(),
        [
            "0.npy",
            "1.npy",
            "2.npy",
            "3.npy",
            "4.npy",
            "5.npy",
            "big.npy",
            "data.npy",
            "notes.txt"
        ]
    );
    assert_eq!(desk.ok("ls -la $DS | wc -l").trim(), "12");
    assert_eq!(desk.ok("find $M -type f | wc -l").trim(), "9");
    assert_eq!(
        desk.ok("find $DS -name '*.npy' -newer $C/0.npy -size +4M")
            .lines()
            .count(),
        2
    );
    // The rows count twice, as bytes of the chunks and of the array.
    let kib: u64 = desk
        .ok("du -sk $DS")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let array = (600 + BIG) * 128 / 1024;
    assert!(
        (2 * array..2 * array + 100).contains(&kib),
        "{kib} of {array}"
    );
    assert!(desk.ok("df $DS | tail -1").contains("npyfs"));
    assert_eq!(
        desk.ok("stat -c '%F %s' $DS/0.npy").trim(),
        "regular file 12928"
    );
    desk.ok("test $(stat -c %i $DS/0.npy) = $(ls -i $DS/0.npy | cut -d' ' -f1)");
    desk.ok("test \"$(md5sum < $DS/big.npy)\" = \"$(md5sum < $C/big.npy)\"");
    desk.ok("for f in $DS/*.npy; do head -c 6 $f | tail -c 5 | grep -q NUMPY; done");
    desk.ok("tar c -C $DS . | tar t | grep data.npy; cd $DS; ls -d *.npy");
    desk.ok("grep -c NUMPY $DS/*.npy > /dev/null; file=$DS/data.npy; tail -c 128 $file | cmp - <(tail -c 128 $C/big.npy)");
}

#[test]
fn inotify_tells_of_chunks() {
    require!(fuse, inotifywait);
    let desk = Desk::new();
    let mut watch = parked(&mut desk.command(
        "inotifywait -q -m -e create -e close_write -e moved_to --format '%e %f' $DS > events 2>&1 & echo $! > pid; wait",
    ));
    assert!(eventually(Duration::from_secs(10), || {
        fs::read_to_string(format!("/proc/{}/fdinfo/3", desk.pid()))
            .is_ok_and(|it| it.contains("inotify wd"))
    }));
    desk.ok("cp $C/0.npy $DS; cp $C/1.npy $DS/.1.part; mv $DS/.1.part $DS/1.npy");
    let events = || fs::read_to_string(desk.mount.scratch("events")).unwrap();
    assert!(
        eventually(Duration::from_secs(5), || events()
            .contains("MOVED_TO 1.npy")),
        "{}",
        events()
    );
    assert!(events().contains("CREATE 0.npy") && events().contains("CLOSE_WRITE,CLOSE 0.npy"));
    desk.ok("kill $(cat pid)");
    watch.child().wait().unwrap();
}

impl Desk {
    /// The process of which a script left the number in the file `pid`.
    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.mount.scratch("pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

#[test]
fn editors_change_ordinary_files_and_no_chunk() {
    require!(fuse, perl);
    let desk = Desk::new();
    desk.ok("cp $C/0.npy $DS; echo abc > $DS/notes.txt");
    // Both write a file of their own, and rename it.
    desk.ok("sed -i s/a/d/ $DS/notes.txt; perl -pi -e s/b/e/ $DS/notes.txt");
    assert_eq!(desk.ok("cat $DS/notes.txt"), "dec\n");
    desk.expect(&["rename ds/0.npy: EEXIST"]);
    desk.refused(4, "File exists", "sed -i s/N/M/ $DS/0.npy");
    desk.refused(17, "File exists", "perl -pi -e s/N/M/ $DS/0.npy");
    // vim looks whether it can make a file 4913, and moves the old one aside.
    if common::missing("vim").is_none() {
        desk.ok("vim -es -u NONE -c '%s/c/f/' -c wq $DS/notes.txt </dev/null");
        assert_eq!(desk.ok("cat $DS/notes.txt"), "def\n");
    }
    desk.ok("cmp $C/0.npy $DS/0.npy");
    desk.holds(&[c(0)]);
    assert_eq!(desk.names("ds"), ["0.npy", "data.npy", "notes.txt"]);
}

#[test]
fn a_file_managers_habits() {
    require!(fuse, gio, python3);
    let desk = Desk::new();
    desk.ok("gio copy $C/0.npy $DS/0.npy; gio copy -p $C/big.npy $DS/big.npy; gio move $C/1.npy $DS/1.npy");
    desk.holds(&[c(0), (1000, BIG), c(1)]);
    // KDE's: into .part, then renamed. Cancelled: closed and removed, or removed while it is open.
    desk.expect(&["cancelled.npy: EINVAL"]);
    desk.ok(r#"python3 -c 'import os
c, ds = os.environ["C"], os.environ["DS"]
big = open(c + "/big.npy", "rb").read()
with open(ds + "/2.npy.part", "wb") as f: f.write(open(c + "/2.npy", "rb").read())
os.utime(ds + "/2.npy.part", ns=(5, 5))
os.rename(ds + "/2.npy.part", ds + "/2.npy")
assert os.stat(ds + "/2.npy").st_mtime_ns == 5
f = open(ds + "/cancelled.npy", "wb", buffering=0)
f.write(big[:2000000])
try: f.close()
except OSError: pass
assert not os.path.exists(ds + "/cancelled.npy")
f = open(ds + "/removed.npy", "wb", buffering=0)
f.write(big[:2000000])
os.unlink(ds + "/removed.npy")
assert not os.path.exists(ds + "/removed.npy")
try: f.write(big[2000000:])
except OSError as error: assert error.errno == 125, error
else: raise AssertionError("written")
try: f.close()
except OSError: pass
'"#);
    desk.expect(&["removed.npy: ECANCELED"]);
    desk.wait_for_log("removed.npy unlinked while it was in flight");
    desk.holds(&[c(0), (1000, BIG), c(1), c(2)]);
    desk.nothing_in_flight();
    // GNOME's programs save through a hidden file of their own and a rename.
    desk.ok("gio save $DS/3.npy < $C/3.npy; gio save $DS/3.npy < $C/3.npy; gio save -c $DS/4.npy < $C/4.npy");
    desk.expect(&["3.npy: EEXIST", "short.npy: EINVAL"]);
    desk.refused(2, "File exists", "gio save $DS/3.npy < $C/4.npy");
    desk.ok("gio save $DS/short.npy < $C/short.npy || touch failed; test -e failed");
    desk.holds(&[c(0), (1000, BIG), c(1), c(2), c(3), c(4)]);
    // Overwriting with the same, and with something else.
    desk.ok("gio copy $C/0.npy $DS/0.npy");
    desk.expect(&["0.npy: E"]);
    desk.refused(1, "", "gio copy $C/other/0.npy $DS/0.npy");
    desk.holds(&[c(0), (1000, BIG), c(1), c(2), c(3), c(4)]);
    assert!(!desk.names("ds").iter().any(|name| name.contains("goutput")));
    // Renaming, removing, and what is in no trash either.
    desk.ok(
        "gio rename $DS/4.npy four.npy; gio list $DS | grep -x four.npy; gio info $DS/four.npy",
    );
    desk.expect(&["unlink ds/0.npy: EPERM"]);
    desk.refused(1, "Operation not permitted", "gio remove $DS/0.npy");
    desk.ok("! gio trash $DS/0.npy 2>/dev/null; test -e $DS/0.npy");
    desk.mount.expect_warning("0.npy: E");
    desk.ok("echo x > $DS/notes.txt; gio remove $DS/notes.txt; test ! -e $DS/notes.txt");
    desk.holds(&[c(0), (1000, BIG), c(1), c(2), c(3), c(4)]);
}
