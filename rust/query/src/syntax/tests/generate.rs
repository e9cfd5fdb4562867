//! Random trees, in the form that the parser gives them.

use metricsdb_model::{Grouping, MatchOp, Matcher, NumOp, Span};
use proptest::prelude::*;

use crate::function::table::{self, Function};
use crate::syntax::tree::*;

fn node(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

/// An operand: what is not one word stands in parentheses.
fn operand(expr: Expr) -> Expr {
    match expr.kind {
        ExprKind::Binary(_) | ExprKind::Negate(_) | ExprKind::Plus(_) => {
            node(ExprKind::Paren(Box::new(expr)))
        }
        ExprKind::Number(value) | ExprKind::Seconds(value) if value.is_sign_negative() => {
            node(ExprKind::Paren(Box::new(expr)))
        }
        _ => expr,
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z]{0,4}"]
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z_][a-z0-9_]{0,5}",
        1 => prop::sample::select(vec!["or", "and", "not", "in", "has", "num", "by", "inf", "OFFSET"]).prop_map(String::from),
        1 => "[ .ä\"]{1,3}",
    ]
    .prop_filter("the metric name is no label here", |name| name != "__name__")
}

fn matching_label(label: &str, op: MatchOp, value: &str) -> Filter {
    Filter::Match(Matcher::new(label, op, value).unwrap())
}

fn filter() -> impl Strategy<Value = Filter> {
    let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual]);
    let regex = (label(), prop::sample::select(vec![MatchOp::Regex, MatchOp::NotRegex]), "[a-z.|*]{0,5}");
    let num = prop::sample::select(vec![
        NumOp::Greater,
        NumOp::GreaterEqual,
        NumOp::Less,
        NumOp::LessEqual,
        NumOp::Equal,
    ]);
    let leaf = prop_oneof![
        4 => (label(), op, text()).prop_map(|(label, op, value)| matching_label(&label, op, &value)),
        2 => regex
            .prop_filter("a regex", |(_, _, value)| metricsdb_model::regex::Regex::new(value).is_ok())
            .prop_map(|(label, op, value)| matching_label(&label, op, &value)),
        1 => (label(), any::<bool>(), prop::collection::vec(text(), 1..3))
            .prop_map(|(label, negated, values)| Filter::In { label, negated, values }),
        1 => label().prop_map(Filter::Has),
        1 => (label(), num, number()).prop_map(|(label, op, value)| Filter::Num { label, op, value }),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Any),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![(-1000i32..1000).prop_map(f64::from), any::<f64>().prop_filter("comparable", |v| !v.is_nan()),]
}

fn duration_expr() -> impl Strategy<Value = DurationExpr> {
    let leaf = prop_oneof![
        (1i64..10_000_000).prop_map(|ms| DurationExpr::Seconds(ms as f64 / 1e3)),
        (1u32..100_000).prop_map(|n| DurationExpr::Number(f64::from(n) / 8.0)),
        Just(DurationExpr::Step),
        Just(DurationExpr::Range),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let op = prop::sample::select(vec![
            DurationOp::Add,
            DurationOp::Sub,
            DurationOp::Mul,
            DurationOp::Div,
            DurationOp::Mod,
            DurationOp::Pow,
        ]);
        let boxed = |e: DurationExpr| match e {
            DurationExpr::Binary { .. } | DurationExpr::Negate(_) | DurationExpr::Plus(_) => {
                Box::new(DurationExpr::Paren(Box::new(e)))
            }
            e => Box::new(e),
        };
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(move |(left, op, right)| DurationExpr::Binary {
                op,
                left: boxed(left),
                right: boxed(right),
            }),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| DurationExpr::Min(Box::new(a), Box::new(b))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| DurationExpr::Max(Box::new(a), Box::new(b))),
            inner.prop_map(move |e| match e {
                DurationExpr::Seconds(s) => DurationExpr::Seconds(-s),
                DurationExpr::Number(n) => DurationExpr::Number(-n),
                e => DurationExpr::Negate(boxed(e)),
            }),
        ]
    })
    .prop_map(signed_bases)
}

/// A negative literal that is an operand keeps its parentheses.
fn signed_bases(expr: DurationExpr) -> DurationExpr {
    let fix = |e: Box<DurationExpr>| match signed_bases(*e) {
        DurationExpr::Seconds(s) if s < 0.0 => {
            Box::new(DurationExpr::Paren(Box::new(DurationExpr::Seconds(s))))
        }
        DurationExpr::Number(n) if n < 0.0 => {
            Box::new(DurationExpr::Paren(Box::new(DurationExpr::Number(n))))
        }
        e => Box::new(e),
    };
    let plain = |e: Box<DurationExpr>| Box::new(signed_bases(*e));
    match expr {
        DurationExpr::Binary { op, left, right } => {
            DurationExpr::Binary { op, left: fix(left), right: fix(right) }
        }
        DurationExpr::Min(a, b) => DurationExpr::Min(plain(a), plain(b)),
        DurationExpr::Max(a, b) => DurationExpr::Max(plain(a), plain(b)),
        DurationExpr::Negate(e) => DurationExpr::Negate(plain(e)),
        DurationExpr::Paren(e) => DurationExpr::Paren(plain(e)),
        e => e,
    }
}

fn is_literal(expr: &DurationExpr) -> bool {
    matches!(expr, DurationExpr::Seconds(_) | DurationExpr::Number(_))
}

fn range() -> impl Strategy<Value = Duration> {
    prop_oneof![
        3 => (1i64..100_000_000_000).prop_map(Duration::Ms),
        1 => duration_expr().prop_filter("known too early", |e| !is_literal(e)).prop_map(|e| Duration::Expr(Box::new(e))),
    ]
}

fn offset() -> impl Strategy<Value = Option<Duration>> {
    let one = |e: DurationExpr| match e {
        DurationExpr::Binary { .. } => DurationExpr::Paren(Box::new(e)),
        DurationExpr::Negate(inner) if matches!(*inner, DurationExpr::Negate(_)) => DurationExpr::Step,
        e => e,
    };
    prop_oneof![
        3 => Just(None),
        1 => (-100_000_000_000i64..100_000_000_000).prop_filter("none", |ms| *ms != 0).prop_map(|ms| Some(Duration::Ms(ms))),
        1 => duration_expr()
            .prop_filter("known too early", |e| !is_literal(e))
            .prop_map(move |e| Some(Duration::Expr(Box::new(one(e))))),
    ]
}

fn at() -> impl Strategy<Value = Option<At>> {
    prop_oneof![
        3 => Just(None),
        1 => (-1_000_000_000_000i64..10_000_000_000_000).prop_map(|ms| Some(At::Time(ms))),
        1 => Just(Some(At::Start)),
        1 => Just(Some(At::End)),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let extension = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Extension::Anchored)),
        1 => Just(Some(Extension::Smoothed)),
    ];
    let filter = prop::collection::vec(filter(), 0..4).prop_map(Filter::All);
    let either = prop::collection::vec(self::filter(), 2..4).prop_map(Filter::Any);
    let name = prop_oneof![
        "[a-z_:][a-z0-9_:]{0,6}x",
        prop::sample::select(vec![
            "sum",
            "by",
            "offset",
            "fill",
            "start",
            "and",
            "default",
            "if",
            "ifnot",
            "keep_metric_names",
            "with",
            "outliersk",
            "rollup",
            "range_sum",
        ])
        .prop_map(String::from),
    ];
    (any::<bool>(), name, prop_oneof![4 => filter, 1 => either], offset(), at(), extension).prop_map(
        |(named, name, filter, offset, at, extension)| {
            let filter = match (named, filter) {
                (true, filter) => filter,
                (false, Filter::All(mut parts)) => {
                    parts.push(matching_label("job", MatchOp::Equal, "x"));
                    Filter::All(parts)
                }
                (false, _) => Filter::All(vec![Filter::Has("job".into())]),
            };
            Selector { name: named.then_some(name), filter, offset, at, extension }
        },
    )
}

fn grouping() -> impl Strategy<Value = Grouping> {
    prop_oneof![
        prop::collection::vec(label(), 0..3).prop_map(Grouping::By),
        prop::collection::vec(label(), 0..3).prop_map(Grouping::Without),
    ]
}

fn matching(op: BinaryOp) -> impl Strategy<Value = Matching> {
    let card =
        prop::sample::select(vec![Cardinality::OneToOne, Cardinality::ManyToOne, Cardinality::OneToMany]);
    let fill = || prop_oneof![3 => Just(None), 1 => number().prop_map(Some)];
    (prop::option::of(grouping()), card, prop::collection::vec("z[a-z]{1,3}", 0..3), fill(), fill()).prop_map(
        move |(on, card, include, fill_left, fill_right)| {
            if op.is_set() || op.is_gap() {
                let on = on.filter(|on| *on != Grouping::Without(Vec::new()));
                return Matching { on, card: Cardinality::ManyToMany, ..Matching::default() };
            }
            let grouped = on.is_some() && card != Cardinality::OneToOne;
            let card = if grouped { card } else { Cardinality::OneToOne };
            let include = if grouped { include } else { Vec::new() };
            let on = on.filter(|on| grouped || *on != Grouping::Without(Vec::new()));
            let overlap = match &on {
                Some(Grouping::By(labels)) => labels.iter().any(|l| include.contains(l)),
                _ => false,
            };
            let include = if overlap { Vec::new() } else { include };
            Matching { on, card, include, fill_left, fill_right }
        },
    )
}

const OPS: [BinaryOp; 21] = [
    BinaryOp::Add,
    BinaryOp::Sub,
    BinaryOp::Mul,
    BinaryOp::Div,
    BinaryOp::Mod,
    BinaryOp::Pow,
    BinaryOp::Atan2,
    BinaryOp::TrimUpper,
    BinaryOp::TrimLower,
    BinaryOp::Equal,
    BinaryOp::NotEqual,
    BinaryOp::Greater,
    BinaryOp::GreaterEqual,
    BinaryOp::Less,
    BinaryOp::LessEqual,
    BinaryOp::And,
    BinaryOp::Or,
    BinaryOp::Unless,
    BinaryOp::Default,
    BinaryOp::If,
    BinaryOp::IfNot,
];

fn binary(op: BinaryOp, left: Expr, right: Expr, return_bool: bool, matching: Matching) -> Expr {
    let (left, right) = (operand(left), operand(right));
    node(ExprKind::Binary(Box::new(Binary { op, left, right, return_bool, matching, keep_name: false })))
}

fn scalar(depth: u32) -> BoxedStrategy<Expr> {
    let leaf = prop_oneof![
        4 => number().prop_map(|v| node(ExprKind::Number(v))),
        1 => (-10_000_000i64..10_000_000).prop_map(|ms| node(ExprKind::Seconds(ms as f64 / 1e3))),
        1 => Just(call("time", Vec::new())),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let op = prop::sample::select([&OPS[..15], &OPS[18..]].concat());
    prop_oneof![
        3 => leaf,
        1 => (op, scalar(depth - 1), scalar(depth - 1))
            .prop_map(|(op, a, b)| binary(op, a, b, op.is_comparison(), plain_matching(op))),
        1 => vector(depth - 1).prop_map(|e| call("scalar", vec![e])),
    ]
    .boxed()
}

/// As it is where nothing is written.
fn plain_matching(op: BinaryOp) -> Matching {
    let many = op.is_set() || op.is_gap();
    let card = if many { Cardinality::ManyToMany } else { Cardinality::OneToOne };
    Matching { card, ..Matching::default() }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let function = table::lookup(name).unwrap();
    node(ExprKind::Call(Call { function, args, name_span: Span::default(), keep_name: false }))
}

fn matrix(depth: u32) -> BoxedStrategy<Expr> {
    let range_of =
        (selector(), range()).prop_map(|(selector, range)| node(ExprKind::Range { selector, range }));
    if depth == 0 {
        return range_of.boxed();
    }
    let subquery = (vector(depth - 1), range(), prop::option::of(range()), offset(), at());
    prop_oneof![
        range_of,
        subquery.prop_map(|(expr, range, step, offset, at)| {
            let expr = Box::new(operand(expr));
            node(ExprKind::Subquery { expr, range, step, offset, at })
        }),
    ]
    .boxed()
}

fn args_of(function: &'static Function, depth: u32) -> BoxedStrategy<Expr> {
    let count = function.args_min()..=function.args_max().unwrap_or(function.args.len() + 1);
    count
        .prop_flat_map(move |n| {
            (0..n).map(|i| typed(function.arg_type(i).unwrap(), depth)).collect::<Vec<_>>()
        })
        .prop_map(move |args| call(function.name, args))
        .boxed()
}

fn typed(value: ValueType, depth: u32) -> BoxedStrategy<Expr> {
    match value {
        ValueType::Scalar => scalar(depth),
        ValueType::Vector => vector(depth),
        ValueType::Matrix => matrix(depth),
        ValueType::String => text().prop_map(|s| node(ExprKind::String(s))).boxed(),
    }
}

fn aggregate(depth: u32) -> BoxedStrategy<Expr> {
    use AggregateOp as A;
    let op = prop::sample::select(vec![
        A::Sum,
        A::Avg,
        A::Group,
        A::Stddev,
        A::Topk,
        A::Quantile,
        A::CountValues,
        A::Limitk,
        A::LimitRatio,
        A::OutliersIqr,
        A::OutliersMad,
        A::Outliersk,
    ]);
    (op, vector(depth), scalar(depth), text(), grouping())
        .prop_map(|(op, expr, param, word, grouping)| {
            let param = match op {
                A::CountValues => Some(node(ExprKind::String(word))),
                _ => op.has_param().then_some(param),
            };
            node(ExprKind::Aggregate(Box::new(Aggregate { op, expr, param, grouping })))
        })
        .boxed()
}

pub(super) fn vector(depth: u32) -> BoxedStrategy<Expr> {
    let leaf = selector().prop_map(|s| node(ExprKind::Selector(s)));
    if depth == 0 {
        return leaf.boxed();
    }
    let functions: Vec<&'static Function> =
        table::FUNCTIONS.iter().filter(|f| f.returns == ValueType::Vector && f.name != "info").collect();
    let op = prop::sample::select(OPS.to_vec());
    let both = op.prop_flat_map(move |op| {
        (Just(op), vector(depth - 1), vector(depth - 1), any::<bool>(), matching(op))
    });
    let mixed = (
        prop::sample::select([&OPS[..15], &OPS[18..]].concat()),
        vector(depth - 1),
        scalar(depth - 1),
        any::<bool>(),
    );
    prop_oneof![
        2 => leaf,
        2 => both.prop_map(|(op, a, b, flag, matching)| binary(op, a, b, flag && op.is_comparison(), matching)),
        1 => mixed.prop_map(|(op, a, b, flag)| {
            let flag = flag && op.is_comparison();
            if flag { binary(op, b, a, flag, plain_matching(op)) } else { binary(op, a, b, flag, plain_matching(op)) }
        }),
        1 => vector(depth - 1).prop_map(|e| node(ExprKind::Paren(Box::new(e)))),
        1 => vector(depth - 1).prop_map(|e| node(ExprKind::Negate(Box::new(operand(e))))),
        1 => vector(depth - 1).prop_map(|e| node(ExprKind::Plus(Box::new(operand(e))))),
        2 => aggregate(depth - 1),
        3 => prop::sample::select(functions).prop_flat_map(move |f| args_of(f, depth - 1)),
        1 => vector(depth - 1).prop_map(with_kept_name),
    ]
    .boxed()
}

pub(super) fn expression() -> BoxedStrategy<Expr> {
    prop_oneof![6 => vector(3), 1 => scalar(2), 1 => matrix(2), 1 => typed(ValueType::String, 0)].boxed()
}

/// The same with `keep_metric_names`, where that can stand.
fn with_kept_name(mut expr: Expr) -> Expr {
    match &mut expr.kind {
        ExprKind::Call(call) if call.function.can_keep_name() => call.keep_name = true,
        ExprKind::Binary(binary) => {
            binary.keep_name = true;
            return node(ExprKind::Paren(Box::new(expr)));
        }
        _ => {}
    }
    expr
}

/// Expressions of PromQL: MetricsQL's forms are replaced by others of the same type.
pub(super) fn promql() -> BoxedStrategy<Expr> {
    expression().prop_map(as_promql).boxed()
}

fn as_promql(expr: Expr) -> Expr {
    let boxed = |e: Box<Expr>| Box::new(as_promql(*e));
    node(match expr.kind {
        ExprKind::Subquery { expr, range, step, offset, at } => {
            ExprKind::Subquery { expr: Box::new(operand(as_promql(*expr))), range, step, offset, at }
        }
        ExprKind::Paren(e) => ExprKind::Paren(boxed(e)),
        ExprKind::Negate(e) => ExprKind::Negate(Box::new(operand(as_promql(*e)))),
        ExprKind::Plus(e) => ExprKind::Plus(Box::new(operand(as_promql(*e)))),
        ExprKind::Binary(b) => {
            let (op, mut matching) = (b.op, b.matching);
            let op = if op.is_gap() { BinaryOp::Add } else { op };
            if b.op.is_gap() {
                matching.card = Cardinality::OneToOne;
            }
            return binary(op, as_promql(b.left), as_promql(b.right), b.return_bool, matching);
        }
        ExprKind::Aggregate(mut a) => {
            a.expr = as_promql(a.expr);
            a.param = a.param.map(as_promql);
            if matches!(a.op, AggregateOp::OutliersIqr | AggregateOp::OutliersMad | AggregateOp::Outliersk) {
                (a.op, a.param) = (AggregateOp::Sum, None);
            }
            ExprKind::Aggregate(a)
        }
        ExprKind::Call(c) => {
            let mut args: Vec<Expr> = c.args.into_iter().map(as_promql).collect();
            match c.function.vector_arg() {
                Some(at) if c.function.metricsql => {
                    let name = if c.function.args[at] == ValueType::Matrix { "rate" } else { "abs" };
                    return call(name, vec![args.swap_remove(at)]);
                }
                _ => return call(c.function.name, args),
            }
        }
        leaf => leaf,
    })
}
