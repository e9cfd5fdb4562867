//! Start timestamps: when the counter of a sample began, beside the samples of the few series that know it.
//!
//! The starts of a series are a function of its samples' times, kept as steps: a counter's start stands still
//! until it is reset, and a delta's keeps its distance, so that most series have one step or two. Steps of
//! irregular deltas are sealed by the codecs of samples.

use hashbrown::HashMap;
use metricsdb_model::{Error, Result, TimeRange, ValueKind};

use crate::chunk::{Chunk, SharedColumns, chunks_of, grown};
use crate::heap;

/// Steps that wait uncompressed.
const OPEN_STEPS_MAX: usize = 64;

/// The series of a shard that have start timestamps, by row.
#[derive(Default)]
pub struct Starts {
    rows: HashMap<u32, StartSeries>,
}

/// Start timestamps of one series. A clone shares the sealed steps.
#[derive(Clone)]
pub struct StartSeries {
    last: Step,
    earlier: Option<Box<Earlier>>,
}

/// All steps but the last: sealed ones, and behind them open ones.
#[derive(Clone, Default)]
struct Earlier {
    sealed: Vec<Chunk>,
    open: Vec<Step>,
}

/// What is known of samples from this time on, up to the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    from: i64,
    rule: Rule,
}

/// How a start follows from the sample's time, in 64 bits: with the lowest one clear the others are the start
/// itself, with it set they are the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule(i64);

impl Rule {
    const UNKNOWN: Rule = Rule(0);

    fn constant(start: i64) -> Rule {
        Rule(start << 1)
    }

    /// `None` where the distance does not fit.
    fn behind(time: i64, start: i64) -> Option<Rule> {
        time.checked_sub(start)?.checked_mul(2).map(|distance| Rule(distance | 1))
    }

    fn start_of(self, time: i64) -> i64 {
        if self.0 & 1 == 0 { self.0 >> 1 } else { time.saturating_sub(self.0 >> 1) }
    }
}

/// A start that 63 bits hold; others, which no clock ever showed, are not known.
fn kept(start: i64) -> i64 {
    if start.checked_mul(2).is_some() { start } else { 0 }
}

impl Starts {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `None` for a row without start timestamps.
    pub fn get(&self, row: u32) -> Option<&StartSeries> {
        self.rows.get(&row)
    }

    /// Whether the newest sample of a row is known to have this start; a look at the last step alone.
    pub fn says(&self, row: u32, time: i64, start: i64) -> bool {
        match self.rows.get(&row) {
            Some(StartSeries { last, .. }) => last.from <= time && last.rule.start_of(time) == kept(start),
            None => kept(start) == 0,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &StartSeries)> {
        self.rows.iter().map(|(&row, series)| (row, series))
    }

    /// Notes the start of a sample that is newer than all of its row; 0 for one without.
    pub fn append(&mut self, row: u32, time: i64, start: i64, shared: &SharedColumns) -> Result<()> {
        let start = kept(start);
        match self.rows.get_mut(&row) {
            Some(series) => series.append(time, start, shared),
            None => {
                if start != 0 {
                    let last = Step { from: time, rule: Rule::constant(start) };
                    self.rows.insert(row, StartSeries { last, earlier: None });
                }
                Ok(())
            }
        }
    }

    /// Notes the starts of samples that now stand among others of their row: ascending by time, each time once.
    /// Cost: that of the sealed steps touched.
    pub fn patch(&mut self, row: u32, points: &[(i64, i64)], shared: &SharedColumns) -> Result<()> {
        if points.iter().all(|(_, start)| kept(*start) == 0) && !self.rows.contains_key(&row) {
            return Ok(());
        }
        let before = Step { from: i64::MIN, rule: Rule::UNKNOWN };
        self.rows.entry(row).or_insert(StartSeries { last: before, earlier: None }).patch(points, shared)
    }

    pub(crate) fn remove(&mut self, row: u32) {
        self.rows.remove(&row);
    }

    /// Forgets what was said of samples behind a row's newest. Errors: `Corruption`, never for steps sealed here.
    pub(crate) fn truncate(&mut self, row: u32, newest: i64) -> Result<()> {
        let Some(series) = self.rows.get_mut(&row) else { return Ok(()) };
        while series.last.from > newest {
            match series.earlier.as_deref_mut().map_or(Ok(None), Earlier::pop)? {
                Some(step) => series.last = step,
                None => {
                    self.rows.remove(&row);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Puts a whole series in, of `StartSeries::parts`.
    pub(crate) fn restore(&mut self, row: u32, sealed: Vec<Chunk>, steps: &[(i64, i64)]) {
        let mut steps: Vec<Step> =
            steps.iter().map(|&(from, rule)| Step { from, rule: Rule(rule) }).collect();
        if let Some(last) = steps.pop() {
            let bare = sealed.is_empty() && steps.is_empty();
            let earlier = (!bare).then(|| Box::new(Earlier { sealed, open: steps }));
            self.rows.insert(row, StartSeries { last, earlier });
        }
    }

    /// Bytes of the table that leads to the series.
    pub fn table_bytes(&self) -> usize {
        self.rows.capacity() * (size_of::<(u32, StartSeries)>() + 1)
    }
}

impl StartSeries {
    /// Sealed steps, and the others with their rules as numbers.
    pub(crate) fn parts(&self) -> (&[Chunk], Vec<(i64, i64)>) {
        let (sealed, open) = self.earlier.as_deref().map_or((&[][..], &[][..]), |e| (&e.sealed, &e.open));
        (sealed, open.iter().chain([&self.last]).map(|step| (step.from, step.rule.0)).collect())
    }

    fn append(&mut self, time: i64, start: i64, shared: &SharedColumns) -> Result<()> {
        let Step { from, rule } = self.last;
        if rule.start_of(time) == start {
            return Ok(());
        }
        if from == time {
            // What went on behind a sample that came late: nothing stands there yet.
            self.last.rule = Rule::constant(start);
            return Ok(());
        }
        let before = rule.start_of(from);
        let behind = Rule::behind(time, start);
        let keeps_distance = before != 0 && Rule::behind(from, before) == behind;
        // A start once seen may stay; a distance once seen may be kept; else what was so goes on being so.
        let is_behind = start != 0 && start != before && (keeps_distance || rule.0 & 1 == 1);
        let rule = behind.filter(|_| is_behind).unwrap_or(Rule::constant(start));
        let earlier = self.earlier.get_or_insert_default();
        earlier.open.push(std::mem::replace(&mut self.last, Step { from: time, rule }));
        if earlier.open.len() >= OPEN_STEPS_MAX { earlier.seal(shared) } else { Ok(()) }
    }

    fn patch(&mut self, points: &[(i64, i64)], shared: &SharedColumns) -> Result<()> {
        let mut rest = points;
        while let Some(&(first, _)) = rest.first() {
            let (at, end) = self.responsible(first);
            let (group, after) = rest.split_at(rest.partition_point(|p| end.is_none_or(|end| p.0 < end)));
            rest = after;
            let Some((earlier, at)) = self.earlier.as_deref_mut().zip(at) else {
                let mut steps =
                    self.earlier.as_mut().map(|e| std::mem::take(&mut e.open)).unwrap_or_default();
                steps.push(self.last);
                apply(&mut steps, group, None);
                self.last = steps.pop().unwrap_or(self.last);
                if !steps.is_empty() || self.earlier.is_some() {
                    let earlier = self.earlier.get_or_insert_default();
                    earlier.open = steps;
                    if earlier.open.len() >= OPEN_STEPS_MAX {
                        earlier.seal(shared)?;
                    }
                }
                continue;
            };
            let mut steps = Vec::new();
            decode(earlier.sealed.get(at..=at).unwrap_or(&[]), &mut steps)?;
            apply(&mut steps, group, end);
            let (times, bits) = columns(&steps);
            earlier.sealed.splice(at..=at, chunks_of(ValueKind::Int, &times, &bits, shared)?);
        }
        Ok(())
    }

    /// The sealed chunk whose steps cover a time, `None` for the open steps, and the time from which the next
    /// is responsible.
    fn responsible(&self, time: i64) -> (Option<usize>, Option<i64>) {
        let Some(earlier) = self.earlier.as_deref() else { return (None, None) };
        let open = earlier.open.first().map_or(self.last.from, |step| step.from);
        if earlier.sealed.is_empty() || time >= open {
            return (None, None);
        }
        let at = earlier.sealed.partition_point(|c| c.first() <= time).saturating_sub(1);
        (Some(at), earlier.sealed.get(at + 1).map(|c| c.first()).or(Some(open)))
    }

    /// Appends the start of each of these ascending times. Errors: `Corruption`, never for steps sealed here.
    pub fn read(&self, times: &[i64], out: &mut Vec<i64>) -> Result<()> {
        let Some((&first, &newest)) = times.first().zip(times.last()) else { return Ok(()) };
        let mut steps = Vec::new();
        if let Some(earlier) = self.earlier.as_deref().filter(|_| first < self.last.from) {
            let from = earlier.sealed.partition_point(|c| c.first() <= first).saturating_sub(1);
            let to = earlier.sealed.partition_point(|c| c.first() <= newest).max(from);
            decode(earlier.sealed.get(from..to).unwrap_or(&[]), &mut steps)?;
            steps.extend_from_slice(&earlier.open);
        }
        steps.push(self.last);
        let (mut next, mut rule) = (0, Rule::UNKNOWN);
        out.extend(times.iter().map(|&time| {
            while let Some(step) = steps.get(next).filter(|step| step.from <= time) {
                (rule, next) = (step.rule, next + 1);
            }
            rule.start_of(time)
        }));
        Ok(())
    }

    /// Heap bytes, spare capacity included.
    pub fn bytes(&self) -> usize {
        let of = |e: &Earlier| {
            let chunks: usize = e.sealed.iter().map(Chunk::bytes).sum();
            heap::allocated(size_of::<Earlier>()) + heap::vector(&e.sealed) + heap::vector(&e.open) + chunks
        };
        self.earlier.as_deref().map_or(0, of)
    }

    /// Decodes every step. Errors: `Corruption`, where they don't rise in time.
    pub fn check(&self) -> Result<()> {
        let mut steps = Vec::new();
        if let Some(earlier) = self.earlier.as_deref() {
            decode(&earlier.sealed, &mut steps)?;
            steps.extend_from_slice(&earlier.open);
        }
        steps.push(self.last);
        match steps.windows(2).all(|pair| pair[0].from < pair[1].from) {
            true => Ok(()),
            false => Err(Error::corruption("start timestamps of a series", 0, "steps don't rise in time")),
        }
    }
}

impl Earlier {
    /// Takes the last step.
    fn pop(&mut self) -> Result<Option<Step>> {
        if let Some(chunk) = self.sealed.pop_if(|_| self.open.is_empty()) {
            decode(&[chunk], &mut self.open)?;
        }
        Ok(self.open.pop())
    }

    /// Adds the open steps to the sealed ones.
    fn seal(&mut self, shared: &SharedColumns) -> Result<()> {
        let (times, bits) = columns(&self.open);
        let larger = match self.sealed.last() {
            Some(last) => grown(last, ValueKind::Int, &times, &bits, shared)?,
            None => None,
        };
        match (larger, self.sealed.last_mut()) {
            (Some(chunk), Some(last)) => *last = chunk,
            _ => self.sealed.extend(chunks_of(ValueKind::Int, &times, &bits, shared)?),
        }
        self.open.clear();
        Ok(())
    }
}

/// Sets the start of single times. What stood there goes on behind each, but where another step begins: there
/// or at `end`.
fn apply(steps: &mut Vec<Step>, points: &[(i64, i64)], end: Option<i64>) {
    for &(time, start) in points {
        let start = kept(start);
        let at = steps.partition_point(|step| step.from <= time);
        let before = at.checked_sub(1).and_then(|i| steps.get(i).copied());
        let rule = before.map_or(Rule::UNKNOWN, |step| step.rule);
        if rule.start_of(time) == start {
            continue;
        }
        let next = steps.get(at).map(|step| step.from).or(end);
        if let Some(from) = time.checked_add(1).filter(|&from| next != Some(from)) {
            steps.insert(at, Step { from, rule });
        }
        let new = Step { from: time, rule: Rule::constant(start) };
        match at.checked_sub(1).and_then(|i| steps.get_mut(i)).filter(|step| step.from == time) {
            Some(step) => *step = new,
            None => steps.insert(at, new),
        }
    }
}

fn columns(steps: &[Step]) -> (Vec<i64>, Vec<u64>) {
    steps.iter().map(|step| (step.from, step.rule.0 as u64)).unzip()
}

fn decode(chunks: &[Chunk], out: &mut Vec<Step>) -> Result<()> {
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    for chunk in chunks {
        chunk.decode_range(TimeRange::ALL, &mut times, &mut bits)?;
    }
    out.extend(times.iter().zip(&bits).map(|(&from, &bits)| Step { from, rule: Rule(bits as i64) }));
    Ok(())
}

#[cfg(test)]
mod tests;
