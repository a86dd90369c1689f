//! MIL as drivers of this route write it, and blob files.

use half::f16;

/// A port of halves.
pub(crate) fn port(name: &str, shape: &str) -> String {
    format!("tensor<fp16, [{shape}]> {name}")
}

/// A program of these inputs, statements and results.
pub(crate) fn program(inputs: &[String], statements: &str, outputs: &str) -> String {
    format!(
        "program(1.3)\n[buildInfo = dict<string, string>({{{{\"coremlc-component-MIL\", \"3510.2.1\"}}, \
         {{\"coremlc-version\", \"3505.4.1\"}}}})]\n{{\n    func main<ios18>({}) {{\n{statements}\n    }} -> ({outputs});\n}}\n",
        inputs.join(", ")
    )
}

/// `result = op(x, y)` of one shape.
pub(crate) fn binary(op: &str, result: &str, x: &str, y: &str, shape: &str) -> String {
    format!("tensor<fp16, [{shape}]> {result} = {op}(x = {x}, y = {y})[name = string(\"{result}\")];\n")
}

/// A scalar.
pub(crate) fn scalar(name: &str, value: f32) -> String {
    format!("fp16 {name} = const()[name = string(\"{name}\"), val = fp16({value})];\n")
}

/// `z0 = a0 * factor`.
pub(crate) fn scale(shape: &str, factor: f32) -> String {
    let body = scalar("k0", factor) + &binary("mul", "z0", "a0", "k0", shape);
    program(&[port("a0", shape)], &body, "z0")
}

/// The difference of two inputs, declared in this order: the first minus the second.
pub(crate) fn difference(first: &str, second: &str, shape: &str) -> String {
    program(&[port(first, shape), port(second, shape)], &binary("sub", "z0", first, second, shape), "z0")
}

/// `z0 = matmul(a0, b0)` of `a0` [rows, k] and `b0` [k, columns].
pub(crate) fn product(rows: usize, k: usize, columns: usize) -> String {
    let (a, b) = (format!("1, 1, {rows}, {k}"), format!("1, 1, {k}, {columns}"));
    let body = format!(
        "bool f0 = const()[name = string(\"f0\"), val = bool(false)];\n\
         tensor<fp16, [1, 1, {rows}, {columns}]> z0 = matmul(transpose_x = f0, transpose_y = f0, x = a0, y = b0)\
         [name = string(\"z0\")];\n"
    );
    program(&[port("a0", &a), port("b0", &b)], &body, "z0")
}

/// The path of a blob file in text and in the weights dictionary.
pub(crate) const WEIGHTS: &str = "@model_path/weights/weight.bin";

/// `z0 = a0 + w0`, the second from the blob file.
pub(crate) fn biased(shape: &str) -> String {
    let constant = format!(
        "tensor<fp16, [{shape}]> w0 = const()[name = string(\"w0\"), val = tensor<fp16, [{shape}]>(BLOBFILE(path = \
         string(\"{WEIGHTS}\"), offset = uint64(64)))];\n"
    );
    program(&[port("a0", shape)], &(constant + &binary("add", "z0", "a0", "w0", shape)), "z0")
}

/// A blob file of one tensor: header, descriptor, halves.
pub(crate) fn blob(values: &[f32]) -> Vec<u8> {
    let halves: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    let mut file = vec![0; 128];
    file[0] = 1;
    file[4] = 2;
    file[64..68].copy_from_slice(&[0xef, 0xbe, 0xad, 0xde]);
    file[68] = 1;
    file[72..80].copy_from_slice(&(halves.len() as u64).to_le_bytes());
    file[80..88].copy_from_slice(&128_u64.to_le_bytes());
    file.extend(halves);
    file
}
