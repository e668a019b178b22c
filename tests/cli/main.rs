//! The commands, what they say, and what the pages say of them.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod automount;
mod check;
mod commands;
mod daemon_log;
mod demo;
mod docs;
mod lock_holder;
mod options;
mod readme;
mod status;
mod why;
