//! How the C library's allocator behaves in this process: a program that idles most of its life gives pages back.
//!
//! The one module of the workspace with `unsafe`, because the allocator's settings are C functions. A test holds it to that.
//! Where there is no such allocator (another C library), nothing is done.

#![expect(unsafe_code, reason = "mallopt and malloc_trim are C functions; each use says why it is sound")]

/// Free memory at the end of the heap beyond which it goes back to the system, bytes.
#[cfg(target_env = "gnu")]
const TRIM_ABOVE: i32 = 256 * 1024;
/// How many heaps threads may spread over. More cost memory for contention that a program of this kind does not have.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// To be called before there are threads.
pub(crate) fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt reads two integers. It must not race with itself, and no other thread runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, TRIM_ABOVE);
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives back what starting up needed and nothing uses any more.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only free memory.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
