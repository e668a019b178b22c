//! INTEGRATION: stands in for `npyfs::fuse::Adapter` until that exists; remove with it.
//!
//! A root that lists nothing, with `.npyfs/daemon` in it: enough to mount, unmount, hold open.

use std::ffi::OsStr;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};

const TTL: Duration = Duration::from_secs(1);
const CONTROL: INodeNo = INodeNo(2);
const DAEMON: INodeNo = INodeNo(3);

pub(crate) struct Placeholder;

fn pid() -> String {
    format!("{}\n", std::process::id())
}

fn attributes(ino: INodeNo) -> FileAttr {
    let (kind, perm, size) = if ino == DAEMON {
        (FileType::RegularFile, 0o444, pid().len() as u64)
    } else {
        (FileType::Directory, 0o755, 0)
    };
    FileAttr {
        ino,
        size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Placeholder {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match (parent, name.to_str()) {
            (INodeNo::ROOT, Some(".npyfs")) => {
                reply.entry(&TTL, &attributes(CONTROL), Generation(0));
            }
            (CONTROL, Some("daemon")) => reply.entry(&TTL, &attributes(DAEMON), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let text = pid();
        let start = usize::try_from(offset).map_or(text.len(), |at| at.min(text.len()));
        reply.data(&text.as_bytes()[start..]);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let full = offset == 0
            && (reply.add(ino, 1, FileType::Directory, ".")
                || reply.add(ino, 2, FileType::Directory, ".."));
        log::trace!("listed, full: {full}");
        reply.ok();
    }
}
