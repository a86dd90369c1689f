//! One training step in Candle on the CPU, in f32. Its fused norm, rotation, softmax and attention have no gradients: these
//! are the plain ones.

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss, ops};
use shapes::{BETAS, EPS, LR, Model, Peer, WEIGHT_DECAY};

struct Candle {
    n_layers: usize,
    head_dim: usize,
    batch: usize,
    norm_eps: f32,
    softcap: f64,
    residual_scale: f64,
    weights: BTreeMap<String, Var>,
    cos: Tensor,
    sin: Tensor,
    /// 0 where a key may be seen, else negative infinity: [T, T].
    mask: Tensor,
    /// With weight decay, and without.
    optimizers: [AdamW; 2],
}

impl Candle {
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.weights[name].t()?)
    }

    /// [B * T, heads * head_dim] -> [B, heads, T, head_dim]
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        x.reshape((self.batch, rows / self.batch, width / self.head_dim, self.head_dim))?
            .transpose(1, 2)?
            .contiguous()
    }

    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.head_dim / 2;
        let turned = Tensor::cat(
            &[x.narrow(D::Minus1, half, half)?.neg()?, x.narrow(D::Minus1, 0, half)?],
            D::Minus1,
        )?;
        x.broadcast_mul(&self.cos)? + turned.broadcast_mul(&self.sin)?
    }

    fn loss(&self, ids: &[u32], targets: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let norm = |x: &Tensor, name: &str| ops::rms_norm_slow(x, &self.weights[name], self.norm_eps);
        let mut x = self.weights["embed"].embedding(&ids)?;
        for i in 0..self.n_layers {
            let a = norm(&x, &format!("{i}/norm1"))?;
            let q = self.turn(&self.heads(&self.linear(&a, &format!("{i}/wq"))?)?)?;
            let k = self.turn(&self.heads(&self.linear(&a, &format!("{i}/wk"))?)?)?;
            let v = self.heads(&self.linear(&a, &format!("{i}/wv"))?)?;
            let scores = (q.matmul(&k.t()?)? * (self.head_dim as f64).powf(-0.5))?;
            let o = ops::softmax(&scores.broadcast_add(&self.mask)?, D::Minus1)?.matmul(&v)?;
            let o = o.transpose(1, 2)?.reshape((ids.dims1()?, ()))?;
            x = (x + (self.linear(&o, &format!("{i}/wo"))? * self.residual_scale)?)?;
            let f = norm(&x, &format!("{i}/norm2"))?;
            let h =
                (ops::silu(&self.linear(&f, &format!("{i}/w1"))?)? * self.linear(&f, &format!("{i}/w3"))?)?;
            x = (x + (self.linear(&h, &format!("{i}/w2"))? * self.residual_scale)?)?;
        }
        let logits = self.linear(&norm(&x, "norm")?, "embed")?;
        let logits = ((logits / self.softcap)?.tanh()? * self.softcap)?;
        loss::cross_entropy(&logits, &Tensor::new(targets, &Device::Cpu)?)
    }

    fn try_step(&mut self, ids: &[u32], targets: &[u32], update: bool) -> Result<(f64, f64)> {
        let loss = self.loss(ids, targets)?;
        let mut gradients = loss.backward()?;
        let mut squares = 0.0;
        for weight in self.weights.values() {
            squares +=
                gradients.get(weight).expect("a gradient").sqr()?.sum_all()?.to_scalar::<f32>()? as f64;
        }
        let norm = squares.sqrt();
        if update {
            for weight in self.weights.values().filter(|_| norm > 1.0) {
                let clipped = (gradients.get(weight).expect("a gradient") * (1.0 / norm))?;
                gradients.insert(weight, clipped);
            }
            for optimizer in &mut self.optimizers {
                optimizer.step(&gradients)?;
            }
        }
        Ok((loss.to_scalar::<f32>()? as f64, norm))
    }
}

impl Peer for Candle {
    fn new(model: &Model) -> Candle {
        let tensor = |name: &str| -> Tensor {
            let (shape, values) = model.f32s(name);
            Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
        };
        let weights: BTreeMap<String, Var> = model
            .weights()
            .map(|name| (name.to_owned(), Var::from_tensor(&tensor(name)).expect("a variable")))
            .collect();
        let optimizer = |decays: bool| {
            let vars = weights.values().filter(|w| (w.rank() > 1) == decays).cloned().collect();
            let weight_decay = if decays { WEIGHT_DECAY } else { 0.0 };
            AdamW::new(vars, ParamsAdamW { lr: LR, beta1: BETAS.0, beta2: BETAS.1, eps: EPS, weight_decay })
                .expect("AdamW")
        };
        let t = model.size("seq_len");
        let mask = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        Candle {
            n_layers: model.size("n_layers"),
            head_dim: model.size("head_dim"),
            batch: model.size("batch"),
            norm_eps: model.number("norm_eps") as f32,
            softcap: model.number("softcap"),
            residual_scale: model.number("residual_scale"),
            cos: tensor("cos"),
            sin: tensor("sin"),
            mask: Tensor::from_vec(mask, (t, t), &Device::Cpu).expect("a mask"),
            optimizers: [optimizer(true), optimizer(false)],
            weights,
        }
    }

    fn step(&mut self, ids: &[u32], targets: &[u32], update: bool) -> (f64, f64) {
        self.try_step(ids, targets, update).expect("a step")
    }
}

fn main() {
    shapes::main::<Candle>();
}
