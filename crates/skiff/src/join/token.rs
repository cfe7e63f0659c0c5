//! The token by which a machine joins a cluster: whom to trust, and what to show.
//!
//! Its form is `K10HASH::ID.SECRET`, as k3s has it. `HASH` is the SHA-256 of the certificate of the cluster's authority (DER, in
//! 64 hexadecimal digits; `openssl x509 -in ca.crt -outform der | sha256sum` prints it): a server is believed when it has a certificate of
//! that authority. `ID.SECRET` is a bootstrap token as of kubeadm, a Secret `bootstrap-token-ID` in `kube-system`.

use std::fmt::{self, Write};
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};

const FORM: &str = "K10";
const ID_LETTERS: usize = 6;
const SECRET_LETTERS: usize = 16;
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A SHA-256.
pub type Digest = [u8; 32];

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The digest of the authority's certificate.
    pub authority: Digest,
    /// The public part of the bootstrap token.
    pub id: String,
    /// The secret part.
    pub secret: String,
}

/// The digest that tokens carry of a certificate.
pub fn digest_of(certificate_der: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate_der);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

impl Token {
    /// A new token for the cluster of this authority.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate(authority: Digest) -> Result<Self, String> {
        Ok(Self { authority, id: random(ID_LETTERS)?, secret: random(SECRET_LETTERS)? })
    }

    /// What the API server is shown.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

fn random(letters: usize) -> Result<String, String> {
    let mut text = String::new();
    let mut byte = [0];
    while text.len() < letters {
        SystemRandom::new().fill(&mut byte).map_err(|_| "the system gives no random numbers")?;
        // What lies beyond the last multiple would make the first letters likelier.
        if usize::from(byte[0]) < 256 / LETTERS.len() * LETTERS.len() {
            text.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
        }
    }
    Ok(text)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hash = String::new();
        for byte in self.authority {
            write!(hash, "{byte:02x}")?;
        }
        write!(f, "{FORM}{hash}::{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "the token has not the form {FORM}HASH::ID.SECRET; skiff token create on a server prints one that has"
            )
        };
        let (hash, bootstrap) =
            text.trim().strip_prefix(FORM).and_then(|rest| rest.split_once("::")).ok_or_else(refused)?;
        let (id, secret) = bootstrap.split_once('.').ok_or_else(refused)?;
        let legal = |text: &str, letters| text.len() == letters && text.bytes().all(|byte| LETTERS.contains(&byte));
        if hash.len() != 64 || !hash.is_ascii() || !legal(id, ID_LETTERS) || !legal(secret, SECRET_LETTERS) {
            return Err(refused());
        }
        let mut authority = [0; 32];
        for (place, byte) in authority.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hash[place * 2..place * 2 + 2], 16).map_err(|_| refused())?;
        }
        Ok(Self { authority, id: id.to_owned(), secret: secret.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let token = Token::generate(digest_of(b"certificate")).expect("random numbers");
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!((token.id.len(), token.secret.len()), (ID_LETTERS, SECRET_LETTERS));
        assert_ne!(Token::generate(token.authority).expect("random numbers").secret, token.secret);
    }

    #[test]
    fn what_has_another_form_is_refused_with_advice() {
        let hash = "ab".repeat(32);
        for wrong in [
            String::new(),
            "abcdef.0123456789abcdef".into(),
            format!("K10{hash}::abcdef"),
            format!("K10{hash}::ABCDEF.0123456789abcdef"),
            format!("K10{}::abcdef.0123456789abcdef", &hash[2..]),
            format!("K10{}::abcdef.0123456789abcdef", "xy".repeat(32)),
        ] {
            let refusal = wrong.parse::<Token>().expect_err(&wrong);
            assert!(refusal.contains("skiff token create"), "{refusal}");
        }
    }
}
