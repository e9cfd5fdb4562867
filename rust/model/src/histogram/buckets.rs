//! The buckets of a histogram with their bounds, as people and APIs see them.

use super::{Counts, Histogram, Layout, SCHEMA_CUSTOM, indices};

/// Observations between two bounds. Counts are widened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
    pub count: f64,
}

impl Layout {
    /// The upper bound of a positive bucket: infinite for the last one.
    pub fn upper_bound(&self, index: i32) -> f64 {
        if self.schema == SCHEMA_CUSTOM {
            return match usize::try_from(index) {
                Ok(i) => self.custom_bounds.get(i).copied().unwrap_or(f64::INFINITY),
                Err(_) => f64::NEG_INFINITY,
            };
        }
        // The bucket that ends with the largest finite number stands before that of the infinite ones.
        let exponent = f64::from(index) * f64::from(-self.schema).exp2();
        if exponent == 1024.0 { f64::MAX } else { exponent.exp2() }
    }
}

impl Histogram {
    /// All buckets that hold something, from the lowest to the highest.
    pub fn filled_buckets(&self) -> Vec<Bucket> {
        let (zero, counts): (f64, Vec<f64>) = match &self.counts {
            Counts::Int(tally) => (tally.zero as f64, tally.buckets.iter().map(|&c| c as f64).collect()),
            Counts::Float(tally) => (tally.zero, tally.buckets.clone()),
        };
        let layout = &*self.layout;
        let (above, below) = counts.split_at((layout.bucket_counts().0 as usize).min(counts.len()));
        let negative = indices(&layout.negative).zip(below).filter(|(_, count)| **count != 0.0);
        let mut found: Vec<Bucket> = negative
            .map(|(i, &count)| Bucket {
                lower: -layout.upper_bound(i),
                upper: -layout.upper_bound(i - 1),
                lower_inclusive: true,
                upper_inclusive: false,
                count,
            })
            .collect();
        found.reverse();
        if zero != 0.0 {
            let width = layout.zero_threshold;
            found.push(Bucket {
                lower: -width,
                upper: width,
                lower_inclusive: true,
                upper_inclusive: true,
                count: zero,
            });
        }
        let positive = indices(&layout.positive).zip(above).filter(|(_, count)| **count != 0.0);
        found.extend(positive.map(|(i, &count)| Bucket {
            lower: layout.upper_bound(i - 1),
            upper: layout.upper_bound(i),
            lower_inclusive: layout.schema == SCHEMA_CUSTOM && i == 0,
            upper_inclusive: true,
            count,
        }));
        found
    }
}
