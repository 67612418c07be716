//! Which network namespaces the hooks count.
//!
//! The value can change while the programs run, because a reload may change `[inventory]
//! namespaces`. It lies in a global and not in a map, so that a hook reads it with one load. The
//! namespace is looked up only where a single one is counted.

use core::ptr::read_volatile;

use tcpwatch_common::scope;

use crate::sock::Namespace;

/// [`scope::ALL`], or the inode number of the only namespace that is counted. The agent writes it
/// through the map of its section, [`tcpwatch_common::maps::SCOPE`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.scope")]
static mut COUNTED_NETNS: u32 = scope::NONE;

/// Whether this namespace is counted.
#[inline(always)]
pub(crate) fn covers(namespace: Namespace) -> bool {
    let counted = counted();
    counted == scope::ALL || counted == namespace.inode()
}

/// Whether every namespace is counted, so also one that is not known.
#[inline(always)]
pub(crate) fn covers_unknown() -> bool {
    counted() == scope::ALL
}

#[inline(always)]
fn counted() -> u32 {
    // SAFETY: an aligned word of this program; the agent writes it as a whole. Volatile, so that
    // the compiler does not fold the initial value into the code.
    unsafe { read_volatile(&raw const COUNTED_NETNS) }
}
