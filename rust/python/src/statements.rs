//! Statements as what Python reads: dicts, lists and texts; milliseconds.

use metricsdb_query::alert::{self, Plan};
use metricsdb_query::syntax;
use metricsdb_query::syntax::statement::{
    Alert, Clauses, Clear, ClearWhen, Condition, Damp, Map, Route, Statement,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call;

/// What a statement says, with its `kind` and `text`.
pub fn statement_dict<'py>(
    py: Python<'py>,
    statement: &Statement,
    text: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("text", statement.to_string())?;
    let kind = match statement {
        Statement::Query(_) => "query",
        Statement::Explain(_) => "explain",
        Statement::Record(record) => {
            dict.set_item("name", &record.name)?;
            dict.set_item("expr", record.expr.to_string())?;
            dict.set_item("labels", map_dict(py, &record.labels)?)?;
            dict.set_item("backfill_ms", record.backfill_ms)?;
            "record"
        }
        Statement::Alert(found) => {
            let plan = call::short(py, || alert::compile(found, text))?;
            dict.set_item("name", &found.name)?;
            dict.set_item("alert", alert_dict(py, &plan)?)?;
            "alert"
        }
        Statement::Slo(slo) => {
            let alerts = call::short(py, || alert::burns(slo))?;
            dict.set_item("name", &slo.name)?;
            dict.set_item("alerts", alerts.iter().map(Alert::to_string).collect::<Vec<_>>())?;
            "slo"
        }
        Statement::Group(group) => {
            dict.set_item("name", &group.name)?;
            dict.set_item("every_ms", group.every_ms)?;
            dict.set_item("offset_ms", group.offset_ms)?;
            dict.set_item("limit", group.limit)?;
            dict.set_item("labels", map_dict(py, &group.labels)?)?;
            let statements = group.labelled();
            let inner = statements.iter().map(|statement| statement_dict(py, statement, text));
            dict.set_item("statements", inner.collect::<PyResult<Vec<_>>>()?)?;
            "group"
        }
    };
    dict.set_item("kind", kind)?;
    Ok(dict)
}

fn map_dict<'py>(py: Python<'py>, map: &Map) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    map.iter().try_for_each(|(name, text)| dict.set_item(name, text))?;
    Ok(dict)
}

/// An alert's clauses.
pub fn alert_dict<'py>(py: Python<'py>, plan: &Plan) -> PyResult<Bound<'py, PyDict>> {
    let Clauses { cooldown_ms, flap, nodata, error, inhibited, during, cap, .. } = &plan.alert.clauses;
    let word = |choice: &dyn std::fmt::Debug| format!("{choice:?}").to_ascii_lowercase();
    let dict = PyDict::new(py);
    dict.set_item("name", &plan.name)?;
    dict.set_item("by", &plan.alert.by)?;
    dict.set_item("templates", plan.templates.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    dict.set_item("cooldown_ms", cooldown_ms)?;
    let flap = flap.map(|f| (f.changes, f.window_ms, f.quiet_ms, f.then.map(|then| word(&then))));
    dict.set_item("flap", flap)?;
    dict.set_item("nodata", nodata.map(|nodata| (word(&nodata.then), nodata.after_ms)))?;
    dict.set_item("error", error.map(|error| word(&error)))?;
    let inhibited: Vec<_> = inhibited.iter().map(|i| (&i.by, &i.on)).collect();
    dict.set_item("inhibited", inhibited)?;
    dict.set_item("during", during.iter().map(|d| (d.negated, &d.interval)).collect::<Vec<_>>())?;
    dict.set_item("cap", cap)?;
    let levels = plan.levels.iter().enumerate().map(|(l, level)| {
        let condition = match &plan.alert.body {
            syntax::statement::Body::Single(condition) => Some(&**condition),
            syntax::statement::Body::Levels(levels) => levels.get(l).map(|level| &level.condition),
        };
        let dict = PyDict::new(py);
        dict.set_item("name", &level.name)?;
        condition.into_iter().try_for_each(|condition| condition_into(&dict, condition))?;
        let timing = plan.rules.levels[l];
        dict.set_item("keep_firing_ms", timing.keep_firing_ms)?;
        dict.set_item("hold_ms", timing.hold_ms)?;
        dict.set_item("labels", map_dict(py, &level.labels)?)?;
        dict.set_item("annotations", map_dict(py, &level.annotations)?)?;
        dict.set_item("route", level.route.as_ref().map(|route| route_dict(py, route)).transpose()?)?;
        Ok(dict)
    });
    dict.set_item("levels", levels.collect::<PyResult<Vec<_>>>()?)?;
    Ok(dict)
}

/// Milliseconds, or (k, n).
fn damp_into(dict: &Bound<'_, PyDict>, key: &str, damp: Option<Damp>) -> PyResult<()> {
    match damp {
        None => dict.set_item(key, ()),
        Some(Damp::For(ms)) => dict.set_item(key, (ms,)),
        Some(Damp::Of { count, of }) => dict.set_item(key, (count, of)),
    }
}

fn condition_into(dict: &Bound<'_, PyDict>, condition: &Condition) -> PyResult<()> {
    dict.set_item("expr", condition.fire.to_string())?;
    damp_into(dict, "for", condition.damp)?;
    let clear = condition.clear.as_ref();
    let (when, at) = match clear.map(|Clear { when, .. }| when) {
        None => (None, None),
        Some(ClearWhen::When(expr)) => (Some(expr.to_string()), None),
        Some(ClearWhen::At(value)) => (None, Some(*value)),
    };
    dict.set_item("clear_when", when)?;
    dict.set_item("clear_at", at)?;
    damp_into(dict, "clear_for", clear.and_then(|clear| clear.damp))
}

fn route_dict<'py>(py: Python<'py>, route: &Route) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("receivers", &route.receivers)?;
    dict.set_item("group_by", &route.group_by)?;
    dict.set_item("wait_ms", route.wait_ms)?;
    dict.set_item("interval_ms", route.interval_ms)?;
    dict.set_item("repeat_ms", route.repeat_ms)?;
    Ok(dict)
}
