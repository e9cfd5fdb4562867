//! Statements taken apart, lints, and the machine's table row by row. `tests/properties/test_alerts.py` has the twin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backtests;
mod compiled;
mod identities;
mod signals;
mod states;

use metricsdb_model::{Labels, Matrix};

use super::*;
use crate::syntax::program;
use crate::syntax::statement::{Alert, Statement};

fn alert(text: &str) -> Alert {
    match program(text).map(|mut program| program.statements.pop()) {
        Ok(Some(Statement::Alert(alert))) => *alert,
        other => panic!("{text}: {other:?}"),
    }
}

fn plan(text: &str) -> Plan {
    compile(&alert(text), text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

/// One series `x{i="…"}` a row, whose values stand a second apart; NaN: no sample.
fn matrix(rows: &[(&str, &[f64])], from: usize, to: usize) -> Matrix {
    let mut matrix = Matrix::default();
    for (instance, values) in rows {
        for (step, value) in values.iter().enumerate().take(to).skip(from).filter(|(_, v)| !v.is_nan()) {
            matrix.timestamps.push(step as i64 * 1000);
            matrix.values.push(*value);
        }
        matrix.end_row(labels(&[("__name__", "x"), ("i", instance)]));
    }
    matrix
}
