//! What a mount is given: npyfs's own options, and the words of `-o`.
//!
//! Each long option is a word of `-o` too. A word that is unknown is refused by name, with the one that was
//! meant, maybe, and all that there are.

mod values;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use npyfs::fs::AllowDelete;

pub(crate) use values::{Names, Seconds, Size, Threads};

/// npyfs's own words.
const OWN: [&str; 9] = [
    "allow_delete[=all]",
    "allow_other",
    "cached",
    "log_file=FILE",
    "memory_limit=SIZE",
    "names=once|reuse",
    "rejected_limit=SIZE",
    "sync_interval=SECONDS",
    "threads=N",
];

/// Those of mount(8) and fstab that are taken, beside `x-...`.
const USUAL: [&str; 34] = [
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "atime",
    "noatime",
    "relatime",
    "diratime",
    "nodiratime",
    "nofail",
    "_netdev",
    "default_permissions",
    "comment=TEXT",
    "context=LABEL",
    "fscontext=LABEL",
    "defcontext=LABEL",
    "rootcontext=LABEL",
    "lazytime",
    "nolazytime",
    "norelatime",
    "silent",
];

/// How alike two words are of which one may stand for the other, from 0 to 1.
const ALIKE: f64 = 0.8;

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
    #[arg(short = 'o', value_name = "OPT[,OPT...]")]
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
#[derive(Args, Clone, Debug, PartialEq)]
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
    #[arg(long, value_name = "once|reuse", default_value_t = Self::default().names)]
    pub(crate) names: Names,
    /// Serve data.npy through the page cache, also where mappings could go to the store's file
    #[arg(long)]
    pub(crate) cached: bool,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = Self::default().threads)]
    pub(crate) threads: Threads,
    /// How often unsynced datasets are synced: as many seconds of work a power cut may cost a producer
    /// that does not call fsync
    #[arg(long, value_name = "SECONDS", default_value_t = Self::default().sync_interval)]
    pub(crate) sync_interval: Seconds,
    /// How much refused data is kept, per dataset
    #[arg(long, value_name = "SIZE", default_value_t = Self::default().rejected_limit)]
    pub(crate) rejected_limit: Size,
    /// How much memory chunks in flight may take
    #[arg(long, value_name = "SIZE", default_value_t = Self::default().memory_limit)]
    pub(crate) memory_limit: Size,
    /// How many files that are not in use the kernel is to remember
    #[arg(long, value_name = "FILES", hide = true)]
    pub(crate) remembered: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        let store = npyfs::store::Options::default();
        Self {
            allow_delete: AllowDelete::Nothing,
            names: Names::default(),
            cached: false,
            threads: Threads(2),
            sync_interval: Seconds(Duration::from_secs(5)),
            rejected_limit: Size(store.rejected_limit),
            memory_limit: Size(store.memory as u64),
            remembered: None,
        }
    }
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
    /// Words of a security module, which only the kernel understands.
    #[arg(skip)]
    pub(crate) labels: Vec<String>,
    /// Let other users in (file modes are always checked)
    #[arg(long)]
    pub(crate) allow_other: bool,
}

impl MountArgs {
    /// Moves the words of `-o` into the fields that they stand for.
    pub(crate) fn fold(&mut self, sloppy: bool) -> Result<(), String> {
        for words in std::mem::take(&mut self.words) {
            for word in split(&words) {
                match self.apply(word) {
                    Ok(()) => {}
                    Err(_) if sloppy => {}
                    Err(message) => return Err(message),
                }
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
            // Modes are always checked, and access times are never kept.
            ("default_permissions" | "atime" | "noatime" | "relatime" | "norelatime", None) => {}
            // For fstab and the programs that read it.
            ("defaults" | "auto" | "noauto" | "nouser" | "users" | "owner" | "group", None) => {}
            ("async" | "diratime" | "nodiratime" | "nofail" | "_netdev" | "", None) => {}
            ("lazytime" | "nolazytime" | "silent", None) => {}
            ("user" | "comment", _) => {}
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_)) => {
                self.flags.labels.push(word.to_owned());
            }
            ("uid" | "gid" | "umask" | "fmask" | "dmask" | "file_mode" | "dir_mode", Some(_)) => {
                return Err(format!(
                    "mount option '{word}': npyfs shows the owners and modes that the store has: set them with chown and chmod, in the mount or in the store"
                ));
            }
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            _ => return self.apply_own(name, value, word),
        }
        Ok(())
    }

    /// The words that are long options too, with either dash.
    fn apply_own(&mut self, name: &str, value: Option<&str>, word: &str) -> Result<(), String> {
        let tuning = &mut self.tuning;
        match (name.replace('-', "_").as_str(), value.map(unquoted)) {
            ("allow_other", None) => self.flags.allow_other = true,
            ("allow_delete", None) => tuning.allow_delete = AllowDelete::Chunks,
            ("allow_delete", Some(value)) => {
                tuning.allow_delete = parse_deletes(value).map_err(|error| told(word, &error))?;
            }
            ("cached", None) => tuning.cached = true,
            ("names", Some(value)) => tuning.names = parse(value, word)?,
            ("threads", Some(value)) => tuning.threads = parse(value, word)?,
            ("sync_interval", Some(value)) => tuning.sync_interval = parse(value, word)?,
            ("rejected_limit", Some(value)) => tuning.rejected_limit = parse(value, word)?,
            ("memory_limit", Some(value)) => tuning.memory_limit = parse(value, word)?,
            ("log_file", Some(value)) => self.log_file = Some(value.into()),
            (name, value) => return Err(unknown(name, value, word)),
        }
        Ok(())
    }
}

fn parse<T: FromStr<Err = String>>(value: &str, word: &str) -> Result<T, String> {
    value.parse().map_err(|error: String| told(word, &error))
}

fn told(word: &str, error: &str) -> String {
    format!("mount option '{word}': {error}")
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

/// At the commas, but for those between double quotes, as mount(8) does.
fn split(words: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    words.split(move |character| {
        is_quoted ^= character == '"';
        character == ',' && !is_quoted
    })
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// What is wrong with a word that is not known, or not with or without a value.
fn unknown(name: &str, value: Option<&str>, word: &str) -> String {
    let known = || OWN.iter().chain(&USUAL);
    let bare = |known: &str| known.split(['=', '[']).next().unwrap_or(known).to_owned();
    if let Some(known) = known().find(|known| bare(known) == name) {
        return match value {
            Some(_) => format!("mount option '{word}': {name} takes no value"),
            None => format!("mount option '{word}': give it a value, as {known}"),
        };
    }
    let likeness = |known: &&str| strsim::jaro_winkler(name, &bare(known));
    let nearest = known().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = match nearest.filter(|known| likeness(known) >= ALIKE) {
        Some(known) => format!(": did you mean {known}?"),
        None => String::new(),
    };
    format!(
        "unknown mount option '{word}'{meant}\n\nnpyfs's: {}\nmount(8)'s: {}, x-...",
        OWN.join(", "),
        USUAL.join(", ")
    )
}
