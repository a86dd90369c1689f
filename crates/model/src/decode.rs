//! Decoding: one new token against cached keys and values.
//!
//! `layer_decode` is the layer's own [`block`](crate::layer) with another attention: the keys and
//! values of earlier tokens come in through ports, those of the new token go out, and the host
//! writes them into the caches. Angles and mask are ports too, so one program serves every
//! position.

use std::ops::Range;
use std::sync::Arc;

use device::{Binding, Buffer, Device, Executable, Invocation};
use mil::composites::attention::MASKED;
use mil::composites::cross_entropy::capped;
use mil::{Builder, Element, Op, Program, Segment, ValueId};

use crate::head;
use crate::layer::{Attend, block, linear, rope_angle, score_scale};
use crate::parameter::{CLASSIFIER, EMBEDDING, FINAL_NORM};
use crate::{Error, ModelConfig, Parameter, Result};

/// One layer for one token: `x` `[1, C, 1, 1]`, the layer's weights, `cos` and `sin`
/// `[1, 1, D/2, 1]`, `k_cache` and `v_cache` `[1, KV*D, 1, S]`, `mask` `[1, 1, 1, S]` (0 where a
/// cached key is visible) to `y` `[1, C, 1, 1]`, `k` and `v` `[1, KV*D, 1, 1]`.
///
/// # Errors
/// When the configuration does not type-check.
pub fn layer_decode(config: &ModelConfig, element: Element) -> mil::Result<Program> {
    let (heads, kv_heads, d, s) = (config.n_heads, config.n_kv_heads, config.head_dim, config.seq_len);
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, 1])?;
    let weights = Parameter::all(config)
        .iter()
        .filter(|p| p.layer == Some(0))
        .map(|p| Ok((p.port, b.input(p.port, &p.port_shape())?)))
        .collect::<mil::Result<Vec<_>>>()?;
    let weight = |port: &str| {
        weights.iter().find(|(name, _)| *name == port).expect("the layer's list of parameters is complete").1
    };
    let cos = b.input("cos", &[1, 1, d / 2, 1])?;
    let sin = b.input("sin", &[1, 1, d / 2, 1])?;
    let k_cache = b.input("k_cache", &[1, config.kv_dim(), 1, s])?;
    let v_cache = b.input("v_cache", &[1, config.kv_dim(), 1, s])?;
    let mask = b.input("mask", &[1, 1, 1, s])?;
    // The queries of one key/value head stand side by side as rows, so no head is repeated:
    // [KV, G, D] x [KV, D, S] with G = H / KV.
    let group = heads / kv_heads;
    let mut attention = |b: &mut Builder, q: ValueId, k: ValueId, v: ValueId| {
        let q = b.reshape(q, &[1, kv_heads, group, d])?;
        let q = b.scale(q, score_scale(config))?;
        let keys = b.reshape(k_cache, &[1, kv_heads, d, s])?;
        let values = b.reshape(v_cache, &[1, kv_heads, d, s])?;
        let (k, v) = (b.reshape(k, &[1, kv_heads, d, 1])?, b.reshape(v, &[1, kv_heads, d, 1])?);
        let old = b.matmul(q, keys, false, false)?;
        let old = b.add(old, mask)?;
        let new = b.matmul(q, k, false, false)?;
        let scores = b.concat(&[old, new], 3)?;
        let p = b.push1(Op::Softmax { axis: -1 }, &[scores])?;
        let p_old = b.slice(p, &[0, 0, 0, 0], &[1, kv_heads, group, s])?;
        let p_new = b.slice(p, &[0, 0, 0, s], &[1, kv_heads, group, 1])?;
        let o_old = b.matmul(p_old, values, false, true)?;
        let o_new = b.matmul(p_new, v, false, true)?;
        let o = b.add(o_old, o_new)?;
        b.reshape(o, &[1, heads * d, 1, 1])
    };
    let y = block(&mut b, config, x, &weight, &mut Attend { cos, sin, attention: &mut attention })?;
    b.output("y", y)?;
    for name in ["k", "v"] {
        let value = b.find(name).expect("the block names its keys and values");
        b.output(name, value)?;
    }
    b.finish()
}

/// Norm and classifier for one token: `x`, `norm` and `rows` rows of the classifier, `w`, to `logits`
/// `[1, rows, 1, 1]`, capped as in training.
fn head_decode(config: &ModelConfig, rows: usize, element: Element) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, 1])?;
    let gain = b.input("norm", &[1, config.width, 1, 1])?;
    let w = b.input("w", &[1, 1, rows, config.width])?;
    let h = b.push1(Op::RmsNorm { axis: 1, eps: config.norm_eps }, &[x, gain])?;
    let logits = linear(&mut b, w, h)?;
    let (logits, _) = capped(&mut b, logits, config.softcap)?;
    b.output("logits", logits)?;
    b.finish()
}

/// The programs of decoding, with the classifier in the tiles of `tiles`.
pub(crate) fn programs(
    config: &ModelConfig,
    element: Element,
    tiles: &[Range<usize>],
) -> mil::Result<Vec<Segment>> {
    let segment = |name: &str, program| Segment { name: name.to_owned(), program };
    let mut all = vec![
        segment("layer_decode", layer_decode(config, element)?),
        segment("head_decode", head_decode(config, tiles[0].len(), element)?),
    ];
    if let Some(rows) = tiles.last().map(Range::len).filter(|rows| *rows != tiles[0].len()) {
        all.push(segment("head_decode_last", head_decode(config, rows, element)?));
    }
    Ok(all)
}

struct DecodeLayer {
    run: Invocation,
    caches: [Buffer; 2],
    host: [Vec<f32>; 2],
}

/// Feeds tokens one by one and gives the logits of the next.
pub struct Decoder {
    config: ModelConfig,
    embedding: Vec<f32>,
    layers: Vec<DecodeLayer>,
    /// One for each vocabulary tile, with its logits.
    heads: Vec<(Invocation, Buffer)>,
    streams: Vec<Buffer>,
    angles: [Buffer; 2],
    mask: Buffer,
    new: [Buffer; 2],
    position: usize,
}

impl Decoder {
    /// Compiles the decoding programs and binds them to `weights`, given in the order of
    /// [`Parameter::all`].
    ///
    /// # Errors
    /// [`Error::Device`] when the device refuses them or has no room.
    pub fn new(config: &ModelConfig, device: &Arc<dyn Device>, weights: &[Vec<f32>]) -> Result<Decoder> {
        config.validate()?;
        let element = device.element();
        let parameters = Parameter::all(config);
        let alloc = |shape: &[usize]| device.alloc(shape);
        let put = |name: &str, shape: &[usize]| -> Result<Buffer> {
            let at = parameters.iter().position(|p| p.name == name).expect("a parameter of every model");
            let buffer = device.alloc(shape)?;
            buffer.write_f32(&weights[at])?;
            Ok(buffer)
        };
        let stream = [1, config.width, 1, 1];
        let streams =
            (0..=config.n_layers).map(|_| alloc(&stream)).collect::<std::result::Result<Vec<_>, _>>()?;
        let angle = [1, 1, config.head_dim / 2, 1];
        let angles = [alloc(&angle)?, alloc(&angle)?];
        let mask = alloc(&[1, 1, 1, config.seq_len])?;
        let new = [alloc(&[1, config.kv_dim(), 1, 1])?, alloc(&[1, config.kv_dim(), 1, 1])?];
        let layer: Executable = device.compile("layer_decode", &layer_decode(config, element)?)?;
        let mut layers = Vec::new();
        for at in 0..config.n_layers {
            let cache = [1, config.kv_dim(), 1, config.seq_len];
            let caches = [alloc(&cache)?, alloc(&cache)?];
            let own = parameters
                .iter()
                .filter(|p| p.layer == Some(at))
                .map(|p| Ok((p.port, put(&p.name, &p.port_shape())?)))
                .collect::<Result<Vec<_>>>()?;
            let mut bindings: Vec<Binding<'_>> =
                own.iter().map(|(port, buffer)| Binding::new(port, buffer)).collect();
            bindings.extend([
                Binding::new("x", &streams[at]),
                Binding::new("y", &streams[at + 1]),
                Binding::new("cos", &angles[0]),
                Binding::new("sin", &angles[1]),
                Binding::new("k_cache", &caches[0]),
                Binding::new("v_cache", &caches[1]),
                Binding::new("mask", &mask),
                Binding::new("k", &new[0]),
                Binding::new("v", &new[1]),
            ]);
            let run = layer.bind(&bindings)?;
            let empty = || vec![0.0; config.kv_dim() * config.seq_len];
            layers.push(DecodeLayer { run, caches, host: [empty(), empty()] });
        }
        let c = config.width;
        let gain = put(FINAL_NORM, &[1, c, 1, 1])?;
        let name = if config.tied { EMBEDDING } else { CLASSIFIER };
        let at = parameters.iter().position(|p| p.name == name).expect("a parameter of every model");
        let mut heads = Vec::new();
        // The classifier in the tiles of training: an axis has its limits here too.
        for rows in head::tiles(config.vocab_size, head::longest_tile(device.as_ref())) {
            let w = alloc(&[1, 1, rows.len(), c])?;
            w.write_f32(&weights[at][rows.start * c..rows.end * c])?;
            let logits = alloc(&[1, rows.len(), 1, 1])?;
            let run = device.compile("head_decode", &head_decode(config, rows.len(), element)?)?.bind(&[
                Binding::new("x", &streams[config.n_layers]),
                Binding::new("norm", &gain),
                Binding::new("w", &w),
                Binding::new("logits", &logits),
            ])?;
            heads.push((run, logits));
        }
        let at = parameters.iter().position(|p| p.name == EMBEDDING).expect("a parameter of every model");
        let embedding = weights[at].clone();
        Ok(Decoder {
            config: config.clone(),
            embedding,
            layers,
            heads,
            streams,
            angles,
            mask,
            new,
            position: 0,
        })
    }

    /// Tokens fed so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many tokens fit: the length of the training sequence.
    pub fn capacity(&self) -> usize {
        self.config.seq_len
    }

    /// Forgets every token.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Feeds one token; the logits of the next, `[V]`.
    ///
    /// # Errors
    /// [`Error::Batch`] when the context is full or the id is beyond the vocabulary,
    /// [`Error::Device`].
    pub fn feed(&mut self, id: u32) -> Result<Vec<f32>> {
        let (config, p) = (&self.config, self.position);
        if p >= config.seq_len {
            return Err(Error::Batch(format!(
                "the context of {} tokens is full; begin anew with its last part",
                config.seq_len
            )));
        }
        let Some(row) = self.embedding.chunks_exact(config.width).nth(id as usize) else {
            return Err(Error::Batch(format!(
                "token id {id} is beyond the vocabulary of {}",
                config.vocab_size
            )));
        };
        self.streams[0].write_f32(row)?;
        let angles = |of: fn(f64) -> f64| -> Vec<f32> {
            (0..config.head_dim / 2).map(|pair| of(rope_angle(config, pair, p)) as f32).collect()
        };
        self.angles[0].write_f32(&angles(f64::cos))?;
        self.angles[1].write_f32(&angles(f64::sin))?;
        let visible = |key: usize| key < p && (config.window == 0 || p - key < config.window);
        let mask: Vec<f32> = (0..config.seq_len).map(|key| if visible(key) { 0.0 } else { MASKED }).collect();
        self.mask.write_f32(&mask)?;
        let mut column = vec![0.0; config.kv_dim()];
        for layer in &mut self.layers {
            layer.run.run()?;
            for ((cache, host), new) in layer.caches.iter().zip(&mut layer.host).zip(&self.new) {
                new.read_f32(&mut column)?;
                let put = |cache: &mut [f32]| {
                    column
                        .iter()
                        .enumerate()
                        .for_each(|(channel, value)| cache[channel * config.seq_len + p] = *value);
                };
                // In place where the device's memory is the host's; otherwise through a copy.
                if !cache.map_f32(&mut |values| put(values)) {
                    put(host);
                    cache.write_f32(host)?;
                }
            }
        }
        let mut logits = Vec::with_capacity(config.vocab_size);
        for (run, tile) in &self.heads {
            run.run()?;
            let start = logits.len();
            logits.resize(start + tile.numel(), 0.0);
            tile.read_f32(&mut logits[start..])?;
        }
        self.position += 1;
        Ok(logits)
    }
}
