//! Which close judges a chunk, by the programs that make it hard to tell: they duplicate descriptors,
//! inherit, pass and reopen them, set a chunk's length first, write its header last, or are killed.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{
    Mount, Strace, User, alone, bare_python, close, errno, eventually, inside_a_private_namespace,
    kill, missing, npy, npyfs, parked, parse, put, python_command, run, script, script_command,
    skip,
};
use nix::errno::Errno;

const HEADER: usize = 128;
const SOON: Duration = Duration::from_secs(10);

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// 100 rows of 3, numbered from `first`.
fn chunk(first: u32) -> Vec<u8> {
    npy("<f8", "(100, 3)", &numbers(first..first + 300))
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|n| f64::from(n).to_le_bytes()).collect()
}

fn source(mount: &Mount) -> PathBuf {
    let path = mount.scratch("source.npy");
    fs::write(&path, chunk(0)).unwrap();
    path
}

fn program(mount: &Mount, name: &str) -> PathBuf {
    let built = mount.scratch(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/closers");
    run(Command::new("gcc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(&built)
        .arg(source.join(format!("{name}.c"))));
    built
}

/// The array is the source's rows, once for each of these names, and each of them is the source.
#[track_caller]
fn each_is_the_source(dataset: &Path, names: &[String]) {
    let whole = chunk(0);
    for name in names {
        assert!(fs::read(dataset.join(name)).unwrap() == whole, "{name}");
    }
    let array = parse(&fs::read(dataset.join("data.npy")).unwrap());
    assert_eq!(array.shape, [100 * names.len() as u64, 3]);
    assert!(array.body == whole[HEADER..].repeat(names.len()));
}

fn log_of(dataset: &Path) -> String {
    fs::read_to_string(dataset.join(".npyfs/log")).unwrap_or_default()
}

/// The chunk was refused: its name is gone, a line says why, and no row of it is in the array.
#[track_caller]
fn is_refused(path: &Path, reason: &str) {
    assert!(
        eventually(SOON, || !path.exists()),
        "{} stays",
        path.display()
    );
    let dataset = path.parent().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let log = log_of(dataset);
    let line = format!("{name} refused: ");
    assert!(
        log.lines()
            .any(|it| it.contains(&line) && it.contains(reason)),
        "no line of {name} with '{reason}': {log}"
    );
    assert!(!dataset.join("data.npy").exists(), "{name}");
}

/// What was accepted of refused chunks, newest first.
fn kept(dataset: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dataset.join(".npyfs/rejected")).unwrap();
    entries
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn python_and_numpy_duplicate_truncate_reopen_and_rewrite_one_array_in_every_way() {
    require!(fuse, python);
    let _alone = alone();
    let (_mount, dataset) = with_dataset();
    let said = script("closers/numpy_ways.py", &[dataset.to_str().unwrap()]);
    let ways: usize = said.trim().parse().unwrap();
    assert_eq!(
        fs::read_dir(&dataset).unwrap().count(),
        ways + 1,
        "{}",
        log_of(&dataset)
    );
}

/// numpy swallows the error of a write that its file object buffers; the closes say it.
#[test]
fn every_close_of_a_handle_says_that_other_bytes_were_refused() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("EEXIST");
    let path = dataset.join("x.npy");
    put(&path, &chunk(0)).unwrap();
    let script = r#"
import errno, os, sys
import numpy as np
path = sys.argv[1]
def closes(fd):
    try:
        os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'ok'
for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
    fd = os.open(path, flags)
    second = os.dup(fd)
    file = os.fdopen(os.dup(fd), 'r+b', buffering=0)
    if flags & os.O_TRUNC:
        with open(sys.argv[2], 'rb') as source:
            os.write(fd, source.read(128))
    file.seek(128)
    try:
        np.full(300, 7.0).tofile(file)
    except OSError:
        pass
    print(closes(os.dup(fd)), closes(second), closes(os.dup(fd)), closes(fd))
    try:
        file.close()
    except FileExistsError:
        print('EEXIST')
"#;
    let source = source(&mount);
    let output = run(&mut python_command(script, &[&path, &source]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "EEXIST EEXIST EEXIST EEXIST\nEEXIST\n".repeat(2));
    each_is_the_source(&dataset, &["x.npy".into()]);
}

/// Header, rows and the whole are `$h`, `$r`, `$p`, the shell is `$sh`.
const GROUPS: [(&str, &str); 10] = [
    (
        "output saved and restored",
        r#"{ cat "$h"; echo progress >&2; cat "$r"; } > "$x""#,
    ),
    (
        "exec",
        r#"exec 3> "$x"
printf '\223NUMPY\001\000v\000%-117s\n' "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }" >&3
cat "$r" >&3
exec 3>&-"#,
    ),
    (
        "builtins with redirections",
        r#"{ cat "$h"; : > /dev/null; read line < "$h" || :; eval 'cat "$r"' 2>&1; echo end > /dev/null; } > "$x""#,
    ),
    ("a subshell's halves", r#"(cat "$h"; (cat "$r")) > "$x""#),
    (
        "a pipe's end",
        r#"cat "$r" | { cat "$h"; echo progress >&2; cat; } > "$x""#,
    ),
    (
        "in the background",
        r#"{ cat "$h"; { sleep 0.02; cat "$r"; } & wait; } > "$x""#,
    ),
    ("/dev/stdout", r#"cp "$p" /dev/stdout > "$x""#),
    ("/dev/fd", r#"$sh -c 'cat "$p" > /dev/fd/4' 4> "$x""#),
    (
        "/proc/self/fd",
        r#"$sh -c 'cp "$p" /proc/self/fd/1' > "$x""#,
    ),
    (
        "gone on with by name",
        r#"{ cat "$h"; cat "$r" >> /dev/stdout; } > "$x""#,
    ),
];

fn shell_writes_in_groups(shell: &[&str]) {
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = source(&mount);
    let (head, rows) = (mount.scratch("head"), mount.scratch("rows"));
    fs::write(&head, &chunk(0)[..HEADER]).unwrap();
    fs::write(&rows, &chunk(0)[HEADER..]).unwrap();
    let mut names = Vec::new();
    for (n, (what, group)) in GROUPS.iter().enumerate() {
        let name = format!("{n}.npy");
        let mut command = Command::new(shell[0]);
        let output = command
            .args(&shell[1..])
            .args(["-c", &format!("set -e\n{group}")])
            .env("sh", shell.join(" ").trim_end_matches(" -f"))
            .env("x", dataset.join(&name))
            .env("h", &head)
            .env("r", &rows)
            .env("p", &source)
            .stdin(Stdio::null())
            .output_alone()
            .unwrap();
        let log = log_of(&dataset);
        assert!(output.status.success(), "{what}: {output:?}\n{log}");
        names.push(name);
        each_is_the_source(&dataset, &names);
    }
}

#[test]
fn bash_writes_a_chunk_in_groups() {
    require!(fuse, bash);
    shell_writes_in_groups(&["bash"]);
}

#[test]
fn dash_writes_a_chunk_in_groups() {
    require!(fuse, dash);
    shell_writes_in_groups(&["dash"]);
}

#[test]
fn zsh_writes_a_chunk_in_groups() {
    require!(fuse, zsh);
    shell_writes_in_groups(&["zsh", "-f"]);
}

#[test]
fn busybox_writes_a_chunk_in_groups() {
    require!(fuse, busybox);
    shell_writes_in_groups(&["busybox", "sh"]);
}

/// Load on every processor for as long as it lives, and for two minutes at most.
struct Load(Child);

impl Load {
    fn start() -> Self {
        let mut load = Command::new("stress-ng");
        load.args(["--cpu", "4", "--timeout", "120s", "--quiet"]);
        Self(load.stdout(Stdio::null()).spawn_alone().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        kill(self.0.id().cast_signed(), "TERM");
        self.0.wait().unwrap();
    }
}

/// How many rounds where some would do and more are better.
fn rounds(all: u32) -> u32 {
    let long = std::env::var_os("NPYFS_LONG").is_some();
    if long { all } else { all.min(50) }
}

/// Starts tests/closers/paused.c again and again with a chunk as its output, idle and under load.
/// `launch` gets the dataset, the program and the number of rounds.
fn starts_a_program_that_pauses(idle: u32, busy: u32, launch: impl Fn(&Path, &Path, u32)) {
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let paused = program(&mount, "paused");
    let check = |dataset: &Path, rounds: u32| {
        let array = parse(&fs::read(dataset.join("data.npy")).unwrap());
        assert_eq!(array.shape, [u64::from(rounds) * 100, 3]);
        for (n, rows) in (0..).zip(array.body.chunks(2400)) {
            assert!(
                rows == numbers(n * 1000..n * 1000 + 300),
                "round {n}: other rows"
            );
        }
    };
    launch(&dataset, &paused, idle);
    check(&dataset, idle);
    if missing("stress-ng").is_some() {
        skip("needs the program stress-ng for the rounds under load");
        return;
    }
    let dataset = mount.path("busy");
    fs::create_dir(&dataset).unwrap();
    let load = Load::start();
    launch(&dataset, &paused, busy);
    drop(load);
    check(&dataset, busy);
}

#[test]
fn a_program_that_python_starts_may_write_after_python_has_closed() {
    require!(fuse, python, gcc);
    starts_a_program_that_pauses(300, rounds(300), |dataset, paused, rounds| {
        let mut python = script_command("closers/launch.py");
        run(python.arg(dataset).arg(paused).arg(rounds.to_string()));
    });
}

#[test]
fn a_program_that_java_starts_may_write_after_java_has_closed() {
    require!(fuse, java, gcc);
    starts_a_program_that_pauses(150, rounds(150), |dataset, paused, rounds| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/closers/Launch.java");
        let mut java = Command::new("java");
        run(java
            .arg(source)
            .arg(dataset)
            .arg(paused)
            .arg(rounds.to_string()));
    });
}

#[test]
fn a_program_that_rust_starts_may_write_after_rust_has_closed() {
    require!(fuse, gcc);
    starts_a_program_that_pauses(300, rounds(300), |dataset, paused, rounds| {
        for n in 0..rounds {
            let file = File::create(dataset.join(format!("{n}.npy"))).unwrap();
            let mut child = Command::new(paused)
                .arg(n.to_string())
                .stdout(file)
                .spawn_alone()
                .unwrap();
            assert!(child.wait().unwrap().success(), "round {n}");
        }
    });
}

/// Runs tests/closers/descriptors.c, and has its rows in the array.
fn descriptors(mode: &str) {
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let (program, source) = (program(&mount, "descriptors"), source(&mount));
    let name = "x.npy".to_owned();
    let mut command = Command::new(program);
    // Until every process that has the pipe has ended.
    run(command.arg(mode).arg(dataset.join(&name)).arg(source));
    each_is_the_source(&dataset, &[name]);
}

#[test]
fn a_parent_may_write_the_header_and_its_child_the_rows() {
    require!(fuse, gcc);
    descriptors("inherited");
}

#[test]
fn a_daemon_may_be_made_after_the_header() {
    require!(fuse, gcc);
    descriptors("daemon");
}

#[test]
fn a_descriptor_may_be_passed_to_another_process_after_the_header() {
    require!(fuse, gcc);
    descriptors("passed");
}

#[test]
fn a_thread_with_a_table_of_its_own_may_write_the_rows() {
    require!(fuse, gcc);
    descriptors("thread");
}

#[test]
fn a_thread_with_a_table_of_its_own_is_seen_though_both_hold_as_many_descriptors() {
    require!(fuse, gcc);
    descriptors("thread-replaced");
}

#[test]
fn a_logger_that_runs_programs_may_keep_its_header_right_after_each_row() {
    require!(fuse, gcc);
    descriptors("logger");
}

/// The tables of processes are read one entry after the other.
#[test]
fn a_descriptor_is_seen_though_it_gets_another_number_while_tables_are_read() {
    require!(fuse, gcc);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let (program, source) = (program(&mount, "descriptors"), source(&mount));
    let count = if rounds(300) == 300 { 3000 } else { 500 };
    let mut command = Command::new(program);
    command
        .arg("moved")
        .arg(dataset.join("x"))
        .arg(source)
        .arg(count.to_string());
    run(&mut command);
    let names: Vec<_> = (0..count).map(|n| format!("x-{n}.npy")).collect();
    each_is_the_source(&dataset, &names);
}

#[test]
fn io_uring_may_open_write_and_close_a_chunk_and_go_on_with_one_that_was_closed() {
    require!(fuse, gcc);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let (program, source) = (program(&mount, "ring"), source(&mount));
    let mut names = Vec::new();
    for mode in ["direct", "registered"] {
        let name = format!("{mode}.npy");
        let mut command = Command::new(&program);
        command
            .arg(mode)
            .arg(dataset.join(&name))
            .arg(&source)
            .stdin(Stdio::null());
        let output = command.output_alone().unwrap();
        if output.status.code() == Some(77) {
            skip("io_uring_setup is refused here");
            return;
        }
        assert!(output.status.success(), "{mode}: {output:?}");
        names.push(name);
        // A ring closes without a word to the filesystem; the end of the file comes by itself.
        let data = dataset.join("data.npy");
        let length = (HEADER + 2400 * names.len()) as u64;
        let there = eventually(SOON, || {
            fs::metadata(&data).is_ok_and(|it| it.len() == length)
        });
        assert!(there, "{mode}: {}", log_of(&dataset));
        each_is_the_source(&dataset, &names);
    }
}

#[test]
fn perl_duplicates_what_it_writes() {
    require!(fuse, perl);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let script = r#"
my ($source, $target) = @ARGV;
open my $in, "<:raw", $source or die;
local $/;
my $data = <$in>;
open my $out, ">:raw", $target or die;
open my $dup, ">&", $out or die;
binmode $dup;
print $dup substr($data, 0, 128) or die;
close $dup or die "first: $!";
open my $saved, ">&", \*STDOUT or die;
open STDOUT, ">&", $out or die;
$| = 1;
print substr($data, 128, 1000) or die;
open STDOUT, ">&", $saved or die "second: $!";
seek $out, 0, 2;
print $out substr($data, 1128) or die;
close $out or die "last: $!";
"#;
    let name = "x.npy".to_owned();
    let mut perl = Command::new("perl");
    perl.args(["-e", script]).arg(source(&mount));
    run(perl.arg(dataset.join(&name)));
    each_is_the_source(&dataset, &[name]);
}

#[test]
fn ruby_duplicates_what_it_writes_and_reopens_what_it_made() {
    require!(fuse, ruby);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let script = r#"
require "tempfile"
source, dataset = ARGV
data = File.binread(source)
File.open(File.join(dataset, "dup.npy"), "wb") do |file|
  second = file.dup
  second.write(data[0, 128])
  second.close
  file.write(data[128..])
end
made = Tempfile.create(["made", ".npy"], dataset)
made.close
File.binwrite(made.path, data)
held = Tempfile.create(["held", ".npy"], dataset)
File.binwrite(held.path, data)
held.close
own = Tempfile.create(["own", ".npy"], dataset, binmode: true)
own.write(data)
own.close
puts made.path, held.path, own.path
"#;
    let mut ruby = Command::new("ruby");
    ruby.args(["-e", script]).arg(source(&mount));
    let said = run(ruby.arg(&dataset)).stdout;
    let said = String::from_utf8(said).unwrap();
    let mut names = vec!["dup.npy".to_owned()];
    for path in said.lines().map(Path::new) {
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 4);
    each_is_the_source(&dataset, &names);
}

#[test]
fn flock_holds_a_chunk_that_the_program_it_runs_writes() {
    require!(fuse, flock);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = source(&mount);
    let name = "x.npy".to_owned();
    let mut names = Vec::new();
    // The second time it is committed.
    for _ in 0..2 {
        let mut flock = Command::new("flock");
        flock.arg(dataset.join(&name)).arg("cp").arg(&source);
        run(flock.arg(dataset.join(&name)));
        names = vec![name.clone()];
        each_is_the_source(&dataset, &names);
    }
    assert_eq!(names.len(), 1);
}

#[test]
fn size_and_position_of_a_refused_chunk_can_be_asked_and_the_reason_comes_from_write_and_close() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    put(&dataset.join("first.npy"), &chunk(0)).unwrap();
    let wrong = npy("<f4", "(100, 3)", &[0; 1200]);
    let path = dataset.join("x.npy");
    let mut file = File::create(&path).unwrap();
    assert_eq!(errno(file.write_all(&wrong)), Errno::EINVAL);
    assert!(file.metadata().is_ok());
    file.seek(SeekFrom::End(0)).unwrap();
    assert_eq!(errno(file.write(b"more")), Errno::EINVAL);
    assert_eq!(errno(close(file)), Errno::EINVAL);
    let (head, rows) = (mount.scratch("head"), mount.scratch("rows"));
    fs::write(&head, &wrong[..HEADER]).unwrap();
    fs::write(&rows, &wrong[HEADER..]).unwrap();
    let mut sh = Command::new("sh");
    sh.args(["-c", r#"{ cat "$0"; cat "$1"; } > "$2""#]);
    let output = sh.args([&head, &rows, &path]).output_alone().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    for line in said.lines() {
        assert!(line.ends_with("Invalid argument"), "{said}");
    }
    assert!(said.lines().count() >= 2, "{said}");
}

fn short_chunk_is_refused(mount: &Mount, dataset: &Path, command: &mut Command) {
    let path = dataset.join("x.npy");
    let output = command.stdin(Stdio::null()).output_alone().unwrap();
    assert!(!output.status.success(), "{command:?}: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Invalid argument"), "{command:?}: {said}");
    assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT, "{command:?}");
    is_refused(&path, "ends after 33 of 100 rows");
    assert!(!dataset.join("data.npy").exists());
    mount.expect_warning("x.npy: EINVAL");
}

#[test]
fn a_chunk_that_ends_too_early_is_refused_at_close_whoever_writes_it() {
    require!(fuse, python, gcc, bash);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = mount.scratch("source.npy");
    fs::write(&source, &chunk(0)[..HEADER + 33 * 24 + 5]).unwrap();
    let path = dataset.join("x.npy");
    let refused = |command: &mut Command| short_chunk_is_refused(&mount, &dataset, command);
    refused(Command::new("cp").args([&source, &path]));
    for (shell, group) in [
        ("bash", r#"cat "$0" > "$1""#),
        ("sh", r#"dd if="$0" of="$1" bs=100 status=none"#),
        ("bash", r#"cat "$0" | (cat > "$1")"#),
    ] {
        let mut sh = Command::new(shell);
        refused(sh.args(["-c", group]).args([&source, &path]));
    }
    // As where a disk is full, but the process itself is stopped from writing more.
    let save = r#"
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 33 * 24 + 5,) * 2)
np.save(sys.argv[2], np.arange(300.0).reshape(100, 3))
"#;
    refused(&mut python_command(save, &[&source, &path]));
    let pieces = r#"
import sys
import numpy as np
with open(sys.argv[2], 'wb') as file:
    np.lib.format.write_array_header_1_0(
        file, {'descr': '<f8', 'fortran_order': False, 'shape': (100, 3)})
    np.arange(99.0).tofile(file)
    file.write(b'begun')
"#;
    refused(&mut python_command(pieces, &[&source, &path]));
    let c = program(&mount, "descriptors");
    refused(Command::new(c).arg("copy").args([&path, &source]));
    let log = log_of(&dataset);
    assert_eq!(log.lines().count(), 7, "{log}");
}

/// These shells open the file themselves, and do not look at what its last close says.
#[test]
fn dash_make_and_system_do_not_tell_that_a_chunk_was_refused_and_the_log_does() {
    require!(fuse, dash, make, perl);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("EINVAL");
    let source = mount.scratch("source.npy");
    fs::write(&source, &chunk(0)[..1000]).unwrap();
    let makefile = mount.scratch("Makefile");
    fs::write(&makefile, "all:\n\t@{ cat $(SOURCE); :; } > $(TARGET)\n").unwrap();
    let target = |name: &str| dataset.join(name);
    let mut dash = Command::new("dash");
    dash.args(["-c", r#"{ cat "$0"; :; } > "$1""#]).arg(&source);
    dash.arg(target("dash.npy"));
    let mut make = Command::new("make");
    make.arg("-f").arg(&makefile).arg("SHELL=/bin/dash");
    make.arg(format!("SOURCE={}", source.display()));
    make.arg(format!("TARGET={}", target("make.npy").display()));
    let mut system = Command::new("perl");
    let call = r#"exit(system("{ cat '$ARGV[0]'; :; } > '$ARGV[1]'") >> 8)"#;
    system.args(["-e", call]).arg(&source);
    system.arg(target("system.npy"));
    for (name, command) in [
        ("dash.npy", &mut dash),
        ("make.npy", &mut make),
        ("system.npy", &mut system),
    ] {
        run(command);
        assert_eq!(errno(fs::metadata(target(name))), Errno::ENOENT, "{name}");
        is_refused(&target(name), "ends after 36 of 100 rows");
    }
}

/// Half of a chunk whose length was set before, in several ways; then it waits to be killed.
const HALF: &str = r#"
import os, sys, time
import numpy as np
path, source, way = sys.argv[1:]
with open(source, 'rb') as file:
    whole = file.read()
file = open(path, 'w+b', buffering=0)
file.write(whole[:128])
if 'fallocate' in way:
    os.posix_fallocate(file.fileno(), 0, len(whole))
else:
    file.truncate(len(whole))
if 'fork' in way and os.fork() == 0:
    time.sleep(60)
if 'tofile' in way:
    np.arange(150.0).tofile(file)
else:
    file.write(whole[128:128 + 1200])
if 'dup' in way:
    os.close(os.dup(file.fileno()))
if 'sync' in way:
    os.fsync(file.fileno())
if 'exit' in way:
    print('ready', flush=True)
    os._exit(0)
print('ready', flush=True)
time.sleep(60)
"#;

const WAYS: [&str; 8] = [
    "truncate",
    "fallocate",
    "truncate-dup",
    "fallocate-tofile",
    "truncate-fork",
    "truncate-tofile-dup-fork",
    "truncate-sync",
    "truncate-exit",
];

/// Starts such a writer in a process group of its own, and kills all of it once it waits.
fn killed_half_way(path: &Path, source: &Path, way: &str) {
    let mut command = bare_python();
    command.args(["-c", HALF]).args([path, source]).arg(way);
    command.stdout(Stdio::piped()).process_group(0);
    let mut writer = parked(&mut command);
    let mut ready = [0; 6];
    let mut said = writer.child().stdout.take().unwrap();
    said.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    if way != "truncate-exit" {
        run(Command::new("kill").args(["-KILL", "--", &format!("-{}", writer.child().id())]));
    }
    writer.child().wait().unwrap();
    // The end of the pipe is the end of the last process of the group.
    assert_eq!(said.read(&mut ready).unwrap(), 0);
}

#[test]
fn a_writer_that_is_killed_half_way_through_a_length_that_it_set_leaves_no_zeros() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("ECANCELED");
    let source = source(&mount);
    for way in WAYS {
        let path = dataset.join(format!("{way}.npy"));
        killed_half_way(&path, &source, way);
        is_refused(&path, "ended without a close");
        let kept = kept(&dataset);
        assert!(
            kept[0][..HEADER + 1200] == chunk(0)[..HEADER + 1200],
            "{way}"
        );
    }
    let mut names = Vec::new();
    for way in WAYS {
        let name = format!("{way}.npy");
        put(&dataset.join(&name), &chunk(0)).unwrap();
        names.push(name);
    }
    each_is_the_source(&dataset, &names);
}

/// A daemon in a pid namespace and a mount namespace of its own, looked at through /proc: it sees no
/// process of ours.
struct Apart {
    unshare: Child,
    daemon: i32,
    scratch: tempfile::TempDir,
}

impl Apart {
    fn start() -> Self {
        let scratch = tempfile::Builder::new().prefix("npyfs-").tempdir().unwrap();
        let (store, mountpoint) = (scratch.path().join("store"), scratch.path().join("mnt"));
        fs::create_dir(&store).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        let log = File::create(scratch.path().join("log")).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.arg(npyfs()).arg("mount").arg("-f");
        unshare.arg(&store).arg(&mountpoint);
        unshare.stdin(Stdio::null()).stderr(log);
        let mut unshare = unshare.spawn_alone().unwrap();
        let (number, mut daemon) = (unshare.id(), 0);
        let children = format!("/proc/{number}/task/{number}/children");
        let mounted = eventually(Duration::from_secs(20), || {
            assert!(unshare.try_wait().unwrap().is_none(), "no daemon");
            let text = fs::read_to_string(&children).unwrap_or_default();
            daemon = text.trim().parse().unwrap_or(0);
            let inside = format!("/proc/{daemon}/root{}", mountpoint.display());
            daemon != 0 && Path::new(&inside).join(".npyfs/daemon").exists()
        });
        let apart = Self {
            unshare,
            daemon,
            scratch,
        };
        assert!(mounted, "no mount");
        apart
    }

    fn path(&self, relative: &str) -> PathBuf {
        let mountpoint = self.scratch.path().join("mnt");
        PathBuf::from(format!(
            "/proc/{}/root{}",
            self.daemon,
            mountpoint.display()
        ))
        .join(relative)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // The end of the first process of a namespace is the end of all of it.
        kill(self.daemon, "TERM");
        self.unshare.wait().unwrap();
        let log = fs::read_to_string(self.scratch.path().join("log")).unwrap();
        let bad = |line: &&str| line.contains("panicked") || line.contains(" ERROR ");
        assert_eq!(log.lines().find(bad), None);
    }
}

/// What a daemon that does not see who has a chunk open answers: the end of the chunk judges.
fn unseen_closes_are_judged_at_the_end(dataset: &Path, source: &Path) {
    let short = dataset.join("short.npy");
    put(&short, &chunk(0)[..HEADER + 1200]).unwrap();
    is_refused(&short, "ends after 50 of 100 rows");
    assert!(kept(dataset)[0][HEADER..] == chunk(0)[HEADER..HEADER + 1200]);
    for way in WAYS {
        let path = dataset.join(format!("{way}.npy"));
        killed_half_way(&path, source, way);
        is_refused(&path, "ended without a close");
        let newest = &kept(dataset)[0];
        assert!(
            newest[..HEADER + 1200] == chunk(0)[..HEADER + 1200],
            "{way}"
        );
    }
    // What is complete and came front to back is in the array when the close has returned.
    let whole = dataset.join("whole.npy");
    put(&whole, &chunk(0)).unwrap();
    each_is_the_source(dataset, &["whole.npy".into()]);
}

#[test]
fn a_daemon_in_a_pid_namespace_of_its_own_judges_what_it_cannot_see_at_the_end() {
    require!(fuse, root, python, unshare);
    let _alone = alone();
    let apart = Apart::start();
    let dataset = apart.path("ds");
    fs::create_dir(&dataset).unwrap();
    let source = apart.scratch.path().join("source.npy");
    fs::write(&source, chunk(0)).unwrap();
    unseen_closes_are_judged_at_the_end(&dataset, &source);
    let other = apart.path("other");
    fs::create_dir(&other).unwrap();
    let said = script("closers/numpy_ways.py", &[other.to_str().unwrap(), "late"]);
    assert!(said.trim().parse::<u32>().unwrap() > 20, "{said}");
}

/// A mount of an ordinary user that lets others in, as a fuse.conf of its own allows in a private
/// namespace.
fn mount_for_others() -> Option<Mount> {
    let real = Path::new("/etc/fuse.conf");
    if let Err(error) = fs::metadata(real) {
        skip(&format!("needs /etc/fuse.conf: {error}"));
        return None;
    }
    let conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(&conf, "user_allow_other\n").unwrap();
    fs::set_permissions(&conf, PermissionsExt::from_mode(0o644)).unwrap();
    run(Command::new("mount")
        .arg("--bind")
        .args([conf.path(), real]));
    let builder = Mount::builder().user(User::ordinary());
    Some(builder.words("allow_other").start())
}

#[test]
fn the_daemon_of_a_user_judges_what_processes_of_root_hold_at_the_end() {
    require!(fuse, root, python, fusermount3, unshare);
    let test = "the_daemon_of_a_user_judges_what_processes_of_root_hold_at_the_end";
    if !inside_a_private_namespace(test) {
        return;
    }
    let _alone = alone();
    let Some(mut mount) = mount_for_others() else {
        return;
    };
    mount.tolerate_warnings();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    unseen_closes_are_judged_at_the_end(&dataset, &source(&mount));
    let other = mount.path("other");
    fs::create_dir(&other).unwrap();
    let said = script("closers/numpy_ways.py", &[other.to_str().unwrap(), "late"]);
    assert!(said.trim().parse::<u32>().unwrap() > 20, "{said}");
}

/// The user's program has the header written and starts one of root's, which writes the rows after
/// the first has closed its own.
#[test]
fn the_daemon_of_a_user_counts_a_program_of_root_that_may_have_inherited_the_descriptor() {
    require!(fuse, root, fusermount3, gcc, unshare);
    let test =
        "the_daemon_of_a_user_counts_a_program_of_root_that_may_have_inherited_the_descriptor";
    if !inside_a_private_namespace(test) {
        return;
    }
    let _alone = alone();
    let user = User::ordinary();
    let Some(mount) = mount_for_others() else {
        return;
    };
    let (plain, source) = (program(&mount, "descriptors"), source(&mount));
    let helper = mount.scratch("helper");
    run(Command::new("cp").args([&plain, &helper]));
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o4755)).unwrap();
    let dataset = mount.path("ds");
    run(user.command("mkdir").arg(&dataset));
    let path = dataset.join("x.npy");
    let mut starts = user.command(&plain);
    starts.arg("starts").args([&path, &source, &helper]);
    let output = starts.stdin(Stdio::null()).output_alone().unwrap();
    if output.status.code() == Some(77) {
        skip("a setuid program does not run as root here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    run(user.command("cmp").args([&path, &source]));
}

/// One that did not inherit it cannot be told from those that have nothing: the last that is seen
/// judges, what was accepted is kept, and the other process hears of it.
#[test]
fn the_daemon_of_a_user_does_not_count_a_process_of_root_that_was_passed_the_descriptor() {
    require!(fuse, root, fusermount3, gcc);
    let _alone = alone();
    let user = User::ordinary();
    let mount = Mount::builder().user(user).start();
    mount.expect_warning("x.npy: EINVAL");
    let (program, source) = (program(&mount, "descriptors"), source(&mount));
    let dataset = mount.path("ds");
    run(user.command("mkdir").arg(&dataset));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut takes = Command::new(&program);
    takes
        .args(["takes", "-"])
        .arg(&source)
        .stdin(OwnedFd::from(ours));
    let mut sends = user.command(&program);
    sends.arg("sends").arg(dataset.join("x.npy")).arg(&source);
    sends.stdin(OwnedFd::from(theirs));
    let (mut taker, mut sender) = (parked(&mut takes), parked(&mut sends));
    drop((takes, sends));
    let code = |child: &mut Child| child.wait().unwrap().code();
    assert_eq!(code(sender.child()), Some(libc::EINVAL));
    assert_eq!(code(taker.child()), Some(libc::EINVAL));
    let log = run(user.command("cat").arg(dataset.join(".npyfs/log"))).stdout;
    let log = String::from_utf8(log).unwrap();
    assert!(
        log.contains("x.npy refused: ends after 50 of 100 rows"),
        "{log}"
    );
    let mut kept = user.command("sh");
    kept.args(["-c", r#"cat "$0"/.npyfs/rejected/*"#]);
    let kept = run(kept.arg(&dataset)).stdout;
    assert!(kept[HEADER..] == chunk(0)[HEADER..HEADER + 1200]);
}

/// A look into /proc takes long: a chunk that is written once, front to back, and closed has none.
#[test]
fn a_chunk_that_came_front_to_back_is_committed_without_a_look_at_processes() {
    require!(fuse, strace);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &chunk(0)).unwrap();
    let looks = |what: &str, write: &dyn Fn(&File)| {
        let trace = mount.scratch("trace");
        let strace = Strace::attach(mount.pid(), "open,openat,openat2", &[], &trace);
        let file = File::create(dataset.join(what)).unwrap();
        write(&file);
        close(file.try_clone().unwrap()).unwrap();
        close(file).unwrap();
        strace.detach();
        let trace = fs::read_to_string(trace).unwrap();
        trace
            .lines()
            .filter(|line| line.contains("\"/proc/"))
            .count()
    };
    let (head, rows) = (&chunk(0)[..HEADER], &chunk(0)[HEADER..]);
    let plain = looks("plain.npy", &|mut file| {
        file.write_all(head).unwrap();
        file.write_all(rows).unwrap();
    });
    assert_eq!(plain, 0);
    let large = npy("<f8", "(100000, 3)", &vec![0; 2_400_000]);
    let plain = looks("large.npy", &|mut file| file.write_all(&large).unwrap());
    assert_eq!(plain, 0);
    // In another order it is looked for who has it.
    let disordered = looks("disordered.npy", &|file| {
        file.write_all_at(rows, HEADER as u64).unwrap();
        file.write_all_at(head, 0).unwrap();
    });
    assert!(disordered > 0);
}

/// A user opens a chunk on a mount that lets no other user in, and hands the descriptor to root's
/// program, which writes all of it.
#[test]
fn a_user_of_no_access_who_was_handed_a_descriptor_hears_the_truth_at_its_close() {
    require!(fuse, root, python, fusermount3);
    const HANDED: &str = "
import os, socket, sys
path, source, uid, gid = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
    os.mkdir(os.path.dirname(path))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    socket.send_fds(theirs, [b'x'], [fd])
    os.close(fd)
    os._exit(0)
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
assert os.waitpid(child, 0)[1] == 0
assert os.write(fds[0], open(source, 'rb').read()) > 0
os.close(fds[0])
";
    let _alone = alone();
    let user = User::ordinary();
    let mount = Mount::builder().user(user).start();
    let (path, source) = (mount.path("ds/x.npy"), source(&mount));
    let mut handed = bare_python();
    handed.args(["-c", HANDED]).args([&path, &source]);
    run(handed.args([user.uid.to_string(), user.gid.to_string()]));
    let mut look = user.command("cat");
    let shown = run(look.arg(mount.path("ds/data.npy"))).stdout;
    assert!(parse(&shown).shape[0] > 0);
}

/// The process that was to write the rest is killed; the one that closes last has not seen to it.
#[test]
fn a_worker_that_is_killed_half_way_leaves_no_zeros_though_its_parent_closes() {
    require!(fuse, python);
    const WORKER: &str = "
import os, signal, sys
path, source = sys.argv[1], open(sys.argv[2], 'rb').read()
fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
os.ftruncate(fd, len(source))
if os.fork() == 0:
    os.pwrite(fd, source[: len(source) // 2], 0)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
try:
    os.close(fd)
except OSError as error:
    print(error.errno)
";
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("ECANCELED");
    let source = source(&mount);
    for n in 0..20 {
        let path = dataset.join(format!("worker-{n}.npy"));
        let mut worker = bare_python();
        worker.args(["-c", WORKER]).args([&path, &source]);
        let said = run(&mut worker).stdout;
        assert_eq!(said, format!("{}\n", Errno::ECANCELED as i32).as_bytes());
        is_refused(&path, "ended without a close");
    }
}
