//! Exit codes, which scripts may rely on: one table, printed by `--help`.

use std::fmt;

/// How the program ends. A number that was given out keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// Kept for `check`, `backup` and `status`.
    Damage = 1,
    Usage = 2,
    MountPoint = 3,
    Store = 4,
    Mount = 5,
    NotMounted = 6,
    Busy = 7,
    Failed = 8,
    Interrupted = 9,
    /// No failure of the command's: it has nothing to say of it.
    Unread = 10,
}

const TABLE: [(Exit, &str); 11] = [
    (Exit::Ok, "done"),
    (Exit::Damage, "check, backup or status found damage"),
    (Exit::Usage, "wrong arguments or an unknown mount option"),
    (Exit::MountPoint, "the mount point cannot be used"),
    (Exit::Store, "the store or the dataset cannot be used"),
    (Exit::Mount, "the kernel or fusermount3 refused the mount"),
    (Exit::NotMounted, "no npyfs mount there"),
    (
        Exit::Busy,
        "the mount is in use, or its daemon still runs or does not answer",
    ),
    (
        Exit::Failed,
        "another failure, refused files and an unclean end included",
    ),
    (
        Exit::Interrupted,
        "a signal came before the mount was ready",
    ),
    (Exit::Unread, "the reader of the output went before its end"),
];

impl Exit {
    /// The code with this number; `Failed` for a number that is not in the table.
    pub(crate) fn from_number(number: u8) -> Self {
        TABLE
            .iter()
            .map(|(exit, _)| *exit)
            .find(|exit| *exit as u8 == number)
            .unwrap_or(Exit::Failed)
    }
}

/// The codes of mount(8), which are those of the programs that it calls.
const OF_MOUNT: [(u8, &str); 5] = [
    (0, "mounted"),
    (1, "wrong arguments or an unknown mount option"),
    (2, "the system failed"),
    (8, "a signal came before the mount was ready"),
    (
        32,
        "the mount failed: the store, the mount point or the kernel",
    ),
];

impl Exit {
    /// What mount(8) understands.
    pub(crate) fn for_mount(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Usage => 1,
            Exit::Failed => 2,
            Exit::Interrupted => 8,
            _ => 32,
        }
    }
}

/// As [`help`], for the program that mount(8) calls.
pub(crate) fn help_for_mount() -> String {
    let mut text = String::from("Exit codes:");
    for (number, meaning) in OF_MOUNT {
        text.push_str(&format!("\n  {number:>2}  {meaning}"));
    }
    text
}

/// The table as `--help` shows it.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:");
    for (exit, meaning) in TABLE {
        text.push_str(&format!("\n  {:>2}  {meaning}", exit as u8));
    }
    text
}

/// Why a command failed: the exit code for scripts, a sentence for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }

    /// Of which there is nothing to say, or all has been said.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Gives an error its exit code.
pub(crate) trait OrExit<T> {
    /// The value, or a failure of this kind that reads `message: error`.
    fn or_exit(self, exit: Exit, message: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, message: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, format!("{}: {error}", message())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_one_of_mounts_for_mount() {
        for (exit, _) in TABLE {
            let known = OF_MOUNT
                .iter()
                .any(|(number, _)| *number == exit.for_mount());
            assert!(known, "{exit:?}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_reversible() {
        for (number, (exit, _)) in TABLE.iter().enumerate() {
            assert_eq!(*exit as usize, number);
            assert_eq!(Exit::from_number(*exit as u8), *exit);
        }
    }
}
