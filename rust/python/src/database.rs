//! The database as Python sees it: samples in, series and their raw samples out.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use metricsdb_model::batch::Extra;
use metricsdb_model::budget::{Limits, Stop};
use metricsdb_model::order::sort_owned;
use metricsdb_model::{Batch, Budget, Columns, Error, Labels, MemoryLimit, Predicate, Result, TimeRange};
use metricsdb_model::{WriteReport, bounds};
use metricsdb_query::cache::Cache;
use metricsdb_query::syntax;
use metricsdb_store::{By, Database, DuplicatePolicy, LabelEffect, MetricFacts, Options};
use metricsdb_wire::remote_write::{self, v2};
use metricsdb_wire::statsd::{StatsdAggregator, StatsdOptions};
use metricsdb_wire::{exposition, exposition_protobuf, openmetrics};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use parking_lot::Mutex;
use polars::prelude::Column;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_polars::PyDataFrame;

use crate::beside::{Beside, RawValues};
use crate::call;
use crate::durability::{self, Home};
use crate::error;
use crate::input::{self, ValueColumn};
use crate::output;
use crate::queries::{Admission, Ask, Class, Queries, Row};

/// Rows of a frame whose label sets are made at once.
const REGISTER_ROWS: usize = 1 << 14;

#[pyclass(frozen, subclass, module = "metricsdb._native")]
pub struct NativeDatabase {
    pub store: Arc<Database>,
    /// What queries of this one read besides the store.
    pub beside: Beside,
    pub limits: Limits,
    pub queries: Arc<Queries>,
    pub cache: Arc<Cache>,
    pub memory: Arc<MemoryLimit>,
    /// StatsD's counters and sets add up from body to body, apart for each set of labels that a listener adds.
    pub statsd: Arc<Mutex<HashMap<Labels, StatsdAggregator>>>,
    /// `None` for a database in memory alone.
    pub home: Option<Arc<Home>>,
}

/// accepted, duplicates, out_of_order, series_created, [(reason, count, example)]
pub type Report = (u64, u64, u64, u64, Vec<(&'static str, u64, String)>);

pub fn report(report: WriteReport) -> Report {
    let rejected = report.rejected.into_iter().map(|r| (r.reason.as_str(), r.count, r.example)).collect();
    (report.accepted, report.duplicates, report.out_of_order, report.series_created, rejected)
}

/// The predicate of a selector; an empty one takes all series.
pub fn predicate(selector: &str) -> Result<Predicate> {
    if selector.is_empty() { Ok(Predicate::All(Vec::new())) } else { syntax::selector(selector) }
}

/// One predicate per selector text.
pub fn predicates(selectors: &[String]) -> Result<Vec<Predicate>> {
    selectors.iter().map(|text| syntax::selector(text)).collect()
}

/// A body in any format that carries labels as text or protobuf, each series with the labels that the receiver adds.
pub fn decode<'a>(
    body: &'a [u8],
    format: &str,
    now_ms: i64,
    extra: Extra,
    scratch: &'a mut v2::Scratch,
) -> Result<Batch<'a>> {
    if body.len() > bounds::BODY_BYTES_MAX {
        return Err(Error::input(
            "body",
            &format!("{} bytes", body.len()),
            format!("is larger than {} bytes", bounds::BODY_BYTES_MAX),
            "send it in parts",
        ));
    }
    let mut batch = match format {
        "prometheus" => Ok(exposition::parse(body, now_ms)),
        "openmetrics" => openmetrics::parse(body, now_ms),
        "protobuf" => exposition_protobuf::parse(body, now_ms, &mut scratch.labels),
        "remote_write" => remote_write::decode(body, &mut scratch.message),
        "remote_write_v2" => v2::decode(body, scratch),
        other => Err(Error::input(
            "format",
            other,
            "is not known",
            "use prometheus, openmetrics, protobuf, remote_write, remote_write_v2 or statsd",
        )),
    }?;
    batch.extra = extra;
    Ok(batch)
}

#[pymethods]
impl NativeDatabase {
    /// `limits`: timeout in ms, samples, bytes; `admission`: queries of each class at once, waiting, wait in ms;
    /// `cache_memory`: bytes of answers that are kept.
    /// `directory`: path, durability, and the secret of a new one. `memory`: bytes of the limit and of the soft limit.
    #[new]
    #[allow(clippy::too_many_arguments)] // one to one what a database is made of
    fn new(
        py: Python<'_>,
        duplicates: &str,
        limits: (u64, u64, u64),
        admission: ([usize; 3], usize, u64),
        cache_memory: usize,
        hash_key: u64,
        directory: Option<(String, String, u32)>,
        memory: Option<(u64, u64)>,
    ) -> PyResult<Self> {
        let (timeout_ms, samples_max, bytes_max) = limits;
        let (running_max, waiting_max, wait_ms) = admission;
        let duplicates = DuplicatePolicy::from_name(duplicates).map_err(|e| error::to_python(py, e))?;
        let options = Options { duplicates, raw_hash_key: hash_key, ..Options::default() };
        let (mut store, home) = match directory {
            None => (Database::new(options), None),
            Some((path, durability, salt)) => {
                let (store, home) = call::short(py, || durability::open(options, &path, &durability, salt))?;
                (store, Some(home))
            }
        };
        let memory =
            Arc::new(memory.map_or_else(MemoryLimit::default, |(limit, soft)| MemoryLimit::new(limit, soft)));
        call::detached(py, || store.limit_memory(memory.clone()));
        let admission = Admission { running_max, waiting_max, wait: Duration::from_millis(wait_ms) };
        Ok(NativeDatabase {
            store: Arc::new(store),
            beside: Beside::default(),
            limits: Limits { timeout_ms, samples_max, bytes_max },
            queries: Arc::new(Queries::new(admission, memory.clone())),
            cache: Arc::new(Cache::new(cache_memory)),
            memory,
            statsd: Arc::default(),
            home: home.map(Arc::new),
        })
    }

    /// `strict`: a series that a limit refuses is an error; else its reference stands for the refusal.
    #[pyo3(signature = (series, strict = true))]
    fn register<'py>(
        &self,
        py: Python<'py>,
        series: Vec<Bound<'py, PyDict>>,
        strict: bool,
    ) -> PyResult<(Bound<'py, PyArray1<u64>>, u64)> {
        let labels: Result<Vec<Labels>> = input::label_dicts(&series)?.into_iter().collect();
        self.register_labels(py, labels, strict)
    }

    #[pyo3(signature = (frame, strict = true))]
    fn register_frame<'py>(
        &self,
        py: Python<'py>,
        frame: PyDataFrame,
        strict: bool,
    ) -> PyResult<(Bound<'py, PyArray1<u64>>, u64)> {
        // In pieces: the label sets of a million rows as objects are larger than the store makes of them.
        let registered = call::detached(py, || {
            let (mut all, mut created) = (Vec::with_capacity(frame.0.height()), 0);
            for from in (0..frame.0.height()).step_by(REGISTER_ROWS) {
                let rows = from..frame.0.height().min(from + REGISTER_ROWS);
                let (ids, new) = self.made_known(&input::label_rows(&frame.0, rows)?, strict)?;
                all.extend(ids);
                created += new;
            }
            Ok((all, created))
        });
        let (ids, created) = registered.map_err(|e| error::write_error(py, e))?;
        Ok((ids.into_pyarray(py), created))
    }

    fn append_columns(
        &self,
        py: Python<'_>,
        ids: PyReadonlyArray1<'_, u64>,
        timestamps: PyReadonlyArray1<'_, i64>,
        values: ValueColumn<'_>,
    ) -> PyResult<Report> {
        let columns =
            Columns { ids: ids.as_slice()?, timestamps: timestamps.as_slice()?, values: values.values()? };
        let written = call::detached(py, || self.promised(self.store.append_columns(columns)?));
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    fn ingest(
        &self,
        py: Python<'_>,
        body: &[u8],
        format: &str,
        now_ms: i64,
        labels: BTreeMap<String, String>,
        honor_labels: bool,
    ) -> PyResult<Report> {
        let written = call::detached(py, || {
            let extra = Extra { labels: input::label_map(&labels)?, honor: honor_labels };
            let _room = self.arrive(body)?;
            if format == "statsd" {
                return self.ingest_statsd(body, now_ms, extra);
            }
            let mut scratch = v2::Scratch::default();
            self.promised(self.store.write(&decode(body, format, now_ms, extra, &mut scratch)?))
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    /// Remote write 1.0, the hot path of the server.
    fn write_remote(&self, py: Python<'_>, body: &[u8]) -> PyResult<Report> {
        let written = call::detached(py, || {
            let _room = self.arrive(body)?;
            let mut scratch = Vec::new();
            let batch = remote_write::decode(body, &mut scratch)?;
            self.promised(self.store.write(&batch))
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    /// Remote write 2.0: what became of the samples, and how many of those accepted are histograms.
    fn write_remote_v2(&self, py: Python<'_>, body: &[u8]) -> PyResult<(Report, u64)> {
        let written = call::detached(py, || {
            let _room = self.arrive(body)?;
            let mut scratch = v2::Scratch::default();
            let batch = v2::decode(body, &mut scratch)?;
            self.promised(self.store.write(&batch))
        });
        let written = written.map_err(|e| error::write_error(py, e))?;
        let histograms = written.histograms;
        Ok((report(written), histograms))
    }

    /// `series` (UInt64 reference; null: of no series of this store) and one String column a label.
    fn series_frame(
        &self,
        py: Python<'_>,
        selectors: Vec<String>,
        start: i64,
        end: i64,
    ) -> PyResult<PyDataFrame> {
        let what = format!("series({})", selectors.join(", "));
        self.run(py, &what, |budget| {
            let (ids, sets) = self.series(&predicates(&selectors)?, TimeRange::new(start, end), budget)?;
            let mut columns = vec![Column::new("series".into(), ids)];
            columns.extend(output::all_label_columns(&sets, budget)?);
            output::frame(columns)
        })
    }

    /// Samples of the series in the frame's `series` column, its other columns repeated beside them.
    fn read(&self, py: Python<'_>, frame: PyDataFrame, start: i64, end: i64) -> PyResult<PyDataFrame> {
        let ids: Vec<u64> = frame
            .0
            .column("series")
            .and_then(|c| Ok(c.u64()?.into_no_null_iter().collect()))
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        self.run(py, "select", |budget| {
            let matrix = self.store.read_many(&ids, TimeRange::new(start, end), budget)?;
            let mut columns = output::repeat(frame.0.columns(), &matrix.offsets, budget)?;
            columns.push(Column::new("timestamp".into(), matrix.timestamps));
            columns.push(Column::new("value".into(), matrix.values));
            output::frame(columns)
        })
    }

    /// Per series its labels, times, and values: int64 or uint64 where every sample is of that kind, else float64.
    #[allow(clippy::type_complexity)] // one tuple a series, unpacked at once in Python
    fn raw<'py>(
        &self,
        py: Python<'py>,
        selector: &str,
        start: i64,
        end: i64,
    ) -> PyResult<Vec<(BTreeMap<String, String>, Bound<'py, PyArray1<i64>>, Bound<'py, PyAny>)>> {
        let range = TimeRange::new(start, end);
        let series = self.run(py, selector, |budget| {
            let mut series = self.exact(&syntax::selector(selector)?, range, budget)?;
            sort_owned(&mut series, budget, |a, b| a.labels.cmp(&b.labels))?;
            Ok(series)
        })?;
        Ok(series
            .into_iter()
            .map(|s| {
                let labels = s.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                let values = match s.values {
                    RawValues::Float(v) => v.into_pyarray(py).into_any(),
                    RawValues::Int(v) => v.into_pyarray(py).into_any(),
                    RawValues::Uint(v) => v.into_pyarray(py).into_any(),
                };
                (labels, s.times.into_pyarray(py), values)
            })
            .collect())
    }

    /// (metric, type, help, unit), sorted by metric.
    fn metadata(&self, py: Python<'_>, metric: Option<&str>) -> Vec<(String, &'static str, String, String)> {
        call::detached(py, || self.store.metadata(metric))
            .into_iter()
            .map(|m| {
                (
                    m.metric,
                    m.kind.unwrap_or_default().as_str(),
                    m.help.unwrap_or_default(),
                    m.unit.unwrap_or_default(),
                )
            })
            .collect()
    }

    /// (part, bytes, items)
    fn memory(&self, py: Python<'_>) -> Vec<(&'static str, usize, usize)> {
        let kept = self.cache.counts();
        let parts =
            call::detached(py, || self.store.memory()).into_iter().map(|p| (p.name, p.bytes, p.items));
        parts.chain([("kept answers", kept.bytes, kept.entries)]).collect()
    }

    /// (key, bytes, series, samples)
    fn account(&self, py: Python<'_>, by: &str) -> PyResult<Vec<(String, usize, u64, u64)>> {
        let rows = call::short(py, || Ok(self.store.account(By::from_name(by)?)))?;
        Ok(rows.into_iter().map(|r| (r.key, r.bytes, r.series, r.samples)).collect())
    }

    /// `series` (text), `tier`, `first`, `last` (Int64 ms), `samples`, `bytes`, `time_codec`, `value_codec`, `detail`:
    /// a row a chunk, `limit` at most.
    fn explain_storage(&self, py: Python<'_>, selector: &str, limit: usize) -> PyResult<PyDataFrame> {
        self.run(py, selector, |budget| {
            output::chunk_frame(self.store.explain_storage(&syntax::selector(selector)?, limit, budget)?)
        })
    }

    /// series, samples, bytes of samples, bytes; of the selected series or of all
    fn weigh(&self, py: Python<'_>, selector: Option<&str>) -> PyResult<(u64, u64, usize, usize)> {
        let weight = self.run(py, selector.unwrap_or("weigh"), |budget| {
            let predicate = selector.map(syntax::selector).transpose()?;
            self.store.weigh(&predicate.unwrap_or(Predicate::All(Vec::new())), budget)
        })?;
        Ok((weight.series, weight.samples, weight.sample_bytes, weight.bytes))
    }

    /// (label, values, series, series_now, series_left, bytes_saved)
    fn label_effects(&self, py: Python<'_>) -> PyResult<Vec<(String, usize, u64, u64, u64, f64)>> {
        let effects = self.run(py, "advise: labels", |budget| self.store.label_effects(budget))?;
        let row = |e: LabelEffect| (e.name, e.values, e.series, e.series_now, e.series_left, e.bytes_saved);
        Ok(effects.into_iter().map(row).collect())
    }

    /// (metric, series, samples, bytes, constant series, metric it is a copy of)
    fn metric_facts(&self, py: Python<'_>) -> PyResult<Vec<(String, u64, u64, usize, u64, Option<String>)>> {
        let facts = self.run(py, "advise: metrics", |budget| self.store.metric_facts(budget))?;
        let row = |f: MetricFacts| (f.name, f.series, f.samples, f.bytes, f.constant, f.copy_of);
        Ok(facts.into_iter().map(row).collect())
    }

    /// (id, class, expr, source, state, seconds, samples, bytes, most bytes)
    #[allow(clippy::type_complexity)] // one tuple a query, a frame at once in Python
    fn queries(&self) -> Vec<(u64, &'static str, String, String, &'static str, f64, u64, u64, u64)> {
        let row =
            |q: Row| (q.id, q.class, q.expr, q.source, q.phase, q.seconds, q.samples, q.bytes, q.bytes_peak);
        self.queries.list().into_iter().map(row).collect()
    }

    /// False where no query has this id.
    fn kill(&self, id: u64) -> bool {
        self.queries.kill(id)
    }

    /// Turns the measuring of checks on or off; gives the longest CPU time (ms) between two so far.
    fn probe_checks(&self, on: bool) -> f64 {
        self.queries.probe(on).as_secs_f64() * 1000.0
    }

    fn stats(&self, py: Python<'_>) -> BTreeMap<&'static str, i64> {
        let kept = self.cache.counts();
        let (stats, label_pairs) =
            call::detached(py, || (self.store.stats(), self.store.cardinality(0).label_pairs));
        let mut all = BTreeMap::from([
            ("series", stats.series as i64),
            ("samples", stats.samples as i64),
            ("chunks", (stats.open_chunks + stats.sealed_chunks) as i64),
            ("open_chunks", stats.open_chunks as i64),
            ("open_samples", stats.open_samples as i64),
            ("sealed_chunks", stats.sealed_chunks as i64),
            ("sealed_samples", stats.sealed_samples as i64),
            ("histogram_samples", stats.histogram_samples as i64),
            ("histogram_chunks", stats.histogram_chunks as i64),
            ("symbols", stats.symbols as i64),
            ("decoded_samples", stats.decoded_samples as i64),
            ("label_pairs", label_pairs as i64),
            ("cache_answers", kept.entries as i64),
            ("cache_bytes", kept.bytes as i64),
            ("cache_whole", kept.whole as i64),
            ("cache_partly", kept.partly as i64),
            ("cache_missed", kept.missed as i64),
            ("first_ms", stats.oldest.unwrap_or(0)),
            ("last_ms", stats.newest.unwrap_or(0)),
        ]);
        all.extend(self.memory_stats());
        if let Some(journal) = self.store.journal_status() {
            all.extend([
                ("journal_replaying", i64::from(self.store.replaying().is_some())),
                ("journal_failing", i64::from(journal.failing.is_some() || journal.needs_checkpoint)),
                ("journal_failures", journal.failures as i64),
                ("journal_waiting_bytes", journal.waiting_bytes as i64),
                ("journal_written_bytes", journal.written_bytes as i64),
                ("journal_replay_bytes", journal.replay_bytes as i64),
                ("journal_syncs", journal.syncs as i64),
                ("checkpoint_bytes", journal.checkpoint_bytes as i64),
            ]);
        }
        all
    }

    /// The lists of `/api/v1/status/tsdb`, each cut to `limit` entries.
    fn cardinality(&self, py: Python<'_>, limit: usize) -> BTreeMap<&'static str, Vec<(String, u64)>> {
        let found = call::detached(py, || self.store.cardinality(limit));
        BTreeMap::from([
            ("seriesCountByMetricName", found.series_by_metric),
            ("labelValueCountByLabelName", found.values_by_label),
            ("memoryInBytesByLabelName", found.bytes_by_label),
            ("seriesCountByLabelValuePair", found.series_by_pair),
        ])
    }

    /// (bytes of chunks that could be denser, bytes of some of them before, after)
    fn preview_densify(&self, py: Python<'_>, samples_max: u64) -> PyResult<(u64, u64, u64)> {
        self.run(py, "advise: forms", |budget| self.store.preview_densify(samples_max, budget))
    }

    /// Re-encodes old chunks: (samples, chunks before, after, bytes before, after, finished)
    fn densify(
        &self,
        py: Python<'_>,
        before_ms: i64,
        samples_max: u64,
    ) -> PyResult<(u64, u64, u64, u64, u64, bool)> {
        let done = call::short(py, || self.store.densify(before_ms, samples_max, &Budget::unlimited()))?;
        Ok((
            done.samples,
            done.chunks_before,
            done.chunks_after,
            done.bytes_before,
            done.bytes_after,
            done.finished,
        ))
    }

    /// Proves what is derived (postings, hashes, order of chunks) from what is stored.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        call::short(py, || self.store.check())
    }
}

impl NativeDatabase {
    /// A call of people's class from Python; `what` is shown in the list of queries.
    pub fn run<T: Send>(
        &self,
        py: Python<'_>,
        what: &str,
        work: impl FnOnce(&Budget) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.run_within(py, what, self.limits, work)
    }

    pub fn run_within<T: Send>(
        &self,
        py: Python<'_>,
        what: &str,
        limits: Limits,
        work: impl FnOnce(&Budget) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.run_as(py, Class::Query, "python", what, limits, work)
    }

    /// A call of another class, or for others than people.
    pub fn run_as<T: Send>(
        &self,
        py: Python<'_>,
        class: Class,
        source: &str,
        what: &str,
        limits: Limits,
        work: impl FnOnce(&Budget) -> Result<T> + Send,
    ) -> PyResult<T> {
        let ask = Ask { class, expr: what, source, limits, stop: Stop::default(), visits: None };
        call::run(py, &self.queries, ask, work).map(|(found, _)| found)
    }

    /// Adds the events up, then writes every metric's value at `now_ms`. The report's `accepted` counts events.
    fn ingest_statsd(&self, body: &[u8], now_ms: i64, extra: Extra) -> Result<WriteReport> {
        let mut aggregators = self.statsd.lock();
        let aggregator = match aggregators.entry(extra.labels.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(StatsdAggregator::new(StatsdOptions::default())?),
        };
        let mut added = aggregator.add(body);
        let mut batch = aggregator.flush(now_ms);
        batch.extra = extra;
        let written = self.store.write(&batch);
        added.merge(WriteReport { accepted: 0, ..written });
        Ok(added)
    }

    fn register_labels<'py>(
        &self,
        py: Python<'py>,
        labels: Result<Vec<Labels>>,
        strict: bool,
    ) -> PyResult<(Bound<'py, PyArray1<u64>>, u64)> {
        let (ids, created) = call::detached(py, || self.made_known(&labels?, strict))
            .map_err(|e| error::write_error(py, e))?;
        Ok((ids.into_pyarray(py), created))
    }

    fn made_known(&self, labels: &[Labels], strict: bool) -> Result<(Vec<u64>, u64)> {
        if strict { self.store.register(labels) } else { self.store.register_or_refuse(labels) }
    }
}
