//! The one error type: an errno for the caller of a system call, a sentence for a person.
//!
//! Every refusal keeps three things together on its way up: the errno that the producer's system
//! call returns, a sentence that names both sides of the mismatch, and the error underneath, if
//! there is one. It is cloned where the same answer is due again (every later FLUSH of a refused
//! chunk), so the source is shared.

use std::fmt;
use std::io;
use std::sync::Arc;

pub use nix::errno::Errno;

/// A result whose error carries an errno and a reason.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// Why an operation was refused or failed.
#[derive(Clone, Debug)]
pub struct Error {
    errno: Errno,
    message: String,
    source: Option<Source>,
    /// Nothing was done: a thread that may wait is to begin anew.
    waits: bool,
    is_logged: bool,
}

impl Error {
    /// An error of npyfs's own finding.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self {
            errno,
            message: message.into(),
            source: None,
            waits: false,
            is_logged: false,
        }
    }

    /// The operation has to wait, on a thread that may not ([`wait`](crate::wait)).
    pub(crate) fn waiting() -> Self {
        Self {
            waits: true,
            ..Self::new(Errno::EAGAIN, "it has to wait")
        }
    }

    /// Whether the operation has changed nothing, and is to be begun anew on a thread that may wait.
    pub(crate) fn would_wait(&self) -> bool {
        self.waits
    }

    /// An error of the operating system (`EIO` where it gave no errno), or one of npyfs that came as
    /// one, and what was being done.
    pub fn io(source: io::Error, message: impl Into<String>) -> Self {
        let inner = source.get_ref().and_then(|it| it.downcast_ref::<Self>());
        let errno = match inner {
            Some(error) => error.errno,
            None => Errno::from_raw(source.raw_os_error().unwrap_or(libc::EIO)),
        };
        Self {
            errno,
            waits: inner.is_some_and(|error| error.waits),
            message: message.into(),
            is_logged: inner.is_some_and(|error| error.is_logged),
            source: Some(Arc::new(source)),
        }
    }

    /// The same error under another errno: a rename must not answer `EINVAL`, say.
    #[must_use]
    pub fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = errno;
        self
    }

    /// The same error, of which a log that its user can read has told: who hears of it later, once more
    /// or as the cause of another, need not tell of it again.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// Whether a log is to be told of it: none has, and it is an answer.
    pub(crate) fn is_to_be_logged(&self) -> bool {
        !self.is_logged && !self.waits
    }

    /// This error as the cause of a wider one, which keeps the errno.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self {
            errno: self.errno,
            waits: self.waits,
            is_logged: self.is_logged,
            message: message.into(),
            source: Some(Arc::new(self)),
        }
    }

    /// What the system call returns.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The sentence without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The sentence and the whole chain of causes, each after a colon.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// `Display` prints the whole chain already, so `source` stays empty: a caller that walks the
/// chain would print it twice.
impl std::error::Error for Error {}

/// For where errors of the operating system are expected. [`Error::io`] finds the errno again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = io::Error::from(error.errno).kind();
        io::Error::new(kind, error)
    }
}

/// Adds what was being done to an error of the operating system.
pub trait Context<T> {
    /// The value, or an [`Error`] whose errno is the operating system's (`EIO` where it gave none).
    ///
    /// # Errors
    /// The error of `self` with `message` in front.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(error, message()))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(io::Error::from).context(message)
    }
}

/// An [`Error`] from an errno's name and a format string: `err!(EEXIST, "{name} is there")`.
#[macro_export]
macro_rules! err {
    ($errno:ident, $($message:tt)+) => {
        $crate::error::Error::new($crate::error::Errno::$errno, format!($($message)+))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_the_whole_chain_of_causes() {
        let io: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let error = io
            .context(|| "cannot append 3 rows".into())
            .unwrap_err()
            .context("x.npy refused");
        assert_eq!(error.errno(), Errno::ENOSPC);
        assert_eq!(
            error.to_string(),
            "x.npy refused: cannot append 3 rows: No space left on device (os error 28)"
        );
    }

    #[test]
    fn an_error_that_passes_for_one_of_the_operating_system_keeps_its_errno_and_its_sentence() {
        let io: io::Error = err!(ENOENT, "nothing is there").into();
        assert_eq!(io.kind(), io::ErrorKind::NotFound);
        let error = Error::io(io, "cannot open it");
        assert_eq!(error.errno(), Errno::ENOENT);
        assert_eq!(error.to_string(), "cannot open it: nothing is there");
    }
}
