//! How a layer is divided into the programs that a device compiles.
//!
//! The coarser the cut, the fewer dispatches; the finer, the surer it is that the engine's
//! compiler takes it. A cut is data: which scopes of the joint program go into which segment.

use mil::{Op, Program, Result, Segment, Stmt, partition};
use serde::{Deserialize, Serialize};

use crate::LayerKind;

/// A way of dividing a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// One program forward, one backward.
    #[serde(rename = "whole")]
    Whole,
    /// Attention and feed-forward part apart: two forward, two backward.
    #[serde(rename = "attn|ffn")]
    AttnFfn,
    /// Ten programs around the products that are known to compile on real hardware (the kernels of
    /// maderix/ANE and autoresearch-ANE), each with the norms and weight gradients beside it.
    #[serde(rename = "ten")]
    Ten,
}

/// Which activations of the forward pass the backward pass finds in buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Taps {
    /// Every large product's result; norms, activations, gates and what is mixed into a layer's input are cheap and
    /// computed again.
    Keep,
    /// Only what passes between forward segments; everything else is computed again.
    Recompute,
}

/// One segment: its name, and the scopes whose statements it holds, forward or backward.
struct Piece {
    name: &'static str,
    backward: bool,
    scopes: &'static [&'static str],
}

const fn forward(name: &'static str, scopes: &'static [&'static str]) -> Piece {
    Piece { name, backward: false, scopes }
}

const fn backward(name: &'static str, scopes: &'static [&'static str]) -> Piece {
    Piece { name, backward: true, scopes }
}

const ALL: &[&str] =
    &["mix", "norm1", "q", "kv", "gate", "attention", "wo", "norm2", "ffn_in", "act", "ffn_out"];
const ATTENTION: &[&str] = &["mix", "norm1", "q", "kv", "gate", "attention", "wo"];
const FFN: &[&str] = &["norm2", "ffn_in", "act", "ffn_out"];

const WHOLE: &[Piece] = &[forward("forward", ALL), backward("backward", ALL)];

const ATTN_FFN: &[Piece] = &[
    forward("attn_forward", ATTENTION),
    forward("ffn_forward", FFN),
    backward("ffn_backward", FFN),
    backward("attn_backward", ATTENTION),
];

const TEN: &[Piece] = &[
    forward("sdpa_forward", &["mix", "norm1", "q", "kv", "gate", "attention"]),
    forward("wo_forward", &["wo"]),
    forward("ffn_forward", FFN),
    backward("ffn_backward_w2", &["ffn_out", "act"]),
    backward("ffn_backward_w13", &["ffn_in", "norm2"]),
    backward("wo_backward", &["wo"]),
    backward("sdpa_backward_1", &["attention_grad.1"]),
    backward("sdpa_backward_2", &["attention_grad.2"]),
    backward("kv_backward", &["kv", "gate"]),
    backward("q_backward", &["q", "norm1", "mix"]),
];

impl Cut {
    /// From coarse to fine, the order in which a device is asked.
    pub const ALL: [Cut; 3] = [Cut::Whole, Cut::AttnFfn, Cut::Ten];

    /// As configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Cut::Whole => "whole",
            Cut::AttnFfn => "attn|ffn",
            Cut::Ten => "ten",
        }
    }

    fn pieces(self) -> &'static [Piece] {
        match self {
            Cut::Whole => WHOLE,
            Cut::AttnFfn => ATTN_FFN,
            Cut::Ten => TEN,
        }
    }

    /// How many of the segments are forward; they come first.
    pub fn forward_segments(self) -> usize {
        self.pieces().iter().filter(|piece| !piece.backward).count()
    }

    /// Divides the joint program of a layer of `kind` ([`crate::layer::joint`]), whose segments are named for it.
    ///
    /// # Errors
    /// [`mil::Error::Program`] when a segment would read what a later one computes: a bug of the
    /// table above.
    pub fn divide(self, joint: &Program, kind: LayerKind, taps: Taps) -> Result<Vec<Segment>> {
        let pieces = self.pieces();
        let names: Vec<String> = pieces.iter().map(|piece| kind.program_name(piece.name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let divided;
        let joint = if self == Cut::Ten {
            // The finest cut goes through the middle of the attention's gradient.
            divided = joint.expand(|op| matches!(op, Op::AttentionGrad { .. }))?;
            &divided
        } else {
            joint
        };
        let segment_of = |stmt: &Stmt| {
            let home = |piece: &Piece| {
                piece.backward == stmt.scope.backward && piece.scopes.contains(&&*stmt.scope.name)
            };
            // Statements outside every scope are constants, which belong wherever they are read.
            pieces.iter().position(home).unwrap_or(0)
        };
        let forward_count = self.forward_segments();
        let recompute = |stmt: &Stmt, from: usize, to: usize| {
            let is_view = matches!(stmt.op, Op::Reshape { .. });
            if is_view || from >= forward_count {
                // Within the backward pass nothing is worth computing twice but a view, and heads
                // that are moved about by the attention's two halves.
                return is_view
                    || matches!(stmt.op, Op::Transpose { .. } | Op::SliceBySize { .. } | Op::Concat { .. });
            }
            if to < forward_count {
                return false;
            }
            let passes_between_segments =
                &*stmt.scope.name == "wo" && matches!(stmt.op, Op::Add) && pieces.len() > 2;
            match taps {
                Taps::Keep => {
                    matches!(stmt.op, Op::RmsNorm { .. })
                        && &*stmt.scope.name != "q"
                        && &*stmt.scope.name != "kv"
                        || matches!(&*stmt.scope.name, "act" | "gate" | "mix")
                }
                Taps::Recompute => !passes_between_segments,
            }
        };
        partition(joint, &names, segment_of, recompute)
    }
}

impl std::str::FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Cut::ALL
            .into_iter()
            .find(|cut| cut.name() == text)
            .ok_or_else(|| format!("there is no cut `{text}`; there are whole, attn|ffn, ten"))
    }
}
