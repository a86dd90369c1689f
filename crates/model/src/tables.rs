//! Tables of embeddings: the rows of a batch's tokens, looked up on the host, and their gradients, added up there.

use device::Buffer;

use crate::Result;
use crate::storage::Part;

/// Divides each of `n` columns by its root mean square: x `[C, n]` in place; the divisors' inverses `[n]`.
pub(crate) fn normalize(x: &mut [f32], n: usize, eps: f32) -> Vec<f32> {
    let mut squares = vec![0.0_f64; n];
    for row in x.chunks_exact(n) {
        squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
    }
    let channels = (x.len() / n) as f64;
    let inverse = |sum: &f64| (1.0 / (sum / channels + f64::from(eps)).sqrt()) as f32;
    let inverse: Vec<f32> = squares.iter().map(inverse).collect();
    for row in x.chunks_exact_mut(n) {
        row.iter_mut().zip(&inverse).for_each(|(value, inverse)| *value *= inverse);
    }
    inverse
}

/// What [`normalize`] gave for the last batch, for its gradient.
struct Normed {
    eps: f32,
    /// `[C, n]`.
    unit: Vec<f32>,
    /// `[n]`.
    inverse: Vec<f32>,
}

impl Normed {
    /// From the gradient of the normed columns that of the columns, g `[C, n]` in place. With u = x / rms:
    /// (g - u mean(g u)) / rms.
    fn backward(&self, g: &mut [f32]) {
        let n = self.inverse.len();
        let mut dots = vec![0.0_f64; n];
        for (g, unit) in g.chunks_exact(n).zip(self.unit.chunks_exact(n)) {
            let products = g.iter().zip(unit).map(|(g, u)| f64::from(*g) * f64::from(*u));
            dots.iter_mut().zip(products).for_each(|(dot, product)| *dot += product);
        }
        let channels = (g.len() / n) as f64;
        let means: Vec<f32> = dots.iter().map(|dot| (dot / channels) as f32).collect();
        for (g, unit) in g.chunks_exact_mut(n).zip(self.unit.chunks_exact(n)) {
            let columns = unit.iter().zip(&means).zip(&self.inverse);
            g.iter_mut().zip(columns).for_each(|(g, ((u, mean), inverse))| *g = (*g - u * mean) * inverse);
        }
    }
}

/// A parameter whose rows are looked up, and the buffers of what was found.
pub(crate) struct Table {
    /// Index of the parameter.
    pub(crate) parameter: usize,
    /// The rows of the tokens as columns, `[1, width, 1, N]`.
    columns: Buffer,
    /// Their sum is the gradient of the columns.
    gradients: Vec<Buffer>,
    normed: Option<Normed>,
}

impl Table {
    /// * `columns`, `gradients`: `[1, width, 1, N]`
    /// * `norm_eps`: given when columns are to be normed
    pub(crate) fn new(
        parameter: usize,
        columns: Buffer,
        gradients: Vec<Buffer>,
        norm_eps: Option<f32>,
    ) -> Table {
        let normed = norm_eps.map(|eps| Normed { eps, unit: Vec::new(), inverse: Vec::new() });
        Table { parameter, columns, gradients, normed }
    }

    fn width(&self) -> usize {
        self.columns.shape()[1]
    }

    /// Writes the columns of `ids` `[N]`; whether any element of theirs is not zero.
    ///
    /// * `parts`: the parameter's
    /// * `host`: room for at least as many elements
    pub(crate) fn look_up(&mut self, parts: &mut [Part], ids: &[u32], host: &mut [f32]) -> Result<bool> {
        let (c, n) = (self.width(), ids.len());
        let host = &mut host[..c * n];
        for part in parts {
            let rows = part.range.start / c..part.range.end / c;
            part.with_master(|table| {
                for (column, id) in ids.iter().enumerate().filter(|(_, id)| rows.contains(&(**id as usize))) {
                    let row = &table[(*id as usize - rows.start) * c..][..c];
                    row.iter().enumerate().for_each(|(channel, value)| host[channel * n + column] = *value);
                }
            });
        }
        if let Some(normed) = &mut self.normed {
            normed.inverse = normalize(host, n, normed.eps);
            normed.unit.clear();
            normed.unit.extend_from_slice(host);
        }
        self.columns.write_f32(host)?;
        Ok(host.iter().any(|value| *value != 0.0))
    }

    /// Adds the gradient of each column to the row of its token.
    ///
    /// * `begins`: whether the parameter's sum begins anew with it
    pub(crate) fn add_gradient(
        &self,
        parts: &mut [Part],
        ids: &[u32],
        begins: bool,
        host: &mut [f32],
    ) -> Result<()> {
        let (c, n) = (self.width(), ids.len());
        let host = &mut host[..c * n];
        for (at, gradient) in self.gradients.iter().enumerate() {
            if at == 0 {
                gradient.read_f32(host)?;
            } else {
                gradient.add_to_f32(host)?;
            }
        }
        if let Some(normed) = &self.normed {
            normed.backward(host);
        }
        for part in parts {
            let rows = part.range.start / c..part.range.end / c;
            part.with_sum(|sum| {
                if begins {
                    sum.fill(0.0);
                }
                for (column, id) in ids.iter().enumerate().filter(|(_, id)| rows.contains(&(**id as usize))) {
                    let row = &mut sum[(*id as usize - rows.start) * c..][..c];
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(channel, value)| *value += host[channel * n + column]);
                }
            });
        }
        Ok(())
    }
}
