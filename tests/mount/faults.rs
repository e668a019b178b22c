//! System calls of the running daemon that fail, one at a time: no acknowledgement is lost, and no
//! row is wrong, ever.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::scope;
use std::time::Duration;

use common::{Chunk, Mount, Strace, chunks_in, csv_names, eventually, kill, sync_path};

const PRODUCERS: u64 = 2;
const CHUNKS: u64 = 12;

/// What is injected: the call, the errno, and the call's number at which it begins (with `+` it
/// goes on failing).
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    errno: &'static str,
    when: &'static str,
}

fn inject(pid: i32, fault: Fault) -> Strace {
    let rule = format!(
        "inject={}:error={}:when={}",
        fault.call, fault.errno, fault.when
    );
    Strace::attach(pid, fault.call, &["-e", &rule], Path::new("/dev/null"))
}

/// What the producers were told.
#[derive(Debug, Default)]
struct Told {
    acknowledged: Vec<Chunk>,
    refused: Vec<Chunk>,
}

fn produce(dataset: &Path, told: &mut Told, first: u64, count: u64) {
    let mut answers: Vec<(Chunk, bool)> = Vec::new();
    scope(|threads| {
        let running: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                threads.spawn(move || {
                    (first..first + count)
                        .map(|number| {
                            let chunk = Chunk::new(producer, number);
                            let done = common::put_chunk(dataset, chunk).is_ok();
                            if number % 4 == 1 {
                                // Its own answer is another matter.
                                sync_path(&dataset.join("data.npy")).ok();
                            }
                            (chunk, done)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for producer in running {
            answers.extend(producer.join().unwrap());
        }
    });
    for (chunk, done) in answers {
        if done {
            told.acknowledged.push(chunk);
        } else {
            told.refused.push(chunk);
        }
    }
}

#[track_caller]
fn assert_told(dataset: &Path, told: &Told, fault: Fault, when: &str) {
    let found = chunks_in(&dataset.join("data.npy"));
    let names: Vec<String> = found.iter().map(|chunk| chunk.name()).collect();
    if dataset.join("data.npy").exists() {
        assert_eq!(csv_names(dataset), names, "{fault:?} {when}");
    }
    let mut sorted = found;
    sorted.sort();
    let mut expected = told.acknowledged.clone();
    expected.sort();
    let lost: Vec<_> = expected.iter().filter(|it| !sorted.contains(it)).collect();
    let more: Vec<_> = sorted.iter().filter(|it| !expected.contains(it)).collect();
    assert!(
        lost.is_empty() && more.is_empty(),
        "{fault:?} {when}: lost {lost:?}, refused but there {more:?}"
    );
}

/// A mount whose faults are logged, and a dataset on it that is synced all the time.
fn often_synced(store: &Path) -> (Mount, PathBuf) {
    let mut mount = Mount::builder()
        .store(store)
        .words("sync-interval=0.1")
        .start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// Returns how many chunks were refused.
fn try_fault(fault: Fault, born: bool) -> usize {
    let store = tempfile::tempdir().unwrap();
    let (mut mount, dataset) = often_synced(store.path());
    let mut told = Told::default();
    if born {
        produce(&dataset, &mut told, 1000, 2);
        assert!(told.refused.is_empty());
    }
    let strace = inject(mount.pid(), fault);
    produce(&dataset, &mut told, 0, CHUNKS);
    strace.detach();
    assert_told(&dataset, &told, fault, "after detaching");
    chunks_in(&mount.store("run/data.npy"));
    produce(&dataset, &mut told, 2000, 1);
    assert_told(&dataset, &told, fault, "when it goes on");
    let refused = told.refused.len();
    mount.crash();
    let mut mount = Mount::builder().store(store.path()).start();
    mount.tolerate_warnings(); // of a reply to a request that the unmount took back
    let dataset = mount.path("run");
    assert_told(&dataset, &told, fault, "after SIGKILL");
    // Whatever was refused can be sent again, and whatever was not, too.
    for chunk in told.refused.drain(..).collect::<Vec<_>>() {
        common::put_chunk(&dataset, chunk).unwrap();
        told.acknowledged.push(chunk);
    }
    common::put_chunk(&dataset, told.acknowledged[0]).unwrap();
    assert_told(&dataset, &told, fault, "after a retry");
    mount.finish();
    refused
}

fn faults(calls: &[&'static str]) {
    let long = std::env::var_os("NPYFS_LONG").is_some();
    let numbers = [
        "1", "2", "3", "4", "5", "6", "7", "8", "9", "12", "15", "20", "1+", "2+", "3+2", "4+3",
        "5+", "7+5", "9+", "14+",
    ];
    let mut tried = 0;
    let mut refused = 0;
    for call in calls {
        for (n, when) in numbers.into_iter().enumerate() {
            for (m, errno) in ["EIO", "ENOSPC", "EROFS"].into_iter().enumerate() {
                // One of them, without the long mode.
                if !long && n % 3 != m {
                    continue;
                }
                let fault = Fault { call, errno, when };
                refused += try_fault(fault, n % 2 == 0);
                tried += 1;
            }
        }
    }
    println!("{tried} faults in {calls:?}: {refused} chunks refused");
}

#[test]
fn a_write_that_fails_loses_nothing() {
    require!(fuse, root, strace);
    faults(&["pwrite64"]);
}

#[test]
fn a_sync_that_fails_loses_nothing() {
    require!(fuse, root, strace);
    faults(&["fdatasync", "fsync"]);
}

#[test]
fn a_truncation_or_reservation_that_fails_loses_nothing() {
    require!(fuse, root, strace);
    faults(&["ftruncate", "fallocate"]);
}

#[test]
fn a_file_that_cannot_be_opened_or_moved_loses_nothing() {
    require!(fuse, root, strace);
    faults(&["openat,openat2", "renameat,renameat2", "unlinkat"]);
}

/// As a store that was remounted read-only or whose owner is over quota, and then is not any more:
/// nothing in it can be changed, everything can be read. The kernel of the tests may have no quota,
/// and remounts no filesystem read-only that has files open for writing.
#[test]
fn a_store_that_takes_no_change_for_a_while_is_read_and_goes_on() {
    require!(fuse, root, strace);
    for (errno, number) in [("EROFS", libc::EROFS), ("EDQUOT", libc::EDQUOT)] {
        let store = tempfile::tempdir().unwrap();
        let (mut mount, dataset) = often_synced(store.path());
        let mut told = Told::default();
        produce(&dataset, &mut told, 0, 6);
        let fault = Fault {
            call: "pwrite64,ftruncate,fallocate,renameat,renameat2,unlinkat,mkdirat",
            errno,
            when: "1+",
        };
        let strace = inject(mount.pid(), fault);
        for number_of in 100..112 {
            let chunk = Chunk::new(3, number_of);
            let error = common::put_chunk(&dataset, chunk).unwrap_err();
            let found = error.raw_os_error().unwrap();
            // Where what was begun could not be taken back either, it is EIO from then on.
            assert!(found == number || found == libc::EIO, "{error}");
            assert!(number_of > 100 || found == number, "{error}");
            assert_told(&dataset, &told, fault, "while it takes no change");
            let view = told.acknowledged[number_of as usize % 12];
            assert_eq!(
                fs::read(dataset.join(view.name())).unwrap(),
                view.bytes(),
                "{errno}"
            );
        }
        strace.detach();
        let again = Chunk::new(3, 100);
        let taken = eventually(Duration::from_secs(10), || {
            common::put_chunk(&dataset, again).is_ok()
        });
        assert!(taken, "{errno}: {}", mount.log());
        told.acknowledged.push(again);
        produce(&dataset, &mut told, 200, 4);
        assert!(told.refused.is_empty(), "{errno}: {told:?}");
        sync_path(&dataset.join("data.npy")).unwrap();
        assert_told(&dataset, &told, fault, "when it goes on");
        mount.crash();
        let mount = Mount::builder().store(store.path()).start();
        assert_told(&mount.path("run"), &told, fault, "after SIGKILL");
        mount.finish();
    }
}

/// The kernel takes pages that it could not write for written: only writing them again helps. That
/// is done as soon as the disk takes them, by this daemon or by the next.
#[test]
fn what_a_failed_sync_may_have_lost_is_written_again() {
    require!(fuse, root, strace);
    for ending in ["works again", "killed", "ended"] {
        let store = tempfile::tempdir().unwrap();
        let mut mount = Mount::builder().store(store.path()).start();
        mount.tolerate_warnings();
        let dataset = mount.path("run");
        fs::create_dir(&dataset).unwrap();
        let mut told = Told::default();
        produce(&dataset, &mut told, 0, 4);
        let fault = Fault {
            call: "fdatasync",
            errno: "EIO",
            when: "1+",
        };
        let strace = inject(mount.pid(), fault);
        common::put_chunk(&dataset, Chunk::new(5, 0)).unwrap();
        told.acknowledged.push(Chunk::new(5, 0));
        let data = dataset.join("data.npy");
        for _ in 0..3 {
            let error = sync_path(&data).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            let error = common::put_chunk(&dataset, Chunk::new(5, 1)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
        }
        assert_told(&dataset, &told, fault, "while syncs fail");
        match ending {
            "works again" => strace.detach(),
            "killed" => mount.crash(),
            _ => {
                kill(mount.pid(), "TERM");
                mount.ended();
            }
        }
        if ending != "works again" {
            mount = Mount::builder().store(store.path()).start();
        }
        let written = rewritten(&mount, "run");
        let dataset = mount.path("run");
        assert_told(&dataset, &told, fault, ending);
        let unsynced = Chunk::new(5, 0).rows() * 32;
        assert!(written > unsynced, "{ending}: {written} bytes written");
        common::put_chunk(&dataset, Chunk::new(5, 1)).unwrap();
        told.acknowledged.push(Chunk::new(5, 1));
        assert_told(&dataset, &told, fault, ending);
        mount.finish();
    }
}

/// How many bytes of `data.npy` the daemon writes while the dataset is synced.
fn rewritten(mount: &Mount, dataset: &str) -> u64 {
    let trace = mount.scratch("trace");
    let strace = Strace::attach(mount.pid(), "pwrite64", &[], &trace);
    assert!(eventually(Duration::from_secs(5), || {
        sync_path(&mount.path(dataset).join("data.npy")).is_ok()
    }));
    strace.detach();
    let text = fs::read_to_string(trace).unwrap();
    let writes = text.lines().filter(|line| line.contains("data.npy>"));
    writes
        .filter_map(|line| line.rsplit(" = ").next()?.parse::<u64>().ok())
        .sum()
}
