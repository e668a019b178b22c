//! The memory for chunks in flight and for converting them.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bounds of [`Budget::share`].
const LEAST_SHARE: usize = 1 << 20;
const MOST_SHARE: usize = 16 << 20;

/// The memory that all chunks in flight may take together, in bytes.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    left: AtomicUsize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            total: bytes,
            left: AtomicUsize::new(bytes),
        })
    }

    /// What one thread may use for a conversion, in bytes: two take half of the budget.
    pub(crate) fn share(&self) -> usize {
        (self.total / 4).clamp(LEAST_SHARE, MOST_SHARE)
    }

    /// Takes a share for each thread that a conversion should have: one at least, even if none is
    /// left.
    pub(crate) fn threads(self: &Arc<Self>) -> (usize, Vec<Permit>) {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let most = cores.min(self.total / 2 / self.share());
        let permits: Vec<_> = (0..most).map_while(|_| self.take(self.share())).collect();
        (permits.len().max(1), permits)
    }

    /// Takes `bytes` out of the budget for as long as the permit lives; `None` if they are not left.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .ok()?;
        Some(Permit {
            budget: self.clone(),
            bytes,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_its_bytes_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(60).is_none());
        drop(first);
        assert!(budget.take(60).is_some());
    }
}
