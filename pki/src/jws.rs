//! The signature that ConfigMap cluster-info carries for each token: a compact JWS with detached payload (contract A.11).

use aws_lc_rs::{constant_time, hmac};
use data_encoding::BASE64URL_NOPAD;

use crate::token::Token;

/// Name of the ConfigMap key that holds the signature for a token.
pub fn key_for(token_id: &str) -> String {
    format!("jws-kubeconfig-{token_id}")
}

/// Signs `payload` with a token: `header..signature`.
pub fn sign(payload: &[u8], token: &Token) -> String {
    // Exactly these bytes: readers compare strings, they do not parse.
    let header = BASE64URL_NOPAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, token.id()).as_bytes());
    let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret().as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}

/// Whether `signature` is what the token's holder would have made for `payload`.
pub fn verify(payload: &[u8], token: &Token, signature: &str) -> bool {
    constant_time::verify_slices_are_equal(sign(payload, token).as_bytes(), signature.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        "abcdef.0123456789abcdef".parse().unwrap()
    }

    #[test]
    fn known_answer() {
        // Recorded from kubeadm's own signer.
        let want = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..mbYXqRPZE2WNTVqw4NeHTiCva_y7HqA9jUaHbXG1Lqg";
        assert_eq!(sign(b"kprov-test-payload\n", &token()), want);
        assert!(verify(b"kprov-test-payload\n", &token(), want));
    }

    #[test]
    fn another_payload_token_or_signature_is_refused() {
        let signature = sign(b"payload", &token());
        assert!(!verify(b"payloaD", &token(), &signature));
        let same_id = "abcdef.0123456789abcdeg".parse().unwrap();
        assert!(!verify(b"payload", &same_id, &signature));
        assert!(!verify(b"payload", &token(), ""));
        assert!(!verify(b"payload", &token(), &signature[..signature.len() - 1]));
    }
}
