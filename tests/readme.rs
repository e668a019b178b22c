//! The examples of README.md work as they are printed.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Mount, bare_python, python, run};

/// The fenced blocks of a section: language, and text.
fn blocks(section: &str) -> Vec<(String, String)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let begin = readme.find(&format!("\n## {section}\n")).unwrap() + 1;
    let end = readme[begin..].find("\n## ").unwrap() + begin;
    let mut parts = readme[begin..end].split("```");
    let mut blocks = Vec::new();
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push((language.to_owned(), text.to_owned()));
    }
    blocks
}

#[test]
fn the_examples_of_the_readme_work() {
    require!(fuse, python, gcc, rsync);
    let mount = Mount::new();
    let here = mount.scratch("here");
    fs::create_dir_all(here.join("chunks")).unwrap();
    let chunks = "import sys, numpy as np
np.save(sys.argv[1] + '/first.npy', np.zeros((5, 3)))
np.save(sys.argv[1] + '/second.npy', np.ones((6, 3)))";
    python(chunks, &[here.join("chunks").to_str().unwrap()]);

    let mut rows = 0;
    let mut last = String::new();
    for (language, text) in blocks("Examples") {
        let text = text.replace("/mnt/arrays", mount.path("").to_str().unwrap());
        let program = here.join("program");
        let source = here.join(match language.as_str() {
            "fortran" => "source.f90",
            "c" => "source.c",
            _ => "script",
        });
        fs::write(&source, &text).unwrap();
        let mut compiler = match language.as_str() {
            "c" => Command::new("gcc"),
            "fortran" => {
                if common::missing("gfortran").is_some() {
                    common::skip("the Fortran example needs gfortran");
                    continue;
                }
                Command::new("gfortran")
            }
            _ => Command::new("true"),
        };
        run(compiler.arg("-o").arg(&program).arg(&source));
        let mut command = match language.as_str() {
            "sh" => Command::new("sh"),
            "python" => bare_python(),
            _ => Command::new(&program),
        };
        match language.as_str() {
            "sh" => drop(command.arg("-e").arg(&source)),
            "python" => drop(command.arg(&source)),
            _ => {}
        }
        let output = run(command.current_dir(&here));
        last = String::from_utf8(output.stdout).unwrap();
        rows += match (language.as_str(), text.contains("np.load")) {
            ("sh", _) => 11,
            ("c", _) => 100,
            ("fortran", _) => 200,
            ("python", false) => 2000,
            _ => 0,
        };
    }
    let shape = format!("({rows}, 3) new rows: {rows} ");
    assert!(last.starts_with(&shape), "{last}, not {shape}");
}
