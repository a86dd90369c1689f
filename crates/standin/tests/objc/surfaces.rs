//! Surfaces, and what locks are for.

use half::f16;

use crate::alone::alone;
use crate::driver::*;
use crate::mil_text::*;

const SHAPE: &str = "1, 384, 1, 64";
const COUNT: usize = 384 * 64;
const BYTES: usize = 2 * COUNT;

/// Writes a half to the front, under whatever lock there is.
fn scribble(address: *mut std::ffi::c_void, value: f32) {
    // SAFETY: surfaces of these tests are larger than a half, and are never freed.
    unsafe { address.cast::<f16>().write(f16::from_f32(value)) };
}

alone! {
    /// The ane crate gives the first four properties only.
    a_surface_has_the_size_that_is_asked_for under "M4/Orion" = |driver| {
        let four = [
            ("kIOSurfaceWidth", 1000),
            ("kIOSurfaceHeight", 1),
            ("kIOSurfaceBytesPerElement", 1),
            ("kIOSurfaceBytesPerRow", 1024),
        ];
        let surface = driver.create(&four).expect("a surface");
        let sizes = ["AllocSize", "Width", "Height", "BytesPerElement", "BytesPerRow"]
            .map(|name| driver.size(&format!("IOSurfaceGet{name}"), &surface));
        assert_eq!(sizes, [1024, 1000, 1, 1, 1024]);
        for missing in 0..2 {
            let others: Vec<_> = (0..4).filter(|index| *index != missing).map(|index| four[index]).collect();
            assert!(driver.create(&others).is_none(), "{missing}");
        }
        let narrow = four.map(|(name, value)| (name, if name == "kIOSurfaceBytesPerRow" { 999 } else { value }));
        assert!(driver.create(&narrow).is_none());
        let small = [&four[..], &[("kIOSurfaceAllocSize", 1023)]].concat();
        assert!(driver.create(&small).is_none());
        &[]
    };

    /// A driver that counts on what is in a new one is told so by its results.
    a_surface_begins_as_nothing_and_keeps_what_is_written under "M4/Orion" = |driver| {
        let surface = driver.surface(BYTES);
        assert_eq!(surface.read(COUNT), [85.3125; COUNT]);
        surface.write(&[3.0; 5]);
        assert_eq!(surface.read(5), [3.0; 5]);
        &[]
    };

    /// ANE-018: creation may fail, and a second attempt succeed.
    a_surface_may_not_be_had under "M4/rustane" with "no-surface@2" = |driver| {
        let properties = [("kIOSurfaceWidth", 64), ("kIOSurfaceHeight", 1)];
        assert_eq!([(); 3].map(|()| driver.create(&properties).is_some()), [true, false, true]);
        &[]
    };

    locks_are_balanced_and_of_one_kind under "M4/Orion" = |driver| {
        let surface = driver.surface(BYTES);
        assert_ne!(surface.unlock(0), 0);
        assert_eq!((surface.lock(READ_ONLY), surface.unlock(0)), (0, 0));
        assert_eq!((surface.lock(0), surface.lock(READ_ONLY)), (0, 0));
        assert_eq!((surface.unlock(READ_ONLY), surface.unlock(0)), (0, 0));
        assert_ne!(surface.unlock(0), 0);
        &["surface#1 is not locked", "was locked with 1 and is unlocked with 0", "surface#1 is not locked"]
    };

    an_address_is_had_under_a_lock under "M4/Orion" = |driver| {
        let surface = driver.surface(BYTES);
        surface.address();
        &["IOSurfaceGetBaseAddress: surface#1 is not locked"]
    };

    writing_needs_a_lock_for_writing under "M4/Orion" = |driver| {
        let surface = driver.surface(BYTES);
        assert_eq!(surface.lock(READ_ONLY), 0);
        let address = surface.address();
        scribble(address, 1.0);
        assert_eq!(surface.unlock(READ_ONLY), 0);
        assert_eq!(surface.read(1), [1.0]);
        scribble(address, 2.0);
        assert_eq!(surface.read(1), [2.0]);
        &["written under a lock for reading only", "written without a lock"]
    };

    the_engine_notices_writes_without_a_lock under "M4/Orion" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let (kernel, request) = (ready(&scale(SHAPE, 2.0)), request(&[&input], &[&output]));
        assert_eq!(input.lock(0), 0);
        let address = input.address();
        assert_eq!(input.unlock(0), 0);
        assert_eq!(kernel.evaluate(&request), Ok(()));
        scribble(address, 9.0);
        assert_eq!(kernel.evaluate(&request), Ok(()));
        &["surface#1 was written without a lock"]
    };

    a_locked_surface_is_not_the_engines under "M4/Orion" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let (kernel, request) = (ready(&scale(SHAPE, 2.0)), request(&[&input], &[&output]));
        assert_eq!((input.lock(0), output.lock(READ_ONLY)), (0, 0));
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!((input.unlock(0), output.unlock(READ_ONLY)), (0, 0));
        &["surface#1 is locked by the host", "surface#2 is locked by the host"]
    };

    a_surface_is_unlocked_before_it_goes under "M4/Orion" = |driver| {
        assert_eq!(driver.surface(BYTES).lock(0), 0);
        &["surface#1 is released while it is locked"]
    };

    a_surface_that_is_gone_cannot_be_locked under "M4/Orion" = |driver| {
        let surface = std::mem::ManuallyDrop::new(driver.filled(BYTES, &[1.0; COUNT]));
        driver.release(surface.raw);
        assert_ne!(surface.lock(0), 0);
        &["IOSurfaceLock: surface#1 is used after its last release"]
    };
}
