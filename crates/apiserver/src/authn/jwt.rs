//! Service-account tokens: JWTs signed with ES256, with the claims of upstream's bound tokens.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use skiff_base::Timestamp;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::config::ServiceAccountKeys;

/// One byte of form, then two coordinates of 32 bytes.
const P256_POINT_BYTES: usize = 65;

/// Signs and checks tokens.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// Whose tokens are believed; the first one is the signing key's.
    known: Vec<Known>,
    /// The issuer, which is also the server's own audience.
    pub issuer: String,
}

/// A public key.
struct Known {
    id: String,
    /// An uncompressed point: one byte of form, then both coordinates.
    point: Vec<u8>,
}

impl Known {
    fn new(point: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, point);
        Self { id: URL_SAFE_NO_PAD.encode(digest), point: point.to_vec() }
    }

    fn read(info: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(info)
            .map_err(|error| format!("a former service-account key cannot be read: {error}"))?;
        let point: &[u8] = &info.subject_public_key.data;
        if point.len() != P256_POINT_BYTES {
            return Err("a former service-account key is no ECDSA P-256 key".into());
        }
        Ok(Self::new(point))
    }

    /// As a JSON Web Key.
    fn told(&self) -> Value {
        let (x, y) = self.point[1..].split_at((self.point.len() - 1) / 2);
        json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }
}

impl Signer {
    /// Reads the keys.
    pub fn new(keys: &ServiceAccountKeys) -> Result<Self, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &keys.signing_key, &random)
            .map_err(|error| format!("the service-account signing key is no ECDSA P-256 key in PKCS#8: {error}"))?;
        let mut known = vec![Known::new(key.public_key().as_ref())];
        for former in &keys.former_keys {
            known.push(Known::read(former)?);
        }
        Ok(Self { key, random, known, issuer: keys.issuer.clone() })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.known[0].id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&self.random, message.as_bytes()).map_err(|_| "signing a token failed")?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Checks a token's signature, time, issuer and audience; gives its claims.
    pub fn verify(&self, token: &str, now: Timestamp, audiences: &[String]) -> Result<Value, String> {
        let malformed = || "the token is malformed".to_owned();
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let parse = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| malformed());
        let header = parse(header)?;
        if header["alg"] != "ES256" {
            return Err("the token is not signed with ES256".into());
        }
        let signature = decode(signature)?;
        let is_of = |known: &&Known| header["kid"].as_str().is_none_or(|id| id == known.id);
        let has_signed = |known: &Known| {
            let key = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &known.point);
            key.verify(message.as_bytes(), &signature).is_ok()
        };
        if !self.known.iter().filter(is_of).any(has_signed) {
            return Err("the token's signature is wrong".into());
        }
        let claims = parse(payload)?;
        if claims["iss"] != self.issuer.as_str() {
            return Err("the token is from another issuer".into());
        }
        let second = |claim: &str| claims[claim].as_i64();
        if second("exp").is_none_or(|at| now.as_second() >= at) {
            return Err("Token has expired".into());
        }
        if second("nbf").is_some_and(|at| now.as_second() < at) {
            return Err("Token is not valid yet".into());
        }
        if self.audiences_of(&claims, audiences).is_empty() {
            return Err("token audiences are not the ones that are asked for".into());
        }
        Ok(claims)
    }

    /// Those of the audiences asked for (or the server's own) that a token is meant for.
    pub fn audiences_of(&self, claims: &Value, asked: &[String]) -> Vec<String> {
        let meant: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let own = [self.issuer.clone()];
        let asked = if asked.is_empty() { &own } else { asked };
        asked.iter().filter(|audience| meant.contains(&audience.as_str())).cloned().collect()
    }

    /// The public keys as a JSON Web Key Set.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.known.iter().map(Known::told).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_token_verifies_until_it_expires_and_only_for_its_audience() {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
        let keys = ServiceAccountKeys::new(document.as_ref().to_vec(), "https://issuer");
        let signer = Signer::new(&keys).expect("a signer");
        let token =
            signer.sign(&json!({"iss": "https://issuer", "aud": ["https://issuer"], "exp": 100})).expect("a token");
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!(signer.verify(&token, at(99), &[]).expect("valid")["exp"], 100);
        assert_eq!(signer.verify(&token, at(100), &[]), Err("Token has expired".into()));
        assert!(signer.verify(&token, at(99), &["other".into()]).is_err());
        let forged = token.replacen('.', "x.", 1);
        assert!(signer.verify(&forged, at(99), &[]).is_err());
    }

    #[test]
    fn tokens_of_a_former_key_are_believed_until_it_is_forgotten() {
        let generate = || {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
            made.expect("a key").as_ref().to_vec()
        };
        let signer = |signing_key: &[u8], former_keys| {
            let keys = ServiceAccountKeys::new(signing_key.to_vec(), "https://issuer");
            Signer::new(&ServiceAccountKeys { former_keys, ..keys })
        };
        let (old, new) = (generate(), generate());
        let before = signer(&old, Vec::new()).expect("a signer");
        let token = before.sign(&json!({"iss": "https://issuer", "aud": ["https://issuer"], "exp": 100}));
        let token = token.expect("a token");
        // What stands before the point in the SubjectPublicKeyInfo of every P-256 key.
        let mut info = URL_SAFE_NO_PAD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE").expect("base64");
        info.extend(&before.key.public_key().as_ref()[1..]);
        let at = Timestamp::from_second(1).expect("a time");
        let after = signer(&new, vec![info]).expect("a signer");
        assert!(after.verify(&token, at, &[]).is_ok());
        let keys = after.key_set();
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
        assert_eq!(keys["keys"][1], before.key_set()["keys"][0]);
        let forgotten = signer(&new, Vec::new()).expect("a signer");
        assert_eq!(forgotten.verify(&token, at, &[]), Err("the token's signature is wrong".into()));
        assert!(signer(&new, vec![b"no key".to_vec()]).is_err());
    }
}
