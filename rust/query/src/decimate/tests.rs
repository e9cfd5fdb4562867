#![allow(clippy::unwrap_used)]

use metricsdb_model::{Histogram, Labels};
use proptest::prelude::*;

use super::*;

/// Pixels that a line through the points sets: in each column from the lowest to the highest row that it passes.
fn raster(
    times: &[i64],
    values: &[f64],
    width: usize,
    height: usize,
    range: (f64, f64),
) -> Vec<(usize, usize)> {
    let span = (times[times.len() - 1] - times[0]).max(1) as f64;
    let x = |t: i64| (t - times[0]) as f64 * width as f64 / span;
    let row = |v: f64| (((v - range.0) / (range.1 - range.0)) * (height - 1) as f64).round() as usize;
    let column =
        |t: i64| ((t - times[0]) as i128 * width as i128 / (span as i128)).min(width as i128 - 1) as usize;
    let mut rows: Vec<Option<(usize, usize)>> = vec![None; width];
    let mut paint = |column: usize, a: f64, b: f64| {
        let (low, high) = (row(a).min(row(b)), row(a).max(row(b)));
        let all = rows[column].map_or((low, high), |(l, h)| (l.min(low), h.max(high)));
        rows[column] = Some(all);
    };
    let points: Vec<(i64, f64)> = times.iter().copied().zip(values.iter().copied()).collect();
    for &(t, v) in &points {
        paint(column(t), v, v);
    }
    for pair in points.windows(2) {
        let ((t0, v0), (t1, v1)) = (pair[0], pair[1]);
        let at =
            |place: f64| v0 + (v1 - v0) * ((place - x(t0)) / (x(t1) - x(t0)).max(1e-300)).clamp(0.0, 1.0);
        for c in column(t0)..=column(t1) {
            if t1 > t0 {
                paint(c, at((c as f64).max(x(t0))), at(((c + 1) as f64).min(x(t1))));
            } else {
                paint(c, v0, v1);
            }
        }
    }
    rows.iter()
        .enumerate()
        .flat_map(|(c, r)| r.iter().flat_map(move |&(l, h)| (l..=h).map(move |y| (c, y))))
        .collect()
}

fn series() -> impl Strategy<Value = (Vec<i64>, Vec<f64>)> {
    prop::collection::vec((1i64..40, 0u8..12, -1e3f64..1e3), 30..600).prop_map(|steps| {
        let mut time = 1_700_000_000_000;
        steps
            .into_iter()
            .map(|(step, kind, value)| {
                time += if kind == 0 { step * 900 } else { step };
                (time, if kind < 6 { value } else { (value / 100.0).round() })
            })
            .unzip()
    })
}

fn gather<T: Copy>(column: &[T], kept: &[u32]) -> Vec<T> {
    kept.iter().map(|&i| column[i as usize]).collect()
}

proptest! {
    #[test]
    fn m4_sets_the_same_pixels_as_all_points((times, values) in series(), width in 1usize..60, height in 2usize..80) {
        let kept = Thinning::new(Method::M4, 4 * width).unwrap().pick(&times, &values);
        let range = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let range = (range.0, range.1.max(range.0 + 1.0));
        let all = raster(&times, &values, width, height, range);
        let thin = raster(&gather(&times, &kept), &gather(&values, &kept), width, height, range);
        prop_assert_eq!(all, thin);
        prop_assert!(kept.len() <= 4 * width);
    }

    #[test]
    fn every_method_keeps_numbers_in_order_within_its_points(
        (times, mut values) in series(), points in 4usize..200, method in 0usize..4, holes in prop::collection::vec(0usize..600, 0..80),
    ) {
        for hole in holes {
            if let Some(value) = values.get_mut(hole) {
                *value = f64::NAN;
            }
        }
        let kept = Thinning::new(Method::ALL[method], points).unwrap().pick(&times, &values);
        prop_assert!(kept.len() <= points);
        prop_assert!(kept.is_sorted_by(|a, b| a < b));
        prop_assert!(kept.iter().all(|&i| !values[i as usize].is_nan()));
        let numbers = values.iter().filter(|v| !v.is_nan()).count();
        if numbers <= points {
            prop_assert_eq!(kept.len(), numbers);
        } else if Method::ALL[method] == Method::Lttb {
            prop_assert_eq!(kept.len(), points);
        }
        if matches!(Method::ALL[method], Method::M4 | Method::MinMax) {
            let of = |f: fn(f64, f64) -> f64, v: &[f64]| v.iter().copied().fold(f64::NAN, f);
            let thin = gather(&values, &kept);
            prop_assert_eq!(of(f64::max, &thin), of(f64::max, &values));
            prop_assert_eq!(of(f64::min, &thin), of(f64::min, &values));
        }
    }

    #[test]
    fn columns_are_those_of_the_formula((times, _) in series(), columns in 1usize..90) {
        let span = times[times.len() - 1] - times[0];
        let of = |t: i64| ((t - times[0]) * columns as i64 / span).min(columns as i64 - 1);
        let mut next = 0;
        let mut last = -1;
        by_column(&times, columns, |from, end| {
            assert!(from == next && from < end && of(times[from]) > last);
            assert!(times[from..end].iter().all(|&t| of(t) == of(times[from])));
            (next, last) = (end, of(times[from]));
        });
        prop_assert_eq!(next, times.len());
    }
}

#[test]
fn lttb_keeps_the_spike_and_the_ends() {
    let times: Vec<i64> = (0..100).map(|i| i * 1000).collect();
    let mut values = vec![0.0; 100];
    values[57] = 5.0;
    let kept = Thinning::new(Method::Lttb, 10).unwrap().pick(&times, &values);
    assert!(kept.contains(&57) && kept[0] == 0 && kept[9] == 99 && kept.len() == 10);
}

#[test]
fn unknown_methods_and_senseless_counts_are_refused() {
    assert!(matches!(Method::from_name("mean"), Err(Error::Input { input, .. }) if input == "method"));
    for points in [0, 3, POINTS_MAX + 1] {
        assert!(
            matches!(Thinning::new(Method::M4, points), Err(Error::Input { input, .. }) if input == "points")
        );
    }
    assert!(Method::ALL.into_iter().all(|m| Method::from_name(m.as_str()) == Ok(m)));
}

#[test]
fn times_at_the_ends_of_their_range_are_columns_too() {
    let times = [i64::MIN, -1, 0, 1, i64::MAX];
    let kept = Thinning::new(Method::MinMax, 4).unwrap().pick(&times, &[1.0, 5.0, 3.0, 2.0, 4.0]);
    assert_eq!(kept, [0, 1, 3, 4]);
}

#[test]
fn a_matrix_is_thinned_series_by_series_and_keeps_its_histograms() {
    let mut matrix = Matrix::default();
    for row in 0..2i64 {
        for step in 0..50i64 {
            if step % 20 == 7 {
                matrix.push_histogram(step, Histogram::stale());
            } else {
                matrix.timestamps.push(step);
                matrix.values.push((step * 7 % 13 + row) as f64);
            }
        }
        matrix.end_row(Labels::empty());
    }
    let thin = Thinning::new(Method::M4, 8).unwrap().matrix(matrix.clone(), &Budget::unlimited()).unwrap();
    assert_eq!(thin.len(), 2);
    for row in thin.all_series() {
        assert_eq!(row.histograms().map(|(t, _)| t).collect::<Vec<_>>(), [7, 27, 47]);
        assert!(row.floats().count() <= 8 && row.timestamps.is_sorted());
    }
    let all = Thinning::new(Method::M4, 80).unwrap().matrix(matrix.clone(), &Budget::unlimited()).unwrap();
    assert_eq!(all.timestamps, matrix.timestamps);
}
