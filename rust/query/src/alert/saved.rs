//! The machine as bytes, and as the series that say what it holds.
//!
//! Version 1: integers are LEB128, times zigzag LEB128 of milliseconds, texts a length and UTF-8, values 8 bytes little
//! endian. `1, levels, folded_at?, instances, {labels, {name, value}, folded, level…}`; a `?` is a byte 0 or 1 before
//! what may be missing.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Error, Labels, Result};

use super::compile::Plan;
use super::flap::Flapping;
use super::machine::{Instance, LevelState, Machine, Phase, State};

const VERSION: u64 = 1;
/// Counts from bytes are believed up to this before anything is reserved.
const RESERVE_MAX: usize = 1024;

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn time(&mut self, ms: i64) {
        self.number((ms << 1 ^ ms >> 63) as u64);
    }

    fn maybe(&mut self, ms: Option<i64>) {
        self.0.push(u8::from(ms.is_some()));
        ms.into_iter().for_each(|ms| self.time(ms));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn level(&mut self, level: &LevelState) {
        let flags = [level.unknown, level.announced, level.flapping.on];
        let flags = flags.iter().enumerate().fold(0, |all, (i, on)| all | u8::from(*on) << i);
        self.0.push(level.phase as u8 | flags << 2);
        for ms in [level.pending_at, level.firing_at, level.clearing_at, level.flapping.moved_at] {
            self.time(ms);
        }
        for ms in [level.quiet_at, level.nodata_at, level.resolved_at] {
            self.maybe(ms);
        }
        self.number(level.fired);
        self.number(level.cleared);
        self.0.extend_from_slice(&level.value.to_bits().to_le_bytes());
        self.number(level.flapping.changes.len() as u64);
        level.flapping.changes.iter().for_each(|ms| self.time(*ms));
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, message: &str) -> Error {
        Error::corruption("alert state", self.at, message)
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(self.wrong("it ends too early")) };
        let found = &self.bytes[self.at..end];
        self.at = end;
        Ok(found)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(self.wrong("a number is too long"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    fn count(&mut self) -> Result<usize> {
        // More than fits is more than there is to read.
        Ok(usize::try_from(self.number()?).unwrap_or(usize::MAX))
    }

    fn time(&mut self) -> Result<i64> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong("a flag is neither 0 nor 1")),
        }
    }

    fn maybe(&mut self) -> Result<Option<i64>> {
        if self.flag()? { self.time().map(Some) } else { Ok(None) }
    }

    fn text(&mut self) -> Result<String> {
        let count = self.count()?;
        let bytes = self.take(count)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.wrong("a text is not UTF-8"))
    }

    fn labels(&mut self) -> Result<Labels> {
        let count = self.count()?;
        let mut pairs = Vec::with_capacity(count.min(RESERVE_MAX));
        for _ in 0..count {
            pairs.push((self.text()?, self.text()?));
        }
        Labels::from_pairs(pairs).map_err(|_| self.wrong("these are no labels"))
    }

    fn level(&mut self) -> Result<LevelState> {
        let head = self.byte()?;
        let phase = match head & 3 {
            0 => Phase::Inactive,
            1 => Phase::Pending,
            2 => Phase::Firing,
            _ => Phase::Clearing,
        };
        if head >> 5 != 0 {
            return Err(self.wrong("unknown flags"));
        }
        let (pending_at, firing_at, clearing_at, moved_at) =
            (self.time()?, self.time()?, self.time()?, self.time()?);
        let (quiet_at, nodata_at, resolved_at) = (self.maybe()?, self.maybe()?, self.maybe()?);
        let (fired, cleared) = (self.number()?, self.number()?);
        let mut value = [0; 8];
        value.copy_from_slice(self.take(8)?);
        let count = self.count()?;
        let mut changes = Vec::with_capacity(count.min(RESERVE_MAX));
        for _ in 0..count {
            changes.push(self.time()?);
        }
        Ok(LevelState {
            phase,
            pending_at,
            firing_at,
            clearing_at,
            quiet_at,
            fired,
            cleared,
            nodata_at,
            unknown: head & 4 != 0,
            announced: head & 8 != 0,
            resolved_at,
            value: f64::from_bits(u64::from_le_bytes(value)),
            flapping: Flapping { changes, moved_at, on: head & 16 != 0 },
        })
    }
}

impl Machine {
    /// All state, so that a machine of the same plan goes on from it as this one would.
    pub fn to_bytes(&self, plan: &Plan) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(VERSION);
        out.number(plan.levels.len() as u64);
        out.maybe(self.folded_at);
        out.number(self.instances.len() as u64);
        for (labels, instance) in &self.instances {
            out.number(labels.iter().count() as u64);
            for (name, value) in labels.iter() {
                out.text(name);
                out.text(value);
            }
            out.0.push(u8::from(instance.folded));
            instance.levels.iter().for_each(|level| out.level(level));
        }
        out.0
    }

    /// The machine that wrote the bytes. Fails with `Error::Corruption`, also where they are of an alert with another
    /// number of levels, and with `Error::Version`.
    pub fn from_bytes(plan: &Plan, bytes: &[u8]) -> Result<Machine> {
        let mut from = Reader { bytes, at: 0 };
        let found = from.number()?;
        if found != VERSION {
            return Err(Error::Version { file: "alert state".to_owned(), found, known: VERSION });
        }
        if from.count()? != plan.levels.len() {
            return Err(from.wrong("it is of an alert with other levels"));
        }
        let folded_at = from.maybe()?;
        let mut machine = Machine { folded_at, ..Machine::default() };
        for _ in 0..from.number()? {
            let labels = from.labels()?;
            let folded = from.flag()?;
            let levels = plan.levels.iter().map(|_| from.level()).collect::<Result<Vec<_>>>()?;
            machine.instances.insert(labels, Instance { levels, folded });
        }
        match from.at == bytes.len() {
            true => Ok(machine),
            false => Err(from.wrong("something follows its end")),
        }
    }

    /// The series that hold its state, in the order of instances: `ALERTS` of what shows (a level that no higher one
    /// hides), `ALERTS_FOR_STATE` (s since the epoch), `ALERTS_LEVEL` (from 1 on), `ALERTS_FLAPPING`.
    pub fn series(&self, plan: &Plan) -> Vec<(Labels, f64)> {
        let mut found = Vec::new();
        for (labels, instance) in &self.instances {
            let highest = instance.levels.iter().rposition(is_firing);
            for (l, level) in instance.levels.iter().enumerate() {
                if level.flapping.on {
                    found.push((named(plan, labels, Some(l), &[(METRIC_NAME, "ALERTS_FLAPPING")]), 1.0));
                }
                let state = match level.shown() {
                    State::Inactive => continue,
                    State::Clearing => State::Firing,
                    shown => shown,
                };
                let seconds = level.pending_at as f64 / 1e3;
                found.push((named(plan, labels, Some(l), &[(METRIC_NAME, "ALERTS_FOR_STATE")]), seconds));
                if highest.is_none_or(|highest| highest <= l) {
                    let own = [(METRIC_NAME, "ALERTS"), ("alertstate", state.as_str())];
                    found.push((named(plan, labels, Some(l), &own), 1.0));
                }
            }
            if let Some(l) = highest.filter(|l| plan.levels[*l].name.is_some()) {
                found.push((named(plan, labels, None, &[(METRIC_NAME, "ALERTS_LEVEL")]), l as f64 + 1.0));
            }
        }
        if self.folded_at.is_some() {
            let folded = self.instances.values().filter(|instance| instance.folded).count();
            let own = [(METRIC_NAME, "ALERTS_FOLDED")];
            found.push((named(plan, &Labels::empty(), None, &own), folded as f64));
        }
        found
    }

    /// What is active or flapping: the labels of the instance, the level, its state.
    pub fn active(&self) -> impl Iterator<Item = Active<'_>> {
        self.instances.iter().flat_map(|(labels, instance)| {
            let highest = instance.levels.iter().rposition(is_firing);
            instance.levels.iter().enumerate().filter(|(_, level)| level.phase != Phase::Inactive).map(
                move |(l, level)| Active {
                    labels,
                    level: l,
                    state: level.shown(),
                    pending_at: level.pending_at,
                    firing_at: is_firing(level).then_some(level.firing_at),
                    value: level.value,
                    flapping: level.flapping.on,
                    announced: level.announced,
                    hidden: highest.is_some_and(|highest| highest > l) || instance.folded,
                },
            )
        })
    }

    /// Forgets everything, and fails, where more than `limit` alerts are active: as Prometheus does with a group's.
    pub fn keep_to(&mut self, limit: usize) -> Result<()> {
        let count = self.active().count();
        if count <= limit {
            return Ok(());
        }
        *self = Machine::default();
        Err(Error::execution(format!("exceeded limit of {limit} with {count} alerts")))
    }

    /// Since when instances are folded into a summary, and how many are.
    pub fn folded(&self) -> Option<(i64, usize)> {
        let count = || self.instances.values().filter(|instance| instance.folded).count();
        self.folded_at.map(|at| (at, count()))
    }
}

/// A level of an instance that is not inactive.
#[derive(Clone, Copy, Debug)]
pub struct Active<'m> {
    pub labels: &'m Labels,
    pub level: usize,
    pub state: State,
    pub pending_at: i64,
    pub firing_at: Option<i64>,
    pub value: f64,
    pub flapping: bool,
    pub announced: bool,
    /// A higher level fires, or it is folded.
    pub hidden: bool,
}

/// Also where nobody knows for want of data.
fn is_firing(level: &LevelState) -> bool {
    matches!(level.phase, Phase::Firing | Phase::Clearing)
}

/// The labels of a level of an instance, with those of the statement and of the alert. Texts with `{{` are templates,
/// which Python renders: they are no labels of series.
pub fn named(plan: &Plan, labels: &Labels, level: Option<usize>, own: &[(&str, &str)]) -> Labels {
    let mut named = labels.clone();
    let level = level.and_then(|l| plan.levels.get(l));
    let common = plan.alert.clauses.own.labels.as_deref().unwrap_or(&[]);
    for (name, text) in level.map_or(common, |level| &level.labels) {
        if !text.contains("{{") {
            named = named.with(name, text);
        }
    }
    if let Some(severity) = level.and_then(|level| level.name.as_ref()) {
        named = named.with("severity", severity);
    }
    for (name, text) in own {
        named = named.with(name, text);
    }
    named.with("alertname", &plan.name)
}
