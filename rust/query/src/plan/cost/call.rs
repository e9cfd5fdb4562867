//! Bounds of function calls.

use metricsdb_model::{Result, TimeRange};

use super::{Out, Walk};
use crate::exec::grid::{Grid, Looks};
use crate::exec::info::{info_predicate, reference};
use crate::function::{Kernel, Special, summary};
use crate::plan::nodes::bare;
use crate::syntax::tree::{Call, Expr, ExprKind, ValueType};

impl Walk<'_> {
    pub(super) fn call(&mut self, call: &Call, id: usize, grid: &Grid) -> Result<Out> {
        let steps = grid.steps as u64;
        let vector = call.function.vector_arg();
        let mut out = Out { id, series: 1, held: steps, peak: steps, ..Out::default() };
        out.scalar = call.function.returns == ValueType::Scalar;
        let summaries = summary::lookup(call.function.name).is_some();
        let mut scalars = 0u64;
        let mut found = false;
        for (i, arg) in call.args.iter().enumerate() {
            let arg = bare(arg);
            match &arg.kind {
                ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => {
                    scalars = scalars.saturating_add(steps);
                }
                ExprKind::Range { .. } | ExprKind::Subquery { .. } => {
                    (out, found) = (self.range(arg, grid, summaries)?.0, true);
                }
                _ if matches!(call.function.kernel, Kernel::Grid(_))
                    && call.function.arg_type(i) == Some(ValueType::Vector) =>
                {
                    let next = self.node(arg, grid)?;
                    out = if found { self.joined(out, next, grid) } else { next };
                    found = true;
                }
                _ if Some(i) == vector && call.function.returns != ValueType::Scalar => {
                    (out, found) = (self.node(arg, grid)?, true);
                }
                _ if i == 1 && matches!(call.function.kernel, Kernel::Special(Special::Info)) => {
                    self.skip(arg)
                }
                _ => {
                    let mut scalar = self.node(arg, grid)?;
                    self.hold(&mut scalar, grid.steps);
                    scalars = scalars.saturating_add(scalar.peak.max(scalar.held));
                }
            }
        }
        match call.function.kernel {
            Kernel::Special(special) if found => out = self.special(special, call, out, id, grid)?,
            Kernel::Rollup(parts) => {
                out.width = 0;
                if call.args.len() == 1 {
                    out = self.rollup(parts.len() as u64, out, grid);
                }
            }
            // These leave histograms out.
            Kernel::Map(_) | Kernel::Grid(_) => out.width = 0,
            _ => {}
        }
        out.peak = out.peak.max(out.held).saturating_add(scalars);
        Ok(out)
    }

    /// Functions over whole vectors, whose argument is `input`.
    fn special(
        &mut self,
        special: Special,
        call: &Call,
        mut input: Out,
        id: usize,
        grid: &Grid,
    ) -> Result<Out> {
        let steps = grid.steps as u64;
        let mut times = 1;
        let series = match special {
            Special::Timestamp | Special::HistogramNative => return Ok(Out { width: 0, ..input }),
            // Rows that are no selector's have no start, and are not read.
            Special::StartTimestamp => {
                self.nodes.iter_mut().skip(id).for_each(|node| node.samples_min = 0);
                return Ok(Out { width: 0, ..input });
            }
            Special::Absent | Special::AbsentOverTime => {
                let peak = input.peak.max(steps.saturating_mul(4));
                return Ok(Out { series: 1, held: steps, peak, ..Out::default() });
            }
            Special::HistogramQuantiles => {
                let quantiles = call.args.len().saturating_sub(2) as u64;
                let plain = operands_of(call) == 1;
                let labels = quantiles.saturating_mul(if plain { 1 } else { steps });
                histograms(&input).saturating_mul(labels)
            }
            Special::HistogramQuantile | Special::HistogramFraction => histograms(&input),
            Special::Info => {
                let bound = self.bound(&info_predicate(call)?, self.info_reach(call, grid)?)?;
                let samples = if steps == 1 { bound.series } else { bound.samples };
                let node = self.at(id);
                (node.samples, node.bytes) = (samples, bound.bytes);
                input.peak = input.peak.saturating_add(bound.series.saturating_mul(steps));
                let sets = steps.min(bound.series.saturating_add(1));
                times = sets;
                input.series.saturating_mul(sets)
            }
            _ => input.series,
        };
        let width = match special {
            Special::HistogramQuantile | Special::HistogramQuantiles | Special::HistogramFraction => 0,
            _ => input.width.saturating_mul(times),
        };
        self.hold(&mut input, grid.steps);
        let mut out = Out { series, width, ..Out::default() };
        out.held = out.size(steps);
        out.peak = input.peak.max(input.held.saturating_add(out.held));
        Ok(out)
    }

    /// Where info series are looked for: at the times of the first selector that they describe.
    fn info_reach(&self, call: &Call, grid: &Grid) -> Result<TimeRange> {
        let first = call.args.first().map(|base| reference(base, &self.times)).transpose()?.flatten();
        let (at, offset) = first.unwrap_or_default();
        Ok(Looks::new(grid, at, offset).reach(self.params.lookback_ms))
    }

    /// Rows of two arguments in one block.
    fn joined(&mut self, mut a: Out, mut b: Out, grid: &Grid) -> Out {
        self.hold(&mut a, grid.steps);
        b.peak = b.peak.saturating_add(a.held);
        self.hold(&mut b, grid.steps);
        let mut out = Out { series: a.series.saturating_add(b.series), ..Out::default() };
        out.held = out.size(grid.steps as u64);
        out.peak = a.peak.max(b.peak).max(a.held.saturating_add(b.held).saturating_add(out.held));
        out
    }

    /// As many rows of each series as there are parts: it is read once for each.
    fn rollup(&mut self, parts: u64, input: Out, grid: &Grid) -> Out {
        let one = input.size(grid.steps as u64);
        let node = self.at(input.id);
        for figure in [&mut node.samples, &mut node.samples_min, &mut node.bytes] {
            *figure = figure.saturating_mul(parts);
        }
        node.values = one.saturating_mul(parts);
        let series = input.series.saturating_mul(parts);
        let held = one.saturating_mul(parts);
        let peak = input.peak.max(input.held.saturating_add(held).saturating_add(one));
        Out { series, held, peak, ..Out::default() }
    }
}

/// A series with native histograms and classic buckets is two histograms.
fn histograms(input: &Out) -> u64 {
    input.series.saturating_mul(if input.width > 0 { 2 } else { 1 })
}

fn operands_of(call: &Call) -> usize {
    let literal =
        |e: &Expr| matches!(bare(e).kind, ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_));
    call.args.iter().filter(|a| !literal(a)).count()
}
