use super::*;
use crate::npy::literal::Literal;
use crate::npy::{Prefix, strategy};
use proptest::prelude::*;

fn dtype(descr: &str) -> Dtype {
    Dtype::from_literal(&Literal::parse(descr).unwrap().0).unwrap()
}

fn f8(row_shape: &[u64]) -> GrowableHeader {
    GrowableHeader::new(&dtype("'<f8'"), row_shape).unwrap()
}

fn parse(bytes: &[u8]) -> Header {
    match Header::parse(bytes) {
        Ok(Prefix::Complete(header)) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

#[test]
fn a_new_header_is_128_bytes_with_its_count_aligned() {
    let published = f8(&[16]);
    let bytes = published.bytes(12345);
    let text =
        "{'descr': '<f8', 'fortran_order': False, 'shape': (                      12345, 16), }";
    assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
    assert!(
        bytes[10..].starts_with(text.as_bytes()),
        "{}",
        bytes.escape_ascii()
    );
    assert_eq!((bytes.len(), bytes.last()), (128, Some(&b'\n')));
    assert_eq!(published.field.end % 8, 0);
    assert_eq!(parse(&bytes).shape(), [12345, 16]);
    assert_eq!(published.rows(&bytes), Ok(12345));
    assert_eq!(published.row_bytes(), 128);
    assert_eq!(parse(&f8(&[]).bytes(7)).shape(), [7]);
}

#[test]
fn a_long_dtype_takes_the_next_multiple_of_64_and_the_version_it_needs() {
    let fields: Vec<String> = (0..5000).map(|i| format!("('field {i}', '<f8')")).collect();
    let long = dtype(&format!("[{}]", fields.join(", ")));
    for (dtype, version) in [
        (dtype("[('a', '<f8'), ('bc', '<f8'), ('é', '<f8')]"), 1),
        (long, 2),
        (dtype("[('日本', '<f8')]"), 3),
    ] {
        let published = GrowableHeader::new(&dtype, &[3]).unwrap();
        let bytes = published.bytes(5);
        assert_eq!(bytes[6], version);
        assert!(bytes.len().is_multiple_of(64) && bytes.len() >= 128);
        assert_eq!(parse(&bytes).shape(), [5, 3]);
        assert_eq!(parse(&bytes).dtype(), &dtype);
        let adopted = GrowableHeader::adopt(&bytes).unwrap().unwrap();
        assert_eq!(adopted.field, published.field);
        assert_eq!(adopted.header().rows(), 5);
    }
}

#[test]
fn a_header_of_a_given_length_has_exactly_that_or_is_none() {
    let with_len = |len| GrowableHeader::with_len(&dtype("'<f8'"), &[2], len).unwrap();
    for len in [0, 9, 10, 64, 95] {
        assert!(with_len(len).is_none(), "{len}");
    }
    for len in [128, 129, 4096, 4224, 65545, 65546, 1 << 20] {
        let published = with_len(len).unwrap_or_else(|| panic!("{len}"));
        let bytes = published.bytes(9);
        assert_eq!((published.len(), bytes.len() as u64), (len, len));
        assert_eq!(parse(&bytes).len(), len);
        assert_eq!(parse(&bytes).shape(), [9, 2]);
        assert_eq!(published.field.end % 8, 0);
    }
    assert!(with_len((1 << 20) + 1).is_none());
    assert!(with_len(u64::MAX).is_none());
}

/// A version 1.0 header around `before`, `field` and `after`, with the field's end `past`
/// bytes after a multiple of 8.
fn foreign(before: &str, field: &str, past: usize, after: &str) -> Vec<u8> {
    let mut text = before.to_owned();
    while (10 + text.chars().count() + field.len()) % 8 != past {
        text.insert(1, ' ');
    }
    let text = format!("{text}{field}{after}\n");
    Version::V1
        .frame(
            &Version::V1.encode(&text).unwrap(),
            10 + text.chars().count(),
        )
        .unwrap()
        .unwrap()
}

#[test]
fn a_foreign_header_is_adopted_only_with_an_aligned_field_that_numpy_reads() {
    let before = "{'shape': (";
    let after = ", 3), 'descr': [('é', '<f4')], 'fortran_order': False}";
    let adopt = |bytes: &[u8]| GrowableHeader::adopt(bytes).unwrap();
    for field in [
        format!("{:>20}", 7),
        format!("{:>31}", 123456789),
        format!("{:>20}", "0000"),
    ] {
        let bytes = foreign(before, &field, 0, after);
        let adopted = adopt(&bytes).unwrap_or_else(|| panic!("{field}"));
        let rows = field.trim().parse().unwrap();
        assert_eq!(adopted.rows(&bytes), Ok(rows));
        assert_eq!(adopted.header().rows(), rows);
        assert_eq!(parse(&adopted.bytes(u64::MAX / 99)).rows(), u64::MAX / 99);
        assert_eq!(adopted.len(), bytes.len() as u64);
    }
    let seven = format!("{:>20}", 7);
    assert!(adopt(&foreign(before, &format!("{:>19}", 7), 0, after)).is_none());
    for past in 1..8 {
        assert!(adopt(&foreign(before, &seven, past, after)).is_none());
    }
    assert!(adopt(&foreign(before, &format!("{:<20}", 7), 0, after)).is_none());
    assert!(adopt(&foreign(before, &format!("{:0>40}", 0), 0, after)).is_none());
    // 2-D Fortran order has no rows to append to; in 1-D the flag means nothing.
    let fortran = after.replace("False", "True");
    assert!(adopt(&foreign(before, &seven, 0, &fortran)).is_none());
    assert!(adopt(&foreign(before, &seven, 0, &fortran.replace(", 3", ","))).is_some());
    // numpy refuses these.
    assert!(adopt(&foreign(before, &seven, 0, &after.replace(", 3", ""))).is_none());
    assert!(adopt(&foreign(before, &seven, 0, &format!("{after}\0"))).is_none());
    assert!(adopt(&Header::encode(&dtype("'<f8'"), &[7, 3]).unwrap()).is_none());
    let cut = GrowableHeader::adopt(b"\x93NUMPY").unwrap_err();
    assert_eq!(cut, HeaderError::Cut(10));
    assert!(GrowableHeader::adopt(b"").is_err());
}

#[test]
fn rows_refuses_another_header_and_what_is_no_count() {
    let published = f8(&[16]);
    let good = published.bytes(42);
    let end = published.field.end;
    for i in (0..good.len()).filter(|i| !published.field.contains(i)) {
        let mut bytes = good.clone();
        bytes[i] ^= 1;
        assert_eq!(published.rows(&bytes), Err(HeaderError::OtherHeader));
    }
    assert_eq!(published.rows(&good[1..]), Err(HeaderError::OtherHeader));
    assert_eq!(published.rows(b""), Err(HeaderError::OtherHeader));
    for field in [
        "        ",
        "00000042",
        "4     42",
        "      4 ",
        "     -42",
        "      \0\n",
    ] {
        let mut bytes = good.clone();
        bytes[end - 8..end].copy_from_slice(field.as_bytes());
        let error = published.rows(&bytes).unwrap_err();
        assert!(matches!(error, HeaderError::BadCount(_)), "{field}");
    }
    let mut bytes = good;
    bytes[published.field.clone()].fill(b'9');
    assert!(published.rows(&bytes).is_err(), "more than a u64");
}

/// Takes the steps one by one, and from each state, as if a crash had left it, all the others.
fn check(published: &GrowableHeader, old: u64, new: u64) {
    let mut bytes = published.bytes(old);
    let mut steps = published.count_writes(old, new);
    let highest = old.max(new);
    loop {
        let header = parse(&bytes);
        assert_eq!(header.row_shape(), published.row_shape());
        assert_eq!(published.rows(&bytes), Ok(header.rows()));
        assert!(
            header.rows() <= highest,
            "{old} to {new}: {}",
            header.rows()
        );
        let adopted = GrowableHeader::adopt(&bytes).unwrap();
        assert!(adopted.is_some(), "{}", bytes.escape_ascii());
        for target in [new, 5, 100_000_005] {
            let mut bytes = bytes.clone();
            let limit = header.rows().max(target);
            for (at, word) in published.count_writes_from(&bytes, target).unwrap() {
                write(&mut bytes, at, word);
                assert!(parse(&bytes).rows() <= limit);
            }
            assert_eq!(bytes, published.bytes(target));
        }
        let Some((at, word)) = steps.next() else {
            break;
        };
        write(&mut bytes, at, word);
    }
    assert_eq!(bytes, published.bytes(new));
}

fn write(bytes: &mut [u8], at: u64, word: [u8; 8]) {
    assert_eq!(at % 8, 0);
    bytes[at as usize..][..8].copy_from_slice(&word);
}

#[test]
fn every_step_between_boundary_counts_leaves_a_valid_header() {
    let mut counts = vec![0, 1, 5, u64::MAX >> 1, 123_456_789_012_345_678];
    for power in 0..19 {
        let power = 10_u64.pow(power);
        counts.extend([power - 1, power, power + 5, power + 7, 3 * (power / 2)]);
    }
    let published = GrowableHeader::new(&dtype("'|S0'"), &[]).unwrap();
    for &old in &counts {
        for &new in &counts {
            check(&published, old, new);
        }
    }
}

#[test]
fn most_steps_are_one_write() {
    let published = f8(&[16]);
    let steps = |old, new| published.count_writes(old, new).len();
    assert_eq!(steps(7, 7), 0);
    assert_eq!(steps(9, 10), 1);
    assert_eq!(steps(123_456_789, 123_456_790), 1);
    assert_eq!(steps(99_999_999, 100_000_000), 2);
    assert_eq!(steps(99_999_999, 100_000_005), 3);
    assert_eq!(steps(9_999_999_999_999_999, 10_000_000_000_000_007), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_step_between_random_counts_leaves_a_valid_header(
        literal in strategy::descr(),
        row_shape in prop::collection::vec(0..3_u64, 0..3),
        counts in prop::collection::vec((0..u64::MAX >> 12, 0..45_u32), 2),
    ) {
        let dtype = Dtype::from_literal(&literal).unwrap();
        let published = GrowableHeader::new(&dtype, &row_shape).unwrap();
        // Not more rows than the file has bytes for.
        let most = i64::MAX as u64 / published.row_bytes().max(1) / 2;
        let count = |i: usize| (counts[i].0 >> counts[i].1).min(most).max(1);
        if most > 100_000_005 {
            check(&published, count(0), count(1));
        }
    }

    #[test]
    fn no_header_panics_when_adopted(
        at in 0..128_usize, with in any::<u8>(), cut in 0..=128_usize,
    ) {
        let published = f8(&[4]);
        let mut bytes = published.bytes(77);
        bytes[at] = with;
        let _ = GrowableHeader::adopt(&bytes[..cut]);
        let _ = GrowableHeader::adopt(&bytes);
        let _ = published.rows(&bytes);
        let _ = published.count_writes_from(&bytes, 99);
    }
}
