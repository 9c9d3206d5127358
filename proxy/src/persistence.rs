//! Sessions: the requests of one client stay with the endpoint that answered its first (Gateway API, GEP-1619).
//!
//! The endpoint is named by a token that the client carries. It is sealed with a key that all proxies of the mesh have
//! for the rule and no client has, so that it reads the same wherever the client comes next, tells nobody anything, and
//! cannot be made up. Even a client that could make one up would reach nothing but the rule's own endpoints: the token
//! holds no address, only a mark by which an endpoint is found among those that the proxy knows. A token that is not
//! understood, too old, or whose endpoint is gone, is as good as none: there is a new choice, and a new token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::cookie::Cookie;
use crate::ring;

/// What a rule says of sessions.
#[derive(Debug)]
pub struct SessionPolicy {
    carrier: Carrier,
    absolute_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    key: hmac::Key,
}

/// Where the token travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// In a cookie.
    Cookie(Cookie),
    /// In a field of this name, in both directions.
    Header(HeaderName),
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Which endpoint, see [`mark`].
    pub mark: u64,
    /// Milliseconds since 1970: when it was begun and when it was last used, as far as that is kept.
    begun: u64,
    used: u64,
}

/// What an endpoint is called in a token.
pub fn mark(id: &str) -> u64 {
    ring::key(id.bytes())
}

/// The mark and two times of six bytes.
const PLAIN: usize = 8 + 6 + 6;
/// The seal, which is what the rest is encrypted with as well.
const SEAL: usize = 16;

impl SessionPolicy {
    /// Sessions that are carried like this, for so long, sealed with this key.
    pub fn new(
        carrier: Carrier,
        absolute_timeout: Option<Duration>,
        idle_timeout: Option<Duration>,
        key: &[u8],
    ) -> Self {
        Self { carrier, absolute_timeout, idle_timeout, key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The session that a request belongs to. `None`: none that is still good.
    pub fn of(&self, fields: &HeaderMap, now: SystemTime) -> Option<Session> {
        let token = match &self.carrier {
            Carrier::Cookie(cookie) => cookie.find(fields),
            Carrier::Header(name) => fields.get(name).map(HeaderValue::as_bytes),
        };
        let session = self.open(token?)?;
        let passed = |since: u64| Duration::from_millis(milliseconds(now).saturating_sub(since));
        let is_over = |limit: Option<Duration>, since| limit.is_some_and(|limit| passed(since) > limit);
        let is_good =
            !is_over(self.absolute_timeout, session.begun) && !is_over(self.idle_timeout, session.used);
        is_good.then_some(session)
    }

    /// What an answer of the endpoint with this id carries, so that the next request comes to it as well: nothing where
    /// the client has it already.
    pub fn carry(
        &self,
        session: Option<Session>,
        id: &str,
        now: SystemTime,
    ) -> Option<(HeaderName, HeaderValue)> {
        let (mark, now) = (mark(id), milliseconds(now));
        let known = session.filter(|session| session.mark == mark);
        let begun = known.map_or(now, |session| session.begun);
        let token = || self.seal(Session { mark, begun, used: now });
        match &self.carrier {
            Carrier::Header(name) => Some((name.clone(), HeaderValue::from_str(&token()).ok()?)),
            Carrier::Cookie(_) if known.is_some() && self.idle_timeout.is_none() => None,
            Carrier::Cookie(cookie) => {
                let passed = Duration::from_millis(now.saturating_sub(begun));
                let left = self.absolute_timeout.map(|limit| limit.saturating_sub(passed));
                Some((header::SET_COOKIE, cookie.set(&token(), left)?))
            }
        }
    }

    fn seal(&self, session: Session) -> String {
        let mut bytes = [0; PLAIN];
        bytes[..8].copy_from_slice(&session.mark.to_be_bytes());
        bytes[8..14].copy_from_slice(&session.begun.to_be_bytes()[2..]);
        bytes[14..].copy_from_slice(&session.used.to_be_bytes()[2..]);
        let seal = self.seal_of(&bytes);
        self.veil(&seal, &mut bytes);
        seal.iter().chain(&bytes).map(|byte| format!("{byte:02x}")).collect()
    }

    fn open(&self, token: &[u8]) -> Option<Session> {
        let digit = |digit: &u8| char::from(*digit).to_digit(16).map(|digit| digit as u8);
        let bytes = token.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Vec<u8> =
            if token.len() == 2 * (SEAL + PLAIN) { bytes.collect::<Option<_>>()? } else { return None };
        let (seal, plain) = bytes.split_at(SEAL);
        let mut plain: [u8; PLAIN] = plain.try_into().ok()?;
        self.veil(seal, &mut plain);
        let expected = self.seal_of(&plain);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, seal).ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some(Session { mark: number(&plain[..8]), begun: number(&plain[8..14]), used: number(&plain[14..]) })
    }

    /// A code of what is said, which nobody without the key can make.
    fn seal_of(&self, plain: &[u8; PLAIN]) -> [u8; SEAL] {
        self.code(b"seal", plain)
    }

    /// Hides what is said, or shows it again. Two tokens that say the same look the same; nobody minds.
    fn veil(&self, seal: &[u8], plain: &mut [u8; PLAIN]) {
        let veil: [u8; PLAIN] = self.code(b"veil", seal);
        plain.iter_mut().zip(veil).for_each(|(plain, veil)| *plain ^= veil);
    }

    fn code<const BYTES: usize>(&self, purpose: &[u8], of: &[u8]) -> [u8; BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose);
        context.update(of);
        let tag = context.sign();
        std::array::from_fn(|index| tag.as_ref()[index]) // at most the 32 that there are
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn cookie(ttl: Option<Duration>) -> Carrier {
        Carrier::Cookie(Cookie { name: "s".into(), path: "/".into(), ttl })
    }

    fn policy(absolute: Option<Duration>, idle: Option<Duration>) -> SessionPolicy {
        SessionPolicy::new(cookie(None), absolute, idle, b"key")
    }

    /// The request that follows on an answer with this cookie.
    fn next(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(pair).unwrap())])
    }

    #[test]
    fn a_session_is_taken_up_by_every_proxy_that_has_the_key() {
        let (_, set) = policy(None, None).carry(None, "payments-1", start()).unwrap();
        let session = policy(None, None).of(&next(&set), start() + 1000 * HOUR).unwrap();
        assert_eq!(session.mark, mark("payments-1"));
        assert_eq!(policy(None, None).carry(Some(session), "payments-1", start()), None, "the client has it");
        let moved = policy(None, None).carry(Some(session), "payments-2", start()).unwrap().1;
        assert_eq!(policy(None, None).of(&next(&moved), start()).unwrap().mark, mark("payments-2"));
        let other = SessionPolicy::new(cookie(None), None, None, b"another rule's");
        assert_eq!(other.of(&next(&set), start()), None);
    }

    #[test]
    fn a_session_ends_with_its_time() {
        let absolute = policy(Some(HOUR), None);
        let (_, set) = absolute.carry(None, "a", start()).unwrap();
        assert!(absolute.of(&next(&set), start() + HOUR).is_some());
        assert!(absolute.of(&next(&set), start() + HOUR + Duration::from_millis(1)).is_none());

        let idle = policy(Some(3 * HOUR), Some(HOUR));
        let (mut set, mut now) = (idle.carry(None, "a", start()).unwrap().1, start());
        for _ in 0..3 {
            now += HOUR;
            let session = idle.of(&next(&set), now).unwrap();
            set = idle.carry(Some(session), "a", now).expect("a later token").1;
        }
        assert!(idle.of(&next(&set), now + Duration::from_millis(1)).is_none(), "however often it was used");
        let (_, set) = idle.carry(None, "a", start()).unwrap();
        assert!(idle.of(&next(&set), start() + HOUR + Duration::from_millis(1)).is_none());
    }

    #[test]
    fn a_permanent_cookie_lasts_as_long_as_the_session() {
        let policy = SessionPolicy::new(cookie(Some(HOUR)), Some(HOUR), Some(HOUR), b"key");
        let (_, set) = policy.carry(None, "a", start()).unwrap();
        assert!(set.to_str().unwrap().contains("Max-Age=3600"), "{set:?}");
        let session = policy.of(&next(&set), start() + HOUR / 2);
        let (_, set) = policy.carry(session, "a", start() + HOUR / 2).unwrap();
        assert!(set.to_str().unwrap().contains("Max-Age=1800"), "{set:?}");
    }

    #[test]
    fn a_header_carries_it_in_both_directions() {
        let name = HeaderName::from_static("x-session");
        let policy = SessionPolicy::new(Carrier::Header(name.clone()), None, None, b"key");
        let (carried, value) = policy.carry(None, "a", start()).unwrap();
        assert_eq!(carried, name);
        let session = policy.of(&HeaderMap::from_iter([(name, value)]), start());
        assert!(policy.carry(session, "a", start()).is_some(), "every answer says it");
    }

    proptest! {
        /// What was not sealed here is no session, and never more than that.
        #[test]
        fn no_other_text_is_a_session(token in "[0-9a-f]{72}|.{0,80}", at in 0usize..72) {
            let policy = policy(None, None);
            let text = HeaderValue::from_bytes(format!("s={token}").as_bytes());
            if let Ok(text) = text {
                prop_assert_eq!(policy.of(&HeaderMap::from_iter([(header::COOKIE, text)]), start()), None);
            }
            let mut sealed = policy.seal(Session { mark: 1, begun: 2, used: 3 }).into_bytes();
            sealed[at] = if sealed[at] == b'0' { b'1' } else { b'0' };
            prop_assert_eq!(policy.open(&sealed), None);
        }
    }
}
