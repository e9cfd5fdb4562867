//! The tree of an expression. Every node carries its span in the text.

use metricsdb_model::{Grouping, MatchOp, NumOp, Span};

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
    Match { label: String, op: MatchOp, value: String },
    In { label: String, negated: bool, values: Vec<String> },
    Has(String),
    Num { label: String, op: NumOp, value: f64 },
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
    /// Seconds, as written: `5m` is 300.
    Seconds(f64),
    Step,
    Range,
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
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub function: &'static crate::function::table::Function,
    pub args: Vec<Expr>,
    pub name_span: Span,
}
