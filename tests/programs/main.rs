//! Other people's programs as producers and readers of a mount.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod languages;
mod last_close;
mod mapped_producers;
mod mirrors;
mod numpy;
mod producers;
mod rsyncd;
mod samba;
mod servers;
mod spellings;
mod ssh;
mod tools;
