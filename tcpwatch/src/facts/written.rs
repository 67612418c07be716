//! How facts are written down that plain serde would make unreadable, or JSON has no key for.

use std::collections::BTreeMap;

use super::{StateCounts, TcpState};

/// Counts by the state's name; what is not named is 0.
impl From<BTreeMap<TcpState, u64>> for StateCounts {
    fn from(named: BTreeMap<TcpState, u64>) -> Self {
        let mut counts = Self::default();
        for (state, count) in named {
            counts.set(state, count);
        }
        counts
    }
}

impl From<StateCounts> for BTreeMap<TcpState, u64> {
    fn from(counts: StateCounts) -> Self {
        let named = TcpState::ALL.into_iter().map(|state| (state, counts.get(state)));
        named.filter(|&(_, count)| count > 0).collect()
    }
}

/// [`Namespace::close_wait_beyond`](super::Namespace::close_wait_beyond) as rows: a key of JSON is a
/// string.
pub(super) mod beyond {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::facts::Role;

    pub(in crate::facts) fn serialize<S: Serializer>(
        beyond: &BTreeMap<(Role, u16), u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(beyond.iter().map(|(&(role, port), &count)| (role, port, count)))
    }

    pub(in crate::facts) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<(Role, u16), u64>, D::Error> {
        let rows = Vec::<(Role, u16, u64)>::deserialize(from)?;
        Ok(rows.into_iter().map(|(role, port, count)| ((role, port), count)).collect())
    }
}
