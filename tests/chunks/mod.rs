//! `.npy` files for tests, spelled here byte by byte and not by the code under test.
#![allow(dead_code, missing_docs, unreachable_pub)]

/// A header of format 1.0 as numpy writes it: padded to a multiple of 64 bytes.
pub fn header(descr: &str, fortran: bool, shape: &[u64]) -> Vec<u8> {
    let mut dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    if dims.len() == 1 {
        dims[0].push(',');
    }
    let order = if fortran { "True" } else { "False" };
    let dims = dims.join(", ");
    framed(&format!(
        "{{'descr': {descr}, 'fortran_order': {order}, 'shape': ({dims}), }}"
    ))
}

/// A header of format 1.0 around this text.
pub fn framed(text: &str) -> Vec<u8> {
    let len = (10 + text.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&((len - 10) as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(len - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// `len` bytes that tell from which `seed` they are, and where among them one is.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A chunk of `rows` rows of shape `(8,)` and dtype `<i8`: 64 bytes a row.
pub fn chunk(rows: u64, seed: u64) -> Vec<u8> {
    let mut bytes = header("'<i8'", false, &[rows, 8]);
    bytes.extend(noise(seed, rows as usize * 64));
    bytes
}

/// Splits a `.npy` file of format 1.0 after its header.
pub fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "not a .npy 1.0");
    let len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes.split_at(10 + len)
}

/// What a header of format 1.0 says: dtype, order and shape, whatever blanks are between.
pub fn meaning(head: &[u8]) -> (String, bool, Vec<u64>) {
    let text = std::str::from_utf8(&head[10..]).expect("the header is ASCII");
    assert!(
        head.len().is_multiple_of(64),
        "header of {} bytes",
        head.len()
    );
    assert!(text.ends_with('\n'), "the header does not end its line");
    let value = |key: &str| {
        let at = text.find(&format!("'{key}': ")).expect(key) + key.len() + 4;
        &text[at..]
    };
    let descr = value("descr");
    let descr = descr[..descr.find(", 'fortran").expect("order")].to_owned();
    let shape = value("shape");
    let inner = shape.strip_prefix('(').expect("a tuple");
    let inner = &inner[..inner.find(')').expect("a tuple")];
    let dims = inner
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty());
    let shape = dims.map(|dim| dim.parse().expect("a count")).collect();
    (descr, value("fortran_order").starts_with("True"), shape)
}

/// A small generator of numbers that is the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed ^ 0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % (most as u64 + 1)) as usize
    }
}
