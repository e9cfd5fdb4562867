//! Binary operators between two vectors: how samples find each other, and what the result is called.

use std::collections::HashMap;

use metricsdb_model::{Budget, Error, Freed, Grouping, Groups, Labels, Numbered, Result};

use super::binary::{apply, arithmetic, blank};
use super::block::{ABSENT, Block, duplicate_labelset, present};
use super::cells::{Cell, CellRow, bytes};
use super::labels::{drop_metadata, label_text, meant};
use super::mixed::{Remarks, Sample, has_answer, operate};
use crate::syntax::tree::{Binary, BinaryOp, Cardinality, Matching};

/// The labels on which samples match.
fn signature(matching: &Matching) -> Grouping {
    meant(matching.on.as_ref().unwrap_or(&Grouping::Without(Vec::new())))
}

/// How the rows of two sides find each other: those that share a signature are a match.
pub(crate) struct Matches {
    signatures: Freed<Labels>,
    left: Sides,
    right: Sides,
}

/// The rows of one side, those of one match after the other.
struct Sides {
    /// The match of each row.
    of: Vec<u32>,
    rows: Vec<u32>,
    /// Where the rows of each match begin; and where the last ones end.
    begins: Vec<u32>,
}

/// One match: its rows on both sides, in order.
#[derive(Clone, Copy)]
pub(crate) struct Match<'m> {
    signature: &'m Labels,
    pub left: &'m [u32],
    pub right: &'m [u32],
}

/// What a match takes in a table and in columns, beside the text of its signature; and a row.
const MATCH_BYTES: usize = 128;
const ROW_BYTES: usize = 16;

impl Sides {
    fn new(of: Vec<u32>, matches: usize) -> Sides {
        let mut begins = vec![0u32; matches + 1];
        for &m in &of {
            begins[m as usize + 1] += 1;
        }
        for m in 0..matches {
            begins[m + 1] += begins[m];
        }
        let (mut next, mut rows) = (begins.clone(), vec![0u32; of.len()]);
        for (row, &m) in of.iter().enumerate() {
            rows[next[m as usize] as usize] = row as u32;
            next[m as usize] += 1;
        }
        Sides { of, rows, begins }
    }

    fn rows(&self, m: usize) -> &[u32] {
        &self.rows[self.begins[m] as usize..self.begins[m + 1] as usize]
    }
}

impl Matches {
    pub fn new(left: &Block<'_>, right: &Block<'_>, matching: &Matching, budget: &Budget) -> Result<Matches> {
        let grouping = signature(matching);
        let (ours, theirs) = (left.labels.group(&grouping, budget)?, right.labels.group(&grouping, budget)?);
        let groups = ours.labels.len() + theirs.labels.len();
        budget.hold(groups * MATCH_BYTES + (left.len() + right.len()) * ROW_BYTES)?;
        let mut matches = Numbered::with_capacity(groups);
        let mut number = |groups: Groups| {
            let mut sets = Freed(groups.labels);
            let mut of_group = Vec::with_capacity(sets.0.len());
            for (i, labels) in sets.0.iter_mut().enumerate() {
                budget.check_at(i)?;
                of_group.push(matches.number(std::mem::take(labels)));
            }
            Ok(groups.of.into_iter().map(|g| of_group[g as usize]).collect::<Vec<u32>>())
        };
        let (of_left, of_right) = (number(ours)?, number(theirs)?);
        let signatures = Freed(matches.into_sets());
        let count = signatures.0.len();
        budget.check()?;
        Ok(Matches { signatures, left: Sides::new(of_left, count), right: Sides::new(of_right, count) })
    }

    pub fn iter(&self) -> impl Iterator<Item = Match<'_>> {
        let at = |(m, signature)| Match { signature, left: self.left.rows(m), right: self.right.rows(m) };
        self.signatures.0.iter().enumerate().map(at)
    }
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
    let matches = Matches::new(&left, &right, matching, budget)?;
    budget.check()?;
    // Of every match the steps at which its rows have a sample.
    let seen = |block: &Block<'_>, sides: &Sides| {
        budget.hold(matches.signatures.0.len() * steps)?;
        let mut seen = vec![false; matches.signatures.0.len() * steps];
        for (row, &m) in sides.of.iter().enumerate() {
            budget.check_at(row)?;
            let seen = &mut seen[m as usize * steps..(m as usize + 1) * steps];
            seen.iter_mut().zip(block.row(row)).for_each(|(seen, v)| *seen |= present(*v));
            seen.iter_mut().zip(block.cells.row(row)).for_each(|(seen, cell)| *seen |= cell.is_some());
        }
        Ok(seen)
    };
    if op == BinaryOp::Or {
        let (seen, of) = (seen(&left, &matches.left)?, &matches.right.of);
        blank(&mut right, budget, |row, step| !seen[of[row] as usize * steps + step])?;
        return join(left, right, budget);
    }
    let (seen, of) = (seen(&right, &matches.right)?, &matches.left.of);
    let wanted = op == BinaryOp::And;
    blank(&mut left, budget, |row, step| seen[of[row] as usize * steps + step] == wanted)?;
    Ok(left)
}

/// All rows of both; rows with the same labels become one, or fail.
pub(crate) fn join<'a>(mut left: Block<'a>, mut right: Block<'a>, budget: &Budget) -> Result<Block<'a>> {
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
    left.cells.append(left.drop_name.len(), right.cells);
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
    remarks: Remarks<'_>,
) -> Result<Block<'a>> {
    // From here on the right side is the one whose samples must be unique.
    let swapped = binary.matching.card == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    // As in Prometheus, fill_left means the many side and fill_right the one side, also when swapped.
    let (fill_many, fill_one) = (binary.matching.fill_left, binary.matching.fill_right);
    let matches = Matches::new(&many, &one, &binary.matching, budget)?;
    let mut pairing = Pairing {
        binary,
        swapped,
        budget,
        remarks,
        plain: many.cells.is_empty() && one.cells.is_empty() && has_numbers(binary.op),
        many: &many,
        one: &one,
        result: Block::empty(many.steps),
        rows: HashMap::with_capacity(many.len()),
    };
    // With nothing on one side and no fill there is no pair, and duplicates don't matter.
    if (many.len() == 0 || one.len() == 0) && fill_many.is_none() && fill_one.is_none() {
        return Ok(pairing.result);
    }
    for (id, found) in matches.iter().enumerate() {
        budget.check()?;
        pairing.check_unique(found)?;
        pairing.pair_all(id, found, fill_many, fill_one)?;
    }
    let mut result = pairing.result;
    result.drop_empty(budget)?;
    Ok(result)
}

/// Whether the operator has a meaning for two numbers.
fn has_numbers(op: BinaryOp) -> bool {
    !matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// One side of a pair of rows.
#[derive(Clone, Copy)]
enum Operand<'b> {
    Row(&'b [f64], &'b [Cell]),
    /// Stands for samples that are missing.
    Fill(f64),
}

impl<'b> Operand<'b> {
    fn of(block: &'b Block<'_>, row: u32) -> Operand<'b> {
        Operand::Row(block.row(row as usize), block.cells.row(row as usize))
    }

    fn at(self, step: usize) -> Option<Sample<'b>> {
        match self {
            Operand::Fill(value) => Some(Sample::Number(value)),
            Operand::Row(values, cells) => match cells.get(step).and_then(Option::as_ref) {
                Some(histogram) => Some(Sample::Histogram(histogram)),
                None => Some(values[step]).filter(|v| present(*v)).map(Sample::Number),
            },
        }
    }
}

struct Pairing<'b, 'a> {
    binary: &'b Binary,
    swapped: bool,
    budget: &'b Budget,
    remarks: Remarks<'b>,
    /// Both sides are numbers, and the operator takes numbers.
    plain: bool,
    many: &'b Block<'a>,
    one: &'b Block<'a>,
    result: Block<'a>,
    /// Row of the result by its labels, and the match that made it.
    rows: HashMap<Labels, (usize, usize)>,
}

impl Pairing<'_, '_> {
    /// At no step two samples of the one side; and of the many side neither, if it is not many.
    fn check_unique(&self, found: Match<'_>) -> Result<()> {
        self.check_one_side(found)?;
        if self.binary.matching.card != Cardinality::OneToOne || found.left.len() < 2 {
            return Ok(());
        }
        // Also where a comparison would filter all of them out: whether a query fails must not hang on values.
        for step in 0..self.many.steps {
            self.budget.check()?;
            let partner = found.right.iter().find_map(|&r| Operand::of(self.one, r).at(step));
            let Some(one) = partner.or(self.binary.matching.fill_right.map(Sample::Number)) else { continue };
            let met = |&&l: &&u32| Operand::of(self.many, l).at(step).is_some_and(|many| self.met(many, one));
            if found.left.iter().filter(met).count() > 1 {
                return Err(Error::execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
        }
        Ok(())
    }

    /// Whether a sample of the many side and one of the one side are a match.
    fn met(&self, many: Sample<'_>, one: Sample<'_>) -> bool {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        has_answer(self.binary.op, left, right)
    }

    fn check_one_side(&self, found: Match<'_>) -> Result<()> {
        if found.right.len() < 2 {
            return Ok(());
        }
        for step in 0..self.one.steps {
            self.budget.check()?;
            let mut rows = found.right.iter().filter(|&&r| self.one.has(r as usize, step));
            let (Some(&a), Some(&b)) = (rows.next(), rows.next()) else { continue };
            // A step at which the other side has no sample at all is not looked at.
            let empty = (0..self.many.len()).all(|r| !self.many.has(r, step));
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
                label_text(found.signature),
                label_text(&pair[0]),
                label_text(&pair[1]),
            )));
        }
        Ok(())
    }

    fn pair_all(
        &mut self,
        id: usize,
        m: Match<'_>,
        fill_many: Option<f64>,
        fill_one: Option<f64>,
    ) -> Result<()> {
        let (many, one) = (self.many, self.one);
        for &l in m.left {
            self.budget.check()?;
            let left_labels = many.labels.get(l as usize);
            let left = Operand::of(many, l);
            let left_drops = many.drop_name[l as usize];
            for &r in m.right {
                self.budget.check()?;
                let samples = self.combine(left, Operand::of(one, r), |_| true);
                self.emit(id, &left_labels, left_drops, &self.one_labels(r), samples)?;
            }
            if let Some(fill) = fill_one {
                let alone = |step| !m.right.iter().any(|&r| one.has(r as usize, step));
                let samples = self.combine(left, Operand::Fill(fill), alone);
                self.emit(id, &left_labels, left_drops, m.signature, samples)?;
            }
        }
        if let Some(fill) = fill_many {
            for &r in m.right {
                let met = |l, step| {
                    let pair = Operand::of(many, l).at(step).zip(Operand::of(one, r).at(step));
                    pair.is_some_and(|(many, one)| self.met(many, one))
                };
                let alone = |step| !m.left.iter().any(|&l| met(l, step));
                let samples = self.combine(Operand::Fill(fill), Operand::of(one, r), alone);
                self.emit(id, m.signature, false, &self.one_labels(r), samples)?;
            }
        }
        Ok(())
    }

    /// The samples of a pair of rows at the steps that are wanted.
    fn combine(
        &self,
        many: Operand<'_>,
        one: Operand<'_>,
        wanted: impl Fn(usize) -> bool,
    ) -> (Vec<f64>, CellRow) {
        let steps = self.many.steps;
        if let (true, Operand::Row(a, _), Operand::Row(b, _)) = (self.plain, many, one) {
            return (a.iter().zip(b).map(|(&a, &b)| self.value(a, b)).collect(), CellRow::new());
        }
        let (mut values, mut cells) = (vec![ABSENT; steps], CellRow::new());
        for step in 0..steps {
            let (Some(a), Some(b)) = (many.at(step), one.at(step)) else { continue };
            if !wanted(step) {
                continue;
            }
            if let (Sample::Number(a), Sample::Number(b), true) = (a, b, has_numbers(self.binary.op)) {
                values[step] = self.value(a, b);
                continue;
            }
            let (left, right) = if self.swapped { (b, a) } else { (a, b) };
            let result = operate(self.binary.op, left, right, &self.remarks);
            let (value, cell) = result.finish(self.binary.return_bool, left);
            values[step] = value;
            if cell.is_some() {
                cells.resize(steps, None);
                cells[step] = cell;
            }
        }
        (values, cells)
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
    fn emit(
        &mut self,
        id: usize,
        many: &Labels,
        drops: bool,
        one: &Labels,
        (values, cells): (Vec<f64>, CellRow),
    ) -> Result<()> {
        if !values.iter().any(|&v| present(v)) && cells.is_empty() {
            return Ok(());
        }
        let labels = self.result_labels(many, one);
        let drops = match self.binary.keep_name {
            true => drops,
            false => self.binary.return_bool || (drops && arithmetic(self.binary.op).is_none()),
        };
        let Some(&(row, from)) = self.rows.get(&labels) else {
            // The table and the columns double as they grow.
            let held = size_of_val(&values[..]) + bytes(&cells) + labels.heap_bytes() + MATCH_BYTES / 2;
            self.budget.hold(2 * held)?;
            self.rows.insert(labels.clone(), (self.result.len(), id));
            self.result.push_mixed(labels, drops, &values, cells);
            return Ok(());
        };
        let cells = cells.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        for (step, (value, cell)) in values.into_iter().zip(cells).enumerate() {
            let cell = cell.flatten();
            if !present(value) && cell.is_none() {
                continue;
            }
            if self.result.has(row, step) {
                return Err(if from == id && self.binary.matching.card != Cardinality::OneToOne {
                    Error::execution(
                        "multiple matches for labels: grouping labels must ensure unique matches",
                    )
                } else {
                    duplicate_labelset()
                });
            }
            self.result.put(row, step, value, cell);
        }
        Ok(())
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let matching = &self.binary.matching;
        let mut labels = many.clone();
        if arithmetic(self.binary.op).is_some() && !self.binary.keep_name {
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
