//! Random operations, done on a system and on the reference, and compared after each.

use std::fmt::Debug;

use proptest::prelude::*;

use crate::chunks;
use crate::content::{HEAD, ROW, Spec};
use crate::reference::{Reference, Writer};
use crate::system::System;

/// How many writers there are at a time.
pub const SLOTS: usize = 4;
const NAMES: [&str; 5] = ["a.npy", "b.npy", "c.npy", "d e.npy", "ü.npy"];

/// One step; numbers are taken modulo what there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Opens a name to write this file, or, with `same`, what is committed under the name.
    Open {
        slot: usize,
        name: usize,
        truncate: bool,
        spec: Spec,
        same: bool,
    },
    /// Writes the next so many bytes of the file, or all that is left.
    Write {
        slot: usize,
        bytes: usize,
    },
    Finish {
        slot: usize,
    },
    /// Writes a piece of the file elsewhere: this percentage of its length on.
    WriteAt {
        slot: usize,
        percent: usize,
        bytes: usize,
    },
    /// Writes something else behind the header.
    Scribble {
        slot: usize,
        offset: usize,
    },
    /// To nothing, to so much percent of the file, or beyond it.
    SetLen {
        slot: usize,
        percent: usize,
    },
    Read {
        slot: usize,
    },
    Flush {
        slot: usize,
    },
    FlushElsewhere {
        slot: usize,
    },
    Fsync {
        slot: usize,
    },
    Close {
        slot: usize,
    },
    /// The whole life of a chunk.
    Append {
        name: usize,
        spec: Spec,
    },
    Unlink {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    RenameFile {
        name: usize,
        spec: Spec,
        same: bool,
    },
    SetAttributes {
        name: usize,
        mode: u32,
        mtime: i64,
    },
    Sync,
    Reopen,
}

impl Op {
    pub fn any(large: u64) -> impl Strategy<Value = Op> {
        let slot = 0..SLOTS;
        let name = 0..NAMES.len();
        let spec = Spec::any(large);
        let bytes = prop_oneof![
            Just(1),
            Just(10),
            Just(64),
            Just(HEAD),
            Just(200),
            Just(10_000)
        ];
        prop_oneof![
            8 => (slot.clone(), name.clone(), prop::bool::weighted(0.7), spec.clone(), any::<bool>())
                .prop_map(|(slot, name, truncate, spec, same)| Op::Open { slot, name, truncate, spec, same }),
            8 => (slot.clone(), bytes.clone()).prop_map(|(slot, bytes)| Op::Write { slot, bytes }),
            6 => slot.clone().prop_map(|slot| Op::Finish { slot }),
            2 => (slot.clone(), 0..100usize, bytes)
                .prop_map(|(slot, percent, bytes)| Op::WriteAt { slot, percent, bytes }),
            1 => (slot.clone(), 0..400usize).prop_map(|(slot, offset)| Op::Scribble { slot, offset }),
            1 => (slot.clone(), prop_oneof![Just(0), Just(100), 1..130usize])
                .prop_map(|(slot, percent)| Op::SetLen { slot, percent }),
            2 => slot.clone().prop_map(|slot| Op::Read { slot }),
            2 => slot.clone().prop_map(|slot| Op::Flush { slot }),
            2 => slot.clone().prop_map(|slot| Op::FlushElsewhere { slot }),
            1 => slot.clone().prop_map(|slot| Op::Fsync { slot }),
            6 => slot.prop_map(|slot| Op::Close { slot }),
            6 => (name.clone(), spec.clone()).prop_map(|(name, spec)| Op::Append { name, spec }),
            1 => name.clone().prop_map(|name| Op::Unlink { name }),
            2 => (name.clone(), name.clone()).prop_map(|(from, to)| Op::Rename { from, to }),
            2 => (name.clone(), spec, any::<bool>())
                .prop_map(|(name, spec, same)| Op::RenameFile { name, spec, same }),
            1 => (name, 0o400..0o777u32, 0..2_000_000_000_000_000_000i64)
                .prop_map(|(name, mode, mtime)| Op::SetAttributes { name, mode: mode | 0o600, mtime }),
            1 => Just(Op::Sync),
            1 => Just(Op::Reopen),
        ]
    }
}

/// What one writer is to write, and how far it is.
#[derive(Debug)]
struct Plan {
    file: Vec<u8>,
    at: usize,
}

/// A system, the reference, and what the writers are up to.
pub struct Run<S: System> {
    system: S,
    reference: Reference,
    handles: Vec<Option<S::Handle>>,
    plans: Vec<Option<Plan>>,
    /// Earlier versions of the array, with their rows and headers.
    snapshots: Vec<(S::Snapshot, u64, Vec<u8>)>,
}

impl<S: System> Run<S> {
    pub fn new(system: S) -> Self {
        Run {
            system,
            reference: Reference::new(SLOTS),
            handles: (0..SLOTS).map(|_| None).collect(),
            plans: (0..SLOTS).map(|_| None).collect(),
            snapshots: Vec::new(),
        }
    }

    /// Does all of it, and closes everything at the end.
    pub fn run(mut self, ops: &[Op]) {
        for (n, op) in ops.iter().enumerate() {
            self.step(n, op);
        }
        self.step(ops.len(), &Op::Reopen);
    }

    fn step(&mut self, n: usize, op: &Op) {
        let context = format!("at step {n}, {op:?}");
        self.perform(op, &context);
        self.check(&context);
    }

    fn perform(&mut self, op: &Op, context: &str) {
        match *op {
            Op::Open {
                slot,
                name,
                truncate,
                spec,
                same,
            } => {
                self.close(slot, context);
                self.open(slot, NAMES[name], truncate, spec, same, context);
            }
            Op::Write { slot, bytes } => self.write_next(slot, bytes, context),
            Op::Finish { slot } => self.write_next(slot, usize::MAX, context),
            Op::WriteAt {
                slot,
                percent,
                bytes,
            } => {
                let Some(plan) = &self.plans[slot] else {
                    return;
                };
                let at = plan.file.len() * percent / 100;
                let end = plan.file.len().min(at + bytes);
                let data = plan.file[at..end].to_vec();
                self.write(slot, &data, at, context);
            }
            Op::Scribble { slot, offset } => {
                if self.plans[slot].is_some() {
                    self.write(slot, b"scribble", HEAD + offset, context);
                }
            }
            Op::SetLen { slot, percent } => self.set_len(slot, percent, context),
            Op::Read { slot } => {
                if let Some(handle) = &self.handles[slot] {
                    let found = self.system.read(handle);
                    same_bytes(&found, &self.reference.read(slot), context);
                }
            }
            Op::Flush { slot } => {
                if let Some(handle) = &self.handles[slot] {
                    let found = self.system.flush(handle);
                    assert_eq!(found, self.reference.flush(slot, true), "{context}");
                }
            }
            Op::FlushElsewhere { slot } => {
                if self.handles[slot].is_none() {
                    return;
                }
                for (slot, found) in self.system.flush_elsewhere(&self.handles, slot) {
                    let expected = self.reference.flush(slot, false);
                    if let Some(found) = found {
                        assert_eq!(found, expected, "{context}");
                    }
                }
            }
            Op::Fsync { slot } => {
                if let Some(handle) = &self.handles[slot] {
                    let found = self.system.fsync(handle);
                    assert_eq!(found, self.reference.fsync(slot), "{context}");
                }
            }
            Op::Close { slot } => self.close(slot, context),
            Op::Append { name, spec } => {
                let Some(slot) = self.handles.iter().position(Option::is_none) else {
                    return;
                };
                self.open(slot, NAMES[name], true, spec, false, context);
                self.write_next(slot, usize::MAX, context);
                self.close(slot, context);
            }
            Op::Unlink { name } => {
                let found = self.system.unlink(NAMES[name]);
                assert_eq!(found, self.reference.unlink(NAMES[name]), "{context}");
            }
            Op::Rename { from, to } => {
                let (from, to) = (NAMES[from], NAMES[to]);
                if !self.reference.empty.contains(from) {
                    let found = self.system.rename(from, to);
                    assert_eq!(found, self.reference.rename(from, to), "{context}");
                }
            }
            Op::RenameFile { name, spec, same } => {
                let bytes = self.file(NAMES[name], spec, same);
                let found = self.system.rename_file(&bytes, NAMES[name]);
                let expected = self.reference.rename_file(&bytes, NAMES[name]);
                assert_eq!(found, expected, "{context}");
            }
            Op::SetAttributes { name, mode, mtime } => {
                if !self.reference.empty.contains(NAMES[name]) {
                    let found = self.system.set_attributes(NAMES[name], mode, mtime);
                    let expected = self.reference.set_attributes(NAMES[name], mode, mtime);
                    assert_eq!(found, expected, "{context}");
                }
            }
            Op::Sync => assert_eq!(self.system.sync(), Ok(()), "{context}"),
            Op::Reopen => {
                for slot in 0..SLOTS {
                    self.close(slot, context);
                }
                self.snapshots.clear();
                self.system.reopen();
            }
        }
    }

    fn file(&self, name: &str, spec: Spec, same: bool) -> Vec<u8> {
        match self.reference.committed(name) {
            Some(chunk) if same => self.reference.chunks[chunk].original.clone(),
            _ => spec.bytes(),
        }
    }

    fn open(
        &mut self,
        slot: usize,
        name: &str,
        truncate: bool,
        spec: Spec,
        same: bool,
        context: &str,
    ) {
        let file = self.file(name, spec, same);
        let found = self.system.open(name, truncate);
        let expected = self.reference.open(slot, name, truncate);
        assert_eq!(
            found.as_ref().map(drop),
            expected.as_ref().map(drop),
            "{context}"
        );
        if let Ok(handle) = found {
            self.handles[slot] = Some(handle);
            self.plans[slot] = Some(Plan { file, at: 0 });
        }
    }

    fn write_next(&mut self, slot: usize, bytes: usize, context: &str) {
        let Some(plan) = &mut self.plans[slot] else {
            return;
        };
        let at = plan.at;
        let end = plan.file.len().min(at.saturating_add(bytes));
        plan.at = end;
        let data = plan.file[at..end].to_vec();
        self.write(slot, &data, at, context);
    }

    fn write(&mut self, slot: usize, data: &[u8], offset: usize, context: &str) {
        // No system sends a write of nothing on.
        if let Some(handle) = &self.handles[slot]
            && !data.is_empty()
        {
            let found = self.system.write(handle, data, offset as u64);
            let expected = self.reference.write(slot, data, offset);
            assert_eq!(found, expected, "{context}");
        }
    }

    fn set_len(&mut self, slot: usize, percent: usize, context: &str) {
        let Some(plan) = &mut self.plans[slot] else {
            return;
        };
        let len = plan.file.len() * percent / 100;
        plan.at = plan.at.min(len);
        if let Some(handle) = &self.handles[slot] {
            let found = self.system.set_len(handle, len as u64);
            assert_eq!(found, self.reference.set_len(slot, len), "{context}");
        }
    }

    fn close(&mut self, slot: usize, context: &str) {
        self.plans[slot] = None;
        let Some(handle) = self.handles[slot].take() else {
            return;
        };
        if let Some(found) = {
            let flushed = self.system.flush(&handle);
            assert_eq!(flushed, self.reference.flush(slot, true), "{context}");
            self.system.release(handle)
        } {
            assert_eq!(found, self.reference.flush(slot, true), "{context}");
        }
        self.reference.release(slot);
    }

    fn check(&mut self, context: &str) {
        self.check_array(context);
        let reference = &self.reference;
        assert_eq!(self.system.names(), reference.names(), "{context}");
        let lines: Vec<_> = reference
            .chunks
            .iter()
            .map(|chunk| (chunk.name.clone(), chunk.first_row, chunk.rows))
            .collect();
        assert_eq!(self.system.lines(), lines, "{context}");
        for chunk in &reference.chunks {
            let context = format!("{} {context}", chunk.name);
            let found = self.system.chunk(&chunk.name).expect(&context);
            same_bytes(&Ok::<_, ()>(found.bytes), &Ok(chunk.view.clone()), &context);
            if let Some(mode) = chunk.mode {
                assert_eq!(found.mode, mode, "mode of {context}");
            }
            if let Some(mtime) = chunk.mtime {
                assert_eq!(found.mtime, mtime, "time of {context}");
            }
        }
        for name in NAMES
            .iter()
            .filter(|name| reference.committed(name).is_none())
        {
            let writer = reference
                .in_flight(name)
                .and_then(|slot| reference.slots[slot].as_ref());
            if writer.is_none_or(|slot| !matches!(slot.writer, Writer::New(_)))
                && !reference.empty.contains(*name)
            {
                assert!(
                    self.system.chunk(name).is_none(),
                    "{name} is there {context}"
                );
            }
        }
    }

    fn check_array(&mut self, context: &str) {
        let reference = &self.reference;
        let (snapshot, stored) = (self.system.snapshot(), self.system.stored());
        let (Some(form), Some(snapshot)) = (reference.form, &snapshot) else {
            assert!(
                reference.form.is_none() && snapshot.is_none(),
                "an array {context}"
            );
            assert!(stored.is_none(), "an array in the store {context}");
            return;
        };
        let mut shape = vec![reference.rows];
        shape.extend_from_slice(form.row_shape());
        let meaning = (form.descr().to_owned(), false, shape);

        let found = self.system.contents(snapshot);
        let (head, body) = chunks::split(&found);
        assert_eq!(chunks::meaning(head), meaning, "{context}");
        assert!(body == reference.body, "other rows {context}");

        let stored = stored.expect(context);
        let (stored_head, rest) = chunks::split(&stored);
        assert_eq!(
            chunks::meaning(stored_head),
            meaning,
            "in the store, {context}"
        );
        assert!(
            rest.starts_with(&reference.body),
            "other rows in the store {context}"
        );

        for (earlier, rows, bytes) in &self.snapshots {
            let again = self.system.contents(earlier);
            assert!(
                again.starts_with(bytes),
                "an old header has changed {context}"
            );
            let body = &reference.body[..*rows as usize * ROW];
            assert!(
                &again[bytes.len()..] == body,
                "an old snapshot has changed {context}"
            );
        }
        let newer = self
            .snapshots
            .last()
            .is_none_or(|&(_, rows, _)| rows < reference.rows);
        if newer {
            if self.snapshots.len() == 3 {
                self.snapshots.remove(1);
            }
            let snapshot = self.system.snapshot().expect(context);
            self.snapshots
                .push((snapshot, reference.rows, head.to_vec()));
        }
    }
}

/// Like `assert_eq!`, and does not print megabytes.
fn same_bytes<E: Debug + PartialEq>(
    found: &Result<Vec<u8>, E>,
    expected: &Result<Vec<u8>, E>,
    context: &str,
) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert!(
            found == expected,
            "{} bytes found, {} expected, the first other one at {:?}, {context}",
            found.len(),
            expected.len(),
            found.iter().zip(expected).position(|(a, b)| a != b)
        ),
        _ => assert_eq!(
            found.as_ref().map(Vec::len),
            expected.as_ref().map(Vec::len),
            "{context}"
        ),
    }
}
