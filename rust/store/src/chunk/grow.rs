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
    chunks_from(None, kind, times, bits, shared)
}

/// Columns of any length behind a chunk: whether that goes on, so that the first of the chunks stands in its place.
pub fn chunks_behind(
    last: Option<&Chunk>,
    kind: ValueKind,
    times: &[i64],
    bits: &[u64],
    shared: &SharedColumns,
) -> Result<(bool, Vec<Chunk>)> {
    let last = last.filter(|last| last.kind() == kind && !last.is_dense());
    let room = last.map_or(0, |last| BLOCK_SAMPLES - last.count() % BLOCK_SAMPLES).min(times.len());
    let room = room.min(bits.len());
    let all = (times, bits);
    let (times, bits) = (times.split_at(room), bits.split_at(room));
    let Some(mut open) = last.map(Builder::of).transpose()?.filter(|builder| builder.fits(times.0)) else {
        return Ok((false, chunks_of(kind, all.0, all.1, shared)?));
    };
    open.append(times.0, bits.0)?;
    Ok((true, chunks_from(Some(open), kind, times.1, bits.1, shared)?))
}

fn chunks_from(
    mut open: Option<Builder>,
    kind: ValueKind,
    times: &[i64],
    bits: &[u64],
    shared: &SharedColumns,
) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
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
