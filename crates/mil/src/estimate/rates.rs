//! How fast each chip's engine is, as far as anybody has measured.

use super::Cost;
use crate::lint::{Chip, Route};

/// What a number stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Somebody measured it on this generation of chips.
    Measured,
    /// Fitted to one published breakdown; the source says to which.
    Fitted,
    /// Nobody published it: carried over from another chip, as the source says.
    Assumed,
}

/// A number and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the unit that the field's name says.
    pub value: f64,
    /// What it stands on.
    pub basis: Basis,
    /// Who measured it and on what, or how it was derived.
    pub source: &'static str,
}

const fn measured(value: f64, source: &'static str) -> Rate {
    Rate { value, basis: Basis::Measured, source }
}

const fn assumed(value: f64, source: &'static str) -> Rate {
    Rate { value, basis: Basis::Assumed, source }
}

/// The rates of one chip's engine by one route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// One dispatch of the smallest program, in microseconds.
    pub floor_us: Rate,
    /// Matrix products whose operands both come in at run time, in 10^12 operations per second.
    pub product_tflops: Rate,
    /// 1 x 1 convolutions with baked weights, in 10^12 operations per second.
    pub conv_tflops: Rate,
    /// Softmax, in 10^9 elements per second.
    pub softmax_gel_s: Rate,
    /// Every other op (elementwise, reductions, movement), in 10^9 elements per second.
    pub other_gel_s: Rate,
    /// Activations between the engine and memory, in 10^9 bytes per second.
    pub activation_gb_s: Rate,
    /// Weights streamed into the engine, in 10^9 bytes per second.
    pub weight_gb_s: Rate,
}

/// What limits a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The dispatch itself takes longer than the work.
    Floor,
    /// Arithmetic.
    Compute,
    /// Moving bytes.
    Memory,
}

impl Bound {
    /// For people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Floor => "floor",
            Bound::Compute => "compute",
            Bound::Memory => "memory",
        }
    }
}

/// Predicted time of one dispatch, in milliseconds by part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// What a dispatch costs that does nothing.
    pub floor_ms: f64,
    /// Products, softmax and the rest, one after another.
    pub compute_ms: f64,
    /// Activations and weights, one after another.
    pub memory_ms: f64,
}

impl Prediction {
    /// The whole dispatch: the floor, then the longer of the other two, which overlap.
    pub fn ms(&self) -> f64 {
        self.floor_ms + self.compute_ms.max(self.memory_ms)
    }

    /// The same if the floor, too, were hidden behind the work.
    pub fn overlapped_ms(&self) -> f64 {
        self.floor_ms.max(self.compute_ms).max(self.memory_ms)
    }

    /// The longest of the three parts.
    pub fn bound(&self) -> Bound {
        if self.floor_ms >= self.compute_ms.max(self.memory_ms) {
            Bound::Floor
        } else if self.compute_ms >= self.memory_ms {
            Bound::Compute
        } else {
            Bound::Memory
        }
    }
}

/// Softmax on the M5: 32,000 channels of 256 columns in 2.40 ms (ANEgpt), less a floor of 0.117 ms.
const SOFTMAX_M5: f64 = 32_000.0 * 256.0 / (2.40 - 0.117) / 1e6;

/// Elements per second of everything that is neither a product nor a softmax, on the M4: chosen so that
/// the engine's part of autoresearch-ANE's step at sequence 512 on a quiet M4 Max (16.1 ms forward, 17.6 ms
/// backward) comes out right in sum, all other rates being measured ones. The only rate that is fitted.
const OTHER_M4: f64 = 110.0;

/// Ratio of the older chips' product peaks to the M4's, by which rates are carried over that were never
/// measured on them.
const fn of_m4(peak: f64) -> f64 {
    peak / PRODUCT_M4
}

const PRODUCT_M1: f64 = 2.7;
const PRODUCT_M2: f64 = 3.4;
const PRODUCT_M4: f64 = 5.4;
/// The M4's, times the ratio of the convolution peaks of M3 Pro and M4 Pro (9.98 and 12.57, maderix/ANE).
const PRODUCT_M3: f64 = PRODUCT_M4 * 9.98 / 12.57;
const PRODUCT_M5: f64 = 8.7;

impl Rates {
    /// What is known of `chip` by `route`.
    pub fn of(chip: Chip, route: Route) -> Rates {
        let rates = match chip {
            Chip::M1 => Rates {
                floor_us: measured(220.0, "ANEForge's cost anchors, M1 (165 to 220 measured)"),
                product_tflops: measured(PRODUCT_M1, "ANEForge's rooflines, M1"),
                conv_tflops: measured(3.25, "ANEForge's cost anchors, M1"),
                softmax_gel_s: assumed(SOFTMAX_M5 * of_m4(PRODUCT_M1), "the M4's, by the product peaks"),
                other_gel_s: assumed(OTHER_M4 * of_m4(PRODUCT_M1), "the M4's, by the product peaks"),
                activation_gb_s: measured(9.0, "ANEForge's cost anchors, M1 (its rooflines say 0.86)"),
                weight_gb_s: assumed(68.0, "the M1's memory bandwidth, as Apple specifies it"),
            },
            Chip::M2 => Rates {
                floor_us: measured(110.0, "ANEForge, M2 Pro"),
                product_tflops: measured(PRODUCT_M2, "ANEForge's rooflines, M2 Pro"),
                conv_tflops: measured(7.24, "ANEForge's cost anchors, M2 Pro"),
                softmax_gel_s: assumed(SOFTMAX_M5 * of_m4(PRODUCT_M2), "the M4's, by the product peaks"),
                other_gel_s: assumed(OTHER_M4 * of_m4(PRODUCT_M2), "the M4's, by the product peaks"),
                activation_gb_s: assumed(9.0 * 0.98 / 0.86, "the M1's, by the rooflines of M2 Pro and M1"),
                weight_gb_s: assumed(100.0, "the M2's memory bandwidth, as Apple specifies it"),
            },
            Chip::M3 => Rates {
                floor_us: assumed(100.0, "between the M2 Pro's 110 and the M4 Max's 95"),
                product_tflops: assumed(
                    PRODUCT_M3,
                    "the M4's, by maderix/ANE's convolutions on M3 and M4 Pro",
                ),
                conv_tflops: measured(9.98, "maderix/ANE's inmem_peak, M3 Pro"),
                softmax_gel_s: assumed(SOFTMAX_M5 * of_m4(PRODUCT_M3), "the M4's, by the product peaks"),
                other_gel_s: assumed(OTHER_M4 * of_m4(PRODUCT_M3), "the M4's, by the product peaks"),
                activation_gb_s: assumed(24.0, "between M2 and M4"),
                weight_gb_s: assumed(100.0, "the M3's memory bandwidth, as Apple specifies it"),
            },
            Chip::M4 => Rates {
                floor_us: measured(95.0, "rustane, M4 Max, by _ANEInMemoryModel"),
                product_tflops: measured(PRODUCT_M4, "ANEForge's rooflines, M4"),
                conv_tflops: measured(10.93, "maderix/ANE's inmem_peak, M4 Max"),
                softmax_gel_s: assumed(SOFTMAX_M5, "the M5's (ANEgpt)"),
                other_gel_s: Rate {
                    value: OTHER_M4,
                    basis: Basis::Fitted,
                    source: "autoresearch-ANE at sequence 512 on a quiet M4 Max, engine parts in sum",
                },
                activation_gb_s: assumed(
                    57.0,
                    "the M5's cost anchor (ANEForge's roofline of 7.7 is too low)",
                ),
                weight_gb_s: assumed(114.0, "the M5 Pro's (ANEForge)"),
            },
            Chip::M5 => Rates {
                floor_us: measured(110.0, "ANEForge's cost anchors, M5 (63 to 90 on an M5 Pro)"),
                product_tflops: measured(PRODUCT_M5, "ANEForge's rooflines, M5"),
                conv_tflops: measured(12.3, "maderix/ANE's inmem_peak, M5 (12.2 to 12.4)"),
                softmax_gel_s: measured(SOFTMAX_M5, "ANEgpt, M5: 32,000 channels, 256 columns, 2.40 ms"),
                other_gel_s: assumed(OTHER_M4, "the M4's"),
                activation_gb_s: measured(57.0, "ANEForge's cost anchors, M5 (its rooflines say 20)"),
                weight_gb_s: measured(114.0, "ANEForge, M5 Pro: a product with a vector, K = 4096"),
            },
        };
        match (route, chip) {
            (Route::AneInMem, Chip::M5) => {
                Rates { floor_us: measured(117.0, "ane-infer, M5, by _ANEInMemoryModel"), ..rates }
            }
            _ => rates,
        }
    }

    /// Every rate with its name and unit.
    pub fn all(&self) -> [(&'static str, Rate); 7] {
        [
            ("floor, µs", self.floor_us),
            ("products, TFLOP/s", self.product_tflops),
            ("convolutions, TFLOP/s", self.conv_tflops),
            ("softmax, G elements/s", self.softmax_gel_s),
            ("other ops, G elements/s", self.other_gel_s),
            ("activations, GB/s", self.activation_gb_s),
            ("weights, GB/s", self.weight_gb_s),
        ]
    }

    /// How long one dispatch of a program takes that costs `cost`.
    pub fn predict(&self, cost: &Cost) -> Prediction {
        let compute_ms =
            (cost.product_flops / self.product_tflops.value + cost.conv_flops / self.conv_tflops.value) / 1e9
                + (cost.softmax_elements / self.softmax_gel_s.value
                    + cost.other_elements / self.other_gel_s.value)
                    / 1e6;
        let memory_ms = (cost.bytes_activations() / self.activation_gb_s.value
            + cost.bytes_weights / self.weight_gb_s.value)
            / 1e6;
        Prediction { floor_ms: self.floor_us.value / 1e3, compute_ms, memory_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand. 5.4e9 operations at 5.4 TFLOP/s are 1 ms, 45.6e6 bytes at 57 GB/s 0.8 ms.
    #[test]
    fn a_prediction_is_floor_plus_the_longer_part() {
        let rates = Rates::of(Chip::M4, Route::Ane);
        let mut cost = Cost { product_flops: 5.4e9, bytes_in: 45.6e6, ..Cost::default() };
        let time = rates.predict(&cost);
        assert!((time.compute_ms - 1.0).abs() < 1e-9 && (time.memory_ms - 0.8).abs() < 1e-9, "{time:?}");
        assert!((time.ms() - 1.095).abs() < 1e-9 && (time.overlapped_ms() - 1.0).abs() < 1e-9);
        assert_eq!(time.bound(), Bound::Compute);
        cost.bytes_out = 45.6e6;
        assert_eq!(rates.predict(&cost).bound(), Bound::Memory);
        assert_eq!(rates.predict(&Cost::default()).bound(), Bound::Floor);
    }

    #[test]
    fn every_rate_is_positive_and_says_where_it_comes_from() {
        for chip in Chip::ALL {
            for route in [Route::Ane, Route::AneInMem] {
                for (name, rate) in Rates::of(chip, route).all() {
                    assert!(rate.value > 0.0 && !rate.source.is_empty(), "{chip:?}: {name}");
                }
            }
        }
    }
}
