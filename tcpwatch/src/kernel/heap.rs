//! Memory that is free goes back to the kernel. musl does so by itself; glibc keeps it for later.

/// Large memory is a mapping of its own from now on, which goes back when it is freed and grows without a
/// copy. glibc would keep the next such memory in its heap once one was freed.
pub(super) fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    {
        /// glibc's default, which is fixed once it is set (mallopt(3)).
        const LARGE_BYTES: libc::c_int = 128 * 1024;
        // SAFETY: takes no pointer and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        }
    }
}

/// Gives back what is free now.
pub(super) fn return_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
