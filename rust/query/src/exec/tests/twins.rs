//! Equal parts are evaluated once, and that changes nothing.

use metricsdb_model::budget::{Limits, Visits};

use super::*;

/// The answer where each place counts its samples: then nothing is shared.
fn apart(source: &Plain, text: &str, params: Params<'_>) -> Result<Answer> {
    let limits = Limits { timeout_ms: 0, samples_max: u64::MAX, bytes_max: u64::MAX };
    let budget = Budget::with(Stop::default(), limits, None, Some(Visits::new(64)));
    evaluate(&parse(text).unwrap(), &params, source, &budget)
}

fn remarks(answer: &Answer) -> Vec<String> {
    let mut found: Vec<String> = answer.annotations.iter().map(|a| a.message.clone()).collect();
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn sharing_changes_no_answer(
        source in any_storage(),
        part in any_vector(),
        form in proptest::sample::select(&[
            "? or ?",
            "? - ?",
            "(? > 2) unless ?",
            "sum(?) / count(?) + sum(?)",
            "max_over_time((?)[5m:1m]) or ?",
            "? or max_over_time((? - ?)[5m:1m])",
        ][..]),
        step in 7_000..400_000i64,
    ) {
        // Deviations hang on the order of rows, which is another where they stand in memory.
        prop_assume!(!part.contains("std"));
        let text = form.replace('?', &part);
        let params = Params::range(&text, 30_000, 30_000 + 12 * step, step);
        match (ask(&source, &text, params), apart(&source, &text, params)) {
            (Ok(once), Ok(twice)) => {
                prop_assert_eq!(points(&once), points(&twice), "{}", text);
                prop_assert_eq!(remarks(&once), remarks(&twice), "{}", text);
            }
            (once, twice) => prop_assert_eq!(once.err(), twice.err(), "{}", text),
        }
    }
}

#[test]
fn equal_parts_are_read_once() {
    let source = wide();
    let loaded =
        |text: &str| ask(&source, text, Params::range(text, 60_000, 240_000, 20_000)).unwrap().samples_loaded;
    let rate = loaded("rate(m_total[1m])");
    for (text, times) in [
        ("sum(rate(m_total[1m])) / (sum(rate(m_total[1m])) + 1)", 1),
        ("rate(m_total[1m]) / (rate(m_total[1m]) + rate(m_total[1m]))", 1),
        // Rows that are folded one by one are not held for another fold.
        ("sum(rate(m_total[1m])) / count(rate(m_total[1m]))", 2),
        // What is remarked on is remarked on at both places.
        (
            "sum by (i) (quantile_over_time(2, m_total[1m])) + sum by (i) (quantile_over_time(2, m_total[1m]))",
            2,
        ),
    ] {
        assert_eq!(loaded(text), rate * times, "{text}");
    }
}
