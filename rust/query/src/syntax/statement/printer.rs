//! Statements as text. Text that was printed parses to the same tree, spans aside.

use std::fmt::{self, Display, Formatter, Write};

use crate::syntax::literal::{format_duration, format_number, quote};
use crate::syntax::parser::is_statement_name;
use crate::syntax::printer::{write_label, write_labels};
use crate::syntax::statement::{
    Alert, Body, Burn, Clauses, Clear, ClearWhen, Condition, Damp, Explain, FlapAction, Group, Inhibited,
    Level, Map, OnError, OnNoData, Own, Program, Record, Route, Slo, Statement, Subject,
};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, statement) in self.statements.iter().enumerate() {
            f.write_str(if i > 0 { ";\n" } else { "" })?;
            write!(f, "{statement}")?;
        }
        Ok(())
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Query(expr) => write!(f, "{expr}"),
            Statement::Explain(explain) => write!(f, "{explain}"),
            Statement::Record(record) => write!(f, "{record}"),
            Statement::Alert(alert) => write!(f, "{alert}"),
            Statement::Slo(slo) => write!(f, "{slo}"),
            Statement::Group(group) => write!(f, "{group}"),
        }
    }
}

impl Display for Explain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.analyze { "EXPLAIN ANALYZE " } else { "EXPLAIN " })?;
        match &self.subject {
            Subject::Query(expr) => write!(f, "{expr}"),
            Subject::Alert(alert) => write!(f, "{alert}"),
        }
    }
}

struct Name<'n>(&'n str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if is_statement_name(self.0) { f.write_str(self.0) } else { f.write_str(&quote(self.0)) }
    }
}

/// A blank, a word and a duration, where there is one.
struct Length(&'static str, Option<i64>);

impl Display for Length {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(ms) => write!(f, " {} {}", self.0, format_duration(ms)),
            None => Ok(()),
        }
    }
}

/// A blank, a word and a map.
struct Pairs<'m>(&'static str, &'m Map);

impl Display for Pairs<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, " {} {{", self.0)?;
        for (i, (name, text)) in self.1.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { " " })?;
            write_label(f, name)?;
            write!(f, "={}", quote(text))?;
        }
        f.write_str(if self.1.is_empty() { "}" } else { " }" })
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "RECORD {} = {}", Name(&self.name), self.expr)?;
        if !self.labels.is_empty() {
            write!(f, "{}", Pairs("LABELS", &self.labels))?;
        }
        write!(f, "{}", Length("BACKFILL", self.backfill_ms))
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "GROUP {}", Name(&self.name))?;
        write!(f, "{}", Length("EVERY", self.every_ms))?;
        write!(f, "{}", Length("OFFSET", self.offset_ms))?;
        if let Some(limit) = self.limit {
            write!(f, " LIMIT {limit}")?;
        }
        if !self.labels.is_empty() {
            write!(f, "{}", Pairs("LABELS", &self.labels))?;
        }
        f.write_str(" {\n")?;
        for statement in &self.statements {
            for line in statement.to_string().lines() {
                writeln!(f, "  {line}")?;
            }
        }
        f.write_str("}")
    }
}

impl Display for Damp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Damp::For(ms) => write!(f, "FOR {}", format_duration(*ms)),
            Damp::Of { count, of } => write!(f, "FOR {count} OF {of}"),
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "WHEN {}", self.fire)?;
        if let Some(damp) = &self.damp {
            write!(f, " {damp}")?;
        }
        let Some(Clear { when, damp, .. }) = &self.clear else { return Ok(()) };
        match when {
            ClearWhen::When(expr) => write!(f, " CLEAR WHEN {expr}")?,
            ClearWhen::At(value) => write!(f, " CLEAR AT {}", format_number(*value))?,
        }
        match damp {
            Some(damp) => write!(f, " {damp}"),
            None => Ok(()),
        }
    }
}

/// Clauses of a whole statement stand on lines of their own.
fn write_clause(f: &mut Formatter<'_>, clause: impl Display) -> fmt::Result {
    write!(f, "\n {clause}")
}

/// Each clause begins with a blank.
fn write_own(f: &mut Formatter<'_>, own: &Own, before: &str) -> fmt::Result {
    for (word, ms) in [("KEEP FIRING FOR", own.keep_firing_ms), ("HOLD", own.hold_ms)] {
        if ms.is_some() {
            write!(f, "{before}{}", Length(word, ms))?;
        }
    }
    for (word, map) in [("LABELS", &own.labels), ("ANNOTATIONS", &own.annotations)] {
        if let Some(map) = map {
            write!(f, "{before}{}", Pairs(word, map))?;
        }
    }
    match &own.route {
        Some(route) => write!(f, "{before} {route}"),
        None => Ok(()),
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let receivers: Vec<String> = self.receivers.iter().map(|name| quote(name)).collect();
        write!(f, "ROUTE TO {}", receivers.join(", "))?;
        if let Some(labels) = &self.group_by {
            write_labels(f, " GROUP BY", labels)?;
        }
        write!(f, "{}", Length("WAIT", self.wait_ms))?;
        write!(f, "{}", Length("INTERVAL", self.interval_ms))?;
        write!(f, "{}", Length("REPEAT", self.repeat_ms))
    }
}

impl Display for Inhibited {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "INHIBITED BY {}", Name(&self.by))?;
        match &self.on {
            Some(labels) => write_labels(f, " ON", labels),
            None => Ok(()),
        }
    }
}

fn write_clauses(f: &mut Formatter<'_>, clauses: &Clauses) -> fmt::Result {
    if let Some(ms) = clauses.cooldown_ms {
        write_clause(f, Length("COOLDOWN", Some(ms)))?;
    }
    if let Some(flap) = clauses.flap {
        let mut text = format!(" FLAP {} CHANGES IN {}", flap.changes, format_duration(flap.window_ms));
        if let Some(quiet) = flap.quiet_ms {
            write!(text, " UNTIL {} QUIET", format_duration(quiet))?;
        }
        text.push_str(match flap.then {
            Some(FlapAction::Hold) => " THEN HOLD",
            Some(FlapAction::Mute) => " THEN MUTE",
            None => "",
        });
        write_clause(f, text)?;
    }
    if let Some(nodata) = clauses.nodata {
        let then = match nodata.then {
            OnNoData::Clear => "CLEAR",
            OnNoData::Keep => "KEEP",
            OnNoData::Unknown => "UNKNOWN",
            OnNoData::Fire => "FIRE",
        };
        write_clause(f, format_args!(" ON NODATA {then}{}", Length("AFTER", nodata.after_ms)))?;
    }
    if let Some(error) = clauses.error {
        let then = match error {
            OnError::Keep => "KEEP",
            OnError::Unknown => "UNKNOWN",
            OnError::Fire => "FIRE",
        };
        write_clause(f, format_args!(" ON ERROR {then}"))?;
    }
    for inhibited in &clauses.inhibited {
        write_clause(f, format_args!(" {inhibited}"))?;
    }
    for during in &clauses.during {
        let not = if during.negated { "NOT " } else { "" };
        write_clause(f, format_args!(" {not}DURING {}", Name(&during.interval)))?;
    }
    if let Some(cap) = clauses.cap {
        write_clause(f, format_args!(" CAP {cap} INSTANCES"))?;
    }
    write_own(f, &clauses.own, "\n ")
}

impl Display for Level {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "LEVEL {} {}", Name(&self.name), self.condition)?;
        write_own(f, &self.own, "")
    }
}

impl Display for Alert {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ALERT {}", Name(&self.name))?;
        if let Some(labels) = &self.by {
            write_labels(f, " BY", labels)?;
        }
        match &self.body {
            Body::Single(condition) => {
                write_clause(f, format_args!(" {condition}"))?;
                write_clauses(f, &self.clauses)
            }
            Body::Levels(levels) => {
                write_clauses(f, &self.clauses)?;
                levels.iter().try_for_each(|level| write_clause(f, format_args!(" {level}")))
            }
        }
    }
}

impl Display for Burn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (long, short) = (format_duration(self.long_ms), format_duration(self.short_ms));
        write!(f, "BURN {} OVER {long} AND {short}", format_number(self.rate))?;
        write!(f, " LEVEL {}", Name(&self.level))?;
        if let Some(damp) = &self.damp {
            write!(f, " {damp}")?;
        }
        write_clauses(f, &self.clauses)
    }
}

impl Display for Slo {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let over = format_duration(self.over_ms);
        write!(f, "SLO {} TARGET {}% OVER {over}", Name(&self.name), format_number(self.target))?;
        write!(f, "\n  BAD {}\n  TOTAL {}", self.bad, self.total)?;
        self.burns.iter().try_for_each(|burn| write!(f, "\n  {burn}"))
    }
}
