//! Random histories against a reference model: what every call answers, and what is there after
//! each of them (P1 to P4, P8, P10).
//!
//! A failure prints the shrunk history; it becomes a test of its own below, named after what went
//! wrong. `NPYFS_LONG=1` runs many more histories.
#![allow(missing_docs, unreachable_pub)]

#[path = "../chunks/mod.rs"]
mod chunks;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod mount;
mod ops;
mod reference;
mod run;
mod system;

use std::cell::RefCell;
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use content::{Flaw, HeaderKind, Spec};
use mount::Mounted;
use ops::Op;
use reference::Holder;
use run::Run;
use system::Engine;

fn cases(normal: u32) -> Config {
    let long = std::env::var_os("NPYFS_LONG").is_some_and(|long| long == "1");
    Config {
        cases: if long { normal * 8 } else { normal },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

fn random(normal: u32, large: u64, len: usize, mut run: impl FnMut(Vec<Op>)) {
    let run = RefCell::new(&mut run);
    let histories = prop::collection::vec(Op::any(large), 1..len);
    let outcome = TestRunner::new(cases(normal)).run(&histories, |ops| {
        (run.borrow_mut())(ops);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn the_engine_does_what_the_model_does() {
    random(250, 300, 60, |ops| {
        Run::new(Engine::new(64 << 20)).run(&ops)
    });
}

#[test]
fn the_engine_does_what_the_model_does_when_every_chunk_streams() {
    random(250, 300, 60, |ops| Run::new(Engine::new(0)).run(&ops));
}

#[test]
fn the_engine_does_what_the_model_does_with_bodies_over_a_mebibyte() {
    random(40, 20_000, 30, |ops| {
        Run::new(Engine::new(16 << 10)).run(&ops)
    });
}

/// A program that is started closes the descriptors of whichever test is at work: one at a time.
static MOUNTS: Mutex<()> = Mutex::new(());

/// Runs histories on a mount, each on a new dataset.
fn on_a_mount(histories: impl FnOnce(&mut dyn FnMut(&[Op]))) {
    if !mount::can_wait() {
        common::skip("fusectl cannot be mounted, which tells when a handle has ended");
        return;
    }
    let _alone = MOUNTS.lock();
    let mut mount = Some(mount::start());
    let mut n = 0;
    histories(&mut |ops| {
        n += 1;
        Run::new(Mounted::new(&mut mount, format!("history-{n}"))).run(ops);
    });
    mount.expect("it is mounted").finish();
}

#[test]
fn a_mount_does_what_the_model_does() {
    require!(fuse);
    on_a_mount(|run| random(25, 20_000, 40, |ops| run(&ops)));
}

/// On the engine with memory for bodies and without, and on a mount.
fn on_all(ops: &[Op]) {
    Run::new(Engine::new(64 << 20)).run(ops);
    Run::new(Engine::new(0)).run(ops);
    require!(fuse);
    on_a_mount(|run| run(ops));
}

fn good(rows: u64, seed: u64) -> Spec {
    Spec::good(rows, seed)
}

fn open(slot: usize, name: usize, spec: Spec) -> Op {
    let (truncate, same) = (true, false);
    Op::Open {
        slot,
        name,
        truncate,
        spec,
        same,
    }
}

/// Found by the first long run: an fsync of a chunk that was taken over answered 0.
#[test]
fn fsync_of_a_chunk_that_was_taken_over_is_canceled() {
    let ops = [
        open(2, 4, good(1, 0)),
        Op::Spawn,
        Op::Append {
            name: 4,
            spec: good(1, 1),
        },
        Op::Fsync { slot: 2 },
    ];
    on_all(&ops);
}

/// A handle went by the name: after a rename it lost its chunk, or read another one of that name.
#[test]
fn an_open_chunk_is_the_same_after_its_receipt_was_renamed() {
    let ops = [
        open(0, 0, good(2, 0)),
        Op::Finish { slot: 0 },
        Op::Flush { slot: 0 },
        Op::Rename { from: 0, to: 1 },
        Op::Read { slot: 0 },
        Op::SetLen {
            slot: 0,
            percent: 100,
        },
        Op::Append {
            name: 0,
            spec: good(3, 1),
        },
        Op::Read { slot: 0 },
        Op::Scribble { slot: 0, offset: 0 },
        Op::SetAttributes {
            name: 1,
            mode: 0o600,
            mtime: 7,
        },
    ];
    on_all(&ops);
}

/// Whoever had the chunk open lost its inode when the same file was renamed onto it once more.
#[test]
fn an_open_chunk_outlives_a_rename_of_the_same_bytes_onto_it() {
    let same = Op::RenameFile {
        name: 4,
        spec: good(2, 0),
        same: false,
    };
    let ops = [
        same.clone(),
        open(1, 4, good(2, 0)),
        same,
        Op::SetLen {
            slot: 1,
            percent: 0,
        },
        Op::Finish { slot: 1 },
        Op::Read { slot: 1 },
    ];
    on_all(&ops);
}

/// A chunk that was staged because the tail was taken was told of surplus bytes only at its close.
#[test]
fn surplus_bytes_are_refused_by_their_write_wherever_the_chunk_lies() {
    let long = Spec {
        flaw: Flaw::Long,
        ..good(2, 0)
    };
    let ops = [
        open(3, 1, good(1, 0)),
        Op::Write {
            slot: 3,
            bytes: 140,
        },
        open(2, 0, long),
        Op::Write {
            slot: 2,
            bytes: 128,
        },
        Op::Finish { slot: 2 },
        Op::Finish { slot: 3 },
    ];
    on_all(&ops);
}

/// Its file stayed in the store, and open, until the dataset was closed.
#[test]
fn a_refused_stream_leaves_no_file_behind_where_there_is_no_array_yet() {
    let short = Spec {
        flaw: Flaw::Short,
        ..good(20_000, 0)
    };
    let ops = [
        open(0, 0, good(20_000, 0)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::Close { slot: 0 },
        open(1, 1, good(20_000, 0)),
        Op::Write {
            slot: 1,
            bytes: 200,
        },
        Op::Unlink { name: 1 },
        Op::Close { slot: 1 },
        open(0, 0, good(20_000, 0)),
        Op::Write {
            slot: 0,
            bytes: 128,
        },
        Op::Close { slot: 0 },
        Op::Append {
            name: 2,
            spec: short,
        },
        Op::Reopen,
    ];
    on_all(&ops);
}

/// The first chunk to be committed had another dtype. Where a chunk lay in a file of its own, its
/// close by a child was answered with success, and the refusal came only at the next close.
#[test]
fn a_complete_chunk_of_another_dtype_is_refused_at_any_close_wherever_it_lies() {
    let other = Spec {
        form: HeaderKind::OtherType,
        ..good(0, 0)
    };
    let ops = [
        open(0, 0, good(1, 0)),
        open(2, 1, good(1, 0)),
        Op::Finish { slot: 0 },
        Op::Write {
            slot: 2,
            bytes: 200,
        },
        Op::RenameFile {
            name: 2,
            spec: other,
            same: false,
        },
        Op::Spawn,
    ];
    on_all(&ops);
}

/// The streamed chunk's byte order became the array's, and the rows of the chunk that was committed
/// first were taken for that without a conversion: other values.
#[test]
fn the_byte_order_of_the_array_is_that_of_the_first_commit_whoever_streamed_before() {
    for (streaming, first) in [
        (HeaderKind::Big, HeaderKind::Little),
        (HeaderKind::Little, HeaderKind::Big),
        (HeaderKind::Big, HeaderKind::LittleFortran),
    ] {
        let of = |form, rows| Spec {
            form,
            ..good(rows, 1)
        };
        let ops = [
            open(0, 0, of(streaming, 20_000)),
            Op::Write {
                slot: 0,
                bytes: 10_000,
            },
            Op::Append {
                name: 1,
                spec: of(first, 3),
            },
            Op::Finish { slot: 0 },
            Op::Close { slot: 0 },
        ];
        on_all(&ops);
    }
}

fn reopen(slot: usize, name: usize) -> Op {
    Op::Open {
        slot,
        name,
        truncate: false,
        spec: good(2, 0),
        same: false,
    }
}

/// The second of its writes was answered otherwise than the first; once the other handle was closed
/// incomplete it went through, and a close committed the chunk that said EBUSY.
#[test]
fn a_handle_whose_write_was_refused_is_refused_from_then_on() {
    let whole = Op::WriteAt {
        slot: 1,
        percent: 0,
        bytes: 10_000,
    };
    let ops = [
        open(0, 0, good(2, 0)),
        open(1, 0, good(2, 0)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        whole.clone(),
        whole.clone(),
        Op::Flush { slot: 0 },
        whole,
        Op::Close { slot: 1 },
        Op::Finish { slot: 0 },
    ];
    on_all(&ops);
}

/// A handle that was open before wrote over the bytes of the first, which then was told ECANCELED.
#[test]
fn a_chunk_that_rests_is_not_written_by_a_handle_that_was_open_before() {
    let ops = [
        open(0, 0, good(2, 0)),
        open(1, 0, good(2, 1)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::Flush { slot: 0 },
        Op::Finish { slot: 1 },
        Op::Finish { slot: 0 },
        Op::Close { slot: 0 },
    ];
    on_all(&ops);
}

/// Its last close said 0 of a chunk that was refused then.
#[test]
fn who_gets_a_chunk_back_judges_it_again() {
    let ops = [
        open(0, 0, good(2, 0)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::Flush { slot: 0 },
        reopen(1, 0),
        Op::Close { slot: 1 },
        Op::Close { slot: 0 },
    ];
    on_all(&ops);
}

/// Of a chunk that is complete by its length: the end of the handle committed it, after the close
/// had said ECANCELED.
#[test]
fn a_chunk_whose_producer_was_told_that_it_is_canceled_is_not_committed() {
    let taken_over = [
        open(0, 0, good(2, 0)),
        Op::SetLen {
            slot: 0,
            percent: 100,
        },
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::Flush { slot: 0 },
        reopen(1, 0),
        Op::Finish { slot: 0 },
    ];
    for slots in [[0, 1], [1, 0]] {
        let ends = slots.map(|slot| Op::Close { slot });
        on_all(&[&taken_over[..], &ends].concat());
    }
}

/// One process has closed a preallocated chunk, another that inherited it is killed before it has
/// written all: what was never written is not taken for zeros.
#[test]
fn a_killed_process_leaves_no_zeros_though_another_has_closed_the_chunk_before() {
    let ends = [
        vec![Op::CloseOne {
            slot: 0,
            which: 0,
            killed: true,
        }],
        vec![
            Op::Dup {
                slot: 0,
                holder: Holder::Child,
            },
            Op::Dup {
                slot: 0,
                holder: Holder::Socket,
            },
            Op::CloseOne {
                slot: 0,
                which: 0,
                killed: false,
            },
            Op::CloseOne {
                slot: 0,
                which: 0,
                killed: true,
            },
        ],
    ];
    for end in ends {
        let mut ops = vec![
            open(0, 0, good(2, 0)),
            Op::SetLen {
                slot: 0,
                percent: 100,
            },
            Op::Write {
                slot: 0,
                bytes: 200,
            },
            Op::Dup {
                slot: 0,
                holder: Holder::Child,
            },
        ];
        if end.len() == 1 {
            ops.push(Op::CloseOne {
                slot: 0,
                which: 0,
                killed: false,
            });
        }
        ops.extend(end);
        ops.push(Op::Close { slot: 0 });
        on_all(&ops);
    }
}

/// It was committed by the last close only, as if its bytes were written twice.
#[test]
fn a_chunk_that_is_cut_to_nothing_begins_anew() {
    let ops = [
        open(0, 0, good(2, 0)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::SetLen {
            slot: 0,
            percent: 0,
        },
        Op::Finish { slot: 0 },
        Op::Flush { slot: 0 },
    ];
    on_all(&ops);
    let ops = [&ops[..4], &[Op::Fsync { slot: 0 }]].concat();
    on_all(&ops);
}

/// A new chunk was begun under the old name.
#[test]
fn a_committed_chunk_is_cut_to_nothing_under_the_name_that_it_has_now() {
    let ops = [
        open(0, 0, good(2, 0)),
        Op::Finish { slot: 0 },
        Op::Close { slot: 0 },
        reopen(0, 0),
        Op::Rename { from: 0, to: 1 },
        Op::SetLen {
            slot: 0,
            percent: 0,
        },
        Op::Finish { slot: 0 },
        Op::Close { slot: 0 },
    ];
    on_all(&ops);
}

/// It said 0 where the length was the same.
#[test]
fn a_chunk_that_has_lost_its_name_cannot_be_resized() {
    let ops = [
        open(0, 0, good(2, 0)),
        Op::Unlink { name: 0 },
        Op::SetLen {
            slot: 0,
            percent: 0,
        },
    ];
    on_all(&ops);
}

/// Zeros were read.
#[test]
fn an_unlinked_chunk_can_be_read_until_its_last_handle_ends() {
    let ops = [
        open(1, 0, good(2, 0)),
        open(2, 0, good(2, 0)),
        Op::Write {
            slot: 1,
            bytes: 200,
        },
        Op::Unlink { name: 0 },
        Op::Close { slot: 1 },
        Op::Read { slot: 2 },
    ];
    on_all(&ops);
}

/// A chunk that is being written is told so, whatever its new name stands for.
#[test]
fn a_chunk_in_flight_is_not_renamed_even_onto_a_committed_name() {
    let ops = [
        Op::Append {
            name: 0,
            spec: good(2, 0),
        },
        open(0, 1, good(2, 1)),
        Op::Write {
            slot: 0,
            bytes: 200,
        },
        Op::Rename { from: 1, to: 0 },
    ];
    on_all(&ops);
}

/// It became a file, and its handle lost it.
#[test]
fn an_empty_chunk_whose_rename_fails_goes_on() {
    let ops = [
        Op::Append {
            name: 0,
            spec: good(2, 0),
        },
        open(0, 1, good(2, 1)),
        Op::Rename { from: 1, to: 0 },
        Op::Finish { slot: 0 },
        Op::Close { slot: 0 },
    ];
    on_all(&ops);
}
