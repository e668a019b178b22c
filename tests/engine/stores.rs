//! Stores that earlier versions left open in this one, with every row, name and attribute, after a
//! clean end and after each kind of an unclean one. `stores/README.md` says what they are.

use crate::chunks;
use crate::common;
use crate::common::Started as _;
use crate::simulated;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::Mount;
use npyfs::dataset::{Attributes, Kind};
use npyfs::disk::{Directory, MountId, Open, OsFile, StoreDir, StoreFile, Whereabouts};
use npyfs::{Dataset, Options};
use serde_json::Value;
use simulated::{Disk, Fault};

const SETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores");
const ROW: usize = 12;
const JOURNAL: &str = ".npyfs/chunks.log";

/// A boot in which no store was made.
const ANOTHER_BOOT: [u8; 16] = [0xb0; 16];

/// What is written down of a dataset.
struct Expected {
    /// The directory in the set.
    from: PathBuf,
    name: String,
    all: Value,
}

/// What one of a dataset's chunks was.
struct Chunk {
    name: String,
    first_row: u64,
    rows: u64,
    descr: String,
    fortran: bool,
    attributes: Attributes,
}

/// A boot in which a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    /// The one that the journal tells of.
    Same,
    Another,
    /// Another, with the files elsewhere than the journal says.
    Elsewhere,
}

fn u64_of(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn str_of(value: &Value) -> &str {
    value.as_str().unwrap()
}

impl Expected {
    /// What is found in such a boot.
    fn found(&self, boot: Boot) -> &Value {
        match boot {
            Boot::Same => &self.all["died"],
            Boot::Another => &self.all["restarted"],
            Boot::Elsewhere => self.all.get("copied").unwrap_or(&self.all["restarted"]),
        }
    }

    /// The chunks that are damaged, where nothing is written because of them.
    fn damaged(&self, boot: Boot) -> Option<Vec<&str>> {
        let damaged = self.found(boot).get("damaged")?;
        Some(damaged.as_array().unwrap().iter().map(str_of).collect())
    }

    fn is_clean(&self) -> bool {
        self.all["clean"].as_bool().unwrap()
    }

    fn refusal(&self, boot: Boot) -> Option<&str> {
        self.found(boot).get("refused").map(str_of)
    }

    fn rows(&self, boot: Boot) -> u64 {
        u64_of(&self.found(boot)["rows"])
    }

    fn names(&self, boot: Boot) -> Vec<&str> {
        let names = self.found(boot)["chunks"].as_array().unwrap();
        names.iter().map(str_of).collect()
    }

    fn chunk(&self, name: &str) -> Chunk {
        let chunks = self.all["chunks"].as_array().unwrap();
        let of = chunks
            .iter()
            .find(|chunk| str_of(&chunk["name"]) == name)
            .unwrap();
        Chunk {
            name: name.into(),
            first_row: u64_of(&of["first_row"]),
            rows: u64_of(&of["rows"]),
            descr: str_of(&of["descr"]).into(),
            fortran: of["fortran"].as_bool().unwrap(),
            attributes: Attributes {
                mode: u64_of(&of["mode"]) as u32,
                uid: u64_of(&of["uid"]) as u32,
                gid: u64_of(&of["gid"]) as u32,
                mtime: of["mtime"].as_i64().unwrap(),
            },
        }
    }

    fn chunks(&self, boot: Boot) -> Vec<Chunk> {
        let names = self.names(boot);
        names.into_iter().map(|name| self.chunk(name)).collect()
    }

    /// The boot that is the same as the one in which it was made: a boot without a name where the
    /// journal tells of none.
    fn id(&self, boot: Boot) -> [u8; 16] {
        match boot {
            Boot::Same => boot_in(&self.from).unwrap_or([0; 16]),
            Boot::Another | Boot::Elsewhere => ANOTHER_BOOT,
        }
    }

    /// Which of both the boot of this machine is.
    fn real_boot(&self) -> Boot {
        match boot_in(&self.from) {
            Some(boot) if boot == npyfs::disk::boot_id() => Boot::Same,
            _ => Boot::Another,
        }
    }

    fn open(&self, at: &Path, boot: Boot, read_only: bool) -> npyfs::Result<Arc<Dataset>> {
        let options = Options {
            read_only,
            boot: Some(self.id(boot)),
            ..Default::default()
        };
        Dataset::open(at, options)
    }
}

impl Chunk {
    /// The file that was written.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = chunks::header(&format!("'{}'", self.descr), self.fortran, &[self.rows, 3]);
        let big = self.descr.starts_with('>');
        let spelled = |number: u64| {
            let number = number as i32;
            if big {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            }
        };
        let rows = self.first_row..self.first_row + self.rows;
        if self.fortran {
            for column in 0..3 {
                bytes.extend(rows.clone().flat_map(|row| spelled(3 * row + column)));
            }
        } else {
            bytes.extend((3 * rows.start..3 * rows.end).flat_map(spelled));
        }
        bytes
    }

    /// The file that is shown.
    fn view(&self) -> Vec<u8> {
        if self.descr == "<i4" && !self.fortran {
            return self.bytes();
        }
        let mut bytes = chunks::header("'<i4'", false, &[self.rows, 3]);
        bytes.extend(body(self.first_row, self.rows));
        bytes
    }
}

/// A chunk of three rows that comes after these.
fn since(first: u64) -> Vec<u8> {
    let mut bytes = chunks::header("'<i4'", false, &[3, 3]);
    bytes.extend(body(first, 3));
    bytes
}

/// Rows of three numbers that count on from row 0.
fn body(first: u64, rows: u64) -> Vec<u8> {
    (3 * first..3 * (first + rows))
        .flat_map(|number| (number as i32).to_le_bytes())
        .collect()
}

/// The records of a journal: what each is, and its fields.
fn records(journal: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = journal.get(16..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some(len) = rest.first_chunk::<4>() {
        let end = 8 + u32::from_le_bytes(*len) as usize;
        let Some(payload) = rest.get(8..end) else {
            break;
        };
        found.push((payload[0], &payload[1..]));
        rest = &rest[end..];
    }
    found
}

/// The boot that the last opened record names.
fn boot_in(dataset: &Path) -> Option<[u8; 16]> {
    let journal = fs::read(dataset.join(JOURNAL)).ok()?;
    let opened = records(&journal)
        .into_iter()
        .rfind(|(kind, _)| matches!(kind, 8 | 11))?;
    opened.1.first_chunk().copied()
}

/// Every dataset of every set.
fn all() -> Vec<Expected> {
    let mut found = Vec::new();
    for set in fs::read_dir(SETS).unwrap() {
        let set = set.unwrap().path();
        if !set.is_dir() {
            continue;
        }
        for file in fs::read_dir(&set).unwrap() {
            let file = file.unwrap().path();
            if file.extension() != Some(OsStr::new("json")) {
                continue;
            }
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            found.push(Expected {
                from: set.join(&name),
                name,
                all: serde_json::from_slice(&fs::read(&file).unwrap()).unwrap(),
            });
        }
    }
    assert!(found.len() > 25, "{} stores", found.len());
    found.sort_by(|a, b| a.from.cmp(&b.from));
    found
}

/// What git keeps of a dataset, and the directory that it does not keep.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    if from.ends_with(".npyfs") {
        fs::create_dir_all(to.join("incoming")).unwrap();
    }
}

/// Has the last opened record of a journal tell where its files are now.
fn move_in(dataset: &Path) {
    let path = dataset.join(JOURNAL);
    let Ok(mut journal) = fs::read(&path) else {
        return;
    };
    let last = records(&journal)
        .into_iter()
        .rfind(|(kind, _)| matches!(kind, 8 | 11));
    // One of version 1 tells of no place.
    let Some((11, fields)) = last else {
        return;
    };
    // Boot, time, host; then the mount, and both places.
    let at = fields.as_ptr() as usize - journal.as_ptr() as usize;
    let (mount, data, places) = (at + 40, at + 49, at + 65);
    let end = places + 16;
    let whereabouts = |path: &Path| {
        let file = fs::File::open(path).unwrap();
        OsFile::new(file).whereabouts().unwrap()
    };
    let place = |of: Whereabouts| [of.place.inode.to_le_bytes(), of.place.born.to_le_bytes()];
    let here = whereabouts(&path);
    let MountId::Unique(id) = here.mount else {
        return;
    };
    journal[mount] = 1;
    journal[mount + 1..data].copy_from_slice(&id.to_le_bytes());
    journal[places..end].copy_from_slice(&place(here).concat());
    if let Ok(there) = fs::canonicalize(dataset.join("data.npy"))
        && journal[data..places] != [0; 16]
    {
        journal[data..places].copy_from_slice(&place(whereabouts(&there)).concat());
    }
    let start = at - 9;
    let record = framed(&journal[at - 1..end]);
    journal[start..end].copy_from_slice(&record);
    fs::write(path, journal).unwrap();
}

/// Every file below a directory, and its bytes.
fn files(at: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A copy of a store, to be opened.
struct Copied {
    scratch: tempfile::TempDir,
}

impl Copied {
    fn of(expected: &Expected) -> Self {
        let copied = Self::elsewhere(expected);
        if !expected.is_clean() {
            move_in(&copied.path());
        }
        copied
    }

    fn elsewhere(expected: &Expected) -> Self {
        let scratch =
            tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        copy(&expected.from, &scratch.path().join("ds"));
        Self { scratch }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("ds")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join(".npyfs/log")).unwrap_or_default()
    }
}

fn names(dataset: &Dataset) -> Vec<String> {
    let mut found = Vec::new();
    let mut id = 0;
    while let Some((name, next)) = dataset.next_name(id) {
        found.push(name.into_string().unwrap());
        id = next;
    }
    found
}

fn read(view: &npyfs::dataset::View) -> Vec<u8> {
    let mut bytes = vec![0; view.len() as usize];
    assert_eq!(view.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// Rows, names and attributes are what is written down; `more` rows of one chunk came since.
fn compare(dataset: &Dataset, expected: &Expected, boot: Boot, more: u64) {
    let at = format!("{} ({boot:?} boot)", expected.from.display());
    let rows = expected.rows(boot) + more;
    match dataset.snapshot().unwrap() {
        None => assert_eq!(rows, 0, "{at}: no array"),
        Some(view) => {
            assert_eq!(view.rows(), rows, "{at}: rows");
            let bytes = read(&view);
            let found = &bytes[bytes.len() - rows as usize * ROW..];
            assert!(found == body(0, rows), "{at}: other rows");
        }
    }
    let mut found = names(dataset);
    if more > 0 {
        assert_eq!(found.pop().unwrap(), "since.npy", "{at}");
    }
    assert_eq!(found, expected.names(boot), "{at}: names");
    let mut named = more;
    let made = &expected.all["made"];
    let made = made[0].as_i64().unwrap()..made[1].as_i64().unwrap();
    for chunk in expected.chunks(boot) {
        let found = dataset.chunk(OsStr::new(&chunk.name)).unwrap().unwrap();
        let receipt = &found.receipt;
        let place = (receipt.first_row, receipt.rows, receipt.attributes);
        let expected = (chunk.first_row, chunk.rows, chunk.attributes);
        assert_eq!(place, expected, "{at}: {}", chunk.name);
        assert!(made.contains(&receipt.committed), "{at}: {}", chunk.name);
        assert!(read(&found.view) == chunk.view(), "{at}: {}", chunk.name);
        named += chunk.rows;
    }
    let report = dataset.check(&mut |_, _| ()).unwrap();
    // Rows without a name are another program's, or of a chunk whose name is gone.
    let nameless = rows - named - report.unverified_rows;
    assert_eq!(nameless > 0, report.nameless > 0, "{at}");
    if dataset.is_owned() {
        assert!(report.damage.is_empty(), "{at}: {:?}", report.damage);
    }
}

/// Opens a dataset of a copy; `None` where that is to be refused, and is.
fn opened(
    expected: &Expected,
    copied: &Copied,
    boot: Boot,
    read_only: bool,
) -> Option<Arc<Dataset>> {
    let at = format!("{} ({boot:?} boot)", expected.from.display());
    let dataset = expected.open(&copied.path(), boot, read_only);
    match (dataset, expected.refusal(boot)) {
        (Ok(dataset), None) => match expected.damaged(boot) {
            Some(names) => {
                assert_eq!(dataset.status().unwrap().damaged, names, "{at}");
                None
            }
            None => Some(dataset),
        },
        (Err(error), Some(phrase)) => {
            let said = error.to_string();
            assert!(said.contains(phrase), "{at}: {said}");
            None
        }
        (Ok(_), Some(phrase)) => panic!("{at}: not refused: {phrase}"),
        (Err(error), None) => panic!("{at}: {error}"),
    }
}

fn each_store(what: impl Fn(&Expected, &Copied, Boot)) {
    for expected in all() {
        for boot in [Boot::Same, Boot::Another] {
            what(&expected, &Copied::of(&expected), boot);
        }
        what(&expected, &Copied::elsewhere(&expected), Boot::Elsewhere);
    }
}

#[test]
fn every_store_opens_with_all_its_rows_names_and_attributes() {
    each_store(|expected, copied, boot| {
        let before = files(&copied.path());
        let log = copied.log();
        let Some(dataset) = opened(expected, copied, boot, false) else {
            let mut after = files(&copied.path());
            if expected.damaged(boot).is_some() {
                after.retain(|path, _| !path.ends_with("log") && !path.ends_with("lock"));
            }
            let before: BTreeMap<_, _> = before
                .into_iter()
                .filter(|(path, _)| after.contains_key(path) || path.ends_with("data.npy"))
                .collect();
            assert!(after == before, "{}", expected.name);
            return;
        };
        compare(&dataset, expected, boot, 0);
        let said = copied.log()[log.len()..].to_owned();
        for phrase in expected.found(boot)["says"].as_array().unwrap() {
            assert!(said.contains(str_of(phrase)), "{}: {said}", expected.name);
        }
        drop(dataset);
        if expected.is_clean() {
            assert!(files(&copied.path()) == before, "{}", expected.name);
        }
    });
}

#[test]
fn a_reader_of_a_store_finds_the_same_and_changes_nothing() {
    each_store(|expected, copied, boot| {
        let before = files(&copied.path());
        if let Some(dataset) = opened(expected, copied, boot, true) {
            compare(&dataset, expected, boot, 0);
        }
        assert!(files(&copied.path()) == before, "{}", expected.name);
    });
}

/// The journal is of the newest version, and whatever was in it is in it still.
fn is_raised(expected: &Expected, journal: &[u8]) {
    let name = &expected.name;
    assert_eq!(&journal[..16], b"npyfs journal 2\n", "{name}");
    let old = fs::read(expected.from.join(JOURNAL)).unwrap_or_default();
    if expected.is_clean() && !old.is_empty() {
        assert!(journal[16..].starts_with(&old[16..]), "{name}");
    }
}

#[test]
fn every_store_goes_on_and_takes_each_chunk_again_as_the_one_that_it_has() {
    each_store(|expected, copied, boot| {
        let Some(dataset) = opened(expected, copied, boot, false) else {
            return;
        };
        let since = since(expected.rows(boot));
        dataset.append("since.npy", &since).unwrap();
        for chunk in expected.chunks(boot) {
            dataset.append(&chunk.name, &chunk.bytes()).unwrap();
        }
        compare(&dataset, expected, boot, 3);
        drop(dataset);
        is_raised(expected, &fs::read(copied.path().join(JOURNAL)).unwrap());
        let dataset = expected.open(&copied.path(), Boot::Another, false).unwrap();
        compare(&dataset, expected, boot, 3);
        assert!(!dataset.is_owned(), "{}: not closed cleanly", expected.name);
    });
}

#[test]
fn a_check_calls_those_stores_damaged_that_are() {
    for expected in all() {
        let copied = Copied::of(&expected);
        let before = files(&copied.path());
        let boot = expected.real_boot();
        let damaged =
            expected.refusal(boot).is_some() || expected.found(boot)["lost"].as_bool().unwrap();
        let output = Command::new(common::npyfs())
            .arg("check")
            .arg(copied.path())
            .output_alone()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let name = &expected.name;
        assert_eq!(output.status.success(), !damaged, "{name}: {said}");
        assert_eq!(said.contains("DAMAGED"), damaged, "{name}: {said}");
        assert!(files(&copied.path()) == before, "{name} was changed");
    }
}

/// All of a set in one store.
#[test]
fn a_mount_shows_every_store() {
    require!(fuse, root);
    let mut mount = Mount::new();
    // Of those that are refused, and of what recovery drops.
    mount.tolerate_warnings();
    for expected in all() {
        let set = expected.from.parent().unwrap().file_name().unwrap();
        let relative = Path::new(set).join(&expected.name);
        copy(&expected.from, &mount.store(&relative));
        if !expected.is_clean() {
            move_in(&mount.store(&relative));
        }
        let at = mount.path(&relative);
        let boot = expected.real_boot();
        let name = &expected.name;
        if expected.refusal(boot).is_some() {
            fs::read(at.join("data.npy")).unwrap_err();
            continue;
        }
        let rows = expected.rows(boot);
        match fs::read(at.join("data.npy")) {
            Ok(bytes) => {
                let (_, found) = chunks::split(&bytes);
                assert!(found == body(0, rows), "{name}: other rows");
            }
            Err(error) => assert_eq!(rows, 0, "{name}: {error}"),
        }
        let listed = fs::read_dir(&at).unwrap();
        let listed = listed.map(|entry| entry.unwrap().file_name());
        let listed: Vec<_> = listed
            .filter(|name| Kind::of(name) == Kind::Chunk)
            .collect();
        assert_eq!(listed, expected.names(boot), "{name}");
        for chunk in expected.chunks(boot) {
            let path = at.join(&chunk.name);
            let stat = fs::metadata(&path).unwrap();
            let found = Attributes {
                mode: stat.mode() & 0o7777,
                uid: stat.uid(),
                gid: stat.gid(),
                mtime: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
            };
            assert_eq!(found, chunk.attributes, "{}", path.display());
            assert!(
                fs::read(&path).unwrap() == chunk.view(),
                "{}",
                path.display()
            );
        }
    }
}

/// A payload with its length and a good checksum.
fn framed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), payload);
    [&len[..], &crc.to_le_bytes(), payload].concat()
}

/// Changes of a journal that a newer npyfs may have made, and what is said of each.
fn newer(journal: &[u8]) -> Vec<(Vec<u8>, String)> {
    let end = journal.len();
    let closed = framed(&[&[9][..], &[0; 8]].concat());
    let version = |digit: &[u8]| [&journal[..14], digit, &journal[15..]].concat();
    let with = |record: Vec<u8>| [journal, &record, &closed].concat();
    vec![
        (
            version(b"3"),
            "of version 3, this npyfs knows versions 1 to 2".into(),
        ),
        (
            with(framed(&[10 + 90, 1, 2, 3])),
            format!("a record of kind 100 at byte {end}, this npyfs knows kinds 1 to"),
        ),
        // A durable record with another field.
        (
            with(framed(&[7; 17])),
            format!("at byte {end} has 17 bytes that are not the fields of its kind 7"),
        ),
        // Also where a daemon died since.
        (
            [journal, &framed(&[200]), &[1, 2, 3]].concat(),
            format!("a record of kind 200 at byte {end}"),
        ),
    ]
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_not_changed() {
    for expected in all() {
        let journal = fs::read(expected.from.join(JOURNAL)).unwrap_or_default();
        if !expected.is_clean() || journal.is_empty() {
            continue;
        }
        for (bytes, phrase) in newer(&journal) {
            let copied = Copied::of(&expected);
            fs::write(copied.path().join(JOURNAL), bytes).unwrap();
            let before = files(&copied.path());
            for boot in [Boot::Same, Boot::Another] {
                for read_only in [false, true] {
                    let opened = expected.open(&copied.path(), boot, read_only);
                    let said = opened.unwrap_err().to_string();
                    assert!(said.contains(&phrase), "no word of '{phrase}': {said}");
                }
            }
            let output = Command::new(common::npyfs())
                .arg("check")
                .arg(copied.path())
                .output_alone()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!output.status.success() && said.contains(&phrase), "{said}");
            assert!(files(&copied.path()) == before, "{}", expected.name);
        }
    }
}

#[test]
fn a_reader_that_meets_what_a_newer_version_writes_says_so() {
    let expected = named("v1/plain");
    for (bytes, phrase) in newer(&fs::read(expected.from.join(JOURNAL)).unwrap()) {
        let copied = Copied::of(&expected);
        let dataset = expected.open(&copied.path(), Boot::Another, true).unwrap();
        compare(&dataset, &expected, Boot::Another, 0);
        let grows = bytes.len() > fs::metadata(copied.path().join(JOURNAL)).unwrap().len() as usize;
        fs::write(copied.path().join(JOURNAL), &bytes).unwrap();
        match dataset.snapshot() {
            Err(error) => assert!(error.to_string().contains(&phrase), "{error}"),
            // The first line is read once.
            Ok(view) => assert!(!grows && view.unwrap().rows() == expected.rows(Boot::Another)),
        }
        assert!(fs::read(copied.path().join(JOURNAL)).unwrap() == bytes);
    }
}

fn named(path: &str) -> Expected {
    let mut all = all().into_iter();
    all.find(|expected| expected.from.ends_with(path)).unwrap()
}

/// A store on a simulated disk, all of it synced.
fn on_disk(expected: &Expected) -> Disk {
    let disk = Disk::default();
    for (path, bytes) in files(&expected.from) {
        let path = path.strip_prefix(&expected.from).unwrap();
        let parents: Vec<&Path> = path.ancestors().skip(1).collect();
        for parent in parents.iter().rev().filter(|it| **it != Path::new("")) {
            disk.make_dir(parent).unwrap();
        }
        disk.put(path.to_str().unwrap(), &bytes);
        disk.open(path, Open::Write).unwrap().sync().unwrap();
        for parent in parents {
            disk.sync(parent).unwrap();
        }
    }
    disk
}

/// The first write to a store of an old version, and the end of it. What was answered to either.
fn write_to(disk: &Disk, expected: &Expected, boot: Boot) -> [npyfs::Result<()>; 2] {
    let options = Options {
        boot: Some(expected.id(boot)),
        ..Default::default()
    };
    let dataset = match Dataset::open_in(Arc::new(disk.clone()), "simulated", options) {
        Ok(dataset) => dataset,
        Err(error) => return [Err(error.clone()), Err(error)],
    };
    let rows = expected.rows(boot);
    let appended = dataset.append("since.npy", &since(rows));
    let closed = dataset.close();
    [appended, closed]
}

/// What a store has in which the first write may be, once for certain.
fn look(disk: &Disk, expected: &Expected, boot: Boot, since: Option<bool>, at: &str) {
    let options = Options {
        boot: Some(expected.id(boot)),
        ..Default::default()
    };
    let dataset = Dataset::open_in(Arc::new(disk.clone()), "simulated", options);
    let dataset = dataset.unwrap_or_else(|error| panic!("{at}: {error}"));
    let there = dataset.chunk(OsStr::new("since.npy")).unwrap().is_some();
    assert!(since.is_none_or(|since| since == there), "{at}: {there}");
    compare(&dataset, expected, boot, if there { 3 } else { 0 });
}

fn power_cuts(disk: &Disk) -> Vec<(String, Disk)> {
    let mut found: Vec<(String, Disk)> = (0..6)
        .map(|seed| (format!("power cut {seed}"), disk.power_cut(seed)))
        .collect();
    let worst = disk.power_cut_before_first_sectors();
    found.push(("power cut before the first sectors".into(), worst));
    found
}

/// Whatever call of the disk fails while a store of an old version is written to first, and
/// whatever a kill or a power cut then leaves of it, it opens with all that it had.
#[test]
fn a_version_is_raised_with_nothing_lost_whatever_fails() {
    for name in ["v1/plain", "v1/killed"] {
        let expected = named(name);
        let whole = on_disk(&expected);
        whole.break_at(None);
        let [appended, closed] = write_to(&whole, &expected, Boot::Same);
        appended.and(closed).unwrap();
        let calls = whole.calls();
        assert!(calls > 20, "{calls} calls");
        for at in 0..calls {
            for (for_good, half) in [(false, false), (false, true), (true, false), (true, true)] {
                let disk = on_disk(&expected);
                disk.break_at(Some(Fault {
                    at,
                    errno: libc::EIO,
                    for_good,
                    half,
                }));
                let [appended, closed] = write_to(&disk, &expected, Boot::Same);
                let at = format!("{name}, call {at} of {calls}, for good {for_good}, half {half}");
                // A kill may come between a commit and its answer.
                let since = (!for_good || appended.is_ok()).then_some(appended.is_ok());
                look(&disk.killed(), &expected, Boot::Same, since, &at);
                let since = closed.is_ok().then_some(appended.is_ok());
                for (cut, disk) in power_cuts(&disk) {
                    let at = format!("{at}, {cut}");
                    look(&disk, &expected, Boot::Another, since, &at);
                }
                // The disk works again, and what failed before is not taken for done.
                disk.break_at(None);
                let disk = if for_good { disk.killed() } else { disk };
                let [appended, closed] = write_to(&disk, &expected, Boot::Same);
                appended.and(closed).unwrap();
                for (cut, disk) in power_cuts(&disk) {
                    let at = format!("{at}, a second time, {cut}");
                    look(&disk, &expected, Boot::Another, Some(true), &at);
                }
            }
        }
    }
}

/// A copy that `npyfs backup` makes of a store has what recovery would keep of it, whatever state that
/// is in, but for rows that no journal tells of.
#[test]
fn a_backup_of_every_store_has_its_rows_names_and_attributes() {
    for expected in all() {
        let original = Copied::of(&expected);
        let place = tempfile::tempdir().unwrap();
        let (from, to): (Arc<dyn StoreDir>, Arc<dyn StoreDir>) = (
            Arc::new(Directory::open(&original.path()).unwrap()),
            Arc::new(Directory::open(place.path()).unwrap()),
        );
        let before = files(&original.path());
        let name = expected.from.display();
        let done = npyfs::dataset::back_up(&from, &to, &mut |_, _| ());
        assert!(files(&original.path()) == before, "{name}");
        let boot = Boot::Another;
        if expected.refusal(boot).is_some() {
            continue;
        }
        // Their headers are to be put in order first.
        if ["inserting", "no-header"].contains(&&*expected.name) {
            let said = done.unwrap_err().to_string();
            assert!(said.contains("puts it in order"), "{name}: {said}");
            continue;
        }
        let copied = done.unwrap_or_else(|error| panic!("{name}: {error}"));
        let copy = expected.open(place.path(), boot, false).unwrap();
        if expected.name == "wrong-rows" {
            assert!(copied.damage[0].starts_with("d.npy: "), "{copied:?}");
            continue;
        }
        let rows = expected.rows(boot);
        assert!(
            copied.rows <= rows,
            "{name}: {copied:?}, and {rows} are known"
        );
        let unknown = rows - copied.rows;
        let untold = ["foreign-rows", "foreign"];
        assert!(
            unknown == 0 || untold.contains(&&*expected.name),
            "{name}: {unknown} rows are missing: {copied:?}"
        );
        if unknown == 0 {
            compare(&copy, &expected, boot, 0);
        }
        copy.close().unwrap();
        drop(copy);
        let journal = fs::read(place.path().join(JOURNAL)).unwrap_or_default();
        assert_eq!(copied.damage.len(), 0, "{name}: {copied:?}");
        assert!(journal.is_empty() || records(&journal).last().unwrap().0 == 9);
    }
}
