//! Service-account tokens: JWTs signed with ES256, with the claims of upstream's bound tokens.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use skiff_base::Timestamp;

use crate::config::ServiceAccountKeys;

/// Signs and checks tokens.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    /// The issuer, which is also the server's own audience.
    pub issuer: String,
}

impl Signer {
    /// Reads the key.
    pub fn new(keys: &ServiceAccountKeys) -> Result<Self, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &keys.signing_key, &random)
            .map_err(|error| format!("the service-account signing key is no ECDSA P-256 key in PKCS#8: {error}"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Self { key_id: URL_SAFE_NO_PAD.encode(digest), key, random, issuer: keys.issuer.clone() })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
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
        if parse(header)?["alg"] != "ES256" {
            return Err("the token is not signed with ES256".into());
        }
        let key = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        key.verify(message.as_bytes(), &decode(signature)?).map_err(|_| "the token's signature is wrong")?;
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

    /// The public key as a JSON Web Key Set.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: one byte of form, then both coordinates.
        let point = &self.key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_token_verifies_until_it_expires_and_only_for_its_audience() {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
        let keys = ServiceAccountKeys { signing_key: document.as_ref().to_vec(), issuer: "https://issuer".into() };
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
}
