//! Basic authentication (RFC 7617) against bcrypt hashes.
//!
//! A check takes some 70 ms of one CPU at cost 10. So it runs on a thread that is not the loop's,
//! one at a time, and its outcome is kept. The key of an outcome is an HMAC of user, hash and
//! password: no password stays in memory, and a new hash makes the outcomes before it useless. The
//! outcomes of good and of bad passwords are kept apart, so strangers evict only each other's.
//!
//! A user that does not exist costs what a wrong password costs: the hash of another user is
//! checked, always the same one for one name, and its outcome does not count.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::HeaderValue;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{hmac, rand::SystemRandom};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::{config::Users, publish::places::Peer};

/// Outcomes of each kind that are kept. A host has a few users and scrapers.
const MAX_KEPT: usize = 128;

/// How long a request waits for the checks before it: less than the default timeout of a scrape,
/// 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whether a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    /// No user name, an unknown one, or a wrong password.
    Denied,
    /// Too many other checks come first.
    Busy,
}

/// Checks passwords, and keeps the outcomes.
pub(super) struct Passwords {
    key: hmac::Key,
    kept: Mutex<Kept>,
    /// One check at a time.
    turn: Arc<Semaphore>,
    /// Peers with a request that waits for its check, or has it under way.
    waiting: Mutex<HashSet<Peer>>,
}

/// The only request of a peer that waits.
struct Waiting<'a> {
    all: &'a Mutex<HashSet<Peer>>,
    peer: Peer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.peer);
    }
}

type Digest = [u8; 32];

#[derive(Default)]
struct Kept {
    granted: HashSet<Digest>,
    denied: HashSet<Digest>,
}

impl Kept {
    fn get(&self, digest: &Digest) -> Option<Verdict> {
        let (granted, denied) = (self.granted.contains(digest), self.denied.contains(digest));
        match (granted, denied) {
            (true, _) => Some(Verdict::Granted),
            (false, true) => Some(Verdict::Denied),
            (false, false) => None,
        }
    }

    fn keep(&mut self, digest: Digest, is_granted: bool) {
        let kept = if is_granted { &mut self.granted } else { &mut self.denied };
        // Rare, and each scraper then pays for one more check.
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(digest);
    }
}

impl Passwords {
    pub(super) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the kernel has random numbers");
        Self {
            key,
            kept: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Mutex::default(),
        }
    }

    /// Whether `authorization`, the header of a request of `peer`, names one of the users with its
    /// password. Of one peer one request waits; the others are refused as busy, so that a peer that
    /// guesses does not fill the queue before the others.
    pub(super) async fn check(
        &self,
        users: &Users,
        authorization: Option<&HeaderValue>,
        peer: Peer,
    ) -> Verdict {
        if users.is_empty() {
            return Verdict::Granted;
        }
        let Some((user, password)) = authorization.and_then(credentials) else {
            return Verdict::Denied;
        };
        let known = std::str::from_utf8(&user).ok().and_then(|user| users.get(user));
        let is_known = known.is_some();
        let Some(hash) = known.or_else(|| self.decoy(users, &user)) else { return Verdict::Denied };
        let hash = hash.as_str().to_owned();
        let digest = self.digest(&[&user, hash.as_bytes(), &password]);
        if let Some(verdict) = self.kept(&digest) {
            return verdict;
        }
        if !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(peer) {
            return Verdict::Busy;
        }
        let _waiting = Waiting { all: &self.waiting, peer };
        let turn = Arc::clone(&self.turn).acquire_owned();
        let Ok(Ok(turn)) = timeout(PATIENCE, turn).await else { return Verdict::Busy };
        // A request before this one may have had the same password.
        if let Some(verdict) = self.kept(&digest) {
            return verdict;
        }
        let check = spawn_blocking(move || {
            // Held to the end of the check, also if the connection is closed meanwhile.
            let _turn = turn;
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        let Ok(is_right) = check.await else { return Verdict::Busy };
        let is_granted = is_right && is_known;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(digest, is_granted);
        if is_granted { Verdict::Granted } else { Verdict::Denied }
    }

    fn kept(&self, digest: &Digest) -> Option<Verdict> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(digest)
    }

    /// The hash that is checked for a user who does not exist.
    fn decoy<'a>(&self, users: &'a Users, user: &[u8]) -> Option<&'a crate::config::PasswordHash> {
        let digest = self.digest(&[user]);
        let (number, _) = digest.split_first_chunk()?;
        let index = u64::from_le_bytes(*number) % u64::try_from(users.len()).ok()?;
        users.values().nth(usize::try_from(index).ok()?)
    }

    /// Each part with its length before it, so that no two lists of parts are one text.
    fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("an HMAC with SHA-256 has 32 bytes")
    }
}

/// User and password of an `Authorization` header. A user name has no colon.
fn credentials(authorization: &HeaderValue) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut user = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

#[cfg(test)]
mod tests;
