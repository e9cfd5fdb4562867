//! Printing and parsing undo each other, and precedence is what a slower parser finds.

use metricsdb_model::Span;
use proptest::prelude::*;

use super::generate::{expression, promql};
use crate::syntax::tree::*;
use crate::syntax::{parse, parse_without_metricsql, pretty, to_json};

/// Without spans, and with plain matchers in the order of printing.
pub(super) fn bare(mut expr: Expr) -> Expr {
    expr.span = Span::default();
    let boxed = |e: Box<Expr>| Box::new(bare(*e));
    let sorted = |mut selector: Selector| {
        if let Filter::All(parts) = &mut selector.filter
            && parts.iter().all(|p| matches!(p, Filter::Match(_)))
        {
            parts.sort_by_key(|p| p.to_string());
        }
        selector
    };
    expr.kind = match expr.kind {
        ExprKind::Selector(selector) => ExprKind::Selector(sorted(selector)),
        ExprKind::Range { selector, range } => ExprKind::Range { selector: sorted(selector), range },
        ExprKind::Subquery { expr, range, step, offset, at } => {
            ExprKind::Subquery { expr: boxed(expr), range, step, offset, at }
        }
        ExprKind::Paren(e) => ExprKind::Paren(boxed(e)),
        ExprKind::Negate(e) => ExprKind::Negate(boxed(e)),
        ExprKind::Plus(e) => ExprKind::Plus(boxed(e)),
        ExprKind::Binary(b) => {
            let Binary { op, left, right, return_bool, matching, keep_name } = *b;
            let (left, right) = (bare(left), bare(right));
            ExprKind::Binary(Box::new(Binary { op, left, right, return_bool, matching, keep_name }))
        }
        ExprKind::Aggregate(a) => {
            let Aggregate { op, expr, param, grouping } = *a;
            ExprKind::Aggregate(Box::new(Aggregate {
                op,
                expr: bare(expr),
                param: param.map(bare),
                grouping,
            }))
        }
        ExprKind::Call(call) => ExprKind::Call(Call {
            args: call.args.into_iter().map(bare).collect(),
            name_span: Span::default(),
            ..call
        }),
        leaf @ (ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_)) => leaf,
    };
    expr
}

/// The tree of `operands[0] ops[0] operands[1] …` by the definition: the operator that binds least is
/// the root, the last of its rank, or the first for `^`.
fn by_definition(ops: &[&str]) -> String {
    fn rank(op: &str) -> u8 {
        match op {
            "default" => 1,
            "if" | "ifnot" => 2,
            "or" => 3,
            "and" | "unless" => 4,
            "==" | ">" | "<=" => 5,
            "+" | "-" => 6,
            "*" | "/" | "atan2" => 7,
            _ => 8,
        }
    }
    fn tree(ops: &[&str], first: usize) -> String {
        let Some(least) = ops.iter().map(|op| rank(op)).min() else { return format!("x{first}") };
        let found = |op: &&str| rank(op) == least;
        let root = if least == 8 { ops.iter().position(found) } else { ops.iter().rposition(found) }.unwrap();
        let (left, right) = (tree(&ops[..root], first), tree(&ops[root + 1..], first + root + 1));
        format!("[{left} {} {right}]", ops[root])
    }
    tree(ops, 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn printed_trees_parse_to_themselves(tree in expression()) {
        let line = tree.to_string();
        let again = parse(&line);
        prop_assert!(again.is_ok(), "{}\n{}", line, again.unwrap_err());
        let again = again.unwrap();
        prop_assert_eq!(again.to_string(), line.clone());
        let expected = format!("{:?}", bare(tree));
        prop_assert_eq!(format!("{:?}", bare(again.clone())), expected.clone(), "{}", line);
        let broken = parse(&pretty(&again));
        prop_assert!(broken.is_ok(), "{}", pretty(&again));
        prop_assert_eq!(format!("{:?}", bare(broken.unwrap())), expected);
        prop_assert!(to_json(&again).len() > 2);
    }

    /// Rule zero: what PromQL alone accepts has the same tree beside MetricsQL's syntax.
    #[test]
    fn promql_has_the_same_tree_with_and_without_metricsql(tree in promql()) {
        let line = tree.to_string();
        let alone = parse_without_metricsql(&line);
        prop_assert!(alone.is_ok(), "{}\n{:?}", line, alone);
        prop_assert_eq!(format!("{:?}", parse(&line)), format!("{alone:?}"));
    }

    #[test]
    fn precedence_is_as_defined(
        ops in prop::collection::vec(
            prop::sample::select(vec![
                "or", "and", "unless", "==", ">", "<=", "+", "-", "*", "/", "atan2", "^", "default", "if", "ifnot",
            ]),
            0..12,
        ),
    ) {
        let mut text = "x0".to_owned();
        for (i, op) in ops.iter().enumerate() {
            text.push_str(&format!(" {op} x{}", i + 1));
        }
        prop_assert_eq!(super::grouped(&text), by_definition(&ops));
    }

    #[test]
    fn any_text_gets_a_tree_or_an_error(text in any::<String>()) {
        let _ = parse(&text);
    }

    /// Pieces of the language in any order reach further than random characters do.
    #[test]
    fn any_pieces_get_a_tree_or_an_error(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "x", "sum", "rate", "by", "(", ")", "[", "]", "{", "}", "5m", "5", "\"s\"", ",", ":", "=", "=~", "!=",
                "or", "not", "in", "has", "num", "+", "-", "^", "@", "offset", "start", "step", "fill", "on", "bool",
                "group_left", "default", "if", "ifnot", "keep_metric_names", "WITH", "outliersk", "range_sum", "1Ki", "rollup", "ä", "'", "`", "#", "\n", ".", "_", "inf", "==", "smoothed", "min_of",
            ]),
            0..20,
        ),
        blank in prop::sample::select(vec!["", " "]),
    ) {
        let text = pieces.join(blank);
        let promql = parse_without_metricsql(&text);
        let found = parse(&text);
        prop_assert!(promql.is_err() || found == promql, "{}", text);
        if let Ok(expr) = found {
            let line = expr.to_string();
            prop_assert_eq!(parse(&line).map(|e| e.to_string()), Ok(line.clone()), "{}", text);
        }
    }
}
