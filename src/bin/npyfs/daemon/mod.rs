//! The daemon: builds the filesystem, mounts it, serves it, and ends without a trace.
//!
//! The order is the guarantee. Signals are blocked before anything starts, so one that comes
//! early waits. The store is opened before the mount appears, so a user who sees the mount can use
//! it. Only then is readiness told. When the session ends, by whichever way, a mount of ours that
//! is still there is taken away, one of another user's at the same path is not, and the store is
//! closed last.

pub(crate) mod background;
pub(crate) mod log;
pub(crate) mod mounting;
mod parting;
mod sd_notify;
pub(crate) mod signals;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::exit::{Exit, Failure, OrExit};
use crate::mount_options::MountFlags;
use mounting::{DetachedMount, Mounted};

/// What to mount where: canonical paths.
pub(crate) struct Plan {
    pub(crate) store: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) flags: MountFlags,
    pub(crate) threads: usize,
    /// What is left of the dead mounts that were in the way.
    pub(crate) remains: Mutex<Vec<DetachedMount>>,
    /// Of a daemon in the background: the log that SIGHUP has it open anew. In front it ends the mount,
    /// whose terminal is gone.
    pub(crate) reopens: Option<log::Log>,
}

/// A filesystem to serve, and what to do when it no longer is.
pub(crate) struct Served<F> {
    pub(crate) filesystem: F,
    pub(crate) close: Close,
    /// Called when the mount is to end, while it may still be in use.
    pub(crate) stop: Stop,
    /// Is given the way to speak to the kernel unasked, and a device of the session, once there
    /// are.
    pub(crate) attach: Attach,
    /// Is told that the mount is gone while something of it is open, and again each second.
    pub(crate) let_go: LetGo,
}

pub(crate) type Attach = Box<dyn FnOnce(Notifier, File, Option<String>)>;

pub(crate) type Stop = Box<dyn Fn() + Send>;

pub(crate) type LetGo = Box<dyn Fn() + Send>;

pub(crate) type Close = Box<dyn FnOnce() -> npyfs::Result<()> + Send>;

/// Closes the store once, by the first that asks.
#[derive(Clone)]
struct CloseOnce(Arc<Mutex<Option<Close>>>);

impl CloseOnce {
    fn new(close: Close) -> Self {
        Self(Arc::new(Mutex::new(Some(close))))
    }

    fn close(&self) -> npyfs::Result<()> {
        // A second caller waits here for the first, so that none exits in the middle of it.
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take().map_or(Ok(()), |close| close())
    }
}

/// Serves until the mount is gone. `make` builds the filesystem, `ready` is told that it is
/// mounted.
pub(crate) fn serve<F: Filesystem>(
    plan: &Plan,
    make: impl FnOnce() -> npyfs::Result<Served<F>>,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    raise_descriptor_limit();
    npyfs::sys::return_large_allocations();
    let shown = plan.store.display();
    let served = make().or_exit(Exit::Store, || format!("cannot open the store {shown}"))?;
    let closer = CloseOnce::new(served.close);
    let outcome = mount_and_run(
        plan,
        served.filesystem,
        (served.attach, served.let_go),
        (served.stop, &closer),
        ready,
    );
    let closed = closer
        .close()
        .or_exit(Exit::Failed, || format!("cannot close the store {shown}"));
    if let (Err(_), Err(second)) = (&outcome, &closed) {
        ::log::error!("{second}");
    }
    outcome.and(closed)
}

fn mount_and_run<F: Filesystem>(
    plan: &Plan,
    filesystem: F,
    (attach, let_go): (Attach, LetGo),
    (stop, closer): (Stop, &CloseOnce),
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (device, mounted) = Mounted::new(plan)?;
    let mounted = Arc::new(mounted);
    let second = device
        .try_clone()
        .or_exit(Exit::Failed, || "no descriptor is left".into())?;
    let mut config = Config::default();
    config.n_threads = Some(plan.threads);
    // The kernel lets no other user in without `allow_other`. One who was handed an open descriptor
    // may write and close it: fuser would answer only that close with `EACCES`.
    config.acl = SessionACL::All;
    // Not `Session::new`: what that mounts it also unmounts, by path, at its end, when the path
    // may be another mount by then.
    let started = Session::from_fd(filesystem, device, config.acl, config)
        .or_exit(Exit::Mount, || {
            "the kernel and the daemon cannot check_compatible".into()
        })
        .and_then(|session| {
            attach(session.notifier(), File::from(second), mounted.device());
            let ending = (stop, closer.clone());
            signals::watch(Arc::clone(&mounted), ending, plan.reopens.clone())
                .or_exit(Exit::Failed, || "cannot start the signal thread".into())?;
            parting::watch(Arc::clone(&mounted), let_go)
                .or_exit(Exit::Failed, || "cannot watch the table of mounts".into())?;
            ::log::info!(
                "mounted {} at {}",
                plan.store.display(),
                plan.mountpoint.display()
            );
            ready()?;
            Ok(session)
        });
    let session = match started {
        Ok(session) => session,
        Err(failure) => {
            mounted.clean_up();
            return Err(failure);
        }
    };
    sd_notify::ready();
    drop_later(&plan.remains);
    let ended = match session.run() {
        // The mount went while the daemon was taking a request: as ENODEV, which is the usual end.
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        ended => ended,
    };
    sd_notify::stopping();
    mounted.clean_up();
    ::log::info!("unmounted {}", plan.mountpoint.display());
    ended.or_exit(Exit::Failed, || "the session failed".into())
}

/// Lets go of dead mounts once the process that started this daemon, which has them open too, has
/// ended: the last to close them waits for the kernel.
fn drop_later(remains: &Mutex<Vec<DetachedMount>>) {
    let remains = std::mem::take(&mut *remains.lock().unwrap_or_else(PoisonError::into_inner));
    if remains.is_empty() {
        return;
    }
    let later = std::thread::Builder::new().name("npyfs-remains".into());
    let dropped = later.spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        drop(remains);
    });
    if let Err(error) = dropped {
        ::log::debug!("no thread for what is left of a dead mount: {error}");
    }
}

/// Every dataset and every chunk in flight holds descriptors: take what the system grants.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        ::log::warn!("cannot raise the limit of open files: {error}");
    }
}
