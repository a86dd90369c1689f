//! One statement at a time: which kernel, on which views.

use std::sync::Arc;

use mil::composites::attention::AttentionShape;
use mil::composites::cross_entropy::TARGET_BASE;
use mil::ops::movement::slice_box;
use mil::ops::reduce::reduced_axes;
use mil::{ConstData, Op, Stmt, ValueId};

use super::Planner;
use super::memory::{Memory, Storage, StorageId};
use super::view::{View, dense_strides, merged_axes};
use crate::attention::Attention;
use crate::cross_entropy::{CrossEntropy, Gradients, Stats};
use crate::matmul::{Mat, MatMut, matmul, product};
use crate::matvec::{FEW_ROWS, Strided, has_runs, matvec, rows_times};
use crate::pool::SharedMut;
use crate::reduce::{Reduction, reduce};
use crate::rms_norm::RmsNorm;
use crate::rope::{Pairing, RopeTables, Turn, rope};
use crate::{Precision, Write};

impl Planner<'_> {
    /// Plans a statement, and before it whatever it reads, unless that has happened already.
    pub(super) fn emit_statement(&mut self, index: usize) -> Result<(), String> {
        if self.emitted[index] {
            return Ok(());
        }
        self.emitted[index] = true;
        if let Some(group) = self.groups.of[index] {
            return self.emit_group(group);
        }
        let program = self.program;
        let stmt = &program.stmts()[index];
        for arg in &stmt.args {
            self.view(*arg)?;
        }
        match &stmt.op {
            Op::Const(constant) => {
                let values: Arc<[f32]> = match &constant.data {
                    ConstData::Float(values) => values.clone(),
                    ConstData::Affine(affine) => affine.values.clone(),
                    ConstData::Bool(values) => values.iter().map(|v| f32::from(u8::from(*v))).collect(),
                    ConstData::Int(values) => {
                        // f32 counts exactly to 2^24.
                        if let Some(large) = values.iter().find(|v| v.unsigned_abs() > 1 << 24) {
                            return Err(format!("int32 constant {large} is beyond ±2^24"));
                        }
                        values.iter().map(|v| *v as f32).collect()
                    }
                    ConstData::Str(_) => return Err("a string constant is no operand".to_owned()),
                };
                let storage = self.add(Storage::Const(values));
                self.views[stmt.results[0].index()] = Some(View::dense(storage, &constant.ty.shape));
                Ok(())
            }
            Op::Reshape { .. } => {
                let shape = program.ty(stmt.results[0]).shape.clone();
                let mut view = self.view(stmt.args[0])?;
                if !view.is_dense() {
                    let storage = self.dense(stmt.args[0])?;
                    view = View::dense(storage, &view.shape);
                }
                let strides = dense_strides(&shape);
                self.views[stmt.results[0].index()] = Some(View { shape, strides, ..view });
                Ok(())
            }
            Op::Transpose { perm } => {
                let view = self.view(stmt.args[0])?;
                let rank = perm.len() as i32;
                let perm: Vec<usize> = perm.iter().map(|axis| axis.rem_euclid(rank) as usize).collect();
                self.views[stmt.results[0].index()] = Some(view.transposed(&perm));
                Ok(())
            }
            op @ Op::SliceBySize { .. } => {
                let view = self.view(stmt.args[0])?;
                let (begin, size): (Vec<_>, Vec<_>) =
                    slice_box(op, &view.shape).map_err(|e| e.to_string())?.into_iter().unzip();
                self.views[stmt.results[0].index()] = Some(view.sliced(&begin, &size));
                Ok(())
            }
            Op::Split { axis, .. } => {
                let view = self.view(stmt.args[0])?;
                let axis = axis.rem_euclid(view.shape.len() as i32) as usize;
                let size = program.ty(stmt.results[0]).shape.clone();
                for (part, result) in stmt.results.iter().enumerate() {
                    let mut begin = vec![0; size.len()];
                    begin[axis] = part * size[axis];
                    self.views[result.index()] = Some(view.sliced(&begin, &size));
                }
                Ok(())
            }
            Op::Concat { axis, .. } => self.emit_concat(stmt, *axis),
            Op::Matmul { transpose_x, transpose_y } => self.emit_matmul(stmt, *transpose_x, *transpose_y),
            Op::ReduceSum { .. } => self.emit_reduce(stmt, Reduction::Sum),
            Op::ReduceMean { .. } => self.emit_reduce(stmt, Reduction::Mean),
            Op::ReduceMax { .. } => self.emit_reduce(stmt, Reduction::Max),
            Op::Softmax { axis } => self.emit_softmax(stmt, *axis),
            Op::Conv { .. } => self.emit_conv(stmt),
            Op::RmsNorm { axis, eps } => {
                let norm = self.norm(stmt.args[0], *axis, *eps);
                let (x, w) = (self.dense(stmt.args[0])?, self.dense(stmt.args[1])?);
                let y = self.place(stmt.results[0]);
                self.step("rms_norm", 0.0, &[x, w], &[y], move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        memory.put(y, |out| norm.forward(pool, memory.read(x), Some(memory.read(w)), out))
                    }
                });
                Ok(())
            }
            Op::RmsNormGrad { axis, eps } => {
                let norm = self.norm(stmt.args[0], *axis, *eps);
                let [x, w, dy] = self.all_dense(stmt)?;
                let dx = self.place(stmt.results[0]);
                // Nobody reads the gradient of a gain that is not learned.
                let is_read = !self.uses[stmt.results[1].index()].is_empty()
                    || program.outputs().contains(&stmt.results[1]);
                let dw = is_read.then(|| self.place(stmt.results[1]));
                let writes: Vec<StorageId> = [dx].into_iter().chain(dw).collect();
                self.step("rms_norm_grad", 0.0, &[x, w, dy], &writes, move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        norm.backward(
                            pool,
                            memory.read(x),
                            Some(memory.read(w)),
                            memory.read(dy),
                            (memory.write(dx), memory.mode(dx)),
                            dw.map(|dw| (memory.write(dw), memory.mode(dw))),
                        );
                    }
                });
                Ok(())
            }
            Op::Rope { inverse } => {
                let cols = program.ty(stmt.args[0]).shape[3];
                let turn = if *inverse { Turn::Inverse } else { Turn::Forward };
                let [x, cos, sin] = self.all_dense(stmt)?;
                let y = self.place(stmt.results[0]);
                let tables =
                    move |cos: &[f32], sin: &[f32]| RopeTables::from_parts(cos.to_vec(), sin.to_vec(), cols);
                let fixed = match (&self.storages[cos.0], &self.storages[sin.0]) {
                    (Storage::Const(cos), Storage::Const(sin)) => Some(tables(cos, sin)),
                    _ => None,
                };
                self.step("rope", 0.0, &[x, cos, sin], &[y], move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        let given;
                        let tables = match &fixed {
                            Some(fixed) => fixed,
                            None => {
                                given = tables(memory.read(cos), memory.read(sin));
                                &given
                            }
                        };
                        memory
                            .put(y, |out| rope(pool, tables, Pairing::Half, turn, cols, memory.read(x), out));
                    }
                });
                Ok(())
            }
            Op::Attention { .. } => {
                let kernel = self.attention(stmt);
                let flops = attention_flops(&kernel, 2.0);
                let [q, k, v] = self.all_dense(stmt)?;
                let o = self.place(stmt.results[0]);
                self.step("attention", flops, &[q, k, v], &[o], move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        let (q, k, v) = (memory.read(q), memory.read(k), memory.read(v));
                        memory.put(o, |out| kernel.forward(pool, q, k, v, out));
                    }
                });
                Ok(())
            }
            Op::AttentionGrad { .. } => {
                let kernel = self.attention(stmt);
                let flops = attention_flops(&kernel, 5.0);
                let [q, k, v, _, d_o] = self.all_dense(stmt)?;
                let out = [0, 1, 2].map(|at| self.place(stmt.results[at]));
                self.step("attention_grad", flops, &[q, k, v, d_o], &out, move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        let inputs = [q, k, v].map(|id| memory.read(id));
                        memory.put(out[0], |dq| {
                            memory.put(out[1], |dk| {
                                memory.put(out[2], |dv| {
                                    kernel.backward(pool, inputs, memory.read(d_o), [dq, dk, dv]);
                                });
                            });
                        });
                    }
                });
                Ok(())
            }
            Op::CrossEntropyStats { softcap } => {
                let kernel = self.cross_entropy(stmt, *softcap);
                let flops = cross_entropy_flops(&kernel, 1.0);
                let [h, w, hi, lo] = self.all_dense(stmt)?;
                let out = [0, 1, 2].map(|at| self.place(stmt.results[at]));
                self.step("cross_entropy_stats", flops, &[h, w, hi, lo], &out, move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        let targets = target_ids(memory.read(hi), memory.read(lo));
                        put_stats(memory, out, |stats| {
                            kernel.stats(pool, memory.read(h), memory.read(w), &targets, stats);
                        });
                    }
                });
                Ok(())
            }
            Op::CrossEntropyGrad { softcap } => {
                let kernel = self.cross_entropy(stmt, *softcap);
                let flops = cross_entropy_flops(&kernel, 3.0);
                let [h, w, hi, lo, lse_hi, lse_lo, log_scale] = self.all_dense(stmt)?;
                let (dh, dw) = (self.place(stmt.results[0]), self.place(stmt.results[1]));
                let reads = [h, w, hi, lo, lse_hi, lse_lo, log_scale];
                self.step("cross_entropy_grad", flops, &reads, &[dh, dw], move |pool, memory| {
                    // SAFETY: declared above.
                    unsafe {
                        let targets = target_ids(memory.read(hi), memory.read(lo));
                        let lse: Vec<f32> = memory
                            .read(lse_hi)
                            .iter()
                            .zip(memory.read(lse_lo))
                            .map(|(hi, lo)| hi + lo)
                            .collect();
                        let kernel = CrossEntropy { grad_scale: memory.read(log_scale)[0].exp(), ..kernel };
                        let gradients = Gradients {
                            dh: (memory.write(dh), memory.mode(dh)),
                            dw: Some((memory.write(dw), memory.mode(dw))),
                        };
                        kernel.backward_tile(pool, memory.read(h), memory.read(w), &targets, &lse, gradients);
                    }
                });
                Ok(())
            }
            Op::CrossEntropy { softcap } => {
                let kernel = self.cross_entropy(stmt, *softcap);
                let flops = cross_entropy_flops(&kernel, 3.0);
                let [h, w, hi, lo, log_scale] = self.all_dense(stmt)?;
                let out = [0, 1, 2].map(|at| self.place(stmt.results[at]));
                let (dh, dw) = (self.place(stmt.results[3]), self.place(stmt.results[4]));
                let writes = [out[0], out[1], out[2], dh, dw];
                self.step(
                    "cross_entropy",
                    flops,
                    &[h, w, hi, lo, log_scale],
                    &writes,
                    move |pool, memory| {
                        // SAFETY: declared above.
                        unsafe {
                            let targets = target_ids(memory.read(hi), memory.read(lo));
                            let kernel =
                                CrossEntropy { grad_scale: memory.read(log_scale)[0].exp(), ..kernel };
                            let gradients = Gradients {
                                dh: (memory.write(dh), memory.mode(dh)),
                                dw: Some((memory.write(dw), memory.mode(dw))),
                            };
                            put_stats(memory, out, |stats| {
                                let (h, w) = (memory.read(h), memory.read(w));
                                kernel.forward_backward(pool, h, w, &targets, stats, Some(gradients));
                            });
                        }
                    },
                );
                Ok(())
            }
            op => Err(format!("{} has no kernel here", op.name())),
        }
    }

    fn all_dense<const N: usize>(&mut self, stmt: &Stmt) -> Result<[StorageId; N], String> {
        let mut ids = [StorageId(0); N];
        for (id, arg) in ids.iter_mut().zip(&stmt.args) {
            *id = self.dense(*arg)?;
        }
        Ok(ids)
    }

    /// The norm of a rank-4 value along `axis`: groups before it, columns after it.
    fn norm(&self, x: ValueId, axis: i32, eps: f32) -> RmsNorm {
        let (shape, axis) = (&self.program.ty(x).shape, axis as usize);
        RmsNorm {
            groups: shape[..axis].iter().product(),
            rows: shape[axis],
            cols: shape[axis + 1..].iter().product(),
            eps,
        }
    }

    fn attention(&self, stmt: &Stmt) -> Attention {
        let shape = AttentionShape::of(&stmt.op).expect("called for attention only");
        let q = &self.program.ty(stmt.args[0]).shape;
        Attention {
            batch: q[3] / shape.seq,
            seq: shape.seq,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: q[1] / shape.heads,
            scale: shape.scale,
            causal: true,
            window: shape.window,
        }
    }

    fn cross_entropy(&self, stmt: &Stmt, softcap: f32) -> CrossEntropy {
        let (h, w) = (&self.program.ty(stmt.args[0]).shape, &self.program.ty(stmt.args[1]).shape);
        CrossEntropy {
            channels: h[1],
            tokens: h[3],
            vocab: w[2],
            first: 0,
            softcap: (softcap > 0.0).then_some(softcap),
            grad_scale: 1.0,
            precision: self.precision,
        }
    }

    fn emit_concat(&mut self, stmt: &Stmt, axis: i32) -> Result<(), String> {
        let parts = stmt.args.iter().map(|arg| self.view(*arg)).collect::<Result<Vec<_>, _>>()?;
        let storage = self.place(stmt.results[0]);
        let whole = View::dense(storage, &self.program.ty(stmt.results[0]).shape);
        let axis = axis.rem_euclid(whole.shape.len() as i32) as usize;
        let mut begin = vec![0; whole.shape.len()];
        for part in parts {
            let target = whole.sliced(&begin, &part.shape);
            begin[axis] += part.shape[axis];
            self.copy(part, target);
        }
        Ok(())
    }

    /// Copies `from` to `to`, elements in the same order, strides of their own.
    pub(super) fn copy(&mut self, from: View, to: View) {
        let axes = merged_axes(&from.shape, &from.strides, &to.strides);
        let (source, target) = (from.storage, to.storage);
        self.step("copy", 0.0, &[source], &[target], move |_, memory| {
            // SAFETY: declared above.
            let (source, target_run) = unsafe { (&memory.read(source)[from.offset..], memory.write(target)) };
            let write = memory.mode(target);
            copy_axes(&axes, source, &mut target_run[to.offset..], write);
        });
    }

    fn emit_matmul(&mut self, stmt: &Stmt, transpose_x: bool, transpose_y: bool) -> Result<(), String> {
        let (mut x, mut y) = (self.view(stmt.args[0])?, self.view(stmt.args[1])?);
        let shape = self.program.ty(stmt.results[0]).shape.clone();
        for (view, transposed) in [(&mut x, transpose_x), (&mut y, transpose_y)] {
            if transposed {
                let rank = view.shape.len();
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, rank - 2);
                *view = view.transposed(&perm);
            }
        }
        let rank = shape.len();
        let (m, n, k) = (shape[rank - 2], shape[rank - 1], x.shape[x.shape.len() - 1]);
        let batch = &shape[..rank - 2];
        let batches: usize = batch.iter().product();
        // Offsets of the matrices that each batch multiplies.
        let broadcast = |view: &View| {
            let mut full = batch.to_vec();
            full.extend(&view.shape[view.shape.len() - 2..]);
            view.broadcast(&full)
        };
        let (x, y) = (broadcast(&x), broadcast(&y));
        let offsets = |view: &View| -> Vec<usize> {
            (0..batches)
                .map(|at| {
                    let mut rest = at;
                    let mut offset = view.offset;
                    for axis in (0..batch.len()).rev() {
                        offset += rest % batch[axis] * view.strides[axis];
                        rest /= batch[axis];
                    }
                    offset
                })
                .collect()
        };
        let (x_at, y_at) = (offsets(&x), offsets(&y));
        let sides = |view: &View| (view.strides[rank - 2], view.strides[rank - 1]);
        let ((x_row, x_col), (y_row, y_col)) = (sides(&x), sides(&y));
        let out = self.place(stmt.results[0]);
        let flops = 2.0 * (batches * m * n * k) as f64;
        let (xs, ys) = (x.storage, y.storage);
        let label = if batches == 1 {
            format!("matmul {m}x{k}x{n}")
        } else {
            format!("matmul {batches}x{m}x{k}x{n}")
        };
        let precision = self.precision;
        let is_matvec = batches == 1 && n == 1 && x_col == 1 && x_row == k && (y_row == 1 || k == 1);
        let is_of_few_rows = batches > 1 && m <= FEW_ROWS && has_runs(y_row, y_col);
        // Weights, which many products read before they are written again, are kept in half the bytes.
        let weights = match self.storages[xs.0] {
            Storage::Input(port) if is_matvec && precision == Precision::Bf16 => Some(port),
            _ => None,
        };
        let weights = weights.filter(|_| (x.offset, m * k) == (0, self.len(xs)));
        if let Some(port) = weights {
            self.input_is_rounded[port] = true;
        }
        self.step(label, flops, &[xs, ys], &[out], move |pool, memory| {
            let rounded = weights.and_then(|_| memory.rounded(xs));
            // SAFETY: declared above.
            let (xs, ys, out_run) = unsafe { (memory.read(xs), memory.read(ys), memory.write(out)) };
            let write = memory.mode(out);
            if is_matvec && write == Write::Store {
                let y = &ys[y_at[0]..][..k];
                return match rounded {
                    Some(xs) => matvec(pool, &xs[x_at[0]..][..m * k], y, out_run),
                    None => matvec(pool, &xs[x_at[0]..][..m * k], y, out_run),
                };
            }
            let mat = |values, at: usize, rows, cols, row, col| {
                Mat::strided(slice_from(values, at), rows, cols, row, col)
            };
            // Strides of 0, of broadcast operands, included; bounds are checked where it is read.
            let strided = |values, at: usize, row, col| Strided { values: slice_from(values, at), row, col };
            if is_of_few_rows {
                let shared = SharedMut::new(out_run);
                return pool.run(batches, |at| {
                    // SAFETY: each batch writes its own part of the output.
                    let out = unsafe { shared.slice(at * m * n, m * n) };
                    let x = strided(xs, x_at[at], x_row, x_col);
                    rows_times(x, strided(ys, y_at[at], y_row, y_col), [m, n, k], write, out);
                });
            }
            if batches == 1 {
                let x = mat(xs, x_at[0], m, k, x_row, x_col);
                let y = mat(ys, y_at[0], k, n, y_row, y_col);
                return matmul(pool, precision, MatMut::new(out_run, m, n), write, 1.0, x, y);
            }
            // Many small products: one thread each.
            let shared = SharedMut::new(out_run);
            pool.run(batches, |at| {
                // Bounds are checked as a whole matrix would be.
                let _ = (mat(xs, x_at[at], m, k, x_row, x_col), mat(ys, y_at[at], k, n, y_row, y_col));
                // SAFETY: in bounds by the line above; each batch writes its own part of the output.
                unsafe {
                    let out = shared.slice(at * m * n, m * n);
                    product(
                        precision,
                        [m, n, k],
                        (out.as_mut_ptr(), n, 1),
                        write,
                        1.0,
                        (xs.as_ptr().add(x_at[at]), x_row, x_col),
                        (ys.as_ptr().add(y_at[at]), y_row, y_col),
                    );
                }
            });
        });
        self.steps.last_mut().expect("pushed above").reads_rounded = weights.map(|_| xs);
        Ok(())
    }

    fn emit_reduce(&mut self, stmt: &Stmt, what: Reduction) -> Result<(), String> {
        let mut shape = self.program.ty(stmt.args[0]).shape.clone();
        let (axes, _) = reduced_axes(&stmt.op, shape.len()).map_err(|e| e.to_string())?;
        let mut source = self.dense(stmt.args[0])?;
        // Axis by axis, the last first; the last step writes the result.
        for (at, axis) in axes.iter().rev().enumerate() {
            let sides = [shape[..*axis].iter().product(), shape[*axis], shape[axis + 1..].iter().product()];
            shape[*axis] = 1;
            let is_last = at + 1 == axes.len();
            let target =
                if is_last { self.place(stmt.results[0]) } else { self.temp(shape.iter().product()) };
            let from = source;
            self.step(stmt.op.name(), 0.0, &[from], &[target], move |pool, memory| {
                // SAFETY: declared above.
                unsafe { memory.put(target, |out| reduce(pool, what, memory.read(from), sides, out)) }
            });
            source = target;
        }
        Ok(())
    }

    fn emit_softmax(&mut self, stmt: &Stmt, axis: i32) -> Result<(), String> {
        let shape = self.program.ty(stmt.args[0]).shape.clone();
        let axis = axis.rem_euclid(shape.len() as i32) as usize;
        let sides = [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()];
        let x = self.dense(stmt.args[0])?;
        let y = self.place(stmt.results[0]);
        self.step("softmax", 0.0, &[x], &[y], move |pool, memory| {
            // SAFETY: declared above.
            unsafe { memory.put(y, |out| crate::softmax::softmax(pool, memory.read(x), sides, out)) }
        });
        Ok(())
    }

    fn emit_conv(&mut self, stmt: &Stmt) -> Result<(), String> {
        let (x_shape, w_shape) =
            (self.program.ty(stmt.args[0]).shape.clone(), self.program.ty(stmt.args[1]).shape.clone());
        let conv = crate::conv::Conv::new(&stmt.op, &x_shape, &w_shape).map_err(|e| e.to_string())?;
        let [x, w] = self.all_dense(stmt)?;
        let y = self.place(stmt.results[0]);
        let (flops, precision) = (conv.flops(), self.precision);
        self.step("conv", flops, &[x, w], &[y], move |pool, memory| {
            // SAFETY: declared above.
            unsafe { memory.put(y, |out| conv.forward(pool, precision, memory.read(x), memory.read(w), out)) }
        });
        Ok(())
    }
}

fn slice_from(values: &[f32], at: usize) -> &[f32] {
    &values[at..]
}

/// Multiply-adds of `products` products of each visible query-key pair, two operations each.
fn attention_flops(kernel: &Attention, products: f64) -> f64 {
    let reach = kernel.window.map_or(kernel.seq as f64 / 2.0, |w| w.min(kernel.seq) as f64);
    products * 2.0 * (kernel.batch * kernel.seq * kernel.heads * kernel.head_dim) as f64 * reach
}

/// `products` products of the classifier with the tokens, two operations for each multiply-add.
fn cross_entropy_flops(kernel: &CrossEntropy, products: f64) -> f64 {
    products * 2.0 * (kernel.channels * kernel.tokens) as f64 * kernel.vocab as f64
}

/// Ids from the two rows in which targets enter a program. Where the rows are the digits of no id
/// (hi = -1: the target lies in another tile) the id is beyond every vocabulary, so that nothing
/// matches and the softmax's gradient still flows.
fn target_ids(hi: &[f32], lo: &[f32]) -> Vec<i32> {
    let base = TARGET_BASE as f32;
    let is_digit = |digit: f32| digit >= 0.0 && digit.fract() == 0.0;
    let id = |(hi, lo): (&f32, &f32)| {
        if is_digit(*hi) && is_digit(*lo) && *lo < base { (hi * base + lo) as i32 } else { i32::MAX }
    };
    hi.iter().zip(lo).map(id).collect()
}

/// Has `compute` fill the three statistics.
///
/// # Safety
/// As [`Memory::put`] for each of `out`.
unsafe fn put_stats(memory: &Memory, out: [StorageId; 3], compute: impl FnOnce(Stats<'_>)) {
    // SAFETY: passed on.
    unsafe {
        memory.put(out[0], |max| {
            memory.put(out[1], |sum_exp| {
                memory.put(out[2], |target_logit| compute(Stats { max, sum_exp, target_logit }));
            });
        });
    }
}

/// Copies (or adds) along merged axes, the innermost in one go.
fn copy_axes(axes: &[(usize, usize, usize)], from: &[f32], to: &mut [f32], write: Write) {
    let put = |to: &mut f32, from: f32| match write {
        Write::Store => *to = from,
        Write::Accumulate => *to += from,
    };
    match axes {
        [] => put(&mut to[0], from[0]),
        [(extent, 1, 1)] => match write {
            Write::Store => to[..*extent].copy_from_slice(&from[..*extent]),
            Write::Accumulate => to[..*extent].iter_mut().zip(from).for_each(|(to, from)| *to += *from),
        },
        [(extent, a, b)] => (0..*extent).for_each(|i| put(&mut to[i * b], from[i * a])),
        [(extent, a, b), inner @ ..] => {
            (0..*extent).for_each(|i| copy_axes(inner, &from[i * a..], &mut to[i * b..], write));
        }
    }
}
