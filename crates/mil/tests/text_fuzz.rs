//! Whatever the text, reading it ends in a program or an error with a place, never in a panic.

mod text_programs;

use mil::text::{self, ParseOptions, WriteOptions, Written};
use mil::{Element, Error};
use proptest::prelude::*;

fn read(text: &str, written: Option<&Written>) {
    let blobs = written.map(|w| w as &dyn text::BlobSource);
    match text::parse(text, &ParseOptions { blobs, ..ParseOptions::default() }) {
        Ok(program) => assert_eq!(program.verify(), Ok(())),
        Err(Error::Text { line, column, .. }) => assert!(line > 0 && column > 0),
        Err(other) => panic!("an error without a place: {other}"),
    }
}

/// Pieces that text is made of, and some that break it.
const PIECES: [&str; 40] = [
    "program(1.3)",
    "func",
    "main<ios18>",
    "tensor<fp16, [",
    "]>",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "->",
    ",",
    ";",
    " = ",
    "x",
    "c0",
    "fp16(",
    "int32(",
    "bool(",
    "string(\"",
    "\"",
    "0x1p-3",
    "-1",
    "2147483647",
    "-2147483648",
    "99999999999999999999",
    "0x",
    "1e999",
    "inf",
    "true",
    "BLOBFILE(path = ",
    "offset = uint64(",
    "const()",
    "split",
    "conv",
    "reshape",
    "?",
    "/*",
    "ö",
];

fn text() -> impl Strategy<Value = Written> {
    (any::<bool>(), prop::collection::vec(any::<u32>(), 1..60)).prop_map(|(half, choices)| {
        let element = if half { Element::F16 } else { Element::F32 };
        let program = text_programs::program(element, &choices);
        let options = WriteOptions { inline_max: 4, ..WriteOptions::default() };
        text::write(&program, &options).expect("it can be written")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&String::from_utf8_lossy(&bytes), None);
    }

    #[test]
    fn random_pieces(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..80)) {
        read(&pieces.join(" "), None);
        read(&format!("program(1.3) {{ func main<ios18>(tensor<fp16, [2, 3]> x) {{ {}", pieces.concat()), None);
    }

    /// Valid text in which a few pieces are replaced, numbers among them.
    #[test]
    fn mutated_text(
        written in text(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(&PIECES[..])), 1..4),
    ) {
        let mut text = written.text.clone();
        for (at, length, piece) in edits {
            let at = (0..=at.index(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let end = (at + length..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            text.replace_range(at..end, piece);
        }
        read(&text, Some(&written));
    }

    /// Valid text in which one integer is another.
    #[test]
    fn mutated_numbers(
        written in text(),
        which in any::<prop::sample::Index>(),
        value in prop::sample::select(vec!["0", "-1", "7", "2147483647", "-2147483648", "65536", "1000000007"]),
    ) {
        let digits: Vec<usize> = written.text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let start = digits[which.index(digits.len())];
        let length = written.text[start..].bytes().take_while(u8::is_ascii_digit).count();
        let mut text = written.text.clone();
        text.replace_range(start..start + length, value);
        read(&text, Some(&written));
    }

    #[test]
    fn mutated_weights(written in text(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut written = written;
        if let Some(file) = written.weights.first_mut() {
            let at = at.index(file.bytes.len());
            file.bytes[at] = value;
        }
        read(&written.text.clone(), Some(&written));
    }
}

#[test]
fn absurd_numbers_in_every_attribute() {
    let huge = 2_147_483_647;
    for statement in [
        format!("reshape(x = x, shape = [{huge}, {huge}, {huge}, {huge}])"),
        format!("reshape(x = x, shape = [-1, {huge}, {huge}, {huge}])"),
        format!("split(x = x, num_splits = {huge}, axis = 3)"),
        format!("slice_by_size(x = x, begin = [{huge}, 0, 0, 0], size = [{huge}, 1, 1, 1])"),
        "slice_by_size(x = x, begin = [-2147483648, 0, 0, 0], size = [-2147483648, 1, 1, 1])".to_owned(),
        "softmax(x = x, axis = -2147483648)".to_owned(),
        "reduce_sum(x = x, axes = [-2147483648, 2147483647])".to_owned(),
        format!("conv(x = x, weight = x, groups = -1, strides = [{huge}, {huge}])"),
        format!("conv(x = x, weight = x, groups = {huge})"),
        format!(
            "conv(x = x, weight = x, groups = 1, pad = [{huge}, {huge}, {huge}, {huge}], pad_type = \"custom\", dilations = [{huge}, {huge}])"
        ),
        format!(
            "conv(x = x, weight = x, pad_type = \"same\", strides = [{huge}, 1], dilations = [{huge}, {huge}])"
        ),
        "conv(x = x, weight = x, strides = [0, 0], dilations = [0, 0], groups = 0)".to_owned(),
        "transpose(x = x, perm = [0, 0, 0, 2147483647])".to_owned(),
    ] {
        for shape in ["1, 1, 1, 1", "2, 2, 3, 3", "1, 1, 2147483647, 512", "1, 1, 1, 2147483647"] {
            read(
                &format!(
                    "program(1) {{ func f(tensor<fp16, [{shape}]> x) {{ tensor<fp16, [{shape}]> y = {statement}; }} -> (y); }}"
                ),
                None,
            );
        }
    }
    // A product that no machine holds, each step of which has a modest operand.
    read(
        "program(1) { func f(tensor<fp16, [2147483647, 1]> x, tensor<fp16, [1, 2147483647]> y) { tensor<fp16, [1, 1]> z = matmul(x = x, y = y); } -> (z); }",
        None,
    );
    let deep = "[".repeat(100_000);
    read(&format!("program(1) {{ func f(fp16 x) {{ fp16 y = add(x = x, y = {deep}"), None);
    read(&format!("program(1) {deep}"), None);
}
