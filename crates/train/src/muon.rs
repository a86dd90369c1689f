//! Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) as autoresearch uses it: the update of a matrix is the
//! orthogonal factor of its averaged gradient, so that every direction in which the gradient points is stepped along
//! alike.
//!
//! With Nesterov's momentum, the factor by Polar Express ([`model::orthogonal`], on the device that trains), a running
//! mean square for each row or column of it (NorMuon, Li et al. 2025, arXiv 2510.05491), and decay only where update and
//! weight agree in sign ("cautious", Liang et al. 2024, arXiv 2411.16085).
//!
//! nanochat has refined it since, by three settings that are off or as in autoresearch here: `equilibrate`, `margin` and
//! `renormalize`.
//!
//! An update has two halves: [`Muon::prepare`] uses the device and changes nothing else, [`Muon::apply`] cannot fail. So
//! a step whose device fails may be tried again.

use std::sync::Arc;

use device::Device;
use model::orthogonal::{MARGIN, Orthogonalizer, frobenius};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::adamw::{Moments, Rates};
use crate::{Error, Result};

/// Least mean square that an update is divided by the root of (autoresearch).
const FLOOR: f64 = 1e-10;
/// Least norm that a row or a factor is divided by, so that zeros stay zeros (nanochat).
const NORM_FLOOR: f64 = 1e-6;

fn margin() -> f64 {
    MARGIN
}

/// What does not change between matrices and steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonConfig {
    /// Learning rate of matrices, times `multipliers.matrix` and √(rows / columns) of tall ones.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub momentum: f64,
    /// The same at the first update, …
    pub momentum_start: f64,
    /// … from which it rises in a line over so many updates: it is the mean's own memory, whatever the run's length.
    pub momentum_warmup: u64,
    /// Decay of the mean square of each row or column of the update; 0 leaves the update as it is.
    pub beta2: f64,
    /// Whether weights decay only where the update makes them smaller.
    pub cautious: bool,
    /// Whether all rows of the averaged gradient X are brought to one norm before its factor is found, each times
    /// ‖X‖ / (√rows ‖row‖): row equilibration (variant R of MuonEq, Chang et al. 2026, arXiv 2603.28254; with this
    /// norm nanochat).
    #[serde(default)]
    pub equilibrate: bool,
    /// The Frobenius norm is brought to 1 over this before the factor is found: 1.02 in autoresearch, 1.01 in nanochat.
    #[serde(default = "margin")]
    pub margin: f64,
    /// Whether the factor is brought to the Frobenius norm of an exact one, √min(rows, columns), which five steps miss
    /// (nanochat, after the normalisation of Muon+, Zhang et al. 2026, arXiv 2602.21545).
    #[serde(default)]
    pub renormalize: bool,
}

impl Default for MuonConfig {
    /// autoresearch's.
    fn default() -> Self {
        MuonConfig {
            lr: 0.04,
            momentum: 0.95,
            momentum_start: 0.85,
            momentum_warmup: 300,
            beta2: 0.95,
            cautious: true,
            equilibrate: false,
            margin: MARGIN,
            renormalize: false,
        }
    }
}

impl MuonConfig {
    /// The decay of the mean at update `number`, from 0.
    fn momentum_at(&self, number: u64) -> f64 {
        let risen = (number as f64 / self.momentum_warmup.max(1) as f64).min(1.0);
        self.momentum_start + (self.momentum - self.momentum_start) * risen
    }
}

/// One matrix and its next update.
struct Matrix {
    rows: usize,
    columns: usize,
    direction: Vec<f32>,
}

impl Matrix {
    /// Running mean squares: of rows when there are at least as many as columns, else of columns.
    fn statistics(&self) -> usize {
        self.rows.max(self.columns)
    }
}

/// The optimiser of some of a model's matrices.
pub struct Muon {
    config: MuonConfig,
    orthogonalizer: Orthogonalizer,
    matrices: Vec<Matrix>,
}

impl Muon {
    /// For matrices of these shapes, `[rows, columns]` each, which are known by their place in the list.
    ///
    /// # Errors
    /// [`Error::Model`] when the device does not take the programs.
    pub fn new(config: MuonConfig, device: Arc<dyn Device>, shapes: &[[usize; 2]]) -> Result<Muon> {
        let orthogonalizer = Orthogonalizer::new(device, config.margin, shapes.iter().copied())?;
        let matrix = |[rows, columns]: &[usize; 2]| Matrix {
            rows: *rows,
            columns: *columns,
            direction: vec![0.0; rows * columns],
        };
        Ok(Muon { config, orthogonalizer, matrices: shapes.iter().map(matrix).collect() })
    }

    /// Goes on on another device.
    ///
    /// # Errors
    /// As [`Muon::new`].
    pub fn move_to(&mut self, device: Arc<dyn Device>) -> Result<()> {
        let shapes = self.matrices.iter().map(|matrix| [matrix.rows, matrix.columns]);
        self.orthogonalizer = Orthogonalizer::new(device, self.config.margin, shapes)?;
        Ok(())
    }

    /// The moments of the matrix in place `at` before the first update: its mean gradient, and the mean squares.
    pub fn first_moments(&self, at: usize) -> Moments {
        let matrix = &self.matrices[at];
        let exp_avg = vec![0.0; matrix.rows * matrix.columns];
        Moments { exp_avg, exp_avg_sq: vec![0.0; matrix.statistics()] }
    }

    /// Finds the direction of update `number` (from 0) of the matrix in place `at`.
    ///
    /// * `gradient` row-major, `factor` as [`Rates::gradient_factor`]
    ///
    /// # Errors
    /// [`Error::Model`] when the device fails.
    pub fn prepare(
        &mut self,
        at: usize,
        number: u64,
        moments: &Moments,
        gradient: &[f32],
        factor: f64,
    ) -> Result<()> {
        let mu = self.config.momentum_at(number) as f32;
        let factor = factor as f32;
        let Matrix { rows, columns, direction } = &mut self.matrices[at];
        let values = gradient.par_iter().zip(&moments.exp_avg);
        direction.par_iter_mut().zip(values).for_each(|(direction, (gradient, mean))| {
            let gradient = gradient * factor;
            let mean = mean + (gradient - mean) * (1.0 - mu);
            *direction = gradient + (mean - gradient) * mu;
        });
        if self.config.equilibrate {
            equilibrate(direction, *rows);
        }
        self.orthogonalizer.run(*rows, *columns, direction).map_err(Error::Model)?;
        if self.config.renormalize {
            renormalize(direction, *rows.min(columns));
        }
        Ok(())
    }

    /// Moves `weights` along the direction that was found for them.
    pub fn apply(
        &mut self,
        at: usize,
        number: u64,
        moments: &mut Moments,
        weights: &mut [f32],
        gradient: &[f32],
        rates: Rates,
    ) {
        let MuonConfig { beta2, cautious, .. } = self.config;
        let mu = self.config.momentum_at(number) as f32;
        let factor = rates.gradient_factor as f32;
        moments.exp_avg.par_iter_mut().zip(gradient).for_each(|(mean, gradient)| {
            *mean += (gradient * factor - *mean) * (1.0 - mu);
        });
        let matrix = &mut self.matrices[at];
        if beta2 > 0.0 {
            normalize(matrix, &mut moments.exp_avg_sq, beta2);
        }
        let lr = rates.lr * (matrix.rows as f64 / matrix.columns as f64).max(1.0).sqrt();
        let (step, decay) = (lr as f32, (lr * rates.weight_decay) as f32);
        weights.par_iter_mut().zip(&matrix.direction).for_each(|(weight, direction)| {
            let decays = !cautious || direction * *weight >= 0.0;
            *weight -= step * direction + if decays { decay * *weight } else { 0.0 };
        });
    }
}

/// Brings each of the `rows` of a matrix to the root mean square of their norms, which keeps the Frobenius norm.
fn equilibrate(matrix: &mut [f32], rows: usize) {
    let wanted = frobenius(matrix) / (rows as f64).sqrt();
    let columns = matrix.len() / rows;
    matrix.par_chunks_mut(columns).for_each(|row| {
        let factor = wanted / row.iter().map(square).sum::<f64>().sqrt().max(NORM_FLOOR);
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    });
}

/// Brings a factor to the Frobenius norm of an orthogonal one: the singular values, as many as the smaller extent, are 1.
fn renormalize(factor: &mut [f32], smaller: usize) {
    let change = (smaller as f64).sqrt() / frobenius(factor).max(NORM_FLOOR);
    factor.par_iter_mut().for_each(|value| *value = (f64::from(*value) * change) as f32);
}

fn square(value: &f32) -> f64 {
    f64::from(*value) * f64::from(*value)
}

/// Divides each row (or column) by the root of its running mean square, and keeps the Frobenius norm.
fn normalize(matrix: &mut Matrix, running: &mut [f32], beta2: f64) {
    let Matrix { rows, columns, direction } = matrix;
    let (rows, columns) = (*rows, *columns);
    let by_row = rows >= columns;
    let mean_squares: Vec<f64> = if by_row {
        let of_row = |row: &[f32]| row.iter().map(square).sum::<f64>() / columns as f64;
        direction.par_chunks(columns).map(of_row).collect()
    } else {
        let of_column = |column: usize| {
            direction[column..].iter().step_by(columns).map(square).sum::<f64>() / rows as f64
        };
        (0..columns).into_par_iter().map(of_column).collect()
    };
    let before = frobenius(direction);
    let mut after = 0.0;
    let mut factors = Vec::with_capacity(running.len());
    for (running, mean_square) in running.iter_mut().zip(&mean_squares) {
        *running = (f64::from(*running) * beta2 + mean_square * (1.0 - beta2)) as f32;
        let factor = 1.0 / f64::from(*running).max(FLOOR).sqrt();
        after += mean_square * rows.min(columns) as f64 * factor * factor;
        factors.push(factor);
    }
    let whole = before / after.sqrt().max(FLOOR);
    let factors: Vec<f32> = factors.into_iter().map(|factor| (factor * whole) as f32).collect();
    direction.par_chunks_mut(columns).enumerate().for_each(|(row, values)| {
        if by_row {
            values.iter_mut().for_each(|value| *value *= factors[row]);
        } else {
            values.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// One file of PyTorch's values; see `tests/golden/make_muon_golden.py`.
    struct Golden {
        bytes: Vec<u8>,
        hyper: serde_json::Value,
    }

    const SHAPES: [(&str, [usize; 2]); 3] = [("wide", [6, 11]), ("tall", [13, 5]), ("square", [8, 8])];

    impl Golden {
        fn read(name: &str) -> Golden {
            let path = format!("{}/../../tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            let hyper = serde_json::from_str(&header.metadata().as_ref().unwrap()["hyper"]).unwrap();
            Golden { bytes, hyper }
        }

        fn tensor(&self, name: &str) -> Vec<f32> {
            let file = SafeTensors::deserialize(&self.bytes).unwrap();
            let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }

        fn config(&self) -> MuonConfig {
            let number = |key: &str| self.hyper[key].as_f64().unwrap();
            MuonConfig {
                lr: number("lr"),
                momentum: number("momentum"),
                momentum_start: number("momentum_start"),
                momentum_warmup: self.hyper["momentum_warmup"].as_u64().unwrap(),
                beta2: number("beta2"),
                cautious: true,
                equilibrate: self.hyper["equilibrate"].as_bool().unwrap(),
                margin: number("margin"),
                renormalize: self.hyper["renormalize"].as_bool().unwrap(),
            }
        }

        /// Moves all three matrices as PyTorch did, with gradients stored times `scale`; the largest difference over
        /// all snapshots, relative to the larger of the value and 1.
        fn worst_difference(&self, config: &MuonConfig, scale: f32) -> f64 {
            let device = Arc::new(cpu::CpuDevice::new(2));
            let mut muon = Muon::new(config.clone(), device, &SHAPES.map(|(_, shape)| shape)).unwrap();
            let mut worst: f64 = 0.0;
            let mut compare = |got: &[f32], name: &str| {
                let wanted = self.tensor(name);
                assert_eq!(got.len(), wanted.len(), "{name}");
                for (got, want) in got.iter().zip(wanted) {
                    worst = worst.max(f64::from((got - want).abs()) / f64::from(want.abs().max(1.0)));
                }
            };
            for (at, (name, _)) in SHAPES.into_iter().enumerate() {
                let mut weights = self.tensor(&format!("{name}.start"));
                let mut moments = muon.first_moments(at);
                let gradients = self.tensor(&format!("{name}.gradients"));
                for (step, gradient) in gradients.chunks_exact(weights.len()).enumerate() {
                    let gradient: Vec<f32> = gradient.iter().map(|g| g * scale).collect();
                    let rates = Rates {
                        lr: config.lr,
                        weight_decay: self.hyper["weight_decay"].as_f64().unwrap(),
                        gradient_factor: 1.0 / f64::from(scale),
                    };
                    let number = step as u64;
                    muon.prepare(at, number, &moments, &gradient, rates.gradient_factor).unwrap();
                    muon.apply(at, number, &mut moments, &mut weights, &gradient, rates);
                    if [1, 2, 10, 40].contains(&(step + 1)) {
                        compare(&weights, &format!("{name}.step_{}", step + 1));
                    }
                }
                compare(&moments.exp_avg, &format!("{name}.momentum"));
                compare(&moments.exp_avg_sq, &format!("{name}.second"));
            }
            worst
        }
    }

    type Fault = fn(&mut MuonConfig);

    /// Oracle: the published algorithm in PyTorch, f64, without the refinements and with them. Tolerance: an orthogonal
    /// factor has an error of 2e-5 (see `crates/model/tests/orthogonal.rs`), 40 updates of 0.02 times it add up to 1.6e-5
    /// if they all point one way; a wrong term in the update is a hundred times larger, as the planted faults show.
    #[test]
    fn forty_updates_are_the_published_ones() {
        const TOLERANCE: f64 = 2e-5;
        let faults: [Fault; 5] = [
            |config| config.momentum_warmup = 31,
            |config| config.momentum_start = 0.86,
            |config| config.beta2 = 0.94,
            |config| config.beta2 = 0.0,
            |config| config.cautious = false,
        ];
        let of_refinements: [Fault; 3] = [
            |config| config.equilibrate = false,
            |config| config.margin = MARGIN,
            |config| config.renormalize = false,
        ];
        for (name, faults) in [("muon", &faults[..]), ("muon_refined", &of_refinements[..])] {
            let golden = Golden::read(name);
            for scale in [1.0, 65536.0] {
                let worst = golden.worst_difference(&golden.config(), scale);
                assert!(worst <= TOLERANCE, "{name}, scale {scale}: {worst:e}");
            }
            for (at, fault) in faults.iter().enumerate() {
                let mut config = golden.config();
                fault(&mut config);
                let worst = golden.worst_difference(&config, 1.0);
                assert!(worst > 10.0 * TOLERANCE, "{name}: fault {at} is not seen: {worst:e}");
            }
        }
    }

    /// A configuration that was written before there were refinements.
    #[test]
    fn without_the_refinements_keys_it_is_what_it_was() {
        let written = "lr = 0.04\nmomentum = 0.95\nmomentum_start = 0.85\nmomentum_warmup = 300\nbeta2 = 0.95\n\
                       cautious = true\n";
        assert_eq!(toml::from_str::<MuonConfig>(written).unwrap(), MuonConfig::default());
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let shape @ [rows, columns] = [130, 257];
        let gradient: Vec<f32> = (0..rows * columns).map(|i| ((i * 31) % 977) as f32 - 400.0).collect();
        let refined = MuonConfig { equilibrate: true, renormalize: true, ..MuonConfig::default() };
        for config in [MuonConfig::default(), refined] {
            let with = |threads: usize| {
                let device = Arc::new(cpu::CpuDevice::new(threads));
                let mut muon = Muon::new(config.clone(), device, &[shape]).unwrap();
                let mut moments = muon.first_moments(0);
                let mut weights: Vec<f32> = (0..rows * columns).map(|i| (i % 13) as f32).collect();
                let rates = Rates { lr: 0.04, weight_decay: 0.2, gradient_factor: 0.5 };
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                    for number in 0..3 {
                        muon.prepare(0, number, &moments, &gradient, rates.gradient_factor).unwrap();
                        muon.apply(0, number, &mut moments, &mut weights, &gradient, rates);
                    }
                });
                (weights, moments)
            };
            assert_eq!(with(1), with(2));
            assert_eq!(with(1), with(8));
        }
    }
}
