//! A protobuf wire-format reader over borrowed bytes: no schema, no allocation, no panic.
//!
//! Every message is a prefix-bounded view of the same body, so that positions in errors are offsets
//! into what the sender sent.

use metricsdb_model::Error;
pub use metricsdb_model::varint::put_varint;

/// Where and why the bytes are not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Offset in the body.
    pub at: usize,
    pub what: &'static str,
}

impl Broken {
    /// As the refusal of a whole body.
    pub fn refuse(self, input: &'static str, body: &[u8], remedy: &'static str) -> Error {
        Error::input(input, &format!("byte {} of {}", self.at, body.len()), self.what, remedy)
    }
}

/// What was read, or where the body is broken.
pub type Read<T> = Result<T, Broken>;

/// How a field's value is laid out (protobuf encoding, "message structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

/// Reads one message, field by field.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The body up to this message's end.
    bytes: &'a [u8],
    /// The whole body: a number at the end of a message is loaded with the bytes behind it.
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of a body.
    pub fn new(body: &'a [u8]) -> Reader<'a> {
        Reader { bytes: body, body, at: 0 }
    }

    /// Offset of the next byte in the body.
    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// True at the end of the message.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The bytes between two offsets that this reader returned.
    pub fn span(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or(&[])
    }

    /// Fails at this place.
    pub fn broken<T>(&self, what: &'static str) -> Read<T> {
        Err(Broken { at: self.at, what })
    }

    /// Takes the next byte if it is `expected`.
    #[inline(always)]
    pub fn take(&mut self, expected: u8) -> bool {
        let hit = self.bytes.get(self.at) == Some(&expected);
        self.at += usize::from(hit);
        hit
    }

    /// Passes over the length-delimited fields with this one-byte tag that follow each other here. Two
    /// bytes are looked at per field where its length is below 128.
    #[inline(always)]
    pub fn skip_all(&mut self, tag: u8) -> Read<()> {
        let mut at = self.at;
        loop {
            while let Some(&[t, length]) = self.bytes.get(at..).and_then(|b| b.first_chunk::<2>())
                && t == tag
                && length < 0x80
            {
                at += 2 + usize::from(length);
            }
            // A field that reaches past the end is found here: `at` is the next field's start.
            if at > self.bytes.len() {
                return self.broken("a length reaches past the end");
            }
            self.at = at;
            if !self.take(tag) {
                return Ok(());
            }
            self.skip(WireType::Bytes)?;
            at = self.at;
        }
    }

    /// A base-128 number of up to 64 bits.
    #[inline(always)]
    pub fn varint(&mut self) -> Read<u64> {
        match self.bytes.get(self.at) {
            Some(&b) if b < 0x80 => {
                self.at += 1;
                Ok(u64::from(b))
            }
            _ => self.varint_long(),
        }
    }

    /// Numbers of several bytes, all at once: eight bytes are loaded, cut behind the first one without the
    /// continuation bit, and their groups of seven bits pushed together.
    #[inline]
    fn varint_long(&mut self) -> Read<u64> {
        let Some(chunk) = self.body.get(self.at..).and_then(|b| b.first_chunk::<8>()) else {
            return self.varint_bytewise();
        };
        let x = u64::from_le_bytes(*chunk);
        let stops = !x & 0x8080_8080_8080_8080;
        if stops == 0 {
            return self.varint_bytewise();
        }
        let bits = stops.trailing_zeros() + 1;
        let end = self.at + (bits / 8) as usize;
        if end > self.bytes.len() {
            return self.broken("a number is cut off");
        }
        self.at = end;
        let x = x & (u64::MAX >> (64 - bits)) & 0x7f7f_7f7f_7f7f_7f7f;
        let x = (x & 0x007f_007f_007f_007f) | (x & 0x7f00_7f00_7f00_7f00) >> 1;
        let x = (x & 0x0000_3fff_0000_3fff) | (x & 0x3fff_0000_3fff_0000) >> 2;
        Ok((x & 0x0fff_ffff) | (x & 0x0fff_ffff_0000_0000) >> 4)
    }

    fn varint_bytewise(&mut self) -> Read<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(&b) = self.bytes.get(self.at) else {
                return self.broken("a number is cut off");
            };
            if shift == 63 && b > 1 {
                return self.broken("a number has more than 64 bits");
            }
            self.at += 1;
            value |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(value);
            }
        }
        self.broken("a number has more than 64 bits")
    }

    /// The next field's number and wire type.
    #[inline(always)]
    pub fn field(&mut self) -> Read<(u32, WireType)> {
        let start = self.at;
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            5 => WireType::Fixed32,
            _ => return Err(Broken { at: start, what: "a field has an unknown wire type" }),
        };
        match u32::try_from(tag >> 3) {
            Ok(number @ 1..=0x1fff_ffff) => Ok((number, wire)),
            _ => Err(Broken { at: start, what: "a field number is out of range" }),
        }
    }

    /// The end of a length-delimited value that starts here, its length read and checked.
    #[inline(always)]
    fn length(&mut self) -> Read<usize> {
        let start = self.at;
        let length = self.varint()?;
        let left = self.bytes.len() - self.at;
        if length > left as u64 {
            return Err(Broken { at: start, what: "a length reaches past the end" });
        }
        Ok(self.at + length as usize)
    }

    /// A nested message; this reader goes on behind it.
    #[inline(always)]
    pub fn message(&mut self) -> Read<Reader<'a>> {
        let end = self.length()?;
        let inner = Reader { bytes: self.bytes.get(..end).unwrap_or(&[]), body: self.body, at: self.at };
        self.at = end;
        Ok(inner)
    }

    /// A length-delimited value.
    #[inline(always)]
    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        let end = self.length()?;
        let value = self.bytes.get(self.at..end).unwrap_or(&[]);
        self.at = end;
        Ok(value)
    }

    /// Eight bytes, the lowest first.
    #[inline(always)]
    pub fn fixed64(&mut self) -> Read<u64> {
        match self.bytes.get(self.at..).and_then(|b| b.first_chunk::<8>()) {
            Some(b) => {
                self.at += 8;
                Ok(u64::from_le_bytes(*b))
            }
            None => self.broken("a 64-bit value is cut off"),
        }
    }

    /// Appends the numbers of a repeated field: one of its own, or all of them packed. Those that would make more
    /// than `max` and one are passed over: one byte of a body takes up to eight here.
    pub fn numbers<T>(
        &mut self,
        wire: WireType,
        max: usize,
        out: &mut Vec<T>,
        of: impl Fn(u64) -> T,
    ) -> Read<()> {
        let mut take = |number: u64| {
            if out.len() <= max {
                out.push(of(number));
            }
        };
        match wire {
            WireType::Varint => take(self.varint()?),
            WireType::Bytes => {
                let mut packed = self.message()?;
                while !packed.is_done() {
                    take(packed.varint()?);
                }
            }
            _ => return self.broken(WRONG_TYPE),
        }
        Ok(())
    }

    /// As `numbers`, for doubles.
    pub fn doubles(&mut self, wire: WireType, out: &mut Vec<f64>) -> Read<()> {
        match wire {
            WireType::Fixed64 => out.push(self.double(wire)?),
            WireType::Bytes => {
                let mut packed = self.message()?;
                while !packed.is_done() {
                    out.push(f64::from_bits(packed.fixed64()?));
                }
            }
            _ => return self.broken(WRONG_TYPE),
        }
        Ok(())
    }

    /// A double in a field that came in this wire type.
    pub fn double(&mut self, wire: WireType) -> Read<f64> {
        self.expect(wire, WireType::Fixed64)?;
        self.fixed64().map(f64::from_bits)
    }

    /// A number in a field that came in this wire type.
    pub fn number(&mut self, wire: WireType) -> Read<u64> {
        self.expect(wire, WireType::Varint)?;
        self.varint()
    }

    /// Bytes in a field that came in this wire type.
    pub fn bytes_in(&mut self, wire: WireType) -> Read<&'a [u8]> {
        self.expect(wire, WireType::Bytes)?;
        self.bytes()
    }

    /// Text in a field that came in this wire type; what is not UTF-8 is replaced.
    pub fn text_in(&mut self, wire: WireType) -> Read<String> {
        Ok(String::from_utf8_lossy(self.bytes_in(wire)?).into_owned())
    }

    /// A nested message in a field that came in this wire type.
    pub fn message_in(&mut self, wire: WireType) -> Read<Reader<'a>> {
        self.expect(wire, WireType::Bytes)?;
        self.message()
    }

    /// Passes over a value whose field nobody asked for.
    #[inline(always)]
    pub fn skip(&mut self, wire: WireType) -> Read<()> {
        match wire {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.fixed64().map(drop),
            WireType::Bytes => self.length().map(|end| self.at = end),
            WireType::Fixed32 if self.bytes.len() - self.at >= 4 => {
                self.at += 4;
                Ok(())
            }
            WireType::Fixed32 => self.broken("a 32-bit value is cut off"),
        }
    }

    /// Fails unless a known field came in the wire type that its schema gives it.
    #[inline(always)]
    pub fn expect(&self, wire: WireType, expected: WireType) -> Read<()> {
        if wire == expected { Ok(()) } else { self.broken(WRONG_TYPE) }
    }
}

const WRONG_TYPE: &str = "a field has another type than its schema says";

/// What a number whose sign is its lowest bit stands for.
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Appends a number as a field.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

/// Appends a double as a field.
pub fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    put_varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_oversized_ones_are_refused() {
        for bits in 0..=64u32 {
            for v in [
                u64::MAX.checked_shr(64 - bits).unwrap_or(0),
                1u64.checked_shl(bits).unwrap_or(0),
                0x0123_4567_89ab_cdef,
            ] {
                let mut b = Vec::new();
                put_varint(&mut b, v);
                let length = b.len();
                for cut in 0..length {
                    assert!(Reader::new(&b[..cut]).varint().is_err());
                }
                // Alone the last bytes of a body, and with more behind.
                for _ in 0..2 {
                    let mut r = Reader::new(&b);
                    assert_eq!((r.varint(), r.at()), (Ok(v), length), "{v:#x}");
                    b.extend([0xff; 12]);
                }
            }
        }
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        let mut too_big = [0xff; 10];
        too_big[9] = 0x02;
        assert!(Reader::new(&too_big).varint().is_err());
    }

    #[test]
    fn a_number_may_not_reach_past_its_message() {
        let body = [0x0a, 0x02, 0x08, 0x80, 0x01, 0, 0, 0, 0, 0, 0, 0];
        let mut outer = Reader::new(&body);
        outer.field().unwrap();
        let mut inner = outer.message().unwrap();
        inner.field().unwrap();
        assert_eq!(inner.varint(), Err(Broken { at: 3, what: "a number is cut off" }));
    }

    #[test]
    fn a_length_past_the_end_of_its_message_is_refused() {
        // The inner message claims two bytes; its field claims three, which the body would have.
        let body = [0x0a, 0x02, 0x0a, 0x03, 1, 2, 3];
        let mut outer = Reader::new(&body);
        outer.field().unwrap();
        let mut inner = outer.message().unwrap();
        inner.field().unwrap();
        assert_eq!(inner.bytes(), Err(Broken { at: 3, what: "a length reaches past the end" }));
    }

    #[test]
    fn groups_and_field_zero_are_refused() {
        for tag in [0x00u8, 0x02, 0x0b, 0x0c, 0x0e, 0x0f] {
            assert!(Reader::new(&[tag, 0]).field().is_err(), "tag {tag:#x}");
        }
    }
}
