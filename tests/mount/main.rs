//! The real binary, really mounted: what a system call does.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod closing;
mod errnos;
mod faults;
mod fsync;
mod full_disk;
mod inside_the_store;
mod killed;
mod locking;
mod logs;
mod mounting;
mod names;
mod opening;
mod outside_the_store;
mod panics;
mod power_cut;
mod promises;
mod quota;
mod readers;
mod recovery_log;
mod rejected;
mod removing;
mod replaced;
mod resources;
mod restart;
mod reused_names;
mod short_writes;
mod stopped;
mod truncation;
mod unmounting;
mod writing_orders;
