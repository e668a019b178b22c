//! The kernel's table of mounts, and paths that may lead to a dead one.
//!
//! A filesystem that might not answer is asked by another process, and no longer than [`PATIENCE`];
//! but for [`is_dead`], which is for those who have an answer already.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::statfs::statfs;
use npyfs::proc::{Mount, Process, field};

use crate::asking::{Asked, PATIENCE, ask, tell};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry(Mount);

impl Deref for Entry {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        &self.0
    }
}

impl Entry {
    pub(crate) fn is_npyfs(&self) -> bool {
        self.is_ours()
    }

    /// The number of this mount: no other has it, in any namespace.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is mounted on something in `other`.
    pub(crate) fn is_on(&self, other: &Self) -> bool {
        self.parent == other.id
    }

    /// Whether it is this mount, which may have been moved.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.id, &self.device) == (other.id, &other.device)
    }

    /// That its daemon does not answer, and what is known of that.
    pub(crate) fn silence(&self) -> String {
        let at = self.mountpoint.display();
        let Some(pid) = self.daemon() else {
            return format!("the daemon of the mount at {at} does not answer");
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        if state.is_some_and(|state| state.trim_start().starts_with(['T', 't'])) {
            return format!(
                "the daemon of the mount at {at} is stopped: kill -CONT {pid} lets it go on"
            );
        }
        format!("the daemon of the mount at {at} (process {pid}) does not answer")
    }

    /// The process that has the connection of this mount open, where the kernel tells.
    fn daemon(&self) -> Option<u32> {
        let connection = self.device.strip_prefix("0:")?;
        let is_it = |info: &[u8]| (field(info, "fuse_connection")? == connection).then_some(());
        let serves = |process: &Process| {
            let found = process.find_descriptor(is_it);
            found.is_ok_and(|it| it.is_some())
        };
        let all = Process::all().ok()?;
        all.into_iter().find(serves).map(|process| process.0)
    }

    /// The store's path.
    pub(crate) fn store(&self) -> &Path {
        Path::new(&self.source)
    }

    /// Where the store has what is shown at `path`, a canonical path in this mount.
    pub(crate) fn stored(&self, path: &Path) -> PathBuf {
        let mut stored = self.store().to_owned();
        let inside = path.strip_prefix(&self.mountpoint);
        for part in [self.root.strip_prefix("/"), inside].into_iter().flatten() {
            stored.extend(part);
        }
        stored
    }

    /// Where this mount shows what the store has at `stored`, if it does.
    pub(crate) fn shows(&self, stored: &Path) -> Option<PathBuf> {
        let root = self.stored(&self.mountpoint);
        Some(self.mountpoint.join(stored.strip_prefix(root).ok()?))
    }
}

/// Every mount that this process can see.
pub(crate) fn read() -> io::Result<Vec<Entry>> {
    read_from(Path::new("/proc/self/mountinfo"))
}

/// Every mount in this table.
pub(crate) fn read_from(table: &Path) -> io::Result<Vec<Entry>> {
    Ok(parse(&fs::read(table)?))
}

/// As [`read`], from this descriptor of the table: where none is left, too.
pub(crate) fn read_again(mut table: &File) -> io::Result<Vec<Entry>> {
    let mut text = Vec::new();
    table.rewind()?;
    table.read_to_end(&mut text)?;
    Ok(parse(&text))
}

fn parse(table: &[u8]) -> Vec<Entry> {
    Mount::table(table).map(Entry).collect()
}

/// The topmost mount at exactly this canonical path.
pub(crate) fn at(path: &Path) -> io::Result<Option<Entry>> {
    Ok(at_in(&read()?, path).cloned())
}

/// As [`at`], in a table that was read before.
pub(crate) fn at_in<'a>(table: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    topmost(table.iter().filter(|entry| entry.mountpoint == path))
}

/// The topmost mount that this canonical path is in.
pub(crate) fn containing(path: &Path) -> io::Result<Option<Entry>> {
    Ok(containing_in(&read()?, path).cloned())
}

/// As [`containing`], in a table that was read before.
pub(crate) fn containing_in<'a>(table: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    path.ancestors().find_map(|above| at_in(table, above))
}

/// Of mounts stacked on one path: the one that no other is stacked on.
fn topmost<'a>(stack: impl Iterator<Item = &'a Entry>) -> Option<&'a Entry> {
    let stack: Vec<&Entry> = stack.collect();
    let is_covered = |entry: &Entry| stack.iter().any(|upper| upper.parent == entry.id);
    stack.iter().rev().find(|entry| !is_covered(entry)).copied()
}

/// Whether the mount at this path has lost its daemon. The answer to stat(2) may be cached from
/// when it lived, that to statfs(2) never is.
pub(crate) fn is_dead(path: &Path) -> bool {
    statfs(path).is_err_and(is_loss)
}

fn lost(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| is_loss(Errno::from_raw(number)))
}

/// The second is the answer to a question that was on its way when the daemon died.
fn is_loss(errno: Errno) -> bool {
    matches!(errno, Errno::ENOTCONN | Errno::ECONNABORTED)
}

/// How a mount of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its daemon has this process number, if it tells any.
    Served(Option<i32>),
    /// It has lost its daemon.
    Dead,
    /// Its daemon does not answer.
    Silent,
}

/// Asks a mount how it is.
pub(crate) fn ask_state(mountpoint: &Path) -> io::Result<Asked> {
    ask(|pipe| {
        if is_dead(mountpoint) {
            return tell(pipe, b"dead");
        }
        let pid = fs::read_to_string(mountpoint.join(".npyfs/daemon"));
        tell(pipe, pid.unwrap_or_default().trim().as_bytes())
    })
}

impl State {
    /// What a mount has answered.
    pub(crate) fn of(mut asked: Asked, deadline: Instant) -> io::Result<Self> {
        match asked.wait(deadline) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(State::Silent),
            come => come?,
        }
        let text = String::from_utf8_lossy(asked.come());
        Ok(match text.trim() {
            "dead" => State::Dead,
            pid => State::Served(pid.parse().ok().filter(|pid| *pid > 0)),
        })
    }
}

/// How the mount at this path is.
pub(crate) fn state(mountpoint: &Path) -> io::Result<State> {
    State::of(ask_state(mountpoint)?, Instant::now() + PATIENCE)
}

/// The states of all mounts of ours, which are asked at once.
pub(crate) fn states() -> io::Result<Vec<(Entry, State)>> {
    let mut mounts = read()?;
    mounts.retain(Entry::is_npyfs);
    let asked: io::Result<Vec<Asked>> = mounts
        .iter()
        .map(|mount| ask_state(&mount.mountpoint))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    mounts
        .into_iter()
        .zip(asked?)
        .map(|(mount, asked)| Ok((mount, State::of(asked, deadline)?)))
        .collect()
}

/// The canonical path of what answers, or of a dead mount point, where realpath(3) fails.
///
/// `TimedOut` where a mount of ours on the way does not answer; the error says which. Others are
/// waited for.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    resolved(path, canonical_or_dead)
}

/// As [`canonical`], but nothing else than realpath(3).
pub(crate) fn real(path: &Path) -> io::Result<PathBuf> {
    resolved(path, |path| fs::canonicalize(path))
}

fn resolved(path: &Path, resolve: impl Fn(&Path) -> io::Result<PathBuf>) -> io::Result<PathBuf> {
    let mut asked = ask(|pipe| {
        trace(path, pipe)?;
        let found = resolve(path).inspect(|found| {
            // The kernel may have known the path. This it has to ask for.
            is_dead(found);
        });
        match found {
            Ok(found) => {
                pipe.write_all(b"+")?;
                pipe.write_all(found.as_os_str().as_bytes())
            }
            Err(error) => write!(pipe, "{}", error.raw_os_error().unwrap_or(libc::EIO)),
        }
    })?;
    while let Err(error) = asked.wait(Instant::now() + PATIENCE) {
        if error.kind() != io::ErrorKind::TimedOut {
            return Err(error);
        }
        let reached = asked.come().rsplit(|byte| *byte == 0).nth(1);
        let reached = Path::new(OsStr::from_bytes(reached.unwrap_or_default()));
        if let Some(mount) = containing(reached)?.filter(Entry::is_npyfs) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, mount.silence()));
        }
    }
    let answer = asked.come().rsplit(|byte| *byte == 0).next();
    let answer = answer.unwrap_or_default();
    if let Some(found) = answer.strip_prefix(b"+") {
        return Ok(PathBuf::from(OsStr::from_bytes(found)));
    }
    let errno = String::from_utf8_lossy(answer).parse();
    Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO)))
}

/// Follows a path as the kernel does, and tells each place, with a zero byte after it, before it
/// asks for it. Their parents are canonical.
fn trace(path: &Path, pipe: &mut fs::File) -> io::Result<()> {
    const MOST_LINKS: usize = 40;
    let words = |path: &Path| -> Vec<OsString> {
        let words = path.components().rev();
        words.map(|word| word.as_os_str().to_owned()).collect()
    };
    let mut links = 0;
    let mut at = PathBuf::from("/");
    let mut left = words(&std::path::absolute(path)?);
    while let Some(word) = left.pop() {
        if word == ".." {
            at.pop();
            continue;
        }
        let next = at.join(word);
        pipe.write_all(next.as_os_str().as_bytes())?;
        pipe.write_all(&[0])?;
        match fs::read_link(&next) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                left.extend(words(&target));
            }
            _ => at = next,
        }
    }
    Ok(())
}

fn canonical_or_dead(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Err(error) if lost(&error) => error,
        other => return other,
    };
    match fs::read_link(path) {
        Ok(target) => canonical_or_dead(&path.parent().unwrap_or(Path::new("/")).join(target)),
        Err(_) => {
            let name = path.file_name().ok_or(error)?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(fs::canonicalize(parent)?.join(name))
        }
    }
}

/// A path as one field of a comma-separated option: fusermount3 takes the backslash away again.
pub(crate) fn escape_commas(path: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(path.len());
    for byte in path.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Entry {
        Entry(Mount::parse(line.as_bytes()).unwrap())
    }

    #[test]
    fn a_line_gives_its_unescaped_paths() {
        let entry = parse(
            r"61 29 0:53 / /mnt/two\040words rw,noatime shared:3 - fuse.npyfs /a\134b rw,user_id=0",
        );
        assert_eq!(entry.mountpoint, Path::new("/mnt/two words"));
        assert_eq!(entry.store(), Path::new(r"/a\b"));
        assert_eq!(entry.device, "0:53");
        assert!(entry.is_npyfs());
    }

    #[test]
    fn the_topmost_of_a_stack_is_the_one_without_a_child() {
        let upper = parse("70 61 0:54 / /mnt rw - tmpfs none rw");
        let lower = parse("61 29 0:53 / /mnt rw - fuse.npyfs /store rw");
        assert_eq!(topmost([&upper, &lower].into_iter()), Some(&upper));
    }

    #[test]
    fn what_a_mount_shows_is_found_in_the_store() {
        let whole = parse("61 29 0:53 / /mnt rw - fuse.npyfs /store rw");
        assert_eq!(whole.stored(Path::new("/mnt")), Path::new("/store"));
        assert_eq!(whole.stored(Path::new("/mnt/a/b")), Path::new("/store/a/b"));
        let part = parse(r"62 29 0:53 /a\040b /here rw - fuse.npyfs /store rw");
        assert_eq!(part.stored(Path::new("/here")), Path::new("/store/a b"));
        assert_eq!(part.stored(Path::new("/here/c")), Path::new("/store/a b/c"));
        let shown = |path: &str| part.shows(Path::new(path));
        assert_eq!(shown("/store/a b/c"), Some("/here/c".into()));
        assert_eq!(shown("/store/b"), None);
    }

    #[test]
    fn the_root_is_a_mount_and_contains_everything() {
        assert_eq!(
            at(Path::new("/")).unwrap().unwrap().mountpoint,
            Path::new("/")
        );
        assert!(containing(Path::new("/no/such/path")).unwrap().is_some());
    }
}
