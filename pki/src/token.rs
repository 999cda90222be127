//! Bootstrap tokens: `[a-z0-9]{6}.[a-z0-9]{16}` (contract A.10).

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::Error;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The group that a token's holder is in unless others are named.
pub const DEFAULT_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

/// A bootstrap token. `Debug` shows its id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: Zeroizing<String>,
}

impl Token {
    /// A new random token; every character is equally likely.
    ///
    /// # Errors
    /// When the system's random generator fails.
    pub fn generate() -> Result<Self, Error> {
        let mut text = Zeroizing::new(String::with_capacity(22));
        while text.len() < 22 {
            for byte in *Zeroizing::new(crate::random::<32>()?) {
                // 252 is the largest multiple of 36 in a byte: what is above would make some characters likelier.
                if byte < 252 && text.len() < 22 {
                    text.push(char::from(*ALPHABET.get(usize::from(byte % 36)).unwrap_or(&b'a')));
                }
            }
        }
        let (id, secret) = text.split_at(6);
        Ok(Self { id: id.to_owned(), secret: Zeroizing::new(secret.to_owned()) })
    }

    /// The public half, also the Secret's name: `bootstrap-token-ID`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret half.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token. Only for where it must go: a bearer header, a kubeconfig, a line that somebody asked for.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", self.id, self.secret()))
    }

    /// Name of the Secret that holds it.
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }
}

/// Whether this is a token's public half.
pub fn is_id(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|b| ALPHABET.contains(&b))
}

/// Whether a bootstrap Secret may give this group (the API server takes no other).
pub fn is_group(text: &str) -> bool {
    // system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]
    let Some(rest) = text.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |b: u8| ALPHABET.contains(&b) || b == b':' || b == b'-';
    (1..=256).contains(&rest.len())
        && rest.bytes().all(inner)
        && rest.bytes().last().is_some_and(|b| ALPHABET.contains(&b))
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once('.') {
            Some((id, secret)) if is_id(id) && secret.len() == 16 && secret.bytes().all(|b| ALPHABET.contains(&b)) => {
                Ok(Self { id: id.to_owned(), secret: Zeroizing::new(secret.to_owned()) })
            }
            _ => Err(Error::Malformed("a bootstrap token ([a-z0-9]{6}.[a-z0-9]{16})")),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.<secret>)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn generated_tokens_are_valid_and_differ() {
        let tokens: Vec<Token> = (0..200).map(|_| Token::generate().unwrap()).collect();
        for token in &tokens {
            assert_eq!(&token.reveal().parse::<Token>().unwrap(), token);
        }
        let seen: std::collections::BTreeSet<u8> = tokens.iter().flat_map(|t| t.reveal().as_bytes().to_vec()).collect();
        assert_eq!(seen.len(), 37, "all 36 characters and the dot");
        let ids: std::collections::BTreeSet<&str> = tokens.iter().map(Token::id).collect();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn debug_hides_the_secret() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{token:?}"), "Token(abcdef.<secret>)");
    }

    #[test]
    fn groups() {
        assert!(is_group(DEFAULT_GROUP));
        assert!(is_group("system:bootstrappers:x"));
        for bad in ["system:masters", "system:bootstrappers:", "system:bootstrappers:x-", "system:bootstrappers:X", ""]
        {
            assert!(!is_group(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_takes_exactly_the_form(text in "[a-z0-9.A-Z-]{0,30}|[a-z0-9]{6}\\.[a-z0-9]{16}|\\PC*") {
            let b = text.as_bytes();
            let want = b.len() == 23
                && b.iter().enumerate().all(|(i, c)| if i == 6 { *c == b'.' } else { c.is_ascii_lowercase() || c.is_ascii_digit() });
            let got = text.parse::<Token>();
            prop_assert_eq!(got.is_ok(), want);
            if let Ok(token) = got {
                prop_assert_eq!(&*token.reveal(), &text);
            }
        }
    }
}
