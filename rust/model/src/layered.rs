//! Several sources read as one: memory, and what was fetched from elsewhere beside it.
//!
//! Series are one by their label set, and their samples stand in time order. Where two sources have a sample of one kind
//! at one time, that of the source named first stands. A selection that one source alone can answer is handed to it.

use std::collections::HashMap;

mod merge;

use self::merge::merged;
pub use self::merge::{BySeries, Timed};
use crate::budget::Budget;
use crate::drawn::{Draw, Drawn, Sampling};
use crate::error::Result;
use crate::histogram::{Histogram, HistogramSamples};
use crate::labels::Labels;
use crate::numbered::Numbered;
use crate::predicate::Predicate;
use crate::sample::Samples;
use crate::source::{Bound, Grouping, Groups, Quantiles, SeriesSet, Source, Stood, StoodHistograms};
use crate::summary::{Summary, Wants};
use crate::time::TimeRange;

/// What a row takes in the table by label sets, its text aside.
const ROW_BYTES: usize = 96;

/// Sources, the one whose samples stand first.
pub struct Layered<'s> {
    sources: Vec<&'s dyn Source>,
    /// By source; those behind the last one have no drawn series.
    samplings: Vec<Option<&'s Sampling>>,
}

impl<'s> Layered<'s> {
    pub fn new(first: &'s dyn Source, beside: impl IntoIterator<Item = &'s dyn Source>) -> Layered<'s> {
        Layered { sources: std::iter::once(first).chain(beside).collect(), samplings: Vec::new() }
    }

    /// The same, where series of some sources beside the first, in their order, stand for others.
    pub fn with_samplings(mut self, beside: impl IntoIterator<Item = Option<&'s Sampling>>) -> Layered<'s> {
        self.samplings = std::iter::once(None).chain(beside).collect();
        self
    }

    fn sampling(&self, source: usize) -> Option<&'s Sampling> {
        self.samplings.get(source).copied().flatten()
    }

    fn merged<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
        select: impl Fn(&'a dyn Source) -> Result<Box<dyn SeriesSet + 'a>>,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let mut sets = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            sets.push(select(*source)?);
        }
        let before = TimeRange::new(i64::MIN, range.start.saturating_sub(1));
        let mut past = Vec::new();
        if sets.iter().any(|set| set.any_histograms()) {
            for source in &self.sources {
                past.push(source.select(predicate, before, budget)?);
            }
            past.retain(|set| set.any_histograms());
        }
        let filled = sets.iter().filter(|set| !set.is_empty()).count();
        let drawn = sets.iter().enumerate().any(|(at, set)| !set.is_empty() && self.sampling(at).is_some());
        if filled > 1 || !past.is_empty() || drawn {
            let stands = Stands::new(&sets, |source| self.sampling(source), budget)?;
            return Ok(Box::new(Merged::new(sets, Past::new(past, budget)?, stands, range, budget)?));
        }
        let only = sets.iter().position(|set| !set.is_empty());
        Ok(sets.swap_remove(only.unwrap_or(0)))
    }

    /// Which sources may have such series.
    fn alone(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Alone<'s>> {
        let mut found = Alone::None;
        for &source in &self.sources {
            let empty = source.bound(predicate, range, budget)?.is_some_and(|bound| bound.series == 0);
            if !empty {
                match found {
                    Alone::None => found = Alone::One(source),
                    _ => return Ok(Alone::Several),
                }
            }
        }
        Ok(found)
    }
}

/// How many sources may have series of a selection.
enum Alone<'s> {
    None,
    One(&'s dyn Source),
    Several,
}

impl Source for Layered<'_> {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        self.merged(predicate, range, budget, |source| source.select(predicate, range, budget))
    }

    fn select_newest<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        self.merged(predicate, range, budget, |source| source.select_newest(predicate, range, budget))
    }

    fn count_newest(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        grouping: &Grouping,
        budget: &Budget,
    ) -> Result<Option<Vec<(Labels, u64)>>> {
        match self.alone(predicate, range, budget)? {
            _ if self.has_draws() => Ok(None),
            Alone::None => Ok(Some(Vec::new())),
            Alone::One(source) => source.count_newest(predicate, range, grouping, budget),
            Alone::Several => Ok(None),
        }
    }

    fn bound(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Option<Bound>> {
        let mut all: Option<Bound> = None;
        for source in &self.sources {
            let Some(one) = source.bound(predicate, range, budget)? else { return Ok(None) };
            all = Some(match all.filter(|all| all.series > 0) {
                None => one,
                Some(all) if one.series == 0 => all,
                Some(all) => both(&all, &one),
            });
        }
        Ok(all)
    }

    fn label_size(&self, label: &str) -> Option<u64> {
        self.sources.iter().map(|source| source.label_size(label)).sum()
    }

    fn samples_at_most(&self) -> Option<u64> {
        self.sources.iter().map(|source| source.samples_at_most()).sum()
    }

    fn has_draws(&self) -> bool {
        self.samplings.iter().any(Option::is_some)
    }
}

/// Bounds of two selections together: series and samples of one may be those of the other, too.
fn both(a: &Bound, b: &Bound) -> Bound {
    let samples = a.samples.saturating_add(b.samples);
    Bound {
        series_min: a.series_min.max(b.series_min),
        series: a.series.saturating_add(b.series),
        samples_min: a.samples_min.max(b.samples_min),
        samples,
        // Numbers of the one may be of series that hold histograms in the other.
        mixed: if a.mixed > 0 || b.mixed > 0 { samples } else { 0 },
        width: a.width.saturating_add(b.width),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}

/// A series of one of the sets.
#[derive(Clone, Copy)]
struct Member {
    set: u32,
    index: u32,
}

/// Series with histograms that lie before the range that was selected.
#[derive(Default)]
struct Past<'a> {
    sets: Vec<Box<dyn SeriesSet + 'a>>,
    rows: HashMap<Labels, Vec<Member>>,
}

impl<'a> Past<'a> {
    fn new(sets: Vec<Box<dyn SeriesSet + 'a>>, budget: &Budget) -> Result<Past<'a>> {
        let mut rows: HashMap<Labels, Vec<Member>> = HashMap::new();
        for (s, set) in sets.iter().enumerate() {
            for index in (0..set.len()).filter(|&index| set.has_histograms(index)) {
                budget.check_at(index)?;
                let labels = set.labels(index);
                budget.keep(ROW_BYTES + labels.heap_bytes())?;
                rows.entry(labels).or_default().push(Member { set: s as u32, index: index as u32 });
            }
        }
        Ok(Past { sets, rows })
    }
}

/// What series stand for, source by source.
#[derive(Default)]
struct Stands {
    draws: Vec<Draw>,
    /// By set, then by its series; empty for sets whose series stand for themselves.
    sets: Vec<(TimeRange, Vec<Option<Drawn>>)>,
}

impl Stands {
    fn new<'s, 'a>(
        sets: &[Box<dyn SeriesSet + 'a>],
        sampling: impl Fn(usize) -> Option<&'s Sampling>,
        budget: &Budget,
    ) -> Result<Stands> {
        let mut stands = Stands::default();
        for (source, set) in sets.iter().enumerate() {
            let Some(sampling) = sampling(source).filter(|_| !set.is_empty()) else {
                stands.sets.push((TimeRange::ALL, Vec::new()));
                continue;
            };
            budget.keep(set.len() * size_of::<Option<Drawn>>())?;
            let mut drawn = Vec::with_capacity(set.len());
            for index in 0..set.len() {
                budget.check_at(index)?;
                drawn.push(sampling.of(&set.labels(index)).map(|one| stands.adopt(sampling, one)));
            }
            stands.sets.push((sampling.range, drawn));
        }
        Ok(stands)
    }

    /// The same with the number that its draw has here.
    fn adopt(&mut self, sampling: &Sampling, one: Drawn) -> Drawn {
        let draw = &sampling.draws[one.draw as usize];
        let at = self.draws.iter().position(|known| known == draw).unwrap_or_else(|| {
            self.draws.push(draw.clone());
            self.draws.len() - 1
        });
        Drawn { draw: at as u32, ..one }
    }

    fn of(&self, member: Member, range: TimeRange) -> Option<(i64, Drawn)> {
        let (there, drawn) = self.sets.get(member.set as usize)?;
        let one = drawn.get(member.index as usize).copied().flatten()?;
        there.overlaps(range).then_some((there.end, one))
    }
}

/// A set, and the place of a series in it.
type Place<'s, 'a> = (&'s (dyn SeriesSet + 'a), usize);

/// Selections of several sources, their series merged.
struct Merged<'a> {
    sets: Vec<Box<dyn SeriesSet + 'a>>,
    /// The first member of each row.
    first: Vec<Member>,
    /// All members of those rows that have several, in the order of the sources.
    several: HashMap<u32, Vec<Member>>,
    past: Past<'a>,
    stands: Stands,
    /// What was selected.
    range: TimeRange,
}

impl<'a> Merged<'a> {
    fn new(
        sets: Vec<Box<dyn SeriesSet + 'a>>,
        past: Past<'a>,
        stands: Stands,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Merged<'a>> {
        let (mut first, mut several) = (Vec::new(), HashMap::<u32, Vec<Member>>::new());
        let mut known = Numbered::with_capacity(0);
        for (s, set) in sets.iter().enumerate() {
            for index in 0..set.len() {
                budget.check_at(index)?;
                let member = Member { set: s as u32, index: index as u32 };
                let labels = set.labels(index);
                let bytes = labels.heap_bytes();
                let row = known.number(labels);
                if known.len() > first.len() {
                    budget.keep(ROW_BYTES + bytes)?;
                    first.push(member);
                } else {
                    several.entry(row).or_insert_with(|| vec![first[row as usize]]).push(member);
                }
            }
        }
        Ok(Merged { sets, first, several, past, stands, range })
    }

    fn members(&self, row: usize) -> &[Member] {
        match self.several.get(&(row as u32)) {
            Some(members) => members,
            None => std::slice::from_ref(&self.first[row]),
        }
    }

    fn of(&self, member: Member) -> Place<'_, 'a> {
        (&*self.sets[member.set as usize], member.index as usize)
    }

    /// Where a row stands, in the order of the sources.
    fn places(&self, row: usize) -> impl Iterator<Item = Place<'_, 'a>> {
        self.members(row).iter().map(|&member| self.of(member))
    }

    /// The one set that knows a row, where no other does.
    fn lone(&self, row: usize) -> Option<Place<'_, 'a>> {
        match self.members(row) {
            &[member] => Some(self.of(member)),
            _ => None,
        }
    }

    /// The one set that has samples of a row in a range, where no other has.
    fn lone_within(&self, row: usize, range: TimeRange) -> Option<Place<'_, 'a>> {
        let mut there = self.places(row).filter(|(set, index)| set.span(*index).overlaps(range));
        there.next().filter(|_| there.next().is_none())
    }

    /// The sets that know a row before what was selected.
    fn earlier(&self, row: usize) -> impl Iterator<Item = Place<'_, 'a>> {
        let members = match self.past.sets.is_empty() {
            true => None,
            false => self.past.rows.get(&self.labels(row)),
        };
        let members = members.map(Vec::as_slice).unwrap_or_default();
        members.iter().map(|member| (&*self.past.sets[member.set as usize], member.index as usize))
    }

    /// Who is asked for what part of a range. Points that stand for samples are not asked for where another source has
    /// the samples.
    fn parts(&self, row: usize, range: TimeRange) -> Vec<(Member, TimeRange)> {
        let mut parts = Vec::new();
        let (mut rolled, mut raw) = (Vec::new(), Vec::new());
        for &member in self.members(row) {
            let (set, index) = self.of(member);
            let part = shared(set.span(index), range);
            if part.is_empty() {
            } else if set.resolution(index, part) > 0 {
                rolled.push((member, part));
            } else {
                raw.push(part);
                parts.push((member, part));
            }
        }
        for (member, part) in rolled {
            let (set, index) = self.of(member);
            let mut left = vec![part];
            for &there in &raw {
                let stands = |piece: TimeRange| set.resolution(index, shared(piece, there)) > 0;
                left = left
                    .into_iter()
                    .flat_map(|p| if stands(p) { without(p, there) } else { vec![p] })
                    .collect();
            }
            parts.extend(left.into_iter().map(|piece| (member, piece)));
        }
        parts.sort_by_key(|(member, part)| (part.start, member.set));
        parts
    }

    /// The samples of a row's parts, or of some of them.
    fn collect<T: Timed>(
        &self,
        parts: impl Iterator<Item = (Member, TimeRange)>,
        read: impl Fn(&(dyn SeriesSet + 'a), usize, TimeRange, &mut T) -> Result<()>,
        out: &mut T,
    ) -> Result<()> {
        let mut found: Vec<(u32, T)> = Vec::new();
        for (member, range) in parts {
            let (set, index) = self.of(member);
            let mut one = T::default();
            read(set, index, range, &mut one)?;
            found.push((member.set, one));
        }
        merged(found, out);
        Ok(())
    }

    /// What one window of a row comes to, where some of it is records.
    fn stood(&self, row: usize, window: TimeRange, stood: &mut Stood) -> Result<()> {
        let (rolled, raw): (Vec<_>, Vec<_>) =
            self.parts(row, window).into_iter().partition(|(member, part)| {
                let (set, index) = self.of(*member);
                set.resolution(index, *part) > 0
            });
        let mut samples = Samples::default();
        self.collect(raw.into_iter(), |set, i, range, out| set.read(i, range, out), &mut samples)?;
        stood.samples += samples.len() as u64;
        samples.drop_stale(0);
        let points = samples.timestamps.iter().zip(&samples.values).map(|(&t, &v)| Summary::of(t, v));
        let mut found: Vec<Summary> = points.collect();
        for (member, part) in rolled {
            let (set, index) = self.of(member);
            let Some(one) = set.summaries(index, &[part])? else { continue };
            stood.exact &= one.exact;
            stood.resets &= one.resets;
            stood.samples += one.samples;
            found.extend(one.windows.into_iter().flatten());
        }
        found.sort_by_key(|one| one.first.0);
        stood.exact &= found.is_sorted_by(|a, b| a.last.0 <= b.first.0);
        let whole = found.into_iter().reduce(|mut whole, next| {
            whole.append(&next);
            whole
        });
        stood.windows.push(whole);
        Ok(())
    }
}

/// The newest of what some sets know; at equal times that of the first.
fn newest_of<'s, 'a: 's, T>(
    places: impl Iterator<Item = Place<'s, 'a>>,
    ask: impl Fn(&(dyn SeriesSet + 'a), usize) -> Result<Option<(i64, T)>>,
) -> Result<Option<(i64, T)>> {
    let mut newest: Option<(i64, T)> = None;
    for (set, index) in places {
        if let Some(found) = ask(set, index)?
            && newest.as_ref().is_none_or(|newest| newest.0 < found.0)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

/// What two ranges have in common.
fn shared(a: TimeRange, b: TimeRange) -> TimeRange {
    TimeRange::new(a.start.max(b.start), a.end.min(b.end))
}

/// The pieces of `of` outside of another range.
fn without(of: TimeRange, cut: TimeRange) -> Vec<TimeRange> {
    if !of.overlaps(cut) {
        return vec![of];
    }
    let before = (cut.start > of.start).then(|| TimeRange::new(of.start, cut.start - 1));
    let after = (cut.end < of.end).then(|| TimeRange::new(cut.end + 1, of.end));
    before.into_iter().chain(after).collect()
}

impl SeriesSet for Merged<'_> {
    fn len(&self) -> usize {
        self.first.len()
    }

    fn labels(&self, index: usize) -> Labels {
        let (set, index) = self.of(self.first[index]);
        set.labels(index)
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        if let Some((set, index)) = self.lone(index) {
            return set.read(index, range, out);
        }
        let parts = self.parts(index, range).into_iter();
        self.collect(parts, |set, i, range, out| set.read(i, range, out), out)
    }

    fn read_values(&self, index: usize, range: TimeRange, out: &mut Vec<f64>) -> Result<()> {
        if let Some((set, index)) = self.lone(index) {
            return set.read_values(index, range, out);
        }
        let mut samples = Samples::default();
        self.read(index, range, &mut samples)?;
        out.append(&mut samples.values);
        Ok(())
    }

    fn integer_sum(&self, index: usize, range: TimeRange) -> Result<Option<(u64, i64)>> {
        self.lone(index).map_or(Ok(None), |(set, index)| set.integer_sum(index, range))
    }

    fn newest(&self, index: usize, range: TimeRange) -> Result<Option<(i64, f64)>> {
        let earlier = self.earlier(index).filter(|_| range.start < self.range.start);
        newest_of(self.places(index).chain(earlier), |set, i| set.newest(i, range))
    }

    fn has_histograms(&self, index: usize) -> bool {
        self.places(index).any(|(set, i)| set.has_histograms(i))
    }

    fn any_histograms(&self) -> bool {
        self.sets.iter().any(|set| set.any_histograms())
    }

    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        let parts = self.members(index).iter().map(|&member| (member, range));
        self.collect(parts, |set, i, range, out| set.read_histograms(i, range, out), out)
    }

    fn histogram_before(&self, index: usize, time: i64) -> Result<Option<(i64, Histogram)>> {
        let places = self.places(index).chain(self.earlier(index));
        newest_of(places, |set, i| set.histogram_before(i, time))
    }

    fn has_starts(&self, index: usize) -> bool {
        self.places(index).any(|(set, i)| set.has_starts(i))
    }

    /// Each source is asked about its own samples alone: of others it knows nothing.
    fn read_starts(&self, index: usize, timestamps: &[i64], out: &mut Vec<i64>) -> Result<()> {
        if let Some((set, index)) = self.lone(index) {
            return set.read_starts(index, timestamps, out);
        }
        let (Some(&start), Some(&end)) = (timestamps.first(), timestamps.last()) else { return Ok(()) };
        let begun = out.len();
        out.resize(begun + timestamps.len(), 0);
        let mut open: Vec<usize> = (0..timestamps.len()).collect();
        for (set, index) in self.places(index) {
            let (mut numbers, mut histograms) = (Samples::default(), HistogramSamples::default());
            set.read(index, TimeRange::new(start, end), &mut numbers)?;
            set.read_histograms(index, TimeRange::new(start, end), &mut histograms)?;
            let has = |at: &usize| {
                let t = timestamps[*at];
                numbers.timestamps.binary_search(&t).is_ok()
                    || histograms.timestamps.binary_search(&t).is_ok()
            };
            let own: Vec<usize> = open.iter().copied().filter(has).collect();
            open.retain(|at| !has(at));
            let (times, mut starts) = (own.iter().map(|&at| timestamps[at]).collect::<Vec<_>>(), Vec::new());
            set.read_starts(index, &times, &mut starts)?;
            own.iter().zip(starts).for_each(|(&at, start)| out[begun + at] = start);
        }
        Ok(())
    }

    fn span(&self, index: usize) -> TimeRange {
        let spans = self.places(index).map(|(set, i)| set.span(i));
        let whole = spans.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)));
        whole.unwrap_or(TimeRange::ALL)
    }

    fn summary(&self, index: usize, range: TimeRange, wants: Wants) -> Result<Option<Summary>> {
        match self.lone_within(index, range) {
            Some((set, index)) => set.summary(index, range, wants),
            None => Ok(None),
        }
    }

    fn resolution(&self, index: usize, range: TimeRange) -> i64 {
        if let Some((set, index)) = self.lone(index) {
            return set.resolution(index, range);
        }
        let widths = self.parts(index, range).into_iter().map(|(member, part)| {
            let (set, index) = self.of(member);
            set.resolution(index, part)
        });
        widths.max().unwrap_or(0)
    }

    fn summaries(&self, index: usize, windows: &[TimeRange]) -> Result<Option<Stood>> {
        if let Some((set, index)) = self.lone(index) {
            return set.summaries(index, windows);
        }
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(None) };
        if self.resolution(index, TimeRange::new(first.start, last.end)) == 0 {
            return Ok(None);
        }
        let mut stood = Stood { exact: true, resets: true, ..Stood::default() };
        for &window in windows {
            self.stood(index, window, &mut stood)?;
        }
        Ok(Some(stood))
    }

    /// Sketches of several sources are not put together: points stand for them.
    fn quantiles(&self, index: usize, windows: &[TimeRange]) -> Result<Option<Quantiles>> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(None) };
        let range = TimeRange::new(first.start, last.end);
        match self.lone_within(index, range) {
            Some((set, index)) => set.quantiles(index, windows),
            None => Ok(None),
        }
    }

    /// Of several sources the histograms that tell every gain are enough.
    fn stood_histograms(&self, index: usize, windows: &[TimeRange]) -> Result<Option<StoodHistograms>> {
        let Some((set, index)) = self.lone(index) else { return Ok(None) };
        set.stood_histograms(index, windows)
    }

    fn quantile_error(&self, index: usize, range: TimeRange) -> Result<Option<f64>> {
        let errors = self.places(index).map(|(set, i)| set.quantile_error(i, range));
        let errors: Vec<Option<f64>> = errors.collect::<Result<_>>()?;
        Ok(errors.into_iter().flatten().reduce(f64::max))
    }

    fn draws(&self) -> &[Draw] {
        &self.stands.draws
    }

    fn drawn(&self, index: usize, range: TimeRange) -> Option<Drawn> {
        let found = self.members(index).iter().filter_map(|&member| self.stands.of(member, range));
        found.max_by_key(|(end, _)| *end).map(|(_, one)| one)
    }

    fn encoded_bytes(&self, index: usize, range: TimeRange) -> u64 {
        self.places(index).map(|(set, i)| set.encoded_bytes(i, range)).sum()
    }

    fn codecs(&self, index: usize, range: TimeRange, names: &mut Vec<&'static str>) {
        self.places(index).for_each(|(set, i)| set.codecs(i, range, names));
    }

    /// Each set groups its own series, and equal groups are one.
    fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        let mut groups = Groups::default();
        let mut known = Numbered::with_capacity(0);
        let mut of_sets = Vec::with_capacity(self.sets.len());
        for set in &self.sets {
            let own = set.group(grouping, budget)?;
            let places: Vec<u32> = own.labels.into_iter().map(|labels| known.number(labels)).collect();
            of_sets.push((own.of, places));
        }
        groups.labels = known.into_sets();
        let of = |member: &Member| {
            let (of, places) = &of_sets[member.set as usize];
            places[of[member.index as usize] as usize]
        };
        groups.of = self.first.iter().map(of).collect();
        Ok(groups)
    }

    fn bytes(&self) -> usize {
        self.sets.iter().chain(&self.past.sets).map(|set| set.bytes()).sum()
    }
}

impl Timed for Samples {
    type Item = f64;

    fn times(&self) -> &[i64] {
        &self.timestamps
    }

    fn columns(&mut self) -> (&mut Vec<i64>, &mut Vec<f64>) {
        (&mut self.timestamps, &mut self.values)
    }
}

impl Timed for HistogramSamples {
    type Item = Histogram;

    fn times(&self) -> &[i64] {
        &self.timestamps
    }

    fn columns(&mut self) -> (&mut Vec<i64>, &mut Vec<Histogram>) {
        (&mut self.timestamps, &mut self.histograms)
    }
}
