//! Bits of conditions beside comparisons made one by one.

use proptest::prelude::*;

use super::*;
use crate::alert::compile::{Test, compares};
use crate::syntax::tree::BinaryOp;

const OPS: [BinaryOp; 6] = [
    BinaryOp::Greater,
    BinaryOp::GreaterEqual,
    BinaryOp::Less,
    BinaryOp::LessEqual,
    BinaryOp::Equal,
    BinaryOp::NotEqual,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Also where extremes decide for a whole word, with NaN and infinities among values and bounds.
    #[test]
    fn a_test_holds_where_a_value_compares(
        values in prop::collection::vec(prop::sample::select(vec![0.0, -0.0, 1.0, 2.0, 3.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]), 1..200),
        level in prop::option::of(prop::sample::select(vec![1.0, 2.0])),
        missing in prop::collection::vec(any::<bool>(), 200),
        sparse in any::<bool>(),
        bound in prop::sample::select(vec![0.0, 1.0, 1.5, 2.0, 9.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
    ) {
        // Some words of one value: extremes decide there.
        let value = |step: usize| if step / 64 == 1 { level.unwrap_or(values[step]) } else { values[step] };
        let there = |step: usize| !(sparse && missing[step]);
        let times: Vec<i64> = (0..values.len() as i64).collect();
        let mut answer = Matrix::default();
        for step in (0..values.len()).filter(|step| there(*step)) {
            answer.timestamps.push(step as i64);
            answer.values.push(value(step));
        }
        answer.end_row(labels(&[("__name__", "x")]));
        let plan = plan("alert a when x > 5");
        let readings = Readings::new(&plan, &times, vec![&answer]);
        let tests = OPS.map(|op| Test::Compare { query: 0, op, bound });
        for test in tests.into_iter().chain([Test::Present { query: 0 }]) {
            let mut bits = vec![0; values.len().div_ceil(64)];
            readings.holds(test, 0, &mut bits);
            let holds = |step: usize| match test {
                Test::Compare { op, bound, .. } => compares(op, value(step), bound),
                Test::Present { .. } => true,
            };
            for step in 0..bits.len() * 64 {
                let wanted = step < values.len() && there(step) && holds(step);
                prop_assert_eq!(bits[step / 64] >> (step % 64) & 1 == 1, wanted, "{:?} at {}", test, step);
            }
            // Nothing that fires rests.
            let rests = readings.rests(&Plan { levels: vec![fires(&plan, test)], ..plan.clone() }, 0);
            prop_assert!(!rests || bits.iter().all(|word| *word == 0), "{:?}", test);
        }
    }
}

fn fires(plan: &Plan, test: Test) -> crate::alert::compile::LevelPlan {
    crate::alert::compile::LevelPlan { fire: test, ..plan.levels[0].clone() }
}
