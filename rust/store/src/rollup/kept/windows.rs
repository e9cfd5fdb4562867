//! How much a point is missed where it is left out: in what share of all stretches of time it is the most deviant point.
//!
//! Nobody knows beforehand which stretch somebody will look at. So a point is worth the windows of a few lengths, at every
//! place, whose largest score is its own; each length counts as much as any other, from 16 points to the whole.

const SHORTEST: usize = 16;
const GROWTH: usize = 4;

/// `SHORTEST`, each `GROWTH` times the one before, and the whole.
fn lengths(points: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(SHORTEST), |l| l.checked_mul(GROWTH))
        .take_while(move |&l| l < points)
        .chain([points])
}

/// A local maximum that nothing behind it has passed so far.
struct Open {
    score: f64,
    at: usize,
    /// Where windows may start: behind the last point that is as large or larger.
    from: usize,
}

/// Points that are looked through for maxima together.
const BLOCK: usize = 1024;

/// Adds to `worth[i]` the shares of windows, of each length, in which `score(i)` is the largest, of several the first; `worth` has
/// one a point. Only local maxima get any: what stands on a slope has next to none. O(n), one pass.
pub fn add_worth(score: impl Fn(usize) -> f64, worth: &mut [f32]) {
    let points = worth.len();
    // Each with what one window of it is worth.
    let lengths: Vec<(usize, f32)> = lengths(points).map(|l| (l, 1.0 / (points - l + 1) as f32)).collect();
    let mut open: Vec<Open> = Vec::new();
    let close = |peak: &Open, end: usize, worth: &mut [f32]| {
        let fitting = lengths.iter().take_while(|&&(length, _)| length <= end - peak.from);
        let shares = fitting.map(|&(length, share)| {
            // Starts of windows that reach the point and end before `end`.
            let first = peak.from.max((peak.at + 1).saturating_sub(length));
            let behind = (end - length).min(peak.at) + 1;
            behind.saturating_sub(first) as f32 * share
        });
        worth[peak.at] += shares.sum::<f32>();
    };
    let mut found = [(0usize, 0.0f64); BLOCK];
    let (mut here, mut rising) = (if points > 0 { score(0) } else { 0.0 }, true);
    for from in (0..points).step_by(BLOCK) {
        let mut count = 0;
        for at in from..points.min(from + BLOCK) {
            let next = if at + 1 < points { score(at + 1) } else { f64::NEG_INFINITY };
            // Written always and kept sometimes: a branch would be mispredicted on every other point of noise.
            found[count] = (at, here);
            count += usize::from(rising & (here >= next));
            (rising, here) = (next > here, next);
        }
        for &(at, score) in &found[..count] {
            while let Some(last) = open.last().filter(|last| last.score < score) {
                close(last, at, worth);
                open.pop();
            }
            let from = open.last().map_or(0, |last| last.at + 1);
            open.push(Open { score, at, from });
        }
    }
    for peak in &open {
        close(peak, points, worth);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every window of every length, looked through.
    fn slow(scores: &[f64]) -> Vec<f32> {
        let mut worth = vec![0.0; scores.len()];
        for length in lengths(scores.len()) {
            for (from, window) in scores.windows(length).enumerate() {
                let best = (0..length).fold(0, |b, i| if window[i] > window[b] { i } else { b });
                worth[from + best] += 1.0 / (scores.len() - length + 1) as f32;
            }
        }
        worth
    }

    proptest! {
        #[test]
        fn of_alternating_points_every_window_is_counted(heights in prop::collection::vec(1u8..9, 1..150)) {
            // Valleys of zero between all peaks: then no slope hides anything.
            let scores: Vec<f64> = heights.iter().flat_map(|&h| [f64::from(h), 0.0]).collect();
            let mut worth = vec![0.0; scores.len()];
            add_worth(|i| scores[i], &mut worth);
            for (got, want) in worth.iter().zip(slow(&scores)) {
                prop_assert!((got - want).abs() < 1e-4, "{} {}", got, want);
            }
        }

        #[test]
        fn no_window_is_lost_on_any_scores(scores in prop::collection::vec(0u8..30, 1..400)) {
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            let mut worth = vec![0.0; scores.len()];
            add_worth(|i| scores[i], &mut worth);
            for (at, (&got, want)) in worth.iter().zip(slow(&scores)).enumerate() {
                let peak = (at == 0 || scores[at - 1] < scores[at])
                    && scores.get(at + 1).is_none_or(|&next| scores[at] >= next);
                prop_assert!(!peak || got >= want - 1e-4, "{} {} {}", at, got, want);
            }
        }
    }
}
