//! Text of other writers. Oracle: the programs that a reader of the text would build by hand. The
//! texts are written for these tests, in the forms that ANEForge, coremltools and the in-memory
//! projects produce (facts, section 2).

use mil::blob::{DataType, Writer};
use mil::ops::conv::PadType;
use mil::text::{self, ParseOptions, WeightFile, Written};
use mil::{Builder, Constant, DType, Element, Error, Op, Program, TensorType};

fn parse(text: &str) -> Program {
    text::parse(text, &ParseOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A function of one fp16 input `x [2, 3]` around `body`, returning `y`.
fn around(body: &str) -> String {
    format!("program(1.3)\n{{\n  func main<ios18>(tensor<fp16, [2, 3]> x) {{\n{body}\n  }} -> (y);\n}}\n")
}

/// Line, column and problem; lines are those of `body` in `around`.
fn problem(body: &str) -> (usize, usize, String) {
    located(&around(body), 3)
}

fn located(text: &str, above: usize) -> (usize, usize, String) {
    let options = ParseOptions { file: "model.mil", ..ParseOptions::default() };
    match text::parse(text, &options) {
        Err(Error::Text { file, line, column, problem }) => {
            assert_eq!(file, "model.mil");
            (line - above, column, problem)
        }
        other => panic!("expected an error of text, got {other:?}"),
    }
}

/// `softmax((x + 1) * 0.5)` over the last axis, in as many spellings as there are writers.
fn expected() -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[2, 3]).unwrap();
    let one = b.scalar(1.0);
    b.name(one, "one").unwrap();
    let sum = b.add(x, one).unwrap();
    b.name(sum, "sum").unwrap();
    let half = b.scalar(0.5);
    b.name(half, "half").unwrap();
    let product = b.mul(sum, half).unwrap();
    b.name(product, "product").unwrap();
    let y = b.push1(Op::Softmax { axis: -1 }, &[product]).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

#[test]
fn the_same_program_in_many_spellings() {
    let modern = r#"program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3520.4.1"}, {"coremlc-version", "3520.5.1"}})]
{
    func main<ios18>(tensor<fp16, [2, 3]> x) {
        fp16 one = const()[name = string("one"), val = fp16(1)];
        tensor<fp16, [2, 3]> sum = add(x = x, y = one)[name = string("sum")];
        fp16 half = const()[name = string("half"), val = fp16(0x1p-1)];
        tensor<fp16, [2, 3]> product = mul(x = sum, y = half)[name = string("product")];
        int32 ax = const()[name = string("ax"), val = int32(-1)];
        tensor<fp16, [2, 3]> y = softmax(axis = ax, x = product)[name = string("y")];
    } -> (y);
}
"#;
    let legacy = r#"program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios16>(tensor<fp16, [2, 3]> x) {
        tensor<fp16, []> one = const()[name = tensor<string, []>("one"), val = tensor<fp16, []>(1.0)];
        tensor<fp16, [2, 3]> sum = add(x = x, y = one)[name = tensor<string, []>("sum")];
        tensor<fp16, []> half = const()[name = tensor<string, []>("half"), val = tensor<fp16, []>(5e-1)];
        tensor<fp16, [2, 3]> product = mul(x = sum, y = half)[name = tensor<string, []>("op_5")];
        tensor<int32, []> ax = const()[val=tensor<int32, []>(-1), name=tensor<string, []>("ax")];
        tensor<fp16, [2, 3]> y = softmax(axis = ax, x = product)[name = tensor<string, []>("y")]  ;
    } -> (y);
}"#;
    let terse = r#"// No build info, no names, no semicolons, literals as arguments.
program(1){func forward(tensor<fp16,[2,3]>x)[FlexibleShapeInformation = tuple<tuple<tensor<string, []>>>()]{
fp16 one=const(val=fp16(0x3c00)) /* a raw word */
tensor<fp16,[2,3]>sum=add(y=one,x=x)
fp16 half=const()[val=0.5]
tensor<fp16,[2,3]>product=mul(x=sum,y=half,)
tensor<fp16,[2,3]>y=softmax(x=product,axis=int64(-1))
}->(y)}"#;
    let attributes_first = modern
        .replace("int32 ax = const()[name = string(\"ax\"), val = int32(-1)];", "")
        .replace("axis = ax, x = product", "x = product, axis = tensor<int32, [1]>([-1])")
        .replace("\n", "\r\n\t");
    for text in [modern, legacy, terse, &attributes_first, &modern.replace("main<ios18>", "main<CoreML8>")] {
        assert_eq!(parse(text), expected(), "{text}");
    }
}

#[test]
fn literals_may_be_operands() {
    let program = parse(&around(
        "tensor<fp16, [2, 3]> k0 = mul(x = x, y = fp16(-0x1p+1)); tensor<fp16, [2, 3]> y = add(x = k0, y = 0.25);",
    ));
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[2, 3]).unwrap();
    let factor = b.scalar(-2.0);
    b.name(factor, "k1").unwrap();
    let product = b.mul(x, factor).unwrap();
    b.name(product, "k0").unwrap();
    let quarter = b.scalar(0.25);
    b.name(quarter, "k2").unwrap();
    let y = b.add(product, quarter).unwrap();
    b.output("y", y).unwrap();
    assert_eq!(program, b.finish().unwrap());
}

#[test]
fn flags_words_and_lists_in_place() {
    let text = around(
        r#"tensor<fp16, [1, 1, 2, 3]> image = reshape(shape = [1, 1, -1, 3], x = x);
        tensor<fp16, [1, 1, 1, 2]> kernel = const()[val = tensor<fp16, [1, 1, 1, 2]>([[[[0x1p+0, -1]]]])];
        tensor<fp16, [1, 1, 2, 2]> z = conv(x = image, weight = kernel, pad_type = string("valid"));
        tensor<fp16, [1, 1, 2, 1]> s = reduce_max(x = z, axes = tensor<int32, [1]>([3]), keep_dims = true);
        tensor<fp16, [1, 1, 1, 2]> y = matmul(transpose_x = bool(true), x = s, y = z, transpose_y = false);"#,
    );
    let ops: Vec<Op> = parse(&text).stmts().iter().map(|stmt| stmt.op.clone()).collect();
    let kernel = Constant::float(Element::F16, &[1, 1, 1, 2], [1.0, -1.0]);
    assert_eq!(
        ops,
        [
            Op::Reshape { shape: vec![1, 1, -1, 3] },
            Op::Const(kernel),
            Op::Conv {
                strides: vec![1, 1],
                pad_type: PadType::Valid,
                pad: vec![0; 4],
                dilations: vec![1, 1],
                groups: 1
            },
            Op::ReduceMax { axes: vec![3], keep_dims: true },
            Op::Matmul { transpose_x: true, transpose_y: false },
        ]
    );
}

#[test]
fn one_constant_may_be_attribute_and_operand() {
    let text = around(
        "tensor<int32, [2]> s = const()[val = tensor<int32, [2]>([3, 2])];
        tensor<int32, [2]> t = add(x = s, y = s);
        tensor<int32, [2]> unused = const()[val = tensor<int32, [2]>([3, 2])];
        tensor<fp16, [3, 2]> y = reshape(x = x, shape = s);",
    );
    let program = parse(&text);
    let names: Vec<&str> =
        program.stmts().iter().map(|stmt| program.value(stmt.results[0]).name.as_str()).collect();
    assert_eq!(names, ["s", "t", "y"]);
}

#[test]
fn several_outputs_and_several_functions() {
    let text = "program(1.3) { func first<ios18>(tensor<fp16, [4]> x) {
        tensor<fp16, [2]> a, tensor<fp16, [2]> b = split(x = x, num_splits = int32(2), axis = int32(0))[name = string(\"halves\")];
    } -> (b, a);
    func second<ios18>() { not even read } -> (); }";
    let program = parse(text);
    let outputs: Vec<&str> = program.outputs().iter().map(|id| program.value(*id).name.as_str()).collect();
    assert_eq!(outputs, ["b", "a"]);
}

#[test]
fn the_element_type_is_that_of_the_floats() {
    let of = |ty: &str| {
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<{ty}, [2]> x) {{ tensor<{ty}, [2]> y = relu(x = x); }} -> (y); }}"
        );
        parse(&text).element()
    };
    assert_eq!(of("fp16"), Element::F16);
    assert_eq!(of("fp32"), Element::F32);
    // Ports of fp32 around a program that computes in fp16, as the older in-memory kernels have them.
    let text = r#"program(1.3) { func main<ios17>(tensor<fp32, [2]> x) {
        string d = const()[val = string("fp16")]; string e = const()[val = string("fp32")];
        tensor<fp16, [2]> h = cast(dtype = d, x = x); tensor<fp16, [2]> r = relu(x = h);
        tensor<fp32, [2]> y = cast(x = r, dtype = e);
    } -> (y); }"#;
    let program = parse(text);
    assert_eq!(program.element(), Element::F16);
    assert_eq!(program.input("x"), Some(&TensorType::new(DType::F32, &[2])));
}

#[test]
fn an_input_may_be_an_output() {
    let program = parse("program(1.3) { func main<ios18>(tensor<fp16, [2]> x) { } -> (x); }");
    assert_eq!(program.outputs(), program.inputs());
}

fn with_weights(writer: Writer) -> Written {
    let path = "@model_path/weights/w.bin".to_owned();
    Written { text: String::new(), weights: vec![WeightFile { path, bytes: writer.finish() }] }
}

#[test]
fn quantised_weights_become_constants() {
    let mut writer = Writer::new();
    let data = writer.add_i8(&[-127, 0, 1, 2, 3, 4]);
    let scale = writer.add_f16(&[0.5, 0.25]);
    let blobs = with_weights(writer);
    let text = around(&format!(
        r#"tensor<fp16, [2, 3]> w = constexpr_affine_dequantize()[axis = int32(0), name = string("w"),
            quantized_data = tensor<int8, [2, 3]>(BLOBFILE(path = string("@model_path/weights/w.bin"), offset = uint64({data}))),
            scale = tensor<fp16, [2]>(BLOBFILE(offset = uint64({scale}), path = string("@model_path/weights/w.bin"))), zero_point = int8(1)];
        tensor<fp16, [2, 3]> y = mul(x = x, y = w);"#
    ));
    let program =
        text::parse(&text, &ParseOptions { blobs: Some(&blobs), ..ParseOptions::default() }).unwrap();
    let Op::Const(w) = &program.stmts()[0].op else { panic!("{program:?}") };
    assert_eq!(w.as_floats().unwrap(), [-64.0, -0.5, 0.0, 0.25, 0.5, 0.75]);
    assert_eq!(w.ty, TensorType::new(DType::F16, &[2, 3]));
}

/// uint8 is kept as int8, 128 lower, zero point and all. Oracle: by hand.
#[test]
fn unsigned_weights_become_signed_ones_of_equal_value() {
    let read = |zero: &str, scale: &str| {
        let text = around(&format!(
            r#"tensor<fp16, [2, 3]> w = constexpr_affine_dequantize()[axis = int32(1), name = string("w"),
                quantized_data = tensor<uint8, [2, 3]>([[0, 128, 255], [1, 2, 3]]), scale = {scale}{zero}];
            tensor<fp16, [2, 3]> y = mul(x = x, y = w);"#
        ));
        text::parse(&text, &ParseOptions::default())
    };
    let values = |zero: &str, scale: &str| {
        let program = read(zero, scale).unwrap();
        let Op::Const(w) = &program.stmts()[0].op else { panic!("{program:?}") };
        assert!(matches!(w.data, mil::ConstData::Affine(_)), "{w:?}");
        w.as_floats().unwrap().to_vec()
    };
    assert_eq!(values("", "fp16(0.5)"), [0.0, 64.0, 127.5, 0.5, 1.0, 1.5]);
    let three = values(", zero_point = tensor<uint8, [3]>([0, 128, 255])", "tensor<fp16, [3]>([1, 2, 4])");
    assert_eq!(three, [0.0, 0.0, 0.0, 1.0, -252.0, -1008.0]);
    let told = |scale: &str| read("", scale).unwrap_err().to_string();
    for scale in ["fp16(0x1p+17)", "fp16(inf)", "fp16(nan)"] {
        assert!(told(scale).contains("fp16"), "{}", told(scale));
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let mut writer = Writer::new();
    writer.add_f16(&[1.0; 6]);
    writer.add(DataType::Float32, &[0; 24]);
    let blobs = with_weights(writer);
    let problem = |path: &str, offset: u64, blobs: Option<&Written>| {
        let text = around(&format!(
            r#"tensor<fp16, [2, 3]> w = const()[val = tensor<fp16, [2, 3]>(BLOBFILE(path = string("{path}"), offset = uint64({offset})))];
            tensor<fp16, [2, 3]> y = mul(x = x, y = w);"#
        ));
        let blobs = blobs.map(|b| b as &dyn text::BlobSource);
        match text::parse(&text, &ParseOptions { blobs, ..ParseOptions::default() }) {
            Err(Error::Text { line: 4, problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    let path = "@model_path/weights/w.bin";
    for (path, offset, blobs, expected) in [
        (path, 64, None, "not at hand"),
        ("@model_path/v.bin", 64, Some(&blobs), "written without it"),
        (path, 128, Some(&blobs), "magic is"),
        (path, 192, Some(&blobs), "6 elements of fp32, expected 6 of fp16"),
    ] {
        let found = problem(path, offset, blobs);
        assert!(found.contains(expected), "{found} should contain {expected}");
    }
}

#[test]
fn errors_name_the_place_and_the_repair() {
    let y = "tensor<fp16, [2, 3]> y = ";
    for (body, line, column, expected) in [
        ("tensor<fp16, [2, 3]> y = gather(x = x);", 1, 26, "the op `gather` is unknown"),
        ("tensor<fp16, [2, 3]> y = attention(q = x, k = x, v = x);", 1, 26, "the op `attention` is unknown"),
        (
            "\n\n  tensor<fp16, [2, 4]> y = relu(x = x);",
            3,
            3,
            "`y` is declared tensor<fp16, [2, 4]>, the op gives tensor<fp16, [2, 3]>",
        ),
        (&format!("{y}relu(x = z);"), 1, 35, "`z` is not declared before it is read"),
        (&format!("{y}relu(z = x);"), 1, 31, "relu takes no argument `z`, only x"),
        (&format!("{y}add(x = x);"), 1, 26, "operand `y` is missing"),
        (&format!("{y}relu(x = (x, x));"), 1, 31, "takes one value"),
        (&format!("{y}relu(x = x, x = x);"), 1, 38, "given twice"),
        (&format!("{y}softmax(x = x, axis = int32(7));"), 1, 26, "axis 7"),
        (&format!("{y}softmax(x = x, axis = string(\"a\"));"), 1, 26, "attribute `axis` cannot be"),
        (&format!("{y}softmax(x = x, axis = x);"), 1, 48, "must be a constant"),
        (&format!("{y}add(x = x, y = fp16(0x1.2.3p0));"), 1, 46, "is no number"),
        (&format!("{y}add(x = x, y = fp16(1e9));"), 1, 46, "too large for fp16"),
        (&format!("{y}add(x = x, y = int8(128));"), 1, 46, "128 is no int8"),
        (&format!("{y}add(x = x, y = int16(1));"), 1, 41, "values of type `int16` are not supported"),
        (&format!("{y}add(x = x, y = int32(4294967296));"), 1, 47, "outside the 32-bit integers"),
        (&format!("{y}add(x = x, y = tensor<fp16, [2]>([1]));"), 1, 41, "1 elements are listed, expected 2"),
        (&format!("{y}relu(x = x) tensor"), 2, 3, "found `}`"),
        (&format!("{y}relu(x = \"x"), 1, 35, "a string that does not end"),
        ("/* y", 1, 1, "a comment that does not end"),
        ("tensor<fp16, [2, ?]> y = relu(x = x);", 1, 18, "symbolic"),
        ("tensor<fp16, [2147483647, 2147483647, 9]> y = relu(x = x);", 1, 1, "more than 2^40"),
        ("tensor<fp16, [2, 0]> y = relu(x = x);", 1, 1, "an axis of no elements"),
        ("tensor<fp16, [2, 3]> x = relu(x = x);", 1, 22, "`x` is declared twice"),
        ("state<tensor<fp16, [2]>> s = relu(x = x);", 1, 1, "state<…> are not supported"),
        (
            "tensor<fp16, [1, 3]> a, tensor<fp16, [1, 3]> y = relu(x = x);",
            1,
            50,
            "gives 1 results, 2 are named",
        ),
        (
            "tensor<fp16, [1, 3]> y = split(x = x, num_splits = int32(2), axis = int32(0));",
            1,
            26,
            "1 names for 2 parts",
        ),
        ("fp16 y = const()[name = string(\"y\")];", 1, 10, "`val` is missing"),
        (
            "tensor<fp16, [2]> y = const()[val = tensor<fp16, [3]>([1, 2, 3])];",
            1,
            37,
            "is declared tensor<fp16, [2]>",
        ),
        ("größe", 1, 3, "found `ö`, expected"),
    ] {
        let (found_line, found_column, found) = problem(body);
        assert!(found.contains(expected), "{body}: {found} should contain {expected}");
        assert_eq!((found_line, found_column), (line, column), "{body}: {found}");
    }
}

#[test]
fn what_is_no_program_is_said_so() {
    for (text, line, expected) in [
        ("", 1, "found the end, expected `program`"),
        ("program(x)", 1, "expected a version"),
        ("program(1.3)\n[buildInfo = ", 2, "a `[` without its `]`"),
        ("program(1.3) { func main<ios18>() { } -> (); }", 1, "returns nothing"),
        ("program(1.3) { func main<ios18>() { } -> (y); }", 1, "never computed"),
        ("program(1.3) { func main<ios18>(string x) { } -> (x); }", 1, "cannot hold a string"),
        ("program(1.3) { func main<ios18>(fp16 x) { } -> (x, x); }", 1, "returned twice"),
        ("program(1.3) { func main<ios18>(fp16 x) { } -> (x); } program", 1, "expected the end"),
        ("program(1.3) { func main<ios18>(fp16 x) { }\n -> (x);", 2, "found the end"),
    ] {
        let (found, _, problem) = located(text, 0);
        assert!(problem.contains(expected), "{text}: {problem} should contain {expected}");
        assert_eq!(found, line, "{text}: {problem}");
    }
}
