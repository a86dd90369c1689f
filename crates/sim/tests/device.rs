//! The interpreter as a device: the contract, axis limits, telemetry, repeatability.

mod common;

use common::{normal, rng};
use device::{Binding, Device};
use mil::{Builder, Element, Op, Program};
use sim::{Interpreter, Profile, SimDevice};

fn scaled(element: Element, shape: &[usize]) -> Program {
    let mut b = Builder::new(element);
    let x = b.input("x", shape).unwrap();
    let w = b.input("w", shape).unwrap();
    let y = b.mul(x, w).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

#[test]
fn it_runs_bound_programs_and_counts() {
    for element in [Element::F16, Element::F32] {
        let device = SimDevice::with_element(Profile::m4(), element);
        let name = if element == Element::F16 { "sim:m4" } else { "sim:m4:f32" };
        assert_eq!((device.name(), device.element()), (name, element));
        let run = device.compile("scaled", &scaled(element, &[1, 4])).unwrap();
        let (x, y) = (device.alloc(&[1, 4]).unwrap(), device.alloc(&[1, 4]).unwrap());
        x.write_f32(&[1.0, 2.0, 3.0, 0.1]).unwrap();
        // One buffer at two input ports.
        let square =
            run.bind(&[Binding::new("x", &x), Binding::new("w", &x), Binding::new("y", &y)]).unwrap();
        square.run().unwrap();
        let tenth = element.round(0.1);
        assert_eq!(y.to_vec(), [1.0, 4.0, 9.0, element.round(tenth * tenth)]);
        x.write_f32(&[-1.0; 4]).unwrap();
        square.submit().unwrap().wait().unwrap();
        assert_eq!(y.to_vec(), [1.0; 4]);
        let told = device.telemetry();
        assert_eq!((told.compiles, told.dispatches), (1, 2));
        assert_eq!(told.bytes_written, 8 * element.bytes() as u64);
    }
}

#[test]
fn what_the_engine_does_not_do_is_refused() {
    let device = SimDevice::new(Profile::m4());
    assert!(!device.limits().accumulate && !device.limits().inout);
    let run = device.compile("scaled", &scaled(Element::F16, &[4])).unwrap();
    let (x, y) = (device.alloc(&[4]).unwrap(), device.alloc(&[4]).unwrap());
    let inputs = [Binding::new("x", &x), Binding::new("w", &x)];
    let accumulating = [&inputs[..], &[Binding::accumulate("y", &y)]].concat();
    let error = run.bind(&accumulating).err().unwrap().to_string();
    assert!(error.contains("cannot accumulate"), "{error}");
    let shared = [&inputs[..], &[Binding::new("y", &x)]].concat();
    let error = run.bind(&shared).err().unwrap().to_string();
    assert!(error.contains("also that of input"), "{error}");
    let foreign = SimDevice::with_element(Profile::m4(), Element::F32).alloc(&[4]).unwrap();
    let error = run.bind(&[&inputs[..], &[Binding::new("y", &foreign)]].concat()).err().unwrap().to_string();
    assert!(error.contains("port `y`: its buffer is of the device sim:m4:f32"), "{error}");
    let error = device.compile("wide", &scaled(Element::F32, &[4])).err().unwrap();
    assert!(error.to_string().contains("built for F32"), "{error}");
    let mut b = Builder::new(Element::F16);
    let x = b.typed_input("x", mil::TensorType::new(mil::DType::Bool, &[4])).unwrap();
    let y = b.push1(Op::Cast { dtype: mil::DType::F16 }, &[x]).unwrap();
    b.output("y", y).unwrap();
    let error = device.compile("truth", &b.finish().unwrap()).err().unwrap();
    assert!(error.to_string().contains("ANE-072"), "{error}");
}

/// Facts, section 4: 16,384 up to M3, 65,536 from M4 on, channels 65,536 everywhere.
#[test]
fn axes_longer_than_the_chip_allows_are_refused_by_name() {
    let compile = |profile: Profile, shape: &[usize]| {
        let device = SimDevice::new(profile);
        let result = device.compile("scaled", &scaled(Element::F16, shape));
        result.map(|_| ()).map_err(|e| e.to_string())
    };
    let long = [1, 1, 1, 16_385];
    for profile in [Profile::m1(), Profile::m2(), Profile::m3()] {
        assert_eq!(SimDevice::new(profile.clone()).limits().max_axis, 16_384);
        let error = compile(profile.clone(), &long).unwrap_err();
        for part in ["sim", "`scaled`", "axis 3 has 16385", "allows 16384", profile.name] {
            assert!(error.contains(part), "{error}");
        }
        compile(profile, &[1, 16_385, 1, 1]).unwrap();
    }
    compile(Profile::m4(), &long).unwrap();
    compile(Profile::m5(), &[1, 1, 65_537, 1]).unwrap_err();
    compile(Profile::exact(), &[1, 1, 65_537, 1]).unwrap();
}

/// A program with every kind of parallel loop, larger than one task.
fn busy(element: Element) -> Program {
    let (c, n) = (192, 256);
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, c, 1, n]).unwrap();
    let w = b.input("w", &[1, 1, 2 * c, c]).unwrap();
    let unit = b.full(&[1, c, 1, 1], 1.0);
    let u = b.push1(Op::RmsNorm { axis: 1, eps: 1e-5 }, &[x, unit]).unwrap();
    let attention = Op::Attention { heads: 6, kv_heads: 2, seq: 64, window: 0, scale: 0.2 };
    let kv = b.slice(u, &[0, 0, 0, 0], &[1, c / 3, 1, n]).unwrap();
    let a = b.push1(attention, &[u, kv, kv]).unwrap();
    let rows = b.reshape(a, &[1, 1, c, n]).unwrap();
    let hidden = b.matmul(w, rows, false, false).unwrap();
    let hidden = b.push1(Op::Silu, &[hidden]).unwrap();
    let back = b.matmul(w, hidden, true, false).unwrap();
    let turned = b.transpose(back, &[0, 1, 3, 2]).unwrap();
    let p = b.push1(Op::Softmax { axis: 2 }, &[turned]).unwrap();
    let sums = b.push1(Op::ReduceSum { axes: vec![2], keep_dims: true }, &[turned]).unwrap();
    for (name, value) in [("back", back), ("p", p), ("sums", sums)] {
        b.output(name, value).unwrap();
    }
    b.finish().unwrap()
}

#[test]
fn one_thread_and_many_give_the_same_bits() {
    let x = normal(&mut rng(1), 192 * 256, 1.0);
    let w = normal(&mut rng(2), 2 * 192 * 192, 0.1);
    for element in [Element::F16, Element::F32] {
        let interpreter = Interpreter::new(&busy(element), &Profile::m4()).unwrap();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let outputs = pool.install(|| interpreter.run(&[&x, &w]).unwrap());
            let bits = outputs.into_iter().flatten().map(f32::to_bits);
            bits.collect::<Vec<u32>>()
        };
        let one = run(1);
        assert!(one.iter().all(|v| f32::from_bits(*v).is_finite()));
        for threads in [2, 3, 8] {
            assert!(one == run(threads), "{element:?} with {threads} threads");
        }
        // Memory that is used again leaves no trace.
        assert!(one == run(2), "{element:?}, a second time");
    }
}
