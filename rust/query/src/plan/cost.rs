//! What a query can cost at most, node by node, from the index and the heads of chunks.
//!
//! The walk mirrors the evaluator: the same grids, the same looks, the same moments at which rows are read into
//! memory. Every figure is an upper bound of what the evaluator counts, of the data as they are now; figures that
//! end with `min` are lower bounds.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Bound, Budget, Grouping, Result, Source, TimeRange};

use super::nodes::{bare, is_literal, only_selector};
use crate::exec::Params;
use crate::exec::grid::{Grid, Looks};
use crate::exec::info::info_predicate;
use crate::exec::times::{QueryTimes, is_step_invariant};
use crate::function::{Kernel, Special, summary};
use crate::syntax::predicate;
use crate::syntax::tree::{
    Aggregate, AggregateOp, Binary, Call, Cardinality, Expr, ExprKind, Extension, Selector, ValueType,
};

/// Rows whose partial results an aggregation holds at once, and numbers that it keeps for one.
const PARTIAL_ROWS: u64 = (128 * 512) as u64;
const PARTIAL_COLUMNS: u64 = 3;

/// Bounds of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCost {
    /// Series of its result.
    pub series: u64,
    /// Samples that it loads from storage; a subquery: that are read out of its steps.
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
    series: u64,
    /// Rows are still to be read: nothing of them is in memory.
    lazy: bool,
    /// Values of the result in memory.
    held: u64,
    /// Values in memory at the worst moment on the way here.
    peak: u64,
    scalar: bool,
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
    let step = params.step.unwrap_or(0);
    let times = QueryTimes { start: params.start, end: params.end, step };
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
        self.hold(&mut out, 1);
        let cells = out.series.saturating_mul(grid.steps as u64);
        out.peak = out.peak.max(out.held.saturating_add(cells));
        out.held = cells;
        self.at(out.id).values = cells;
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
        out.id = id;
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
            let cells = out.series.saturating_mul(steps as u64);
            // A subquery's steps stay until the windows over them are computed.
            out.peak = out.peak.max(out.held.saturating_add(cells));
            (out.held, out.lazy) = (cells, false);
            self.at(out.id).values = cells;
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
                Bound { series_min: 0, series: most, samples_min: 0, samples: most, bytes: most }
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
        *self.at(id) = NodeCost {
            series: bound.series,
            samples: if one { bound.series.min(bound.samples) } else { bound.samples },
            samples_min: if one { 0 } else { bound.samples_min },
            bytes: bound.bytes,
            values: 0,
        };
        Ok(Out { id, series: bound.series, lazy: true, ..Out::default() })
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
                Ok((Out { id, series: bound.series, lazy: true, ..Out::default() }, !apart))
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
                let samples = out.series.saturating_mul(inner.steps as u64);
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

    fn binary(&mut self, binary: &Binary, grid: &Grid) -> Result<Out> {
        let steps = grid.steps as u64;
        let literal = Out { scalar: true, held: steps, peak: steps, ..Out::default() };
        let side = |walk: &mut Self, expr: &Expr| match &bare(expr).kind {
            ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => Ok(literal),
            _ => walk.node(expr, grid),
        };
        let mut left = side(self, &binary.left)?;
        let mut right = side(self, &binary.right)?;
        let apart = left.peak.max(left.held.saturating_add(right.peak));
        match (left.scalar, right.scalar) {
            (true, true) => Ok(Out { peak: apart, ..literal }),
            // The maps run in place.
            (false, true) => Ok(Out { peak: apart, ..left }),
            (true, false) => Ok(Out { peak: apart, ..right }),
            (false, false) => {
                self.hold(&mut left, grid.steps);
                self.hold(&mut right, grid.steps);
                let series = paired(binary, left.series, right.series);
                let held = series.saturating_mul(steps);
                let both = left.held.saturating_add(right.held).saturating_add(held);
                Ok(Out { series, held, peak: apart.max(both), ..Out::default() })
            }
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate, grid: &Grid) -> Result<Out> {
        let steps = grid.steps as u64;
        let mut before = 0;
        if let Some(param) = aggregate.param.as_ref().filter(|p| !is_literal(p)) {
            let param = self.node(param, grid)?;
            before = param.peak.max(param.held);
        }
        let mut input = self.node(&aggregate.expr, grid)?;
        let groups = input.series.min(self.groups(aggregate)?);
        use AggregateOp::{Bottomk, CountValues, LimitRatio, Limitk, Quantile, Topk};
        let series = match aggregate.op {
            CountValues => input.series.saturating_mul(steps),
            Topk | Bottomk | Limitk => match aggregate.param.as_ref().map(|p| &bare(p).kind) {
                Some(ExprKind::Number(k)) if steps == 1 => {
                    input.series.min(groups.saturating_mul(k.max(0.0) as u64))
                }
                _ => input.series,
            },
            LimitRatio => input.series,
            _ => groups,
        };
        let held = series.saturating_mul(steps);
        let beside = match aggregate.op {
            Quantile | CountValues | Topk | Bottomk | Limitk | LimitRatio => {
                self.hold(&mut input, grid.steps);
                held
            }
            _ => {
                let rows = groups.saturating_add(input.series.min(PARTIAL_ROWS));
                rows.saturating_mul(steps).saturating_mul(PARTIAL_COLUMNS)
            }
        };
        let peak = input.peak.max(input.held.saturating_add(beside)).saturating_add(before);
        Ok(Out { series, held, peak, ..Out::default() })
    }

    /// Groups of an aggregation, at most.
    fn groups(&self, aggregate: &Aggregate) -> Result<u64> {
        if let Some(selector) = only_selector(&aggregate.expr).filter(|_| self.counts_groups) {
            let mut grouping = aggregate.grouping.clone();
            if let Grouping::Without(names) = &mut grouping {
                names.push(METRIC_NAME.to_owned());
            }
            let set = self.source.select(&predicate(selector), self.reach, self.budget)?;
            return Ok(set.group(&grouping, self.budget)?.labels.len() as u64);
        }
        Ok(match &aggregate.grouping {
            Grouping::By(names) => names.iter().fold(1, |product: u64, name| {
                let values = self.source.label_size(name);
                // One more: the series without the label.
                product.saturating_mul(values.map_or(u64::MAX, |n| n.saturating_add(1)))
            }),
            Grouping::Without(_) => u64::MAX,
        })
    }

    fn call(&mut self, call: &Call, id: usize, grid: &Grid) -> Result<Out> {
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
        if found && let Kernel::Special(special) = call.function.kernel {
            out = self.special(special, call, out, id, grid)?;
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
        let series = match special {
            Special::Timestamp | Special::StartTimestamp => return Ok(input),
            Special::Absent | Special::AbsentOverTime => {
                let peak = input.peak.max(steps.saturating_mul(4));
                return Ok(Out { series: 1, held: steps, peak, ..Out::default() });
            }
            Special::HistogramNative => {
                operands_below(&mut self.nodes, id);
                input.series
            }
            Special::HistogramQuantiles => {
                let quantiles = call.args.len().saturating_sub(2) as u64;
                let plain = operands_of(call) == 1;
                input.series.saturating_mul(quantiles).saturating_mul(if plain { 1 } else { steps })
            }
            Special::Info => {
                let bound = self.bound(&info_predicate(call)?, TimeRange::ALL)?;
                let samples = if steps == 1 { bound.series } else { bound.samples };
                let node = self.at(id);
                (node.samples, node.bytes) = (samples, bound.bytes);
                input.peak = input.peak.saturating_add(bound.series.saturating_mul(steps));
                input.series.saturating_mul(steps.min(bound.series.saturating_add(1)))
            }
            _ => input.series,
        };
        self.hold(&mut input, grid.steps);
        let held = series.saturating_mul(steps);
        let peak = input.peak.max(input.held.saturating_add(held));
        Ok(Out { series, held, peak, ..Out::default() })
    }
}

/// Those beneath a node are not sure to be read.
fn operands_below(nodes: &mut [NodeCost], id: usize) {
    nodes.iter_mut().skip(id).for_each(|node| node.samples_min = 0);
}

fn operands_of(call: &Call) -> usize {
    let literal =
        |e: &Expr| matches!(bare(e).kind, ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_));
    call.args.iter().filter(|a| !literal(a)).count()
}

/// Rows of an operator between two vectors.
fn paired(binary: &Binary, left: u64, right: u64) -> u64 {
    use crate::syntax::tree::BinaryOp::{And, Or, Unless};
    match binary.op {
        And | Unless => return left,
        Or => return left.saturating_add(right),
        _ => {}
    }
    let matching = &binary.matching;
    let (many, one) = if matching.card == Cardinality::OneToMany { (right, left) } else { (left, right) };
    let mut rows = if matching.include.is_empty() { many } else { many.saturating_mul(one) };
    if matching.fill_right.is_some() {
        rows = rows.saturating_add(many);
    }
    if matching.fill_left.is_some() {
        rows = rows.saturating_add(one);
    }
    let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
    if one == 0 && !filled { 0 } else { rows }
}
