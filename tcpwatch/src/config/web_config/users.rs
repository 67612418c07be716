//! Users and the bcrypt hashes of their passwords.

use std::collections::BTreeMap;

use super::{Refusal, yaml};
use crate::config::error;

/// The section, for errors.
const PATH: &str = "basic_auth_users";

/// The highest cost of a hash. Each step doubles the time of a check: cost 10 takes about 70 ms of
/// one CPU, cost 14 a second. Above it a stranger with wrong passwords costs this host too much, and
/// a scrape comes near its timeout.
pub(super) const MAX_COST: u32 = 14;

/// The user name with the hash of the password.
pub type Users = BTreeMap<String, PasswordHash>;

/// A password as bcrypt has hashed it. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The text, which begins with `$2`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The text itself is a secret, and a clear password if the operator has mistaken the key.
        let parts: bcrypt::HashParts = text.parse().map_err(|_| {
            "expected a bcrypt hash ($2y$10$...), as `htpasswd -nBC 10 \"\"` prints".to_owned()
        })?;
        match parts.get_cost() {
            ..4 => Err("a bcrypt hash has a cost of at least 4".to_owned()),
            cost if cost > MAX_COST => Err(format!(
                "cost {cost} is not supported: a check would take seconds of this host's CPU; \
                 expected at most {MAX_COST}"
            )),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// `$2y$` and what follows; the letter is one of four.
fn looks_like_hash(name: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|version| name.starts_with(version))
}

pub(super) fn read(node: yaml::Node) -> Result<Users, Refusal> {
    let entries = match node.value {
        yaml::Value::Map(entries) => entries,
        other => {
            let why = format!("{PATH}: expected a mapping, found {}", other.kind());
            return Err(node.place.refuse(why));
        }
    };
    let mut users = Users::new();
    for (key, node) in entries {
        // Text that is no name may be a hash or a password, and is not repeated.
        if looks_like_hash(&key.name) {
            let why = format!("{PATH}: expected a user name before the colon, found a bcrypt hash");
            return Err(key.place.refuse(why));
        }
        let name = key.name.split(':').next().unwrap_or_default();
        let path = error::join(PATH, &error::bare_or_quoted(name));
        if name != key.name {
            // RFC 7617 section 2: the first colon ends the name.
            let why = format!("{path}: a user name cannot contain a colon");
            return Err(key.place.refuse(why));
        }
        let yaml::Value::Scalar(scalar) = node.value else {
            let why = format!("{path}: expected a bcrypt hash, found {}", node.value.kind());
            return Err(node.place.refuse(why));
        };
        let hash = PasswordHash::parse(&scalar.text)
            .map_err(|why| node.place.refuse(format!("{path}: {why}")))?;
        users.insert(key.name, hash);
    }
    Ok(users)
}
