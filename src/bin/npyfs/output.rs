//! What the program prints: the one way out, so that a reader who has gone and a full disk mean the
//! same for every command.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use npyfs::printable;

use crate::exit::{Exit, Failure, OrExit};

/// Prints to standard output, at once.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    printed(write!(out, "{text}"))
}

/// Prints a line to standard output, at once: one line, whatever the names in it hold.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    print(format_args!("{}\n", printable::text(&text.to_string())))
}

/// A warning to the terminal, of what goes on nevertheless.
pub(crate) fn warn(text: impl fmt::Display) {
    // Where stderr cannot be written, nothing is left to tell.
    let text = text.to_string();
    writeln!(io::stderr(), "npyfs: {}", printable::text(&text)).unwrap_or_default();
}

/// Says why a command failed. Where not even that can be written, the exit code says it.
pub(crate) fn complain(failure: &Failure) {
    if !failure.message.is_empty() {
        let message = printable::text(&failure.message);
        writeln!(io::stderr(), "npyfs: {message}").unwrap_or_default();
    }
}

/// Prints what clap has to say: help and version to standard output, wrong arguments to standard
/// error.
pub(crate) fn instead_of_a_command(said: &clap::Error) -> Result<(), Failure> {
    let written = said.print();
    if said.use_stderr() {
        return Err(Failure::told(Exit::Usage));
    }
    printed(written)
}

fn printed(written: io::Result<()>) -> Result<(), Failure> {
    match written.and_then(|()| io::stdout().flush()) {
        // `npyfs status | head -1` has what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::told(Exit::Unread)),
        written => written.or_exit(Exit::Failed, || "cannot print".into()),
    }
}
