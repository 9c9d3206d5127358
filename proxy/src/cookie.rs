//! Cookies, as far as a proxy has to do with them: finding one in a request, and setting one of its own (RFC 6265).

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// A cookie that the proxy sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: Box<str>,
    /// Where on the host the client sends it.
    pub path: Box<str>,
    /// How long the client keeps it. `None`: until its own session ends.
    pub ttl: Option<Duration>,
}

impl Cookie {
    /// Its value in a request: of several cookies of the name the first, which is that of the longest path.
    pub fn find<'a>(&self, fields: &'a HeaderMap) -> Option<&'a [u8]> {
        // HTTP/2 may send each in a field of its own (RFC 9113 section 8.2.3).
        let all = fields.get_all(header::COOKIE).iter();
        all.flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
        })
    }

    /// The field that gives it this value, for as long as `ttl` or, if that is shorter, `left`. `None`: the name or the
    /// path is not one that a cookie can have.
    pub fn set(&self, value: &str, left: Option<Duration>) -> Option<HeaderValue> {
        let mut text = format!("{}={value}; Path={}", self.name, self.path);
        if let Some(ttl) = self.ttl {
            // Whole seconds: what would round to none is one, since none would delete the cookie.
            let ttl = left.map_or(ttl, |left| left.min(ttl)).as_secs().max(1);
            let _ = write!(text, "; Max-Age={ttl}"); // a String takes anything
        }
        text.push_str("; HttpOnly; SameSite=Lax");
        HeaderValue::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(ttl: Option<Duration>) -> Cookie {
        Cookie { name: "user".into(), path: "/".into(), ttl }
    }

    #[test]
    fn one_is_found_among_others() {
        for (fields, expected) in [
            (&["user=7"][..], Some("7")),
            (&["a=b; user=7; user=8"], Some("7")),
            (&["a=b;user=\"7\""], Some("7")),
            (&["superuser=1; users=2", "user=3"], Some("3")),
            (&["user="], Some("")),
            (&["user; User=1"], None),
            (&[], None),
        ] {
            let fields = fields.iter().map(|text| (header::COOKIE, HeaderValue::from_static(text)));
            let fields: HeaderMap =
                fields.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut all, (name, value)| {
                    all.append(name, value);
                    all
                });
            assert_eq!(cookie(None).find(&fields), expected.map(str::as_bytes), "{fields:?}");
        }
    }

    #[test]
    fn it_is_set_for_its_time() {
        let set = |ttl, left| cookie(ttl).set("7", left).unwrap();
        assert_eq!(set(None, None), "user=7; Path=/; HttpOnly; SameSite=Lax");
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(set(hour, None), "user=7; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        let left = Some(Duration::from_millis(10));
        assert_eq!(set(hour, left), "user=7; Path=/; Max-Age=1; HttpOnly; SameSite=Lax");
        let broken = Cookie { path: "/\n".into(), ..cookie(None) };
        assert_eq!(broken.set("7", None), None);
    }
}
