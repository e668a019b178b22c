//! The requests of the kernel, one handler each.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem,
    FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::dispatch::patiently;
use super::passthrough::cache_flags;
use super::{
    Adapter, Subject, attributes, caller, catch_panic, empty, failed, splice, with_buffer,
};
use crate::dataset::Dataset;
use crate::fs::{Attr, Fs, Opened, Route, SetAttr, near};
use crate::wait;

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it a truncating open is two requests, and the first would look like a truncation
        // of a committed chunk. Every kernel since 2.6.24 has it.
        config
            .add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC)
            .map_err(|_| io::Error::from_raw_os_error(libc::EPROTO))?;
        if let Err(missing) = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS) {
            log::debug!("the kernel does not offer {missing:?}");
        }
        let passthrough = !self.fs.options().cached
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(2).is_ok();
        self.backing.offer(passthrough);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let route = self.fs.lookup_route(parent.0, name);
        let name = name.to_owned();
        let (device, unique) = (self.device.clone(), request.unique().0);
        let thread = request.pid();
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.lookup(parent.0, &asked, thread);
        let answer = move |fs: &Fs, found: crate::Result<Attr>| match found {
            Ok(attr) => device.entry(unique, &attr, reply),
            Err(error) => {
                let subject = Subject::Name(parent.0, &name);
                reply.error(failed(fs, "lookup", &subject, &error));
            }
        };
        self.dispatch("lookup", route, ask, answer);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.serve("forget", || self.fs.forget(ino.0, count));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fh, thread) = (fh.map(|fh| fh.0), request.pid());
        let ask = move |fs: &Fs| fs.getattr(ino.0, fh, thread);
        let answer = move |fs: &Fs, found: crate::Result<Attr>| match found {
            Ok(attr) => reply.attr(&attr.attr_ttl, &attributes(&attr)),
            Err(error) => reply.error(failed(fs, "getattr", &Subject::Inode(ino.0), &error)),
        };
        self.dispatch("getattr", self.fs.getattr_route(ino.0), ask, answer);
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            mtime: mtime.map(|time| match time {
                TimeOrNow::SpecificTime(time) => time,
                TimeOrNow::Now => SystemTime::now(),
            }),
            fh: fh.map(|fh| fh.0),
        };
        let ask = move |fs: &Fs| fs.setattr(ino.0, &set);
        let answer = move |fs: &Fs, done: crate::Result<Attr>| match done {
            Ok(attr) => reply.attr(&attr.attr_ttl, &attributes(&attr)),
            Err(error) => reply.error(failed(fs, "setattr", &Subject::Inode(ino.0), &error)),
        };
        self.dispatch("setattr", self.fs.setattr_route(ino.0), ask, answer);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.to_owned(), caller(request));
        let (device, unique) = (self.device.clone(), request.unique().0);
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.mkdir(parent.0, &asked, mode & !umask, &caller);
        let answer = move |fs: &Fs, made: crate::Result<Attr>| match made {
            Ok(attr) => device.entry(unique, &attr, reply),
            Err(error) => {
                let subject = Subject::Name(parent.0, &name);
                reply.error(failed(fs, "mkdir", &subject, &error));
            }
        };
        self.serve("mkdir", || patiently(&self.fs, "mkdir", ask, answer));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let route = self.fs.unlink_route(parent.0, name);
        let name = name.to_owned();
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.unlink(parent.0, &asked);
        let answer = move |fs: &Fs, done| {
            empty(fs, done, "unlink", &Subject::Name(parent.0, &name), reply);
        };
        self.dispatch("unlink", route, ask, answer);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let route = self.fs.rmdir_route(parent.0, name);
        let name = name.to_owned();
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.rmdir(parent.0, &asked);
        let answer = move |fs: &Fs, done| {
            empty(fs, done, "rmdir", &Subject::Name(parent.0, &name), reply);
        };
        self.dispatch("rmdir", route, ask, answer);
    }

    fn symlink(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        self.serve("symlink", || {
            reply.error(not_here(&self.fs, "symlink", parent, name, NO_LINKS));
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            let what = "there are no pipes, sockets and devices here";
            return self.serve("mknod", || {
                reply.error(not_here(&self.fs, "mknod", parent, name, what));
            });
        }
        let route = self.fs.create_route(parent.0, name);
        let (name, caller) = (name.to_owned(), caller(request));
        let (device, unique) = (self.device.clone(), request.unique().0);
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.make_file(parent.0, &asked, mode & !umask, &caller);
        let answer = move |fs: &Fs, made: crate::Result<Attr>| match made {
            Ok(attr) => device.entry(unique, &attr, reply),
            Err(error) => {
                let subject = Subject::Name(parent.0, &name);
                reply.error(failed(fs, "mknod", &subject, &error));
            }
        };
        self.dispatch("mknod", route, ask, answer);
    }

    fn link(
        &self,
        _request: &Request,
        _ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.serve("link", || {
            reply.error(not_here(&self.fs, "link", newparent, newname, NO_LINKS));
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let route = self.fs.rename_route(parent.0, name, newparent.0, newname);
        let (fs, name, newname) = (self.fs.clone(), name.to_owned(), newname.to_owned());
        let caller = caller(request);
        self.run("rename", route, move || {
            // One of the two datasets is open now, the other may not be.
            let route = fs.rename_route(parent.0, &name, newparent.0, &newname);
            let route = match route {
                Route::Opener { .. } => route,
                Route::Here(kept) | Route::Worker(kept) => Route::Here(kept),
            };
            let to = newname.clone();
            let ask = move |fs: &Fs| {
                let flags = flags.bits();
                fs.rename(parent.0, &name, newparent.0, &newname, flags, &caller)
            };
            let answer = move |fs: &Fs, renamed| {
                let subject = Subject::Name(newparent.0, &to);
                empty(fs, renamed, "rename", &subject, reply);
            };
            let serving = fs.clone();
            let job = move || patiently(&fs, "rename", ask, answer);
            serving.run_at(route, move || catch_panic("rename", job));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let route = self.fs.create_route(parent.0, name);
        let (name, caller) = (name.to_owned(), caller(request));
        let (device, unique) = (self.device.clone(), request.unique().0);
        let asked = name.clone();
        let ask = move |fs: &Fs| fs.create(parent.0, &asked, mode & !umask, flags, &caller);
        let answer = move |fs: &Fs, created: crate::Result<(Attr, Opened)>| match created {
            Ok((attr, opened)) => {
                let (fh, flags) = (FileHandle(opened.fh), cache_flags(&opened.mode));
                device.created(unique, &attr, fh, flags, reply);
            }
            Err(error) => {
                let subject = Subject::Name(parent.0, &name);
                reply.error(failed(fs, "create", &subject, &error));
            }
        };
        self.dispatch("create", route, ask, answer);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let route = self.fs.open_route(ino.0, flags.0);
        let (backing, caller) = (self.backing.clone(), caller(request));
        let ask = move |fs: &Fs| fs.open(ino.0, flags.0, &caller);
        let answer = move |fs: &Fs, done: crate::Result<_>| match done {
            Ok(opened) => backing.answer(opened, reply, || fs.set_uncached(false)),
            Err(error) => reply.error(failed(fs, "open", &Subject::Inode(ino.0), &error)),
        };
        self.dispatch("open", route, ask, answer);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve("read", || {
            let len = size as usize;
            if len >= splice::LEAST && self.read_pages(request, fh.0, offset, len) {
                std::mem::forget(reply);
                return;
            }
            with_buffer(len, |buffer| match self.fs.read(fh.0, offset, buffer) {
                Ok(got) => reply.data(&buffer[..got]),
                Err(error) => {
                    reply.error(failed(&self.fs, "read", &Subject::Inode(ino.0), &error));
                }
            });
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.serve("write", || {
            let tried = wait::never(|| write(&self.fs, ino.0, fh.0, offset, data, reply));
            if let Some(reply) = tried {
                let (fs, data) = (self.fs.clone(), data.to_vec());
                self.fs.run(move || {
                    catch_panic("write", || {
                        write(&fs, ino.0, fh.0, offset, &data, reply);
                    });
                });
            }
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let ask = move |fs: &Fs| fs.fallocate(fh.0, offset, length, mode);
        let answer = move |fs: &Fs, done| {
            empty(fs, done, "fallocate", &Subject::Inode(ino.0), reply);
        };
        self.dispatch("fallocate", near(true), ask, answer);
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.fs.note_close(fh.0);
        let caller = caller(request);
        let ask = move |fs: &Fs| fs.flush(fh.0, &caller);
        let answer = move |fs: &Fs, done| {
            empty(fs, done, "flush", &Subject::Inode(ino.0), reply);
        };
        self.dispatch("flush", near(false), ask, answer);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backing.release(fh.0);
        let ask = move |fs: &Fs| fs.release(fh.0);
        let answer = move |fs: &Fs, done| {
            empty(fs, done, "release", &Subject::Inode(ino.0), reply);
        };
        self.dispatch("release", near(false), ask, answer);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let route = self.fs.fsync_route(ino.0, fh.0);
        let ask = move |fs: &Fs| fs.begin_fsync(ino.0, fh.0);
        let answer = sync_then_answer(&self.fs, "fsync", ino.0, reply);
        self.dispatch("fsync", route, ask, answer);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let ask = move |fs: &Fs| fs.opendir(ino.0);
        let answer = move |fs: &Fs, done: crate::Result<Opened>| match done {
            Ok(opened) => reply.opened(FileHandle(opened.fh), FopenFlags::empty()),
            Err(error) => reply.error(failed(fs, "opendir", &Subject::Inode(ino.0), &error)),
        };
        self.serve("opendir", || patiently(&self.fs, "opendir", ask, answer));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.run("readdir", self.fs.readdir_route(ino.0), move || {
            let listed = fs.readdir(ino.0, fh.0, offset, |entry| {
                let kind = if entry.is_dir {
                    FileType::Directory
                } else {
                    FileType::RegularFile
                };
                reply.add(INodeNo(entry.number), entry.next, kind, entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => {
                    reply.error(failed(&fs, "readdir", &Subject::Inode(ino.0), &error));
                }
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve("releasedir", || {
            let done = self.fs.release(fh.0);
            empty(&self.fs, done, "releasedir", &Subject::Inode(ino.0), reply);
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let ask = move |fs: &Fs| fs.begin_fsyncdir(ino.0);
        let answer = sync_then_answer(&self.fs, "fsyncdir", ino.0, reply);
        self.dispatch("fsyncdir", self.fs.fsyncdir_route(ino.0), ask, answer);
    }

    // The cheap answers: the kernel remembers ENOSYS for the whole mount and does not ask again.

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Go asks of every file whether it can wait for it.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Programs ask every file whether it is a terminal.
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.serve("ioctl", || reply.error(Errno::ENOTTY));
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.serve("statfs", || match self.fs.statfs() {
            Ok(stat) => reply.statfs(
                stat.blocks(),
                stat.blocks_free(),
                stat.blocks_available(),
                stat.files(),
                stat.files_free(),
                stat.block_size() as u32,
                255,
                stat.fragment_size() as u32,
            ),
            Err(error) => reply.error(failed(&self.fs, "statfs", &Subject::Inode(ino.0), &error)),
        });
    }
}

const NO_LINKS: &str = "there are no links here: copy the file";

fn not_here(fs: &Fs, operation: &str, parent: INodeNo, name: &OsStr, what: &str) -> Errno {
    let error = err!(EPERM, "{what}");
    failed(fs, operation, &Subject::Name(parent.0, name), &error)
}

/// Has the dataset that the operation has found synced, if it has, and answers after that.
fn sync_then_answer(
    fs: &Arc<Fs>,
    operation: &'static str,
    ino: u64,
    reply: ReplyEmpty,
) -> impl FnOnce(&Fs, crate::Result<Option<Arc<Dataset>>>) + Send + 'static {
    let asked = fs.clone();
    let answer = move |done| empty(&asked, done, operation, &Subject::Inode(ino), reply);
    move |fs, begun| match begun {
        Ok(Some(dataset)) => fs.sync_dataset(dataset, Box::new(answer)),
        Ok(None) => answer(Ok(())),
        Err(error) => answer(Err(error)),
    }
}

/// Answers a write, or gives the reply back, with nothing done, where that has to wait.
fn write(
    fs: &Fs,
    ino: u64,
    fh: u64,
    offset: u64,
    data: &[u8],
    reply: ReplyWrite,
) -> Option<ReplyWrite> {
    let mut reply = Some(reply);
    let written = fs.write(fh, offset, data, || {
        if let Some(reply) = reply.take() {
            reply.written(data.len() as u32);
        }
    });
    let error = match written {
        Ok(()) => return None,
        Err(error) if error.would_wait() => return reply,
        Err(error) => error,
    };
    let errno = failed(fs, "write", &Subject::Inode(ino), &error);
    if let Some(reply) = reply {
        reply.error(errno);
    }
    None
}
