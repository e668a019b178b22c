//! Samba: its server, its client, and its library for what that client never asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Server, counted, inside_a_private_network, output_of, run};
use crate::servers::{BIG, Desk, block_of_the_page, fails, text, works};

/// smbd, with the share that docs/instruments.md shows.
struct Samba<'a> {
    desk: &'a Desk,
    conf: PathBuf,
    _server: Server,
}

impl<'a> Samba<'a> {
    fn start(desk: &'a Desk) -> Self {
        let place = desk.mount.scratch("samba");
        fs::create_dir(&place).unwrap();
        let user = nix::unistd::User::from_uid(desk.user.uid.into())
            .unwrap()
            .unwrap();
        let share = block_of_the_page("force user = instrument\n")
            .replace("/mnt/arrays", desk.mount.path("").to_str().unwrap())
            .replace("instrument", &user.name);
        let directories = [
            "private dir",
            "lock directory",
            "state directory",
            "pid directory",
        ];
        let directories: String = directories
            .iter()
            .chain(&["cache directory", "ncalrpc dir"])
            .map(|word| format!("{word} = {}\n", place.display()))
            .collect();
        let conf = place.join("smb.conf");
        let global = format!(
            "[global]\n{directories}map to guest = bad user\nguest account = daemon\n\
             load printers = no\ndisable spoolss = yes\nserver min protocol = NT1\n\
             client min protocol = NT1\n"
        );
        // Nobody has a password here.
        fs::write(&conf, format!("{global}{share}guest ok = yes\n")).unwrap();
        let mut smbd = Command::new("smbd");
        smbd.args(["-F", "--no-process-group", "--debug-stdout", "-s"])
            .arg(&conf);
        let server = Server::start(&mut smbd, 445, &place.join("said"));
        Self {
            desk,
            conf,
            _server: server,
        }
    }

    /// Commands of smbclient, in the dataset and the PC's directory.
    fn client(&self, commands: &str) -> Output {
        let mut client = Command::new("smbclient");
        client
            .arg("-s")
            .arg(&self.conf)
            .args(["-U", "pc%any", "//127.0.0.1/arrays", "-D", "ds", "-c"])
            .arg(commands)
            .current_dir(self.desk.pc());
        output_of(&mut client).unwrap()
    }

    /// What smb.py says to its steps.
    fn steps(&self, protocol: &str, steps: &[&str]) -> String {
        let mut script = Command::new("/usr/bin/python3");
        script
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/smb.py"))
            .arg(&self.conf)
            .arg(protocol)
            .args(steps)
            .current_dir(self.desk.pc());
        String::from_utf8(run(&mut script).stdout).unwrap()
    }
}

#[test]
fn samba_puts_renames_and_tells_of_refusals() {
    require!(fuse, root, unshare, busybox, smbd, smbclient);
    if !inside_a_private_network("samba_puts_renames_and_tells_of_refusals") {
        return;
    }
    let desk = Desk::new("allow_other");
    let samba = Samba::start(&desk);
    works(&samba.client("put 0.npy; put big.npy; put 0.npy; put big.npy"));
    let mut rows = vec![(0, 100), (1000, BIG)];
    desk.holds(&rows);
    fails(
        &samba.client("put 1.npy 0.npy"),
        "NT_STATUS_OBJECT_NAME_COLLISION",
    );
    desk.is_told("0.npy refused: committed with other bytes");
    fails(&samba.client("put bad.npy"), "NT_STATUS_INVALID_PARAMETER");
    desk.is_told("bad.npy refused: dtype '<f4'");
    works(&samba.client("put 1.npy 1.tmp; rename 1.tmp 1.npy; rename 1.npy one.npy"));
    // The old name is free.
    works(&samba.client("put 2.npy 1.npy"));
    rows.extend([(100, 100), (200, 100)]);
    fails(
        &samba.client("put bad.npy bad.tmp; rename bad.tmp bad.npy"),
        "NT_STATUS_ACCESS_DENIED",
    );
    works(&samba.client("rm bad.tmp"));
    // smbclient says so, and ends with 0.
    let removed = text(&samba.client("rm 0.npy"));
    assert!(removed.contains("NT_STATUS_ACCESS_DENIED"), "{removed}");
    fails(
        &samba.client("put 0.npy data.npy"),
        "NT_STATUS_ACCESS_DENIED",
    );
    works(&samba.client("mkdir more; cd more; put 0.npy"));
    works(&samba.client("get data.npy; get .npyfs/log log; get 0.npy back.npy"));
    desk.holds(&rows);
    for (copy, of) in [
        ("data.npy", "data.npy"),
        ("log", ".npyfs/log"),
        ("back.npy", "0.npy"),
    ] {
        let [copy, of] = [desk.file(copy), desk.dataset().join(of)].map(|it| fs::read(it).unwrap());
        assert!(copy == of, "{} of {} bytes", copy.len(), of.len());
    }
}

#[test]
fn samba_rewrites_a_name_that_may_be_reused() {
    require!(fuse, root, unshare, busybox, smbd, smbclient);
    if !inside_a_private_network("samba_rewrites_a_name_that_may_be_reused") {
        return;
    }
    let desk = Desk::new("allow_other,names=reuse");
    let samba = Samba::start(&desk);
    for file in ["0.npy", "1.npy", "1.npy"] {
        works(&samba.client(&format!("put {file} latest.npy")));
    }
    works(&samba.client("put 2.npy latest.tmp; rename latest.tmp latest.npy -f"));
    desk.holds(&[(0, 100), (100, 100), (100, 100), (200, 100)]);
    works(&samba.client("get latest.npy"));
    assert!(fs::read(desk.file("latest.npy")).unwrap() == counted(200, 100));
    fails(
        &samba.client("put bad.npy latest.npy"),
        "NT_STATUS_INVALID_PARAMETER",
    );
    assert!(fs::read(desk.dataset().join("latest.npy")).unwrap() == counted(200, 100));
}

#[test]
fn samba_takes_bytes_in_any_order_and_none_of_a_client_that_is_cut_off() {
    require!(fuse, root, unshare, busybox, smbd, samba);
    let name = "samba_takes_bytes_in_any_order_and_none_of_a_client_that_is_cut_off";
    if !inside_a_private_network(name) {
        return;
    }
    let desk = Desk::new("allow_other");
    let samba = Samba::start(&desk);
    let len = counted(1000, BIG).len();
    let size = format!("size {len}");
    // Explorer sets the length first.
    let said = samba.steps(
        "NT1",
        &[
            "create ds\\big.npy",
            &size,
            &format!("write big.npy 4000000 {len}"),
            "write big.npy 0 1000",
            "write big.npy 1000 4000000",
            "close",
        ],
    );
    assert_eq!(
        said,
        "create: ok\nsize: ok\nwrite: ok\nwrite: ok\nwrite: ok\nclose: ok\n"
    );
    desk.holds(&[(1000, BIG)]);
    for (protocol, first, how) in [
        ("NT1", Some(size.as_str()), "its length was set to"),
        ("SMB3", None, "ends after"),
    ] {
        let begin = ["create ds\\cut.npy"].into_iter().chain(first);
        let then = ["write big.npy 0 2000000", "cut"];
        let steps: Vec<&str> = begin.chain(then).collect();
        let said = samba.steps(protocol, &steps);
        assert!(said.lines().all(|line| line.ends_with(": ok")), "{said}");
        desk.is_told(&format!("cut.npy refused: {how}"));
        assert!(!desk.dataset().join("cut.npy").exists());
    }
    // Anew, under the same name.
    let said = samba.steps(
        "SMB3",
        &["create ds\\cut.npy", "write 0.npy 0 12928", "close"],
    );
    assert_eq!(said, "create: ok\nwrite: ok\nclose: ok\n");
    desk.holds(&[(1000, BIG), (0, 100)]);
    // Too few, and no cut: the close says so.
    let said = samba.steps(
        "SMB3",
        &["create ds\\short.npy", "write 1.npy 0 5000", "close"],
    );
    assert!(
        said.contains("\nclose: ") && !said.contains("close: ok"),
        "{said}"
    );
}
