//! What sees all steps at once, against slow models over the points of the inner query.

use super::*;
use crate::function::quantile::quantile;

/// Series by their labels, a value or none at each step.
type Table = BTreeMap<Labels, Vec<Option<f64>>>;

const START: i64 = 60_000;
const STEP: i64 = 45_000;
const STEPS: usize = 9;

/// Names stay out of it: whether they are dropped is told by the scripts.
fn table(source: &Plain, text: &str) -> Table {
    let end = START + (STEPS as i64 - 1) * STEP;
    let answer = ask(source, text, Params::range(text, START, end, STEP)).unwrap();
    let mut table = Table::new();
    for (labels, times, values) in answer.matrix.rows() {
        let row = table.entry(labels.without_name()).or_insert_with(|| vec![None; STEPS]);
        for (t, v) in times.iter().zip(values) {
            row[((t - START) / STEP) as usize] = Some(*v);
        }
    }
    table
}

fn numbers(row: &[Option<f64>]) -> Vec<f64> {
    row.iter().flatten().copied().filter(|v| !v.is_nan()).collect()
}

fn at(table: &Table, step: usize) -> Vec<f64> {
    table.values().filter_map(|row| row[step]).filter(|v| !v.is_nan()).collect()
}

fn same(found: &Table, wanted: &Table) -> bool {
    let close = |(a, b): (&Option<f64>, &Option<f64>)| match (a, b) {
        (Some(a), Some(b)) => (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(1.0),
        (None, None) => true,
        _ => false,
    };
    found.keys().eq(wanted.keys())
        && found.values().zip(wanted.values()).all(|(a, b)| a.iter().zip(b).all(close))
}

/// The inner rows, each with one number at every step.
fn filled(inner: &Table, of: impl Fn(&[f64]) -> f64) -> Table {
    let fill = |row: &Vec<Option<f64>>| match &numbers(row)[..] {
        [] => row.clone(),
        numbers => vec![Some(of(numbers)); STEPS],
    };
    inner.iter().map(|(labels, row)| (labels.clone(), fill(row))).collect()
}

fn median(values: &[f64]) -> f64 {
    quantile(0.5, &mut values.to_vec())
}

/// Rows that lie outside at any step.
fn strays(inner: &Table, bounds: impl Fn(&[f64]) -> (f64, f64)) -> Table {
    let bounds: Vec<(f64, f64)> = (0..STEPS).map(|step| bounds(&at(inner, step))).collect();
    let outside = |row: &[Option<f64>]| {
        row.iter().zip(&bounds).any(|(v, (low, high))| v.is_some_and(|v| v < *low || v > *high))
    };
    inner.iter().filter(|(_, row)| outside(row)).map(|(l, r)| (l.clone(), r.clone())).collect()
}

fn apart(inner: &Table, row: &[Option<f64>]) -> f64 {
    let squares =
        row.iter().enumerate().filter_map(|(step, v)| Some((v.as_ref()? - median(&at(inner, step))).powi(2)));
    squares.filter(|d| !d.is_nan()).sum()
}

const INNER: &[&str] =
    &["a_total", "b_total{g=\"0\"}", "rate(a_total[3m])", "a_total @ 300", "sum by (g) (b_total)"];

proptest! {
    #[test]
    fn whole_rows_are_seen(source in any_storage()) {
        for inner in INNER {
            let points = table(&source, inner);
            for (function, of) in [
                ("range_sum", (|v| v.iter().sum()) as fn(&[f64]) -> f64),
                ("range_avg", |v| v.iter().sum::<f64>() / v.len() as f64),
                ("range_max", |v| v.iter().copied().fold(f64::MIN, f64::max)),
                ("range_first", |v| v[0]),
                ("range_median", median),
            ] {
                let found = table(&source, &format!("{function}({inner})"));
                prop_assert!(same(&found, &filled(&points, of)), "{}({}): {:?} of {:?}", function, inner, found, points);
            }
        }
    }

    /// The one step of an instant query sees the steps of the subquery, whether it is pinned or not.
    #[test]
    fn subqueries_have_a_range_of_their_own(source in any_storage()) {
        let end = START + (STEPS as i64 - 1) * STEP;
        let inside = format!("[{}ms:{STEP}ms]", STEPS as i64 * STEP);
        // The subquery's steps are multiples of 45 s, as those of `table` are not.
        let shifted: Vec<(Labels, Vec<(i64, f64)>)> = source.0.iter()
            .map(|(l, samples)| (l.clone(), samples.iter().map(|(t, v)| (t + STEP - START % STEP, *v)).collect()))
            .collect();
        let shifted = Plain(shifted);
        let end = end + STEP - START % STEP;
        let whole = table(&source, "range_sum(b_total)");
        for text in [
            format!("last_over_time(range_sum(b_total){inside})"),
            format!("last_over_time(range_sum(b_total){inside} @ {})", end / 1000),
        ] {
            let answer = ask(&shifted, &text, Params::instant(&text, end)).unwrap();
            for (labels, _, values) in answer.matrix.rows() {
                let wanted = whole[&labels.without_name()].iter().flatten().next_back().copied();
                let close = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-9;
                prop_assert!(wanted.is_some_and(|w| close(w, values[0])), "{}: {:?} {:?}", text, values, whole);
            }
        }
    }

    #[test]
    fn outliers_are_whole_rows(source in any_storage(), k in 0..4usize) {
        for inner in INNER {
            let points = table(&source, inner);
            let found = table(&source, &format!("outliers_iqr({inner})"));
            let wanted = strays(&points, |v| {
                let (low, high) = (quantile(0.25, &mut v.to_vec()), quantile(0.75, &mut v.to_vec()));
                (low - 1.5 * (high - low), high + 1.5 * (high - low))
            });
            prop_assert!(same(&found, &wanted), "{:?} of {:?}", found, points);
            let found = table(&source, &format!("outliers_mad(1.5, {inner})"));
            let wanted = strays(&points, |v| {
                let middle = median(v);
                let apart: Vec<f64> = v.iter().map(|v| (v - middle).abs()).collect();
                (middle - 1.5 * median(&apart), middle + 1.5 * median(&apart))
            });
            prop_assert!(same(&found, &wanted), "{:?} of {:?}", found, points);
            let found = table(&source, &format!("outliersk({k}, {inner})"));
            prop_assert_eq!(found.len(), k.min(points.len()));
            let least = found.values().map(|row| apart(&points, row)).fold(f64::INFINITY, f64::min);
            for (labels, row) in points.iter().filter(|(labels, _)| !found.contains_key(*labels)) {
                prop_assert!(k == 0 || apart(&points, row) <= least, "{} {:?}", labels, found);
            }
        }
    }

    #[test]
    fn gaps_are_filled_from_the_right(source in any_storage()) {
        let (left, right) = (table(&source, "a_total"), table(&source, "b_total"));
        let mut wanted = if left.is_empty() { right.clone() } else { left.clone() };
        for (labels, row) in &mut wanted {
            for (v, other) in row.iter_mut().zip(right.get(labels).unwrap_or(&vec![None; STEPS])) {
                if v.is_none_or(f64::is_nan) && other.is_some() {
                    *v = *other;
                }
            }
        }
        prop_assert!(same(&table(&source, "a_total default b_total"), &wanted));
        let number = table(&source, "a_total default 7");
        prop_assert!(number.values().flatten().all(|v| v.is_some_and(|v| !v.is_nan())));
        prop_assert_eq!(number.len(), left.len().max(1));
    }
}
