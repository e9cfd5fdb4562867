//! Rollups as Python sees them: steps of a pass, what stands, and records as frames.

use metricsdb_model::{Budget, Error, Labels, Result, Samples, SeriesSet, TimeRange};
use metricsdb_query::syntax;
use metricsdb_store::rollup::states::State;
use metricsdb_store::rollup::{Beside, EVERY_MAX, Keeping, Level, Pass, Progress, Record, Rule};
use polars::prelude::Column;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;
use rayon::prelude::*;

use crate::call;
use crate::database::NativeDatabase;
use crate::output;

/// selector, ms that raw samples stay, (ms of a bucket, ms that records stay), whether they are counters, and which
/// samples survive: share, threshold, neighbours; whether quantiles and whether states are kept
type RuleTuple =
    (String, Option<i64>, Vec<(i64, Option<i64>)>, Option<bool>, Option<(f64, f64, usize)>, (bool, bool));
/// next shard or 256, series, samples, records, records dropped, buckets made anew, samples that survive, raw samples
/// dropped, their bytes
type Done = (usize, u64, u64, u64, u64, u64, u64, u64, u64);

fn rule((selector, raw, levels, counter, keeping, (sketches, states)): RuleTuple) -> Result<Rule> {
    let predicate = syntax::selector(&selector)?;
    let levels: Vec<Level> = levels.into_iter().map(|(every, keep)| Level { every, keep }).collect();
    let mut below = 1;
    for level in &levels {
        if !(1..=EVERY_MAX).contains(&level.every) || level.every % below != 0 || level.every == below {
            let given = format!("{} ms", level.every);
            let why = "is no multiple of the level before, or wider than 35,000 years";
            return Err(Error::input("level", &given, why, "give widths such as 1m, 10m, 1h"));
        }
        below = level.every;
    }
    let keeping = keeping.map(|(share, threshold, neighbours)| Keeping { share, threshold, neighbours });
    Ok(Rule { predicate, raw, levels, counter, keeping, beside: Beside { sketches, states } })
}

#[pymethods]
impl NativeDatabase {
    /// One step of a pass over all series, from a shard on. `pass_`: now and delay in ms, and the buckets for which a series waits.
    fn roll(
        &self,
        py: Python<'_>,
        rules: Vec<RuleTuple>,
        pass_: (i64, i64, i64),
        shard: usize,
        samples_max: u64,
    ) -> PyResult<Done> {
        call::short(py, || {
            let rules: Vec<Rule> = rules.into_iter().map(rule).collect::<Result<_>>()?;
            let (now, delay, batch) = pass_;
            let mut progress = Progress { next_shard: shard };
            let budget = Budget::unlimited();
            let done =
                self.store.roll(&rules, Pass { now, delay, batch }, &mut progress, samples_max, &budget)?;
            Ok((
                progress.next_shard,
                done.series,
                done.samples,
                done.records,
                done.expired_records,
                done.remade,
                done.kept,
                done.raw.samples,
                done.raw.bytes,
            ))
        })
    }

    /// What a whole pass would come to: series and samples of all, and of one series in `nth` (0: of none) that are tried series,
    /// samples, records, and bytes.
    fn roll_estimate(
        &self,
        py: Python<'_>,
        rules: Vec<RuleTuple>,
        now: i64,
        nth: u64,
    ) -> PyResult<(u64, u64, u64, u64, u64, u64)> {
        call::short(py, || {
            let rules: Vec<Rule> = rules.into_iter().map(rule).collect::<Result<_>>()?;
            let pass = Pass { now, delay: 0, batch: 1 };
            let found = self.store.roll_estimate(&rules, pass, nth, &Budget::unlimited())?;
            let tried = found.tried;
            Ok((found.series, found.samples, tried.series, tried.samples, tried.records, found.bytes))
        })
    }

    /// Checks rules without using them.
    #[staticmethod]
    fn check_rollup(py: Python<'_>, rules: Vec<RuleTuple>) -> PyResult<()> {
        call::short(py, || rules.into_iter().try_for_each(|r| rule(r).map(|_| ())))
    }

    /// Width in ms, series, records, bytes, first and last time, of each level.
    fn rollup_levels(&self, py: Python<'_>) -> PyResult<Vec<(i64, u64, u64, u64, i64, i64)>> {
        call::short(py, || {
            let levels = self.store.rollup_levels();
            Ok(levels
                .into_iter()
                .map(|l| (l.every, l.series, l.records, l.bytes, l.span.start, l.span.end))
                .collect())
        })
    }

    /// Width in ms, and column, with its bytes.
    fn rollup_columns(&self, py: Python<'_>) -> PyResult<Vec<(i64, String, u64)>> {
        call::short(py, || self.store.rollup_columns())
    }

    /// The samples of the selected series that survived beside records: labels, time, value.
    fn rollup_kept(&self, py: Python<'_>, selector: &str, start: i64, end: i64) -> PyResult<PyDataFrame> {
        self.run(py, selector, |budget| {
            let predicate = syntax::selector(selector)?;
            let range = TimeRange::new(start, end);
            let (mut labels, mut offsets, mut all) = (Vec::new(), vec![0], Samples::default());
            for (of, kept) in self.store.kept(&predicate, range, budget)? {
                labels.push(of);
                all.timestamps.extend(kept.timestamps);
                all.values.extend(kept.values);
                offsets.push(all.len());
            }
            budget.keep(all.len() * 32)?;
            let names = output::label_names(labels.iter(), budget)?;
            let columns = output::label_columns(&labels, &names, budget)?;
            let mut columns = output::repeat(&columns, &offsets, budget)?;
            columns.push(Column::new("timestamp".into(), all.timestamps));
            columns.push(Column::new("value".into(), all.values));
            output::frame(columns)
        })
    }

    /// States of the selected series in the buckets of a level that meet the range, a row a state and bucket.
    fn rollup_states(
        &self,
        py: Python<'_>,
        selector: &str,
        every_ms: i64,
        start: i64,
        end: i64,
    ) -> PyResult<PyDataFrame> {
        self.run(py, selector, |budget| {
            let predicate = syntax::selector(selector)?;
            let range = TimeRange::new(start, end);
            let view = self.store.select_exact(&predicate, range, budget)?;
            let parts: Vec<(Labels, Vec<Stated>)> = (0..view.len())
                .into_par_iter()
                .map(|i| {
                    budget.check()?;
                    let buckets = view.states(i, every_ms, range)?;
                    let states: Vec<Stated> = buckets
                        .into_iter()
                        .flat_map(|(end, s)| s.into_iter().map(move |s| (end, s)))
                        .collect();
                    budget.keep(states.len() * size_of::<Stated>() * 2)?;
                    Ok((view.labels(i), states))
                })
                .collect::<Result<_>>()?;
            states_frame(parts, every_ms, budget)
        })
    }

    /// Records of the selected series whose buckets meet the range, a row a record: labels, end of the bucket, columns.
    fn rollup_records(
        &self,
        py: Python<'_>,
        selector: &str,
        every_ms: i64,
        start: i64,
        end: i64,
    ) -> PyResult<PyDataFrame> {
        self.run(py, selector, |budget| {
            let predicate = syntax::selector(selector)?;
            let view = self.store.select_exact(&predicate, TimeRange::new(start, end), budget)?;
            let parts: Vec<(Labels, Vec<Record>)> = (0..view.len())
                .into_par_iter()
                .map(|i| {
                    budget.check()?;
                    let records = view.records(i, every_ms, TimeRange::new(start, end))?;
                    budget.keep(records.len() * size_of::<Record>() * 2)?;
                    Ok((view.labels(i), records))
                })
                .collect::<Result<_>>()?;
            records_frame(parts, every_ms, budget)
        })
    }
}

/// A bucket's end, and a state in it.
type Stated = (i64, State);

fn states_frame(parts: Vec<(Labels, Vec<Stated>)>, every: i64, budget: &Budget) -> Result<PyDataFrame> {
    let (labels, rows): (Vec<Labels>, Vec<Vec<Stated>>) =
        parts.into_iter().filter(|p| !p.1.is_empty()).unzip();
    let names = output::label_names(labels.iter(), budget)?;
    let columns = output::label_columns(&labels, &names, budget)?;
    let mut offsets = vec![0];
    for states in &rows {
        offsets.push(offsets.last().copied().unwrap_or(0) + states.len());
    }
    let mut columns = output::repeat(&columns, &offsets, budget)?;
    let all = || rows.iter().flatten();
    let starts: Vec<i64> = all().map(|s| s.0.saturating_sub(every)).collect();
    columns.push(Column::new("start".into(), starts));
    columns.push(Column::new("timestamp".into(), all().map(|s| s.0).collect::<Vec<i64>>()));
    columns.push(Column::new("value".into(), all().map(|s| s.1.value).collect::<Vec<f64>>()));
    columns.push(Column::new("count".into(), all().map(|s| s.1.count).collect::<Vec<u64>>()));
    let seconds: Vec<f64> = all().map(|s| s.1.held as f64 / 1000.0).collect();
    columns.push(Column::new("seconds".into(), seconds));
    output::frame(columns)
}

fn records_frame(parts: Vec<(Labels, Vec<Record>)>, every: i64, budget: &Budget) -> Result<PyDataFrame> {
    let (labels, rows): (Vec<Labels>, Vec<Vec<Record>>) =
        parts.into_iter().filter(|(_, records)| !records.is_empty()).unzip();
    let names = output::label_names(labels.iter(), budget)?;
    let columns = output::label_columns(&labels, &names, budget)?;
    let mut offsets = vec![0];
    for records in &rows {
        offsets.push(offsets.last().copied().unwrap_or(0) + records.len());
    }
    let mut columns = output::repeat(&columns, &offsets, budget)?;
    let all: Vec<Record> = rows.into_iter().flatten().collect();
    columns.extend(record_columns(&all, every));
    output::frame(columns)
}

/// The columns of records; times in ms.
pub fn record_columns(all: &[Record], every: i64) -> Vec<Column> {
    let times =
        |name: &str, f: fn(&Record) -> i64| Column::new(name.into(), all.iter().map(f).collect::<Vec<i64>>());
    let counts =
        |name: &str, f: fn(&Record) -> u64| Column::new(name.into(), all.iter().map(f).collect::<Vec<u64>>());
    let numbers =
        |name: &str, f: fn(&Record) -> f64| Column::new(name.into(), all.iter().map(f).collect::<Vec<f64>>());
    let starts: Vec<i64> = all.iter().map(|r| r.end.saturating_sub(every)).collect();
    vec![
        Column::new("start".into(), starts),
        times("timestamp", |r| r.end),
        counts("count", |r| r.count),
        numbers("sum", |r| r.sum),
        numbers("min", |r| r.min),
        numbers("max", |r| r.max),
        numbers("first", |r| r.first.1),
        numbers("last", |r| r.last.1),
        times("first_time", |r| r.first.0),
        times("last_time", |r| r.last.0),
        numbers("stddev", |r| (r.deviation / r.count as f64).sqrt()),
        numbers("increase", |r| r.last.1 - r.first.1 + r.reset_from),
        counts("resets", |r| r.resets),
        counts("unkept", |r| r.unkept),
    ]
}
