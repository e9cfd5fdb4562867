//! Statements: the trees of `ALERT`, `RECORD`, `SLO`, `GROUP` and `EXPLAIN`. The parser is `parser/statement.rs`.
//!
//! Clauses stand in fields, not in the order of the text, so that two texts that say the same have the same tree.
//! Durations are milliseconds. Spans are those of the whole text.

mod printer;

use metricsdb_model::Span;

use crate::syntax::tree::Expr;

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Query(Expr),
    Explain(Explain),
    Record(Record),
    Alert(Box<Alert>),
    Slo(Slo),
    Group(Group),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub subject: Subject,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Query(Expr),
    Alert(Box<Alert>),
}

impl Explain {
    /// The text with blanks before the query, whose places stay those of the whole; `None` for an alert.
    pub fn query_text(&self, text: &str) -> Option<String> {
        let Subject::Query(expr) = &self.subject else { return None };
        let (head, tail) = text.get(..expr.span.end as usize)?.split_at_checked(expr.span.start as usize)?;
        // A blank for each character, so that columns stay right.
        Some(head.chars().map(|c| if c == '\n' { c } else { ' ' }).collect::<String>() + tail)
    }
}

/// Names and texts, in the order in which they were written.
pub type Map = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub name: String,
    pub expr: Expr,
    pub labels: Map,
    pub backfill_ms: Option<i64>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub every_ms: Option<i64>,
    pub offset_ms: Option<i64>,
    /// The most alerts or series of one statement; one with more fails.
    pub limit: Option<u32>,
    pub labels: Map,
    /// Records, alerts and SLOs.
    pub statements: Vec<Statement>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub name: String,
    /// The labels that make an instance; `None`: all of the fire expression but the name.
    pub by: Option<Vec<String>>,
    /// What holds for the whole alert.
    pub clauses: Clauses,
    pub body: Body,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Single(Box<Condition>),
    /// Lowest first.
    Levels(Vec<Level>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub name: String,
    pub condition: Condition,
    /// Goes before that of the alert.
    pub own: Own,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub fire: Expr,
    pub damp: Option<Damp>,
    pub clear: Option<Clear>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Clear {
    pub when: ClearWhen,
    pub damp: Option<Damp>,
    /// Of `CLEAR …` without its damp.
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ClearWhen {
    When(Expr),
    /// Another bound for the comparison of the fire condition.
    At(f64),
}

/// How long a condition must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damp {
    For(i64),
    /// True at `count` of the last `of` evaluations; 1 <= count <= of <= `OF_MAX`.
    Of {
        count: u32,
        of: u32,
    },
}

/// The longest memory of `FOR k OF n`.
pub const OF_MAX: u32 = 64;
/// The most levels of one alert.
pub const LEVELS_MAX: usize = 7;

/// What a level may say for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    pub keep_firing_ms: Option<i64>,
    pub hold_ms: Option<i64>,
    pub labels: Option<Map>,
    pub annotations: Option<Map>,
    pub route: Option<Route>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clauses {
    pub own: Own,
    pub cooldown_ms: Option<i64>,
    pub flap: Option<Flap>,
    pub nodata: Option<NoData>,
    pub error: Option<OnError>,
    pub inhibited: Vec<Inhibited>,
    pub during: Vec<During>,
    pub cap: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// More changes than this within the window make it flap.
    pub changes: u32,
    pub window_ms: i64,
    /// `None`: the window.
    pub quiet_ms: Option<i64>,
    /// `None`: it is only marked.
    pub then: Option<FlapAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlapAction {
    /// It does not resolve.
    Hold,
    /// It notifies nobody.
    Mute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoData {
    pub then: OnNoData,
    /// Until then it stays as it is.
    pub after_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoData {
    Clear,
    Keep,
    Unknown,
    Fire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Keep,
    Unknown,
    Fire,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Inhibited {
    pub by: String,
    /// The labels that must be equal; `None`: whatever fires there inhibits.
    pub on: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct During {
    pub negated: bool,
    /// Of a time interval.
    pub interval: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub receivers: Vec<String>,
    pub group_by: Option<Vec<String>>,
    pub wait_ms: Option<i64>,
    pub interval_ms: Option<i64>,
    pub repeat_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    pub name: String,
    /// Percent, between 0 and 100.
    pub target: f64,
    pub over_ms: i64,
    /// These two may name the window `$w`.
    pub bad: Expr,
    pub total: Expr,
    pub burns: Vec<Burn>,
    pub span: Span,
}

/// Fires while the budget burns at more than `rate` times its pace over both windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Burn {
    pub rate: f64,
    pub long_ms: i64,
    pub short_ms: i64,
    pub level: String,
    pub damp: Option<Damp>,
    pub clauses: Clauses,
    pub span: Span,
}

impl Group {
    /// The statements with the group's labels beneath their own.
    pub fn labelled(&self) -> Vec<Statement> {
        let under =
            |own: Option<Map>| merged(Some(self.labels.clone()), own).filter(|labels| !labels.is_empty());
        let mut statements = self.statements.clone();
        for statement in &mut statements {
            match statement {
                Statement::Record(record) => {
                    record.labels = under(Some(std::mem::take(&mut record.labels))).unwrap_or_default();
                }
                Statement::Alert(alert) => alert.clauses.own.labels = under(alert.clauses.own.labels.take()),
                Statement::Slo(slo) => {
                    for burn in &mut slo.burns {
                        burn.clauses.own.labels = under(burn.clauses.own.labels.take());
                    }
                }
                Statement::Query(_) | Statement::Explain(_) | Statement::Group(_) => {}
            }
        }
        statements
    }
}

impl Level {
    /// What the level says, and the alert where the level says nothing.
    pub fn with(&self, alert: &Own) -> Own {
        let (own, alert) = (self.own.clone(), alert.clone());
        Own {
            keep_firing_ms: own.keep_firing_ms.or(alert.keep_firing_ms),
            hold_ms: own.hold_ms.or(alert.hold_ms),
            labels: merged(alert.labels, own.labels),
            annotations: merged(alert.annotations, own.annotations),
            route: own.route.or(alert.route),
        }
    }
}

/// Both maps, of the same names those of the second.
fn merged(first: Option<Map>, second: Option<Map>) -> Option<Map> {
    match (first, second) {
        (Some(mut first), Some(second)) => {
            first.retain(|(name, _)| second.iter().all(|(other, _)| other != name));
            first.extend(second);
            Some(first)
        }
        (first, second) => first.or(second),
    }
}
