//! The one door out of Python: GIL, Ctrl-C, deadline, turn and panic are handled here, and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metricsdb_model::{Budget, Error, Result};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};

use crate::error;
use crate::queries::{Ask, Class, Queries, Ticket};

/// How often a waiting call looks for Ctrl-C: well under the 50 ms that a person notices.
const SIGNAL_POLL: Duration = Duration::from_millis(10);

/// Kernel threads evaluate trees of any allowed height, and may take up another query while they wait in one.
const KERNEL_STACK_BYTES: usize = 16 << 20;

/// Called once, when the module is loaded. A host that has made rayon's pool already keeps its own.
pub fn size_kernel_stacks() {
    Pools::here();
    let _ = ThreadPoolBuilder::new().stack_size(KERNEL_STACK_BYTES).build_global();
}

/// The pools of one process by class. A forked child has none of its parent's threads, and begins with its own.
#[derive(Default)]
struct Pools {
    process: u32,
    of_class: [OnceLock<Option<ThreadPool>>; 3],
    of_child: OnceLock<Box<Pools>>,
}

static FIRST: OnceLock<Pools> = OnceLock::new();

impl Pools {
    fn of(process: u32) -> Pools {
        Pools { process, ..Pools::default() }
    }

    /// Those of this process; no lock that a fork might leave locked is taken for any that exist.
    fn here() -> &'static Pools {
        let process = std::process::id();
        let mut pools = FIRST.get_or_init(|| Pools::of(process));
        while pools.process != process {
            pools = pools.of_child.get_or_init(|| Box::new(Pools::of(process)));
        }
        pools
    }

    fn is_first(&self) -> bool {
        FIRST.get().is_some_and(|first| first.process == self.process)
    }
}

/// The pool of a class; people's is the global one where that lives, which stands in where another cannot be made.
fn pool(class: Class) -> Option<&'static ThreadPool> {
    let pools = Pools::here();
    if class == Class::Query && pools.is_first() {
        return None;
    }
    let make = || ThreadPoolBuilder::new().stack_size(KERNEL_STACK_BYTES).build().ok();
    pools.of_class[class as usize].get_or_init(make).as_ref()
}

/// Runs `work` without the GIL, and with a pool that lives in this process.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| match pool(Class::Query) {
        Some(pool) => pool.install(work),
        None => work(),
    })
}

fn in_pool<'scope, R>(class: Class, work: impl FnOnce(&Scope<'scope>) -> R) -> R {
    match pool(class) {
        Some(pool) => pool.in_place_scope(work),
        None => rayon::in_place_scope(work),
    }
}

/// Runs `work` on the kernel pool of its class without the GIL, when its turn has come. The calling thread watches the
/// deadline and Python's signals meanwhile, and stops the work through its budget. Also gives the ticket: while it
/// lives, the call is on the list of queries.
pub fn run<T: Send>(
    py: Python<'_>,
    queries: &Queries,
    ask: Ask<'_>,
    work: impl FnOnce(&Budget) -> Result<T> + Send,
) -> PyResult<(T, Ticket)> {
    let timeout = Duration::from_millis(ask.limits.timeout_ms);
    let refused = |e| {
        queries.note_refused(&e);
        error::to_python(py, e)
    };
    let ticket = queries.enter(ask).map_err(refused)?;
    let (outcome, interrupt) = py.detach(|| {
        let mut watch = Watch { ticket: &ticket, timeout, interrupt: None };
        let outcome = watch.turn().and_then(|()| watch.work(work));
        (outcome, watch.interrupt)
    });
    match (interrupt, outcome) {
        (Some(signal), _) => Err(signal),
        (None, outcome) => Ok((outcome.map_err(refused)?, ticket)),
    }
}

/// As `run` for work whose length its input bounds (a write, a look-up in a table): no watching.
pub fn short<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    detached(py, || guarded(work)).map_err(|e| error::to_python(py, e))
}

struct Watch<'t> {
    ticket: &'t Ticket,
    timeout: Duration,
    /// The exception of a signal handler that fired.
    interrupt: Option<PyErr>,
}

impl Watch<'_> {
    /// Waits until it is the call's turn.
    fn turn(&mut self) -> Result<()> {
        while !self.ticket.wait(self.poll())? {
            self.look();
        }
        Ok(())
    }

    fn work<T: Send>(&mut self, work: impl FnOnce(&Budget) -> Result<T> + Send) -> Result<T> {
        let outcome: Mutex<Option<Result<T>>> = Mutex::new(None);
        let (finished, ticket) = (Condvar::new(), self.ticket);
        in_pool(ticket.class, |scope| {
            scope.spawn(|_| {
                ticket.note();
                let result = guarded(|| {
                    let done = work(&ticket.budget)?;
                    ticket.budget.check_samples()?;
                    Ok(done)
                });
                ticket.note();
                *outcome.lock() = Some(result);
                finished.notify_one();
            });
            let mut slot = outcome.lock();
            while slot.is_none() {
                finished.wait_for(&mut slot, self.poll());
                if slot.is_none() {
                    parking_lot::MutexGuard::unlocked(&mut slot, || self.look());
                }
            }
        });
        outcome.into_inner().unwrap_or(Err(Error::Cancelled))
    }

    /// Until the next look: not past the deadline.
    fn poll(&self) -> Duration {
        let left = self.timeout.saturating_sub(self.ticket.begun.elapsed());
        if left.is_zero() { SIGNAL_POLL } else { left.min(SIGNAL_POLL) }
    }

    /// Stops the work when its time is over or a signal handler raises.
    fn look(&mut self) {
        if self.ticket.begun.elapsed() >= self.timeout {
            self.ticket.stop.time_out();
        }
        if self.interrupt.is_none()
            && let Err(signal) = Python::attach(|py| py.check_signals())
        {
            self.ticket.stop.cancel();
            self.interrupt = Some(signal);
        }
    }
}

/// When a call that began at `begun` is over.
pub fn deadline(begun: Instant, timeout_ms: u64) -> Option<Instant> {
    begun.checked_add(Duration::from_millis(timeout_ms))
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
