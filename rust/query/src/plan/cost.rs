//! What a query can cost at most, node by node, from the index and the heads of chunks.
//!
//! The walk mirrors the evaluator: the same grids, the same looks, the same moments at which rows are read into
//! memory. Every figure is an upper bound of what the evaluator counts, of the data as they are now; figures that
//! end with `min` are lower bounds.

use metricsdb_model::{Bound, Budget, Grouping, Result, Source, TimeRange};

use super::nodes::{bare, is_literal, only_selector};
use crate::exec::Params;
use crate::exec::aggregate::ROWS_HELD;
use crate::exec::grid::{Grid, Looks};
use crate::exec::labels::meant;
use crate::exec::over_range::ROLLUP;
use crate::exec::times::{QueryTimes, is_step_invariant};
use crate::function::Kernel;
use crate::syntax::predicate;
use crate::syntax::tree::{Aggregate, AggregateOp, Expr, ExprKind, Extension, Selector, ValueType};

mod binary;
mod call;

/// Numbers that an aggregation keeps for a row whose partial result it holds.
const PARTIAL_COLUMNS: u64 = 3;

/// Bounds of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCost {
    /// Series of its result.
    pub series: u64,
    /// Samples that it loads from storage, a histogram as one and one more a bucket; a subquery: that are read out
    /// of its steps.
    pub samples: u64,
    /// Samples that it is sure to load.
    pub samples_min: u64,
    /// Encoded bytes of the chunks that it looks into.
    pub bytes: u64,
    /// Values of its result that stand in memory at once: none where rows are folded one by one.
    pub values: u64,
}

/// Bounds of a whole query.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// In the order of `plan::nodes`.
    pub nodes: Vec<NodeCost>,
    /// Series of all selectors.
    pub series: u64,
    pub samples: u64,
    pub samples_min: u64,
    pub bytes: u64,
    /// Values in memory at the worst moment.
    pub held: u64,
    /// Whether storage could bound every selector.
    pub bounded: bool,
}

/// What comes up from a node.
#[derive(Clone, Copy, Default)]
struct Out {
    id: usize,
    /// The node beneath, where rows come from.
    below: usize,
    series: u64,
    /// What histograms cost at one step: one a row, with all buckets that the row ever has.
    width: u64,
    /// Rows are still to be read: nothing of them is in memory.
    lazy: bool,
    /// Values of the result in memory.
    held: u64,
    /// Values in memory at the worst moment on the way here.
    peak: u64,
    scalar: bool,
}

impl Out {
    /// Values of the whole result at so many steps.
    fn size(&self, steps: u64) -> u64 {
        let rows = if self.scalar { 1 } else { self.series };
        rows.saturating_add(self.width).saturating_mul(steps)
    }
}

struct Walk<'a> {
    params: &'a Params<'a>,
    times: QueryTimes,
    source: &'a dyn Source,
    budget: &'a Budget,
    nodes: Vec<NodeCost>,
    bounded: bool,
    /// Groups are counted, not bounded by the values of their labels.
    counts_groups: bool,
    /// What the newest selector sees.
    reach: TimeRange,
}

/// Bounds the cost of an expression. Takes what `Source::bound` takes for each selector. Errors: those of the
/// query's times, and the budget's.
pub fn estimate(expr: &Expr, params: &Params<'_>, source: &dyn Source, budget: &Budget) -> Result<Estimate> {
    estimate_with(expr, params, source, budget, false)
}

/// As `estimate`; with `counts_groups` tighter, and dearer, where an aggregation is over one selector.
pub(super) fn estimate_with(
    expr: &Expr,
    params: &Params<'_>,
    source: &dyn Source,
    budget: &Budget,
    counts_groups: bool,
) -> Result<Estimate> {
    let times = params.times();
    let grid = match params.step {
        Some(step) => Grid::new(params.start, params.end, step)?.unwrap_or(Grid::instant(params.start)),
        None => Grid::instant(params.start),
    };
    let (nodes, reach) = (Vec::new(), TimeRange::ALL);
    let mut walk = Walk { params, times, source, budget, nodes, bounded: true, counts_groups, reach };
    let held = match bare(expr).value_type() {
        ValueType::Matrix => {
            let (out, ..) = walk.range(bare(expr), &grid, false)?;
            let samples = walk.nodes.first().map_or(0, |n| n.samples);
            out.peak.saturating_add(samples.saturating_mul(4))
        }
        _ => {
            let mut out = walk.node(expr, &grid)?;
            walk.hold(&mut out, grid.steps);
            out.peak.saturating_add(out.held.saturating_mul(3))
        }
    };
    // What stands in the query twice may be evaluated once.
    for node in super::nodes::twins(expr).keys() {
        walk.nodes.get_mut(*node).into_iter().for_each(|cost| cost.samples_min = 0);
    }
    let sum = |of: fn(&NodeCost) -> u64| walk.nodes.iter().map(of).fold(0, u64::saturating_add);
    let selectors = selector_ids(expr);
    Ok(Estimate {
        series: selectors
            .iter()
            .filter_map(|&id| walk.nodes.get(id))
            .fold(0, |a, n| a.saturating_add(n.series)),
        samples: sum(|n| n.samples),
        samples_min: sum(|n| n.samples_min),
        bytes: sum(|n| n.bytes),
        held,
        bounded: walk.bounded,
        nodes: walk.nodes,
    })
}

fn selector_ids(expr: &Expr) -> Vec<usize> {
    let selects = |e: &Expr| matches!(e.kind, ExprKind::Selector(_) | ExprKind::Range { .. });
    super::nodes(expr).iter().filter(|n| selects(n.expr)).map(|n| n.id).collect()
}

impl Walk<'_> {
    fn node(&mut self, expr: &Expr, grid: &Grid) -> Result<Out> {
        let expr = bare(expr);
        let spreads = grid.steps > 1
            && matches!(
                expr.kind,
                ExprKind::Negate(_) | ExprKind::Binary(_) | ExprKind::Aggregate(_) | ExprKind::Call(_)
            )
            && is_step_invariant(expr);
        if !spreads {
            return self.compute(expr, grid);
        }
        let mut out = self.compute(expr, &Grid::instant(grid.start))?;
        if out.lazy {
            // Its rows are read before it is known that they are its own.
            self.at(out.below).values = out.size(1);
        }
        self.hold(&mut out, 1);
        let values = out.size(grid.steps as u64);
        out.peak = out.peak.max(out.held.saturating_add(values));
        out.held = values;
        self.at(out.id).values = values;
        Ok(out)
    }

    fn compute(&mut self, expr: &Expr, grid: &Grid) -> Result<Out> {
        self.budget.check()?;
        let id = self.nodes.len();
        if matches!(expr.kind, ExprKind::Range { .. } | ExprKind::Subquery { .. }) {
            return Ok(self.range(expr, grid, false)?.0);
        }
        self.nodes.push(NodeCost::default());
        let mut out = match &expr.kind {
            ExprKind::Selector(selector) => self.instant(selector, id, grid)?,
            ExprKind::Negate(inner) => self.node(inner, grid)?,
            ExprKind::Binary(binary) => self.binary(binary, grid)?,
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, grid)?,
            ExprKind::Call(call) => self.call(call, id, grid)?,
            _ => Out { scalar: true, held: grid.steps as u64, peak: grid.steps as u64, ..Out::default() },
        };
        (out.below, out.id) = (out.id, id);
        self.at(id).series = if out.scalar { 0 } else { out.series };
        if !out.lazy {
            self.at(id).values = out.held;
        }
        Ok(out)
    }

    fn at(&mut self, id: usize) -> &mut NodeCost {
        if self.nodes.len() <= id {
            self.nodes.resize(id + 1, NodeCost::default());
        }
        &mut self.nodes[id]
    }

    /// The moment at which lazy rows are read into memory.
    fn hold(&mut self, out: &mut Out, steps: usize) {
        if out.lazy {
            let values = out.size(steps as u64);
            // A subquery's steps stay until the windows over them are computed.
            out.peak = out.peak.max(out.held.saturating_add(values));
            (out.held, out.lazy) = (values, false);
            self.at(out.id).values = values;
        }
        out.peak = out.peak.max(out.held);
    }

    fn bound(&mut self, predicate: &metricsdb_model::Predicate, reach: TimeRange) -> Result<Bound> {
        self.reach = reach;
        Ok(match self.source.bound(predicate, reach, self.budget)? {
            Some(bound) => bound,
            None => {
                self.bounded = false;
                let most = u64::MAX;
                // Histograms are left out of what is held: nothing is bounded here.
                Bound { series: most, samples: most, bytes: most, ..Bound::default() }
            }
        })
    }

    fn looks(&self, selector: &Selector, grid: &Grid) -> Result<Looks> {
        let offset = self.times.offset(&selector.offset)?;
        Ok(Looks::new(grid, selector.at.as_ref().map(|at| self.times.at(at)), offset))
    }

    fn instant(&mut self, selector: &Selector, id: usize, grid: &Grid) -> Result<Out> {
        let looks = self.looks(selector, grid)?;
        let lookback = self.params.lookback_ms;
        let smoothed = selector.extension == Some(Extension::Smoothed);
        let bound =
            self.bound(&predicate(selector), looks.around(lookback, if smoothed { lookback } else { 0 }))?;
        let one = looks.count == 1 && !smoothed;
        let newest = bound.series.min(bound.samples.saturating_sub(bound.mixed)).saturating_add(bound.mixed);
        *self.at(id) = NodeCost {
            series: bound.series,
            samples: if one { newest } else { bound.samples },
            samples_min: if one { 0 } else { bound.samples_min },
            bytes: bound.bytes,
            values: 0,
        };
        Ok(Out { id, series: bound.series, width: bound.width, lazy: true, ..Out::default() })
    }

    /// A range vector. `summaries`: its windows may be answered from heads of chunks. Also says whether windows
    /// overlap.
    fn range(&mut self, expr: &Expr, grid: &Grid, summaries: bool) -> Result<(Out, bool)> {
        let id = self.nodes.len();
        self.nodes.push(NodeCost::default());
        match &bare(expr).kind {
            ExprKind::Range { selector, range } => {
                let looks = self.looks(selector, grid)?;
                let range = self.times.positive(range)?;
                let lookback = if selector.extension.is_some() { self.params.lookback_ms } else { 0 };
                let after = if selector.extension == Some(Extension::Smoothed) { lookback } else { 0 };
                let reach = looks.around(range.saturating_add(lookback), after);
                let bound = self.bound(&predicate(selector), reach)?;
                let apart = looks.count == 1 || looks.step >= range;
                let sure = !(summaries && apart && selector.extension.is_none());
                *self.at(id) = NodeCost {
                    series: bound.series,
                    samples: bound.samples,
                    samples_min: if sure { bound.samples_min } else { 0 },
                    bytes: bound.bytes,
                    values: 0,
                };
                let (series, width) = (bound.series, bound.width);
                Ok((Out { id, series, width, lazy: true, ..Out::default() }, !apart))
            }
            ExprKind::Subquery { expr, range, step, offset, at } => {
                let at = at.as_ref().map(|at| self.times.at(at));
                let looks = Looks::new(grid, at, self.times.offset(offset)?);
                let range = self.times.positive(range)?;
                let step = match step {
                    Some(step) => self.times.positive(step)?,
                    None => self.params.subquery_step_ms,
                };
                let Some(inner) = grid.inner(&looks, range, step)? else {
                    // Its rows are listed all the same.
                    self.skip(expr);
                    return Ok((Out { id, ..Out::default() }, true));
                };
                let mut out = self.node(expr, &inner)?;
                if out.scalar {
                    (out.series, out.held, out.scalar) = (1, inner.steps as u64, false);
                }
                self.hold(&mut out, inner.steps);
                let samples = out.size(inner.steps as u64);
                *self.at(id) = NodeCost { series: out.series, samples, samples_min: 0, bytes: 0, values: 0 };
                Ok((Out { id, lazy: true, held: out.held, peak: out.peak.max(out.held), ..out }, true))
            }
            _ => Ok((Out { id, ..Out::default() }, true)),
        }
    }

    /// Room for the nodes of what is not evaluated.
    fn skip(&mut self, expr: &Expr) {
        let count = super::nodes(expr).len();
        self.nodes.resize(self.nodes.len() + count, NodeCost::default());
    }

    fn aggregate(&mut self, aggregate: &Aggregate, grid: &Grid) -> Result<Out> {
        let steps = grid.steps as u64;
        let before = match &aggregate.param {
            None => 0,
            Some(param) if is_literal(param) => steps,
            Some(param) => {
                let param = self.node(param, grid)?;
                param.peak.max(param.held)
            }
        };
        let mut input = self.node(&aggregate.expr, grid)?;
        let groups = input.series.min(self.groups(aggregate)?);
        use AggregateOp::{
            Avg, Bottomk, CountValues, LimitRatio, Limitk, OutliersIqr, OutliersMad, Outliersk, Quantile,
            Sum, Topk,
        };
        let series = match aggregate.op {
            CountValues => input.series.saturating_mul(steps),
            Topk | Bottomk | Limitk => match aggregate.param.as_ref().map(|p| &bare(p).kind) {
                Some(ExprKind::Number(k)) if steps == 1 => {
                    input.series.min(groups.saturating_mul(k.max(0.0) as u64))
                }
                _ => input.series,
            },
            LimitRatio | OutliersIqr | OutliersMad | Outliersk => input.series,
            _ => groups,
        };
        // Others make numbers of histograms, or leave them out.
        let keeps = matches!(aggregate.op, Sum | Avg | Limitk | LimitRatio);
        let mut out = Out { series, width: if keeps { input.width } else { 0 }, ..Out::default() };
        out.held = out.size(steps);
        let beside = match aggregate.op {
            Quantile | CountValues | Topk | Bottomk | Limitk | LimitRatio | OutliersIqr | OutliersMad
            | Outliersk => {
                self.hold(&mut input, grid.steps);
                out.held
            }
            _ => {
                let rows = groups.saturating_add(input.series.min(ROWS_HELD as u64));
                rows.saturating_add(input.width).saturating_mul(steps).saturating_mul(PARTIAL_COLUMNS)
            }
        };
        out.peak = input.peak.max(input.held.saturating_add(beside)).saturating_add(before);
        Ok(out)
    }

    /// Groups of an aggregation, at most.
    fn groups(&self, aggregate: &Aggregate) -> Result<u64> {
        if let Some(selector) = only_selector(&aggregate.expr).filter(|_| self.counts_groups) {
            let set = self.source.select(&predicate(selector), self.reach, self.budget)?;
            return Ok(set.group(&meant(&aggregate.grouping), self.budget)?.labels.len() as u64);
        }
        Ok(match &aggregate.grouping {
            Grouping::By(names) => names.iter().fold(1, |product: u64, name| {
                let stored = !makes_label(&aggregate.expr, name);
                let values = self.source.label_size(name).filter(|_| stored);
                // One more: the series without the label.
                product.saturating_mul(values.map_or(u64::MAX, |n| n.saturating_add(1)))
            }),
            Grouping::Without(_) => u64::MAX,
        })
    }
}

/// Whether an expression may give a label values that no stored series has: functions are told its name as a text.
fn makes_label(expr: &Expr, label: &str) -> bool {
    match &expr.kind {
        ExprKind::String(text) => text == label,
        ExprKind::Call(call) if matches!(call.function.kernel, Kernel::Rollup(_)) && label == ROLLUP => true,
        _ => expr.children().any(|inner| makes_label(inner, label)),
    }
}
