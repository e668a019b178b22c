//! Where a path that a command was given leads in the store, also by way of a mount.
//!
//! The table of mounts tells; a mount itself is never asked, as its daemon may be dead or stopped,
//! and what it shows is made from the store.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use crate::exit::{Exit, Failure, OrExit};
use crate::mountinfo::{self, Entry};

/// As the kernel's.
const MOST_LINKS: usize = 40;

/// A path in no mount of ours.
#[derive(Debug)]
pub(super) struct Place {
    /// As it was given.
    given: PathBuf,
    /// Where that is in the store, without links.
    pub(super) path: PathBuf,
    /// The mount by way of which it was given.
    pub(super) mount: Option<Entry>,
    pub(super) table: Vec<Entry>,
}

impl Place {
    /// Nothing needs to be there yet.
    pub(super) fn find(given: &Path) -> Result<Self, Failure> {
        let table =
            mountinfo::read().or_exit(Exit::Failed, || "cannot read the table of mounts".into())?;
        let mut path = without_links(given, &table)
            .or_exit(Exit::Store, || format!("cannot use {}", given.display()))?;
        let mount = ours(&table, &path).cloned();
        if let Some(mount) = &mount {
            path = mount.stored(&path);
            if let Some(over) = ours(&table, &path) {
                return Err(Failure::new(
                    Exit::Store,
                    format!(
                        "{} is in a mount of the store {}, which is hidden by a mount of {} at {}",
                        given.display(),
                        mount.store().display(),
                        over.store().display(),
                        over.mountpoint.display()
                    ),
                ));
            }
        }
        Ok(Self {
            given: given.to_owned(),
            path,
            mount,
            table,
        })
    }

    /// For messages: as it was given, and where it leads if that is elsewhere.
    pub(super) fn shown(&self) -> String {
        match &self.mount {
            Some(_) => format!("{} ({})", self.given.display(), self.path.display()),
            None => self.given.display().to_string(),
        }
    }

    /// The mounts that show it.
    pub(super) fn mounts(&self) -> impl Iterator<Item = &Entry> {
        let shows = |entry: &&Entry| entry.is_npyfs() && self.path.starts_with(entry.store());
        self.table.iter().filter(shows)
    }
}

/// The mount of ours that a path is in.
fn ours<'a>(table: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    mountinfo::containing_in(table, path).filter(|entry| entry.is_npyfs())
}

/// The path with links resolved, up to where a mount of ours begins: in that there are none, and
/// nothing is asked. What does not exist is left as it is.
fn without_links(given: &Path, table: &[Entry]) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    if given.is_relative() {
        path = std::env::current_dir()?;
    }
    let mut links = 0;
    let mut missing = false;
    let mut left: Vec<OsString> = Vec::new();
    push(&mut left, given);
    while let Some(next) = left.pop() {
        match Path::new(&next).components().next() {
            Some(Component::RootDir) => path = "/".into(),
            Some(Component::ParentDir) if missing => return Err(ErrorKind::NotFound.into()),
            Some(Component::ParentDir) => {
                path.pop();
            }
            Some(Component::Normal(name)) => {
                path.push(name);
                if missing || ours(table, &path).is_some() {
                    continue;
                }
                match path.read_link() {
                    Ok(_) if links == MOST_LINKS => {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    Ok(target) => {
                        links += 1;
                        path.pop();
                        push(&mut left, &target);
                    }
                    Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => missing = true,
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
    }
    Ok(path)
}

/// Puts the parts of a path on the stack, the first on top.
fn push(left: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev();
    left.extend(parts.map(|part| part.as_os_str().to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_resolved_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("../a/b", root.join("a/up")).unwrap();
        symlink(root.join("a/up"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for path in ["a/b", "a/up", "absolute", "a/up/../b", "./absolute/."] {
            let found = without_links(&root.join(path), &[]).unwrap();
            assert_eq!(found, root.join(path).canonicalize().unwrap(), "{path}");
        }
        let looped = without_links(&root.join("loop"), &[]).unwrap_err();
        assert_eq!(looped.raw_os_error(), Some(libc::ELOOP));
        // What is still to be made.
        let made = without_links(&root.join("absolute/c/d"), &[]).unwrap();
        assert_eq!(made, root.join("a/b/c/d"));
        without_links(&root.join("no/../a"), &[]).unwrap_err();
    }
}
