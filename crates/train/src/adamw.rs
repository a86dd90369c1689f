//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with rate, betas and decay of each parameter's own.
//!
//! One pass over weights, gradients and both moments does everything, unscaling and clipping of the
//! gradient included. All of it is elementwise, so the result has the same bits with any number of
//! threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Elements that one task updates.
const CHUNK: usize = 1 << 14;

/// What does not change between steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Betas {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
}

/// Running means of one parameter's gradients, row-major like its weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// Of the gradients.
    pub exp_avg: Vec<f32>,
    /// Of their squares.
    pub exp_avg_sq: Vec<f32>,
}

impl Moments {
    /// Of a parameter of `numel` elements, before its first update.
    pub fn zeros(numel: usize) -> Moments {
        Moments { exp_avg: vec![0.0; numel], exp_avg_sq: vec![0.0; numel] }
    }
}

/// How one parameter moves in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Decoupled decay: weights shrink by the factor 1 - `lr` * `weight_decay`.
    pub weight_decay: f64,
    /// Factor on the stored gradient: the inverse of its scale, times the clipping coefficient.
    pub gradient_factor: f64,
}

/// The optimiser's state.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    betas: Vec<Betas>,
    moments: Vec<Moments>,
    updates: u64,
}

impl AdamW {
    /// For parameters with these first moments, [`Moments::zeros`] of those that it moves itself.
    ///
    /// * `betas`: one for each
    pub fn new(betas: Vec<Betas>, moments: Vec<Moments>) -> AdamW {
        assert_eq!(betas.len(), moments.len(), "every parameter has betas of its own");
        AdamW { betas, moments, updates: 0 }
    }

    /// Updates done: the time in Adam's bias correction. Skipped steps do not count.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The moments of every parameter.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// The moments of parameter `index`, for a rule of its own.
    pub(crate) fn moments_mut(&mut self, index: usize) -> &mut Moments {
        &mut self.moments[index]
    }

    /// Goes back to a state that was saved.
    ///
    /// # Panics
    /// When the moments are not those of the same parameters.
    pub fn restore(&mut self, moments: Vec<Moments>, updates: u64) {
        let lengths = |moments: &[Moments]| -> Vec<(usize, usize)> {
            moments.iter().map(|m| (m.exp_avg.len(), m.exp_avg_sq.len())).collect()
        };
        assert_eq!(lengths(&moments), lengths(&self.moments), "moments belong to the same parameters");
        (self.moments, self.updates) = (moments, updates);
    }

    /// Begins an update; [`AdamW::update`] for every run of every parameter follows.
    pub fn begin_update(&mut self) {
        self.updates += 1;
    }

    /// Moves `weights`, which are those of parameter `index` from element `offset` on.
    ///
    /// * `weights` `[n]`, `gradient` `[n]`, where n may be a part of the parameter
    pub fn update(
        &mut self,
        index: usize,
        offset: usize,
        weights: &mut [f32],
        gradient: &[f32],
        rates: Rates,
    ) {
        let Betas { beta1, beta2, eps } = self.betas[index];
        let t = self.updates.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - beta1.powi(t);
        let correction2 = 1.0 - beta2.powi(t);
        let one = Coefficients {
            factor: rates.gradient_factor as f32,
            decay: (rates.lr * rates.weight_decay) as f32,
            beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            square: (1.0 - beta2) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            eps: eps as f32,
            step: (rates.lr / correction1) as f32,
        };
        let moments = &mut self.moments[index];
        let range = offset..offset + weights.len();
        weights
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(moments.exp_avg[range.clone()].par_chunks_mut(CHUNK))
            .zip(moments.exp_avg_sq[range].par_chunks_mut(CHUNK))
            .for_each(|(((w, g), m), v)| {
                for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                    one.update(w, *g, m, v);
                }
            });
    }
}

/// The update of one element, its constants in f32.
struct Coefficients {
    factor: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    square: f32,
    root: f32,
    eps: f32,
    step: f32,
}

impl Coefficients {
    #[inline(always)]
    fn update(&self, w: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        let g = g * self.factor;
        *m += (g - *m) * self.beta1;
        *v = *v * self.beta2 + g * g * self.square;
        // The decay is taken off, not multiplied on: 1 - lr * weight_decay rounded to f32 would err the
        // same way at every step.
        *w -= self.decay * *w + self.step * *m / (v.sqrt() * self.root + self.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// One file of PyTorch's values; see `tests/golden/make_adamw_golden.py`.
    struct Golden {
        bytes: Vec<u8>,
        hyper: serde_json::Value,
    }

    impl Golden {
        fn read() -> Golden {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/adamw.safetensors");
            let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            let hyper = serde_json::from_str(&header.metadata().as_ref().unwrap()["hyper"]).unwrap();
            Golden { bytes, hyper }
        }

        fn tensor(&self, name: &str) -> Vec<f32> {
            let file = SafeTensors::deserialize(&self.bytes).unwrap();
            let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }

        fn number(&self, key: &str) -> f64 {
            self.hyper[key].as_f64().unwrap()
        }

        /// Trains both parameters as PyTorch did, with gradients stored times `scale`; the largest
        /// difference over all snapshots, relative to the larger of the value and 1.
        fn worst_difference(&self, weight_decay: f64, scale: f32) -> f64 {
            let betas =
                Betas { beta1: self.number("beta1"), beta2: self.number("beta2"), eps: self.number("eps") };
            let rates = self.tensor("rates");
            let mut worst: f64 = 0.0;
            let mut compare = |got: &[f32], name: &str| {
                for (got, want) in got.iter().zip(self.tensor(name)) {
                    worst = worst.max(f64::from((got - want).abs()) / f64::from(want.abs().max(1.0)));
                }
            };
            for (name, decay) in [("matrix", weight_decay), ("norm", 0.0)] {
                let mut weights = self.tensor(&format!("{name}.start"));
                let gradients = self.tensor(&format!("{name}.gradients"));
                let mut adamw = AdamW::new(vec![betas], vec![Moments::zeros(weights.len())]);
                for (step, gradient) in gradients.chunks_exact(weights.len()).enumerate() {
                    let gradient: Vec<f32> = gradient.iter().map(|g| g * scale).collect();
                    let rates = Rates {
                        lr: self.hyper["lr"][name].as_f64().unwrap() * f64::from(rates[step]),
                        weight_decay: decay,
                        gradient_factor: 1.0 / f64::from(scale),
                    };
                    adamw.begin_update();
                    // In two runs, as for a parameter that is divided into tiles.
                    let (left, right) = weights.split_at_mut(3);
                    adamw.update(0, 0, left, &gradient[..3], rates);
                    adamw.update(0, 3, right, &gradient[3..], rates);
                    if [1, 2, 10, 100].contains(&(step + 1)) {
                        compare(&weights, &format!("{name}.step_{}", step + 1));
                    }
                }
                compare(&adamw.moments()[0].exp_avg, &format!("{name}.exp_avg"));
                compare(&adamw.moments()[0].exp_avg_sq, &format!("{name}.exp_avg_sq"));
            }
            worst
        }
    }

    /// Oracle: torch.optim.AdamW in f64. Tolerance: 100 steps of f32 rounding of weights near 1,
    /// half a unit (6e-8) each, add up like a random walk to 10 * 6e-8; a step moves weights by
    /// 3e-3, so a wrong term in the update is thousands of times larger.
    #[test]
    fn a_hundred_steps_are_pytorchs() {
        const TOLERANCE: f64 = 1e-6;
        let golden = Golden::read();
        let decay = golden.number("weight_decay");
        for scale in [1.0, 65536.0] {
            let worst = golden.worst_difference(decay, scale);
            assert!(worst <= TOLERANCE, "scale {scale}: {worst:e}");
        }
        // A planted fault: another decay must show.
        assert!(golden.worst_difference(decay * 0.99, 1.0) > TOLERANCE);
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let n = 5 * CHUNK + 7;
        let gradient: Vec<f32> = (0..n).map(|i| ((i * 31) % 977) as f32 - 400.0).collect();
        let with = |threads: usize| {
            let betas = Betas { beta1: 0.9, beta2: 0.95, eps: 1e-8 };
            let mut adamw = AdamW::new(vec![betas], vec![Moments::zeros(n)]);
            let mut weights: Vec<f32> = (0..n).map(|i| (i % 13) as f32).collect();
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                for _ in 0..3 {
                    adamw.begin_update();
                    let rates = Rates { lr: 0.01, weight_decay: 0.1, gradient_factor: 0.5 };
                    adamw.update(0, 0, &mut weights, &gradient, rates);
                }
            });
            (weights, adamw)
        };
        assert_eq!(with(1), with(2));
        assert_eq!(with(1), with(8));
    }
}
