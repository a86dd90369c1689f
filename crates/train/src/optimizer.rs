//! Every parameter's update: which rule moves it, at which rate, with which decay.

use std::sync::Arc;

use device::Device;
use model::{EMBEDDING, Parameter, ParameterKind, Stack};

use crate::adamw::{AdamW, Moments, Rates};
use crate::config::{OptimizerConfig, OptimizerKind};
use crate::{Muon, Result};

/// What one update goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The schedule's factor on every rate.
    pub rate: f64,
    /// Progress of the run in [0, 1].
    pub progress: f64,
    /// As [`Rates::gradient_factor`].
    pub gradient_factor: f64,
}

/// The optimisers of a model, with all their moments.
pub struct Optimizer {
    config: OptimizerConfig,
    kinds: Vec<ParameterKind>,
    /// Channels of the model.
    width: usize,
    adamw: AdamW,
    muon: Option<Muon>,
    /// Parameters that Muon moves, in the order in which it knows them.
    matrices: Vec<usize>,
}

impl Optimizer {
    /// For the parameters of a model that trains on `device`.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the device does not take Muon's programs.
    pub fn new(config: &OptimizerConfig, parameters: &[Parameter], device: Arc<dyn Device>) -> Result<Self> {
        let (mut muon, mut matrices) = (None, Vec::new());
        if config.kind == OptimizerKind::Muon {
            let of_layers = |index: &usize| parameters[*index].kind == ParameterKind::Matrix;
            matrices = (0..parameters.len()).filter(of_layers).collect();
            let shapes =
                matrices.iter().map(|index| [parameters[*index].shape[0], parameters[*index].shape[1]]);
            muon = Some(Muon::new(config.muon.clone(), device, &shapes.collect::<Vec<_>>())?);
        }
        let embedding = parameters.iter().find(|p| p.name == EMBEDDING).expect("a parameter of every model");
        let moments = first_moments(parameters, muon.as_ref(), &matrices);
        Ok(Optimizer {
            config: config.clone(),
            kinds: parameters.iter().map(|p| p.kind).collect(),
            width: embedding.shape[1],
            adamw: AdamW::new(parameters.iter().map(|p| config.betas(p.kind)).collect(), moments),
            muon,
            matrices,
        })
    }

    /// The moments of the model's `parameters` before any update.
    pub fn first_moments(&self, parameters: &[Parameter]) -> Vec<Moments> {
        first_moments(parameters, self.muon.as_ref(), &self.matrices)
    }

    /// Updates done. Skipped steps do not count.
    pub fn updates(&self) -> u64 {
        self.adamw.updates()
    }

    /// The moments of every parameter.
    pub fn moments(&self) -> &[Moments] {
        self.adamw.moments()
    }

    /// Whether these can be its moments.
    pub fn takes(&self, moments: &[Moments]) -> bool {
        let lengths = |m: &Moments| (m.exp_avg.len(), m.exp_avg_sq.len());
        self.moments().iter().map(lengths).eq(moments.iter().map(lengths))
    }

    /// Goes back to a state that was saved.
    ///
    /// # Panics
    /// When the optimiser does not [take](Optimizer::takes) them.
    pub fn restore(&mut self, moments: Vec<Moments>, updates: u64) {
        self.adamw.restore(moments, updates);
    }

    /// Goes on on another device.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn move_to(&mut self, device: Arc<dyn Device>) -> Result<()> {
        self.muon.as_mut().map_or(Ok(()), |muon| muon.move_to(device))
    }

    /// Moves all weights of `stack` by its gradients.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the device fails. Until all directions are found nothing is changed.
    pub fn update(&mut self, stack: &mut Stack, pace: Pace) -> Result<()> {
        let number = self.adamw.updates();
        if let Some(muon) = &mut self.muon {
            for (at, index) in self.matrices.iter().enumerate() {
                let moments = &self.adamw.moments()[*index];
                let mut found = Ok(());
                // A matrix of a layer is in one piece.
                stack.visit_gradient(*index, &mut |_, gradient| {
                    found = muon.prepare(at, number, moments, gradient, pace.gradient_factor);
                });
                found?;
            }
        }
        self.adamw.begin_update();
        for index in 0..self.kinds.len() {
            let rates = self.rates(self.kinds[index], pace);
            let at = self.matrices.binary_search(&index).ok();
            let Optimizer { adamw, muon, .. } = self;
            stack.update(index, &mut |offset, weights, gradient| match (at, &mut *muon) {
                (Some(at), Some(muon)) => {
                    muon.apply(at, number, adamw.moments_mut(index), weights, gradient, rates);
                }
                _ => adamw.update(index, offset, weights, gradient, rates),
            })?;
        }
        Ok(())
    }

    fn rates(&self, kind: ParameterKind, pace: Pace) -> Rates {
        let OptimizerConfig { lr, decay_falls, muon, .. } = &self.config;
        let by_muon = kind == ParameterKind::Matrix && self.muon.is_some();
        let base = if by_muon { muon.lr } else { *lr };
        let left = if *decay_falls { 1.0 - pace.progress } else { 1.0 };
        Rates {
            lr: base * pace.rate * self.config.multiplier(kind, self.width),
            weight_decay: self.config.decay(kind) * left,
            gradient_factor: pace.gradient_factor,
        }
    }
}

/// The moments before any update, those of `matrices` as `muon` has them.
fn first_moments(parameters: &[Parameter], muon: Option<&Muon>, matrices: &[usize]) -> Vec<Moments> {
    let mut moments: Vec<Moments> = parameters.iter().map(|p| Moments::zeros(p.numel())).collect();
    if let Some(muon) = muon {
        matrices.iter().enumerate().for_each(|(at, index)| moments[*index] = muon.first_moments(at));
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserConfig;

    /// Oracle: autoresearch's own rates at its depth of 8, computed by hand.
    #[test]
    fn each_kind_of_the_recipe_autoresearch_has_its_published_rates() {
        let config = UserConfig::parse("recipe = 'autoresearch'", "my.toml").unwrap().resolve().unwrap();
        let parameters = Parameter::all(&config.model);
        let device = Arc::new(cpu::CpuDevice::new(1));
        // Muon's buffers are as large as the matrices; its rates need none of them.
        let few: Vec<Parameter> =
            parameters.into_iter().filter(|p| p.kind != ParameterKind::Matrix || p.port == "wg").collect();
        let optimizer = Optimizer::new(&config.optimizer, &few, device).unwrap();
        let close = |got: f64, wanted: f64, what: &str| {
            assert!((got / wanted - 1.0).abs() < 1e-9, "{what}: {got} against {wanted}");
        };
        let scale = (512.0_f64 / 768.0).powf(-0.5);
        for (kind, rate) in [
            (ParameterKind::Matrix, 0.04),
            (ParameterKind::Embedding, 0.6 * scale),
            (ParameterKind::ValueEmbedding, 0.6 * scale),
            (ParameterKind::Classifier, 0.004 * scale),
            (ParameterKind::ResidLambda, 0.005),
            (ParameterKind::X0Lambda, 0.5),
        ] {
            let at = |progress: f64| {
                let rate = config.schedule().multiplier(progress);
                optimizer.rates(kind, Pace { rate, progress, gradient_factor: 1.0 })
            };
            let what = format!("{kind:?}");
            close(at(0.0).lr, rate, &what);
            close(at(0.5).lr, rate, &what);
            close(at(0.75).lr, rate / 2.0, &what);
            assert_eq!(at(1.0).lr, 0.0, "{what}");
            let decay = if kind == ParameterKind::Matrix { 0.2 } else { 0.0 };
            assert!((at(0.0).weight_decay - decay).abs() < 1e-12, "{what}");
            assert!((at(0.75).weight_decay - decay / 4.0).abs() < 1e-12, "{what}");
            let betas = config.optimizer.betas(kind);
            let beta1 = if kind == ParameterKind::X0Lambda { 0.96 } else { 0.8 };
            assert_eq!((betas.beta1, betas.beta2, betas.eps), (beta1, 0.95, 1e-10), "{what}");
        }
    }
}
