//! Random histories against a reference model: what every call answers, and what is there after
//! each of them (P1 to P4, P8, P10).
//!
//! A failure prints the shrunk history; it becomes a test of its own below, named after what went
//! wrong. `NPYFS_LONG=1` runs many more histories.
#![allow(missing_docs, unreachable_pub)]

#[path = "../chunks/mod.rs"]
mod chunks;
mod content;
mod reference;
mod run;
mod system;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use run::{Op, Run};
use system::Engine;

fn cases(normal: u32) -> Config {
    let long = std::env::var_os("NPYFS_LONG").is_some_and(|long| long == "1");
    Config {
        cases: if long { normal * 30 } else { normal },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

fn random(normal: u32, large: u64, len: usize, run: impl Fn(Vec<Op>)) {
    let histories = prop::collection::vec(Op::any(large), 1..len);
    let outcome = TestRunner::new(cases(normal)).run(&histories, |ops| {
        run(ops);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn the_engine_does_what_the_model_does() {
    random(250, 300, 60, |ops| Run::new(Engine::new(64 << 20)).run(&ops));
}

#[test]
fn the_engine_does_what_the_model_does_when_every_chunk_streams() {
    random(250, 300, 60, |ops| Run::new(Engine::new(0)).run(&ops));
}

#[test]
fn the_engine_does_what_the_model_does_with_bodies_over_a_mebibyte() {
    random(40, 20_000, 30, |ops| Run::new(Engine::new(16 << 10)).run(&ops));
}
