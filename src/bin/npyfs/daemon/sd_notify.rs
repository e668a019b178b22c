//! Words to a service manager, over the socket that `NOTIFY_SOCKET` names (sd_notify(3)).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The mount can be used; the daemon is this process, whichever was started.
pub(super) fn ready() {
    tell(&format!("READY=1\nMAINPID={}\n", std::process::id()));
}

/// The mount is gone, the store is being closed.
pub(super) fn stopping() {
    tell("STOPPING=1\n");
}

fn tell(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(name.as_bytes(), state) {
        log::warn!("cannot tell NOTIFY_SOCKET {}: {error}", name.display());
    }
}

/// A name that starts with `@` is in the abstract namespace.
fn send(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}
