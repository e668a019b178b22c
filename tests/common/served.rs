//! A mount of which the test chooses what is between the engine and the disk. A process of its own
//! serves it, so that the test can outlive whatever becomes of that.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use npyfs::fs::{Fs, Options};
use npyfs::fuse::Adapter;
use npyfs::store::{self, Store};

use super::load::{Chunk, put, sync_path};
use super::process::{Parked, alone_again, eventually, force_unmount, is_mounted, parked};

/// Where the store, the mount point and the test's files for the daemon are.
const PLACE: &str = "NPYFS_TEST_PLACE";

/// The place of the mount that this process is to serve, where it is the daemon.
pub fn place() -> Option<PathBuf> {
    env::var_os(PLACE).map(PathBuf::from)
}

/// Serves `PLACE/store` at `PLACE/mnt` until it is unmounted.
pub fn serve(place: &Path, options: store::Options) {
    env_logger::Builder::new()
        .filter_module("npyfs", log::LevelFilter::Info)
        .init();
    let store = Store::open(&place.join("store"), options).unwrap();
    let options = Options {
        cached: false,
        read_only: false,
        allow_delete: npyfs::fs::AllowDelete::Nothing,
        sync_interval: Duration::from_millis(100),
        remembered: 1 << 10,
    };
    let fs = Fs::new(store, options).unwrap();
    let mut config = fuser::Config::default();
    config.n_threads = Some(2);
    config.mount_options = vec![fuser::MountOption::CUSTOM("subtype=npyfs".into())];
    let session = fuser::Session::new(Adapter::new(fs.clone()), place.join("mnt"), &config);
    session.unwrap().run().unwrap();
    // Where a dataset took no writes any more, this says so; the next to open it recovers it.
    if let Err(error) = fs.close() {
        log::error!("{error}");
    }
}

/// A mount, and the process that serves it.
pub struct Served {
    place: tempfile::TempDir,
    pub daemon: Parked,
}

impl Served {
    /// The calling test once more, as the daemon.
    #[track_caller]
    pub fn start(test: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        for name in ["store", "mnt"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let daemon = parked(
            Command::new("env")
                .args(alone_again(test))
                .env(PLACE, place.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(place.path().join("daemon.log")).unwrap()),
        );
        let served = Served { place, daemon };
        let mounted = eventually(Duration::from_secs(20), || is_mounted(&served.path("")));
        assert!(mounted, "no mount: {}", served.log());
        served
    }

    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mountpoint = self.place.path().canonicalize().unwrap().join("mnt");
        // With no slash at its end it is as the table of mounts has it.
        match path.as_ref().as_os_str().is_empty() {
            true => mountpoint,
            false => mountpoint.join(path),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.place.path().join("store")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("daemon.log")).unwrap()
    }

    /// Makes the file `PLACE/what`, for the daemon to see.
    pub fn tell(&self, what: &str) {
        fs::write(self.place.path().join(what), "").unwrap();
    }

    pub fn untell(&self, what: &str) {
        fs::remove_file(self.place.path().join(what)).unwrap();
    }

    /// The answer to `ask`; where there is none the daemon is killed, which frees who waits for it.
    #[track_caller]
    pub fn answer<T: Send + 'static>(&mut self, ask: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || send.send(ask()));
        match receive.recv_timeout(Duration::from_secs(20)) {
            Ok(answer) => answer,
            Err(_) => {
                self.daemon.child().kill().unwrap();
                panic!("no answer: {}", self.log());
            }
        }
    }

    #[track_caller]
    pub fn sync(&mut self, dataset: &str) -> io::Result<()> {
        let data = self.path(dataset).join("data.npy");
        self.answer(move || sync_path(&data))
    }

    #[track_caller]
    pub fn put(&mut self, dataset: &str, chunk: Chunk) -> io::Result<()> {
        let dataset = self.path(dataset);
        self.answer(move || put(&dataset, chunk))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if is_mounted(&self.path("")) {
            force_unmount(&self.path(""));
        }
    }
}
