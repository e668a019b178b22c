//! P6, seen from outside: what an fsync has the daemon sync, who shares it, and who does not wait.

use crate::common;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{Chunk, Mount, Strace, Style, chunks_in, eventually, put_chunk, sync_path};
use nix::errno::Errno;

/// strace at the daemon's syncs; each takes `delay` longer.
struct Watch {
    strace: Strace,
    trace: PathBuf,
}

impl Watch {
    fn start(mount: &Mount, delay: Duration) -> Self {
        let trace = mount.scratch("trace");
        let rule = format!("inject=fdatasync,fsync:delay_enter={}", delay.as_micros());
        let slower = ["-e", &rule];
        let options: &[&str] = if delay.is_zero() { &[] } else { &slower };
        let strace = Strace::attach(mount.pid(), "fdatasync,fsync", options, &trace);
        Watch { strace, trace }
    }

    /// How often the file of this name was synced up to now.
    fn syncs(&self, name: &str) -> usize {
        let text = fs::read_to_string(&self.trace).unwrap();
        let begun = text.lines().filter(|line| !line.contains("resumed>"));
        begun
            .filter(|line| line.contains(&format!("/{name}>")))
            .count()
    }

    fn end(self) {
        self.strace.detach();
    }
}

fn small(producer: u64, n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(producer, number));
    all.filter(|it| it.style() == Style::Small)
        .take(n)
        .collect()
}

/// A mount with one dataset that has a chunk, and no syncs but those that are asked for.
fn quiet() -> Mount {
    let mount = Mount::builder().words("sync-interval=1000").start();
    fs::create_dir(mount.path("run")).unwrap();
    put_chunk(&mount.path("run"), Chunk::new(99, 0)).unwrap();
    sync_path(&mount.path("run")).unwrap();
    mount
}

#[test]
fn fsync_of_a_chunk_the_array_or_the_directory_syncs_rows_and_journal() {
    require!(fuse, root, strace);
    let mount = quiet();
    let dataset = mount.path("run");
    let chunks = small(0, 5);
    let watch = Watch::start(&mount, Duration::ZERO);
    let mut seen = 0;
    let mut each = |what: &str, sync: &dyn Fn()| {
        sync();
        seen += 1;
        for file in ["data.npy", "chunks.log"] {
            // strace writes a moment later.
            let synced = eventually(Duration::from_secs(2), || watch.syncs(file) >= seen);
            assert!(synced, "{file} not synced by fsync of {what}");
            assert_eq!(watch.syncs(file), seen, "{file}, fsync of {what}");
        }
    };
    each("a complete chunk before its close", &|| {
        let file = common::write_chunk(&dataset, chunks[0]).unwrap();
        nix::unistd::fsync(&file).unwrap();
        assert_eq!(
            chunks_in(&dataset.join("data.npy")).len(),
            2,
            "not committed"
        );
        common::close_chunk(file).unwrap();
    });
    each("a committed chunk", &|| {
        put_chunk(&dataset, chunks[1]).unwrap();
        sync_path(&dataset.join(chunks[1].name())).unwrap();
    });
    each("a chunk that is written again", &|| {
        put_chunk(&dataset, chunks[2]).unwrap();
        let file = common::write_chunk(&dataset, chunks[2]).unwrap();
        nix::unistd::fsync(&file).unwrap();
        common::close_chunk(file).unwrap();
    });
    each("data.npy", &|| {
        put_chunk(&dataset, chunks[3]).unwrap();
        sync_path(&dataset.join("data.npy")).unwrap();
    });
    each("the directory", &|| {
        put_chunk(&dataset, chunks[4]).unwrap();
        sync_path(&dataset).unwrap();
    });
    watch.end();
}

#[test]
fn rows_are_synced_from_time_to_time_and_only_where_there_are_new_ones() {
    require!(fuse, root, strace);
    let mount = Mount::builder().words("sync-interval=0.1").start();
    for dataset in ["run", "idle"] {
        fs::create_dir(mount.path(dataset)).unwrap();
        put_chunk(&mount.path(dataset), Chunk::new(7, 0)).unwrap();
        sync_path(&mount.path(dataset)).unwrap();
    }
    let watch = Watch::start(&mount, Duration::ZERO);
    sleep(Duration::from_millis(500));
    assert_eq!(watch.syncs("data.npy"), 0, "synced with nothing new");
    put_chunk(&mount.path("run"), Chunk::new(7, 1)).unwrap();
    let synced = |file: &str| watch.syncs(file) > 0;
    for file in ["run/data.npy", "run/.npyfs/chunks.log"] {
        assert!(
            eventually(Duration::from_secs(5), || synced(file)),
            "{file}"
        );
    }
    sleep(Duration::from_millis(500));
    assert_eq!(watch.syncs("run/data.npy"), 1);
    assert_eq!(watch.syncs("idle/data.npy"), 0);
    watch.end();
}

#[test]
fn many_who_fsync_at_once_share_the_flushes() {
    require!(fuse, root, strace);
    const PRODUCERS: u64 = 8;
    const ROUNDS: usize = 4;
    let mount = quiet();
    let dataset = mount.path("run");
    let watch = Watch::start(&mount, Duration::from_millis(100));
    scope(|threads| {
        for producer in 0..PRODUCERS {
            let dataset = &dataset;
            threads.spawn(move || {
                for chunk in small(producer, ROUNDS) {
                    let file = common::write_chunk(dataset, chunk).unwrap();
                    nix::unistd::fsync(&file).unwrap();
                    common::close_chunk(file).unwrap();
                }
            });
        }
    });
    let syncs = watch.syncs("data.npy");
    watch.end();
    // One flush may be under way when the others come, in each round.
    assert!(
        (ROUNDS..=2 * ROUNDS + 2).contains(&syncs),
        "{syncs} flushes"
    );
    assert_eq!(chunks_in(&dataset.join("data.npy")).len(), 1 + 32);
}

/// With two threads that answer the kernel, and more fsyncs than that on their way.
#[test]
fn nobody_else_waits_while_the_disk_does() {
    require!(fuse, root, strace);
    const DELAY: Duration = Duration::from_secs(2);
    let mount = quiet();
    let (run, other, fresh) = (mount.path("run"), mount.path("other"), mount.path("fresh"));
    fs::create_dir(&other).unwrap();
    put_chunk(&other, Chunk::new(7, 0)).unwrap();
    fs::create_dir(&fresh).unwrap();
    put_chunk(&run, Chunk::new(7, 1)).unwrap();
    let watch = Watch::start(&mount, DELAY);
    let answered = AtomicBool::new(false);
    scope(|threads| {
        let answered = &answered;
        // The kernel itself lets nobody create anything in a directory while that is synced.
        for path in [run.join("data.npy"), run.join("data.npy"), other] {
            threads.spawn(move || {
                sync_path(&path).unwrap();
                answered.store(true, Ordering::Relaxed);
            });
        }
        // The first write to a dataset takes its lock and begins its journal, on the disk.
        threads.spawn(|| {
            put_chunk(&fresh, Chunk::new(7, 0)).unwrap();
            answered.store(true, Ordering::Relaxed);
        });
        sleep(Duration::from_millis(200));
        for chunk in small(0, 20) {
            put_chunk(&run, chunk).unwrap();
        }
        assert_eq!(chunks_in(&run.join("data.npy")).len(), 22);
        assert_eq!(fs::read_dir(&run).unwrap().count(), 23);
        let waited = answered.load(Ordering::Relaxed);
        assert!(!waited, "what did not need the disk waited for it");
    });
    assert!(answered.load(Ordering::Relaxed));
    watch.end();
}

/// What is in the file by then is not judged anew at each write, but the write that shows it is refused.
#[test]
fn a_header_that_an_fsync_has_cut_is_refused_by_the_write_that_completes_it() {
    require!(fuse);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put_chunk(&dataset, Chunk::new(0, 0)).unwrap();
    let good = Chunk::new(0, 1).bytes();
    let other = common::npy("<f4", "(4, 3)", &[0; 48]);
    let none = [&b"\x93NUMPY"[..], &[0xff; 194]].concat();
    for (n, (bytes, refused)) in [(&good, false), (&other, true), (&none, true)]
        .into_iter()
        .enumerate()
    {
        for cut in [1, 6, 9, 60, 127] {
            let name = match refused {
                false => format!("{cut}-{}", Chunk::new(0, 1).name()),
                true => format!("{n}-{cut}.npy"),
            };
            let mut file = fs::File::create(dataset.join(name)).unwrap();
            let rest = [0..cut / 2, cut / 2..cut, cut..bytes.len()]
                .into_iter()
                .try_for_each(|piece| {
                    file.write_all(&bytes[piece])?;
                    file.sync_all().unwrap();
                    Ok::<_, std::io::Error>(())
                });
            let closed = common::close(file);
            let context = format!("{n}, cut at {cut}: {rest:?}, {closed:?}");
            if refused {
                assert_eq!(common::errno(rest), Errno::EINVAL, "{context}");
                assert_eq!(common::errno(closed), Errno::EINVAL, "{context}");
            } else {
                assert!(rest.is_ok() && closed.is_ok(), "{context}");
            }
        }
    }
    let rows = |number: u64| Chunk::new(0, number).rows();
    let found = common::array_of(&dataset.join("data.npy")).0.rows();
    assert_eq!(found, rows(0) + 5 * rows(1));
}
