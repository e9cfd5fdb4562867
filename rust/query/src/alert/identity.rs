//! What tells instances apart beside the labels of their series: labels that are templates, and labels that collide.

use std::collections::BTreeMap;

use metricsdb_model::answer::Point;
use metricsdb_model::{Error, Labels, Matrix, Result};

use super::compile::{Plan, Test, compares};
use super::readings::Readings;
use crate::syntax::statement::Map;

/// Renders the templates of a sample: their names and texts, the labels and value of the sample, the evaluation (ms).
pub type Render<'r> = dyn FnMut(&Map, &Labels, f64, i64) -> Result<Map> + Send + 'r;

/// The answers of a plan with rendered labels in their rows, so that these make instances, as in Prometheus. A sample
/// that no instance hangs on (it does not fire, and nothing else would come of it) is left out. Several rows may have the
/// same labels then: `check` says where that is wrong. O(samples).
pub fn rendered(plan: &Plan, answers: &[&Matrix], render: &mut Render<'_>) -> Result<Vec<Matrix>> {
    let only_fire = plan.only_fire_matters();
    let mut found = Vec::with_capacity(answers.len());
    for (query, matrix) in answers.iter().enumerate() {
        let mut rows: BTreeMap<(Labels, usize), Vec<(i64, Point<'_>)>> = BTreeMap::new();
        for row in 0..matrix.len() {
            let labels = &matrix.labels[row];
            for (t, point) in matrix.series(row).points() {
                // As in Prometheus, a histogram's value is 0.
                let value = if let Point::Float(value) = point { value } else { 0.0 };
                if only_fire && !plan.levels.iter().any(|level| fires(level.fire, query, value)) {
                    continue;
                }
                let texts = render(&plan.templates, labels, value, t)?;
                let labels = texts.iter().fold(labels.clone(), |all, (name, text)| all.with(name, text));
                rows.entry((labels, row)).or_default().push((t, point));
            }
        }
        let mut own = Matrix::default();
        for ((labels, _), points) in rows {
            for (t, point) in points {
                match point {
                    Point::Histogram(histogram) => own.push_histogram(t, histogram.clone()),
                    Point::Float(value) => {
                        own.timestamps.push(t);
                        own.values.push(value);
                    }
                }
            }
            own.end_row(labels);
        }
        found.push(own);
    }
    Ok(found)
}

/// Where only fire matters: what compares with a number has no other query then.
fn fires(test: Test, query: usize, value: f64) -> bool {
    match test {
        Test::Present { query: wanted } => wanted == query,
        Test::Compare { op, bound, .. } => compares(op, value, bound),
    }
}

/// Fails where two samples that fire at one evaluation are the same alert, as in Prometheus: they differ in their metric
/// name alone, or in labels that the statement's own take the place of. Those of one `BY` are one instance on purpose.
pub fn check(plan: &Plan, readings: &Readings<'_>) -> Result<()> {
    if plan.by.is_some() || !readings.shared() {
        return Ok(());
    }
    for level in &plan.levels {
        let (Test::Compare { query, .. } | Test::Present { query }) = level.fire;
        for place in (0..readings.len()).filter(|place| !readings.rests(plan, *place)) {
            let rows: Vec<u32> = readings.rows(place, query).collect();
            if rows.len() > 1 && readings.meet(level.fire, &rows) {
                return Err(Error::execution(
                    "vector contains metrics with the same labelset after applying alert labels",
                ));
            }
        }
    }
    Ok(())
}
