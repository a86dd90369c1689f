//! The device behind Espresso's interface, on a library that stands in for Espresso: every program gives the
//! bits that `sim` gives, however bindings are carried out, and nothing is used after its release.

mod common;

use std::sync::Arc;

use ane::{Backend, E5rtDevice};
use common::{device, options};
use device::{Binding, Buffer, Device};
use mil::{Builder, Element, PortKind, Program};
use model::{Cut, ModelConfig, Stack, StackOptions, Taps, presets};
use sim::{Profile, SimDevice};
use standin::StandIn;

/// x [1, 64, 1, 64], w [1, 1, 64, 64] -> y = w x + x, z = tanh(y).
fn program() -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x0", &[1, 64, 1, 64]).unwrap();
    let w = b.input("w0", &[1, 1, 64, 64]).unwrap();
    let columns = b.reshape(x, &[1, 1, 64, 64]).unwrap();
    let product = b.matmul(w, columns, false, false).unwrap();
    let product = b.reshape(product, &[1, 64, 1, 64]).unwrap();
    let y = b.add(product, x).unwrap();
    let z = b.push1(mil::Op::Tanh, &[y]).unwrap();
    b.output("y0", y).unwrap();
    b.output("z0", z).unwrap();
    b.finish().unwrap()
}

fn values(seed: u32, numel: usize) -> Vec<f32> {
    (0..numel as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 77) >> 16) % 200) as f32 / 256.0 - 0.4)
        .collect()
}

/// Buffers for every port, inputs filled.
fn buffers(device: &dyn Device, program: &Program, seed: u32) -> Vec<Buffer> {
    program
        .ports()
        .enumerate()
        .map(|(at, port)| {
            let buffer = device.alloc(&port.ty.shape).unwrap();
            if port.kind == PortKind::Input {
                buffer.write_f32(&values(seed + at as u32, port.ty.numel())).unwrap();
            }
            buffer
        })
        .collect()
}

/// What `count` bindings of one program give, run in turn, three times over.
fn outputs(device: &dyn Device, count: u32) -> Vec<Vec<f32>> {
    let program = program();
    let executable = device.compile("small", &program).unwrap();
    let all: Vec<Vec<Buffer>> = (0..count).map(|seed| buffers(device, &program, 10 * seed)).collect();
    let bound: Vec<_> = all
        .iter()
        .map(|buffers| {
            let bindings: Vec<_> =
                program.ports().zip(buffers).map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
            executable.bind(&bindings).unwrap()
        })
        .collect();
    let mut seen = Vec::new();
    for round in 0..3 {
        for (invocation, buffers) in bound.iter().zip(&all) {
            // New weights reach the program that was bound long ago.
            buffers[1].write_f32(&values(round + 500, buffers[1].numel())).unwrap();
            invocation.run().unwrap();
            seen.extend(buffers[2..].iter().map(Buffer::to_vec));
        }
    }
    seen
}

const PROFILES: [&str; 5] =
    ["M1/ANEForge", "M5/ANEForge", "M4/mil_infer", "hypothetical/generous", "hypothetical/refuses-whole"];

/// Oracle: the interpreter, bit for bit. What differs between profiles is how bindings are carried out.
#[test]
fn every_way_of_binding_gives_the_same_bits() {
    let expected = outputs(&SimDevice::new(Profile::m4()), 5);
    for profile in PROFILES {
        let stand_in = StandIn::new(profile);
        assert!(outputs(&device(&stand_in), 5) == expected, "{profile}");
        assert_eq!(stand_in.violations(), "", "{profile}");
        assert_eq!(stand_in.live(), "", "{profile} leaks");
    }
}

#[test]
fn ways_are_those_of_the_profile() {
    for (profile, own_operations, rebinds) in
        [("M5/ANEForge", false, true), ("M4/mil_infer", false, false), ("hypothetical/generous", true, true)]
    {
        let ways = device(&StandIn::new(profile)).ways();
        assert_eq!((ways.own_operations, ways.rebinds), (own_operations, rebinds), "{profile}");
    }
}

/// With 60 layers there are more bindings than programs can be loaded; all of them run.
#[test]
fn bindings_have_no_limit() {
    let expected = outputs(&SimDevice::new(Profile::m4()), 140);
    for profile in ["hypothetical/generous", "M5/ANEForge", "M4/mil_infer"] {
        let stand_in = StandIn::new(profile);
        assert!(outputs(&device(&stand_in), 140) == expected, "{profile}");
        let operations = stand_in
            .calls("e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options");
        assert!(operations <= 110, "{profile}: {operations} operations");
        assert_eq!(stand_in.violations(), "", "{profile}");
    }
    // A device that takes fewer than is known.
    let stand_in = StandIn::new("hypothetical/generous");
    stand_in.plant("loaded-limit=7");
    assert!(outputs(&device(&stand_in), 20) == outputs(&SimDevice::new(Profile::m4()), 20));
}

/// Between programs that are bound to one another's buffers nothing is copied, and a binding that stays is
/// encoded once.
#[test]
fn runs_copy_nothing_and_encode_once() {
    let stand_in = StandIn::new("hypothetical/generous");
    let device = device(&stand_in);
    let program = program();
    let executable = device.compile("small", &program).unwrap();
    let first = buffers(&device, &program, 1);
    let second = buffers(&device, &program, 2);
    let ports: Vec<&str> = program.ports().map(|port| port.name).collect();
    let bind = |buffers: [&Buffer; 4]| {
        let bindings: Vec<_> =
            ports.iter().zip(buffers).map(|(port, buffer)| Binding::new(port, buffer)).collect();
        executable.bind(&bindings).unwrap()
    };
    // The first program's y is the second's x.
    let one = bind([&first[0], &first[1], &first[2], &first[3]]);
    let two = bind([&first[2], &second[1], &second[2], &second[3]]);
    let (telemetry, encoded) = (device.telemetry(), stand_in.calls("e5rt_execution_stream_encode_operation"));
    for _ in 0..10 {
        one.run().unwrap();
        two.run().unwrap();
    }
    let done = device.telemetry().since(telemetry);
    assert_eq!((done.dispatches, done.bytes_written, done.bytes_read), (20, 0, 0));
    assert_eq!(stand_in.calls("e5rt_execution_stream_encode_operation") - encoded, 2);
    let sim = SimDevice::new(Profile::m4());
    let executable = sim.compile("small", &program).unwrap();
    let b = buffers(&sim, &program, 1);
    let c = buffers(&sim, &program, 2);
    let run = |buffers: [&Buffer; 4]| {
        let bindings: Vec<_> =
            ports.iter().zip(buffers).map(|(port, buffer)| Binding::new(port, buffer)).collect();
        executable.bind(&bindings).unwrap().run().unwrap();
    };
    run([&b[0], &b[1], &b[2], &b[3]]);
    run([&b[2], &c[1], &c[2], &c[3]]);
    assert!(second[2].to_vec() == c[2].to_vec() && second[3].to_vec() == c[3].to_vec());
}

fn config(name: &str, seq_len: usize) -> ModelConfig {
    ModelConfig { seq_len, ..presets::by_name(name).unwrap() }
}

/// Gradients and losses of one batch.
fn step(device: Arc<dyn Device>, config: &ModelConfig, cut: Cut) -> (Vec<f32>, Vec<Vec<f32>>, Cut) {
    let options = StackOptions { batch: 2, cut: Some(cut), taps: Taps::Keep, max_tile: Some(100) };
    let mut stack = Stack::new(config, device, &options).unwrap();
    for index in 0..stack.parameters().len() {
        let parameter = stack.parameters()[index].clone();
        stack.set_weights(index, &model::initial_values(config, &parameter, 3)).unwrap();
    }
    let ids: Vec<u32> = (0..stack.tokens() as u32).map(|i| i * 7 % config.vocab_size as u32).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id + 1) % config.vocab_size as u32).collect();
    let report = stack.forward_backward(&ids, &targets, 4.0, true).unwrap();
    let gradients = (0..stack.parameters().len()).map(|index| stack.gradient(index)).collect();
    (report.nll, gradients, stack.cut())
}

/// Oracle: the interpreter, bit for bit: the same text gives the same program.
#[test]
fn a_model_gives_the_gradients_of_the_interpreter_on_every_cut() {
    // The second has layers of several kinds, and a first layer that reads one buffer by two ports.
    for (config, cut) in
        ["odd", "odd-all"].iter().flat_map(|name| Cut::ALL.map(|cut| (config(name, 21), cut)))
    {
        let expected = step(Arc::new(SimDevice::new(Profile::m4())), &config, cut);
        for profile in ["M5/ANEForge", "hypothetical/generous"] {
            let stand_in = StandIn::new(profile);
            assert!(step(Arc::new(device(&stand_in)), &config, cut) == expected, "{profile}, {}", cut.name());
            assert_eq!(stand_in.violations(), "", "{profile}");
            assert_eq!(stand_in.live(), "", "{profile}");
        }
    }
}

/// Models of 28 and 60 layers bind a layer's programs more often than programs can be loaded.
///
/// Oracle: the interpreter, bit for bit, and the limit of the catalogue.
#[test]
fn deep_models_stay_inside_the_limit_of_programs() {
    for (layers, cut) in [(28, Cut::Ten), (60, Cut::Whole), (60, Cut::Ten)] {
        let config = ModelConfig { n_layers: layers, ..config("odd", 8) };
        let expected = step(Arc::new(SimDevice::new(Profile::m4())), &config, cut);
        for profile in ["hypothetical/generous", "M5/ANEForge", "M4/mil_infer"] {
            let stand_in = StandIn::new(profile);
            let told = format!("{layers} layers, {}, {profile}", cut.name());
            assert!(step(Arc::new(device(&stand_in)), &config, cut) == expected, "{told}");
            let operations = stand_in
                .calls("e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options");
            assert!(operations <= 128, "{told}: {operations} operations");
            assert_eq!((stand_in.violations(), stand_in.live()), (String::new(), String::new()), "{told}");
        }
    }
}

/// A compiler that refuses large programs leads down the ladder.
#[test]
fn the_ladder_ends_on_the_coarsest_cut_that_is_taken() {
    for (profile, expected) in [
        ("hypothetical/generous", Cut::Whole),
        ("hypothetical/refuses-whole", Cut::AttnFfn),
        ("hypothetical/refuses-attn-ffn", Cut::Ten),
    ] {
        let stand_in = StandIn::new(profile);
        let device = Arc::new(device(&stand_in));
        let stack = Stack::new(&config("tiny", 32), device, &StackOptions::default()).unwrap();
        assert_eq!(stack.cut(), expected, "{profile}: {:?}", stack.choices());
    }
}

/// The GPU and the CPU compute without the engine's quirks.
#[test]
fn other_masks_are_other_engines() {
    let expected = outputs(&SimDevice::new(Profile::exact()), 2);
    for backend in [Backend::Gpu, Backend::Bnns] {
        let stand_in = StandIn::new("M5/ANEForge");
        let device = E5rtDevice::open(backend, options(&stand_in)).unwrap();
        assert_eq!(device.name(), backend.name());
        assert!(outputs(&device, 2) == expected, "{}", backend.name());
    }
}
