//! The host's side of a step, at the speed of an M4 Max.

/// What the CPU of an M4 Max does in a millisecond, mostly as autoresearch-ANE's training loop has it do.
///
/// Each rate but the last is fitted to one number: the part of its name in autoresearch-ANE's step of
/// sequence 512 on a quiet machine (6 layers of width 768, FFN 2048, compacted vocabulary 8144). `load`
/// stretches all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Host {
    /// How many times as long everything takes: 1 on a quiet machine.
    pub load: f64,
}

/// Bytes touched by conversions between f32 and f16, both sides counted: io_fwd, 42.5M elements in 3.7 ms.
/// rustane measured 56 to 90 GB/s for flat copies.
const COPY_BYTES: f64 = 6.0 * 13_824.0 * 512.0 * 6.0 / 3.7;
/// Elements through a norm and the residual addition before it: rms, 13 norms in 1.2 ms.
const RMS: f64 = 13.0 * 768.0 * 512.0 / 1.2;
/// Elements through the derivative of silu: 6.4 ms.
const SILU: f64 = 6.0 * 2048.0 * 512.0 / 6.4;
/// Elements through the gradient of a norm and the additions after it: rms_bwd, 5.1 ms.
const RMS_BACKWARD: f64 = 12.0 * 768.0 * 512.0 / 5.1;
/// Logits of width 768, forward and backward, with their cross-entropy: cls, 25.9 ms.
const LOGITS: f64 = 8144.0 * 512.0 / 25.9;
/// Elements copied for the queue that computes weight gradients: dw_copy, 7.0 ms.
const CAPTURE: f64 = 6.0 * 12_288.0 * 512.0 / 7.0;
/// Layers times tokens: what the log does not name (scaling, rotation backwards, additions, the wait for
/// the last weight gradients), the step's 99.5 ms less the 90.0 ms of its parts.
const OTHER: f64 = 6.0 * 512.0 / 9.5;
/// Parameters through AdamW: rustane's fused update by two threads, 48.8M in 10 ms on an M4 Max.
const ADAM: f64 = 48.8e6 / 10.0;

impl Host {
    /// A machine that does nothing else.
    pub const QUIET: Host = Host { load: 1.0 };

    fn ms(&self, amount: f64, per_ms: f64) -> f64 {
        self.load * amount / per_ms
    }

    /// Conversion and copies that touch `bytes`, reads and writes together.
    pub fn copy_ms(&self, bytes: f64) -> f64 {
        self.ms(bytes, COPY_BYTES)
    }

    pub(super) fn rms_ms(&self, elements: f64) -> f64 {
        self.ms(elements, RMS)
    }

    pub(super) fn silu_ms(&self, elements: f64) -> f64 {
        self.ms(elements, SILU)
    }

    pub(super) fn rms_backward_ms(&self, elements: f64) -> f64 {
        self.ms(elements, RMS_BACKWARD)
    }

    pub(super) fn classifier_ms(&self, logits: f64) -> f64 {
        self.ms(logits, LOGITS)
    }

    pub(super) fn capture_ms(&self, elements: f64) -> f64 {
        self.ms(elements, CAPTURE)
    }

    pub(super) fn other_ms(&self, layer_tokens: f64) -> f64 {
        self.ms(layer_tokens, OTHER)
    }

    /// The optimiser's update of `parameters`.
    pub fn update_ms(&self, parameters: f64) -> f64 {
        self.ms(parameters, ADAM)
    }
}
