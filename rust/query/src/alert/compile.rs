//! An alert taken apart: what is evaluated, and how fire and clear follow from it by comparing.
//!
//! `x > 80` returns nothing both when `x` is 75 and when it is gone. So `x` is evaluated, and both conditions are
//! comparisons with its values; an instance has data where a compared expression has a value.

use metricsdb_model::{Error, Result};

use crate::syntax::parse;
use crate::syntax::statement::{
    Alert, Body, Clear, ClearWhen, Condition, Damp, Flap, Level, Map, OnError, OnNoData, Own, Route,
};
use crate::syntax::tree::{BinaryOp, Expr, ExprKind, ValueType};

/// An alert that can be evaluated.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    /// `None`: all labels of the fire expression but the name. With the names of templates.
    pub by: Option<Vec<String>>,
    /// Labels that are the statement's own at every level, whatever the series say: they tell no instances apart.
    pub own: Vec<String>,
    /// Labels that are templates, and part of what an instance is. None where the alert has levels: there they are
    /// rendered when somebody is told.
    pub templates: Map,
    /// What is evaluated, each once.
    pub queries: Vec<Query>,
    /// Lowest first; one without a name where the alert has no levels.
    pub levels: Vec<LevelPlan>,
    pub rules: Rules,
    /// The statement, for what the machine does not go by.
    pub alert: Alert,
}

#[derive(Clone, Debug)]
pub struct Query {
    pub expr: Expr,
    /// The expression printed, which its spans are of: equal texts have equal answers.
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct LevelPlan {
    /// The label `severity`.
    pub name: Option<String>,
    pub fire: Test,
    pub clear: ClearTest,
    /// Queries that tell 75 from gone; empty where nothing is compared, and then what is false has data.
    pub compared: Vec<usize>,
    pub labels: Map,
    pub annotations: Map,
    pub route: Option<Route>,
}

/// A condition of one instance at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    /// A value of the query compares so.
    Compare { query: usize, op: BinaryOp, bound: f64 },
    /// The query has a value.
    Present { query: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClearTest {
    /// Fire is false.
    NotFire,
    /// No value compares so any more.
    NotStay(Test),
    When(Test),
}

/// What the machine goes by; milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub levels: Vec<Timing>,
    pub cooldown_ms: i64,
    pub flap: Option<Flap>,
    pub nodata: OnNoData,
    pub nodata_after_ms: i64,
    pub error: OnError,
    pub cap: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    pub damp: Option<Damp>,
    pub clear_damp: Option<Damp>,
    pub keep_firing_ms: i64,
    pub hold_ms: i64,
}

impl Rules {
    /// Whether an instance that is gone does at once what it does when it is clear: so it is by default.
    pub(super) fn forgets_gone(&self) -> bool {
        self.nodata == OnNoData::Clear && self.nodata_after_ms == 0
    }
}

impl Plan {
    /// Whether an instance that does not fire is as if it were not there: so it is by default.
    pub(crate) fn only_fire_matters(&self) -> bool {
        self.rules.nodata == OnNoData::Clear
            && self.levels.iter().all(|level| level.clear == ClearTest::NotFire)
    }

    /// The same alert with another bound, duration of `FOR`, or clear bound at one level: for rehearsals. `alert` stays
    /// as it was. Fails with `Error::Input` where the level compares nothing, or the clear bound is on the wrong side.
    pub fn variant(
        &self,
        level: usize,
        threshold: Option<f64>,
        for_ms: Option<i64>,
        clear: Option<f64>,
    ) -> Result<Plan> {
        let mut plan = self.clone();
        let name = |value: f64| value.to_string();
        let (Some(found), Some(timing)) = (plan.levels.get_mut(level), plan.rules.levels.get_mut(level))
        else {
            let remedy = "name one that the alert has";
            return Err(Error::input("level", &level.to_string(), "there is no such level", remedy));
        };
        let timed = for_ms.map(|ms| Some(Damp::For(ms)));
        timing.damp = timed.unwrap_or(timing.damp);
        if threshold.is_none() && clear.is_none() {
            return Ok(plan);
        }
        let Test::Compare { query, op, bound } = &mut found.fire else {
            let (message, remedy) = ("WHEN compares no expression with a number", "vary FOR alone");
            return Err(Error::input(
                "threshold",
                &name(threshold.or(clear).unwrap_or(0.0)),
                message,
                remedy,
            ));
        };
        *bound = threshold.unwrap_or(*bound);
        let (query, op, bound) = (*query, *op, *bound);
        if let Some(clear) = clear {
            found.clear = ClearTest::NotStay(Test::Compare { query, op, bound: clear });
        }
        match found.clear {
            ClearTest::NotStay(Test::Compare { bound: stay, .. })
                if wrong_side(op, bound, stay).is_some() =>
            {
                let message = format!("it fires there, since the threshold is {bound}");
                Err(Error::input("clear", &name(stay), message, "leave out pairs on the wrong side"))
            }
            _ => Ok(plan),
        }
    }
}

/// Where a clear bound is that lies among what fires.
fn wrong_side(op: BinaryOp, bound: f64, at: f64) -> Option<&'static str> {
    match op {
        BinaryOp::Greater | BinaryOp::GreaterEqual if at > bound => Some("above"),
        BinaryOp::Less | BinaryOp::LessEqual if at < bound => Some("below"),
        _ => None,
    }
}

/// Takes an alert apart. `text` is the text that its spans are of. Fails with `Error::Parse` where a clear level is on
/// the wrong side, and where no data cannot be told from false.
pub fn compile(alert: &Alert, text: &str) -> Result<Plan> {
    let mut compiler = Compiler { text, queries: Vec::new() };
    let clauses = &alert.clauses;
    let single;
    let levels: &[Level] = match &alert.body {
        Body::Levels(levels) => levels,
        Body::Single(condition) => {
            let (condition, own) = ((**condition).clone(), Own::default());
            single = [Level { name: String::new(), condition, own, span: alert.span }];
            &single
        }
    };
    let mut plans = Vec::with_capacity(levels.len());
    let mut timings = Vec::with_capacity(levels.len());
    for level in levels {
        let own = level.with(&clauses.own);
        plans.push(compiler.level(alert, level, &own)?);
        timings.push(Timing {
            damp: level.condition.damp,
            clear_damp: level.condition.clear.as_ref().and_then(|clear| clear.damp),
            keep_firing_ms: own.keep_firing_ms.unwrap_or(0),
            hold_ms: own.hold_ms.unwrap_or(0),
        });
    }
    let rules = Rules {
        levels: timings,
        cooldown_ms: clauses.cooldown_ms.unwrap_or(0),
        flap: clauses.flap,
        nodata: clauses.nodata.map_or(OnNoData::Clear, |nodata| nodata.then),
        nodata_after_ms: clauses.nodata.and_then(|nodata| nodata.after_ms).unwrap_or(0),
        error: clauses.error.unwrap_or(OnError::Keep),
        cap: clauses.cap,
    };
    let (name, mut by, queries) = (alert.name.clone(), alert.by.clone(), compiler.queries);
    let labels = clauses.own.labels.iter().flatten().cloned();
    let (mut templates, fixed): (Map, Map) = labels.partition(|(_, text)| text.contains("{{"));
    let mut own: Vec<String> = fixed.into_iter().map(|(name, _)| name).collect();
    own.push("alertname".to_owned());
    if matches!(alert.body, Body::Levels(_)) {
        own.push("severity".to_owned());
        templates.clear();
    }
    by.iter_mut().for_each(|by| by.extend(templates.iter().map(|(name, _)| name.clone())));
    Ok(Plan { name, by, own, templates, queries, levels: plans, rules, alert: alert.clone() })
}

struct Compiler<'t> {
    text: &'t str,
    queries: Vec<Query>,
}

impl Compiler<'_> {
    fn level(&mut self, alert: &Alert, level: &Level, own: &Own) -> Result<LevelPlan> {
        let Condition { fire, clear, .. } = &level.condition;
        let test = self.test(fire)?;
        let clear_test = match clear {
            None => ClearTest::NotFire,
            Some(clear) => self.clear(test, clear)?,
        };
        let mut compared = Vec::new();
        let clear_expr = clear.as_ref().and_then(|clear| match &clear.when {
            ClearWhen::When(expr) => Some(expr),
            ClearWhen::At(_) => None,
        });
        for expr in [Some(fire), clear_expr].into_iter().flatten() {
            let mut found = Vec::new();
            operands(expr, &mut found);
            for expr in found {
                let query = self.query(expr)?;
                if !compared.contains(&query) {
                    compared.push(query);
                }
            }
        }
        let tells = alert.clauses.nodata.is_some_and(|nodata| nodata.then != OnNoData::Clear);
        if tells && compared.is_empty() {
            let message = "nothing is compared here, so no data cannot be told from false";
            return Err(Error::parse(self.text, fire.span, message)
                .with_remedy("compare the expression with a number, or leave ON NODATA out"));
        }
        Ok(LevelPlan {
            name: Some(level.name.clone()).filter(|name| !name.is_empty()),
            fire: test,
            clear: clear_test,
            compared,
            labels: own.labels.clone().unwrap_or_default(),
            annotations: own.annotations.clone().unwrap_or_default(),
            route: own.route.clone(),
        })
    }

    fn clear(&mut self, test: Test, clear: &Clear) -> Result<ClearTest> {
        let at = match &clear.when {
            ClearWhen::When(expr) => return Ok(ClearTest::When(self.test(expr)?)),
            ClearWhen::At(at) => *at,
        };
        let refused = |message: String, remedy: &str| {
            Err(Error::parse(self.text, clear.span, message).with_remedy(remedy))
        };
        let Test::Compare { query, op, bound } = test else {
            let remedy = "write WHEN expression > number, or CLEAR WHEN with a condition of its own";
            return refused(
                "CLEAR AT needs a comparison with a number at the top of WHEN".to_owned(),
                remedy,
            );
        };
        if matches!(op, BinaryOp::Equal | BinaryOp::NotEqual) {
            return refused(format!("CLEAR AT has no side of {}", op.as_str()), "use >, >=, < or <= in WHEN");
        }
        let Some(side) = wrong_side(op, bound, at) else {
            return Ok(ClearTest::NotStay(Test::Compare { query, op, bound: at }));
        };
        let message = format!("CLEAR AT {at} is {side} {bound}, where it fires");
        refused(message, "exchange the two numbers, or write the clear level on the quiet side")
    }

    fn test(&mut self, expr: &Expr) -> Result<Test> {
        match comparison(expr) {
            Some((compared, op, bound)) => Ok(Test::Compare { query: self.query(compared)?, op, bound }),
            None => Ok(Test::Present { query: self.query(expr)? }),
        }
    }

    /// The place of an expression among the queries.
    fn query(&mut self, expr: &Expr) -> Result<usize> {
        let text = expr.unparenthesized().to_string();
        if let Some(known) = self.queries.iter().position(|query| query.text == text) {
            return Ok(known);
        }
        let expr = parse(&text)?;
        self.queries.push(Query { expr, text });
        Ok(self.queries.len() - 1)
    }
}

/// `e op number`, with the number on the right whatever side it is written on.
pub(crate) fn comparison(expr: &Expr) -> Option<(&Expr, BinaryOp, f64)> {
    let ExprKind::Binary(binary) = &expr.unparenthesized().kind else { return None };
    if !binary.op.is_comparison() || binary.return_bool {
        return None;
    }
    if let Some(bound) = constant(&binary.right) {
        return Some((&binary.left, binary.op, bound)).filter(|_| is_vector(&binary.left));
    }
    let op = match binary.op {
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterEqual => BinaryOp::LessEqual,
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessEqual => BinaryOp::GreaterEqual,
        same => same,
    };
    constant(&binary.left).map(|bound| (&binary.right, op, bound)).filter(|_| is_vector(&binary.right))
}

fn is_vector(expr: &Expr) -> bool {
    expr.value_type() == ValueType::Vector
}

/// The value of an expression that is one number whatever the data.
pub(crate) fn constant(expr: &Expr) -> Option<f64> {
    Some(match &expr.kind {
        ExprKind::Number(value) | ExprKind::Seconds(value) => *value,
        ExprKind::Paren(inner) | ExprKind::Plus(inner) => constant(inner)?,
        ExprKind::Negate(inner) => -constant(inner)?,
        ExprKind::Binary(binary) => {
            let (left, right) = (constant(&binary.left)?, constant(&binary.right)?);
            match binary.op {
                BinaryOp::Add => left + right,
                BinaryOp::Sub => left - right,
                BinaryOp::Mul => left * right,
                BinaryOp::Div => left / right,
                BinaryOp::Mod => left % right,
                BinaryOp::Pow => left.powf(right),
                op if binary.return_bool => f64::from(u8::from(compares(op, left, right))),
                _ => return None,
            }
        }
        _ => return None,
    })
}

/// Whether a value compares so with a bound; NaN is unequal to all.
#[inline]
pub(crate) fn compares(op: BinaryOp, value: f64, bound: f64) -> bool {
    match op {
        BinaryOp::Equal => value == bound,
        BinaryOp::NotEqual => value != bound,
        BinaryOp::Greater => value > bound,
        BinaryOp::GreaterEqual => value >= bound,
        BinaryOp::Less => value < bound,
        BinaryOp::LessEqual => value <= bound,
        _ => false,
    }
}

/// The vectors that the comparisons of a condition compare.
fn operands<'e>(expr: &'e Expr, found: &mut Vec<&'e Expr>) {
    match &expr.kind {
        ExprKind::Paren(inner) | ExprKind::Plus(inner) => operands(inner, found),
        ExprKind::Binary(binary) if binary.op.is_comparison() && !binary.return_bool => {
            found.extend([&binary.left, &binary.right].into_iter().filter(|side| is_vector(side)));
        }
        ExprKind::Binary(binary) if binary.op.is_set() || binary.op.is_gap() => {
            operands(&binary.left, found);
            operands(&binary.right, found);
        }
        _ => {}
    }
}
