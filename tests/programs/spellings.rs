//! One meaning, many spellings: the headers of all known writers, compared by what they say.

use crate::common;

use std::fs;
use std::path::Path;

use common::{Mount, errno, npy, put, python};
use nix::errno::Errno;

/// A `.npy` file with this text as its header, and nothing added to it.
fn raw(major: u8, text: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([major, 0]);
    if major == 1 {
        bytes.extend((text.len() as u16).to_le_bytes());
    } else {
        bytes.extend((text.len() as u32).to_le_bytes());
    }
    bytes.extend(text.as_bytes());
    bytes.extend(body);
    bytes
}

/// The text with blanks after it, so that the data begins at a multiple of `align`.
fn padded(major: u8, align: usize, text: &str) -> String {
    let before = if major == 1 { 10 } else { 12 };
    let len = (before + text.len() + 1).next_multiple_of(align) - before;
    format!("{text:<0$}\n", len - 1)
}

/// 48 bytes: rows of two numbers, of which none looks like another.
fn body(first: u8) -> Vec<u8> {
    (first..first + 48).collect()
}

/// Appends `chunk` to a dataset of its own, after a chunk as numpy writes it, and has numpy tell
/// that both are there. `Err`: the chunk was refused.
struct Judge {
    mount: Mount,
    next: u32,
}

impl Judge {
    fn new() -> Self {
        Self {
            mount: Mount::new(),
            next: 0,
        }
    }

    #[track_caller]
    fn accepts(&mut self, first: &[u8], chunk: &[u8], bodies: [&[u8]; 2], why: &str) {
        self.next += 1;
        let dataset = self.mount.path(self.next.to_string());
        fs::create_dir(&dataset).unwrap();
        put(&dataset.join("0.npy"), first).unwrap();
        let done = put(&dataset.join("1.npy"), chunk);
        assert!(done.is_ok(), "{why}: {done:?}\n{}", self.mount.log());
        let array = fs::read(dataset.join("data.npy")).unwrap();
        let rows = bodies.concat();
        assert!(array.ends_with(&rows), "{why}: other rows");
        // The view is what was written; and the spelling may come first as well.
        assert!(fs::read(dataset.join("1.npy")).unwrap() == chunk, "{why}");
        let turned = self.mount.path(format!("{}-turned", self.next));
        fs::create_dir(&turned).unwrap();
        put(&turned.join("1.npy"), chunk).unwrap();
        put(&turned.join("0.npy"), first).unwrap();
        let array = fs::read(turned.join("data.npy")).unwrap();
        assert!(array.ends_with(&[bodies[1], bodies[0]].concat()), "{why}");
    }

    /// numpy reads every array.
    fn finish(self, count: u32) {
        self.finish_with(count, 0);
    }

    /// The same, with so many arrays that the test made by itself.
    fn finish_with(self, count: u32, more: u32) {
        assert_eq!(self.next, count);
        let read = python(
            "import sys, pathlib, numpy as np
print(sum(len(np.load(p, mmap_mode='r')) > 0 for p in pathlib.Path(sys.argv[1]).glob('*/data.npy')))",
            &[self.mount.path("")],
        );
        assert_eq!(read.trim(), (2 * count + more).to_string());
    }
}

#[test]
fn every_layout_of_the_same_header_is_accepted() {
    require!(fuse, python);
    let mut judge = Judge::new();
    let first = npy("<f8", "(3, 2)", &body(1));
    let plain = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }";
    let mut texts: Vec<(u8, String)> = Vec::new();
    for (major, align) in [
        (1, 64),
        (1, 16),
        (1, 8),
        (1, 1),
        (2, 64),
        (2, 2),
        (2, 1),
        (3, 64),
    ] {
        texts.push((major, padded(major, align, plain)));
    }
    for text in [
        // ndarray-npy, npyz, Open Ephys, NPY-for-Fortran and npy_array, JetBrains, npyjs
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2, ), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,2, )}",
        "{'descr':'<f8','fortran_order':False,'shape':(3,2)}",
        // Python 2, double quotes, other orders of the keys
        "{u'descr': u'<f8', u'fortran_order': False, u'shape': (3L, 2L), }",
        "{\"descr\": \"<f8\", \"fortran_order\": False, \"shape\": (3, 2)}",
        "{'shape': (3, 2), 'fortran_order': False, 'descr': '<f8'}",
        "{'fortran_order': False, 'shape': (3, 2), 'descr': '<f8', }",
        // blanks
        "  {  'descr' :'<f8'  ,  'fortran_order'  :  False , 'shape' : ( 3 , 2 ) , }  ",
        "{'descr': '<f8',\r\n 'fortran_order': False,\r\n\t'shape': (3, 2), }",
    ] {
        texts.push((1, padded(1, 64, text)));
        // No newline, no padding; and the newline before the padding.
        texts.push((1, text.to_owned()));
        texts.push((1, format!("{text}\n          ")));
    }
    for (major, text) in &texts {
        let chunk = raw(*major, text, &body(100));
        judge.accepts(&first, &chunk, [&body(1), &body(100)], text);
    }
    judge.finish(texts.len() as u32);
}

#[test]
fn dtypes_are_compared_by_what_they_mean() {
    require!(fuse, python);
    let mut judge = Judge::new();
    let same: &[(&str, &[&str])] = &[
        ("<f8", &["f8", "=f8", "|f8", "float64", "d", "<d"]),
        ("<i4", &["i4", "=i4", "|i4", "int32"]),
        ("<i8", &["i8", "int64"]),
        ("<u2", &["u2", "=u2", "uint16"]),
        ("<f4", &["f4", "float32", "=f4"]),
        ("|u1", &["u1", "<u1", ">u1", "=u1", "uint8"]),
        ("|i1", &["i1", "<i1", "int8"]),
        ("<c16", &["c16", "complex128", "=c16"]),
        ("<M8[ns]", &["M8[ns]", "datetime64[ns]"]),
        ("|S6", &["S6"]),
        ("<U3", &["U3", "=U3"]),
        ("|V2", &["V2", "<V2"]),
        ("<f2", &["f2", "float16"]),
    ];
    let mut count = 0;
    for (numpys, others) in same {
        let item = match numpys
            .trim_start_matches(['<', '|'])
            .chars()
            .next()
            .unwrap()
        {
            'U' => 12,
            _ => numpys
                .chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
                .parse::<usize>()
                .unwrap(),
        };
        let shape = format!("({},)", 48 / item);
        // Halves with all bits set would be fine too; these are printable for strings.
        let text = |first: u8| -> Vec<u8> {
            match *numpys {
                "<U3" => (0..12).flat_map(|n| [first + n, 0, 0, 0]).collect(),
                _ => body(first),
            }
        };
        let first = npy(numpys, &shape, &text(40));
        for other in *others {
            let chunk = npy(other, &shape, &text(70));
            judge.accepts(&first, &chunk, [&text(40), &text(70)], other);
            count += 1;
        }
    }
    let booleans = [0, 1, 1, 0].repeat(12);
    let first = npy("|b1", "(48,)", &booleans);
    for other in ["b1", "<b1", "bool", "?", "|?"] {
        let chunk = npy(other, "(48,)", &booleans);
        judge.accepts(&first, &chunk, [&booleans, &booleans], other);
        count += 1;
    }
    judge.finish(count);
}

/// A 1.0 header with any descr, which brings its own quotes.
fn described(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    raw(1, &padded(1, 64, &text), body)
}

#[test]
fn structured_dtypes_match_by_their_fields() {
    require!(fuse, python);
    let mut judge = Judge::new();
    let first = described("[('a', '<i4'), ('b', '<f4', (2,))]", "(4,)", &body(1));
    let mut count = 0;
    for descr in [
        "[('a','<i4'),('b','<f4',(2,))]",
        "[(\"a\", \"i4\"), (\"b\", \"=f4\", (2,)), ]",
        "[(u'a', u'<i4'), (u'b', u'<f4', (2L,))]",
        "[('a', 'int32'), ('b', 'float32', 2)]",
    ] {
        let chunk = described(descr, "(4,)", &body(100));
        judge.accepts(&first, &chunk, [&body(1), &body(100)], descr);
        count += 1;
    }
    let nested = described(
        "[('p', [('x', '<f4'), ('y', '<f4')]), ('', '|V4')]",
        "(4,)",
        &body(1),
    );
    let again = "[('p',[('x','f4'),('y','float32')]),('','|V4'),]";
    judge.accepts(
        &nested,
        &described(again, "(4,)", &body(9)),
        [&body(1), &body(9)],
        again,
    );
    let named =
        "{'descr': [('größe', '<i4'), ('名', '<f8')], 'fortran_order': False, 'shape': (4,), }";
    let first = raw(3, &padded(3, 64, named), &body(1));
    judge.accepts(
        &first,
        &raw(3, named, &body(9)),
        [&body(1), &body(9)],
        named,
    );
    let titled = described("[(('Title', 'a'), '<i4')]", "(12,)", &body(1));
    let again = "[(('Title','a'),'i4')]";
    judge.accepts(
        &titled,
        &described(again, "(12,)", &body(9)),
        [&body(1), &body(9)],
        again,
    );
    judge.finish(count + 3);
}

#[test]
fn shapes_that_mean_the_same() {
    require!(fuse, python);
    let mut judge = Judge::new();
    let with = |text: &str| raw(1, &padded(1, 16, text), &body(100));
    let first = npy("<f8", "(6,)", &body(1));
    // TinyNPY; and the flag where both orders have the same bytes.
    for text in [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (6), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (6,), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (6), }",
    ] {
        judge.accepts(&first, &with(text), [&body(1), &body(100)], text);
    }
    // npy-matlab's vectors.
    let column = "{'descr': '<f8', 'fortran_order': True, 'shape': (6, 1), }";
    let first = npy("<f8", "(6, 1)", &body(1));
    judge.accepts(&first, &with(column), [&body(1), &body(100)], column);
    let row = "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 6, 1), }";
    let first = npy("<f8", "(1, 6, 1)", &body(1));
    judge.accepts(&first, &with(row), [&body(1), &body(100)], row);
    judge.finish(5);
}

/// The header as each of the known writers spells it, for an array that another writer began.
#[test]
fn each_known_writers_header_is_accepted() {
    require!(fuse, python);
    let mut judge = Judge::new();
    let plain = npy("<f8", "(3, 2)", &body(1));
    // Rows of two numbers; from a writer of columns, the first three numbers are a column.
    let columns = |first: u8| -> Vec<u8> {
        let rows = body(first);
        let number = |row: usize, column: usize| rows[16 * row + 8 * column..][..8].to_vec();
        (0..6).flat_map(|n| number(n % 3, n / 3)).collect()
    };
    let swapped = |first: u8| -> Vec<u8> {
        let rows = body(first);
        rows.chunks(8)
            .flat_map(|number| number.iter().rev().copied())
            .collect()
    };
    let mut count = 0;
    // As it comes, with C order: the view is what was written.
    for (writer, major, align, text) in [
        (
            "numpy, xtensor, npy-append-array",
            1,
            64,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }",
        ),
        (
            "Open Ephys",
            1,
            64,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2,), }",
        ),
        (
            "ndarray-npy",
            1,
            64,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}",
        ),
        (
            "npyz",
            1,
            64,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2, ), }",
        ),
        (
            "cnpy, RcppCNPy",
            1,
            16,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }",
        ),
        (
            "npyio",
            2,
            1,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }",
        ),
        (
            "Arraymancer, NumSharp",
            1,
            16,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }",
        ),
        (
            "JetBrains npy",
            1,
            16,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3,2, )}",
        ),
        (
            "npyjs",
            1,
            8,
            "{'descr':'<f8','fortran_order':False,'shape':(3,2)}",
        ),
        (
            "npy_array",
            1,
            128,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3,2,), }",
        ),
        (
            "ClickHouse",
            2,
            64,
            "{'descr':'<f8','fortran_order':False,'shape':(3,2,),}",
        ),
        (
            "one-offs",
            1,
            1,
            "{\"descr\": \"float64\", \"fortran_order\": False, \"shape\": (3, 2)}",
        ),
        (
            "Python 2",
            1,
            16,
            "{u'descr': u'<f8', u'fortran_order': False, u'shape': (3L, 2L), }",
        ),
    ] {
        let chunk = raw(major, &padded(major, align, text), &body(100));
        judge.accepts(&plain, &chunk, [&body(1), &body(100)], writer);
        count += 1;
    }
    for (writer, text) in [
        (
            "tfjs-npy, which ends no line",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }     ",
        ),
        (
            "numir, which pads nothing",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }\n",
        ),
    ] {
        let chunk = raw(1, text, &body(100));
        judge.accepts(&plain, &chunk, [&body(1), &body(100)], writer);
        count += 1;
    }
    // One byte a number.
    let bytes = npy("|u1", "(48,)", &body(1));
    for (writer, text) in [
        (
            "cnpy",
            "{'descr': '<u1', 'fortran_order': False, 'shape': (48,), }",
        ),
        (
            "TinyNPY, gorgonia, npy-ocaml",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (48), }",
        ),
        (
            "one-offs",
            "{'descr': 'uint8', 'fortran_order': False, 'shape': (48,)}",
        ),
        (
            "Fortran stdlib",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (48, ), }",
        ),
        (
            "npy-matlab",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (48), }",
        ),
    ] {
        let chunk = raw(1, &padded(1, 16, text), &body(100));
        judge.accepts(&bytes, &chunk, [&body(1), &body(100)], writer);
        count += 1;
    }
    let signed = npy("|i1", "(48,)", &body(1));
    let libnpy = "{'descr': '|i1', 'fortran_order': False, 'shape': (48,), }";
    let chunk = raw(1, &padded(1, 16, libnpy), &body(100));
    judge.accepts(&signed, &chunk, [&body(1), &body(100)], "libnpy");
    let bfloat = npy("|V2", "(24,)", &body(1));
    let jax = "{'descr': '<V2', 'fortran_order': False, 'shape': (24,), }";
    let chunk = raw(1, &padded(1, 64, jax), &body(100));
    judge.accepts(&bfloat, &chunk, [&body(1), &body(100)], "jax, ml_dtypes");
    count += 2;
    // Columns and the other byte order are converted.
    for (writer, major, text, stored) in [
        (
            "npy-matlab",
            1,
            padded(
                1,
                16,
                "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 2), }",
            ),
            columns(100),
        ),
        (
            "NPZ.jl",
            1,
            "{'descr': '<f8', 'fortran_order': True, 'shape': (3,2), }   ".to_owned(),
            columns(100),
        ),
        (
            "NPY-for-Fortran",
            2,
            padded(
                2,
                2,
                "{'descr': '<f8', 'fortran_order': True, 'shape': (3,2,), }",
            ),
            columns(100),
        ),
        (
            "Fortran stdlib",
            1,
            padded(
                1,
                64,
                "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 2, ), }",
            ),
            columns(100),
        ),
        (
            "JetBrains npy",
            1,
            padded(
                1,
                16,
                "{'descr': '>f8', 'fortran_order': False, 'shape': (3,2, )}",
            ),
            swapped(100),
        ),
    ] {
        let dataset = judge.mount.path(format!("converted-{writer}"));
        fs::create_dir(&dataset).unwrap();
        put(&dataset.join("0.npy"), &plain).unwrap();
        let chunk = raw(major, &text, &stored);
        put(&dataset.join("1.npy"), &chunk).unwrap();
        let array = fs::read(dataset.join("data.npy")).unwrap();
        assert!(array.ends_with(&[body(1), body(100)].concat()), "{writer}");
        // A retry is settled (P3).
        put(&dataset.join("1.npy"), &chunk).unwrap();
        assert_eq!(
            fs::read(dataset.join("data.npy")).unwrap(),
            array,
            "{writer}"
        );
    }
    // ClickHouse's strings are as wide as the widest of the chunk: another width is another dtype.
    let strings = judge.mount.path("strings");
    fs::create_dir(&strings).unwrap();
    put(&strings.join("0.npy"), &npy("|S6", "(8,)", &body(40))).unwrap();
    judge.mount.expect_warning("strings/1.npy: EINVAL");
    let wider = raw(
        2,
        &padded(2, 64, "{'descr':'|S8','fortran_order':False,'shape':(6,),}"),
        &body(40),
    );
    assert_eq!(errno(put(&strings.join("1.npy"), &wider)), Errno::EINVAL);
    refused(
        &strings.join(".npyfs/log"),
        "1",
        "dtype '|S8', this dataset holds '|S6'",
    );
    judge.finish_with(count, 6);
}

#[test]
fn what_is_refused_is_refused_with_its_reason() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("0.npy"), &npy("<f8", "(3, 2)", &body(1))).unwrap();
    let text = |text: &str| raw(1, &padded(1, 64, text), &body(100));
    let descr = |descr: &str| described(descr, "(3, 2)", &body(100));
    let shape = |shape: &str| {
        text(&format!(
            "{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
        ))
    };
    let whole = npy("<f8", "(3, 2)", &body(100));
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend((2u32 << 20).to_le_bytes());
    long.resize(4096, b' ');
    let long_body = [body(0), body(0)].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "not-npy",
            b"PK\x03\x04, a zip file, and not a .npy one".to_vec(),
            "does not begin with",
        ),
        (
            "text",
            b"1.0 2.0 3.0\n4.0 5.0 6.0\n".to_vec(),
            "does not begin with",
        ),
        (
            "version",
            {
                let mut it = whole.clone();
                it[6] = 4;
                it
            },
            "version 4.0",
        ),
        (
            "short",
            whole[..whole.len() - 20].to_vec(),
            "ends after 1 of 3 rows: 20 of 176 bytes are missing, 2 rows",
        ),
        (
            "within-header",
            whole[..50].to_vec(),
            "ends after 50 bytes, within its header",
        ),
        (
            "long",
            [whole.clone(), vec![0]].concat(),
            "177 bytes and more, its header says 176",
        ),
        ("list", shape("[3, 2]"), "tuple"),
        (
            "json",
            text("{\"descr\": \"<f8\", \"fortran_order\": false, \"shape\": [3, 2]}"),
            "false",
        ),
        (
            "missing",
            text("{'descr': '<f8', 'shape': (3, 2)}"),
            "fortran_order",
        ),
        (
            "extra",
            text("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), 'more': 1}"),
            "more",
        ),
        (
            "twice",
            text("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}"),
            "descr",
        ),
        ("no-dict", text("('<f8', False, (3, 2))"), "dict"),
        (
            "garbage",
            text("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), } x"),
            "goes on after its dictionary: x",
        ),
        ("negative", shape("(-3, 2)"), "-3"),
        ("boolean", shape("(True, 2)"), "True"),
        ("float", shape("(3.0, 2)"), "3.0"),
        ("huge", shape("(3, 99999999999999999999)"), "2^63"),
        ("overflow", shape("(4294967296, 4294967296)"), "2^63"),
        ("0-d", shape("()"), "0-d"),
        ("object", descr("'|O'"), "object"),
        ("object-field", descr("[('a', '|O')]"), "object"),
        ("unknown", descr("'<q9'"), "<q9"),
        ("header-too-long", long, "the limit is 1048576 bytes"),
        (
            "dtype",
            npy("<f4", "(3, 2)", &body(0)[..24]),
            "dtype '<f4', this dataset holds '<f8'",
        ),
        (
            "string",
            npy("|S8", "(3, 2)", &body(0)),
            "dtype '|S8', this dataset holds '<f8'",
        ),
        (
            "integer",
            npy("<i8", "(3, 2)", &body(0)),
            "dtype '<i8', this dataset holds '<f8'",
        ),
        ("field", descr("[('a', '<f8')]"), "this dataset holds '<f8'"),
        (
            "row-shape",
            npy("<f8", "(2, 3)", &body(0)),
            "rows of shape (3,), this dataset holds rows of shape (2,)",
        ),
        (
            "rank",
            npy("<f8", "(6,)", &body(0)),
            "rows of shape (), this dataset holds rows of shape (2,)",
        ),
        (
            "rank-3",
            npy("<f8", "(3, 2, 1)", &body(0)),
            "rows of shape (2, 1), this dataset holds rows of shape (2,)",
        ),
        (
            "row-too-many",
            npy("<f8", "(3, 4)", &long_body),
            "rows of shape (4,), this dataset holds rows of shape (2,)",
        ),
    ];
    let log = dataset.join(".npyfs/log");
    for (name, chunk, reason) in &cases {
        let path = dataset.join(format!("{name}.npy"));
        mount.expect_warning(&format!("ds/{name}.npy: EINVAL"));
        assert_eq!(errno(put(&path, chunk)), Errno::EINVAL, "{name}");
        assert!(!path.exists(), "{name}");
        refused(&log, name, reason);
        // The same by rename: mv misreports EINVAL.
        let renamed = format!("renamed-{name}");
        let path = dataset.join("x.tmp");
        put(&path, chunk).unwrap();
        mount.expect_warning(&format!("ds/{renamed}.npy: EBADMSG"));
        let done = fs::rename(&path, dataset.join(format!("{renamed}.npy")));
        assert_eq!(errno(done), Errno::EBADMSG, "{name}");
        refused(&log, &renamed, reason);
        fs::remove_file(path).unwrap();
    }
    // A length without a comma is taken for one only if the size fits.
    let vectors = mount.path("vectors");
    fs::create_dir(&vectors).unwrap();
    mount.expect_warning("vectors/7.npy: EINVAL");
    let chunk = described("'<f8'", "(7)", &body(0));
    assert_eq!(errno(put(&vectors.join("7.npy"), &chunk)), Errno::EINVAL);
    refused(
        &vectors.join(".npyfs/log"),
        "7",
        "ends after 6 of 7 rows: 8 of 184 bytes are missing, 1 rows",
    );
    let array = fs::read(dataset.join("data.npy")).unwrap();
    assert_eq!(array.len(), 128 + 48);
    let names: Vec<_> = fs::read_dir(&dataset).unwrap().collect();
    assert_eq!(names.len(), 2);
}

/// The last line of the log that is about this chunk gives this reason.
#[track_caller]
fn refused(log: &Path, name: &str, reason: &str) {
    let log = fs::read_to_string(log).unwrap();
    let line = log
        .lines()
        .rfind(|line| line.contains(&format!(" {name}.npy refused: ")));
    let line = line.unwrap_or_else(|| panic!("{name} is not in the log:\n{log}"));
    let said = line.split_once(" refused: ").unwrap().1;
    assert!(!said.is_empty() && said.contains(reason), "{name}: {said}");
}
