//! The engine on its own: what a crash, a fault or another store leaves, and what it does of it.

#[path = "../chunks/mod.rs"]
mod chunks;
#[macro_use]
#[path = "../common/mod.rs"]
mod common;
#[path = "../simulated/mod.rs"]
mod simulated;

mod adoption;
mod backup;
mod bad_input;
mod concurrency;
mod conversion;
mod copies;
mod crash;
mod failures;
mod left_in_flight;
mod rescued;
mod sparse;
mod stores;
mod verifying;
