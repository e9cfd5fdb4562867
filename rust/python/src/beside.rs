//! One query over several stores: the database's own, and what Python fetched from elsewhere beside it.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use metricsdb_model::layered::{BySeries, Timed};
use metricsdb_model::order::sort_owned;
use metricsdb_model::{
    Annotation, Answer, Bound, Budget, Draw, Drawn, Error, HistogramSamples, Labels, LabelsBuilder, Layered,
    Predicate, Result, Samples, SeriesSet, Severity, Source, Span, TimeRange, ValueKind,
};
use metricsdb_query::plan;
use metricsdb_query::syntax;
use metricsdb_store::rollup::Chosen;
use metricsdb_store::{Database, HistogramRows, View};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::database::{NativeDatabase, predicate};
use crate::query::Times;
use crate::{call, input, output};

/// What was fetched from elsewhere for one query or some: where both have a sample, the database's own stands.
#[derive(Clone, Default)]
pub struct Beside {
    stores: Vec<Arc<Database>>,
    /// Store by store, which of its series stand for others.
    samplings: Vec<Option<Arc<metricsdb_model::Sampling>>>,
    away: Away,
    /// Remarks of every answer.
    warnings: Vec<String>,
    /// Stands for the database's own samples where queries want records of one width, or some were fetched.
    chosen: Option<Chosen>,
}

impl Beside {
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty() && self.away.0.is_empty() && self.warnings.is_empty() && self.chosen.is_none()
    }

    /// Stores of records alone.
    fn records(&self) -> &[Arc<Database>] {
        self.chosen.as_ref().map_or(&[], |chosen| &chosen.fetched)
    }

    /// All that was fetched.
    fn all(&self) -> impl Iterator<Item = &Database> {
        self.stores.iter().chain(self.records()).map(|store| &**store)
    }

    /// Puts the remarks to an answer.
    pub fn warn(&self, answer: &mut Answer) {
        let remark = |text: &String| Annotation {
            severity: Severity::Warning,
            message: text.clone(),
            span: Span::default(),
        };
        answer.annotations.extend(self.warnings.iter().map(remark));
    }
}

/// Times whose samples could not be fetched, and why: who looks there fails.
#[derive(Clone, Default)]
struct Away(Vec<(TimeRange, String)>);

impl Source for Away {
    fn select<'a>(&'a self, _: &Predicate, range: TimeRange, _: &Budget) -> Result<Box<dyn SeriesSet + 'a>> {
        match self.0.iter().find(|(away, _)| away.overlaps(range)) {
            Some((_, why)) => Err(Error::execution(why.clone())),
            None => Ok(Box::new(Nothing)),
        }
    }

    fn bound(&self, _: &Predicate, range: TimeRange, _: &Budget) -> Result<Option<Bound>> {
        let away = self.0.iter().any(|(away, _)| away.overlaps(range));
        Ok((!away).then(Bound::default))
    }

    fn label_size(&self, _: &str) -> Option<u64> {
        Some(0)
    }

    fn samples_at_most(&self) -> Option<u64> {
        Some(0)
    }
}

/// No series at all.
struct Nothing;

impl SeriesSet for Nothing {
    fn len(&self) -> usize {
        0
    }

    fn labels(&self, _: usize) -> Labels {
        Labels::empty()
    }

    fn read(&self, _: usize, _: TimeRange, _: &mut Samples) -> Result<()> {
        Ok(())
    }
}

/// What queries read.
pub enum Stores<'d> {
    Own(&'d dyn Source),
    Several(Layered<'d>),
}

impl<'d> Deref for Stores<'d> {
    type Target = dyn Source + 'd;

    fn deref(&self) -> &(dyn Source + 'd) {
        match self {
            Stores::Own(store) => *store,
            Stores::Several(stores) => stores,
        }
    }
}

/// Samples of some series at some times (ms, both included): what a query may read, or what somebody asks for.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct Read {
    predicate: Predicate,
    range: TimeRange,
}

#[pymethods]
impl Read {
    /// Of one selector; "" takes all series.
    #[new]
    fn new(py: Python<'_>, selector: &str, start: i64, end: i64) -> PyResult<Read> {
        let predicate = call::short(py, || predicate(selector))?;
        Ok(Read { predicate, range: TimeRange::new(start, end) })
    }

    #[getter]
    fn start(&self) -> i64 {
        self.range.start
    }

    #[getter]
    fn end(&self) -> i64 {
        self.range.end
    }

    /// What it takes, as a text: equal where that is the same.
    fn takes(&self) -> String {
        text(&self.predicate)
    }

    /// The rows of a frame of labels, a String column each, that the selector takes: a column `matches`.
    fn matches(&self, py: Python<'_>, frame: PyDataFrame) -> PyResult<PyDataFrame> {
        call::short(py, || {
            let rows = matching(&self.predicate, &frame.0)?;
            output::frame(vec![Column::new("matches".into(), rows)])
        })
    }
}

/// Which series of a store stand for others, and how they were drawn.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct Sampling(Arc<metricsdb_model::Sampling>);

#[pymethods]
impl Sampling {
    /// `draws`: text, the last time (ms) that was drawn from, and whether sums can be scaled. The store has samples in
    /// `range`. `drawn` has a row a series: `series`, the hash of its labels (UInt64), `draw`, the number of its draw (UInt32),
    /// `stratum` (UInt64), `of` series that this had, and `kept` of them (UInt32).
    #[new]
    fn new(
        py: Python<'_>,
        draws: Vec<(String, i64, bool)>,
        range: (i64, i64),
        drawn: PyDataFrame,
    ) -> PyResult<Sampling> {
        let draws = draws.into_iter().map(|(text, until, scales)| Draw { text, until, scales }).collect();
        let range = TimeRange::new(range.0, range.1);
        let series = call::short(py, || drawn_rows(&drawn.0).map_err(output::frame_error))?;
        Ok(Sampling(Arc::new(metricsdb_model::Sampling { draws, series, range })))
    }

    /// A number a row of a frame of labels, a String column each: the same in every process, and for all metrics and buckets of
    /// one thing that is measured.
    #[staticmethod]
    fn units(py: Python<'_>, frame: PyDataFrame) -> PyResult<PyDataFrame> {
        call::short(py, || {
            let parts = ["__name__", "le", "quantile"];
            let rows = input::label_rows(&frame.0, 0..frame.0.height())?;
            let unit = |labels: &Labels| labels.retain(|name| !parts.contains(&name)).hash64();
            output::frame(vec![Column::new("unit".into(), rows.iter().map(unit).collect::<Vec<u64>>())])
        })
    }
}

fn drawn_rows(frame: &DataFrame) -> PolarsResult<HashMap<u64, Drawn>> {
    let whole = |name| PolarsResult::Ok(frame.column(name)?.u64()?.into_no_null_iter());
    let half = |name| PolarsResult::Ok(frame.column(name)?.u32()?.into_no_null_iter());
    let rows = whole("series")?.zip(half("draw")?).zip(whole("stratum")?).zip(half("of")?.zip(half("kept")?));
    Ok(rows.map(|(((hash, draw), stratum), (of, kept))| (hash, Drawn { draw, stratum, of, kept })).collect())
}

fn text(predicate: &Predicate) -> String {
    let all = |parts: &[Predicate], word: &str| {
        let texts: Vec<String> = parts.iter().map(text).collect();
        format!("({})", texts.join(word))
    };
    match predicate {
        Predicate::All(parts) => all(parts, " and "),
        Predicate::Any(parts) => all(parts, " or "),
        Predicate::Not(part) => format!("not {}", text(part)),
        Predicate::Match(matcher) => format!("{:?} {:?} {:?}", matcher.name, matcher.op, matcher.value),
        Predicate::OneOf { name, values } => format!("{name:?} in {values:?}"),
        Predicate::Num { name, op, value } => format!("{name:?} {op:?} {value:?}"),
    }
}

/// Label by label, so that a row costs a look at few columns.
fn matching(predicate: &Predicate, frame: &DataFrame) -> Result<Vec<bool>> {
    let rows = frame.height();
    let all = |parts: &[Predicate], wanted: bool| {
        let mut found = vec![wanted; rows];
        for part in parts {
            let one = matching(part, frame)?;
            found.iter_mut().zip(one).for_each(|(f, one)| {
                if one != wanted {
                    *f = one
                }
            });
        }
        Ok(found)
    };
    let name = match predicate {
        Predicate::All(parts) => return all(parts, true),
        Predicate::Any(parts) => return all(parts, false),
        Predicate::Not(part) => return Ok(matching(part, frame)?.into_iter().map(|found| !found).collect()),
        Predicate::Match(matcher) => &matcher.name,
        Predicate::OneOf { name, .. } | Predicate::Num { name, .. } => name,
    };
    let mut builder = LabelsBuilder::default();
    let mut holds = |value: &str| {
        builder.clear();
        builder.push(name, value);
        builder.canonical().is_ok_and(|labels| predicate.matches(labels))
    };
    let absent = holds("");
    let Ok(column) = frame.column(&output::column_name(name)).and_then(|c| Ok(c.str()?.clone())) else {
        return Ok(vec![absent; rows]);
    };
    let mut known: HashMap<&str, bool> = HashMap::new();
    Ok(column
        .iter()
        .map(|value| value.map_or(absent, |v| *known.entry(v).or_insert_with(|| holds(v))))
        .collect())
}

#[pymethods]
impl NativeDatabase {
    /// This database for queries that read other ones beside it. Where several have a sample at one time, that of the
    /// first stands, and its own before all. `away`: times (ms, both included) whose samples are not there, and why;
    /// queries that look there fail. `warnings` are remarks of every answer. `samplings`: store by store, which of its
    /// series stand for others. `records`: stores of records of rollups alone, which stand beside its own.
    fn with_beside(
        &self,
        beside: Vec<PyRef<'_, NativeDatabase>>,
        away: Vec<(i64, i64, String)>,
        warnings: Vec<String>,
        samplings: Vec<Option<PyRef<'_, Sampling>>>,
        records: Vec<PyRef<'_, NativeDatabase>>,
    ) -> NativeDatabase {
        let samplings = samplings.into_iter().map(|one| one.map(|one| one.0.clone())).collect();
        let away = away.into_iter().map(|(start, end, why)| (TimeRange::new(start, end), why)).collect();
        let stores = beside.iter().map(|other| other.store.clone()).collect();
        let fetched: Vec<_> = records.iter().map(|other| other.store.clone()).collect();
        let chosen = Chosen { store: self.store.clone(), level: None, fetched };
        let chosen = (!chosen.fetched.is_empty()).then_some(chosen);
        self.reading(Beside { stores, samplings, away: Away(away), warnings, chosen })
    }

    /// This database for queries that want records of a width, though finer ones or samples are there. `None` where no series
    /// has such records.
    fn at_level(&self, py: Python<'_>, every_ms: i64) -> PyResult<Option<NativeDatabase>> {
        let chosen = Chosen { level: Some(every_ms), ..self.chosen() };
        let mut stores = std::iter::once(&*self.store).chain(self.beside.records().iter().map(|s| &**s));
        let found = call::short(py, || Ok(stores.any(|store| store.has_level(every_ms))))?;
        Ok(found.then(|| self.reading(Beside { chosen: Some(chosen), ..self.beside.clone() })))
    }

    /// What a query may read. `step_ms` 0: an instant query at `start`.
    #[staticmethod]
    fn reads(
        py: Python<'_>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<Vec<Read>> {
        let times = Times { start, end, step_ms, lookback_ms };
        let found = call::short(py, || plan::reads(&syntax::parse(expr)?, &times.params(expr)))?;
        Ok(found.into_iter().map(|plan::Read { predicate, range }| Read { predicate, range }).collect())
    }

    /// Samples of a selector in all stores: `series` (null: of no series of this one), labels, `timestamp`, `value`.
    fn select(&self, py: Python<'_>, selector: &str, start: i64, end: i64) -> PyResult<PyDataFrame> {
        self.run(py, "select", |budget| {
            let found = self.stored(&[syntax::selector(selector)?], TimeRange::new(start, end), budget)?;
            let sets: Vec<Labels> = found.iter().map(|one| one.labels.clone()).collect();
            let mut columns =
                vec![Column::new("series".into(), found.iter().map(|one| one.id).collect::<Vec<_>>())];
            columns.extend(output::all_label_columns(&sets, budget)?);
            let (mut all, mut offsets) = (Samples::default(), vec![0]);
            for mut one in found {
                budget.check()?;
                all.timestamps.append(&mut one.samples.timestamps);
                all.values.append(&mut one.samples.values);
                offsets.push(all.len());
            }
            let mut columns = output::repeat(&columns, &offsets, budget)?;
            columns.push(Column::new("timestamp".into(), all.timestamps));
            columns.push(Column::new("value".into(), all.values));
            output::frame(columns)
        })
    }
}

impl NativeDatabase {
    /// This database for queries that read what is given.
    fn reading(&self, beside: Beside) -> NativeDatabase {
        NativeDatabase {
            store: self.store.clone(),
            beside,
            limits: self.limits,
            queries: self.queries.clone(),
            cache: self.cache.clone(),
            memory: self.memory.clone(),
            statsd: self.statsd.clone(),
            home: self.home.clone(),
        }
    }

    /// Its own samples, and the records that stand for those that are gone.
    pub fn chosen(&self) -> Chosen {
        let own = || Chosen { store: self.store.clone(), level: None, fetched: Vec::new() };
        self.beside.chosen.clone().unwrap_or_else(own)
    }

    /// What queries read.
    pub fn stores(&self) -> Stores<'_> {
        let Beside { stores, samplings, away, chosen, .. } = &self.beside;
        let own: &dyn Source = chosen.as_ref().map_or(&*self.store, |chosen| chosen);
        if stores.is_empty() && away.0.is_empty() {
            return Stores::Own(own);
        }
        let beside = stores.iter().map(|store| &**store as &dyn Source);
        let away = (!away.0.is_empty()).then_some(away as &dyn Source);
        let samplings = samplings.iter().map(Option::as_deref);
        Stores::Several(Layered::new(own, beside.chain(away)).with_samplings(samplings))
    }

    /// Its own store and all that was fetched.
    pub fn all(&self) -> impl Iterator<Item = &Database> {
        std::iter::once(&*self.store).chain(self.beside.all())
    }

    /// Such series of all stores; references are those of the own one.
    pub fn series(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<(Vec<Option<u64>>, Vec<Labels>)> {
        let (ids, mut sets) = self.store.series(predicates, range, budget)?;
        let mut ids: Vec<Option<u64>> = ids.into_iter().map(Some).collect();
        if self.beside.all().next().is_some() {
            let mut known: HashSet<Labels> = sets.iter().cloned().collect();
            for store in self.beside.all() {
                let (_, more) = store.series(predicates, range, budget)?;
                let new = more.into_iter().filter(|labels| known.insert(labels.clone()));
                sets.extend(new);
            }
            ids.resize(sets.len(), None);
        }
        Ok((ids, sets))
    }

    /// Texts that each store knows, sorted, each once.
    pub fn texts(&self, of: impl Fn(&Database) -> Result<Vec<String>>) -> Result<Vec<String>> {
        let mut texts = of(&self.store)?;
        for store in self.beside.all() {
            texts.extend(of(store)?);
        }
        if self.beside.all().next().is_some() {
            texts.sort_unstable();
            texts.dedup();
        }
        Ok(texts)
    }

    /// Samples as they were written, without staleness markers.
    fn stored(&self, predicates: &[Predicate], range: TimeRange, budget: &Budget) -> Result<Vec<Stored>> {
        let mut found = BySeries::default();
        let mut own = Vec::new();
        for (rank, store) in self.all().enumerate() {
            let (ids, sets) = store.series(predicates, range, budget)?;
            let rows = store.read_many(&ids, range, budget)?;
            for (labels, ends) in sets.into_iter().zip(rows.offsets.windows(2)) {
                let samples = Samples {
                    timestamps: rows.timestamps[ends[0]..ends[1]].to_vec(),
                    values: rows.values[ends[0]..ends[1]].to_vec(),
                };
                found.push(labels, rank as u32, samples);
            }
            if rank == 0 {
                own = ids;
            }
        }
        // Those of the own store come first.
        let ids = own.into_iter().map(Some).chain(std::iter::repeat(None));
        Ok(found.merged().zip(ids).map(|((labels, samples), id)| Stored { id, labels, samples }).collect())
    }

    /// Samples with what their bits mean, staleness markers included.
    pub fn exact(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Vec<RawSeries>> {
        let mut found = BySeries::default();
        for (rank, store) in self.all().enumerate() {
            let view = store.select_exact(predicate, range, budget)?;
            for i in 0..view.len() {
                let (labels, exact) = (view.labels(i), Exact::read(&view, i, range)?);
                budget.take_samples(exact.times.len() as u64)?;
                budget.keep(exact.times.len() * 24 + labels.heap_bytes())?;
                if !exact.times.is_empty() {
                    found.push(labels, rank as u32, exact);
                }
            }
        }
        Ok(found.merged().map(|(labels, exact)| RawSeries::of(labels, exact)).collect())
    }

    /// As `Database::histograms`, of all stores.
    pub fn histogram_rows(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<HistogramRows> {
        if self.beside.stores.is_empty() {
            return self.store.histograms(predicate, range, budget);
        }
        let stores = self.stores();
        let set = stores.select(predicate, range, budget)?;
        let mut found = Vec::new();
        for i in (0..set.len()).filter(|&i| set.has_histograms(i)) {
            let mut one = HistogramSamples::default();
            set.read_histograms(i, range, &mut one)?;
            budget.take_samples(one.cost(0))?;
            budget.keep(one.histograms.iter().map(|h| h.bytes()).sum())?;
            if !one.is_empty() {
                found.push((set.labels(i), one));
            }
        }
        sort_owned(&mut found, budget, |a, b| a.0.cmp(&b.0))?;
        let mut rows = HistogramRows { offsets: vec![0], ..HistogramRows::default() };
        for (labels, mut one) in found {
            rows.labels.push(labels);
            rows.timestamps.append(&mut one.timestamps);
            rows.histograms.append(&mut one.histograms);
            rows.offsets.push(rows.timestamps.len());
        }
        Ok(rows)
    }
}

struct Stored {
    id: Option<u64>,
    labels: Labels,
    samples: Samples,
}

/// Times, and bits with what they mean.
#[derive(Default)]
struct Exact {
    times: Vec<i64>,
    bits: Vec<(ValueKind, u64)>,
}

impl Exact {
    fn read(view: &View<'_>, index: usize, range: TimeRange) -> Result<Exact> {
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        let runs = view.read_exact(index, range, &mut times, &mut bits)?;
        let kinds = runs.iter().flat_map(|run| std::iter::repeat_n(run.kind, run.len));
        Ok(Exact { times, bits: kinds.zip(bits).collect() })
    }
}

impl Timed for Exact {
    type Item = (ValueKind, u64);

    fn times(&self) -> &[i64] {
        &self.times
    }

    fn columns(&mut self) -> (&mut Vec<i64>, &mut Vec<(ValueKind, u64)>) {
        (&mut self.times, &mut self.bits)
    }
}

/// One series' samples: integers where all are of one kind of them.
pub struct RawSeries {
    pub labels: Labels,
    pub times: Vec<i64>,
    pub values: RawValues,
}

pub enum RawValues {
    Float(Vec<f64>),
    Int(Vec<i64>),
    Uint(Vec<u64>),
}

impl RawSeries {
    fn of(labels: Labels, exact: Exact) -> RawSeries {
        let kind =
            exact.bits.first().map(|first| first.0).filter(|kind| exact.bits.iter().all(|b| b.0 == *kind));
        let bits = exact.bits.into_iter();
        let values = match kind {
            Some(ValueKind::Int) => RawValues::Int(bits.map(|(_, b)| b as i64).collect()),
            Some(ValueKind::Uint) => RawValues::Uint(bits.map(|(_, b)| b).collect()),
            Some(ValueKind::Float) | None => RawValues::Float(bits.map(|(kind, b)| kind.widen(b)).collect()),
        };
        RawSeries { labels, times: exact.times, values }
    }
}
