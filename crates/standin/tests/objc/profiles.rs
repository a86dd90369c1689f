//! What each profile refuses, and what it gets wrong in silence; and planted bad luck.

use objc2::msg_send;

use crate::alone::alone;
use crate::driver::*;
use crate::mil_text::*;

const SHAPE: &str = "1, 384, 1, 64";
const COUNT: usize = 384 * 64;
const BYTES: usize = 2 * COUNT;

/// `[0, 1, 2, …]`, which halves hold exactly up to 2048.
fn ascending(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index % 2048) as f32).collect()
}

/// The code and text of a refusal that has them.
fn refused(outcome: Outcome) -> (isize, String) {
    outcome.expect_err("it is refused").expect("there is an error")
}

/// A result of a run on surfaces with one number each: its number, or the error's.
fn run(kernel: &Kernel, inputs: &[&Surface<'_>], output: &Surface<'_>) -> Result<f32, isize> {
    let ran = kernel.evaluate(&request(inputs, &[output]));
    ran.map_err(|error| error.expect("there is an error").0)?;
    let values = output.read(COUNT);
    assert!(values.iter().all(|value| *value == values[0]), "one number everywhere");
    Ok(values[0])
}

/// `z0, z1 = a0 * 2, a0 * 3` of two shapes: `z1` has half the channels.
fn two_outputs(first: &str, second: &str) -> String {
    let slice = "tensor<int32, [4]> b0 = const()[name = string(\"b0\"), val = tensor<int32, [4]>([0, 0, 0, 0])];\n\
         tensor<int32, [4]> s0 = const()[name = string(\"s0\"), val = tensor<int32, [4]>([1, 192, 1, 64])];\n\
         tensor<fp16, [1, 192, 1, 64]> h0 = slice_by_size(x = a0, begin = b0, size = s0)[name = string(\"h0\")];\n";
    let body = scalar("k0", 2.0)
        + &scalar("k1", 3.0)
        + slice
        + &binary("mul", "z0", "a0", "k0", SHAPE)
        + &binary("mul", "z1", "h0", "k1", "1, 192, 1, 64");
    program(&[port("a0", SHAPE)], &body, &format!("{first}, {second}"))
}

/// `z0` = two inputs of [1, 8, 1, 64] beside one another.
fn joined() -> String {
    let body = "int32 x0 = const()[name = string(\"x0\"), val = int32(3)];\n\
         bool i0 = const()[name = string(\"i0\"), val = bool(false)];\n\
         tensor<fp16, [1, 8, 1, 128]> z0 = concat(axis = x0, interleave = i0, values = (a0, b0))[name = string(\"z0\")];\n";
    program(&[port("a0", "1, 8, 1, 64"), port("b0", "1, 8, 1, 64")], body, "z0")
}

alone! {
    /// ANE-001 under a profile that answers nil.
    text_that_is_no_data_is_nil under "M1/ane-train" = |_| {
        let (text, none) = (string(&scale(SHAPE, 2.0)), weights(&[]));
        assert!(descriptor(id(&text), id(&none)).is_none());
        let text = data(scale(SHAPE, 2.0).as_bytes());
        assert!(descriptor(id(&text), std::ptr::null_mut()).is_none());
        &["ANE-001", "ANE-002"]
    };

    text_that_is_no_data_crashes under "M4/Orion" ends Crash = |_| {
        let (text, none) = (string(&scale(SHAPE, 2.0)), weights(&[]));
        descriptor(id(&text), id(&none));
        &[]
    };

    nil_weights_crash under "M4/Orion" ends Crash = |_| {
        descriptor(id(&data(scale(SHAPE, 2.0).as_bytes())), std::ptr::null_mut());
        &[]
    };

    programs_that_cannot_be_read_are_invalid under "M4/rustane" = |_| {
        let dead = scale(SHAPE, 2.0).replace("-> (z0)", "-> (nobody)");
        for text in ["program(1.3) {", dead.as_str()] {
            let (_, text) = refused(kernel(text, &[]).compile());
            assert!(text.contains("InvalidMILProgram"), "{text}");
        }
        &[]
    };

    /// ANE-025: `b0 - a0` is given `b0` first, and meets it as `a0`.
    slots_are_sorted_by_name under "M4/Orion" = |driver| {
        let (five, two) = (driver.filled(BYTES, &[5.0; COUNT]), driver.filled(BYTES, &[2.0; COUNT]));
        let (output, kernel) = (driver.surface(BYTES), ready(&difference("b0", "a0", SHAPE)));
        assert_eq!(run(&kernel, &[&five, &two], &output), Ok(-3.0));
        assert_eq!(run(&ready(&difference("a0", "b0", SHAPE)), &[&five, &two], &output), Ok(3.0));
        &[]
    };

    /// ANE-024: `z1` is declared first and comes second.
    outputs_are_sorted_by_name under "M4/Orion" = |driver| {
        let input = driver.filled(2 * BYTES, &[1.0; COUNT]);
        let outputs = [driver.surface(BYTES), driver.surface(BYTES)];
        let kernel = ready(&two_outputs("z1", "z0"));
        assert_eq!(kernel.evaluate(&request(&[&input], &[&outputs[0], &outputs[1]])), Ok(()));
        assert_eq!((outputs[0].read(COUNT), outputs[1].read(COUNT / 2)), (vec![2.0; COUNT], vec![3.0; COUNT / 2]));
        &[]
    };

    /// The ane crate: by position.
    slots_are_those_of_the_declaration under "M4/ane-crate" = |driver| {
        let (five, two) = (driver.filled(BYTES, &[5.0; COUNT]), driver.filled(BYTES, &[2.0; COUNT]));
        let (output, kernel) = (driver.surface(BYTES), ready(&difference("b0", "a0", SHAPE)));
        assert_eq!(run(&kernel, &[&five, &two], &output), Ok(3.0));
        // A surface's place follows its index, not its place in the array.
        let request = request_at(&[(1, &five), (0, &two)], &[(0, &output)]).expect("a request");
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert_eq!(output.read(COUNT), [-3.0; COUNT]);
        &[]
    };

    /// ANE-022, ANE-023, ANE-029.
    sizes_are_uniform_and_not_small under "M4/Orion" = |driver| {
        let inputs = [BYTES, 2 * BYTES, BYTES / 2].map(|bytes| driver.filled(bytes, &[5.0; COUNT / 2]));
        let outputs = [driver.surface(BYTES), driver.surface(2 * BYTES)];
        let kernel = ready(&difference("a0", "b0", SHAPE));
        assert_eq!(run(&kernel, &[&inputs[0], &inputs[0]], &outputs[1]), Ok(0.0), "inputs and outputs may differ");
        assert_eq!(run(&kernel, &[&inputs[0], &inputs[1]], &outputs[0]), Err(0x1d));
        let small = ready(&scale("1, 192, 1, 64", 2.0));
        let (code, text) = refused(small.evaluate(&request(&[&inputs[2]], &[&outputs[0]])));
        assert_eq!(code, 0x1d);
        assert!(text.contains("status=0x1d : Program Inference error"), "{text}");
        let two = ready(&two_outputs("z0", "z1"));
        assert_eq!(refused(two.evaluate(&request(&[&inputs[0]], &[&outputs[0], &outputs[1]]))).0, 0x1d);
        &[]
    };

    /// ANE-023's other half: in a surface that is larger than its port the data lies at the front, without gaps.
    data_lies_at_the_front under "M4/Orion" = |driver| {
        let (input, output) = (driver.filled(2 * BYTES, &ascending(COUNT / 2)), driver.filled(BYTES, &[7.0; COUNT]));
        let kernel = ready(&scale("1, 192, 1, 64", 2.0));
        assert_eq!(kernel.evaluate(&request(&[&input], &[&output])), Ok(()));
        let halves: Vec<f32> = ascending(COUNT / 2).iter().map(|value| 2.0 * value).collect();
        assert_eq!(output.read(COUNT)[..COUNT / 2], halves);
        assert_eq!(output.read(COUNT)[COUNT / 2..], [7.0; COUNT / 2], "what is behind stays");
        &[]
    };

    /// A surface that cannot hold its port.
    surfaces_that_are_too_small_are_refused under "M4/rustane" = |driver| {
        let (input, output) = (driver.surface(BYTES - 2), driver.surface(BYTES));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0)), &[&input], &output), Err(0x1d));
        &[]
    };

    /// ANE-021, as Orion reports it.
    concat_is_refused under "M4/Orion" = |_| {
        let (_, text) = refused(kernel(&joined(), &[]).compile());
        assert!(text.contains("ANECCompile() FAILED") && text.contains("concat"), "{text}");
        &[]
    };

    /// ANE-021, as rustane's M3 Ultra has it.
    concat_is_refused_on_an_m3_ultra under "M3/rustane" = |_| {
        let (_, text) = refused(kernel(&joined(), &[]).compile());
        assert!(text.contains("ANECCompile() FAILED") && text.contains("concat"), "{text}");
        &[]
    };

    /// ANE-021, as every M4 Max training kernel has it.
    concat_joins under "M4/rustane" = |driver| {
        let (one, two, output) = (driver.filled(1024, &[1.0; 512]), driver.filled(1024, &[2.0; 512]), driver.surface(2048));
        let kernel = ready(&joined());
        assert_eq!(kernel.evaluate(&request(&[&one, &two], &[&output])), Ok(()));
        assert_eq!(output.read(1024), [[1.0; 64], [2.0; 64]].concat().repeat(8));
        &[]
    };

    /// ANE-027.
    a_second_input_is_an_error under "M4/maderix" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[5.0; COUNT]), driver.surface(BYTES));
        assert_eq!(run(&ready(&difference("a0", "b0", SHAPE)), &[&input, &input], &output), Err(0x1d));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0)), &[&input], &output), Ok(10.0));
        &[]
    };

    /// ANE-030: 20 columns are wrong without an error, 32 are right.
    columns_that_are_no_multiple_of_16_corrupt under "M4/rustane" = |driver| {
        for (columns, right) in [(20, false), (32, true)] {
            let count = 8 * columns;
            let (input, output) = (driver.filled(2 * count, &ascending(count)), driver.surface(2 * count));
            let kernel = ready(&scale(&format!("1, 8, 1, {columns}"), 2.0));
            assert_eq!(kernel.evaluate(&request(&[&input], &[&output])), Ok(()));
            let doubled: Vec<f32> = ascending(count).iter().map(|value| 2.0 * value).collect();
            assert_eq!(output.read(count) == doubled, right, "{columns}");
        }
        &[]
    };

    /// ANE-029, as the ane crate has it.
    fewer_columns_than_64_are_an_error under "M4/ane-crate" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[1.0; COUNT]), driver.surface(BYTES));
        assert_eq!(run(&ready(&scale("1, 768, 1, 32", 2.0)), &[&input], &output), Err(0x1d));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0)), &[&input], &output), Ok(2.0));
        &[]
    };

    /// ANE-031: 64 products of ones are 64; 48 are nothing.
    contractions_that_are_no_multiple_of_32_are_zeros under "M1/ane-train" = |driver| {
        for (k, expected) in [(48, 0.0), (64, 64.0)] {
            let (a, b) = (driver.filled(2 * 64 * k, &vec![1.0; 64 * k]), driver.filled(2 * 64 * k, &vec![1.0; 64 * k]));
            let (output, kernel) = (driver.surface(2 * 64 * 64), ready(&product(64, k, 64)));
            assert_eq!(kernel.evaluate(&request(&[&a, &b], &[&output])), Ok(()));
            assert_eq!(output.read(64 * 64), vec![expected; 64 * 64], "{k}");
        }
        &[]
    };

    /// ANE-026 and ANE-029.
    sizes_that_do_not_ascend_and_small_surfaces_are_zeros under "M1/ane-train" = |driver| {
        let inputs = [BYTES, 2 * BYTES, 1024].map(|bytes| driver.filled(bytes, &[5.0; 512]));
        inputs[0].write(&[5.0; COUNT]);
        inputs[1].write(&[2.0; COUNT]);
        let (output, kernel) = (driver.surface(BYTES), ready(&difference("a0", "b0", SHAPE)));
        assert_eq!(run(&kernel, &[&inputs[0], &inputs[1]], &output), Ok(3.0));
        assert_eq!(run(&kernel, &[&inputs[1], &inputs[0]], &output), Ok(0.0));
        let (small, output) = (ready(&scale("1, 8, 1, 64", 2.0)), driver.filled(BYTES, &[7.0; 512]));
        assert_eq!(small.evaluate(&request(&[&inputs[2]], &[&output])), Ok(()));
        assert_eq!(output.read(512), [0.0; 512]);
        &[]
    };

    /// ANE-026's other half: outputs descend.
    outputs_that_do_not_descend_are_zeros under "M1/ane-train" = |driver| {
        let inputs = [driver.filled(BYTES / 2, &[5.0; COUNT / 2]), driver.filled(BYTES, &[7.0; COUNT])];
        let (small, large) = (driver.surface(BYTES / 2), driver.surface(BYTES));
        let body = scalar("k0", 2.0)
            + &binary("mul", "z0", "b0", "k0", SHAPE)
            + &binary("mul", "z1", "a0", "k0", "1, 192, 1, 64");
        let text = |outputs: &str| program(&[port("a0", "1, 192, 1, 64"), port("b0", SHAPE)], &body, outputs);
        let inputs = [&inputs[0], &inputs[1]];
        assert_eq!(ready(&text("z0, z1")).evaluate(&request(&inputs, &[&large, &small])), Ok(()));
        assert_eq!((large.read(COUNT), small.read(COUNT / 2)), (vec![14.0; COUNT], vec![10.0; COUNT / 2]));
        assert_eq!(ready(&text("z1, z0")).evaluate(&request(&inputs, &[&small, &large])), Ok(()));
        assert_eq!((large.read(COUNT), small.read(COUNT / 2)), (vec![0.0; COUNT], vec![0.0; COUNT / 2]));
        &[]
    };

    /// ANE-033, ANE-040 and ANE-043.
    an_m1_takes_few_programs under "M1/ane-train" = |driver| {
        let constant = product(64, 64, 64)
            .replace(", tensor<fp16, [1, 1, 64, 64]> b0)", ")")
            .replace("bool f0", "tensor<fp16, [1, 1, 64, 64]> b0 = const()[name = string(\"b0\"), val = tensor<fp16, [1, 1, 64, 64]>(BLOBFILE(path = string(\"@model_path/weights/weight.bin\"), offset = uint64(64)))];\nbool f0");
        let files = [(WEIGHTS, blob(&[1.0; 64 * 64]))];
        let (_, text) = refused(kernel(&constant, &files).compile());
        assert!(text.contains("InvalidMILProgram") && text.contains("ANE-033"), "{text}");
        let (_, text) = refused(kernel(&two_outputs("z0", "z1"), &[]).compile());
        assert!(text.contains("ANECCompile() FAILED") && text.contains("slice_by_size"), "{text}");
        let (input, output) = (driver.filled(BYTES, &[5.0; COUNT]), driver.surface(BYTES));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0).replace("a0", "x")), &[&input], &output), Ok(0.0));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0)), &[&input], &output), Ok(10.0));
        &[]
    };

    /// ANE-043 elsewhere, and ANE-033 on an M4.
    names_are_harmless_on_an_m4 under "M4/maderix" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[5.0; COUNT]), driver.surface(BYTES));
        assert_eq!(run(&ready(&scale(SHAPE, 2.0).replace("a0", "x")), &[&input], &output), Ok(10.0));
        &[]
    };

    /// ane-train keeps compiled folders and loads them without compiling.
    a_compiled_folder_loads under "M1/ane-train" = |driver| {
        let text = scale(SHAPE, 2.0);
        let (first, second) = (kernel(&text, &[]), model(&text, &[]));
        assert_eq!(refused(second.load()).0, 0x50004, "nothing is compiled yet");
        assert_eq!(first.compile(), Ok(()));
        assert_eq!(second.load(), Ok(()));
        let (input, output) = (driver.filled(BYTES, &[5.0; COUNT]), driver.surface(BYTES));
        assert_eq!(run(&second, &[&input], &output), Ok(10.0));
        &[]
    };

    /// Nobody reports that for an M4.
    a_model_that_is_not_compiled_does_not_load under "M4/Orion" = |_| {
        let text = scale(SHAPE, 2.0);
        let (first, second) = (kernel(&text, &[]), model(&text, &[]));
        assert_eq!(first.compile(), Ok(()));
        assert_eq!(refused(second.load()).0, 0x50004);
        &[]
    };

    /// ANE-004: the 120th compile fails, and says nothing.
    compiles_are_limited under "M4/maderix" = |_| {
        let kernel = kernel(&scale(SHAPE, 2.0), &[]);
        for number in 1..=119 {
            assert_eq!(kernel.compile(), Ok(()), "{number}");
        }
        assert_eq!(kernel.compile(), Err(None));
        &[]
    };

    /// 0x50004; unloading frees a place.
    loads_are_limited under "M5/ANEgpt" with "loaded-limit=2" = |_| {
        let kernels = [1.0, 2.0, 3.0].map(|factor| kernel(&scale(SHAPE, factor), &[]));
        for kernel in &kernels {
            assert_eq!(kernel.compile(), Ok(()));
        }
        assert_eq!((kernels[0].load(), kernels[1].load()), (Ok(()), Ok(())));
        let (code, text) = refused(kernels[2].load());
        assert!(code == 0x50004 && text.contains("0x50004"), "{code} {text}");
        assert_eq!((kernels[0].unload(), kernels[2].load()), (Ok(()), Ok(())));
        &[]
    };

    /// ANE-078.
    a_load_may_fail_once under "M4/maderix" with "load-error@2" = |_| {
        let kernel = kernel(&scale(SHAPE, 2.0), &[]);
        assert_eq!((kernel.compile(), kernel.load(), kernel.unload()), (Ok(()), Ok(()), Ok(())));
        assert_eq!(refused(kernel.load()).0, 0x50004);
        assert_eq!(kernel.load(), Ok(()));
        &[]
    };

    /// Bad luck that a driver finds out about, and such that it must find out itself.
    runs_go_wrong under "M4/rustane" with "execute-error@2,silent-zero@3,nan@4" = |driver| {
        let (input, output) = (driver.filled(BYTES, &[5.0; COUNT]), driver.surface(BYTES));
        let (kernel, request) = (ready(&scale(SHAPE, 2.0)), request(&[&input], &[&output]));
        assert_eq!(kernel.evaluate(&request), Ok(()));
        input.write(&[6.0; COUNT]);
        assert_eq!(refused(kernel.evaluate(&request)).0, 0x1d);
        assert_eq!(output.read(COUNT), [10.0; COUNT], "a failed run leaves the stale result (ANE-019)");
        assert_eq!((kernel.evaluate(&request), output.read(COUNT)), (Ok(()), vec![0.0; COUNT]));
        assert_eq!(kernel.evaluate(&request), Ok(()));
        assert!(output.read(COUNT).iter().all(|value| value.is_nan()));
        assert_eq!((kernel.evaluate(&request), output.read(COUNT)), (Ok(()), vec![12.0; COUNT]));
        &[]
    };

    planted_programs_are_refused under "M4/rustane" with "compile-refuse=0x1p1" = |_| {
        assert!(kernel(&scale(SHAPE, 2.0).replace("fp16(2)", "fp16(0x1p1)"), &[]).compile().is_err());
        assert_eq!(kernel(&scale(SHAPE, 3.0), &[]).compile(), Ok(()));
        &[]
    };

    compiling_may_crash under "M4/rustane" with "compile-crash" ends Crash = |_| {
        let _ = kernel(&scale(SHAPE, 2.0), &[]).compile();
        &[]
    };

    /// ANE-020: the quality of service changes nothing. ANE-072: fp32 at the boundary, with casts.
    any_quality_of_service_and_single_precision_do under "M4/Orion" = |driver| {
        let body = "string d0 = const()[name = string(\"d0\"), val = string(\"fp16\")];\n\
             string d1 = const()[name = string(\"d1\"), val = string(\"fp32\")];\n\
             tensor<fp16, [1, 384, 1, 64]> h0 = cast(dtype = d0, x = a0)[name = string(\"h0\")];\n"
            .to_owned()
            + &binary("add", "h1", "h0", "h0", SHAPE)
            + "tensor<fp32, [1, 384, 1, 64]> z0 = cast(dtype = d1, x = h1)[name = string(\"z0\")];\n";
        let text = program(&["tensor<fp32, [1, 384, 1, 64]> a0".to_owned()], &body, "z0");
        let (input, output) = (driver.surface(2 * BYTES), driver.surface(2 * BYTES));
        // The single 3.0 is the halves 0.0 and 2.125 in little-endian order, the single 6.0 0.0 and 2.375.
        input.write(&[0.0, 2.125].repeat(COUNT));
        let kernel = ready(&text);
        let (request, options) = (request(&[&input], &[&output]), dictionary(&[]));
        for qos in [0_u32, 9, 33, 63] {
            // SAFETY: the selector's types.
            let ran = outcome(|error| unsafe {
                msg_send![&*kernel.model, evaluateWithQoS: qos, options: &*options, request: &*request, error: error]
            });
            assert_eq!(ran, Ok(()), "{qos}");
        }
        assert_eq!(output.read(2 * COUNT), [0.0, 2.375].repeat(COUNT));
        &[]
    };
}
