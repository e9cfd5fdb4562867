//! What a selector asks of a label set: matchers joined by and, or, not.

use crate::labels::LabelsRef;
use crate::matcher::Matcher;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumOp {
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Equal,
}

/// A boolean tree over label values. Plain PromQL selectors are `All` of `Match`.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// Every part holds; empty: every series.
    All(Vec<Predicate>),
    /// Some part holds; empty: none.
    Any(Vec<Predicate>),
    Not(Box<Predicate>),
    Match(Matcher),
    /// The label is one of these values.
    OneOf {
        name: String,
        values: Vec<String>,
    },
    /// The label's value parses as a number that compares so; a value that is no number never does.
    Num {
        name: String,
        op: NumOp,
        value: f64,
    },
}

impl Predicate {
    /// The plain evaluation, label set by label set: the specification of every index.
    pub fn matches(&self, labels: LabelsRef<'_>) -> bool {
        match self {
            Predicate::All(parts) => parts.iter().all(|p| p.matches(labels)),
            Predicate::Any(parts) => parts.iter().any(|p| p.matches(labels)),
            Predicate::Not(part) => !part.matches(labels),
            Predicate::Match(m) => m.matches(labels.value(&m.name)),
            Predicate::OneOf { name, values } => {
                let v = labels.value(name);
                values.iter().any(|x| x == v)
            }
            Predicate::Num { name, op, value } => num_matches(labels.value(name), *op, *value),
        }
    }

    /// True when a label set without any label would be taken: such a selector reads everything, and
    /// is refused where Prometheus refuses it.
    pub fn matches_empty(&self) -> bool {
        self.matches(LabelsRef::from_canonical(&[]))
    }
}

/// `num(label) op number` on one label value.
pub fn num_matches(text: &str, op: NumOp, than: f64) -> bool {
    let Ok(x) = text.parse::<f64>() else { return false };
    match op {
        NumOp::Greater => x > than,
        NumOp::GreaterEqual => x >= than,
        NumOp::Less => x < than,
        NumOp::LessEqual => x <= than,
        NumOp::Equal => x == than,
    }
}
