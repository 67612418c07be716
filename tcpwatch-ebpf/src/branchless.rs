//! Comparisons without a branch: the verifier follows both ways of each, in each turn of a loop and in
//! each function behind it, and the processor guesses wrong.

use core::arch::asm;

/// 1, or 0 for 0. BPF has comparisons only as branches, so it is computed, where the compiler cannot
/// see that it is a comparison.
#[inline(always)]
pub(crate) fn is_not_zero(value: u64) -> u64 {
    let mut negative = value;
    // SAFETY: it changes only this register.
    unsafe {
        asm!("{0} = -{0}", inout(reg) negative, options(pure, nomem, nostack, preserves_flags));
    }
    let mut sign = value | negative;
    // SAFETY: as above.
    unsafe {
        asm!("{0} >>= 63", inout(reg) sign, options(pure, nomem, nostack, preserves_flags));
    }
    sign
}

/// 1 where the value is above the bound, else 0. Both are below 2^63.
#[inline(always)]
pub(crate) fn is_above(value: u64, bound: u64) -> u64 {
    let mut sign = bound.wrapping_sub(value);
    // SAFETY: it changes only this register.
    unsafe {
        asm!("{0} >>= 63", inout(reg) sign, options(pure, nomem, nostack, preserves_flags));
    }
    sign
}
