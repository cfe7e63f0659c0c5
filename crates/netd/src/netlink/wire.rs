//! The bytes of netlink: messages with their headers, attributes with their padding, and the way back.

/// Length of `struct nlmsghdr`.
pub const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const ALIGNMENT: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that are flags, not type.
const ATTRIBUTE_FLAGS: u16 = 0b11 << 14;

/// Messages that are sent together, each with a few words that name it in an error.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    labels: Vec<String>,
}

impl Batch {
    /// Nothing to send yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message; `label` says in an error what was tried, `header` is the family's own fixed header.
    pub fn message(&mut self, label: impl Into<String>, kind: u16, flags: u16, header: &[u8]) -> Message<'_> {
        let start = self.bytes.len();
        self.labels.push(label.into());
        // Sequence numbers are the messages' places in the batch, from 1: an answer leads straight back to its label.
        let sequence = u32::try_from(self.labels.len()).expect("a batch has far fewer than 2^32 messages");
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        Message { bytes: &mut self.bytes, start }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What goes onto the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the message with this sequence number was for.
    pub fn label(&self, sequence: u32) -> &str {
        (sequence as usize).checked_sub(1).and_then(|place| self.labels.get(place)).map_or("the batch", String::as_str)
    }
}

/// Something that attributes can be put into.
pub trait Attributes: Sized {
    /// Where the bytes go.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// An attribute with these bytes.
    fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let bytes = self.bytes();
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("attributes are kept below 64 KiB");
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        pad(bytes);
        self
    }

    /// An attribute with a number in the machine's byte order.
    fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// An attribute with a number in network byte order, as nftables wants all of its numbers.
    fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// An attribute with a text and the zero byte at its end.
    fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut text = Vec::with_capacity(value.len() + 1);
        text.extend_from_slice(value.as_bytes());
        text.push(0);
        self.put(kind, &text)
    }

    /// An attribute that holds what `fill` puts into it.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Nested<'_>)) -> &mut Self {
        let bytes = self.bytes();
        let start = bytes.len();
        bytes.extend_from_slice(&0u16.to_ne_bytes());
        bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Nested { bytes });
        let length = u16::try_from(bytes.len() - start).expect("nested attributes are kept below 64 KiB");
        bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// One message of a batch; its length is written when it goes out of scope.
pub struct Message<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Attributes for Message<'_> {
    fn bytes(&mut self) -> &mut Vec<u8> {
        self.bytes
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start).expect("a message is far below 4 GiB");
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The inside of a nested attribute.
pub struct Nested<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Nested<'_> {
    /// Bytes that are no attribute: the fixed header that some nested attributes begin with.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        pad(self.bytes);
        self
    }
}

impl Attributes for Nested<'_> {
    fn bytes(&mut self) -> &mut Vec<u8> {
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// The messages of one datagram, as (type, sequence, payload); stops at the first malformed one.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER_BYTES)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let payload = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, sequence, payload))
    })
}

/// The attributes in `bytes`, as (type, value); stops at the first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.get(..ATTRIBUTE_HEADER_BYTES)?;
        let length = usize::from(u16::from_ne_bytes(header[0..2].try_into().ok()?));
        let kind = u16::from_ne_bytes(header[2..4].try_into().ok()?) & !ATTRIBUTE_FLAGS;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let mut batch = Batch::new();
        batch.message("first", 7, 1, &[1, 2, 3, 4]).put(1, b"abc").nest(2, |inside| {
            inside.put_u32(5, 99).put_text(6, "x");
        });
        batch.message("second", 8, 1, &[]).put(3, b"");
        let found: Vec<_> = messages(batch.bytes()).collect();
        assert_eq!(found.iter().map(|(kind, sequence, _)| (*kind, *sequence)).collect::<Vec<_>>(), [(7, 1), (8, 2)]);
        let first = &found[0].2[4..];
        assert_eq!(attribute(first, 1), Some(b"abc".as_slice()));
        let nested = attribute(first, 2).expect("it was put there");
        assert_eq!(attribute(nested, 5), Some(99u32.to_ne_bytes().as_slice()));
        assert_eq!(attribute(nested, 6), Some(b"x\0".as_slice()));
        assert_eq!((batch.label(2), batch.label(0), batch.label(9)), ("second", "the batch", "the batch"));
    }

    #[test]
    fn garbage_ends_the_reading() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
