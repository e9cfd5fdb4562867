//! Largest triangle three buckets (Steinarsson 2013).

/// First and last point, and of each of `points - 2` groups of equal count between them the one that spans the largest triangle
/// with the point chosen before and the mean of the next group. More values than `points`, at least 3, none NaN.
pub fn lttb(times: &[i64], values: &[f64], points: usize) -> Vec<u32> {
    let count = values.len();
    let groups = points - 2;
    let bound = |group: usize| 1 + ((count - 2) as u128 * group as u128 / groups as u128) as usize;
    // Times since the first: as doubles they lose nothing that a triangle would show.
    let time = |at: usize| (i128::from(times[at]) - i128::from(times[0])) as f64;
    let mut kept = Vec::with_capacity(points);
    kept.push(0u32);
    let mut chosen = 0;
    for group in 0..groups {
        let (from, end) = (bound(group), bound(group + 1));
        let (next_end, size) = if group + 1 < groups {
            let next_end = bound(group + 2);
            (next_end, (next_end - end) as f64)
        } else {
            (count, (count - end) as f64)
        };
        let mean_time = (end..next_end).map(time).sum::<f64>() / size;
        let mean_value = values[end..next_end].iter().sum::<f64>() / size;
        let (t0, v0) = (time(chosen), values[chosen]);
        let (dt, dv) = (t0 - mean_time, mean_value - v0);
        let mut best = (from, -1.0);
        for (at, &value) in values.iter().enumerate().take(end).skip(from) {
            let area = (dt * (value - v0) - (t0 - time(at)) * dv).abs();
            if area > best.1 {
                best = (at, area);
            }
        }
        chosen = best.0;
        kept.push(chosen as u32);
    }
    kept.push(count as u32 - 1);
    kept
}
