//! Rollups as Python sees them: steps of a pass, what stands, and records as frames.

use metricsdb_model::layered::BySeries;
use metricsdb_model::{Budget, Error, Labels, Result, Samples, SeriesSet, TimeRange};
use metricsdb_query::syntax;
use metricsdb_store::View;
use metricsdb_store::rollup::states::State;
use metricsdb_store::rollup::{Beside, EVERY_MAX, Keeping, Kind, Level, Pass, Progress, Record, Rule};
use polars::prelude::Column;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;
use rayon::prelude::*;

use crate::call;
use crate::database::NativeDatabase;
use crate::output;

/// selector, ms that raw samples stay, (ms of a bucket, ms that records stay), what they are, and which samples survive: share,
/// threshold, neighbours; whether quantiles and whether states are kept, and buckets of native histograms at most
type RuleTuple = (
    String,
    Option<i64>,
    Vec<(i64, Option<i64>)>,
    Option<String>,
    Option<(f64, f64, usize)>,
    (bool, bool, Option<u32>),
);
/// next shard or 256, series, samples, records, records dropped, buckets made anew, samples that survive, raw samples
/// dropped, their bytes
type Done = (usize, u64, u64, u64, u64, u64, u64, u64, u64);

fn rule((selector, raw, levels, kind, keeping, (sketches, states, buckets_max)): RuleTuple) -> Result<Rule> {
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
    let kind = kind.map(|text| named(&text)).transpose()?;
    Ok(Rule { predicate, raw, levels, kind, keeping, beside: Beside { sketches, states, buckets_max } })
}

fn named(text: &str) -> Result<Kind> {
    let why = "is no kind of series";
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    known.ok_or_else(|| Error::input("kind", text, why, "give counter, gauge or states"))
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
            let mut found = BySeries::default();
            for (rank, store) in self.all().enumerate() {
                let kept = store.kept(&predicate, range, budget)?;
                kept.into_iter().for_each(|(of, kept)| found.push(of, rank as u32, kept));
            }
            for (of, kept) in found.merged() {
                labels.push(of);
                all.timestamps.extend(kept.timestamps);
                all.values.extend(kept.values);
                offsets.push(all.len());
            }
            budget.keep(all.len() * 32)?;
            let columns = output::all_label_columns(&labels, budget)?;
            let mut columns = output::repeat(&columns, &offsets, budget)?;
            columns.push(Column::new("timestamp".into(), all.timestamps));
            columns.push(Column::new("value".into(), all.values));
            output::frame(columns)
        })
    }

    /// What the selected series with records are taken for: labels, kind.
    fn rollup_kinds(&self, py: Python<'_>, selector: &str) -> PyResult<PyDataFrame> {
        self.run(py, selector, |budget| {
            let (labels, kinds): (Vec<Labels>, Vec<&str>) =
                self.store.rollup_kinds(&syntax::selector(selector)?, budget)?.into_iter().unzip();
            let mut columns = output::all_label_columns(&labels, budget)?;
            columns.push(Column::new("kind".into(), kinds));
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
        let range = TimeRange::new(start, end);
        self.run(py, selector, |budget| {
            let (mut columns, all) = self.rolled(selector, range, budget, |view, i| {
                let buckets = view.states(i, every_ms, range)?.into_iter();
                Ok(buckets.flat_map(|(end, states)| states.into_iter().map(move |s| (end, s))).collect())
            })?;
            columns.extend(state_columns(&all, every_ms));
            output::frame(columns)
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
        let range = TimeRange::new(start, end);
        self.run(py, selector, |budget| {
            let (mut columns, all) = self.rolled(selector, range, budget, |view, i| {
                let native = view.has_native_records(i);
                Ok(view.records(i, every_ms, range)?.into_iter().map(|record| (record, native)).collect())
            })?;
            columns.extend(record_columns(&all, every_ms));
            output::frame(columns)
        })
    }
}

impl NativeDatabase {
    /// What `read` gives of each selected series, all together, and the columns of labels beside it.
    fn rolled<T: Send>(
        &self,
        selector: &str,
        range: TimeRange,
        budget: &Budget,
        read: impl Fn(&View<'_>, usize) -> Result<Vec<T>> + Sync,
    ) -> Result<(Vec<Column>, Vec<T>)> {
        let chosen = self.chosen();
        let view = chosen.view(&syntax::selector(selector)?, range, budget)?;
        let one = |i: usize| {
            budget.check()?;
            let rows = read(&view, i)?;
            budget.keep(rows.len() * size_of::<T>() * 2)?;
            Ok((view.labels(i), rows))
        };
        let parts: Vec<(Labels, Vec<T>)> = (0..view.len()).into_par_iter().map(one).collect::<Result<_>>()?;
        let (mut labels, mut offsets, mut all) = (Vec::new(), vec![0], Vec::new());
        for (of, mut rows) in parts.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            labels.push(of);
            all.append(&mut rows);
            offsets.push(all.len());
        }
        let columns = output::all_label_columns(&labels, budget)?;
        Ok((output::repeat(&columns, &offsets, budget)?, all))
    }
}

/// The columns of states in buckets, of which the ends are given; times in ms.
fn state_columns(all: &[(i64, State)], every: i64) -> Vec<Column> {
    let times = |name: &str, f: &dyn Fn(i64) -> i64| {
        Column::new(name.into(), all.iter().map(|(end, _)| f(*end)).collect::<Vec<i64>>())
    };
    let numbers = |name: &str, f: fn(&State) -> f64| {
        Column::new(name.into(), all.iter().map(|(_, s)| f(s)).collect::<Vec<f64>>())
    };
    vec![
        times("start", &|end| end.saturating_sub(every)),
        times("timestamp", &|end| end),
        numbers("value", |s| s.value),
        Column::new("count".into(), all.iter().map(|(_, s)| s.count).collect::<Vec<u64>>()),
        numbers("seconds", |s| s.held as f64 / 1000.0),
    ]
}

/// The columns of records, and whether they are of native histograms; times in ms.
fn record_columns(all: &[(Record, bool)], every: i64) -> Vec<Column> {
    let times = |name: &str, f: fn(&Record) -> i64| {
        Column::new(name.into(), all.iter().map(|(r, _)| f(r)).collect::<Vec<i64>>())
    };
    let counts = |name: &str, f: fn(&Record) -> u64| {
        Column::new(name.into(), all.iter().map(|(r, _)| f(r)).collect::<Vec<u64>>())
    };
    // Histograms have no such numbers.
    let numbers = |name: &str, f: fn(&Record) -> f64| {
        let number = |(r, native): &(Record, bool)| (!native).then(|| f(r));
        Column::new(name.into(), all.iter().map(number).collect::<Vec<Option<f64>>>())
    };
    let errors: Vec<Option<f64>> =
        all.iter().map(|(r, native)| (*native && r.max > 0.0).then_some(r.max)).collect();
    let starts: Vec<i64> = all.iter().map(|(r, _)| r.end.saturating_sub(every)).collect();
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
        Column::new("quantile_error".into(), errors),
    ]
}
