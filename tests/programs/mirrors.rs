//! A dataset that is kept the same as another directory, or cleared of what is old, loses no row by
//! that: `allow_delete` lets names go, and only `allow_delete=all` the array.

use crate::common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Mount, counted, errno, output_of, put, rows_of, run};
use nix::errno::Errno;

/// A mount with an empty dataset `$D`, and a directory `$IN` of chunks of ten rows, whose names come before
/// and after `data.npy` in the alphabet.
struct Mirror {
    mount: Mount,
    dataset: PathBuf,
}

const NAMES: [&str; 4] = ["a.npy", "data-1.npy", "data.npz.npy", "z.npy"];

impl Mirror {
    fn new(words: &str) -> Self {
        let mount = match words {
            "" => Mount::new(),
            words => Mount::builder().words(words).start(),
        };
        let dataset = mount.path("ds");
        fs::create_dir(&dataset).unwrap();
        fs::create_dir(mount.scratch("in")).unwrap();
        for (name, n) in NAMES.iter().zip(0..) {
            let chunk = counted(n * 10, 10);
            fs::write(mount.scratch("in").join(name), chunk).unwrap();
        }
        Self { mount, dataset }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-euc", script])
            .current_dir(self.mount.scratch(""))
            .env("LC_ALL", "C")
            .env("IN", self.mount.scratch("in"))
            .env("D", &self.dataset);
        command
    }

    #[track_caller]
    fn ok(&self, script: &str) {
        run(&mut self.command(script));
    }

    fn output(&self, script: &str) -> Output {
        output_of(&mut self.command(script)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dataset).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(|entry| name(entry).into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Every row that came, and not more.
    #[track_caller]
    fn has_all_rows(&self) {
        let mut rows = rows_of(&self.dataset);
        rows.sort_unstable();
        assert_eq!(rows, (0..40).collect::<Vec<_>>());
    }
}

#[test]
fn a_mirror_forgets_names_and_keeps_all_rows() {
    require!(fuse, rsync);
    let mirror = Mirror::new("allow_delete");
    let rsync = "rsync -a --delete --exclude=/data.npy $IN/ $D/";
    for _ in 0..4 {
        mirror.ok(rsync);
        assert_eq!(
            mirror.names(),
            ["a.npy", "data-1.npy", "data.npy", "data.npz.npy", "z.npy"]
        );
        mirror.has_all_rows();
    }
    mirror.ok("rm $IN/a.npy $IN/z.npy");
    for _ in 0..2 {
        mirror.ok(rsync);
        assert_eq!(mirror.names(), ["data-1.npy", "data.npy", "data.npz.npy"]);
        mirror.has_all_rows();
    }
    mirror.ok("rm $IN/*");
    mirror.ok(rsync);
    assert_eq!(mirror.names(), ["data.npy"]);
    mirror.has_all_rows();
}

/// Each second run left an empty dataset, and said nothing.
#[test]
fn a_mirror_that_would_remove_the_array_hears_that_it_may_not() {
    require!(fuse, rsync);
    for words in ["", "allow_delete"] {
        let mirror = Mirror::new(words);
        mirror.ok("rsync -a $IN/ $D/");
        mirror.mount.expect_warning("unlink ds/data.npy: EPERM");
        for _ in 0..4 {
            let output = mirror.output("rsync -a --delete $IN/ $D/");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("data.npy"), "{said}");
            assert!(!output.status.success(), "{said}");
            mirror.has_all_rows();
            assert_eq!(mirror.names().len(), 5);
        }
    }
}

#[test]
fn what_clears_old_files_forgets_names_and_keeps_all_rows() {
    require!(fuse, rsync, find);
    let mirror = Mirror::new("allow_delete");
    mirror.ok("rsync -a $IN/ $D/; touch -d '60 days ago' $D/a.npy $D/z.npy $D/data.npy");
    mirror.mount.expect_warning("open ds/data.npy: EPERM");
    mirror.mount.expect_warning("unlink ds/data.npy: EPERM");
    let output = mirror.output("find $D -type f -mtime +30 -delete");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("data.npy'") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(mirror.names(), ["data-1.npy", "data.npy", "data.npz.npy"]);
    mirror.has_all_rows();
    let log = fs::read_to_string(mirror.dataset.join(".npyfs/log")).unwrap();
    assert!(
        log.contains("only where the mount says allow_delete=all"),
        "{log}"
    );
    mirror.ok("find $D -name '*.npy' ! -name data.npy -delete");
    let output = mirror.output("rm -r $D");
    assert!(!output.status.success());
    assert_eq!(mirror.names(), ["data.npy"]);
    mirror.has_all_rows();
}

#[test]
fn only_allow_delete_all_removes_the_array_and_only_after_its_chunks() {
    require!(fuse, rsync);
    let mirror = Mirror::new("allow_delete=all");
    mirror.ok("rsync -a $IN/ $D/");
    let data = mirror.dataset.join("data.npy");
    mirror.mount.expect_warning("unlink ds/data.npy: EBUSY");
    assert_eq!(errno(fs::remove_file(&data)), Errno::EBUSY);
    mirror.has_all_rows();
    let log = fs::read_to_string(mirror.dataset.join(".npyfs/log")).unwrap();
    assert!(log.contains("4 of its chunks still have names"), "{log}");
    // Some names are not enough, and a renamed chunk is one.
    mirror.ok("rm $D/a.npy $D/z.npy; mv $D/data-1.npy $D/b.npy");
    assert_eq!(errno(fs::remove_file(&data)), Errno::EBUSY);
    mirror.ok("rm $D/*.npz.npy $D/b.npy");
    mirror.has_all_rows();
    fs::remove_file(&data).unwrap();
    // Nothing of it is left, also for who had looked at it.
    for name in ["data.npy", "data[0:5].npy", "a.npy", "b.npy", "data-1.npy"] {
        let left = fs::metadata(mirror.dataset.join(name));
        assert_eq!(errno(left), Errno::ENOENT, "{name}");
    }
    assert!(mirror.names().is_empty());
    put(&mirror.dataset.join("a.npy"), &counted(7, 3)).unwrap();
    assert_eq!(rows_of(&mirror.dataset), [7, 8, 9]);
}

/// A chunk that is removed is gone at once also for those who have looked at it.
#[test]
fn what_is_removed_is_gone_at_once() {
    require!(fuse, rsync);
    let mirror = Mirror::new("allow_delete=all");
    for _ in 0..20 {
        mirror.ok("rsync -a $IN/ $D/");
        for name in NAMES.iter().chain(&["data.npy"]) {
            let path = mirror.dataset.join(name);
            fs::metadata(&path).unwrap();
            fs::remove_file(&path).unwrap();
            assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT, "{name}");
            assert_eq!(errno(fs::read(&path)), Errno::ENOENT, "{name}");
        }
    }
}

/// Of more than 10,000 entries `rm` and `find` sort by number what they remove.
#[test]
fn rm_r_of_thousands_of_chunks_comes_to_the_array_last() {
    require!(fuse, find);
    for script in ["rm -r $D", "find $D -delete"] {
        let mirror = Mirror::new("allow_delete=all");
        let chunk = counted(0, 1);
        for n in 0..3_400 {
            for name in ["a", "data", "z"] {
                put(&mirror.dataset.join(format!("{name}{n}.npy")), &chunk).unwrap();
            }
        }
        mirror.ok(script);
        assert!(!mirror.dataset.exists(), "{script}");
        assert!(!mirror.mount.store("ds").exists(), "{script}");
    }
}
