//! What stays resident of the program's own code, though nobody needs it now.
//!
//! The kernel maps 64 KB of a file, or more, around each touch and unmaps
//! nothing by itself, so code that ran once stays resident. Given back, it is
//! as a rule still in the kernel's cache, and costs a page fault when it is
//! needed again; else it is read again.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Gives back the program's code; what is in use returns by itself. Returns how
/// many bytes of code there are.
///
/// # Errors
/// The kernel does not say where it is, or does not take it.
pub fn give_back() -> io::Result<usize> {
    give_back_code(&own_code()?)
}

/// Where the file with this function is mapped.
fn own_code() -> io::Result<Range<usize>> {
    let maps = BufReader::new(File::open("/proc/self/maps")?);
    code_around(give_back as fn() -> _ as usize, maps)
}

#[expect(unsafe_code, reason = "to give back pages is to change memory")]
fn give_back_code(code: &Range<usize>) -> io::Result<usize> {
    // SAFETY: the range is code of a file that cannot be written to, so what is
    // read there after this is what was there before. Only a debugger or
    // a tracer writes there all the same; it loses its breakpoints.
    unsafe { madvise(code.start as *mut _, code.len(), Advice::LinuxDontNeed) }?;
    Ok(code.len())
}

/// The code of a file that is mapped around `address`: proc_pid_maps(5).
fn code_around(address: usize, maps: impl BufRead) -> io::Result<Range<usize>> {
    for line in maps.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split_ascii_whitespace();
        if let (Some(range), Some("r-xp"), Some(path)) = (words.next(), words.next(), words.nth(3))
            && path.starts_with('/')
            && let Some(range) = parse(range)
            && range.contains(&address)
        {
            return Ok(range);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn parse(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::*;

    const MAPS: &[u8] = b"\
        00400000-00401000 r--p 00000000 fe:00 5309568    /bin/pap-collector\n\
        00401000-005bf000 r-xp 00001000 fe:00 5309568    /bin/pap-\xff-collector\n\
        005bf000-006af000 r--p 001bf000 fe:00 5309568    /bin/pap-collector\n\
        006af000-006b7000 rw-p 002ae000 fe:00 5309568    /bin/pap-collector\n\
        7f458b000000-7f458b001000 rwxp 00000000 fe:00 77 /lib/patched.so\n\
        7f458b100000-7f458b102000 r-xp 00003000 fe:00 78 /lib/with spaces.so (deleted)\n\
        7f458e162000-7f458e164000 r-xp 00000000 00:00 0  [vdso]\n\
        7f458e200000-7f458e201000 r-xp 00000000 00:00 0 \n";

    #[test]
    fn only_code_of_a_file_is_found() {
        assert_eq!(code_around(0x40_1000, MAPS).unwrap(), 0x40_1000..0x5b_f000);
        assert_eq!(code_around(0x7f45_8b10_1fff, MAPS).unwrap(), 0x7f45_8b10_0000..0x7f45_8b10_2000);
        for elsewhere in
            [0x40_0fff, 0x5b_f000, 0x6b_0000, 0x7f45_8b00_0000, 0x7f45_8e16_2000, 0x7f45_8e20_0000]
        {
            let error = code_around(elsewhere, MAPS).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{elsewhere:x}");
        }
    }

    /// What is resident of a mapping, in KB: proc_pid_smaps(5).
    fn resident(range: &Range<usize>) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_it = smaps.split_once(&format!("{:x}-{:x} ", range.start, range.end)).unwrap().1;
        let line = of_it.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    #[expect(unsafe_code, reason = "to map a file is unsafe by nature")]
    fn what_is_given_back_is_not_resident_and_returns() {
        const PAGE: usize = 4096;
        let mut file = tempfile::tempfile().unwrap();
        (1..=64).for_each(|byte| file.write_all(&[byte; PAGE]).unwrap());
        file.rewind().unwrap();
        let length = 64 * PAGE;
        // SAFETY: a new mapping of a file that nobody changes.
        let bytes = unsafe {
            let at =
                mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0).unwrap();
            std::slice::from_raw_parts(at.cast::<u8>(), length)
        };
        let start = bytes.as_ptr().addr();
        let range = start..start + length;
        let read = || bytes.iter().step_by(PAGE).map(|&byte| u32::from(byte)).sum::<u32>();
        assert_eq!(read(), 64 * 65 / 2);
        assert_eq!(resident(&range), 256);
        assert_eq!(give_back_code(&range).unwrap(), length);
        assert_eq!(resident(&range), 0);
        assert_eq!(read(), 64 * 65 / 2);
        assert_eq!(resident(&range), 256);
    }

    #[test]
    fn our_code_is_found_and_goes_on() {
        assert!(own_code().unwrap().contains(&(resident as fn(&_) -> _ as usize)));
        assert!(give_back().unwrap() > 0);
    }
}
