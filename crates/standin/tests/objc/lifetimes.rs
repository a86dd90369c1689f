//! Objects that are used, released or unloaded at the wrong time.

use objc2::msg_send;

use crate::alone::alone;
use crate::driver::*;
use crate::mil_text::*;

const SHAPE: &str = "1, 384, 1, 64";
const COUNT: usize = 384 * 64;
const BYTES: usize = 2 * COUNT;

alone! {
    a_model_that_is_not_loaded_does_not_run under "M4/Orion" = |driver| {
        let surface = driver.surface(BYTES);
        let (kernel, request) = (kernel(&scale(SHAPE, 2.0), &[]), request(&[&surface], &[&surface]));
        assert_eq!(kernel.compile(), Ok(()));
        assert!(kernel.evaluate(&request).is_err());
        assert_eq!((kernel.load(), kernel.unload()), (Ok(()), Ok(())));
        assert!(kernel.evaluate(&request).is_err());
        assert!(kernel.unload().is_err());
        assert_eq!((kernel.load(), kernel.load()), (Ok(()), Ok(())));
        &["is not loaded", "is not loaded", "unload: model#1 is not loaded", "is loaded already"]
    };

    /// ANEgpt: a model that goes while it is loaded keeps its place on the engine.
    a_model_is_unloaded_before_it_goes under "M5/ANEgpt" with "loaded-limit=1" = |_| {
        objc2::rc::autoreleasepool(|_| ready(&scale(SHAPE, 2.0)).forget_to_unload());
        let next = kernel(&scale(SHAPE, 3.0), &[]);
        assert_eq!(next.compile(), Ok(()));
        assert_eq!(next.load().unwrap_err().expect("an error").0, 0x50004);
        &["model#1 is released while it is loaded"]
    };

    /// A request and its surface objects keep surfaces alive.
    requests_retain_their_surfaces under "M4/Orion" = |driver| {
        let kernel = ready(&scale(SHAPE, 2.0));
        let output = driver.surface(BYTES);
        let request = objc2::rc::autoreleasepool(|_| {
            let input = driver.filled(BYTES, &[4.0; COUNT]);
            request(&[&input], &[&output])
        });
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!(output.read(COUNT), [8.0; COUNT]);
        &[]
    };

    a_request_that_is_gone_does_not_run under "M4/Orion" = |driver| {
        let kernel = ready(&scale(SHAPE, 2.0));
        let surface = driver.surface(BYTES);
        let gone = objc2::rc::autoreleasepool(|_| id(&request(&[&surface], &[&surface])));
        // SAFETY: objects of the stand-in are never freed, which a driver of the real framework cannot count on.
        assert!(kernel.evaluate(unsafe { &*gone }).is_err());
        &["request#1 is used after its last release"]
    };

    an_object_is_released_once under "M4/Orion" = |driver| {
        let surface = objc2::rc::autoreleasepool(|_| driver.surface(BYTES).raw);
        driver.release(surface);
        driver.retain(surface);
        let gone = objc2::rc::autoreleasepool(|_| id(&model(&scale(SHAPE, 2.0), &[]).model));
        // SAFETY: as above.
        unsafe {
            let () = msg_send![gone, release];
        }
        &[
            "surface#1 is released more often",
            "CFRetain: surface#1 is used after",
            "model#1 is released more often",
        ]
    };

    /// A surface whose references were all given away, in a request that still has it.
    a_surface_that_is_gone_is_not_mapped under "M4/Orion" = |driver| {
        let kernel = ready(&scale(SHAPE, 2.0));
        let (input, output) = (driver.surface(BYTES), driver.surface(BYTES));
        let request = objc2::rc::autoreleasepool(|_| request(&[&input], &[&output]));
        // Ours, which `input` gives away once more at the end, and the one of the surface object.
        driver.release(input.raw);
        driver.release(input.raw);
        assert_eq!(kernel.evaluate(&request).unwrap_err().expect("an error").0, 13);
        &[
            "evaluate: surface#1 is used after its last release",
            "surface#1 is released more often",
            "surface#1 is released more often",
        ]
    };

    a_descriptor_is_no_model under "M4/Orion" = |_| {
        let (mil, none) = (data(scale(SHAPE, 2.0).as_bytes()), weights(&[]));
        let descriptor = descriptor(id(&mil), id(&none)).expect("a descriptor");
        let model = objc2::rc::autoreleasepool(|_| id(&model(&scale(SHAPE, 2.0), &[]).model));
        // SAFETY: the selector's types; the arguments are wrong on purpose.
        unsafe {
            for wrong in [model, std::ptr::null_mut()] {
                let made: Option<Object> =
                    msg_send![class(c"_ANEInMemoryModel"), inMemoryModelWithDescriptor: wrong];
                assert!(made.is_none());
            }
        }
        drop(descriptor);
        &["model#1 is used after its last release", "nil is given where a descriptor is expected"]
    };

    a_request_takes_surface_objects_with_as_many_indices under "M4/Orion" = |driver| {
        let (surface, zero) = (driver.surface(BYTES), number(0));
        let (objects, slots) = (array(&[id(&surface.object())]), array(&[id(&zero)]));
        let (both, numbers): (Object, Object) = (array(&[id(&zero), id(&zero)]), array(&[id(&zero)]));
        let none: Id = std::ptr::null_mut();
        for (inputs, indices) in [(&objects, &both), (&numbers, &slots)] {
            // SAFETY: the selector's types; the arguments are wrong on purpose.
            let made: Option<Object> = unsafe {
                msg_send![class(c"_ANERequest"), requestWithInputs: &**inputs, inputIndices: &**indices,
                    outputs: &*objects, outputIndices: &*slots, weightsBuffer: none, perfStats: none,
                    procedureIndex: &*zero]
            };
            assert!(made.is_none());
        }
        &["1 surfaces have 2 indices", "unknown is given where a surface_object is expected"]
    };
}
