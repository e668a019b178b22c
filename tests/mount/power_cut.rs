//! P6 and P7, the power lost: what was fsynced is there, once, and what is there is a whole prefix
//! of the commit order.
//!
//! The store is on a filesystem in a file on an XFS: a reflinked copy of that file is what the disk
//! held at one instant. Each copy is mounted, which replays its own log, and recovered in another
//! boot.

use crate::common;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use common::{
    Chunk, LoopMount, Mount, chunks_in, close_chunk as close, csv_names,
    inside_a_private_namespace, npyfs, run, sync_path, write_chunk,
};

const PRODUCERS: usize = 4;

/// For each producer, how many of its chunks: they are closed one after the other.
type Counts = [u64; PRODUCERS];

#[derive(Debug, Default)]
struct Progress {
    closed: [AtomicU64; PRODUCERS],
    durable: [AtomicU64; PRODUCERS],
}

fn read(counts: &[AtomicU64; PRODUCERS]) -> Counts {
    std::array::from_fn(|n| counts[n].load(Ordering::SeqCst))
}

impl Progress {
    /// Runs an fsync that must succeed, which covers all that was closed before it began.
    fn synced(&self, sync: impl FnOnce() -> io::Result<()>) {
        let closed = read(&self.closed);
        sync().unwrap();
        for (durable, closed) in self.durable.iter().zip(closed) {
            durable.fetch_max(closed, Ordering::SeqCst);
        }
    }

    fn produce(&self, dataset: &Path, producer: usize, stop: &AtomicBool) {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let chunk = Chunk::new(producer as u64, number);
            let file = write_chunk(dataset, chunk).unwrap();
            match (number + producer as u64) % 12 {
                // Before close: the chunk is complete, so it is committed and covered.
                2 => {
                    self.synced(|| {
                        nix::unistd::fsync(&file).map_err(io::Error::from)?;
                        self.closed[producer].fetch_max(number, Ordering::SeqCst);
                        Ok(())
                    });
                    self.durable[producer].fetch_max(number + 1, Ordering::SeqCst);
                    close(file).unwrap();
                    self.closed[producer].store(number + 1, Ordering::SeqCst);
                }
                n => {
                    close(file).unwrap();
                    self.closed[producer].store(number + 1, Ordering::SeqCst);
                    match n {
                        5 => self.synced(|| sync_path(&dataset.join(chunk.name()))),
                        8 => self.synced(|| sync_path(&dataset.join("data.npy"))),
                        11 => self.synced(|| sync_path(dataset)),
                        _ => {}
                    }
                }
            }
            // Leaves the filesystem's own writeback something to do between two copies.
            sleep(Duration::from_millis(number % 7));
        }
    }
}

struct Cut {
    image: PathBuf,
    durable: Counts,
}

/// Runs producers on a store in the filesystem at `inner`, and copies its image `cuts` times. The
/// second value is the order in which the chunks were committed.
fn run_and_copy(inner: &LoopMount, copies: &Path, cuts: usize) -> (Vec<Cut>, Vec<Chunk>) {
    let store = inner.at.join("store");
    fs::create_dir(&store).unwrap();
    let mount = Mount::builder()
        .store(&store)
        .words("sync-interval=0.3")
        .start();
    let dataset = mount.path("run");
    let progress = Progress::default();
    let stop = AtomicBool::new(false);
    let mut taken = Vec::new();
    fs::create_dir(&dataset).unwrap();
    scope(|threads| {
        for producer in 0..PRODUCERS {
            let (progress, dataset, stop) = (&progress, &dataset, &stop);
            threads.spawn(move || progress.produce(dataset, producer, stop));
        }
        for cut in 0..cuts {
            sleep(Duration::from_millis(20 + (cut as u64 * 37) % 150));
            let image = copies.join(format!("cut{cut}.img"));
            let durable = read(&progress.durable);
            run(Command::new("cp")
                .arg("--reflink=always")
                .args([&inner.image, &image]));
            taken.push(Cut { image, durable });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let order = chunks_in(&dataset.join("data.npy"));
    mount.finish();
    (taken, order)
}

/// The names of our chunks anywhere in the journal's bytes.
fn names_in_journal(dataset: &Path) -> HashSet<String> {
    let bytes = fs::read(dataset.join(".npyfs/chunks.log")).unwrap_or_default();
    bytes
        .windows(Chunk::new(0, 0).name().len())
        .filter(|window| window.starts_with(b"p") && window.ends_with(b".npy"))
        .filter_map(|window| std::str::from_utf8(window).ok())
        .filter(|name| Chunk::from_name(name).is_some())
        .map(str::to_owned)
        .collect()
}

/// Checks one image; returns how many chunks it had, and how many were dropped.
fn check(cut: &Cut, at: &Path, options: &str, order: &[Chunk]) -> (usize, usize) {
    let inner = LoopMount::open(&cut.image, at, options);
    let store = inner.at.join("store");
    let stored = store.join("run");
    let recorded = names_in_journal(&stored);
    if !store.exists() {
        assert_eq!(cut.durable, [0; PRODUCERS], "the store is gone");
        return (0, 0);
    }
    let mount = Mount::builder().store(&store).start();
    let dataset = mount.path("run");
    let found = chunks_in(&dataset.join("data.npy"));
    assert!(
        order.starts_with(&found),
        "not a prefix of the commit order"
    );
    for (producer, durable) in cut.durable.iter().enumerate() {
        for number in 0..*durable {
            let chunk = Chunk::new(producer as u64, number);
            assert!(found.contains(&chunk), "{chunk:?} was fsynced and is lost");
        }
    }
    let names: Vec<String> = found.iter().map(|chunk| chunk.name()).collect();
    if dataset.exists() {
        assert_eq!(csv_names(&dataset), names);
    }
    let log = fs::read_to_string(stored.join(".npyfs/log")).unwrap_or_default();
    let there: HashSet<String> = names.into_iter().collect();
    let dropped: Vec<&String> = recorded.difference(&there).collect();
    for name in &dropped {
        assert!(
            log.contains(*name),
            "{name} was dropped, and the log has no word of it: {log}"
        );
    }
    // The producers send again what they have no fsync for; one image may be older than the dataset.
    fs::create_dir_all(&dataset).unwrap();
    for chunk in order.iter().skip(found.len()).take(3) {
        common::put_chunk(&dataset, *chunk).unwrap();
    }
    mount.finish();
    if stored.join("data.npy").exists() {
        run(Command::new(npyfs()).arg("check").arg(&store));
    }
    (found.len(), dropped.len())
}

/// Another boot, in this mount namespace only.
fn reboot(scratch: &Path) {
    let boot = scratch.join("boot_id");
    fs::write(&boot, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
    run(Command::new("mount")
        .arg("--bind")
        .arg(&boot)
        .arg("/proc/sys/kernel/random/boot_id"));
}

fn power_cuts(kind: &str, options: &str, cuts: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let outer = LoopMount::make(
        &scratch.path().join("outer"),
        "xfs",
        4 << 30,
        &["-m", "reflink=1"],
    );
    let image = outer.at.join("disk.img");
    let at = scratch.path().join("inner");
    let inner = LoopMount::make_in::<&str>(&image, &at, kind, 1 << 30, &[]);
    let start = Instant::now();
    let (taken, order) = run_and_copy(&inner, &outer.at, cuts);
    drop(inner);
    let ran = start.elapsed();
    reboot(scratch.path());
    let (mut most, mut dropped, mut synced) = (0, 0, 0);
    for cut in &taken {
        let (had, lost) = check(cut, &at, options, &order);
        most = most.max(had);
        dropped += lost;
        synced += cut.durable.iter().sum::<u64>();
        fs::remove_file(&cut.image).unwrap();
    }
    println!(
        "{kind}: {cuts} power cuts in {ran:.1?}: {} chunks committed at the end, {most} in the last \
         image, {synced} fsynced ones verified, {dropped} dropped by name",
        order.len()
    );
    assert!(synced > 0);
}

const CUTS: usize = 20;

#[test]
fn a_power_cut_on_ext4_costs_nothing_that_was_synced() {
    require!(fuse, root, unshare);
    if inside_a_private_namespace("a_power_cut_on_ext4_costs_nothing_that_was_synced") {
        power_cuts("ext4", "loop", CUTS);
    }
}

#[test]
fn a_power_cut_on_xfs_costs_nothing_that_was_synced() {
    require!(fuse, root, unshare);
    if inside_a_private_namespace("a_power_cut_on_xfs_costs_nothing_that_was_synced") {
        power_cuts("xfs", "loop,nouuid", CUTS);
    }
}
