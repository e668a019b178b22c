//! What a recovery has to say, in the dataset's log: what it found, what it kept, and what it
//! dropped, by name.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Chunk, Mount, Style, chunks_in, put_chunk, sync_path, wait_until_stored};

fn of_style(style: Style, n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(0, number));
    all.filter(|it| it.style() == style).take(n).collect()
}

/// Writes a chunk but for the first 4096 bytes of its second half.
fn begin(dataset: &Path, chunk: Chunk) -> File {
    let bytes = chunk.bytes();
    let (half, gap) = (bytes.len() / 2, 4096);
    let file = File::create_new(dataset.join(chunk.name())).unwrap();
    if chunk.style() == Style::Staged {
        file.write_all_at(&bytes[half + gap..], (half + gap) as u64)
            .unwrap();
    }
    file.write_all_at(&bytes[..half], 0).unwrap();
    wait_until_stored(&file);
    file
}

/// A store that a daemon left behind when it was killed: two chunks that were synced, and three
/// that were not.
fn killed(in_flight: &[Chunk]) -> (tempfile::TempDir, Vec<Chunk>) {
    let store = tempfile::tempdir().unwrap();
    let chunks = of_style(Style::Small, 5);
    let mut mount = Mount::builder()
        .store(store.path())
        .words("sync-interval=1000")
        .start();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    for (n, chunk) in chunks.iter().enumerate() {
        put_chunk(&dataset, *chunk).unwrap();
        if n == 1 {
            sync_path(&dataset).unwrap();
        }
    }
    let open: Vec<File> = in_flight
        .iter()
        .map(|chunk| begin(&dataset, *chunk))
        .collect();
    mount.crash();
    drop(open);
    (store, chunks)
}

/// Opens the dataset, and returns what its log says of that and which chunks it has.
fn recovered(store: &Path) -> (String, Vec<Chunk>) {
    let log = store.join("run/.npyfs/log");
    let before = fs::read_to_string(&log).unwrap_or_default();
    let mount = Mount::builder().store(store).start();
    let found = chunks_in(&mount.path("run/data.npy"));
    let daemon = mount.log();
    mount.finish();
    let after = fs::read_to_string(&log).unwrap_or_default();
    let said = after[before.len()..].to_owned();
    // Each line has its time; the daemon's own log says the same.
    for line in said.lines() {
        let (_, line) = line.split_once(' ').unwrap();
        assert!(daemon.contains(line), "not in the daemon's log: {line}");
    }
    (said, found)
}

#[track_caller]
fn says(said: &str, phrases: &[&str]) {
    for phrase in phrases {
        assert!(said.contains(phrase), "no word of '{phrase}': {said}");
    }
}

fn open_for_damage(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn after_a_kill_it_names_what_is_kept_and_counts_what_was_in_flight() {
    require!(fuse);
    let streamed = of_style(Style::Streamed, 1)[0];
    let staged = of_style(Style::Staged, 1)[0];
    let (store, chunks) = killed(&[streamed, staged]);
    let (said, found) = recovered(store.path());
    assert_eq!(found, chunks);
    let rows: u64 = chunks.iter().map(|it| it.rows()).sum();
    let names: Vec<String> = chunks.iter().map(|it| it.name()).collect();
    says(
        &said,
        &[
            "its daemon died in this boot",
            &format!("kept 5 chunks with {rows} rows"),
            &format!("{} to {}, 3 chunks, were verified", names[2], names[4]),
            &format!(
                "{} was being written when the daemon died: {} bytes of it are kept as .npyfs/rejected/",
                staged.name(),
                staged.bytes().len()
            ),
            &format!(
                "cut {} bytes off data.npy",
                streamed.bytes().len() / 2 - 128
            ),
        ],
    );
    // And nothing when there is nothing to recover.
    let (said, _) = recovered(store.path());
    assert_eq!(said, "");
}

#[test]
fn rows_that_are_not_what_was_written_are_dropped_by_name_with_all_behind_them() {
    require!(fuse);
    let (store, chunks) = killed(&[]);
    let data = store.path().join("run/data.npy");
    let before: u64 = chunks[..3].iter().map(|it| it.rows() * 32).sum();
    open_for_damage(&data)
        .write_all_at(&[0x55; 8], 128 + before)
        .unwrap();
    let (said, found) = recovered(store.path());
    assert_eq!(found, chunks[..3]);
    let names: Vec<String> = chunks.iter().map(|it| it.name()).collect();
    let dropped = |n: usize| {
        format!(
            "{} dropped by recovery: its {} rows",
            names[n],
            chunks[n].rows()
        )
    };
    says(
        &said,
        &[
            "kept 3 chunks",
            &format!("of which {} was verified", names[2]),
            &dropped(3),
            &dropped(4),
        ],
    );
    assert!(!said.contains(&format!("{} dropped", names[2])), "{said}");
}

#[test]
fn a_torn_record_is_cut_off_at_a_byte_that_is_told() {
    require!(fuse);
    let (store, chunks) = killed(&[]);
    let journal = store.path().join("run/.npyfs/chunks.log");
    let len = fs::metadata(&journal).unwrap().len();
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend([77; 30]);
    fs::write(&journal, bytes).unwrap();
    let (said, found) = recovered(store.path());
    assert_eq!(found, chunks);
    says(
        &said,
        &[&format!("after its last good record, at byte {len}")],
    );
}

#[test]
fn a_count_that_is_behind_the_journal_is_counted_again() {
    require!(fuse);
    let (store, chunks) = killed(&[]);
    let data = store.path().join("run/data.npy");
    let rows = |chunks: &[Chunk]| chunks.iter().map(|it| it.rows()).sum::<u64>();
    let (all, fewer) = (rows(&chunks), rows(&chunks[..4]));
    let mut head = vec![0; 128];
    let file = open_for_damage(&data);
    file.read_exact_at(&mut head, 0).unwrap();
    let text = String::from_utf8(head[10..].to_vec()).unwrap();
    let width = all.to_string().len();
    let text = text.replace(&format!("{all}, 4"), &format!("{fewer:>width$}, 4"));
    file.write_all_at(text.as_bytes(), 10).unwrap();
    drop(file);
    let (said, found) = recovered(store.path());
    assert_eq!(found, chunks);
    says(
        &said,
        &[&format!("counted {fewer} rows, the journal {all}")],
    );
}

/// They may be all that is left of something: the limit for refused chunks is not theirs.
#[test]
fn rows_without_a_record_are_set_aside_whatever_the_limit_is() {
    let scratch = tempfile::tempdir().unwrap();
    let options = |boot| npyfs::Options {
        rejected_limit: 0,
        boot: Some([boot; 16]),
        ..Default::default()
    };
    let chunks = of_style(Style::Small, 2);
    let dataset = npyfs::Dataset::open(scratch.path(), options(1)).unwrap();
    dataset
        .append(chunks[0].name(), &chunks[0].bytes())
        .unwrap();
    dataset.sync().unwrap();
    let journal = scratch.path().join(".npyfs/chunks.log");
    let before = fs::metadata(&journal).unwrap().len();
    dataset
        .append(chunks[1].name(), &chunks[1].bytes())
        .unwrap();
    // What the power cut left: the rows and their count, and not the record.
    std::mem::forget(dataset);
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join(".npyfs")).unwrap();
    for name in ["data.npy", ".npyfs/chunks.log"] {
        fs::copy(scratch.path().join(name), copy.path().join(name)).unwrap();
    }
    let journal = open_for_damage(&copy.path().join(".npyfs/chunks.log"));
    journal.set_len(before).unwrap();
    let dataset = npyfs::Dataset::open(copy.path(), options(2)).unwrap();
    assert_eq!(
        dataset.snapshot().unwrap().unwrap().rows(),
        chunks[0].rows()
    );
    let kept: Vec<_> = fs::read_dir(copy.path().join(".npyfs/rescued"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(chunks_in(&kept[0]), [chunks[1]]);
    let log = fs::read_to_string(copy.path().join(".npyfs/log")).unwrap();
    says(&log, &["is a copy", "set aside in .npyfs/rescued"]);
}
