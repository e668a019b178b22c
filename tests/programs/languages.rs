//! Programs in many languages write chunks straight into the mount: each is compiled or run here,
//! and its rows are checked in the array.

use crate::common;
use crate::common::Started as _;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Mount, eventually, npy, parse, put, run};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/producers")
}

/// Where what is compiled and fetched for these tests lies.
fn built() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/producers");
    fs::create_dir_all(&built).unwrap();
    built
}

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// Runs a producer; the array then has rows `[n, n + 0.5, n + 0.25]` for n from 0 to `rows`, and
/// nothing of it is left in a dataset of another dtype, where it ends with an error.
#[track_caller]
fn feeds(mut producer: Command, rows: u64) {
    let (mount, dataset) = with_dataset();
    run(producer.arg(&dataset));
    let array = parse(&fs::read(dataset.join("data.npy")).unwrap());
    assert_eq!(array.descr, "<f8");
    assert_eq!(array.shape, [rows, 3]);
    let wanted: Vec<u8> = (0..rows)
        .flat_map(|n| [0.0, 0.5, 0.25].map(|part| (n as f64 + part).to_le_bytes()))
        .flatten()
        .collect();
    assert!(array.body == wanted, "other rows");
    drop(mount);
}

/// The same, and in a dataset of another dtype it ends with an error.
#[track_caller]
fn feeds_and_hears(program: impl Fn() -> Command, rows: u64) {
    feeds(program(), rows);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("other.npy"), &npy("<f4", "(1, 3)", &[0; 12])).unwrap();
    mount.expect_warning(": EINVAL: dtype '<f8', this dataset holds '<f4'");
    let output: Output = program().arg(&dataset).output_alone().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(eventually(std::time::Duration::from_secs(5), || {
        fs::read_dir(&dataset).unwrap().count() == 2
    }));
}

#[test]
fn c() {
    require!(fuse, gcc);
    for (source, rows) in [("chunks", 100), ("stdio", 300)] {
        let program = built().join(format!("{source}-c"));
        run(Command::new("gcc")
            .args(["-Wall", "-O1", "-o"])
            .arg(&program)
            .arg(sources().join(format!("{source}.c"))));
        feeds_and_hears(|| Command::new(&program), rows);
    }
}

#[test]
fn python() {
    require!(fuse, python);
    let program = || {
        let mut python = common::bare_python();
        python.arg(sources().join("chunks.py"));
        python
    };
    feeds_and_hears(program, 200);
}

#[test]
fn cpp() {
    require!(fuse, gcc);
    if let Some(reason) = common::missing("g++") {
        common::skip(&reason);
        return;
    }
    let program = built().join("chunks-cpp");
    run(Command::new("g++")
        .args(["-Wall", "-O1", "-o"])
        .arg(&program)
        .arg(sources().join("chunks.cpp")));
    feeds_and_hears(|| Command::new(&program), 200);
}

#[test]
fn rust() {
    require!(fuse, cargo);
    run(Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(sources().join("rust/Cargo.toml"))
        .arg("--target-dir")
        .arg(built().join("rust")));
    let program = built().join("rust/debug/producers");
    feeds_and_hears(|| Command::new(&program), 300);
}

#[test]
fn java() {
    require!(fuse, javac, java);
    run(Command::new("javac")
        .arg("-d")
        .arg(built())
        .arg(sources().join("Chunks.java")));
    let program = || {
        let mut java = Command::new("java");
        java.args(["-XX:+UseSerialGC", "-cp"])
            .arg(built())
            .arg("Chunks");
        java
    };
    feeds_and_hears(program, 200);
}

#[test]
fn javascript() {
    require!(fuse, node);
    // scripts/setup.sh puts the packages there, with the program beside them.
    let place = built().join("javascript");
    if !place.join("node_modules/npyjs").exists() {
        common::skip("needs the npm packages of tests/producers/javascript");
        return;
    }
    let program = place.join("chunks.mjs");
    fs::copy(sources().join("javascript/chunks.mjs"), &program).unwrap();
    let node = || {
        let mut node = Command::new("node");
        node.arg(&program);
        node
    };
    feeds_and_hears(node, 200);
}

#[test]
fn fortran() {
    require!(fuse, gfortran);
    let program = built().join("chunks-fortran");
    run(Command::new("gfortran")
        .args(["-Wall", "-O1", "-o"])
        .arg(&program)
        .arg(sources().join("chunks.f90")));
    // gfortran's library tells nobody what its writes are answered, asked for a status or not, and
    // then keeps the file open: the program looks whether all of its chunk is there.
    feeds_and_hears(|| Command::new(&program), 100);
}

fn interpreted(program: &'static str, source: &'static str) -> impl Fn() -> Command {
    move || {
        let mut command = Command::new(program);
        command.arg(sources().join(source));
        command
    }
}

#[test]
fn perl() {
    require!(fuse, perl);
    feeds_and_hears(interpreted("perl", "chunks.pl"), 100);
}

#[test]
fn shell() {
    require!(fuse, sh, awk);
    let (mount, dataset) = with_dataset();
    run(interpreted("sh", "chunks.sh")().arg(&dataset));
    let array = parse(&fs::read(dataset.join("data.npy")).unwrap());
    assert_eq!(
        (array.descr.as_str(), &array.shape[..]),
        ("<u2", &[100, 3][..])
    );
    let wanted: Vec<u8> = (0..300u16).flat_map(u16::to_le_bytes).collect();
    assert_eq!(array.body, wanted);
    let other = mount.path("other");
    fs::create_dir(&other).unwrap();
    put(&other.join("0.npy"), &npy("<f4", "(1, 3)", &[0; 12])).unwrap();
    mount.expect_warning("shell.npy: EINVAL: dtype '<u2', this dataset holds '<f4'");
    let output = interpreted("sh", "chunks.sh")().arg(&other).output_alone();
    assert!(!output.unwrap().status.success());
}

/// Whether the tests whose packages are large are to run.
fn is_long() -> bool {
    let long = env::var_os("NPYFS_LONG").is_some();
    if !long {
        common::skip("only with NPYFS_LONG=1: its packages are large");
    }
    long
}

#[test]
fn go() {
    if !is_long() {
        return;
    }
    require!(fuse, go);
    let program = built().join("chunks-go");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(sources().join("chunks.go"))
        .env("GOCACHE", built().join("go"))
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "off"));
    feeds_and_hears(|| Command::new(&program), 100);
}

#[test]
fn octave() {
    if !is_long() {
        return;
    }
    require!(fuse, octave);
    let program = || {
        let mut octave = Command::new("octave");
        octave.args(["--no-gui", "--quiet", "--no-init-file"]);
        octave.arg(sources().join("chunks.m"));
        octave
    };
    // Octave does not look at what its writes and its close are answered: the program looks whether
    // its chunk is there.
    feeds_and_hears(program, 100);
}

#[test]
fn r() {
    if !is_long() {
        return;
    }
    require!(fuse, Rscript);
    feeds_and_hears(interpreted("Rscript", "chunks.R"), 100);
}
