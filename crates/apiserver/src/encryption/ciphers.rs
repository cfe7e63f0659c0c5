//! The ciphers that stored values are encrypted with, each in upstream's layout, so that a store may move. What a key is
//! called and in which order keys are tried is no business of this file.

use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser, InnerIvInit,
    KeyInit, KeyIvInit, StreamCipher, consts::U16,
};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use poly1305::Poly1305;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use ring::rand::{SecureRandom, SystemRandom};
use salsa20::XSalsa20;

/// AES works on blocks of so many bytes, and an initialization vector is one block.
const BLOCK_BYTES: usize = 16;
/// XSalsa20's nonce.
const XNONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// A derived key, a seed at least, and what a key is derived with.
pub const SEED_BYTES: usize = 32;

const TOO_SHORT: &str = "the stored data was shorter than the required size";

/// Why a value could not be made, or read.
pub type Result<T, E = String> = std::result::Result<T, E>;

/// A cipher with its key.
pub enum Cipher {
    /// AES in cipher block chaining, padded after PKCS#7; the place of a value is not authenticated.
    Cbc(Box<AesKey>),
    /// AES in Galois counter mode, with the place of the value as associated data.
    Gcm(Box<LessSafeKey>),
    /// The same with a key of 24 bytes, which the library of the others does not take.
    Gcm192(Box<Gcm192>),
    /// XSalsa20 and Poly1305, as in NaCl's `secretbox`; the place of a value is not authenticated.
    Secretbox(Box<[u8; 32]>),
    /// A key for each value, derived from a seed, for AES-GCM.
    Seed(Box<Prk>),
}

type Gcm192 = aes_gcm::AesGcm<Aes192, U12>;

/// An AES key of any size, expanded.
pub enum AesKey {
    /// 16 bytes.
    Aes128(Aes128),
    /// 24 bytes.
    Aes192(Aes192),
    /// 32 bytes.
    Aes256(Aes256),
}

impl Cipher {
    /// AES-CBC with a key of 16, 24 or 32 bytes.
    ///
    /// # Errors
    /// The key has another size.
    pub fn cbc(key: &[u8]) -> Result<Self> {
        let wrong = |_| format!("crypto/aes: invalid key size {}", key.len());
        let key = match key.len() {
            16 => AesKey::Aes128(Aes128::new_from_slice(key).map_err(wrong)?),
            24 => AesKey::Aes192(Aes192::new_from_slice(key).map_err(wrong)?),
            _ => AesKey::Aes256(Aes256::new_from_slice(key).map_err(wrong)?),
        };
        Ok(Self::Cbc(Box::new(key)))
    }

    /// AES-GCM with a key of 16, 24 or 32 bytes.
    ///
    /// # Errors
    /// The key has another size.
    pub fn gcm(key: &[u8]) -> Result<Self> {
        let wrong = || format!("crypto/aes: invalid key size {}", key.len());
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            24 => return Gcm192::new_from_slice(key).map(|key| Self::Gcm192(Box::new(key))).map_err(|_| wrong()),
            _ => return Err(wrong()),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| "the key cannot be used for AES-GCM")?;
        Ok(Self::Gcm(Box::new(LessSafeKey::new(key))))
    }

    /// Secretbox with a key of 32 bytes.
    ///
    /// # Errors
    /// The key has another size.
    pub fn secretbox(key: &[u8]) -> Result<Self> {
        let wrong = |_| format!("expected key size 32 for secretbox provider, got {}", key.len());
        Ok(Self::Secretbox(Box::new(key.try_into().map_err(wrong)?)))
    }

    /// Keys derived from a seed of 32 bytes or more.
    ///
    /// # Errors
    /// The seed is shorter.
    pub fn seed(seed: &[u8]) -> Result<Self> {
        if seed.len() < SEED_BYTES {
            return Err(format!("invalid seed length {} used for key generation", seed.len()));
        }
        // The seed is as random as what the first step of HKDF would make of it: only the second one is taken.
        Ok(Self::Seed(Box::new(Prk::new_less_safe(HKDF_SHA256, seed))))
    }

    /// Appends the encrypted value to what is in `out`. `place` is what a value may not be moved from.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, plain: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Cbc(key) => key.seal(plain, out),
            Self::Gcm(key) => gcm_seal(&**key, plain, place, out),
            Self::Gcm192(key) => gcm_seal(&**key, plain, place, out),
            Self::Secretbox(key) => secretbox_seal(key, plain, out),
            Self::Seed(seed) => {
                let info: [u8; SEED_BYTES] = random()?;
                out.extend_from_slice(&info);
                gcm_seal(&derived(seed, &info)?, plain, place, out)
            }
        }
    }

    /// The value again.
    ///
    /// # Errors
    /// It was encrypted with another key, or for another place, or was changed.
    pub fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Cbc(key) => key.open(sealed),
            Self::Gcm(key) => gcm_open(&**key, sealed, place),
            Self::Gcm192(key) => gcm_open(&**key, sealed, place),
            Self::Secretbox(key) => secretbox_open(key, sealed),
            Self::Seed(seed) => {
                let (info, sealed) = sealed.split_at_checked(SEED_BYTES).ok_or(TOO_SHORT)?;
                gcm_open(&derived(seed, info)?, sealed, place)
            }
        }
    }
}

/// Random bytes of the system.
///
/// # Errors
/// It has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "unable to read sufficient random bytes")?;
    Ok(bytes)
}

struct SeedLength;

impl KeyType for SeedLength {
    fn len(&self) -> usize {
        SEED_BYTES
    }
}

fn derived(seed: &Prk, info: &[u8]) -> Result<LessSafeKey> {
    let mut key = [0; SEED_BYTES];
    let made = seed.expand(&[info], SeedLength).and_then(|derived| derived.fill(&mut key));
    made.map_err(|_| "failed to KDF expand seed with info")?;
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| "failed to build transformer with KDF derived key")?;
    Ok(LessSafeKey::new(key))
}

/// AES-GCM by either library. The errors say nothing, on purpose.
trait Gcm {
    /// Encrypts in place, and gives the tag.
    fn seal(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut [u8]) -> Result<[u8; TAG_BYTES], ()>;

    /// Decrypts in place what is followed by its tag, and takes the tag off.
    fn open(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut Vec<u8>) -> Result<(), ()>;
}

impl Gcm for LessSafeKey {
    fn seal(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut [u8]) -> Result<[u8; TAG_BYTES], ()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.seal_in_place_separate_tag(nonce, Aad::from(place), value).map_err(drop)?;
        tag.as_ref().try_into().map_err(drop)
    }

    fn open(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut Vec<u8>) -> Result<(), ()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.open_in_place(nonce, Aad::from(place), value).map_err(drop)?.len();
        value.truncate(length);
        Ok(())
    }
}

impl Gcm for Gcm192 {
    fn seal(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut [u8]) -> Result<[u8; TAG_BYTES], ()> {
        self.encrypt_inout_detached(&nonce.into(), place, value.into()).map(Into::into).map_err(drop)
    }

    fn open(&self, nonce: [u8; NONCE_LEN], place: &[u8], value: &mut Vec<u8>) -> Result<(), ()> {
        self.decrypt_in_place(&nonce.into(), place, value).map_err(drop)
    }
}

fn gcm_seal(key: &impl Gcm, plain: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let nonce = random()?;
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = key.seal(nonce, place, &mut out[start..]).map_err(|()| "the value is too long for AES-GCM")?;
    out.extend_from_slice(&tag);
    Ok(())
}

fn gcm_open(key: &impl Gcm, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk().ok_or(TOO_SHORT)?;
    let mut value = sealed.to_vec();
    key.open(*nonce, place, &mut value).map_err(|()| "cipher: message authentication failed")?;
    Ok(value)
}

impl AesKey {
    fn seal(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let iv: [u8; BLOCK_BYTES] = random()?;
        let padding = BLOCK_BYTES - plain.len() % BLOCK_BYTES;
        out.extend_from_slice(&iv);
        let start = out.len();
        out.extend_from_slice(plain);
        out.resize(out.len() + padding, padding as u8);
        let blocks = Array::slice_as_chunks_mut(&mut out[start..]).0;
        match self {
            Self::Aes128(key) => chain(key, &iv, blocks),
            Self::Aes192(key) => chain(key, &iv, blocks),
            Self::Aes256(key) => chain(key, &iv, blocks),
        }
        Ok(())
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let (iv, sealed) = sealed.split_first_chunk::<BLOCK_BYTES>().ok_or(TOO_SHORT)?;
        if !sealed.len().is_multiple_of(BLOCK_BYTES) {
            return Err("the stored data is not a multiple of the block size".into());
        }
        let mut value = sealed.to_vec();
        let blocks = Array::slice_as_chunks_mut(&mut value).0;
        match self {
            Self::Aes128(key) => unchain(key, iv, blocks),
            Self::Aes192(key) => unchain(key, iv, blocks),
            Self::Aes256(key) => unchain(key, iv, blocks),
        }
        let padding = usize::from(value.last().copied().unwrap_or(0));
        if padding == 0 || padding > value.len() {
            return Err("invalid PKCS7 data (empty or not padded)".into());
        }
        let length = value.len() - padding;
        if value[length..].iter().any(|byte| usize::from(*byte) != padding) {
            return Err("invalid padding on input".into());
        }
        value.truncate(length);
        Ok(value)
    }
}

type Block = Array<u8, U16>;

fn chain<C>(key: &C, iv: &[u8; BLOCK_BYTES], blocks: &mut [Block])
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Clone,
{
    cbc::Encryptor::inner_iv_init(key.clone(), &Block::from(*iv)).encrypt_blocks(blocks);
}

fn unchain<C>(key: &C, iv: &[u8; BLOCK_BYTES], blocks: &mut [Block])
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Clone,
{
    cbc::Decryptor::inner_iv_init(key.clone(), &Block::from(*iv)).decrypt_blocks(blocks);
}

/// The cipher, and its first 32 bytes as the authenticator, as NaCl has it.
fn secretbox(key: &[u8; 32], nonce: &[u8; XNONCE_BYTES]) -> (XSalsa20, Poly1305) {
    let mut cipher = XSalsa20::new(&(*key).into(), &(*nonce).into());
    let mut first = [0; 32];
    cipher.apply_keystream(&mut first);
    (cipher, Poly1305::new(&first.into()))
}

fn secretbox_seal(key: &[u8; 32], plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    secretbox_seal_with(key, &random()?, plain, out);
    Ok(())
}

fn secretbox_seal_with(key: &[u8; 32], nonce: &[u8; XNONCE_BYTES], plain: &[u8], out: &mut Vec<u8>) {
    let (mut cipher, authenticator) = secretbox(key, nonce);
    out.extend_from_slice(nonce);
    let tag_start = out.len();
    out.extend_from_slice(&[0; TAG_BYTES]);
    let start = out.len();
    out.extend_from_slice(plain);
    cipher.apply_keystream(&mut out[start..]);
    let tag = authenticator.compute_unpadded(&out[start..]);
    out[tag_start..start].copy_from_slice(&tag);
}

fn secretbox_open(key: &[u8; 32], sealed: &[u8]) -> Result<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<XNONCE_BYTES>().ok_or(TOO_SHORT)?;
    let (tag, sealed) = sealed.split_first_chunk::<TAG_BYTES>().ok_or(TOO_SHORT)?;
    let (mut cipher, authenticator) = secretbox(key, nonce);
    let expected = authenticator.compute_unpadded(sealed);
    // All bytes are looked at, wherever the first difference is.
    if expected.iter().zip(tag).fold(0, |difference, (one, other)| difference | (one ^ other)) != 0 {
        return Err("output array was not large enough for encryption".into());
    }
    let mut value = sealed.to_vec();
    cipher.apply_keystream(&mut value);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn all() -> Vec<Cipher> {
        let key = [7; 32];
        let made = [
            Cipher::cbc(&key[..16]),
            Cipher::cbc(&key[..24]),
            Cipher::cbc(&key),
            Cipher::gcm(&key[..16]),
            Cipher::gcm(&key[..24]),
            Cipher::gcm(&key),
            Cipher::secretbox(&key),
            Cipher::seed(&key),
        ];
        made.into_iter().map(|cipher| cipher.expect("a key of a fitting size")).collect()
    }

    fn sealed(cipher: &Cipher, plain: &[u8], place: &[u8]) -> Vec<u8> {
        let mut out = b"head".to_vec();
        cipher.seal(plain, place, &mut out).expect("sealed");
        assert!(out.starts_with(b"head"));
        out.split_off(4)
    }

    #[test]
    fn what_is_sealed_is_opened_and_every_time_looks_different() {
        for cipher in all() {
            for length in [0, 1, 15, 16, 17, 1000] {
                let plain = vec![b'x'; length];
                let (one, other) = (sealed(&cipher, &plain, b"/a"), sealed(&cipher, &plain, b"/a"));
                assert_ne!(one, other);
                assert_eq!(cipher.open(&one, b"/a").expect("opened"), plain);
                assert!(length < 16 || !one.windows(8).any(|window| window == b"xxxxxxxx"));
            }
        }
    }

    #[test]
    fn what_was_changed_cut_off_or_moved_is_refused() {
        for cipher in all() {
            let whole = sealed(&cipher, b"a secret of some length", b"/a");
            for length in [0, 10, 20, whole.len() - 1] {
                assert!(cipher.open(&whole[..length], b"/a").is_err(), "{length} bytes");
            }
            let authenticates_place = matches!(cipher, Cipher::Gcm(_) | Cipher::Gcm192(_) | Cipher::Seed(_));
            assert_eq!(cipher.open(&whole, b"/b").is_err(), authenticates_place);
            if !matches!(cipher, Cipher::Cbc(_)) {
                for at in 0..whole.len() {
                    let mut changed = whole.clone();
                    changed[at] ^= 1;
                    assert!(cipher.open(&changed, b"/a").is_err(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn keys_have_their_sizes() {
        let fault = |made: Result<Cipher>| made.err().expect("refused");
        assert_eq!(fault(Cipher::cbc(&[0; 20])), "crypto/aes: invalid key size 20");
        assert_eq!(fault(Cipher::gcm(&[0; 20])), "crypto/aes: invalid key size 20");
        assert_eq!(fault(Cipher::secretbox(&[0; 16])), "expected key size 32 for secretbox provider, got 16");
        assert_eq!(fault(Cipher::seed(&[0; 31])), "invalid seed length 31 used for key generation");
    }

    /// NIST SP 800-38A, F.2.1: the first two blocks, and what they become.
    #[test]
    fn blocks_are_chained_as_nist_has_it() {
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let stored = hex(concat!(
            "000102030405060708090a0b0c0d0e0f",
            "7649abac8119b246cee98e9b12e9197d",
            "5086cb9b507219ee95db113a917678b2",
        ));
        let Ok(Cipher::Cbc(key)) = Cipher::cbc(&key) else { panic!("a key") };
        let AesKey::Aes128(key) = *key else { panic!("of 16 bytes") };
        let (iv, rest) = stored.split_first_chunk().expect("a block");
        let mut value = rest.to_vec();
        unchain(&key, iv, Array::slice_as_chunks_mut(&mut value).0);
        assert_eq!(value, hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"));
    }

    /// NIST's test vectors for AES-GCM: a zero key of 24 bytes, a zero nonce, and a block of zeros.
    #[test]
    fn keys_of_24_bytes_are_nists() {
        let stored = hex(concat!(
            "000000000000000000000000",
            "98e7247c07f0fe411c267e4384b0f600",
            "2ff58d80033927ab8ef4d4587514f0fb",
        ));
        let cipher = Cipher::gcm(&[0; 24]).expect("a key");
        assert_eq!(cipher.open(&stored, b"").expect("opened"), [0; 16]);
    }

    /// NaCl's box of 64 bytes of 3 with a key of 1 and a nonce of 2, as every implementation of it makes it.
    #[test]
    fn boxes_are_nacls() {
        let mut out = Vec::new();
        secretbox_seal_with(&[1; 32], &[2; 24], &[3; 64], &mut out);
        let expected = concat!(
            "8442bc313f4626f1359e3b50122b6ce6fe66ddfe7d39d14e637eb4fd5b45bead",
            "ab55198df6ab5368439792a23c87db70acb6156dc5ef957ac04f6276cf6093b8",
            "4be77ff0849cc33e34b7254d5a8f65ad",
        );
        assert_eq!(out[24..], hex(expected));
    }
}
