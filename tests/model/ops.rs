//! What is done in a history.

use proptest::bool::weighted;
use proptest::prelude::*;

use crate::content::{HEAD, ROW, Spec};
use crate::reference::Holder;

/// How many handles there are at a time.
pub const SLOTS: usize = 4;
/// The names of the chunks.
pub const NAMES: [&str; 5] = ["a.npy", "b.npy", "c.npy", "d e.npy", "ü.npy"];

/// The count of rows that a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// No header at all: blanks.
    Blank,
    Zero,
    /// As many whole rows as were written.
    SoFar,
    All,
}

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
    /// Writes something else after the header.
    Scribble {
        slot: usize,
        offset: usize,
    },
    /// Writes the header again, or for the first time.
    Header {
        slot: usize,
        count: Count,
    },
    /// To nothing, to so much percent of the file, or beyond it.
    SetLen {
        slot: usize,
        percent: usize,
    },
    /// `posix_fallocate`.
    Reserve {
        slot: usize,
        percent: usize,
    },
    Read {
        slot: usize,
    },
    /// One more descriptor, made and closed.
    Flush {
        slot: usize,
    },
    /// A program is started, which inherits nothing: its copies of the descriptors are closed.
    Spawn,
    /// One more descriptor of the handle, wherever that is.
    Dup {
        slot: usize,
        holder: Holder,
    },
    /// Takes a descriptor that is under way out of its socket.
    Receive {
        slot: usize,
    },
    /// Closes one of the descriptors. `killed`: where another process has it, that ends instead.
    CloseOne {
        slot: usize,
        which: usize,
        killed: bool,
    },
    Fsync {
        slot: usize,
    },
    /// Closes every descriptor.
    Close {
        slot: usize,
    },
    /// Opens once more what a handle has open, by `/proc/self/fd`.
    Through {
        slot: usize,
        of: usize,
        truncate: bool,
        spec: Spec,
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
    /// By name.
    Truncate {
        name: usize,
        len: usize,
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
            8 => (slot.clone(), name.clone(), weighted(0.7), spec.clone(), any::<bool>())
                .prop_map(|(slot, name, truncate, spec, same)| {
                    Op::Open { slot, name, truncate, spec, same }
                }),
            8 => (slot.clone(), bytes.clone()).prop_map(|(slot, bytes)| Op::Write { slot, bytes }),
            6 => slot.clone().prop_map(|slot| Op::Finish { slot }),
            2 => (slot.clone(), 0..100usize, bytes)
                .prop_map(|(slot, percent, bytes)| Op::WriteAt { slot, percent, bytes }),
            1 => (slot.clone(), 0..400usize)
                .prop_map(|(slot, offset)| Op::Scribble { slot, offset }),
            1 => (slot.clone(), prop_oneof![Just(0), Just(100), 1..130usize])
                .prop_map(|(slot, percent)| Op::SetLen { slot, percent }),
            2 => slot.clone().prop_map(|slot| Op::Read { slot }),
            2 => (slot.clone(), Count::any()).prop_map(|(slot, count)| Op::Header { slot, count }),
            1 => (slot.clone(), prop_oneof![Just(100), 1..130usize])
                .prop_map(|(slot, percent)| Op::Reserve { slot, percent }),
            3 => slot.clone().prop_map(|slot| Op::Flush { slot }),
            2 => Just(Op::Spawn),
            4 => (slot.clone(), holder()).prop_map(|(slot, holder)| Op::Dup { slot, holder }),
            1 => slot.clone().prop_map(|slot| Op::Receive { slot }),
            4 => (slot.clone(), 0..4usize, any::<bool>())
                .prop_map(|(slot, which, killed)| Op::CloseOne { slot, which, killed }),
            2 => slot.clone().prop_map(|slot| Op::Fsync { slot }),
            3 => (slot.clone(), slot.clone(), any::<bool>(), spec.clone())
                .prop_map(|(slot, of, truncate, spec)| Op::Through { slot, of, truncate, spec }),
            6 => slot.prop_map(|slot| Op::Close { slot }),
            6 => (name.clone(), spec.clone()).prop_map(|(name, spec)| Op::Append { name, spec }),
            1 => name.clone().prop_map(|name| Op::Unlink { name }),
            2 => (name.clone(), name.clone()).prop_map(|(from, to)| Op::Rename { from, to }),
            2 => (name.clone(), spec, any::<bool>())
                .prop_map(|(name, spec, same)| Op::RenameFile { name, spec, same }),
            1 => (name.clone(), prop_oneof![Just(0), Just(HEAD + ROW), 0..1000usize])
                .prop_map(|(name, len)| Op::Truncate { name, len }),
            1 => (name, 0o400..0o777u32, 0..2_000_000_000_000_000_000i64)
                .prop_map(|(name, mode, mtime)| {
                    Op::SetAttributes { name, mode: mode | 0o600, mtime }
                }),
            1 => Just(Op::Sync),
            1 => Just(Op::Reopen),
        ]
    }
}

impl Count {
    fn any() -> impl Strategy<Value = Count> {
        prop_oneof![
            1 => Just(Count::Blank),
            1 => Just(Count::Zero),
            3 => Just(Count::SoFar),
            2 => Just(Count::All),
        ]
    }
}

fn holder() -> impl Strategy<Value = Holder> {
    prop_oneof![
        3 => Just(Holder::Own),
        2 => Just(Holder::Child),
        1 => Just(Holder::Socket),
    ]
}
