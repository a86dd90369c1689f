//! Every program of a model, without a device.

use mil::{Element, Segment};

use crate::{Cut, ModelConfig, Result, Taps, decode, head, layer};

/// The programs that a model of `config` runs over `batch` sequences: those of each kind of layer, divided by
/// `cut`, those of the head, with the vocabulary in the longest tiles that `element` allows, and those
/// of decoding. A [`Stack`](crate::Stack) compiles the same, in the tiles that its device allows.
///
/// # Errors
/// When the configuration is invalid.
pub fn programs(
    config: &ModelConfig,
    cut: Cut,
    taps: Taps,
    batch: usize,
    element: Element,
) -> Result<Vec<Segment>> {
    config.validate()?;
    let tiles = head::tiles(config.vocab_size, head::longest_tile_in(element));
    let mut all = Vec::new();
    for (kind, _) in config.layer_kinds() {
        all.extend(cut.divide(&layer::joint(config, kind, batch, element)?, kind, taps)?);
    }
    for head::HeadProgram { name, rows, program, .. } in
        head::programs(config, batch * config.seq_len, &tiles, element)?
    {
        let is_last = rows.is_some_and(|rows| rows != tiles[0].len());
        let name = if is_last { format!("{name}_last") } else { name.to_owned() };
        all.push(Segment { name, program });
    }
    all.extend(decode::programs(config, element, &tiles)?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    /// Oracle: what [`crate::Stack`] and [`crate::Decoder`] compile, by their names.
    #[test]
    fn names_tell_the_programs_apart() {
        let names = |preset: &str, seq_len, cut| -> Vec<String> {
            let config = ModelConfig { seq_len, ..presets::by_name(preset).unwrap() };
            programs(&config, cut, Taps::Keep, 1, Element::F16).unwrap().into_iter().map(|s| s.name).collect()
        };
        assert_eq!(
            names("odd", 21, Cut::Whole),
            ["forward", "backward", "head_norm", "head_stats", "head", "layer_decode", "head_decode"]
        );
        let all = names("odd-all", 21, Cut::AttnFfn);
        for name in ["attn_forward_short", "attn_forward_short_ve", "ffn_backward_ve", "layer_decode_ve"] {
            assert!(all.iter().any(|known| known == name), "{name}: {all:?}");
        }
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
        // 151,936 rows are nine tiles of 15,194 and one of 15,190.
        assert_eq!(
            names("qwen3-0.6b", 16, Cut::AttnFfn)[4..],
            [
                "head_norm",
                "head_stats",
                "head_stats_last",
                "head_grad",
                "head_grad_last",
                "head_norm_grad",
                "layer_decode",
                "head_decode",
                "head_decode_last"
            ]
        );
    }
}
