//! The commands as a shell meets them: where their output goes, what they refuse, how they end.

use crate::common;
use crate::common::Started as _;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Chunk, Mount, Place, Style, counted, npyfs, put_chunk, rows_of, run};

const USAGE: i32 = 2;
const STORE: i32 = 4;
const FAILED: i32 = 8;
const UNREAD: i32 = 10;

fn small(n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(0, number));
    all.filter(|it| it.style() == Style::Small)
        .take(n)
        .collect()
}

/// A directory with files to append, beside where a dataset may be made.
struct Files {
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("store")).unwrap();
        Self {
            root,
            _directory: directory,
        }
    }

    fn store(&self, path: &str) -> PathBuf {
        self.root.join("store").join(path)
    }

    fn chunk(&self, chunk: Chunk) -> PathBuf {
        self.file(&chunk.name(), &chunk.bytes())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn command<A: AsRef<OsStr>>(word: &str, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(npyfs());
    command.arg(word).args(arguments);
    command
}

fn append(dataset: &Path, files: &[&PathBuf]) -> Output {
    let mut command = command("append", [dataset]);
    command.args(files).output_alone().unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    let said = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Commands that print something and would end well.
fn printing(files: &Files) -> Vec<Command> {
    let chunks = small(2).map_to_paths(files);
    ends(&append(&files.store("run"), &[&chunks[0]]), 0);
    let store = files.store("");
    let mut appending = command("append", [files.store("run")]);
    appending.args(&chunks);
    vec![
        command("check", [&store]),
        command("status", [&store]),
        command("status", [OsStr::new("--json"), store.as_os_str()]),
        appending,
        command("help", ["check"]),
        command("check", ["--help"]),
        command("--version", [""; 0]),
        command("--help", [""; 0]),
    ]
}

trait ToPaths {
    fn map_to_paths(self, files: &Files) -> Vec<PathBuf>;
}

impl ToPaths for Vec<Chunk> {
    fn map_to_paths(self, files: &Files) -> Vec<PathBuf> {
        self.into_iter().map(|chunk| files.chunk(chunk)).collect()
    }
}

#[test]
fn a_reader_who_has_gone_ends_every_command_quietly() {
    let files = Files::new();
    for mut command in printing(&files) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn_alone();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = ends(&output, UNREAD);
        assert_eq!(said, "", "{command:?}");
    }
    // Whoever reads `append` is not who wants the chunks in.
    let status = run(&mut command(
        "status",
        [&files.store("run"), &"--json".into()],
    ));
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("\"chunks\": 2"), "{status}");
}

#[test]
fn output_that_cannot_be_written_fails_every_command() {
    let files = Files::new();
    for mut command in printing(&files) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = command.stdout(full).stderr(Stdio::piped()).spawn_alone();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = ends(&output, FAILED);
        assert!(
            said.contains("cannot print: No space left"),
            "{command:?}: {said}"
        );
    }
}

#[test]
fn a_reason_that_cannot_be_written_leaves_the_exit_code() {
    for (mut command, code) in [
        (command("check", ["/no/such/path"]), STORE),
        (command("check", [""; 0]), USAGE),
        (command("mount", ["/no/such/store", "/no/such/path"]), STORE),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = command.stderr(full).status_alone().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
    }
}

#[test]
fn the_same_mistake_has_the_same_code_in_all_commands() {
    let files = Files::new();
    let file = files.chunk(small(1)[0]);
    fs::create_dir(files.store("empty")).unwrap();
    let with_file = |word: &str, path: &Path| match word {
        "append" => append(path, &[&file]),
        _ => command(word, [path]).output_alone().unwrap(),
    };
    for word in ["check", "status", "append"] {
        // No directory; of no use to a shell either.
        ends(&with_file(word, &file), STORE);
        ends(&with_file(word, &file.join("below")), STORE);
        ends(
            &command(word, ["--no-such-option"]).output_alone().unwrap(),
            USAGE,
        );
    }
    for word in ["check", "status"] {
        let missing = ends(&with_file(word, &files.store("missing")), STORE);
        assert!(missing.contains("No such file"), "{missing}");
        let said = ends(&with_file(word, &files.store("empty")), STORE);
        assert!(said.contains("holds no dataset"), "{said}");
    }
    for word in ["check", "append", "mount", "umount"] {
        ends(&command(word, [""; 0]).output_alone().unwrap(), USAGE);
    }
}

#[test]
fn help_lists_every_exit_code() {
    let help = run(&mut command("--help", [""; 0]));
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, table) = help.split_once("Exit codes:").unwrap();
    let codes: Vec<i32> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert_eq!(codes, (0..=UNREAD).collect::<Vec<_>>(), "{help}");
}

#[test]
fn append_tries_every_file_and_says_what_became_of_it() {
    let files = Files::new();
    let chunks = small(3);
    let paths = chunks.clone().map_to_paths(&files);
    let text = files.file("text.npy", b"no array");
    let odd = files.file("notes.txt", &chunks[0].bytes());
    let missing = files.root.join("missing.npy");
    let fifo = files.root.join("fifo.npy");
    run(Command::new("mkfifo").arg(&fifo));
    ends(&append(&files.store("run"), &[&paths[0]]), 0);
    // Other bytes under a name that is committed.
    fs::create_dir(files.root.join("other")).unwrap();
    let other = files.root.join("other").join(chunks[0].name());
    fs::write(&other, chunks[1].bytes()).unwrap();
    // Other rows.
    let narrow = {
        let mut bytes = npyfs::npy::Header::encode(&"<u8".parse().unwrap(), &[1, 3]).unwrap();
        bytes.extend([0; 24]);
        files.file("narrow.npy", &bytes)
    };
    let all = [
        &text, &paths[0], &odd, &missing, &fifo, &paths[1], &other, &narrow, &paths[2], &paths[2],
    ];
    let output = append(&files.store("run"), &all);
    let said = ends(&output, FAILED);
    let rows: Vec<u64> = chunks.iter().map(|chunk| chunk.rows()).collect();
    let ends_at = [rows[0], rows[0] + rows[1], rows[0] + rows[1] + rows[2]];
    let expected = [
        "refused: ".to_owned(),
        format!("was there already, as rows 0 to {}", ends_at[0]),
        "refused: notes.txt is not a name for a chunk".into(),
        "refused: cannot open it: No such file".into(),
        "refused: not a regular file".into(),
        format!("appended as rows {} to {}", ends_at[0], ends_at[1]),
        "refused: ".into(),
        "refused: rows of shape (3,), this dataset holds rows of shape (4,)".into(),
        format!("appended as rows {} to {}", ends_at[1], ends_at[2]),
        format!(
            "was there already, as rows {} to {}",
            ends_at[1], ends_at[2]
        ),
    ];
    let lines: Vec<&str> = std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .collect();
    assert_eq!(lines.len(), all.len(), "{said}");
    for ((line, path), expected) in lines.iter().zip(all).zip(expected) {
        let expected = format!("{}: {expected}", path.display());
        assert!(line.starts_with(&expected), "'{line}' is not '{expected}'");
    }
    assert!(said.contains("6 of 10 files were refused"), "{said}");
    assert_eq!(common::chunks_in(&files.store("run/data.npy")), chunks);
}

#[test]
fn append_takes_more_files_than_it_may_open_at_once() {
    let files = Files::new();
    let chunk = small(1)[0];
    let names: Vec<PathBuf> = (0..100)
        .map(|n| files.file(&format!("{n:03}.npy"), &chunk.bytes()))
        .collect();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]);
    limited.arg(npyfs()).arg("append").arg(files.store("run"));
    let said = ends(&limited.args(&names).output_alone().unwrap(), 0);
    assert_eq!(said.matches(": appended as rows").count(), 100, "{said}");
}

#[test]
fn append_leaves_files_in_the_datasets_own_directory_and_a_mount_lists_them_once() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.store("run");
    fs::create_dir(&dataset).unwrap();
    let files: Vec<PathBuf> = (0..3).map(|n| dataset.join(format!("{n}.npy"))).collect();
    for (n, file) in files.iter().enumerate() {
        fs::write(file, counted(n as u64 * 4, 4)).unwrap();
    }
    let said = ends(&append(&dataset, &files.iter().collect::<Vec<_>>()), 0);
    assert!(said.contains("appended as rows 8 to 12"), "{said}");
    for (n, file) in files.iter().enumerate() {
        assert_eq!(fs::read(file).unwrap(), counted(n as u64 * 4, 4));
    }
    let mut listed: Vec<_> = fs::read_dir(mount.path("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort();
    assert_eq!(listed, ["0.npy", "1.npy", "2.npy", "data.npy"]);
    assert_eq!(rows_of(&mount.path("run")), (0..12).collect::<Vec<u64>>());
}

#[test]
fn append_makes_no_directory_for_files_that_are_no_chunks() {
    let files = Files::new();
    let text = files.file("text.npy", b"no array");
    let missing = files.root.join("missing.npy");
    let said = ends(&append(&files.store("a/b/run"), &[&text, &missing]), FAILED);
    assert!(said.contains("2 of 2 files were refused"), "{said}");
    assert!(!files.store("a").exists());
    // One is enough.
    let good = files.chunk(small(1)[0]);
    ends(&append(&files.store("a/b/run"), &[&text, &good]), FAILED);
    assert!(files.store("a/b/run/data.npy").exists());
    // What a mount could not show.
    for path in ["x.npy/run", "run/data[1:2].npy", "run/.npyfs/x", ".npyfs"] {
        let said = ends(&append(&files.store(path), &[&good]), STORE);
        assert!(!files.store(path).exists(), "{said}");
    }
}

#[test]
fn append_refuses_a_store_of_datasets() {
    require!(fuse);
    let files = Files::new();
    let file = files.chunk(small(1)[0]);
    ends(&append(&files.store("group/run"), &[&file]), 0);
    for path in ["", "group"] {
        let said = ends(&append(&files.store(path), &[&file]), STORE);
        let named = files.store("group/run").display().to_string();
        assert!(
            said.contains("is a store") && said.contains(&named),
            "{said}"
        );
        assert!(!files.store(path).join(".npyfs").exists());
    }
    // It can be mounted still. An empty store that is mounted is one too.
    let mount = Mount::builder().store(&files.store("")).start();
    for path in [files.store(""), mount.path("")] {
        let said = ends(&append(&path, &[&file]), STORE);
        let named = mount.path("").display().to_string();
        assert!(said.contains(named.trim_end_matches('/')), "{said}");
        assert!(said.contains("is the store of the mount"), "{said}");
    }
    // In a mounted store it is plain that this is a dataset, which has others below.
    ends(&append(&files.store("group"), &[&file]), 0);
    assert_eq!(common::chunks_in(&mount.path("group/data.npy")), small(1));
    ends(&append(&files.store("group"), &[&file]), 0);
    mount.finish();
    let empty = Place::new();
    run(&mut empty.mount());
    let said = ends(&append(&empty.store(), &[&file]), STORE);
    run(&mut empty.umount());
    assert!(said.contains("is the store of the mount"), "{said}");
    // A directory with others may be a store whose datasets are empty yet.
    fs::create_dir_all(empty.store().join("run")).unwrap();
    let said = ends(&append(&empty.store(), &[&file]), STORE);
    assert!(said.contains("may be a store"), "{said}");
    assert!(!empty.store().join(".npyfs/chunks.log").exists());
    fs::remove_dir(empty.store().join("run")).unwrap();
    // An empty directory may become a dataset.
    ends(&append(&empty.store(), &[&file]), 0);
}

#[test]
fn append_by_way_of_a_mount_goes_to_the_store() {
    require!(fuse);
    let mut mount = Mount::new();
    let chunks = small(4);
    let files = Files::new();
    let paths = chunks.clone().map_to_paths(&files);
    fs::create_dir(mount.path("run")).unwrap();
    // Nobody writes it.
    ends(&append(&mount.path("run"), &[&paths[0]]), 0);
    assert_eq!(common::chunks_in(&mount.path("run/data.npy")), chunks[..1]);
    ends(&append(&mount.path("made/by/append"), &[&paths[0]]), 0);
    assert_eq!(
        common::chunks_in(&mount.path("made/by/append/data.npy")),
        chunks[..1]
    );
    // Its daemon writes it: only what is there already can be told.
    put_chunk(&mount.path("run"), chunks[1]).unwrap();
    let output = append(&mount.path("run"), &[&paths[1], &paths[2]]);
    let said = ends(&output, FAILED);
    let inside = format!("copy it into {} instead", mount.path("run").display());
    assert!(
        said.contains(&inside) && said.contains("was there already"),
        "{said}"
    );
    assert!(said.contains("1 of 2 files were refused"), "{said}");
    // A daemon that is stopped is not waited for, and one that is dead writes nothing.
    common::kill(mount.pid(), "STOP");
    let timeout = |path: &Path| {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "10"]).arg(npyfs());
        let command = command.arg("append").arg(path).arg(&paths[2]);
        command.output_alone().unwrap()
    };
    let stopped = timeout(&mount.path("run"));
    common::kill(mount.pid(), "CONT");
    ends(&stopped, FAILED);
    common::kill(mount.pid(), "KILL");
    assert!(common::eventually(
        std::time::Duration::from_secs(20),
        || { !common::is_alive(mount.pid()) }
    ));
    ends(&timeout(&mount.path("run")), 0);
    assert_eq!(common::chunks_in(&mount.store("run/data.npy")), chunks[..3]);
    mount.crash();
}

#[test]
fn a_directory_that_cannot_be_searched_is_not_called_good() {
    require!(root);
    let files = Files::new();
    let user = common::User::ordinary();
    let file = files.chunk(small(1)[0]);
    for dataset in ["a", "shut/b", "c"] {
        ends(&append(&files.store(dataset), &[&file]), 0);
    }
    let mode = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let binary = files.root.join("npyfs");
    run(Command::new("cp").arg(npyfs()).arg(&binary));
    mode(&files.root, 0o755);
    // What npyfs keeps of a dataset is its writer's alone.
    let owner = format!("{}:{}", user.uid, user.gid);
    let datasets = [files.store("a"), files.store("c")];
    run(Command::new("chown").args(["-R", &owner]).args(datasets));
    mode(&files.store("shut"), 0o700);
    mode(&files.store("c/.npyfs/chunks.log"), 0);
    let mut check = user.command(&binary);
    let output = check
        .arg("check")
        .arg(files.store(""))
        .output_alone()
        .unwrap();
    let said = ends(&output, FAILED);
    let (shut, c) = (files.store("shut"), files.store("c"));
    for path in [&shut, &c] {
        let line = format!("{}: NOT CHECKED: ", path.display());
        assert!(said.contains(&line), "no '{line}': {said}");
    }
    assert!(
        said.contains("a: good: ") && !said.contains("DAMAGED"),
        "{said}"
    );
    assert!(
        said.contains("2 directories could not be checked"),
        "{said}"
    );
}
