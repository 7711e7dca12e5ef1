//! What this process keeps of the machine's memory: a program that idles most of its life gives pages back.
//!
//! Two kinds: what the C library's allocator has free, and the program's own code that only starting up needed, which the
//! kernel maps again, a few microseconds a page, when it is run again.
//!
//! The one module of the workspace with `unsafe`, because these are C functions. A test holds it to that. Where there is no
//! such allocator (another C library) or no `/proc`, nothing is done.

#![expect(unsafe_code, reason = "mallopt, malloc_trim and madvise are C functions; each use says why it is sound")]

use std::ops::Range;

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
    #[cfg(target_os = "linux")]
    forget_code();
}

/// Takes the program's code out of this process's page tables. It stays in the page cache.
#[cfg(target_os = "linux")]
fn forget_code() {
    let (Ok(program), Ok(maps)) = (std::env::current_exe(), std::fs::read_to_string("/proc/self/maps")) else { return };
    for range in code(&maps, &program.to_string_lossy()) {
        let length = range.end - range.start;
        // SAFETY: the range is a mapping of this process, read from the kernel; it is code, or the constants at the head of
        // the file, neither of which the loader relocates. So every page is as the file has it, and the kernel reads it
        // from there when it is touched next, by any thread.
        unsafe {
            nix::libc::madvise(std::ptr::without_provenance_mut(range.start), length, nix::libc::MADV_DONTNEED);
        }
    }
}

/// Where a program's code and constants are mapped. Other read-only data is left alone: what the loader relocated there is in
/// no file.
fn code(maps: &str, program: &str) -> Vec<Range<usize>> {
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let mapping = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = line.find('/').map(|at| &line[at..])?;
        let (start, end) = range.split_once('-')?;
        let unchanged = rights == "r-xp" || rights == "r--p" && address(offset)? == 0;
        (unchanged && path == program).then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0c6d000 r--p 00000000 fe:00 42                         /opt/the coracle
55d0c0c6d000-55d0c2c87000 r-xp 00c6c000 fe:00 42                         /opt/the coracle
55d0c2c87000-55d0c2df5000 r--p 02c85000 fe:00 42                         /opt/the coracle
55d0c2df5000-55d0c2e00000 rw-p 02df3000 fe:00 42                         /opt/the coracle
55d0c3000000-55d0c4000000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000100000 r-xp 00026000 fe:00 43                         /usr/lib/libc.so.6
7f0000200000-7f0000201000 r-xp 00000000 00:00 0                          [vdso]
";

    #[test]
    fn only_the_programs_own_code_is_forgotten() {
        let (constants, code_itself) = (0x55d0_c000_0000..0x55d0_c0c6_d000, 0x55d0_c0c6_d000..0x55d0_c2c8_7000);
        assert_eq!(code(MAPS, "/opt/the coracle"), vec![constants, code_itself]);
        assert!(code(MAPS, "/opt/coracle").is_empty());
        assert!(code("what is this", "/opt/coracle").is_empty());
    }

    #[test]
    fn a_program_runs_on_after_it_has_given_back() {
        give_back();
        assert_eq!(format!("{}", 6 * 7), "42");
    }
}
