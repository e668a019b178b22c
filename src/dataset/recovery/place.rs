//! Whether the files of a dataset that was not closed are where its last daemon had them, and whether
//! what it wrote may be in memory still.

use std::sync::Arc;

use crate::disk::{MountId, Place, StoreFile};
use crate::error::{Context, Result};
use crate::journal::Opened;

/// What has happened since the last daemon took the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// It died: the files are where they were, and so is what it wrote to them, in memory or on the
    /// disk.
    Died,
    /// The files are where they were, but what had not reached the disk may be gone: power was lost,
    /// or this is a snapshot of the disk.
    Restarted,
    /// The files are others: a copy, of which each part may be of another moment.
    Copied,
}

/// Goes by what the last opened record tells. Where it tells of no place, the files are taken for
/// those that it was written to.
pub(super) fn since(
    opened: Option<&Opened>,
    boot: &[u8; 16],
    journal: &Arc<dyn StoreFile>,
    data: Option<&Arc<dyn StoreFile>>,
) -> Result<Since> {
    let Some((opened, whence)) = opened.and_then(|it| Some((it, it.whence?))) else {
        return Ok(Since::Restarted);
    };
    let failed = || "cannot see where the dataset lies".to_owned();
    let here = journal.whereabouts().context(failed)?;
    // A kernel that gives no boot a name says the same of all.
    let same_boot = opened.boot == *boot && *boot != [0; 16];
    let same_life = same_boot && whence.mount == here.mount && here.mount != MountId::Unknown;
    let mut same_place = is_same(whence.journal, here.place, same_life);
    // It is recorded as soon as there is one.
    if let Some(data) = data
        && whence.data != Place::default()
    {
        let data = data.whereabouts().context(failed)?;
        same_place &= is_same(whence.data, data.place, same_life);
    }
    Ok(match (same_place, same_life) {
        (true, true) => Since::Died,
        (true, false) => Since::Restarted,
        (false, _) => Since::Copied,
    })
}

/// Inode numbers alone tell one file from another within one filesystem: a copy in another may have
/// the same.
fn is_same(then: Place, now: Place, same_life: bool) -> bool {
    then == now && (same_life || now.born != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsFile;
    use crate::journal::Whence;
    use std::fs::{self, File};
    use std::path::Path;

    const BOOT: [u8; 16] = [1; 16];

    fn file(path: &Path) -> Arc<dyn StoreFile> {
        Arc::new(OsFile::new(File::open(path).unwrap()))
    }

    #[test]
    fn a_copy_a_restart_and_a_death_are_told_apart() {
        let at = tempfile::tempdir().unwrap();
        let (journal, data) = (at.path().join("journal"), at.path().join("data"));
        for path in [&journal, &data] {
            fs::write(path, "bytes").unwrap();
        }
        let (journal_blob, data_blob) = (file(&journal), file(&data));
        let here = journal_blob.whereabouts().unwrap();
        let whence = Whence {
            host: [0; 16],
            mount: here.mount,
            data: data_blob.whereabouts().unwrap().place,
            journal: here.place,
        };
        let ask = |whence: Option<Whence>, boot: [u8; 16]| {
            let opened = Opened {
                boot: BOOT,
                at: 0,
                whence,
            };
            since(Some(&opened), &boot, &journal_blob, Some(&data_blob)).unwrap()
        };
        assert_eq!(ask(Some(whence), BOOT), Since::Died);
        assert_eq!(ask(None, BOOT), Since::Restarted);
        let of_nothing = Whence {
            data: Place::default(),
            ..whence
        };
        assert_eq!(ask(Some(of_nothing), BOOT), Since::Died);
        for mount in [MountId::Unknown, MountId::Unique(1)] {
            let elsewhere = Whence { mount, ..whence };
            // Of a filesystem that has no time of birth, nothing is known after that.
            let expected = match here.place.born {
                0 => Since::Copied,
                _ => Since::Restarted,
            };
            assert_eq!(ask(Some(elsewhere), BOOT), expected);
            assert_eq!(ask(Some(elsewhere), [2; 16]), expected);
        }
        fs::copy(&data, at.path().join("copy")).unwrap();
        let copy = file(&at.path().join("copy"));
        let opened = Opened {
            boot: BOOT,
            at: 0,
            whence: Some(whence),
        };
        for (journal, data) in [(&journal_blob, &copy), (&copy, &data_blob)] {
            let found = since(Some(&opened), &BOOT, journal, Some(data)).unwrap();
            assert_eq!(found, Since::Copied);
        }
    }
}
