//! What tells instances apart beside the labels of their series: labels that are templates, and labels that collide.

use std::collections::BTreeMap;

use metricsdb_model::answer::Point;
use metricsdb_model::{Error, Histogram, Labels, Matrix, Result};

use super::compile::{ClearTest, Plan, Test, compares};
use super::readings::Readings;
use crate::syntax::statement::{Map, OnNoData};

/// Renders the templates of a sample: their names and texts, the labels and value of the sample, the evaluation (ms).
pub type Render<'r> = dyn FnMut(&Map, &Labels, f64, i64) -> Result<Map> + Send + 'r;

/// The answers of a plan with rendered labels in their rows, so that these make instances, as in Prometheus. A sample
/// that no instance hangs on (it does not fire, and nothing else would come of it) is left out. O(samples).
pub fn rendered(plan: &Plan, answers: &[&Matrix], render: &mut Render<'_>) -> Result<Vec<Matrix>> {
    // By default only fire matters: what is not there does not fire either.
    let all = plan.rules.nodata != OnNoData::Clear
        || plan.levels.iter().any(|level| level.clear != ClearTest::NotFire);
    let mut found = Vec::with_capacity(answers.len());
    for (query, matrix) in answers.iter().enumerate() {
        let mut rows: BTreeMap<Labels, BTreeMap<i64, Cell>> = BTreeMap::new();
        for row in 0..matrix.len() {
            let series = matrix.series(row);
            for (t, point) in series.points() {
                let (value, histogram) = match point {
                    Point::Float(value) => (value, None),
                    Point::Histogram(histogram) => (0.0, Some(histogram.clone())),
                };
                if !all && !plan.levels.iter().any(|level| fires(level.fire, query, value)) {
                    continue;
                }
                let labels = &matrix.labels[row];
                let texts = render(&plan.templates, labels, value, t)?;
                let labels = texts.iter().fold(labels.clone(), |all, (name, text)| all.with(name, text));
                let cells = rows.entry(labels).or_default();
                if cells.insert(t, Cell { value, histogram }).is_some() && plan.by.is_none() {
                    return Err(collision());
                }
            }
        }
        found.push(matrix_of(rows));
    }
    Ok(found)
}

struct Cell {
    value: f64,
    histogram: Option<Histogram>,
}

fn fires(test: Test, query: usize, value: f64) -> bool {
    match test {
        Test::Present { query: wanted } => wanted == query,
        Test::Compare { query: wanted, op, bound } => wanted == query && compares(op, value, bound),
    }
}

fn matrix_of(rows: BTreeMap<Labels, BTreeMap<i64, Cell>>) -> Matrix {
    let mut matrix = Matrix::default();
    for (labels, cells) in rows {
        for (t, cell) in cells {
            match cell.histogram {
                Some(histogram) => matrix.push_histogram(t, histogram),
                None => {
                    matrix.timestamps.push(t);
                    matrix.values.push(cell.value);
                }
            }
        }
        matrix.end_row(labels);
    }
    matrix
}

fn collision() -> Error {
    Error::execution("vector contains metrics with the same labelset after applying alert labels")
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
                return Err(collision());
            }
        }
    }
    Ok(())
}
