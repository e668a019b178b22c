use super::*;
use crate::npy::strategy;
use proptest::prelude::*;

/// A version 1.0 header with this text and nothing added.
fn v1(text: &str) -> Vec<u8> {
    let text = Version::V1.encode(text).unwrap();
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&text);
    bytes
}

/// A version 2.0 or 3.0 header.
fn v23(major: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend_from_slice(&[major, 0]);
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    match Header::parse(bytes)? {
        Prefix::Complete(header) => Ok(header),
        Prefix::Incomplete { need } => panic!("{need} bytes needed: {}", bytes.escape_ascii()),
    }
}

fn dtype(descr: &str) -> Dtype {
    Dtype::from_literal(&Literal::parse(descr).unwrap().0).unwrap()
}

/// What each of the writers that were surveyed emits, and what it means.
#[test]
fn every_known_writer_is_understood() {
    #[rustfmt::skip]
    let table: &[(&str, &str, &str, &[u64], bool)] = &[
        ("numpy", "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }        \n", "'<f8'", &[2, 3], false),
        ("Open Ephys", "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3,), }  \n", "'<i2'", &[2, 3], false),
        ("Open Ephys fields", "{'descr': [('a', '<i2', (4,)), ('b', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", "[('a', '<i2', (4,)), ('b', '<f4')]", &[2], false),
        ("ndarray-npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}     \n", "'<f8'", &[2, 3], false),
        ("npyz", "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, ), }\n", "'<f8'", &[2, 3], false),
        ("cnpy", "{'descr': '<u1', 'fortran_order': False, 'shape': (2, 3), }  \n", "'|u1'", &[2, 3], false),
        ("cnpy bool", "{'descr': '<b1', 'fortran_order': False, 'shape': (2,), }  \n", "'|b1'", &[2], false),
        ("libnpy", "{'descr': '|i1', 'fortran_order': False, 'shape': (2,), }  \n", "'|i1'", &[2], false),
        ("TinyNPY", "{'descr': '<f4', 'fortran_order': False, 'shape': (6), }    \n", "'<f4'", &[6], false),
        ("npy-matlab", "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }\n", "'<f8'", &[2, 3], true),
        ("npy-matlab vector", "{'descr': '<f8', 'fortran_order': True, 'shape': (7, 1), }\n", "'<f8'", &[7, 1], false),
        ("npy-matlab scalar", "{'descr': '<f8', 'fortran_order': True, 'shape': (5), }\n", "'<f8'", &[5], false),
        ("NPZ.jl", "{'descr': '<c16', 'fortran_order': True, 'shape': (2, 3, 4), }  ", "'<c16'", &[2, 3, 4], true),
        ("Fortran stdlib", "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3, ), }\n", "'<f4'", &[2, 3], true),
        ("Fortran stdlib 1-D", "{'descr': '<f4', 'fortran_order': True, 'shape': (2, ), }\n", "'<f4'", &[2], false),
        ("JetBrains npy", "{'descr': '>i4', 'fortran_order': False, 'shape': (2,3, )}\n", "'>i4'", &[2, 3], false),
        ("npyjs", "{'descr':'<f4','fortran_order':False,'shape':(2,3)}", "'<f4'", &[2, 3], false),
        ("tfjs-npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,3,), }   ", "'<f4'", &[2, 3], false),
        ("npy_array", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,3,), }   \n", "'<f4'", &[2, 3], false),
        ("ClickHouse", "{'descr':'|S3','fortran_order':False,'shape':(3,),}     \n", "'|S3'", &[3], false),
        ("one-off, double quotes", "{\"descr\": \"uint8\", \"fortran_order\": False, \"shape\": (2, 3)}", "'|u1'", &[2, 3], false),
        ("one-off, float32", "{'descr': 'float32', 'fortran_order': False, 'shape': (2, 3)}\n      ", "'<f4'", &[2, 3], false),
        ("one-off, bool", "{'descr': 'bool', 'fortran_order': False, 'shape': (2,)}\r\n", "'|b1'", &[2], false),
        ("Python 2", "{u'descr': '<f8', u'fortran_order': False, u'shape': (2L,), }\n", "'<f8'", &[2], false),
        ("jax", "{'descr': '<V2', 'fortran_order': False, 'shape': (2, 3), }\n", "'|V2'", &[2, 3], false),
        ("any order", "{'shape': (2,), 'fortran_order': False, 'descr': '<f8'}", "'<f8'", &[2], false),
        ("any blanks", "  \t{ 'descr'\r\n:\t'<f8' ,'fortran_order' : False,'shape':( 2 ,\n3 ) , } \n\0\0", "'<f8'", &[2, 3], false),
        ("npyfs", "{'descr': '<f8', 'fortran_order': False, 'shape': (                12345, 16), }\n", "'<f8'", &[12345, 16], false),
        ("npyfs, halfway", "{'descr': '<f8', 'fortran_order': False, 'shape': (             00000000, 16), }\n", "'<f8'", &[0, 16], false),
        ("parentheses", "({'descr': ('<f8'), 'fortran_order': (True), 'shape': ((2), 3)})", "'<f8'", &[2, 3], true),
        ("no rows", "{'descr': '<f8', 'fortran_order': True, 'shape': (0, 3), }\n", "'<f8'", &[0, 3], false),
        ("rows of nothing", "{'descr': '<f8', 'fortran_order': True, 'shape': (5, 0, 7), }\n", "'<f8'", &[5, 0, 7], false),
        ("latin-1", "{'descr': [('\u{e9}', '<f8')], 'fortran_order': False, 'shape': (2,), }\n", "[('é', '<f8')]", &[2], false),
    ];
    for (writer, text, descr, shape, fortran) in table {
        for bytes in [v1(text), v23(2, &v1(text)[10..])] {
            let header = parse(&bytes).unwrap_or_else(|error| panic!("{writer}: {error}"));
            assert_eq!(header.dtype(), &dtype(descr), "{writer}");
            assert_eq!(header.shape(), *shape, "{writer}");
            assert_eq!(header.rows(), shape[0], "{writer}");
            assert_eq!(header.row_shape(), &shape[1..], "{writer}");
            assert_eq!(header.fortran_order(), *fortran, "{writer}");
            assert_eq!(header.len(), bytes.len() as u64, "{writer}");
            let items: u64 = shape.iter().product();
            assert_eq!(header.body_bytes(), items * header.dtype().itemsize());
            assert_eq!(header.row_bytes() * header.rows(), header.body_bytes());
            assert_eq!(header.file_bytes(), header.len() + header.body_bytes());
        }
    }
    let utf8 = "{'descr': [('日本', '<f8')], 'fortran_order': False, 'shape': (2,), }\n";
    let header = parse(&v23(3, utf8.as_bytes())).unwrap();
    assert_eq!(header.dtype().descr(), "[('日本', '<f8')]");
}

#[test]
fn each_wrong_header_is_refused_with_its_own_sentence() {
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("{'descr': '<f8', 'fortran_order': False, 'shape': [2, 3]}", "'shape' is [2, 3], not a tuple"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': ([2, 3])}", "'shape' is [2, 3], not a tuple"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': 5}", "'shape' is 5, not a tuple"),
        ("{'descr': '<f8', 'fortran_order': false, 'shape': (2,)}", "'fortran_order' is false"),
        ("{'descr': '<f8', 'fortran_order': 0, 'shape': (2,)}", "'fortran_order' is 0"),
        ("{'descr': '<f8', 'fortran_order': None, 'shape': (2,)}", "'fortran_order' is None"),
        ("{'fortran_order': False, 'shape': (2,)}", "no key 'descr'"),
        ("{'descr': '<f8', 'shape': (2,)}", "no key 'fortran_order'"),
        ("{'descr': '<f8', 'fortran_order': False}", "no key 'shape'"),
        ("{}", "no key 'descr'"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'x': 1}", "a key 'x'"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'shape': (2,)}", "'shape' twice"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 3: 1}", "not a string: 3"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, -3)}", "negative dimension -3"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 3)}", "boolean dimension True"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2.0, 3)}", "dimension 2.0 that is not"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': ('2', 3)}", "dimension '2' that is not"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, None)}", "dimension None that is not"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': ('2')}", "dimension '2' that is not"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", "0-d"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,)}", "2^63"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846975,)}", "2^63"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4)}", "2^63"),
        ("{'descr': '|S0', 'fortran_order': False, 'shape': (9223372036854775808,)}", "2^63"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999,)}", "2^63"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0000000007,)}", "leading zeros"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1       5,)}", "a comma or"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "Python objects"),
        ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,)}", "Python objects"),
        ("{'descr': ('<f8', (2,)), 'fortran_order': False, 'shape': (2,)}", "sub-array"),
        ("{'descr': '<f7', 'fortran_order': False, 'shape': (2,)}", "'<f7' is unknown"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)", "a comma or a closing brace"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)} x", "after its dictionary: x"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}\n{}", "after its dictionary: {}"),
        ("[1, 2]", "not a dictionary but [1, 2]"),
        ("\u{e9}", "a value at character 0"),
        ("                       \n", "blank"),
        ("\0\0\0\0", "blank"),
        ("", "blank"),
    ];
    for (text, sentence) in table {
        let error = parse(&v1(text)).expect_err(text).to_string();
        assert!(error.contains(sentence), "{text}: {error}");
    }
    let rank = |rank: usize| {
        let shape = "1,".repeat(rank);
        parse(&v1(&format!(
            "{{'descr':'|u1','fortran_order':False,'shape':({shape})}}"
        )))
    };
    assert_eq!(rank(32).unwrap().shape().len(), 32);
    assert_eq!(rank(33), Err(HeaderError::Rank(33)));
    assert_eq!(parse(&v23(3, b"{'\xff'}")), Err(HeaderError::NotUtf8));
    let error = crate::Error::from(HeaderError::NoRows);
    assert_eq!(error.errno(), crate::error::Errno::EINVAL);
}

#[test]
fn a_wrong_start_is_refused_at_its_first_wrong_byte() {
    for len in 0..6 {
        let mut bytes = MAGIC[..len].to_vec();
        assert_eq!(Header::parse(&bytes), Ok(Prefix::Incomplete { need: 10 }));
        bytes.push(b'x');
        assert_eq!(Header::parse(&bytes), Err(HeaderError::NotNpy), "{len}");
    }
    assert_eq!(Header::parse(b"PK\x03\x04"), Err(HeaderError::NotNpy));
    for blank in [
        b"\0".as_slice(),
        b"   ",
        b"\0\0\0\0\0\0\0\0\0",
        b"          ",
    ] {
        assert_eq!(Header::parse(blank), Err(HeaderError::Blank));
    }
    let after = |bytes: &[u8]| Header::parse(&[MAGIC.as_slice(), bytes].concat());
    for (bytes, major, minor) in [
        (b"\x00".as_slice(), 0, 0),
        (b"\x04", 4, 0),
        (b"\x01\x01", 1, 1),
        (b"\x02\x07 ", 2, 7),
    ] {
        assert_eq!(after(bytes), Err(HeaderError::Version { major, minor }));
    }
    assert_eq!(after(b"\x01"), Ok(Prefix::Incomplete { need: 10 }));
    assert_eq!(after(b"\x02\x00\xff"), Ok(Prefix::Incomplete { need: 12 }));
    assert_eq!(
        after(b"\x01\x00\x76\x00"),
        Ok(Prefix::Incomplete { need: 128 })
    );
    assert_eq!(
        after(b"\x02\x00\xf4\xff\x0f\x00"),
        Ok(Prefix::Incomplete { need: MAX_HEADER })
    );
    assert_eq!(
        after(b"\x03\x00\xf5\xff\x0f\x00"),
        Err(HeaderError::TooLong((1 << 20) + 1))
    );
    assert_eq!(
        after(b"\x02\x00\xff\xff\xff\xff"),
        Err(HeaderError::TooLong(0x1_0000_000b))
    );
}

/// Real headers of all three versions.
fn samples() -> Vec<Vec<u8>> {
    let fields = "[(('t', 'n'), '>M8[25us]', (2, 3)), ('', '|V3'), ('ü', [('x', '<U5')])]";
    vec![
        Header::encode(&dtype("'<f8'"), &[2, 3]).unwrap(),
        Header::encode(&dtype(fields), &[2, 3]).unwrap(),
        Header::encode(&dtype("[('日', '<f8')]"), &[12]).unwrap(),
        v23(2, b"{\"descr\":'f8','fortran_order':True,'shape':(2L,3,),}"),
    ]
}

#[test]
fn a_header_cut_anywhere_is_incomplete_and_says_how_many_bytes_help() {
    for whole in samples() {
        let body = [&whole, b"body".as_slice()].concat();
        let expected = parse(&whole).unwrap();
        for cut in 0..whole.len() {
            match Header::parse(&body[..cut]) {
                Ok(Prefix::Incomplete { need }) => {
                    assert!(cut < need && need <= whole.len(), "{cut}: {need}");
                }
                other => panic!("{cut}: {other:?}"),
            }
        }
        assert_eq!(parse(&whole), Ok(expected.clone()));
        assert_eq!(parse(&body), Ok(expected));
    }
}

#[test]
fn no_changed_byte_makes_a_header_panic() {
    for whole in samples() {
        for i in 0..whole.len() {
            for with in (0..=255).step_by(5).chain(*b"'\"\\(),[]{}:0-9L \n\0<O") {
                let mut bytes = whole.clone();
                bytes[i] = with;
                if let Err(error) = Header::parse(&bytes) {
                    let sentence = error.to_string();
                    assert!(
                        sentence.len() < 600 && !sentence.contains('\n'),
                        "{sentence}"
                    );
                }
            }
        }
    }
}

#[test]
fn encoding_writes_what_numpy_writes() {
    let text = |descr: &str, shape: &[u64]| {
        let bytes = Header::encode(&dtype(descr), shape).unwrap();
        assert_eq!(bytes.len() % 64, 0);
        assert_eq!(bytes.last(), Some(&b'\n'));
        let text = String::from_utf8_lossy(&bytes[10..]).into_owned();
        (bytes[6], bytes.len(), text.trim_end().to_owned())
    };
    let plain = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }";
    assert_eq!(text("'f8'", &[2, 3]), (1, 128, plain.into()));
    let plain = "{'descr': '|b1', 'fortran_order': False, 'shape': (7,), }";
    assert_eq!(text("'?'", &[7]), (1, 128, plain.into()));
    // numpy leaves 21 digits of room for the first dimension. Where that and the newline reach
    // the boundary exactly, it adds another 64 bytes.
    let fits = format!("[('{}', '<f8')]", "x".repeat(29));
    let over = format!("[('{}', '<f8')]", "x".repeat(30));
    let (_, fits, _) = text(&fits, &[2, 3]);
    let (_, over, _) = text(&over, &[2, 3]);
    assert_eq!((fits, over), (128, 192));
    let names: Vec<String> = (0..5000).map(|i| format!("('{i:05}', '<f8')")).collect();
    assert_eq!(text(&format!("[{}]", names.join(", ")), &[3]).0, 2);
    assert_eq!(text("[('日', '<f8')]", &[3]).0, 3);
    assert_eq!(text("[('é', '<f8')]", &[3]).0, 1);
}

#[test]
fn what_cannot_be_read_is_not_encoded() {
    let f8 = dtype("'<f8'");
    assert_eq!(Header::encode(&f8, &[]), Err(HeaderError::NoRows));
    assert_eq!(Header::encode(&f8, &[1; 33]), Err(HeaderError::Rank(33)));
    let huge = Header::encode(&f8, &[1 << 60]);
    assert_eq!(huge, Err(HeaderError::TooLarge));
    let fields: Vec<String> = (0..70000).map(|i| format!("('{i:05}', '?')")).collect();
    let long = Header::encode(&dtype(&format!("[{}]", fields.join(", "))), &[1]);
    assert!(matches!(long, Err(HeaderError::TooLong(_))), "{long:?}");
}

proptest! {
    #[test]
    fn any_encoded_header_reads_back(
        literal in strategy::descr(),
        shape in prop::collection::vec(0..1000_u64, 1..5),
    ) {
        let dtype = Dtype::from_literal(&literal).unwrap();
        let bytes = Header::encode(&dtype, &shape).unwrap();
        let header = parse(&bytes).unwrap();
        prop_assert_eq!(header.dtype(), &dtype);
        prop_assert_eq!(header.shape(), shape.as_slice());
        prop_assert_eq!(header.len(), bytes.len() as u64);
        prop_assert!(!header.fortran_order());
    }

    #[test]
    fn no_text_panics(text in "\\{('descr'|'shape'|'fortran_order'|[:,(){}0-9' a-zL\\[\\]]){0,20}\\}?") {
        let _ = Header::parse(&v1(&text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), major in 1..4_u8) {
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&v23(major, &bytes));
    }
}
