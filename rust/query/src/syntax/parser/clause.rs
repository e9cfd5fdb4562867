//! The clauses of alerts: conditions with their damps, what holds for a level, what holds for all.

use metricsdb_model::{Result, Span};

use super::Parser;
use crate::syntax::lexer::{Keyword, TokenKind};
use crate::syntax::statement::{
    Clauses, Clear, ClearWhen, Condition, Damp, During, Flap, FlapAction, Inhibited, Map, NoData, OF_MAX,
    OnError, OnNoData, Own, Route,
};

/// A clause that may stand once.
pub(super) trait Twice<T> {
    fn once(&mut self, value: T) -> std::result::Result<(), ()>;
}

impl<T> Twice<T> for Option<T> {
    fn once(&mut self, value: T) -> std::result::Result<(), ()> {
        if self.is_some() {
            return Err(());
        }
        *self = Some(value);
        Ok(())
    }
}

impl Parser<'_> {
    /// `WHEN expr [damp] [CLEAR …]`.
    pub(super) fn condition(&mut self) -> Result<Condition> {
        self.expect_word("when", "the condition")?;
        let fire = self.series_expr("WHEN")?;
        let damp = self.damp()?;
        let start = self.token().span;
        let clear = match self.eat_word("clear") {
            true => Some(self.clear(start)?),
            false => None,
        };
        Ok(Condition { fire, damp, clear })
    }

    fn clear(&mut self, start: Span) -> Result<Clear> {
        let when = if self.eat_word("when") {
            ClearWhen::When(self.series_expr("CLEAR WHEN")?)
        } else if self.eat_word("at") {
            let at = self.token().span;
            let value = self.signed_number("CLEAR AT", "a number")?;
            if value.is_nan() {
                return Err(self.error(at, "NaN is no bound"));
            }
            ClearWhen::At(value)
        } else {
            return Err(self.unexpected("CLEAR", "WHEN or AT"));
        };
        let span = start.to(self.last_span());
        Ok(Clear { when, damp: self.damp()?, span })
    }

    /// `FOR 10m` or `FOR 2 OF 3`, if one stands here.
    pub(super) fn damp(&mut self) -> Result<Option<Damp>> {
        if !self.eat_word("for") {
            return Ok(None);
        }
        if self.kind() == TokenKind::Duration || !self.ahead_is_word(1, "of") {
            return Ok(Some(Damp::For(self.duration("FOR")?)));
        }
        let start = self.token().span;
        let count = self.integer("FOR", OF_MAX)?;
        self.expect_word("of", "FOR")?;
        let of = self.integer("OF", OF_MAX)?;
        if count > of {
            let message = format!("{count} of {of} evaluations can never be true");
            return Err(self.error(start.to(self.last_span()), message).with_remedy("exchange them"));
        }
        Ok(Some(Damp::Of { count, of }))
    }

    fn ahead_is_word(&self, n: usize, word: &str) -> bool {
        self.slice(self.ahead(n).span).eq_ignore_ascii_case(word)
    }

    pub(super) fn clauses(&mut self, clauses: &mut Clauses) -> Result<()> {
        while self.clause(clauses)? {}
        Ok(())
    }

    /// Reads a clause that holds for a level or for all; false: none stands here.
    pub(super) fn clause(&mut self, clauses: &mut Clauses) -> Result<bool> {
        if self.own(&mut clauses.own)? {
            return Ok(true);
        }
        let at = self.token().span;
        if self.eat_word("cooldown") {
            let found = self.duration("COOLDOWN")?;
            clauses.cooldown_ms.once(found).map_err(|()| self.twice("COOLDOWN", at))?;
        } else if self.eat_word("flap") {
            let found = self.flap()?;
            clauses.flap.once(found).map_err(|()| self.twice("FLAP", at))?;
        } else if self.eat_word("cap") {
            let cap = self.integer("CAP", u32::MAX)?;
            self.expect_word("instances", "CAP")?;
            clauses.cap.once(cap).map_err(|()| self.twice("CAP", at))?;
        } else if self.eat_word("inhibited") {
            clauses.inhibited.push(self.inhibited()?);
        } else if self.at_word("during") || (self.at_word("not") && self.ahead_is_word(1, "during")) {
            let negated = self.eat_word("not");
            self.advance();
            clauses.during.push(During { negated, interval: self.name("DURING")? });
        } else if self.eat_word("on") {
            self.on(clauses, at)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn on(&mut self, clauses: &mut Clauses, at: Span) -> Result<()> {
        if self.eat_word("error") {
            let then = self.choice("ON ERROR", [OnError::Keep, OnError::Unknown, OnError::Fire])?;
            return clauses.error.once(then).map_err(|()| self.twice("ON ERROR", at));
        }
        if !self.eat_word("nodata") {
            return Err(self.unexpected("ON", "NODATA or ERROR"));
        }
        let choices = [OnNoData::Clear, OnNoData::Keep, OnNoData::Unknown, OnNoData::Fire];
        let then = self.choice("ON NODATA", choices)?;
        let after_ms = self.eat_word("after").then(|| self.duration("AFTER")).transpose()?;
        clauses.nodata.once(NoData { then, after_ms }).map_err(|()| self.twice("ON NODATA", at))
    }

    /// One of some words, which are their names.
    fn choice<T: Copy + std::fmt::Debug, const N: usize>(
        &mut self,
        context: &str,
        choices: [T; N],
    ) -> Result<T> {
        let names = choices.map(|choice| format!("{choice:?}").to_ascii_uppercase());
        for (choice, name) in choices.into_iter().zip(&names) {
            if self.eat_word(name) {
                return Ok(choice);
            }
        }
        Err(self.unexpected(context, &names.join(" or ")))
    }

    fn flap(&mut self) -> Result<Flap> {
        let changes = self.integer("FLAP", u32::from(u16::MAX))?;
        self.expect_word("changes", "FLAP")?;
        self.expect_word("in", "FLAP")?;
        let window_ms = self.length("IN")?;
        let mut quiet_ms = None;
        if self.eat_word("until") {
            quiet_ms = Some(self.length("UNTIL")?);
            self.expect_word("quiet", "FLAP")?;
        }
        let then = match self.eat_word("then") {
            true => Some(self.choice("THEN", [FlapAction::Hold, FlapAction::Mute])?),
            false => None,
        };
        Ok(Flap { changes, window_ms, quiet_ms, then })
    }

    fn inhibited(&mut self) -> Result<Inhibited> {
        self.expect_word("by", "INHIBITED")?;
        let by = self.name("INHIBITED BY")?;
        let labels = self.at_word("on") && self.ahead(1).kind == TokenKind::LeftParen;
        let on = match labels {
            true => {
                self.advance();
                Some(self.grouping_labels()?)
            }
            false => None,
        };
        Ok(Inhibited { by, on })
    }

    /// Reads a clause that a level may say for itself; false: none stands here.
    pub(super) fn own(&mut self, own: &mut Own) -> Result<bool> {
        let at = self.token().span;
        if self.eat_word("keep") {
            self.expect_word("firing", "KEEP")?;
            self.expect_word("for", "KEEP FIRING")?;
            let ms = self.duration("KEEP FIRING FOR")?;
            own.keep_firing_ms.once(ms).map_err(|()| self.twice("KEEP FIRING FOR", at))?;
        } else if self.eat_word("hold") {
            let found = self.duration("HOLD")?;
            own.hold_ms.once(found).map_err(|()| self.twice("HOLD", at))?;
        } else if self.eat_word("labels") {
            let found = self.map("LABELS")?;
            own.labels.once(found).map_err(|()| self.twice("LABELS", at))?;
        } else if self.eat_word("annotations") {
            let found = self.map("ANNOTATIONS")?;
            own.annotations.once(found).map_err(|()| self.twice("ANNOTATIONS", at))?;
        } else if self.eat_word("route") {
            let found = self.route()?;
            own.route.once(found).map_err(|()| self.twice("ROUTE", at))?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn route(&mut self) -> Result<Route> {
        self.expect_word("to", "ROUTE")?;
        let mut receivers = Vec::new();
        loop {
            match self.kind() {
                TokenKind::String => receivers.push(self.string()?),
                _ => return Err(self.unexpected("ROUTE TO", "the name of a receiver in quotes")),
            }
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        let group_by = match self.at_word("group") && self.ahead(1).kind == TokenKind::Keyword(Keyword::By) {
            true => {
                self.at += 2;
                Some(self.grouping_labels()?)
            }
            false => None,
        };
        let wait_ms = self.eat_word("wait").then(|| self.duration("WAIT")).transpose()?;
        let interval_ms = self.eat_word("interval").then(|| self.duration("INTERVAL")).transpose()?;
        let repeat_ms = self.eat_word("repeat").then(|| self.duration("REPEAT")).transpose()?;
        Ok(Route { receivers, group_by, wait_ms, interval_ms, repeat_ms })
    }

    /// `{ name="text", … }`.
    pub(super) fn map(&mut self, context: &str) -> Result<Map> {
        self.expect(TokenKind::LeftBrace, context, "\"{\"")?;
        let mut map = Map::new();
        while self.kind() != TokenKind::RightBrace {
            let at = self.token().span;
            let name = match self.kind() {
                TokenKind::String => self.string()?,
                TokenKind::Word => self.word(),
                _ => return Err(self.unexpected(context, "a name or \"}\"")),
            };
            if name.is_empty() || name == "__name__" {
                return Err(self.error(at, "this cannot be the name of a label"));
            }
            if map.iter().any(|(known, _)| *known == name) {
                return Err(self.twice(&name, at));
            }
            self.expect(TokenKind::Assign, context, "\"=\"")?;
            if self.kind() != TokenKind::String {
                return Err(self.unexpected(context, "a text in quotes"));
            }
            let text = self.string()?;
            map.push((name, text));
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        self.expect(TokenKind::RightBrace, context, "\",\" or \"}\"")?;
        Ok(map)
    }

    /// Milliseconds of a duration with its unit; `0s` is one.
    pub(super) fn duration(&mut self, context: &str) -> Result<i64> {
        let token = self.token();
        if token.kind == TokenKind::Number {
            let error = self.unexpected(context, "a duration");
            return Err(error.with_remedy("durations carry a unit here: 90s, 10m, 1h30m"));
        }
        if token.kind != TokenKind::Duration {
            return Err(self.unexpected(context, "a duration"));
        }
        // Not by way of seconds as a double: long durations are whole milliseconds.
        let word = self.word();
        crate::syntax::literal::duration_ms(&word).map_err(|message| self.error(token.span, message))
    }

    /// A duration of more than nothing.
    pub(super) fn length(&mut self, context: &str) -> Result<i64> {
        let span = self.token().span;
        match self.duration(context)? {
            0 => Err(self.error(span, "duration must be greater than 0")),
            ms => Ok(ms),
        }
    }

    /// A whole number from 1 on.
    pub(super) fn integer(&mut self, context: &str, max: u32) -> Result<u32> {
        let span = self.token().span;
        if self.kind() != TokenKind::Number {
            return Err(self.unexpected(context, "a whole number"));
        }
        let value = self.number()?;
        if value.fract() != 0.0 || !(1.0..=f64::from(max)).contains(&value) {
            return Err(self.error(span, format!("{context} takes a whole number from 1 to {max}")));
        }
        Ok(value as u32)
    }
}
