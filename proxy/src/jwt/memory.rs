//! Tokens that were good a moment ago, so that one that comes with every request is checked once.
//!
//! Known by the hash of all of their text, each for as long as it is good, and all of them until the keys or anything
//! else about the port's issuers changes. Bad ones are not remembered. Belongs to one worker.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};

use super::{Invalid, Jwt, Place, Verified};
use crate::failure::Side;
use crate::hash::FastMap;

/// So many are remembered for each port; beyond that all are forgotten and the memory begins anew.
const MOST: usize = 512;

/// What one worker remembers, by port: the workload's, or that of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Memory(HashMap<(Side, u16), OfPort>);

#[derive(Debug)]
struct OfPort {
    jwt: Arc<Jwt>,
    good: FastMap<[u8; 32], Rc<Verified>>,
}

impl Memory {
    /// Checks a token, or remembers that it is good.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn verify(
        &mut self,
        at: (Side, u16),
        jwt: &Arc<Jwt>,
        token: &str,
        place: &Place,
        now: SystemTime,
    ) -> Result<Rc<Verified>, Invalid> {
        let fresh = || OfPort { jwt: jwt.clone(), good: FastMap::default() };
        let known = self.0.entry(at).or_insert_with(fresh);
        if !Arc::ptr_eq(&known.jwt, jwt) {
            *known = fresh();
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(verified) = known.good.get(&hash)
            && now < verified.until
            && jwt.issuers[verified.issuer].place == *place
        {
            return Ok(verified.clone());
        }
        let verified = Rc::new(jwt.verify(token, place, now)?);
        if known.good.len() >= MOST {
            known.good.clear();
        }
        known.good.insert(hash, verified.clone());
        Ok(verified)
    }
}
