//! Binary operators between two vectors: how samples find each other, and what the result is called.

use std::collections::HashMap;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, Error, Grouping, Labels, Result};

use super::binary::{apply, arithmetic, blank};
use super::block::{ABSENT, Block, duplicate_labelset, present};
use super::labels::{drop_metadata, label_text};
use crate::syntax::tree::{Binary, BinaryOp, Cardinality, Matching};

/// The labels on which samples match.
fn signature(matching: &Matching) -> Grouping {
    match &matching.on {
        Some(Grouping::By(names)) => Grouping::By(names.clone()),
        Some(Grouping::Without(names)) => {
            Grouping::Without(names.iter().cloned().chain([METRIC_NAME.to_owned()]).collect())
        }
        None => Grouping::Without(vec![METRIC_NAME.to_owned()]),
    }
}

/// The rows of both sides that share one signature.
struct Match {
    signature: Labels,
    left: Vec<u32>,
    right: Vec<u32>,
}

/// What a match takes in vectors and a table that double as they grow, and a row in the list of its match.
const MATCH_BYTES: usize = 256;
const ROW_BYTES: usize = 16;

fn matches(left: &Block<'_>, right: &Block<'_>, matching: &Matching, budget: &Budget) -> Result<Vec<Match>> {
    let grouping = signature(matching);
    let left_groups = left.labels.group(&grouping, budget)?;
    let right_groups = right.labels.group(&grouping, budget)?;
    let groups = left_groups.labels.len() + right_groups.labels.len();
    budget.hold(groups * MATCH_BYTES + (left.len() + right.len()) * ROW_BYTES)?;
    let mut place: HashMap<Labels, u32> = HashMap::with_capacity(left_groups.labels.len());
    let mut all: Vec<Match> = Vec::with_capacity(left_groups.labels.len());
    for l in left_groups.labels {
        budget.check()?;
        place.insert(l.clone(), all.len() as u32);
        all.push(Match { signature: l, left: Vec::new(), right: Vec::new() });
    }
    let mut right_place = Vec::with_capacity(right_groups.labels.len());
    for l in right_groups.labels {
        budget.check()?;
        let next = all.len() as u32;
        let at = *place.entry(l).or_insert_with_key(|l| {
            all.push(Match { signature: l.clone(), left: Vec::new(), right: Vec::new() });
            next
        });
        right_place.push(at);
    }
    for (row, &g) in left_groups.of.iter().enumerate() {
        all[g as usize].left.push(row as u32);
    }
    for (row, &g) in right_groups.of.iter().enumerate() {
        all[right_place[g as usize] as usize].right.push(row as u32);
    }
    Ok(all)
}

/// and, or, unless.
pub(crate) fn set_operator<'a>(
    op: BinaryOp,
    mut left: Block<'a>,
    mut right: Block<'a>,
    matching: &Matching,
    budget: &Budget,
) -> Result<Block<'a>> {
    let steps = left.steps;
    let matches = matches(&left, &right, matching, budget)?;
    budget.check()?;
    let of = |rows: usize, side: fn(&Match) -> &Vec<u32>| {
        let mut of = vec![0u32; rows];
        for (m, found) in matches.iter().enumerate() {
            for &row in side(found) {
                of[row as usize] = m as u32;
            }
        }
        of
    };
    let seen = |block: &Block<'_>, side: fn(&Match) -> &Vec<u32>| {
        budget.hold(matches.len() * steps + size_of::<u32>() * block.len())?;
        let mut seen = vec![false; matches.len() * steps];
        for (m, found) in matches.iter().enumerate() {
            for &row in side(found) {
                budget.check()?;
                for (step, &v) in block.row(row as usize).iter().enumerate() {
                    seen[m * steps + step] |= present(v);
                }
            }
        }
        Ok(seen)
    };
    if op == BinaryOp::Or {
        let (seen, of) = (seen(&left, |m| &m.left)?, of(right.len(), |m| &m.right));
        blank(&mut right, budget, |row, step| !seen[of[row] as usize * steps + step])?;
        return join(left, right, budget);
    }
    let (seen, of) = (seen(&right, |m| &m.right)?, of(left.len(), |m| &m.left));
    let wanted = op == BinaryOp::And;
    blank(&mut left, budget, |row, step| seen[of[row] as usize * steps + step] == wanted)?;
    Ok(left)
}

/// All rows of both; rows with the same labels become one, or fail.
fn join<'a>(mut left: Block<'a>, mut right: Block<'a>, budget: &Budget) -> Result<Block<'a>> {
    if right.len() == 0 {
        return Ok(left);
    }
    if left.len() == 0 {
        return Ok(right);
    }
    left.ordered = false;
    budget.hold(left.bytes().saturating_add(right.bytes()))?;
    let more = std::mem::take(right.labels_ready(budget)?);
    left.labels_ready(budget)?.extend(more);
    left.values.append(&mut right.values);
    left.drop_name.append(&mut right.drop_name);
    left.merge_equal(budget)
}

/// The arithmetic and comparison operators.
pub(crate) fn operator<'a>(
    binary: &Binary,
    left: Block<'a>,
    right: Block<'a>,
    budget: &Budget,
) -> Result<Block<'a>> {
    // From here on the right side is the one whose samples must be unique.
    let swapped = binary.matching.card == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    // As in Prometheus, fill_left means the many side and fill_right the one side, also when swapped.
    let (fill_many, fill_one) = (binary.matching.fill_left, binary.matching.fill_right);
    let matches = matches(&many, &one, &binary.matching, budget)?;
    let mut pairing = Pairing {
        binary,
        swapped,
        budget,
        some: [fill_many.is_some() || any_sample(&many), fill_one.is_some() || any_sample(&one)],
        many: &many,
        one: &one,
        result: Block::empty(many.steps),
        rows: HashMap::with_capacity(many.len()),
    };
    if !pairing.some[0] || !pairing.some[1] {
        return Ok(pairing.result);
    }
    for (id, found) in matches.iter().enumerate() {
        budget.check()?;
        if !found.left.is_empty() && !found.right.is_empty() {
            pairing.check_unique(found)?;
        } else if found.left.is_empty() {
            pairing.check_one_side(found)?;
        }
        pairing.pair_all(id, found, fill_many, fill_one)?;
    }
    let mut result = pairing.result;
    result.drop_empty(budget)?;
    Ok(result)
}

fn any_sample(block: &Block<'_>) -> bool {
    block.len() > 0
}

struct Pairing<'b, 'a> {
    binary: &'b Binary,
    swapped: bool,
    budget: &'b Budget,
    some: [bool; 2],
    many: &'b Block<'a>,
    one: &'b Block<'a>,
    result: Block<'a>,
    /// Row of the result by its labels, and the match that made it.
    rows: HashMap<Labels, (usize, usize)>,
}

impl Pairing<'_, '_> {
    /// At no step two samples of the one side; and of the many side neither, if it is not many.
    fn check_unique(&self, found: &Match) -> Result<()> {
        self.check_one_side(found)?;
        if self.binary.matching.card != Cardinality::OneToOne || found.left.len() < 2 {
            return Ok(());
        }
        // Also where a comparison would filter all of them out: whether a query fails must not hang on values.
        for step in 0..self.many.steps {
            self.budget.check()?;
            let lefts = found.left.iter().filter(|&&r| present(self.many.row(r as usize)[step])).count();
            if lefts < 2 {
                continue;
            }
            let met = self.binary.matching.fill_right.is_some()
                || found.right.iter().any(|&r| present(self.one.row(r as usize)[step]));
            if met {
                return Err(Error::execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
        }
        Ok(())
    }

    fn check_one_side(&self, found: &Match) -> Result<()> {
        if found.right.len() < 2 {
            return Ok(());
        }
        for step in 0..self.one.steps {
            self.budget.check()?;
            let mut rows = found.right.iter().filter(|&&r| present(self.one.row(r as usize)[step]));
            let (Some(&a), Some(&b)) = (rows.next(), rows.next()) else { continue };
            // A step at which the other side has no sample at all is not looked at.
            let empty = (0..self.many.len()).all(|r| !present(self.many.row(r)[step]));
            if empty && self.binary.matching.fill_left.is_none() && self.binary.matching.fill_right.is_none()
            {
                continue;
            }
            let mut pair = [self.one.labels.get(a as usize), self.one.labels.get(b as usize)];
            pair.sort();
            let side = if self.swapped { "left" } else { "right" };
            return Err(Error::execution(format!(
                "found duplicate series for the match group {} on the {side} hand-side of the operation: \
                 [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                label_text(&found.signature),
                label_text(&pair[0]),
                label_text(&pair[1]),
            )));
        }
        Ok(())
    }

    fn pair_all(
        &mut self,
        id: usize,
        m: &Match,
        fill_many: Option<f64>,
        fill_one: Option<f64>,
    ) -> Result<()> {
        let steps = self.many.steps;
        for &l in &m.left {
            self.budget.check()?;
            let left_labels = self.many.labels.get(l as usize);
            let left = self.many.row(l as usize);
            let left_drops = self.many.drop_name[l as usize];
            for &r in &m.right {
                self.budget.check()?;
                let right = self.one.row(r as usize);
                let values: Vec<f64> = left.iter().zip(right).map(|(&a, &b)| self.value(a, b)).collect();
                self.emit(id, &left_labels, left_drops, &self.one_labels(r), &values)?;
            }
            if let Some(fill) = fill_one {
                let values: Vec<f64> = (0..steps)
                    .map(|s| {
                        let found = m.right.iter().any(|&r| present(self.one.row(r as usize)[s]));
                        if found { ABSENT } else { self.value(left[s], fill) }
                    })
                    .collect();
                self.emit(id, &left_labels, left_drops, &m.signature, &values)?;
            }
        }
        if let Some(fill) = fill_many {
            for &r in &m.right {
                let right = self.one.row(r as usize);
                let values: Vec<f64> = (0..steps)
                    .map(|s| {
                        let found = m.left.iter().any(|&l| present(self.many.row(l as usize)[s]));
                        if found { ABSENT } else { self.value(fill, right[s]) }
                    })
                    .collect();
                self.emit(id, &m.signature, false, &self.one_labels(r), &values)?;
            }
        }
        Ok(())
    }

    /// The labels of a row of the one side, if any are taken over.
    fn one_labels(&self, row: u32) -> Labels {
        match self.binary.matching.include.is_empty() {
            true => Labels::empty(),
            false => self.one.labels.get(row as usize),
        }
    }

    fn value(&self, many: f64, one: f64) -> f64 {
        if !present(many) || !present(one) {
            return ABSENT;
        }
        let (a, b) = if self.swapped { (one, many) } else { (many, one) };
        apply(self.binary.op, self.binary.return_bool, a, b)
    }

    /// Adds the samples of one pair to the result.
    fn emit(&mut self, id: usize, many: &Labels, drops: bool, one: &Labels, values: &[f64]) -> Result<()> {
        if !values.iter().any(|&v| present(v)) {
            return Ok(());
        }
        let labels = self.result_labels(many, one);
        let drops = self.binary.return_bool || (drops && arithmetic(self.binary.op).is_none());
        let Some(&(row, from)) = self.rows.get(&labels) else {
            // The table and the columns double as they grow.
            self.budget.hold(2 * (size_of_val(values) + labels.heap_bytes() + MATCH_BYTES / 2))?;
            self.rows.insert(labels.clone(), (self.result.len(), id));
            self.result.push(labels, drops, values);
            return Ok(());
        };
        for (into, &v) in self.result.row_mut(row).iter_mut().zip(values).filter(|(_, v)| present(**v)) {
            if present(*into) {
                return Err(if from == id && self.binary.matching.card != Cardinality::OneToOne {
                    Error::execution(
                        "multiple matches for labels: grouping labels must ensure unique matches",
                    )
                } else {
                    duplicate_labelset()
                });
            }
            *into = v;
        }
        Ok(())
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let matching = &self.binary.matching;
        let mut labels = many.clone();
        if arithmetic(self.binary.op).is_some() {
            labels = drop_metadata(&labels);
        }
        if let (Cardinality::OneToOne, Some(on)) = (matching.card, &matching.on) {
            labels = on.apply(&labels);
        }
        for name in &matching.include {
            labels = labels.with(name, one.value(name));
        }
        labels
    }
}
