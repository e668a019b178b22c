//! No handle, no header and no dataset takes the daemon's memory, or all of its descriptors.

use crate::common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::{Chunk, Mount, chunks_in, close, csv_names, eventually, put_chunk};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use npyfs::npy::Header;

const HANDLES: usize = 1000;

/// In KiB.
fn memory_of(pid: i32) -> u64 {
    status_of(pid, "VmRSS:")
}

/// The most that it ever was.
fn peak_of(pid: i32) -> u64 {
    status_of(pid, "VmHWM:")
}

fn status_of(pid: i32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// The time that a process had on a processor.
fn processor_time_of(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn processor_time(mount: &Mount) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
    threads
        .map(|thread| thread.unwrap().file_name().into_string().unwrap())
        .map(|thread| processor_time_of(thread.parse().unwrap()))
        .sum()
}

fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn staged(mount: &Mount) -> usize {
    fs::read_dir(mount.store("run/.npyfs/incoming")).map_or(0, Iterator::count)
}

#[test]
fn a_thousand_chunks_in_flight_take_no_more_memory_than_the_limit() {
    require!(fuse);
    allow_many_files();
    let mount = Mount::builder()
        .words("memory-limit=8M,rejected-limit=0")
        .start();
    fs::create_dir(mount.path("run")).unwrap();
    let dtype = "<u8".parse().unwrap();
    let rows = 6000;
    let head = Header::encode(&dtype, &[rows, 4]).unwrap();
    let piece = vec![7; rows as usize * 32 / 4];
    let open: Vec<File> = (0..HANDLES)
        .map(|n| File::create_new(mount.path(format!("run/{n}.npy"))).unwrap())
        .collect();
    let before = memory_of(mount.pid());
    for file in &open {
        file.write_all_at(&head, 0).unwrap();
    }
    for step in 0..4 {
        for file in &open {
            let at = head.len() + step * piece.len();
            file.write_all_at(&piece, at as u64).unwrap();
        }
        let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
        assert!(grown < 64, "{grown} MiB after step {step}");
        if step == 0 {
            let kept = HANDLES - staged(&mount);
            // 8 MiB are 43 bodies; eight more chunks stream into the array's tail.
            assert!(kept <= 43 + 8, "{kept} bodies are in memory");
        }
    }
    for file in open {
        close(file).unwrap();
    }
    assert_eq!(csv_names(&mount.path("run")).len(), HANDLES);
    assert_eq!(staged(&mount), 0);
}

#[test]
fn a_conversion_takes_little_memory_and_gives_it_back() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    let rows = 400_000;
    let dict = format!("{{'descr': '<f8', 'fortran_order': True, 'shape': ({rows}, 32), }}");
    let mut chunk = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    chunk.extend(format!("{dict:<117}\n").as_bytes());
    chunk.resize(128 + rows * 32 * 8, 7);
    let before = memory_of(mount.pid());
    for n in 0..4 {
        fs::write(mount.path(format!("run/{n}.npy")), &chunk).unwrap();
        let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
        assert!(grown < 24, "{grown} MiB after chunk {n}");
    }
    let most = peak_of(mount.pid()).saturating_sub(before) >> 10;
    // Half of the memory limit, and the buffers of requests.
    assert!(most < 48, "{most} MiB at the most");
}

#[test]
fn a_thousand_endless_headers_take_no_memory() {
    require!(fuse);
    allow_many_files();
    let mut mount = Mount::builder().words("rejected-limit=0").start();
    mount.tolerate_warnings(); // each is refused at its end
    fs::create_dir(mount.path("run")).unwrap();
    let mut head = b"\x93NUMPY\x02\x00".to_vec();
    head.extend_from_slice(&(900_u32 << 10).to_le_bytes());
    head.extend_from_slice(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }");
    head.resize(400 << 10, b' ');
    let before = memory_of(mount.pid());
    let open: Vec<File> = (0..HANDLES)
        .map(|n| File::create_new(mount.path(format!("run/{n}.npy"))).unwrap())
        .collect();
    for file in &open {
        file.write_all_at(&head, 0).unwrap();
    }
    let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
    assert!(grown < 64, "{grown} MiB");
    for file in open {
        assert_eq!(close(file).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}

#[test]
fn files_that_nobody_uses_are_forgotten_and_found_again() {
    require!(fuse, prune);
    const CHUNKS: u64 = 4300;
    let mount = Mount::builder()
        .arg("--remembered=100")
        .env("RUST_LOG", "debug")
        .start();
    let run = mount.path("run");
    fs::create_dir(&run).unwrap();
    put_chunk(&run, Chunk::new(0, 0)).unwrap();
    let first = run.join(Chunk::new(0, 0).name());
    let mut held = File::open(&first).unwrap();
    for n in 1..CHUNKS {
        put_chunk(&run, Chunk::new(0, n)).unwrap();
    }
    let asked = eventually(Duration::from_secs(20), || {
        mount.log().contains("the kernel forgets 4")
    });
    assert!(asked, "{}", mount.log());
    assert!(!mount.log().contains("does not forget"));
    let mut whole = Vec::new();
    held.read_to_end(&mut whole).unwrap();
    assert_eq!(whole, fs::read(&first).unwrap(), "it was open all the time");
    assert_eq!(csv_names(&run).len() as u64, CHUNKS);
}

#[test]
fn threads_that_looked_out_for_requests_sleep_once_there_are_none() {
    require!(fuse);
    let mount = Mount::new();
    let run = mount.path("run");
    fs::create_dir(&run).unwrap();
    (0..500).for_each(|n| put_chunk(&run, Chunk::new(0, n)).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    let before = processor_time(&mount);
    std::thread::sleep(Duration::from_secs(2));
    let spent = processor_time(&mount).saturating_sub(before);
    // A sync of what was written is in it; a thread that stays awake takes the two seconds.
    assert!(spent < Duration::from_millis(200), "{spent:?}");
}

#[test]
fn a_thousand_datasets_keep_few_descriptors_and_little_memory() {
    require!(fuse);
    const DATASETS: u64 = 1000;
    let mount = Mount::new();
    let before = memory_of(mount.pid());
    let dataset = |n: u64| mount.path(format!("run{n}"));
    let mut most = 0;
    for n in 0..DATASETS {
        fs::create_dir(dataset(n)).unwrap();
        put_chunk(&dataset(n), Chunk::new(0, n)).unwrap();
        if n % 100 == 99 {
            let open = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
            most = most.max(open.count());
        }
    }
    // Of the 128 that may be open and idle: the directory, array, journal and lock.
    assert!(most < 700, "{most} descriptors");
    let grown = memory_of(mount.pid()).saturating_sub(before) >> 10;
    assert!(grown < 64, "{grown} MiB");
    // Those that were closed are there, and take more.
    for n in [0, DATASETS / 2] {
        put_chunk(&dataset(n), Chunk::new(1, 0)).unwrap();
        let chunks = chunks_in(&dataset(n).join("data.npy"));
        assert_eq!(chunks, [Chunk::new(0, n), Chunk::new(1, 0)]);
    }
}
