//! `npyfs backup`: a copy has what was committed and nothing else, at every moment of its making, while
//! producers write, and whoever put what into the store.

use crate::chunks;
use crate::common;
use crate::simulated;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use common::{
    Chunk, Mount, User, array_of, chunks_in, counted, csv_names, npyfs, output_of, put, put_bytes,
    put_chunk, rows_of, run,
};
use npyfs::dataset::{Copied, back_up};
use npyfs::disk::StoreDir;
use npyfs::{Dataset, Options};
use simulated::{Disk, Fault};

fn backup(store: &Path, to: &Path) -> Output {
    output_of(Command::new(npyfs()).arg("backup").args([store, to])).unwrap()
}

#[track_caller]
fn backed_up(store: &Path, to: &Path) -> String {
    let output = backup(store, to);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code, and what was said.
fn refused(store: &Path, to: &Path) -> (i32, String) {
    let output = backup(store, to);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[track_caller]
fn is_good(store: &Path) {
    run(Command::new(npyfs()).arg("check").arg(store));
}

/// A mount with a dataset `run` of one chunk, and where a copy goes.
fn with_dataset() -> (Mount, PathBuf, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put_chunk(&dataset, Chunk::new(0, 0)).unwrap();
    let copy = mount.scratch("copy");
    (mount, dataset, copy)
}

#[test]
fn a_copy_has_every_file_and_directory_with_its_attributes_and_is_a_store_of_its_own() {
    require!(fuse);
    let (mount, dataset, copy) = with_dataset();
    fs::create_dir_all(mount.path("deep/below")).unwrap();
    put_chunk(&mount.path("deep/below"), Chunk::new(1, 0)).unwrap();
    let notes = dataset.join("notes.txt");
    fs::write(&notes, "some").unwrap();
    fs::set_permissions(&notes, PermissionsExt::from_mode(0o640)).unwrap();
    fs::set_permissions(&dataset, PermissionsExt::from_mode(0o750)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
    File::open(&notes).unwrap().set_modified(then).unwrap();
    fs::write(dataset.join("waits.npy"), "").unwrap();
    // By way of the mount: it is the store that is copied.
    backed_up(&mount.path(""), &copy);
    let copied = copy.join("run/notes.txt").metadata().unwrap();
    assert_eq!(copied.modified().unwrap(), then);
    assert_eq!(copied.mode() & 0o7777, 0o640);
    assert_eq!(copy.join("run").metadata().unwrap().mode() & 0o7777, 0o750);
    assert_eq!(copy.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(copy.join("run/waits.npy").metadata().unwrap().len(), 0);
    is_good(&copy);
    let other = Mount::builder().store(&copy).start();
    assert_eq!(csv_names(&other.path("run")), csv_names(&dataset));
    let name = Chunk::new(0, 0).name();
    let stat = |dataset: &Path| {
        let stat = dataset.join(&name).metadata().unwrap();
        (stat.mode(), stat.uid(), stat.modified().unwrap())
    };
    assert_eq!(stat(&other.path("run")), stat(&dataset));
    assert_eq!(
        chunks_in(&other.path("deep/below/data.npy")),
        [Chunk::new(1, 0)]
    );
    // It takes chunks, and knows a retry.
    put_chunk(&other.path("run"), Chunk::new(0, 0)).unwrap();
    put_chunk(&other.path("run"), Chunk::new(0, 1)).unwrap();
    assert_eq!(chunks_in(&other.path("run/data.npy")).len(), 2);
    other.finish();
    // From then on it is no earlier state.
    put_chunk(&dataset, Chunk::new(0, 2)).unwrap();
    let before = fs::read(copy.join("run/data.npy")).unwrap();
    let (code, said) = refused(&mount.store(""), &copy);
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("run: NOT COPIED: the copy is no earlier state"));
    assert_eq!(fs::read(copy.join("run/data.npy")).unwrap(), before);
}

#[test]
fn only_what_is_new_is_copied_again() {
    require!(fuse);
    let (mount, dataset, copy) = with_dataset();
    let old = dataset.join("old.txt");
    fs::write(&old, "old").unwrap();
    backed_up(&mount.store(""), &copy);
    let inode = |path: &str| copy.join(path).metadata().unwrap().ino();
    let before = [
        inode("run/data.npy"),
        inode("run/old.txt"),
        inode("run/.npyfs/chunks.log"),
    ];
    let said = backed_up(&mount.store(""), &copy);
    assert!(
        said.ends_with("1 datasets, 0 new rows, 0 B; 0 new or changed files\n"),
        "{said}"
    );
    let added = Chunk::new(0, 1);
    put_chunk(&dataset, added).unwrap();
    fs::write(dataset.join("new.txt"), "new").unwrap();
    fs::remove_file(&old).unwrap();
    let said = backed_up(&mount.store(""), &copy);
    let line = format!(
        "run: {} rows, {} of them new\n",
        { Chunk::new(0, 0).rows() + added.rows() },
        added.rows()
    );
    assert!(said.starts_with(&line), "{said}");
    assert!(said.ends_with("1 new or changed files\n"), "{said}");
    let after = [
        inode("run/data.npy"),
        inode("run/old.txt"),
        inode("run/.npyfs/chunks.log"),
    ];
    assert_eq!(
        after, before,
        "what was removed stays, what grows is not written anew"
    );
    is_good(&copy);
    assert_eq!(
        fs::read(copy.join("run/data.npy")).unwrap().len(),
        fs::read(mount.path("run/data.npy")).unwrap().len()
    );
}

/// Each copy has, for each producer, a prefix of its chunks that is at least what was closed when the
/// copy was begun.
#[test]
fn copies_made_while_producers_write_are_whole_prefixes() {
    require!(fuse);
    const PRODUCERS: usize = 3;
    let (mount, dataset, copy) = with_dataset();
    let closed: [AtomicU64; PRODUCERS] = Default::default();
    let stop = AtomicBool::new(false);
    let rounds = if std::env::var_os("NPYFS_LONG").is_some() {
        60
    } else {
        8
    };
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (closed, stop, dataset) = (&closed, &stop, &dataset);
            scope.spawn(move || {
                for number in 0..2000 {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    put_chunk(dataset, Chunk::new(producer as u64 + 1, number)).unwrap();
                    closed[producer].store(number + 1, Ordering::SeqCst);
                }
            });
        }
        let check = || {
            for round in 0..rounds {
                let least = closed.each_ref().map(|it| it.load(Ordering::SeqCst));
                let to = if round % 2 == 0 {
                    copy.clone()
                } else {
                    copy.with_extension(round.to_string())
                };
                backed_up(&mount.store(""), &to);
                is_good(&to);
                let mut found = [0; PRODUCERS];
                for chunk in &chunks_in(&to.join("run/data.npy"))[1..] {
                    let next = &mut found[chunk.producer as usize - 1];
                    assert_eq!(chunk.number, *next, "round {round}");
                    *next += 1;
                }
                assert!(
                    found.iter().zip(&least).all(|(has, least)| has >= least),
                    "round {round}: {found:?}, closed before: {least:?}"
                );
            }
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap();
    });
}

#[test]
fn a_directory_that_is_no_copy_of_the_store_is_left_alone() {
    require!(fuse);
    let (mount, _, copy) = with_dataset();
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("mine"), "mine").unwrap();
    let (code, said) = refused(&mount.store(""), &copy);
    assert_eq!(code, 4);
    assert!(said.contains("holds mine and is no backup"), "{said}");
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 1);
    fs::remove_file(copy.join("mine")).unwrap();
    backed_up(&mount.store(""), &copy);
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("run")).unwrap();
    let (code, said) = refused(other.path(), &copy);
    assert_eq!(code, 4);
    assert!(said.contains("is the backup of"), "{said}");
    let (code, said) = refused(&mount.store(""), &mount.store("run/inside"));
    assert_eq!(code, 4);
    assert!(said.contains("one inside the other"), "{said}");
    let (code, said) = refused(&mount.store("run"), &copy);
    assert_eq!(code, 4);
    assert!(said.contains("is a dataset"), "{said}");
    let (code, said) = refused(&mount.store(""), &mount.path("run/inside"));
    assert_eq!(code, 4);
    assert!(said.contains("is in an npyfs mount"), "{said}");
    let (code, said) = refused(&mount.store("nowhere"), &copy);
    assert_eq!(code, 4);
    assert!(said.contains("is no directory"), "{said}");
}

#[test]
fn a_copy_that_is_mounted_and_written_is_busy() {
    require!(fuse);
    let (mount, _, copy) = with_dataset();
    backed_up(&mount.store(""), &copy);
    let other = Mount::builder().store(&copy).start();
    put_chunk(&other.path("run"), Chunk::new(5, 5)).unwrap();
    let (code, said) = refused(&mount.store(""), &copy);
    assert_eq!(code, 8);
    assert!(
        said.contains("run: NOT COPIED: the copy is being written by a daemon"),
        "{said}"
    );
}

#[test]
fn rows_that_are_not_what_was_committed_are_named_and_the_others_copied() {
    require!(fuse);
    let (mount, dataset, copy) = with_dataset();
    for number in 1..5 {
        put_chunk(&dataset, Chunk::new(0, number)).unwrap();
    }
    let flip = |chunk: u64| {
        let rows: u64 = (0..chunk).map(|number| Chunk::new(0, number).rows()).sum();
        let data = File::options()
            .read(true)
            .write(true)
            .open(mount.store("run/data.npy"))
            .unwrap();
        let mut byte = [0];
        let at = 128 + rows * 32 + 3;
        data.read_exact_at(&mut byte, at).unwrap();
        data.write_all_at(&[!byte[0]], at).unwrap();
    };
    let names = |numbers: &[u64]| -> Vec<String> {
        numbers.iter().map(|&it| Chunk::new(0, it).name()).collect()
    };
    flip(2);
    flip(4);
    let (code, said) = refused(&mount.store(""), &copy);
    assert_eq!(code, 1, "{said}");
    let [middle, last] = &names(&[2, 4])[..] else {
        unreachable!()
    };
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("DAMAGED"))
        .collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains(middle) && lines[0].ends_with("they are in the copy as they are"));
    assert!(lines[1].contains(last) && lines[1].ends_with("they are not in the copy"));
    let shown = |store: &Path| {
        let mount = Mount::builder().store(store).words("ro").start();
        csv_names(&mount.path("run"))
    };
    assert_eq!(shown(&copy), names(&[0, 1, 2, 3]));
    // Once the rows are right again, they are copied.
    flip(4);
    backed_up(&mount.store(""), &copy);
    assert_eq!(shown(&copy), names(&[0, 1, 2, 3, 4]));
}

/// Root makes the copy, and users own directories of the store.
/// An older array was put in its place: the copy is whole, and it has not all that was there.
#[test]
fn rows_that_had_reached_the_disk_and_are_gone_are_told() {
    require!(fuse);
    for ended in [false, true] {
        let (mut mount, dataset, copy) = with_dataset();
        mount.tolerate_warnings();
        let stored = mount.store("run/data.npy");
        let older = mount.store("run/older");
        fs::copy(&stored, &older).unwrap();
        put_chunk(&dataset, Chunk::new(0, 1)).unwrap();
        common::sync_path(&dataset.join("data.npy")).unwrap();
        let store = mount.store("");
        if ended {
            mount.crash();
        }
        fs::rename(&older, &stored).unwrap();
        let (code, said) = refused(&store, &copy);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("are not in data.npy any more"), "{said}");
        assert_eq!(chunks_in(&copy.join("run/data.npy")), [Chunk::new(0, 0)]);
        if !ended {
            mount.end_unclean();
        }
    }
}

#[test]
fn a_mount_of_a_copy_shows_what_later_backups_bring() {
    require!(fuse);
    let (mount, dataset, copy) = with_dataset();
    backed_up(&mount.store(""), &copy);
    let shown = Mount::builder().store(&copy).words("ro").start();
    for number in 1..4 {
        assert_eq!(chunks_in(&shown.path("run/data.npy")).len() as u64, number);
        put_chunk(&dataset, Chunk::new(0, number)).unwrap();
        backed_up(&mount.store(""), &copy);
        let name = Chunk::new(0, number).name();
        assert!(shown.path("run").join(&name).exists(), "{name}");
        assert_eq!(csv_names(&shown.path("run")).last(), Some(&name));
    }
}

#[test]
fn nothing_that_a_user_puts_into_the_store_leads_out_of_it() {
    require!(fuse, root, mkfifo);
    let (mount, dataset, copy) = with_dataset();
    let victim = mount.scratch("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("key"), "secret").unwrap();
    fs::set_permissions(victim.join("key"), PermissionsExt::from_mode(0o600)).unwrap();
    let store = mount.store("run");
    symlink(victim.join("key"), store.join("link")).unwrap();
    symlink(&victim, store.join("directory")).unwrap();
    run(Command::new("mkfifo").arg(store.join("fifo")));
    fs::create_dir_all(store.join("planted/.npyfs")).unwrap();
    symlink(victim.join("key"), store.join("planted/data.npy")).unwrap();
    symlink(victim.join("key"), store.join("planted/.npyfs/chunks.log")).unwrap();
    fs::create_dir_all(store.join("waits")).unwrap();
    run(Command::new("mkfifo").arg(store.join("waits/data.npy")));
    symlink(&victim, store.join("planted/.npyfs/rescued")).unwrap();
    let (code, said) = refused(&mount.store(""), &copy);
    assert_eq!(code, 1, "{said}");
    for dataset in ["planted", "waits"] {
        assert!(said.contains(&format!("run/{dataset}: ")), "{said}");
    }
    for path in ["link", "directory", "fifo"] {
        assert!(
            copy.join("run").join(path).symlink_metadata().is_err(),
            "{path}"
        );
    }
    assert_eq!(chunks_in(&copy.join("run/data.npy")), [Chunk::new(0, 0)]);
    // What the owner of a directory of the copy puts there leads nowhere either.
    let user = User::ordinary();
    std::os::unix::fs::chown(&dataset, Some(user.uid), Some(user.gid)).unwrap();
    fs::write(dataset.join("notes"), "notes").unwrap();
    let (code, _) = refused(&mount.store(""), &copy.with_extension("2"));
    assert_eq!(code, 1, "what was planted is there still");
    let copied = copy.with_extension("2").join("run");
    assert_eq!(copied.metadata().unwrap().uid(), user.uid);
    fs::remove_file(copied.join("notes")).unwrap();
    symlink(victim.join("new"), copied.join("notes")).unwrap();
    fs::rename(copied.join(".npyfs"), copied.join("moved")).unwrap();
    symlink(&victim, copied.join(".npyfs")).unwrap();
    let (code, _) = refused(&mount.store(""), &copy.with_extension("2"));
    assert_ne!(code, 0);
    let left: Vec<_> = fs::read_dir(&victim).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(victim.join("key")).unwrap(), "secret");
}

#[test]
fn an_array_that_another_program_made_is_copied_and_goes_on_when_it_is_adopted() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.store("run")).unwrap();
    let foreign = {
        let mut bytes = chunks::header("'<i8'", false, &[64, 16]);
        bytes.extend(counted(0, 64).split_off(128));
        bytes
    };
    fs::write(mount.store("run/data.npy"), &foreign).unwrap();
    let copy = mount.scratch("copy");
    backed_up(&mount.store(""), &copy);
    assert_eq!(fs::read(copy.join("run/data.npy")).unwrap(), foreign);
    // Its header gets room, which moves its rows.
    put(&mount.path("run/a.npy"), &counted(64, 3)).unwrap();
    backed_up(&mount.store(""), &copy);
    put(&mount.path("run/b.npy"), &counted(67, 3)).unwrap();
    backed_up(&mount.store(""), &copy);
    is_good(&copy);
    let (header, _) = array_of(&copy.join("run/data.npy"));
    assert_eq!(header.rows(), 70);
    let other = Mount::builder().store(&copy).start();
    assert!(rows_of(&other.path("run")).into_iter().eq(0..70));
}

#[test]
fn a_store_that_was_restored_from_its_copy_goes_on_and_so_do_its_backups() {
    require!(fuse);
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let copy = place.path().join("copy");
    fs::create_dir(&store).unwrap();
    let mount = Mount::builder().store(&store).start();
    fs::create_dir(mount.path("run")).unwrap();
    put_chunk(&mount.path("run"), Chunk::new(0, 0)).unwrap();
    backed_up(&store, &copy);
    // Lost with the store.
    put_chunk(&mount.path("run"), Chunk::new(0, 1)).unwrap();
    mount.finish();
    fs::remove_dir_all(&store).unwrap();
    run(Command::new("cp").arg("-a").args([&copy, &store]));
    fs::remove_dir_all(store.join(".npyfs")).unwrap();
    is_good(&store);
    let mount = Mount::builder().store(&store).start();
    // A retry, what was lost, and a new one.
    for number in 0..3 {
        put_chunk(&mount.path("run"), Chunk::new(0, number)).unwrap();
    }
    backed_up(&store, &copy);
    let expected: Vec<_> = (0..3).map(|number| Chunk::new(0, number)).collect();
    assert_eq!(chunks_in(&mount.path("run/data.npy")), expected);
    assert_eq!(chunks_in(&copy.join("run/data.npy")), expected);
    is_good(&copy);
}

fn opened(disk: &Disk) -> Arc<Dataset> {
    Dataset::open_in(Arc::new(disk.clone()), "run", Options::default()).unwrap()
}

fn copied(from: &Disk, to: &Disk) -> npyfs::Result<Copied> {
    let folder = |disk: &Disk| -> Arc<dyn StoreDir> { Arc::new(disk.clone()) };
    back_up(&folder(from), &folder(to), &mut |_, _| ())
}

fn numbered(n: u64) -> (String, Vec<u8>) {
    (format!("{n}.npy"), chunks::chunk(1 + n % 3, n))
}

/// The chunks of a dataset, in their order; fails the test where one is not what was appended.
#[track_caller]
fn numbers(dataset: &Dataset) -> u64 {
    let (mut id, mut rows, mut found) = (0, 0, 0);
    while let Some((name, next)) = dataset.next_name(id) {
        let (expected, bytes) = numbered(found);
        assert_eq!(name, *expected);
        let chunk = dataset.chunk(&name).unwrap().unwrap();
        let mut has = vec![0; bytes.len()];
        assert_eq!(chunk.view.read_at(&mut has, 0).unwrap(), bytes.len());
        assert!(
            chunks::split(&has).1 == chunks::split(&bytes).1,
            "{expected}"
        );
        rows += chunk.view.rows();
        (id, found) = (next, found + 1);
    }
    let array = dataset.snapshot().unwrap();
    assert_eq!(array.map_or(0, |view| view.rows()), rows);
    found
}

/// The backup is killed, or the power cut, at each call that it makes on the copy: what is there opens
/// as a dataset of whole chunks, and the next backup completes it.
#[test]
fn a_backup_that_is_interrupted_anywhere_leaves_a_dataset_that_the_next_one_completes() {
    let (original, copy) = (Disk::default(), Disk::default());
    let dataset = opened(&original);
    let mut had = 0;
    for (step, add) in [(0, 3), (1, 2), (2, 4)] {
        for n in had..had + add {
            let (name, bytes) = numbered(n);
            dataset.append(&name, &bytes).unwrap();
        }
        let whole = had + add;
        copy.break_at(None);
        let calls = {
            let trial = copy.killed();
            copied(&original, &trial).unwrap();
            trial.calls()
        };
        assert!(calls > 10, "{calls}");
        for at in 0..calls {
            for half in [false, true] {
                let trial = copy.killed();
                trial.break_at(Some(Fault {
                    at,
                    errno: libc::EIO,
                    for_good: true,
                    half,
                }));
                let done = copied(&original, &trial);
                trial.break_at(None);
                let cuts = (0..3).map(|seed| trial.power_cut(seed * 1000 + at as u64));
                for (n, left) in [trial.killed()].into_iter().chain(cuts).enumerate() {
                    let place = format!("step {step}, call {at}, half {half}, {n}: {done:?}");
                    let state = left.killed();
                    let found = numbers(&opened(&state));
                    assert!(found >= had && found <= whole, "{place}: {found}");
                    // Not opened meanwhile.
                    copied(&original, &left).unwrap_or_else(|error| panic!("{place}: {error}"));
                    assert_eq!(numbers(&opened(&left)), whole, "{place}");
                }
            }
        }
        let done = copied(&original, &copy).unwrap();
        assert_eq!(done.damage.len() + done.notes.len(), 0);
        // Another daemon's turn: closed records come between.
        dataset.close().unwrap();
        had = whole;
    }
}

#[test]
fn a_name_that_is_written_again_renamed_or_given_up_is_that_in_the_copy() {
    require!(fuse);
    let mount = Mount::builder().words("names=reuse,allow_delete").start();
    fs::create_dir(mount.path("run")).unwrap();
    let copy = mount.scratch("copy");
    let put = |name: &str, first: u64| {
        put_bytes(&mount.path("run").join(name), &counted(first, 2)).unwrap();
    };
    put("a.npy", 0);
    put("b.npy", 2);
    backed_up(&mount.store(""), &copy);
    put("a.npy", 4);
    fs::remove_file(mount.path("run/b.npy")).unwrap();
    fs::rename(mount.path("run/a.npy"), mount.path("run/c.npy")).unwrap();
    backed_up(&mount.store(""), &copy);
    let other = Mount::builder().store(&copy).words("ro").start();
    let list = |mount: &Mount| {
        let text = fs::read_to_string(mount.path("run/.npyfs/chunks.csv")).unwrap();
        let names = text
            .lines()
            .map(|line| line.split(',').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(list(&other), list(&mount));
    assert_eq!(
        fs::read(other.path("run/c.npy")).unwrap(),
        fs::read(mount.path("run/c.npy")).unwrap()
    );
}

#[test]
fn what_an_interrupted_backup_has_left_is_removed_by_the_next() {
    require!(fuse);
    let (mount, dataset, copy) = with_dataset();
    // A dataset that is there no more when the next backup comes; the mount does not look at it.
    let gone = mount.store("gone");
    fs::create_dir(&gone).unwrap();
    let (name, bytes) = numbered(0);
    let other = Dataset::open(&gone, Options::default()).unwrap();
    other.append(&name, &bytes).unwrap();
    drop(other);
    backed_up(&mount.store(""), &copy);
    put_chunk(&dataset, Chunk::new(0, 1)).unwrap();
    fs::remove_dir_all(gone.join(".npyfs")).unwrap();
    fs::remove_file(gone.join("data.npy")).unwrap();
    // As one that is killed leaves them; the last is what a daemon left of a chunk.
    let incoming = |dataset: &str| copy.join(dataset).join(".npyfs/incoming");
    let of_backups = [
        copy.join(".npyfs/backup.new"),
        incoming("run").join("1-0"),
        incoming("run").join("4194303-17"),
        incoming("gone").join("4194303-18"),
    ];
    let of_daemon = incoming("run").join("4194303-19-a.npy");
    for path in of_backups.iter().chain([&of_daemon]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "left").unwrap();
    }
    backed_up(&mount.store(""), &copy);
    for path in &of_backups {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(of_daemon.exists());
    assert_eq!(chunks_in(&copy.join("run/data.npy")).len(), 2);
    assert!(copy.join("gone/data.npy").exists());
}
