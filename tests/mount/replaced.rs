//! What a daemon writes to is replaced, removed or cut in the store: the next commit, sync or closing
//! says so, no acknowledged row is lost in silence, and what is there then is gone on with.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{
    Chunk, Mount, array_of, chunks_in, close, counted, csv_names, errno, eventually,
    no_new_process, npyfs, output_of, put, put_chunk, rows_of, run, sync_path, wait_until_stored,
    write_chunk,
};
use nix::errno::Errno;

/// A mount whose dataset `run` has three chunks, of which the log may tell.
struct Written {
    mount: Mount,
    dataset: PathBuf,
    stored: PathBuf,
}

impl Written {
    fn new() -> Self {
        let mut mount = Mount::builder().words("sync-interval=1000").start();
        mount.tolerate_warnings();
        let dataset = mount.path("run");
        let stored = mount.store("run");
        fs::create_dir(&dataset).unwrap();
        let written = Self {
            mount,
            dataset,
            stored,
        };
        (0..3).for_each(|number| written.put(number).unwrap());
        written
    }

    fn put(&self, number: u64) -> std::io::Result<()> {
        put_chunk(&self.dataset, Chunk::new(0, number))
    }

    fn chunks(&self) -> Vec<Chunk> {
        chunks_in(&self.dataset.join("data.npy"))
    }

    fn backup(&self) -> PathBuf {
        let backup = self.mount.scratch("backup");
        run(Command::new(npyfs())
            .arg("backup")
            .args([self.mount.store(""), backup.clone()]));
        backup
    }

    fn log(&self) -> String {
        fs::read_to_string(self.stored.join(".npyfs/log")).unwrap_or_default()
    }

    /// The arrays that were kept beside the dataset.
    fn kept(&self) -> Vec<Vec<Chunk>> {
        ["rescued", "rejected"]
            .into_iter()
            .flat_map(|directory| common::kept(&self.stored, directory))
            .filter(|path| path.extension().is_some_and(|it| it == "npy"))
            .map(|path| chunks_in(&path))
            .collect()
    }

    /// The mount ends, which is not what a clean end is.
    #[track_caller]
    fn ends_with_a_loss(self) {
        let said = self.ends();
        assert!(said.contains("replaced in the store"), "{said}");
    }

    fn ends(mut self) -> String {
        let output = self.mount.end_unclean();
        String::from_utf8(output.stderr).unwrap()
    }
}

fn numbers(numbers: std::ops::Range<u64>) -> Vec<Chunk> {
    numbers.map(|number| Chunk::new(0, number)).collect()
}

/// Does something to the store, and tells what the next close answers.
#[track_caller]
fn told_by_the_next_close(change: impl FnOnce(&Path), expected: Errno) -> Written {
    let written = Written::new();
    change(&written.stored);
    let told = errno(written.put(3));
    // EIO where the look of every second came first, and the journal knows rows that are nowhere.
    assert!(
        told == expected || told == Errno::EIO,
        "{told}: {}",
        written.log()
    );
    written
}

#[test]
fn data_npy_that_was_removed_is_told_by_the_next_close_and_its_rows_are_kept() {
    require!(fuse);
    let written = told_by_the_next_close(
        |stored| fs::remove_file(stored.join("data.npy")).unwrap(),
        Errno::ESTALE,
    );
    assert!(written.kept().contains(&numbers(0..3)));
    let log = written.log();
    assert!(log.contains("data.npy was replaced or removed"), "{log}");
    // The journal knows rows that are nowhere: nothing is made of that by itself.
    assert_eq!(errno(written.put(4)), Errno::EIO);
    fs::remove_dir_all(written.stored.join(".npyfs")).unwrap();
    written.put(4).unwrap();
    assert_eq!(written.chunks(), [Chunk::new(0, 4)]);
    written.ends_with_a_loss();
}

#[test]
fn an_older_data_npy_that_is_renamed_into_its_place_is_told_and_the_newer_rows_are_kept() {
    require!(fuse, rsync);
    let written = Written::new();
    let backup = written.backup();
    (3..5).for_each(|number| written.put(number).unwrap());
    // As those do who restore with the mount in place.
    run(Command::new("rsync")
        .arg("-a")
        .arg(format!("{}/", backup.display()))
        .arg(written.mount.store("")));
    assert_eq!(errno(written.put(5)), Errno::ESTALE);
    // What the older one has is not kept once more.
    assert!(written.kept().contains(&numbers(3..5)));
    // It goes on from what is there now.
    assert_eq!(written.chunks(), numbers(0..3));
    (3..6).for_each(|number| written.put(number).unwrap());
    assert_eq!(written.chunks(), numbers(0..6));
    let names: Vec<String> = numbers(0..6).iter().map(|chunk| chunk.name()).collect();
    assert_eq!(csv_names(&written.dataset), names);
    written.ends_with_a_loss();
}

#[test]
fn an_fsync_tells_too() {
    require!(fuse);
    for directory in [false, true] {
        let written = Written::new();
        fs::rename(
            written.stored.join("data.npy"),
            written.mount.scratch("elsewhere"),
        )
        .unwrap();
        let path = match directory {
            true => written.dataset.clone(),
            false => written.dataset.join(Chunk::new(0, 0).name()),
        };
        // Its name is not the store's, though the file has one.
        assert_eq!(errno(sync_path(&path)), Errno::ESTALE, "{}", path.display());
        assert_eq!(written.kept(), [numbers(0..3)]);
        written.ends_with_a_loss();
    }
}

#[test]
fn the_end_of_the_mount_tells_too() {
    require!(fuse);
    let written = Written::new();
    fs::rename(
        written.stored.join("data.npy"),
        written.stored.join("moved"),
    )
    .unwrap();
    let (stored, mut mount) = (written.stored, written.mount);
    let output = mount.end_unclean();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("files of 1 datasets were replaced in the store"),
        "{said}"
    );
    let log = fs::read_to_string(stored.join(".npyfs/log")).unwrap();
    assert!(log.contains("data.npy was replaced or removed"), "{log}");
}

#[test]
fn the_lock_or_the_journal_or_npyfs_itself_that_is_gone_is_told_by_fsync() {
    require!(fuse);
    let changes: [fn(&Path); 5] = [
        |stored| fs::remove_file(stored.join(".npyfs/lock")).unwrap(),
        |stored| fs::remove_file(stored.join(".npyfs/chunks.log")).unwrap(),
        |stored| fs::remove_dir_all(stored.join(".npyfs")).unwrap(),
        |stored| fs::rename(stored.join(".npyfs"), stored.join("moved")).unwrap(),
        |stored| {
            let journal = stored.join(".npyfs/chunks.log");
            fs::copy(&journal, stored.join("copy")).unwrap();
            fs::rename(stored.join("copy"), journal).unwrap();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let written = Written::new();
        change(&written.stored);
        let synced = sync_path(&written.dataset.join("data.npy"));
        assert_eq!(errno(synced), Errno::ESTALE, "change {n}");
        // The rows are in data.npy still.
        assert_eq!(written.chunks(), numbers(0..3), "change {n}");
        written.put(7).unwrap();
        let mut all = numbers(0..3);
        all.push(Chunk::new(0, 7));
        assert_eq!(written.chunks(), all, "change {n}");
        sync_path(&written.dataset.join("data.npy")).unwrap();
        written.ends_with_a_loss();
    }
}

#[test]
fn a_journal_that_was_cut_is_told_by_the_next_close() {
    require!(fuse);
    let written = told_by_the_next_close(
        |stored| {
            let journal = OpenOptions::new()
                .write(true)
                .open(stored.join(".npyfs/chunks.log"))
                .unwrap();
            let len = journal.metadata().unwrap().len();
            journal.set_len(len - 10).unwrap();
        },
        Errno::ESTALE,
    );
    // No row is in nothing, and what was refused is kept.
    let mut found = written.chunks();
    found.extend(written.kept().concat());
    found.sort();
    assert_eq!(found, numbers(0..4));
    written.ends_with_a_loss();
}

#[test]
fn data_npy_that_was_cut_gets_no_hole_and_the_log_says_what_is_missing() {
    require!(fuse);
    let (two, three) = (
        numbers(0..2).iter().map(|it| it.rows()).sum::<u64>(),
        numbers(0..3).iter().map(|it| it.rows()).sum::<u64>(),
    );
    let written = told_by_the_next_close(
        |stored| {
            let data = OpenOptions::new()
                .write(true)
                .open(stored.join("data.npy"))
                .unwrap();
            data.set_len(128 + two * 32 + 5).unwrap();
        },
        Errno::EIO,
    );
    let log = written.log();
    let missing = format!(
        "rows {two} to {three} are missing: send them again; the name {} is not known any more",
        Chunk::new(0, 2).name()
    );
    assert!(log.contains(&missing), "{log}");
    assert_eq!(written.chunks(), numbers(0..2));
    (2..5).for_each(|number| written.put(number).unwrap());
    assert_eq!(written.chunks(), numbers(0..5));
    written.ends_with_a_loss();
}

/// What is written into the tail would make the file as long as before.
#[test]
fn a_cut_while_a_chunk_streams_leaves_no_zeros_in_the_array() {
    require!(fuse);
    for to in ["rows", "tail", "nothing"] {
        let written = Written::new();
        let rows = numbers(0..3).iter().map(|it| it.rows()).sum::<u64>();
        let streamed = {
            let mut all = (100..).map(|number| Chunk::new(1, number));
            all.find(|it| it.style() == common::Style::Streamed)
                .unwrap()
        };
        let bytes = streamed.bytes();
        let mut file = File::create(written.dataset.join(streamed.name())).unwrap();
        let half = bytes.len() / 2;
        file.write_all(&bytes[..half]).unwrap();
        let data = OpenOptions::new()
            .write(true)
            .open(written.stored.join("data.npy"))
            .unwrap();
        data.set_len(match to {
            "rows" => 128 + rows * 16,
            "tail" => 128 + rows * 32 + 1000,
            _ => 0,
        })
        .unwrap();
        let rest = file.write_all(&bytes[half..]);
        let closed = close(file);
        assert_eq!(errno(rest.and(closed)), Errno::EIO, "cut to {to}");
        let next = written.put(3);
        drop(data);
        if to == "tail" {
            // No row that was acknowledged is missing.
            next.unwrap();
            assert_eq!(written.chunks(), numbers(0..4));
            continue;
        }
        assert_eq!(errno(next), Errno::EIO, "cut to {to}");
        let log = written.log();
        assert!(log.contains("are missing"), "{log}");
        written.ends_with_a_loss();
    }
}

#[test]
fn a_cut_before_the_last_write_of_a_stream_is_seen_at_its_close() {
    require!(fuse);
    let written = Written::new();
    let streamed = {
        let mut all = (100..).map(|number| Chunk::new(1, number));
        all.find(|it| it.style() == common::Style::Streamed)
            .unwrap()
    };
    // What is complete would be committed by the close of a process that another test starts.
    let alone = no_new_process();
    let file = write_chunk(&written.dataset, streamed).unwrap();
    wait_until_stored(&file);
    let rows = numbers(0..3).iter().map(|it| it.rows()).sum::<u64>();
    let data = OpenOptions::new()
        .write(true)
        .open(written.stored.join("data.npy"))
        .unwrap();
    data.set_len(128 + rows * 32 + 64).unwrap();
    drop(alone);
    assert_eq!(errno(close(file)), Errno::EIO);
    written.put(3).unwrap();
    assert_eq!(written.chunks(), numbers(0..4));
}

#[test]
fn a_look_once_a_second_finds_it_and_the_next_close_tells() {
    require!(fuse);
    let written = Written::new();
    fs::rename(
        written.stored.join("data.npy"),
        written.stored.join("moved"),
    )
    .unwrap();
    let found = eventually(Duration::from_secs(20), || {
        written.log().contains("data.npy was replaced or removed")
    });
    assert!(found);
    assert_eq!(written.kept(), [numbers(0..3)]);
    // It is to be put back, or given up.
    assert_eq!(errno(written.put(3)), Errno::EIO);
    fs::rename(
        written.stored.join("moved"),
        written.stored.join("data.npy"),
    )
    .unwrap();
    // What was found before is told once.
    assert_eq!(errno(written.put(3)), Errno::ESTALE);
    written.put(3).unwrap();
    assert_eq!(written.chunks(), numbers(0..4));
    written.ends_with_a_loss();
}

#[test]
fn a_chunk_in_flight_is_told_or_goes_into_what_is_there_now() {
    require!(fuse);
    let written = Written::new();
    let streamed = {
        let mut all = (100..).map(|number| Chunk::new(1, number));
        all.find(|it| it.style() == common::Style::Streamed)
            .unwrap()
    };
    // What is complete would be committed by the close of a process that another test starts.
    let alone = no_new_process();
    let small = File::create(written.dataset.join(Chunk::new(0, 8).name())).unwrap();
    small.write_all_at(&Chunk::new(0, 8).bytes(), 0).unwrap();
    let mut stream = File::create(written.dataset.join(streamed.name())).unwrap();
    let bytes = streamed.bytes();
    stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
    // What is stored only after the removal is refused for it, and no other producer is told then.
    wait_until_stored(&stream);
    fs::remove_file(written.stored.join("data.npy")).unwrap();
    // EIO where the look of every second came first: the journal knows rows that are nowhere.
    let told = errno(written.put(3));
    assert!(matches!(told, Errno::ESTALE | Errno::EIO), "{told}");
    let removed = eventually(Duration::from_secs(10), || {
        fs::remove_dir_all(written.stored.join(".npyfs")).is_ok()
    });
    assert!(removed, "it is written all the time");
    drop(alone);
    // One that lay in the removed file, and one that did not.
    let rest = stream.write_all(&bytes[bytes.len() / 2..]);
    assert_eq!(errno(rest.and(close(stream))), Errno::ESTALE);
    close(small).unwrap_or_else(|error| panic!("{error}: {}", written.mount.log()));
    assert_eq!(written.chunks(), [Chunk::new(0, 8)]);
    written.ends_with_a_loss();
}

/// The rows of a restored backup end where those begin that an earlier daemon had committed.
#[test]
fn all_rows_that_an_older_array_does_not_have_are_kept_and_not_only_this_daemons() {
    require!(fuse);
    let mut written = Written::new();
    let backup = written.backup();
    (3..5).for_each(|number| written.put(number).unwrap());
    written.mount = written.mount.remount();
    (5..7).for_each(|number| written.put(number).unwrap());
    for file in [".npyfs/chunks.log", "data.npy"] {
        let new = written.stored.join("new");
        fs::copy(backup.join("run").join(file), &new).unwrap();
        fs::rename(&new, written.stored.join(file)).unwrap();
    }
    assert_eq!(errno(written.put(7)), Errno::ESTALE);
    assert!(written.kept().contains(&numbers(3..7)));
    assert_eq!(written.chunks(), numbers(0..3));
    let log = written.log();
    let names = format!(
        "4 names, {} to {}, are not known any more: the list is kept as .npyfs/rescued/",
        Chunk::new(0, 3).name(),
        Chunk::new(0, 6).name()
    );
    assert!(log.contains(&names), "{log}");
    written.ends_with_a_loss();
}

/// The last descriptor of a removed file is the only way to any row of it.
#[test]
fn all_rows_of_a_removed_array_are_kept_and_not_only_this_daemons() {
    require!(fuse);
    let mut written = Written::new();
    written.mount = written.mount.remount();
    written.put(3).unwrap();
    fs::remove_file(written.stored.join("data.npy")).unwrap();
    written.put(4).unwrap_err();
    assert!(written.kept().contains(&numbers(0..4)));
    written.ends_with_a_loss();
}

#[test]
fn names_that_went_with_the_journal_are_told_and_kept() {
    require!(fuse);
    let changes: [fn(&Path); 2] = [
        |stored| fs::remove_dir_all(stored.join(".npyfs")).unwrap(),
        |stored| {
            let journal = stored.join(".npyfs/chunks.log");
            let file = OpenOptions::new().write(true).open(journal).unwrap();
            file.set_len(0).unwrap();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let written = Written::new();
        let before = fs::read_to_string(written.dataset.join(".npyfs/chunks.csv")).unwrap();
        change(&written.stored);
        let synced = sync_path(&written.dataset.join("data.npy"));
        assert_eq!(errno(synced), Errno::ESTALE, "change {n}");
        let log = written.log();
        assert!(log.contains("3 names, "), "change {n}: {log}");
        let kept = common::kept(&written.stored, "rescued");
        let is_list = |path: &&PathBuf| path.to_string_lossy().ends_with("lost-names.csv");
        let list = kept.iter().find(is_list).unwrap();
        assert_eq!(fs::read_to_string(list).unwrap(), before, "change {n}");
        written.ends_with_a_loss();
    }
}

/// It had been synced, and was looked at: nothing is written to it any more.
#[test]
fn a_dataset_at_rest_is_looked_at_too_and_umount_tells() {
    require!(fuse);
    for waits in [true, false] {
        let written = Written::new();
        sync_path(&written.dataset.join("data.npy")).unwrap();
        // The look of every second has been at it.
        std::thread::sleep(Duration::from_millis(2500));
        fs::rename(
            written.stored.join("data.npy"),
            written.stored.join("moved"),
        )
        .unwrap();
        if waits {
            let found = eventually(Duration::from_secs(30), || {
                written.log().contains("data.npy was replaced or removed")
            });
            assert!(found);
        }
        written.ends_with_a_loss();
    }
}

/// A program that writes into the file, and does not put another in its place.
#[test]
fn an_array_that_another_program_overwrites_is_told_by_the_next_close() {
    require!(fuse);
    for other in [counted(7, 500), vec![0; 60_000]] {
        let written = told_by_the_next_close(
            |stored| {
                let data = OpenOptions::new()
                    .write(true)
                    .open(stored.join("data.npy"))
                    .unwrap();
                data.write_all_at(&other, 0).unwrap();
            },
            Errno::EIO,
        );
        let log = written.log();
        assert!(
            log.contains("data.npy was overwritten in the store"),
            "{log}"
        );
        written.ends();
    }
}

#[test]
fn what_was_committed_before_is_told_by_a_later_close_or_fsync_of_its_handle() {
    require!(fuse);
    for again in [false, true] {
        let written = Written::new();
        let chunk = Chunk::new(0, if again { 1 } else { 3 });
        let path = written.dataset.join(chunk.name());
        let mut file = File::create(&path).unwrap();
        file.write_all(&chunk.bytes()).unwrap();
        close(file.try_clone().unwrap()).unwrap();
        fs::remove_file(written.stored.join("data.npy")).unwrap();
        written.put(4).unwrap_err();
        fs::remove_dir_all(written.stored.join(".npyfs")).unwrap();
        // Other chunks have its place in the catalog now.
        let put = eventually(Duration::from_secs(10), || written.put(5).is_ok());
        assert!(put);
        let (synced, closed) = (file.sync_all(), close(file));
        if !again {
            assert_eq!(errno(synced), Errno::ESTALE);
        }
        assert_eq!(errno(closed), Errno::ESTALE, "again: {again}");
        assert_eq!(written.chunks(), [Chunk::new(0, 5)]);
        written.ends_with_a_loss();
    }
}

/// Also where no daemon owned the dataset when it happened.
#[test]
fn a_handle_of_a_chunk_tells_that_the_array_was_replaced_while_the_dataset_was_let_go() {
    require!(fuse);
    let written = Written::new();
    let chunk = Chunk::new(0, 3);
    let mut file = File::create(written.dataset.join(chunk.name())).unwrap();
    file.write_all(&chunk.bytes()).unwrap();
    close(file.try_clone().unwrap()).unwrap();
    let other = written.stored.join("other");
    fs::copy(written.stored.join("data.npy"), &other).unwrap();
    fs::rename(&other, written.stored.join("data.npy")).unwrap();
    written.put(4).unwrap_err();
    assert_eq!(errno(file.sync_all()), Errno::ESTALE);
    assert_eq!(errno(close(file)), Errno::ESTALE);
    // Nothing was lost: what is there now has all rows.
    assert_eq!(written.chunks(), numbers(0..4));
    written.ends();
}

#[test]
fn a_dataset_that_was_moved_out_of_the_store_is_written_to_no_more() {
    require!(fuse);
    for removed in [false, true] {
        let written = Written::new();
        let chunk = Chunk::new(0, 3);
        let mut file = File::create(written.dataset.join(chunk.name())).unwrap();
        file.write_all(&chunk.bytes()).unwrap();
        let moved = written.mount.scratch("moved");
        match removed {
            true => {
                let removed = eventually(Duration::from_secs(10), || {
                    fs::remove_dir_all(&written.stored).is_ok() || !written.stored.exists()
                });
                assert!(removed, "it is written all the time");
            }
            false => fs::rename(&written.stored, &moved).unwrap(),
        }
        let rows = || {
            let mut rows = Vec::new();
            if !removed {
                rows = fs::read(moved.join("data.npy")).unwrap();
            }
            rows
        };
        let told = eventually(Duration::from_secs(20), || file.sync_all().is_err());
        assert!(told);
        let before = rows();
        assert!(close(file).is_err());
        assert_eq!(rows(), before);
        // Its place is free for another.
        fs::create_dir_all(&written.dataset).unwrap();
        written.put(7).unwrap();
        assert_eq!(written.chunks(), [Chunk::new(0, 7)]);
        written.ends_with_a_loss();
    }
}

#[test]
fn a_reader_goes_on_with_what_it_has_open() {
    require!(fuse);
    let written = Written::new();
    let mut open = File::open(written.dataset.join("data.npy")).unwrap();
    fs::remove_file(written.stored.join("data.npy")).unwrap();
    written.put(3).unwrap_err();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut bytes).unwrap();
    drop(open);
    let rows = numbers(0..3).iter().map(|it| it.rows()).sum::<u64>();
    assert_eq!(bytes.len() as u64, 128 + rows * 32);
    written.ends_with_a_loss();
}

/// An array that another program puts into an empty dataset that the daemon has taken.
#[test]
fn an_array_that_appears_is_not_overwritten_by_the_first_chunk() {
    require!(fuse);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let file = File::create(dataset.join("a.npy")).unwrap();
    file.write_all_at(&counted(9, 1), 0).unwrap();
    fs::write(mount.store("run/data.npy"), counted(0, 5)).unwrap();
    assert_eq!(errno(close(file)), Errno::ESTALE);
    let (header, _) = array_of(&mount.store("run/data.npy"));
    assert_eq!(header.rows(), 5);
    put(&dataset.join("a.npy"), &counted(5, 1)).unwrap();
    assert_eq!(rows_of(&dataset), [0, 1, 2, 3, 4, 5]);
    mount.end_unclean();
}

#[test]
fn umount_tells_of_it_in_the_background_too() {
    require!(fuse);
    let place = common::Place::new();
    run(&mut place.mount());
    let dataset = place.mountpoint().join("run");
    fs::create_dir(&dataset).unwrap();
    put_chunk(&dataset, Chunk::new(0, 0)).unwrap();
    fs::remove_file(place.store().join("run/data.npy")).unwrap();
    let output = output_of(&mut place.umount()).unwrap();
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("replaced"), "{said}");
}

/// A daemon that is told to end lets go of its datasets before its session ends.
#[test]
fn a_daemon_that_is_told_to_end_says_by_its_exit_what_was_replaced() {
    require!(fuse);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    fs::create_dir(mount.path("ds")).unwrap();
    common::put(&mount.path("ds/0.npy"), &common::counted(0, 10)).unwrap();
    fs::remove_file(mount.store("ds/data.npy")).unwrap();
    common::kill(mount.pid(), "TERM");
    assert_eq!(mount.ended().unwrap().code(), Some(8), "{}", mount.log());
    let log = fs::read_to_string(mount.store("ds/.npyfs/log")).unwrap();
    assert!(
        log.contains("rows 0 to 10, which had been acknowledged, are kept"),
        "{log}"
    );
}

/// What was acknowledged is in the directory that was moved.
#[test]
fn a_store_that_was_moved_away_is_told_by_the_log_and_by_umount() {
    require!(fuse);
    let mut mount = Mount::new();
    mount.tolerate_warnings();
    fs::create_dir(mount.path("run")).unwrap();
    put_chunk(&mount.path("run"), Chunk::new(0, 0)).unwrap();
    let (store, moved) = (mount.store("run"), mount.scratch("moved"));
    let store = store.parent().unwrap();
    fs::rename(store, &moved).unwrap();
    fs::create_dir(store).unwrap();
    put_chunk(&mount.path("run"), Chunk::new(0, 1)).unwrap();
    mount.end_unclean();
    let log = mount.log();
    assert!(log.contains("was moved or replaced"), "{log}");
    assert_eq!(chunks_in(&moved.join("run/data.npy")), numbers(0..2));
}
