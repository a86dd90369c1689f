//! Faults of other systems, planted on purpose.
//!
//! A run that is to tell what a fault did to the system that had it needs the fault, and nothing else that
//! differs. So it is planted where the right thing stands: in the finished programs.

use mil::{Builder, Op, Program, Result, ValueId};
use serde::{Deserialize, Serialize};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// The gradient of a norm's input multiplies the part along the input by the gain once more, as the CPU code of
    /// autoresearch-ANE does (and maderix/ANE's, from which it comes): `w r (dy - u mean(w dy u))` with u = x r and
    /// r = 1/rms(x), where `r (w dy - u mean(w dy u))` is right. The two agree as long as gains are 1. It holds for
    /// norms of the residual stream, which are the only ones that those systems have.
    RmsNormBackwardW,
}

impl Defect {
    /// `program` with all of `defects`.
    pub(crate) fn plant_all(defects: &[Defect], program: Program) -> Result<Program> {
        defects.iter().try_fold(program, |program, defect| defect.plant(&program))
    }

    fn plant(self, program: &Program) -> Result<Program> {
        program.rewrite(&mut |b, op, args| match (self, op) {
            (Defect::RmsNormBackwardW, Op::RmsNormGrad { axis: 1, eps }) => {
                let right = b.push(op.clone(), args)?;
                Ok(Some(vec![rms_norm_backward_w(b, *eps, args, right[0])?, right[1]]))
            }
            _ => Ok(None),
        })
    }
}

/// From the right gradient dx of x `[1, C, 1, N]` (args: x, gain, dy) the faulty one:
/// w dx + (1 - w) w r dy has the part along x times w, and the other as it was.
fn rms_norm_backward_w(b: &mut Builder, eps: f32, args: &[ValueId], dx: ValueId) -> Result<ValueId> {
    let (x, gain, dy) = (args[0], args[1], args[2]);
    let channels = b.shape(x)[1];
    let squares = b.mul(x, x)?;
    let mean = b.weighted_sum(squares, 1, 1.0 / channels as f32)?;
    let r = b.push1(Op::Rsqrt { epsilon: eps }, &[mean])?;
    let scaled = b.mul(dx, gain)?;
    let one = b.scalar(1.0);
    let rest = b.sub(one, gain)?;
    let rest = b.mul(rest, gain)?;
    let across = b.mul(dy, r)?;
    let across = b.mul(across, rest)?;
    b.add(scaled, across)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mil::Element;
    use sim::{Interpreter, Profile};

    const C: usize = 3;
    const N: usize = 2;
    const EPS: f32 = 1e-5;
    const X: [f32; C * N] = [0.5, -1.0, 2.0, 0.25, -1.5, 3.0];
    const DY: [f32; C * N] = [1.0, 0.5, -0.25, 2.0, 0.75, -1.0];

    /// The gradient of X through a norm of these gains, by a program with `defects`.
    fn dx(defects: &[Defect], gain: [f32; C]) -> Vec<f32> {
        let mut b = Builder::new(Element::F32);
        let x = b.input("x", &[1, C, 1, N]).unwrap();
        let w = b.input("w", &[1, C, 1, 1]).unwrap();
        let dy = b.input("dy", &[1, C, 1, N]).unwrap();
        let grads = b.push(Op::RmsNormGrad { axis: 1, eps: EPS }, &[x, w, dy]).unwrap();
        b.output("d_x", grads[0]).unwrap();
        let program = Defect::plant_all(defects, b.finish().unwrap()).unwrap();
        let interpreter = Interpreter::new(&program, &Profile::exact()).unwrap();
        interpreter.run(&[&X, &gain, &DY]).unwrap().remove(0)
    }

    /// Oracle: the formulas as they are published with the defect, in f64; a dozen roundings of f32 of values up to 8
    /// are below 1e-5, the defect changes values by tenths.
    #[test]
    fn the_gradient_is_wrong_as_it_is_there() {
        let by_formula = |gain: [f32; C], inside: bool| -> Vec<f64> {
            let mut dx = vec![0.0; C * N];
            for n in 0..N {
                let at = |values: &[f32], c: usize| f64::from(values[c * N + n]);
                let w = |c: usize| f64::from(gain[c]);
                let mean_square = (0..C).map(|c| at(&X, c).powi(2)).sum::<f64>() / C as f64;
                let r = 1.0 / (mean_square + f64::from(EPS)).sqrt();
                let dot = (0..C).map(|c| w(c) * at(&DY, c) * at(&X, c)).sum::<f64>();
                for c in 0..C {
                    let along = at(&X, c) * r * r / C as f64 * dot;
                    dx[c * N + n] = if inside {
                        w(c) * r * (at(&DY, c) - along)
                    } else {
                        r * (w(c) * at(&DY, c) - along)
                    };
                }
            }
            dx
        };
        let worst = |got: &[f32], wanted: &[f64]| {
            got.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
        };
        let gain = [0.5, 2.0, -1.5];
        let defects = [Defect::RmsNormBackwardW];
        assert!(worst(&dx(&defects, gain), &by_formula(gain, true)) < 1e-5);
        assert!(worst(&dx(&[], gain), &by_formula(gain, false)) < 1e-5);
        assert!(worst(&dx(&[], gain), &by_formula(gain, true)) > 0.1, "they differ");
        assert!(worst(&dx(&defects, [1.0; C]), &by_formula([1.0; C], false)) < 1e-5, "gains of 1 hide it");
    }

    /// In a layer it reaches what stands before a norm, and in the head the stream.
    #[test]
    fn it_is_planted_in_layers_and_head() {
        let mut config = crate::presets::by_name("odd").unwrap();
        let programs = |config: &crate::ModelConfig| {
            crate::programs(config, crate::Cut::Whole, crate::Taps::Keep, 1, Element::F32).unwrap()
        };
        let right = programs(&config);
        config.defects = vec![Defect::RmsNormBackwardW];
        let changed: Vec<String> = (programs(&config).into_iter().zip(right))
            .filter(|(a, b)| a.program != b.program)
            .map(|(a, _)| a.name)
            .collect();
        assert_eq!(changed, ["backward", "head"]);
    }
}
