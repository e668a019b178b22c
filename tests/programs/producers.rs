//! Many programs, one array: whatever they are written in and however they write, every chunk is
//! there once, whole and in one piece, and readers never see anything else (P1, P2, P4).

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Mount, bare_python, eventually, parked, run, script, script_command};

const CHUNKS: &str = "500";

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/producers")
        .join(name)
}

fn compile(mount: &Mount, source: &str) -> std::path::PathBuf {
    let program = mount.scratch(source.trim_end_matches(".c"));
    let mut gcc = Command::new("gcc");
    run(gcc
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(file(source)));
    program
}

/// A program at work, which does not outlive a test that fails.
struct Working(Option<Child>);

impl Working {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Working(Some(command.stderr(Stdio::piped()).spawn_alone().unwrap()))
    }

    fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut().unwrap();
        child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, and tells what it printed.
    #[track_caller]
    fn finish(mut self, what: &str) -> String {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{what}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn eight_programs_append_at_once_and_every_chunk_is_there_once_and_whole() {
    require!(fuse, python, gcc, rsync, awk);
    append_at_once(Mount::new());
}

#[test]
fn eight_programs_append_at_once_and_readers_through_the_page_cache_see_whole_chunks() {
    require!(fuse, python, gcc, rsync, awk);
    append_at_once(Mount::builder().words("cached").start());
}

fn append_at_once(mount: Mount) {
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let (producer, reader) = (compile(&mount, "producer.c"), compile(&mount, "reader.c"));
    let (data, stop) = (dataset.join("data.npy"), mount.scratch("stop"));
    let local = mount.scratch("local");
    fs::create_dir(&local).unwrap();

    let c = |mode: &str, p: &str| {
        let mut command = Command::new(&producer);
        command.arg(mode).arg(&dataset).args([p, CHUNKS]);
        command
    };
    let python = |how: &str, p: &str| {
        let mut command = script_command("producers/rows.py");
        command.arg(how).arg(&dataset).args([p, CHUNKS]);
        command
    };
    let shell = |how: &str, p: &str| {
        let mut command = Command::new("sh");
        let script = file("producer.sh");
        command.arg(script).arg(how).arg(&dataset).args([p, CHUNKS]);
        command
    };
    let mut rsync = Command::new("sh");
    rsync
        .args(["-ec", "\"$0\" local \"$1\" 7 500; rsync -a \"$1/\" \"$2/\""])
        .arg(&producer)
        .args([&local, &dataset]);

    let mut c_reader = Command::new(&reader);
    c_reader.args([&data, &stop]);
    let mut python_reader = script_command("producers/rows.py");
    python_reader.arg("read").args([&data, &stop]);
    let mut readers = [&mut c_reader, &mut python_reader].map(Working::start);
    let producers = [
        ("np.save", python("save", "0")),
        ("np.save and rename", python("replace", "1")),
        ("C, pieces", c("pieces", "2")),
        ("C, header last", c("patch", "3")),
        ("shell", shell("direct", "4")),
        ("dd, cat, head and tail, cp", shell("tools", "5")),
        ("C, two processes a file", c("halves", "6")),
        ("rsync", rsync),
    ]
    .map(|(what, mut command)| (what, Working::start(&mut command)));
    for (what, child) in producers {
        child.finish(what);
    }
    for reader in &mut readers {
        assert!(!reader.has_ended(), "a reader gave up");
    }
    fs::write(&stop, "").unwrap();

    let rows = script(
        "producers/rows.py",
        &["check", dataset.to_str().unwrap(), "8", CHUNKS],
    );
    for reader in readers {
        let said = reader.finish("a reader");
        let (opens, last) = said.trim().split_once(' ').unwrap();
        assert_eq!(last, rows.trim(), "a reader's last look");
        assert!(opens.parse::<u32>().unwrap() > 20, "only {opens} opens");
    }

    // A producer may retry all of it (P3).
    run(Command::new("rsync")
        .args(["-a", "--ignore-times"])
        .arg(local.join(""))
        .arg(&dataset));
    let mount = mount.remount();
    let dataset = mount.path("run");
    let again = script(
        "producers/rows.py",
        &["check", dataset.to_str().unwrap(), "8", CHUNKS],
    );
    assert_eq!(again, rows);
}

#[test]
fn a_producer_that_is_killed_leaves_no_part_of_its_chunk_and_its_retry_succeeds() {
    require!(fuse, python);
    let mount = Mount::new();
    let half = "import sys, time, io, numpy as np
file = io.BytesIO()
np.save(file, np.arange(int(sys.argv[2]), dtype='<i8'))
with open(sys.argv[1], 'wb', buffering=0) as out:
    out.write(file.getvalue()[:-1])
    print('ready', flush=True)
    time.sleep(60)";
    let whole = "import sys, numpy as np
np.save(sys.argv[1], np.arange(int(sys.argv[2]), dtype='<i8'))
print(np.load(sys.argv[1].replace('x.npy', 'data.npy')).shape)";
    // In memory, and streaming into the array's tail.
    for (name, rows) in [("small", "1000"), ("large", "500000")] {
        let dataset = mount.path(name);
        fs::create_dir(&dataset).unwrap();
        let path = dataset.join("x.npy");
        let mut writer = bare_python();
        writer.args(["-c", half]).arg(&path).arg(rows);
        writer.stdout(Stdio::piped());
        let mut writer = parked(&mut writer);
        let mut ready = [0; 5];
        let stdout = writer.child().stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut ready).unwrap();
        writer.child().kill().unwrap();
        writer.child().wait().unwrap();
        // Its FLUSH at exit comes from the process that opened it: the chunk is refused there.
        assert!(
            eventually(Duration::from_secs(5), || !path.exists()),
            "{name}"
        );
        let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
        assert!(log.contains("x.npy refused: ends after"), "{log}");
        let said = common::python(whole, &[path.to_str().unwrap(), rows]);
        assert_eq!(said, format!("({rows},)\n"));
    }
    mount.expect_warning("flush");
}
