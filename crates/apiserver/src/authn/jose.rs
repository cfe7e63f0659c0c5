//! Signatures of JSON Web Tokens, by the keys of a JSON Web Key Set. Pure: where keys come from is told elsewhere.
//! See RFC 7515, 7517 and 7518.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::ecdsa::signature::Verifier as _;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use skiff_object::meta::Meta;

/// What tokens may be signed with, as upstream has it.
pub const ALGORITHMS: [&str; 9] = ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// A token in its parts; nothing of it is to be believed before its signature was checked.
#[derive(Debug)]
pub struct Token<'a> {
    message: &'a str,
    signature: Vec<u8>,
    /// How it says that it is signed.
    pub algorithm: String,
    key_id: String,
    /// What it says.
    pub claims: Value,
}

impl<'a> Token<'a> {
    /// Takes a token apart; `None` where it is no JWT.
    pub fn read(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, payload) = message.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        let claims: Value = serde_json::from_slice(&decode(payload)?).ok()?;
        // What a critical extension means is not known here, so that the token cannot be understood.
        let plain = header.get("crit").is_none() && claims.is_object();
        plain.then_some(Self {
            message,
            signature: decode(signature)?,
            algorithm: header.str_at(&["alg"]).to_owned(),
            key_id: header.str_at(&["kid"]).to_owned(),
            claims,
        })
    }
}

/// A public key.
#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The uncompressed point, on the curve of that many bits.
    Point(u16, Vec<u8>),
}

/// The keys of an issuer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<(String, Material)>);

impl KeySet {
    /// Reads a JSON Web Key Set; keys that are of no use here are left out.
    pub fn read(document: &Value) -> Self {
        let keys = document.list_at(&["keys"]).iter().filter(|key| key.str_at(&["use"]) != "enc");
        Self(keys.filter_map(|key| Some((key.str_at(&["kid"]).to_owned(), material(key)?))).collect())
    }

    /// Whether one of the keys that the token may mean has signed it.
    pub fn signed(&self, token: &Token<'_>) -> bool {
        let meant = |key_id: &str| token.key_id.is_empty() || key_id == token.key_id;
        self.0.iter().any(|(key_id, key)| meant(key_id) && verifies(key, token))
    }
}

fn material(key: &Value) -> Option<Material> {
    let number = |field: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(key.str_at(&[field]).trim_end_matches('=')).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    };
    let stripped = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    match key.str_at(&["kty"]) {
        "RSA" => Some(Material::Rsa { modulus: stripped(number("n")?), exponent: stripped(number("e")?) }),
        "EC" => {
            let bits = match key.str_at(&["crv"]) {
                "P-256" => 256,
                "P-384" => 384,
                "P-521" => 521,
                _ => return None,
            };
            let (x, y) = (number("x")?, number("y")?);
            let whole = x.len() == usize::from(bits).div_ceil(8) && y.len() == x.len();
            // The byte before the coordinates says that both are there.
            whole.then(|| Material::Point(bits, [vec![4], x, y].concat()))
        }
        _ => None,
    }
}

fn verifies(key: &Material, token: &Token<'_>) -> bool {
    let (message, signed) = (token.message.as_bytes(), token.signature.as_slice());
    match key {
        Material::Rsa { modulus, exponent } => {
            let parameters = match token.algorithm.as_str() {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return false,
            };
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signed).is_ok()
        }
        Material::Point(bits, point) => {
            let algorithm = match (bits, token.algorithm.as_str()) {
                (256, "ES256") => &signature::ECDSA_P256_SHA256_FIXED,
                (384, "ES384") => &signature::ECDSA_P384_SHA384_FIXED,
                (521, "ES512") => return verifies_p521(point, message, signed),
                _ => return false,
            };
            UnparsedPublicKey::new(algorithm, point).verify(message, signed).is_ok()
        }
    }
}

/// The one curve of tokens that the TLS stack's library does not have.
fn verifies_p521(point: &[u8], message: &[u8], signed: &[u8]) -> bool {
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
    let signature = p521::ecdsa::Signature::from_slice(signed);
    key.is_ok_and(|key| signature.is_ok_and(|signature| key.verify(message, &signature).is_ok()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    /// The example of RFC 7515, appendix A.3.
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    /// The example of RFC 7515, appendix A.2.
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    fn keys() -> KeySet {
        KeySet::read(&json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "e", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
            {"kty": "RSA", "kid": "r", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
            {"kty": "oct", "kid": "o", "k": "AAAA"}, {"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]}))
    }

    #[test]
    fn the_examples_of_the_standard_verify() {
        let keys = keys();
        assert_eq!(keys.0.len(), 2);
        for text in [ES256, RS256] {
            let token = Token::read(text).expect("a token");
            assert_eq!(token.claims["iss"], "joe");
            assert!(keys.signed(&token), "{}", token.algorithm);
            let forged = text.replacen(".eyJpc3MiOiJq", ".eyJpc3MiOiJr", 1);
            assert!(!keys.signed(&Token::read(&forged).expect("a token")));
            // Another algorithm of the same key, and one that needs no key, are not what was signed.
            for algorithm in ["none", "HS256", "PS256", "ES384"] {
                let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm}).to_string());
                let (_, rest) = text.split_once('.').expect("a dot");
                let other = format!("{header}.{rest}");
                assert!(!keys.signed(&Token::read(&other).expect("a token")), "{algorithm}");
            }
        }
    }

    #[test]
    fn what_is_no_token_is_told_from_one() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "e30.e30.e30.e30", "e30.W10.AA", "eyJjcml0IjpbXX0.e30.AA"] {
            assert!(Token::read(text).is_none(), "{text}");
        }
        expect![[r#"Object {}"#]].assert_eq(&format!("{:?}", Token::read("e30.e30.AA").expect("empty parts").claims));
    }

    /// The example of RFC 7515, appendix A.4, which says nothing that a token of ours would.
    #[test]
    fn the_largest_curve_of_the_standard_verifies() {
        let keys = KeySet::read(&json!({"keys": [{"kty": "EC", "crv": "P-521",
            "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}]}));
        let signed = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
        let token = |algorithm: &str, message| Token {
            message,
            signature: URL_SAFE_NO_PAD.decode(signed).expect("a signature"),
            algorithm: algorithm.to_owned(),
            key_id: String::new(),
            claims: Value::Null,
        };
        assert!(keys.signed(&token("ES512", "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA")));
        assert!(!keys.signed(&token("ES512", "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZB")));
        assert!(!keys.signed(&token("ES384", "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA")));
    }
}
