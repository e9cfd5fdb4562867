//! Flapping: too many changes between firing and inactive within a window, until it has been quiet for long enough.

use crate::syntax::statement::{Flap, FlapAction};

/// What one level of one instance did lately. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flapping {
    /// When it went between firing and inactive, within the window; ascending.
    pub changes: Vec<i64>,
    /// When it last went between inactive, firing and clearing.
    pub moved_at: i64,
    pub on: bool,
}

impl Flapping {
    /// Before an evaluation: forgets what is past the window, and ends the mark when it has been quiet.
    pub fn begin(&mut self, rule: Flap, now: i64) {
        let quiet_ms = rule.quiet_ms.unwrap_or(rule.window_ms);
        if self.on && now.saturating_sub(self.moved_at) >= quiet_ms {
            self.on = false;
        }
        let gone = self.changes.partition_point(|t| *t <= now.saturating_sub(rule.window_ms));
        self.changes.drain(..gone);
    }

    /// It began to fire, or was resolved.
    pub fn changed(&mut self, rule: Flap, now: i64) {
        self.moved_at = now;
        self.changes.push(now);
        // One more than the rule allows is enough to know.
        let most = rule.changes as usize + 1;
        if self.changes.len() >= most {
            self.on = true;
            self.changes.drain(..self.changes.len() - most);
        }
    }

    /// Until when `begin` does nothing, if nothing moves.
    pub fn until(&self, rule: Flap) -> i64 {
        let quiet_ms = rule.quiet_ms.unwrap_or(rule.window_ms);
        let leaves = self.changes.first().map_or(i64::MAX, |first| first.saturating_add(rule.window_ms));
        if self.on { leaves.min(self.moved_at.saturating_add(quiet_ms)) } else { leaves }
    }

    pub fn holds(&self, rule: Option<Flap>) -> bool {
        self.on && rule.is_some_and(|rule| rule.then == Some(FlapAction::Hold))
    }

    pub fn mutes(&self, rule: Option<Flap>) -> bool {
        self.on && rule.is_some_and(|rule| rule.then == Some(FlapAction::Mute))
    }

    pub fn is_forgotten(&self) -> bool {
        self.changes.is_empty() && !self.on
    }
}
