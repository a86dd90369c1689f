//! One training step in Burn on the CPU (its backend Flex), in f32.

use std::collections::BTreeMap;

use burn::optim::{AdamW, AdamWConfig, AdamWState, Optimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module, ops::AttentionModuleOptions};
use shapes::{BETAS, EPS, LR, Model, Peer, WEIGHT_DECAY};

struct Burn {
    device: Device,
    n_layers: usize,
    head_dim: usize,
    batch: usize,
    norm_eps: f64,
    softcap: f64,
    residual_scale: f64,
    matrices: BTreeMap<String, Trained<2>>,
    gains: BTreeMap<String, Trained<1>>,
    cos: Tensor<4>,
    sin: Tensor<4>,
}

struct Trained<const D: usize> {
    value: Tensor<D>,
    state: Option<AdamWState<D>>,
    optimizer: AdamW,
}

impl<const D: usize> Trained<D> {
    fn update(&mut self, gradient: Tensor<D>) {
        let (value, state) = self.optimizer.step(LR, self.value.clone().inner(), gradient, self.state.take());
        self.state = state;
        self.value = Tensor::from_inner(value).require_grad();
    }
}

impl Burn {
    fn linear(&self, x: Tensor<2>, name: &str) -> Tensor<2> {
        x.matmul(self.matrices[name].value.clone().transpose())
    }

    fn norm(&self, x: Tensor<2>, name: &str) -> Tensor<2> {
        let mean = x.clone().square().mean_dim(1);
        x / (mean + self.norm_eps).sqrt() * self.gains[name].value.clone().unsqueeze()
    }

    /// [B * T, heads * head_dim] -> [B, heads, T, head_dim]
    fn heads(&self, x: Tensor<2>) -> Tensor<4> {
        let [rows, width] = x.dims();
        x.reshape([self.batch, rows / self.batch, width / self.head_dim, self.head_dim]).swap_dims(1, 2)
    }

    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let half = self.head_dim / 2;
        let turned =
            Tensor::cat(vec![x.clone().narrow(3, half, half).neg(), x.clone().narrow(3, 0, half)], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }

    fn loss(&self, ids: &[u32], targets: &[u32]) -> Tensor<1> {
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.to_vec(), [ids.len()]), &self.device);
        let targets =
            Tensor::<1, Int>::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &self.device);
        let n = ids.dims()[0];
        let mut x = self.matrices["embed"].value.clone().select(0, ids);
        for i in 0..self.n_layers {
            let a = self.norm(x.clone(), &format!("{i}/norm1"));
            let q = self.turn(self.heads(self.linear(a.clone(), &format!("{i}/wq"))));
            let k = self.turn(self.heads(self.linear(a.clone(), &format!("{i}/wk"))));
            let v = self.heads(self.linear(a, &format!("{i}/wv")));
            let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
            let o = module::attention(q, k, v, None, None, options).swap_dims(1, 2).reshape([n as i64, -1]);
            x = x + self.linear(o, &format!("{i}/wo")) * self.residual_scale;
            let f = self.norm(x.clone(), &format!("{i}/norm2"));
            let h = activation::silu(self.linear(f.clone(), &format!("{i}/w1")))
                * self.linear(f, &format!("{i}/w3"));
            x = x + self.linear(h, &format!("{i}/w2")) * self.residual_scale;
        }
        let logits = (self.linear(self.norm(x, "norm"), "embed") / self.softcap).tanh() * self.softcap;
        activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean().neg()
    }
}

impl Peer for Burn {
    fn new(model: &Model) -> Burn {
        let device = Device::flex().autodiff();
        let data = |name: &str| {
            let (shape, values) = model.f32s(name);
            TensorData::new(values, shape.to_vec())
        };
        let adamw = |decay: f64| {
            AdamWConfig::new()
                .with_beta_1(BETAS.0 as f32)
                .with_beta_2(BETAS.1 as f32)
                .with_epsilon(EPS as f32)
                .with_weight_decay(decay as f32)
                .build()
        };
        let (mut matrices, mut gains) = (BTreeMap::new(), BTreeMap::new());
        for name in model.weights() {
            let state = None;
            if model.f32s(name).0.len() == 2 {
                let value = Tensor::from_data(data(name), &device).require_grad();
                matrices.insert(name.to_owned(), Trained { value, state, optimizer: adamw(WEIGHT_DECAY) });
            } else {
                let (value, state) = (Tensor::from_data(data(name), &device).require_grad(), None);
                gains.insert(name.to_owned(), Trained { value, state, optimizer: adamw(0.0) });
            }
        }
        let table = |name: &str| Tensor::<2>::from_data(data(name), &device).unsqueeze::<4>();
        Burn {
            n_layers: model.size("n_layers"),
            head_dim: model.size("head_dim"),
            batch: model.size("batch"),
            norm_eps: model.number("norm_eps"),
            softcap: model.number("softcap"),
            residual_scale: model.number("residual_scale"),
            cos: table("cos"),
            sin: table("sin"),
            device,
            matrices,
            gains,
        }
    }

    fn step(&mut self, ids: &[u32], targets: &[u32], update: bool) -> (f64, f64) {
        let loss = self.loss(ids, targets);
        let mut gradients = loss.backward();
        let matrices: Vec<_> = self
            .matrices
            .values()
            .map(|w| w.value.grad_remove(&mut gradients).expect("a gradient"))
            .collect();
        let gains: Vec<_> =
            self.gains.values().map(|w| w.value.grad_remove(&mut gradients).expect("a gradient")).collect();
        let squares = matrices.iter().map(|g| scalar(g.clone().square().sum())).sum::<f64>()
            + gains.iter().map(|g| scalar(g.clone().square().sum())).sum::<f64>();
        let norm = squares.sqrt();
        if update {
            let factor = if norm > 1.0 { 1.0 / norm } else { 1.0 };
            for (weight, gradient) in self.matrices.values_mut().zip(matrices) {
                weight.update(gradient * factor);
            }
            for (weight, gradient) in self.gains.values_mut().zip(gains) {
                weight.update(gradient * factor);
            }
        }
        (scalar(loss), norm)
    }
}

fn scalar(x: Tensor<1>) -> f64 {
    x.into_scalar::<f32>() as f64
}

fn main() {
    shapes::main::<Burn>();
}
