//! P7 for copies and snapshots of a store at work: each is a verified prefix of the commit order with
//! every chunk that was fsynced before it was begun, in whatever boot it is opened; no row in it that
//! no producer wrote, and no chunk twice after a retry of all.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{
    Chunk, LoopMount, Mount, Style, chunks_in, inside_a_private_namespace, npyfs, output_of,
    put_chunk, run, sync_path,
};
use npyfs::{Dataset, Options};

const PRODUCERS: u64 = 3;
/// The one that has always a chunk under way, which streams after the rows that are counted.
const SLOW: u64 = 9;
/// How many chunks a producer has at the most: copies may take long.
const MOST: u64 = 600;
const OTHER_BOOT: [u8; 16] = [0xb7; 16];

fn times() -> usize {
    match std::env::var("NPYFS_LONG") {
        Ok(long) if long == "1" => 20,
        _ => 2,
    }
}

/// Chunks of one producer that were fsynced.
#[derive(Debug, Default)]
struct Synced([AtomicU64; PRODUCERS as usize]);

impl Synced {
    fn chunks(&self) -> Vec<Chunk> {
        let counts = self.0.iter().map(|count| count.load(Ordering::SeqCst));
        counts
            .enumerate()
            .flat_map(|(producer, count)| {
                (0..count).map(move |number| Chunk::new(producer as u64, number))
            })
            .collect()
    }
}

fn produce(dataset: &Path, producer: u64, synced: &Synced, stop: &AtomicBool) {
    for number in 0..MOST {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let chunk = Chunk::new(producer, number);
        put_chunk(dataset, chunk).unwrap();
        if number % 4 == 1 {
            sync_path(&dataset.join(chunk.name())).unwrap();
            synced.0[producer as usize].store(number + 1, Ordering::SeqCst);
        }
        // Until the last copy is made.
        let pace = (times() as u64 / 4).max(1);
        sleep(Duration::from_millis(pace * (1 + number % 3)));
    }
}

/// Streams, a piece now and then, so that a copy finds it in the middle.
fn produce_slowly(dataset: &Path, stop: &AtomicBool) {
    let all = (0..).map(|number| Chunk::new(SLOW, number));
    let streamed = all.filter(|chunk| chunk.style() == Style::Streamed);
    for chunk in streamed.take(MOST as usize / 10) {
        let file = File::create_new(dataset.join(chunk.name())).unwrap();
        for (n, piece) in chunk.bytes().chunks(64 << 10).enumerate() {
            file.write_all_at(piece, (n as u64) << 16).unwrap();
            if !stop.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(4));
            }
        }
        common::close_chunk(file).unwrap();
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// A copy, and which chunks it must have.
struct Taken {
    at: PathBuf,
    synced: Vec<Chunk>,
}

/// Has producers write to a dataset of a store, and `take` copy it some times meanwhile. The second
/// value is the order in which the chunks were committed.
fn take_copies(
    store: &Path,
    count: usize,
    take: impl Fn(usize) -> PathBuf,
) -> (Vec<Taken>, Vec<Chunk>) {
    let mount = Mount::builder()
        .store(store)
        .words("sync-interval=0.2")
        .start();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let (synced, stop) = (Synced::default(), AtomicBool::new(false));
    let mut taken = Vec::new();
    scope(|threads| {
        for producer in 0..PRODUCERS {
            let (dataset, synced, stop) = (&dataset, &synced, &stop);
            threads.spawn(move || produce(dataset, producer, synced, stop));
        }
        threads.spawn(|| produce_slowly(&dataset, &stop));
        for n in 0..count {
            sleep(Duration::from_millis(100 + 20 * n as u64));
            let synced = synced.chunks();
            let at = take(n);
            taken.push(Taken { at, synced });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let order = chunks_in(&dataset.join("data.npy"));
    mount.finish();
    (taken, order)
}

fn open(at: &Path, boot: Option<[u8; 16]>) -> Arc<Dataset> {
    let options = Options {
        boot,
        ..Default::default()
    };
    Dataset::open(at, options).unwrap_or_else(|error| panic!("{}: {error}", at.display()))
}

/// What a copied dataset must be when it is opened, and after its producers have sent all again.
/// Answers how many chunks it had.
fn verify(at: &Path, boot: Option<[u8; 16]>, taken: &Taken, order: &[Chunk]) -> usize {
    let shown = at.display();
    let dataset = open(at, boot);
    assert!(!dataset.is_damaged(), "{shown}");
    let rows = dataset.snapshot().unwrap().map_or(0, |view| view.rows());
    let data = at.join("data.npy");
    let found = chunks_in(&data);
    assert!(
        order.starts_with(&found),
        "{shown}: no prefix of the commit order: {found:?} of {order:?}"
    );
    assert_eq!(found.iter().map(|it| it.rows()).sum::<u64>(), rows);
    for chunk in &taken.synced {
        assert!(
            found.contains(chunk),
            "{shown}: {chunk:?} was fsynced before and is not there: {}",
            fs::read_to_string(at.join(".npyfs/log")).unwrap_or_default()
        );
    }
    let report = dataset.check(&mut |_, _| ()).unwrap();
    assert!(report.damage.is_empty(), "{shown}: {:?}", report.damage);
    assert_eq!(report.unverified_rows, 0, "{shown}");
    // The producers send all of it again.
    for chunk in order {
        dataset.append(chunk.name(), &chunk.bytes()).unwrap();
    }
    dataset.close().unwrap();
    let after = chunks_in(&data);
    assert!(after == order, "{shown}: other chunks after a retry");
    found.len()
}

fn shell(script: &str, arguments: &[&Path], allowed: &[i32]) {
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .args(arguments)
        .stderr(Stdio::null())
        .status_alone()
        .unwrap();
    let code = status.code().unwrap();
    assert!(code == 0 || allowed.contains(&code), "{script}: {status}");
}

fn copies_of_files(name: &str, script: &str, allowed: &[i32]) {
    let scratch = tempfile::tempdir().unwrap();
    copies_of_files_in(scratch.path(), name, script, allowed);
}

/// Store and copies are in one filesystem, whose directory `scratch` is.
fn copies_of_files_in(scratch: &Path, name: &str, script: &str, allowed: &[i32]) {
    let (store, copies) = (scratch.join("store"), scratch.join("copies"));
    fs::create_dir(&store).unwrap();
    fs::create_dir(&copies).unwrap();
    let (taken, order) = take_copies(&store, times(), |n| {
        let to = copies.join(n.to_string());
        fs::create_dir(&to).unwrap();
        shell(script, &[&store.join("run"), &to], allowed);
        to
    });
    let mut had = Vec::new();
    for copy in &taken {
        let second = copy.at.with_extension("again");
        run(Command::new("cp").arg("-a").args([&copy.at, &second]));
        had.push(verify(&copy.at, None, copy, &order));
        assert_eq!(
            verify(&second, Some(OTHER_BOOT), copy, &order),
            *had.last().unwrap()
        );
        for copy in [&copy.at, &second] {
            fs::remove_dir_all(copy).unwrap();
        }
    }
    println!(
        "{name}: {} chunks at the end, {had:?} in copies",
        order.len()
    );
}

#[test]
fn a_live_copy_that_has_the_array_before_the_journal_is_a_verified_prefix() {
    require!(fuse);
    let script = r#"cp "$1/data.npy" "$2"; sleep 0.1; cp -r "$1/.npyfs" "$2""#;
    // A chunk in flight may go while it is copied.
    copies_of_files("array first", script, &[1]);
}

#[test]
fn a_live_copy_that_has_the_journal_before_the_array_is_a_verified_prefix() {
    require!(fuse);
    let script = r#"mkdir "$2/.npyfs"; cp "$1/.npyfs/chunks.log" "$2/.npyfs"; sleep 0.1; cp "$1/data.npy" "$2""#;
    copies_of_files("journal first", script, &[]);
}

#[test]
fn live_copies_of_tar_cp_and_rsync_are_verified_prefixes() {
    require!(fuse, tar, rsync);
    // What changes or goes while it is read is told by these codes.
    copies_of_files("tar", r#"tar -C "$1" -cf - . | tar -C "$2" -xf -"#, &[1, 2]);
    copies_of_files("cp -a", r#"cp -a "$1/." "$2""#, &[1]);
    copies_of_files("rsync", r#"rsync -a "$1/" "$2""#, &[23, 24]);
    let twice = r#"rsync -a "$1/" "$2"; sleep 0.1; rsync -a "$1/" "$2""#;
    copies_of_files("rsync twice", twice, &[23, 24]);
}

/// As their files share what is in them, a copy of a file is of one moment; of two files it is not.
fn copies_that_share(kind: &str, options: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let disk = LoopMount::make(&scratch.path().join("disk"), kind, 4 << 30, options);
    let name = format!("cp --reflink=always on {kind}");
    copies_of_files_in(
        &disk.at,
        &name,
        r#"cp -r --reflink=always "$1/." "$2""#,
        &[1],
    );
}

#[test]
fn copies_that_share_their_blocks_on_xfs_are_verified_prefixes() {
    require!(fuse, root, unshare);
    let test = "copies_that_share_their_blocks_on_xfs_are_verified_prefixes";
    if inside_a_private_namespace(test) {
        copies_that_share("xfs", &["-m", "reflink=1"]);
    }
}

#[test]
fn copies_that_share_their_blocks_on_btrfs_are_verified_prefixes() {
    require!(fuse, root, unshare, btrfs);
    let test = "copies_that_share_their_blocks_on_btrfs_are_verified_prefixes";
    if inside_a_private_namespace(test) && has_btrfs() {
        copies_that_share("btrfs", &[]);
    }
}

/// The freeze ends with the script, or, whatever becomes of that, after five seconds.
const FROZEN: &str = r#"
setsid sh -c 'sleep 5; fsfreeze -u "$1"' sh "$1" > /dev/null 2>&1 < /dev/null &
watch=$!
trap 'fsfreeze -u "$1" 2> /dev/null || true' EXIT
fsfreeze -f "$1"
cp --reflink=always "$2" "$3"
fsfreeze -u "$1"
kill "$watch"
"#;

fn copies_of_images(frozen: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let outer = LoopMount::make(
        &scratch.path().join("outer"),
        "xfs",
        4 << 30,
        &["-m", "reflink=1"],
    );
    let image = outer.at.join("disk.img");
    let at = scratch.path().join("inner");
    let inner = LoopMount::make_in::<&str>(&image, &at, "ext4", 1 << 30, &[]);
    let store = inner.at.join("store");
    fs::create_dir(&store).unwrap();
    let (taken, order) = take_copies(&store, times(), |n| {
        let to = outer.at.join(format!("copy{n}.img"));
        if frozen {
            let mut freeze = Command::new("timeout");
            freeze.args(["-s", "KILL", "10", "sh", "-ec", FROZEN, "sh"]);
            run(freeze.arg(&inner.at).arg(&image).arg(&to));
        } else {
            run(Command::new("cp")
                .arg("--reflink=always")
                .args([&image, &to]));
        }
        to
    });
    drop(inner);
    let mut had = Vec::new();
    for copy in &taken {
        for boot in [None, Some(OTHER_BOOT)] {
            let again = outer.at.join("again.img");
            run(Command::new("cp")
                .arg("--reflink=always")
                .args([&copy.at, &again]));
            let inner = LoopMount::open(&again, &at, "loop");
            let dataset = inner.at.join("store/run");
            if dataset.exists() {
                had.push(verify(&dataset, boot, copy, &order));
            } else {
                assert!(copy.synced.is_empty());
            }
            drop(inner);
            fs::remove_file(&again).unwrap();
        }
    }
    println!(
        "images, frozen: {frozen}: {} chunks at the end, {had:?} in copies",
        order.len()
    );
}

#[test]
fn an_image_of_the_disk_that_is_opened_in_the_same_boot_is_a_verified_prefix() {
    require!(fuse, root, unshare);
    let test = "an_image_of_the_disk_that_is_opened_in_the_same_boot_is_a_verified_prefix";
    if inside_a_private_namespace(test) {
        copies_of_images(false);
    }
}

#[test]
fn a_frozen_image_of_the_disk_is_a_verified_prefix() {
    require!(fuse, root, unshare, fsfreeze, timeout, setsid);
    if inside_a_private_namespace("a_frozen_image_of_the_disk_is_a_verified_prefix") {
        copies_of_images(true);
    }
}

/// Else the test is skipped.
fn has_btrfs() -> bool {
    let kinds = fs::read_to_string("/proc/filesystems").unwrap();
    let has = kinds.contains("btrfs");
    if !has {
        common::skip("this kernel has no btrfs");
    }
    has
}

#[test]
fn a_snapshot_of_a_subvolume_is_a_verified_prefix() {
    require!(fuse, root, unshare, btrfs);
    if !inside_a_private_namespace("a_snapshot_of_a_subvolume_is_a_verified_prefix") {
        return;
    }
    if !has_btrfs() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = LoopMount::make::<&str>(&scratch.path().join("disk"), "btrfs", 4 << 30, &[]);
    let store = disk.at.join("store");
    run(Command::new("btrfs")
        .args(["subvolume", "create"])
        .arg(&store));
    let snapshot = |from: &Path, to: &Path| {
        run(Command::new("btrfs")
            .args(["subvolume", "snapshot"])
            .args([from, to]));
    };
    let (taken, order) = take_copies(&store, times(), |n| {
        let to = disk.at.join(format!("snapshot{n}"));
        snapshot(&store, &to);
        to
    });
    let mut had = Vec::new();
    for copy in &taken {
        let again = copy.at.with_extension("again");
        snapshot(&copy.at, &again);
        had.push(verify(&copy.at.join("run"), None, copy, &order));
        let second = verify(&again.join("run"), Some(OTHER_BOOT), copy, &order);
        assert_eq!(second, had[had.len() - 1]);
        run(Command::new("btrfs")
            .args(["subvolume", "delete", "-c"])
            .args([&copy.at, &again]));
    }
    println!(
        "snapshots: {} chunks at the end, {had:?} in them",
        order.len()
    );
}

/// A dataset of small chunks as a daemon that was killed has left it.
struct Left {
    store: tempfile::TempDir,
    chunks: Vec<Chunk>,
}

impl Left {
    fn new(count: usize) -> Self {
        let store = tempfile::tempdir().unwrap();
        let all = (0..).map(|number| Chunk::new(0, number));
        let small = all.filter(|chunk| chunk.style() == Style::Small);
        let chunks: Vec<Chunk> = small.take(count).collect();
        let mut mount = Mount::builder()
            .store(store.path())
            .words("sync-interval=1000")
            .start();
        let dataset = mount.path("run");
        fs::create_dir(&dataset).unwrap();
        for chunk in &chunks {
            put_chunk(&dataset, *chunk).unwrap();
        }
        mount.crash();
        Self { store, chunks }
    }

    fn at(&self) -> PathBuf {
        self.store.path().join("run")
    }

    fn data(&self) -> PathBuf {
        self.at().join("data.npy")
    }

    fn rows(&self) -> u64 {
        self.chunks.iter().map(|it| it.rows()).sum()
    }

    fn count(&self, rows: u64) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.data())
            .unwrap();
        let mut head = vec![0; 128];
        file.read_exact_at(&mut head, 0).unwrap();
        let text = String::from_utf8(head[10..].to_vec()).unwrap();
        let (old, new) = (self.rows().to_string(), rows.to_string());
        assert_eq!(old.len(), new.len(), "of as many digits");
        let text = text.replace(&format!("{old}, 4"), &format!("{new}, 4"));
        file.write_all_at(text.as_bytes(), 10).unwrap();
    }

    fn files(&self) -> [Vec<u8>; 2] {
        ["data.npy", ".npyfs/chunks.log"].map(|name| fs::read(self.at().join(name)).unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at().join(".npyfs/log")).unwrap_or_default()
    }
}

/// Whatever wrote them, in whatever boot that is found: there is no record of them.
#[test]
fn rows_that_only_the_header_counts_are_set_aside_after_a_kill() {
    require!(fuse);
    for boot in [None, Some(OTHER_BOOT)] {
        let left = Left::new(6);
        let file = OpenOptions::new().append(true).open(left.data()).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len + 5 * 32).unwrap();
        left.count(left.rows() + 5);
        let dataset = open(&left.at(), boot);
        assert_eq!(chunks_in(&left.data()), left.chunks);
        assert!(left.log().contains("5 rows after row"), "{}", left.log());
        for chunk in &left.chunks {
            dataset.append(chunk.name(), &chunk.bytes()).unwrap();
        }
        assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), left.rows());
    }
}

#[test]
fn a_header_that_counts_more_rows_than_the_file_has_is_counted_again() {
    require!(fuse);
    for boot in [None, Some(OTHER_BOOT)] {
        let left = Left::new(6);
        left.count(left.rows() + 5);
        drop(open(&left.at(), boot));
        assert_eq!(chunks_in(&left.data()), left.chunks);
        let log = left.log();
        assert!(log.contains("counted again"), "{log}");
    }
}

#[test]
fn a_copy_with_a_flipped_byte_in_its_first_chunk_is_served_and_not_written_to() {
    require!(fuse);
    let mut left = Left::new(6);
    let copy = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-a").arg(left.at()).arg(copy.path()));
    left.store = copy;
    let file = OpenOptions::new().write(true).open(left.data()).unwrap();
    file.write_all_at(&[0x5a], 128 + 16).unwrap();
    drop(file);
    let before = left.files();
    let mut mount = Mount::builder().store(left.store.path()).start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    let (bad, good) = left.chunks.split_first().unwrap();
    // Read as it is, but for the view of the damaged chunk.
    let (header, body) = common::array_of(&dataset.join("data.npy"));
    assert_eq!(header.rows(), left.rows());
    assert!(body == before[0][128..]);
    for chunk in good {
        assert!(fs::read(dataset.join(chunk.name())).unwrap() == chunk.bytes());
    }
    let is_eio = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EIO));
    is_eio(fs::read(dataset.join(bad.name())).unwrap_err());
    let names = common::csv_names(&dataset);
    assert_eq!(names.len(), left.chunks.len());
    // No write is taken.
    is_eio(put_chunk(&dataset, Chunk::new(7, 0)).unwrap_err());
    is_eio(fs::rename(dataset.join(good[0].name()), dataset.join("other.npy")).unwrap_err());
    let status = fs::read_to_string(dataset.join(".npyfs/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["damaged"], serde_json::json!([bad.name()]));
    let table = output_of(Command::new(npyfs()).arg("status").arg(&dataset)).unwrap();
    assert_eq!(table.status.code(), Some(1), "{table:?}");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains(&format!("DAMAGED: {}", bad.name())),
        "{table}"
    );
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    for phrase in [
        format!("DAMAGED: {}: rows 0 to {}", bad.name(), bad.rows()),
        "npyfs check --accept DATASET".into(),
    ] {
        assert!(log.contains(&phrase), "no word of '{phrase}': {log}");
    }
    assert!(left.files() == before, "changed");

    let check = |arguments: &[&str]| {
        let mut check = Command::new(npyfs());
        let output = check
            .arg("check")
            .args(arguments)
            .arg(left.at())
            .output_alone();
        let output = output.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = check(&[]);
    assert_ne!(code, 0);
    assert!(said.contains(&format!("DAMAGED: {}", bad.name())), "{said}");
    assert!(left.files() == before, "changed by a check");

    // Until its owner says so; the daemon that has it open goes on with it.
    let (code, said) = check(&["--accept"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("ACCEPTED") && said.contains(&bad.name()),
        "{said}"
    );
    put_chunk(&dataset, Chunk::new(7, 0)).unwrap();
    let (header, _) = common::array_of(&dataset.join("data.npy"));
    assert_eq!(header.rows(), left.rows() + Chunk::new(7, 0).rows());
    assert!(fs::read(dataset.join(bad.name())).is_ok());
    mount.finish();
    // And stays so.
    let dataset = open(&left.at(), Some(OTHER_BOOT));
    assert!(!dataset.is_damaged() && !dataset.is_owned());
    drop(dataset);
    let (code, said) = check(&["--accept"]);
    assert!(
        code == 0 && said.contains("nothing is to be accepted"),
        "{said}"
    );
}

/// In place, the same is what a disk has lost, and nothing that a copy explains.
#[test]
fn wrong_rows_at_the_end_of_a_copy_are_cut_off_and_named() {
    require!(fuse);
    let mut left = Left::new(6);
    let copy = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-a").arg(left.at()).arg(copy.path()));
    left.store = copy;
    let last = left.chunks.pop().unwrap();
    let file = OpenOptions::new().write(true).open(left.data()).unwrap();
    let at = 128 + 32 * left.rows();
    file.write_all_at(&[0x5a], at + 16).unwrap();
    let dataset = open(&left.at(), None);
    assert!(!dataset.is_damaged());
    assert_eq!(chunks_in(&left.data()), left.chunks);
    let log = left.log();
    let phrase = format!("{} dropped by recovery", last.name());
    assert!(log.contains(&phrase) && log.contains("is a copy"), "{log}");
    // A power cut from here on finds what the copy had, on this disk.
    dataset.append(last.name(), &last.bytes()).unwrap();
    dataset.close().unwrap();
}

#[test]
fn where_rows_cannot_be_set_aside_nothing_is_cut() {
    require!(fuse);
    let left = Left::new(6);
    let file = OpenOptions::new().append(true).open(left.data()).unwrap();
    file.set_len(file.metadata().unwrap().len() + 5 * 32)
        .unwrap();
    left.count(left.rows() + 5);
    let mut taken = Vec::new();
    for aside in [".npyfs/rejected", ".npyfs/rescued"] {
        let path = left.at().join(aside);
        fs::remove_dir_all(&path).ok();
        fs::write(&path, "no directory").unwrap();
        taken.push(path);
    }
    let before = left.files();
    let error = {
        // Which would have its lock for a moment longer.
        let _alone = common::no_new_process();
        Dataset::open(left.at(), Options::default()).unwrap_err()
    };
    assert!(
        error.to_string().contains(".npyfs/re"),
        "which directory: {error}"
    );
    assert!(left.files() == before, "changed");
    for path in taken {
        fs::remove_file(path).unwrap();
    }
    drop(open(&left.at(), None));
    assert_eq!(chunks_in(&left.data()), left.chunks);
}

/// A copy that was made while a chunk streamed, array first, is written into the files that it was made
/// of: they lie where they were, and what had reached the disk is not in them any more.
#[test]
fn a_live_copy_that_is_put_back_in_place_is_a_verified_prefix() {
    require!(fuse);
    for (both, end) in [
        (true, "unmounted"),
        (false, "unmounted"),
        (true, "killed"),
        (false, "killed"),
        (true, "at work"),
        (false, "at work"),
    ] {
        let mut mount = Mount::new();
        mount.tolerate_warnings();
        let (dataset, stored) = (mount.path("run"), mount.store("run"));
        fs::create_dir(&dataset).unwrap();
        let numbers = |numbers: std::ops::Range<u64>| -> Vec<Chunk> {
            numbers.map(|number| Chunk::new(0, number)).collect()
        };
        put_chunk(&dataset, Chunk::new(0, 0)).unwrap();
        let mut streams = (0..).map(|number| Chunk::new(SLOW, number));
        let streamed = streams
            .find(|chunk| chunk.style() == Style::Streamed)
            .unwrap();
        let file = File::create_new(dataset.join(streamed.name())).unwrap();
        let bytes = streamed.bytes();
        for (n, piece) in bytes[..bytes.len() - 1000].chunks(64 << 10).enumerate() {
            file.write_all_at(piece, (n as u64) << 16).unwrap();
        }
        let data = fs::read(stored.join("data.npy")).unwrap();
        for number in 1..5 {
            put_chunk(&dataset, Chunk::new(0, number)).unwrap();
            sync_path(&dataset.join("data.npy")).unwrap();
        }
        let journal = fs::read(stored.join(".npyfs/chunks.log")).unwrap();
        fs::remove_file(dataset.join(streamed.name())).unwrap();
        drop(file);
        let put_back = || {
            fs::write(stored.join("data.npy"), &data).unwrap();
            if both {
                fs::write(stored.join(".npyfs/chunks.log"), &journal).unwrap();
            }
        };
        match end {
            "at work" => {
                put_back();
                put_chunk(&dataset, Chunk::new(0, 5)).unwrap_err();
            }
            _ => {
                if end == "killed" {
                    mount.crash();
                }
                mount = mount.remount_after(put_back);
            }
        }
        let verified = common::eventually(Duration::from_secs(20), || {
            fs::read_dir(&dataset).is_ok() && dataset.join("data.npy").exists()
        });
        assert!(verified, "{both}, {end}: {}", mount.log());
        assert_eq!(
            chunks_in(&dataset.join("data.npy")),
            numbers(0..1),
            "{both}, {end}"
        );
        for number in 0..6 {
            put_chunk(&dataset, Chunk::new(0, number)).unwrap();
        }
        assert_eq!(
            chunks_in(&dataset.join("data.npy")),
            numbers(0..6),
            "{both}, {end}"
        );
        let log = fs::read_to_string(stored.join(".npyfs/log")).unwrap();
        for number in 1..5 {
            let name = Chunk::new(0, number).name();
            assert!(
                log.contains(&format!("{name} dropped by recovery")),
                "{both}, {end}: {log}"
            );
        }
        if end == "at work" {
            mount.end_unclean();
        }
    }
}
