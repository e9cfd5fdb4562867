//! `range_*`, which see all steps of the grid at once, and `rollup_*`, which make several series of one.

use metricsdb_model::{Error, Result};

use super::binary::map_rows;
use super::block::{Block, Vector};
use super::grid::Grid;
use super::matching::join;
use super::scan::{Args, RowMap};
use super::{Evaluator, Ranges};
use crate::function::edges;
use crate::function::rollup::Part;
use crate::function::sliding::Sliding;
use crate::function::{GridFn, check_args};
use crate::syntax::tree::{Call, ValueType};

/// The label that tells the parts of a rollup apart.
pub(crate) const ROLLUP: &str = "rollup";

impl<'a> Evaluator<'a> {
    /// Scalar arguments count as they are at the first step.
    #[inline(never)]
    pub(super) fn over_range(&self, call: &Call, kernel: GridFn, grid: &Grid) -> Result<Vector<'a>> {
        let function = call.function;
        let of_type = |wanted: ValueType| {
            let args = call.args.iter().enumerate();
            args.filter(move |(i, _)| function.arg_type(*i) == Some(wanted)).map(|(_, arg)| arg)
        };
        let mut scalars = Vec::new();
        for arg in of_type(ValueType::Scalar) {
            scalars.push(self.scalar(arg, grid)?.first().copied().unwrap_or(f64::NAN));
        }
        if let (Some(note), Some(arg)) = (check_args(function, &scalars)?, call.args.first()) {
            self.notes.add(note, arg.span);
        }
        let times: Vec<i64> = (0..grid.steps).map(|step| grid.time(step)).collect();
        let mut whole: Option<Vector<'a>> = None;
        for arg in of_type(ValueType::Vector) {
            let (times, scalars) = (times.clone(), scalars.clone());
            let map = RowMap::of_numbers(move |row| kernel(&times, row, &scalars));
            let found = map_rows(self.vector(arg, grid)?, map, !call.keeps_name(), self.budget)?;
            whole = Some(match whole {
                None => found,
                Some(before) => {
                    let (before, found) = (before.into_block(self.budget)?, found.into_block(self.budget)?);
                    Vector::Block(join(before, found, self.budget)?)
                }
            });
        }
        Ok(whole.unwrap_or_else(|| Vector::Block(Block::empty(grid.steps))))
    }

    #[inline(never)]
    pub(super) fn rollup(&self, call: &Call, parts: &'static [Part], grid: &Grid) -> Result<Vector<'a>> {
        let (function, arg) = (call.function, &call.args[0]);
        let only = match call.args.get(1) {
            Some(name) => Some(one_of(parts, function.name, &self.string(name)?)?),
            None => None,
        };
        let ranges = self.ranges(arg, grid)?;
        if let Some(edges) = ranges.edges {
            edges::check(edges.extension, function.name, Sliding::None).map_err(Error::execution)?;
        }
        if function.wants_counter && !ranges.set.is_empty() {
            self.remark_on_names(&ranges, arg.span)?;
        }
        let rows = |ranges: Ranges<'a>, part: &Part| {
            Vector::Rows(self.rows(
                ranges,
                part.kernel,
                part.sliding,
                Args::default(),
                call.keeps_name(),
                grid,
                self.remarks(arg.span),
            ))
        };
        if let Some(part) = only {
            return Ok(rows(ranges, part));
        }
        let mut whole = Block::empty(grid.steps);
        for (i, part) in parts.iter().enumerate() {
            let mut ranges = ranges.clone();
            ranges.probe.iter_mut().filter(|_| i > 0).for_each(|probe| probe.again());
            let mut block = rows(ranges, part).into_block(self.budget)?;
            for labels in block.labels_ready(self.budget)? {
                self.budget.check()?;
                *labels = labels.with(ROLLUP, part.name);
                self.budget.hold(labels.heap_bytes())?;
            }
            whole = join(whole, block.merge_equal(self.budget)?, self.budget)?;
        }
        Ok(Vector::Block(whole))
    }
}

fn one_of(parts: &'static [Part], function: &str, name: &str) -> Result<&'static Part> {
    parts.iter().find(|part| part.name == name).ok_or_else(|| {
        let known: Vec<&str> = parts.iter().map(|part| part.name).collect();
        Error::execution(format!("{function} knows no {name:?}: it gives {}", known.join(", ")))
    })
}
