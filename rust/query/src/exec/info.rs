//! info: series take over the labels of the info series of their instance and job.

use std::collections::{BTreeMap, HashMap, HashSet};

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Error, Labels, MatchOp, Matcher, Predicate, Result};

use super::Evaluator;
use super::block::{ABSENT, Block, present};
use super::grid::{Grid, Looks};
use super::labels::label_text;
use super::native::Hints;
use super::scan::{DropName, Leaf, Rows, Shows};
use super::times::QueryTimes;
use crate::syntax::predicate;
use crate::syntax::tree::{Call, Expr, ExprKind, Filter, Selector};

/// An info series and the series that it describes agree in these.
const IDENTITY: [&str; 2] = ["instance", "job"];
const INFO_METRIC_DEFAULT: &str = "target_info";
/// What may be an info metric where a selector only says what is not.
const INFO_METRIC_PATTERN: &str = ".+_info";

/// What a series takes in tables that double as they grow, its texts aside.
const INFO_BYTES: usize = 256;

/// What the second argument asks for.
struct Wanted {
    /// On the metric name alone.
    names: Predicate,
    data: Predicate,
    /// Labels to take over; empty: all.
    labels: Vec<String>,
}

impl Wanted {
    fn new(selector: Option<&Selector>) -> Result<Wanted> {
        let parts: &[Filter] = match selector.map(|s| &s.filter) {
            Some(Filter::All(parts)) => parts,
            Some(other) => std::slice::from_ref(other),
            None => &[],
        };
        let named = selector.and_then(|s| s.name.as_deref());
        let (mut names, mut data, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let mut positive = named.is_some();
        for part in parts {
            let mut mentioned = Vec::new();
            mention(part, &mut mentioned);
            if mentioned.iter().all(|l| *l == METRIC_NAME) {
                positive |= is_positive(part);
                names.push(part.clone());
            } else {
                labels.extend(mentioned.into_iter().filter(|l| *l != METRIC_NAME).map(str::to_owned));
                data.push(part.clone());
            }
        }
        let given = !names.is_empty() || named.is_some();
        let mut names = lower(named, names);
        if !positive {
            let (op, value) = match given {
                true => (MatchOp::Regex, INFO_METRIC_PATTERN),
                false => (MatchOp::Equal, INFO_METRIC_DEFAULT),
            };
            names = Predicate::All(vec![names, Predicate::Match(Matcher::new(METRIC_NAME, op, value)?)]);
        }
        Ok(Wanted { names, data: lower(None, data), labels })
    }

    fn takes(&self, label: &str) -> bool {
        label != METRIC_NAME
            && !IDENTITY.contains(&label)
            && (self.labels.is_empty() || self.labels.iter().any(|l| l == label))
    }
}

fn lower(name: Option<&str>, parts: Vec<Filter>) -> Predicate {
    let name = name.map(str::to_owned);
    predicate(&Selector { name, filter: Filter::All(parts), offset: None, at: None, extension: None })
}

/// The labels that a filter looks at.
fn mention<'f>(filter: &'f Filter, into: &mut Vec<&'f str>) {
    match filter {
        Filter::All(parts) | Filter::Any(parts) => parts.iter().for_each(|p| mention(p, into)),
        Filter::Not(part) => mention(part, into),
        Filter::Match(matcher) => into.push(&matcher.name),
        Filter::In { label, .. } | Filter::Has(label) | Filter::Num { label, .. } => into.push(label),
    }
}

/// Whether a filter on the name says what the name is, and not only what it is not.
fn is_positive(filter: &Filter) -> bool {
    match filter {
        Filter::Match(matcher) => !matcher.op.is_negative(),
        Filter::In { negated, .. } => !negated,
        Filter::Not(_) => false,
        Filter::All(parts) | Filter::Any(parts) => parts.iter().any(is_positive),
        Filter::Has(_) | Filter::Num { .. } => true,
    }
}

/// The info series, their samples' times, and who describes whom.
struct Infos {
    /// Rows of `times` by identity and metric name.
    of: HashMap<Labels, BTreeMap<String, Vec<usize>>>,
    labels: Vec<Labels>,
}

fn identity(labels: &Labels) -> Labels {
    labels.retain(|name| IDENTITY.contains(&name))
}

impl Infos {
    fn new(times: &mut Block<'_>, budget: &Budget) -> Result<Infos> {
        let labels = times.labels_ready(budget)?.clone();
        let mut of: HashMap<Labels, BTreeMap<String, Vec<usize>>> = HashMap::new();
        budget.hold(labels.len() * INFO_BYTES)?;
        for (row, l) in labels.iter().enumerate() {
            budget.check()?;
            let metrics = of.entry(identity(l)).or_default();
            metrics.entry(l.metric_name().to_owned()).or_default().push(row);
        }
        Ok(Infos { of, labels })
    }

    /// Of each info metric the series with the newest sample at this step.
    fn newest(
        &self,
        metrics: &BTreeMap<String, Vec<usize>>,
        times: &Block<'_>,
        step: usize,
    ) -> Result<Vec<usize>> {
        let mut chosen = Vec::with_capacity(metrics.len());
        for rows in metrics.values() {
            let mut best: Option<(usize, f64)> = None;
            for &row in rows {
                let time = times.row(row)[step];
                match best {
                    _ if !present(time) => {}
                    Some((other, at)) if at == time => {
                        let (a, b) = (label_text(&self.labels[other]), label_text(&self.labels[row]));
                        let ms = (time * 1000.0).round();
                        return Err(Error::execution(format!(
                            "found duplicate series for info metric: existing {a} @ {ms}, new {b} @ {ms}"
                        )));
                    }
                    Some((_, at)) if at > time => {}
                    _ => best = Some((row, time)),
                }
            }
            chosen.extend(best.map(|(row, _)| row));
        }
        Ok(chosen)
    }

    /// The labels of `base` and those it lacks from `rows`, which must not contradict one another.
    fn enrich(&self, base: &Labels, rows: &[usize], wanted: &Wanted) -> Result<Labels> {
        let mut result = base.clone();
        for &row in rows {
            for (name, value) in self.labels[row].iter().filter(|(name, _)| wanted.takes(name)) {
                if base.get(name).is_some() {
                    continue;
                }
                match result.get(name) {
                    Some(other) if other != value => {
                        return Err(Error::execution(format!("conflicting label: {name}")));
                    }
                    Some(_) => {}
                    None => result = result.with(name, value),
                }
            }
        }
        Ok(result)
    }
}

/// Which info series a call may read.
pub(crate) fn info_predicate(call: &Call) -> Result<Predicate> {
    let selector = match call.args.get(1).map(|arg| &arg.unparenthesized().kind) {
        Some(ExprKind::Selector(selector)) => Some(selector),
        _ => None,
    };
    let wanted = Wanted::new(selector)?;
    Ok(Predicate::All(vec![wanted.names, wanted.data]))
}

impl<'a> Evaluator<'a> {
    /// A series that is an info series itself stays as it is. A series without a matching info series does
    /// so too, unless a matcher on data labels insists on a value: then it goes.
    #[inline(never)]
    pub(super) fn info(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let selector = match call.args.get(1).map(|arg| &arg.unparenthesized().kind) {
            Some(ExprKind::Selector(selector)) => Some(selector),
            _ => None,
        };
        let wanted = Wanted::new(selector)?;
        let mut base = self.block(&call.args[0], grid)?;
        let labels = base.labels_ready(self.budget)?.clone();
        self.budget.hold(labels.len() * (size_of::<Labels>() + 1))?;
        let plain = |l: &Labels| {
            self.budget.check()?;
            Ok(wanted.names.matches(l.as_ref()))
        };
        let plain: Vec<bool> = labels.iter().map(plain).collect::<Result<_>>()?;
        let described = labels.iter().zip(&plain).filter(|(_, plain)| !**plain).map(|(l, _)| l);
        let mut times = self.info_times(&wanted, described, &call.args[0], grid)?;
        let infos = Infos::new(&mut times, self.budget)?;
        let (none, optional) = (BTreeMap::new(), wanted.data.matches_empty());
        let mut result = Block::empty(grid.steps);
        for (row, of) in labels.iter().enumerate() {
            self.budget.check()?;
            if plain[row] {
                let cells = base.cells.take(row);
                self.budget.hold(2 * (grid.steps * size_of::<f64>() + INFO_BYTES))?;
                result.push_mixed(of.clone(), base.drop_name[row], base.row(row), cells);
                continue;
            }
            let metrics = infos.of.get(&identity(of)).unwrap_or(&none);
            // Rows of the result by the info series that made them: few, as long as these do not churn.
            let mut made: HashMap<Vec<usize>, usize> = HashMap::new();
            for step in (0..grid.steps).filter(|&step| base.has(row, step)) {
                let chosen = infos.newest(metrics, &times, step)?;
                if chosen.is_empty() && !optional {
                    continue;
                }
                let to = match made.get(&chosen) {
                    Some(&to) => to,
                    None => {
                        let labels = infos.enrich(of, &chosen, &wanted)?;
                        self.budget
                            .hold(2 * (grid.steps * size_of::<f64>() + labels.heap_bytes() + INFO_BYTES))?;
                        result.push(labels, base.drop_name[row], &vec![ABSENT; grid.steps]);
                        made.insert(chosen, result.len() - 1);
                        result.len() - 1
                    }
                };
                result.put(to, step, base.row(row)[step], base.cells.get(row, step).cloned());
            }
        }
        result.merge_equal(self.budget)
    }

    /// The times of the info series' samples that `described` may take labels from, as of the times that
    /// `base` reads at.
    fn info_times<'l>(
        &self,
        wanted: &Wanted,
        described: impl Iterator<Item = &'l Labels> + Clone,
        base: &Expr,
        grid: &Grid,
    ) -> Result<Block<'a>> {
        if described.clone().next().is_none() {
            return Ok(Block::empty(grid.steps));
        }
        let same = |name: &&str| -> Result<Predicate> {
            let mut distinct: HashSet<&str> = HashSet::new();
            for labels in described.clone() {
                self.budget.check()?;
                distinct.insert(labels.value(name));
            }
            self.budget.hold(distinct.iter().map(|value| value.len() + INFO_BYTES).sum())?;
            let mut values: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
            sort_owned(&mut values, self.budget, String::cmp)?;
            Ok(Predicate::OneOf { name: (*name).to_owned(), values })
        };
        let mut parts = vec![wanted.names.clone(), wanted.data.clone()];
        for name in &IDENTITY {
            parts.push(same(name)?);
        }
        let (at, offset) = reference(base, &self.times)?.unwrap_or_default();
        let looks = Looks::new(grid, at, offset);
        let lookback = self.params.lookback_ms;
        let set = self.source.select(&Predicate::All(parts), looks.reach(lookback), self.budget)?;
        let rows = Rows {
            set: set.into(),
            leaf: Leaf::Instant { looks, lookback, shows: Shows::Time },
            maps: Vec::new(),
            drop_name: DropName::All(false),
            steps: grid.steps,
            hints: Hints::Stored,
            probe: None,
            remarks: self.remarks(base.span),
        };
        for row in 0..rows.len() {
            if rows.set.has_histograms(row) {
                let labels = label_text(&rows.set.labels(row));
                let message = format!("this should be an info metric, with float samples: {labels}");
                return Err(Error::execution(message));
            }
        }
        rows.into_block(self.budget)
    }
}

/// `@` and offset (ms) of the first selector in an expression, those of subqueries around it added.
pub(crate) fn reference(expr: &Expr, times: &QueryTimes) -> Result<Option<(Option<i64>, i64)>> {
    match &expr.kind {
        ExprKind::Selector(s) | ExprKind::Range { selector: s, .. } => {
            Ok(Some((s.at.as_ref().map(|at| times.at(at)), times.offset(&s.offset)?)))
        }
        ExprKind::Subquery { expr, offset, at, .. } => {
            let Some((inner_at, inner)) = reference(expr, times)? else { return Ok(None) };
            if inner_at.is_some() {
                return Ok(Some((inner_at, inner)));
            }
            let at = at.as_ref().map(|at| times.at(at));
            Ok(Some((at, inner.saturating_add(times.offset(offset)?))))
        }
        ExprKind::Aggregate(a) => reference(&a.expr, times),
        _ => expr.children().find_map(|e| reference(e, times).transpose()).transpose(),
    }
}
