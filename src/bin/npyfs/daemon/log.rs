//! Where the daemon's log goes: in front to the terminal, in the background to syslog, or where there is
//! none to `.npyfs/daemon.log` in the store; and to a file that was named, wherever the daemon runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use env_logger::{Builder, Env, Target};
use log::LevelFilter;
use npyfs::disk::paths::CONTROL;
use npyfs::disk::{Directory, Open, StoreDir, StoreFile};
use npyfs::printable;

/// Where syslogd listens, and journald.
const SYSLOG: &str = "/dev/log";
/// In the store, where nothing listens there.
const OWN: &str = ".npyfs/daemon.log";
const OWN_OLD: &str = ".npyfs/daemon.log.1";
/// The one in the store begins anew then: no other program rotates it.
const MOST: u64 = 8 << 20;

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum Log {
    Terminal,
    Syslog,
    File(Arc<LogFile>),
}

impl Log {
    /// A file that was named.
    pub(crate) fn named(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        LogFile::open(Place::Path(path)).map(Self::File)
    }

    /// Of a daemon in the background, whose terminal goes. To a store that is `read_only` nothing is
    /// written.
    pub(crate) fn of_background(store: &Path, read_only: bool) -> io::Result<Self> {
        if UnixDatagram::unbound()?.connect(SYSLOG).is_ok() {
            return Ok(Self::Syslog);
        }
        if read_only {
            return Ok(Self::Terminal);
        }
        let folder = Directory::open(store)?;
        folder.make_dir(Path::new(CONTROL))?;
        LogFile::open(Place::Store(folder)).map(Self::File)
    }

    /// `RUST_LOG` decides what is logged; without it, what is no detail, or at a terminal in the
    /// `background`, which is about to go, trouble.
    pub(crate) fn start(&self, background: bool) {
        let level = match self {
            Self::Terminal if background => "warn",
            _ => "info",
        };
        let mut builder = Builder::new();
        // It tells of answers to processes that were killed, and to a mount that is gone.
        builder.filter_module("fuser::reply", LevelFilter::Off);
        builder.parse_env(Env::default().default_filter_or(level));
        let to_syslog = matches!(self, Self::Syslog);
        if let Self::File(file) = self {
            builder.target(Target::Pipe(Box::new(Lines(file.clone()))));
        }
        // A name in it may hold anything.
        builder.format(move |out, record| {
            let (level, target) = (record.level(), record.target());
            let said = record.args().to_string();
            let said = printable::text(&said);
            if to_syslog {
                npyfs::sys::syslog(level, &format!("{target}: {said}"));
                return Ok(());
            }
            let style = out.default_level_style(level);
            let time = out.timestamp();
            writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {said}")
        });
        builder.init();
    }

    /// Goes on in a file that has the name by now: what rotates logs has given the old one another.
    pub(crate) fn reopen(&self) {
        if let Self::File(file) = self
            && let Err(error) = file.reopen()
        {
            log::error!("the log goes on in the old file: {error}");
        }
    }
}

/// A file that lines are appended to.
#[derive(Debug)]
pub(crate) struct LogFile {
    place: Place,
    file: Mutex<Opened>,
}

#[derive(Debug)]
enum Place {
    Path(PathBuf),
    Store(Directory),
}

#[derive(Debug)]
enum Opened {
    File(File),
    Stored(Arc<dyn StoreFile>),
}

impl Place {
    fn open(&self) -> io::Result<Opened> {
        match self {
            Self::Path(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                file.map(Opened::File)
            }
            Self::Store(folder) => folder
                .open(Path::new(OWN), Open::Append)
                .map(Opened::Stored),
        }
    }
}

impl LogFile {
    fn open(place: Place) -> io::Result<Arc<Self>> {
        let file = Mutex::new(place.open()?);
        Ok(Arc::new(Self { place, file }))
    }

    fn file(&self) -> MutexGuard<'_, Opened> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reopen(&self) -> io::Result<()> {
        *self.file() = self.place.open()?;
        Ok(())
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut opened = self.file();
        match &mut *opened {
            Opened::File(file) => file.write_all(lines),
            Opened::Stored(file) => {
                let len = file.len()?;
                file.write_at(lines, len)?;
                if len > MOST
                    && let Place::Store(folder) = &self.place
                {
                    folder.rename(Path::new(OWN), Path::new(OWN_OLD))?;
                    *opened = self.place.open()?;
                }
                Ok(())
            }
        }
    }
}

/// What env_logger writes to.
struct Lines(Arc<LogFile>);

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.append(lines).map(|()| lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_in_the_store_begins_anew_when_it_is_long() {
        let store = tempfile::tempdir().unwrap();
        let folder = Directory::open(store.path()).unwrap();
        folder.make_dir(Path::new(CONTROL)).unwrap();
        let file = LogFile::open(Place::Store(folder)).unwrap();
        let line = [b'x'; 1 << 20];
        for _ in 0..11 {
            file.append(&line).unwrap();
        }
        let len = |name: &str| std::fs::metadata(store.path().join(name)).unwrap().len();
        assert_eq!((len(OWN_OLD), len(OWN)), (10 << 20, 1 << 20));
    }
}
