//! P7, the daemon killed: every chunk whose close returned 0 is there, once.

use crate::common;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{
    Chunk, Mount, chunks_in, close_chunk as close, csv_names, kill, put_chunk as put, sync_path,
    write_chunk,
};

const PRODUCERS: u64 = 4;

/// A producer's account: what was acknowledged, and the one whose answer was lost.
#[derive(Debug, Default)]
struct Account {
    next: u64,
    acknowledged: Vec<Chunk>,
    unknown: Option<Chunk>,
}

fn produce(dataset: &Path, chunk: Chunk) -> io::Result<()> {
    let file = write_chunk(dataset, chunk)?;
    // A few wait for the disk, before or after close; a failed fsync says nothing about the close.
    match chunk.number % 16 {
        3 => {
            nix::unistd::fsync(&file).ok();
            close(file)
        }
        7 => {
            close(file)?;
            sync_path(&dataset.join("data.npy")).ok();
            Ok(())
        }
        _ => close(file),
    }
}

fn run_until_killed(mount: &mut Mount, dataset: &Path, accounts: &mut [Account], after: Duration) {
    let start = Barrier::new(accounts.len() + 1);
    let pid = mount.pid();
    scope(|threads| {
        for (producer, account) in (0..).zip(accounts.iter_mut()) {
            let start = &start;
            threads.spawn(move || {
                start.wait();
                loop {
                    let chunk = Chunk::new(producer, account.next);
                    account.next += 1;
                    account.unknown = Some(chunk);
                    if produce(dataset, chunk).is_err() {
                        return;
                    }
                    account.unknown = None;
                    account.acknowledged.push(chunk);
                }
            });
        }
        start.wait();
        sleep(after);
        kill(pid, "KILL");
    });
    mount.crash();
}

fn check(dataset: &Path, accounts: &[Account]) {
    let found = chunks_in(&dataset.join("data.npy"));
    let names: Vec<String> = found.iter().map(|chunk| chunk.name()).collect();
    assert_eq!(csv_names(dataset), names);
    for (producer, account) in (0..).zip(accounts) {
        let theirs: Vec<Chunk> = found
            .iter()
            .copied()
            .filter(|chunk| chunk.producer == producer)
            .collect();
        let mut expected = account.acknowledged.clone();
        if let Some(unknown) = account.unknown
            && theirs.contains(&unknown)
        {
            expected.push(unknown);
        }
        assert_eq!(theirs, expected, "producer {producer}");
    }
}

#[test]
fn a_killed_daemon_loses_no_chunk_whose_close_returned_0() {
    require!(fuse);
    let long = std::env::var_os("NPYFS_LONG").is_some();
    let rounds = if long { 100 } else { 10 };
    let store = tempfile::tempdir().unwrap();
    let mut accounts: Vec<Account> = Vec::new();
    let mut random = seed();
    let (mut acknowledged, mut unknown, mut there) = (0, 0, 0);
    for round in 0..rounds {
        // Some rounds see the dataset's birth, others a second or third recovery.
        let name = format!("run{}", round / 3);
        if round % 3 == 0 {
            accounts = (0..PRODUCERS).map(|_| Account::default()).collect();
        }
        let mut mount = Mount::builder().store(store.path()).start();
        let dataset = mount.path(&name);
        fs::create_dir_all(&dataset).unwrap();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(99);
        let after = Duration::from_micros(2_000 + (random >> 33) % 250_000);
        run_until_killed(&mut mount, &dataset, &mut accounts, after);

        // P8: valid before any recovery, and whole.
        chunks_in(&store.path().join(&name).join("data.npy"));

        let mount = Mount::builder().store(store.path()).start();
        let dataset = mount.path(&name);
        check(&dataset, &accounts);
        for account in &mut accounts {
            if let Some(chunk) = account.unknown.take() {
                let before = chunks_in(&dataset.join("data.npy"));
                unknown += 1;
                there += usize::from(before.contains(&chunk));
                put(&dataset, chunk).unwrap();
                account.acknowledged.push(chunk);
            }
        }
        check(&dataset, &accounts);
        acknowledged += accounts
            .iter()
            .map(|it| it.acknowledged.len())
            .sum::<usize>();
        mount.finish();
    }
    println!(
        "{rounds} kills: {acknowledged} acknowledged chunks verified, {unknown} unsettled at the \
         kill, {there} of them committed"
    );
    assert!(acknowledged > 0);
}

/// Another moment in each run.
fn seed() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_nanos() as u64
}
