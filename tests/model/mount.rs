//! A dataset on a real mount, reached as any program reaches it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::common::{self, Mount};
use crate::reference::Answer;
use crate::system::{Line, Seen, System, parse_line};

/// A mount whose log has nothing of the many refusals.
pub fn start() -> Mount {
    Mount::builder().env("RUST_LOG", "off").start()
}

/// One dataset of a mount.
pub struct Mounted<'a> {
    /// Taken while it is mounted again.
    mount: &'a mut Option<Mount>,
    dataset: String,
    /// The names of the chunks that are open.
    open: Vec<String>,
}

/// An open chunk.
#[derive(Debug)]
pub struct Open {
    file: File,
    name: String,
}

impl<'a> Mounted<'a> {
    pub fn new(mount: &'a mut Option<Mount>, dataset: String) -> Self {
        // A history that failed may have left none.
        mount.get_or_insert_with(start);
        let system = Mounted {
            mount,
            dataset,
            open: Vec::new(),
        };
        fs::create_dir(system.mount().path(&system.dataset)).unwrap();
        system
    }

    fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("it is mounted")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount().path(&self.dataset).join(name)
    }

    fn in_flight(&self, name: &str) -> bool {
        let status = fs::read_to_string(self.path(".npyfs/status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let names = status["in_flight"].as_array().unwrap();
        names.iter().any(|in_flight| in_flight == name)
    }
}

fn answer<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_raw(error.raw_os_error().expect("the kernel's error")))
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 100_000]);
    loop {
        match file.read_at(&mut piece, bytes.len() as u64)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

impl System for Mounted<'_> {
    type Handle = Open;
    type Snapshot = File;

    fn open(&mut self, name: &str, truncate: bool) -> Result<Open, Errno> {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(truncate);
        let file = answer(options.open(self.path(name)))?;
        self.open.push(name.to_owned());
        Ok(Open {
            file,
            name: name.to_owned(),
        })
    }

    fn write(&mut self, handle: &Open, data: &[u8], offset: u64) -> Answer {
        answer(handle.file.write_all_at(data, offset))
    }

    fn set_len(&mut self, handle: &Open, len: u64) -> Answer {
        answer(handle.file.set_len(len))
    }

    fn read(&mut self, handle: &Open) -> Result<Vec<u8>, Errno> {
        answer(read_whole(&handle.file))
    }

    fn flush(&mut self, handle: &Open) -> Answer {
        nix::unistd::close(nix::unistd::dup(&handle.file)?)
    }

    /// A program that is started closes what it does not inherit, in the order of the numbers.
    fn flush_elsewhere(
        &mut self,
        handles: &[Option<Open>],
        _which: usize,
    ) -> Vec<(usize, Option<Answer>)> {
        common::run(&mut Command::new("true"));
        let mut order: Vec<_> = handles
            .iter()
            .enumerate()
            .filter_map(|(slot, open)| Some((open.as_ref()?.file.as_raw_fd(), slot)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, slot)| (slot, None)).collect()
    }

    fn fsync(&mut self, handle: &Open) -> Answer {
        answer(handle.file.sync_all())
    }

    fn release(&mut self, handle: Open) -> Option<Answer> {
        let closed = nix::unistd::close(handle.file);
        let own = self.open.iter().position(|name| *name == handle.name);
        self.open.remove(own.expect("it was open"));
        // RELEASE comes when it likes.
        if !self.open.contains(&handle.name) {
            let gone = common::eventually(Duration::from_secs(5), || !self.in_flight(&handle.name));
            assert!(gone, "{} was closed and is in flight", handle.name);
        }
        Some(closed)
    }

    fn unlink(&mut self, name: &str) -> Answer {
        answer(fs::remove_file(self.path(name)))
    }

    fn rename(&mut self, from: &str, to: &str) -> Answer {
        answer(fs::rename(self.path(from), self.path(to)))
    }

    fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer {
        let temporary = self.path(&format!(".{to}.Ab12Cd"));
        fs::write(&temporary, bytes).unwrap();
        let renamed = answer(fs::rename(&temporary, self.path(to)));
        assert_eq!(temporary.exists(), renamed.is_err());
        if renamed.is_err() {
            fs::remove_file(&temporary).unwrap();
        }
        renamed
    }

    fn set_attributes(&mut self, name: &str, mode: u32, mtime: i64) -> Answer {
        let path = self.path(name);
        answer(fs::set_permissions(&path, PermissionsExt::from_mode(mode)))?;
        let mtime = TimeSpec::new(mtime / 1_000_000_000, mtime % 1_000_000_000);
        let same = TimeSpec::UTIME_OMIT;
        utimensat(
            AT_FDCWD,
            &path,
            &same,
            &mtime,
            UtimensatFlags::FollowSymlink,
        )
    }

    fn sync(&mut self) -> Answer {
        answer(File::open(self.path(".")).and_then(|directory| directory.sync_all()))
    }

    fn reopen(&mut self) {
        let mount = self.mount.take().expect("it is mounted");
        *self.mount = Some(mount.remount());
    }

    fn names(&mut self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.path(".")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(names.insert(name.clone()), "{name} is listed twice");
        }
        names.remove("data.npy");
        names
    }

    fn chunk(&mut self, name: &str) -> Option<Seen> {
        let bytes = match fs::read(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            other => other.unwrap(),
        };
        let stat = fs::metadata(self.path(name)).unwrap();
        assert_eq!((stat.size(), stat.blocks()), (bytes.len() as u64, 0));
        Some(Seen {
            bytes,
            mode: stat.mode() & 0o7777,
            mtime: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
        })
    }

    fn lines(&mut self) -> Vec<Line> {
        let csv = fs::read_to_string(self.path(".npyfs/chunks.csv")).unwrap();
        csv.lines().skip(1).map(parse_line).collect()
    }

    fn snapshot(&mut self) -> Option<File> {
        match File::open(self.path("data.npy")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.unwrap()),
        }
    }

    fn contents(&mut self, snapshot: &File) -> Vec<u8> {
        let bytes = read_whole(snapshot).unwrap();
        assert_eq!(snapshot.metadata().unwrap().size(), bytes.len() as u64);
        bytes
    }

    fn stored(&mut self) -> Option<Vec<u8>> {
        fs::read(self.mount().store(&self.dataset).join("data.npy")).ok()
    }
}
