//! Conversions against a plain transposition, item by item.

use super::*;
use crate::npy::literal::Literal;
use crate::npy::{Prefix, strategy};
use proptest::prelude::*;

fn dtype(descr: &str) -> Dtype {
    Dtype::from_literal(&Literal::parse(descr).unwrap().0).unwrap()
}

fn header(dtype: &Dtype, fortran: bool, shape: &[u64]) -> Header {
    let fortran = if fortran { "True" } else { "False" };
    let shape: String = shape.iter().map(|dim| format!("{dim},")).collect();
    let text = format!("{{'descr':{dtype},'fortran_order':{fortran},'shape':({shape})}}");
    let mut bytes = b"\x93NUMPY\x03\x00".to_vec();
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    match Header::parse(&bytes) {
        Ok(Prefix::Complete(header)) => header,
        other => panic!("{text}: {other:?}"),
    }
}

/// What the conversion gives, how many reads it took, and the bytes that they read.
fn convert(conversion: &Conversion, memory: usize, body: &[u8]) -> (Vec<u8>, u64, u64) {
    let out = Mutex::new(vec![0; body.len()]);
    let (reads, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let read = |at: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&body[at as usize..][..buffer.len()]);
        assert!(buffer.len() <= memory.max(64));
        reads.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    let write = |at: u64, bytes: &[u8]| {
        assert!(bytes.len() <= memory.max(64));
        crate::lock(&out)[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    let source = Source {
        read: &read,
        bands: None,
    };
    let crc = conversion.run(memory, 1, &source, &write).unwrap();
    let out = out.into_inner().unwrap();
    assert_eq!(crc, crc32c::crc32c(&out));
    (out, reads.into_inner(), bytes.into_inner())
}

/// As a body is converted that streams into its place, in writes of `piece` bytes. `None` where
/// that is not the way.
fn convert_in_place(
    conversion: &Conversion,
    memory: usize,
    piece: usize,
    body: &[u8],
) -> Option<Vec<u8>> {
    let bands = conversion.in_place(memory)?;
    let place = Mutex::new(vec![0; body.len()]);
    let mut at = 0;
    for piece in body.chunks(piece) {
        bands
            .scatter(at, piece, &mut |at, bytes| {
                crate::lock(&place)[at as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        at += piece.len() as u64;
    }
    let read = |at: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&crate::lock(&place)[at as usize..][..buffer.len()]);
        Ok(())
    };
    let mut back = vec![0; body.len() / 2];
    let from = (body.len() - back.len()) as u64;
    bands
        .gather(from, &mut back, &mut |at, piece| {
            read(at, piece).map_err(|_| std::io::ErrorKind::Other.into())
        })
        .unwrap();
    assert!(back == body[from as usize..]);
    let write = |at: u64, bytes: &[u8]| {
        crate::lock(&place)[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    let source = Source {
        read: &read,
        bands: Some(&bands),
    };
    let crc = conversion.run(memory, 3, &source, &write).unwrap();
    let rows = place.into_inner().unwrap();
    assert_eq!(crc, crc32c::crc32c(&rows));
    Some(rows)
}

/// Item by item, as the definitions of Fortran order and byte order have it.
fn reference(chunk: &Header, dataset: &Dtype, body: &[u8]) -> Vec<u8> {
    let item = chunk.dtype().itemsize() as usize;
    let mut out = Vec::new();
    let shape = chunk.shape();
    let swaps = chunk.dtype().swaps(dataset);
    for i in 0..body.len() / item.max(1) {
        let (mut rest, mut from, mut size) = (i as u64, 0, 1);
        let mut index = vec![0; shape.len()];
        for (index, dim) in index.iter_mut().zip(shape).rev() {
            *index = rest % dim;
            rest /= dim;
        }
        for (index, dim) in index.iter().zip(shape) {
            from += index * size;
            size *= dim;
        }
        let from = if chunk.fortran_order() {
            from as usize
        } else {
            i
        };
        let mut bytes = body[from * item..][..item].to_vec();
        naive_swap(&swaps, &mut bytes);
        out.extend_from_slice(&bytes);
    }
    out
}

fn naive_swap(swaps: &[ByteSwap], bytes: &mut [u8]) {
    for swap in swaps {
        for i in 0..swap.count {
            let at = (swap.offset + i * swap.width) as usize;
            let element = &mut bytes[at..at + swap.width as usize];
            match swap.inner.is_empty() {
                true => element.reverse(),
                false => naive_swap(&swap.inner, element),
            }
        }
    }
}

fn body(len: u64) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn check(chunk: &Header, dataset: &Dtype, memory: usize) {
    let body = body(chunk.body_bytes());
    let expected = reference(chunk, dataset, &body);
    match Conversion::needed(chunk, dataset) {
        None => assert_eq!(expected, body),
        Some(conversion) => {
            let (rows, ..) = convert(&conversion, memory, &body);
            assert!(rows == expected, "{:?} in {memory}", chunk.shape());
            for piece in [memory / 3 + 1, body.len()] {
                if let Some(rows) = convert_in_place(&conversion, memory, piece, &body) {
                    assert!(rows == expected, "{:?} in place, {memory}", chunk.shape());
                }
            }
        }
    }
}

#[test]
fn bytes_that_are_rows_already_need_no_conversion() {
    let (little, big) = (dtype("'<f8'"), dtype("'>f8'"));
    let needed = |chunk: &Header| Conversion::needed(chunk, &little).is_some();
    assert!(!needed(&header(&little, false, &[2, 3])));
    assert!(!needed(&header(&little, true, &[7])));
    assert!(!needed(&header(&little, true, &[1, 7, 1])));
    assert!(!needed(&header(&big, true, &[0, 7])));
    assert!(!needed(&header(&big, true, &[3, 0])));
    assert!(needed(&header(&little, true, &[2, 3])));
    assert!(needed(&header(&big, false, &[1])));
}

#[test]
fn items_larger_than_memory_pass_in_pieces() {
    let big = dtype("[('a', '|V1'), ('b', [('c', '>f8'), ('d', '|u1')], (20000,))]");
    let little = dtype("[('a', '|V1'), ('b', [('c', '<f8'), ('d', '|u1')], (20000,))]");
    for fortran in [false, true] {
        for memory in [0, 100, 4096, 1 << 20] {
            check(&header(&big, fortran, &[2, 3]), &little, memory);
        }
    }
}

#[test]
fn an_error_ends_the_conversion() {
    let chunk = header(&dtype("'<f8'"), true, &[100, 100]);
    let conversion = Conversion::needed(&chunk, &dtype("'<f8'")).unwrap();
    let fail = || Err(crate::err!(EIO, "the disk is gone"));
    let run = |read: &Read<'_>, write: &Write<'_>| {
        let source = Source { read, bands: None };
        conversion.run(1000, 2, &source, write)
    };
    assert!(run(&|_, _| fail(), &|_, _| Ok(())).is_err());
    assert!(run(&|_, _| Ok(()), &|_, _| fail()).is_err());
}

#[test]
fn reads_are_large_and_read_little_twice() {
    // Shape, bytes of memory, most reads, most bytes read in multiples of the body.
    for (shape, memory, most_reads, most) in [
        (&[2000, 1000][..], 1 << 20, 21_000, 1),
        (&[1000, 2000], 32 << 20, 16, 1),
        (&[50, 200, 200], 32 << 20, 600, 1),
        (&[4, 500_000], 1 << 20, 500, 4),
        (&[4, 500_000], 32 << 20, 16, 1),
        (&[2, 2, 2, 125_000, 2], 1 << 20, 2000, 8),
        (&[1_000_000, 2], 1 << 20, 300, 1),
    ] {
        let chunk = header(&dtype("'<f8'"), true, shape);
        let body = body(chunk.body_bytes());
        let conversion = Conversion::needed(&chunk, chunk.dtype()).unwrap();
        let (rows, reads, bytes) = convert(&conversion, memory, &body);
        assert!(rows == reference(&chunk, chunk.dtype(), &body), "{shape:?}");
        assert!(reads <= most_reads, "{shape:?}: {reads} reads");
        assert!(bytes <= most * chunk.body_bytes(), "{shape:?}: {bytes}");
    }
}

proptest! {
    #[test]
    fn any_chunk_becomes_the_rows_of_the_naive_reference(
        literal in strategy::descr(),
        fortran in any::<bool>(),
        flip in any::<bool>(),
        shape in prop::collection::vec(prop_oneof![1..6_u64, 1..40_u64], 1..5),
        memory in prop_oneof![0..300_usize, 300..5000_usize, Just(1_usize << 20)],
    ) {
        let chunk = Dtype::from_literal(&literal).unwrap();
        let flipped = if flip { strategy::flip(&literal) } else { literal };
        let dataset = Dtype::from_literal(&flipped).unwrap();
        let chunk = header(&chunk, fortran, &shape);
        prop_assume!(chunk.body_bytes() < 1 << 18);
        check(&chunk, &dataset, memory);
    }

    #[test]
    fn any_shape_of_numbers_is_transposed_in_any_memory(
        size in prop::sample::select(vec!["u1", "u2", "f4", "f8", "c16", "V3"]),
        shape in prop::collection::vec(prop_oneof![1..4_u64, 1..300_u64], 2..5),
        memory in prop_oneof![8..2000_usize, 2000..100_000_usize],
    ) {
        let little = dtype(&format!("'<{size}'"));
        let chunk = shape.iter().product::<u64>() * little.itemsize();
        prop_assume!(chunk < 1 << 18);
        check(&header(&dtype(&format!("'>{size}'")), true, &shape), &little, memory);
    }
}
