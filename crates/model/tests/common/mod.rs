//! Reading the golden files, and comparing with them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use device::Device;
use model::{FeedForward, InitConfig, ModelConfig, Parameter, ParameterKind, Stack, StackOptions};
use safetensors::{Dtype, SafeTensors};

pub struct Golden {
    pub config: ModelConfig,
    pub batch: usize,
    tensors: HashMap<String, Vec<f32>>,
    integers: HashMap<String, Vec<u32>>,
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let json: serde_json::Value = serde_json::from_str(&metadata["config"]).unwrap();
        let int = |key: &str| json[key].as_u64().unwrap_or(0) as usize;
        let float = |key: &str| json[key].as_f64().unwrap_or(0.0) as f32;
        let config = ModelConfig {
            n_layers: int("n_layers"),
            width: int("width"),
            n_heads: int("n_heads"),
            n_kv_heads: int("n_kv_heads"),
            head_dim: int("head_dim"),
            ffn_hidden: int("ffn_hidden"),
            vocab_size: int("vocab_size").max(2),
            seq_len: int("seq_len"),
            ffn: match json["ffn"].as_str() {
                Some("relu2") => FeedForward::Relu2,
                _ => FeedForward::SwiGlu,
            },
            qk_norm: json["qk_norm"].as_bool().unwrap(),
            norm_gain: json["norm_gain"].as_bool().unwrap_or(true),
            embed_norm: json["embed_norm"].as_bool().unwrap_or(false),
            x0_residual: json["x0_residual"].as_bool().unwrap_or(false),
            value_embeddings: json["value_embeddings"].as_bool().unwrap_or(false),
            window_pattern: json["window_pattern"].as_str().unwrap_or_default().to_owned(),
            softcap: float("softcap"),
            tied: json["tied"].as_bool().unwrap_or(true),
            residual_scale: float("residual_scale"),
            window: int("window"),
            rope_theta: float("rope_theta"),
            norm_eps: float("norm_eps"),
            defects: Vec::new(),
            init: InitConfig::default(),
        };
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut tensors, mut integers) = (HashMap::new(), HashMap::new());
        for (name, tensor) in file.tensors() {
            match tensor.dtype() {
                Dtype::F32 => {
                    let values =
                        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                    tensors.insert(name, values.collect());
                }
                Dtype::I64 => {
                    let values = tensor
                        .data()
                        .chunks_exact(8)
                        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32);
                    integers.insert(name, values.collect());
                }
                other => panic!("{name}: unexpected type {other:?}"),
            }
        }
        let batch = metadata["batch"].parse().unwrap();
        Golden { config, batch, tensors, integers }
    }

    pub fn tensor(&self, name: &str) -> &[f32] {
        self.tensors.get(name).unwrap_or_else(|| panic!("the golden file has no tensor {name}"))
    }

    pub fn ids(&self) -> &[u32] {
        &self.integers["ids"]
    }

    pub fn targets(&self) -> &[u32] {
        &self.integers["targets"]
    }

    /// The golden model on a device.
    pub fn stack(&self, device: Arc<dyn Device>, options: StackOptions) -> Stack {
        let options = StackOptions { batch: self.batch, ..options };
        let mut stack = Stack::new(&self.config, device, &options).unwrap();
        for (index, parameter) in Parameter::all(&self.config).iter().enumerate() {
            stack.set_weights(index, self.tensor(&parameter.name)).unwrap();
        }
        stack
    }
}

/// ‖actual - expected‖ / ‖expected‖ over all elements, in f64.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| f64::from(*a) - f64::from(*e)));
    let size = norm(&mut expected.iter().map(|e| f64::from(*e)));
    // A NaN anywhere must not pass as small.
    if difference.is_nan() { f64::INFINITY } else { difference / size.max(1e-30) }
}

/// Names and errors of the quantities that miss their tolerance.
#[derive(Default)]
pub struct Misses(pub Vec<String>);

impl Misses {
    pub fn check(&mut self, name: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
        let error = relative_error(actual, expected);
        if error > tolerance {
            self.0.push(format!("{name}: {error:.2e} > {tolerance:.0e}"));
        }
    }

    pub fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// One value for each parameter with its name, but the factors of all layers as one vector, as their publication
/// has them: the gradient of a single one is a sum over all channels and columns, most of which may cancel.
pub fn together(parameters: &[Parameter], values: Vec<Vec<f32>>) -> Vec<(String, Vec<f32>)> {
    let mut all: Vec<(String, Vec<f32>)> = Vec::new();
    for (parameter, values) in parameters.iter().zip(values) {
        let name = match parameter.kind {
            ParameterKind::ResidLambda | ParameterKind::X0Lambda => parameter.port.to_owned(),
            _ => parameter.name.clone(),
        };
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, so_far)) => so_far.extend(values),
            None => all.push((name, values)),
        }
    }
    all
}

/// Loss, token losses and every gradient of a golden model against those of a stack.
pub fn compare_model(golden: &Golden, stack: &mut Stack, tolerance: f64) -> Misses {
    let mut misses = Misses::default();
    let n = golden.ids().len() as f32;
    // Scale 64: a power of two well inside f16's range, so that small gradients survive there.
    let log_scale = (64.0 / n).ln();
    let scale = stack.effective_scale(log_scale) * f64::from(n);
    let report = stack.forward_backward(golden.ids(), golden.targets(), log_scale, true).unwrap();
    misses.check("token_loss", &report.nll, golden.tensor("token_loss"), tolerance);
    let gradients = (0..stack.parameters().len())
        .map(|index| stack.gradient(index).iter().map(|g| (f64::from(*g) / scale) as f32).collect())
        .collect();
    let expected =
        stack.parameters().iter().map(|p| golden.tensor(&format!("grad.{}", p.name)).to_vec()).collect();
    let expected = together(stack.parameters(), expected);
    for ((name, gradient), (_, expected)) in together(stack.parameters(), gradients).iter().zip(&expected) {
        misses.check(&format!("grad.{name}"), gradient, expected, tolerance);
    }
    misses
}

/// Every device that computes in f32.
pub fn devices_f32() -> Vec<Arc<dyn Device>> {
    vec![
        Arc::new(cpu::CpuDevice::new(2)),
        Arc::new(sim::SimDevice::with_element(sim::Profile::m4(), mil::Element::F32)),
    ]
}

/// The engine's arithmetic, by chip profile.
pub fn sim_f16(chip: &str) -> Arc<dyn Device> {
    Arc::new(sim::SimDevice::new(sim::Profile::by_name(chip).unwrap()))
}
