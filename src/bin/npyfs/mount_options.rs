//! What a mount is given: npyfs's own options, and the words of `-o`.
//!
//! Each long option is a word of `-o` too. A word that is unknown is refused by name.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use npyfs::fs::AllowDelete;

/// What to mount, where and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct MountArgs {
    /// The directory that keeps the datasets
    pub(crate) store: PathBuf,
    /// Where to show them
    pub(crate) mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Mount options: those of mount(8) (ro, noexec, allow_other, nofail, ...), and each long
    /// option below without its dashes
    #[arg(short = 'o', value_name = "OPT[,OPT...]", value_delimiter = ',')]
    pub(crate) words: Vec<String>,
    /// Append the daemon's log to this file [default: the terminal; in the background syslog, or where
    /// there is none STORE/.npyfs/daemon.log]
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
    #[command(flatten)]
    pub(crate) flags: MountFlags,
    /// Only check that the mount would be tried.
    #[arg(skip)]
    pub(crate) fake: bool,
}

/// npyfs's own options.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Tuning {
    /// Let rm work on chunks: it forgets the chunk's name and keeps its rows. With `all`, let it work on
    /// data.npy too, after all its chunks: it removes the array with all its rows
    #[arg(long, value_name = "all", num_args = 0..=1, require_equals = true,
          default_value = "nothing", hide_default_value = true,
          default_missing_value = "chunks", value_parser = parse_deletes)]
    pub(crate) allow_delete: AllowDelete,
    /// What writing a committed name again means: `once` compares, and refuses other bytes with
    /// EEXIST; `reuse` appends at each close of a file that was opened empty, also of the same bytes,
    /// and the name then shows the newest chunk
    #[arg(long, value_name = "once|reuse", default_value = "once", value_parser = parse_names)]
    pub(crate) names: Names,
    /// Serve data.npy through the page cache, also where mappings could go to the store's file
    #[arg(long)]
    pub(crate) cached: bool,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value = "2", value_parser = parse_threads)]
    pub(crate) threads: usize,
    /// How often unsynced datasets are synced
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) sync_interval: Option<Duration>,
    /// How much refused data is kept, per dataset
    #[arg(long, value_name = "BYTES[K|M|G|T]", value_parser = parse_size)]
    pub(crate) rejected_limit: Option<u64>,
    /// How much memory chunks in flight may take
    #[arg(long, value_name = "BYTES[K|M|G|T]", value_parser = parse_size)]
    pub(crate) memory_limit: Option<u64>,
    /// How many files that are not in use the kernel is to remember
    #[arg(long, value_name = "FILES", hide = true)]
    pub(crate) remembered: Option<usize>,
}

/// What a name stands for that is written more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// The one chunk that has it.
    #[default]
    Once,
    /// The newest chunk of that name.
    Reuse,
}

/// What the kernel is told about the mount.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct MountFlags {
    #[arg(skip)]
    pub(crate) read_only: bool,
    #[arg(skip)]
    pub(crate) no_exec: bool,
    #[arg(skip)]
    pub(crate) suid: bool,
    #[arg(skip)]
    pub(crate) dev: bool,
    /// Let other users in (file modes are always checked)
    #[arg(long)]
    pub(crate) allow_other: bool,
}

impl MountArgs {
    /// Moves the words of `-o` into the fields that they stand for.
    pub(crate) fn fold(&mut self, sloppy: bool) -> Result<(), String> {
        for word in std::mem::take(&mut self.words) {
            match self.apply(&word) {
                Ok(()) => {}
                Err(_) if sloppy => {}
                Err(message) => return Err(message),
            }
        }
        Ok(())
    }

    fn apply(&mut self, word: &str) -> Result<(), String> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match (name, value) {
            ("rw", None) => self.flags.read_only = false,
            ("ro", None) => self.flags.read_only = true,
            ("exec", None) => self.flags.no_exec = false,
            ("noexec", None) => self.flags.no_exec = true,
            ("suid", None) => self.flags.suid = true,
            ("nosuid", None) => self.flags.suid = false,
            ("dev", None) => self.flags.dev = true,
            ("nodev", None) => self.flags.dev = false,
            ("allow_other", None) => self.flags.allow_other = true,
            // Modes are always checked, and access times are never kept.
            ("default_permissions" | "atime" | "noatime" | "relatime", None) => {}
            // For fstab and the programs that read it.
            ("defaults" | "auto" | "noauto" | "nouser" | "users" | "owner" | "group", None) => {}
            ("async" | "diratime" | "nodiratime" | "nofail" | "_netdev" | "", None) => {}
            ("user" | "comment", _) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            _ => return self.apply_own(name, value, word),
        }
        Ok(())
    }

    /// The words that are long options too, with either dash.
    fn apply_own(&mut self, name: &str, value: Option<&str>, word: &str) -> Result<(), String> {
        let tuning = &mut self.tuning;
        let told = |error: String| format!("mount option '{word}': {error}");
        match (name.replace('_', "-").as_str(), value) {
            ("allow-delete", None) => tuning.allow_delete = AllowDelete::Chunks,
            ("allow-delete", Some(value)) => {
                tuning.allow_delete = parse_deletes(value).map_err(told)?;
            }
            ("cached", None) => tuning.cached = true,
            ("names", Some(value)) => tuning.names = parse_names(value).map_err(told)?,
            ("threads", Some(value)) => tuning.threads = parse_threads(value).map_err(told)?,
            ("sync-interval", Some(value)) => {
                tuning.sync_interval = Some(parse_seconds(value).map_err(told)?);
            }
            ("rejected-limit", Some(value)) => {
                tuning.rejected_limit = Some(parse_size(value).map_err(told)?);
            }
            ("memory-limit", Some(value)) => {
                tuning.memory_limit = Some(parse_size(value).map_err(told)?);
            }
            ("log-file", Some(value)) => self.log_file = Some(value.into()),
            _ => return Err(format!("unknown mount option '{word}'")),
        }
        Ok(())
    }
}

fn parse_names(text: &str) -> Result<Names, String> {
    match text {
        "once" => Ok(Names::Once),
        "reuse" => Ok(Names::Reuse),
        _ => Err("must be once or reuse".into()),
    }
}

/// What follows the option's name; `nothing` and `chunks` stand for its absence and for the name alone.
fn parse_deletes(text: &str) -> Result<AllowDelete, String> {
    match text {
        "nothing" => Ok(AllowDelete::Nothing),
        "chunks" => Ok(AllowDelete::Chunks),
        "all" => Ok(AllowDelete::All),
        _ => Err("must be all, or stand without a value".into()),
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=64) => Ok(threads),
        _ => Err("must be a number from 1 to 64".into()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| !interval.is_zero())
        .ok_or_else(|| "must be a number of seconds above 0".into())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "must be a number of bytes, or one followed by K, M, G or T".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_do_not_overflow() {
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        assert!(parse_size("16777216T").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("K").is_err());
    }
}
