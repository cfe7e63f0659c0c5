//! Random-looking ids from a seed: object UIDs, name suffixes, container ids.
//! The generator is not for secrets; those come from the TLS stack's random source.

use parking_lot::Mutex;

/// The letters of generated name suffixes: no vowels and none of `0 1 3`, so that no words appear
/// (the alphabet of upstream's `generateName` and `pod-template-hash`).
pub const SAFE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A seeded source of ids that can be shared between threads.
#[derive(Debug)]
pub struct Ids {
    state: Mutex<u64>,
}

impl Ids {
    /// Ids that are the same in every run with the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }

    /// Ids seeded from the operating system, different in every process.
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // RandomState is seeded by the operating system; two of them give 64 independent bits.
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        Self::seeded(hasher.finish())
    }

    /// The next 64 bits (SplitMix64).
    pub fn next_u64(&self) -> u64 {
        let mut state = self.state.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A version-4 UUID in its usual text form.
    pub fn uid(&self) -> String {
        let (high, low) = (self.next_u64(), self.next_u64());
        let high = (high & !0xF000) | 0x4000;
        let low = (low & !(0b11 << 62)) | (0b10 << 62);
        let digits = (u128::from(high) << 64) | u128::from(low);
        let mut text = String::with_capacity(36);
        for index in (0..32).rev() {
            let digit = (digits >> (4 * index)) as u32 & 0xF;
            text.push(char::from_digit(digit, 16).expect("four bits are a digit"));
            if matches!(index, 24 | 20 | 16 | 12) {
                text.push('-');
            }
        }
        text
    }

    /// `length` letters of [`SAFE_ALPHABET`]; `generateName` appends five.
    pub fn suffix(&self, length: usize) -> String {
        (0..length).map(|_| self.pick(SAFE_ALPHABET) as char).collect()
    }

    /// `length` lower-case hexadecimal digits; container and sandbox ids have 64.
    pub fn hex(&self, length: usize) -> String {
        (0..length).map(|_| self.pick(b"0123456789abcdef") as char).collect()
    }

    fn pick(&self, alphabet: &[u8]) -> u8 {
        alphabet[(self.next_u64() % alphabet.len() as u64) as usize]
    }
}

/// A number written with the letters of [`SAFE_ALPHABET`] in place of its decimal digits, as the
/// `pod-template-hash` label and ControllerRevision names are.
pub fn safe_encode(number: u64) -> String {
    number.to_string().bytes().map(|digit| SAFE_ALPHABET[digit as usize % SAFE_ALPHABET.len()] as char).collect()
}

/// A short name for what these texts say, joined: their FNV-1a hash of 32 bits, by [`safe_encode`]. Nobody has a reason to
/// forge one.
pub fn hashed(parts: &[&str]) -> String {
    let (offset, prime) = (0x811c_9dc5_u32, 0x0100_0193_u32);
    let bytes = parts.iter().flat_map(|part| part.bytes());
    safe_encode(bytes.fold(offset, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(prime)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_a_version_4_uuid() {
        let uid = Ids::seeded(1).uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!(matches!(&uid[19..20], "8" | "9" | "a" | "b"));
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        assert_eq!(Ids::seeded(7).suffix(5), Ids::seeded(7).suffix(5));
        assert_ne!(Ids::seeded(7).suffix(5), Ids::seeded(8).suffix(5));
    }

    #[test]
    fn hashes_are_encoded_without_vowels() {
        assert!(safe_encode(1_234_567_890).bytes().all(|c| SAFE_ALPHABET.contains(&c)));
    }
}
