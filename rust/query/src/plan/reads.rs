//! Which series an evaluation reads, and from which times: known before any of them is there.

use std::sync::{Mutex, PoisonError};

use metricsdb_model::{Bound, Budget, Error, Predicate, Result, SeriesSet, Source, TimeRange};

use super::cost::estimate;
use crate::exec::Params;
use crate::syntax::tree::Expr;

/// Samples of these series, at these times (ms, both ends included), are all that one selector may read; where a series
/// has native histograms, also the newest one before them, which tells whether the first is a reset.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    pub predicate: Predicate,
    pub range: TimeRange,
}

/// What an evaluation may read at most: offsets, `@`, subqueries, lookback and windows are in the times. Equal reads come
/// once. Errors: those of the query's times.
pub fn reads(expr: &Expr, params: &Params<'_>) -> Result<Vec<Read>> {
    let asked = Asked::default();
    estimate(expr, params, &asked, &Budget::unlimited())?;
    Ok(asked.0.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Storage that holds nothing, and remembers what it was asked for: the walk that bounds a query goes where the
/// evaluation goes.
#[derive(Default)]
struct Asked(Mutex<Vec<Read>>);

impl Source for Asked {
    fn select<'a>(&'a self, _: &Predicate, _: TimeRange, _: &Budget) -> Result<Box<dyn SeriesSet + 'a>> {
        Err(Error::execution("nothing is read here"))
    }

    fn bound(&self, predicate: &Predicate, range: TimeRange, _: &Budget) -> Result<Option<Bound>> {
        let read = Read { predicate: predicate.clone(), range };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !range.is_empty() && !all.contains(&read) {
            all.push(read);
        }
        Ok(Some(Bound::default()))
    }
}
