use super::*;

const REMEMBERED: usize = 100;
const RECENT: usize = 2;

#[test]
fn a_node_lives_as_long_as_the_kernel_remembers_it() {
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let name = OsStr::new("x.npy");
    let ino = nodes.named(ROOT, name, false, None);
    assert_eq!(nodes.named(ROOT, name, false, None), ino);
    nodes.forget(ino, 1);
    assert!(nodes.get(ino).is_ok());
    nodes.forget(ino, 1);
    assert!(nodes.get(ino).is_err());
    assert_ne!(nodes.named(ROOT, name, false, None), ino);
    assert_eq!(nodes.len(), 2);
}

#[test]
fn another_file_of_the_same_name_is_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let seen = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "").unwrap();
        Seen::of(&nix::sys::stat::stat(&path).unwrap())
    };
    let (one, other) = (seen("one"), seen("other"));
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let name = OsStr::new("x");
    let named = |seen| nodes.named(ROOT, name, false, seen);
    let first = named(Some(one));
    assert_eq!(named(Some(one)), first);
    let second = named(Some(other));
    assert_ne!(second, first);
    assert!(nodes.get(first).unwrap().gone);
    assert_eq!(nodes.seen(first), Some(one), "what is open is still that");
    // It was committed, and keeps its number.
    assert_eq!(named(None), second);
    assert_eq!(nodes.seen(second), None);
    // The chunk's name was removed, and a file took it.
    assert_ne!(named(Some(one)), second);
    nodes.forget(first, 2);
    assert_eq!(nodes.seen(first), None);
}

#[test]
fn what_is_told_of_a_node_never_makes_it_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let look = |path: &std::path::Path| Seen::of(&nix::sys::stat::stat(path).unwrap());
    let (file, other) = (dir.path().join("file"), look(dir.path()));
    std::fs::write(&file, "").unwrap();
    let before = look(&file);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let ino = nodes.named(ROOT, OsStr::new("x"), false, Some(before));
    nodes.see(ino, look(&file));
    assert_eq!(nodes.seen(ino), Some(look(&file)));
    assert_ne!(look(&file), before);
    nodes.see(ino, other);
    assert_eq!(nodes.seen(ino), Some(look(&file)));
}

/// A dataset's array after each of `n` chunks.
fn versions(n: u64) -> (tempfile::TempDir, Vec<View>) {
    let dir = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(dir.path(), crate::Options::default()).unwrap();
    let mut chunk = crate::npy::Header::encode(&"<u8".parse().unwrap(), &[1]).unwrap();
    chunk.extend([7; 8]);
    let version = |n| {
        dataset.append(format!("{n}.npy"), &chunk).unwrap();
        dataset.snapshot().unwrap().unwrap()
    };
    let versions = (0..n).map(version).collect();
    (dir, versions)
}

#[test]
fn a_version_becomes_the_next_only_while_no_reader_has_it_open() {
    let (_dir, views) = versions(4);
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let look_up = |n: usize| nodes.version(9, OsStr::new(DATA), views[n].clone(), 5);
    let rows = |ino| match nodes.get(ino).unwrap().kind {
        Kind::Array(view) => view.rows(),
        other => panic!("{other:?}"),
    };
    let first = look_up(0);
    assert_ne!(look_up(1), first, "pages may be cached");
    nodes.set_uncached(true);
    let second = look_up(1);
    assert_eq!(look_up(2), second);
    assert_eq!(rows(second), 3);
    assert_ne!(look_up(0), second, "it never goes back");
    let newest = look_up(2);
    nodes.open_version(newest, 5).unwrap();
    assert_ne!(look_up(3), newest);
    assert_eq!(rows(newest), 3);
    nodes.close_version(newest);
    assert_eq!(
        rows(newest),
        3,
        "a process that looked it up may open it yet"
    );
}

#[test]
fn a_version_keeps_its_array_open_only_for_a_while_after_it_was_looked_up() {
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let arrays: Vec<_> = (0..=RECENT).map(|_| versions(1)).collect();
    let look_up = |(_, views): (_, Vec<View>)| {
        let array = Arc::downgrade(views[0].backing().0);
        (
            nodes.version(9, OsStr::new(DATA), views[0].clone(), 5),
            array,
        )
    };
    // The datasets are closed by now.
    let looked_up: Vec<_> = arrays.into_iter().map(look_up).collect();
    let is_open: Vec<bool> = looked_up
        .iter()
        .map(|(_, array)| array.strong_count() > 0)
        .collect();
    assert_eq!(is_open, [false, true, true]);
    let stale = nodes.open_version(looked_up[0].0, 5).unwrap_err();
    assert_eq!(stale.errno(), crate::error::Errno::ESTALE);
    let (view, _) = nodes.open_version(looked_up[1].0, 5).unwrap();
    assert_eq!(view.rows(), 1);
    drop(view);
    nodes.forget(looked_up[1].0, 1);
    assert_eq!(looked_up[1].1.strong_count(), 0, "forgotten");
    nodes.removed(9, OsStr::new(DATA));
    assert_eq!(looked_up[2].1.strong_count(), 0, "removed");
}

#[test]
fn the_kernel_is_sure_of_a_version_only_where_one_thread_asks_alone() {
    let (_dir, views) = versions(1);
    let nodes = Inodes::new(REMEMBERED, RECENT);
    nodes.set_uncached(true);
    let look_up = |thread| nodes.version(9, OsStr::new(DATA), views[0].clone(), thread);
    let doubtful = |ino, thread| nodes.open_version(ino, thread).unwrap().1;
    let ino = look_up(5);
    assert!(!doubtful(ino, 5));
    look_up(6);
    assert!(doubtful(ino, 6), "5 may not have its answer yet");
    assert!(!doubtful(ino, 6), "it was forgotten then");
    nodes.tell(ino, 5);
    assert!(doubtful(ino, 5));
    look_up(0);
    assert!(doubtful(ino, 0), "0 says of no thread which it is");
}

#[test]
fn the_oldest_files_are_surplus_once_there_are_too_many() {
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let file = |n: usize| nodes.named(ROOT, OsStr::new(&format!("{n}.npy")), false, None);
    let first: Vec<u64> = (0..REMEMBERED + PRUNABLE - 1).map(file).collect();
    nodes.named(ROOT, OsStr::new("directory"), true, None);
    assert_eq!(nodes.prunable(), None);
    nodes.forget(first[1], 1);
    file(first.len());
    let oldest = nodes.prunable().unwrap();
    assert_eq!(oldest[..2], [first[0], first[2]]);
    assert_eq!(oldest.len(), PRUNABLE - 1);
    assert_eq!(nodes.prunable(), None);
}

#[test]
fn a_renamed_directory_takes_what_is_in_it_along() {
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let outer = nodes.named(ROOT, OsStr::new("a"), true, None);
    let inner = nodes.named(outer, OsStr::new("b"), true, None);
    nodes.renamed(ROOT, OsStr::new("a"), ROOT, OsStr::new("c"));
    assert_eq!(nodes.path(inner).unwrap(), PathBuf::from("c/b"));
}

#[test]
fn a_name_that_was_replaced_is_gone_and_its_successor_is_another_node() {
    let nodes = Inodes::new(REMEMBERED, RECENT);
    let old = nodes.named(ROOT, OsStr::new("x.npy"), false, None);
    let new = nodes.named(ROOT, OsStr::new(".x.tmp"), false, None);
    nodes.renamed(ROOT, OsStr::new(".x.tmp"), ROOT, OsStr::new("x.npy"));
    assert!(nodes.get(old).unwrap().gone);
    assert_eq!(nodes.named(ROOT, OsStr::new("x.npy"), false, None), new);
}
