//! Writes programs as Core ML packages and as text, side by side, for `tests/oracle/mlpackage_check.py`.
//!
//! ```text
//! cargo run -p anneal-model --example package_dump -- OUT
//! ```
//!
//! `OUT/GROUP/NAME.mlpackage` and `OUT/GROUP/NAME/model.mil` hold the same program. Groups: every op with
//! every example of it, in both element types and both generations of the language; every program of
//! every preset, in every cut; the cuts with recomputed taps; the older generation.

use std::error::Error;
use std::path::{Path, PathBuf};

use mil::text::{self, Header, WriteOptions};
use mil::{Builder, ConstData, Constant, DType, Element, Op, Program, TensorType, mlpackage, ops};
use model::{Cut, ModelConfig, Taps, presets, programs};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Sequences in a batch, and tokens in each: every kind of program, none of them large.
const BATCH: usize = 2;
const SEQ_LEN: usize = 48;

fn main() -> Result<()> {
    let [out] = std::env::args_os().skip(1).map(PathBuf::from).collect::<Vec<_>>().try_into().map_err(
        |given: Vec<_>| {
            format!("package_dump: expected one argument, the folder to write to; got {}", given.len())
        },
    )?;
    for header in [Header::Ios18, Header::Ios16] {
        for element in [Element::F16, Element::F32] {
            let group = format!("ops-{element:?}-{header:?}").to_lowercase();
            for (at, example) in ops::examples().into_iter().enumerate() {
                // They are of a later generation.
                if header == Header::Ios16 && matches!(example.op, Op::Quantize { .. } | Op::Dequantize) {
                    continue;
                }
                let program = wrap(&example)?.with_element(element)?;
                dump(&out.join(&group), &format!("{at:02}_{}", example.op.name()), &program, header)?;
            }
        }
    }
    dump(&out.join("quantized-ios18"), "whole", &whole()?, Header::Ios18)?;
    for header in [Header::Ios18, Header::Ios16] {
        let group = format!("quantized-{header:?}").to_lowercase();
        dump(&out.join(&group), "small", &quantized([2, 3])?, header)?;
        dump(&out.join(&group), "in_a_file", &quantized([16, 64])?, header)?;
        dump(&out.join(&group), "by_row", &quantized_by_row()?, header)?;
    }
    for preset in presets::NAMES {
        for cut in Cut::ALL {
            dump_model(&out, preset, cut, Taps::Keep, Header::Ios18)?;
        }
    }
    for cut in Cut::ALL {
        dump_model(&out, "odd", cut, Taps::Recompute, Header::Ios18)?;
    }
    dump_model(&out, "tiny", Cut::Whole, Taps::Keep, Header::Ios16)?;
    dump_model(&out, "odd", Cut::Ten, Taps::Keep, Header::Ios16)
}

/// A convolution whose weight is kept as int8.
fn quantized([outputs, inputs]: [usize; 2]) -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, inputs, 1, 16])?;
    let values: Vec<i8> = (0..outputs * inputs).map(|at| (at * 37 % 255) as u8 as i8).collect();
    let weight = b.constant(Constant::quantized(Element::F16, &[outputs, inputs, 1, 1], &values, 0.125));
    let y = b.pointwise_conv(x, weight)?;
    b.output("y", y)?;
    Ok(b.finish()?)
}

/// A convolution whose weight has a scale and a zero point for each output.
fn quantized_by_row() -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, 6, 1, 16])?;
    let values: Vec<i8> = (0..24).map(|at| at * 5 - 60).collect();
    let (scales, zero_points) = ([0.125, 0.25, 0.5, 1.0], [0, -3, 7, 127]);
    let weight = Constant::affine(Element::F16, &[4, 6, 1, 1], &values, 0, &scales, &zero_points);
    let weight = b.constant(weight);
    let y = b.pointwise_conv(x, weight)?;
    b.output("y", y)?;
    Ok(b.finish()?)
}

/// Whole numbers of int8 that are a constant of their own.
fn whole() -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, 16])?;
    let ty = TensorType::new(DType::I8, &[1, 16]);
    let values: Vec<i32> = (0..16).map(|at| at * 17 - 128).collect();
    let whole = b.constant(Constant { ty, data: ConstData::Int(values.into()) });
    let scale = b.scalar(0.5);
    let half = b.push1(Op::Dequantize, &[whole, scale])?;
    let y = b.add(x, half)?;
    b.output("y", y)?;
    Ok(b.finish()?)
}

/// The programs of one preset in one cut. Head and decoding are the same in all, and come with `whole`.
fn dump_model(out: &Path, preset: &str, cut: Cut, taps: Taps, header: Header) -> Result<()> {
    let config = presets::by_name(preset)?;
    let config = ModelConfig { seq_len: config.seq_len.min(SEQ_LEN), ..config };
    let cut_name = cut.name().replace('|', "_");
    let group = format!("{preset}-{cut_name}-{taps:?}-{header:?}").to_lowercase();
    for segment in programs(&config, cut, taps, BATCH, Element::F16)? {
        let of_every_cut = segment.name.starts_with("head") || segment.name == "layer_decode";
        if of_every_cut && cut != Cut::Whole {
            continue;
        }
        dump(&out.join(&group), &segment.name, &segment.program, header)?;
    }
    Ok(())
}

fn dump(group: &Path, name: &str, program: &Program, header: Header) -> Result<()> {
    let options = match header {
        Header::Ios18 => WriteOptions::default(),
        Header::Ios16 => WriteOptions::legacy(),
    };
    text::write_to_dir(program, &group.join(name), &options)?;
    mlpackage::write_to_dir(program, &group.join(name).with_extension(mlpackage::EXTENSION), header)?;
    Ok(())
}

/// A program of one op, its operands behind ports. What a port cannot hold is compared into being, and a
/// kernel with gaps is a constant: coremltools knows no other.
fn wrap(example: &ops::Example) -> Result<Program> {
    let gaps = matches!(&example.op, Op::Conv { dilations, .. } if dilations.iter().any(|step| *step > 1));
    let mut b = Builder::new(Element::F32);
    let mut operands = Vec::new();
    for (at, ty) in example.operands.iter().enumerate() {
        let name = format!("operand_{at}");
        operands.push(match ty.dtype {
            _ if ty.rank() == 0 => b.scalar(0.5),
            DType::Bool => {
                let port = b.input(&name, &ty.shape)?;
                b.push1(Op::Greater, &[port, port])?
            }
            DType::I8 => {
                let (port, scale) = (b.input(&name, &ty.shape)?, b.scalar(0.5));
                b.push1(Op::Quantize { output_dtype: DType::I8 }, &[port, scale])?
            }
            _ if gaps && at == 1 => {
                let values = (0..ty.numel()).map(|at| at as f32);
                b.constant(Constant::float(Element::F32, &ty.shape, values))
            }
            _ => b.typed_input(&name, ty.clone())?,
        });
    }
    for (at, result) in b.push(example.op.clone(), &operands)?.into_iter().enumerate() {
        let result = match b.ty(result).dtype {
            DType::Bool | DType::I8 => b.push1(Op::Cast { dtype: DType::F32 }, &[result])?,
            _ => result,
        };
        b.output(&format!("result_{at}"), result)?;
    }
    Ok(b.finish()?)
}
