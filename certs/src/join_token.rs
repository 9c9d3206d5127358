//! What a workload shows the control plane at their first meeting, and how each knows the other is real.
//!
//! The random half proves the workload to the control plane, which keeps only its hash. The fingerprint half
//! proves the control plane to the workload, before the workload has any root to trust.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::fingerprint::{Fingerprint, parse_hex, sha256, write_hex};

/// A one-time secret together with the fingerprint of the CA's root, printed as
/// `ort1.<64 hex digits>.<64 hex digits>`.
///
/// `Display` shows the secret and `Debug` does not: print a token only where a person asked for it.
#[derive(Clone)]
pub struct JoinToken {
    secret: [u8; 32],
    root: Fingerprint,
}

/// A text that is not a join token. The text is not repeated: it may be most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It does not begin with the mark of a token.
    #[error("this is not a join token: one begins with ort1. and comes from `outrigger token create`")]
    Mark,
    /// It is cut off or changed.
    #[error(
        "the join token is damaged: it must be ort1., 64 hexadecimal digits, a dot and 64 more; copy it whole"
    )]
    Damaged,
}

/// The system has no randomness to make a secret of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness for a secret; see whether getrandom(2) works here")]
pub struct NoRandomness;

const MARK: &str = "ort1.";

impl JoinToken {
    /// Makes a new secret for workloads that shall trust the root with this fingerprint.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate(root: Fingerprint) -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| NoRandomness)?;
        Ok(Self { secret, root })
    }

    /// The SHA-256 of the secret, which is all the control plane keeps of it.
    ///
    /// A plain hash is enough: the secret has 256 random bits, so there is nothing to guess.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// The fingerprint of the root that the control plane's certificate must lead to.
    pub fn root_fingerprint(&self) -> Fingerprint {
        self.root
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    /// Reads a token. White space around it is ignored, because tokens come from files and terminals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.trim().strip_prefix(MARK).ok_or(JoinTokenError::Mark)?;
        let (secret, root) = rest.split_once('.').ok_or(JoinTokenError::Damaged)?;
        let secret = parse_hex(secret).ok_or(JoinTokenError::Damaged)?;
        let root = parse_hex(root).ok_or(JoinTokenError::Damaged)?.into();
        Ok(Self { secret, root })
    }
}

/// Compares hashes, so that the time it takes tells nothing of the secret.
impl PartialEq for JoinToken {
    fn eq(&self, other: &Self) -> bool {
        self.secret_hash() == other.secret_hash() && self.root == other.root
    }
}

impl Eq for JoinToken {}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        write_hex(f, &self.secret)?;
        write!(f, ".{}", self.root)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_tokens_differ_and_debug_hides_the_secret() {
        let root = Fingerprint::of(b"root");
        let (one, two) = (JoinToken::generate(root).unwrap(), JoinToken::generate(root).unwrap());
        assert_ne!(one.secret_hash(), two.secret_hash());
        let text = one.to_string();
        let secret = text.split('.').nth(1).unwrap();
        assert!(!format!("{one:?}").contains(secret));
        assert!(format!("{one:?}").contains(&root.to_string()));
    }

    #[test]
    fn damaged_tokens_are_refused_without_repeating_them() {
        let token = JoinToken::generate(Fingerprint::of(b"root")).unwrap().to_string();
        assert_eq!("".parse::<JoinToken>(), Err(JoinTokenError::Mark));
        assert_eq!(token.replace("ort1", "ort2").parse::<JoinToken>(), Err(JoinTokenError::Mark));
        for bad in
            [&token[..token.len() - 1], &format!("{token}0"), &token.replace('.', "-").replacen('-', ".", 1)]
        {
            assert_eq!(bad.parse::<JoinToken>(), Err(JoinTokenError::Damaged), "{bad}");
        }
        assert!(format!("{token}\n").parse::<JoinToken>().is_ok(), "a file ends in a line feed");
    }

    proptest! {
        #[test]
        fn printing_and_parsing_is_identity(secret: [u8; 32], root: [u8; 32]) {
            let token = JoinToken { secret, root: root.into() };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }
    }
}
