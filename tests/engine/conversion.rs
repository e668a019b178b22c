//! P9: byte order and Fortran order are converted without loss, and numpy is the judge.

use crate::common;

use std::fs;
use std::path::PathBuf;

use common::{Mount, python};

/// What all scripts begin with: `root`, and `check`, which feeds a new dataset with `first` and
/// `second` and compares what comes back.
const HEAD: &str = r"
import errno, itertools, os, pathlib, shutil, sys
import numpy as np
root = pathlib.Path(sys.argv[1])
count = itertools.count()
rng = np.random.default_rng(7)

def some(dtype, shape):
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(rng.bytes(n), np.uint8).view(dtype).reshape(shape)

def order(array, fortran, swap):
    if swap:
        array = array.astype(array.dtype.newbyteorder())
    return np.asfortranarray(array) if fortran else np.ascontiguousarray(array)

# NaNs differ from themselves: bytes are compared, in the byte order of `dtype`.
def same(found, wanted, dtype):
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert found.dtype == dtype, (found.dtype, dtype)
    if getattr(dtype, 'names', None) == ('a', 'b') and dtype.itemsize == 24:
        assert (found == wanted).all()  # numpy itself loses what is in a padding
    else:
        assert np.ascontiguousarray(found).tobytes() == wanted.astype(dtype, order='C').tobytes()

def check(first, second):
    ds = root / f'c{next(count)}'
    ds.mkdir()
    np.save(ds / '0.npy', first)
    np.save(ds / '1.npy', second)
    dtype = first.dtype
    data = np.load(ds / 'data.npy')
    same(data, np.concatenate([first.astype(dtype), second.astype(dtype)]), dtype)
    assert data.flags.c_contiguous
    for name, array in (('0.npy', first), ('1.npy', second)):
        view = np.load(ds / name)
        same(view, array, dtype)
        assert view.flags.c_contiguous
        # The same original bytes again, the view's own bytes, and other bytes.
        np.save(ds / name, array)
        (ds / name).write_bytes((ds / name).read_bytes())
    assert len(np.load(ds / 'data.npy')) == len(data)
    return ds
";

fn judge(mount: &Mount, script: &str) {
    python(&format!("{HEAD}{script}"), &[mount.path("")]);
}

#[test]
fn every_rank_byte_order_and_element_order() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
shapes = [(7,), (1,), (5, 1), (1, 5), (6, 7), (3, 4, 5), (2, 1, 3, 4), (2, 3, 2, 3, 2), (3, 2, 1, 2, 3, 2, 2)]
for shape in shapes:
    for dtype in ('<f8', '<i2', '<c8', '|u1'):
        for swap_first, swap, fortran_first, fortran in itertools.product((0, 1), repeat=4):
            if dtype != '<f8' and (fortran_first or swap_first):
                continue
            check(order(some(dtype, shape), fortran_first, swap_first),
                  order(some(dtype, shape), fortran, swap))
",
    );
}

#[test]
fn every_kind_of_number_string_and_date() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
for dtype in ('<i2', '<i4', '<i8', '<u2', '<u4', '<u8', '<f2', '<f4', '<f8', '<c8', '<c16',
              '<M8[ns]', '<m8[s]', '|S5', '|V3', '|b1', '<U4', '|i1'):
    for swap, fortran in itertools.product((0, 1), repeat=2):
        shape = (5, 3)
        if dtype == '<U4':
            make = lambda: np.array([[f'ä{i}{j}' for j in range(3)] for i in range(5)], dtype)
        elif dtype == '|b1':
            make = lambda: rng.integers(0, 2, shape).astype(bool)
        else:
            make = lambda: some(dtype, shape)
        check(make(), order(make(), fortran, swap))
if np.dtype(np.longdouble).itemsize == 16:
    a = np.arange(12, dtype=np.longdouble).reshape(4, 3)
    check(a, np.asfortranarray(a))
",
    );
}

#[test]
fn structured_dtypes_of_either_order() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
for fields in ([('a', '<i4'), ('b', '<f8')],
               [('a', '|u1'), ('b', '<f8', (2, 3)), ('c', '|S3')],
               [('p', [('x', '<f4'), ('y', '<f4')]), ('t', '<M8[us]')],
               [('z', '<c16'), ('n', '<u2', (4,)), ('q', [('r', '<i8', (2,)), ('s', '|V1')])]):
    dtype = np.dtype(fields)
    mixed = np.dtype([(name, *([sub.newbyteorder('>')] if n % 2 else [sub])) for n, (name, sub) in
                      enumerate((name, dtype[name]) for name in dtype.names)])
    for shape in ((6,), (4, 5), (2, 3, 4)):
        a, b = some(dtype, shape), some(dtype, shape)
        for swap, fortran in itertools.product((0, 1), repeat=2):
            check(a, order(b, fortran, swap))
            check(order(a, fortran, swap), b)
        check(a, np.asfortranarray(b.astype(mixed)))
padded = np.dtype({'names': ['a', 'b'], 'formats': ['<i4', '<f8'], 'offsets': [0, 8], 'itemsize': 24})
a = np.zeros((4, 3), padded)
a['a'], a['b'] = np.arange(12).reshape(4, 3), np.arange(12).reshape(4, 3) / 7
check(a, np.asfortranarray(a))
",
    );
}

#[test]
fn large_chunks_and_long_rows() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
for shape in ((3000, 700), (200, 100, 101), (3, 700_001), (700_001, 3), (17, 5, 6, 4, 3, 7, 11)):
    for dtype, swap in (('<f8', 0), ('<f4', 1)):
        ds = check(some(dtype, shape), order(some(dtype, shape), 1, swap))
big = some([('a', '<f8', (100,)), ('b', '|u1')], (150, 40))
check(big, order(big, 1, 1))
",
    );
}

#[test]
fn the_ways_into_a_dataset_convert_alike() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
scratch = root.parent / 'scratch'
scratch.mkdir()
for shape in ((40, 50), (400, 1000)):
    array = np.asfortranarray(some('>f8', shape))
    np.save(scratch / 'f.npy', array)
    ds = root / str(shape[0])
    ds.mkdir()
    native = some('<f8', shape)
    np.save(ds / 'native.npy', native)
    shutil.copy(scratch / 'f.npy', ds / 'copied.npy')
    shutil.copy(scratch / 'f.npy', ds / 'renamed.tmp')
    os.rename(ds / 'renamed.tmp', ds / 'renamed.npy')
    fd = os.open(ds / 'backwards.npy', os.O_WRONLY | os.O_CREAT)
    raw = (scratch / 'f.npy').read_bytes()
    for at in reversed(range(0, len(raw), 70_000)):
        os.pwrite(fd, raw[at:at + 70_000], at)
    os.close(fd)
    for name in ('copied', 'renamed', 'backwards'):
        same(np.load(ds / f'{name}.npy'), array, '<f8')
        # A retry of the original is settled in every way as well.
        shutil.copy(scratch / 'f.npy', ds / f'{name}.npy')
        shutil.copy(scratch / 'f.npy', ds / 'again.tmp')
        os.rename(ds / 'again.tmp', ds / f'{name}.npy')
    same(np.load(ds / 'data.npy'), np.concatenate([native, array, array, array]), '<f8')
",
    );
}

#[test]
fn other_bytes_under_a_converted_name_are_refused() {
    require!(fuse, python);
    let mount = Mount::new();
    mount.expect_warning("c0/1.npy: EEXIST");
    mount.expect_warning("c1/1.npy: EEXIST");
    judge(
        &mount,
        r"
for shape in ((40, 50), (400, 1000)):
    a = np.asfortranarray(some('>f8', shape))
    ds = check(some('<f8', shape), a)
    for other in (a + 1, np.ascontiguousarray(a) * 2, a.astype('<f8') - 1):
        try:
            np.save(ds / '1.npy', other)
        except OSError as error:
            assert error.errno == errno.EEXIST, error
        else:
            raise AssertionError('not refused')
    same(np.load(ds / '1.npy'), a, '<f8')
",
    );
}

#[test]
fn what_was_converted_outlives_the_mount() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
a = order(some('<f8', (300, 500)), 1, 1)
ds = check(some('<f8', (300, 500)), a)
np.save(root.parent / 'a.npy', a)
",
    );
    let mount = mount.remount();
    let script = r"
import sys, numpy as np
a, v = np.load(sys.argv[1]), np.load(sys.argv[2])
assert v.dtype == '<f8' and (a.view('>u8') == v.view('<u8')).all()
";
    let paths: [PathBuf; 2] = [mount.scratch("a.npy"), mount.path("c0/1.npy")];
    python(script, &paths);
    let before = fs::metadata(mount.path("c0/data.npy")).unwrap().len();
    fs::copy(mount.scratch("a.npy"), mount.path("c0/1.npy")).unwrap();
    assert_eq!(
        fs::metadata(mount.path("c0/data.npy")).unwrap().len(),
        before
    );
}

#[test]
fn producers_of_every_byte_and_element_order_begin_one_array_at_once() {
    require!(fuse, python);
    let mount = Mount::new();
    judge(
        &mount,
        r"
import csv
# Small ones collect in memory, the others stream or are staged.
SIZES = (1, 40, 3000, 120_000)
ORDERS = [(0, 0), (0, 1), (1, 0), (1, 1)]

def chunk(n, producer, number):
    # In each array another producer begins with a large one.
    rows = SIZES[(n + producer + number) % len(SIZES)] + number
    first = 1_000_000 * (producer * 8 + number)
    return first + np.arange(rows * 2, dtype='<f8').reshape(rows, 2)

for n in range(16):
    ds = root / f'at-once-{n}'
    ds.mkdir()
    producers = []
    for producer, (fortran, swap) in enumerate(ORDERS):
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(8):
                    array = order(chunk(n, producer, number), fortran, swap)
                    np.save(ds / f'{producer}-{number}.npy', array)
                os._exit(0)
            finally:
                os._exit(1)
        producers.append(pid)
    for pid in producers:
        assert os.waitpid(pid, 0)[1] == 0
    data = np.load(ds / 'data.npy', mmap_mode='r')
    lines = list(csv.DictReader((ds / '.npyfs/chunks.csv').open()))
    assert len(lines) == 32
    for line in lines:
        producer, number = map(int, line['name'].removesuffix('.npy').split('-'))
        wanted = chunk(n, producer, number)
        start = int(line['first_row'])
        assert (data[start:start + int(line['rows'])] == wanted).all(), line
        view = np.load(ds / line['name'])
        assert (view == wanted).all() and view.dtype == data.dtype, line
    assert len(data) == sum(int(line['rows']) for line in lines)
",
    );
}
