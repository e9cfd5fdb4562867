//! The tree of an expression. Every node carries its span in the text.

use metricsdb_model::{Grouping, Matcher, NumOp, Span};

#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Scalar,
    /// Instant vector.
    Vector,
    /// Range vector.
    Matrix,
    String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    Number(f64),
    /// A duration where a number stands: `5m` is the scalar 300, and prints as it was written.
    Seconds(f64),
    String(String),
    Selector(Selector),
    /// `selector[range]`; offset and `@` stand in the selector.
    Range {
        selector: Selector,
        range: Duration,
    },
    Subquery {
        expr: Box<Expr>,
        range: Duration,
        /// `None`: the engine's default interval.
        step: Option<Duration>,
        offset: Option<Duration>,
        at: Option<At>,
    },
    Paren(Box<Expr>),
    Negate(Box<Expr>),
    /// Unary plus: the value itself, kept for printing.
    Plus(Box<Expr>),
    Binary(Box<Binary>),
    Aggregate(Box<Aggregate>),
    Call(Call),
}

impl ValueType {
    /// The name that messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
            ValueType::String => "string",
        }
    }
}

impl Expr {
    /// The type of the value: known without a check, since every node states it.
    pub fn value_type(&self) -> ValueType {
        let mut expr = self;
        loop {
            return match &expr.kind {
                ExprKind::Number(_) | ExprKind::Seconds(_) => ValueType::Scalar,
                ExprKind::String(_) => ValueType::String,
                ExprKind::Selector(_) | ExprKind::Aggregate(_) => ValueType::Vector,
                ExprKind::Range { .. } | ExprKind::Subquery { .. } => ValueType::Matrix,
                ExprKind::Call(call) => call.function.returns,
                ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
                    expr = inner;
                    continue;
                }
                ExprKind::Binary(binary) => match binary.right.value_type() {
                    ValueType::Scalar => {
                        expr = &binary.left;
                        continue;
                    }
                    _ => ValueType::Vector,
                },
            };
        }
    }

    /// The expressions right beneath this one, in the order of the text.
    pub fn children(&self) -> impl DoubleEndedIterator<Item = &Expr> {
        let (first, second, args): (Option<&Expr>, Option<&Expr>, &[Expr]) = match &self.kind {
            ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => (None, None, &[]),
            ExprKind::Selector(_) | ExprKind::Range { .. } => (None, None, &[]),
            ExprKind::Subquery { expr: inner, .. }
            | ExprKind::Paren(inner)
            | ExprKind::Negate(inner)
            | ExprKind::Plus(inner) => (Some(inner), None, &[]),
            ExprKind::Binary(binary) => (Some(&binary.left), Some(&binary.right), &[]),
            ExprKind::Aggregate(aggregate) => (aggregate.param.as_ref(), Some(&aggregate.expr), &[]),
            ExprKind::Call(call) => (None, None, &call.args),
        };
        first.into_iter().chain(second).chain(args)
    }

    /// The expression without the parentheses around it.
    pub fn unparenthesized(&self) -> &Expr {
        let mut expr = self;
        while let ExprKind::Paren(inner) = &expr.kind {
            expr = inner;
        }
        expr
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// The bare name before the braces, if written so.
    pub name: Option<String>,
    pub filter: Filter,
    pub offset: Option<Duration>,
    pub at: Option<At>,
    /// The experimental `anchored` / `smoothed` words.
    pub extension: Option<Extension>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    Anchored,
    Smoothed,
}

/// What stands between the braces, as it was written. Plain PromQL is `All` of `Match`.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// Its regex, if any, is compiled by the parser.
    Match(Matcher),
    In {
        label: String,
        negated: bool,
        values: Vec<String>,
    },
    Has(String),
    Num {
        label: String,
        op: NumOp,
        value: f64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum At {
    /// Milliseconds.
    Time(i64),
    Start,
    End,
}

/// A duration: a plain one, or an experimental expression over `step()`, `range()` and numbers, whose
/// value is only known when the query's times are.
#[derive(Clone, Debug, PartialEq)]
pub enum Duration {
    Ms(i64),
    Expr(Box<DurationExpr>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum DurationExpr {
    /// Seconds written with units: `5m` is 300.
    Seconds(f64),
    /// A plain number: a factor or an exponent, or seconds.
    Number(f64),
    Step,
    Range,
    /// `$w` of an SLO, whose burn rates name the window.
    Window,
    Negate(Box<DurationExpr>),
    Plus(Box<DurationExpr>),
    Paren(Box<DurationExpr>),
    Binary {
        op: DurationOp,
        left: Box<DurationExpr>,
        right: Box<DurationExpr>,
    },
    Min(Box<DurationExpr>, Box<DurationExpr>),
    Max(Box<DurationExpr>, Box<DurationExpr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    pub op: BinaryOp,
    pub left: Expr,
    pub right: Expr,
    /// `bool` after a comparison.
    pub return_bool: bool,
    pub matching: Matching,
    /// `(a op b) keep_metric_names`: the name of the left side stays, or that of the "many" side.
    pub keep_name: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    And,
    Or,
    Unless,
    /// `</` and `>/`: the experimental histogram trims.
    TrimUpper,
    TrimLower,
    /// MetricsQL's three, which look at gaps.
    Default,
    If,
    IfNot,
}

impl BinaryOp {
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterEqual => ">=",
            BinaryOp::Less => "<",
            BinaryOp::LessEqual => "<=",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
            BinaryOp::Default => "default",
            BinaryOp::If => "if",
            BinaryOp::IfNot => "ifnot",
        }
    }

    pub fn is_comparison(self) -> bool {
        use BinaryOp::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
        matches!(self, Equal | NotEqual | Greater | GreaterEqual | Less | LessEqual)
    }

    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }

    /// Fills or makes gaps: takes scalars as set operators don't, and else matches as they do.
    pub fn is_gap(self) -> bool {
        matches!(self, BinaryOp::Default | BinaryOp::If | BinaryOp::IfNot)
    }
}

/// How the two sides of a vector operation find each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// `on` is `By`, `ignoring` is `Without`; `None` where neither is written (match on all labels but
    /// the name).
    pub on: Option<Grouping>,
    pub card: Cardinality,
    /// Labels taken over from the "one" side by `group_left(...)` or `group_right(...)`.
    pub include: Vec<String>,
    /// Experimental `fill`, `fill_left`, `fill_right`: the value of a missing side.
    pub fill_left: Option<f64>,
    pub fill_right: Option<f64>,
}

/// One to one on all labels but the name, as where nothing is written.
impl Default for Matching {
    fn default() -> Matching {
        Matching {
            on: None,
            card: Cardinality::OneToOne,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    OneToOne,
    ManyToOne,
    OneToMany,
    /// Set operators.
    ManyToMany,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub op: AggregateOp,
    pub expr: Expr,
    /// k, q, ratio or label name.
    pub param: Option<Expr>,
    pub grouping: Grouping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Quantile,
    CountValues,
    Limitk,
    LimitRatio,
    /// MetricsQL's: whole series that stray from the others of their group.
    OutliersIqr,
    OutliersMad,
    Outliersk,
}

impl AggregateOp {
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Sum => "sum",
            AggregateOp::Avg => "avg",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Count => "count",
            AggregateOp::Group => "group",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Topk => "topk",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::Quantile => "quantile",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
            AggregateOp::OutliersIqr => "outliers_iqr",
            AggregateOp::OutliersMad => "outliers_mad",
            AggregateOp::Outliersk => "outliersk",
        }
    }

    /// Takes a parameter before the vector: k, q, a ratio, a tolerance or a label name.
    pub fn has_param(self) -> bool {
        use AggregateOp::{Bottomk, CountValues, LimitRatio, Limitk, OutliersMad, Outliersk, Quantile, Topk};
        let picks = matches!(self, Topk | Bottomk | Limitk | LimitRatio | OutliersMad | Outliersk);
        picks || matches!(self, Quantile | CountValues)
    }

    /// The aggregation that only MetricsQL has, in any case; to PromQL its name is a word like others.
    pub(super) fn of_metricsql(word: &str) -> Option<AggregateOp> {
        let known = [AggregateOp::OutliersIqr, AggregateOp::OutliersMad, AggregateOp::Outliersk];
        known.into_iter().find(|op| op.as_str().eq_ignore_ascii_case(word))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub function: &'static crate::function::table::Function,
    pub args: Vec<Expr>,
    pub name_span: Span,
    /// `f(…) keep_metric_names`: the argument's name stays where the function would drop it.
    pub keep_name: bool,
}

impl Call {
    /// Whether the result has the metric name of the argument.
    pub fn keeps_name(&self) -> bool {
        self.keep_name || self.function.keeps_name
    }
}
