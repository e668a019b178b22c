//! A store and a mount point for tests of mounting itself, which no harness has mounted yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::process::{force_unmount, is_alive, is_mounted, npyfs, output_of};

/// A store and a mount point that nothing is mounted on yet.
pub struct Place {
    pub root: PathBuf,
    _directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("store")).unwrap();
        fs::create_dir(root.join("mnt")).unwrap();
        Self {
            root,
            _directory: directory,
        }
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.root.join("mnt")
    }

    pub fn mount(&self) -> Command {
        let mut command = Command::new(npyfs());
        command
            .arg("mount")
            .arg(self.store())
            .arg(self.mountpoint());
        command
    }

    pub fn umount(&self) -> Command {
        umount(&self.mountpoint())
    }

    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.mountpoint().join(".npyfs/daemon")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Processes that were started for this place.
    pub fn processes(&self) -> Vec<i32> {
        let name = self.root.as_os_str().as_encoded_bytes();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                is_alive(*pid) && line.windows(name.len()).any(|window| window == name)
            })
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint()) {
            force_unmount(&self.mountpoint());
            assert!(std::thread::panicking(), "a mount was left behind");
        }
    }
}

/// `npyfs umount PATH`.
pub fn umount(path: &Path) -> Command {
    let mut command = Command::new(npyfs());
    command.arg("umount").arg(path);
    command
}

/// Runs `npyfs mount STORE MOUNTPOINT`.
pub fn try_mount(store: &Path, mountpoint: &Path) -> Output {
    let mut command = Command::new(npyfs());
    output_of(command.arg("mount").arg(store).arg(mountpoint)).unwrap()
}
