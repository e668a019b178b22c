//! What recovery sets aside, and what an fsync had confirmed, is kept for good.

mod common;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use common::counted;
use npyfs::{Dataset, DatasetOptions};

fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map(Iterator::collect::<Vec<_>>);
    let mut names: Vec<_> = entries
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names
}

fn options(boot: u8) -> DatasetOptions {
    DatasetOptions {
        boot: Some([boot; 16]),
        rejected_limit: 4000,
        ..DatasetOptions::default()
    }
}

/// What a power cut left: 10 rows that are recorded, and 10 of which only the header tells.
fn with_rows_without_record() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(store.path(), options(1)).unwrap();
    dataset.append("a.npy", &counted(0, 10)).unwrap();
    dataset.sync().unwrap();
    let journal = store.path().join(".npyfs/chunks.log");
    let before = fs::metadata(&journal).unwrap().len();
    dataset.append("b.npy", &counted(10, 10)).unwrap();
    std::mem::forget(dataset);
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join(".npyfs")).unwrap();
    for name in ["data.npy", ".npyfs/chunks.log"] {
        fs::copy(store.path().join(name), copy.path().join(name)).unwrap();
    }
    let journal = OpenOptions::new()
        .write(true)
        .open(copy.path().join(".npyfs/chunks.log"));
    journal.unwrap().set_len(before).unwrap();
    copy
}

#[test]
fn rows_that_recovery_sets_aside_outlive_any_number_of_refusals() {
    let store = with_rows_without_record();
    let dataset = Dataset::open(store.path(), options(2)).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 10);
    for n in 0..10 {
        let short = &counted(0, 50)[..3000];
        dataset.append(format!("{n}.npy"), short).unwrap_err();
    }
    let kept = names(&store.path().join(".npyfs/rescued"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(fs::read(&kept[0]).unwrap() == counted(10, 10));
    assert!(
        kept[0]
            .to_str()
            .unwrap()
            .ends_with("-rows-without-record.npy")
    );
}

#[test]
fn nothing_is_cut_where_it_cannot_be_set_aside() {
    let store = with_rows_without_record();
    let in_the_way = store.path().join(".npyfs/rescued");
    fs::write(&in_the_way, "in the way").unwrap();
    let data = || fs::read(store.path().join("data.npy")).unwrap();
    let before = data();
    let error = Dataset::open(store.path(), options(2)).unwrap_err();
    assert!(error.to_string().contains(".npyfs/rescued"), "{error}");
    assert!(data() == before);
    fs::remove_file(&in_the_way).unwrap();
    let dataset = Dataset::open(store.path(), options(2)).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 10);
    assert_eq!(names(&in_the_way).len(), 1);
}
