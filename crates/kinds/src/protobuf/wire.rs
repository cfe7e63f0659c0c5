//! The wire format: tags, varints and lengths.

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;
/// The most bytes that a varint of 64 bits has.
const VARINT_LIMIT_BYTES: usize = 10;

/// A field's value as it came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    /// A whole number or a boolean.
    Varint(u64),
    /// A floating-point number's bits.
    Fixed64(u64),
    /// 32 bits, which no type of the API uses.
    Fixed32,
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

/// A whole number; negative ones take ten bytes, whatever their type.
pub(crate) fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    varint(out, value as u64);
}

pub(crate) fn double(out: &mut Vec<u8>, number: u32, value: f64) {
    tag(out, number, FIXED64);
    out.extend(value.to_bits().to_le_bytes());
}

pub(crate) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

pub(crate) fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

/// A field whose content `write` appends: its length is put in front afterwards, so that nothing is copied where the
/// content is short.
pub(crate) fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, number, BYTES);
    let start = out.len();
    out.push(0);
    write(out);
    let size = out.len() - start - 1;
    if size < 0x80 {
        out[start] = size as u8;
        return;
    }
    let mut length = Vec::with_capacity(VARINT_LIMIT_BYTES);
    varint(&mut length, size as u64);
    out.splice(start..=start, length);
}

/// What stands before a content of that size.
pub(crate) fn nested_head(out: &mut Vec<u8>, number: u32, size: usize) {
    tag(out, number, BYTES);
    varint(out, size as u64);
}

/// How many bytes a field takes whose content has that size.
pub(crate) fn nested_size(number: u32, size: usize) -> usize {
    varint_size(u64::from(number) << 3) + varint_size(size as u64) + size
}

fn varint_size(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The fields of a message in their order; `None` once where it is malformed.
pub(crate) fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<(u32, Value<'_>)>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

/// The varints of a packed list.
pub(crate) fn packed(mut rest: &[u8]) -> Option<Vec<u64>> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        out.push(read_varint(&mut rest)?);
    }
    Some(out)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for index in 0..VARINT_LIMIT_BYTES {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(size)?;
    *rest = tail;
    Some(taken)
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let tag = read_varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
    let value = match (tag & 7) as u8 {
        VARINT => Value::Varint(read_varint(rest)?),
        FIXED64 => Value::Fixed64(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)),
        BYTES => {
            let size = usize::try_from(read_varint(rest)?).ok()?;
            Value::Bytes(take(rest, size)?)
        }
        FIXED32 => {
            take(rest, 4)?;
            Value::Fixed32
        }
        _ => return None,
    };
    Some((number, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        integer(&mut out, 1, -1);
        integer(&mut out, 200, 300);
        double(&mut out, 3, 1.5);
        text(&mut out, 4, "x");
        let read: Vec<_> = fields(&out).collect();
        let want = [
            (1, Value::Varint(u64::MAX)),
            (200, Value::Varint(300)),
            (3, Value::Fixed64(1.5f64.to_bits())),
            (4, Value::Bytes(b"x")),
        ];
        assert_eq!(read, want.map(Some));
    }

    #[test]
    fn what_is_malformed_ends() {
        for bytes in [&[0x0a, 5, 1][..], &[0xff; 12], &[0x00, 1], &[0x0b], &[0x09, 1]] {
            assert_eq!(fields(bytes).last(), Some(None), "{bytes:?}");
        }
    }
}
