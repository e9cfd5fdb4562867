//! What runs: who is let in, by class; the list; who is ended, and who gives way.
//!
//! Each class has a pool of its own, so that a worker that gives way holds up nobody above it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use metricsdb_model::budget::{Gate, Limits, Stop, Visits};
use metricsdb_model::memory::{QueryShare, Step};
use metricsdb_model::{Budget, Error, MemoryLimit, Result};
use parking_lot::{Condvar, Mutex};

/// How long a worker gives way at one check. Bounded, so that whatever it holds is not held for good.
const PAUSE: Duration = Duration::from_millis(5);

/// Checks that follow each other faster are not measured one by one.
const PROBE_EVERY: Duration = Duration::from_millis(1);

/// Who goes first: alerts before people before batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Alert = 0,
    Query = 1,
    Batch = 2,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Alert, Class::Query, Class::Batch];

    pub fn as_str(self) -> &'static str {
        match self {
            Class::Alert => "alert",
            Class::Query => "query",
            Class::Batch => "batch",
        }
    }

    /// What of the memory limit its queries meet.
    pub fn step(self) -> Step {
        match self {
            Class::Alert => Step::AlertQueries,
            Class::Query => Step::Queries,
            Class::Batch => Step::BatchQueries,
        }
    }

    pub fn from_name(name: &str) -> Result<Class> {
        Class::ALL.into_iter().find(|class| class.as_str() == name).ok_or_else(|| {
            Error::input("priority", name, "is no class of queries", "use alert, query or batch")
        })
    }
}

/// What a call is to the list of queries.
pub struct Ask<'a> {
    pub class: Class,
    pub expr: &'a str,
    pub source: &'a str,
    pub limits: Limits,
    pub stop: Stop,
    pub visits: Option<Visits>,
}

/// How many queries of each class run at once, how many more may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    pub running_max: [usize; 3],
    pub waiting_max: usize,
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Running,
    /// Evaluated; its answer is on its way out.
    Writing,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Running => "running",
            Phase::Writing => "writing",
        }
    }
}

struct Entry {
    class: Class,
    expr: String,
    source: String,
    begun: Instant,
    phase: Phase,
    stop: Stop,
    budget: Budget,
}

impl Entry {
    fn is_waiting(&self, class: Class) -> bool {
        self.class == class && self.phase == Phase::Waiting
    }
}

/// A line of the list.
pub struct Row {
    pub id: u64,
    pub class: &'static str,
    pub expr: String,
    pub source: String,
    pub phase: &'static str,
    pub seconds: f64,
    pub samples: u64,
    pub bytes: u64,
    pub bytes_peak: u64,
}

pub struct Queries {
    shared: Arc<Shared>,
}

struct Shared {
    admission: Admission,
    memory: Arc<MemoryLimit>,
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// An entry was let in, or ended.
    changed: Condvar,
    /// Queries that run, by class.
    running: [AtomicUsize; 3],
    next: AtomicU64,
    turn: Mutex<()>,
    freed: Condvar,
    probing: AtomicBool,
    /// Nanoseconds of CPU between two checks of one thread, at most.
    longest_gap: AtomicU64,
}

impl Queries {
    pub fn new(admission: Admission, memory: Arc<MemoryLimit>) -> Queries {
        Queries {
            shared: Arc::new(Shared {
                admission,
                memory,
                entries: Mutex::default(),
                changed: Condvar::new(),
                running: Default::default(),
                next: AtomicU64::new(1),
                turn: Mutex::default(),
                freed: Condvar::new(),
                probing: AtomicBool::new(false),
                longest_gap: AtomicU64::new(0),
            }),
        }
    }

    /// Puts a call on the list: running, or waiting for its turn. Refuses it with `Error::Busy` where too many wait,
    /// with `Error::Memory` where memory is short for its class.
    pub fn enter(&self, ask: Ask<'_>) -> Result<Ticket> {
        let Ask { class, expr, source, limits, stop, visits } = ask;
        let shared = &self.shared;
        shared.memory.admit(class.step(), 0)?;
        let mut entries = shared.entries.lock();
        let waiting = entries.values().filter(|e| e.is_waiting(class)).count();
        let has_room = waiting == 0 && shared.has_room(class);
        if !has_room && waiting >= shared.admission.waiting_max {
            return Err(shared.busy(class, waiting));
        }
        let id = shared.next.fetch_add(1, Relaxed);
        let gate = Turnstile { shared: shared.clone(), class, id };
        let limited = shared.memory.limit().is_some();
        let share = limited.then(|| QueryShare::new(shared.memory.clone(), class.step()));
        let budget = Budget::sharing(stop.clone(), limits, Some(Arc::new(gate)), visits, share);
        let begun = Instant::now();
        let entry = Entry {
            class,
            expr: expr.to_owned(),
            source: source.to_owned(),
            begun,
            phase: Phase::Waiting,
            stop: stop.clone(),
            budget: budget.clone(),
        };
        entries.insert(id, entry);
        if has_room {
            shared.let_in(&mut entries, class);
        }
        drop(entries);
        Ok(Ticket { shared: shared.clone(), id, class, begun, stop, budget })
    }

    /// Counts a query that ended since memory is short.
    pub fn note_refused(&self, error: &Error) {
        if let Error::Memory { step, .. } = error {
            self.shared.memory.count_refused(*step, 1);
        }
    }

    pub fn list(&self) -> Vec<Row> {
        let entries = self.shared.entries.lock();
        let row = |(&id, e): (&u64, &Entry)| Row {
            id,
            class: e.class.as_str(),
            expr: e.expr.clone(),
            source: e.source.clone(),
            phase: e.phase.as_str(),
            seconds: e.begun.elapsed().as_secs_f64(),
            samples: e.budget.samples_used(),
            bytes: e.budget.bytes_held(),
            bytes_peak: e.budget.bytes_peak(),
        };
        entries.iter().map(row).collect()
    }

    /// Ends a query at its next check; false where none has this id.
    pub fn kill(&self, id: u64) -> bool {
        let entries = self.shared.entries.lock();
        let known = entries.get(&id);
        known.iter().for_each(|entry| entry.stop.kill());
        self.shared.changed.notify_all();
        known.is_some()
    }

    /// Measures from now on how much CPU a thread takes between two checks; gives the longest so far, and forgets it.
    pub fn probe(&self, on: bool) -> Duration {
        self.shared.probing.store(on, Relaxed);
        Duration::from_nanos(self.shared.longest_gap.swap(0, Relaxed))
    }
}

impl Shared {
    fn has_room(&self, class: Class) -> bool {
        self.running[class as usize].load(Relaxed) < self.admission.running_max[class as usize]
    }

    fn busy(&self, class: Class, waiting: usize) -> Error {
        Error::Busy {
            class: class.as_str(),
            running: self.running[class as usize].load(Relaxed) as u64,
            waiting: waiting as u64,
        }
    }

    /// Lets the first in the line run, as long as there is room.
    fn let_in(&self, entries: &mut BTreeMap<u64, Entry>, class: Class) {
        for entry in entries.values_mut().filter(|e| e.is_waiting(class)) {
            if !self.has_room(class) {
                break;
            }
            entry.phase = Phase::Running;
            self.running[class as usize].fetch_add(1, Relaxed);
        }
        self.give_way(entries);
        self.changed.notify_all();
    }

    /// Tells each query whether one of a higher class runs.
    fn give_way(&self, entries: &BTreeMap<u64, Entry>) {
        let probing = self.probing.load(Relaxed);
        entries.values().for_each(|e| e.stop.pause(probing || self.is_above(e.class)));
        self.freed.notify_all();
    }

    fn is_above(&self, class: Class) -> bool {
        self.running[..class as usize].iter().any(|n| n.load(Relaxed) > 0)
    }
}

/// A call on the list; off it when dropped.
pub struct Ticket {
    shared: Arc<Shared>,
    id: u64,
    pub class: Class,
    pub begun: Instant,
    pub stop: Stop,
    pub budget: Budget,
}

impl Ticket {
    /// Waits until it is this call's turn, at most for `poll`: says whether it is. Fails when it was ended, or when it
    /// has waited too long.
    pub fn wait(&self, poll: Duration) -> Result<bool> {
        let mut entries = self.shared.entries.lock();
        let is_waiting = |entries: &BTreeMap<u64, Entry>| {
            entries.get(&self.id).is_some_and(|entry| entry.phase == Phase::Waiting)
        };
        if is_waiting(&entries) && !self.stop.is_ended() {
            self.shared.changed.wait_for(&mut entries, poll);
        }
        if !is_waiting(&entries) {
            return Ok(true);
        }
        let waiting = entries.values().filter(|e| e.is_waiting(self.class)).count();
        drop(entries);
        self.budget.check()?;
        match self.begun.elapsed() >= self.shared.admission.wait {
            true => Err(self.shared.busy(self.class, waiting)),
            false => Ok(false),
        }
    }

    /// The evaluation is over: the next may run, while this call stays on the list until its answer is out.
    pub fn evaluated(&self) {
        self.move_on(|entries| {
            let entry = entries.get_mut(&self.id)?;
            Some(std::mem::replace(&mut entry.phase, Phase::Writing))
        });
    }

    fn move_on(&self, change: impl FnOnce(&mut BTreeMap<u64, Entry>) -> Option<Phase>) {
        let mut entries = self.shared.entries.lock();
        if change(&mut entries) == Some(Phase::Running) {
            self.shared.running[self.class as usize].fetch_sub(1, Relaxed);
        }
        self.shared.let_in(&mut entries, self.class);
    }

    /// For the probe: the work begins or ends in this thread.
    pub fn note(&self) {
        self.shared.note(self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.move_on(|entries| entries.remove(&self.id).map(|entry| entry.phase));
    }
}

/// The gate of one query.
struct Turnstile {
    shared: Arc<Shared>,
    class: Class,
    id: u64,
}

impl Gate for Turnstile {
    fn pass(&self) {
        self.shared.note(self.id);
        if self.shared.is_above(self.class) {
            let mut turn = self.shared.turn.lock();
            self.shared.freed.wait_for(&mut turn, PAUSE);
        }
    }
}

thread_local! {
    /// Query, and wall time and CPU time of this thread at a check of a millisecond ago or less.
    static LAST_CHECK: Cell<Option<(u64, Instant, u64)>> = const { Cell::new(None) };
}

impl Shared {
    fn note(&self, id: u64) {
        if !self.probing.load(Relaxed) {
            return;
        }
        let now = Instant::now();
        let last = LAST_CHECK.get().filter(|last| last.0 == id);
        if last.is_some_and(|last| now - last.1 < PROBE_EVERY) {
            return;
        }
        let cpu = cpu_time();
        LAST_CHECK.set(Some((id, now, cpu)));
        if let Some(last) = last {
            self.longest_gap.fetch_max(cpu.saturating_sub(last.2), Relaxed);
        }
    }
}

/// CPU time of this thread in nanoseconds, to some milliseconds; 0 where the kernel does not say.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}
