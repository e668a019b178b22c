//! A header with a smaller count of rows, in the place of the old one.

use super::Header;

/// The header `bytes` with the count `rows`, of the same length. `None` where it cannot be: Fortran
/// order, whose first rows are no file's first bytes, or a count of more digits.
pub fn recounted(bytes: &[u8], rows: u64) -> Option<Vec<u8>> {
    let (header, shape) = Header::parse_whole(bytes).ok()?;
    let bytes = bytes.get(..usize::try_from(header.len()).ok()?)?;
    if header.fortran_order() || bytes.get(shape) != Some(&b'(') {
        return None;
    }
    let after = &bytes[shape + 1..];
    let start = shape + 1 + after.iter().take_while(|byte| **byte == b' ').count();
    let digits = bytes[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    let count = rows.to_string();
    let spare = (end - start).checked_sub(count.len())?;
    let (rest, newline) = match bytes[end..].split_last() {
        Some((b'\n', rest)) => (rest, &b"\n"[..]),
        _ => (&bytes[end..], &b""[..]),
    };
    let blanks = vec![b' '; spare];
    Some([&bytes[..start], count.as_bytes(), rest, &blanks, newline].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_fewer_rows_in_the_same_length() {
        let bytes = Header::encode(&"<f8".parse().unwrap(), &[20_000, 3]).unwrap();
        let fewer = recounted(&bytes, 17).unwrap();
        assert_eq!(fewer.len(), bytes.len());
        let (header, _) = Header::parse_whole(&fewer).unwrap();
        assert_eq!(header.shape(), [17, 3]);
        assert_eq!(fewer.last(), Some(&b'\n'));
        let flat = Header::encode(&"<f8".parse().unwrap(), &[100]).unwrap();
        let (header, _) = Header::parse_whole(&recounted(&flat, 0).unwrap()).unwrap();
        assert_eq!(header.shape(), [0]);
        assert_eq!(recounted(&flat, 1000), None, "no room");
    }
}
