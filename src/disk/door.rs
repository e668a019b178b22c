//! The one way in: how a path of the store becomes a descriptor.
//!
//! Users own directories of the store, so what a path leads through may be replaced by a link at
//! any moment. A path is therefore resolved from a descriptor that is held already, never upwards,
//! and through no link: by openat2(2), which does it in one call, or component by component where
//! the kernel lacks that or a filter of system calls keeps it away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};

/// How paths are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the kernel, as many components at once as its limit on a path's length admits.
    Whole,
    /// One component after the other.
    Stepwise,
}

/// What the kernel takes as one path, in bytes with the zero at its end.
const LONGEST: usize = libc::PATH_MAX as usize;

/// How often a resolution is begun again that a rename elsewhere has disturbed.
const ATTEMPTS: usize = 16;

/// Opens `path`, which lies beneath `dir`; an empty path is `dir` itself. The descriptor is closed
/// at exec. `mode` counts where `flags` make a file.
///
/// # Errors
/// `ELOOP` for a path that has a link in it, begins at the root or goes upwards; else as openat(2).
/// With both `O_PATH` and `O_NOFOLLOW` a link at the end is no error: it is opened itself.
pub(crate) fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    Ok(way().open(dir, path, flags | OFlag::O_CLOEXEC, mode)?)
}

/// As [`open_beneath`], and what another filesystem is mounted on is not entered, where the kernel
/// can tell.
///
/// # Errors
/// Those of [`open_beneath`]; `EXDEV` for a mount point.
pub(crate) fn open_beside(
    dir: BorrowedFd<'_>,
    name: &Path,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC;
    Ok(match way() {
        Way::Whole => open_whole(dir, name, flags, mode, ResolveFlag::RESOLVE_NO_XDEV)?,
        Way::Stepwise => Way::Stepwise.open(dir, name, flags, mode)?,
    })
}

/// How this kernel, under these filters, is to be asked. Found out once.
fn way() -> Way {
    static WAY: OnceLock<Way> = OnceLock::new();
    if let Some(&way) = WAY.get() {
        return way;
    }
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    match openat2(AT_FDCWD, "/", how) {
        Ok(_) => *WAY.get_or_init(|| Way::Whole),
        // It says nothing about the call: the next one asks again.
        Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR) => Way::Stepwise,
        // ENOSYS: a kernel before 5.6. EPERM: a filter of system calls.
        Err(_) => *WAY.get_or_init(|| Way::Stepwise),
    }
}

impl Way {
    fn open(
        self,
        dir: BorrowedFd<'_>,
        path: &Path,
        flags: OFlag,
        mode: Mode,
    ) -> nix::Result<OwnedFd> {
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(inside) {
            return Err(Errno::ELOOP);
        }
        if path.as_os_str().is_empty() {
            return self.piece(dir, Path::new("."), flags, mode);
        }
        if self == Way::Whole && path.as_os_str().len() < LONGEST {
            return self.piece(dir, path, flags, mode);
        }
        let mut held: Option<OwnedFd> = None;
        let mut piece = PathBuf::new();
        for component in path.components() {
            if self.is_full(&piece, component) {
                let dir = held.as_ref().map_or(dir, AsFd::as_fd);
                held = Some(self.piece(dir, &piece, THROUGH, Mode::empty())?);
                piece.clear();
            }
            piece.push(component);
        }
        self.piece(held.as_ref().map_or(dir, AsFd::as_fd), &piece, flags, mode)
    }

    fn is_full(self, piece: &Path, next: Component<'_>) -> bool {
        let len = piece.as_os_str().len();
        len > 0 && (self == Way::Stepwise || len + 1 + next.as_os_str().len() >= LONGEST)
    }

    /// Opens what the kernel takes at once.
    fn piece(
        self,
        dir: BorrowedFd<'_>,
        path: &Path,
        flags: OFlag,
        mode: Mode,
    ) -> nix::Result<OwnedFd> {
        match self {
            Way::Whole => open_whole(dir, path, flags, mode, ResolveFlag::empty()),
            Way::Stepwise => open_step(dir, path, flags, mode),
        }
    }
}

/// How a directory is opened that a path only leads through.
const THROUGH: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

fn open_whole(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    more: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let beneath = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let mut how = OpenHow::new().flags(flags).resolve(beneath | more);
    // Unlike openat(2), it refuses a mode that means nothing.
    if flags.intersects(OFlag::O_CREAT | (OFlag::O_TMPFILE & !OFlag::O_DIRECTORY)) {
        how = how.mode(mode);
    }
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN) if left > 0 => {}
            other => return other,
        }
    }
}

/// Opens the one component `name` of `dir`.
fn open_step(dir: BorrowedFd<'_>, name: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    match openat(dir, name, flags | OFlag::O_NOFOLLOW, mode) {
        Ok(fd) => {
            let wants_link = flags.contains(OFlag::O_NOFOLLOW) || !flags.contains(OFlag::O_PATH);
            if !wants_link && is_link(fstat(&fd)?.st_mode) {
                return Err(Errno::ELOOP);
            }
            Ok(fd)
        }
        // With O_DIRECTORY, a link is not a directory.
        Err(Errno::ENOTDIR) => match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_link(stat.st_mode) => Err(Errno::ELOOP),
            _ => Err(Errno::ENOTDIR),
        },
        Err(errno) => Err(errno),
    }
}

fn is_link(mode: libc::mode_t) -> bool {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFLNK
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    const WAYS: [Way; 2] = [Way::Whole, Way::Stepwise];

    fn read(way: Way, dir: &File, path: impl AsRef<Path>) -> nix::Result<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = way.open(dir.as_fd(), path.as_ref(), flags, Mode::empty())?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        Ok(text)
    }

    /// `inside/a/b/file` and, next to `inside`, `outside/file`.
    fn tree() -> (tempfile::TempDir, File) {
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("inside");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(inside.join("a/b/file"), "inside").unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/file"), "outside").unwrap();
        let dir = File::open(&inside).unwrap();
        (place, dir)
    }

    #[test]
    fn a_path_beneath_is_opened_and_what_is_missing_is_not_there() {
        for way in WAYS {
            let (_place, dir) = tree();
            for path in ["a/b/file", "./a/b/file", "a/./b//file"] {
                assert_eq!(read(way, &dir, path), Ok("inside".into()), "{way:?} {path}");
            }
            assert_eq!(read(way, &dir, "a/none"), Err(Errno::ENOENT), "{way:?}");
            assert_eq!(read(way, &dir, "none/file"), Err(Errno::ENOENT), "{way:?}");
            assert_eq!(
                read(way, &dir, "a/b/file/x"),
                Err(Errno::ENOTDIR),
                "{way:?}"
            );
        }
    }

    #[test]
    fn an_empty_path_is_the_directory_itself() {
        for way in WAYS {
            let (place, dir) = tree();
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            for path in ["", "."] {
                let fd = way
                    .open(dir.as_fd(), Path::new(path), flags, Mode::empty())
                    .unwrap();
                let inside = fstat(&dir).unwrap();
                assert_eq!(
                    fstat(&fd).unwrap().st_ino,
                    inside.st_ino,
                    "{way:?} {path:?}"
                );
            }
            drop(place);
        }
    }

    #[test]
    fn a_link_in_any_place_is_refused_wherever_it_leads() {
        for way in WAYS {
            let (place, dir) = tree();
            let outside = place.path().join("outside");
            let inside = place.path().join("inside");
            symlink(&outside, inside.join("first")).unwrap();
            symlink(&outside, inside.join("a/second")).unwrap();
            symlink("../../../outside/file", inside.join("a/b/last")).unwrap();
            symlink("file", inside.join("a/b/harmless")).unwrap();
            symlink("a", inside.join("round")).unwrap();
            symlink("nowhere", inside.join("dangling")).unwrap();
            for path in [
                "first/file",
                "a/second/file",
                "a/b/last",
                "a/b/harmless",
                "round/b/file",
                "dangling",
                "dangling/file",
            ] {
                assert_eq!(read(way, &dir, path), Err(Errno::ELOOP), "{way:?} {path}");
            }
            let make = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
            for path in ["first/new", "dangling"] {
                let made = way.open(dir.as_fd(), Path::new(path), make, Mode::S_IRWXU);
                assert_eq!(made.unwrap_err(), Errno::ELOOP, "{way:?} {path}");
            }
            let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let through = OFlag::O_PATH | OFlag::O_CLOEXEC;
            for flags in [directory, through] {
                let opened = way.open(dir.as_fd(), Path::new("first"), flags, Mode::empty());
                assert_eq!(opened.unwrap_err(), Errno::ELOOP, "{way:?} {flags:?}");
            }
            assert!(!inside.join("nowhere").exists());
            assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_link_itself_can_be_held() {
        for way in WAYS {
            let (place, dir) = tree();
            symlink("a", place.path().join("inside/link")).unwrap();
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = way
                .open(dir.as_fd(), Path::new("link"), flags, Mode::empty())
                .unwrap();
            assert!(is_link(fstat(&fd).unwrap().st_mode), "{way:?}");
        }
    }

    #[test]
    fn no_path_leads_upwards_or_begins_at_the_root() {
        for way in WAYS {
            let (place, dir) = tree();
            let absolute = place.path().join("inside/a/b/file");
            for path in ["../outside/file", "a/../a/b/file", "..", "a/..", "/"] {
                assert_eq!(read(way, &dir, path), Err(Errno::ELOOP), "{way:?} {path}");
            }
            assert_eq!(read(way, &dir, absolute), Err(Errno::ELOOP), "{way:?}");
        }
    }

    #[test]
    fn no_link_of_the_kernels_own_is_followed() {
        let process = File::open("/proc/self").unwrap();
        for way in WAYS {
            for path in ["cwd", "cwd/Cargo.toml", "root/etc/passwd", "exe"] {
                let opened = read(way, &process, path);
                assert_eq!(opened, Err(Errno::ELOOP), "{way:?} {path}");
            }
            let fd = format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&process));
            assert_eq!(read(way, &process, fd), Err(Errno::ELOOP), "{way:?}");
        }
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_opened_piece_by_piece() {
        for way in WAYS {
            let (_place, dir) = tree();
            let name = "d".repeat(255);
            let mut path = PathBuf::new();
            let mut deepest: OwnedFd = dir.try_clone().unwrap().into();
            while path.as_os_str().len() < 3 * LONGEST {
                nix::sys::stat::mkdirat(&deepest, name.as_str(), Mode::S_IRWXU).unwrap();
                deepest = openat(&deepest, name.as_str(), THROUGH, Mode::empty()).unwrap();
                path.push(&name);
            }
            let make = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
            let made = way.open(dir.as_fd(), &path.join("file"), make, Mode::S_IRWXU);
            assert!(made.is_ok(), "{way:?} {made:?}");
            assert_eq!(
                read(way, &dir, path.join("file")),
                Ok(String::new()),
                "{way:?}"
            );
            nix::unistd::symlinkat("file", &deepest, "link").unwrap();
            assert_eq!(
                read(way, &dir, path.join("link")),
                Err(Errno::ELOOP),
                "{way:?}"
            );
            let upwards = path.join("../file");
            assert_eq!(read(way, &dir, upwards), Err(Errno::ELOOP), "{way:?}");
        }
    }

    #[test]
    fn a_new_file_has_the_mode_and_an_existing_one_may_be_asked_for_with_any() {
        use std::os::unix::fs::PermissionsExt;
        for way in WAYS {
            let (place, dir) = tree();
            let make = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let path = Path::new("a/new");
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            way.open(dir.as_fd(), path, make, mode).unwrap();
            let made = fs::metadata(place.path().join("inside/a/new")).unwrap();
            assert_eq!(made.permissions().mode() & 0o7777, 0o600, "{way:?}");
            let again = way.open(dir.as_fd(), path, make, mode);
            assert_eq!(again.unwrap_err(), Errno::EEXIST, "{way:?}");
            let read = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            assert!(way.open(dir.as_fd(), path, read, mode).is_ok(), "{way:?}");
        }
    }
}
