//! The one door out of Python: GIL, Ctrl-C, deadline and panic are handled here, and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use metricsdb_model::budget::Stop;
use metricsdb_model::{Budget, Error, Result};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;

use crate::error;

/// How often a waiting call looks for Ctrl-C: well under the 50 ms that a person notices.
const SIGNAL_POLL: Duration = Duration::from_millis(20);

/// Kernel threads evaluate trees of any allowed height, and may take up another query while they wait in one.
const KERNEL_STACK_BYTES: usize = 16 << 20;

/// Called once, when the module is loaded. A host that has made rayon's pool already keeps its own.
pub fn size_kernel_stacks() {
    let _ = rayon::ThreadPoolBuilder::new().stack_size(KERNEL_STACK_BYTES).build_global();
}

#[derive(Clone, Copy)]
pub struct Limits {
    pub timeout_ms: u64,
    pub samples_max: u64,
}

/// Runs `work` on the kernel pool without the GIL. The calling thread watches the deadline and Python's
/// signals meanwhile, and stops the work through its budget.
pub fn run<T: Send>(
    py: Python<'_>,
    limits: Limits,
    work: impl FnOnce(&Budget) -> Result<T> + Send,
) -> PyResult<T> {
    let stop = Stop::default();
    let budget = Budget::new(stop.clone(), limits.timeout_ms, limits.samples_max);
    let outcome: Mutex<Option<Result<T>>> = Mutex::new(None);
    let finished = Condvar::new();
    let interrupt = py.detach(|| {
        rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                let result = guarded(|| work(&budget));
                *outcome.lock() = Some(result);
                finished.notify_one();
            });
            watch(&outcome, &finished, &stop, Duration::from_millis(limits.timeout_ms))
        })
    });
    if let Some(signal) = interrupt {
        return Err(signal);
    }
    outcome.into_inner().unwrap_or(Err(Error::Cancelled)).map_err(|e| error::to_python(py, e))
}

/// As `run` for work whose length its input bounds (a write, a look-up in a table): no watching.
pub fn short<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(|| guarded(work)).map_err(|e| error::to_python(py, e))
}

/// Waits for the work, and returns the exception of a signal handler if one fired.
fn watch<T>(outcome: &Mutex<Option<T>>, finished: &Condvar, stop: &Stop, timeout: Duration) -> Option<PyErr> {
    let started = Instant::now();
    let mut interrupt = None;
    let mut slot = outcome.lock();
    while slot.is_none() {
        finished.wait_for(&mut slot, SIGNAL_POLL);
        if slot.is_some() {
            break;
        }
        if started.elapsed() >= timeout {
            stop.time_out();
        }
        if interrupt.is_none()
            && let Err(signal) =
                parking_lot::MutexGuard::unlocked(&mut slot, || Python::attach(|py| py.check_signals()))
        {
            stop.cancel();
            interrupt = Some(signal);
        }
    }
    interrupt
}

/// A panic is our bug, never the caller's crash.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(Error::execution(format!("internal error, please report it: {text}")))
    })
}
