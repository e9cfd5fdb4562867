//! Histograms that repeat the one before, bit for bit, are not written: only where the others stand. With an
//! observation in every third scrape that leaves a third of all columns.

use metricsdb_model::{Histogram, Result};

use crate::codec::cursor::{Cursor, put_varint};
use crate::codec::integers;

/// The histograms that are not as the one before, and their positions.
pub fn distinct(rows: &[Histogram]) -> (Vec<&Histogram>, Vec<i64>) {
    let is_new = |i: usize, h: &Histogram| i == 0 || rows.get(i - 1) != Some(h);
    let new = (0..).zip(rows).filter(|(i, h)| is_new(*i as usize, h));
    new.map(|(i, h)| (h, i)).unzip()
}

/// Appends the number of positions, and their column behind its length.
pub fn write(positions: &[i64], out: &mut Vec<u8>) {
    let mut column = Vec::new();
    integers::encode(positions, &mut column);
    put_varint(out, positions.len() as u64);
    put_varint(out, column.len() as u64);
    out.extend_from_slice(&column);
}

/// Which histograms of a chunk are written.
pub struct Repeats<'a> {
    pub kept: usize,
    /// The column of their positions; `None` where all are written.
    column: Option<Cursor<'a>>,
}

impl<'a> Repeats<'a> {
    pub fn none(count: usize) -> Repeats<'a> {
        Repeats { kept: count, column: None }
    }

    /// Errors: `Corruption`. Decodes nothing.
    pub fn parse(cursor: &mut Cursor<'a>, count: usize) -> Result<Repeats<'a>> {
        let kept = cursor.varint()?;
        if kept == 0 || kept > count as u64 {
            return Err(cursor.wrong("more histograms are written than there are"));
        }
        let n = cursor.count()?;
        let column = Some(Cursor::new(cursor.take(n)?));
        Ok(Repeats { kept: kept as usize, column })
    }

    /// For each position the number of the histogram that stands there, as written. Errors: `Corruption`.
    pub fn sources(&self, count: usize) -> Result<Vec<u32>> {
        let Some(mut column) = self.column else { return Ok((0..count as u32).collect()) };
        let mut positions: Vec<i64> = Vec::new();
        integers::decode(&mut column, 0, self.kept, &mut positions)?;
        positions.push(count as i64);
        let mut sources = Vec::new();
        for (source, w) in (0..).zip(positions.windows(2)) {
            if w[0] >= w[1] || w[1] > count as i64 {
                return Err(column.wrong("positions of histograms that don't increase"));
            }
            sources.resize(w[1] as usize, source);
        }
        Ok(sources)
    }
}
