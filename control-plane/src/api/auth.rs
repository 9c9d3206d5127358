//! Who may use the REST API: whoever holds the admin token, which lies in the data directory for its owner alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use outrigger_certs::files::{self, FileError};

use super::ApiState;
use super::error::ApiError;

/// The name of the token's file in the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// A header by which a caller says which person or program acts: kept in the history, trusted for nothing.
const ACTOR: &str = "outrigger-actor";
/// An actor's name is cut to this.
const MOST_ACTOR_CHARACTERS: usize = 128;
/// A shorter token was not made here, and could be guessed.
const LEAST_TOKEN_BYTES: usize = 32;

/// The bearer token of the REST API. In memory is its hash only.
#[derive(Clone)]
pub struct AdminToken {
    path: PathBuf,
    hash: [u8; 32],
}

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{path} is not a token of {LEAST_TOKEN_BYTES} or more visible characters; remove it, and a new one is made", path = .0.display())]
    Form(PathBuf),
    /// The system gave no random numbers.
    #[error("the system has no random numbers for an admin token")]
    Randomness,
}

impl AdminToken {
    /// Reads the token of a data directory; makes one where there is none.
    ///
    /// # Errors
    /// The file cannot be used, is readable by others, or holds no token.
    pub fn open(directory: &Path) -> Result<Self, AdminTokenError> {
        let path = directory.join(ADMIN_TOKEN_FILE);
        match files::read_private(&path) {
            Ok(bytes) => {
                let token = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
                if token.len() < LEAST_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(AdminTokenError::Form(path));
                }
                Ok(Self { hash: hash(token), path })
            }
            Err(error) if error.is_missing() => {
                let mut secret = [0u8; 32];
                SystemRandom::new().fill(&mut secret).map_err(|_| AdminTokenError::Randomness)?;
                let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                files::write_atomic(&path, format!("{token}\n").as_bytes(), files::PRIVATE)?;
                Ok(Self { hash: hash(&token), path })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where the token is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the token. Takes the same time whatever is wrong with it.
    fn is(&self, token: &str) -> bool {
        verify_slices_are_equal(&self.hash, &hash(token)).is_ok()
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminToken").field("path", &self.path).finish_non_exhaustive()
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Who acts, for the history: the authenticated name, and in brackets what the caller calls itself.
#[derive(Clone, Debug)]
pub(crate) struct Actor(pub(crate) String);

/// Lets requests with the admin token through, and tells the handler who acts.
pub(crate) async fn require_admin(
    State(state): State<Arc<ApiState>>,
    mut request: Request<Body>,
    next: Next,
) -> Result<Response, ApiError> {
    // The file's name and not its place: whoever has no token need not learn where it lies.
    let Some(token) = bearer_token(request.headers()) else {
        return Err(ApiError::unauthorized(format!(
            "send Authorization: Bearer with the token in {ADMIN_TOKEN_FILE} of the control plane's data directory"
        )));
    };
    if !state.admin_token.is(token) {
        return Err(ApiError::unauthorized(format!(
            "the token is not the one in {ADMIN_TOKEN_FILE} of this control plane's data directory"
        )));
    }
    let actor = actor(request.headers());
    request.extensions_mut().insert(actor);
    Ok(next.run(request).await)
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn actor(headers: &HeaderMap) -> Actor {
    let claimed = headers.get(ACTOR).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let claimed: String = claimed.chars().take(MOST_ACTOR_CHARACTERS).collect();
    Actor(if claimed.is_empty() { "admin".to_owned() } else { format!("admin ({claimed})") })
}
