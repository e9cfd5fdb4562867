//! Chunks of whole series: how one goes on, how long columns are cut, and how old ones become dense.

use metricsdb_model::{Result, ValueKind};

use super::{BLOCK_SAMPLES, Builder, Chunk, SharedColumns};

/// The last chunk of a series with samples added behind it, as one chunk; `None` where another has to begin.
pub fn grown(
    last: &Chunk,
    kind: ValueKind,
    times: &[i64],
    bits: &[u64],
    shared: &SharedColumns,
) -> Result<Option<Chunk>> {
    if last.kind() != kind || last.is_dense() {
        return Ok(None);
    }
    let mut builder = Builder::of(last)?;
    if builder.fits(times) {
        builder.append(times, bits)?;
        return Ok(Some(builder.finish(shared)));
    }
    if last.count() >= BLOCK_SAMPLES || last.count() + times.len() > 2 * BLOCK_SAMPLES {
        return Ok(None);
    }
    // A short chunk that can't go on as it is, since times are no longer regular, is written anew.
    let (mut all_times, mut all_bits) = (Vec::new(), Vec::new());
    last.decode_into(&mut all_times, &mut all_bits)?;
    all_times.extend_from_slice(times);
    all_bits.extend_from_slice(bits);
    Ok(Some(Builder::new(kind, &all_times, &all_bits).finish(shared)))
}

/// Columns of any length as chunks of the usual size.
pub fn chunks_of(kind: ValueKind, times: &[i64], bits: &[u64], shared: &SharedColumns) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut open: Option<Builder> = None;
    for (times, bits) in times.chunks(BLOCK_SAMPLES).zip(bits.chunks(BLOCK_SAMPLES)) {
        match &mut open {
            Some(builder) if builder.fits(times) => builder.append(times, bits)?,
            _ => chunks.extend(open.replace(Builder::new(kind, times, bits)).map(|b| b.finish(shared))),
        }
    }
    chunks.extend(open.map(|b| b.finish(shared)));
    Ok(chunks)
}

/// The samples of neighbouring chunks of one kind as one dense chunk. Errors: `Corruption`.
pub fn dense(kind: ValueKind, chunks: &[Chunk], shared: &SharedColumns) -> Result<Chunk> {
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    for chunk in chunks {
        chunk.decode_into(&mut times, &mut bits)?;
    }
    Ok(Builder::dense(kind, &times, &bits).finish(shared))
}
