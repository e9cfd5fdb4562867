//! Function calls.

use std::sync::Arc;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{
    Budget, Error, Grouping, Labels, MatchOp, Result, Samples, SeriesSet, Span, TimeRange,
};

use super::aggregate::presence;
use super::binary::map_rows;
use super::block::{ABSENT, Block, Vector, present};
use super::grid::Grid;
use super::mixed::Remarks;
use super::scan::{Args, DropName, Leaf, RowMap, Rows, Shows, WindowLeaf};
use super::{Evaluator, Ranges, Value};
use crate::annotations::may_be_counter;
use crate::function::edges;
use crate::function::sliding::Sliding;
use crate::function::starts;
use crate::function::summary;
use crate::function::{Kernel, MapFn, Special, WindowFn, check_args};
use crate::histogram::{Outcome, ReadsRecords, Remark, reads_records, window_fn};
use crate::syntax::tree::{Call, Expr, ExprKind, Extension, Filter, Selector, ValueType};

impl<'a> Evaluator<'a> {
    pub(super) fn call(&self, call: &Call, span: Span, grid: &Grid) -> Result<Value<'a>> {
        match call.function.kernel {
            Kernel::Window(kernel) => self.window(call, kernel, grid).map(Value::Vector),
            Kernel::Map(kernel) => self.map(call, kernel, grid),
            Kernel::Grid(kernel) => self.over_range(call, kernel, grid).map(Value::Vector),
            Kernel::Rollup(parts) => self.rollup(call, parts, grid).map(Value::Vector),
            Kernel::Special(special) => self.special(special, call, span, grid),
        }
    }

    /// The scalar arguments of a call, in order, but for the one at `except`.
    fn scalars(&self, args: &[Expr], except: Option<usize>, grid: &Grid) -> Result<Vec<Vec<f64>>> {
        let scalars = args.iter().enumerate().filter(|(i, _)| Some(*i) != except);
        scalars.map(|(_, arg)| self.scalar(arg, grid)).collect()
    }

    #[inline(never)]
    fn window(&self, call: &Call, kernel: WindowFn, grid: &Grid) -> Result<Vector<'a>> {
        let function = call.function;
        let at = function.vector_arg().unwrap_or(0);
        let columns = self.scalars(&call.args, Some(at), grid)?;
        let args = Args::new(&columns);
        let ranges = self.ranges(&call.args[at], grid)?;
        if let Some(edges) = ranges.edges {
            edges::check(edges.extension, function.name, function.sliding).map_err(Error::execution)?;
        }
        if !ranges.set.is_empty() {
            for step in 0..if columns.is_empty() { 0 } else { grid.steps } {
                if let Some(note) = check_args(function, args.at(step))? {
                    self.notes.add(note, call.args[0].span);
                }
            }
            if function.wants_counter {
                self.remark_on_names(&ranges, call.args[at].span)?;
                self.remark_on_overlaps(&ranges, call.args[at].span)?;
            }
        }
        let of_summary = summary::lookup(function.name);
        let remarks = self.remarks(call.args[at].span);
        let mut rows = self.rows(ranges, kernel, function.sliding, args, call.keeps_name(), grid, remarks);
        if let Leaf::Window(window) = &mut rows.leaf {
            window.of_summary = of_summary;
            window.is_quantile = function.name == "quantile_over_time";
            window.points = window_fn(function);
            window.reads_records = reads_records(function);
            window.wants_counter = function.wants_counter;
            window.reads_starts = function.reads_starts;
            window.of_values = function.of_values;
        }
        Ok(Vector::Rows(rows))
    }

    #[allow(clippy::too_many_arguments)] // A window function and where it is called.
    pub(super) fn rows(
        &self,
        ranges: Ranges<'a>,
        kernel: WindowFn,
        sliding: Sliding,
        args: Args,
        keeps_name: bool,
        grid: &Grid,
        remarks: Remarks<'a>,
    ) -> Rows<'a> {
        let Ranges { set, looks, range, drop_name, edges, hints, probe } = ranges;
        let window = WindowLeaf {
            looks,
            range,
            kernel,
            sliding,
            edges,
            args,
            grid: *grid,
            reads_starts: false,
            of_values: false,
            of_summary: None,
            is_quantile: false,
            points: None,
            reads_records: ReadsRecords::OfNone,
            wants_counter: false,
            remarks,
        };
        Rows {
            set,
            leaf: Leaf::Window(Box::new(window)),
            maps: Vec::new(),
            drop_name: if keeps_name { drop_name } else { DropName::All(true) },
            steps: grid.steps,
            hints,
            probe,
            remarks,
        }
    }

    /// Remarks on metrics that have samples here, but not the name of a counter.
    #[inline(never)]
    pub(super) fn remark_on_names(&self, ranges: &Ranges<'a>, span: Span) -> Result<()> {
        let groups = ranges.set.group(&Grouping::By(vec![METRIC_NAME.to_owned()]), self.budget)?;
        let names = groups.labels.iter().map(|l| l.metric_name());
        let mut open: Vec<bool> = names.map(|name| !may_be_counter(name)).collect();
        if !open.contains(&true) {
            return Ok(());
        }
        let mut samples = Samples::default();
        for (row, &group) in groups.of.iter().enumerate() {
            let group = group as usize;
            // Those of series with histograms come with their values.
            if open[group] && !ranges.set.has_histograms(row) {
                self.budget.check()?;
                samples.clear();
                read_reach(&*ranges.set, row, ranges.looks.reach(ranges.range), &mut samples)?;
                if !samples.is_empty() {
                    self.notes.not_a_counter(groups.labels[group].metric_name(), span);
                    open[group] = false;
                }
            }
        }
        Ok(())
    }

    /// Remarks on metrics of which a window sees two samples whose start timestamps contradict each other.
    #[inline(never)]
    fn remark_on_overlaps(&self, ranges: &Ranges<'a>, span: Span) -> Result<()> {
        if ranges.edges.is_some() {
            return Ok(());
        }
        let (mut samples, mut since) = (Samples::default(), Vec::new());
        for row in (0..ranges.set.len()).filter(|&row| ranges.set.has_starts(row)) {
            self.budget.check()?;
            samples.clear();
            since.clear();
            read_reach(&*ranges.set, row, ranges.looks.reach(ranges.range), &mut samples)?;
            ranges.set.read_starts(row, &samples.timestamps, &mut since)?;
            let sees = |i: usize| {
                let (before, time) = (samples.timestamps[i - 1], samples.timestamps[i]);
                starts::overlaps(before, (since[i - 1], since[i]))
                    && ranges.looks.sees_both(before, time, ranges.range)
            };
            if (1..samples.len().min(since.len())).any(sees) {
                let name = ranges.set.labels(row).metric_name().to_owned();
                self.notes.add(Remark::StartOverlap.note(&name), span);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn map(&self, call: &Call, kernel: MapFn, grid: &Grid) -> Result<Value<'a>> {
        let function = call.function;
        if function.returns == ValueType::Scalar {
            let columns = self.scalars(&call.args, None, grid)?;
            let args = Args::new(columns.get(1..).unwrap_or(&[]));
            let first = columns.first().map_or(&[][..], |c| &c[..]);
            let values = first.iter().enumerate();
            return Ok(Value::Scalar(
                values.map(|(s, &v)| kernel(v, args.at(s)).unwrap_or(f64::NAN)).collect(),
            ));
        }
        let at = function.vector_arg().unwrap_or(0);
        let args = Args::new(&self.scalars(&call.args, Some(at), grid)?);
        let vector = match call.args.get(at) {
            Some(arg) => self.vector(arg, grid)?,
            None => Vector::Block(Block::unlabelled(seconds(grid))),
        };
        let map = RowMap::of_numbers(move |row| {
            for (step, v) in row.iter_mut().enumerate().filter(|(_, v)| present(**v)) {
                *v = kernel(*v, args.at(step)).unwrap_or(ABSENT);
            }
        });
        Ok(Value::Vector(map_rows(vector, map, !call.keeps_name(), self.budget)?))
    }

    fn special(&self, special: Special, call: &Call, span: Span, grid: &Grid) -> Result<Value<'a>> {
        let args = &call.args;
        let constant = |value: f64| Ok(Value::Scalar(vec![value; grid.steps]));
        let ms = |ms: i64| constant(ms as f64 / 1000.0);
        match special {
            Special::Pi => constant(std::f64::consts::PI),
            Special::Start => ms(self.times.start),
            Special::End => ms(self.times.end),
            Special::Step => ms(self.times.step),
            Special::Range => ms(self.times.range()),
            Special::Time => Ok(Value::Scalar(seconds(grid))),
            Special::Vector => Ok(Value::block(Block::unlabelled(self.scalar(&args[0], grid)?))),
            Special::Scalar => self.to_scalar(&args[0], grid).map(Value::Scalar),
            Special::Timestamp => self.timestamp(&args[0], grid).map(Value::Vector),
            Special::Absent => self.absent(&args[0], grid).map(Value::block),
            Special::AbsentOverTime => self.absent_over_time(&args[0], grid).map(Value::block),
            Special::LabelReplace => self.label_replace(call, grid).map(Value::block),
            Special::LabelJoin => self.label_join(call, grid).map(Value::block),
            Special::Sort | Special::SortDesc => {
                self.sort(&args[0], special == Special::SortDesc, span, grid).map(Value::block)
            }
            Special::SortByLabel | Special::SortByLabelDesc => {
                self.sort_by_label(args, special == Special::SortByLabelDesc, span, grid).map(Value::block)
            }
            Special::HistogramQuantile => self.histogram_quantile(call, grid).map(Value::block),
            Special::HistogramQuantiles => self.histogram_quantiles(call, grid).map(Value::block),
            Special::HistogramFraction => self.histogram_fraction(call, grid).map(Value::block),
            Special::HistogramNative => self.histogram_number(call, grid).map(Value::Vector),
            Special::Info => self.info(call, grid).map(Value::block),
            Special::StartTimestamp => self.start_timestamp(&args[0], grid).map(Value::Vector),
        }
    }

    /// The one sample of each step, or NaN.
    #[inline(never)]
    fn to_scalar(&self, arg: &Expr, grid: &Grid) -> Result<Vec<f64>> {
        let block = self.block(arg, grid)?;
        let mut values = vec![f64::NAN; grid.steps];
        for (step, slot) in values.iter_mut().enumerate() {
            self.budget.check()?;
            let mut found = (0..block.len()).map(|row| block.row(row)[step]).filter(|&v| present(v));
            if let (Some(one), None) = (found.next(), found.next()) {
                *slot = one;
            }
        }
        Ok(values)
    }

    /// What a selector's samples show beside their values; `None` for what was computed.
    fn stored(&self, arg: &Expr, grid: &Grid, shows: Shows) -> Result<Option<Vector<'a>>> {
        match &arg.unparenthesized().kind {
            ExprKind::Selector(selector) if selector.extension != Some(Extension::Smoothed) => {
                let mut rows = self.instant(selector, arg.span, grid, shows)?;
                rows.drop_name = DropName::All(true);
                Ok(Some(Vector::Rows(rows)))
            }
            _ => Ok(None),
        }
    }

    /// Times of the samples themselves under a selector; else the evaluation times.
    #[inline(never)]
    fn timestamp(&self, arg: &Expr, grid: &Grid) -> Result<Vector<'a>> {
        if let Some(stored) = self.stored(arg, grid, Shows::Time)? {
            return Ok(stored);
        }
        let now = Arc::new(seconds(grid));
        let times = now.clone();
        let map = RowMap::of_numbers(move |row| {
            for (v, &t) in row.iter_mut().zip(&*now).filter(|(v, _)| present(**v)) {
                *v = t;
            }
        });
        let map = map.with_histograms(move |row, cells| {
            let found = row.iter_mut().zip(&*times).zip(cells.drain(..));
            found.filter(|(_, cell)| cell.is_some()).for_each(|((v, &t), _)| *v = t);
        });
        map_rows(self.vector(arg, grid)?, map, true, self.budget)
    }

    /// When the counters of the samples under a selector began; what was computed has no start.
    #[inline(never)]
    fn start_timestamp(&self, arg: &Expr, grid: &Grid) -> Result<Vector<'a>> {
        if let Some(stored) = self.stored(arg, grid, Shows::Start)? {
            return Ok(stored);
        }
        self.vector(arg, grid)?;
        Ok(Vector::Block(Block::empty(grid.steps)))
    }

    #[inline(never)]
    fn absent(&self, arg: &Expr, grid: &Grid) -> Result<Block<'a>> {
        let seen = presence(&self.vector(arg, grid)?, grid.steps, self.budget, self.remarks(arg.span))?;
        absence(arg, &seen, self.budget)
    }

    #[inline(never)]
    fn absent_over_time(&self, arg: &Expr, grid: &Grid) -> Result<Block<'a>> {
        let ranges = self.ranges(arg, grid)?;
        if let Some(edges) = ranges.edges {
            edges::check(edges.extension, "absent_over_time", Sliding::None).map_err(Error::execution)?;
        }
        let any: WindowFn = |_| Some(1.0);
        let remarks = self.remarks(arg.span);
        let mut rows = self.rows(ranges, any, Sliding::None, Args::default(), false, grid, remarks);
        if let Leaf::Window(window) = &mut rows.leaf {
            window.points = Some(|_| Outcome::float(Some(1.0)));
        }
        let seen = presence(&Vector::Rows(rows), grid.steps, self.budget, remarks)?;
        absence(arg, &seen, self.budget)
    }

    /// The vector at each step with every row's presence; for functions over whole vectors.
    pub(super) fn block(&self, arg: &Expr, grid: &Grid) -> Result<Block<'a>> {
        self.vector(arg, grid)?.into_block(self.budget)
    }
}

fn read_reach(set: &dyn SeriesSet, row: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
    set.read(row, range, out)?;
    out.drop_stale(0);
    Ok(())
}

/// The evaluation times in seconds.
pub(crate) fn seconds(grid: &Grid) -> Vec<f64> {
    (0..grid.steps).map(|i| grid.time(i) as f64 / 1000.0).collect()
}

/// One row of ones where nothing was seen, with the labels that the selector asks for.
fn absence<'a>(arg: &Expr, seen: &[bool], budget: &Budget) -> Result<Block<'a>> {
    let mut block = Block::empty(seen.len());
    let values: Vec<f64> = seen.iter().map(|&seen| if seen { ABSENT } else { 1.0 }).collect();
    block.push(absent_labels(arg)?, false, &values);
    block.drop_empty(budget)?;
    Ok(block)
}

/// Labels that a selector fixes by `=`, each matched just once.
fn absent_labels(arg: &Expr) -> Result<Labels> {
    let selector = match &arg.unparenthesized().kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => selector,
        _ => return Ok(Labels::empty()),
    };
    let matchers = plain_matchers(selector);
    let mut labels = Labels::empty();
    for (i, (name, op, value)) in matchers.iter().enumerate() {
        if *name == METRIC_NAME {
            continue;
        }
        let alone = matchers.iter().enumerate().all(|(j, (other, _, _))| i == j || other != name);
        if *op == MatchOp::Equal && alone {
            labels = labels.with(name, value);
        }
    }
    Ok(labels)
}

/// The matchers of a plain PromQL selector; a boolean one fixes nothing.
fn plain_matchers(selector: &Selector) -> Vec<(&str, MatchOp, &str)> {
    let Filter::All(parts) = &selector.filter else { return Vec::new() };
    let plain = parts.iter().filter_map(|part| match part {
        Filter::Match(m) => Some((m.name.as_str(), m.op, m.value.as_str())),
        _ => None,
    });
    plain.collect()
}
