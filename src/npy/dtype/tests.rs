use super::*;
use crate::npy::strategy;
use proptest::prelude::*;

fn dtype(descr: &str) -> Result<Dtype, HeaderError> {
    Dtype::from_literal(&Literal::parse(descr)?.0)
}

/// Each spelling, numpy's own spelling of it, and its bytes.
#[cfg(target_endian = "little")]
const SPELLINGS: &[(&str, &str, u64)] = &[
    ("'<f8'", "'<f8'", 8),
    ("'=f8'", "'<f8'", 8),
    ("'f8'", "'<f8'", 8),
    ("'|f8'", "'<f8'", 8),
    ("'f08'", "'<f8'", 8),
    ("'float64'", "'<f8'", 8),
    ("'float'", "'<f8'", 8),
    ("'d'", "'<f8'", 8),
    ("'>d'", "'>f8'", 8),
    ("'>f8'", "'>f8'", 8),
    ("'<e'", "'<f2'", 2),
    ("'float32'", "'<f4'", 4),
    ("'float16'", "'<f2'", 2),
    ("'f12'", "'<f12'", 12),
    ("'g'", "'<f16'", 16),
    ("'|i4'", "'<i4'", 4),
    ("'int64'", "'<i8'", 8),
    ("'int'", "'<i8'", 8),
    ("'<i1'", "'|i1'", 1),
    ("'>i1'", "'|i1'", 1),
    ("'b'", "'|i1'", 1),
    ("'<u1'", "'|u1'", 1),
    ("'|u1'", "'|u1'", 1),
    ("'uint8'", "'|u1'", 1),
    ("'B'", "'|u1'", 1),
    ("'uint16'", "'<u2'", 2),
    ("'>h'", "'>i2'", 2),
    ("'Q'", "'<u8'", 8),
    ("'bool'", "'|b1'", 1),
    ("'?'", "'|b1'", 1),
    ("'<?'", "'|b1'", 1),
    ("'<b1'", "'|b1'", 1),
    ("'|b1'", "'|b1'", 1),
    ("'b1'", "'|b1'", 1),
    ("'complex64'", "'<c8'", 8),
    ("'complex128'", "'<c16'", 16),
    ("'>F'", "'>c8'", 8),
    ("'c32'", "'<c32'", 32),
    ("'S5'", "'|S5'", 5),
    ("'<S5'", "'|S5'", 5),
    ("'a5'", "'|S5'", 5),
    ("'|S0'", "'|S0'", 0),
    ("'U7'", "'<U7'", 28),
    ("'>U7'", "'>U7'", 28),
    ("'<V2'", "'|V2'", 2),
    ("'>V4'", "'|V4'", 4),
    ("'V2147483647'", "'|V2147483647'", 2147483647),
    ("'M8'", "'<M8'", 8),
    ("'M8[generic]'", "'<M8'", 8),
    ("'<M8[ns]'", "'<M8[ns]'", 8),
    ("'<M8[1ns]'", "'<M8[ns]'", 8),
    ("'datetime64[ms]'", "'<M8[ms]'", 8),
    ("'timedelta64'", "'<m8'", 8),
    ("'>m8[25us]'", "'>m8[25us]'", 8),
    ("'<M8[μs]'", "'<M8[us]'", 8),
    ("('<f8')", "'<f8'", 8),
    ("[]", "[]", 0),
    (
        "[('a', 'f4'), ('b', '>i2')]",
        "[('a', '<f4'), ('b', '>i2')]",
        6,
    ),
    (
        "[('a', 'f4'), ('', 'V4'), ('', '|V2'), ('b', '?')]",
        "[('a', '<f4'), ('', '|V6'), ('b', '|b1')]",
        11,
    ),
    ("[('', '|V4')]", "[('', '|V4')]", 4),
    ("[('', '<f4', (2,))]", "[('', '|V8')]", 8),
    ("[('', '<f4')]", "[('', '<f4')]", 4),
    ("[('', [('x', '<i4')])]", "[('', [('x', '<i4')])]", 4),
    (
        "[('f0', '<i4'), ('f1', 'S3')]",
        "[('f0', '<i4'), ('f1', '|S3')]",
        7,
    ),
    (
        "[(('title', 'n'), '<i4', (2, 3))]",
        "[(('title', 'n'), '<i4', (2, 3))]",
        24,
    ),
    ("[('a', '<i4', 2)]", "[('a', '<i4', (2,))]", 8),
    ("[('a', '<i4', (2))]", "[('a', '<i4', (2,))]", 8),
    ("[('a', '<i4', ())]", "[('a', '<i4')]", 4),
    ("[('a', '<i4', (0,))]", "[('a', '<i4', (0,))]", 0),
    ("[('a', ('<i4', (2,)))]", "[('a', '<i4', (2,))]", 8),
    (
        "[('a', ('<i4', (2,)), (3,))]",
        "[('a', ('<i4', (2,)), (3,))]",
        24,
    ),
    (
        "[('o', [('i', '<u2'), ('j', 'U1')], (2,))]",
        "[('o', [('i', '<u2'), ('j', '<U1')], (2,))]",
        12,
    ),
    (
        "[('it\\'s', '|u1'), ('ü', '|u1'), ('日', '|u1')]",
        "[(\"it's\", '|u1'), ('ü', '|u1'), ('日', '|u1')]",
        3,
    ),
];

#[test]
#[cfg(target_endian = "little")]
fn spellings_are_read_by_meaning_and_written_as_numpy_writes_them() {
    for (spelling, canonical, size) in SPELLINGS {
        let read = dtype(spelling).unwrap_or_else(|error| panic!("{spelling}: {error}"));
        assert_eq!(read.descr(), *canonical, "{spelling}");
        assert_eq!(read.itemsize(), *size, "{spelling}");
        assert_eq!(dtype(canonical).as_ref(), Ok(&read), "{spelling}");
    }
}

#[test]
fn what_is_no_dtype_is_refused_with_its_own_sentence() {
    for (descr, sentence) in [
        ("'|O'", "holds Python objects"),
        ("'O'", "holds Python objects"),
        ("'object'", "holds Python objects"),
        (
            "[('a', '<f8'), ('b', [('c', '|O8')])]",
            "holds Python objects",
        ),
        ("('<f8', (2,))", "is a sub-array"),
        ("'f3'", "unknown"),
        ("'i16'", "unknown"),
        ("'b2'", "unknown"),
        ("'c4'", "unknown"),
        ("''", "unknown"),
        ("'<'", "unknown"),
        ("'!f8'", "unknown"),
        ("'<<f8'", "unknown"),
        ("'<float64'", "unknown"),
        ("'f8 '", "unknown"),
        ("'f+8'", "unknown"),
        ("'S-5'", "unknown"),
        ("'f4,i4'", "unknown"),
        ("'2f4'", "unknown"),
        ("'é'", "unknown"),
        ("'<é'", "unknown"),
        ("'M4'", "unknown"),
        ("'T16'", "unknown"),
        ("'S'", "no width"),
        ("'<U'", "no width"),
        ("'str'", "no width"),
        ("'V'", "no width"),
        ("'M8[parsec]'", "unit"),
        ("'M8[0s]'", "unit"),
        ("'M8[-1s]'", "unit"),
        ("'M8[D/2]'", "unit"),
        ("'M8[4294967296s]'", "unit"),
        ("'M8[ns'", "unit"),
        ("'V2147483648'", "2^31"),
        ("'V99999999999999999999999'", "2^31"),
        ("'U536870912'", "2^31"),
        ("[('a', 'V2000000000'), ('b', 'V2000000000')]", "2^31"),
        (
            "[('a', '<f8', (4294967296, 4294967296, 4294967296))]",
            "2^31",
        ),
        ("8", "neither a string nor a list"),
        ("None", "neither a string nor a list"),
        ("('<f8',)", "neither a string nor a list"),
        ("[('a', {})]", "neither a string nor a list"),
        ("['<f8']", "has a field"),
        ("[['a', '<f8']]", "has a field"),
        ("[('a',)]", "has a field"),
        ("[('a', '<f8', (2,), 4)]", "has a field"),
        ("[(1, '<f8')]", "has a field named 1"),
        ("[(('t', 1), '<f8')]", "has a field named"),
        ("[(('t', 'u', 'n'), '<f8')]", "has a field named"),
        ("[('a', '<f8'), ('a', '<f4')]", "'a' twice"),
        ("[(('a', 'a'), '<f8')]", "'a' twice"),
        ("[(('b', 'a'), '<f8'), ('b', '<f4')]", "'b' twice"),
        ("[('a', '<f8', (2, -1))]", "shape (2, -1)"),
        ("[('a', '<f8', [2])]", "shape [2]"),
        ("[('a', '<f8', (True,))]", "shape (True,)"),
        ("[('a', '<f8', 2.0)]", "shape 2.0"),
    ] {
        let error = dtype(descr).expect_err(descr).to_string();
        assert!(error.contains(sentence), "{descr}: {error}");
    }
}

#[test]
fn values_are_the_same_whatever_their_byte_order_and_only_then() {
    let base = "[(('t', 'a'), '<f4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]";
    for (other, same) in [
        (
            "[(('t', 'a'), '>f4', (2,)), ('', '|V2'), ('b', [('c', '>c8'), ('d', '>U3')])]",
            true,
        ),
        (
            "[(('u', 'a'), '<f4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[('a', '<f4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'A'), '<f4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'a'), '<f4', (2, 1)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'a'), '<f4', (2,)), ('b', [('c', '<c8'), ('d', '<U3')]), ('', '|V2')]",
            false,
        ),
        (
            "[(('t', 'a'), '<f4', (2,)), ('', '|V3'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'a'), '<f4', (2,)), ('x', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'a'), '<i4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U3')])]",
            false,
        ),
        (
            "[(('t', 'a'), '<f4', (2,)), ('', '|V2'), ('b', [('c', '<c8'), ('d', '<U2')])]",
            false,
        ),
        ("'|V30'", false),
    ] {
        let (base, other) = (dtype(base).unwrap(), dtype(other).unwrap());
        assert_eq!(base.same_values(&other), same, "{other}");
        assert_eq!(other.same_values(&base), same, "{other}");
    }
    let time = |unit: &str| dtype(&format!("'<M8{unit}'")).unwrap();
    assert!(!time("[ns]").same_values(&time("[us]")));
    assert!(!time("[ns]").same_values(&time("")));
    assert!(!time("[2s]").same_values(&time("[s]")));
    assert!(!time("[s]").same_values(&dtype("'<m8[s]'").unwrap()));
}

#[test]
fn swaps_are_the_runs_whose_byte_order_differs() {
    let swaps = |from: &str, to: &str| dtype(from).unwrap().swaps(&dtype(to).unwrap());
    assert_eq!(swaps("'<f8'", "'<f8'"), []);
    assert_eq!(swaps("'<f8'", "'>f8'"), [ByteSwap::run(0, 8, 1)]);
    assert_eq!(swaps("'<f12'", "'>f12'"), [ByteSwap::run(0, 12, 1)]);
    assert_eq!(swaps("'>c32'", "'<c32'"), [ByteSwap::run(0, 16, 2)]);
    assert_eq!(swaps("'>U3'", "'<U3'"), [ByteSwap::run(0, 4, 3)]);
    assert_eq!(swaps("'>U0'", "'<U0'"), []);
    assert_eq!(swaps("'<S8'", "'>S8'"), []);
    assert_eq!(
        swaps(
            "[('a', '>i2'), ('', '|V1'), ('b', '<f4'), ('c', '>f4', (2, 3))]",
            "[('a', '<i2'), ('', '|V1'), ('b', '<f4'), ('c', '<f4', (2, 3))]"
        ),
        [ByteSwap::run(0, 2, 1), ByteSwap::run(7, 4, 6)]
    );
    assert_eq!(
        swaps(
            "[('r', [('a', '|u1'), ('b', '>i4')], (1000000,))]",
            "[('r', [('a', '|u1'), ('b', '<i4')], (1000000,))]"
        ),
        [ByteSwap {
            offset: 0,
            width: 5,
            count: 1000000,
            inner: vec![ByteSwap::run(1, 4, 1)]
        }]
    );
}

proptest! {
    #[test]
    fn any_dtype_reads_back_from_its_own_spelling(literal in strategy::descr()) {
        let read = Dtype::from_literal(&literal).unwrap();
        let again = dtype(&read.descr()).unwrap();
        prop_assert_eq!(&again, &read);
        prop_assert_eq!(again.descr(), read.descr());
        prop_assert_eq!(again.itemsize(), read.itemsize());
        prop_assert!(read.same_values(&again));
        prop_assert!(read.swaps(&again).is_empty());
    }

    #[test]
    fn the_other_byte_order_is_the_same_values_and_swaps_within_the_item(
        literal in strategy::descr(),
    ) {
        let read = Dtype::from_literal(&literal).unwrap();
        let other = Dtype::from_literal(&strategy::flip(&literal)).unwrap();
        prop_assert!(read.same_values(&other));
        let swaps = read.swaps(&other);
        prop_assert_eq!(swaps.is_empty(), read == other);
        prop_assert_eq!(&other.swaps(&read), &swaps);
        if let Some(last) = swaps.last() {
            prop_assert!(last.offset + last.width * last.count <= read.itemsize());
        }
    }

    #[test]
    fn no_text_as_dtype_panics(text in "[<>|=]?[a-zA-Z?]{0,2}[0-9\\[\\]a-zμ]{0,6}") {
        let _ = Dtype::from_literal(&Literal::Str(text));
    }
}
