//! The documents of a file of JSON lines.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::input::Input;
use crate::{Error, Result};

pub(super) struct JsonLines {
    input: Input,
    /// The field with the text.
    field: String,
    line: u64,
    offset: u64,
}

impl JsonLines {
    pub(super) fn new(input: Input, field: &str) -> Self {
        JsonLines { input, field: field.to_owned(), line: 0, offset: 0 }
    }

    /// The next line's text; blank lines count as empty documents. After an error about a line, the next one.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let offset = self.offset;
        let read = self.input.read_line(u64::MAX, &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.offset += read as u64;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(String::new()));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Utf8 {
            path: self.input.path.clone(),
            place: format!("line {}", self.line),
            offset: offset + e.valid_up_to() as u64,
            byte: bytes[e.valid_up_to()],
        })?;
        // Without its newline, after which a cut-off line would seem to go on.
        let mut json = serde_json::Deserializer::from_str(text.trim_end());
        let found = Field(&self.field).deserialize(&mut json).and_then(|text| json.end().map(|()| text));
        found.map(Some).map_err(|e| {
            // serde_json counts lines within what it was given, which is always one line.
            let why = e.to_string().replace(" at line 1 column", " at column");
            Error::JsonLine {
                path: self.input.path.clone(),
                line: self.line,
                offset,
                field: self.field.clone(),
                why,
            }
        })
    }
}

/// Takes one string field out of an object.
struct Field<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object with a string field `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        found.ok_or_else(|| serde::de::Error::custom(format_args!("missing field `{}`", self.0)))
    }
}
