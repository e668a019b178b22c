//! Random operations, done on a system and on the reference, and compared after each.

use std::fmt::Debug;

use nix::errno::Errno;

use crate::chunks;
use crate::content::{HEAD, ROW, Spec, with_count};
use crate::ops::{Count, NAMES, Op, SLOTS};
use crate::reference::{Answer, Holder, Left, Reference};
use crate::system::System;

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
            Op::Header { slot, count } => {
                let Some(plan) = &mut self.plans[slot] else {
                    return;
                };
                let rows = |bytes: usize| (bytes.saturating_sub(HEAD) / ROW) as u64;
                let header = match count {
                    Count::Blank => vec![b' '; HEAD],
                    Count::Zero => with_count(&plan.file, 0),
                    Count::SoFar => with_count(&plan.file, rows(plan.at)),
                    Count::All => with_count(&plan.file, rows(plan.file.len())),
                };
                plan.at = plan.at.max(header.len().min(plan.file.len()));
                self.write(slot, &header, 0, context);
            }
            Op::SetLen { slot, percent } => self.set_len(slot, percent, context),
            Op::Reserve { slot, percent } => {
                let Some(plan) = &self.plans[slot] else {
                    return;
                };
                let end = (plan.file.len() * percent / 100).max(1);
                if self.has_own(slot)
                    && let Some(handle) = &self.handles[slot]
                {
                    let found = self.system.reserve(handle, end as u64);
                    assert_eq!(found, self.reference.reserve(slot, end), "{context}");
                }
            }
            Op::Read { slot } => {
                if self.has_own(slot)
                    && let Some(handle) = &self.handles[slot]
                    && let Some(found) = self.system.read(handle)
                {
                    same_bytes(&found, &self.reference.read(slot), context);
                }
            }
            Op::Flush { slot } => {
                if self.has_own(slot) {
                    self.dup(slot, Holder::Own, context);
                    self.close_one(slot, usize::MAX, true, context);
                }
            }
            Op::Spawn => {
                let closed = self.system.spawn(&self.handles);
                self.flushed(closed, context);
            }
            Op::Dup { slot, holder } => {
                if self.has_own(slot) {
                    self.dup(slot, holder, context);
                }
            }
            Op::Receive { slot } => {
                let Some(handle) = &mut self.handles[slot] else {
                    return;
                };
                let held = &mut self.reference.handle_mut(slot).held;
                if let Some(n) = held.iter().position(|it| *it == Holder::Socket) {
                    held[n] = Holder::Own;
                    self.system.receive(handle, n);
                }
            }
            Op::CloseOne {
                slot,
                which,
                killed,
            } => {
                if self.handles[slot].is_some() {
                    self.close_one(slot, which, !killed, context);
                }
            }
            Op::Fsync { slot } => {
                if self.has_own(slot)
                    && let Some(handle) = &self.handles[slot]
                {
                    let found = self.system.fsync(handle);
                    assert_eq!(found, self.reference.fsync(slot), "{context}");
                }
            }
            Op::Through {
                slot,
                of,
                truncate,
                spec,
            } => {
                if slot != of {
                    self.close(slot, context);
                    self.through(slot, of, truncate, spec, context);
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
                let found = self.system.rename(from, to);
                assert_eq!(found, self.reference.rename(from, to), "{context}");
            }
            Op::RenameFile { name, spec, same } => {
                let bytes = self.file(NAMES[name], spec, same);
                let found = self.system.rename_file(&bytes, NAMES[name]);
                let expected = self.reference.rename_file(&bytes, NAMES[name]);
                assert_eq!(found, expected, "{context}");
            }
            Op::Truncate { name, len } => {
                let found = self.system.truncate(NAMES[name], len as u64);
                let expected = self.reference.truncate(NAMES[name], len);
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
        match self.reference.array.committed(name) {
            Some(chunk) if same => self.reference.array.chunks[chunk].original.clone(),
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
        let found = self.system.open(slot, name, truncate);
        let expected = self.reference.open(slot, name, truncate);
        self.opened(slot, found, expected, file, context);
    }

    fn through(&mut self, slot: usize, of: usize, truncate: bool, spec: Spec, context: &str) {
        if !self.has_own(of) {
            return;
        }
        let (Some(handle), Some(name)) = (&self.handles[of], self.reference.name_of(of)) else {
            return;
        };
        let found = self.system.through(slot, handle, &name, truncate);
        let expected = self.reference.open(slot, &name, truncate);
        // What goes on with the bytes that are there goes on where the other is.
        let (file, at) = match &self.plans[of] {
            Some(plan) if !truncate => (plan.file.clone(), plan.at),
            _ => (spec.bytes(), 0),
        };
        self.opened(slot, found, expected, file, context);
        if let Some(plan) = &mut self.plans[slot] {
            plan.at = at;
        }
    }

    fn opened(
        &mut self,
        slot: usize,
        found: Result<S::Handle, Errno>,
        expected: Answer,
        file: Vec<u8>,
        context: &str,
    ) {
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

    /// Whether our process has a descriptor of the handle, to make calls with.
    fn has_own(&self, slot: usize) -> bool {
        self.handles[slot].is_some() && self.reference.handle(slot).held.contains(&Holder::Own)
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
        if self.has_own(slot)
            && let Some(handle) = &self.handles[slot]
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
        if self.has_own(slot)
            && let Some(handle) = &self.handles[slot]
        {
            let found = self.system.set_len(handle, len as u64);
            assert_eq!(found, self.reference.set_len(slot, len), "{context}");
        }
    }

    fn dup(&mut self, slot: usize, holder: Holder, context: &str) {
        let closed = self.system.dup(&mut self.handles, slot, holder);
        self.reference.handle_mut(slot).held.push(holder);
        self.flushed(closed, context);
    }

    /// A program that was started has closed its copies of these handles' descriptors.
    fn flushed(&mut self, closed: Vec<(usize, Option<Answer>)>, context: &str) {
        for (slot, found) in closed {
            let (others, meant) = (true, true);
            let expected = self.reference.flush(slot, Left { others, meant });
            assert_eq!(found.unwrap_or(expected), expected, "{context}");
        }
    }

    /// Closes the n-th descriptor of a handle that has one. `meant`: by a call of `close`.
    fn close_one(&mut self, slot: usize, n: usize, meant: bool, context: &str) {
        let held = &self.reference.handle(slot).held;
        let n = if n == usize::MAX {
            held.len() - 1
        } else {
            n % held.len()
        };
        let meant = meant || held[n] == Holder::Own;
        let left = self.reference.left(slot, meant);
        let handle = self.handles[slot].as_mut().expect("it is open");
        let found = self.system.close(handle, n, left);
        let expected = self.reference.close(slot, n, left);
        if let (Some(found), Some(expected)) = (found, expected) {
            assert_eq!(found, expected, "{context}");
        }
        if self.reference.handle(slot).held.is_empty() {
            self.plans[slot] = None;
            self.system
                .ended(self.handles[slot].take().expect("it is open"));
            self.reference.release(slot);
        }
    }

    /// Closes every descriptor of a handle.
    fn close(&mut self, slot: usize, context: &str) {
        while self.handles[slot].is_some() {
            self.close_one(slot, 0, true, context);
        }
    }

    fn check(&mut self, context: &str) {
        self.check_array(context);
        let reference = &self.reference;
        assert_eq!(self.system.names(), reference.names(), "{context}");
        let lines: Vec<_> = reference
            .array
            .chunks
            .iter()
            .map(|chunk| (chunk.name.clone(), chunk.first_row, chunk.rows))
            .collect();
        assert_eq!(self.system.lines(), lines, "{context}");
        for chunk in &reference.array.chunks {
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
        for name in NAMES {
            let is_there = reference.array.committed(name).is_some()
                || reference.is_in_flight(name)
                || reference.empty.contains(name);
            assert!(
                is_there || self.system.chunk(name).is_none(),
                "{name} is there {context}"
            );
        }
    }

    fn check_array(&mut self, context: &str) {
        let reference = &self.reference.array;
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
