//! Decoding: one new token against cached keys and values.
//!
//! `layer_decode` is the layer's own [`block`](crate::layer) with another attention: the keys and
//! values of earlier tokens come in through ports, those of the new token go out, and the host
//! writes them into the caches. Angles and mask are ports too, so one program serves every
//! position. It reads its caches whole, so there is a second one for the first quarter of a sequence.

use std::ops::Range;
use std::sync::Arc;

use device::{Binding, Buffer, Device, Executable, Invocation};
use mil::composites::attention::MASKED;
use mil::composites::cross_entropy::capped;
use mil::{Builder, Element, Op, Program, Segment, ValueId};

use crate::head;
use crate::layer::{Attend, Ports, block, linear, norm, rope_angle, score_scale};
use crate::parameter::{CLASSIFIER, EMBEDDING, FINAL_NORM};
use crate::tables::normalize;
use crate::{Error, LayerKind, ModelConfig, Parameter, ParameterKind, Result};

/// One layer of `kind` for one token: `x` `[1, C, 1, 1]` and the other inputs of [`crate::layer`], `cos` and
/// `sin` `[1, 1, D/2, 1]`, `k_cache` and `v_cache` `[1, KV*D, 1, S]`, `mask` `[1, 1, 1, S]` (0 where a
/// cached key is visible) to `y` `[1, C, 1, 1]`, `k` and `v` `[1, KV*D, 1, 1]`.
///
/// # Errors
/// When the configuration does not type-check.
pub fn layer_decode(config: &ModelConfig, kind: LayerKind, element: Element) -> mil::Result<Program> {
    let (heads, kv_heads, d, s) = (config.n_heads, config.n_kv_heads, config.head_dim, config.seq_len);
    let mut b = Builder::new(element);
    let ports = Ports::new(&mut b, config, kind, 1)?;
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
    let mut attend = Attend { cos, sin, ve: ports.ve, attention: &mut attention };
    let y = block(&mut b, config, ports.x, ports.x0, &|port| ports.weight(port), &mut attend)?;
    b.output("y", y)?;
    for name in ["k", "v"] {
        let value = b.find(name).expect("the block names its keys and values");
        b.output(name, value)?;
    }
    b.finish()
}

/// Norm and classifier for one token: `x`, `norm` and `rows` rows of the classifier, `w`, to `logits`
/// `[1, rows, 1, 1]`, capped as in training; without `norm` where norms have no gains.
fn head_decode(config: &ModelConfig, rows: usize, element: Element) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, 1])?;
    let gain = head::gain(&mut b, config)?;
    let w = b.input("w", &[1, 1, rows, config.width])?;
    let h = norm(&mut b, config, 1, x, gain)?;
    let logits = linear(&mut b, w, h)?;
    let (logits, _) = capped(&mut b, logits, config.softcap)?;
    b.output("logits", logits)?;
    b.finish()
}

/// Name of the program of a plain layer.
const LAYER: &str = "layer_decode";

/// The kind of layer whose program decodes layer number `layer`: what a query sees is the mask's business.
fn kind_of(config: &ModelConfig, layer: usize) -> LayerKind {
    LayerKind { short: false, ..config.layer_kind(layer) }
}

/// All of them, in the order in which they first come.
fn kinds(config: &ModelConfig) -> Vec<LayerKind> {
    let mut kinds = Vec::new();
    for (kind, _) in config.layer_kinds() {
        let kind = LayerKind { short: false, ..kind };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// The shortest cache that is worth programs of its own.
const SHORTEST: usize = 64;

/// How many earlier tokens a layer's programs have caches for, and what is added to their names: a quarter of the sequence,
/// where that is not next to nothing, and all of it.
fn contexts(config: &ModelConfig) -> Vec<(&'static str, usize)> {
    let first = config.seq_len / 4;
    let mut all = vec![("", config.seq_len)];
    if first >= SHORTEST {
        all.insert(0, ("_first", first));
    }
    all
}

/// The model with caches for `context` tokens.
fn cached(config: &ModelConfig, context: usize) -> ModelConfig {
    ModelConfig { seq_len: context, ..config.clone() }
}

/// The programs of decoding, with the classifier in the tiles of `tiles`.
pub(crate) fn programs(
    config: &ModelConfig,
    element: Element,
    tiles: &[Range<usize>],
) -> mil::Result<Vec<Segment>> {
    let segment = |name: &str, program| Segment { name: name.to_owned(), program };
    let mut all = Vec::new();
    for (suffix, context) in contexts(config) {
        for kind in kinds(config) {
            let name = format!("{}{suffix}", kind.program_name(LAYER));
            all.push(segment(&name, layer_decode(&cached(config, context), kind, element)?));
        }
    }
    all.push(segment("head_decode", head_decode(config, tiles[0].len(), element)?));
    if let Some(rows) = tiles.last().map(Range::len).filter(|rows| *rows != tiles[0].len()) {
        all.push(segment("head_decode_last", head_decode(config, rows, element)?));
    }
    Ok(all)
}

/// Layers with caches for so many tokens.
struct Context {
    len: usize,
    layers: Vec<DecodeLayer>,
    /// What queries see, by window.
    masks: Vec<(Option<usize>, Buffer)>,
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
    /// From the shortest to the whole sequence.
    contexts: Vec<Context>,
    /// The one that holds the tokens so far.
    current: usize,
    /// Value embeddings of a layer and their port's buffer.
    ve: Vec<Option<(Vec<f32>, Buffer)>>,
    /// One for each vocabulary tile, with its logits.
    heads: Vec<(Invocation, Buffer)>,
    streams: Vec<Buffer>,
    angles: [Buffer; 2],
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
        let new = [alloc(&[1, config.kv_dim(), 1, 1])?, alloc(&[1, config.kv_dim(), 1, 1])?];
        let mut own = Vec::new();
        let mut ve = Vec::new();
        for at in 0..config.n_layers {
            let of_layer = parameters.iter().filter(|p| p.layer == Some(at) && !p.on_host_only(config));
            own.push(
                of_layer.map(|p| Ok((p.port, put(&p.name, &p.port_shape())?))).collect::<Result<Vec<_>>>()?,
            );
            let table = parameters
                .iter()
                .position(|p| p.layer == Some(at) && p.kind == ParameterKind::ValueEmbedding);
            ve.push(match table {
                None => None,
                Some(table) => Some((weights[table].clone(), alloc(&[1, config.kv_dim(), 1, 1])?)),
            });
        }
        // All of them at once: who is refused the longest is to know before the first token.
        let mut contexts_made = Vec::new();
        for (suffix, len) in contexts(config) {
            let mut masks: Vec<(Option<usize>, Buffer)> = Vec::new();
            for (kind, _) in config.layer_kinds() {
                let window = config.window_of(kind);
                if masks.iter().all(|(known, _)| *known != window) {
                    masks.push((window, alloc(&[1, 1, 1, len])?));
                }
            }
            let mut compiled: Vec<(LayerKind, Executable)> = Vec::new();
            for kind in kinds(config) {
                let program = layer_decode(&cached(config, len), kind, element)?;
                let name = format!("{}{suffix}", kind.program_name(LAYER));
                compiled.push((kind, device.compile(&name, &program)?));
            }
            let mut layers = Vec::new();
            for at in 0..config.n_layers {
                let cache = [1, config.kv_dim(), 1, len];
                let caches = [alloc(&cache)?, alloc(&cache)?];
                let window = config.window_of(config.layer_kind(at));
                let (_, mask) = masks.iter().find(|(known, _)| *known == window).expect("made above");
                let mut bindings: Vec<Binding<'_>> =
                    own[at].iter().map(|(port, buffer)| Binding::new(port, buffer)).collect();
                bindings.extend([
                    Binding::new("x", &streams[at]),
                    Binding::new("y", &streams[at + 1]),
                    Binding::new("cos", &angles[0]),
                    Binding::new("sin", &angles[1]),
                    Binding::new("k_cache", &caches[0]),
                    Binding::new("v_cache", &caches[1]),
                    Binding::new("mask", mask),
                    Binding::new("k", &new[0]),
                    Binding::new("v", &new[1]),
                ]);
                bindings.extend(config.x0_residual.then(|| Binding::new("x0", &streams[0])));
                bindings.extend(ve[at].as_ref().map(|(_, buffer)| Binding::new("ve", buffer)));
                let kind = kind_of(config, at);
                let (_, layer) = compiled.iter().find(|(known, _)| *known == kind).expect("compiled above");
                let run = layer.bind(&bindings)?;
                let empty = || vec![0.0; config.kv_dim() * len];
                layers.push(DecodeLayer { run, caches, host: [empty(), empty()] });
            }
            contexts_made.push(Context { len, layers, masks });
        }
        let c = config.width;
        let gain = config.norm_gain.then(|| put(FINAL_NORM, &[1, c, 1, 1])).transpose()?;
        let name = if config.tied { EMBEDDING } else { CLASSIFIER };
        let at = parameters.iter().position(|p| p.name == name).expect("a parameter of every model");
        let mut heads = Vec::new();
        // The classifier in the tiles of training: an axis has its limits here too.
        for rows in head::tiles(config.vocab_size, head::longest_tile(device.as_ref())) {
            let w = alloc(&[1, 1, rows.len(), c])?;
            w.write_f32(&weights[at][rows.start * c..rows.end * c])?;
            let logits = alloc(&[1, rows.len(), 1, 1])?;
            let mut bindings = vec![
                Binding::new("x", &streams[config.n_layers]),
                Binding::new("w", &w),
                Binding::new("logits", &logits),
            ];
            bindings.extend(gain.as_ref().map(|gain| Binding::new("norm", gain)));
            let program = head_decode(config, rows.len(), element)?;
            let run = device.compile("head_decode", &program)?.bind(&bindings)?;
            heads.push((run, logits));
        }
        let at = parameters.iter().position(|p| p.name == EMBEDDING).expect("a parameter of every model");
        let embedding = weights[at].clone();
        Ok(Decoder {
            config: config.clone(),
            embedding,
            contexts: contexts_made,
            current: 0,
            ve,
            heads,
            streams,
            angles,
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
        self.current = 0;
    }

    /// How many earlier tokens the caches in use have room for, all of which are read for each new one.
    pub fn context(&self) -> usize {
        self.contexts[self.current].len
    }

    /// Goes on with the next longer caches, which get what the present ones hold.
    fn lengthen(&mut self) -> Result<()> {
        let (done, rest) = self.contexts.split_at_mut(self.current + 1);
        let (from, to) = (&done[self.current], &mut rest[0]);
        let (short, long) = (from.len, to.len);
        let copy = |old: &[f32], new: &mut [f32]| {
            for (old, new) in old.chunks_exact(short).zip(new.chunks_exact_mut(long)) {
                new[..short].copy_from_slice(old);
            }
        };
        let mut old = vec![0.0; self.config.kv_dim() * short];
        for (from, to) in from.layers.iter().zip(&mut to.layers) {
            for at in 0..2 {
                if from.caches[at].map_f32(&mut |values| old.copy_from_slice(values)) {
                    to.caches[at].map_f32(&mut |new| copy(&old, new));
                } else {
                    copy(&from.host[at], &mut to.host[at]);
                    to.caches[at].write_f32(&to.host[at])?;
                }
            }
        }
        self.current += 1;
        Ok(())
    }

    /// Feeds one token; the logits of the next, `[V]`.
    ///
    /// # Errors
    /// [`Error::Batch`] when the context is full or the id is beyond the vocabulary,
    /// [`Error::Device`].
    pub fn feed(&mut self, id: u32) -> Result<Vec<f32>> {
        if self.position >= self.context() && self.current + 1 < self.contexts.len() {
            self.lengthen()?;
        }
        let (config, p) = (&self.config, self.position);
        let Context { len, layers, masks } = &mut self.contexts[self.current];
        if p >= *len {
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
        let mut row = row.to_vec();
        if config.embed_norm {
            normalize(&mut row, 1, config.norm_eps);
        }
        self.streams[0].write_f32(&row)?;
        let angles = |of: fn(f64) -> f64| -> Vec<f32> {
            (0..config.head_dim / 2).map(|pair| of(rope_angle(config, pair, p)) as f32).collect()
        };
        self.angles[0].write_f32(&angles(f64::cos))?;
        self.angles[1].write_f32(&angles(f64::sin))?;
        for (window, buffer) in &*masks {
            let visible = |key: usize| key < p && window.is_none_or(|window| p - key < window);
            let mask: Vec<f32> = (0..*len).map(|key| if visible(key) { 0.0 } else { MASKED }).collect();
            buffer.write_f32(&mask)?;
        }
        let mut column = vec![0.0; config.kv_dim()];
        for (layer, ve) in layers.iter_mut().zip(&self.ve) {
            if let Some((table, buffer)) = ve {
                buffer.write_f32(&table[id as usize * config.kv_dim()..][..config.kv_dim()])?;
            }
            layer.run.run()?;
            for ((cache, host), new) in layer.caches.iter().zip(&mut layer.host).zip(&self.new) {
                new.read_f32(&mut column)?;
                let put = |cache: &mut [f32]| {
                    column.iter().enumerate().for_each(|(channel, value)| cache[channel * *len + p] = *value);
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
