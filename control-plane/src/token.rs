//! Join tokens: the proof of who a workload is, where there is no Kubernetes to vouch for it.
//!
//! A token is good for one identity, for as long as it says, for as many instances as are started meanwhile. The
//! store keeps the hash of its secret and never the secret, so that a stolen database opens nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use outrigger_certs::{CONTROL_PLANE_ACCOUNT, CONTROL_PLANE_NAMESPACE};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use crate::resources::{is_label, is_subdomain};
use crate::status::rfc3339;
use crate::store::database::{Database, millis, time_of, unsigned};
use crate::store::{Store, StoreError, new_uid};

/// How long a token is good for where the caller does not say.
pub const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(3600);
/// No token is good for longer.
pub const LONGEST_TOKEN_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// There are never more tokens than this.
const MOST_TOKENS: i64 = 10_000;
/// Expired tokens are listed for this long, so that "why does it not join" has an answer.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// Whose identity a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenScope {
    /// The token's id.
    pub id: String,
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
}

/// A join token as lists show it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// The token's id, to revoke it by.
    pub id: String,
    /// The namespace of the one identity it is good for.
    pub namespace: String,
    /// The service account of the one identity it is good for.
    pub service_account: String,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub created_by: String,
    /// Until when it is good.
    pub expires_at: String,
    /// It is over.
    pub expired: bool,
    /// How often a proxy joined with it.
    pub used: u64,
    /// When that was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// What a new token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// How long.
    pub ttl: Duration,
}

/// Why a token was not made, taken or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No such token was ever made here, or it was revoked.
    #[error("the join token is not known here; make a new one with: outrigger token create")]
    Unknown,
    /// The token is over.
    #[error("the join token expired at {0}; make a new one with: outrigger token create")]
    Expired(String),
    /// There is no token with this id.
    #[error("there is no token {0}")]
    NotFound(String),
    /// The request for a token is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Too many tokens.
    #[error("there are {0} join tokens and no more are made; revoke some")]
    Full(i64),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TokenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl TokenRequest {
    /// Whether such a token can be made at all.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub(crate) fn check(&self) -> Result<(), TokenError> {
        let invalid = |field, message: String| Err(TokenError::Invalid { field, message });
        if !is_label(&self.namespace) {
            return invalid("namespace", format!("{:?} is not a DNS label", self.namespace));
        }
        if !is_subdomain(&self.service_account) {
            return invalid("serviceAccount", format!("{:?} is not a DNS name", self.service_account));
        }
        if self.namespace == CONTROL_PLANE_NAMESPACE && self.service_account == CONTROL_PLANE_ACCOUNT {
            return invalid(
                "serviceAccount",
                "is the control plane's own identity, which no workload may have".to_owned(),
            );
        }
        if self.ttl < Duration::from_secs(1) || self.ttl > LONGEST_TOKEN_TTL {
            return invalid("ttl", "must be 1s to 8760h".to_owned());
        }
        Ok(())
    }
}

impl Store {
    /// Makes a token known, by the hash of its secret.
    ///
    /// # Errors
    /// The request is wrong, there are too many tokens, or the store failed.
    pub async fn create_token(
        self: &Arc<Self>,
        request: TokenRequest,
        secret_hash: [u8; 32],
        who: &str,
    ) -> Result<TokenStatus, TokenError> {
        request.check()?;
        let who = who.to_owned();
        self.blocking(move |store, database| {
            let now = store.clock().now();
            insert(database, &request, secret_hash, &who, now)
        })
        .await?
    }

    /// Every token, soonest to expire first; those long expired are gone.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tokens(self: &Arc<Self>) -> Result<Vec<TokenStatus>, TokenError> {
        self.blocking(|store, database| {
            let now = store.clock().now();
            let mut statement =
                database.connection.prepare(&format!("{SELECT} ORDER BY expires_millis, id"))?;
            let rows = statement.query_map([], |row| status_of(row, now))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await?
    }

    /// Makes a token worthless. Certificates that it was already traded for stay good until they expire.
    ///
    /// # Errors
    /// There is no such token, or the store failed.
    pub async fn revoke_token(self: &Arc<Self>, id: &str) -> Result<(), TokenError> {
        let id = id.to_owned();
        self.blocking(move |_, database| {
            match database.connection.execute("DELETE FROM tokens WHERE id = ?1", [&id])? {
                0 => Err(TokenError::NotFound(id)),
                _ => Ok(()),
            }
        })
        .await?
    }

    /// Trades the hash of a token's secret for the identity that it proves, and counts the use.
    ///
    /// # Errors
    /// The token is not known, or is over, or the store failed.
    pub async fn redeem(self: &Arc<Self>, secret_hash: [u8; 32]) -> Result<TokenScope, TokenError> {
        self.blocking(move |store, database| {
            let now = store.clock().now();
            redeem(database, secret_hash, now)
        })
        .await?
    }
}

const SELECT: &str = "SELECT id, namespace, service_account, created_millis, created_by, expires_millis, used, \
                      last_used_millis FROM tokens";

fn insert(
    database: &mut Database,
    request: &TokenRequest,
    secret_hash: [u8; 32],
    who: &str,
    now: SystemTime,
) -> Result<TokenStatus, TokenError> {
    let id = new_uid()?;
    let transaction = database.transaction()?;
    let long_expired = millis(now).saturating_sub(KEPT_AFTER_EXPIRY.as_millis() as i64);
    transaction.execute("DELETE FROM tokens WHERE expires_millis < ?1", [long_expired])?;
    let count: i64 = transaction.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
    if count >= MOST_TOKENS {
        return Err(TokenError::Full(MOST_TOKENS));
    }
    transaction.execute(
        "INSERT INTO tokens (id, secret_hash, namespace, service_account, created_millis, created_by, expires_millis)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            id,
            secret_hash,
            request.namespace,
            request.service_account,
            millis(now),
            who,
            millis(now + request.ttl)
        ],
    )?;
    let status =
        transaction.query_row(&format!("{SELECT} WHERE id = ?1"), [&id], |row| status_of(row, now))?;
    transaction.commit()?;
    Ok(status)
}

fn redeem(database: &mut Database, secret_hash: [u8; 32], now: SystemTime) -> Result<TokenScope, TokenError> {
    let transaction = database.transaction()?;
    let (scope, expires_millis) = find(&transaction, secret_hash)?.ok_or(TokenError::Unknown)?;
    if millis(now) >= expires_millis {
        return Err(TokenError::Expired(rfc3339(time_of(expires_millis))));
    }
    transaction.execute(
        "UPDATE tokens SET used = used + 1, last_used_millis = ?2 WHERE id = ?1",
        params![scope.id, millis(now)],
    )?;
    transaction.commit()?;
    Ok(scope)
}

/// Finds a token. The index narrows the search by the first bytes of the hash only, and the whole of it is compared
/// in constant time, so that the time taken tells nothing worth knowing about a hash that is stored.
fn find(
    connection: &rusqlite::Connection,
    hash: [u8; 32],
) -> Result<Option<(TokenScope, i64)>, rusqlite::Error> {
    let mut low = [0u8; 32];
    let mut high = [0xffu8; 32];
    low[..2].copy_from_slice(&hash[..2]);
    high[..2].copy_from_slice(&hash[..2]);
    let mut statement = connection.prepare(
        "SELECT secret_hash, id, namespace, service_account, expires_millis FROM tokens
         WHERE secret_hash BETWEEN ?1 AND ?2",
    )?;
    let mut rows = statement.query(params![low, high])?;
    let mut found = None;
    while let Some(row) = rows.next()? {
        let stored: Vec<u8> = row.get(0)?;
        if verify_slices_are_equal(&stored, &hash).is_ok() {
            let scope = TokenScope { id: row.get(1)?, namespace: row.get(2)?, service_account: row.get(3)? };
            found = Some((scope, row.get(4)?));
        }
    }
    Ok(found)
}

fn status_of(row: &Row<'_>, now: SystemTime) -> Result<TokenStatus, rusqlite::Error> {
    let expires_millis: i64 = row.get(5)?;
    let last_used: Option<i64> = row.get(7)?;
    Ok(TokenStatus {
        id: row.get(0)?,
        namespace: row.get(1)?,
        service_account: row.get(2)?,
        created_at: rfc3339(time_of(row.get(3)?)),
        created_by: row.get(4)?,
        expires_at: rfc3339(time_of(expires_millis)),
        expired: millis(now) >= expires_millis,
        used: unsigned(row.get(6)?),
        last_used_at: last_used.map(|millis| rfc3339(time_of(millis))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_certs::{Fingerprint, JoinToken, ManualClock};

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(clock: &ManualClock) -> (tempfile::TempDir, Arc<Store>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Arc::new(clock.clone())).unwrap();
        (directory, store)
    }

    fn clock() -> ManualClock {
        ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }

    fn request(account: &str, ttl: Duration) -> TokenRequest {
        TokenRequest { namespace: "shop".to_owned(), service_account: account.to_owned(), ttl }
    }

    #[tokio::test]
    async fn a_token_proves_its_one_identity_until_it_expires_and_is_counted() {
        let clock = clock();
        let (_directory, store) = open(&clock);
        let token = JoinToken::generate(Fingerprint::from([7; 32])).unwrap();
        let made = store.create_token(request("payments", HOUR), token.secret_hash(), "admin").await.unwrap();
        assert_eq!((made.used, made.expired, made.expires_at.as_str()), (0, false, "2023-11-14T23:13:20Z"));
        for _ in 0..2 {
            let scope = store.redeem(token.secret_hash()).await.unwrap();
            assert_eq!((scope.namespace.as_str(), scope.service_account.as_str()), ("shop", "payments"));
        }
        assert_eq!(store.tokens().await.unwrap()[0].used, 2);
        clock.advance(HOUR);
        assert!(matches!(store.redeem(token.secret_hash()).await, Err(TokenError::Expired(_))));
        assert!(store.tokens().await.unwrap()[0].expired);
    }

    #[tokio::test]
    async fn a_token_that_is_not_known_or_was_revoked_proves_nothing() {
        let (_directory, store) = open(&clock());
        let hash = [1; 32];
        let mut near = hash;
        near[31] = 2;
        let made = store.create_token(request("payments", HOUR), hash, "admin").await.unwrap();
        assert!(matches!(store.redeem(near).await, Err(TokenError::Unknown)));
        store.redeem(hash).await.unwrap();
        store.revoke_token(&made.id).await.unwrap();
        assert!(matches!(store.redeem(hash).await, Err(TokenError::Unknown)));
        assert!(matches!(store.revoke_token(&made.id).await, Err(TokenError::NotFound(_))));
    }

    #[tokio::test]
    async fn only_workload_identities_get_tokens_of_a_sensible_life() {
        let (_directory, store) = open(&clock());
        let namespace =
            |namespace: &str| TokenRequest { namespace: namespace.to_owned(), ..request("a", HOUR) };
        let own = TokenRequest {
            namespace: CONTROL_PLANE_NAMESPACE.to_owned(),
            ..request(CONTROL_PLANE_ACCOUNT, HOUR)
        };
        for (wrong, field) in [
            (namespace("Shop"), "namespace"),
            (namespace(""), "namespace"),
            (request("a/b", HOUR), "serviceAccount"),
            (own, "serviceAccount"),
            (request("a", Duration::ZERO), "ttl"),
            (request("a", LONGEST_TOKEN_TTL + HOUR), "ttl"),
        ] {
            let error = store.create_token(wrong, [1; 32], "admin").await.unwrap_err();
            assert!(matches!(&error, TokenError::Invalid { field: found, .. } if *found == field), "{error}");
        }
        assert!(store.tokens().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn long_expired_tokens_are_forgotten() {
        let clock = clock();
        let (_directory, store) = open(&clock);
        store.create_token(request("old", HOUR), [1; 32], "admin").await.unwrap();
        clock.advance(HOUR + KEPT_AFTER_EXPIRY + HOUR);
        store.create_token(request("new", HOUR), [2; 32], "admin").await.unwrap();
        let accounts: Vec<_> =
            store.tokens().await.unwrap().into_iter().map(|token| token.service_account).collect();
        assert_eq!(accounts, ["new"]);
    }

    #[tokio::test]
    async fn the_secret_is_nowhere_in_the_directory() {
        let (directory, store) = open(&clock());
        let token = JoinToken::generate(Fingerprint::from([7; 32])).unwrap();
        store.create_token(request("payments", HOUR), token.secret_hash(), "admin").await.unwrap();
        let secret = token.to_string().split('.').nth(1).unwrap().to_owned();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}
