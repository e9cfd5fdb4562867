//! The tree as a list, root first: parentheses, signs that change nothing, and literals are left out.

use std::collections::{BTreeMap, HashMap};

use metricsdb_model::Span;

use crate::exec::profile::address;
use crate::exec::twins::Twins;
use crate::syntax::tree::{Expr, ExprKind, Selector};
use crate::syntax::{Aggregation, Operator};

/// Characters of a detail, at most.
const DETAIL_CHARS_MAX: usize = 160;

/// One node of a plan.
#[derive(Clone, Debug)]
pub struct Node<'e> {
    pub id: usize,
    /// `None` for the root.
    pub parent: Option<usize>,
    pub depth: usize,
    /// `selector`, `range selector`, `subquery`, `function`, `aggregation`, `operator`, `negation`, `literal`.
    pub kind: &'static str,
    /// The node as PromQL writes it, without what is beneath it.
    pub detail: String,
    pub expr: &'e Expr,
}

impl Node<'_> {
    pub fn span(&self) -> Span {
        self.expr.span
    }

    /// The address under which the evaluator knows the node.
    pub(super) fn address(&self) -> usize {
        match &self.expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => address(selector),
            ExprKind::Binary(binary) => address(&**binary),
            _ => address(self.expr),
        }
    }
}

/// The expression without parentheses and plus signs around it.
pub(crate) fn bare(expr: &Expr) -> &Expr {
    let mut expr = expr;
    while let ExprKind::Paren(inner) | ExprKind::Plus(inner) = &expr.kind {
        expr = inner;
    }
    expr
}

/// A number or a text.
pub(crate) fn is_literal(expr: &Expr) -> bool {
    matches!(bare(expr).kind, ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_))
}

/// Those beneath an expression that are nodes of their own.
pub(crate) fn operands(expr: &Expr) -> impl DoubleEndedIterator<Item = &Expr> {
    expr.children().map(bare).filter(|e| !is_literal(e))
}

/// The selector of a plain or a range selector.
pub(crate) fn selector(expr: &Expr) -> Option<&Selector> {
    match &expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => Some(selector),
        _ => None,
    }
}

/// The only selector of an expression.
pub(crate) fn only_selector(expr: &Expr) -> Option<&Selector> {
    let (mut found, mut waiting) = (None, vec![expr]);
    while let Some(expr) = waiting.pop() {
        if let Some(one) = selector(expr)
            && found.replace(one).is_some()
        {
            return None;
        }
        waiting.extend(expr.children());
    }
    found
}

/// The nodes of a plan, each before those beneath it.
pub fn nodes(expr: &Expr) -> Vec<Node<'_>> {
    let mut out = Vec::new();
    let mut waiting = vec![(None, 0, bare(expr))];
    while let Some((parent, depth, expr)) = waiting.pop() {
        let id = out.len();
        let (kind, detail) = describe(expr);
        out.push(Node { id, parent, depth, kind, detail: shortened(detail), expr });
        waiting.extend(operands(expr).rev().map(|e| (Some(id), depth + 1, e)));
    }
    out
}

/// The nodes that are evaluated with an earlier part of the query that is the same, and the node that is the same if
/// they are no part of such a node themselves.
pub(crate) fn twins(expr: &Expr) -> BTreeMap<usize, Option<usize>> {
    let twins = Twins::of(expr);
    let mut found = BTreeMap::new();
    if twins.is_empty() {
        return found;
    }
    let all = nodes(expr);
    let places: HashMap<usize, usize> = all.iter().map(|n| (address(n.expr), n.id)).collect();
    for node in &all {
        let same = twins.earlier(node.expr).and_then(|first| places.get(&first).copied());
        if node.parent.is_some_and(|parent| found.contains_key(&parent)) {
            found.insert(node.id, None);
        } else if same.is_some() {
            found.insert(node.id, same);
        }
    }
    found
}

fn describe(expr: &Expr) -> (&'static str, String) {
    match &expr.kind {
        ExprKind::Selector(_) => ("selector", expr.to_string()),
        ExprKind::Range { .. } => ("range selector", expr.to_string()),
        ExprKind::Subquery { .. } => {
            let whole = expr.to_string();
            let inner = whole.rfind('[').unwrap_or(0);
            ("subquery", whole.get(inner..).unwrap_or("").to_owned())
        }
        ExprKind::Negate(_) => ("negation", "-".to_owned()),
        ExprKind::Binary(binary) => {
            let literals = [&binary.left, &binary.right]
                .map(|e| if is_literal(e) { e.to_string() } else { String::new() });
            let text = format!("{} {} {}", literals[0], Operator(binary), literals[1]);
            ("operator", text.trim().to_owned())
        }
        ExprKind::Aggregate(aggregate) => {
            let param = aggregate.param.iter().filter(|p| is_literal(p)).map(|p| format!("({p})"));
            let text = Aggregation(aggregate).to_string();
            ("aggregation", text.trim().to_owned() + &param.collect::<String>())
        }
        ExprKind::Call(call) => {
            let literals: Vec<String> =
                call.args.iter().filter(|a| is_literal(a)).map(Expr::to_string).collect();
            let scalars =
                if literals.is_empty() { String::new() } else { format!("({})", literals.join(", ")) };
            ("function", call.function.name.to_owned() + &scalars)
        }
        ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => ("literal", expr.to_string()),
        ExprKind::Paren(_) | ExprKind::Plus(_) => ("", String::new()),
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((at, _)) => text.get(..at).unwrap_or("").to_owned() + "…",
        None => text,
    }
}
