//! Which value codec a chunk gets. Decimals first, since they are smallest whenever they fit; then the
//! readings for products, sums and averages; bits of doubles when no reading fits or mantissas are long.

use metricsdb_model::ValueKind;

use super::decimal::{self, Mantissas, Reading};
use super::values;

/// Mantissas of as many bytes a value may be larger than the doubles' own bits: both are tried.
const LONG_BYTES: usize = 4;

/// Appends the value section of a chunk with at least one value.
pub fn encode(kind: ValueKind, bits: &[u64], out: &mut Vec<u8>) {
    let Some(&first) = bits.first() else { return };
    if bits.iter().all(|&b| b == first) {
        return values::encode_constant(first, out);
    }
    if kind == ValueKind::Int {
        return values::encode_integers(bits, out);
    }
    let start = out.len();
    let Some(found) = mantissas(bits) else { return values::encode_bits(bits, out) };
    values::encode_decimals(&found, bits, out);
    if out.len() - start > LONG_BYTES * bits.len() {
        let mut other = Vec::new();
        values::encode_bits(bits, &mut other);
        if other.len() < out.len() - start {
            out.truncate(start);
            out.extend_from_slice(&other);
        }
    }
}

/// The reading with the fewest exceptions; the plainer one of two that are equal.
fn mantissas(bits: &[u64]) -> Option<Mantissas> {
    let mut best: Option<Mantissas> = None;
    for reading in [Reading::Quotient, Reading::Product, Reading::Near] {
        let Some(found) = decimal::read(bits, reading) else { continue };
        let plain = found.exceptions.iter().all(|&i| decimal::is_special(bits[i as usize]));
        if best.as_ref().is_none_or(|b| found.exceptions.len() < b.exceptions.len()) {
            best = Some(found);
        }
        if plain {
            break;
        }
    }
    best
}
