//! Other processes, as far as `/proc` shows them.
//!
//! Only `fdinfo` and what is like it is looked at here: in the middle of an `execve`, which closes
//! descriptors and waits for the answer of their filesystem, `fd`, `stat` and what is like them wait
//! for that `execve` to end.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A process, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process(pub u32);

impl Process {
    /// All that are shown, this one too.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub fn all() -> io::Result<Vec<Process>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let number = entry?.file_name().to_str().and_then(|it| it.parse().ok());
            found.extend(number.map(Process));
        }
        Ok(found)
    }

    /// One of its files.
    pub fn path(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    /// What it calls itself, which may be any bytes, with those that are not to be printed escaped.
    /// Empty where it has ended.
    pub fn name(self) -> String {
        let name = fs::read(self.path("comm")).unwrap_or_default();
        let name = String::from_utf8_lossy(&name);
        name.trim_end_matches('\n').escape_default().to_string()
    }

    /// When it was started, by the kernel's clock; 0 where it has ended.
    pub fn started(self) -> u64 {
        let stat = fs::read(self.path("stat")).unwrap_or_default();
        // Its name may have blanks and parentheses.
        let rest = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
        let mut fields = rest.split(|byte| *byte == b' ').skip(20);
        let started = fields.next().and_then(|it| std::str::from_utf8(it).ok());
        started.and_then(|it| it.parse().ok()).unwrap_or(0)
    }

    /// The mounts in its namespace.
    ///
    /// # Errors
    /// Those of reading the table.
    pub fn mounts(self) -> io::Result<Vec<Mount>> {
        Ok(Mount::table(&fs::read(self.path("mountinfo"))?).collect())
    }

    /// What `found` answers first to what `fdinfo` says of its descriptors.
    ///
    /// # Errors
    /// Those of listing them; one that is closed meanwhile is none.
    pub fn find_descriptor<T>(
        self,
        found: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        find_in_table(&self.path("fdinfo"), found)
    }
}

/// As [`Process::find_descriptor`], in a table that a thread has for itself.
///
/// # Errors
/// As there.
pub(crate) fn find_in_table<T>(
    table: &Path,
    mut found: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut text = vec![0; 4096];
    for entry in fs::read_dir(table)? {
        let entry = match entry {
            Err(error) if is_gone(&error) => break,
            other => other?,
        };
        // Closed meanwhile.
        let Ok(len) = read_at_once(&entry.path(), &mut text) else {
            continue;
        };
        if let Some(found) = found(&text[..len]) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// One mount, as the kernel's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which no other has, in any namespace.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// `major:minor`, which no other mounted filesystem has.
    pub device: String,
    /// Which directory of the filesystem is shown: `/` but for a bind mount of a part.
    pub root: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// The type of the filesystem.
    pub fstype: String,
    /// For a mount of ours, the store.
    pub source: OsString,
}

impl Mount {
    /// The type of our mounts.
    pub const FSTYPE: &str = "fuse.npyfs";

    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.fstype == Self::FSTYPE
    }

    /// The mounts in the text of a table.
    pub fn table(text: &[u8]) -> impl Iterator<Item = Self> {
        text.split(|byte| *byte == b'\n').filter_map(Self::parse)
    }

    /// `ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [FIELD...] - FSTYPE SOURCE OPTIONS`
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let root = PathBuf::from(unescape(fields.next()?));
        let mountpoint = PathBuf::from(unescape(fields.next()?));
        fields.find(|field| *field == b"-")?;
        let fstype = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let source = unescape(fields.next()?);
        Some(Self {
            id,
            parent,
            device,
            root,
            mountpoint,
            fstype,
            source,
        })
    }
}

/// Undoes the octal escapes of space, tab, newline, backslash and `#`.
pub(crate) fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(byte));
        rest = &after[if octal.is_some() { 3 } else { 0 }..];
    }
    OsString::from_vec(bytes)
}

/// What stands after `key` and a colon, at the beginning of a line.
pub fn field<'a>(text: &'a [u8], key: &str) -> Option<&'a str> {
    fields(text, key).next()
}

/// The same of each such line.
pub fn fields<'a>(text: &'a [u8], key: &str) -> impl Iterator<Item = &'a str> {
    text.split(|&byte| byte == b'\n').filter_map(move |line| {
        let value = line.strip_prefix(key.as_bytes())?.strip_prefix(b":")?;
        Some(std::str::from_utf8(value).ok()?.trim())
    })
}

/// Reads one of the files that the kernel makes as a whole at the first read, with as few calls as
/// that takes: there are many of them. Answers how much of `text` it fills, which grows for it.
pub(crate) fn read_at_once(path: &Path, text: &mut Vec<u8>) -> io::Result<usize> {
    let mut file = fs::File::open(path)?;
    let mut len = 0;
    loop {
        let read = file.read(&mut text[len..])?;
        len += read;
        if read == 0 || len < text.len() {
            return Ok(len);
        }
        text.resize(2 * len, 0);
    }
}

/// Whether a process, or a thread, has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether `/proc` numbers processes as the kernel does for us, and shows them all.
pub(crate) fn is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let numbered = fs::read_link("/proc/self")
            .is_ok_and(|own| own.as_os_str() == OsStr::new(&std::process::id().to_string()));
        let mounts = fs::read_to_string("/proc/self/mountinfo");
        numbered
            && (nix::unistd::geteuid().is_root() || mounts.is_ok_and(|it| !hides_processes(&it)))
    })
}

/// Whether `/proc` shows processes of other users as if they were not there (`hidepid`).
fn hides_processes(mountinfo: &str) -> bool {
    let at_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let options = mountinfo.lines().rfind(at_proc).and_then(|line| {
        let (_, kind) = line.split_once(" - proc ")?;
        kind.split(' ').nth(1)
    });
    options.is_some_and(|options| {
        options
            .split(',')
            .filter_map(|option| option.strip_prefix("hidepid="))
            .any(|hidden| !matches!(hidden, "0" | "off" | "1" | "noaccess"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_that_hides_processes_is_told_by_its_mount_options() {
        let mounts = |options: &str| {
            format!(
                "22 27 0:21 / /proc rw,relatime - proc proc {options}\n\
                 27 1 254:0 / / rw - ext4 /dev/vda rw,hidepid=2\n"
            )
        };
        for shown in [
            "rw",
            "rw,hidepid=1",
            "rw,hidepid=noaccess",
            "rw,gid=5,hidepid=off",
        ] {
            assert!(!hides_processes(&mounts(shown)), "{shown}");
        }
        for hidden in [
            "rw,hidepid=2",
            "rw,hidepid=invisible",
            "rw,gid=5,hidepid=ptraceable",
        ] {
            assert!(hides_processes(&mounts(hidden)), "{hidden}");
        }
        // The one that was mounted last is the one that is seen.
        assert!(!hides_processes(&(mounts("rw,hidepid=2") + &mounts("rw"))));
    }

    #[test]
    fn a_file_that_does_not_fit_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let whole: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
        for len in [0, 9, 10, 11, 40, 4000] {
            fs::write(&path, &whole[..len]).unwrap();
            let mut text = vec![0; 10];
            let read = read_at_once(&path, &mut text).unwrap();
            assert_eq!(text[..read], whole[..len]);
        }
    }

    #[test]
    fn a_field_is_what_follows_its_key() {
        let text = b"pos:\t0\nmnt_id:\t27\nlock:\t1: a\nlock:\t2: b\n";
        assert_eq!(field(text, "mnt_id"), Some("27"));
        assert_eq!(field(text, "mnt"), None);
        assert_eq!(fields(text, "lock").collect::<Vec<_>>(), ["1: a", "2: b"]);
    }

    #[test]
    fn this_process_is_shown_with_its_descriptors() {
        let own = Process(std::process::id());
        assert!(Process::all().unwrap().contains(&own));
        assert!(!own.name().is_empty());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let started = Process(child.id()).started();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own.started() > 0 && own.started() <= started);
        assert!(own.mounts().unwrap().iter().any(|it| it.fstype == "proc"));
        let pos = own.find_descriptor(|info| field(info, "pos").map(str::to_owned));
        assert!(pos.unwrap().is_some());
    }
}
