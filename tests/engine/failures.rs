//! The rows of the table of errnos that no ordinary store and no real kernel bring about: a store
//! over quota or failing, and handles and inodes that nobody was given.

use crate::simulated;

use std::sync::Arc;
use std::time::{Duration, Instant};

use npyfs::error::Errno;
use npyfs::fs::{Caller, Fs};
use npyfs::store::Store;
use npyfs::{Dataset, Options, Result};
use simulated::{Disk, Fault};

fn chunk(seed: u8) -> Vec<u8> {
    let dtype = "<f8".parse().unwrap();
    let mut bytes = npyfs::npy::Header::encode(&dtype, &[4]).unwrap();
    bytes.extend([seed; 32]);
    bytes
}

fn rows(dataset: &Dataset) -> u64 {
    dataset.snapshot().unwrap().unwrap().rows()
}

/// How many calls one append takes on a dataset that has a chunk.
fn calls_of_an_append() -> usize {
    let disk = Disk::default();
    let dataset = opened(&disk);
    disk.break_at(None);
    dataset.append("b.npy", &chunk(2)).unwrap();
    disk.calls()
}

fn opened(disk: &Disk) -> Arc<Dataset> {
    let folder = Arc::new(disk.clone());
    let dataset = Dataset::open_in(folder, "run", Options::default()).unwrap();
    dataset.append("a.npy", &chunk(1)).unwrap();
    dataset
}

/// Fails each call of an append in turn.
fn each_failure_comes_as(errno: Errno) {
    let calls = calls_of_an_append();
    let mut told = 0;
    for at in 0..calls {
        let disk = Disk::default();
        let dataset = opened(&disk);
        disk.break_at(Some(Fault {
            at,
            errno: errno as i32,
            for_good: false,
            half: false,
        }));
        let appended = dataset.append("b.npy", &chunk(2));
        disk.break_at(None);
        match appended {
            Ok(()) => assert_eq!(rows(&dataset), 8, "call {at}"),
            Err(error) => {
                told += 1;
                assert_eq!(error.errno(), errno, "call {at}: {error}");
                assert_eq!(rows(&dataset), 4, "call {at}: {error}");
                dataset.append("b.npy", &chunk(2)).unwrap();
                assert_eq!(rows(&dataset), 8, "call {at}: the cause is gone");
            }
        }
    }
    assert!(told > 0, "none of {calls} failures was told");
}

#[test]
fn a_store_over_quota_is_edquot_and_nothing_is_half_appended() {
    each_failure_comes_as(Errno::EDQUOT);
}

#[test]
fn a_failing_store_is_eio_and_nothing_is_half_appended() {
    each_failure_comes_as(Errno::EIO);
}

/// The store stops working at each call of an append and an fsync in turn, for good, and works again
/// later: with nobody opening the dataset anew, it goes on, and the disk is as if nothing had been.
#[test]
fn a_store_that_failed_anywhere_is_written_again_once_it_works() {
    let calls = {
        let disk = Disk::default();
        let dataset = opened(&disk);
        disk.break_at(None);
        dataset.append("b.npy", &chunk(2)).unwrap();
        dataset.sync().unwrap();
        disk.calls()
    };
    for (at, half) in (0..calls).flat_map(|at| [(at, false), (at, true)]) {
        let context = format!("failed from call {at} on, half done: {half}");
        let disk = Disk::default();
        let dataset = opened(&disk);
        disk.break_at(Some(Fault {
            at,
            errno: Errno::EIO as i32,
            for_good: true,
            half,
        }));
        let appended = dataset.append("b.npy", &chunk(2)).is_ok();
        let synced = dataset.sync().is_ok();
        // All but the note of what is durable, which only saves the next recovery some work.
        assert!(disk.struck() && (!synced || at + 1 == calls), "{context}");
        assert_eq!(rows(&dataset), if appended { 8 } else { 4 }, "{context}");
        dataset.append("c.npy", &chunk(3)).unwrap_err();
        disk.break_at(None);

        let start = Instant::now();
        // It tries again after a moment.
        while let Err(error) = dataset.append("c.npy", &chunk(3)) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{error}: {context}"
            );
        }
        dataset
            .sync()
            .unwrap_or_else(|error| panic!("{error}: {context}"));
        let expected = if appended { 12 } else { 8 };
        assert_eq!(rows(&dataset), expected, "{context}");
        for (boot, next) in [
            (None, disk.killed()),
            (Some([2; 16]), disk.power_cut(at as u64)),
        ] {
            let options = Options {
                boot,
                ..Options::default()
            };
            let again = Dataset::open_in(Arc::new(next), "run", options).unwrap();
            assert_eq!(rows(&again), expected, "opened again, {context}");
            for (name, there) in [("a.npy", true), ("b.npy", appended), ("c.npy", true)] {
                let found = again.chunk(name.as_ref()).unwrap();
                assert_eq!(found.is_some(), there, "{name}, {context}");
            }
        }
    }
}

/// What would commit meanwhile is told so, and goes to a thread that may wait for the disk.
#[test]
fn a_dataset_whose_store_is_written_again_is_busy() {
    let disk = Disk::default();
    let dataset = opened(&disk);
    disk.break_at(Some(Fault {
        at: 0,
        errno: Errno::EIO as i32,
        for_good: true,
        half: false,
    }));
    dataset.sync().unwrap_err();
    disk.break_at(None);
    assert!(dataset.has_failed() && !dataset.is_busy());
    std::thread::scope(|scope| {
        disk.standing_still(|| {
            scope.spawn(|| dataset.append("b.npy", &chunk(2)).unwrap());
            let start = Instant::now();
            while !dataset.is_busy() {
                assert!(start.elapsed() < Duration::from_secs(5), "nobody says so");
                std::thread::yield_now();
            }
        });
    });
    assert_eq!(rows(&dataset), 8);
    assert!(!dataset.has_failed() && !dataset.is_busy());
}

#[test]
fn unknown_handles_are_ebadf_and_unknown_inodes_estale() {
    const UNKNOWN: u64 = 1 << 40;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), npyfs::store::Options::default()).unwrap();
    let options = npyfs::fs::Options {
        cached: false,
        read_only: false,
        allow_delete: npyfs::fs::AllowDelete::Nothing,
        sync_interval: Duration::ZERO,
        remembered: 1 << 10,
    };
    let fs = Fs::new(store, options).unwrap();
    let caller = Caller {
        uid: 0,
        gid: 0,
        pid: 0,
    };
    fn errno<T>(result: Result<T>) -> Option<Errno> {
        result.err().map(|error| error.errno())
    }
    let bad = Some(Errno::EBADF);
    assert_eq!(errno(fs.read(UNKNOWN, 0, &mut [0])), bad);
    assert_eq!(errno(fs.write(UNKNOWN, 0, b"x", || ())), bad);
    assert_eq!(errno(fs.flush(UNKNOWN, &caller)), bad);
    assert_eq!(errno(fs.fallocate(UNKNOWN, 0, 1, 0)), bad);
    assert_eq!(errno(fs.readdir(1, UNKNOWN, 0, |_| false)), bad);
    assert_eq!(errno(fs.release(UNKNOWN)), bad);
    assert_eq!(errno(fs.begin_fsync(1, UNKNOWN)), bad);

    let stale = Some(Errno::ESTALE);
    assert_eq!(errno(fs.getattr(UNKNOWN, None, 1)), stale);
    assert_eq!(errno(fs.lookup(UNKNOWN, "x".as_ref(), 1)), stale);
    assert_eq!(errno(fs.open(UNKNOWN, libc::O_RDONLY, &caller)), stale);
    assert_eq!(errno(fs.opendir(UNKNOWN)), stale);
    assert_eq!(errno(fs.unlink(UNKNOWN, "x".as_ref())), stale);
    fs.forget(UNKNOWN, 1);
    fs.close().unwrap();
}
