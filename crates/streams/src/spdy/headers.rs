//! Header blocks: name and value pairs, compressed with one zlib stream for each direction of a connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The most bytes that a header block may have once it is unpacked.
const MAX_BLOCK_BYTES: usize = 64 << 10;

/// The words of the dictionary that both sides start with; each stands there behind its length (draft 3, section 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges \
age allow authorization cache-control connection content-base content-encoding content-language content-length \
content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";
/// The rest of the dictionary.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split(' ') {
        put(&mut bytes, word.replace('_', " ").as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(text);
}

/// Why a header block cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SPDY header block: {0}")]
pub(crate) struct HeaderError(&'static str);

/// Reads the header blocks of one direction, in their order.
pub(crate) struct Reader {
    inflate: Decompress,
    dictionary: Vec<u8>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { inflate: Decompress::new(true), dictionary: dictionary() }
    }

    /// Unpacks one block; names come in lower case.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
        parse(&self.unpack(block)?)
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let (read, written) = (self.inflate.total_in(), plain.len());
            let outcome = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest = &rest[(self.inflate.total_in() - read) as usize..];
            match outcome {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&self.dictionary).map_err(|_| HeaderError("wrong dictionary"))?;
                    continue;
                }
                Err(_) => return Err(HeaderError("cannot be unpacked")),
            }
            if plain.len() > MAX_BLOCK_BYTES {
                return Err(HeaderError("too long"));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(plain.len());
            } else if rest.is_empty() || plain.len() == written {
                return Ok(plain);
            }
        }
    }
}

fn parse(plain: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
    let mut rest = plain;
    let count = number(&mut rest)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut rest)?;
        headers.push((name.to_ascii_lowercase(), text(&mut rest)?));
    }
    Ok(headers)
}

fn number(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(HeaderError("breaks off"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or(HeaderError("breaks off"))?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).map_err(|_| HeaderError("is no text"))
}

/// Writes the header blocks of one direction, in their order.
pub(crate) struct Writer {
    deflate: Compress,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).expect("a fresh compressor takes a dictionary");
        Self { deflate }
    }

    /// Packs one block.
    pub(crate) fn write(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = u32::try_from(headers.len()).map_err(|_| HeaderError("too long"))?.to_be_bytes().to_vec();
        for (name, value) in headers {
            put(&mut plain, name.as_bytes());
            put(&mut plain, value.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 128);
        self.deflate
            .compress_vec(&plain, &mut packed, FlushCompress::Sync)
            .map_err(|_| HeaderError("cannot be packed"))?;
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum that every SPDY/3 implementation's dictionary has: zlib sends it as the dictionary's name.
    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_read_back_in_their_order() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        for round in 0..3 {
            let value = format!("value-{round}");
            let packed = writer.write(&[("streamtype", "stdin"), ("x", &value)]).expect("short");
            let headers = reader.read(&packed).expect("valid");
            assert_eq!(headers, [("streamtype".into(), "stdin".into()), ("x".to_owned(), value)]);
        }
        assert!(Reader::new().read(b"nonsense").is_err());
    }
}
