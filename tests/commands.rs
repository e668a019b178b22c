//! The commands as a shell meets them: where their output goes, what they refuse, how they end.

mod common;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Chunk, Style, npyfs, run};

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
    command.args(files).output().unwrap()
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
    vec![
        command("check", [&store]),
        command("status", [&store]),
        command("status", [OsStr::new("--json"), store.as_os_str()]),
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
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = ends(&output, UNREAD);
        assert_eq!(said, "", "{command:?}");
    }
}

#[test]
fn output_that_cannot_be_written_fails_every_command() {
    let files = Files::new();
    for mut command in printing(&files) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = command.stdout(full).stderr(Stdio::piped()).spawn();
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
        (command("check", [""; 0]), USAGE),
        (command("mount", ["/no/such/store", "/no/such/path"]), STORE),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = command.stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
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
