//! What a test needs of its machine, and how it says that it was skipped.

use super::process::Started as _;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::process::run;

/// Why this need cannot be met; `None` where it can.
pub fn missing(need: &str) -> Option<String> {
    let root = nix::unistd::geteuid().is_root();
    match need {
        "root" if root => None,
        "root" => Some("needs root".into()),
        "fuse" if root => OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .err()
            .map(|error| format!("needs /dev/fuse: {error}")),
        "fuse" => missing("fusermount3"),
        "python" => {
            let python = python_path();
            let numpy = Command::new(&python)
                .args(["-c", "import numpy, npy_append_array"])
                .output_alone();
            match numpy {
                Ok(output) if output.status.success() => None,
                _ => Some(format!(
                    "needs {} with numpy and npy-append-array",
                    python.display()
                )),
            }
        }
        // Samba's own library, for what smbclient never asks of a server.
        "samba" => {
            let library = Command::new("/usr/bin/python3")
                .args(["-c", "import samba.samba3.libsmb_samba_internal"])
                .output_alone();
            match library {
                Ok(output) if output.status.success() => None,
                _ => Some("needs Samba's library for /usr/bin/python3 (python3-samba)".into()),
            }
        }
        "fusermount3" => missing_program(need).or_else(|| {
            let mode = fs::metadata("/dev/fuse").map_or(0, |device| device.mode());
            (mode & 0o6 != 0o6).then(|| "needs a /dev/fuse that is open to all users".into())
        }),
        "prune" => {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            let mut numbers = release
                .split('.')
                .map_while(|part| part.parse::<u32>().ok());
            let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            (kernel < (6, 18)).then(|| "needs Linux 6.18, which forgets files when asked".into())
        }
        program => missing_program(program),
    }
}

fn missing_program(program: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|at| at.join(program).exists());
    (!found).then(|| format!("needs the program {program}"))
}

/// Says so, for people and, in the file that `NPYFS_SKIPS` names, for the script that counts.
pub fn skip(reason: &str) {
    let current = thread::current();
    let line = format!("SKIP {}: {reason}\n", current.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(path) = env::var_os("NPYFS_SKIPS") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

fn python_path() -> PathBuf {
    match env::var_os("NPYFS_PYTHON") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
    }
}

/// What a Python script prints; its arguments are in `sys.argv[1:]`. Needs `require!(python)`.
#[track_caller]
pub fn python<A: AsRef<OsStr>>(script: &str, arguments: &[A]) -> String {
    let output = run(&mut python_command(script, arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// The command that [`python`] runs.
pub fn python_command<A: AsRef<OsStr>>(script: &str, arguments: &[A]) -> Command {
    let mut command = Command::new(python_path());
    command.arg("-c").arg(script).args(arguments);
    command
}

/// What the Python script tests/NAME prints. Needs `require!(python)`.
#[track_caller]
pub fn script<A: AsRef<OsStr>>(name: &str, arguments: &[A]) -> String {
    let output = run(script_command(name).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// The command that runs the Python script tests/NAME.
pub fn script_command(name: &str) -> Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut command = bare_python();
    command.arg(tests.join(name));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The Python that has numpy.
pub fn bare_python() -> Command {
    Command::new(python_path())
}

/// An ordinary user. Tests that use one need `require!(root)`.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// `npyfs-test`, which scripts/setup.sh makes, else nobody.
    pub fn ordinary() -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let made = passwd.lines().find_map(|line| {
            let mut fields = line.strip_prefix("npyfs-test:")?.split(':').skip(1);
            let uid = fields.next()?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        });
        made.unwrap_or(Self {
            uid: 65534,
            gid: 65534,
        })
    }

    /// A command that runs as this user.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.uid(self.uid).gid(self.gid).current_dir("/");
        command
    }
}
