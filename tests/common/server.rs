//! A server of other people's, on loopback, that is gone with the test.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::process::{eventually, start};

/// A server, with the processes that it starts for its clients.
#[derive(Debug)]
pub struct Server {
    child: Child,
    said: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens on `port`. What it prints goes to the file `said`.
    pub fn start(command: &mut Command, port: u16, said: &Path) -> Self {
        let output = File::create(said).unwrap();
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut server = Self {
            child: start(command).unwrap(),
            said: said.into(),
        };
        let mut ended = None;
        let listens = eventually(Duration::from_secs(20), || {
            ended = server.child.try_wait().unwrap();
            ended.is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(
            listens && ended.is_none(),
            "{ended:?}, {}: {}",
            said.display(),
            server.said()
        );
        server
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // In order, and then what is left.
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if killpg(group, signal).is_err() {
                break;
            }
            let gone = eventually(Duration::from_secs(3), || {
                // One that nobody has waited for is still of the group.
                self.child.try_wait().is_err() || killpg(group, None).is_err()
            });
            if gone {
                break;
            }
        }
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for {}: {error}", self.said.display());
        }
    }
}
