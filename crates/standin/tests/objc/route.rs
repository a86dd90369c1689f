//! The calls in their order, and what drivers of the field rely on.

use std::ffi::CStr;

use objc2::msg_send;
use objc2::runtime::{Bool, Sel};
use objc2::sel;

use crate::alone::alone;
use crate::driver::*;
use crate::mil_text::*;

/// A shape that every profile takes: 64 columns, and 48 KiB of halves.
const SHAPE: &str = "1, 384, 1, 64";
const COUNT: usize = 384 * 64;
const BYTES: usize = 2 * COUNT;

/// Small whole numbers, different ones for each `seed`.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7 + seed * 13) % 31) as f32 - 15.0).collect()
}

/// Whether the compiler has left its two files.
fn products(kernel: &Kernel) -> [bool; 2] {
    ["net.plist", "data"].map(|name| kernel.dir.join(name).is_file())
}

alone! {
    ten_steps_multiply_by_two under "M4/Orion" = |driver| {
        let (input, output) = (driver.filled(BYTES, &numbers(COUNT, 1)), driver.surface(BYTES));
        let kernel = kernel(&scale(SHAPE, 2.0), &[]);
        assert_eq!(products(&kernel), [false, false]);
        assert_eq!(kernel.compile(), Ok(()));
        assert_eq!(products(&kernel), [true, true]);
        assert_eq!(kernel.load(), Ok(()));
        let request = request(&[&input], &[&output]);
        assert_eq!(kernel.evaluate(&request), Ok(()));
        let doubled: Vec<f32> = numbers(COUNT, 1).iter().map(|value| 2.0 * value).collect();
        assert_eq!(output.read(COUNT), doubled);
        // The same request again, with another input.
        input.write(&numbers(COUNT, 2));
        assert_eq!(kernel.evaluate(&request), Ok(()));
        let doubled: Vec<f32> = numbers(COUNT, 2).iter().map(|value| 2.0 * value).collect();
        assert_eq!(output.read(COUNT), doubled);
        assert_eq!(kernel.unload(), Ok(()));
        let trace = driver.report("anneal_standin_trace");
        let calls: Vec<&str> = trace.lines().filter_map(|line| line.split_once(' ').map(|(_, call)| call)).collect();
        let expected = [
            "modelWithMILText -> descriptor#1",
            "inMemoryModelWithDescriptor descriptor#1 -> model#1",
            "compile model#1 -> YES",
            "load model#1 -> YES",
            "requestWithInputs [0:surface_object#1] -> [0:surface_object#2] -> request#1",
            "run model#1 with request#1",
            "evaluate model#1 -> YES",
            "unload model#1 -> YES",
        ];
        let mut rest = calls.iter();
        for call in expected {
            assert!(rest.any(|line| *line == call), "`{call}` in its place\n{trace}");
        }
        &[]
    };

    /// maderix/ANE's form: activations [IC, SEQ] and weights [IC, OC] beside one another in one surface.
    packed_weights_give_the_product_of_a_plain_loop under "M4/maderix" = |driver| {
        let (ic, seq, oc) = (64, 32, 32);
        let (x, w) = (numbers(ic * seq, 3), numbers(ic * oc, 4));
        let slice = |name: &str, begin: usize, columns: usize| format!(
            "tensor<int32, [4]> b{name} = const()[name = string(\"b{name}\"), val = tensor<int32, [4]>([0, 0, 0, {begin}])];\n\
             tensor<int32, [4]> s{name} = const()[name = string(\"s{name}\"), val = tensor<int32, [4]>([1, {ic}, 1, {columns}])];\n\
             tensor<fp16, [1, {ic}, 1, {columns}]> c{name} = slice_by_size(x = a0, begin = b{name}, size = s{name})[name = string(\"c{name}\")];\n\
             tensor<int32, [4]> r{name} = const()[name = string(\"r{name}\"), val = tensor<int32, [4]>([1, 1, {ic}, {columns}])];\n\
             tensor<fp16, [1, 1, {ic}, {columns}]> m{name} = reshape(x = c{name}, shape = r{name})[name = string(\"m{name}\")];\n"
        );
        let body = slice("x", 0, seq) + &slice("w", seq, oc) + &format!(
            "bool yes = const()[name = string(\"yes\"), val = bool(true)];\n\
             bool no = const()[name = string(\"no\"), val = bool(false)];\n\
             tensor<fp16, [1, 1, {oc}, {seq}]> p0 = matmul(transpose_x = yes, transpose_y = no, x = mw, y = mx)[name = string(\"p0\")];\n\
             tensor<int32, [4]> rz = const()[name = string(\"rz\"), val = tensor<int32, [4]>([1, {oc}, 1, {seq}])];\n\
             tensor<fp16, [1, {oc}, 1, {seq}]> z0 = reshape(x = p0, shape = rz)[name = string(\"z0\")];\n"
        );
        let text = program(&[port("a0", &format!("1, {ic}, 1, {}", seq + oc))], &body, "z0");
        let packed: Vec<f32> = (0..ic)
            .flat_map(|c| [&x[c * seq..(c + 1) * seq], &w[c * oc..(c + 1) * oc]].concat())
            .collect();
        let (input, output) = (driver.filled(BYTES, &packed), driver.surface(BYTES));
        let kernel = ready(&text);
        assert_eq!(kernel.evaluate(&request(&[&input], &[&output])), Ok(()));
        // Sums stay below 2048 in steps of one, so halves are exact.
        let small = |sum: f32| if sum.abs() <= 2048.0 { sum } else { half::f16::from_f32(sum).to_f32() };
        let expected: Vec<f32> = (0..oc * seq)
            .map(|at| small((0..ic).map(|c| w[c * oc + at / seq] * x[c * seq + at % seq]).sum()))
            .collect();
        assert_eq!(output.read(oc * seq), expected);
        &[]
    };

    /// ANE-003: the compiler reads the folder.
    the_compiler_reads_files under "M4/rustane" = |driver| {
        let unfilled = model(&scale(SHAPE, 5.0), &[]);
        let (_, text) = unfilled.compile().unwrap_err().expect("an error");
        assert!(text.contains("ANECCompile() FAILED"), "{text}");

        let kernel = model(&scale(SHAPE, 2.0), &[]);
        kernel.fill(&scale(SHAPE, 3.0), &[]);
        assert_eq!((kernel.compile(), kernel.load()), (Ok(()), Ok(())));
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        assert_eq!(kernel.evaluate(&request(&[&input], &[&output])), Ok(()));
        assert_eq!(output.read(COUNT), [3.0; COUNT]);

        let files = [(WEIGHTS, blob(&numbers(COUNT, 1)))];
        let no_blob = model(&biased(SHAPE), &files);
        no_blob.fill(&biased(SHAPE), &[]);
        assert!(no_blob.compile().is_err(), "the dictionary alone does not do");
        let no_entry = model(&biased(SHAPE), &[]);
        no_entry.fill(&biased(SHAPE), &files);
        let (_, text) = no_entry.compile().unwrap_err().expect("an error");
        assert!(text.contains("InvalidMILProgram") && text.contains(WEIGHTS), "{text}");
        &[]
    };

    /// ANE-005: another blob file and a new load change nothing.
    baked_weights_never_change under "M5/ANEgpt" = |driver| {
        let files = [(WEIGHTS, blob(&[4.0; COUNT]))];
        let kernel = kernel(&biased(SHAPE), &files);
        assert_eq!((kernel.compile(), kernel.load()), (Ok(()), Ok(())));
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let request = request(&[&input], &[&output]);
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!(output.read(COUNT), [5.0; COUNT]);
        kernel.fill(&biased(SHAPE), &[(WEIGHTS, blob(&[9.0; COUNT]))]);
        assert_eq!((kernel.unload(), kernel.load()), (Ok(()), Ok(())));
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!(output.read(COUNT), [5.0; COUNT]);
        &[]
    };

    /// The identifier is a hash of text and weights.
    identifiers_tell_texts_and_weights_apart under "M4/Orion" = |_| {
        let hex = |text: &str, files: &[(&str, Vec<u8>)]| model(text, files).dir.clone();
        let blobs = [[1.0; COUNT], [2.0; COUNT]].map(|values| [(WEIGHTS, blob(&values))]);
        let text = biased(SHAPE);
        assert_eq!(hex(&text, &blobs[0]), hex(&text, &blobs[0]));
        assert_ne!(hex(&text, &blobs[0]), hex(&text, &blobs[1]));
        assert_ne!(hex(&text, &blobs[0]), hex(&scale(SHAPE, 2.0), &blobs[0]));
        &[]
    };

    /// ANE-013: surfaces are those of the construction.
    requests_do_not_follow_what_changes_later under "M1/ane-train" = |driver| {
        let (one, two) = (driver.filled(BYTES, &[1.0; COUNT]), driver.filled(BYTES, &[2.0; COUNT]));
        let output = driver.surface(BYTES);
        let kernel = ready(&scale(SHAPE, 3.0));
        let (inputs, outputs) = (array(&[id(&one.object())]), array(&[id(&output.object())]));
        let (zero, none): (_, Id) = (number(0), std::ptr::null_mut());
        let slots = array(&[id(&zero)]);
        // SAFETY: the selectors' types.
        let request: Object = unsafe {
            let request: Option<Object> = msg_send![class(c"_ANERequest"), requestWithInputs: &*inputs,
                inputIndices: &*slots, outputs: &*outputs, outputIndices: &*slots, weightsBuffer: none,
                perfStats: none, procedureIndex: &*zero];
            let () = msg_send![&*inputs, replaceObjectAtIndex: 0_usize, withObject: &*two.object()];
            request.expect("a request of sound arguments")
        };
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!(output.read(COUNT), [3.0; COUNT]);
        &[]
    };

    /// autoresearch-ANE: a request per layer on one model, and an output that is the next kernel's input. Its
    /// next run overwrites it (ANE-076).
    requests_share_models_and_kernels_share_surfaces under "M4/rustane" = |driver| {
        let inputs = [1.0, 10.0].map(|value| driver.filled(BYTES, &[value; COUNT]));
        let (between, output) = (driver.surface(BYTES), driver.surface(BYTES));
        let (twice, thrice) = (ready(&scale(SHAPE, 2.0)), ready(&scale(SHAPE, 3.0)));
        let last = request(&[&between], &[&output]);
        for (input, expected) in inputs.iter().zip([6.0, 60.0]) {
            assert_eq!(twice.evaluate(&request(&[input], &[&between])), Ok(()));
            assert_eq!(thrice.evaluate(&last), Ok(()));
            assert_eq!(output.read(COUNT), [expected; COUNT]);
        }
        &[]
    };

    /// ane-infer: error 0x2; ANEgpt: one function ignores indices up to 15, and a weights buffer (ANE-006).
    wrong_indices_are_told under "M5/ANEgpt" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let kernel = ready(&difference("a0", "b0", SHAPE));
        for slots in [[0, 0], [1, 2], [5, 0]] {
            let inputs = slots.map(|slot| (slot, &input));
            let request = request_at(&inputs, &[(0, &output)]).expect("slots are not looked at yet");
            assert_eq!(kernel.evaluate(&request).unwrap_err().expect("an error").0, 0x2, "{slots:?}");
        }
        let few = request(&[&input], &[&output]);
        assert_eq!(kernel.evaluate(&few).unwrap_err().expect("an error").0, 0x2);
        let both = [(0, &input), (1, &input)];
        let (none, other) = (std::ptr::null_mut(), input.object());
        for (procedure, code) in [(15, None), (16, Some(0x2))] {
            let request = request_with(&both, &[(0, &output)], id(&other), none, procedure).expect("a request");
            assert_eq!(kernel.evaluate(&request).err().map(|error| error.expect("an error").0), code);
        }
        &[]
    };

    /// ANEgpt, ane-infer: the duration is there only if the model's mask was set before the run.
    statistics_need_a_mask under "M5/ANEgpt" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let kernel = ready(&scale(SHAPE, 2.0));
        // SAFETY: the selectors' types.
        unsafe {
            let stats: Object = msg_send![class(c"_ANEPerformanceStats"), statsWithHardwareExecutionNS: 0_u64];
            let none = std::ptr::null_mut();
            let request = request_with(&[(0, &input)], &[(0, &output)], none, id(&stats), 0).expect("a request");
            let time = || -> u64 { msg_send![&*stats, hwExecutionTime] };
            assert_eq!(kernel.evaluate(&request), Ok(()));
            assert_eq!(time(), 0);
            let () = msg_send![&*kernel.model, setPerfStatsMask: 0xf_u32];
            let mask: u32 = msg_send![&*kernel.model, perfStatsMask];
            assert_eq!(mask, 0xf);
            assert_eq!(kernel.evaluate(&request), Ok(()));
            assert!(time() > 0);
        }
        &[]
    };

    /// ane-infer's shorter way.
    the_client_evaluates_directly under "M5/ANEgpt" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        let kernel = ready(&scale(SHAPE, 2.0));
        let (request, options) = (request(&[&input], &[&output]), dictionary(&[]));
        // SAFETY: the selectors' types.
        unsafe {
            let client: objc2::rc::Allocated<objc2::runtime::AnyObject> = msg_send![class(c"_ANEClient"), alloc];
            let client: Object = msg_send![client, initWithRestrictedAccessAllowed: Bool::YES];
            let model: Object = msg_send![&*kernel.model, model];
            let ran = outcome(|error| msg_send![&*client, doEvaluateDirectWithModel: &*model, options: &*options,
                request: &*request, qos: 21_u32, error: error]);
            assert_eq!(ran, Ok(()));
        }
        assert_eq!(output.read(COUNT), [2.0; COUNT]);
        &[]
    };

    /// The type encodings of the published interfaces, as clang spells them; BOOL is a `C` on this runtime.
    methods_have_the_documented_types under "M4/Orion" = |_| {
        let class_side = [
            (c"_ANEInMemoryModelDescriptor", sel!(modelWithMILText:weights:optionsPlist:), "@ @ : @ @ @"),
            (c"_ANEInMemoryModel", sel!(inMemoryModelWithDescriptor:), "@ @ : @"),
            (c"_ANEIOSurfaceObject", sel!(objectWithIOSurface:), "@ @ : ^{__IOSurface=}"),
            (
                c"_ANERequest",
                sel!(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:),
                "@ @ : @ @ @ @ @ @ @",
            ),
        ];
        let instances = [
            (sel!(hexStringIdentifier), "@ @ :"),
            (sel!(compileWithQoS:options:error:), "C @ : I @ ^@"),
            (sel!(loadWithQoS:options:error:), "C @ : I @ ^@"),
            (sel!(evaluateWithQoS:options:request:error:), "C @ : I @ @ ^@"),
            (sel!(unloadWithQoS:error:), "C @ : I ^@"),
            (sel!(setPerfStatsMask:), "v @ : I"),
        ];
        for (name, selector, types) in class_side {
            assert_eq!(types_of(name, selector, true), types, "{selector:?}");
        }
        for (selector, types) in instances {
            assert_eq!(types_of(c"_ANEInMemoryModel", selector, false), types, "{selector:?}");
        }
        &[]
    };
}

/// Types of a method's result and arguments; of a class's own method or of its instances'.
fn types_of(name: &CStr, selector: Sel, of_class: bool) -> String {
    let class = if of_class { class(name).metaclass() } else { class(name) };
    let method = class.instance_method(selector).unwrap_or_else(|| panic!("{name:?} answers {selector:?}"));
    let arguments = (0..method.arguments_count()).map(|index| {
        // GCC's runtime leaves the offset behind the type.
        method
            .argument_type(index)
            .expect("it has that many")
            .to_str()
            .expect("encodings are ASCII")
            .to_owned()
    });
    let result = method.return_type().to_str().expect("encodings are ASCII").to_owned();
    std::iter::once(result).chain(arguments).collect::<Vec<_>>().join(" ")
}
