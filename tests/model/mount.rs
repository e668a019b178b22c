//! A dataset on a real mount, reached as any program reaches it.

use crate::common::Started as _;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{UtimensatFlags, minor, utimensat};
use nix::sys::time::TimeSpec;
use tempfile::TempDir;

use crate::common::{self, Mount};
use crate::ops::SLOTS;
use crate::reference::{Answer, Holder, Left};
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
    connections: Connections,
}

/// An open chunk.
#[derive(Debug)]
pub struct Open {
    readable: bool,
    descriptors: Vec<Descriptor>,
}

/// A descriptor of an open chunk, wherever it is.
#[derive(Debug)]
enum Descriptor {
    Own(File),
    Child(Holding),
    /// The end that it was sent to, and the other.
    Socket(UnixStream, #[allow(dead_code)] UnixStream),
}

/// A process that has a descriptor and does nothing with it, until it is told to close it or ends.
#[derive(Debug)]
struct Holding {
    process: Child,
    says: BufReader<ChildStderr>,
}

impl Holding {
    fn start(file: &File) -> Self {
        let closing = "exec 1>&-; echo closed >&2; read end";
        let script = format!("echo ready >&2; if read word; then {closing}; fi");
        let mut process = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn_alone()
            .unwrap();
        let says = BufReader::new(process.stderr.take().unwrap());
        let mut holding = Holding { process, says };
        // By then it has closed what it did not inherit.
        holding.expect("ready");
        holding
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word);
    }

    fn close(mut self, meant: bool) {
        let mut stdin = self.process.stdin.take().unwrap();
        if meant {
            stdin.write_all(b"close\n").unwrap();
            self.expect("closed");
        } else {
            self.process.kill().unwrap();
        }
        drop(stdin);
        self.process.wait().unwrap();
    }
}

/// What the kernel says of the requests under way to each FUSE filesystem.
struct Connections(Option<TempDir>);

const CONNECTIONS: &str = "/sys/fs/fuse/connections";

impl Connections {
    /// `None` where it cannot be had.
    fn look() -> Option<Self> {
        if fs::read_dir(CONNECTIONS).is_ok_and(|mut entries| entries.next().is_some()) {
            return Some(Connections(None));
        }
        let place = tempfile::tempdir().unwrap();
        let nothing = None::<&str>;
        mount(
            nothing,
            place.path(),
            Some("fusectl"),
            MsFlags::empty(),
            nothing,
        )
        .ok()?;
        Some(Connections(Some(place)))
    }

    /// How many requests of the filesystem of a path are not answered yet.
    fn waiting(&self, path: &Path) -> u64 {
        let device = fs::metadata(path).unwrap().dev();
        let all = self
            .0
            .as_ref()
            .map_or(Path::new(CONNECTIONS), TempDir::path);
        let waiting = all.join(minor(device).to_string()).join("waiting");
        fs::read_to_string(waiting).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        if let Some(place) = &self.0 {
            umount2(place.path(), MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// Whether the end of a handle can be waited for.
pub fn can_wait() -> bool {
    Connections::look().is_some()
}

impl<'a> Mounted<'a> {
    pub fn new(mount: &'a mut Option<Mount>, dataset: String) -> Self {
        // A history that failed may have left none.
        mount.get_or_insert_with(start);
        let system = Mounted {
            mount,
            dataset,
            connections: Connections::look().expect("asked before"),
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

    fn opened(
        &self,
        slot: usize,
        path: &Path,
        create: bool,
        truncate: bool,
    ) -> Result<Open, Errno> {
        let (readable, flags) = WAYS[slot];
        let mut options = File::options();
        options
            .read(readable)
            .write(true)
            .create(create)
            .truncate(truncate)
            .custom_flags(flags);
        let file = answer(options.open(path))?;
        Ok(Open {
            readable,
            descriptors: vec![Descriptor::Own(file)],
        })
    }
}

/// How each slot opens chunks: whether it can read, and its flags. A duplicate has the same, and
/// the daemon tells the descriptors of one chunk's handles apart by them.
const WAYS: [(bool, i32); SLOTS] = [
    (true, 0),
    (false, 0),
    (true, nix::libc::O_NOFOLLOW),
    (false, nix::libc::O_NOFOLLOW),
];

impl Open {
    /// A descriptor that our process has.
    fn file(&self) -> &File {
        self.files().next().expect("our process has one")
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.descriptors.iter().filter_map(|it| match it {
            Descriptor::Own(file) => Some(file),
            _ => None,
        })
    }
}

fn send(file: &File) -> Descriptor {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let descriptors = [file.as_raw_fd()];
    let passed = [ControlMessage::ScmRights(&descriptors)];
    let bytes = [IoSlice::new(b"x")];
    sendmsg::<()>(ours.as_raw_fd(), &bytes, &passed, MsgFlags::empty(), None).unwrap();
    Descriptor::Socket(theirs, ours)
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

/// A program that is started closes what it does not inherit, in the order of the numbers.
fn inherited(handles: &[Option<Open>]) -> Vec<(usize, Option<Answer>)> {
    let mut order: Vec<_> = handles
        .iter()
        .enumerate()
        .filter_map(|(slot, open)| Some((slot, open.as_ref()?)))
        .flat_map(|(slot, open)| open.files().map(move |file| (file.as_raw_fd(), slot)))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, slot)| (slot, None)).collect()
}

impl System for Mounted<'_> {
    type Handle = Open;
    type Snapshot = File;

    fn open(&mut self, slot: usize, name: &str, truncate: bool) -> Result<Open, Errno> {
        self.opened(slot, &self.path(name), true, truncate)
    }

    fn through(
        &mut self,
        slot: usize,
        handle: &Open,
        name: &str,
        truncate: bool,
    ) -> Result<Open, Errno> {
        let follows = WAYS[slot].1 & nix::libc::O_NOFOLLOW == 0;
        let path = if follows {
            PathBuf::from(format!("/proc/self/fd/{}", handle.file().as_raw_fd()))
        } else {
            self.path(name)
        };
        self.opened(slot, &path, false, truncate)
    }

    fn write(&mut self, handle: &Open, data: &[u8], offset: u64) -> Answer {
        answer(handle.file().write_all_at(data, offset))
    }

    fn set_len(&mut self, handle: &Open, len: u64) -> Answer {
        answer(handle.file().set_len(len))
    }

    fn reserve(&mut self, handle: &Open, end: u64) -> Answer {
        fallocate(handle.file(), FallocateFlags::empty(), 0, end as i64)
    }

    fn read(&mut self, handle: &Open) -> Option<Result<Vec<u8>, Errno>> {
        let read = || answer(read_whole(handle.file()));
        handle.readable.then(read)
    }

    fn dup(
        &mut self,
        handles: &mut [Option<Open>],
        slot: usize,
        holder: Holder,
    ) -> Vec<(usize, Option<Answer>)> {
        let file = handles[slot].as_ref().expect("it is open").file();
        let (descriptor, closed) = match holder {
            Holder::Own => (Descriptor::Own(file.try_clone().unwrap()), Vec::new()),
            Holder::Socket => (send(file), Vec::new()),
            Holder::Child => {
                let child = Holding::start(file);
                (Descriptor::Child(child), inherited(handles))
            }
        };
        let handle = handles[slot].as_mut().expect("it is open");
        handle.descriptors.push(descriptor);
        closed
    }

    fn receive(&mut self, handle: &mut Open, n: usize) {
        if let Descriptor::Socket(socket, _) = &handle.descriptors[n] {
            let taken = npyfs::sys::receive_descriptor(socket).unwrap();
            handle.descriptors[n] = Descriptor::Own(taken.expect("one is under way").into());
        }
    }

    fn close(&mut self, handle: &mut Open, n: usize, left: Left) -> Option<Answer> {
        match handle.descriptors.remove(n) {
            Descriptor::Own(file) => Some(nix::unistd::close(file)),
            Descriptor::Child(child) => {
                child.close(left.meant);
                None
            }
            Descriptor::Socket(..) => None,
        }
    }

    fn spawn(&mut self, handles: &[Option<Open>]) -> Vec<(usize, Option<Answer>)> {
        common::run(&mut Command::new("true"));
        inherited(handles)
    }

    fn fsync(&mut self, handle: &Open) -> Answer {
        answer(handle.file().sync_all())
    }

    /// RELEASE comes after the close has returned.
    fn ended(&mut self, handle: Open) {
        assert!(handle.descriptors.is_empty());
        let root = self.path(".");
        let done = || self.connections.waiting(&root) == 0;
        assert!(common::eventually(Duration::from_secs(10), done));
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

    fn truncate(&mut self, name: &str, len: u64) -> Answer {
        nix::unistd::truncate(&self.path(name), len as i64)
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
        let size = bytes.len() as u64;
        assert_eq!((stat.size(), stat.blocks()), (size, size.div_ceil(512)));
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
