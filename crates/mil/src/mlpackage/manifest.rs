//! `Manifest.json`: which items a package has, under identifiers that follow from their content.

use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Who the items belong to; Core ML looks for this one.
const AUTHOR: &str = "com.apple.CoreML";

/// The manifest of a package with this model and these large constants.
pub(super) fn write(model: &[u8], weights: Option<&[u8]>) -> String {
    let mut entries = serde_json::Map::new();
    let mut add = |name: &str, description: &str, content: &[u8]| {
        let key = identifier(name, content).to_string();
        let path = format!("{AUTHOR}/{name}");
        let entry = json!({ "author": AUTHOR, "description": description, "name": name, "path": path });
        entries.insert(key.clone(), entry);
        key
    };
    if let Some(weights) = weights {
        add("weights", "CoreML Model Weights", weights);
    }
    let root = add("model.mlmodel", "CoreML Model Specification", model);
    let manifest = json!({
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": root,
    });
    format!("{manifest:#}\n")
}

/// An identifier of version 8 (RFC 9562, section 5.8: of the writer's own making): the first bits of
/// the SHA-256 of an item's name and content.
fn identifier(name: &str, content: &[u8]) -> Uuid {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(content).finalize();
    let bytes = digest[..16].try_into().expect("a SHA-256 has 32 bytes");
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
