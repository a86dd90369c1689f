//! The host's memory, for what is read from end to end over and over: weights, gradients, arenas.
//!
//! A processor translates addresses page by page, and in a virtual machine in two steps, so that a stream of 4 KiB pages
//! waits for translations: in pages of 2 MiB one thread read weights a quarter faster (docs/performance.md). Linux gives such
//! pages to nobody, to everybody, or, as most distributions have it, to those who ask; and only where nothing was touched
//! before, which the memory of an allocator often was.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What memory of zeros is full of valid values of.
///
/// # Safety
/// All bits zero must be a value, alignment at most [`ALIGN`], and dropping must do nothing.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: 0.0 has no bit set.
unsafe impl Plain for f32 {}

/// Every block begins at a multiple of this many bytes: a cache line, and the widest vector.
pub const ALIGN: usize = align_of::<Line>();

#[repr(align(64))]
struct Line;

/// A large page of x86-64, and of AArch64 with small pages of 4 KiB. Blocks from this size on are mapped by the system, at
/// a multiple of it, so that all but their end is large pages; smaller ones are the allocator's.
#[cfg(any(target_os = "linux", test))]
const LARGE: usize = 2 << 20;

/// `len` values in memory that is theirs alone, zeros at first; in large pages where it is large and the system has some.
pub struct Block<T: Plain = f32> {
    memory: Memory,
    len: usize,
    values: PhantomData<T>,
}

enum Memory {
    Allocated(NonNull<u8>, Layout),
    #[cfg(target_os = "linux")]
    /// And where the block begins in it.
    Mapped(memmap2::MmapMut, usize),
}

// SAFETY: the memory is the block's alone.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn start(&self) -> *const u8 {
        match self {
            Memory::Allocated(start, _) => start.as_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Mapped(map, before) => map[*before..].as_ptr(),
        }
    }

    fn start_mut(&mut self) -> *mut u8 {
        match self {
            Memory::Allocated(start, _) => start.as_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Mapped(map, before) => map[*before..].as_mut_ptr(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self {
            // SAFETY: allocated with this layout, which is not of size 0, and nowhere else given back.
            Memory::Allocated(start, layout) if layout.size() > 0 => unsafe {
                dealloc(start.as_ptr(), *layout);
            },
            _ => {}
        }
    }
}

impl<T: Plain> Block<T> {
    /// # Errors
    /// What the system says when it has no room.
    pub fn try_zeros(len: usize) -> Result<Block<T>, String> {
        let beyond = || "it is larger than the address space".to_owned();
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(beyond)?;
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| beyond())?;
        let memory = match bytes {
            0 => Memory::Allocated(NonNull::<Line>::dangling().cast(), layout),
            #[cfg(target_os = "linux")]
            LARGE.. => {
                let map = memmap2::MmapMut::map_anon(bytes.saturating_add(LARGE))
                    .map_err(|error| error.to_string())?;
                // A kernel without large pages says so, and all is as it was.
                let _ = map.advise(memmap2::Advice::HugePage);
                let before = map.as_ptr().align_offset(LARGE);
                Memory::Mapped(map, before)
            }
            // SAFETY: not of size 0.
            _ => match NonNull::new(unsafe { alloc_zeroed(layout) }) {
                Some(start) => Memory::Allocated(start, layout),
                None => return Err("the system has no such memory left".to_owned()),
            },
        };
        Ok(Block { memory, len, values: PhantomData })
    }

    /// # Panics
    /// When the system has no room.
    pub fn zeros(len: usize) -> Block<T> {
        Block::try_zeros(len).unwrap_or_else(|problem| {
            panic!("no room for {len} values of {} bytes: {problem}", size_of::<T>())
        })
    }
}

impl<T: Plain> Default for Block<T> {
    fn default() -> Self {
        Block::zeros(0)
    }
}

impl<T: Plain> Deref for Block<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as many values as there is memory for, which began as zeros, aligned for all that is `Plain`.
        unsafe { std::slice::from_raw_parts(self.memory.start().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start_mut().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_size_are_zeros_that_can_be_written() {
        for len in [0, 1, 1000, LARGE / 4 - 1, LARGE / 4, LARGE / 4 + 5] {
            let mut block = Block::<f32>::zeros(len);
            assert_eq!((block.len(), block.as_ptr() as usize % ALIGN), (len, 0));
            assert!(block.iter().all(|x| *x == 0.0));
            block.fill(1.5);
            assert_eq!(block.iter().sum::<f32>(), 1.5 * len as f32);
        }
        assert!(Block::<f32>::default().is_empty());
        assert!(Block::<f32>::try_zeros(usize::MAX / 8).is_err());
        assert!(Block::<f32>::try_zeros(usize::MAX).is_err());
    }

    /// Oracle: the kernel's own list of areas, where `hg` means that large pages were asked for.
    #[cfg(target_os = "linux")]
    #[test]
    fn large_blocks_ask_for_large_pages() {
        let block = Block::<f32>::zeros(4 << 20);
        let Ok(areas) = std::fs::read_to_string("/proc/self/smaps") else {
            return println!("skipped: this system has no /proc/self/smaps");
        };
        let has_large = std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists();
        if !has_large || !areas.contains("VmFlags:") {
            return println!("skipped: this kernel has no large pages, or does not list who asked for them");
        }
        let flags_at = |address: usize| {
            let mut inside = false;
            for line in areas.lines() {
                if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                    && let (Ok(from), Ok(to)) =
                        (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
                {
                    inside = (from..to).contains(&address);
                }
                if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                    return flags.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                }
            }
            panic!("{address:x} is not mapped");
        };
        for at in [0, block.len() / 2, block.len() - 1] {
            let flags = flags_at(&raw const block[at] as usize);
            assert!(flags.iter().any(|flag| flag == "hg"), "{flags:?}");
        }
    }
}
