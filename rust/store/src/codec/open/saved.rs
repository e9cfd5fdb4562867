//! The state of an open chunk as bytes, for a checkpoint.

use metricsdb_model::{Error, Result};

use super::{INT, IRREGULAR, NEAR, OPEN_SAMPLES_MAX, OpenState, UINT, XOR, decode};
use crate::codec::cursor::Cursor;

/// Bytes of a saved state.
pub const STATE_BYTES: usize = 40;
/// Rice codes have parameters below this.
const RICE_MAX: u8 = 63;

impl OpenState {
    pub fn save(&self, out: &mut Vec<u8>) {
        for word in [self.last_time as u64, self.last_bits, self.slope as u64] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.step.to_le_bytes());
        out.extend_from_slice(&self.used_bits.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.run.to_le_bytes());
        out.extend_from_slice(&[self.mode, self.class, self.value_rice, self.time_rice]);
    }

    /// The state that `save` wrote of the chunk with these bytes, which is decoded once. Errors: `Corruption`.
    pub fn restore(saved: &[u8], buf: &[u8], times: &mut Vec<i64>, bits: &mut Vec<u64>) -> Result<OpenState> {
        let mut c = Cursor::new(saved);
        let state = OpenState {
            last_time: c.word(8)? as i64,
            last_bits: c.word(8)?,
            slope: c.word(8)? as i64,
            step: c.word(4)? as u32,
            used_bits: c.word(4)? as u32,
            count: c.word(2)? as u16,
            run: c.word(2)? as u16,
            mode: c.byte()?,
            class: c.byte()?,
            value_rice: c.byte()?,
            time_rice: c.byte()?,
        };
        let wrong = |message: &str| Error::corruption("open chunk", 0, message);
        let known =
            matches!(state.mode, 0..=14 | XOR | INT..=UINT) || (NEAR..=NEAR | 14).contains(&state.mode);
        let small = state.class <= IRREGULAR && state.value_rice <= RICE_MAX && state.time_rice <= RICE_MAX;
        let count = usize::from(state.count);
        if !known || !small || count == 0 || count > OPEN_SAMPLES_MAX || state.run >= state.count {
            return Err(wrong("a state that no chunk has"));
        }
        if state.used_bytes() > buf.len() {
            return Err(wrong("fewer bytes than the state says"));
        }
        times.clear();
        bits.clear();
        decode(&state, buf, times, bits)?;
        let ends = times.last() == Some(&state.last_time) && bits.last() == Some(&state.last_bits);
        match ends && times.len() == count {
            true => Ok(state),
            false => Err(wrong("the state is another than its bytes say")),
        }
    }
}
