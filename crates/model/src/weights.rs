//! Weight files: safetensors under the Hugging Face names, so that other tools read them as they
//! are.
//!
//! What Llama lacks has names of the same form, with i the layer:
//!
//! | tensor | shape | |
//! | --- | --- | --- |
//! | `model.layers.{i}.self_attn.{q,k}_norm.weight` | `[D]` | gains per head, as Qwen3 has them |
//! | `model.layers.{i}.resid_lambda.weight`, `….x0_lambda.weight` | `[1]` | with `x0_residual` |
//! | `model.layers.{i}.self_attn.value_embed.weight` | `[V, KV*D]` | with `value_embeddings`, in every second layer |
//! | `model.layers.{i}.self_attn.value_gate.weight` | `[KV, 32]` | beside it |
//!
//! Without `norm_gain` a file holds no norm at all. No model of another library takes such files: a tensor too many
//! or one that is missing is an error there, and so it is here.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{Error, ModelConfig, Parameter, Result};

/// The bytes of a weight file that holds `tensors`, one for each of `parameters` in their order.
///
/// # Errors
/// [`Error::Weights`] when the format refuses them: a bug, since names and shapes are our own.
pub fn to_bytes(parameters: &[Parameter], tensors: &[Vec<f32>]) -> Result<Vec<u8>> {
    let raw: Vec<Vec<u8>> =
        tensors.iter().map(|values| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = parameters
        .iter()
        .zip(&raw)
        .map(|(parameter, bytes)| {
            let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes);
            view.map(|view| (parameter.name.clone(), view))
        })
        .collect::<std::result::Result<BTreeMap<_, _>, _>>();
    // transformers refuses files without this mark of the framework that they are laid out for.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    views
        .and_then(|views| safetensors::serialize(views, metadata))
        .map_err(|e| Error::Weights { path: "<memory>".into(), problem: e.to_string() })
}

/// The tensors of a weight file, in the order of [`Parameter::all`]. Missing classifier rows are
/// not made up: the file must hold exactly this model.
///
/// * `bytes`: the file's contents; `path` names it in errors
///
/// # Errors
/// [`Error::Weights`] naming the file, the tensor, its shape or type and what was expected.
pub fn from_bytes(config: &ModelConfig, bytes: &[u8], path: &Path) -> Result<Vec<Vec<f32>>> {
    let fail = |problem: String| Error::Weights { path: path.to_owned(), problem };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| fail(format!("it is not a whole safetensors file ({e}); use another checkpoint")))?;
    let parameters = Parameter::all(config);
    if let Some(name) = file.names().into_iter().find(|name| !parameters.iter().any(|p| p.name == *name)) {
        return Err(fail(format!(
            "tensor {name} has no place in this model; the file belongs to another config"
        )));
    }
    parameters
        .iter()
        .map(|parameter| {
            let tensor = file.tensor(&parameter.name).map_err(|_| {
                fail(format!("tensor {} is missing; the file belongs to another config", parameter.name))
            })?;
            if tensor.shape() != parameter.shape {
                return Err(fail(format!(
                    "tensor {} is {:?}, this model needs {:?}",
                    parameter.name,
                    tensor.shape(),
                    parameter.shape
                )));
            }
            if tensor.dtype() != Dtype::F32 {
                return Err(fail(format!("tensor {} is {:?}, expected F32", parameter.name, tensor.dtype())));
            }
            Ok(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        })
        .collect()
}
