//! Rehearsals of alerts over the past: their transitions and their figures as frames.

use std::sync::Arc;

use metricsdb_model::budget::Limits;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, Labels, Result};
use metricsdb_query::alert::backtest::{self, Times};
use metricsdb_query::alert::identity::Render;
use metricsdb_query::alert::{Change, Plan, Sink, Tally};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::alerts::{self, AlertRule, NativeMuting, rendering};
use crate::database::NativeDatabase;
use crate::output;
use crate::queries::Class;

#[pymethods]
impl NativeDatabase {
    /// What each of some alerts would have done, from rest at `start` on: a frame with `timestamp`, a column a label,
    /// and `alert_level`, `alert_from`, `alert_to`, `value`, `alert_firing`, `alert_flapping`, `alert_notify`, `alert_muted`.
    #[pyo3(signature = (rules, mutings, start, end, step, offset_ms, lookback_ms, render=None))]
    #[allow(clippy::too_many_arguments)] // rules and times, one to one
    fn backtest_alerts(
        &self,
        py: Python<'_>,
        rules: Vec<PyRef<'_, AlertRule>>,
        mutings: Vec<NativeMuting>,
        start: i64,
        end: i64,
        step: i64,
        offset_ms: i64,
        lookback_ms: i64,
        render: Option<Py<PyAny>>,
    ) -> PyResult<Vec<PyDataFrame>> {
        let times = Times { start, end, step, offset_ms, lookback_ms };
        self.rehearse(py, &rules, mutings, times, render, Vec::new, |found, plans, budget| {
            found.iter().zip(plans).map(|(changes, plan)| change_frame(changes, plan, budget)).collect()
        })
    }

    /// The figures of such rehearsals, a row an alert; `incidents` are their first and last moments (ms).
    #[pyo3(signature = (rules, mutings, incidents, start, end, step, offset_ms, lookback_ms, render=None))]
    #[allow(clippy::too_many_arguments)] // rules and times, one to one
    fn sweep_alerts(
        &self,
        py: Python<'_>,
        rules: Vec<PyRef<'_, AlertRule>>,
        mutings: Vec<NativeMuting>,
        incidents: Vec<(i64, i64)>,
        start: i64,
        end: i64,
        step: i64,
        offset_ms: i64,
        lookback_ms: i64,
        render: Option<Py<PyAny>>,
    ) -> PyResult<PyDataFrame> {
        let times = Times { start, end, step, offset_ms, lookback_ms };
        self.rehearse(
            py,
            &rules,
            mutings,
            times,
            render,
            || Tally::new(&incidents),
            |found, _, _| tally_frame(&found),
        )
    }
}

impl NativeDatabase {
    /// Runs the alerts over the past, each into a `sink` of its own, and makes something of these.
    #[allow(clippy::too_many_arguments)] // what both rehearsals take
    fn rehearse<S: Sink, T: Send>(
        &self,
        py: Python<'_>,
        rules: &[PyRef<'_, AlertRule>],
        mutings: Vec<NativeMuting>,
        times: Times,
        render: Option<Py<PyAny>>,
        sink: impl Fn() -> S + Sync,
        made: impl FnOnce(Vec<S>, &[Arc<Plan>], &Budget) -> Result<T> + Send,
    ) -> PyResult<T> {
        let plans: Vec<Arc<Plan>> = rules.iter().map(|rule| rule.plan.clone()).collect();
        let mutings = alerts::mutings(mutings);
        // Evaluations come in parts, of which memory alone needs a limit.
        let limits = Limits { samples_max: u64::MAX, ..self.limits };
        let what = format!("backtest of {}", plans.first().map_or("nothing", |plan| &plan.name));
        self.run_as(py, Class::Batch, "alerts", &what, limits, |budget| {
            let all = plans.iter().map(|plan| (&**plan, sink())).collect();
            let mut render = render.as_ref().map(rendering);
            let render = render.as_mut().map(|render| render as &mut Render<'_>);
            let found = backtest::backtest(all, &mutings, times, &*self.stores(), budget, render)?;
            made(found, &plans, budget)
        })
    }
}

/// Columns of a frame of transitions beside labels.
const COLUMNS: [&str; 7] = [
    "alert_level",
    "alert_from",
    "alert_to",
    "alert_firing",
    "alert_flapping",
    "alert_notify",
    "alert_muted",
];

fn change_frame(changes: &[Change], plan: &Plan, budget: &Budget) -> Result<PyDataFrame> {
    let sets: Vec<Labels> = changes.iter().map(|change| change.labels.clone()).collect();
    let names = output::label_names(sets.iter(), budget)?;
    let names: Vec<String> = names.into_iter().filter(|name| name != METRIC_NAME).collect();
    let mut columns =
        vec![Column::new("timestamp".into(), changes.iter().map(|c| c.at).collect::<Vec<i64>>())];
    let mut labels = output::label_columns(&sets, &names, budget)?;
    for column in &mut labels {
        if COLUMNS.contains(&column.name().as_str()) || column.name() == "alert" {
            column.rename(format!("label_{}", column.name()).into());
        }
    }
    columns.extend(labels);
    let level = |c: &Change| c.level.and_then(|l| plan.levels.get(l)?.name.clone());
    let flags = |of: fn(&Change) -> bool| changes.iter().map(of).collect::<Vec<bool>>();
    let [named, from, to, firing, flapping, notify, muted] = COLUMNS;
    columns.extend([
        Column::new(named.into(), changes.iter().map(level).collect::<Vec<Option<String>>>()),
        Column::new(from.into(), changes.iter().map(|c| c.from.as_str()).collect::<Vec<&str>>()),
        Column::new(to.into(), changes.iter().map(|c| c.to.as_str()).collect::<Vec<&str>>()),
        Column::new("value".into(), changes.iter().map(|c| c.value).collect::<Vec<f64>>()),
        Column::new(firing.into(), flags(|c| c.firing)),
        Column::new(flapping.into(), flags(|c| c.flapping)),
        Column::new(notify.into(), flags(|c| c.notify)),
        Column::new(muted.into(), changes.iter().map(|c| c.muted.as_deref()).collect::<Vec<Option<&str>>>()),
    ]);
    output::frame(columns)
}

fn tally_frame(found: &[Tally]) -> Result<PyDataFrame> {
    let counts = |name: &'static str, of: fn(&Tally) -> u64| {
        Column::new(name.into(), found.iter().map(of).collect::<Vec<u64>>())
    };
    let seconds = |name: &'static str, of: fn(&Tally) -> i64| {
        Column::new(name.into(), found.iter().map(|tally| of(tally) as f64 / 1e3).collect::<Vec<f64>>())
    };
    output::frame(vec![
        counts("firings", |tally| tally.firings),
        counts("instances", Tally::instances),
        counts("notifications", |tally| tally.notifications),
        counts("pages", |tally| tally.pages),
        counts("flaps", |tally| tally.flaps),
        seconds("firing_seconds", |tally| tally.firing_ms),
        seconds("longest_seconds", |tally| tally.longest_ms),
        counts("hits", Tally::hits),
        counts("misses", Tally::misses),
        counts("false_alarms", |tally| tally.false_alarms),
    ])
}
