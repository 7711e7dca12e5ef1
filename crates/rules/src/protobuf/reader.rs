//! The wire format: tags, varints, lengths.
//!
//! Invariants: never reads past its slice; every step forward consumes at least one byte.

use serde_json::{Number, Value};

use super::ProtobufError;

/// One field's bytes as the wire has them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Walks the fields of one message.
pub(super) struct Reader<'a> {
    message: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a str, bytes: &'a [u8]) -> Self {
        Self { message, bytes, at: 0 }
    }

    pub(super) fn message(&self) -> &'a str {
        self.message
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field, or nothing at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| self.malformed(0, "a field number is out of range"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed::<8>()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| self.truncated())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.fixed::<4>()?)),
            _ => return Err(self.malformed(number, "groups are not used by Kubernetes")),
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let end = self.at.checked_add(length).ok_or_else(|| self.truncated())?;
        let slice = self.bytes.get(self.at..end).ok_or_else(|| self.truncated())?;
        self.at = end;
        Ok(slice)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let slice = self.take(N)?;
        slice.try_into().map_err(|_| self.truncated())
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let [byte] = self.fixed::<1>()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift * 7).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed(0, "a number is longer than ten bytes"))
    }

    /// A bare varint, as packed lists have them.
    pub(super) fn varint_as_integer(&mut self) -> Result<i64, ProtobufError> {
        self.varint().map(signed)
    }

    pub(super) fn bytes(&self, number: u32, wire: Wire<'a>) -> Result<&'a [u8], ProtobufError> {
        match wire {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(self.malformed(number, "text or a message is expected")),
        }
    }

    pub(super) fn text(&self, number: u32, bytes: &'a [u8]) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(bytes).map_err(|_| self.malformed(number, "text is not UTF-8"))
    }

    pub(super) fn integer(&self, number: u32, wire: Wire<'_>) -> Result<i64, ProtobufError> {
        match wire {
            Wire::Varint(value) => Ok(signed(value)),
            _ => Err(self.malformed(number, "a whole number is expected")),
        }
    }

    pub(super) fn double(&self, number: u32, wire: Wire<'_>) -> Result<Value, ProtobufError> {
        let value = match wire {
            Wire::Fixed64(bits) => f64::from_bits(bits),
            Wire::Fixed32(bits) => f64::from(f32::from_bits(bits)),
            _ => return Err(self.malformed(number, "a number is expected")),
        };
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            #[allow(clippy::cast_possible_truncation)]
            return Ok(Value::from(value as i64));
        }
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| self.malformed(number, "infinity and NaN are not JSON numbers"))
    }

    fn truncated(&self) -> ProtobufError {
        ProtobufError::Truncated { message: self.message.to_owned(), at: self.at }
    }

    pub(super) fn malformed(&self, field: u32, problem: &str) -> ProtobufError {
        ProtobufError::Malformed { message: self.message.to_owned(), field, problem: problem.to_owned() }
    }
}

/// Negative numbers are written as their 64-bit two's complement.
fn signed(value: u64) -> i64 {
    i64::from_le_bytes(value.to_le_bytes())
}
