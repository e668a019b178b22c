//! The examples of README.md are programs of tests/producers, word for word, and work.

use crate::common;
use crate::common::Started as _;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Mount, bare_python, python, run};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn section(name: &str) -> String {
    let readme = fs::read_to_string(here().join("README.md")).unwrap();
    let begin = readme.find(&format!("\n## {name}\n")).unwrap() + 1;
    let end = readme[begin..].find("\n## ").unwrap() + begin;
    readme[begin..end].to_owned()
}

/// The fenced blocks of the examples: the file that the text in front names, and the block.
fn examples() -> Vec<(PathBuf, String)> {
    let section = section("Examples");
    let mut parts = section.split("```");
    let mut blocks = Vec::new();
    while let (Some(before), Some(block)) = (parts.next(), parts.next()) {
        let (_, link) = before.rsplit_once("](tests/producers/").unwrap();
        let (name, _) = link.split_once(')').unwrap();
        let (_, text) = block.split_once('\n').unwrap();
        blocks.push((here().join("tests/producers").join(name), text.to_owned()));
    }
    blocks
}

#[test]
fn the_examples_of_the_readme_are_the_producers_of_the_tests() {
    let mut languages = Vec::new();
    for (path, text) in examples() {
        let file = fs::read_to_string(&path).unwrap();
        assert_eq!(text, file, "{}", path.display());
        languages.push(path.extension().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(languages, ["sh", "py", "c", "f90", "mjs", "py"]);
}

#[test]
fn the_examples_of_the_readme_work() {
    require!(fuse, python, gcc, rsync);
    let mount = Mount::new();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    let scratch = mount.scratch("here");
    fs::create_dir_all(scratch.join("chunks")).unwrap();
    let chunks = "import sys, numpy as np
np.save(sys.argv[1] + '/first.npy', np.zeros((5, 3)))
np.save(sys.argv[1] + '/second.npy', np.ones((6, 3)))";
    python(chunks, &[scratch.join("chunks").to_str().unwrap()]);

    let program = scratch.join("program");
    let compile = |compiler: &str, source: &Path| {
        run(Command::new(compiler).arg("-o").arg(&program).arg(source));
        Command::new(&program)
    };
    let mut rows = 0;
    let mut last = String::new();
    for (path, _) in examples() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (mut command, more) = match name {
            "copies.sh" => {
                let mut shell = Command::new("sh");
                shell.arg(&path);
                (shell, 11)
            }
            "chunks.c" => (compile("gcc", &path), 100),
            "chunks.f90" => {
                if common::missing("gfortran").is_some() {
                    common::skip("the Fortran example needs gfortran");
                    continue;
                }
                (compile("gfortran", &path), 100)
            }
            "chunks.mjs" => {
                let place = here().join("target/producers/javascript");
                if !place.join("node_modules/npyjs").exists() {
                    common::skip("the JavaScript example needs its npm packages");
                    continue;
                }
                // Packages are looked for beside the program.
                let copy = place.join("readme.mjs");
                fs::copy(&path, &copy).unwrap();
                let mut node = Command::new("node");
                node.arg(copy);
                (node, 200)
            }
            _ => {
                let mut python = bare_python();
                python.arg(&path);
                (python, if name == "chunks.py" { 200 } else { 0 })
            }
        };
        let output = run(command.arg(&dataset).current_dir(&scratch));
        last = String::from_utf8(output.stdout).unwrap();
        rows += more;
    }
    let shape = format!("({rows}, 3) new rows: {rows}\n({rows}, 3) new rows: 0\n");
    assert!(last.starts_with(&shape), "{last}, not {shape}");
}

#[test]
fn the_commands_of_the_readme_work() {
    require!(fuse, python);
    // What the first block shows, in one line after the other.
    let readme = fs::read_to_string(here().join("README.md")).unwrap();
    let (_, text) = readme.split_once("```\n").unwrap();
    let (text, _) = text.split_once("```").unwrap();
    let place = common::Place::new();
    let python_path = bare_python().get_program().to_str().unwrap().to_owned();
    python(
        "import sys, numpy as np; np.save(sys.argv[1], np.zeros((4, 3)))",
        &[place.root.join("chunk-0001.npy")],
    );
    let npyfs = common::npyfs();
    let npyfs = npyfs.to_str().unwrap();
    let text = text
        .replace("/mnt/arrays", place.mountpoint().to_str().unwrap())
        .replace("npyfs mount", &format!("{npyfs} mount"))
        .replace("python -c", &format!("{python_path} -c"));
    let output = Command::new("sh")
        .args(["-ec", &text])
        .current_dir(&place.root)
        .output_alone()
        .unwrap();
    run(&mut place.umount());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "(4, 3)\n");
}
