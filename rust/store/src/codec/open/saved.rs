//! The state of an open chunk as bytes, for a checkpoint.

use metricsdb_model::{Error, Result};

use super::parameters::Parameters;
use super::read::Reader;
use super::{FRAME, INT, NEAR, OPEN_SAMPLES_MAX, OpenState, RAW, UINT};
use crate::codec::cursor::Cursor;

/// Bytes of a saved state.
pub const STATE_BYTES: usize = 39;

impl OpenState {
    pub fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last_time.to_le_bytes());
        out.extend_from_slice(&self.last_bits.to_le_bytes());
        self.parameters.save(out);
        for short in [self.used_bits, self.count, self.run] {
            out.extend_from_slice(&short.to_le_bytes());
        }
        out.extend_from_slice(&[self.mode, self.codes]);
    }

    /// The state that `save` wrote of the chunk with these bytes, which is decoded once. Errors: `Corruption`.
    pub fn restore(saved: &[u8], buf: &[u8]) -> Result<OpenState> {
        let mut c = Cursor::new(saved);
        let state = OpenState {
            last_time: c.word(8)? as i64,
            last_bits: c.word(8)?,
            parameters: Parameters::restore(&mut c)?,
            used_bits: c.word(2)? as u16,
            count: c.word(2)? as u16,
            run: c.word(2)? as u16,
            mode: c.byte()?,
            codes: c.byte()?,
        };
        let wrong = |message: &str| Error::corruption("open chunk", 0, message);
        let known =
            matches!(state.mode, 0..=14 | RAW | INT..=UINT) || (NEAR..=NEAR | 14).contains(&state.mode);
        let count = state.count();
        let fits = usize::from(state.codes) < 2 * FRAME && (1..=OPEN_SAMPLES_MAX).contains(&count);
        if !known || !fits || state.run >= state.count {
            return Err(wrong("a state that no chunk has"));
        }
        if state.used_bytes() > buf.len() {
            return Err(wrong("fewer bytes than the state says"));
        }
        let mut reader = Reader::new(&state, buf)?.ok_or_else(|| wrong("no sample"))?;
        while reader.advance()? {}
        match reader.ends_as(&state, state.run_start()) {
            true => Ok(state),
            false => Err(wrong("the state is another than its bytes say")),
        }
    }
}
