//! `anneal generate`: a trained model writes.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use cpu::CpuDevice;
use data::Vocabulary;
use device::Device;
use model::Decoder;
use serde_json::json;
use train::{Trained, load_trained};

use crate::args::GenerateArgs;
use crate::sampling::{Sampler, Sampling};
use crate::{Result, device_choice};

/// How a text is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writing {
    pub(crate) sampling: Sampling,
    pub(crate) seed: u64,
    pub(crate) max_tokens: usize,
}

/// Takes a text piece by piece, whole characters each.
pub(crate) type Emit<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

pub(crate) fn run(args: &GenerateArgs, out: &mut dyn Write) -> Result {
    let trained = load_trained(&args.run, args.checkpoint)?;
    for (path, why) in &trained.skipped {
        eprintln!("note: the checkpoint {} is passed over: {why}", path.display());
    }
    let choice = device_choice::open(&args.device, Some(&trained.config.device))?;
    let mut decoder = open_decoder(&trained, args.raw_weights, &choice.device)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k };
    for story in 0..args.stories {
        let writing = Writing { sampling, seed: args.seed.wrapping_add(story), max_tokens: args.max_tokens };
        if args.json {
            let mut text = args.prompt.clone();
            let tokens = write_text(&mut decoder, &trained, &args.prompt, &writing, &mut |piece| {
                text.push_str(piece);
                Ok(())
            })?;
            let step = trained.checkpoint.state.spent.steps;
            let mut object = json!({
                "text": text, "prompt": args.prompt, "tokens": tokens, "seed": writing.seed, "step": step,
            });
            object["checkpoint"] = json!(trained.checkpoint.path);
            writeln!(out, "{object}")?;
            continue;
        }
        if story > 0 {
            writeln!(out, "\n---\n")?;
        }
        write!(out, "{}", args.prompt)?;
        write_text(&mut decoder, &trained, &args.prompt, &writing, &mut |piece| {
            out.write_all(piece.as_bytes())?;
            Ok(out.flush()?)
        })?;
        writeln!(out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A decoder on `device`, or on the CPU when the device does not take the programs: an engine that trains
/// layers may still refuse the one that continues them.
pub(crate) fn open_decoder(trained: &Trained, raw: bool, device: &Arc<dyn Device>) -> Result<Decoder> {
    let (config, weights) = (&trained.config.model, trained.checkpoint.model_weights(raw));
    match Decoder::new(config, device, weights) {
        Err(model::Error::Device(refusal @ device::Error::Compile { .. }))
            if !device.name().starts_with("cpu") =>
        {
            eprintln!("note: the CPU writes, because {refusal}");
            let cpu: Arc<dyn Device> = Arc::new(CpuDevice::new(0));
            Ok(Decoder::new(config, &cpu, weights)?)
        }
        opened => Ok(opened?),
    }
}

/// Writes on from `prompt` until the model begins another document or `max_tokens` are written;
/// returns how many were. When the context is full, its second half becomes the new one.
pub(crate) fn write_text(
    decoder: &mut Decoder,
    trained: &Trained,
    prompt: &str,
    writing: &Writing,
    emit: Emit<'_>,
) -> Result<usize> {
    let tokenizer = &trained.tokenizer;
    let vocabulary = trained.vocabulary.as_deref();
    let row = |id: u32| vocabulary.map_or(id, |vocabulary| vocabulary.row(id));
    let mut sampler = Sampler::new(writing.sampling, writing.seed);
    let mut characters = Characters::default();
    // Rows of the model.
    let mut ids: Vec<u32> = tokenizer.encode_document(prompt).into_iter().map(row).collect();
    // Of a prompt that is too long the end counts.
    let kept = decoder.capacity() - decoder.capacity() / 4;
    let mut logits = feed_anew(decoder, &ids[ids.len().saturating_sub(kept.max(1))..])?;
    let mut written = 0;
    while written < writing.max_tokens {
        if let Some(shared) = vocabulary.and_then(Vocabulary::unseen_row) {
            // It stands for no token in particular.
            logits[shared as usize] = f32::NEG_INFINITY;
        }
        let id = sampler.choose(&logits);
        if id == row(tokenizer.bos_id()) {
            break;
        }
        written += 1;
        ids.push(id);
        let token = vocabulary.map_or(Some(id), |vocabulary| vocabulary.id(id));
        let text = characters.take(&tokenizer.decode_bytes(token.as_slice()));
        if !text.is_empty() {
            emit(&text)?;
        }
        logits = if decoder.position() < decoder.capacity() {
            decoder.feed(id)?
        } else {
            feed_anew(decoder, &ids[ids.len() - (decoder.capacity() / 2).max(1)..])?
        };
    }
    let rest = characters.finish();
    if !rest.is_empty() {
        emit(&rest)?;
    }
    Ok(written)
}

/// Logits after `ids` alone.
fn feed_anew(decoder: &mut Decoder, ids: &[u32]) -> model::Result<Vec<f32>> {
    decoder.reset();
    let mut logits = Vec::new();
    for id in ids {
        logits = decoder.feed(*id)?;
    }
    Ok(logits)
}

/// Makes characters of bytes that come token by token: one may be spread over several.
#[derive(Debug, Default)]
struct Characters(Vec<u8>);

impl Characters {
    /// All characters that are whole by now; bytes that cannot become one are U+FFFD.
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.0) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.0.clear();
                    return text;
                }
                Err(error) => {
                    let good = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.0[..good]));
                    let Some(bad) = error.error_len() else {
                        self.0.drain(..good);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.0.drain(..good + bad);
                }
            }
        }
    }

    /// What is left when no more bytes come.
    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole_however_their_bytes_come() {
        let text = "naïve 日本 🙂";
        for size in 1..5 {
            let mut characters = Characters::default();
            let mut joined: String =
                text.as_bytes().chunks(size).map(|bytes| characters.take(bytes)).collect();
            joined += &characters.finish();
            assert_eq!(joined, text);
        }
        let mut characters = Characters::default();
        assert_eq!(characters.take(b"a\xffb\xe6\x97"), "a\u{fffd}b");
        assert_eq!(characters.take(b"c"), "\u{fffd}c");
        assert_eq!(characters.take(b"\xf0\x9f"), "");
        assert_eq!(characters.finish(), "\u{fffd}");
    }
}
