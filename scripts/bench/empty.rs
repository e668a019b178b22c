//! An empty FUSE filesystem that accepts and drops the calls of a producer: what the kernel and
//! fuser cost before npyfs does anything. `empty MOUNTPOINT`; a file `data.npy` of one page can be
//! opened, mapped and read.
#![allow(missing_docs)]

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, SessionACL, WriteFlags,
};

const TTL: Duration = Duration::from_secs(1);
const DATA: u64 = 2;

struct Empty {
    next: AtomicU64,
    page: Vec<u8>,
}

fn attributes(ino: u64, size: u64) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind: if ino == 1 {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 1 << 20,
        flags: 0,
    }
}

impl Filesystem for Empty {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "data.npy" {
            let attr = attributes(DATA, self.page.len() as u64);
            reply.entry_with_ttls(&TTL, &Duration::ZERO, &attr, Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let size = if ino.0 == DATA {
            self.page.len() as u64
        } else {
            0
        };
        reply.attr(&TTL, &attributes(ino.0, size));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        reply.created(
            &Duration::ZERO,
            &attributes(ino, 0),
            Generation(0),
            FileHandle(ino),
            FopenFlags::FOPEN_DIRECT_IO,
        );
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(ino.0),
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = (offset as usize).min(self.page.len());
        let end = (start + size as usize).min(self.page.len());
        reply.data(&self.page[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

fn main() -> std::io::Result<()> {
    let Some(mountpoint) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("usage: empty MOUNTPOINT"));
    };
    let header =
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (496,), }";
    let mut page = vec![b' '; 128];
    page[..header.len()].copy_from_slice(header);
    page[127] = b'\n';
    page.resize(4096, 0);
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("empty".into()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    let empty = Empty {
        next: AtomicU64::new(DATA + 1),
        page,
    };
    fuser::mount(empty, mountpoint, &config)
}
